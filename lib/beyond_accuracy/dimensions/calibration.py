"""Can a model's confidence be trusted? Calibration errors, their noise, and what they say of models (figure 4).

All errors are fractions (0.05 = five points); what each says and why is in `show/metrics.yaml`. A *run* is one model's
predictions on one set (`Predictions`); functions of `runs` (model -> run on the same images) give tidy rows. `Values`
are one number per image, unless said otherwise; `units` (n,) tell what the images are of, where these are independent.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

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
    design_effect,
    share_interval,
    standard_error,
    wilson,
)
from beyond_accuracy.show.figures import Drawn
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle

Runs = Mapping[str, Predictions]
Values = NDArray[np.float64]


class Bins(NamedTuple):
    """One way to bin confidences: of equal `width` (the paper: 15) or of equal number of images (`mass`)."""

    n_bins: int
    binning: str


MANY = [Bins(n, binning) for binning, n in product(("width", "mass"), range(5, 51))]
CALIBRATED = 1 + 2**0.5  # what a calibrated model's bias is in multiples of the bias that its noisy gaps suggest
CORRECTION = (1 + CALIBRATED) / 2  # multiple that `ece_debiased` subtracts
SHARE, LEAST = "share of all (%)", "least favourable (%)"
_GRID = 2**14  # cells of the smooth ECE; a tenth of the smallest bandwidth that 50,000 images can resolve
_MIN_BANDWIDTH = 1e-3
_BATCH = 2**22  # 32 MB of swaps at a time
_CHUNK = 2**15  # logits at a time
_TILE = 2**11  # units whose swaps are added at a time


def bin_edges(confidence: ArrayLike, n_bins: int = 15, binning: str = "width") -> Values:
    """(bins + 1,) edges of right-closed bins over 0..1; the first bin also holds a confidence of exactly 0.

    Images of equal confidence stay together: ties may leave fewer bins of equal mass.
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
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: str = "width", units: ArrayLike | None = None
) -> pd.DataFrame:
    """The reliability diagram: a row per bin that holds images, with the interval of its accuracy (Wilson).

    With `units` each bin has the design effect of all images: too few units fall into a bin to tell its own.
    """
    confidence, correct = checked(confidence, correct)
    edges = bin_edges(confidence, n_bins, binning)
    index = bin_index(confidence, edges)
    n = np.bincount(index)
    held = np.flatnonzero(n)
    mean, accuracy = (np.bincount(index, values)[held] / n[held] for values in (confidence, correct))
    columns = {"low": edges[held], "high": edges[held + 1], "n": n[held], "share": n[held] / n.sum()}
    table = pd.DataFrame(columns | {"confidence": mean, "accuracy": accuracy})
    if units is None:
        table[["ci_low", "ci_high"]] = [wilson(round(a * m), m) for a, m in zip(accuracy, n[held], strict=True)]
        return table
    effect, parts = design_effect(correct, units), [index == b for b in held]
    table[["ci_low", "ci_high"]] = [share_interval(correct[part], units[part], effect=effect) for part in parts]
    return table


def checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[Values, Values]:
    """Confidences and outcomes as numbers in 0..1; a ValueError names what is no such number."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.ndim != 1 or confidence.size == 0 or confidence.shape != correct.shape:
        raise ValueError(f"one confidence and one outcome per image, got {confidence.shape} and {correct.shape}")
    for what, values in (("confidence", confidence), ("correct", correct)):
        outside = ~((values >= 0) & (values <= 1))  # also true for NaN
        if outside.any():
            bad = int(outside.argmax())
            raise ValueError(f"{what} must lie in 0..1, got {values[bad]} for image {bad}")
    return confidence, correct


def ece(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: str = "width") -> float:
    """Expected calibration error: sum_b n_b / n * |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599).

    >>> round(ece([0.95, 0.85, 0.75, 0.65], [True, True, False, True], n_bins=2), 3)
    0.05
    """
    return float(signed_residuals(confidence, correct, n_bins, binning).mean())


def signed_residuals(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: str = "width") -> Values:
    """Values whose mean is the ECE: correct minus confidence, with the sign that their sum has in the bin."""
    confidence, correct = checked(confidence, correct)
    index = bin_index(confidence, bin_edges(confidence, n_bins, binning))
    residual = correct - confidence
    return np.sign(np.bincount(index, residual))[index] * residual


class Debiased(NamedTuple):
    """An ECE without the bias of noisy bins."""

    signed: Values  # residuals whose mean is the plain ECE
    bias: float  # part of it that is noise if the bins' true gaps are as large as the observed ones
    units: NDArray | None = None  # what the images are of, where these are independent

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
        """Interval of the model's own error, 95 %; it holds `value`.

        From the error left by the largest correction to that left by the smallest (`CALIBRATED` and 1), two standard
        errors further at each end; from 0 unless the ECE exceeds `null_draws` (of `null_ece` with the same bins).
        """
        half = Z95 * standard_error(self.signed, self.units)
        low = max(self.plain - CALIBRATED * self.bias - half, 0.0)
        if null_draws is not None and self.plain <= np.quantile(null_draws, 0.975):
            low = 0.0
        return Interval(float(low), float(min(max(self.plain - self.bias, 0.0) + half, 1.0)))


def ece_debiased(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: str = "width", units: ArrayLike | None = None
) -> Debiased:
    """ECE without the upward bias of finite bins (after Kumar, Liang, Ma 2019, arXiv 1909.10155).

    Kumar et al. subtract the bias that bins with the observed gaps would have; those of a calibrated model show only
    sqrt(2) - 1 of it. `CORRECTION` times theirs lies halfway between what these two cases need.
    """
    signed = signed_residuals(confidence, correct, n_bins, binning)
    index, n = bin_index(confidence, bin_edges(confidence, n_bins, binning)), len(signed)
    gap, square = np.bincount(index, signed), np.bincount(index, signed**2)
    if units is not None:  # the sums of a unit are what varies independently
        _, codes = np.unique(units, return_inverse=True)
        cells = np.bincount(index * (codes.max() + 1) + codes, signed, len(gap) * (codes.max() + 1))
        square = (cells.reshape(len(gap), -1) ** 2).sum(axis=1)
    return Debiased(signed, float(noise_bias(gap / n, square / n**2)), units)


def noise_bias(gap: Values, variance: Values) -> Values:
    """Upward bias of sum_b |gap_b| if (..., bins) gaps have normal noise: mean of folded normals, minus the gaps."""
    gap, sd = np.abs(gap), np.sqrt(np.maximum(variance, 0))  # sums that should be 0 may round below it
    z = np.minimum(np.divide(gap, sd, out=np.full_like(gap, 40.0), where=sd > 0), 40.0)
    return (sd * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (erf(z / np.sqrt(2)) - 1)).sum(axis=-1)


def ece_sweep(confidence: ArrayLike, correct: ArrayLike) -> Values:
    """Signed residuals of the ECE in as many equal-mass bins as keep accuracy rising (Roelofs et al. 2022, AISTATS)."""
    confidence, correct = checked(confidence, correct)
    for n_bins in range(1, len(np.unique(confidence)) + 1):
        index = bin_index(confidence, bin_edges(confidence, n_bins, "mass"))
        n = np.bincount(index)
        if (np.diff(np.bincount(index, correct)[n > 0] / n[n > 0]) < 0).any():
            return signed_residuals(confidence, correct, n_bins - 1, "mass")
    return signed_residuals(confidence, correct, n_bins, "mass")


def ece_smooth(confidence: ArrayLike, correct: ArrayLike) -> tuple[Values, float]:
    """Smooth calibration error: signed residuals whose mean is the error, and the bandwidth s.

    smECE_s = integral over 0..1 of |r_s(t)|, r_s(t) = 1/n sum_i K_s(t, confidence_i) (correct_i - confidence_i), with
    the Gaussian kernel reflected at 0 and 1; s solves smECE_s = s (Blasiok and Nakkiran 2023, arXiv 2309.12236). The
    reflected Gaussian is the heat kernel of the interval, diagonal in the cosine basis: one transform serves every s.
    """
    confidence, correct = checked(confidence, correct)
    cell, residual = np.minimum((confidence * _GRID).astype(int), _GRID - 1), correct - confidence
    decay = (np.pi * np.arange(_GRID)) ** 2 / 2

    def smoothed(values: Values, s: float) -> Values:
        return idct(dct(values, norm="ortho") * np.exp(-decay * s**2), norm="ortho")

    def excess(s: float) -> float:
        return float(np.abs(smoothed(binned, s)).sum()) - s

    # The error falls with s and is at most 1: it crosses s once, at 1 for a model that is always sure and wrong.
    binned, s = np.bincount(cell, residual, _GRID) / len(confidence), _MIN_BANDWIDTH
    if excess(s) > 0:
        s = 1.0 if excess(1.0) >= -1e-9 else brentq(excess, s, 1.0, xtol=1e-6)
    return smoothed(np.sign(smoothed(binned, s)), s)[cell] * residual, s


def ece_classwise(probabilities: NDArray, targets: NDArray[np.intp], n_bins: int = 15) -> Values:
    """Signed residuals of the ECE of every class probability, averaged (Kull et al. 2019, arXiv 1910.12656)."""
    classes = enumerate(probabilities.T)  # one column at a time: memory does not grow with the number of classes
    signed = (signed_residuals(np.clip(p.astype(float), 0, 1), targets == k, n_bins) for k, p in classes)
    return sum(signed) / probabilities.shape[1]


def nll(target_probability: ArrayLike) -> Values:
    """Negative log-likelihood in nats: -log(probability of the true class)."""
    # float32 probabilities underflow to 0 near 1e-45; clip there, or one such image makes the mean infinite.
    return -np.log(np.maximum(np.asarray(target_probability, float), np.finfo(np.float32).smallest_subnormal))


def score(probabilities: NDArray, targets: NDArray[np.intp]) -> dict[str, Values]:
    """Of (n, classes) probabilities: `nll`, and `brier`, from 0 to 2 (Brier 1950)."""
    own = probabilities[np.arange(len(targets)), targets].astype(float)
    return {"nll": nll(own), "brier": np.einsum("ij,ij->i", probabilities, probabilities) + 1 - 2 * own}


def intraclass(values: ArrayLike, units: ArrayLike) -> float:
    """How alike the images of a unit are, 0..1: mean product of two of them over the mean square, both centred."""
    values = np.asarray(values, float) - np.mean(values)
    _, codes, sizes = np.unique(units, return_inverse=True, return_counts=True)
    pairs, square = float((sizes * (sizes - 1)).sum()), float((values**2).sum())
    shared = float((np.bincount(codes, values) ** 2).sum()) - square
    return float(np.clip(shared / pairs / (square / len(values)), 0, 1)) if pairs and square else 0.0


def null_ece(
    confidence: ArrayLike, simulations: int, rng: np.random.Generator, n_bins: int = 15,
    units: ArrayLike | None = None, alike: float = 0.0,
) -> Values:  # fmt: skip
    """(simulations,) ECEs that a perfectly calibrated model with these confidences would show at this number of images.

    Correctness is drawn as Bernoulli(confidence) (consistency resampling; Broecker and Smith 2007, Vaicenavicius et
    al. 2019, arXiv 1902.06977). Images of one of the `units` share their luck as often as makes their outcomes `alike`
    (`intraclass`).
    """
    order, draws = np.argsort(confidence, kind="stable"), np.empty(simulations)
    p = np.asarray(confidence, float)[order]
    _, codes = (None, None) if units is None else np.unique(np.asarray(units)[order], return_inverse=True)
    starts = np.flatnonzero(np.diff(bin_index(p, bin_edges(p, n_bins)), prepend=-1))
    expected = np.add.reduceat(p, starts)
    for s in range(simulations):
        luck = rng.random(len(p), dtype=np.float32)
        if codes is not None:
            common = rng.random(codes.max() + 1, dtype=np.float32)[codes]
            luck = np.where(rng.random(len(p)) < np.sqrt(alike), common, luck)
        right = np.add.reduceat(luck < p, starts, dtype=np.int64)
        draws[s] = np.abs(right - expected).sum() / len(p)
    return draws


def ece_difference(
    first: ArrayLike, second: ArrayLike, swaps: int, rng: np.random.Generator, n_bins: int = 15,
    units: ArrayLike | None = None,
) -> Difference:  # fmt: skip
    """Difference of the debiased ECE (equal-width bins) of two models, from their (2, n) confidences and outcomes.

    A permutation test within images (or units): the models' answers are swapped at random, and the difference is
    measured in standard errors, so that it holds approximately where models have equal errors but are not exchangeable
    (Janssen 1997; Chung and Romano 2013). The end of the interval nearer to zero is that of the test (zero lies outside
    where p < 0.05); the other one allows for another correction of noise, as `Debiased.interval` does.
    """
    confidence, correct = (np.column_stack([a, b]).astype(float) for a, b in zip(first, second, strict=True))
    n, tiny, residual = len(confidence), np.finfo(float).tiny, correct - confidence
    held, index = np.unique(bin_index(confidence, bin_edges(confidence.ravel(), n_bins)), return_inverse=True)
    index, bins = index.reshape(n, 2), len(held)
    squares = (residual**2).sum(axis=0)
    lean = residual.sum(axis=0) / np.sqrt(squares + tiny)
    if lean.prod() < 0 and (np.abs(lean) > Z95).all():
        # Swapped answers of a too sure and a too unsure model would cancel; turned round, residuals have the same ECE.
        residual[:, 1] *= -1
    # Products of residuals by pair of bins, symmetric: the same for every swap.
    shared = np.bincount(index[:, 0] * bins + index[:, 1], residual.prod(axis=1), bins**2).reshape(bins, -1)
    shared, total = (shared + shared.T) / 2, squares.sum()
    # One row per unit, of which all answers are swapped or none: its sums and their squares, in the columns of bins.
    _, codes = np.unique(np.arange(n) if units is None else units, return_inverse=True)
    a, b = np.zeros((2, codes.max() + 1, 2, bins))
    for k, table in enumerate((a, b)):
        np.add.at(table[:, 0], (codes, index[:, k]), residual[:, k])
        table[:, 1] = table[:, 0] ** 2
    own, other, moved = a.sum(axis=0), b.sum(axis=0), (b - a).reshape(len(a), -1)

    def measured(own: NDArray, other: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """(..., 2, bins) sums of both models -> difference of ECE and of bias, and standard error, each times n."""
        # rounded: a bin that a swap empties holds 0, not what rounding left
        (gap, square), (gap2, square2) = (np.moveaxis(np.round(sums, 9), -2, 0) for sums in (own, other))
        plain = np.abs(gap).sum(axis=-1) - np.abs(gap2).sum(axis=-1)
        bias = noise_bias(gap, square) - noise_bias(gap2, square2)
        common = ((np.sign(gap) @ shared) * np.sign(gap2)).sum(axis=-1)
        return plain - CORRECTION * bias, bias, np.sqrt(np.maximum(total - 2 * common - plain**2 / n, tiny))

    difference, bias, error = measured(own, other)
    apart, free, width = [], len(moved), max(1, _BATCH // len(moved))
    for start in range(0, swaps, width):
        size = min(width, swaps - start)
        bits = np.frombuffer(rng.bytes(size * -(-free // 8)), np.uint8).reshape(size, -1)
        step = np.zeros((size, moved.shape[1]))
        for at in range(0, free, _TILE):  # what is multiplied stays in the processor's cache
            tile = np.unpackbits(bits[:, at // 8 : (at + _TILE) // 8], axis=1, count=min(_TILE, free - at))
            step += tile.astype(float) @ moved[at : at + _TILE]
        step = step.reshape(size, 2, bins)
        swapped, _, its_error = measured(own + step, other - step)
        apart.append(np.abs(swapped) / its_error)
    apart = np.concatenate(apart)
    p = (1 + np.count_nonzero(apart >= abs(difference) / error * (1 - 1e-7))) / (swaps + 1)
    half = np.quantile(apart, 0.95, method="higher") * error
    slack = (CALIBRATED - CORRECTION) * abs(bias) * np.sign(difference)
    ends = difference - half + min(slack, 0), difference + half + max(slack, 0)
    return Difference(float(difference / n), Interval(*(float(end / n) for end in ends)), float(p))


def has_distribution(run: Predictions) -> bool:
    """Whether the probability of every class and one true class are known for every image."""
    return run.logits is not None and not run.multilabel


def distribution(run: Predictions, temperature: ArrayLike = 1.0) -> NDArray[np.float32]:
    """(n, scored classes) softmax(logits / temperature), not kept; temperature: one number, or one per image."""
    logits = logits_of(run)
    temperature = np.broadcast_to(np.float32(temperature), len(logits))[:, None]
    found = np.empty(logits.shape, np.float32)
    for rows in chunks(logits):
        found[rows] = softmax(logits[rows].astype(np.float32) / temperature[rows], axis=1)
    return found


def chunks(logits: NDArray) -> list[slice]:
    """Rows of (n, classes) logits, part by part: what is made of a part stays in the processor's cache."""
    step = max(1, _CHUNK // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def logits_of(run: Predictions) -> NDArray:
    """Logits of the scored columns as stored (float16)."""
    return run.logits if run.columns is None else run.logits[:, run.columns]


def described(runs: Runs, labels: Mapping[str, str]) -> str:
    """What is known of a set: images, models, and which of them come without logits."""
    without = ", ".join(labels[model] for model, run in runs.items() if not has_distribution(run))
    note = f"; only the confidence is known of {without}" if without else ""
    return f"{len(next(iter(runs.values())).correct):,} images, {verdicts.counted(len(runs), 'model')}{note}"


def diagrams(runs: Runs, n_bins: int = 15) -> pd.DataFrame:
    """Rows of `reliability` of every model, with its errors in `ece` and `ece_debiased`."""
    parts = []
    for model, run in runs.items():
        asked = {"n_bins": n_bins, "units": tidy.units_of({model: run})}
        found, table = (measure(run.confidence, run.correct, **asked) for measure in (ece_debiased, reliability))
        parts.append(table.assign(model=model, ece=found.plain, ece_debiased=found.value))
    return pd.concat(parts, ignore_index=True)


def errors(runs: Runs, resamples: int, seed: int, n_bins: int = 15) -> pd.DataFrame:
    """Accuracy (percent), mean confidence, `confidence_gap` (confidence minus accuracy), errors, and proper scores.

    `ece_classwise`, `brier` and `nll` are of the whole distribution: models without logits (imported predictions) and
    images with several labels have no row.
    """
    parts = []
    for model, run in runs.items():
        (p, right), units = checked(run.confidence, run.correct), tidy.units_of({model: run})
        means = {"confidence": p, "confidence_gap": p - right}
        signed = {"ece": signed_residuals(p, right, n_bins), "ece_sweep": ece_sweep(p, right)}
        signed["ece_smooth"], _ = ece_smooth(p, right)
        if has_distribution(run):
            probabilities, targets = distribution(run), run.target_positions
            means |= score(probabilities, targets)
            signed["ece_classwise"] = ece_classwise(probabilities, targets, n_bins)
        parts += [tidy.accuracy({model: run.correct}, units=units), mean_rows(model, means, resamples, seed, units)]
        parts.append(debiased_rows(model, p, right, resamples, seed, n_bins, units))
        for metric, residuals in signed.items():
            ends, n = [plain_interval(residuals, units)], tidy.count(len(p), units)
            parts.append(tidy.rows(metric, "fraction", [model], [residuals.mean()], n, ends=ends))
    return pd.concat(parts, ignore_index=True)


def plain_interval(signed: Values, units: ArrayLike | None = None) -> Interval:
    """Interval, 95 %, of an error that is the mean of signed residuals: of what as many other images would show."""
    half = Z95 * standard_error(signed, units)
    return Interval(float(max(signed.mean() - half, 0.0)), float(signed.mean() + half))


def debiased_rows(
    model: str, p: Values, right: Values, resamples: int, seed: int, n_bins: int = 15, units: ArrayLike | None = None
) -> pd.DataFrame:
    """A model's own error, and what it would be if it were calibrated."""
    found, alike = ece_debiased(p, right, n_bins, units=units), 0.0 if units is None else intraclass(right - p, units)
    null, n = null_ece(p, resamples, np.random.default_rng(seed), n_bins, units, alike), tidy.count(len(p), units)
    own = tidy.rows("ece_debiased", "fraction", [model], [found.value], n, ends=[found.interval(null)])
    return pd.concat([own, tidy.rows("ece_null", "fraction", [model], [null.mean()], n, null[:, None])])


def mean_rows(
    model: str, columns: Mapping[str, Values], resamples: int, seed: int, units: ArrayLike | None = None
) -> pd.DataFrame:
    """Means over images of one model with bootstrap intervals, from metric -> values."""
    table, of = np.column_stack(list(columns.values())), {"nll": "nats", "brier": "score"}
    draws, n = bootstrap_means(table, resamples, np.random.default_rng(seed), units), tidy.count(len(table), units)
    few = None if units is None else n
    return pd.concat(
        tidy.rows(metric, of.get(metric, "fraction"), [model], [v.mean()], n, draws[:, [k]], units=few)
        for k, (metric, v) in enumerate(columns.items())
    )


InBins = Mapping[str, Mapping[Bins, Debiased]]


def in_all_bins(runs: Runs, configs: Sequence[Bins] = MANY) -> InBins:
    """Model -> its debiased ECE under every configuration of bins, all on the same images."""
    units = tidy.units_of(runs)
    return {m: {b: ece_debiased(run.confidence, run.correct, *b, units) for b in configs} for m, run in runs.items()}


def over_bins(found: InBins) -> pd.DataFrame:
    """ECE under every configuration, as it is (`plain`) and debiased (`value`) with its interval."""
    title = {"width": "equal width", "mass": "equal number of images"}
    rows = [
        (model, title[bins.binning], bins.n_bins, one.plain, one.value, *one.interval())
        for model, in_bins in found.items() for bins, one in in_bins.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "binning", "n_bins", "plain", "value", "ci_low", "ci_high"])


