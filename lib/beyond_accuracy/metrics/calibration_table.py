"""The tables of the calibration page: tidy rows for every model, from its outputs on one dataset.

A run needs no logits for most of them; where a measure needs the whole distribution, models without logits (imported
predictions) and images with several labels have no row.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from ..stats import (
    P_VALUE_RESAMPLES,
    Interval,
    basic_interval,
    bootstrap_means,
    bootstrap_p_value,
    mcnemar,
    percentile_interval,
)
from . import calibration, tidy
from .calibration_resampling import (
    PAPER,
    BinConfig,
    ece_and_gap_bootstrap,
    ece_bootstrap,
    ece_interval,
    null_ece,
    ordering,
)
from .selective import accuracy_at_coverage, selective, selective_bootstrap
from .temperature import CrossFit, cross_fit, fit_temperature, score

NO_INTERVAL = Interval(float("nan"), float("nan"))


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


def reliability_table(runs: Runs, config: BinConfig = PAPER) -> pd.DataFrame:
    """Rows of `calibration.reliability` for every model, with a column `model` and `share` of the images in the bin."""
    parts = []
    for model, run in runs.items():
        part = calibration.reliability(run.confidence, run.correct, *config)
        part.insert(0, "model", model)
        parts.append(part.assign(share=part["n"] / part["n"].sum()))
    return pd.concat(parts, ignore_index=True)


def ece_table(runs: Runs, resamples: int, seed: int, config: BinConfig = PAPER) -> pd.DataFrame:
    """The main table.

    Args:
        runs: Model -> its run on the same images.
        resamples: Bootstrap resamples, and simulations of a calibrated model.
        seed: Seed; all models are resampled alike.
        config: Bins of the ECE.

    Returns:
        Tidy rows. Metrics: `accuracy` (percent, Wilson), `confidence` (mean), `confidence_gap` (mean confidence minus
        accuracy), `ece` (interval of `ece_interval`), `ece_null` (what a calibrated model with these confidences
        scores: mean, and the range of 95 % of its values).
    """
    rng = np.random.default_rng(seed)
    confidence, correct = _stacked(runs)
    eces, gaps = ece_and_gap_bootstrap(confidence, correct, resamples, rng, [config])
    means = bootstrap_means(confidence, resamples, rng)
    rows, n = [], len(correct)
    for m, (model, run) in enumerate(runs.items()):
        mean, gap = run.confidence.mean(), calibration.signed_gap(run.confidence, run.correct)
        value = calibration.ece(run.confidence, run.correct, config.n_bins, binning=config.binning)
        null = null_ece(run.confidence, resamples, np.random.default_rng(seed), config)
        rows += [
            tidy.accuracy_row("accuracy", model, run.correct),
            tidy.row("confidence", model, mean, percentile_interval(means[:, m]), n, "fraction"),
            tidy.row("confidence_gap", model, gap, percentile_interval(gaps[:, m]), n, "fraction"),
            tidy.row("ece", model, value, ece_interval(value, eces[:, 0, m], null), n, "fraction"),
            tidy.row("ece_null", model, null.mean(), percentile_interval(null), n, "fraction"),
        ]
    return tidy.frame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """What a reliability diagram prints of `ece_table`: columns `model`, `accuracy`, `confidence`, `ece`, fractions."""
    wide = table.pivot(index="model", columns="metric", values="value").loc[table["model"].unique()]
    return wide[["accuracy", "confidence", "ece"]].assign(accuracy=wide["accuracy"] / 100).reset_index()


def scores_table(runs: Runs, resamples: int, seed: int, config: BinConfig = PAPER) -> pd.DataFrame:
    """Other measures of the same probabilities.

    Returns:
        Tidy rows. Metrics without the bias or the bins of the ECE: `ece_debiased`, `ece_sweep`, `ece_smooth`; of the
        whole distribution: `ece_classwise` (mean over classes), `brier` (0 to 2) and `nll` (nats). Means carry a
        bootstrap interval; the interval of `ece_table` already is one of the debiased error.
    """
    rows = []
    for model, run in runs.items():
        p, right, n = run.confidence, run.correct, len(run.correct)
        values = {
            "ece_debiased": calibration.ece_debiased(p, right, config.n_bins, binning=config.binning),
            "ece_sweep": calibration.ece_sweep(p, right)[0],
            "ece_smooth": calibration.smooth_ece(p, right)[0],
        }
        rows += [tidy.row(metric, model, value, NO_INTERVAL, n, "fraction") for metric, value in values.items()]
        if not has_distribution(run):
            continue
        logits, targets = scored_logits(run), run.target_positions
        scaled = score(logits, targets)
        per_image = np.column_stack([scaled.brier, calibration.nll(scaled.target_probability)])
        draws = bootstrap_means(per_image, resamples, np.random.default_rng(seed))
        classwise = calibration.classwise_ece(softmax(np.asarray(logits, np.float32), axis=1), targets, *config).mean()
        rows += [
            tidy.row("ece_classwise", model, classwise, NO_INTERVAL, n, "fraction"),
            tidy.row("brier", model, per_image[:, 0].mean(), percentile_interval(draws[:, 0]), n, "score"),
            tidy.row("nll", model, per_image[:, 1].mean(), percentile_interval(draws[:, 1]), n, "nats"),
        ]
    return tidy.frame(rows)


def bins_table(
    runs: Runs, configs: Sequence[BinConfig], resamples: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ECE under every bin configuration, and how often each order of two models occurs.

    Returns:
        Rows `model, binning, n_bins, value, ci_low, ci_high` (basic bootstrap), and the rows of
        `calibration_resampling.ordering`.
    """
    confidence, correct = _stacked(runs)
    draws = ece_bootstrap(confidence, correct, resamples, np.random.default_rng(seed), configs)
    rows = []
    for m, (model, run) in enumerate(runs.items()):
        for c, (n_bins, binning) in enumerate(configs):
            value = calibration.ece(run.confidence, run.correct, n_bins, binning=binning)
            rows.append((model, binning, n_bins, value, *basic_interval(value, draws[:, c, m], bounds=(0, 1))))
    frame = pd.DataFrame(rows, columns=["model", "binning", "n_bins", "value", "ci_low", "ci_high"])
    return frame, ordering(draws, list(runs), configs)


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
            "in every one": ["yes" if every else "no" for every in order["every"]],
        }
    )


