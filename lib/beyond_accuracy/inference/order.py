"""Whether answers and labels count the classes alike: said where predictions enter, not found out by a reader.

A file of predictions in another class order, or labels read by another list, give a number like any other. Orders that
occur in practice are tried; one that brings much accuracy back is the cause.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
        return "", f"{said}, no better than guessing: check weights, labels, class order and preprocessing"
    return "", ""


def diagnose(
    pred: NDArray, target: NDArray, names: Sequence[str], columns: NDArray | None = None, expected: float = np.nan
) -> tuple[bool, str]:
    """Whether answers (n,) say that labels, weights or preprocessing must be wrong, and in words what is likely.

    `names` are those of all classes; `expected` is the published accuracy as a share; NaN = unknown, then only what is
    surely wrong is called wrong.

    >>> target = np.arange(0, 1000, 5)
    >>> diagnose(target, np.arange(200), list(map(str, range(1000))))[1].split(":")[0]
    'labels look like ranks in a sorted list of folders'
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
