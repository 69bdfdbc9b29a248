"""Pictures in the report: galleries of images with a line or two of text under each."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from .plots import WIDTH

PHOTO_SIDE = 160  # pixels: sharp at three columns on a phone, and light in the page


def gallery(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 3, pixelated: bool = False
) -> Figure:
    """Images in a grid, each with its caption below.

    Args:
        images: RGB images of any size; shown as squares of their centre.
        captions: As many texts; lines are separated by newlines.
        columns: Images per row; three are legible on a phone.
        pixelated: Enlarge without smoothing, to show the pixels a small model gets.

    Raises:
        ValueError: No images, or another number of captions.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images with {len(captions)} captions")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") for caption in captions) + 1
    side = WIDTH / columns
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, rows * (side + 0.19 * lines)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        ax.imshow(np.asarray(thumbnail(image)), interpolation="nearest" if pixelated else "antialiased")
        ax.text(0.0, -0.03, caption, transform=ax.transAxes, va="top", ha="left", fontsize=9.5, linespacing=1.25)
    return fig


def thumbnail(image: Image.Image, side: int = PHOTO_SIDE) -> Image.Image:
    """The central square of an image, at most `side` pixels wide."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = image.convert("RGB").crop((left, top, left + edge, top + edge))
    return square.resize((side, side), Image.Resampling.LANCZOS) if edge > side else square
