"""What size and data go with, and which benchmarks say more than ImageNet does.

Frames are those of `published.leaderboard`, accuracies in percent; see `landscape` for what the intervals mean.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from numpy.typing import NDArray
from scipy.special import expit
from statsmodels.stats.outliers_influence import variance_inflation_factor

from beyond_accuracy.data.published import paper
from beyond_accuracy.dimensions import landscape
from beyond_accuracy.dimensions.landscape import ROBUSTNESS, ZERO_SHOT, estimated, readable
from beyond_accuracy.measure.stats import odds
from beyond_accuracy.show.tables import format_interval

IMAGES = {
    "imagenet_1k": 50_000, "imagenet_real": 46_837, "imagenet_v2": 10_000, "imagenet_a": 7_500,
    "imagenet_r": 30_000, "imagenet_sketch": 50_889, "objectnet": 18_574,
}  # fmt: skip
# Guessing one class of CLEVR count (8), CLEVR distance (6) and KITTI distance (4), averaged, in percent.
STRUCTURED_CHANCE = 100 * (1 / 8 + 1 / 6 + 1 / 4) / 3
SIZES = ("params_m", "pretrain_samples", "samples_seen")
Parts = dict[str, tuple[pd.DataFrame, Sequence[str]]]  # name of a set of models -> models, benchmarks
RANKS = {"x": "a", "y": "b", "panel": "models", "label": "rank correlation", "free": True}
LOADINGS = {"x": "benchmark", "y": "component", "label": "loading", "limits": (-1, 1), "cmap": "PuOr_r"}


def scaling_fit(frame: pd.DataFrame, y: str, sizes: Sequence[str], within: str | None = None) -> pd.DataFrame:
    """What one doubling of each size goes with: least squares of accuracy on log2 of the sizes.

    `within` is a column with one intercept per value: only differences inside its groups count (same data, other size).
    Rows without one of the sizes are left out, fewer than 10 raise a `ValueError`.

    Returns:
        Rows `benchmark, term, value, ci_low, ci_high, p, r2, vif, n, groups`: slope per doubling with errors clustered
        by `lineage`, R^2 of the whole fit, the variance inflation of the term (above 5 the sizes can hardly be told
        apart), the number of models, and of groups that vary in the sizes.
    """
    part = frame.dropna(subset=[y, *sizes])
    if within is not None:  # groups of one model, or without any difference in size, say nothing
        part = part[part.groupby(within)[list(sizes)].transform("nunique").max(axis=1) > 1]
    if len(part) < 10:
        raise ValueError(f"{len(part)} models with {y}, {', '.join(sizes)}: too few for a fit")
    terms = [f"np.log2({size})" for size in sizes]
    groups = pd.factorize(part[within] if within else landscape.lineage(part))[0]
    model = smf.ols(f"{y} ~ {' + '.join([*terms, *[f'C({within})'] * bool(within)])}", part)
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    vif = [variance_inflation_factor(model.exog, model.exog_names.index(term)) for term in terms]
    columns = {"value": fit.params, "ci_low": fit.conf_int()[0], "ci_high": fit.conf_int()[1], "p": fit.pvalues}
    table = pd.DataFrame({"benchmark": y, "term": sizes} | {name: c[terms].to_numpy() for name, c in columns.items()})
    return table.assign(r2=fit.rsquared, vif=vif if len(sizes) > 1 else 1.0, n=len(part), groups=len(np.unique(groups)))


def scaling_fits(clip: pd.DataFrame, least: int) -> pd.DataFrame:
    """Points per doubling of size and data on every benchmark: all models, and those with at least so many pairs."""
    few = f"at least {least / 1e6:,.0f} million pairs"
    samples = {"all CLIP models": clip, few: clip[clip.pretrain_samples >= least]}
    fits = pd.concat(
        scaling_fit(part, y, SIZES[:2]).assign(models=name) for name, part in samples.items() for y in ZERO_SHOT
    )
    counts = fits.groupby("models", sort=False).n.first()
    return fits.assign(panel=fits.models + fits.models.map(lambda name: f" (n = {counts[name]})"))


def scaling_designs(clip: pd.DataFrame) -> pd.DataFrame:
    """Points per doubling on ImageNet-R under five designs: which quantities enter, and what is held constant."""
    designs = {
        "size and data": (SIZES[:2], None),
        "size, data and samples seen": (SIZES, None),
        "size within the same data": (SIZES[:1], "pretrain_data"),
        "data within the same architecture": (SIZES[1:2], "architecture"),
        "samples seen within the same architecture": (SIZES[2:], "architecture"),
    }
    part = clip.assign(architecture=clip.model.str.split("/").str[0].str.replace("-quickgelu", ""))
    fits = [scaling_fit(part, "imagenet_r", *design).assign(design=name) for name, design in designs.items()]
    table = readable(pd.concat(fits))[["design", "term", "value", "ci_low", "ci_high", "vif", "r2", "n", "groups"]]
    return table.rename(columns={"vif": "variance inflation", "r2": "R²"})


def scaling_sentence(fits: pd.DataFrame, clip: pd.DataFrame, least: int) -> str:
    """What goes with size and data on ImageNet-R, and how little the data can be told from the samples seen."""
    together = np.log2(clip[list(SIZES)].dropna()).corr().loc["pretrain_samples", "samples_seen"]
    by_models = fits[fits.benchmark == "imagenet_r"].groupby("models", sort=False)
    whole, less = (part.set_index("term") for _, part in by_models)
    return (
        f"CLIP: on ImageNet-R, a doubling of the data goes with {whole.value['pretrain_samples']:.1f} points and a "
        f"doubling of the model with {whole.value['params_m']:.1f} (R² {whole.r2.iloc[0]:.2f}, n = {whole.n.iloc[0]}), "
        f"but data and samples seen correlate at {together:.2f} (logarithms) and can hardly be told apart; from "
        f"{least / 1e6:,.0f} million pairs on, a doubling goes with {less.value['pretrain_samples']:.1f} points."
    )


def beyond_imagenet(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """How much of each benchmark ImageNet explains, and how much of the rest could be sampling noise.

    Returns:
        Rows `benchmark, value, ci_low, ci_high, n, residual_points, noise_share`: `value` = R^2 of logit(benchmark) on
        logit(ImageNet); `residual_points` = typical distance from the line in points; `noise_share` = the largest part
        of the residual variance that drawing other test images could explain (an upper limit: all models see the same
        images, which cancels some of it). NaN where the size is unknown.
    """
    x, found = "imagenet_1k", []
    for y in columns:
        part = frame.dropna(subset=[x, y])
        a, b = odds(part[x]), odds(part[y])
        square = estimated(
            part, lambda i, a=a, b=b: [np.corrcoef(a[i], b[i])[0, 1] ** 2], resamples, rng, benchmark=[y]
        )
        slope, intercept = np.polyfit(a, b, 1)
        line, noise = intercept + slope * a, np.nan
        if y in IMAGES:
            variance = _odds_variance(b, IMAGES[y]) + slope**2 * _odds_variance(a, IMAGES[x])
            noise = min(1.0, variance.mean() / (b - line).var(ddof=2))
        points = np.sqrt(np.mean((part[y] - 100 * expit(line)) ** 2))
        found.append(square.assign(residual_points=points, noise_share=noise))
    return pd.concat(found, ignore_index=True)


def _odds_variance(log_odds: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """Sampling variance of the log-odds of an accuracy measured on so many images (delta method)."""
    return 1 / (images * expit(log_odds) * expit(-log_odds))


def principal_components(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator, given: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Principal components of the benchmarks' standardised log-odds, of models that have all benchmarks.

    The linear effect of the benchmark `given` is removed first: what is left when ImageNet is known.

    Returns shares of the variance, rows `component, value, ci_low, ci_high, n`; and loadings, benchmarks x components,
    with signs such that each component's largest loading is positive.
    """
    needed = [*columns, *[given] * bool(given)]
    part = frame.dropna(subset=needed)
    table = odds(part[needed])

    def decompose(i: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = table[i, : len(columns)]
        if given:
            design = np.column_stack([np.ones(len(i)), table[i, -1]])
            values = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        spread = values.std(axis=0)
        if np.any(spread == 0):
            return np.full(len(columns), np.nan), np.full((len(columns), len(columns)), np.nan)
        _, singular, axes = np.linalg.svd((values - values.mean(axis=0)) / spread, full_matrices=False)
        return singular**2 / np.sum(singular**2), axes

    axes = decompose(np.arange(len(part)))[1]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    names = [f"component {k + 1}" for k in range(len(axes))]
    shares = estimated(part, lambda i: decompose(i)[0], resamples, rng, component=names)
    return shares, pd.DataFrame(axes.T, index=list(columns), columns=names)


def ranks(parts: Parts, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """`rank_correlations` of sets of models, each on its benchmarks; `models` names the set with its n."""
    found = [landscape.rank_correlations(*part, resamples, rng).assign(models=name) for name, part in parts.items()]
    table = readable(pd.concat(found, ignore_index=True))
    return table.assign(models=table.models + table.n.map(" (n = {})".format))


def information(parts: Parts, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """`beyond_imagenet` of sets of models on their benchmarks beside ImageNet's own images."""
    others = {name: [y for y in ys if y not in ("imagenet_1k", "imagenet_real")] for name, (_, ys) in parts.items()}
    found = [beyond_imagenet(parts[name][0], ys, resamples, rng).assign(models=name) for name, ys in others.items()]
    table = readable(pd.concat(found, ignore_index=True))
    table = table[["models", "benchmark", "value", "ci_low", "ci_high", "residual_points", "noise_share", "n"]]
    return table.rename(columns={"residual_points": "distance (points)", "noise_share": "noise, at most"})


def components(
    supervised: pd.DataFrame, clip: pd.DataFrame, resamples: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.Series]:
    """What is left of the robustness benchmarks once ImageNet is known.

    Loadings of the first two components (`component` names their share of the variance, `benchmark, value`), and the
    rank correlation of R with Sketch over supervised models of equal ImageNet accuracy.
    """
    rows = []
    for name, part in (("supervised", supervised), ("CLIP", clip)):
        shares, loadings = principal_components(part, ROBUSTNESS, resamples, rng, given="imagenet_1k")
        for k, nth in enumerate(("1st", "2nd")):
            share = format_interval(*(100 * shares.loc[k, ["value", "ci_low", "ci_high"]]), ".0f")
            loading = loadings.iloc[:, k].rename("value").rename_axis("benchmark").reset_index()
            rows.append(loading.assign(component=f"{name}, {nth}: {share} %"))
    left = landscape.associations(supervised, "imagenet_r", ["imagenet_sketch"], resamples, rng, ["imagenet_1k"])
    return readable(pd.concat(rows, ignore_index=True)), left.iloc[0]


def structured_words(clip: pd.DataFrame) -> str:
    """How near to chance zero-shot VTAB structured is, and what probes of such models reach on its tasks."""
    structured, chance = clip.vtab_structured, STRUCTURED_CHANCE
    probed = paper().query("dataset in ['clevr_count', 'clevr_distance', 'kitti_distance']")
    probed = probed[probed.model.isin(["vit_clip", "convnext_clip"])].value.mean()
    return (
        f"Zero-shot VTAB structured: mean {structured.mean():.1f} %, chance {chance:.1f} %; "
        f"{(structured - chance).abs().lt(5).sum()} of {len(clip)} models lie within 5 points of chance, the best at "
        f"{structured.max():.1f} %. Linear probes of the paper's two CLIP models on the same three tasks reach "
        f"{probed:.1f} %."
    )


def information_sentence(information: pd.DataFrame, left: pd.Series, clip: pd.DataFrame) -> str:
    """Which benchmarks repeat ImageNet, which are one axis; rows of `information`, `left` of `components`."""
    v2 = information[(information.models == "supervised") & (information.benchmark == "V2")].iloc[0]
    structured = clip.vtab_structured.mean()
    rank = format_interval(left.value, left.ci_low, left.ci_high, ".2f")
    return (
        f"ImageNet-V2 repeats ImageNet (R² {v2.value:.3f} over supervised models); R and Sketch are one axis: at equal "
        f"ImageNet accuracy their ranks still correlate at {rank}. ImageNet-A is a second axis; zero-shot VTAB "
        f"structured, at {structured:.0f} % with chance at {STRUCTURED_CHANCE:.0f} %, hardly ranks them."
    )
