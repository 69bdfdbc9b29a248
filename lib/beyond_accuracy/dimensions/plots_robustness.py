"""Figures of the robustness page."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import logit

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.show.theme import (
    GREY,
    HALO,
    INK,
    WIDTH,
    ModelStyle,
    bar_options,
    category_axis,
    errorbar,
    legend,
    paper_points,
)

_TICKS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 98, 99)
_FLOOR = 0.5  # percent: 0 and 100 have no logit


def lead_pairs(specs: Sequence[ModelSpec]) -> list[tuple[str, str]]:
    """Pairs of models to put against each other: transformer left, convnet right, within one paradigm.

    The study's own two pairs are found this way. Where a paradigm does not hold exactly one of each, its models are
    paired in profile order.
    """
    pairs = []
    for paradigm in dict.fromkeys(spec.paradigm for spec in specs):
        group = [spec for spec in specs if spec.paradigm == paradigm]
        families = {spec.family: spec.name for spec in group}
        if len(group) == 2 and set(families) == {"transformer", "convnet"}:
            pairs.append((families["transformer"], families["convnet"]))
        else:
            pairs += [(a.name, b.name) for a, b in itertools.pairwise(group)][::2]
    return pairs


def lead_figure(
    table: pd.DataFrame,
    differences: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    styles: Mapping[str, ModelStyle],
) -> Figure:
    """The paper's figure 6: for each pair of models, who leads on which set and by how much.

    Args:
        table: Rows `set, model, value` (percent), sets in order.
        differences: Rows `set, model_a, model_b, difference, ci_low, ci_high` (a minus b, points).
        pairs: (left, right) model names, one panel each.
        styles: Looks of the models.
    """
    sets = list(dict.fromkeys(table["set"]))
    height = 0.9 + 0.42 * len(sets)
    fig, axes = plt.subplots(len(pairs), 1, figsize=(WIDTH, height * len(pairs)), squeeze=False)
    for ax, (left, right) in zip(axes.flat, pairs, strict=True):
        gaps = _oriented(differences, right, left)
        diverging_bars(
            ax, table, y="set", left=left, right=right, styles=styles, intervals=gaps, order=sets, unit="points"
        )
    return fig


def diverging_bars(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    y: str,
    left: str,
    right: str,
    styles: Mapping[str, ModelStyle],
    intervals: pd.DataFrame | None = None,
    order: Sequence[object] | None = None,
    unit: str = "",
    decimals: int = 1,
) -> None:
    """The paper's lead chart (figures of robustness and transfer): whoever wins a row pulls the bar to its side.

    The bar is as long as the lead, in the winner's colour and hatch, with the lead printed at its end and the winner's
    own value in a column at the right edge. Equal values draw no bar.

    Args:
        ax: Where to draw.
        frame: Tidy rows with columns `y`, `model`, `value`; one row per category for both models.
        y: Column of the categories (rows of the chart, first at the top).
        left: Model whose leads point left.
        right: Model whose leads point right.
        styles: Looks of the two models.
        intervals: Optional rows with columns `y`, `ci_low`, `ci_high` of the paired difference right minus left.
        order: Order of the categories (default: first appearance).
        unit: Unit of the lead, for the axis label.
        decimals: Digits printed.

    Raises:
        ValueError: A category without exactly one value for each of the two models.
    """
    pair = frame[frame["model"].isin([left, right])]
    if pair.duplicated([y, "model"]).any():
        raise ValueError(f"diverging_bars: more than one value for a ({y}, model) pair")
    wide = pair.pivot(index=y, columns="model", values="value")
    names = list(order) if order is not None else list(pair[y].unique())
    wide = wide.reindex(index=names, columns=[left, right])
    if wide.isna().any().any():
        raise ValueError(f"diverging_bars: no value for {list(wide.index[wide.isna().any(axis=1)])}")
    lead = wide[right] - wide[left]
    ci = None if intervals is None else intervals.set_index(y).reindex(names)
    reach = _lead_limit(lead, ci)
    for i, name in enumerate(names):
        gap = float(lead[name])
        winner = right if gap > 0 else left
        ax.barh(i, gap, 0.68, **bar_options(styles[winner]))
        ends = [gap]
        if ci is not None and np.isfinite(ci.loc[name, ["ci_low", "ci_high"]].to_numpy(dtype=float)).all():
            low, high = ci.loc[name, "ci_low"], ci.loc[name, "ci_high"]
            ax.plot([low, high], [i, i], color=INK, linewidth=1.3, solid_capstyle="butt", path_effects=HALO)
            ends += [low, high]
        end = max(ends) if gap >= 0 else min(ends)
        ax.annotate(
            f"+{abs(gap):.{decimals}f}",
            (end, i),
            xytext=(5 if gap >= 0 else -5, 0),
            textcoords="offset points",
            ha="left" if gap >= 0 else "right",
            va="center",
            fontsize=10.5,
        )
        ax.text(
            1.04,
            i,
            f"{max(wide.loc[name]):.{decimals}f}",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=10.5,
            color=GREY if gap == 0 else INK,
        )
    ax.text(1.04, -0.85, "winner", transform=ax.get_yaxis_transform(), va="center", fontsize=10.5, color=INK)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_xlim(-reach, reach)
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    category_axis(ax, names, "h")
    ax.set_ylim(len(names) - 0.4, -1.2)
    ax.set_xlabel(f"lead ({unit})" if unit else "lead")
    for side, spot, name in (("left", 0.0, f"← {styles[left].label}"), ("right", 1.0, f"{styles[right].label} →")):
        ax.text(spot, 1.01, name, transform=ax.transAxes, ha=side, va="bottom", fontsize=11, fontweight="bold")


def _lead_limit(lead: pd.Series, ci: pd.DataFrame | None) -> float:
    ends = [lead.abs().max()]
    if ci is not None:
        ends.append(ci[["ci_low", "ci_high"]].abs().max().max())
    longest = np.nanmax(np.asarray(ends, dtype=float))
    return 1.5 * longest if longest > 0 else 1.0


def sets_figure(
    table: pd.DataFrame, styles: Mapping[str, ModelStyle], paper: pd.DataFrame, chance: Mapping[str, float]
) -> Figure:
    """Accuracy of every model on every set, with intervals, the paper's value and the chance level.

    Args:
        table: Rows `set, model, value, ci_low, ci_high` (percent), sets in order.
        styles: Looks of the models.
        paper: Rows `set, model, value`; may be empty.
        chance: Set -> chance accuracy in percent.
    """
    sets = list(dict.fromkeys(table["set"]))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.52 * len(sets)))
    errorbar(ax, table, x="set", styles=styles, order=sets, orient="h", dodge=0.17)
    if len(paper):
        paper_points(ax, paper, x="set", styles=styles, order=sets, orient="h", dodge=0.17)
    for i, name in enumerate(sets):
        if name in chance:
            ax.plot([chance[name]] * 2, [i - 0.4, i + 0.4], color=GREY, linestyle=":", linewidth=1.4)
    ax.set_xlim(0, 100)
    ax.set_xlabel("top-1 accuracy (%), dotted: chance")
    legend(fig, styles)
    return fig


def corruption_figure(errors: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Accuracy for every corruption x severity, one panel per model, on one grey scale.

    Args:
        errors: Rows `model, corruption, severity, error` (percent).
        styles: Looks of the models; their order is that of the panels.
    """
    names = [name for name in styles if name in set(errors["model"])]
    kinds, levels = list(dict.fromkeys(errors["corruption"])), sorted(errors["severity"].unique())
    rows = -(-len(names) // 2)
    fig, axes = plt.subplots(
        rows, min(2, len(names)), figsize=(WIDTH, rows * (1.1 + 0.27 * len(kinds))), sharey=True, squeeze=False
    )
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    for ax, name in zip(axes.flat, names, strict=False):
        mine = errors[errors["model"] == name].pivot(index="corruption", columns="severity", values="error")
        grid = 100 - mine.loc[kinds, levels].to_numpy()
        image = ax.pcolormesh(grid, cmap="Greys_r", vmin=0, vmax=100, edgecolor="white", linewidth=0.8)
        for i, j in np.ndindex(grid.shape):
            shade = INK if grid[i, j] > 50 else "white"
            ax.text(j + 0.5, i + 0.5, f"{grid[i, j]:.0f}", ha="center", va="center", fontsize=8.5, color=shade)
        ax.set_title(styles[name].label, fontsize=11)
        ax.set_xticks(np.arange(len(levels)) + 0.5, levels)
        ax.set_yticks(np.arange(len(kinds)) + 0.5, [kind.replace("_", " ") for kind in kinds])
        ax.tick_params(labelsize=10)
        ax.set_ylim(len(kinds), 0)
        ax.grid(visible=False)
    for ax in axes[-1]:
        ax.set_xlabel("severity")
    fig.colorbar(image, ax=axes, label="top-1 accuracy (%)", location="bottom", shrink=0.6, aspect=30, pad=0.02)
    return fig


def shift_figure(
    points: pd.DataFrame, styles: Mapping[str, ModelStyle], board: pd.DataFrame, baseline: pd.Series
) -> Figure:
    """Accuracy under a shift against clean accuracy, on logit axes: above the line is effective robustness.

    Args:
        points: Rows `set, model, clean, clean_low, clean_high, shifted, shifted_low, shifted_high` (percent).
        styles: Looks of the models.
        board: Published models: column `imagenet_1k` and one per set (named as in `points`); may be empty.
        baseline: Mask of the board's models that the line is fitted to.
    """
    sets = list(dict.fromkeys(points["set"]))
    rows = -(-len(sets) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.6 + 2.9 * rows), squeeze=False)
    for ax in axes.flat[len(sets) :]:
        ax.axis("off")
    for ax, name in zip(axes.flat, sets, strict=False):
        mine = points[points["set"] == name]
        across, up = [mine["clean_low"], mine["clean_high"]], [mine["shifted_low"], mine["shifted_high"]]
        if len(board) and name in board:
            fit = _published(ax, board, name, baseline)
            across, up = [*across, fit["imagenet_1k"]], [*up, fit[name]]
        for row in mine.itertuples():
            look = styles[row.model]
            ax.errorbar(
                _logit(row.clean),
                _logit(row.shifted),
                xerr=_reach(row.clean, row.clean_low, row.clean_high),
                yerr=_reach(row.shifted, row.shifted_low, row.shifted_high),
                color=look.color,
                marker=look.marker,
                markerfacecolor=look.markerfacecolor,
                markeredgewidth=1.6,
                elinewidth=1.2,
                zorder=3,
            )
        _logit_axes(ax, across, up)
        ax.set_title(name, fontsize=11)
    fig.supxlabel("clean accuracy (%)", fontsize=11.5)
    fig.supylabel("accuracy under the shift (%)", fontsize=11.5)
    legend(fig, styles)
    return fig


