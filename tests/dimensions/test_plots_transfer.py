import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import plots_transfer
from beyond_accuracy.show import theme as plots

STYLES = plots.styles(published.checkpoint_specs())


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        plots.use_theme()
        yield
    plt.close("all")


def test_few_shot_curves_have_chance_and_every_shot():
    rows = [("all (2 tasks)", k, m, v + k, v + k - 1, v + k + 1) for m, v in (("vit_sup", 30), ("vit_clip", 50)) for k in (1, 5, 10)]  # fmt: skip  # noqa: E501
    table = pd.DataFrame(rows, columns=["panel", "shots", "model", "value", "ci_low", "ci_high"])
    fig = plots_transfer.few_shot_figure(table, STYLES, {"all (2 tasks)": 12.5})
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "5", "10"]
    assert any(np.allclose(line.get_ydata(), 12.5) for line in ax.lines)
    curves = [c.lines[0] for c in ax.containers]
    assert [c.get_ydata().astype(float).tolist() for c in curves] == [[31, 35, 40], [51, 55, 60]]
    assert {c.get_linestyle() for c in curves} == {"-", "--"}


def test_pairs_of_points_join_the_two_numbers():
    table = pd.DataFrame({"task": ["a", "b"], "model": ["vit_clip"] * 2, "probe": [80.0, 60.0], "zero": [50.0, np.nan]})
    fig = plots_transfer.pairs_of_points_figure(
        table, STYLES, first="zero", second="probe", labels=("zero-shot", "probe"), xlabel="accuracy (%)"
    )
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    markers = {line.get_marker(): line.get_xdata().astype(float).tolist() for line in ax.lines}
    assert markers["o"] in ([80.0, 60.0], [50.0, np.nan]) and len(ax.collections) == 1
    segment = ax.collections[0].get_segments()[0]
    assert sorted(segment[:, 0]) == [50.0, 80.0]
