"""Which factor of a scene breaks a model? Sweeps of one factor at a time over the same scenes (figure 7).

Bordes et al., "PUG: Photorealistic and Semantically Controllable Synthetic Data", NeurIPS 2023, arXiv 2308.03977. The
paper gives one accuracy per factor; here it becomes a curve over the factor's levels, its worst level, and a measure of
how much the factor matters. Accuracies are percent, their range and standard deviation over levels are points.

Images of one scene are not independent: scenes are the units of every interval and test, and n counts them.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import Interval, linear_difference, share_interval

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


def factor_table(correct: Correct, factor: ArrayLike, clusters: ArrayLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy per factor and their plain mean, and the models' differences in that mean and per factor.

    Args:
        correct: Model -> (n,) booleans.
        factor: (n,) which factor the image belongs to.
        clusters: (n,) scene of the image.

    Returns:
        Tidy rows `accuracy:<factor>`, `accuracy:average` (n = scenes), and differences
        `metric, model_a, model_b, difference, ci_low, ci_high, p, n, unit`, p-values of Student's t over scenes.
    """
    factor, clusters = np.asarray(factor), np.asarray(clusters)
    right = _outcomes(correct, factor)
    names, place, sizes = np.unique(factor, return_inverse=True, return_counts=True)
    rows, gaps = [], []
    for name in [*dict.fromkeys(factor), "average"]:
        # weights of the images: each factor as much as any other, however many levels it has
        weights = 1 / sizes[place] / len(names) if name == "average" else (factor == name) / (factor == name).sum()
        chosen = weights > 0
        own, weights, scenes = right[:, chosen], weights[chosen], clusters[chosen]
        metric, n = f"accuracy:{name}", len(np.unique(scenes))
        for model, hits in zip(correct, own, strict=True):
            interval = np.array(share_interval(hits, scenes, weights=weights))
            rows.append(tidy.row(metric, model, 100 * weights @ hits, 100 * interval, n, "percent"))
        for (a, hits_a), (b, hits_b) in itertools.combinations(zip(correct, own, strict=True), 2):
            gap = hits_a - hits_b
            influence = weights * (gap - _mean_of(gap, factor[chosen]))
            found = linear_difference(100 * weights @ gap, 100 * influence, scenes)
            gaps.append((metric, a, b, found.estimate, *found.interval, found.p_value, n, "percent"))
    return tidy.frame(rows), pd.DataFrame(gaps, columns=["metric", *tidy.DIFFERENCE])


def level_curve(correct: Correct, factor: ArrayLike, level: ArrayLike, clusters: ArrayLike) -> pd.DataFrame:
    """Accuracy at every level of every factor.

    Returns:
        Tidy rows `accuracy:<factor>=<level>` (n = scenes) with further columns `factor` and `level`, levels in order
        of first appearance.
    """
    factor, level, clusters = (np.asarray(array) for array in (factor, level, clusters))
    right, rows = _outcomes(correct, factor), []
    for name in dict.fromkeys(factor):
        levels = dict.fromkeys(level[factor == name])
        for model, hits in zip(correct, right, strict=True):
            for value in levels:
                chosen = (factor == name) & (level == value)
                interval, n = share_interval(hits[chosen], clusters[chosen]), len(np.unique(clusters[chosen]))
                metric, accuracy = f"accuracy:{name}={value}", 100 * hits[chosen].mean()
                row = tidy.row(metric, model, accuracy, 100 * np.array(interval), n, "percent")
                rows.append(row | {"factor": name, "level": value})
    return pd.DataFrame(rows)


