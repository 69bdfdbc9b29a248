"""Figures of the synthetic data page: accuracy per factor, along each factor, and how much each factor matters."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from beyond_accuracy.show.theme import INK, WIDTH, ModelStyle, chance_line, errorbar, legend, paper_points

_SHADE = "#eef0f3"
_WIDEST_GAP = 90.0  # degrees between neighbouring levels; a wider gap is not bridged by a line


def factor_figure(
    table: pd.DataFrame, styles: Mapping[str, ModelStyle], paper: pd.DataFrame, chance: float | None
) -> Figure:
    """The paper's figure 7: accuracy per factor, here with intervals.

    Args:
        table: Rows `factor, model, value, ci_low, ci_high` (percent), factors in order.
        styles: Looks of the models.
        paper: Rows `factor, model, value`; may be empty.
        chance: Chance accuracy in percent, or None.
    """
    factors = list(dict.fromkeys(table["factor"]))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.47 * len(factors)))
    errorbar(ax, table, x="factor", styles=styles, order=factors, orient="h", dodge=0.18)
    if len(paper):
        paper_points(ax, paper, x="factor", styles=styles, order=factors, orient="h", dodge=0.18)
    if chance is not None:
        chance_line(ax, chance, orient="h")
    ax.set_xlim(left=0)
    ax.set_xlabel("accuracy over all levels of the factor (%)")
    legend(fig, styles)
    return fig


def curve_figure(
    curve: pd.DataFrame,
    styles: Mapping[str, ModelStyle],
    factors: Sequence[str],
    usual: Mapping[str, tuple[float, float]],
    chance: float | None,
    log: Sequence[str] = (),
) -> Figure:
    """Accuracy along numeric factors, one panel each; the range that ordinary images cover is shaded.

    Args:
        curve: Rows `factor, level_value, model, value, ci_low, ci_high` (percent).
        styles: Looks of the models.
        factors: Factors to show, in order.
        usual: Factor -> (low, high) of ordinary images, where known.
        chance: Chance accuracy in percent, or None.
        log: Factors on a logarithmic axis.
    """
    rows = -(-len(factors) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.6 + 2.35 * rows), sharey=True, squeeze=False)
    for ax in axes.flat[len(factors) :]:
        ax.axis("off")
    for ax, factor in zip(axes.flat, factors, strict=False):
        mine = curve[curve["factor"] == factor]
        if factor in log:
            ax.set_xscale("log")
            levels = sorted(mine["level_value"].unique())
            ax.set_xticks(levels[:: max(1, len(levels) // 4)], [f"{x:g}" for x in levels[:: max(1, len(levels) // 4)]])
            ax.minorticks_off()
        if factor in usual:
            ax.axvspan(*usual[factor], color=_SHADE, zorder=0)
        errorbar(ax, mine, x="level_value", styles=styles, line=True, markersize=5, capsize=0)
        if chance is not None:
            ax.axhline(chance, color="#8a8f98", linestyle=":", linewidth=1.4)
        ax.set_title(factor.replace("_", " "), fontsize=11)
        ax.set_ylim(0, 103)
    fig.supylabel("accuracy (%)", fontsize=11.5)
    legend(fig, styles, kind="line")
    return fig


def polar_figure(
    curve: pd.DataFrame, styles: Mapping[str, ModelStyle], factors: Sequence[str], usual: Mapping[str, tuple]
) -> Figure:
    """Accuracy over angles as polar plots: the radius is accuracy, 0 degrees points up, angles run clockwise.

    A curve is closed where its levels go round the whole circle. Arguments as for `curve_figure`.
    """
    rows = -(-len(factors) // 2)
    fig, axes = plt.subplots(
        rows, 2, figsize=(WIDTH, 0.7 + 3.1 * rows), squeeze=False, subplot_kw={"projection": "polar"}
    )
    for ax in axes.flat[len(factors) :]:
        ax.axis("off")
    for ax, factor in zip(axes.flat, factors, strict=False):
        mine = curve[curve["factor"] == factor]
        ax.set_theta_zero_location("N")
        ax.set_theta_direction(-1)
        if factor in usual:
            low, high = np.deg2rad(usual[factor])
            ax.bar((low + high) / 2, 100, width=high - low, color=_SHADE, edgecolor="none", zorder=0)
        for name, look in styles.items():
            part = mine[mine["model"] == name].sort_values("level_value")
            if len(part):
                _closed_line(ax, part, look)
        ax.set_ylim(0, 100)
        ax.set_yticks([50, 100], ["50", "100"], fontsize=9)
        degrees = np.arange(0, 360, 45)
        ax.set_xticks(np.deg2rad(degrees), [f"{(d + 180) % 360 - 180 if d != 180 else 180}°" for d in degrees])
        ax.tick_params(axis="x", labelsize=9.5, pad=0)
        ax.set_title(factor.replace("_", " "), fontsize=11, loc="left", pad=14)
    legend(fig, styles, kind="line")
    return fig


def category_figure(curve: pd.DataFrame, styles: Mapping[str, ModelStyle], factor: str, chance: float | None) -> Figure:
    """Accuracy at each level of a factor without order (background, texture), hardest at the bottom.

    Of more than 24 levels only the 24 hardest are drawn.
    """
    mine = curve[curve["factor"] == factor]
    order = mine.groupby("level")["value"].mean().sort_values(ascending=False).index.tolist()[-24:]
    mine = mine[mine["level"].isin(order)]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.42 * len(order)))
    errorbar(ax, mine, x="level", styles=styles, order=order, orient="h", dodge=0.17, markersize=6)
    if chance is not None:
        chance_line(ax, chance, orient="h")
    ax.set_xlim(0, 102)
    ax.set_xlabel("accuracy (%)")
    legend(fig, styles)
    return fig


def sensitivity_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """How far accuracy moves along each factor, against the range that noise alone would show.

    Args:
        table: Rows of `metrics.synthetic.sensitivity`.
        styles: Looks of the models.
    """
    order = table.groupby("factor")["range"].mean().sort_values(ascending=False).index.tolist()
    rows = table.rename(columns={"range": "value", "range_low": "ci_low", "range_high": "ci_high"})
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.47 * len(order)))
    errorbar(ax, rows, x="factor", styles=styles, order=order, orient="h", dodge=0.18)
    noise = table.groupby("factor")["range_chance"].max()
    for i, factor in enumerate(order):
        ax.fill_betweenx([i - 0.42, i + 0.42], 0, noise[factor], color=_SHADE, zorder=0)
        ax.plot([noise[factor]] * 2, [i - 0.42, i + 0.42], color=INK, linestyle=":", linewidth=1.2, zorder=0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("best minus worst level (points); dotted: what noise alone reaches")
    legend(fig, styles)
    return fig


def _closed_line(ax, part: pd.DataFrame, look: ModelStyle) -> None:
    angle, value = part["level_value"].to_numpy(dtype=float), part["value"].to_numpy(dtype=float)
    gaps = np.diff(np.append(angle, angle[0] + 360))
    if gaps.max() <= _WIDEST_GAP:
        angle, value = np.append(angle, angle[0] + 360), np.append(value, value[0])
    ax.plot(
        np.deg2rad(angle),
        value,
        color=look.color,
        marker=look.marker,
        markerfacecolor=look.markerfacecolor,
        linestyle=look.linestyle,
        markersize=4.5,
        linewidth=1.5,
        zorder=2,
    )
