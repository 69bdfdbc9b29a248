"""From a folder and candidates to a profile and its report."""

import time

import numpy as np
import pandas as pd
import pytest
import yaml

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.cli import main
from beyond_accuracy.report import compare
from beyond_accuracy.report.build import build
from own_images import noise, toys  # noqa: E402 - the folder of tests is on no import path

QUICK = {"depth": "quick", "options": {"device": "cpu"}}

pytestmark = pytest.mark.usefixtures("apart")


def test_candidates_are_named_or_clear(monkeypatch):
    named, imports = compare.chosen(["mini:vit_clip", "timm:resnet18.a1_in1k", "open_clip:ViT-B-16/openai", "dinov2_b"])
    assert [c.spec.source for c in named] == ["open_clip", "timm", "open_clip", "timm"]
    assert named[2].spec.pretrained == "openai" and imports == ["mini_world.architectures"]
    assert all(c.spec.head == "probe" for c in named) and named[3].licence == "Apache-2.0"
    with pytest.raises(InputError, match="did you mean dinov2_b"):
        compare.chosen(["dino2_b"])
    with pytest.raises(InputError, match="twice"):
        compare.chosen(["mini:vit_sup", "mini:vit_sup"])
    monkeypatch.setattr(compare, "hub_reachable", lambda: False)
    monkeypatch.setattr(compare, "locate", lambda spec: type("W", (), {"path": None})())
    lines = []
    with pytest.raises(DataMissing, match="no candidate"):
        compare.chosen([], lines.append)
    assert len(lines) == 8


def test_who_is_clearly_behind():
    rng = np.random.default_rng(0)
    good, bad = rng.random(400) < 0.9, rng.random(400) < 0.6
    assert set(compare.behind({"a": good, "b": rng.random(400) < 0.88, "c": bad})) == {"c"}
    assert compare.behind({"a": good, "c": bad}) == {}  # two always stay


def test_a_profile_is_written_and_its_report_built_by_any_command(tmp_path, apart, capsys):
    toys(tmp_path / "My toys", 10)
    profile = compare.prepare(tmp_path / "My toys", ["mini:vit_sup", "mini:convnext_sup"], **QUICK)
    said = capsys.readouterr().out
    assert said.index("60 images, 6 classes") < said.index("about ") < said.index("% right")
    assert set(yaml.safe_load(profile.read_text())["models"]) == {"vit_sup", "convnext_sup"}
    report = ["report", "--profile", str(profile), "--only", "own_images", "--device", "cpu"]
    assert main(report) == 0, capsys.readouterr().out
    html = (apart / "my-toys" / "12_own_images.html").read_text(encoding="utf-8")
    assert "car&amp;&lt;b&gt;van" in html and "car&<b>van" not in html
    results = pd.read_csv(apart / "my-toys" / "results.csv")
    assert {"accuracy", "balanced_accuracy", "accuracy:shots=all"} <= set(results["metric"])
    compare.prepare(tmp_path / "My toys", ["mini:vit_sup", "mini:convnext_sup"], **QUICK)
    capsys.readouterr()
    assert main(report) == 0 and "12_own_images: unchanged" in capsys.readouterr().out
    profile.write_text(profile.read_text().replace("head: probe", "head: knn"))
    with pytest.raises(InputError, match="was edited since it was written: run `beyond-accuracy report"):
        compare.prepare(tmp_path / "My toys", ["mini:vit_sup"], **QUICK)


def test_who_is_clearly_behind_is_left_out_of_later_stages_and_told(tmp_path, toy, capsys):
    toys(tmp_path / "toys", 20)
    models = ["mini:convnext_sup", "mini:vit_sup", f"timm:local-dir:{toy.checkpoint()}"]  # it knows three colours
    profile = yaml.safe_load(compare.prepare(tmp_path / "toys", models, **QUICK).read_text())
    said, pages = capsys.readouterr().out, profile["dimensions"]
    assert "colour: not taken to corruptions and transforms (" in said and "points behind [" in said
    assert pages["robustness"]["models"] == pages["invariance"]["models"] == ["convnext_sup", "vit_sup"]
    assert list(pages["own_images"]["dropped"]) == ["colour"] and list(profile["models"])[2] == "colour"
    kept = compare.prepare(tmp_path / "toys", models, name="all", everything=True, **QUICK)
    assert "models" not in yaml.safe_load(kept.read_text())["dimensions"]["robustness"]
    assert "not taken" not in capsys.readouterr().out


def test_what_one_can_mistype_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        compare.prepare(tmp_path / "nowhere")
    with pytest.raises(InputError, match="unknown depth 'fast'"):
        compare.prepare(tmp_path, depth="fast")


@pytest.mark.parametrize(("classes", "each"), [(2, 15), (6, 2)])
def test_small_folders_have_a_page_too(tmp_path, classes, each):
    toys(tmp_path / "toys", each, classes)
    profile = compare.prepare(tmp_path / "toys", ["mini:vit_sup", "mini:convnext_clip"], everything=True, **QUICK)
    assert build(profile, only=["own_images"], options=QUICK["options"]) == 0


def test_one_image_per_class_is_one_message(tmp_path, capsys):
    for k in range(40):
        noise(tmp_path / "many" / f"c{k}" / "1.png", k)
    assert main(["compare", str(tmp_path / "many"), "--models", "mini:vit_sup", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "40 images of 40 classes: at least two classes need two images" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_real_network_beside_two_small_ones(tmp_path, efficientnet_lite0, capsys):
    table = toys(tmp_path / "toys", 50)
    table.to_csv(tmp_path / "toys.csv", index=False)
    models = [f"timm:tf_efficientnet_lite0={efficientnet_lite0}", "mini:vit_sup", "mini:convnext_sup"]
    began = time.monotonic()
    command = ["compare", str(tmp_path / "toys.csv"), "--depth", "quick", "--device", "cpu", "--models", *models]
    assert main(command) == 0, capsys.readouterr().out
    assert time.monotonic() - began < 360  # on two idle cores
    results = pd.read_csv(tmp_path / "root" / "report" / "toys" / "results.csv")
    accuracy = results[(results["dimension"] == "own_images") & (results["metric"] == "accuracy")]
    assert len(accuracy) == 3 and (accuracy["value"] > 50).all()
