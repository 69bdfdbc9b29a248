"""What a notebook talks to."""

import json

import bs4
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import readers
from beyond_accuracy.data.dataset import build_dataset
from beyond_accuracy.inference import outputs
from beyond_accuracy.inference.imports import import_predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.models import load as models
from beyond_accuracy.page import Page, classify, open_page
from beyond_accuracy.show.results import COMPARISON_COLUMNS


@pytest.fixture
def toy(toy):
    """With a network and images."""
    toy.images()
    toy.checkpoint()
    return toy


def two_networks(toy):
    toy.clip()
    names = {"timm": "colour", "open_clip": "clip"}
    models = {name: {"source": source, "name": f"local-dir:{toy.root / name}"} for source, name in names.items()}
    return toy.content(models)


def study_of(toy, content=None, options=None, models="", dimension="calibration"):
    return Page(toy.profile(content).select(models), dimension, Store(toy.store), {"device": "cpu", **(options or {})})


def imported(toy, name="mine", wrong=0):
    """Predictions of the labels, with probability 0.5, the first `wrong` of them wrong."""
    data = readers.load_dataset(toy.profile().datasets["images"])
    pred = data.targets.copy()
    pred[:wrong] = (pred[:wrong] + 1) % 3
    frame = pd.DataFrame({"file_name": data.ids, "predicted_class": pred, "predicted_probability": 0.5})
    frame.to_csv(toy.root / f"{name}.csv", index=False)
    return import_predictions(toy.root / f"{name}.csv", name, data, Store(toy.store))


def test_models_roles_and_data(toy):
    study = study_of(toy)
    assert study.models == ["colour"] and study.spec("colour").source == "timm" and study.has_networks
    assert study.role("clean") == "images" and study.has_role("shifted") and not study.has_role("x")
    assert study.title("images") == "images" and study.class_names("images") == ("red", "green", "blue")
    assert study.metadata("images").index.tolist() == study.dataset("images").ids.tolist()
    assert study.image("images", "red/red001").mode == "RGB"
    assert repr(study).startswith("<calibration of toy: models colour; roles {'clean': 'images'")
    shown = repr(study.predictions("images")["colour"])
    assert shown == "<colour on images, transform none: 12 images, top-1 100.0%>"
    assert study.rng().integers(10**9) == study.rng(0).integers(10**9) != study.rng(1).integers(10**9)
    with pytest.raises(InputError, match="dimensions.calibration has no 'cleen' .it has clean, shifted"):
        study.role("cleen")
    with pytest.raises(InputError, match="unknown model 'color'; did you mean colour"):
        study.spec("color")
    with pytest.raises(InputError, match="profile toy: unknown dataset 'image'; did you mean images"):
        study.predictions("image")


def test_open_study(toy):
    toy.profile()
    with matplotlib.rc_context():  # the theme ends with this test
        study = open_page(str(toy.root / "toy.yaml"), "calibration", device="cpu", progress=False)
    assert study.predictions("images")["colour"].correct.all()
    with pytest.raises(InputError, match="profile toy: unknown dimension 'robustness'"):
        open_page(str(toy.root / "toy.yaml"), "robustness")
    for option, hint in {"devise": "did you mean device", "data_dir": ""}.items():
        with pytest.raises(InputError, match=f"unknown option '{option}'; {hint}"):
            open_page(str(toy.root / "toy.yaml"), "calibration", **{option: "cpu"})


def test_predictions_of_networks_and_imports_side_by_side(toy):
    imported(toy, wrong=3)
    study = study_of(toy, models="mine,colour")
    found = study.predictions("images")
    assert list(found) == ["mine", "colour"]
    assert found["mine"].ids.tolist() == found["colour"].ids.tolist()
    assert (found["mine"].correct.sum(), found["colour"].correct.sum()) == (9, 12)
    assert found["mine"].logits is None and study.card("mine") is None and study.card("colour").parameters == 9
    many = study.predictions_many("images", ["none", "hflip=1", "scale=1"])
    assert list(many["hflip=1"]) == ["colour"] and list(many["scale=1"]) == ["mine", "colour"]
    assert many["scale=1"]["colour"].transform == "none"
    assert list(study.features("images")) == ["colour"]
    assert len(study.outputs.used) == 3  # two of the network's, one import


