"""Profiles: what is accepted, what is merged, and one clear message for everything else."""

import dataclasses
import importlib.util
import os
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beyond_accuracy.base import paths
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import (
    ROLES,
    DatasetSpec,
    ModelSpec,
    Settings,
    assigned,
    available_profiles,
    check_parameters,
    load_profile,
    parse_profile,
    typed_model,
    unknown,
)


@pytest.fixture
def written(tmp_path):
    def write(content, name="mine.yaml"):
        path = tmp_path / name
        content = content if isinstance(content, (str, bytes)) else yaml.safe_dump(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("name", sorted(available_profiles()))
def test_shipped_profiles_are_valid(name):
    profile = load_profile(name)
    assert profile.name == name and set(profile.dimensions) <= set(ROLES)


def test_the_shortest_profile(written):
    profile = load_profile(written("models: {}"))
    assert (profile.name, profile.title, profile.synthetic) == ("mine", "mine", False)
    assert profile.settings == Settings() and profile.models == {} and profile.imports == ()


def test_a_whole_profile(written):
    path = written(
        """
        name: "Größe & 'quotes'"
        title: T
        synthetic: true
        description: " two words "
        settings: {preset: paper, logit_scale: 100, precision: fp32, seed: 3, prompts: "a {c}\\nthe {c}"}
        imports: [my_module]
        models:
          a: {source: timm, name: resnet50.a1_in1k, family: convnet}
          b: {source: open_clip, name: ViT-B-16, pretrained: laion400m_e31, label: B, paradigm: clip}
          c: {source: predictions}
        datasets: {d: {reader: class_folder, path: x, classes: "", limit: 5, options: {1: {2: 3}}, keep: none}}
        dimensions: {calibration: {clean: d}, landscape: null}
        """
    )
    profile = load_profile(path)
    assert profile.name == "Größe & 'quotes'" and profile.synthetic and profile.description == "two words"
    assert profile.settings.logit_scale == "100" and profile.settings.prompts.splitlines() == ["a {c}", "the {c}"]
    assert profile.models["a"] == ModelSpec("a", "timm", id="resnet50.a1_in1k", label="a", family="convnet")
    assert profile.models["b"].pretrained == "laion400m_e31" and profile.models["b"].label == "B"
    expected = DatasetSpec("d", "class_folder", "x", "", options={"1": {"2": 3}}, limit=5, keep="none")
    assert profile.datasets["d"] == expected
    assert profile.dimensions == {"calibration": {"clean": "d"}, "landscape": {}} and profile.imports == ("my_module",)
    assert load_profile(path).digest == profile.digest
    assert dataclasses.replace(profile, title="U").digest != profile.digest


def test_extending(written):
    """The parent's entries stay; its name does not, else the report would be written over the parent's."""
    written({"models": {"a": {"source": "timm", "name": "x"}, "b": {"source": "timm", "name": "y"}}}, "base.yaml")
    written({"extends": "base.yaml", "settings": {"seed": 1, "chunk": 7}}, "middle.yaml")
    top = {"extends": "middle.yaml", "name": "top", "settings": {"seed": 2}, "models": {"a": None}}
    top["datasets"] = {"d": {"reader": "parquet"}}
    top["dimensions"] = {"calibration": {"shifted": "d"}, "invariance": {"models": "b", "transforms": "hflip"}}
    profile = load_profile(written(top))
    assert list(profile.models) == ["b"] and profile.settings.seed == 2 and profile.settings.chunk == 7
    assert profile.dimensions["calibration"]["shifted"] == ["d"]  # one word is a list of one, never its letters
    assert profile.dimensions["invariance"] == {"models": ["b"], "transforms": ["hflip"]}
    copied = load_profile(written({"extends": "predictions"}, "p2.yaml"))
    assert copied.datasets.keys() == load_profile("predictions").datasets.keys()
    assert (copied.name, copied.title) == ("p2", "p2")


@pytest.mark.parametrize("kept", [True, False])
def test_toys_are_called_so_where_they_are(written, kept):
    """The banner and the words of a profile are of its models: where none is left they would be untrue."""
    shipped = load_profile("mini")
    models = dict.fromkeys(list(shipped.models)[kept:]) | {"mine": {"source": "timm", "name": "resnet18.a1_in1k"}}
    profile = load_profile(written({"extends": "mini", "models": models}))
    assert (profile.synthetic, profile.description == shipped.description) == (kept, kept)


def test_what_lies_beside_the_profile_is_found_from_everywhere(written, tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path / "data"))
    for name in ("classes.json", "weights.safetensors", "runs.csv", "val/red.txt", "net/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "beside_the_profile.py").write_text("")
    content = {
        "imports": ["beside_the_profile"],
        "replicates": "runs.csv",
        "models": {"a": {"source": "timm", "name": "x", "checkpoint": "weights.safetensors"}},
        "datasets": {"d": {"reader": "class_folder", "path": "val", "classes": "classes.json"}},
        "dimensions": {"ablation": {"table": "runs.csv"}, "models": {"clean": "d"}},
    }
    content["models"]["b"] = {"source": "timm", "name": "local-dir:net"}
    content["datasets"]["away"] = {"reader": "class_folder", "path": "elsewhere"}
    written(content)
    written({"extends": "mine.yaml", "models": {"b": {"label": "B"}}}, "sub.yaml")
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path.parent)
    for name in ("mine", "sub"):
        profile = load_profile(os.path.relpath(tmp_path / f"{name}.yaml"))
        assert profile.models["a"].checkpoint == str(tmp_path / "weights.safetensors")
        assert profile.models["b"].id == f"local-dir:{tmp_path / 'net'}"
        assert profile.datasets["d"].path == str(tmp_path / "val")
        assert profile.datasets["d"].classes == str(tmp_path / "classes.json")
        assert profile.dimensions["ablation"]["table"] == profile.replicates == str(tmp_path / "runs.csv")
        assert profile.datasets["away"].path == "elsewhere"  # below the data folder
        assert profile.dimensions["models"]["clean"] == "d"
    assert importlib.util.find_spec("beside_the_profile")


