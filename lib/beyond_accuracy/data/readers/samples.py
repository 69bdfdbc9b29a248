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
from beyond_accuracy.data.readers import tables, tars
from beyond_accuracy.data.readers.files import Samples, scan

EVALUATION = ("validation", "val", "test", "train")  # the split that is scored: the first of these that is there
SPLITS = {"validation": ("validation", "valid", "val"), "test": ("test",), "train": ("train",)}
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
ARCHIVES = (".tar.gz", ".tgz", ".zip")


def find(spec: DatasetSpec, splits: tuple[str, ...] = EVALUATION) -> Samples:
    """The samples of a dataset's folder, of the first of `splits` that is there."""
    root = require(resolve(spec.path), spec)
    if shards := _choose(_glob(root, "*.parquet"), root, splits):
        return _from_parquet(spec, root, shards)
    if shards := _choose(_glob(root, "*.tar"), root, splits):
        if tars.is_webdataset(shards[0]):
            return _from_webdataset(spec, root, shards)
    root = _split_folder(root, splits)
    found = scan(root)
    if found.names:
        return found
    if shards:
        return replace(tars.scan_tars(shards), root=root)
    packed = sorted(path.name for path in root.iterdir() if path.name.endswith(ARCHIVES))
    if packed:
        raise InputError(
            f"{spec.name}: {root} holds {', '.join(packed)} but no images; unpack it there, or run "
            f"`beyond-accuracy fetch --only {spec.name}` to verify and unpack it"
        )
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
    return build_dataset(spec, ids, targets, samples.load, content=samples.stamp, source=source, **more)


def count_note(spec: DatasetSpec, n: int) -> str:
    """What is to be said of a number of images that is not the full set's; empty where it is."""
    wanted_part = spec.options.get("images") or spec.options.get("corruptions")
    if not spec.expected or n == spec.expected or wanted_part:
        return ""
    return f"{n:,} images, the full set has {spec.expected:,}"


def split_of(path: Path, root: Path) -> str:
    """Which split a shard belongs to, from the folders and the file name: a key of `SPLITS`, or empty."""
    words = re.split(r"[^a-z]+", path.relative_to(root).as_posix().lower())
    return next((split for split, names in SPLITS.items() if any(name in words for name in names)), "")


def available_splits(spec: DatasetSpec) -> list[str]:
    """Splits that lie in a dataset's folder as shards, in the order train, validation, test."""
    root = require(resolve(spec.path), spec)
    shards = [*_glob(root, "*.parquet"), *_glob(root, "*.tar")]
    found = {split_of(path, root) for path in shards}
    return [split for split in ("train", "validation", "test") if split in found]


def _glob(root: Path, pattern: str) -> list[Path]:
    found = [*root.glob(pattern), *root.glob(f"*/{pattern}")]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _choose(paths: list[Path], root: Path, splits: tuple[str, ...]) -> list[Path]:
    """The shards of the first wanted split that is there; shards that name no split go with any."""
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(split_of(path, root), []).append(path)
    wanted = next((s for s in splits if s in by_split), "")
    return sorted(by_split.get(wanted, []), key=_natural)


def _natural(path: Path) -> tuple:
    """`10.tar` after `9.tar`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix()))


def _split_folder(root: Path, splits: tuple[str, ...]) -> Path:
    """`<root>/val` where that is a folder; `<root>/train` is never scored by accident."""
    names = [name for split in splits if split != "train" for name in SPLITS.get(split, (split,))]
    return next((root / name for name in names if (root / name).is_dir()), root)


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
    paths = [path or "" for path in paths]
    return Samples("parquet", paths, load, tars.stamp(shards), root, labels, class_names.get(label, []), table)


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


def _from_webdataset(spec: DatasetSpec, root: Path, shards: list[Path]) -> Samples:
    _complete_tars(spec, root, shards)
    return replace(tars.read_shards(shards), root=root, class_names=class_texts(root)[0])


def _complete_tars(spec: DatasetSpec, root: Path, shards: list[Path]) -> None:
    declared = shards[0].parent / "nshards.txt"
    expected = 0
    if declared.is_file():
        text = declared.read_text(encoding="utf-8").strip()
        if not text.isdigit():
            raise InputError(f"{spec.name}: {declared} holds {text!r}, expected the number of shards; fetch it again")
        expected = int(text)
    elif (root / "_info.json").is_file():
        try:
            splits = json.loads((root / "_info.json").read_text(encoding="utf-8"))["splits"]
            listed = {name: len(split["filenames"]) for name, split in splits.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{spec.name}: {root / '_info.json'} does not list the shards ({error})") from error
        expected = listed.get(split_of(shards[0], root), 0)
    if expected and len(shards) != expected:
        raise InputError(
            f"{spec.name}: {shards[0].parent} has {len(shards)} of {expected} shards; continue the download with "
            f"`beyond-accuracy fetch --only {spec.name}`"
        )


def class_texts(root: Path) -> tuple[list[str], list[str]]:
    """Class names and zero-shot templates (`{c}`) beside webdataset shards; empty lists where absent.

    Only line ends are stripped: one VTAB task has a class whose name is an empty line.
    """

    def lines(name: str) -> list[str]:
        path = root / name
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.is_file() else []

    return [line.removesuffix("\r") for line in lines("classnames.txt")], lines("zeroshot_classification_templates.txt")
