"""From a profile's tasks to probes, kept outcomes and zero-shot answers."""

import io
import shutil
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
from beyond_accuracy.dimensions.transfer.tasks import Task, parse_tasks, task_data
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import Page
from beyond_accuracy.show.results import RESULT_COLUMNS, validate_results

N = 1800
LAYERS = {"good": "pre_logits", "poor": "pre_logits", "clip": "projected"}
FAST = probe.Settings(tolerance=5e-3)
COUNT, WIDTH = 300, 8
IDS = np.array([f"i{k}" for k in range(COUNT)])
CLASSES = ClassSpace("c", ("0", "1", "2"), ("cat", "dog", "owl"), ("a {c}",))


def frame(ids, **columns):
    return pd.DataFrame(columns, index=pd.Index(ids, name="id"))


def but(found, **changes):
    """Features of a model with something else instead."""
    return SimpleNamespace(**vars(found) | changes)


@pytest.fixture(scope="module")
def world():
    """Two factors; the good model shows both, the poor one hides them in noise. CLIP has two layers."""
    rng = np.random.default_rng(0)
    latent, ids = rng.normal(size=(N, 6)), np.array([f"w{i}" for i in range(N)])
    metadata, targets = frame(ids, yaw=latent[:, 0], light=latent[:, 1]), (latent[:, 2] > 0).astype(int)

    def features(model, **layers):
        drawn = {
            name: (latent @ rng.normal(size=(6, 24)) + noise * rng.normal(size=(N, 24))).astype(np.float16)
            for name, noise in layers.items()
        }
        return SimpleNamespace(model=model, ids=ids, targets=targets, layers=drawn, meta={"key": model})

    noise = {"good": {"pre_logits": 0.5}, "poor": {"pre_logits": 8.0}, "clip": {"projected": 4.0, "trunk": 0.5}}
    tasks = [
        Task("object", "natural", "w", zero_shot=True),
        Task("azimuth", "structured", "w", column="yaw", bins=4),
    ]
    found = {model: features(model, **layers) for model, layers in noise.items()}
    return {task.name: task_data(task, ids, targets, metadata) for task in tasks}, found


def probed(folder, data, models, setting="vtab_1k", seeds=(0,), settings=FAST, layer=run.PROJECTED):
    return run.probe_task(data, models, setting, seeds, settings, layer, folder)


def test_better_features_probe_better(world, tmp_path):
    data, models = world
    runs = [probed(tmp_path, d, models, seeds=[0, 1]) for d in data.values()]
    for found in runs:
        mean = {model: c.mean() for model, c in found.correct.items()}
        assert mean["good"] > mean["clip"] > mean["poor"] > 1 / 4
        assert found.correct["good"].shape == (2, len(found.groups))
        assert found.train_images == 1000 and found.pool_images + len(found.groups) == N
        assert dict(zip(found.notes.model, found.notes.layer, strict=True)) == LAYERS
        assert len(found.notes) == 6 and found.notes.converged.all()
    rows = pd.concat([scores.score(runs), scores.averages(runs)]).assign(dimension="transfer")
    assert len(validate_results(rows[list(RESULT_COLUMNS)])) == 6 + 3
    fits = scores.fits(runs)
    assert fits.fits.tolist() == [6] * 2 and fits.not_converged.sum() == 0 and (fits.seed_sd > 0).all()
    before = probed(tmp_path, data["azimuth"], models, layer=run.TRUNK)  # of CLIP alone, and all others as they were
    assert before.notes.layer.tolist() == ["pre_logits", "pre_logits", "trunk"]
    assert before.correct["clip"].mean() > runs[1].correct["clip"][0].mean() + 0.1
    assert np.array_equal(before.correct["good"][0], runs[1].correct["good"][0])


def test_outcomes_are_kept_and_keyed_by_what_matters(world, tmp_path):
    data, good = world[0]["azimuth"], world[1]["good"]

    def kept(features, setting="shots=5", seeds=(0,), settings=FAST):
        """The runs, and how many outcomes are kept then."""
        found = probed(tmp_path, data, {"good": features}, setting, seeds, settings)
        return found, len(list(tmp_path.glob("*.npz")))

    first, count = kept(good, seeds=(0, 1))
    blank = but(good, layers={"pre_logits": np.zeros((N, 24))})  # of the same key: never read
    again, known = kept(blank, seeds=(0, 1))
    assert np.array_equal(first.correct["good"], again.correct["good"])
    pd.testing.assert_frame_equal(first.notes, again.notes)
    assert count == known == kept(blank, settings=replace(FAST, device="cuda"))[1] == 2
    assert kept(but(good, meta={"key": "other weights"}))[1] == 3
    assert kept(good, "shots=1")[1] == 4 and kept(good, settings=probe.Settings())[1] == 5


def test_a_leak_is_refused(world, tmp_path):
    data, good = world[0]["object"], world[1]["good"]
    copies = but(good, layers={"pre_logits": np.repeat(good.layers["pre_logits"][:1], N, axis=0)})
    with pytest.raises(InputError, match="object: 100 % of the test images"):
        probed(tmp_path, data, {"good": copies})


