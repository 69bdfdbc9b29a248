"""What is derived from measured runs before effects are computed: gaps, means over sets; and the runs themselves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit
from scipy.stats import chi2, t

from beyond_accuracy.dimensions.ablation import Measured, cell_variances, check_seeds, contrasts

ESTIMATE = ["value", "ci_low", "ci_high"]

# --------------------------------------------------------------------------------------------------- further quantities


def average(measured: Measured, datasets: Sequence[str], name: str, metric: str = "accuracy") -> Measured:
    """The mean of a metric over several sets of different images, as one quantity of the dataset `name`."""
    at = [measured.position(dataset, metric) for dataset in datasets]
    about = measured.quantities.iloc[at]
    row = {"dataset": name, "metric": metric, "unit": about.unit.iloc[0], "n": about.n.sum()}
    row["clusters"] = about.clusters.sum()
    covariance = measured.covariance[at].sum(axis=0) / len(at) ** 2
    return Measured(measured.runs, pd.DataFrame([row]), measured.values[at].mean(axis=0)[None], covariance[None])


def gaps(measured: Measured, clean: str, datasets: Iterable[str], scale: str = "percent") -> Measured:
    """Accuracy on shifted sets minus that on the clean set, run by run: what is left once accuracy itself is taken off.

    Args:
        measured: Accuracies in percent; the sets hold different images, so their noise is independent.
        clean: The clean set.
        datasets: The shifted sets.
        scale: `percent` (points) or `logit` (difference of log-odds, by the delta method; a run without a single right
            or wrong answer has none).

    Returns:
        Quantities `accuracy_gap` or `log_odds_gap` per shifted set.
    """
    rows, values, covariance = [], [], []
    ends = {}
    for dataset in (clean, *datasets):
        at = measured.position(dataset, "accuracy")
        share, spread = measured.values[at], measured.covariance[at]
        if scale == "logit":
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = 100 / (share * (100 - share))
                ends[dataset] = logit(share / 100), spread * np.outer(slope, slope)
        else:
            ends[dataset] = share, spread
    for dataset in datasets:
        about = measured.quantities.iloc[measured.position(dataset, "accuracy")]
        kind = ("log_odds_gap", "log-odds") if scale == "logit" else ("accuracy_gap", "points")
        rows.append({**about.to_dict(), "metric": kind[0], "unit": kind[1]})
        values.append(
            np.where(np.isfinite(ends[dataset][0] - ends[clean][0]), ends[dataset][0] - ends[clean][0], np.nan)
        )
        covariance.append(ends[dataset][1] + ends[clean][1])
    return Measured(measured.runs, pd.DataFrame(rows), np.array(values), np.array(covariance))


def with_gaps(measured: Measured, clean: str, groups: Mapping[str, Sequence[str]]) -> Measured:
    """The quantities measured, the mean accuracy of each group of shifted sets, and every gap on both scales.

    Args:
        measured: At least the accuracies of these sets.
        clean: The clean set.
        groups: Name of the mean -> shifted sets; a group of one has no mean.
    """
    total = measured
    for name, sets in groups.items():
        total = total + average(measured, sets, name) if len(sets) > 1 else total
    shifted = list(dict.fromkeys(one for name, sets in groups.items() for one in (*sets, *[name] * (len(sets) > 1))))
    return total + gaps(total, clean, shifted) + gaps(total, clean, shifted, "logit")


# ------------------------------------------------------------------------------------------------------------ the seeds


def seed_noise(measured: Measured, factors: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """How far runs of one cell lie apart that differ in their seed alone, on the same images.

    Returns:
        Rows `dataset, metric, unit, n` (independent images or groups), the factors, `sd`, its chi-square interval
        `sd_low, sd_high`, `df`. Seeds that lie closer than images on which single runs differ allow count as these do.

    Raises:
        InputError: As `check_seeds`.
    """
    check_seeds(measured.runs, factors)
    between, images = (part**0.5 for part in cell_variances(measured, factors))
    keys = measured.quantities[["dataset", "metric", "unit"]].assign(n=measured.quantities.clusters)
    parts = []
    for cell, at in _cells(measured, factors):
        least, df = images[:, at[0]], len(at) - 1
        sd = np.maximum(between[:, at[0]], least)
        low, high = (sd * np.sqrt(df / chi2.ppf(q, df)) for q in ((1 + level) / 2, (1 - level) / 2))
        parts.append(keys.assign(**cell, sd=sd, sd_low=np.maximum(low, least), sd_high=high, df=df))
    return pd.concat(parts, ignore_index=True)


def least_differences(noise: pd.DataFrame, factors: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """What a difference between two single runs has to exceed to be more than luck of their seeds.

    t sqrt(sd_a^2 + sd_b^2): two runs of equal expectation differ by less in `level` of the cases. Degrees of freedom by
    Welch and Satterthwaite for two cells; two runs of the same cell share one estimate and its degrees of freedom.

    Args:
        noise: Rows of `seed_noise`.
        factors: What makes a cell.
        level: Share of the cases.

    Returns:
        Rows `dataset, metric, unit, n, first, second` (cells, their levels joined by a space), `least_difference`.
    """
    keys = ["dataset", "metric", "unit", "n"]
    cells = {" ".join(names): part for names, part in noise.groupby(list(factors), sort=False)}
    parts = []
    for first, second in combinations_with_replacement(cells, 2):
        both = cells[first].merge(cells[second][[*keys, "sd", "df"]], on=keys, suffixes=("", "_b"))
        a, b = both.sd**2, both.sd_b**2
        freedom = both.df if first == second else (a + b) ** 2 / (a**2 / both.df + b**2 / both.df_b)
        least = t.ppf((1 + level) / 2, freedom.fillna(both.df)) * np.sqrt(a + b)  # no spread at all: 0/0
        parts.append(both[keys].assign(first=first, second=second, least_difference=least))
    return pd.concat(parts, ignore_index=True)


def cell_means(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds of every cell with its interval over seeds and images, lowest and highest value.

    Returns:
        Rows `dataset, metric, unit, n`, the factors, `value, ci_low, ci_high, lowest, highest, seeds`; quantities with
        a missing value in any run are left out.
    """
    measured = measured.only(np.isfinite(measured.values).all(axis=1))
    parts = []
    for cell, at in _cells(measured, factors):
        weights = np.zeros((1, len(measured.runs)))
        weights[0, at] = 1 / len(at)
        table = contrasts(measured, factors, pd.DataFrame(weights))[["dataset", "metric", "unit", "n", *ESTIMATE]]
        mine = measured.values[:, at]
        parts.append(table.assign(**cell, lowest=mine.min(axis=1), highest=mine.max(axis=1), seeds=len(at)))
    return pd.concat(parts, ignore_index=True)


