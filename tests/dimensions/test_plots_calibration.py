"""Figures of the calibration page draw the numbers they are given."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from beyond_accuracy.dimensions import plots_calibration
from beyond_accuracy.show import theme as plots

SPECS = [
    SimpleNamespace(name="vit_sup", label="ViT, supervised", family="transformer", paradigm="supervised"),
    SimpleNamespace(name="convnext_clip", label="ConvNeXt, CLIP", family="convnet", paradigm="clip"),
]
STYLES = plots.styles(SPECS)


@pytest.fixture(autouse=True)
def theme():
    plots.use_theme()
    yield
    plt.close("all")


def bins():
    frame = pd.DataFrame(
        {
            "bin": [0, 1],
            "low": [0.0, 0.5],
            "high": [0.5, 1.0],
            "n": [10, 30],
            "confidence": [0.4, 0.7],
            "accuracy": [0.2, 0.9],
            "ci_low": [0.1, 0.8],
            "ci_high": [0.4, 0.95],
            "share": [0.25, 0.75],
        }
    )
    return pd.concat([frame.assign(model=name) for name in STYLES], ignore_index=True)


def summary():
    return pd.DataFrame(
        {"model": list(STYLES), "accuracy": 0.7, "confidence": 0.6, "ece_debiased": [0.1, 0.2], "ece": [0.2, 0.3]}
    )


def test_gaps_reach_from_accuracy_to_mean_confidence():
    fig = plots_calibration.reliability_figure(bins(), summary(), STYLES)
    histogram, diagram = fig.axes[:2]
    assert [bar.get_height() for bar in histogram.patches] == [25, 75]
    over, under = (bar for bar in diagram.patches if bar.get_hatch())
    assert (over.get_y(), over.get_height()) == pytest.approx((0.2, 0.2))
    assert (under.get_y(), under.get_height()) == pytest.approx((0.9, -0.2))
    assert over.get_hatch() != under.get_hatch()
    assert [text.get_text() for text in diagram.texts] == ["ECE 0.100\n(plain 0.200)"]
    assert histogram.get_title(loc="left") == "ViT, supervised"


@pytest.mark.parametrize("count", [1, 2])
def test_one_pair_of_axes_per_model(count):
    chosen = dict(list(STYLES.items())[:count])
    fig = plots_calibration.reliability_figure(bins()[lambda t: t["model"].isin(chosen)], summary(), chosen)
    assert len(fig.axes) == 2 * count


def test_lines_of_ece_over_bins_differ_without_colour():
    rows = [(m, b, n, 0.1 + 0.01 * n) for m in STYLES for b in ("width", "mass") for n in (5, 10)]
    table = pd.DataFrame(rows, columns=["model", "binning", "n_bins", "value"])
    fig = plots_calibration.bins_figure(table.assign(ci_low=0.05, ci_high=0.25), STYLES)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["equal width", "equal number of images"]
    lines = fig.axes[0].lines
    assert lines[0].get_ydata().tolist() == pytest.approx([0.15, 0.2])
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(STYLES)


def test_arrows_of_temperature_scaling():
    table = pd.DataFrame({"dataset": "Val", "model": list(STYLES), "before": [0.2, 0.1], "after": [0.05, 0.02]}).assign(
        after_low=0.0, after_high=0.06
    )
    fig = plots_calibration.temperature_figure(table, STYLES)
    arrows = [(text.xy, text.xyann) for text in fig.axes[0].texts]
    assert arrows == [((0.05, 0), (0.2, 0)), ((0.02, 1), (0.1, 1))]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["ViT, supervised", "ConvNeXt, CLIP"]


def test_risk_coverage_shows_all_of_the_worst_panel():
    coverage = np.linspace(0.1, 1, 10)
    rows = [
        pd.DataFrame({"coverage": coverage, "risk": coverage * top, "dataset": d, "model": m}).assign(
            risk_low=0, risk_high=0.9
        )
        for d, top in (("easy", 0.1), ("hard", 0.8))
        for m in STYLES
    ]
    fig = plots_calibration.risk_coverage_figure(pd.concat(rows), STYLES)
    assert fig.axes[0].get_ylim()[0] == 0 and fig.axes[0].get_ylim()[1] > 0.8
    assert to_rgb(fig.axes[1].lines[0].get_color()) == to_rgb(STYLES["vit_sup"].color)
