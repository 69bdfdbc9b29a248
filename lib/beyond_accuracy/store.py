"""Predictions and features on disk: content-addressed, atomic, resumable.

Layout under the cache folder, one folder per key:

    predictions/<key>/meta.json              what the key stands for
    predictions/<key>/part-00012.parquet     images 12 * chunk … 13 * chunk - 1, while the run is under way
    predictions/<key>/predictions.parquet    all rows once complete, with logits.npy and features-<layer>.npy beside it

A part is written to a temporary name and renamed, so it is there whole or not at all. `predictions.parquet` is renamed
last when a run completes: its presence means complete.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from scipy.special import softmax

from beyond_accuracy.errors import InputError
from beyond_accuracy.paths import cache_dir

FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """What one model said about every image of one dataset under one transform.

    Attributes:
        model: Model name.
        dataset: Dataset name.
        transform: Canonical transform text, `none` for the plain run.
        frame: Rows `id, target, pred, confidence, target_probability`; `target` is int64, or a list for multi-label.
        logits: float16 array (n, classes of the model), memory-mapped, each row shifted so that its largest is 0; or
            None where they were not kept.
        columns: Class indices that were scored; None = all.
        meta: What made these numbers: key, weights, preprocessing, device, precision, versions, skipped images.
    """

    model: str
    dataset: str
    transform: str
    frame: pd.DataFrame
    logits: np.ndarray | None
    columns: np.ndarray | None
    meta: dict

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def ids(self) -> np.ndarray:
        """Image ids, shape (n,)."""
        return self.frame["id"].to_numpy()

    @property
    def multilabel(self) -> bool:
        """Whether images can have several right answers."""
        return self.frame["target"].dtype == object

    @property
    def targets(self) -> np.ndarray | list[np.ndarray]:
        """int64 labels (n,), or a list of int64 arrays."""
        values = self.frame["target"]
        return [np.asarray(v, dtype=np.int64) for v in values] if self.multilabel else values.to_numpy(np.int64)

    @property
    def pred(self) -> np.ndarray:
        """Predicted class index, int64 (n,)."""
        return self.frame["pred"].to_numpy(np.int64)

    @property
    def confidence(self) -> np.ndarray:
        """Largest probability among the scored columns, float64 (n,)."""
        return self.frame["confidence"].to_numpy(np.float64)

    @property
    def target_probability(self) -> np.ndarray:
        """Probability of the label (sum over labels of a multi-label image), float64 (n,); NaN where unknown."""
        return self.frame["target_probability"].to_numpy(np.float64)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the prediction is (one of) the label(s), bool (n,)."""
        if self.multilabel:
            return np.array([p in t for p, t in zip(self.pred, self.targets, strict=True)], dtype=bool)
        return self.pred == self.targets

    @cached_property
    def scored_logits(self) -> np.ndarray | None:
        """Logits of the scored columns, float32 (n, k)."""
        if self.logits is None:
            return None
        chosen = self.logits if self.columns is None else self.logits[:, self.columns]
        return np.asarray(chosen, dtype=np.float32)

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """Softmax over the scored columns, float32 (n, k); None without logits."""
        return None if self.scored_logits is None else softmax(self.scored_logits, axis=1)

    @property
    def target_positions(self) -> np.ndarray:
        """Label as a position among the scored columns, int64 (n,). Single-label sets only."""
        if self.multilabel:
            raise ValueError(f"{self.dataset}: images have several labels, there is no single target position")
        return self.targets if self.columns is None else np.searchsorted(self.columns, self.targets)

    def take(self, keep: np.ndarray) -> "Predictions":
        """Rows at positions or under a boolean mask."""
        positions = np.flatnonzero(keep) if np.asarray(keep).dtype == bool else np.asarray(keep)
        logits = None if self.logits is None else self.logits[positions]
        return replace(self, frame=self.frame.iloc[positions].reset_index(drop=True), logits=logits)

    def relabel(self, dataset: str, labels: dict[str, list[int]]) -> "Predictions":
        """The same outputs judged by other labels (ReaL); images with an empty or no list are left out."""
        keep = np.array([bool(labels.get(image_id)) for image_id in self.ids], dtype=bool)
        kept = self.take(keep)
        targets = [np.asarray(labels[image_id], dtype=np.int64) for image_id in kept.ids]
        frame = kept.frame.assign(target=pd.Series(targets, dtype=object))
        if kept.probabilities is not None:
            where = targets if self.columns is None else [np.searchsorted(self.columns, t) for t in targets]
            frame["target_probability"] = [float(p[t].sum()) for p, t in zip(kept.probabilities, where, strict=True)]
        else:
            frame["target_probability"] = np.nan
        return replace(kept, dataset=dataset, frame=frame)


