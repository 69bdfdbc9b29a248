"""Reads the shipped tables of training runs: what each run scored, and how its scores vary over images.

`python -m mini_world.ablation` writes both: `ablation.csv`, one row per run and quantity, and beside it
`ablation_covariance.csv`, per quantity the lower triangle of the runs' covariance over images.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.dimensions.ablation import LEVELS, Measured

ABOUT = ("architecture", "objective", "seed", "recipe", "training_set", "data", "samples_seen", "minutes", "device")
QUANTITY = ("dataset", "metric", "unit", "n", "clusters")
DIVERSITY = {"train": "narrow", "train_broad": "broad"}
HOW = "python -m mini_world.train --recipe short --seed 1; python -m mini_world.ablation"


def covariance_path(table: Path) -> Path:
    """Where the covariance of a table of runs lies."""
    return table.with_name(f"{table.stem}_covariance.csv")


def read_runs(table: Path) -> Measured:
    """All runs of a table, its covariance beside it, with the factors of `ablation.LEVELS`.

    Raises:
        DataMissing: One of the two files is not there.
        InputError: Missing columns, a repeated row, or tables that do not belong together.
    """
    for path in (table, covariance_path(table)):
        if not path.is_file():
            raise DataMissing(f"{path}: no table of training runs; make it with: {HOW}")
    frame = pd.read_csv(table)
    if missing := {"run", "value", *ABOUT, *QUANTITY} - set(frame.columns):
        raise InputError(f"{table}: missing columns {', '.join(sorted(missing))}; write it anew: {HOW}")
    if frame.duplicated(["run", "dataset", "metric"]).any():
        raise InputError(f"{table}: a run has two rows for the same dataset and metric; write it anew: {HOW}")
    runs = frame.drop_duplicates("run")[["run", *ABOUT]].reset_index(drop=True)
    runs["diversity"] = runs.training_set.map(DIVERSITY)
    # n of the shape bias differs between runs (decided images); the first run stands for all.
    quantities = frame.drop_duplicates(["dataset", "metric"])[list(QUANTITY)].reset_index(drop=True)
    keys = pd.MultiIndex.from_frame(quantities[["dataset", "metric"]])
    values = frame.pivot(index=["dataset", "metric"], columns="run", values="value").loc[keys, runs.run].to_numpy(float)
    return Measured(runs, quantities, values, _covariance(covariance_path(table), keys, list(runs.run)))


def _covariance(path: Path, keys: pd.MultiIndex, runs: list[str]) -> np.ndarray:
    frame = pd.read_csv(path).set_index(["dataset", "metric", "run"])
    expected = pd.MultiIndex.from_tuples([(*key, run) for key in keys for run in runs])
    if set(runs) - set(frame.columns) or not expected.isin(frame.index).all():
        raise InputError(f"{path}: other runs or metrics than the table beside it; write both anew: {HOW}")
    lower = np.nan_to_num(frame.loc[expected, runs].to_numpy(float).reshape(len(keys), len(runs), len(runs)))
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).transpose(0, 2, 1)


def recipe_runs(measured: Measured, recipe: str) -> Measured:
    """Runs of one recipe.

    Raises:
        DataMissing: There are none.
    """
    chosen = measured.runs.recipe == recipe
    if not chosen.any():
        raise DataMissing(f"ablation: no runs of recipe {recipe}; make them with: {HOW.replace('short', recipe)}")
    return measured.where(chosen)


def describe(measured: Measured) -> pd.DataFrame:
    """What the runs cost, a row per recipe and cell: `seeds, samples, minutes` (mean per run), `device`."""
    keys = ["recipe", "diversity", "architecture", "objective"]
    groups = measured.runs.groupby(keys, sort=False)
    table = groups.agg(
        seeds=("seed", "nunique"), samples=("samples_seen", "first"), minutes=("minutes", "mean"),
        device=("device", "first"),
    ).reset_index()  # fmt: skip
    order = {level: k for levels in LEVELS.values() for k, level in enumerate(levels)}
    return table.sort_values(keys, key=lambda c: c.map(order).fillna(0) if c.name != "recipe" else c, kind="stable")
