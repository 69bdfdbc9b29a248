"""Runs the probes of a page and turns them into results: per task, per group of tasks, between models.

A probe is a function of stored features, a task, a protocol and a seed, so its outcome is kept in the store under a key
of all of them; a second run of the page fits nothing.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from beyond_accuracy import vtab
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.metrics.probe import DEFAULT, Settings, run_probe
from beyond_accuracy.stamps import atomic_write
from beyond_accuracy.stats import bootstrap_means, bootstrap_p_value, percentile_interval, wilson
from beyond_accuracy.store import make_key
from beyond_accuracy.tasks import Task, TaskData, task_data

if TYPE_CHECKING:
    from beyond_accuracy.outputs import Features
    from beyond_accuracy.study import Study

PROBE_VERSION = 1  # raise when the fitting changes any number: stored outcomes are then fitted anew
VIEWS = ("main", "before_projection")
"""Which layer stands for a model: `main` is timm's pre-logits and CLIP's projected features; `before_projection` takes
CLIP's features before the projection into the space it shares with text."""
DOUBTFUL = ("sun397",)  # published values of this task are not to be matched; averages are given without it too


@dataclass(frozen=True)
class Runs:
    """All probes of one task, view and setting.

    Attributes:
        task: The task.
        setting: `vtab_full`, `vtab_1k` or `shots=5`.
        view: A key of `VIEWS`.
        correct: Model -> (seeds, n_test) correctness.
        layers: Model -> layer probed.
        notes: One row per model and seed: C, validation accuracy, whether C is at the grid's end, convergence.
        groups: (n_test,) what test images share.
        train_images: Images fitted on in the end.
    """

    task: Task
    setting: str
    view: str
    correct: dict[str, NDArray[np.bool_]]
    layers: dict[str, str]
    notes: pd.DataFrame = field(repr=False)
    groups: NDArray = field(repr=False)
    train_images: int


def layer_of(layers: Iterable[str], view: str) -> str:
    """The layer that stands for a model under a view.

    >>> layer_of(["projected", "trunk"], "before_projection"), layer_of(["pre_logits"], "before_projection")
    ('trunk', 'pre_logits')
    """
    layers = list(layers)
    wanted = ("trunk", "pre_logits") if view == "before_projection" else ("projected", "pre_logits")
    return next((layer for layer in wanted if layer in layers), layers[0])


def load_task(study: "Study", task: Task) -> tuple[TaskData, dict[str, "Features"]]:
    """The images of a task and every model's features of them.

    Raises:
        DataMissing: The dataset or weights are not here.
        InputError: The task does not fit the dataset, or models saw different images of it.
    """
    features = study.features(task.dataset)
    if not features:
        raise InputError(f"task {task.name}: no model of this run has features (imported predictions have none)")
    first = next(iter(features.values()))
    for other in features.values():
        if not np.array_equal(other.ids, first.ids):
            raise InputError(
                f"task {task.name}: {first.model} and {other.model} saw different images of {task.dataset}"
            )
    dataset = study.dataset(task.dataset)
    names = dataset.classes.names if dataset.classes is not None else ()
    return task_data(task, first.ids, first.targets, dataset.metadata, names), features


def load_tasks(study: "Study", tasks: Iterable[Task]) -> dict[str, tuple[TaskData, dict[str, "Features"]]]:
    """All tasks whose data is here; the others are listed as left out (`Study.skipped`).

    Raises:
        DataMissing: If none is.
    """
    tasks = list(tasks)
    here = set(study.available(dict.fromkeys(task.dataset for task in tasks)))
    if not here:
        raise DataMissing("; ".join(study.skipped))
    return {task.name: load_task(study, task) for task in tasks if task.dataset in here}


def probe_task(
    data: TaskData,
    features: dict[str, "Features"],
    setting: str,
    seeds: Sequence[int],
    settings: Settings = DEFAULT,
    view: str = "main",
    folder: Path | None = None,
) -> Runs:
    """Probe one task with every model.

    Args:
        data: The task's images.
        features: Model -> features of its dataset.
        setting: A key of `vtab.PROTOCOLS`, or `shots=<k>`.
        seeds: Split seeds; the test images are the same for all.
        settings: How to fit.
        view: A key of `VIEWS`.
        folder: Where outcomes are kept; None keeps none.

    Raises:
        InputError: If the split is impossible or leaks (see `vtab`).
    """
    try:
        return _probe_task(data, features, setting, seeds, settings, view, folder)
    except ValueError as error:
        raise InputError(f"task {data.task.name}, {setting}: {error}") from error


