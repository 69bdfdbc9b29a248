"""Runs the probes of a page, asks CLIP in words, and says what came out: accuracies, their averages and differences.

A probe's outcome is kept in the store under a key of its features, task, setting and seed: it is fitted once.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import code_digest, load_arrays, save_arrays
from beyond_accuracy.base.profile import unknown
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.dimensions.transfer import tasks
from beyond_accuracy.dimensions.transfer.probe import Settings, Split, chunks, run_probe
from beyond_accuracy.dimensions.transfer.tasks import GROUPS, Task, TaskData, vtab
from beyond_accuracy.inference.store import make_key
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import Z95, Interval
from beyond_accuracy.measure.verdicts import counted, joined

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
FEW = 10  # images per class at which models are compared: the point of the few-shot curves that the chooser weighs
DOUBTFUL = ("sun397",)  # published values of this task are not to be matched; averages are given without it too

# Running -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """All probes of one task under one setting; `zero_shot` has the same form, with one seed."""

    task: Task
    setting: str  # `vtab_full`, `vtab_1k`, `shots=5`, `zero_shot`
    correct: dict[str, NDArray[np.bool_]]  # model -> (seeds, n_test)
    groups: NDArray = field(repr=False)  # (n_test,) what test images share
    train_images: int = 0  # fitted on in the end
    pool_images: int = 0  # from which they were drawn
    chance: float = np.nan  # percent right by guessing
    notes: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)  # per model and seed: layer, C, convergence


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


# What probes say -----------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """A mean over tasks and how far it may be off."""

    value: float
    variance: float  # over other test images, other splits and other choices of C
    freedom: float  # degrees of freedom behind it
    units: int  # different test images, or scenes, that inform


def spread(runs: Sequence[Runs], signs: Mapping[str, float]) -> Spread:
    """Mean over tasks of a signed sum of the models' accuracies, each a mean over seeds, with its variance.

    ``V = sum over datasets of V_images + V_splits``. ``V_images = G / (G - 1) sum_g z_g^2`` is that of a bootstrap of
    the units: ``z_g`` is the share of unit g (an image or scene, with all answers to it in all tasks of a dataset) in
    the mean's deviation. ``V_splits = s^2 (1 / S + min(1, f / (1 - f)))``: ``1 / S`` stands for the S splits that were
    drawn (the same for all tasks of a dataset), the rest for the pool they were drawn from, of which each holds the
    share f (the delete-d jackknife of Efron and Tibshirani 1993, section 11.7; cut off where most of the pool is used).
    ``s^2`` is the variance between seeds, less what single images contribute to it by changing sides, which is in
    ``V_images`` already (``V_rows + V_columns - V_cells`` of crossed designs, Owen 2007). Few seeds tell that
    difference badly: both are means over all models, or pairs of models, and of what is taken off, the share
    sqrt(2 / d), the relative error of a variance on d degrees of freedom, stays. Degrees of freedom of V: Welch and
    Satterthwaite. One seed shows no ``V_splits``.
    """
    value, variance, uncertain, units, models = 0.0, 0.0, 0.0, 0, list(runs[0].correct)
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


def _deviations(block: Sequence[Runs], signs: Mapping[str, float], count: int) -> tuple[NDArray, NDArray]:
    """Share in a mean over tasks of (seeds,) the tasks of one dataset; of (seeds, units) each unit's deviation."""
    right = [sum(sign * run.correct[model] for model, sign in signs.items()) / count for run in block]
    deviations = np.hstack([(a - a.mean(axis=1, keepdims=True)) / a.shape[1] for a in right])
    _, unit = np.unique(np.concatenate([run.groups for run in block]), return_inverse=True)
    return np.sum([a.mean(axis=1) for a in right], axis=0), np.stack([np.bincount(unit, row) for row in deviations])


def share_of(found: Spread) -> Interval:
    """Wilson interval of a share, at the number of independent images that its variance is worth (Korn, Graubard 1998).

    A share without any spread (all right, or all wrong) is worth its units.
    """
    worth = found.units
    if found.variance > 0:
        worth = found.value * (1 - found.value) / found.variance * (Z95 / t.isf(0.025, found.freedom)) ** 2
    return Interval(*map(float, proportion_confint(found.value * worth, worth, method="wilson")))


def difference_of(found: Spread) -> tuple[float, float, float]:
    """Student's interval and two-sided p-value of a difference, as if at least one unit had differed."""
    error = max(np.sqrt(found.variance), 1 / found.units)
    reach = t.isf(0.025, found.freedom) * error
    return found.value - reach, found.value + reach, float(2 * t.sf(abs(found.value) / error, found.freedom))


def sets_of_tasks(runs: Iterable[Runs]) -> dict[str, list[Runs]]:
    """The averages that are reported: all tasks, all but doubtful ones, and each group of at least two."""
    runs = list(runs)
    sets = {"average": runs} if runs else {}
    sure = [run for run in runs if run.task.name not in DOUBTFUL]
    if 1 < len(sure) < len(runs):
        sets["average_without_sun397"] = sure
    groups = {f"average_{group}": [run for run in runs if run.task.group == group] for group in GROUPS}
    return sets | {name: members for name, members in groups.items() if len(members) > 1}


def score(runs: Iterable[Runs], metric: str = "accuracy") -> pd.DataFrame:
    """Test accuracy per task and model in percent, mean over seeds, with the interval of `spread` and `share_of`.

    Rows of `tidy.rows` with `dataset` (the task's name), `task` (its title), `protocol` and `chance`; `n` counts test
    images, or scenes where images share one.
    """
    return _scored([(run.task.name, [run]) for run in runs], metric)


