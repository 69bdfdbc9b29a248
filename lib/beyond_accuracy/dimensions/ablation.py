"""Effects of a controlled ablation: architecture, objective and training data of models trained alike but for these.

Every training run gives one value per quantity (a metric on a set). The runs of all seeds saw the same test images, so
two kinds of chance lie in an effect: another seed would have given another run, and other images another value. Both
are counted, as in any experiment in which two random factors, here runs and images, are crossed.

Coding: each factor is -1/2 at its first level and +1/2 at its second, and every interaction is in the model. Then, for
any number of seeds per cell,

- a main effect is the mean over the cells at the second level minus the mean over those at the first,
- a two-way interaction is the difference between two effects: what the one factor does at the second level of the
  other, minus what it does at the first (averaged over a third factor).

Variance of an effect b = sum_r w_r y_r, with w the effect's row of the pseudo-inverse of the design and C the
covariance over images of the runs' values (clustered where images share an origin):

    var(b) = sum_r w_r^2 s_r^2 + max(0, w'Cw - sum_r w_r^2 c_r)

s_r^2 is the variance between the seeds of the run's own cell: cells differ in it by up to twelve to one in standard
deviations, and no variance that they share would fit any of them (Welch 1947). It already holds the noise of images
that a single run adds, c_r (the mean of C within the cell, what all its runs share taken off); so does w'Cw, hence the
third term, the interaction of runs and images, is taken off once: MS_runs + MS_images - MS_interaction (Cornfield and
Tukey 1956; the quasi F of Clark 1973, "The language-as-fixed-effect fallacy"). Seeds that happen to lie closer than c_r
allows count as c_r. Noise that all runs share, an image that is hard for all, cancels in w'Cw. Degrees of freedom:
Satterthwaite (1946), 2 to 8 for three seeds per cell of a 2 x 2 if images add nothing.

Variances shrunk towards a common one (Smyth 2004) would need fewer seeds, but shrink the fickle cells most: under the
spreads measured here such intervals cover 88 %, those of one pooled variance 91 %, these 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.measure.stats import holm

LEVELS = {
    "architecture": ("transformer", "convnet"),
    "objective": ("supervised", "clip"),
    "diversity": ("narrow", "broad"),
}
"""Levels of each factor; an effect is the second minus the first."""

COLUMNS = ["term", "value", "ci_low", "ci_high", "p", "se", "se_seeds", "se_images", "df", "runs"]


@dataclass(frozen=True)
class Measured:
    """What was measured of some training runs.

    Attributes:
        runs: One row per run: a column per factor, and `seed`; any others.
        quantities: One row per quantity: `dataset, metric, unit, n` (images) and `clusters` (independent ones).
        values: (quantities, runs).
        covariance: (quantities, runs, runs): of the runs' values over images, see `image_covariance`.
    """

    runs: pd.DataFrame
    quantities: pd.DataFrame
    values: NDArray[np.float64]
    covariance: NDArray[np.float64]

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

    def position(self, dataset: str, metric: str) -> int:
        """Row of a quantity.

        Raises:
            InputError: It was not measured.
        """
        found = np.flatnonzero((self.quantities.dataset == dataset) & (self.quantities.metric == metric))
        if len(found) != 1:
            raise InputError(f"ablation: {metric} on {dataset} was not measured")
        return int(found[0])

    def __add__(self, other: Measured) -> Measured:
        """Further quantities of the same runs."""
        return Measured(
            self.runs,
            pd.concat([self.quantities, other.quantities], ignore_index=True),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.covariance, other.covariance]),
        )


def image_covariance(values: ArrayLike, clusters: ArrayLike | None = None) -> NDArray[np.float64]:
    """Covariance, over the choice of images, of the means of several runs over the same images.

    C_rs = G / (G - 1) * sum_g u_rg u_sg / n^2, where u_rg is the sum over the images of cluster g of the deviations of
    run r from its mean; with every image its own cluster, the sample covariance divided by n.

    Args:
        values: (runs, n) per-image values whose mean is the metric.
        clusters: (n,) cluster of each image.

    Returns:
        (runs, runs).

    Raises:
        ValueError: Fewer than two clusters, or values that are not finite.

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
    deviations = table - table.mean(axis=1, keepdims=True)
    sums = np.stack([np.bincount(index, row, groups) for row in deviations])
    return groups / (groups - 1) * (sums @ sums.T) / n**2


