"""The images of a dataset's folder, in whichever form they are stored, and what changes when they change.

Forms: folders of images; the same inside plain tar archives; Parquet shards; webdataset shards, in which files of one
sample share their name up to the first dot. A reader asks `find` for the samples and turns names and labels into ids
and targets; where the bytes come from is settled here. Archives are read in place: listed once, then each image is one
seek and one read. No sample order, shard split or worker count of another library is involved: every image is seen
exactly once.
"""

import hashlib
import json
import os
import re
import stat
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import MOST, file_stamp, folder_stamp, load_arrays, sampled_stamp, save_arrays, stat_of
from beyond_accuracy.base.paths import cache_dir, in_notebook, resolve
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.dataset import ImageDataset, Targets, build_dataset, join, require

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# What lies beside images without anybody taking it for one; other files that are passed over are named
COMPANIONS = frozenset({"", ".txt", ".md", ".csv", ".json", ".xml", ".html", ".yaml", ".pdf", ".py"})
COMPANIONS |= {".parquet", ".tar", ".cls", ".npy", ".npz", ".mat", ".gz", ".tgz", ".zip"}
VAL_ID = re.compile(r"ILSVRC2012_val_\d{8}")
MAX_DEPTH = 8  # of folders below a dataset's root; also what ends a loop of symbolic links
BATCH_ROWS = 16  # of a Parquet file decoded at once: bounds memory whatever the row groups' size
BUFFER_BYTES = 2**20
NO_LABEL = np.iinfo(np.int64).min
INDEX_FORMAT = "2"
EVALUATION = ("validation", "val", "test", "train")  # the split that is scored: the first of these that is there
SPLITS = {"validation": ("validation", "valid", "val"), "test": ("test",), "train": ("train",)}
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
KAGGLE = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # what lies above `val` there
ARCHIVES = (".tar.gz", ".tgz", ".zip")


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
    passed: str = ""  # which files were passed over, in words

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


def image_ids(names: list[str]) -> list[str]:
    """`image_id` of every name; two files that share one (`a.jpg`, `a.png`) are two images and keep their suffixes."""
    ids = list(map(image_id, names))
    shared = {found for found, n in Counter(ids).items() if n > 1 and not VAL_ID.fullmatch(found)}
    return [name if found in shared else found for name, found in zip(names, ids, strict=True)]


def passed_over(names: list[str]) -> str:
    """Which files are no images by their names, in words: how many of each suffix, and the first.

    >>> passed_over(["README", "a/1.heic", "a/2.heic", "a/3.svg"])
    '3 files that are no images by their names (.heic 2, .svg 1; first: a/1.heic)'
    """
    names = [name for name in names if os.path.splitext(name)[1].lower() not in COMPANIONS]
    kinds = Counter(os.path.splitext(name)[1].lower() for name in names)
    most = ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common(5))
    return f"{len(names):,} files that are no images by their names ({most}; first: {names[0]})" if names else ""


# Folders --------------------------------------------------------------------------------------------------------------


def read_file(root: str, names: np.ndarray, position: int) -> bytes:
    """Content of a file. Of bytes `names`, not a list, worker processes touch no reference counts and copy nothing."""
    return Path(root, os.fsdecode(names[position])).read_bytes()


