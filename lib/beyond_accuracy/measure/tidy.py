"""Tidy rows: an estimate of every model with its interval, and the paired differences between models.

Every dimension hands its estimates here: values (models,), paired draws (resamples, models) and `n`, the number of
independent units (images, scenes, …) behind them. `units` are those of `stats.percentile_interval`: given where they
are few.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.measure import stats
from beyond_accuracy.measure.stats import Difference, Interval, bootstrap_p_value, p_value_floor

COLUMNS = ["metric", "model", "value", "ci_low", "ci_high", "n", "unit"]
PAIR = ["metric", "model_a", "model_b", "difference", "ci_low", "ci_high", "p", "p_floor", "n", "unit"]
MOST_UNDEFINED = 0.05  # share of resamples in which a ratio may be 0/0; above it there is no interval
NONE = Interval(np.nan, np.nan)


def interval(draws: NDArray, units: int | None = None) -> Interval:
    """Percentile interval of draws that may be 0/0 (NaN); none when more than 5 % of them are."""
    known = draws[~np.isnan(draws)]
    return stats.percentile_interval(known, units=units) if len(known) >= (1 - MOST_UNDEFINED) * len(draws) else NONE


def rows(
    metric: str, unit: str, models: Sequence[str], values: ArrayLike, n: ArrayLike, draws: NDArray | None = None,
    ends: Sequence[Interval] | None = None, units: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One row per model with a finite value, its interval that of (resamples, models) draws, if any, or `ends`.

    `n` is one number, or one per model.
    """
    values, n = np.asarray(values, float), np.broadcast_to(n, len(models))
    if ends is None:
        ends = [NONE if draws is None else interval(draws[:, k], units) for k in range(len(models))]
    frame = pd.DataFrame({"metric": metric, "model": list(models), "value": values})
    frame[["ci_low", "ci_high"]] = np.asarray(ends, float).reshape(-1, 2)
    return frame.assign(n=n, unit=unit)[COLUMNS][np.isfinite(values)]


def units_of(runs: Mapping[str, object]) -> NDArray | None:
    """The independent units that the images of some runs are of (`Predictions.units`); None where images are."""
    return next((getattr(run, "units", None) for run in runs.values()), None)


def count(images: int, units: ArrayLike | None) -> int:
    """What n counts: units, where there are any, else images."""
    return images if units is None else stats.coded(units)[1]


def accuracy(
    correct: Mapping[str, ArrayLike], metric: str = "accuracy", units: ArrayLike | None = None
) -> pd.DataFrame:
    """Percent right of every model with Wilson's interval, at the number of images that their units are worth."""
    ends = [100 * np.array(stats.share_interval(c, units)) for c in correct.values()]
    values, n = [100 * np.sum(c) / len(c) for c in correct.values()], [count(len(c), units) for c in correct.values()]
    return rows(metric, "percent", list(correct), values, n, ends=ends)


