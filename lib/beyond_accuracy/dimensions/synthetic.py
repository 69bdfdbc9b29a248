"""Which factor of a scene breaks a model? Sweeps of one factor at a time over the same scenes (figure 7).

Bordes et al., "PUG: Photorealistic and Semantically Controllable Synthetic Data", NeurIPS 2023, arXiv 2308.03977.
Accuracies are percent, their range and standard deviation over levels are points. Images of one scene are not
independent: scenes are the units of every interval and test, and n counts them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from beyond_accuracy.data.readers.stimuli import UNTOLD
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import P_VALUE_RESAMPLES, Difference, Interval, linear_difference, share_interval
from beyond_accuracy.show import figures
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import ModelStyle, legend

RULES = ("official", "membership")
ANGLES = ("yaw", "pitch", "roll")
AVERAGE = "average"
EFFECT = ["model", "factor", "levels", "worst_level", "worst", "worst_low", "worst_high", "range", "range_low",
          "range_high", "range_chance", "p", "p_floor", "sd", "n"]  # fmt: skip
_SHUFFLES = 2000
_SHUFFLED = 2**21  # images shuffled at once: 16 MB of random numbers


class Sweeps(NamedTuple):
    """Outcomes of every model on sweeps of one factor at a time."""

    correct: Mapping[str, ArrayLike]  # model -> (n,) booleans
    images: pd.DataFrame  # n rows: `factor`, `level`, `cluster` (the scene), for curves `level_value`
    classes: Mapping[str, Sequence[int]] = {}  # PUG class -> ImageNet indices, where answers are of ImageNet

    @property
    def outcomes(self) -> NDArray[np.float64]:
        """(models, n) zeros and ones."""
        return np.stack([np.asarray(right, dtype=float) for right in self.correct.values()])


def sweeps_of(runs: Mapping, metadata: pd.DataFrame, rule: str) -> Sweeps:
    """Outcomes of all runs; several labels per image and a `class_name` are answers of ImageNet to PUG's classes."""
    first = next(iter(runs.values()))
    images = metadata.loc[first.ids]
    if not (first.multilabel and "class_name" in images):
        return Sweeps({model: run.correct for model, run in runs.items()}, images)
    names = images["class_name"]
    classes = {name: np.atleast_1d(labels).tolist() for name, labels in zip(names, first.targets, strict=True)}
    told = (images["factor"] != UNTOLD).to_numpy()
    right = {model: pug_correct(run.pred, names, classes, rule)[told] for model, run in runs.items()}
    return Sweeps(right, images[told], classes)


def pug_correct(
    pred: ArrayLike, names: Sequence[str], classes: Mapping[str, Sequence[int]], rule: str = "official"
) -> NDArray[np.bool_]:
    """Score (n,) predicted ImageNet indices against the PUG classes (class -> indices) that (n,) images are of.

    `official` turns the mapping round as the authors' and the paper's code do: ImageNet index -> class, of two classes
    the later name (841: `Sweatshirt`, so that `Shirt` is never right). `membership` asks whether the prediction is one
    of the class's own indices.
    """
    if rule not in RULES:
        raise ValueError(f"PUG scoring is 'official' or 'membership', got {rule!r}")
    owner, own = _owners(classes), rule == "membership"
    answers = zip(np.asarray(pred).tolist(), names, strict=True)
    return np.array([k in classes[name] if own else owner.get(k) == name for k, name in answers], dtype=bool)


def unreachable(classes: Mapping[str, Sequence[int]]) -> list[str]:
    """Classes that the official rule can never find right, because later names own all their indices."""
    owner = _owners(classes)
    return [name for name in sorted(classes) if all(owner[index] != name for index in classes[name])]


def _owners(classes: Mapping[str, Sequence[int]]) -> dict[int, str]:
    return {index: name for name in sorted(classes) for index in classes[name]}


def by_rule(runs: Mapping, sweeps: Sweeps) -> pd.DataFrame:
    """Accuracy over all images by scoring rule; none where the classes are the models' own."""
    if not sweeps.classes:
        return pd.DataFrame()
    about = sweeps.images["class_name"], sweeps.classes
    told = np.isin(np.asarray(next(iter(runs.values())).ids, str), sweeps.images.index.to_numpy(str))
    said = [np.asarray(run.pred)[told] for run in runs.values()]
    shares = {rule: [100 * pug_correct(pred, *about, rule).mean() for pred in said] for rule in RULES}
    return pd.DataFrame({"model": list(runs), **shares})


