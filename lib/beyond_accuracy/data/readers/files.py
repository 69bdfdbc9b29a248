"""Image files in folders: which there are, what changes when they change, and how one is read."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import folder_stamp

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
VAL_ID = re.compile(r"ILSVRC2012_val_\d{8}")
MAX_DEPTH = 8  # of folders below a dataset's root; also what ends a loop of symbolic links


@dataclass(frozen=True)
class Samples:
    """The images of one split, whatever form they are stored in."""

    form: str  # `folder`, `tar`, `parquet` or `webdataset`
    names: list[str]  # per image its path below the root, its key, or what the shards keep as file name (may be empty)
    load: Callable[[int], bytes]  # `load(i)` returns the encoded bytes of image `i`
    stamp: str  # changes when the files change
    root: Path  # the folder they were found in
    labels: np.ndarray | None = None  # int64 (n,) where the form carries labels; None for folders, whose names do
    class_names: list[str] = field(default_factory=list)  # what each label value means, where the shards say so
    table: pa.Table | None = None  # further columns of Parquet shards

    def __len__(self) -> int:
        return len(self.names)

    @property
    def in_folders(self) -> bool:
        """Whether an image's class is the folder it lies in."""
        return self.form in ("folder", "tar")


def read_file(root: str, names: np.ndarray, position: int) -> bytes:
    """Content of a file. Of bytes `names`, not a list, worker processes touch no reference counts and copy nothing."""
    return Path(root, os.fsdecode(names[position])).read_bytes()


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


def scan(root: Path) -> Samples:
    """All images below a folder, sorted folder by folder; hidden files, READMEs and tables are passed over."""
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
    load = partial(read_file, str(root), pack(names))
    return Samples("folder", names, load, folder_stamp(root, names, sizes), root)


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
