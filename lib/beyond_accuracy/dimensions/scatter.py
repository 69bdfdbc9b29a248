"""Published models as points: a picture with the line of the supervised ones, and a plot to look around in.

Marker and colour tell the architecture; filled is supervised, hollow is zero-shot CLIP, pale is any other pretraining.
The plot is inline SVG that works offline, and without a script: radio buttons switch the axes through CSS, each point
carries its description as a title. `template/scatter.js` adds a search and names the point nearest to the pointer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.data.published import CHECKPOINTS, checkpoint_specs
from beyond_accuracy.dimensions.landscape import NAMES, ROBUSTNESS
from beyond_accuracy.measure.stats import odds
from beyond_accuracy.show import figures, results, theme
from beyond_accuracy.show.theme import GREY, HALO, INK, ORANGE, PURPLE

TEMPLATE = Path(__file__).parents[1] / "report" / "template"
FAMILIES = {"transformer": (ORANGE, "o"), "convnet": (PURPLE, "^"), "hybrid": ("#1b7f6b", "s"),
            "other": ("#5b5f66", "D")}  # fmt: skip
# What fills a point: name for readers, colour (none: the family's) and opacity.
KINDS = {"supervised": ("supervised", "", 1), "clip": ("CLIP, zero-shot", "#fff", 1),
         "other": ("other pretraining", "", 0.4)}  # fmt: skip
OWN = "this run"
STAR = ("#b3261e", "*")
LOOKS = {CHECKPOINTS[spec.name]: theme.style(spec) for spec in checkpoint_specs()}  # the paper's
PAPER = {name: look.label for name, look in LOOKS.items()}
DRAWN = ["model", "family", "paradigm", "imagenet_1k", *ROBUSTNESS]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 800, 520, 62, 786, 14, 468
_SHAPES = {
    "o": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "^": "M0,-6L5.6,4.6L-5.6,4.6z",
    "s": "M-4.6,-4.6h9.2v9.2h-9.2z",
    "D": "M0,-6L6,0L0,6L-6,0z",
    "*": "M0,-11L2.6,-3.5L10.5,-3.4L4.2,1.3L6.5,8.9L0,4.4L-6.5,8.9L-4.2,1.3L-10.5,-3.4L-2.6,-3.5z",
}


class Axis(NamedTuple):
    """One choice of an axis: a column on a log-odds scale (percent) or a logarithmic one (sizes)."""

    column: str
    label: str
    percent: bool = True

    def place(self, values: ArrayLike) -> NDArray:
        """Values on the axis' linear scale."""
        return odds(values) if self.percent else np.log10(np.asarray(values, float))

    def laid_out(self, frame: pd.DataFrame, name: str, start: float, end: float) -> dict:
        """Pixels of the models and of the ticks; ticks that would touch are left out."""
        known = frame[self.column].dropna()
        if known.empty:
            raise ValueError(f"no model has {self.column}")
        low, high = self.place([known.min(), known.max()])
        margin = 0.04 * (high - low) or 1.0
        low, high = low - margin, high + margin

        def to(values: ArrayLike) -> NDArray:
            return start + (self.place(values) - low) / (high - low) * (end - start)

        marks, least = [], 46 if start < end else 24
        for tick in (t for t in TICKS[self.percent] if low <= self.place(t) <= high):
            if not marks or abs(to(tick) - marks[-1][0]) >= least:
                marks.append((round(float(to(tick)), 1), f"{tick:g}"))
        return {"key": name, "label": self.label, "at": to(frame[self.column]), "marks": marks}


TICKS = {True: (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95), False: (1, 3, 10, 30, 100, 300, 1000, 3000)}
SIZES = (
    Axis("imagenet_1k", "ImageNet accuracy (%)"), Axis("params_m", "parameters (millions)", percent=False),
    Axis("gmacs", "multiply-adds (billions)", percent=False),
)  # fmt: skip
SHIFTS = tuple(Axis(y, f"{NAMES[y]} (%)") for y in ("imagenet_r", "imagenet_a", "imagenet_sketch", "imagenet_v2"))


def kind_of(paradigm: str) -> str:
    """`supervised`, `clip` (zero-shot) or `other`: how a point is filled."""
    return paradigm if paradigm in KINDS else "other"


