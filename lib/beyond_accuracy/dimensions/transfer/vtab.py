"""The 19 tasks of the Visual Task Adaptation Benchmark (Zhai et al. 2019) and how probes draw their splits.

Counts, class merges and traps are those of VTAB's own test files (google-research/task_adaptation). Every draw is a
function of a seed and of the images' groups alone, the same for all models. Below, `labels`, `groups` (image ids, or
what several images share; never split) and `fold` (`train`, `validation` or `test`, as published) have a row per image.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.dimensions.transfer.probe import Split

GROUPS = ("natural", "specialized", "structured")
PROTOCOLS = {
    "vtab_full": "all training images; C chosen on validation images, refit on both",
    "vtab_1k": "1,000 images drawn by seed: 800 to train, 200 to choose C, refit on both (VTAB-1k takes the first "
    "1,000 in its own file order, which the public mirrors do not keep)",
}
LEAK = 0.9  # share of test images found among the training images above which train and test are the same set


@dataclass(frozen=True)
class VtabTask:
    """One task: sizes of its published splits, classes as stored and as scored, source and terms."""

    name: str
    group: str
    title: str
    hub: str
    classes: int
    scored_classes: int
    train: int
    validation: int
    test: int
    licence: str
    note: str

    @property
    def validation_share(self) -> float:
        """Share of the published training and validation images that is for validation."""
        return self.validation / (self.train + self.validation)

    def merge(self, labels: ArrayLike) -> NDArray[np.int64]:
        """Stored labels to scored ones: dSprites groups neighbouring values, as VTAB does; others stay.

        Raises:
            InputError: A label is outside the stored classes.

        >>> tasks()["dsprites_orientation"].merge([0, 2, 3, 39]).tolist()
        [0, 0, 1, 15]
        """
        labels = np.asarray(labels, np.int64)
        if labels.size and (labels.min() < 0 or labels.max() >= self.classes):
            raise InputError(f"{self.name}: label {labels.max()} with {self.classes} classes")
        return labels * self.scored_classes // self.classes


@lru_cache
def tasks() -> dict[str, VtabTask]:
    """The 19 tasks by name, in the order natural, specialized, structured."""
    with files("beyond_accuracy").joinpath("assets", "vtab.csv").open() as handle:
        table = pd.read_csv(handle, keep_default_na=False)
    return {row["name"]: VtabTask(**row) for row in table.to_dict("records")}


def hold_out(groups: ArrayLike, share: float = 0.3) -> NDArray[np.str_]:
    """Folds of sets that were published in one piece: a fixed share of groups is `test`, the rest `train`.

    The decision is a hash of the group's name: the same for every model, seed and subset, so a group that is once in
    the test set can never be trained on.
    """
    names, inverse = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    drawn = np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) for name in names])
    return np.where(drawn < int(share * 2**32), "test", "train")[inverse]


def draw_split(
    labels: NDArray, groups: NDArray, fold: NDArray, protocol: str, seed: int, validation_share: float = 0.2
) -> Split:
    """Training, validation and test rows of one probe.

    ``vtab_full`` uses the published validation images with seed 0; other seeds, and sets without any, draw as many from
    training and validation together (a share of both where none are published), stratified by labels where that is
    possible. ``vtab_1k`` draws 800 + 200.

    Raises:
        ValueError: The protocol is unknown, a part would be empty, or groups are in train and test at once.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    train, validation, test = (np.flatnonzero(fold == part) for part in ("train", "validation", "test"))
    pool, rng = np.concatenate([train, validation]), np.random.default_rng([seed, 0x57AB])
    if protocol == "vtab_1k":
        if len(validation) >= 200 and len(train) >= 800:
            train, validation = rng.choice(train, 800, replace=False), rng.choice(validation, 200, replace=False)
        elif len(pool) >= 1000:
            train, validation = _divide(rng.choice(pool, 1000, replace=False), labels, groups, 200, rng)
        else:
            raise ValueError(f"vtab_1k needs 1,000 training images, there are {len(pool)}")
    elif seed != 0 or len(validation) == 0:
        wanted = len(validation) or max(1, round(validation_share * len(pool)))
        train, validation = _divide(pool, labels, groups, wanted, rng)
    return Split(np.sort(train), np.sort(validation), test, groups)