def ordering(found: InBins) -> pd.DataFrame:
    """How often is one model better calibrated than another, over the noise of the images and configurations of bins?

    Under each configuration the difference of two models is drawn around its debiased value, with normal noise of the
    paired standard error: the share of draws in which one is lower says no more than a paired test. `model_a` has the
    lower ECE in more than half of the draws; the least percent over configurations is `at` one; the order is `clear`
    where it is at least 97.5 %. Percents are rounded here, and never up to 100: every reader prints the same digits.
    """
    rows = []
    for a, b in combinations(found, 2):
        pairs = [(one, found[b][bins]) for bins, one in found[a].items()]
        errors = [standard_error(one.signed - other.signed, one.units) for one, other in pairs]
        gaps = [other.uncut - one.uncut for one, other in pairs]
        wins = norm.cdf(np.divide(gaps, np.maximum(errors, 1e-12)))
        if wins.mean() < 0.5:
            a, b, wins = b, a, 1 - wins
        share, least = (min(round(100 * float(value), 1), 99.9) for value in (wins.mean(), wins.min()))
        worst = list(found[a])[int(wins.argmin())]
        clear = f"{(wins >= norm.cdf(Z95)).sum()} of {len(wins)}"
        rows.append((a, b, share, least, f"{worst.n_bins} bins of equal {worst.binning}", clear))
    return pd.DataFrame(rows, columns=["model_a", "model_b", SHARE, LEAST, "at", "clear"])


