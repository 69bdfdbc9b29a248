"""Replicate runs: found, put into a profile beside the shipped models, and read back by cell and seed."""

import json

import pandas as pd
import pytest
import yaml

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.base.profile import load_profile
from mini_world import replicates


def finished(cache, cell, seed):
    folder = cache / "runs" / "default" / f"{cell}-{seed}" / "model"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"cell": cell, "seed": seed}))


def test_further_seeds_join_the_shipped_models(tmp_path):
    for cell, seed in (("vit_clip", 1), ("vit_clip", 2), ("reference", 1), ("vit_sup", 0)):
        finished(tmp_path, cell, seed)
    runs = replicates.run_folders(tmp_path)
    assert sorted(runs) == [("vit_clip", 1), ("vit_clip", 2)]
    path = tmp_path / "replicates.yaml"
    path.write_text(replicates.profile_text(runs))
    profile = load_profile(str(path))
    assert set(profile.models) == {*load_profile("mini").models, "vit_clip_seed1", "vit_clip_seed2"}
    spec = profile.models["vit_clip_seed2"]
    assert (spec.source, spec.paradigm, spec.family) == ("open_clip", "clip", "transformer")
    assert yaml.safe_load(path.read_text())["models"]["vit_clip_seed2"]["name"].endswith("vit_clip-2/model")


def test_no_runs_is_said_with_the_command(tmp_path):
    with pytest.raises(DataMissing, match=r"mini_world\.train --seed 1"):
        replicates.run_folders(tmp_path)


def test_rows_are_read_back_by_cell_and_seed():
    results = pd.DataFrame(
        {
            "dimension": "models",
            "dataset": "world_val",
            "metric": ["accuracy", "accuracy", "params", "accuracy"],
            "model": ["vit_sup", "vit_sup_seed2", "vit_sup", "my_model"],
            "value": [90.0, 88.5, 1.6, 50.0],
        }
    )
    rows = replicates.replicate_rows(results)
    assert rows[["model", "seed", "value"]].to_numpy().tolist() == [["vit_sup", 0, 90.0], ["vit_sup", 2, 88.5]]