def sensitivity(
    correct: Correct, factor: ArrayLike, level: ArrayLike, clusters: ArrayLike, seed: int, permutations: int = 2000
) -> pd.DataFrame:
    """How much each factor moves accuracy, and where it is lowest.

    The range of several noisy accuracies is never zero, so it comes with the range that chance alone reaches: levels
    are shuffled among the images of a scene, and the 95 % quantile of the resulting ranges is given.

    Best and worst are picked after seeing the numbers, which a bootstrap of the picked would count as data twice. The
    intervals are simultaneous over all levels (for the range: all pairs of levels) of all factors of a model, by
    Bonferroni: whichever a reader picks, the chance that any misses is 5 %. Between levels they are Bonett and Price's
    (2012, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data).

    Args:
        correct: Model -> (n,) booleans.
        factor: (n,) factor of the image.
        level: (n,) level of that factor.
        clusters: (n,) scene.
        seed: Seed.
        permutations: Shuffles behind the chance range.

    Returns:
        Rows `model, factor, levels, worst_level, worst, worst_low, worst_high, range, range_low, range_high,
        range_chance, p, sd, n`: p of a range at least as wide by shuffled levels, uncorrected; n = scenes.
    """
    factor, level, clusters = (np.asarray(array) for array in (factor, level, clusters))
    right, rows = _outcomes(correct, factor), []
    factors = dict.fromkeys(factor)
    for name in factors:
        chosen = factor == name
        levels, scenes = list(dict.fromkeys(level[chosen])), clusters[chosen]
        member = level[chosen][:, None] == np.asarray(levels)
        hits = right[:, chosen]
        cells = 100 * hits @ member / member.sum(axis=0)
        chance = _chance_ranges(hits, member, scenes, permutations, seed)
        for i, model in enumerate(correct):
            misses = 0.05 / len(factors)
            ends = [share_interval(hits[i, at], scenes[at], 1 - misses / len(levels)) for at in member.T]
            worst = 100 * np.min(ends, axis=0)
            spread = np.ptp(cells[i])
            low, high = 100 * np.array(_range_interval(hits[i], member, scenes, misses))
            rows.append(
                {
                    "model": model,
                    "factor": name,
                    "levels": len(levels),
                    "worst_level": levels[int(cells[i].argmin())],
                    "worst": cells[i].min(),
                    "worst_low": worst[0],
                    "worst_high": worst[1],
                    "range": spread,
                    "range_low": low,
                    "range_high": high,
                    "range_chance": np.quantile(chance[:, i], 0.95),
                    # equal ranges of other levels differ in their last bits
                    "p": (1 + np.sum(chance[:, i] >= spread - 1e-9)) / (1 + permutations),
                    "sd": cells[i].std(ddof=1) if len(levels) > 1 else 0.0,
                    "n": len(np.unique(scenes)),
                }
            )
    return pd.DataFrame(rows)


def widest(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows of `sensitivity` whose factor may be the one that moves its model most: one row where it is certain."""
    return effects[effects["range_high"] >= effects.groupby("model")["range_low"].transform("max")]


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


def _outcomes(correct: Correct, images: ArrayLike) -> NDArray[np.float64]:
    """(models, n) zeros and ones."""
    if not len(images) or any(len(right) != len(images) for right in correct.values()):
        raise ValueError("need one outcome per model and image, and at least one image")
    return np.stack([np.asarray(right, dtype=float) for right in correct.values()])


def _mean_of(values: NDArray, groups: NDArray) -> NDArray:
    """For each image the mean over its group."""
    index = np.unique(groups, return_inverse=True)[1]
    return (np.bincount(index, values) / np.bincount(index))[index]


def _range_interval(hits: NDArray, member: NDArray, scenes: NDArray, misses: float) -> Interval:
    """Interval of best minus worst of the levels' shares, from simultaneous intervals of all pairs of levels.

    Args:
        hits: (n,) zeros and ones.
        member: (n, levels) level of each image.
        scenes: (n,) scene of each image.
        misses: Chance that any of the pairs' intervals misses.
    """
    levels = member.shape[1]
    if levels < 2:
        return Interval(0.0, 0.0)
    index = np.unique(scenes, return_inverse=True)[1]
    share = hits @ member / member.sum(axis=0)
    # what a scene says of each level: its outcome, where it has one image of each
    said = np.zeros((index.max() + 1, levels))
    np.add.at(said, index, (hits[:, None] - share) * member / member.sum(axis=0))
    said = share + len(said) * said
    pair = np.triu_indices(levels, 1)
    gaps = said[:, pair[0]] - said[:, pair[1]]
    n = len(gaps) + 2  # two more scenes, one on either side: no spread of zero where all scenes agree
    mean = gaps.sum(axis=0) / n
    error = np.sqrt((((gaps**2).sum(axis=0) + 2) / n - mean**2) / n)
    reach = t.isf(misses / 2 / len(mean), n - 1) * error
    return Interval(float(max(0.0, np.max(np.abs(mean) - reach))), float(min(1.0, np.max(np.abs(mean) + reach))))


def _chance_ranges(
    hits: NDArray, member: NDArray, scenes: NDArray, permutations: int, seed: int
) -> NDArray[np.float64]:
    """Ranges over levels in percent, (permutations, models), with levels shuffled among the images of each scene."""
    rng = np.random.default_rng([seed, 1])
    right, levels = hits.T.astype(np.float32), member.astype(np.float32)  # counts: exact
    group = np.unique(scenes, return_inverse=True)[1]
    levels = levels[np.argsort(group, kind="stable")]
    ranges = []
    for start in range(0, permutations, step := max(1, _SHUFFLED // len(right))):
        size = min(step, permutations - start)
        # sorting by scene plus a random fraction shuffles within each scene
        shuffled = np.argsort(group + rng.random((size, len(right))), axis=1)
        counts = np.einsum("pnm,nl->pml", right[shuffled], levels, optimize=True).astype(float)
        ranges.append(np.ptp(100 * counts / member.sum(axis=0), axis=2))
    return np.concatenate(ranges)