def _probe_task(data, features, setting, seeds, settings, view, folder) -> Runs:
    task = data.task
    share = vtab.task(task.name).validation_share if task.name in vtab.tasks() else 0.2
    splits = [_split(data, setting, seed, share) for seed in seeds]
    test = splits[0].test
    correct, layers, notes = {}, {}, []
    for model, found in features.items():
        layer = layers[model] = layer_of(found.layers, view)
        stored = found.layers[layer]
        values = stored if len(data.rows) == len(stored) else _Rows(stored, data.rows)
        outcomes = []
        for seed, split in zip(seeds, splits, strict=True):
            key = _key(found, layer, data, setting, seed, settings)
            path = None if folder is None else folder / f"{key}.npz"
            if path is None or not path.is_file():
                vtab.refuse_leak(values, split, task.name)
                outcome = asdict(run_probe(values, data.labels, split, settings))
                if path is not None:
                    atomic_write(path, lambda p, kept=outcome: p.write_bytes(_npz(kept)))
            else:
                with np.load(path, allow_pickle=False) as kept:
                    outcome = {name: kept[name] if name == "correct" else kept[name].item() for name in kept.files}
            outcomes.append(outcome.pop("correct"))
            notes.append(
                {"task": task.name, "setting": setting, "model": model, "layer": layer, "seed": seed} | outcome
            )
        correct[model] = np.array(outcomes)
    fitted = len(splits[0].train) + len(splits[0].validation)
    return Runs(task, setting, view, correct, layers, pd.DataFrame(notes), data.groups[test], fitted)


def possible_setting(data: TaskData, protocol: str) -> str:
    """The protocol, or ``vtab_full`` where a task has too few images to draw VTAB-1k's 1,000 from."""
    return "vtab_full" if protocol == "vtab_1k" and np.sum(data.fold != "test") < 1000 else protocol


def _split(data: TaskData, setting: str, seed: int, validation_share: float):
    if setting.startswith("shots="):
        return vtab.draw_few_shot(data.labels, data.groups, data.fold, int(setting.removeprefix("shots=")), seed)
    return vtab.draw_split(data.labels, data.groups, data.fold, setting, seed, validation_share)


class _Rows:
    """Some rows of a mapped array, without copying them: looks like the array of those rows."""

    def __init__(self, array: NDArray, rows: NDArray[np.int64]):
        self._array, self._rows, self.shape = array, rows, (len(rows), array.shape[1])

    def __getitem__(self, index):
        return self._array[self._rows[index]]


def _key(found: "Features", layer: str, data: TaskData, setting: str, seed: int, settings: Settings) -> str:
    task_hash = hashlib.sha256()
    for array in (data.rows, data.labels, data.fold.astype("U10"), data.groups.astype("U")):
        task_hash.update(np.ascontiguousarray(array).tobytes())
    fit = {name: value for name, value in asdict(settings).items() if name != "device"}
    parts = {"probe": PROBE_VERSION, "features": found.meta.get("key"), "layer": layer, "setting": setting}
    return make_key(parts | {"task": task_hash.hexdigest(), "seed": int(seed), "fit": fit})


def _npz(outcome: dict) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **outcome)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Scores:
    """Accuracies of one setting and view with their bootstrap draws.

    Attributes:
        table: Rows ``task, group, model, layer, value, ci_low, ci_high, seed_sd, n`` in percent.
        draws: Task -> (resamples, models) accuracies in percent; columns paired, in the order of ``models``.
        models: Model names.
        groups: Task -> group.
    """

    table: pd.DataFrame
    draws: dict[str, NDArray[np.float64]] = field(repr=False)
    models: list[str]
    groups: dict[str, str]


