"""The page "Choose a model": weights on what matters, the ranking they give, how sure it is, what would flip it.

The score of a model is the sum over criteria of weight x steps, where a step is a fixed, stated amount of the metric
(5 points of accuracy, a halving of cost; `metrics.yaml`). Fixed steps, and not the range over the models at hand, so
that a model added or left out does not change how two others compare.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import Profile
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.dimensions.calibration import bin_edges, bin_index
from beyond_accuracy.dimensions.confidence import Ranked
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.plan import measured_throughput, published_throughput
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure import verdicts
from beyond_accuracy.measure.stats import Z95, half_width_sd, resample_weights
from beyond_accuracy.report.front import HEADLINES, Headline, headline_rows
from beyond_accuracy.report.html import Body, fragment
from beyond_accuracy.show import tables
from beyond_accuracy.show.results import ECE

DRAWS = 1000
UNIT = 1000  # utilities are integers, thousandths of a step: Python and the page then rank by the same numbers
WEIGHTINGS = 2000  # random ones of a purpose's numbers
HIGHEST = 100  # weight; the lowest is 0, or -100 where the reader chooses which end is wanted
Draws = dict[tuple[str, str, str], NDArray[np.float64]]
COVERAGE = "accuracy:coverage="
_NO_SHIFT = ("clean", "real", "c", "corrupt")  # roles without one plain pass over shifted images
COST = "by cost"  # what stands where nothing is asked of images: no verdict


@dataclass(frozen=True)
class Preset:
    """A purpose and the weights that stand for it; without its `need` it is not offered."""

    key: str
    label: str
    weights: dict[str, int]
    need: str


PRESETS = tuple(Preset(**entry) for entry in tables.glossary()["presets"])


@dataclass(frozen=True)
class Choice:
    """What the page computes with: everything by criterion, those with results for at least two models."""

    models: list[str]  # those that do better than guessing
    guessing: list[str]  # the others
    criteria: list[Headline]
    rows: list[pd.DataFrame]  # results behind it
    judged: list[pd.DataFrame]  # comparisons of the models in it
    means: list[NDArray[np.int64]]  # (models,) utility in thousandths of a step, relative to the models' mean
    known: list[NDArray[np.bool_]]  # (models,) whether a model has a number
    draws: list[NDArray[np.int64]]  # (models, draws) utilities within the intervals; one draw where nothing varies
    shared: list[bool]  # whether drawn over the same images as other criteria


@dataclass(frozen=True)
class Flip:
    """The smallest change of one weight that changes the winner."""

    criterion: str
    weight: int  # the weight at which it happens
    change: int  # against the weight now
    winner: str


@dataclass(frozen=True)
class Ranking:
    """Models, best first, and how sure that is."""

    order: list[str]
    scores: list[int]  # thousandths of a step x weight
    best: list[float]  # share of the draws in which the model is first, equal scores shared
    flips: list[Flip]  # smallest change per criterion, smallest first; empty if no single weight changes the winner

    @property
    def tied(self) -> int:
        """How many models share the highest score."""
        return self.scores.count(self.scores[0]) if self.scores else 0

    @property
    def runner_up(self) -> str:
        """The best model that does not share the highest score, or the last one if all do."""
        return self.order[min(self.tied, len(self.order) - 1)]


# Computing -----------------------------------------------------------------------------------------------------------


def gather(
    table: pd.DataFrame,  # results
    comparisons: pd.DataFrame,
    profile: Profile,
    draws: int,
    seed: int,
    shared: Draws | None = None,  # of `shared_draws`, with as many draws
) -> Choice:
    """Criteria, utilities and draws from the results.

    Each number is drawn around its estimate with the standard error that its interval implies: with all others of the
    same images (`shared`), or from a normal distribution, models together as far as the interval of their difference
    tells. Costs are compared to three digits: what prints alike is a tie.
    """
    unfit = guessing(comparisons, table, profile)
    places = [i for i, name in enumerate(profile.models) if name not in unfit]
    models = [name for name in profile.models if name not in unfit]
    choice = Choice(models, [name for name in profile.models if name in unfit], [], [], [], [], [], [], [])
    rng = np.random.default_rng([seed, 7])
    for criterion, rows in headline_rows(table, profile, [h for h in HEADLINES if h.step]):
        rows = rows[rows["model"].isin(models)]
        if len(rows) < 2 or (criterion.log and (rows["value"] <= 0).any()):
            continue
        if not criterion.log and rows["ci_low"].isna().all():  # how sure it is cannot be known
            continue
        own = rows.set_index("model").reindex(models)
        sd = half_width_sd(own["ci_low"].astype(float), own["ci_high"].astype(float)).fillna(0).to_numpy()
        value = own["value"].to_numpy(float)
        if criterion.log:
            value = np.log2([float(f"{v:.3g}") for v in value])
            sd = np.full(len(models), np.log2(criterion.known) / Z95)
        sign = -1 if criterion.better == "down" else 1
        steps = sign * value / criterion.step
        centred = np.where(np.isnan(value), 0.0, steps - np.nanmean(steps))
        keys = ["dimension", "dataset", "metric"]
        judged = comparisons[(comparisons[keys] == rows[keys].iloc[0]).all(axis=1)]
        noise, key = np.zeros((len(models), 1)), tuple(rows[keys].iloc[0])
        if key in (shared or {}):
            noise = sign * shared[key][places] * sd[:, None] / criterion.step
        elif sd.any():
            together = covariance(sd, _gap_sds(judged, models)) / criterion.step**2
            noise = _root(together) @ rng.standard_normal((len(models), draws))
        choice.means.append(np.rint(centred * UNIT).astype(np.int64))
        choice.known.append(~np.isnan(value))
        choice.criteria.append(criterion)
        choice.rows.append(rows)
        choice.judged.append(judged)
        choice.shared.append(key in (shared or {}))
        choice.draws.append(np.rint((centred[:, None] + noise) * UNIT).astype(np.int64))
    return choice


def covariance(sd: NDArray[np.float64], gap_sd: Mapping[tuple[int, int], float]) -> NDArray[np.float64]:
    """Covariance of the models' estimates from their standard errors (models,) and those of their differences.

    var(a - b) = var(a) + var(b) - 2 cov(a, b); pairs without a difference count as uncorrelated.
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
    length, wanted = np.sqrt((root**2).sum(axis=1)), np.sqrt(np.diag(matrix))
    return root * np.divide(wanted, length, out=np.zeros_like(wanted), where=length > 0)[:, None]