def averages(runs: Iterable[Runs]) -> pd.DataFrame:
    """As `score`, of means over tasks, each with equal weight; the interval does not cover which tasks were chosen."""
    return _scored(sets_of_tasks(runs).items(), "accuracy")


def few_average(runs: Sequence[Runs]) -> pd.DataFrame:
    """As `averages`, of all tasks that allow the one few-shot setting of these probes."""
    return _scored([("average", runs)] if runs else [], f"accuracy:{runs[0].setting}" if runs else "")


def _scored(sets: Iterable[tuple[str, Sequence[Runs]]], metric: str) -> pd.DataFrame:
    frames = [pd.DataFrame(columns=[*tidy.COLUMNS, "dataset", "task", "protocol", "chance"])]
    for name, runs in sets:
        found = {model: spread(runs, {model: 1.0}) for model in runs[0].correct}
        values, ends = [100 * f.value for f in found.values()], [100 * np.array(share_of(f)) for f in found.values()]
        rows = tidy.rows(metric, "percent", list(found), values, [f.units for f in found.values()], ends=ends)
        title, protocol = _about(name, runs)
        chance = np.mean([run.chance for run in runs])
        frames.append(rows.assign(dataset=name, task=title, protocol=protocol, chance=chance))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _about(name: str, runs: Sequence[Runs]) -> tuple[str, str]:
    """Title and protocol of a task, or of an average, which has none; that of a single task is called like it."""
    task = runs[0].task
    title = task.label if len(runs) == 1 else name.replace("_", " ")
    return title, runs[0].setting if name == task.name else ""


def differences(runs: Sequence[Runs], few: Sequence[Runs] = ()) -> pd.DataFrame:
    """Paired differences between all models, of every task (`detail`) and of every average (`main`); one task is both.

    With few-shot probes of one setting also of the average over their tasks (`choice`).
    """
    means = sets_of_tasks(runs)
    asked = [("accuracy", run.task.name, [run], "detail") for run in runs if len(runs) > 1]
    asked += [("accuracy", name, members, "main") for name, members in means.items()]
    asked += [(f"accuracy:{few[0].setting}", "average", few, "choice")] if few else []
    rows = []
    for metric, name, members, family in asked:
        for a, b in combinations(members[0].correct, 2):
            found = spread(members, {a: 1.0, b: -1.0})
            low, high, p = difference_of(found)
            numbers = (100 * found.value, 100 * low, 100 * high, p, 0.0, found.units)
            rows.append((metric, a, b, *numbers, "percent", name, _about(name, members)[0], family))
    return pd.DataFrame(rows, columns=[*tidy.PAIR, "dataset", "task", "family"])


def few_shot(curves: Mapping[int, Sequence[Runs]]) -> pd.DataFrame:
    """Rows of `averages` over the tasks that have every point of the curve, with `shots` and `panel`.

    Numbers of shots that no task allows are left out.
    """
    curves = {shots: runs for shots, runs in curves.items() if runs}
    names = [{run.task.name for run in runs} for runs in curves.values()]
    complete, frames = set.intersection(*names) if names else set(), [averages([]).assign(shots=[], panel=[])]
    for shots, runs in curves.items():
        sets = sets_of_tasks(run for run in runs if run.task.name in complete)
        sets.pop("average_without_sun397", None)
        sizes = {name: f" ({counted(len(members), 'task')})" for name, members in sets.items()}
        rows = _scored(sets.items(), "accuracy")
        panel = rows["dataset"].str.replace("average", "all").str.removeprefix("all_") + rows["dataset"].map(sizes)
        frames.append(rows.assign(shots=shots, panel=panel))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def beside(rows: pd.DataFrame, other: pd.DataFrame, name: str) -> pd.DataFrame:
    """Those rows of `score` that have a counterpart of the same task and model, with its value in a column `name`."""
    return rows.merge(other[["dataset", "model", "value"]].rename(columns={"value": name}), on=["dataset", "model"])


def counts(runs: Iterable[Runs]) -> str:
    """How many tasks were run under which protocol, as `6 under vtab_1k, 6 under vtab_full`."""
    return ", ".join(f"{count} under {setting}" for setting, count in Counter(run.setting for run in runs).items())


def trained(runs: Iterable[Runs]) -> str:
    """Which tasks were no new questions to some models; empty where none is known to have been."""
    by: dict[str, list[str]] = {}
    for run in runs:
        by.setdefault(run.task.trained, []).append(run.task.label)
    said = "; ".join(f"{joined(names)} ({how})" for how, names in by.items() if how)
    return f" Partly trained for, which a lead may come from: {said}." if said else ""


def protocols(runs: Sequence[Runs]) -> str:
    """Which tasks were run under which protocol, a line each."""
    asked = {s: ", ".join(run.task.label for run in runs if run.setting == s) for s in [run.setting for run in runs]}
    return "\n".join(f"{setting} ({names}): {tasks.PROTOCOLS[setting]}." for setting, names in asked.items())


def fits(runs: Iterable[Runs]) -> pd.DataFrame:
    """How the fits went: `task, protocol, log10_c` (median), `at_edge, not_converged, seed_sd` (points), `fits`."""
    rows = []
    for run in runs:
        notes, shares = run.notes, pd.DataFrame({m: 100 * right.mean(axis=1) for m, right in run.correct.items()})
        how = np.median(np.log10(notes["c"])), notes["at_edge"].sum(), (~notes["converged"]).sum(), shares.std().mean()
        rows.append((run.task.label, run.setting, *how, len(notes)))
    columns = ["task", "protocol", "log10_c", "at_edge", "not_converged", "seed_sd", "fits"]
    return pd.DataFrame(rows, columns=columns)
