"""From a profile's tasks to probes, kept outcomes and zero-shot answers."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.dimensions.transfer import probe, run, scores
from beyond_accuracy.dimensions.transfer.tasks import Task, TaskData, parse_tasks, task_data
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import Page
from beyond_accuracy.show.results import RESULT_COLUMNS, validate_results

N = 1800
LAYERS = {"good": "pre_logits", "poor": "pre_logits", "clip": "projected"}
FAST = probe.Settings(tolerance=5e-3)
COUNT, WIDTH = 300, 8
CLASSES = ClassSpace("c", ("0", "1", "2"), ("cat", "dog", "owl"), ("a {c}",))


@pytest.fixture(scope="module")
def world():
    """Two factors; the good model shows both, the poor one hides them in noise. CLIP has two layers."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N, 6))
    ids = np.array([f"w{i}" for i in range(N)])
    metadata = pd.DataFrame({"yaw": latent[:, 0], "light": latent[:, 1]}, index=pd.Index(ids, name="id"))
    targets = (latent[:, 2] > 0).astype(int)

    def features(model, **layers):
        drawn = {
            name: (latent @ rng.normal(size=(6, 24)) + noise * rng.normal(size=(N, 24))).astype(np.float16)
            for name, noise in layers.items()
        }
        return SimpleNamespace(model=model, ids=ids, targets=targets, layers=drawn, meta={"key": model})

    found = {
        "good": features("good", pre_logits=0.5),
        "poor": features("poor", pre_logits=8.0),
        "clip": features("clip", projected=4.0, trunk=0.5),
    }
    tasks = [
        Task("object", "natural", "w", zero_shot=True),
        Task("azimuth", "structured", "w", column=("yaw",), bins=4),
        Task("sun397x", "natural", "w", column=("light",), bins=2),
    ]
    return {task.name: task_data(task, ids, targets, metadata) for task in tasks}, found


@pytest.fixture(scope="module")
def runs(world):
    data, found = world
    return [run.probe_task(d, found, "vtab_1k", [0, 1, 2], FAST) for d in data.values()]


def test_better_features_probe_better(runs):
    for found in runs:
        mean = {model: c.mean() for model, c in found.correct.items()}
        assert mean["good"] > mean["clip"] > mean["poor"] > 1 / 4
        assert found.correct["good"].shape == (3, len(found.groups))
        assert found.train_images == 1000 and found.pool_images + len(found.groups) == N
        assert dict(zip(found.notes.model, found.notes.layer, strict=True)) == LAYERS
        assert len(found.notes) == 9 and found.notes.converged.all()
    rows = pd.concat([scores.score(runs), scores.averages(runs)]).assign(dimension="transfer")
    assert len(validate_results(rows[list(RESULT_COLUMNS)])) == 9 + 6
    fits = scores.fits(runs)
    assert fits.fits.tolist() == [9] * 3 and fits.not_converged.sum() == 0 and (fits.seed_sd > 0).all()


def test_the_layer_before_the_projection(world):
    data, found = world
    before = run.probe_task(data["azimuth"], found, "vtab_1k", [0], FAST, run.TRUNK)
    assert before.notes.layer.tolist() == ["pre_logits", "pre_logits", "trunk"]
    after = run.probe_task(data["azimuth"], {"clip": found["clip"]}, "vtab_1k", [0], FAST)
    assert before.correct["clip"].mean() > after.correct["clip"].mean() + 0.1


