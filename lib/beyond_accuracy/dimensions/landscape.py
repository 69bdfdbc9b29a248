"""What differs between published models of equal ImageNet accuracy.

Everything here takes the frame of `reference.leaderboard` (one row per published checkpoint, accuracies in percent) or
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

from beyond_accuracy.measure.stats import clustered_variance, linear_difference, percentile_interval

ROBUSTNESS = ("imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch")
TRANSFER = ("vtab_natural", "vtab_specialized", "vtab_structured")


# ------------------------------------------------------------------------------------------------------------- models


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

    Args:
        statistic: Maps row positions (with repeats) to k numbers; NaN where a resample has no answer.
        n: Number of rows.
        resamples: Number of resamples.
        rng: Source of randomness.
        clusters: (n,) group of each row; whole groups are drawn.

    Returns:
        (resamples, k) draws.
    """
    if clusters is None:
        return np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)], float)
    codes = pd.factorize(np.asarray(clusters))[0]
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    drawn = (rng.integers(0, len(members), len(members)) for _ in range(resamples))
    return np.array([statistic(np.concatenate([members[i] for i in chosen])) for chosen in drawn], float)


def interval(draws: ArrayLike, units: int | None = None) -> tuple[float, float]:
    """Percentile interval of draws of which up to a tenth may be NaN (degenerate resamples).

    Args:
        draws: (resamples,) draws.
        units: Number of groups that were resampled, see `stats.percentile_interval`.

    Raises:
        ValueError: If more than a tenth of the draws are NaN.
    """
    draws = np.asarray(draws, float)
    usable = draws[~np.isnan(draws)]
    if len(usable) < 0.9 * len(draws):
        raise ValueError(f"{len(draws) - len(usable)} of {len(draws)} resamples have no answer: too few models")
    return tuple(percentile_interval(usable, units=units))


# ------------------------------------------------------------------------------------------------------- correlations


def partial_spearman(x: ArrayLike, y: ArrayLike, controls: ArrayLike | None = None) -> float:
    """Spearman correlation of x and y; with controls, the correlation of what the controls leave of both ranks.

    Ranks of x and y are regressed on the ranks of every control (plus a constant), and the residuals correlated
    (Conover, Practical Nonparametric Statistics, section 5.4). A control of 0/1 values is used as it is.

    Args:
        x: (n,) values.
        y: (n,) values.
        controls: (n,) or (n, k) values, or None.

    Returns:
        Correlation in -1..1; NaN when nothing varies.
    """
    return float(_rank_correlations_with_first(np.column_stack([x, y]).astype(float), controls)[0])


def _rank_correlations_with_first(table: NDArray, controls: ArrayLike | None) -> NDArray[np.float64]:
    """Partial rank correlations of the first column with each of the others, shape (columns - 1,)."""
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
    """(Partial) Spearman correlation of one column with several, each with a bootstrap interval over models.

    Args:
        frame: Models; those that lack one of the columns are left out.
        x: Column, e.g. `params_m`.
        ys: Columns, e.g. the robustness benchmarks.
        resamples: Bootstrap resamples.
        rng: Source of randomness.
        controls: Columns held constant; text columns become indicators.

    Returns:
        Rows ``benchmark, value, ci_low, ci_high, n``.

    Raises:
        ValueError: If fewer than 8 models are left.
    """
    part = frame.dropna(subset=[x, *ys, *controls])
    if len(part) < 8:
        raise ValueError(f"{len(part)} models with {x} and {', '.join(ys)}: too few for a correlation")
    values = part[[x, *ys]].to_numpy(float)
    held = pd.get_dummies(part[list(controls)], drop_first=True).to_numpy(float) if controls else None

    def statistic(i: NDArray[np.int64]) -> NDArray[np.float64]:
        return _rank_correlations_with_first(values[i], None if held is None else held[i])

    estimates = statistic(np.arange(len(part)))
    groups = lineage(part)
    draws = bootstrap_models(statistic, len(part), resamples, rng, groups)
    rows = [(y, estimates[k], *interval(draws[:, k], groups.nunique()), len(part)) for k, y in enumerate(ys)]
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "n"])


