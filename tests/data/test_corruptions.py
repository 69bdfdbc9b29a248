"""ImageNet-C corruptions against an independent implementation and the published definitions."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from beyond_accuracy.data import corruptions

# The oracle needs OpenCV, whose wheels need a system libGL; where that is missing only these comparisons are left out.
try:
    from imagecorruptions import corruptions as oracle
except ImportError as error:  # pragma: no cover
    oracle, why = None, str(error)
else:
    why = ""
    shuffle = oracle._shuffle_pixels_njit_glass_blur.py_func  # compiling it takes longer, and it draws its own seed
    oracle._shuffle_pixels_njit_glass_blur = lambda *arguments: shuffle(*arguments[:4], seed=0)
needs_oracle = pytest.mark.skipif(oracle is None, reason=f"imagecorruptions cannot be imported: {why}")


class Legacy:
    """numpy's global generator behind the interface of `numpy.random.Generator`, to draw what the oracle draws."""

    def __init__(self, seed):
        np.random.seed(seed)  # noqa: NPY002

    normal, uniform, poisson = map(staticmethod, (np.random.normal, np.random.uniform, np.random.poisson))

    @staticmethod
    def integers(*args, **kwargs):
        return np.random.randint(*args, **kwargs)  # noqa: NPY002


def smooth(side=224, seed=0):
    """A colourful image with structure at several scales."""
    rng = np.random.default_rng(seed)
    field = sum(gaussian_filter(rng.normal(size=(side, side, 3)), (s, s, 0)) * s for s in (1, 4, 16))
    field = (field - field.min()) / (field.max() - field.min())
    return Image.fromarray((field * 255).astype(np.uint8))


def both(name, severity, seed=3):
    image = smooth()
    if name == "glass_blur":  # the oracle's loop is slow: a smaller picture, with the parameters of a large one
        image = smooth(80)
        parameters = corruptions.PARAMETERS[224][name][severity - 1]
        ours = 255 * corruptions.glass_blur(np.asarray(image, np.float32) / 255, parameters, Legacy(seed))
    else:
        ours = np.asarray(corruptions.corrupt_image(image, name, severity, Legacy(seed)), dtype=int)
    np.random.seed(seed)  # noqa: NPY002
    theirs = np.uint8(getattr(oracle, name)(image, severity)).astype(int)
    return np.asarray(image, float), ours, theirs


# The same numbers, up to rounding and float32.
@needs_oracle
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize(
    "name",
    ["gaussian_noise", "shot_noise", "defocus_blur", "motion_blur", "fog", "brightness", "contrast", "pixelate"]
    + ["jpeg_compression"],
)
def test_equals_the_oracle(name, severity):
    _, ours, theirs = both(name, severity)
    assert np.abs(ours - theirs).max() <= (0 if name == "jpeg_compression" else 1)


# Where the oracle departs from the authors' generator (zoom and snow are trimmed off-centre there), or draws in another
# order, the amount of change must still be the same.
@needs_oracle
@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize(
    "name, tolerance",
    [("impulse_noise", 0.03), ("glass_blur", 0.05), ("zoom_blur", 0.25), ("snow", 0.15), ("frost", 0.5)],
)
def test_changes_as_much_as_the_oracle(name, tolerance, severity):
    seen = [both(name, severity, seed) for seed in range(8 if name == "frost" else 2)]
    change = [np.mean([np.abs(pictures[k] - pictures[0]).mean() for pictures in seen]) for k in (1, 2)]
    assert change[0] == pytest.approx(change[1], rel=tolerance)


