"""A scatter plot of models to look around in: plain inline SVG that works offline, and without a script.

The axes are switched by radio buttons through CSS alone; each point carries its description as an SVG title. A short
script (``template/scatter.js``) adds a search and shows the description of the point nearest to the pointer.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit

from beyond_accuracy.dimensions.plots_landscape import FAMILIES, KINDS, kind_of

TEMPLATE = Path(__file__).parents[1] / "report" / "template"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 800, 520, 62, 52, 14, 14
_SHAPES = {
    "o": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "^": "M0,-6L5.6,4.6L-5.6,4.6z",
    "s": "M-4.6,-4.6h9.2v9.2h-9.2z",
    "D": "M0,-6L6,0L0,6L-6,0z",
    "*": "M0,-11L2.6,-3.5L10.5,-3.4L4.2,1.3L6.5,8.9L0,4.4L-6.5,8.9L-4.2,1.3L-10.5,-3.4L-2.6,-3.5z",
}


@dataclass(frozen=True)
class Axis:
    """One choice of an axis.

    Attributes:
        column: Column of the frame.
        label: Text of the axis and of its button.
        scale: `logit` (percent) or `log`.
        ticks: Where ticks may be; those in range are drawn.
    """

    column: str
    label: str
    scale: str
    ticks: tuple[float, ...]

    def place(self, values: object) -> np.ndarray:
        """Values on the axis' linear scale."""
        values = np.asarray(values, float)
        return logit(np.clip(values, 0.2, 99.8) / 100) if self.scale == "logit" else np.log10(values)


def percent_axis(column: str, label: str) -> Axis:
    """An accuracy in percent on a log-odds scale."""
    return Axis(column, label, "logit", (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95))


def size_axis(column: str, label: str) -> Axis:
    """A size on a logarithmic scale."""
    return Axis(column, label, "log", (1, 3, 10, 30, 100, 300, 1000, 3000))