@pytest.mark.parametrize("name", ["classes.json", "val/classnames.txt", "runs.csv", "runs_covariance.csv"])
def test_files_that_pages_read_are_in_the_fingerprint(written, tmp_path, name):
    (tmp_path / "val").mkdir()
    for other in ("classes.json", "val/classnames.txt", "runs.csv", "runs_covariance.csv"):
        (tmp_path / other).write_text("one")
    content = {"datasets": {"d": {"reader": "splits", "path": "val", "classes": "classes.json"}}}
    path = written(content | {"dimensions": {"ablation": {"table": "runs.csv"}}})
    before = load_profile(path).digest
    assert load_profile(path).digest == before
    (tmp_path / name).write_text("two")
    assert load_profile(path).digest != before


@pytest.mark.parametrize("variable", ["ROOT", "DATA", "CACHE"])
def test_places_that_the_environment_names_relatively(tmp_path, monkeypatch, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place = {"ROOT": paths.project_root, "DATA": paths.data_dir, "CACHE": paths.cache_dir}[variable]
    monkeypatch.setenv(f"BEYOND_ACCURACY_{variable}", "here/it")
    assert place() == tmp_path / "here" / "it"
    monkeypatch.setenv(f"BEYOND_ACCURACY_{variable}", "~/it")
    assert place() == tmp_path / "home" / "it"


def test_profiles_that_extend_each_other(written):
    written("extends: two.yaml", "one.yaml")
    for path in (written("extends: one.yaml", "two.yaml"), written("extends: mine.yaml")):
        with pytest.raises(InputError, match="leads back to itself"):
            load_profile(path)


SAME = {"source": "predictions", "label": "Same"}
TWICE = "name: p\nmodels:\n  a: {source: timm, name: x}\n  b: {source: timm, name: y}\n  a: {source: timm, name: z}\n"
UNFOLDING = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
UNFOLDING += "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))


def model(**content):
    return {"models": {"m": {"source": "timm", "name": "resnet18", **content}}}


def dataset(**content):
    return {"datasets": {"d": {"reader": "class_folder", **content}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("&a [*a]", "nested too deeply"),
        ("&a {a: &b [x, x, x, x, x, x, x, x, x, x]}", "unknown key 'a'"),
        ("- a list", "expected a mapping of names to values, got list"),
        ("", "expected a mapping of names to values, got NoneType"),
        ({"modles": {}}, "unknown key 'modles'; did you mean models"),
        ({"models": {"m": "resnet"}}, "models.m: expected a mapping"),
        (model(source="tim"), "models.m.source: unknown value 'tim'; did you mean timm"),
        ({"models": {"m": {"name": "resnet18"}}}, "m: missing 'source'"),
        ({"models": {"m": {"source": "timm"}}}, "models.m: 'name' is missing"),
        (model(chekpoint="x"), "unknown key 'chekpoint'; did you mean checkpoint"),
        (model(label=["x"]), "label: expected text"),
        ({"models": {"../../x": {"source": "predictions"}}}, "model name '../../x' cannot be used"),
        ({"datasets": {".d": {"reader": "parquet"}}}, "dataset name '.d' cannot be used"),
        ({"datasets": {"d": {}}}, "d: missing 'reader'"),
        (dataset(name="e"), "a dataset's name is its key"),
        (dataset(limit=-1), "limit: expected at least 0"),
        (dataset(limit="5"), "limit: expected a whole number, got '5'"),
        (dataset(options=[1]), "options: expected a mapping"),
        (dataset(keep="logit"), "unknown value 'logit'; did you mean logits"),
        ({"dimensions": {"calibrations": {}}}, "unknown dimension 'calibrations'; did you mean calibration"),
        ({"dimensions": {"calibration": "x"}}, "dimensions.calibration: expected a mapping"),
        ({"dimensions": {"transfer": {"tasks": "none.yaml"}}}, "none.yaml not found; it lies beside the profile"),
        ({"dimensions": {"calibration": {"cleen": "d"}}}, "calibration: unknown role 'cleen'; did you mean clean"),
        (dataset() | {"dimensions": {"robustness": {"v2": "dd"}}}, "v2: unknown dataset 'dd'; did you mean d?"),
        (dataset() | {"dimensions": {"calibration": {"shifted": ["d", 1]}}}, "shifted: unknown dataset '1'; known: d"),
        (model() | {"dimensions": {"invariance": {"models": "n"}}}, "invariance.models: unknown model 'n'; known: m"),
        ({"settings": {"preset": "papper"}}, "settings.preset: unknown value 'papper'; did you mean paper"),
        ({"settings": {"logit_scale": "large"}}, "logit_scale: expected `learned` or a positive number"),
        ({"settings": {"logit_scale": 0}}, "logit_scale: expected"),
        ({"settings": {"logit_scale": "inf"}}, "logit_scale: expected"),
        ({"settings": {"prompts": "a photo"}}, "settings.prompts: expected"),
        ({"settings": {"prompts": ""}}, "settings.prompts: expected"),
        ({"settings": {"workers": -2}}, "settings.workers: expected at least -1"),
        ({"settings": {"resamples": 2000.0}}, "resamples: expected a whole number"),
        ({"settings": {"name": "x"}}, "unknown key 'name'"),
        ({"imports": "my_module"}, "imports: expected a list of module names"),
        ({"synthetic": "no way"}, "synthetic: expected true or false"),
        ({"name": "a/b"}, "profile name 'a/b' cannot be used"),
        ({"title": {"a": 1}}, "title: expected text"),
        ({"extends": "papr"}, "extends: unknown profile 'papr'"),
        ({"extends": ["x"]}, "extends: unknown profile"),
        ({"models": dict.fromkeys("ab", SAME)}, "models a and b have one label 'Same'; change one"),
        (b"\xff\xfe\x00models", "not valid YAML"),
        (TWICE, "line 3: the key 'a' stands twice in one mapping"),
        (UNFOLDING, "too large for a profile"),
    ],
)
def test_what_is_wrong_is_said(written, content, message):
    path = written(content)
    with pytest.raises(InputError) as raised:
        load_profile(path)
    assert message in str(raised.value) and "mine.yaml" in str(raised.value)


@pytest.mark.parametrize("name", ["minni", "no/such.yaml", "x" * 5000, "", "."])
def test_unknown_profiles(name):
    with pytest.raises(InputError, match="unknown profile .*YAML file"):
        load_profile(name)


def test_selecting_models(written):
    profile = load_profile(written({"models": {n: {"source": "timm", "name": n} for n in "abc"}}))
    assert profile.select("") is profile and profile.select(" , ") is profile
    assert list(profile.select("c, a,c").models) == ["c", "a"]
    chosen = profile.select(["mine", "b"]).models
    assert chosen["mine"] == ModelSpec("mine", "predictions", label="mine") and chosen["b"].source == "timm"
    with pytest.raises(InputError, match="cannot be used"):
        profile.select("../x")


def test_near_matches():
    assert unknown("model", "vit_supp", ["vit_sup", "other"]) == "unknown model 'vit_supp'; did you mean vit_sup?"
    assert unknown("model", "zzz", ["a", "b"]) == "unknown model 'zzz'; known: a, b"
    assert unknown("model", "zzz", []) == "unknown model 'zzz'; known: none"


# Fuzz: whatever a file holds, a profile comes out or an InputError does -----------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
WORDS = st.sampled_from(
    ["name", "title", "models", "datasets", "settings", "dimensions", "imports", "extends", "synthetic", "source"]
    + ["reader", "options", "limit", "keep", "label", "seed", "chunk", "prompts", "logit_scale", "calibration", "timm"]
)
TREES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers() | st.text(max_size=3), inner),
    max_leaves=12,
)
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@QUICK
@given(st.dictionaries(WORDS, TREES, max_size=5) | TREES)
def test_any_tree(tmp_path_factory, tree):
    source = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    try:
        profile = parse_profile(tree, source)
    except InputError:
        return
    assert len(profile.digest) == 16 and profile.name


