"""Renders a `Scene` to an 8-bit image: path tracing, denoising, tone mapping, and the renditions."""

from __future__ import annotations

import drjit
import mitsuba as mi
import numpy as np
import pyoidn
from numpy.typing import NDArray

from . import renditions
from .assemble import assemble
from .scene import SKETCH, Scene

drjit.set_thread_count(1)  # images are small: one process per core is faster than many threads per image

EXPOSURE = 1.25
_LINE_SUPERSAMPLING = 3
_SMOOTH_RENDITIONS = ("clay", "low_poly")  # low contrast: the denoiser needs more samples to keep their edges


def tone_map(radiance: NDArray) -> NDArray[np.uint8]:
    """Linear radiance (H, W, 3) to 8-bit sRGB, with a shoulder that keeps bright floors below white.

    The exposure is fixed: light intensity is a factor of the world and must show.
    """
    x = np.clip(np.nan_to_num(radiance), 0, 100) * EXPOSURE
    y = x * (1 + x / 12) / (1 + 0.4 * x)  # extended Reinhard curve
    y = np.clip(y, 0, 1)
    srgb = np.where(y <= 0.0031308, 12.92 * y, 1.055 * np.maximum(y, 1e-6) ** (1 / 2.4) - 0.055)
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def _photo(scene: Scene, resolution: int, samples: int, denoiser: str) -> NDArray[np.uint8]:
    """(H, W, 3) path-traced, denoised image."""
    seed = scene.instance_seed % 10007
    radiance = np.array(mi.render(assemble(scene, resolution, samples), spp=samples, seed=seed), np.float32)
    return tone_map(pyoidn.denoise(np.ascontiguousarray(np.clip(radiance, 0, 60)), hdr=True, quality=denoiser))


def _line_buffers(scene: Scene, resolution: int) -> NDArray[np.float32]:
    """(H, W, 5) depth, normal (3) and part index from one ray per pixel."""
    return np.array(mi.render(assemble(scene, resolution, 1, lines_only=True), spp=1, seed=0))[..., -5:]


def render(scene: Scene, resolution: int = 96, samples: int = 9, denoiser: str = "high") -> NDArray[np.uint8]:
    """Renders one scene.

    Args:
        scene: the factors, rendition included.
        resolution: image side in pixels.
        samples: paths per pixel (a square number); the result is denoised.
        denoiser: quality preset of Open Image Denoise, "fast" or "high".

    Returns:
        (resolution, resolution, 3) sRGB.
    """
    rng = np.random.default_rng([scene.instance_seed, 5])
    if scene.rendition == SKETCH:
        buffers = _line_buffers(scene, resolution * _LINE_SUPERSAMPLING)
        return renditions.draw_sketch(buffers, scene.light_azimuth, resolution, rng)
    if scene.rendition in _SMOOTH_RENDITIONS:
        samples *= 4
    image = _photo(scene, resolution, samples, denoiser)
    if scene.rendition == "toon":
        lines = renditions.find_lines(_line_buffers(scene, resolution * _LINE_SUPERSAMPLING))
        return renditions.draw_cartoon(image, lines)
    if scene.rendition == "painted":
        return renditions.paint(image, rng)
    return image
