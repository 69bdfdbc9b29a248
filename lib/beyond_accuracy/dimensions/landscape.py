"""What differs between published models of equal ImageNet accuracy.

Everything here takes the frame of `published.leaderboard` (one row per published checkpoint, accuracies in percent) or
a part of it. Intervals resample models, or whole groups of related models (`lineage`). Published models are not a
random sample of possible models, so these intervals say how much an answer depends on which models happen to be
listed; they do not extend it to models nobody has trained.
"""

from collections.abc import Callable, Iterable, Sequence

import networkx as nx
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, t

from beyond_accuracy.data.published import leaderboard
from beyond_accuracy.measure import verdicts
from beyond_accuracy.measure.stats import clustered_variance, linear_difference, percentile_interval
from beyond_accuracy.show import figures
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import GREY, INK, ModelStyle

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
LOOKS = {
    "params_m": ModelStyle(INK, "o", "-", "", NAMES["params_m"]),
    "gmacs": ModelStyle("#2f7ec0", "s", "--", "", NAMES["gmacs"]),
    "pretrain_samples": ModelStyle("#2f7ec0", "s", "--", "", NAMES["pretrain_samples"]),
}
PAIRS = "ConvNet − Transformer, matched pairs"


# ------------------------------------------------------------------------------------------------------------- models


def models() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """All published models; those supervised on labels; the zero-shot CLIP models."""
    board = leaderboard()
    supervised, clip = board[board.paradigm == "supervised"], board[board.source == "open_clip"]
    return board, supervised.reset_index(drop=True), clip.reset_index(drop=True)


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with its benchmarks and terms by their names for readers."""
    columns = [c for c in ("benchmark", "term", "a", "b") if c in frame]
    return frame.assign(**{c: frame[c].map(lambda name: NAMES.get(name, name)) for c in columns})


def peers(board: pd.DataFrame, low: float, high: float, paradigm: str = "supervised") -> pd.DataFrame:
    """Models of one paradigm whose ImageNet-1K accuracy lies in [low, high] percent."""
    return board[(board.paradigm == paradigm) & board.imagenet_1k.between(low, high)].reset_index(drop=True)


def lineage(board: pd.DataFrame) -> pd.Series:
    """Group of related models each row belongs to: the unit that is resampled.

    open_clip rows that share their training data are one group (epochs 31 and 32 of one run, resolutions and soups are
    close to copies); timm rows of one family are, whatever their size: the first word of the name without a depth
    (`convnext`, `swinv2`, `resnet` for resnet50 and resnet152).
    """
    family = board.model.str.extract(r"^(?:tf_)?([a-z]+?(?:v\d)?)(?:[\d_.]|$)", expand=False)
    return family.where(board.source == "timm", board.pretrain_data).rename("lineage")


def bootstrap_models(
    statistic: Callable[[NDArray[np.int64]], ArrayLike],
    n: int,
    resamples: int,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Bootstrap draws of a statistic of rows that weights cannot express (ranks, fitted lines).

    `statistic` maps row positions (with repeats) to k numbers, NaN where a resample has no answer; `clusters` (n,) are
    groups of rows, drawn whole. Returns (resamples, k).
    """
    if clusters is None:
        return np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)], float)
    codes = pd.factorize(np.asarray(clusters))[0]
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    drawn = (rng.integers(0, len(members), len(members)) for _ in range(resamples))
    return np.array([statistic(np.concatenate([members[i] for i in chosen])) for chosen in drawn], float)


def interval(draws: ArrayLike, units: int | None = None) -> tuple[float, float]:
    """Percentile interval of draws of which up to a tenth may be NaN (degenerate resamples), `ValueError` beyond.

    `units` is the number of groups that were resampled, see `stats.percentile_interval`.
    """
    draws = np.asarray(draws, float)
    usable = draws[~np.isnan(draws)]
    if len(usable) < 0.9 * len(draws):
        raise ValueError(f"{len(draws) - len(usable)} of {len(draws)} resamples have no answer: too few models")
    return tuple(percentile_interval(usable, units=units))