def differences(runs: Runs, seed: int, n_bins: int = 15) -> pd.DataFrame:
    """Differences between every two models, and every confidence gap against zero, as rows of `Page.compare`."""
    models, answers = list(runs), [(run.confidence, np.asarray(run.correct, float)) for run in runs.values()]
    off, units = np.column_stack([p - right for p, right in answers]), tidy.units_of(runs)
    n = tidy.count(len(off), units)
    few = None if units is None else n
    draws = bootstrap_means(tidy.with_gaps(off), P_VALUE_RESAMPLES, np.random.default_rng(seed), units)
    gap = "confidence_gap", "fraction", models, off.mean(axis=0), n

    def tested(a: int, b: int) -> Difference:
        return ece_difference(answers[a], answers[b], P_VALUE_RESAMPLES, np.random.default_rng(seed), n_bins, units)

    own = [ece_debiased(*one, n_bins, units=units).uncut for one in answers]
    eces = tidy.pairs("ece_debiased", "fraction", models, own, n, tested=tested)
    main = [eces.assign(p_floor=1 / (P_VALUE_RESAMPLES + 1)), tidy.against_zero(*gap, draws[:, : len(models)], few)]
    gaps = tidy.estimates(*gap, draws, few)[1].assign(family="detail")
    parts = [*(rows.assign(family="main") for rows in main), gaps]
    return pd.concat([rows for rows in parts if len(rows)], ignore_index=True)


