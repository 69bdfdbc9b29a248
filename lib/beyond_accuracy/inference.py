"""One pass over a dataset for several models and transforms; the only module that runs a network.

Workers decode each image once (PIL) and apply every transform and every distinct resize and crop to it; uint8 crops
travel to the device, where they are normalised and go through each model. Every `chunk` images one part per (model,
transform) is written, so a killed run continues where it stopped, without loss or repetition.
"""

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

import beyond_accuracy
from beyond_accuracy.datasets import BadImage, ImageDataset
from beyond_accuracy.errors import InputError
from beyond_accuracy.geometry import Geometry
from beyond_accuracy.jobs import Job, Todo, check_device, filling, image_bytes_of, jobs_of, report_skipped
from beyond_accuracy.labels import ClassSpace
from beyond_accuracy.models import model_for
from beyond_accuracy.networks import Model
from beyond_accuracy.profiles import Settings
from beyond_accuracy.store import Range, Store, atomic_write, save_array, score
from beyond_accuracy.transforms import Transform

# Uint8 crops of one loader batch, all transforms together, stay below this many bytes.
BATCH_BYTES = 192 * 2**20
FLOAT16_LOWEST = np.finfo(np.float16).min


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a number.

    Attributes:
        device: `auto`, `cuda`, `cuda:N`, `mps` or `cpu`.
        batch_size: Images per forward pass; 0 = chosen from the device, halved on out-of-memory.
        skip_bad: Leave images out that cannot be decoded, and count them.
        progress: Show a progress bar (in a terminal or JupyterLab, never in a rendered page).
        imports: Modules that register architectures.
    """

    device: str = "auto"
    batch_size: int = 0
    skip_bad: bool = False
    progress: bool = True
    imports: tuple[str, ...] = ()


def pick_device(name: str = "auto") -> torch.device:
    """CUDA, else MPS, else CPU.

    Raises:
        InputError: A device that this machine or this build of torch does not have.
    """
    if check_device(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} is not available here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """Name of the card, or of the processor's architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {os.cpu_count()} cores)"


def text_head(model: Model, classes: ClassSpace, device: torch.device, store: Store) -> torch.Tensor | None:
    """`Model.head`, kept under `heads/` of the store: 1000 classes x 80 prompts are 80,000 texts to encode.

    Args:
        model: Any model; None comes back where it is not CLIP.
        classes: Classes with their prompts.
        device: Where it is wanted, and computed if it has to be.
        store: Where it is kept.
    """
    model.card.check(classes)
    if not model.is_clip:
        return None
    parts = {"weights": model.card.weights, "architecture": model.card.architecture, "prompts": classes.prompt_hash}
    file = store.head_file(parts)
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False)).to(device)
    except (OSError, ValueError, EOFError):
        head = model.head(classes, device)
    values = head.cpu().numpy()
    atomic_write(file, lambda path: save_array(path, values))
    return head


def run(jobs: list[Job], dataset: ImageDataset, store: Store, settings: Settings, options: Options) -> None:
    """Compute what the jobs' store entries still lack, in this process.

    Args:
        jobs: Of `jobs.plan`; jobs with the same entry are computed once.
        dataset: The images.
        store: Where the entries are.
        settings: Conventions, workers, images per part.
        options: Device, batch size, what to do with bad images.

    Raises:
        InputError: An image that cannot be decoded (named), outputs that are not finite (model and image named), a
            store that cannot be written.
        DataMissing: Only labels of the dataset are here.
    """
    facts = run_facts(pick_device(options.device))
    with filling(jobs, dataset, settings, facts) as todo:
        if todo:
            report_skipped(dataset, compute(todo, dataset, store, settings, options))


def run_facts(device: torch.device) -> dict[str, str]:
    """What is written down beside the outputs of this process."""
    return {"device": device_name(device), "torch": torch.__version__, "computed_by": beyond_accuracy.__version__}


def compute(
    todo: Todo, dataset: ImageDataset, store: Store, settings: Settings, options: Options, image_bytes: int = 0
) -> int:
    """Compute parts and write them; whoever calls holds the entries' locks and merges the parts (`jobs.filling`).

    Args:
        todo: Jobs by part.
        dataset: The images.
        store: Where text heads are kept; parts go to the jobs' entries.
        settings: Conventions, workers.
        options: Device, batch size, what to do with bad images.
        image_bytes: `jobs.image_bytes_of` the jobs of the run that these parts are a share of: batches are then cut
            as if the whole run were computed here, so numbers do not depend on how it is shared out.

    Returns:
        Number of images left out because they cannot be decoded.
    """
    return _Pass(todo, dataset, store, settings, options, image_bytes).run()


