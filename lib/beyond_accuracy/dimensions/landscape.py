"""Published models: what differs at equal ImageNet accuracy, what size and data go with, which benchmarks say more.

Everything here takes the frame of `published.leaderboard` (one row per published checkpoint, accuracies in percent) or
a part of it. Intervals resample whole groups of related models (`lineage`): they say how much an answer depends on
which models happen to be listed, nothing of models nobody has trained.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import networkx as nx
import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import rankdata, t
from statsmodels.stats.outliers_influence import variance_inflation_factor

from beyond_accuracy.data.published import REAL_NAMES, checkpoint_specs, leaderboard, paper
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import clustered_variance, linear_difference, odds
from beyond_accuracy.show import figures, results
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import GREY, HALO, INK, ORANGE, PURPLE, ModelStyle, style

ROBUSTNESS = ("imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch")
TRANSFER = ("vtab_natural", "vtab_specialized", "vtab_structured")
LABELLED = ("imagenet_1k", "imagenet_real", *ROBUSTNESS)  # benchmarks of supervised models, and of CLIP
ZERO_SHOT = ("imagenet_1k", *ROBUSTNESS, "objectnet", *TRANSFER)
NAMES = {
    "imagenet_1k": "ImageNet", "imagenet_real": "ReaL", "imagenet_v2": "V2", "imagenet_a": "A", "imagenet_r": "R",
    "imagenet_sketch": "Sketch", "objectnet": "ObjectNet", "vtab_natural": "VTAB natural",
    "vtab_specialized": "VTAB specialized", "vtab_structured": "VTAB structured", "params_m": "parameters",
    "gmacs": "multiply-adds", "pretrain_samples": "data set size", "samples_seen": "samples seen",
}  # fmt: skip
LOOKS = {"params_m": ModelStyle(INK, "o", "-", "", NAMES["params_m"])}
LOOKS |= {size: ModelStyle("#2f7ec0", "s", "--", "", NAMES[size]) for size in ("gmacs", "pretrain_samples")}
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
PAIRS = "ConvNet − Transformer, matched pairs"
DRAWN = ["model", "family", "paradigm", "imagenet_1k", *ROBUSTNESS]
# Marks of published models: of an architecture, and how its face tells the pretraining (empty: the family's colour).
FAMILIES = {"transformer": (ORANGE, "o"), "convnet": (PURPLE, "^"), "hybrid": ("#1b7f6b", "s"),
            "other": ("#5b5f66", "D")}  # fmt: skip
KINDS = {"supervised": ("supervised", "", 1), "clip": ("CLIP, zero-shot", "white", 1),
         "other": ("other pretraining", "", 0.4)}  # fmt: skip
STAR = ModelStyle("#b3261e", "*", "-", "", "this run")
PAPERS = {
    name: replace(style(spec), label=label)
    for spec, (name, label) in zip(checkpoint_specs(), REAL_NAMES.items(), strict=True)
}

Statistic = Callable[[NDArray[np.int64]], ArrayLike]  # positions of rows, with repeats -> k numbers, NaN for no answer


def models() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """All published models; those supervised on labels; the zero-shot CLIP models."""
    board = leaderboard()
    supervised, clip = board[board.paradigm == "supervised"], board[board.source == "open_clip"]
    return board, supervised.reset_index(drop=True), clip.reset_index(drop=True)


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with its benchmarks and terms by their names for readers."""
    columns = [c for c in ("benchmark", "term", "a", "b") if c in frame]
    return frame.assign(**{c: frame[c].map(lambda name: NAMES.get(name, name)) for c in columns})


