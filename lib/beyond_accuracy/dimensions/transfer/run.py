"""Runs the probes of a page, and asks CLIP in words.

A probe's outcome is kept in the store under a key of its features, task, setting and seed: it is fitted once.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import code_digest, load_arrays, save_arrays
from beyond_accuracy.base.profile import unknown
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.dimensions.transfer import tasks
from beyond_accuracy.dimensions.transfer.probe import Settings, Split, chunks, run_probe
from beyond_accuracy.dimensions.transfer.scores import Runs
from beyond_accuracy.dimensions.transfer.tasks import Task, TaskData, vtab
from beyond_accuracy.inference.store import make_key

if TYPE_CHECKING:
    from beyond_accuracy.data.dataset import ImageDataset
    from beyond_accuracy.inference.outputs import Features
    from beyond_accuracy.page import Page

# Code that decides an outcome: when it changes, stored outcomes are fitted anew
CODE = (
    *("dimensions/transfer/probe.py:run_probe", "dimensions/confidence.py:fit_temperature"),
    *("dimensions/transfer/run.py:_fitted", "dimensions/transfer/run.py:_split"),
    *("dimensions/transfer/tasks.py:draw_split", "dimensions/transfer/tasks.py:draw_few_shot"),
)
# CLIP's layers, after and before the projection into the space it shares with text; timm models have `pre_logits`
PROJECTED, TRUNK = "projected", "trunk"


class Bench:
    """The tasks of a page whose data is here, with every network's features of them."""

    def __init__(self, page: "Page", only: str = "", protocols: str = "", seeds: int = 3, device: str = "cpu"):
        """Loads the tasks that the page's role `tasks` names, or `only` some; those that cannot be are listed as such.

        `protocols`: keys of `tasks.PROTOCOLS`, the main one first; the profile's if empty. Lists have commas.
        """
        known, wanted = {task.name: task for task in tasks.parse_tasks(page.role("tasks"))}, _listed(only)
        if missing := [name for name in wanted if name not in known]:
            raise InputError(unknown("task", missing[0], known))
        chosen = [task for name, task in known.items() if name in (wanted or known)]
        self.page, self.seeds, self.settings = page, range(seeds), Settings(device=device)
        self.protocols = _listed(protocols) or page.roles.get("protocols", list(tasks.PROTOCOLS))
        self.folder = page.store.root / "probes"
        self.tasks: list[tuple[TaskData, dict[str, Features]]] = []
        errors: dict[str, Exception] = {}  # one bad set costs its own tasks, not the page
        for task in chosen:
            try:
                data, found = load_task(page, task)
                if setting := possible_setting(data, self.protocols[0], self.seeds):
                    _split(data, setting, self.seeds[0])  # a task that cannot be split as it should is left out as well
                self.tasks.append((data, found))
            except (DataMissing, InputError, ValueError) as error:
                errors.setdefault(str(error), error)
        page.skipped += errors
        if not self.tasks:
            kind = DataMissing if any(isinstance(error, DataMissing) for error in errors.values()) else InputError
            raise kind("; ".join(errors))
        self.layers = {model: layer_of(found, PROJECTED) for model, found in self.tasks[0][1].items()}

    def overview(self) -> pd.DataFrame:
        """Rows `task, group, dataset, classes, train, test, chance, majority`, the last two in percent."""
        columns = ["task", "group", "dataset", "classes", "train", "test", "chance", "majority"]
        rows = []
        for d, _ in self.tasks:
            test = len(d.rows) - d.pool
            rows.append((d.task.label, d.task.group, d.task.dataset, len(d.names), d.pool, test, d.chance, d.majority))
        return pd.DataFrame(rows, columns=columns)

    def probe(self, setting: str = "", layer: str = PROJECTED) -> list[Runs]:
        """Probes of every task that allows the setting (default: the main protocol); `TRUNK`: of CLIP models alone."""
        # a handful of images cannot tell closer fits apart
        rough = replace(self.settings, tolerance=2e-3, sweep_tolerance=2e-3, sweep_iterations=200)
        settings, runs = rough if setting.startswith("shots=") else self.settings, []
        for data, features in self.tasks:
            possible = possible_setting(data, setting or self.protocols[0], self.seeds)
            models = {m: found for m, found in features.items() if layer == PROJECTED or layer in found.layers}
            if possible and models:
                runs.append(probe_task(data, models, possible, self.seeds, settings, layer, self.folder))
        return runs

    def zero_shot(self) -> list[Runs]:
        """Zero-shot answers of CLIP models, for the tasks whose classes have names."""
        runs = (zero_shot(self.page, data, found, self.folder) for data, found in self.tasks)
        return [run for run in runs if run is not None]


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def layer_of(found: "Features", wanted: str) -> str:
    """The layer that stands for a model: the wanted one, else the only one it has."""
    return wanted if wanted in found.layers else next(iter(found.layers))


