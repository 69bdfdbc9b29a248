"""What is derived from measured runs before effects are computed: gaps, means over sets; and the runs themselves."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import logit
from scipy.stats import chi2, t

from .ablation import Measured, check_seeds

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
    """How far runs lie apart that differ in their seed alone, on the same images.

    sd is the pooled standard deviation within cells. Two single runs of equal expectation then differ, in `level` of
    the cases, by less than t_df sqrt(2) sd: `least_difference`, what a difference between two single trained models
    has to exceed to be more than luck of the seed.

    Args:
        measured: At least two runs in every cell.
        factors: What makes a cell.
        level: Of the interval (chi-square) and of the least difference.

    Returns:
        Rows `dataset, metric, unit, n, sd, sd_low, sd_high, least_difference, df`.

    Raises:
        InputError: As `check_seeds`.
    """
    check_seeds(measured.runs, factors)
    cell = measured.runs.groupby(list(factors)).ngroup().to_numpy()
    groups = np.unique(cell)
    df = len(cell) - len(groups)
    squares = np.zeros(len(measured.values))
    for group in groups:
        mine = measured.values[:, cell == group]
        squares += np.square(mine - mine.mean(axis=1, keepdims=True)).sum(axis=1)
    sd = np.sqrt(squares / df)
    low, high = (np.sqrt(squares / chi2.ppf(q, df)) for q in ((1 + level) / 2, (1 - level) / 2))
    table = measured.quantities[["dataset", "metric", "unit", "n"]].assign(sd=sd, sd_low=low, sd_high=high)
    return table.assign(least_difference=t.ppf((1 + level) / 2, df) * np.sqrt(2) * sd, df=df)


def cell_means(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Mean, lowest and highest value over the seeds of every cell.

    Returns:
        Rows `dataset, metric, unit, n`, the factors, `value, lowest, highest, seeds`.
    """
    parts = []
    for names, at in measured.runs.groupby(list(factors)).indices.items():
        mine = measured.values[:, at]
        cell = dict(zip(factors, names, strict=True))
        columns = {"value": mine.mean(axis=1), "lowest": mine.min(axis=1), "highest": mine.max(axis=1)}
        kept = measured.quantities[["dataset", "metric", "unit", "n"]]
        parts.append(kept.assign(**cell, **columns, seeds=len(at)))
    return pd.concat(parts, ignore_index=True)


def long(measured: Measured) -> pd.DataFrame:
    """One row per quantity and run, for figures: the quantity's columns, the run's columns and `value`."""
    count = len(measured.runs)
    left = measured.quantities.loc[np.repeat(np.arange(len(measured.quantities)), count)].reset_index(drop=True)
    right = pd.concat([measured.runs] * len(measured.quantities), ignore_index=True)
    return pd.concat([left, right], axis=1).assign(value=measured.values.ravel())
