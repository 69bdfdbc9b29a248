"""Figures of the ablation page: effects with intervals, cells with every training run, narrow against broad training.

An effect is told by its marker (and colour), whether it is decided by its fill. Cells look as the report's four models
do: the family gives colour and marker, CLIP is dashed and hollow.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.dimensions.ablation import LEVELS
from beyond_accuracy.dimensions.words_ablation import NOUNS
from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, style

_MARKS = (("o", INK), ("s", "#2f7ec0"), ("D", "#b3261e"), ("v", "#7d7400"))
_STEM = {"transformer": "vit", "convnet": "convnext", "supervised": "sup", "clip": "clip"}


def cell_style(architecture: str, objective: str) -> ModelStyle:
    """The look of a cell: that of the report's model of the same architecture and objective."""
    name = f"{_STEM[architecture]}_{_STEM[objective]}"
    label = f"{NOUNS[architecture]}, {NOUNS[objective]}"
    return style(ModelSpec(name, "timm", label=label, family=architecture, paradigm=objective))


def effects_figure(table: pd.DataFrame, terms: Mapping[str, str], xlabels: Mapping[str, str]) -> Figure:
    """Effects as dots with intervals against a line at zero: a row per quantity, a marker per effect, panels below.

    Args:
        table: Rows ``panel, row, term, value, ci_low, ci_high, decided``; rows and panels in the order they come.
        terms: Term -> its name in the legend, at most four.
        xlabels: Panel -> label of its axis.
    """
    panels = {name: list(dict.fromkeys(part.row)) for name, part in table.groupby("panel", sort=False)}
    sizes = [len(rows) * 0.13 * (1 + len(terms)) + 0.75 for rows in panels.values()]
    fig, axes = plt.subplots(
        len(panels), 1, figsize=(WIDTH, 0.7 + sum(sizes)), height_ratios=sizes, squeeze=False
    )  # fmt: skip
    for ax, (panel, rows) in zip(axes[:, 0], panels.items(), strict=True):
        ax.axvline(0, color=INK, linewidth=1)
        for k, term in enumerate(terms):
            part = table[(table.panel == panel) & (table.term == term)].set_index("row").reindex(rows)
            at = np.arange(len(rows)) + (k - (len(terms) - 1) / 2) * 0.22
            marker, color = _MARKS[k % len(_MARKS)]
            for row, y in zip(part.itertuples(), at, strict=True):
                if np.isfinite(row.value):
                    _dot(ax, row, y, marker, color)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        for edge in np.arange(len(rows) - 1) + 0.5:
            ax.axhline(edge, color="#e4e6ea", linewidth=0.8, zorder=0)
        ax.set_title(panel)
        ax.set_xlabel(xlabels[panel])
    handles = [
        Line2D([], [], marker=_MARKS[k][0], color=_MARKS[k][1], label=label) for k, label in enumerate(terms.values())
    ]
    hollow = Line2D([], [], marker="o", color=GREY, markerfacecolor="white", markeredgewidth=1.6, label="undecided")
    fig.legend(handles=[*handles, hollow], loc="outside upper left", ncols=1 if len(terms) > 2 else 2)
    return fig


def _dot(ax: Axes, row, y: float, marker: str, color: str) -> None:
    ax.errorbar(
        row.value,
        y,
        xerr=[[row.value - row.ci_low], [row.ci_high - row.value]],
        fmt=marker,
        color=color,
        markerfacecolor=color if row.decided else "white",
        markeredgewidth=1.6,
        elinewidth=1.6,
        capsize=2.5,
    )


