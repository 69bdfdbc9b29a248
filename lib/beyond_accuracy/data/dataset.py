"""Image datasets: ids, images, labels and per-image metadata behind one small interface."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.classes import ClassSpace, class_space, imagenet_subset
from beyond_accuracy.data.download import source_of

Targets = np.ndarray | list[np.ndarray]
READERS: dict[str, Callable[[DatasetSpec], "ImageDataset"]] = {}


# Found out by content, whatever the name. Pillow would open many more, some by starting outside programs (EPS).
RASTERS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class BadImage(InputError):
    """An image that is there but cannot be decoded: what `--skip-bad` leaves out and counts."""


@dataclass(frozen=True)
class ImageDataset:
    """A set of labelled images."""

    name: str  # name used everywhere
    ids: np.ndarray  # unique id per image, the same in every stored form of the dataset
    targets: Targets  # int64 labels, shape (n,), or a list of int64 arrays for multi-label sets
    # `load(i)` returns the encoded bytes of image `i`; None where only labels are known
    load: Callable[[int], bytes] | None
    classes: ClassSpace | None  # what the labels mean; None for sets that are only probed
    columns: np.ndarray | None  # class indices that are scored (ImageNet-A and -R: 200); None = all
    metadata: pd.DataFrame  # per-image metadata, index `id`, in the order of `ids`
    fingerprint: str  # hash of content and labels; part of every cache key
    source: str  # where it was read from, for messages and provenance
    content: str = ""  # stamp of the files alone
    title: str = ""  # text in figures
    licence: str = ""  # terms of the data
    preprocess: str = ""  # resize and crop that replace the model's own (`native`, `pug_official`); empty = the model's
    keep: str = "all"  # what is stored beside the rows: `all`, `logits` or `none`
    passed: str = ""  # which files were passed over, in words; empty = none

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multilabel(self) -> bool:
        """Whether an image can have several right answers."""
        return isinstance(self.targets, list)

    def image(self, position: int) -> Image.Image:
        """Decode one image as RGB."""
        if self.load is None:
            raise DataMissing(f"{self.name}: only labels are known here, the images are not on this machine")
        where = f"{self.name}: image {self.ids[position]!r} in {self.source}"
        try:
            content = self.load(position)
        except OSError as error:
            raise InputError(f"{where} cannot be read ({error.strerror or error})") from error
        try:
            with opened(content) as image:
                return to_rgb(image)
        except MemoryError as error:  # nothing is wrong with the image, so it is not left out
            raise InputError(f"{where} cannot be decoded: memory ran out; set `settings: {{workers: 1}}`") from error
        except Exception as error:  # damaged files make Pillow raise OSError, SyntaxError, struct.error, zlib.error, …
            reason = " ".join(re.sub(r" <_io.BytesIO object at \w+>", "", str(error)).split())[:200]
            raise BadImage(
                f"{where} cannot be decoded ({reason or type(error).__name__}); replace the file, or leave bad "
                "images out and count them with --skip-bad"
            ) from error

    @cached_property
    def described(self) -> str:
        """Digest of what is said of the images (factors, scenes, class names): pages read it, no network does."""
        rows = pd.util.hash_pandas_object(self.metadata.astype(str)).to_numpy().tobytes()
        names = self.classes.names if self.classes else ()
        return hashlib.sha256(rows + json.dumps([list(self.metadata), names]).encode()).hexdigest()[:24]

    def position(self, image_id: str) -> int:
        """Position of an id."""
        found = np.flatnonzero(self.ids == image_id)
        if not len(found):
            raise InputError(f"{self.name}: no image with id {image_id!r}")
        return int(found[0])

    def take(self, positions: np.ndarray) -> "ImageDataset":
        """The dataset cut to some positions, in the given order."""
        positions = np.asarray(positions, dtype=np.int64)
        ids, metadata = self.ids[positions], self.metadata.iloc[positions]
        targets = [self.targets[i] for i in positions] if self.multilabel else self.targets[positions]
        load = None if self.load is None else partial(remapped, self.load, positions)
        fingerprint = _digest(self.fingerprint, hashlib.sha256("\n".join(ids).encode()).hexdigest())
        return replace(self, ids=ids, targets=targets, load=load, metadata=metadata, fingerprint=fingerprint)

    def limit(self, n: int) -> "ImageDataset":
        """At most `n` images, evenly spaced over the set (which is sorted by class), so classes stay balanced."""
        return self.take(evenly(len(self), n)) if 0 < n < len(self) else self


def opened(content: bytes) -> Image.Image:
    """An encoded picture, not yet decoded: one of `RASTERS`, else Pillow's UnidentifiedImageError."""
    return Image.open(io.BytesIO(content), formats=RASTERS)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, as timm, open_clip and torchvision read a benchmark's picture, and the same at every depth.

    Transparency is dropped, the first frame taken, and a flag that tells viewers to turn the picture is ignored. Of 16
    bits the upper 8 are taken (Pillow does so for colour, and would clip grey); floats count from 0 to 1.

    Raises:
        ValueError: Of whole numbers of 32 bits, and floats beyond 0 to 1, nobody says which is white.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "I" or not 0 <= low <= high <= 1:
            raise ValueError(f"values from {low:g} to {high:g}, nothing says which is white: save it with 8 or 16 bits")
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def evenly(n: int, k: int) -> np.ndarray:
    """At most `k` of the positions 0..n-1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(k, n)).round().astype(np.int64))


# Loaders are `partial`s of functions, so that worker processes can pickle them.
def remapped(load: Callable[[int], bytes], positions: np.ndarray, position: int) -> bytes:
    """A loader seen through a list of positions."""
    return load(int(positions[position]))


def join(parts: Sequence[tuple[Callable[[int], bytes], int]]) -> Callable[[int], bytes]:
    """One loader out of several, given each with its number of images."""
    loads, counts = zip(*parts, strict=True)
    return partial(_joined, loads, np.cumsum([0, *counts]))


def _joined(loads: tuple[Callable[[int], bytes], ...], first: np.ndarray, position: int) -> bytes:
    part = int(np.searchsorted(first, position, side="right")) - 1
    return loads[part](position - int(first[part]))


def reader(function: Callable[[DatasetSpec], ImageDataset]) -> Callable[[DatasetSpec], ImageDataset]:
    """Registers a reader: a profile names it `reader: <name of the function>`."""
    READERS[function.__name__] = function
    return function


def scored_columns(spec: DatasetSpec) -> np.ndarray | None:
    """The class indices that the option `columns` (`a` or `r`) of a dataset scores; None for all."""
    subset = spec.options.get("columns")
    return None if subset is None else imagenet_subset(str(subset))


def build_dataset(spec: DatasetSpec, ids, targets, load, *, content, source, columns=None, metadata=None, passed=""):
    """Check and assemble what a reader found: unique ids in UTF-8, labels inside the class space.

    `content` is any text that changes when the files change, hashed into the fingerprint; `metadata` a frame in the
    order of `ids`; the rest as in `ImageDataset`.
    """
    ids = np.asarray(ids, dtype=object)
    if len(ids) == 0:
        raise InputError(f"{spec.name}: no images found in {source}")
    if len(targets) != len(ids):
        raise InputError(f"{spec.name}: {len(ids)} images but {len(targets)} labels in {source}")
    try:
        "".join(ids).encode()
    except (TypeError, UnicodeEncodeError):
        strange = next(i for i in ids if not isinstance(i, str) or i != i.encode(errors="replace").decode())
        raise InputError(f"{spec.name}: {strange!r} in {source}: an id must be text in valid UTF-8") from None
    duplicated = pd.Index(ids).duplicated()
    if duplicated.any():
        raise InputError(f"{spec.name}: id {ids[duplicated][0]!r} occurs more than once in {source}")
    classes = class_space(spec.classes) if spec.classes else None
    targets = _labels(spec, targets, source)
    if classes is not None:
        _check_labels(spec, ids, targets, classes, columns, source)
    frame = (pd.DataFrame(index=range(len(ids))) if metadata is None else metadata).set_axis(pd.Index(ids, name="id"))
    # Text and bytes are joined unambiguously, so that no two datasets share a fingerprint by concatenation.
    labels = json.dumps([t.tolist() for t in targets]) if isinstance(targets, list) else targets.tobytes().hex()
    scored = "all" if columns is None else ",".join(map(str, columns))
    fingerprint = _digest(content, "\n".join(ids), labels, scored)
    more = {"title": spec.title or spec.name, "licence": spec.licence, "keep": spec.keep, "passed": passed}
    more["content"] = hashlib.sha256(content.encode()).hexdigest()[:24]
    more["preprocess"] = str(spec.options.get("preprocess", ""))
    return ImageDataset(spec.name, ids, targets, load, classes, columns, frame, fingerprint, source, **more)


def _labels(spec: DatasetSpec, targets, source: str) -> Targets:
    try:
        if isinstance(targets, list) and any(isinstance(t, (list, tuple, np.ndarray)) for t in targets):
            return [np.asarray(t, dtype=np.int64).reshape(-1) for t in targets]
        labels = np.asarray(targets)
        with np.errstate(invalid="ignore"):  # what a NaN becomes is compared with it below
            whole = labels.astype(np.int64)
        if not np.array_equal(whole, labels):
            raise ValueError("not whole numbers")
        return whole
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{spec.name}: a label in {source} is not a whole number ({error})") from error


def _check_labels(spec, ids, targets: Targets, classes: ClassSpace, columns, source: str) -> None:
    """Every label is a class; on a set scored on some columns, a single label is one of them."""
    multi = isinstance(targets, list)
    owner = np.repeat(np.arange(len(ids)), [len(t) for t in targets]) if multi else np.arange(len(ids))
    flat = np.concatenate(targets) if multi else targets
    rules = [(np.arange(len(classes)), f"outside 0..{len(classes) - 1} of {classes.name}")]
    if columns is not None and not multi:
        rules.append((columns, f"not one of the {len(columns)} classes this set is scored on"))
    for allowed, wrong in rules:
        for at in np.flatnonzero(~np.isin(flat, allowed))[:1]:
            raise InputError(f"{spec.name}: label {int(flat[at])} of {ids[owner[at]]!r} in {source} is {wrong}")


def require(path: Path, spec: DatasetSpec, kind: str = "folder") -> Path:
    """The path when it is there."""
    if not (path.is_dir() if kind == "folder" else path.exists()):
        gated = source.gated if (source := source_of(spec)) else ""
        terms = f" (terms to accept first: {gated}; `--profile open` needs none)" if gated else ""
        raise DataMissing(
            f"{spec.name}: {kind} {path} not found. Get it with `beyond-accuracy fetch --only {spec.name}`{terms}, or "
            "point --data-dir (or BEYOND_ACCURACY_DATA) to where it is"
        )
    return path


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:24]
