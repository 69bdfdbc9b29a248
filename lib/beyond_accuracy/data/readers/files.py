"""Image files in folders and in tar archives: which there are, what changes when they change, and how one is read.

An archive is read in place: it is listed once, then each image is one seek and one read. That serves plain archives of
folders (`imagenet-a.tar`, the five of ImageNet-C), which need no unpacking, and the webdataset form, in which files of
one sample share their name up to the first dot (`s0000000.webp`, `s0000000.cls`). No sample order, shard split or
worker count of another library is involved, so every image is seen exactly once.
"""

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import MOST, file_stamp, folder_stamp, load_arrays, sampled_stamp, save_arrays, stat_of
from beyond_accuracy.base.paths import cache_dir

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
VAL_ID = re.compile(r"ILSVRC2012_val_\d{8}")
MAX_DEPTH = 8  # of folders below a dataset's root; also what ends a loop of symbolic links
NO_LABEL = np.iinfo(np.int64).min
INDEX_FORMAT = "2"


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


def is_image(name: str) -> bool:
    """Whether a file name is that of an image to be read: known suffix, not hidden."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


def image_id(name: str) -> str:
    """Stable id of an image: its ILSVRC validation name where it has one, else the path without suffix."""
    found = VAL_ID.search(name.rsplit("/", 1)[-1])
    return found.group() if found else os.path.splitext(name)[0]


# Folders --------------------------------------------------------------------------------------------------------------


def read_file(root: str, names: np.ndarray, position: int) -> bytes:
    """Content of a file. Of bytes `names`, not a list, worker processes touch no reference counts and copy nothing."""
    return Path(root, os.fsdecode(names[position])).read_bytes()


def pack(names: list[str]) -> np.ndarray:
    """Paths as one array of bytes, in the file system's encoding."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def scan(root: Path) -> Samples:
    """All images below a folder, sorted folder by folder; hidden files, READMEs and tables are passed over."""
    names, sizes, state = [], [], hashlib.sha256(f"{root.absolute()}\n".encode(errors="surrogateescape"))
    for name, entry in _walk(root, "", 0):
        try:
            found = entry.stat()
            state.update(f"{name}\t{stat_of(entry)}\n".encode(errors="surrogateescape"))
        except OSError as error:
            raise InputError(f"{entry.path}: cannot be read ({error.strerror}); remove it or get it again") from error
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise InputError(f"{entry.path}: has the name of an image but is no file; remove it")
        names.append(name)
        sizes.append(found.st_size)
    load = partial(read_file, str(root), pack(names))
    return Samples("folder", names, load, folder_stamp(root, names, sizes, state.hexdigest()), root)


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


# Archives -------------------------------------------------------------------------------------------------------------


class TarIndex(NamedTuple):
    """What an archive holds: member names, where their content lies, and the integers in its `.cls` members."""

    names: list[str]
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray


def index_tar(path: Path) -> TarIndex:
    """List an archive; the listing is kept in the cache folder, keyed by the archive's path, size and time."""
    found = path.stat()
    key = hashlib.sha256(f"{INDEX_FORMAT} {path.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()
    stored = cache_dir() / "tar-index" / f"{key[:32]}.npz"
    if arrays := load_arrays(stored):
        text = arrays["names"].tobytes().decode(errors="surrogateescape")
        return TarIndex(text.split("\n") if text else [], arrays["offset"], arrays["size"], arrays["label"])
    index = _list(path, found.st_size)
    names = np.frombuffer("\n".join(index.names).encode(errors="surrogateescape"), np.uint8)
    with suppress(InputError):  # a read-only or full cache folder only costs the time of listing again
        save_arrays(stored, {**index._asdict(), "names": names})
    return index


def _list(path: Path, length: int) -> TarIndex:
    names, numbers = [], []
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # tarfile keeps every member otherwise
                if not member.isreg() or "\n" in member.name:
                    continue
                if member.issparse() or member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                label = archive.extractfile(member).read(32) if member.name.endswith(".cls") else NO_LABEL
                names.append(member.name.removeprefix("./"))
                numbers.append((member.offset_data, member.size, _whole(label, f"{path}: {member.name}")))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: not a whole, uncompressed tar archive ({error}); get it again, or unpack it if it is compressed"
        ) from error
    return TarIndex(names, *np.array(numbers, np.int64).reshape(-1, 3).T)


