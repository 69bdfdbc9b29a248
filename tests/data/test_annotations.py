"""Annotations of ImageNet val: known counts, ids, and a clear word where the optional package is missing."""

import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from beyond_accuracy.base import paths
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import published
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.inference.predictions import Predictions


def test_real_labels():
    real = published.real_labels()
    counts = np.bincount([len(labels) for labels in real.values()])
    assert counts.tolist() == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert next(iter(real)) == "ILSVRC2012_val_00000001" and "ILSVRC2012_val_00050000" in real


def test_original_labels_score_as_published():
    """Predicting the original label scores 42,164 of the 46,837 images with a ReaL label: 90.0228 %."""
    pytest.importorskip("imagenet_x", reason="labels of the validation ids come with imagenet-x")
    data = load_dataset(load_profile("predictions").datasets["imagenet_1k"])
    frame = pd.DataFrame({"id": data.ids.astype(str), "target": data.targets, "pred": data.targets, "confidence": 1.0})
    found = Predictions("labels", "imagenet_1k", "none", frame, None, None, {}).relabel("real", published.real_labels())
    assert (int(found.correct.sum()), len(found)) == (42_164, 46_837)


def test_imagenet_x_counts():
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    top, multi = published.factors_imagenet_x("top"), published.factors_imagenet_x("multi")
    counts = top[list(published.FACTORS)].sum()
    assert len(top) == 46_110 and len(published.factors_imagenet_x("top", filter_prototypes=False)) == 48_868
    assert counts.to_dict() | {"pose": 15064, "texture": 282, "multiple_objects": 40} == counts.to_dict()
    assert top.index.is_unique and top.index[0].startswith("ILSVRC2012_val_")
    marks = multi[list(published.FACTORS)].sum(axis=1)
    assert marks.mean() > 1.5 and top[list(published.FACTORS)].sum(axis=1).max() == 1
    assert top["metaclass"].nunique() == 17


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_x", None)
    published.factors_imagenet_x.cache_clear()
    with pytest.raises(DataMissing, match=r"pip install 'beyond-accuracy\[imagenet-x\]'"):
        published.factors_imagenet_x("top")


def test_factors_from_metadata():
    metadata = pd.DataFrame(
        {"x_pose": [1, 0, 1], "x_darker": [1, 0, 0], "x_top": ["darker", "pose", "pose"], "scale": 1.0},
        index=pd.Index(["a", "typical", "c"], name="id"),
    )
    multi = published.factor_frame(np.array(["c", "a"]), metadata, None, "multi")
    assert multi.index.tolist() == ["c", "a"] and multi.to_dict("list") == {"pose": [1, 1], "darker": [0, 1]}
    # an image without factors is typical: the factor that it comes nearest to is none, and it is left out
    for kind, expected in (("top", {"pose": [1, 0], "darker": [0, 1]}), ("multi", {"pose": [1, 1], "darker": [0, 1]})):
        frame = published.factor_frame(np.array(["c", "typical", "a"]), metadata, None, kind)
        assert frame.index.tolist() == ["c", "a"] and frame.to_dict("list") == expected
    other = metadata.assign(x_top="darker")
    assert published.factor_frame(np.array(["c"]), other, None, "top").to_numpy().tolist() == [[0, 0]]
    with pytest.raises(InputError, match="no factor columns"):
        published.factor_frame(np.array(["a"]), metadata[["scale"]], None)


def test_every_top_factor_of_the_mini_world_is_one_that_the_image_has():
    path = paths.ASSETS / "mini_world" / "world_val.parquet"
    columns = [name for name in pq.read_schema(path).names if name.startswith("x_")]
    metadata = pd.read_parquet(path, columns=["id", *columns]).set_index("id")
    top, multi = (published.factor_frame(metadata.index, metadata, None, kind) for kind in ("top", "multi"))
    assert len(metadata) == 3200 and len(top) == len(multi) == 2487
    assert (top.sum(axis=1) == 1).all() and (top.to_numpy() <= multi.to_numpy()).all()
    assert (top.sum() <= multi.sum()).all()


def test_factors_of_imagenet_ids():
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    known = published.factors_imagenet_x("top").index[[5, 2]].to_numpy()
    frame = published.factor_frame(np.array([known[0], "ILSVRC2012_val_99999999", known[1]]), None, "imagenet_x")
    assert frame.index.tolist() == known.tolist() and list(frame.columns) == list(published.FACTORS)
    what, groups = published.image_groups(known, "imagenet_x", np.array(["a", "b"]))
    expected = published.factors_imagenet_x("top").loc[known, "metaclass"].tolist()
    assert what == "metaclass" and groups.tolist() == expected
    assert published.image_groups(known, None, np.array(["a", "b"]))[1].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="none of the images"):
        published.factor_frame(np.array(["x"]), None, "imagenet_x")
