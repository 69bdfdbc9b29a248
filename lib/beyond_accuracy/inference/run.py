"""One pass over a dataset for several models and transforms; the only module that runs a network.

Workers decode each image once (PIL) and apply every transform and every distinct resize and crop to it; uint8 crops
travel to the device, where they are normalised and go through each model (`Lanes`: how). Every `PART_SECONDS`, and at
least every `chunk` images, one part per (model, transform) is fetched and written by another thread, so a killed run
continues where it stopped.
"""

import ctypes
import math
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from threading import BoundedSemaphore, Lock

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import beyond_accuracy
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import load_arrays, save_arrays
from beyond_accuracy.base.profile import Settings
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.dataset import BadImage, ImageDataset
from beyond_accuracy.data.transforms import Geometry, Transform
from beyond_accuracy.inference.jobs import (
    Job,
    Options,
    Todo,
    accelerators,
    check_device,
    fill_entries,
    head_file,
    image_bytes_of,
    interactive,
    jobs_of,
    progress,
)
from beyond_accuracy.inference.predictions import score
from beyond_accuracy.inference.store import Range, Store
from beyond_accuracy.measure.verdicts import counted
from beyond_accuracy.models.load import model_for
from beyond_accuracy.models.network import Model

# Uint8 crops of one forward batch, all transforms together, stay below this many bytes: in the memory of a GPU, where
# small batches are slow; in main memory on a CPU, where they are not.
BATCH_BYTES = {"cuda": 3 * 2**29}
CPU_BATCH_BYTES = 192 * 2**20
SLICE_BYTES = 32 * 2**20  # as much of a batch travels from a decoding process at a time
# Small batches stay in a core's cache: on the mini models 16 ran as fast as 64 at worst, 1.4 times as fast at best.
BATCH = {"cuda": 256, "mps": 64}
CPU_BATCH = 16
MAX_LANES = 16  # more lanes of fewer threads would hold more activations in memory at once
PART_SECONDS = 20  # of work that a killed run loses, or one forward batch of every job where that takes longer
MANY_PROMPTS = 5000  # from which encoding them is announced: minutes on a CPU
MAX_CPU_WORKERS = 4
SHARED = "/dev/shm"
PREFETCH = {"cuda": 4}  # slices per decoding process that wait for a GPU; 2 elsewhere
QUEUED = 2  # forward passes per lane, or loader batches on a GPU, that wait or run
FLOAT16_LOWEST = np.finfo(np.float16).min


def devices_of(name: str) -> list[str]:
    """Every card that a device option names: `cuda:0,1`, or `all` of this machine; else that one device."""
    if check_device(name) == "all":
        return [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["auto"]
    first, *others = name.split(",")
    return [first, *(f"cuda:{k}" for k in others)]


def pick_device(name: str = "auto") -> torch.device:
    """CUDA, else MPS, else CPU; of several cards the first."""
    if (name := devices_of(name)[0]) == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        if name == "cpu" and (unused := accelerators()):
            _say_unused(unused[0])
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} is not available here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    return device


@cache
def _say_unused(accelerator: str) -> None:
    """Once: a driver too old for torch's CUDA would otherwise cost a day on the CPU without a word."""
    unfit = f"torch {torch.__version__} (CUDA {torch.version.cuda or 'none'}) cannot use it: running on the CPU"
    cure = "Update the driver, or install the torch build for the driver you have; --device cuda says what fails"
    print(f"{accelerator} is here, but {unfit}. {cure}", file=sys.stderr, flush=True)


