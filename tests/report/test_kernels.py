"""Kernels that one process forks: what they inherit, how they end, and what happens when nobody forks any more."""

import json
import os
import signal
import socket
import sys
import time

import psutil
import pytest

from beyond_accuracy.report.kernels import Forked, Nursery, forked
from builders import code, write_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")


@pytest.fixture
def nursery(monkeypatch):
    monkeypatch.setattr(Nursery.factory, "default_provisioner_name", "local-provisioner")
    with forked(2):
        yield Nursery.opened


def executed(source, tmp_path):
    """What a notebook of one cell prints, run as a page is."""
    from beyond_accuracy.report.run import execute

    write_notebook(tmp_path / "one.ipynb", code("", "parameters"), code(source))
    execute(tmp_path / "one.ipynb", tmp_path / "out" / "one.ipynb", {}, 120, tmp_path)
    import nbformat

    outputs = nbformat.read(tmp_path / "out" / "one.ipynb", as_version=4).cells[-1].outputs
    return "".join(output.get("text", output.get("evalue", "")) for output in outputs)


def test_a_forked_kernel_is_a_process_of_its_own(nursery, tmp_path, monkeypatch):
    monkeypatch.setenv("A_PLACE", "there")
    asked = (
        "import os, sys; print(os.environ['A_PLACE'], os.getcwd(), os.getpid(), 'beyond_accuracy.page' in sys.modules)"
    )
    place, folder, first, imported = executed(asked, tmp_path).split()
    assert (place, folder, imported) == ("there", str(tmp_path), "True")
    assert nursery.process.poll() is None and not psutil.pid_exists(int(first))
    assert (
        executed("import sys; print('pandas' in sys.modules, 'left' in dir())\nleft = 1", tmp_path).split()[1]
        == "False"
    )
    assert executed("print('left' in dir())", tmp_path).strip() == "False"  # nothing of one page is in the next


def test_where_nobody_forks_kernels_are_started(nursery, tmp_path):
    nursery.address()
    nursery.process.kill()
    nursery.process.wait()
    assert executed("import sys; print('beyond_accuracy.page' in sys.modules)", tmp_path).strip() == "False"


def test_a_kernel_ends_with_who_asked_for_it_and_says_how(nursery, tmp_path):
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(tmp_path / "connection.json")]
    one, other = (Forked(nursery.address(), cmd=command, env=dict(os.environ), cwd=str(tmp_path)) for _ in range(2))
    assert one.poll() is None and psutil.pid_exists(one.pid)
    one.terminate()
    assert one.wait() == -signal.SIGTERM
    other.talk.close()
    other.connection.close()
    end = time.monotonic() + 60
    while psutil.pid_exists(other.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(other.pid)


def test_no_kernel_outlives_who_asked_for_it_whenever_that_ends(nursery, tmp_path):
    """Killed before it has read the answer, or together with the process that waits for the kernel."""

    def asked(name):
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(tmp_path / name)]
        return {"cmd": command, "env": dict(os.environ), "cwd": str(tmp_path)}

    def alive():  # wherever they hang by now; a fork has the words of the process it was forked from
        like = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["cmdline"] == words]
        return {p.pid for p in like if p.info["status"] != psutil.STATUS_ZOMBIE} - {nursery.process.pid}

    def within(seconds, so):
        end = time.monotonic() + seconds
        while not so() and time.monotonic() < end:
            time.sleep(0.05)
        return so()

    address = str(nursery.address())
    words = psutil.Process(nursery.process.pid).cmdline()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall((json.dumps(asked("first")) + "\n").encode())
    started = Forked(nursery.address(), **asked("second"))
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
