"""Probes from a profile to results, over the toy networks: the code path of the transfer page."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.dimensions.transfer import run as transfer
from beyond_accuracy.dimensions.transfer import zero_shot
from beyond_accuracy.dimensions.transfer.tasks import parse_tasks
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import Page


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


def study_of(toy) -> Page:
    toy.images(12)
    toy.checkpoint()
    content = toy.content()
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.clip()}", "paradigm": "clip"}
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
    study = study_of(toy)
    tasks = parse_tasks(study.role("tasks"))
    loaded = transfer.load_tasks(study, tasks)
    data, features = loaded["camelyon"]
    assert set(data.fold) == {"train", "test"} and all(g.split("/")[0] in ("train", "test") for g in data.groups)
    assert list(features) == ["colour", "clip"] and set(features["clip"].layers) == {"projected", "trunk"}
    runs = [transfer.probe_task(d, f, "vtab_full", [0, 1, 2]) for d, f in loaded.values()]
    for run in runs:
        assert run.correct["colour"].mean() > 0.95  # its features are the mean of each channel
    study.record(transfer.results_rows(transfer.score(runs), "accuracy"))
    study.compare(transfer.differences(runs))
    assert len((study.report_folder / "results" / "transfer.csv").read_text().splitlines()) == 1 + 4


def test_zero_shot_from_features_is_the_zero_shot_of_the_predictions(toy):
    study = study_of(toy)
    loaded = transfer.load_tasks(study, parse_tasks(study.role("tasks")))
    run = zero_shot.zero_shot(study, *loaded["colour"])
    data, _ = loaded["colour"]
    predicted = study.predictions("images")["clip"]
    assert np.array_equal(run.correct["clip"][0], predicted.correct[data.rows[data.fold == "test"]])
    beside = zero_shot.zero_shot(study, *loaded["camelyon"])  # names beside the shards
    assert beside.correct["clip"].shape == (1, 24)
