"""Figures of the invariance page."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from beyond_accuracy.data.transforms import parse
from beyond_accuracy.show.pictures import thumbnail
from beyond_accuracy.show.theme import GREY, WIDTH, ModelStyle, errorbar, legend, paper_points

AXES = {
    "scale": "zoom factor",
    "shift": "shift (pixels)",
    "resolution": "resolution (224: as trained)",
    "rotation": "rotation (degrees)",
    "jitter": "colour jitter",
    "noise": "noise (standard deviation)",
    "blur": "blur (sigma, pixels)",
    "jpeg": "JPEG quality",
    "hflip": "mirrored",
}


def curve_figure(
    curves: pd.DataFrame,
    styles: Mapping[str, ModelStyle],
    transforms: Sequence[str],
    kind: str,
    label: str,
    paper: pd.DataFrame,
    columns: int = 1,
    level: float | None = None,
) -> Figure:
    """One measure against the strength of each transform, one panel per transform.

    Args:
        curves: Rows of `metrics.invariance.curve` for these transforms.
        styles: Looks of the models.
        transforms: Transforms to show, in order.
        kind: Measure, e.g. `accuracy`.
        label: Its axis label.
        paper: Rows `transform, strength, model, value` of the paper for this measure; may be empty.
        columns: Panels side by side.
        level: A reference drawn as a dotted line (chance), or None.
    """
    rows = -(-len(transforms) // columns)
    height = 2.5 if columns == 1 else 2.2
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, 0.6 + height * rows), sharey=True, squeeze=False)
    for ax in axes.flat[len(transforms) :]:
        ax.axis("off")
    for ax, name in zip(axes.flat, transforms, strict=False):
        mine = curves[(curves["transform"] == name) & (curves["kind"] == kind)]
        strengths = list(dict.fromkeys(mine["strength"]))
        # steps of a ladder are unequal: drawn at equal distances, so that the small strengths stay apart
        errorbar(ax, mine, x="strength", styles=styles, order=strengths, line=True, dodge=0.0, markersize=6, capsize=0)
        if len(paper):
            theirs = paper[(paper["transform"] == name) & paper["strength"].isin(strengths)]
            paper_points(ax, theirs, x="strength", styles=styles, order=strengths, dodge=0.0)
        if level is not None:
            ax.axhline(level, color=GREY, linestyle=":", linewidth=1.4)
        ax.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        ax.set_xlabel(AXES.get(name, name), fontsize=11)
        ax.grid(axis="x", visible=False)
    if columns > 1:
        fig.supylabel(label, fontsize=11.5)
    else:
        for ax in axes.flat:
            ax.set_ylabel(label)
    legend(fig, styles, kind="line")
    return fig


def summary_figure(agreement: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """Mean agreement per transform and model: which changes cost which model its answer.

    Args:
        agreement: Rows `transform, model, value` (fraction), the most harmful transform last.
        styles: Looks of the models.
    """
    order = list(dict.fromkeys(agreement["transform"]))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.45 * len(order)))
    errorbar(ax, agreement, x="transform", styles=styles, order=order, orient="h", dodge=0.17)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel("agreement with the answer to the plain image, mean over strengths")
    legend(fig, styles)
    return fig


def ladder_figure(image: Image.Image, ladders: Mapping[str, Sequence[float]], size: int, image_id: str) -> Figure:
    """One image under every transform at every strength, as the model gets it.

    Args:
        image: The source image, RGB.
        ladders: Transform -> strengths.
        size: Side of the model's input in pixels.
        image_id: Seeds the random transforms, as in inference.
    """
    columns = max(map(len, ladders.values()))
    side = WIDTH / (columns + 1.1)
    fig, axes = plt.subplots(
        len(ladders), columns, figsize=(WIDTH, len(ladders) * (side + 0.22)), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for row, (name, strengths) in zip(axes, ladders.items(), strict=True):
        for ax, strength in zip(row, strengths, strict=False):
            ax.imshow(np.asarray(transformed(image, f"{name}={strength:g}", size, image_id)), interpolation="nearest")
            ax.set_title(f"{strength:g}", fontsize=9, fontweight="normal", loc="center", pad=2)
        row[0].text(-0.12, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=10)
    return fig


def transformed(image: Image.Image, text: str, size: int, image_id: str) -> Image.Image:
    """An image under a transform, cropped to its central square and reduced to a model's input side."""
    transform = parse(text)
    rng = transform.generator(image_id)
    side = transform.input_size(size)
    square = thumbnail(transform.apply_source(image, rng), side)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return transform.apply_input(square, rng)
