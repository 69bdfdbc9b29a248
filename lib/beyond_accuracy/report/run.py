"""Runs notebooks side by side: which wait for which, how many at once, what their kernels inherit, what is kept.

A notebook keeps about one core busy, most of the time with Python. Two at once halve the time of a report on two cores;
more would need more memory than a laptop has (each kernel holds torch, about 0.7 GB).

Kernels are forked from one process that has imported the library, not started one by one: a kernel takes seconds of CPU
to import what a page needs, and what is imported before a fork is in memory once. All else is jupyter_client's:
messages, environment, folder, signals, and a kernel that ends with who asked for it.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import EntryPoint, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import free_bytes, write_atomically
from beyond_accuracy.base.paths import cache_dir, data_dir, project_root

if TYPE_CHECKING:
    from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
    from nbformat import NotebookNode

    from beyond_accuracy.report.build import Notebook, PageState

AT_ONCE = 2
# Pages that read what others recorded, where those are built in the same run. Pages of LATE read all others.
READS = {"ablation": ("robustness", "synthetic"), "landscape": ("robustness",)}
LATE = ("summary",)
FIRST = ("own_images",)
LONGEST = ("transfer",)  # starts first, so that the others run beside it and not before it; reads no other page
PLACES = ("PYTHONPATH", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "RAY_TMPDIR")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Imported before kernels are forked
IMPORTED = ("ipykernel.kernelapp", "beyond_accuracy.page", "beyond_accuracy.inference.plan")

# Side by side --------------------------------------------------------------------------------------------------------


def build_pages(
    pages: Sequence[Notebook], build_one: Callable[[Notebook], PageState], at_once: int = 0, folder: Path | None = None
) -> dict[str, PageState]:
    """Build pages, given in reading order, each once those it reads are done; what `build_one` returned, by page name.

    Whatever a page or the user (Ctrl-C) raises first is raised, and kernels under way are ended. `at_once`: 0 = two, or
    one on a single core; `folder`: of the report, into which the kernels' pages write.
    """
    futures: dict[str, Future] = {}
    at_once = at_once or min(AT_ONCE, cores())
    with kernel_environment(folder), forked(len(pages)), ThreadPoolExecutor(at_once, "page") as pool:
        try:
            for page in sorted(pages, key=lambda page: page.dimension not in LONGEST):
                wanted = list(futures) if page.dimension in LATE else READS.get(page.dimension, ())
                # The pool starts pages in this order, so what a page waits for is always under way before it.
                first = [futures[name] for name in wanted if name in futures]
                futures[page.dimension] = pool.submit(_after, first, build_one, page)
            return {page.name: futures[page.dimension].result() for page in pages}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end_kernels()
            raise


def _after(first: Iterable[Future], build_one: Callable[[Notebook], PageState], page: Notebook) -> PageState:
    for future in first:
        future.exception()  # waits; a page that failed has recorded nothing, and its readers say so
    return build_one(page)


@contextmanager
def kernel_environment(folder: Path | None = None) -> Iterator[None]:
    """What kernels inherit: which report they write, no progress bars, a share of the cores, places made absolute.

    The share does not depend on how many pages are built at once, so that neither do sums in the last digit.
    """
    before = dict(os.environ)
    places = {"ROOT": project_root(), "DATA": data_dir(), "CACHE": cache_dir(), "REPORT": folder or ""}
    os.environ |= {f"BEYOND_ACCURACY_{name}": str(place) for name, place in places.items()}
    for name in (name for name in PLACES if os.environ.get(name)):
        os.environ[name] = os.pathsep.join(map(os.path.abspath, os.environ[name].split(os.pathsep)))
    os.environ |= {"MPLBACKEND": "agg", "TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else a debugger's warning opens every notebook
    os.environ |= {name: os.environ.get(name) or str(max(1, cores() // AT_ONCE)) for name in THREADS}
    own = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    os.environ["IPYTHONDIR"] = own.name  # a home folder may be full, and no start-up files of its moves a page
    try:
        yield
    finally:
        own.cleanup()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ |= before


def _end_kernels() -> None:
    # A kernel runs in a session of its own, where Ctrl-C does not reach it; a page waits for its kernel.
    import psutil  # comes with ipykernel

    for child in psutil.Process().children(recursive=True):
        try:
            if any("ipykernel" in word or word == __name__ for word in child.cmdline()):
                child.kill()
        except psutil.Error:  # gone already
            continue


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# One notebook --------------------------------------------------------------------------------------------------------


def execute(source: Path, target: Path, parameters: Mapping[str, object], timeout: int, cwd: Path) -> dict[str, str]:
    """Execute a notebook with papermill and write the executed copy; facts of the run for the page's footer, by name.

    An error stops the notebook and stays in the copy, at its cell; nothing is raised. So does a kernel that died or a
    notebook out of time (`timeout` seconds). papermill only warns about unknown parameters: the caller checks them.
    """
    # An optional check of jsonschema, behind nbformat: it compiles 39 grammars on import, seconds of every report.
    sys.modules.setdefault("rfc3987_syntax", None)
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.part.ipynb")
    partial.unlink(missing_ok=True)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what stopped a notebook is told once, on its page
    start = time.monotonic()
    stopped: Exception | None = None
    try:
        # A kernel is interrupted before it is shut down (jupyter_client), and says so as an error.
        arguments = ["--log-level=CRITICAL", "--HistoryManager.enabled=False"]
        papermill.execute_notebook(
            str(source), str(partial), parameters=dict(parameters), progress_bar=False, log_output=False,
            kernel_name="python3", kernel_manager_class=_kernel_of_this_python(), extra_arguments=arguments,
            timeout_func=lambda _cell: max(1, math.ceil(start + timeout - time.monotonic())),
            resources={"metadata": {"path": str(cwd)}},  # `cwd=` would move the whole process, other pages included
        )  # fmt: skip
    except PapermillExecutionError:
        pass  # the copy holds the error
    except CellTimeoutError:
        more = "give it more with `settings: {notebook_timeout: …}` in the profile"
        stopped = TimeoutError(f"the notebook ran longer than {timeout} s; {more}")
    except Exception as error:  # a kernel that died, no kernel at all
        stopped, place = error, Path(tempfile.gettempdir())
        if free_bytes(place) < 2**20:
            stopped = InputError(f"kernels keep small files in {place}, which is full: free some space, or set TMPDIR")
    seconds = time.monotonic() - start
    try:
        notebook = nbformat.read(partial, as_version=4)
    except (OSError, ValueError):  # none yet, or cut by a full disk
        notebook = nbformat.read(source, as_version=4)
    partial.unlink(missing_ok=True)
    if stopped is not None:
        _mark_stop(notebook, stopped)
    notebook.metadata.pop("papermill", None)  # paths and times of this machine
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    write_atomically(target, nbformat.writes(notebook).encode())
    return {
        "Notebook": f"notebooks/{source.name}",
        "Parameters": ", ".join(f"{name} = {_shown(value)}" for name, value in parameters.items()),
        "Code": f"beyond-accuracy {version('beyond-accuracy')}{_commit()}",
        "Environment": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "Duration": f"{seconds:.0f} s",
    }


def _kernel_of_this_python() -> type:
    """Manages a kernel of the interpreter that runs this, whatever JUPYTER_PATH has under the name `python3`."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        kernel_spec = property(lambda self: KernelSpec(**get_kernel_dict()))

    return ThisPython


