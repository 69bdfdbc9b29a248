"""The error browser: the images behind the numbers of each dimension, with every model's answer."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from beyond_accuracy import image_picks as picks
from beyond_accuracy import jobs as jobs_
from beyond_accuracy import transforms
from beyond_accuracy.datasets import ImageDataset, load_dataset
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.outputs import Outputs
from beyond_accuracy.predictions import Predictions
from beyond_accuracy.profiles import ModelSpec, Profile
from beyond_accuracy.report_pages import TEMPLATE, Body
from beyond_accuracy.store import Store

SIDE = 112  # pixels of a thumbnail's side
QUALITY = 72  # of WebP
MOST_BYTES = 4_500_000  # of the page's inside: pictures beyond are left out, and the page says so
MISTAKES, DISAGREEMENTS, CUES, LEVELS, FLIPS = 4, 5, 4, 4, 3  # images per model and kind, or per factor
_SIGNS = {
    True: '<b class="ok" role="img" aria-label="right:">✓</b> ',
    False: '<b class="no" role="img" aria-label="wrong:">✗</b> ',
    None: "",
}
_SHIFTED_ROLES = ("v2", "r", "a", "sketch", "hard")


@dataclass(frozen=True)
class Shot:
    """One picture of the gallery and what is said about it.

    Attributes:
        dataset: Dataset name.
        image_id: The image.
        transform: Transform shown beside the picture; `none` for the picture alone.
        models: Whose numbers it stands behind.
        factor: Why it was picked.
        truth: What it shows, in words.
        answers: Model, its answer in words, its confidence, whether it is right (None where there is no right).
    """

    dataset: str
    image_id: str
    transform: str
    models: tuple[str, ...]
    factor: str
    truth: str
    answers: tuple[tuple[str, str, float, bool | None], ...]


@dataclass(frozen=True)
class Section:
    """The pictures of one kind; `note` says why there are none."""

    key: str
    title: str
    intro: str
    shots: list[Shot]
    note: str = ""


class StoredOutputs(Outputs):
    """Outputs from the store alone: what it lacks is missing, never run."""

    def _run(self, specs: list[ModelSpec], data: ImageDataset, transforms: list[str]) -> dict:
        import os

        device = jobs_.check_device(self.options.get("device") or os.environ.get("BEYOND_ACCURACY_DEVICE") or "auto")
        cards = [self.card(spec) for spec in specs]
        precision = jobs_.choose_precision(self.profile.settings.precision, device)
        for job in jobs_.plan(cards, data, transforms, self.store, self.profile.settings, precision):
            if not job.entry.complete:
                raise DataMissing(f"{data.name}: no stored predictions of {job.card.name}; build its page first")
        return super()._run(specs, data, transforms)


def sections(profile: Profile, outputs: Outputs) -> list[Section]:
    """What there is to look at; a kind whose predictions are not stored says so.

    Args:
        profile: Models, datasets and roles.
        outputs: Their stored outputs.
    """
    found = []
    for key, title, intro, collect in _kinds():
        try:
            shots = list(collect(profile, outputs))
            note = "" if shots else "There are none in this report."
        except (DataMissing, InputError) as error:
            shots, note = [], str(error)
        found.append(Section(key, title, intro, shots, note))
    return found


def _kinds() -> list[tuple[str, str, str, Callable[[Profile, Outputs], Iterator[Shot]]]]:
    mistakes = "Wrong answers that a model was surest of, on plain and shifted images."
    cues = "Images with the shape of one class and the texture of another, and what the models went by."
    levels = "For each factor of a scene its hardest level: images that most models miss."
    return [
        ("mistakes", "Confident mistakes", mistakes, _mistakes),
        (
            "disagreements",
            "Disagreements",
            "Only one model gets these right, or only one gets them wrong.",
            _disagreements,
        ),
        ("cues", "Shape against texture", cues, _cues),
        ("poses", "Hardest views", levels, _levels),
        ("flips", "Flips", "Right as it is, wrong when transformed: the image, and what the model got.", _flips),
    ]


# Collecting ----------------------------------------------------------------------------------------------------------


def _role(profile: Profile, role: str, *dimensions: str) -> str | None:
    """The first dataset that plays a role on one of these pages."""
    for dimension in dimensions:
        name = profile.dimensions.get(dimension, {}).get(role)
        if isinstance(name, str) and name in profile.datasets:
            return name
    return None


def _runs(outputs: Outputs, dataset: str) -> dict[str, Predictions]:
    return outputs.predictions(dataset, ["none"])["none"]


def _mistakes(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    clean = _role(profile, "clean", "models", "calibration", "mistakes", "robustness")
    shifted = [_role(profile, role, "robustness") for role in _SHIFTED_ROLES]
    first = True
    for dataset in dict.fromkeys(name for name in [clean, *shifted] if name):
        try:
            runs = _runs(outputs, dataset)
        except DataMissing:
            if first:
                raise
            continue  # the shifted sets are extras
        first = False
        title = profile.datasets[dataset].title or dataset
        yield from _shots(outputs, dataset, runs, picks.confident_mistakes(runs, MISTAKES, title))


def _disagreements(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    dataset = _role(profile, "clean", "models", "calibration", "mistakes", "robustness")
    if dataset:
        runs = _runs(outputs, dataset)
        yield from _shots(outputs, dataset, runs, picks.disagreements(runs, DISAGREEMENTS))


def _cues(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    from beyond_accuracy.benchmarks import cue_categories
    from beyond_accuracy.metrics import shape_bias

    dataset = _role(profile, "cue_conflict", "shape_bias")
    runs = {m: p for m, p in _runs(outputs, dataset).items() if p.probabilities is not None} if dataset else {}
    if not runs:
        return
    data = load_dataset(outputs.dataset_spec(dataset))
    cues = shape_bias.cue_table(next(iter(runs.values())).ids, data.metadata)
    categories = cue_categories(data.classes.names)
    decisions = {m: shape_bias.decide(p.probabilities, categories) for m, p in runs.items()}
    sure = {m: _category_share(p.probabilities, decisions[m], categories) for m, p in runs.items()}
    ids = next(iter(runs.values())).ids
    for pick in picks.cue_decisions(decisions, sure, cues, CUES):
        row = cues.iloc[pick.position]
        answers = tuple((m, str(d[pick.position]), float(sure[m][pick.position]), None) for m, d in decisions.items())
        truth = f"shape {row['shape']}, texture {row['texture']}"
        yield Shot(dataset, str(ids[pick.position]), "none", pick.models, pick.factor, truth, answers)


def _category_share(
    probabilities: np.ndarray, decisions: np.ndarray, categories: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Probability of the chosen category: the sum over its member classes, shape (n,)."""
    sums = {name: probabilities[:, list(categories[name])].sum(axis=1) for name in set(decisions.tolist())}
    return np.array([sums[name][i] for i, name in enumerate(decisions.tolist())])


