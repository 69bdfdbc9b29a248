"""What a report will need, told beforehand: passes over images, and room in the store."""

from dataclasses import replace

import pytest

from beyond_accuracy import plan
from beyond_accuracy.profiles import DatasetSpec, load_profile
from beyond_accuracy.report import build

ONE = {"models": {"clean": "imagenet_1k"}}


def test_each_run_counts_once():
    profile = load_profile("paper")
    small = replace(profile, dimensions={**ONE, "calibration": {"clean": "imagenet_1k"}})
    assert plan.forward_passes(small) == 50_000
    small = replace(profile, dimensions={"robustness": {"clean": "imagenet_1k", "real": "imagenet_real"}})
    assert plan.forward_passes(small) == 50_000  # ReaL shares the images of the validation set
    small = replace(profile, dimensions={**ONE, "conventions": {"clean": "imagenet_1k", "limit": 100}})
    passes = plan.runs(small)
    assert [run.images for run in passes].count(100) == len(passes) - 1 == len({run.settings for run in passes})


def test_a_limit_of_the_dataset_counts():
    profile = load_profile("smoke")
    assert plan.forward_passes(replace(profile, dimensions={"models": {"clean": "world_val"}})) == 320
    assert plan.forward_passes(replace(profile, dimensions={"invariance": {"clean": "world_invariance"}})) % 64 == 0


@pytest.mark.parametrize(
    ("keep", "size"),
    [("none", 0), ("logits", 2000), ("all", 2000 + plan.FEATURE_BYTES)],
)
def test_bytes_of_an_image(keep, size):
    spec = DatasetSpec("a", "imagenet", keep=keep)
    assert plan.bytes_per_image(spec) - plan.ROW_BYTES == size
    without_features = size - (plan.FEATURE_BYTES if keep == "all" else 0)
    assert plan.bytes_per_image(spec, "scale=2") - plan.ROW_BYTES == without_features
    assert plan.bytes_per_image(DatasetSpec("a", "splits", classes="", keep="logits")) == plan.ROW_BYTES


def test_the_estimate_is_near_what_is_stored(toy):
    toy.images(per_class=200)
    toy.checkpoint()
    content = toy.content(chunk=512)
    content["datasets"]["images"].update(keep="logits", expected=600)
    outputs = toy.outputs(content)
    outputs.fill("images", ["none"])
    files = [path for path in (toy.store / "predictions").rglob("*") if path.suffix in (".parquet", ".npy")]
    stored = sum(path.stat().st_size for path in files)
    told = plan.store_gigabytes(toy.profile(content)) * 1e9
    assert told / 2 < stored < 2 * told


def test_room_is_told_and_compared(toy):
    paper = replace(load_profile("paper"), dimensions=ONE)
    first, second = plan.disk_lines(paper, free=0.05)
    assert str(toy.store) in first and "about 0.4 GB for the whole report; 0.1 GB are free" in first
    assert "not enough" in second and "--cache-dir" in second
    assert list(plan.disk_lines(paper, least=1.0)) == []
    assert list(plan.disk_lines(load_profile("predictions"))) == []  # no networks
    assert len(list(plan.disk_lines(load_profile("paper"), ["models"], 0.1, free=0.05))) == 2


def test_a_large_report_says_so_before_it_starts(toy):
    toy.images(1)
    toy.checkpoint()
    content = toy.content()
    content["datasets"]["images"].update(expected=2_645_000)
    content["dimensions"] = {"calibration": {"clean": "images"}}
    told = []
    notebooks = toy.root / "none"
    notebooks.mkdir()
    build(toy.profile(content), notebooks=notebooks, echo=told.append)
    assert told and told[0].startswith("The store (") and "about 7.0 GB" in told[0]
