"""Image operations behind the renditions: line drawing, cartoon shading and painting with strokes."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from .textures import noise

CREASE_DEG = 28.0  # normals that turn more than this between neighbours draw a line
DEPTH_STEP = 0.05  # so does a jump in depth, in object radii


def find_lines(buffers: NDArray) -> NDArray[np.bool_]:
    """(H, W) mask of outlines, creases and part borders.

    Args:
        buffers: (H, W, 5) depth (0 where nothing is hit), normal, part index.
    """
    depth, normal, part = buffers[..., 0], buffers[..., 1:4], np.round(buffers[..., 4])
    hit = depth > 0
    lines = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        a = [slice(None)] * 2
        b = [slice(None)] * 2
        a[axis], b[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(a), tuple(b)
        both = hit[a] & hit[b]
        turn = np.einsum("ijk,ijk->ij", normal[a], normal[b]) < np.cos(np.deg2rad(CREASE_DEG))
        # the second difference is zero on a slope, however steep it is seen, and large across a jump
        step = np.abs(np.gradient(np.gradient(depth, axis=axis), axis=axis))[a] > DEPTH_STEP
        lines[a] |= (hit[a] != hit[b]) | (both & (turn | step | (part[a] != part[b])))
    return lines


def _shrink(image: NDArray, resolution: int) -> NDArray:
    """Box-averages a square image down to `resolution`."""
    factor = image.shape[0] // resolution
    return image.reshape(resolution, factor, resolution, factor, *image.shape[2:]).mean((1, 3))


def _wobble(mask: NDArray, rng: Generator, amplitude: float) -> NDArray:
    """Displaces a (H, W) image smoothly by about `amplitude` pixels, as an unsteady hand would."""
    side = mask.shape[0]
    zoom = side / 128
    shift = [ndimage.zoom(noise(rng, 2.2), zoom, order=1, grid_mode=True, mode="nearest") * amplitude for _ in "yx"]
    rows, columns = np.mgrid[0:side, 0:side]
    return ndimage.map_coordinates(mask.astype(float), [rows + shift[0], columns + shift[1]], order=1)


def draw_sketch(buffers: NDArray, light_azimuth: float, resolution: int, rng: Generator) -> NDArray[np.uint8]:
    """Pencil drawing on paper: lines, and hatching on the side away from the light.

    Args:
        buffers: (k R, k R, 5) line buffers.
        light_azimuth: degrees; decides which side is hatched.
        resolution: R, side of the result.
        rng: draws paper, ink, line width and hatching.

    Returns:
        (R, R, 3) grey-scale drawing in sRGB.
    """
    lines = ndimage.binary_dilation(find_lines(buffers), iterations=int(rng.integers(1, 3)))
    ink = _wobble(lines, rng, rng.uniform(0.6, 1.8))
    if rng.random() < 0.7:
        angle = np.deg2rad(light_azimuth)
        shade = buffers[..., 1] * np.cos(angle) + buffers[..., 2] * np.sin(angle) + 0.6 * buffers[..., 3]
        rows, columns = np.mgrid[0 : lines.shape[0], 0 : lines.shape[1]]
        spacing = rng.integers(8, 14)
        hatch = ((rows * rng.choice([-1, 1]) + columns) % spacing) < 2
        ink = np.maximum(ink, 0.65 * _wobble(hatch & (buffers[..., 0] > 0) & (shade < 0), rng, 1.0))
    grain = ndimage.zoom(noise(rng, 0.3), resolution / 128, order=1, grid_mode=True, mode="nearest")
    paper = rng.uniform(0.9, 0.98) + 0.012 * grain
    pencil = rng.uniform(0.08, 0.25)
    grey = paper * (1 - _shrink(ink, resolution)) + pencil * _shrink(ink, resolution)
    return np.repeat((np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)[..., None], 3, 2)


def draw_cartoon(image: NDArray[np.uint8], lines: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Flat saturated colours in three tones with thick black outlines.

    Args:
        image: (R, R, 3) photo.
        lines: (k R, k R) line mask.
    """
    smooth = ndimage.median_filter(image, size=(5, 5, 1)).astype(float) / 255
    value = smooth.max(-1, keepdims=True)
    tone = (np.floor(np.clip(value * 1.15, 0, 0.999) * 3) + 0.85) / 3
    chroma = smooth / np.maximum(value, 1e-3)
    chroma = np.round(np.clip(1 - (1 - chroma) * 1.6, 0, 1) * 6) / 6
    flat = chroma * tone
    ink = _shrink(ndimage.binary_dilation(lines, iterations=2).astype(float), image.shape[0])
    return (np.clip(flat * (1 - ink[..., None]), 0, 1) * 255 + 0.5).astype(np.uint8)


def paint(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Oil painting: strokes along the image's contours, from coarse to fine, in slightly varied colours.

    Args:
        image: (R, R, 3) photo.
        rng: places and tints the strokes.
    """
    side, zoom = image.shape[0], 3
    luminance = ndimage.gaussian_filter(image.mean(-1), 1.5)
    angle = np.arctan2(ndimage.sobel(luminance, 0), ndimage.sobel(luminance, 1)) + np.pi / 2
    strength = np.hypot(ndimage.sobel(luminance, 0), ndimage.sobel(luminance, 1))
    angle = np.where(strength > 12, angle, 0.6 + 0.5 * np.sin(np.arange(side) / 9)[:, None])
    canvas = Image.new("RGB", (side * zoom, side * zoom), tuple(int(c) for c in image.mean((0, 1))))
    brush = ImageDraw.Draw(canvas)
    # (stroke width, length, both in image sides; blur of the colour source; least gradient that is painted)
    for width, length, blur, least in ((0.08, 0.2, 3.0, 0), (0.045, 0.12, 1.2, 25), (0.026, 0.075, 0.6, 60)):
        source = ndimage.gaussian_filter(image.astype(float), (blur, blur, 0))
        rows, columns = rng.integers(0, side, (2, int(3 / (width * length))))
        # broad strokes everywhere, finer ones only where the picture has detail
        keep = ndimage.maximum_filter(strength, 5)[rows, columns] >= least
        for y, x in zip(rows[keep], columns[keep], strict=True):
            color = np.clip((source[y, x] - 128) * 1.25 + 128 + rng.normal(0, 8, 3) + rng.normal(0, 7), 0, 255)
            dx, dy = np.cos(angle[y, x]) * length / 2 * side, np.sin(angle[y, x]) * length / 2 * side
            ends = [((x - dx) * zoom, (y - dy) * zoom), ((x + dx) * zoom, (y + dy) * zoom)]
            brush.line(ends, fill=tuple(int(c) for c in color), width=max(2, int(width * side * zoom)))
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX))
