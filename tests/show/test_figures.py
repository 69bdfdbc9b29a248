"""The kinds of figure: what is drawn is what the rows hold, and the words say the same; pictures."""

import io
import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy.show import figures, theme
from beyond_accuracy.show.theme import ModelStyle

LOOKS = {
    "a": ModelStyle("#fc8e62", "o", "-", "", "Model A"),
    "b": ModelStyle("#412f8a", "^", "--", "///", "Model B"),
    "unused": ModelStyle("#000000", "s", "-", "", "Unused"),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def rows(**columns) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    return frame.assign(ci_low=frame["value"] - 1, ci_high=frame["value"] + 1)


def texts(fig) -> set[str]:
    return {text.get_text() for text in fig.findobj(plt.Text)} - {""}


PAIRS = {"model": ["a", "b", "a", "b"], "set": ["v2", "v2", "sketch", "sketch"], "value": [60.0, 55.0, 30.0, 35.0]}


def test_dots_put_every_value_at_its_category():
    fig, alt = figures.dots(rows(**PAIRS), "set", LOOKS, "accuracy (%)", xlim=(0, 100))
    ax = fig.axes[0]
    drawn = {round(float(x), 3) for line in ax.lines for x in np.atleast_1d(line.get_xdata())}
    assert {60.0, 55.0, 30.0, 35.0} <= drawn
    assert {"v2", "sketch", "Model A", "Model B"} <= texts(fig) and "Unused" not in texts(fig)
    assert "v2, Model A 60" in alt and "sketch, Model B 35" in alt and alt.startswith("accuracy (%): ")


def test_dots_have_a_panel_per_value_and_counts():
    frame = rows(**PAIRS).assign(n=[10, 10, 2000, 2000], metric=["x", "x", "y", "y"])
    fig, _ = figures.dots(frame, "set", LOOKS, "value", panel="metric", counts=False)
    assert {"x", "y"} <= texts(fig)
    fig, _ = figures.dots(frame, "set", LOOKS, "value", counts=True, chance=10)
    assert any("2,000" in text for text in texts(fig)) and " chance " in texts(fig)


def test_lines_go_through_the_values_in_order():
    frame = rows(model=["a"] * 3 + ["b"] * 3, scale=[1.0, 2.0, 4.0] * 2, value=[1.0, 2.0, 3.0, 3.0, 2.0, 1.0])
    for band in (False, True):
        fig, alt = figures.lines(frame, "scale", LOOKS, "scale", "kept", band=band)
        curves = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 3]
        assert any(np.allclose(line.get_ydata(), [1, 2, 3]) for line in curves)
        assert any(np.allclose(line.get_ydata(), [3, 2, 1]) for line in curves)
        assert "Model A 1 to 3" in alt and "Model B 3 to 1" in alt


def ladder(models: int, **columns) -> tuple[pd.DataFrame, dict]:
    looks = {f"m{k}": ModelStyle("#fc8e62", "o", "-", "", f"Model {k}, kind") for k in range(models)}
    frame = rows(model=[m for m in looks for _ in range(3)], x=[1.0, 2.0, 4.0] * models, value=[0.0, 1.0, 9.0] * models)
    return frame.assign(**columns), looks


def test_lines_are_named_at_their_right_end_where_there_is_room():
    frame, looks = ladder(4, panel=["left", "right", "left"] * 4)
    both = pd.concat([frame.assign(panel=side) for side in ("left", "right")])
    fig, _ = figures.lines(both, "x", looks, "x", "y", panel="panel")
    assert not fig.legends and [len(ax.texts) for ax in fig.axes] == [0, 4]
    fig.draw_without_rendering()
    boxes = sorted((plt.Text.get_window_extent(text) for text in fig.axes[1].texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes)), "four lines end at one place"
    assert min(box.x0 for box in boxes) >= fig.axes[1].bbox.x1
    assert {text.get_text() for text in fig.axes[1].texts} == {f"Model {k},\nkind" for k in range(4)}
    assert {text.xy for text in fig.axes[1].texts} == {(4.0, 9.0)}


def test_lines_have_a_legend_where_labels_would_collide():
    for frame, looks, options in (
        (*ladder(7), {}),  # too many
        (*ladder(4), {"height": 0.5}),  # too low
        (*ladder(2, panel=["left"] * 3 + ["right"] * 3), {}),  # one is not in the panel beside which there is room
    ):
        panel = {"panel": "panel"} if "panel" in frame else {}
        if options:
            frame, panel = pd.concat([frame.assign(panel=side) for side in "ab"]), {"panel": "panel"}
        fig, _ = figures.lines(frame, "x", looks, "x", "y", **panel, **options)
        assert [text.get_text() for text in fig.legends[0].get_texts()] == [look.label for look in looks.values()]
        assert not any(ax.texts for ax in fig.axes)


