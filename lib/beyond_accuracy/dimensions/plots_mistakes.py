"""Figures of the mistakes page."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from beyond_accuracy.dimensions.mistakes import AVERAGE
from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, errorbar, legend, paper_points

# What the raters say of an error, told apart by lightness and hatch, so not by colour alone.
_KINDS = (("true mistake", "#8c1a12", ""), ("label noise", "#e3b7b1", "///"), ("no ReaL label", "#eceaea", ".."))


def hardest_first(table: pd.DataFrame) -> list[str]:
    """Factors by falling error ratio (mean over models), the average last."""
    order = table.groupby("factor")["value"].mean().sort_values(ascending=False, kind="stable").index
    return [*(name for name in order if name != AVERAGE), *(name for name in order if name == AVERAGE)]


def ratio_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle], paper: pd.DataFrame) -> Figure:
    """The paper's figure 2: error ratio of each factor, all models side by side, with intervals.

    Args:
        table: Rows of `metrics.mistakes.factor_table` of the kind `error_ratio`.
        styles: Looks of the models.
        paper: Rows `factor, model, value` of the paper; may be empty.
    """
    order = hardest_first(table)
    shown = {name: look for name, look in styles.items() if name in set(table["model"])}
    counts = table.drop_duplicates("factor").set_index("factor")["n"]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.4 + (0.2 + 0.09 * len(shown)) * len(order)))
    dodge = 0.72 / max(len(shown), 1)
    options = {"styles": shown, "x": "factor", "order": order, "orient": "h", "dodge": dodge}
    errorbar(ax, table, elinewidth=1.0, capsize=0, markersize=6, **options)
    known = paper[paper["factor"].isin(order)] if len(paper) else paper
    if len(known):
        paper_points(ax, known, **options)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set_yticks(range(len(order)), [f"{name.replace('_', ' ')}  ({counts[name]:,})" for name in order])
    for i in range(0, len(order), 2):
        ax.axhspan(i - 0.5, i + 0.5, color=GREY, alpha=0.09, linewidth=0)
    ax.set_xlim(left=0, right=_reach(table))
    ax.set_xlabel("error ratio   ← easier than usual    harder than usual →")
    legend(fig, shown)
    return fig


def difference_figure(differences: pd.DataFrame, styles: Mapping[str, ModelStyle], order: Sequence[str]) -> Figure:
    """Paired differences of factor effects, a panel per pair; filled where the difference survives Holm's correction.

    Args:
        differences: Columns `model_a`, `model_b`, `factor`, `difference`, `ci_low`, `ci_high`, `p_holm`.
        styles: Looks of the models, for their labels.
        order: Factors from top to bottom.
    """
    pairs = list(dict.fromkeys(zip(differences["model_a"], differences["model_b"], strict=True)))
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    size = (WIDTH, rows * (1.15 + 0.24 * len(order)))
    fig, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    place = {name: i for i, name in enumerate(order)}
    for ax, (a, b) in zip(axes.flat, pairs, strict=False):
        mine = differences[(differences["model_a"] == a) & (differences["model_b"] == b)]
        for row in mine.itertuples():
            sure = row.p_holm < 0.05
            reach = np.clip([[row.difference - row.ci_low], [row.ci_high - row.difference]], 0, None)
            look = {"color": INK if sure else GREY, "markerfacecolor": INK if sure else "white"}
            ax.errorbar([row.difference], [place[row.factor]], xerr=reach, fmt="o", markersize=5.5, capsize=0, **look)
        ax.axvline(0, color=INK, linewidth=1)
        ax.set_title(f"{styles[a].label}\nminus {styles[b].label}", fontsize=10.5)
        ax.grid(axis="y", visible=False)
    for ax in axes.flat[len(pairs) :]:
        ax.set_visible(False)
    axes[0, 0].set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    axes[0, 0].set_ylim(len(order) - 0.4, -0.6)
    # All but the very widest intervals of the rarest factors; zero is always in sight.
    low, high = min(0.0, differences["ci_low"].quantile(0.03)), max(0.0, differences["ci_high"].quantile(0.97))
    low, high = min(low, differences["difference"].min()), max(high, differences["difference"].max())
    axes[0, 0].set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    fig.supxlabel("difference of the factor's effect, log-odds (filled: p < 0.05 after Holm)", fontsize=11.5)
    return fig


def groups_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Error rate within each group of classes, hardest first.

    Args:
        table: Rows of `metrics.mistakes.errors_by_group`.
        styles: Looks of the models.
    """
    shown = {name: look for name, look in styles.items() if name in set(table["model"])}
    order = list(table.groupby("group")["error_rate"].mean().sort_values(ascending=False, kind="stable").index)
    counts = table.drop_duplicates("group").set_index("group")["n"]
    percent = table.assign(
        value=100 * table["error_rate"], ci_low=100 * table["ci_low"], ci_high=100 * table["ci_high"]
    )
    fig, ax = plt.subplots(figsize=(WIDTH, 1.4 + (0.2 + 0.07 * len(shown)) * len(order)))
    dodge = 0.7 / max(len(shown), 1)
    errorbar(
        ax,
        percent,
        x="group",
        styles=shown,
        order=order,
        orient="h",
        dodge=dodge,
        elinewidth=1,
        capsize=0,
        markersize=6,
    )
    ax.set_yticks(range(len(order)), [f"{str(name).replace('_', ' ')}  ({counts[name]:,})" for name in order])
    for i in range(0, len(order), 2):
        ax.axhspan(i - 0.5, i + 0.5, color=GREY, alpha=0.09, linewidth=0)
    ax.set_xlim(left=0)
    ax.set_xlabel("error rate (%)")
    legend(fig, shown)
    return fig


def split_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """What the ReaL raters say of each model's errors: one stacked bar per model.

    Args:
        table: Rows of `metrics.mistakes.real_split` with a column `model`.
        styles: Looks of the models; their order is that of the bars.
    """
    wide = table.pivot(index="model", columns="kind", values="share")
    wide = wide.loc[[name for name in styles if name in wide.index]]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.5 * len(wide)))
    left = np.zeros(len(wide))
    for kind, color, hatch in _KINDS:
        width = 100 * wide[kind].to_numpy(dtype=float)
        ax.barh(range(len(wide)), width, 0.7, left=left, color=color, hatch=hatch, edgecolor="white", label=kind)
        for i, (start, share) in enumerate(zip(left, width, strict=True)):
            if share >= 6:
                box = {"facecolor": color, "edgecolor": "none", "pad": 1.0} if hatch else None
                ink = "white" if kind == "true mistake" else INK
                ax.text(start + share / 2, i, f"{share:.0f}", ha="center", va="center", color=ink, bbox=box)
        left += width
    ax.set_yticks(range(len(wide)), [styles[name].label for name in wide.index])
    ax.set_ylim(len(wide) - 0.5, -0.5)
    ax.set_xlim(0, 100)
    ax.set_xlabel("errors against the original label (%)")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    return fig


def _reach(table: pd.DataFrame) -> float:
    """Right end of the axis: the largest value, and all but the very widest intervals."""
    ends = table["ci_high"].dropna()
    widest = ends.quantile(0.97) if len(ends) else 0.0
    return 1.06 * max(table["value"].max(), widest, 1.0)