def estimated(
    part: pd.DataFrame, statistic: Callable[[NDArray[np.int64]], ArrayLike], resamples: int, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """The k numbers of a statistic of row positions with their bootstrap intervals over lineages."""
    groups = lineage(part)
    draws = bootstrap_models(statistic, len(part), resamples, rng, groups)
    whole = statistic(np.arange(len(part)))
    return [(value, *interval(column, groups.nunique())) for value, column in zip(whole, draws.T, strict=True)]


# ------------------------------------------------------------------------------------------------------- correlations


def partial_spearman(table: NDArray, controls: ArrayLike | None = None) -> NDArray[np.float64]:
    """Spearman correlation of the first column with each other; with controls, of what they leave of the ranks.

    Ranks are regressed on the ranks of every control, (n,) or (n, k), plus a constant, and the residuals correlated
    (Conover, Practical Nonparametric Statistics, section 5.4). A control of 0/1 values is used as it is. NaN when
    nothing varies.
    """
    ranks = rankdata(table, axis=0)
    design = np.ones((len(ranks), 1))
    if controls is not None:
        held = np.asarray(controls, float).reshape(len(ranks), -1)
        binary = ((held == 0) | (held == 1)).all(axis=0)
        design = np.column_stack([design, np.where(binary, held, rankdata(held, axis=0))])
    rest = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    norms = np.linalg.norm(rest, axis=0)
    flat = norms < 1e-9 * len(ranks)
    products = np.divide(rest[:, 0] @ rest, norms[0] * norms, out=np.full(len(norms), np.nan), where=~(flat | flat[0]))
    return products[1:]


def associations(
    frame: pd.DataFrame,
    x: str,
    ys: Sequence[str],
    resamples: int,
    rng: np.random.Generator,
    controls: Sequence[str] = (),
) -> pd.DataFrame:
    """(Partial) Spearman correlation of one column with several: rows ``benchmark, value, ci_low, ci_high, n``.

    Models that lack one of the columns are left out; fewer than 8 raise a `ValueError`. `controls` are columns held
    constant, text columns become indicators.
    """
    part = frame.dropna(subset=[x, *ys, *controls])
    if len(part) < 8:
        raise ValueError(f"{len(part)} models with {x} and {', '.join(ys)}: too few for a correlation")
    values = part[[x, *ys]].to_numpy(float)
    held = pd.get_dummies(part[list(controls)], drop_first=True).to_numpy(float) if controls else None
    found = estimated(part, lambda i: partial_spearman(values[i], None if held is None else held[i]), resamples, rng)
    rows = [(y, *estimate, len(part)) for y, estimate in zip(ys, found, strict=True)]
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "n"])