def test_models_are_judged_on_the_same_images(toy):
    folder = toy.data / "images"
    imported(toy)
    bad = folder / "red" / "red002.png"
    bad.write_bytes(b"no image")
    # the listing has changed with the file, the ids have not: the import still covers them
    found = study_of(toy, models="mine,colour", options={"skip_bad": True}).predictions("images")
    assert len(found["mine"]) == len(found["colour"]) == 11
    assert found["mine"].ids.tolist() == found["colour"].ids.tolist() and "red/red002" not in found["mine"].ids


def test_missing_and_misspelt_models(toy):
    with pytest.raises(InputError, match="unknown model 'colur'; did you mean colour.; or import its predictions"):
        study_of(toy, models="colur").predictions("images")
    bare = toy.content(models={})
    with pytest.raises(DataMissing, match="import-predictions FILE.csv --model NAME --dataset images"):
        study_of(toy, bare).predictions("images")
    with pytest.raises(DataMissing, match="no predictions of other on images: import them"):
        study_of(toy, bare, models="other").predictions("images")
    assert study_of(toy, bare, models="other").features("images") == {}


def test_what_is_not_there_is_left_out_and_listed(toy):
    content = toy.content()
    content["datasets"]["away"] = {"reader": "class_folder", "path": "nowhere", "classes": str(toy.classes)}
    study = study_of(toy, content)
    assert study.available(["images", "away"]) == ["images"]
    assert len(study.skipped) == 1 and study.skipped[0].startswith("away: ")
    with pytest.raises(DataMissing):
        study.predictions("away")


def test_features(toy):
    study = study_of(toy, two_networks(toy))
    found = study.features("images")
    assert sorted(found["clip"].layers) == ["projected", "trunk"] and list(found["colour"].layers) == ["pre_logits"]
    assert found["clip"].layers["projected"].shape == (12, 16) and found["clip"].layers["trunk"].dtype == np.float32
    assert found["colour"].targets.tolist() == study.dataset("images").targets.tolist()
    predictions = study.predictions("images")["clip"]
    assert predictions.meta["key_parts"]["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    scaled = found["colour"].layers["pre_logits"].astype(np.float32) * 8
    np.testing.assert_allclose(
        study.predictions("images")["colour"].scored_logits, scaled - scaled.max(1, keepdims=True), atol=0.01
    )


def test_a_set_that_is_only_probed_has_features_and_no_predictions(toy, monkeypatch):
    folder = toy.data / "images"

    def probe(spec):
        files = sorted(folder.rglob("*.png"))
        ids = [path.stem for path in files]
        load = [path.read_bytes() for path in files].__getitem__
        return build_dataset(spec, ids, [[k % 2, 5] for k in range(12)], load, content="x", source="here")

    monkeypatch.setitem(readers.READERS, "probe", probe)
    content = toy.content()
    content["datasets"]["task"] = {"reader": "probe", "classes": ""}
    study = study_of(toy, content)
    features = study.features("task")["colour"]
    assert features.layers["pre_logits"].shape == (12, 3)
    assert [t.tolist() for t in features.targets[:2]] == [[0, 5], [1, 5]]
    with pytest.raises(InputError, match="has no class space"):
        study.class_names("task")


def test_relabelled_sets_share_the_images(toy, monkeypatch):
    content = toy.content()
    content["datasets"]["real"] = {"reader": "imagenet_real", "options": {"of": "images"}, "title": "ReaL"}
    with pytest.raises(InputError, match="no ReaL label"):
        study_of(toy, content).predictions("real")
    labels = {"red/red000": np.array([0]), "red/red001": np.array([1, 2]), "green/green000": np.array([], int)}
    monkeypatch.setattr(outputs, "real_labels", lambda: labels)
    study = study_of(toy, content)
    found = study.predictions("real")["colour"]
    assert found.dataset == "real" and found.ids.tolist() == ["red/red000", "red/red001"]
    assert found.correct.tolist() == [True, False] and found.multilabel
    assert study.metadata("real").equals(study.metadata("images")) and study.title("real") == "ReaL"
    assert study.available(["real"]) == ["real"] and study.image("real", "red/red000").size == (24, 21)


def test_a_second_study_loads_no_network(toy, monkeypatch):
    first = study_of(toy).predictions("images")["colour"]
    models.LOADED.clear()
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("a network was loaded"))
    again = study_of(toy)
    pd.testing.assert_frame_equal(again.predictions("images")["colour"].frame, first.frame)
    assert again.features("images")["colour"].layers["pre_logits"].shape == (12, 3)
    assert again.card("colour").geometry.text == "Resize(20, bilinear) CenterCrop(16)"
    file = toy.store / "predictions" / first.meta["key"] / "meta.json"
    file.write_text(file.read_text().replace(first.meta["device"], "an older machine"))  # what computed it
    assert study_of(toy).predictions("images")["colour"].meta["device"] == "an older machine"


