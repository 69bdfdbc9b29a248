"""Predictions and features on disk: content-addressed, atomic, resumable. Layout and key: docs/store.md.

`predictions.parquet` is put in place last when a run completes: its presence means complete. `meta.json` then holds
the key and the checksums of the files, which are compared whenever a file is read.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import (
    atomic_write,
    cannot_read,
    cannot_write,
    checksum,
    locked,
    read_json,
    stat_of,
    write_atomically,
)
from beyond_accuracy.base.paths import cache_dir, check_name

FORMAT = 3
ARRAYS = b"beyond_accuracy.arrays"  # schema key of predictions.parquet: the .npy files that belong to it
ENTRY = b"beyond_accuracy.entry"  # schema key of a part: the entry it belongs to
PART = re.compile(r"part-(\d{8})-(\d{8})\.parquet")
VERIFIED: dict[Path, list[int]] = {}  # files of this process whose checksum was right, as `stat_of` saw them

Range = tuple[int, int]


def make_key(parts: dict) -> str:
    """Cache key: hash of everything that could change the numbers."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Entry:
    """One key of the store: the outputs of one model on one dataset under one transform."""

    folder: Path
    meta: dict

    @property
    def key(self) -> str:
        """The cache key."""
        return self.folder.name

    @property
    def identity(self) -> str:
        """What its files say they belong to: the key, or model and dataset of imported predictions."""
        return str(self.meta.get("key") or f"{self.meta.get('model')}/{self.meta.get('dataset')}")

    @property
    def complete(self) -> bool:
        """Whether every image is there."""
        return os.path.isfile(self.folder / "predictions.parquet")

    def part(self, rows: Range) -> Path:
        """Path of the part with the images `rows[0]` to `rows[1] - 1`."""
        return self.folder / f"part-{rows[0]:08d}-{rows[1]:08d}.parquet"

    @property
    def refused(self) -> str:
        """Why the model has no outputs here (it cannot take this input side, …); empty where it has, or may have."""
        return "" if self.complete else str(self.refusal.get("reason", ""))

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to compute."""
        return self.complete or bool(self.refused)

    def refuse(self, reason: str, passing: bool = False) -> None:
        """Write down that the model has no outputs here: asked again, it is not run again.

        `passing`: it may have some another time, when more memory is free (`retry`); what was computed stays.
        """
        content = {"reason": reason, "passing": passing}
        write_atomically(self.folder / "refused.json", json.dumps(content, indent=1).encode())
        for part in [] if passing else self.folder.glob("part-*.parquet"):
            part.unlink(missing_ok=True)

    @property
    def refusal(self) -> dict:
        """What `refuse` was told; empty where nothing was refused."""
        return read_json(self.folder / "refused.json")

    def retry(self) -> None:
        """Forget a refusal that was of its moment."""
        if self.refusal.get("passing"):
            (self.folder / "refused.json").unlink(missing_ok=True)

    def missing(self, ranges: list[Range]) -> list[Range]:
        """What of these ranges is in no part yet; parts may have been cut in any way."""
        if self.settled:
            return []
        _, gaps = chain(self.parts(), max(stop for _, stop in ranges))
        return sorted((max(a, x), min(b, y)) for a, b in ranges for x, y in gaps if x < b and a < y)

    def parts(self) -> list[Range]:
        """The parts that are there."""
        return part_ranges(os.listdir(self.folder) if self.folder.is_dir() else [])

    def lock(self) -> AbstractContextManager[bool]:
        """Held while the entry is filled: of two runs that want the same outputs, the second waits and then reads.

        False where the file system has no locks: two runs then do the same work twice, which is safe.
        """
        return locked(self.folder / "lock", f"computing {self.meta.get('model')} on {self.meta.get('dataset')}")

    def start(self, facts: dict, locked: bool = True) -> None:
        """Write down what the folder stands for and how this run computes (a run continued elsewhere lists both).

        `locked`: nobody else is at work here, so what is half-written is nobody's.
        """
        if locked:
            self.clear()
        stored = read_json(self.folder / "meta.json")
        if not all(text in str(stored.get(name, "")).split("; ") for name, text in facts.items()):
            for name, text in facts.items():
                before = str(stored[name]).split("; ") if stored.get(name) else []
                stored[name] = "; ".join(dict.fromkeys([*before, text]))
            text = json.dumps({**self.meta, **stored}, indent=1, sort_keys=True, default=str)
            write_atomically(self.folder / "meta.json", text.encode())

    def clear(self) -> None:
        """Remove what killed processes left half-written; only for who knows that nobody writes here."""
        for left in self.folder.glob(".tmp-*"):
            with suppress(OSError):
                left.unlink()

    def described(self) -> "Entry":
        """The entry with the facts of the run that computed it, under the names of this one."""
        own = ("model", "model_id", "dataset", "key", "key_parts")
        names = {name: self.meta[name] for name in own if name in self.meta}
        return replace(self, meta={**self.meta, **read_json(self.folder / "meta.json"), **names})

    def write_part(self, rows: Range, frame: pd.DataFrame, arrays: dict[str, np.ndarray]) -> None:
        """Write one part whole: rows in dataset order, and arrays (rows, width) by name."""
        table = rows_table(frame, arrays)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), ENTRY: self.identity})
        how = {"compression": "zstd", "write_page_checksum": True}
        atomic_write(self.part(rows), lambda path: pq.write_table(table, path, **how))

    def finish(self, ranges: list[Range]) -> None:
        """Merge the parts, one at a time; the merged table is renamed into place last, then the parts go."""
        try:
            self.merge(ranges)
        except InputError:
            if not self.complete:  # else another run, that no lock could keep away, was faster
                raise
        with suppress(OSError):
            for part in self.folder.glob("part-*.parquet"):
                part.unlink()

    def merge(self, ranges: list[Range]) -> None:
        """Make one table and one file for each array of the parts."""
        if self.complete:
            return
        narrow, widths = {}, {}
        parts, gaps = chain(self.parts(), max(stop for _, stop in ranges))
        if gaps:
            raise InputError(f"{self.folder}: images {gaps[0][0]} to {gaps[0][1] - 1} are missing; run again")
        for rows in parts:
            schema = self._read(self.part(rows), schema=True)
            if (schema.metadata or {}).get(ENTRY) != self.identity.encode():
                raise self._damaged(self.part(rows), "it belongs to another entry")
            wide = {f.name: f.type.list_size for f in schema if pa.types.is_fixed_size_list(f.type)}
            table = self._read(self.part(rows), [name for name in schema.names if name not in wide])
            if len(table):  # a part without one good image has fewer columns, too
                narrow[rows], widths = table, wide
        if not narrow:
            raise InputError(f"{self.meta.get('dataset')}: not one image could be decoded")
        merged = pa.concat_tables(narrow.values())
        for name, width in widths.items():
            about = {"name": name, "shape": (len(merged), width), "parts": list(narrow)}
            atomic_write(self.folder / f"{name}.npy", partial(self._stream, **about))
        self.write_rows(merged, list(widths))

    def write_rows(self, table: pa.Table, arrays: list[str]) -> None:
        """Write the merged rows, which makes the entry complete; `arrays` are the .npy files beside them."""
        noted = table.replace_schema_metadata({**(table.schema.metadata or {}), ARRAYS: json.dumps(arrays)})
        sums = {f"{name}.npy": checksum(self.folder / f"{name}.npy") for name in arrays}

        def write(path: Path) -> None:
            pq.write_table(noted, path)
            sealed = {"entry": self.identity, "files": {**sums, "predictions.parquet": checksum(path)}}
            text = json.dumps({**self.described().meta, **sealed}, indent=1, sort_keys=True, default=str)
            write_atomically(self.folder / "meta.json", text.encode())

        atomic_write(self.folder / "predictions.parquet", write)

    def frame(self) -> pd.DataFrame:
        """The merged rows."""
        return self._read(self.folder / "predictions.parquet").to_pandas()

    def verify(self, path: Path) -> None:
        """Refuse a file that is not the one this entry was completed with; once per process and state of the file."""
        try:
            found = stat_of(path)
            if VERIFIED.get(path) == found:
                return
            sealed = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            if sealed["entry"] != self.identity:
                raise self._damaged(path, f"it belongs to {sealed['entry']}")
            if checksum(path) != sealed["files"][path.name]:
                raise self._damaged(path, "its checksum is not that of the file that was written")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(path, error) from error
        VERIFIED[path] = found

    def array(self, name: str) -> np.ndarray | None:
        """A memory-mapped array (`logits`, `features-<layer>`); None where not kept."""
        if name not in self.arrays():
            return None
        path = self.folder / f"{name}.npy"
        self.verify(path)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:  # the content is what was written: too many open files
            raise self._damaged(path, error) from error

    def arrays(self) -> list[str]:
        """Names of the stored arrays."""
        metadata = self._read(self.folder / "predictions.parquet", schema=True).metadata or {}
        return json.loads(metadata.get(ARRAYS, b"[]"))

    def layers(self) -> list[str]:
        """Names of the stored feature layers."""
        return [name.removeprefix("features-") for name in self.arrays() if name.startswith("features-")]

    def _stream(self, path: Path, name: str, shape: tuple[int, int], parts: list[Range]) -> None:
        # Written, not memory-mapped: on a full disk a write fails with an error, a mapped page kills the process.
        pieces = (chunk for rows in parts for chunk in self._read(self.part(rows), [name])[name].chunks)
        with path.open("wb") as handle:
            for at, piece in enumerate(pieces):
                values = piece.flatten().to_numpy(zero_copy_only=False)
                if not at:
                    header = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(handle, header)
                handle.write(values.tobytes())

    def _read(self, path: Path, columns: list[str] | None = None, schema: bool = False):
        if not path.name.startswith("part-"):
            self.verify(path)
        try:
            if schema:
                return pq.read_schema(path)
            return pq.read_table(path, columns=columns, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, error: Exception | str) -> InputError:
        if isinstance(error, OSError) and (unreadable := cannot_read(path, error)):
            return unreadable
        if path.name.startswith("part-"):
            cure = "delete that file and run again: only its images are computed anew"
        elif "key" in self.meta:
            cure = f"delete the folder {self.folder} and run again: nothing else is computed anew"
        else:
            cure = "import the predictions again"
        return InputError(
            f"stored results of {self.meta.get('model')} on {self.meta.get('dataset')} are damaged: {path} "
            f"({' '.join(str(error).split())[:200]}); {cure}"
        )


class Store:
    """The cache folder."""

    def __init__(self, root: Path | None = None):
        self.root = Path(root) if root is not None else cache_dir()

    def entry(self, parts: dict, meta: dict) -> Entry:
        """The entry for a key made of `parts`; `meta` is kept beside it and is not part of the key."""
        key = make_key(parts)
        return Entry(self.root / "predictions" / key, {**meta, "key": key, "key_parts": parts})

    def head_file(self, parts: dict) -> Path:
        """Where the text embeddings of a CLIP model's classes are kept."""
        return self.root / "heads" / f"{make_key(parts)}.npz"

    def imported(self, model: str, dataset: str) -> Entry:
        """The entry that holds imported predictions of one model on one dataset."""
        folder = self.root / "imported" / check_name("model", model) / check_name("dataset", dataset)
        return Entry(folder, {"model": model, "dataset": dataset}).described()

    def replace_imported(self, model: str, dataset: str, write: Callable[[Entry], None]) -> Entry:
        """Put imported predictions in place: those of before stay until the new ones are whole."""
        entry, token = self.imported(model, dataset), os.urandom(4).hex()
        folder = entry.folder
        fresh, old = folder.with_name(f".new-{token}"), folder.with_name(f".old-{token}")
        try:
            fresh.mkdir(parents=True)
            write(replace(entry, folder=fresh))
            with locked(folder.parent / ".lock", f"importing predictions of {model}"):
                if folder.exists():
                    os.replace(folder, old)
                os.replace(fresh, folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        return self.imported(model, dataset)

    def imported_models(self) -> list[str]:
        """Names of all models with imported predictions."""
        root = self.root / "imported"
        return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def part_ranges(names: Iterable[str]) -> list[Range]:
    """The ranges of images that file names of parts stand for."""
    return [(int(found[1]), int(found[2])) for name in names if (found := PART.fullmatch(name))]


def chain(parts: Iterable[Range], stop: int) -> tuple[list[Range], list[Range]]:
    """Parts that follow one another from 0 to `stop` without overlap, and the gaps between them."""
    at, chosen, gaps = 0, [], []
    for start, end in sorted(parts, key=lambda rows: (rows[0], -rows[1])):
        if at <= start < end <= stop:
            gaps += [(at, start)] if at < start else []
            chosen.append((start, end))
            at = end
    return chosen, gaps + ([(at, stop)] if at < stop else [])


def rows_table(frame: pd.DataFrame, arrays: Mapping[str, np.ndarray] | None = None) -> pa.Table:
    """Rows as an Arrow table, with `arrays` (rows, width) as columns; labels of multi-label sets are lists of int64."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if "target" in frame and frame["target"].dtype == object:  # also where no row has a label
        lists = pa.array([np.asarray(labels).tolist() for labels in frame["target"]], pa.list_(pa.int64()))
        table = table.set_column(table.schema.get_field_index("target"), "target", lists)
    for name, array in (arrays or {}).items():
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, array.shape[1]))
    return table
