"""Effects of a controlled ablation: architecture, objective and training data of models trained alike but for these.

First the statistics, then what the page says of them, in the words of `assets/ablation.yaml`.

Every training run gives one value per quantity (a metric on a set), on the same test images. Two kinds of chance lie in
an effect, crossed: another seed would have given another run, and other images another value. Each factor is -1/2 at
its first level and +1/2 at its second, and every interaction is in the model. Variance of an effect b = sum_r w_r y_r,
with w its row of the pseudo-inverse of the design and C the covariance over images of the runs' values:

    var(b) = sum_r w_r^2 s_r^2 + max(0, w'Cw - sum_r w_r^2 c_r)

s_r^2 is the variance between the seeds of the run's own cell (Welch 1947): cells differ in it by up to twelve to one in
standard deviations. It already holds the noise of images that a single run adds, c_r (the mean of C within the cell,
what all its runs share taken off); so does w'Cw, hence the third term: MS_runs + MS_images - MS_interaction (Cornfield
and Tukey 1956; the quasi F of Clark 1973, "The language-as-fixed-effect fallacy"). Seeds that happen to lie closer than
c_r allows count as c_r. Degrees of freedom: Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from scipy.stats import chi2, t

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import ASSETS, resolve
from beyond_accuracy.data.published import checkpoint_specs
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.verdicts import OPEN, joined
from beyond_accuracy.show import figures, results, theme
from beyond_accuracy.show.tables import format_interval

ARCHITECTURE, OBJECTIVE, DIVERSITY = "architecture", "objective", "diversity"
TWO, THREE = (ARCHITECTURE, OBJECTIVE), (ARCHITECTURE, OBJECTIVE, DIVERSITY)
# Levels of each factor; an effect is the second minus the first.
LEVELS = {ARCHITECTURE: ("transformer", "convnet"), OBJECTIVE: ("supervised", "clip"), DIVERSITY: ("narrow", "broad")}
COLUMNS = ["term", "value", "ci_low", "ci_high", "p", "se", "se_seeds", "se_images", "df", "runs"]
KEYS = ["dataset", "metric", "unit", "n"]
ABOUT = (ARCHITECTURE, OBJECTIVE, "seed", "recipe", "training_set", "data", "samples_seen", "minutes", "device")
QUANTITY = ("dataset", "metric", "unit", "n", "clusters")
TRAINED_ON = {"train": "narrow", "train_broad": "broad"}
HOW = "python -m mini_world.train --recipe short --seed 1; python -m mini_world.ablation"

WORDS = yaml.safe_load((ASSETS / "ablation.yaml").read_text(encoding="utf-8"))
NOUNS, EFFECTS, PANELS = WORDS["levels"], WORDS["effects"], WORDS["panels"]
# Effects that are judged, by what varies, in the order of the tables' columns.
TERMS = {TWO: (*TWO, f"{ARCHITECTURE}:{OBJECTIVE}")}
TERMS[THREE] = (DIVERSITY, f"{OBJECTIVE}:{DIVERSITY}", f"{ARCHITECTURE}:{DIVERSITY}", OBJECTIVE, ARCHITECTURE)
GAPS = ("accuracy_gap", "log_odds_gap")
RECORDED = list(results.RESULT_COLUMNS[1:])
NOTE = (
    " Accuracy there: lowest to highest mean of a cell. At chance: some cell cannot be told from guessing, no verdict."
)

# Looks of effects (three to a figure), of cells (those of the report's models) and of architectures.
_MARKS = 3 * [(theme.INK, "o"), ("#2f7ec0", "s"), ("#b3261e", "D")]
_SHOWN = {term: words["shown"] for term, words in EFFECTS.items() if "shown" in words}
_SHOWN_ENDS = {term + end: name + end for term, name in _SHOWN.items() for end in ("", "_low", "_high")}
LOOKS = {t: theme.ModelStyle(*mark, "-", "", name) for (t, name), mark in zip(_SHOWN.items(), _MARKS, strict=False)}
LOOKS |= {f"{spec.family}_{spec.paradigm}": theme.style(spec) for spec in checkpoint_specs()}
LOOKS |= {a: replace(LOOKS[f"{a}_supervised"], label=NOUNS[a]) for a in LEVELS[ARCHITECTURE]}
MEANS = {"renditions": "renditions (mean)", "pose_and_light": "pose and light (mean)"}


@dataclass(frozen=True)
class Measured:
    """What was measured of some training runs: Q quantities of R runs."""

    runs: pd.DataFrame  # a row per run: a column per factor, `seed`, any others
    quantities: pd.DataFrame  # a row per quantity: `dataset, metric, unit, n` (images), `clusters` (independent ones)
    values: NDArray[np.float64]  # (Q, R)
    covariance: NDArray[np.float64]  # (Q, R, R) of the runs' values over images: `image_covariance`

    def where(self, chosen: ArrayLike) -> Measured:
        """Some of the runs; `chosen` is (runs,) bool."""
        at = np.flatnonzero(np.asarray(chosen, bool))
        runs = self.runs.iloc[at].reset_index(drop=True)
        return replace(self, runs=runs, values=self.values[:, at], covariance=self.covariance[:, at][:, :, at])

    def only(self, chosen: ArrayLike) -> Measured:
        """Some of the quantities; `chosen` is (quantities,) bool."""
        at = np.flatnonzero(np.asarray(chosen, bool))
        quantities = self.quantities.iloc[at].reset_index(drop=True)
        return replace(self, quantities=quantities, values=self.values[at], covariance=self.covariance[at])

    def position(self, dataset: str, metric: str = "accuracy") -> int:
        """Row of a quantity; `InputError` if it was not measured."""
        found = np.flatnonzero((self.quantities.dataset == dataset) & (self.quantities.metric == metric))
        if len(found) != 1:
            raise InputError(f"ablation: {metric} on {dataset} was not measured")
        return int(found[0])

    def __add__(self, other: Measured) -> Measured:
        """Further quantities of the same runs."""
        quantities = pd.concat([self.quantities, other.quantities], ignore_index=True)
        values, covariance = ((getattr(self, part), getattr(other, part)) for part in ("values", "covariance"))
        return Measured(self.runs, quantities, np.concatenate(values), np.concatenate(covariance))

    @property
    def keys(self) -> pd.DataFrame:
        """Which quantities: `KEYS`, n that of independent images or groups of images."""
        return self.quantities[KEYS[:-1]].assign(n=self.quantities.clusters)

    def cells(self, factors: Sequence[str]) -> Iterator[tuple[dict[str, str], NDArray[np.intp]]]:
        """Every cell: its levels, and the positions of its runs."""
        for names, at in self.runs.groupby(list(factors)).indices.items():
            yield dict(zip(factors, names, strict=True)), at


def image_covariance(values: ArrayLike, clusters: ArrayLike | None = None) -> NDArray[np.float64]:
    """Covariance, over the choice of images, of the means of several runs over the same images: (runs, runs).

    C_rs = G / (G - 1) * sum_g u_rg u_sg / n^2, where u_rg is the sum over the images of cluster g of the deviations of
    run r from its mean. `values` (runs, n) are per-image values whose mean is the metric; finite, of at least two
    clusters (n,).

    >>> image_covariance([[0, 1, 1, 0], [0, 1, 0, 0]]).round(4).tolist()
    [[0.0833, 0.0417], [0.0417, 0.0625]]
    """
    table = np.atleast_2d(np.asarray(values, float))
    n = table.shape[1]
    if not np.isfinite(table).all():
        raise ValueError("per-image values must be finite")
    index = np.arange(n) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    if (groups := int(index.max()) + 1) < 2:
        raise ValueError("the covariance over images needs at least two clusters")
    sums = np.stack([np.bincount(index, row, groups) for row in table - table.mean(axis=1, keepdims=True)])
    return groups / (groups - 1) * (sums @ sums.T) / n**2


def effect_weights(runs: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """(terms, runs) weights of the runs in each effect; an interaction is called `architecture:objective`."""
    coded, matrix = {}, {"constant": np.ones(len(runs))}
    for factor in factors:
        low, high = LEVELS[factor]
        if strange := set(runs[factor]) - {low, high}:
            raise InputError(f"ablation: {factor} is {low} or {high}, got {', '.join(sorted(map(str, strange)))}")
        coded[factor] = np.where(runs[factor] == high, 0.5, -0.5)
    for size in range(1, len(factors) + 1):
        for names in combinations(factors, size):
            matrix[":".join(names)] = np.prod([coded[name] for name in names], axis=0)
    return pd.DataFrame(np.linalg.pinv(np.column_stack([*matrix.values()])), index=[*matrix]).drop(index="constant")


def seeds_lacking(runs: pd.DataFrame, factors: Sequence[str], least: int = 2) -> str:
    """What keeps the cells from an interval, and how to mend it; empty if every cell has `least` seeds."""
    if runs.duplicated([*factors, "seed"]).any():
        return "ablation: a seed occurs twice in a cell; the table mixes recipes of the same kind"
    cells = runs.groupby(list(factors)).size()
    for cell in product(*(LEVELS[factor] for factor in factors)):
        if (count := int(cells.get(cell, 0))) < least:
            return (
                f"ablation: {', '.join(cell)}: {count} training run{'' if count == 1 else 's'}, intervals need at "
                f"least {least} seed{'' if least == 1 else 's'} in every cell. Train more (python -m mini_world.train "
                f"--recipe {'short_broad' if 'broad' in cell else 'short'} --seed 1), then write the table: python -m "
                "mini_world.ablation"
            )
    return ""


def check_seeds(runs: pd.DataFrame, factors: Sequence[str]) -> None:
    """`InputError` that says what `seeds_lacking` found."""
    if lacking := seeds_lacking(runs, factors):
        raise InputError(lacking)


def single_values(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Effects without intervals, for which one run in every cell is enough: rows of `KEYS, term, value`."""
    weights = effect_weights(measured.runs, factors)
    wide = measured.keys.join(pd.DataFrame(measured.values @ weights.T.to_numpy(), columns=weights.index))
    return wide.melt(KEYS, var_name="term").dropna(subset=["value"])


