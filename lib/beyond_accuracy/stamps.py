"""What changes when a dataset's files change: names, sizes and a sample of the content, never times.

A copy of the data on another disk or machine has other times and the same content; its predictions are found again.
Reading hundreds of gigabytes to be sure of every byte would take longer than many a run, so of large sets a fixed
sample is read. What that cannot notice (docs/store.md): a file replaced by one of the same name and size that is not
in the sample.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WHOLE = 64 * 2**20  # files, or sets of files, up to this size are read whole
SAMPLED_FILES = 64
BLOCKS = 16
BLOCK = 64 * 2**10


def file_stamp(path: Path) -> str:
    """Name-independent stamp of one file: a hash of the content, above 64 MB of its size and of blocks of it."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size <= WHOLE else sampled_stamp(path)


def sampled_stamp(path: Path) -> str:
    """Name-independent stamp of one file: its size and 16 blocks of 64 KB, the first and the last among them."""
    size = path.stat().st_size
    stamp = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        if size <= BLOCKS * BLOCK:
            stamp.update(file.read())
        else:
            for start in np.linspace(0, size - BLOCK, BLOCKS).astype(int).tolist():
                file.seek(start)
                stamp.update(file.read(BLOCK))
    return stamp.hexdigest()


def folder_stamp(root: Path, names: Sequence[str], sizes: Sequence[int]) -> str:
    """Stamp of many files: their names and sizes, and the content of up to 64 of them (of all, in sets up to 64 MB).

    A file that cannot be read counts as such here; whoever needs it says so.

    Args:
        root: Folder.
        names: Paths below it, in a fixed order.
        sizes: Bytes of each.
    """
    stamp = hashlib.sha256()
    for name, size in zip(names, sizes, strict=True):
        stamp.update(f"{name}\t{size}\n".encode(errors="surrogateescape"))
    chosen = np.arange(len(names))
    if sum(sizes) > WHOLE:
        chosen = np.unique(np.linspace(0, len(names) - 1, min(SAMPLED_FILES, len(names))).round().astype(int))
    for position in chosen.tolist():
        try:
            stamp.update(sampled_stamp(root / names[position]).encode())
        except OSError:
            stamp.update(b"unreadable\n")
    return stamp.hexdigest()
