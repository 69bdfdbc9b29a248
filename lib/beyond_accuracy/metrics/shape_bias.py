"""Does a model see shape or texture? Images whose shape is of one class and texture of another (figure 3 of the paper).

Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, arXiv 1811.12231; error consistency from
Geirhos, Meding & Wichmann, "Beyond accuracy: quantifying trial-by-trial behaviour", NeurIPS 2020, arXiv 2006.16736.
Definitions as in the authors' analysis code (bethgelab/model-vs-human).

A *decision* is one of the categories' names. Images whose shape and texture are of the same category carry no conflict:
they count for accuracy, never for the bias. Bias and kappa are fractions, accuracies percent.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..stats import P_VALUE_RESAMPLES, bootstrap_means, bootstrap_p_value, percentile_interval
from . import tidy

Decisions = Mapping[str, ArrayLike]


class Cues(NamedTuple):
    """What a cue-conflict image shows."""

    shape: str
    texture: str
    shape_image: str


def parse_name(name: str) -> Cues:
    """Read shape, texture and shape image from a file name or id.

    Args:
        name: e.g. `airplane/airplane1-bicycle2.png`, or a trial name such as `0001_s5n_bird3-clock1.png`.

    Raises:
        ValueError: The name does not end in `<shape><number>-<texture><number>`.

    >>> parse_name("airplane/airplane10-bicycle2.png")
    Cues(shape='airplane', texture='bicycle', shape_image='airplane10')
    """
    stem = name.split("/")[-1].split("_")[-1].split(".")[0]
    found = re.fullmatch(r"(([a-z]+)\d+)-([a-z]+)\d+", stem)
    if not found:
        raise ValueError(f"cue-conflict image {name!r}: expected a name like airplane1-bicycle2.png")
    shape_image, shape, texture = found.groups()
    return Cues(shape, texture, shape_image)


def cue_table(ids: Sequence[str], metadata: pd.DataFrame) -> pd.DataFrame:
    """Shape, texture and shape image of every image.

    Args:
        ids: (n,) image ids.
        metadata: Index `id`. Columns `shape`, `texture` and `cluster` (the shape image) are taken where they are;
            otherwise the ids are read as names of the released files.

    Returns:
        Columns `shape, texture, shape_image`, index `id`, in the order of `ids`.

    Raises:
        ValueError: Neither the columns nor such names are there.
    """
    names = ["shape", "texture", "cluster"]
    if set(names) <= set(metadata.columns):
        return metadata.loc[list(ids), names].rename(columns={"cluster": "shape_image"})
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
    return float(_kappa(a.mean(), b.mean(), (a == b).mean()))


def table(
    decisions: Decisions, shape: ArrayLike, texture: ArrayLike, clusters: ArrayLike, resamples: int, seed: int
) -> pd.DataFrame:
    """Shape bias overall and per category, and accuracies, of every model.

    Args:
        decisions: Model -> (n,) chosen categories.
        shape: (n,) category of each image's shape.
        texture: (n,) category of each image's texture.
        clusters: (n,) the shape image each image was made from; resampled whole.
        resamples: Bootstrap resamples.
        seed: Seed; all models are resampled alike.

    Returns:
        Tidy rows. Metrics: `shape_bias`, `shape_bias:<category>` (images of that shape; n = its decisions for either
        cue), `accuracy` (decision = shape, over all images, as in the paper's code), `accuracy:either_cue` and
        `accuracy:texture` (over conflicting images). A bias of 0/0 is NaN, as is an interval from too few hits.
    """
    shape, texture, clusters = (np.asarray(array) for array in (shape, texture, clusters))
    conflict = shape != texture
    rows = []
    for model, decision in decisions.items():
        by_shape, by_texture = hits(decision, shape, texture)
        rows.append(_bias_row("shape_bias", model, by_shape, by_texture, clusters, resamples, seed))
        for category in sorted(set(shape)):
            chosen = shape == category
            cells = by_shape[chosen], by_texture[chosen], clusters[chosen]
            rows.append(_bias_row(f"shape_bias:{category}", model, *cells, resamples, seed))
        right = np.asarray(decision) == shape
        either = (by_shape | by_texture)[conflict]
        for metric, correct, group in (
            ("accuracy", right, clusters),
            ("accuracy:either_cue", either, clusters[conflict]),
            ("accuracy:texture", by_texture[conflict], clusters[conflict]),
        ):
            draws = bootstrap_means(correct, resamples, np.random.default_rng(seed), group)
            low, high = percentile_interval(100 * draws)
            rows.append(tidy.row(metric, model, 100 * correct.mean(), (low, high), correct.size, "percent"))
    return tidy.frame(rows)


def decision_rates(decisions: Decisions, shape: ArrayLike, texture: ArrayLike) -> pd.DataFrame:
    """Percent of conflicting images decided by shape, by texture, by neither: rows `model, shape, texture, neither`."""
    conflicts = int((np.asarray(shape) != np.asarray(texture)).sum())
    rows = []
    for model, decision in decisions.items():
        by_shape, by_texture = (100 * mask.sum() / conflicts for mask in hits(decision, shape, texture))
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


def differences(
    decisions: Decisions, shape: ArrayLike, texture: ArrayLike, clusters: ArrayLike, seed: int
) -> pd.DataFrame:
    """Paired differences of shape bias between every two models.

    Returns:
        Rows `model_a, model_b, difference, ci_low, ci_high, p, n, unit`: bias of a minus bias of b; p-values from
        20,000 cluster resamples, uncorrected; n = conflicting images.
    """
    columns = [mask for decision in decisions.values() for mask in hits(decision, shape, texture)]
    table, n = np.stack(columns, axis=1).astype(float), int((np.asarray(shape) != np.asarray(texture)).sum())
    draws = bootstrap_means(table, P_VALUE_RESAMPLES, np.random.default_rng(seed), clusters)
    point = dict(zip(decisions, _ratio(table.mean(axis=0)).ravel(), strict=True))
    bias = dict(zip(decisions, _ratio(draws).T, strict=True))
    rows = []
    for a, b in itertools.combinations(decisions, 2):
        gap = bias[a] - bias[b]
        low, high = tidy.interval_of_ratio(gap)
        p = bootstrap_p_value(gap) if np.isfinite(gap).all() else float("nan")
        rows.append((a, b, point[a] - point[b], low, high, p, n, "fraction"))
    return pd.DataFrame(rows, columns=tidy.DIFFERENCE)


def consistency_table(correct: Decisions, clusters: ArrayLike, resamples: int, seed: int) -> pd.DataFrame:
    """Error consistency of every two models.

    Args:
        correct: Model -> (n,) booleans, on the same images.
        clusters: (n,) groups that are resampled whole.
        resamples: Bootstrap resamples.
        seed: Seed.

    Returns:
        Rows `a, b, kappa, kappa_low, kappa_high, observed, expected, n`.
    """
    rows = []
    for a, b in itertools.combinations(correct, 2):
        right_a, right_b = np.asarray(correct[a], dtype=bool), np.asarray(correct[b], dtype=bool)
        cells = np.stack([right_a, right_b, right_a == right_b], axis=1).astype(float)
        draws = bootstrap_means(cells, resamples, np.random.default_rng(seed), clusters)
        low, high = tidy.interval_of_ratio(_kappa(*draws.T))
        p_a, p_b, observed = cells.mean(axis=0)
        expected = p_a * p_b + (1 - p_a) * (1 - p_b)
        rows.append((a, b, error_consistency(right_a, right_b), low, high, observed, expected, len(cells)))
    return pd.DataFrame(rows, columns=["a", "b", "kappa", "kappa_low", "kappa_high", "observed", "expected", "n"])


def _bias_row(
    metric: str, model: str, by_shape: NDArray, by_texture: NDArray, clusters: NDArray, resamples: int, seed: int
) -> dict:
    value, n = shape_bias(by_shape, by_texture), int(by_shape.sum() + by_texture.sum())
    if n == 0 or len(np.unique(clusters)) < 2:
        return tidy.row(metric, model, value, (np.nan, np.nan), n, "fraction")
    cells = np.stack([by_shape, by_texture], axis=1).astype(float)
    draws = _ratio(bootstrap_means(cells, resamples, np.random.default_rng(seed), clusters))[:, 0]
    return tidy.row(metric, model, value, tidy.interval_of_ratio(draws), n, "fraction")


def _ratio(means: NDArray) -> NDArray:
    """First of each pair of columns over the pair's sum; NaN for 0/0."""
    pairs = means.reshape(-1, means.shape[-1] // 2, 2)
    total = pairs.sum(axis=2)
    return np.divide(pairs[..., 0], total, out=np.full(total.shape, np.nan), where=total > 0)


def _kappa(p_a: ArrayLike, p_b: ArrayLike, observed: ArrayLike) -> NDArray:
    expected = np.asarray(p_a * p_b + (1 - p_a) * (1 - p_b))
    room = 1 - expected
    # at p_a = p_b = 1 rounding may leave a trace instead of zero
    return np.divide(observed - expected, room, out=np.full(room.shape, np.nan), where=room > 1e-12)
