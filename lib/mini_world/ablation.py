"""Metrics of every training run on every rendered set: ``python -m mini_world.ablation``.

Reads the runs that `train` left under the cache (several seeds per cell and training set) and the four models that
ship, predicts each available set once per run, and writes two tables, which ship because the runs' weights do not:
`ablation.csv`, one row per run and metric, and `ablation_covariance.csv`, per metric how the runs' values vary together
over the choice of images (`beyond_accuracy.dimensions.ablation`).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.dimensions import calibration
from beyond_accuracy.dimensions.ablation import covariance_path, image_covariance
from beyond_accuracy.dimensions.shape_bias import shape_bias

from .classes import CLASSES
from .evaluate import ASSETS, is_correct, load_model, predict, set_paths
from .train import CACHE, CELLS, MODELS, pick_device

SETS = ("world_val", "world_v2", "world_a", "world_r", "world_sketch", "world_hard", "world_cue", "world_pug")
CALIBRATED = ("world_val", "world_r", "world_sketch")
TABLE = ASSETS / "ablation.csv"
ARCHITECTURE = {"vit": "transformer", "convnext": "convnet"}
KEPT = ("texture", "factor", "cluster")  # columns of the sets that metrics need


@dataclass(frozen=True)
class Quantity:
    """One metric of one set for one run.

    Attributes:
        dataset: name of the set.
        metric: name of the metric.
        unit: `percent`, `fraction` or `nats`.
        value: the metric; NaN where it is not defined.
        n: images behind it.
        images: (n,) per-image values whose mean is `value`: what the metric is the mean of, or its linearisation.
        clusters: (n,) origin of each image.
    """

    dataset: str
    metric: str
    unit: str
    value: float
    n: int
    images: NDArray[np.float64]
    clusters: NDArray

    def row(self) -> dict:
        """As a row of the table."""
        columns = {name: getattr(self, name) for name in ("dataset", "metric", "value", "n", "unit")}
        return {**columns, "clusters": len(np.unique(self.clusters))}


def quantities(name: str, predictions: pd.DataFrame, columns: pd.DataFrame) -> list[Quantity]:
    """The metrics of one set.

    Args:
        name: of the set.
        predictions: what `evaluate.predict` returned.
        columns: metadata of the same images, in order; `cluster`, `texture` of the cue conflicts, `factor` of sweeps.
    """
    correct = is_correct(predictions)
    confidence = predictions["confidence"].to_numpy(float)
    clusters = columns["cluster"].to_numpy() if "cluster" in columns else np.arange(len(correct))
    found = []

    def add(metric: str, unit: str, images: ArrayLike, n: int | None = None, chosen: ArrayLike = slice(None)) -> None:
        images = np.asarray(images, float)
        count = len(images) if n is None else n
        found.append(Quantity(name, metric, unit, float(images.mean()), count, images, clusters[chosen]))

    add("accuracy", "percent", 100 * correct)
    if name in CALIBRATED:
        add("ece", "fraction", ece_images(confidence, correct))
        add("signed_gap", "fraction", confidence - correct)
        add("nll", "nats", calibration.nll(predictions["target_probability"].to_numpy(float)))
    if name == "world_cue":
        texture = predictions["pred"].to_numpy() == columns["texture"].map(CLASSES.index).to_numpy()
        add("shape_bias", "fraction", shape_bias_images(correct, texture), int((correct | texture).sum()))
    if name == "world_pug":
        factors = columns["factor"].to_numpy()
        for factor in sorted(set(factors)):
            chosen = factors == factor
            add(f"accuracy:{factor}", "percent", 100 * correct[chosen], chosen=chosen)
    return found


def ece_images(confidence: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
    """(n,) values whose mean is the ECE: confidence minus correctness, with the sign of its bin's gap."""
    confidence, difference = np.asarray(confidence, float), np.asarray(confidence, float) - np.asarray(correct, float)
    index = calibration.bin_index(confidence, calibration.bin_edges(confidence, 15, "width"))
    return np.sign(np.bincount(index, difference))[index] * difference


def shape_bias_images(shape: ArrayLike, texture: ArrayLike) -> NDArray[np.float64]:
    """(n,) linearised shape bias (a ratio of means): the bias plus each image's influence on it; NaN if undefined."""
    shape, decided = np.asarray(shape, float), np.asarray(shape, bool) | np.asarray(texture, bool)
    bias = shape_bias(shape, texture)
    return bias + (shape - bias * decided) / decided.mean() if decided.any() else np.full(len(shape), np.nan)


