"""Choosing a model: criteria from the results, draws within their intervals, a weighted ranking and what would flip it.

The score of a model is the sum over criteria of weight x steps, where a step is a fixed, stated amount of the metric
(5 points of accuracy, 0.02 of calibration error, a halving of cost). Fixed steps, and not the range over the models at
hand, so that a model added or left out does not change how two others compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from beyond_accuracy.base.profile import Profile
from beyond_accuracy.measure.stats import Z95, half_width_sd
from beyond_accuracy.report.front import Headline, headline_rows
from beyond_accuracy.show.results import ECE

UNIT = 1000  # utilities are integers, thousandths of a step: Python and the page then rank by the same numbers
LOWEST, HIGHEST = 0, 100
TIMING = 1.25
"""Factor within which (95 %) a rate that was timed once is known: the same tower has run at 1,377 and at 1,707 images
per second within one report, depending on what else the machine did."""


@dataclass(frozen=True)
class Criterion:
    """Something a model can be chosen for.

    Attributes:
        key: Short name, used in the page's address.
        headline: Where its rows are found; `better` empty means that neither end is good in itself.
        step: How much of the metric counts as one step; for `log` criteria a factor of two does.
        words: The step in words.
        log: Whether steps are factors of two.
        known: Factor within which (95 %) a cost is known; 1 for what is counted. Costs are compared to the three digits
            that are printed of them: what prints alike is a tie.
    """

    key: str
    headline: Headline
    step: float
    words: str
    log: bool = False
    known: float = 1.0

    @property
    def log_sd(self) -> float:
        """Standard error of a number that is known within a factor, in factors of two."""
        return float(np.log2(self.known)) / Z95

    @property
    def neutral(self) -> bool:
        """Whether the weight may be negative: which end is wanted is the reader's choice."""
        return not self.headline.better


CRITERIA = (
    Criterion("accuracy", Headline("models", "accuracy", "Accuracy, clean", "higher"), 5, "5 points"),
    Criterion(
        "shifted", Headline("robustness", "accuracy", "Accuracy under shift", "higher", "average"), 5, "5 points"
    ),
    Criterion("ece", Headline("calibration", ECE, "Calibration error", "lower"), 0.02, "0.02 less"),
    Criterion(
        "ece_shift",
        Headline("calibration", ECE, "Calibration error under shift", "lower", "shifted"),
        0.02,
        "0.02 less",
    ),
    Criterion("transfer", Headline("transfer", "accuracy", "Transfer accuracy", "higher", "average"), 5, "5 points"),
    Criterion(
        "synthetic", Headline("synthetic", "accuracy:average", "Synthetic viewpoints", "higher", "pug"), 5, "5 points"
    ),
    Criterion(
        "invariance", Headline("invariance", "agreement", "Keeps its answer when transformed", "higher"), 0.05, "0.05"
    ),
    Criterion(
        "mistakes",
        # not the error ratio, which is lower for whoever errs more
        Headline("mistakes", "factor_effect:average", "Evenness over factors", "lower", "factors"),
        0.2,
        "0.2 less in log-odds",
    ),
    Criterion("shape", Headline("shape_bias", "shape_bias", "Shape over texture", "", "cue_conflict"), 0.1, "0.1"),
    Criterion("macs", Headline("models", "gflops", "Computation", "lower", "none"), 1, "half the GMACs", log=True),
    Criterion("params", Headline("models", "params", "Size", "lower", "none"), 1, "half the parameters", log=True),
    Criterion(
        "rate",
        Headline("models", "images_per_second", "Speed here", "higher", "none"),
        1,
        "twice the images/s",
        log=True,
        known=TIMING,
    ),
)


@dataclass(frozen=True)
class Choice:
    """What the page computes with.

    Attributes:
        models: Model names.
        criteria: Criteria with results for at least two models.
        rows: The result rows behind each criterion.
        means: Utility in thousandths of a step, int64 (criteria, models), relative to the models' mean.
        known: Whether a model has a number, bool (criteria, models).
        draws: Utilities drawn within the intervals, int64 (models, draws) per criterion; one draw where nothing varies.
    """

    models: list[str]
    criteria: list[Criterion]
    rows: list[pd.DataFrame]
    means: NDArray[np.int64]
    known: NDArray[np.bool_]
    draws: list[NDArray[np.int64]]


@dataclass(frozen=True)
class Flip:
    """The smallest change of one weight that changes the winner."""

    criterion: str
    weight: int  # the weight at which it happens
    change: int  # against the weight now
    winner: str


