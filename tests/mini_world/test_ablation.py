"""The table of runs: metrics by hand, and which runs are read."""

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.errors import DataMissing
from mini_world.ablation import run_folders, set_metrics
from mini_world.classes import CLASSES


def predictions(pred, target, confidence=0.9):
    return pd.DataFrame(
        {"pred": pred, "target": target, "confidence": confidence, "target_probability": np.full(len(pred), 0.5)}
    )


def values(rows):
    return {row["metric"]: (pytest.approx(row["value"]), row["n"]) for row in rows}


def test_clean_set_by_hand():
    rows = values(set_metrics("world_val", predictions([0, 1, 2, 3], [0, 1, 2, 0]), pd.DataFrame()))
    assert rows["accuracy"] == (75.0, 4)
    assert rows["ece"] == (0.15, 4) and rows["signed_gap"] == (0.15, 4)
    assert rows["nll"] == (np.log(2), 4)


def test_shape_bias_counts_only_the_two_cues():
    columns = pd.DataFrame({"texture": [CLASSES[5]] * 4})
    rows = values(set_metrics("world_cue", predictions([0, 0, 5, 9], [0, 0, 0, 0]), columns))
    assert rows["shape_bias"] == (2 / 3, 3)


def test_several_labels_and_factors():
    frame = predictions([1, 4], [np.array([1, 2]), np.array([1, 2])])
    assert values(set_metrics("world_hard", frame, pd.DataFrame()))["accuracy"] == (50.0, 2)
    columns = pd.DataFrame({"factor": ["scene_light", "object_yaw", "object_yaw"]})
    rows = values(set_metrics("world_pug", predictions([0, 0, 1], [0, 0, 0]), columns))
    assert rows["accuracy:object_yaw"] == (50.0, 2) and rows["accuracy:scene_light"] == (100.0, 1)


def test_only_finished_runs_of_the_four_cells(tmp_path):
    with pytest.raises(DataMissing, match="no finished run"):
        run_folders(tmp_path)
    for name, done in [("vit_sup-1", True), ("vit_clip-1", False), ("reference-0", True)]:
        folder = tmp_path / "runs" / "short" / name / "model"
        folder.mkdir(parents=True)
        if done:
            (folder / "training.json").write_text("{}")
    assert [path.parent.name for path in run_folders(tmp_path)] == ["vit_sup-1"]
