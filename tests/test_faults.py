"""What long runs meet: killed processes, full and read-only disks, two runs at once, hostile names and files.

Nothing is lost, nothing is executed, and there is one clear message each.
"""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import struct
import time
import zlib
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import bs4
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from beyond_accuracy import cli
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.data import readers, transforms
from beyond_accuracy.inference import run as inference
from beyond_accuracy.inference import store
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report import build
from beyond_accuracy.report import run as report_run
from builders import code, markdown, write_notebook
from conftest import TOY_CLASSES
from disks import may_mount, mount

FORK = multiprocessing.get_context("fork")
LOST = 4  # forward batches that a killed run may have under way or unwritten


def command(toy, *more, dataset="images", model="colour"):
    base = ["predict", "--profile", str(toy.root / "toy.yaml"), "--device", "cpu", "--model", model]
    return [*base, "--dataset", dataset, *map(str, more)]


def one_message(capsys, *texts):
    err = capsys.readouterr().err
    assert err.startswith("beyond-accuracy: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert all(text in err for text in texts), err


@pytest.fixture
def ready(toy):
    toy.images(8)
    toy.checkpoint()
    toy.profile()
    return toy


# Killed ---------------------------------------------------------------------------------------------------------------


def run_cli(arguments, environment):
    """What a child process does: the command itself, quietly."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    os._exit(cli.main(arguments))


def child(arguments, environment=None):
    """The command in a process of its own, with the libraries already loaded (their import takes longer than a run)."""
    process = FORK.Process(target=run_cli, args=(arguments, environment or {}))
    process.start()
    return process


def exit_code(process):
    process.join(120)
    process.kill()  # what hangs would keep the tests from ending, too
    return process.exitcode


def stored(folder):
    """Rows and arrays of the one entry of a store."""
    (entry,) = (folder / "predictions").iterdir()
    arrays = {path.name: np.load(path) for path in sorted(entry.glob("*.npy"))}
    return pd.read_parquet(entry / "predictions.parquet"), arrays


def passed(log):
    """Images that have gone through a network so far, in all processes that log there."""
    return sum(int(path.read_text() or 0) for path in log.iterdir())  # one may be at writing it


def until(process, log, images):
    """Wait until so many images are done, or the process is."""
    while process.is_alive() and passed(log) < images:
        time.sleep(0.002)


def fresh(folder):
    folder.mkdir()
    return folder


def seeds(count):
    """One in every test run, the rest in `make soak`."""
    return [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, count))]


@pytest.mark.parametrize("seed", seeds(6))
def test_killed_ten_times(toy, seed):
    """Killed at random moments, the command goes on with what is there.

    A run that finishes before its moment is checked, and the next starts on an empty store.
    """
    toy.images(16)
    toy.checkpoint()
    toy.profile(chunk=16, workers=1)
    whole = toy.root / "whole"
    assert exit_code(child(command(toy), {"BEYOND_ACCURACY_CACHE": str(whole)})) == 0
    rng, folder, kept, finished, kills = np.random.default_rng(seed), toy.root / "store0", {}, 0, 0
    while kills < 10:
        log = fresh(toy.root / f"log{kills + finished}")
        environment = {"TOY_DELAY": "0.004", "TOY_LOG": str(log), "BEYOND_ACCURACY_CACHE": str(folder)}
        process = child(command(toy), environment)
        until(process, log, rng.integers(49))
        process.join(rng.uniform(0, 0.1))
        process.kill()
        code = exit_code(process)
        for part in folder.glob("predictions/*/part-*.parquet"):
            stamp = (part.stat().st_ino, part.stat().st_mtime_ns)
            assert kept.setdefault(part, stamp) == stamp, "a part that was there was computed again"
        if code == 0:
            same(folder, whole)
            finished += 1
            folder = toy.root / f"store{finished}"
        kills += code == -9
    assert exit_code(child(command(toy), {"BEYOND_ACCURACY_CACHE": str(folder)})) == 0 and kept
    same(folder, whole)


def same(folder, expected):
    (rows, arrays), (right, right_arrays) = stored(folder), stored(expected)
    pd.testing.assert_frame_equal(rows, right)
    assert arrays.keys() == right_arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, right_arrays[name])
    assert not [path for path in folder.rglob("*") if path.name.startswith((".tmp", "part-"))]


@pytest.mark.parametrize("seed", seeds(16))
def test_two_runs_at_once_compute_every_image_once(ready, seed):
    """The second starts at any moment of the first; in every other trial one of the two is killed at any moment."""
    rng, log = np.random.default_rng(seed), fresh(ready.root / "log")
    slow = {"TOY_DELAY": "0.01", "TOY_LOG": str(log)}
    pair = [child(command(ready), slow)]
    until(pair[0], log, rng.integers(25) if seed else 0)
    pair.append(child(command(ready), slow))
    if seed % 2:
        until(pair[1], log, rng.integers(25))
        pair[rng.integers(2)].kill()
    codes = sorted(map(exit_code, pair))
    assert codes in ([[0, 0], [-9, 0]] if seed % 2 else [[0, 0]])
    rows, arrays = stored(ready.store)
    assert len(rows) == 24 and (rows["pred"] == rows["target"]).all() and len(arrays["logits.npy"]) == 24
    assert passed(log) == 24 or (codes == [-9, 0] and 24 < passed(log) <= 24 + 4 * LOST)
    assert not [path for path in ready.store.rglob("*") if path.name.startswith((".tmp", "part-"))]


# Disks ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(ready, monkeypatch, capsys, toy_networks):
    written, original = [], store.pq.write_table

    def full(table, path, **options):
        if len(written) == 3:
            Path(path).write_bytes(b"the part that still fitted")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        original(table, path, **options)

    monkeypatch.setattr(store.pq, "write_table", full)
    assert cli.main(command(ready)) == 2
    one_message(capsys, "cannot write", "No space left on device", "--cache-dir", "a rerun continues from it")
    assert len(list(ready.store.glob("predictions/*/part-*"))) == 3 and not list(ready.store.rglob(".tmp-*"))
    monkeypatch.setattr(store.pq, "write_table", original)
    toy_networks.CALLS.clear()
    assert cli.main(command(ready)) == 0
    assert sum(toy_networks.CALLS) == 24 - 3 * 4
    assert "24/24 correct" in capsys.readouterr().out


def test_files_that_may_not_grow(ready):
    """The limit is the operating system's own here: it refuses the write inside Arrow."""
    allowed = 2400  # bytes of a file: enough for what describes the run, not for a part

    def limited(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed))
        run_cli(*arguments)

    process = FORK.Process(target=limited, args=(command(ready), {}))
    process.start()
    assert exit_code(process) == 2
    assert not list(ready.store.rglob("part-*")) and not list(ready.store.rglob(".tmp-*"))
    assert cli.main(command(ready)) == 0 and len(stored(ready.store)[0]) == 24


