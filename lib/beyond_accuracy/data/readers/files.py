"""Image files in folders: which there are, what changes when they change, and how one is read."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import folder_stamp

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
VAL_ID = re.compile(r"ILSVRC2012_val_\d{8}")
MAX_DEPTH = 8  # of folders below a dataset's root; also what ends a loop of symbolic links


@dataclass(frozen=True)
class Files:
    """Image files under one root."""

    names: list[str]  # path of each image relative to the root, with forward slashes, sorted folder by folder
    load: Callable[[int], bytes]  # `load(i)` returns the encoded bytes of image `i`
    stamp: str  # hash of names, sizes and some content (`stamps.folder_stamp`)


@dataclass(frozen=True)
class PathLoader:
    """Reads image `i` from a file.

    Paths are one array of bytes: worker processes touch no reference counts, so millions are not copied per worker.
    """

    root: str
    names: np.ndarray

    def __call__(self, position: int) -> bytes:
        """Encoded bytes of image `position`."""
        return Path(self.root, os.fsdecode(self.names[position])).read_bytes()


def pack(names: list[str]) -> np.ndarray:
    """Paths as one array of bytes, in the file system's encoding."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def is_image(name: str) -> bool:
    """Whether a file name is that of an image to be read: known suffix, not hidden."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


def image_id(name: str) -> str:
    """Stable id of an image: its ILSVRC validation name where it has one, else the path without suffix."""
    found = VAL_ID.search(name.rsplit("/", 1)[-1])
    return found.group() if found else os.path.splitext(name)[0]


def scan(root: Path) -> Files:
    """All images below a folder; hidden files and folders, READMEs and tables are passed over."""
    names, sizes = [], []
    for name, entry in _walk(root, "", 0):
        try:
            found = entry.stat()
        except OSError as error:
            raise InputError(f"{entry.path}: cannot be read ({error.strerror}); remove it or get it again") from error
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise InputError(f"{entry.path}: has the name of an image but is no file; remove it")
        names.append(name)
        sizes.append(found.st_size)
    return Files(names, PathLoader(str(root), pack(names)), folder_stamp(root, names, sizes))


def _walk(folder: Path | str, prefix: str, depth: int) -> Iterator[tuple[str, os.DirEntry]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in found:
        if is_image(entry.name):
            yield prefix + entry.name, entry
        elif depth < MAX_DEPTH and entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", depth + 1)