def cells_figure(runs: pd.DataFrame, titles: Sequence[str], own: pd.DataFrame | None = None) -> Figure:
    """Interaction plot: supervised and CLIP side by side, a line per architecture, every training run a small point.

    Lines that are not parallel are an interaction.

    Args:
        runs: Rows ``title, architecture, objective, value``, one per run.
        titles: Panels in order, two per row.
        own: The profile's own models with the same columns, drawn as stars.
    """
    fig, axes = _grid(len(titles))
    positions = {objective: k for k, objective in enumerate(LEVELS["objective"])}
    for ax, title in zip(axes, titles, strict=False):
        part = runs[runs.title == title]
        for k, architecture in enumerate(LEVELS["architecture"]):
            look = cell_style(architecture, "supervised")
            mine = part[part.architecture == architecture]
            aside = 0.09 * (k - 0.5)
            ax.plot(
                _at(mine.objective, positions) + 3 * aside, mine.value, look.marker, color=look.color, markersize=4.5,
                alpha=0.75, markeredgewidth=0,
            )  # fmt: skip
            means = mine.groupby("objective").value.mean().reindex(list(positions))
            ax.plot(
                np.arange(2) + aside, means, color=look.color, marker=look.marker, markersize=8.5,
                label=NOUNS[architecture], markeredgecolor="white", markeredgewidth=1,
            )  # fmt: skip
            if own is not None:
                stars = own[(own.title == title) & (own.architecture == architecture)]
                ax.plot(
                    _at(stars.objective, positions) + 5.4 * aside, stars.value, "*", color=look.color, markersize=11,
                    linestyle="none", markeredgecolor=INK, markeredgewidth=0.8,
                )  # fmt: skip
        _two_columns(ax, [NOUNS[objective] for objective in positions], title)
    handles, labels = axes[0].get_legend_handles_labels()
    handles.append(Line2D([], [], marker="o", color=GREY, linestyle="none", markersize=4.5))
    labels.append("one training run")
    if own is not None and len(own):
        handles.append(Line2D([], [], marker="*", color="white", markeredgecolor=INK, linestyle="none", markersize=11))
        labels.append("this report's models")
    fig.legend(handles, labels, loc="outside upper left", ncols=2)
    return fig


def diversity_figure(runs: pd.DataFrame, titles: Sequence[str]) -> Figure:
    """Narrow and broad training data side by side, a line per cell, every training run a small point.

    Args:
        runs: Rows ``title, diversity, architecture, objective, value``, one per run.
        titles: Panels in order, two per row.
    """
    fig, axes = _grid(len(titles))
    positions = {name: k for k, name in enumerate(LEVELS["diversity"])}
    cells = [(a, o) for o in LEVELS["objective"] for a in LEVELS["architecture"]]
    for ax, title in zip(axes, titles, strict=False):
        part = runs[runs.title == title]
        for k, (architecture, objective) in enumerate(cells):
            look = cell_style(architecture, objective)
            mine = part[(part.architecture == architecture) & (part.objective == objective)]
            aside = 0.1 * (k - 1.5)
            ax.plot(
                _at(mine.diversity, positions) + aside, mine.value, look.marker, color=look.color, markersize=4,
                markerfacecolor=look.markerfacecolor, markeredgewidth=0.9, linestyle="none", alpha=0.7,
            )  # fmt: skip
            means = mine.groupby("diversity").value.mean().reindex(list(positions))
            ax.plot(
                np.arange(2) + aside, means, color=look.color, marker=look.marker, markersize=8, markeredgewidth=1.6,
                markerfacecolor=look.markerfacecolor, linestyle=look.linestyle, label=look.label,
            )  # fmt: skip
        _two_columns(ax, list(positions), title)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return fig


def _at(levels: pd.Series, positions: Mapping[str, int]) -> np.ndarray:
    return np.array([positions[level] for level in levels], float)


def _grid(count: int) -> tuple[Figure, np.ndarray]:
    rows = -(-count // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.8 + 2.4 * rows), squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, axes.flat


def _two_columns(ax: Axes, names: Sequence[str], title: str) -> None:
    ax.set_xticks([0, 1], names)
    ax.set_xlim(-0.5, 1.5)
    ax.margins(y=0.12)
    ax.grid(axis="x", visible=False)
    ax.set_title(title)
