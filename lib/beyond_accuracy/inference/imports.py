"""Bring your own predictions: a CSV in the ImageNet-X layout becomes a model of the report.

What is stored is joined by id with the dataset it is read for, and judged by the labels that has then.
"""

import gzip
import hashlib
import json
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import atomic_write, content_hash, write_atomically
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.readers.files import VAL_ID
from beyond_accuracy.data.readers.stimuli import cue_id, parse_name
from beyond_accuracy.inference.predictions import judge, score
from beyond_accuracy.inference.store import Entry, Store, rows_table

NO_ANSWER = -1
COLUMNS = ("file_name", "predicted_class", "predicted_probability")
ROUNDING = 1e-5  # that a probability may exceed 1 by, as sums in float32 do
PROBABILITY_TOLERANCE = 0.01  # between the probability column and the softmax of the logit columns
UNREADABLE = (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning, UnicodeError, ValueError)
UNREADABLE += (OverflowError, OSError, EOFError, zlib.error, MemoryError)


def import_predictions(
    path: Path, model: str, dataset: ImageDataset, store: Store, any_accuracy: bool = False
) -> Entry:
    """Check a CSV of predictions (`COLUMNS`, optionally `logit_0` …) and put it into the store.

    Every image must be there once, and the classes be counted as the dataset counts them (`judge`).
    Predictions of the same model and dataset are replaced once the new ones are whole.
    """
    if dataset.classes is None:
        raise InputError(f"{dataset.name}: has no class space; predictions cannot be judged on it")
    n_classes = len(dataset.classes)
    frame = read_csv(path, dataset)
    frame = frame.iloc[pd.Index(frame["id"]).get_indexer(dataset.ids)].reset_index(drop=True)
    logits = _logits(frame, path, n_classes)
    pred = frame["predicted_class"].to_numpy(np.int64)
    confidence = frame["predicted_probability"].to_numpy(np.float64)
    columns = dataset.columns
    if logits is None:
        if columns is not None:
            rule = f" is not one of the {len(columns)} classes {dataset.name} is scored on"
            cure = "; predict among these, or add the logit columns"
            _demand(frame, path, np.isin(pred, columns), "predicted_class", rule + cure, "predicted_class ")
        rows = pd.DataFrame({"pred": pred, "confidence": confidence.astype(np.float32)})
    else:
        scored = score(logits if columns is None else logits[:, columns], dataset.targets, columns)
        _agree(frame, path, logits, pred, confidence, scored if columns is None else None)
        rows = pd.DataFrame(scored)
        shifted = logits - logits.max(axis=1, keepdims=True)
        logits = np.maximum(shifted, np.finfo(np.float16).min).astype(np.float16)
    rows, accuracy = _labelled(rows, None if logits is None else rows["target_probability"], dataset), {}
    if not dataset.multilabel:
        accuracy = {"accuracy": float((rows["pred"] == dataset.targets).mean())}
        said = rows["pred"].to_numpy(), dataset.targets
        wrong, odd = judge(model, dataset.name, *said, dataset.classes.names, columns)
        if wrong or (odd and not any_accuracy):
            raise InputError(f"{path}: {wrong or odd}" + ("" if wrong else "; --any-accuracy imports it all the same"))
    meta = {"model": model, "dataset": dataset.name, "n": len(rows), "file": path.name}
    meta |= {"file_hash": content_hash(path)[:24]} | accuracy | _meant(dataset)

    def write(entry: Entry) -> None:
        if logits is not None:
            atomic_write(entry.folder / "logits.npy", lambda file: np.save(file, logits))
        write_atomically(entry.folder / "meta.json", json.dumps(meta, indent=1, ensure_ascii=False).encode())
        entry.write_rows(rows_table(rows), [] if logits is None else ["logits"])

    return store.replace_imported(model, dataset.name, write)


def outdated(entry: Entry, dataset: ImageDataset) -> list[str]:
    """What a dataset is by now that it was not when predictions were imported for it: classes, pictures."""
    then, now = entry.meta, _meant(dataset)
    if not (then.get("pictures") and now["pictures"]):
        now["pictures"] = then.get("pictures")  # one of the two times only labels were here
    return [what for what, found in now.items() if then.get(what) != found]


