"""The choices that change a benchmark's numbers without changing the model: what else the same run could have used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.jobs import usable_precisions
from beyond_accuracy.labels import class_space
from beyond_accuracy.predictions import Predictions, all_columns, folder_positions, rescale
from beyond_accuracy.profiles import Profile

if TYPE_CHECKING:  # planning needs none of them
    import pandas as pd

    from beyond_accuracy.metrics.conventions import Pair
    from beyond_accuracy.study import Study

GROUPS = {
    "preset": "resize and crop",
    "interpolation": "interpolation",
    "antialias": "antialiasing",
    "precision": "precision",
    "logit_scale": "CLIP logit scale",
    "prompts": "CLIP prompts",
    "classes": "classes scored",
}


@dataclass(frozen=True)
class Convention:
    """One changed choice.

    Attributes:
        name: `<setting>=<value>`, part of the metrics' names.
        group: The choice (a key of `GROUPS`).
        label: What it is changed to, for readers.
        settings: The changed values of `Settings`, by name.
        rescored: The stored logits tell what it does; no image has to go through the network.
    """

    name: str
    group: str
    label: str
    settings: tuple[tuple[str, object], ...]
    rescored: bool = False


def of(profile: Profile, dataset: str, device: str = "auto") -> list[Convention]:
    """Every other choice that a run of this profile could have made on one dataset.

    Which of them touch which model shows in the store's keys: a choice that leaves a model's key as it is (a preset
    that its preprocessing follows already, prompts of a supervised model) does not touch it.

    Args:
        profile: The profile, with the conventions that the others are compared with.
        dataset: The dataset that is scored under all of them.
        device: As of `open_study`: a precision that it does not have, or only in emulation, is left out.
    """
    now = profile.settings
    preset = "paper" if now.preset == "library" else "library"
    found = [_one("preset", preset, f"preset {preset}")]
    found += [_one("interpolation", kind, kind) for kind in ("bicubic", "bilinear") if kind != now.interpolation]
    found.append(_one("antialias", not now.antialias, "off" if now.antialias else "on"))
    # `auto` is one of them, too; which one need not be known here: it leaves every key as it is
    found += [_one("precision", kind, kind) for kind in usable_precisions(device) if kind != now.precision]
    scale = "100" if now.logit_scale == "learned" else "learned"
    found.append(Convention(f"logit_scale={scale}", "logit_scale", scale, (("logit_scale", scale),), rescored=True))
    if now.prompts == "default" and (template := _plainest(profile, dataset)):
        found.append(Convention("prompts=one", "prompts", "one template", (("prompts", template),)))
    return found


def left_out(device: str) -> str:
    """What is not compared on a device, for readers; empty where nothing is left out."""
    absent = [kind for kind in ("fp32", "bf16", "fp16") if kind not in usable_precisions(device)]
    return f"{' and '.join(absent)} left out: this device has no such arithmetic, or emulates it" if absent else ""


def _one(setting: str, value: object, label: str) -> Convention:
    return Convention(f"{setting}={str(value).lower()}", setting, label, ((setting, value),))


def _plainest(profile: Profile, dataset: str) -> str:
    """The shortest template that speaks of a photo (`a photo of a {c}.`); empty where there is but one template."""
    classes = profile.datasets[dataset].classes
    templates = class_space(classes).templates if classes else ()
    return min((t for t in templates if "photo" in t), key=len, default="") if len(templates) > 1 else ""


def compared(study: Study, dataset: str, limit: int = 0) -> list[Pair]:
    """Every model under every convention that touches it, beside the same images under the profile's conventions.

    Args:
        study: The open page.
        dataset: The dataset.
        limit: Use at most this many of its images; 0 = all.

    Raises:
        DataMissing: Images or weights are not on this machine.
    """
    base = study.under(limit=limit)
    plain = base.predictions(dataset)
    pairs = []
    for convention in of(base.profile, dataset, base.outputs.device):
        view = base.under(**dict(convention.settings))
        if convention.rescored:
            changed = dict(_rescaled(base, view, plain))
        else:
            changed = {m: p for m, p in view.predictions(dataset).items() if p.meta.get("key") != plain[m].meta["key"]}
        pairs += [_pair(convention, study.title(dataset), model, plain[model], p) for model, p in changed.items()]
    return pairs


def compared_classes(study: Study, dataset: str) -> list[Pair]:
    """Every model scored on all its classes, beside the classes that a set with some of them is scored on.

    Empty where the set has all classes, and for models whose logits are not known.
    """
    pairs = []
    for model, run in study.predictions(dataset).items():
        if run.columns is not None and run.logits is not None and not run.multilabel:
            width = run.logits.shape[1]
            label = f"all {width:,} instead of {len(run.columns)}"
            convention = Convention("classes=all", "classes", label, (), rescored=True)
            pairs.append(_pair(convention, study.title(dataset), model, run, all_columns(run)))
    return pairs


def accuracy_by_folder(study: Study, dataset: str) -> dict[str, float]:
    """Accuracy in percent if a class's position among the set's folders were taken for its index; see timm #2456."""
    runs = study.predictions(dataset).items()
    return {m: 100 * float(folder_positions(all_columns(p)).correct.mean()) for m, p in runs if p.columns is not None}


def _rescaled(base: Study, view: Study, plain: dict[str, Predictions]) -> Iterator[tuple[str, Predictions]]:
    for model, run in plain.items():
        before, after = (study.card(model) for study in (base, view))
        if before is None or run.logits is None or before.logit_scale in (None, after.logit_scale):
            continue
        yield model, rescale(run, after.logit_scale / before.logit_scale)


def _pair(convention: Convention, title: str, model: str, plain: Predictions, changed: Predictions) -> Pair:
    from beyond_accuracy.metrics.conventions import Pair

    if not (plain.ids == changed.ids).all():
        raise InputError(f"{plain.dataset}: {model} saw other images under {convention.name}")
    label = f"{GROUPS[convention.group]}: {convention.label}"
    return Pair(convention.name, convention.group, label, plain.dataset, title, model, plain, changed)


def factors(study: Study, pairs: list[Pair]) -> pd.DataFrame | None:
    """Factors of the images for the average error ratio; None where the set has none, or their package is absent.

    Args:
        study: The page, or its view of the sample (`Study.under`) that the pairs are over.
        pairs: Of one dataset.
    """
    from beyond_accuracy.annotations import factor_frame

    if not pairs:
        return None
    source = study.role("factors") if study.has_role("factors") else None
    try:
        return factor_frame(pairs[0].plain.ids, study.metadata(pairs[0].dataset), source)
    except (DataMissing, InputError):
        return None
