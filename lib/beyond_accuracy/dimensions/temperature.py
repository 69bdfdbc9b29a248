"""Temperature scaling: one number that repairs confidence without changing a prediction (Guo et al. 2017).

The temperature is never fitted on the images it is reported on: on the in-distribution set by cross-fitting, on
shifted sets by carrying over the temperature of the in-distribution set.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import norm
from sklearn.model_selection import GroupKFold, KFold

from beyond_accuracy.measure.stats import Interval

_CHUNK_ELEMENTS = 2**21  # float16 logits are widened chunk by chunk: memory does not grow with the number of images
_LOG_BOUND = math.log(100)  # temperatures from 1/100 to 100; a separable set would otherwise ask for 0


@dataclass(frozen=True)
class CrossFit:
    """Temperatures fitted by cross-fitting.

    Attributes:
        temperature: (n,) temperature for each image, fitted on images of the other folds only.
        fold: (n,) fold of each image.
        per_fold: (folds,) temperature applied to each fold.
    """

    temperature: NDArray[np.float64]
    fold: NDArray[np.intp]
    per_fold: NDArray[np.float64]


def fit_temperature(logits: ArrayLike, targets: ArrayLike, start: float = 1.0) -> float:
    """Temperature T that minimises the negative log-likelihood of softmax(logits / T).

    Convex in 1/T, so that the optimum is unique; found by L-BFGS over log T within 1/100 to 100.

    Args:
        logits: (n, classes) logits of any float type.
        targets: (n,) index of the true class among the columns.
        start: First guess.

    Raises:
        ValueError: On wrong shapes, no images, targets out of range or logits that are not finite.
    """
    logits, targets = _checked(logits, targets)
    return _fit(logits, targets, np.arange(len(targets)), start)


def temperature_interval(logits: ArrayLike, targets: ArrayLike, temperature: float, level: float = 0.95) -> Interval:
    """Interval of a fitted temperature over other images: sandwich standard error of log T (White 1982).

    Args:
        logits: (n, classes) logits it was fitted on.
        targets: (n,) index of the true class among the columns.
        temperature: Of `fit_temperature`.
        level: Confidence level.
    """
    logits, targets = _checked(logits, targets)
    slope = curvature = 0.0
    for part in _chunks(np.arange(len(targets)), logits.shape[1]):
        z = logits[part].astype(float)
        p = softmax(z / temperature, axis=1)
        mean = np.einsum("ij,ij->i", p, z)
        slope += float(((z[np.arange(len(part)), targets[part]] - mean) ** 2).sum())
        curvature += float((np.einsum("ij,ij,ij->i", p, z, z) - mean**2).sum())
    spread = norm.isf((1 - level) / 2) * temperature * math.sqrt(slope) / curvature if curvature > 0 else _LOG_BOUND
    low, high = np.exp(np.clip(math.log(temperature) + spread * np.array([-1, 1]), -_LOG_BOUND, _LOG_BOUND))
    return Interval(float(low), float(high))


def cross_fit(
    logits: ArrayLike,
    targets: ArrayLike,
    rng: np.random.Generator,
    folds: int = 5,
    clusters: ArrayLike | None = None,
) -> CrossFit:
    """Temperature for every image, fitted on the other folds: an honest in-distribution result.

    Args:
        logits: (n, classes) logits.
        targets: (n,) index of the true class among the columns.
        rng: Draws the folds.
        folds: Number of folds.
        clusters: (n,) labels of images that must share a fold, because they share an origin.
    """
    logits, targets = _checked(logits, targets)
    seed = int(rng.integers(2**32))
    everything = np.arange(len(targets))
    if clusters is None:
        splits = KFold(folds, shuffle=True, random_state=seed).split(everything)
    else:
        splits = GroupKFold(folds, shuffle=True, random_state=seed).split(everything, groups=np.asarray(clusters))
    start = _fit(logits, targets, everything, 1.0)  # all folds end near it: only a warm start, re-fitted below
    fold, per_fold = np.empty(len(targets), np.intp), np.empty(folds)
    for k, (train, test) in enumerate(splits):
        fold[test] = k
        per_fold[k] = _fit(logits, targets, train, start)
    return CrossFit(per_fold[fold], fold, per_fold)


@dataclass(frozen=True)
class Scores:
    """What calibration needs of scaled logits, one value per image."""

    confidence: NDArray[np.float64]
    target_probability: NDArray[np.float64]
    square_sum: NDArray[np.float64]

    @property
    def brier(self) -> NDArray[np.float64]:
        """Multi-class Brier score per image, 0 to 2."""
        return self.square_sum + 1 - 2 * self.target_probability


def score(logits: ArrayLike, targets: ArrayLike, temperature: ArrayLike = 1.0) -> Scores:
    """Confidence, probability of the true class and Brier score of softmax(logits / temperature), chunk by chunk.

    Args:
        logits: (n, classes) logits.
        targets: (n,) index of the true class among the columns.
        temperature: One number, or (n,) numbers.
    """
    logits, targets = _checked(logits, targets)
    temperature = np.broadcast_to(np.asarray(temperature, float), targets.shape)
    if not (temperature > 0).all():
        raise ValueError("temperatures must be above 0")
    out = np.empty((3, len(targets)))
    for rows in _chunks(np.arange(len(targets)), logits.shape[1]):
        z = logits[rows].astype(np.float32) / temperature[rows, None].astype(np.float32)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        out[0, rows], out[1, rows] = p.max(axis=1), p[np.arange(len(rows)), targets[rows]]
        out[2, rows] = np.einsum("ij,ij->i", p, p)
    return Scores(*np.clip(out, 0, 1))


def _fit(logits: NDArray, targets: NDArray[np.intp], rows: NDArray[np.intp], start: float) -> float:
    def loss(log_t: NDArray) -> tuple[float, NDArray]:
        # With b = 1/T: d NLL / d log T = b * (z_target - mean of z under the softmax).
        b = math.exp(-log_t[0])
        total = slope = 0.0
        for part in _chunks(rows, logits.shape[1]):
            z = logits[part].astype(np.float32)
            z -= z.max(axis=1, keepdims=True)
            own = z[np.arange(len(part)), targets[part]]
            e = np.exp(b * z)
            norm = e.sum(axis=1)
            total += float((np.log(norm) - b * own).sum(dtype=np.float64))
            slope += float((b * (own - np.einsum("ij,ij->i", e, z) / norm)).sum(dtype=np.float64))
        return total / len(rows), np.array([slope / len(rows)])

    bound = [(-_LOG_BOUND, _LOG_BOUND)]
    found = minimize(loss, [math.log(start)], jac=True, method="L-BFGS-B", bounds=bound, options={"ftol": 1e-12})
    return math.exp(float(found.x[0]))


def _chunks(rows: NDArray[np.intp], width: int) -> list[NDArray[np.intp]]:
    return np.array_split(rows, max(1, math.ceil(len(rows) * width / _CHUNK_ELEMENTS)))


def _checked(logits: ArrayLike, targets: ArrayLike) -> tuple[NDArray, NDArray[np.intp]]:
    logits, targets = np.asarray(logits), np.asarray(targets)
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or targets.size == 0:
        raise ValueError(f"(n, classes) logits and (n,) targets are expected, got {logits.shape} and {targets.shape}")
    if not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ValueError(f"targets must be integers in 0..{logits.shape[1] - 1}")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite")
    return logits, targets
