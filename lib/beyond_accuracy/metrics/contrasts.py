"""Which pairs of models are worth comparing: those that differ in one thing."""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple, Protocol


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


def _difference(a: Described, b: Described) -> str:
    if (a.family == b.family) == (a.paradigm == b.paradigm):
        return ""
    return "objective" if a.family == b.family else "architecture"
