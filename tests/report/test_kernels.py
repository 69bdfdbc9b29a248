"""Kernels that one process forks: what they inherit, how they end, and what happens when nobody forks any more."""

import json
import os
import signal
import socket
import sys
import time

import nbformat
import psutil
import pytest

from beyond_accuracy.report.kernels import Forked, Nursery, forked
from beyond_accuracy.report.run import execute
from builders import code, write_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")


@pytest.fixture
def nursery(monkeypatch, tmp_path):
    monkeypatch.setenv("BORN_IN", str(tmp_path))
    monkeypatch.setattr(Nursery.factory, "default_provisioner_name", "local-provisioner")
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
    assert Nursery.factory.default_provisioner_name == "forked"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Nursery.factory, "default_provisioner_name", "local-provisioner")
        with forked(1):
            assert Nursery.factory.default_provisioner_name == "local-provisioner"
