"""Predictions of exported models on rendered sets."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from beyond_accuracy.base.errors import DataMissing
from mini_world.evaluate import LoadedModel, is_correct, load_model, predict, set_paths


def write_set(path, labels, prefix="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, label in enumerate(labels):
        buffer = io.BytesIO()
        value = 10 * (label[0] if isinstance(label, list) else label)
        Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "WEBP", lossless=True)
        rows.append({"id": f"{prefix}{index}", "image": buffer.getvalue(), "label": label})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# Reads the class off the red channel: right on every image of `write_set`, with probability e / (e + 2).
ORACLE = LoadedModel(
    preprocess=lambda image: torch.tensor(np.asarray(image)[0, 0, 0] / 10.0),
    logits=lambda values: torch.nn.functional.one_hot(values.long(), 3).float(),
)


def test_predictions_follow_the_files_order(tmp_path):
    paths = [write_set(tmp_path / "a.parquet", [2, 0]), write_set(tmp_path / "b.parquet", [1], prefix="y")]
    frame = predict(ORACLE, paths)
    assert frame["id"].tolist() == ["x0", "x1", "y0"]
    assert frame["pred"].tolist() == frame["target"].tolist() == [2, 0, 1]
    np.testing.assert_allclose(frame[["confidence", "target_probability"]], np.e / (np.e + 2), rtol=1e-6)
    assert np.stack(frame["logits"]).shape == (3, 3)


def test_several_labels_count_as_correct_when_one_is_met(tmp_path):
    frame = predict(ORACLE, [write_set(tmp_path / "hard.parquet", [[1, 2], [0]])])
    assert is_correct(frame).tolist() == [True, True]
    assert frame["target_probability"].iloc[0] == pytest.approx((np.e + 1) / (np.e + 2))
    assert is_correct(pd.DataFrame({"pred": [0, 1], "target": [[1, 2], [1]]})).tolist() == [False, True]


def test_missing_sets_and_models_say_how_to_get_them(tmp_path):
    with pytest.raises(DataMissing, match="mini_world.build --only world_val"):
        set_paths("world_val", tmp_path, tmp_path)
    with pytest.raises(DataMissing, match="mini_world.train --cell vit_sup"):
        load_model(tmp_path / "vit_sup")
    shard = write_set(tmp_path / "shards" / "world_val" / "part-0000.parquet", [1])
    assert set_paths("world_val", tmp_path, tmp_path) == [shard]
    shipped = write_set(tmp_path / "world_val.parquet", [1])
    assert set_paths("world_val", tmp_path, tmp_path) == [shipped]
