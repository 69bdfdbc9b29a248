"""Does accuracy survive a change of the images? Natural shifts, corruptions, effective robustness (figure 6).

Accuracies and their differences are in percent and points; mCE and corruption errors too (an mCE of 100 is AlexNet's).
Sets on 200 classes (ImageNet-A, -R) are compared with the clean set on the same classes: their own chance level and
difficulty differ from those of 1000 classes.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..stats import (
    P_VALUE_RESAMPLES,
    Difference,
    bootstrap_means,
    bootstrap_p_value,
    mcnemar,
    paired_difference,
    percentile_interval,
)
from . import tidy
from .landscape_axes import effective_robustness

Correct = Mapping[str, ArrayLike]
"""Model -> (n,) booleans on the same images in the same order."""

SHIFTS = ("v2", "a", "r", "c", "sketch", "real", "hard")
"""The roles whose accuracies the paper averages; the clean set is not among them."""


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


def accuracy_differences(correct: Correct, resamples: int, seed: int) -> pd.DataFrame:
    """Paired differences of accuracy between every two models on one set.

    Returns:
        Rows `model_a, model_b, difference, ci_low, ci_high, p, n, unit`: a minus b in points with its paired bootstrap
        interval, and McNemar's p-value (uncorrected).
    """
    rows = []
    for a, b in itertools.combinations(correct, 2):
        right_a, right_b = np.asarray(correct[a], dtype=bool), np.asarray(correct[b], dtype=bool)
        gap = paired_difference(right_a, right_b, resamples, np.random.default_rng(seed))
        rows.append(_points(a, b, gap, mcnemar(right_a, right_b), right_a.size))
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

    The same images occur in every cell, so images are resampled whole, with all their corrupted versions.

    Args:
        cells: (corruption, severity) -> model -> (n,) booleans, the same images in every cell.
        baseline: AlexNet's errors (fractions); mCE is given when all its corruptions are there.
        resamples: Bootstrap resamples.
        seed: Seed.

    Returns:
        Tidy rows: `accuracy` (mean over cells, the paper's "C"), `mce`, `accuracy:corruption=<name>`,
        `accuracy:severity=<k>`; n = number of source images.
    """
    names = list(dict.fromkeys(name for name, _ in cells))
    levels = sorted({severity for _, severity in cells})
    rows = []
    for model in next(iter(cells.values())):
        grid = np.stack([[cells[name, k][model] for k in levels] for name in names]).astype(float)  # name, level, image
        columns = {"accuracy": 100 * grid.mean(axis=(0, 1))}
        if baseline and set(baseline) <= set(names):
            weights = np.array([1 / baseline[name] if name in baseline else 0.0 for name in names])
            errors = 1 - grid.mean(axis=1)
            columns["mce"] = 100 * (weights[:, None] * errors).sum(axis=0) / len(baseline)
        columns |= {
            f"accuracy:corruption={name}": 100 * part.mean(axis=0) for name, part in zip(names, grid, strict=True)
        }
        columns |= {f"accuracy:severity={k}": 100 * grid[:, i].mean(axis=0) for i, k in enumerate(levels)}
        table = np.stack(list(columns.values()), axis=1)
        draws = bootstrap_means(table, resamples, np.random.default_rng(seed))
        for metric, values, column in zip(columns, table.T, draws.T, strict=True):
            unit = "percent" if metric != "mce" else "percent of AlexNet"
            rows.append(tidy.row(metric, model, values.mean(), percentile_interval(column), len(values), unit))
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


def average_table(sets: Mapping[str, Correct], resamples: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The average over sets, as the paper forms it (each set counts once, the clean set not at all).

    Sets are resampled independently of each other; models share the resample of a set, so differences are paired.

    Args:
        sets: Set -> model -> (n,) outcomes in 0..1; every set with the same models.
        resamples: Bootstrap resamples for the intervals of the averages.
        seed: Seed.

    Returns:
        Tidy rows `accuracy` (n = images of all sets), and the rows of differences as `accuracy_differences` gives them,
        with p-values from 20,000 resamples.

    Raises:
        ValueError: There are no sets, or they hold different models.
    """
    models = list(next(iter(sets.values()))) if sets else []
    if not models or any(list(by_model) != models for by_model in sets.values()):
        raise ValueError("an average needs at least one set, and the same models on each")
    tables = [np.stack([np.asarray(by_model[m], dtype=float) for m in models], axis=1) for by_model in sets.values()]
    n = sum(map(len, tables))
    value = 100 * np.mean([table.mean(axis=0) for table in tables], axis=0)
    draws = _average_draws(tables, resamples, seed)
    rows = [
        tidy.row("accuracy", m, value[i], percentile_interval(draws[:, i]), n, "percent") for i, m in enumerate(models)
    ]
    many = _average_draws(tables, P_VALUE_RESAMPLES, seed) if len(models) > 1 else draws
    gaps = []
    for i, j in itertools.combinations(range(len(models)), 2):
        gap = many[:, i] - many[:, j]
        low, high = percentile_interval(gap)
        row = (models[i], models[j], value[i] - value[j], low, high, bootstrap_p_value(gap), n, "percent")
        gaps.append(row)
    return tidy.frame(rows), pd.DataFrame(gaps, columns=tidy.DIFFERENCE)


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


def _points(a: str, b: str, gap: Difference, p: float, n: int) -> tuple:
    return a, b, 100 * gap.estimate, 100 * gap.interval.low, 100 * gap.interval.high, p, n, "percent"


def _average_draws(tables: list[NDArray], resamples: int, seed: int) -> NDArray:
    rng = np.random.default_rng(seed)
    return 100 * np.mean([bootstrap_means(table, resamples, rng) for table in tables], axis=0)
