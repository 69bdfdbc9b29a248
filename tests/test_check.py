"""The check finds what is missing, malformed or mislabelled, and names it."""

import importlib.util
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base import files
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, load_profile, parse_profile
from beyond_accuracy.check import MISSING, NOTE, OK, WRONG, check, check_dataset, check_model, published_accuracy
from beyond_accuracy.cli import main
from beyond_accuracy.data import readers
from beyond_accuracy.data.classes import imagenet_subset, imagenet_wnids
from conftest import TOY_CLASSES
from own_images import noise

WNIDS = imagenet_wnids()


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path / "data"))


def statuses(spec):
    return [(finding.status, finding.text) for finding in check_dataset(spec, load_profile("paper"))]


def wrong(name, folder, *texts, reader="", **more):
    """Whether a set of the paper is called wrong for a reason that holds all the texts."""
    found = statuses(DatasetSpec(name, reader or name.removesuffix("_1k"), str(folder), **more))
    return any(status == WRONG and all(text in said for text in texts) for status, said in found)


def test_a_set_of_which_only_a_sample_is_read_says_so(tmp_path, monkeypatch):
    for k, name in enumerate("abc"):
        noise(tmp_path / "own" / name / "a.png", k)
    spec = DatasetSpec("own", "own", str(tmp_path / "own"))
    whole = statuses(spec)
    assert [status for status, _ in whole] == [OK]
    monkeypatch.setattr(files, "MOST", 100)
    monkeypatch.setattr(files, "SAMPLED", set())
    monkeypatch.setattr("beyond_accuracy.check.SAMPLED", files.SAMPLED)
    monkeypatch.setattr(readers, "LOADED", {})
    same, (status, text) = statuses(spec)
    assert same == whole[0] and status == NOTE and "a sample of the content" in text


# Without any data -----------------------------------------------------------------------------------------------------


def test_nothing_is_here(tmp_path):
    """Every missing dataset and model is listed with the way to get it, quickly and without asking the network."""
    command = [sys.executable, "-m", "beyond_accuracy.cli", "check", "--profile", "paper"]
    command += ["--data-dir", str(tmp_path / "x")]
    environment = {"PATH": "", "HOME": str(tmp_path), "BEYOND_ACCURACY_CACHE": str(tmp_path / "cache")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    profile = load_profile("paper")
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("  MISSING")}
    needed = (set(profile.datasets) - {"imagenet_real"}) | set(profile.models)
    assert needed <= set(lines)
    for name in needed:
        assert "beyond-accuracy fetch --profile paper --only" in lines[name], lines[name]
    assert str(tmp_path / "x" / "imagenet_v2") in lines["imagenet_v2"]
    assert "hf auth login" in lines["imagenet_1k"] and "GB on disk" in done.stdout
    assert f"The store ({tmp_path / 'cache'}) needs about " in done.stdout
    assert "million images" in done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # processor time: what a retry would add shows in the time limit above, what other processes add does not count
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30


@pytest.mark.parametrize("name", ["predictions", "published", "open"])
def test_shipped_profiles_can_be_checked_without_any_data(name, capsys):
    assert check(load_profile(name)) in (0, 3) and "0 wrong" in capsys.readouterr().out


def test_unknown_name():
    with pytest.raises(InputError, match="did you mean imagenet_v2"):
        check(load_profile("paper"), only=["imagenet_v3"])


# Datasets -------------------------------------------------------------------------------------------------------------


def test_wrong_numbers_of_images(tmp_path):
    fixtures.imagenet_folder(tmp_path / "few")
    assert wrong("imagenet_1k", tmp_path / "few", "10 images, the full set has 11", reader="imagenet", expected=11)
    images = [image for label in range(1000) for image in fixtures.val_images((label,), 1, (8, 6))]
    images = [(f"ILSVRC2012_val_{i:08d}", label, content) for i, (_, label, content) in enumerate(images)]
    fixtures.imagenet_folder(tmp_path / "uneven", images)
    assert wrong("imagenet_1k", tmp_path / "uneven", "class n01440764 has 1 images, expected 50", expected=1000)


@pytest.mark.parametrize("which", ["a", "r"])
def test_another_selection_of_classes(tmp_path, which):
    columns, folder = imagenet_subset(which), f"imagenet-{which}"
    members, _ = fixtures.wnid_members(folder, [int(c) for c in columns], 1)
    for name, content in members.items():
        fixtures.write(tmp_path / name, content)
    spec = DatasetSpec("a_set", "class_folder", str(tmp_path), options={"columns": which}, expected=200)
    ((status, text),) = statuses(spec)  # the hash of the 200 wnids is that of the contract
    assert status == OK and "200 images, 200 classes" in text
    first, second = (tmp_path / folder / WNIDS[columns[k]] for k in (0, 1))
    next(first.iterdir()).rename(second / "more.jpg")
    assert any(status == WRONG and "199 classes" in text for status, text in statuses(replace(spec, title="again")))


