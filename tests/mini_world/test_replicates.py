"""Replicate runs: found, put into the places of the shipped models, and read back by cell and seed."""

import json

import pandas as pd
import pytest

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.measure.verdicts import RUNS
from mini_world import replicates


def finished(cache, cell, seed):
    folder = cache / "runs" / "default" / f"{cell}-{seed}" / "model"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"cell": cell, "seed": seed}))


def test_further_seeds_take_the_places_of_the_shipped_models(tmp_path):
    for cell, seed in (("vit_clip", 1), ("vit_clip", 2), ("reference", 1), ("vit_sup", 0)):
        finished(tmp_path, cell, seed)
    runs = replicates.run_folders(tmp_path)
    assert sorted(runs) == [("vit_clip", 1), ("vit_clip", 2)]
    path, mini = tmp_path / "replicates.yaml", load_profile("mini").models
    path.write_text(replicates.profile_text(runs, 2))
    profile = load_profile(str(path))
    assert profile.name == "seed2" and list(profile.models) == list(mini)
    spec = profile.models["vit_clip"]
    assert (spec.source, spec.paradigm, spec.label) == ("open_clip", "clip", mini["vit_clip"].label)
    assert spec.id.endswith("vit_clip-2/model") and profile.models["vit_sup"] == mini["vit_sup"]
    path.write_text(replicates.profile_text(runs, 0))
    assert load_profile(str(path)).models == mini


def test_no_runs_is_said_with_the_command(tmp_path):
    with pytest.raises(DataMissing, match=r"mini_world\.train --seed 1"):
        replicates.run_folders(tmp_path)


def test_only_trained_numbers_of_the_cells_of_a_seed_are_kept():
    results = pd.DataFrame(
        {
            "dimension": "models",
            "dataset": "world_val",
            "metric": ["accuracy", "accuracy", "params", "accuracy"],
            "model": ["vit_sup", "vit_clip", "vit_sup", "my_model"],
            "value": [90.0, 88.5, 1.6, 50.0],
        }
    )
    rows = replicates.replicate_rows(results, 2, ["vit_sup"])
    assert list(rows.columns) == RUNS
    assert rows[["model", "seed", "value"]].to_numpy().tolist() == [["vit_sup", 2, 90.0]]
