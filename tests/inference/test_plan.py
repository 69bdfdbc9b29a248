"""What each page asks of the networks, that it runs before the first notebook, and what is told beforehand."""

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, load_profile
from beyond_accuracy.data import corruptions, published, readers, transforms
from beyond_accuracy.inference import plan
from beyond_accuracy.inference.plan import Request, requests
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report.build import build
from builders import code, write_notebook

ONE = {"models": {"clean": "imagenet_1k"}}


def with_dimensions(toy, datasets=None, **dimensions):
    content = toy.content()
    content["datasets"]["second"] = dict(content["datasets"]["images"])
    content["datasets"] |= datasets or {}
    content["dimensions"] = dimensions
    return toy.profile(content)


def filled(toy, profile, dimension):
    return plan.fill(profile, dimension, Store(toy.store), {"device": "cpu"})


def test_datasets_are_found_wherever_roles_name_them(toy):
    profile = with_dimensions(
        toy,
        calibration={"clean": "images", "shifted": ["second", "images"]},
        mistakes={"clean": "images", "factors": "imagenet_x"},
        summary={"a": "images", "limit": 5, "deep": [{"tasks": {"dataset": "second"}}]},
        landscape={},
        transfer={"features": ["images"], "tasks": [{"dataset": "second"}]},
    )
    both = [Request("images"), Request("second")]
    assert requests(profile, "calibration") == requests(profile, "summary") == both
    assert requests(profile, "mistakes") == [Request("images")]
    assert requests(profile, "landscape") == requests(profile, "world") == []
    assert requests(profile, "transfer") == [replace(request, features=True) for request in both]  # for probes


def test_invariance_asks_for_every_rung_once(toy):
    def asked(**more):
        (request,) = requests(with_dimensions(toy, invariance={"clean": "images", **more}), "invariance")
        return request.transforms

    whole = asked()
    assert whole[0] == "none" and len(set(whole)) == len(whole)
    assert set(whole) == {text for name in transforms.LADDERS for text in transforms.ladder(name)}
    cut = ("none", "scale=1.25", "scale=1.5", "scale=2", "scale=3")
    assert asked(transforms=["scale"]) == asked(transforms="scale") == cut
    with pytest.raises(InputError, match="invariance.transforms: unknown transform 'scal'; did you mean scale"):
        asked(transforms=["scal"])


def test_robustness_corrupts_one_set(toy):
    profile = with_dimensions(toy, robustness={"clean": "images", "corrupt": "second"})
    first, second = requests(profile, "robustness")
    assert first == Request("images") and second.dataset == "second"
    assert second.transforms[0] == "none" and len(second.transforms) == 1 + 5 * len(corruptions.NAMES)
    assert all(transforms.parse(text).text == text for text in second.transforms)


@pytest.mark.parametrize("name", ["mini", "smoke", "predictions"])
def test_shipped_profiles_ask_for_datasets_they_have(name):
    profile = load_profile(name)
    for request in [request for dimension in profile.dimensions for request in requests(profile, dimension)]:
        assert request.dataset in profile.datasets
        assert all(transforms.parse(text).text == text for text in request.transforms)


def test_the_paper_profile_shifts_as_the_paper_does():
    (request,) = requests(load_profile("paper"), "invariance")
    assert "shift=30@paper" in request.transforms and "shift=30" not in request.transforms
    assert {"none", "scale=1.5", "resolution=640", "hflip=1"} <= set(request.transforms)


def test_a_page_says_which_part_of_a_set_it_uses():
    profile = load_profile("open")
    cut = ["ImageNet-V2: 1,000 of 10,000 images", "ImageNet-R: 750 of 30,000 images"]
    assert plan.cuts(profile, "calibration") == cut and plan.cuts(profile, "shape_bias") == []
    assert plan.cuts(profile, "synthetic") == ["PUG: ImageNet: 600 of 88,328 images, from 6 of the release's shards"]
    assert plan.cuts(load_profile("paper"), "calibration") == []


# Filling --------------------------------------------------------------------------------------------------------------


def test_filling_runs_everything_once(toy, toy_networks):
    toy.images(1), toy.checkpoint()
    features, second = {"features": ["images"]}, {"clean": "second"}
    profile = with_dimensions(toy, calibration={"clean": "images"}, transfer=features, mistakes=second)
    first = filled(toy, profile, "calibration")
    assert len(first.keys) == 1 and first.missing == []
    # features were kept, and the same images under another name are the same images
    assert filled(toy, profile, "transfer").keys == filled(toy, profile, "mistakes").keys == first.keys
    assert sum(toy_networks.CALLS) == 3