def load_task(page: "Page", task: Task) -> tuple[TaskData, dict[str, "Features"]]:
    """The images of a task and every model's features of them."""
    features = page.features(task.dataset)
    if not features:
        raise InputError(f"task {task.name}: no model of this run has features (imported predictions have none)")
    first, dataset = next(iter(features.values())), page.dataset(task.dataset)
    if other := [found.model for found in features.values() if not np.array_equal(found.ids, first.ids)]:
        raise InputError(f"task {task.name}: {first.model} and {other[0]} saw different images of {task.dataset}")
    names = dataset.classes.names if dataset.classes is not None else ()
    return tasks.task_data(task, first.ids, first.targets, dataset.metadata, names), features


def possible_setting(data: TaskData, setting: str, seeds: Sequence[int] = (0,)) -> str:
    """The setting; `vtab_full` where VTAB-1k asks for too many images; empty where a class has too few for shots."""
    if setting.startswith("shots="):
        shots = int(setting.removeprefix("shots="))
        return setting if tasks.has_shots(data.labels, data.groups, data.fold, shots, seeds) else ""
    return "vtab_full" if setting == "vtab_1k" and data.pool < 1000 else setting


def probe_task(
    data: TaskData, features: Mapping[str, "Features"], setting: str, seeds: Sequence[int], settings: Settings,
    layer: str, folder: Path,
) -> Runs:  # fmt: skip
    """Probe one task with every model; InputError where the split is impossible or leaks (see `tasks`).

    The setting is a key of `tasks.PROTOCOLS`, or `shots=<k>`; seeds are of the splits, which test on the same images;
    the layer is probed where a model has it; outcomes are kept in the folder.
    """
    task, correct, notes = data.task, {}, []
    try:
        splits = {seed: _split(data, setting, seed) for seed in seeds}
        for model, found in features.items():
            name, right = layer_of(found, layer), []
            for seed, split in splits.items():
                path = folder / f"{outcome_key(found, name, data, setting, seed, settings)}.npz"
                outcome = kept(path, lambda f=found.layers[name], s=split: _fitted(f, data, s, settings))
                right.append(outcome.pop("correct"))
                notes.append({"model": model, "layer": name} | {k: v.item() for k, v in outcome.items()})
            correct[model] = np.array(right)
    except ValueError as error:
        raise InputError(f"task {task.name}, {setting}: {error}") from error
    fitted, groups = len(split.train) + len(split.validation), data.groups[split.test]
    return Runs(task, setting, correct, groups, fitted, data.pool, data.chance, pd.DataFrame(notes))


def _split(data: TaskData, setting: str, seed: int) -> Split:
    if setting.startswith("shots="):
        return tasks.draw_few_shot(data.labels, data.groups, data.fold, int(setting.removeprefix("shots=")), seed)
    known = vtab().get(data.task.name)
    share = known.validation / (known.train + known.validation) if known else 0.2
    return tasks.draw_split(data.labels, data.groups, data.fold, setting, seed, share)


def _fitted(layer: NDArray, data: TaskData, split: Split, settings: Settings) -> dict:
    values = layer if len(data.rows) == len(layer) else _Some(layer, data.rows)
    tasks.refuse_leak(values, split, data.task.name)
    return run_probe(values, data.labels, split, settings)._asdict()


