"""Figures of the calibration page."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, legend

_GAP = "#8c1a12"
_OVER, _UNDER = "////", "...."  # hatches of the gap: told apart without colour
_TINT = 0.45  # share of white mixed into a model's colour where dark marks lie over it
_FEW = 10  # images; bins with fewer are faded, their accuracy says little
_COLUMNS = 2  # diagrams side by side: at a phone's width a third would be too small to read


def reliability_figure(bins: pd.DataFrame, summary: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """The paper's figure 4: per model a histogram of confidence above a reliability diagram.

    A bar is the accuracy of a bin with its interval; the hatched gap reaches from there to the bin's mean confidence,
    which is where a calibrated bar would end (not to the bin's centre, where few of its images may lie). Bins of fewer
    than ten images are faded.

    Args:
        bins: Rows of `metrics.calibration_table.reliability_table`.
        summary: Columns `model`, `accuracy`, `confidence`, `ece_debiased`, `ece` (fractions).
        styles: Looks of the models; their order is that of the diagrams.
    """
    names = [name for name in styles if name in set(bins["model"])]
    rows = -(-len(names) // _COLUMNS)
    columns = min(_COLUMNS, len(names))
    fig = plt.figure(figsize=(WIDTH * columns / _COLUMNS + 0.6 * (columns == 1), 4.1 * rows + 0.7))
    fig.get_layout_engine().set(h_pad=0.03, hspace=0)
    outer = fig.add_gridspec(rows, columns)
    numbers = summary.set_index("model")
    for i, name in enumerate(names):
        inner = outer[i // columns, i % columns].subgridspec(2, 1, height_ratios=(1, 2.2))
        top = fig.add_subplot(inner[0])
        bottom = fig.add_subplot(inner[1], sharex=top)
        mine = bins[bins["model"] == name]
        _histogram(top, mine, numbers.loc[name], styles[name], first=i % columns == 0)
        _diagram(bottom, mine, numbers.loc[name], styles[name], first=i % columns == 0)
    _reliability_legend(fig)
    return fig


def _histogram(ax: Axes, bins: pd.DataFrame, numbers: pd.Series, look: ModelStyle, first: bool) -> None:
    width = bins["high"] - bins["low"]
    ax.bar(
        bins["low"], 100 * bins["share"], width, align="edge", color=_tint(look.color), edgecolor="white", linewidth=0.7
    )
    ax.axvline(numbers["accuracy"], color=INK, linewidth=1.6)
    ax.axvline(numbers["confidence"], color=INK, linewidth=1.6, linestyle=":")
    ax.set_title(look.label)
    ax.tick_params(labelbottom=False)
    ax.grid(axis="x", visible=False)
    if first:
        ax.set_ylabel("images (%)")


def _diagram(ax: Axes, bins: pd.DataFrame, numbers: pd.Series, look: ModelStyle, first: bool) -> None:
    for rows, alpha in ((bins[bins["n"] >= _FEW], 1.0), (bins[bins["n"] < _FEW], 0.35)):
        low, width = rows["low"], rows["high"] - rows["low"]
        accuracy, confidence = rows["accuracy"], rows["confidence"]
        ax.bar(low, accuracy, width, align="edge", color=_tint(look.color), edgecolor="white", lw=0.7, alpha=alpha)
        for hatch, chosen in ((_OVER, confidence > accuracy), (_UNDER, confidence < accuracy)):
            gap, options = (confidence - accuracy)[chosen], _gap_options(hatch) | {"alpha": alpha}
            ax.bar(low[chosen], gap, width[chosen], bottom=accuracy[chosen], align="edge", **options)
        reach = np.clip([accuracy - rows["ci_low"], rows["ci_high"] - accuracy], 0, None)
        ax.errorbar(
            low + width / 2, accuracy, yerr=reach, fmt="none", ecolor=INK, elinewidth=1.1, capsize=1.5, alpha=alpha
        )
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    ax.text(
        0.05,
        0.95,
        f"ECE {numbers['ece_debiased']:.3f}\n(plain {numbers['ece']:.3f})",
        transform=ax.transAxes,
        va="top",
        fontsize=11.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    if first:
        ax.set_ylabel("accuracy")


def _tint(color: str) -> tuple[float, ...]:
    return tuple((1 - _TINT) * channel + _TINT for channel in to_rgb(color))


def _gap_options(hatch: str) -> dict[str, object]:
    return {"facecolor": "none", "edgecolor": _GAP, "hatch": hatch, "linewidth": 0.9}


def _reliability_legend(fig: Figure) -> None:
    handles = [
        Line2D([], [], color=INK, linewidth=1.6, label="mean accuracy"),
        Line2D([], [], color=INK, linewidth=1.6, linestyle=":", label="mean confidence"),
        Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="calibrated"),
        Patch(**_gap_options(_OVER), label="gap: overconfident"),
        Patch(**_gap_options(_UNDER), label="gap: underconfident"),
    ]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)


def bins_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Debiased ECE against the number of bins, for equal-width and equal-mass bins, with bands of 95 %.

    Args:
        table: Rows `model, binning, n_bins, value, ci_low, ci_high`.
        styles: Looks of the models.
    """
    kinds = {"width": "equal width", "mass": "equal number of images"}
    kinds = {kind: title for kind, title in kinds.items() if kind in set(table["binning"])}
    shown = {name: look for name, look in styles.items() if name in set(table["model"])}
    fig, axes = plt.subplots(1, len(kinds), figsize=(WIDTH, 3.9), sharey=True, squeeze=False)
    for ax, (kind, title) in zip(axes[0], kinds.items(), strict=True):
        for i, (name, look) in enumerate(shown.items()):
            rows = table[(table["binning"] == kind) & (table["model"] == name)].sort_values("n_bins")
            every = max(1, len(rows) // 5)
            ax.fill_between(rows["n_bins"], rows["ci_low"], rows["ci_high"], color=look.color, alpha=0.15, linewidth=0)
            ax.plot(
                rows["n_bins"],
                rows["value"],
                color=look.color,
                linestyle=look.linestyle,
                marker=look.marker,
                markerfacecolor=look.markerfacecolor,
                markevery=(i % every, every),  # staggered: markers of close lines do not hide each other
            )
        ax.set_title(title)
        ax.set_xlabel("number of bins")
    axes[0][0].set_ylabel("debiased ECE")
    axes[0][0].set_ylim(bottom=0)
    legend(fig, shown, kind="line")
    return fig


def temperature_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Debiased ECE before and after temperature scaling: an arrow per model, a panel per dataset.

    Args:
        table: Columns `dataset` (title), `model`, `before`, `after`, `after_low`, `after_high`.
        styles: Looks of the models.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    shown = [name for name in styles if name in set(table["model"])]
    height = 1.5 + len(datasets) * (0.5 + 0.42 * len(shown))
    fig, axes = plt.subplots(len(datasets), 1, figsize=(WIDTH, height), sharex=True, squeeze=False)
    for ax, dataset in zip(axes[:, 0], datasets, strict=True):
        rows = table[table["dataset"] == dataset].set_index("model")
        for i, name in enumerate(shown):
            if name not in rows.index:
                continue
            row, look = rows.loc[name], styles[name]
            ax.annotate(
                "",
                (row["after"], i),
                (row["before"], i),
                arrowprops={"arrowstyle": "-|>", "color": look.color, "linestyle": "-", "shrinkA": 0, "shrinkB": 4},
            )
            ax.plot(row["before"], i, "|", color=INK, markersize=15, markeredgewidth=2)
            reach = [[row["after"] - row["after_low"]], [row["after_high"] - row["after"]]]
            ax.errorbar(
                [row["after"]],
                [i],
                xerr=reach,
                color=look.color,
                marker=look.marker,
                markerfacecolor=look.markerfacecolor,
                markeredgewidth=1.6,
                elinewidth=1.5,
                capsize=2.5,
            )
        ax.set_yticks(range(len(shown)), [styles[name].label for name in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_title(dataset)
    axes[-1, 0].set_xlim(left=0)
    axes[-1, 0].set_xlabel("debiased ECE   (bar: before, marker: after)")
    return fig


def risk_coverage_figure(curves: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Error rate among the most confident images, a panel per dataset, with bands of 95 %.

    Args:
        curves: Columns `dataset` (title), `model`, `coverage`, `risk`, `risk_low`, `risk_high` (fractions).
        styles: Looks of the models.
    """
    datasets = list(dict.fromkeys(curves["dataset"]))
    shown = {name: look for name, look in styles.items() if name in set(curves["model"])}
    columns = min(_COLUMNS, len(datasets))
    rows = -(-len(datasets) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, 3.5 * rows + 0.5), sharey=True, squeeze=False)
    for ax, dataset in zip(axes.flat, datasets, strict=False):
        for i, (name, look) in enumerate(shown.items()):
            line = curves[(curves["dataset"] == dataset) & (curves["model"] == name)]
            every = max(1, len(line) // 6)
            ax.fill_between(line["coverage"], line["risk_low"], line["risk_high"], color=look.color, alpha=0.12, lw=0)
            ax.plot(
                line["coverage"],
                line["risk"],
                color=look.color,
                linestyle=look.linestyle,
                marker=look.marker,
                markerfacecolor=look.markerfacecolor,
                markevery=(every // 2 + i * every // max(len(shown), 1), every),
            )
        ax.set_title(dataset)
        ax.set_xlabel("images answered (%)")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
        ax.set_xlim(0, 1)
    for ax in axes.flat[len(datasets) :]:
        ax.set_visible(False)
    axes[0, 0].set_ylim(bottom=0)  # shared; only now, since setting one end freezes the other
    for row in axes:
        row[0].set_ylabel("wrong among them (%)")
    legend(fig, shown, kind="line")
    return fig