def _shown(value: object) -> str:
    return repr(Path(value).name if isinstance(value, str) and os.path.isabs(value) else value)


def _mark_stop(notebook: NotebookNode, error: Exception) -> None:
    """Record an error that left no trace in the notebook at the first code cell that did not finish."""
    from nbformat import v4

    name, message = type(error).__name__, " ".join(str(error).split())
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code:
        notebook.cells.append(v4.new_code_cell())
        code = notebook.cells[-1:]
    done = ["shell.execute_reply" in cell.metadata.get("execution", {}) for cell in code]
    cell = code[done.index(False)] if False in done else code[-1]
    cell.outputs = [output for output in cell.outputs if output.output_type != "error"]  # how it was interrupted
    cell.outputs.append(v4.new_output("error", ename=name, evalue=message, traceback=[]))


def _commit() -> str:
    """The checkout's commit, as an ending of the code version; empty where the library runs from elsewhere."""
    describe = ["describe", "--always", "--dirty= (modified)", "--match="]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {found.stdout.strip()}" if found.returncode == 0 and found.stdout.strip() else ""


# Kernels, in the process that forks them -----------------------------------------------------------------------------


def serve(server: socket.socket) -> None:
    """Fork a kernel, and one that waits for it, per connection; until the standard input ends."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = [path for path in sys.path[1:] if path not in given]
    for name in IMPORTED:
        importlib.import_module(name)
    waiting = []
    while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
        connection, _ = server.accept()
        waiting = [pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if (pid := os.fork()) == 0:
            server.close()
            os._exit(_wait(connection, installed))
        waiting.append(pid)
        connection.close()


def _wait(connection: socket.socket, installed: list[str]) -> int:
    with suppress(BrokenPipeError), connection.makefile("rw") as talk:
        asked = json.loads(talk.readline())
        if (kernel := os.fork()) == 0:
            talk.close()
            connection.close()
            os._exit(_kernel(installed, **asked))
        with suppress(BrokenPipeError):  # who asked may have ended meanwhile
            print(kernel, file=talk, flush=True)
        while (ended := os.waitpid(kernel, os.WNOHANG))[0] == 0:
            if select.select([connection], [], [], 0.05)[0]:  # nobody asks any more
                os.kill(kernel, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(ended[1]), file=talk, flush=True)
    return 0


def _kernel(installed: list[str], cmd: list[str], env: dict[str, str], cwd: str) -> int:
    from ipykernel.kernelapp import IPKernelApp  # here, where it was imported before

    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ |= env
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    sys.argv = cmd[2:]  # python -m ipykernel_launcher
    # JPY_PARENT_PID was read when ipykernel was imported: the kernel is to end with the process that waits for it.
    IPKernelApp.launch_instance([*sys.argv[1:], f"--IPKernelApp.parent_handle={os.getppid()}"])
    return 0


# Kernels, in the process that asks for them --------------------------------------------------------------------------


class Forked:
    """What a provisioner needs of `subprocess.Popen`, of a process that another one forks."""

    stdin = stdout = stderr = None

    def __init__(self, address: Path, **asked: object):
        """OSError or ValueError where nobody forks any more."""
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(address))
        self.talk = self.connection.makefile("rw")
        print(json.dumps(asked), file=self.talk, flush=True)
        self.pid, self.status = int(self.talk.readline()), None

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        if self.status is None and select.select([self.connection], [], [], 0)[0]:
            self.wait()
        return self.status

    def wait(self) -> int:
        """Exit status, once it has ended."""
        if self.status is None:
            self.status = int(self.talk.readline() or -signal.SIGKILL)
            self.talk.close()
            self.connection.close()
        return self.status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def provisioner(**options: object) -> LocalProvisioner:
    """Has a kernel of jupyter_client forked, or started by itself where that fails."""
    from jupyter_client.provisioning import LocalProvisioner

    class Forking(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **given: object) -> dict:
            where = {"env": dict(given["env"]), "cwd": str(given.get("cwd") or os.getcwd())}
            try:
                self.process = Forked(Nursery.opened.address(), cmd=cmd, **where)
            except (OSError, ValueError):
                return await super().launch_kernel(cmd, **given)
            self.pid = self.pgid = self.process.pid
            return self.connection_info

    return Forking(**options)


class Nursery:
    """The process that forks, from the first kernel on and with the environment of then, for as long as it is open.

    On Linux alone: elsewhere libraries of the system do not survive a fork, and kernels are started one by one.
    """

    opened: Nursery

    def __init__(self):
        Nursery.opened, self.process, self.starting, factory = self, None, Lock(), _factory()
        factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:provisioner", factory.GROUP_NAME)
        factory.default_provisioner_name = "forked"

    def address(self) -> Path:
        """The socket where it listens; OSError where it cannot be started (a full disk)."""
        with self.starting:
            if self.process is None:
                self.folder = tempfile.TemporaryDirectory()  # the path of a socket has about 100 letters at most
                self.socket = Path(self.folder.name) / "socket"
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(str(self.socket))
                    server.listen()
                    command = [sys.executable, "-m", __name__, str(server.fileno())]
                    share = {"stdin": subprocess.PIPE, "pass_fds": [server.fileno()], "start_new_session": True}
                    self.process = subprocess.Popen(command, **share)
        return self.socket

    def close(self) -> None:
        """End it; kernels under way end with those who asked for them."""
        _factory().default_provisioner_name = "local-provisioner"
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.folder.cleanup()


def _factory() -> KernelProvisionerFactory:
    """Where jupyter_client looks up who starts its kernels; it takes a second to import."""
    from jupyter_client.provisioning import KernelProvisionerFactory

    return KernelProvisionerFactory.instance()


@contextmanager
def forked(pages: int) -> Iterator[None]:
    """Kernels are forked for several pages, where that can be, and unless they are already."""
    wanted = pages > 1 and sys.platform == "linux" and _factory().default_provisioner_name != "forked"
    nursery = Nursery() if wanted else None
    try:
        yield
    finally:
        if nursery is not None:
            nursery.close()


if __name__ == "__main__":  # the process of a `Nursery`
    serve(socket.socket(fileno=int(sys.argv[1])))