def pairs(
    metric: str, unit: str, models: Sequence[str], values: ArrayLike, n: int,
    draws: NDArray | Callable[[int, int], NDArray] | None = None,
    tested: Callable[[int, int], Difference] | None = None, units: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Paired differences of every two models, p-values uncorrected.

    Interval and p-value are those of the draws: (resamples, models) of the estimates, drawn together, or a function of
    two positions to draws of their difference; or of `tested`, a function of two positions that does not resample.
    """
    found = []
    for a, b in combinations(range(len(models)), 2):
        if tested:
            _, (low, high), p = tested(a, b)
            floor = 0.0
        else:
            gap = draws(a, b) if callable(draws) else draws[:, a] - draws[:, b]
            (low, high), finite = interval(gap, units), np.isfinite(gap).all()
            p = bootstrap_p_value(gap, units) if finite else np.nan
            floor = p_value_floor(len(gap), units) if finite else 0.0
        found.append((metric, models[a], models[b], values[a] - values[b], low, high, p, floor, n, unit))
    return pd.DataFrame(found, columns=PAIR)


def accuracy_pairs(
    correct: Mapping[str, ArrayLike], metric: str = "accuracy", units: ArrayLike | None = None, seed: int = 0
) -> pd.DataFrame:
    """Differences of accuracy in points between every two models on the same images: score interval, McNemar's test.

    With `units` these are resampled.
    """
    models, right = list(correct), [np.asarray(c, bool) for c in correct.values()]
    if units is not None:
        table, n = 100.0 * np.stack(right, axis=1), count(0, units)
        rng = np.random.default_rng(seed)
        draws = stats.bootstrap_means(with_gaps(table), stats.P_VALUE_RESAMPLES, rng, units)
        return estimates(metric, "percent", models, table.mean(axis=0), n, draws, n)[1]

    def tested(a: int, b: int) -> Difference:
        share, (low, high), p = stats.accuracy_difference(right[a], right[b])
        return Difference(100 * share, Interval(100 * low, 100 * high), p)

    return pairs(
        metric, "percent", models, [100 * c.mean() for c in right], len(right[0]) if right else 0, tested=tested
    )


def with_gaps(table: NDArray) -> NDArray:
    """Values (units, models) and, behind them, the differences of every two models, for `estimates`.

    Taken unit by unit, equal models differ by exactly 0, however the sums of resamples are rounded.
    """
    columns = [table[:, a] - table[:, b] for a, b in combinations(range(table.shape[1]), 2)]
    return np.column_stack([table, *columns])


def estimates(
    metric: str, unit: str, models: Sequence[str], values: ArrayLike, n: int, draws: NDArray, units: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows, and the paired differences of every two models, from draws (resamples, columns of `with_gaps`)."""
    column = {pair: k for k, pair in enumerate(combinations(range(len(models)), 2), start=len(models))}
    gaps = pairs(metric, unit, models, values, n, lambda a, b: draws[:, column[a, b]], units=units)
    return rows(metric, unit, models, values, n, draws[:, : len(models)], units=units), gaps


def each(sets: Mapping[str, object], measure: Callable[..., pd.DataFrame], *args: object) -> pd.DataFrame:
    """Rows of a function of one set, for every set (two at a time, which bounds memory), its name in `dataset`."""
    with ThreadPoolExecutor(2) as pool:
        parts = dict(zip(sets, pool.map(lambda found: measure(found, *args), sets.values()), strict=True))
    found = {name: part for name, part in parts.items() if len(part)} or parts
    return pd.concat(found, names=["dataset"]).reset_index(level=0).reset_index(drop=True)


def against_zero(
    metric: str, unit: str, models: Sequence[str], values: ArrayLike, n: int, draws: NDArray, units: int | None = None
) -> pd.DataFrame:
    """Every model's own number against zero, as rows of `pairs` with an empty `model_b`."""
    found = [
        (metric, m, "", value, *interval(d, units), bootstrap_p_value(d, units), p_value_floor(len(d), units), n, unit)
        for m, value, d in zip(models, values, draws.T, strict=True)
    ]
    return pd.DataFrame(found, columns=PAIR)


def pivot(frame: pd.DataFrame, index: Sequence[str] | str, columns: str, order: Sequence[str] = ()) -> pd.DataFrame:
    """For readers: a row per `index`, per value of `columns` three columns `<value>`, `<value>_low`, `<value>_high`.

    `order` is that of the values of `columns` (default: first appearance); those without any number are left out.
    """
    index = [index] if isinstance(index, str) else list(index)
    shown = frame[index].drop_duplicates().reset_index(drop=True)
    for key in order or dict.fromkeys(frame[columns]):
        mine = frame[frame[columns] == key].set_index(index)[["value", "ci_low", "ci_high"]]
        if mine["value"].notna().any():
            shown = shown.join(mine.set_axis([key, f"{key}_low", f"{key}_high"], axis=1), on=index)
    return shown