def usual_ranges(metadata: pd.DataFrame, factors: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Where ordinary images lie on each factor: the 5 % and 95 % quantiles, for the numeric factors they record."""
    called = {"scale": "object_scale", "light_intensity": "scene_light"}
    numbers = metadata.select_dtypes("number").rename(columns=called)
    return {f: tuple(numbers[f].quantile([0.05, 0.95]).tolist()) for f in factors if f in numbers}


def by_factor(sweeps: Sweeps) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy over all levels of each factor and the factors' plain mean: rows, and the models' differences.

    Both with a column `factor`; p-values are Student's t over scenes, differences of the mean are the main family.
    """
    right, models = sweeps.outcomes, list(sweeps.correct)
    factor, scene = (sweeps.images[c].to_numpy() for c in ("factor", "cluster"))
    names, place, sizes = np.unique(factor, return_inverse=True, return_counts=True)
    rows, gaps = [], []
    for name in [*dict.fromkeys(factor), AVERAGE]:
        # weights of the images: each factor as much as any other, however many levels it has
        weights = 1 / sizes[place] / len(names) if name == AVERAGE else (factor == name) / (factor == name).sum()
        chosen = weights > 0
        own, weights, scenes, group = right[:, chosen], weights[chosen], scene[chosen], factor[chosen]
        what = f"accuracy:{name}", "percent", models, 100 * own @ weights, len(np.unique(scenes))
        ends = [100 * np.array(share_interval(hits, scenes, weights=weights)) for hits in own]
        rows.append(tidy.rows(*what, ends=ends).assign(factor=name))
        centred = own - pd.DataFrame(own.T).groupby(group).transform("mean").to_numpy().T

        def tested(a: int, b: int, own=own, centred=centred, weights=100 * weights, scenes=scenes) -> Difference:
            return linear_difference(weights @ (own[a] - own[b]), weights * (centred[a] - centred[b]), scenes)

        part = tidy.pairs(*what, tested=tested)
        gaps.append(part.assign(factor=name, family="main" if name == AVERAGE else "detail"))
    return pd.concat(rows, ignore_index=True), pd.concat(gaps, ignore_index=True)


def by_level(sweeps: Sweeps) -> pd.DataFrame:
    """Accuracy at every level of every factor: rows with `factor`, `level` and, where known, `level_value`."""
    parts = []
    images = sweeps.images.reset_index(drop=True)
    for (name, level), part in images.groupby(["factor", "level"], sort=False, observed=True):
        right = {model: np.asarray(said)[part.index] for model, said in sweeps.correct.items()}
        rows = tidy.accuracy(right, f"accuracy:{name}={level}", part["cluster"].to_numpy())
        value = part["level_value"].iloc[0] if "level_value" in part else np.nan
        parts.append(rows.assign(factor=name, level=level, level_value=value))
    return pd.concat(parts, ignore_index=True)


def numeric(curve: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `by_level` whose factor is a number at all its levels."""
    return curve[curve["level_value"].notna().groupby(curve["factor"]).transform("all")]


def unordered(curve: pd.DataFrame, most: int = 24) -> dict[str, pd.DataFrame]:
    """Rows of each factor without order (background, texture): the hardest levels, hardest last."""
    found = {}
    for factor, part in curve.drop(numeric(curve).index).groupby("factor", sort=False):
        means = part.groupby("level")["value"].mean().sort_values(ascending=False)[-most:]
        rows, place = part[part["level"].isin(means.index)], pd.Series(range(len(means)), means.index)
        found[factor] = rows.iloc[np.argsort(rows["level"].map(place), kind="stable")]
    return found


def sensitivity(sweeps: Sweeps, seed: int, permutations: int = 0) -> pd.DataFrame:
    """How much each factor moves accuracy, and where it is lowest: rows with the columns `EFFECT`.

    The range of several noisy accuracies is never zero, so it comes with the range that chance alone reaches: the 95 %
    quantile with levels shuffled among the images of a scene (p: of a range at least as wide).

    Best and worst are picked after seeing the numbers, which a bootstrap of the picked would count as data twice. The
    intervals are simultaneous over all levels (for the range: all pairs of levels) of all factors of a model, by
    Bonferroni: whichever a reader picks, the chance that any misses is 5 %. Between levels they are Bonett and Price's
    (2012, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data).

    `permutations` are the shuffles behind p (behind the chance range 2,000 of them at most); 0: as many as a correction
    over everything this page compares needs.
    """
    right, rows = sweeps.outcomes, []
    factor, level, scene = (sweeps.images[c].to_numpy() for c in ("factor", "level", "cluster"))
    factors = list(dict.fromkeys(factor))
    compared = len(factors) * len(right) * (len(right) + 1) // 2
    permutations = permutations or min(max(_SHUFFLES, 40 * compared), P_VALUE_RESAMPLES)
    misses = 0.05 / len(factors)
    for name in factors:
        chosen = factor == name
        levels, scenes, hits = list(dict.fromkeys(level[chosen])), scene[chosen], right[:, chosen]
        member = level[chosen][:, None] == np.asarray(levels)
        cells = 100 * hits @ member / member.sum(axis=0)
        chance = _chance_ranges(hits, member, scenes, permutations, seed)
        for i, model in enumerate(sweeps.correct):
            ends = [share_interval(hits[i, at], scenes[at], 1 - misses / len(levels)) for at in member.T]
            worst, spread = 100 * np.min(ends, axis=0), np.ptp(cells[i])
            low, high = _range_interval(hits[i], member, scenes, misses)
            wide = np.sum(chance[:, i] >= spread - 1e-9)  # equal ranges of other levels differ in their last bits
            known = np.quantile(chance[:_SHUFFLES, i], 0.95), (1 + wide) / (1 + permutations), 1 / (1 + permutations)
            sd = cells[i].std(ddof=1) if len(levels) > 1 else 0.0
            about = model, name, len(levels), levels[int(cells[i].argmin())], cells[i].min(), *worst
            rows.append((*about, spread, 100 * low, 100 * high, *known, sd, len(np.unique(scenes))))
    return pd.DataFrame(rows, columns=EFFECT)


def effect_rows(effects: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of `sensitivity`: range, chance range and worst level, with a column `factor`."""
    parts = []
    for kind, unit in (("range", "points"), ("range_chance", "points"), ("worst", "percent")):
        part = effects.reindex(columns=["model", "factor", "n", kind, f"{kind}_low", f"{kind}_high"])
        part.columns = ["model", "factor", "n", "value", "ci_low", "ci_high"]
        parts.append(part.assign(metric=f"accuracy_{kind}:" + part["factor"], unit=unit))
    return pd.concat(parts, ignore_index=True)


def widest_first(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ranges among `effect_rows`, factors that move accuracy most first, and the chance ranges."""
    noise, wide = (rows[rows["metric"].str.startswith(f"accuracy_{kind}:")] for kind in ("range_chance", "range"))
    means = wide.groupby("factor")["value"].transform("mean")
    return wide.loc[means.sort_values(ascending=False, kind="stable").index], noise


def against_chance(effects: pd.DataFrame) -> pd.DataFrame:
    """Comparisons of every range with its chance range, tested by the shuffles."""
    ends = {"difference": "range", "ci_low": "range_low", "ci_high": "range_high"}
    excess = {name: effects[column] - effects["range_chance"] for name, column in ends.items()}
    what = {"metric": "accuracy_range:" + effects["factor"], "model_a": effects["model"], "model_b": ""}
    return effects[["factor", "p", "p_floor", "n"]].assign(**what, **excess, unit="points", family="detail")


def judged_effects(effects: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Rows of `sensitivity` with `p_holm` (`p_holm_floor` where a bound), `verdict` of the comparison with chance."""
    own = judged[judged["model_b"] == ""].rename(columns={"model_a": "model"})
    own = own.assign(p_holm_floor=own["p_holm"].where(verdicts.is_bound(own)))
    return effects.merge(own[["model", "factor", "p_holm", "p_holm_floor", "verdict"]], on=["model", "factor"])


def widest(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows of `sensitivity` whose factor may be the one that moves its model most: one row where it is certain."""
    return effects[effects["range_high"] >= effects.groupby("model")["range_low"].transform("max")]


def mean_sentence(page, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
    """Mean accuracy over factors, who leads, and which pairs of models are not told apart."""
    means, asked = rows[rows["factor"] == AVERAGE], judged[judged["metric"] == f"accuracy:{AVERAGE}"]
    ends = (format_interval(r.value, r.ci_low, r.ci_high, ".1f") for r in means.itertuples())
    words = [f"{page.labels[model]} {value}" for model, value in zip(means["model"], ends, strict=True)]
    factors = verdicts.counted(rows["factor"].nunique() - 1, "factor")
    text = f"Mean accuracy over {factors}, percent: {'; '.join(words)}."
    apart = verdicts.told_apart(asked, page.labels)
    return f"{text} {page.leader(means, asked)}; {apart}." if apart else text


def range_sentence(effects: pd.DataFrame) -> str:
    """How many ranges exceed noise, and which factors have the widest."""
    most, told = widest(effects), (effects["verdict"] != verdicts.OPEN).sum()
    places = ", ".join(dict.fromkeys(most["factor"].str.replace("_", " ")))
    unsure = "; which of them is widest is open for at least one model" if most["model"].duplicated().any() else ""
    said = f"{told} of {len(effects)} model and factor combinations move accuracy by more than noise. Widest range: "
    return f"{said}{places}, {most['range'].min():.0f} to {most['range'].max():.0f} points{unsure}."


def polar(frame: pd.DataFrame, styles: Mapping[str, ModelStyle], usual: Mapping[str, tuple]) -> figures.Drawn:
    """Accuracy (radius) over angles, 0 degrees up, clockwise; where ordinary images lie (`usual_ranges`) is shaded.

    A curve is closed where its levels go round the whole circle, with no gap of more than 90 degrees.
    """
    factors, looks = list(dict.fromkeys(frame["factor"])), figures.used(styles, frame)
    fig, axes = figures.panels(factors, 3.1, 2, subplot_kw={"projection": "polar"})
    for factor, ax in axes.items():
        ax.set_theta_zero_location("N")
        ax.set_theta_direction(-1)
        if factor in usual:
            low, high = np.deg2rad(usual[factor])
            ax.bar((low + high) / 2, 100, width=high - low, color="#eef0f3", edgecolor="none", zorder=0)
        for name, look in looks.items():
            part = frame[(frame["model"] == name) & (frame["factor"] == factor)].sort_values("level_value")
            points = part[["level_value", "value"]].to_numpy(float)
            if np.diff(points[:, 0], append=points[:1, 0] + 360).max() <= 90:
                points = np.vstack([points, points[:1]])
            mark = {"marker": look.marker, "markerfacecolor": look.markerfacecolor, "markersize": 4.5}
            line = {"color": look.color, "linestyle": look.linestyle, "linewidth": 1.5}
            ax.plot(np.deg2rad(points[:, 0]), points[:, 1], **line, **mark)
        ax.set_ylim(0, 100)
        ax.set_yticks([50, 100], ["50", "100"], fontsize=9)
        ax.set_xticks(np.deg2rad(np.arange(0, 360, 45)), [f"{d}°" for d in (0, 45, 90, 135, 180, -135, -90, -45)])
        ax.tick_params(axis="x", labelsize=9.5, pad=0)
        ax.set_title(ax.get_title(loc="left"), loc="left", pad=14)
    legend(fig, looks, kind="line")
    words = ", ".join(factors).replace("_", " ")
    return fig, f"Polar plots of accuracy over {words}; the numbers are those of the curves above."


def pick_failures(sweeps: Sweeps, count: int, seed: int) -> pd.DataFrame:
    """One telling failure per factor: an image at the hardest level that most models miss, of a scene they know best.

    At most `count` rows `factor, level, id, missed_by` (models), hardest level first; ties are broken by the seed.
    """
    images, right = sweeps.images, sweeps.outcomes.mean(axis=0)
    factor, level, ids = images["factor"].to_numpy(), images["level"].to_numpy(), images.index.to_numpy()
    known = pd.Series(right).groupby(images["cluster"].to_numpy()).transform("mean").to_numpy()
    tie = np.random.default_rng(seed).random(len(right)) * 1e-6
    rows = []
    for name in dict.fromkeys(factor):
        chosen = np.flatnonzero(factor == name)
        accuracy = pd.Series(right[chosen]).groupby(level[chosen]).mean()
        candidates = chosen[level[chosen] == accuracy.idxmin()]
        best = candidates[np.lexsort((known[candidates] + tie[candidates], -right[candidates]))[-1]]
        if missed := round((1 - right[best]) * len(sweeps.correct)):
            rows.append((accuracy.min(), name, accuracy.idxmin(), ids[best], missed))
    found = pd.DataFrame(rows, columns=["accuracy", "factor", "level", "id", "missed_by"])
    return found.sort_values("accuracy", kind="stable", ignore_index=True).drop(columns="accuracy").head(count)


def failure_gallery(
    frame: pd.DataFrame, styles: Mapping[str, ModelStyle], page, dataset: str, runs: Mapping
) -> figures.Drawn:
    """The images of `pick_failures` with every model's answer; PUG's classes are not those of the labels."""
    words, about, first = page.class_names(dataset), page.metadata(dataset), next(iter(runs.values()))
    truth = dict(zip(first.ids, (" or ".join(words[k] for k in np.atleast_1d(t)) for t in first.targets), strict=True))
    truth = about["class_name"].str.replace("_", " ") if "class_name" in about else truth
    said = {model: dict(zip(run.ids, run.pred, strict=True)) for model, run in runs.items()}
    captions = []
    for row in frame.itertuples():
        answers = [f"{styles[model].label}: {words[answer[row.id]]}" for model, answer in said.items()]
        captions.append("\n".join([f"{truth[row.id]}, {row.factor.replace('_', ' ')} {row.level}", *answers]))
    fig = figures.gallery([page.image(dataset, i) for i in frame["id"]], captions, columns=2)
    return fig, f"Failures with each model's answer: {'; '.join(captions)}".replace("\n", ", ")


def _range_interval(hits: NDArray, member: NDArray, scenes: NDArray, misses: float) -> Interval:
    """Interval of best minus worst of the levels' shares, from simultaneous intervals of all pairs of levels.

    From (n,) zeros and ones, (n, levels) level and (n,) scene of each image, and the chance that any interval misses.
    """
    levels = member.shape[1]
    if levels < 2:
        return Interval(0.0, 0.0)
    index = np.unique(scenes, return_inverse=True)[1]
    share = hits @ member / member.sum(axis=0)
    # what a scene says of each level: its outcome, where it has one image of each
    said = np.zeros((index.max() + 1, levels))
    np.add.at(said, index, (hits[:, None] - share) * member / member.sum(axis=0))
    said = share + len(said) * said
    pair = np.triu_indices(levels, 1)
    gaps = said[:, pair[0]] - said[:, pair[1]]
    n = len(gaps) + 2  # two more scenes, one on either side: no spread of zero where all scenes agree
    mean = gaps.sum(axis=0) / n
    error = np.sqrt((((gaps**2).sum(axis=0) + 2) / n - mean**2) / n)
    reach = t.isf(misses / 2 / len(mean), n - 1) * error
    return Interval(float(max(0.0, np.max(np.abs(mean) - reach))), float(min(1.0, np.max(np.abs(mean) + reach))))


def _chance_ranges(
    hits: NDArray, member: NDArray, scenes: NDArray, permutations: int, seed: int
) -> NDArray[np.float64]:
    """Ranges over levels in percent, (permutations, models), with levels shuffled among the images of each scene."""
    rng, ranges, group = np.random.default_rng([seed, 1]), [], np.unique(scenes, return_inverse=True)[1]
    right, levels = hits.T.astype(np.float32), member.astype(np.float32)  # counts: exact
    levels = levels[np.argsort(group, kind="stable")]
    for start in range(0, permutations, step := max(1, _SHUFFLED // len(right))):
        size = min(step, permutations - start)
        # sorting by scene plus a random fraction shuffles within each scene
        shuffled = np.argsort(group + rng.random((size, len(right))), axis=1)
        counts = np.einsum("pnm,nl->pml", right[shuffled], levels, optimize=True).astype(float)
        ranges.append(np.ptp(100 * counts / member.sum(axis=0), axis=2))
    return np.concatenate(ranges)
