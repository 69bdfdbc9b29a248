"""Tasks of VTAB and of metadata, and their splits: counts of the authors, bins by hand, no image in two parts."""

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import published
from beyond_accuracy.dimensions.transfer import tasks
from beyond_accuracy.dimensions.transfer.tasks import (
    Task,
    bin_labels,
    draw_split,
    parse_tasks,
    scored_labels,
    task_data,
)

COUNTS = {  # VTAB's own test files
    "caltech101": (2754, 306, 6084), "cifar100": (45000, 5000, 10000), "dtd": (1880, 1880, 1880),
    "flowers102": (1020, 1020, 6149), "pets": (2944, 736, 3669), "sun397": (76128, 10875, 21750),
    "svhn": (65931, 7326, 26032), "camelyon": (262144, 32768, 32768), "eurosat": (16200, 5400, 5400),
    "resisc45": (18900, 6300, 6300), "retinopathy": (35126, 10906, 42670), "clevr_count": (63000, 7000, 15000),
    "clevr_distance": (63000, 7000, 15000), "dmlab": (65550, 22628, 22735),
    "dsprites_location": (589824, 73728, 73728), "dsprites_orientation": (589824, 73728, 73728),
    "kitti_distance": (6347, 423, 711), "smallnorb_azimuth": (24300, 12150, 12150),
    "smallnorb_elevation": (24300, 12150, 12150),
}  # fmt: skip


def test_the_19_tasks():
    known = tasks.vtab()
    assert {n: (t.train, t.validation, t.test) for n, t in known.items()} == COUNTS
    groups = [t.group for t in known.values()]
    assert [groups.count(g) for g in tasks.GROUPS] == [7, 4, 8]
    paper = published.paper()
    assert set(paper[paper.dimension == "transfer"].dataset) - {"average"} == set(known)
    assert "wds_sun397" not in known["sun397"].hub  # the mirror with one split only
    parsed = parse_tasks("vtab")
    assert [t.name for t in parsed] == list(known)
    assert parsed[0] == Task("caltech101", "natural", "caltech101", "Caltech101", zero_shot=True)
    (task,) = parse_tasks([{"name": "pets", "dataset": "my_pets"}])
    assert (task.group, task.dataset, task.title) == ("natural", "my_pets", "Pets")


