"""The report's figures: one theme, one fixed style per model, a few shared drawing helpers.

Helpers draw a tidy frame (one row per model and category) on an axes they are given. Colour never carries a distinction
alone: models also differ in marker, CLIP models in dashes, hollow markers and hatches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from beyond_accuracy.base.profile import ModelSpec

ORANGE, PURPLE, INK, GREY = "#fc8e62", "#412f8a", "#22242a", "#8a8f98"
WIDTH = 6.4  # inches: at a phone's 360 px a 12 pt label is still about 9 px high

# Looks of the study's own four models; anything else draws from the EXTRA lists.
_FAMILY = {"transformer": (ORANGE, "o"), "convnet": (PURPLE, "^")}
_OWN = ("vit_sup", "convnext_sup", "vit_clip", "convnext_clip")
_EXTRA_COLORS = ("#1b7f6b", "#2f7ec0", "#c2337d", "#7d7400", "#8c510a", "#17a2b8", "#5b5f66", "#b3261e", "#6aa84f")
_EXTRA_MARKERS = ("s", "D", "v", "P", "X", "<", ">", "p", "h", "*")
HALO = [patheffects.Stroke(linewidth=3.2, foreground="white"), patheffects.Normal()]  # dark line on a dark bar
_EXTRA_HATCHES = ("..", "xx", "\\\\\\", "++", "oo", "||", "--")


@dataclass(frozen=True)
class ModelStyle:
    """How one model looks in every figure of the report."""

    color: str
    marker: str
    linestyle: str
    hatch: str
    label: str

    @property
    def markerfacecolor(self) -> str:
        """White for dashed (CLIP) models: a hollow marker tells the paradigm where no line is drawn."""
        return self.color if self.linestyle == "-" else "white"


def use_theme() -> None:
    """Set the report's matplotlib defaults: white ground, sizes readable at phone width, byte-stable SVG."""
    sns.set_theme(context="notebook", style="whitegrid")
    ink = ("axes.labelcolor", "axes.titlecolor", "text.color", "xtick.color", "ytick.color")
    mpl.rcParams.update(dict.fromkeys(ink, INK))
    mpl.rcParams.update({
        "figure.figsize": (WIDTH, 4.0), "figure.dpi": 100, "figure.constrained_layout.use": True, "savefig.dpi": 150,
        "savefig.bbox": "tight", "savefig.pad_inches": 0.08, "savefig.facecolor": "white",
        "text.parse_math": False,  # a `$` in a name is a dollar
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same file on every machine
        "font.size": 11.5, "axes.titlesize": 12.5, "axes.labelsize": 11.5, "xtick.labelsize": 11, "ytick.labelsize": 11,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": GREY, "grid.color": "#e4e6ea",
        "axes.spines.top": False, "axes.spines.right": False, "legend.fontsize": 10.5, "legend.frameon": False,
        "lines.linewidth": 1.8, "lines.markersize": 7, "hatch.linewidth": 0.9,
        "axes.prop_cycle": mpl.cycler(color=[ORANGE, PURPLE, *_EXTRA_COLORS]),
    })  # fmt: skip


def style(spec: ModelSpec, among: Iterable[ModelSpec] = ()) -> ModelStyle:
    """The look of one model, the same on every page.

    The study's four models have fixed looks. Any other takes the next free extra colour, marker and hatch in the order
    of `among`; without it the look follows from the name alone, and may coincide with another's.
    """
    clip = spec.paradigm == "clip"
    if spec.name in _OWN and spec.family in _FAMILY:
        color, marker, hatch = *_FAMILY[spec.family], "///" if clip else ""
    else:
        extras = [other.name for other in among if other.name not in _OWN]
        rank = extras.index(spec.name) if spec.name in extras else sum(spec.name.encode())
        color, marker, hatch = (some[rank % len(some)] for some in (_EXTRA_COLORS, _EXTRA_MARKERS, _EXTRA_HATCHES))
    return ModelStyle(color, marker, "--" if clip else "-", hatch, spec.label)


