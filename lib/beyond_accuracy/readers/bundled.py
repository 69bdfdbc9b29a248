"""Sets that come with a dependency, so that they are real and need no download."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from beyond_accuracy.datasets import BytesLoader, ImageDataset, build_dataset
from beyond_accuracy.profiles import DatasetSpec

DIGIT_SIDE = 64


def digits(spec: DatasetSpec) -> ImageDataset:
    """scikit-learn's handwritten digits: 1,797 scans of 8 x 8 pixels in 16 grey levels, written by 43 people.

    Dark ink on light paper, enlarged to 64 pixels (bicubic) so that no model has to guess how to resize 8 pixels.
    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part; CC BY 4.0.
    """
    from sklearn import __version__
    from sklearn.datasets import load_digits

    data = load_digits()
    pages = (255 * (1 - data.images / 16)).round().astype(np.uint8)
    return build_dataset(
        replace(spec, classes=""),
        [f"digit_{row:04d}" for row in range(len(pages))],
        data.target.astype(np.int64),
        BytesLoader([_png(page) for page in pages]),
        content=f"{DIGIT_SIDE} {np.packbits(pages.ravel() > 127).tobytes().hex()[:256]} {int(pages.sum())}",
        source=f"scikit-learn {__version__}",
    )


def _png(page: np.ndarray) -> bytes:
    large = Image.fromarray(page).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
