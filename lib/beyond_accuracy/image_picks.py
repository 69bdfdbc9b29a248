"""Which images to look at: confident mistakes, disagreements, cue conflicts, hard levels, flips under a transform.

Pure functions of predictions. All models' predictions are over the same images in the same order. Positions, not ids,
are returned; an image picked for several models appears once, with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from beyond_accuracy.predictions import Predictions

Runs = Mapping[str, Predictions]


@dataclass(frozen=True)
class Pick:
    """An image worth looking at.

    Attributes:
        position: Row in the predictions.
        models: Whose numbers it stands behind.
        factor: Why it was picked, in a word or two: what the page filters by.
    """

    position: int
    models: tuple[str, ...]
    factor: str = ""


def confident_mistakes(runs: Runs, per_model: int, factor: str = "") -> list[Pick]:
    """Each model's wrong answers of the highest confidence."""
    ranked = {name: _top(~p.correct, p.confidence, per_model, [name], factor) for name, p in runs.items()}
    return merge([pick for picks in ranked.values() for pick in picks])


def disagreements(runs: Runs, per_model: int) -> list[Pick]:
    """Images that only one model gets right, and that only one gets wrong, by that model's confidence."""
    names = list(runs)
    right = np.stack([runs[name].correct for name in names])
    picks: list[Pick] = []
    if len(names) < 2:
        return picks
    count = right.sum(axis=0)
    for i, name in enumerate(names):
        only_right, only_wrong = right[i] & (count == 1), ~right[i] & (count == len(names) - 1)
        picks += _top(only_right, runs[name].confidence, per_model, [name], "only one right")
        # With two models the first kind says it all: one is right where the other is wrong.
        if len(names) > 2:
            picks += _top(only_wrong, runs[name].confidence, per_model, [name], "only one wrong")
    return merge(picks)


def cue_decisions(
    decisions: Mapping[str, ArrayLike], confidence: Mapping[str, ArrayLike], cues: Mapping[str, ArrayLike], each: int
) -> list[Pick]:
    """Each model's most confident decisions by shape, by texture and by neither, where the two conflict.

    Args:
        decisions: Category chosen per image, by model.
        confidence: The model's confidence per image.
        cues: `shape` and `texture` of every image.
        each: Images per model and kind of decision.
    """
    shape, texture = np.asarray(cues["shape"]), np.asarray(cues["texture"])
    conflict = shape != texture
    picks: list[Pick] = []
    for name, decision in decisions.items():
        by_shape, by_texture = conflict & (decision == shape), conflict & (decision == texture)
        kinds = {"by shape": by_shape, "by texture": by_texture, "by neither": conflict & ~by_shape & ~by_texture}
        for kind, mask in kinds.items():
            picks += _top(mask, np.asarray(confidence[name]), each, [name], kind)
    return merge(picks)


def hard_levels(runs: Runs, factor: ArrayLike, level: ArrayLike, each: int) -> list[Pick]:
    """For every factor the level with the lowest accuracy over the models: images that most models miss there.

    Args:
        runs: Predictions by model.
        factor: (n,) factor that the image varies.
        level: (n,) its level.
        each: Images per factor.
    """
    factor, level = np.asarray(factor, dtype=object), np.asarray(level, dtype=object)
    names = list(runs)
    right = np.stack([runs[name].correct for name in names])
    sure = np.stack([runs[name].confidence for name in names])
    picks: list[Pick] = []
    for value in dict.fromkeys(factor.tolist()):
        here = factor == value
        levels = list(dict.fromkeys(level[here].tolist()))
        worst = min(levels, key=lambda one: right[:, here & (level == one)].mean())
        mask = here & (level == worst) & ~right.all(axis=0)
        wrong = (~right).sum(axis=0) + np.where(right, 0, sure).mean(axis=0)
        for pick in _top(mask, wrong, each, [], f"{value} = {worst}".replace("_", " ")):
            missed = tuple(name for i, name in enumerate(names) if not right[i, pick.position])
            picks.append(Pick(pick.position, missed, pick.factor))
    return picks


def flips(plain: Runs, changed: Runs, per_model: int, factor: str) -> list[Pick]:
    """Images that a model gets right as they are and wrong when transformed, by its confidence in the wrong answer."""
    picks: list[Pick] = []
    for name in plain:
        if name in changed:
            lost = plain[name].correct & ~changed[name].correct
            picks += _top(lost, changed[name].confidence, per_model, [name], factor)
    return merge(picks)


def merge(picks: Sequence[Pick]) -> list[Pick]:
    """One pick per image and factor, with the models of all, in order of first appearance.

    >>> merge([Pick(3, ("a",)), Pick(1, ("a",)), Pick(3, ("b",))])
    [Pick(position=3, models=('a', 'b'), factor=''), Pick(position=1, models=('a',), factor='')]
    """
    models: dict[tuple[int, str], list[str]] = {}
    for pick in picks:
        known = models.setdefault((pick.position, pick.factor), [])
        known += [name for name in pick.models if name not in known]
    return [Pick(position, tuple(names), factor) for (position, factor), names in models.items()]


def _top(mask: ArrayLike, key: ArrayLike, count: int, models: Sequence[str], factor: str) -> list[Pick]:
    """Positions under a mask with the largest key; ties go to the earlier image."""
    positions = np.flatnonzero(mask)
    chosen = positions[np.argsort(-np.asarray(key, dtype=float)[positions], kind="stable")][:count]
    return [Pick(int(position), tuple(models), factor) for position in chosen]
