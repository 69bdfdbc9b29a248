"""Fills the store and builds pages side by side: which wait for which, how many at once, what their kernels inherit.

A notebook keeps about one core busy, most of the time with Python. Two at once halve the time of a report on two cores;
more would need more memory than a laptop has (each kernel holds torch, about 0.7 GB).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from beyond_accuracy.base.errors import InputError

if TYPE_CHECKING:
    from beyond_accuracy.base.profile import Profile
    from beyond_accuracy.report.build import Notebook, PageState

AT_ONCE = 2
# Pages that read what others recorded, where those are built in the same run. Pages of LATE read all others.
READS = {"ablation": ("robustness", "synthetic"), "landscape": ("robustness",)}
LATE = ("summary",)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def fill_store(
    profile: Profile, pages: Sequence[Notebook], options: dict, echo: Callable[[str], None]
) -> dict[str, list[str]]:
    """Run what the store lacks; returns the store keys behind each page, by page name.

    Bad input stops its own page only: the page's notebook meets it again and says so there.
    """
    if not profile.models:
        return {page.name: [] for page in pages}
    from beyond_accuracy.inference import plan
    from beyond_accuracy.inference.store import Store

    keys, store = {}, Store()
    for page in pages:
        try:
            filled = plan.fill(profile, page.dimension, store, options)
        except InputError as error:
            echo(f"{page.name}: {error}")
            keys[page.name] = [str(error)]
            continue
        for message in filled.missing:
            echo(f"{page.name}: {message}")
        keys[page.name] = [*filled.keys, *filled.missing]
    return keys


def build_pages(
    pages: Sequence[Notebook], build_one: Callable[[Notebook], PageState], at_once: int = 0
) -> dict[str, PageState]:
    """Build pages, each once those it reads are done; returns what `build_one` returned, by page name.

    Whatever a page or the user (Ctrl-C) raises first is raised, and kernels under way are ended.

    Args:
        pages: In reading order; a page reads only pages before it.
        build_one: Builds one page; called from several threads.
        at_once: How many at the same time; 0 = two, or one on a single core.
    """
    futures: dict[str, Future] = {}
    with kernel_environment(), ThreadPoolExecutor(at_once or min(AT_ONCE, _cores()), "page") as pool:
        try:
            for page in pages:
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
def kernel_environment() -> Iterator[None]:
    """What kernels inherit: no figures shown but ours, no progress bars, a share of the cores.

    The share does not depend on how many pages are built at once, so that neither do sums in the last digit.
    """
    wanted = {"MPLBACKEND": "agg", "TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    wanted["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else a debugger's warning opens every notebook
    wanted |= {name: os.environ.get(name) or str(max(1, _cores() // AT_ONCE)) for name in THREADS}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end_kernels() -> None:
    # A kernel runs in a session of its own, where Ctrl-C does not reach it; a page waits for its kernel.
    import psutil  # comes with ipykernel

    for child in psutil.Process().children():
        try:
            if any("ipykernel" in word for word in child.cmdline()):
                child.kill()
        except psutil.Error:  # gone already
            continue


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
