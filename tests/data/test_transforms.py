"""Transforms: one spelling, exact definitions, identity, randomness; resize and crop equal the libraries'."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import transforms
from beyond_accuracy.data.transforms import IDENTITY, Geometry, override, parse


def picture(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def run(text, image, image_id="a"):
    """Source and input step in sequence, as inference applies them to an image that needs no resize."""
    transform = parse(text)
    rng = transform.generator(image_id)
    return np.asarray(transform.apply_input(transform.apply_source(image, rng), rng))


def test_text_has_one_spelling():
    spelled = {"scale=1.50": "scale=1.5", "scale=2@paper": "scale=2", "shift=30@library": "shift=30"}
    spelled |= {"resolution=336.0": "resolution=336", " jpeg=30 ": "jpeg=30"}
    kept = ("shift=30@paper", "scale=1.23456789", "corrupt:gaussian_noise=3", "corrupt:fog=1@paper")
    for text, canonical in {**spelled, **dict(zip(kept, kept, strict=True))}.items():
        assert parse(text).text == canonical
        assert parse(canonical) == parse(text)


@pytest.mark.parametrize(
    "text",
    ["none", "scale=1", "shift=0", "shift=0@paper", "resolution=224", "rotation=0", "rotation=360"]
    + ["jitter=0", "noise=0", "blur=0", "hflip=0", "corrupt:fog=0"],
)
def test_zero_strength_is_the_untransformed_run(text):
    transform, image = parse(text), picture()
    rng = np.random.default_rng(0)
    assert transform is IDENTITY and transform.text == "none"
    assert transform.apply_source(image, rng) is image and transform.apply_input(image, rng) is image
    assert transform.input_size(224, 16) == 224 and transform.input_size(65, 8) == 65


@pytest.mark.parametrize(
    "text, says",
    [
        ("shfit=3", "did you mean shift"),
        ("shift", "not a number"),
        ("shift=nan", "not possible"),
        ("scale=0", "from 0.1 to 20"),
        ("hflip=0.5", "whole number"),
        ("jpeg=0", "from 1 to 100"),
        ("noise=0.1@paper", "without @paper"),
        ("shift=3@other", "@library or @paper"),
        ("corrupt:gausian_noise=3", "gaussian_noise"),
        ("corrupt=3", "unknown corruption ''"),
        ("corrupt:fog=6", "from 0 to 5"),
        ("scale:fog=2", "only 'corrupt'"),
    ],
)
def test_bad_text_gets_one_clear_message(text, says):
    with pytest.raises(InputError, match="transform") as caught:
        parse(text)
    assert says in str(caught.value)


def test_scale_keeps_the_central_part():
    image = picture(40, 30)
    assert np.array_equal(run("scale=2", image), np.asarray(image)[7:22, 10:30])
    out = run("scale=0.5", image)
    assert out.shape == (60, 80, 3)
    assert np.array_equal(out[15:45, 20:60], np.asarray(image))
    assert np.array_equal(out[15:45, 19], np.asarray(image)[:, 0])  # the border is mirrored


def test_shift_moves_the_content_right_by_pixels_of_a_224_frame():
    image = picture(112, 112)
    out, source = run("shift=30", image), np.asarray(image)
    assert np.array_equal(out[:, 15:], source[:, :-15])
    assert (out[:, :15] == np.rint(source.mean(axis=(0, 1)))).all()
    left = run("shift=-30", image)
    assert np.array_equal(left[:, :-15], source[:, 15:]) and (left[:, -15:] == out[:, :15]).all()
    assert len(np.unique(run("shift=300", image).reshape(-1, 3), axis=0)) == 1  # nothing of the image is left


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (30, 30)])
def test_paper_shift_moves_the_view_along_the_longer_side_over_zeros(size):
    image = picture(*size)
    source, out = np.asarray(image), run("shift=8@paper", image)
    if size[0] <= size[1]:  # the paper's code takes the vertical axis for a square image
        source, out = source.transpose(1, 0, 2), out.transpose(1, 0, 2)
    assert np.array_equal(out[:, :-8], source[:, 8:])
    assert (out[:, -8:] == 0).all()


def test_resolution_is_relative_to_224_and_rounded_to_the_patch():
    assert parse("resolution=112").input_size(224, 16) == 112
    assert parse("resolution=640").input_size(224, 16) == 640
    assert parse("resolution=336").input_size(64, 8) == 96
    assert parse("resolution=512").input_size(64, 8) == 144  # 146.3
    assert parse("resolution=16").input_size(64, 8) == 8  # never zero
    assert parse("scale=2").input_size(64, 8) == 64


def test_rotation_by_quarter_turns_is_exact():
    image = picture(31, 31)
    assert np.array_equal(run("rotation=90", image), np.rot90(np.asarray(image)))
    assert np.array_equal(run("rotation=180", picture(41, 31)), np.asarray(picture(41, 31))[::-1, ::-1])


@settings(deadline=None)
@given(st.floats(-359, 359), st.integers(8, 40), st.integers(8, 40))
def test_rotation_leaves_no_empty_corner(degrees, width, height):
    white = Image.new("RGB", (width, height), (255, 255, 255))
    assert (run(f"rotation={degrees}", white) == 255).all()


def test_changes_of_pixels_have_the_stated_size():
    assert np.array_equal(run("hflip=1", picture()), np.asarray(picture())[:, ::-1])
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    assert np.std(run("noise=0.1", grey) / 255) == pytest.approx(0.1, rel=0.02)
    jittered = np.unique(run("jitter=0.5", grey))  # of a grey image only the level changes
    assert len(jittered) == 1 and 64 <= jittered[0] <= 192
    dot = np.zeros((112, 112, 3), dtype=np.uint8)
    dot[56, 56] = 255
    out = run("blur=2", Image.fromarray(dot))[..., 0].astype(float)  # sigma is 1 pixel at 112
    assert out[56, 56] == pytest.approx(255 / (2 * np.pi), abs=1.5)
    assert out[56, 57] / out[56, 56] == pytest.approx(np.exp(-0.5), abs=0.02)


def test_jpeg_loses_more_at_lower_quality():
    image = picture(64, 64)
    losses = [np.abs(run(f"jpeg={q}", image) - np.asarray(image).astype(float)).mean() for q in (95, 50, 10)]
    assert losses == sorted(losses) and losses[0] > 0


@pytest.mark.parametrize("text", ["noise=0.1", "jitter=0.4", "corrupt:snow=3", "corrupt:elastic_transform=2@paper"])
def test_randomness_depends_on_the_image_id_and_nothing_else(text):
    image = picture(64, 64)
    first = run(text, image, "one")
    other = run(text, image, "two")
    assert np.array_equal(first, run(text, image, "one"))
    assert not np.array_equal(first, other)
    transform = parse(text)
    assert transform.generator("one").integers(2**60) != transform.generator("one", seed=1).integers(2**60)


def test_paper_corruption_crops_as_torchvision_does(monkeypatch):
    from torchvision.transforms import CenterCrop, Compose, Resize

    image = picture(333, 417)
    expected = transforms.corruptions.jpeg(Compose([Resize(256), CenterCrop(224)])(image), 85)
    monkeypatch.setattr(transforms.corruptions, "corrupt_image", lambda image, *_: image)
    out = parse("corrupt:fog=1@paper").apply_source(image, np.random.default_rng(0))
    assert np.array_equal(np.asarray(out), np.asarray(expected))


def test_ladders_parse_and_start_at_the_identity_where_there_is_one():
    assert transforms.ladder("scale") == ["none", "scale=1.25", "scale=1.5", "scale=2", "scale=3"]
    assert transforms.ladder("resolution")[1] == "none"
    assert transforms.ladder("jpeg")[0] == "jpeg=90"
    for name in transforms.LADDERS:
        assert [parse(text).text for text in transforms.ladder(name)] == transforms.ladder(name)
    assert transforms.steps("shift@paper")[:2] == [(0.0, "none"), (5.0, "shift=5@paper")]
    with pytest.raises(InputError, match="did you mean shift"):
        transforms.ladder("shfit")


def test_metrics_at_rest_are_those_of_the_plain_run():
    names = ["accuracy:scale=1", "accuracy:shift@paper=0", "accuracy:resolution=224", "accuracy:hflip=0"]
    assert {transforms.at_rest(name) for name in names} == {"accuracy"}
    for name in ("accuracy", "accuracy:scale=1.25", "accuracy:jpeg=90", "agreement:scale", "accuracy:severity=1"):
        assert transforms.at_rest(name) == name


# Resize and crop ------------------------------------------------------------------------------------------------------

SIZES = [(97, 61), (61, 97), (64, 64), (33, 200), (20, 18)]


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
    image = picture(*size)
    expected = theirs(image).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(ours.apply(image)), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_open_clip(size, mode):
    from open_clip.transform import image_transform
    from torchvision.transforms import ToTensor

    theirs = image_transform(40, False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, fill_color=7)
    image = picture(*size)
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

    image = picture(97, 97)
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
    exact = picture(224, 224)
    np.testing.assert_array_equal(np.asarray(override("native", base).apply(exact)), np.asarray(exact))
    pug = override("pug_official", base)
    assert pug.text == "CenterCrop(256) Resize(224, bilinear) CenterCrop(224)"
    image = picture(300, 280)
    expected = image.crop((22, 12, 278, 268)).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(pug.apply(image)), np.asarray(expected))
    with pytest.raises(InputError, match="native, pug_official"):
        override("natural", base)