def test_folders_of_v2_in_another_naming(tmp_path):
    fixtures.imagenet_v2(tmp_path / "good")
    assert [s for s, _ in statuses(DatasetSpec("imagenet_v2", "imagenet_v2", str(tmp_path / "good")))] == [OK]
    fixtures.imagenet_folder(tmp_path / "wnids")
    ((status, text),) = statuses(DatasetSpec("imagenet_v2", "imagenet_v2", str(tmp_path / "wnids")))
    assert status == WRONG and "not a class number from 0 to 999" in text


def test_a_flat_folder_of_validation_images(tmp_path, monkeypatch):
    pytest.importorskip("imagenet_x")
    fixtures.imagenet_flat(tmp_path)
    spec = DatasetSpec("imagenet_1k", "imagenet", str(tmp_path))
    assert [status for status, _ in statuses(spec)] == [OK]
    monkeypatch.setitem(sys.modules, "imagenet_x", None)
    ((status, text),) = statuses(replace(spec, title="again"))
    assert status == MISSING and "imagenet-x" in text


def test_resized_and_reencoded_images(tmp_path):
    def written(folder, image):
        images = [(f"ILSVRC2012_val_{i:08d}", i, image(i)) for i in range(20)]
        fixtures.imagenet_folder(tmp_path / folder, images)
        return statuses(DatasetSpec("imagenet_1k", "imagenet", str(tmp_path / folder)))

    ((status, text),) = written("resized", lambda i: fixtures.image_bytes(i, (40 + i, 30)))
    assert status == WRONG and "shorter side of 30" in text
    (first, _), (second, text) = written("again", lambda i: fixtures.image_bytes(i, (40 + i, 60 - i)))
    assert (first, second) == (OK, NOTE) and "same JPEG tables" in text
    ((status, _),) = written("original", lambda i: fixtures.image_bytes(i, (40 + i, 60 - i), quality=60 + i))
    assert status == OK


def test_corrupted_images_of_another_size(tmp_path):
    fixtures.imagenet_c(tmp_path, size=(112, 112))
    assert wrong("imagenet_c", tmp_path, "112 x 112, the release has 224 x 224")


def test_pictures_that_viewers_turn_are_noted(toy):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(toy.images(1) / "red" / "turned.png", exif=exif)
    _, (status, text) = statuses(toy.profile().datasets["images"])
    assert status == NOTE and text.startswith("1 of 4 images looked at carry a flag that turns them")


def test_damaged_image_is_named(tmp_path):
    name = next(iter(fixtures.imagenet_folder(tmp_path)))
    path = tmp_path / WNIDS[0] / f"{name}.JPEG"
    path.write_bytes(path.read_bytes()[:40])
    assert wrong("imagenet_1k", tmp_path, name, "decoded")


def test_probe_set_with_other_splits(tmp_path):
    fixtures.clip_benchmark(tmp_path, {"train": [0, 1, 2], "test": [3, 0]}, [str(i) for i in range(4)])
    sizes = "3 training, 0 validation and 2 test images; VTAB has 6,347, 423 and 711"
    assert wrong("kitti_distance", tmp_path, sizes, reader="splits", classes="")


def test_published_accuracies():
    paper = load_profile("paper").models
    assert published_accuracy(paper["vit_sup"], "imagenet_1k") == pytest.approx(85.728)
    assert published_accuracy(paper["vit_clip"], "imagenet_a") == pytest.approx(33.27, abs=0.01)
    assert published_accuracy(paper["convnext_clip"], "imagenet_1k") == pytest.approx(66.27)
    assert published_accuracy(ModelSpec("m", "timm", "tf_efficientnet_lite0"), "imagenet_1k") == pytest.approx(74.846)
    assert np.isnan(published_accuracy(ModelSpec("m", "timm", "nothing"), "imagenet_1k"))
    assert np.isnan(published_accuracy(paper["vit_sup"], "cue_conflict"))


# A real network and images --------------------------------------------------------------------------------------------


def sample_profile(folder: Path, weights: Path, expected: int):
    content = {
        "name": "sample",
        "models": {"lite0": {"source": "timm", "name": "tf_efficientnet_lite0", "checkpoint": str(weights)}},
        "datasets": {"imagenet_1k": {"reader": "class_folder", "path": str(folder), "expected": expected}},
        "dimensions": {"models": {"clean": "imagenet_1k"}},
    }
    return parse_profile(content, Path("sample.yaml"))


