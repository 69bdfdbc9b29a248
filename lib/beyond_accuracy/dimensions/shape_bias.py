"""Does a model see shape or texture? Images whose shape is of one class and texture of another (figure 3 of the paper).

Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, arXiv 1811.12231; error consistency from
Geirhos, Meding & Wichmann, "Beyond accuracy: quantifying trial-by-trial behaviour", NeurIPS 2020, arXiv 2006.16736.
Definitions as in the authors' analysis code (bethgelab/model-vs-human).

A *decision* is one of the categories' names. Images whose shape and texture are of the same category carry no conflict:
they count for accuracy, never for the bias. Bias and kappa are fractions, accuracies percent.

Shape images and texture images are crossed: each of either is in many stimuli. Both are samples, so intervals and tests
take the variance of both (`stats.clustered_variance`); n counts shape images.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.data.readers.stimuli import Cues, parse_name
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import Difference, Interval, clustered_variance, linear_difference, share_interval

Decisions = Mapping[str, ArrayLike]


def cue_table(ids: Sequence[str], metadata: pd.DataFrame) -> pd.DataFrame:
    """Shape, texture and the images they were taken from, of every stimulus.

    Args:
        ids: (n,) image ids.
        metadata: Index `id`. Columns `shape`, `texture` and `cluster` (the shape image) are taken where they are;
            otherwise the ids are read as names of the released files. Without a column `texture_image` each texture
            counts as one origin.

    Returns:
        Columns of `Cues`, index `id`, in the order of `ids`.

    Raises:
        ValueError: Neither the columns nor such names are there.
    """
    if {"shape", "texture", "cluster"} <= set(metadata.columns):
        cues = metadata.loc[list(ids)].rename(columns={"cluster": "shape_image"})
        if "texture_image" not in cues:
            cues = cues.assign(texture_image=cues["texture"])
        return cues[list(Cues._fields)]
    return pd.DataFrame(
        [parse_name(image_id) for image_id in ids], columns=Cues._fields, index=pd.Index(ids, name="id")
    )


def decide(probabilities: ArrayLike, categories: Mapping[str, Sequence[int]]) -> NDArray[np.str_]:
    """Category a model chooses for each image: the one whose member classes have the highest *mean* probability.

    The mean, not the sum: with sums the 109 dog breeds would win over the one oven. Ties go to the first name.

    Args:
        probabilities: (n, classes) softmax over all classes.
        categories: Name -> class indices; taken in alphabetical order of the names.

    Returns:
        (n,) names.

    Raises:
        ValueError: An empty category, an index in two categories or outside the classes, or NaN.

    >>> decide([[0.5, 0.3, 0.2]], {"cat": [0, 1], "dog": [2]}).tolist()
    ['cat']
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or not len(probabilities) or np.isnan(probabilities).any():
        raise ValueError(f"expected (images, classes) probabilities without NaN, got shape {probabilities.shape}")
    names = sorted(categories)
    members = [np.asarray(categories[name], dtype=int) for name in names]
    flat = np.concatenate(members)
    if not all(len(indices) for indices in members) or len(np.unique(flat)) != len(flat):
        raise ValueError("categories must hold at least one class each and share none")
    if flat.min() < 0 or flat.max() >= probabilities.shape[1]:
        raise ValueError(f"categories name class {flat.max()}, but there are {probabilities.shape[1]} classes")
    means = np.stack([probabilities[:, indices].mean(axis=1) for indices in members], axis=1)
    return np.array(names)[means.argmax(axis=1)]


