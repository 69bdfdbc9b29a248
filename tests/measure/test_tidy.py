"""Rows and tables shared by the metric modules."""

import numpy as np
import pandas as pd

from beyond_accuracy.measure import tidy


def test_wide_table_with_the_papers_value_beside():
    rows = [tidy.row("bias", m, v, (v - 1, v + 1), 10, "fraction") for m, v in (("b", 3.0), ("a", 2.0))]
    labels = {"a": "Model A", "b": "Model B"}
    shown = tidy.wide(tidy.frame(rows), {"bias": "Bias", "other": "Other"}, labels)
    assert list(shown) == ["model", "Bias", "Bias_low", "Bias_high"]
    assert shown.values.tolist() == [["Model A", 2, 1, 3], ["Model B", 3, 2, 4]]
    paper = pd.DataFrame({"model": ["b"], "value": [2.5]})
    beside = tidy.beside_paper(shown, paper, "Bias", labels)
    assert np.isnan(beside["paper"][0]) and beside["minus paper"][1] == 0.5
    assert tidy.beside_paper(shown, paper.iloc[:0], "Bias", labels) is shown


def test_ratios_that_are_often_undefined_have_no_interval():
    draws = np.append(np.linspace(0, 1, 90), np.full(10, np.nan))
    assert np.isnan(tidy.interval_of_ratio(draws)).all()
    assert np.isfinite(tidy.interval_of_ratio(draws[5:92])).all()


def test_an_empty_table_keeps_its_columns():
    assert list(tidy.frame([])) == tidy.COLUMNS


def test_a_column_per_model():
    rows = [
        tidy.row("x", m, v, (v, v), 1, "percent") | {"set": s}
        for s, m, v in (("q", "a", 1), ("p", "a", 2), ("p", "b", 3))
    ]
    shown = tidy.by_model(pd.DataFrame(rows), "set", {"b": "B", "a": "A"})
    assert list(shown) == ["set", "B", "B_low", "B_high", "A", "A_low", "A_high"]
    assert shown["set"].tolist() == ["q", "p"] and shown["A"].tolist() == [1, 2] and np.isnan(shown["B"][0])


def test_rows_as_words():
    rows = pd.DataFrame({"model_a": ["a", "b"], "gap": [1.26, -0.5]})
    assert tidy.spell(rows, "{model_a} {gap:+.1f}", {"a": "A"}) == "A +1.3; b -0.5"
    assert tidy.spell(rows.iloc[:0], "{model_a}") == ""


def test_a_superlative_needs_a_leader_that_beats_the_others():
    rows = tidy.frame(
        [tidy.row("accuracy", m, v, (v, v), 9, "percent") for m, v in (("a", 80.0), ("b", 82.0), ("c", 60.0))]
    )
    gaps = pd.DataFrame(
        [("a", "b", 0.2), ("a", "c", 0.01), ("b", "c", 0.001)], columns=["model_a", "model_b", "p_holm"]
    )
    labels = {"a": "A", "b": "B", "c": "C"}
    assert tidy.best(rows, gaps, labels, "{value:.0f} %") == "B (82 %) and A (80 %) tie"
    assert tidy.best(rows, gaps, labels, "{value:.0f} %", lower=True) == "C (60 %)"
    sure = gaps.assign(p_holm=0.01)
    assert tidy.best(rows, sure, labels, "{value:.0f}") == "B (82)"
    three = tidy.best(rows, gaps.assign(p_holm=np.nan), labels, "{value:.0f}")  # not compared is not told apart
    assert three == "B (82), A (80) and C (60) tie"
    assert tidy.leaders(rows.set_index("model")["value"].iloc[:1], gaps) == ["a"]


def test_p_values_at_the_floor_are_kept_as_bounds():
    frame = pd.DataFrame(
        [
            ("a", "b", 1.0, 0.5, 1.5, p, 9, "percent", f)
            for p, f in ((1e-4, 1e-4), (0.02, 1e-4), (0.5, 0.0), (0.0, 0.0))
        ],
        columns=[*tidy.DIFFERENCE, "p_floor"],
    )
    shown = tidy.shown_differences(frame)
    assert "p_floor" not in shown
    bounds = shown["p_holm_floor"].to_numpy()
    assert bounds[0] == shown["p_holm"][0] and np.isnan(bounds[1:3]).all()
    assert "p_holm_floor" not in tidy.shown_differences(frame.drop(columns="p_floor"))
