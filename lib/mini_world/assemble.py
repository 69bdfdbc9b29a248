"""Turns a `Scene` into a Mitsuba scene: meshes, materials, surroundings, light and camera."""

from __future__ import annotations

import mitsuba as mi
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from .backgrounds import BACKGROUNDS, ELEVATION, Surroundings
from .classes import CANONICAL_YAW
from .materials import MATERIALS, PLAIN, plain_color
from .objects import build_object
from .scene import BLOCK, Prop, Scene, rotation
from .shapes import PackedMesh, box, pack
from .textures import jitter

mi.set_variant("scalar_rgb")
mi.set_log_level(mi.LogLevel.Error)

FIELD_OF_VIEW_DEG = 35.0
FLOOR_HALF_SIDE = 30.0
MAX_SINK = 0.06  # how far a tilted object may sink into the floor, in radii: enough to look planted, not afloat
PATH_DEPTH = 3
Transform = mi.ScalarTransform4f


def _stream(scene_seed: int, purpose: int) -> Generator:
    """Independent stream per purpose, so that changing one factor redraws nothing else."""
    return np.random.default_rng([scene_seed, purpose])


def _flat_bsdf(color: ArrayLike, roughness: float = 0.4) -> mi.BSDF:
    """Uniform two-sided surface."""
    rgb = {"type": "rgb", "value": [float(c) for c in np.clip(color, 0.01, 0.98)]}
    inner = {"type": "principled", "base_color": rgb, "roughness": roughness}
    return mi.load_dict({"type": "twosided", "bsdf": inner})


def _matt_bsdf(color: ArrayLike) -> mi.BSDF:
    """Uniform two-sided surface without any gloss."""
    rgb = {"type": "rgb", "value": [float(c) for c in np.clip(color, 0.01, 0.98)]}
    return mi.load_dict({"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": rgb}})


def _bitmap(image: NDArray, to_uv: Transform) -> dict:
    """Mitsuba texture of a linear (H, W, 3) colour image."""
    bitmap = mi.Bitmap(np.clip(image, 0.01, 0.98).astype(np.float32))
    return {"type": "bitmap", "bitmap": bitmap, "raw": True, "to_uv": to_uv}


def _main_bsdf(name: str, rng: Generator, flat: bool) -> mi.BSDF:
    """Material of the main part; `flat` keeps only its mean colour."""
    if name == PLAIN:
        color = plain_color(rng)
        return _matt_bsdf(color) if flat else _flat_bsdf(color, float(rng.uniform(0.15, 0.8)))
    material = MATERIALS[name]
    texture = material.texture(rng)
    if flat:
        return _matt_bsdf(texture.mean((0, 1)))
    repeats = 1 / (material.tile * rng.uniform(0.8, 1.25))
    inner = {
        "type": "principled",
        "base_color": _bitmap(texture, Transform().scale([repeats, repeats, 1])),
        "roughness": float(np.clip(material.roughness + rng.normal(0, 0.05), 0.08, 1)),
        "metallic": material.metallic,
    }
    return mi.load_dict({"type": "twosided", "bsdf": inner})


def clay_color(seed: int) -> NDArray:
    """(3,) the one colour of a clay rendition."""
    colors = [[0.7, 0.3, 0.17], [0.75, 0.72, 0.66], [0.62, 0.46, 0.28], [0.42, 0.48, 0.56]]
    rng = _stream(seed, 6)
    return jitter(rng, colors[rng.integers(4)], 0.03)


def _part_bsdfs(scene: Scene, material: str, seed: int) -> dict[str, mi.BSDF]:
    """Materials of an object's parts."""
    rng = _stream(seed, 2)
    if scene.rendition == "clay":
        return dict.fromkeys(("main", "dark", "light"), _matt_bsdf(clay_color(scene.instance_seed)))
    flat = scene.rendition == "low_poly"
    main = _main_bsdf(material, rng, flat)
    dark = np.array([0.05, 0.05, 0.06]) + rng.uniform(0, 0.08)
    light = jitter(rng, [0.8, 0.77, 0.7])
    return {
        "main": main,
        "dark": _matt_bsdf(dark) if flat else _flat_bsdf(dark, 0.3),
        "light": _matt_bsdf(light) if flat else _flat_bsdf(light, 0.5),
    }