def styles(specs: Iterable[ModelSpec]) -> dict[str, ModelStyle]:
    """Looks of all models of a run by name, in the order given; distinct for up to nine extra models."""
    specs = list(specs)
    return {spec.name: style(spec, specs) for spec in specs}


def errorbar(
    ax: Axes, frame: pd.DataFrame, x: str, styles: Mapping[str, ModelStyle], order: Sequence[object] | None = None,
    orient: str = "v", line: bool = False, dodge: float = 0.0, **kwargs: object,
) -> None:  # fmt: skip
    """One point per row (`model`, `value`, column `x`, optional `ci_low`, `ci_high`), models `dodge` side by side.

    seaborn cannot take intervals that were computed elsewhere. `order` makes a numeric `x` categorical; `orient="h"`
    puts categories downwards. Rows whose `hollow` is true have white marks.
    """
    frame, categories = _positions(frame, x, styles, order)
    names = [name for name in styles if (frame["model"] == name).any()]
    for i, name in enumerate(names):
        rows, look = frame[frame["model"] == name].sort_values("_at", kind="stable"), styles[name]
        at = rows["_at"].to_numpy() + (i - (len(names) - 1) / 2) * dodge
        value, reach = rows["value"].to_numpy(dtype=float), _reach(rows)
        where = {"x": at, "y": value, "yerr": reach} if orient == "v" else {"x": value, "y": at, "xerr": reach}
        options = {"linestyle": look.linestyle if line else "none", "elinewidth": 1.5, "markersize": 6} | kwargs
        ax.errorbar(**where, **_point_options(look) | options)
        if "hollow" in rows and rows["hollow"].any():
            shown = rows["hollow"].to_numpy(bool)
            marks = {"markersize": options["markersize"], "markeredgewidth": 1.6, "markerfacecolor": "white"}
            ax.plot(where["x"][shown], where["y"][shown], look.marker, color=look.color, zorder=2.3, **marks)
    if categories is not None:
        category_axis(ax, categories, orient)


def paper_points(
    ax: Axes, frame: pd.DataFrame, x: str, styles: Mapping[str, ModelStyle], orient: str = "v", **options
) -> None:
    """Mark the paper's values with black dashes at the places where `errorbar` puts the measured ones."""
    marks = frame.drop(columns=[name for name in ("ci_low", "ci_high") if name in frame])
    looks = {name: ModelStyle(INK, "_" if orient == "v" else "|", "-", "", "_nolegend_") for name in styles}
    errorbar(ax, marks, x, looks, orient=orient, markersize=13, zorder=1.5, **options)


def legend(fig: Figure, styles: Mapping[str, ModelStyle], kind: str = "point") -> None:
    """Put the models' legend above a figure, where it covers no data; handles are `point` or `line`."""
    lines = [(look, look.linestyle if kind == "line" else "none") for look in styles.values()]
    handles = [Line2D([], [], linestyle=line, **_point_options(look)) for look, line in lines]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)


def direct_labels(fig: Figure, ends: Mapping[Axes, Mapping[str, tuple]], styles: Mapping[str, ModelStyle]) -> bool:
    """Name the lines of some axes behind their right ends, in the models' colours; whether that was done.

    `ends`: the last (x, y) of every model's line, in data. Labels that would overlap are moved apart; nothing is drawn
    where that leaves them without room, or for more than six lines.
    """
    if not ends or max(map(len, ends.values())) > 6:
        return False
    drawn = {ax: [_end_label(ax, styles[name], end) for name, end in mine.items()] for ax, mine in ends.items()}
    fig.draw_without_rendering()  # lays the axes out beside the labels: only then are heights known
    places = {}
    for ax, labels in drawn.items():
        heights = [Text.get_window_extent(label).height for label in labels]  # without their threads
        tall = 1.12 * max(heights) / ax.bbox.height
        at = [ax.transAxes.inverted().transform(ax.transData.transform(label.xy))[1] for label in labels]
        places[ax] = None if len(labels) * tall > 1.2 else spread(at, tall, tall / 2 - 0.1, 1.1 - tall / 2)
    fits = all(at is not None for at in places.values())
    for ax, labels in drawn.items():
        for k, label in enumerate(labels):
            label.set_position((1.05, places[ax][k])) if fits else label.remove()
    return fits


