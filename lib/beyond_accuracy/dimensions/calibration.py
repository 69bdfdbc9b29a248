"""Can a model's confidence be trusted? Calibration errors, their noise, and what they say of models (figure 4).

Confidence is the largest softmax probability of an image, correct says whether that class is right. A model is
calibrated when, among the images it is p confident about, a share p is right. All errors are fractions (0.05 = five
points). A *run* is one model's predictions on one set (`Predictions`); functions of `runs` (model -> run on the same
images) give tidy rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct, idct
from scipy.optimize import brentq
from scipy.special import erf, softmax
from scipy.stats import norm

from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import (
    P_VALUE_RESAMPLES,
    Z95,
    Difference,
    Interval,
    bootstrap_means,
    wilson,
)
from beyond_accuracy.measure.verdicts import contrasts
from beyond_accuracy.show.figures import Drawn
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle

Binning = Literal["width", "mass"]
Runs = Mapping[str, Predictions]


class Bins(NamedTuple):
    """One way to bin confidences."""

    n_bins: int
    binning: Binning


PAPER = Bins(15, "width")
MANY = [Bins(n, binning) for binning, n in product(("width", "mass"), range(5, 51))]
CALIBRATED = 1 + 2**0.5  # what a calibrated model's bias is in multiples of the bias that its noisy gaps suggest
CORRECTION = (1 + CALIBRATED) / 2  # multiple that `ece_debiased` subtracts

SHARE, LEAST = "share of all (%)", "least favourable (%)"
_GRID = 2**14  # cells of the smooth ECE; a tenth of the smallest bandwidth that 50,000 images can resolve
_MIN_BANDWIDTH = 1e-3
_BATCH = 2**22  # 32 MB of swaps at a time
_CHUNK = 2**21  # float16 logits are widened chunk by chunk: memory does not grow with the number of images


# Bins ---------------------------------------------------------------------------------------------------------------


def bin_edges(confidence: ArrayLike, n_bins: int = 15, binning: Binning = "width") -> NDArray[np.float64]:
    """(bins + 1,) edges of right-closed bins over 0..1: of equal `width` (paper) or equal number of images (`mass`).

    The first bin also holds a confidence of exactly 0. Images of equal confidence stay together: ties may leave fewer
    bins of equal mass.
    """
    if n_bins < 1 or binning not in ("width", "mass"):
        raise ValueError(f"bins: at least one of 'width' or 'mass', got {n_bins} of {binning!r}")
    if binning == "width":
        return np.linspace(0, 1, n_bins + 1)
    # Edges are confidences that occur: with right-closed bins this splits n distinct values into equal counts.
    inner = np.quantile(confidence, np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    return np.concatenate([[0.0], np.unique(inner[(inner > 0) & (inner < 1)]), [1.0]])


def bin_index(confidence: ArrayLike, edges: ArrayLike) -> NDArray[np.intp]:
    """Bin of each confidence, 0-based, for right-closed bins."""
    return np.searchsorted(np.asarray(edges)[1:-1], np.asarray(confidence, float), side="left")


def reliability(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width"
) -> pd.DataFrame:
    """The reliability diagram: a row per bin that holds images, with the interval of its accuracy (Wilson)."""
    confidence, correct = checked(confidence, correct)
    edges = bin_edges(confidence, n_bins, binning)
    index = bin_index(confidence, edges)
    n = np.bincount(index)
    held = np.flatnonzero(n)
    mean, accuracy = (np.bincount(index, values)[held] / n[held] for values in (confidence, correct))
    columns = {"low": edges[held], "high": edges[held + 1], "n": n[held], "share": n[held] / n.sum()}
    table = pd.DataFrame(columns | {"confidence": mean, "accuracy": accuracy})
    table[["ci_low", "ci_high"]] = [wilson(round(a * m), m) for a, m in zip(accuracy, n[held], strict=True)]
    return table


def checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidences and outcomes as (n,) numbers in 0..1.

    Raises:
        ValueError: No images, other shapes, NaN or values outside 0..1.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.ndim != 1 or confidence.size == 0 or confidence.shape != correct.shape:
        raise ValueError(f"one confidence and one outcome per image, got {confidence.shape} and {correct.shape}")
    for what, values in (("confidence", confidence), ("correct", correct)):
        outside = ~((values >= 0) & (values <= 1))  # also true for NaN
        if outside.any():
            bad = int(outside.argmax())
            raise ValueError(f"{what} must lie in 0..1, got {values[bad]} for image {bad}")
    return confidence, correct


# Errors of one model -------------------------------------------------------------------------------------------------


def ece(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width") -> float:
    """Expected calibration error: mean gap between accuracy and confidence over bins of confidence.

    ECE = sum_b n_b / n * |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599), in the paper with 15 bins of
    equal width.

    >>> round(ece([0.95, 0.85, 0.75, 0.65], [True, True, False, True], n_bins=2), 3)
    0.05
    """
    return float(signed_residuals(confidence, correct, n_bins, binning).mean())


def signed_residuals(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width"
) -> NDArray[np.float64]:
    """(n,) values whose mean is the ECE: correct minus confidence, with the sign that their sum has in the bin."""
    confidence, correct = checked(confidence, correct)
    index = bin_index(confidence, bin_edges(confidence, n_bins, binning))
    residual = correct - confidence
    return np.sign(np.bincount(index, residual))[index] * residual


def plain_interval(signed: NDArray[np.float64]) -> Interval:
    """Interval of an error that is the mean of signed residuals: of what as many other images would show."""
    half = Z95 * signed.std() / np.sqrt(len(signed))
    return Interval(float(max(signed.mean() - half, 0.0)), float(signed.mean() + half))


class Debiased(NamedTuple):
    """An ECE without the bias of noisy bins."""

    signed: NDArray[np.float64]  # (n,) signed residuals, whose mean is the plain ECE
    bias: float  # part of it that is noise if the bins' true gaps are as large as the observed ones

    @property
    def plain(self) -> float:
        """The ECE as it is."""
        return float(self.signed.mean())

    @property
    def uncut(self) -> float:
        """The debiased error, below 0 where noise happened to be small; models are compared by it."""
        return self.plain - CORRECTION * self.bias

    @property
    def value(self) -> float:
        """The debiased error, at least 0."""
        return max(self.uncut, 0.0)

    def interval(self, null_draws: ArrayLike | None = None) -> Interval:
        """Interval of the model's own error; it holds `value`.

        It reaches from the error left by the largest correction to that left by the smallest (`CALIBRATED` and 1), two
        standard errors further at each end, and down to 0 unless the ECE exceeds what calibrated models show (draws of
        `null_ece` with the same bins).
        """
        half = Z95 * self.signed.std() / np.sqrt(len(self.signed))
        low = max(self.plain - CALIBRATED * self.bias - half, 0.0)
        if null_draws is not None and self.plain <= np.quantile(null_draws, 0.975):
            low = 0.0
        return Interval(float(low), float(min(max(self.plain - self.bias, 0.0) + half, 1.0)))


def ece_debiased(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: Binning = "width") -> Debiased:
    """ECE without the upward bias of finite bins (after Kumar, Liang, Ma 2019, arXiv 1909.10155).

    Even a calibrated model shows gaps, because a bin's accuracy is a noisy mean. Kumar et al. subtract the bias that
    bins with the observed gaps would have. Being noisy themselves, the gaps of a calibrated model show sqrt(2) - 1 of
    its bias only; subtracting all of it (`CALIBRATED` times theirs) would take too much where gaps are as large as
    noise. `CORRECTION` times theirs lies halfway: what is left is within a quarter of a bin's noise either way.
    """
    signed = signed_residuals(confidence, correct, n_bins, binning)
    index, n = bin_index(confidence, bin_edges(confidence, n_bins, binning)), len(signed)
    return Debiased(signed, float(noise_bias(np.bincount(index, signed) / n, np.bincount(index, signed**2) / n**2)))


def noise_bias(gap: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upward bias of sum_b |gap_b| if (..., bins) gaps have normal noise: mean of folded normals, minus the gaps."""
    gap, sd = np.abs(gap), np.sqrt(np.maximum(variance, 0))  # sums that should be 0 may round below it
    z = np.minimum(np.divide(gap, sd, out=np.full_like(gap, 40.0), where=sd > 0), 40.0)
    return (sd * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (erf(z / np.sqrt(2)) - 1)).sum(axis=-1)


