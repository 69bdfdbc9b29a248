"""Ten surroundings: an environment map for sky or walls, a floor texture, and how bright each is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from .textures import SIZE, U, V, hsv, jitter, mix, noise, ramp, triangle

HEIGHT, WIDTH = 96, 192  # environment map, latitude-longitude
ELEVATION = (np.pi / 2 - (np.arange(HEIGHT) + 0.5) / HEIGHT * np.pi)[:, None] * np.ones((1, WIDTH))
AZIMUTH = (np.arange(WIDTH) + 0.5)[None] / WIDTH * 2 * np.pi * np.ones((HEIGHT, 1))
_COLUMNS = np.arange(WIDTH) * SIZE // WIDTH  # noise column of each map column: the noise is tileable, so no seam
_ROWS = np.arange(HEIGHT) * SIZE // HEIGHT


@dataclass(frozen=True)
class Surroundings:
    """One drawn background.

    Attributes:
        environment: (HEIGHT, WIDTH, 3) linear radiance before normalisation.
        floor: (SIZE, SIZE, 3) albedo.
    """

    environment: NDArray
    floor: NDArray


@dataclass(frozen=True)
class Background:
    """A kind of background and its lighting.

    Attributes:
        draw: makes an instance.
        floor_tile: length of one repeat of the floor texture, in object radii.
        ambient: mean radiance of the upper hemisphere after normalisation.
        sun: irradiance of the directional light.
        sun_color: relative RGB of the directional light.
        words: how a caption names it.
    """

    draw: Callable[[Generator], Surroundings]
    floor_tile: float
    ambient: float
    sun: float
    sun_color: tuple[float, float, float]
    words: str


def _map_noise(rng: Generator, exponent: float) -> NDArray:
    """(HEIGHT, WIDTH) noise."""
    return noise(rng, exponent)[_ROWS][:, _COLUMNS]


def _sky(rng: Generator, zenith: ArrayLike, horizon: ArrayLike, clouds: float) -> NDArray:
    """Gradient from horizon to zenith with `clouds` in [0, 1] of cover."""
    sky = mix(horizon, zenith, np.clip(ELEVATION / (np.pi / 2), 0, 1) ** 0.5)
    cover = np.clip(_map_noise(rng, 1.3) * 0.5 + clouds - 0.5, 0, 1) * (ELEVATION > 0)
    return mix(sky, [0.9, 0.9, 0.92], cover * 0.7)


def _band(rng: Generator, image: NDArray, top: NDArray, color: ArrayLike) -> tuple[NDArray, NDArray]:
    """Paints everything from below the horizon up to `top` (per column); returns the image and the mask."""
    mask = (ELEVATION < top[None]) & (ELEVATION > -0.2)
    shade = np.clip(1 + 0.25 * _map_noise(rng, 0.8), 0.3, 2)[..., None]
    return np.where(mask[..., None], np.asarray(color) * shade, image), mask


def _hills(rng: Generator, image: NDArray, base: float, rise: float, color: ArrayLike, exponent: float) -> NDArray:
    """Rolling skyline between elevations `base` and about `base + rise` (radians)."""
    line = noise(rng, exponent)[0][_COLUMNS] * 0.5 + 0.5
    return _band(rng, image, base + rise * line, color)[0]


def _buildings(rng: Generator, image: NDArray, base: float, rise: float, color: ArrayLike, lit: ArrayLike) -> NDArray:
    """Blocky skyline with a quarter of its texels lit as windows."""
    count = int(rng.integers(10, 24))
    tops = np.repeat(rng.random(count), -(-WIDTH // count))[:WIDTH]
    image, mask = _band(rng, image, base + rise * tops, color)
    windows = mask & (rng.random((HEIGHT, WIDTH)) < 0.25)
    return np.where(windows[..., None], lit, image)


def _near(azimuth: float, half_width: float) -> NDArray:
    """Mask of the columns within `half_width` radians of `azimuth`."""
    return np.abs(np.angle(np.exp(1j * (AZIMUTH - azimuth)))) < half_width


def _room(rng: Generator, wall: ArrayLike, glass: ArrayLike, ceiling: ArrayLike) -> NDArray:
    """Walls with windows and some coloured furniture."""
    image = np.asarray(wall) * (1 + 0.03 * _map_noise(rng, 1.0))[..., None]
    image = np.where((ELEVATION > 0.75)[..., None], ceiling, image)
    for _ in range(rng.integers(1, 4)):
        azimuth, half = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.4)
        pane = _near(azimuth, half) & ~_near(azimuth, 0.03) & (ELEVATION > 0.1) & (ELEVATION < 0.6)
        image = np.where(pane[..., None], np.asarray(glass) * rng.uniform(2.5, 4.5), image)
    for _ in range(rng.integers(2, 6)):
        azimuth, half, low = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.3), rng.uniform(-0.3, 0.2)
        block = _near(azimuth, half) & (ELEVATION > low) & (ELEVATION < low + rng.uniform(0.15, 0.5))
        color = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.7))
        image = np.where(block[..., None], color, image)
    return image


def _ground(rng: Generator, low: ArrayLike, high: ArrayLike, exponent: float = 0.9) -> NDArray:
    """Two-coloured noisy floor."""
    return mix(jitter(rng, low, 0.04), jitter(rng, high, 0.04), ramp(noise(rng, exponent), 3))


def _planks(rng: Generator) -> NDArray:
    """Floor boards along v, each with its own tone, a soft grain and a thin dark joint."""
    board = np.floor(U * 8).astype(int)
    tone = rng.normal(0, 0.05, 8)[board] + 0.015 * noise(rng, 1.3, 1, 5)
    wood = np.clip(jitter(rng, [0.46, 0.3, 0.18], 0.04) + tone[..., None] * [1, 0.8, 0.6], 0, 1)
    # joints run along the boards and, shifted per board, across them
    across = triangle(V + rng.random(8)[board])
    joint = np.maximum(ramp(triangle(U * 8) - 0.9, 0.1), ramp(across - 0.97, 0.02))
    return mix(wood, [0.2, 0.12, 0.07], joint * 0.7)


def _tiles(rng: Generator) -> NDArray:
    """Pale two-tone floor tiles with grey joints."""
    tone = (0.1 * ((np.floor(U * 4) + np.floor(V * 4)) % 2) - 0.08)[..., None]
    joint = ramp(np.maximum(triangle(U * 4), triangle(V * 4)) - 0.93, 0.06)
    return mix(jitter(rng, [0.62, 0.62, 0.6]) + tone, [0.3, 0.3, 0.3], joint)


def meadow(rng: Generator) -> Surroundings:
    """Grass, blue sky, wooded hills."""
    sky = _sky(rng, jitter(rng, [0.15, 0.35, 0.8]), [0.75, 0.85, 0.95], rng.uniform(0.2, 0.9))
    image = _hills(rng, sky, 0.04, 0.16, [0.1, 0.2, 0.06], 1.2)
    return Surroundings(image, _ground(rng, [0.1, 0.22, 0.04], [0.3, 0.42, 0.12], 1.0))


def desert(rng: Generator) -> Surroundings:
    """Ochre sand and dunes."""
    sky = _sky(rng, jitter(rng, [0.25, 0.5, 0.85]), [0.9, 0.82, 0.7], 0.2)
    image = _hills(rng, sky, 0.02, 0.2, [0.5, 0.32, 0.18], 1.8)
    return Surroundings(image, _ground(rng, [0.5, 0.33, 0.18], [0.66, 0.46, 0.27], 1.3))


def snow(rng: Generator) -> Surroundings:
    """Bluish snow under a grey sky, dark woods."""
    sky = _sky(rng, jitter(rng, [0.35, 0.45, 0.62]), [0.62, 0.68, 0.78], 0.6)
    image = _hills(rng, sky, 0.06, 0.15, [0.1, 0.16, 0.15], 0.7)
    return Surroundings(image, _ground(rng, [0.55, 0.62, 0.74], [0.78, 0.82, 0.88], 1.4))


def street(rng: Generator) -> Surroundings:
    """Asphalt and buildings by day."""
    sky = _sky(rng, jitter(rng, [0.4, 0.55, 0.8]), [0.75, 0.78, 0.82], 0.6)
    image = _buildings(rng, sky, 0.15, 0.5, jitter(rng, [0.42, 0.36, 0.33]), [0.6, 0.65, 0.7])
    return Surroundings(image, _ground(rng, [0.16, 0.16, 0.17], [0.3, 0.3, 0.31], 0.5))


def beach(rng: Generator) -> Surroundings:
    """Pale sand before a blue sea."""
    sky = _sky(rng, jitter(rng, [0.1, 0.4, 0.8]), [0.7, 0.82, 0.92], 0.4)
    image = _hills(rng, sky, 0.05, 0.01, [0.05, 0.3, 0.45], 0.8)
    return Surroundings(image, _ground(rng, [0.56, 0.5, 0.38], [0.72, 0.66, 0.52], 0.8))


def living_room(rng: Generator) -> Surroundings:
    """Painted walls and floor boards."""
    wall = hsv(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.4, 0.75))
    return Surroundings(_room(rng, wall, [1, 0.97, 0.9], [0.9, 0.9, 0.88]), _planks(rng))


def kitchen(rng: Generator) -> Surroundings:
    """Cool walls and floor tiles."""
    image = _room(rng, jitter(rng, [0.62, 0.67, 0.67]), [0.9, 0.97, 1], [0.9, 0.9, 0.9])
    return Surroundings(image, _tiles(rng))


def studio(rng: Generator) -> Surroundings:
    """A seamless coloured backdrop with two soft boxes."""
    color = hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.3, 0.8))
    image = np.broadcast_to(color, (HEIGHT, WIDTH, 3))
    for _ in range(2):
        lamp = _near(rng.uniform(0, 2 * np.pi), 0.4) & (ELEVATION > 0.4) & (ELEVATION < 1.1)
        image = np.where(lamp[..., None], [5.0, 5.0, 5.0], image)
    return Surroundings(image, color * 0.9 * (1 + 0.01 * noise(rng, 1.0))[..., None])


def sunset(rng: Generator) -> Surroundings:
    """Orange horizon, violet zenith, dark hills."""
    sky = _sky(rng, jitter(rng, [0.2, 0.2, 0.45]), [1.0, 0.5, 0.22], 0.4)
    image = _hills(rng, sky, 0.05, 0.2, [0.06, 0.05, 0.07], 1.2)
    return Surroundings(image, _ground(rng, [0.22, 0.2, 0.16], [0.38, 0.33, 0.26]))


def night(rng: Generator) -> Surroundings:
    """Dark sky and lit buildings."""
    sky = _sky(rng, [0.02, 0.03, 0.09], [0.09, 0.1, 0.2], 0.0)
    image = _buildings(rng, sky, 0.15, 0.4, [0.03, 0.03, 0.05], [1.3, 1.0, 0.5])
    return Surroundings(image, _ground(rng, [0.12, 0.12, 0.14], [0.22, 0.22, 0.25], 0.6))


_DAY, _LAMP, _DUSK, _MOON = (1.0, 0.96, 0.9), (1.0, 0.97, 0.92), (1.0, 0.62, 0.35), (0.9, 0.85, 0.8)
BACKGROUNDS = {
    "meadow": Background(meadow, 1.6, 0.45, 1.15, _DAY, "in a green meadow"),
    "desert": Background(desert, 2.5, 0.42, 1.1, _DAY, "in the desert"),
    "snow": Background(snow, 3.0, 0.42, 0.75, _DAY, "in the snow"),
    "street": Background(street, 1.5, 0.45, 1.15, _DAY, "on a city street"),
    "beach": Background(beach, 2.0, 0.42, 0.95, _DAY, "on the beach"),
    "living_room": Background(living_room, 2.6, 0.7, 0.55, _LAMP, "in a living room"),
    "kitchen": Background(kitchen, 2.4, 0.7, 0.55, _LAMP, "in a kitchen"),
    "studio": Background(studio, 3.0, 0.7, 0.55, _LAMP, "in a photo studio"),
    "sunset": Background(sunset, 2.0, 0.42, 1.0, _DUSK, "at sunset"),
    "night": Background(night, 1.5, 0.22, 0.9, _MOON, "in the city at night"),
}