def pack(names: list[str]) -> np.ndarray:
    """Paths as one array of bytes, in the file system's encoding."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def scan(root: Path) -> Samples:
    """All images below a folder, sorted folder by folder; hidden files, READMEs and tables are passed over."""
    names, sizes, others = [], [], []
    state = hashlib.sha256(f"{root.absolute()}\n".encode(errors="surrogateescape"))
    for name, entry in _walk(root, "", 0, others):
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
    found = folder_stamp(root, names, sizes, state.hexdigest())
    return Samples("folder", names, load, found, root, passed=passed_over(others))


def _walk(folder: Path | str, prefix: str, depth: int, others: list[str]) -> Iterator[tuple[str, os.DirEntry]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in found:
        if is_image(entry.name):
            yield prefix + entry.name, entry
        elif depth < MAX_DEPTH and entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", depth + 1, others)
        elif not entry.is_dir():
            others.append(prefix + entry.name)


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
                numbers.append((member.offset_data, member.size, int(label)))
    except ValueError:
        raise InputError(f"{path}: {member.name} holds {label!r}, expected the class as a whole number") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: not a whole, uncompressed tar archive ({error}); get it again, or unpack it if it is compressed"
        ) from error
    return TarIndex(names, *np.array(numbers, np.int64).reshape(-1, 3).T)


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
    indices, chosen, names, others = [index_tar(path) for path in paths], [], [], []
    for index in indices:
        images = sorted((name, i) for i, name in enumerate(index.names) if is_image(name))
        chosen.append([i for _, i in images])
        names += [name for name, _ in images]
        others += [n for n in index.names if not is_image(n) and not n.rsplit("/", 1)[-1].startswith(".")]
    return replace(_members("tar", paths, indices, chosen, names), passed=passed_over(others))


def scan_webdataset(paths: list[Path]) -> Samples:
    """Samples of webdataset shards, in the order of the archives."""
    keys, labels, indices, chosen = [], [], [index_tar(path) for path in paths], []
    for path, index in zip(paths, indices, strict=True):
        samples = defaultdict(dict)
        for position, name in enumerate(index.names):
            folder, _, base = name.rpartition("/")
            key, _, suffix = base.partition(".")
            if key and samples[f"{folder}/{key}" if folder else key].setdefault(suffix.lower(), position) != position:
                raise InputError(f"{path}: {name!r} occurs twice; the archive is damaged, fetch it again")
        chosen.append([])
        for key, members in samples.items():
            images = [at for suffix, at in members.items() if is_image(f"x.{suffix}")]
            if len(images) > 1:
                raise InputError(f"{path}: sample {key!r} has {len(images)} images; give each a sample of its own")
            if "npy" in members and "cls" not in members:
                raise InputError(f"{path}: sample {key!r} has several labels (.npy), expected one class (.cls)")
            if not images and "cls" not in members:
                continue  # a file that belongs to no sample, such as a README
            if not images or "cls" not in members:
                missing = "label (.cls)" if images else "image"
                raise InputError(f"{path}: sample {key!r} has no {missing}; the archive is damaged, fetch it again")
            keys.append(key)
            labels.append(index.label[members["cls"]])
            chosen[-1] += images
    if not keys:
        raise InputError(f"{paths[0].parent}: the archives hold no samples")
    return _members("webdataset", paths, indices, chosen, keys, np.array(labels, np.int64))


# Parquet shards -------------------------------------------------------------------------------------------------------


def read_row(path: str, column: str, row: int) -> bytes:
    """Image bytes of a row of a Parquet file, streamed from where the last one was read: in order, one pass."""
    return _Cursor(os.getpid(), path, column).read(row)


@lru_cache(maxsize=4)  # also keyed by the process: a forked worker must not share its parent's open file
class _Cursor:
    """Reading position in one column of one file."""

    def __init__(self, process: int, path: str, column: str):
        self.path, self.column, self.group = path, column, -1
        self.file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        sizes = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.first = np.cumsum([0, *sizes])

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self.first, row, side="right")) - 1
        offset = row - int(self.first[group])
        try:
            if group != self.group or offset < self.start:
                self.group, self.start, self.values = group, 0, pa.array([], pa.binary())
                how = {"row_groups": [group], "columns": [self.column], "use_threads": False}
                self.batches = self.file.iter_batches(BATCH_ROWS, **how)
            while offset >= self.start + len(self.values):
                self.start += len(self.values)
                values = next(self.batches).column(0)
                self.values = values.field("bytes") if pa.types.is_struct(values.type) else values
        except (pa.ArrowException, OSError, StopIteration) as error:
            self.group = -1
            raise OSError(f"{self.path}, row {row}: {error or 'the file ends early'}") from error
        content = self.values[offset - self.start].as_py()
        if content is None:
            raise OSError(f"{self.path}, row {row}: holds no image bytes")
        return content


def read_shards(files: list[Path], name: str) -> tuple[pa.Table, dict[str, list[str]], Callable[[int], bytes]]:
    """All columns but the images (with `image.path` where kept), names of label values by column, loader of images."""
    tables, loads = [], []
    for path in files:
        try:
            file = pq.ParquetFile(path)
            schema = file.schema_arrow
            image = _image_column(schema, path, name)
            wanted = [field.name for field in schema if field.name != "image"]
            if image == "image.bytes" and schema.field("image").type.get_field_index("path") >= 0:
                wanted.append("image.path")
            tables.append(file.read(columns=wanted, use_threads=False).flatten())
            loads.append((partial(read_row, str(path), image), file.metadata.num_rows))
        except (pa.ArrowException, OSError) as error:
            raise damaged(name, path, error) from error
    try:
        joined = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    except pa.ArrowException as error:
        raise InputError(f"{name}: the Parquet files in {files[0].parent} differ in their columns ({error})") from error
    try:  # the hub's writer puts the names of label values into the schema
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        class_names = {column: list(map(str, kind["names"])) for column, kind in features.items() if "names" in kind}
    except (KeyError, TypeError, ValueError):
        class_names = {}
    return joined, class_names, join(loads)


def is_plain_table(path: Path) -> bool:
    """Whether a file is Parquet without images."""
    try:
        return "image" not in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False


def damaged(name: str, path: Path, error: Exception) -> InputError:
    """What is said of a Parquet file that cannot be read."""
    return InputError(f"{name}: {path} is damaged or not Parquet ({error}); fetch it again")


def _image_column(schema: pa.Schema, path: Path, name: str) -> str:
    if "image" in schema.names:
        kind = schema.field("image").type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return "image.bytes"
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return "image"
    raise InputError(f"{name}: {path} has no column 'image' with encoded images (it has {', '.join(schema.names)})")


# Which form ----------------------------------------------------------------------------------------------------------


def find(spec: DatasetSpec, splits: tuple[str, ...] = EVALUATION) -> Samples:
    """The samples of a dataset's folder, of the first of `splits` that is there."""
    root = require(resolve(spec.path), spec)
    shards = _choose(root, "*.parquet", splits)
    with_images = [path for path in shards if not is_plain_table(path)]  # not a table of results beside them
    if with_images or (shards and not scan(root).names):
        return _from_parquet(spec, root, with_images or shards)
    shards = _choose(root, "*.tar", splits)
    if shards and any(name.endswith((".cls", ".npy")) for name in index_tar(shards[0]).names):  # webdataset
        _complete_tars(spec, root, shards)
        names = root / "classnames.txt"
        # only line ends are stripped: one VTAB task has a class whose name is an empty line
        text = names.read_text(encoding="utf-8").removesuffix("\n").split("\n") if names.is_file() else []
        return replace(scan_webdataset(shards), root=root, class_names=[x.removesuffix("\r") for x in text])
    # `<root>/val` where that is a folder, also in Kaggle's download; `<root>/train` is never scored by accident
    names = [name for split in splits if split != "train" for name in SPLITS.get(split, (split,))]
    places = [root / top / name for top in KAGGLE for name in names]
    root = next((place for place in places if place.is_dir()), root)
    found = scan(root)
    if found.names:
        return found
    if shards:
        return replace(scan_tars(shards), root=root)
    fetch, known = f"`beyond-accuracy fetch --only {spec.name}`", " ".join(sorted(IMAGE_SUFFIXES))
    why = f"no images, .tar or .parquet files in {root}; get them with {fetch}, or point --data-dir to where they are"
    if found.passed:
        why = f"no images in {root}, but {found.passed}; what is read: {known}, .tar, .parquet"
    if packed := sorted(path.name for path in root.iterdir() if path.name.endswith(ARCHIVES)):
        why = f"{root} holds {', '.join(packed)} but no images; unpack it there, or run {fetch} to verify and unpack it"
    raise InputError(f"{spec.name}: {why}")