def _gap_sds(judged: pd.DataFrame, models: list[str]) -> dict[tuple[int, int], float]:
    places = {name: i for i, name in enumerate(models)}
    same = judged[judged["model_a"].isin(models) & judged["model_b"].isin(models)].dropna(subset=["ci_low", "ci_high"])
    sds = half_width_sd(same["ci_low"], same["ci_high"])
    return {(places[a], places[b]): s for a, b, s in zip(same["model_a"], same["model_b"], sds, strict=True)}


def lowest(criterion: Headline) -> int:
    """Smallest weight: where neither end is good in itself, which one is wanted is the reader's choice."""
    return 0 if criterion.better else -HIGHEST


def rank(choice: Choice, weights: Mapping[str, int]) -> Ranking:
    """Rank the models that have a number for all that weighs; the page's script does the same on the same integers.

    `weights`: integers by criterion key, `lowest` to `HIGHEST`; others weigh nothing.
    """
    given = [int(weights.get(criterion.key, 0)) for criterion in choice.criteria]
    weighing = [i for i, weight in enumerate(given) if weight]
    ranked = [m for m in range(len(choice.models)) if all(choice.known[i][m] for i in weighing)]
    score = {m: sum(given[i] * int(choice.means[i][m]) for i in weighing) for m in ranked}
    order = sorted(ranked, key=lambda m: -score[m])
    best = dict.fromkeys(ranked, 0.0)
    if ranked:
        total = np.zeros((len(ranked), max([choice.draws[i].shape[1] for i in weighing], default=1)), dtype=np.int64)
        for i in weighing:
            total += given[i] * choice.draws[i][ranked]
        first = total == total.max(axis=0)
        best = dict(zip(ranked, (first / first.sum(axis=0)).mean(axis=1).tolist(), strict=True))
    flips = _flips(choice, given, order, score) if weighing else []
    return Ranking([choice.models[m] for m in order], [score[m] for m in order], [best[m] for m in order], flips)


