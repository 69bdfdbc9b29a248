"""The report's figures: one theme, one fixed style per model, a few shared drawing helpers.

Every helper draws from a tidy frame (one row per model and category) on an axes it is given and returns nothing that
must be kept, so a notebook can add to the picture with plain matplotlib. Colour never carries a distinction alone:
models also differ in marker, CLIP models in dashes, hollow markers and hatches, so that a figure survives greyscale.
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
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from beyond_accuracy.base.profile import ModelSpec

ORANGE, PURPLE, INK, GREY = "#fc8e62", "#412f8a", "#22242a", "#8a8f98"
WIDTH = 6.4  # inches: at a phone's 360 px a 12 pt label is still about 9 px high
HASH_SALT = "beyond-accuracy"  # fixed ids in SVG files, so that an unchanged figure is an unchanged file

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
    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 4.0),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 150,
            "savefig.bbox": "tight",
            "savefig.pad_inches": 0.08,
            "savefig.facecolor": "white",
            "svg.hashsalt": HASH_SALT,
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same file on every machine
            "font.size": 11.5,
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 11.5,
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": INK,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "xtick.color": INK,
            "ytick.color": INK,
            "grid.color": "#e4e6ea",
            "legend.fontsize": 10.5,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 7,
            "hatch.linewidth": 0.9,
            "axes.prop_cycle": mpl.cycler(color=[ORANGE, PURPLE, *_EXTRA_COLORS]),
        }
    )


def style(spec: ModelSpec, among: Iterable[ModelSpec] = ()) -> ModelStyle:
    """The look of one model, the same on every page.

    The study's four models have fixed looks. Any other takes the next free extra colour, marker and hatch in the order
    of `among`; without it the look follows from the name alone, and may coincide with another's.
    """
    clip = spec.paradigm == "clip"
    linestyle = "--" if clip else "-"
    if spec.name in _OWN and spec.family in _FAMILY:
        color, marker = _FAMILY[spec.family]
        return ModelStyle(color, marker, linestyle, "///" if clip else "", spec.label)
    extras = [other.name for other in among if other.name not in _OWN]
    rank = extras.index(spec.name) if spec.name in extras else sum(spec.name.encode())
    pick = [values[rank % len(values)] for values in (_EXTRA_COLORS, _EXTRA_MARKERS, _EXTRA_HATCHES)]
    return ModelStyle(pick[0], pick[1], linestyle, pick[2], spec.label)


def styles(specs: Iterable[ModelSpec]) -> dict[str, ModelStyle]:
    """Looks of all models of a run by name, in the order given; distinct for up to nine extra models."""
    specs = list(specs)
    return {spec.name: style(spec, specs) for spec in specs}


def errorbar(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    x: str,
    styles: Mapping[str, ModelStyle],
    order: Sequence[object] | None = None,
    orient: str = "v",
    line: bool = False,
    dodge: float | None = None,
    **kwargs: object,
) -> None:
    """One point per row (`model`, `value`, column `x`, optional `ci_low`, `ci_high`), models side by side.

    seaborn cannot take intervals that were computed elsewhere. `order` makes a numeric `x` categorical; `orient="h"`
    puts categories downwards; `dodge`: distance between models (default 0.16 for categories, 0 for numbers). Rows whose
    `hollow` is true have white marks.
    """
    frame, categories = _positions(frame, x, styles, order)
    names = [name for name in styles if (frame["model"] == name).any()]
    step = dodge if dodge is not None else (0.16 if categories is not None else 0.0)
    for i, name in enumerate(names):
        rows = frame[frame["model"] == name].sort_values("_at", kind="stable")
        at = rows["_at"].to_numpy() + (i - (len(names) - 1) / 2) * step
        value, reach = rows["value"].to_numpy(dtype=float), _reach(rows)
        look = styles[name]
        options = _point_options(look) | {"linestyle": look.linestyle if line else "none", "elinewidth": 1.5}
        options |= {"capsize": 2.5} | kwargs
        where = {"x": at, "y": value, "yerr": reach} if orient == "v" else {"x": value, "y": at, "xerr": reach}
        ax.errorbar(**where, **options)
        if "hollow" in rows and rows["hollow"].any():
            shown = rows["hollow"].to_numpy(bool)
            marks = {"markersize": kwargs.get("markersize"), "markeredgewidth": 1.6, "markerfacecolor": "white"}
            ax.plot(where["x"][shown], where["y"][shown], look.marker, color=look.color, zorder=2.3, **marks)
    category_axis(ax, categories, orient)


def bar_options(look: ModelStyle) -> dict[str, object]:
    """Keywords of `Axes.bar` that give a bar this model's colour and hatch."""
    # The hatch takes the edge colour; white lines on the model's colour keep both visible in greyscale.
    return {"facecolor": look.color, "edgecolor": "white", "hatch": look.hatch, "linewidth": 0.6}


