"""What a model's answers say about a dataset's labels: which mapping mistake would explain a low accuracy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

FAR_POINTS = 0.06  # a smaller difference may come from preprocessing or precision
FAR_ERRORS = 4.0  # standard errors
EXPLAINS = 0.5  # share of the expected accuracy that a mapping must bring back
ORDERED = 0.75  # rank correlation of labels and answers that cannot be chance
ONE_ANSWER = 0.9


@dataclass(frozen=True)
class Diagnosis:
    """How a model's accuracy on a sample compares with what it should be."""

    accuracy: float  # share of right answers
    n: int  # Images
    expected: float  # published accuracy as a share; NaN where none is known
    wrong: bool  # whether labels, weights or preprocessing must be wrong
    text: str  # what is likely wrong, or that nothing is


def diagnose(
    pred: ArrayLike, target: ArrayLike, n_classes: int, columns: NDArray | None = None, expected: float = float("nan")
) -> Diagnosis:
    """Compare answers with labels, and name the mapping mistake that would explain a low accuracy.

    Args:
        pred: (n,) answers as class indices.
        target: (n,) labels as class indices.
        n_classes: Size of the class space.
        columns: Scored class indices (ImageNet-A, -R), or None.
        expected: Published accuracy as a share; NaN = unknown, then only what is surely wrong is called wrong.

    >>> target = np.arange(0, 1000, 5)
    >>> diagnose(target, np.arange(200), 1000).text.split(":")[0]
    'labels look like ranks in a sorted list of folders'
    """
    pred, target = np.asarray(pred, dtype=np.int64), np.asarray(target, dtype=np.int64)
    n, accuracy = len(pred), float((np.asarray(pred) == target).mean())
    if np.isnan(expected):
        far, high = accuracy < 0.5, False
    else:
        margin = max(FAR_POINTS, FAR_ERRORS * np.sqrt(expected * (1 - expected) / n))
        far, high = accuracy < expected - margin, accuracy > expected + margin
    if not far:
        text = "higher than published: are these training images?" if high else "as published"
        text = "no published value" if np.isnan(expected) else text
        return Diagnosis(accuracy, n, expected, False, text)
    mistake = _mistake(pred, target, n_classes, columns, accuracy, expected)
    if not mistake and np.isnan(expected):  # a weak model is no proof of wrong labels
        return Diagnosis(accuracy, n, expected, False, "no published value, and no sign of wrong labels")
    text = mistake or (
        "no mapping of the labels explains it: check the weights, the preprocessing, and whether the images were "
        "resized or encoded again"
    )
    return Diagnosis(accuracy, n, expected, True, text)


def _mistake(pred, target, n_classes: int, columns: NDArray | None, accuracy: float, expected: float) -> str:
    if len(pred) >= 20 and np.bincount(pred).max() >= ONE_ANSWER * len(pred) and len(np.unique(target)) > 1:
        return f"nearly every answer is class {np.bincount(pred).argmax()}: the weights were not loaded, or do not fit"
    needed = accuracy + EXPLAINS * (expected if not np.isnan(expected) else 0.5)
    for mapped, text in _mappings(target, n_classes, columns):
        if (pred == mapped).mean() >= needed:
            return text
    if len(np.unique(target)) >= 20 and spearmanr(pred, target).statistic >= ORDERED:
        return (
            "labels look like ranks in a sorted list of folders: their order is right, their values are not "
            f"(labels {target.min()}..{target.max()}, answers {pred.min()}..{pred.max()}). A set with some of the "
            "classes must be mapped by wnid, never by position in its own listing"
        )
    if _consistent(pred, target):
        return (
            "labels are exchanged consistently, as with another class order (the devkit's ILSVRC2012_ID is not the "
            "order of the sorted wnids)"
        )
    return ""


def _mappings(target: NDArray, n_classes: int, columns: NDArray | None) -> list[tuple[NDArray, str]]:
    """Label mappings that occur in practice, with what each means."""
    text_order = np.array(sorted(range(n_classes), key=str))
    found = [
        (text_order[target], "labels are places in a text-sorted listing of numbered folders (0, 1, 10, 100, ...)"),
        (np.argsort(text_order)[target], "labels were renumbered by a text-sorted listing of numbered folders"),
        (target - 1, "labels are one too high: they count from 1"),
        (target + 1, "labels are one too low"),
    ]
    if columns is not None:
        ranks = np.clip(target, 0, len(columns) - 1)
        found.append((np.asarray(columns)[ranks], "labels are ranks in the list of scored classes, taken for indices"))
        rank_of = np.full(n_classes, -1)
        rank_of[np.asarray(columns)] = np.arange(len(columns))
        found.append((rank_of[target], "labels are class indices that were taken for ranks"))
    return found


def _consistent(pred: NDArray, target: NDArray) -> bool:
    """Whether images of one label mostly get one and the same (other) answer."""
    groups = [pred[target == label] for label in np.unique(target)]
    groups = [group for group in groups if len(group) >= 4]
    if len(groups) < 5:
        return False
    shares = [np.bincount(group).max() / len(group) for group in groups]
    answers = {int(np.bincount(group).argmax()) for group in groups}
    return float(np.mean(shares)) >= 0.6 and len(answers) >= 0.8 * len(groups)
