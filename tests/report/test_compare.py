"""From a folder and candidates to a profile and its report."""

import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.cli import main
from beyond_accuracy.dimensions import invariance, robustness
from beyond_accuracy.inference import heads
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import open_page
from beyond_accuracy.report import compare
from beyond_accuracy.report.build import build
from own_images import UGLY, noise, toys  # noqa: E402 - the folder of tests is on no import path

# VmHWM and not RUSAGE_SELF, which still counts what the process was before it became this program: pytest.
MEASURED = """
import re, resource, sys
from pathlib import Path
from beyond_accuracy.report.build import build
from beyond_accuracy.report.compare import prepare
options = {"device": "cpu"}
profile = prepare(sys.argv[1], sys.argv[2:], depth="quick", options=options)
assert build(profile, only=["own_images"], options=options) == 0
own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""
QUICK = {"depth": "quick", "options": {"device": "cpu"}}

pytestmark = pytest.mark.usefixtures("apart", "kernels")


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
    share = {"good": 0.9, "near": 0.88, "bad": 0.6}
    runs = {name: SimpleNamespace(correct=rng.random(400) < p) for name, p in share.items()}
    assert set(compare.behind(runs, None)) == {"bad"}
    assert compare.behind({name: runs[name] for name in ("good", "bad")}, None) == {}  # two always stay
    assert compare.behind(runs, np.arange(400) // 100) == {}  # four groups cannot tell


def test_a_profile_is_written_and_its_report_built_by_any_command(tmp_path, apart, capsys):
    toys(tmp_path / "My toys", 2)  # a small folder has a page, too
    profile = compare.prepare(tmp_path / "My toys", ["mini:vit_sup", "mini:convnext_clip"], **QUICK)
    said = capsys.readouterr().out
    assert said.index("12 images, 6 classes") < said.index("about ") < said.index("% right")
    assert set(yaml.safe_load(profile.read_text())["models"]) == {"vit_sup", "convnext_clip"}
    report = ["report", "--profile", str(profile), "--only", "own_images", "--device", "cpu"]
    assert main(report) == 0, capsys.readouterr().out
    html = (apart / "my-toys" / "12_own_images.html").read_text(encoding="utf-8")
    assert "car&amp;&lt;b&gt;van" in html and "car&<b>van" not in html
    assert '<h1>Your images <span class="ba-sub">My toys</span></h1>' in (apart / "my-toys" / "index.html").read_text()
    results = pd.read_csv(apart / "my-toys" / "results.csv")
    assert {"accuracy", "balanced_accuracy", "accuracy:shots=all"} <= set(results["metric"])
    compare.prepare(tmp_path / "My toys", ["mini:vit_sup", "mini:convnext_clip"], **QUICK)
    capsys.readouterr()
    assert main(report) == 0 and "12_own_images: unchanged" in capsys.readouterr().out
    profile.write_text(profile.read_text().replace("head: probe", "head: knn"))
    with pytest.raises(InputError, match="was edited since it was written: run `beyond-accuracy report"):
        compare.prepare(tmp_path / "My toys", ["mini:vit_sup"], **QUICK)


def test_an_edited_copy_is_found_by_features(tmp_path, capsys):
    toys(tmp_path / "toys", 12)
    images = sorted((tmp_path / "toys" / UGLY[2]).iterdir())[:4]
    for i, path in enumerate(images):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name(f"turned {i}.png"))
    models = ["mini:vit_sup", "mini:vit_clip"]
    written = compare.prepare(tmp_path / "toys", models, **QUICK)
    profile = load_profile(str(written))
    assert "as alike as an image and its own edit" in capsys.readouterr().out
    about = Outputs(profile, Store(), {"device": "cpu"}).data("images").metadata
    turned = about[[name.startswith(f"{UGLY[2]}/turned") for name in about.index]]
    found = turned[turned["near_by"] == "features"]
    together = turned["unit"].isin(about.loc[found["near"], "unit"])
    assert len(found) >= 2 and (together == (turned["near_by"] != "")).all()
    assert (about["near"] != "").sum() < 30  # of 76
    pairs = written.with_name("alike.csv")
    assert str(pairs) in written.read_text()
    shutil.rmtree(tmp_path / "toys")
    toys(tmp_path / "toys", 5)
    assert str(pairs) not in compare.prepare(tmp_path / "toys", models, **QUICK).read_text()
    assert not pairs.exists()


def test_nothing_is_grouped_where_whole_classes_look_alike(tmp_path, monkeypatch):
    for k in range(12):
        noise(tmp_path / "flat" / f"c{k % 2}" / f"{k}.png", k)
    outputs = Outputs(load_profile(str(compare.prepare(tmp_path / "flat", ["mini:vit_sup"], **QUICK))), Store())
    first = np.arange(1, 12)
    monkeypatch.setattr(compare.own, "alike", lambda *_: np.stack([first, 0 * first], axis=1))
    assert compare.alike(outputs).empty
    monkeypatch.setattr(compare.own, "alike", lambda *_: np.array([[1, 0]]))
    assert len(compare.alike(outputs)) == 1


def test_who_is_clearly_behind_is_left_out_of_later_stages_and_told(tmp_path, toy, capsys):
    toys(tmp_path / "toys", 12)
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


@pytest.mark.slow
def test_two_classes_have_a_page_too(tmp_path):
    toys(tmp_path / "toys", 15, 2)
    profile = compare.prepare(tmp_path / "toys", ["mini:vit_sup", "mini:convnext_clip"], everything=True, **QUICK)
    assert build(profile, only=["own_images"], options=QUICK["options"]) == 0


def test_one_image_per_class_is_one_message(tmp_path, capsys):
    for k in range(40):
        noise(tmp_path / "many" / f"c{k}" / "1.png", k)
    assert main(["compare", str(tmp_path / "many"), "--models", "mini:vit_sup", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "40 images of 40 classes: at least two classes need two images" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_real_network_beside_two_small_ones(tmp_path, apart, efficientnet_lite0, capsys):
    table = toys(tmp_path / "toys", 50)
    wrong = np.random.default_rng(2).choice(len(table), 5, replace=False)
    table.loc[wrong, "label"] = [UGLY[(UGLY.index(name) + 2) % 6] for name in table.loc[wrong, "label"]]
    table.to_csv(tmp_path / "toys.csv", index=False)
    models = [f"timm:tf_efficientnet_lite0={efficientnet_lite0}", "mini:vit_sup", "mini:convnext_sup"]
    command = ["compare", str(tmp_path / "toys.csv"), "--depth", "quick", "--device", "cpu", "--models", *models]
    before = os.times()
    assert main(command) == 0, capsys.readouterr().out
    spent = sum(np.subtract(os.times(), before)[:4])
    assert spent < 720, f"{spent:.0f} s of CPU time: more than six minutes on two idle cores"
    html = (apart / "toys" / "12_own_images.html").read_text(encoding="utf-8")
    first = re.search(r'id="tab-check".*', html, re.S)[0]
    order = sorted(table["path"], key=lambda path: first.find(path) if path in first else len(first))
    assert set(table["path"][wrong]) <= set(order[:10])

    # accuracy, calibration, robustness and invariance once more, from the stored features and scikit-learn alone
    results = pd.read_csv(apart / "toys" / "results.csv")
    results = results.set_index(["dimension", "dataset", "metric", "model"])["value"]
    profile = load_profile(str(apart / "toys" / "profile.yaml"))
    outputs = Outputs(profile, Store(), {"device": "cpu"})
    home = outputs.data("images")
    units, y = home.metadata["unit"].to_numpy(), home.targets
    fold = heads.folds_of(y, units, 0)
    assert (pd.Series(fold).groupby(home.metadata["group"].to_numpy()).nunique() == 1).all()
    fog = [f"corrupt:fog={k}" for k in range(1, 6)]
    for name, spec in profile.models.items():
        x = outputs.features("images")[name].layers["pre_logits"]
        fits = {}
        for k in np.unique(fold):
            known = fold != k
            c = heads.choose_c(x[known], y[known], units[known], 0)
            fits[k] = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(x[known], y[known])

        def right_and_sure(dataset, transforms, spec=spec, fits=fits):
            data = outputs.data(dataset)
            found = outputs.extracted([spec], data, transforms)
            where, said = pd.Series(fold, home.ids).loc[data.ids], []
            for text in transforms:
                asked = np.asarray(found[text, spec.name].array("features-pre_logits"))
                said.append([fits[k].predict_proba(row[None])[0] for k, row in zip(where, asked, strict=True)])
            said = np.array(said)
            return said.argmax(axis=2) == data.targets, said.max(axis=2)

        right, sure = right_and_sure("images", ["none"])
        assert results["own_images", "images", "accuracy", name] == pytest.approx(100 * right.mean())
        bins = np.ceil(sure[0] * 15)
        gaps = [abs((right[0] - sure[0])[bins == b].sum()) / len(y) for b in np.unique(bins)]
        assert results["calibration", "images", "ece", name] == pytest.approx(sum(gaps), abs=2e-3)
        assert results["calibration", "images", "confidence", name] == pytest.approx(sure.mean(), abs=1e-3)
        later = {("robustness", "corrupted", "accuracy:corruption=fog"): fog}
        later |= {("invariance", "transformed", f"accuracy:{text}"): [text] for text in ("rotation=90", "hflip=1")}
        for number, transforms in later.items():
            if (*number, name) in results:  # else left out as clearly behind
                right, _ = right_and_sure(number[1], transforms)
                assert results[*number, name] == pytest.approx(100 * right.mean())


@pytest.mark.slow
def test_twenty_thousand_images_in_less_than_four_gigabytes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20_000):
        path = tmp_path / "many" / f"c{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 196, (12, 12, 3)) + 60 * np.eye(3, dtype=int)[i % 3]
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "many"), "mini:convnext_sup", "mini:vit_sup"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"BEYOND_ACCURACY_QUIET": "1"})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 4e6  # kB


def test_groups_count_on_every_page(toy):
    """Three pictures a group: from the table to the rows of robustness and invariance."""
    rows = [(f"images/{p.parent.name}/{p.name}", p.parent.name) for p in sorted(toy.images(9).rglob("*.png"))]
    table = pd.DataFrame(rows, columns=["path", "label"]).assign(group=[f"g{i // 3}" for i in range(len(rows))])
    table.to_csv(toy.data / "toys.csv", index=False)
    toy.checkpoint()
    toy.checkpoint("weak", scale=0.5)
    models = {n: {"source": "timm", "name": f"local-dir:{toy.root / n}", "head": "probe"} for n in ("colour", "weak")}
    content = toy.content(models)
    content["datasets"] = {"images": {"reader": "own", "path": str(toy.data / "toys.csv"), "classes": ""}}
    invariant = {"clean": "images", "transforms": ["hflip"]}
    content["dimensions"] = {"robustness": {"clean": "images"}, "invariance": invariant}
    toy.profile(content)
    page = open_page(str(toy.root / "toy.yaml"), "robustness", device="cpu", progress=False)
    sets = robustness.gather(page)
    assert len(set(sets.units["clean"])) == 9
    rows = robustness.accuracies(sets, robustness.baselines(sets), 100, 0)
    assert set(rows["n"]) == {9} == set(robustness.differences(sets, 100, 0)["n"])
    page = open_page(str(toy.root / "toy.yaml"), "invariance", device="cpu", progress=False)
    curves, gaps, kept = invariance.measure(page, "images", invariance.kinds_of(page))
    assert set(curves[curves["kind"] == "accuracy"]["n"]) == {9} == set(gaps["n"])
    units = page.predictions("images")["colour"].units
    assert {n for part in invariance.agreement(kept, 0, 100, units) for n in part["n"]} == {9}
