"""What the report's page on the world shows: example images, factor ranges, captions, how the models were trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.random import Generator
from PIL import Image

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.page import Page
from beyond_accuracy.show import theme

from .captions import caption

FACTORS = {
    "object_yaw": "degrees",
    "object_pitch": "degrees",
    "object_roll": "degrees",
    "camera_yaw": "degrees",
    "camera_pitch": "degrees",
    "camera_roll": "degrees",
    "scale": "relative",
    "light_intensity": "relative",
}
MODELS = ASSETS / "mini_world" / "models"
SWEEP = {"scale": "object_scale", "light_intensity": "scene_light"}


def examples(study: Page, dataset: str, n: int, rng: Generator) -> tuple[list[Image.Image], list[str]]:
    """Random images of a set with the class names of their labels."""
    data, names = study.dataset(dataset), study.class_names(dataset)
    chosen = np.sort(rng.choice(len(data), size=min(n, len(data)), replace=False))
    labels = [np.atleast_1d(data.targets[i]) for i in chosen]
    return [data.image(int(i)) for i in chosen], [", ".join(names[k] for k in label) for label in labels]


def cue_examples(study: Page, dataset: str, n: int, rng: Generator) -> tuple[list[Image.Image], list[str]]:
    """Random cue-conflict images: whose shape, and whose material."""
    data = study.dataset(dataset)
    chosen = np.sort(rng.choice(len(data), size=min(n, len(data)), replace=False))
    meta = data.metadata.iloc[chosen]
    texts = [f"shape {row['shape']}\nmaterial {row['texture']}" for _, row in meta.iterrows()]
    return [data.image(int(i)) for i in chosen], texts


def sweep_strip(study: Page, dataset: str, factor: str, scene: int = 0) -> tuple[list[Image.Image], list[str]]:
    """One scene at every level of one factor, in the order of the levels."""
    meta = study.metadata(dataset)
    rows = meta[meta["factor"] == factor]
    first = rows["cluster"].unique()[scene]
    rows = rows[rows["cluster"] == first].sort_values("level_value", kind="stable")
    return [study.image(dataset, image_id) for image_id in rows.index], rows["level"].astype(str).tolist()


def factor_ranges(study: Page, natural: str, sweeps: str) -> pd.DataFrame:
    """Range of every numeric factor in the natural set (as in training) and in the sweeps.

    Returns:
        Columns `factor, unit, low, median, high` (0.5, 50 and 99.5 % of the natural images), `sweep_low, sweep_high`.
    """
    meta, swept = study.metadata(natural), study.metadata(sweeps)
    plain = meta[(meta["count"] == 1) & (meta["rendition"] == "photo")] if "count" in meta else meta
    rows = []
    for name, unit in FACTORS.items():
        low, median, high = plain[name].quantile([0.005, 0.5, 0.995])
        levels = swept.loc[swept["factor"] == SWEEP.get(name, name), "level_value"].dropna()
        rows.append((name, unit, low, median, high, levels.min(), levels.max()))
    return pd.DataFrame(rows, columns=["factor", "unit", "low", "median", "high", "sweep_low", "sweep_high"])


def captions(study: Page, dataset: str, n: int, rng: Generator) -> pd.DataFrame:
    """Captions drawn for random images of a set, as in CLIP training."""
    meta = study.metadata(dataset)
    chosen = np.sort(rng.choice(len(meta), size=n, replace=False))
    return pd.DataFrame(
        {"image": meta.index[chosen], "caption": [caption(row, rng) for _, row in meta.iloc[chosen].iterrows()]}
    )


def training(
    models: Sequence[str], folder: Path = ASSETS / "mini_world" / "models"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the models were trained.

    Returns:
        One row per model (`model, parameters_m, tower_m, images, samples, minutes, device, seed`), and the loss curves
        (`model, samples, loss, holdout_accuracy`).
    """
    rows, curves = [], []
    for model in models:
        record = json.loads((folder / model / "training.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "model": model,
                "parameters_m": record["parameters"] / 1e6,
                "tower_m": record["tower_parameters"] / 1e6,
                "images": record["training_images"],
                "samples": record["samples_seen"],
                "minutes": record["minutes"],
                "device": record["device"],
                "seed": record["seed"],
            }
        )
        curves.append(pd.read_csv(folder / model / "training.csv").assign(model=model))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def loss_figure(study: Page, curves: pd.DataFrame) -> Figure:
    """Training loss over samples seen; the two objectives have different losses, so one panel each."""
    objectives = {"supervised": "cross-entropy", "clip": "contrastive loss (batches of 64)"}
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH, 3.2))
    for ax, (paradigm, title) in zip(axes, objectives.items(), strict=True):
        for spec in study.specs:
            rows = curves[curves["model"] == spec.name]
            if spec.paradigm == paradigm and len(rows):
                look = theme.style(spec, study.specs)
                ax.plot(rows["samples"] / 1000, rows["loss"], look.linestyle, color=look.color, label=look.label)
        ax.set(title=title, xlabel="thousand samples seen", ylim=(0, None))
        ax.legend()
    axes[0].set_ylabel("loss")
    return fig