def joined(entry: Entry, dataset: ImageDataset) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Rows and logits of an import for the images of a dataset, in its order, judged by the labels it has now."""
    frame, logits = entry.frame(), entry.array("logits")
    again = f"; import the predictions of {entry.meta['model']} on {dataset.name} again"
    if wrong := outdated(entry, dataset):
        raise InputError(f"{dataset.name}: its {wrong[0]} are not those that predictions were imported for{again}")
    order = pd.Index(frame["id"]).get_indexer(dataset.ids)
    if (order < 0).any():
        raise InputError(
            f"{dataset.name}: {(order < 0).sum()} of its {len(order)} images, such as "
            f"{dataset.ids[order < 0][0]!r}, are not among those that predictions were imported for{again}"
        )
    if not np.array_equal(order, np.arange(len(frame))):
        frame, logits = frame.iloc[order].reset_index(drop=True), None if logits is None else logits[order]
    before, after, columns = frame["target"], dataset.targets, dataset.columns
    if all(map(np.array_equal, before, after)) if dataset.multilabel else np.array_equal(before, after):
        return frame, logits
    label = None
    if logits is not None:
        label = score(logits if columns is None else logits[:, columns], after, columns)["target_probability"]
    return _labelled(frame, label, dataset), logits


def _meant(dataset: ImageDataset) -> dict[str, str]:
    """Fingerprints of what the predictions of a file mean: `classes` in order, those scored, and the pictures.

    ILSVRC's own names mean one image each, in whatever file it lies.
    """
    texts = {"classes": dataset.classes.ids, "scored classes": [] if dataset.columns is None else dataset.columns}
    found = {what: hashlib.sha256("\n".join(map(str, each)).encode()).hexdigest()[:24] for what, each in texts.items()}
    bare = dataset.load is None or all(map(VAL_ID.fullmatch, dataset.ids))
    return {**found, "pictures": "" if bare else dataset.content}


def _labelled(rows: pd.DataFrame, label: np.ndarray | None, dataset: ImageDataset) -> pd.DataFrame:
    """Rows `pred, confidence` with ids and labels of the dataset, and the label's probability.

    Without logits (`label` None) only the predicted class's is known: that of the label where they agree, else NaN.
    """
    pred, targets = rows["pred"].to_numpy(), dataset.targets
    if label is None:
        hits = [p in t for p, t in zip(pred, targets, strict=True)] if dataset.multilabel else pred == targets
        label = np.where(np.array(hits, bool), rows["confidence"], np.nan).astype(np.float32)
    frame = pd.DataFrame({"id": np.asarray(dataset.ids, dtype=str)})
    frame["target"] = pd.Series(targets, dtype=object) if dataset.multilabel else targets
    return frame.assign(pred=pred, confidence=rows["confidence"].to_numpy(), target_probability=np.asarray(label))


def read_csv(path: Path, dataset: ImageDataset) -> pd.DataFrame:
    """Read and check the table; adds `id`, and `row`, the line of the file (see `import_predictions`)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a CSV with the columns {', '.join(COLUMNS)}")
    try:
        with warnings.catch_warnings():
            # More fields in a row than in the header: pandas would shift the columns, or cut the row off.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            how = {"compression": "gzip" if path.suffix == ".gz" else None, "dtype": {"file_name": str}}
            how |= _dialect(path)
            frame = pd.read_csv(path, keep_default_na=False, index_col=False, low_memory=False, **how)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a CSV table ({reason}); expected the columns {', '.join(COLUMNS)}") from error
    if "object_response" in frame:
        frame = _decisions(frame, dataset)
    for column in COLUMNS:
        if column not in frame:
            have = ", ".join(map(str, frame.columns[:6]))
            raise InputError(f"{path}: column {column!r} is missing (it has {have}); expected {', '.join(COLUMNS)}")
        if f"{column}.1" in frame:  # what pandas calls a repeated column
            raise InputError(f"{path}: column {column!r} occurs twice")
    logits = [name for name in frame.columns if str(name).startswith("logit_")]
    frame = frame[[*COLUMNS, *logits]].copy()
    names, known = frame["file_name"].astype(str), pd.Index(dataset.ids)
    # an apostrophe that `csv_text` puts before a formula
    names = names.where(names.isin(known), names.str.replace(r"^'(?=[=+@-])", "", regex=True))
    bare = names.str.replace(r"\.[A-Za-z]+$", "", regex=True)
    paths = [form.str.replace("\\", "/").str.split("/") for form in (bare, names)]  # some sets' ids keep the suffix
    alone = pd.Series(known, known.str.split("/").str[-1])  # a file's own name -> the one image called that
    alone = alone[~alone.index.duplicated(keep=False)]
    forms = [form.map(alone) for form in (bare, names)]
    forms += [path.str[-k:].str.join("/") for k in range(1, known.str.count("/").max() + 2) for path in paths]
    frame["id"] = names.str.extract(f"({VAL_ID.pattern})")[0].fillna(bare)
    for form in (*forms, bare, names):  # what stands in the file, as whole as it does, comes first
        frame["id"] = form.where(form.isin(known), frame["id"])
    frame["row"] = np.arange(len(frame)) + 2  # the header is line 1
    _one_per_image(frame, path, dataset)
    _in_range(frame, path, dataset.classes)
    return frame


def _decisions(frame: pd.DataFrame, dataset: ImageDataset) -> pd.DataFrame:
    """Trials of model-vs-human's raw data (`imagename`, `object_response`) as `COLUMNS`; no answer (`na`) is -1."""
    ids = [cue_id(parse_name(name)) for name in frame["imagename"]]
    answers = frame["object_response"].map(dataset.classes.index | {"na": NO_ANSWER})
    found = pd.DataFrame({"file_name": ids, "predicted_class": answers, "predicted_probability": np.nan})
    found.attrs["decisions"] = True
    return found


