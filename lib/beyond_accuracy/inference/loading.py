"""Decoding processes: each image is decoded once, and every transform, resize and crop of it is made there."""

import ctypes
import multiprocessing
import os
import shutil
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

SHARED = "/dev/shm"
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
    ahead = PREFETCH.get(device.type, 2)
    slice_bytes = max(map(len, slices), default=0) * sum(3 * geometry.crop**2 for geometry, _ in views)
    workers, piped = shared_memory(workers, workers * (ahead + 2) * slice_bytes)
    loader = DataLoader(
        Views(dataset, views),
        batch_sampler=slices,
        collate_fn=_packed if piped else _collate,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_die_with_parent,
    )
    found = guarded(iter(loader))
    return ((there, list(map(torch.from_numpy, crops)), bad) for there, crops, bad in found) if piped else found


def shared_memory(workers: int, needed: int) -> tuple[int, bool]:
    """How many decoding processes can hand over `needed` bytes, and whether through pipes.

    Torch hands tensors over in /dev/shm. Containers have 64 MB of it unless told otherwise; a process that finds it
    full dies in a thread of its own, and whoever waits for it waits for ever. Locks lie there, too: without them there
    can be no processes.
    """
    if not workers or sys.platform != "linux":
        return workers, False
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:
        print(f"images are decoded in one process, which is slow: /dev/shm cannot be used ({error.strerror})",
              file=sys.stderr)  # fmt: skip
        return 0, False
    room = shutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else 0
    if room < needed:
        print(
            f"{SHARED} has {room / 2**20:,.0f} MB free, {needed / 2**20:,.0f} MB are wanted: images go through pipes, "
            "which is slower; give the container more (docker: --shm-size=2g)", file=sys.stderr
        )  # fmt: skip
    return workers, room < needed


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


def _packed(items):
    """As arrays, which are pickled through a pipe, where tensors would lie in shared memory."""
    there, stacks, bad = _collate(items)
    return there, [np.ascontiguousarray(stack.numpy()) for stack in stacks], bad


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