def test_class_merges():
    assert scored_labels("dsprites_location", np.arange(32)).tolist() == [k // 2 for k in range(32)]
    expected = [int(k // 2.5) for k in range(40)]  # VTAB: floor(label / (40 / 16))
    assert scored_labels("dsprites_orientation", np.arange(40)).tolist() == expected and max(expected) == 15
    assert scored_labels("svhn", [0, 9]).tolist() == [0, 9] and scored_labels("other", [99]).tolist() == [99]
    with pytest.raises(InputError, match="10 classes"):
        scored_labels("svhn", [10])


def test_mini_world_tasks_are_valid():
    known = {t.name: t for t in parse_tasks("mini_world")}
    expected = {"object", "digits", "azimuth", "elevation", "distance", "location", "light_direction", "count"}
    assert expected <= set(known)
    assert known["azimuth"].where == {"factor": "object_yaw"} and known["azimuth"].group_by == "cluster"
    assert {n for n, t in known.items() if not t.trained} == {"digits", "azimuth", "light_direction", "count"}
    assert all(t.trained == known[t.name].trained for t in parse_tasks("mini_world_few"))


COLUMN = {"name": "a", "group": "natural", "column": "x"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vtabb", "did you mean vtab"),
        (["cifar10"], "did you mean cifar100"),
        ([{"group": "natural"}], "mapping with `name`"),
        ([{"name": "a", "group": "natura"}], "expected one of natural"),
        ([{"name": "a", "group": "natural", "colunm": "x"}], "did you mean column"),
        ([{"name": "a", "group": "natural", "bins": 3}], "no column to cut"),
        ([COLUMN | {"bins": 3, "edges": [1]}], "give one"),
        ([COLUMN | {"edges": [2, 1]}], "must ascend"),
        (["dtd", "dtd"], "listed twice"),
        ([], "expected a list"),
    ],
)
def test_bad_task_lists(spec, message):
    with pytest.raises(InputError, match=message):
        parse_tasks(spec)


# Labels --------------------------------------------------------------------------------------------------------------


ANGLES = [-45.0, 44.9, 45, 0, 360, 180, -180, 314.9, 315, 730]
CUTS = [  # an edge belongs to what it starts
    ({"bins": 3}, [0.0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], "1.67 to 3.33"),
    ({"edges": (2.0, 4.0)}, [0.0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], "2 to 4"),
    ({}, np.array(["b", "a", "b"], object), [1, 0, 1], "b"),
    ({"edges": (-45.0, 45.0, 135.0, 225.0), "period": 360}, ANGLES, [0, 0, 1, 0, 0, 2, 2, 3, 0, 0], "45 to 135"),
]


@pytest.mark.parametrize(("cut", "values", "expected", "name"), CUTS)
def test_bins_by_hand(cut, values, expected, name):
    labels, names = bin_labels(np.asarray(values), Task("t", "structured", **cut))
    assert labels.tolist() == expected and names[1] == name and len(names) == max(expected) + 1


@pytest.mark.parametrize(("values", "message"), [([1.0, np.nan], "missing"), ([1.0] * 10, "do not exist")])
def test_bins_need_values_that_differ(values, message):
    with pytest.raises(InputError, match=message):
        bin_labels(np.array(values), Task("t", "structured", bins=3))


@pytest.fixture
def world():
    rng, n = np.random.default_rng(0), 400
    ids, order = np.array([f"im{i}" for i in range(n)]), np.arange(n)
    metadata = pd.DataFrame({"yaw": rng.uniform(-180, 180, n)}, index=ids)
    metadata["material"] = np.where(order < 5, "rare", np.where(order % 2, "oak", "tin"))
    metadata["factor"], metadata["scene"] = np.where(order < 200, "a", "b"), [f"s{i // 8}" for i in order]
    return ids, rng.integers(0, 4, n), metadata


def test_task_data_from_columns(world):
    ids, targets, metadata = world
    task = Task("yaw", "structured", "w", column="yaw", bins=4, where={"factor": "a"}, group_by="scene")
    data = task_data(task, ids, targets, metadata)
    assert data.rows.tolist() == list(range(200)) and np.bincount(data.labels).tolist() == [50] * 4
    assert set(np.argsort(metadata.yaw.to_numpy()[:200])[:50]) == set(np.flatnonzero(data.labels == 0))
    assert not set(data.groups[data.fold == "train"]) & set(data.groups[data.fold == "test"])
    assert data.chance == 25


def test_rare_classes_are_left_out_and_labels_stay_consecutive(world):
    ids, targets, metadata = world
    data = task_data(Task("m", "natural", "w", column="material"), ids, targets, metadata)
    assert data.names == ("oak", "tin") and len(data.rows) == 395 and set(data.labels) == {0, 1}
    assert (metadata.material.to_numpy()[data.rows] == np.array(data.names)[data.labels]).all()


def test_own_labels_and_published_splits(world):
    ids, targets, metadata = world
    split, task = np.repeat(["train", "validation", "test"], [200, 100, 100]), Task("o", "natural", "w")
    data = task_data(task, ids, targets, metadata.assign(split=split), ["a", "b", "c", "d"])
    assert np.array_equal(data.labels, targets) and np.array_equal(data.fold, split) and data.names == tuple("abcd")
    assert data.majority == pytest.approx(100 * np.mean(targets[300:] == np.bincount(targets[:300]).argmax()))
    assert task_data(task, ids, targets, metadata).names == tuple("0123")
    own = metadata.assign(split="", unit=metadata["scene"])  # a folder of one's own, which has no splits
    data = task_data(task, ids, targets, own)
    assert np.array_equal(data.groups, metadata["scene"]) and set(data.fold) == {"train", "test"}
    named = own.assign(split=np.where(split == "validation", "val", split))
    assert np.array_equal(task_data(task, ids, targets, named).fold, split)
    merged = task_data(parse_tasks(["dsprites_orientation"])[0], ids, np.arange(400) % 40, metadata)
    assert set(merged.labels) == set(range(16)) and len(merged.names) == 16


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (Task("t", "structured", "w", column="jaw", bins=2), {}, "did you mean yaw"),
        (Task("t", "structured", "w", where={"factor": "z"}), {}, "no image of w"),
        (Task("t", "natural", "w"), {"targets": [np.array([0, 1])] * 400}, "several labels"),
        (Task("t", "natural", "w", column="factor", where={"factor": "a"}), {}, "two classes"),
        (Task("o", "natural", "w"), {"split": "train"}, "no test images"),
        (Task("dsprites_orientation", "natural", "w"), {"targets": np.arange(400) % 41}, "label 40 with 40 classes"),
    ],
)
def test_clear_errors(world, task, change, message):
    ids, targets, metadata = world
    metadata = metadata.assign(split=change["split"]) if "split" in change else metadata
    with pytest.raises(InputError, match=message):
        task_data(task, ids, change.get("targets", targets), metadata)


# Splits --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool():
    labels = np.random.default_rng(0).integers(0, 5, 3000)
    fold = np.repeat(["train", "validation", "test"], [1600, 400, 1000])
    return labels, np.array([f"img{i}" for i in range(3000)]), fold


