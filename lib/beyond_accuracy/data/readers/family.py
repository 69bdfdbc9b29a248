"""The ImageNet family (validation, V2, A, R, Sketch; Hard with several labels), sets that are probed, small ones."""

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import file_stamp
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.data.dataset import ImageDataset, build_dataset, join, reader, require, scored_columns
from beyond_accuracy.data.readers import files
from beyond_accuracy.data.readers.files import VAL_ID, Samples, assemble, available_splits, find, image_id, image_ids

WNID_SUFFIX = re.compile(r"_(n\d{8})(?=\.|$)")
DIGIT_SIDE = 64
FIRST_NAME = "tench"  # of the 1000 classes in sorted-wnid order


@reader
def class_folder(spec: DatasetSpec) -> ImageDataset:
    """Images in folders named by class id, or the same as shards with labels (A, R, Sketch, one's own set).

    Shards give the class id (column `wnid`, or class names that are ids) or a label, which counts over all classes when
    one is beyond the scored ones, else over the scored classes in their order. Options: `columns`: `a` or `r` scores
    the 200 classes of that set only. `label_space`: `all` or `scored` where a partial set leaves it open.
    """
    samples, columns = find(spec), scored_columns(spec)
    targets, class_ids = _targets(spec, samples, columns), class_space(spec.classes).ids
    ids = [f"{class_ids[target]}/{stem}" for target, stem in zip(targets, _stems(samples), strict=True)]
    for at, name in enumerate(samples.names):
        if VAL_ID.search(name) or samples.form == "webdataset":  # whose keys are no file names
            ids[at] = image_id(name)
    return assemble(spec, samples, ids, targets, columns=columns)


@reader
def imagenet(spec: DatasetSpec) -> ImageDataset:
    """The ILSVRC 2012 validation set, with its validation names as ids.

    Folders by wnid (`<root>` or `<root>/val`); the official archive, packed or flat (labels then come from the package
    imagenet-x); the hub's Parquet shards; timm's `imagenet1k-validation-*.tar`. Options: `val_ids: optional` accepts
    images without a validation name; ReaL and ImageNet-X cannot be joined to them.
    """
    samples = find(spec)
    targets = _flat_labels(spec, samples) if _is_flat(samples) else _targets(spec, samples)
    _check_suffixes(spec, samples, targets)
    ids = image_ids(samples.names)
    unnamed = [name for name in samples.names if not VAL_ID.search(name)]
    if unnamed and spec.options.get("val_ids") != "optional":
        raise InputError(
            f"{spec.name}: {len(unnamed)} of {len(ids)} images in {samples.root} have no ILSVRC2012_val_ number in "
            f"their name (first: {unnamed[0] or 'no name at all'!r}), which ReaL and ImageNet-X are keyed by. Use a "
            "form that keeps the file names, or set `options: {val_ids: optional}` and go without those two"
        )
    return assemble(spec, samples, ids if any(samples.names) else _stems(samples), targets)


@reader
def imagenet_v2(spec: DatasetSpec) -> ImageDataset:
    """ImageNetV2: folders named by class number, `0` to `999`, padded or not (the number is the label); or shards."""
    samples = find(_matched_frequency(spec))
    if not samples.in_folders:
        ids = [name or f"{i:08d}" for i, name in enumerate(samples.names)]
        return assemble(spec, samples, ids, _targets(spec, samples))
    folders = _folders(samples)
    for folder in dict.fromkeys(folders):
        if not re.fullmatch(r"\d{1,4}", folder) or int(folder) > 999:
            raise InputError(
                f"{spec.name}: folder {folder!r} in {samples.root} is not a class number from 0 to 999, as the folders "
                "of imagenetv2-matched-frequency-format-val are named"
            )
    targets = [int(folder) for folder in folders]
    ids = [f"{target}/{stem}" for target, stem in zip(targets, _stems(samples), strict=True)]
    return assemble(spec, samples, ids, targets)


