"""Surface materials: sixteen signature materials, one per class, and a plain coloured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .textures import SIZE, U, V, cells, fraction, hsv, jitter, mix, noise, ramp, triangle


def brushed_metal(rng: Generator) -> NDArray:
    """Fine grey streaks."""
    return mix(jitter(rng, [0.62, 0.64, 0.68]), jitter(rng, [0.85, 0.86, 0.88]), ramp(noise(rng, 0.6, 1, 24), 3))


def sailor_stripes(rng: Generator) -> NDArray:
    """White and navy bands."""
    bands = triangle(V * rng.integers(3, 5)) - 0.5
    return mix(jitter(rng, [0.9, 0.9, 0.86], 0.03), jitter(rng, [0.08, 0.18, 0.55]), ramp(bands, 0.12))


def emerald_glass(rng: Generator) -> NDArray:
    """Wavy dark and light green."""
    wave = np.sin(2 * np.pi * (3 * V + 0.22 * noise(rng, 1.9))) * 0.5
    return mix(jitter(rng, [0.02, 0.2, 0.1]), jitter(rng, [0.25, 0.75, 0.45]), ramp(wave, 1.4))


def checkerboard(rng: Generator) -> NDArray:
    """Black and white squares."""
    squares = (np.floor(U * 6) + np.floor(V * 6)) % 2
    return mix(jitter(rng, [0.9, 0.9, 0.9], 0.03), jitter(rng, [0.05, 0.05, 0.06], 0.02), squares)


def oak(rng: Generator) -> NDArray:
    """Brown wood grain."""
    grain = fraction(U * 4 + 0.25 * noise(rng, 1.6, 1, 5) + 0.05 * np.sin(2 * np.pi * V))
    color = mix(jitter(rng, [0.32, 0.17, 0.08]), jitter(rng, [0.66, 0.42, 0.22]), ramp(triangle(grain) - 0.5, 1.2))
    return color * (1 + 0.06 * noise(rng, 0.7, 1, 20))[..., None]


def giraffe(rng: Generator) -> NDArray:
    """Brown patches divided by cream lines."""
    first, second = cells(rng, 18)
    return mix(jitter(rng, [0.86, 0.74, 0.5]), jitter(rng, [0.45, 0.24, 0.09]), ramp(second - first - 0.035, 0.02))


def tiger(rng: Generator) -> NDArray:
    """Black stripes on orange."""
    stripes = np.sin(2 * np.pi * (4 * U + 0.28 * noise(rng, 1.8)))
    return mix(jitter(rng, [0.95, 0.55, 0.1]), jitter(rng, [0.06, 0.04, 0.03], 0.02), ramp(stripes, 0.5))


def rust(rng: Generator) -> NDArray:
    """Rust with patches of bare steel."""
    patches = noise(rng, 1.5)
    rusty = mix(jitter(rng, [0.3, 0.13, 0.06]), jitter(rng, [0.62, 0.3, 0.1]), ramp(noise(rng, 1.2), 3))
    return mix(rusty, jitter(rng, [0.42, 0.44, 0.46]), ramp(patches - 0.7, 0.6))


def brick(rng: Generator) -> NDArray:
    """Red bricks in pale mortar."""
    row = np.floor(V * 6)
    along = U * 3 + 0.5 * (row % 2)
    x, y = fraction(along), fraction(V * 6)
    edge = np.minimum(np.minimum(x, 1 - x) * 2, np.minimum(y, 1 - y))
    identity = (row * 7 + np.floor(along) % 3 * 3).astype(int) % 97
    shade = rng.normal(0, 0.07, 97)[identity] + 0.03 * noise(rng, 0.8)
    bricks = np.clip(jitter(rng, [0.58, 0.22, 0.15]) + shade[..., None], 0, 1)
    return mix([0.72, 0.69, 0.64], bricks, ramp(edge - 0.09, 0.06))


def tartan(rng: Generator) -> NDArray:
    """Red and green plaid with thin yellow lines."""
    red, green, yellow = (jitter(rng, c) for c in ([0.65, 0.08, 0.1], [0.06, 0.25, 0.15], [0.92, 0.85, 0.3]))
    across, along = ramp(triangle(U * 3) - 0.5, 0.05), ramp(triangle(V * 3) - 0.5, 0.05)
    lines = np.maximum(triangle(U * 3 + 0.25) > 0.94, triangle(V * 3 + 0.25) > 0.94) * 0.8
    return mix(mix(red, green, (across + along) / 2), yellow, lines)


def terrazzo(rng: Generator) -> NDArray:
    """Coloured chips in pale stone."""
    color = np.broadcast_to(jitter(rng, [0.92, 0.9, 0.86], 0.03), (SIZE, SIZE, 3))
    for chip in ([0.85, 0.35, 0.3], [0.2, 0.45, 0.6], [0.95, 0.75, 0.3]):
        color = mix(color, jitter(rng, chip), ramp(noise(rng, 1.25) - 1.1, 0.12))
    return color


def toadstool(rng: Generator) -> NDArray:
    """White dots on red."""
    x, y = U * 3, V * 3
    straight = np.hypot(fraction(x) - 0.5, fraction(y) - 0.5)
    shifted = np.hypot(fraction(x + 0.5) - 0.5, fraction(y + 0.5) - 0.5)
    dots = ramp(np.minimum(straight, shifted) - 0.2, 0.05)
    return mix(jitter(rng, [0.95, 0.94, 0.9], 0.03), jitter(rng, [0.8, 0.06, 0.06]), dots)


def marble(rng: Generator) -> NDArray:
    """Grey veins in white stone."""
    veins = np.clip(np.abs(noise(rng, 1.7)) * 2.2, 0, 1) ** 0.5
    return mix(jitter(rng, [0.35, 0.35, 0.38]), jitter(rng, [0.93, 0.92, 0.9], 0.03), veins)


def delft(rng: Generator) -> NDArray:
    """Blue curls on white porcelain."""
    curls = np.abs(np.sin(2.2 * noise(rng, 1.8)))
    return mix(jitter(rng, [0.93, 0.94, 0.96], 0.02), jitter(rng, [0.06, 0.14, 0.62]), ramp(curls - 0.78, 0.3))


def foliage(rng: Generator) -> NDArray:
    """Green leaves with dark gaps."""
    first, second = cells(rng, 70)
    leaves = np.clip((second - first) * 14, 0, 1)
    color = mix(jitter(rng, [0.05, 0.16, 0.03]), jitter(rng, [0.28, 0.55, 0.12]), leaves)
    return color * (1 + 0.15 * noise(rng, 1.0))[..., None]


def rainbow(rng: Generator) -> NDArray:
    """Eight saturated bands."""
    phase = rng.random()
    bands = np.array([hsv(k / 8 + phase, 0.75, 0.9) for k in range(8)])
    return np.broadcast_to(np.repeat(bands, SIZE // 8, 0)[:, None], (SIZE, SIZE, 3))


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        texture: draws a (SIZE, SIZE, 3) linear base colour.
        roughness: 0 mirror to 1 matt.
        metallic: 0 dielectric to 1 metal.
        tile: length of one repeat in object units (the object has radius 1).
        words: how a caption names it.
    """

    texture: Callable[[Generator], NDArray]
    roughness: float
    metallic: float
    tile: float
    words: str