def _end_label(ax: Axes, look: ModelStyle, end: tuple) -> Annotation:
    """A label right of the axes, broken at a comma, with a thin line from where the model's line ends."""
    thread = {"arrowstyle": "-", "color": look.color, "linewidth": 0.8, "alpha": 0.7, "shrinkA": 1, "shrinkB": 4}
    where = {"xycoords": "data", "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
    text, color = look.label.replace(", ", ",\n"), legible(look.color)
    return ax.annotate(text, end, (1.05, 0.5), **where, arrowprops=thread, color=color, fontsize=10, linespacing=1.0)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Places moved as little as possible (least squares) so that they lie at least `gap` apart within low to high."""
    order, steps = np.argsort(places, kind="stable"), gap * np.arange(len(places))
    found = isotonic_regression(np.asarray(places, float)[order] - steps).x
    moved = np.empty(len(places))
    moved[order] = np.clip(found, low, max(low, high - steps[-1])) + steps
    return moved


def legible(color: str) -> tuple[float, float, float]:
    """A colour darkened until text in it has a contrast of 4.5 to a white ground (WCAG 2.1)."""
    shade = np.array(to_rgb(color))

    def luminance(rgb: NDArray) -> float:
        return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    while 1.05 / (luminance(shade) + 0.05) < 4.5:
        shade = shade * 0.97
    return tuple(shade.tolist())


def _point_options(look: ModelStyle) -> dict[str, object]:
    face = {"marker": look.marker, "markerfacecolor": look.markerfacecolor, "markeredgewidth": 1.6}
    return {"color": look.color, "label": look.label, **face}


def _positions(
    frame: pd.DataFrame, x: str, styles: Mapping[str, ModelStyle], order: Sequence[object] | None
) -> tuple[pd.DataFrame, list[object] | None]:
    """Adds the column `_at`; the second value is the list of categories, None on a numeric axis."""
    if unknown := sorted(set(frame["model"]) - set(styles)):
        raise ValueError(f"no style for model {', '.join(unknown)}")
    if order is None and pd.api.types.is_numeric_dtype(frame[x]):
        return frame.assign(_at=frame[x].astype(float)), None
    categories = list(order) if order is not None else list(frame[x].unique())
    if missing := set(frame[x]) - set(categories):
        raise ValueError(f"{x} has values that order lacks: {sorted(map(str, missing))}")
    places = {category: float(i) for i, category in enumerate(categories)}
    return frame.assign(_at=frame[x].map(places).astype(float)), categories


def _reach(rows: pd.DataFrame) -> np.ndarray | None:
    """Distances below and above the value, shape (2, rows); NaN (no whisker) where there is no interval."""
    if "ci_low" not in rows or "ci_high" not in rows:
        return None
    low, value, high = rows[["ci_low", "value", "ci_high"]].to_numpy(dtype=float).T
    # A percentile interval of a skewed statistic may leave its own estimate out; a whisker cannot be negative.
    return np.clip([value - low, high - value], 0, None)


def category_axis(ax: Axes, categories: Sequence[object], orient: str) -> None:
    """Name the places 0, 1, … of an axis."""
    axis, names = ("x", "y")[orient == "h"], [str(category).replace("_", " ") for category in categories]
    ends = (-0.6, len(names) - 0.4)
    ax.set(**{f"{axis}ticks": range(len(names)), f"{axis}ticklabels": names})
    ax.set(**{f"{axis}lim": ends[::-1] if orient == "h" else ends})
    ax.grid(axis=axis, visible=False)
