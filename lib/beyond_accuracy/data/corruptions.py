"""The 15 corruptions of ImageNet-C at 5 severities, computed from clean images ("regenerated", not the released files).

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019,
arXiv 1903.12261; constants from the authors' generators (github.com/hendrycks/robustness, Apache-2.0).

**Image size.** Blur radii, streak lengths and displacements are in pixels, and pixel noise averages out when an image
is made smaller, so a severity means something only at the size it was tuned for. The authors tuned two: 224 px
(ImageNet-C) and 64 px (Tiny ImageNet-C and ImageNet-64-C, same constants). A corruption is computed at 64 px for model
inputs up to 64 px, else at 224 px; an input of another size is resampled (bicubic, antialiased) there and back. So a
severity is not the same physical change for a 64-px and a 224-px model, but the one published for its size.

**Differences from the released files**: no JPEG step at the end (`corrupt:NAME=k@paper` adds it); other random numbers;
motion blur and snow use ImageMagick's kernel without calling it; the frost textures are the first five of the authors'
(the only ones their generator draws; their second and third differ in transparency only, which it drops), read from the
package `imagecorruptions-imaug`, and antialiased when reduced to 64 px.

All functions take and return H x W x 3 float32 arrays on the 0..1 scale and draw from a `numpy.random.Generator`.
"""

import functools
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy  # its parts are imported where they are used: most commands use none
import yaml
from PIL import Image

from beyond_accuracy.base.paths import ASSETS

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
NAMES = tuple(name for group in GROUPS.values() for name in group)
SEVERITIES = (1, 2, 3, 4, 5)
FRAMES = (64, 224)

PARAMETERS = yaml.safe_load((ASSETS / "corruptions.yaml").read_text(encoding="utf-8"))  # by frame, by name


def frame_for(side: int) -> int:
    """The frame a corruption is computed at for a model input of `side` pixels: 64 up to 64, else 224."""
    return next((frame for frame in FRAMES if side <= frame), FRAMES[-1])


