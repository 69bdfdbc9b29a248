from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.dimensions.transfer import zero_shot
from beyond_accuracy.dimensions.transfer.run import Runs
from beyond_accuracy.dimensions.transfer.tasks import Task, parse_tasks, task_data

N, WIDTH = 300, 8
CLASSES = ClassSpace("c", ("0", "1", "2"), ("cat", "dog", "owl"), ("a {c}",))


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    head = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].astype(np.float32)
    targets = rng.integers(0, 3, N)
    images = (5 * head.T[targets] + rng.normal(size=(N, WIDTH))).astype(np.float16)
    ids = np.array([f"i{k}" for k in range(N)])
    metadata = pd.DataFrame(index=pd.Index(ids, name="id"))
    features = {
        "clip": SimpleNamespace(layers={"projected": images, "trunk": images}, targets=targets, meta={"key": "k"}),
        "sup": SimpleNamespace(layers={"pre_logits": images}, targets=targets, meta={"key": "s"}),
    }
    data = task_data(Task("t", "natural", "w", zero_shot=True), ids, targets, metadata)
    study = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=CLASSES, source="", name="w"))
    return study, data, features, head


def test_answers_are_the_most_similar_texts(world, monkeypatch):
    _, _, features, head = world
    images = features["clip"].layers["projected"]
    monkeypatch.setattr("beyond_accuracy.dimensions.transfer.probe.CHUNK_BYTES", 4 * WIDTH * 7)
    rows = np.arange(0, N, 2)
    unit = images.astype(float) / np.linalg.norm(images.astype(float), axis=1, keepdims=True)
    assert np.array_equal(zero_shot.answers(images, head, rows), (unit @ head).argmax(axis=1)[rows])


def test_zero_shot_on_the_test_images_of_the_task(world, monkeypatch, tmp_path):
    study, data, features, head = world
    calls = []
    monkeypatch.setattr(zero_shot, "text_head", lambda *args: calls.append(args[1]) or head)
    run = zero_shot.zero_shot(study, data, features, tmp_path)
    again = zero_shot.zero_shot(study, data, features, tmp_path)
    assert calls == ["clip"]  # encoded once, and only for CLIP
    test = data.fold == "test"
    expected = zero_shot.answers(features["clip"].layers["projected"], head, np.arange(N)) == features["clip"].targets
    assert list(run.correct) == ["clip"] and np.array_equal(run.correct["clip"][0], expected[test])
    assert np.array_equal(again.correct["clip"], run.correct["clip"]) and run.correct["clip"].mean() > 0.95


def test_merged_classes_are_merged_on_both_sides(monkeypatch):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 32, N)
    images = np.eye(32, dtype=np.float16)[targets ^ 1]  # always the other one of two merged classes
    ids = np.array([f"i{k}" for k in range(N)])
    data = task_data(parse_tasks(["dsprites_location"])[0], ids, targets, pd.DataFrame(index=pd.Index(ids, name="id")))
    names = tuple(f"position {k}" for k in range(32))
    space = ClassSpace("d", names, names, ("{c}",))
    study = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=space, source="", name="d"))
    monkeypatch.setattr(zero_shot, "text_head", lambda *args: np.eye(32, dtype=np.float32))
    found = {"clip": SimpleNamespace(layers={"projected": images}, targets=targets, meta={"key": "k"})}
    assert zero_shot.zero_shot(study, data, found).correct["clip"].all()


def test_no_answer_without_clip_or_names(world, monkeypatch):
    study, data, features, _ = world
    assert zero_shot.zero_shot(study, data, {"sup": features["sup"]}) is None
    bare = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=None, source="nowhere", name="w"))
    assert zero_shot.zero_shot(bare, data, features) is None
    few = ClassSpace("c", ("0", "1"), ("cat", "dog"), ("a {c}",))
    short = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=few, source="", name="w"))
    with pytest.raises(InputError, match="label 2, but only 2 class names"):
        zero_shot.zero_shot(short, data, features)


def test_prompts_beside_the_shards(tmp_path):
    dataset = SimpleNamespace(name="clevr", classes=None, source=str(tmp_path))
    assert zero_shot.prompts_of(dataset) is None
    (tmp_path / "classnames.txt").write_text("near\n\nfar\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo, {c}.\n{c}\n")
    found = zero_shot.prompts_of(dataset)
    assert found.names == ("near", "", "far") and found.templates == ("a photo, {c}.", "{c}")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(InputError, match="placeholder"):
        zero_shot.prompts_of(dataset)


def test_probe_and_zero_shot_side_by_side():
    task = Task("t", "natural")
    outcomes = {"clip": np.array([[1, 1, 1, 0]], bool), "sup": np.ones((1, 4), bool)}
    probed = Runs(task, "s", "main", outcomes, {}, None, np.arange(4), 1)
    zero = Runs(task, "zero_shot", "main", {"clip": np.array([[1, 0, 0, 0]], bool)}, {}, None, np.arange(4), 0)
    assert zero_shot.against_probe([probed], [zero]).to_numpy().tolist() == [["t", "clip", 75.0, 25.0]]
