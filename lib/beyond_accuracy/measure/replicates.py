"""Noise of training: how much a metric differs between runs that differ in nothing but the seed.

The table ships with the models it belongs to (`python -m mini_world.replicates` makes it): one row per page, set,
metric, model and seed, every metric of the report.
"""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from beyond_accuracy.measure.verdicts import NOISE

COLUMNS = ["dimension", "dataset", "metric", "model", "seed", "value"]


def noise(path: Path, dimension: str, models: Collection[str]) -> pd.DataFrame:
    """Standard deviation of each metric between training runs, per model; not shared between models.

    Pooling or shrinking the variances of models that differ in how much luck moves them gave intervals that cover 86 to
    90 % (docs/metrics.md), so every model has its own, with the few degrees of freedom that its runs leave.

    Rows of one page (`dimension`) and of the models that the runs in the table are replicates of, those with at least
    two runs: columns `verdicts.NOISE`.
    """
    table = pd.read_csv(path)
    table = table[(table["dimension"] == dimension) & table["model"].isin(models)]
    runs = table.groupby(["dataset", "metric", "model"], sort=False)["value"].agg(sd="std", df="size").reset_index()
    return runs.assign(df=runs["df"] - 1)[runs["df"] > 1][NOISE]
