"""Runs the probes of a page and turns them into results: per task, per group of tasks, between models.

A probe is a function of stored features, a task, a protocol and a seed, so its outcome is kept in the store under a key
of all of them; a second run of the page fits nothing.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import atomic_write
from beyond_accuracy.dimensions.transfer import vtab
from beyond_accuracy.dimensions.transfer.probe import DEFAULT, Settings, run_probe
from beyond_accuracy.dimensions.transfer.tasks import Task, TaskData, task_data
from beyond_accuracy.inference.store import make_key

if TYPE_CHECKING:
    from beyond_accuracy.inference.outputs import Features
    from beyond_accuracy.page import Page

PROBE_VERSION = 2  # raise when the fitting changes any number: stored outcomes are then fitted anew
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
        pool_images: Images they were drawn from.
    """

    task: Task
    setting: str
    view: str
    correct: dict[str, NDArray[np.bool_]]
    layers: dict[str, str]
    notes: pd.DataFrame = field(repr=False)
    groups: NDArray = field(repr=False)
    train_images: int
    pool_images: int = 0


def layer_of(layers: Iterable[str], view: str) -> str:
    """The layer that stands for a model under a view.

    >>> layer_of(["projected", "trunk"], "before_projection"), layer_of(["pre_logits"], "before_projection")
    ('trunk', 'pre_logits')
    """
    layers = list(layers)
    wanted = ("trunk", "pre_logits") if view == "before_projection" else ("projected", "pre_logits")
    return next((layer for layer in wanted if layer in layers), layers[0])


def load_task(study: "Page", task: Task) -> tuple[TaskData, dict[str, "Features"]]:
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


def load_tasks(study: "Page", tasks: Iterable[Task]) -> dict[str, tuple[TaskData, dict[str, "Features"]]]:
    """All tasks whose data is here; the others are listed as left out (`Page.skipped`).

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
    sizes = len(splits[0].train) + len(splits[0].validation), int(np.sum(data.fold != "test"))
    return Runs(task, setting, view, correct, layers, pd.DataFrame(notes), data.groups[test], *sizes)


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
class Spread:
    """A mean over tasks and how far it may be off.

    Attributes:
        value: The mean.
        variance: Of the mean over other test images, other splits and other choices of C.
        freedom: Degrees of freedom behind the variance.
        units: Different test images, or scenes, that inform.
    """

    value: float
    variance: float
    freedom: float
    units: int


def spread(runs: Sequence[Runs], signs: Mapping[str, float]) -> Spread:
    """Mean over tasks of a signed sum of the models' accuracies, each a mean over seeds, with its variance.

    ``V = sum over datasets of V_images + V_splits``. ``V_images`` is the variance that a bootstrap of the test images
    (or scenes) has, linearised: ``G / (G - 1) sum_g z_g^2`` with the share ``z_g`` of unit g in the mean's deviation.
    A unit that several tasks of a dataset share is one unit, and the models' answers to it are taken together, as in a
    bootstrap that draws it once for all of them. ``V_splits = s^2 (1 / S + min(1, f / (1 - f)))``: ``1 / S`` stands for
    the S splits that were drawn (the same for all tasks of a dataset), the rest for the pool they were drawn from, of
    which each holds the share f (the delete-d jackknife of Efron and Tibshirani 1993, section 11.7; cut off where most
    of the pool is used and the seeds hardly show what another pool would do). ``s^2`` is the variance between seeds,
    less what single images contribute to it by changing sides, which is in ``V_images`` already (``V_rows + V_columns -
    V_cells`` of crossed designs, Owen 2007). Few seeds tell that difference badly: both are means over all models, or
    pairs of models, and of what is taken off, the share sqrt(2 / d), the relative error of a variance on d degrees of
    freedom, stays. Degrees of freedom of V: Welch and Satterthwaite. One seed shows no ``V_splits``.

    Raises:
        ValueError: If a dataset's test images are a single unit.
    """
    value, variance, uncertain, units = 0.0, 0.0, 0.0, 0
    models = list(runs[0].correct)
    alike = [dict(zip(chosen, signs.values(), strict=True)) for chosen in combinations(models, len(signs))]
    for dataset in dict.fromkeys(run.task.dataset for run in runs):
        block = [run for run in runs if run.task.dataset == dataset]
        by_seed, by_unit = _deviations(block, signs, len(runs))
        seeds, count = by_unit.shape
        if count < 2:
            raise ValueError(f"{dataset}: the test images are a single unit, their spread is not known")
        correction = count / (count - 1)
        images = correction * np.sum(by_unit.mean(axis=0) ** 2)
        value, variance, units = value + by_seed.mean(), variance + images, units + count
        uncertain += images**2 / (count - 1)
        if seeds > 1:
            others = [_deviations(block, chosen, len(runs)) for chosen in alike]
            between = np.mean([means.var(ddof=1) for means, _ in others])
            single = correction * np.mean([parts.var(axis=0, ddof=1).sum() for _, parts in others])
            share = max(run.train_images / max(run.pool_images, 2 * run.train_images, 1) for run in block)
            draws = 1 / seeds + share / (1 - share)
            freedom = (seeds - 1) * (len(models) + 1 - len(signs))
            splits = draws * max(0.0, between - max(0.0, 1 - np.sqrt(2 / freedom)) * single)
            variance, uncertain = variance + splits, uncertain + splits**2 / freedom
    freedom = variance**2 / uncertain if variance > 0 else units - 1
    return Spread(float(value), float(variance), float(freedom), units)


def _deviations(block: Sequence[Runs], signs: Mapping[str, float], tasks: int) -> tuple[NDArray, NDArray]:
    """Share in a mean over tasks of (seeds,) the tasks of one dataset; of (seeds, units) each unit's deviation."""
    answers = [sum(sign * run.correct[model] for model, sign in signs.items()) / tasks for run in block]
    deviations = np.hstack([(a - a.mean(axis=1, keepdims=True)) / a.shape[1] for a in answers])
    _, unit = np.unique(np.concatenate([run.groups for run in block]), return_inverse=True)
    return np.sum([a.mean(axis=1) for a in answers], axis=0), np.stack([np.bincount(unit, row) for row in deviations])


