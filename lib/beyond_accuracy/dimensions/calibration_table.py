"""The tables of the calibration page: tidy rows for every model, from its outputs on one dataset.

A run needs no logits for most of them; where a measure needs the whole distribution, models without logits (imported
predictions) and images with several labels have no row.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from beyond_accuracy.dimensions import calibration
from beyond_accuracy.dimensions.calibration_resampling import PAPER, BinConfig, ece_difference, null_ece, ordering
from beyond_accuracy.dimensions.selective import accuracy_at_coverage, selective, selective_bootstrap
from beyond_accuracy.dimensions.temperature import CrossFit, cross_fit, fit_temperature, score, temperature_interval
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import (
    P_VALUE_RESAMPLES,
    Interval,
    accuracy_difference,
    bootstrap_means,
    bootstrap_p_value,
    p_value_floor,
    percentile_interval,
    wilson,
)


class Temperature(NamedTuple):
    """What was fitted to a model's clean images.

    Attributes:
        crossed: Temperature of each clean image, fitted on the other folds.
        whole: Temperature of all clean images, for other sets.
        interval: Its interval.
    """

    crossed: CrossFit
    whole: float
    interval: Interval


class Run(Protocol):
    """What is read of one model's predictions on one dataset; `store.Predictions` has it."""

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    multilabel: bool
    logits: NDArray | None
    columns: NDArray | None

    @property
    def target_positions(self) -> NDArray[np.int64]:
        """Label as a position among the scored columns."""


Runs = Mapping[str, Run]


def has_distribution(run: Run) -> bool:
    """Whether the probability of every class and one true class are known for every image."""
    return run.logits is not None and not run.multilabel


def scored_logits(run: Run) -> NDArray:
    """Logits of the scored columns as stored (float16), not kept: at most one model's are in memory at a time."""
    return run.logits if run.columns is None else run.logits[:, run.columns]


def reliability_table(runs: Runs, n_bins: int = PAPER.n_bins) -> pd.DataFrame:
    """Rows of `calibration.reliability` for every model, with a column `model` and `share` of the images in the bin."""
    parts = []
    for model, run in runs.items():
        part = calibration.reliability(run.confidence, run.correct, n_bins)
        part.insert(0, "model", model)
        parts.append(part.assign(share=part["n"] / part["n"].sum()))
    return pd.concat(parts, ignore_index=True)


def ece_table(runs: Runs, resamples: int, seed: int, n_bins: int = PAPER.n_bins) -> pd.DataFrame:
    """The main table.

    Args:
        runs: Model -> its run on the same images.
        resamples: Bootstrap resamples of means, and simulations of a calibrated model.
        seed: Seed; all models are resampled alike.
        n_bins: Equal-width bins of the ECE.

    Returns:
        Tidy rows. Metrics: `accuracy` (percent, Wilson), `confidence` (mean), `confidence_gap` (mean confidence minus
        accuracy), `ece_debiased` (the model's own error), `ece` (as the paper has it, noise included, in its interval
        too), `ece_null` (what a calibrated model with these confidences scores: mean, and the range of 95 % of its
        values).
    """
    confidence, correct = _stacked(runs)
    rng = np.random.default_rng(seed)
    means = bootstrap_means(np.column_stack([confidence, confidence - correct]), resamples, rng)
    rows, n, models = [], len(correct), len(runs)
    for m, (model, run) in enumerate(runs.items()):
        gap = calibration.signed_gap(run.confidence, run.correct)
        found = calibration.ece_debiased(run.confidence, run.correct, n_bins)
        null = null_ece(run.confidence, resamples, np.random.default_rng(seed), n_bins)
        rows += [
            tidy.accuracy_row("accuracy", model, run.correct),
            tidy.row("confidence", model, run.confidence.mean(), percentile_interval(means[:, m]), n, "fraction"),
            tidy.row("confidence_gap", model, gap, percentile_interval(means[:, models + m]), n, "fraction"),
            tidy.row("ece_debiased", model, found.value, found.interval(null), n, "fraction"),
            _plain_row("ece", model, found.signed),
            tidy.row("ece_null", model, null.mean(), percentile_interval(null), n, "fraction"),
        ]
    return tidy.frame(rows)


def _plain_row(metric: str, model: str, signed: NDArray[np.float64]) -> dict:
    return tidy.row(metric, model, signed.mean(), calibration.plain_interval(signed), len(signed), "fraction")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """What a reliability diagram prints of `ece_table`: `model`, `accuracy`, `confidence`, `ece_debiased`, `ece`."""
    wide = table.pivot(index="model", columns="metric", values="value").loc[table["model"].unique()]
    columns = ["accuracy", "confidence", "ece_debiased", "ece"]
    return wide[columns].assign(accuracy=wide["accuracy"] / 100).reset_index()