@pytest.mark.parametrize("protocol", tasks.PROTOCOLS)
def test_no_image_or_group_is_ever_in_two_parts(pool, protocol):
    labels, groups, fold = pool
    for seed in range(5):
        split = draw_split(labels, groups, fold, protocol, seed)
        everything = np.concatenate([split.train, split.validation, split.test])
        assert len(set(everything)) == len(everything) and set(split.test) == set(np.flatnonzero(fold == "test"))
    scenes = np.array([f"scene{i // 10}" for i in range(3000)])
    split = draw_split(labels, scenes, tasks.hold_out(scenes, 0.3), protocol, 1)
    names = [set(scenes[rows]) for rows in (split.train, split.validation, split.test)]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


def test_full_protocol(pool):
    labels, groups, fold = pool
    published = draw_split(labels, groups, fold, "vtab_full", 0)
    assert np.array_equal(published.validation, np.flatnonzero(fold == "validation"))
    other, again = (draw_split(labels, groups, fold, "vtab_full", 1) for _ in range(2))
    assert len(other.validation) == 400 and not np.array_equal(other.validation, published.validation)
    assert np.array_equal(other.train, again.train)
    without = np.where(fold == "validation", "train", fold)
    drawn = draw_split(labels, groups, without, "vtab_full", 0, validation_share=0.1)
    assert len(drawn.validation) == 200 and len(drawn.train) == 1800
    counts = [np.bincount(labels[rows]) / len(rows) for rows in (drawn.train, drawn.validation)]
    np.testing.assert_allclose(*counts, atol=0.01)  # stratified


def test_1k_protocol(pool):
    labels, groups, fold = pool
    split = draw_split(labels, groups, fold, "vtab_1k", 3)
    assert (len(split.train), len(split.validation), len(split.test)) == (800, 200, 1000)
    assert set(fold[split.train]) == {"train"} and set(fold[split.validation]) == {"validation"}
    with pytest.raises(ValueError, match="1,000 training images, there are 900"):
        draw_split(labels[:1200], groups[:1200], np.repeat(["train", "test"], [900, 300]), "vtab_1k", 0)
    with pytest.raises(ValueError, match="unknown protocol"):
        draw_split(labels, groups, fold, "vtab", 0)


def test_the_sun397_trap_is_refused():
    """The same images as train and as test, once under the same ids, once as copies under other names."""
    rng, fold = np.random.default_rng(0), np.repeat(["train", "test"], 500)
    labels, same = np.tile(rng.integers(0, 3, 500), 2), np.tile([f"s{i:07d}" for i in range(500)], 2)
    with pytest.raises(ValueError, match="train and test share 450"):
        draw_split(labels, same, fold, "vtab_full", 1, 0.1)
    renamed = np.array([f"{part}/{i}" for i, part in enumerate(fold)])
    features = np.tile(rng.normal(size=(500, 8)).astype(np.float16), (2, 1))
    split = draw_split(labels, renamed, fold, "vtab_full", 1, 0.1)
    with pytest.raises(ValueError, match="SUN397"):
        tasks.refuse_leak(features, split, "sun397")
    features[500:600] += 1  # a fifth of the test images differ
    assert tasks.refuse_leak(features, split, "set") == pytest.approx(0.8)


def test_hold_out_depends_on_names_alone():
    groups = np.array([f"image{i}" for i in range(5000)])
    fold = tasks.hold_out(groups, 0.3)
    assert np.mean(fold == "test") == pytest.approx(0.3, abs=0.02)
    order = np.random.default_rng(0).permutation(5000)[:700]
    assert np.array_equal(tasks.hold_out(groups[order], 0.3), fold[order])
    assert set(tasks.hold_out(groups, 0.0)) == {"train"}


def test_few_shot(pool):
    labels, groups, fold = pool
    scenes = np.array([f"scene{i // 100}" for i in range(3000)])  # 20 scenes to train on, each with every class
    for names, shots in ((groups, 1), (groups, 5), (groups, 50), (scenes, 10)):
        split = tasks.draw_few_shot(labels, names, fold, shots, 0)
        assert np.bincount(labels[split.train]).tolist() == [shots] * 5
        assert np.bincount(labels[split.validation]).tolist() == [min(shots, 4)] * 5
        assert not np.isin(fold[np.concatenate([split.train, split.validation])], "test").any()
        assert not set(names[split.train]) & set(names[split.validation])
    assert [k for k in (1, 50, 10_000) if tasks.has_shots(labels, groups, fold, k)] == [1, 50]
    assert [k for k in (1, 5, 10, 50) if tasks.has_shots(labels, scenes, fold, k, range(3))] == [1, 5, 10]
    with pytest.raises(ValueError, match="shots need more"):
        tasks.draw_few_shot(labels, groups, fold, 10_000, 0)