def share_of(found: Spread, level: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a share, at the number of independent images that its variance is worth (Korn, Graubard 1998).

    A share without any spread (all right, or all wrong) is worth its units.
    """
    tail = (1 - level) / 2
    worth = found.units
    if found.variance > 0:
        worth = found.value * (1 - found.value) / found.variance
        worth *= (norm.isf(tail) / t.isf(tail, found.freedom)) ** 2
    low, high = proportion_confint(found.value * worth, worth, alpha=1 - level, method="wilson")
    return float(low), float(high)


def difference_of(found: Spread, level: float = 0.95) -> tuple[float, float, float]:
    """Student's interval and two-sided p-value of a difference, as if at least one unit had differed."""
    error = max(np.sqrt(found.variance), 1 / found.units)
    reach = t.isf((1 - level) / 2, found.freedom) * error
    return found.value - reach, found.value + reach, float(2 * t.sf(abs(found.value) / error, found.freedom))


def score(runs: Iterable[Runs]) -> pd.DataFrame:
    """Test accuracy per task and model in percent, mean over seeds, with the interval of `spread` and `share_of`.

    Returns:
        Rows ``task, group, model, layer, value, ci_low, ci_high, n, seed_sd``: ``n`` counts test images, or scenes
        where images share one; ``seed_sd`` is the spread between split seeds.
    """
    rows = []
    for run in runs:
        for model, correct in run.correct.items():
            seed_sd = 100 * correct.mean(axis=1).std(ddof=1) if len(correct) > 1 else np.nan
            rows.append((run.task.name, run.task.group, model, run.layers[model], *_share_row([run], model), seed_sd))
    names = ["task", "group", "model", "layer", "value", "ci_low", "ci_high", "n", "seed_sd"]
    return pd.DataFrame(rows, columns=names)


def _share_row(runs: Sequence[Runs], model: str) -> tuple[float, float, float, int]:
    found = spread(runs, {model: 1.0})
    low, high = share_of(found)
    return 100 * found.value, 100 * low, 100 * high, found.units


def sets_of_tasks(runs: Iterable[Runs]) -> dict[str, list[Runs]]:
    """The averages that are reported: all tasks, all but doubtful ones, and each group of at least two."""
    runs = list(runs)
    sets = {"average": runs}
    if any(run.task.name in DOUBTFUL for run in runs):
        sets["average_without_sun397"] = [run for run in runs if run.task.name not in DOUBTFUL]
    for group in vtab.GROUPS:
        members = [run for run in runs if run.task.group == group]
        if len(members) > 1:
            sets[f"average_{group}"] = members
    return sets


def averages(runs: Iterable[Runs]) -> pd.DataFrame:
    """Means over tasks, each task with equal weight: ``task`` (name of the mean), ``model, value, ci_low, ci_high, n``.

    The interval covers test images and splits, not which tasks were chosen; ``n`` counts different images or scenes.
    """
    rows = [
        (name, model, *_share_row(members, model))
        for name, members in sets_of_tasks(runs).items()
        for model in members[0].correct
    ]
    return pd.DataFrame(rows, columns=["task", "model", "value", "ci_low", "ci_high", "n"])


def differences(runs: Sequence[Runs]) -> pd.DataFrame:
    """Paired differences between all models, per task and per average, as rows of the comparisons schema."""
    rows = []
    for name, members in ({run.task.name: [run] for run in runs} | sets_of_tasks(runs)).items():
        for a, b in combinations(members[0].correct, 2):
            found = spread(members, {a: 1.0, b: -1.0})
            low, high, p = difference_of(found)
            rows.append((name, a, b, 100 * found.value, 100 * low, 100 * high, p, found.units))
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