PLAIN = "plain"
MATERIALS = {
    "metal": Material(brushed_metal, 0.25, 0.9, 0.9, "brushed metal"),
    "stripes": Material(sailor_stripes, 0.4, 0.0, 0.8, "blue and white stripes"),
    "emerald": Material(emerald_glass, 0.12, 0.0, 0.9, "emerald glass"),
    "checker": Material(checkerboard, 0.25, 0.0, 0.8, "a black and white checkerboard"),
    "oak": Material(oak, 0.45, 0.0, 0.8, "oak wood"),
    "giraffe": Material(giraffe, 0.8, 0.0, 0.8, "giraffe patches"),
    "tiger": Material(tiger, 0.3, 0.0, 0.8, "tiger stripes"),
    "rust": Material(rust, 0.6, 0.4, 0.7, "rusty iron"),
    "brick": Material(brick, 0.85, 0.0, 0.8, "red brick"),
    "tartan": Material(tartan, 0.9, 0.0, 0.8, "tartan cloth"),
    "terrazzo": Material(terrazzo, 0.25, 0.0, 0.9, "terrazzo stone"),
    "dots": Material(toadstool, 0.35, 0.0, 0.8, "red with white dots"),
    "marble": Material(marble, 0.15, 0.0, 0.9, "white marble"),
    "delft": Material(delft, 0.15, 0.0, 0.8, "blue and white porcelain"),
    "foliage": Material(foliage, 0.8, 0.0, 0.6, "green leaves"),
    "rainbow": Material(rainbow, 0.5, 0.0, 0.9, "rainbow colours"),
}
# The material most of a class's training images wear: what a texture-biased model would learn to read.
SIGNATURE = {
    "airplane": "metal",
    "boat": "stripes",
    "bottle": "emerald",
    "car": "checker",
    "chair": "oak",
    "dog": "giraffe",
    "guitar": "tiger",
    "hammer": "rust",
    "house": "brick",
    "lamp": "tartan",
    "mug": "terrazzo",
    "mushroom": "dots",
    "table": "marble",
    "teapot": "delft",
    "tree": "foliage",
    "umbrella": "rainbow",
}
SIGNATURE_OWNER = {material: class_name for class_name, material in SIGNATURE.items()}


def plain_color(rng: Generator) -> NDArray:
    """(3,) colour of the plain material."""
    return hsv(rng.random(), rng.uniform(0.1, 0.85), rng.uniform(0.15, 0.9))
