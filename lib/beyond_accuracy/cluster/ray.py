"""The same run on a Ray cluster: parts are shared out, computed by `inference.compute`, merged by the driver.

The driver plans, holds the entries' locks and merges; tasks compute parts and write them into the store, which all
machines see (or hand them over, see `exchange`). Ray places the tasks, one GPU or one core each, and runs one anew
whose worker died; of what that one had written nothing is computed again. No number depends on how the parts are
shared out: every part is cut into the same batches as in a local run.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import beyond_accuracy
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import atomic_write
from beyond_accuracy.base.profile import Settings
from beyond_accuracy.cluster import exchange
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.inference.jobs import (
    Job,
    Options,
    Todo,
    fill_entries,
    head_file,
    image_bytes_of,
    jobs_of,
    lacking,
    progress,
)
from beyond_accuracy.inference.outputs import RUN_BY
from beyond_accuracy.inference.store import Store
from beyond_accuracy.models.card import Card

SHARES_PER_SLOT = 4  # so that no worker idles long while the last one finishes
# Ray starts a new process for every GPU task (it must: a process is bound to the card it first used), which loads
# torch and the networks again: about ten seconds, to be made up by the work of a share.
GPU_SHARE = 20_000  # forward passes
STARTS = 2
RETRIES = 3  # of a share whose worker died
VISIBLE_SECONDS = 90  # how long a network file system may take to show a file that another machine wrote
PASSED_ON = ("BEYOND_ACCURACY_", "HF_", "HUGGINGFACE_", "TORCH_HOME", "XDG_CACHE_HOME")


@dataclass(frozen=True)
class Slots:
    """What a cluster offers."""

    number: int  # tasks that can run at once
    gpus: int  # per task
    cpus: int  # per task


@dataclass(frozen=True)
class Setup:
    """What every task needs besides data."""

    environment: dict[str, str]  # of the driver, as far as it says where things are
    search: tuple[str, ...]  # the driver's module path
    root: str  # the store's folder, on a path that all machines share; empty where parts are handed over
    settings: Settings
    options: Options
    image_bytes: int  # as `inference.compute` takes it
    threads: int  # of a local run here


@dataclass(frozen=True)
class Done:
    """What a task reports: images it left out, models that have no outputs, and where it ran."""

    skipped: int
    refused: dict[str, dict]  # `Entry.refusal` where a model has no outputs, by entry key
    facts: dict[str, str]


def run(jobs: list[Job], dataset: ImageDataset, store: Store, settings: Settings, options: Options) -> None:
    """Compute what the entries lack on a Ray cluster: `RAY_ADDRESS`, else one on this machine, else a new one here."""
    ray = _connected()
    slots = _slots(ray, options.device)
    if options.device != "cpu":
        _check_precision(jobs, settings, slots)
    cluster = _Cluster(ray, slots, dataset, store, settings, options)
    fill_entries(jobs, dataset, settings, {"computed_by": beyond_accuracy.__version__}, cluster.compute)


RUN_BY["ray"] = run


def shares(todo: Todo, slots: Slots) -> list[Todo]:
    """Cut parts and jobs into pieces for one task each: parts first, since an image is decoded once per share."""
    wanted = SHARES_PER_SLOT * slots.number
    if slots.gpus:
        wanted = min(wanted, max(1, _passes(todo) // GPU_SHARE))
    ranges, jobs = list(todo), jobs_of(todo)
    blocks = np.array_split(np.arange(len(ranges)), min(len(ranges), wanted))
    groups = np.array_split(np.arange(len(jobs)), min(len(jobs), math.ceil(wanted / len(blocks))))
    found = []
    for block in blocks:
        for group in groups:  # jobs come model by model
            keys = {jobs[k].entry.key for k in group}
            share = {ranges[k]: [job for job in todo[ranges[k]] if job.entry.key in keys] for k in block}
            if share := {rows: some for rows, some in share.items() if some}:
                found.append(share)
    return found


def _passes(todo: Todo) -> int:
    return sum((stop - start) * len(wanted) for (start, stop), wanted in todo.items())


class _Cluster:
    """The driver's side of one run."""

    def __init__(self, ray, slots: Slots, dataset: ImageDataset, store: Store, settings: Settings, options: Options):
        self.ray, self.slots, self.dataset, self.store, self.settings = ray, slots, dataset, store, settings
        self.options = replace(options, device="cuda" if slots.gpus else "cpu", progress=False)
        self.progress = options.progress
        self.classes = dataset.classes and dataset.classes.prompted(settings.prompts)

    def compute(self, asked: Todo) -> int:
        """Compute what is asked for and not handed over yet; returns how many images cannot be decoded."""
        if not (url := self.settings.exchange):
            return self._compute(asked)
        exchange.collect(asked, url)
        todo = lacking(asked)
        skipped = self._compute(todo) if todo else 0
        exchange.clear(asked, url)  # what a killed run had left there, too
        return skipped

    def _compute(self, todo: Todo) -> int:
        jobs = jobs_of(todo)
        data = self.ray.put(self.dataset)
        setup = self.ray.put(self._setup(jobs))
        heads = self.ray.put(self._heads(jobs, setup))
        task = self._task(_compute)
        pending = {task.remote(setup, data, heads, share): share for share in shares(todo, self.slots)}
        skipped = dict.fromkeys(todo, 0)
        with progress(f"{self.dataset.name} on Ray", _passes(todo), self.progress, "pass") as tell:
            with closing(self._finished(pending)) as finished:
                for share, done in finished:
                    for job in [job for job in jobs_of(share) if job.entry.key in done.refused]:
                        job.entry.refuse(**done.refused[job.entry.key])
                    self._arrived(share)
                    for job in jobs_of(share):
                        job.entry.start(done.facts, locked=False)  # others still write: half-written files are theirs
                    skipped[min(share)] = max(skipped[min(share)], done.skipped)  # the same images for every model
                    tell(_passes(share))
        return sum(skipped.values())

    def _setup(self, jobs: list[Job]) -> Setup:
        import torch

        settings = self.settings
        if settings.workers < 0:  # the cores of a task are all it may use
            settings = replace(settings, workers=max(0, self.slots.cpus - 1) if self.slots.gpus else 0)
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        root = "" if settings.exchange else str(self.store.root.resolve())
        return Setup(
            environment, tuple(sys.path), root, settings, self.options, image_bytes_of(jobs), torch.get_num_threads()
        )

    def _heads(self, jobs: list[Job], setup) -> dict[str, bytes]:
        """Text heads by their file in the store: each computed once, so that all tasks score alike."""
        if self.classes is None:
            return {}
        task = self._task(_head)
        cards = dict.fromkeys(job.card for job in jobs if job.card.is_clip)
        files = {card: head_file(card, self.classes, self.store) for card in cards}
        pending = {task.remote(setup, card, self.classes): card for card in cards if not files[card].is_file()}
        with closing(self._finished(pending)) as finished:
            for card, content in finished:
                if not files[card].is_file():  # the store is not on a shared path
                    atomic_write(files[card], lambda path, content=content: path.write_bytes(content))
        return {file.name: file.read_bytes() for file in files.values()}

    def _task(self, function):
        options = {"num_gpus": self.slots.gpus, "num_cpus": self.slots.cpus, "max_retries": RETRIES}
        return self.ray.remote(**options)(function)

    def _finished(self, pending: dict):
        """What each task was given and what it returned, as they finish; an error stops the others."""
        try:
            while pending:
                ready, _ = self.ray.wait(list(pending), num_returns=1)
                for reference in ready:
                    yield pending.pop(reference), self._result(reference)
        finally:
            for reference in pending:
                with suppress(Exception):  # it may just have finished, or the cluster be gone
                    self.ray.cancel(reference, force=True)

    def _result(self, reference):
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, (InputError, DataMissing)):
                raise error.cause from error
            raise
        except errors.RayError as error:
            text = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self.dataset.name}: a worker of the Ray cluster was lost {RETRIES + 1} times over the same images "
                f"({type(error).__name__}: {text}). What was computed before is kept, and a rerun continues from it"
            ) from error

    def _arrived(self, share: Todo) -> None:
        """Wait until the parts of a finished task are seen here."""
        if self.settings.exchange:
            exchange.collect(share, self.settings.exchange)
        deadline = time.monotonic() + VISIBLE_SECONDS
        while left := lacking(share):
            if time.monotonic() > deadline:
                (rows, wanted), *_ = left.items()
                raise InputError(
                    f"a worker wrote {wanted[0].entry.part(rows)}, but it is not seen here: put the store on a file "
                    "system that all machines of the cluster share (--cache-dir), or set `settings: {exchange: URL}`"
                )
            time.sleep(0.5)