def _oriented(differences: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Differences as a minus b, whichever way round they were computed."""
    same = differences[(differences["model_a"] == a) & (differences["model_b"] == b)]
    other = differences[(differences["model_a"] == b) & (differences["model_b"] == a)]
    turned = other.assign(ci_low=-other["ci_high"], ci_high=-other["ci_low"])
    return pd.concat([same, turned])[["set", "ci_low", "ci_high"]]


def _published(ax, board: pd.DataFrame, name: str, baseline: pd.Series) -> pd.DataFrame:
    known = board["imagenet_1k"].notna() & board[name].notna()
    for mask, marker, color in ((known & ~baseline, "x", "#b9bdc5"), (known & baseline, ".", "#6d737c")):
        part = board[mask]
        ax.plot(_logit(part["imagenet_1k"]), _logit(part[name]), marker, color=color, markersize=4, zorder=1)
    fit = board[known & baseline]
    slope, intercept = np.polyfit(_logit(fit["imagenet_1k"]), _logit(fit[name]), 1)
    ends = _logit(np.array([board.loc[known, "imagenet_1k"].min(), board.loc[known, "imagenet_1k"].max()]))
    inside = _logit(np.array([fit["imagenet_1k"].min(), fit["imagenet_1k"].max()]))
    ax.plot(ends, intercept + slope * ends, color=INK, linestyle=":", linewidth=1.2, zorder=2)
    ax.plot(inside, intercept + slope * inside, color=INK, linewidth=1.4, zorder=2)
    return fit


def _logit(percent):
    return logit(np.clip(np.asarray(percent, dtype=float), _FLOOR, 100 - _FLOOR) / 100)


def _reach(value: float, low: float, high: float) -> list[list[float]]:
    centre = _logit(value)
    return [[max(0.0, float(centre - _logit(low)))], [max(0.0, float(_logit(high) - centre))]]


def _logit_axes(ax, across: list[pd.Series], up: list[pd.Series]) -> None:
    """Ticks in percent, spaced so that they stay apart, and the line of no loss."""
    limits = []
    for axis, columns in ((ax.xaxis, across), (ax.yaxis, up)):
        values = _logit(np.concatenate([column.to_numpy(dtype=float) for column in columns]))
        low, high = values.min() - 0.25, values.max() + 0.25
        ticks: list[int] = []
        for tick in _TICKS:
            at = _logit(tick)
            if low <= at <= high and (not ticks or at - _logit(ticks[-1]) >= (high - low) / 6):
                ticks.append(tick)
        axis.set_ticks(_logit(np.array(ticks)), ticks)
        limits.append((low, high))
    ends = [min(low for low, _ in limits), max(high for _, high in limits)]
    ax.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, zorder=0.5)
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
