"""Accuracy of exported models on a rendered set: ``python -m mini_world.evaluate --model vit_sup --set world_val``.

Loads what `train` exported exactly as any user would (timm's and open_clip's `local-dir:` names), reads the set's
Parquet file or rendered shards, and writes one row per image (`id, target, pred, confidence, target_probability,
logits`) to ``.cache/mini_world/predictions/<set>/<model>.parquet``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pyarrow.parquet as pq
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import softmax
from torch import Tensor

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.measure.stats import wilson

from . import architectures  # noqa: F401  registers the towers with timm
from .captions import zero_shot_prompts
from .classes import CLASSES
from .train import CACHE, MODELS, REPOSITORY, pick_device
from .train_data import TokenTable

ASSETS = REPOSITORY / "lib" / "beyond_accuracy" / "assets" / "mini_world"
BATCH = 256


@dataclass(frozen=True)
class LoadedModel:
    """A model as exported.

    Attributes:
        preprocess: PIL image to (3, size, size).
        logits: (B, 3, size, size) to (B, classes) float32.
    """

    preprocess: Callable[[Image.Image], Tensor]
    logits: Callable[[Tensor], Tensor]


def load_model(folder: Path, prompts: list[list[str]] | None = None, device: str = "cpu") -> LoadedModel:
    """Loads an exported model.

    Args:
        folder: what `train` wrote.
        prompts: per class the zero-shot prompts of a CLIP model; None takes the mini world's.
        device: where to run.
    """
    if (folder / "open_clip_config.json").exists():
        return _load_clip(folder, prompts, device)
    if not (folder / "config.json").exists():
        raise DataMissing(f"{folder}: no model here; train it with: python -m mini_world.train --cell {folder.name}")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(device)
    config = timm.data.resolve_model_data_config(model)
    return LoadedModel(timm.data.create_transform(**config, is_training=False), lambda x: model(x.to(device)).float())


def _load_clip(folder: Path, prompts: list[list[str]] | None, device: str) -> LoadedModel:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", device=device)
    model.eval()
    table = TokenTable.load(folder)
    if prompts is None:
        prompts = [zero_shot_prompts(name) for name in CLASSES]
    with torch.no_grad():
        rows = [model.encode_text(table(texts).to(device), normalize=True).mean(0) for texts in prompts]
        classifier = F.normalize(torch.stack(rows), dim=-1)

    def logits(images: Tensor) -> Tensor:
        features = model.encode_image(images.to(device), normalize=True)
        return (model.logit_scale.exp() * features @ classifier.T).float()

    return LoadedModel(preprocess, logits)


def set_paths(name: str, cache: Path = CACHE, assets: Path = ASSETS) -> list[Path]:
    """Files of a rendered set: the shipped one, else the rendered shards.

    Raises:
        DataMissing: the set has not been rendered.
    """
    if (shipped := assets / f"{name}.parquet").exists():
        return [shipped]
    folder = {"world_train": "train", "world_train_broad": "train_broad"}.get(name, f"shards/{name}")
    if paths := sorted((cache / folder).glob("part-*.parquet")):
        return paths
    raise DataMissing(f"{name}: not rendered yet; run: python -m mini_world.build --only {name}")


@torch.no_grad()
def predict(model: LoadedModel, paths: list[Path]) -> pd.DataFrame:
    """One row per image.

    Args:
        model: the loaded model.
        paths: Parquet files with the columns `id`, `image` (encoded) and `label` (an integer, or a list of them).

    Returns:
        Frame with `id, target, pred, confidence, target_probability, logits`; for several labels `target_probability`
        is their sum.
    """
    parts = []
    for path in paths:
        table = pq.read_table(path, columns=["id", "image", "label"])
        for batch in table.to_batches(max_chunksize=BATCH):
            frame = batch.to_pandas()
            images = [Image.open(io.BytesIO(data)).convert("RGB") for data in frame["image"]]
            logits = model.logits(torch.stack([model.preprocess(image) for image in images])).cpu().numpy()
            probabilities = softmax(logits, axis=1)
            targets = [np.atleast_1d(label) for label in frame["label"]]
            parts.append(
                pd.DataFrame(
                    {
                        "id": frame["id"],
                        "target": frame["label"],
                        "pred": logits.argmax(1),
                        "confidence": probabilities.max(1),
                        "target_probability": [p[t].sum() for p, t in zip(probabilities, targets, strict=True)],
                        "logits": list(logits),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def is_correct(predictions: pd.DataFrame) -> np.ndarray:
    """(n,) bool: the predicted class is the label, or one of the labels."""
    return np.array([p in np.atleast_1d(t) for p, t in zip(predictions["pred"], predictions["target"], strict=True)])


def model_folder(name: str, cache: Path = CACHE) -> Path:
    """Folder of an exported model: one that ships, `reference`, or any path."""
    if (MODELS / name).is_dir():
        return MODELS / name
    if name == "reference":
        return cache / "runs" / "reference" / "reference-0" / "model"
    return Path(name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["vit_sup", "convnext_sup", "vit_clip", "convnext_clip"])
    parser.add_argument("--set", nargs="+", default=["world_val"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="on a CPU")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of rendered sets, runs and predictions")
    parser.add_argument("--record", action="store_true", help="write the accuracies into the models' training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = str(pick_device(arguments.device))
    for name in arguments.model:
        folder = model_folder(name, arguments.cache)
        model = load_model(folder, device=device)
        for set_name in arguments.set:
            predictions = predict(model, set_paths(set_name, arguments.cache))
            path = arguments.cache / "predictions" / set_name / f"{name.replace('/', '_')}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            predictions.to_parquet(path)
            hits, count = int(is_correct(predictions).sum()), len(predictions)
            low, high = wilson(hits, count)
            print(f"{name} on {set_name}: {hits / count:.4f} [{low:.4f}, {high:.4f}], n = {count}  {path}", flush=True)
            if arguments.record:
                provenance = json.loads((folder / "training.json").read_text())
                provenance.setdefault("accuracy", {})[set_name] = {"value": round(hits / count, 4), "n": count}
                (folder / "training.json").write_text(json.dumps(provenance, indent=1) + "\n")


if __name__ == "__main__":
    main()
