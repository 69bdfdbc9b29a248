"""Your own images: read as people have them, answered by heads that never saw them, compared by one command."""

import io
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import DatasetSpec, parse_profile
from beyond_accuracy.cli import main
from beyond_accuracy.data.readers import load_dataset, own
from beyond_accuracy.dimensions import own as page_own
from beyond_accuracy.inference import heads
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report import compare

UGLY = ("01_Air plane", "boat-ships", "Bottle (glass)", "car&<b>van", "Stühle", "dog's")
MINI = {"source": "timm", "name": "local-dir:assets:mini_world/models/convnext_sup", "head": "probe"}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "store"))


def toys(folder, per_class, classes=6):
    """World R as JPEG in class folders with ugly names; returns the table `path, label, group, rendition`."""
    table, rows = pd.read_parquet(ASSETS / "mini_world" / "world_r.parquet"), []
    for k in range(classes):
        for i, row in enumerate(table[table["label"] == k].head(per_class).itertuples()):
            path = folder / UGLY[k] / f"IMG {i:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(row.image)).convert("RGB").save(path, quality=92)
            rows.append((str(path.relative_to(folder.parent)), UGLY[k], f"camera {i % 10}", row.rendition))
    return pd.DataFrame(rows, columns=["path", "label", "group", "rendition"])


def noise(path, seed=0, size=(24, 16), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path, **options):
    return load_dataset(DatasetSpec("mine", "own", str(path), classes="", options=options))


def outputs_of(path, models=None, **datasets):
    content = {
        "name": "mine",
        "imports": ["mini_world.architectures"],
        "models": models or {"conv": MINI},
        "datasets": {"images": {"reader": "own", "path": str(path), "classes": ""}, **datasets},
    }
    return Outputs(parse_profile(content, path), Store(), {"device": "cpu", "progress": False})


# Data as people have it -----------------------------------------------------------------------------------------------


