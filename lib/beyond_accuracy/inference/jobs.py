"""What a pass has to produce, where each output belongs in the store, and in which precision a device computes it.

Whether bf16 pays on a processor cannot be told by its name (some emulate it ten times slower), so a matrix product is
timed. The answer is part of keys (precision `auto`), so it is kept: it must not change with the machine's load.
"""

import itertools
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import beyond_accuracy
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import code_digest, read_json, write_atomically
from beyond_accuracy.base.paths import cache_dir, in_notebook
from beyond_accuracy.base.profile import ENGINES, Settings, unknown
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.corruptions import PARAMETERS
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.transforms import Geometry, Transform, override, parse
from beyond_accuracy.inference.store import Entry, Range, Store
from beyond_accuracy.measure.verdicts import counted
from beyond_accuracy.models.card import Card

PAYS = 1.3  # times as fast as fp32; native bf16 is about twice as fast, emulated far slower
SHAPE = (512, 768, 3072)  # rows, width and hidden width: a layer of a base-size network
REPEATS = 7
# Device files of CUDA, of WSL's and of Jetson's drivers, and of ROCm.
ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvmap", "/dev/kfd")
LINE_SECONDS = 60  # between two lines of progress in a log
# The code that turns an image into a number of the store, by what is run.
ALWAYS = (
    *("data/dataset.py:ImageDataset.image", "data/transforms.py:Geometry"),
    *("inference/run.py:Views", "inference/run.py:_collate", "models/network.py:Model"),
    *("inference/run.py:_Pass._try", "inference/run.py:_Pass._outputs"),
    *("inference/run.py:_Pass._write", "inference/run.py:cudnn_for", "inference/predictions.py:score"),
)
TRANSFORMED = ("data/transforms.py:Transform",)
CORRUPTED = ("data/corruptions.py:corrupt_image", "data/corruptions.py:jpeg")
ZERO_SHOT = ("models/network.py:Model.head", "models/network.py:tokenizer")


@dataclass(frozen=True)
class Job:
    """One model under one transform on one dataset, and the store entry its outputs go to."""

    card: Card
    transform: Transform
    geometry: Geometry  # resize and crop at the input side this transform asks for
    entry: Entry
    precision: str  # `fp32`, `bf16` or `fp16`
    scored: bool  # whether the model answers on the dataset's classes; else it only has features
    logits: bool  # keep the logits
    # Keep the features: of every untransformed run, so that asking for them later costs no second pass, and wherever
    # there are no classes to score.
    features: bool


@dataclass(frozen=True)
class Options:
    """How to run; only the device can change a number, through `precision: auto`."""

    device: str = "auto"  # `auto`, `cuda`, `cuda:N`, several cards (`cuda:0,1`, or `all` there are), `mps` or `cpu`
    engine: str = ""  # `local` or `ray`; empty = as the profile says
    batch_size: int = 0  # images per forward pass; 0 = chosen from the device, halved on out-of-memory
    skip_bad: bool = False  # leave images out that cannot be decoded, and count them
    progress: bool = True  # show a progress bar (in a terminal or JupyterLab, never in a rendered page)
    imports: tuple[str, ...] = ()  # modules that register architectures; of the profile

    @classmethod
    def given(cls, **asked) -> "Options":
        """Options as asked for; else as the command line left them in the environment, for notebooks; else as above."""
        inherited = {n: os.environ.get(f"BEYOND_ACCURACY_{n.upper()}") for n in ("device", "engine", "skip_bad")}
        inherited["skip_bad"] = inherited["skip_bad"] not in (None, "", "0")
        known = [field.name for field in fields(cls)]
        for name in asked.keys() - set(known):
            raise InputError(unknown("option", name, known))
        given = {name: value for name, value in asked.items() if value or name == "progress"}
        options = cls(**{name: value for name, value in inherited.items() if value} | given)
        check_device(options.device)
        if options.engine not in ("", *ENGINES):
            raise InputError(unknown("engine", options.engine, ENGINES))
        return options


Todo = dict[Range, list[Job]]  # what is to be computed of each part