def ece_sweep(confidence: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
    """Signed residuals of the ECE with as many equal-mass bins as keep accuracy rising with confidence.

    Roelofs et al. 2022, "Mitigating Bias in Calibration Error Estimation", AISTATS, arXiv 2012.08668.
    """
    confidence, correct = checked(confidence, correct)
    best = 1
    for n_bins in range(2, len(np.unique(confidence)) + 1):
        index = bin_index(confidence, bin_edges(confidence, n_bins, "mass"))
        n = np.bincount(index)
        if (np.diff(np.bincount(index, correct)[n > 0] / n[n > 0]) < 0).any():
            break
        best = n_bins
    return signed_residuals(confidence, correct, best, "mass")


def ece_smooth(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], float]:
    """Smooth calibration error: no bins, consistent, its bandwidth follows from the data.

    smECE_s = integral over 0..1 of |r_s(t)|, r_s(t) = 1/n sum_i K_s(t, confidence_i) (correct_i - confidence_i), with
    the Gaussian kernel reflected at 0 and 1; s solves smECE_s = s (Blasiok and Nakkiran 2023, arXiv 2309.12236). The
    reflected Gaussian is the heat kernel of the interval, diagonal in the cosine basis: one transform serves every s.

    Returns:
        (n,) residuals weighted by the smoothed sign of r_s, whose mean is the error, and the bandwidth s.
    """
    confidence, correct = checked(confidence, correct)
    cell = np.minimum((confidence * _GRID).astype(int), _GRID - 1)
    residual = correct - confidence
    spectrum = dct(np.bincount(cell, residual, _GRID) / len(confidence), norm="ortho")
    decay = (np.pi * np.arange(_GRID)) ** 2 / 2

    def smoothed(s: float) -> NDArray[np.float64]:
        return idct(spectrum * np.exp(-decay * s**2), norm="ortho")

    def excess(s: float) -> float:
        return float(np.abs(smoothed(s)).sum()) - s

    # The error falls with s and is at most 1: it crosses s once, at 1 for a model that is always sure and wrong.
    s = _MIN_BANDWIDTH
    if excess(s) > 0:
        s = 1.0 if excess(1.0) >= -1e-9 else brentq(excess, s, 1.0, xtol=1e-6)
    sign = dct(np.sign(smoothed(s)), norm="ortho")
    return idct(sign * np.exp(-decay * s**2), norm="ortho")[cell] * residual, s