def test_class_folders_and_what_systems_drop_there(tmp_path):
    for i, name in enumerate(["cat/a.jpg", "cat/deep/b.JPEG", "dög/ü c.png"]):
        noise(tmp_path / "pets" / name, i)
    for name in (".DS_Store", "cat/._a.jpg", "cat/Thumbs.db", "__MACOSX/cat/a.jpg", "cat/notes.txt"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(b"x")
    data = read(tmp_path / "pets")
    assert data.ids.tolist() == ["cat/a.jpg", "cat/deep/b.JPEG", "dög/ü c.png"]
    assert data.classes.ids == ("cat", "dög") and data.targets.tolist() == [0, 0, 1]
    passed = data.metadata.attrs["passed"]
    assert passed["no image by its name: *.txt"] == 1 and passed["left by the system: ._*"] == 1
    assert sum(passed.values()) == 5


def test_splits_above_the_classes(tmp_path):
    for i, name in enumerate(["train/a/1.png", "train/b/1.png", "valid/a/2.png", "test/a/3.png", "test/b/3.png"]):
        noise(tmp_path / name, i)
    assert read(tmp_path, split="test").ids.tolist() == ["test/a/3.png", "test/b/3.png"]
    assert read(tmp_path, split="fit").metadata["split"].tolist() == ["train", "val", "train"]
    assert read(tmp_path).classes.ids == ("a", "b")
    with pytest.raises(InputError, match="options.split"):
        read(tmp_path, split="all")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_hub_s_image_folder(tmp_path, suffix):
    frame = pd.DataFrame({"file_name": ["x/1.png", "2.png", "3.png"], "label": ["b", "a", "b"], "site": [1, 2, 2]})
    for i, name in enumerate(frame["file_name"]):
        noise(tmp_path / "train" / name, i)
    table = tmp_path / "train" / f"metadata.{suffix}"
    frame.to_csv(table, index=False) if suffix == "csv" else frame.to_json(table, orient="records", lines=True)
    data = read(tmp_path)
    assert data.ids.tolist() == ["train/2.png", "train/3.png", "train/x/1.png"] and data.targets.tolist() == [0, 1, 1]
    assert data.metadata["split"].tolist() == ["train"] * 3 and data.metadata["site"].tolist() == [2, 2, 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_paths(tmp_path, suffix):
    frame = pd.DataFrame({"path": ["1.png", "2.png", "3.png", "4.png"], "label": ["b", "a", "", "a"]})
    frame = frame.assign(split=["train", "test", "test", "Test"], group=["p", "p", "q", "r"], dose=[1.5, 2, 3, 4])
    for i, name in enumerate(frame["path"]):
        noise(tmp_path / name, i)
    path = tmp_path / f"table.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    data = read(path)
    assert data.ids.tolist() == ["2.png", "4.png", "1.png"] and data.metadata["dose"].tolist() == [2, 4, 1.5]
    assert data.metadata["unit"].iloc[0] == data.metadata["unit"].iloc[2] != data.metadata["unit"].iloc[1]
    assert data.metadata.attrs["passed"] == {f"no label in table.{suffix}": 1}


def test_bad_data_gets_one_message(tmp_path):
    noise(tmp_path / "one" / "a" / "1.png")
    with pytest.raises(InputError, match="of one class, 'a'"):
        read(tmp_path / "one")
    noise(tmp_path / "loose" / "1.png")
    with pytest.raises(InputError, match="lies in no class folder"):
        read(tmp_path / "loose")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no images found"):
        read(tmp_path / "none")
    (tmp_path / "t.csv").write_text("path,label\nnowhere.png,a\n")
    with pytest.raises(InputError, match="nowhere.png is listed but cannot be read"):
        read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("picture,kind\nnowhere.png,a\n")
    with pytest.raises(InputError, match="has no column path"):
        read(tmp_path / "t.csv")
    with pytest.raises(DataMissing):
        read(tmp_path / "absent")


def test_odd_files_are_read_as_a_viewer_shows_them(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    half = Image.new("RGB", (40, 20), "red")
    half.paste("blue", (20, 0, 40, 20))
    for folder in (a, b):
        folder.mkdir()
    half.convert("CMYK").save(a / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown upright it is higher than wide, red above blue
    half.save(a / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((20, 40), 40_000, np.uint16)).save(a / "deep.png")
    half.convert("P").save(b / "palette.png")
    half.save(b / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 20), "lime")])
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(b / "clear.png")
    (b / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    data = read(tmp_path)
    pictures = {name: data.image(i) for i, name in enumerate(data.ids)}
    assert all(image.mode == "RGB" for image in pictures.values()) and len(data) == 6
    assert pictures["a/turned.jpg"].size == (20, 40)
    top, low = (pictures["a/turned.jpg"].getpixel((10, y)) for y in (5, 35))
    assert top[0] > 200 > low[0] and low[2] > 200 > top[2]
    assert abs(pictures["a/deep.png"].getpixel((5, 5))[0] - 156) <= 1
    assert pictures["b/clear.png"].getpixel((5, 5)) == (255, 255, 255)
    for name in ("a/cmyk.jpg", "b/palette.png", "b/moving.gif"):
        left, right = pictures[name].getpixel((5, 10)), pictures[name].getpixel((35, 10))
        assert left[0] > 180 > right[0] and right[2] > 120 > left[2], name
    odd = data.metadata.attrs["odd"]
    assert set(odd) >= {"CMYK", "rotated by EXIF", "16 bits or more", "palette", "transparent, on white"}
    assert [n for n in data.metadata.attrs["passed"] if "broken.jpg" in n]
    assert data.metadata.loc["a/turned.jpg", "aspect_ratio"] == 0.5


def test_copies_are_found_across_splits_and_stay_together(tmp_path):
    table = toys(tmp_path / "toys", 20, 3)
    for split, rows in table.groupby(np.where(np.arange(len(table)) % 4, "train", "test")):
        for name in rows["path"]:
            target = tmp_path / "given" / split / name.removeprefix("toys/")
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).rename(target)
    planted = sorted((tmp_path / "given" / "train" / UGLY[0]).iterdir())[:4]
    for i, path in enumerate(planted):
        image = Image.open(path)
        side = image.size[0] * (2 if i % 2 else 1)
        image.resize((side, side)).save(tmp_path / "given" / "test" / UGLY[0] / f"copy {i}.jpg", quality=60)
    test = read(tmp_path / "given", split="test").metadata
    found = test[test["near"] != ""]
    assert set(found.index) == {f"test/{UGLY[0]}/copy {i}.jpg" for i in range(4)}
    assert set(found["near_split"]) == {"train"}
    everything = read(tmp_path / "given").metadata
    for name, row in found.iterrows():
        assert everything.loc[name, "unit"] == everything.loc[row["near"], "unit"]
    shown = page_own.repeats(test, ["x"] * len(test))
    assert len(shown) == 4 and set(shown["what"]) == {"across splits"}


# Heads ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 240)
    features = rng.normal(size=(240, 32)).astype(np.float32) + np.eye(4, 32)[targets].astype(np.float32) * 2.5
    return features, targets, np.arange(240) // 2


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_says_what_scikit_learn_says(labelled, classes):
    features, targets, units = (values[labelled[1] < classes] for values in labelled)
    fold = heads.folds_of(targets, units, 0)
    none = np.zeros(len(targets), bool)
    weights, seen, chosen = heads.fit_probes(features, targets, units, fold, classes, 0, none)
    answers = [heads._answer_linear(w, n) for w, n in zip(weights, seen, strict=True)]
    logits = heads.Fitted(pd.Series(fold, np.arange(len(fold)).astype(str)), answers).logits(
        np.arange(len(fold)).astype(str), features
    )
    for k, c in enumerate(chosen[:-1]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        said = cross_val_predict(model, features, targets, cv=PredefinedSplit(fold), method="predict_proba")
        rows = fold == k
        assert np.array_equal(logits[rows].argmax(axis=1), said[rows].argmax(axis=1))
        np.testing.assert_allclose(softmax(logits[rows], axis=1), said[rows], atol=1e-5)


def test_units_never_straddle_folds_and_classes_are_balanced(labelled):
    _, targets, units = labelled
    fold = heads.folds_of(targets, units, 0)
    assert fold.max() == heads.FOLDS - 1
    assert (pd.Series(fold).groupby(units).nunique() == 1).all()
    assert pd.crosstab(fold, targets).to_numpy().min() >= 6
    assert np.array_equal(fold, heads.folds_of(targets, units, 0))


def test_too_few_images_get_one_message():
    with pytest.raises(InputError, match="at least two classes need two images"):
        heads.folds_of(np.arange(40), np.arange(40), 0)
    with pytest.raises(InputError, match="at least two classes"):
        heads.folds_of(np.repeat([0, 1], 10), np.repeat([0, 1], 10), 0)  # each class is one group
    assert set(heads.folds_of(np.repeat([0, 1], 15), np.arange(30), 0)) == set(range(5))


def test_a_class_that_a_fold_never_saw_is_possible_but_unlikely(labelled):
    features, targets, units = labelled
    targets = np.where(np.arange(len(targets)) == 7, 4, targets)  # one image of a fifth class
    fold = heads.folds_of(targets, units, 0)
    weights, seen, _ = heads.fit_probes(features, targets, units, fold, 5, 0, np.zeros(len(fold), bool))
    held = fold[7]
    said = softmax(heads._answer_linear(weights[held], seen[held])(features[fold == held]), axis=1)
    assert np.isfinite(said).all() and 0 < said[:, 4].max() < 0.02


def test_chosen_on_a_validation_set_and_on_large_sets(labelled, monkeypatch):
    features, targets, units = labelled
    held = np.arange(len(targets)) % 3 == 0
    assert heads.choose_c(features, targets, units, 0, held) in heads.GRID
    monkeypatch.setattr(heads, "CHOOSING", 120)
    assert heads.choose_c(features, targets, units, 0) * 2 in heads.GRID


def test_nearest_neighbours_agree_with_scikit_learn(labelled):
    from sklearn.neighbors import KNeighborsClassifier

    features, targets, _ = labelled
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp(-d / heads.TEMPERATURE))
    said = model.fit(features[40:], targets[40:]).predict(features[:40])
    answer = heads._answer_knn(features[40:], targets[40:], 4)
    assert np.array_equal(answer(features[:40]).argmax(axis=1), said)


def test_the_heads_of_folds_answer_transformed_images_and_samples(tmp_path):
    table = toys(tmp_path / "toys", 12)
    table.to_csv(tmp_path / "toys.csv", index=False)
    models = {"conv": MINI, "near": MINI | {"head": "knn"}}
    sample = {"reader": "own", "path": str(tmp_path / "toys.csv"), "classes": "", "limit": 24}
    outputs = outputs_of(tmp_path / "toys.csv", models, sample=sample | {"options": {"fit": "images"}})
    whole = outputs.predictions("images", ["none"])["none"]
    cut = outputs.predictions("sample", ["none", "rotation=20"])
    features = outputs.features("images")
    for name, run in whole.items():
        part = cut["none"][name]
        rows = pd.Index(run.ids).get_indexer(part.ids)
        assert np.array_equal(run.logits[rows], part.logits)  # the same head, not one fitted to the sample
        assert not np.array_equal(cut["rotation=20"][name].logits, part.logits)
        assert run.correct.mean() > 0.6
    # the stored answers are those of scikit-learn on the stored features, folds and C
    kept = next((tmp_path / "store" / "heads").glob("*.npz"))
    with np.load(kept) as file:
        fold, chosen = file["fold"], file["c"]
    x, y = np.asarray(features["conv"].layers["pre_logits"]), features["conv"].targets
    said = np.empty(len(y), int)
    for k, c in enumerate(chosen[:-1]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        said[fold == k] = cross_val_predict(model, x, y, cv=PredefinedSplit(fold))[fold == k]
    assert np.array_equal(said, whole["conv"].pred)
    group = table.set_index("path")["group"].loc[features["conv"].ids]
    assert (pd.Series(fold).groupby(group.to_numpy()).nunique() == 1).all()


def test_given_splits_are_kept(tmp_path):
    for k in range(3):
        for i in range(6):
            split = ("train", "train", "train", "val", "test", "test")[i]
            noise(tmp_path / split / f"c{k}" / f"{i}.png", 10 * k + i)
    fit = {"reader": "own", "path": str(tmp_path), "classes": "", "options": {"split": "fit"}}
    images = fit | {"options": {"split": "test", "fit": "training"}}
    outputs = outputs_of(tmp_path, images=images, training=fit)
    run = outputs.predictions("images", ["none"])["none"]["conv"]
    assert len(run) == 6 and all(name.startswith("test/") for name in run.ids)


def test_shuffled_labels_are_answered_at_chance(tmp_path):
    table = toys(tmp_path / "toys", 25)
    table["label"] = np.random.default_rng(1).permutation(table["label"])
    table.drop(columns="group").to_csv(tmp_path / "toys.csv", index=False)
    runs = outputs_of(tmp_path / "toys.csv").predictions("images", ["none"])["none"]
    rows = page_own.accuracies(runs, None).set_index("metric")
    assert rows.loc["accuracy", "ci_low"] < 100 / 6 < rows.loc["accuracy", "ci_high"]
    judged = page_own.above_guessing(rows.reset_index(), page_own.guessing(runs)["most frequent class"])
    assert judged["p"].iloc[0] > 0.05 or judged["difference"].iloc[0] < 0


def test_planted_wrong_labels_are_among_the_first_to_check(tmp_path):
    table = toys(tmp_path / "toys", 25)
    wrong = np.random.default_rng(2).choice(len(table), 5, replace=False)
    table.loc[wrong, "label"] = [UGLY[(UGLY.index(name) + 2) % 6] for name in table.loc[wrong, "label"]]
    table.drop(columns="group").to_csv(tmp_path / "toys.csv", index=False)
    vit = MINI | {"name": "local-dir:assets:mini_world/models/vit_sup"}
    outputs = outputs_of(tmp_path / "toys.csv", {"conv": MINI, "vit": vit})
    found = page_own.suspects(outputs.predictions("images", ["none"])["none"], UGLY)
    assert set(table.loc[wrong, "path"]) <= set(found["id"].head(10))


# The command ----------------------------------------------------------------------------------------------------------


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


def test_compare_writes_a_profile_and_its_report(tmp_path, monkeypatch, capsys):
    toys(tmp_path / "My toys", 10)
    monkeypatch.setitem(compare.DEPTHS, "quick", (2, 3))
    draft = compare.draft
    pages = ("own_images", "models")

    def cut(*args):
        content = draft(*args)
        content["dimensions"] = {k: v for k, v in content["dimensions"].items() if k in pages or k == "robustness"}
        content["dimensions"] |= {"invariance": {"clean": "transformed", "transforms": ["hflip"]}}
        return content

    monkeypatch.setattr(compare, "draft", cut)
    command = ["compare", str(tmp_path / "My toys"), "--models", "mini:vit_sup", "mini:convnext_sup"]
    monkeypatch.setattr("beyond_accuracy.report.build.find_pages", _only(pages))
    assert main([*command, "--depth", "quick", "--device", "cpu"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "60 images, 6 classes" in said and "about" in said and "% right" in said
    report = tmp_path / "root" / "report" / "my-toys"
    html = (report / "12_own_images.html").read_text(encoding="utf-8")
    assert "car&amp;&lt;b&gt;van" in html and "car&<b>van" not in html
    results = pd.read_csv(report / "results.csv")
    assert {"accuracy", "balanced_accuracy", "accuracy:shots=all"} <= set(results["metric"])
    profile = report / "profile.yaml"
    assert set(yaml.safe_load(profile.read_text())["models"]) == {"vit_sup", "convnext_sup"}
    assert main(["report", "--profile", str(profile), "--device", "cpu"]) == 0
    assert "12_own_images: unchanged" in capsys.readouterr().out


def _only(pages):
    from beyond_accuracy.report.build import find_pages

    return lambda profile, folder: [page for page in find_pages(profile, folder) if page.dimension in pages]


def test_in_a_notebook(tmp_path):
    import beyond_accuracy as ba

    toys(tmp_path / "toys", 10, 3)
    answers = ba.predictions("mini:convnext_sup", tmp_path / "toys", device="cpu", progress=False)
    assert len(answers) == 30 and answers["right"].mean() > 0.5
    assert {"id", "label", "answer", "confidence", "label_probability", "brightness"} <= set(answers)
    error = ba.ece(answers)
    assert 0 <= error.low <= error.value <= error.high <= 1 and "n = 30" in repr(error)
    answers["right"] = False
    assert len(ba.errors(answers, 4).axes) == 4
    with pytest.raises(AttributeError):
        ba.nothing  # noqa: B018


def test_zero_shot_and_own_classifier_are_heads_like_others(tmp_path):
    table = toys(tmp_path / "toys", 6, 2)
    table["label"] = table["label"].map({UGLY[0]: "airplane", UGLY[1]: "boat"})
    table.to_csv(tmp_path / "toys.csv", index=False)
    clip = {"source": "open_clip", "name": "local-dir:assets:mini_world/models/convnext_clip"}
    outputs = outputs_of(tmp_path / "toys.csv", {"asked": clip | {"head": "zero_shot"}, "usual": clip})
    outputs.profile = outputs.profile.under({"prompts": "a photo of a {c}"})
    runs = outputs.predictions("images", ["none"])["none"]
    assert runs["asked"].correct.mean() > 0.6
    np.testing.assert_allclose(runs["asked"].probabilities, runs["usual"].probabilities, atol=0.01)
    with pytest.raises(InputError, match="unknown head of a timm model 'zero_shot'"):
        outputs_of(tmp_path / "toys.csv", {"conv": MINI | {"head": "zero_shot"}})
    with pytest.raises(InputError, match="choose a checkpoint trained on"):
        outputs_of(tmp_path / "toys.csv", {"conv": MINI | {"head": "own"}}).predictions("images", ["none"])


@pytest.mark.parametrize(("classes", "each"), [(2, 15), (6, 2)])
def test_small_folders_have_a_page_too(tmp_path, classes, each, monkeypatch):
    toys(tmp_path / "toys", each, classes)
    monkeypatch.setitem(compare.DEPTHS, "quick", (1, 1))
    monkeypatch.setattr("beyond_accuracy.report.build.find_pages", _only(("own_images",)))
    options = {"depth": "quick", "options": {"device": "cpu"}, "everything": True, "echo": lambda text: None}
    assert compare.compare(tmp_path / "toys", ["mini:vit_sup", "mini:convnext_clip"], **options) == 0


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


def test_prints_of_twenty_thousand_images_are_compared_in_little_memory():
    import tracemalloc

    prints = np.random.default_rng(0).integers(0, 255, (3000, own.SIDE**2 * 3), np.uint8)
    prints[2999] = prints[5]
    tracemalloc.start()
    pairs, unit = own.units(prints, None)
    assert pairs.tolist() == [[2999], [5]] and unit[2999] == unit[5]
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
