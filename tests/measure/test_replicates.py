"""Noise of training from a table of runs."""

import pandas as pd

from beyond_accuracy.measure import replicates


def test_sd_per_model_and_metric(tmp_path):
    rows = [("robustness", "v2", "accuracy", "a", seed, value) for seed, value in enumerate((50.0, 52.0, 54.0))]
    rows += [("robustness", "v2", "accuracy", "b", 0, 40.0), ("robustness", "v2", "accuracy", "c", 0, 1.0)]
    rows += [("robustness", "v2", "accuracy", "c", 1, 2.0), ("models", "v2", "accuracy", "a", 0, 3.0)]
    pd.DataFrame(rows, columns=replicates.COLUMNS).to_csv(tmp_path / "t.csv", index=False)
    noise = replicates.noise(tmp_path / "t.csv", "robustness", ["a", "b"])
    assert noise.to_dict("records") == [{"dataset": "v2", "metric": "accuracy", "model": "a", "sd": 2.0, "df": 2}]
    assert replicates.noise(tmp_path / "t.csv", "transfer", ["a"]).empty
