"""Which pairs of models are worth comparing: those that differ in one thing."""

from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd


class Described(Protocol):
    """What a contrast is derived from: a profile's description of one model."""

    name: str
    family: str
    paradigm: str


class Contrast(NamedTuple):
    """Two models and what tells them apart: `architecture`, `objective`, or `` for neither alone."""

    a: str
    b: str
    what: str


def contrasts(specs: Iterable[Described]) -> list[Contrast]:
    """Pairs of models with the same objective or the same architecture, in profile order.

    Where no pair is like that (imported models of unknown kind), all pairs.
    """
    pairs = [Contrast(a.name, b.name, _difference(a, b)) for a, b in combinations(specs, 2)]
    return [pair for pair in pairs if pair.what] or pairs


def lead_pairs(specs: Iterable[Described]) -> list[tuple[str, str]]:
    """Pairs of models to put against each other: transformer left, convnet right, within one paradigm.

    Where a paradigm does not hold exactly one of each, its models are paired in profile order.
    """
    pairs, specs = [], list(specs)
    for paradigm in dict.fromkeys(spec.paradigm for spec in specs):
        group = [spec for spec in specs if spec.paradigm == paradigm]
        families = {spec.family: spec.name for spec in group}
        if len(group) == 2 and set(families) == {"transformer", "convnet"}:
            pairs.append((families["transformer"], families["convnet"]))
        else:
            pairs += [(a.name, b.name) for a, b in pairwise(group)][::2]
    return pairs


def only(differences: pd.DataFrame, pairs: Iterable[Contrast]) -> pd.DataFrame:
    """Rows of differences (`model_a`, `model_b`) that belong to one of the pairs."""
    wanted = {pair[:2] for pair in pairs}
    keep = [pair in wanted for pair in zip(differences["model_a"], differences["model_b"], strict=True)]
    return differences[np.array(keep, dtype=bool)]


def _difference(a: Described, b: Described) -> str:
    if (a.family == b.family) == (a.paradigm == b.paradigm):
        return ""
    return "objective" if a.family == b.family else "architecture"
