"""The image sets as declarative specifications: which scenes each holds, from which seed, at which resolution.

Every image draws from its own stream, seeded by (set seed, index), so a set can be rendered in any order, in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from .backgrounds import BACKGROUNDS
from .classes import CLASSES
from .materials import MATERIALS, PLAIN, SIGNATURE, SIGNATURE_OWNER
from .scene import (
    BROAD,
    HARD,
    NARROW,
    RENDITIONS,
    SHIFTED,
    SKETCH,
    Sampling,
    Scene,
    add_neighbors,
    add_occluder,
    crop_partially,
    sample_scene,
)

# Written with every set; raise it when a change to the generator changes any image.
GENERATOR_VERSION = "1.0"

LABELS = {name: index for index, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Item:
    """One image of a set.

    Attributes:
        id: unique in the whole world.
        label: class index, or a tuple of them in a multi-label set.
        scene: what to render.
        cluster: images with the same value share an origin and are resampled together.
        extra: further columns of this set.
    """

    id: str
    label: int | tuple[int, ...]
    scene: Scene
    cluster: str
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class SetSpec:
    """How a set is made.

    Attributes:
        name: snake-case dataset name.
        seed: root of all its randomness.
        make: seed -> items.
        kind: "train" (kept in the cache, lossy), "pool" (kept in the cache, lossless) or "shipped" (merged into the
            repository's assets).
        resolution: image side in pixels.
        samples: paths per pixel.
        denoiser: quality of the denoiser.
        shard_size: images per resumable part.
    """

    name: str
    seed: int
    make: Callable[[int], list[Item]]
    kind: str = "shipped"
    resolution: int = 96
    samples: int = 4
    denoiser: str = "high"
    shard_size: int = 200


def _natural(name: str, seed: int, count: int, sampling: Sampling, shuffle: bool = False) -> list[Item]:
    """Balanced single-object scenes from one distribution; `shuffle` mixes the classes within any stretch."""
    order = np.random.default_rng(seed).permutation(count) if shuffle else np.arange(count)
    items = []
    for index in order:
        class_name = CLASSES[index % len(CLASSES)]
        scene = sample_scene(np.random.default_rng([seed, index]), sampling, class_name)
        identity = f"{name}_{index:06d}"
        items.append(Item(identity, LABELS[class_name], scene, identity))
    return items


def make_train(seed: int) -> list[Item]:
    """24,000 scenes, narrow in pose, size and light; every shard is a random sample of the whole."""
    return _natural("world_train", seed, 24_000, NARROW, shuffle=True)


def make_train_broad(seed: int) -> list[Item]:
    """The same number with every pose, size and light, for the ablation of training diversity."""
    return _natural("world_train_broad", seed, 24_000, BROAD, shuffle=True)


# Shares of `world_val` that deviate in a way that natural sampling never does; the other 88 % are plain draws.
VAL_DEVIATIONS = {"neighbor": 0.03, "partial": 0.03, "style": 0.03, "occluder": 0.03}


def make_val(seed: int) -> list[Item]:
    """3,200 scenes from the training distribution, with small shares of each deviation (ImageNet-1K of this world)."""
    items = []
    bounds = np.cumsum(list(VAL_DEVIATIONS.values()))
    for item in _natural("world_val", seed, 3_200, NARROW):
        rng = np.random.default_rng([seed, int(item.id[-6:]), 1])
        kind, scene = int(np.searchsorted(bounds, rng.random(), side="right")), item.scene
        if kind == 0:
            scene = add_neighbors(rng, scene, 1)
        elif kind == 1:
            scene = crop_partially(rng, scene)
        elif kind == 2:
            scene = replace(scene, rendition=str(rng.choice(RENDITIONS)))
        elif kind == 3:
            scene = add_occluder(rng, scene)
        items.append(replace(item, scene=scene))
    return items


def make_v2(seed: int) -> list[Item]:
    """1,600 scenes from slightly shifted habits (ImageNet-V2)."""
    return _natural("world_v2", seed, 1_600, SHIFTED)


def make_r(seed: int) -> list[Item]:
    """Renditions: clay, toon, painted and low-poly, 400 each (ImageNet-R)."""
    items = _natural("world_r", seed, 1_600, NARROW)
    styles = [RENDITIONS[index // len(CLASSES) % len(RENDITIONS)] for index in range(len(items))]
    return [replace(it, scene=replace(it.scene, rendition=style)) for it, style in zip(items, styles, strict=True)]


def make_sketch(seed: int) -> list[Item]:
    """1,600 line drawings (ImageNet-Sketch)."""
    items = _natural("world_sketch", seed, 1_600, NARROW)
    return [replace(item, scene=replace(item.scene, rendition=SKETCH)) for item in items]


def make_hard(seed: int) -> list[Item]:
    """1,000 multi-label scenes: two objects (40 %), three (20 %), an occluded (20 %) or a cropped one (20 %)."""
    items = []
    for item in _natural("world_hard", seed, 1_000, HARD):
        index = int(item.id[-6:])
        rng = np.random.default_rng([seed, index, 1])
        kind = index // len(CLASSES) % 5
        if kind < 3:
            scene = add_neighbors(rng, item.scene, 2 if kind == 2 else 1, HARD)
        elif kind == 3:
            scene = add_occluder(rng, item.scene)
        else:
            scene = crop_partially(rng, item.scene)
        others = [LABELS[prop.class_name] for prop in scene.props if prop.class_name in LABELS]
        items.append(replace(item, scene=scene, label=(item.label, *others)))
    return items


def make_a_pool(seed: int) -> list[Item]:
    """3,000 natural but hard candidates, from which the reference network's failures become `world_a` (ImageNet-A)."""
    return _natural("world_a", seed, 3_000, HARD)


CUE_INSTANCES = 5


def make_cue(seed: int) -> list[Item]:
    """Shape of one class, signature material of another: 16 x 15 pairs on 5 base scenes per shape (cue conflict)."""
    items = []
    for shape in CLASSES:
        for instance in range(CUE_INSTANCES):
            rng = np.random.default_rng([seed, LABELS[shape], instance])
            scene = replace(sample_scene(rng, NARROW, shape), scale=0.95, dx=0.0, dy=0.0, light_intensity=1.0)
            cluster = f"cue_{shape}_{instance}"
            for material, texture in SIGNATURE_OWNER.items():
                if texture == shape:
                    continue
                extra = {"shape": shape, "texture": texture}
                conflict = replace(scene, material=material)
                items.append(Item(f"world_cue_{len(items):06d}", LABELS[shape], conflict, cluster, extra))
    return items


_ANGLES = (-135, -90, -45, 0, 45, 90, 135, 180)
_TURNS = (-90, -45, -20, 0, 20, 45, 90, 180)
# Factor -> (field of `Scene`, levels). Training covers about |yaw| < 40, |roll| < 8, |pitch| < 8, camera pitch 6-26,
# scale .68-1.06 and light .70-1.43; the sweeps go far beyond.
SWEEPS: dict[str, tuple[str, tuple]] = {
    "worlds": ("background", tuple(BACKGROUNDS)),
    "camera_pitch": ("camera_pitch", (5, 15, 30, 45, 60, 75, 88)),
    "camera_yaw": ("camera_yaw", _ANGLES),
    "camera_roll": ("camera_roll", _TURNS),
    "object_pitch": ("object_pitch", _TURNS),
    "object_yaw": ("object_yaw", _ANGLES),
    "object_roll": ("object_roll", _TURNS),
    "object_scale": ("scale", (0.2, 0.3, 0.45, 0.65, 0.85, 1.1, 1.4, 1.9)),
    "object_texture": ("material", (PLAIN, *MATERIALS)),
    "scene_light": ("light_intensity", (0.05, 0.12, 0.3, 0.6, 1.0, 1.8, 3.2, 5.6)),
}
PUG_INSTANCES = 6


def pug_base_scene(seed: int, class_name: str, instance: int) -> Scene:
    """The default scene of a sweep: canonical pose in a studio; half the instances signature, half plain."""
    rng = np.random.default_rng([seed, LABELS[class_name], instance])
    drawn = sample_scene(rng, NARROW, class_name)
    return Scene(
        class_name=class_name,
        material=SIGNATURE[class_name] if instance < PUG_INSTANCES // 2 else PLAIN,
        background="studio",
        mirrored=drawn.mirrored,
        light_azimuth=round(float(rng.uniform(-70, 70)), 3),
        light_elevation=45.0,
        instance_seed=drawn.instance_seed,
    )


def make_pug(seed: int) -> list[Item]:
    """Ten sweeps of one factor each over the same 96 scenes; the default level is an image shared by the sweeps."""
    items = []
    for class_name in CLASSES:
        for instance in range(PUG_INSTANCES):
            base = pug_base_scene(seed, class_name, instance)
            cluster = f"pug_{class_name}_{instance}"
            for factor, (attribute, levels) in SWEEPS.items():
                for level in levels:
                    value = level if isinstance(level, str) else float(level)
                    extra = {
                        "factor": factor,
                        "level": str(level),
                        "level_value": float("nan") if isinstance(level, str) else value,
                    }
                    identity = f"world_pug_{len(items):06d}"
                    scene = replace(base, **{attribute: value})
                    items.append(Item(identity, LABELS[class_name], scene, cluster, extra))
    return items


SETS = {
    spec.name: spec
    for spec in [
        SetSpec("world_train", 1001, make_train, "train", 72, 4, "fast", 500),
        SetSpec("world_train_broad", 1002, make_train_broad, "train", 72, 4, "fast", 500),
        SetSpec("world_val", 2001, make_val, resolution=128),
        SetSpec("world_cue", 2002, make_cue),
        SetSpec("world_v2", 2003, make_v2),
        SetSpec("world_r", 2004, make_r),
        SetSpec("world_sketch", 2005, make_sketch),
        SetSpec("world_a_pool", 2006, make_a_pool, "pool"),
        SetSpec("world_hard", 2007, make_hard),
        SetSpec("world_pug", 2008, make_pug, shard_size=180),  # two scenes of 90 levels
    ]
}
