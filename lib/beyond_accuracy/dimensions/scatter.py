"""Published models as points, with the line of the supervised ones; `report/real_models.py` is the plot to ask.

Marker and colour tell the architecture; filled is supervised, hollow is zero-shot CLIP, pale is any other pretraining.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from beyond_accuracy.data.published import REAL_NAMES, checkpoint_specs
from beyond_accuracy.dimensions.landscape import NAMES, ROBUSTNESS
from beyond_accuracy.measure.stats import odds
from beyond_accuracy.show import figures, theme
from beyond_accuracy.show.theme import GREY, HALO, INK, ORANGE, PURPLE

FAMILIES = {"transformer": (ORANGE, "o"), "convnet": (PURPLE, "^"), "hybrid": ("#1b7f6b", "s"),
            "other": ("#5b5f66", "D")}  # fmt: skip
# What fills a point: name for readers, colour (none: the family's) and opacity.
KINDS = {"supervised": ("supervised", "", 1), "clip": ("CLIP, zero-shot", "#fff", 1),
         "other": ("other pretraining", "", 0.4)}  # fmt: skip
OWN = "this run"
STAR = ("#b3261e", "*")
LOOKS = {
    name: replace(theme.style(spec), label=label)  # the paper's
    for spec, (name, label) in zip(checkpoint_specs(), REAL_NAMES.items(), strict=True)
}
DRAWN = ["model", "family", "paradigm", "imagenet_1k", *ROBUSTNESS]


def kind_of(paradigm: str) -> str:
    """`supervised`, `clip` (zero-shot) or `other`: how a point is filled."""
    return paradigm if paradigm in KINDS else "other"


def key(frame: pd.DataFrame, own: bool) -> list[dict]:
    """Legend of the families, kinds and own runs that are there: `label, marker, face, edge, alpha`."""
    found = [(name, mark, color, color, 1) for name, (color, mark) in FAMILIES.items() if (frame.family == name).any()]
    kinds = [look for kind, look in KINDS.items() if kind in set(frame.paradigm.map(kind_of))]
    found += [(name, "o", face or INK, INK, alpha) for name, face, alpha in kinds]
    found += [(OWN, STAR[1], STAR[0], STAR[0], 1)] * int(own)
    return [dict(zip(("label", "marker", "face", "edge", "alpha"), entry, strict=True)) for entry in found]


def published(board: pd.DataFrame, styles: object, baseline: pd.Series, own: pd.DataFrame) -> figures.Drawn:
    """Robustness against ImageNet on log-odds axes, with the line of the baseline models and the paper's checkpoints.

    Args:
        board: Published models, the columns `DRAWN`; below 45 % on ImageNet they are not drawn.
        styles: Not used: a mark tells family and paradigm.
        baseline: (n,) booleans: models that define the line; it is dotted where none of them lies.
        own: Rows of this run with the same columns, drawn as stars.
    """
    x = "imagenet_1k"
    fig, axes = figures.panels([NAMES[y] for y in ROBUSTNESS], 3.0, 2)
    for y, ax in zip(ROBUSTNESS, axes.values(), strict=True):
        seen = board[(board[x] >= 45) & board[y].notna()]
        for (family, kind), part in seen.groupby(["family", seen.paradigm.map(kind_of)]):
            color, marker = FAMILIES[family]
            look = {"markerfacecolor": "white" if kind == "clip" else color, "alpha": 0.3 if kind == "other" else 0.8}
            ax.plot(odds(part[x]), odds(part[y]), marker, color=color, markersize=4.5, markeredgewidth=0.9, **look)
        fitted = seen[baseline[seen.index]]
        slope, start = np.polyfit(odds(fitted[x]), odds(fitted[y]), 1)
        for part, line in ((seen, {"color": GREY, "linestyle": ":"}), (fitted, {"color": INK, "linestyle": "-"})):
            ends = odds([part[x].min(), part[x].max()])
            ax.plot(ends, start + slope * ends, **line, linewidth=1.5, zorder=1)
        for name, look in LOOKS.items():
            row = board[board.model == name].iloc[0]
            large = {"markersize": 10, "markeredgewidth": 2.2, "path_effects": HALO, "color": look.color}
            ax.plot(odds(row[x]), odds(row[y]), look.marker, markerfacecolor=look.markerfacecolor, **large)
        if y in own:
            ax.plot(odds(own[x]), odds(own[y]), STAR[1], color=STAR[0], markersize=12, zorder=5)
        for axis, limits, values in ((ax.xaxis, ax.set_xlim, seen[x]), (ax.yaxis, ax.set_ylim, seen[y])):
            low, high = odds([values.min(), values.max()]) + [-0.2, 0.25]
            ticks = [p for p in (2, 10, 30, 50, 70, 80, 90) if low <= odds(p) <= high]
            axis.set_ticks(odds(ticks), ticks)
            limits(low, high)
    fig.supxlabel(f"{NAMES[x]} accuracy (%), log-odds scale", fontsize=11.5)
    fig.supylabel("accuracy (%), log-odds scale", fontsize=11.5)
    looks = [(e["label"], e["marker"], e["edge"], e["face"], e["alpha"], 6) for e in key(board, len(own) > 0)]
    looks += [(look.label, look.marker, look.color, look.markerfacecolor, 1, 10) for look in LOOKS.values()]
    names = ("label", "marker", "color", "markerfacecolor", "alpha", "markersize")
    handles = [Line2D([], [], linestyle="none", **dict(zip(names, look, strict=True))) for look in looks]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)
    rows = board[board.model.isin(list(LOOKS))].melt(["model"], list(ROBUSTNESS), "benchmark")
    words = figures.spell(rows, ["model", "benchmark"], figures.labels_of(LOOKS) | NAMES, ".1f")
    return fig, f"Accuracy under shift of {len(board)} models against their ImageNet accuracy; the paper's: {words}."
