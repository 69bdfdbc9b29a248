"""Does a model keep its answer when the image moves? Outputs on transformed images against the plain ones (figure 8).

The paper reports accuracy. A model can keep its accuracy while changing its answers, so this module also compares each
image with itself: agreement, flips, the change of the whole distribution and of the true class's probability.

Everything is a mean of per-image values, so that intervals are paired. Shares of images have Wilson intervals, changes
of accuracy score intervals; other means are resampled, an image with all its versions.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from beyond_accuracy.dimensions.robustness import accuracy_differences
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import (
    P_VALUE_RESAMPLES,
    accuracy_difference,
    bootstrap_means,
    bootstrap_p_value,
    p_value_floor,
    percentile_interval,
    share_interval,
)

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
MEANS = ("js_divergence", "target_probability", "target_probability_change")
"""Kinds that are no shares of images: their intervals are bootstrapped."""
ABSOLUTE = ("accuracy", "target_probability")
"""Kinds that say something of the plain run; the others compare it with itself there, and are not estimates."""


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
    transform: str,
    plain: Mapping[str, Outputs],
    steps: Sequence[Step],
    identity: float | None,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Every measure at every strength of one transform.

    Args:
        transform: Name of the transform, e.g. `scale`.
        plain: Model -> outputs on the untransformed images.
        steps: Strengths in order; each with the same models and images as `plain`.
        identity: The strength that is the identity; None if there is none. There the comparisons with the plain run are
            known without an interval.
        resamples: Bootstrap resamples of images.
        seed: Seed.

    Returns:
        Tidy rows with metric `<kind>:<transform>=<strength>`, and columns `kind`, `transform`, `strength`; n counts the
        images that were right before.
    """
    rows = []
    for i, step in enumerate(steps):
        columns = {
            (model, kind): column[~np.isnan(column)]
            for model, outputs in step.outputs.items()
            for kind, column in per_image(
                plain[model], outputs, steps[i - 1].outputs[model] if i else plain[model]
            ).items()
        }
        means = {key: column for key, column in columns.items() if key[1] in MEANS}
        draws = {}
        if means:
            table = np.stack(list(means.values()), axis=1)
            draws = dict(zip(means, bootstrap_means(table, resamples, np.random.default_rng(seed)).T, strict=True))
        for (model, kind), column in columns.items():
            value, ends = (column.mean() if len(column) else np.nan), (np.nan, np.nan)
            if kind == "accuracy":
                ends = 100 * np.array(share_interval(column > 0))
            elif not len(column) or (step.strength == identity and kind not in ABSOLUTE):
                pass
            elif kind == "accuracy_change":
                gap = accuracy_difference(step.outputs[model].correct, plain[model].correct)
                ends = 100 * np.array(gap.interval)
            else:
                ends = percentile_interval(draws[model, kind]) if kind in MEANS else share_interval(column > 0)
            row = tidy.row(f"{kind}:{transform}={step.strength:g}", model, value, ends, len(column), KINDS[kind])
            rows.append(row | {"kind": kind, "transform": transform, "strength": float(step.strength)})
    return pd.DataFrame(rows, columns=[*tidy.COLUMNS, "kind", "transform", "strength"])


def accuracy_gaps(transform: str, steps: Sequence[Step], identity: float | None) -> pd.DataFrame:
    """Paired differences of accuracy between every two models at every strength but the identity, the clean run.

    Returns:
        Rows of `robustness.accuracy_differences` with the metric `accuracy:<transform>=<strength>`.
    """
    parts = [
        accuracy_differences({model: out.correct for model, out in step.outputs.items()}).assign(
            metric=f"accuracy:{transform}={step.strength:g}"
        )
        for step in steps
        if step.strength != identity
    ]
    return pd.concat(parts, ignore_index=True)


def answers_kept(
    plain: Mapping[str, Outputs], steps: Sequence[Step], identity: float | None
) -> dict[str, NDArray[np.bool_]]:
    """Whether each image keeps its answer at each strength that changes it: model -> (n, strengths)."""
    changed = [step for step in steps if step.strength != identity]
    return {
        model: np.stack([np.asarray(step.outputs[model].pred) == before.pred for step in changed], axis=1)
        for model, before in plain.items()
    }


def mean_agreement(transform: str, kept: Mapping[str, NDArray[np.bool_]]) -> pd.DataFrame:
    """One number per model: agreement averaged over the strengths that change the image.

    Args:
        transform: Name of the transform.
        kept: Of `answers_kept`; an image counts with all its versions.

    Returns:
        Tidy rows `agreement:<transform>`.
    """
    rows = []
    for model, same in kept.items():
        ends = share_interval(same.ravel(), np.repeat(np.arange(len(same)), same.shape[1]))
        rows.append(tidy.row(f"agreement:{transform}", model, same.mean(), ends, len(same), "fraction"))
    return tidy.frame(rows)


def overall_agreement(
    kept: Mapping[str, Mapping[str, NDArray[np.bool_]]], seed: int, resamples: int = P_VALUE_RESAMPLES
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Agreement averaged over transforms, each counting once, and its paired differences between models.

    Args:
        kept: Transform -> what `answers_kept` gives, on the same images.
        seed: Seed.
        resamples: Bootstrap resamples of images, each with all its versions.

    Returns:
        Tidy rows `agreement`, and rows of differences with `p_floor`; only models that were run under every transform.
    """
    parts = list(kept.values())
    models = [model for model in parts[0] if all(model in part for part in parts)]
    shares = np.stack([np.mean([part[model].mean(axis=1) for part in parts], axis=0) for model in models], axis=1)
    pairs = list(combinations(range(len(models)), 2))
    # differences image by image: equal models differ by exactly 0, however sums are rounded
    table = np.hstack([shares, *(shares[:, [a]] - shares[:, [b]] for a, b in pairs)])
    draws = bootstrap_means(table, resamples, np.random.default_rng(seed))
    n, rows, gaps = len(table), [], []
    for model, share, drawn in zip(models, table.T, draws.T, strict=False):
        rows.append(tidy.row("agreement", model, share.mean(), percentile_interval(drawn, units=n), n, "fraction"))
    for (a, b), gap, drawn in zip(pairs, table.T[len(models) :], draws.T[len(models) :], strict=True):
        ends, p = percentile_interval(drawn, units=n), bootstrap_p_value(drawn, n)
        gaps.append((models[a], models[b], gap.mean(), *ends, p, n, "fraction", p_value_floor(resamples, n)))
    return tidy.frame(rows), pd.DataFrame(gaps, columns=[*tidy.DIFFERENCE, "p_floor"])
