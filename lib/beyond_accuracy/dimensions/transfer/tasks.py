"""Probe tasks: which question is asked of which images, and how they are split.

One form serves the 19 tasks of the Visual Task Adaptation Benchmark (Zhai et al. 2019; counts, class merges and traps
are those of its own test files, google-research/task_adaptation) and questions about images that metadata describe (a
column, cut into bins). Every draw of a split is a function of a seed and the images' groups, the same for all models.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import unknown
from beyond_accuracy.dimensions.transfer.probe import Split, chunks

GROUPS = ("natural", "specialized", "structured")
PROTOCOLS = {
    "vtab_full": "all training images; C chosen on validation images, refit on both",
    "vtab_1k": "1,000 images drawn by seed: 800 to train, 200 to choose C, refit on both (VTAB-1k takes the first "
    "1,000 in its own file order, which the public mirrors do not keep)",
}
LEAST_PER_CLASS = 10  # a column's classes of fewer images are left out: they can be neither learned nor tested
LEAK = 0.9  # share of test images found among the training images above which train and test are the same set


@lru_cache
def vtab() -> dict:
    """The 19 tasks by name, in the order of `GROUPS`: rows of `vtab.csv`."""
    table = pd.read_csv(ASSETS / "vtab.csv", keep_default_na=False)
    return {row.name: row for row in table.itertuples(index=False, name="Vtab")}


def scored_labels(name: str, labels: ArrayLike) -> NDArray[np.int64]:
    """Stored labels of a task to scored ones: dSprites groups neighbouring values, as VTAB does; others stay.

    >>> scored_labels("dsprites_orientation", [0, 2, 3, 39]).tolist()
    [0, 0, 1, 15]
    """
    labels = np.asarray(labels, np.int64)
    if (task := vtab().get(name)) is None:
        return labels
    if labels.size and (labels.min() < 0 or labels.max() >= task.classes):
        raise InputError(f"{name}: label {labels.max()} with {task.classes} classes")
    return labels * task.scored_classes // task.classes


@dataclass(frozen=True)
class Task:
    """One question asked of frozen features."""

    name: str  # in results
    group: str  # one of `GROUPS`
    dataset: str = ""  # of the profile, whose features are probed
    title: str = ""  # in figures
    column: str = ""  # metadata that holds the answer; empty: the dataset's labels
    bins: int = 0  # cut a numeric column into this many equally filled bins
    edges: tuple[float, ...] = ()  # or cut it at these values
    period: float = 0.0  # of an angle or the like: `edges` start the bins, and the last one ends at the first
    where: dict = field(default_factory=dict)  # keep images whose metadata has these values
    group_by: str = ""  # metadata of images that belong together (a scene), never divided between train and test
    trained: str = ""  # which models were partly trained on the answer, and by what
    zero_shot: bool = False  # CLIP is asked in words, too (needs the dataset's own labels)

    @property
    def label(self) -> str:
        """Title, or the name made readable."""
        return self.title or self.name.replace("_", " ")


class TaskData(NamedTuple):
    """The images of one task, in the order of the features they are probed on."""

    task: Task
    rows: NDArray[np.int64]  # (n,) positions among the dataset's features
    labels: NDArray[np.int64]  # (n,) 0..k-1
    names: tuple[str, ...]  # (k,) what the labels mean
    groups: NDArray  # (n,) image id, or what several images share; never split
    fold: NDArray  # (n,) `train`, `validation` or `test`, as published

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
        most = np.bincount(self.labels[self.fold != "test"]).argmax()
        return 100 * float(np.mean(self.labels[self.fold == "test"] == most))


def parse_tasks(spec: object, where: str = "tasks") -> list[Task]:
    """Tasks from a profile: the name of a shipped list, or a list of VTAB names and mappings."""
    if isinstance(spec, str):
        path = ASSETS / "tasks" / f"{spec}.yaml"
        known = ["vtab", *sorted(p.stem for p in path.parent.glob("*.yaml"))]
        if spec not in known:
            raise InputError(f"{where}: {unknown('task list', spec, known)}")
        spec = list(vtab()) if spec == "vtab" else yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(spec, Sequence) or not spec:
        raise InputError(f"{where}: expected a list of tasks or the name of one, got {spec!r}")
    found = [_parse(item, f"{where}[{i}]") for i, item in enumerate(spec)]
    names = [task.name for task in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{where}: task {', '.join(sorted(repeated))} is listed twice")
    return found


def _need(fits: object, problem: str) -> None:
    if not fits:
        raise InputError(problem)


def _parse(item: object, where: str) -> Task:
    if isinstance(item, str):
        _need(item in vtab(), f"{where}: {unknown('VTAB task', item, vtab())}")
        item = {"name": item, "zero_shot": True}
    named = isinstance(item, Mapping) and "name" in item
    _need(named, f"{where}: expected a VTAB name or a mapping with `name`, got {item!r}")
    keys = {f.name for f in fields(Task)}
    if wrong := [key for key in item if key not in keys]:
        raise InputError(f"{where}: {unknown('key', str(wrong[0]), sorted(keys))}")
    name = str(item["name"])
    known = vtab().get(name)
    values = {"dataset": name} | ({"group": known.group, "title": known.title} if known else {}) | dict(item)
    _need(values.get("group") in GROUPS, f"{where}: group of {name!r}: expected one of {', '.join(GROUPS)}")
    task = Task(**values | {"edges": tuple(map(float, values.get("edges", ())))})
    _need(task.column or not (task.bins or task.edges), f"{where}: {name!r} has bins but no column to cut")
    _need(not (task.bins and task.edges), f"{where}: {name!r} has both bins and edges; give one")
    edges = list(task.edges)
    _need(edges == sorted(set(edges)), f"{where}: edges of {name!r} must ascend, got {edges}")
    return task


def bin_labels(values: NDArray, task: Task) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and their meaning from the values of a column, by the task's bins, or every distinct value a class.

    >>> labels, names = bin_labels(np.array([350.0, 10.0, 100.0]), Task("t", "structured", edges=(0, 90), period=360))
    >>> labels.tolist(), names
    ([1, 0, 1], ('0 to 90', '90 to 360'))
    """
    if not task.bins and not task.edges:
        names, labels = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, names))
    numbers = values.astype(float)
    missing = np.isnan(numbers).sum()
    _need(not missing, f"task {task.name}: {missing} of {len(numbers)} values are missing")
    edges = np.array(task.edges) if task.edges else np.quantile(numbers, np.arange(1, task.bins) / task.bins)
    if task.period and task.edges:
        labels = np.digitize((numbers - edges[0]) % task.period, edges - edges[0]) - 1
        return labels, tuple(f"{a:g} to {b:g}" for a, b in pairwise([*edges, edges[0] + task.period]))
    equal = f"task {task.name}: {task.bins} equally filled bins do not exist, too many values are equal"
    _need(len(np.unique(edges)) == len(edges), equal)
    between = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return np.digitize(numbers, edges), (f"below {edges[0]:.3g}", *between, f"from {edges[-1]:.3g}")