def assemble(spec: DatasetSpec, samples: Samples, ids, targets: Targets, **more) -> ImageDataset:
    """`build_dataset` of samples, its size checked against what the full set has (`expected` of the profile)."""
    source = str(samples.root)
    note = count_note(spec, len(ids))
    if note and spec.options.get("strict"):
        raise InputError(f"{spec.name}: {source}: {note}; fetch it again, or drop `strict` from the profile")
    for said in filter(None, (note, samples.passed and f"passed over {samples.passed}")):
        if not in_notebook():  # pages show the number of images with every result
            print(f"{spec.name}: {said}", file=sys.stderr)
    more |= {"content": samples.stamp, "source": source, "passed": samples.passed}
    return build_dataset(spec, ids, targets, samples.load, **more)


def count_note(spec: DatasetSpec, n: int) -> str:
    """What is to be said of a number of images that is not the full set's; empty where it is, or a part is wanted."""
    wanted_part = any(spec.options.get(name) for name in ("images", "corruptions", "shards"))
    whole = not spec.expected or n == spec.expected or wanted_part
    return "" if whole else f"{n:,} images, the full set has {spec.expected:,}"


def available_splits(spec: DatasetSpec) -> list[str]:
    """Splits that lie in a dataset's folder as shards, in the order train, validation, test."""
    root = require(resolve(spec.path), spec)
    found = {_split_of(path, root) for pattern in ("*.parquet", "*.tar") for path in _glob(root, pattern)}
    return [split for split in ("train", "validation", "test") if split in found]


