"""What a change of convention does to a model's numbers, over the same images.

Not one of the choices is part of the model: resize and crop, interpolation, precision, the scale of CLIP's logits, the
classes that compete. Published numbers of one checkpoint differ by them (huggingface/pytorch-image-models #2456,
hendrycks/natural-adv-examples #15, google-research/robustness_metrics #32).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.dimensions import calibration, mistakes
from beyond_accuracy.dimensions.calibration_resampling import PAPER, ece_difference
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import (
    P_VALUE_RESAMPLES,
    Interval,
    accuracy_difference,
    bootstrap_means,
    bootstrap_p_value,
    holm,
    p_value_floor,
    percentile_interval,
    wilson,
)

METRICS = {"accuracy": "percent", "ece_debiased": "fraction", "nll": "nats", "error_ratio:average": "ratio"}
HEADINGS = {"accuracy": "accuracy", "ece_debiased": "ECE", "nll": "NLL", "error_ratio:average": "error ratio"}
FORMATS = {"answers changed (%)": ".2f", "accuracy": "+.1f", "ECE": "+.3f", "NLL": "+.3f", "error ratio": "+.3f"}
FORMATS |= {f"p ({heading})": ".3f" for heading in HEADINGS.values()}
COLUMNS = [
    *("convention", "group", "label", "dataset", "title", "model", "metric"),
    *("before", "after", "change", "ci_low", "ci_high", "p", "n", "unit", "p_floor"),
]


class Run(Protocol):
    """What is read of one model's predictions; `predictions.Predictions` has it."""

    ids: NDArray
    pred: NDArray[np.int64]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    target_probability: NDArray[np.float64]


class Pair(NamedTuple):
    """One model on the same images under two conventions.

    Attributes:
        convention: `<setting>=<value>`.
        group: The choice that was changed.
        label: The change, for readers.
        dataset: Dataset name.
        title: Dataset name for readers.
        model: Model name.
        plain: Under the conventions that all are compared with.
        changed: Under the changed one.
    """

    convention: str
    group: str
    label: str
    dataset: str
    title: str
    model: str
    plain: Run
    changed: Run


