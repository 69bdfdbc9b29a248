"""Figures of the landscape page: published models as points, what goes with what as dots with intervals.

Marker and colour tell the architecture; filled is supervised, hollow is zero-shot CLIP, pale is any other pretraining.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import expit, logit

from beyond_accuracy.show.theme import GREY, INK, ORANGE, PURPLE, WIDTH, ModelStyle

FAMILIES = {
    "transformer": (ORANGE, "o"),
    "convnet": (PURPLE, "^"),
    "hybrid": ("#1b7f6b", "s"),
    "other": ("#5b5f66", "D"),
}
KINDS = {"supervised": "supervised", "clip": "CLIP, zero-shot", "other": "other pretraining"}
NAMES = {
    "imagenet_1k": "ImageNet", "imagenet_real": "ReaL", "imagenet_v2": "V2", "imagenet_a": "A", "imagenet_r": "R",
    "imagenet_sketch": "Sketch", "objectnet": "ObjectNet", "vtab_natural": "VTAB natural",
    "vtab_specialized": "VTAB specialized", "vtab_structured": "VTAB structured", "params_m": "parameters",
    "gmacs": "multiply-adds", "pretrain_samples": "data set size", "samples_seen": "samples seen",
}  # fmt: skip
_SERIES = ((INK, "o", "full"), ("#2f7ec0", "s", "none"), ("#b3261e", "D", "full"), ("#7d7400", "v", "none"))
_HALO = [patheffects.withStroke(linewidth=3, foreground="white")]


def kind_of(paradigm: str) -> str:
    """`supervised`, `clip` (zero-shot) or `other`: how a point is filled."""
    return paradigm if paradigm in ("supervised", "clip") else "other"


def readable(name: str) -> str:
    """A column's name for readers."""
    return NAMES.get(name, name.replace("_", " "))


def point_details(board: pd.DataFrame) -> pd.Series:
    """One line of text per model: size, pretraining and accuracies, for tooltips."""
    accuracies = ["imagenet_1k", "imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch"]
    lines = []
    for row in board.to_dict("records"):
        parts = [f"{readable(c)} {row[c]:.1f} %" for c in accuracies if pd.notna(row.get(c))]
        sizes = [(row.get("params_m"), "M parameters"), (row.get("gmacs"), "G multiply-adds")]
        parts += [f"{value:.3g} {unit}" for value, unit in sizes if pd.notna(value)]
        source = row.get("pretrain_data")
        lines.append(", ".join([*parts, f"{row['paradigm']} on {source}" if pd.notna(source) else row["paradigm"]]))
    return pd.Series(lines, index=board.index)


