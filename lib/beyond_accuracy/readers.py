"""How each dataset is read: one function per layout, named in a profile as `reader:`.

Layouts, counts and traps follow the contract sheet in docs/datasets.md. Every reader maps labels by class id (wnid),
never by position in a listing: a folder with a subset of the classes must still get the right labels.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from beyond_accuracy.datasets import BytesLoader, FileLoader, ImageDataset, build_dataset, file_stamp, require
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.labels import class_space, imagenet_subset
from beyond_accuracy.paths import resolve
from beyond_accuracy.profiles import DatasetSpec

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
VAL_ID = re.compile(r"ILSVRC2012_val_\d{8}")


def image_id(path: Path, root: Path) -> str:
    """Stable id of an image file: the ILSVRC validation name where there is one, else folder and stem."""
    found = VAL_ID.search(path.name)
    return found.group() if found else path.relative_to(root).with_suffix("").as_posix()


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder, sorted; hidden files, READMEs and tables are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def listing(files: list[Path], root: Path) -> str:
    """Text that changes when files are added, removed or replaced: relative name, size and modification time."""
    lines = []
    for file in files:
        stat = file.stat()
        lines.append(f"{file.relative_to(root).as_posix()}\t{stat.st_size}\t{stat.st_mtime_ns}")
    return "\n".join(lines)


def class_folder(spec: DatasetSpec) -> ImageDataset:
    """`<root>/<class id>/*` (ImageNet validation, A, R, Sketch); `<root>/val/<class id>/*` is accepted too.

    Options: `columns`: `a` or `r` scores the 200 classes of ImageNet-A or -R only.

    Raises:
        DataMissing: No such folder.
        InputError: A folder that is no class id, or no images.
    """
    root = require(resolve(spec.path), spec)
    index = class_space(spec.classes).index
    if (root / "val").is_dir() and not any((root / class_id).is_dir() for class_id in index):
        root = root / "val"
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in folders:
        if folder.name not in index:
            raise InputError(
                f"{spec.name}: folder {folder.name!r} in {root} is not a class id of {spec.classes} "
                f"(expected names like {next(iter(index))})"
            )
    if not folders and list_images(root):
        raise InputError(
            f"{spec.name}: {root} holds images without class folders (the official archive unpacks flat): sort them "
            "into folders named by class id first"
        )
    files = [file for folder in folders for file in list_images(folder)]
    columns = _columns(spec)
    targets = np.array([index[file.relative_to(root).parts[0]] for file in files], dtype=np.int64)
    if columns is not None and len(outside := np.setdiff1d(targets, columns)):
        raise InputError(
            f"{spec.name}: class {class_space(spec.classes).ids[outside[0]]} in {root} is not one of the "
            f"{len(columns)} classes this set is scored on"
        )
    return build_dataset(
        spec,
        [image_id(file, root) for file in files],
        targets,
        FileLoader(tuple(map(str, files))),
        content=listing(files, root),
        source=str(root),
        columns=columns,
    )


def parquet(spec: DatasetSpec) -> ImageDataset:
    """One Parquet file with `id`, `image` (encoded bytes), `label` (int, or list of int) and metadata columns.

    Options: `label`: another label column; `where`: mapping column -> value(s), keeps matching rows.

    Raises:
        DataMissing: No such file.
        InputError: Damaged file or missing column.
    """
    path = require(resolve(spec.path), spec, "file")
    table = read_parquet(path, spec.name)
    label = str(spec.options.get("label", "label"))
    for column in ("id", "image", label):
        if column not in table.column_names:
            raise InputError(f"{spec.name}: {path} has no column {column!r} (it has {', '.join(table.column_names)})")
    for column, wanted in (spec.options.get("where") or {}).items():
        values = wanted if isinstance(wanted, list) else [wanted]
        keep = table[column].to_pandas().isin(values).to_numpy()
        table = table.filter(pa.array(keep))
    labels = table[label].to_pylist()
    targets = [np.asarray(v, dtype=np.int64) for v in labels] if labels and isinstance(labels[0], list) else labels
    return build_dataset(
        spec,
        table["id"].to_pylist(),
        targets,
        BytesLoader(table["image"].to_pylist()),
        content=file_stamp(path),
        source=str(path),
        columns=_columns(spec),
        metadata=table.drop_columns(["image"]).to_pandas(),
    )


def imagenet_labels(spec: DatasetSpec) -> ImageDataset:
    """The 50,000 validation ids and labels without the images, for imported predictions.

    Source: the table of file names and labels in the package `imagenet-x` (CC BY-NC 4.0, an optional extra).

    Raises:
        DataMissing: The package is not installed.
    """
    try:
        import imagenet_x
    except ImportError as error:
        raise DataMissing(
            f"{spec.name}: the validation labels come from the optional package imagenet-x (CC BY-NC 4.0): "
            "pip install 'beyond-accuracy[imagenet-x]'"
        ) from error
    path = Path(imagenet_x.__file__).parent / "annotations" / "filename_label.csv"
    frame = pd.read_csv(path).sort_values("file_name")
    ids = frame["file_name"].str.extract(f"({VAL_ID.pattern})")[0].to_numpy()
    return build_dataset(
        spec, ids, frame["label"].to_numpy(), None, content=file_stamp(path), source="imagenet-x annotations"
    )


def read_parquet(path: Path, name: str) -> pa.Table:
    """Read a Parquet file whole.

    Raises:
        InputError: The file is damaged.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: {path} is damaged or not Parquet ({error}); fetch it again") from error


def _columns(spec: DatasetSpec) -> np.ndarray | None:
    subset = spec.options.get("columns")
    return None if subset is None else imagenet_subset(str(subset))


READERS = {
    "class_folder": class_folder,
    "parquet": parquet,
    "imagenet_labels": imagenet_labels,
}