def guessing(targets: Sequence, classes: int) -> float:
    """Accuracy of guessing a class, percent; an image with several labels is guessed right by any of them."""
    return 100 * float(np.mean([np.unique(labels).size for labels in targets])) / classes


def at_chance(cells: pd.DataFrame, chance: Mapping[str, float]) -> pd.DataFrame:
    """Cells whose accuracy cannot be told from guessing: their interval reaches down to chance.

    What such a cell loses under a shift says how good it was before, not how robust it is: nothing is left to lose.

    Args:
        cells: Rows of `cell_means`.
        chance: Dataset -> accuracy of guessing, percent; others are left out.
    """
    rows = cells[(cells.metric == "accuracy") & cells.dataset.isin(list(chance))]
    rows = rows.assign(chance=rows.dataset.map(chance).astype(float))
    return rows[rows.ci_low <= rows.chance].reset_index(drop=True)


def _cells(measured: Measured, factors: Sequence[str]) -> Iterator[tuple[dict[str, str], NDArray[np.intp]]]:
    for names, at in measured.runs.groupby(list(factors)).indices.items():
        yield dict(zip(factors, names, strict=True)), at


def long(measured: Measured) -> pd.DataFrame:
    """One row per quantity and run, for figures: the quantity's columns, the run's columns and `value`."""
    count = len(measured.runs)
    left = measured.quantities.loc[np.repeat(np.arange(len(measured.quantities)), count)].reset_index(drop=True)
    right = pd.concat([measured.runs] * len(measured.quantities), ignore_index=True)
    return pd.concat([left, right], axis=1).assign(value=measured.values.ravel())