def flip_rate(before: ArrayLike, after: ArrayLike) -> tuple[float, Interval]:
    """Share of predictions that change, and its Wilson interval.

    Args:
        before: (n,) predicted classes.
        after: (n,) predicted classes on the same images.

    >>> flip_rate([1, 2, 3, 4], [1, 2, 3, 5])[0]
    0.25
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape:
        raise ValueError(f"predictions of the same images are expected, got shapes {before.shape} and {after.shape}")
    changed = int((before != after).sum())
    return changed / before.size if before.size else float("nan"), wilson(changed, before.size)


def effects(
    pairs: Sequence[Pair],
    seed: int,
    factors: pd.DataFrame | None = None,
    resamples: int = P_VALUE_RESAMPLES,
    n_bins: int = PAPER.n_bins,
) -> pd.DataFrame:
    """What each convention moves: paired differences, changed minus plain.

    Args:
        pairs: Of one or several datasets; those of one dataset over the same images.
        seed: Seed of the resampling; all pairs of a dataset see the same resamples.
        factors: (n, factors) 0/1 by image id, for the average error ratio of those pairs whose images have them.
        resamples: Behind intervals and p-values.
        n_bins: Equal-width bins of the ECE.

    Returns:
        `COLUMNS`, a row per pair and metric: `accuracy` in percent (score interval, McNemar), `ece_debiased` (swaps
        within images), `nll`, `error_ratio:average` (bootstrap). p-values are two-sided and uncorrected; NaN where a
        convention leaves every image as it was. `p_floor` is the smallest one that the resamples can give.
    """
    parts = [
        _dataset_effects([p for p in pairs if p.dataset == dataset], seed, factors, resamples, n_bins)
        for dataset in dict.fromkeys(pair.dataset for pair in pairs)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


class _Column(NamedTuple):
    """One metric of every run of a dataset: estimates (runs,) and their draws (resamples, runs)."""

    values: NDArray[np.float64]
    draws: NDArray[np.float64]


def _dataset_effects(
    pairs: Sequence[Pair], seed: int, factors: pd.DataFrame | None, resamples: int, n_bins: int
) -> pd.DataFrame:
    runs = list({id(run): run for pair in pairs for run in (pair.plain, pair.changed)}.values())
    if any(not np.array_equal(run.ids, runs[0].ids) for run in runs):
        raise ValueError(f"{pairs[0].dataset}: conventions are compared on the same images")
    place = {id(run): i for i, run in enumerate(runs)}
    columns = _columns(runs, np.random.default_rng(seed), factors, resamples)
    rows = []
    for pair in pairs:
        before, after = place[id(pair.plain)], place[id(pair.changed)]
        for metric, (values, draws) in columns.items():
            change, moved = values[after] - values[before], draws[:, after] - draws[:, before]
            if not np.isfinite(change):
                continue
            # images that a convention leaves alone: equal sums may differ by how they were rounded
            moved[np.isclose(draws[:, after], draws[:, before], rtol=1e-12, atol=0)] = 0
            same = not moved.any()
            moved = moved[np.isfinite(moved)]
            interval, p, floor = *_interval(moved, resamples), p_value_floor(len(moved))
            if metric == "accuracy":
                _, interval, p = accuracy_difference(pair.changed.correct, pair.plain.correct)
                interval, floor = Interval(100 * interval.low, 100 * interval.high), 0.0
            if same:
                p = np.nan  # nothing changed on any image: there is nothing to test
            row = (*pair[:6], metric, values[before], values[after], change, *interval, p, len(pair.plain.pred))
            rows.append(dict(zip(COLUMNS, (*row, METRICS[metric], floor), strict=True)))
        rows.append(_ece_effect(pair, np.random.default_rng(seed), resamples, n_bins))
    return pd.DataFrame(rows, columns=COLUMNS)


def _ece_effect(pair: Pair, rng: np.random.Generator, resamples: int, n_bins: int) -> dict:
    before, after = ((run.confidence, run.correct) for run in (pair.plain, pair.changed))
    errors = [calibration.ece_debiased(*run, n_bins).value for run in (before, after)]
    change, interval, p = ece_difference(after, before, resamples, rng, n_bins)
    p = np.nan if all(map(np.array_equal, before, after)) else p
    row = (*pair[:6], "ece_debiased", *errors, change, *interval, p, len(pair.plain.pred))
    return dict(zip(COLUMNS, (*row, METRICS["ece_debiased"], 1 / (resamples + 1)), strict=True))


def _columns(
    runs: Sequence[Run], rng: np.random.Generator, factors: pd.DataFrame | None, resamples: int
) -> dict[str, _Column]:
    correct = np.column_stack([run.correct for run in runs])
    label = np.column_stack([run.target_probability for run in runs])
    known = np.isfinite(label).all(axis=0)  # imported predictions know the answer's probability only
    loss = np.full(label.shape, np.nan)
    loss[:, known] = calibration.nll(label[:, known].ravel()).reshape(len(label), -1)
    means = bootstrap_means(np.column_stack([correct, loss[:, known]]), resamples, rng)
    losses = np.full((resamples, len(runs)), np.nan)
    losses[:, known] = means[:, len(runs) :]
    found = {
        "accuracy": _Column(100 * correct.mean(axis=0), 100 * means[:, : len(runs)]),
        "nll": _Column(loss.mean(axis=0), losses),
    }
    inside = np.isin(runs[0].ids, [] if factors is None else factors.index)
    if inside.any():
        marks = factors.loc[runs[0].ids[inside]]
        marks = marks.loc[:, marks.any().to_numpy()].to_numpy()
        outcomes = correct[inside]
        ratios = mistakes.error_ratio(outcomes, marks).mean(axis=1)
        draws = mistakes.error_ratio_bootstrap(outcomes, marks, resamples, rng).mean(axis=2)
        found["error_ratio:average"] = _Column(ratios, draws)
    return found


def _interval(draws: NDArray[np.float64], resamples: int) -> tuple[Interval, float]:
    """Interval and p-value of a change; none where more than 5 % of the resamples leave it undefined."""
    if len(draws) < (1 - tidy.MOST_UNDEFINED) * resamples:
        return Interval(np.nan, np.nan), np.nan
    return percentile_interval(draws), bootstrap_p_value(draws)


def flips(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Share of predictions that each convention changes.

    Returns:
        `convention, group, label, dataset, title, model, value, ci_low, ci_high, n`, shares in percent.
    """
    rows = []
    for pair in pairs:
        share, (low, high) = flip_rate(pair.plain.pred, pair.changed.pred)
        rows.append((*pair[:6], 100 * share, 100 * low, 100 * high, len(pair.plain.pred)))
    return pd.DataFrame(rows, columns=[*COLUMNS[:6], "value", "ci_low", "ci_high", "n"])