def on_a_small_disk(toy, size, inodes, said):
    """The command on a disk of so many bytes and files, then with room; the store it ends with is copied to `whole`."""
    mount(toy.store, f"size={size},nr_inodes={inodes}")
    torch.set_num_threads(1)
    with said.open("w") as file, redirect_stderr(file):
        first = cli.main(command(toy))
    mount(toy.store, "remount,size=64m,nr_inodes=9999")
    second = cli.main(command(toy))
    shutil.copytree(toy.store, toy.root / "copy")
    os._exit(10 * first + second)


@pytest.mark.parametrize("seed", seeds(2))
def test_disks_that_fill_up_anywhere(ready, seed):
    """Real ones: whatever write it is that finds no room, there is one message, and a rerun with room is right."""
    may_mount(ready.root / "try")
    rng, whole, codes = np.random.default_rng(seed), ready.root / "whole", []
    ready.profile(workers=0)
    assert exit_code(child(command(ready), {"BEYOND_ACCURACY_CACHE": str(whole)})) == 0
    ready.store.mkdir(exist_ok=True)
    for trial in range(10 if seed else 2):
        size, inodes = 4096 * int(rng.integers(1, 24)), int(rng.choice([9999, rng.integers(2, 16)]))
        said = ready.root / f"said{trial}"
        process = FORK.Process(target=on_a_small_disk, args=(ready, size, inodes, said))
        process.start()
        codes.append(exit_code(process))
        assert codes[-1] in (0, 20), said.read_text()
        if codes[-1]:
            text = said.read_text()
            assert text.startswith("beyond-accuracy: ") and text.count("\n") == 1 and "No space left" in text, text
        same(ready.root / "copy", whole)
        shutil.rmtree(ready.root / "copy")
    assert 20 in codes


