"""What size and data go with, and which benchmarks say more than ImageNet does.

Frames are those of `reference.leaderboard`, accuracies in percent; see `metrics.landscape` for what the intervals mean.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from numpy.typing import NDArray
from scipy.special import expit, logit
from statsmodels.stats.outliers_influence import variance_inflation_factor

from beyond_accuracy.dimensions.landscape import bootstrap_models, interval, lineage

IMAGES = {
    "imagenet_1k": 50_000, "imagenet_real": 46_837, "imagenet_v2": 10_000, "imagenet_a": 7_500,
    "imagenet_r": 30_000, "imagenet_sketch": 50_889, "objectnet": 18_574,
}  # fmt: skip
# Guessing one class of CLEVR count (8), CLEVR distance (6) and KITTI distance (4), averaged, in percent.
STRUCTURED_CHANCE = 100 * (1 / 8 + 1 / 6 + 1 / 4) / 3
_LOGIT_FLOOR = 0.2  # percent: accuracies of 0 and 100 have no logit


# ------------------------------------------------------------------------------------------------------- CLIP scaling


def scaling_fit(frame: pd.DataFrame, y: str, sizes: Sequence[str], within: str | None = None) -> pd.DataFrame:
    """What one doubling of each size goes with: least squares of accuracy on log2 of the sizes.

    Args:
        frame: Models; rows without one of the sizes are left out.
        y: Benchmark column, percent.
        sizes: Columns whose log2 enters, e.g. ``("params_m", "pretrain_samples")``.
        within: Column with one intercept per value: only differences inside its groups count (same data, other size).

    Returns:
        Rows ``benchmark, term, value, ci_low, ci_high, p, r2, vif, n, groups``: slope per doubling, its 95 % interval
        from standard errors clustered by `lineage` (statsmodels), R^2 of the whole fit, the variance inflation of the
        term (above 5 the sizes can hardly be told apart), the number of models, and of groups that vary in the sizes.

    Raises:
        ValueError: If there are fewer than 10 models.
    """
    part = frame.dropna(subset=[y, *sizes]).copy()
    if within is not None:  # groups of one model, or without any difference in size, say nothing
        part = part[part.groupby(within)[list(sizes)].transform("nunique").max(axis=1) > 1]
    if len(part) < 10:
        raise ValueError(f"{len(part)} models with {y}, {', '.join(sizes)}: too few for a fit")
    for size in sizes:
        part[f"log2_{size}"] = np.log2(part[size].astype(float))
    terms = [f"log2_{size}" for size in sizes]
    formula = f"{y} ~ " + " + ".join([*terms, *([f"C({within})"] if within else [])])
    groups = pd.factorize(part[within] if within else lineage(part))[0]
    fit = smf.ols(formula, part).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    limits = fit.conf_int()
    names = list(fit.model.exog_names)
    rows = []
    for size, term in zip(sizes, terms, strict=True):
        vif = variance_inflation_factor(fit.model.exog, names.index(term)) if len(sizes) > 1 else 1.0
        low, high = limits.loc[term]
        rows.append((y, size, fit.params[term], low, high, fit.pvalues[term], fit.rsquared, vif, len(part)))
    table = pd.DataFrame(
        rows, columns=["benchmark", "term", "value", "ci_low", "ci_high", "p", "r2", "vif", "n"]
    )  # fmt: skip
    return table.assign(groups=len(np.unique(groups)))


# --------------------------------------------------------------------------------------------------- new information


def effective_robustness(board: pd.DataFrame, y: str, baseline: pd.Series, x: str = "imagenet_1k") -> pd.DataFrame:
    """How far each model lies above what its ImageNet accuracy predicts (Taori et al. 2020, Miller et al. 2021).

    A line logit(y) = a + b logit(x) is fitted to the baseline models; effective robustness is y minus the line.

    Args:
        board: Models.
        y: Shifted benchmark, percent.
        baseline: (n,) booleans: the models that define the line, e.g. supervised on ImageNet-1K only.
        x: Clean benchmark, percent.

    Returns:
        Frame on the index of ``board``: ``predicted`` and ``effective`` in points, ``extrapolated`` where x lies
        outside the baseline models' range; NaN where an accuracy is missing.
    """
    usable = board[x].notna() & board[y].notna()
    fitted = board[usable & baseline]
    if len(fitted) < 5:
        raise ValueError(f"{len(fitted)} baseline models with {x} and {y}: too few for a line")
    slope, intercept = np.polyfit(_logit(fitted[x]), _logit(fitted[y]), 1)
    predicted = 100 * expit(intercept + slope * _logit(board[x]))
    outside = ~board[x].between(fitted[x].min(), fitted[x].max())
    return pd.DataFrame({"predicted": predicted, "effective": board[y] - predicted, "extrapolated": outside})


def beyond_imagenet(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator, x: str = "imagenet_1k"
) -> pd.DataFrame:
    """How much of each benchmark ImageNet explains, and how much of the rest could be sampling noise.

    Returns:
        Rows ``benchmark, value, ci_low, ci_high, residual_points, noise_share, n``: ``value`` = R^2 of
        logit(benchmark) on logit(ImageNet); ``residual_points`` = typical distance from the line in points;
        ``noise_share`` = the largest part of the residual variance that drawing other test images could explain (an
        upper limit: all models see the same images, which cancels some of it). NaN where the size is unknown.
    """
    rows = []
    for y in columns:
        part = frame.dropna(subset=[x, y])
        a, b = _logit(part[x]).to_numpy(), _logit(part[y]).to_numpy()

        def statistic(i: NDArray[np.int64], a=a, b=b) -> list[float]:
            return [np.corrcoef(a[i], b[i])[0, 1] ** 2]

        groups = lineage(part)
        ends = interval(bootstrap_models(statistic, len(part), resamples, rng, groups)[:, 0], groups.nunique())
        slope, intercept = np.polyfit(a, b, 1)
        rest = b - intercept - slope * a
        points = float(np.sqrt(np.mean((part[y] - 100 * expit(intercept + slope * a)) ** 2)))
        noise = np.nan
        if y in IMAGES:
            variance = _logit_variance(part[y], IMAGES[y]) + slope**2 * _logit_variance(part[x], IMAGES[x])
            noise = min(1.0, float(variance.mean() / rest.var(ddof=2)))
        rows.append((y, statistic(np.arange(len(part)))[0], *ends, points, noise, len(part)))
    names = ["benchmark", "value", "ci_low", "ci_high", "residual_points", "noise_share", "n"]
    return pd.DataFrame(rows, columns=names)


def principal_components(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator, given: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Principal components of the benchmarks' standardised log-odds.

    Args:
        frame: Models; those that lack a benchmark are left out.
        columns: Benchmarks.
        resamples: Bootstrap resamples (of lineages) behind the intervals of the shares.
        rng: Source of randomness.
        given: Benchmark whose linear effect is removed first: what is left when ImageNet is known.

    Returns:
        ``shares``: rows ``component, value, ci_low, ci_high, n`` (share of variance), and ``loadings``: benchmarks x
        components, signs such that each component's largest loading is positive.
    """
    needed = [*columns, *([given] if given else [])]
    part = frame.dropna(subset=needed)
    table = np.column_stack([_logit(part[c]) for c in needed])

    def decompose(i: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = table[i]
        if given:
            design = np.column_stack([np.ones(len(i)), values[:, -1]])
            values = values[:, :-1] - design @ np.linalg.lstsq(design, values[:, :-1], rcond=None)[0]
        spread = values.std(axis=0)
        if np.any(spread == 0):
            return np.full(len(columns), np.nan), np.full((len(columns), len(columns)), np.nan)
        _, singular, axes = np.linalg.svd((values - values.mean(axis=0)) / spread, full_matrices=False)
        return singular**2 / np.sum(singular**2), axes

    shares, axes = decompose(np.arange(len(part)))
    groups = lineage(part)
    draws = bootstrap_models(lambda i: decompose(i)[0], len(part), resamples, rng, groups)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    names = [f"component {k + 1}" for k in range(len(shares))]
    rows = [(name, shares[k], *interval(draws[:, k], groups.nunique()), len(part)) for k, name in enumerate(names)]
    table_of_shares = pd.DataFrame(rows, columns=["component", "value", "ci_low", "ci_high", "n"])
    return table_of_shares, pd.DataFrame(axes.T, index=list(columns), columns=names)


def _logit(percent: pd.Series) -> pd.Series:
    return logit(percent.clip(_LOGIT_FLOOR, 100 - _LOGIT_FLOOR) / 100)


def _logit_variance(percent: pd.Series, images: int) -> pd.Series:
    """Sampling variance of the log-odds of an accuracy measured on so many images (delta method)."""
    share = percent.clip(_LOGIT_FLOOR, 100 - _LOGIT_FLOOR) / 100
    return 1 / (images * share * (1 - share))