def test_what_is_missing_or_wrong_is_told_once_and_hides_no_other_set(toy):
    """Else the page's key would not hold the other sets' answers, and an old page would pass for unchanged."""
    toy.images(1), toy.checkpoint()
    (toy.root / "bad" / "violet").mkdir(parents=True)
    (toy.root / "bad" / "violet" / "a.png").write_bytes(b"")
    folder = {"reader": "class_folder", "classes": str(toy.classes)}
    sets = {"away": folder | {"path": "nowhere"}, "bad": folder | {"path": str(toy.root / "bad")}}
    pages = {"calibration": {"shifted": ["away", "bad"], "clean": "images"}, "conventions": {"clean": "away"}}
    profile = with_dimensions(toy, sets, **pages)
    found = filled(toy, profile, "calibration")
    assert len(found.keys) == 1 and "violet" in found.wrong[0] and found.missing[0].startswith("away: ")
    assert len(found.missing) == len(found.wrong) == 1
    assert len(requests(profile, "conventions", {"device": "cpu"})) > 3
    assert filled(toy, profile, "conventions").missing == found.missing


def test_imported_models_have_no_features_to_wait_for(toy):
    toy.images(1)
    content = toy.content(models={})
    content["dimensions"] = {"transfer": {"features": ["images"]}, "calibration": {"clean": "images"}}
    mine = toy.profile(content).select("mine")
    found = filled(toy, mine, "transfer")
    assert found.keys == [] and found.missing == []
    assert "no predictions of mine" in filled(toy, mine, "calibration").missing[0]


def test_what_is_said_of_the_images_is_stamped(toy):
    """Factors and class names are read by pages, and no network sees them."""
    toy.images(1)
    task = {"reader": "parquet", "path": str(toy.root / "task.parquet"), "classes": str(toy.classes)}
    profile, found = with_dimensions(toy, {"task": task}, calibration={"clean": "task"}), []
    image = next((toy.data / "images" / "red").iterdir()).read_bytes()
    for level in (1, 2, 1):
        rows = {"id": ["a"], "image": [image], "label": [0], "level": [level]}
        pq.write_table(pa.table(rows), toy.root / "task.parquet")
        readers.LOADED.clear()
        found.append(readers.load_dataset(profile.datasets["task"]).described)
    assert found[0] == found[2] != found[1]


# Passes and room ------------------------------------------------------------------------------------------------------


def test_each_run_counts_once():
    profile = load_profile("paper")
    small = replace(profile, dimensions={**ONE, "calibration": {"clean": "imagenet_1k"}})
    assert plan.forward_passes(small) == 50_000
    small = replace(profile, dimensions={"robustness": {"clean": "imagenet_1k", "real": "imagenet_real"}})
    assert plan.forward_passes(small) == 50_000  # ReaL shares the images of the validation set
    small = replace(profile, dimensions={**ONE, "conventions": {"clean": "imagenet_1k", "limit": 100}})
    passes = plan.runs(small)
    assert [run.images for run in passes].count(100) == len(passes) - 1 == len({run.settings for run in passes})
    smoke = replace(load_profile("smoke"), dimensions={"models": {"clean": "world_val"}})
    assert plan.forward_passes(smoke) == 320  # the limit of the dataset


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


def test_a_large_report_says_so_before_it_starts(toy):
    content = toy.content()
    content["datasets"]["images"].update(expected=1_330_000)
    content["dimensions"] = {"calibration": {"clean": "images"}}
    notebook = write_notebook(
        toy.root / "notebooks" / "03_calibration.ipynb", code('PROFILE = MODELS = ""', "parameters")
    )

    def stop(line):
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match=r"^The store \(.* needs about 7.0 GB"):
        build(toy.profile(content), notebooks=notebook.parent, echo=stop)


# Rates and time -------------------------------------------------------------------------------------------------------


def test_every_model_of_the_paper_has_published_rates_on_the_same_cards():
    found = [plan.published_throughput(spec) for spec in load_profile("paper").models.values()]
    assert {(len(table), frozenset(table.card)) for table in found} == {(5, frozenset(found[0].card))}
    for table in found:
        assert (table.side == 224).all() and table.source.str.startswith("timm benchmark-infer-").all()


