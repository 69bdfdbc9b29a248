"""The command line: what it prints, what it writes, and its exit codes."""

import io
import os
import pwd
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beyond_accuracy import cli
from beyond_accuracy.base.paths import data_dir
from beyond_accuracy.inference import run as inference
from beyond_accuracy.report import build
from builders import code, write_notebook


@pytest.fixture
def predict(toy):
    """`beyond-accuracy predict` on the toy profile; returns the exit code."""
    toy.images()
    toy.checkpoint()
    toy.profile()

    def run(*more, model="colour", dataset="images"):
        command = ["predict", "--profile", str(toy.root / "toy.yaml"), "--device", "cpu"]
        return cli.main([*command, "--model", model, "--dataset", dataset, *map(str, more)])

    return run


def test_predict_says_how_many_are_right_and_where_they_are(predict, capsys, toy, toy_networks):
    assert predict() == 0
    out = capsys.readouterr().out
    assert "colour on images, transform none: 12/12 correct, top-1 100.00%" in out
    key = re.search(r"store: (\w{24}) \(computed on cpu", out).group(1)
    assert (toy.store / "predictions" / key / "predictions.parquet").is_file()
    assert predict("--transform", "rotation=180") == 0
    assert "transform rotation=180: 12/12" in capsys.readouterr().out
    assert not (toy.root / "report").exists()  # a command for one run leaves the report alone
    toy_networks.CALLS.clear()
    assert predict("--limit", 6) == 0  # evenly
    assert "6/6 correct" in capsys.readouterr().out and sum(toy_networks.CALLS) == 6


def test_predict_writes_rows(predict, toy, capsys):
    """Beside the images, too: the folder stays readable."""
    rows = toy.data / "images" / "rows"
    assert predict("--output", f"{rows}.csv") == predict("--output", f"{rows}.parquet") == predict() == 0
    csv, table = pd.read_csv(f"{rows}.csv"), pq.read_table(f"{rows}.parquet")
    assert csv["id"].tolist() == table["id"].to_pylist() and csv["pred"].tolist() == table["pred"].to_pylist()
    assert table.schema.field("logits").type == pa.list_(pa.float16(), 3)
    assert table.column_names == ["id", "target", "pred", "confidence", "target_probability", "logits"]
    assert np.stack(table["logits"].to_pylist()).max(1).tolist() == [0] * 12
    out = capsys.readouterr().out
    assert "wrote 12 rows" in out and out.count("12/12 correct") == 3


def test_lists_of_labels_in_a_csv(toy, tmp_path):
    from beyond_accuracy.inference.predictions import Predictions

    frame = pd.DataFrame({"id": ["a", "b"], "target": pd.Series([np.array([1, 2]), np.array([], int)], dtype=object)})
    found = Predictions("m", "d", "none", frame, None, None, {})
    cli.write_rows(found, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "id,target\na,1 2\nb,\n"
    cli.write_rows(found, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["target"].to_pylist() == [[1, 2], []]


@pytest.mark.parametrize("name", ["rows.txt", "rows", "no_such_folder/rows.csv"])
def test_an_output_that_cannot_be_is_refused_before_the_run(predict, toy, toy_networks, capsys, name):
    assert predict("--output", toy.root / name) == 2
    assert "--output" in capsys.readouterr().err and toy_networks.CALLS == []


COUNT = "expected a whole number of 1 or more"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        *(("predict --limit", value, COUNT) for value in ("0", "-3", "x", "1.5", "²")),
        ("predict --batch-size", "0", COUNT),
        *(("report --parameter", value, "expected NAME=VALUE") for value in ("BINS", "=3", "a b=3")),
        ("report --parameter", "PROFILE=paper", "give --profile instead"),
        ("report --parameter", "MODELS=x", "give --models instead"),
    ],
)
def test_values_that_are_none_of_their_option(capsys, option, value, message):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*option.split(), value])
    assert message in capsys.readouterr().err


