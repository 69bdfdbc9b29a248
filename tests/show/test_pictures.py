"""Pictures: galleries, and images as a model gets them."""

import io
import warnings

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from beyond_accuracy.show import pictures, theme


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_transformed_picture_is_what_the_model_gets():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    assert pictures.transformed(image, "none", 48, "a").size == (48, 48)
    assert pictures.transformed(image, "resolution=448", 48, "a").size == (96, 96)
    same = [np.asarray(pictures.transformed(image, "noise=0.2", 48, "a")) for _ in range(2)]
    assert np.array_equal(*same)


def test_gallery():
    wide = Image.new("RGB", (400, 200), (255, 0, 0))
    assert pictures.thumbnail(wide).size == (160, 160)
    assert pictures.thumbnail(Image.new("L", (30, 40))).size == (30, 30)
    theme.use_theme()
    fig = pictures.gallery([wide] * 5, ["a\nb"] * 5, columns=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would end up in the rendered page
        for kind in ("svg", "png"):
            fig.savefig(io.BytesIO(), format=kind)
    boxes = [ax.get_position() for ax in fig.axes]
    assert len(boxes) == 5 and all(0 <= box.x0 < box.x1 <= 1.001 and -0.001 <= box.y0 for box in boxes)
    width, height = fig.get_size_inches()
    assert boxes[0].width * width == pytest.approx(boxes[0].height * height)
    with pytest.raises(ValueError, match="0 images"):
        pictures.gallery([], [])
