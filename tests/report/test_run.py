"""Pages side by side: who waits for whom, what kernels inherit, what happens when one is stopped.

Kernels that one process forks: what they inherit, how they end, and what happens when nobody forks any more.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from jupyter_client.provisioning import KernelProvisionerFactory

from beyond_accuracy.report import run
from beyond_accuracy.report.run import Forked, Nursery, build_pages, execute, forked
from builders import code, write_notebook

FACTORY = KernelProvisionerFactory.instance()


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


def test_what_kernels_inherit(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = ["HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "RAY_TMPDIR"]
    [monkeypatch.setenv(name, "rel") for name in places]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("rel", "other")))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setattr(run, "cores", lambda: 16)
    seen = {}
    build_pages([page("a")], lambda one: seen.update(os.environ), at_once=1)
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "8"  # whatever runs beside it
    assert seen["MKL_NUM_THREADS"] == "7"  # the user's
    assert {seen[name] for name in places} == {str(tmp_path / "rel")}  # whatever folder a kernel runs in
    assert seen["PYTHONPATH"] == os.pathsep.join((str(tmp_path / "rel"), str(tmp_path / "other")))
    assert seen["TQDM_DISABLE"] == "1" and seen["MPLBACKEND"] == "agg"
    assert not os.path.exists(seen["IPYTHONDIR"])  # start-up files of one's own move no page
    assert "OMP_NUM_THREADS" not in os.environ and os.environ["MKL_NUM_THREADS"] == "7"


# Kernels that are forked ---------------------------------------------------------------------------------------------


@pytest.fixture
def nursery(monkeypatch, tmp_path):
    if sys.platform != "linux":
        pytest.skip("kernels are forked on Linux alone")
    monkeypatch.setenv("BORN_IN", str(tmp_path))
    monkeypatch.setattr(FACTORY, "default_provisioner_name", "local-provisioner")
    with forked(2):
        yield Nursery.opened


def executed(source, tmp_path):
    """What a notebook of one cell prints, run as a page is."""
    write_notebook(tmp_path / "one.ipynb", code("", "parameters"), code(source))
    execute(tmp_path / "one.ipynb", tmp_path / "out" / "one.ipynb", {}, 120, tmp_path)
    outputs = nbformat.read(tmp_path / "out" / "one.ipynb", as_version=4).cells[-1].outputs
    return "".join(output.get("text", output.get("evalue", "")) for output in outputs)


def test_a_forked_kernel_is_a_process_of_its_own(nursery, tmp_path, monkeypatch):
    monkeypatch.setenv("A_PLACE", "there")
    asked = "import os, sys\nleft = 1\nprint(os.environ['A_PLACE'], os.getcwd(), os.getpid())\n"
    place, folder, first, imported = executed(f"{asked}print('beyond_accuracy.page' in sys.modules)", tmp_path).split()
    assert (place, folder, imported) == ("there", str(tmp_path), "True")
    assert nursery.process.poll() is None and not psutil.pid_exists(int(first))
    assert executed("print('left' in dir())", tmp_path).strip() == "False"  # nothing of one page is in the next


def test_where_nobody_forks_kernels_are_started(nursery, tmp_path):
    nursery.address()
    nursery.process.kill()
    nursery.process.wait()
    assert executed("import sys; print('beyond_accuracy.page' in sys.modules)", tmp_path).strip() == "False"


def asked(folder, name="connection.json"):
    """What is asked for: a kernel with its connection file in a folder."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(folder / name)]
    return {"cmd": command, "env": dict(os.environ), "cwd": str(folder)}


def within(seconds, so):
    """Whether something is so by then."""
    end = time.monotonic() + seconds
    while not so() and time.monotonic() < end:
        time.sleep(0.05)
    return so()


def test_a_kernel_ends_with_who_asked_for_it_and_says_how(nursery, tmp_path):
    one, other = (Forked(nursery.address(), **asked(tmp_path)) for _ in range(2))
    assert one.poll() is None and psutil.pid_exists(one.pid)
    one.terminate()
    assert one.wait() == -signal.SIGTERM
    other.talk.close()
    other.connection.close()
    assert within(60, lambda: not psutil.pid_exists(other.pid))


def test_no_kernel_outlives_who_asked_for_it_whenever_that_ends(nursery, tmp_path):
    """Killed before it has read the answer, or together with the process that waits for the kernel."""

    def alive():  # wherever they hang by now, but no kernels of other tests
        like = [p for p in psutil.process_iter(["cmdline", "environ", "status"]) if p.info["cmdline"] == words]
        born = [p for p in like if (p.info["environ"] or {}).get("BORN_IN") == str(tmp_path)]
        return {p.pid for p in born if p.info["status"] != psutil.STATUS_ZOMBIE} - {nursery.process.pid}

    address = str(nursery.address())
    words = psutil.Process(nursery.process.pid).cmdline()  # of its forks, too
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall((json.dumps(asked(tmp_path, "first")) + "\n").encode())
    started = Forked(nursery.address(), **asked(tmp_path, "second"))
    assert within(60, (tmp_path / "second").is_file)  # it is a kernel by now
    assert within(30, lambda: alive() == {started.pid, psutil.Process(started.pid).ppid()})
    psutil.Process(started.pid).parent().kill()
    assert within(30, lambda: not alive())


def test_one_page_and_an_open_nursery_start_no_other(nursery):
    with forked(5):
        assert Nursery.opened is nursery
    assert FACTORY.default_provisioner_name == "forked"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FACTORY, "default_provisioner_name", "local-provisioner")
        with forked(1):
            assert FACTORY.default_provisioner_name == "local-provisioner"