def device_name(device: torch.device) -> str:
    """Name of the card, or of the processor's architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {counted(os.cpu_count() or 1, 'core')})"


def text_head(model: Model, classes: ClassSpace, device: torch.device, store: Store) -> torch.Tensor | None:
    """`Model.head` on a device, kept under `heads/` of the store: 1000 classes x 80 prompts are 80,000 texts."""
    model.card.check(classes)
    if not model.is_clip:
        return None
    file = head_file(model.card, classes, store)
    if stored := load_arrays(file):
        return torch.from_numpy(stored["head"]).to(device)
    prompts = len(classes.spoken) * len(classes.templates)
    if loud := prompts >= MANY_PROMPTS and "BEYOND_ACCURACY_QUIET" not in os.environ:
        print(f"{model.card.name}: encoding {prompts:,} prompts, once for this class list", file=sys.stderr, flush=True)
    began = time.monotonic()
    head = model.head(classes, device, progress=loud and interactive())
    if loud:
        print(f"{model.card.name}: prompts encoded ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    save_arrays(file, {"head": head.cpu().numpy()})
    return head


def run(jobs: list[Job], dataset: ImageDataset, store: Store, settings: Settings, options: Options) -> None:
    """Compute what the jobs' store entries still lack, in this process."""
    facts, several = run_facts(pick_device(options.device)), len(devices_of(options.device)) > 1
    how = {"dataset": dataset, "store": store, "settings": settings, "options": options}
    fill_entries(jobs, dataset, settings, facts, partial(_shared_out if several else compute, **how))


