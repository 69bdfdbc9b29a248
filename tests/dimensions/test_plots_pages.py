"""Figures of the shape bias, robustness, synthetic and invariance pages: what is drawn, where, and for which models."""

import io
import warnings
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from beyond_accuracy.dimensions import plots_invariance, plots_robustness, plots_shape_bias
from beyond_accuracy.show import pictures, theme


def spec(name, family, paradigm):
    return SimpleNamespace(name=name, label=f"Label of {name}", family=family, paradigm=paradigm)


OWN = [
    spec(f"{short}_{way[:4] if way == 'clip' else 'sup'}", family, way)
    for way in ("supervised", "clip")
    for short, family in (("vit", "transformer"), ("convnext", "convnet"))
]
STYLES = theme.styles(OWN)
NONE = pd.DataFrame(columns=["model", "value", "set", "factor", "metric", "transform", "strength"])


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def rows(**columns):
    """Every combination of the columns' values and the four models, with a value and an interval."""
    index = pd.MultiIndex.from_product([*columns.values(), STYLES], names=[*columns, "model"])
    frame = index.to_frame(index=False)
    value = 40 + np.arange(len(frame)) % 37
    return frame.assign(value=value.astype(float), ci_low=value - 2.0, ci_high=value + 2.0)


def texts(fig):
    fig.canvas.draw()
    return {item.get_text() for item in fig.findobj(matplotlib.text.Text)}


def test_bias_figure_has_a_line_per_model_and_the_human_line():
    table = rows(metric=["shape_bias", "shape_bias:cat", "shape_bias:dog"])
    table[["value", "ci_low", "ci_high"]] /= 100
    humans = pd.DataFrame({"category": ["cat", "dog"], "value": [0.9, 0.95]})
    paper = table[["metric", "model", "value"]]
    fig = plots_shape_bias.bias_figure(table, STYLES, paper, humans, 0.96)
    ax = fig.axes[0]
    vertical = {
        line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    }
    assert set(table[table.metric == "shape_bias"].value) | {0.96} <= vertical
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog"]
    assert "humans" in texts(fig)


def test_a_missing_bias_draws_no_line():
    table = rows(metric=["shape_bias", "shape_bias:cat"]).assign(value=np.nan, ci_low=np.nan, ci_high=np.nan)
    fig = plots_shape_bias.bias_figure(table, STYLES, NONE, NONE, None)
    assert "humans" not in texts(fig)  # people who saw other images are no reference
    assert fig.axes[0].get_xlim() == (-0.02, 1.02)


def test_decisions_add_up_to_a_full_bar():
    rates = pd.DataFrame({"model": list(STYLES), "shape": 30.0, "texture": 45.0, "neither": 25.0})
    ax = plots_shape_bias.decisions_figure(rates, STYLES).axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in ax.patches]
    assert len(ax.patches) == 12 and max(ends) == 100
    hatches = {patch.get_hatch() for patch in ax.patches}
    assert len(hatches) == 2  # texture is hatched: the parts differ in greyscale


def test_consistency_figure_prints_every_pair_once():
    pairs = pd.DataFrame(
        [(a, b, k / 10) for k, (a, b) in enumerate([(a, b) for a in STYLES for b in STYLES if a < b])],
        columns=["a", "b", "kappa"],
    )
    shown = texts(plots_shape_bias.consistency_figure(pairs, STYLES))
    assert {f"{k:.2f}" for k in pairs.kappa} <= shown


def test_pairs_are_formed_within_a_paradigm():
    assert plots_robustness.lead_pairs(OWN) == [("vit_sup", "convnext_sup"), ("vit_clip", "convnext_clip")]
    more = [spec("a", "other", "supervised"), spec("b", "other", "supervised"), spec("c", "other", "clip")]
    assert plots_robustness.lead_pairs(more) == [("a", "b")]
    assert plots_robustness.lead_pairs(OWN[::-1])[1] == ("vit_sup", "convnext_sup")