def decisive(choice: Choice, weights: Mapping[str, int], ranking: Ranking) -> int | None:
    """Position of the criterion that puts the first model furthest ahead of the next one, by weight; None if none does.

    The next one is the first with another score, if there is any: what tells equal models apart decides nothing.
    """
    first, second = (choice.models.index(name) for name in (ranking.order[0], ranking.runner_up))
    gaps = [int(utility[first] - utility[second]) for utility in choice.means]
    leads = [weights.get(c.key, 0) * gap for c, gap in zip(choice.criteria, gaps, strict=True)]
    return int(np.argmax(leads)) if max(leads) > 0 else None


def led(choice: Choice, keys: Iterable[str], seed: int) -> dict[str, float]:
    """Share of random weightings of some criteria (uniform over all) in which each model leads by the estimates."""
    weighed = [i for i, criterion in enumerate(choice.criteria) if criterion.key in set(keys)]
    ranked = np.all([choice.known[i] for i in weighed], axis=0)
    weights = np.random.default_rng([seed, 8]).dirichlet(np.ones(len(weighed)), WEIGHTINGS)
    scores = np.where(ranked, weights @ np.array([choice.means[i] for i in weighed]), -np.inf)
    first = np.isclose(scores, scores.max(axis=1, keepdims=True), rtol=0, atol=1e-6)
    return dict(zip(choice.models, (first / first.sum(axis=1, keepdims=True)).mean(axis=0).tolist(), strict=True))


def _flips(choice: Choice, given: list[int], order: list[int], score: Mapping[int, int]) -> list[Flip]:
    if len(order) < 2:
        return []
    winner, found = order[0], []
    for i, criterion in enumerate(choice.criteria):
        others = [m for m in order[1:] if choice.known[i][m]] if choice.known[i][winner] else []
        span = HIGHEST - lowest(criterion)
        for change in [sign * size for size in range(1, span + 1) for sign in (-1, 1)]:
            if not lowest(criterion) <= given[i] + change <= HIGHEST:
                continue
            after = {m: score[m] + change * int(choice.means[i][m]) for m in [winner, *others]}
            top = max(others, key=lambda m: after[m], default=winner)
            if after[top] > after[winner]:
                found.append(Flip(criterion.key, given[i] + change, change, choice.models[top]))
                break
    return sorted(found, key=lambda flip: abs(flip.change))


# Numbers of the same images -----------------------------------------------------------------------------------------


def shared_draws(profile: Profile, options: Mapping[str, object], draws: int, seed: int) -> Draws:
    """Draws of those headlines whose images are stored: (dimension, dataset, metric) -> (models, draws), sd 1, mean 0.

    A set is resampled alike for all metrics and models: a model that looks good by the luck of its images does so in
    all of them. `average` is the mean of a page's sets. A number without stored predictions, or whose unit is not the
    image (scenes, shapes, tasks), is left out: it is drawn by itself.
    """
    outputs, found = Outputs(profile, Store(), dict(options), run=False), {}

    @cache
    def drawn(dataset: str, metric: str) -> NDArray[np.float64] | None:
        try:
            runs = outputs.predictions(dataset, ["none"])["none"]
        except (DataMissing, InputError):
            return None
        rng = np.random.default_rng([seed, zlib.crc32(dataset.encode())])  # the same images for every metric
        return draw(runs, metric, draws, rng) if list(runs) == list(profile.models) else None

    for headline in HEADLINES:
        if statistic_of(headline.metric) is None:
            continue
        roles = profile.dimensions.get(headline.page, {})
        names = roles.get(headline.role, [])
        if headline.role == "average":
            names = [name for role, name in roles.items() if role not in _NO_SHIFT]
        names = [names] if isinstance(names, str) else names
        sets = [name for name in names if isinstance(name, str) and name in profile.datasets]
        parts = {name: part for name in sets if (part := drawn(name, headline.metric)) is not None}
        if parts and headline.role == "average":
            parts = {"average": np.mean(list(parts.values()), axis=0)}
        found |= {(headline.page, name, headline.metric): _standard(part) for name, part in parts.items()}
    return found


