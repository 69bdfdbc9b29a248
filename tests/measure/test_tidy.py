"""Rows shared by the metric modules."""

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.dimensions import calibration, confidence, invariance, robustness
from beyond_accuracy.inference.predictions import Predictions, score
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
    rows = pd.DataFrame(cells, columns=["set", "model", "value"])
    rows = rows.assign(ci_low=rows["value"] - 1, ci_high=rows["value"] + 1)
    wide = tidy.pivot(rows, "set", "model", ["b", "a", "c"])
    assert list(wide) == ["set", "b", "b_low", "b_high", "a", "a_low", "a_high"]  # c has no value
    assert wide["set"].tolist() == ["q", "p"] and wide["a"].tolist() == [1, 2] and np.isnan(wide["b"][0])
    assert wide["a_low"].tolist() == [0, 1]


# Units ----------------------------------------------------------------------------------------------------------------


def runs_of(n, copies, seed=0, classes=4):
    """Two models on n images, each of which is there so many times, as units."""
    rng, ids = np.random.default_rng(seed), np.repeat(np.arange(n), copies)
    targets, found = rng.integers(classes, size=n), {}
    for model, skill in (("a", 2.0), ("b", 1.2)):
        logits = rng.normal(size=(n, classes)) + skill * np.eye(classes)[targets]
        logits = (logits - logits.max(axis=1, keepdims=True)).astype(np.float16)[ids]
        frame = pd.DataFrame({"id": [f"{k}_{i}" for i, k in enumerate(ids)], "target": targets[ids]})
        frame = frame.assign(**score(logits, targets[ids], None))
        found[model] = Predictions(model, "d", "none", frame, logits, None, {}, ids if copies > 1 else None)
    return found


def alike(plain, many, slack=0.12):
    """Rows with the same numbers, n and intervals, up to the noise of resamples."""
    keys = [name for name in ("metric", "model", "model_a", "model_b") if name in plain]
    both = plain.merge(many, on=keys, suffixes=("", "_many"), validate="1:1")
    assert len(both) == len(plain) == len(many) > 0
    value = "value" if "value" in plain else "difference"
    drawn = both["metric"].isin(["ece_null", "aurc"]).to_numpy()  # simulated; of a curve with as many steps as images
    np.testing.assert_allclose(both[value][~drawn], both[f"{value}_many"][~drawn], atol=1e-9)
    np.testing.assert_allclose(both[value][drawn], both[f"{value}_many"][drawn], rtol=0.08)
    assert (both["n"] == both["n_many"]).all()
    both = both.dropna(subset=["ci_low"])
    width = (both["ci_high"] - both["ci_low"]).to_numpy()
    for end in ("ci_low", "ci_high"):
        off = np.abs(both[end] - both[f"{end}_many"]).to_numpy() / np.maximum(width, 1e-9)
        assert (off < slack).all(), both[off >= slack]


def test_copies_of_an_image_count_once_on_every_page():
    one, many = runs_of(500, 1), runs_of(500, 4)
    once, often = ({m: r.correct for m, r in runs.items()} for runs in (one, many))
    units = tidy.units_of(many)
    assert tidy.units_of(one) is None and tidy.count(2000, units) == 500
    alike(tidy.accuracy(once), tidy.accuracy(often, units=units))
    alike(tidy.accuracy_pairs(once), tidy.accuracy_pairs(often, units=units))
    alike(calibration.errors(one, 400, 0), calibration.errors(many, 400, 0))
    alike(calibration.differences(one, 0), calibration.differences(many, 0))
    alike(confidence.answering(one, 0.8, 400, 0), confidence.answering(many, 0.8, 400, 0))
    fitted = [confidence.fit_temperatures(runs, 5, 0) for runs in (one, many)]
    for model in one:
        (low, high), ends = (found[model].interval for found in fitted)
        assert ends == pytest.approx((low, high), rel=0.02)
    cells = [{(name, k): right for name in "xy" for k in (1, 2)} for right in (once, often)]
    alike(robustness.corruption_table(cells[0], {}, 400, 0), robustness.corruption_table(cells[1], {}, 400, 0, units))
    pair = [robustness.average_table({"c": once}, 400, 0), robustness.average_table({"c": often}, 400, 0, units=units)]
    alike(pair[0][0], pair[1][0])
    alike(pair[0][1], pair[1][1])
    moved = runs_of(500, 1, 1), runs_of(500, 4, 1)  # other answers on other labels: only the counting matters here
    steps = [
        [invariance.Step(1.0, runs), invariance.Step(2.0, out)] for runs, out in zip((one, many), moved, strict=True)
    ]
    curves = [invariance.curve("zoom", runs, step, 1.0, 400, 0) for runs, step in zip((one, many), steps, strict=True)]
    alike(*curves)
    kept = [{"zoom": invariance.answers_kept(runs, step, 1.0)} for runs, step in zip((one, many), steps, strict=True)]
    for plain, grouped in zip(
        invariance.agreement(kept[0], 0), invariance.agreement(kept[1], 0, units=units), strict=True
    ):
        alike(plain, grouped)


def test_images_of_a_unit_that_share_their_luck_widen_the_intervals():
    """Twenty groups, right or wrong as a whole: the error of calibration is known no better than from twenty images."""
    rng, units = np.random.default_rng(3), np.repeat(np.arange(20), 50)
    right, p = (rng.random(20) < 0.7)[units], np.full(1000, 0.7)
    blind, aware = calibration.ece_debiased(p, right), calibration.ece_debiased(p, right, units=units)
    share = calibration.intraclass(right - p, units)
    assert share > 0.95 and calibration.intraclass(rng.normal(size=1000), units) < 0.02
    null = calibration.null_ece(p, 400, np.random.default_rng(0), 15, units, share)
    assert null.mean() == pytest.approx(np.sqrt(2 / np.pi * 0.21 / 20), rel=0.15)  # mean gap of 20 draws at 0.7
    assert np.diff(aware.interval(null)) > 3 * np.diff(blind.interval(calibration.null_ece(p, 400, rng)))
    assert stats.design_effect(right, units) > 40 and stats.standard_error(right, units) > 6 * right.std() / 1000**0.5
