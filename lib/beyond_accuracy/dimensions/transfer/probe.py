"""Linear probes: a logistic regression on frozen features, its regularisation chosen on a validation split.

The objective is scikit-learn's: ``1/2 ||W||^2 + C * sum of log-losses``, intercept free, on standardised features; with
two classes one weight vector is fitted (a binomial model), with more one per class (multinomial). scipy's L-BFGS finds
the optimum in the principal axes of the training rows, each stretched by the root of the objective's curvature along
it, which takes a fraction of the iterations that correlated features take. Large sets are read in chunks from the
(memory-mapped, float32) features: memory does not grow with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from beyond_accuracy.dimensions.confidence import fit_temperature

SMALL = 2**23  # rows x features up to which a CPU keeps the standardised rows (float64: 64 MB); above it they stream
CHUNK_BYTES = 2**26  # of float32 features at a time
RESIDENT_BYTES = 2**34  # float32 features kept on an accelerator rather than read again in each iteration
ROUNDS = 10  # in which L-BFGS is started again for one optimum
# Objective, as a share of the loss of guessing, below which the training rows are told apart: a larger C then enlarges
# the scores and hardly changes their order, at the price of the slowest fits.
SEPARATED = 0.01
RISE = 1.02  # times the least log-loss: less may be what a fit has left to gain
SCOUTING = 1e-2  # tolerance of fits that only look whether a curve turns down again
AXES_ROWS = 2**13  # behind the principal axes: these decide how fast the optimum is reached, not where it is


@dataclass(frozen=True)
class Settings:
    """How a probe is fitted and tuned: part of the key of stored outcomes, but for the device.

    L-BFGS stops when no entry of the objective's gradient along a stretched axis is larger than the tolerance times the
    root of the objective as a share of the loss of guessing; half the squared length of that gradient is left to gain.
    """

    exponents: tuple[float, ...] = tuple(float(e) for e in range(-6, 5))  # log10 of the values of C, evenly spaced
    max_iterations: int = 3000
    tolerance: float = 1e-5
    sweep_iterations: int = 500  # of fits that only compare values of C
    sweep_tolerance: float = 1e-4
    device: str = "cpu"  # by numpy; any other by torch


DEFAULT = Settings()


@dataclass(frozen=True)
class Probe:
    """A fitted linear probe."""

    scaler: StandardScaler
    classes: NDArray[np.int64]  # (k,) labels in the order of the scores
    weight: NDArray[np.float64]  # (k, d), or (1, d) for two classes, on standardised features
    bias: NDArray[np.float64]  # (k,) or (1,)
    c: float  # inverse regularisation
    loss: float  # the objective: mean log-loss of the rows it was fitted on plus the penalty
    converged: bool

    def log_probabilities(self, features: NDArray) -> NDArray[np.float64]:
        """(n, k) log-probabilities of ``classes``."""
        scores = self.scaler.transform(np.asarray(features, np.float64)) @ self.weight.T + self.bias
        return log_softmax(np.insert(scores, 0, 0, axis=1) if len(self.bias) == 1 else scores, axis=1)

    def evaluate(self, features: NDArray, labels: NDArray, rows: NDArray) -> tuple[NDArray[np.bool_], float]:
        """Per-row correctness and the mean log-loss on the given rows, ascending, read in chunks.

        The loss is that under the temperature that suits these rows best: like accuracy, it tells how well the scores
        order the classes, not how large they are. A label that was not trained on is wrong, with probability 1e-12.
        """
        scores = np.concatenate([self.log_probabilities(features[part]) for part in chunks(rows, features.shape[1])])
        truth = labels[np.sort(rows)]
        column = np.searchsorted(self.classes, truth).clip(max=len(self.classes) - 1)
        known = self.classes[column] == truth
        losses = np.full(len(truth), -np.log(1e-12))
        if known.any():
            temperature = fit_temperature(scores[known], column[known])
            losses[known] = -log_softmax(scores[known] / temperature, axis=1)[np.arange(known.sum()), column[known]]
        return self.classes[scores.argmax(axis=1)] == truth, float(losses.mean())


def chunks(rows: NDArray, width: int) -> Iterator[NDArray]:
    """Blocks of ascending row numbers whose float32 features fill at most `CHUNK_BYTES`."""
    rows, size = np.sort(rows), max(1, CHUNK_BYTES // (4 * width))  # ascending: read from a mapped file in one sweep
    return (rows[start : start + size] for start in range(0, len(rows), size))


def fit_scaler(features: NDArray, rows: NDArray) -> StandardScaler:
    """Mean and standard deviation of the given rows, read in chunks; ValueError where a number is not finite."""
    scaler = StandardScaler()
    for part in chunks(rows, features.shape[1]):
        block = np.asarray(features[part], np.float64)
        if not np.isfinite(block).all():
            raise ValueError(f"features of row {part[~np.isfinite(block).all(axis=1)][0]} are not finite")
        scaler.partial_fit(block)
    # features that never change have a spread of exactly zero or of rounding noise
    scaler.scale_[np.sqrt(scaler.var_) <= 1e-7 * np.maximum(1.0, np.abs(scaler.mean_))] = 1.0
    return scaler


class Fitting:
    """Probes of some rows of (n, d) features at any C: what fits share is computed once, each starts from the last."""

    def __init__(self, features: NDArray, labels: NDArray, rows: NDArray, device: str = "cpu"):
        """ValueError where the rows hold fewer than two classes."""
        rows = np.sort(rows)
        self.classes, targets = np.unique(labels[rows], return_inverse=True)
        if len(self.classes) < 2:
            raise ValueError(f"a probe needs at least two classes, the training rows hold {len(self.classes)}")
        self.scaler = fit_scaler(features, rows)
        sample, gram = rows[:: -(-len(rows) // AXES_ROWS)], 0.0
        for part in chunks(sample, features.shape[1]):
            block = self.scaler.transform(np.asarray(features[part], np.float64))
            gram = gram + block.T @ block
        variances, axes = np.linalg.eigh(gram / len(sample))
        # the bias is one more axis, of variance 1
        self._axes = np.append(np.maximum(variances, 0), 1), block_diag(axes, 1)
        self._data = _Rows(features, targets, rows, self.scaler, device)
        self.weights = np.zeros((1 if len(self.classes) == 2 else len(self.classes), features.shape[1] + 1))
        # a product of few rows is over before a second thread has woken up
        self._threads = 1 if len(rows) * features.shape[1] <= SMALL else None

    def at(self, c: float, settings: Settings = DEFAULT) -> Probe:
        """The probe at one C."""
        with _threads().limit(limits=self._threads):
            penalty = 1 / (c * self._data.count)
            self.weights, loss, converged = _minimise(self._data, penalty, self.weights, *self._axes, settings)
        return Probe(self.scaler, self.classes, self.weights[:, :-1], self.weights[:, -1], c, loss, converged)


def fit_probe(features: NDArray, labels: NDArray, rows: NDArray, c: float, settings: Settings = DEFAULT) -> Probe:
    """Fit a probe at one regularisation; see `Fitting`."""
    return Fitting(features, labels, rows, settings.device).at(c, settings)


_threads = cache(ThreadpoolController)  # looks for libraries once, not at each fit


class _Rows:
    """Standardised training rows with a column of ones: float64 on the CPU, float32 on an accelerator."""

    def __init__(self, features: NDArray, targets: NDArray, rows: NDArray, scaler: StandardScaler, device: str):
        self.count, self.classes = len(rows), int(targets.max()) + 1
        self.cpu = device == "cpu"
        self.xp, self._device = (np if self.cpu else torch), device
        self._features, self._targets, self._rows = features, targets, rows
        self._scaling = [self._put(values) for values in (scaler.mean_, scaler.scale_)]
        size = len(rows) * features.shape[1]
        self._standard = list(map(self._standardised, self._stored())) if self.cpu and size <= SMALL else None
        self._kept = list(self._stored()) if not self.cpu and 4 * size <= RESIDENT_BYTES else None

    def _put(self, values: NDArray):
        return values if self.cpu else torch.as_tensor(np.asarray(values, np.float32), device=self._device)

    def _stored(self) -> Iterator[tuple]:
        at = 0
        for part in chunks(self._rows, self._features.shape[1]):
            block, truth = np.ascontiguousarray(self._features[part]), self._targets[at : at + len(part)]
            at += len(part)
            yield (block, truth) if self.cpu else tuple(torch.from_numpy(v).to(self._device) for v in (block, truth))

    def _standardised(self, stored: tuple) -> tuple:
        block, truth = stored
        mean, scale = self._scaling
        return self.xp.concatenate([(block - mean) / scale, self.xp.ones_like(block[:, :1])], 1), truth

    def loss(self, weights: NDArray) -> tuple[float, NDArray, float]:
        """Mean log-loss at (outputs, d + 1) weights, the bias last, its gradient, and its mean curvature in a score."""
        xp, loss, spread, slope = self.xp, 0.0, 0.0, 0.0
        moved = self._put(weights)
        for block, truth in self._standard or map(self._standardised, self._kept or self._stored()):
            scores = moved @ block.T  # (outputs, rows): sums over the few classes run along the rows
            if len(weights) == 1:
                scores = xp.concatenate([xp.zeros_like(scores), scores])
            own = truth, xp.arange(len(truth), device=truth.device)
            scores -= xp.amax(scores, 0)
            likely = xp.exp(scores)
            total = xp.sum(likely, 0)
            loss += float(xp.sum(xp.log(total)) - xp.sum(scores[own]))
            likely /= total
            flat = likely.ravel()
            spread += len(truth) - float(xp.dot(flat, flat))
            likely[own] -= 1
            step = likely[-len(weights) :] @ block
            slope += step if self.cpu else step.cpu().double().numpy()
        curvature = spread / self.count / (self.classes - 1) / (2 if len(weights) == 1 else 1)
        return loss / self.count, slope / self.count, curvature


def _minimise(data: _Rows, penalty: float, weights: NDArray, variances: NDArray, axes: NDArray, settings: Settings):
    """Weights and objective at the optimum, from a start, and whether the tolerance was met.

    Where the classes can be separated, a weakly regularised objective is nearly zero long before the order of the
    scores settles. So the tolerance is relative to the objective, and axes are stretched anew as the curvature falls.
    """

    def objective(weights: NDArray) -> tuple[float, NDArray, float]:
        loss, slope, curvature = data.loss(weights)
        slope[:, :-1] += penalty * weights[:, :-1]
        return loss + penalty * np.sum(weights[:, :-1] ** 2) / 2, slope, curvature

    left, shape = settings.max_iterations, (len(weights), -1)
    for _ in range(ROUNDS):
        value, slope, curvature = objective(weights)
        stretch = np.sqrt(max(curvature, 1e-6) * variances + penalty)
        scaled = axes / stretch
        goal = settings.tolerance * np.sqrt(value / np.log(data.classes))
        rest = np.abs(slope @ scaled).max()
        if rest <= goal or left <= 0:
            break

        def stretched(flat: NDArray, scaled=scaled) -> tuple[float, NDArray]:
            value, slope, _ = objective(flat.reshape(shape) @ scaled.T)
            return value, (slope @ scaled).ravel()

        start = (weights @ axes * stretch).ravel()
        options = {"maxiter": left, "gtol": goal, "ftol": 0, "maxfun": 10**9}
        found = minimize(stretched, start, jac=True, method="L-BFGS-B", options=options)
        weights = found.x.reshape(shape) @ scaled.T
        left -= max(1, found.nit)
    # twice the tolerance: L-BFGS may stop on a line search that finds nothing better
    return weights, value, bool(rest <= 2 * goal)


class Sweep(NamedTuple):
    """Validation scores of every C that was tried, ascending, and the choice."""

    table: pd.DataFrame  # log10_c, accuracy, log_loss
    best_c: float
    at_edge: bool  # the choice is an end of the grid


def sweep(
    features: NDArray, labels: NDArray, train: NDArray, validation: NDArray, settings: Settings = DEFAULT
) -> Sweep:
    """Choose C on validation rows: a fixed grid from end to end, then the dip of the log-loss around its best value.

    The accuracy of one or two hundred images has several peaks and jumps when one changes sides; the log-loss
    (`Probe.evaluate`) is smooth in C and in the features. The choice is the vertex of the parabola through the grid's
    lowest log-loss and its neighbours in log C, which moves without a jump where two of these change places. It is not
    rounded: at a border of rounding the last bit of a feature would make another probe.

    The fits at large C are the slowest, and most lie far behind the dip. Two values or more past the best, once the
    loss has clearly risen, the rest of the grid is only scouted with rough fits; where these turn down again, to less
    than halfway between best and last, it is fitted, too. It ends early where the training rows are `SEPARATED`.
    """
    close = replace(settings, max_iterations=settings.sweep_iterations, tolerance=settings.sweep_tolerance)
    rough = replace(close, tolerance=max(SCOUTING, close.tolerance))
    fitting, rows, scouted = Fitting(features, labels, train, settings.device), [], False

    def tried(exponent: float, how: Settings) -> tuple[float, float, bool]:
        """Accuracy, log-loss, and whether the training rows are told apart."""
        probe = fitting.at(10.0**exponent, how)
        correct, loss = probe.evaluate(features, labels, validation)
        return float(correct.mean()), loss, probe.loss < SEPARATED * np.log(len(probe.classes))

    def turns_down(exponents: tuple[float, ...], level: float) -> bool:
        kept, loss = fitting.weights, np.inf
        for exponent in exponents:
            _, loss, separated = tried(exponent, rough)
            if separated or loss < level:
                break
        fitting.weights = kept
        return loss < level

    for at, exponent in enumerate(settings.exponents):
        accuracy, loss, separated = tried(exponent, close)
        rows.append((exponent, accuracy, loss))
        losses = [row[2] for row in rows]
        if separated:
            break
        if not scouted and np.argmin(losses) <= at - 2 and loss > RISE * min(losses):
            scouted = True
            if not turns_down(settings.exponents[at + 1 :], (min(losses) + loss) / 2):
                break
    table = pd.DataFrame(rows, columns=["log10_c", "accuracy", "log_loss"])
    best = int(table.log_loss.argmin())
    exponent = table.log10_c[best]
    if 0 < best < len(table) - 1:
        before, lowest, after = table.log_loss[best - 1 : best + 2]
        step = exponent - table.log10_c[best - 1]
        exponent += step * (before - after) / (2 * (before - 2 * lowest + after))
    return Sweep(table, 10.0**exponent, best in (0, len(settings.exponents) - 1))


@dataclass(frozen=True)
class Split:
    """Rows of one experiment; ValueError where a part is empty or an image id is in two parts."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    ids: NDArray = field(repr=False)

    def __post_init__(self) -> None:
        parts = {name: set(self.ids[getattr(self, name)].tolist()) for name in ("train", "validation", "test")}
        for a, b in combinations(parts, 2):
            if shared := parts[a] & parts[b]:
                raise ValueError(f"{a} and {b} share {len(shared)} images, e.g. {min(shared)}")
        if empty := [name for name, ids in parts.items() if not ids]:
            raise ValueError(f"the {empty[0]} part of the split is empty")


class Outcome(NamedTuple):
    """Test result of one tuned probe, as it is stored."""

    correct: NDArray[np.bool_]  # (n_test,) in the ascending order of test rows
    c: float
    at_edge: bool
    converged: bool


def run_probe(features: NDArray, labels: NDArray, split: Split, settings: Settings = DEFAULT) -> Outcome:
    """Tune C on validation rows, refit on training and validation rows together, score the test rows once."""
    chosen = sweep(features, labels, split.train, split.validation, settings)
    probe = fit_probe(features, labels, np.concatenate([split.train, split.validation]), chosen.best_c, settings)
    correct, _ = probe.evaluate(features, labels, split.test)
    return Outcome(correct, chosen.best_c, chosen.at_edge, probe.converged)
