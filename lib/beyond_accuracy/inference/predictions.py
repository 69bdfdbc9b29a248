"""What a model said about the images of a dataset, and how it is judged: on all classes, some of them, other labels.

Whether answers and labels count the classes alike is said where predictions enter: in another order they give a number
like any other. Orders that occur in practice are tried; one that brings much accuracy back is the cause.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from beyond_accuracy.base.errors import InputError

FAR_POINTS = 0.06  # a smaller difference may come from preprocessing or precision
FAR_ERRORS = 4.0  # standard errors
EXPLAINS = 0.5  # share of the expected accuracy that a mapping must bring back
ORDERED = 0.75  # rank correlation of labels and answers that cannot be chance
ONE_ANSWER = 0.9
BROKEN = 0.1  # accuracy below which answers are looked at for an order of their own
LEAST = 20  # images below which nothing is said
CHANCE_IMAGES, CHANCE_CLASSES = 200, 10  # from which on chance is told from an answer
CHANCE = 2.0  # times the share that guessing gets right
ALIKE = "the weights were not loaded, or do not fit"
GUESSING = "no better than guessing: check weights, labels, class order and preprocessing"


@dataclass(frozen=True)
class Predictions:
    """What one model said about every image of one dataset under one transform."""

    model: str
    dataset: str
    transform: str  # canonical text, `none` for the plain run
    frame: pd.DataFrame  # rows `id, target, pred, confidence, target_probability`; `target`: int64, or lists
    logits: np.ndarray | None  # float16 (n, all classes), memory-mapped, each row's largest is 0; None = not kept
    columns: np.ndarray | None  # class indices that were scored; None = all
    meta: dict  # what made these numbers: key, weights, preprocessing, device, precision, versions, skipped images
    # What each image is one of (a group, near-duplicates), where these and not images are independent; else None.
    units: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        right = f", top-1 {self.correct.mean():.1%}" if len(self) else ""
        return f"<{self.model} on {self.dataset}, transform {self.transform}: {len(self):,} images{right}>"

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
        logits = None if self.logits is None else self.logits[keep]
        units = None if self.units is None else self.units[keep]
        return replace(self, frame=self.frame.iloc[keep].reset_index(drop=True), logits=logits, units=units)

    def relabel(self, dataset: str, labels: Mapping[str, Sequence[int]]) -> "Predictions":
        """The same outputs judged by other labels (ReaL); images with an empty or no list are left out.

        Without logits an image whose one label was predicted has that probability, others NaN.
        """
        keep = np.array([len(labels.get(image_id, ())) > 0 for image_id in self.ids], dtype=bool)
        kept = self.take(keep)
        targets = [np.asarray(labels[image_id], dtype=np.int64) for image_id in kept.ids]
        frame = kept.frame.assign(target=pd.Series(targets, dtype=object))
        if kept.scored_logits is not None:
            label = score(kept.scored_logits, targets, self.columns)["target_probability"]
        else:
            only = np.array([len(t) == 1 and t[0] == p for t, p in zip(targets, kept.pred, strict=True)], dtype=bool)
            label = np.where(only, kept.confidence, np.nan).astype(np.float32)
        return replace(kept, dataset=dataset, frame=frame.assign(target_probability=label))


def restrict(predictions: Predictions, columns: np.ndarray) -> Predictions:
    """Re-score a single-label run on some classes, only their images: the baseline of ImageNet-A and -R."""
    _logits(predictions, "classes cannot be restricted afterwards")
    columns = np.asarray(columns, dtype=np.int64)
    return _judged(replace(predictions.take(np.isin(predictions.targets, columns)), columns=columns))


def score(logits: np.ndarray, targets, columns: np.ndarray | None) -> dict[str, np.ndarray]:
    """Prediction, confidence and label probability from the logits (n, k) of the scored `columns` (None = all).

    Softmax runs in float32. Ties go to the lowest index, as torch's argmax does.
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
    """The run had the logits been multiplied by `factor` (another CLIP scale): answers stay, confidences change."""
    logits = _logits(predictions, "it cannot be scaled afterwards").astype(np.float32)
    return _judged(replace(predictions, logits=logits * np.float32(factor)))


def all_columns(predictions: Predictions) -> Predictions:
    """Re-score a run on a subset of the classes (ImageNet-A, -R) on all classes of the model."""
    _logits(predictions, "other classes cannot be scored afterwards")
    return _judged(replace(predictions, columns=None))


def folder_positions(predictions: Predictions) -> Predictions:
    """The run judged as by a loader that numbers the folders of a 200-class set from 0 to 199."""
    _, positions = np.unique(predictions.targets, return_inverse=True)
    return replace(predictions, frame=predictions.frame.assign(target=positions.astype(np.int64)))


def _judged(predictions: Predictions) -> Predictions:
    """The run judged anew by its logits."""
    scored = score(predictions.scored_logits, predictions.targets, predictions.columns)
    return replace(predictions, frame=predictions.frame.assign(**scored))


def _logits(predictions: Predictions, why: str) -> np.ndarray:
    if predictions.logits is None:
        raise InputError(
            f"{predictions.dataset}: logits of {predictions.model} were not kept, {why}; set `keep: logits` for "
            f"datasets.{predictions.dataset} in the profile and run again"
        )
    return predictions.logits


