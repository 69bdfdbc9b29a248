"""The sixteen object classes: from a class name and a Generator to normalised, renderable parts."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from . import objects_indoor as indoor
from . import objects_outdoor as outdoor
from .classes import CLASSES
from .shapes import PackedMesh, cluster_vertices, pack

BUILDERS = {
    "airplane": outdoor.airplane,
    "boat": outdoor.boat,
    "bottle": indoor.bottle,
    "car": outdoor.car,
    "chair": indoor.chair,
    "dog": outdoor.dog,
    "guitar": indoor.guitar,
    "hammer": indoor.hammer,
    "house": outdoor.house,
    "lamp": indoor.lamp,
    "mug": indoor.mug,
    "mushroom": outdoor.mushroom,
    "table": indoor.table,
    "teapot": indoor.teapot,
    "tree": outdoor.tree,
    "umbrella": outdoor.umbrella,
}
if tuple(BUILDERS) != CLASSES:
    raise RuntimeError("every class needs its builder, in label order")
PART_NAMES = ("main", "dark", "light")


def build_object(class_name: str, rng: Generator, low_poly: bool = False) -> dict[str, PackedMesh]:
    """Draws one instance of a class, scaled and moved into the unit ball.

    Args:
        class_name: one of `CLASSES`.
        rng: source of the instance's proportions.
        low_poly: few, faceted triangles.

    Returns:
        Non-empty parts by name: "main" carries the material, "dark" and "light" are trim.
    """
    parts = BUILDERS[class_name](rng)
    points = np.vstack([mesh.vertices for part in parts for mesh in part])
    center = (points.min(0) + points.max(0)) / 2
    factor = 1 / np.linalg.norm(points - center, axis=1).max()
    packed = {}
    for name, meshes in zip(PART_NAMES, parts, strict=True):
        for mesh in meshes:
            mesh.vertices = (mesh.vertices - center) * factor
        if meshes:
            meshes = [cluster_vertices(mesh, 0.26) for mesh in meshes] if low_poly else meshes
            packed[name] = pack(meshes, faceted=low_poly)
    return packed
