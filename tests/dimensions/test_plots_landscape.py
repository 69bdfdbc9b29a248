import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import landscape, plots_landscape
from beyond_accuracy.show import theme as plots


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        plots.use_theme()
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def board():
    return published.leaderboard()


def estimates(names=("a", "b")):
    rows = [(b, s, v, v - 0.1, v + 0.2) for s, shift in zip(names, (0.0, 0.5), strict=False) for b, v in
            (("imagenet_v2", 0.1 + shift), ("imagenet_a", -0.2 + shift))]  # fmt: skip
    return pd.DataFrame(rows, columns=["benchmark", "series", "value", "ci_low", "ci_high"])


def test_estimates_are_drawn_at_their_values_with_their_intervals():
    fig = plots_landscape.estimates_figure(estimates(), series="series", xlabel="correlation")
    (ax,) = fig.axes
    bars = ax.containers
    assert [list(np.round(c.lines[0].get_xdata().astype(float), 3)) for c in bars] == [[0.1, -0.2], [0.6, 0.3]]
    segment = bars[0].lines[2][0].get_segments()[0]
    assert segment[:, 0].tolist() == pytest.approx([0.0, 0.3])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["V2", "A"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # first benchmark on top
    markers = {c.lines[0].get_marker() for c in bars}
    assert len(markers) == 2  # told apart without colour


def test_panels_share_the_axis():
    table = pd.concat([estimates().assign(panel=p) for p in ("one", "two")])
    fig = plots_landscape.estimates_figure(table, series="series", xlabel="x", panel="panel")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["one", "two"]


def test_pairs_figure_shows_every_pair():
    gaps = pd.DataFrame({"benchmark": ["imagenet_a"] * 7, "difference": np.arange(7.0)})
    summary = pd.DataFrame({"benchmark": ["imagenet_a"], "value": [3.0], "ci_low": [1.0], "ci_high": [5.0]})
    fig = plots_landscape.pairs_figure(gaps, summary, "points")
    points = next(line for line in fig.axes[0].lines if len(line.get_xdata()) == 7)
    assert sorted(points.get_xdata()) == list(range(7))


def test_correlations_are_printed_in_their_cells():
    table = pd.DataFrame({"a": ["imagenet_1k"] * 2 + ["imagenet_a"], "b": ["imagenet_a", "imagenet_r", "imagenet_r"],
                          "value": [0.9, -0.25, 0.5]})  # fmt: skip
    fig = plots_landscape.correlation_figure({"models": table})
    assert {t.get_text() for t in fig.axes[0].texts} == {"0.90", "−0.25", "0.50"}


def test_published_figure_has_line_marks_and_own_runs(board):
    looks = plots.styles(published.checkpoint_specs())
    marked = {published.CHECKPOINTS[name]: look for name, look in looks.items()}
    own = pd.DataFrame({"model": ["mine"], "imagenet_1k": [80.0], "imagenet_r": [50.0]})
    baseline = (board.paradigm == "supervised") & (board.pretrain_data == "in1k")
    fig = plots_landscape.published_figure(board, landscape.ROBUSTNESS, baseline, marked, own)
    stars = {ax.get_title(loc="left"): [line for line in ax.lines if line.get_marker() == "*"] for ax in fig.axes}
    assert len(stars["R"]) == 1 and not stars["A"]
    assert plots_landscape.percent_of(float(stars["R"][0].get_ydata()[0])) == pytest.approx(50)
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert {"ViT, supervised", "ConvNeXt, CLIP", "this run", "CLIP, zero-shot"} <= set(labels)


def test_loadings_figure_states_shares():
    shares = {
        "x": pd.DataFrame({"component": ["1", "2"], "value": [0.7, 0.3], "ci_low": [0.6, 0.2], "ci_high": [0.8, 0.4]})
    }
    loadings = {"x": pd.DataFrame([[0.6, 0.8], [0.8, -0.6]], index=["imagenet_a", "imagenet_r"])}
    fig = plots_landscape.loadings_figure(shares, loadings)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["x\n70 % [60, 80]", "30 % [20, 40]"]
    heights = [bar.get_height() for bar in fig.axes[1].patches]
    assert heights == [0.8, -0.6]


def test_details_name_what_is_known(board):
    text = plots_landscape.point_details(board.tail(1)).iloc[0]
    assert "ImageNet" in text and "87.8" in text and "clip on commonpool_s" in text
    own = pd.DataFrame({"model": ["m"], "paradigm": ["clip"], "imagenet_1k": [66.0], "params_m": [np.nan]})
    assert plots_landscape.point_details(own).iloc[0] == "ImageNet 66.0 %, clip"
