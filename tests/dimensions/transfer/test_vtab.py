import numpy as np
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import published as reference
from beyond_accuracy.dimensions.transfer import vtab

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
    tasks = vtab.tasks()
    assert {n: (t.train, t.validation, t.test) for n, t in tasks.items()} == COUNTS
    groups = [t.group for t in tasks.values()]
    assert [groups.count(g) for g in vtab.GROUPS] == [7, 4, 8]
    paper = reference.paper()
    assert set(paper[paper.dimension == "transfer"].dataset) - {"average"} == set(tasks)
    assert "wds_sun397" not in tasks["sun397"].hub  # the mirror with one split only


def test_class_merges():
    location, orientation = (vtab.tasks()[f"dsprites_{name}"] for name in ("location", "orientation"))
    assert location.merge(np.arange(32)).tolist() == [k // 2 for k in range(32)]
    expected = [int(k // 2.5) for k in range(40)]  # VTAB: floor(label / (40 / 16))
    assert orientation.merge(np.arange(40)).tolist() == expected and max(expected) == 15
    assert vtab.tasks()["svhn"].merge([0, 9]).tolist() == [0, 9]
    with pytest.raises(InputError, match="10 classes"):
        vtab.tasks()["svhn"].merge([10])


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 3000)
    groups = np.array([f"img{i}" for i in range(3000)])
    fold = np.repeat(["train", "validation", "test"], [1600, 400, 1000])
    return labels, groups, fold


def parts(split):
    return split.train, split.validation, split.test


@pytest.mark.parametrize("protocol", vtab.PROTOCOLS)
def test_no_image_is_ever_in_two_parts(pool, protocol):
    labels, groups, fold = pool
    test = set(np.flatnonzero(fold == "test"))
    for seed in range(5):
        split = vtab.draw_split(labels, groups, fold, protocol, seed)
        everything = np.concatenate(parts(split))
        assert len(set(everything)) == len(everything)
        assert set(split.test) == test


def test_full_protocol(pool):
    labels, groups, fold = pool
    published = vtab.draw_split(labels, groups, fold, "vtab_full", 0)
    assert np.array_equal(published.validation, np.flatnonzero(fold == "validation"))
    other, again = (vtab.draw_split(labels, groups, fold, "vtab_full", 1) for _ in range(2))
    assert len(other.validation) == 400 and not np.array_equal(other.validation, published.validation)
    assert np.array_equal(other.train, again.train)
    without = np.where(fold == "validation", "train", fold)
    drawn = vtab.draw_split(labels, groups, without, "vtab_full", 0, validation_share=0.1)
    assert len(drawn.validation) == 200 and len(drawn.train) == 1800
    counts = [np.bincount(labels[rows]) / len(rows) for rows in (drawn.train, drawn.validation)]
    np.testing.assert_allclose(*counts, atol=0.01)  # stratified


def test_1k_protocol(pool):
    labels, groups, fold = pool
    split = vtab.draw_split(labels, groups, fold, "vtab_1k", 3)
    assert (len(split.train), len(split.validation), len(split.test)) == (800, 200, 1000)
    assert set(fold[split.train]) == {"train"} and set(fold[split.validation]) == {"validation"}
    with pytest.raises(ValueError, match="1,000 training images, there are 900"):
        vtab.draw_split(labels[:1200], groups[:1200], np.repeat(["train", "test"], [900, 300]), "vtab_1k", 0)
    with pytest.raises(ValueError, match="unknown protocol"):
        vtab.draw_split(labels, groups, fold, "vtab", 0)


def test_groups_are_never_divided(pool):
    labels, _, _ = pool
    groups = np.array([f"scene{i // 10}" for i in range(3000)])
    fold = vtab.hold_out(groups, 0.3)
    for protocol in vtab.PROTOCOLS:
        split = vtab.draw_split(labels, groups, fold, protocol, 1)
        names = [set(groups[rows]) for rows in parts(split)]
        assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


def test_the_sun397_trap_is_refused():
    """The same images as train and as test, once under the same ids, once as copies under other names."""
    rng = np.random.default_rng(0)
    labels = np.tile(rng.integers(0, 3, 500), 2)
    fold = np.repeat(["train", "test"], 500)
    same = np.tile([f"s{i:07d}" for i in range(500)], 2)
    with pytest.raises(ValueError, match="train and test share 450"):
        vtab.draw_split(labels, same, fold, "vtab_full", 1, 0.1)
    renamed = np.array([f"{part}/{i}" for i, part in enumerate(fold)])
    features = np.tile(rng.normal(size=(500, 8)).astype(np.float16), (2, 1))
    split = vtab.draw_split(labels, renamed, fold, "vtab_full", 1, 0.1)
    with pytest.raises(ValueError, match="SUN397"):
        vtab.refuse_leak(features, split, "sun397")
    features[500:600] += 1  # a fifth of the test images differ
    assert vtab.refuse_leak(features, split, "set") == pytest.approx(0.8)


def test_hold_out_depends_on_names_alone():
    groups = np.array([f"image{i}" for i in range(5000)])
    fold = vtab.hold_out(groups, 0.3)
    assert np.mean(fold == "test") == pytest.approx(0.3, abs=0.02)
    order = np.random.default_rng(0).permutation(5000)[:700]
    assert np.array_equal(vtab.hold_out(groups[order], 0.3), fold[order])
    assert set(vtab.hold_out(groups, 0.0)) == {"train"}


def test_few_shot(pool):
    labels, groups, fold = pool
    for shots in (1, 5, 50):
        split = vtab.draw_few_shot(labels, groups, fold, shots, 0)
        assert np.bincount(labels[split.train]).tolist() == [shots] * 5
        assert np.bincount(labels[split.validation]).tolist() == [min(shots, 4)] * 5
        assert not np.isin(fold[np.concatenate([split.train, split.validation])], "test").any()
    assert [k for k in (1, 50, 10_000) if vtab.has_shots(labels, groups, fold, k)] == [1, 50]
    scenes = np.array([f"scene{i // 100}" for i in range(3000)])  # 20 scenes to train on, each with every class
    assert [k for k in (1, 5, 10, 50) if vtab.has_shots(labels, scenes, fold, k, range(3))] == [1, 5, 10]
    split = vtab.draw_few_shot(labels, scenes, fold, 10, 0)
    assert np.bincount(labels[split.train]).tolist() == [10] * 5
    assert not set(scenes[split.train]) & set(scenes[split.validation])
    with pytest.raises(ValueError, match="shots need more"):
        vtab.draw_few_shot(labels, groups, fold, 10_000, 0)