def chance_line(ax: Axes, value: float, label: str = "chance", orient: str = "v") -> None:
    """A dotted grey line at a chance or reference level, named at its right (or upper) end."""
    if orient == "v":
        ax.axhline(value, color=GREY, linestyle=":", linewidth=1.4)
        spot, transform, align = (0.995, value), ax.get_yaxis_transform(), {"ha": "right", "va": "bottom"}
    else:
        ax.axvline(value, color=GREY, linestyle=":", linewidth=1.4)
        spot, transform, align = (value, 0.995), ax.get_xaxis_transform(), {"ha": "left", "va": "top"}
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    ax.text(*spot, f" {label} ", transform=transform, fontsize=10, color="#5b6068", path_effects=halo, **align)


def paper_points(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    x: str,
    styles: Mapping[str, ModelStyle],
    order: Sequence[object] | None = None,
    orient: str = "v",
    dodge: float | None = None,
) -> None:
    """Mark the paper's values with black dashes at the places where `errorbar` puts the measured ones."""
    marks = frame.drop(columns=[name for name in ("ci_low", "ci_high") if name in frame])
    looks = {name: ModelStyle(INK, "_" if orient == "v" else "|", "-", "", "_nolegend_") for name in styles}
    errorbar(ax, marks, x=x, styles=looks, order=order, orient=orient, dodge=dodge, markersize=13, zorder=1.5)


def legend(target: Axes | Figure, styles: Mapping[str, ModelStyle], *, kind: str = "point", columns: int = 2) -> None:
    """Put the models' legend above a figure or axes, where it covers no data; handles are `point` or `line`."""
    line = kind == "line"
    handles = [
        Line2D([], [], linestyle=look.linestyle if line else "none", **_point_options(look)) for look in styles.values()
    ]
    if isinstance(target, Figure):
        target.legend(handles=handles, loc="outside upper left", ncols=columns)
    else:
        target.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.3)


def _point_options(look: ModelStyle) -> dict[str, object]:
    face = {"marker": look.marker, "markerfacecolor": look.markerfacecolor, "markeredgewidth": 1.6}
    return {"color": look.color, "label": look.label, **face}


def _positions(
    frame: pd.DataFrame, x: str, styles: Mapping[str, ModelStyle], order: Sequence[object] | None
) -> tuple[pd.DataFrame, list[object] | None]:
    """Adds the column `_at`; the second value is the list of categories, None on a numeric axis."""
    unknown = sorted(set(frame["model"]) - set(styles))
    if unknown:
        raise ValueError(f"no style for model {', '.join(unknown)}")
    if order is None and pd.api.types.is_numeric_dtype(frame[x]):
        return frame.assign(_at=frame[x].astype(float)), None
    categories = list(order) if order is not None else list(frame[x].unique())
    missing = set(frame[x]) - set(categories)
    if missing:
        raise ValueError(f"{x} has values that order lacks: {sorted(map(str, missing))}")
    places = {category: float(i) for i, category in enumerate(categories)}
    return frame.assign(_at=frame[x].map(places).astype(float)), categories


def _reach(rows: pd.DataFrame) -> np.ndarray | None:
    """Distances below and above the value, shape (2, rows); NaN (no whisker) where there is no interval."""
    if "ci_low" not in rows or "ci_high" not in rows:
        return None
    value = rows["value"].to_numpy(dtype=float)
    below, above = value - rows["ci_low"].to_numpy(dtype=float), rows["ci_high"].to_numpy(dtype=float) - value
    # A percentile interval of a skewed statistic may leave its own estimate out; a whisker cannot be negative.
    return np.clip(np.vstack([below, above]), 0, None)


def category_axis(ax: Axes, categories: list[object] | None, orient: str) -> None:
    """Name the places 0, 1, … of an axis; a numeric axis (None) stays as it is."""
    if categories is None:
        return
    names = [str(category).replace("_", " ") for category in categories]
    if orient == "v":
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.grid(axis="x", visible=False)
    else:
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