def test_outcomes_are_kept_and_keyed_by_what_matters(world, tmp_path):
    data, found = world
    good = found["good"]
    first = run.probe_task(data["azimuth"], {"good": good}, "shots=5", [0, 1], FAST, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    blank = SimpleNamespace(**vars(good) | {"layers": {"pre_logits": np.zeros((N, 24))}})  # of the same key: never read
    again = run.probe_task(data["azimuth"], {"good": blank}, "shots=5", [0, 1], FAST, folder=tmp_path)
    assert np.array_equal(first.correct["good"], again.correct["good"])
    pd.testing.assert_frame_equal(first.notes, again.notes)
    other_device = replace(FAST, device="cuda")
    run.probe_task(data["azimuth"], {"good": blank}, "shots=5", [0], other_device, folder=tmp_path)
    changed = SimpleNamespace(**vars(good) | {"meta": {"key": "other weights"}})
    for features, setting, settings in (
        (changed, "shots=5", FAST), (good, "shots=1", FAST), (good, "shots=5", probe.Settings()),
    ):  # fmt: skip
        before = len(list(tmp_path.glob("*.npz")))
        run.probe_task(data["azimuth"], {"good": features}, setting, [0], settings, folder=tmp_path)
        assert len(list(tmp_path.glob("*.npz"))) == before + 1


def test_the_key_of_an_outcome_stays():
    """Stored probes of earlier versions are found; raise PROBE_VERSION where the fitting changes any number."""
    task = Task("t", "natural", "w", column=("x",))
    data = TaskData(
        task, np.arange(4), np.array([0, 1, 0, 1]), ("a", "b"), np.array(list("wxyz")), np.array(["train", "test"] * 2)
    )
    found = SimpleNamespace(meta={"key": "k"})
    key = run.outcome_key(found, "pre_logits", data, "vtab_full", 0, probe.DEFAULT)
    assert key == "5ea89a09464b66793fa7af83"


def test_a_leak_is_refused(world):
    data, found = world
    part = data["object"]
    copies = SimpleNamespace(**vars(found["good"]))
    copies.layers = {"pre_logits": np.repeat(found["good"].layers["pre_logits"][:1], N, axis=0)}
    with pytest.raises(InputError, match="object: 100 % of the test images"):
        run.probe_task(part, {"good": copies}, "vtab_1k", [0], FAST)


def test_load_task_checks_that_models_saw_the_same_images(world):
    _, found = world
    metadata = pd.DataFrame(index=pd.Index(found["good"].ids, name="id"))
    dataset = SimpleNamespace(classes=SimpleNamespace(names=("no", "yes")), metadata=metadata)
    page = SimpleNamespace(features=lambda name: found, dataset=lambda name: dataset)
    data, features = run.load_task(page, Task("object", "natural", "w"))
    assert data.names == ("no", "yes") and features is found
    fewer = SimpleNamespace(**{**vars(found["poor"]), "ids": found["poor"].ids[1:]})
    page = SimpleNamespace(features=lambda name: {**found, "poor": fewer}, dataset=lambda name: dataset)
    with pytest.raises(InputError, match="different images"):
        run.load_task(page, Task("object", "natural", "w"))
    page = SimpleNamespace(features=lambda name: {}, dataset=lambda name: dataset)
    with pytest.raises(InputError, match="no model of this run has features"):
        run.load_task(page, Task("object", "natural", "w"))


def test_settings_that_a_task_allows(world):
    data, _ = world
    assert run.possible_setting(data["object"], "vtab_1k") == "vtab_1k"
    small = replace(data["object"], fold=np.where(np.arange(N) < 900, "train", "test"))
    assert run.possible_setting(small, "vtab_1k") == "vtab_full"
    assert run.possible_setting(small, "shots=50", range(3)) == "shots=50"
    assert run.possible_setting(small, "shots=500") == ""


# zero-shot ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def words():
    rng = np.random.default_rng(0)
    head = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].astype(np.float32)
    targets = rng.integers(0, 3, COUNT)
    images = (5 * head.T[targets] + rng.normal(size=(COUNT, WIDTH))).astype(np.float16)
    ids = np.array([f"i{k}" for k in range(COUNT)])
    metadata = pd.DataFrame(index=pd.Index(ids, name="id"))
    features = {
        "clip": SimpleNamespace(layers={"projected": images, "trunk": images}, targets=targets, meta={"key": "k"}),
        "sup": SimpleNamespace(layers={"pre_logits": images}, targets=targets, meta={"key": "s"}),
    }
    data = task_data(Task("t", "natural", "w", zero_shot=True), ids, targets, metadata)
    page = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=CLASSES, source="", name="w"))
    return page, data, features, head


def test_answers_are_the_most_similar_texts(words, monkeypatch):
    _, _, features, head = words
    images = features["clip"].layers["projected"]
    monkeypatch.setattr(probe, "CHUNK_BYTES", 4 * WIDTH * 7)
    rows = np.arange(0, COUNT, 2)
    unit = images.astype(float) / np.linalg.norm(images.astype(float), axis=1, keepdims=True)
    assert np.array_equal(run.answers(images, head, rows), (unit @ head).argmax(axis=1)[rows])


def test_zero_shot_on_the_test_images_of_the_task(words, monkeypatch, tmp_path):
    page, data, features, head = words
    calls = []
    monkeypatch.setattr(run, "text_head", lambda *args: calls.append(args[1]) or head)
    found = run.zero_shot(page, data, features, tmp_path)
    again = run.zero_shot(page, data, features, tmp_path)
    assert calls == ["clip"]  # encoded once, and only for CLIP
    test = data.fold == "test"
    expected = run.answers(features["clip"].layers["projected"], head, np.arange(COUNT)) == features["clip"].targets
    assert list(found.correct) == ["clip"] and np.array_equal(found.correct["clip"][0], expected[test])
    assert np.array_equal(again.correct["clip"], found.correct["clip"]) and found.correct["clip"].mean() > 0.95


def test_merged_classes_are_merged_on_both_sides(monkeypatch):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 32, COUNT)
    images = np.eye(32, dtype=np.float16)[targets ^ 1]  # always the other one of two merged classes
    ids = np.array([f"i{k}" for k in range(COUNT)])
    data = task_data(parse_tasks(["dsprites_location"])[0], ids, targets, pd.DataFrame(index=pd.Index(ids, name="id")))
    names = tuple(f"position {k}" for k in range(32))
    space = ClassSpace("d", names, names, ("{c}",))
    page = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=space, source="", name="d"))
    monkeypatch.setattr(run, "text_head", lambda *args: np.eye(32, dtype=np.float32))
    found = {"clip": SimpleNamespace(layers={"projected": images}, targets=targets, meta={"key": "k"})}
    assert run.zero_shot(page, data, found).correct["clip"].all()