def _matched_frequency(spec: DatasetSpec) -> DatasetSpec:
    """Of several of V2's three sets beside each other the one that `ImageNetV2` means in the literature."""
    root = resolve(spec.path)
    variants = [path for path in root.glob("*-*") if path.is_dir() and path.name.lower().startswith("imagenetv2-")]
    if len(variants) < 2:
        return spec
    chosen = [path for path in variants if "matched-frequency" in path.name]
    if len(chosen) != 1:
        there = ", ".join(sorted(path.name for path in variants))
        raise InputError(f"{spec.name}: {root} holds {there}: give the folder of one of them as `path`")
    return replace(spec, path=str(chosen[0]))


@reader
def imagenet_hard(spec: DatasetSpec) -> ImageDataset:
    """ImageNet-Hard: Parquet shards with a list of right labels per image. Ids are row numbers of the release."""
    samples = find(spec)
    table = samples.table
    if table is None or "label" not in table.column_names:
        raise InputError(f"{spec.name}: expected Parquet shards with columns image and label in {samples.root}")
    labels = table["label"].to_pylist()
    if samples.labels is not None:
        labels = [[label] for label in labels]
    if empty := [row for row, label in enumerate(labels) if not label]:
        raise InputError(f"{spec.name}: row {empty[0]} in {samples.root} has no label; fetch the pinned revision again")
    kept = [column for column in ("origin", "english_label") if column in table.column_names]
    metadata = table.select(kept).to_pandas().reindex(range(len(labels)))
    if "english_label" in kept:
        metadata["english_label"] = ["; ".join(map(str, names or [])) for names in table["english_label"].to_pylist()]
    targets = [np.unique(np.asarray(label, dtype=np.int64)) for label in labels]
    return assemble(spec, samples, [f"{row:05d}" for row in range(len(labels))], targets, metadata=metadata)


@reader
def imagenet_labels(spec: DatasetSpec) -> ImageDataset:
    """The 50,000 validation ids and labels without images, from imagenet-x (CC BY-NC 4.0)."""
    table, path = _label_table(spec)
    kept = {"content": file_stamp(path), "source": "imagenet-x annotations"}
    return build_dataset(spec, table.index.to_numpy(), table.to_numpy(), None, **kept)


