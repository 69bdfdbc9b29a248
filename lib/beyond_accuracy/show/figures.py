"""The kinds of figure of the report: dots, lines, arrows, stacked bars, matrices, leads, scatters, pictures.

Each draws a tidy frame in which a row is one mark: `value`, optionally `ci_low` and `ci_high`, `model`, and the columns
that are named as the axes. It returns the figure and its words for whoever cannot see it, made from the same rows.
`Page.draw` calls them with the looks of the report's models.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patheffects import withStroke
from PIL import Image

from beyond_accuracy.data.transforms import parse
from beyond_accuracy.show.theme import (
    GREY,
    HALO,
    INK,
    WIDTH,
    ModelStyle,
    category_axis,
    direct_labels,
    errorbar,
    legend,
    paper_points,
)

Drawn = tuple[Figure, str]
PHOTO_SIDE = 160  # pixels: sharp at three columns on a phone, and light in the page
_CAPTION_LINE = 0.175  # inches per line of 10 points


def panels(names: Sequence, height: float, columns: int = 1, **options) -> tuple[Figure, dict]:
    """A figure with one axes per name, `columns` side by side; surplus axes are hidden."""
    rows = -(-len(names) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, 0.7 + rows * height), squeeze=False, **options)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, names, strict=False):
        ax.set_title(str(name).replace("_", " "))
    return fig, dict(zip(names, axes.flat, strict=False))


def spell(frame: pd.DataFrame, by: Sequence[str], labels: Mapping[str, str], spec: str = ".3g") -> str:
    """Rows as words, such as `ViT, World R 12.7; …`."""
    rows = frame.to_dict("records")
    return "; ".join(f"{', '.join(_name(row[c], labels) for c in by if c)} {row['value']:{spec}}" for row in rows)


def _name(value: object, labels: Mapping[str, str]) -> str:
    return labels.get(value, f"{value:g}" if isinstance(value, float) else str(value).replace("_", " "))


def used(styles: Mapping[str, ModelStyle], frame: pd.DataFrame) -> dict[str, ModelStyle]:
    """Looks of those models that the frame holds."""
    return {name: look for name, look in styles.items() if (frame["model"] == name).any()}


def dots(
    frame: pd.DataFrame,  # a column `hollow` tells the rows that are undecided
    y: str,  # column of the categories; `model` names each row by its model, without a legend
    styles: Mapping[str, ModelStyle],
    xlabel: str,
    *,
    panel: str = "",  # column with one panel per value
    paper: pd.DataFrame | bool | None = None,  # the paper's values, drawn as black ticks (True in `Page.draw`)
    line: float | None = None,  # where a line of reference stands
    chance: float | Mapping[object, float] | None = None,  # level of chance, a dotted line; or one per category
    beside: str = "",  # column of another number of each row, drawn as a black tick
    stripes: bool = False,  # shade every other category
    counts: bool = False,  # put n behind a category's name
    xlim: tuple | None = None,
    free: bool = False,  # each panel has only its own categories
) -> Drawn:
    """One row per category, one mark with its interval per model; panels below each other."""
    parts, looks = dict(iter(frame.groupby(panel, sort=False))) if panel else {"": frame}, used(styles, frame)
    rows = {key: list(dict.fromkeys((part if free else frame)[y])) for key, part in parts.items()}
    heights = [max(0.4, 0.2 + 0.09 * len(looks)) * len(names) + 0.6 for names in rows.values()]
    fig, axes = panels(list(parts), np.mean(heights), height_ratios=heights)
    for key, ax in axes.items():
        mine, names = parts[key], rows[key]
        common = {"x": y, "styles": looks, "order": names, "orient": "h"}
        common["dodge"] = 0.0 if y == "model" else 0.72 / max(len(looks), 2 if beside else 4)
        errorbar(ax, mine, **common)
        if paper is not None and len(paper):
            paper_points(ax, paper[paper[y].isin(names)], **common)
        if beside:
            paper_points(ax, mine.assign(value=mine[beside]), **common)
        if line is not None:
            ax.axvline(line, color=INK, linewidth=1)
        if isinstance(chance, Mapping):
            for i, level in [(i, chance[name]) for i, name in enumerate(names) if name in chance]:
                ax.plot([level] * 2, [i - 0.4, i + 0.4], color=GREY, linestyle=":", linewidth=1.4)
        elif chance is not None:
            ax.axvline(chance, color=GREY, linestyle=":", linewidth=1.4)
            look = {"fontsize": 10, "color": "#5b6068", "path_effects": [withStroke(linewidth=3, foreground="white")]}
            ax.text(chance, 0.995, " chance ", transform=ax.get_xaxis_transform(), ha="left", va="top", **look)
        for i in range(0, len(names) * stripes, 2):
            ax.axhspan(i - 0.5, i + 0.5, color=GREY, alpha=0.09, linewidth=0)
        if counts:
            size = mine.drop_duplicates(y).set_index(y)["n"]
            ax.set_yticks(range(len(names)), [f"{str(k).replace('_', ' ')}  ({size[k]:,})" for k in names])
        if y == "model":
            category_axis(ax, [looks[name].label for name in names], "h")
        ax.set(xlabel=xlabel, xlim=xlim)
    if "hollow" in frame and frame["hollow"].any():
        looks = looks | {"": ModelStyle(GREY, "o", "--", "", "undecided")}
    if y != "model":
        legend(fig, looks)
    by, names = list(dict.fromkeys([panel, y, "model"])), labels_of(looks)
    words = spell(frame, by, names)
    if beside:
        words += f". {beside.replace('_', ' ')}: {spell(frame.assign(value=frame[beside]), by, names)}"
    return fig, f"{xlabel}: {words}."


def lines(
    frame: pd.DataFrame,
    x: str,
    styles: Mapping[str, ModelStyle],
    xlabel: str,
    ylabel: str,
    *,
    panel: str = "",  # column with one panel per value
    columns: int = 2,  # panels side by side
    band: bool = False,  # intervals as bands (many points), else as whiskers
    level: float | Mapping[object, float] | None = None,  # a dotted line of reference; or one per panel
    equal: bool = False,  # equal distances between the steps of a ladder
    sharey: bool = True,  # the same vertical limits in all panels
    dodge: float = 0.0,  # distance between models, so that their whiskers do not hide each other
    shade: Mapping[str, tuple[float, float]] | None = None,  # panel -> (low, high) that is shaded
    ymin: float | None = None,
    paper: pd.DataFrame | bool | None = None,  # as in `dots`, where steps are equal
    spoken: Sequence[float] = (),  # where on the horizontal axis the words read the lines off; default: at their ends
    log: Sequence = (),  # panels with a logarithmic horizontal axis
    height: float = 3.2,  # of a panel, inches
) -> Drawn:
    """Value against a number, a line per model, a panel per value of a column."""
    keys, looks = list(dict.fromkeys(frame[panel])) if panel else [""], used(styles, frame)
    fig, axes = panels(keys, height if columns > 1 else 2.5, min(columns, len(keys)), sharey=sharey)
    for key, ax in axes.items():
        mine = frame[frame[panel] == key] if panel else frame
        steps = list(dict.fromkeys(mine[x])) if equal else None
        if key in log:
            at = np.unique(mine[x])[:: max(1, mine[x].nunique() // 4)]
            ax.set_xscale("log")
            ax.set_xticks(at, [f"{v:g}" for v in at])
            ax.minorticks_off()
        if shade and key in shade:
            ax.axvspan(*shade[key], color="#eef0f3", zorder=0)
        if band:
            for i, (name, look) in enumerate(looks.items()):
                part = mine[mine["model"] == name].sort_values(x)
                every = max(1, len(part) // 5)
                if "ci_low" in part:
                    ax.fill_between(part[x], part["ci_low"], part["ci_high"], color=look.color, alpha=0.15, linewidth=0)
                marks = {"marker": look.marker, "markerfacecolor": look.markerfacecolor}
                marks["markevery"] = (i * every // max(len(looks), 1), every)
                ax.plot(part[x], part["value"], color=look.color, linestyle=look.linestyle, **marks)
        else:
            errorbar(ax, mine, x, looks, order=steps, line=True, dodge=dodge)
            if equal:
                if paper is not None and len(paper):
                    theirs = paper[paper[panel] == key] if panel else paper
                    paper_points(ax, theirs, x, looks, order=steps)
                ax.set_xticks(range(len(steps)), [f"{s:g}" for s in steps])
        if level is not None:
            ax.axhline(level[key] if isinstance(level, Mapping) else level, color=GREY, linestyle=":", linewidth=1.4)
        ax.set_xlabel(xlabel)
    first = next(iter(axes.values()))
    first.set_ylim(bottom=ymin)
    fig.supylabel(ylabel, fontsize=11.5)
    across, rightmost = min(columns, len(keys)), {}  # the last panel of each row has room at its right
    for key in keys[across - 1 :: across] if across <= 2 else ():
        mine = frame[frame[panel] == key] if panel else frame
        steps = list(dict.fromkeys(mine[x])) if equal else None
        last = mine.sort_values(x, kind="stable").groupby("model").tail(1).set_index("model")
        at = last[x].map(steps.index) if equal else last[x]
        rightmost[axes[key]] = {m: (at[m], last.loc[m, "value"]) for m in looks if m in last.index}
    named = set().union(*rightmost.values()) == set(looks)
    if not (named and direct_labels(fig, rightmost, looks)):
        legend(fig, looks, kind="line")
    if len(spoken):
        named = frame[np.isclose(frame[x].to_numpy(float)[:, None], spoken).any(axis=1)]
        return fig, f"{ylabel} against {xlabel}: {spell(named, [panel, 'model', x], labels_of(looks))}."
    words, curves = [], frame.groupby([panel, "model"] if panel else ["model"], sort=False)["value"]
    for names, (first, last, low) in curves.agg(["first", "last", "min"]).T.items():
        name = ", ".join(_name(v, labels_of(looks)) for v in (names if panel else [names]))
        inside = f" (lowest {low:.3g})" if low < min(first, last) else ""
        words.append(f"{name} {first:.3g} to {last:.3g}{inside}")
    return fig, f"{ylabel} against {xlabel or x.replace('_', ' ')}, first to last: {'; '.join(words)}."


def arrows(frame: pd.DataFrame, styles: Mapping[str, ModelStyle], xlabel: str, panel: str) -> Drawn:
    """From `before` to `value`, an arrow per model, panels below each other."""
    looks = used(styles, frame)
    fig, axes = panels(list(dict.fromkeys(frame[panel])), 0.5 + 0.42 * len(looks), sharex=True)
    for key, ax in axes.items():
        mine = frame[frame[panel] == key].set_index("model").reindex(list(looks))
        for i, (row, look) in enumerate(zip(mine.itertuples(), looks.values(), strict=True)):
            head = {"arrowstyle": "-|>", "color": look.color, "shrinkA": 0, "shrinkB": 4}
            ax.annotate("", (row.value, i), (row.before, i), arrowprops=head)
            ax.plot(row.before, i, "|", color=INK, markersize=15, markeredgewidth=2)
        errorbar(ax, mine.reset_index(), "model", looks, order=list(looks), orient="h", markersize=7, capsize=2.5)
        category_axis(ax, [look.label for look in looks.values()], "h")
    ax.set(xlabel=xlabel, xlim=(0, None))
    rows, names = frame.to_dict("records"), labels_of(looks)
    words = [f"{r[panel]}, {names[r['model']]}: {r['before']:.3f} to {r['value']:.3f}" for r in rows]
    return fig, f"{xlabel}: {'; '.join(words)}."


def stacked(
    frame: pd.DataFrame, kinds: Mapping[str, tuple[str, str]], styles: Mapping[str, ModelStyle], xlabel: str
) -> Drawn:
    """One stacked bar per model in percent: rows `model, kind, value`; kind -> (colour, hatch)."""
    wide = frame.pivot(index="model", columns="kind", values="value").reindex(list(used(styles, frame)))
    fig, axes = panels([""], 0.6 + 0.5 * len(wide))
    ax, left = axes[""], np.zeros(len(wide))
    for kind, (color, hatch) in kinds.items():
        width = wide[kind].to_numpy(float)
        bars = ax.barh(range(len(wide)), width, 0.7, left=left, color=color, hatch=hatch, edgecolor="white", label=kind)
        shown = [f"{w:.0f}" if w >= 6 else "" for w in width]
        ink = "white" if np.mean(to_rgb(color)) < 0.5 else INK
        box = {"facecolor": color, "edgecolor": "none", "pad": 1.0}
        ax.bar_label(bars, shown, label_type="center", color=ink, bbox=box)
        left += width
    category_axis(ax, [styles[m].label for m in wide.index], "h")
    ax.set(xlim=(0, 100), xlabel=xlabel)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    return fig, f"{xlabel}: {spell(frame, ['model', 'kind'], labels_of(styles), '.0f')}."


def matrix(
    frame: pd.DataFrame,
    x: str,  # column whose values stand across
    y: str,  # column whose values stand downwards
    label: str,  # what the numbers are
    styles: Mapping[str, ModelStyle],  # for the models' names
    *,
    panel: str = "",  # column with one panel per value
    spec: str = ".2f",
    limits: tuple[float, float] = (0, 1),  # of the greys
    cmap: str = "Greys",
    xlabel: str = "",
    free: bool = False,  # each panel has only its own rows and columns; panels below each other
) -> Drawn:
    """Numbers in a grid of greys: one cell per (x, y), one panel per value of a column."""
    names = labels_of(styles)
    parts = dict(iter(frame.groupby(panel, sort=False))) if panel else {"": frame}
    sizes = [(part if free else frame)[y].nunique() for part in parts.values()]
    shape = {"height_ratios": sizes} if free else {"sharey": True}
    columns, height = 1 if free else min(2, len(parts)), np.mean(sizes) * (0.27 if free or max(sizes) > 8 else 0.5)
    fig, axes = panels([names.get(k, k) for k in parts], 0.6 + height, columns, **shape)
    for mine, ax in zip(parts.values(), axes.values(), strict=True):
        down, across = (list(dict.fromkeys((mine if free else frame)[axis])) for axis in (y, x))
        grid = mine.pivot(index=y, columns=x, values="value").reindex(index=down, columns=across)
        image = ax.pcolormesh(grid.to_numpy(), cmap=cmap, vmin=limits[0], vmax=limits[1], edgecolor="white")
        for i, j in zip(*np.nonzero(grid.notna().to_numpy()), strict=True):
            value = grid.iat[i, j]
            shade = "white" if np.mean(image.cmap(image.norm(value))[:3]) < 0.5 else INK
            text = f"{value:{spec}}".replace("-", "−")
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8.5, color=shade)
        labels = [str(names.get(c, c)).replace("_", " ").replace(", ", ",\n") for c in across]
        crowded = free and len(labels) * max(map(len, labels)) > 70
        turned = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        ax.set_xticks(np.arange(len(across)) + 0.5, labels, **turned)
        ax.set_yticks(np.arange(len(down)) + 0.5, [str(names.get(c, c)).replace("_", " ") for c in down])
        ax.set(ylim=(len(down), 0), xlabel=xlabel)
        ax.grid(visible=False)
    fig.colorbar(image, ax=list(axes.values()), label=label, location="bottom", shrink=0.6, aspect=30, pad=0.02)
    return fig, f"{label}: {spell(frame, [panel, y, x], names, spec)}."


def labels_of(styles: Mapping[str, ModelStyle]) -> dict[str, str]:
    """Model -> label."""
    return {name: look.label for name, look in styles.items()}


def lead(
    frame: pd.DataFrame, y: str, pairs: Sequence[tuple[str, str]], styles: Mapping[str, ModelStyle], gaps: pd.DataFrame
) -> Drawn:
    """The paper's lead chart: whoever wins a row pulls the bar to its side; its own value stands at the right edge.

    A panel per (left, right) pair of models; `gaps` has rows `y, model_a, model_b, difference, ci_low, ci_high`.
    """
    names = list(dict.fromkeys(frame[y]))
    fig, axes = panels([" − ".join(pair) for pair in pairs], 0.9 + 0.42 * len(names))
    turned = gaps.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    turned[["difference", "ci_low", "ci_high"]] = -gaps[["difference", "ci_high", "ci_low"]].to_numpy()
    both = pd.concat([gaps, turned])
    for ax, (left, right) in zip(axes.values(), pairs, strict=True):
        mine = both[(both["model_a"] == right) & (both["model_b"] == left)].set_index(y).reindex(names)
        best = frame[frame["model"].isin([left, right])].groupby(y, sort=False)["value"].max()
        for i, (name, row) in enumerate(mine.iterrows()):
            gap, ends = row["difference"], [row["difference"], row["ci_low"], row["ci_high"]]
            look = styles[right if gap > 0 else left]
            # The hatch takes the edge colour; white lines on the model's colour keep both visible in greyscale.
            ax.barh(i, gap, 0.68, facecolor=look.color, edgecolor="white", hatch=look.hatch, linewidth=0.6)
            ax.plot(ends[1:], [i, i], color=INK, linewidth=1.3, path_effects=HALO)
            side = 1 if gap >= 0 else -1
            at = {"xytext": (5 * side, 0), "textcoords": "offset points", "ha": "left" if side > 0 else "right"}
            ax.annotate(f"+{abs(gap):.1f}", (side * max(side * np.array(ends)), i), va="center", fontsize=10.5, **at)
            ax.text(1.04, i, f"{best[name]:.1f}", transform=ax.get_yaxis_transform(), va="center", fontsize=10.5)
        reach = 1.5 * np.nanmax(mine[["difference", "ci_low", "ci_high"]].abs().to_numpy()) or 1.0
        ax.text(1.04, -0.85, "winner", transform=ax.get_yaxis_transform(), va="center", fontsize=10.5)
        ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        ax.axvline(0, color=INK, linewidth=1)
        category_axis(ax, names, "h")
        ax.set(xlim=(-reach, reach), ylim=(len(names) - 0.4, -1.2), xlabel="lead (points)", title="")
        for spot, text, ha in ((0.0, f"← {styles[left].label}", "left"), (1.0, f"{styles[right].label} →", "right")):
            ax.text(spot, 1.01, text, transform=ax.transAxes, ha=ha, va="bottom", fontsize=11, fontweight="bold")
    spoken = gaps[[pair in pairs for pair in zip(gaps["model_a"], gaps["model_b"], strict=True)]]
    words = spell(spoken.assign(value=spoken["difference"]), [y, "model_a", "model_b"], labels_of(styles), "+.1f")
    return fig, f"Lead in points, first minus second model: {words}."


def scatter(
    frame: pd.DataFrame,  # with `x`, `<x>_low`, `<x>_high`, and those of `y`
    x: str,
    y: str,
    styles: Mapping[str, ModelStyle],
    labels: tuple[str, str],  # of the axes
    panel: str,  # column with one panel per value; also the board's column of that panel
    board: pd.DataFrame,  # published models with `imagenet_1k`; may be empty
    line: pd.Series,  # those of the board that the line is fitted to
    to: Callable = lambda v: v,  # scale on which both are drawn, such as log-odds
) -> Drawn:
    """Two numbers of every model against each other, panels two by two, with published models and their line."""
    keys, looks = list(dict.fromkeys(frame[panel])), used(styles, frame)
    fig, axes = panels(keys, 2.9, 2)
    for key, ax in axes.items():
        mine = frame[frame[panel] == key]
        seen = [mine[[f"{x}{end}", f"{y}{end}"]].to_numpy(float) for end in ("", "_low", "_high")]
        if key in board:
            known = board[["imagenet_1k", key]].notna().all(axis=1)
            for chosen, mark, color in ((known & ~line, "x", "#b9bdc5"), (known & line, ".", "#6d737c")):
                some = board[chosen]
                ax.plot(to(some["imagenet_1k"]), to(some[key]), mark, color=color, markersize=4)
            fit = board[known & line]
            seen.append(fit[["imagenet_1k", key]].to_numpy(float))
            slope, start = np.polyfit(to(fit["imagenet_1k"]), to(fit[key]), 1)
            for part, style in ((board[known], ":"), (fit, "-")):
                ends = to(np.array([part["imagenet_1k"].min(), part["imagenet_1k"].max()]))
                ax.plot(ends, start + slope * ends, color=INK, linestyle=style, linewidth=1.3)
        for row in mine.to_dict("records"):
            look, reach = looks[row["model"]], {}
            for side, name in (("xerr", x), ("yerr", y)):
                ends = to(np.array([row[f"{name}_low"], row[name], row[f"{name}_high"]]))
                reach[side] = np.clip(np.diff(ends), 0, None)[:, None]
            marks = {"marker": look.marker, "color": look.color, "markerfacecolor": look.markerfacecolor}
            ax.errorbar(to(row[x]), to(row[y]), **reach, **marks, markeredgewidth=1.6, elinewidth=1.2, zorder=3)
        values = np.concatenate(seen)
        for axis, limits, column in ((ax.xaxis, ax.set_xlim, values[:, 0]), (ax.yaxis, ax.set_ylim, values[:, 1])):
            low, high = to(column.min()) - 0.25, to(column.max()) + 0.25
            ticks: list[float] = []
            for tick in (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 98, 99):
                if low <= to(tick) <= high and (not ticks or to(tick) - to(ticks[-1]) >= (high - low) / 6):
                    ticks.append(tick)
            axis.set_ticks(to(np.array(ticks)), ticks)
            limits(low, high)
        ax.axline((0, 0), slope=1, color=GREY, linestyle="--", linewidth=1, zorder=0.5)
    fig.supxlabel(labels[0], fontsize=11.5)
    fig.supylabel(labels[1], fontsize=11.5)
    legend(fig, looks)
    words = spell(frame.assign(value=frame[y]), ["model", panel, x], labels_of(looks))
    return fig, f"{labels[1]} by {labels[0]}: {words}."


# Pictures -------------------------------------------------------------------------------------------------------------


def gallery(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 3, pixelated: bool = False
) -> Figure:
    """RGB images as squares of their centre in a grid, each with its caption (lines split by newlines) below."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") for caption in captions) + 1
    # placed by hand: captions are wider than they look to the layout engine, which would shrink the pictures
    gap = 0.12
    side = (WIDTH - gap * (columns - 1)) / columns
    cell = side + _CAPTION_LINE * lines + 0.16
    # an engine that does nothing, and not none: after a figure is saved, none turns into the theme's engine
    layout = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False)
    fig = plt.figure(figsize=(WIDTH, rows * cell), layout=layout)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = column * (side + gap) / WIDTH, 1 - (row * cell + side) / (rows * cell)
        ax = fig.add_axes((left, bottom, side / WIDTH, side / (rows * cell)))
        ax.imshow(np.asarray(thumbnail(image)), interpolation="nearest" if pixelated else "antialiased")
        ax.axis("off")
        ax.text(0.0, -0.04 / side, caption, transform=ax.transAxes, va="top", fontsize=10, linespacing=1.2)
    return fig


def thumbnail(image: Image.Image, side: int = PHOTO_SIDE) -> Image.Image:
    """The central square of an image, at most `side` pixels wide."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = image.convert("RGB").crop((left, top, left + edge, top + edge))
    return square.resize((side, side), Image.Resampling.LANCZOS) if edge > side else square


def transformed(image: Image.Image, text: str, size: int, image_id: str) -> Image.Image:
    """An image under a transform as a model with inputs of `size` pixels gets it: its central square, reduced.

    The transform is written as `data.transforms.parse` reads it; `image_id` seeds random ones, as in inference.
    """
    transform = parse(text)
    rng, side = transform.generator(image_id), transform.input_size(size)
    square = thumbnail(transform.apply_source(image, rng), side)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return transform.apply_input(square, rng)