def _standard(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    centred, sd = drawn - drawn.mean(axis=1, keepdims=True), drawn.std(axis=1, keepdims=True)
    return np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0)


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
    right = run.correct[order].astype(np.float32)

    def accuracy(counts: NDArray) -> float:
        upto = np.cumsum(counts)
        kept = np.searchsorted(upto, coverage * len(order), side="right")
        return counts[:kept] @ right[:kept] / upto[kept - 1] if kept and upto[kept - 1] else 0.0

    return lambda weights: np.array([accuracy(counts[order]) for counts in weights])  # row by row: in the cache


# Saying --------------------------------------------------------------------------------------------------------------


def advice(choice: Choice, profile: Profile) -> list[dict[str, str]]:
    """Which model comes first for each purpose and how sure that is.

    `href` is the chooser with these weights; `model` all that tie, or that the number that decides does not tell from
    the first; `sure` the verdict on that number, and the chances; `numbers` the first model against the runner-up.
    """
    labels, rows = {name: spec.label for name, spec in profile.models.items()}, []
    for preset in offered(choice):
        ranking = rank(choice, preset.weights)
        if len(ranking.order) < 2:
            continue
        need = next(i for i, criterion in enumerate(choice.criteria) if criterion.key == preset.need)
        deciding = decisive(choice, preset.weights, ranking)
        deciding = need if deciding is None else deciding
        word = _verdict(choice, deciding, ranking, ranking.runner_up)
        sure = f"{word}: {labels[ranking.order[0]]} is first in {_chance(ranking.best[0])} of draws"
        if len(preset.weights) > 1:
            share = led(choice, preset.weights, profile.settings.seed)[ranking.order[0]]
            sure += f" and in {_chance(share)} of all weightings of these numbers"
        numbers = [_against(choice, i, ranking, labels) for i in dict.fromkeys((deciding, need))]
        told = [name for name in ranking.order[1:] if _verdict(choice, deciding, ranking, name) != verdicts.OPEN]
        first = max(ranking.tied, ranking.order.index(told[0]) if told else len(ranking.order))
        sure = "a tie: equal in all that is weighed" if ranking.tied > 1 else sure
        href = "choose.html#" + "&".join(f"{key}={weight}" for key, weight in preset.weights.items())
        names = " or ".join(labels[name] for name in ranking.order[:first])
        said = {"sure": sure, "numbers": f"Decides: {'; '.join(numbers)}"}
        rows.append({"purpose": preset.label, "href": href, "model": names} | said)
    return rows


def guessing(comparisons: pd.DataFrame, table: pd.DataFrame, profile: Profile) -> set[str]:
    """Models no better than always naming the most frequent class, or than chance: no reason to choose one."""
    asked = comparisons[comparisons["metric"] == "above_majority"]
    found = set(asked.loc[(asked["verdict"] == verdicts.OPEN) | (asked["difference"] <= 0), "model_a"])
    clean = table[(table["dimension"] == "models") & (table["metric"] == "accuracy")]
    spaces = {name: profile.datasets[name].classes for name in set(clean["dataset"]) & profile.datasets.keys()}
    chance = {name: 100 / len(class_space(classes)) for name, classes in spaces.items() if classes}
    return found | set(clean.loc[clean["ci_low"] <= clean["dataset"].map(chance), "model"])


def _verdict(choice: Choice, i: int, ranking: Ranking, other: str) -> str:
    """What the comparisons say of the first model and another in one criterion; a cost differs beyond its draws."""
    if not choice.criteria[i].log:
        row = verdicts.between(choice.judged[i], ranking.order[0], other)
        return row["verdict"] if row else verdicts.OPEN
    a, b = (choice.draws[i][choice.models.index(name)] for name in (ranking.order[0], other))
    low, high = np.percentile(a - b, [2.5, 97.5])
    return verdicts.OPEN if low <= 0 <= high else COST


