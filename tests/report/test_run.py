"""Pages side by side: who waits for whom, what kernels inherit, what happens when one is stopped."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from beyond_accuracy.report import run
from beyond_accuracy.report.run import build_pages


def page(dimension):
    return SimpleNamespace(name=f"page_{dimension}", dimension=dimension)


def test_pages_run_side_by_side_and_readers_after_what_they_read():
    pages = [page(name) for name in ("robustness", "synthetic", "ablation", "landscape", "models", "summary")]
    both = threading.Barrier(2, timeout=10)
    begun, ended = [], []

    def build_one(one):
        begun.append((one.dimension, tuple(ended)))
        if one.dimension in ("robustness", "synthetic"):
            both.wait()  # passes only if the two are under way at once
        ended.append(one.dimension)
        return one.dimension.upper()

    found = build_pages(pages, build_one, at_once=2)
    assert found == {one.name: one.dimension.upper() for one in pages} and list(found) == [one.name for one in pages]
    before = dict(begun)
    assert {"robustness", "synthetic"} <= set(before["ablation"])
    assert "robustness" in before["landscape"]
    assert set(before["summary"]) == {one.dimension for one in pages[:-1]}


def test_one_at_a_time_is_reading_order_and_an_error_stops_what_has_not_begun():
    order = []
    build_pages([page(name) for name in "cab"], lambda one: order.append(one.dimension), at_once=1)
    assert order == ["c", "a", "b"]

    def build_one(one):
        order.append(one.dimension)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pages([page(name) for name in "abcdef"], build_one, at_once=1)
    assert len(order) <= 3 + 2


def test_kernels_under_way_are_ended():
    stopped = []

    def build_one(one):
        # stands for a kernel: found by its command line, and out of reach of Ctrl-C
        command = [sys.executable, "-c", "import time; time.sleep(60)  # ipykernel"]
        kernel = subprocess.Popen(command, start_new_session=True)
        started.set()
        stopped.append(kernel.wait())

    def interrupted(one):
        started.wait(10)
        time.sleep(0.2)
        raise KeyboardInterrupt

    started = threading.Event()
    builders = {"a": interrupted, "b": build_one}
    with pytest.raises(KeyboardInterrupt):
        build_pages([page("a"), page("b")], lambda one: builders[one.dimension](one), at_once=2)
    assert stopped == [-9]


def test_what_kernels_inherit(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setattr(run, "cores", lambda: 16)
    seen = {}
    build_pages([page("a")], lambda one: seen.update(os.environ), at_once=1)
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "8"  # whatever runs beside it
    assert seen["MKL_NUM_THREADS"] == "7"  # the user's
    assert seen["TQDM_DISABLE"] == "1" and seen["MPLBACKEND"] == "agg"
    assert not os.path.exists(seen["IPYTHONDIR"])  # start-up files of one's own move no page
    assert "OMP_NUM_THREADS" not in os.environ and os.environ["MKL_NUM_THREADS"] == "7"
