"""Intervals, paired tests and corrections: the statistics behind every number of the report.

Resampling is over images, or over whole clusters of images that share an origin (a shape image, a source image, a
scene). A resample is a vector of integer counts, one per image, so that statistics of weighted sums need one matrix
product for all resamples, and models resampled with the same counts are compared as pairs.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 6, 13 and 16; Davison and Hinkley,
Bootstrap Methods and their Application (1997), chapter 4 for the (1 + k) / (B + 1) p-value; Hesterberg, What Teachers
Should Know About the Bootstrap (2015), section 5.3 for the expanded percentile interval; Korn and Graubard, Confidence
Intervals for Proportions with Small Expected Number of Positive Counts (1998) for shares of clusters; Tango,
Equivalence Test and Confidence Interval for the Difference in Proportions for the Paired-Sample Design (1998);
Fagerland, Lydersen and Laake, The McNemar Test for Binary Matched-Pairs Data (2013).

A ValueError where there are no data or some are NaN, where paired lengths differ, and where there is a single cluster.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logit
from scipy.stats import chi2, norm, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

Z95 = float(norm.isf(0.025))  # half the width of a 95 % interval in standard errors
# Least number of resamples behind a printed p-value: its smallest value is then 1e-4, small enough to survive Holm.
P_VALUE_RESAMPLES = 20_000

_TIE = 1e-9  # of the largest draw: below it a draw is rounding of an exact zero
_BATCH_ELEMENTS = 2**22  # 16 MB of float32 counts: stays near the cache, and memory does not grow with resamples
_MAX_CELLS_SHARE = 1 / 20  # distinct rows up to this share of n: drawing cells is cheaper than drawing images


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference a - b with its interval and two-sided p-value."""

    estimate: float
    interval: Interval
    p_value: float


def odds(percent: ArrayLike) -> NDArray[np.float64]:
    """Log-odds of percent; 0 and 100 have none and are moved inside."""
    return logit(np.clip(np.asarray(percent, float), 0.2, 99.8) / 100)


