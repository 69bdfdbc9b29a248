"""Effects of a controlled ablation: architecture, objective and training data of models trained alike but for these.

Every training run gives one value per quantity (a metric on a set), on the same test images. Two kinds of chance lie in
an effect, crossed: another seed would have given another run, and other images another value. Each factor is -1/2 at
its first level and +1/2 at its second, and every interaction is in the model: a main effect is a difference of means
over cells, a two-way interaction what the one factor does at the second level of the other minus what it does at the
first. Variance of an effect b = sum_r w_r y_r, with w its row of the pseudo-inverse of the design and C the covariance
over images of the runs' values (clustered where images share an origin):

    var(b) = sum_r w_r^2 s_r^2 + max(0, w'Cw - sum_r w_r^2 c_r)

s_r^2 is the variance between the seeds of the run's own cell: cells differ in it by up to twelve to one in standard
deviations, and no variance that they share would fit any of them (Welch 1947). It already holds the noise of images
that a single run adds, c_r (the mean of C within the cell, what all its runs share taken off); so does w'Cw, hence the
third term, the interaction of runs and images, is taken off once: MS_runs + MS_images - MS_interaction (Cornfield and
Tukey 1956; the quasi F of Clark 1973, "The language-as-fixed-effect fallacy"). Seeds that happen to lie closer than c_r
allows count as c_r. Noise that all runs share cancels in w'Cw. Degrees of freedom: Satterthwaite (1946), 2 to 8 for
three seeds per cell of a 2 x 2 if images add nothing. Under the spreads measured here these intervals cover 95 %, those
of one pooled variance 91 %, those of variances shrunk towards a common one (Smyth 2004) 88 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from scipy.stats import chi2, t

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve

ARCHITECTURE, OBJECTIVE, DIVERSITY = "architecture", "objective", "diversity"
TWO, THREE = (ARCHITECTURE, OBJECTIVE), (ARCHITECTURE, OBJECTIVE, DIVERSITY)
# Levels of each factor; an effect is the second minus the first.
LEVELS = {ARCHITECTURE: ("transformer", "convnet"), OBJECTIVE: ("supervised", "clip"), DIVERSITY: ("narrow", "broad")}
COLUMNS = ["term", "value", "ci_low", "ci_high", "p", "se", "se_seeds", "se_images", "df", "runs"]
ABOUT = (ARCHITECTURE, OBJECTIVE, "seed", "recipe", "training_set", "data", "samples_seen", "minutes", "device")
QUANTITY = ("dataset", "metric", "unit", "n", "clusters")
TRAINED_ON = {"train": "narrow", "train_broad": "broad"}
HOW = "python -m mini_world.train --recipe short --seed 1; python -m mini_world.ablation"


@dataclass(frozen=True)
class Measured:
    """What was measured of some training runs."""

    runs: pd.DataFrame  # a row per run: a column per factor, `seed`, any others
    quantities: pd.DataFrame  # a row per quantity: `dataset, metric, unit, n` (images), `clusters` (independent ones)
    values: NDArray[np.float64]  # (quantities, runs)
    covariance: NDArray[np.float64]  # (quantities, runs, runs) of the runs' values over images: `image_covariance`

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

    def keys(self) -> pd.DataFrame:
        """Which quantities: `dataset, metric, unit, n`, the last of independent images or groups of images."""
        return self.quantities[["dataset", "metric", "unit"]].assign(n=self.quantities.clusters)

    def cells(self, factors: Sequence[str]) -> Iterator[tuple[dict[str, str], NDArray[np.intp]]]:
        """Every cell: its levels, and the positions of its runs."""
        for names, at in self.runs.groupby(list(factors)).indices.items():
            yield dict(zip(factors, names, strict=True)), at


def image_covariance(values: ArrayLike, clusters: ArrayLike | None = None) -> NDArray[np.float64]:
    """Covariance, over the choice of images, of the means of several runs over the same images: (runs, runs).

    C_rs = G / (G - 1) * sum_g u_rg u_sg / n^2, where u_rg is the sum over the images of cluster g of the deviations of
    run r from its mean; with every image its own cluster, the sample covariance divided by n.

    `values` (runs, n) are per-image values whose mean is the metric; finite, of at least two clusters (n,).

    >>> image_covariance([[0, 1, 1, 0], [0, 1, 0, 0]]).round(4).tolist()
    [[0.0833, 0.0417], [0.0417, 0.0625]]
    """
    table = np.atleast_2d(np.asarray(values, float))
    if not np.isfinite(table).all():
        raise ValueError("per-image values must be finite")
    n = table.shape[1]
    index = np.arange(n) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    groups = int(index.max()) + 1
    if groups < 2:
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


def check_seeds(runs: pd.DataFrame, factors: Sequence[str], least: int = 2) -> None:
    """Raise an `InputError` that says what `seeds_lacking` found."""
    if lacking := seeds_lacking(runs, factors, least):
        raise InputError(lacking)


def single_values(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Effects without intervals, for which one run a cell is enough: rows `dataset, metric, unit, term, value`."""
    check_seeds(measured.runs, factors, least=1)
    weights, keys = effect_weights(measured.runs, factors), ["dataset", "metric", "unit"]
    wide = measured.quantities[keys].join(pd.DataFrame(measured.values @ weights.T.to_numpy(), columns=weights.index))
    return wide.melt(keys, var_name="term").dropna(subset=["value"]).reset_index(drop=True)