def recorded(effects: pd.DataFrame, flips: pd.DataFrame) -> pd.DataFrame:
    """Both tables as rows of the results schema: metrics `accuracy_change:precision=bf16`, `flip_rate:…`, and so on."""
    one = effects.assign(
        value=effects["change"],
        metric=[
            f"{metric.replace(':', '_')}_change:{convention}"
            for metric, convention in zip(effects["metric"], effects["convention"], strict=True)
        ],
    )
    two = flips.assign(metric="flip_rate:" + flips["convention"], unit="percent")
    columns = ["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]
    return pd.concat([one[columns], two[columns]], ignore_index=True)


def shown(effects: pd.DataFrame, flips: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """The table for readers: a row per convention and model, the change of every metric with its interval.

    The p-values of each metric are corrected by Holm over their column.
    """
    corrected = effects.assign(p=effects.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float))))
    corrected["p_floor"] = corrected["p"].where(effects["p"] <= effects["p_floor"] * (1 + 1e-9))
    rows, several = [], flips["dataset"].nunique() > 1
    for flip in flips.to_dict("records"):
        row = {
            "change": f"{flip['title']}, {flip['label']}" if several else flip["label"],
            "model": labels[flip["model"]],
            "n": flip["n"],
            "answers changed (%)": flip["value"],
        }
        mine = corrected[
            (corrected["convention"] == flip["convention"])
            & (corrected["model"] == flip["model"])
            & (corrected["dataset"] == flip["dataset"])
        ].set_index("metric")
        for metric, heading in HEADINGS.items():
            there = mine.loc[metric] if metric in mine.index else pd.Series(dtype=float)
            row[heading] = there.get("change", np.nan)
            row[f"{heading}_low"], row[f"{heading}_high"] = there.get("ci_low", np.nan), there.get("ci_high", np.nan)
            row[f"p ({heading})"], row[f"p ({heading})_floor"] = there.get("p", np.nan), there.get("p_floor", np.nan)
        rows.append(row)
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def reordered(pairs: Sequence[Pair], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Pairs of models whose order of accuracy one convention turns round, for those models that it touches.

    Args:
        pairs: Of one dataset.
        names: Models in order.

    Returns:
        (label of the convention, better before, better after).
    """
    found = []
    for label in dict.fromkeys(pair.label for pair in pairs):
        mine = {pair.model: pair for pair in pairs if pair.label == label}
        for a, b in combinations([name for name in names if name in mine], 2):
            before = mine[a].plain.correct.mean() - mine[b].plain.correct.mean()
            after = mine[a].changed.correct.mean() - mine[b].changed.correct.mean()
            if before * after < 0:
                found.append((label, *((a, b) if before > 0 else (b, a))))
    return found
