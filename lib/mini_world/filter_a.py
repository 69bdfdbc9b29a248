"""Adversarial filter: ``python -m mini_world.filter_a --predictions FILE``.

Keeps candidates of `world_a_pool` that a reference network, which takes no part in the study, gets wrong, balanced over
the classes, and writes `world_a.parquet`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from .build import DEFAULT_CACHE, DEFAULT_OUT, read_shards, write_set
from .classes import CLASSES
from .sets import SETS

POOL = "world_a_pool"
COUNT = 800
SEED = 3001


def select_failures(pool: pd.DataFrame, predictions: pd.DataFrame, count: int = COUNT, seed: int = SEED) -> list[str]:
    """Ids of about `count` candidates that the reference network mislabels, as balanced over classes as they allow.

    Args:
        pool: columns id, label.
        predictions: columns id, pred, one row for every candidate.
        count: size aimed at.
        seed: breaks ties among equally wrong candidates.

    Returns:
        Selected ids, sorted. A class with too few failures gives all of them; the others do not make up for it.
    """
    if predictions["id"].duplicated().any():
        raise ValueError("predictions: an id occurs more than once; expected one row per candidate")
    joined = pool[["id", "label"]].merge(predictions[["id", "pred"]], on="id", how="left")
    missing = joined["pred"].isna()
    if missing.any():
        raise ValueError(
            f"predictions: {missing.sum()} candidates have none, the first is {joined['id'][missing].iloc[0]}"
        )
    wrong = joined[joined["pred"] != joined["label"]]
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(len(CLASSES)):
        ids = wrong.loc[wrong["label"] == label, "id"].to_numpy()
        chosen += list(rng.permutation(ids)[: count // len(CLASSES)])
    return sorted(chosen)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path, required=True, help="CSV or Parquet with columns id, pred")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    path = arguments.predictions
    predictions = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    table = read_shards(SETS[POOL], arguments.cache)
    pool = table.select(["id", "label"]).to_pandas()
    chosen = select_failures(pool, predictions, arguments.count)
    keep = np.flatnonzero(pool["id"].isin(chosen))
    target = write_set(table.take(keep), SETS[POOL], arguments.out / "world_a.parquet", {"filter_seed": str(SEED)})
    share = len(pool) - int((pool.merge(predictions, on="id").eval("pred == label")).sum())
    print(f"{target}: {len(keep)} of {share} failures among {len(pool)}, {target.stat().st_size / 1e6:.2f} MB")
    print(pool["label"].iloc[keep].value_counts().sort_index().rename(dict(enumerate(CLASSES))).to_string())


if __name__ == "__main__":
    main()
