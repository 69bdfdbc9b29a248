"""Finds in which form a dataset lies in its folder, and gives all forms one shape.

Forms: folders of images; the same inside plain tar archives; Parquet shards; webdataset shards. A reader asks for the
samples of a folder and turns names and labels into ids and targets; where the bytes come from is settled here.
"""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import in_notebook, resolve
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.dataset import ImageDataset, Targets, build_dataset, require
from beyond_accuracy.data.readers import files, tables
from beyond_accuracy.data.readers.files import Samples

EVALUATION = ("validation", "val", "test", "train")  # the split that is scored: the first of these that is there
SPLITS = {"validation": ("validation", "valid", "val"), "test": ("test",), "train": ("train",)}
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
ARCHIVES = (".tar.gz", ".tgz", ".zip")


def find(spec: DatasetSpec, splits: tuple[str, ...] = EVALUATION) -> Samples:
    """The samples of a dataset's folder, of the first of `splits` that is there."""
    root = require(resolve(spec.path), spec)
    shards = _choose(root, "*.parquet", splits)
    with_images = [path for path in shards if not tables.is_plain_table(path)]  # not a table of results beside them
    if with_images or (shards and not files.scan(root).names):
        return _from_parquet(spec, root, with_images or shards)
    shards = _choose(root, "*.tar", splits)
    if shards and files.is_webdataset(shards[0]):
        _complete_tars(spec, root, shards)
        names = root / "classnames.txt"
        # only line ends are stripped: one VTAB task has a class whose name is an empty line
        text = names.read_text(encoding="utf-8").removesuffix("\n").split("\n") if names.is_file() else []
        return replace(files.scan_webdataset(shards), root=root, class_names=[x.removesuffix("\r") for x in text])
    # `<root>/val` where that is a folder; `<root>/train` is never scored by accident
    names = [name for split in splits if split != "train" for name in SPLITS.get(split, (split,))]
    root = next((root / name for name in names if (root / name).is_dir()), root)
    found = files.scan(root)
    if found.names:
        return found
    if shards:
        return replace(files.scan_tars(shards), root=root)
    if packed := sorted(path.name for path in root.iterdir() if path.name.endswith(ARCHIVES)):
        raise InputError(
            f"{spec.name}: {root} holds {', '.join(packed)} but no images; unpack it there, or run "
            f"`beyond-accuracy fetch --only {spec.name}` to verify and unpack it"
        )
    if found.passed:
        known = " ".join(sorted(files.IMAGE_SUFFIXES))
        raise InputError(f"{spec.name}: no images in {root}, but {found.passed}; what is read: {known}, .tar, .parquet")
    raise InputError(
        f"{spec.name}: no images, .tar or .parquet files in {root}; get them with "
        f"`beyond-accuracy fetch --only {spec.name}`, or point --data-dir to where they are"
    )


def assemble(spec: DatasetSpec, samples: Samples, ids, targets: Targets, **more) -> ImageDataset:
    """`build_dataset` of samples, its size checked against what the full set has (`expected` of the profile)."""
    source = str(samples.root)
    if note := count_note(spec, len(ids)):
        if spec.options.get("strict"):
            raise InputError(f"{spec.name}: {source}: {note}; fetch it again, or drop `strict` from the profile")
        if not in_notebook():  # pages show the number of images with every result
            print(f"{spec.name}: {note}", file=sys.stderr)
    if samples.passed and not in_notebook():
        print(f"{spec.name}: passed over {samples.passed}", file=sys.stderr)
    more |= {"content": samples.stamp, "source": source, "passed": samples.passed}
    return build_dataset(spec, ids, targets, samples.load, **more)


def count_note(spec: DatasetSpec, n: int) -> str:
    """What is to be said of a number of images that is not the full set's; empty where it is, or a part is wanted."""
    wanted_part = spec.options.get("images") or spec.options.get("corruptions")
    whole = not spec.expected or n == spec.expected or wanted_part
    return "" if whole else f"{n:,} images, the full set has {spec.expected:,}"


def available_splits(spec: DatasetSpec) -> list[str]:
    """Splits that lie in a dataset's folder as shards, in the order train, validation, test."""
    root = require(resolve(spec.path), spec)
    found = {_split_of(path, root) for pattern in ("*.parquet", "*.tar") for path in _glob(root, pattern)}
    return [split for split in ("train", "validation", "test") if split in found]


def _split_of(path: Path, root: Path) -> str:
    """Which split a shard belongs to, from the folders and the file name: a key of `SPLITS`, or empty."""
    words = re.split(r"[^a-z]+", path.relative_to(root).as_posix().lower())
    return next((split for split, names in SPLITS.items() if not set(words).isdisjoint(names)), "")


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
    table, class_names, load = tables.read_shards(shards, spec.name)
    present = table.column_names
    label = str(spec.options.get("label", next((c for c in ("label", "labels", "cls") if c in present), "")))
    labels = None
    if label in present and pa.types.is_integer(table[label].type):
        if table[label].null_count:
            raise InputError(f"{spec.name}: column {label!r} in {shards[0].parent} has rows without a label")
        labels = table[label].to_numpy().astype(np.int64)
    paths = table["image.path"].to_pylist() if "image.path" in present else [""] * table.num_rows
    names = [path or "" for path in paths]
    return Samples("parquet", names, load, files.stamp(shards), root, labels, class_names.get(label, []), table)


def _complete(spec: DatasetSpec, shards: list[Path]) -> None:
    """Shards named `-00003-of-00014` say how many there are."""
    matches = [found for path in shards if (found := SHARD.search(path.name))]
    total = {int(found[2]) for found in matches}
    if len(total) > 1:
        raise InputError(f"{spec.name}: {shards[0].parent} mixes shards of different downloads; keep one set of them")
    if missing := sorted(set(range(max(total, default=0))) - {int(found[1]) for found in matches}):
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
            listed = json.loads(info.read_text(encoding="utf-8"))["splits"]
            expected = {name: len(split["filenames"]) for name, split in listed.items()}.get(_split_of(shards[0], root))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{spec.name}: {info} does not list the shards ({error})") from error
    if expected and len(shards) != expected:
        raise InputError(
            f"{spec.name}: {shards[0].parent} has {len(shards)} of {expected} shards; continue the download with "
            f"`beyond-accuracy fetch --only {spec.name}`"
        )
