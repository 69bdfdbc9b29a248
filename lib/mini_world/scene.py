"""A scene as a small record of named factors, and the distributions that scenes are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .backgrounds import BACKGROUNDS
from .classes import CLASSES
from .materials import MATERIALS, PLAIN, SIGNATURE

PHOTO = "photo"
RENDITIONS = ("clay", "toon", "painted", "low_poly")
SKETCH = "sketch"
BLOCK = "block"  # class name of a prop that is a box, used to occlude
SEED_LIMIT = 2**31


@dataclass(frozen=True)
class Prop:
    """Something beside the main object.

    Attributes:
        class_name: an object class, or `BLOCK`.
        material: as for the scene.
        yaw: degrees from the class's canonical view.
        toward: position along the floor towards the camera, in radii of the main object.
        right: position to the right in the image, in the same unit.
        size: radius relative to the main object's.
        seed: draws the instance.
    """

    class_name: str
    material: str
    yaw: float
    toward: float
    right: float
    size: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image. Angles are in degrees.

    Attributes:
        class_name: object class.
        material: a key of `MATERIALS`, or "plain".
        background: a key of `BACKGROUNDS`.
        object_yaw: turn about the vertical from the class's canonical view.
        object_pitch: tilt about the horizontal axis across the object.
        object_roll: tilt about the object's long axis.
        mirrored: reflect the object left to right, so that it faces the other way.
        camera_yaw: camera's azimuth around the object; 0 is the canonical view.
        camera_pitch: camera's elevation above the horizon.
        camera_roll: camera's turn about its optical axis.
        scale: diameter of the object's bounding ball over the image side (about 1 fills the image).
        dx: object's position right of the image centre, in half image sides.
        dy: object's position above the image centre, in half image sides.
        light_intensity: factor on all light.
        light_azimuth: where the directional light comes from; 0 is the side of the canonical camera.
        light_elevation: height of the directional light above the horizon.
        instance_seed: draws the object's proportions, the texture and the surroundings.
        rendition: "photo", one of `RENDITIONS`, or "sketch".
        props: further objects.
    """

    class_name: str
    material: str
    background: str
    object_yaw: float = 0.0
    object_pitch: float = 0.0
    object_roll: float = 0.0
    mirrored: bool = False
    camera_yaw: float = 0.0
    camera_pitch: float = 15.0
    camera_roll: float = 0.0
    scale: float = 0.85
    dx: float = 0.0
    dy: float = 0.0
    light_intensity: float = 1.0
    light_azimuth: float = 40.0
    light_elevation: float = 45.0
    instance_seed: int = 0
    rendition: str = PHOTO
    props: tuple[Prop, ...] = ()

    @property
    def count(self) -> int:
        """Number of objects, without occluding blocks."""
        return 1 + sum(prop.class_name != BLOCK for prop in self.props)


@dataclass(frozen=True)
class Sampling:
    """Ranges from which natural scenes are drawn. Normal spreads are clipped at `clip` standard deviations.

    Attributes:
        yaw: standard deviation of object yaw and of camera yaw (they add up in the image).
        tilt: standard deviation of object pitch and roll.
        elevation: mean and standard deviation of camera pitch.
        roll: standard deviation of camera roll.
        scale: median and log standard deviation of the scale.
        offset: largest |dx| and |dy|.
        light: median and log standard deviation of light intensity.
        light_elevation: range of the light's height.
        uniform_yaw: share of scenes whose object yaw is uniform on the circle.
        uniform_roll: share of scenes whose camera roll is uniform on the circle.
        signature: share of scenes in the class's signature material.
        plain: share of scenes in a plain material; the rest take any of the sixteen.
        clip: largest deviation, in standard deviations.
    """

    yaw: tuple[float, float] = (14.0, 7.0)
    tilt: float = 4.0
    elevation: tuple[float, float] = (16.0, 5.0)
    roll: float = 4.0
    scale: tuple[float, float] = (0.85, 0.11)
    offset: float = 0.12
    light: tuple[float, float] = (1.0, 0.18)
    light_elevation: tuple[float, float] = (25.0, 65.0)
    uniform_yaw: float = 0.0
    uniform_roll: float = 0.0
    signature: float = 0.60
    plain: float = 0.15
    clip: float = 2.0


# Training and validation: narrow, so that the sweeps leave it (|object yaw| <= 28, |camera yaw| <= 14, scale .68-1.06,
# light .70-1.43, |roll| <= 8, elevation 6-26 degrees).
NARROW = Sampling()
# The same world for the ablation of training diversity: every pose, light, size and roll.
BROAD = Sampling(
    tilt=20.0,
    elevation=(28.0, 16.0),
    scale=(0.7, 0.4),
    offset=0.25,
    light=(1.0, 0.7),
    light_elevation=(10.0, 85.0),
    uniform_yaw=1.0,
    uniform_roll=0.5,
)
# A second draw of the same world by someone with slightly other habits.
SHIFTED = Sampling(
    yaw=(18.0, 9.0),
    tilt=5.0,
    elevation=(19.0, 6.0),
    roll=5.0,
    scale=(0.78, 0.14),
    offset=0.18,
    light=(0.9, 0.24),
    light_elevation=(20.0, 70.0),
    signature=0.50,
)
# Natural but hard: candidates for the adversarial set.
HARD = Sampling(
    yaw=(32.0, 16.0),
    tilt=12.0,
    elevation=(22.0, 10.0),
    roll=12.0,
    scale=(0.75, 0.3),
    offset=0.25,
    light=(0.8, 0.5),
    light_elevation=(15.0, 75.0),
    uniform_yaw=0.15,
    signature=0.25,
    plain=0.30,
)


