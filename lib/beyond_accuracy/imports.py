"""Bring your own predictions: a CSV in the ImageNet-X layout becomes a model of the report."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.datasets import ImageDataset
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.readers import VAL_ID
from beyond_accuracy.store import Entry, Store, atomic_write, score

COLUMNS = ("file_name", "predicted_class", "predicted_probability")


def import_predictions(path: Path, model: str, dataset: ImageDataset, store: Store) -> Entry:
    """Check a CSV of predictions and put it into the store.

    Args:
        path: CSV with `file_name,predicted_class,predicted_probability` and optionally `logit_0` … `logit_{k-1}`.
        model: Name the predictions get in the report.
        dataset: The images they are about; every image must be there once.
        store: Where they go. Predictions of the same model and dataset are replaced, others are untouched.

    Raises:
        DataMissing: No such file.
        InputError: Anything malformed, with the row.
    """
    frame = read_csv(path, dataset)
    n_classes = len(dataset.classes)
    logits = _logits(frame, path, n_classes)
    order = pd.Index(dataset.ids)
    frame = frame.set_index("id").loc[order]
    targets = dataset.targets
    rows = pd.DataFrame({"id": np.asarray(dataset.ids, dtype=str)})
    rows["target"] = pd.Series(targets, dtype=object) if dataset.multilabel else targets
    rows["pred"] = frame["predicted_class"].to_numpy(np.int64)
    rows["confidence"] = frame["predicted_probability"].to_numpy(np.float32)
    # Only the predicted class's probability is known; the label's is known where they agree.
    hit = np.array([p in np.atleast_1d(t) for p, t in zip(rows["pred"], targets, strict=True)])
    rows["target_probability"] = np.where(hit, rows["confidence"], np.nan).astype(np.float32)
    if logits is not None:
        logits = logits[pd.Index(frame["row"]).to_numpy(np.int64)]
        scored = score(logits if dataset.columns is None else logits[:, dataset.columns], targets, dataset.columns)
        disagree = np.flatnonzero(scored["pred"] != rows["pred"].to_numpy())
        if len(disagree):
            raise InputError(
                f"{path}: predicted_class of {rows['id'][disagree[0]]} is not the largest logit "
                f"({len(disagree)} such rows); the columns logit_0… must be in class order"
            )
        rows = rows.assign(**scored)
        logits = (logits - logits.max(axis=1, keepdims=True)).astype(np.float16)
    entry = store.imported(model, dataset.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    meta = {"model": model, "dataset": dataset.name, "file": path.name, "file_hash": digest, "n": len(rows)}
    with entry.lock():
        (entry.folder / "logits.npy").unlink(missing_ok=True)
        if logits is not None:
            atomic_write(entry.folder / "logits.npy", lambda p: _save(p, logits))
        atomic_write(entry.folder / "meta.json", lambda p: p.write_text(json.dumps(meta, indent=1), encoding="utf-8"))
        atomic_write(entry.folder / "predictions.parquet", lambda p: rows.to_parquet(p))
    return store.imported(model, dataset.name)


def read_csv(path: Path, dataset: ImageDataset) -> pd.DataFrame:
    """Read and check the table; adds `id` and `row` (see `import_predictions`)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a CSV with the columns {', '.join(COLUMNS)}")
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not a CSV table ({error}); expected the columns {', '.join(COLUMNS)}") from error
    for column in COLUMNS:
        if column not in frame:
            have = ", ".join(map(str, frame.columns[:6]))
            raise InputError(f"{path}: column {column!r} is missing (it has {have}); expected {', '.join(COLUMNS)}")
    names = frame["file_name"].astype(str)
    frame["id"] = names.str.extract(f"({VAL_ID.pattern})")[0].fillna(names.str.replace(r"\.[A-Za-z]+$", "", regex=True))
    frame["row"] = np.arange(len(frame))
    _one_per_image(frame, path, dataset)
    _in_range(frame, path, len(dataset.classes))
    return frame


def _one_per_image(frame: pd.DataFrame, path: Path, dataset: ImageDataset) -> None:
    repeated = frame["id"].duplicated()
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise InputError(f"{path}: row {row + 2}: {frame['file_name'][row]!r} occurs a second time; one row per image")
    known = pd.Index(dataset.ids)
    strange = ~frame["id"].isin(known)
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise InputError(
            f"{path}: row {row + 2}: {frame['file_name'][row]!r} is not an image of {dataset.name} "
            f"(expected names like {known[0]}); {int(strange.sum())} such rows"
        )
    lacking = known.difference(frame["id"])
    if len(lacking):
        raise InputError(
            f"{path}: {len(lacking)} of the {len(known)} images of {dataset.name} have no row, for example "
            f"{lacking[0]}; every image is needed, a subset would not be comparable"
        )


def _in_range(frame: pd.DataFrame, path: Path, n_classes: int) -> None:
    classes = pd.to_numeric(frame["predicted_class"], errors="coerce")
    wrong = ~((classes >= 0) & (classes < n_classes) & (classes == classes.round()))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{path}: row {row + 2}: predicted_class is {frame['predicted_class'][row]!r}, expected a whole number "
            f"from 0 to {n_classes - 1}"
        )
    probability = pd.to_numeric(frame["predicted_probability"], errors="coerce")
    wrong = ~((probability >= 0) & (probability <= 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{path}: row {row + 2}: predicted_probability is {frame['predicted_probability'][row]!r}, expected a "
            "number from 0 to 1"
        )
    frame["predicted_class"], frame["predicted_probability"] = classes, probability


def _logits(frame: pd.DataFrame, path: Path, n_classes: int) -> np.ndarray | None:
    names = [f"logit_{k}" for k in range(n_classes)]
    present = [name for name in frame.columns if str(name).startswith("logit_")]
    if not present:
        return None
    missing = [name for name in names if name not in frame]
    if missing or len(present) != n_classes:
        what = f"{missing[0]} is missing" if missing else f"{len(present)} logit columns"
        raise InputError(f"{path}: {what}; expected logit_0 … logit_{n_classes - 1}, or none of them")
    logits = frame[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    wrong = ~np.isfinite(logits).all(axis=1)
    if wrong.any():
        raise InputError(f"{path}: row {int(np.flatnonzero(wrong)[0]) + 2}: a logit is not a finite number")
    return logits


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as handle:
        np.save(handle, values, allow_pickle=False)


def require_imported(store: Store, models: list[str], dataset: str) -> None:
    """Check that models were imported.

    Raises:
        DataMissing: One was not; names the command.
    """
    for model in models:
        if not store.imported(model, dataset).complete:
            raise DataMissing(
                f"no predictions of {model} on {dataset}: beyond-accuracy import-predictions FILE.csv --model {model} "
                f"--dataset {dataset}"
            )