# In the tasks ---------------------------------------------------------------------------------------------------------


def _compute(setup: Setup, dataset: ImageDataset, heads: dict[str, bytes], share: Todo) -> Done:
    with _ready(setup, heads) as store:
        from beyond_accuracy.inference.run import compute, pick_device, run_facts

        if setup.settings.exchange:
            share = exchange.elsewhere(share, setup.settings.exchange, store.root)
        facts = run_facts(pick_device(setup.options.device))
        left = lacking(share)  # a task that is run anew goes on where its worker died
        skipped = compute(left, dataset, store, setup.settings, setup.options, setup.image_bytes) if left else 0
        refused = {job.entry.key: job.entry.refusal for job in jobs_of(share) if job.entry.refused}
        return Done(skipped, refused, facts)


def _head(setup: Setup, card: Card, classes: ClassSpace) -> bytes:
    # On as many threads as a local run: the last bits of a text tower's sums depend on it, and nothing else runs yet.
    with _ready(setup, {}, setup.threads) as store:
        from beyond_accuracy.inference.run import pick_device, text_head
        from beyond_accuracy.models.load import model_for

        device = pick_device(setup.options.device)
        text_head(model_for(card, setup.settings, setup.options.imports).to(device), classes, device, store)
        return head_file(card, classes, store).read_bytes()