def run(profile):
    lines = []
    code = check(profile, forward=True, options={"device": "cpu"}, echo=lines.append)
    return code, "\n".join(lines)


def test_the_real_sample_passes_and_a_mislabelled_copy_is_named(shared_dir, efficientnet_lite0, tmp_path):
    """Labels are places in the sample's own sorted listing: folder k gets the name of class k, or k itself."""
    folders = sorted(path for path in (shared_dir / "data" / "imagenet_sample").iterdir() if path.is_dir())[::4]
    for copy, names, expected, said in (
        ("right", [folder.name for folder in folders], 0, ("lite0: top-1", "50 images, 50 classes", "as published")),
        ("by_rank", WNIDS, 2, ("WRONG", "ranks in a sorted list of folders", "mapped by wnid")),
        ("numbered", list(map(str, range(1000))), 2, ("'0' in", "rank in some sorted list of folders")),
    ):
        for name, folder in zip(names, folders, strict=False):
            shutil.copytree(folder, tmp_path / copy / name)
        code, text = run(sample_profile(tmp_path / copy, efficientnet_lite0, len(folders)))
        assert code == expected and all(words in text for words in said), text


def test_a_checkpoint_that_does_not_fit(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"nothing")
    labels = fixtures.imagenet_folder(tmp_path / "val")
    profile = sample_profile(tmp_path / "val", weights, len(labels))
    code, text = run(profile)
    assert code == 2 and "WRONG    lite0" in text
    weights.unlink()
    code, text = run(profile)
    assert code == 3 and "MISSING  lite0" in text and str(weights) in text


@pytest.mark.parametrize(("page", "status"), [("models", WRONG), ("transfer", OK)])
def test_a_network_of_other_classes_is_wrong_where_it_has_to_answer(toy, page, status):
    toy.images(1)
    toy.checkpoint()
    toy.checkpoint("wide", n_classes=1000)
    models = {name: {"source": "timm", "name": f"local-dir:{toy.root / name}"} for name in ("colour", "wide")}
    roles = {"tasks": [{"name": "t", "group": "natural", "dataset": "images"}]} if page == "transfer" else {}
    profile = toy.profile(toy.content(models) | {"dimensions": {page: roles or {"clean": "images"}}})
    found = [check_model(profile, spec) for spec in profile.models.values()]
    assert [finding.status for finding in found] == [OK, status]
    assert status == OK or found[1].text.startswith("the checkpoint has 1000 classes, the dataset's class space")


@pytest.mark.parametrize("reader", ["class_folder", "own"])
def test_a_network_at_chance_is_said_to_guess(toy, reader):
    """Each class holds the three colours alike; heads fitted to one's own labels cannot tell them apart either."""
    for k, path in enumerate(sorted(toy.images(12).rglob("*.png"))):
        path.rename(path.parents[1] / TOY_CLASSES[k % 3] / path.name)
    toy.checkpoint()
    content = toy.content()
    if reader == "own":
        content["datasets"]["images"] |= {"reader": "own", "classes": ""}
        content["models"]["colour"]["head"] = "probe"
    code, text = run(toy.profile(content))
    assert code == 0 and re.search("  note     images  .* colour: top-1 .* no better than guessing", text), text


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_a_tokenizer_that_nothing_here_reads_is_missing(toy, capsys):
    toy.images(1)
    config = toy.clip() / "open_clip_config.json"
    config.write_text(config.read_text().replace('"text_cfg": {', '"text_cfg": {"hf_tokenizer_name": "x", '))
    profile = toy.profile(toy.content({"clip": {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}"}}))
    found = check_model(profile, profile.models["clip"])
    assert found.status == MISSING and "pip install 'beyond-accuracy[siglip]'" in found.text
    command = ["predict", "--profile", str(toy.root / "toy.yaml"), "--device", "cpu", "--model", "clip"]
    assert main([*command, "--dataset", "images"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "clip: its tokenizer needs transformers: pip install 'beyond-accuracy[siglip]'" in line


@pytest.mark.parametrize(("side", "said"), [("trained", True), ("published", False)])
def test_another_side_of_the_published_accuracy_is_said(toy, side, said):
    config = toy.checkpoint() / "config.json"
    config.write_text(config.read_text().replace('"crop_pct"', '"test_input_size": [3, 24, 24], "crop_pct"'))
    found = check_model(profile := toy.profile(side=side), profile.models["colour"])
    assert found.status == OK and ("published at" in found.text and "side: published" in found.text) is said


def test_models_are_checked_without_network(monkeypatch):
    """A hub model that is not in the cache is missing, whatever the network does."""
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    profile = load_profile("paper")
    for spec in profile.models.values():
        assert check_model(profile, spec).status in (MISSING, OK)