@QUICK
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>#\"'%@`?,\n\t 0123.~\x00\x85é"), max_size=60) | st.binary())
def test_any_text(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz-text.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_profile(path)
    except InputError as error:
        assert "fuzz-text.yaml" in str(error)


def test_a_model_as_one_types_it(tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    spec = typed_model("timm:resnet18.a1_in1k=w.pt", [])
    assert (spec.id, spec.checkpoint, spec.label) == ("resnet18.a1_in1k", str(tmp_path / "w.pt"), "resnet18")
    assert typed_model("timm:resnet18", [], "weights/elsewhere.pt").checkpoint == "weights/elsewhere.pt"
    clip = typed_model("open_clip:ViT-B-16/openai", [])
    assert (clip.id, clip.pretrained, clip.paradigm, clip.name) == ("ViT-B-16", "openai", "clip", "ViT-B-16_openai")
    assert typed_model("timm:hf-hub:timm/resnet18.a1_in1k", []).name == "resnet18.a1_in1k"
    for text in ("resnet18", "timm:", "keras:resnet"):
        with pytest.raises(InputError, match="or give timm:NAME or open_clip:NAME/TAG"):
            typed_model(text, ["vit_sup"])


# Parameters of notebooks: misspelt or of another kind is one message, wherever they come from -------------------------

USUAL = {"RESAMPLES": 2000, "FOLDS": 5, "SEED": 0, "COVERAGE": 0.8, "SHOTS": "1,2", "KEEP": True, "WHEN": None}


def test_what_a_cell_declares():
    source = 'SEED = 0  # seed\nNAME: str = "a"\nBOTH = WHEN = [1]\nlen("x")\nWHERE = SEED + 1'
    assert assigned(source) == {"SEED": 0, "NAME": "a", "BOTH": [1], "WHEN": [1], "WHERE": None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RESAMPLE": 20}, "unknown parameter 'RESAMPLE'; did you mean RESAMPLES"),
        ({"RESAMPLES": "many"}, "RESAMPLES: expected a whole number from 1, such as 2000, got 'many'"),
        ({"RESAMPLES": 15.5}, "RESAMPLES: expected a whole number from 1, such as 2000, got 15.5"),
        ({"RESAMPLES": 0}, "RESAMPLES: expected a whole number from 1"),
        ({"RESAMPLES": True}, "RESAMPLES: expected a whole number"),
        ({"FOLDS": 1}, "FOLDS: expected a whole number from 2"),
        ({"SEED": -1}, "SEED: expected a whole number from 0"),
        ({"COVERAGE": "x"}, "COVERAGE: expected a number from 0, such as 0.8, got 'x'"),
        ({"COVERAGE": float("nan")}, "COVERAGE: expected a number"),
        ({"SHOTS": 5}, "SHOTS: expected text, such as '1,2', got 5"),
        ({"KEEP": 1}, "KEEP: expected true or false"),
    ],
)
def test_what_does_not_fit_is_one_message(given, message):
    with pytest.raises(InputError) as refused:
        check_parameters(USUAL, given)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    check_parameters(USUAL, {"RESAMPLES": 1, "SEED": 3, "COVERAGE": 1, "SHOTS": "", "KEEP": False, "WHEN": [1]})
