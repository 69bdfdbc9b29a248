"""Pairs that differ in one thing."""

from types import SimpleNamespace

from beyond_accuracy.metrics.contrasts import contrasts


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