def _against(choice: Choice, i: int, ranking: Ranking, labels: Mapping[str, str]) -> str:
    numbers = choice.rows[i].set_index("model")[["value", "ci_low", "ci_high"]]
    names = (ranking.order[0], ranking.runner_up)
    texts = [tables.format_interval(*numbers.loc[name], choice.criteria[i].format) for name in names]
    word = _verdict(choice, i, ranking, names[1])
    if choice.criteria[i].log:  # what is counted is equal, or it is not
        word = "equal" if word == verdicts.OPEN else COST
    said = "" if word == COST else f", {word}"
    return f"{choice.criteria[i].arrowed}: {texts[0]} against {texts[1]} ({labels[names[1]]}){said}"


def offered(choice: Choice) -> list[Preset]:
    """The presets whose main criterion has results, cut to the criteria that have."""
    keys = {criterion.key for criterion in choice.criteria}
    return [replace(p, weights={k: w for k, w in p.weights.items() if k in keys}) for p in PRESETS if p.need in keys]


def flip_sentence(ranking: Ranking, weights: Mapping[str, int], words: Mapping[str, str], labels: Mapping) -> str:
    """The smallest change of one weight that makes another model win, in words."""
    if not any(weights.values()):
        return "No weight is set."
    if not ranking.flips:
        return "No change of a single weight."
    flip = ranking.flips[0]
    return f"{words[flip.criterion]} at {flip.weight} instead of {flip.weight - flip.change}: {labels[flip.winner]}."


def _step(criterion: Headline, unit: str) -> str:
    """What one step is, in words."""
    if criterion.log:
        return "half as much" if criterion.better == "down" else "twice as much"
    less = " less" if criterion.better == "down" else ""
    return f"{criterion.step:g}{' points' if unit == 'percent' else ''}{less}"


def _points(score: int) -> str:
    return f"{score / 100_000:+.2f}".replace("-", "−")


def _chance(share: float) -> str:
    """A share of finitely many draws is never certainty."""
    return ">99%" if share >= 0.995 else "<1%" if share < 0.005 else f"{share:.0%}"


# The page ------------------------------------------------------------------------------------------------------------


def body(choice: Choice, profile: Profile) -> Body:
    """The inside of `choose.html`."""
    title, labels = "Choose a model", {name: spec.label for name, spec in profile.models.items()}
    guess = ", ".join(labels[name] for name in choice.guessing)
    guess = f" Not ranked, as no better than guessing: {guess}." if guess else ""
    if not choice.criteria:
        lead = f"There is nothing to choose by yet: no criterion has results for two models of this report.{guess}"
        return Body(title, lead, [], fragment("plain.html.j2", lead=lead))
    presets = offered(choice)
    start = presets[0].weights if presets else {}
    lead = (
        f"Say what matters and get the {len(choice.models)} models in order, with the chance that each is really the "
        f"best and what would change the answer.{guess}"
    )
    ranking = rank(choice, start)
    listed = zip(ranking.order, map(_points, ranking.scores), map(_chance, ranking.best), strict=True)
    sliders = [
        (c, _step(c, rows["unit"].iloc[0]), lowest(c), start.get(c.key, 0))
        for c, rows in zip(choice.criteria, choice.rows, strict=True)
    ]
    rates, numbers = _speed(profile, labels), _numbers(choice, labels)
    said = {
        "missing": [preset.label for preset in PRESETS if preset.key not in {p.key for p in presets}],
        "ranking": [(labels[name], score, share) for name, score, share in listed],
        "lacking": [label for label in labels.values() if rates is None or label not in set(rates["model"])],
        "joint": [c.name for c, draws in zip(choice.criteria, choice.shared, strict=True) if draws],
        "exact": [c.name for i, c in enumerate(choice.criteria) if choice.draws[i].shape[1] == 1],
        "timed": [c.known for c in choice.criteria if c.known > 1],
        "data": Markup(page_data(choice, presets, labels)),  # noqa: S704 (no < in it)
    }
    shown = {"presets": presets, "sliders": sliders, "numbers": numbers, "speed": rates}
    shown["purposes"] = _purposes(choice, presets, labels, profile.settings.seed)
    inside = fragment("choose.html.j2", lead=lead, highest=HIGHEST, draws=DRAWS, **shown, **said)
    names = ("Weights", "Ranking", "By purpose", "Numbers", "Speed")
    anchors = ("weights", "ranking-heading", "purposes", "numbers", "speed")
    return Body(title, lead, list(zip(anchors, names, strict=True)), inside)