def test_no_answer_without_clip_or_names(words, monkeypatch):
    page, data, features, _ = words
    assert run.zero_shot(page, data, {"sup": features["sup"]}) is None
    bare = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=None, source="nowhere", name="w"))
    assert run.zero_shot(bare, data, features) is None
    few = ClassSpace("c", ("0", "1"), ("cat", "dog"), ("a {c}",))
    short = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=few, source="", name="w"))
    with pytest.raises(InputError, match="label 2, but only 2 class names"):
        run.zero_shot(short, data, features)


def test_prompts_beside_the_shards(tmp_path):
    dataset = SimpleNamespace(name="clevr", classes=None, source=str(tmp_path))
    assert run.prompts_of(dataset) is None
    (tmp_path / "classnames.txt").write_text("near\n\nfar\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo, {c}.\n{c}\n")
    found = run.prompts_of(dataset)
    assert found.names == ("near", "", "far") and found.templates == ("a photo, {c}.", "{c}")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(InputError, match="placeholder"):
        run.prompts_of(dataset)


# the page's code path ------------------------------------------------------------------------------------------------


def webp(channel: int, seed: int) -> bytes:
    """A noisy image whose dominant channel is the label."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (24, 22, 3))
    pixels[..., channel] += 70
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def shards(root: Path, names: list[str]) -> None:
    """Red and blue as a two-class VTAB task in the hub's webdataset form."""
    fixtures.write(root / "classnames.txt", "".join(f"{name}\n" for name in names))
    fixtures.write(root / "zeroshot_classification_templates.txt", "a photo of {c}.\n")
    for order, (split, count) in enumerate((("train", 40), ("test", 24))):
        labels = np.arange(count) % 2
        members = {}
        for i, label in enumerate(labels):
            members[f"s{i:07d}.cls"] = f"{label}\n".encode()
            members[f"s{i:07d}.webp"] = webp(2 * int(label), 1000 * order + i)
        fixtures.write_tar(root / split / "0.tar", members)
        fixtures.write(root / split / "nshards.txt", "1\n")


def page_of(toy, camelyon=True) -> Page:
    toy.images(12)
    toy.checkpoint()
    content = toy.content()
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.clip()}", "paradigm": "clip"}
    if camelyon:
        shards(toy.data / "camelyon", ["normal", "tumour"])
    content["datasets"]["camelyon"] = {
        "reader": "splits",
        "path": "camelyon",
        "options": {"n_classes": 2},
        "classes": "",
    }
    content["dimensions"]["transfer"] = {
        "tasks": ["camelyon", {"name": "colour", "group": "natural", "dataset": "images", "zero_shot": True}]
    }
    return Page(toy.profile(content), "transfer", Store(toy.store), {"device": "cpu"})


def test_from_profile_to_results(toy):
    page = page_of(toy)
    bench = run.Bench(page, seeds=3)
    data, features = bench.tasks[0]
    assert set(data.fold) == {"train", "test"} and all(g.split("/")[0] in ("train", "test") for g in data.groups)
    assert bench.layers == {"colour": "pre_logits", "clip": "projected"} and set(features["clip"].layers) > {"trunk"}
    assert bench.overview()[["task", "test"]].to_numpy()[0].tolist() == ["Camelyon", 24]
    runs = bench.probe()
    assert [found.setting for found in runs] == ["vtab_full"] * 2  # too few images for VTAB-1k
    assert all(found.correct["colour"].mean() > 0.95 for found in runs)  # its features are the mean of each channel
    assert [list(found.correct) for found in bench.probe(layer=run.TRUNK)] == [["clip"]] * 2
    assert [found.task.name for found in bench.probe("shots=5")] == ["camelyon"]
    page.record(scores.score(runs), scores.averages(runs))
    judged = page.compare(scores.differences(runs))
    assert judged.family.tolist() == ["detail", "detail", "main"]
    assert len((page.report_folder / "results" / "transfer.csv").read_text().splitlines()) == 1 + 6


def test_a_part_of_the_tasks_and_what_is_not_there(toy):
    page = page_of(toy, camelyon=False)
    assert [data.task.name for data, _ in run.Bench(page, only="colour").tasks] == ["colour"]
    with pytest.raises(InputError, match="unknown task 'color'; did you mean colour"):
        run.Bench(page, only="color")
    assert len(run.Bench(page).tasks) == 1 and page.skipped[0].startswith("camelyon: ")
    with pytest.raises(DataMissing, match="camelyon"):
        run.Bench(page, only="camelyon")


def test_zero_shot_from_features_is_the_zero_shot_of_the_predictions(toy):
    page = page_of(toy)
    bench = run.Bench(page)
    beside, found = bench.zero_shot()  # names beside the shards, names of the class space
    assert beside.correct["clip"].shape == (1, 24)
    data = bench.tasks[1][0]
    predicted = page.predictions("images")["clip"]
    assert np.array_equal(found.correct["clip"][0], predicted.correct[data.rows[data.fold == "test"]])