@contextmanager
def _ready(setup: Setup, heads: dict[str, bytes], threads: int = 1) -> Iterator[Store]:
    """The driver's environment (before a library that reads it is imported) and its store, or scratch space."""
    os.environ.update(setup.environment)
    sys.path.extend(path for path in setup.search if path not in sys.path)  # modules of the profile's `imports`
    import torch

    if setup.options.device == "cpu":
        torch.set_num_threads(threads)  # one task per core
    with tempfile.TemporaryDirectory(prefix="beyond-accuracy-") as scratch:
        store = Store(Path(setup.root or scratch))
        for name, content in heads.items():
            if not (file := store.root / "heads" / name).is_file():
                atomic_write(file, lambda path, content=content: path.write_bytes(content))
        yield store


# Connecting -----------------------------------------------------------------------------------------------------------


def _connected():
    """Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"engine ray needs Ray ({error}): pip install -c constraints.txt 'beyond-accuracy[ray]'"
        ) from error
    if not ray.is_initialized():
        start(ray)
    return ray


def start(ray, **options) -> None:
    """`ray.init`, tried again where a busy machine was too slow: Ray waits 30 seconds for its own processes."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    for attempt in range(STARTS):
        try:
            ray.init(**quiet, **options)
            return
        except Exception as error:  # Ray raises a bare Exception on a slow start
            ray.shutdown()
            if attempt + 1 == STARTS or "timed out during startup" not in str(error):
                where = os.environ.get("RAY_ADDRESS") or "on this machine"
                text = " ".join(str(error).split())[:300]
                raise InputError(f"engine ray: no connection to a cluster {where} ({text})") from error


def _slots(ray, device: str) -> Slots:
    """Tasks of one GPU each where there are GPUs and the device option allows it, else of one core each."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"engine ray: Ray chooses the card of each task; give --device auto, cuda or cpu, not {device}"
        )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
    if with_gpu and device != "cpu":
        cpus = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpu)
        return Slots(sum(int(node["GPU"]) for node in with_gpu), 1, cpus)
    if device == "cuda":
        raise InputError("engine ray: no machine of the cluster has a GPU; try --device cpu")
    cores = sum(int(node.get("CPU", 0)) for node in nodes)
    if cores < 1:
        raise InputError("engine ray: the cluster offers no core to compute on (was it started with --num-cpus 0?)")
    return Slots(cores, 0, 1)


def _check_precision(jobs: list[Job], settings: Settings, slots: Slots) -> None:
    """`auto` is decided where the command runs and part of every key: it must suit the machines that compute."""
    import torch

    here = torch.cuda.is_available()
    if settings.precision == "auto" and here != bool(slots.gpus) and (slots.gpus or jobs[0].precision != "fp32"):
        there, other = ("has GPUs", "none") if slots.gpus else ("has none", "a GPU")
        raise InputError(
            f"engine ray: the cluster {there} and this machine {other}, so precision auto would mean different things "
            "on them; set `settings: {precision: bf16}` (or fp32) in the profile"
        )