def in_little_shared_memory(toy, said):
    """Predictions under many transforms by two decoding processes."""
    torch.set_num_threads(1)
    texts = ["none", *(f"shift={k}" for k in range(1, 32)), *(f"blur={k}" for k in range(1, 4))]
    with said.open("w") as file, redirect_stderr(file):
        found = toy.outputs(workers=2).predictions("images", texts)
    pd.concat([found[text]["colour"].frame.assign(text=text) for text in texts]).to_csv(toy.root / f"{said.name}.csv")
    os._exit(0)


def two_in_a_container(toy, options):
    mount(Path("/dev/shm"), options)
    both = [deepcopy(toy), deepcopy(toy)]
    for k, one in enumerate(both):
        one.store = toy.root / f"store{k}"
    pair = [FORK.Process(target=in_little_shared_memory, args=(one, toy.root / f"{k}")) for k, one in enumerate(both)]
    [process.start() for process in pair]
    os._exit(max(exit_code(process) is None or process.exitcode for process in pair))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "word"), [("size=64m", "go through pipes"), ("nr_inodes=1", "in one process"), ("ro", "in one process")]
)
def test_two_runs_share_what_a_container_has_of_shared_memory(toy, options, word):
    """64 MB, which torch fills without ever coming back, or none that anything can be put into, or one to be read."""
    may_mount(toy.root / "try")
    toy.images(6)
    config = toy.checkpoint() / "config.json"
    config.write_text(config.read_text().replace("[3, 16, 16]", "[3, 224, 224]"))
    for target, more in ((two_in_a_container, (options,)), (in_little_shared_memory, (toy.root / "whole",))):
        process = FORK.Process(target=target, args=(toy, *more))
        process.start()
        assert exit_code(process) == 0
    said = [(toy.root / name).read_text() for name in ("whole", "0", "1")]
    assert said[0] == "" and word in said[1] + said[2]
    assert len({(toy.root / f"{name}.csv").read_bytes() for name in ("whole", "0", "1")}) == 1


@pytest.mark.parametrize("name", ["logits.npy", "predictions.parquet"])
def test_a_disk_that_fills_up_at_the_last_step(ready, monkeypatch, capsys, toy_networks, name):
    original = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target)

    monkeypatch.setattr(store.os, "replace", full)
    assert cli.main(command(ready)) == 2
    one_message(capsys, name, "No space left on device")
    monkeypatch.setattr(store.os, "replace", original)
    toy_networks.CALLS.clear()
    assert cli.main(command(ready)) == 0 and toy_networks.CALLS == []
    assert stored(ready.store)[0]["pred"].notna().all()


def test_a_read_only_cache(ready, monkeypatch, capsys):
    assert cli.main(command(ready)) == 0
    capsys.readouterr()

    def refuse(self, *_, **__):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "mkdir", refuse)
        read_only.setattr(Path, "write_text", refuse)
        assert cli.main(command(ready)) == 0  # what is there is served
        assert "24/24 correct" in capsys.readouterr().out
        assert cli.main(command(ready, "--transform", "hflip=1")) == 2
        one_message(capsys, "cannot write", "Read-only file system", "--cache-dir")


def test_a_cache_that_is_a_file(ready, monkeypatch, capsys):
    (ready.root / "file").write_text("not a folder")
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(ready.root / "file"))
    assert cli.main(command(ready)) == 2
    one_message(capsys, "cannot write")
    assert (ready.root / "file").read_text() == "not a folder"


def test_an_import_on_a_full_disk_keeps_what_was_there(ready, monkeypatch, capsys):
    from beyond_accuracy.data.readers import load_dataset

    ids = load_dataset(ready.profile().datasets["images"]).ids
    frame = pd.DataFrame({"file_name": ids, "predicted_class": 1, "predicted_probability": 0.5})
    frame.to_csv(ready.root / "p.csv", index=False)
    arguments = ["import-predictions", str(ready.root / "p.csv"), "--model", "mine", "--dataset", "images"]
    arguments += ["--profile", str(ready.root / "toy.yaml")]
    assert cli.main(arguments) == 0
    frame.assign(predicted_class=2).to_csv(ready.root / "p.csv", index=False)
    capsys.readouterr()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(store.pq, "write_table", full)
        assert cli.main(arguments) == 2
    one_message(capsys, "No space left on device")
    assert set(Store(ready.store).imported("mine", "images").frame()["pred"]) == {1}
    assert [p.name for p in (ready.store / "imported" / "mine").iterdir() if p.is_dir()] == ["images"]


