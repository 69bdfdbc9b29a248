"""Building blocks of procedural textures: periodic noise, cells and colour mixing on one unit square."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

SIZE = 128
V, U = np.mgrid[0:SIZE, 0:SIZE] / SIZE  # texture coordinates of each texel, both (SIZE, SIZE) in [0, 1)


def noise(rng: Generator, exponent: float = 1.5, stretch_u: float = 1, stretch_v: float = 1) -> NDArray:
    """(SIZE, SIZE) tileable Gaussian noise with a 1 / f^exponent spectrum, zero mean, unit variance.

    Args:
        rng: source of the noise.
        exponent: larger is smoother.
        stretch_u: feature length along u relative to isotropic noise.
        stretch_v: the same along v.
    """
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None] * SIZE * stretch_v, np.fft.rfftfreq(SIZE) * SIZE * stretch_u)
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * frequency**-exponent
    field = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    field -= field.mean()
    return field / (field.std() + 1e-9)


def ramp(x: NDArray, width: float = 0.06) -> NDArray:
    """Soft step from 0 to 1, centred on zero and `width` wide."""
    return np.clip(x / width + 0.5, 0, 1)


def mix(low: ArrayLike, high: ArrayLike, amount: NDArray) -> NDArray:
    """Blends two colours (or colour images) by a scalar image."""
    weight = np.asarray(amount)[..., None]
    return np.asarray(low) * (1 - weight) + np.asarray(high) * weight


def hsv(hue: float, saturation: float, value: float) -> NDArray:
    """(3,) RGB colour; the hue wraps at 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def jitter(rng: Generator, color: ArrayLike, scale: float = 0.06) -> NDArray:
    """(3,) colour near `color`: a common brightness shift and a smaller one per channel."""
    shift = rng.normal(0, scale, 3) * 0.5 + rng.normal(0, scale)
    return np.clip(np.asarray(color, float) + shift, 0.02, 0.97)


def fraction(x: NDArray) -> NDArray:
    """Fractional part, in [0, 1) for negative numbers too."""
    return x - np.floor(x)


def triangle(x: NDArray) -> NDArray:
    """Triangle wave of period 1: 1 at integers, 0 half way between."""
    return np.abs(fraction(x) - 0.5) * 2


def cells(rng: Generator, count: int) -> tuple[NDArray, NDArray]:
    """Distances (each (SIZE, SIZE)) to the nearest and second nearest of `count` random points, on the torus."""
    points = rng.random((count, 2))
    du = np.abs(U[..., None] - points[:, 0])
    dv = np.abs(V[..., None] - points[:, 1])
    distance = np.hypot(np.minimum(du, 1 - du), np.minimum(dv, 1 - dv))
    nearest = np.partition(distance, 1, axis=-1)
    return nearest[..., 0], nearest[..., 1]
