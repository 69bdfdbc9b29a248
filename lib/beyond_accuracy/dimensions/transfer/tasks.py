"""Probe tasks: which question is asked of which images, declared in a profile or a YAML list.

One form serves VTAB's tasks (the labels of a dataset of their own) and questions about a set whose images are described
by metadata (a column, cut into bins). A profile's page `transfer` names its tasks under `tasks`: a shipped list
(`vtab`, `mini_world`), or a list of VTAB names and mappings with the fields of `Task`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import unknown
from beyond_accuracy.dimensions.transfer import vtab

LEAST_PER_CLASS = 10
"""Classes with fewer images than this are left out of a metadata task: they can be neither learned nor tested."""


@dataclass(frozen=True)
class Task:
    """One question asked of frozen features."""

    name: str  # in results
    group: str  # `natural`, `specialized` or `structured`
    dataset: str = ""  # of the profile, whose features are probed
    title: str = ""  # in figures
    column: tuple[str, ...] = ()  # metadata that holds the answer, several are added up; empty: the dataset's labels
    bins: int = 0  # cut a numeric column into this many equally filled bins
    edges: tuple[float, ...] = ()  # or cut it at these values
    period: float = 0.0  # of an angle or the like: `edges` start the bins, and the last one ends at the first
    where: dict = field(default_factory=dict)  # keep images whose metadata has these values
    group_by: str = ""  # metadata of images that belong together (a scene), never divided between train and test
    test_share: float = 0.3  # of images held out, where the dataset comes in one piece (no `split` column)
    zero_shot: bool = False  # CLIP is asked in words, too (needs the dataset's own labels)

    @property
    def label(self) -> str:
        """Title, or the name made readable."""
        return self.title or self.name.replace("_", " ")


@dataclass(frozen=True)
class TaskData:
    """The images of one task, in the order of the features they are probed on."""

    task: Task
    rows: NDArray[np.int64]  # (n,) positions among the dataset's features
    labels: NDArray[np.int64]  # (n,) 0..k-1
    names: tuple[str, ...]  # (k,) what the labels mean
    groups: NDArray  # (n,) image id, or what several images share
    fold: NDArray  # (n,) `train`, `validation` or `test`

    @property
    def pool(self) -> int:
        """Images to train and select on."""
        return int(np.sum(self.fold != "test"))

    @property
    def chance(self) -> float:
        """Expected percent correct of guessing one of the classes at random."""
        return 100 / len(self.names)

    @property
    def majority(self) -> float:
        """Percent of test images in the class that is most frequent among the training images."""
        train = self.labels[self.fold != "test"]
        return 100 * float(np.mean(self.labels[self.fold == "test"] == np.bincount(train).argmax()))


def parse_tasks(spec: object, where: str = "tasks") -> list[Task]:
    """Tasks from a profile: the name of a shipped list, or a list of VTAB names and mappings.

    Raises:
        InputError: An unknown name or key, a missing name, or a value of the wrong kind.
    """
    if isinstance(spec, str):
        path = ASSETS / "tasks" / f"{spec}.yaml"
        known = ["vtab", *sorted(p.stem for p in path.parent.glob("*.yaml"))]
        if spec not in known:
            raise InputError(f"{where}: {unknown('task list', spec, known)}")
        spec = list(vtab.tasks()) if spec == "vtab" else yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(spec, Sequence) or not spec:
        raise InputError(f"{where}: expected a list of tasks or the name of one, got {spec!r}")
    found = [_parse(item, f"{where}[{i}]") for i, item in enumerate(spec)]
    names = [task.name for task in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{where}: task {', '.join(sorted(repeated))} is listed twice")
    return found


def _parse(item: object, where: str) -> Task:
    if isinstance(item, str):
        if item not in vtab.tasks():
            raise InputError(f"{where}: {unknown('VTAB task', item, vtab.tasks())}")
        item = {"name": item, "zero_shot": True}
    if not isinstance(item, Mapping) or "name" not in item:
        raise InputError(f"{where}: expected a VTAB name or a mapping with `name`, got {item!r}")
    keys = {f.name for f in fields(Task)}
    for key in item:
        if key not in keys:
            raise InputError(f"{where}: {unknown('key', str(key), sorted(keys))}")
    name = str(item["name"])
    known = vtab.tasks().get(name)
    values = {"dataset": name} | ({"group": known.group, "title": known.title} if known else {}) | dict(item)
    if values.get("group") not in vtab.GROUPS:
        raise InputError(f"{where}: group of {name!r}: expected one of {', '.join(vtab.GROUPS)}")
    column = values.get("column", ())
    values["column"] = (column,) if isinstance(column, str) else tuple(column)
    values["edges"] = tuple(float(edge) for edge in values.get("edges", ()))
    task = Task(**values)
    if (task.bins or task.edges) and not task.column:
        raise InputError(f"{where}: {name!r} has bins but no column to cut")
    if task.bins and task.edges:
        raise InputError(f"{where}: {name!r} has both bins and edges; give one")
    if list(task.edges) != sorted(set(task.edges)):
        raise InputError(f"{where}: edges of {name!r} must ascend, got {list(task.edges)}")
    return task


def bin_labels(values: NDArray, task: Task) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and their meaning from the values of a column, by the task's bins, or every distinct value a class.

    Raises:
        InputError: A numeric column has missing values, or bins coincide.

    >>> labels, names = bin_labels(np.array([350.0, 10.0, 100.0]), Task("t", "structured", edges=(0, 90), period=360))
    >>> labels.tolist(), names
    ([1, 0, 1], ('0 to 90', '90 to 360'))
    """
    if not task.bins and not task.edges:
        names, labels = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, names))
    numbers = values.astype(float)
    if np.isnan(numbers).any():
        raise InputError(f"task {task.name}: {int(np.isnan(numbers).sum())} of {len(numbers)} values are missing")
    if task.edges and task.period:
        start = np.array(task.edges)
        labels = np.searchsorted(start - start[0], (numbers - start[0]) % task.period, side="right") - 1
        ends = [*task.edges[1:], task.edges[0] + task.period]
        return labels.astype(np.int64), tuple(f"{a:g} to {b:g}" for a, b in zip(start, ends, strict=True))
    edges = np.array(task.edges) if task.edges else np.quantile(numbers, np.arange(1, task.bins) / task.bins)
    if len(np.unique(edges)) < len(edges):
        raise InputError(f"task {task.name}: {task.bins} equally filled bins do not exist, too many values are equal")
    names = [f"below {edges[0]:.3g}", *(f"{a:.3g} to {b:.3g}" for a, b in zip(edges, edges[1:], strict=False))]
    return np.digitize(numbers, edges).astype(np.int64), (*names, f"from {edges[-1]:.3g}")