# Damage ---------------------------------------------------------------------------------------------------------------


def test_a_damaged_part_stops_the_run_and_only_it_is_done_again(ready, capsys, toy_networks, monkeypatch):
    monkeypatch.setattr(toy_networks, "CALLS", calls := [])
    with monkeypatch.context() as interrupted:
        interrupted.setattr(store.Entry, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(command(ready)) == 130
    part = sorted(ready.store.glob("predictions/*/part-*"))[2]
    part.write_bytes(part.read_bytes()[:-30])
    capsys.readouterr()
    assert cli.main(command(ready)) == 2
    one_message(capsys, str(part), "colour on images are damaged", "delete that file and run again")
    part.unlink()
    calls.clear()
    assert cli.main(command(ready)) == 0 and sum(calls) == 4


def test_damaged_logits_are_named(ready, capsys):
    assert cli.main(command(ready)) == 0
    (file,) = ready.store.glob("predictions/*/logits.npy")
    file.write_bytes(file.read_bytes()[:40])
    capsys.readouterr()
    assert cli.main(command(ready)) == 2
    one_message(capsys, str(file), "are damaged", "delete the folder")


def test_a_truncated_jpeg_is_named_and_can_be_left_out(ready, capsys):
    image = ready.data / "images" / "green" / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(image)
    image.write_bytes(image.read_bytes()[:900])
    assert cli.main(command(ready)) == 2
    one_message(capsys, "'green/photo'", "cannot be decoded", "truncated", "--skip-bad")
    assert cli.main(command(ready, "--skip-bad")) == 0
    assert "24/24 correct, top-1 100.00%, 1 image that cannot be decoded left out" in capsys.readouterr().out


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_an_image_that_would_fill_the_memory(ready, capsys):
    size = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (ready.data / "images" / "green" / "bomb.png").write_bytes(bomb)
    assert cli.main(command(ready)) == 2
    one_message(capsys, "'green/bomb'", "cannot be decoded", "pixels", "--skip-bad")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])  # reading a pipe would wait for ever
def test_what_is_named_like_an_image_and_is_none(ready, capsys, make):
    make(odd := ready.data / "images" / "green" / "odd.png")
    assert cli.main(command(ready)) == 2
    one_message(capsys, str(odd), "is no file")


def test_links_that_lead_in_a_circle_or_to_a_secret(ready, capsys):
    (loop := ready.data / "images" / "green" / "loop").symlink_to("..")
    assert cli.main(command(ready)) == 2
    one_message(capsys, "occurs more than once")
    loop.unlink()
    (ready.root / "secret").write_text("the secret")
    (ready.data / "images" / "green" / "link.png").symlink_to(ready.root / "secret")
    assert cli.main(command(ready)) == 2
    one_message(capsys, "'green/link'", "cannot be decoded")


def test_nan_logits(ready, capsys):
    from safetensors.torch import save_file

    weight = torch.full((3, 3), float("nan"))
    save_file({"head.weight": weight}, ready.root / "colour" / "model.safetensors")
    assert cli.main(command(ready)) == 2
    # whichever lane comes first names its image
    one_message(capsys, "colour: logits of image 'blue/blue00", "are not finite", "may be damaged")


def test_wrong_number_of_classes(toy, capsys):
    toy.images(1)
    toy.checkpoint(n_classes=4)
    toy.profile()
    assert cli.main(command(toy)) == 2
    one_message(capsys, "colour: the checkpoint has 4 classes", "has 3")


class Answer(OSError):
    """What the hub's client raises; the libraries wrap it in errors of their own."""

    def __init__(self, status):
        super().__init__(f"{status} Client Error")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize("source", ["timm:resnet18.a1_in1k", "open_clip:ViT-B-32/laion2b_s34b_b79k"])