def differences(runs: Runs, seed: int, config: BinConfig = PAPER) -> pd.DataFrame:
    """Paired differences between every two models, and each model's confidence gap against zero.

    p-values are uncorrected: McNemar for `accuracy`, 20,000 paired resamples for `ece` and `confidence_gap`. Those of
    `ece` are of the basic bootstrap, like its intervals.

    Returns:
        Rows `metric, model_a, model_b, difference, ci_low, ci_high, p, n, unit`; `model_b` is empty where the gap of
        `model_a` is compared with zero.
    """
    rng = np.random.default_rng(seed)
    confidence, correct = _stacked(runs)
    eces, gap_draws = ece_and_gap_bootstrap(confidence, correct, P_VALUE_RESAMPLES, rng, [config])
    point = [
        calibration.ece(run.confidence, run.correct, config.n_bins, binning=config.binning) for run in runs.values()
    ]
    # Differences of 0/1 columns have three values: drawn as counts of those, whatever the number of images.
    gaps, names, n, rows = (confidence - correct).mean(axis=0), list(runs), len(correct), []
    for m, model in enumerate(names):
        draws = gap_draws[:, m]
        rows.append(("confidence_gap", model, "", gaps[m], draws, bootstrap_p_value(draws), "fraction"))
    for a, b in combinations(range(len(names)), 2):
        pair, wins = (names[a], names[b]), correct[:, a] - correct[:, b]
        draws = 100 * bootstrap_means(wins, P_VALUE_RESAMPLES, rng)
        p = mcnemar(correct[:, a], correct[:, b])
        rows.append(("accuracy", *pair, 100 * wins.mean(), draws, p, "percent"))
        gap = gap_draws[:, a] - gap_draws[:, b]
        rows.append(("confidence_gap", *pair, gaps[a] - gaps[b], gap, bootstrap_p_value(gap), "fraction"))
        estimate = point[a] - point[b]
        turned = 2 * estimate - (eces[:, 0, a] - eces[:, 0, b])
        rows.append(("ece", *pair, estimate, turned, bootstrap_p_value(turned), "fraction"))
    frame = [
        dict(zip(["metric", *tidy.DIFFERENCE], (metric, a, b, d, *percentile_interval(s), p, n, unit), strict=True))
        for metric, a, b, d, s, p, unit in rows
    ]
    return pd.DataFrame(frame)


