"""One verdict per question: correction in families, training noise, ties."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from beyond_accuracy.measure import verdicts
from beyond_accuracy.measure.verdicts import BEYOND_NOISE, OPEN, THESE


def comparisons(*rows: tuple) -> pd.DataFrame:
    """Rows (metric, a, b, difference, half width, p, family)."""
    table = [
        {"dataset": "d", "metric": m, "model_a": a, "model_b": b, "difference": d, "ci_low": d - h, "ci_high": d + h,
         "p": p, "family": family}
        for m, a, b, d, h, p, family in rows
    ]  # fmt: skip
    return pd.DataFrame(table)


def noise(**sd: float) -> pd.DataFrame:
    return pd.DataFrame([("d", "accuracy", m, s, 2) for m, s in sd.items()], columns=verdicts.NOISE)


def test_holm_runs_within_a_family():
    rows = comparisons(
        ("accuracy", "a", "b", 1, 0.5, 0.02, "main"),
        ("accuracy", "a", "c", 1, 0.5, 0.03, "main"),
        ("nll", "a", "b", 1, 0.5, 0.04, "detail"),
    )
    judged = verdicts.judge(rows)
    assert judged["p_holm"].tolist() == pytest.approx([0.04, 0.04, 0.04])
    assert judged["verdict"].tolist() == [THESE, THESE, THESE]
    together = verdicts.judge(rows.assign(family="main"))
    assert together["p_holm"].tolist() == pytest.approx([0.06, 0.06, 0.06])
    assert together["verdict"].tolist() == [OPEN, OPEN, OPEN]
    assert verdicts.judge(rows.assign(p=np.nan))["verdict"].tolist() == [OPEN, OPEN, OPEN]  # none is defined


def test_training_noise_by_hand():
    row = ("accuracy", "a", "b", 10.0, 1.96, 0.0001, "main")
    # equal variances of 2 degrees of freedom each: Welch-Satterthwaite gives 4; images add a standard error of 1
    edge = np.sqrt(((10 / t.isf(0.025, 4)) ** 2 - 1) / 2)
    for sd, verdict in ((0.99 * edge, BEYOND_NOISE), (1.01 * edge, THESE)):
        assert verdicts.judge(comparisons(row), noise(a=sd, b=sd))["verdict"].tolist() == [verdict]
    assert verdicts.judge(comparisons(row), noise(a=0.1))["verdict"].tolist() == [THESE]  # one model's noise is unknown
    assert verdicts.judge(comparisons(row), noise(a=0.0, b=0.0))["verdict"].tolist() == [BEYOND_NOISE]
    assert verdicts.judge(comparisons(("nll", *row[1:])), noise(a=0.1, b=0.1))["verdict"].tolist() == [THESE]


def test_noise_of_training_is_that_of_a_models_own_runs(tmp_path):
    rows = [("robustness", "v2", "accuracy", "a", seed, value) for seed, value in enumerate((50.0, 52.0, 54.0))]
    rows += [("robustness", "v2", "accuracy", "b", 0, 40.0), ("robustness", "v2", "accuracy", "c", 0, 1.0)]
    rows += [("robustness", "v2", "accuracy", "c", 1, 2.0), ("models", "v2", "accuracy", "a", 0, 3.0)]
    pd.DataFrame(rows, columns=verdicts.RUNS).to_csv(tmp_path / "t.csv", index=False)
    found = verdicts.training_noise(tmp_path / "t.csv", "robustness", ["a", "b"])
    assert found.to_dict("records") == [{"dataset": "v2", "metric": "accuracy", "model": "a", "sd": 2.0, "df": 2}]
    assert verdicts.training_noise(tmp_path / "t.csv", "transfer", ["a"]).empty


def test_equal_recipes_are_seldom_told_apart_by_training_noise():
    """P(beyond noise) for two runs of one recipe, sd from three runs of which the compared one is the first."""
    rng = np.random.default_rng(0)
    runs = rng.normal(0, 1, (1500, 2, 3))
    gap, sd = runs[:, 0, 0] - runs[:, 1, 0], runs.std(-1, ddof=1)
    rows = comparisons(*((f"m{k}", "a", "b", g, 1e-9, 0, "main") for k, g in enumerate(gap)))
    table = [("d", f"m{k}", model, x, 2) for k, pair in enumerate(sd) for model, x in zip("ab", pair, strict=True)]
    said = verdicts.exceeds_noise(rows, pd.DataFrame(table, columns=verdicts.NOISE))
    assert np.mean(said) < 0.05


def test_between_turns_a_row_around():
    judged = verdicts.judge(comparisons(("accuracy", "a", "b", 2.0, 0.5, 0.01, "main")))
    row = verdicts.between(judged, "b", "a")
    assert (row["difference"], row["ci_low"], row["ci_high"]) == (-2.0, -2.5, -1.5)
    assert verdicts.between(judged, "a", "c") is None


def test_leaders_tie_unless_told_apart():
    gaps = [("a", "b", 1, 2, 0.4), ("a", "c", 9, 2, 0.001), ("b", "c", 8, 2, 0.001)]
    judged = verdicts.judge(comparisons(*(("accuracy", *gap, "main") for gap in gaps)))
    values = pd.Series({"a": 60.0, "b": 59.0, "c": 51.0})
    assert verdicts.leaders(values, judged) == ["a", "b"]
    assert verdicts.leaders(values, judged, better="down") == ["c"]
    assert verdicts.tells_apart(judged) == (2, 3)
    labels = {"a": "A", "b": "B", "c": "C"}
    assert verdicts.span(values, judged, labels, "{:.1f}".format) == "51.0 (C) to 60.0 (A or B)"
    tied = verdicts.span(values[:2], judged[:1], labels, "{:.1f}".format)
    assert tied == "59.0 to 60.0, not told apart"
    assert verdicts.joined(["a", "b", "c"]) == "a, b and c"
    assert [verdicts.counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]


def test_pairs_told_apart_in_words():
    gaps = [("a", "b", 1, 2, 0.4), ("a", "c", 9, 2, 0.001), ("b", "c", 3, 2, 0.001), ("c", "", 50, 2, 0.001)]
    rows = comparisons(*(("accuracy", *gap, "main") for gap in gaps))
    labels = {"a": "A", "b": "B", "c": "C"}
    assert verdicts.told_apart(verdicts.judge(rows)) == "2 of 3 pairs of models are told apart"
    judged = verdicts.judge(rows, noise(a=0.5, b=0.5, c=0.5))
    assert judged["replicated"].all()
    few = "2 of 3 pairs of models are told apart (1 of them beyond training noise)"
    assert verdicts.told_apart(judged) == few
    assert verdicts.told_apart(judged, labels) == f"{few}; open: A and B"
    assert "(none of them beyond training noise)" in verdicts.told_apart(verdicts.judge(rows, noise(a=9, b=9, c=9)))
    partly = verdicts.judge(rows, noise(a=0.5, c=0.5))
    assert partly["replicated"].tolist() == [False, True, False, True]
    assert verdicts.told_apart(judged[judged["p_holm"] > 0.05], labels) == "the two are not told apart"
    one = judged[(judged["model_a"] == "a") & (judged["model_b"] == "c")]
    assert verdicts.told_apart(one) == "the two are told apart (beyond training noise)"
    near = one.assign(verdict=verdicts.THESE)
    assert verdicts.told_apart(near) == "the two are told apart (not beyond training noise)"
    assert verdicts.told_apart(judged[3:]) == ""


def spec(name, family="", paradigm=""):
    return SimpleNamespace(name=name, family=family, paradigm=paradigm)


def test_pairs_that_differ_in_one_thing():
    specs = [
        spec("vit_sup", "transformer", "supervised"),
        spec("convnext_sup", "convnet", "supervised"),
        spec("vit_clip", "transformer", "clip"),
        spec("convnext_clip", "convnet", "clip"),
    ]
    assert verdicts.contrasts(specs) == [
        ("vit_sup", "convnext_sup", "architecture"),
        ("vit_sup", "vit_clip", "objective"),
        ("convnext_sup", "convnext_clip", "objective"),
        ("vit_clip", "convnext_clip", "architecture"),
    ]


def test_models_of_unknown_kind_are_all_compared():
    assert verdicts.contrasts([spec("a"), spec("b"), spec("c")]) == [("a", "b", ""), ("a", "c", ""), ("b", "c", "")]
    assert verdicts.contrasts([spec("a")]) == []


def test_lead_charts_put_a_transformer_against_a_convnet_of_one_paradigm():
    own = [spec("v", "transformer", "clip"), spec("c", "convnet", "clip"), spec("s", "convnet", "supervised")]
    assert verdicts.lead_pairs(own) == verdicts.lead_pairs(own[::-1]) == [("v", "c")]
    assert verdicts.lead_pairs([spec(name, "other", "supervised") for name in "abc"]) == [("a", "b")]


def test_how_many_times_as_many_images_would_tell_two_models_apart():
    row = {"difference": 2.0, "ci_low": 2 - 1.959964, "ci_high": 2 + 1.959964}  # two standard errors
    # 4 of 5 cases need 1.96 + 0.84 = 2.80 of them
    assert verdicts.more_images(row) == pytest.approx((2.80159 / 2) ** 2, rel=1e-4)
    assert verdicts.more_images({"difference": 0.0, "ci_low": -1.0, "ci_high": 1.0}) == np.inf
