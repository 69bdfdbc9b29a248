"""Does a model keep its answer when the image moves? Outputs on transformed images against the plain ones (figure 8).

The paper reports accuracy. A model can keep its accuracy while changing its answers, so this module also compares each
image with itself: agreement, flips, the change of the whole distribution and of the true class's probability.

Everything is a mean of per-image values, so that intervals are paired: an image is resampled with all its versions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from ..stats import Interval, bootstrap_means
from . import tidy
from .robustness import accuracy_differences

KINDS = {
    "accuracy": "percent",
    "accuracy_change": "percent",
    "agreement": "fraction",
    "agreement_given_correct": "fraction",
    "flip_rate": "fraction",
    "js_divergence": "bits",
    "target_probability": "fraction",
    "target_probability_change": "fraction",
}
"""What is measured at each strength, and its unit. See `per_image`."""


class Outputs(Protocol):
    """What one model said about the images; `Predictions` has these."""

    @property
    def pred(self) -> NDArray[np.int64]:
        """Predicted class, (n,)."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether it is the label, (n,)."""

    @property
    def target_probability(self) -> NDArray[np.float64]:
        """Probability of the label, (n,)."""

    @property
    def probabilities(self) -> NDArray | None:
        """All probabilities, (n, classes), or None."""


class Step(NamedTuple):
    """One strength of a transform: the number and every model's outputs."""

    strength: float
    outputs: Mapping[str, Outputs]


def js_divergence(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in bits, row by row: 0 for equal distributions, 1 for disjoint ones.

    JSD = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 and logarithms to base 2 (Lin 1991).

    Args:
        p: (n, classes) distributions.
        q: (n, classes) distributions.

    >>> js_divergence([[1.0, 0.0]], [[0.0, 1.0]]).tolist()
    [1.0]
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"need two equally shaped tables of distributions, got {p.shape} and {q.shape}")
    middle = (p + q) / 2
    total = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / (2 * np.log(2))
    # rounding can leave -1e-17 for equal rows
    return np.clip(total, 0.0, 1.0)


def per_image(plain: Outputs, changed: Outputs, previous: Outputs) -> dict[str, NDArray[np.float64]]:
    """The per-image values whose means are reported.

    Args:
        plain: Outputs on the untransformed images.
        changed: Outputs on the same images, transformed.
        previous: Outputs at the strength before this one on the ladder.

    Returns:
        Kind -> (n,) values:

        - `accuracy`: 100 where right; `accuracy_change`: minus the same on the plain image;
        - `agreement`: 1 where the prediction is that of the plain image; `agreement_given_correct`: the same, NaN where
          the plain prediction was wrong;
        - `flip_rate`: 1 where the prediction differs from that one strength earlier (ImageNet-P's flip probability);
        - `js_divergence` to the plain distribution, bits; left out where probabilities were not kept;
        - `target_probability`, and `target_probability_change` from the plain image; left out where unknown.

    Raises:
        ValueError: The outputs are not of equally many images.
    """
    n = len(plain.pred)
    if n == 0 or len(changed.pred) != n or len(previous.pred) != n:
        raise ValueError(f"need the same images, got {n}, {len(changed.pred)} and {len(previous.pred)}")
    right, right_before = np.asarray(changed.correct, dtype=float), np.asarray(plain.correct, dtype=float)
    same = (np.asarray(changed.pred) == np.asarray(plain.pred)).astype(float)
    values = {
        "accuracy": 100 * right,
        "accuracy_change": 100 * (right - right_before),
        "agreement": same,
        "agreement_given_correct": np.where(right_before > 0, same, np.nan),
        "flip_rate": (np.asarray(changed.pred) != np.asarray(previous.pred)).astype(float),
    }
    if plain.probabilities is not None and changed.probabilities is not None:
        values["js_divergence"] = js_divergence(plain.probabilities, changed.probabilities)
    before, after = np.asarray(plain.target_probability, float), np.asarray(changed.target_probability, float)
    if not np.isnan(before).any() and not np.isnan(after).any():
        values |= {"target_probability": after, "target_probability_change": after - before}
    return values