def _whole(content: bytes | int, where: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise InputError(f"{where} holds {content!r}, expected the class as a whole number") from None


def stamp(paths: list[Path]) -> str:
    """Hash of archives' names and content, above 16 GB in all of some of it (`sampled_stamp`)."""
    each = sampled_stamp if sum(path.stat().st_size for path in paths) > MOST else file_stamp
    return hashlib.sha256("\n".join(f"{path.name}\t{each(path)}" for path in paths).encode()).hexdigest()


def read_member(paths: tuple[str, ...], shard, offset, size, position: int) -> bytes:
    """Bytes of an archive's member; arrays (n,): which archive, first byte of the content, its length."""
    with open(paths[shard[position]], "rb") as archive:
        archive.seek(int(offset[position]))
        return archive.read(int(size[position]))


def _members(form: str, paths: list[Path], indices: list[TarIndex], chosen: list[list[int]], names, labels=None):
    """Samples whose images are the `chosen` members of each archive."""
    shard = np.repeat(np.arange(len(paths), dtype=np.int32), list(map(len, chosen)))
    both = list(zip(indices, chosen, strict=True))
    offset, size = (np.concatenate([index[part][at] for index, at in both]) for part in (1, 2))
    load = partial(read_member, tuple(map(str, paths)), shard, offset, size)
    return Samples(form, names, load, stamp(paths), paths[0].parent, labels)


def scan_tars(paths: list[Path]) -> Samples:
    """All images inside plain archives, as if they were unpacked into one folder."""
    indices = [index_tar(path) for path in paths]
    chosen = [
        sorted((i for i, name in enumerate(index.names) if is_image(name)), key=index.names.__getitem__)
        for index in indices
    ]
    names = [index.names[i] for index, at in zip(indices, chosen, strict=True) for i in at]
    return _members("tar", paths, indices, chosen, names)


def is_webdataset(path: Path) -> bool:
    """Whether an archive holds samples with `.cls` (or, for several labels, `.npy`) members."""
    return any(name.endswith((".cls", ".npy")) for name in index_tar(path).names)


def scan_webdataset(paths: list[Path]) -> Samples:
    """Samples of webdataset shards, in the order of the archives."""
    keys, labels, indices, chosen = [], [], [index_tar(path) for path in paths], []
    for path, index in zip(paths, indices, strict=True):
        samples: dict[str, dict[str, int]] = {}
        for position, name in enumerate(index.names):
            folder, _, base = name.rpartition("/")
            key, _, suffix = base.partition(".")
            if base.startswith("."):
                continue
            members = samples.setdefault(f"{folder}/{key}" if folder else key, {})
            if members.setdefault(suffix.lower(), position) != position:
                raise InputError(f"{path}: {name!r} occurs twice; the archive is damaged, fetch it again")
        chosen.append([])
        for key, members in samples.items():
            image = next((at for suffix, at in members.items() if is_image(f"x.{suffix}")), None)
            if "npy" in members and "cls" not in members:
                raise InputError(f"{path}: sample {key!r} has several labels (.npy), expected one class (.cls)")
            if image is None and "cls" not in members:
                continue  # a file that belongs to no sample, such as a README
            if image is None or "cls" not in members:
                missing = "image" if image is None else "label (.cls)"
                raise InputError(f"{path}: sample {key!r} has no {missing}; the archive is damaged, fetch it again")
            keys.append(key)
            labels.append(index.label[members["cls"]])
            chosen[-1].append(image)
    if not keys:
        raise InputError(f"{paths[0].parent}: the archives hold no samples")
    return _members("webdataset", paths, indices, chosen, keys, np.array(labels, np.int64))
