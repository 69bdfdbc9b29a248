"""Noise of training: the metrics of the report for further seeds of the models: ``python -m mini_world.replicates``.

Takes the runs of the default recipe that `train` left under the cache (seeds 1, 2, …), puts those of each seed in the
places of the models that ship (seed 0), builds the pages in a folder of their own, and keeps their numbers:
`replicates.csv`, one row per page, set, metric, model and seed. It ships because the runs' weights do not.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import yaml

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.measure.verdicts import RUNS
from beyond_accuracy.report.build import build

from .train import CACHE, CELLS, MODELS

TABLE = MODELS.parent / "replicates.csv"
PAGES = ("models", "mistakes", "shape_bias", "calibration", "robustness", "transfer", "synthetic", "invariance")
KEPT = ("source", "label", "family", "paradigm")
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


def profile_text(runs: dict[tuple[str, int], Path], seed: int) -> str:
    """A profile like `mini` in which the runs of one seed take the places of the models that ship."""
    mini = load_profile("mini").models
    models = {
        cell: {**{key: getattr(mini[cell], key) for key in KEPT}, "name": f"local-dir:{folder}"}
        for (cell, k), folder in runs.items()
        if k == seed
    }
    about = {"extends": "mini", "name": f"seed{seed}", "title": f"Mini world, training seed {seed}", "models": models}
    return yaml.safe_dump(about, sort_keys=False)


def replicate_rows(results: pd.DataFrame, seed: int, cells: Collection[str]) -> pd.DataFrame:
    """Results of such a report as rows of `verdicts.RUNS`, of the cells that have this seed."""
    rows = results[results["model"].isin(cells) & ~results["metric"].isin(UNTRAINED)]
    return rows.assign(seed=seed)[RUNS].reset_index(drop=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the runs")
    parser.add_argument("--recipe", default="default", help="folder of the runs under the cache's `runs`")
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    folder, runs = arguments.cache / "replicates", run_folders(arguments.cache, arguments.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["BEYOND_ACCURACY_ROOT"] = str(folder)
    parts = []
    for seed in [0, *sorted({seed for _, seed in runs})]:
        profile = folder / f"seed{seed}.yaml"
        profile.write_text(profile_text(runs, seed))
        if build(profile, only=PAGES):
            raise InputError(f"{profile}: a page failed; its message stands above")
        cells = [cell for cell in CELLS if seed == 0 or (cell, seed) in runs]
        parts.append(replicate_rows(pd.read_csv(folder / "report" / f"seed{seed}" / "results.csv"), seed, cells))
    rows = pd.concat(parts)
    rows.to_csv(arguments.out, index=False, float_format="%.6g")
    print(f"{arguments.out}: {len(rows):,} rows, {rows.groupby('model')['seed'].nunique().to_dict()} runs")


if __name__ == "__main__":
    main()
