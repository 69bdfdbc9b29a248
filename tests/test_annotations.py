"""Annotations of ImageNet val: known counts, ids, and a clear word where the optional package is missing."""

import sys

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy import annotations
from beyond_accuracy.errors import DataMissing, InputError


def test_real_labels():
    real = annotations.real_labels()
    counts = np.bincount([len(labels) for labels in real.values()])
    assert counts.tolist() == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert next(iter(real)) == "ILSVRC2012_val_00000001" and "ILSVRC2012_val_00050000" in real


def test_original_labels_score_as_published():
    pytest.importorskip("imagenet_x", reason="labels of the validation ids come with imagenet-x")
    from importlib.resources import files

    labels = pd.read_csv(files("imagenet_x") / "annotations" / "filename_label.csv")
    real = annotations.real_labels()
    scored = [(label in real[name[:-5]]) for name, label in labels.itertuples(index=False) if len(real[name[:-5]])]
    assert (sum(scored), len(scored)) == (42_164, 46_837)


def test_imagenet_x_counts():
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    top, multi = annotations.factors_imagenet_x("top"), annotations.factors_imagenet_x("multi")
    counts = top[list(annotations.FACTORS)].sum()
    assert len(top) == 46_110 and len(annotations.factors_imagenet_x("top", filter_prototypes=False)) == 48_868
    assert counts.to_dict() | {"pose": 15064, "texture": 282, "multiple_objects": 40} == counts.to_dict()
    assert top.index.is_unique and top.index[0].startswith("ILSVRC2012_val_")
    marks = multi[list(annotations.FACTORS)].sum(axis=1)
    assert marks.mean() > 1.5 and top[list(annotations.FACTORS)].sum(axis=1).max() == 1
    assert top["metaclass"].nunique() == 17
    with pytest.raises(ValueError):
        annotations.factors_imagenet_x("some")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_x", None)
    annotations.factors_imagenet_x.cache_clear()
    with pytest.raises(DataMissing, match=r"pip install 'beyond-accuracy\[imagenet-x\]'"):
        annotations.factors_imagenet_x("top")


def test_factors_from_metadata():
    metadata = pd.DataFrame(
        {"x_pose": [1, 0, 1], "x_darker": [1, 0, 0], "x_top": ["darker", "pose", "pose"], "scale": 1.0},
        index=pd.Index(["a", "b", "c"], name="id"),
    )
    multi = annotations.factor_frame(np.array(["c", "a"]), metadata, None, "multi")
    assert multi.index.tolist() == ["c", "a"] and multi.to_dict("list") == {"pose": [1, 1], "darker": [0, 1]}
    top = annotations.factor_frame(np.array(["c", "a", "b"]), metadata, None, "top")
    assert top.to_dict("list") == {"pose": [1, 0, 1], "darker": [0, 1, 0]}
    with pytest.raises(InputError, match="no factor columns"):
        annotations.factor_frame(np.array(["a"]), metadata[["scale"]], None)


def test_factors_of_imagenet_ids():
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    known = annotations.factors_imagenet_x("top").index[[5, 2]].to_numpy()
    frame = annotations.factor_frame(np.array([known[0], "ILSVRC2012_val_99999999", known[1]]), None, "imagenet_x")
    assert frame.index.tolist() == known.tolist() and list(frame.columns) == list(annotations.FACTORS)
    what, groups = annotations.image_groups(known, "imagenet_x", np.array(["a", "b"]))
    assert (
        what == "metaclass"
        and groups.tolist() == annotations.factors_imagenet_x("top").loc[known, "metaclass"].tolist()
    )
    assert annotations.image_groups(known, None, np.array(["a", "b"]))[1].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="none of the images"):
        annotations.factor_frame(np.array(["x"]), None, "imagenet_x")