@reader
def parquet(spec: DatasetSpec) -> ImageDataset:
    """One small Parquet file with `id`, `image` (encoded bytes), `label` (int, or list of int) and metadata columns.

    Options: `label`: another label column; `where`: column -> value(s), keeps matching rows; `columns` as elsewhere.
    """
    path = require(resolve(spec.path), spec, "file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise files.damaged(spec.name, path, error) from error
    label = str(spec.options.get("label", "label"))
    for column in ("id", "image", label):
        if column not in table.column_names:
            raise InputError(f"{spec.name}: {path} has no column {column!r} (it has {', '.join(table.column_names)})")
    for column, wanted in (spec.options.get("where") or {}).items():
        keep = table[column].to_pandas().isin(wanted if isinstance(wanted, list) else [wanted])
        table = table.filter(pa.array(keep.to_numpy()))
    ids, images, targets = (table[column].to_pylist() for column in ("id", "image", label))
    more = {"columns": scored_columns(spec), "metadata": table.drop_columns(["image"]).to_pandas()}
    return build_dataset(spec, ids, targets, images.__getitem__, content=file_stamp(path), source=str(path), **more)


@reader
def digits(spec: DatasetSpec) -> ImageDataset:
    """scikit-learn's handwritten digits: 1,797 scans, dark on light, enlarged to 64 pixels (bicubic).

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part; CC BY 4.0.
    """
    # What `sklearn.datasets.load_digits` reads; importing that takes longer than all else of an unchanged report.
    file = Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    pages = (255 * (1 - table[:, :-1].reshape(-1, 8, 8) / 16)).round().astype(np.uint8)
    ids = [f"digit_{row:04d}" for row in range(len(pages))]
    content = f"{DIGIT_SIDE} {np.packbits(pages.ravel() > 127).tobytes().hex()[:256]} {int(pages.sum())}"
    about = {"content": content, "source": f"scikit-learn {version('scikit-learn')}"}
    return build_dataset(replace(spec, classes=""), ids, table[:, -1].astype(int), partial(_png, pages), **about)


def _png(pages: np.ndarray, position: int) -> bytes:
    large = Image.fromarray(pages[position]).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@reader
def splits(spec: DatasetSpec) -> ImageDataset:
    """All splits of a task as one dataset; metadata: `split` (`train`, `validation`, `test`); ids `<split>/<key>`.

    Layouts: `<root>/<train|test>/<n>.tar` with `classnames.txt` (the hub's `clip-benchmark/wds_*`), or Parquet shards
    `data/<split>-*.parquet`. Options: `splits`: those to read (default: all). `n_classes`: what labels stay below.
    """
    spec, root = replace(spec, classes=""), resolve(spec.path)
    there = available_splits(spec)
    wanted = list(spec.options.get("splits") or there)
    absent = [split for split in dict.fromkeys([*wanted, "train", "test"]) if split not in there]
    if absent:
        raise InputError(
            f"{spec.name}: {root} has no {absent[0]} shards (found: {', '.join(there) or 'none'}). Training and test "
            "images must come from different splits; fetch the missing one, or another mirror that has it"
        )
    parts = {split: find(spec, (split,)) for split in wanted}
    for split, part in parts.items():
        _check_split(spec, split, part)
    # row numbers where the shards' own names do not tell the images of a split apart
    named = [part.names if len(set(part.names)) == len(part) else [""] * len(part) for part in parts.values()]
    keys = [key or f"{row:07d}" for names in named for row, key in enumerate(names)]
    column = np.repeat(list(parts), [len(part) for part in parts.values()])
    load = join([(part.load, len(part)) for part in parts.values()])
    samples = Samples(parts[wanted[0]].form, keys, load, " ".join(part.stamp for part in parts.values()), root)
    ids = [f"{split}/{key}" for split, key in zip(column, keys, strict=True)]
    labels = np.concatenate([part.labels for part in parts.values()])
    return assemble(spec, samples, ids, labels, metadata=pd.DataFrame({"split": column}))


def _check_split(spec: DatasetSpec, split: str, part: Samples) -> None:
    if part.labels is None:
        raise InputError(f"{spec.name}: the {split} shards in {part.root} have no whole-number label")
    limit = int(spec.options.get("n_classes") or len(part.class_names))
    if part.class_names and len(part.class_names) != limit:
        raise InputError(f"{spec.name}: {part.root} names {len(part.class_names)} classes, the task has {limit}")
    for bad in part.labels[(part.labels < 0) | (part.labels >= (limit or np.inf))][:1]:
        raise InputError(f"{spec.name}: label {bad} among the {split} images in {part.root}, expected 0..{limit - 1}")


def _label_table(spec: DatasetSpec) -> tuple[pd.Series, Path]:
    try:
        import imagenet_x
    except ImportError as error:
        raise DataMissing(
            f"{spec.name}: the validation labels come from the optional package imagenet-x (CC BY-NC 4.0): "
            "pip install 'beyond-accuracy[imagenet-x]'"
        ) from error
    path = Path(imagenet_x.__file__).parent / "annotations" / "filename_label.csv"
    frame = pd.read_csv(path).sort_values("file_name")
    ids = frame["file_name"].str.extract(f"({VAL_ID.pattern})")[0]
    return pd.Series(frame["label"].to_numpy(), index=pd.Index(ids, name="id")), path


def _is_flat(samples: Samples) -> bool:
    """The official archive: every image carries its validation name, and none lies in a class folder."""
    folders = set(_folders(samples)) if samples.in_folders else ()
    named = all(VAL_ID.search(name) for name in samples.names)
    return named and len(folders) == 1 and not re.fullmatch(r"n\d{8}", *folders)


def _flat_labels(spec: DatasetSpec, samples: Samples) -> np.ndarray:
    table = _label_table(spec)[0]
    ids = [image_id(name) for name in samples.names]
    if unknown := [name for name in ids if name not in table.index]:
        raise InputError(f"{spec.name}: {unknown[0]} in {samples.root} is not one of the 50,000 validation images")
    return table.loc[ids].to_numpy(np.int64)


def _targets(spec: DatasetSpec, samples: Samples, columns: np.ndarray | None = None) -> np.ndarray:
    space = class_space(spec.classes)
    if samples.in_folders:
        return _by_id(spec, samples, _folders(samples), space.index)
    if samples.table is not None and "wnid" in samples.table.column_names:
        return _by_id(spec, samples, samples.table["wnid"].to_pylist(), space.index)
    if samples.labels is None:
        raise InputError(
            f"{spec.name}: the shards in {samples.root} have no whole-number label and no wnid column "
            f"(they have {', '.join(samples.table.column_names)})"
        )
    if samples.class_names and all(name in space.index for name in samples.class_names):
        _check_range(spec, samples, len(samples.class_names))
        return np.array([space.index[name] for name in samples.class_names], np.int64)[samples.labels]
    return _by_number(spec, samples, columns, len(space))


def _by_id(spec: DatasetSpec, samples: Samples, class_ids: Sequence[str], index: dict[str, int]) -> np.ndarray:
    try:
        return np.array([index[class_id] for class_id in class_ids], dtype=np.int64)
    except KeyError as error:
        strange, example = error.args[0], next(iter(index))
    if not strange:
        raise InputError(
            f"{spec.name}: {samples.root} holds images without class folders: sort them into folders named by class id "
            f"(such as {example})"
        )
    kind = "folder" if samples.in_folders else "class"
    hint = ". A number is no class id: it may be a rank in some sorted list of folders, nobody can tell which"
    raise InputError(
        f"{spec.name}: {kind} {strange!r} in {samples.root} is not a class id of {spec.classes} (expected names like "
        f"{example}){hint if str(strange).isdigit() else ''}"
    )


def _by_number(spec: DatasetSpec, samples: Samples, columns: np.ndarray | None, n_classes: int) -> np.ndarray:
    """Labels of shards: over all classes, or ranks in the list of scored ones."""
    labels, names = samples.labels, samples.class_names
    _check_range(spec, samples, n_classes)
    if columns is None and n_classes == len(names) == 1000 and not names[0].lower().startswith(FIRST_NAME):
        raise InputError(
            f"{spec.name}: class 0 of the shards in {samples.root} is {names[0]!r}, expected {FIRST_NAME!r}: they are "
            "in another order than that of the sorted wnids"
        )
    if columns is None:
        return labels
    if (spec.options.get("label_space") or ("all" if labels.max() >= len(columns) else "scored")) == "all":
        return labels
    _check_range(spec, samples, len(columns))
    return columns[labels]


def _check_range(spec: DatasetSpec, samples: Samples, n: int) -> None:
    for bad in samples.labels[(samples.labels < 0) | (samples.labels >= n)][:1]:
        hint = "; -1 marks a split whose labels were not published" if bad == -1 else ""
        raise InputError(f"{spec.name}: label {bad} in {samples.root} is outside 0..{n - 1}{hint}")


def _check_suffixes(spec: DatasetSpec, samples: Samples, targets: np.ndarray) -> None:
    """Some releases end validation names with the wnid: a label that says otherwise is wrong."""
    ids = class_space(spec.classes).ids
    for name, target in zip(samples.names, targets, strict=True):
        found = WNID_SUFFIX.search(name.rsplit("/", 1)[-1])
        if found and found[1] != ids[target]:
            raise InputError(
                f"{spec.name}: {name!r} in {samples.root} is labelled {target} ({ids[target]}), but its name says "
                f"{found[1]}: the labels are in another class order than that of the sorted wnids"
            )


def _folders(samples: Samples) -> list[str]:
    return [name.rsplit("/", 2)[-2] if "/" in name else "" for name in samples.names]


def _stems(samples: Samples) -> list[str]:
    """File names without folder and suffix; row numbers where shards keep none."""
    return [name.rsplit("/", 1)[-1] or f"{row:08d}" for row, name in enumerate(image_ids(samples.names))]