def ece_classwise(probabilities: NDArray, targets: NDArray[np.intp], n_bins: int = 15) -> NDArray[np.float64]:
    """(n,) signed residuals of the ECE of every class probability, averaged (Kull et al. 2019, arXiv 1910.12656)."""
    classes = enumerate(probabilities.T)  # one column at a time: memory does not grow with the number of classes
    signed = (signed_residuals(np.clip(p.astype(float), 0, 1), targets == k, n_bins) for k, p in classes)
    return sum(signed) / probabilities.shape[1]


def nll(target_probability: ArrayLike) -> NDArray[np.float64]:
    """Negative log-likelihood per image in nats: -log(probability of the true class)."""
    # float32 probabilities underflow to 0 near 1e-45; clip there, or one such image makes the mean infinite.
    return -np.log(np.maximum(np.asarray(target_probability, float), np.finfo(np.float32).smallest_subnormal))


class Scores(NamedTuple):
    """What calibration needs of scaled logits, one value per image."""

    confidence: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]  # sum over classes of (probability - [true class])^2, from 0 to 2 (Brier 1950)


def score(logits: NDArray, targets: NDArray[np.intp], temperature: ArrayLike = 1.0) -> Scores:
    """Scores of softmax(logits / temperature) of (n, classes) logits; temperature: one number, or one per image."""
    temperature, out = np.broadcast_to(np.asarray(temperature, float), targets.shape), np.empty((3, len(targets)))
    for rows in chunks(np.arange(len(targets)), logits.shape[1]):
        z = logits[rows].astype(np.float32) / temperature[rows, None].astype(np.float32)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        out[:, rows] = p.max(axis=1), p[np.arange(len(rows)), targets[rows]], np.einsum("ij,ij->i", p, p)
    confidence, own, squares = np.clip(out, 0, 1)
    return Scores(confidence, nll(own), squares + 1 - 2 * own)