def peers(board: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """Supervised models whose ImageNet-1K accuracy lies in [low, high] percent."""
    return board[(board.paradigm == "supervised") & board.imagenet_1k.between(low, high)].reset_index(drop=True)


def lineage(board: pd.DataFrame) -> pd.Series:
    """Group of related models each row belongs to: the unit that is resampled.

    Of open_clip rows their training data (epochs and resolutions of one run are close to copies), of timm rows their
    family: the first word of the name without a depth (`convnext`, `swinv2`, `resnet` for resnet50 and resnet152).
    """
    family = board.model.str.extract(r"^(?:tf_)?([a-z]+?(?:v\d)?)(?:[\d_.]|$)", expand=False)
    return family.where(board.source == "timm", board.pretrain_data).rename("lineage")


def bootstrap_models(
    statistic: Statistic, clusters: ArrayLike, resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(resamples, k) draws of a statistic that weights cannot express (ranks, lines); clusters (n,) are drawn whole."""
    codes = pd.factorize(np.asarray(clusters))[0]
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    drawn = (rng.integers(0, len(members), len(members)) for _ in range(resamples))
    return np.array([statistic(np.concatenate([members[i] for i in chosen])) for chosen in drawn], float)


def estimated(
    part: pd.DataFrame, statistic: Statistic, resamples: int, rng: np.random.Generator, **names: Sequence
) -> pd.DataFrame:
    """The k numbers of a statistic with bootstrap intervals over lineages: `names, value, ci_low, ci_high, n`.

    `ValueError` where more than 5 % of the resamples have no answer.
    """
    groups = lineage(part)
    draws = bootstrap_models(statistic, groups, resamples, rng)
    ends = np.array([tidy.interval(column, groups.nunique()) for column in draws.T])
    if np.isnan(ends).any():
        raise ValueError(f"{np.isnan(draws).any(axis=1).sum()} of {resamples} resamples have no answer: too few models")
    values = {"value": statistic(np.arange(len(part))), "ci_low": ends[:, 0], "ci_high": ends[:, 1]}
    return pd.DataFrame({**names, **values, "n": len(part)})


def partial_spearman(table: NDArray, controls: ArrayLike | None = None) -> NDArray[np.float64]:
    """Spearman correlation of the first column with each other; with controls, of what they leave of the ranks.

    The residuals of ranks on the ranks of every control, (n,) or (n, k), are correlated (Conover, Practical
    Nonparametric Statistics, section 5.4). A control of 0/1 values is used as it is. NaN when nothing varies.
    """
    ranks = rankdata(table, axis=0)
    held = np.empty((len(ranks), 0)) if controls is None else np.asarray(controls, float).reshape(len(ranks), -1)
    binary = ((held == 0) | (held == 1)).all(axis=0)
    rest = _left(ranks, np.where(binary, held, rankdata(held, axis=0)))
    norms = np.linalg.norm(rest, axis=0)
    flat = norms < 1e-9 * len(ranks)
    products = np.divide(rest[:, 0] @ rest, norms[0] * norms, out=np.full(len(norms), np.nan), where=~(flat | flat[0]))
    return products[1:]


def _left(values: NDArray, given: NDArray) -> NDArray[np.float64]:
    """Residuals of columns regressed on other columns and a constant."""
    design = np.column_stack([np.ones(len(values)), given])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def associations(
    frame: pd.DataFrame, x: str, ys: Sequence[str], resamples: int, rng: np.random.Generator,
    controls: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """(Partial) Spearman correlation of one column with several: rows `benchmark, value, ci_low, ci_high, n`.

    Models that lack one of the columns are left out; fewer than 8 raise a `ValueError`. `controls` are columns held
    constant, text columns become indicators.
    """
    part = frame.dropna(subset=[x, *ys, *controls])
    if len(part) < 8:
        raise ValueError(f"{len(part)} models with {x} and {', '.join(ys)}: too few for a correlation")
    values = part[[x, *ys]].to_numpy(float)
    held = pd.get_dummies(part[list(controls)], drop_first=True).to_numpy(float) if controls else None

    def statistic(i: NDArray[np.int64]) -> NDArray[np.float64]:
        return partial_spearman(values[i], None if held is None else held[i])

    return estimated(part, statistic, resamples, rng, benchmark=ys)


def rank_correlations(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Spearman correlation of every two benchmarks over models that have all: `a, b, value, ci_low, ci_high, n`."""
    part = frame.dropna(subset=list(columns))
    values, pairs = part[list(columns)].to_numpy(float), np.triu_indices(len(columns), k=1)
    first, second = np.array(columns, object)[np.array(pairs)]

    def statistic(i: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.corrcoef(rankdata(values[i], axis=0), rowvar=False)[pairs]

    return estimated(part, statistic, resamples, rng, a=first, b=second)


def group_gap(frame: pd.DataFrame, ys: Iterable[str]) -> pd.DataFrame:
    """Mean of the ConvNets minus that of the Transformers, in points: `benchmark, value, ci_low, ci_high, p, n`.

    Standard errors are clustered by `lineage`; fewer than 3 models in a group raise a `ValueError`.
    """
    rows, lines = [], lineage(frame)
    for y in ys:
        sides = [frame.loc[frame.family == family, y].dropna() for family in ("convnet", "transformer")]
        sizes = [len(side) for side in sides]
        if min(sizes) < 3:
            raise ValueError(f"{y}: {sizes[0]} and {sizes[1]} models: too few to compare convnet, transformer")
        spread = np.array([clustered_variance((v - v.mean()) / len(v), lines[v.index]) for v in sides])
        units = np.array([lines[v.index].nunique() for v in sides])
        freedom = spread.sum() ** 2 / np.sum(spread**2 / (units - 1))  # Welch, over families
        gap, error = sides[0].mean() - sides[1].mean(), spread.sum() ** 0.5
        reach = t.ppf(0.975, freedom) * error
        rows.append((y, gap, gap - reach, gap + reach, 2 * t.sf(abs(gap) / error, freedom), sum(sizes)))
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "p", "n"])


def match_pairs(
    frame: pd.DataFrame, first: NDArray[np.bool_], same: Sequence[str], accuracy_within: float = 0.15
) -> pd.DataFrame:
    """Pairs of models of equal ImageNet accuracy that differ in one respect; each model is used at most once.

    The largest set of admissible pairs with the smallest total accuracy difference (maximum-weight matching): positions
    `first, second` in `frame`. `first` (n, n) says whether a model may be the first of a pair with another; the columns
    `same` must be equal, accuracies lie within so many points.
    """
    accuracy = frame.imagenet_1k.to_numpy(float)
    gap = np.abs(accuracy[:, None] - accuracy)
    alike = frame.groupby(list(same), dropna=False).ngroup().to_numpy()
    fits = (first | first.T) & (gap <= accuracy_within) & np.equal.outer(alike, alike)
    graph = nx.Graph()
    edges = np.argwhere(np.triu(fits, 1)).tolist()
    graph.add_weighted_edges_from((i, j, 1 - gap[i, j] / (accuracy_within + 1e-9)) for i, j in edges)
    rows = [(i, j) if first[i, j] else (j, i) for i, j in nx.max_weight_matching(graph, maxcardinality=True)]
    return pd.DataFrame(sorted(rows), columns=["first", "second"], dtype="int64")


def architecture_pairs(frame: pd.DataFrame, accuracy_within: float, size_within: float) -> pd.DataFrame:
    """`match_pairs` of a ConvNet and a Transformer of equal data; sizes differ by at most a factor."""
    first = np.logical_and.outer(*((frame.family == family).to_numpy() for family in ("convnet", "transformer")))
    logs = np.log(frame.params_m.to_numpy(float))
    first &= np.abs(logs[:, None] - logs) <= np.log(size_within)
    return match_pairs(frame, first, ["pretrain_data"], accuracy_within)


def size_pairs(frame: pd.DataFrame, least_ratio: float) -> pd.DataFrame:
    """`match_pairs` of a larger and a smaller model of one family and equal data."""
    sizes = frame.params_m.to_numpy(float)
    return match_pairs(frame, sizes[:, None] >= least_ratio * sizes, ["pretrain_data", "family"])


def pair_differences(frame: pd.DataFrame, pairs: pd.DataFrame, ys: Iterable[str]) -> pd.DataFrame:
    """Mean difference within matched pairs (first minus second), in points: rows as of `group_gap`, n pairs.

    Standard errors are clustered by the `lineage` of both sides; fewer than 5 pairs raise a `ValueError`.
    """
    rows, lines = [], pd.factorize(lineage(frame))[0]
    for y in ys:
        values = frame[y].to_numpy(float)
        gaps = values[pairs["first"]] - values[pairs["second"]]
        known = ~np.isnan(gaps)
        if known.sum() < 5:
            raise ValueError(f"{y}: {known.sum()} matched pairs: too few")
        sides = (lines[pairs[side]][known] for side in ("first", "second"))
        mean = gaps[known].mean()
        found = linear_difference(mean, (gaps[known] - mean) / known.sum(), *sides)
        rows.append((y, found.estimate, *found.interval, found.p_value, int(known.sum())))
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "p", "n"])