def rotation(yaw: float, pitch: float, roll: float) -> NDArray:
    """(3, 3) rotation: roll about x, then pitch about y, then yaw about z. Degrees."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.deg2rad([yaw, pitch, roll])), np.sin(np.deg2rad([yaw, pitch, roll]))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return about_z @ about_y @ about_x


def sample_material(rng: Generator, class_name: str, sampling: Sampling) -> str:
    """Draws a material: the class's own, a plain one, or any."""
    choice = rng.random()
    if choice < sampling.signature:
        return SIGNATURE[class_name]
    if choice < sampling.signature + sampling.plain:
        return PLAIN
    return str(rng.choice(list(MATERIALS)))


def sample_scene(rng: Generator, sampling: Sampling = NARROW, class_name: str | None = None) -> Scene:
    """Draws a natural scene with one object.

    Args:
        rng: source of all randomness; the scene depends on nothing else.
        sampling: the distribution.
        class_name: fixed class, or None for a uniform one.
    """

    def spread(deviation: float, mean: float = 0.0) -> float:
        return round(float(mean + deviation * np.clip(rng.normal(), -sampling.clip, sampling.clip)), 3)

    def log_spread(median: float, deviation: float) -> float:
        return round(float(median * np.exp(spread(deviation))), 4)

    class_name = class_name or CLASSES[rng.integers(len(CLASSES))]
    material = sample_material(rng, class_name, sampling)
    background = str(rng.choice(list(BACKGROUNDS)))
    yaw, roll = spread(sampling.yaw[0]), spread(sampling.roll)
    if rng.random() < sampling.uniform_yaw:
        yaw = round(float(rng.uniform(-180, 180)), 3)
    if rng.random() < sampling.uniform_roll:
        roll = round(float(rng.uniform(-180, 180)), 3)
    return Scene(
        class_name=class_name,
        material=material,
        background=background,
        object_yaw=yaw,
        object_pitch=spread(sampling.tilt),
        object_roll=spread(sampling.tilt),
        mirrored=bool(rng.random() < 0.5),
        camera_yaw=spread(sampling.yaw[1]),
        camera_pitch=float(np.clip(spread(sampling.elevation[1], sampling.elevation[0]), 2, 80)),
        camera_roll=roll,
        scale=log_spread(*sampling.scale),
        dx=round(float(rng.uniform(-1, 1) * sampling.offset), 4),
        dy=round(float(rng.uniform(-1, 1) * sampling.offset), 4),
        light_intensity=log_spread(*sampling.light),
        light_azimuth=round(float(rng.uniform(0, 360)), 3),
        light_elevation=round(float(rng.uniform(*sampling.light_elevation)), 3),
        instance_seed=int(rng.integers(SEED_LIMIT)),
    )


def add_neighbors(rng: Generator, scene: Scene, count: int, sampling: Sampling = NARROW) -> Scene:
    """Adds `count` objects of other classes to the left and right of the main one, and widens the view."""
    others = [name for name in CLASSES if name != scene.class_name]
    names = rng.choice(others, count, replace=False)
    sides = rng.permutation([-1.0, 1.0])
    props = []
    for index, name in enumerate(names):
        size = float(rng.uniform(0.75, 1.1))
        # the third object, if any, stands behind the gap
        right, toward = (
            (sides[index] * rng.uniform(1.15, 1.5), rng.uniform(-0.5, 0.3))
            if index < 2
            else (rng.uniform(-0.6, 0.6), -2.2)
        )
        props.append(
            Prop(
                class_name=str(name),
                material=sample_material(rng, str(name), sampling),
                yaw=float(rng.normal(0, 20)),
                toward=round(float(toward), 3),
                right=round(float(right), 3),
                size=round(size, 3),
                seed=int(rng.integers(SEED_LIMIT)),
            )
        )
    shift = float(np.mean([0.0] + [prop.right for prop in props])) * 0.5  # centres the group
    scale = scene.scale * (0.72 if count == 1 else 0.6)
    return replace(scene, props=scene.props + tuple(props), scale=round(scale, 4), dx=round(-shift * scale, 4))


def add_occluder(rng: Generator, scene: Scene) -> Scene:
    """Puts a plain block between camera and object, covering roughly a third to a half of it."""
    block = Prop(
        class_name=BLOCK,
        material=PLAIN,
        yaw=float(rng.uniform(-30, 30)),
        toward=round(float(rng.uniform(1.1, 1.4)), 3),
        right=round(float(rng.choice([-1, 1]) * rng.uniform(0.15, 0.5)), 3),
        size=round(float(rng.uniform(0.35, 0.5)), 3),
        seed=int(rng.integers(SEED_LIMIT)),
    )
    return replace(scene, props=(*scene.props, block))


def crop_partially(rng: Generator, scene: Scene) -> Scene:
    """Moves the object against the image border, so that about a third of it is cut off."""
    along, across = float(rng.choice([-1, 1]) * rng.uniform(0.6, 0.8)), float(rng.uniform(-0.15, 0.15))
    dx, dy = (along, across) if rng.random() < 0.7 else (across, along)
    scale = max(scene.scale, 0.9)
    return replace(scene, dx=round(dx, 4), dy=round(dy, 4), scale=scale)
