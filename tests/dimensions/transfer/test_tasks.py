import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.dimensions.transfer import vtab
from beyond_accuracy.dimensions.transfer.tasks import Task, bin_labels, parse_tasks, task_data


def test_vtab_is_a_list_of_tasks():
    tasks = parse_tasks("vtab")
    assert [t.name for t in tasks] == list(vtab.tasks())
    assert tasks[0] == Task("caltech101", "natural", "caltech101", "Caltech101", zero_shot=True)


def test_mini_world_tasks_are_valid():
    tasks = {t.name: t for t in parse_tasks("mini_world")}
    expected = {"object", "digits", "azimuth", "elevation", "distance", "location", "light_direction", "count"}
    assert expected <= set(tasks)
    assert tasks["azimuth"].where == {"factor": "object_yaw"} and tasks["azimuth"].group_by == "cluster"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vtabb", "did you mean vtab"),
        (["cifar10"], "did you mean cifar100"),
        ([{"group": "natural"}], "mapping with `name`"),
        ([{"name": "a", "group": "natura"}], "expected one of natural"),
        ([{"name": "a", "group": "natural", "colunm": "x"}], "did you mean column"),
        ([{"name": "a", "group": "natural", "bins": 3}], "no column to cut"),
        ([{"name": "a", "group": "natural", "column": "x", "bins": 3, "edges": [1]}], "give one"),
        ([{"name": "a", "group": "natural", "column": "x", "edges": [2, 1]}], "must ascend"),
        (["dtd", "dtd"], "listed twice"),
        ([], "expected a list"),
    ],
)
def test_bad_task_lists(spec, message):
    with pytest.raises(InputError, match=message):
        parse_tasks(spec)


def test_vtab_tasks_can_name_another_dataset():
    (task,) = parse_tasks([{"name": "pets", "dataset": "my_pets"}])
    assert (task.group, task.dataset, task.title) == ("natural", "my_pets", "Pets")


def test_bins_by_hand():
    values = np.array([0.0, 1, 2, 3, 4, 5])
    labels, names = bin_labels(values, Task("t", "structured", bins=3))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and names[1] == "1.67 to 3.33"
    labels, _ = bin_labels(values, Task("t", "structured", edges=(2.0, 4.0)))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]  # an edge belongs to the bin it starts
    labels, names = bin_labels(np.array(["b", "a", "b"], object), Task("t", "structured"))
    assert labels.tolist() == [1, 0, 1] and names == ("a", "b")


def test_periodic_bins():
    task = Task("t", "structured", edges=(-45.0, 45.0, 135.0, 225.0), period=360)
    angles = np.array([-45.0, 44.9, 45, 0, 360, 180, -180, 314.9, 315, 730])
    labels, names = bin_labels(angles, task)
    assert labels.tolist() == [0, 0, 1, 0, 0, 2, 2, 3, 0, 0]
    assert names[3] == "225 to 315"


def test_bins_need_values_that_differ():
    with pytest.raises(InputError, match="missing"):
        bin_labels(np.array([1.0, np.nan]), Task("t", "structured", bins=2))
    with pytest.raises(InputError, match="do not exist"):
        bin_labels(np.ones(10), Task("t", "structured", bins=3))


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    n = 400
    ids = np.array([f"im{i}" for i in range(n)])
    metadata = pd.DataFrame(
        {
            "yaw": rng.uniform(-180, 180, n),
            "camera": rng.uniform(-5, 5, n),
            "material": np.where(np.arange(n) < 5, "rare", np.where(np.arange(n) % 2, "oak", "tin")),
            "factor": np.where(np.arange(n) < 200, "a", "b"),
            "scene": [f"s{i // 8}" for i in range(n)],
        },
        index=pd.Index(ids, name="id"),
    )
    return ids, rng.integers(0, 4, n), metadata


def test_task_data_from_columns(world):
    ids, targets, metadata = world
    task = Task("yaw", "structured", "w", column=("yaw", "camera"), bins=4, where={"factor": "a"}, group_by="scene")
    data = task_data(task, ids, targets, metadata)
    assert data.rows.tolist() == list(range(200)) and np.bincount(data.labels).tolist() == [50] * 4
    summed = (metadata.yaw + metadata.camera).to_numpy()[:200]
    assert (
        np.argsort(summed)[:50].tolist() == np.flatnonzero(data.labels == 0)[np.argsort(summed[data.labels == 0])]
    ).all()
    assert not set(data.groups[data.fold == "train"]) & set(data.groups[data.fold == "test"])
    assert data.chance == 25


def test_rare_classes_are_left_out_and_labels_stay_consecutive(world):
    ids, targets, metadata = world
    data = task_data(Task("m", "natural", "w", column=("material",)), ids, targets, metadata)
    assert data.names == ("oak", "tin") and len(data.rows) == 395 and set(data.labels) == {0, 1}
    assert (metadata.material.to_numpy()[data.rows] == np.array(data.names)[data.labels]).all()


def test_own_labels_and_published_splits(world):
    ids, targets, metadata = world
    split = np.repeat(["train", "validation", "test"], [200, 100, 100])
    data = task_data(Task("o", "natural", "w"), ids, targets, metadata.assign(split=split), ["a", "b", "c", "d"])
    assert np.array_equal(data.labels, targets) and np.array_equal(data.fold, split)
    assert data.majority == pytest.approx(100 * np.mean(targets[300:] == np.bincount(targets[:300]).argmax()))
    with pytest.raises(InputError, match="no test images"):
        task_data(Task("o", "natural", "w"), ids, targets, metadata.assign(split="train"))


def test_vtab_labels_are_merged(world):
    ids, _, metadata = world
    targets = np.arange(400) % 40
    data = task_data(parse_tasks(["dsprites_orientation"])[0], ids, targets, metadata)
    assert set(data.labels) == set(range(16)) and len(data.names) == 16
    with pytest.raises(InputError, match="label 40 with 40 classes"):
        task_data(parse_tasks(["dsprites_orientation"])[0], ids, targets + 1, metadata)


def test_clear_errors(world):
    ids, targets, metadata = world
    with pytest.raises(InputError, match="did you mean yaw"):
        task_data(Task("t", "structured", "w", column=("jaw",), bins=2), ids, targets, metadata)
    with pytest.raises(InputError, match="no image of w"):
        task_data(Task("t", "structured", "w", where={"factor": "z"}), ids, targets, metadata)
    with pytest.raises(InputError, match="several labels"):
        task_data(Task("t", "natural", "w"), ids, [np.array([0, 1])] * 400, metadata)
    with pytest.raises(InputError, match="two classes"):
        task_data(Task("t", "natural", "w", column=("factor",), where={"factor": "a"}), ids, targets, metadata)
