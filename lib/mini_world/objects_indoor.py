"""Eight parametric indoor objects. Each builder draws an instance from a Generator; see `objects.py`."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .shapes import arc, box, cylinder, loft, revolve, rotate, tube


def bottle(rng: Generator) -> tuple:
    """Body, shoulder and neck in one profile, with a dark cap."""
    radius, body, neck = rng.uniform(0.2, 0.34), rng.uniform(0.7, 1.0), rng.uniform(0.25, 0.45)
    neck_radius, shoulder = radius * rng.uniform(0.28, 0.45), rng.uniform(0.1, 0.3)
    waist = radius * rng.uniform(0.85, 1)
    top = body + shoulder + neck
    profile = [(0, 0), (radius * 0.9, 0), (radius, 0.05), (waist, body * 0.5), (radius, body)]
    for angle in np.linspace(0.3, np.pi, 7):
        blend = 0.5 + 0.5 * np.cos(angle)
        profile.append((neck_radius + (radius - neck_radius) * blend, body + shoulder * angle / np.pi))
    profile += [(neck_radius, top), (neck_radius * 1.2, top), (neck_radius * 1.2, top + 0.06), (0, top + 0.06)]
    return [revolve(profile)], [cylinder(neck_radius * 1.25, [0, 0, top + 0.05], [0, 0, top + 0.17])], []


def chair(rng: Generator) -> tuple:
    """Seat, four legs, and a solid or slatted back on the -x side; sometimes arm rests."""
    half, seat, back = rng.uniform(0.38, 0.5), rng.uniform(0.5, 0.65), rng.uniform(0.55, 0.9)
    thick, splay, style = rng.uniform(0.035, 0.065), rng.uniform(0, 0.1), rng.integers(3)
    inset = half - thick
    main = [box([2 * half, 2 * half, thick * 1.6], (0, 0, seat))]
    for x in (1, -1):
        for y in (1, -1):
            foot = [x * (inset + splay), y * (inset + splay), 0]
            main.append(cylinder(thick, [x * inset, y * inset, seat], foot, 10))
    if style == 0:
        main.append(box([thick * 1.3, 2 * half, back * 0.7], (-inset, 0, seat + back * 0.65)))
    else:
        main.append(box([thick * 1.3, 2 * half, thick * 3], (-inset, 0, seat + back)))
        for y in np.linspace(-inset, inset, 5 if style == 1 else 3):
            main.append(cylinder(thick * 0.7, [-inset, y, seat], [-inset, y, seat + back], 8))
    for side in (1, -1):
        main.append(cylinder(thick, [-inset, side * inset, seat], [-inset, side * inset, seat + back], 10))
    if rng.random() < 0.35:
        for y in (inset, -inset):
            main.append(box([2 * half * 0.9, thick * 2, thick * 1.5], (-0.04, y, seat + 0.3)))
            main.append(cylinder(thick, [inset * 0.7, y, seat], [inset * 0.7, y, seat + 0.3], 8))
    return main, [], []


def guitar(rng: Generator) -> tuple:
    """An upright acoustic guitar; its face looks along +x."""
    lower, waist, thick = rng.uniform(0.34, 0.42), rng.uniform(0.2, 0.27), rng.uniform(0.1, 0.17)
    upper = lower * rng.uniform(0.68, 0.85)
    knots = [-1, -0.95, -0.85, -0.65, -0.45, -0.28, -0.1, 0.05, 0.14, 0.18]
    widths = [0.02, lower * 0.6, lower * 0.92, lower, lower * 0.85, waist, upper * 0.9, upper, upper * 0.7, 0.05]
    x = np.linspace(-1, 0.18, 26)
    width = np.convolve(np.pad(np.interp(x, knots, widths), 2, "edge"), [0.1, 0.2, 0.4, 0.2, 0.1], "valid")
    half = thick / 2
    body = loft([[(a, w, half), (a, -w, half), (a, -w, -half), (a, w, -half)] for a, w in zip(x, width, strict=True)])
    neck = rng.uniform(0.75, 0.95)
    main = [body, box([0.25, 0.15, 0.05], (0.2 + neck, 0, half))]
    dark = [
        box([neck, 0.085, 0.06], (0.15 + neck / 2, 0, half + 0.01)),
        cylinder(0.1, [-0.2, 0, half - 0.01], [-0.2, 0, half + 0.006], 24),
        box([0.05, 0.3, 0.03], (-0.62, 0, half + 0.015)),
    ]
    for peg in (0, 0.1):
        dark.append(cylinder(0.022, [0.24 + neck + peg, -0.13, half], [0.24 + neck + peg, 0.13, half], 8))
    lean = rng.uniform(-0.1, 0.1)
    for mesh in main + dark:
        rotate(mesh, lean, [0, 0, 1])
        rotate(mesh, -np.pi / 2, [0, 1, 0])
        rotate(mesh, np.pi, [0, 0, 1])
    return main, dark, []


def hammer(rng: Generator) -> tuple:
    """An upright hammer: handle with a dark grip, a head along x, with a claw or a second face."""
    length, radius, head = rng.uniform(0.9, 1.2), rng.uniform(0.06, 0.08), rng.uniform(0.1, 0.13)
    shaft = [[0, 0, 0], [0, 0, length * 0.3], [0, 0, length * 0.6], [0, 0, length]]
    main = [tube(shaft, np.array([1.25, 1.1, 0.85, 1]) * radius)]
    main += [
        cylinder(head, [0.12, 0, length], [rng.uniform(0.28, 0.38), 0, length]),
        cylinder(head * 0.75, [-0.12, 0, length], [0.15, 0, length]),
        box([0.2, head * 1.5, head * 1.7], (0, 0, length)),
    ]
    if rng.random() < 0.7:
        claw = [(-0.05, 0.04, 0.02), (-0.22, 0.06, 0.01), (-0.38, 0.08, -0.06), (-0.48, 0.09, -0.17)]
        for side in (1, -1):
            main.append(tube([[x, side * y, length + z] for x, y, z in claw], [0.07, 0.05, 0.035, 0.012]))
    else:
        main.append(cylinder(head, [-0.12, 0, length], [-0.34, 0, length]))
    return main, [cylinder(radius * 1.35, [0, 0, -0.01], [0, 0, length * 0.32])], []


def lamp(rng: Generator) -> tuple:
    """A table lamp: one of three bases and an open conical shade."""
    height, base, narrow = rng.uniform(0.7, 1.2), rng.uniform(0.22, 0.34), rng.uniform(0.2, 0.32)
    wide, shade, style = narrow + rng.uniform(0.1, 0.28), rng.uniform(0.35, 0.55), rng.integers(3)
    pole = height + shade * 0.4
    if style == 0:
        main = [cylinder(base, [0, 0, 0], [0, 0, 0.06], 28), cylinder(0.035, [0, 0, 0], [0, 0, pole])]
    elif style == 1:
        profile = [(0, 0), (base * 0.7, 0), (base, height * 0.25), (base * 0.8, height * 0.5)]
        main = [revolve([*profile, (0.05, height * 0.8), (0.03, pole), (0, pole)])]
    else:
        profile = [(0, 0), (base, 0), (base * 0.4, 0.1), (0.06, 0.2), (0.1, height * 0.4)]
        main = [revolve([*profile, (0.05, height * 0.6), (0.03, pole), (0, pole)])]
    top = height + shade
    rim = [(wide, height), (narrow, top), (narrow - 0.015, top), (wide - 0.015, height), (wide, height)]
    return [*main, revolve(rim, 32)], [], []


def mug(rng: Generator) -> tuple:
    """A hollow cup with a handle on the +y side."""
    radius, height, wall = rng.uniform(0.38, 0.5), rng.uniform(0.75, 1.1), 0.05
    taper = rng.uniform(0.85, 1.1)
    profile = [(0, 0), (radius * 0.92 * taper, 0), (radius * taper, 0.06), (radius, height)]
    profile += [(radius - wall, height), (radius * taper - wall, 0.09), (0, 0.08)]
    reach, thick, stretch = rng.uniform(0.26, 0.36), rng.uniform(0.055, 0.08), rng.uniform(0.9, 1.1)
    center = (radius * (1 + taper) / 2 - 0.05, 0, height * 0.5)
    handle = tube(arc(center, reach, reach * stretch, -1.49, 1.49, 14), thick)
    rotate(handle, np.pi / 2, [0, 0, 1])
    return [revolve(profile, 32), handle], [], []


def table(rng: Generator) -> tuple:
    """A round or rectangular top on four legs or on a central column."""
    height, thick = rng.uniform(0.55, 0.8), rng.uniform(0.05, 0.1)
    is_round = rng.random() < 0.4
    if is_round:
        radius = rng.uniform(0.65, 0.85)
        main = [cylinder(radius, [0, 0, height], [0, 0, height + thick], 40)]
        width = depth = radius * 0.62
    else:
        width, depth = rng.uniform(0.5, 0.65), rng.uniform(0.65, 0.9)
        main = [box([2 * width, 2 * depth, thick], (0, 0, height + thick / 2))]
        width, depth = width - 0.08, depth - 0.08
    if is_round and rng.random() < 0.5:
        main.append(cylinder(0.09, [0, 0, 0], [0, 0, height], 16))
        main.append(cylinder(radius * 0.5, [0, 0, 0], [0, 0, 0.06], 28))
    else:
        leg = rng.uniform(0.045, 0.08)
        for x in (width, -width):
            for y in (depth, -depth):
                main.append(cylinder(leg, [x, y, height], [x * 1.03, y * 1.03, 0], 12))
    return main, [], []


def teapot(rng: Generator) -> tuple:
    """Round body with a lid; the spout is on the +y side and the handle on the -y side."""
    radius, height = rng.uniform(0.5, 0.6), rng.uniform(0.6, 0.9)
    angle = np.linspace(-1.25, 1.2, 14)
    side = np.c_[radius * np.cos(angle), height * (0.5 + 0.5 * np.sin(angle))]
    body = revolve(np.vstack([[0, height * (0.5 + 0.5 * np.sin(-1.3))], side, [0, height * 0.98]]), 32)
    lid = np.array([(0, 0.93), (0.42, 0.94), (0.35, 1.02), (0, 1.1), (0, 1.14), (0, 1.2), (0, 1.27), (0, 1.28)])
    lid = lid * [radius, height]
    lid[3:7, 0] = (0.05, 0.04, 0.075, 0.05)  # the knob keeps its size whatever the body's
    reach = rng.uniform(0.4, 0.58)
    path = [(0, radius * 0.7, height * 0.3), (0, radius + 0.08, height * 0.42)]
    path += [(0, radius + reach * 0.6, height * 0.68), (0, radius + reach * 0.85, height * 0.98)]
    spout = tube(path, [0.17, 0.13, 0.085, 0.06], 14)
    rise = height * rng.uniform(0.3, 0.38)
    handle = tube(
        arc((radius * 0.82, 0, height * 0.52), rng.uniform(0.34, 0.46), rise, -np.pi / 2, np.pi / 2, 14), 0.06
    )
    rotate(handle, -np.pi / 2, [0, 0, 1])
    return [body, revolve(lid, 24), spout, handle], [], []