def claim(page, errors: pd.DataFrame, judged: pd.DataFrame) -> str:
    """By how much confidence exceeds accuracy on the last set, the most shifted one; ends name all that tie there."""
    rows = errors[errors["metric"] == "confidence_gap"]
    rows = rows[rows["dataset"] == rows["dataset"].iloc[-1]]
    values, mine = rows.set_index("model")["value"], judged.merge(rows[["dataset", "metric"]].drop_duplicates())
    said, written = f"On {page.title(rows['dataset'].iloc[0])}, confidence minus accuracy", "{:+.1f} points".format
    if len(values) == 1:
        return f"{said} is {written(100 * values.iloc[0])} ({page.labels[values.index[0]]})"
    return f"{said} runs from {verdicts.span(100 * values, mine, page.labels, written)}"


def findings(page, errors: pd.DataFrame, judged: pd.DataFrame, order: pd.DataFrame) -> Iterator[str]:
    """Who is over- or underconfident on a set, who has the lowest error, and whether orders hold whatever the bins."""
    labels, own = page.labels, judged[judged["model_b"] == ""].set_index(["dataset", "model_a"])
    for dataset, rows in errors[errors["metric"] == "confidence_gap"].groupby("dataset", sort=False):
        words = []
        for row in rows.itertuples():
            value, low, high = 100 * row.value, 100 * row.ci_low, 100 * row.ci_high
            said = f"overconfident by {format_interval(value, low, high, '.1f')} points"
            if own["verdict"][dataset, row.model] == verdicts.OPEN:
                p = own["p_holm"][dataset, row.model]
                said = f"not clearly either ({format_interval(value, low, high, '+.1f')}; corrected p = {p:.2g})"
            elif value < 0:
                said = f"underconfident by {format_interval(-value, -high, -low, '.1f')} points"
            words.append(f"{labels[row.model]} is {said}")
        yield f"On {page.title(dataset)}, {'; '.join(words)} (mean confidence minus accuracy)."
    for dataset, pairs in judged[judged["metric"] == "ece_debiased"].groupby("dataset", sort=False):
        leader = page.leader(errors[(errors["dataset"] == dataset) & (errors["metric"] == "ece_debiased")], judged)
        yield f"On {page.title(dataset)}, {leader} in debiased ECE; {verdicts.told_apart(pairs)}."
    # orders of models that differ in their objective alone (all, where no two differ in one thing)
    matched = [{*pair[:2]} for pair in verdicts.contrasts(page.specs) if pair.what != "architecture"]
    for row in (row for row in order.to_dict("records") if {row["model_a"], row["model_b"]} in matched):
        clear, configs = row["clear"].split(" of ")
        how = f"beyond noise under each of {configs} bin configurations"
        if clear != configs:
            how = f"in {row[SHARE]:.1f} % of draws over {configs} bin configurations, in {row[LEAST]:.1f} % at "
            how += f"{row['at']}; it is beyond noise under {clear if clear != '0' else 'none'} of them, one by one"
        better, worse = labels[row["model_a"]], labels[row["model_b"]]
        yield f"On {page.title(row['dataset'])}, {better} has a lower debiased ECE than {worse} {how}."


