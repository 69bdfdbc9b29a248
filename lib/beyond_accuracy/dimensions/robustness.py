"""Does accuracy survive a change of the images? Natural shifts, corruptions, effective robustness (figure 6).

Accuracies and their differences are in percent and points; mCE and corruption errors too (an mCE of 100 is AlexNet's).
What a set loses is measured against the clean set on what the set holds: the same classes where it has 200 of 1000
(ImageNet-A, -R), the same images where it was made from some of them (ImageNet-C, ReaL): these may be easier or harder
than all.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.dimensions.landscape_axes import effective_robustness
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

Correct = Mapping[str, ArrayLike]
"""Model -> (n,) booleans on the same images in the same order."""

SHIFTS = ("v2", "a", "r", "c", "sketch", "real", "hard")
"""The roles whose accuracies the paper averages; the clean set is not among them."""

SAME_IMAGES = ("real", "c")
"""Those of them that show images of the clean set, relabelled or corrupted."""


def subset_correct(logits: ArrayLike, target: ArrayLike, columns: ArrayLike) -> NDArray[np.bool_]:
    """Whether the best of some classes is the label: the scoring of ImageNet-A and -R.

    Args:
        logits: (n, classes).
        target: (n,) labels as class indices; all among `columns`.
        columns: Class indices that may be answered, in any order; ties go to the lowest.

    Raises:
        ValueError: A label outside `columns`.
    """
    columns, target = np.unique(columns), np.asarray(target)
    outside = np.setdiff1d(target, columns)
    if len(outside):
        raise ValueError(f"label {outside[0]} is not one of the {len(columns)} classes this set is scored on")
    return columns[np.asarray(logits)[:, columns].argmax(axis=1)] == target


def multilabel_correct(pred: ArrayLike, targets: Sequence[ArrayLike]) -> NDArray[np.bool_]:
    """Whether a prediction is among an image's labels (ImageNet-Hard, ReaL).

    Raises:
        ValueError: As many predictions as label lists are needed, and no list may be empty: such an image cannot be
            scored and must be left out (ReaL), not counted as wrong.
    """
    pred = np.asarray(pred)
    if len(pred) != len(targets) or not len(pred):
        raise ValueError(f"{len(pred)} predictions for {len(targets)} images")
    empty = [i for i, labels in enumerate(targets) if not np.size(labels)]
    if empty:
        raise ValueError(f"image {empty[0]} has no label; leave unlabelled images out before scoring")
    return np.array([p in np.atleast_1d(labels) for p, labels in zip(pred, targets, strict=True)])


def accuracy_table(correct: Correct, metric: str = "accuracy") -> pd.DataFrame:
    """Accuracy of every model with Wilson intervals, as tidy rows."""
    return tidy.frame(tidy.accuracy_row(metric, model, right) for model, right in correct.items())


def accuracy_differences(correct: Correct) -> pd.DataFrame:
    """Paired differences of accuracy between every two models on one set.

    Returns:
        Rows `model_a, model_b, difference, ci_low, ci_high, p, n, unit`: a minus b in points with the score interval,
        and McNemar's p-value (uncorrected).
    """
    rows = []
    for a, b in itertools.combinations(correct, 2):
        gap, (low, high), p = accuracy_difference(correct[a], correct[b])
        rows.append((a, b, 100 * gap, 100 * low, 100 * high, p, len(correct[a]), "percent"))
    return pd.DataFrame(rows, columns=tidy.DIFFERENCE)


def corruption_errors(cells: Mapping[tuple[str, int], Correct]) -> pd.DataFrame:
    """Top-1 error of every model in every cell of corruption x severity.

    Args:
        cells: (corruption, severity) -> model -> (n,) booleans.

    Returns:
        Rows `model, corruption, severity, error` (percent), `n`.
    """
    rows = [
        (model, corruption, severity, 100 * (1 - np.mean(right)), len(right))
        for (corruption, severity), by_model in cells.items()
        for model, right in by_model.items()
    ]
    return pd.DataFrame(rows, columns=["model", "corruption", "severity", "error", "n"])


def mean_corruption_error(errors: pd.DataFrame, baseline: Mapping[str, float]) -> pd.Series:
    """mCE: error relative to AlexNet's, per corruption, then averaged (Hendrycks & Dietterich 2019).

    CE_c = mean over severities of error / baseline_c; mCE = 100 * mean over corruptions of CE_c. AlexNet's own is 100.

    Args:
        errors: Rows `model, corruption, severity, error` with errors in percent, each corruption at every severity.
        baseline: Corruption -> AlexNet's error as a fraction; all of them must occur.

    Raises:
        ValueError: A corruption of the baseline is missing, or a model lacks a cell.
    """
    needed = errors[errors.corruption.isin(baseline)]
    cells = needed.groupby("model").apply(lambda part: len(part[["corruption", "severity"]].drop_duplicates()))
    full = len(baseline) * errors.severity.nunique()
    if errors.empty or (cells != full).any() or set(needed.corruption) != set(baseline):
        raise ValueError(f"mCE needs {full} cells per model ({len(baseline)} corruptions at every severity)")
    per_corruption = needed.groupby(["model", "corruption"]).error.mean().unstack()
    return per_corruption.div(pd.Series(baseline)).mean(axis=1)


def corruption_table(
    cells: Mapping[tuple[str, int], Correct], baseline: Mapping[str, float], resamples: int, seed: int
) -> pd.DataFrame:
    """Mean accuracy over all cells, mCE, and accuracy per corruption and per severity, with intervals.

    The same images occur in every cell: they, not their corrupted versions, are what is independent. Accuracies are
    shares with Wilson intervals for so many images as that makes; for the mCE images are resampled.

    Args:
        cells: (corruption, severity) -> model -> (n,) booleans, the same images in every cell.
        baseline: AlexNet's errors (fractions); mCE is given when all its corruptions are there.
        resamples: Bootstrap resamples of the mCE.
        seed: Seed.

    Returns:
        Tidy rows: `accuracy` (mean over cells, the paper's "C"), `mce`, `accuracy:corruption=<name>`,
        `accuracy:severity=<k>`; n = number of source images.
    """
    names = list(dict.fromkeys(name for name, _ in cells))
    levels = sorted({severity for _, severity in cells})
    rows = []
    for model in next(iter(cells.values())):
        grid = np.stack([[cells[name, k][model] for k in levels] for name in names]).astype(bool)  # name, level, image
        images = np.arange(grid.shape[-1])
        parts = {"accuracy": grid}
        parts |= {f"accuracy:corruption={name}": part for name, part in zip(names, grid, strict=True)}
        parts |= {f"accuracy:severity={k}": grid[:, i] for i, k in enumerate(levels)}
        for metric, part in parts.items():
            hits = part.reshape(-1, len(images))
            ends = share_interval(hits.ravel(), np.tile(images, len(hits)))
            rows.append(tidy.row(metric, model, 100 * hits.mean(), 100 * np.array(ends), len(images), "percent"))
        if baseline and set(baseline) <= set(names):
            weights = np.array([1 / baseline[name] if name in baseline else 0.0 for name in names])
            relative = 100 * weights @ (1 - grid.mean(axis=1)) / len(baseline)
            draws = bootstrap_means(relative, resamples, np.random.default_rng(seed))
            ends = percentile_interval(draws, units=len(images))
            rows.append(tidy.row("mce", model, relative.mean(), ends, len(images), "percent of AlexNet"))
    return tidy.frame(rows)


def cells_by_metadata(correct: Correct, metadata: pd.DataFrame) -> dict[tuple[str, int], dict[str, NDArray[np.bool_]]]:
    """Outcomes on the released ImageNet-C, split into cells with the source images in one order.

    Args:
        correct: Model -> (n,) booleans over all cells.
        metadata: (n,) rows `corruption, severity, cluster` (the source image), in the order of the outcomes.

    Raises:
        ValueError: A cell with other source images than the first.
    """
    corruption, severity = metadata["corruption"].astype(str).to_numpy(), metadata["severity"].to_numpy()
    source = pd.factorize(metadata["cluster"].astype(str), sort=True)[0]
    cells, first = {}, None
    for (name, level), rows in (
        pd.DataFrame({"c": corruption, "s": severity}).groupby(["c", "s"], sort=False).indices.items()
    ):
        ordered = rows[np.argsort(source[rows], kind="stable")]
        first = source[ordered] if first is None else first
        if not np.array_equal(source[ordered], first):
            raise ValueError(f"{name} at severity {level} holds other source images than the first cell")
        cells[str(name), int(level)] = {model: np.asarray(right)[ordered] for model, right in correct.items()}
    return cells


def pick_example(targets: Sequence[ArrayLike] | ArrayLike, label: int) -> int | None:
    """Position of the first image with a label, None if there is none; works for single- and multi-label sets."""
    found = (i for i, labels in enumerate(targets) if label in np.atleast_1d(labels))
    return next(found, None)


def mean_over_cells(cells: Mapping[tuple[str, int], Correct]) -> dict[str, NDArray[np.float64]]:
    """Share of an image's corrupted versions that a model gets right: model -> (n,) values in 0..1."""
    models = next(iter(cells.values()))
    return {model: np.mean([cell[model] for cell in cells.values()], axis=0, dtype=float) for model in models}


def own_images(clean: Correct, ids: ArrayLike, sources: ArrayLike) -> Correct | None:
    """Clean outcomes on the very images that a shifted set was made from; None where one of them is not a clean image.

    Args:
        clean: Model -> (n,) outcomes on the clean set.
        ids: (n,) its images.
        sources: The images that the shifted set was made from.
    """
    place = pd.Index(ids).get_indexer(np.asarray(sources))
    return None if (place < 0).any() else {model: np.asarray(right)[place] for model, right in clean.items()}


def average_table(
    sets: Mapping[str, Correct],
    resamples: int,
    seed: int,
    sources: Mapping[str, ArrayLike] | None = None,
    clean: Mapping[str, Correct] | None = None,
    clean_sources: Mapping[str, ArrayLike] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The average over sets, as the paper forms it (each set counts once, the clean set not at all), or what is lost.

    Sets that show the same images are resampled together, others independently; models share the resamples, so
    differences are paired.

    Args:
        sets: Set -> model -> (n,) outcomes in 0..1; every set with the same models.
        resamples: Bootstrap resamples; at least 20,000 where there are models to compare.
        seed: Seed.
        sources: Set -> (n,) names of the images that its images show, for sets that share some with another.
        clean: Set -> outcomes on the clean set, of the images and classes that the set is compared with. Then the rows
            are clean minus shifted accuracy, `accuracy_loss`, instead of accuracy.
        clean_sources: Set -> names of the images of `clean`.

    Returns:
        Tidy rows (n = images of all sets), and the rows of differences as `accuracy_differences` gives them with
        `p_floor`.

    Raises:
        ValueError: There are no sets, or they hold different models.
    """
    models = list(next(iter(sets.values()))) if sets else []
    if not models or any(list(by_model) != models for by_model in sets.values()):
        raise ValueError("an average needs at least one set, and the same models on each")
    pairs = list(itertools.combinations(range(len(models)), 2))
    sources, clean_sources = sources or {}, clean_sources or {}
    sign = -1 if clean else 1
    parts = [(sign, _columns(by_model, models, pairs), sources.get(name)) for name, by_model in sets.items()]
    n = sum(len(table) for _, table, _ in parts)
    for same in {id(by_model): by_model for by_model in (clean or {}).values()}.values():
        users = [name for name, by_model in clean.items() if by_model is same]
        parts.append((len(users), _columns(same, models, pairs), clean_sources.get(users[0])))
    value, draws = _weighted_sum(parts, max(resamples, P_VALUE_RESAMPLES if pairs else 1), seed)
    value, draws = 100 * value / len(sets), 100 * draws / len(sets)
    metric, units = ("accuracy_loss" if clean else "accuracy"), (n if len(parts) == 1 else None)
    rows = [
        tidy.row(metric, m, value[i], percentile_interval(draws[:, i], units=units), n, "percent")
        for i, m in enumerate(models)
    ]
    gaps = []
    for k, (i, j) in enumerate(pairs, start=len(models)):
        ends, p = percentile_interval(draws[:, k], units=units), bootstrap_p_value(draws[:, k], units)
        gaps.append((models[i], models[j], value[k], *ends, p, n, "percent", p_value_floor(len(draws), units)))
    return tidy.frame(rows), pd.DataFrame(gaps, columns=[*tidy.DIFFERENCE, "p_floor"])


def effective_table(
    clean: Correct,
    shifted: Correct,
    board: pd.DataFrame,
    x: str,
    y: str,
    baseline: pd.Series,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Effective robustness: accuracy under the shift beyond what clean accuracy predicts (Taori et al. 2020).

    A line logit(shifted) = a + b logit(clean) through published models gives the prediction. Both accuracies of a model
    are resampled over their images; the line itself is taken as known.

    Args:
        clean: Model -> outcomes on the clean set.
        shifted: Model -> outcomes on the shifted set (other images).
        board: Published models, accuracies in percent in columns `x` and `y`.
        x: Column of the clean accuracy, over the same classes as `clean`.
        y: Column of the shifted accuracy.
        baseline: Mask of the published models that define the line.
        resamples: Bootstrap resamples.
        seed: Seed.

    Returns:
        Rows `model, clean, shifted, predicted, effective, effective_low, effective_high, extrapolated`: percent and
        points; `extrapolated` where the clean accuracy lies outside that of the line's models.
    """
    fit_on = board[baseline & board[x].notna() & board[y].notna()][[x, y]]
    rng = np.random.default_rng(seed)
    rows = []
    for model in clean:
        a, b = (np.asarray(outcomes, dtype=float) for outcomes in (clean[model], shifted[model]))
        points = np.column_stack([bootstrap_means(a, resamples, rng), bootstrap_means(b, resamples, rng)])
        points = 100 * np.vstack([[a.mean(), b.mean()], points])
        own = pd.DataFrame(points, columns=[x, y])
        both = pd.concat([fit_on, own], ignore_index=True)
        is_baseline = pd.Series(np.arange(len(both)) < len(fit_on), index=both.index)
        result = effective_robustness(both, y, is_baseline, x).iloc[len(fit_on) :].reset_index(drop=True)
        low, high = percentile_interval(result["effective"][1:])
        first = result.iloc[0]
        rows.append((model, *points[0], first["predicted"], first["effective"], low, high, bool(first["extrapolated"])))
    names = ["model", "clean", "shifted", "predicted", "effective", "effective_low", "effective_high", "extrapolated"]
    return pd.DataFrame(rows, columns=names)


def _columns(by_model: Correct, models: Sequence[str], pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Outcomes of the models and their differences in pairs: taken image by image, equal models differ by exactly 0."""
    table = np.stack([np.asarray(by_model[m], dtype=float) for m in models], axis=1)
    return np.hstack([table, *(table[:, [i]] - table[:, [j]] for i, j in pairs)])


def _weighted_sum(
    parts: Sequence[tuple[float, NDArray, ArrayLike | None]], resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of weighted column means of (weight, table, names of the images), and its draws (<= resamples, columns)."""
    rng = np.random.default_rng(seed)
    value = np.sum([weight * table.mean(axis=0) for weight, table, _ in parts], axis=0)
    draws = np.zeros((resamples, len(value)))
    for weight, table, names in parts:
        if names is None:
            draws += weight * bootstrap_means(table, resamples, rng)
    shared = [part for part in parts if part[2] is not None]
    if shared:  # one row per image that any of them shows: the mean of a part is a ratio of two means over all rows
        images = pd.Index(np.unique(np.concatenate([np.asarray(names, dtype=str) for *_, names in shared])))
        sums = np.zeros((len(images), len(shared), len(value) + 1))
        for k, (_, table, names) in enumerate(shared):
            np.add.at(sums[:, k], images.get_indexer(np.asarray(names, dtype=str)), np.insert(table, 0, 1, axis=1))
        means = bootstrap_means(sums.reshape(len(images), -1), resamples, rng).reshape(resamples, len(shared), -1)
        held = (means[..., 0] > 0).all(axis=1)  # a resample may miss all images of a small part: it has no mean
        means, draws = means[held], draws[held]
        draws += np.einsum("rkc,k->rc", means[..., 1:] / means[..., :1], [weight for weight, *_ in shared])
    return value, draws
