"""The simulations of coverage: one sample of one of them, the table, and its place in the docs."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import interval_coverage as tool

ROOT = Path(__file__).parents[2]


def thermometer(rng):
    """A mean of ten draws of variance 1, with half an interval and a p-value that is never small."""
    mean = rng.normal() / np.sqrt(10)
    reach = norm.ppf(0.75) / np.sqrt(10)
    yield "mean", "10", "narrow", 0.0, mean - reach, mean + reach, 0.5
    yield "mean", "10", "off", 1.0, mean - reach, mean + reach, 0.001
    yield "mean", "10", "seldom", 0.0, *((-9.0, 9.0) if mean > 0 else (np.nan, np.nan)), 0.03


@pytest.fixture
def simulations(monkeypatch):
    monkeypatch.setitem(tool.SIMULATIONS, "thermometer", thermometer)


def test_coverage_is_counted(simulations):
    lines = tool.summary([tool.repeat("thermometer", k) for k in range(400)]).set_index("case")
    narrow, off, seldom = lines.loc["narrow"], lines.loc["off"], lines.loc["seldom"]
    assert narrow.covered == pytest.approx(0.5, abs=0.06) and narrow.covered_low < 0.5 < narrow.covered_high
    assert (narrow.below_5, narrow.below_1, narrow.none) == (0, 0, 0) and narrow.repetitions == 400
    assert narrow.width == pytest.approx(2 * norm.ppf(0.75) / np.sqrt(10))
    assert np.isnan(off.below_5)  # p-values of what is not zero are not counted
    assert seldom.covered == 1 and seldom.none == pytest.approx(0.5, abs=0.08)
    assert (seldom.below_5, seldom.below_1) == (1, 0)


def test_a_sample_depends_on_its_number_alone(simulations):
    assert tool.repeat("thermometer", 3)[:2] == tool.repeat("thermometer", 3)[:2]
    assert tool.repeat("thermometer", 3)[0] != tool.repeat("thermometer", 4)[0]


def test_the_table_goes_between_its_markers(simulations, tmp_path):
    docs = tmp_path / "metrics.md"
    before = "# Title\n<!-- coverage: thermometer -->\n"
    after = "\n<!-- end -->\nmore\n<!-- coverage: x -->\n<!-- end -->\n"
    docs.write_text(f"{before}old{after}")
    tool.main(["--only", "thermometer", "--repetitions", "6", "--jobs", "1", "--docs", str(docs)])
    text = docs.read_text()
    assert text.startswith(before) and text.endswith(after) and "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| mean | 10 |")]
    assert len(rows) == 3 and "A mean of ten draws" in text
    assert "**" in next(row for row in rows if "off" in row)
    tool.main(["--only", "thermometer", "--quick", "--jobs", "1", "--docs", str(docs)])
    assert docs.read_text() == text
    with pytest.raises(ValueError, match="coverage: nowhere"):
        tool.write(docs, "nowhere", "")


def test_every_simulation_has_its_table_in_the_docs():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, simulation in tool.SIMULATIONS.items():
        block = text.partition(f"<!-- coverage: {name} -->\n")[2].partition("<!-- end -->")[0]
        assert " ".join(simulation.__doc__.split()) in block and "| covered, % |" in block, name


@pytest.mark.parametrize("name", ["accuracy", "sets", "factors", "shape", "sweeps", "probes", "effects"])
def test_a_sample_is_plausible(name):
    """Half of the intervals at least hold the truth, and every line has a number: signatures and units fit."""
    lines = tool.summary([tool.repeat(name, 0)])
    assert lines.covered.mean() > 0.5 and (lines.none < 1).all() and (lines.width > 0).all()


def test_models_have_the_calibration_error_they_should():
    rng = np.random.default_rng(0)
    for kind in (True, False):
        ((confidence, right),) = tool.answers(rng, 200_000, [kind], [0.05])
        assert tool.calibration.ece(confidence, right) == pytest.approx(0.05, abs=0.005)


def test_answers_are_right_as_often_as_asked_and_alike_within_groups():
    scene = np.repeat(np.arange(20_000), 4)
    right = tool.observers(np.random.default_rng(0), 2, len(scene), (0.4, scene)) < norm.ppf([0.9, 0.6])
    assert right.mean(axis=0) == pytest.approx([0.9, 0.6], abs=0.01)
    by_scene = right[:, 1].reshape(-1, 4).mean(axis=1)
    assert by_scene.var() > 1.5 * 0.24 / 4
    assert np.corrcoef(right.T)[0, 1] > 0.25
