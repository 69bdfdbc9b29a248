"""ImageNet-X-like factor labels of `world_val`: how each image departs from its class's prototype.

The prototype of a class is what the narrow sampling centres on: canonical pose, median size and light, the signature
material, an ordinary place, one whole object in a photo. Quantiles are taken over all of `world_val`, `shape`'s within
the class. Every rule is in `RULES`, in words and in code.

====================  ==============================================================================================
column                1 when
====================  ==============================================================================================
x_pose                angle between the object's orientation as the camera sees it and the canonical one: top 10 %
x_background          an unlikely place: outdoor classes in a kitchen or living room, indoor classes in snow or desert
x_pattern             material of another class with a pattern (stripes, checks, dots, patches, ...)
x_color               plain material, whose colour is random
x_texture             material of another class without a regular pattern (metal, stone, wood, ...)
x_smaller, x_larger   scale: bottom 10 %, top 10 %
x_darker, x_brighter  illumination (light intensity x the background's ambient and sun light): bottom and top 10 %
x_shape               bounding-box proportions of the instance: distance from the class median, top 10 % of the class
x_partial_view        the object's centre lies beyond half the way to an image border
x_style               a rendition instead of a photo
x_object_blocking     an occluding block in front
x_multiple_objects    a second object
====================  ==============================================================================================

`x_top` is the factor with the highest deviation score among those that the image has, empty if it has none: 2 for the
last four when present, since they never occur in the prototype; the quantile rank in [0, 1] for pose, size, light and
shape; 0.9 for an unlikely place or material.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .backgrounds import BACKGROUNDS
from .materials import PLAIN, SIGNATURE
from .scene import rotation

QUANTILE = 0.10
CATEGORICAL_SCORE = 1 - QUANTILE  # an unlikely place or material counts like the threshold of a quantile factor
STRUCTURAL_SCORE = 2.0
PATTERNED = ("stripes", "checker", "giraffe", "tiger", "brick", "tartan", "dots", "delft", "rainbow")
OUTDOOR_CLASSES = ("airplane", "boat", "car", "dog", "house", "mushroom", "tree", "umbrella")
UNLIKELY_OUTDOOR_CLASS = ("kitchen", "living_room")
UNLIKELY_INDOOR_CLASS = ("snow", "desert")


def pose_deviation(frame: pd.DataFrame) -> NDArray[np.float64]:
    """(N,) degrees between each object's orientation in the camera's frame and the canonical view's."""
    angles = []
    for row in frame.itertuples():
        turn = rotation(row.object_yaw, row.object_pitch, row.object_roll)
        if row.mirrored:  # a reflection in the x-z plane reverses yaw and roll
            turn = rotation(-row.object_yaw, row.object_pitch, -row.object_roll)
        seen = rotation(0, 15.0 - row.camera_pitch, row.camera_roll) @ rotation(-row.camera_yaw, 0, 0) @ turn
        angles.append(np.degrees(np.arccos(np.clip((np.trace(seen) - 1) / 2, -1, 1))))
    return np.array(angles)


def illumination(frame: pd.DataFrame) -> NDArray[np.float64]:
    """(N,) light that leaves a white horizontal surface: intensity x (ambient + sun x sin(elevation) / pi)."""
    ambient = frame.background.map(lambda name: BACKGROUNDS[name].ambient)
    sun = frame.background.map(lambda name: BACKGROUNDS[name].sun)
    return (frame.light_intensity * (ambient + sun * np.sin(np.deg2rad(frame.light_elevation)) / np.pi)).to_numpy()