def run_folders(cache: Path, shipped: Path = MODELS) -> dict[str, Path]:
    """Folders of the finished runs of the four cells by `recipe/cell-seed`, the shipped models among them.

    Raises:
        DataMissing: there is no run beside the shipped models.
    """
    found = {
        f"{path.parents[2].name}/{path.parents[1].name}": path.parent
        for path in sorted((cache / "runs").glob("*/*/model/training.json"))
        if path.parents[1].name.rpartition("-")[0] in CELLS and not path.parents[1].name.startswith("reference")
    }  # fmt: skip
    if not found:
        raise DataMissing(f"{cache / 'runs'}: no finished run; train some: python -m mini_world.train --recipe short")
    for path in sorted(shipped.glob("*/training.json")):
        about = json.loads(path.read_text())
        found.setdefault(f"{about['recipe']['name']}/{about['cell']}-{about['seed']}", path.parent)
    return found


def describe(name: str, folder: Path) -> dict:
    """The columns that say which run it is and what it cost, from what `train` recorded."""
    provenance = json.loads((folder / "training.json").read_text())
    tower, objective = provenance["cell"].split("_")
    return {
        "run": name,
        "recipe": provenance["recipe"]["name"],
        "samples_seen": provenance["samples_seen"],
        "data": provenance["recipe"]["data"]["subset"],
        "training_set": provenance["recipe"]["data"]["set"],
        "architecture": ARCHITECTURE[tower],
        "objective": {"sup": "supervised"}.get(objective, objective),
        "seed": provenance["seed"],
        "minutes": provenance["minutes"],
        "device": provenance["device"],
    }


def measure(name: str, folder: Path, cache: Path, device: str) -> list[Quantity]:
    """All quantities of one run; predictions are kept under the cache, so that a second call only reads them."""
    found, model = [], None
    for dataset in SETS:
        try:
            paths = set_paths(dataset, cache)
        except DataMissing:
            continue
        kept = cache / "runs" / name / "predictions" / f"{dataset}.parquet"
        stale = not kept.exists() or kept.stat().st_mtime < max(
            (folder / "training.json").stat().st_mtime, *(path.stat().st_mtime for path in paths)
        )
        if stale:
            model = model or load_model(folder, device=device)
            kept.parent.mkdir(parents=True, exist_ok=True)
            predict(model, paths).to_parquet(kept)
        extra = [c for c in KEPT if c in pq.read_schema(paths[0]).names]
        columns = pd.concat([pq.read_table(path, columns=["id", *extra]).to_pandas() for path in paths])
        predictions = pd.read_parquet(kept)
        if not np.array_equal(predictions["id"], columns["id"]):
            raise DataMissing(f"{kept}: predictions of other images than {paths[0]}; remove the file and run again")
        found += quantities(dataset, predictions, columns.reset_index(drop=True))
    return found


def covariance_rows(measured: dict[str, list[Quantity]]) -> list[dict]:
    """Per quantity the lower triangle of the runs' covariance over images, one row per run, one column per run.

    Raises:
        InputError: the runs were not measured on the same sets.
    """
    runs, rows = list(measured), []
    kinds = {tuple((q.dataset, q.metric) for q in found) for found in measured.values()}
    if len(kinds) != 1:
        raise InputError("the runs were predicted on different sets; render all sets, then run this again")
    for same in zip(*measured.values(), strict=True):
        usable = np.array([np.isfinite(q.images).all() for q in same])
        full = np.full((len(runs), len(runs)), np.nan)
        if usable.any():
            stacked = np.stack([q.images for q, use in zip(same, usable, strict=True) if use])
            full[np.ix_(usable, usable)] = image_covariance(stacked, same[0].clusters)
        for k, run in enumerate(runs):
            values = dict(zip(runs[: k + 1], full[k, : k + 1], strict=True))
            rows.append({"dataset": same[0].dataset, "metric": same[0].metric, "run": run, **values})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="on a CPU")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of rendered sets and runs")
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, measured = [], {}
    for name, folder in run_folders(arguments.cache).items():
        measured[name] = measure(name, folder, arguments.cache, str(pick_device(arguments.device)))
        rows += [{**describe(name, folder), **quantity.row()} for quantity in measured[name]]
        print(f"{name}: {len(measured[name])} metrics", flush=True)
    table = pd.DataFrame(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out, index=False, float_format="%.6g")
    covariance = covariance_path(arguments.out)
    pd.DataFrame(covariance_rows(measured)).to_csv(covariance, index=False, float_format="%.5g")
    print(f"{arguments.out}, {covariance}: {len(measured)} runs of {table.recipe.nunique()} recipes")


if __name__ == "__main__":
    main()
