"""Images inside tar archives, read in place: an archive is listed once, then each image is one seek and one read.

That serves plain archives of folders (`imagenet-a.tar`, the five of ImageNet-C), which need no unpacking, and the
webdataset form, in which files of one sample share their name up to the first dot (`s0000000.webp`, `s0000000.cls`).
No sample order, shard split or worker count of another library is involved, so every image is seen exactly once.
"""

import hashlib
import os
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import sampled_stamp
from beyond_accuracy.base.paths import cache_dir
from beyond_accuracy.data.readers.files import Samples, is_image

NO_LABEL = np.iinfo(np.int64).min
INDEX_FORMAT = "1"


def read_member(paths: tuple[str, ...], shard, offset, size, position: int) -> bytes:
    """Bytes of an archive's member; arrays (n,): which archive, first byte of the content, its length."""
    with open(paths[shard[position]], "rb") as archive:
        archive.seek(int(offset[position]))
        return archive.read(int(size[position]))


@dataclass(frozen=True)
class TarIndex:
    """What an archive holds: member names, where their content lies, and the integers in its `.cls` members."""

    names: list[str]
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray


def index_tar(path: Path) -> TarIndex:
    """List an archive; the listing is kept in the cache folder, keyed by the archive's path, size and time."""
    stat = path.stat()
    key = hashlib.sha256(f"{INDEX_FORMAT} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]
    stored = cache_dir() / "tar-index" / f"{key}.npz"
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            text = arrays["names"].tobytes().decode(errors="surrogateescape")
            names = text.split("\n") if text else []
            return TarIndex(names, arrays["offset"], arrays["size"], arrays["label"])
    except (OSError, ValueError, KeyError):
        pass  # not there yet, or damaged: list the archive
    index = _list(path, stat.st_size)
    _store(index, stored)
    return index


def _list(path: Path, length: int) -> TarIndex:
    names, offset, size, label = [], [], [], []
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # tarfile keeps every member otherwise
                if not member.isreg() or "\n" in member.name:
                    continue
                if member.issparse() or member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                names.append(member.name.removeprefix("./"))
                offset.append(member.offset_data)
                size.append(member.size)
                label.append(NO_LABEL)
                if member.name.endswith(".cls"):
                    label[-1] = _label(path, member.name, archive.extractfile(member).read(32))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: not a whole, uncompressed tar archive ({error}); get it again, or unpack it if it is compressed"
        ) from error
    return TarIndex(names, np.array(offset, np.int64), np.array(size, np.int64), np.array(label, np.int64))


def _label(path: Path, member: str, content: bytes) -> int:
    try:
        return int(content)
    except ValueError:
        raise InputError(f"{path}: {member} holds {content!r}, expected the class as a whole number") from None


def _store(index: TarIndex, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            names = np.frombuffer("\n".join(index.names).encode(errors="surrogateescape"), np.uint8)
            np.savez(file, names=names, offset=index.offset, size=index.size, label=index.label)
        os.replace(file.name, path)
    except OSError:
        return  # a read-only or full cache folder only costs the time of listing again


def stamp(paths: list[Path]) -> str:
    """Hash of archives' names, sizes and some content (`stamps.sampled_stamp`)."""
    lines = [f"{path.name}\t{sampled_stamp(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def scan_tars(paths: list[Path]) -> Samples:
    """All images inside plain archives, as if they were unpacked into one folder."""
    names, parts = [], []
    for shard, path in enumerate(paths):
        index = index_tar(path)
        chosen = [i for i, name in enumerate(index.names) if is_image(name)]
        chosen.sort(key=index.names.__getitem__)
        names += [index.names[i] for i in chosen]
        parts.append(_places(index, shard, chosen))
    return _joined("tar", names, paths, parts)


def _places(index: TarIndex, shard: int, chosen: list[int]) -> tuple[np.ndarray, ...]:
    return np.full(len(chosen), shard, np.int32), index.offset[chosen], index.size[chosen]


def _joined(form: str, names: list[str], paths: list[Path], parts: list[tuple], labels=None) -> Samples:
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    load = partial(read_member, tuple(map(str, paths)), *columns)
    return Samples(form, names, load, stamp(paths), paths[0].parent, labels)


def is_webdataset(path: Path) -> bool:
    """Whether an archive holds samples with `.cls` (or, for several labels, `.npy`) members."""
    return any(name.endswith((".cls", ".npy")) for name in index_tar(path).names)


def read_shards(paths: list[Path]) -> Samples:
    """Samples of webdataset shards, in the order of the archives."""
    keys, labels, parts = [], [], []
    for shard, path in enumerate(paths):
        index = index_tar(path)
        samples: dict[str, dict[str, int]] = {}
        for position, name in enumerate(index.names):
            folder, _, base = name.rpartition("/")
            key, _, suffix = base.partition(".")
            if base.startswith("."):
                continue
            members = samples.setdefault(f"{folder}/{key}" if folder else key, {})
            if members.setdefault(suffix.lower(), position) != position:
                raise InputError(f"{path}: {name!r} occurs twice; the archive is damaged, fetch it again")
        chosen = []
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
            chosen.append(image)
        parts.append(_places(index, shard, chosen))
    if not keys:
        raise InputError(f"{paths[0].parent}: the archives hold no samples")
    return _joined("webdataset", keys, paths, parts, np.array(labels, np.int64))