def _shared_out(todo: Todo, dataset: ImageDataset, store: Store, settings: Settings, options: Options) -> int:
    """`compute`, every device its share of the parts in a process of its own.

    Prompts are encoded first, and batches cut as if all were computed on one: no number depends on how many there are.
    """
    jobs, ranges, devices = jobs_of(todo), list(todo), devices_of(options.device)
    classes, first = dataset.classes and dataset.classes.prompted(settings.prompts), pick_device(devices[0])
    for card in dict.fromkeys(job.card for job in jobs if job.scored and job.card.is_clip):
        text_head(model_for(card, settings, options.imports).to(first), classes, first, store)
    workers = settings.workers
    if workers < 0 and first.type == "cuda":
        workers = max(1, ((os.cpu_count() or 1) - 1) // len(devices))
    given, size = (dataset, store, replace(settings, workers=workers)), image_bytes_of(jobs)
    positions = np.array_split(np.arange(len(ranges)), min(len(devices), len(ranges)))
    how = {"mp_context": multiprocessing.get_context("spawn"), "initializer": _die_with_parent, "initargs": (0,)}
    with ProcessPoolExecutor(len(positions), **how) as pool:
        futures = []
        for k, (block, name) in enumerate(zip(positions, devices, strict=False)):
            its = replace(options, device=name, progress=options.progress and k == 0)  # the first one's stands for all
            futures.append(pool.submit(compute, {ranges[j]: todo[ranges[j]] for j in block}, *given, its, size))
        return sum(future.result() for future in futures)


def run_facts(device: torch.device) -> dict[str, str]:
    """What is written down beside the outputs of this process."""
    return {"device": device_name(device), "torch": torch.__version__, "computed_by": beyond_accuracy.__version__}


def compute(
    todo: Todo, dataset: ImageDataset, store: Store, settings: Settings, options: Options, image_bytes: int = 0
) -> int:
    """Compute parts and write them; returns how many images cannot be decoded. The caller locks and merges.

    `image_bytes`: `jobs.image_bytes_of` the run that these parts are a share of, by which batches are cut.
    """
    try:
        return _Pass(todo, dataset, store, settings, options, image_bytes).run()
    finally:
        if sys.platform == "linux":
            with suppress(AttributeError):  # not of glibc
                ctypes.CDLL(None).malloc_trim(0)  # batches of the largest pass would count as memory for good


class Lanes:
    """Runs functions on the device's lanes; use as a context manager, from one thread.

    On a CPU several passes run at once, each on threads of its own: splitting one pass over all cores makes every layer
    wait for its slowest thread (docs/benchmarks.md). A GPU has one lane, the caller's thread: kernels are only queued.
    """

    def __init__(self, device: torch.device):
        self._device, self._events = device, deque()
        cores = torch.get_num_threads()
        self.count = min(cores, MAX_LANES) if device.type == "cpu" else 1
        self.threads = cores // self.count
        self._pool: ThreadPoolExecutor | None = None
        self._slots = BoundedSemaphore(QUEUED * self.count)

    def __enter__(self) -> "Lanes":
        if self.count > 1:
            # torch keeps this number per thread, so the caller's own stays as it is.
            self._pool = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (self.threads,))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(torch.get_num_threads())  # what threads started later begin with

    def submit(self, function: Callable, *arguments: object) -> Future:
        """Run a function on a lane, at once or when one is free; waits while too much is queued."""
        if self._pool is not None:
            self._slots.acquire()
            future = self._pool.submit(function, *arguments)
            future.add_done_callback(lambda _: self._slots.release())
            return future
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def batch_done(self) -> torch.cuda.Event | None:
        """After each loader batch: wait until a GPU has at most `QUEUED` of them still to do; when this one is done."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) > QUEUED:
            self._events.popleft().synchronize()
        return event


class _Pass:
    """State of one pass: networks on the device, text heads, and the rows of the part under way."""

    def __init__(self, todo: Todo, dataset, store, settings, options, image_bytes):
        self.dataset, self.settings, self.options = dataset, settings, options
        self.device = device = pick_device(options.device)
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.refused: set[str] = set()  # keys of entries that their model has no outputs for
        whole = jobs_of(todo)
        self.models: dict[tuple, Model] = {}
        self.heads: dict = {}
        classes = dataset.classes and dataset.classes.prompted(settings.prompts)
        for job in whole:
            base = model_for(job.card, settings, options.imports).to(device)
            if job.card not in self.heads:
                self.heads[job.card] = text_head(base, classes, device, store) if job.scored else None
            if (job.card, job.geometry.crop) not in self.models:
                try:
                    self.models[job.card, job.geometry.crop] = base.at_size(job.geometry.crop)
                except InputError as error:
                    self._refuse(job, str(error))
        left = {rows: [job for job in jobs if job.entry.key not in self.refused] for rows, jobs in todo.items()}
        self.todo = {rows: jobs for rows, jobs in left.items() if jobs}
        jobs = jobs_of(self.todo)
        views = {(job.geometry, job.transform): None for job in jobs}
        self.views = sorted(views, key=lambda view: (view[0].text, view[1].text))
        self.view_of = {job.entry.key: self.views.index((job.geometry, job.transform)) for job in jobs}
        self.precision = whole[0].precision
        self.batch = options.batch_size or BATCH.get(device.type, CPU_BATCH)
        self.shrinking = Lock()
        most = BATCH_BYTES.get(device.type, CPU_BATCH_BYTES) // (image_bytes or image_bytes_of(whole))
        self.group = max(1, min(self.batch, most, settings.chunk))

    def run(self) -> int:
        if not self.todo:
            return 0
        cards, transforms = len(self.heads), len({transform for _, transform in self.views})
        what = f"{self.dataset.name}: {counted(cards, 'model')}, {counted(transforms, 'transform')}"
        total = sum(stop - start for start, stop in self.todo)
        loaded = self._loaded()  # before the threads: decoding processes are forked from this one
        lanes, writer = Lanes(self.device), ThreadPoolExecutor(1, "writer")
        told, cudnn = progress(what, total, self.options.progress), cudnn_for(self.device, self.precision)
        with told as tell, cudnn, lanes, writer:
            written: list[Future[int]] = []
            for rows, jobs, groups in self._parts(loaded, lanes):
                written.append(writer.submit(self._write, rows, jobs, groups, tell))
                for part in written[-2:-1]:  # one part is written while the next is computed, and no more
                    part.result()
            return sum(part.result() for part in written)

    def _loaded(self) -> Iterator[tuple[Range, int, tuple]]:
        """Slices of the parts in order: the part, where a forward batch ends with the slice (0: not), the decoded."""
        view_bytes = sum(3 * geometry.crop**2 for geometry, _ in self.views)
        size = max(1, min(self.group, SLICE_BYTES // view_bytes))
        slices = [
            (rows, list(range(at, min(at + size, end))), end if at + size >= end else 0)
            for rows in self.todo
            for start in range(rows[0], rows[1], self.group)
            for end in [min(start + self.group, rows[1])]
            for at in range(start, end, size)
        ]
        workers = worker_count(self.settings.workers, len(slices), self.device)
        workers = workers if can_lock(workers) else 0
        how = {"worker_init_fn": _die_with_parent, "pin_memory": self.device.type == "cuda", "collate_fn": _collated}
        how |= {"num_workers": workers, "prefetch_factor": PREFETCH.get(self.device.type, 2) if workers else None}
        loader = DataLoader(Views(self.dataset, self.views), batch_sampler=[there for _, there, _ in slices], **how)
        crops = guarded(iter(loader))  # the decoding processes start here
        return ((rows, end, items) for (rows, _, end), items in zip(slices, crops, strict=True))

    def _parts(self, loaded: Iterator[tuple], lanes: Lanes) -> Iterator[tuple[Range, list[Job], list]]:
        """Parts in order, each with its jobs and its forward batches, which may still be running."""
        done, positions, stacks, bad = [], [], [], 0
        first, began = None, time.monotonic()
        for rows, end, (there, flat, shapes, errors) in loaded:
            for _, message, skippable in errors:
                if not (skippable and self.options.skip_bad):
                    raise InputError(message)
            positions, bad = positions + there, bad + len(errors)
            if there:
                stacks.append([crop.permute(0, 3, 1, 2) for crop in _divided(self._placed(flat), shapes)])
            if not end:
                continue
            done.append((positions, self._forward(rows, stacks, lanes), bad))
            positions, stacks, bad = [], [], 0
            if end == rows[1] or time.monotonic() - began > PART_SECONDS:
                yield (rows[0] if first is None else first, end), self.todo[rows], done
                done, first, began = [], None if end == rows[1] else end, time.monotonic()

    def _forward(self, rows: Range, stacks: list[list[torch.Tensor]], lanes: Lanes) -> tuple[dict[str, Future], object]:
        """Outputs of every job of the part for one forward batch, by entry key, and what `Lanes.batch_done` says."""
        if not stacks:
            return {}, None
        views = [view[0] if len(view) == 1 else _joined(view) for view in zip(*stacks, strict=True)]
        view = self.view_of
        found = {j.entry.key: lanes.submit(self._answer, j, views[view[j.entry.key]]) for j in self.todo[rows]}
        return found, lanes.batch_done()

    def _placed(self, crops: torch.Tensor) -> torch.Tensor:
        """On the device, or left where they are if there is no room for all: `_try` takes them along bit by bit."""
        try:
            return crops.to(self.device, non_blocking=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return crops

    def _answer(self, job: Job, images: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """`_outputs`; a network that not even one image leaves room for costs itself only, and may fit another time."""
        try:
            return self._outputs(job, images)
        except InputError as error:
            if not is_out_of_memory(error):
                raise
            self._refuse(job, str(error), passing=True)
            return {}

    def _outputs(self, job: Job, images: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """What is stored of some images, on the device, each with a mask of the rows that were finite."""
        model = self.models[job.card, job.geometry.crop]
        pieces: list[dict[str, torch.Tensor]] = []
        start = 0
        while start < len(images) and job.entry.key not in self.refused:
            size = self.batch
            try:
                piece = self._try(model, job, images[start : start + size])
            except Exception as error:  # whatever a network's code raises: no value of this model, all of the others
                text = " ".join(str(error).split())[:200]
                if isinstance(error, torch.AcceleratorError) or "cudnn" in text.lower() or "cublas" in text.lower():
                    raise InputError(
                        f"{job.card.name}: the device failed ({text}); run again, or --device cpu"
                    ) from error
                side = f"does not run on inputs of side {job.geometry.crop}"
                self._refuse(job, f"{job.card.name}: {side} ({type(error).__name__}: {text})")
                return {}
            if piece is not None:
                pieces.append(piece)
                start += size
            elif size == 1:
                raise InputError(f"{job.card.name}: out of memory with a batch of one; try --device cpu")
            else:
                if self.device.type in ("cuda", "mps"):
                    getattr(torch, self.device.type).empty_cache()
                with self.shrinking:  # other lanes run out at the same moment
                    self.batch = min(self.batch, size // 2)
        if job.entry.key in self.refused:
            return {}
        with torch.inference_mode():
            whole = {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}
            finite = {name: values.isfinite().all(dim=1) for name, values in whole.items()}
            if "logits" in whole:
                # Softmax does not see a constant added to a row. With the largest logit at 0, float16 is finest where
                # classes compete, so what is judged from the stored logits is what the run itself would say.
                shifted = whole["logits"] - whole["logits"].amax(dim=1, keepdim=True)
                whole["logits"] = shifted.clamp_min_(FLOAT16_LOWEST).half()
            # Features stay float32: a probe turns what float16 makes of a last bit into other answers.
            return {name: (values, finite[name]) for name, values in whole.items()}

    def _try(self, model: Model, job: Job, images: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """One forward pass, or None when memory ran out (outside the handler, so that its tensors are gone)."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, kind) if kind else nullcontext():
                x = model.normalize(images.to(self.device)).contiguous(memory_format=torch.channels_last)
                out = model.outputs(x, self.heads[job.card], logits=job.scored, features=job.features)
                out = {name: value.float() for name, value in out.items()}
                for name, value in out.items():
                    width = len(self.dataset.classes) if name == "logits" else value.shape[-1]
                    if value.shape != (len(images), width):
                        raise ValueError(f"{name} of {len(images)} images have the shape {tuple(value.shape)}")
                return out
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _fetch(self, job: Job, groups: list) -> dict[str, np.ndarray]:
        """Outputs of a job for one part by name, once they are computed."""
        fetched: dict[str, list[np.ndarray]] = {}
        for positions, (futures, event), _ in groups:
            for name, (values, finite) in (futures[job.entry.key].result() if futures else {}).items():
                # On a stream of its own: on the networks' the copy would wait for all kernels that are queued by now.
                with torch.cuda.stream(self.copies) if event else nullcontext():
                    if event:
                        self.copies.wait_event(event)
                    values, finite = values.cpu().numpy(), finite.cpu().numpy()
                bad = np.flatnonzero(~finite)
                if len(bad):
                    self._refuse(
                        job,
                        f"{job.card.name}: {name} of image {self.dataset.ids[positions[bad[0]]]!r} "
                        f"({self.dataset.name}, transform {job.transform.text}) are not finite; the checkpoint may be "
                        f"damaged, or {self.precision} too narrow for it: try precision fp32",
                    )
                fetched.setdefault(name, []).append(values)
        return {} if job.entry.key in self.refused else {n: np.concatenate(v) for n, v in fetched.items()}

    def _refuse(self, job: Job, reason: str, passing: bool = False) -> None:
        """The model has no outputs for this job, now and (unless `passing`) when asked again; the others go on."""
        self.refused.add(job.entry.key)
        job.entry.refuse(reason, passing)

    def _write(self, rows: Range, jobs: list[Job], groups: list, tell: Callable[[int], object]) -> int:
        """Write a part of every job; returns how many of its images could not be decoded."""
        outputs = {job.entry.key: self._fetch(job, groups) for job in jobs}
        positions = [position for there, _, _ in groups for position in there]
        targets, columns = self.dataset.targets, self.dataset.columns
        chosen = [targets[p] for p in positions] if self.dataset.multilabel else targets[positions]
        ids = self.dataset.ids[positions].astype(str)
        for job in jobs:
            arrays = outputs.pop(job.entry.key)
            if job.entry.key in self.refused:
                continue
            frame = pd.DataFrame({"id": ids})
            frame["target"] = pd.Series(list(chosen), dtype=object) if self.dataset.multilabel else chosen
            if "logits" in arrays:
                scored = arrays["logits"] if columns is None else arrays["logits"][:, columns]
                frame = frame.assign(**score(scored, chosen, columns))
                if not job.logits:
                    del arrays["logits"]
            job.entry.write_part(rows, frame, arrays)
        tell(rows[1] - rows[0])
        return sum(bad for _, _, bad in groups)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor where the parts are, or in main memory where the device has no room for all of it."""
    if len({part.device for part in parts}) == 1:
        try:
            return torch.cat(parts)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return torch.cat([part.cpu() for part in parts])


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; MPS and the CPU allocator raise a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def cudnn_for(device: torch.device, precision: str) -> Iterator[None]:
    """Settings of cuDNN for one pass: its fastest kernel per input shape, and fp32 that is not TensorFloat-32."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark = device.type == "cuda"
    cudnn.allow_tf32 = before[1] and not (device.type == "cuda" and precision == "fp32")
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


