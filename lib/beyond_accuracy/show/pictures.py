"""Pictures in the report: galleries of images with a line or two of text under each."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from PIL import Image

from beyond_accuracy.data.transforms import parse
from beyond_accuracy.show.theme import WIDTH

_SIZE = 10  # points
_LINE = 0.175  # inches per caption line of that size
PHOTO_SIDE = 160  # pixels: sharp at three columns on a phone, and light in the page


def gallery(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 3, pixelated: bool = False
) -> Figure:
    """RGB images as squares of their centre in a grid, each with its caption (lines split by newlines) below."""
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images with {len(captions)} captions")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") for caption in captions) + 1
    # placed by hand: captions are wider than they look to the layout engine, which would shrink the pictures
    gap = 0.12
    side = (WIDTH - gap * (columns - 1)) / columns
    cell = side + _LINE * lines + 0.16
    # an engine that does nothing, and not none: after a figure is saved, none turns into the theme's engine
    layout = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False)
    fig = plt.figure(figsize=(WIDTH, rows * cell), layout=layout)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = column * (side + gap) / WIDTH, 1 - (row * cell + side) / (rows * cell)
        ax = fig.add_axes((left, bottom, side / WIDTH, side / (rows * cell)))
        ax.imshow(np.asarray(thumbnail(image)), interpolation="nearest" if pixelated else "antialiased")
        ax.axis("off")
        ax.text(0.0, -0.04 / side, caption, transform=ax.transAxes, va="top", fontsize=_SIZE, linespacing=1.2)
    return fig


def thumbnail(image: Image.Image, side: int = PHOTO_SIDE) -> Image.Image:
    """The central square of an image, at most `side` pixels wide."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = image.convert("RGB").crop((left, top, left + edge, top + edge))
    return square.resize((side, side), Image.Resampling.LANCZOS) if edge > side else square


def transformed(image: Image.Image, text: str, size: int, image_id: str) -> Image.Image:
    """An image under a transform as a model gets it: cropped to its central square, reduced to the input's side.

    Args:
        image: RGB.
        text: The transform, as `data.transforms.parse` reads it.
        size: Side of the model's input without transform, pixels.
        image_id: Seeds random transforms, as in inference.
    """
    transform = parse(text)
    rng, side = transform.generator(image_id), transform.input_size(size)
    square = thumbnail(transform.apply_source(image, rng), side)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return transform.apply_input(square, rng)