def _mesh(part: PackedMesh, vertices: NDArray, normals: NDArray, bsdf: mi.BSDF, mirrored: bool) -> mi.Mesh:
    """Mitsuba mesh from placed arrays."""
    properties = mi.Properties()
    properties["bsdf"] = bsdf
    count = len(vertices)
    mesh = mi.Mesh("part", count, count // 3, has_vertex_normals=True, has_vertex_texcoords=True, props=properties)
    faces = np.arange(count, dtype=np.uint32).reshape(-1, 3)
    if mirrored:  # a reflection turns triangles inside out
        faces = faces[:, [0, 2, 1]]
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = np.ascontiguousarray(vertices, np.float32).ravel()
    parameters["vertex_normals"] = np.ascontiguousarray(normals, np.float32).ravel()
    parameters["vertex_texcoords"] = part.uvs.ravel()
    parameters["faces"] = faces.ravel()
    parameters.update()
    return mesh


def _place(parts: dict[str, PackedMesh], turn: NDArray, mirrored: bool) -> tuple[dict[str, NDArray], NDArray]:
    """Rotates an object and sets it on the floor.

    Returns:
        Vertices by part, and the (3, 3) linear map that was applied (for the normals).
    """
    linear = np.diag([1.0, -1.0 if mirrored else 1.0, 1.0]) @ turn
    placed = {name: part.vertices @ linear.T for name, part in parts.items()}
    lowest = min(vertices[:, 2].min() for vertices in placed.values())
    local = np.vstack([part.vertices for part in parts.values()])
    base = local[local[:, 2] < local[:, 2].min() + 0.03].mean(0) @ linear.T
    sink = min(max(base[2] - lowest, 0.0), MAX_SINK)
    return {name: v - [0, 0, lowest + sink] for name, v in placed.items()}, linear


def _object_meshes(scene: Scene) -> tuple[list[mi.Mesh], NDArray]:
    """Meshes of the main object and the centre of its bounding box."""
    parts = build_object(scene.class_name, _stream(scene.instance_seed, 1), scene.rendition == "low_poly")
    turn = rotation(CANONICAL_YAW[scene.class_name] + scene.object_yaw, scene.object_pitch, scene.object_roll)
    placed, linear = _place(parts, turn, scene.mirrored)
    bsdfs = _part_bsdfs(scene, scene.material, scene.instance_seed)
    meshes = [
        _mesh(part, placed[name], part.normals @ linear.T, bsdfs[name], scene.mirrored) for name, part in parts.items()
    ]
    points = np.vstack(list(placed.values()))
    return meshes, (points.min(0) + points.max(0)) / 2


def _prop_meshes(scene: Scene, prop: Prop, center: NDArray) -> list[mi.Mesh]:
    """Meshes of one further object."""
    if prop.class_name == BLOCK:
        rng = _stream(prop.seed, 1)
        extents = [prop.size * 0.6, prop.size * rng.uniform(0.9, 1.5), rng.uniform(0.8, 1.6)]
        parts = {"main": pack([box(extents)])}
        yaw = prop.yaw
    else:
        parts = build_object(prop.class_name, _stream(prop.seed, 1), scene.rendition == "low_poly")
        yaw = CANONICAL_YAW[prop.class_name] + prop.yaw
    placed, linear = _place(parts, rotation(yaw + scene.camera_yaw, 0, 0), False)
    bsdfs = _part_bsdfs(scene, prop.material, prop.seed)
    size = 1.0 if prop.class_name == BLOCK else prop.size
    cos, sin = np.cos(np.deg2rad(scene.camera_yaw)), np.sin(np.deg2rad(scene.camera_yaw))
    offset = prop.toward * np.array([cos, sin, 0]) + prop.right * np.array([-sin, cos, 0])
    offset[:2] += center[:2]
    return [
        _mesh(part, placed[name] * size + offset, part.normals @ linear.T, bsdfs[name], False)
        for name, part in parts.items()
    ]


def _surroundings(scene: Scene) -> dict:
    """Environment, directional light and floor, in Mitsuba's dictionary form."""
    rng = _stream(scene.instance_seed, 3)
    background = BACKGROUNDS[scene.background]
    drawn = background.draw(rng)
    if scene.rendition == "clay":
        color = clay_color(scene.instance_seed)
        # a darker backdrop of the same hue, lit from above, as in a modeller's light box
        overhead = np.clip(0.35 + np.sin(ELEVATION), 0.2, None)[..., None]
        drawn = Surroundings(overhead * (color + 0.1), np.ones_like(drawn.floor) * (0.25 * color + 0.04))
    elif scene.rendition == "low_poly":  # flat bands of colour instead of clouds and ground texture
        rows = drawn.environment.mean(1, keepdims=True).reshape(12, -1, 1, 3).mean(1, keepdims=True)
        bands = np.broadcast_to(rows, (12, drawn.environment.shape[0] // 12, drawn.environment.shape[1], 3))
        drawn = Surroundings(
            bands.reshape(drawn.environment.shape), np.ones_like(drawn.floor) * drawn.floor.mean((0, 1))
        )
    # Normalise the light that reaches a horizontal surface, so that surroundings differ in look, not in exposure.
    weight = np.clip(np.sin(ELEVATION), 0, None) * np.cos(ELEVATION)
    mean = (drawn.environment.mean(-1) * weight).sum() / weight.sum()
    gain = min(background.ambient / max(mean, 1e-3), 3.0) * scene.light_intensity
    warmth = rng.normal(0, 0.05)
    tint = np.array([1 + warmth, 1, 1 - warmth])
    turn, shift = float(rng.uniform(0, 360)), rng.random(2)
    azimuth, elevation = np.deg2rad([scene.light_azimuth, scene.light_elevation])
    toward = [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    irradiance = background.sun * scene.light_intensity * np.array(background.sun_color) * tint
    repeats = 2 * FLOOR_HALF_SIDE / background.floor_tile
    to_uv = Transform().translate([float(shift[0]), float(shift[1]), 0]).scale([repeats, repeats, 1])
    return {
        "environment": {
            "type": "envmap",
            "bitmap": mi.Bitmap((drawn.environment * gain * tint).astype(np.float32)),
            "to_world": Transform().rotate([0, 0, 1], turn) @ Transform().rotate([1, 0, 0], 90),
        },
        "sun": {
            "type": "directional",
            "direction": [-float(t) for t in toward],
            "irradiance": {"type": "rgb", "value": [float(v) for v in irradiance]},
        },
        "floor": {
            "type": "rectangle",
            "to_world": Transform().scale([FLOOR_HALF_SIDE, FLOOR_HALF_SIDE, 1]),
            "bsdf": {"type": "diffuse", "reflectance": _bitmap(drawn.floor, to_uv)},
        },
    }


def _sensor(scene: Scene, center: NDArray, resolution: int, samples: int) -> dict:
    """Camera that keeps the object's centre at (dx, dy) of the image."""
    half = np.tan(np.deg2rad(FIELD_OF_VIEW_DEG / 2))
    distance = 0.92 / (scene.scale * half)
    pitch, yaw = np.deg2rad([scene.camera_pitch, scene.camera_yaw])
    outward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    right = np.array([-np.sin(yaw), np.cos(yaw), 0])
    up = np.cross(outward, right)
    origin = center + distance * outward
    origin[2] = max(origin[2], 0.12)  # never under the floor
    target = center - distance * half * (right * scene.dx + up * scene.dy)
    view = Transform().look_at([float(x) for x in origin], [float(x) for x in target], [float(x) for x in up])
    return {
        "type": "perspective",
        "fov": FIELD_OF_VIEW_DEG,
        "to_world": view @ Transform().rotate([0, 0, 1], scene.camera_roll),
        "film": {
            "type": "hdrfilm",
            "width": resolution,
            "height": resolution,
            "pixel_format": "rgb",
            "component_format": "float32",
            "rfilter": {"type": "box"},
        },
        "sampler": {"type": "multijitter", "sample_count": samples},
    }


def assemble(scene: Scene, resolution: int, samples: int, lines_only: bool = False) -> mi.Scene:
    """Builds the Mitsuba scene.

    Args:
        scene: the factors.
        resolution: image side in pixels.
        samples: paths per pixel.
        lines_only: geometry for line drawing: depth, normals and part indices, no floor and no light.
    """
    meshes, center = _object_meshes(scene)
    for prop in scene.props:
        meshes += _prop_meshes(scene, prop, center)
    parts = {f"mesh_{i}": mesh for i, mesh in enumerate(meshes)}
    sensor = _sensor(scene, center, resolution, samples)
    if lines_only:
        aovs = {"type": "aov", "aovs": "depth:depth,normal:sh_normal,part:shape_index"}
        return mi.load_dict({"type": "scene", "integrator": aovs, "sensor": sensor, **parts})
    path = {"type": "path", "max_depth": PATH_DEPTH, "rr_depth": 8}
    return mi.load_dict({"type": "scene", "integrator": path, "sensor": sensor, **_surroundings(scene), **parts})
