"""Figures of the summary page: verdicts on claims, and this run's numbers against the paper's."""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from beyond_accuracy.dimensions.claims import CONTRADICTED, SUPPORTED, UNDECIDED
from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, legend

_LOOKS = {SUPPORTED: ("o", INK, INK), CONTRADICTED: ("X", "#b3261e", "#b3261e"), UNDECIDED: ("o", "white", INK)}
_REACH = 5.0


def claims_figure(table: pd.DataFrame) -> Figure:
    """Each claim's deciding effect in units of its own uncertainty: right of zero in the claim's direction.

    Args:
        table: Rows of `claims.judge`; claims that could not be tested are left out.
    """
    tested = table.dropna(subset=["effect"]).reset_index(drop=True)
    half = (tested.effect_high - tested.effect_low).to_numpy(float) / 2
    scaled = np.divide(tested.effect, half, out=np.sign(tested.effect.to_numpy(float)) * np.inf, where=half > 0)
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.6 * max(len(tested), 1)))
    ax.axvspan(-1, 1, color="#eceef1", zorder=0)
    ax.axvline(0, color=INK, linewidth=1)
    for i, (row, value) in enumerate(zip(tested.itertuples(), scaled, strict=True)):
        marker, face, edge = _LOOKS[row.verdict]
        at = float(np.clip(value, -_REACH, _REACH))
        ax.plot([0, at], [i, i], color=edge, linewidth=1.6)
        ax.plot(at, i, marker, color=edge, markerfacecolor=face, markersize=9, markeredgewidth=1.6, clip_on=False)
        if abs(value) > _REACH:
            ax.annotate(
                "›" if value > 0 else "‹", (at, i), xytext=(8 if value > 0 else -8, 0), textcoords="offset points",
                ha="center", va="center", fontsize=13,
            )  # fmt: skip
    ax.set_yticks(range(len(tested)), [textwrap.fill(text, 36) for text in tested.statement], fontsize=9.5)
    ax.set_ylim(len(tested) - 0.4, -0.6)
    ax.set_xlim(-_REACH - 0.3, _REACH + 0.3)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("deciding effect ÷ half its 95 % interval")
    handles = [
        Line2D([], [], marker=m, color=edge, markerfacecolor=face, linestyle="none", markersize=9, label=verdict)
        for verdict, (m, face, edge) in _LOOKS.items()
    ]
    fig.legend(handles=handles, loc="outside upper left", ncols=3)
    return fig


def agreement_figure(compared: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Ours minus the paper's, in units of interval plus tolerance: inside the band the two agree.

    Args:
        compared: Rows of `reference.compare`.
        styles: Looks of the models.
    """
    dimensions = list(dict.fromkeys(compared.dimension))
    low = np.maximum(compared.value - compared.ci_low.fillna(compared.value), 0)
    high = np.maximum(compared.ci_high.fillna(compared.value) - compared.value, 0)
    # the reference lies above ours where the difference is negative: then the upper arm of the interval counts
    arm = np.where(compared.difference < 0, high, low) + compared.tolerance
    scaled = np.clip(compared.difference / arm, -_REACH, _REACH)
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.62 * len(dimensions)))
    ax.axvspan(-1, 1, color="#eceef1", zorder=0)
    ax.axvline(0, color=INK, linewidth=1)
    names = [name for name in styles if (compared.model == name).any()]
    for k, name in enumerate(names):
        look = styles[name]
        mine = (compared.model == name).to_numpy()
        at = compared.dimension.map(dimensions.index).to_numpy(float) + (k - (len(names) - 1) / 2) * 0.19
        for target, size, color in ((True, 6, look.color), (False, 4, GREY)):
            part = mine & (compared.target.to_numpy() == target)
            face = look.markerfacecolor if target else color
            ax.plot(
                scaled[part], at[part], look.marker, color=color, markerfacecolor=face, markersize=size,
                linestyle="none", markeredgewidth=1.2, alpha=0.85,
            )  # fmt: skip
    ax.set_yticks(range(len(dimensions)), [name.replace("_", " ") for name in dimensions])
    ax.set_ylim(len(dimensions) - 0.4, -0.6)
    ax.set_xlim(-_REACH - 0.3, _REACH + 0.3)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("(this run − paper) ÷ (interval + reading tolerance)")
    legend(fig, {name: styles[name] for name in names})
    return fig