def curve(
    transform: str, plain: Mapping[str, Outputs], steps: Sequence[Step], resamples: int, seed: int
) -> pd.DataFrame:
    """Every measure at every strength of one transform.

    Args:
        transform: Name of the transform, e.g. `scale`.
        plain: Model -> outputs on the untransformed images.
        steps: Strengths in order; the identity may be among them.
        resamples: Bootstrap resamples of images, shared by models and strengths.
        seed: Seed.

    Returns:
        Tidy rows `<kind>:<transform>=<strength>` with the further columns `kind`, `transform`, `strength`. Accuracy has
        a Wilson interval, everything else a paired bootstrap one. For `agreement_given_correct`, rate and n are of the
        images that were right before.
    """
    rows = []
    for i, step in enumerate(steps):
        columns = {
            (model, kind): column
            for model, outputs in step.outputs.items()
            for kind, column in per_image(
                plain[model], outputs, steps[i - 1].outputs[model] if i else plain[model]
            ).items()
        }
        intervals = _mean_intervals(list(columns.values()), resamples, seed)
        for ((model, kind), column), interval in zip(columns.items(), intervals, strict=True):
            metric = f"{kind}:{transform}={step.strength:g}"
            row = tidy.accuracy_row(metric, model, column > 0) if kind == "accuracy" else None
            row = row or _mean_row(metric, model, column, KINDS[kind], interval)
            rows.append(row | {"kind": kind, "transform": transform, "strength": float(step.strength)})
    return pd.DataFrame(rows, columns=[*tidy.COLUMNS, "kind", "transform", "strength"])


def accuracy_gaps(transform: str, steps: Sequence[Step], resamples: int, seed: int) -> pd.DataFrame:
    """Paired differences of accuracy between every two models at every strength.

    Returns:
        Rows of `robustness.accuracy_differences` with the metric `accuracy:<transform>=<strength>`.
    """
    parts = [
        accuracy_differences({model: out.correct for model, out in step.outputs.items()}, resamples, seed).assign(
            metric=f"accuracy:{transform}={step.strength:g}"
        )
        for step in steps
    ]
    return pd.concat(parts, ignore_index=True)


def mean_agreement(
    transform: str,
    plain: Mapping[str, Outputs],
    steps: Sequence[Step],
    identity: float | None,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """One number per model: agreement averaged over the strengths that change the image.

    Args:
        transform: Name of the transform.
        plain: Model -> outputs on the untransformed images.
        steps: Strengths in order.
        identity: The strength that is the identity, left out of the mean; None if there is none.
        resamples: Bootstrap resamples of images, shared by models.
        seed: Seed.

    Returns:
        Tidy rows `agreement:<transform>`.
    """
    rows = []
    for model, before in plain.items():
        same = [step.outputs[model].pred == before.pred for step in steps if step.strength != identity]
        values = np.mean(same, axis=0)
        [interval] = _mean_intervals([values], resamples, seed)
        rows.append(_mean_row(f"agreement:{transform}", model, values, "fraction", interval))
    return tidy.frame(rows)


def _mean_intervals(columns: Sequence[NDArray], resamples: int, seed: int) -> list[Interval]:
    """Intervals of column means over their known values, images resampled once for all columns."""
    known = np.stack([~np.isnan(column) for column in columns], axis=1)
    # the mean over some images is a ratio of two means over all images
    sums = np.hstack([np.nan_to_num(np.stack(columns, axis=1)), known])
    top, bottom = np.split(bootstrap_means(sums, resamples, np.random.default_rng(seed)), 2, axis=1)
    draws = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return [tidy.interval_of_ratio(column) for column in draws.T]


def _mean_row(metric: str, model: str, values: NDArray, unit: str, interval: Interval) -> dict:
    known = values[~np.isnan(values)]
    return tidy.row(metric, model, known.mean() if len(known) else np.nan, interval, len(known), unit)