def restrict(predictions: Predictions, columns: np.ndarray) -> Predictions:
    """Re-score a run on a subset of classes: only their images, only their columns.

    This is the same-classes clean baseline that stands beside ImageNet-A and -R.

    Args:
        predictions: A single-label run with logits.
        columns: Ascending class indices.

    Raises:
        ValueError: The run keeps no logits.
    """
    if predictions.logits is None:
        raise ValueError(f"{predictions.dataset}: logits were not kept, classes cannot be restricted afterwards")
    columns = np.asarray(columns, dtype=np.int64)
    kept = replace(predictions.take(np.isin(predictions.targets, columns)), columns=columns)
    scored = score(kept.scored_logits, kept.targets, columns)
    return replace(kept, frame=kept.frame.assign(**scored))


def score(logits: np.ndarray, targets, columns: np.ndarray | None) -> dict[str, np.ndarray]:
    """Prediction, confidence and label probability from the logits of the scored columns.

    Softmax runs in float32. Ties go to the lowest index, as torch's argmax does.

    Args:
        logits: Scored columns, shape (n, k).
        targets: int labels (n,) in the full class space, or a list of int arrays.
        columns: Class index of each scored column, or None for 0..k-1.
    """
    probabilities = softmax(np.asarray(logits, dtype=np.float32), axis=1)
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(best))
    if isinstance(targets, list):
        where = [t if columns is None else np.searchsorted(columns, t[np.isin(t, columns)]) for t in targets]
        label = np.array([p[t].sum() for p, t in zip(probabilities, where, strict=True)], dtype=np.float32)
    else:
        position = targets if columns is None else np.searchsorted(columns, targets)
        label = probabilities[rows, position]
    return {
        "pred": (best if columns is None else columns[best]).astype(np.int64),
        "confidence": probabilities[rows, best],
        "target_probability": label.astype(np.float32),
    }


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
    def complete(self) -> bool:
        """Whether every image is there."""
        return (self.folder / "predictions.parquet").is_file()

    def part(self, number: int) -> Path:
        """Path of one part."""
        return self.folder / f"part-{number:05d}.parquet"

    def missing_parts(self, n_parts: int) -> list[int]:
        """Numbers of the parts that still have to be computed."""
        return [] if self.complete else [k for k in range(n_parts) if not self.part(k).is_file()]

    def lock(self) -> FileLock:
        """Held while parts are merged, so that two runs on one store do not disturb each other."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def start(self) -> None:
        """Create the folder and write down what it stands for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "meta.json").is_file():
            text = json.dumps(self.meta, indent=1, sort_keys=True, default=str)
            atomic_write(self.folder / "meta.json", lambda path: path.write_text(text, encoding="utf-8"))

    def write_part(self, number: int, frame: pd.DataFrame, arrays: dict[str, np.ndarray]) -> None:
        """Write one part whole.

        Args:
            number: Part number.
            frame: Rows in dataset order; `id`, and where the set has labels `target`, `pred`, …
            arrays: float16 arrays (rows, width) by name: `logits`, `features-<layer>`.
        """
        table = pa.Table.from_pandas(frame, preserve_index=False)
        for name, array in arrays.items():
            flat = pa.array(np.ascontiguousarray(array, dtype=np.float16).reshape(-1))
            table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, array.shape[1]))
        atomic_write(self.part(number), lambda path: pq.write_table(table, path, compression="zstd"))

    def finish(self, n_parts: int) -> None:
        """Merge the parts; the merged table is renamed into place last, then the parts go."""
        with self.lock():
            if self.complete:
                self._remove_parts(n_parts)
                return
            tables = [self._read(self.part(k)) for k in range(n_parts)]
            table = pa.concat_tables(tables)
            wide = [f.name for f in table.schema if pa.types.is_fixed_size_list(f.type)]
            for name in wide:
                width = table.schema.field(name).type.list_size
                values = np.concatenate([_floats(chunk) for chunk in table[name].chunks]).reshape(-1, width)
                atomic_write(self.folder / f"{name}.npy", lambda path, v=values: _save_npy(path, v))
            narrow = table.drop_columns(wide)
            atomic_write(self.folder / "predictions.parquet", lambda path: pq.write_table(narrow, path))
            self._remove_parts(n_parts)

    def frame(self) -> pd.DataFrame:
        """The merged rows."""
        return self._read(self.folder / "predictions.parquet").to_pandas()

    def array(self, name: str) -> np.ndarray | None:
        """A memory-mapped float16 array (`logits`, `features-<layer>`), or None where it was not kept."""
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            return None
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise self._damaged(path, error) from error

    def layers(self) -> list[str]:
        """Names of the stored feature layers."""
        return sorted(p.stem.removeprefix("features-") for p in self.folder.glob("features-*.npy"))

    def _remove_parts(self, n_parts: int) -> None:
        for number in range(n_parts):
            self.part(number).unlink(missing_ok=True)

    def _read(self, path: Path) -> pa.Table:
        try:
            return pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, error: Exception) -> InputError:
        return InputError(
            f"stored results of {self.meta.get('model')} on {self.meta.get('dataset')} are damaged: {path} ({error}). "
            "Delete that file and run again; only its images are computed anew"
        )


