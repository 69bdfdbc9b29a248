"""One pass over a dataset for several models and transforms; the only module that runs a network.

Workers decode each image once (PIL) and apply every transform and every distinct resize and crop to it; uint8 crops
travel to the device, where they are normalised and go through each model. Every `chunk` images one part per (model,
transform) is written, so a killed run continues where it stopped, without loss or repetition.
"""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

import beyond_accuracy
from beyond_accuracy.datasets import ImageDataset
from beyond_accuracy.errors import InputError
from beyond_accuracy.geometry import Geometry, override
from beyond_accuracy.models import Model
from beyond_accuracy.profiles import Settings
from beyond_accuracy.store import Entry, Store, score
from beyond_accuracy.transforms import Transform, parse

# Uint8 crops of one loader batch, all transforms together, stay below this many bytes.
BATCH_BYTES = 192 * 2**20


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a number.

    Attributes:
        device: `auto`, `cuda`, `mps` or `cpu`.
        batch_size: Images per forward pass; 0 = chosen from the device, halved on out-of-memory.
        skip_bad: Leave images out that cannot be decoded, and count them.
        progress: Show a progress bar (in a terminal or JupyterLab, never in a rendered page).
    """

    device: str = "auto"
    batch_size: int = 0
    skip_bad: bool = False
    progress: bool = True


@dataclass(frozen=True)
class Job:
    """One model under one transform on one dataset, and the store entry its outputs go to."""

    model: Model
    transform: Transform
    geometry: Geometry
    entry: Entry


def pick_device(name: str = "auto") -> torch.device:
    """CUDA, else MPS, else CPU.

    Raises:
        InputError: A device that this machine or this build of torch does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} is not available here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the accelerator supports it and fp32 on CPU, so that CPU numbers are the same everywhere."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def device_name(device: torch.device) -> str:
    """Name of the card, or of the processor's architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {os.cpu_count()} cores)"


def plan(
    models: list[Model],
    dataset: ImageDataset,
    transforms: list[str],
    store: Store,
    settings: Settings,
    device: torch.device,
    features: bool = False,
) -> list[Job]:
    """The jobs of a pass: for each model and transform its input side, resize and crop, and store entry."""
    precision = pick_precision(settings.precision, device)
    jobs = []
    for model in models:
        for text in transforms:
            transform = parse(text)
            base = override(dataset.preprocess, model.geometry)
            size = transform.input_size(base.crop, max(model.patch, 1))
            geometry = base.at(size)
            parts = {
                **model.key_parts(dataset.classes),
                "geometry": geometry.text,
                "dataset": dataset.fingerprint,
                "transform": transform.text,
                "precision": precision,
                "features": features,
            }
            meta = {
                "model": model.name,
                "model_id": model.spec.id,
                "pretrained": model.spec.checkpoint or model.spec.pretrained,
                "dataset": dataset.name,
                "transform": transform.text,
                "preset": settings.preset,
                "data_source": dataset.source,
                "code": beyond_accuracy.__version__,
                "device": device_name(device),
                "torch": torch.__version__,
            }
            jobs.append(Job(model, transform, geometry, store.entry(parts, meta)))
    return jobs


def run(
    jobs: list[Job],
    dataset: ImageDataset,
    settings: Settings,
    options: Options,
    device: torch.device,
    features: bool = False,
) -> None:
    """Compute what the jobs' store entries still lack.

    Raises:
        InputError: An image that cannot be decoded (named), or outputs that are not finite (model and image named).
    """
    n_parts = -(-len(dataset) // settings.chunk)
    todo = {k: [j for j in jobs if k in set(j.entry.missing_parts(n_parts))] for k in range(n_parts)}
    todo = {k: wanted for k, wanted in todo.items() if wanted}
    for job in jobs:
        job.entry.start()
    if todo:
        _Pass(jobs, todo, dataset, settings, options, device, features).run()
    for job in jobs:
        if not job.entry.complete:
            job.entry.finish(n_parts)


class _Pass:
    """State of one pass: networks on the device, text heads, and the rows of the part under way."""

    def __init__(self, jobs, todo, dataset, settings, options, device, features):
        self.todo, self.dataset, self.settings, self.options = todo, dataset, settings, options
        self.device, self.features = device, features
        wanted = [job for job in jobs if any(job in part for part in todo.values())]
        self.views = sorted({(job.geometry, job.transform) for job in wanted}, key=lambda v: (v[0].text, v[1].text))
        self.view_of = {id(job): self.views.index((job.geometry, job.transform)) for job in wanted}
        base = {job.model.name: job.model.to(device) for job in wanted}
        self.heads = {
            name: None if dataset.classes is None else model.head(dataset.classes, device)
            for name, model in base.items()
        }
        sizes = {(job.model.name, job.geometry.crop) for job in wanted}
        self.models = {(name, size): base[name].at_size(size) for name, size in sizes}
        self.precision = pick_precision(settings.precision, device)
        self.batch = options.batch_size or (256 if device.type == "cuda" else 64)
        self.columns = None if dataset.columns is None else torch.as_tensor(dataset.columns, device=device)

    def run(self) -> None:
        skipped = 0
        bar = tqdm(
            total=sum(self._part_size(k) for k in self.todo),
            desc=f"{self.dataset.name}: {len(self.models)} models, {len({v[1].text for v in self.views})} transforms",
            unit="img",
            disable=not self.options.progress or not _interactive(),
            leave=False,
        )
        with bar:
            for part, rows in self._parts():
                skipped += self._write(part, rows)
                bar.update(self._part_size(part))
        if skipped:
            print(f"{self.dataset.name}: left out {skipped} images that cannot be decoded", file=sys.stderr)

    def _part_size(self, part: int) -> int:
        return min(self.settings.chunk, len(self.dataset) - part * self.settings.chunk)

    def _parts(self) -> Iterator[tuple[int, list]]:
        """Parts in order, each with its loader batches already run through the networks."""
        view_bytes = sum(3 * geometry.crop**2 for geometry, _ in self.views)
        loader_batch = max(1, min(self.batch, BATCH_BYTES // view_bytes, self.settings.chunk))
        batches = [
            list(range(start, min(start + loader_batch, part * self.settings.chunk + self._part_size(part))))
            for part in self.todo
            for start in range(
                part * self.settings.chunk, part * self.settings.chunk + self._part_size(part), loader_batch
            )
        ]
        loader = DataLoader(
            _Views(self.dataset, tuple(self.views)),
            batch_sampler=batches,
            collate_fn=_collate,
            num_workers=_workers(self.settings.workers, len(batches), self.device),
            pin_memory=self.device.type == "cuda",
        )
        current, rows = None, []
        for positions, stacks, errors in loader:
            part = positions[0] // self.settings.chunk if positions else errors[0][0] // self.settings.chunk
            if part != current:
                if current is not None:
                    yield current, rows
                current, rows = part, []
            if errors and not self.options.skip_bad:
                raise InputError(errors[0][1])
            rows.append((positions, self._forward(part, positions, stacks), errors))
        if current is not None:
            yield current, rows

    def _forward(self, part: int, positions: list[int], stacks: list[torch.Tensor]) -> dict[int, dict[str, np.ndarray]]:
        """Outputs of every job of the part for one loader batch, by `id(job)`."""
        if not positions:
            return {}
        stacks = [stack.to(self.device, non_blocking=True) for stack in stacks]
        results = {}
        for job in self.todo[part]:
            images = stacks[self.view_of[id(job)]]
            results[id(job)] = self._outputs(job, images, positions)
        return results

    def _outputs(self, job: Job, images: torch.Tensor, positions: list[int]) -> dict[str, np.ndarray]:
        model = self.models[job.model.name, job.geometry.crop]
        pieces: list[dict[str, torch.Tensor]] = []
        start = 0
        while start < len(images):
            try:
                batch = images[start : start + self.batch]
                with torch.inference_mode(), self._autocast():
                    x = model.normalize(batch).contiguous(memory_format=torch.channels_last)
                    out = model.outputs(
                        x, self.heads[job.model.name], logits=self.dataset.classes is not None, features=self.features
                    )
                pieces.append({name: value.float().cpu() for name, value in out.items()})
                start += len(batch)
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise InputError(f"{job.model.name}: out of memory with a batch of one; try --device cpu") from None
                torch.cuda.empty_cache()
                self.batch //= 2
        joined = {name: torch.cat([piece[name] for piece in pieces]).numpy() for name in pieces[0]}
        for name, values in joined.items():
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                image_id = self.dataset.ids[positions[int(np.flatnonzero(bad)[0])]]
                raise InputError(
                    f"{job.model.name}: {name} of image {image_id!r} ({self.dataset.name}, transform "
                    f"{job.transform.text}) are not finite; the checkpoint may be damaged, or {self.precision} too "
                    "narrow for it: try precision fp32"
                )
        return joined

    def _autocast(self):
        if self.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, kind)

    def _write(self, part: int, rows: list) -> int:
        positions = [p for batch, _, _ in rows for p in batch]
        skipped = [p for _, _, errors in rows for p, _ in errors]
        targets = self.dataset.targets
        chosen = [targets[p] for p in positions] if self.dataset.multilabel else targets[positions]
        for job in self.todo[part]:
            outs = [results[id(job)] for batch, results, _ in rows if batch]
            arrays = {name: np.concatenate([out[name] for out in outs]) for name in (outs[0] if outs else {})}
            frame = pd.DataFrame({"id": self.dataset.ids[positions].astype(str)})
            frame["target"] = pd.Series(list(chosen), dtype=object) if self.dataset.multilabel else chosen
            if "logits" in arrays:
                # Softmax does not see a constant added to a row. With the largest logit at 0, float16 is finest where
                # classes compete, so nothing that is judged from the stored logits differs from the float32 run.
                logits = arrays["logits"]
                stored = (logits - logits.max(axis=1, keepdims=True)).astype(np.float16)
                scored = stored if self.dataset.columns is None else stored[:, self.dataset.columns]
                frame = frame.assign(**score(scored, chosen, self.dataset.columns))
                arrays["logits"] = stored
            job.entry.write_part(part, frame, arrays)
        return len(skipped)


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
            return position, None, str(error)
        image_id = str(self.dataset.ids[position])
        plain: dict[Geometry, object] = {}
        crops = []
        for geometry, transform in self.views:
            if transform.place in ("source",):
                crop = geometry.apply(transform.apply_source(image, transform.generator(image_id)))
            else:
                if geometry not in plain:
                    plain[geometry] = geometry.apply(image)
                crop = plain[geometry]
                if transform.place == "input":
                    crop = transform.apply_input(crop, transform.generator(image_id))
            crops.append(np.asarray(crop, dtype=np.uint8))
        return position, crops, None


def _collate(items):
    good = [(position, crops) for position, crops, error in items if error is None]
    errors = [(position, error) for position, _, error in items if error is not None]
    stacks = [
        torch.from_numpy(np.stack(view)).permute(0, 3, 1, 2) for view in zip(*(crops for _, crops in good), strict=True)
    ]
    return [position for position, _ in good], stacks, errors


def _workers(wanted: int, batches: int, device: torch.device) -> int:
    if wanted >= 0:
        return wanted
    cores = os.cpu_count() or 1
    # On CPU the network needs the cores itself; one decoding process overlaps decode with compute.
    return min(batches, 1 if device.type == "cpu" else max(1, cores - 1))


def _interactive() -> bool:
    return "BEYOND_ACCURACY_QUIET" not in os.environ and (sys.stderr.isatty() or "ipykernel" in sys.modules)
