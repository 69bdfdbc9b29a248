"""Runs notebooks side by side: which wait for which, how many at once, what their kernels inherit, what is kept.

A notebook keeps about one core busy, most of the time with Python. Two at once halve the time of a report on two cores;
more would need more memory than a laptop has (each kernel holds torch, about 0.7 GB).
"""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import free_bytes, write_atomically
from beyond_accuracy.base.paths import cache_dir, data_dir, project_root

if TYPE_CHECKING:
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

# Side by side --------------------------------------------------------------------------------------------------------


def build_pages(
    pages: Sequence[Notebook], build_one: Callable[[Notebook], PageState], at_once: int = 0, folder: Path | None = None
) -> dict[str, PageState]:
    """Build pages, given in reading order, each once those it reads are done; what `build_one` returned, by page name.

    Whatever a page or the user (Ctrl-C) raises first is raised, and kernels under way are ended. `at_once`: 0 = two, or
    one on a single core; `folder`: of the report, into which the kernels' pages write.
    """
    from beyond_accuracy.report.kernels import forked

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
            if any("ipykernel" in word or word == "beyond_accuracy.report.kernels" for word in child.cmdline()):
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
