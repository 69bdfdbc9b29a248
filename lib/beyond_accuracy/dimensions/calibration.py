"""Can a model's confidence be trusted? Calibration errors and proper scores (figure 4 of the paper, and beyond).

Confidence is the largest softmax probability of an image, correct says whether that class is right. A model is
calibrated when, among the images it is p confident about, a share p is right.

All errors are fractions (0.05 = five points). Functions raise ValueError on empty input, NaN or values outside 0..1.
"""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct, idct
from scipy.optimize import brentq
from scipy.special import erf
from scipy.stats import norm

from beyond_accuracy.measure.stats import Interval, wilson

Binning = Literal["width", "mass"]

CALIBRATED = 1 + 2**0.5
"""What a calibrated model's bias is in multiples of the bias that its noisy gaps suggest."""
CORRECTION = (1 + CALIBRATED) / 2
"""Multiple that `ece_debiased` subtracts."""

_GRID = 2**14  # cells of the smooth ECE; a tenth of the smallest bandwidth that 50,000 images can resolve
_MIN_BANDWIDTH = 1e-3


def bin_edges(confidence: ArrayLike, n_bins: int = 15, binning: Binning = "width") -> NDArray[np.float64]:
    """Edges of right-closed bins ]low, high] over 0..1; the first bin also holds a confidence of exactly 0.

    Args:
        confidence: (n,) confidences.
        n_bins: Number of bins.
        binning: `"width"`: equal width, as in the paper. `"mass"`: equal number of images; images of equal confidence
            stay together, so that ties may leave fewer bins.

    Returns:
        (bins + 1,) increasing edges, the first 0 and the last 1.
    """
    confidence = _checked(confidence)
    if n_bins < 1:
        raise ValueError(f"at least one bin is needed, got {n_bins}")
    if binning == "width":
        return np.linspace(0, 1, n_bins + 1)
    if binning != "mass":
        raise ValueError(f"binning is 'width' or 'mass', got {binning!r}")
    # Edges are confidences that occur: with right-closed bins this splits n distinct values into equal counts.
    inner = np.quantile(confidence, np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    return np.concatenate([[0.0], np.unique(inner[(inner > 0) & (inner < 1)]), [1.0]])


def bin_index(confidence: ArrayLike, edges: ArrayLike) -> NDArray[np.intp]:
    """Bin of each confidence, 0-based, for right-closed bins."""
    return np.searchsorted(np.asarray(edges)[1:-1], np.asarray(confidence, float), side="left")


def ece(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width") -> float:
    """Expected calibration error: mean gap between accuracy and confidence over bins of confidence.

    ECE = sum_b n_b / n * |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599). The paper uses 15 equal-width
    bins.

    Args:
        confidence: (n,) confidences in 0..1.
        correct: (n,) booleans.
        n_bins: Number of bins.
        binning: `"width"` or `"mass"`, see `bin_edges`.

    >>> round(ece([0.95, 0.85, 0.75, 0.65], [True, True, False, True], n_bins=2), 3)
    0.05
    """
    return float(signed_residuals(confidence, correct, n_bins, binning).mean())


def signed_residuals(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width"
) -> NDArray[np.float64]:
    """(n,) values whose mean is the ECE: correct minus confidence, with the sign that their sum has in the bin."""
    confidence, correct = _pair(confidence, correct)
    index = bin_index(confidence, bin_edges(confidence, n_bins, binning))
    residual = correct - confidence
    return np.sign(np.bincount(index, residual))[index] * residual


def plain_interval(signed: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of a calibration error that is the mean of signed residuals, its noise included.

    Noise pushes the ECE and its kin (classwise, sweep, smooth) up. This interval is of what as many other images would
    show on average; for that of the model's own error see `ece_debiased`.
    """
    signed = np.asarray(signed, float)
    half = norm.isf((1 - level) / 2) * signed.std() / np.sqrt(len(signed))
    return Interval(float(max(signed.mean() - half, 0.0)), float(signed.mean() + half))


def reliability(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width", level: float = 0.95
) -> pd.DataFrame:
    """The reliability diagram as a table: one row per bin that holds images.

    Returns:
        Columns `bin`, `low`, `high` (edges), `n`, `confidence` (mean), `accuracy`, `ci_low`, `ci_high` (Wilson).
    """
    confidence, correct = _pair(confidence, correct)
    edges = bin_edges(confidence, n_bins, binning)
    held = np.unique(bin_index(confidence, edges))
    n, mean, accuracy = _bin_means(confidence, correct, edges)
    intervals = [wilson(round(a * m), m, level) for a, m in zip(accuracy, n, strict=True)]
    return pd.DataFrame(
        {
            "bin": held,
            "low": edges[held],
            "high": edges[held + 1],
            "n": n,
            "confidence": mean,
            "accuracy": accuracy,
            "ci_low": [interval.low for interval in intervals],
            "ci_high": [interval.high for interval in intervals],
        }
    )


class Debiased(NamedTuple):
    """An ECE without the bias of noisy bins.

    Attributes:
        signed: (n,) signed residuals, whose mean is the plain ECE.
        bias: Part of it that is noise if the bins' true gaps are as large as the observed ones.
    """

    signed: NDArray[np.float64]
    bias: float

    @property
    def plain(self) -> float:
        """The ECE as it is."""
        return float(self.signed.mean())

    @property
    def value(self) -> float:
        """The debiased error, at least 0."""
        return max(self.plain - CORRECTION * self.bias, 0.0)

    def interval(self, null_draws: ArrayLike | None = None, level: float = 0.95) -> Interval:
        """Interval of the model's own error; it holds `value`.

        It reaches from the error left by the largest correction to that left by the smallest (`CALIBRATED` and 1), two
        standard errors further at each end, and down to 0 unless the ECE exceeds what calibrated models show.

        Args:
            null_draws: (simulations,) draws of `calibration_resampling.null_ece` with the same bins, if there are.
            level: Confidence level.
        """
        half = norm.isf((1 - level) / 2) * self.signed.std() / np.sqrt(len(self.signed))
        low = max(self.plain - CALIBRATED * self.bias - half, 0.0)
        if null_draws is not None and self.plain <= np.quantile(null_draws, (1 + level) / 2):
            low = 0.0
        return Interval(float(low), float(min(max(self.plain - self.bias, 0.0) + half, 1.0)))


def ece_debiased(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width") -> Debiased:
    """ECE without the upward bias of finite bins (after Kumar, Liang, Ma 2019, arXiv 1909.10155).

    Even a calibrated model shows gaps, because a bin's accuracy is a noisy mean. Kumar et al. subtract the bias that
    bins with the observed gaps would have. Being noisy themselves, the gaps of a calibrated model show sqrt(2) - 1 of
    its bias only; subtracting all of it (`CALIBRATED` times theirs) would take too much where gaps are as large as
    noise. `CORRECTION` times theirs lies halfway: what is left is within a quarter of a bin's noise either way.

    The noise of a bin's gap is taken from its residuals, the standard error from all signed residuals.
    """
    signed = signed_residuals(confidence, correct, n_bins, binning)
    index, n = bin_index(confidence, bin_edges(confidence, n_bins, binning)), len(signed)
    return Debiased(signed, float(noise_bias(np.bincount(index, signed) / n, np.bincount(index, signed**2) / n**2)))


def noise_bias(gap: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upward bias of sum_b |gap_b| if each gap has normal noise: the mean of folded normals, minus the gaps.

    Args:
        gap: (..., bins) gaps, of either sign.
        variance: Variances of their noise, same shape.
    """
    gap, sd = np.abs(gap), np.sqrt(np.maximum(variance, 0))  # sums that should be 0 may round below it
    z = np.minimum(np.divide(gap, sd, out=np.full_like(gap, 40.0), where=sd > 0), 40.0)
    return (sd * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (erf(z / np.sqrt(2)) - 1)).sum(axis=-1)


def ece_sweep(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """ECE with as many equal-mass bins as keep accuracy rising with confidence (Roelofs et al. 2022).

    "Mitigating Bias in Calibration Error Estimation", AISTATS 2022, arXiv 2012.08668: the number of bins
    is raised until the accuracies of neighbouring bins are no longer monotone.

    Returns:
        (n,) signed residuals, whose mean is the error, and the number of bins.
    """
    confidence, correct = _pair(confidence, correct)
    best = 1
    for n_bins in range(2, len(np.unique(confidence)) + 1):
        _, _, accuracy = _bin_means(confidence, correct, bin_edges(confidence, n_bins, "mass"))
        if (np.diff(accuracy) < 0).any():
            break
        best = n_bins
    return signed_residuals(confidence, correct, best, "mass"), best


def smooth_ece(
    confidence: ArrayLike, correct: ArrayLike, bandwidth: float | None = None
) -> tuple[NDArray[np.float64], float]:
    """Smooth calibration error: no bins, consistent, its bandwidth follows from the data.

    smECE_s = integral over 0..1 of |r_s(t)|, r_s(t) = 1/n sum_i K_s(t, confidence_i) (correct_i - confidence_i), with
    the Gaussian kernel reflected at 0 and 1; s solves smECE_s = s (Blasiok and Nakkiran 2023, arXiv 2309.12236).
    The reflected Gaussian is the heat kernel of the interval, diagonal in the cosine basis: one
    cosine transform gives r_s for every s.

    Args:
        confidence: (n,) confidences.
        correct: (n,) booleans.
        bandwidth: A fixed s instead of the fixed point.

    Returns:
        (n,) residuals weighted by the smoothed sign of r_s, whose mean is the error, and the bandwidth.
    """
    confidence, correct = _pair(confidence, correct)
    cell = np.minimum((confidence * _GRID).astype(int), _GRID - 1)
    residual = correct - confidence
    spectrum = dct(np.bincount(cell, residual, _GRID) / len(confidence), norm="ortho")
    decay = (np.pi * np.arange(_GRID)) ** 2 / 2

    def smoothed(s: float) -> NDArray[np.float64]:
        return idct(spectrum * np.exp(-decay * s**2), norm="ortho")

    def excess(s: float) -> float:
        return float(np.abs(smoothed(s)).sum()) - s

    if bandwidth is None:
        # The error falls with s and is at most 1: it crosses s once, at 1 for a model that is always sure and wrong.
        if excess(_MIN_BANDWIDTH) <= 0:
            bandwidth = _MIN_BANDWIDTH
        else:
            bandwidth = 1.0 if excess(1.0) >= -1e-9 else brentq(excess, _MIN_BANDWIDTH, 1.0, xtol=1e-6)
    sign = dct(np.sign(smoothed(bandwidth)), norm="ortho")
    return idct(sign * np.exp(-decay * bandwidth**2), norm="ortho")[cell] * residual, bandwidth


def classwise_ece(
    probabilities: ArrayLike, targets: ArrayLike, n_bins: int = 15, binning: Binning = "width"
) -> NDArray[np.float64]:
    """ECE of every class probability, not only of the largest one, averaged (Kull et al. 2019, arXiv 1910.12656).

    Args:
        probabilities: (n, classes) probabilities.
        targets: (n,) index of the true class among the columns.
        n_bins: Number of bins.
        binning: As in `bin_edges`.

    Returns:
        (n,) signed residuals averaged over classes, whose mean is the classwise ECE.
    """
    probabilities, targets = _distribution(probabilities, targets)
    classes = enumerate(probabilities.T)  # one column at a time: memory does not grow with the number of classes
    signed = (signed_residuals(np.clip(p.astype(float), 0, 1), targets == k, n_bins, binning) for k, p in classes)
    return sum(signed) / probabilities.shape[1]


def brier(probabilities: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Brier score per image: sum over classes of (probability - [true class])^2, from 0 to 2 (Brier 1950)."""
    probabilities, targets = _distribution(probabilities, targets)
    own = probabilities[np.arange(len(targets)), targets].astype(float)
    return np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64) + 1 - 2 * own


def nll(target_probability: ArrayLike) -> NDArray[np.float64]:
    """Negative log-likelihood per image in nats: -log(probability of the true class)."""
    probability = _checked(target_probability, "target probability")
    # float32 probabilities underflow to 0 near 1e-45; clip there, or one such image makes the mean infinite.
    return -np.log(np.maximum(probability, np.finfo(np.float32).smallest_subnormal))


def signed_gap(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean confidence minus accuracy: above zero overconfident, below zero underconfident."""
    confidence, correct = _pair(confidence, correct)
    return float(np.mean(confidence - correct))


def _bin_means(
    confidence: NDArray[np.float64], correct: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Images, mean confidence and accuracy of the bins that hold images."""
    index = bin_index(confidence, edges)
    n = np.bincount(index, minlength=len(edges) - 1)
    held = n > 0
    sums = [np.bincount(index, values, len(n))[held] for values in (confidence, correct)]
    return n[held], sums[0] / n[held], sums[1] / n[held]


# -------------------------------------------------------------------------------------------------------------- checks


def _checked(probability: ArrayLike, what: str = "confidence") -> NDArray[np.float64]:
    values = np.asarray(probability, float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{what}: one value per image is expected, got shape {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():  # also false for NaN
        bad = int(np.flatnonzero(~((values >= 0) & (values <= 1)))[0])
        raise ValueError(f"{what} must lie in 0..1, got {values[bad]} for image {bad}")
    return values


def _pair(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    confidence, correct = _checked(confidence), _checked(correct, "correct")
    if confidence.shape != correct.shape:
        raise ValueError(f"one outcome per confidence is expected, got {correct.size} for {confidence.size}")
    return confidence, correct


def _distribution(probabilities: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
    probabilities, targets = np.asarray(probabilities), np.asarray(targets)
    if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1] or targets.size == 0:
        raise ValueError(f"(n, classes) and (n,) are expected, got {probabilities.shape} and {targets.shape}")
    if targets.min() < 0 or targets.max() >= probabilities.shape[1]:
        raise ValueError(f"targets must lie in 0..{probabilities.shape[1] - 1}")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise ValueError("the probabilities of an image must sum to 1")
    return probabilities, targets
