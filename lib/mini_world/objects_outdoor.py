"""Eight parametric outdoor objects. Each builder draws an instance from a Generator; see `objects.py`."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.random import Generator

from .shapes import arc, box, cylinder, hull, loft, mirrored_hull, prism, revolve, rotate, sphere, tube, wing


def airplane(rng: Generator) -> tuple:
    """Fuselage, swept wings, tail and, often, two engines; the nose points along +x."""
    half = rng.uniform(0.9, 1.15)
    radius = rng.uniform(0.12, 0.17)
    x = np.linspace(0, 1, 14)
    taper = np.minimum(np.sqrt(x / 0.18), 1 - 0.85 * (np.clip(x - 0.6, 0, 1) / 0.4) ** 1.3)
    profile = np.c_[radius * np.clip(taper, 0.02, 1), (x - 0.5) * 2 * half]
    fuselage = revolve(np.vstack([[0, -half], profile, [0, half]]), 20)
    rotate(rotate(fuselage, np.pi / 2, [0, 1, 0]), np.pi, [0, 0, 1])
    sweep, span, chord = rng.uniform(0.15, 0.5), rng.uniform(0.75, 1.05), rng.uniform(0.32, 0.46)
    height, rise, tail = rng.uniform(-0.06, 0.08), rng.uniform(0, 0.1), rng.uniform(0.3, 0.44)
    main = [fuselage]
    for side in (1, -1):
        tip = (0.25 - sweep, 0.25 - sweep - chord * 0.45, side * span, height + rise)
        main.append(wing((0.25, 0.25 - chord, 0, height), tip, 0.03))
        main.append(wing((-0.68 * half, -0.95 * half, 0, 0.05), (-0.82 * half, -0.98 * half, side * tail, 0.08), 0.02))
    fin = [(-0.62, 0.015, 0.05), (-0.97, 0.015, 0.05), (-0.85, 0.01, 0.48), (-1.02, 0.01, 0.48)]
    main.append(mirrored_hull([(a * half, y, z) for a, y, z in fin]))
    if rng.random() < 0.7:
        front, y, z = 0.3 - sweep * 0.4, span * 0.4, height - 0.09
        for side in (1, -1):
            main.append(cylinder(0.07, [front, side * y, z], [front - 0.32, side * y, z], 14))
    dark = [sphere(radius * 0.7, (half * 0.62, 0, radius * 0.55), (1.6, 0.9, 0.6), 2)]
    return main, dark, []


def boat(rng: Generator) -> tuple:
    """Hull with either sails on a mast or a cabin with a funnel; the bow points along +x."""
    half, width, height = rng.uniform(0.9, 1.1), rng.uniform(0.28, 0.4), rng.uniform(0.25, 0.38)
    outline = np.array([(-1, 1), (-0.93, 0.45), (-0.6, 0), (0, -0.05), (0.6, 0), (0.93, 0.45), (1, 1)])
    sections = []
    for x in np.linspace(-1, 1, 16):
        bow = max(0.0, x)
        beam = width * (1 - bow**2.2) * (1 if x > -0.8 else 0.92) + 0.004
        y, z = outline[:, 0] * beam, outline[:, 1] * height
        z = z + height * 0.15 * bow**2 * (outline[:, 1] > 0.9) + 0.3 * height * max(0.0, x - 0.4) * (z < 0.1)
        sections.append(np.c_[np.full(7, x * half), y, z])
    main, dark, light = [loft(sections)], [], []
    if rng.random() < 0.6:
        mast, x = rng.uniform(1.0, 1.5), rng.uniform(-0.05, 0.2)
        dark.append(cylinder(0.03, [x, 0, height * 0.8], [x, 0, height + mast]))
        aft = [(x - 0.04, height + 0.12), (x - 0.75 * half, height + 0.14), (x - 0.04, height + mast * 0.95)]
        light.append(prism(aft, 0.02))
        if rng.random() < 0.7:
            fore = [(x + 0.05, height + 0.15), (half * 0.9, height + 0.15), (x + 0.05, height + mast * 0.8)]
            light.append(prism(fore, 0.02))
    else:
        x = rng.uniform(-0.3, 0.0)
        main.append(box([rng.uniform(0.5, 0.8), width * 1.2, 0.3], (x, 0, height + 0.14)))
        dark.append(box([0.35, width * 1.22, 0.1], (x + 0.05, 0, height + 0.2)))
        top = height + rng.uniform(0.45, 0.65)
        main.append(cylinder(0.08, [x - 0.15, 0, height + 0.25], [x - 0.15, 0, top]))
    return main, dark, light


def car(rng: Generator) -> tuple:
    """Body, cabin, four wheels, windows and headlights; the front points along +x."""
    half, height, width = rng.uniform(0.9, 1.1), rng.uniform(0.2, 0.28), rng.uniform(0.36, 0.45)
    cabin, front, rear = rng.uniform(0.22, 0.34), rng.uniform(0.25, 0.5), rng.uniform(-0.85, -0.5)
    side_view = [(-half, 0.02), (half, 0.02), (half, height * 0.75), (half * 0.9, height)]
    side_view += [(-half * 0.95, height * 1.05), (-half, height * 0.8)]
    roof = height + cabin
    corners = [(rear - 0.12, width * 0.98, height), (front + 0.15, width * 0.98, height)]
    corners += [(rear + 0.05, width * 0.8, roof), (front - 0.12, width * 0.8, roof)]
    main = [prism(side_view, width * 2), mirrored_hull(corners)]
    wheel = rng.uniform(0.17, 0.22)
    dark = []
    for x in (-0.58 * half, 0.6 * half):
        for side in (1, -1):
            dark.append(cylinder(wheel, [x, side * (width - 0.09), 0.03], [x, side * (width + 0.03), 0.03], 22))
    pane_top = height + cabin * 0.85
    pane = [(rear - 0.02, width, height + 0.03), (front + 0.03, width, height + 0.03)]
    pane += [(rear + 0.08, width * 0.86, pane_top), (front - 0.13, width * 0.86, pane_top)]
    shield = [(front + 0.16, height + 0.03), (front - 0.06, height + cabin * 0.92), (front - 0.2, height + cabin * 0.8)]
    dark += [mirrored_hull(pane), mirrored_hull([(x, width * 0.75, z) for x, z in shield])]
    light = [box([0.04, 0.14, 0.07], (half * 0.99, side * width * 0.65, height * 0.6)) for side in (1, -1)]
    return main, dark, light


def dog(rng: Generator) -> tuple:
    """Body, four legs, head with snout and ears, tail; the head points along +x."""
    half, radius, leg = rng.uniform(0.4, 0.55), rng.uniform(0.17, 0.24), rng.uniform(0.35, 0.6)
    z = leg + radius * 0.5
    body = trimesh.creation.capsule(height=2 * half * 0.8, radius=radius, count=[16, 12])
    rotate(body, np.pi / 2, [0, 1, 0])
    body.apply_translation([-body.bounds[:, 0].mean(), 0, z - body.bounds[:, 2].mean()])
    main = [body]
    for x in (half * 0.75, -half * 0.75):
        for side in (1, -1):
            y = side * radius * 0.65
            path = [[x, y, z], [x - 0.04, y, leg * 0.5], [x, y, 0.04], [x + 0.1, y, 0.03]]
            main.append(tube(path, [0.1, 0.065, 0.055, 0.05]))
    head_x, head_z, head = half + 0.15, z + rng.uniform(0.28, 0.42), rng.uniform(0.16, 0.21)
    snout = rng.uniform(0.12, 0.28)
    main += [
        tube([[half * 0.6, 0, z + 0.02], [head_x, 0, head_z]], [radius * 0.7, head * 0.75]),
        sphere(head, (head_x, 0, head_z), (1.1, 0.95, 1)),
        tube([[head_x, 0, head_z - 0.03], [head_x + head + snout, 0, head_z - 0.07]], [head * 0.65, head * 0.38]),
    ]
    ear_z = head_z + (head * 0.75 if rng.random() < 0.5 else 0.02)
    for side in (1, -1):
        ear = sphere(head * 0.5, stretch=(0.5, 0.35, 1.3), subdivisions=2)
        ear.apply_translation((head_x - 0.05, side * head * 0.85, ear_z))
        main.append(ear)
    lift = rng.uniform(0.15, 0.3)
    tail = [
        [-half - 0.02, 0, z + 0.08],
        [-half - 0.2, 0, z + lift],
        [-half - 0.3, 0, z + lift + rng.uniform(0.05, 0.2)],
    ]
    main.append(tube(tail, [0.055, 0.045, 0.025]))
    dark = [sphere(0.05, (head_x + head + snout, 0, head_z - 0.03), subdivisions=2)]
    dark += [
        sphere(0.035, (head_x + head * 0.85, side * head * 0.45, head_z + 0.06), subdivisions=2) for side in (1, -1)
    ]
    return main, dark, []


def house(rng: Generator) -> tuple:
    """Walls with a gabled roof, chimney, windows and a door on the +x side."""
    width, depth, height = rng.uniform(0.45, 0.65), rng.uniform(0.4, 0.65), rng.uniform(0.35, 0.75)
    gable, eaves, thickness = rng.uniform(0.25, 0.5), 0.07, 0.05
    ridge = height + gable
    main = [box([2 * depth, 2 * width, height], (0, 0, height / 2))]
    main.append(prism([(-width, height), (width, height), (0, ridge)], 2 * depth, "x"))
    edge = height - eaves * gable / width
    slope = [(0, ridge), (0, ridge + thickness), (width + eaves, edge), (width + eaves, edge + thickness)]
    ends = (depth + eaves, -depth - eaves)
    dark = [hull([(x, side * y, z) for x in ends for y, z in slope]) for side in (1, -1)]
    main.append(box([0.13, 0.13, 0.4], (-depth * 0.4, width * 0.45, height + gable * 0.75)))
    light = [box([0.02, 0.2, height * 0.55], (depth, rng.uniform(-0.15, 0.15), height * 0.275))]
    for y in (-width * 0.6, width * 0.6):
        dark.append(box([0.02, 0.18, 0.18], (depth, y, height * 0.62)))
    for x in (-depth * 0.5, depth * 0.5):
        for side in (1, -1):
            dark.append(box([0.18, 0.02, 0.18], (x, side * width, height * 0.62)))
    return main, dark, light


def mushroom(rng: Generator) -> tuple:
    """A cap (main part) on a pale stem."""
    radius, height = rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.9)
    stem, cap = rng.uniform(0.12, 0.2), rng.uniform(0.3, 0.6)
    angle = np.linspace(0, np.pi / 2, 10)
    dome = np.c_[radius * np.cos(angle), height + cap * np.sin(angle)]
    main = [revolve(np.vstack([[stem * 0.8, height - 0.02], [radius * 0.95, height - 0.07], dome]), 32)]
    profile = [(0, 0), (stem * 1.35, 0), (stem * 1.2, height * 0.2), (stem * 0.9, height * 0.6)]
    light = [revolve([*profile, (stem * 0.95, height + 0.05), (0, height + 0.05)], 24)]
    return main, [], light


def tree(rng: Generator) -> tuple:
    """A conifer of stacked cones or a broad-leaved tree of blobs, on a dark trunk."""
    trunk = rng.uniform(0.35, 0.6)
    main = []
    dark = [tube([[0, 0, 0], [0, 0, trunk], [0, 0, trunk * 2]], [rng.uniform(0.1, 0.15), 0.08, 0.05])]
    if rng.random() < 0.45:
        z, radius = trunk * 0.8, rng.uniform(0.45, 0.65)
        for _ in range(rng.integers(2, 5)):
            height = rng.uniform(0.5, 0.65)
            cone = trimesh.creation.cone(radius=radius, height=height, sections=20)
            cone.apply_translation([0, 0, z])
            main.append(cone)
            z, radius = z + height * 0.5, radius * 0.78
    else:
        for _ in range(rng.integers(5, 10)):
            offset = rng.normal(0, 0.22, 3) * [1, 1, 0.8]
            blob = sphere(rng.uniform(0.22, 0.4), offset + [0, 0, trunk * 1.6 + 0.3], subdivisions=2)
            blob.vertices += rng.normal(0, 0.02, blob.vertices.shape)
            main.append(blob)
    return main, dark, []


def umbrella(rng: Generator) -> tuple:
    """Scalloped canopy (main part) on a dark pole with a hooked handle."""
    ribs, radius = rng.integers(6, 10), rng.uniform(0.75, 1.0)
    dome, height = rng.uniform(0.25, 0.5), rng.uniform(0.9, 1.2)
    around, rings = ribs * 6, 8
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False)
    scallop = np.abs(np.sin(angle * ribs / 2))
    vertices, faces = [], []
    for layer, drop in ((0, 0.0), (1, 0.02)):  # two skins, so that the canopy is seen from below as well
        start = layer * (rings + 1) * around
        for i in range(rings + 1):
            f = i / rings
            r = radius * f * (1 - 0.1 * f * f * scallop) + 1e-4
            z = height + dome * (1 - f**2) - drop + 0.06 * f * f * scallop
            vertices.append(np.c_[r * np.cos(angle), r * np.sin(angle), z])
        for i in range(rings):
            for j in range(around):
                a, b = start + i * around + j, start + i * around + (j + 1) % around
                quad = [[a, a + around, b + around], [a, b + around, b]]
                faces += [face[::-1] for face in quad] if layer else quad
    main = [trimesh.Trimesh(np.vstack(vertices), faces, process=False)]
    dark = [cylinder(0.03, [0, 0, 0.1], [0, 0, height + dome + 0.1], 10)]
    if rng.random() < 0.75:
        dark.append(tube(arc((0.1, 0, 0.12), 0.1, 0.1, -np.pi, 0, 10), 0.035))
    lean = rng.uniform(-0.3, 0.3)
    for mesh in main + dark:
        rotate(mesh, lean, [0, 1, 0])
    return main, dark, []
