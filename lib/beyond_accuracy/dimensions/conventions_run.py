"""The choices that change a benchmark's numbers without changing the model: what else the same run could have used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.inference.plan import Convention, conventions, left_out
from beyond_accuracy.inference.predictions import Predictions, all_columns, folder_positions, rescale

if TYPE_CHECKING:  # planning needs none of them
    import pandas as pd

    from beyond_accuracy.dimensions.conventions import Pair
    from beyond_accuracy.page import Page

__all__ = ["accuracy_by_folder", "compared", "compared_classes", "factors", "left_out"]

GROUPS = {
    "preset": "resize and crop",
    "interpolation": "interpolation",
    "antialias": "antialiasing",
    "precision": "precision",
    "logit_scale": "CLIP logit scale",
    "prompts": "CLIP prompts",
    "classes": "classes scored",
}


def compared(study: Page, dataset: str, limit: int = 0) -> list[Pair]:
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
    for convention in conventions(base.profile, dataset, base.outputs.device):
        view = base.under(**dict(convention.settings))
        if convention.rescored:
            changed = dict(_rescaled(base, view, plain))
        else:
            changed = {m: p for m, p in view.predictions(dataset).items() if p.meta.get("key") != plain[m].meta["key"]}
        pairs += [_pair(convention, study.title(dataset), model, plain[model], p) for model, p in changed.items()]
    return pairs


def compared_classes(study: Page, dataset: str) -> list[Pair]:
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


def accuracy_by_folder(study: Page, dataset: str) -> dict[str, float]:
    """Accuracy in percent if a class's position among the set's folders were taken for its index; see timm #2456."""
    runs = study.predictions(dataset).items()
    return {m: 100 * float(folder_positions(all_columns(p)).correct.mean()) for m, p in runs if p.columns is not None}


def _rescaled(base: Page, view: Page, plain: dict[str, Predictions]) -> Iterator[tuple[str, Predictions]]:
    for model, run in plain.items():
        before, after = (study.card(model) for study in (base, view))
        if before is None or run.logits is None or before.logit_scale in (None, after.logit_scale):
            continue
        yield model, rescale(run, after.logit_scale / before.logit_scale)


def _pair(convention: Convention, title: str, model: str, plain: Predictions, changed: Predictions) -> Pair:
    from beyond_accuracy.dimensions.conventions import Pair

    if not (plain.ids == changed.ids).all():
        raise InputError(f"{plain.dataset}: {model} saw other images under {convention.name}")
    label = f"{GROUPS[convention.group]}: {convention.label}"
    return Pair(convention.name, convention.group, label, plain.dataset, title, model, plain, changed)


def factors(study: Page, pairs: list[Pair]) -> pd.DataFrame | None:
    """Factors of the images for the average error ratio; None where the set has none, or their package is absent.

    Args:
        study: The page, or its view of the sample (`Page.under`) that the pairs are over.
        pairs: Of one dataset.
    """
    from beyond_accuracy.data.annotations import factor_frame

    if not pairs:
        return None
    source = study.role("factors") if study.has_role("factors") else None
    try:
        return factor_frame(pairs[0].plain.ids, study.metadata(pairs[0].dataset), source)
    except (DataMissing, InputError):
        return None
