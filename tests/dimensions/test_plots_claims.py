import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import plots_claims
from beyond_accuracy.show import theme as plots


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        plots.use_theme()
        yield
    plt.close("all")


def test_claims_lie_on_their_side_in_units_of_their_interval():
    table = pd.DataFrame(
        {
            "statement": ["one", "two", "three", "four"],
            "verdict": ["supported", "contradicted", "undecided", "not testable"],
            "effect": [3.0, -1.0, 0.5, np.nan],
            "effect_low": [2.0, -1.01, -0.5, np.nan],
            "effect_high": [4.0, -0.99, 1.5, np.nan],
        }
    )
    ax = plots_claims.claims_figure(table).axes[0]
    ends = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [float(line.get_xdata()[0]) for line in ends] == [3.0, -5.0, 0.5]  # -100 is drawn at the edge
    assert [line.get_marker() for line in ends] == ["o", "X", "o"]
    assert ends[0].get_markerfacecolor() != ends[2].get_markerfacecolor()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two", "three"]


def test_agreement_is_measured_on_the_side_of_the_paper():
    """The arm of the interval that points to the paper's value counts, with the reading tolerance."""
    compared = pd.DataFrame(
        {
            "dimension": ["robustness", "robustness"],
            "model": ["vit_sup", "vit_sup"],
            "value": [80.0, 80.0],
            "ci_low": [79.0, 79.0],
            "ci_high": [83.0, 83.0],
            "tolerance": [0.5, 0.5],
            "difference": [-3.5, 3.0],
            "target": [True, False],
        }
    )
    styles = {"vit_sup": plots.style(published.checkpoint_specs()[0])}
    ax = plots_claims.agreement_figure(compared, styles).axes[0]
    drawn = [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert drawn == pytest.approx([-1.0, 2.0])
