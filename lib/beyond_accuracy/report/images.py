"""The error browser: the images behind the numbers of each dimension, with every model's answer.

Pictures are picked as the most telling of their kind, from stored predictions alone; all models are judged on the
same images in the same order. An image picked for several models appears once, with all of them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import read_json, write_atomically
from beyond_accuracy.base.profile import Profile
from beyond_accuracy.data import published, transforms
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.dimensions import invariance, shape_bias
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report.html import TEMPLATE, Body, fragment
from beyond_accuracy.show import figures

SIDE = 144  # pixels of a picture's side
QUALITY = 72  # of WebP
MOST_BYTES = 680_000  # of the page's pictures: those beyond are left out, and the page says so
MISTAKES, DISAGREEMENTS, CUES, LEVELS, FLIPS, FACTORS = 4, 5, 4, 4, 3, 4  # images per model and kind, or per factor
_SHIFTED_ROLES = ("v2", "r", "a", "sketch", "hard")

Runs = Mapping[str, Predictions]


# Picking -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pick:
    """An image worth looking at."""

    position: int  # row in the predictions
    models: tuple[str, ...]  # whose numbers it stands behind
    factor: str = ""  # why it was picked, in a word or two: what the page filters by


def confident_mistakes(runs: Runs, per_model: int, factor: str = "") -> list[Pick]:
    """Each model's wrong answers of the highest confidence."""
    return merge([p for m, run in runs.items() for p in _top(~run.correct, run.confidence, per_model, [m], factor)])


def disagreements(runs: Runs, per_model: int) -> list[Pick]:
    """Images that only one model gets right, and that only one gets wrong, by that model's confidence."""
    right, picks = np.stack([run.correct for run in runs.values()]), []
    count = right.sum(axis=0)
    for i, (name, run) in enumerate(runs.items()):
        kinds = {"only one right": right[i] & (count == 1), "only one wrong": ~right[i] & (count == len(runs) - 1)}
        # with two models the first kind says it all: one is right where the other is wrong
        for kind, mask in list(kinds.items())[: max(0, len(runs) - 1)]:
            picks += _top(mask, run.confidence, per_model, [name], kind)
    return merge(picks)


def cue_decisions(
    decisions: Mapping[str, ArrayLike], confidence: Mapping[str, ArrayLike], cues: Mapping[str, ArrayLike], each: int
) -> list[Pick]:
    """Each model's most confident decisions by shape, by texture and by neither, where the two conflict.

    Category chosen, its confidence by model, and `shape` and `texture` of every image.
    """
    shape, texture = np.asarray(cues["shape"]), np.asarray(cues["texture"])
    conflict, picks = shape != texture, []
    for name, decision in decisions.items():
        by_shape, by_texture = conflict & (decision == shape), conflict & (decision == texture)
        kinds = {"by shape": by_shape, "by texture": by_texture, "by neither": conflict & ~by_shape & ~by_texture}
        for kind, mask in kinds.items():
            picks += _top(mask, confidence[name], each, [name], kind)
    return merge(picks)


def hard_levels(runs: Runs, factor: ArrayLike, level: ArrayLike, each: int) -> list[Pick]:
    """For every factor (n,) the level (n,) with the lowest accuracy over the models: images that most miss there."""
    factor, level = np.asarray(factor, dtype=object), np.asarray(level, dtype=object)
    right, picks = np.stack([run.correct for run in runs.values()]), []
    for value in dict.fromkeys(factor.tolist()):
        here = factor == value
        levels = list(dict.fromkeys(level[here].tolist()))
        worst = min(levels, key=lambda one: right[:, here & (level == one)].mean())
        picks += missed(runs, here & (level == worst), each, f"{value} = {worst}".replace("_", " "))
    return picks


def missed(runs: Runs, mask: ArrayLike, count: int, factor: str) -> list[Pick]:
    """Images under a mask (n,) that most models miss, with the surest wrong answers, each for the models that do."""
    right = np.stack([run.correct for run in runs.values()])
    sure = np.stack([run.confidence for run in runs.values()])
    wrong = (~right).sum(axis=0) + np.where(right, 0, sure).mean(axis=0)
    picks = _top(mask & ~right.all(axis=0), wrong, count, [], factor)
    who = (tuple(name for name, row in zip(runs, right, strict=True) if not row[pick.position]) for pick in picks)
    return [replace(pick, models=models) for pick, models in zip(picks, who, strict=True)]


