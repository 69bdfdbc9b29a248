"""Folders of images as people have them, for several tests."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import DatasetSpec, parse_profile
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store

UGLY = ("01_Air plane", "boat-ships", "Bottle (glass)", "car&<b>van", "Stühle", "dog's")
MINI = {"source": "timm", "name": "local-dir:assets:mini_world/models/convnext_sup", "head": "probe"}


def toys(folder, per_class, classes=6):
    """World R as JPEG in class folders with ugly names; returns the table `path, label, group, rendition`."""
    table, rows = pd.read_parquet(ASSETS / "mini_world" / "world_r.parquet"), []
    for k in range(classes):
        for i, row in enumerate(table[table["label"] == k].head(per_class).itertuples()):
            path = folder / UGLY[k] / f"IMG {i:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(row.image)).convert("RGB").save(path, quality=92)
            rows.append((str(path.relative_to(folder.parent)), UGLY[k], f"camera {i % 10}", row.rendition))
    return pd.DataFrame(rows, columns=["path", "label", "group", "rendition"])


def noise(path, seed=0, size=(24, 16), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path, **options):
    return load_dataset(DatasetSpec("mine", "own", str(path), classes="", options=options))


def outputs_of(path, models=None, **datasets):
    content = {
        "name": "mine",
        "imports": ["mini_world.architectures"],
        "models": models or {"conv": MINI},
        "datasets": {"images": {"reader": "own", "path": str(path), "classes": ""}, **datasets},
    }
    return Outputs(parse_profile(content, path), Store(), {"device": "cpu", "progress": False})
