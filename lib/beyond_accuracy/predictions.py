"""What a model said about the images of a dataset, and how it is judged: on all classes, some of them, other labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from beyond_accuracy.errors import InputError

TOP = 20
"""How many logits are kept of an image where not all are."""


class Top(NamedTuple):
    """The largest logits of every image, largest first.

    Attributes:
        classes: Class indices, int64 (n, k).
        values: Logits relative to the image's largest, float32 (n, k); the first column is 0.
        probabilities: Softmax over *all* scored classes, float64 (n, k).
    """

    classes: NDArray[np.int64]
    values: NDArray[np.float32]
    probabilities: NDArray[np.float64]


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
        largest: Where only the largest logits were kept (`keep: top20`): their classes, int16 (n, k), and values,
            float16 (n, k), memory-mapped; read them through `top`.
    """

    model: str
    dataset: str
    transform: str
    frame: pd.DataFrame
    logits: np.ndarray | None
    columns: np.ndarray | None
    meta: dict
    largest: tuple[np.ndarray, np.ndarray] | None = None

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

    @cached_property
    def top(self) -> Top:
        """The largest logits of every image, at most `TOP`, from whatever is kept.

        Raises:
            InputError: Neither all logits nor the largest are kept.
        """
        kept = self.largest
        if kept is None:
            if self.logits is None:
                raise InputError(f"{self.dataset}: no logits of {self.model} are kept; {_how_to_keep(self.dataset)}")
            found = largest_logits(self.logits, self.columns, TOP)
            kept = found["top-classes"], found["top-logits"]
        values = np.asarray(kept[1], np.float32)
        probabilities = self.confidence[:, None] * np.exp(values.astype(np.float64))
        return Top(np.asarray(kept[0], np.int64), values, probabilities)

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
        largest = self.largest and (self.largest[0][positions], self.largest[1][positions])
        frame = self.frame.iloc[positions].reset_index(drop=True)
        return replace(self, frame=frame, logits=logits, largest=largest)

    def relabel(self, dataset: str, labels: Mapping[str, Sequence[int]]) -> "Predictions":
        """The same outputs judged by other labels (ReaL); images with an empty or no list are left out.

        Without logits only the predicted class's probability is known: an image whose one label it is has it, others
        have NaN.
        """
        keep = np.array([len(labels.get(image_id, ())) > 0 for image_id in self.ids], dtype=bool)
        kept = self.take(keep)
        targets = [np.asarray(labels[image_id], dtype=np.int64) for image_id in kept.ids]
        frame = kept.frame.assign(target=pd.Series(targets, dtype=object))
        if kept.scored_logits is not None:
            scored = score(kept.scored_logits, targets, self.columns)
            return replace(kept, dataset=dataset, frame=frame.assign(target_probability=scored["target_probability"]))
        only = np.array([len(t) == 1 and t[0] == p for t, p in zip(targets, kept.pred, strict=True)], dtype=bool)
        frame["target_probability"] = np.where(only, kept.confidence, np.nan).astype(np.float32)
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
    _need_logits(predictions, "classes cannot be restricted afterwards")
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


def rescale(predictions: Predictions, factor: float) -> Predictions:
    """The run had the logits been multiplied by a number: a CLIP model under another logit scale.

    Answers stay; confidences change.

    Args:
        predictions: A run with logits.
        factor: New scale divided by the old one.

    Raises:
        ValueError: The run keeps no logits.
    """
    _need_logits(predictions, "it cannot be scaled afterwards")
    logits = np.asarray(predictions.logits, dtype=np.float32) * np.float32(factor)
    scaled = replace(predictions, logits=logits)
    targets = predictions.targets
    return replace(scaled, frame=scaled.frame.assign(**score(scaled.scored_logits, targets, predictions.columns)))


def all_columns(predictions: Predictions) -> Predictions:
    """Re-score a run on a subset of the classes (ImageNet-A, -R) on all classes of the model.

    Raises:
        ValueError: The run keeps no logits.
    """
    _need_logits(predictions, "other classes cannot be scored afterwards")
    whole = replace(predictions, columns=None)
    return replace(whole, frame=whole.frame.assign(**score(whole.scored_logits, whole.targets, None)))


def folder_positions(predictions: Predictions) -> Predictions:
    """The run judged as if a label were the position of its class among the classes that occur.

    What a loader does that numbers the folders of a set with 200 of the 1,000 classes from 0 to 199.
    """
    _, positions = np.unique(predictions.targets, return_inverse=True)
    return replace(predictions, frame=predictions.frame.assign(target=positions.astype(np.int64)))


def _need_logits(predictions: Predictions, why: str) -> None:
    if predictions.logits is None and predictions.largest is not None:
        k = predictions.largest[0].shape[1]
        raise InputError(
            f"{predictions.dataset}: only the {k} largest logits of each image are kept, {why}; "
            f"{_how_to_keep(predictions.dataset)}"
        )
    if predictions.logits is None:
        raise ValueError(f"{predictions.dataset}: logits were not kept, {why}")


def _how_to_keep(dataset: str) -> str:
    return f"set `keep: logits` for datasets.{dataset} in the profile and run again"


def largest_logits(logits: np.ndarray, columns: np.ndarray | None, k: int) -> dict[str, np.ndarray]:
    """The largest logits of each image among the scored columns, largest first, ties to the lowest class.

    Args:
        logits: All logits, float16 (n, classes).
        columns: Class index of each scored column, ascending; None = all.
        k: How many; fewer where there are fewer columns.

    Returns:
        `top-logits`, float16 (n, k), relative to the largest among the scored columns, and `top-classes`, int16 (n, k).
    """
    scored = np.asarray(logits if columns is None else logits[:, columns], dtype=np.float64)
    n, width = scored.shape
    k = min(k, width)
    # A float16 is a multiple of 2^-24 below 2^16: with the column in the low bits every key is a whole number of its
    # own, so that equal logits are cut in class order.
    keys = (scored * 2.0**24).astype(np.int64) * 2**15 - np.arange(width)
    chosen = np.argpartition(keys, width - k, axis=1)[:, width - k :]
    best = np.take_along_axis(chosen, np.argsort(-np.take_along_axis(keys, chosen, axis=1), axis=1), axis=1)
    values = np.take_along_axis(scored, best, axis=1)
    classes = best if columns is None else np.asarray(columns)[best]
    return {"top-logits": (values - values[:, :1]).astype(np.float16), "top-classes": classes.astype(np.int16)}
