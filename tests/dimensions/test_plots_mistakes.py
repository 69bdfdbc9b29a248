"""Figures and sentences of the mistakes page draw and say the numbers they are given."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from beyond_accuracy.dimensions import mistakes, plots_mistakes
from beyond_accuracy.dimensions import words_mistakes as words
from beyond_accuracy.dimensions.contrasts import Contrast
from beyond_accuracy.measure.stats import holm
from beyond_accuracy.show import theme as plots

STYLES = plots.styles(
    [
        SimpleNamespace(name="vit_sup", label="ViT", family="transformer", paradigm="supervised"),
        SimpleNamespace(name="vit_clip", label="ViT, CLIP", family="transformer", paradigm="clip"),
    ]
)
LABELS = {name: look.label for name, look in STYLES.items()}


@pytest.fixture(autouse=True)
def theme():
    plots.use_theme()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def world():
    """Texture doubles the errors of `vit_sup` only."""
    rng = np.random.default_rng(0)
    texture = rng.random(2000) < 0.2
    factors = pd.DataFrame({"odd_pose": ~texture, "texture": texture}).astype(int)
    correct = {
        "vit_sup": rng.random(2000) > np.where(factors["texture"] == 1, 0.5, 0.2),
        "vit_clip": rng.random(2000) > 0.25,
    }
    table = mistakes.factor_table(correct, factors, 200, np.random.default_rng(1))
    gaps = mistakes.factor_differences(correct, factors, np.random.default_rng(1), 2000)
    gaps = gaps[gaps["kind"] == "factor_effect"]
    return correct, factors, table, gaps.assign(p_holm=holm(gaps["p"]))


@pytest.fixture(scope="module")
def ratios(world):
    return world[2][world[2]["kind"] == "error_ratio"]


def test_hardest_first_average_last(ratios):
    assert plots_mistakes.hardest_first(ratios) == ["texture", "odd_pose", "average"]


def test_ratio_figure(world, ratios):
    table = ratios
    paper = pd.DataFrame({"factor": ["texture", "unknown"], "model": "vit_sup", "value": [2.3, 9.0]})
    ax = plots_mistakes.ratio_figure(table, STYLES, paper).axes[0]
    n = int(world[1]["texture"].sum())
    assert [label.get_text() for label in ax.get_yticklabels()][0] == f"texture  ({n})"
    drawn = np.concatenate([line.get_xdata() for line in ax.lines])
    for value in [*table["value"], 2.3]:
        assert np.isclose(drawn, value).any()
    assert not np.isclose(drawn, 9.0).any()
    assert ax.get_xlim()[1] > table["value"].max()


def test_difference_figure_marks_what_survives(world):
    gaps = world[3]
    ax = plots_mistakes.difference_figure(gaps, STYLES, ["texture", "odd_pose", "average"]).axes[0]
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert [face != "white" for face in faces] == [p < 0.05 for p in gaps["p_holm"]]
    assert ax.get_title(loc="left") == "ViT\nminus ViT, CLIP"


def test_groups_figure(world):
    groups = np.where(np.arange(2000) < 500, "small_dogs", "other")
    table = mistakes.errors_by_group(world[0], groups)
    ax = plots_mistakes.groups_figure(table, STYLES).axes[0]
    assert {label.get_text() for label in ax.get_yticklabels()} == {"small dogs  (500)", "other  (1,500)"}
    assert "ViT from" in words.groups_alt(table, LABELS, "kind")


def split():
    rows = mistakes.real_split([1, 1, 1, 1], [0, 0, 0, 0], [[1], [2], [2], []])
    return pd.concat([rows.assign(model=name) for name in STYLES])


def test_split_figure_and_words():
    ax = plots_mistakes.split_figure(split(), STYLES).axes[0]
    assert [bar.get_width() for bar in ax.patches] == [50, 50, 25, 25, 25, 25]
    assert "ViT label noise 25%, true mistake 50%" in words.split_alt(split(), LABELS)
    assert "25.0 [4.6, 69.9] % for ViT," in words.real_sentence(split(), LABELS)


def test_sentences(world, ratios):
    _, factors, table, gaps = world
    rate = table.set_index(["metric", "model"])["value"]["error_rate:texture", "vit_sup"]
    sentence = words.hardest_sentence(table, "Val", LABELS)
    assert f"ViT: texture ({rate:.0f} % of {factors['texture'].sum()} wrong);" in sentence
    assert sentence.endswith("not told apart.")  # texture does nothing to the CLIP model
    average = gaps[gaps["factor"] == "average"].iloc[0]
    pairs = [Contrast("vit_sup", "vit_clip", "objective"), Contrast("vit_sup", "gone", "")]
    (sentence,) = words.effect_sentences(gaps, table, LABELS, pairs)
    assert f"texture ({rate:.0f} against " in sentence and "(same architecture)" in sentence
    assert f"{average['difference']:+.2f}" in sentence
    assert f"p < {average['p_holm']:.2g}." in sentence  # as small as 2,000 resamples tell: a bound
    equal = gaps.assign(p=1.0, p_holm=1.0)
    (sentence,) = words.effect_sentences(equal, table, LABELS, pairs)
    assert "0 of 2 factors cost one more than the other. Mean" in sentence and "p = 1, not decided." in sentence
    assert "texture" in words.difference_alt(gaps, LABELS)
    assert "average" in words.ratio_alt(ratios, LABELS, "top factor")