def figure(bins: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Drawn:
    """The paper's figure 4: per model a histogram of confidence above a reliability diagram, from rows of `diagrams`.

    The hatched gap reaches from a bin's accuracy to its mean confidence; bins of fewer than ten images are faded.
    """
    parts = {name: bins[bins["model"] == name] for name in styles if (bins["model"] == name).any()}
    columns, words = min(2, len(parts)), []  # at a phone's width a third would be too small to read
    rows = -(-len(parts) // columns)
    fig = plt.figure(figsize=(WIDTH * columns / 2 + 0.6 * (columns == 1), 4.1 * rows + 0.7))
    fig.get_layout_engine().set(h_pad=0.03, hspace=0)
    grid = fig.add_gridspec(rows, columns)
    gaps = {"overconfident": "////", "underconfident": "...."}  # hatches: told apart without colour
    look = {"facecolor": "none", "edgecolor": "#8c1a12", "linewidth": 0.9}
    for i, (name, mine) in enumerate(parts.items()):
        top, ax = grid[i // columns, i % columns].subgridspec(2, 1, height_ratios=(1, 2.2)).subplots(sharex=True)
        accuracy, confidence = (mine["share"] @ mine[column] for column in ("accuracy", "confidence"))
        error, plain = mine[["ece_debiased", "ece"]].iloc[0]
        tint = {"color": [0.55 * channel + 0.45 for channel in to_rgb(styles[name].color)]}  # dark marks lie over it
        tint |= {"align": "edge", "edgecolor": "white", "linewidth": 0.7}
        top.bar(mine["low"], 100 * mine["share"], mine["high"] - mine["low"], **tint)
        for value, line in ((accuracy, "-"), (confidence, ":")):
            top.axvline(value, color=INK, linewidth=1.6, linestyle=line)
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
        shown, box = f"ECE {error:.3f}\n(plain {plain:.3f})", {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        ax.text(0.05, 0.95, shown, transform=ax.transAxes, va="top", fontsize=11.5, bbox=box | {"pad": 2})
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="" if i % columns else "accuracy")
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        label, measured = styles[name].label, f"mean confidence {confidence:.2f}, accuracy {accuracy:.2f}"
        top.set(title=label, ylabel="" if i % columns else "images (%)")
        words.append(f"{label} debiased ECE {error:.3f} (plain {plain:.3f}), {measured}")
    lines = (("mean accuracy", INK, "-", 1.6), ("mean confidence", INK, ":", 1.6), ("calibrated", GREY, "--", 1.2))
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=w, label=name) for name, c, s, w in lines]
    handles += [Patch(**look, hatch=hatch, label=f"gap: {kind}") for kind, hatch in gaps.items()]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)
    about = f"Histograms of confidence and reliability diagrams of {verdicts.counted(len(parts), 'model')}"
    return fig, f"{about}: {'; '.join(words)}."
