"""The contracts of the sets: counts, labels, clusters, ids, and that a sweep varies one factor only."""

import dataclasses
from collections import Counter
from itertools import combinations

import pytest

from mini_world.classes import CLASSES
from mini_world.materials import SIGNATURE
from mini_world.scene import RENDITIONS, SKETCH, Scene
from mini_world.sets import LABELS, PUG_INSTANCES, SETS, SWEEPS, Item

EXPECTED = {  # images, clusters
    "world_val": (3_200, 3_200), "world_cue": (1_200, 80), "world_v2": (1_600, 1_600), "world_r": (1_600, 1_600),
    "world_sketch": (1_600, 1_600), "world_a_pool": (3_000, 3_000), "world_hard": (1_000, 1_000),
    "world_pug": (8_640, 96),
}  # fmt: skip
LARGE = {"world_train", "world_train_broad"}  # their sampling takes seconds: cut


@pytest.fixture(scope="module")
def items() -> dict[str, list[Item]]:
    return {name: spec.make(spec.seed) for name, spec in SETS.items() if name not in LARGE}


def test_every_set_is_expected():
    assert set(SETS) == set(EXPECTED) | LARGE
    assert len({spec.seed for spec in SETS.values()}) == len(SETS)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_counts_ids_and_labels(items, name):
    ids, clusters = ({getattr(item, part) for item in items[name]} for part in ("id", "cluster"))
    assert (len(ids), len(clusters)) == EXPECTED[name] and len(ids) == len(items[name])
    for item in items[name]:
        main = item.label[0] if name == "world_hard" else item.label
        assert CLASSES[main] == item.scene.class_name


@pytest.mark.parametrize("name", ["world_val", "world_v2", "world_r", "world_sketch", "world_cue", "world_pug"])
def test_classes_are_balanced(items, name):
    assert len(set(Counter(item.label for item in items[name]).values())) == 1


def test_no_scene_is_shared_between_sets(items):
    seeds = {name: {item.scene.instance_seed for item in rows} for name, rows in items.items()}
    for first, second in combinations(seeds, 2):
        assert not seeds[first] & seeds[second], (first, second)


def test_val_holds_a_few_of_each_deviation(items):
    scenes = [item.scene for item in items["world_val"]]
    for share in (
        sum(s.rendition != "photo" for s in scenes),
        sum(s.count > 1 for s in scenes),
        sum(any(p.class_name == "block" for p in s.props) for s in scenes),
        sum(max(abs(s.dx), abs(s.dy)) > 0.5 and not s.props for s in scenes),
    ):
        assert 60 < share < 130


def test_renditions_and_sketches(items):
    assert Counter(item.scene.rendition for item in items["world_r"]) == dict.fromkeys(RENDITIONS, 400)
    assert {item.scene.rendition for item in items["world_sketch"]} == {SKETCH}


def test_hard_has_several_labels_without_repeats(items):
    assert {len(item.label) for item in items["world_hard"]} == {1, 2, 3}
    for item in items["world_hard"]:
        assert len(set(item.label)) == len(item.label) == item.scene.count


def test_cue_conflict_pairs(items):
    pairs = Counter((item.extra["shape"], item.extra["texture"]) for item in items["world_cue"])
    assert len(pairs) == 16 * 15 and set(pairs.values()) == {5}
    base = {}
    for item in items["world_cue"]:
        shape, texture = item.extra["shape"], item.extra["texture"]
        assert shape != texture and item.label == LABELS[shape]
        assert item.scene.material == SIGNATURE[texture]
        scene = dataclasses.replace(item.scene, material="")
        assert base.setdefault(item.cluster, scene) == scene  # 15 materials on one base scene


def test_sweeps_vary_one_factor_only(items):
    fields, by_scene, shared = [f.name for f in dataclasses.fields(Scene)], {}, {}
    for item in items["world_pug"]:
        by_scene.setdefault((item.cluster, item.extra["factor"]), []).append(item)
    assert len(by_scene) == 16 * PUG_INSTANCES * len(SWEEPS)
    for (cluster, factor), rows in by_scene.items():
        attribute, levels = SWEEPS[factor]
        assert {name for name in fields if len({getattr(row.scene, name) for row in rows}) > 1} == {attribute}
        assert [row.extra["level"] for row in rows] == [str(level) for level in levels]
        scenes = {row.scene for row in rows}
        shared[cluster] = shared.get(cluster, scenes) & scenes
    assert all(len(scenes) == 1 for scenes in shared.values())  # the default level belongs to every sweep
