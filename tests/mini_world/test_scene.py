"""Scenes are a function of their Generator, and stay inside the stated ranges."""

import numpy as np
import pytest

from mini_world.classes import CLASSES
from mini_world.materials import MATERIALS, PLAIN, SIGNATURE
from mini_world.scene import BLOCK, HARD, NARROW, add_neighbors, add_occluder, crop_partially, sample_scene


def test_same_seed_gives_the_same_scene():
    first, again, other = (sample_scene(np.random.default_rng([3, seed])) for seed in (4, 4, 5))
    assert first == again != other


def test_narrow_sampling_leaves_room_for_the_sweeps():
    scenes = [sample_scene(np.random.default_rng([1, i])) for i in range(500)]
    assert max(abs(s.object_yaw - s.camera_yaw) for s in scenes) <= 42
    assert max(abs(s.camera_roll) for s in scenes) <= 8
    assert 0.68 <= min(s.scale for s in scenes) and max(s.scale for s in scenes) <= 1.07
    assert 0.69 <= min(s.light_intensity for s in scenes) and max(s.light_intensity for s in scenes) <= 1.44


def test_material_shares():
    scenes = [sample_scene(np.random.default_rng([2, i])) for i in range(2000)]
    own, plain = np.mean([(s.material == SIGNATURE[s.class_name], s.material == PLAIN) for s in scenes], axis=0)
    assert own == pytest.approx(0.60 + 0.25 / 16, abs=0.03) and plain == pytest.approx(0.15, abs=0.03)


def test_every_class_has_its_own_signature():
    assert set(SIGNATURE) == set(CLASSES) and sorted(SIGNATURE.values()) == sorted(MATERIALS)


@pytest.mark.parametrize("count", [1, 2])
def test_neighbors_are_of_distinct_other_classes(count):
    rng = np.random.default_rng(0)
    scene = add_neighbors(rng, sample_scene(rng, HARD), count)
    names = [scene.class_name, *(prop.class_name for prop in scene.props)]
    assert len(set(names)) == count + 1 == scene.count


def test_an_occluder_is_no_object_and_a_crop_moves_the_object():
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, NARROW)
    blocked = add_occluder(rng, scene)
    assert blocked.count == 1 and blocked.props[0].class_name == BLOCK
    cropped = crop_partially(rng, scene)
    assert max(abs(cropped.dx), abs(cropped.dy)) >= 0.6
