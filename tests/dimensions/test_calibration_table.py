"""Tables of the calibration page: planted cases, models without logits, several labels, and its sentences."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from beyond_accuracy.dimensions import calibration, selective, temperature
from beyond_accuracy.dimensions import calibration_table as tab
from beyond_accuracy.dimensions import words_calibration as words
from beyond_accuracy.dimensions.calibration_resampling import bin_configs


def run(logits, targets, columns=None, keep=True, multilabel=False):
    scored = logits if columns is None else logits[:, columns]
    p = softmax(scored.astype(np.float32), axis=1)
    return SimpleNamespace(
        confidence=p.max(axis=1).astype(float),
        correct=p.argmax(axis=1) == targets,
        multilabel=multilabel,
        logits=logits if keep else None,
        columns=columns,
        target_positions=targets,
    )


def outputs(n, sharpness, seed, shift=0.0):
    """Logits of a model whose calibrated temperature is `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, 6))
    targets = (logits * (1 - shift) + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return (logits * sharpness).astype(np.float16), targets


@pytest.fixture(scope="module")
def runs():
    """`sure` is overconfident, `fair` calibrated, `csv` is `fair` known by its confidence only."""
    sure, fair = outputs(1500, 2.5, 0), outputs(1500, 1.0, 1)
    return {"sure": run(*sure), "fair": run(*fair), "csv": run(*fair, keep=False)}


def values(table, metric):
    return table[table["metric"] == metric].set_index("model")["value"].to_dict()


def test_main_table(runs):
    table = tab.ece_table(runs, 300, 0)
    sure = runs["sure"]
    assert values(table, "ece")["sure"] == pytest.approx(calibration.ece(sure.confidence, sure.correct))
    assert values(table, "accuracy")["sure"] == pytest.approx(100 * sure.correct.mean())
    assert values(table, "confidence_gap")["sure"] == pytest.approx(sure.confidence.mean() - sure.correct.mean())
    assert values(table, "ece_debiased")["sure"] == calibration.ece_debiased(sure.confidence, sure.correct).value
    intervals = table.set_index(["model", "metric"])[["ci_low", "ci_high"]]
    assert intervals.loc[("sure", "ece_debiased"), "ci_low"] > 0.05
    assert intervals.loc[("fair", "ece_debiased"), "ci_low"] == 0
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])).all()
    assert intervals.loc[("fair", "confidence_gap")].prod() < 0 < intervals.loc[("sure", "confidence_gap"), "ci_low"]
    fair, csv = (table[table["model"] == m].drop(columns="model").to_numpy() for m in ("fair", "csv"))
    assert np.array_equal(fair, csv), "the same outputs give the same rows: resamples are shared"
    summary = tab.summary(table).set_index("model")
    assert summary.loc["sure", "accuracy"] == pytest.approx(sure.correct.mean())


def test_scores_need_the_distribution_only_where_they_say_so(runs):
    table = tab.scores_table(runs, 100, 0)
    assert set(table.loc[table["model"] == "csv", "metric"]) == {"ece_sweep", "ece_smooth"}
    p, y = softmax(runs["fair"].logits.astype(np.float32), axis=1), runs["fair"].target_positions
    assert values(table, "brier")["fair"] == pytest.approx(calibration.brier(p, y).mean(), abs=1e-6)
    assert values(table, "nll")["fair"] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), abs=1e-5)
    assert values(table, "ece_classwise")["fair"] == pytest.approx(calibration.classwise_ece(p, y).mean())
    assert ((table["ci_low"] < table["value"]) & (table["value"] < table["ci_high"])).all()


def test_bins_and_ordering(runs):
    lines, order = tab.bins_table({m: runs[m] for m in ("sure", "fair")}, bin_configs([5, 15]))
    row = lines[(lines["model"] == "sure") & (lines["binning"] == "mass") & (lines["n_bins"] == 5)].iloc[0]
    sure = runs["sure"]
    assert row["plain"] == pytest.approx(calibration.ece(sure.confidence, sure.correct, 5, binning="mass"))
    assert ((lines["ci_low"] <= lines["value"]) & (lines["value"] <= lines["ci_high"])).all()
    assert order.loc[0, ["better", "worse", "clear", "configs"]].tolist() == ["fair", "sure", 4, 4]
    shown = tab.shown_ordering(order, "Val", {"sure": "Sure", "fair": "Fair"})
    assert shown.loc[0, ["better", "worse", "clear in"]].tolist() == ["Fair", "Sure", "4 of 4"]
    sentence = words.order_sentence(order.iloc[0], "Val", {"sure": "Sure", "fair": "Fair"})
    assert (
        sentence == "On Val, Fair has a lower debiased ECE than Sure beyond noise under each of 4 bin configurations."
    )


def test_shares_are_printed_alike_in_the_table_and_in_the_sentence(runs):
    logits, targets = outputs(1500, 1.05, 1)
    labels = {"fair": "Fair", "near": "Near"}
    _, order = tab.bins_table({"near": run(logits, targets), "fair": runs["fair"]}, bin_configs([5, 15]))
    sentence = words.order_sentence(order.iloc[0], "Val", labels)
    shown = tab.shown_ordering(order, "Val", labels).iloc[0]
    assert 0.5 < shown["share of all"] < 0.975 and order["clear"][0] < 4
    for share in (shown["share of all"], shown["least favourable"]):
        assert f"in {share:.1%}".replace("%", " %") in sentence


def test_one_model_has_no_order():
    alone = {"m": run(*outputs(100, 1.0, 5))}
    lines, order = tab.bins_table(alone, bin_configs([5]))
    assert len(lines) == 2 and order.empty and tab.shown_ordering(order, "Val", {}).empty
    assert tab.differences(alone, 0)["metric"].tolist() == ["confidence_gap"]


def test_differences(runs):
    table = tab.differences(runs, 0).set_index(["metric", "model_a", "model_b"])
    assert len(table) == 3 + 3 * 3
    assert table.loc[("confidence_gap", "sure", ""), "p"] < 0.001
    apart = table.loc[("ece_debiased", "sure", "fair")]
    assert apart["ci_low"] > 0 and apart["p"] == apart["p_floor"] == 1 / 20_001
    same = table.loc[("ece_debiased", "fair", "csv")]
    assert same[["difference", "ci_low", "ci_high", "p"]].tolist() == [0, 0, 0, 1]
    accuracy = table.loc[("accuracy", "sure", "fair")]
    gap = 100 * (runs["sure"].correct.mean() - runs["fair"].correct.mean())
    assert accuracy["difference"] == pytest.approx(gap) and accuracy["unit"] == "percent"
    assert accuracy["p_floor"] == 0 < table.loc[("confidence_gap", "sure", ""), "p_floor"]


def test_temperature_is_cross_fitted_at_home_and_carried_away(runs):
    fitted = tab.fit_temperatures(runs, 4, 0)
    assert set(fitted) == {"sure", "fair"}
    assert fitted["sure"].whole == pytest.approx(2.5, rel=0.1)
    home = tab.scaled_table(runs, fitted, True, 100, 0)
    crossed = fitted["sure"].crossed.temperature
    scaled = temperature.score(runs["sure"].logits, runs["sure"].target_positions, crossed)
    expected = calibration.ece_debiased(scaled.confidence, runs["sure"].correct).value
    assert values(home, "ece_debiased:scaled")["sure"] == pytest.approx(expected)
    assert ((home["ci_low"] <= home["value"]) & (home["value"] <= home["ci_high"])).all()
    shifted = {"sure": run(*outputs(800, 2.5, 9, shift=0.5))}
    away = tab.scaled_table(shifted, fitted, False, 100, 0)
    fit = away[away["metric"] == "temperature"].iloc[0]
    assert fit["value"] == fitted["sure"].whole and fit["n"] == 1500, "n counts the images that it was fitted on"
    pairs = tab.before_after(tab.ece_table(runs, 100, 0), home)
    assert pairs["model"].tolist() == ["sure", "fair"] and (pairs["after"] < 0.05).all()
    sentence = words.temperature_sentence(pairs, "R", {"sure": "Sure", "fair": "Fair"}, "Val")
    assert f"Sure from {pairs['before'][0]:.3f} to {pairs['after'][0]:.3f}" in sentence and "of Val" in sentence


def test_columns_restrict_the_classes(runs):
    logits, targets = outputs(600, 1.0, 3)
    columns = np.array([1, 3, 4])
    inside = np.isin(targets, columns)
    part = run(logits[inside], np.searchsorted(columns, targets[inside]), columns)
    table = tab.scores_table({"part": part}, 50, 0)
    p = softmax(logits[inside][:, columns].astype(np.float32), axis=1)
    assert values(table, "brier")["part"] == pytest.approx(calibration.brier(p, part.target_positions).mean(), abs=1e-6)


def test_several_labels_have_no_distribution_rows():
    logits, targets = outputs(300, 1.0, 4)
    many = run(logits, targets, multilabel=True)
    table = tab.scores_table({"many": many}, 50, 0)
    assert "nll" not in set(table["metric"]) and "ece_smooth" in set(table["metric"])
    assert tab.fit_temperatures({"many": many}, 3, 0) == {}


def test_selective_table(runs):
    table = tab.selective_table(runs, 100, 0, coverage=0.5)
    expected = selective.selective(runs["sure"].confidence, runs["sure"].correct)
    assert values(table, "auroc")["sure"] == pytest.approx(expected.auroc)
    row = table[(table["model"] == "sure") & (table["metric"] == "accuracy:coverage=0.5")].iloc[0]
    assert row["n"] == 750 and row["ci_low"] < row["value"] < row["ci_high"]
    perfect = SimpleNamespace(confidence=np.linspace(0.5, 1, 20), correct=np.ones(20, bool), multilabel=False)
    assert "auroc" not in set(tab.selective_table({"perfect": perfect}, 20, 0)["metric"])


def test_models_must_share_images(runs):
    short = SimpleNamespace(confidence=np.ones(3), correct=np.ones(3, bool), multilabel=False)
    with pytest.raises(ValueError, match="same images"):
        tab.ece_table({"a": runs["sure"], "b": short}, 10, 0)
    with pytest.raises(ValueError, match="no model"):
        tab.ece_table({}, 10, 0)


def test_gap_sentence_and_alt_texts(runs):
    labels = {"sure": "Sure", "fair": "Fair", "csv": "CSV"}
    table = tab.ece_table(runs, 200, 0)
    sentence = words.gap_sentence(table, "Val", labels)
    gap = 100 * calibration.signed_gap(runs["sure"].confidence, runs["sure"].correct)
    assert f"Sure is overconfident by {gap:.1f} [" in sentence and "Fair is neither (" in sentence
    turned = table.assign(value=-table["value"], ci_low=-table["ci_high"], ci_high=-table["ci_low"])
    assert f"Sure is underconfident by {gap:.1f} [" in words.gap_sentence(turned, "Val", labels)
    alt = words.reliability_alt(tab.summary(table), "Val", labels)
    shown = (values(table, metric)["sure"] for metric in ("ece_debiased", "ece"))
    assert "Sure debiased ECE {:.3f} (plain {:.3f})".format(*shown) in alt and "3 models on Val" in alt
    curve = selective.risk_coverage(runs["sure"].confidence, runs["sure"].correct).assign(model="sure", dataset="Val")
    assert f"{1 - runs['sure'].correct.mean():.1%} at all images" in words.risk_coverage_alt(curve, labels)
    lines = pd.DataFrame({"model": ["sure", "sure"], "value": [0.1, 0.2]})
    assert "Sure 0.100 to 0.200" in words.bins_alt(lines, "Val", labels)