def flips(plain: Runs, changed: Runs, per_model: int, factor: str) -> list[Pick]:
    """Images that a model gets right as they are and wrong when transformed, by its confidence in the wrong answer."""
    both = {name: (plain[name], changed[name]) for name in plain if name in changed}
    lost = {name: (a.correct & ~b.correct, b.confidence) for name, (a, b) in both.items()}
    return merge([pick for name, (mask, key) in lost.items() for pick in _top(mask, key, per_model, [name], factor)])


def merge(picks: Sequence[Pick]) -> list[Pick]:
    """One pick per image and factor, with the models of all, in order of first appearance."""
    models: dict[tuple[int, str], dict[str, None]] = {}
    for pick in picks:
        models.setdefault((pick.position, pick.factor), {}).update(dict.fromkeys(pick.models))
    return [Pick(position, tuple(names), factor) for (position, factor), names in models.items()]


def _top(mask: ArrayLike, key: ArrayLike, count: int, models: Sequence[str], factor: str) -> list[Pick]:
    """Positions under a mask with the largest key; ties go to the earlier image."""
    positions = np.flatnonzero(mask)
    chosen = positions[np.argsort(-np.asarray(key, dtype=float)[positions], kind="stable")][:count]
    return [Pick(int(position), tuple(models), factor) for position in chosen]


# Collecting ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shot:
    """One picture of the gallery and what is said about it."""

    dataset: str
    image_id: str
    transform: str  # shown beside the picture; `none` for the picture alone
    models: tuple[str, ...]  # whose numbers it stands behind
    factor: str  # why it was picked
    truth: str  # what it shows, in words
    answers: tuple[tuple[str, str, float, bool | None], ...]  # model, answer, confidence, right (None: no right one)
    classes: tuple[str, ...]  # all that it shows


@dataclass(frozen=True)
class Section:
    """The pictures of one kind; `note` says why there are none."""

    key: str
    title: str
    intro: str
    shots: list[Shot]
    note: str = ""


def sections(profile: Profile, outputs: Outputs) -> list[Section]:
    """What there is to look at; a kind whose predictions are not stored says so."""
    found = []
    for key, (title, intro, collect) in _KINDS.items():
        try:
            shots = list(collect(profile, outputs))
            note = "" if shots else "There are none in this report."
        except (DataMissing, InputError) as error:
            shots, note = [], str(error)
        found.append(Section(key, title, intro, shots, note))
    return found


def _role(profile: Profile, role: str, *dimensions: str) -> str | None:
    """The first dataset that plays a role on one of these pages."""
    names = (profile.dimensions.get(dimension, {}).get(role) for dimension in dimensions)
    return next((name for name in names if isinstance(name, str) and name in profile.datasets), None)


def _clean(profile: Profile) -> str | None:
    return _role(profile, "clean", "models", "calibration", "mistakes", "robustness")


def _runs(outputs: Outputs, dataset: str) -> dict[str, Predictions]:
    return outputs.predictions(dataset, ["none"])["none"]