def _divide(rows, labels, groups, wanted, rng):
    """Split rows into training and `wanted` validation rows: whole groups, else stratified, else at random."""
    state = int(rng.integers(2**31))
    if len(np.unique(groups[rows])) < len(rows):
        splitter = GroupShuffleSplit(1, test_size=wanted / len(rows), random_state=state)
        first, second = next(splitter.split(rows, groups=groups[rows]))
        return rows[first], rows[second]
    counts = np.unique(labels[rows], return_counts=True)[1]
    stratify = labels[rows] if counts.min() >= 2 and len(counts) <= min(wanted, len(rows) - wanted) else None
    return train_test_split(rows, test_size=wanted, random_state=state, stratify=stratify)


def draw_few_shot(labels: NDArray, groups: NDArray, fold: NDArray, shots: int, seed: int) -> Split:
    """``shots`` training and min(shots, 4) validation images per class, from different groups; all test images.

    Where images share groups, a third of the groups is for validation, and a class takes at most one image of a group.

    Raises:
        ValueError: A class has too few images.
    """
    rng = np.random.default_rng([seed, shots, 0xFE35])
    pool = rng.permutation(np.flatnonzero(fold != "test"))
    names, member = np.unique(groups[pool], return_inverse=True)
    shared = len(names) < len(pool)
    selecting = rng.permutation(len(names)) < len(names) // 3
    wanted = min(shots, 4)
    train, validation = [], []
    for label in np.unique(labels[pool]):
        mine = np.flatnonzero(labels[pool] == label)
        if shared:
            mine = mine[np.sort(np.unique(member[mine], return_index=True)[1])]  # one image of a group
            chosen, held = mine[~selecting[member[mine]]], mine[selecting[member[mine]]]
        else:
            chosen, held = mine[:shots], mine[shots:]
        if len(chosen) < shots or len(held) < wanted:
            raise ValueError(f"class {label} has {len(mine)} training images, {shots} shots need more")
        train.append(pool[chosen[:shots]])
        validation.append(pool[held[:wanted]])
    return Split(
        np.sort(np.concatenate(train)), np.sort(np.concatenate(validation)), np.flatnonzero(fold == "test"), groups
    )


def has_shots(labels: NDArray, groups: NDArray, fold: NDArray, shots: int, seeds: Iterable[int] = (0,)) -> bool:
    """Whether every class has enough training images for so many shots, whatever the seed."""
    try:
        return all(draw_few_shot(labels, groups, fold, shots, seed) for seed in seeds)
    except ValueError:
        return False


def refuse_leak(features: NDArray, split: Split, name: str, limit: int = 5_000) -> float:
    """Share of (up to ``limit``) test images whose feature vector also occurs, bit for bit, among the training images.

    Ids tell whether the same file is used twice; this finds copies under another name. Some sets hold equal images by
    design (a square looks the same after a quarter turn), so a share alone is no fault; near 1 it is the SUN397 trap.

    Raises:
        ValueError: At least `LEAK` of the test images are training images.
    """
    seen = set()
    for rows in (split.train, split.validation):
        for start in range(0, len(rows), 4096):
            seen.update(_digests(features[rows[start : start + 4096]]))
    test = split.test[:: max(1, len(split.test) // limit)]
    share = float(np.mean([digest in seen for digest in _digests(features[test])]))
    if share >= LEAK:
        raise ValueError(
            f"{name}: {100 * share:.0f} % of the test images are also training images (as in the public SUN397 mirror "
            "that has one split only); get the published train and test splits"
        )
    return share


def _digests(block: NDArray) -> list[bytes]:
    return [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(block)]