def corrupt_image(image: Image.Image, name: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """Corrupt an RGB, square image at model input size; `severity` is 1 to 5."""
    size = image.size
    frame = frame_for(max(size))
    if size != (frame, frame):
        image = image.resize((frame, frame), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32) / 255
    corrupted = _FUNCTIONS[name](pixels, PARAMETERS[frame][name][severity - 1], rng)
    # the generators cast, which rounds down; kept, so that the released values are met
    result = Image.fromarray((np.clip(corrupted, 0, 1) * 255).astype(np.uint8))
    return result if size == (frame, frame) else result.resize(size, Image.Resampling.BICUBIC)


def gaussian_noise(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise, independent per pixel and channel."""
    return pixels + rng.normal(size=pixels.shape, scale=deviation).astype(np.float32)


def shot_noise(pixels: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise with `photons` expected counts at full white."""
    return (rng.poisson(pixels * photons) / photons).astype(np.float32)


def impulse_noise(pixels: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Set a fraction `amount` of the values to black or white, half each (salt and pepper)."""
    draw = rng.uniform(size=pixels.shape)
    return np.where(draw < amount / 2, 1.0, np.where(draw < amount, 0.0, pixels)).astype(np.float32)


def defocus_blur(pixels: np.ndarray, parameters: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Convolve with an antialiased disk; parameters: radius, sigma of the antialiasing."""
    kernel = _disk(*parameters)
    radius = kernel.shape[0] // 2
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    return scipy.signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def glass_blur(pixels: np.ndarray, parameters: tuple[float, int, int], rng: np.random.Generator) -> np.ndarray:
    """Blur, replace pixels by random near neighbours, blur; parameters: sigma, largest step, passes.

    The generator means to swap two pixels, but assigns through views, which copies the first back: each takes its
    neighbour's value, as the released files show.
    """
    sigma, step, passes = parameters
    blurred = (scipy.ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest") * 255).astype(np.uint8)
    height, width = blurred.shape[:2]
    rows, columns = np.arange(height - step, step, -1), np.arange(width - step, step, -1)
    here = (rows[:, None] * width + columns).ravel()
    source = list(range(height * width))
    for _ in range(passes):
        moves = rng.integers(-step, step, size=(2, here.size))
        there = here + moves[0] * width + moves[1]
        # in order, because a later pixel may take the value an earlier one has just received
        for target, neighbour in zip(here.tolist(), there.tolist(), strict=True):
            source[target] = source[neighbour]
    shuffled = blurred.reshape(-1, 3)[source].reshape(blurred.shape).astype(np.float32) / 255
    return scipy.ndimage.gaussian_filter(shuffled, (sigma, sigma, 0), mode="nearest")


def motion_blur(pixels: np.ndarray, parameters: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
    """Smear along a line at a random angle of -45 to 45 degrees; parameters: radius, sigma."""
    return _smear(pixels, *parameters, angle=rng.uniform(-45, 45))


def zoom_blur(pixels: np.ndarray, parameters: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Average the image with itself zoomed by 1, 1 + step, ... below `stop`; parameters: stop, step."""
    factors = np.arange(1, *parameters)
    total = pixels.copy()
    for factor in factors:
        total += _zoom_centre(pixels, factor)
    return total / (len(factors) + 1)


def snow(pixels: np.ndarray, parameters: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Whiten and add falling streaks.

    Parameters: mean, deviation and zoom of the flakes' noise, threshold, streak radius and sigma, weight of the image.
    """
    mean, deviation, zoom, threshold, radius, sigma, weight = parameters
    layer = rng.normal(size=pixels.shape[:2], loc=mean, scale=deviation).astype(np.float32)[..., None]
    layer = _zoom_centre(layer, zoom)
    layer[layer < threshold] = 0
    layer = np.floor(np.clip(layer, 0, 1) * 255) / 255
    layer = _smear(layer, int(radius), sigma, angle=rng.uniform(-135, -45))
    layer = np.rint(layer * 255) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    whitened = weight * pixels + (1 - weight) * np.maximum(pixels, grey[..., None] * 1.5 + 0.5)
    return whitened + layer + layer[::-1, ::-1]


def frost(pixels: np.ndarray, parameters: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Lay a random crop of an ice texture over the image; parameters: weight of the image, weight of the ice."""
    texture = _frost_textures(pixels.shape[0])[rng.integers(5)]
    top, left = (rng.integers(0, size - side) for size, side in zip(texture.shape, pixels.shape[:2], strict=False))
    ice = texture[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    return parameters[0] * pixels + parameters[1] * ice.astype(np.float32) / 255


def fog(pixels: np.ndarray, parameters: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Add a plasma cloud and scale back to the old maximum; parameters: weight of the cloud, decay of its roughness."""
    weight, decay = parameters
    cloud = _plasma(256, decay, rng)[: pixels.shape[0], : pixels.shape[1], None]
    brightest = pixels.max()
    return (pixels + weight * cloud) * brightest / (brightest + weight)


def brightness(pixels: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Raise the value channel of HSV by `amount`, hue and saturation kept."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + amount, 1)
    # at fixed hue and saturation, RGB is proportional to the value; black has no hue and turns grey
    return np.where(value > 0, pixels * (raised / np.maximum(value, 1e-12)), raised)


def contrast(pixels: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Shrink the distance from each channel's mean by the factor `amount`."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * amount + mean


def elastic_transform(pixels: np.ndarray, parameters: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Random affine map, then a smooth random displacement; parameters: its size, its smoothness, affine jitter."""
    alpha, sigma, jitter = parameters
    side = pixels.shape[0]
    centre, reach = side // 2, side // 3
    corners = np.array([[centre + reach] * 2, [centre + reach, centre - reach], [centre - reach] * 2], dtype=float)
    moved = corners + rng.uniform(-jitter, jitter, size=corners.shape)
    # the matrix that takes moved corners back to the old ones: rows (x, y, 1) times it give source (x, y)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ back
    warped = _sample(pixels, source[..., 1], source[..., 0], whole_sample=True)
    smooth = _smoother(side, sigma)
    dx, dy = (smooth @ rng.uniform(-1, 1, size=(side, side)) @ smooth.T * alpha for _ in range(2))
    return _sample(warped, y + dy, x + dx, whole_sample=False)


def pixelate(pixels: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Reduce by `factor` with a box filter and enlarge again."""
    height, width = pixels.shape[:2]
    small = _as_image(pixels).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255


def jpeg_compression(pixels: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG (4:2:0 chroma) and decode."""
    return np.asarray(jpeg(_as_image(pixels), quality), dtype=np.float32) / 255


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """An image through JPEG (4:2:0 chroma) and back."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(buffer).convert("RGB")


_FUNCTIONS = {name: globals()[name] for name in NAMES}


def _as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))


@functools.lru_cache(maxsize=16)
def _disk(radius: float, sigma: float) -> np.ndarray:
    reach = 8 if radius <= 8 else int(radius)
    grid = np.arange(-reach, reach + 1)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    smooth = np.exp(-(taps**2) / (2 * sigma**2))
    smooth /= smooth.sum()
    for axis in (0, 1):
        disk = scipy.ndimage.correlate1d(disk, smooth, axis=axis, mode="mirror")
    # where the disk fills its grid the mirrored border adds up to 1 %; the generators leave that in
    return disk


def _smear(pixels: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's motion blur: a one-sided Gaussian of 2 radius + 1 taps along a line, borders repeated."""
    taps = np.arange(2 * radius + 1)
    kernel = np.exp(-(taps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    down = np.ceil(taps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    right = np.ceil(taps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    margin = int(max(np.abs(down).max(), np.abs(right).max()))
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    blurred = np.zeros_like(pixels)
    for weight, dy, dx in zip(kernel, margin + down, margin + right, strict=True):
        blurred += weight * padded[dy : dy + height, dx : dx + width]
    return blurred


def _zoom_centre(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the centre by `factor` (bilinear, corners aligned) and trim to the old size."""
    side = pixels.shape[0]
    crop = int(np.ceil(side / factor))
    top, zoomed = (side - crop) // 2, round(crop * factor)
    trim = (zoomed - side) // 2
    position = np.arange(trim, trim + side) * ((crop - 1) / max(zoomed - 1, 1)) + top
    low = np.minimum(position.astype(int), side - 2)
    weight = (position - low).astype(np.float32)
    rows = pixels[low] * (1 - weight)[:, None, None] + pixels[low + 1] * weight[:, None, None]
    return rows[:, low] * (1 - weight)[None, :, None] + rows[:, low + 1] * weight[None, :, None]


def _sample(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, whole_sample: bool) -> np.ndarray:
    """Bilinear samples at real positions, the image mirrored beyond its border (about the edge pixel or its edge)."""
    side = pixels.shape[0]

    def fold(index: np.ndarray) -> np.ndarray:
        period = 2 * side - 2 if whole_sample else 2 * side
        index = np.mod(index, period)
        return np.where(index < side, index, period - index - (0 if whole_sample else 1))

    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top).astype(np.float32)[..., None], (columns - left).astype(np.float32)[..., None]
    top, bottom, left, right_index = fold(top), fold(top + 1), fold(left), fold(left + 1)
    upper = pixels[top, left] * (1 - right) + pixels[top, right_index] * right
    lower = pixels[bottom, left] * (1 - right) + pixels[bottom, right_index] * right
    return upper * (1 - down) + lower * down


@functools.lru_cache(maxsize=16)
def _smoother(side: int, sigma: float) -> np.ndarray:
    """The Gaussian filter as a matrix: as exact as filtering, and fast even where sigma is as large as the image."""
    if sigma == 0:
        return np.eye(side)
    return scipy.ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=3)


@functools.lru_cache(maxsize=2)
def _frost_textures(side: int) -> tuple[np.ndarray, ...]:
    # The package is located, not imported: importing it loads OpenCV, which needs a system libGL.
    folder = Path(find_spec("imagecorruptions").submodule_search_locations[0]) / "frost"
    textures = []
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        texture = Image.open(folder / name).convert("RGB")
        if side == 64:
            texture = texture.resize([round(length * 0.3) for length in texture.size], Image.Resampling.BILINEAR)
        textures.append(np.asarray(texture))
    return tuple(textures)


def _plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Diamond-square cloud on a torus, side a power of two, scaled to 0..1."""
    cloud = np.zeros((side, side), dtype=np.float64)
    step, roughness = side, 100.0

    def disturbed(total: np.ndarray) -> np.ndarray:
        return total / 4 + roughness * rng.uniform(-roughness, roughness, total.shape)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        cloud[half::step, half::step] = disturbed(pairs + np.roll(pairs, -1, axis=1))
        centres, corners = cloud[half::step, half::step], cloud[::step, ::step]
        across = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        cloud[::step, half::step] = disturbed(across)
        down = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        cloud[half::step, ::step] = disturbed(down)
        step, roughness = half, roughness / decay
    cloud -= cloud.min()
    return (cloud / cloud.max()).astype(np.float32)