def test_load_task_checks_that_models_saw_the_same_images(world):
    found, task = world[1], Task("object", "natural", "w")
    dataset = SimpleNamespace(classes=SimpleNamespace(names=("no", "yes")), metadata=frame(found["good"].ids))

    def page(features):
        return SimpleNamespace(features=lambda name: features, dataset=lambda name: dataset)

    data, features = run.load_task(page(found), task)
    assert data.names == ("no", "yes") and features is found
    with pytest.raises(InputError, match="different images"):
        run.load_task(page({**found, "poor": but(found["poor"], ids=found["poor"].ids[1:])}), task)
    with pytest.raises(InputError, match="no model of this run has features"):
        run.load_task(page({}), task)


def test_settings_that_a_task_allows(world):
    data = world[0]["object"]
    assert run.possible_setting(data, "vtab_1k") == "vtab_1k"
    small = data._replace(fold=np.where(np.arange(N) < 900, "train", "test"))
    assert run.possible_setting(small, "vtab_1k") == "vtab_full"
    assert run.possible_setting(small, "shots=50", range(3)) == "shots=50"
    assert run.possible_setting(small, "shots=500") == ""


# zero-shot ---------------------------------------------------------------------------------------------------------


def asking(classes):
    """A page on which every dataset has these classes."""
    return SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=classes, source="nowhere", name="w"))


@pytest.fixture
def words():
    rng = np.random.default_rng(0)
    head = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].astype(np.float32)
    targets = rng.integers(0, 3, COUNT)
    images = (5 * head.T[targets] + rng.normal(size=(COUNT, WIDTH))).astype(np.float16)
    layers = {"clip": {"projected": images, "trunk": images}, "sup": {"pre_logits": images}}
    features = {m: SimpleNamespace(layers=found, targets=targets, meta={"key": m}) for m, found in layers.items()}
    return task_data(Task("t", "natural", "w", zero_shot=True), IDS, targets, frame(IDS)), features, head


def test_answers_are_the_most_similar_texts(words, monkeypatch):
    _, features, head = words
    images = features["clip"].layers["projected"]
    monkeypatch.setattr(probe, "CHUNK_BYTES", 4 * WIDTH * 7)
    rows = np.arange(0, COUNT, 2)
    unit = images.astype(float) / np.linalg.norm(images.astype(float), axis=1, keepdims=True)
    assert np.array_equal(run.answers(images, head, rows), (unit @ head).argmax(axis=1)[rows])


def test_zero_shot_on_the_test_images_of_the_task(words, monkeypatch, tmp_path):
    data, features, head = words
    calls = []
    monkeypatch.setattr(run, "text_head", lambda *args: calls.append(args[1]) or head)
    found, again = (run.zero_shot(asking(CLASSES), data, features, tmp_path) for _ in range(2))
    assert calls == ["clip"]  # encoded once, and only for CLIP
    expected = run.answers(features["clip"].layers["projected"], head, np.arange(COUNT)) == features["clip"].targets
    assert list(found.correct) == ["clip"] and np.array_equal(found.correct["clip"][0], expected[data.fold == "test"])
    assert np.array_equal(again.correct["clip"], found.correct["clip"]) and found.correct["clip"].mean() > 0.95


def test_merged_classes_are_merged_on_both_sides(monkeypatch, tmp_path):
    targets = np.random.default_rng(0).integers(0, 32, COUNT)
    images = np.eye(32, dtype=np.float16)[targets ^ 1]  # always the other one of two merged classes
    data = task_data(parse_tasks(["dsprites_location"])[0], IDS, targets, frame(IDS))
    names = tuple(f"position {k}" for k in range(32))
    monkeypatch.setattr(run, "text_head", lambda *args: np.eye(32, dtype=np.float32))
    found = {"clip": SimpleNamespace(layers={"projected": images}, targets=targets, meta={"key": "k"})}
    page = asking(ClassSpace("d", names, names, ("{c}",)))
    assert run.zero_shot(page, data, found, tmp_path).correct["clip"].all()


def test_no_answer_without_clip_or_names(words, tmp_path):
    data, features, _ = words
    assert run.zero_shot(asking(CLASSES), data, {"sup": features["sup"]}, tmp_path) is None
    assert run.zero_shot(asking(None), data, features, tmp_path) is None
    with pytest.raises(InputError, match="label 2, but only 2 class names"):
        run.zero_shot(asking(ClassSpace("c", ("0", "1"), ("cat", "dog"), ("a {c}",))), data, features, tmp_path)


def test_prompts_beside_the_shards(tmp_path):
    dataset = SimpleNamespace(name="clevr", classes=None, source=str(tmp_path))
    assert run.prompts_of(dataset) is None
    (tmp_path / "classnames.txt").write_text("near\n\nfar\n")
    templates = tmp_path / "zeroshot_classification_templates.txt"
    templates.write_text("a photo, {c}.\n{c}\n")
    found = run.prompts_of(dataset)
    assert found.names == ("near", "", "far") and found.templates == ("a photo, {c}.", "{c}")
    templates.write_text("a photo\n")
    with pytest.raises(InputError, match="placeholder"):
        run.prompts_of(dataset)


