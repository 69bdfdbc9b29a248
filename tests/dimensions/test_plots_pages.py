"""Figures of the synthetic page: what is drawn, where, and for which models."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from beyond_accuracy.dimensions import plots_synthetic
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
