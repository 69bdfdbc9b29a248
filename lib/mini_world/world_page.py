"""What the report's page on the world shows: example images, factor ranges, captions, how the models were trained."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.random import Generator
from PIL import Image

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.measure.verdicts import counted
from beyond_accuracy.page import Page
from beyond_accuracy.show.figures import gallery, thumbnail

from .captions import caption

FACTORS = dict.fromkeys(("object_yaw", "object_pitch", "object_roll"), "degrees")
FACTORS |= dict.fromkeys(("camera_yaw", "camera_pitch", "camera_roll"), "degrees")
FACTORS |= dict.fromkeys(("scale", "light_intensity"), "relative")
MODELS = ASSETS / "mini_world" / "models"
RECIPE = yaml.safe_load((Path(__file__).parent / "recipes" / "default.yaml").read_text(encoding="utf-8"))  # theirs
SWEEP = {"scale": "object_scale", "light_intensity": "scene_light"}
LOSSES = {"supervised": "cross-entropy", "clip": "contrastive loss (batches of 64)"}
Pictures = tuple[list[Image.Image], list[str]]
"""Images and what stands below each."""


def sizes(page: Page, roles: Sequence[str]) -> pd.DataFrame:
    """Images per set: columns `set, images`."""
    return pd.DataFrame([(page.role(r), len(page.dataset(page.role(r)))) for r in roles], columns=["set", "images"])


def classes(page: Page, role: str, side: int, columns: int = 8) -> Pictures:
    """A typical image of each class (without any factor), and below each row the same at `side` pixels."""
    data, names = page.dataset(page.role(role)), page.class_names(page.role(role))
    typical = (data.metadata.filter(regex="^x_(?!top$)") == 0).all(axis=1).to_numpy()
    first = [int(np.flatnonzero(typical & (np.asarray(data.targets) == k))[0]) for k in range(len(names))]
    images, texts = [], []
    for row in np.array_split(np.arange(len(names)), -(-len(names) // columns)):
        whole = [data.image(first[k]) for k in row]
        images += [*whole, *(thumbnail(image, side) for image in whole)]
        texts += [*(names[k] for k in row), *("" for _ in row)]
    return images, texts


def examples(page: Page, role: str, n: int, rng: Generator) -> Pictures:
    """Random images of a role's set with their class names; for cue conflicts whose shape and which material."""
    dataset = page.role(role)
    data, names = page.dataset(dataset), page.class_names(dataset)
    chosen = np.sort(rng.choice(len(data), size=min(n, len(data)), replace=False))
    if role == "cue_conflict":
        rows = data.metadata.iloc[chosen].to_dict("records")
        texts = [f"shape {row['shape']}\nmaterial {row['texture']}" for row in rows]
    else:
        texts = [", ".join(names[k] for k in np.atleast_1d(data.targets[i])) for i in chosen]
    return [data.image(int(i)) for i in chosen], texts


def sweep_strip(page: Page, dataset: str, factor: str, scene: int = 0) -> Pictures:
    """One scene at every level of one factor, in the order of the levels."""
    meta = page.metadata(dataset)
    rows = meta[meta["factor"] == factor]
    rows = rows[rows["cluster"] == rows["cluster"].unique()[scene]].sort_values("level_value", kind="stable")
    return [page.image(dataset, image_id) for image_id in rows.index], rows["level"].astype(str).tolist()


def show(page: Page, found: Pictures, name: str, caption: str, alt: str = "", columns: int = 4) -> None:
    """Show images with their texts; without an alt text the caption stands for it, the texts added."""
    images, texts = found
    alt = alt or f"{caption} {', '.join(filter(None, texts))}."
    page.figure((gallery(images, texts, columns=columns), alt), name, caption, pd.DataFrame({"text": texts}))


def factor_ranges(page: Page, natural: str, sweeps: str) -> pd.DataFrame:
    """Range of every numeric factor in the natural set (as in training) and in the sweeps.

    Returns:
        Columns `factor, unit, low, median, high` (0.5, 50 and 99.5 % of the natural images), `sweep_low, sweep_high`.
    """
    meta, swept = page.metadata(natural), page.metadata(sweeps)
    plain = meta[(meta["count"] == 1) & (meta["rendition"] == "photo")] if "count" in meta else meta
    rows = []
    for name, unit in FACTORS.items():
        low, median, high = plain[name].quantile([0.005, 0.5, 0.995])
        levels = swept.loc[swept["factor"] == SWEEP.get(name, name), "level_value"].dropna()
        rows.append((name, unit, low, median, high, levels.min(), levels.max()))
    return pd.DataFrame(rows, columns=["factor", "unit", "low", "median", "high", "sweep_low", "sweep_high"])


def captions(page: Page, dataset: str, n: int, rng: Generator) -> pd.DataFrame:
    """Captions drawn for random images of a set, as in CLIP training."""
    meta = page.metadata(dataset)
    chosen = np.sort(rng.choice(len(meta), size=n, replace=False))
    texts = [caption(row, rng) for _, row in meta.iloc[chosen].iterrows()]
    return pd.DataFrame({"image": meta.index[chosen], "caption": texts})


def training(page: Page, folder: Path = MODELS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How those models of a page that are the world's own were trained.

    Returns:
        One row per model (`model, parameters (M), image tower (M), images, samples, minutes, device, seed`), and the
        loss curves (`model, samples, value, objective`, samples in thousands).
    """
    rows, curves = [], []
    for spec in (spec for spec in page.specs if "mini_world" in spec.id):
        record = json.loads((folder / spec.name / "training.json").read_text(encoding="utf-8"))
        sizes = (record["parameters"] / 1e6, record["tower_parameters"] / 1e6, record["training_images"])
        rows.append((spec.name, *sizes, *(record[key] for key in ("samples_seen", "minutes", "device", "seed"))))
        curve = pd.read_csv(folder / spec.name / "training.csv")[["samples", "loss", "holdout_accuracy"]]
        curve = curve.rename(columns={"loss": "value"}).assign(samples=curve["samples"] / 1000)
        curves.append(curve.assign(model=spec.name, objective=LOSSES.get(spec.paradigm, spec.paradigm)))
    columns = ("parameters (M)", "image tower (M)", "images", "samples", "minutes", "device", "seed")
    return pd.DataFrame(rows, columns=["model", *columns]), pd.concat(curves) if curves else pd.DataFrame()


def sentence(budget: pd.DataFrame) -> str:
    """The finding: what the models share (rows of `training`)."""
    samples, images = (sorted(set(budget[column])) for column in ("samples", "images"))
    if len(budget) < 2 or len(samples) > 1 or len(images) > 1:
        return f"Trained on the world: {counted(len(budget), 'model')} of this page, each on a budget of its own."
    return (
        f"{len(budget)} models, each trained from scratch on {samples[0]:,} samples of the same {images[0]:,} images: "
        "only architecture and objective differ between them."
    )
