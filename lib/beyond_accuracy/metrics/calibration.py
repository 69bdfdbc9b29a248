"""Can a model's confidence be trusted? Calibration errors and proper scores (figure 4 of the paper, and beyond).

Confidence is the largest softmax probability of an image, correct says whether that class is right. A model is
calibrated when, among the images it is p confident about, a share p is right.

All errors are fractions (0.05 = five points). Functions raise ValueError on empty input, NaN or values outside 0..1.
"""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct, idct
from scipy.optimize import brentq
from scipy.special import erf

from ..stats import wilson

Norm = Literal["l1", "l2", "max"]
Binning = Literal["width", "mass"]

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


def ece(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 15,
    norm: Norm = "l1",
    binning: Binning = "width",
) -> float:
    """Expected calibration error: mean gap between accuracy and confidence over bins of confidence.

    ECE = sum_b n_b / n * |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599); `"l2"` is the root of
    the weighted mean square, `"max"` the largest gap (MCE). The paper uses 15 equal-width bins and `"l1"`.

    Args:
        confidence: (n,) confidences in 0..1.
        correct: (n,) booleans.
        n_bins: Number of bins.
        norm: How the bins' gaps are combined.
        binning: `"width"` or `"mass"`, see `bin_edges`.

    >>> round(ece([0.95, 0.85, 0.75, 0.65], [True, True, False, True], n_bins=2), 3)
    0.05
    """
    confidence, correct = _pair(confidence, correct)
    n, mean, accuracy = _bin_means(confidence, correct, bin_edges(confidence, n_bins, binning))
    gap, share = np.abs(accuracy - mean), n / n.sum()
    if norm == "l1":
        return float(share @ gap)
    if norm == "l2":
        return float(np.sqrt(share @ gap**2))
    if norm == "max":
        return float(gap.max())
    raise ValueError(f"norm is 'l1', 'l2' or 'max', got {norm!r}")


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


def ece_debiased(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 15,
    norm: Literal["l1", "l2"] = "l1",
    binning: Binning = "width",
) -> float:
    """ECE without the upward bias of finite bins (Kumar, Liang, Ma 2019, arXiv 1909.10155).

    Even a calibrated model shows gaps, because a bin's accuracy is a noisy mean. `"l2"` subtracts the variance
    accuracy (1 - accuracy) / (n_b - 1) from each squared gap (the estimate may go below zero and is cut
    there before the root). `"l1"` subtracts the bias of |gap| when the bin's accuracy is normal with the observed mean
    and variance, as their library does by simulation; here in closed form (mean of a folded normal).
    """
    confidence, correct = _pair(confidence, correct)
    n, mean, accuracy = _bin_means(confidence, correct, bin_edges(confidence, n_bins, binning))
    gap, share = np.abs(accuracy - mean), n / n.sum()
    # A bin of one image, or of only right or only wrong answers, has variance 0 here and stays as it is.
    if norm == "l2":
        variance = accuracy * (1 - accuracy) / np.maximum(n - 1, 1)
        return float(np.sqrt(max(share @ (gap**2 - variance), 0.0)))
    if norm != "l1":
        raise ValueError(f"norm is 'l1' or 'l2', got {norm!r}")
    sd = np.sqrt(accuracy * (1 - accuracy) / n)
    z = np.divide(gap, sd, out=np.full(len(gap), np.inf), where=sd > 0)
    folded = sd * np.sqrt(2 / np.pi) * np.exp(-(np.minimum(z, 40) ** 2) / 2) + gap * erf(z / np.sqrt(2))
    return float(max(share @ (2 * gap - folded), 0.0))


def ece_sweep(confidence: ArrayLike, correct: ArrayLike) -> tuple[float, int]:
    """ECE with as many equal-mass bins as keep accuracy rising with confidence (Roelofs et al. 2022).

    "Mitigating Bias in Calibration Error Estimation", AISTATS 2022, arXiv 2012.08668: the number of bins
    is raised until the accuracies of neighbouring bins are no longer monotone.

    Returns:
        The error and the number of bins it was computed with.
    """
    confidence, correct = _pair(confidence, correct)
    best = 1
    for n_bins in range(2, len(np.unique(confidence)) + 1):
        _, _, accuracy = _bin_means(confidence, correct, bin_edges(confidence, n_bins, "mass"))
        if (np.diff(accuracy) < 0).any():
            break
        best = n_bins
    return ece(confidence, correct, best, binning="mass"), best


def smooth_ece(confidence: ArrayLike, correct: ArrayLike, bandwidth: float | None = None) -> tuple[float, float]:
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
        The error and its bandwidth.
    """
    confidence, correct = _pair(confidence, correct)
    cell = np.minimum((confidence * _GRID).astype(int), _GRID - 1)
    spectrum = dct(np.bincount(cell, correct - confidence, _GRID) / len(confidence), norm="ortho")
    decay = (np.pi * np.arange(_GRID)) ** 2 / 2

    def error(s: float) -> float:
        return float(np.abs(idct(spectrum * np.exp(-decay * s**2), norm="ortho")).sum())

    if bandwidth is not None:
        return error(bandwidth), bandwidth
    if error(_MIN_BANDWIDTH) <= _MIN_BANDWIDTH:
        return error(_MIN_BANDWIDTH), _MIN_BANDWIDTH
    # error(s) falls with s and is at most 1: it crosses s exactly once, at 1 for a model that is always sure and wrong.
    if error(1.0) >= 1 - 1e-9:
        return error(1.0), 1.0
    s = brentq(lambda s: error(s) - s, _MIN_BANDWIDTH, 1.0, xtol=1e-6)
    return error(s), s


def classwise_ece(
    probabilities: ArrayLike, targets: ArrayLike, n_bins: int = 15, binning: Binning = "width"
) -> NDArray[np.float64]:
    """ECE of every class probability, not only of the largest one (Kull et al. 2019, arXiv 1910.12656).

    Args:
        probabilities: (n, classes) probabilities.
        targets: (n,) index of the true class among the columns.
        n_bins: Number of bins.
        binning: As in `bin_edges`.

    Returns:
        (classes,) errors; the classwise ECE is their mean.
    """
    probabilities, targets = _distribution(probabilities, targets)
    errors = np.empty(probabilities.shape[1])
    for k, column in enumerate(probabilities.T):
        column = np.clip(column.astype(float), 0, 1)
        index = bin_index(column, bin_edges(column, n_bins, binning))
        errors[k] = np.abs(np.bincount(index, (targets == k) - column)).sum() / len(column)
    return errors


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
