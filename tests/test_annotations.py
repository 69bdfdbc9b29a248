"""Annotations of ImageNet val: known counts, ids, and a clear word where the optional package is missing."""

import sys

import numpy as np
import pytest

from beyond_accuracy import annotations
from beyond_accuracy.errors import DataMissing


def test_real_labels():
    real = annotations.real_labels()
    counts = np.bincount([len(labels) for labels in real.values()])
    assert counts.tolist() == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert next(iter(real)) == "ILSVRC2012_val_00000001" and "ILSVRC2012_val_00050000" in real


def test_original_labels_score_as_published():
    pytest.importorskip("imagenet_x", reason="labels of the validation ids come with imagenet-x")
    from importlib.resources import files

    import pandas as pd

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
