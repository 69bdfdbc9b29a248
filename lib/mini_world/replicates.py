"""Noise of training: the metrics of the report for further seeds of the models: ``python -m mini_world.replicates``.

Takes the runs of the default recipe that `train` left under the cache (seeds 1, 2, …), puts them beside the models that
ship into one profile, builds its pages in a folder of its own, and keeps their numbers: `replicates.csv`, one row per
page, set, metric, model and seed. It ships because the runs' weights do not.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pandas as pd
import yaml

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.report.build import build

from .train import CACHE, CELLS, MODELS

TABLE = MODELS.parent / "replicates.csv"
PAGES = ("models", "mistakes", "shape_bias", "calibration", "robustness", "transfer", "synthetic", "invariance")
UNTRAINED = ("params", "gflops", "images_per_second")  # the same for every run, or no property of it


def run_folders(cache: Path, recipe: str = "default") -> dict[tuple[str, int], Path]:
    """Exported models of a recipe's further seeds by (cell, seed).

    Raises:
        DataMissing: There are none.
    """
    found = {}
    for path in sorted((cache / "runs" / recipe).glob("*/model/training.json")):
        about = json.loads(path.read_text())
        if about["cell"] != "reference" and about["seed"] != 0:
            found[about["cell"], about["seed"]] = path.parent.resolve()
    if not found:
        raise DataMissing(f"{cache / 'runs' / recipe}: no further seeds; run: python -m mini_world.train --seed 1")
    return found


def profile_text(runs: dict[tuple[str, int], Path]) -> str:
    """A profile like `mini` that holds the further runs beside the models that ship, named `<cell>_seed<k>`."""
    mini = load_profile("mini").models
    models = {
        f"{cell}_seed{seed}": {
            "source": mini[cell].source,
            "name": f"local-dir:{folder}",
            "label": f"{mini[cell].label}, seed {seed}",
            "family": mini[cell].family,
            "paradigm": mini[cell].paradigm,
        }
        for (cell, seed), folder in runs.items()
    }
    about = {"extends": "mini", "name": "replicates", "title": "Mini world, further training runs", "models": models}
    return yaml.safe_dump(about, sort_keys=False)


def replicate_rows(results: pd.DataFrame) -> pd.DataFrame:
    """Results of that profile as rows `dimension, dataset, metric, model, seed, value`, whose model is the cell."""
    names = results["model"].str.extract(r"^(?P<cell>.+?)(?:_seed(?P<seed>\d+))?$")
    rows = results.assign(model=names["cell"], seed=names["seed"].fillna("0").astype(int))
    rows = rows[rows["model"].isin(CELLS) & ~rows["metric"].isin(UNTRAINED)]
    return rows[["dimension", "dataset", "metric", "model", "seed", "value"]].reset_index(drop=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the runs")
    parser.add_argument("--recipe", default="default", help="folder of the runs under the cache's `runs`")
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    folder = arguments.cache / "replicates"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replicates.yaml").write_text(profile_text(run_folders(arguments.cache, arguments.recipe)))
    os.environ["BEYOND_ACCURACY_ROOT"] = str(folder)
    if build(folder / "replicates.yaml", only=PAGES):
        raise InputError(f"{folder}: a page of the replicate runs failed; its message stands above")
    rows = replicate_rows(pd.read_csv(folder / "report" / "replicates" / "results.csv"))
    rows.to_csv(arguments.out, index=False, float_format="%.6g")
    print(f"{arguments.out}: {len(rows):,} rows, {rows.groupby('model')['seed'].nunique().to_dict()} runs")


if __name__ == "__main__":
    main()