@pytest.mark.parametrize(("roles", "known"), [({}, True), ({"transforms": ["hflip"]}, False)])
def test_noise_of_training_is_known_of_what_it_was_measured_on(roles, known, tmp_path):
    profile = load_profile("mini")
    profile.dimensions["invariance"] = profile.dimensions["invariance"] | roles
    noise = Page(profile, "invariance", Store(tmp_path)).noise
    assert (noise is not None) == known and (not known or "agreement" in set(noise["metric"]))


def test_a_lead_says_whether_another_training_run_may_turn_it(toy):
    study = study_of(toy, two_networks(toy))
    values = pd.concat([rows(90.0), rows(80.0).assign(model="clip")])
    pair = {"dataset": "images", "metric": "accuracy", "model_a": ["colour"], "model_b": "clip"}
    for verdict, said in (("these checkpoints", ", not beyond training noise"), ("beyond training noise", "")):
        judged = pd.DataFrame(pair | {"difference": 10, "ci_low": 5, "ci_high": 15, "verdict": verdict})
        lead = study.leader(values, judged.assign(replicated=True))
        assert lead == f"{study.labels['colour']} (90.0) leads{said}"
        assert study.leader(values, judged.assign(replicated=False)).endswith("(90.0) leads"), "none is known"


# Results -------------------------------------------------------------------------------------------------------------


def rows(value=1.0):
    return pd.DataFrame(
        {"dataset": ["images"], "metric": ["accuracy"], "model": ["colour"], "value": [value], "ci_low": [0.5]}
        | {"ci_high": [100.0], "n": [12], "unit": ["percent"]}
    )


def test_results_comparisons_and_findings_are_written(toy, capsys):
    study = study_of(toy)
    study.record(rows(50.0))
    study.record(rows(60.0).assign(dataset="other"))
    written = pd.read_csv(study.records / "results" / "calibration.csv")
    assert written["value"].tolist() == [50.0, 60.0] and set(written["dimension"]) == {"calibration"}
    words = {"dataset": "d", "metric": "ece", "model_a": "a", "model_b": "b", "unit": "share", "family": "main"}
    pair = {**words, "difference": [0.5], "ci_low": 0.25, "ci_high": 0.75, "p": 0.01, "n": 12}
    judged = study.compare(pd.DataFrame(pair))
    assert judged["verdict"].tolist() == ["these checkpoints"] and judged["p_holm"].tolist() == [0.01]
    table = pd.read_csv(study.records / "comparisons" / "calibration.csv")
    assert list(table.columns) == list(COMPARISON_COLUMNS) and table["p_floor"].tolist() == [0]
    assert table["dimension"].tolist() == ["calibration"]
    with pytest.raises(InputError, match="comparisons: missing columns model_a"):
        study_of(toy).compare(pd.DataFrame(pair).drop(columns="model_a"))
    with pytest.raises(InputError, match="recorded once"):
        study.compare(pd.DataFrame(pair))
    with pytest.raises(InputError, match="asked twice"):
        study_of(toy).compare(pd.concat([pd.DataFrame(pair)] * 2))
    clean = {**pair, "dataset": ["images", "d"], "metric": "accuracy", "family": "detail", "p": 0.03}
    asked = study_of(toy).compare(pd.DataFrame({**clean, "difference": 0.5, "ci_low": 0.25, "ci_high": 0.75}))
    assert asked["family"].tolist() == ["clean", "detail"] and asked["p_holm"].tolist() == [0.03, 0.03]
    alone = {**pair, "dataset": "images", "metric": ["accuracy", "accuracy_range"], "model_a": "colour", "model_b": ""}
    alone |= {"difference": [50.0, 20.0], "ci_low": 1.0, "ci_high": 99.0}
    again = study_of(toy)
    again.record(rows(50.0), rows(30.0).assign(metric="accuracy_range"))
    own = again.compare(pd.DataFrame(alone))
    assert own["ci_low"].tolist() == [0.5, 1.0] and own["ci_high"].tolist() == [100, 99], "one number has one interval"
    study.finding("<b>colour</b> & others are right")
    study.finding("second")
    kept = json.loads((study.records / "findings" / "calibration.json").read_text())
    assert kept == ["<b>colour</b> & others are right", "second"]


