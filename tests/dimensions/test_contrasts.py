"""Pairs that differ in one thing."""

from types import SimpleNamespace

import pandas as pd

from beyond_accuracy.dimensions.contrasts import Contrast, contrasts, lead_pairs, only


def spec(name, family="", paradigm=""):
    return SimpleNamespace(name=name, family=family, paradigm=paradigm)


def test_pairs_of_the_study():
    specs = [
        spec("vit_sup", "transformer", "supervised"),
        spec("convnext_sup", "convnet", "supervised"),
        spec("vit_clip", "transformer", "clip"),
        spec("convnext_clip", "convnet", "clip"),
    ]
    assert contrasts(specs) == [
        ("vit_sup", "convnext_sup", "architecture"),
        ("vit_sup", "vit_clip", "objective"),
        ("convnext_sup", "convnext_clip", "objective"),
        ("vit_clip", "convnext_clip", "architecture"),
    ]


def test_models_of_unknown_kind_are_all_compared():
    assert contrasts([spec("a"), spec("b"), spec("c")]) == [("a", "b", ""), ("a", "c", ""), ("b", "c", "")]
    assert contrasts([spec("a")]) == []


def test_only_the_rows_of_the_pairs():
    gaps = pd.DataFrame({"model_a": ["a", "a", "b"], "model_b": ["b", "c", "c"], "p": [1, 2, 3]})
    assert only(gaps, [Contrast("a", "c", ""), Contrast("c", "b", "")])["p"].tolist() == [2]
    assert list(only(gaps.iloc[:0], []).columns) == ["model_a", "model_b", "p"]


def test_lead_charts_put_a_transformer_against_a_convnet_of_one_paradigm():
    own = [spec("v", "transformer", "clip"), spec("c", "convnet", "clip"), spec("s", "convnet", "supervised")]
    assert lead_pairs(own) == lead_pairs(own[::-1]) == [("v", "c")]
    assert lead_pairs([spec(name, "other", "supervised") for name in "abc"]) == [("a", "b")]