def effects(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Every effect on every quantity, as `contrasts`; at least two runs in every cell of the factors."""
    check_seeds(measured.runs, factors)
    return contrasts(measured, factors, effect_weights(measured.runs, factors))


def contrasts(measured: Measured, factors: Sequence[str], weights: pd.DataFrame) -> pd.DataFrame:
    """Weighted sums of runs, with 95 % intervals over seeds and images (see the module's text).

    `weights` (terms, runs) are the same for all runs of a cell of the factors, which has at least two. Quantities with
    a missing value in any run are left out. Returns `Measured.keys` and `COLUMNS`, per quantity one row per term;
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
    keys = measured.keys()
    table = keys.loc[keys.index.repeat(len(w))].reset_index(drop=True).assign(term=np.tile(weights.index, len(keys)))
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
    """Accuracy on shifted sets minus that on the clean set, run by run: what is left once accuracy itself is taken off.

    The sets hold different images, so their noise is independent. `scale` is `percent` (`accuracy_gap`, points) or
    `logit` (`log_odds_gap`, by the delta method; a run without a single right or wrong answer has none).
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
    total = measured
    for name, sets in groups.items():
        total = total + average(measured, sets, name) if len(sets) > 1 else total
    shifted = list(dict.fromkeys(one for name, sets in groups.items() for one in (*sets, *[name] * (len(sets) > 1))))
    return total + gaps(total, clean, shifted) + gaps(total, clean, shifted, "logit")


def seed_noise(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """How far runs of one cell lie apart that differ in their seed alone, on the same images.

    Rows of `Measured.keys`, the factors, the standard deviation `value` with its chi-square interval, and `df`. Seeds
    that lie closer than images on which single runs differ allow count as these do.
    """
    check_seeds(measured.runs, factors)
    between, images = (part**0.5 for part in cell_variances(measured, factors))
    parts = []
    for cell, at in measured.cells(factors):
        least, df = images[:, at[0]], len(at) - 1
        sd = np.maximum(between[:, at[0]], least)
        low, high = (sd * np.sqrt(df / chi2.ppf(q, df)) for q in (0.975, 0.025))
        parts.append(measured.keys().assign(**cell, value=sd, ci_low=np.maximum(low, least), ci_high=high, df=df))
    return pd.concat(parts, ignore_index=True)


def least_differences(noise: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """What a difference between two single runs has to exceed to be more than luck of their seeds.

    t sqrt(sd_a^2 + sd_b^2): two runs of equal expectation differ by less in 95 % of the cases. Degrees of freedom by
    Welch and Satterthwaite for two cells; two runs of the same cell share one estimate and its degrees of freedom.
    Rows `dataset, metric, unit, n, first, second` (cells, their levels joined by a space), `value`.
    """
    keys = ["dataset", "metric", "unit", "n"]
    cells = {" ".join(names): part for names, part in noise.groupby(list(factors), sort=False)}
    parts = []
    for first, second in combinations_with_replacement(cells, 2):
        both = cells[first].merge(cells[second][[*keys, "value", "df"]], on=keys, suffixes=("", "_b"))
        a, b = both.value**2, both.value_b**2
        freedom = both.df if first == second else (a + b) ** 2 / (a**2 / both.df + b**2 / both.df_b)
        least = t.ppf(0.975, freedom.fillna(both.df)) * np.sqrt(a + b)  # no spread at all: 0/0
        parts.append(both[keys].assign(first=first, second=second, value=least))
    return pd.concat(parts, ignore_index=True)


def cell_means(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds of every cell: `Measured.keys`, the factors, `value`, its interval over seeds and images."""
    parts = []
    for cell, at in measured.cells(factors):
        weights = np.zeros((1, len(measured.runs)))
        weights[0, at] = 1 / len(at)
        parts.append(contrasts(measured, factors, pd.DataFrame(weights)).assign(**cell))
    columns = ["dataset", "metric", "unit", "n", "value", "ci_low", "ci_high", *factors]
    return pd.concat(parts, ignore_index=True)[columns]


def guessing(targets: Sequence, classes: int) -> float:
    """Accuracy of guessing a class, percent; an image with several labels is guessed right by any of them."""
    return 100 * float(np.mean([np.unique(labels).size for labels in targets])) / classes


def at_chance(cells: pd.DataFrame, chance: Mapping[str, float]) -> pd.DataFrame:
    """Rows of `cell_means` whose accuracy cannot be told from guessing: their interval reaches down to `chance`.

    What such a cell loses under a shift says how good it was before, not how robust it is: nothing is left to lose.
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
    keys = ["recipe", DIVERSITY, *TWO]
    found = measured.runs.groupby(keys, sort=False).agg(
        seeds=("seed", "nunique"), samples=("samples_seen", "first"), minutes=("minutes", "mean"),
        device=("device", "first"),
    )  # fmt: skip
    order = {level: k for levels in LEVELS.values() for k, level in enumerate(levels)}
    by_level = {"key": lambda c: c.map(order).fillna(0) if c.name != "recipe" else c, "kind": "stable"}
    return found.reset_index().sort_values(keys, **by_level)