def _levels(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    dataset = _role(profile, "pug", "synthetic")
    if not dataset:
        return
    runs = _runs(outputs, dataset)
    first = next(iter(runs.values()))
    scenes = load_dataset(outputs.dataset_spec(dataset)).metadata.loc[first.ids]
    if {"factor", "level"} <= set(scenes.columns):
        chosen = picks.hard_levels(runs, scenes["factor"], scenes["level"], LEVELS)
        yield from _shots(outputs, dataset, runs, chosen)


def _flips(profile: Profile, outputs: Outputs) -> Iterator[Shot]:
    dataset = _role(profile, "clean", "invariance")
    if not dataset:
        return
    plain = _runs(outputs, dataset)
    kinds = profile.dimensions["invariance"].get("transforms") or list(transforms.LADDERS)
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        ladder = [text for text in transforms.ladder(kind) if text != "none"]
        ends = outputs.predictions(dataset, list(dict.fromkeys([ladder[0], ladder[-1]])))
        ends = {text: runs for text, runs in ends.items() if runs}
        if not ends:
            continue
        hardest = min(ends, key=lambda text: np.mean([p.correct.mean() for p in ends[text].values()]))
        chosen = picks.flips(plain, ends[hardest], FLIPS, hardest.replace("=", " ").replace("@", " at "))
        yield from _shots(outputs, dataset, ends[hardest], chosen, hardest)


def _shots(
    outputs: Outputs,
    dataset: str,
    runs: Mapping[str, Predictions],
    chosen: Sequence[picks.Pick],
    transform: str = "none",
) -> Iterator[Shot]:
    classes = load_dataset(outputs.dataset_spec(outputs.base(dataset))).classes
    if classes is None:
        return
    first = next(iter(runs.values()))
    targets = first.targets
    for pick in chosen:
        i = pick.position
        labels = [int(t) for t in np.atleast_1d(targets[i])]
        truth = " or ".join(classes.names[label] for label in labels[:3]) + (" or …" if len(labels) > 3 else "")
        answers = tuple(
            (m, classes.names[int(p.pred[i])], float(p.confidence[i]), bool(p.correct[i])) for m, p in runs.items()
        )
        yield Shot(dataset, str(first.ids[i]), transform, pick.models, pick.factor, truth, answers)


# The page ------------------------------------------------------------------------------------------------------------


def may_show(profile: Profile, dataset: str) -> bool:
    """Whether pictures of a dataset may go into a page that others may get to see.

    Rendered worlds are the project's own; for other data whoever builds the report decides, dataset by dataset
    (`options: {thumbnails: true}`), since most benchmarks' terms do not allow passing their images on.
    """
    return profile.synthetic or bool(profile.datasets[dataset].options.get("thumbnails"))


def body(profile: Profile, options: Mapping[str, object] | None = None, store: Store | None = None) -> Body:
    """The inside of `images.html`, from stored predictions only.

    Args:
        profile: Models, datasets and roles.
        options: As of `open_study`.
        store: The cache (default: the usual one).
    """
    title = "Look at the errors"
    outputs = StoredOutputs(profile, store or Store(), dict(options or {}))
    found = sections(profile, outputs)
    count = sum(len(section.shots) for section in found)
    if not count:
        lead = "There are no images to look at yet: build the pages of the dimensions first."
        notes = "".join(f"<li>{html.escape(s.title)}: {html.escape(s.note)}</li>" for s in found)
        return Body(title, lead, [], f"<p>{lead}</p><ul>{notes}</ul>")
    hidden = sorted({shot.dataset for s in found for shot in s.shots if not may_show(profile, shot.dataset)})
    lead = f"{count} images behind the numbers: what each model said, how sure it was, and whether it was right."
    parts = [f'<p class="ba-lede">{lead}</p>', _caveat(hidden), _filters(profile, found)]
    weight, left_out = 0, 0
    for section in found:
        cards = []
        for shot in section.shots:
            card = _card(shot, profile, outputs)
            if weight + len(card) > MOST_BYTES:
                left_out += 1
                continue
            weight += len(card)
            cards.append(card)
        inside = f'<div class="ba-shots">{"".join(cards)}</div>' if cards else f"<p>{html.escape(section.note)}</p>"
        heading = f'<h2 id="{section.key}">{html.escape(section.title)}</h2><p>{html.escape(section.intro)}</p>'
        parts.append(f'<section class="ba-look">{heading}{inside}</section>')
    if left_out:
        parts.append(f'<p class="ba-hint">{left_out} more were left out to keep this page light.</p>')
    parts.append(f"<script>{(TEMPLATE / 'images.js').read_text(encoding='utf-8')}</script>")
    return Body(title, lead, [(s.key, s.title) for s in found], "\n".join(parts))


def _caveat(hidden: Sequence[str]) -> str:
    text = (
        "<p>These are picked as the most telling of their kind, not at random: they show what goes wrong, never how "
        "often. A picture’s title is its true class; below it, each model’s answer and its confidence; bold: the model "
        "that the picture is shown for; last, the image’s id in its set.</p>"
    )
    if hidden:
        names = ", ".join(f"<code>{html.escape(name)}</code>" for name in hidden)
        text += (
            f'<p class="ba-note" role="note">Pictures of {names} are not embedded: most benchmarks do not allow '
            "passing their images on. For a copy of your own set <code>options: {thumbnails: true}</code> on the "
            "dataset in the profile.</p>"
        )
    return text


def _filters(profile: Profile, found: Sequence[Section]) -> str:
    shots = [(section, shot) for section in found for shot in section.shots]
    models = [(name, spec.label) for name, spec in profile.models.items()]
    truths = sorted({shot.truth for section, shot in shots if section.key != "cues"})
    factors = list(dict.fromkeys(shot.factor for _, shot in shots if shot.factor))

    def choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
        items = "".join(f'<option value="{html.escape(v)}">{html.escape(t)}</option>' for v, t in options)
        return f'<label>{label} <select name="{name}"><option value="">all</option>{items}</select></label>'

    return (
        '<form id="filters" class="ba-filters" hidden aria-label="Choose images">'
        + choice("section", "Kind", [(s.key, s.title) for s in found if s.shots])
        + choice("model", "Model", models)
        + choice("truth", "Class", [(t, t) for t in truths])
        + choice("factor", "Set or factor", [(f, f) for f in factors])
        + '<p id="shown" role="status" aria-live="polite"></p></form>'
    )


def _card(shot: Shot, profile: Profile, outputs: Outputs) -> str:
    labels = {name: spec.label for name, spec in profile.models.items()}
    pictures = _pictures(shot, profile, outputs) if may_show(profile, shot.dataset) else ""
    lines = []
    for model, answer, confidence, right in shot.answers:
        sign = _SIGNS[right]
        name = html.escape(labels.get(model, model))
        name = f"<strong>{name}</strong>" if model in shot.models else name
        lines.append(f"<li>{sign}{name}: {html.escape(answer)} {confidence:.0%}</li>")
    factor = f"<small>{html.escape(shot.factor)}</small>" if shot.factor else ""
    return (
        f'<figure class="ba-shot" data-models="{html.escape(" ".join(shot.models))}" '
        f'data-truth="{html.escape(shot.truth)}" data-factor="{html.escape(shot.factor)}">{pictures}'
        f"<figcaption><span>{html.escape(shot.truth)}</span>{factor}<ul>{''.join(lines)}</ul>"
        f"<code>{html.escape(shot.image_id)}</code></figcaption></figure>"
    )


def _pictures(shot: Shot, profile: Profile, outputs: Outputs) -> str:
    from beyond_accuracy.plots_images import thumbnail

    data = load_dataset(outputs.dataset_spec(outputs.base(shot.dataset)))
    try:
        image = data.image(data.position(shot.image_id))
    except (DataMissing, InputError) as error:
        return f'<p class="ba-hint">{html.escape(str(error))}</p>'
    title = profile.datasets[shot.dataset].title or shot.dataset
    shown = [(thumbnail(image, SIDE), f"{shot.truth}, from {title}")]
    if shot.transform != "none":
        from beyond_accuracy.plots_invariance import transformed

        changed = transformed(image, shot.transform, SIDE, shot.image_id)
        shown.append((thumbnail(changed, SIDE), f"the same under {shot.factor}"))
    return f'<div class="ba-pair">{"".join(_img(picture, alt) for picture, alt in shown)}</div>'


def _img(picture: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    source = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/webp;base64,{source}" alt="{html.escape(alt)}" width="{SIDE}" height="{SIDE}" '
        'loading="lazy" decoding="async">'
    )