def _split_of(path: Path, root: Path) -> str:
    """Which split a shard belongs to, from the folders and the file name: a key of `SPLITS`, or empty."""
    words = set(re.split(r"[^a-z]+", path.relative_to(root).as_posix().lower()))
    return next((split for split, names in SPLITS.items() if words & set(names)), "")


def _glob(root: Path, pattern: str) -> list[Path]:
    found = [*root.glob(pattern), *root.glob(f"*/{pattern}")]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if odd := [path for path in found if path.exists() and not path.is_file() and not path.is_dir()]:
        raise InputError(f"{odd[0]}: has the name of an archive but is no file; remove it")  # a pipe would hang
    return [path for path in found if path.is_file()]


def _choose(root: Path, pattern: str, splits: tuple[str, ...]) -> list[Path]:
    """The shards of the first wanted split that is there, `10.tar` after `9.tar`; those of no split go with any."""
    by_split: dict[str, list[Path]] = {}
    for path in _glob(root, pattern):
        by_split.setdefault(_split_of(path, root), []).append(path)
    wanted = next((split for split in splits if split in by_split), "")
    pieces = {path: re.split(r"(\d+)", path.as_posix()) for path in by_split.get(wanted, [])}
    return sorted(pieces, key=lambda path: [int(part) if part.isdigit() else part for part in pieces[path]])


def _from_parquet(spec: DatasetSpec, root: Path, shards: list[Path]) -> Samples:
    _complete(spec, shards)
    table, class_names, load = read_shards(shards, spec.name)
    present = table.column_names
    label = str(spec.options.get("label", next((c for c in ("label", "labels", "cls") if c in present), "")))
    labels = None
    if label in present and pa.types.is_integer(table[label].type):
        if table[label].null_count:
            raise InputError(f"{spec.name}: column {label!r} in {shards[0].parent} has rows without a label")
        labels = table[label].to_numpy().astype(np.int64)
    names = [path or "" for path in table["image.path"].to_pylist()] if "image.path" in present else [""] * len(table)
    return Samples("parquet", names, load, stamp(shards), root, labels, class_names.get(label, []), table)


def _complete(spec: DatasetSpec, shards: list[Path]) -> None:
    """Shards named `-00003-of-00014` say how many there are."""
    matches = [found for path in shards if (found := SHARD.search(path.name))]
    total = {int(found[2]) for found in matches}
    if len(total) > 1:
        raise InputError(f"{spec.name}: {shards[0].parent} mixes shards of different downloads; keep one set of them")
    missing = sorted(set(range(max(total, default=0))) - {int(found[1]) for found in matches})
    if missing and len(matches) < min(spec.options.get("shards", max(total)), max(total)):
        raise InputError(
            f"{spec.name}: {shards[0].parent} lacks {len(missing)} of {max(total)} shards (first missing: "
            f"{missing[0]:05d}); continue the download with `beyond-accuracy fetch --only {spec.name}`"
        )


def _complete_tars(spec: DatasetSpec, root: Path, shards: list[Path]) -> None:
    """`nshards.txt` beside the shards, or timm's `_info.json`, says how many there are."""
    declared, info, expected = shards[0].parent / "nshards.txt", root / "_info.json", 0
    if declared.is_file():
        text = declared.read_text(encoding="utf-8").strip()
        if not text.isdigit():
            raise InputError(f"{spec.name}: {declared} holds {text!r}, expected the number of shards; fetch it again")
        expected = int(text)
    elif info.is_file():
        try:
            split = json.loads(info.read_text(encoding="utf-8"))["splits"].get(_split_of(shards[0], root))
            expected = len(split["filenames"]) if split else 0
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{spec.name}: {info} does not list the shards ({error})") from error
    if expected and len(shards) != expected:
        raise InputError(
            f"{spec.name}: {shards[0].parent} has {len(shards)} of {expected} shards; continue the download with "
            f"`beyond-accuracy fetch --only {spec.name}`"
        )