def test_known_rows():
    """Typed from timm's benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv, rounded to a tenth."""
    deit = plan.published_throughput(ModelSpec("x", "timm", "deit3_base_patch16_224.fb_in22k_ft_in1k"))
    assert deit.set_index("card").images_per_second["NVIDIA RTX 3090"] == 1485.7
    convnext = plan.published_throughput(ModelSpec("x", "open_clip", "convnext_base", "laion400m_s13b_b51k"), 288)
    assert convnext.set_index("card").images_per_second["NVIDIA RTX 3090"] == 788.1
    assert deit.images_per_second.is_monotonic_decreasing
    assert plan.published_throughput(ModelSpec("x", "timm", "convnext_base"), side=300).empty


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("timm", "hf-hub:timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_224"),
        ("timm", "local-dir:models/convnext_base", ""),
        ("open_clip", "ViT-B-16-quickgelu", "vit_base_patch16_clip_quickgelu_224"),
        ("open_clip", "ViT-L-14-336", "vit_large_patch14_clip_336"),
        ("open_clip", "ViT-H-14", "vit_huge_patch14_clip_224"),
        ("open_clip", "convnext_base_w", "convnext_base"),
        ("open_clip", "RN50", ""),
        ("open_clip", "no-such-model", ""),
        ("predictions", "", ""),
    ],
)
def test_architecture(source, name, expected):
    assert plan.architecture(ModelSpec("x", source, name)) == expected


def test_rates_are_of_timms_architectures_and_of_most_of_the_leaderboard():
    import timm

    table, board = plan.published_rates(), published.leaderboard()
    assert set(table.model) <= set(timm.list_models())
    assert not table.duplicated(["device", "model", "side"]).any() and (table.images_per_second > 0).all()
    names = board["model"].where(board["source"] == "timm", board["model"].str.partition("/")[0])
    specs = [ModelSpec("x", source, name) for source, name in zip(board["source"], names, strict=True)]
    assert sum(len(plan.published_throughput(spec)) > 0 for spec in specs) > 0.9 * len(specs)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two models, 36,000 images."""
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    paper = load_profile("paper")
    datasets = {"imagenet_1k": replace(paper.datasets["imagenet_1k"], limit=36_000)}
    models = {name: paper.models[name] for name in ("vit_sup", "convnext_sup")}
    return replace(paper, models=models, datasets=datasets, dimensions=ONE)


def test_hours_are_passes_over_rates_summed_over_models(small):
    table = plan.projected_hours(small).set_index("card")
    # RTX 4090, typed from timm's table: 2724.5 and 2101.7 images per second
    assert table.hours["NVIDIA RTX 4090"] == pytest.approx(36_000 / 3600 * (1 / 2724.5 + 1 / 2101.7), rel=1e-4)
    assert len(table) == 5 and table.hours.is_monotonic_increasing
    sizes = replace(small, dimensions={"invariance": {"clean": "imagenet_1k", "transforms": ["resolution"]}})
    expected = 36_000 * sum((side / 224) ** 2 for side in (112, 224, 336, 512, 640))
    assert plan.usual_passes(sizes) == pytest.approx(expected)  # larger inputs count by area


def test_a_card_measured_here_comes_first_and_needs_every_model(small, tmp_path):
    def measured(rows):
        pd.DataFrame(rows, columns=plan.RATES).to_csv(tmp_path / "rates.csv", index=False)
        return plan.projected_hours(small)

    assert plan.measured_throughput(small.models["vit_sup"]).empty
    rows = [("My card", "deit3_base_patch16_224", 224, "bf16", 10.0, "make bench")]
    assert "My card" not in set(measured(rows).card)
    first = measured([*rows, ("My card", "convnext_base", 224, "bf16", 20.0, "make bench")]).iloc[0]
    assert (first.card, first.source) == ("My card", "make bench")
    assert first.hours == pytest.approx(10 * (1 / 10 + 1 / 20))
    assert "90 min" in plan.projection(small)[1]
    pd.DataFrame({"device": ["a card"]}).to_csv(tmp_path / "rates.csv", index=False)
    with pytest.raises(InputError, match="images_per_second"):
        plan.measured_throughput(small.models["vit_sup"])


def test_models_without_a_rate_are_named(small):
    models = small.models | {"own": ModelSpec("own", "timm", "local-dir:somewhere")}
    lines = plan.projection(replace(small, models=models))
    assert "2 models one after the other (0.04 million passes each" in lines[0] and "without own" in lines[-1]
    assert plan.projection(replace(small, models={"own": models["own"]})) == []