def test_arrows_point_from_before_to_value():
    frame = rows(model=["a", "b"], set=["v2", "v2"], value=[0.02, 0.03]).assign(before=[0.08, 0.01])
    fig, alt = figures.arrows(frame, LOOKS, "ECE", "set")
    heads = [(t.xyann[0], t.xy[0]) for t in fig.axes[0].texts if hasattr(t, "xyann")]
    assert heads == [(0.08, 0.02), (0.01, 0.03)]
    assert "v2, Model A: 0.080 to 0.020" in alt


def test_stacked_bars_fill_their_row():
    frame = pd.DataFrame({"model": [*"aabb"], "kind": ["shape", "texture"] * 2, "value": [70.0, 30.0, 20.0, 80.0]})
    fig, alt = figures.stacked(frame, {"shape": ("#111111", ""), "texture": ("#888888", "//")}, LOOKS, "share (%)")
    ends = {}
    for bar in fig.axes[0].patches:
        ends[round(bar.get_y(), 2)] = max(ends.get(round(bar.get_y(), 2), 0), bar.get_x() + bar.get_width())
    assert list(ends.values()) == [100, 100] and "Model B, texture 80" in alt


def test_a_matrix_writes_each_number_in_its_cell():
    frame = pd.DataFrame({"x": ["p", "q", "p"], "y": ["r", "r", "s"], "value": [0.1, 0.25, 0.9]})
    fig, alt = figures.matrix(frame, "x", "y", "rate", LOOKS)
    cells = {(t.get_position(), t.get_text()) for t in fig.axes[0].texts}
    assert cells == {((0.5, 0.5), "0.10"), ((1.5, 0.5), "0.25"), ((0.5, 1.5), "0.90")}
    assert "r, q 0.25" in alt


def test_a_lead_points_to_the_winner():
    gaps = pd.DataFrame(
        {"set": ["v2", "sketch"], "model_a": "a", "model_b": "b", "difference": [5.0, -5.0],
         "ci_low": [3.0, -9.0], "ci_high": [7.0, -1.0]}
    )  # fmt: skip
    turned, _ = figures.lead(rows(**PAIRS), "set", [("b", "a")], LOOKS, gaps)  # asked the other way round
    assert [bar.get_width() for bar in turned.axes[0].patches if bar.get_width()] == [5.0, -5.0]
    assert turned.axes[0].get_xlim()[0] < -7 and 9 < turned.axes[0].get_xlim()[1]  # intervals fit in
    fig, alt = figures.lead(rows(**PAIRS), "set", [("a", "b")], LOOKS, gaps)
    bars = [bar for bar in fig.axes[0].patches if bar.get_width()]
    assert [bar.get_width() for bar in bars] == [-5.0, 5.0]  # v2: left, to model a; sketch: right, to model b
    assert [bar.get_hatch() for bar in bars] == ["", "///"]
    assert {"60.0", "35.0", "+5.0", "← Model A", "Model B →"} <= texts(fig)
    assert "v2, Model A, Model B +5.0" in alt


def test_a_scatter_draws_models_published_ones_and_their_line():
    frame = pd.DataFrame(
        {"model": ["a", "b"], "set": "v2", "clean": [80.0, 70.0], "value": [60.0, 50.0], "clean_low": [79.0, 69.0],
         "clean_high": [81.0, 71.0], "value_low": [59.0, 49.0], "value_high": [61.0, 51.0]}
    )  # fmt: skip
    board = pd.DataFrame({"imagenet_1k": [60.0, 70.0, 80.0, 75.0], "v2": [40.0, 50.0, 60.0, 70.0]})
    line = pd.Series([True, True, True, False])
    fig, alt = figures.scatter(frame, "clean", "value", LOOKS, ("clean", "shifted"), "set", board, line)
    ends = [np.ravel(drawn.get_ydata()) for drawn in fig.axes[0].lines]
    assert any(len(y) == 2 and np.allclose(y, [40, 60]) for y in ends)  # the line of the three, which is straight
    assert "Model A, v2, 80 60" in alt


def test_transformed_picture_is_what_the_model_gets():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    assert figures.transformed(image, "none", 48, "a").size == (48, 48)
    assert figures.transformed(image, "resolution=448", 48, "a").size == (96, 96)
    same = [np.asarray(figures.transformed(image, "noise=0.2", 48, "a")) for _ in range(2)]
    assert np.array_equal(*same)


def test_gallery():
    wide = Image.new("RGB", (400, 200), (255, 0, 0))
    assert figures.thumbnail(wide).size == (160, 160)
    assert figures.thumbnail(Image.new("L", (30, 40))).size == (30, 30)
    theme.use_theme()
    fig = figures.gallery([wide] * 5, ["a\nb"] * 5, columns=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would end up in the rendered page
        for kind in ("svg", "png"):
            fig.savefig(io.BytesIO(), format=kind)
    boxes = [ax.get_position() for ax in fig.axes]
    assert len(boxes) == 5 and all(0 <= box.x0 < box.x1 <= 1.001 and -0.001 <= box.y0 for box in boxes)
    width, height = fig.get_size_inches()
    assert boxes[0].width * width == pytest.approx(boxes[0].height * height)