# Whether answers and labels count the classes alike -------------------------------------------------------------------


def judge(model: str, dataset: str, pred: NDArray, target: NDArray, names: Sequence[str], columns: NDArray | None):
    """What speaks against the class order of answers (n,) and labels (n,): an error and a remark, both may be empty.

    Sets that are scored on some columns were chosen to be hard: of those, accuracy near chance says nothing.
    """
    accuracy = (pred == target).mean()
    if len(pred) < LEAST or accuracy >= 0.5:
        return "", ""
    said = f"{model} on {dataset}: top-1 {accuracy:.1%} of {len(pred):,}"
    if cause := exchanged(pred, target, names, columns):
        return f"{said}: {cause}; give answers and labels one class order", ""
    enough = len(pred) >= CHANCE_IMAGES and len(names) >= CHANCE_CLASSES and columns is None
    if enough and accuracy <= CHANCE / len(names):
        return "", f"{said}, {GUESSING}"
    return "", ""


def diagnose(
    pred: NDArray, target: NDArray, names: Sequence[str], columns: NDArray | None = None, expected: float = np.nan
) -> tuple[bool, str]:
    """Whether answers (n,) say that labels, weights or preprocessing must be wrong, and in words what is likely.

    `names` are those of all classes; `expected` is the published accuracy as a share; NaN = unknown, then only what is
    surely wrong is called wrong.
    """
    accuracy, known = (pred == target).mean(), not np.isnan(expected)
    margin = max(FAR_POINTS, FAR_ERRORS * np.sqrt(expected * (1 - expected) / len(pred))) if known else 0.0
    if accuracy > expected + margin:
        return False, "higher than published: are these training images?"
    if accuracy >= (expected - margin if known else 0.5):
        return False, "as published" if known else "no published value"
    counts = np.bincount(pred)
    if len(pred) >= LEAST and counts.max() >= ONE_ANSWER * len(pred) and len(np.unique(target)) > 1:
        return True, f"nearly every answer is class {counts.argmax()}: {ALIKE}"
    if mistake := exchanged(pred, target, names, columns, EXPLAINS * (expected if known else 0.5)):
        return True, mistake
    chance = 1 / len(names)
    if not known and columns is None and accuracy <= chance + 2 * np.sqrt(chance / len(pred)):
        return False, f"no published value, and {GUESSING}"
    if not known:  # a weak model is no proof of wrong labels
        return False, "no published value, and no sign of wrong labels"
    return True, (
        "no mapping of the labels explains it: check weights, preprocessing, and whether images were encoded again"
    )


def exchanged(
    pred: NDArray, target: NDArray, names: Sequence[str], columns: NDArray | None = None, gain: float = 0.25
) -> str:
    """How answers (n,) and labels (n,) count the classes differently, in words; empty where nothing says that they do.

    `gain`: how much accuracy a known mapping must bring back.
    """
    from scipy.stats import spearmanr  # here: it takes a second, and a check of what is missing should be quick

    labels, accuracy = np.unique(target), (pred == target).mean()
    for text, mapped in _mappings(target, names, columns).items():
        if (pred == mapped).mean() >= accuracy + gain:
            return text
    if accuracy > BROKEN:  # a weak model's answers are near, too
        return ""
    if len(labels) >= 20 and spearmanr(pred, target).statistic >= ORDERED:
        return (
            "labels look like ranks in a sorted list of folders: their order is right, their values are not "
            f"(labels {target.min()}..{target.max()}, answers {pred.min()}..{pred.max()}). A set with some of the "
            "classes must be mapped by wnid, never by position in its own listing"
        )
    # Whether images of one label mostly get one and the same (other) answer
    answers = [np.bincount(pred[target == label]) for label in labels if (target == label).sum() >= 4]
    different = len({answer.argmax() for answer in answers})
    if len(answers) >= 5 and np.mean([a.max() / a.sum() for a in answers]) >= 0.6 and different >= 0.8 * len(answers):
        return (
            "labels are exchanged consistently, as with another class order (the devkit's ILSVRC2012_ID is not the "
            "order of the sorted wnids)"
        )
    return ""


def _mappings(target: NDArray, names: Sequence[str], columns: NDArray | None) -> dict[str, NDArray]:
    """What label mistakes that occur in practice mean, and the labels (n,) that each would have had."""
    n_classes = len(names)
    text_order = np.array(sorted(range(n_classes), key=str))
    alphabet = np.array(sorted(range(n_classes), key=lambda k: names[k].lower()))
    found = {
        "labels are places in an alphabetical list of the class names": alphabet[target],
        "classes were numbered by an alphabetical list of their names": np.argsort(alphabet)[target],
        "labels are places in a text-sorted listing of numbered folders (0, 1, 10, 100, ...)": text_order[target],
        "labels were renumbered by a text-sorted listing of numbered folders": np.argsort(text_order)[target],
        "labels are one too high: they count from 1": target - 1,
        "labels are one too low": target + 1,
    }
    if columns is not None:
        ranks = np.clip(target, 0, len(columns) - 1)
        rank_of = np.full(n_classes, -1)
        rank_of[columns] = np.arange(len(columns))
        found["labels are ranks in the list of scored classes, taken for indices"] = np.asarray(columns)[ranks]
        found["labels are class indices that were taken for ranks"] = rank_of[target]
    return found