def _dialect(path: Path) -> dict[str, str]:
    """Encoding and separator of a table, from its first line: spreadsheets write UTF-16, semicolons and tabs, too."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        head = file.readline(2**20)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    line = head[: len(head) // 2 * 2].decode(encoding, "replace")
    return {"encoding": encoding, "sep": max(",;\t", key=line.count)}


def _demand(frame: pd.DataFrame, path: Path, good, column: str, after: str, before: str = "") -> None:
    """The value of `column` in the first row that is not good, and what is wrong with it, become the message."""
    if len(wrong := np.flatnonzero(~np.asarray(good))):
        value = frame[column].iloc[wrong[0]]
        value = value if isinstance(value, str) else np.asarray(value).item()
        count = f"; {len(wrong)} such rows" if len(wrong) > 1 else ""
        raise InputError(f"{path}: row {frame['row'][wrong[0]]}: {before}{value!r}{after}{count}")


def _one_per_image(frame: pd.DataFrame, path: Path, dataset: ImageDataset) -> None:
    known = pd.Index(dataset.ids)
    _demand(frame, path, ~frame["id"].duplicated(), "file_name", " occurs a second time; one row per image")
    strange = f" is not an image of {dataset.name} (expected names like {known[0]})"
    _demand(frame, path, frame["id"].isin(known), "file_name", strange)
    if len(lacking := known.difference(frame["id"])):
        raise InputError(
            f"{path}: {len(lacking)} of the {len(known)} images of {dataset.name} have no row, for example "
            f"{lacking[0]}; every image is needed, a subset would not be comparable"
        )


def _in_range(frame: pd.DataFrame, path: Path, space: ClassSpace) -> None:
    classes, probability = _numbers(frame["predicted_class"]), _numbers(frame["predicted_probability"])
    counts = Counter(space.names)
    called = {name: k for k, name in enumerate(space.names) if counts[name] == 1} | space.index
    classes = np.where(np.isnan(classes), frame["predicted_class"].map(called).astype(float), classes)
    n_classes = len(space)
    decided = frame.attrs.get("decisions", False)  # without any confidence
    good = (classes >= (NO_ANSWER if decided else 0)) & (classes < n_classes) & (classes == np.floor(classes))
    rule = f", expected a whole number from 0 to {n_classes - 1}, or the id or name of a class"
    _demand(frame, path, good, "predicted_class", rule, "predicted_class is ")
    probability = np.where((probability > 1) & (probability <= 1 + ROUNDING), 1.0, probability)
    good = decided | ((probability >= 0) & (probability <= 1))
    _demand(frame, path, good, "predicted_probability", ", expected a number from 0 to 1", "predicted_probability is ")
    frame["predicted_class"], frame["predicted_probability"] = classes, probability


def _numbers(column: pd.Series) -> np.ndarray:
    """Values as float64; NaN where one is not a number (True and False are not)."""
    if column.dtype == bool:
        return np.full(len(column), np.nan)
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _logits(frame: pd.DataFrame, path: Path, n_classes: int) -> np.ndarray | None:
    present = [name for name in frame.columns if name.startswith("logit_")]
    if not present:
        return None
    names = [f"logit_{k}" for k in range(n_classes)]
    missing = [f"{name} is missing" for name in names if name not in frame]
    for wrong in [*missing, *(f"{name} is too many" for name in sorted(set(present) - set(names)))][:1]:
        raise InputError(f"{path}: {wrong}; expected logit_0 … logit_{n_classes - 1}, or none of them")
    logits = np.stack([_numbers(frame[name]) for name in names], axis=1).astype(np.float32)
    for wrong in np.flatnonzero(~np.isfinite(logits).all(axis=1))[:1]:
        raise InputError(f"{path}: row {frame['row'][wrong]}: a logit is not a finite number")
    return logits


def _agree(frame, path: Path, logits: np.ndarray, pred, confidence, scored: dict | None) -> None:
    """The three columns and the logits must tell one story; else a column is out of order, or a scale is missing."""
    if len(wrong := np.flatnonzero(logits[np.arange(len(logits)), pred] < logits.max(axis=1))):
        raise InputError(
            f"{path}: row {frame['row'][wrong[0]]}: predicted_class is not the largest logit ({len(wrong)} such rows); "
            "the columns logit_0… must be in class order"
        )
    # On a subset of classes either probability is defensible, so only whole class spaces are compared.
    off = [] if scored is None else np.flatnonzero(np.abs(scored["confidence"] - confidence) > PROBABILITY_TOLERANCE)
    if len(off):
        raise InputError(
            f"{path}: row {frame['row'][off[0]]}: predicted_probability is {confidence[off[0]]:.4f}, the softmax of "
            f"the logits gives {scored['confidence'][off[0]]:.4f} ({len(off)} such rows); write logits before any "
            "softmax, times the logit scale"
        )
