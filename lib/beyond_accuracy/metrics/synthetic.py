"""Which factor of a scene breaks a model? Sweeps of one factor at a time over the same scenes (figure 7).

Bordes et al., "PUG: Photorealistic and Semantically Controllable Synthetic Data", NeurIPS 2023, arXiv 2308.03977. The
paper gives one accuracy per factor; here it becomes a curve over the factor's levels, its worst level, and a measure of
how much the factor matters. Accuracies are percent, their range and standard deviation over levels are points.

Images of one scene are not independent, so whole scenes are resampled.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..stats import P_VALUE_RESAMPLES, bootstrap_means, bootstrap_p_value, percentile_interval
from . import tidy

Correct = Mapping[str, ArrayLike]

PUG_RULES = ("official", "membership")
_SHUFFLED = 2**21  # images shuffled at once: 16 MB of random numbers


def pug_correct(
    pred: ArrayLike, names: Sequence[str], classes: Mapping[str, Sequence[int]], rule: str = "official"
) -> NDArray[np.bool_]:
    """Score predictions over the 1000 ImageNet classes against PUG-ImageNet's 151 classes.

    `official` turns the mapping round as the authors' and the paper's code do: ImageNet index -> class, the later name
    winning where two classes claim one index (841: `Shirt` and `Sweatshirt`), so that `Shirt` can never be right.
    `membership` asks whether the prediction is one of the class's own indices.

    Args:
        pred: (n,) predicted ImageNet indices.
        names: (n,) PUG class of each image.
        classes: PUG class -> ImageNet indices.
        rule: `official` or `membership`.

    Raises:
        ValueError: Unknown rule or class.
    """
    if rule not in PUG_RULES:
        raise ValueError(f"PUG scoring is 'official' or 'membership', got {rule!r}")
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"PUG class {unknown[0]!r} is not in the mapping")
    answers = np.asarray(pred).tolist()
    if rule == "membership":
        return np.array([answer in classes[name] for answer, name in zip(answers, names, strict=True)], dtype=bool)
    owner = {index: name for name in sorted(classes) for index in classes[name]}
    return np.array([owner.get(answer) == name for answer, name in zip(answers, names, strict=True)], dtype=bool)


def classes_of(names: Sequence[str], targets: Sequence[ArrayLike]) -> dict[str, list[int]]:
    """PUG's mapping as an image set carries it: class name -> ImageNet indices, from each image's name and labels."""
    return {name: np.atleast_1d(labels).tolist() for name, labels in zip(names, targets, strict=True)}


def usual_ranges(metadata: pd.DataFrame, factors: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Where ordinary images lie on each factor: the 5 % and 95 % quantiles, for the numeric factors they record.

    Args:
        metadata: Scene columns of ordinary images; `object_scale` is read from `scale`, `scene_light` from
            `light_intensity`, other factors from the column of their name.
        factors: Factors wanted.
    """
    column_of = {"object_scale": "scale", "scene_light": "light_intensity"}
    ranges = {}
    for factor in factors:
        column = column_of.get(factor, factor)
        if column in metadata and pd.api.types.is_numeric_dtype(metadata[column]):
            low, high = metadata[column].quantile([0.05, 0.95])
            ranges[factor] = (float(low), float(high))
    return ranges


def unreachable(classes: Mapping[str, Sequence[int]]) -> list[str]:
    """Classes that the official rule can never find right, because later names own all their indices."""
    owner = {index: name for name in sorted(classes) for index in classes[name]}
    return [name for name in sorted(classes) if all(owner[index] != name for index in classes[name])]


