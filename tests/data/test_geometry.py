"""Resize and crop equal those of the libraries, byte for byte."""

import numpy as np
import pytest
from PIL import Image

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data.transforms import Geometry, override

SIZES = [(97, 61), (61, 97), (64, 64), (33, 200), (20, 18)]


def picture(size):
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(0.875, "bicubic"), (0.95, "bilinear"), (1.0, "bicubic")])
def test_timm(size, crop_mode, crop_pct, interpolation):
    from timm.data import create_transform

    side, mean = 48, (0.485, 0.456, 0.406)
    theirs = create_transform(
        (3, side, side), crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation, mean=mean, normalize=False
    )
    mode = {"center": "shortest", "squash": "squash", "border": "longest"}[crop_mode]
    ours = Geometry.of(side, crop_pct, interpolation, mode, [round(255 * value) for value in mean])
    image = picture(size)
    expected = theirs(image).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(ours.apply(image)), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_open_clip(size, mode):
    from open_clip.transform import image_transform
    from torchvision.transforms import ToTensor

    theirs = image_transform(40, False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, fill_color=7)
    image = picture(size)
    ours = ToTensor()(Geometry.of(40, 1.0, "bicubic", mode, [7] * 3).apply(image))
    np.testing.assert_array_equal(ours.numpy(), theirs(image).numpy())


@pytest.mark.parametrize("side", [112, 224, 336, 512, 640])
def test_other_sides_round_as_the_sources_do(side):
    paper = Geometry.of(224, 224 / 256, "bilinear")
    assert paper.resize == 256 and paper.at(side) == Geometry(int(side * 256 / 224), side, "bilinear")
    for crop_pct in (0.875, 0.9, 0.95, 1.0):
        assert Geometry.of(224, crop_pct, "bicubic").at(side).resize == int(side / crop_pct)
    assert Geometry(256, 224).at(side).resize == side * 256 // 224
    assert Geometry(0, 224).at(side) == Geometry(0, side)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_without_antialias_it_is_the_resize_of_tensors(interpolation):
    from torch.nn.functional import interpolate
    from torchvision.transforms.functional import pil_to_tensor

    image = picture((97, 97))
    found = np.asarray(Geometry(32, 32, interpolation, antialias=False).apply(image))
    pixels = pil_to_tensor(image)[None].float()
    expected = interpolate(pixels, (32, 32), mode=interpolation, align_corners=False).round().clamp(0, 255)
    np.testing.assert_array_equal(found, expected[0].permute(1, 2, 0).numpy())
    assert (found != np.asarray(Geometry(32, 32, interpolation).apply(image))).any()


def test_text_tells_geometries_apart_and_nothing_else():
    base = Geometry.of(224, 0.875, "bicubic")
    assert base.text == "Resize(256, bicubic) CenterCrop(224)" and base.at(224) is base
    others = [(224, 0.9, "bicubic"), (224, 0.875, "bilinear"), (192, 0.875, "bicubic")]
    others += [(224, 0.875, "bicubic", *mode) for mode in (["squash"], ["longest"], ["longest", (1, 1, 1)])]
    built = [Geometry.of(*other) for other in others]
    built += [Geometry(256, 224, antialias=False), Geometry(256, 224, crop_first=256), Geometry(0, 224)]
    assert len({base.text, *(other.text for other in built)}) == 1 + len(built)
    assert Geometry(256, 224) == base  # however it was arrived at


def test_overrides():
    base = Geometry.of(224, 0.95, "bicubic")
    assert override("", base) is base
    exact = picture((224, 224))
    np.testing.assert_array_equal(np.asarray(override("native", base).apply(exact)), np.asarray(exact))
    pug = override("pug_official", base)
    assert pug.text == "CenterCrop(256) Resize(224, bilinear) CenterCrop(224)"
    image = picture((300, 280))
    expected = image.crop((22, 12, 278, 268)).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(pug.apply(image)), np.asarray(expected))
    with pytest.raises(InputError, match="native, pug_official"):
        override("natural", base)