def scores_table(runs: Runs, resamples: int, seed: int, n_bins: int = PAPER.n_bins) -> pd.DataFrame:
    """Other measures of the same probabilities.

    Returns:
        Tidy rows. Metrics without the bins of the ECE: `ece_sweep`, `ece_smooth`; of the whole distribution:
        `ece_classwise` (mean over classes), `brier` (0 to 2) and `nll` (nats). Brier and NLL carry a bootstrap
        interval, the others, which hold noise, that of what as many other images would show.
    """
    rows = []
    for model, run in runs.items():
        rows += [
            _plain_row("ece_sweep", model, calibration.ece_sweep(run.confidence, run.correct)[0]),
            _plain_row("ece_smooth", model, calibration.smooth_ece(run.confidence, run.correct)[0]),
        ]
        if not has_distribution(run):
            continue
        logits, targets = scored_logits(run), run.target_positions
        scaled = score(logits, targets)
        per_image = np.column_stack([scaled.brier, calibration.nll(scaled.target_probability)])
        draws = bootstrap_means(per_image, resamples, np.random.default_rng(seed))
        probabilities, n = softmax(np.asarray(logits, np.float32), axis=1), len(targets)
        rows += [
            _plain_row("ece_classwise", model, calibration.classwise_ece(probabilities, targets, n_bins)),
            tidy.row("brier", model, per_image[:, 0].mean(), percentile_interval(draws[:, 0]), n, "score"),
            tidy.row("nll", model, per_image[:, 1].mean(), percentile_interval(draws[:, 1]), n, "nats"),
        ]
    return tidy.frame(rows)