# Decoding: each image once, and every transform, resize and crop of it in the same process --------------------------


class Views(Dataset):
    """Item i: every view (resize and crop x transform) of image i as uint8, decoded once."""

    def __init__(self, dataset: ImageDataset, views: Sequence[tuple[Geometry, Transform]]):
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int):
        try:
            image = self.dataset.image(position)
        except InputError as error:
            return position, None, (position, str(error), isinstance(error, BadImage))
        image_id = str(self.dataset.ids[position])
        plain = cache(lambda geometry: geometry.apply(image))
        source = lru_cache(1)(lambda transform: transform.apply_source(image, transform.generator(image_id)))
        crops = {}
        for geometry, transform in sorted(self.views, key=lambda view: view[1].text):  # one source for all geometries
            if transform.place == "source":
                crop = geometry.apply(source(transform))
            else:
                crop = transform.apply_input(plain(geometry), transform.generator(image_id))
            crops[geometry, transform] = np.asarray(crop, dtype=np.uint8)
        return position, [crops[view] for view in self.views], None


def _collate(items):
    """Positions of good images, all their crops in one uint8 array, its shapes by view, and what is said of bad images.

    One array a slice, not one a view: each would take a file descriptor and a copy to the device of its own.
    """
    good = [(position, crops) for position, crops, error in items if error is None]
    views = list(zip(*(crops for _, crops in good), strict=True))
    shapes = [(len(view), *view[0].shape) for view in views]
    flat = np.empty(sum(map(math.prod, shapes)), np.uint8)
    for view, part in zip(views, _divided(flat, shapes), strict=True):
        np.stack(view, out=part)
    return [position for position, _ in good], flat, shapes, [error for _, _, error in items if error is not None]


