"""Decoding processes: each image is decoded once, and every transform, resize and crop of it is made there."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data.dataset import BadImage, ImageDataset
from beyond_accuracy.data.geometry import Geometry
from beyond_accuracy.data.transforms import Transform

MAX_CPU_WORKERS = 4
PREFETCH = {"cuda": 4}  # slices per decoding process that wait for a GPU; 2 elsewhere

# Position, crops by view, and what is wrong with the images that have none: position, message, may be left out.
Decoded = tuple[list[int], list[torch.Tensor], list[tuple[int, str, bool]]]


def decoded(
    dataset: ImageDataset,
    views: tuple[tuple[Geometry, Transform], ...],
    slices: Sequence[list[int]],
    workers: int,
    device: torch.device,
) -> Iterator[Decoded]:
    """Crops of slices of positions, in order; the decoding processes start before this returns.

    A slice: positions of good images, uint8 (b, 3, side, side) per view, the bad images.
    """
    workers = worker_count(workers, len(slices), device)
    loader = DataLoader(
        Views(dataset, views),
        batch_sampler=slices,
        collate_fn=_collate,
        num_workers=workers,
        prefetch_factor=PREFETCH.get(device.type, 2) if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_die_with_parent,
    )
    return guarded(iter(loader))


class Views(Dataset):
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


def guarded(slices: Iterator[Decoded]) -> Iterator[Decoded]:
    """The slices; a decoding process that was killed becomes one clear message."""
    try:
        yield from slices
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


def worker_count(wanted: int, slices: int, device: torch.device) -> int:
    """Decoding processes: as wanted, or -1 = chosen from the machine."""
    if wanted >= 0:
        return wanted
    cores = os.cpu_count() or 1
    # On a CPU decoding takes its share of the cores, whatever that is: lanes and decoding processes never wait for one
    # another as long as there is enough of both.
    return min(slices, min(cores, MAX_CPU_WORKERS) if device.type == "cpu" else max(1, cores - 1))