# ----------------------------------------------------------------------------------------------------------- the model


def design(runs: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Design matrix: constant, the factors at -1/2 and +1/2, and every interaction (`architecture:objective`).

    Raises:
        InputError: A level that is not one of `LEVELS`.
    """
    coded = {}
    for factor in factors:
        low, high = LEVELS[factor]
        if strange := set(runs[factor]) - {low, high}:
            raise InputError(f"ablation: {factor} is {low} or {high}, got {', '.join(sorted(map(str, strange)))}")
        coded[factor] = np.where(runs[factor] == high, 0.5, -0.5)
    matrix = pd.DataFrame({"constant": np.ones(len(runs))})
    for size in range(1, len(factors) + 1):
        for names in combinations(factors, size):
            matrix[":".join(names)] = np.prod([coded[name] for name in names], axis=0)
    return matrix


def check_seeds(runs: pd.DataFrame, factors: Sequence[str], least: int = 2) -> None:
    """Whether every cell has enough seeds for an interval.

    Raises:
        InputError: A cell has fewer than `least` runs, or the same seed twice; says how to get more.
    """
    if runs.duplicated([*factors, "seed"]).any():
        raise InputError("ablation: a seed occurs twice in a cell; the table mixes recipes of the same kind")
    cells = runs.groupby(list(factors)).size()
    for cell in product(*(LEVELS[factor] for factor in factors)):
        count = int(cells.get(cell, 0))
        if count < least:
            raise InputError(
                f"ablation: {', '.join(cell)}: {count} training run{'' if count == 1 else 's'}, intervals need at "
                f"least {least} seed{'' if least == 1 else 's'} in every cell. Train more (python -m mini_world.train "
                f"--recipe {'short_broad' if 'broad' in cell else 'short'} --seed 1), then write the table: python -m "
                "mini_world.ablation"
            )


def seeds_lacking(runs: pd.DataFrame, factors: Sequence[str], least: int = 2) -> str:
    """What `check_seeds` would say; empty if nothing lacks."""
    try:
        check_seeds(runs, factors, least)
    except InputError as error:
        return str(error)
    return ""


def single_values(measured: Measured, factors: Sequence[str]) -> pd.DataFrame:
    """Effects without intervals, which a single run per cell is enough for.

    Returns:
        Rows `dataset, metric, unit, term, value`.

    Raises:
        InputError: A cell has no run.
    """
    check_seeds(measured.runs, factors, least=1)
    matrix = design(measured.runs, factors)
    values = measured.values @ np.linalg.pinv(matrix.to_numpy()).T
    wide = measured.quantities[["dataset", "metric", "unit"]].join(pd.DataFrame(values, columns=matrix.columns))
    kept = wide.drop(columns="constant").melt(["dataset", "metric", "unit"], var_name="term")
    return kept.dropna(subset=["value"]).reset_index(drop=True)


def effects(measured: Measured, factors: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Every effect on every quantity, with intervals over seeds and images (see the module's text).

    Args:
        measured: At least two runs in every cell of the factors.
        factors: One or more of `LEVELS`.
        level: Of the intervals.

    Returns:
        As `contrasts`, a row per quantity and term.

    Raises:
        InputError: As `check_seeds`.
    """
    check_seeds(measured.runs, factors)
    matrix = design(measured.runs, factors)
    weights = pd.DataFrame(np.linalg.pinv(matrix.to_numpy()), index=matrix.columns).drop(index="constant")
    return contrasts(measured, factors, weights, level)


def contrasts(measured: Measured, factors: Sequence[str], weights: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Weighted sums of runs, with intervals over seeds and images (see the module's text).

    Args:
        measured: At least two runs in every cell of the factors.
        factors: What makes a cell.
        weights: (terms, runs), the same for all runs of a cell; the index names the terms.
        level: Of the intervals.

    Returns:
        Rows `dataset, metric, unit, n` and `COLUMNS`: per quantity one row per term. n: independent images, or groups
        of images that share an origin. `se_seeds`: standard error between seeds alone, `se_images`: what images add.
        Quantities with a missing value in any run are left out.
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
    reach = t.ppf((1 + level) / 2, freedom) * np.sqrt(total)
    estimates = (value, value - reach, value + reach, p, total**0.5, seeds.sum(axis=2) ** 0.5, added**0.5, freedom)
    keys = measured.quantities[["dataset", "metric", "unit"]].assign(n=units[:, 0])
    table = keys.loc[np.repeat(keys.index, len(w))].reset_index(drop=True)
    table["term"] = np.tile(weights.index, len(keys))
    for column, numbers in zip(COLUMNS[1:-1], estimates, strict=True):
        table[column] = numbers.ravel()
    return table.assign(runs=len(sizes))


def cell_variances(measured: Measured, factors: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance between the seeds of each run's cell, and the part of it that the choice of images makes.

    Args:
        measured: At least two runs in every cell.
        factors: What makes a cell.

    Returns:
        Two arrays (quantities, runs), equal within a cell.
    """
    same = _same_cell(measured.runs, factors)
    size = same.sum(axis=1)
    centred = np.eye(len(size)) - same / size
    squares = np.square(measured.values @ centred), np.einsum("ij,qji->qi", centred, measured.covariance)
    between, own = (part @ same / (size - 1) for part in squares)
    return between, np.maximum(own, 0)


def _same_cell(runs: pd.DataFrame, factors: Sequence[str]) -> NDArray[np.bool_]:
    cell = runs.groupby(list(factors)).ngroup().to_numpy()
    return cell[:, None] == cell


def corrected(
    table: pd.DataFrame, terms: Sequence[str] = (), by: str = "", alpha: float = 0.05, without: ArrayLike | None = None
) -> pd.DataFrame:
    """The effects of some terms with p-values corrected by Holm, and whether they are decided.

    Args:
        table: Rows of `effects`.
        terms: Which terms; all if empty.
        by: Column that parts the rows into tables, each corrected by itself; empty: all rows are one table.
        alpha: An effect is decided if its corrected p-value is below this.
        without: (rows of the table,) bool: rows on which there is no verdict; they do not count and have no p-value.

    Returns:
        The rows with `p_holm` and `decided`.
    """
    table = table if without is None else table.assign(p=table.p.mask(np.asarray(without, bool)))
    chosen = table[table.term.isin(list(terms))] if terms else table
    p_values = chosen.p.astype(float)
    if len(chosen):
        p_values = p_values.groupby(chosen[by] if by else 0 * p_values.fillna(0)).transform(holm)
    return chosen.assign(p_holm=p_values, decided=p_values < alpha).reset_index(drop=True)


# -------------------------------------------------------------------------------------------------------------- results


def as_results(table: pd.DataFrame, words: Mapping[str, str]) -> pd.DataFrame:
    """Effects as rows of the results schema (without `dimension`): the effect stands in the place of the model.

    Args:
        table: Rows of `effects`.
        words: Term -> its name there, e.g. `convnet_minus_transformer`.
    """
    shown = table[table.term.isin(list(words))]
    unit = shown.unit.replace("percent", "points")
    frame = shown.assign(metric="effect:" + shown.metric, model=shown.term.map(words), unit=unit)
    return frame[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]].reset_index(drop=True)