class Store:
    """The cache folder."""

    def __init__(self, root: Path | None = None):
        self.root = Path(root) if root is not None else cache_dir()

    def entry(self, parts: dict, meta: dict) -> Entry:
        """The entry for a key.

        Args:
            parts: What the key is made of (weights, preprocessing, data, transform, prompts, precision, …).
            meta: Further information kept beside it (names, device, versions); not part of the key.
        """
        key = make_key(parts)
        return Entry(self.root / "predictions" / key, {**meta, "key": key, "key_parts": parts})

    def imported(self, model: str, dataset: str) -> Entry:
        """The entry that holds imported predictions of one model on one dataset."""
        for name in (model, dataset):
            if not name or "/" in name or "\\" in name or name.startswith("."):
                raise InputError(f"{name!r} cannot be used as a name: no slashes, no leading dot")
        folder = self.root / "imported" / model / dataset
        meta_file = folder / "meta.json"
        meta = json.loads(meta_file.read_text(encoding="utf-8")) if meta_file.is_file() else {}
        return Entry(folder, {"model": model, "dataset": dataset, **meta})

    def imported_models(self) -> list[str]:
        """Names of all models with imported predictions."""
        root = self.root / "imported"
        return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write through a temporary file in the same folder, then rename: never a half-written file under `path`.

    Raises:
        InputError: The folder cannot be written (full disk, read-only); what was there before stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; free some space or set BEYOND_ACCURACY_CACHE"
        ) from error
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; free some space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def _floats(chunk: pa.FixedSizeListArray) -> np.ndarray:
    return chunk.flatten().to_numpy(zero_copy_only=False)


def _save_npy(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as handle:
        np.save(handle, values, allow_pickle=False)
