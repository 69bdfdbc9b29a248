"""Primitive meshes (box, tube, revolved profile, ...) and their packing into renderer arrays.

Axes: x is forward, y is left, z is up. Lengths are in arbitrary units; an object is normalised to the unit ball later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray
from trimesh import Trimesh
from trimesh.transformations import rotation_matrix

SMOOTH_ANGLE_DEG = 42.0  # faces that meet at less than this share a smooth normal


@dataclass(frozen=True)
class PackedMesh:
    """Unindexed triangles: three consecutive rows are one face.

    Attributes:
        vertices: (3 F, 3) float32 positions.
        normals: (3 F, 3) float32 unit normals, smoothed across shallow edges.
        uvs: (3 F, 2) float32 box-projected texture coordinates, in object units.
    """

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]


def rotate(mesh: Trimesh, angle: float, axis: Sequence[float]) -> Trimesh:
    """Rotates `mesh` in place by `angle` radians about `axis` through the origin and returns it."""
    mesh.apply_transform(rotation_matrix(angle, axis))
    return mesh


def box(extents: Sequence[float], center: Sequence[float] = (0, 0, 0)) -> Trimesh:
    """Axis-aligned box with full side lengths `extents`."""
    mesh = trimesh.creation.box(extents=extents)
    mesh.apply_translation(center)
    return mesh


def cylinder(radius: float, start: Sequence[float], end: Sequence[float], sections: int = 20) -> Trimesh:
    """Cylinder from `start` to `end`."""
    return trimesh.creation.cylinder(radius=radius, segment=[start, end], sections=sections)


def revolve(profile: ArrayLike, sections: int = 28) -> Trimesh:
    """Revolves a profile of (radius, height) rows about the z axis."""
    return trimesh.creation.revolve(np.asarray(profile, float), sections=sections)


def sphere(
    radius: float, center: Sequence[float] = (0, 0, 0), stretch: Sequence[float] = (1, 1, 1), subdivisions: int = 3
) -> Trimesh:
    """Icosphere, stretched along the axes before it is moved to `center`."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    mesh.apply_scale(stretch)
    mesh.apply_translation(center)
    return mesh


def hull(points: ArrayLike) -> Trimesh:
    """Convex hull of (N, 3) points."""
    return trimesh.convex.convex_hull(np.asarray(points, float))


def mirrored_hull(points: Sequence[Sequence[float]]) -> Trimesh:
    """Convex hull of points and their mirror images across the plane y = 0."""
    return hull([[x, side * y, z] for side in (1, -1) for x, y, z in points])


def prism(polygon: ArrayLike, depth: float, axis: str = "y") -> Trimesh:
    """Extrudes a polygon, star-shaped about its mean, by `depth` symmetrically along `axis`.

    Args:
        polygon: (N, 2) corners, in the plane (x, z) for axis "y" and (y, z) for axis "x".
        depth: full length of the extrusion.
        axis: "x" or "y".
    """
    corners = np.asarray(polygon, float)
    count = len(corners)
    ring = np.vstack([corners, corners.mean(0)])
    low = np.c_[ring, np.full(count + 1, -depth / 2)]
    high = np.c_[ring, np.full(count + 1, depth / 2)]
    top = count + 1
    faces = []
    for i in range(count):
        j = (i + 1) % count
        faces += [[count, j, i], [top + count, top + i, top + j], [i, j, top + j], [i, top + j, top + i]]
    vertices = np.vstack([low, high])
    order = [0, 2, 1] if axis == "y" else [2, 0, 1]
    mesh = Trimesh(vertices[:, order], faces, process=False)
    mesh.fix_normals()
    return mesh


def tube(path: ArrayLike, radii: ArrayLike, sections: int = 12) -> Trimesh:
    """Capped tube along a polyline.

    Args:
        path: (N, 3) points.
        radii: one radius, or N.
        sections: corners of the cross-section.
    """
    points = np.asarray(path, float)
    count = len(points)
    radii = np.broadcast_to(np.asarray(radii, float), count)
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    up = np.array([0.0, 1, 0]) if abs(tangents[0, 1]) < 0.9 else np.array([1.0, 0, 0])
    angles = np.linspace(0, 2 * np.pi, sections, endpoint=False)
    rings = []
    for point, tangent, radius in zip(points, tangents, radii, strict=True):
        side = np.cross(tangent, up)
        side /= np.linalg.norm(side)
        up = np.cross(side, tangent)  # carried along, so that the tube does not twist
        rings.append(point + radius * (np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * up))
    faces = []
    for i in range(count - 1):
        for j in range(sections):
            a, b = i * sections + j, i * sections + (j + 1) % sections
            faces += [[a, b, b + sections], [a, b + sections, a + sections]]
    first, last = count * sections, count * sections + 1
    for j in range(sections):
        k = (j + 1) % sections
        faces += [[first, k, j], [last, (count - 1) * sections + j, (count - 1) * sections + k]]
    mesh = Trimesh(np.vstack([*rings, points[:1], points[-1:]]), faces, process=False)
    mesh.fix_normals()
    return mesh