def shape_deviation(frame: pd.DataFrame) -> NDArray[np.float64]:
    """(N,) distance of an instance's log bounding-box proportions from its class's median ones."""
    from .objects import build_object  # needs the mesh library

    extents = []
    for row in frame.itertuples():
        parts = build_object(row.class_name, np.random.default_rng([row.instance_seed, 1]))
        points = np.vstack([part.vertices for part in parts.values()])
        extents.append(np.log(points.max(0) - points.min(0)))
    extents = np.array(extents)
    deviation = np.zeros(len(frame))
    for name in frame.class_name.unique():
        member = (frame.class_name == name).to_numpy()
        deviation[member] = np.linalg.norm(extents[member] - np.median(extents[member], axis=0), axis=1)
    return deviation


def _rank(values: NDArray) -> NDArray[np.float64]:
    """(N,) quantile rank in [0, 1]; ties share their mean rank."""
    return (pd.Series(values).rank().to_numpy() - 1) / max(len(values) - 1, 1)


def _class_rank(values: NDArray, frame: pd.DataFrame) -> NDArray[np.float64]:
    """(N,) quantile rank within the class."""
    ranks = np.zeros(len(frame))
    for name in frame.class_name.unique():
        member = (frame.class_name == name).to_numpy()
        ranks[member] = _rank(values[member])
    return ranks


def _unlikely_place(frame: pd.DataFrame) -> NDArray[np.bool_]:
    outdoor = frame.class_name.isin(OUTDOOR_CLASSES)
    indoors, wild = frame.background.isin(UNLIKELY_OUTDOOR_CLASS), frame.background.isin(UNLIKELY_INDOOR_CLASS)
    return np.where(outdoor, indoors, wild)


def _foreign(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Material of another class."""
    return ((frame.material != PLAIN) & (frame.material != frame.class_name.map(SIGNATURE))).to_numpy()


def _cut_off(frame: pd.DataFrame) -> NDArray[np.bool_]:
    # several objects move the main one aside without cutting it off
    return ((np.maximum(frame.dx.abs(), frame.dy.abs()) > 0.5) & (frame["count"] == 1)).to_numpy()


# Factor -> deviation score per image; a factor is present where its score reaches 1 - QUANTILE.
RULES: dict[str, Callable[[pd.DataFrame], NDArray]] = {
    "pose": lambda frame: _rank(pose_deviation(frame)),
    "background": lambda frame: _unlikely_place(frame) * CATEGORICAL_SCORE,
    "pattern": lambda frame: (_foreign(frame) & frame.material.isin(PATTERNED).to_numpy()) * CATEGORICAL_SCORE,
    "color": lambda frame: (frame.material == PLAIN).to_numpy() * CATEGORICAL_SCORE,
    "texture": lambda frame: (_foreign(frame) & ~frame.material.isin(PATTERNED).to_numpy()) * CATEGORICAL_SCORE,
    "smaller": lambda frame: 1 - _rank(frame.scale.to_numpy()),
    "larger": lambda frame: _rank(frame.scale.to_numpy()),
    "darker": lambda frame: 1 - _rank(illumination(frame)),
    "brighter": lambda frame: _rank(illumination(frame)),
    "shape": lambda frame: _class_rank(shape_deviation(frame), frame),
    "partial_view": lambda frame: _cut_off(frame) * STRUCTURAL_SCORE,
    "style": lambda frame: (frame.rendition != "photo").to_numpy() * STRUCTURAL_SCORE,
    "object_blocking": lambda frame: frame.props.str.contains('"block"').to_numpy() * STRUCTURAL_SCORE,
    "multiple_objects": lambda frame: (frame["count"] > 1).to_numpy() * STRUCTURAL_SCORE,
}


def factor_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Factor columns for the rows of `world_val`.

    Args:
        frame: metadata of the whole set (quantiles are taken over it).

    Returns:
        `x_<factor>` int8 for every rule, and `x_top` str ("" for an image without factors), in the rows of `frame`.
    """
    scores = pd.DataFrame({name: rule(frame) for name, rule in RULES.items()}, index=frame.index)
    labels = (scores >= CATEGORICAL_SCORE).astype("int8").add_prefix("x_")
    labels["x_top"] = scores.idxmax(axis=1).where(labels.any(axis=1), "")
    return labels
