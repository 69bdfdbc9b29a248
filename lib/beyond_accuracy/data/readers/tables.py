"""Images inside Parquet files: small ones held in memory, hub shards read row group by row group; bundled digits."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import file_stamp
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.dataset import ImageDataset, build_dataset, join, reader, require, scored_columns

BATCH_ROWS = 16  # decoded at once: bounds memory whatever the row groups' size
BUFFER_BYTES = 2**20
DIGIT_SIDE = 64


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
            raise _damaged(name, path, error) from error
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


def _damaged(name: str, path: Path, error: Exception) -> InputError:
    return InputError(f"{name}: {path} is damaged or not Parquet ({error}); fetch it again")


def _image_column(schema: pa.Schema, path: Path, name: str) -> str:
    if "image" in schema.names:
        kind = schema.field("image").type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return "image.bytes"
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return "image"
    raise InputError(f"{name}: {path} has no column 'image' with encoded images (it has {', '.join(schema.names)})")


@reader
def parquet(spec: DatasetSpec) -> ImageDataset:
    """One small Parquet file with `id`, `image` (encoded bytes), `label` (int, or list of int) and metadata columns.

    Options: `label`: another label column; `where`: column -> value(s), keeps matching rows; `columns` as elsewhere.
    """
    path = require(resolve(spec.path), spec, "file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(spec.name, path, error) from error
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
    from sklearn import __version__
    from sklearn.datasets import load_digits

    data = load_digits()
    pages = (255 * (1 - data.images / 16)).round().astype(np.uint8)
    ids = [f"digit_{row:04d}" for row in range(len(pages))]
    content = f"{DIGIT_SIDE} {np.packbits(pages.ravel() > 127).tobytes().hex()[:256]} {int(pages.sum())}"
    about = {"content": content, "source": f"scikit-learn {__version__}"}
    return build_dataset(replace(spec, classes=""), ids, data.target, partial(_png, pages), **about)


def _png(pages: np.ndarray, position: int) -> bytes:
    large = Image.fromarray(pages[position]).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