def points(board: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Models with `marked` (empty for most: the paper's checkpoints, `this run`) and `detail`, a line about each."""
    marked = ("the paper's " + board.model.map(PAPER)).fillna("")
    frame, lines = pd.concat([board.assign(marked=marked), own.assign(marked=OWN)], ignore_index=True), []
    for row in frame.to_dict("records"):
        parts = [f"{NAMES[c]} {row[c]:.1f} %" for c in ("imagenet_1k", *ROBUSTNESS) if pd.notna(row.get(c))]
        sizes = [(row.get("params_m"), "M parameters"), (row.get("gmacs"), "G multiply-adds")]
        parts += [f"{value:.3g} {unit}" for value, unit in sizes if pd.notna(value)]
        source = row.get("pretrain_data")
        lines.append(", ".join([*parts, f"{row['paradigm']} on {source}" if pd.notna(source) else row["paradigm"]]))
    return frame.assign(detail=lines)


def key(frame: pd.DataFrame, own: bool) -> list[dict]:
    """Legend of the families, kinds and own runs that are there: `label, marker, face, edge, alpha`."""
    found = [(name, mark, color, color, 1) for name, (color, mark) in FAMILIES.items() if (frame.family == name).any()]
    kinds = [look for kind, look in KINDS.items() if kind in set(frame.paradigm.map(kind_of))]
    found += [(name, "o", face or INK, INK, alpha) for name, face, alpha in kinds]
    found += [(OWN, STAR[1], STAR[0], STAR[0], 1)] * int(own)
    return [dict(zip(("label", "marker", "face", "edge", "alpha"), entry, strict=True)) for entry in found]


def explorer(frame: pd.DataFrame, xs: Sequence[Axis], ys: Sequence[Axis], name: str, caption: str) -> str:
    """The plot of `points` to look around in, as HTML; the first choice of each axis is shown at the start.

    `name` is the stem of ids: letters, digits and dashes.
    """
    across = [axis.laid_out(frame, f"x{k}", _LEFT, _RIGHT) for k, axis in enumerate(xs)]
    down = [axis.laid_out(frame, f"y{k}", _BOTTOM, _TOP) for k, axis in enumerate(ys)]
    # Marked points last, on top; of those the round ones first, since they cover most.
    order = np.lexsort((frame.family.ne("transformer"), frame.marked.ne("")))
    drawn = [_point(frame.iloc[i], *({a["key"]: a["at"][i] for a in axes} for axes in (across, down))) for i in order]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    css, script = (Markup((TEMPLATE / f"scatter.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js"))
    return environment.get_template("scatter.html.j2").render(
        name=name, caption=caption, css=css, script=script, xs=across, ys=down, shapes=_SHAPES,
        points=[point for point in drawn if point], key=key(frame, (frame.marked == OWN).any()),
        alt=f"{len(frame)} models as points: {ys[0].label} and others against {xs[0].label} or size.",
        width=_WIDTH, height=_HEIGHT, left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM,
    )  # fmt: skip


def show(frame: pd.DataFrame, xs: Sequence[Axis], ys: Sequence[Axis], name: str, caption: str) -> None:
    """Show `explorer` in the running notebook."""
    results.display_html(explorer(frame, xs, ys, name, caption), caption)


def _point(row: pd.Series, across: Mapping[str, float], down: Mapping[str, float]) -> dict:
    """How a model is drawn; nothing where it has no place on any of the horizontal or of the vertical axes."""
    places = {name: at for name, at in {**across, **down}.items() if np.isfinite(at)}
    if not places.keys() & across.keys() or not places.keys() & down.keys():
        return {}
    color, marker = STAR if row.marked == OWN else FAMILIES.get(row.family, FAMILIES["other"])
    size = 1.9 if row.marked and row.marked != OWN else 1
    x, y = (places["x0"], places["y0"]) if {"x0", "y0"} <= places.keys() else (-99.0, -99.0)
    _, face, alpha = KINDS[kind_of(row.paradigm)]
    style = ";".join([*(f"--{name}:{at:.1f}px" for name, at in places.items()), *([f"--s:{size}"] * (size != 1))])
    return {
        **{"style": style, "x": f"{x:.1f}", "y": f"{y:.1f}", "size": size, "marker": marker},
        **{"face": face or color, "edge": "#000" if row.marked else color, "alpha": alpha},
        "text": f"{row.model}{f' ({row.marked})' if row.marked else ''}: {row.detail}",
    }


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