def rank_correlations(
    frame: pd.DataFrame, columns: Sequence[str], resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Spearman correlation of every pair of benchmarks over models that have all of them.

    Returns:
        Rows ``a, b, value, ci_low, ci_high, n``, each unordered pair once.
    """
    part = frame.dropna(subset=list(columns))
    values = part[list(columns)].to_numpy(float)
    upper = np.triu_indices(len(columns), k=1)

    def statistic(i: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.corrcoef(rankdata(values[i], axis=0), rowvar=False)[upper]

    estimate = statistic(np.arange(len(part)))
    groups = lineage(part)
    draws = bootstrap_models(statistic, len(part), resamples, rng, groups)
    rows = [
        (columns[a], columns[b], estimate[k], *interval(draws[:, k], groups.nunique()), len(part))
        for k, (a, b) in enumerate(zip(*upper, strict=True))
    ]
    return pd.DataFrame(rows, columns=["a", "b", "value", "ci_low", "ci_high", "n"])


# ------------------------------------------------------------------------------------------------------ matched models


def group_gap(
    frame: pd.DataFrame,
    ys: Iterable[str],
    groups: tuple[str, str] = ("convnet", "transformer"),
    column: str = "family",
) -> pd.DataFrame:
    """Difference of means between two groups of models (first minus second), in points.

    Returns:
        Rows ``benchmark, value, ci_low, ci_high, p, n_first, n_second``; standard errors clustered by `lineage`.

    Raises:
        ValueError: If there are fewer than 3 models of a group.
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
        rows.append((y, gap, gap - reach, gap + reach, 2 * t.sf(abs(gap) / error, freedom), *sizes))
    return pd.DataFrame(rows, columns=["benchmark", "value", "ci_low", "ci_high", "p", "n_first", "n_second"])


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
        contrast: The column in which a pair must differ.
        least_ratio: With a numeric contrast: the larger value is at least this many times the smaller.
        groups: With a text contrast: the two values, e.g. ("convnet", "transformer").
        accuracy_within: Largest difference in ImageNet-1K accuracy, points.
        ratio_within: Columns that may differ by at most this factor, e.g. ``{"params_m": 1.5}``.
        same: Columns that must be equal.

    Returns:
        Rows ``first, second`` (positions in ``frame``): first has the larger value, or the first group.
    """
    values, accuracy = frame[contrast].to_numpy(), frame.imagenet_1k.to_numpy(float)
    logs = {column: np.log(frame[column].to_numpy(float)) for column in (ratio_within or {})}
    keys = list(frame[list(same)].astype(str).itertuples(index=False)) if same else [()] * len(frame)
    graph = nx.Graph()
    for i in range(len(frame)):
        for j in range(i + 1, len(frame)):
            gap = abs(accuracy[i] - accuracy[j])
            if gap > accuracy_within or keys[i] != keys[j]:
                continue
            if any(abs(logs[c][i] - logs[c][j]) > np.log(factor) for c, factor in (ratio_within or {}).items()):
                continue
            if groups is None:
                apart = max(values[i], values[j]) >= least_ratio * min(values[i], values[j])
            else:
                apart = {values[i], values[j]} == set(groups)
            if apart:
                graph.add_edge(i, j, weight=1 - gap / (accuracy_within + 1e-9))
    matched = nx.max_weight_matching(graph, maxcardinality=True)
    rows = []
    for i, j in matched:
        swap = values[i] != groups[0] if groups is not None else values[i] < values[j]
        rows.append((j, i) if swap else (i, j))
    return pd.DataFrame(sorted(rows), columns=["first", "second"], dtype="int64")


def pair_differences(frame: pd.DataFrame, pairs: pd.DataFrame, ys: Iterable[str]) -> pd.DataFrame:
    """Mean difference within matched pairs (first minus second), in points.

    Returns:
        Rows ``benchmark, value, ci_low, ci_high, p, n`` (n pairs); standard errors clustered by the `lineage` of both
        sides, for the pairs of one family are no independent evidence.

    Raises:
        ValueError: If there are fewer than 5 pairs.
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

    Args:
        board: Published models (the model itself, by name, is not its own peer).
        model: A row with ``model, paradigm, imagenet_1k`` and the benchmarks.
        columns: Benchmarks.
        within: Peers differ by at most this many points of ImageNet-1K accuracy.
        least: Fewer peers than this give no answer.

    Returns:
        Rows ``benchmark, value, peers_mean, difference, rank_share, n``: ``rank_share`` is the share of peers that
        score lower (ties count half). Empty where there are fewer than ``least`` peers.
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


def own_rows(results: pd.DataFrame, specs: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """This run's models in the leaderboard's columns, from the robustness rows of the results table.

    Args:
        results: Rows of the results schema.
        specs: Model name -> (family, paradigm).

    Returns:
        One row per model with an ImageNet-1K accuracy: ``model, source, family, paradigm`` and the benchmarks measured
        (``source`` = ``this run``). Empty when the run has no ImageNet: its worlds are not on the published axes.
    """
    wanted = ["imagenet_1k", "imagenet_real", *ROBUSTNESS, "objectnet"]
    rows = results[(results.dimension == "robustness") & (results.metric == "accuracy") & results.dataset.isin(wanted)]
    wide = rows.pivot(index="model", columns="dataset", values="value").reset_index()
    if "imagenet_1k" not in wide or wide.empty:
        return pd.DataFrame(columns=["model", "source", "family", "paradigm", "imagenet_1k"])
    wide = wide.dropna(subset=["imagenet_1k"])
    kinds = wide.model.map(lambda name: specs.get(name, ("other", "supervised")))
    return wide.assign(source="this run", family=kinds.str[0], paradigm=kinds.str[1]).rename_axis(columns=None)


def as_results(table: pd.DataFrame, metric: str, unit: str) -> pd.DataFrame:
    """Rows of the results schema (without ``dimension``) for a statistic of all published models.

    Args:
        table: Rows ``benchmark, value, ci_low, ci_high, n``.
        metric: Name of the statistic.
        unit: Its unit.
    """
    frame = table.rename(columns={"benchmark": "dataset"}).assign(metric=metric, model="published_models", unit=unit)
    return frame[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]]