class _Pass:
    """State of one pass: networks on the device, text heads, and the rows of the part under way."""

    def __init__(self, todo: Todo, dataset, store, settings, options, image_bytes):
        self.todo, self.dataset, self.settings, self.options = todo, dataset, settings, options
        self.device = device = pick_device(options.device)
        jobs = jobs_of(todo)
        views = {(job.geometry, job.transform): None for job in jobs}
        self.views = sorted(views, key=lambda view: (view[0].text, view[1].text))
        self.view_of = {job.entry.key: self.views.index((job.geometry, job.transform)) for job in jobs}
        classes = dataset.classes and dataset.classes.prompted(settings.prompts)
        self.models: dict[tuple, Model] = {}
        self.heads: dict = {}
        for job in jobs:
            if job.card not in self.heads:
                base = model_for(job.card, settings, options.imports).to(device)
                self.heads[job.card] = None if classes is None else text_head(base, classes, device, store)
            if (job.card, job.geometry.crop) not in self.models:
                base = model_for(job.card, settings, options.imports)
                self.models[job.card, job.geometry.crop] = base.at_size(job.geometry.crop)
        self.precision = jobs[0].precision
        self.batch = options.batch_size or (256 if device.type == "cuda" else 64)
        self.image_bytes = image_bytes or image_bytes_of(jobs)

    def run(self) -> int:
        skipped = 0
        cards, transforms = len(self.heads), len({transform for _, transform in self.views})
        bar = tqdm(
            total=sum(stop - start for start, stop in self.todo),
            desc=f"{self.dataset.name}: {cards} models, {transforms} transforms",
            unit="img",
            disable=not self.options.progress or not _interactive(),
            leave=False,
        )
        with bar, _exact_float32(self.device, self.precision):
            for rows, batches in self._parts():
                skipped += self._write(rows, batches)
                bar.update(rows[1] - rows[0])
        return skipped

    def _parts(self) -> Iterator[tuple[Range, list]]:
        """Parts in order, each with its loader batches already run through the networks."""
        size = max(1, min(self.batch, BATCH_BYTES // self.image_bytes, self.settings.chunk))
        batches = [
            (rows, list(range(start, min(start + size, rows[1]))))
            for rows in self.todo
            for start in range(rows[0], rows[1], size)
        ]
        workers = _workers(self.settings.workers, len(batches), self.device)
        loader = DataLoader(
            _Views(self.dataset, tuple(self.views)),
            batch_sampler=[positions for _, positions in batches],
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_die_with_parent,
        )
        done = []
        for (rows, last), (positions, stacks, errors) in zip(batches, _decoded(loader), strict=True):
            for _, message, skippable in errors:
                if not (skippable and self.options.skip_bad):
                    raise InputError(message)
            done.append((positions, self._forward(rows, positions, stacks), len(errors)))
            if last[-1] + 1 == rows[1]:
                yield rows, done
                done = []

    def _forward(self, rows: Range, positions: list[int], stacks: list[torch.Tensor]) -> dict[str, dict]:
        """Stored outputs of every job of the part for one loader batch, by entry key."""
        if not positions:
            return {}
        stacks = [stack.to(self.device, non_blocking=True) for stack in stacks]
        return {
            job.entry.key: self._outputs(job, stacks[self.view_of[job.entry.key]], positions) for job in self.todo[rows]
        }

    def _outputs(self, job: Job, images: torch.Tensor, positions: list[int]) -> dict[str, np.ndarray]:
        model = self.models[job.card, job.geometry.crop]
        pieces: list[dict[str, torch.Tensor]] = []
        start = 0
        while start < len(images):
            piece = self._try(model, job, images[start : start + self.batch])
            if piece is not None:
                pieces.append(piece)
                start += self.batch
            elif self.batch == 1:
                raise InputError(f"{job.card.name}: out of memory with a batch of one; try --device cpu")
            else:
                _free(self.device)
                self.batch //= 2
        joined = {name: torch.cat([piece[name] for piece in pieces]).numpy() for name in pieces[0]}
        for name, values in joined.items():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise InputError(
                    f"{job.card.name}: {name} of image {self.dataset.ids[positions[bad[0]]]!r} ({self.dataset.name}, "
                    f"transform {job.transform.text}) are not finite; the checkpoint may be damaged, or "
                    f"{self.precision} too narrow for it: try precision fp32"
                )
        if "logits" in joined:
            # Softmax does not see a constant added to a row. With the largest logit at 0, float16 is finest where
            # classes compete, so what is judged from the stored logits is what the run itself would say.
            shifted = joined["logits"] - joined["logits"].max(axis=1, keepdims=True)
            joined["logits"] = np.maximum(shifted, FLOAT16_LOWEST).astype(np.float16)
        with np.errstate(over="ignore"):  # features beyond float16 become inf; whoever reads them is told
            return {name: values.astype(np.float16) for name, values in joined.items()}

    def _try(self, model: Model, job: Job, images: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """One forward pass, or None when memory ran out (outside the handler, so that its tensors are gone)."""
        try:
            with torch.inference_mode(), self._autocast():
                x = model.normalize(images).contiguous(memory_format=torch.channels_last)
                wanted = {"logits": self.dataset.classes is not None, "features": job.features}
                out = model.outputs(x, self.heads[job.card], **wanted)
                return {name: value.float().cpu() for name, value in out.items()}
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            return None

    def _autocast(self):
        if self.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, kind)

    def _write(self, rows: Range, batches: list) -> int:
        positions = [position for batch, _, _ in batches for position in batch]
        targets, columns = self.dataset.targets, self.dataset.columns
        chosen = [targets[p] for p in positions] if self.dataset.multilabel else targets[positions]
        ids = self.dataset.ids[positions].astype(str)
        for job in self.todo[rows]:
            outs = [results[job.entry.key] for _, results, _ in batches if results]
            arrays = {name: np.concatenate([out[name] for out in outs]) for name in (outs[0] if outs else {})}
            frame = pd.DataFrame({"id": ids})
            frame["target"] = pd.Series(list(chosen), dtype=object) if self.dataset.multilabel else chosen
            if "logits" in arrays:
                scored = arrays["logits"] if columns is None else arrays["logits"][:, columns]
                frame = frame.assign(**score(scored, chosen, columns))
                if not job.logits:
                    del arrays["logits"]
            job.entry.write_part(rows, frame, arrays)
        return sum(errors for _, _, errors in batches)


class _Views(Dataset):
    """Item i: every view (resize and crop x transform) of image i as uint8, decoded once."""

    def __init__(self, dataset: ImageDataset, views: tuple[tuple[Geometry, Transform], ...]):
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int):
        try:
            image = self.dataset.image(position)
        except InputError as error:
            return position, None, (position, str(error), isinstance(error, BadImage))
        image_id = str(self.dataset.ids[position])
        plain: dict[Geometry, object] = {}
        crops = []
        for geometry, transform in self.views:
            if transform.place == "source":
                crop = geometry.apply(transform.apply_source(image, transform.generator(image_id)))
            else:
                if geometry not in plain:
                    plain[geometry] = geometry.apply(image)
                crop = transform.apply_input(plain[geometry], transform.generator(image_id))
            crops.append(np.asarray(crop, dtype=np.uint8))
        return position, crops, None


def _collate(items):
    good = [(position, crops) for position, crops, error in items if error is None]
    stacks = [
        torch.from_numpy(np.stack(view)).permute(0, 3, 1, 2) for view in zip(*(crops for _, crops in good), strict=True)
    ]
    return [position for position, _ in good], stacks, [error for _, _, error in items if error is not None]


def _decoded(loader: DataLoader) -> Iterator[tuple]:
    try:
        yield from loader
    except RuntimeError as error:
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    # MPS and the CPU allocator raise a plain RuntimeError.
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _free(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


@contextmanager
def _exact_float32(device: torch.device, precision: str) -> Iterator[None]:
    """Under fp32 no TensorFloat-32, which torch uses for convolutions unless told otherwise: fp32 is to mean fp32."""
    before = torch.backends.cudnn.allow_tf32
    if device.type == "cuda" and precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _workers(wanted: int, batches: int, device: torch.device) -> int:
    if wanted >= 0:
        return wanted
    cores = os.cpu_count() or 1
    # On CPU the network needs the cores itself; one decoding process overlaps decode with compute.
    return min(batches, 1 if device.type == "cpu" else max(1, cores - 1))


def _interactive() -> bool:
    return "BEYOND_ACCURACY_QUIET" not in os.environ and (sys.stderr.isatty() or "ipykernel" in sys.modules)