def test_models_and_datasets_given_directly(predict, toy, capsys, monkeypatch):
    classes = {"model": f"timm:local-dir:{toy.root / 'colour'}"}
    assert predict(**classes) == 0
    assert "12/12" in capsys.readouterr().out
    weights = toy.root / "colour" / "model.safetensors"
    monkeypatch.chdir(weights.parent)
    assert predict("--checkpoint", "model.safetensors", model="timm:toy_colour") == 0  # relative to where one types
    assert "toy_colour on images" in capsys.readouterr().out
    assert predict("--checkpoint", weights) == 2
    assert "--checkpoint goes with timm:NAME" in capsys.readouterr().err
    assert predict(dataset=str(toy.data / "images")) == 2  # folders named by wnid are expected there
    assert "'blue'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "more", "message"),
    [
        ({"model": "color"}, [], "unknown model 'color'; did you mean colour?; or give timm:NAME"),
        ({"model": "timm:resnet50.a1_in1kk"}, [], "unknown timm model 'resnet50.a1_in1kk'; did you mean"),
        ({"model": "open_clip:ViT-B-61/x"}, [], "unknown open_clip model 'ViT-B-61'; did you mean"),
        ({"model": "open_clip:ViT-B-16/laion400m_e13"}, [], "did you mean laion400m_e32, laion400m_e31?"),
        ({"model": "open_clip:ViT-B-16"}, [], "unknown pretrained tag of ViT-B-16 ''"),
        ({"dataset": "imags"}, [], "unknown dataset 'imags'; did you mean images?; or give a folder"),
        ({}, ["--transform", "scal=2"], "unknown name 'scal'"),
        ({}, ["--transform", "jpeg=0"], "is not possible"),
        ({}, ["--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_unknown_names_and_bad_options(predict, capsys, how, more, message):
    assert predict(*more, **how) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("beyond-accuracy: ") and err.count("\n") == 1
    assert predict(*more, "--debug", **how) == 2 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"), [("resnet50.tv2_in1l", "did you mean resn"), ("hf-hub:../../etc", "hf-hub:O")]
)
def test_a_mistyped_model_is_one_line_of_check_and_of_fetch(toy, capsys, name, said):
    toy.images(1)
    toy.profile(toy.content({"m": {"source": "timm", "name": name}}))
    assert cli.main(["check", "--profile", str(toy.root / "toy.yaml")]) == 2
    assert re.search(f"  WRONG    m .*{said}", capsys.readouterr().out)
    assert cli.main(["fetch", "--profile", str(toy.root / "toy.yaml"), "--only", "models", "--yes"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("beyond-accuracy: m: ") and said in line


def test_exit_codes(toy, capsys, monkeypatch):
    toy.images(1)
    toy.checkpoint()
    content = toy.content()
    content["models"]["away"] = {"source": "timm", "name": "local-dir:/no/such/folder"}
    content["models"]["mine"] = {"source": "predictions"}
    toy.profile(content)
    base = ["predict", "--profile", str(toy.root / "toy.yaml"), "--device", "cpu", "--dataset", "images", "--model"]
    assert cli.main([*base, "away"]) == 3  # weights are missing
    assert cli.main([*base, "mine"]) == 3  # predictions are missing
    assert cli.main(["predict", "--profile", "papper", "--model", "x", "--dataset", "y"]) == 2
    assert "no predictions of mine" in capsys.readouterr().err

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "run", stop)
    assert cli.main([*base, "colour"]) == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    denied = PermissionError(13, "Permission denied", "f")
    monkeypatch.setattr(inference, "run", lambda *_: (_ for _ in ()).throw(denied))
    assert cli.main([*base, "colour"]) == 2
    assert "beyond-accuracy: f: Permission denied" in capsys.readouterr().err


def test_import_and_predict_and_list(toy, capsys):
    toy.images()
    content = toy.content(models={})
    toy.profile(content)
    profile = ["--profile", str(toy.root / "toy.yaml")]
    ids = [f"{c}/{c}{i:03d}.png" for c in ("red", "green", "blue") for i in range(4)]
    frame = pd.DataFrame({"file_name": ids, "predicted_class": 0, "predicted_probability": 0.4})
    frame.to_csv(toy.root / "p.csv", index=False)
    command = ["import-predictions", str(toy.root / "p.csv"), "--model", "<b>mine", "--dataset", "images", *profile]
    assert cli.main(command) == 0
    assert "imported 12 predictions of <b>mine on images" in capsys.readouterr().out
    assert cli.main([*command[:5], "imagse", *profile]) == 2
    assert "unknown dataset 'imagse'; did you mean images" in capsys.readouterr().err
    for what, names in (("models", ["<b>mine"]), ("datasets", ["images"]), ("profiles", ["mini", "predictions"])):
        assert cli.main(["list", what, *profile]) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in names)


def test_folders_are_passed_on_as_absolute_paths(toy, monkeypatch, capsys):
    monkeypatch.chdir(toy.root)
    toy.profile(toy.content(models={}))
    assert cli.main(["list", "models", "--profile", "toy.yaml", "--cache-dir", "c", "--data-dir", "d"]) == 0
    assert os.environ["BEYOND_ACCURACY_CACHE"] == str(toy.root / "c")
    assert os.environ["BEYOND_ACCURACY_DATA"] == str(toy.root / "d")


CHECK = """
import sys
from beyond_accuracy import cli
heavy = lambda: sorted({"torch", "timm", "open_clip", "torchvision"} & set(sys.modules))
assert cli.main(["list", "models", "--profile", PROFILE]) == 0
assert not {"numpy", "pandas", "pyarrow"} & set(sys.modules), "listing loads the libraries of an analysis"
assert cli.main(["predict", "--profile", PROFILE, "--model", "colour", "--dataset", "images"]) == 0
assert not heavy(), heavy()
from beyond_accuracy.data.classes import class_space
assert len(class_space("imagenet_1k").templates) == 80
import beyond_accuracy.page, beyond_accuracy.inference.plan
assert not heavy(), heavy()
print("light")
"""


def test_what_is_stored_is_read_without_torch(predict, toy):
    """In a process of its own: a report whose predictions are stored must not wait for torch."""
    assert predict() == 0
    script = CHECK.replace("PROFILE", repr(str(toy.root / "toy.yaml")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "BEYOND_ACCURACY_DEVICE": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("light\n"), done.stderr


def test_each_command_has_its_own_default_profile():
    imports = ["import-predictions", "x.csv", "--model", "m", "--dataset", "d"]
    found = [cli.parser().parse_args(command).profile for command in (["report"], ["check"], ["fetch"], imports)]
    assert found == ["mini", "mini", "paper", "predictions"]


def test_a_log_gets_a_line_per_dataset_and_a_watched_run_does_not(predict, capsys, monkeypatch):
    monkeypatch.delenv("BEYOND_ACCURACY_QUIET")
    assert predict("--transform", "hflip=1") == 0
    before, after = capsys.readouterr().err.splitlines()
    assert before == "images: 12 images x 1 model x 1 transform" and re.fullmatch(r"images: done \(\d+ s\)", after)
    assert predict("--transform", "hflip=1") == 0 and capsys.readouterr().err == ""  # nothing had to run
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert predict("--transform", "blur=2") == 0
    assert "12 images" not in capsys.readouterr().err


def test_notebook_parameters_are_literals_or_text(monkeypatch):
    seen = []
    monkeypatch.setattr(build, "build", lambda *_, **given: seen.append(given["parameters"]) or 0)
    options = [f"--parameter={text}" for text in ("BINS=20", "SET=a=b", "RATE=.5", "ON=True", "A=1,2")]
    for more in (options, []):
        assert cli.main(["report", "--profile", "predictions", *more]) == 0
    assert seen == [{"BINS": 20, "SET": "a=b", "RATE": 0.5, "ON": True, "A": "1,2"}, {}]


def test_a_parameter_that_no_notebook_has(capsys):
    assert cli.main(["report", "--profile", "predictions", "--parameter", "RESAMPLE=3"]) == 2
    assert "did you mean RESAMPLES" in capsys.readouterr().err


def test_a_name_that_the_terminal_cannot_show_is_no_error(toy, monkeypatch):
    content = toy.content({"größe": {"source": "timm", "name": "größe"}})
    toy.profile(content)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["list", "models", "--profile", str(toy.root / "toy.yaml")]) == 0
    sys.stdout.flush()
    assert b"gr\\xf6\\xdfe" in written.getvalue()


@pytest.mark.parametrize("command", ["list models", "check", "predict --model colour --dataset images", "report"])
def test_neither_home_nor_a_passwd_entry(kernels, toy, toy_networks, monkeypatch, command):
    """As in a container that runs under any user: what would lie in the home folder lies under the output root."""

    def nobody(*_):
        raise KeyError("no such user")

    for function in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, function, nobody)
    for name in ("HOME", "BEYOND_ACCURACY_DATA"):
        monkeypatch.delenv(name, raising=False)
    toy.images()
    toy.checkpoint()
    toy.profile()
    opened = code("from beyond_accuracy.page import open_page\nopen_page(PROFILE, 'calibration', MODELS)")
    write_notebook(toy.root / "03_calibration.ipynb", code('PROFILE = MODELS = ""', "parameters"), opened)
    monkeypatch.setattr(build, "notebooks_dir", lambda: toy.root)
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_networks.__file__).parent), prepend=os.pathsep)
    assert cli.main([*command.split(), "--profile", str(toy.root / "toy.yaml")]) == 0
    assert data_dir().is_relative_to(toy.root / ".cache" / "home")


def test_the_home_of_a_user_nobody_knows(predict, capsys):
    for more in ({"dataset": "~nobody-here/x"}, {"model": "timm:resnet18=~nobody-here/x.pth"}):
        assert predict(**more) in (2, 3)
        assert "~nobody-here" in capsys.readouterr().err


def test_every_file_that_the_system_allows_may_be_open():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        assert cli.main(["list", "profiles"]) == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 2**16), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