def page_data(choice: Choice, presets: list[Preset], labels: Mapping[str, str]) -> str:
    """What the script computes with, as JSON that is safe inside a `<script>` element."""
    criteria = []
    for criterion, means, known, draws in zip(choice.criteria, choice.means, choice.known, choice.draws, strict=True):
        numbers = [int(v) if here else None for v, here in zip(means, known, strict=True)]
        words = {"key": criterion.key, "label": criterion.name, "low": lowest(criterion)}
        criteria.append(words | {"means": numbers, "draws": draws.tolist()})
    models = [{"name": name, "label": labels.get(name, name)} for name in choice.models]
    content = {"models": models, "criteria": criteria, "presets": {p.key: p.weights for p in presets}}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _purposes(choice: Choice, presets: list[Preset], labels: Mapping[str, str], seed: int) -> pd.DataFrame:
    words = {criterion.key: criterion.name for criterion in choice.criteria}
    rows = []
    for preset in presets:
        ranking = rank(choice, preset.weights)
        listed = zip(ranking.order, ranking.best, ranking.scores, [None, *ranking.scores[:-1]], strict=True)
        order = "".join(
            f"{' = ' if score == before else ' › '}{labels[name]} ({_chance(share)})"
            for name, share, score, before in listed
        ).removeprefix(" › ")
        weights = ", ".join(f"{words[key]} {weight}" for key, weight in preset.weights.items())
        shares = sorted(led(choice, preset.weights, seed).items(), key=lambda item: -item[1])
        leads = ", ".join(f"{labels[name]} {_chance(share)}" for name, share in shares if share > 0)
        leads = leads if len(preset.weights) > 1 else "–"  # a single number can't be weighed otherwise
        if ranking.order:
            flip = flip_sentence(ranking, preset.weights, words, labels) + _more_data(choice, preset, ranking)
            rows.append((preset.label, order, leads, flip, weights))
    return pd.DataFrame(rows, columns=["Purpose", "Order", "Leads at random weights", "What would flip it", "Weights"])


def _more_data(choice: Choice, preset: Preset, ranking: Ranking) -> str:
    """How many times as much data would tell the first two apart in what decides; empty where they are."""
    deciding = decisive(choice, preset.weights, ranking) if len(ranking.order) > 1 else None
    judged = choice.judged[deciding] if deciding is not None else pd.DataFrame(columns=["model_a", "model_b"])
    row = verdicts.between(judged, ranking.order[0], ranking.runner_up)
    if row is None or row["verdict"] != verdicts.OPEN:
        return ""
    times = max(verdicts.more_images(row), 1.1)  # below that it is open for the number of questions asked
    much = f"About {times:.2g} times" if times < 100 else "More than 100 times"
    return f" {much} as much data would settle {choice.criteria[deciding].name}."


def _numbers(choice: Choice, labels: Mapping[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame({"Criterion": [criterion.arrowed for criterion in choice.criteria]})
    for name in choice.models:
        own = [rows.set_index("model")[["value", "ci_low", "ci_high"]].reindex([name]).iloc[0] for rows in choice.rows]
        frame[labels[name]] = [tables.format_interval(*r, c.format) for r, c in zip(own, choice.criteria, strict=True)]
    return frame.assign(n=pd.array([rows["n"].max() for rows in choice.rows], dtype="Int64"))


def _speed(profile: Profile, labels: Mapping[str, str]) -> pd.DataFrame | None:
    """Images per second of every model: on this machine if it was measured, and as published for its architecture."""
    bases = {"measured here": measured_throughput, "published": published_throughput}
    frames = [
        rates(spec).assign(model=labels[name], basis=basis)
        for name, spec in profile.models.items()
        for basis, rates in bases.items()
    ]
    columns = ["model", "card", "images_per_second", "precision", "side", "basis", "source"]
    rates = pd.concat(frames, ignore_index=True).sort_values(["basis", "card"], kind="stable")
    return rates[columns] if len(rates) else None
