"""How sure is a calibration error? The null band of a calibrated model, paired differences, and the order of models."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from beyond_accuracy.dimensions.calibration import (
    CALIBRATED,
    CORRECTION,
    Binning,
    Debiased,
    bin_edges,
    bin_index,
    noise_bias,
)
from beyond_accuracy.measure.stats import Difference, Interval

_CLEAR = norm.isf(0.025)  # standard errors that a confidence gap lies from zero to count as one
_BATCH_ELEMENTS = 2**22  # 32 MB of swaps at a time


class BinConfig(NamedTuple):
    """One way to bin confidences."""

    n_bins: int
    binning: Binning


PAPER = BinConfig(15, "width")


def bin_configs(n_bins: Iterable[int] = range(5, 51, 5), binnings: Iterable[Binning] = ("width", "mass")) -> list:
    """All combinations of numbers of bins and ways of binning, as `BinConfig`s."""
    n_bins = list(n_bins)
    return [BinConfig(n, binning) for binning in binnings for n in n_bins]


def null_ece(
    confidence: ArrayLike, simulations: int, rng: np.random.Generator, n_bins: int = PAPER.n_bins
) -> NDArray[np.float64]:
    """ECE that a perfectly calibrated model with these confidences would show at this number of images.

    Correctness is drawn as Bernoulli(confidence) (consistency resampling; Broecker and Smith 2007, Vaicenavicius et
    al. 2019, arXiv 1902.06977). An observed ECE inside the bulk of these values is no evidence of miscalibration.

    Args:
        confidence: (n,) confidences.
        simulations: Number of simulated outcomes of all images.
        rng: Source of randomness.
        n_bins: Number of equal-width bins.

    Returns:
        (simulations,) errors.
    """
    p = np.sort(np.asarray(confidence, float))
    index = bin_index(p, bin_edges(p, n_bins))
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    expected = np.add.reduceat(p, starts)
    draws = np.empty(simulations)
    for s in range(simulations):
        right = np.add.reduceat(rng.random(len(p), dtype=np.float32) < p, starts, dtype=np.int64)
        draws[s] = np.abs(right - expected).sum() / len(p)
    return draws


def ece_difference(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    swaps: int,
    rng: np.random.Generator,
    n_bins: int = PAPER.n_bins,
    level: float = 0.95,
) -> Difference:
    """Difference of the debiased ECE (equal-width bins) of two models on the same images.

    The p-value is that of a permutation within images: the two models' (confidence, correct) are swapped at random, and
    the difference is measured in standard errors, so that it holds approximately where models have equal errors but are
    not exchangeable (Janssen 1997; Chung and Romano 2013). Swapped answers of a model that is clearly too sure and of
    one that is clearly too unsure would cancel: the residuals of one are then turned round, which leaves its ECE alone.

    The end of the interval nearer to zero is that of the test (zero lies outside where p < 0.05); the other one allows
    for the smallest and the largest correction of noise, as the interval of one model does.

    Args:
        first: (n,) confidences and (n,) outcomes of one model.
        second: Those of the other one.
        swaps: Number of random swaps; the smallest p-value is 1 / (swaps + 1).
        rng: Source of randomness.
        n_bins: Number of bins.
        level: Confidence level.
    """
    confidence, correct = (np.column_stack([a, b]).astype(float) for a, b in zip(first, second, strict=True))
    n, tiny = len(confidence), np.finfo(float).tiny
    held, index = np.unique(bin_index(confidence, bin_edges(confidence.ravel(), n_bins)), return_inverse=True)
    index, n_bins, residual = index.reshape(n, 2), len(held), correct - confidence
    lean = residual.sum(axis=0) / np.sqrt((residual**2).sum(axis=0) + tiny)
    if lean.prod() < 0 and (np.abs(lean) > _CLEAR).all():
        residual[:, 1] *= -1
    # One row per image: its residual and squared residual, in the columns of their bin.
    a, b = np.zeros((2, n, 2, n_bins))
    for k, table in enumerate((a, b)):
        table[np.arange(n), 0, index[:, k]], table[np.arange(n), 1, index[:, k]] = residual[:, k], residual[:, k] ** 2
    own, other = a.sum(axis=0), b.sum(axis=0)
    # Products of residuals by pair of bins, symmetric: the same for every swap.
    shared = np.bincount(index[:, 0] * n_bins + index[:, 1], residual.prod(axis=1), n_bins**2).reshape(n_bins, -1)
    shared, total = (shared + shared.T) / 2, (own + other)[1].sum()

    def measured(own: NDArray, other: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """(..., 2, bins) sums of both models -> difference of ECE and of bias, and standard error, each times n."""
        own, other = np.round(own, 9), np.round(other, 9)  # a bin that a swap empties holds 0, not what rounding left
        plain = np.abs(own[..., 0, :]).sum(axis=-1) - np.abs(other[..., 0, :]).sum(axis=-1)
        bias = noise_bias(own[..., 0, :], own[..., 1, :]) - noise_bias(other[..., 0, :], other[..., 1, :])
        common = ((np.sign(own[..., 0, :]) @ shared) * np.sign(other[..., 0, :])).sum(axis=-1)
        variance = total - 2 * common - plain**2 / n
        return plain - CORRECTION * bias, bias, np.sqrt(np.maximum(variance, tiny))

    difference, bias, error = measured(own, other)
    apart, width = np.empty(swaps), max(1, _BATCH_ELEMENTS // n)
    moved = (b - a).reshape(n, -1)
    for start in range(0, swaps, width):
        size = min(width, swaps - start)
        bits = np.frombuffer(rng.bytes(size * -(-n // 8)), np.uint8).reshape(size, -1)
        step = (np.unpackbits(bits, axis=1, count=n).astype(float) @ moved).reshape(size, 2, n_bins)
        d, _, e = measured(own + step, other - step)
        apart[start : start + size] = np.abs(d) / e
    observed = abs(difference) / error
    p = (1 + np.count_nonzero(apart >= observed * (1 - 1e-7))) / (swaps + 1)
    half = np.quantile(apart, level, method="higher") * error
    slack = (CALIBRATED - CORRECTION) * abs(bias) * np.sign(difference)
    low, high = difference - half + min(slack, 0), difference + half + max(slack, 0)
    return Difference(float(difference / n), Interval(float(low / n), float(high / n)), float(p))


def ordering(errors: Mapping[str, Sequence[Debiased]], configs: Sequence[BinConfig]) -> pd.DataFrame:
    """How often is one model better calibrated than another, over the noise of the images and bin configurations?

    Under each configuration the difference of two models is drawn around its debiased value, with normal noise of the
    paired standard error: so the share of draws in which one is lower says no more than a paired test.

    Args:
        errors: Model -> its debiased ECE under every configuration, all on the same images.
        configs: Bin configurations.

    Returns:
        One row per pair: `better`, `worse` (the better one has the lower ECE in more than half), `share` of all draws
        with that order, `lowest` share over configurations and the configuration `lowest_n_bins`, `lowest_binning`
        where it occurs, `clear` (number of configurations with a share of at least 0.975), `configs` (their number).
        Shares are rounded here, once, to a tenth of a percent and never up to 1: every reader prints the same digits.
    """
    columns = ["better", "worse", "share", "lowest", "lowest_n_bins", "lowest_binning", "clear", "configs"]
    rows = []
    for a, b in combinations(errors, 2):
        wins = np.array([_share_lower(*pair) for pair in zip(errors[a], errors[b], strict=True)])
        if wins.mean() < 0.5:
            a, b, wins = b, a, 1 - wins
        worst, clear = int(wins.argmin()), int((wins >= norm.cdf(_CLEAR)).sum())
        share, lowest = (min(round(float(value), 3), 0.999) for value in (wins.mean(), wins[worst]))
        rows.append((a, b, share, lowest, *configs[worst], clear, len(configs)))
    return pd.DataFrame(rows, columns=columns)


def _share_lower(a: Debiased, b: Debiased) -> float:
    apart = a.signed - b.signed
    difference, error = apart.mean() - CORRECTION * (a.bias - b.bias), apart.std() / np.sqrt(len(apart))
    return float(norm.cdf(-difference / max(error, 1e-12)))