# ---------------------------------------------------------------------------------------------------------- intervals


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927); stays inside 0..1 and is exact in spirit at 0 and n.

    >>> [round(x, 4) for x in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if n < 1:
        raise ValueError("a proportion of no images has no interval: n is 0")
    if not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0..n, got {correct} of {n}")
    return Interval(*map(float, proportion_confint(int(correct), int(n), alpha=1 - level, method="wilson")))


def share_interval(
    hits: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95, crossed: ArrayLike | None = None,
    weights: ArrayLike | None = None, effect: float | None = None,
) -> Interval:  # fmt: skip
    """Interval of a share of images: Wilson's, at the number of independent images that the clusters are worth.

    With clusters the number of images is divided by the design effect and by (t / z)^2 for the few clusters that it was
    estimated from (Korn and Graubard 1998). A share of 0 or 1 shows no spread: each cluster then counts once.

    Args:
        hits: (n,) booleans.
        clusters: (n,) cluster of each image; None for independent images.
        level: Confidence level.
        crossed: (n,) second clusters, across the first, as for `clustered_variance`.
        weights: (n,) weights of clustered images; None for equal ones.
        effect: Design effect where more is known of it than these images tell, such as over several groups of images;
            NaN where even those do not tell it.

    >>> [round(x, 3) for x in share_interval([True] * 10)]
    [0.722, 1.0]
    """
    hits = _finite(hits, "hits")
    n, share = len(hits), float(np.average(hits, weights=weights))
    if clusters is None:
        return wilson(int(hits.sum()), n, level)
    units, worth = _units(clusters), math.nan
    if effect is not None:
        worth = n / effect
    elif units < 2 or np.ptp(hits) > 0:
        shares = np.full(n, 1 / n) if weights is None else np.asarray(weights, float) / np.sum(weights)
        spread = clustered_variance(shares * (hits - share), clusters, crossed)
        few, tail = _freedom(_units(clusters, crossed)), (1 - level) / 2
        # no spread between clusters at all: the images are worth more than independent ones
        worth = share * (1 - share) / spread * (norm.isf(tail) / t.isf(tail, few)) ** 2 if spread > 0 else n
    worth = units if math.isnan(worth) else float(np.clip(worth, min(1, n), n))
    ends = np.clip(proportion_confint(share * worth, worth, alpha=1 - level, method="wilson"), 0, 1)
    return Interval(*map(float, ends))


def design_effect(hits: ArrayLike, clusters: ArrayLike | None) -> float:
    """How many images of a share are worth one independent image, at least 1: see `share_interval`.

    A share without spread: as many as there are per cluster.
    """
    hits = _finite(hits, "hits")
    n, share = len(hits), float(hits.mean())
    if clusters is None:
        return 1.0
    units = _units(clusters)
    if not 0 < share < 1:
        return n / units
    spread, tail = clustered_variance((hits - share) / n, clusters), 0.025
    few = (norm.isf(tail) / t.isf(tail, _freedom(units))) ** 2
    return max(1.0, n * spread / (share * (1 - share)) / few)


def standard_error(values: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Of the mean of (n,) values; with clusters these are what is independent."""
    values = _finite(values, "values")
    if clusters is None:
        return float(values.std() / math.sqrt(len(values)))
    return math.sqrt(clustered_variance((values - values.mean()) / len(values), clusters))


def clustered_variance(influence: ArrayLike, clusters: ArrayLike, crossed: ArrayLike | None = None) -> float:
    """Variance of a sum over images that share origins: one kind of cluster, or two kinds that cross (shape, texture).

    V = V_clusters + V_crossed - V_images (Cameron, Gelbach and Miller 2011, Robust Inference with Multiway Clustering),
    and not less than either of the two.

    `influence` (n,) are the terms of the sum, each less its expectation: for a mean (value - mean) / n; `clusters` and
    `crossed` (n,) the images' origins.
    """
    influence = _finite(influence, "influence")

    def variance(labels: ArrayLike) -> float:
        index, units = _clusters(len(influence), labels)
        sums = np.bincount(index, influence, units)
        sums[np.abs(sums) <= _TIE * np.abs(influence).max()] = 0.0  # rounding of terms that cancel
        return float(units / (units - 1) * np.sum(sums**2))

    one = variance(clusters)
    if crossed is None:
        return one
    other = variance(crossed)
    return max(one + other - float(np.sum(influence**2)), one, other)


def linear_difference(
    estimate: float, influence: ArrayLike, clusters: ArrayLike, crossed: ArrayLike | None = None
) -> Difference:
    """Interval and p-value of a smooth statistic of clustered images, zero without a difference, by Student's t.

    `influence` (n,) is its derivative with respect to each image's weight; with it, clusters and crossed are as for
    `clustered_variance`. The fewer kind of cluster gives the degrees of freedom.
    """
    error = math.sqrt(clustered_variance(influence, clusters, crossed))
    freedom = _freedom(_units(clusters, crossed))
    reach = float(t.isf(0.025, freedom)) * error
    # without any spread the statistic is what it is: zero up to rounding, or certainly not
    p = 2 * float(t.sf(abs(estimate) / error, freedom)) if error else float(abs(estimate) < _TIE)
    return Difference(float(estimate), Interval(float(estimate) - reach, float(estimate) + reach), p)


def half_width_sd(low: ArrayLike, high: ArrayLike) -> ArrayLike:
    """Standard error that a 95 % interval implies under the normal approximation."""
    return (high - low) / (2 * Z95)


def settle(draws: ArrayLike) -> NDArray[np.float64]:
    """Draws of a difference with rounding removed: what is below 1e-9 of the largest is exactly zero."""
    draws = np.asarray(draws, float)
    return np.where(np.abs(draws) <= _TIE * np.abs(draws).max(initial=0.0), 0.0, draws)


def percentile_interval(draws: ArrayLike, units: int | None = None) -> Interval:
    """95 % percentile bootstrap interval of one statistic from its (resamples,) draws.

    `units` is the number of independent units that were resampled, where they are few: the percentiles are moved
    outwards to t quantiles, times sqrt(units / (units - 1)), since a bootstrap's spread lacks that factor (Hesterberg
    2015). None for many; below 2 a ValueError.
    """
    draws, tail = _finite(draws, "bootstrap draws"), 0.025
    if draws.ndim != 1:
        raise ValueError(f"draws of one statistic are expected, got shape {draws.shape}")
    if units is not None:
        tail = float(norm.sf(t.isf(tail, _freedom(units)) * math.sqrt(units / (units - 1))))
    return Interval(*map(float, np.quantile(settle(draws), [tail, 1 - tail])))


def _freedom(units: int) -> int:
    if units < 2:
        raise ValueError(f"at least two units are needed, got {units}")
    return units - 1


# ---------------------------------------------------------------------------------------------------------- resampling


def resample_weights(
    n: int, resamples: int, rng: np.random.Generator, clusters: ArrayLike | None = None
) -> Iterator[NDArray[np.float32]]:
    """Bootstrap resamples as integer counts, how often each image was drawn, in blocks (resamples of the block, n).

    `clusters` (n,) are labels of any kind: whole clusters are drawn, as many as there are, so that a resample's counts
    need not sum to n. None draws images. The draws do not depend on the size of the blocks.
    """
    index, units = _clusters(n, clusters)
    if resamples < 1:
        raise ValueError(f"at least one resample is needed, got {resamples}")
    for size in _batches(resamples, n):
        counts = np.empty((size, units), np.float32)
        for row in counts:  # one row at a time keeps draws and counts in the cache: several times faster than 2-D
            row[:] = np.bincount(rng.integers(0, units, units), minlength=units)
        yield counts if index is None else counts[:, index]


def bootstrap(
    statistic: Callable[[NDArray[np.float32]], NDArray], n: int, resamples: int, rng: np.random.Generator,
    clusters: ArrayLike | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """(resamples, ...) draws of any statistic that maps (batch, n) counts of `resample_weights` to (batch, ...)."""
    return np.concatenate([np.asarray(statistic(w), float) for w in resample_weights(n, resamples, rng, clusters)])


def bootstrap_means(
    values: ArrayLike, resamples: int, rng: np.random.Generator, clusters: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Draws (resamples,) or (resamples, k) of the column means of values (n,) or (n, k).

    Columns are resampled together, so their draws are paired. With clusters the mean of a resample is the ratio of its
    sum to its number of images. Few distinct rows (0/1 outcomes of some models) are drawn as multinomial counts of
    those rows, which has exactly the same distribution and costs next to nothing.
    """
    table = _finite(values, "values")
    if table.ndim > 2:
        raise ValueError(f"one row per image is expected, got shape {table.shape}")
    one, table = table.ndim == 1, table.reshape(len(table), -1)
    if clusters is None:
        draws = _draw_means(table, resamples, rng)
    else:
        index, units = _clusters(len(table), clusters)
        # Sums and sizes per cluster carry all that a cluster bootstrap of means needs: as many rows as clusters.
        sums = np.stack([np.bincount(index, column, units) for column in table.T], axis=1)
        means = _draw_means(np.column_stack([sums, np.bincount(index, minlength=units)]), resamples, rng)
        draws = means[:, :-1] / means[:, -1:]
    return draws[:, 0] if one else draws


def _draw_means(table: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    n = len(table)
    ordered = table[np.lexsort(table.T[::-1])]
    first = np.flatnonzero(np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1)))
    if len(first) <= int(n * _MAX_CELLS_SHARE):
        rows, shares = ordered[first], np.diff(first, append=n) / n
        batches = _batches(resamples, len(rows))
        return np.concatenate([rng.multinomial(n, shares, size=size) @ rows / n for size in batches])
    # float64: sums of 0/1 outcomes are exact, so that equal means are equal on every machine
    return bootstrap(lambda weights: weights @ table, n, resamples, rng) / n


