"""Runs one notebook with papermill, and what is kept of it."""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from beyond_accuracy.base.files import write_atomically


def execute(source: Path, target: Path, parameters: Mapping[str, object], timeout: int, cwd: Path) -> dict[str, str]:
    """Execute a notebook with papermill and write the executed copy.

    An error stops the notebook and stays in the copy, at its cell; nothing is raised. So does a kernel that died or a
    notebook out of time.

    Args:
        source: The notebook.
        target: The executed copy.
        parameters: Passed in; checked by the caller, since papermill only warns about unknown ones.
        timeout: Seconds the notebook may run.
        cwd: Working folder of the kernel.

    Returns:
        Facts of the run for the page's footer, by name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.part.ipynb")
    partial.unlink(missing_ok=True)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what stopped a notebook is told once, on its page
    start = time.monotonic()
    stopped: Exception | None = None
    try:
        papermill.execute_notebook(
            str(source),
            str(partial),
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            timeout_func=lambda _cell: max(1, math.ceil(start + timeout - time.monotonic())),
            resources={"metadata": {"path": str(cwd)}},  # `cwd=` would move the whole process, other pages included
            # A kernel is interrupted before it is shut down (jupyter_client), and says so as an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError:
        pass  # the copy holds the error
    except CellTimeoutError:
        stopped = TimeoutError(
            f"the notebook ran longer than {timeout} s; give it more with `settings: {{notebook_timeout: …}}` in the "
            "profile"
        )
    except Exception as error:  # a kernel that died, no kernel at all
        stopped = error
    seconds = time.monotonic() - start
    notebook = nbformat.read(partial if partial.is_file() else source, as_version=4)
    if stopped is not None:
        _mark_stop(notebook, stopped)
    notebook.metadata.pop("papermill", None)  # paths and times of this machine
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    write_atomically(target, nbformat.writes(notebook).encode())
    partial.unlink(missing_ok=True)
    return {
        "Notebook": f"notebooks/{source.name}",
        "Parameters": ", ".join(f"{name} = {_shown(value)}" for name, value in parameters.items()),
        "Code": f"beyond-accuracy {version('beyond-accuracy')}{_commit()}",
        "Environment": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "Duration": f"{seconds:.0f} s",
    }


def _shown(value: object) -> str:
    return repr(Path(value).name if isinstance(value, str) and os.path.isabs(value) else value)


def _mark_stop(notebook: NotebookNode, error: Exception) -> None:
    """Record an error that left no trace in the notebook at the first code cell that did not finish."""
    name, message = type(error).__name__, " ".join(str(error).split())
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code:
        notebook.cells.append(nbformat.v4.new_code_cell())
        code = notebook.cells[-1:]
    done = ["shell.execute_reply" in cell.metadata.get("execution", {}) for cell in code]
    cell = code[done.index(False)] if False in done else code[-1]
    cell.outputs = [output for output in cell.outputs if output.output_type != "error"]  # how it was interrupted
    cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=message, traceback=[]))


def _commit() -> str:
    """The checkout's commit, as an ending of the code version; empty where the library runs from elsewhere."""
    where = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run(
            [*where, "describe", "--always", "--dirty= (modified)", "--match="],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {found.stdout.strip()}" if found.returncode == 0 and found.stdout.strip() else ""
