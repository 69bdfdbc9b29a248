"""Captions of varying detail for a scene, class names and zero-shot prompts: the language of the mini world."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.random import Generator

from .backgrounds import BACKGROUNDS
from .classes import CLASSES
from .materials import MATERIALS, PLAIN

CLASS_NAMES = CLASSES  # in label order; each is one common English noun

# `{}` takes the class name with its article. The same few frames serve training captions and zero-shot prompts.
FRAMES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a rendering of {}",
    "there is {}",
    "this is {}",
    "a scene with {}",
)
ZERO_SHOT_TEMPLATES = (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a rendering of {}",
    "this is {}",
    "a scene with {}",
)

# How likely each detail is to be mentioned at each level of detail, from class only to nearly everything.
_DETAIL_LEVELS = (
    {},
    {"material": 0.5, "background": 0.5},
    {"material": 0.8, "background": 0.8, "size": 0.3, "light": 0.3},
    {"material": 0.9, "background": 0.9, "size": 0.6, "light": 0.6, "side": 0.5, "view": 0.5, "tilt": 0.5},
)
_LEVEL_SHARES = (0.25, 0.30, 0.25, 0.20)


def with_article(noun_phrase: str) -> str:
    """Prefixes "a" or "an", by spelling (the vocabulary has no exceptions)."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def zero_shot_prompts(class_name: str) -> list[str]:
    """The prompts whose text embeddings are averaged into a class's classifier weight."""
    return [template.format(with_article(class_name)) for template in ZERO_SHOT_TEMPLATES]


def describe_material(material: str) -> str:
    """Words after "made of" or "in"."""
    return "one plain colour" if material == PLAIN else MATERIALS[material].words


def _side(scene: Mapping) -> str | None:
    """Where the object is, when it is off centre."""
    if abs(scene["dx"]) >= abs(scene["dy"]):
        axis, words = scene["dx"], ("on the left", "on the right")
    else:
        axis, words = scene["dy"], ("at the bottom", "at the top")
    return None if abs(axis) < 0.05 else words[axis > 0]


def _phrases(scene: Mapping) -> dict[str, str | None]:
    """Every detail that can be said about the scene; None where there is nothing notable."""
    scale, light, pitch = scene["scale"], scene["light_intensity"], scene["camera_pitch"]
    return {
        "material": f"in {describe_material(scene['material'])}",
        "background": BACKGROUNDS[scene["background"]].words,
        "light": "in dim light" if light < 0.85 else "in bright light" if light > 1.18 else None,
        "side": _side(scene),
        "view": "seen from above" if pitch > 20 else "seen from the side" if pitch < 12 else None,
        "tilt": "with a tilted camera" if abs(scene["camera_roll"]) > 5 else None,
        "size": "small" if scale < 0.78 else "large" if scale > 0.93 else None,
    }


def caption(scene: Mapping, rng: Generator) -> str:
    """Draws a caption: a frame, the class and, at a random level of detail, some of the scene's factors.

    Args:
        scene: a row of set metadata (or the fields of a `Scene` as a mapping).
        rng: chooses frame, level and details; the same state gives the same caption.
    """
    level = _DETAIL_LEVELS[rng.choice(len(_DETAIL_LEVELS), p=_LEVEL_SHARES)]
    said = {name for name, chance in sorted(level.items()) if rng.random() < chance}
    phrases = _phrases(scene)
    noun = scene["class_name"]
    if "size" in said and phrases["size"]:
        noun = f"{phrases['size']} {noun}"
    frame = FRAMES[rng.integers(len(FRAMES))]
    order = ["material", "background", "light", "side", "view", "tilt"]
    tail = [phrases[name] for name in order if name in said and phrases[name]]
    return " ".join([frame.format(with_article(noun)), *tail])


def vocabulary() -> list[str]:
    """Every word that a caption or a prompt can hold, sorted."""
    phrases = [*FRAMES, *ZERO_SHOT_TEMPLATES, *CLASS_NAMES, "a an in one plain colour small large"]
    phrases += [material.words for material in MATERIALS.values()]
    phrases += [background.words for background in BACKGROUNDS.values()]
    phrases += ["in dim light in bright light on the left on the right at the bottom at the top"]
    phrases += ["seen from above seen from the side with a tilted camera"]
    return sorted({word for phrase in phrases for word in phrase.replace("{}", " ").split()})