# --------------------------------------------------------------------------------------------------------------- tests


def bootstrap_p_value(draws_of_difference: ArrayLike, units: int | None = None) -> float:
    """Two-sided p-value of a difference of zero, from (resamples,) bootstrap draws of the difference.

    Twice the smaller share of draws on one side of zero, with the observed sample counted once: (1 + k) / (B + 1).
    Print it only with at least `P_VALUE_RESAMPLES` draws, and the smallest one it can be (`p_value_floor`) as a bound.
    With few `units`, as in `percentile_interval`, the p-value is Student's.

    >>> bootstrap_p_value([0.1, 0.2, 0.3])
    0.5
    """
    draws = settle(_finite(draws_of_difference, "bootstrap draws")).ravel()
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return _two_sided((1 + tail) / (len(draws) + 1), units)


def p_value_floor(resamples: int, units: int | None = None) -> float:
    """The smallest p-value that `bootstrap_p_value` can give: a p-value there means `less than this`.

    >>> round(p_value_floor(20_000), 6)
    0.0001
    """
    return _two_sided(1 / (resamples + 1), units)


def _two_sided(tail: float, units: int | None) -> float:
    if units is not None and tail < 0.5:
        tail = float(t.sf(norm.isf(tail) * math.sqrt((units - 1) / units), _freedom(units)))
    return float(min(1.0, 2 * tail))