def own_rows(table: pd.DataFrame, specs: Iterable) -> pd.DataFrame:
    """This run's models with an ImageNet accuracy, by the results of the robustness page, in the leaderboard's columns.

    Rows `model, source, family, paradigm` and the benchmarks measured.
    """
    kinds = {spec.name: (spec.family, spec.paradigm) for spec in specs}
    rows = table[(table.dimension == "robustness") & (table.metric == "accuracy") & table.model.isin([*kinds])]
    wide = rows[rows.dataset.isin([*LABELLED, "objectnet"])].pivot(index="model", columns="dataset", values="value")
    if "imagenet_1k" not in wide or wide.empty:
        return pd.DataFrame(columns=["model", "source", "family", "paradigm", "imagenet_1k"])
    wide = wide.reset_index().dropna(subset=["imagenet_1k"]).rename_axis(columns=None)
    kind = wide.model.map(kinds)
    return wide.assign(source="this run", family=kind.str[0], paradigm=kind.str[1])


def standings(board: pd.DataFrame, own: pd.DataFrame, labels: dict[str, str], least: int = 5) -> pd.DataFrame:
    """Where the published models in `labels` and this run's stand among published ones of their kind and accuracy.

    Peers lie within one point of ImageNet accuracy; fewer than `least` give no answer. `rank_share` is the share of
    peers that score lower (ties count half).
    """
    rows = []
    for model in pd.concat([board[board.model.isin(list(labels))], own]).to_dict("records"):
        kind = board.paradigm == model["paradigm"]
        kind &= True if model["paradigm"] == "clip" else (board.source == "timm") & (board.paradigm == "supervised")
        near = kind & (board.model != model["model"]) & ((board.imagenet_1k - model["imagenet_1k"]).abs() <= 1)
        for y in ROBUSTNESS:
            value, others = model.get(y, np.nan), board.loc[near, y].dropna().to_numpy(float)
            if len(others) >= least and not np.isnan(value):
                below = np.mean(others < value) + 0.5 * np.mean(others == value)
                name, mean = labels.get(model["model"], model["model"]), others.mean()
                rows.append((name, y, value, mean, value - mean, below, len(others)))
    columns = ["model", "benchmark", "value", "peers_mean", "difference", "rank_share", "n"]
    return readable(pd.DataFrame(rows, columns=columns))


