"""What can be done with a confidence: repair it by a temperature, answer only where it is high.

A temperature repairs confidence without changing a prediction (Guo et al. 2017). It is never fitted on the images it is
reported on: on the clean set by cross-fitting, on shifted sets by carrying over the temperature of the clean set. In
selective prediction images are accepted in order of falling confidence; coverage is the share accepted, risk the error
rate among them.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from sklearn.model_selection import KFold
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.dimensions import calibration
from beyond_accuracy.dimensions.calibration import Runs, Values, has_distribution, logits_of
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import Z95, Difference, Interval, bootstrap, design_effect, linear_difference, wilson

_LOG_BOUND = math.log(100)  # temperatures from 1/100 to 100; a separable set would otherwise ask for 0
_STEPS = 8  # of Newton's method: 5 or 6 do where a temperature is well determined
_NEAR = 0.1  # share of the images whose accuracy is taken for that at a threshold of confidence


class Fitted(NamedTuple):
    """Temperatures of one model: of each image, fitted on the other folds, and of all images, for other sets."""

    crossed: Values
    whole: float
    interval: Interval


def fit_temperature(logits: ArrayLike, targets: ArrayLike, start: float = 1.0) -> float:
    """Temperature T that minimises the negative log-likelihood of softmax(logits / T) of (n, classes) logits.

    Convex in 1/T, so that its slope has one root; found within 1/100 to 100, from a start.
    """
    logits, targets = np.asarray(logits), np.asarray(targets)
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or targets.size == 0:
        raise ValueError(f"(n, classes) logits and (n,) targets are expected, got {logits.shape} and {targets.shape}")
    if not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ValueError(f"targets must be integers in 0..{logits.shape[1] - 1}")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite")
    return _fitted(logits, targets, math.log(start))


def _fitted(logits: NDArray, targets: NDArray[np.intp], log_t: float) -> float:
    """`fit_temperature` from a start by Newton's method, whose last step of 1e-5 leaves 1e-10; else by Brent's."""
    low, high, at = -math.inf, math.inf, _within(log_t)
    for _ in range(_STEPS):
        ahead = _within(at + _newton(moments(logits, targets, math.exp(at)), at))
        if abs(ahead - at) < 1e-5:
            return math.exp(ahead)
        low, high = (at, high) if ahead > at else (low, at)
        at = ahead if low < ahead < high else (low + high) / 2

    def slope(log_t: float) -> float:
        return float(moments(logits, targets, math.exp(log_t))[0].mean())

    # Answers that are all but certain: the NLL is nearly flat, and steps creep, or are what float32 makes of nothing.
    low, high = _within(low), _within(high)
    if slope(low) >= 0 or slope(high) <= 0:
        return math.exp(low if slope(low) >= 0 else high)
    return math.exp(brentq(slope, low, high, xtol=1e-7))


def _within(log_t: float) -> float:
    return min(max(log_t, -_LOG_BOUND), _LOG_BOUND)


def _newton(found: Values, log_t: float) -> float:
    """Step of log T by the `moments` there: the slope of the NLL, which is the mean gap, over its curvature."""
    gaps, variance = found
    slope, curvature = float(gaps.mean()), math.exp(-log_t) * float(variance.mean())
    return -slope / curvature if curvature > 0 else math.inf if slope < 0 else -math.inf


def moments(logits: NDArray, targets: NDArray[np.intp], temperature: float) -> Values:
    """(2, n) under softmax(z / T) of (n, classes) logits z: z of the target minus its mean, and the variance of z."""
    found, b = [], 1 / temperature
    for rows in calibration.chunks(logits):
        z = logits[rows].astype(np.float32)
        z -= z.max(axis=1, keepdims=True)
        own, p = z[np.arange(len(z)), targets[rows]], np.exp(b * z)
        norm = p.sum(axis=1)
        p *= z
        mean, square = p.sum(axis=1) / norm, np.einsum("ij,ij->i", p, z) / norm
        found.append([own - mean, square - mean**2])
    return np.concatenate(found, axis=1).astype(float)


def temperature_interval(found: Values, temperature: float, units: ArrayLike | None = None) -> Interval:
    """Interval of a fitted temperature over other images, from the `moments` at it.

    Sandwich standard error of log T (White 1982).
    """
    gaps, variance = found
    total = variance.sum()
    if units is not None:
        gaps = np.bincount(np.unique(units, return_inverse=True)[1], gaps)
    spread = Z95 * temperature * math.sqrt((gaps**2).sum()) / total if total > 0 else _LOG_BOUND
    low, high = np.exp(np.clip(math.log(temperature) + spread * np.array([-1, 1]), -_LOG_BOUND, _LOG_BOUND))
    return Interval(float(low), float(high))


def fit_temperatures(clean: Runs, folds: int, seed: int) -> dict[str, Fitted]:
    """Temperatures of every model with logits; nothing of a unit stands on both sides of a fold."""
    fitted = {}
    for model, run in clean.items():
        if not has_distribution(run):
            continue
        logits, targets = logits_of(run), run.target_positions
        units = tidy.units_of({model: run})
        state, crossed = int(np.random.default_rng(seed).integers(2**32)), np.empty(len(targets))
        names, unit = np.unique(np.arange(len(targets)) if units is None else units, return_inverse=True)
        whole = fit_temperature(logits, targets)
        at, log_t = moments(logits, targets, whole), math.log(whole)
        for others, fold in KFold(folds, shuffle=True, random_state=state).split(names):
            others, fold = np.isin(unit, others), np.isin(unit, fold)
            start = log_t + _newton(at[:, others], log_t)  # near `whole`: the first step needs no pass of its own
            crossed[fold] = _fitted(logits[others], targets[others], start)
        fitted[model] = Fitted(crossed, whole, temperature_interval(at, whole, units))
    return fitted


def rescaled(
    runs: Runs, fitted: Mapping[str, Fitted], clean: Runs, resamples: int, seed: int, n_bins: int = 15
) -> pd.DataFrame:
    """What temperature scaling does to one set: `temperature`, and `<metric>:scaled` for four metrics.

    On the clean set, whose n the temperature has, each image is scored with the temperature of the folds it is not in;
    to other sets the temperature of all clean images is carried over. Models without a temperature have no row.
    """
    parts = [pd.DataFrame(columns=tidy.COLUMNS)]
    for model in (m for m, run in runs.items() if m in fitted and has_distribution(run)):
        run, (crossed, whole, ends) = runs[model], fitted[model]
        probabilities = calibration.distribution(run, crossed if runs is clean else whole)
        p = probabilities.max(axis=1).astype(float)
        units = tidy.units_of({model: run})
        own = calibration.debiased_rows(model, p, run.correct, resamples, seed, n_bins, units)[:1]
        scores = {"confidence_gap": p - run.correct} | calibration.score(probabilities, run.target_positions)
        means = calibration.mean_rows(model, scores, resamples, seed, units)
        parts.append(tidy.rows("temperature", "ratio", [model], [whole], len(crossed), ends=[ends]))
        parts += [rows.assign(metric=rows["metric"] + ":scaled") for rows in (own, means)]
    return pd.concat(parts[1:] or parts, ignore_index=True)


def before_after(errors: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The debiased ECE after scaling (rows of `rescaled`), with that of `calibration.errors` in a column `before`."""
    before = errors[errors["metric"] == "ece_debiased"].rename(columns={"value": "before"})
    after = after[after["metric"] == "ece_debiased:scaled"]
    return after.merge(before[["dataset", "model", "before"]], on=["dataset", "model"])


