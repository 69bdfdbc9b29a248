"""Figures of the transfer page: what a linear probe finds in frozen features."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, errorbar, legend


def few_shot_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle], chance: Mapping[str, float]) -> Figure:
    """Accuracy over the number of training images per class, one panel per set of tasks.

    Args:
        table: Rows ``panel, shots, model, value, ci_low, ci_high`` in percent.
        styles: Looks of the models.
        chance: Panel -> chance accuracy in percent.
    """
    panels = list(dict.fromkeys(table.panel))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, 0.7 + 2.5 * rows), sharex=True, squeeze=False)
    shots = sorted(table.shots.unique())
    for ax, panel in zip(axes.flat, panels, strict=False):
        part = table[table.panel == panel].assign(at=np.log2(table.shots.astype(float)))
        errorbar(ax, part, x="at", styles=styles, line=True, dodge=0.08)
        ax.axhline(chance[panel], color=GREY, linestyle=":", linewidth=1.4)
        ax.set_xticks(np.log2(shots), [f"{k}" for k in shots])
        ax.set_title(panel)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    fig.supxlabel("training images per class", fontsize=11.5)
    fig.supylabel("accuracy (%), dotted: chance", fontsize=11.5)
    legend(fig, styles, kind="line")
    return fig


def pairs_of_points_figure(
    table: pd.DataFrame,
    styles: Mapping[str, ModelStyle],
    *,
    first: str,
    second: str,
    labels: tuple[str, str],
    xlabel: str,
    order: Sequence[str] = (),
) -> Figure:
    """Two accuracies of each model on each task, joined by a line: a dot and the model's marker.

    Args:
        table: Rows ``task, model`` and the two columns, in percent.
        styles: Looks of the models in the table.
        first: Column drawn as a small dot.
        second: Column drawn as the model's marker.
        labels: What the two are, for the legend.
        xlabel: Axis label.
        order: Tasks from top to bottom.
    """
    tasks = list(order) or list(dict.fromkeys(table.task))
    names = [name for name in styles if (table.model == name).any()]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + len(tasks) * max(0.36, 0.24 * len(names))))
    for k, name in enumerate(names):
        look = styles[name]
        mine = table[table.model == name].set_index("task").reindex(tasks)
        at = np.arange(len(tasks)) + (k - (len(names) - 1) / 2) * 0.3
        ax.hlines(at, mine[first], mine[second], color=look.color, linestyle=look.linestyle, linewidth=1.6)
        ax.plot(mine[first], at, "o", color=INK, markersize=4, linestyle="none")
        ax.plot(
            mine[second], at, look.marker, color=look.color, markerfacecolor=look.markerfacecolor, markersize=8,
            markeredgewidth=1.8, linestyle="none",
        )  # fmt: skip
    ax.set_yticks(range(len(tasks)), [str(task) for task in tasks])
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    legend(fig, {name: styles[name] for name in names})
    ax.set_title(f"dot: {labels[0]}; marker: {labels[1]}", fontsize=10.5, fontweight="normal")
    return fig