@dataclass(frozen=True)
class Ranking:
    """Models, best first, and how sure that is.

    Attributes:
        order: Ranked models.
        scores: Score of each ranked model, thousandths of a step x weight.
        best: Share of the draws in which the model is first, equal scores shared.
        unranked: Models without a number for a criterion that has weight.
        flips: Smallest change per criterion, smallest first; empty if no single weight can change the winner.
    """

    order: list[str]
    scores: list[int]
    best: list[float]
    unranked: list[str]
    flips: list[Flip]

    @property
    def tied(self) -> int:
        """How many models share the highest score."""
        return self.scores.count(self.scores[0]) if self.scores else 0

    @property
    def runner_up(self) -> str:
        """The best model that does not share the highest score, or the last one if all do."""
        return self.order[min(self.tied, len(self.order) - 1)]


def gather(table: pd.DataFrame, comparisons: pd.DataFrame, profile: Profile, draws: int, seed: int) -> Choice:
    """Criteria, utilities and draws from the results.

    Each number is drawn from a normal distribution around its estimate whose standard error its interval implies.
    Criteria are independent; models are independent too, except where the interval of their paired difference tells
    how far they move together. A count is exact to the digits printed; a rate that was timed once is drawn, too
    (`TIMING`).

    Args:
        table: Rows of the results schema.
        comparisons: Recorded differences (`pages_differences.read_comparisons`).
        profile: Models and roles.
        draws: Number of draws.
        seed: Of the draws.
    """
    models = list(profile.models)
    table = pd.concat([table, mean_agreement(table)], ignore_index=True)
    by_headline = dict(headline_rows(table, profile, [criterion.headline for criterion in CRITERIA]))
    criteria, found, means, known, drawn = [], [], [], [], []
    rng = np.random.default_rng([seed, 7])
    for criterion in CRITERIA:
        rows = by_headline.get(criterion.headline)
        if rows is None or len(rows) < 2 or (criterion.log and (rows["value"] <= 0).any()):
            continue
        if not criterion.log and rows["ci_low"].isna().all():  # how sure it is cannot be known
            continue
        own = rows.set_index("model").reindex(models)
        sd = half_width_sd(own["ci_low"].astype(float), own["ci_high"].astype(float)).fillna(0).to_numpy()
        value = own["value"].to_numpy(float)
        here = ~np.isnan(value)
        sign = -1 if criterion.headline.better == "lower" else 1
        if criterion.log:
            value, sd = np.log2([float(f"{v:.3g}") for v in value]), np.full(len(models), criterion.log_sd)
        steps = sign * value / criterion.step
        middle = np.nanmean(steps)
        centred = np.where(here, steps - middle, 0.0)
        criteria.append(criterion)
        found.append(rows)
        known.append(here)
        means.append(np.rint(centred * UNIT).astype(np.int64))
        noise = np.zeros((len(models), 1))
        if sd.any():
            together = covariance(sd, _gap_sds(comparisons, rows, models)) / criterion.step**2
            noise = _root(together) @ rng.standard_normal((len(models), draws))
        drawn.append(np.rint((centred[:, None] + noise) * UNIT).astype(np.int64))
    shape = (len(criteria), len(models))
    return Choice(
        models,
        criteria,
        found,
        np.array(means, dtype=np.int64).reshape(shape),
        np.array(known, dtype=bool).reshape(shape),
        drawn,
    )


def mean_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """One invariance number per model: the mean of its agreements with itself over all kinds of transform.

    The interval's half width is the mean of the parts', as if they moved together: never too narrow.
    """
    parts = table[(table["dimension"] == "invariance") & table["metric"].str.fullmatch(r"agreement:[^=]+")]
    if not len(parts) or (table["metric"] == "agreement").any():  # the page itself has the mean
        return parts.iloc[:0]
    number = parts.astype({"value": float, "ci_low": float, "ci_high": float})
    means = number.groupby(["dimension", "dataset", "model", "unit"], sort=False, as_index=False).agg(
        {"value": "mean", "ci_low": "mean", "ci_high": "mean", "n": "min"}
    )
    return means.assign(metric="agreement")[list(table.columns)]


def covariance(sd: NDArray[np.float64], gap_sd: Mapping[tuple[int, int], float]) -> NDArray[np.float64]:
    """Covariance of the models' estimates from their own and their differences' standard errors.

    var(a - b) = var(a) + var(b) - 2 cov(a, b); pairs without a difference count as uncorrelated.

    Args:
        sd: (models,) standard errors.
        gap_sd: Standard error of the difference by pair of positions.

    >>> covariance(np.array([1.0, 1.0]), {(0, 1): 1.0}).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    matrix = np.diag(sd**2)
    for (i, j), gap in gap_sd.items():
        bound = sd[i] * sd[j]
        matrix[i, j] = matrix[j, i] = np.clip((sd[i] ** 2 + sd[j] ** 2 - gap**2) / 2, -bound, bound)
    return matrix


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A root of a covariance; what makes it impossible (rounding, unknown pairs) goes, the variances stay."""
    values, vectors = np.linalg.eigh(matrix)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    length = np.sqrt((root**2).sum(axis=1))
    wanted = np.sqrt(np.diag(matrix))
    return root * np.divide(wanted, length, out=np.zeros_like(wanted), where=length > 0)[:, None]