def arc(
    center: Sequence[float], radius_x: float, radius_z: float, start: float, end: float, count: int = 12
) -> NDArray:
    """(count, 3) points on an ellipse arc in the x-z plane, from angle `start` to `end` in radians."""
    angle = np.linspace(start, end, count)
    x = center[0] + radius_x * np.cos(angle)
    z = center[2] + radius_z * np.sin(angle)
    return np.c_[x, np.full(count, center[1]), z]


def wing(root: Sequence[float], tip: Sequence[float], thickness: float) -> Trimesh:
    """Flat tapered wing between two edges given as (x leading, x trailing, y, z)."""
    points = []
    for (lead, trail, y, z), half in ((root, thickness), (tip, thickness / 2)):
        middle = (lead + trail) / 2
        points += [[lead, y, z], [trail, y, z], [middle, y, z + half], [middle, y, z - half]]
    return hull(points)


def loft(sections: ArrayLike) -> Trimesh:
    """Closed skin over cross-sections of equal point count, each a closed ring, capped at both ends.

    Args:
        sections: (N, M, 3) rings of M points.
    """
    rings = np.asarray(sections, float)
    count, size = rings.shape[:2]
    faces = []
    for i in range(count - 1):
        for j in range(size):
            a, b = i * size + j, i * size + (j + 1) % size
            faces += [[a, b, b + size], [a, b + size, a + size]]
    end = (count - 1) * size
    for j in range(1, size - 1):
        faces += [[0, j + 1, j], [end, end + j, end + j + 1]]
    mesh = Trimesh(rings.reshape(-1, 3), faces, process=False)
    mesh.fix_normals()
    return mesh


def _smooth_normals(mesh: Trimesh) -> NDArray:
    """(F, 3, 3) corner normals: area-weighted mean over the vertex's faces within `SMOOTH_ANGLE_DEG`."""
    face_normals, faces = mesh.face_normals, mesh.faces
    normals = np.zeros((len(faces), 3, 3))
    limit = np.cos(np.deg2rad(SMOOTH_ANGLE_DEG))
    for corner in range(3):
        around = mesh.vertex_faces[faces[:, corner]]  # (F, K), padded with -1
        near = (around >= 0) & (np.einsum("fkj,fj->fk", face_normals[around], face_normals) > limit)
        weights = near * mesh.area_faces[around]
        normals[:, corner] = (face_normals[around] * weights[..., None]).sum(1)
    return normals / (np.linalg.norm(normals, axis=2, keepdims=True) + 1e-12)


def cluster_vertices(mesh: Trimesh, cell: float) -> Trimesh:
    """Low-poly version: snaps vertices to the mean of their grid cell of side `cell`, drops collapsed faces."""
    if mesh.extents.min() < cell / 2:  # both sides of a thin part would collapse into one
        return mesh
    volume = abs(mesh.volume)
    if volume > 0.4 * mesh.convex_hull.volume:  # solid, not a shell: a cell as wide as the part keeps legs and handles
        cell = min(cell, 4 * volume / mesh.area)
    cells = np.floor(mesh.vertices / cell).astype(int)
    _, index = np.unique(cells, axis=0, return_inverse=True)
    index = index.reshape(-1)
    sums = np.zeros((index.max() + 1, 3))
    np.add.at(sums, index, mesh.vertices)
    means = sums / np.bincount(index)[:, None]
    faces = index[mesh.faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    return Trimesh(means, faces[distinct], process=False)


def pack(meshes: Sequence[Trimesh], faceted: bool = False) -> PackedMesh:
    """Merges meshes into one array of triangles with normals and box-projected texture coordinates.

    Args:
        meshes: at least one mesh.
        faceted: use face normals, so that each triangle shows.
    """
    vertices, normals, uvs = [], [], []
    for mesh in meshes:
        mesh = Trimesh(mesh.vertices, mesh.faces, process=True)
        triangles = mesh.vertices[mesh.faces]
        corner_normals = np.repeat(mesh.face_normals[:, None], 3, 1) if faceted else _smooth_normals(mesh)
        # each face takes the two axes it faces least, as if textured from six sides
        dominant = np.abs(mesh.face_normals).argmax(1)
        axes = np.array([[1, 2], [0, 2], [0, 1]])[dominant]
        uv = np.take_along_axis(triangles, np.repeat(axes[:, None], 3, 1), 2)
        vertices.append(triangles.reshape(-1, 3))
        normals.append(corner_normals.reshape(-1, 3))
        uvs.append(uv.reshape(-1, 2))
    return PackedMesh(*(np.concatenate(rows).astype(np.float32) for rows in (vertices, normals, uvs)))
