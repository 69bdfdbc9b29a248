"""Figures of the shape bias page."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, errorbar, legend

# Shape, texture, neither: told apart by lightness and hatch, so not by colour alone.
_CUES = (("shape", "#2b6f77", ""), ("texture", "#d9b44a", "///"), ("neither", "#e9eaee", ""))


def bias_figure(
    table: pd.DataFrame,
    styles: Mapping[str, ModelStyle],
    paper: pd.DataFrame,
    humans: pd.DataFrame,
    human_average: float | None,
) -> Figure:
    """The paper's figure 3: shape bias per category, a vertical line per model at its overall bias.

    Args:
        table: Rows of `metrics.shape_bias.table`.
        styles: Looks of the models.
        paper: Rows `metric, model, value` of the paper; may be empty.
        humans: Rows `category, value` of human observers on the same images; may be empty.
        human_average: Overall human shape bias on the same images, drawn as a dotted line; None without one.
    """
    bias = _categories(table)
    names = list(dict.fromkeys(bias["category"]))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.4 * len(names)))
    errorbar(ax, bias, x="category", styles=styles, order=names, orient="h", dodge=0.19, elinewidth=0.8, capsize=0)
    overall = table[table.metric == "shape_bias"].set_index("model").value
    for model, look in styles.items():
        if model in overall and np.isfinite(overall[model]):
            ax.axvline(overall[model], color=look.color, linestyle=look.linestyle, linewidth=1.8, zorder=0.9)
    if human_average is not None:
        ax.axvline(human_average, color=GREY, linestyle=":", linewidth=1.6, zorder=0.8)
        ax.text(human_average - 0.01, -0.55, "humans", ha="right", va="center", fontsize=10, color="#5b6068")
    if len(humans):
        spots = humans["category"].map({name: i for i, name in enumerate(names)})
        ax.plot(humans["value"], spots, "d", color=GREY, markersize=5, zorder=0.9)
    if len(paper):
        _paper_marks(ax, paper, styles, names)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_ylim(len(names) - 0.4, -0.95)
    ax.set_xlabel("shape bias   ← decides by texture    decides by shape →")
    legend(fig, styles)
    return fig


def decisions_figure(rates: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """What models go by on conflicting images: one stacked bar per model.

    Args:
        rates: Rows `model, shape, texture, neither` in percent.
        styles: Looks of the models; their order is that of the bars.
    """
    rates = rates.set_index("model").loc[[name for name in styles if name in set(rates["model"])]]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.5 * len(rates)))
    left = np.zeros(len(rates))
    for cue, color, hatch in _CUES:
        width = rates[cue].to_numpy(dtype=float)
        ax.barh(range(len(rates)), width, 0.7, left=left, color=color, hatch=hatch, edgecolor="white", label=cue)
        for i, (start, share) in enumerate(zip(left, width, strict=True)):
            if share >= 6:
                box = {"facecolor": color, "edgecolor": "none", "pad": 1.0} if hatch else None
                ink = "white" if cue == "shape" else INK
                ax.text(start + share / 2, i, f"{share:.0f}", ha="center", va="center", color=ink, bbox=box)
        left += width
    ax.set_yticks(range(len(rates)), [styles[name].label for name in rates.index])
    ax.set_ylim(len(rates) - 0.5, -0.5)
    ax.set_xlim(0, 100)
    ax.set_xlabel("decisions on conflicting images (%)")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    return fig


def consistency_figure(pairs: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Error consistency of every two models as a lower triangle with the numbers in it.

    Args:
        pairs: Rows `a, b, kappa` of `metrics.shape_bias.consistency_table`.
        styles: Looks of the models; their order is that of rows and columns.
    """
    names = list(styles)
    grid = np.full((len(names), len(names)), np.nan)
    for row in pairs.itertuples():
        i, j = sorted((names.index(row.a), names.index(row.b)), reverse=True)
        grid[i, j] = row.kappa
    labels = [styles[name].label.replace(", ", ",\n") for name in names]
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.85 * len(names)))
    image = ax.pcolormesh(grid[1:, :-1], cmap="Greys", vmin=0, vmax=1, edgecolor="white", linewidth=2)
    for i, j in zip(*np.nonzero(np.isfinite(grid)), strict=True):
        shade = "white" if grid[i, j] > 0.55 else INK
        ax.text(j + 0.5, i - 0.5, f"{grid[i, j]:.2f}".replace("-", "−"), ha="center", va="center", color=shade)
    ax.set_xticks(np.arange(len(names) - 1) + 0.5, labels[:-1])
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, labels[1:])
    ax.invert_yaxis()
    ax.grid(visible=False)
    fig.colorbar(image, ax=ax, label="Cohen's kappa (1: the same errors)", shrink=0.9)
    return fig


def _categories(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table.metric.str.startswith("shape_bias:")]
    return rows.assign(category=rows.metric.str.removeprefix("shape_bias:"))


def _paper_marks(ax, paper: pd.DataFrame, styles: Mapping[str, ModelStyle], names: list[str]) -> None:
    rows = _categories(paper)
    shown = [name for name in styles if name in set(rows["model"])]
    for i, name in enumerate(shown):
        mine = rows[rows["model"] == name]
        at = mine["category"].map({category: k for k, category in enumerate(names)}) + (i - (len(shown) - 1) / 2) * 0.19
        ax.plot(mine["value"], at, "|", color=INK, markersize=8, zorder=1.5)