def test_lead_figure_turns_differences_to_the_sides_shown():
    table = rows(set=["one", "two"])
    forward = pd.DataFrame(
        {"set": ["one"], "model_a": "convnext_sup", "model_b": "vit_sup", "ci_low": 1.0, "ci_high": 3.0}
    )
    turned = plots_robustness._oriented(forward, "vit_sup", "convnext_sup")
    assert turned[["ci_low", "ci_high"]].values.tolist() == [[-3.0, -1.0]]
    differences = pd.concat([forward, forward.assign(set="two")])
    fig = plots_robustness.lead_figure(table, differences, [("vit_sup", "convnext_sup")], STYLES)
    assert "one" in texts(fig) and len(fig.axes) == 1


def test_corruption_figure_prints_accuracy_and_not_error():
    errors = pd.DataFrame(
        [(m, c, k, 10.0 * k) for m in STYLES for c in ("fog", "snow") for k in (1, 2)],
        columns=["model", "corruption", "severity", "error"],
    )
    shown = texts(plots_robustness.corruption_figure(errors, STYLES))
    assert {"90", "80", "fog", "snow"} <= shown and "10" not in shown
    one = plots_robustness.corruption_figure(errors[errors.model == "vit_sup"], STYLES)
    assert "Label of vit_sup" in texts(one)


def test_shift_figure_shows_all_points_with_and_without_published_models():
    points = rows(set=["V2", "R"]).rename(
        columns={"value": "shifted", "ci_low": "shifted_low", "ci_high": "shifted_high"}
    )
    points = points.assign(clean=80.0, clean_low=79.0, clean_high=100.0)
    board = pd.DataFrame(
        {"imagenet_1k": np.linspace(60, 85, 9), "V2": np.linspace(50, 78, 9), "R": np.linspace(20, 50, 9)}
    )
    for frame in (board, board.iloc[:0]):
        fig = plots_robustness.shift_figure(points, STYLES, frame, pd.Series(True, index=frame.index))
        fig.canvas.draw()
        for ax in fig.axes[:2]:
            low, high = ax.get_ylim()
            for value in (points.shifted.min(), points.shifted.max()):
                assert low < plots_robustness._logit(value) < high


def test_invariance_curves_place_steps_evenly_and_take_only_the_papers_strengths_that_are_drawn():
    curves = rows(transform=["scale"], strength=[1.0, 1.25, 3.0]).assign(kind="accuracy")
    paper = rows(transform=["scale"], strength=[1.0, 2.0])[["transform", "strength", "model", "value"]]
    fig = plots_invariance.curve_figure(curves, STYLES, ["scale"], "accuracy", "accuracy (%)", paper, level=6.0)
    ax = fig.axes[0]
    assert list(ax.get_xticks()) == [0, 1, 2]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "1.25", "3"]


def test_summary_keeps_the_order_given():
    frame = rows(transform=["blur", "scale"])
    frame[["value", "ci_low", "ci_high"]] /= 100
    ax = plots_invariance.summary_figure(frame, STYLES).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["blur", "scale"]


def test_transformed_picture_is_what_the_model_gets():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    assert plots_invariance.transformed(image, "none", 48, "a").size == (48, 48)
    assert plots_invariance.transformed(image, "resolution=448", 48, "a").size == (96, 96)
    same = [np.asarray(plots_invariance.transformed(image, "noise=0.2", 48, "a")) for _ in range(2)]
    assert np.array_equal(*same)
    fig = plots_invariance.ladder_figure(image, {"scale": (1, 2), "hflip": (0, 1)}, 48, "a")
    assert {"scale", "hflip", "2"} <= texts(fig)


def test_gallery():
    wide = Image.new("RGB", (400, 200), (255, 0, 0))
    assert pictures.thumbnail(wide).size == (160, 160)
    assert pictures.thumbnail(Image.new("L", (30, 40))).size == (30, 30)
    theme.use_theme()
    fig = pictures.gallery([wide] * 5, ["a\nb"] * 5, columns=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would end up in the rendered page
        for kind in ("svg", "png"):
            fig.savefig(io.BytesIO(), format=kind)
    boxes = [ax.get_position() for ax in fig.axes]
    assert len(boxes) == 5 and all(0 <= box.x0 < box.x1 <= 1.001 and -0.001 <= box.y0 for box in boxes)
    width, height = fig.get_size_inches()
    assert boxes[0].width * width == pytest.approx(boxes[0].height * height)
    with pytest.raises(ValueError, match="0 images"):
        pictures.gallery([], [])