def estimates_figure(
    table: pd.DataFrame,
    *,
    series: str,
    xlabel: str,
    panel: str = "",
    order: Sequence[str] = (),
    value: str = "value",
) -> Figure:
    """Dots with intervals against a line at zero: one row per benchmark, one marker per series, one panel per group.

    Args:
        table: Rows with ``benchmark, value, ci_low, ci_high`` and the columns named below.
        series: Column whose values get markers of their own (at most four).
        xlabel: What the axis shows.
        panel: Column whose values get panels of their own, below each other.
        order: Benchmarks from top to bottom; default: as they come.
        value: Column of the estimate.
    """
    panels = list(table[panel].unique()) if panel else [""]
    rows = list(order) or list(table.benchmark.unique())
    names = list(table[series].unique())
    height = 0.5 + len(panels) * (0.75 + len(rows) * max(0.34, 0.17 * len(names)))
    fig, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, height), sharex=True, squeeze=False)
    for ax, name in zip(axes[:, 0], panels, strict=True):
        part = table[table[panel] == name] if panel else table
        ax.axvline(0, color=INK, linewidth=1)
        for k, one in enumerate(names):
            mine = part[part[series] == one].set_index("benchmark").reindex(rows)
            at = np.arange(len(rows)) + (k - (len(names) - 1) / 2) * 0.22
            color, marker, fill = _SERIES[k % len(_SERIES)]
            ax.errorbar(
                mine[value],
                at,
                xerr=[mine[value] - mine.ci_low, mine.ci_high - mine[value]],
                fmt=marker,
                color=color,
                fillstyle=fill,
                markeredgewidth=1.5,
                elinewidth=1.5,
                capsize=2.5,
                label=readable(str(one)),
            )
        ax.set_yticks(range(len(rows)), [readable(row) for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        if name:
            ax.set_title(name)
    axes[-1, 0].set_xlabel(xlabel)
    if len(names) > 1:
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return fig


def pairs_figure(gaps: pd.DataFrame, summary: pd.DataFrame, xlabel: str) -> Figure:
    """Every matched pair as a small point and the mean with its interval below it.

    Args:
        gaps: Rows ``benchmark, difference`` (one per pair).
        summary: Rows ``benchmark, value, ci_low, ci_high``.
        xlabel: Direction of the difference.
    """
    rows = list(summary.benchmark)
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.62 * len(rows)))
    ax.axvline(0, color=INK, linewidth=1)
    for k, row in enumerate(summary.itertuples()):
        points = gaps.loc[gaps.benchmark == row.benchmark, "difference"].to_numpy()
        spread = np.linspace(-0.1, 0.1, len(points))[np.argsort(np.argsort(points * 7919 % 1))]
        ax.plot(points, k - 0.12 + spread, "o", color=GREY, markersize=4, alpha=0.7, markeredgewidth=0)
        reach = [[row.value - row.ci_low], [row.ci_high - row.value]]
        ax.errorbar(row.value, k + 0.24, xerr=reach, fmt="D", color=INK, capsize=3, elinewidth=1.8)
    ax.set_yticks(range(len(rows)), [readable(row) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    handles = [
        Line2D([], [], marker="o", color=GREY, linestyle="none", markersize=4, label="one pair"),
        Line2D([], [], marker="D", color=INK, label="mean, 95 % interval"),
    ]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)
    return fig


def correlation_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Rank correlations as a matrix with numbers, one panel per set of models.

    Args:
        tables: Title -> rows ``a, b, value`` (each pair once), as `landscape.rank_correlations` returns.
    """
    sizes = [len(dict.fromkeys([*t.a, *t.b])) for t in tables.values()]
    fig, axes = plt.subplots(
        len(tables), 1, figsize=(WIDTH, 0.6 + sum(0.62 + 0.42 * n for n in sizes)), height_ratios=sizes, squeeze=False
    )
    for ax, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        names = list(dict.fromkeys([*table.a, *table.b]))
        matrix = pd.DataFrame(np.nan, names, names)
        for row in table.itertuples():
            matrix.loc[row.b, row.a] = row.value
        shown = matrix.iloc[1:, :-1]
        ax.imshow(shown, cmap="Greys", vmin=0, vmax=1.4, aspect="auto")
        for i, j in zip(*np.nonzero(shown.notna().to_numpy()), strict=True):
            number = shown.iat[i, j]
            ax.text(
                j,
                i,
                f"{number:.2f}".replace("-", "−"),
                ha="center",
                va="center",
                fontsize=10,
                color="white" if number > 0.6 else INK,
            )
        names_x = [readable(n) for n in shown.columns]
        ax.set_xticks(range(len(names_x)), names_x, fontsize=9.5, rotation=25, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(shown)), [readable(n) for n in shown.index])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_title(title)
    return fig


def published_figure(
    board: pd.DataFrame,
    benchmarks: Sequence[str],
    baseline: pd.Series,
    marked: Mapping[str, ModelStyle],
    own: pd.DataFrame | None = None,
    x: str = "imagenet_1k",
    least: float = 45.0,
) -> Figure:
    """Benchmark against ImageNet on log-odds axes, with the line of the baseline models and the study's models.

    Args:
        board: Published models.
        benchmarks: Columns, one panel each (two per row).
        baseline: (n,) booleans: models that define the line.
        marked: Published model -> look: drawn large on top, labelled in the legend.
        own: Rows of this run with ``model`` and the same columns, drawn as stars; None draws none.
        x: Column of the horizontal axis.
        least: Models below this percentage there are not drawn.
    """
    board, baseline = board[board[x] >= least], baseline[board[x] >= least]
    rows = -(-len(benchmarks) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.9 + 3.0 * rows), squeeze=False)
    for ax, y in zip(axes.flat, benchmarks, strict=False):
        _published_panel(ax, board, x, y, baseline)
        for name, look in marked.items():
            row = board[board.model == name].iloc[0]
            ax.plot(
                _odds(row[x]), _odds(row[y]), look.marker, color=look.color, markerfacecolor=look.markerfacecolor,
                markersize=10, markeredgewidth=2.2, path_effects=_HALO, label=look.label,
            )  # fmt: skip
        if own is not None and y in own:
            ax.plot(_odds(own[x]), _odds(own[y]), "*", color="#b3261e", markersize=12, label="this run", zorder=5)
        ax.set_title(readable(y))
    for ax in axes.flat[len(benchmarks) :]:
        ax.set_visible(False)
    fig.supxlabel(f"{readable(x)} accuracy (%), log-odds scale", fontsize=11.5)
    fig.supylabel("accuracy (%), log-odds scale", fontsize=11.5)
    fig.legend(handles=[*_family_handles(board), *_marked_handles(marked, own)], loc="outside upper left", ncols=2)
    return fig


def loadings_figure(shares: Mapping[str, pd.DataFrame], loadings: Mapping[str, pd.DataFrame], count: int = 2) -> Figure:
    """First components as bars over benchmarks, one panel per set of models and component.

    Args:
        shares: Title -> rows ``component, value, ci_low, ci_high``.
        loadings: Title -> benchmarks x components.
        count: Components shown.
    """
    fig, axes = plt.subplots(count, len(loadings), figsize=(WIDTH, 0.4 + 2.1 * count), sharey=True, squeeze=False)
    for column, (title, table) in zip(axes.T, loadings.items(), strict=True):
        for k, ax in enumerate(column):
            share = shares[title].iloc[k]
            bars = table.iloc[:, k]
            ax.bar(range(len(bars)), bars, 0.7, color=GREY, edgecolor=INK, hatch="" if k == 0 else "//")
            ax.axhline(0, color=INK, linewidth=1)
            ax.set_xticks(range(len(bars)), [readable(name) for name in bars.index], rotation=0, fontsize=10)
            ax.grid(axis="x", visible=False)
            ax.set_ylim(-1, 1)
            number = f"{100 * share.value:.0f} % [{100 * share.ci_low:.0f}, {100 * share.ci_high:.0f}]"
            ax.set_title(f"{title}\n{number}" if k == 0 else number, fontsize=11)
    axes[0, 0].set_ylabel("loading, 1st")
    if count > 1:
        axes[1, 0].set_ylabel("loading, 2nd")
    return fig


def _published_panel(ax: Axes, board: pd.DataFrame, x: str, y: str, baseline: pd.Series) -> None:
    usable = board[board[x].notna() & board[y].notna()]
    for family, (color, marker) in FAMILIES.items():
        for kind in ("other", "clip", "supervised"):
            part = usable[(usable.family == family) & (usable.paradigm.map(kind_of) == kind)]
            ax.plot(
                _odds(part[x]), _odds(part[y]), marker, color=color, markersize=4.5, linestyle="none",
                markerfacecolor="white" if kind == "clip" else color, markeredgewidth=0.9,
                alpha=0.3 if kind == "other" else 0.8,
            )  # fmt: skip
    fitted = usable[baseline.loc[usable.index]]
    slope, intercept = np.polyfit(_odds(fitted[x]), _odds(fitted[y]), 1)
    inside = np.array([_odds(fitted[x]).min(), _odds(fitted[x]).max()])
    whole = np.array([_odds(usable[x]).min(), _odds(usable[x]).max()])
    ax.plot(whole, intercept + slope * whole, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    ax.plot(inside, intercept + slope * inside, color=INK, linewidth=1.6, zorder=1)
    bottom, top = _odds(usable[y]).min(), _odds(usable[y]).max()
    ax.set_ylim(bottom - 0.2, top + 0.3)
    for set_ticks, low, high in ((ax.set_xticks, *whole), (ax.set_yticks, bottom, top)):
        ticks = [p for p in (2, 10, 30, 50, 70, 80, 90) if low - 0.2 <= logit(p / 100) <= high + 0.3]
        set_ticks([logit(p / 100) for p in ticks], [f"{p}" for p in ticks])


def _odds(percent):
    return logit(np.clip(np.asarray(percent, float), 0.2, 99.8) / 100)


def percent_of(odds: float) -> float:
    """Percent from log-odds."""
    return 100 * float(expit(odds))


def _family_handles(board: pd.DataFrame) -> list[Line2D]:
    handles = [
        Line2D([], [], marker=marker, color=color, linestyle="none", markersize=6, label=family)
        for family, (color, marker) in FAMILIES.items()
        if (board.family == family).any()
    ]
    looks = {"supervised": (INK, INK, 1.0), "clip": ("white", INK, 1.0), "other": (INK, INK, 0.3)}
    for kind, (face, edge, alpha) in looks.items():
        if (board.paradigm.map(kind_of) == kind).any():
            handles.append(
                Line2D(
                    [],
                    [],
                    marker="o",
                    color=edge,
                    markerfacecolor=face,
                    alpha=alpha,
                    linestyle="none",
                    markersize=6,
                    label=KINDS[kind],
                )  # fmt: skip
            )
    return handles


def _marked_handles(marked: Mapping[str, ModelStyle], own: pd.DataFrame | None) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            marker=look.marker,
            color=look.color,
            markerfacecolor=look.markerfacecolor,
            linestyle="none",
            markersize=10,
            markeredgewidth=2.2,
            label=look.label,
        )  # fmt: skip
        for look in marked.values()
    ]
    if own is not None and len(own):
        handles.append(Line2D([], [], marker="*", color="#b3261e", linestyle="none", markersize=12, label="this run"))
    return handles
