"""What each page asks of the networks, that it runs before the first notebook, and what is told beforehand."""

from dataclasses import replace

import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import DatasetSpec, load_profile
from beyond_accuracy.data import corruptions, readers, transforms
from beyond_accuracy.inference import plan
from beyond_accuracy.inference.plan import Request, requests
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report.build import build
from builders import code, write_notebook


def with_dimensions(toy, **dimensions):
    content = toy.content()
    content["datasets"]["second"] = dict(content["datasets"]["images"])
    content["dimensions"] = dimensions
    return toy.profile(content)


def test_datasets_are_found_wherever_roles_name_them(toy):
    profile = with_dimensions(
        toy,
        calibration={"clean": "images", "shifted": ["second", "images"]},
        mistakes={"clean": "images", "factors": "imagenet_x"},
        summary={"a": "images", "limit": 5, "deep": [{"tasks": {"dataset": "second"}}]},
        landscape={},
    )
    assert requests(profile, "calibration") == [Request("images"), Request("second")]
    assert requests(profile, "mistakes") == [Request("images")]
    assert requests(profile, "summary") == [Request("images"), Request("second")]
    assert requests(profile, "landscape") == requests(profile, "world") == []


def test_probes_ask_for_features(toy):
    profile = with_dimensions(toy, transfer={"features": ["images"], "tasks": [{"dataset": "second"}]})
    assert requests(profile, "transfer") == [Request("images", features=True), Request("second", features=True)]


def test_invariance_asks_for_every_rung_once(toy):
    (request,) = requests(with_dimensions(toy, invariance={"clean": "images"}), "invariance")
    assert request.transforms[0] == "none" and len(set(request.transforms)) == len(request.transforms)
    assert set(request.transforms) == {text for name in transforms.LADDERS for text in transforms.ladder(name)}
    (cut,) = requests(with_dimensions(toy, invariance={"clean": "images", "transforms": ["scale"]}), "invariance")
    assert cut.transforms == ("none", "scale=1.25", "scale=1.5", "scale=2", "scale=3")
    (one,) = requests(with_dimensions(toy, invariance={"clean": "images", "transforms": "scale"}), "invariance")
    assert one == cut
    with pytest.raises(InputError, match="invariance.transforms: unknown transform 'scal'; did you mean scale"):
        requests(with_dimensions(toy, invariance={"clean": "images", "transforms": ["scal"]}), "invariance")


def test_robustness_corrupts_one_set(toy):
    profile = with_dimensions(toy, robustness={"clean": "images", "corrupt": "second"})
    first, second = requests(profile, "robustness")
    assert first == Request("images") and second.dataset == "second"
    assert second.transforms[0] == "none" and len(second.transforms) == 1 + 5 * len(corruptions.NAMES)
    assert all(transforms.parse(text).text == text for text in second.transforms)


@pytest.mark.parametrize("name", ["mini", "smoke", "predictions"])
def test_shipped_profiles_ask_for_datasets_they_have(name):
    profile = load_profile(name)
    for dimension in profile.dimensions:
        for request in requests(profile, dimension):
            assert request.dataset in profile.datasets
            assert all(transforms.parse(text).text == text for text in request.transforms)


def test_filling_runs_everything_once(toy, toy_networks):
    toy.images()
    toy.checkpoint()
    profile = with_dimensions(
        toy, calibration={"clean": "images"}, transfer={"features": ["images"]}, mistakes={"clean": "second"}
    )
    store = Store(toy.store)
    filled = plan.fill(profile, "calibration", store, {"device": "cpu"})
    assert len(filled.keys) == 1 and filled.missing == [] and sum(toy_networks.CALLS) == 12
    again = plan.fill(profile, "transfer", store, {"device": "cpu"})
    assert again.keys == filled.keys and sum(toy_networks.CALLS) == 12
    # the same images under another name are the same images
    assert plan.fill(profile, "mistakes", store, {"device": "cpu"}).keys == filled.keys
    assert sum(toy_networks.CALLS) == 12


def test_what_is_missing_is_listed_and_the_rest_runs(toy, toy_networks):
    toy.images(1)
    toy.checkpoint()
    content = toy.content()
    content["datasets"]["away"] = {"reader": "class_folder", "path": "nowhere", "classes": str(toy.classes)}
    content["dimensions"] = {"calibration": {"shifted": ["away"], "clean": "images"}}
    filled = plan.fill(toy.profile(content), "calibration", Store(toy.store), {"device": "cpu"})
    assert len(filled.missing) == 1 and filled.missing[0].startswith("away: ") and len(filled.keys) == 1
    assert sum(toy_networks.CALLS) == 3


