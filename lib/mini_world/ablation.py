"""Metrics of every training run on every rendered set: ``python -m mini_world.ablation``.

Reads the runs that `train` left under the cache (several seeds per cell and training set), predicts each available set
once per run, and writes one tidy table, which ships because the runs' weights do not.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from beyond_accuracy.errors import DataMissing
from beyond_accuracy.metrics import calibration
from beyond_accuracy.metrics.shape_bias import shape_bias

from .classes import CLASSES
from .evaluate import ASSETS, is_correct, load_model, predict, set_paths
from .train import CACHE, CELLS, pick_device

SETS = ("world_val", "world_v2", "world_a", "world_r", "world_sketch", "world_hard", "world_cue", "world_pug")
CALIBRATED = ("world_val", "world_r", "world_sketch")
TABLE = ASSETS / "ablation.csv"
ARCHITECTURE = {"vit": "transformer", "convnext": "convnet"}


def set_metrics(name: str, predictions: pd.DataFrame, columns: pd.DataFrame) -> list[dict]:
    """The metrics of one set.

    Args:
        name: of the set.
        predictions: what `evaluate.predict` returned.
        columns: metadata of the same images, in order; `texture` of the cue conflicts, `factor` of the sweeps.

    Returns:
        Rows with `metric, value, n, unit`.
    """
    correct = is_correct(predictions)
    confidence = predictions["confidence"].to_numpy(float)
    n = len(correct)

    def row(metric: str, value: float, count: int, unit: str) -> dict:
        return {"dataset": name, "metric": metric, "value": float(value), "n": count, "unit": unit}

    rows = [row("accuracy", 100 * correct.mean(), n, "percent")]
    if name in CALIBRATED:
        rows.append(row("ece", calibration.ece(confidence, correct), n, "fraction"))
        rows.append(row("signed_gap", calibration.signed_gap(confidence, correct), n, "fraction"))
        target = predictions["target_probability"].to_numpy(float)
        rows.append(row("nll", calibration.nll(target).mean(), n, "nats"))
    if name == "world_cue":
        texture = predictions["pred"].to_numpy() == columns["texture"].map(CLASSES.index).to_numpy()
        rows.append(row("shape_bias", shape_bias(correct, texture), int((correct | texture).sum()), "fraction"))
    if name == "world_pug":
        for factor, chosen in pd.Series(correct).groupby(columns["factor"].to_numpy()):
            rows.append(row(f"accuracy:{factor}", 100 * chosen.mean(), len(chosen), "percent"))
    return rows


def run_folders(cache: Path) -> list[Path]:
    """Folders of the finished runs of the four cells, by recipe, cell and seed.

    Raises:
        DataMissing: there is none.
    """
    folders = sorted(
        path.parent for path in (cache / "runs").glob("*/*/model/training.json")
        if path.parent.parent.name.rpartition("-")[0] in CELLS and not path.parent.parent.name.startswith("reference")
    )  # fmt: skip
    if not folders:
        raise DataMissing(f"{cache / 'runs'}: no finished run; train some: python -m mini_world.train --recipe short")
    return folders


def measure(folder: Path, cache: Path, device: str) -> list[dict]:
    """All rows of one run; predictions are kept beside it, so that a second call only reads them."""
    provenance = json.loads((folder / "training.json").read_text())
    tower, objective = provenance["cell"].split("_")
    about = {
        "recipe": provenance["recipe"]["name"],
        "samples_seen": provenance["samples_seen"],
        "data": provenance["recipe"]["data"]["subset"],
        "training_set": provenance["recipe"]["data"]["set"],
        "architecture": ARCHITECTURE[tower],
        "objective": {"sup": "supervised"}.get(objective, objective),
        "seed": provenance["seed"],
    }
    rows, model = [], None
    for name in SETS:
        try:
            paths = set_paths(name, cache)
        except DataMissing:
            continue
        kept = folder.parent / "predictions" / f"{name}.parquet"
        stale = not kept.exists() or kept.stat().st_mtime < max(
            (folder / "training.json").stat().st_mtime, *(path.stat().st_mtime for path in paths)
        )
        if stale:
            model = model or load_model(folder, device=device)
            kept.parent.mkdir(exist_ok=True)
            predict(model, paths).to_parquet(kept)
        extra = [c for c in ("texture", "factor") if c in pq.read_schema(paths[0]).names]
        columns = pd.concat([pq.read_table(path, columns=["id", *extra]).to_pandas() for path in paths])
        predictions = pd.read_parquet(kept)
        if not np.array_equal(predictions["id"], columns["id"]):
            raise DataMissing(f"{kept}: predictions of other images than {paths[0]}; remove the file and run again")
        rows += [{**about, **row} for row in set_metrics(name, predictions, columns.reset_index(drop=True))]
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
    rows = []
    for folder in run_folders(arguments.cache):
        rows += measure(folder, arguments.cache, str(pick_device(arguments.device)))
        print(f"{folder.parent.parent.name}/{folder.parent.name}: {len(rows)} rows", flush=True)
    table = pd.DataFrame(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out, index=False, float_format="%.6g")
    print(f"{arguments.out}: {len(table)} rows of {table.groupby(['recipe', 'data']).ngroups} recipes")


if __name__ == "__main__":
    main()
