"""Looks at one dataset: is it here, complete, in the right class order, undamaged?"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from beyond_accuracy.datasets import ImageDataset
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.fetch import needs_data
from beyond_accuracy.labels import IMAGENET_ORDER
from beyond_accuracy.paths import resolve
from beyond_accuracy.profiles import DatasetSpec, Profile
from beyond_accuracy.readers import load_dataset
from beyond_accuracy.readers.samples import count_note
from beyond_accuracy.sources import how_to_get

OK, NOTE, MISSING, WRONG = "ok", "note", "missing", "wrong"
DECODED = 24  # images per set that are decoded
# SHA-256 of the wnids of a complete set, joined by newlines in class order.
ORDER_OF = {"a": "f6aa4b23244554d9", "r": "e19a59d84e3746fa", "": IMAGENET_ORDER}
PER_CLASS = {"imagenet": 50, "imagenet_v2": 10}
SIDE = {"imagenet_c": 224, "cue_conflict": 224}


@dataclass(frozen=True)
class Finding:
    """One line of the check."""

    subject: str  # dataset or model
    status: str  # `ok`, `note` (worth knowing), `missing`, or `wrong` (numbers would be wrong)
    text: str  # what was found, where, and what to do


def check_dataset(spec: DatasetSpec, profile: Profile) -> list[Finding]:
    """Everything that can be said of a dataset without a model.

    Args:
        spec: Its entry in the profile.
        profile: The profile, for the command that gets it.
    """
    if spec.reader == "imagenet_real":
        return [_real()]
    try:
        dataset = load_dataset(replace(spec, limit=0))
    except DataMissing as missing:
        path = resolve(spec.path)
        text = _plain(missing, spec) if path.exists() else f"not found at {path}"
        how = f"; get it: {how_to_get(spec.name, profile)}" if needs_data(spec) else ""
        return [Finding(spec.name, MISSING, text + how)]
    except InputError as error:
        return [Finding(spec.name, WRONG, _plain(error, spec))]
    problems = [Finding(spec.name, status, text) for status, text in _problems(spec, dataset)]
    worst = any(problem.status == WRONG for problem in problems)
    summary = f"{_counts(dataset)}, {dataset.source}"
    return [*([] if worst else [Finding(spec.name, OK, summary)]), *problems]


def _plain(error: Exception, spec: DatasetSpec) -> str:
    """The message without the dataset's name, which the table shows already."""
    return str(error).removeprefix(f"{spec.name}: ")


def _real() -> Finding:
    from beyond_accuracy.annotations import real_labels

    labels = real_labels()
    empty = sum(len(classes) == 0 for classes in labels.values())
    right = len(labels) == 50_000 and empty == 3_163
    text = f"{len(labels) - empty:,} of {len(labels):,} images have labels (package timm)"
    return Finding("imagenet_real", OK if right else WRONG, text if right else f"{text}, expected 46,837 of 50,000")


def _counts(dataset: ImageDataset) -> str:
    if dataset.multilabel:
        n_classes = len(np.unique(np.concatenate(dataset.targets)))
    else:
        n_classes = len(np.unique(dataset.targets))
    return f"{len(dataset):,} images, {n_classes:,} classes"


def _problems(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    if note := count_note(spec, len(dataset)):
        yield WRONG, f"{dataset.source}: {note}: incomplete, or another version; fetch it again"
    yield from _split_sizes(spec, dataset)
    yield from _classes(spec, dataset)
    if dataset.load is not None:
        yield from _images(spec, dataset)


def _classes(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    """Which classes are there, in which order, and how many images each has."""
    if dataset.multilabel or dataset.classes is None or dataset.classes.name != "imagenet_1k":
        return
    labels, counts = np.unique(dataset.targets, return_counts=True)
    subset = str(spec.options.get("columns", ""))
    wanted = len(dataset.classes) if dataset.columns is None else len(dataset.columns)
    digest = hashlib.sha256("\n".join(dataset.classes.ids[label] for label in labels).encode()).hexdigest()
    full = bool(spec.expected) and len(dataset) == spec.expected and spec.expected >= wanted
    if full and len(labels) != wanted:
        yield WRONG, f"{len(labels)} classes have images, expected {wanted}"
    elif full and subset in ORDER_OF and not digest.startswith(ORDER_OF[subset]):
        yield WRONG, f"the classes are not those of this set (hash {digest[:16]}, expected {ORDER_OF[subset]})"
    expected = PER_CLASS.get(spec.reader)
    if full and expected and (counts != expected).any():
        label = int(labels[counts != expected][0])
        yield WRONG, f"class {dataset.classes.ids[label]} has {counts[labels == label][0]} images, expected {expected}"


def _split_sizes(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    if spec.reader != "splits":
        return
    from beyond_accuracy import vtab  # here: it imports torch, and a check of what is missing should be quick

    if spec.name not in vtab.tasks():
        return
    task = vtab.task(spec.name)
    found = dataset.metadata["split"].value_counts().to_dict()
    train, validation, test = (found.get(split, 0) for split in ("train", "validation", "test"))
    sizes = f"{train:,} training, {validation:,} validation and {test:,} test images"
    expected = f"{task.train:,}, {task.validation:,} and {task.test:,}"
    if test != task.test or (train, validation) not in ((task.train, 0), (task.train, task.validation)):
        if test == task.test and train == task.train + task.validation and not validation:
            yield NOTE, f"{sizes}: training and validation images of VTAB ({expected}) in one split"
        else:
            yield WRONG, f"{sizes}; VTAB has {expected}"


def _images(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    """Decode a sample and look for images that were resized or encoded again."""
    positions = np.unique(np.linspace(0, len(dataset) - 1, min(DECODED, len(dataset))).round().astype(int))
    formats, sizes, tables = [], [], []
    for position in positions:
        try:
            dataset.image(int(position))
            with Image.open(io.BytesIO(dataset.load(int(position)))) as image:
                formats.append(image.format)
                sizes.append(image.size)
                tables.append(str(getattr(image, "quantization", "")))
        except InputError as error:
            yield WRONG, _plain(error, spec)
            return
    side = SIDE.get(spec.reader)
    if side and any(size != (side, side) for size in sizes):
        odd = next(size for size in sizes if size != (side, side))
        yield WRONG, f"images are {odd[0]} x {odd[1]}, the release has {side} x {side}: they were resized"
    if spec.reader == "pug_imagenet" and min(min(size) for size in sizes) < 256:
        yield WRONG, f"images are {sizes[0][0]} x {sizes[0][1]}, smaller than the 256 of the official crop"
    if spec.reader == "imagenet" and len(positions) >= 10:
        shorter = {min(size) for size in sizes}
        if len(set(sizes)) == 1 or len(shorter) == 1:
            yield WRONG, f"every image looked at has a shorter side of {shorter.pop()}: they were resized"
        elif set(formats) - {"JPEG", "PNG"}:
            yield NOTE, f"images are {', '.join(sorted(set(formats)))}, not the original JPEG: encoded again"
        elif "" not in tables and len(set(tables)) == 1:
            yield NOTE, "every image looked at has the same JPEG tables: encoded again, accuracies may differ by tenths"