def score(runs: Iterable[Runs], resamples: int, rng: np.random.Generator) -> Scores:
    """Test accuracy per task and model: mean over seeds, interval over test images.

    The test images are the clusters: all seeds of an image are drawn together, and all models' images too, so that
    draws are paired between models. With one seed the interval is Wilson's; so it is where every image has the same
    outcome, which a bootstrap would take for certainty. ``seed_sd`` is the spread between split seeds, which the
    interval does not include.
    """
    rows, draws, groups, models = [], {}, {}, []
    for run in runs:
        models = list(run.correct)
        means = np.column_stack([c.mean(axis=0) for c in run.correct.values()])
        shared = len(np.unique(run.groups)) < len(run.groups)
        drawn = 100 * bootstrap_means(means, resamples, rng, run.groups if shared else None)
        draws[run.task.name], groups[run.task.name] = drawn, run.task.group
        for k, (model, correct) in enumerate(run.correct.items()):
            single = len(correct) == 1 and not shared
            if single or np.ptp(means[:, k]) == 0:
                low, high = (100 * end for end in wilson(round(means[:, k].sum()), len(means)))
            else:
                low, high = percentile_interval(drawn[:, k])
            spread = 100 * correct.mean(axis=1).std(ddof=1) if len(correct) > 1 else np.nan
            value = 100 * means[:, k].mean()
            rows.append((run.task.name, run.task.group, model, run.layers[model], value, low, high, spread, len(means)))
    names = ["task", "group", "model", "layer", "value", "ci_low", "ci_high", "seed_sd", "n"]
    return Scores(pd.DataFrame(rows, columns=names), draws, models, groups)


def sets_of_tasks(scores: Scores) -> dict[str, list[str]]:
    """The averages that are reported: all tasks, all but doubtful ones, and each group."""
    tasks = list(scores.draws)
    sets = {"average": tasks}
    if any(task in DOUBTFUL for task in tasks):
        sets["average_without_sun397"] = [task for task in tasks if task not in DOUBTFUL]
    for group in vtab.GROUPS:
        if members := [task for task in tasks if scores.groups[task] == group]:
            sets[f"average_{group}"] = members
    return sets


def averages(scores: Scores) -> pd.DataFrame:
    """Means over tasks, each task with equal weight: ``task`` (name of the mean), ``model, value, ci_low, ci_high, n``.

    ``n`` counts tasks. The interval covers which test images were drawn, not which tasks were chosen.
    """
    rows = []
    values = scores.table.pivot(index="task", columns="model", values="value")
    for name, members in sets_of_tasks(scores).items():
        drawn = np.mean([scores.draws[task] for task in members], axis=0)
        for k, model in enumerate(scores.models):
            low, high = percentile_interval(drawn[:, k])
            rows.append((name, model, values.loc[members, model].mean(), low, high, len(members)))
    return pd.DataFrame(rows, columns=["task", "model", "value", "ci_low", "ci_high", "n"])


def differences(scores: Scores) -> pd.DataFrame:
    """Paired differences between all models, per task and per average, as rows of the comparisons schema.

    p-values come from the draws, so `score` needs `stats.P_VALUE_RESAMPLES` resamples.
    """
    values = scores.table.pivot(index="task", columns="model", values="value")
    counts = scores.table.drop_duplicates("task").set_index("task").n
    rows = []
    sets = {task: [task] for task in scores.draws} | sets_of_tasks(scores)
    for name, members in sets.items():
        drawn = np.mean([scores.draws[task] for task in members], axis=0)
        mean = values.loc[members].mean()
        for (i, a), (j, b) in combinations(enumerate(scores.models), 2):
            gap = drawn[:, i] - drawn[:, j]
            low, high = percentile_interval(gap)
            rows.append((name, a, b, mean[a] - mean[b], low, high, bootstrap_p_value(gap), counts[members].sum()))
    names = ["dataset", "model_a", "model_b", "difference", "ci_low", "ci_high", "p", "n"]
    return pd.DataFrame(rows, columns=names).assign(metric="accuracy", unit="percent")


def results_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the results schema (without ``dimension``) from the frame of `score` or `averages`."""
    frame = table.rename(columns={"task": "dataset"}).assign(metric=metric, unit="percent")
    return frame[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]]


def metric_name(setting: str, view: str = "main", main: str = "vtab_full") -> str:
    """Name of an accuracy in the results: plain for the page's main protocol and view, else with what differs.

    >>> metric_name("vtab_full"), metric_name("vtab_1k", "before_projection"), metric_name("shots=5")
    ('accuracy', 'accuracy:protocol=vtab_1k,layer=before_projection', 'accuracy:shots=5')
    """
    parts = [] if setting == main else [setting if setting.startswith("shots=") else f"protocol={setting}"]
    parts += [] if view == "main" else [f"layer={view}"]
    return ":".join(["accuracy", ",".join(parts)]) if parts else "accuracy"
