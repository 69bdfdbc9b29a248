"""A Ray cluster of two workers gives the store a local run gives, also when a worker dies in the middle."""

import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy import cli
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import Settings
from beyond_accuracy.cluster import exchange
from beyond_accuracy.cluster import ray as engine_ray
from beyond_accuracy.cluster.ray import Slots, shares
from beyond_accuracy.inference.store import Entry

TRANSFORMS = ["none", "hflip=1", "noise=0.1"]


@pytest.fixture(scope="module")
def cluster():
    """Two workers on this machine, of one core each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        engine_ray.start(ray, address="local", num_cpus=2, num_gpus=0, object_store_memory=100 * 2**20)
    except InputError as error:
        if "timed out during startup" in str(error):
            pytest.skip("this machine is too busy: Ray's own processes did not start within Ray's time limit")
        raise
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Every worker writes here how many images its networks have seen since it started; workers outlive a test."""
    return tmp_path_factory.mktemp("log")


def seen(log):
    return {int(path.name): int(text) for path in log.iterdir() if (text := path.read_text())}  # empty: being written


@pytest.fixture
def ready(toy, log, monkeypatch):
    """24 images in 6 parts for a supervised network and a CLIP."""
    toy.images(8)
    toy.checkpoint()
    toy.clip()
    monkeypatch.setattr(engine_ray, "PASSED_ON", (*engine_ray.PASSED_ON, "TOY_"))
    monkeypatch.setenv("TOY_LOG", str(log))
    monkeypatch.setenv("TOY_DELAY", "0")
    return toy


def content_of(toy, **settings):
    content = toy.content(**settings)
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}"}
    return content


def fill(toy, engine, store, **settings):
    """Contents of every file of a store filled by an engine, by name."""
    toy.store = toy.root / store
    toy.outputs(content_of(toy, **settings), options={"engine": engine}).fill("images", TRANSFORMS)
    files = [path for path in toy.store.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(toy.store)): path.read_bytes() for path in files}


def kill_one_at_work(toy, log):
    """A thread that kills a worker which has written a part and is at work on the next; returns it and its victim."""
    before, killed = seen(log), []

    def watch():
        while not killed:
            time.sleep(0.005)
            if any((toy.root / "ray" / "predictions").glob("*/part-*.parquet")):
                busy = [pid for pid, images in seen(log).items() if images != before.get(pid)]
                if busy:
                    os.kill(busy[0], signal.SIGKILL)
                    killed.append(busy[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread, killed


# On the cluster -------------------------------------------------------------------------------------------------------


def test_the_store_is_that_of_a_local_run_to_the_last_byte(ready, cluster, toy_networks):
    local = fill(ready, "local", "local")
    assert len([name for name in local if name.endswith("predictions.parquet")]) == 2 * len(TRANSFORMS)
    toy_networks.CALLS.clear()
    assert fill(ready, "ray", "ray") == local
    assert toy_networks.CALLS == []  # nothing was computed in this process
    stamps = {path: path.stat().st_mtime_ns for path in ready.store.rglob("*.parquet")}
    assert fill(ready, "ray", "ray") == local  # and nothing twice
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_parts_are_handed_over_through_a_url_also_those_that_a_killed_run_left_there(ready, cluster, log, monkeypatch):
    url = (ready.root / "bucket").as_uri()
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "clear", lambda *_: None)  # as if the run had been killed before
        first = fill(ready, "ray", "first", exchange=url)
    assert first == fill(ready, "local", "local") and list((ready.root / "bucket").rglob("part-*"))
    before = seen(log)
    second = fill(ready, "ray", "second", exchange=url)
    # Another store: it was not told what computed the parts, and needed no text head.
    kept = [{k: v for k, v in files.items() if re.match("predictions/.*(parquet|npy)", k)} for files in (first, second)]
    assert len(kept[0]) >= 2 * len(TRANSFORMS) and kept[0] == kept[1]
    assert seen(log) == before and not list((ready.root / "bucket").rglob("part-*"))


@pytest.mark.slow
def test_a_report_by_the_cluster_is_that_of_this_machine(ready, cluster, monkeypatch, toy_networks, in_kernels):
    tables = {}
    for engine in ("ray", "local"):
        monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(ready.root / engine))
        monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(ready.root / engine / "store"))
        ready.profile(content_of(ready) | {"dimensions": {"calibration": {"clean": "images"}}})
        toy_networks.CALLS.clear()
        report = ["report", "--profile", str(ready.root / "toy.yaml"), "--device", "cpu", "--engine", engine]
        assert cli.main(report) == 0
        assert bool(toy_networks.CALLS) == (engine == "local")
        tables[engine] = (ready.root / engine / "report" / "toy" / "results.csv").read_text()
    assert tables["ray"] == tables["local"] and "accuracy,colour,100" in tables["ray"]


