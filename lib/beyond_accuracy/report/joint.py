"""How numbers move together: draws of several metrics over the same resampled images, from stored predictions.

The accuracy, the calibration error and the ranking by confidence of all models are measured on the same images; drawn
one by one, a model that looks good by the luck of these images would look lucky once only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import Profile
from beyond_accuracy.dimensions.calibration import bin_edges, bin_index
from beyond_accuracy.dimensions.confidence import Ranked
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure.stats import resample_weights
from beyond_accuracy.report.front import Headline
from beyond_accuracy.show.results import ECE

Draws = dict[tuple[str, str, str], NDArray[np.float64]]
COVERAGE = "accuracy:coverage="
_NO_SHIFT = ("clean", "real", "c", "corrupt")  # roles without one plain pass over shifted images


def shared_draws(profile: Profile, options: Mapping, asked: Sequence[Headline], draws: int, seed: int) -> Draws:
    """Draws of those headlines whose images are stored: (dimension, dataset, metric) -> (models, draws), sd 1, mean 0.

    A set is resampled alike for all metrics and models; `average` is the mean of a page's sets. A number without stored
    predictions, or whose unit is not the image (scenes, shapes, tasks), is left out: it is drawn by itself.
    """
    outputs, found, known = Outputs(profile, Store(), dict(options), run=False), {}, {}
    for headline in asked:
        if statistic_of(headline.metric) is None:
            continue
        roles = profile.dimensions.get(headline.page, {})
        names = roles.get(headline.role, [])
        if headline.role == "average":
            names = [name for role, name in roles.items() if role not in _NO_SHIFT]
        names = [names] if isinstance(names, str) else names
        sets = [name for name in names if isinstance(name, str) and name in profile.datasets]
        drawn = {name: _drawn(outputs, name, headline.metric, draws, seed, known) for name in sets}
        drawn = {name: part for name, part in drawn.items() if part is not None}
        if drawn and headline.role == "average":
            drawn = {"average": np.mean(list(drawn.values()), axis=0)}
        found |= {(headline.page, name, headline.metric): _standard(part) for name, part in drawn.items()}
    return found


def _standard(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    centred, sd = drawn - drawn.mean(axis=1, keepdims=True), drawn.std(axis=1, keepdims=True)
    return np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0)


def _drawn(
    outputs: Outputs, dataset: str, metric: str, draws: int, seed: int, known: dict
) -> NDArray[np.float64] | None:
    if (dataset, metric) not in known:
        try:
            runs = outputs.predictions(dataset, ["none"])["none"]
        except (DataMissing, InputError):
            runs = {}
        known[dataset, metric] = None
        if list(runs) == list(outputs.profile.models):
            rng = np.random.default_rng([seed, zlib.crc32(dataset.encode())])  # the same images for every metric
            known[dataset, metric] = draw(runs, metric, draws, rng)
    return known[dataset, metric]


def draw(runs: Mapping[str, Predictions], metric: str, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(models, draws) of one metric over resampled images, the same for all models."""
    statistics = [statistic_of(metric)(run) for run in runs.values()]
    weights = resample_weights(len(next(iter(runs.values())).correct), draws, rng)
    return np.concatenate([[statistic(part) for statistic in statistics] for part in weights], axis=1)


def statistic_of(metric: str) -> Callable[[Predictions], Callable[[NDArray], NDArray]] | None:
    """From a run to what maps (batch, n) counts of its images to (batch,) values; None for metrics not of images."""
    if metric.startswith(COVERAGE):
        return lambda run: _answered(run, float(metric.removeprefix(COVERAGE)))
    return {"accuracy": _accuracy, ECE: _ece, "auroc": _auroc}.get(metric)


def _accuracy(run: Predictions) -> Callable:
    right = run.correct.astype(np.float32)
    return lambda weights: weights @ right / len(right)


def _ece(run: Predictions) -> Callable:
    """The plug-in: the noise of the debiased one, up to its nearly constant correction."""
    gap, edges = run.confidence - run.correct, bin_edges(run.confidence)
    table = np.eye(len(edges), dtype=np.float32)[bin_index(run.confidence, edges)] * gap[:, None].astype(np.float32)
    return lambda weights: np.abs(weights @ table).sum(axis=1) / len(gap)


def _auroc(run: Predictions) -> Callable:
    ranked = Ranked(run.confidence, run.correct)
    return lambda weights: np.nan_to_num(ranked.areas(weights)[:, 0], nan=0.5)


def _answered(run: Predictions, coverage: float) -> Callable:
    order = np.argsort(-np.asarray(run.confidence), kind="stable")
    right = run.correct[order]

    def accuracy(weights: NDArray) -> NDArray:
        counts = weights[:, order]
        counts = np.where(np.cumsum(counts, axis=1) <= coverage * len(order), counts, 0)
        return counts @ right / np.maximum(counts.sum(axis=1), 1)

    return accuracy