def hits(decision: ArrayLike, shape: ArrayLike, texture: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a decision follows the shape, and where it follows the texture, of a conflicting image.

    Args:
        decision: (n,) chosen categories.
        shape: (n,) category of the shape.
        texture: (n,) category of the texture.

    Returns:
        Two (n,) masks, both False where shape and texture agree.
    """
    decision, shape, texture = (np.asarray(array) for array in (decision, shape, texture))
    if not len(decision) == len(shape) == len(texture) > 0:
        raise ValueError(f"need as many decisions as cues, got {len(decision)}, {len(shape)}, {len(texture)}")
    conflict = shape != texture
    return (decision == shape) & conflict, (decision == texture) & conflict


def shape_bias(shape_hits: ArrayLike, texture_hits: ArrayLike) -> float:
    """Share of shape decisions among the decisions for either cue; NaN when there is none.

    bias = shape hits / (shape hits + texture hits)

    >>> shape_bias([True, True, False], [False, False, True])
    0.6666666666666666
    """
    shape, texture = int(np.sum(shape_hits)), int(np.sum(texture_hits))
    return shape / (shape + texture) if shape + texture else float("nan")


def error_consistency(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Cohen's kappa of two observers' errors: how much more often than by chance they are right on the same images.

    kappa = (observed - expected) / (1 - expected), with observed the share of images on which both are right or both
    wrong, and expected = p_a p_b + (1 - p_a)(1 - p_b) for independent observers of the same accuracies.
    1: the same errors; 0: independent; NaN when both are always right or both always wrong.

    >>> error_consistency([True, True, False, False], [True, True, True, False])
    0.5
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"need the same images for both, got shapes {a.shape} and {b.shape}")
    if a.all() and b.all() or not (a.any() or b.any()):
        return float("nan")
    expected = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float(((a == b).mean() - expected) / (1 - expected))


def table(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Shape bias overall and per category, and accuracies, of every model.

    A category has few shape images, too few to tell how alike their stimuli are: the design effect of a category's bias
    is that of all categories together.

    Args:
        decisions: Model -> (n,) chosen categories.
        cues: Rows of `cue_table`.

    Returns:
        Tidy rows, n = shape images that inform. Metrics: `shape_bias`, `shape_bias:<category>` (images of that shape),
        `accuracy` (decision = shape, over all images, as in the paper's code), `accuracy:either_cue` and
        `accuracy:texture` (over conflicting images). A bias of 0/0 is NaN, as is an interval from one shape image.
    """
    shape, conflict = cues["shape"].to_numpy(), (cues["shape"] != cues["texture"]).to_numpy()
    rows = []
    for model, decision in decisions.items():
        by_shape, by_texture = hits(decision, shape, cues["texture"])
        decided = by_shape | by_texture
        effect = _pooled_effect(by_shape[decided], cues[decided])
        rows.append(_row("shape_bias", model, by_shape, decided, cues))
        for category in sorted(set(shape)):
            chosen = decided & (shape == category)
            rows.append(_row(f"shape_bias:{category}", model, by_shape, chosen, cues, effect=effect))
        everything = np.full(len(cues), True)
        rows.append(_row("accuracy", model, np.asarray(decision) == shape, everything, cues, "percent"))
        rows.append(_row("accuracy:either_cue", model, decided, conflict, cues, "percent"))
        rows.append(_row("accuracy:texture", model, by_texture, conflict, cues, "percent"))
    return tidy.frame(rows)


def decision_rates(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Percent of conflicting images decided by shape, by texture, by neither: rows `model, shape, texture, neither`."""
    conflicts = int((cues["shape"] != cues["texture"]).sum())
    rows = []
    for model, decision in decisions.items():
        by_shape, by_texture = (100 * mask.sum() / conflicts for mask in hits(decision, cues["shape"], cues["texture"]))
        rows.append((model, by_shape, by_texture, 100 - by_shape - by_texture))
    return pd.DataFrame(rows, columns=["model", "shape", "texture", "neither"])


def pick_disagreements(decisions: Decisions, cues: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Images that some models decide by shape and others by texture, each of another shape where possible.

    Args:
        decisions: Model -> (n,) decisions.
        cues: Rows of `cue_table`.
        count: Images wanted.
        seed: Seed of the choice.

    Returns:
        At most `count` rows of `cues` with one more column per model, its decision.
    """
    pairs = [hits(decision, cues["shape"], cues["texture"]) for decision in decisions.values()]
    split = np.any([by_shape for by_shape, _ in pairs], axis=0) & np.any(
        [by_texture for _, by_texture in pairs], axis=0
    )
    found = cues.assign(**{model: np.asarray(decision) for model, decision in decisions.items()})[split]
    mixed = found.iloc[np.random.default_rng(seed).permutation(len(found))]
    # first image of each shape, then second, ...
    turn = mixed.groupby("shape").cumcount().to_numpy()
    return mixed.iloc[np.argsort(turn, kind="stable")].head(count)


def differences(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of shape bias between every two models.

    Args:
        decisions: Model -> (n,) chosen categories.
        cues: Rows of `cue_table`.

    Returns:
        Rows `model_a, model_b, difference, ci_low, ci_high, p, n, unit`: bias of a minus bias of b; p-values of
        Student's t, uncorrected; n = shape images of conflicting images. NaN where a model decides for neither cue.
    """
    point, influence = {}, {}
    for model, decision in decisions.items():
        by_shape, by_texture = hits(decision, cues["shape"], cues["texture"])
        decided = by_shape | by_texture
        point[model] = shape_bias(by_shape, by_texture)
        influence[model] = (by_shape - point[model] * decided) / max(decided.sum(), 1)
    n = cues.loc[cues["shape"] != cues["texture"], "shape_image"].nunique()
    rows = []
    for a, b in itertools.combinations(decisions, 2):
        gap, interval, p = _tested(point[a] - point[b], influence[a] - influence[b], cues)
        rows.append((a, b, gap, *interval, p, n, "fraction"))
    return pd.DataFrame(rows, columns=tidy.DIFFERENCE)


def consistency_table(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Error consistency of every two models, the shape being right.

    Args:
        decisions: Model -> (n,) chosen categories.
        cues: Rows of `cue_table`.

    Returns:
        Rows `a, b, kappa, kappa_low, kappa_high, observed, expected, n`; n = shape images. Models that err on exactly
        the same images have a kappa of 1 without an interval.
    """
    rows = []
    for a, b in itertools.combinations(decisions, 2):
        right_a, right_b = (np.asarray(decisions[model]) == cues["shape"].to_numpy() for model in (a, b))
        same = right_a == right_b
        p_a, p_b, observed = right_a.mean(), right_b.mean(), same.mean()
        expected = p_a * p_b + (1 - p_a) * (1 - p_b)
        kappa = error_consistency(right_a, right_b)
        # kappa = 1 - (1 - observed) / (1 - expected), differentiated
        slope = (2 * p_b - 1) * (right_a - p_a) + (2 * p_a - 1) * (right_b - p_b)
        moved = np.full(len(cues), np.nan)
        if observed < 1:
            moved = ((same - observed) - (1 - kappa) * slope) / (1 - expected) / len(cues)
        low, high = _tested(kappa, moved, cues).interval
        rows.append((a, b, kappa, low, min(high, 1.0), observed, expected, cues["shape_image"].nunique()))
    return pd.DataFrame(rows, columns=["a", "b", "kappa", "kappa_low", "kappa_high", "observed", "expected", "n"])


def _row(
    metric: str,
    model: str,
    hit: NDArray,
    chosen: NDArray,
    cues: pd.DataFrame,
    unit: str = "fraction",
    effect: float | None = None,
) -> dict:
    """Share of hits among the chosen images."""
    scale, cues = 100 if unit == "percent" else 1, cues[chosen]
    value = hit[chosen].mean() if len(cues) else np.nan
    interval = np.full(2, np.nan)
    if len(cues) and (effect is not None or _crossed(cues)):
        interval = np.array(
            share_interval(hit[chosen], cues["shape_image"], crossed=cues["texture_image"], effect=effect)
        )
    return tidy.row(metric, model, scale * value, scale * interval, cues["shape_image"].nunique(), unit)


def _pooled_effect(hit: NDArray, cues: pd.DataFrame) -> float:
    """Design effect of a category's share of hits: variances over all categories, by those of independent images."""
    clustered = independent = 0.0
    for category in sorted(set(cues["shape"])):
        chosen = (cues["shape"] == category).to_numpy()
        own, mine, share = hit[chosen], cues[chosen], hit[chosen].mean()
        if _crossed(mine):
            influence = (own - share) / len(own)
            clustered += len(own) * clustered_variance(influence, mine["shape_image"], mine["texture_image"])
            independent += share * (1 - share)
    return clustered / independent if independent > 0 else np.nan


def _crossed(cues: pd.DataFrame) -> bool:
    """Whether there are two origins of either kind, the least that has a variance."""
    return min(cues["shape_image"].nunique(), cues["texture_image"].nunique()) > 1


def _tested(estimate: float, influence: NDArray, cues: pd.DataFrame) -> Difference:
    if not np.isfinite(estimate) or not np.isfinite(influence).all() or not _crossed(cues):
        return Difference(estimate, Interval(np.nan, np.nan), np.nan)
    return linear_difference(estimate, influence, cues["shape_image"], cues["texture_image"])
