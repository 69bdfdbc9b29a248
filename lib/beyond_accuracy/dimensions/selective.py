"""Selective prediction: what is gained by answering only where the model is confident?

Images are accepted in order of falling confidence; coverage is the share accepted, risk the error rate among them.
Images of equal confidence cannot be told apart: every function returns the expectation over random orders of ties, so
that results do not depend on the order of the rows.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.dimensions.calibration import _pair
from beyond_accuracy.measure.stats import resample_weights


class Selective(NamedTuple):
    """Summaries of one risk-coverage curve, floats or arrays of bootstrap draws.

    Attributes:
        auroc: Probability that a right answer has higher confidence than a wrong one (ties count half); 0.5 is no
            information. NaN where all answers are right or all are wrong.
        aurc: Area under the risk-coverage curve, the mean risk over all coverages (Geifman and El-Yaniv 2017).
        augrc: Area under the generalized risk-coverage curve (Traub et al. 2024, arXiv 2407.01032): errors
            accepted per image, accepted or not; the mean risk of silent failure. It equals
            (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy)^2 / 2, at most 0.5.
    """

    auroc: float
    aurc: float
    augrc: float


def selective(confidence: ArrayLike, correct: ArrayLike) -> Selective:
    """AUROC, AURC and AUGRC of one model.

    >>> [round(x, 4) for x in selective([0.9, 0.8, 0.7, 0.6], [True, True, False, True])]
    [0.6667, 0.1458, 0.0938]
    """
    groups = _Groups(confidence, correct)
    values = groups.summaries(np.ones((1, len(groups.order)), np.float32))
    return Selective(*(float(v) for v in values[0]))


def selective_bootstrap(
    confidence: ArrayLike,
    correct: ArrayLike,
    resamples: int,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
) -> Selective:
    """Bootstrap draws of `selective`: three arrays of (resamples,).

    Models are compared as pairs by giving each call a generator of the same seed on the same images.
    """
    groups = _Groups(confidence, correct)
    parts = [groups.summaries(w) for w in resample_weights(len(groups.order), resamples, rng, clusters)]
    return Selective(*np.concatenate(parts).T)


def risk_coverage(confidence: ArrayLike, correct: ArrayLike, points: int = 200) -> pd.DataFrame:
    """The risk-coverage curve.

    Args:
        confidence: (n,) confidences.
        correct: (n,) booleans.
        points: Number of coverages, evenly spaced up to 1 (at most n).

    Returns:
        Columns `coverage`, `risk` (errors among accepted), `accuracy` (1 - risk), `generalized_risk` (risk x
        coverage), `threshold` (confidence of the last accepted image), `risk_low`, `risk_high` (Wilson, among as many
        accepted images).
    """
    confidence, correct = _pair(confidence, correct)
    points = min(points, len(correct))
    coverage = np.arange(1, points + 1) / points
    errors = _errors_at(confidence, correct, coverage)
    ranked = np.sort(confidence)[::-1]
    last = np.clip(np.ceil(coverage * len(ranked) - 1e-9).astype(int) - 1, 0, len(ranked) - 1)
    accepted = coverage * len(ranked)
    risk = errors / accepted
    low, high = proportion_confint(errors, accepted, method="wilson")
    return pd.DataFrame(
        {
            "coverage": coverage,
            "risk": risk,
            "accuracy": 1 - risk,
            "generalized_risk": errors / len(ranked),
            "threshold": ranked[last],
            "risk_low": low,
            "risk_high": high,
        }
    )


def accuracy_at_coverage(confidence: ArrayLike, correct: ArrayLike, coverage: float) -> float:
    """Accuracy on the most confident share of the images (a fractional last image counts by its fraction).

    Raises:
        ValueError: If coverage is not in ]0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie above 0 and up to 1, got {coverage}")
    confidence, correct = _pair(confidence, correct)
    errors = _errors_at(confidence, correct, np.array([coverage]))[0]
    return float(1 - errors / (coverage * len(correct)))


def _errors_at(
    confidence: NDArray[np.float64], correct: NDArray[np.float64], coverage: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Expected number of errors among the most confident share; linear inside a tie."""
    groups = _Groups(confidence, correct)
    accepted = np.concatenate([[0], np.cumsum(groups.sizes)])
    errors = np.concatenate([[0], np.cumsum(groups.errors)])
    return np.interp(coverage * len(correct), accepted, errors)


class _Groups:
    """Images by falling confidence, cut into groups of equal confidence."""

    def __init__(self, confidence: ArrayLike, correct: ArrayLike):
        confidence, correct = _pair(confidence, correct)
        self.order = np.argsort(-confidence, kind="stable")
        ranked = confidence[self.order]
        self.starts = np.flatnonzero(np.diff(ranked, prepend=np.inf))
        self.wrong = (1 - correct[self.order]).astype(np.float32)
        self.tied = len(self.starts) < len(ranked)
        self.sizes = np.diff(self.starts, append=len(ranked))
        self.errors = np.add.reduceat(self.wrong, self.starts)

    def summaries(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """(batch, n) integer counts -> (batch, 3) AUROC, AURC, AUGRC, all exact for weighted images with ties."""
        harmonic = _harmonic(int(weights.sum(axis=1).max()))
        return np.array([self._summary(row, harmonic) for row in weights])

    def _summary(self, weights: NDArray[np.float32], harmonic: NDArray[np.float64]) -> tuple[float, float, float]:
        size = weights[self.order]
        wrong = size * self.wrong
        rate = self.wrong
        if self.tied:
            size, wrong = np.add.reduceat(size, self.starts), np.add.reduceat(wrong, self.starts)
            rate = np.divide(wrong, size, out=np.zeros_like(wrong), where=size > 0)
        accepted, errors = np.cumsum(size, dtype=float), np.cumsum(wrong, dtype=float)
        n, failed = accepted[-1], errors[-1]
        # Trapezoids: inside a group of equal confidence errors come at a constant rate.
        augrc = (size @ errors - size @ wrong / 2) / n**2
        share = failed / n
        # From the identity above: AUROC needs no pass of its own.
        auroc = 1 - (augrc - share**2 / 2) / (share * (1 - share)) if 0 < share < 1 else np.nan
        # Sum of risks (E + e j/w) / (K + j) over the j = 1..w images of a group, with harmonic numbers H:
        # (E - e K / w) (H(K + w) - H(K)) + e. A group that was not drawn has no step.
        steps = np.diff(harmonic[accepted.astype(np.intp)], prepend=0.0)
        aurc = ((errors - wrong - rate * (accepted - size)) @ steps + failed) / n
        return auroc, aurc, augrc


@lru_cache(maxsize=4)
def _harmonic(n: int) -> NDArray[np.float64]:
    """Harmonic numbers H(0) .. H(n)."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