def factor_table(
    correct: Correct, factor: ArrayLike, clusters: ArrayLike, resamples: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy per factor and their plain mean, and the models' differences in that mean and per factor.

    Args:
        correct: Model -> (n,) booleans.
        factor: (n,) which factor the image belongs to.
        clusters: (n,) scene of the image.
        resamples: Bootstrap resamples (of scenes, shared by models and factors).
        seed: Seed.

    Returns:
        Tidy rows `accuracy:<factor>`, `accuracy:average` (n = images), and differences
        `metric, model_a, model_b, difference, ci_low, ci_high, p, n, unit`, from 20,000 shared resamples.
    """
    factors = list(dict.fromkeys(np.asarray(factor)))
    cells, draws, counts = _cell_draws(correct, factor, factors, clusters, resamples, seed)
    columns = [f"accuracy:{name}" for name in [*factors, "average"]]
    sizes = [*map(int, counts), int(counts.sum())]
    value, spread = _with_mean(cells), _with_mean(draws)
    rows = [
        tidy.row(column, model, value[i, j], percentile_interval(spread[:, i, j]), sizes[j], "percent")
        for j, column in enumerate(columns)
        for i, model in enumerate(correct)
    ]
    many = _with_mean(_cell_draws(correct, factor, factors, clusters, P_VALUE_RESAMPLES, seed)[1])
    gaps = []
    for j, column in enumerate(columns):
        for (i, a), (k, b) in itertools.combinations(enumerate(correct), 2):
            gap = many[:, i, j] - many[:, k, j]
            low, high = percentile_interval(gap)
            p = bootstrap_p_value(gap)
            gaps.append((column, a, b, value[i, j] - value[k, j], low, high, p, sizes[j], "percent"))
    return tidy.frame(rows), pd.DataFrame(gaps, columns=["metric", *tidy.DIFFERENCE])


def level_curve(
    correct: Correct, factor: ArrayLike, level: ArrayLike, clusters: ArrayLike, resamples: int, seed: int
) -> pd.DataFrame:
    """Accuracy at every level of every factor.

    Returns:
        Tidy rows `accuracy:<factor>=<level>` with the further columns `factor` and `level`, levels in order of first
        appearance.
    """
    factor, level, clusters = (np.asarray(array) for array in (factor, level, clusters))
    parts = []
    for name in dict.fromkeys(factor):
        chosen = factor == name
        levels = list(dict.fromkeys(level[chosen]))
        part = {model: np.asarray(right)[chosen] for model, right in correct.items()}
        cells, draws, counts = _cell_draws(part, level[chosen], levels, clusters[chosen], resamples, seed)
        rows = [
            tidy.row(
                f"accuracy:{name}={value}",
                model,
                cells[i, j],
                percentile_interval(draws[:, i, j]),
                int(counts[j]),
                "percent",
            )
            | {"factor": name, "level": value}
            for i, model in enumerate(correct)
            for j, value in enumerate(levels)
        ]
        parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def sensitivity(
    correct: Correct,
    factor: ArrayLike,
    level: ArrayLike,
    clusters: ArrayLike,
    resamples: int,
    seed: int,
    permutations: int = 500,
) -> pd.DataFrame:
    """How much each factor moves accuracy, and where it is lowest.

    The range of several noisy accuracies is never zero, so it comes with the range that chance alone reaches: levels
    are shuffled among the images of a scene, and the 95 % quantile of the resulting ranges is given.

    Args:
        correct: Model -> (n,) booleans.
        factor: (n,) factor of the image.
        level: (n,) level of that factor.
        clusters: (n,) scene.
        resamples: Bootstrap resamples of scenes, levels chosen anew in each.
        seed: Seed.
        permutations: Shuffles behind the chance range.

    Returns:
        Rows `model, factor, levels, worst_level, worst, worst_low, worst_high, range, range_low, range_high,
        range_chance, sd, n`.
    """
    factor, level, clusters = (np.asarray(array) for array in (factor, level, clusters))
    rows = []
    for name in dict.fromkeys(factor):
        chosen = factor == name
        levels = list(dict.fromkeys(level[chosen]))
        part = {model: np.asarray(right)[chosen] for model, right in correct.items()}
        cells, draws, counts = _cell_draws(part, level[chosen], levels, clusters[chosen], resamples, seed)
        chance = _chance_ranges(part, level[chosen], levels, clusters[chosen], permutations, seed)
        for i, model in enumerate(correct):
            worst, spread = draws[:, i].min(axis=1), np.ptp(draws[:, i], axis=1)
            rows.append(
                {
                    "model": model,
                    "factor": name,
                    "levels": len(levels),
                    "worst_level": levels[int(cells[i].argmin())],
                    "worst": cells[i].min(),
                    **dict(zip(("worst_low", "worst_high"), percentile_interval(worst), strict=True)),
                    "range": np.ptp(cells[i]),
                    **dict(zip(("range_low", "range_high"), percentile_interval(spread), strict=True)),
                    "range_chance": np.quantile(chance[:, i], 0.95),
                    "sd": cells[i].std(ddof=1) if len(levels) > 1 else 0.0,
                    "n": int(counts.sum()),
                }
            )
    return pd.DataFrame(rows)


def pick_failures(
    correct: Correct,
    factor: ArrayLike,
    level: ArrayLike,
    clusters: ArrayLike,
    ids: Iterable[str],
    count: int,
    seed: int,
) -> pd.DataFrame:
    """One telling failure per factor: an image at the hardest level that most models miss, of a scene they know best.

    Returns:
        At most `count` rows `factor, level, id, missed_by` (number of models), the factor with the hardest level first.
        Ties are broken by the seed; factors without any failure are left out.
    """
    factor, level, clusters, ids = (np.asarray(array) for array in (factor, level, clusters, list(ids)))
    right = np.stack([np.asarray(values, dtype=float) for values in correct.values()]).mean(axis=0)
    known = pd.Series(right).groupby(clusters).transform("mean").to_numpy()
    tie = np.random.default_rng(seed).random(len(right)) * 1e-6
    rows = []
    for name in dict.fromkeys(factor):
        chosen = np.flatnonzero(factor == name)
        accuracy = pd.Series(right[chosen]).groupby(level[chosen]).mean()
        candidates = chosen[level[chosen] == accuracy.idxmin()]
        best = candidates[np.lexsort((known[candidates] + tie[candidates], -right[candidates]))[-1]]
        missed = round((1 - right[best]) * len(correct))
        if missed:
            rows.append((accuracy.min(), name, accuracy.idxmin(), ids[best], missed))
    ordered = [row[1:] for row in sorted(rows, key=lambda row: row[0])[:count]]
    return pd.DataFrame(ordered, columns=["factor", "level", "id", "missed_by"])


def _cell_draws(
    correct: Correct, cell: ArrayLike, names: Sequence, clusters: ArrayLike, resamples: int, seed: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Percent correct per model and cell: estimate (models, cells), draws (resamples, models, cells), image counts."""
    cell, clusters = np.asarray(cell), np.asarray(clusters)
    if not len(cell) or any(len(right) != len(cell) for right in correct.values()):
        raise ValueError("need one outcome per model and image, and at least one image")
    member = (cell[:, None] == np.asarray(names)).astype(float)
    right = np.stack([np.asarray(values, dtype=float) for values in correct.values()], axis=1)
    hits = (right[:, :, None] * member[:, None, :]).reshape(len(cell), -1)
    # a scene's sums carry all that resampling scenes needs
    index = np.unique(clusters, return_inverse=True)[1]
    sums = np.zeros((index.max() + 1, hits.shape[1] + member.shape[1]))
    np.add.at(sums, index, np.hstack([hits, member]))
    estimate, draws = sums.mean(axis=0), bootstrap_means(sums, resamples, np.random.default_rng(seed))
    shape = (len(correct), len(names))
    top, bottom = np.split(draws, [hits.shape[1]], axis=1)
    # a resample without any image of a cell takes the cell's estimate; it needs a cell of very few scenes
    fallback = estimate[: hits.shape[1]].reshape(shape) / estimate[hits.shape[1] :]
    ratio = np.where(
        bottom[:, None, :] > 0, top.reshape(-1, *shape) / np.maximum(bottom[:, None, :], 1e-12), fallback[None]
    )
    return 100 * fallback, 100 * ratio, member.sum(axis=0)


def _with_mean(cells: NDArray) -> NDArray:
    """Appends the mean over the last axis as one more cell."""
    return np.concatenate([cells, cells.mean(axis=-1, keepdims=True)], axis=-1)


def _chance_ranges(
    correct: Correct, cell: NDArray, names: Sequence, clusters: NDArray, permutations: int, seed: int
) -> NDArray[np.float64]:
    """Ranges over levels, (permutations, models), with levels shuffled among the images of each scene."""
    rng = np.random.default_rng([seed, 1])
    right = np.stack([np.asarray(values, dtype=np.float32) for values in correct.values()], axis=1)
    group = np.unique(clusters, return_inverse=True)[1]
    home = np.argsort(group, kind="stable")
    share = (cell[home][:, None] == np.asarray(names)).astype(np.float32)
    share /= share.sum(axis=0)
    ranges = []
    for start in range(0, permutations, step := max(1, _SHUFFLED // len(cell))):
        size = min(step, permutations - start)
        # sorting by scene plus a random fraction shuffles within each scene
        shuffled = np.argsort(group + rng.random((size, len(cell))), axis=1)
        accuracy = np.einsum("pnm,nl->pml", right[shuffled], share, optimize=True)
        ranges.append(100 * np.ptp(accuracy, axis=2))
    return np.concatenate(ranges)