def _gap_sds(comparisons: pd.DataFrame, rows: pd.DataFrame, models: Sequence[str]) -> dict[tuple[int, int], float]:
    key = rows.iloc[0]
    same = comparisons[
        (comparisons["dimension"] == key["dimension"])
        & (comparisons["dataset"] == key["dataset"])
        & (comparisons["metric"] == key["metric"])
        & comparisons["model_a"].isin(models)
        & comparisons["model_b"].isin(models)
    ].dropna(subset=["ci_low", "ci_high"])
    sds = half_width_sd(same["ci_low"], same["ci_high"])
    places = {name: i for i, name in enumerate(models)}
    return {(places[a], places[b]): s for a, b, s in zip(same["model_a"], same["model_b"], sds, strict=True)}


def rank(choice: Choice, weights: Mapping[str, int]) -> Ranking:
    """Rank the models under some weights; the page's script does the same computation on the same integers.

    Args:
        choice: As of `gather`.
        weights: Integer weight by criterion key, 0 to 100, or -100 to 100 for neutral criteria; others weigh nothing.

    Raises:
        ValueError: A weight out of range.
    """
    given = [int(weights.get(criterion.key, 0)) for criterion in choice.criteria]
    for weight, criterion in zip(given, choice.criteria, strict=True):
        if not (-HIGHEST if criterion.neutral else LOWEST) <= weight <= HIGHEST:
            raise ValueError(f"weight of {criterion.key} out of range: {weight}")
    weighing = [i for i, weight in enumerate(given) if weight]
    ranked = [m for m in range(len(choice.models)) if all(choice.known[i, m] for i in weighing)]
    score = {m: sum(given[i] * int(choice.means[i, m]) for i in weighing) for m in ranked}
    order = sorted(ranked, key=lambda m: -score[m])
    best = dict.fromkeys(ranked, 0.0)
    if ranked:
        total = np.zeros((len(ranked), max([choice.draws[i].shape[1] for i in weighing], default=1)), dtype=np.int64)
        for i in weighing:
            total += given[i] * choice.draws[i][ranked]
        first = total == total.max(axis=0)
        shares = (first / first.sum(axis=0)).mean(axis=1)
        best = dict(zip(ranked, shares.tolist(), strict=True))
    return Ranking(
        [choice.models[m] for m in order],
        [score[m] for m in order],
        [best[m] for m in order],
        [name for m, name in enumerate(choice.models) if m not in ranked],
        _flips(choice, given, order, score) if weighing else [],
    )


def decisive(choice: Choice, weights: Mapping[str, int], ranking: Ranking) -> int | None:
    """Position of the criterion that puts the first model furthest ahead of the next one, by weight; None if none does.

    The next one is the first with another score, if there is any: what tells equal models apart decides nothing.
    """
    first, second = (choice.models.index(name) for name in (ranking.order[0], ranking.runner_up))
    gaps = choice.means[:, first] - choice.means[:, second]
    leads = [weights.get(c.key, 0) * int(gap) for c, gap in zip(choice.criteria, gaps, strict=True)]
    return int(np.argmax(leads)) if max(leads) > 0 else None


def _flips(choice: Choice, given: list[int], order: list[int], score: Mapping[int, int]) -> list[Flip]:
    if len(order) < 2:
        return []
    winner, found = order[0], []
    for i, criterion in enumerate(choice.criteria):
        if not choice.known[i, winner]:
            continue
        others = [m for m in order[1:] if choice.known[i, m]]
        lowest = -HIGHEST if criterion.neutral else LOWEST
        for size in range(1, HIGHEST - lowest + 1):
            hit = None
            for change in (-size, size):
                if not lowest <= given[i] + change <= HIGHEST:
                    continue
                after = {m: score[m] + change * int(choice.means[i, m]) for m in [winner, *others]}
                ahead = [m for m in others if after[m] > after[winner]]
                if ahead and hit is None:
                    top = max(ahead, key=lambda m: after[m])
                    hit = Flip(criterion.key, given[i] + change, change, choice.models[top])
            if hit:
                found.append(hit)
                break
    return sorted(found, key=lambda flip: abs(flip.change))
