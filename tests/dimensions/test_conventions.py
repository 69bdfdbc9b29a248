"""What a change of convention moves: hand-worked cases, and the same differences computed another way."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from beyond_accuracy.dimensions import calibration, conventions, mistakes
from beyond_accuracy.dimensions.conventions import Pair, effects, flip_rate, flips, recorded, reordered, shown
from beyond_accuracy.measure import stats
from beyond_accuracy.show import tables


def run(pred, target, confidence, label=None, ids=None):
    pred, target = np.asarray(pred), np.asarray(target)
    confidence = np.asarray(confidence, float)
    label = np.where(pred == target, confidence, (1 - confidence) / 2) if label is None else np.asarray(label, float)
    ids = np.array([f"i{k}" for k in range(len(pred))]) if ids is None else np.asarray(ids)
    return SimpleNamespace(ids=ids, pred=pred, correct=pred == target, confidence=confidence, target_probability=label)


def pair(plain, changed, convention="precision=bf16", model="a", dataset="d"):
    group = convention.partition("=")[0]
    return Pair(convention, group, f"{group}: changed", dataset, dataset.upper(), model, plain, changed)


def random_pair(n=300, seed=0, **names):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, n)
    first = np.where(rng.random(n) < 0.8, target, (target + 1) % 3)
    second = np.where(rng.random(n) < 0.1, (first + 1) % 3, first)
    return pair(run(first, target, rng.uniform(0.4, 1, n)), run(second, target, rng.uniform(0.4, 1, n)), **names)


def test_flip_rate():
    share, interval = flip_rate([0, 1, 2, 2], [0, 1, 2, 0])
    assert share == 0.25 and interval == stats.wilson(1, 4)
    with pytest.raises(ValueError, match="same images"):
        flip_rate([0, 1], [0])
    with pytest.raises(ValueError, match="n is 0"):
        flip_rate([], [])


def test_by_hand():
    # right, right, wrong, wrong -> right, right, right, wrong; confidences of 0.9 become 0.6
    before = run([0, 1, 1, 1], [0, 1, 2, 2], [0.9] * 4)
    after = run([0, 1, 2, 1], [0, 1, 2, 2], [0.6] * 4)
    table = effects([pair(before, after)], 0, resamples=500).set_index("metric")
    accuracy, ece, nll = table.loc["accuracy"], table.loc["ece_debiased"], table.loc["nll"]
    assert (accuracy.before, accuracy.after, accuracy.change, accuracy.unit) == (50, 75, 25, "percent")
    assert accuracy.p == pytest.approx(chi2.sf(1, 1)) and accuracy.n == 4  # one discordant image
    assert accuracy.ci_low < 0 < accuracy.ci_high and accuracy.p_floor == 0 < nll.p_floor
    assert 0 < ece.before < 0.4 and 0 <= ece.after < 0.15  # the plain ones
    assert nll.before == pytest.approx(-(np.log(0.9) * 2 + np.log(0.05) * 2) / 4)
    assert nll.after == pytest.approx(-(np.log(0.6) * 3 + np.log(0.2)) / 4)


def test_agrees_with_each_metric_computed_alone():
    one = random_pair()
    table = effects([one], 3, resamples=4000).set_index("metric")
    gained = int((one.changed.correct & ~one.plain.correct).sum())
    lost = int((~one.changed.correct & one.plain.correct).sum())
    alone = stats.paired_difference(
        100.0 * one.changed.correct, 100.0 * one.plain.correct, 4000, np.random.default_rng(9)
    )
    row = table.loc["accuracy"]
    assert row.change == pytest.approx(alone.estimate)
    assert row.p == pytest.approx(chi2.sf((gained - lost) ** 2 / (gained + lost), 1))
    assert (row.ci_low, row.ci_high) == pytest.approx(alone.interval, abs=0.7)
    losses = [calibration.nll(r.target_probability) for r in (one.plain, one.changed)]
    alone = stats.paired_difference(losses[1], losses[0], 4000, np.random.default_rng(9))
    row = table.loc["nll"]
    assert row.change == pytest.approx(alone.estimate)
    assert (row.ci_low, row.ci_high) == pytest.approx(alone.interval, abs=0.02)
    row = table.loc["ece_debiased"]
    assert row.before == pytest.approx(calibration.ece_debiased(one.plain.confidence, one.plain.correct).value)
    after = calibration.ece_debiased(one.changed.confidence, one.changed.correct).value
    assert row.change == pytest.approx(after - row.before)
    assert row.ci_low < row.ci_high


def test_pairs_are_resampled_as_pairs():
    # the same outcomes with other confidences: accuracy has no spread, however noisy it is by itself
    one = random_pair()
    same = pair(one.plain, SimpleNamespace(**{**vars(one.plain), "confidence": one.plain.confidence / 2}))
    table = effects([same], 0, resamples=300).set_index("metric")
    accuracy = table.loc["accuracy"]
    assert accuracy.change == 0 and np.isnan(accuracy.p)
    # no change in 300 images leaves one of 1 % possible
    assert (-accuracy.ci_low, accuracy.ci_high) == pytest.approx([100 * 3.84 / 303.84] * 2, abs=0.01)
    assert np.isnan(table.loc["nll"].p) and table.loc["ece_debiased"].p < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_one_changed_image_is_no_difference(seed):
    """Resamples without that image are ties, whatever their sums were rounded to."""
    rng = np.random.default_rng(seed)
    target, confidence = rng.integers(0, 3, 480), rng.uniform(0.4, 1, 480)
    pred = np.where(rng.random(480) < 0.8, target, (target + 1) % 3)
    other = pred.copy()
    other[seed] = (pred[seed] + 1) % 3 if pred[seed] == target[seed] else target[seed]
    label = rng.uniform(0.1, 1, 480) / 3
    one = pair(run(pred, target, confidence, label), run(other, target, confidence, label))
    factors = pd.DataFrame(rng.random((480, 4)) < 0.3, index=one.plain.ids).astype(int)
    table = effects([one], seed, factors, 2000).set_index("metric")
    accuracy, ratio = table.loc["accuracy"], table.loc["error_ratio:average"]
    assert accuracy.ci_low < 0 < accuracy.ci_high and accuracy.p > 0.3
    assert ratio.p > 0.6 and ratio.ci_low <= 0 <= ratio.ci_high
    assert table.loc["nll"].change == 0 and np.isnan(table.loc["nll"].p)  # the same probabilities


def test_a_p_value_that_the_resamples_end_at_is_a_bound():
    one = random_pair(200)
    clear = pair(one.plain, SimpleNamespace(**{**vars(one.plain), "target_probability": np.full(200, 0.001)}))
    table = effects([clear], 0, resamples=500)
    frame = shown(table, flips([clear]), {"a": "A"})
    assert frame["p (NLL)"][0] == frame["p (NLL)_floor"][0] == stats.p_value_floor(500)
    assert "p (accuracy)_floor" not in frame
    page = tables.table_html(frame, "Changes", name="t", formats=conventions.FORMATS)
    assert "&lt; 0.004" in page and "floor" not in page.partition("</table>")[0]


def test_error_ratios_only_of_annotated_images():
    one = random_pair()
    rng = np.random.default_rng(1)
    factors = pd.DataFrame(rng.random((200, 3)) < 0.4, columns=["x", "y", "never"], index=one.plain.ids[50:250])
    factors = factors.assign(never=False).astype(int).sample(frac=1, random_state=0)
    row = effects([one], 0, factors, 2000).set_index("metric").loc["error_ratio:average"]
    ordered = factors.loc[one.plain.ids[50:250]]
    outcomes = {"changed": one.changed.correct[50:250], "plain": one.plain.correct[50:250]}
    other = mistakes.factor_differences(outcomes, ordered, np.random.default_rng(5), 2000)
    other = other[other["metric"] == "error_ratio:average"].iloc[0]
    assert row.change == pytest.approx(other.difference)
    assert (row.ci_low, row.ci_high) == pytest.approx((other.ci_low, other.ci_high), abs=0.04)
    strange = factors.set_axis([f"other{k}" for k in range(len(factors))])
    assert "error_ratio:average" not in set(effects([one], 0, strange, 50)["metric"])


def test_a_model_without_errors_has_no_ratio():
    n = 40
    target = np.zeros(n, int)
    perfect = run(target, target, np.full(n, 0.9))
    factors = pd.DataFrame({"x": np.arange(n) % 2}, index=perfect.ids)
    table = effects([pair(perfect, perfect)], 0, factors, 100)
    assert set(table["metric"]) == {"accuracy", "ece_debiased", "nll"} and table["p"].isna().all()


def test_without_the_labels_probability_there_is_no_nll():
    one = random_pair(60)
    bare = SimpleNamespace(**{**vars(one.plain), "target_probability": np.full(60, np.nan)})
    table = effects([pair(bare, bare), one], 0, resamples=50)
    assert table.groupby("convention", sort=False)["metric"].apply(list).iloc[0].count("nll") == 1


def test_other_images_are_refused():
    one, two = random_pair(30), random_pair(30, seed=1)
    moved = SimpleNamespace(**{**vars(two.plain), "ids": two.plain.ids[::-1]})
    with pytest.raises(ValueError, match="d: conventions are compared on the same images"):
        effects([pair(one.plain, moved)], 0, resamples=10)


def test_nothing_to_compare_is_empty_not_an_error():
    empty = effects([], 0)
    assert empty.empty and list(empty.columns) == conventions.COLUMNS
    assert flips([]).empty and shown(empty, flips([]), {}).empty and recorded(empty, flips([])).empty


def test_tables_for_readers():
    pairs = [random_pair(120, k, convention=c, model=m) for k, (c, m) in enumerate([("x=1", "a"), ("x=1", "b")])]
    table, turned = effects(pairs, 0, resamples=200), flips(pairs)
    frame = shown(table, turned, {"a": "Model A", "b": "Model B"})
    assert list(frame["model"]) == ["Model A", "Model B"]
    raw = table[table["metric"] == "accuracy"]["p"].to_numpy()
    assert frame["p (accuracy)"].to_numpy() == pytest.approx(stats.holm(raw))  # a family is one column
    assert frame["answers changed (%)"].iloc[0] == 100 * (pairs[0].plain.pred != pairs[0].changed.pred).mean()
    assert "error ratio" not in frame
    rows = recorded(table, turned)
    assert {"accuracy_change:x=1", "ece_debiased_change:x=1", "nll_change:x=1", "flip_rate:x=1"} == set(rows["metric"])


def test_orders_that_a_convention_turns_round():
    target = np.zeros(10, int)
    good, better, worse = (run(np.arange(10) >= k, target, np.full(10, 0.5)) for k in (6, 8, 4))
    pairs = [pair(good, good, "x=1", "a"), pair(worse, better, "x=1", "b"), pair(good, good, "y=1", "a")]
    assert reordered(pairs, ["a", "b"]) == [("x: changed", "a", "b")]
    assert reordered(pairs[:1], ["a", "b"]) == []