def scatter_html(
    frame: pd.DataFrame, xs: Sequence[Axis], ys: Sequence[Axis], *, name: str, alt: str, caption: str
) -> str:
    """The plot as HTML.

    Args:
        frame: Models with ``model, family, paradigm, detail`` (text shown for a point) and the axes' columns; a column
            ``marked`` (text, empty for most) names the points drawn large, ``this run`` draws a star.
        xs: Choices of the horizontal axis, the first shown at the start.
        ys: Choices of the vertical axis.
        name: Stem of ids, letters, digits and dashes.
        alt: What the picture shows.
        caption: What to read from it.

    Raises:
        ValueError: If no model has the columns of any axis.
    """
    scales_x = [_scale(frame, axis, _LEFT, _WIDTH - _RIGHT) for axis in xs]
    scales_y = [_scale(frame, axis, _HEIGHT - _BOTTOM, _TOP) for axis in ys]
    marked = frame["marked"].fillna("") if "marked" in frame else pd.Series("", index=frame.index)
    # marked points last, on top; of those the round ones first, since they cover most
    order = np.lexsort((frame.family.ne("transformer"), marked.ne("")))
    across = np.column_stack([to(frame[axis.column]) for axis, (to, _) in zip(xs, scales_x, strict=True)])
    down = np.column_stack([to(frame[axis.column]) for axis, (to, _) in zip(ys, scales_y, strict=True)])
    points = "".join(
        _point(row, across[i], down[i], str(marked.iloc[i]))
        for i, row in ((i, frame.iloc[i]) for i in order)
        if np.isfinite(across[i]).any() and np.isfinite(down[i]).any()
    )
    drawn = [(axis, scale, f"x{i}", True) for i, (axis, scale) in enumerate(zip(xs, scales_x, strict=True))]
    drawn += [(axis, scale, f"y{i}", False) for i, (axis, scale) in enumerate(zip(ys, scales_y, strict=True))]
    axes = "".join(_axis(axis, limits, to, css, flat) for axis, (to, limits), css, flat in drawn)
    rules = "".join(
        f"#{name}:has(#{name}-x{i}:checked):has(#{name}-y{j}:checked) .p"
        f"{{transform:translate(var(--x{i},-99px),var(--y{j},-99px))}}"
        for i in range(len(xs))
        for j in range(len(ys))
    ) + "".join(
        f"#{name}:has(#{name}-{side}{i}:checked) .{side}{i}{{display:inline}}"
        for side, choices in (("x", xs), ("y", ys))
        for i in range(len(choices))
    )
    css, script = ((TEMPLATE / f"scatter.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        f'<figure class="ba-scatter" id="{name}"><style>{css}{rules}</style>'
        f"{_choices(name, 'y', 'Vertical', ys)}{_choices(name, 'x', 'Horizontal', xs)}"
        f'<label hidden>Find <input type="search" placeholder="convnext, laion2b, …"></label>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(alt)}" font-size="15" '
        f'font-family="system-ui, sans-serif">{axes}{points}</svg>'
        f'<p class="ba-key">{_key(frame, marked)}</p><output aria-live="polite"></output>'
        f"<figcaption>{html.escape(caption)}</figcaption><script>{script}</script></figure>"
    )


def _scale(frame: pd.DataFrame, axis: Axis, start: float, end: float):
    """Function from values to pixels, and the range of the axis in its linear scale."""
    values = frame[axis.column].dropna()
    if values.empty:
        raise ValueError(f"no model has {axis.column}")
    low, high = axis.place(values.min()), axis.place(values.max())
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin
    return lambda v: start + (axis.place(v) - low) / (high - low) * (end - start), (low, high)


def _point(row: pd.Series, across: np.ndarray, down: np.ndarray, mark: str) -> str:
    color, marker = FAMILIES.get(row.family, FAMILIES["other"])
    kind = kind_of(row.paradigm)
    if mark == "this run":
        color, marker = "#b3261e", "*"
    places = [
        f"--{s}{i}:{v:.1f}px" for s, vs in (("x", across), ("y", down)) for i, v in enumerate(vs) if np.isfinite(v)
    ]
    first = (across[0], down[0]) if np.isfinite(across[0]) and np.isfinite(down[0]) else (-99, -99)
    size = ' d="' + _SHAPES[marker] + '"'
    if mark and mark != "this run":
        size = f' d="{_scaled(_SHAPES[marker], 1.9)}"'
    fill = "#fff" if kind == "clip" else color
    edge = "#000" if mark else color
    faded = ' opacity="0.4"' if kind == "other" else ""
    text = html.escape(f"{row.model}{' (' + mark + ')' if mark else ''}: {row.detail}")
    return (
        f'<path class="p" style="{";".join(places)}" transform="translate({first[0]:.1f},{first[1]:.1f})"{size} '
        f'fill="{fill}" stroke="{edge}"{faded}><title>{text}</title></path>'
    )


def _scaled(path: str, factor: float) -> str:
    """The same outline, larger: numbers after the arc flags stay flags, so circles are rewritten by radius."""
    if path == _SHAPES["o"]:
        r = 5 * factor
        return f"M-{r:g},0a{r:g},{r:g} 0 1,0 {2 * r:g},0a{r:g},{r:g} 0 1,0 -{2 * r:g},0z"
    out, number = "", ""
    for char in path + " ":
        if char in "0123456789.-":
            number += char
            continue
        out += (f"{float(number) * factor:g}" if number else "") + char
        number = ""
    return out.strip()


def _axis(axis: Axis, limits: tuple[float, float], to, css: str, horizontal: bool) -> str:
    parts = []
    shown = [t for t in axis.ticks if limits[0] <= axis.place(t) <= limits[1]]
    last = None
    for tick in shown:
        at = float(to(tick))
        if last is not None and abs(at - last) < (46 if horizontal else 24):
            continue
        last = at
        if horizontal:
            parts.append(
                f'<path d="M{at:.1f},{_TOP}V{_HEIGHT - _BOTTOM}" stroke="#e4e6ea"/>'
                f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>'
            )
        else:
            parts.append(
                f'<path d="M{_LEFT},{at:.1f}H{_WIDTH - _RIGHT}" stroke="#e4e6ea"/>'
                f'<text x="{_LEFT - 7}" y="{at + 5:.1f}" text-anchor="end">{tick:g}</text>'
            )
    label = html.escape(axis.label)
    if horizontal:
        parts.append(
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{label}</text>'
        )
    else:
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(f'<text transform="translate(16,{middle:.0f}) rotate(-90)" text-anchor="middle">{label}</text>')
    return f'<g class="axis {css}" fill="#22242a">{"".join(parts)}</g>'


def _choices(name: str, side: str, title: str, axes: Sequence[Axis]) -> str:
    buttons = "".join(
        f'<label><input type="radio" name="{name}-{side}" id="{name}-{side}{i}"{" checked" if i == 0 else ""}> '
        f"{html.escape(axis.label)}</label>"
        for i, axis in enumerate(axes)
    )
    return f"<fieldset><legend>{title}</legend>{buttons}</fieldset>"


def _key(frame: pd.DataFrame, marked: pd.Series) -> str:
    """Legend as small inline drawings."""
    entries: list[tuple[str, str, str, float]] = [
        (family, _SHAPES[marker], color, 1.0)
        for family, (color, marker) in FAMILIES.items()
        if (frame.family == family).any()
    ]
    looks: Mapping[str, tuple[str, float]] = {
        "supervised": ("#22242a", 1.0),
        "clip": ("#fff", 1.0),
        "other": ("#22242a", 0.4),
    }
    drawn = [_swatch(text, shape, color, color, alpha) for text, shape, color, alpha in entries]
    kinds = set(frame.paradigm.map(kind_of))
    drawn += [_swatch(KINDS[k], _SHAPES["o"], fill, "#22242a", a) for k, (fill, a) in looks.items() if k in kinds]
    if (marked == "this run").any():
        drawn.append(_swatch("this run", _SHAPES["*"], "#b3261e", "#b3261e", 1.0))
    return " ".join(drawn)


def _swatch(text: str, shape: str, fill: str, stroke: str, alpha: float) -> str:
    return (
        '<span style="white-space:nowrap;margin-right:.8em"><svg viewBox="-12 -12 24 24" width="18" height="18" '
        'aria-hidden="true" style="display:inline-block;width:18px;vertical-align:middle">'
        f'<path d="{shape}" fill="{fill}" stroke="{stroke}" stroke-width="1.5" opacity="{alpha:g}"/></svg>'
        f" {html.escape(text)}</span>"
    )