def bins_table(runs: Runs, configs: Sequence[BinConfig]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ECE under every bin configuration, and how often each order of two models occurs.

    Returns:
        Rows `model, binning, n_bins, plain, value, ci_low, ci_high` (the ECE as it is and debiased, with its interval),
        and the rows of `calibration_resampling.ordering`.
    """
    _stacked(runs)
    errors = {
        model: [calibration.ece_debiased(run.confidence, run.correct, *config) for config in configs]
        for model, run in runs.items()
    }
    rows = [
        (model, config.binning, config.n_bins, found.plain, found.value, *found.interval())
        for model, per_config in errors.items()
        for config, found in zip(configs, per_config, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["model", "binning", "n_bins", "plain", "value", "ci_low", "ci_high"])
    return frame, ordering(errors, configs)


def shown_ordering(order: pd.DataFrame, title: str, labels: Mapping[str, str]) -> pd.DataFrame:
    """The ordering of one dataset as a table for readers."""
    return pd.DataFrame(
        {
            "dataset": title,
            "better": [labels[name] for name in order["better"]],
            "worse": [labels[name] for name in order["worse"]],
            "share of all": order["share"],
            "least favourable": order["lowest"],
            "at": [f"{row.lowest_n_bins} bins, equal {row.lowest_binning}" for row in order.itertuples()],
            "clear in": [f"{row.clear} of {row.configs}" for row in order.itertuples()],
        }
    )


def differences(runs: Runs, seed: int, n_bins: int = PAPER.n_bins) -> pd.DataFrame:
    """Paired differences between every two models, and each model's confidence gap against zero.

    p-values are uncorrected: McNemar for `accuracy`, 20,000 paired resamples for `confidence_gap`, 20,000 swaps within
    images for `ece_debiased`.

    Returns:
        Rows `metric, model_a, model_b, difference, ci_low, ci_high, p, n, unit, p_floor`; `model_b` is empty where the
        gap of `model_a` is compared with zero.
    """
    confidence, correct = _stacked(runs)
    names, n, rows, models = list(runs), len(correct), [], range(len(runs))
    pairs, gap = list(combinations(models, 2)), confidence - correct
    columns = [gap[:, m] for m in models] + [gap[:, a] - gap[:, b] for a, b in pairs]
    draws = bootstrap_means(np.column_stack(columns), P_VALUE_RESAMPLES, np.random.default_rng(seed)).T
    for (a, *b), column, sample in zip([(m,) for m in models] + pairs, columns, draws, strict=True):
        tested = percentile_interval(sample), bootstrap_p_value(sample), p_value_floor(P_VALUE_RESAMPLES)
        rows.append(("confidence_gap", names[a], names[b[0]] if b else "", column.mean(), *tested, "fraction"))
    for a, b in pairs:
        gained, interval, p = accuracy_difference(correct[:, a], correct[:, b])
        tested = Interval(100 * interval.low, 100 * interval.high), p, 0.0
        rows.append(("accuracy", names[a], names[b], 100 * gained, *tested, "percent"))
        both = ((confidence[:, m], correct[:, m]) for m in (a, b))
        tested = ece_difference(*both, P_VALUE_RESAMPLES, np.random.default_rng(seed), n_bins)
        rows.append(("ece_debiased", names[a], names[b], *tested, 1 / (P_VALUE_RESAMPLES + 1), "fraction"))
    frame = [
        dict(zip(["metric", *tidy.DIFFERENCE], (*keys, *interval, p, n, unit), strict=True)) | {"p_floor": floor}
        for *keys, interval, p, floor, unit in rows
    ]
    return pd.DataFrame(frame)


def fit_temperatures(clean: Runs, folds: int, seed: int) -> dict[str, Temperature]:
    """Temperatures of every model with logits: cross-fitted for the clean images, one of all of them for other sets."""
    fitted = {}
    for model, run in clean.items():
        if has_distribution(run):
            logits, targets = scored_logits(run), run.target_positions
            crossed = cross_fit(logits, targets, np.random.default_rng(seed), folds)
            whole = fit_temperature(logits, targets, float(np.median(crossed.per_fold)))
            fitted[model] = Temperature(crossed, whole, temperature_interval(logits, targets, whole))
    return fitted


def scaled_table(
    runs: Runs,
    temperatures: Mapping[str, Temperature],
    clean: bool,
    resamples: int,
    seed: int,
    n_bins: int = PAPER.n_bins,
) -> pd.DataFrame:
    """What temperature scaling does to one dataset.

    Args:
        runs: Model -> its run; models without a temperature are left out.
        temperatures: Of `fit_temperatures`.
        clean: Whether these are the images the temperatures were fitted on: each is then scored with the temperature
            of the folds it is not in. Otherwise the temperature of all clean images is carried over.
        resamples: Bootstrap resamples.
        seed: Seed.
        n_bins: Equal-width bins of the ECE.

    Returns:
        Tidy rows. Metrics: `temperature` (of all clean images; n counts those), and after scaling
        `ece_debiased:scaled`, `confidence_gap:scaled`, `nll:scaled`, `brier:scaled`.
    """
    rows = []
    for model, run in runs.items():
        if model not in temperatures or not has_distribution(run):
            continue
        crossed, whole, interval = temperatures[model]
        scaled = score(scored_logits(run), run.target_positions, crossed.temperature if clean else whole)
        p, right, n = scaled.confidence, run.correct, len(run.correct)
        found, null = (
            calibration.ece_debiased(p, right, n_bins),
            null_ece(p, resamples, np.random.default_rng(seed), n_bins),
        )
        columns = {
            "confidence_gap:scaled": (p - right, "fraction"),
            "nll:scaled": (calibration.nll(scaled.target_probability), "nats"),
            "brier:scaled": (scaled.brier, "score"),
        }
        means = bootstrap_means(
            np.column_stack([c for c, _ in columns.values()]), resamples, np.random.default_rng(seed)
        )
        rows += [
            tidy.row("temperature", model, whole, interval, len(crossed.temperature), "ratio"),
            tidy.row("ece_debiased:scaled", model, found.value, found.interval(null), n, "fraction"),
        ]
        for (metric, (column, unit)), sample in zip(columns.items(), means.T, strict=True):
            rows.append(tidy.row(metric, model, column.mean(), percentile_interval(sample), n, unit))
    return tidy.frame(rows)


def before_after(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Rows of `ece_table` and `scaled_table` of one dataset side by side.

    Returns:
        Columns `model`, `temperature`, `before`, `after`, both with `_low` and `_high`: the debiased ECE.
    """
    rows = []
    for model in after["model"].unique():
        old = before[(before["metric"] == "ece_debiased") & (before["model"] == model)].iloc[0]
        mine = after[after["model"] == model].set_index("metric")
        new = mine.loc["ece_debiased:scaled"]
        values = [*old[["value", "ci_low", "ci_high"]], *new[["value", "ci_low", "ci_high"]]]
        rows.append((model, mine.loc["temperature", "value"], *values))
    columns = ["model", "temperature", "before", "before_low", "before_high", "after", "after_low", "after_high"]
    return pd.DataFrame(rows, columns=columns)


def selective_table(runs: Runs, resamples: int, seed: int, coverage: float = 0.8) -> pd.DataFrame:
    """What is gained by answering only where the model is confident.

    Returns:
        Tidy rows. Metrics: `auroc` (no row where all answers are right or all wrong), `aurc`, `augrc`, and
        `accuracy:coverage=<x>` (percent, Wilson) on the most confident share of the images.
    """
    rows = []
    for model, run in runs.items():
        p, right, n = run.confidence, run.correct, len(run.correct)
        draws = selective_bootstrap(p, right, resamples, np.random.default_rng(seed))
        for metric, value, sample in zip(("auroc", "aurc", "augrc"), selective(p, right), draws, strict=True):
            if np.isfinite(value):
                rows.append(tidy.row(metric, model, value, tidy.interval_of_ratio(sample), n, "fraction"))
        kept = max(1, round(coverage * n))
        accuracy = accuracy_at_coverage(p, right, kept / n)
        low, high = wilson(round(accuracy * kept), kept)
        metric = f"accuracy:coverage={coverage:g}"
        rows.append(tidy.row(metric, model, 100 * accuracy, (100 * low, 100 * high), kept, "percent"))
    return tidy.frame(rows)


def _stacked(runs: Runs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not runs:
        raise ValueError("there is no model to judge")
    sizes = {len(run.correct) for run in runs.values()}
    if len(sizes) > 1:
        raise ValueError(f"models are compared on the same images, got {sorted(sizes)} images")
    columns = [(run.confidence, np.asarray(run.correct, float)) for run in runs.values()]
    return np.column_stack([c for c, _ in columns]), np.column_stack([c for _, c in columns])