def test_only_report_writes_the_report(toy, monkeypatch, capsys):
    """Run by itself, a page has a folder of its own and says so once; as part of `report` it writes there."""
    report, own = toy.root / "report" / "toy", toy.root / "runs" / "toy"
    monkeypatch.setenv("BEYOND_ACCURACY_REPORT", str(report))
    study_of(toy).record(rows(50.0))
    assert capsys.readouterr().out == ""
    for other in ("", str(toy.root / "report" / "mini")):  # by hand, or inside the report of another profile
        monkeypatch.setenv("BEYOND_ACCURACY_REPORT", other)
        study = study_of(toy)
        study.record(rows(60.0))
        study.under(precision="bf16").finding("colour is right")
        study.figure((matplotlib.pyplot.figure(), "nothing"), "empty", "An empty figure.", rows())
        said = capsys.readouterr().out
        assert said.count("Run by itself, not by `report`") == 1 and str(own) in said
    files = {str(path.relative_to(toy.root)) for path in toy.root.rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith(("report", "figures"))} == {"report/toy/results/calibration.csv"}
    assert pd.read_csv(report / "results" / "calibration.csv")["value"].tolist() == [50.0]
    assert pd.read_csv(own / "results" / "calibration.csv")["value"].tolist() == [60.0]
    assert all((own / name).is_file() for name in ("figures/calibration/empty.svg", "findings/calibration.json"))


@pytest.fixture
def shown(monkeypatch):
    """What a notebook displays."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda value, **_: found.append(value))
    return found


def test_a_finding_shows_names_as_text(toy, shown):
    for sentence in ("<script>alert(1)</script>", "[a](javascript:x) **b** ![c](http://d)", "($0.10, was $0.20_x)"):
        study_of(toy).finding(sentence)
        output = shown.pop()
        assert output["text/plain"] == sentence and "text/markdown" not in output
        (tag,) = bs4.BeautifulSoup(output["text/html"], "html.parser").find_all(True)
        assert (tag.name, tag.text) == ("p", sentence) and "mathjax_ignore" in tag["class"]


def test_provenance_says_what_made_the_numbers(toy, shown):
    folder = toy.data / "images"
    study = study_of(toy)
    study.predictions_many("images", ["none", "hflip=1"])
    study.provenance()
    for text in ("colour", "fp32", "Resize(20, bilinear) CenterCrop(16)", study.card("colour").weights, "cpu"):
        assert text in shown[0]["text/plain"]
    assert "left out" not in shown[0]["text/plain"]
    (folder / "red" / "red000.png").write_bytes(b"")
    readers.LOADED.clear()
    second = study_of(toy, options={"skip_bad": True})
    second.predictions("images")
    second.provenance()
    assert "images left out" in shown[1]["text/plain"]


def test_the_papers_numbers_stand_beside_the_papers_checkpoints_only(toy):
    checkpoint = {"source": "timm", "name": "deit3_base_patch16_224.fb_in22k_ft_in1k"}
    content = toy.content({"vit_sup": checkpoint, "convnext_sup": {"source": "timm", "name": "x"}})
    assert list(study_of(toy, content).paper("imagenet_1k", "ece")["model"]) == ["vit_sup"]
    content["synthetic"] = True
    assert study_of(toy, content).paper("imagenet_1k", "ece").empty


def test_one_image_of_ones_own(toy):
    answers = classify(study_of(toy, two_networks(toy)), "images", Image.new("RGB", (50, 40), (10, 200, 10)), top=2)
    assert answers["model"].tolist() == ["colour", "colour", "clip", "clip"]
    assert answers["label"][0] == "green" and answers["probability"].between(0, 1).all()
    assert answers["probability"][0] > answers["probability"][1]
