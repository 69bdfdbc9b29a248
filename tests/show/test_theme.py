"""Model looks and the shared drawing helpers."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from beyond_accuracy.show import theme


def spec(name, family="transformer", paradigm="supervised", label=""):
    return SimpleNamespace(name=name, label=label or name, family=family, paradigm=paradigm)


OWN = [spec("vit_sup"), spec("convnext_sup", "convnet"), spec("vit_clip", paradigm="clip")]
OWN.append(spec("convnext_clip", "convnet", "clip"))


@pytest.fixture
def ax():
    theme.use_theme()
    fig, axes = plt.subplots()
    yield axes
    plt.close(fig)


def test_own_models_have_the_fixed_looks():
    looks = theme.styles(OWN)
    assert [(s.color, s.marker, s.linestyle, bool(s.hatch)) for s in looks.values()] == [
        ("#fc8e62", "o", "-", False),
        ("#412f8a", "^", "-", False),
        ("#fc8e62", "o", "--", True),
        ("#412f8a", "^", "--", True),
    ]
    assert [s.markerfacecolor for s in looks.values()] == ["#fc8e62", "#412f8a", "white", "white"]


def test_extra_models_are_distinct_and_do_not_depend_on_the_rest_of_the_run():
    extras = [spec(f"model_{i}", "convnet") for i in range(9)]
    looks = theme.styles(OWN + extras)
    own = {(s.color, s.marker) for s in theme.styles(OWN).values()}
    assert len({(s.color, s.marker) for s in looks.values()} - own) == 9
    assert len({s.color for s in looks.values()}) == 2 + 9
    assert looks["model_3"] == theme.styles(extras)["model_3"]
    assert theme.style(extras[3]) == theme.style(extras[3])  # alone: from its name


def test_the_two_main_colours_differ_in_greyscale():
    grey = [np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722]) for color in (theme.ORANGE, theme.PURPLE)]
    assert abs(grey[0] - grey[1]) > 0.3


def test_errorbar_draws_values_and_intervals_where_they_are(ax):
    looks = theme.styles(OWN[:2])
    frame = pd.DataFrame({"model": ["vit_sup"] * 2 + ["convnext_sup"] * 2, "scale": [1, 2, 1, 2]})
    frame = frame.assign(value=[1.0, 2.0, 3.0, 4.0], ci_low=[0.9, 1.5, 2.9, 3.0], ci_high=[1.2, 2.5, 3.3, 4.5])
    theme.errorbar(ax, frame, x="scale", styles=looks, line=True)
    first, second = ax.containers
    np.testing.assert_allclose(first.lines[0].get_xydata(), [[1, 1], [2, 2]])
    assert first.lines[0].get_linestyle() == "-"
    segments = [np.round(segment, 6).tolist() for segment in second.lines[2][0].get_segments()]
    assert segments == [[[1.0, 2.9], [1.0, 3.3]], [[2.0, 3.0], [2.0, 4.5]]]
    assert [c.get_label() for c in ax.containers] == ["vit_sup", "convnext_sup"]


def test_errorbar_puts_models_of_a_category_side_by_side(ax):
    looks = theme.styles(OWN)
    names = list(looks)
    factor = ["object_blocking"] * 4 + ["pose"] * 4
    frame = pd.DataFrame({"value": range(8), "model": names * 2, "factor": factor})
    theme.errorbar(ax, frame, x="factor", styles=looks, order=["pose", "object_blocking"], orient="h", dodge=0.2)
    at = np.array([container.lines[0].get_ydata() for container in ax.containers])
    np.testing.assert_allclose(at[:, 0], [-0.3, -0.1, 0.1, 0.3])  # rows are sorted by place: pose first
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), [4, 0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["pose", "object blocking"]
    assert ax.yaxis_inverted()


def test_errorbar_refuses_unknown_models_and_categories(ax):
    frame = pd.DataFrame({"value": [1.0], "model": "other", "factor": "pose"})
    with pytest.raises(ValueError, match="no style for model other"):
        theme.errorbar(ax, frame, x="factor", styles=theme.styles(OWN))
    with pytest.raises(ValueError, match=r"order lacks: \['pose'\]"):
        theme.errorbar(ax, frame.assign(model="vit_sup"), x="factor", styles=theme.styles(OWN), order=["size"])


def test_missing_intervals_draw_no_whisker_and_outside_estimates_no_error(ax):
    frame = pd.DataFrame({"value": [1.0, 2.0], "ci_low": [np.nan, 2.1], "ci_high": [np.nan, 2.4]})
    theme.errorbar(ax, frame.assign(model="vit_sup", x=[0, 1]), x="x", styles=theme.styles(OWN[:1]))
    drawn = [s for s in ax.containers[0].lines[2][0].get_segments() if np.isfinite(s).all() and len(s)]
    np.testing.assert_allclose(drawn[-1][:, 1], [2.0, 2.4])


def test_places_are_spread_as_little_as_possible():
    assert theme.spread([0.5, 0.5, 0.9], 0.2, 0, 1) == pytest.approx([0.4, 0.6, 0.9])
    assert theme.spread([0.9, 0.1], 0.2, 0, 1) == pytest.approx([0.9, 0.1])  # in the order given, not sorted
    assert theme.spread([1.0, 1.0, 1.0], 0.2, 0, 1) == pytest.approx([0.6, 0.8, 1.0])


def test_text_in_a_models_colour_can_be_read():
    assert theme.legible(theme.PURPLE) == to_rgb(theme.PURPLE)  # dark enough as it is
    red, green, blue = theme.legible(theme.ORANGE)
    assert red / green == pytest.approx(0xFC / 0x8E) and red > green > blue  # the same hue
    light = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    assert 4.5 <= 1.05 / (np.dot(light, (0.2126, 0.7152, 0.0722)) + 0.05) < 5


def test_paper_points_fall_on_the_measured_ones(ax):
    looks = theme.styles(OWN[:2])
    frame = pd.DataFrame({"value": [1.0, 2.0], "model": ["vit_sup", "convnext_sup"], "factor": "pose"})
    theme.errorbar(ax, frame, x="factor", styles=looks)
    theme.paper_points(ax, frame.assign(value=[1.1, 2.1]), x="factor", styles=looks)
    places = [container.lines[0].get_xdata()[0] for container in ax.containers]
    assert places[:2] == places[2:]


def test_a_dollar_in_a_name_is_a_dollar():
    """Names come from files: `$` must neither turn them into formulas nor stop a page."""
    with plt.rc_context():
        theme.use_theme()
        for name in ("lite0 ($0.10 per 1k, was $0.20_x)", r"$\frac{1$", "a$b"):
            fig, ax = plt.subplots()
            ax.plot([0], [0], label=name)
            ax.set_title(name, loc="center")
            ax.set_xlabel(name)
            ax.set_yticks([0], [name])
            texts = [ax.title, ax.xaxis.label, ax.get_yticklabels()[0], ax.legend().get_texts()[0]]
            fig.canvas.draw()
            assert [(text.get_text(), text.get_parse_math()) for text in texts] == [(name, False)] * 4
            plt.close(fig)
