"""What probes say: accuracy per task, per kind of task, over the images per class; differences between models."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.dimensions.transfer.tasks import GROUPS, PROTOCOLS, Task
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import Z95, Interval

FEW = 10  # images per class at which models are compared: the point of the few-shot curves that the chooser weighs
DOUBTFUL = ("sun397",)  # published values of this task are not to be matched; averages are given without it too


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


def _deviations(block: Sequence[Runs], signs: Mapping[str, float], tasks: int) -> tuple[NDArray, NDArray]:
    """Share in a mean over tasks of (seeds,) the tasks of one dataset; of (seeds, units) each unit's deviation."""
    answers = [sum(sign * run.correct[model] for model, sign in signs.items()) / tasks for run in block]
    deviations = np.hstack([(a - a.mean(axis=1, keepdims=True)) / a.shape[1] for a in answers])
    _, unit = np.unique(np.concatenate([run.groups for run in block]), return_inverse=True)
    return np.sum([a.mean(axis=1) for a in answers], axis=0), np.stack([np.bincount(unit, row) for row in deviations])


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
    if 0 < len(sure) < len(runs):
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
    """Title and protocol of a task, or of an average, which has none."""
    task = runs[0].task
    return (task.label, runs[0].setting) if name == task.name else (name.replace("_", " "), "")


def differences(runs: Sequence[Runs], few: Sequence[Runs] = ()) -> pd.DataFrame:
    """Paired differences between all models, of every task (`detail`) and of every average (`main`).

    With few-shot probes of one setting also of the average over their tasks (`choice`).
    """
    means = sets_of_tasks(runs)
    asked = [("accuracy", run.task.name, [run], "detail") for run in runs]
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
        sizes = {name: f" ({len(members)} task{'s' * (len(members) > 1)})" for name, members in sets.items()}
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


def protocols(runs: Sequence[Runs]) -> str:
    """Which tasks were run under which protocol, a line each."""
    tasks = {s: ", ".join(run.task.label for run in runs if run.setting == s) for s in [run.setting for run in runs]}
    return "\n".join(f"{setting} ({names}): {PROTOCOLS[setting]}." for setting, names in tasks.items())


def fits(runs: Iterable[Runs]) -> pd.DataFrame:
    """How the fits went: `task, protocol, log10_c` (median), `at_edge, not_converged, seed_sd` (points), `fits`."""
    rows = []
    for run in runs:
        notes, shares = run.notes, pd.DataFrame({m: 100 * right.mean(axis=1) for m, right in run.correct.items()})
        how = np.median(np.log10(notes["c"])), notes["at_edge"].sum(), (~notes["converged"]).sum(), shares.std().mean()
        rows.append((run.task.label, run.setting, *how, len(notes)))
    columns = ["task", "protocol", "log10_c", "at_edge", "not_converged", "seed_sd", "fits"]
    return pd.DataFrame(rows, columns=columns)