def accuracy_difference(correct_a: ArrayLike, correct_b: ArrayLike) -> Difference:
    """Accuracy of a minus that of b over the same (n,) images, with its score interval and McNemar's p-value.

    The interval holds every difference that the score test does not reject (Tango 1998): it excludes zero exactly where
    p < .05, and has a width where the models are right on the same images. The test is neither exact nor has it a
    continuity correction: both reject too rarely at any number of images (Fagerland, Lydersen and Laake 2013).

    >>> estimate, interval, p = accuracy_difference([True] * 20, [True] * 20)
    >>> estimate, [round(x, 3) for x in interval], p
    (0.0, [-0.161, 0.161], 1.0)
    """
    a, b = np.asarray(correct_a).astype(bool), np.asarray(correct_b).astype(bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"paired outcomes must have one equal length above 0, got shapes {a.shape} and {b.shape}")
    n, only_a, only_b = a.size, int(np.sum(a & ~b)), int(np.sum(~a & b))
    gap, apart = (only_a - only_b) / n, only_a + only_b

    def score(difference: float) -> float:
        """Distance of a difference from the estimate, in its own standard errors."""
        linear = (2 - gap) * difference - apart / n
        share = (math.sqrt(linear**2 + 8 * only_b / n * difference * (1 - difference)) - linear) / 4  # only b right
        variance = (2 * share + difference * (1 - difference)) / n
        return (difference - gap) / math.sqrt(max(variance, 1e-30))

    low = brentq(lambda d: score(d) + Z95, -1, gap) if gap > -1 else -1.0
    high = brentq(lambda d: score(d) - Z95, gap, 1) if gap < 1 else 1.0
    p = float(chi2.sf((only_a - only_b) ** 2 / apart, 1)) if apart else 1.0
    return Difference(gap, Interval(float(low), float(high)), p)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down correction of the p-values of one table, of any shape; NaN (not compared) is not counted.

    >>> holm([0.01, 0.04, float("nan")]).tolist()
    [0.02, 0.04, nan]
    """
    p = np.asarray(p_values, float)
    made = ~np.isnan(p)
    if np.any((p[made] < 0) | (p[made] > 1)):
        raise ValueError("p-values must lie in 0..1")
    corrected = np.full(p.shape, np.nan)
    if made.any():
        corrected[made] = multipletests(p[made], method="holm")[1]
    return corrected


# ------------------------------------------------------------------------------------------------------------- checks


def _batches(resamples: int, width: int) -> list[int]:
    """Sizes of the blocks in which resamples of `width` numbers each are drawn."""
    size = max(1, _BATCH_ELEMENTS // width)
    full, rest = divmod(resamples, size)
    return [size] * full + [rest] * bool(rest)


def _finite(values: ArrayLike, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, float)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{what}: no data")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: {int((~np.isfinite(array)).sum())} of {array.size} are NaN or infinite")
    return array


def _units(*clusters: ArrayLike | None) -> int:
    """Number of clusters, of the fewer kind."""
    return min(coded(labels)[1] for labels in clusters if labels is not None)


def coded(labels: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """Index of each of (n,) labels of any kind among the distinct ones, in order, and how many these are."""
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu" and labels.size and 0 <= labels.min() and labels.max() < 2 * len(labels):
        there = np.bincount(labels) > 0  # millions of small integers: no sorting, no hashing
        return (np.cumsum(there) - 1)[labels], int(there.sum())
    names, index = np.unique(labels, return_inverse=True)
    return index, len(names)


def _clusters(n: int, clusters: ArrayLike | None) -> tuple[NDArray[np.intp] | None, int]:
    """Cluster index of each image (None when images are the units) and the number of units to draw."""
    if n < 1:
        raise ValueError("there are no images to resample")
    if clusters is None:
        return None, n
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"one cluster label per image is expected: {n} images, labels of shape {labels.shape}")
    index, units = coded(labels)
    if units < 2:
        raise ValueError("a cluster bootstrap needs at least two clusters")
    return index, units