def _collated(items):
    """As a tensor, which other processes see in shared memory; where that is full the array, which takes a pipe.

    Torch would put it there later, in a thread of its own that dies of a full one, and whoever waits would wait for
    ever. Containers have 64 MB unless told otherwise, and several runs may share them.
    """
    there, flat, shapes, bad = _collate(items)
    crops = torch.from_numpy(flat)
    try:
        return there, crops.share_memory_() if get_worker_info() else crops, shapes, bad
    except RuntimeError:
        return there, flat, shapes, bad


def _divided(flat, shapes):
    """Views of consecutive parts of a flat array or tensor, by shape."""
    ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
    return [flat[start:end].reshape(shape) for start, end, shape in zip(ends, ends[1:], shapes, strict=False)]


def can_lock(workers: int) -> bool:
    """Whether there can be decoding processes: on Linux their locks lie in /dev/shm, and that may be read-only."""
    try:
        return not workers or bool(multiprocessing.get_context().Lock())
    except OSError as error:
        print(f"images are decoded in one process, which is slow: {SHARED} cannot be used ({error.strerror})",
              file=sys.stderr)  # fmt: skip
        return False


def guarded(slices: Iterator[tuple]) -> Iterator[tuple]:
    """The slices, all as tensors; a decoding process that was killed becomes one clear message."""
    piped = False
    try:
        for there, crops, shapes, bad in slices:
            if isinstance(crops, np.ndarray) and not piped:
                print(f"{SHARED} is full: images go through pipes, which is slower; give the container more (docker: "
                      "--shm-size=2g)", file=sys.stderr)  # fmt: skip
                piped = True
            yield there, torch.as_tensor(crops), shapes, bad
    except RuntimeError as error:
        if "Too many open files" in str(error):
            few = "too many open files to take images from decoding processes; raise the limit (`ulimit -n 4096`)"
            raise InputError(f"{few}, or set `settings: {{workers: 0}}` in the profile") from error
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a decoding process was killed, most likely for lack of memory (in a container: too small a /dev/shm); set "
            "`settings: {workers: 0}` in the profile, or give the machine more"
        ) from error


def _die_with_parent(_worker: int) -> None:
    # A worker inherits the locks of its parent, and would hold them for seconds after the parent was killed.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def worker_count(wanted: int, slices: int, device: torch.device) -> int:
    """Decoding processes: as wanted, or -1 = chosen from the machine."""
    if wanted >= 0:
        return wanted
    cores = os.cpu_count() or 1
    # On a CPU decoding takes its share of the cores, whatever that is: lanes and decoding processes never wait for one
    # another as long as there is enough of both.
    return min(slices, min(cores, MAX_CPU_WORKERS) if device.type == "cpu" else max(1, cores - 1))