def task_data(
    task: Task, ids: NDArray, targets: NDArray | list, metadata: pd.DataFrame, class_names: Sequence[str] = ()
) -> TaskData:
    """Labels, groups and folds of a task on a dataset's (n,) ids and targets, in the order of its features.

    A metadata column `split` (train, validation, test) is the published split; targets are a list of arrays for
    multi-label sets.
    """
    about, frame, known = f"task {task.name}: ", metadata.loc[ids], vtab().get(task.name)
    for column in filter(None, (task.column, *task.where, task.group_by)):
        no_column = unknown("metadata column", column, frame.columns)
        _need(column in frame, f"{about}{no_column} of dataset {task.dataset}")
    keep = np.ones(len(ids), dtype=bool)
    for column, wanted in task.where.items():
        keep &= frame[column].isin(wanted if isinstance(wanted, list) else [wanted]).to_numpy()
    rows = np.flatnonzero(keep)
    _need(len(rows), f"{about}no image of {task.dataset} has {task.where}")
    if task.column:
        labels, names = bin_labels(frame[task.column].to_numpy()[rows], task)
        kept = np.bincount(labels, minlength=len(names)) >= LEAST_PER_CLASS
        chosen = kept[labels]
        rows, labels, names = rows[chosen], (np.cumsum(kept) - 1)[labels[chosen]], np.array(names)[kept].tolist()
    else:
        several = f"images of {task.dataset} have several labels; name a metadata column"
        _need(not isinstance(targets, list), about + several)
        labels = scored_labels(task.name, np.asarray(targets)[rows])
        count = known.scored_classes if known else len(class_names) or int(labels.max()) + 1
        names = class_names if len(class_names) == count else map(str, range(count))
    names = tuple(names)
    enough = len(names) > 1 and len(np.unique(labels)) > 1
    _need(enough, f"{about}needs at least two classes with {LEAST_PER_CLASS} images in {task.dataset}")
    part = frame.iloc[rows]
    by = task.group_by or "unit" * ("unit" in part)  # copies and groups of one's own images
    groups = part[by].astype(str).to_numpy() if by else np.asarray(ids)[rows].astype(str)
    fold = part["split"].replace("val", "validation").to_numpy(str) if "split" in part else np.full(len(rows), "")
    fold = fold if (fold != "").any() else hold_out(groups)
    for name in ("train", "test"):
        _need((fold == name).any(), f"{about}dataset {task.dataset} has no {name} images")
    return TaskData(task, rows, labels, names, groups, fold)


# Splits: `labels`, `groups` and `fold` as in `TaskData` ---------------------------------------------------------------


def hold_out(groups: ArrayLike, share: float = 0.3) -> NDArray[np.str_]:
    """Folds of sets that were published in one piece: a fixed share of groups is `test`, the rest `train`.

    By a hash of the group's name, the same for every model, seed and subset: no test group is ever trained on.
    """
    names, inverse = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    drawn = np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) for name in names])
    return np.where(drawn < int(share * 2**32), "test", "train")[inverse]


