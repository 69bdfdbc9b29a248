"""Linear probes: a logistic regression on frozen features, its regularisation chosen on a validation split.

The objective is scikit-learn's: ``1/2 ||W||^2 + C * sum of log-losses``, intercept free, on features standardised with
the training rows' mean and standard deviation. Small sets are fitted by scikit-learn, large ones by torch's L-BFGS on
chunks that are read from the (memory-mapped, float16) features, so that memory does not grow with the set; both reach
the same optimum. With two classes both fit one weight vector (a binomial model), with more one per class (multinomial).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

SKLEARN_LIMIT = 2**23
"""Rows x features up to which scikit-learn fits in memory (float64: 64 MB); above it torch streams."""
CHUNK_BYTES = 2**26  # of float32 features at a time
RESIDENT_BYTES = 2**34  # float16 features kept on an accelerator rather than read again in each iteration


@dataclass(frozen=True)
class Settings:
    """How a probe is fitted and tuned.

    Attributes:
        exponents: log10 of C on the first, coarse grid; `sweep` extends it where the best value lies at its end, so
            that weakly regularised fits, which take longest, are made only where they could win.
        refinements: How often the grid is refined around the best value, each time with half the step.
        max_iterations: L-BFGS iterations of the final fit.
        tolerance: L-BFGS stops when no entry of the mean loss's gradient is larger.
        sweep_iterations: As `max_iterations`, for the fits that only compare values of C.
        sweep_tolerance: As `tolerance`, for those fits.
        device: `cpu`, `cuda`, ...: where torch fits large sets.
        solver: `auto` (by size), `sklearn` or `torch`.
    """

    exponents: tuple[float, ...] = (-5.0, -3.0, -1.0)
    refinements: int = 2
    max_iterations: int = 1000
    tolerance: float = 1e-4
    sweep_iterations: int = 300
    sweep_tolerance: float = 1e-3
    device: str = "cpu"
    solver: str = "auto"


DEFAULT = Settings()


@dataclass(frozen=True)
class Standardiser:
    """Per-feature mean and standard deviation of the training rows; constant features get a standard deviation of 1."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __call__(self, features: NDArray) -> NDArray[np.float64]:
        """Standardised float64 copy of (n, d) features."""
        return (np.asarray(features, np.float64) - self.mean) / self.scale


