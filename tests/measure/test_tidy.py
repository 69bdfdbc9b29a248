"""Rows shared by the metric modules."""

import numpy as np
import pandas as pd

from beyond_accuracy.measure import stats, tidy


def test_ratios_that_are_often_undefined_have_no_interval():
    draws = np.append(np.linspace(0, 1, 90), np.full(10, np.nan))
    assert np.isnan(tidy.interval(draws)).all()
    assert np.isfinite(tidy.interval(draws[5:92])).all()


def test_rows_of_finite_values_only_and_columns_without_any():
    draws = np.tile(np.linspace(0, 1, 1001)[:, None], 3)
    found = tidy.rows("ece", "fraction", ["a", "b", "c"], [0.5, np.nan, 0.25], [7, 8, 9], draws)
    assert found.round(9).values.tolist() == [
        ["ece", "a", 0.5, 0.025, 0.975, 7, "fraction"],
        ["ece", "c", 0.25, 0.025, 0.975, 9, "fraction"],
    ]
    assert tidy.rows("ece", "fraction", ["a"], [1.0], 3)[["ci_low", "ci_high"]].isna().all(axis=None)
    assert list(tidy.rows("ece", "fraction", [], [], 3)) == tidy.COLUMNS


def test_estimates_come_with_the_paired_gaps():
    table = np.random.default_rng(0).random((40, 3))
    draws = stats.bootstrap_means(tidy.with_gaps(table), 200, np.random.default_rng(1))
    rows, gaps = tidy.estimates("m", "fraction", ["a", "b", "c"], table.mean(axis=0), 40, draws)
    assert rows["value"].tolist() == table.mean(axis=0).tolist()
    assert gaps[["model_a", "model_b"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    np.testing.assert_allclose(gaps["difference"], table.mean(axis=0)[[0, 0, 1]] - table.mean(axis=0)[[1, 2, 2]])
    direct = tidy.pairs("m", "fraction", ["a", "b", "c"], table.mean(axis=0), 40, draws[:, :3])
    pd.testing.assert_frame_equal(direct, gaps)
    zero = tidy.against_zero("m", "fraction", ["a"], [0.5], 40, np.ones((99, 1)))
    assert zero[["model_b", "p", "p_floor"]].values.tolist() == [["", 0.02, 0.02]]


def test_a_column_with_its_interval_per_value():
    cells = [("q", "a", 1.0), ("p", "a", 2.0), ("p", "b", 3.0), ("p", "c", np.nan)]
    rows = pd.DataFrame(
        [(s, m, v, v - 1, v + 1) for s, m, v in cells], columns=["set", "model", "value", "ci_low", "ci_high"]
    )
    wide = tidy.pivot(rows, "set", "model", ["b", "a", "c"])
    assert list(wide) == ["set", "b", "b_low", "b_high", "a", "a_low", "a_high"]  # c has no value
    assert wide["set"].tolist() == ["q", "p"] and wide["a"].tolist() == [1, 2] and np.isnan(wide["b"][0])
    assert wide["a_low"].tolist() == [0, 1]