def test_a_page_says_which_part_of_a_set_it_uses():
    profile = load_profile("open")
    cut = ["ImageNet-V2: 1,000 of 10,000 images", "ImageNet-R: 750 of 30,000 images"]
    assert plan.cuts(profile, "calibration") == cut and plan.cuts(profile, "shape_bias") == []
    assert plan.cuts(profile, "synthetic") == ["PUG: ImageNet: 600 of 88,328 images, from 6 of the release's shards"]
    assert plan.cuts(load_profile("paper"), "calibration") == []


def test_a_set_that_cannot_be_read_hides_no_other(toy):
    """Else the page's key would not hold the other sets' answers, and an old page would pass for unchanged."""
    toy.images(1)
    toy.checkpoint()
    content = toy.content()
    content["datasets"]["bad"] = {"reader": "class_folder", "path": str(toy.root / "bad"), "classes": str(toy.classes)}
    (toy.root / "bad" / "violet").mkdir(parents=True)
    (toy.root / "bad" / "violet" / "a.png").write_bytes(b"")
    content["dimensions"] = {"calibration": {"shifted": ["bad"], "clean": "images"}}
    filled = plan.fill(toy.profile(content), "calibration", Store(toy.store), {"device": "cpu"})
    assert len(filled.wrong) == 1 and "violet" in filled.wrong[0] and len(filled.keys) == 1 and not filled.missing


def test_what_is_said_of_the_images_is_stamped(toy):
    """Factors and class names are read by pages, and no network sees them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    toy.images(1)
    toy.checkpoint()
    content, found = toy.content(models={}), []
    content["datasets"]["task"] = {
        "reader": "parquet",
        "path": str(toy.root / "task.parquet"),
        "classes": str(toy.classes),
    }
    content["dimensions"] = {"calibration": {"clean": "task"}}
    image = next((toy.data / "images" / "red").iterdir()).read_bytes()
    for level in (1, 2, 1):
        rows = {"id": ["a"], "image": [image], "label": [0], "level": [level]}
        pq.write_table(pa.table(rows), toy.root / "task.parquet")
        readers.LOADED.clear()
        profile = toy.profile(content)
        found.append(readers.load_dataset(profile.datasets["task"]).described)
    assert found[0] == found[2] != found[1]


def test_what_several_requests_lack_is_told_once(toy):
    toy.checkpoint()
    profile = with_dimensions(toy, conventions={"clean": "images"})
    assert len(requests(profile, "conventions", {"device": "cpu"})) > 3
    filled = plan.fill(profile, "conventions", Store(toy.store), {"device": "cpu"})
    assert len(filled.missing) == 1 and filled.missing[0].startswith("images: ")


def test_imported_models_have_no_features_to_wait_for(toy):
    toy.images(1)
    toy.checkpoint()
    profile = with_dimensions(toy, transfer={"features": ["images"]}, calibration={"clean": "images"}).select("colour")
    bare = toy.content(models={})
    bare["dimensions"] = {"transfer": {"features": ["images"]}, "calibration": {"clean": "images"}}
    mine = toy.profile(bare).select("mine")
    filled = plan.fill(mine, "transfer", Store(toy.store), {})
    assert filled.keys == [] and filled.missing == []
    assert "no predictions of mine" in plan.fill(mine, "calibration", Store(toy.store), {}).missing[0]
    assert list(profile.models) == ["colour"]


def test_the_paper_profile_shifts_as_the_paper_does():
    (request,) = requests(load_profile("paper"), "invariance")
    assert "shift=30@paper" in request.transforms and "shift=30" not in request.transforms
    assert {"none", "scale=1.5", "resolution=640", "hflip=1"} <= set(request.transforms)


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


@pytest.mark.parametrize(("keep", "size"), [("none", 0), ("logits", 2000), ("all", 2000 + plan.FEATURE_BYTES)])
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


def test_a_large_report_says_so_before_it_starts(toy, kernels):
    toy.images(1)
    toy.checkpoint()
    content = toy.content()
    content["datasets"]["images"].update(expected=1_330_000)
    content["dimensions"] = {"calibration": {"clean": "images"}}
    told, parameters = [], code('PROFILE = ""\nMODELS = ""', "parameters")
    notebook = write_notebook(toy.root / "notebooks" / "03_calibration.ipynb", parameters)
    build(toy.profile(content), notebooks=notebook.parent, echo=told.append)
    assert told and told[0].startswith("The store (") and "about 7.0 GB" in told[0]