class _Some:
    """Some rows of a mapped array, without copying them: looks like the array of those rows."""

    def __init__(self, array: NDArray, rows: NDArray[np.int64]):
        self._array, self._rows, self.shape = array, rows, (len(rows), array.shape[1])

    def __getitem__(self, index):
        return self._array[self._rows[index]]


def outcome_key(found: "Features", layer: str, data: TaskData, setting: str, seed: int, settings: Settings) -> str:
    """Name of a stored outcome: a hash of all that it depends on."""
    task_hash = hashlib.sha256()
    for array in (data.rows, data.labels, data.fold.astype("U10"), data.groups.astype("U")):
        task_hash.update(np.ascontiguousarray(array).tobytes())
    fit = {name: value for name, value in asdict(settings).items() if name != "device"}
    parts = {"probe": code_digest(*CODE), "features": found.meta.get("key"), "layer": layer, "setting": setting}
    return make_key(parts | {"task": task_hash.hexdigest(), "seed": int(seed), "fit": fit})


def kept(path: Path, make: Callable[[], Mapping]) -> dict[str, NDArray]:
    """Named arrays from a file; what is not there is made and kept."""
    if (stored := load_arrays(path)) is None:
        stored = {name: np.asarray(values) for name, values in make().items()}
        save_arrays(path, stored)
    return stored


def zero_shot(page: "Page", data: TaskData, features: Mapping, folder: Path) -> Runs | None:
    """Zero-shot correctness of the CLIP models on a task's test images, from stored features and encoded class names.

    None where there is no CLIP model, the set has no class names, or the task asks something else.
    """
    test, name, correct, classes = data.fold == "test", data.task.name, {}, prompts_of(page.dataset(data.task.dataset))
    if classes is None or not data.task.zero_shot:
        return None
    rows = data.rows[test]
    for model, each in features.items():
        if PROJECTED not in each.layers:
            continue
        targets = np.asarray(each.targets, np.int64)[rows]
        if targets.max() >= len(classes):
            raise InputError(f"{data.task.dataset}: label {targets.max()}, but only {len(classes)} class names")
        key = make_key({"zero_shot": 1, "features": each.meta.get("key"), "prompts": classes.prompt_hash})
        head = kept(folder / f"{key}.npz", lambda model=model: {"head": text_head(page, model, classes)})["head"]
        said = answers(each.layers[PROJECTED], head, rows)
        correct[model] = (tasks.scored_labels(name, said) == tasks.scored_labels(name, targets))[None, :]
    return Runs(data.task, "zero_shot", correct, data.groups[test], chance=data.chance) if correct else None


def prompts_of(dataset: "ImageDataset") -> ClassSpace | None:
    """Class names and templates of a set: its class space, or the files beside its shards; None without either."""
    if dataset.classes is not None:
        return dataset.classes
    root = Path(dataset.source)
    names, templates = root / "classnames.txt", root / "zeroshot_classification_templates.txt"
    if not (names.is_file() and templates.is_file()):
        return None
    lines = templates.read_text(encoding="utf-8").splitlines()
    if wrong := [line for line in lines or ["none"] if "{c}" not in line]:
        raise InputError(f"{templates}: every line needs the placeholder {{c}}, found {wrong[0]!r}")
    # an empty line is a class name too (one VTAB task has one)
    classes = tuple(names.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    return ClassSpace(dataset.name, tuple(map(str, range(len(classes)))), classes, tuple(lines))


def text_head(page: "Page", model: str, classes: ClassSpace) -> NDArray[np.float32]:
    """The zero-shot classifier of a CLIP model: (width, n_classes), columns of length 1."""
    import torch

    from beyond_accuracy.models.load import model_for

    network = model_for(page.card(model), page.settings, page.profile.imports)
    return network.head(classes, torch.device("cpu")).numpy()


def answers(projected: NDArray, head: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class with the most similar text for each of ascending rows, the lowest index on ties.

    The length of a row and the logit scale do not move an argmax.
    """
    parts = [np.asarray(projected[part], np.float32) @ head for part in chunks(rows, projected.shape[1])]
    return np.concatenate([scores.argmax(axis=1) for scores in parts]).astype(np.int64)