def plan(
    cards: list[Card], dataset: ImageDataset, transforms: list[str], store: Store, settings: Settings, precision: str
) -> list[Job]:
    """The jobs of a pass, model by model: input side, resize and crop, and store entry for each transform."""
    classes = dataset.classes and dataset.classes.prompted(settings.prompts)
    jobs = []
    for card in cards:
        scored = card.scores(classes)
        for transform in map(parse, transforms):
            base = override(dataset.preprocess, card.geometry)
            geometry = base.at(transform.input_size(base.crop, card.patch))
            logits = scored and dataset.keep in ("all", "logits")
            features = dataset.keep == "all" and (transform.is_identity or classes is None)
            parts = {
                **card.key_parts(classes),
                "geometry": geometry.text,
                "dataset": dataset.fingerprint,
                "transform": transform.text,
                "code": code_of(transform),
                "precision": precision,
                "keep": [name for name, kept in (("logits", logits), ("float32 features", features)) if kept],
            }
            meta = {
                "model": card.name,
                "model_id": card.spec.id,
                "pretrained": card.spec.checkpoint or card.spec.pretrained,
                "dataset": dataset.name,
                "transform": transform.text,
                "preset": settings.preset,
                "data_source": dataset.source,
                "code": beyond_accuracy.__version__,
            }
            entry = store.entry(parts, meta)
            jobs.append(Job(card, transform, geometry, entry, precision, scored, logits, features))
    return jobs


def code_of(transform: Transform) -> str:
    """Digest of the code between an image and what is stored of it under a transform, and of a corruption's strengths.

    What conventions decide (preprocessing, prompts, logit scale) is in the key as values.
    """
    corrupted = transform.name in ("corrupt", "jpeg")
    places = ALWAYS + TRANSFORMED * (not transform.is_identity) + CORRUPTED * corrupted
    strengths = {frame: table.get(transform.corruption) for frame, table in PARAMETERS.items()}
    return code_digest(*places) + (f" {strengths}" if transform.corruption else "")