@pytest.mark.parametrize("side, factor", [(224, 1.0), (224, 1.03), (224, 1.3), (64, 1.15), (64, 2.25), (224, 4.5)])
def test_zoom_equals_the_generators_use_of_scipy(side, factor):
    from scipy.ndimage import zoom

    pixels = np.asarray(smooth(side), dtype=np.float32) / 255
    crop = int(np.ceil(side / factor))
    top = (side - crop) // 2
    slow = zoom(pixels[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
    trim = (len(slow) - side) // 2
    slow = slow[trim : trim + side, trim : trim + side]
    assert np.allclose(corruptions._zoom_centre(pixels, factor), slow, atol=1e-4)


def test_glass_blur_copies_neighbours_in_scan_order():
    """The slow loop of the generator, whose swap through array views copies."""
    size, step = 12, 2
    pixels = np.random.default_rng(0).random((size, size, 3)).astype(np.float32)
    ours = corruptions.glass_blur(pixels, (1e-6, step, 1), np.random.default_rng(5))
    moves = np.random.default_rng(5).integers(-step, step, size=(2, (size - 2 * step) ** 2))
    slow, k = (pixels * 255).astype(np.uint8), 0
    for h in range(size - step, step, -1):
        for w in range(size - step, step, -1):
            here, there = slow[h, w], slow[h + moves[0, k], w + moves[1, k]]
            slow[h, w], slow[h + moves[0, k], w + moves[1, k]] = there, here
            k += 1
    assert np.allclose(ours, slow / 255, atol=1e-6)


def test_black_has_no_hue_and_turns_grey():
    black = corruptions.brightness(np.zeros((2, 2, 3), dtype=np.float32), 0.3, None)
    assert np.allclose(black, 0.3)


def test_elastic_transform_without_motion_is_the_identity():
    pixels = np.asarray(smooth(64), dtype=np.float32) / 255
    assert np.allclose(corruptions.elastic_transform(pixels, (0, 0, 0), np.random.default_rng(0)), pixels, atol=1e-5)


def test_elastic_displacement_equals_scipy():
    """No affine part: the displacement field and the sampling of the generator, by scikit-image's definition."""
    from scipy.ndimage import map_coordinates

    pixels = np.asarray(smooth(64), dtype=np.float32) / 255
    ours = corruptions.elastic_transform(pixels, (20.0, 3.0, 0.0), np.random.default_rng(1))
    rng = np.random.default_rng(1)
    rng.uniform(-0.0, 0.0, size=(3, 2))
    dx, dy = (gaussian_filter(rng.uniform(-1, 1, (64, 64)), 3.0, mode="reflect", truncate=3) * 20 for _ in range(2))
    y, x = np.mgrid[:64, :64]
    theirs = [map_coordinates(pixels[..., c], (y + dy, x + dx), order=1, mode="reflect") for c in range(3)]
    assert np.allclose(ours, np.stack(theirs, -1), atol=1e-4)


def test_affine_part_maps_three_corners_as_drawn():
    """A dot at a corner of the reference triangle moves to where the generator sends it."""
    side, jitter = 64, 4.0
    pixels = np.zeros((side, side, 3), dtype=np.float32)
    pixels[52:55, 52:55] = 1  # centre 32 + reach 21 = 53
    moved = np.array([53.0, 53.0]) + np.random.default_rng(2).uniform(-jitter, jitter, size=(3, 2))[0]
    out = corruptions.elastic_transform(pixels, (0, 0, jitter), np.random.default_rng(2))[..., 0]
    y, x = np.mgrid[:side, :side]
    assert (out * x).sum() / out.sum() == pytest.approx(moved[0], abs=0.25)
    assert (out * y).sum() / out.sum() == pytest.approx(moved[1], abs=0.25)


def test_smoother_equals_filtering_even_where_sigma_exceeds_the_image():
    noise = np.random.default_rng(0).uniform(-1, 1, (224, 224))
    for sigma in (19.52, 170.8):
        matrix = corruptions._smoother(224, sigma)
        assert np.allclose(matrix @ noise @ matrix.T, gaussian_filter(noise, sigma, mode="reflect", truncate=3))


@pytest.mark.parametrize("side", [48, 64, 224, 256])
@pytest.mark.parametrize("name", corruptions.NAMES)
def test_every_corruption_keeps_size_and_gets_worse(name, side):
    image = smooth(side)
    clean = np.asarray(image, dtype=float)
    change = []
    for severity in (1, 5):
        out = corruptions.corrupt_image(image, name, severity, np.random.default_rng(0))
        assert out.size == image.size and out.mode == "RGB"
        change.append(np.abs(np.asarray(out) - clean).mean())
    assert min(change) > 0
    # two need not move pixels further: the 224-px elastic transform goes from a large smooth warp to a small rough one,
    # frost from adding ice to replacing the image by it
    if name not in ("elastic_transform", "frost"):
        assert change[1] > change[0]


def test_two_sets_of_fifteen():
    assert len(corruptions.NAMES) == len(set(corruptions.NAMES)) == 15
    for table in corruptions.PARAMETERS.values():
        assert tuple(table) == corruptions.NAMES and all(len(levels) == 5 for levels in table.values())
    assert [corruptions.frame_for(side) for side in (32, 64, 65, 224, 288)] == [64, 64, 224, 224, 224]