@dataclass(frozen=True)
class Probe:
    """A fitted linear probe.

    Attributes:
        standardiser: From the rows it was fitted on.
        classes: (k,) labels in the order of the scores.
        weight: (k, d), or (1, d) for two classes, on standardised features.
        bias: (k,) or (1,).
        c: Inverse regularisation.
        converged: Whether L-BFGS met its tolerance.
    """

    standardiser: Standardiser
    classes: NDArray[np.int64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    c: float
    converged: bool

    def log_probabilities(self, features: NDArray) -> NDArray[np.float64]:
        """(n, k) log-probabilities of ``classes``."""
        scores = self.standardiser(features) @ self.weight.T + self.bias
        if len(self.bias) == 1:
            return np.column_stack([log_expit(-scores[:, 0]), log_expit(scores[:, 0])])
        return log_softmax(scores, axis=1)

    def evaluate(self, features: NDArray, labels: NDArray, rows: NDArray) -> tuple[NDArray[np.bool_], float]:
        """Per-row correctness and the mean log-loss on the given rows, read in chunks.

        A label that was not among the training classes counts as wrong and has the loss of probability 1e-12.
        """
        correct, loss = [], 0.0
        for part in chunks(rows, features.shape[1]):
            scores, truth = self.log_probabilities(features[part]), labels[part]
            correct.append(self.classes[scores.argmax(axis=1)] == truth)
            column = np.searchsorted(self.classes, truth).clip(max=len(self.classes) - 1)
            known = self.classes[column] == truth
            loss -= np.where(known, scores[np.arange(len(part)), column], np.log(1e-12)).sum()
        return np.concatenate(correct), float(loss / len(rows))


def chunks(rows: NDArray, width: int) -> Iterator[NDArray]:
    """Blocks of ascending row numbers whose float32 features fill at most `CHUNK_BYTES`."""
    rows = np.sort(np.asarray(rows))  # ascending rows are read from a mapped file in one sweep
    size = max(1, CHUNK_BYTES // (4 * width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def fit_standardiser(features: NDArray, rows: NDArray) -> Standardiser:
    """Mean and standard deviation of the given rows in one pass, merged over chunks in float64 (Chan et al. 1983).

    Args:
        features: (n, d) array, possibly memory-mapped float16.
        rows: Training rows, and only those.

    Raises:
        ValueError: If there are no rows, or features are not finite.
    """
    if len(rows) == 0:
        raise ValueError("no training rows to standardise with")
    seen, mean, squares = 0, np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for part in chunks(rows, features.shape[1]):
        block = np.asarray(features[part], np.float64)
        if not np.isfinite(block).all():
            raise ValueError(f"features of row {part[~np.isfinite(block).all(axis=1)][0]} are not finite")
        delta = block.mean(axis=0) - mean
        total = seen + len(block)
        squares += ((block - block.mean(axis=0)) ** 2).sum(axis=0) + delta**2 * seen * len(block) / total
        mean += delta * len(block) / total
        seen = total
    scale = np.sqrt(squares / seen)
    # float16 features that never change have a spread of exactly zero or of rounding noise
    return Standardiser(mean, np.where(scale > 1e-7 * np.maximum(1.0, np.abs(mean)), scale, 1.0))


def fit_probe(
    features: NDArray,
    labels: NDArray,
    rows: NDArray,
    c: float,
    settings: Settings = DEFAULT,
    start: Probe | None = None,
    standardiser: Standardiser | None = None,
) -> Probe:
    """Fit a probe at one regularisation.

    Args:
        features: (n, d) features.
        labels: (n,) integer labels.
        rows: Rows to fit on.
        c: Inverse regularisation C.
        settings: Solver, device, iterations.
        start: Probe of a nearby C on the same rows, to start from.
        standardiser: That of the same rows, if it is known already.

    Raises:
        ValueError: If the rows hold fewer than two classes.
    """
    rows = np.sort(np.asarray(rows))
    classes, targets = np.unique(labels[rows], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a probe needs at least two classes, the training rows hold {len(classes)}")
    standardiser = standardiser or fit_standardiser(features, rows)
    if start is not None and not np.array_equal(start.classes, classes):
        start = None
    small = len(rows) * features.shape[1] <= SKLEARN_LIMIT
    use_sklearn = settings.solver == "sklearn" or (settings.solver == "auto" and small)
    solve = _solve_sklearn if use_sklearn else _solve_torch
    weight, bias, converged = solve(features, targets, rows, len(classes), c, settings, start, standardiser)
    return Probe(standardiser, classes, weight, bias, c, converged)


def _solve_sklearn(features, targets, rows, k, c, settings, start, standardiser):
    model = LogisticRegression(
        C=c, max_iter=settings.max_iterations, tol=settings.tolerance, warm_start=start is not None
    )
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.weight.copy(), start.bias.copy(), np.arange(k)
    # One thread: products this small are over before a second thread has woken up.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        model.fit(standardiser(features[rows]), targets)
    return model.coef_, model.intercept_, bool(model.n_iter_.max() < settings.max_iterations)


def _solve_torch(features, targets, rows, k, c, settings, start, standardiser):
    device = torch.device(settings.device)
    kind = torch.float64 if device.type == "cpu" else torch.float32
    outputs, width = (1 if k == 2 else k), features.shape[1]
    mean, scale = (torch.as_tensor(v).to(kind).to(device) for v in (standardiser.mean, standardiser.scale))
    weight = torch.zeros(outputs, width, dtype=kind, device=device)
    bias = torch.zeros(outputs, dtype=kind, device=device)
    if start is not None:
        weight.copy_(torch.as_tensor(start.weight).to(kind))
        bias.copy_(torch.as_tensor(start.bias).to(kind))
    weight.requires_grad_()
    bias.requires_grad_()
    read = _reader(features, targets, rows, device)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=settings.max_iterations, max_eval=2 * settings.max_iterations,
        tolerance_grad=settings.tolerance, tolerance_change=0.0, history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        total = (weight**2).sum() / (2 * c * len(rows))
        total.backward()
        total = total.detach()
        for block, truth in read():
            scores = ((block.to(kind) - mean) / scale) @ weight.T + bias
            if outputs == 1:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    scores[:, 0], truth.to(kind), reduction="sum"
                )
            else:
                loss = torch.nn.functional.cross_entropy(scores, truth, reduction="sum")
            (loss / len(rows)).backward()
            total += loss.detach() / len(rows)
        return total

    optimiser.step(closure)
    closure()
    # the gradient left over, against twice the tolerance: L-BFGS may stop on a line search that finds nothing better
    rest = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    result = (weight.detach().cpu().double().numpy(), bias.detach().cpu().double().numpy())
    return *result, rest <= 2 * settings.tolerance


def _reader(features, targets, rows, device) -> Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Function that yields (features, targets) blocks on the device, again in each iteration."""
    truth = torch.as_tensor(targets, dtype=torch.int64, device=device)
    width = features.shape[1]

    def stream() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        at = 0
        for part in chunks(rows, width):
            block = torch.from_numpy(np.ascontiguousarray(features[part])).to(device, non_blocking=True)
            yield block, truth[at : at + len(part)]
            at += len(part)

    if device.type == "cpu" or 2 * len(rows) * width > RESIDENT_BYTES:
        return stream
    resident = list(stream())
    return lambda: iter(resident)


# ------------------------------------------------------------------------------------------------------------- tuning


@dataclass(frozen=True)
class Sweep:
    """Validation scores of every C that was tried, in the order of C, and the best."""

    table: pd.DataFrame = field(repr=False)
    best_c: float
    at_edge: bool


def sweep(
    features: NDArray, labels: NDArray, train: NDArray, validation: NDArray, settings: Settings = DEFAULT
) -> Sweep:
    """Choose C on validation rows: a coarse logarithmic grid, then finer ones around the best value.

    The best C has the highest validation accuracy; ties go to the lower log-loss, then to the stronger regularisation.
    The grid is extended by up to two coarse steps while the best value lies at its end.

    Returns:
        The sweep; ``table`` has ``log10_c, accuracy, log_loss, converged`` and ``at_edge`` is True when the best value
        still lies at the end of the grid.
    """
    rough = replace(settings, tolerance=settings.sweep_tolerance, max_iterations=settings.sweep_iterations)
    standardiser = fit_standardiser(features, train)
    tried: dict[float, tuple[float, float, bool]] = {}
    probes: dict[float, Probe] = {}

    def visit(exponents: Sequence[float]) -> float:
        for exponent in sorted(set(np.round(exponents, 6)) - set(tried)):
            lower = [e for e in probes if e < exponent]
            start = probes[max(lower)] if lower else None
            probe = fit_probe(features, labels, train, 10.0**exponent, rough, start, standardiser)
            correct, loss = probe.evaluate(features, labels, validation)
            tried[exponent], probes[exponent] = (float(correct.mean()), loss, probe.converged), probe
        return max(tried, key=lambda e: (tried[e][0], -tried[e][1], -e))

    best = visit(settings.exponents)
    grid = np.sort(settings.exponents)
    step = float(np.diff(grid).min()) if len(grid) > 1 else 2.0
    for _ in range(2):
        if best not in (min(tried), max(tried)):
            break
        best = visit([best + step if best == max(tried) else best - step])
    for _ in range(settings.refinements):
        step /= 2
        best = visit([best - step, best + step])
    rows = [(e, *tried[e]) for e in sorted(tried)]
    table = pd.DataFrame(rows, columns=["log10_c", "accuracy", "log_loss", "converged"])
    return Sweep(table, 10.0**best, best in (min(tried), max(tried)))


@dataclass(frozen=True)
class Split:
    """Rows of one experiment. No row, and no image id, may be in two parts.

    Raises:
        ValueError: If a part is empty or two parts share an image.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    ids: NDArray = field(repr=False)

    def __post_init__(self) -> None:
        parts = {name: set(self.ids[getattr(self, name)].tolist()) for name in ("train", "validation", "test")}
        for name, ids in parts.items():
            if not ids:
                raise ValueError(f"the {name} part of the split is empty")
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if shared := parts[a] & parts[b]:
                raise ValueError(f"{a} and {b} share {len(shared)} images, e.g. {min(shared)}")


@dataclass(frozen=True)
class Outcome:
    """Test result of one tuned probe.

    Attributes:
        correct: (n_test,) correctness per test row, in the ascending order of test rows.
        c: Chosen C.
        validation_accuracy: Accuracy on the validation rows before refitting.
        at_edge: The chosen C lies at the end of the grid.
        converged: The refitted probe met its tolerance.
    """

    correct: NDArray[np.bool_]
    c: float
    validation_accuracy: float
    at_edge: bool
    converged: bool


def run_probe(features: NDArray, labels: NDArray, split: Split, settings: Settings = DEFAULT) -> Outcome:
    """Tune C on validation rows, refit on training and validation rows together, score the test rows once."""
    chosen = sweep(features, labels, split.train, split.validation, settings)
    probe = fit_probe(features, labels, np.concatenate([split.train, split.validation]), chosen.best_c, settings)
    correct, _ = probe.evaluate(features, labels, split.test)
    return Outcome(correct, chosen.best_c, float(chosen.table.accuracy.max()), chosen.at_edge, probe.converged)