def published(board: pd.DataFrame, styles: object, baseline: pd.Series, own: pd.DataFrame) -> figures.Drawn:
    """Robustness against ImageNet on log-odds axes, with the line of the baseline models and the paper's checkpoints.

    `board` has the columns `DRAWN`; models below 45 % on ImageNet are not drawn. `baseline` (n,) tells which models
    define the line. Rows of this run's `own` are stars; `styles` is not used: a mark tells family and paradigm.
    """
    x, names = "imagenet_1k", ("label", "marker", "color", "markerfacecolor", "alpha", "markersize")
    seen = board[board[x] >= 45]
    kinds = seen.paradigm.where(seen.paradigm.isin(list(KINDS)), "other")
    fig, axes = figures.panels([NAMES[y] for y in ROBUSTNESS], 3.0, 2)
    for y, ax in zip(ROBUSTNESS, axes.values(), strict=True):
        known = seen[seen[y].notna()]
        for (family, kind), part in known.groupby(["family", kinds[known.index]]):
            (color, marker), (_, face, alpha) = FAMILIES[family], KINDS[kind]
            look = {"markerfacecolor": face or color, "markersize": 4.5, "markeredgewidth": 0.9, "alpha": 0.8 * alpha}
            ax.plot(odds(part[x]), odds(part[y]), marker, color=color, **look)
        fitted = known[baseline[known.index]]
        slope, start = np.polyfit(odds(fitted[x]), odds(fitted[y]), 1)
        for part, line in ((known, {"color": GREY, "linestyle": ":"}), (fitted, {"color": INK, "linestyle": "-"})):
            ends = odds([part[x].min(), part[x].max()])
            ax.plot(ends, start + slope * ends, **line, linewidth=1.5, zorder=1)
        for name, look in PAPERS.items():
            row = board[board.model == name].iloc[0]
            large = {"markersize": 10, "markeredgewidth": 2.2, "path_effects": HALO, "color": look.color}
            ax.plot(odds(row[x]), odds(row[y]), look.marker, markerfacecolor=look.markerfacecolor, **large)
        if y in own:
            ax.plot(odds(own[x]), odds(own[y]), STAR.marker, color=STAR.color, markersize=12, zorder=5)
        for axis, limits, values in ((ax.xaxis, ax.set_xlim, known[x]), (ax.yaxis, ax.set_ylim, known[y])):
            low, high = odds([values.min(), values.max()]) + [-0.2, 0.25]
            ticks = [p for p in (2, 10, 30, 50, 70, 80, 90) if low <= odds(p) <= high]
            axis.set_ticks(odds(ticks), ticks)
            limits(low, high)
    fig.supxlabel(f"{NAMES[x]} accuracy (%), log-odds scale", fontsize=11.5)
    fig.supylabel("accuracy (%), log-odds scale", fontsize=11.5)
    keys = [(name, mark, color, color, 1, 6) for name, (color, mark) in FAMILIES.items() if name in set(board.family)]
    keys += [(name, "o", INK, face or INK, alpha, 6) for k, (name, face, alpha) in KINDS.items() if k in set(kinds)]
    large = [*[STAR] * bool(len(own)), *PAPERS.values()]
    keys += [(look.label, look.marker, look.color, look.markerfacecolor, 1, 10) for look in large]
    handles = [Line2D([], [], linestyle="none", **dict(zip(names, key, strict=True))) for key in keys]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)
    rows = board[board.model.isin(list(PAPERS))].melt(["model"], list(ROBUSTNESS), "benchmark")
    words = figures.spell(rows, ["model", "benchmark"], figures.labels_of(PAPERS) | NAMES, ".1f")
    return fig, f"Accuracy under shift of {len(board)} models against their ImageNet accuracy; the paper's: {words}."