def effects(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Every effect on every quantity, as `contrasts`; at least two runs in every cell of the factors."""
    check_seeds(measured.runs, factors)
    return contrasts(measured, factors, effect_weights(measured.runs, factors))


def contrasts(measured: Measured, factors: Sequence[str], weights: pd.DataFrame) -> pd.DataFrame:
    """Weighted sums of runs, with 95 % intervals over seeds and images (see the module's text).

    `weights` (terms, runs) are the same for all runs of a cell of the factors, which has at least two. Quantities with
    a missing value in any run are left out. Returns `KEYS` and `COLUMNS`, per quantity one row per term;
    `se_seeds` is the standard error between seeds alone, `se_images` what images add.
    """
    measured = measured.only(np.isfinite(measured.values).all(axis=1))
    w, squares = weights.to_numpy(), np.square(weights.to_numpy())
    sizes = _same_cell(measured.runs, factors).sum(axis=1)
    spread, own = cell_variances(measured, factors)
    seeds, held = np.maximum(spread, own)[:, None] * squares, own[:, None] * squares  # (quantities, terms, runs)
    images = np.einsum("ti,qij,tj->qt", w, measured.covariance, w)
    added = np.maximum(images - held.sum(axis=2), 0)
    total = seeds.sum(axis=2) + added
    per_cell = sizes / (sizes - 1)  # the sum over cells of (their part)^2 / df, written over runs
    units = measured.quantities.clusters.to_numpy()[:, None]
    of_images = (np.square(images) + np.square(held) @ per_cell) / (units - 1)
    value = measured.values @ w.T
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread at all: the interval is the value itself
        freedom = np.fmax(np.square(total) / (np.square(seeds) @ per_cell + of_images), (sizes - 1).min())
        p = np.where(total > 0, 2 * t.sf(np.abs(value) / np.sqrt(total), freedom), value == 0)
    reach = t.ppf(0.975, freedom) * np.sqrt(total)
    estimates = (value, value - reach, value + reach, p, total**0.5, seeds.sum(axis=2) ** 0.5, added**0.5, freedom)
    table = measured.keys.merge(weights.index.to_frame(index=False, name="term"), how="cross")
    columns = {name: numbers.ravel() for name, numbers in zip(COLUMNS[1:-1], estimates, strict=True)}
    return table.assign(**columns, runs=len(sizes))


def cell_variances(measured: Measured, factors: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(quantities, runs) variance between the seeds of each run's cell, and the part of it that images make."""
    same = _same_cell(measured.runs, factors)
    size = same.sum(axis=1)
    centred = np.eye(len(size)) - same / size
    squares = np.square(measured.values @ centred), np.einsum("ij,qji->qi", centred, measured.covariance)
    between, own = (part @ same / (size - 1) for part in squares)
    return between, np.maximum(own, 0)


def _same_cell(runs: pd.DataFrame, factors: Sequence[str]) -> NDArray[np.bool_]:
    cell = runs.groupby(list(factors)).ngroup().to_numpy()
    return cell[:, None] == cell


def average(measured: Measured, datasets: Sequence[str], name: str) -> Measured:
    """The mean accuracy on several sets of different images, as one quantity of the dataset `name`."""
    at = [measured.position(dataset) for dataset in datasets]
    about = measured.quantities.iloc[at]
    row = about.iloc[:1].assign(dataset=name, n=about.n.sum(), clusters=about.clusters.sum())
    covariance = measured.covariance[at].sum(axis=0) / len(at) ** 2
    return Measured(measured.runs, row, measured.values[at].mean(axis=0)[None], covariance[None])


def gaps(measured: Measured, clean: str, datasets: Iterable[str], scale: str = "percent") -> Measured:
    """Accuracy on shifted sets minus that on the clean set, run by run; the sets hold different images.

    `scale` is `percent` (`accuracy_gap`, points) or `logit` (`log_odds_gap`, by the delta method; a run without a
    single right or wrong answer has none).
    """
    at = [measured.position(dataset) for dataset in (clean, *datasets)]
    values, spreads = measured.values[at], measured.covariance[at]
    metric, unit = ("log_odds_gap", "log-odds") if scale == "logit" else ("accuracy_gap", "points")
    with np.errstate(divide="ignore", invalid="ignore"):
        if scale == "logit":
            slopes = 100 / (values * (100 - values))
            values, spreads = logit(values / 100), spreads * (slopes[:, :, None] * slopes[:, None])
        gap = values[1:] - values[0]
    about = measured.quantities.iloc[at[1:]].assign(metric=metric, unit=unit)
    return Measured(measured.runs, about, np.where(np.isfinite(gap), gap, np.nan), spreads[1:] + spreads[0])


def with_gaps(measured: Measured, clean: str, groups: Mapping[str, Sequence[str]]) -> Measured:
    """The quantities measured, the mean accuracy of each group of shifted sets, and every gap on both scales.

    A group (name of its mean -> sets) of one set has no mean.
    """
    total, shifted = measured, {}
    for name, sets in groups.items():
        shifted |= dict.fromkeys(sets)
        if len(sets) > 1:
            shifted[name], total = None, total + average(measured, sets, name)
    return total + gaps(total, clean, shifted) + gaps(total, clean, shifted, "logit")


def seed_noise(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Standard deviation between runs that differ in their seed alone (no less than images alone make runs differ).

    Rows of `KEYS`, the factors, `value` with its chi-square interval, and `df`.
    """
    check_seeds(measured.runs, factors)
    between, images = (part**0.5 for part in cell_variances(measured, factors))
    parts = []
    for cell, at in measured.cells(factors):
        least, df = images[:, at[0]], len(at) - 1
        sd = np.maximum(between[:, at[0]], least)
        low, high = (sd * np.sqrt(df / chi2.ppf(q, df)) for q in (0.975, 0.025))
        parts.append(measured.keys.assign(**cell, value=sd, ci_low=np.maximum(low, least), ci_high=high, df=df))
    return pd.concat(parts, ignore_index=True)


def least_differences(noise: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """What a difference between two single runs has to exceed to be more than luck of their seeds (95 %).

    t sqrt(sd_a^2 + sd_b^2), degrees of freedom by Welch and Satterthwaite; two runs of one cell share one estimate.
    Rows of `KEYS`, `first, second` (cells, their levels joined by a space), `value`.
    """
    cells = {" ".join(names): part for names, part in noise.groupby(list(factors), sort=False)}
    parts = []
    for first, second in combinations_with_replacement(cells, 2):
        both = cells[first].merge(cells[second][[*KEYS, "value", "df"]], on=KEYS, suffixes=("", "_b"))
        a, b = both.value**2, both.value_b**2
        freedom = both.df if first == second else (a + b) ** 2 / (a**2 / both.df + b**2 / both.df_b)
        least = t.ppf(0.975, freedom.fillna(both.df)) * np.sqrt(a + b)  # no spread at all: 0/0
        parts.append(both[KEYS].assign(first=first, second=second, value=least))
    return pd.concat(parts, ignore_index=True)


def cell_means(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds of every cell: `KEYS`, the factors, `value`, its interval over seeds and images."""
    parts = []
    for cell, at in measured.cells(factors):
        weights = np.zeros((1, len(measured.runs)))
        weights[0, at] = 1 / len(at)
        parts.append(contrasts(measured, factors, pd.DataFrame(weights)).assign(**cell))
    return pd.concat(parts, ignore_index=True)[[*KEYS, "value", "ci_low", "ci_high", *factors]]


def guessing(targets: Sequence, classes: int) -> float:
    """Accuracy of guessing a class, percent; an image with several labels is guessed right by any of them."""
    return 100 * float(np.mean([np.unique(labels).size for labels in targets])) / classes


def at_chance(cells: pd.DataFrame, chance: Mapping[str, float]) -> pd.DataFrame:
    """Rows of `cell_means` whose accuracy cannot be told from guessing: such a cell has nothing to lose under a shift.

    `chance` is dataset -> accuracy of guessing, percent; other datasets are left out.
    """
    rows = cells[(cells.metric == "accuracy") & cells.dataset.isin(list(chance))]
    rows = rows.assign(chance=rows.dataset.map(chance).astype(float))
    return rows[rows.ci_low <= rows.chance].reset_index(drop=True)


def covariance_path(table: Path) -> Path:
    """Where the covariance of a table of runs lies: per quantity the lower triangle of (runs, runs)."""
    return table.with_name(f"{table.stem}_covariance.csv")


def read_runs(path: Path | str) -> Measured:
    """All runs of a table that `python -m mini_world.ablation` wrote, with the factors of `LEVELS`."""
    table = resolve(path)
    for file in (table, covariance_path(table)):
        if not file.is_file():
            raise DataMissing(f"{file}: no table of training runs; make it with: {HOW}")
    frame = pd.read_csv(table)
    if missing := {"run", "value", *ABOUT, *QUANTITY} - set(frame.columns):
        raise InputError(f"{table}: missing columns {', '.join(sorted(missing))}; write it anew: {HOW}")
    if frame.duplicated(["run", "dataset", "metric"]).any():
        raise InputError(f"{table}: a run has two rows for the same dataset and metric; write it anew: {HOW}")
    runs = frame.drop_duplicates("run")[["run", *ABOUT]].reset_index(drop=True)
    runs[DIVERSITY] = runs.training_set.map(TRAINED_ON)
    # n of the shape bias differs between runs (decided images); the first run stands for all.
    quantities = frame.drop_duplicates(["dataset", "metric"])[list(QUANTITY)].reset_index(drop=True)
    keys = pd.MultiIndex.from_frame(quantities[["dataset", "metric"]])
    values = frame.pivot(index=["dataset", "metric"], columns="run", values="value").loc[keys, runs.run].to_numpy(float)
    return Measured(runs, quantities, values, _covariance(covariance_path(table), keys, list(runs.run)))


def _covariance(path: Path, keys: pd.MultiIndex, runs: list[str]) -> NDArray[np.float64]:
    frame = pd.read_csv(path).set_index(["dataset", "metric", "run"])
    expected = pd.MultiIndex.from_tuples([(*key, run) for key in keys for run in runs])
    if set(runs) - set(frame.columns) or not expected.isin(frame.index).all():
        raise InputError(f"{path}: other runs or metrics than the table beside it; write both anew: {HOW}")
    lower = frame.loc[expected, runs].to_numpy(float).reshape(len(keys), len(runs), len(runs))
    lower = np.tril(np.nan_to_num(lower))
    return lower + np.tril(lower, -1).transpose(0, 2, 1)


def recipe_runs(measured: Measured, recipe: str, factors: Sequence[str] = ()) -> Measured:
    """Runs of one recipe; `DataMissing` if there are none, `InputError` if a cell of the factors lacks seeds."""
    chosen = measured.runs.recipe == recipe
    if not chosen.any():
        raise DataMissing(f"ablation: no runs of recipe {recipe}; make them with: {HOW.replace('short', recipe)}")
    if factors:
        check_seeds(measured.runs[chosen], factors)
    return measured.where(chosen)


def describe(measured: Measured) -> pd.DataFrame:
    """What the runs cost: `recipe, diversity, architecture, objective, seeds, samples, minutes` (mean), `device`."""
    runs = measured.runs.astype({factor: pd.CategoricalDtype(levels) for factor, levels in LEVELS.items()})
    found = runs.groupby(["recipe", DIVERSITY, *TWO], observed=True).agg(
        seeds=("seed", "nunique"), samples=("samples_seen", "first"), minutes=("minutes", "mean"),
        device=("device", "first"),
    )  # fmt: skip
    return found.reset_index().astype(dict.fromkeys(LEVELS, object))


# What the page says --------------------------------------------------------------------------------------------------


def labelled(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Rows of the page's quantities with `panel` and `row` for readers, fractions as points; others are left out."""
    about = [
        (panel["title"], row.format(title), metric, name)
        for panel in PANELS.values() for metric, row in panel["rows"].items() for name, title in titles.items()
        if (metric, name) != ("accuracy", "world_cue")  # its two cues are told apart by shape bias
    ]  # fmt: skip
    kept = pd.DataFrame(about, columns=["panel", "row", "metric", "dataset"]).merge(table, on=["metric", "dataset"])
    numbers = kept.columns.intersection(["value", "ci_low", "ci_high"])
    kept[numbers] = kept[numbers].mul(np.where(kept["unit"] == "fraction", 100.0, 1.0), axis=0)
    return kept.assign(unit=kept["unit"].replace(["fraction", "percent"], "points"))


@dataclass(frozen=True)
class Answers:
    """Effects of some factors, judged panel by panel."""

    effects: pd.DataFrame  # labelled, with `p_holm, verdict`; `hollow` where open
    recorded: pd.DataFrame  # rows of the results schema
    cells: pd.DataFrame  # `cell_means`
    guessing: pd.DataFrame  # `at_chance`
    silent: set[str]  # sets, and means over sets, on whose gaps there is no verdict: a cell guesses
    titles: Mapping[str, str]
    groups: Mapping[str, Sequence[str]]
    lacking: str  # what keeps the effects from being computed

    def sets(self, *panels: str, about: str = "") -> pd.DataFrame:
        """Effects on single sets in some panels, for figures; `about` is part of the effects' names."""
        titles = [PANELS[name]["title"] for name in panels]
        rows = self.effects[self.effects["panel"].isin(titles) & ~self.effects["dataset"].isin(list(self.groups))]
        return rows[rows["term"].str.contains(about)]

    def figure(self, page, name: str, caption: str, *panels: str, about: str = "") -> None:
        """Draw the effects on single sets."""
        look = {"y": "row", "xlabel": "difference", "panel": "panel", "free": True, "line": 0, "stripes": True}
        page.draw(figures.dots, self.sets(*panels, about=about), name, caption, **look, styles=LOOKS)

    def tables(self, page, name: str, of: str = "") -> None:
        """A table per panel: a row per quantity, a column with its interval per effect, p of each in the last one."""
        for slug, panel in PANELS.items():
            mine = self.effects[self.effects["panel"] == panel["title"]]
            if mine.empty:
                continue
            terms = TERMS[THREE if (mine["term"] == DIVERSITY).any() else TWO]
            shown = tidy.pivot(mine, "row", "term", terms).rename(columns=_SHOWN_ENDS | {"row": "on"})
            if note := NOTE * bool(mine["metric"].isin(GAPS).all()):
                means = self.cells[self.cells["metric"] == "accuracy"].groupby("dataset")["value"]
                ends = means.agg(["min", "max"]).loc[mine.drop_duplicates("row")["dataset"]].to_numpy()
                shown.insert(1, "accuracy there (%)", [f"{low:.1f} to {high:.1f}" for low, high in ends])
            p_values = mine.pivot(index="row", columns="term", values="p_holm").loc[shown["on"], list(terms)]
            shown["p (Holm)"] = [" · ".join(map(_p_text, values)) for values in p_values.to_numpy()]
            what = "effects, averaged over the other factors, with 95 % intervals; p of each by Holm over this table."
            formats = dict.fromkeys(_SHOWN.values(), "+.2f" if slug == "gap-log-odds" else "+.1f")
            caption = f"{panel['caption']}{of}: {what}{note}"
            page.table(shown, f"{name}-{slug}", caption, formats=formats)
        if len(weak := self.guessing):
            weak = weak.assign(on=weak["dataset"].map(self.titles), cell=list(map(cell_name, weak.to_dict("records"))))
            shown = weak[["on", "cell", "value", "ci_low", "ci_high", "chance"]]
            caption = f"Cells that cannot be told from guessing{of}: mean accuracy over seeds, and guessing's, percent."
            page.table(shown, f"{name}-at-chance", caption, decimals=1)

    def statement(self, term: str) -> str:
        """What one factor does to accuracy: on which sets it is decided, with numbers, and on which not."""
        rows = self.sets("accuracy").query("term == @term")
        words = [", ".join(f"{row['row']} {_number(row)}" for row in rows[~rows["hollow"]].to_dict("records"))]
        if rows["hollow"].any():
            words.append(f"undecided on {joined(rows.loc[rows['hollow'], 'row'].tolist())}")
        return f"{EFFECTS[term]['said']}, all else equal (points): {'; '.join(filter(None, words))}."

    def claim(self, term: str) -> str:
        """What one factor does to accuracy where it does most, of the sets on which it is decided."""
        rows = self.sets("accuracy").query("term == @term and not hollow").sort_values("value", key=abs)
        most = rows.tail(1).to_dict("records")
        return "".join(f"{EFFECTS[term]['said']}: {_number(row)} points on {row['row']}" for row in most)

    def robustness(self, name: str, shift: str, clean: str) -> str:
        """What brings accuracy under a shift closer to clean accuracy, beside what it does to that accuracy itself.

        Where a cell guesses there is no verdict. `name` is the mean over the shifted sets, `shift` and `clean` are
        names for readers.
        """
        start, words = f"{shift[0].upper()}{shift[1:]}", []
        if name in self.silent:
            weak = self.guessing[self.guessing["dataset"].isin(self.groups[name])]
            for dataset, rows in weak.groupby("dataset", sort=False):
                found = [f"{cell_name(row)} {_number(row, '.1f')} %" for row in rows.to_dict("records")]
                words.append(f"{self.titles[dataset]} (chance {rows['chance'].iloc[0]:.1f} %) by {joined(found)}")
            return f"{start}: no verdict on robustness, for some cells guess: {'; '.join(words)}."
        rows = self.effects[self.effects["dataset"] == name]
        for term in [term for term in TWO + THREE[2:] if (rows["term"] == term).any()]:
            mine = rows[rows["term"] == term].set_index("metric")
            there, points, odds = (mine.loc[metric] for metric in ("accuracy", *GAPS))
            said = f"{EFFECTS[term]['said']} {robustness_verdict(there, points, odds)}"
            gaps = f"relative to {clean} {_number(points)} points, {_number(odds)} in log-odds"
            words.append(f"{said} (accuracy there {_number(there)} points; {gaps})")
        return f"{start}: {'; '.join(words)}."


def answer(
    measured: Measured, factors: Sequence[str], titles: Mapping[str, str], groups: Mapping[str, Sequence[str]],
    chance: Mapping[str, float],
) -> Answers:  # fmt: skip
    """Effects of the factors (`TWO` or `THREE`), judged over each panel; none where cells lack seeds.

    `measured` has gaps. `titles` are those of the datasets, others are left out; `groups` the shifted sets by the name
    of their mean; `chance` the accuracy of guessing on each dataset, percent.
    """
    fitted, cells = pd.DataFrame(columns=[*KEYS, *COLUMNS]), pd.DataFrame(columns=[*KEYS, "value", "ci_low"])
    if not (lacking := seeds_lacking(measured.runs, factors)):
        fitted, cells = effects(measured, factors), cell_means(measured, factors)
    weak = at_chance(cells, chance)
    silent = set(weak["dataset"])
    silent |= {name for name, sets in groups.items() if silent & set(sets)}
    table = labelled(fitted[fitted["term"].isin(TERMS[tuple(factors)])], titles)
    mute = table["metric"].isin(GAPS) & table["dataset"].isin(silent)
    table["row"] = table["row"].mask(mute, table["row"] + " (at chance)")
    table = verdicts.judge(table.assign(p=table["p"].astype(float).mask(mute), family=table["panel"]))
    table = table.assign(model=table["term"], hollow=table["verdict"] == OPEN)
    told = fitted[~(fitted["metric"].isin(GAPS) & fitted["dataset"].isin(silent))]
    told = told[told["term"].str.contains(DIVERSITY if DIVERSITY in factors else "")]
    names = told["term"].map(lambda term: EFFECTS[term]["recorded"])
    told = told.assign(metric="effect:" + told["metric"], model=names, unit=told["unit"].replace("percent", "points"))
    return Answers(table, told[RECORDED], cells, weak, silent, titles, groups, lacking)


def robustness_verdict(there: pd.Series, points: pd.Series, odds: pd.Series) -> str:
    """What effects on the accuracy under a shift and on both gaps say; each with `value` and `hollow`.

    A gap in points shrinks for less accurate models by arithmetic alone, one in log-odds less so: what holds on one
    scale only is undecided. Robustness is what accuracy under the shift itself bears out: where that goes the other
    way or is undecided, the loss alone is told.
    """
    if points["hollow"] or odds["hollow"] or np.sign(points["value"]) != np.sign(odds["value"]):
        return "is undecided"
    less, better = points["value"] > 0, there["value"] > 0
    lost = f"loses {'less' if less else 'more'}"
    if there["hollow"]:
        return f"{lost}, while accuracy there is undecided"
    if less != better:
        return f"is {'more' if better else 'less'} accurate there, but {lost}"
    return "brings robustness" if less else "costs robustness"


def robustness_sentences(asked: Mapping[str, Answers], clean: str) -> Iterator[str]:
    """What brings robustness to renditions, and to pose and light; of the first answers in `asked` that may tell."""
    for name in MEANS:
        for data, answers in asked.items():
            if not answers.lacking:
                yield answers.robustness(name, ", ".join(filter(None, (MEANS[name], data))), answers.titles[clean])
                if name not in answers.silent:
                    break


def cell_name(row: Mapping[str, str]) -> str:
    """A cell's name: "ViT, CLIP", with its data where the row has them."""
    data = f" on {row[DIVERSITY]} data" if DIVERSITY in row else ""
    return f"{NOUNS[row[ARCHITECTURE]]}, {NOUNS[row[OBJECTIVE]]}{data}"


def _number(row: Mapping, spec: str = "") -> str:
    spec = spec or ("+.2f" if row["unit"] == "log-odds" else "+.1f")
    return format_interval(row["value"], row["ci_low"], row["ci_high"], spec)


def _p_text(p: float) -> str:
    return "–" if pd.isna(p) else "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.3f}".lstrip("0")


def accuracies(measured: Measured, sets: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Accuracy of every run on these sets, percent; `model` is its levels of the factors `by`."""
    runs, model = measured.runs, measured.runs[list(by)].agg("_".join, axis=1)
    parts = [runs.assign(dataset=name, value=measured.values[measured.position(name)], model=model) for name in sets]
    return pd.concat(parts or [runs.iloc[:0]], ignore_index=True)


def own_models(recorded: pd.DataFrame, specs: Iterable, titles: Mapping[str, str]) -> pd.DataFrame:
    """Accuracies of a profile's own models that are cells, of what other pages recorded: rows for `slopes`."""
    cells = {spec.name: kind for spec in specs if "_".join(kind := (spec.family, spec.paradigm)) in LOOKS}
    rows = recorded[(recorded["metric"] == "accuracy") & recorded["model"].isin(cells)]
    rows = rows[rows["dataset"].isin(titles)].drop_duplicates(["dataset", "model"])
    kind = rows["model"].map(cells)
    return rows.assign(dataset=rows["dataset"].map(titles), model=kind.str[0], objective=kind.str[1])


def slopes(
    frame: pd.DataFrame, factor: str, styles: Mapping[str, theme.ModelStyle], own: pd.DataFrame | None = None
) -> figures.Drawn:
    """The two levels of a factor side by side, a line per model, every training run (a row with the factor) a point.

    Rows of the report's `own` models are stars.
    """
    looks, places = figures.used(styles, frame), {level: k for k, level in enumerate(LEVELS[factor])}
    fig, axes = figures.panels(list(dict.fromkeys(frame["dataset"])), 2.4, 2)
    for title, ax in axes.items():
        for k, (name, look) in enumerate(looks.items()):
            aside = 0.14 * (k - (len(looks) - 1) / 2)
            mine = frame[(frame["dataset"] == title) & (frame["model"] == name)]
            color = {"color": look.color, "markerfacecolor": look.markerfacecolor}
            at, beside = mine[factor].map(places).astype(float) + aside, 0.07 * np.sign(aside)
            ax.plot(at + beside, mine["value"], look.marker, **color, markersize=4.2, markeredgewidth=0.9, alpha=0.75)
            means = mine.groupby(factor)["value"].mean().reindex(list(places))
            line = {"linestyle": look.linestyle, "marker": look.marker, "markersize": 8, "markeredgewidth": 1.6}
            ax.plot(np.arange(2) + aside, means, **color, **line, label=look.label)
            if own is not None:
                stars = own[(own["dataset"] == title) & (own["model"] == name)]
                star = {"color": look.color, "markersize": 11, "markeredgecolor": theme.INK, "markeredgewidth": 0.8}
                ax.plot(stars[factor].map(places).astype(float) + 4 * aside, stars["value"], "*", **star)
        theme.category_axis(ax, [NOUNS.get(level, level) for level in places], "v")
        ax.margins(y=0.12)
    first = next(iter(axes.values()))
    first.plot([], [], "o", color=theme.GREY, markersize=4.5, label="one training run")
    if own is not None and len(own):
        first.plot([], [], "*", color="white", markeredgecolor=theme.INK, markersize=11, label="this report's models")
    fig.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    means = frame.groupby(["dataset", "model", factor], sort=False)["value"].mean().reset_index()
    words = figures.spell(means, ["dataset", "model", factor], figures.labels_of(looks) | NOUNS, ".1f")
    return fig, f"Accuracy of every run in percent; means over seeds: {words}."


def seed_rows(noise: pd.DataFrame) -> pd.DataFrame:
    """The spread over seeds as rows of the results schema, a row per cell."""
    rows = noise[noise["value"].notna()]
    cell, unit = rows[ARCHITECTURE] + "_" + rows[OBJECTIVE], rows["unit"].replace("percent", "points")
    return rows.assign(metric="seed_sd:" + rows["metric"], model=cell, unit=unit)[RECORDED]


def seed_table(noise: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """The spread over seeds for readers: a row per quantity, a column with its interval per cell."""
    rows = labelled(noise[(noise["metric"] != "log_odds_gap") & ~noise["dataset"].isin(list(MEANS))], titles)
    rows = rows.assign(cell=list(map(cell_name, rows.to_dict("records"))))
    return tidy.pivot(rows.rename(columns={"panel": "measure", "row": "quantity"}), ["measure", "quantity"], "cell")


def least_table(noise: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """What the accuracies of two single runs have to differ by, points: a row per pair of cells, a column per set."""
    noise = noise[(noise["metric"] == "accuracy") & ~noise["dataset"].isin(list(MEANS))]
    least = labelled(least_differences(noise, TWO), titles)
    cells = least[["first", "second"]].map(lambda cell: ", ".join(NOUNS[level] for level in cell.split()))
    two = "two of " + cells["first"], cells["first"] + " and " + cells["second"]
    least["two single runs"] = np.where(least["first"] == least["second"], *two)
    wide = least.pivot(index="two single runs", columns="row", values="value")
    return wide.loc[least["two single runs"].unique(), least["row"].unique()].rename_axis(columns=None).reset_index()


def seed_sentence(least: pd.DataFrame, seeds: pd.Series, clean: str) -> str:
    """How large a difference between two single runs has to be, by rows of `least_table` and the seeds per cell."""
    same = least[least["two single runs"].str.startswith("two of ")].sort_values(clean)
    names = [f"{value:.1f} ({name[7:]})" for name, value in zip(same["two single runs"], same[clean], strict=True)]
    counts = " to ".join(map(str, sorted({seeds.min(), seeds.max()})))
    return (
        "To be told from luck of the seed (95 %), two single runs of a cell of the ablation have to differ by "
        f"{joined(names)} points on {clean}, bounds that allow for being estimated from {counts} seeds per cell: a "
        "smaller difference between two single runs of this length may be luck, whatever its interval over images."
    )


def beside_longer(answers: Answers, runs: Measured, longer: Measured) -> pd.DataFrame:
    """Effects on accuracies and log-odds gaps beside those of single runs with another budget, where these exist."""
    if seeds_lacking(longer.runs, TWO, least=1):
        return pd.DataFrame()
    names = [f"{part.runs['samples_seen'].iloc[0]:,} samples" for part in (runs, longer)]
    keys, alone = ["dataset", "metric", "term"], labelled(single_values(longer, TWO), answers.titles)
    both = answers.sets("accuracy", "gap-log-odds").merge(alone[[*keys, "value"]], on=keys, suffixes=("", "_longer"))
    columns = dict(zip(("value", "ci_low", "ci_high"), (names[0] + end for end in ("", "_low", "_high")), strict=True))
    both = both.assign(effect=both["term"].map(_SHOWN)).rename(columns=columns | {"value_longer": names[1]})
    both = both.rename(columns={"panel": "measure", "row": "on"})
    return both[["measure", "on", "effect", *columns.values(), names[1]]]
