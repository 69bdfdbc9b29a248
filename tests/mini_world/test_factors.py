"""Factor labels follow the rules stated in `factors`."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mini_world.build import scene_columns
from mini_world.factors import RULES, factor_labels, illumination, pose_deviation
from mini_world.scene import Scene, add_neighbors, add_occluder, crop_partially

BASE = Scene("mug", "terrazzo", "studio")


def frame_of(*scenes: Scene) -> pd.DataFrame:
    return pd.DataFrame([scene_columns(scene) for scene in scenes])


def changed(**change) -> Scene:
    return dataclasses.replace(BASE, **change)


def test_pose_deviation_is_the_angle_as_seen():
    turned = changed(object_yaw=30.0), changed(object_yaw=30.0, camera_yaw=30.0)  # the second with the camera
    frame = frame_of(BASE, *turned, changed(object_yaw=30.0, mirrored=True), changed(camera_roll=-20.0))
    assert list(pose_deviation(frame)) == pytest.approx([0, 30, 0, 30, 20], abs=1e-4)
    assert pose_deviation(frame_of(changed(camera_pitch=40.0)))[0] == pytest.approx(25, abs=1e-4)


def test_night_is_darker_than_a_studio():
    dark, light = illumination(frame_of(changed(background="night"), BASE))
    assert dark < 0.6 * light


def test_structural_and_categorical_rules():
    rng = np.random.default_rng(0)
    scenes = {
        "multiple_objects": add_neighbors(rng, BASE, 1), "object_blocking": add_occluder(rng, BASE),
        "partial_view": crop_partially(rng, BASE), "style": changed(rendition="toon"),
        "color": changed(material="plain"), "pattern": changed(material="tiger"), "texture": changed(material="oak"),
        "background": changed(background="snow"),
    }  # fmt: skip
    frame = frame_of(BASE, *scenes.values())
    for k, name in enumerate(scenes, start=1):
        assert [i for i, score in enumerate(RULES[name](frame)) if score >= 0.9] == [k]


def test_labels_have_the_stated_columns_and_shares():
    pytest.importorskip("trimesh", reason="the mesh library (extra `world`) is not installed")
    rng = np.random.default_rng(0)
    frame = frame_of(*(changed(scale=0.7 + 0.001 * i, instance_seed=int(rng.integers(99))) for i in range(50)))
    labels = factor_labels(frame)
    assert list(labels) == [f"x_{name}" for name in RULES] + ["x_top"]
    assert labels["x_larger"].sum() == labels["x_smaller"].sum() == 5
    typical = ~labels.filter(regex="^x_(?!top$)").any(axis=1)
    assert typical.any() and (labels["x_top"][typical] == "").all()
    assert all(labels.at[i, f"x_{labels.at[i, 'x_top']}"] == 1 for i in labels.index[~typical])