def temperature_sentence(rows: pd.DataFrame, title: str, clean: str, labels: Mapping[str, str]) -> str:
    """What one temperature does to the ECE of a set: rows of `before_after`, titles of the set and the clean one."""
    how = "a cross-fitted temperature" if title == clean else f"the temperature of {clean}"
    changes = (f"{labels[row.model]} from {row.before:.3f} to {row.value:.3f}" for row in rows.itertuples())
    return f"On {title}, {how} changes the debiased ECE of {', '.join(changes)}."


class Ranked:
    """Images by falling confidence, in groups of equal confidence.

    Images of equal confidence cannot be told apart: all results are expectations over random orders of ties, so that
    they do not depend on the order of the rows.
    """

    def __init__(self, confidence: ArrayLike, correct: ArrayLike):
        confidence, correct = calibration.checked(confidence, correct)
        self.order = np.argsort(-confidence, kind="stable")
        self.starts = np.flatnonzero(np.diff(confidence[self.order], prepend=np.inf))
        self.wrong = (1 - correct[self.order]).astype(np.float32)
        self.harmonic = _harmonic(len(correct))

    def errors(self, coverage: ArrayLike) -> NDArray[np.float64]:
        """Expected number of errors among the most confident share; linear inside a tie."""
        sizes, errors = np.diff(self.starts, append=len(self.order)), np.add.reduceat(self.wrong, self.starts)
        steps = [np.concatenate([[0], np.cumsum(counts)]) for counts in (sizes, errors)]
        return np.interp(np.asarray(coverage) * len(self.order), *steps)

    def influence(self, coverage: float) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
        """What each image, in the order given, moves AUROC and the accuracy among the most confident share.

        Each is the derivative with respect to the image's weight; None for AUROC where all are right or all wrong. That
        of AUROC is the placement of an image among those of the other outcome (DeLong et al. 1988), that of the
        accuracy holds the accuracy at the threshold, taken over the `_NEAR` of all images around it, for an image more
        above the threshold pushes another one below.
        """
        n, wrong = len(self.order), self.wrong.astype(float)
        right = 1 - wrong
        group = np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=n))
        below = {}  # of every image: the share of the right, of the wrong ones with less confidence, ties half
        for outcome, mine in ((1, right), (0, wrong)):
            counts = np.add.reduceat(mine, self.starts)
            below[outcome] = (counts[::-1].cumsum()[::-1] - counts / 2)[group] / max(mine.sum(), 1)
        auroc = None
        if 0 < right.sum() < n:
            placed = np.where(right, below[0], 1 - below[1])
            share = np.where(right, right.sum(), n - right.sum())
            auroc = (placed - placed[right > 0].mean()) / share
        kept = max(1, round(coverage * n))
        answered = np.clip((kept - self.starts) / np.diff(self.starts, append=n), 0, 1)[group]
        ends = group[np.clip([kept - 1 - _NEAR * n / 2, kept - 1 + _NEAR * n / 2], 0, n - 1).astype(int)]
        at = right[(group >= ends[0]) & (group <= ends[1])].mean()
        accuracy = ((right - at) * answered - (right @ answered - at * kept) / n) / kept
        back = np.empty(n, np.intp)
        back[self.order] = np.arange(n)
        return None if auroc is None else auroc[back], accuracy[back]

    def areas(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """(batch, 3) AUROC, AURC and AUGRC of (batch, n) counts of resampled images (default: each once).

        AUROC is the probability that a right answer has higher confidence than a wrong one (ties count half), NaN where
        all are right or all wrong. AURC is the mean risk over all coverages (Geifman and El-Yaniv 2017). AUGRC is the
        area under errors accepted per image, accepted or not (Traub et al. 2024, arXiv 2407.01032). With accuracy a,
        AUGRC = (1 - AUROC) a (1 - a) + (1 - a)^2 / 2, so that AUROC needs no pass of its own.

        >>> Ranked([0.9, 0.8, 0.7, 0.6], [True, True, False, True]).areas()[0].round(4).tolist()
        [0.6667, 0.1458, 0.0938]
        """
        weights = np.ones((1, len(self.order)), np.float32) if weights is None else weights
        return np.array([self._areas(row[self.order]) for row in weights])

    def _areas(self, size: NDArray[np.float32]) -> tuple[float, float, float]:
        size, wrong = (np.add.reduceat(counts, self.starts) for counts in (size, size * self.wrong))
        rate = np.divide(wrong, size, out=np.zeros_like(wrong), where=size > 0)
        accepted, errors = np.cumsum(size, dtype=float), np.cumsum(wrong, dtype=float)
        n, failed = accepted[-1], errors[-1]
        if n >= len(self.harmonic):  # resampled groups may hold more images than there are
            self.harmonic = _harmonic(2 * int(n))
        # Trapezoids: inside a group of equal confidence errors come at a constant rate.
        augrc = (size @ errors - size @ wrong / 2) / n**2
        share = failed / n
        auroc = 1 - (augrc - share**2 / 2) / (share * (1 - share)) if 0 < share < 1 else np.nan
        # Sum of risks (E + e j/w) / (K + j) over the j = 1..w images of a group, with harmonic numbers H:
        # (E - e K / w) (H(K + w) - H(K)) + e. A group that was not drawn has no step.
        steps = np.diff(self.harmonic[accepted.astype(np.intp)], prepend=0.0)
        aurc = ((errors - wrong - rate * (accepted - size)) @ steps + failed) / n
        return auroc, aurc, augrc


def _harmonic(n: int) -> NDArray[np.float64]:
    """Harmonic numbers H(0) to H(n)."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])


def risk_coverage(runs: Runs, points: int = 200) -> pd.DataFrame:
    """Error rate (percent) among the most confident of every model, at `coverage` (percent) in up to `points` steps.

    Bands: Wilson, among as many answered images (with units: as these are worth).
    """
    parts = []
    for model, run in runs.items():
        n = len(run.correct)
        coverage = np.arange(1, min(points, n) + 1) / min(points, n)
        errors, answered = Ranked(run.confidence, run.correct).errors(coverage), coverage * n
        effect = design_effect(run.correct, tidy.units_of({model: run}))
        low, high = proportion_confint(errors / effect, answered / effect, method="wilson")
        columns = {"coverage": coverage, "value": errors / answered, "ci_low": low, "ci_high": high}
        parts.append(pd.DataFrame({name: 100 * values for name, values in columns.items()}).assign(model=model))
    return pd.concat(parts, ignore_index=True)


def answering(runs: Runs, coverage: float, resamples: int, seed: int) -> pd.DataFrame:
    """`auroc` (none where all answers are right or all wrong), `aurc`, `augrc`, and `accuracy:coverage=<x>`.

    The last is the accuracy among the most confident share of the images.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie above 0 and up to 1, got {coverage}")
    parts = []
    for model, run in runs.items():
        ranked, n, units = Ranked(run.confidence, run.correct), len(run.correct), tidy.units_of({model: run})
        draws = bootstrap(ranked.areas, n, resamples, np.random.default_rng(seed), units)
        counted, effect = tidy.count(n, units), design_effect(run.correct, units)
        for k, metric in enumerate(("auroc", "aurc", "augrc")):
            parts.append(tidy.rows(metric, "fraction", [model], ranked.areas()[:, k], counted, draws[:, [k]]))
        kept = max(1, round(coverage * n))
        right = 1 - float(ranked.errors(kept / n)) / kept
        ends = [100 * np.array(wilson(round(right * kept), kept))]
        if units is not None:
            few = proportion_confint(right * kept / effect, kept / effect, method="wilson")
            ends, kept = [100 * np.array(few)], max(1, round(coverage * counted))
        parts.append(tidy.rows(f"accuracy:coverage={coverage:g}", "percent", [model], [100 * right], kept, ends=ends))
    return pd.concat([rows for rows in parts if len(rows)], ignore_index=True)


def differences(runs: Runs, coverage: float) -> pd.DataFrame:
    """Differences between every two models in `auroc` and `accuracy:coverage=<x>`, as rows of `Page.compare`.

    Paired over images, or over what several of them share, by their influence (`Ranked.influence`), in a family of
    their own; no row of an AUROC that either model does not have.
    """
    models, n, units = list(runs), len(next(iter(runs.values())).correct), tidy.units_of(runs)
    counted, clusters = tidy.count(n, units), np.arange(n) if units is None else units
    ranked = [Ranked(run.confidence, run.correct) for run in runs.values()]
    kept, own, parts = max(1, round(coverage * n)), [each.influence(coverage) for each in ranked], []
    values = [[each.areas()[0, 0] for each in ranked], [1 - float(each.errors(kept / n)) / kept for each in ranked]]
    few = kept if units is None else max(1, round(coverage * counted))
    asked = (("auroc", "fraction", 1, counted), (f"accuracy:coverage={coverage:g}", "percent", 100, few))
    for k, (metric, unit, scale, count) in enumerate(asked):
        known = [i for i, found in enumerate(own) if found[k] is not None]
        points, moved = scale * np.array(values[k])[known], [scale * own[i][k] for i in known]

        def tested(a: int, b: int, points: NDArray = points, moved: list = moved, scale: int = scale) -> Difference:
            found = linear_difference(points[a] - points[b], moved[a] - moved[b], clusters)
            if found.interval.low < found.interval.high:
                return found
            reach = scale * Z95 / counted  # no image makes a difference: as if one had
            return Difference(found.estimate, Interval(found.estimate - reach, found.estimate + reach), 1.0)

        parts.append(tidy.pairs(metric, unit, [models[i] for i in known], points, count, tested=tested))
    return pd.concat([rows for rows in parts if len(rows)] or parts, ignore_index=True).assign(family="choice")