def test_an_error_in_a_worker_reads_as_it_does_here(ready, cluster, capsys):
    (ready.data / "images" / "green" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ready.profile(content_of(ready))
    arguments = ["predict", "--profile", str(ready.root / "toy.yaml"), "--model", "colour", "--dataset", "images"]
    assert cli.main([*arguments, "--engine", "local"]) == 2
    local = capsys.readouterr().err
    assert cli.main([*arguments, "--engine", "ray"]) == 2
    assert capsys.readouterr().err == local and "'green/bad'" in local
    assert cli.main([*arguments, "--engine", "ray", "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert "24/24 correct" in out and err == "images: left out 1 image that cannot be decoded\n"


@pytest.mark.parametrize("handed_over", [False, True])
def test_what_a_network_cannot_take_is_told_as_here(ready, cluster, handed_over):
    """Refusals come back from workers that share the store, and from those that hand their parts over."""
    ready.checkpoint("fixed", architecture="toy_fixed")
    told = {}
    for engine in ("local", "ray"):
        ready.store = ready.root / engine
        settings = {"exchange": (ready.root / "bucket").as_uri()} if handed_over and engine == "ray" else {}
        content = content_of(ready, **settings)
        content["models"]["fixed"] = {"source": "timm", "name": f"local-dir:{ready.root / 'fixed'}"}
        outputs = ready.outputs(content, options={"engine": engine})
        rungs = outputs.predictions("images", ["none", "resolution=112"])
        told[engine] = {text: list(by_model) for text, by_model in rungs.items()}, list(outputs.left_out)
    assert told["ray"] == told["local"] and "fixed: does not run on inputs of side 8" in told["ray"][1][0]


def test_a_worker_killed_in_the_middle_changes_nothing(ready, cluster, log, monkeypatch):
    local, before = fill(ready, "local", "local"), seen(log)
    monkeypatch.setenv("TOY_DELAY", "0.02")
    thread, killed = kill_one_at_work(ready, log)
    on_ray = fill(ready, "ray", "ray")
    thread.join(10)
    assert killed and not Path(f"/proc/{killed[0]}").exists()
    assert on_ray == local
    images = sum(seen(log).values()) - sum(before.values())
    # Only the part that was under way (4 images) can have been computed again.
    assert 24 * len(TRANSFORMS) <= images <= (24 + 4) * len(TRANSFORMS)


def test_a_worker_that_dies_every_time_is_one_message_and_a_rerun_goes_on(ready, cluster, log, monkeypatch):
    monkeypatch.setattr(engine_ray, "RETRIES", 0)
    monkeypatch.setenv("TOY_DELAY", "0.02")
    thread, killed = kill_one_at_work(ready, log)
    with pytest.raises(InputError, match="images: a worker of the Ray cluster was lost 1 times .* a rerun continues"):
        fill(ready, "ray", "ray")
    thread.join(10)
    assert killed and list(ready.store.glob("predictions/*/part-*.parquet"))
    monkeypatch.setenv("TOY_DELAY", "0")
    continued = fill(ready, "local", "ray")  # by the other engine: a store does not belong to one
    assert continued == fill(ready, "local", "local")


# What it is made of ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeJob:
    entry: Entry | SimpleNamespace


def todo_of(parts, jobs, rng):
    """Parts of 10 images, of which every job lacks some."""
    all_jobs = [FakeJob(SimpleNamespace(key=f"job{k}")) for k in range(jobs)]
    ranges = [(10 * k, 10 * k + 10) for k in range(parts)]
    todo = {rows: [job for job in all_jobs[1:] if rng.random() < 0.7] for rows in ranges}
    return {rows: [all_jobs[0], *wanted] for rows, wanted in todo.items()}


@pytest.mark.parametrize("slots", [1, 2, 3, 50])
@pytest.mark.parametrize("gpus", [0, 1])
def test_shares_hold_everything_once(slots, gpus):
    rng = np.random.default_rng(slots)
    for parts, jobs in ((1, 1), (1, 9), (7, 3), (40, 5)):
        todo = todo_of(parts, jobs, rng)
        found = shares(todo, Slots(slots, gpus, 1))
        pairs = [(rows, job.entry.key) for share in found for rows, wanted in share.items() for job in wanted]
        assert sorted(pairs) == sorted((rows, job.entry.key) for rows, wanted in todo.items() for job in wanted)
        assert all(wanted for share in found for wanted in share.values())


def test_images_are_cut_before_models_and_gpu_shares_are_worth_a_process():
    todo = {(10 * k, 10 * k + 10): [FakeJob(SimpleNamespace(key=f"job{j}")) for j in range(6)] for k in range(100)}
    assert len(shares(todo, Slots(2, 0, 1))) == 8
    assert all(len(wanted) == 6 for share in shares(todo, Slots(2, 0, 1)) for wanted in share.values())
    assert len(shares(todo, Slots(2, 1, 8))) == 1  # 6,000 passes are seconds on a GPU
    few = {rows: todo[rows] for rows in list(todo)[:3]}
    assert [len(wanted) for share in shares(few, Slots(2, 0, 1)) for wanted in share.values()] == [2] * 9


def test_parts_survive_the_way_through_object_storage(tmp_path):
    """Handed over, seen as there, fetched once, cleared: with fsspec's storage in memory."""
    url = f"memory://{tmp_path.name}"
    entry = Entry(tmp_path / "store" / "k1", {"model": "m", "dataset": "d"})

    ranges = [(0, 2), (2, 4)]
    todo = dict.fromkeys(ranges, [FakeJob(entry)])
    ((moved,), _) = exchange.elsewhere(todo, url, tmp_path / "scratch").values()
    assert moved.entry.missing(ranges) == ranges
    frame = pd.DataFrame({"id": ["a", "b"], "target": [0, 1]})
    moved.entry.write_part((0, 2), frame, {"logits": np.ones((2, 3), np.float16)})
    assert moved.entry.missing(ranges) == [(2, 4)] and not list((tmp_path / "scratch").rglob("part-*"))
    exchange.collect(todo, url)
    assert entry.missing(ranges) == [(2, 4)]
    pd.testing.assert_frame_equal(pd.read_parquet(entry.part((0, 2)))[["id", "target"]], frame)
    stamp = entry.part((0, 2)).stat().st_mtime_ns
    exchange.collect(todo, url)
    assert entry.part((0, 2)).stat().st_mtime_ns == stamp
    exchange.clear(todo, url)
    assert moved.entry.missing(ranges) == ranges


@pytest.mark.parametrize("url", ["nosuch://bucket", "file:///proc/no/such"])
def test_storage_that_cannot_be_used_is_one_message(tmp_path, url):
    entry = exchange.ExchangedEntry(tmp_path / "k", {}, url)
    with pytest.raises(InputError, match=f"settings.exchange: {re.escape(url)} cannot be used"):
        entry.write_part((0, 1), pd.DataFrame({"id": ["a"], "target": [0]}), {})


def test_a_store_that_the_workers_do_not_share_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_ray, "VISIBLE_SECONDS", 0)
    entry = Entry(tmp_path / "k1", {})
    run = object.__new__(engine_ray._Cluster)
    run.settings = Settings()
    with pytest.raises(InputError, match="not seen here: put the store on a file system that all machines"):
        run._arrived({(0, 2): [FakeJob(entry)]})


def nodes(*resources):
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": r} for r in resources])


def test_one_gpu_per_task_where_there_are_some():
    mixed = nodes({"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 12.0, "GPU": 2.0})
    assert engine_ray._slots(mixed, "auto") == engine_ray._slots(mixed, "cuda") == Slots(6, 1, 6)
    assert engine_ray._slots(mixed, "cpu") == Slots(48, 0, 1)
    assert engine_ray._slots(nodes({"CPU": 2.0}), "auto") == Slots(2, 0, 1)
    for cluster, device, message in (
        (nodes({"CPU": 2.0}), "cuda", "no machine of the cluster has a GPU"),
        (mixed, "cuda:1", "Ray chooses the card of each task"),
        (nodes({}), "auto", "no core to compute on"),
    ):
        with pytest.raises(InputError, match=message):
            engine_ray._slots(cluster, device)


def test_precision_auto_must_mean_the_same_on_both_sides(monkeypatch):
    job = SimpleNamespace(precision="fp32")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"the cluster has GPUs and this machine none, .*precision: bf16"):
        engine_ray._check_precision([job], Settings(), Slots(4, 1, 8))
    engine_ray._check_precision([job], Settings(), Slots(4, 0, 1))
    engine_ray._check_precision([job], Settings(precision="bf16"), Slots(4, 1, 8))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InputError, match="the cluster has none and this machine a GPU"):
        engine_ray._check_precision([SimpleNamespace(precision="bf16")], Settings(), Slots(4, 0, 1))
    engine_ray._check_precision([job], Settings(), Slots(4, 0, 1))


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"engine ray needs Ray .*beyond-accuracy\[ray\]"):
        engine_ray._connected()


def test_a_cluster_that_cannot_be_reached_is_one_message(monkeypatch):
    tried = []

    def init(**_):
        tried.append(1)
        raise ConnectionError("nobody there") if len(tried) > 1 else Exception("The node timed out during startup.")

    fake = SimpleNamespace(init=init, shutdown=lambda: None)
    with pytest.raises(InputError, match="no connection to a cluster .*nobody there"):
        engine_ray.start(fake)
    assert len(tried) == 2


def test_unknown_engines(toy, capsys):
    toy.images(1)
    toy.checkpoint()
    with pytest.raises(InputError, match="settings.engine: unknown value 'spark'"):
        toy.profile(engine="spark")
    with pytest.raises(InputError, match="unknown engine 'dask'; known: local, ray"):
        toy.outputs(options={"engine": "dask"}).fill("images", ["none"])