def fit_temperatures(clean: Runs, folds: int, seed: int) -> dict[str, tuple[CrossFit, float]]:
    """Temperatures of every model with logits: cross-fitted for the clean images, one of all of them for other sets."""
    fitted = {}
    for model, run in clean.items():
        if has_distribution(run):
            logits, targets = scored_logits(run), run.target_positions
            crossed = cross_fit(logits, targets, np.random.default_rng(seed), folds)
            fitted[model] = crossed, fit_temperature(logits, targets, float(np.median(crossed.per_fold)))
    return fitted


def scaled_table(
    runs: Runs,
    temperatures: Mapping[str, tuple[CrossFit, float]],
    clean: bool,
    resamples: int,
    seed: int,
    config: BinConfig = PAPER,
) -> pd.DataFrame:
    """What temperature scaling does to one dataset.

    Args:
        runs: Model -> its run; models without a temperature are left out.
        temperatures: Of `fit_temperatures`.
        clean: Whether these are the images the temperatures were fitted on: each is then scored with the temperature
            of the folds it is not in. Otherwise the temperature of all clean images is carried over.
        resamples: Bootstrap resamples.
        seed: Seed.
        config: Bins of the ECE.

    Returns:
        Tidy rows. Metrics: `temperature`, and after scaling `ece:scaled`, `confidence_gap:scaled`, `nll:scaled`,
        `brier:scaled`.
    """
    rows = []
    for model, run in runs.items():
        if model not in temperatures or not has_distribution(run):
            continue
        crossed, whole = temperatures[model]
        used = crossed.temperature if clean else whole
        scaled = score(scored_logits(run), run.target_positions, used)
        p, right, n = scaled.confidence, run.correct, len(run.correct)
        value = calibration.ece(p, right, config.n_bins, binning=config.binning)
        draws = ece_bootstrap(p, right, resamples, np.random.default_rng(seed), [config]).ravel()
        null = null_ece(p, resamples, np.random.default_rng(seed), config)
        columns = {
            "confidence_gap:scaled": (p - right, "fraction"),
            "nll:scaled": (calibration.nll(scaled.target_probability), "nats"),
            "brier:scaled": (scaled.brier, "score"),
        }
        means = bootstrap_means(
            np.column_stack([c for c, _ in columns.values()]), resamples, np.random.default_rng(seed)
        )
        rows += [
            tidy.row("temperature", model, np.mean(used), NO_INTERVAL, n, "ratio"),
            tidy.row("ece:scaled", model, value, ece_interval(value, draws, null), n, "fraction"),
        ]
        for (metric, (column, unit)), sample in zip(columns.items(), means.T, strict=True):
            rows.append(tidy.row(metric, model, column.mean(), percentile_interval(sample), n, unit))
    return tidy.frame(rows)


def before_after(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Rows of `ece_table` and `scaled_table` of one dataset side by side.

    Returns:
        Columns `model`, `temperature`, `before`, `after`, both with `_low` and `_high`: the ECE.
    """
    rows = []
    for model in after["model"].unique():
        old = before[(before["metric"] == "ece") & (before["model"] == model)].iloc[0]
        mine = after[after["model"] == model].set_index("metric")
        new = mine.loc["ece:scaled"]
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
        interval = tidy.accuracy_row("", model, np.arange(kept) < round(accuracy * kept))
        metric = f"accuracy:coverage={coverage:g}"
        rows.append(tidy.row(metric, model, 100 * accuracy, (interval["ci_low"], interval["ci_high"]), kept, "percent"))
    return tidy.frame(rows)


def _stacked(runs: Runs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not runs:
        raise ValueError("there is no model to judge")
    sizes = {len(run.correct) for run in runs.values()}
    if len(sizes) > 1:
        raise ValueError(f"models are compared on the same images, got {sorted(sizes)} images")
    columns = [(run.confidence, np.asarray(run.correct, float)) for run in runs.values()]
    return np.column_stack([c for c, _ in columns]), np.column_stack([c for _, c in columns])