def size_associations(band: pd.DataFrame, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """`associations` of `size` with robustness at equal accuracy, also with what still differs `held` constant."""
    band = band.assign(more_data=(band.pretrain_data != "in1k").astype(float))
    ways = {"as they are": [], "at equal ImageNet accuracy and data": ["imagenet_1k", "more_data"]}
    return pd.concat(
        associations(band, x, ROBUSTNESS, resamples, rng, controls).assign(size=x, held=held)
        for held, controls in ways.items()
        for x in ("params_m", "gmacs")
    )


def pair_gaps(frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Every matched pair of a ConvNet and a Transformer: `benchmark, convnet, transformer, difference` in points."""
    first, second = (frame.loc[pairs[side]].reset_index(drop=True) for side in ("first", "second"))
    names = {"convnet": first.model, "transformer": second.model}
    parts = [pd.DataFrame({"benchmark": y, **names, "difference": first[y] - second[y]}) for y in ROBUSTNESS]
    return pd.concat(parts, ignore_index=True)


def judged(band: pd.DataFrame, matched: pd.DataFrame, by_size: pd.DataFrame) -> pd.DataFrame:
    """Differences between groups of models, corrected together: their rows, `p_holm` and `verdict`."""
    names = ("ConvNet − Transformer, all in the band", PAIRS, "larger − smaller (≥ 2 x parameters), matched pairs")
    parts = [rows.assign(comparison=name) for rows, name in zip((band, matched, by_size), names, strict=True)]
    rows = verdicts.judge(pd.concat(parts, ignore_index=True).assign(family="main"))
    return rows[["comparison", "benchmark", "value", "ci_low", "ci_high", "p_holm", "n", "verdict"]]


def estimates(page, rows: pd.DataFrame, series: str, panel: str, xlabel: str, name: str, caption: str) -> None:
    """Draw estimates by benchmark: a mark per value of `series`, a panel per value of another column."""
    low, high = rows["ci_low"].min(), rows["ci_high"].max()
    look = {"xlim": (low - 0.05 * (high - low), high + 0.05 * (high - low)), "line": 0, "styles": LOOKS}
    shown = readable(rows.assign(model=rows[series]))
    page.draw(figures.dots, shown, name, caption, y="benchmark", panel=panel, xlabel=xlabel, **look)


def pairs_figure(gaps: pd.DataFrame, styles: object, matched: pd.DataFrame) -> figures.Drawn:
    """Every matched pair (rows of `pair_gaps`) as a small point, its mean with interval below; `styles` is not used."""
    mean = {"": ModelStyle(INK, "D", "-", "", "mean, 95 % interval; dots: single pairs")}
    xlabel = "ConvNet minus Transformer (points)"
    fig, words = figures.dots(readable(matched.assign(model="")), "benchmark", mean, xlabel, line=0)
    for k, y in enumerate(matched.benchmark):
        points = gaps.loc[gaps.benchmark == y, "difference"].to_numpy()
        spread = np.linspace(-0.1, 0.1, len(points))  # points of equal value do not hide each other
        fig.axes[0].plot(points, k - 0.3 + spread, "o", color=GREY, markersize=4, alpha=0.7, markeredgewidth=0)
    return fig, words


def equal_accuracy_sentence(differences: pd.DataFrame, sizes: pd.DataFrame) -> str:
    """What goes with architecture (rows of `judged`) and with size (of `size_associations`) on ImageNet-A."""
    pairs = differences[(differences.comparison == PAIRS) & (differences.benchmark == "imagenet_a")].iloc[0]
    size = _plain(sizes).set_index("benchmark").loc["imagenet_a"]
    gap, rank = (format_interval(r.value, r.ci_low, r.ci_high, f) for r, f in ((pairs, "+.1f"), (size, "+.2f")))
    told = "" if pairs.verdict != verdicts.OPEN else ", which is not told from chance"
    sure = size.ci_low > 0 or size.ci_high < 0
    related = "it goes with size" if sure else "no relation with size is told from chance"
    return (
        f"Published models of equal ImageNet accuracy: on ImageNet-A, ConvNets score {gap} points against Transformers "
        f"of similar size and the same data ({pairs.n:.0f} matched pairs){told}; {related} (rank correlation with "
        f"ImageNet-A {rank}, n = {size.n:.0f})."
    )


def recorded(sizes: pd.DataFrame, matched: pd.DataFrame, left: pd.DataFrame) -> pd.DataFrame:
    """Rows of the results schema: correlation with size, matched pairs, and `left` of `components`."""
    plain = _plain(sizes).assign(metric="spearman:params_m", unit="correlation")
    pairs = matched.assign(metric="matched:convnet_minus_transformer", unit="points")
    left = left.assign(metric="spearman_given_imagenet:imagenet_r", unit="correlation")
    rows = pd.concat([plain, pairs, left], ignore_index=True).rename(columns={"benchmark": "dataset"})
    return rows.assign(model="published_models")[[*results.RESULT_COLUMNS[1:]]]


def _plain(sizes: pd.DataFrame) -> pd.DataFrame:
    return sizes[(sizes.held == "as they are") & (sizes["size"] == "params_m")]


# Size and data, and what benchmarks say beyond ImageNet ---------------------------------------------------------------


def scaling_fit(frame: pd.DataFrame, y: str, sizes: Sequence[str], within: str | None = None) -> pd.DataFrame:
    """What one doubling of each size goes with: least squares of accuracy on log2 of the sizes.

    `within` is a column with one intercept per value: only differences inside its groups count. Fewer than 10 models
    with all sizes raise a `ValueError`. Rows `benchmark, term, value, ci_low, ci_high, p, r2, vif, n, groups`: slope
    with errors clustered by `lineage`, R^2 of the whole fit, variance inflation, models, groups that vary in the sizes.
    """
    part = frame.dropna(subset=[y, *sizes])
    if within is not None:  # groups of one model, or without any difference in size, say nothing
        part = part[part.groupby(within)[list(sizes)].transform("nunique").max(axis=1) > 1]
    if len(part) < 10:
        raise ValueError(f"{len(part)} models with {y}, {', '.join(sizes)}: too few for a fit")
    terms = [f"np.log2({size})" for size in sizes]
    groups = pd.factorize(part[within] if within else lineage(part))[0]
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
    asked = [(name, part, y) for name, part in samples.items() for y in ZERO_SHOT]
    fits = pd.concat(scaling_fit(part, y, SIZES[:2]).assign(models=name) for name, part, y in asked)
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

    Rows `benchmark, value, ci_low, ci_high, n, residual_points, noise_share`: R^2 of log-odds on those of ImageNet,
    typical distance from the line in points, and the largest part of the residual variance that drawing other test
    images could explain; NaN where their number is unknown.
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
    """Principal components of the benchmarks' standardised log-odds, less what the benchmark `given` tells of them.

    Shares of the variance, rows `component, value, ci_low, ci_high, n`; and loadings, benchmarks x components, with
    signs such that each component's largest loading is positive.
    """
    needed = [*columns, *[given] * bool(given)]
    part = frame.dropna(subset=needed)
    table = odds(part[needed])

    def decompose(i: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = table[i, : len(columns)]
        values = _left(values, table[i, -1]) if given else values
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
    found = [rank_correlations(*part, resamples, rng).assign(models=name) for name, part in parts.items()]
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
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is left of the robustness benchmarks once ImageNet is known: loadings of the first two components.

    Rows `component` (with its share of the variance), `benchmark, value`; and the rank correlation of R with Sketch.
    """
    rows = []
    for name, part in (("supervised", supervised), ("CLIP", clip)):
        shares, loadings = principal_components(part, ROBUSTNESS, resamples, rng, given="imagenet_1k")
        for k, nth in enumerate(("1st", "2nd")):
            share = format_interval(*(100 * shares.loc[k, ["value", "ci_low", "ci_high"]]), ".0f")
            loading = loadings.iloc[:, k].rename("value").rename_axis("benchmark").reset_index()
            rows.append(loading.assign(component=f"{name}, {nth}: {share} %"))
    left = associations(supervised, "imagenet_r", ["imagenet_sketch"], resamples, rng, ["imagenet_1k"])
    return readable(pd.concat(rows, ignore_index=True)), left


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


def information_sentence(information: pd.DataFrame, left: pd.DataFrame, clip: pd.DataFrame) -> str:
    """Which benchmarks repeat ImageNet, which are one axis; rows of `information`, `left` of `components`."""
    v2 = information[(information.models == "supervised") & (information.benchmark == "V2")].iloc[0]
    structured = clip.vtab_structured.mean()
    rank = format_interval(*left.loc[0, ["value", "ci_low", "ci_high"]], ".2f")
    return (
        f"ImageNet-V2 repeats ImageNet (R² {v2.value:.3f} over supervised models); R and Sketch are one axis: at equal "
        f"ImageNet accuracy their ranks still correlate at {rank}. ImageNet-A is a second axis; zero-shot VTAB "
        f"structured, at {structured:.0f} % with chance at {STRUCTURED_CHANCE:.0f} %, hardly ranks them."
    )
