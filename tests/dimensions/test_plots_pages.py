"""Figures of the shape bias and synthetic pages: what is drawn, where, and for which models."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from beyond_accuracy.dimensions import plots_shape_bias, plots_synthetic
from beyond_accuracy.show import theme


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


def test_curves_shade_ordinary_images_and_angles_close_round_the_circle():
    levels = [-135, -90, -45, 0, 45, 90, 135, 180]
    curve = rows(factor=["object_yaw"], level_value=[float(x) for x in levels])
    fig = plots_synthetic.polar_figure(curve, STYLES, ["object_yaw"], {"object_yaw": (-30.0, 30.0)})
    closed = [line for line in fig.axes[0].lines if len(line.get_xdata()) == len(levels) + 1]
    assert len(closed) == 4
    pitch = curve[curve.level_value.between(0, 90)]
    fig = plots_synthetic.polar_figure(pitch, STYLES, ["object_yaw"], {})
    assert all(len(line.get_xdata()) == 3 for line in fig.axes[0].lines)
    fig = plots_synthetic.curve_figure(curve, STYLES, ["object_yaw"], {"object_yaw": (-30.0, 30.0)}, 6.25)
    assert any(getattr(patch, "get_width", lambda: 0)() == pytest.approx(60) for patch in fig.axes[0].patches)


def test_categories_are_sorted_and_cut_to_the_hardest():
    curve = rows(factor=["worlds"], level=[f"w{i:02d}" for i in range(30)])
    curve["value"] = curve.level.str[1:].astype(float)
    ax = plots_synthetic.category_figure(curve, STYLES, "worlds", None).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [f"w{i:02d}" for i in range(23, -1, -1)]


def test_sensitivity_is_sorted_with_the_chance_range_marked():
    table = rows(factor=["light", "yaw"]).rename(
        columns={"value": "range", "ci_low": "range_low", "ci_high": "range_high"}
    )
    table["range"] = np.where(table.factor == "yaw", 50.0, 10.0)
    ax = plots_synthetic.sensitivity_figure(table.assign(range_chance=7.0), STYLES).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["yaw", "light"]
    assert sum(set(line.get_xdata()) == {7.0} for line in ax.lines) == 2


def test_factor_figure_names_the_factors():
    fig = plots_synthetic.factor_figure(rows(factor=["worlds", "camera_yaw"]), STYLES, NONE, 6.25)
    assert {"worlds", "camera yaw", " chance "} <= texts(fig)