def fill_entries(
    jobs: list[Job], dataset: ImageDataset, settings: Settings, facts: dict[str, str], compute: Callable[[Todo], int]
) -> None:
    """Hold the entries' locks, have computed what they lack, and merge their parts.

    Jobs with the same entry are computed once, settled ones not at all; `facts` (device, versions) are written down.
    `compute` returns how many images cannot be decoded.
    """
    jobs = [job for job in {job.entry.key: job for job in jobs}.values() if not job.entry.settled]
    if jobs and dataset.load is None:
        raise DataMissing(f"{dataset.name}: only labels are known here, the images are not on this machine")
    n, chunk = len(dataset), settings.chunk
    ranges = [(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    with ExitStack() as locks:
        locked = {}
        for job in sorted(jobs, key=lambda job: job.entry.key):  # one order for all runs: no two wait for each other
            locked[job.entry.key] = locks.enter_context(job.entry.lock())
            job.entry.start(facts, locked[job.entry.key])
        if (todo := lacking({rows: jobs for rows in ranges})) and (skipped := compute(todo)):
            print(f"{dataset.name}: left out {counted(skipped, 'image')} that cannot be decoded", file=sys.stderr)
        for job in [job for job in jobs if not job.entry.refused]:
            if locked[job.entry.key]:
                job.entry.clear()  # of a worker that was killed and replaced meanwhile
            job.entry.finish(ranges)


def lacking(todo: Todo) -> Todo:
    """What of these parts is not in the store, with the jobs that lack it, in the order of the images."""
    ranges: dict[str, list[Range]] = {}
    for rows, wanted in todo.items():
        for job in wanted:
            ranges.setdefault(job.entry.key, []).append(rows)
    left: Todo = {}
    for job in jobs_of(todo):
        for rows in job.entry.missing(ranges[job.entry.key]):
            left.setdefault(rows, []).append(job)
    return dict(sorted(left.items()))


def jobs_of(todo: Todo) -> list[Job]:
    """Every job of some parts once."""
    return list({job.entry.key: job for wanted in todo.values() for job in wanted}.values())


def image_bytes_of(jobs: list[Job]) -> int:
    """Bytes of one image under every distinct resize, crop and transform of the jobs, as uint8."""
    return sum(3 * geometry.crop**2 for geometry, _ in {(job.geometry, job.transform) for job in jobs})


def head_file(card: Card, classes: ClassSpace, store: Store) -> Path:
    """Where the store keeps a CLIP model's embedding of the prompts of these classes."""
    parts = {"weights": card.weights, "architecture": card.architecture, "prompts": classes.prompt_hash}
    return store.head_file({**parts, "code": code_digest(*ZERO_SHOT)})


def interactive() -> bool:
    """Whether somebody watches: a terminal or JupyterLab, not a log or a rendered page."""
    return "BEYOND_ACCURACY_QUIET" not in os.environ and (sys.stderr.isatty() or in_notebook())


@contextmanager
def announced(dataset: ImageDataset, jobs: list[Job], wanted: bool = True) -> Iterator[None]:
    """A line on stderr before and after a dataset is run, where no progress bar is shown: a log, a pipe."""
    wanted = wanted and not interactive() and "BEYOND_ACCURACY_QUIET" not in os.environ
    lacking = [job for job in jobs if not job.entry.settled]
    if wanted:
        models, transforms = len({job.card for job in lacking}), len({job.transform for job in lacking})
        sizes = counted(len(dataset), "image"), counted(models, "model"), counted(transforms, "transform")
        print(f"{dataset.name}: {' x '.join(sizes)}", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    if wanted:
        print(f"{dataset.name}: done ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, wanted: bool = True, unit: str = "image") -> Iterator[Callable[[int], object]]:
    """Gives a function to call with how many more are done: a bar where somebody watches, else a line a minute."""
    if not wanted or interactive() or "BEYOND_ACCURACY_QUIET" in os.environ:
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=what, unit=unit, disable=not (wanted and interactive()), leave=False) as bar:
            yield bar.update
        return
    done, began, told = 0, time.monotonic(), time.monotonic()

    def more(n: int) -> None:
        nonlocal done, told
        done += n
        if (now := time.monotonic()) - told >= LINE_SECONDS and done < total:
            told, left = now, (now - began) * (total - done) / done
            print(f"{what}: {done:,} of {total:,} {unit}s, {now - began:.0f} s, about {left:.0f} s to go",
                  file=sys.stderr, flush=True)  # fmt: skip

    yield more


# Devices and precision ------------------------------------------------------------------------------------------------


def check_device(name: str) -> str:
    """The device option as given."""
    if not re.fullmatch(r"auto|all|cpu|mps|cuda(:\d+(,\d+)*)?", name):
        raise InputError(f"unknown device {name!r}; expected auto, cuda, cuda:0, cuda:0,1, all, mps or cpu")
    return name


def usable_precisions(device: str) -> tuple[str, ...]:
    """Precisions a device computes in at a useful speed; fp16 on a CPU is emulated, more than ten times slower."""
    kinds = {"mps": ("fp32", "fp16"), "cuda": ("fp32", "bf16", "fp16"), "old cuda": ("fp32", "fp16")}
    return kinds.get(_kind(device), ("fp32", "bf16"))


def choose_precision(wanted: str, device: str) -> str:
    """`auto` is bf16 where the device is fast in it (a CPU: `cpu_precision`), and fp32 elsewhere.

    Part of every cache key, so asked even when nothing runs; torch is imported only where there could be a CUDA device.
    """
    if wanted != "auto":
        return wanted
    kind = _kind(device)
    return cpu_precision() if kind == "cpu" else "bf16" if kind == "cuda" else "fp32"


def _kind(device: str) -> str:
    """`mps`, `cpu`, `cuda`, `old cuda` (without bf16), or `absent`: a CUDA device that was asked for is not here."""
    if device == "mps" or (device in ("auto", "all") and sys.platform == "darwin"):
        return "mps"
    surely_none = sys.platform == "linux" and not accelerators()
    if device == "cpu" or ("torch" not in sys.modules and (surely_none or sys.platform == "darwin")):
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu" if device in ("auto", "all") else "absent"
    return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else "old cuda"


def accelerators() -> list[str]:
    """Device files of accelerators on this machine, whether torch can use them or not."""
    return [path for path in ACCELERATORS if Path(path).exists()]


def processor() -> str:
    """The processor's name as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def cpu_precision(measure: Callable[[], float] | None = None) -> str:
    """`bf16` where the processor is at least 1.3 times as fast in it as in fp32, else `fp32`; measured once."""
    file, key = cache_dir() / "calibration.json", f"{processor()}; torch {version('torch')}"
    known = read_json(file)
    if not isinstance(known.get(key), dict) or "bf16_gain" not in known[key]:
        known[key] = {"bf16_gain": round((measure or bf16_gain)(), 2)}
        with suppress(InputError):  # a cache that cannot be written still serves what it has
            write_atomically(file, json.dumps(known, indent=1).encode())
    return "bf16" if known[key]["bf16_gain"] >= PAYS else "fp32"


def bf16_gain() -> float:
    """How many times as fast one thread multiplies matrices in bf16 as in fp32: least processor time of a few turns."""
    import torch

    rows, width, hidden = SHAPE
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the thread's own processor time is all of it, whatever else is running
    try:
        least = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
        sides = (rows, width), (hidden, width)
        operands = {kind: [torch.ones(side, dtype=kind) for side in sides] for kind in least}
        with torch.inference_mode():
            for _, kind in itertools.product(range(REPEATS), least):
                start = time.thread_time()
                torch.nn.functional.linear(*operands[kind])
                least[kind] = min(least[kind], time.thread_time() - start)
        return least[torch.float32] / least[torch.bfloat16]
    finally:
        torch.set_num_threads(threads)