def draw_split(
    labels: NDArray, groups: NDArray, fold: NDArray, protocol: str, seed: int, validation_share: float = 0.2
) -> Split:
    """Training, validation and test rows of one probe.

    ``vtab_full`` uses the published validation images with seed 0; other seeds, and sets without any, draw as many from
    training and validation together (a share of both where none are published), stratified by labels where that is
    possible. ``vtab_1k`` draws 800 + 200. ValueError where the protocol is unknown or there are too few images.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(unknown("protocol", protocol, PROTOCOLS))
    train, validation, test = (np.flatnonzero(fold == part) for part in ("train", "validation", "test"))
    pool, rng = np.concatenate([train, validation]), np.random.default_rng([seed, 0x57AB])
    if protocol == "vtab_1k":
        if len(validation) >= 200 and len(train) >= 800:
            train, validation = rng.choice(train, 800, replace=False), rng.choice(validation, 200, replace=False)
        elif len(pool) >= 1000:
            train, validation = _divide(rng.choice(pool, 1000, replace=False), labels, groups, 200, rng)
        else:
            raise ValueError(f"vtab_1k needs 1,000 training images, there are {len(pool)}")
    elif seed != 0 or len(validation) == 0:
        wanted = len(validation) or max(1, round(validation_share * len(pool)))
        train, validation = _divide(pool, labels, groups, wanted, rng)
    return Split(np.sort(train), np.sort(validation), test, groups)


def _divide(rows, labels, groups, wanted, rng):
    """Split rows into training and `wanted` validation rows: whole groups, else stratified, else at random."""
    state = int(rng.integers(2**31))
    if len(np.unique(groups[rows])) < len(rows):
        splitter = GroupShuffleSplit(1, test_size=wanted / len(rows), random_state=state)
        return [rows[part] for part in next(splitter.split(rows, groups=groups[rows]))]
    counts = np.unique(labels[rows], return_counts=True)[1]
    stratify = labels[rows] if counts.min() >= 2 and len(counts) <= min(wanted, len(rows) - wanted) else None
    return train_test_split(rows, test_size=wanted, random_state=state, stratify=stratify)


def draw_few_shot(labels: NDArray, groups: NDArray, fold: NDArray, shots: int, seed: int) -> Split:
    """``shots`` training and min(shots, 4) validation images per class, from different groups; all test images.

    Where images share groups, a third of the groups is for validation, and a class takes at most one image of a group.
    ValueError where a class has too few images.
    """
    rng, wanted = np.random.default_rng([seed, shots, 0xFE35]), min(shots, 4)
    pool = rng.permutation(np.flatnonzero(fold != "test"))
    names, member = np.unique(groups[pool], return_inverse=True)
    selecting = rng.permutation(len(names)) < len(names) // 3
    table = pd.DataFrame({"row": pool, "label": labels[pool], "group": member, "held": selecting[member]})
    if len(names) < len(pool):
        table = table.drop_duplicates(["label", "group"])
    else:
        table["held"] = table.groupby("label").cumcount() >= shots
    held = table.groupby("label")["held"].agg(["size", "sum"])
    for label, size in held["size"][(held["size"] - held["sum"] < shots) | (held["sum"] < wanted)].items():
        raise ValueError(f"class {label} has {size} training images, {shots} shots need more")
    train, validation = (
        np.sort(part.groupby("label").head(count)["row"].to_numpy())
        for part, count in ((table[~table["held"]], shots), (table[table["held"]], wanted))
    )
    return Split(train, validation, np.flatnonzero(fold == "test"), groups)


def has_shots(labels: NDArray, groups: NDArray, fold: NDArray, shots: int, seeds: Iterable[int] = (0,)) -> bool:
    """Whether every class has enough training images for so many shots, whatever the seed."""
    try:
        return all(draw_few_shot(labels, groups, fold, shots, seed) for seed in seeds)
    except ValueError:
        return False


def refuse_leak(features: NDArray, split: Split, name: str, limit: int = 5_000) -> float:
    """Share of (up to ``limit``) test images whose feature vector also occurs, bit for bit, among the training images.

    Ids tell whether the same file is used twice; this finds copies under another name. Some sets hold equal images by
    design (a square looks the same after a quarter turn); near 1 it is the SUN397 trap: ValueError at `LEAK` and above.
    """

    def digests(rows: NDArray) -> list[int]:
        return [hash(row.tobytes()) for part in chunks(rows, features.shape[1]) for row in features[part]]

    seen = {*digests(split.train), *digests(split.validation)}
    test = split.test[:: max(1, len(split.test) // limit)]
    share = float(np.mean([digest in seen for digest in digests(test)]))
    if share >= LEAK:
        raise ValueError(
            f"{name}: {100 * share:.0f} % of the test images are also training images (as in the public SUN397 mirror "
            "that has one split only); get the published train and test splits"
        )
    return share