def task_data(
    task: Task, ids: NDArray, targets: NDArray | list, metadata: pd.DataFrame, class_names: Sequence[str] = ()
) -> TaskData:
    """Labels, groups and folds of a task.

    Args:
        task: The task.
        ids: (n,) image ids in the order of the features.
        targets: (n,) labels of the dataset, or a list of arrays for multi-label sets.
        metadata: Frame indexed by id; a column `split` (train, validation, test) is the published split.
        class_names: Names of the dataset's labels.

    Raises:
        InputError: A column that is not there, labels a task cannot have, or no images left.
    """
    frame = metadata.loc[ids]
    for column in (*task.column, *task.where, *([task.group_by] if task.group_by else [])):
        if column not in frame:
            problem = unknown("metadata column", column, frame.columns)
            raise InputError(f"task {task.name}: {problem} of dataset {task.dataset}")
    keep = np.ones(len(ids), dtype=bool)
    for column, wanted in task.where.items():
        keep &= frame[column].isin(wanted if isinstance(wanted, list) else [wanted]).to_numpy()
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise InputError(f"task {task.name}: no image of {task.dataset} has {task.where}")
    if task.column:
        columns = frame.iloc[rows][list(task.column)]
        summed = columns.sum(axis=1) if len(task.column) > 1 else columns.iloc[:, 0]
        labels, names = bin_labels(summed.to_numpy(), task)
        kept = np.bincount(labels, minlength=len(names)) >= LEAST_PER_CLASS
        chosen = kept[labels]
        rows, labels = rows[chosen], (np.cumsum(kept) - 1)[labels[chosen]]
        names = tuple(name for name, good in zip(names, kept, strict=True) if good)
    else:
        labels, names = _own_labels(task, targets, rows, class_names)
    if len(names) < 2 or len(np.unique(labels)) < 2:
        least = f"at least two classes with {LEAST_PER_CLASS} images in {task.dataset}"
        raise InputError(f"task {task.name}: needs {least}")
    part = frame.iloc[rows]
    groups = part[task.group_by].astype(str).to_numpy() if task.group_by else np.asarray(ids)[rows].astype(str)
    fold = part["split"].to_numpy(str) if "split" in part else vtab.hold_out(groups, task.test_share)
    for name in ("train", "test"):
        if not (fold == name).any():
            raise InputError(f"task {task.name}: dataset {task.dataset} has no {name} images")
    return TaskData(task, rows, labels, names, groups, fold)


def _own_labels(task: Task, targets, rows, class_names) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if isinstance(targets, list):
        raise InputError(f"task {task.name}: images of {task.dataset} have several labels; name a metadata column")
    labels, known = np.asarray(targets, np.int64)[rows], vtab.tasks().get(task.name)
    if known is None:
        return labels, tuple(class_names) or tuple(map(str, range(int(labels.max()) + 1)))
    names = tuple(class_names) if len(class_names) == known.scored_classes else map(str, range(known.scored_classes))
    return known.merge(labels), tuple(names)