def chunks(rows: NDArray[np.intp], width: int) -> list[NDArray[np.intp]]:
    """Rows in parts that fit the cache at a width."""
    return np.array_split(rows, max(1, -(-len(rows) * width // _CHUNK)))


# Noise and differences -----------------------------------------------------------------------------------------------


def null_ece(confidence: ArrayLike, simulations: int, rng: np.random.Generator, n_bins: int = 15) -> NDArray:
    """(simulations,) ECEs that a perfectly calibrated model with these confidences would show at this number of images.

    Correctness is drawn as Bernoulli(confidence) (consistency resampling; Broecker and Smith 2007, Vaicenavicius et
    al. 2019, arXiv 1902.06977). An observed ECE inside the bulk of these values is no evidence of miscalibration.
    """
    p = np.sort(np.asarray(confidence, float))
    starts = np.flatnonzero(np.diff(bin_index(p, bin_edges(p, n_bins)), prepend=-1))
    expected = np.add.reduceat(p, starts)
    draws = np.empty(simulations)
    for s in range(simulations):
        right = np.add.reduceat(rng.random(len(p), dtype=np.float32) < p, starts, dtype=np.int64)
        draws[s] = np.abs(right - expected).sum() / len(p)
    return draws


def ece_difference(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    swaps: int,
    rng: np.random.Generator,
    n_bins: int = 15,
) -> Difference:
    """Difference of the debiased ECE (equal-width bins) of two models on the same images.

    The p-value is that of a permutation within images: the two models' (confidence, correct) are swapped at random, and
    the difference is measured in standard errors, so that it holds approximately where models have equal errors but are
    not exchangeable (Janssen 1997; Chung and Romano 2013). Swapped answers of a model that is clearly too sure and of
    one that is clearly too unsure would cancel: the residuals of one are then turned round, which leaves its ECE alone.

    The end of the interval nearer to zero is that of the test (zero lies outside where p < 0.05); the other one allows
    for the smallest and the largest correction of noise, as the interval of one model does.

    Args:
        first: (n,) confidences and (n,) outcomes of one model.
        second: Those of the other one.
        swaps: Number of random swaps; the smallest p-value is 1 / (swaps + 1).
        rng: Source of randomness.
        n_bins: Number of bins.
    """
    confidence, correct = (np.column_stack([a, b]).astype(float) for a, b in zip(first, second, strict=True))
    n, tiny = len(confidence), np.finfo(float).tiny
    held, index = np.unique(bin_index(confidence, bin_edges(confidence.ravel(), n_bins)), return_inverse=True)
    index, n_bins, residual = index.reshape(n, 2), len(held), correct - confidence
    lean = residual.sum(axis=0) / np.sqrt((residual**2).sum(axis=0) + tiny)
    if lean.prod() < 0 and (np.abs(lean) > Z95).all():
        residual[:, 1] *= -1
    # One row per image: its residual and squared residual, in the columns of their bin.
    a, b = np.zeros((2, n, 2, n_bins))
    for k, table in enumerate((a, b)):
        table[np.arange(n), 0, index[:, k]], table[np.arange(n), 1, index[:, k]] = residual[:, k], residual[:, k] ** 2
    own, other = a.sum(axis=0), b.sum(axis=0)
    # Products of residuals by pair of bins, symmetric: the same for every swap.
    shared = np.bincount(index[:, 0] * n_bins + index[:, 1], residual.prod(axis=1), n_bins**2).reshape(n_bins, -1)
    shared, total = (shared + shared.T) / 2, (own + other)[1].sum()

    def measured(own: NDArray, other: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """(..., 2, bins) sums of both models -> difference of ECE and of bias, and standard error, each times n."""
        own, other = np.round(own, 9), np.round(other, 9)  # a bin that a swap empties holds 0, not what rounding left
        plain = np.abs(own[..., 0, :]).sum(axis=-1) - np.abs(other[..., 0, :]).sum(axis=-1)
        bias = noise_bias(own[..., 0, :], own[..., 1, :]) - noise_bias(other[..., 0, :], other[..., 1, :])
        common = ((np.sign(own[..., 0, :]) @ shared) * np.sign(other[..., 0, :])).sum(axis=-1)
        variance = total - 2 * common - plain**2 / n
        return plain - CORRECTION * bias, bias, np.sqrt(np.maximum(variance, tiny))

    difference, bias, error = measured(own, other)
    apart, width = np.empty(swaps), max(1, _BATCH // n)
    moved = (b - a).reshape(n, -1)
    for start in range(0, swaps, width):
        size = min(width, swaps - start)
        bits = np.frombuffer(rng.bytes(size * -(-n // 8)), np.uint8).reshape(size, -1)
        step = (np.unpackbits(bits, axis=1, count=n).astype(float) @ moved).reshape(size, 2, n_bins)
        d, _, e = measured(own + step, other - step)
        apart[start : start + size] = np.abs(d) / e
    observed = abs(difference) / error
    p = (1 + np.count_nonzero(apart >= observed * (1 - 1e-7))) / (swaps + 1)
    half = np.quantile(apart, 0.95, method="higher") * error
    slack = (CALIBRATED - CORRECTION) * abs(bias) * np.sign(difference)
    low, high = difference - half + min(slack, 0), difference + half + max(slack, 0)
    return Difference(float(difference / n), Interval(float(low / n), float(high / n)), float(p))


# What the page measures: tidy rows of every model --------------------------------------------------------------------


def stacked(runs: Runs) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Models, and their (n, models) confidences and outcomes.

    Raises:
        ValueError: No model, or models with other images.
    """
    sizes = {len(run.correct) for run in runs.values()}
    if len(sizes) != 1:
        raise ValueError(f"models are compared on the same images, got {sorted(sizes) or 'no model'}")
    columns = [(run.confidence, np.asarray(run.correct, float)) for run in runs.values()]
    return list(runs), *(np.column_stack(part) for part in zip(*columns, strict=True))


def has_distribution(run: Predictions) -> bool:
    """Whether the probability of every class and one true class are known for every image."""
    return run.logits is not None and not run.multilabel


def logits_of(run: Predictions) -> NDArray:
    """Logits of the scored columns as stored (float16), not kept: at most one model's are in memory at a time."""
    return run.logits if run.columns is None else run.logits[:, run.columns]


def described(runs: Runs, labels: Mapping[str, str]) -> str:
    """What is known of a set: images, models, and which of them come without logits."""
    without = [labels[model] for model, run in runs.items() if not has_distribution(run)]
    note = f"; only the confidence is known of {', '.join(without)}" if without else ""
    return f"{len(next(iter(runs.values())).correct):,} images, {len(runs)} models{note}"


def diagrams(runs: Runs, n_bins: int = 15) -> pd.DataFrame:
    """Rows of `reliability` of every model, with its errors in `ece` and `ece_debiased`."""
    parts = []
    for model, run in runs.items():
        found, table = (measure(run.confidence, run.correct, n_bins) for measure in (ece_debiased, reliability))
        parts.append(table.assign(model=model, ece=found.plain, ece_debiased=found.value))
    return pd.concat(parts, ignore_index=True)


def errors(runs: Runs, resamples: int, seed: int, n_bins: int = 15) -> pd.DataFrame:
    """Accuracy (percent) and mean confidence, `confidence_gap` (confidence minus accuracy), and errors.

    `ece_debiased` is the model's own error, `ece` that of the paper (noise included, in its interval too), `ece_null`
    what a calibrated model with these confidences scores: mean, and the range of 95 % of its values.
    """
    models, p, right = stacked(runs)
    means = bootstrap_means(np.column_stack([p, p - right]), resamples, np.random.default_rng(seed))
    null = [null_ece(column, resamples, np.random.default_rng(seed), n_bins) for column in p.T]
    found = [ece_debiased(*columns, n_bins) for columns in zip(p.T, right.T, strict=True)]
    own, n = [one.interval(draws) for one, draws in zip(found, null, strict=True)], len(p)
    parts = [
        tidy.accuracy({model: run.correct for model, run in runs.items()}),
        tidy.rows("confidence", "fraction", models, p.mean(axis=0), n, means[:, : len(models)]),
        tidy.rows("confidence_gap", "fraction", models, (p - right).mean(axis=0), n, means[:, len(models) :]),
        tidy.rows("ece_debiased", "fraction", models, [one.value for one in found], n, ends=own),
        *(plain_row("ece", model, one.signed) for model, one in zip(models, found, strict=True)),
        tidy.rows("ece_null", "fraction", models, np.mean(null, axis=1), n, np.transpose(null)),
    ]
    return pd.concat(parts, ignore_index=True)


def others(runs: Runs, resamples: int, seed: int, n_bins: int = 15) -> pd.DataFrame:
    """Other measures of the same probabilities: `ece_sweep`, `ece_smooth`, `ece_classwise`, `brier`, `nll`.

    The last three are of the whole distribution: models without logits (imported predictions) and images with several
    labels have no row.
    """
    parts = []
    for model, run in runs.items():
        parts.append(plain_row("ece_sweep", model, ece_sweep(run.confidence, run.correct)))
        parts.append(plain_row("ece_smooth", model, ece_smooth(run.confidence, run.correct)[0]))
        if has_distribution(run):
            logits, targets = logits_of(run), run.target_positions
            probabilities, scores = softmax(np.asarray(logits, np.float32), axis=1), score(logits, targets)
            parts.append(plain_row("ece_classwise", model, ece_classwise(probabilities, targets, n_bins)))
            parts.append(mean_rows(model, {"nll": scores.nll, "brier": scores.brier}, resamples, seed))
    return pd.concat(parts, ignore_index=True)


def plain_row(metric: str, model: str, signed: NDArray[np.float64]) -> pd.DataFrame:
    """The row of an error that is the mean of signed residuals."""
    return tidy.rows(metric, "fraction", [model], [signed.mean()], len(signed), ends=[plain_interval(signed)])


def mean_rows(
    model: str, columns: Mapping[str, NDArray[np.float64]], resamples: int, seed: int, suffix: str = ""
) -> pd.DataFrame:
    """Means over images of one model with bootstrap intervals, from metric -> (n,) values."""
    draws = bootstrap_means(np.column_stack(list(columns.values())), resamples, np.random.default_rng(seed))
    units = {"nll": "nats", "brier": "score"}
    return pd.concat(
        tidy.rows(metric + suffix, units.get(metric, "fraction"), [model], [v.mean()], len(v), draws[:, [k]])
        for k, (metric, v) in enumerate(columns.items())
    )


def in_all_bins(runs: Runs, configs: Sequence[Bins] = MANY) -> dict[str, list[Debiased]]:
    """Model -> its debiased ECE under every configuration of bins, all on the same images."""
    stacked(runs)
    return {m: [ece_debiased(run.confidence, run.correct, *config) for config in configs] for m, run in runs.items()}


def over_bins(found: Mapping[str, Sequence[Debiased]], configs: Sequence[Bins] = MANY) -> pd.DataFrame:
    """ECE under every configuration, as it is (`plain`) and debiased (`value`) with its interval."""
    title = {"width": "equal width", "mass": "equal number of images"}
    rows = [
        (model, title[config.binning], config.n_bins, one.plain, one.value, *one.interval())
        for model, per_config in found.items()
        for config, one in zip(configs, per_config, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "binning", "n_bins", "plain", "value", "ci_low", "ci_high"])


def ordering(found: Mapping[str, Sequence[Debiased]], configs: Sequence[Bins] = MANY) -> pd.DataFrame:
    """How often is one model better calibrated than another, over the noise of the images and configurations of bins?

    Under each configuration the difference of two models is drawn around its debiased value, with normal noise of the
    paired standard error: so the share of draws in which one is lower says no more than a paired test.

    Returns:
        A row per pair: `model_a` (lower ECE in more than half of the draws), `model_b`, percent of all draws with that
        order, the least percent over configurations and `at` which it occurs, and in how many the order is `clear` (at
        least 97.5 %). Percents are rounded here, once, and never up to 100: every reader prints the same digits.
    """
    rows = []
    for a, b in combinations(found, 2):
        wins = np.array([_share_lower(*pair) for pair in zip(found[a], found[b], strict=True)])
        if wins.mean() < 0.5:
            a, b, wins = b, a, 1 - wins
        worst, clear = int(wins.argmin()), int((wins >= norm.cdf(Z95)).sum())
        share, lowest = (min(round(100 * float(value), 1), 99.9) for value in (wins.mean(), wins[worst]))
        at = f"{configs[worst].n_bins} bins of equal {configs[worst].binning}"
        rows.append((a, b, share, lowest, at, f"{clear} of {len(configs)}"))
    return pd.DataFrame(rows, columns=["model_a", "model_b", SHARE, LEAST, "at", "clear"])


def _share_lower(a: Debiased, b: Debiased) -> float:
    error = (a.signed - b.signed).std() / np.sqrt(len(a.signed))
    return float(norm.cdf((b.uncut - a.uncut) / max(error, 1e-12)))


def differences(runs: Runs, seed: int, n_bins: int = 15) -> pd.DataFrame:
    """Differences between every two models, and every model's confidence gap against zero, as rows of `Page.compare`.

    McNemar for `accuracy`, 20,000 paired resamples for `confidence_gap`, 20,000 swaps within images for `ece_debiased`.
    """
    models, p, right = stacked(runs)
    n, off, answers = len(p), p - right, list(zip(p.T, right.T, strict=True))
    draws = bootstrap_means(tidy.with_gaps(off), P_VALUE_RESAMPLES, np.random.default_rng(seed))
    gap = "confidence_gap", "fraction", models, off.mean(axis=0), n
    apart = {
        (a, b): ece_difference(answers[a], answers[b], P_VALUE_RESAMPLES, np.random.default_rng(seed), n_bins)
        for a, b in combinations(range(len(models)), 2)
    }
    tests = {"test": lambda a, b: apart[a, b].p_value, "ends": lambda a, b: apart[a, b].interval}
    own = [ece_debiased(*one, n_bins).uncut for one in answers]
    eces = tidy.pairs("ece_debiased", "fraction", models, own, n, **tests).assign(p_floor=1 / (P_VALUE_RESAMPLES + 1))
    main = [eces, tidy.against_zero(*gap, draws[:, : len(models)])]
    detail = [tidy.estimates(*gap, draws)[1], tidy.accuracy_pairs({model: run.correct for model, run in runs.items()})]
    parts = [rows.assign(family=name) for name, group in (("main", main), ("detail", detail)) for rows in group]
    return pd.concat([rows for rows in parts if len(rows)], ignore_index=True)


# The page's words and its own figure ---------------------------------------------------------------------------------


def gap_sentence(rows: pd.DataFrame, judged: pd.DataFrame, title: str, labels: Mapping[str, str]) -> str:
    """Who is over- or underconfident on a set, from rows of `errors` and the comparisons with zero."""
    verdict, words = judged[judged["model_b"] == ""].set_index("model_a")["verdict"], []
    for row in rows[rows["metric"] == "confidence_gap"].itertuples():
        value, low, high = 100 * row.value, 100 * row.ci_low, 100 * row.ci_high
        if verdict[row.model] == verdicts.OPEN:
            words.append(f"{labels[row.model]} is not clearly either ({format_interval(value, low, high, '+.1f')})")
        else:
            side, ends = ("over", (value, low, high)) if value > 0 else ("under", (-value, -high, -low))
            words.append(f"{labels[row.model]} is {side}confident by {format_interval(*ends, '.1f')} points")
    return f"On {title}, {'; '.join(words)} (mean confidence minus accuracy)."


def ece_sentence(pairs: pd.DataFrame, title: str, leader: str) -> str:
    """Who has the lowest error on a set (`Page.leader`), and how many of its pairs of models are told apart."""
    told, count = verdicts.tells_apart(pairs)
    return f"On {title}, {leader} in debiased ECE; {told} of {count} pairs of models are told apart."


def matched(order: pd.DataFrame, specs: Iterable) -> pd.DataFrame:
    """Rows of `ordering` about models that differ in their objective alone (all, where no two differ in one thing)."""
    pairs = {frozenset(pair[:2]) for pair in contrasts(specs) if pair.what != "architecture"}
    return order[[frozenset(pair) in pairs for pair in zip(order["model_a"], order["model_b"], strict=True)]]


def order_sentence(row: pd.Series, title: str, labels: Mapping[str, str]) -> str:
    """Whether one ordering holds whatever the bins: a row of `ordering`."""
    start = f"On {title}, {labels[row['model_a']]} has a lower debiased ECE than {labels[row['model_b']]}"
    clear, configs = row["clear"].split(" of ")
    if clear == configs:
        return f"{start} beyond noise under each of {configs} bin configurations."
    return (
        f"{start} in {row[SHARE]:.1f} % of draws over {configs} bin configurations, in {row[LEAST]:.1f} % at "
        f"{row['at']}; it is beyond noise under {clear if clear != '0' else 'none'} of them."
    )


def figure(bins: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Drawn:
    """The paper's figure 4: per model a histogram of confidence above a reliability diagram.

    A bar is the accuracy of a bin with its interval; the hatched gap reaches from there to the bin's mean confidence,
    where a calibrated bar would end. Bins (rows of `diagrams`) of fewer than ten images are faded.
    """
    names = [name for name in styles if (bins["model"] == name).any()]
    columns, words = min(2, len(names)), []  # at a phone's width a third would be too small to read
    fig = plt.figure(figsize=(WIDTH * columns / 2 + 0.6 * (columns == 1), 4.1 * -(-len(names) // columns) + 0.7))
    fig.get_layout_engine().set(h_pad=0.03, hspace=0)
    grid = fig.add_gridspec(-(-len(names) // columns), columns)
    gaps = {"overconfident": "////", "underconfident": "...."}  # hatches: told apart without colour
    look = {"facecolor": "none", "edgecolor": "#8c1a12", "linewidth": 0.9}
    for i, name in enumerate(names):
        inner = grid[i // columns, i % columns].subgridspec(2, 1, height_ratios=(1, 2.2))
        top = fig.add_subplot(inner[0])
        ax = fig.add_subplot(inner[1], sharex=top)
        mine = bins[bins["model"] == name]
        accuracy, confidence = (mine["share"] @ mine[column] for column in ("accuracy", "confidence"))
        error, plain = mine[["ece_debiased", "ece"]].iloc[0]
        tint = {"color": [0.55 * channel + 0.45 for channel in to_rgb(styles[name].color)]}  # dark marks lie over it
        tint |= {"align": "edge", "edgecolor": "white", "linewidth": 0.7}
        top.bar(mine["low"], 100 * mine["share"], mine["high"] - mine["low"], **tint)
        top.axvline(accuracy, color=INK, linewidth=1.6)
        top.axvline(confidence, color=INK, linewidth=1.6, linestyle=":")
        top.tick_params(labelbottom=False)
        top.grid(axis="x", visible=False)
        for part, alpha in ((mine[mine["n"] >= 10], 1.0), (mine[mine["n"] < 10], 0.35)):
            low, width, right = part["low"], part["high"] - part["low"], part["accuracy"]
            ax.bar(low, right, width, alpha=alpha, **tint)
            over = part["confidence"] - right
            for chosen, hatch in zip((over > 0, over < 0), gaps.values(), strict=True):
                at = {"bottom": right[chosen], "align": "edge", "hatch": hatch, "alpha": alpha}
                ax.bar(low[chosen], over[chosen], width[chosen], **at, **look)
            reach = np.clip([right - part["ci_low"], part["ci_high"] - right], 0, None)
            whiskers = {"fmt": "none", "ecolor": INK, "elinewidth": 1.1, "capsize": 1.5, "alpha": alpha}
            ax.errorbar(low + width / 2, right, yerr=reach, **whiskers)
        ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        at = {"transform": ax.transAxes, "va": "top", "fontsize": 11.5, "bbox": box}
        ax.text(0.05, 0.95, f"ECE {error:.3f}\n(plain {plain:.3f})", **at)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="" if i % columns else "accuracy")
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        top.set(title=styles[name].label, ylabel="" if i % columns else "images (%)")
        words.append(
            f"{styles[name].label} debiased ECE {error:.3f} (plain {plain:.3f}), mean confidence {confidence:.2f}, "
            f"accuracy {accuracy:.2f}"
        )
    lines = (("mean accuracy", INK, "-", 1.6), ("mean confidence", INK, ":", 1.6), ("calibrated", GREY, "--", 1.2))
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=w, label=name) for name, c, s, w in lines]
    handles += [Patch(**look, hatch=hatch, label=f"gap: {kind}") for kind, hatch in gaps.items()]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)
    return fig, f"Histograms of confidence and reliability diagrams of {len(names)} models: {'; '.join(words)}."