def rank_correlations(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Spearman correlation of every two benchmarks over models that have all: ``a, b, value, ci_low, ci_high, n``."""
    part = frame.dropna(subset=list(columns))
    values = part[list(columns)].to_numpy(float)
    upper = np.triu_indices(len(columns), k=1)
    found = estimated(part, lambda i: np.corrcoef(rankdata(values[i], axis=0), rowvar=False)[upper], resamples, rng)
    rows = [(columns[a], columns[b], *e, len(part)) for a, b, e in zip(*upper, found, strict=True)]
    return pd.DataFrame(rows, columns=["a", "b", "value", "ci_low", "ci_high", "n"])


# ------------------------------------------------------------------------------------------------------ matched models


def group_gap(
    frame: pd.DataFrame,
    ys: Iterable[str],
    groups: tuple[str, str] = ("convnet", "transformer"),
    column: str = "family",
) -> pd.DataFrame:
    """Difference of means between two groups of models, in points: ``benchmark, value, ci_low, ci_high, p, n``.

    Standard errors are clustered by `lineage`; fewer than 3 models in a group raise a `ValueError`.
    """
    rows, family = [], pd.factorize(lineage(frame))[0]
    for y in ys:
        sides = [((frame[column] == group) & frame[y].notna()).to_numpy() for group in groups]
        sizes = [int(side.sum()) for side in sides]
        if min(sizes) < 3:
            raise ValueError(f"{y}: {sizes[0]} and {sizes[1]} models: too few to compare {groups[0]}, {groups[1]}")
        values = [frame[y].to_numpy(float)[side] for side in sides]
        influence = [(v - v.mean()) / len(v) for v in values]
        spread = np.array([clustered_variance(i, family[side]) for i, side in zip(influence, sides, strict=True)])
        units = np.array([len(np.unique(family[side])) for side in sides])
        freedom = spread.sum() ** 2 / np.sum(spread**2 / (units - 1))  # Welch, over families
        gap, error = values[0].mean() - values[1].mean(), spread.sum() ** 0.5
        reach = t.ppf(0.975, freedom) * error
        rows.append((y, gap, gap - reach, gap + reach, 2 * t.sf(abs(gap) / error, freedom), sum(sizes)))
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "p", "n"])


def match_pairs(
    frame: pd.DataFrame,
    *,
    contrast: str,
    least_ratio: float = 0.0,
    groups: tuple[str, str] | None = None,
    accuracy_within: float = 0.15,
    ratio_within: dict[str, float] | None = None,
    same: Sequence[str] = ("pretrain_data",),
) -> pd.DataFrame:
    """Pairs of models of equal ImageNet accuracy that differ in one respect; each model is used at most once.

    The largest set of admissible pairs with the smallest total accuracy difference (maximum-weight matching).

    Args:
        frame: Models.
        contrast: The column in which a pair differs: by at least the factor ``least_ratio``, or in being of the two
            ``groups``.
        least_ratio: See there.
        groups: See there.
        accuracy_within: Largest difference in ImageNet-1K accuracy, points.
        ratio_within: Columns that may differ by at most this factor, e.g. ``{"params_m": 1.5}``.
        same: Columns that must be equal.

    Returns:
        Rows ``first, second`` (positions in ``frame``): first has the larger value, or the first group.
    """
    values, accuracy = frame[contrast].to_numpy(), frame.imagenet_1k.to_numpy(float)
    gap = np.abs(accuracy[:, None] - accuracy)
    fits = gap <= accuracy_within
    for column in same:
        fits &= np.equal.outer(*[frame[column].astype(str).to_numpy(object)] * 2).astype(bool)
    for column, factor in (ratio_within or {}).items():
        logs = np.log(frame[column].to_numpy(float))
        fits &= np.abs(logs[:, None] - logs) <= np.log(factor)
    if groups is None:
        fits &= np.maximum.outer(values, values) >= least_ratio * np.minimum.outer(values, values)
    else:
        fits &= np.logical_or(*(np.outer(values == a, values == b) for a, b in (groups, groups[::-1])))
    graph = nx.Graph()
    edges = np.argwhere(np.triu(fits, 1)).tolist()
    graph.add_weighted_edges_from((i, j, 1 - gap[i, j] / (accuracy_within + 1e-9)) for i, j in edges)
    rows = []
    for i, j in nx.max_weight_matching(graph, maxcardinality=True):
        swap = values[i] != groups[0] if groups is not None else values[i] < values[j]
        rows.append((j, i) if swap else (i, j))
    return pd.DataFrame(sorted(rows), columns=["first", "second"], dtype="int64")


def pair_differences(frame: pd.DataFrame, pairs: pd.DataFrame, ys: Iterable[str]) -> pd.DataFrame:
    """Mean difference within matched pairs (first minus second), in points.

    Rows as of `group_gap`, n pairs; standard errors clustered by the `lineage` of both sides, for the pairs of one
    family are no independent evidence. Fewer than 5 pairs raise a `ValueError`.
    """
    rows, family = [], pd.factorize(lineage(frame))[0]
    for y in ys:
        values = frame[y].to_numpy(float)
        gaps = values[pairs["first"]] - values[pairs["second"]]
        known = ~np.isnan(gaps)
        if known.sum() < 5:
            raise ValueError(f"{y}: {known.sum()} matched pairs: too few")
        sides = (family[pairs[side]][known] for side in ("first", "second"))
        mean = gaps[known].mean()
        found = linear_difference(mean, (gaps[known] - mean) / known.sum(), *sides)
        rows.append((y, found.estimate, *found.interval, found.p_value, int(known.sum())))
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "p", "n"])


# -------------------------------------------------------------------------------------------------- the study's models


def standing(
    board: pd.DataFrame, model: pd.Series, columns: Iterable[str], within: float = 1.0, least: int = 5
) -> pd.DataFrame:
    """Where one model stands among published models of the same kind and ImageNet accuracy.

    `model` has ``model, paradigm, imagenet_1k`` and the benchmarks; it is not its own peer (by name). Peers differ by
    at most ``within`` points of ImageNet-1K accuracy; fewer than ``least`` give no answer.

    Returns:
        Rows ``benchmark, value, peers_mean, difference, rank_share, n``: ``rank_share`` is the share of peers that
        score lower (ties count half).
    """
    clip = model.paradigm == "clip"
    kind = (board.paradigm == "clip") if clip else (board.source == "timm") & (board.paradigm == "supervised")
    near = board[kind & (board.model != model.model) & ((board.imagenet_1k - model.imagenet_1k).abs() <= within)]
    rows = []
    for y in (y for y in columns if y in near and pd.notna(model.get(y))):
        others = near[y].dropna().to_numpy(float)
        if len(others) >= least:
            below = np.mean(others < model[y]) + 0.5 * np.mean(others == model[y])
            rows.append((y, model[y], others.mean(), model[y] - others.mean(), below, len(others)))
    return pd.DataFrame(rows, columns=["benchmark", "value", "peers_mean", "difference", "rank_share", "n"])


def own_rows(results: pd.DataFrame, specs: Iterable) -> pd.DataFrame:
    """This run's models in the leaderboard's columns, from the robustness rows of the results table.

    Returns:
        One row per model with an ImageNet-1K accuracy: ``model, source, family, paradigm`` and the benchmarks measured
        (``source`` = ``this run``). Empty when the run has no ImageNet: its worlds are not on the published axes.
    """
    kinds = {spec.name: (spec.family, spec.paradigm) for spec in specs}
    wanted = ["imagenet_1k", "imagenet_real", *ROBUSTNESS, "objectnet"]
    rows = results[(results.dimension == "robustness") & (results.metric == "accuracy") & results.dataset.isin(wanted)]
    rows = rows[rows.model.isin(list(kinds))]
    wide = rows.pivot(index="model", columns="dataset", values="value").reset_index()
    if "imagenet_1k" not in wide or wide.empty:
        return pd.DataFrame(columns=["model", "source", "family", "paradigm", "imagenet_1k"])
    wide = wide.dropna(subset=["imagenet_1k"]).rename_axis(columns=None)
    kind = wide.model.map(kinds)
    return wide.assign(source="this run", family=kind.str[0], paradigm=kind.str[1])


def standings(board: pd.DataFrame, own: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """`standing` of the published models in `labels` and of this run's models, on the robustness benchmarks."""
    chosen = pd.concat([board[board.model.isin(list(labels))], own])
    rows = [
        standing(board, row, ROBUSTNESS).assign(model=labels.get(row.model, row.model)) for _, row in chosen.iterrows()
    ]
    columns = ["model", "benchmark", "value", "peers_mean", "difference", "rank_share", "n"]
    return readable(pd.concat(rows, ignore_index=True))[columns]


# ------------------------------------------------------------------------------------------------------------ the page


def size_associations(band: pd.DataFrame, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """`associations` of ``size`` with robustness at equal accuracy, also with what still differs ``held`` constant."""
    band = band.assign(more_data=(band.pretrain_data != "in1k").astype(float))
    ways = {"as they are": [], "at equal ImageNet accuracy and data": ["imagenet_1k", "more_data"]}
    return pd.concat(
        associations(band, x, ROBUSTNESS, resamples, rng, controls).assign(size=x, held=held)
        for held, controls in ways.items()
        for x in ("params_m", "gmacs")
    )


def architecture_pairs(frame: pd.DataFrame, accuracy_within: float, size_within: float) -> pd.DataFrame:
    """`match_pairs` of a ConvNet and a Transformer of equal data; sizes differ by at most a factor."""
    limits = {"accuracy_within": accuracy_within, "ratio_within": {"params_m": size_within}}
    return match_pairs(frame, contrast="family", groups=("convnet", "transformer"), **limits)


def pair_gaps(frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Every matched pair of a ConvNet and a Transformer: ``benchmark, convnet, transformer, difference`` in points."""
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
    shown = readable(rows.assign(model=rows[series]))
    low, high = rows["ci_low"].min(), rows["ci_high"].max()
    look = {"xlim": (low - 0.05 * (high - low), high + 0.05 * (high - low)), "line": 0, "styles": LOOKS}
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
    size = sizes[(sizes.held == "as they are") & (sizes["size"] == "params_m")].set_index("benchmark").loc["imagenet_a"]
    gap, rank = (format_interval(r.value, r.ci_low, r.ci_high, f) for r, f in ((pairs, "+.1f"), (size, "+.2f")))
    told = "" if pairs.verdict != verdicts.OPEN else ", which is not told from chance"
    related = (
        "it goes with size" if size.ci_low > 0 or size.ci_high < 0 else "no relation with size is told from chance"
    )
    return (
        f"Published models of equal ImageNet accuracy: on ImageNet-A, ConvNets score {gap} points against Transformers "
        f"of similar size and the same data ({pairs.n:.0f} matched pairs){told}; {related} (rank correlation with "
        f"ImageNet-A {rank}, n = {size.n:.0f})."
    )


def recorded(sizes: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """Rows of the results schema, of all published models: correlation with size, and matched pairs."""
    plain = sizes[(sizes.held == "as they are") & (sizes["size"] == "params_m")]
    parts = [
        plain.assign(metric="spearman:params_m", unit="correlation"),
        matched.assign(metric="matched:convnet_minus_transformer", unit="points"),
    ]
    rows = pd.concat(parts, ignore_index=True).rename(columns={"benchmark": "dataset"}).assign(model="published_models")
    return rows[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]]