# the page's code path ------------------------------------------------------------------------------------------------


def shards(root: Path) -> None:
    """Noisy red and blue images as a two-class VTAB task in the hub's webdataset form."""
    fixtures.write(root / "classnames.txt", "normal\ntumour\n")
    fixtures.write(root / "zeroshot_classification_templates.txt", "a photo of {c}.\n")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 24)):
        members = {}
        for i in range(count):
            pixels, buffer = rng.integers(0, 120, (24, 22, 3)), io.BytesIO()
            pixels[..., 2 * (i % 2)] += 70
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "WEBP", lossless=True)
            members |= {f"s{i:07d}.cls": f"{i % 2}\n".encode(), f"s{i:07d}.webp": buffer.getvalue()}
        fixtures.write_tar(root / split / "0.tar", members)
        fixtures.write(root / split / "nshards.txt", "1\n")


def page_of(toy) -> Page:
    content = toy.content()
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}", "paradigm": "clip"}
    camelyon_spec = {"reader": "splits", "path": "camelyon", "options": {"n_classes": 2}, "classes": ""}
    colour = {"name": "colour", "group": "natural", "dataset": "images", "zero_shot": True}
    pose = {"name": "pose", "group": "natural", "dataset": "images", "column": "pose"}
    content["datasets"]["camelyon"] = camelyon_spec
    content["dimensions"]["transfer"] = {"tasks": ["camelyon", colour, pose]}
    return Page(toy.profile(content), "transfer", Store(toy.store), {"device": "cpu"})


def test_from_profile_to_results(toy):
    toy.images(12)
    toy.checkpoint()
    toy.clip()
    shards(toy.data / "camelyon")
    page = page_of(toy)
    bench = run.Bench(page, seeds=3)
    data, features = bench.tasks[0]
    assert set(data.fold) == {"train", "test"} and all(g.split("/")[0] in ("train", "test") for g in data.groups)
    assert bench.layers == {"colour": "pre_logits", "clip": "projected"} and set(features["clip"].layers) > {"trunk"}
    assert bench.overview()[["task", "test"]].to_numpy()[0].tolist() == ["Camelyon", 24]
    (said,) = page.skipped  # a set without its column costs that task only
    assert said.startswith("task pose: unknown metadata column 'pose'")
    runs = bench.probe()
    assert [found.setting for found in runs] == ["vtab_full"] * 2  # too few images for VTAB-1k
    assert all(found.correct["colour"].mean() > 0.95 for found in runs)  # its features are the mean of each channel
    assert [list(found.correct) for found in bench.probe(layer=run.TRUNK)] == [["clip"]] * 2
    assert [found.task.name for found in bench.probe("shots=5")] == ["camelyon"]
    page.record(scores.score(runs), scores.averages(runs))
    judged = page.compare(scores.differences(runs))
    assert judged.family.tolist() == ["detail", "detail", "main"]
    assert len((page.records / "results" / "transfer.csv").read_text().splitlines()) == 1 + 6
    # zero-shot from features is the zero-shot of the predictions
    beside, found = bench.zero_shot()  # names beside the shards, names of the class space
    assert beside.correct["clip"].shape == (1, 24)
    data, predicted = bench.tasks[1][0], page.predictions("images")["clip"]
    assert np.array_equal(found.correct["clip"][0], predicted.correct[data.rows[data.fold == "test"]])


def test_a_part_of_the_tasks_and_what_is_not_there(toy):
    toy.images(12)
    toy.checkpoint()
    toy.clip()
    page = page_of(toy)
    assert [data.task.name for data, _ in run.Bench(page, only="colour").tasks] == ["colour"]
    with pytest.raises(InputError, match="unknown task 'color'; did you mean colour"):
        run.Bench(page, only="color")
    assert len(run.Bench(page).tasks) == 1 and page.skipped[0].startswith("camelyon: ")
    with pytest.raises(DataMissing, match="camelyon"):
        run.Bench(page, only="camelyon")
    with pytest.raises(InputError, match="task pose: unknown metadata"):
        run.Bench(page, only="pose")
    shards(toy.data / "camelyon")
    shutil.rmtree(toy.data / "camelyon" / "train")
    page = page_of(toy)
    assert [data.task.name for data, _ in run.Bench(page).tasks] == ["colour"]
    assert any("has no train shards" in said for said in page.skipped)


def test_a_damaged_outcome_is_fitted_again(tmp_path):
    path, made = tmp_path / "a.npz", []
    for content in (None, b"", b"PK\x03\x04 cut", "half"):
        if content is not None:
            path.write_bytes(path.read_bytes()[:-40] if content == "half" else content)
        found = run.kept(path, lambda: made.append(1) or {"correct": np.arange(3)})
        assert found["correct"].tolist() == [0, 1, 2]
    assert len(made) == 4 and run.kept(path, dict)["correct"].tolist() == [0, 1, 2]
