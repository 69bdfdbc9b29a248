"""The paper profile from end to end: tiny data in the official forms, random models of the real families, the commands
a user types. Only size is cut: readers, paths, pages and conventions are those of `profiles/paper.yaml`."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

import fixtures_datasets as fixtures
import golden
import sentences
from beyond_accuracy.base.paths import notebooks_dir
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.cli import main

pytest.importorskip("imagenet_x", reason="ImageNet-X annotations are an optional extra")


@pytest.fixture(scope="module")
def small_paper(tmp_path_factory):
    """Folder with data and models, and a profile that extends `paper` by nothing but sizes and paths of weights."""
    root = tmp_path_factory.mktemp("paper")
    fixtures.paper_data(root / "data")
    paper = load_profile("paper")
    content = {
        "extends": "paper",
        "name": "small-paper",
        "settings": {"precision": "fp32", "resamples": 50, "prompts": "a photo of a {c}.", "workers": 0, "chunk": 64},
        "models": {name: {"pretrained": "", **entry} for name, entry in fixtures.paper_models(root / "models").items()},
        "datasets": {name: {"expected": 0} for name in paper.datasets if name != "imagenet_real"},
        "dimensions": {"invariance": {"clean": "imagenet_few"}, "conventions": {"limit": 6}},
    }
    content["datasets"]["imagenet_few"] = {"reader": "imagenet", "path": "imagenet_1k", "limit": 6}
    (root / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return root


@pytest.fixture
def here(small_paper, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(small_paper / "out"))
    arguments = ["--data-dir", str(small_paper / "data"), "--cache-dir", str(small_paper / "cache")]
    return small_paper, ["--profile", str(small_paper / "small.yaml"), *arguments]


def test_check_finds_nothing_wrong(here, capsys):
    root, arguments = here
    code = main(["check", *arguments, "--device", "cpu"])
    out = capsys.readouterr().out
    # the sizes of VTAB's splits are a contract that tiny splits break; nothing else may be wrong or missing
    complaints = [
        line for line in out.splitlines() if line.startswith(("  WRONG", "  MISSING")) and "VTAB has" not in line
    ]
    assert complaints == [], complaints
    assert code == 2 and out.count("VTAB has") == 19
    assert main(["check", *arguments, "--only", "imagenet_1k,imagenet_c,pug_imagenet,vit_clip"]) == 0


def test_predict_on_the_big_sets(here, tmp_path):
    _, arguments = here
    rows = tmp_path / "rows.parquet"
    command = ["predict", *arguments, "--model", "convnext_sup", "--device", "cpu"]
    assert main([*command, "--dataset", "imagenet_c", "--output", str(rows)]) == 2  # random weights: said to guess
    frame = pd.read_parquet(rows)
    assert len(frame) == 300 and frame["id"].str.fullmatch(r"[a-z_]+/[1-5]/ILSVRC2012_val_\d{8}").all()
    assert main([*command, "--dataset", "imagenet_v2", "--output", str(rows)]) == 0
    assert sorted(pd.read_parquet(rows)["target"]) == [0, 1, 2, 10, 100, 207]


def report(here, *options: str) -> dict[str, dict]:
    """Run `report` as a user would; status of every page."""
    root, arguments = here
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "beyond_accuracy.cli", "report", *arguments, "--device", "cpu", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    folder = root / "out" / "report" / "small-paper"
    states = [json.loads(path.read_text()) for path in sorted((folder / ".state" / "pages").glob("*.json"))]
    assert done.returncode == 0, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
    assert (folder / "index.html").is_file()
    return {state["name"]: state for state in states}


def test_a_page_is_built(here, kernels, capsys):
    assert main(["report", *here[1], "--device", "cpu", "--only", "shape_bias"]) == 0, capsys.readouterr()
    results = pd.read_csv(here[0] / "out" / "report" / "small-paper" / "results.csv")
    assert set(results["model"]) == {"vit_sup", "convnext_sup", "vit_clip", "convnext_clip"}
    assert set(results["dataset"]) == {"cue_conflict"}


@pytest.mark.slow
def test_every_page_is_built(here):
    states = report(here)
    pages = [path.stem for path in sorted(notebooks_dir().glob("[0-9]*_*.ipynb"))]
    built = {name: state["status"] for name, state in states.items()}
    dimensions = load_profile("paper").dimensions
    wanted = [page for page in pages if page.split("_", 1)[1] in {*dimensions, "overview"}]
    assert built == dict.fromkeys(wanted, "ok")
    results = pd.read_csv(here[0] / "out" / "report" / "small-paper" / "results.csv")
    robustness = results[(results["dimension"] == "robustness") & (results["metric"] == "accuracy")]
    sets = {"v2", "a", "r", "sketch", "c", "hard", "real", "1k"}
    assert {f"imagenet_{name}" for name in sets} | {"average"} == set(robustness["dataset"])
    moved = results[results["dimension"] == "conventions"]
    assert set(moved[moved["metric"] == "flip_rate:classes=all"]["dataset"]) == {"imagenet_a", "imagenet_r"}
    assert set(moved[moved["metric"] == "flip_rate:preset=paper"]["model"]) == {"vit_sup", "convnext_sup"}
    factors = results[(results["dimension"] == "synthetic") & results["metric"].str.fullmatch("accuracy:[a-z_]+")]
    assert set(factors["metric"]) == {f"accuracy:{factor}" for factor in [*fixtures.PUG_LEVELS, "average"]}
    places = [here[0] / "out" / kind / "small-paper" for kind in ("report", "figures")]
    moved = golden.moved(golden.read(golden.GOLDEN / "small-paper"), golden.collect(*places))
    # Probes of networks that guess, on 10 to 15 images: processors differ in several (tools/golden.py, FITTED).
    assert [line for line in moved if "transfer/" not in line and "('transfer'" not in line] == []
    assert sentences.check(*places, {name: spec.label for name, spec in load_profile("paper").models.items()}) == []


@pytest.mark.slow
def test_without_the_validation_set_only_what_needs_it_is_lost(here, small_paper, tmp_path, monkeypatch):
    """The set that needs an agreement: pages with other sets are built from these, and the exit code says it lacks."""
    content = yaml.safe_load((small_paper / "small.yaml").read_text(encoding="utf-8"))
    for name in ("imagenet_1k", "imagenet_few"):
        content["datasets"][name] |= {"path": "nowhere"}
    content["datasets"]["imagenet_few"]["reader"] = "imagenet"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content | {"name": "without"}), encoding="utf-8")
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path / "out"))
    _, (_, _, *arguments) = here
    command = [sys.executable, "-m", "beyond_accuracy.cli", "report", "--profile", str(tmp_path / "small.yaml")]
    only = ["models", "mistakes", "calibration", "robustness", "invariance", "conventions"]
    command += [*arguments, "--device", "cpu", "--only", ",".join(only)]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    folder = tmp_path / "out" / "report" / "without"
    states = [json.loads(path.read_text()) for path in sorted((folder / ".state" / "pages").glob("*.json"))]
    lost = {state["name"] for state in states if state["status"] == "missing"}
    assert lost == {"01_mistakes", "07_invariance"}, (done.stdout[-3000:], done.stderr[-3000:])
    assert {state["status"] for state in states if state["name"] not in lost} == {"ok"} and done.returncode == 3
    results = pd.read_csv(folder / "results.csv")
    accuracy = results[(results["dimension"] == "robustness") & (results["metric"] == "accuracy")]
    assert {f"imagenet_{name}" for name in ("v2", "a", "r", "sketch", "c", "hard")} < set(accuracy["dataset"])
    assert set(results[results["dimension"] == "calibration"]["dataset"]) == {"imagenet_r"}
    assert set(results[results["dimension"] == "conventions"]["dataset"]) == {"imagenet_a", "imagenet_r"}
    assert {"params", "gflops"} <= set(results[results["dimension"] == "models"]["metric"])
    text = (folder / "04_robustness.html").read_text(encoding="utf-8")
    assert "imagenet_1k" in text and "mean loss" not in text


@pytest.mark.slow
def test_models_of_the_real_size(small_paper, monkeypatch, tmp_path):
    """ViT-B/16 and ConvNeXt-B with random weights, supervised and CLIP: the real graphs, input sizes and heads."""
    import open_clip
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    models = {}
    for name, spec in load_profile("paper").models.items():
        own = spec.source == "timm"
        network = timm.create_model(spec.id, num_classes=1000) if own else open_clip.create_model(spec.id)
        file = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
        models[name] = {"checkpoint": str(file)}  # prepared as the profile's tag says
    content = {"extends": "paper", "name": "real-size", "models": models, "settings": {"prompts": "a photo of a {c}."}}
    content["datasets"] = {"imagenet_1k": {"expected": 0, "limit": 4}}
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(small_paper / "data"))
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "cache"))
    for name in models:
        rows = tmp_path / f"{name}.parquet"
        command = ["predict", "--profile", str(tmp_path / "real.yaml"), "--model", name, "--dataset", "imagenet_1k"]
        assert main([*command, "--device", "cpu", "--batch-size", "2", "--output", str(rows)]) == 0
        frame = pd.read_parquet(rows)
        assert len(frame) == 4 and len(frame["logits"][0]) == 1000 and frame["confidence"].between(0, 1).all()