def _mistakes(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    clean = _clean(profile)
    shifted = [_role(profile, role, "robustness") for role in _SHIFTED_ROLES]
    for dataset in dict.fromkeys(name for name in [clean, *shifted] if name):
        try:
            runs = _runs(outputs, dataset)
        except DataMissing:
            if dataset == clean:
                raise
            continue  # the shifted sets are extras
        title = profile.datasets[dataset].title or dataset
        yield from _shots(outputs, dataset, runs, confident_mistakes(runs, MISTAKES, title))


def _factors(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    if dataset := _role(profile, "clean", "mistakes"):
        runs, source = _runs(outputs, dataset), profile.dimensions["mistakes"].get("factors")
        ids = next(iter(runs.values())).ids
        frame = published.factor_frame(ids, load_dataset(outputs.dataset_spec(dataset)).metadata, source)
        marks = frame.reindex(ids, fill_value=0).astype(bool)
        for name in frame:
            yield from _shots(outputs, dataset, runs, missed(runs, marks[name], FACTORS, name.replace("_", " ")))


def _disagreements(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    if dataset := _clean(profile):
        runs = _runs(outputs, dataset)
        yield from _shots(outputs, dataset, runs, disagreements(runs, DISAGREEMENTS))


def _cues(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    dataset = _role(profile, "cue_conflict", "shape_bias")
    runs = {m: p for m, p in _runs(outputs, dataset).items() if p.probabilities is not None} if dataset else {}
    if not runs:
        return
    data, ids = load_dataset(outputs.dataset_spec(dataset)), next(iter(runs.values())).ids
    cues = shape_bias.cue_table(ids, data.metadata)
    categories = published.cue_categories(data.classes.names)
    decisions = {m: shape_bias.decide(p.probabilities, categories) for m, p in runs.items()}
    shares = {name: list(members) for name, members in categories.items()}  # a category's is that of its classes
    sure = {
        m: np.array([row[shares[name]].sum() for row, name in zip(p.probabilities, decisions[m], strict=True)])
        for m, p in runs.items()
    }
    for pick in cue_decisions(decisions, sure, cues, CUES):
        i, row = pick.position, cues.iloc[pick.position]
        answers = tuple((m, str(d[i]), float(sure[m][i]), None) for m, d in decisions.items())
        truth = f"shape {row['shape']}, texture {row['texture']}"
        classes = (row["shape"], row["texture"])
        yield Shot(dataset, str(ids[i]), "none", pick.models, pick.factor, truth, answers, classes)


def _levels(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    if dataset := _role(profile, "pug", "synthetic"):
        runs = _runs(outputs, dataset)
        scenes = load_dataset(outputs.dataset_spec(dataset)).metadata.loc[next(iter(runs.values())).ids]
        if {"factor", "level"} <= set(scenes.columns):
            yield from _shots(outputs, dataset, runs, hard_levels(runs, scenes["factor"], scenes["level"], LEVELS))


def _flips(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    dataset = _role(profile, "clean", "invariance")
    if not dataset:
        return
    plain = _runs(outputs, dataset)
    kinds = profile.dimensions["invariance"].get("transforms") or list(transforms.LADDERS)
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        ladder = [text for text in transforms.ladder(kind) if text != "none"]
        ends = outputs.predictions(dataset, list(dict.fromkeys([ladder[0], ladder[-1]])))
        if ends := {text: runs for text, runs in ends.items() if runs}:
            hardest = min(ends, key=lambda text: np.mean([p.correct.mean() for p in ends[text].values()]))
            name, _, strength = hardest.partition("=")
            factor = f"{invariance.SPOKEN.get(name, name)} {strength}".replace("@", " at ")
            chosen = flips(plain, ends[hardest], FLIPS, factor)
            yield from _shots(outputs, dataset, ends[hardest], chosen, hardest)


def _shots(
    outputs: Outputs, dataset: str, runs: Runs, chosen: Sequence[Pick], transform: str = "none"
) -> Iterator[Shot]:
    classes = load_dataset(outputs.dataset_spec(outputs.base(dataset))).classes
    first = next(iter(runs.values()))
    for pick in chosen if classes is not None else ():
        i = pick.position
        labels = tuple(classes.names[int(t)] for t in np.atleast_1d(first.targets[i]))
        truth = " or ".join(labels[:3]) + (" or …" if len(labels) > 3 else "")
        said = [(m, classes.names[int(p.pred[i])], float(p.confidence[i]), bool(p.correct[i])) for m, p in runs.items()]
        yield Shot(dataset, str(first.ids[i]), transform, pick.models, pick.factor, truth, tuple(said), labels)


_KINDS: dict[str, tuple[str, str, Callable[[Profile, Outputs], Iterator[Shot]]]] = {
    "mistakes": ("Confident mistakes",
                 "Wrong answers that a model was surest of, on plain and shifted images.", _mistakes),
    "factors": ("By factor", "For each factor, images that are unusual by it and that most models miss.", _factors),
    "disagreements": ("Disagreements", "Only one model gets these right, or only one gets them wrong.", _disagreements),
    "cues": ("Shape against texture",
             "Images with the shape of one class and the texture of another, and what the models went by.", _cues),
    "poses": ("Hardest views", "For each factor of a scene its hardest level: images that most models miss.", _levels),
    "flips": ("Flips", "Right as it is, wrong when transformed: the image, and what the model got.", _flips),
}  # fmt: skip
_BEHIND = {"mistakes": "robustness", "factors": "mistakes", "poses": "synthetic", "flips": "invariance"}  # its page

# The page ------------------------------------------------------------------------------------------------------------


def may_show(profile: Profile, dataset: str) -> bool:
    """Whether pictures of a dataset may be passed on: rendered worlds are ours, of others the profile decides."""
    return profile.synthetic or bool(profile.datasets[dataset].options.get("thumbnails"))


def kept_body(folder: Path, inputs: Sequence[str], profile: Profile, options: Mapping[str, object]) -> Body:
    """`body`, from the last time if nothing of its inputs changed: decoding hundreds of images takes seconds."""
    kept, sources = folder / ".state" / "images.json", [Path(__file__), *sorted(TEMPLATE.glob("images.*"))]
    made_of = [json.dumps(list(inputs)).encode(), *(path.read_bytes() for path in sources)]

    def seal(text: str) -> str:
        return hashlib.sha256(b"".join([*made_of, text.encode()])).hexdigest()

    content = read_json(kept)
    if content.get("seal") == seal(str(content.get("body"))):
        inside = json.loads(content["body"])
        return Body(**inside | {"sections": [tuple(pair) for pair in inside["sections"]]})
    found = body(profile, options)
    text = json.dumps(asdict(found))
    write_atomically(kept, json.dumps({"seal": seal(text), "body": text}).encode())
    return found


def body(profile: Profile, options: Mapping[str, object]) -> Body:
    """The inside of `images.html`, from stored predictions only; options as of `open_page`."""
    outputs = Outputs(profile, Store(), dict(options), run=False)
    found, weight, pictures, turn, each = sections(profile, outputs), 0, {}, {}, Counter()
    for shot in [shot for section in found for shot in section.shots]:
        turn[shot] = each[shot.factor, shot.models]
        each[shot.factor, shot.models] += 1
    for shot in sorted(turn, key=turn.get):  # the first of every kind before the second of any: no kind is left out
        shown = _pictures(shot, profile, outputs) if may_show(profile, shot.dataset) else []
        weight += sum(len(picture.get("source", "")) for picture in shown)
        if weight <= MOST_BYTES:
            pictures[shot] = shown
    found = [replace(section, shots=[shot for shot in section.shots if shot in pictures]) for section in found]
    shots = [shot for section in found for shot in section.shots]
    lead = f"{len(shots)} images behind the numbers: what each model said, how sure it was, and whether it was right."
    if not shots:
        lead = "There are no images to look at yet: build the pages of the dimensions first."
    labels = {name: spec.label for name, spec in profile.models.items()}
    choices = {
        "section": ("Kind", [(s.key, s.title) for s in found if s.shots]),
        "model": ("Model", list(labels.items())),
        "truth": ("Shows", [(name, name) for name in sorted({name for shot in shots for name in shot.classes})]),
        "factor": ("Set or factor", [(f, f) for f in dict.fromkeys(shot.factor for shot in shots if shot.factor)]),
    }
    hidden = sorted({shot.dataset for shot in shots if not may_show(profile, shot.dataset)})
    shown = {"sections": found, "pictures": pictures, "choices": choices, "labels": labels, "hidden": hidden}
    inside = fragment("images.html.j2", lead=lead, **shown, left_out=len(turn) - len(shots), side=SIDE)
    anchors = [(s.key, s.title) for s in found] if shots else []
    return Body("Look at the errors", lead, anchors, inside, links=_links(found))


def _links(found: Sequence[Section]) -> dict[str, dict[str, str]]:
    """Dimension -> what a page calls a factor, set or transform -> where its images are."""
    links: dict[str, dict[str, str]] = {page: {} for page in _BEHIND.values()}
    for section in found:
        for factor in dict.fromkeys(shot.factor for shot in section.shots if section.key in _BEHIND):
            name = re.split(r" = | \d", factor)[0]  # `camera roll = 45`, `scale 3`: pages say the rest in columns
            href = f"images.html#{urlencode({'section': section.key, 'factor': factor})}"
            links[_BEHIND[section.key]].setdefault(name, href)
    return links


def _pictures(shot: Shot, profile: Profile, outputs: Outputs) -> list[dict[str, str]]:
    """`source` and `alt` of a shot's pictures, or the `message` why there is none."""
    data = load_dataset(outputs.dataset_spec(outputs.base(shot.dataset)))
    try:
        image = data.image(data.position(shot.image_id))
    except (DataMissing, InputError) as error:
        return [{"message": str(error)}]
    shown = [(image, f"{shot.truth}, from {profile.datasets[shot.dataset].title or shot.dataset}")]
    if shot.transform != "none":
        changed = figures.transformed(image, shot.transform, SIDE, shot.image_id)
        shown.append((changed, f"the same under {shot.factor}"))
    return [{"source": _webp(figures.thumbnail(picture, SIDE)), "alt": alt} for picture, alt in shown]


def _webp(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