@pytest.mark.parametrize("status", [401, 404])
def test_a_hub_that_refuses(ready, capsys, monkeypatch, source, status):
    def refuse(*_, **__):
        try:
            raise Answer(status)
        except Answer as answer:
            raise RuntimeError("Failed to download the weights") from answer

    monkeypatch.setattr("timm.create_model", refuse)
    monkeypatch.setattr("open_clip.create_model", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # nobody is asked whether the hub is there
    assert cli.main(command(ready, model=source)) == 3
    one_message(capsys, f"the hub refuses the weights of {source.split(':')[1].replace('/', ' ')}", f"({status})")


# Notebooks ------------------------------------------------------------------------------------------------------------


def test_a_notebook_out_of_time(kernels, tmp_path, capfd):
    cells = [code(f"import time; print({k}); time.sleep(1.1)") for k in range(5)]
    write_notebook(tmp_path / "slow.ipynb", *cells)
    report_run.execute(tmp_path / "slow.ipynb", tmp_path / "out.ipynb", {}, 3, tmp_path)
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert [output.ename for output in outputs] == ["TimeoutError"]  # no cell took that long, all of them did
    assert "ran longer than 3 s" in outputs[0].evalue and "notebook_timeout" in outputs[0].evalue
    assert not cells[-1].outputs
    out, err = capfd.readouterr()
    assert out == "" and "KeyboardInterrupt" not in err and "Timeout waiting" not in err


def test_a_set_of_the_wrong_kind_costs_its_own_part(in_kernels, toy, capsys):
    """The shipped notebooks on a folder of images that knows no factors, cues or scenes, one of its sets damaged."""
    toy.images(8)
    toy.checkpoint()
    toy.checkpoint("second", scale=1.0)
    models = {n: {"source": "timm", "name": f"local-dir:{toy.root / n}"} for n in ("colour", "second")}
    content = toy.content(models)
    (toy.data / "bad" / "violet").mkdir(parents=True)
    (toy.data / "bad" / "violet" / "a.png").write_bytes(b"")
    content["datasets"]["bad"] = content["datasets"]["images"] | {"path": str(toy.data / "bad")}
    parts = {"robustness": {"clean": "images", "v2": "bad", "c": "images"}, "mistakes": {"clean": "images"}}
    content["dimensions"] = parts | {"shape_bias": {"cue_conflict": "images"}, "synthetic": {"pug": "images"}}
    said = []
    assert build.build(toy.profile(content), options={"device": "cpu"}, echo=said.append) == 2
    ended = dict(line.split(": ", 1) for line in said if " s)" in line)
    assert {name: text.split(" (")[0] for name, text in ended.items()} == {
        "01_mistakes": "ok",
        "02_shape_bias": "input",
        "04_robustness": "ok",
        "06_synthetic": "input",
    }, said
    assert "the dataset is no set of conflicting cues" in ended["02_shape_bias"]
    assert "dimensions.synthetic: images has no 'factor' in its metadata" in ended["06_synthetic"]
    folder = toy.root / "report" / "toy"
    text = {name: bs4.BeautifulSoup((folder / f"{name}.html").read_text("utf-8"), "html.parser").text for name in ended}
    assert "no part about factors" in text["01_mistakes"] and "images has no 'corruption'" in text["04_robustness"]
    assert "violet" in text["04_robustness"]
    rows = pd.read_csv(folder / "results.csv")
    assert set(rows["dimension"]) == {"mistakes", "robustness"} and rows["value"].notna().all()
    assert all(f"{name}.html" in (folder / "index.html").read_text("utf-8") for name in ended)


@pytest.mark.parametrize(
    "kinds", [["hflip"], *(pytest.param(k, marks=pytest.mark.slow) for k in (["rotation", "jpeg"], ["noise"]))]
)
def test_any_list_of_transforms_makes_a_page(in_kernels, toy, capsys, kinds):
    """Without those of the paper, or with one of one strength; beside it calibration of a single set."""
    toy.images(3)
    toy.checkpoint()
    toy.checkpoint("second", scale=1.0)
    content = toy.content({n: {"source": "timm", "name": f"local-dir:{toy.root / n}"} for n in ("colour", "second")})
    content["dimensions"] = {"invariance": {"clean": "images", "transforms": kinds}}
    content["dimensions"] |= {"calibration": {"clean": "images"}} if kinds == ["hflip"] else {}
    assert build.build(toy.profile(content), options={"device": "cpu"}) == 0, capsys.readouterr()
    rows = pd.read_csv(toy.root / "report" / "toy" / "results.csv")
    assert {kind for kind in transforms.LADDERS if f"agreement:{kind}" in set(rows["metric"])} == set(kinds)
    assert set(rows["dimension"]) == set(content["dimensions"]) and rows["value"].notna().all()


def test_a_side_that_a_network_cannot_take_costs_its_row(in_kernels, toy):
    toy.images(8)
    toy.checkpoint()
    toy.checkpoint("fixed", architecture="toy_fixed")
    content = toy.content({n: {"source": "timm", "name": f"local-dir:{toy.root / n}"} for n in ("colour", "fixed")})
    asked = {"clean": "images", "transforms": ["resolution"]}
    content["dimensions"] = {"models": {"clean": "images"}, "invariance": asked}
    assert build.build(toy.profile(content), options={"device": "cpu"}, parameters={"TIMING_SECONDS": 0.1}) == 0
    folder = toy.root / "report" / "toy"
    assert "fixed: does not run on inputs of side 8 " in (folder / "07_invariance.html").read_text("utf-8")
    found = pd.read_csv(folder / "results.csv").groupby(["dimension", "metric"])["model"].agg(set)
    assert found["models", "accuracy"] == found["invariance", "accuracy:resolution=336"] == {"colour", "fixed"}
    assert found["invariance", "accuracy:resolution=112"] == {"colour"}
    front = bs4.BeautifulSoup((folder / "index.html").read_text("utf-8"), "html.parser").select_one(".ba-front")
    assert front.h1.text.startswith("Your images") and not front.select(".ba-source")  # its classes are a file


PARAMETERS = code('PROFILE = "mini"  # profile\nMODELS = ""  # subset', "parameters")
ACCURACY = """
from beyond_accuracy.measure import tidy
from beyond_accuracy.page import open_page
page = open_page(PROFILE, "calibration", MODELS)
for model, found in page.predictions("images").items():
    page.record(tidy.rows("accuracy", "percent", [model], [100 * found.correct.mean()], 24).assign(dataset="images"))
"""


def test_a_deleted_store_is_filled_again_and_says_the_same(in_kernels, toy, toy_networks, monkeypatch):
    toy.images(8)
    toy.checkpoint()
    profile = toy.profile(toy.content() | {"dimensions": {"calibration": {"clean": "images"}}})
    write_notebook(toy.root / "notebooks" / "03_calibration.ipynb", markdown("# C"), PARAMETERS, code(ACCURACY))

    def built(**more):
        shutil.rmtree(toy.store, ignore_errors=True)
        toy_networks.CALLS.clear(), readers.LOADED.clear()
        more |= {"notebooks": toy.root / "notebooks", "options": {"device": "cpu"}}
        assert build.build(profile, echo=(said := []).append, **more) == 0, said
        return sum(toy_networks.CALLS), "03_calibration: unchanged" in said, rows.read_bytes()

    rows = toy.root / "report" / "toy" / "results.csv"
    right = built()[2]
    assert built() == (24, True, right) and built(force=True) == (24, False, right)
    shutil.move(toy.data / "images" / "red" / "red000.png", toy.data / "images" / "blue")
    passed, unchanged, changed = built()
    assert (passed, unchanged) == (24, False) and changed != right
    monkeypatch.setattr(inference, "device_name", lambda device: f"other {device.type}")  # of other last digits
    assert built()[:2] == (24, False)


# Names ----------------------------------------------------------------------------------------------------------------


PAGE = """
from beyond_accuracy.page import open_page
import matplotlib.pyplot as plt
study = open_page(PROFILE, "calibration", models=MODELS)
name = study.role("clean")
model, found = next(iter(study.predictions(name).items()))
frame = found.frame.loc[~found.correct, ["id", "confidence"]]
study.table(frame, f"wrong-{name}", caption=f"Wrong on {study.title(name)}")
study.figure((plt.figure(), name), f"curve-{name}", caption=study.title(name), data=frame)
study.record(frame.iloc[:1].assign(dataset=name, metric="ece", model=model, value=0.1, ci_low=0.0, ci_high=0.2, n=9,
             unit="fraction")[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]])
study.finding(f"{study.spec(model).label} is wrong about {frame['id'].iloc[0]}.")
study.provenance()
"""


def test_hostile_names_in_the_report(in_kernels, toy, request, capsys):
    """Names of files, models and datasets reach every page as text, whatever they hold."""
    toy.images(2)
    odd = "größe '\"<img src=x onerror=alert(1)>&{{7*7}} $x_1$"
    label = "</script><script>alert(3)</script> [c](javascript:alert(4)) ![p](http://h) **b** ($0.10, was $0.20_x)"
    shutil.copytree(toy.checkpoint(), toy.root / odd)
    wrong, refused = "日本 <b onclick=alert(2)>'\"&", "<img src=x onerror=alert(5)> [c](javascript:alert(6))"
    shutil.copy(toy.data / "images" / "blue" / "blue000.png", toy.data / "images" / "red" / f"{wrong}.png")
    (toy.data / "images" / "red" / f"{odd}.heic").write_bytes(b"")
    ids = [path.relative_to(toy.data / "images").as_posix() for path in sorted(toy.data.rglob("*.png"))]
    answers = pd.DataFrame({"file_name": ids, "predicted_class": 0, "predicted_probability": 0.5})
    answers.to_csv(toy.root / f"{odd}.csv", index=False)
    shutil.copytree(toy.checkpoint("wide", n_classes=7), toy.root / odd / "wide")
    models = {odd: {"source": "timm", "name": f"local-dir:{toy.root / odd}", "label": label, "family": odd}}
    models[refused] = {"source": "timm", "name": f"local-dir:{toy.root / odd}/wide", "paradigm": odd}
    models["told"] = {"source": "predictions", "checkpoint": str(toy.root / f"{odd}.csv"), "label": f"{odd} told"}
    content = toy.content(models, prompts=f"{odd} {{c}}")
    content["datasets"][odd] = content["datasets"].pop("images") | {"title": odd, "licence": odd}
    content["dimensions"] = {"calibration": {"clean": odd, "shifted": []}}
    profile = toy.profile(content | {"title": odd, "description": odd, "synthetic": True})
    cells = markdown("# Calibration\n\nHow sure?"), PARAMETERS, code(PAGE)
    write_notebook(toy.root / "notebooks" / "03_calibration.ipynb", *cells)
    assert build.build(profile, notebooks=toy.root / "notebooks", options={"device": "cpu"}) == 0, capsys.readouterr()
    pages = harmless(toy)
    assert {"index", "03_calibration", "images", "choose", "differences"} <= pages.keys()
    assert all(odd in bs4.BeautifulSoup(text, "html.parser").text for text in pages.values())
    page = bs4.BeautifulSoup(pages["03_calibration"], "html.parser")
    assert wrong in page.text and label in page.select_one("p.ba-finding").text
    assert (
        f"{refused}: the checkpoint has 7 classes" in page.text
        and "told" in page.select_one("#tab-provenance-calibration").text
    )
    assert f"red/{wrong}" in bs4.BeautifulSoup(pages["images"], "html.parser").text
    in_a_browser(request, toy, pages)


def test_hostile_factors_levels_and_materials_in_the_report(in_kernels, toy, request, capsys):
    """What a table of images may say of them, through the shipped pages that speak of it."""
    names = [
        "<img src=x onerror=alert(1)> red",
        "$x_1$ [c](javascript:alert(2)) **g**",
        "![p](http://h) </script><script>",
    ]
    levels = ["<b onclick=alert(3)>low</b>", "{{7*7}} `m` $\\frac$", "<!-- "]
    rows = []
    for path in sorted(toy.images(8).rglob("*.png")):
        k, i = TOY_CLASSES.index(path.parent.name), len(rows)
        row = {"id": path.stem, "image": path.read_bytes(), "label": k, "cluster": f"{names[0]}{i // 3}"}
        row |= {"factor": levels[i % 2], "level": levels[i % 3], "shape": names[k], "texture": names[(k + i % 3) % 3]}
        rows.append(row)
    pd.DataFrame(rows).to_parquet(toy.data / "told.parquet")
    content = {"ids": names, "names": names, "templates": ["a {c}"]}
    toy.classes.write_text(json.dumps(content))
    toy.checkpoint()
    toy.checkpoint("weak", scale=0.0)
    kinds = {"colour": "convnet", "weak": "transformer"}
    models = {n: {"source": "timm", "name": f"local-dir:{toy.root / n}", "family": f} for n, f in kinds.items()}
    content = toy.content(models)
    told = {"reader": "parquet", "path": str(toy.data / "told.parquet"), "classes": str(toy.classes)}
    content |= {"datasets": {"told": told}, "synthetic": True}
    content["dimensions"] = {"shape_bias": {"cue_conflict": "told"}, "synthetic": {"pug": "told"}}
    task = {"name": names[1], "title": levels[0], "group": "natural", "dataset": "told", "column": "factor"}
    content["dimensions"]["transfer"] = {"tasks": [task]}
    runs = pd.read_csv(ASSETS / "mini_world" / "ablation.csv").assign(device=names[0])
    runs.to_csv(toy.root / "runs.csv", index=False)
    shutil.copy(ASSETS / "mini_world" / "ablation_covariance.csv", toy.root / "runs_covariance.csv")
    content["datasets"] |= dict.fromkeys(runs["dataset"], told)
    content["dimensions"]["ablation"] = {"table": str(toy.root / "runs.csv")}
    once = {"PROBE_SEEDS": 1, "SHOTS": "1"}
    assert build.build(toy.profile(content), options={"device": "cpu"}, parameters=once) == 0, capsys.readouterr()
    pages = harmless(toy)
    text = {name: bs4.BeautifulSoup(page, "html.parser").text for name, page in pages.items()}
    assert all(name in text["images"] for name in names)
    assert all(level in text["06_synthetic"] for level in levels[:2])  # of sweeps without PUG's classes, some missed
    assert names[0] in text["08_ablation"]  # the machine of a training run
    assert levels[0] in text["05_transfer"]  # the task's title; a single task is compared once, as its own average
    assert len(pd.read_csv(toy.root / "report" / "toy" / "comparisons" / "transfer.csv")) == 1
    in_a_browser(request, toy, pages)


def harmless(toy):
    """Pages of the report by name; none has an element or attribute that text of the profile or data became."""
    pages = {path.stem: path.read_text("utf-8") for path in (toy.root / "report" / "toy").glob("*.html")}
    for name, text in pages.items():
        soup = bs4.BeautifulSoup(text, "html.parser")
        assert not [tag for tag in soup.find_all(True) if any(key.startswith("on") for key in tag.attrs)], name
        assert all(img["src"].startswith("data:") for img in soup.find_all("img")), name
        assert not [a for a in soup.find_all("a", href=True) if "javascript" in a["href"].split(",")[0]], name
        assert not soup.select(".ba-finding strong, .ba-finding em, .ba-finding math"), name
        assert not [tag for tag in soup.find_all("script") if tag.get_text().startswith("alert")], name
        assert "49" not in soup.title.text, name
    return pages


def in_a_browser(request, toy, pages):
    """Nothing of them runs or asks for anything."""
    browser = request.getfixturevalue("chromium")  # last: without one the test ends here, with a reason
    for name in pages:  # a dialog would keep the page from loading; requests are trouble even where they are blocked
        browser.open(toy.root / "report" / "toy" / f"{name}.html")
        live = browser.run("return document.querySelectorAll('a[href^=\"javascript\" i], iframe, object').length")
        assert (browser.trouble, live) == ([], 0), name


# Profiles -------------------------------------------------------------------------------------------------------------

VALUES = [None, "", "x", 0, -1, 1.5, 10**30, float("nan"), True, [], {}, [1, "a"], {"a": {"b": 1}}, "images"]
VALUES += [["images"], [["images"]], "../..", "/etc/passwd", "~", "\x00", "日本", "a" * 3000, "none", "local-dir:/"]
VALUES += ["scale@x", "bf16", "timm", "open_clip", "imagenet_real", "parquet", "splits", "imagenet_c", "json"]


def leaves(node, path=()):
    """Every place of a profile at which a value could be another."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from leaves(value, (*path, key))


def full_content(toy):
    content = toy.content(prompts="default", logit_scale=100)
    content["datasets"]["images"] |= {"limit": 3, "keep": "all", "title": "T", "options": {"preprocess": "resize=256"}}
    content["models"]["colour"] |= {"label": "L", "family": "convnet", "checkpoint": "", "pretrained": ""}
    corrupted = {"clean": "images", "sketch": "images", "corrupt": "images"}
    moved = {"clean": "images", "transforms": ["scale"], "limit": 2}
    content["dimensions"] |= {
        "robustness": corrupted,
        "invariance": moved,
        "conventions": {"clean": "images", "limit": 2},
    }
    return content | {"title": "T", "synthetic": True}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_profile_with_anything_anywhere(ready, data):
    """Whatever stands in a place of a profile, a command ends with an exit code and not with an error of Python's."""
    content = full_content(ready)
    path = data.draw(st.sampled_from(list(leaves(content))))
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = data.draw(st.sampled_from(VALUES))
    (ready.root / "toy.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["check", "--profile", str(ready.root / "toy.yaml"), "--device", "cpu"]) in (0, 2, 3)
    assert cli.main(command(ready)) in (0, 2, 3)
