"""Temperature scaling and selective prediction: known temperatures, an independent optimiser, no leak between folds;
worked cases, sklearn, the identity of AUGRC, brute force over tie orders."""

import doctest
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score

from beyond_accuracy.dimensions import calibration as cal
from beyond_accuracy.dimensions import confidence as con
from beyond_accuracy.measure.stats import bootstrap, wilson


def rng(seed=0):
    return np.random.default_rng(seed)


def test_docstring_examples():
    assert doctest.testmod(con).failed == 0


def scaled(n=4000, classes=10, true_temperature=2.0, seed=0):
    """Logits whose calibrated temperature is known: targets are drawn from softmax(logits / T)."""
    logits = rng(seed).normal(0, 3, (n, classes))
    noisy = logits / true_temperature + rng(seed + 1).gumbel(size=logits.shape)
    return logits, noisy.argmax(axis=1)


@pytest.mark.parametrize("truth", [2.0, 0.7])
def test_recovers_a_known_temperature(truth):
    assert con.fit_temperature(*scaled(20_000, true_temperature=truth)) == pytest.approx(truth, rel=0.03)


def test_matches_a_bounded_scalar_search():
    logits, targets = scaled(500)

    def loss(log_t):
        return -log_softmax(logits / np.exp(log_t), axis=1)[np.arange(500), targets].mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    assert con.fit_temperature(logits, targets) == pytest.approx(expected, rel=1e-4)
    for start in (0.01, 0.2, 7.0, 100.0):
        assert con.fit_temperature(logits, targets, start) == pytest.approx(expected, rel=1e-5)
    assert con.fit_temperature(logits.astype(np.float16), targets) == pytest.approx(expected, rel=1e-3)
    assert con.fit_temperature(np.eye(5) * 3, np.arange(5)) < 0.2, "a perfect model wants the sharpest temperature"
    for start in (0.01, 1.0, 100.0):
        assert con.fit_temperature(np.eye(5) * 3, np.roll(np.arange(5), 1), start) == pytest.approx(100), "a wrong one"


@pytest.mark.parametrize("seed", range(60))
def test_any_set_has_a_temperature_as_good_as_any(seed):
    """Of certain, wrong, few, huge and tiny logits too; some send Newton's method to and fro, or creeping."""
    random = rng(seed)
    n, classes = int(random.integers(2, 60)), int(random.integers(2, 20))
    logits = random.normal(0, 10 ** random.uniform(-3, 4), (n, classes))
    right = random.random(n) < random.random()
    targets = np.where(right, logits.argmax(axis=1), random.integers(0, classes, n))

    def loss(log_t):
        return -log_softmax(logits / np.exp(log_t), axis=1)[np.arange(n), targets].mean()

    best = minimize_scalar(loss, bounds=np.log([0.01, 100]), method="bounded", options={"xatol": 1e-9}).fun
    found = con.fit_temperature(logits, targets, 10 ** random.uniform(-2, 2))
    assert 0.0099 < found < 100.1 and loss(np.log(found)) <= best + 1e-5 * max(1, best)


def test_interval_matches_refitting_resamples_and_covers():
    logits, targets = scaled(400, classes=5)
    fitted = con.fit_temperature(logits, targets)
    low, high = con.temperature_interval(con.moments(logits, targets, fitted), fitted)
    assert low < fitted < high and fitted**2 == pytest.approx(low * high)
    drawn = [rng(seed).integers(0, 400, 400) for seed in range(100)]
    spread = np.std([np.log(con.fit_temperature(logits[rows], targets[rows], fitted)) for rows in drawn])
    assert np.log(high / low) == pytest.approx(2 * 1.96 * spread, rel=0.2)
    found = []
    for seed in range(100):
        again = scaled(400, classes=5, seed=10 + 2 * seed)
        its = con.fit_temperature(*again, 2.0)
        low, high = con.temperature_interval(con.moments(*again, its), its)
        found.append(low <= 2 <= high)
    assert np.mean(found) >= 0.9


def test_cross_fitting_never_sees_its_own_fold_and_repairs_calibration():
    logits, targets = scaled(2000)
    one = run(logits, targets)
    crossed = con.fit_temperatures({"m": one}, 4, 0)["m"].crossed
    assert sorted(np.unique(crossed, return_counts=True)[1]) == [500] * 4
    for fitted in np.unique(crossed):
        others = crossed != fitted
        assert fitted == pytest.approx(con.fit_temperature(logits[others], targets[others]), rel=1e-3)
    assert np.array_equal(con.fit_temperatures({"m": one}, 4, 0)["m"].crossed, crossed), "the seed alone decides"
    before, after = (cal.distribution(one, t) for t in (1.0, crossed))
    assert cal.ece(before.max(axis=1), one.correct) > 0.1 and cal.ece(after.max(axis=1), one.correct) < 0.03
    assert cal.score(after, targets)["nll"].mean() < cal.score(before, targets)["nll"].mean()


@pytest.mark.parametrize(
    "logits,targets",
    [(np.zeros((0, 3)), []), ([[0.0, 1.0]], [2]), ([[0.0, np.nan]], [0]), ([[0.0, 1.0]], [0.5]), ([0.0, 1.0], [0])],
    ids=["empty", "out of range", "nan", "not integer", "one axis"],
)
def test_bad_input(logits, targets):
    with pytest.raises(ValueError):
        con.fit_temperature(logits, targets)


def run(logits, targets, keep=True, multilabel=False):
    known = {"confidence": softmax(logits, axis=1).max(axis=1), "correct": logits.argmax(axis=1) == targets}
    known |= {"multilabel": multilabel, "logits": logits if keep else None, "columns": None}
    return SimpleNamespace(**known, target_positions=targets)


@pytest.fixture(scope="module")
def runs():
    """`sure` is overconfident, `fair` calibrated, `csv` is `fair` known by its confidence only."""
    fair = scaled(1500, 6, 1.0)
    return {"sure": run(*scaled(1500, 6, 2.5)), "fair": run(*fair), "csv": run(*fair, False)}


def test_temperature_is_cross_fitted_at_home_and_carried_away(runs):
    fitted = con.fit_temperatures(runs, 4, 0)
    assert set(fitted) == {"sure", "fair"}
    assert fitted["sure"].whole == pytest.approx(2.5, rel=0.1)
    home, sure = con.rescaled(runs, fitted, runs, 100, 0), runs["sure"]
    p = cal.distribution(sure, fitted["sure"].crossed).max(axis=1)
    row = home.query("metric == 'ece_debiased:scaled' and model == 'sure'").iloc[0]
    assert row["value"] == pytest.approx(cal.ece_debiased(p, sure.correct).value)
    assert ((home["ci_low"] <= home["value"]) & (home["value"] <= home["ci_high"])).all()
    away = con.rescaled({"sure": run(*scaled(800, 6, 5.0, 9))}, fitted, runs, 100, 0)
    fit = away[away["metric"] == "temperature"].iloc[0]
    assert fit["value"] == fitted["sure"].whole and fit["n"] == 1500, "n counts the images that it was fitted on"
    moved = con.before_after(*(rows.assign(dataset="val") for rows in (cal.errors(runs, 100, 0), home)))
    assert moved["model"].tolist() == ["sure", "fair"] and (moved["value"] < 0.05).all() and moved["before"][0] > 0.1
    sentence = con.temperature_sentence(moved, "R", "Val", {"sure": "Sure", "fair": "Fair"})
    assert f"Sure from {moved['before'][0]:.3f} to {moved['value'][0]:.3f}" in sentence and "of Val" in sentence


def test_without_a_distribution_there_is_no_temperature(runs):
    several = {"many": run(*scaled(300), multilabel=True), "csv": runs["csv"]}
    assert con.fit_temperatures(several, 3, 0) == {}
    assert con.rescaled(several, {}, several, 10, 0).empty


def areas(confidence, correct):
    return con.Ranked(confidence, correct).areas()[0]


def sample(n=2000, seed=0, decimals=None):
    confidence = rng(seed).beta(3, 1, n)
    correct = rng(seed + 1).random(n) < confidence
    return (confidence if decimals is None else confidence.round(decimals)), correct


def by_definition(correct):
    """AURC and AUGRC of images already ranked by falling confidence, from their definitions."""
    errors, n = np.cumsum(1 - np.asarray(correct, float)), len(correct)
    return (errors / np.arange(1, n + 1)).mean(), np.trapezoid(np.r_[0, errors] / n, dx=1 / n)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        # Risks 0, 0, 1/3, 1/4; generalized risk 0, 0, 0, 1/4, 1/4 at coverages 0, 1/4 .. 1.
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], [2 / 3, (1 / 3 + 1 / 4) / 4, (0.125 + 0.25) / 4]),
        (np.ones(8), [1, 1, 1, 1, 1, 1, 0, 0], [0.5, 0.25, 0.125]),
        ([0.9, 0.8, 0.1], [1, 1, 0], [1, 1 / 9, 1 / 18]),
        ([0.1, 0.2, 0.9], [1, 1, 0], [0, (1 + 1 / 2 + 1 / 3) / 3, 5 / 18]),
        ([0.9, 0.5], [1, 1], [np.nan, 0, 0]),
        ([0.9, 0.5], [0, 0], [np.nan, 1, 0.5]),
    ],
    ids=["by hand", "constant confidence", "perfect", "worst", "all right", "all wrong"],
)
def test_by_hand(confidence, correct, expected):
    assert areas(confidence, correct) == pytest.approx(expected, nan_ok=True)


def test_areas_match_sklearn_and_their_definitions():
    for decimals in (None, 2, 1):
        confidence, correct = sample(decimals=decimals)
        assert areas(confidence, correct)[0] == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)
    confidence, correct = sample()
    result, accuracy = areas(confidence, correct), correct.mean()
    assert tuple(result[1:]) == pytest.approx(by_definition(correct[np.argsort(-confidence)]))
    assert result[2] == pytest.approx((1 - result[0]) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2)


def test_ties_are_the_mean_over_all_orders():
    confidence, correct = np.array([0.9, 0.6, 0.6, 0.6, 0.6, 0.2]), np.array([1, 0, 1, 1, 0, 1])
    orders = [by_definition(np.r_[correct[0], correct[list(p)], correct[5]]) for p in permutations([1, 2, 3, 4])]
    result = areas(confidence, correct)
    assert tuple(result[1:]) == pytest.approx(tuple(np.mean(orders, axis=0)))
    shuffled = rng().permutation(6)
    assert areas(confidence[shuffled], correct[shuffled]) == pytest.approx(result)


@pytest.mark.parametrize("decimals", [None, 1])
def test_bootstrap_matches_an_explicit_loop(decimals):
    confidence, correct = sample(200, decimals=decimals)
    draws = bootstrap(con.Ranked(confidence, correct).areas, 200, 15, rng(4))
    generator = rng(4)
    for draw in draws:
        rows = generator.integers(0, 200, 200)
        assert draw == pytest.approx(areas(confidence[rows], correct[rows]), abs=1e-6)


def test_resampled_groups_may_hold_more_images_than_there_are():
    """Groups of unequal size: counts of a resample do not sum to n; areas are those of the images so often repeated."""
    rng = np.random.default_rng(0)
    units = np.r_[np.repeat(np.arange(4), 12), np.arange(4, 40)]
    confidence, correct = rng.random(len(units)), rng.random(len(units)) < 0.7
    ranked = con.Ranked(confidence, correct)
    draws = bootstrap(ranked.areas, len(units), 200, np.random.default_rng(1), units)
    assert np.isfinite(draws).all()
    repeats = np.ones(len(units), int)
    repeats[:12] = 5
    again = con.Ranked(np.repeat(confidence, repeats), np.repeat(correct, repeats)).areas()
    np.testing.assert_allclose(
        con.Ranked(confidence, correct).areas(repeats[None].astype(np.float32)), again, rtol=1e-6
    )


def test_risk_coverage_curve():
    confidence, correct = sample(1000)
    found = SimpleNamespace(confidence=confidence, correct=correct)
    curve, ranked = con.risk_coverage({"m": found}, points=50), correct[np.argsort(-confidence)]
    for row in curve.itertuples():
        k = round(row.coverage * 10)
        assert row.value == pytest.approx(100 * (1 - ranked[:k].mean()))
        assert (row.ci_low, row.ci_high) == pytest.approx([100 * end for end in wilson(int((~ranked[:k]).sum()), k)])
    assert curve["value"].iloc[-1] == pytest.approx(100 * (1 - correct.mean()))
    few = SimpleNamespace(confidence=np.array([0.5, 0.4]), correct=np.array([True, False]))
    assert con.risk_coverage({"m": few})["coverage"].tolist() == [50, 100]


def test_errors_among_the_most_confident():
    ranked = con.Ranked([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1])
    assert ranked.errors([0.25, 0.375, 0.5, 1]).tolist() == [0, 0.5, 1, 1]
    assert con.Ranked([0.5] * 4, [1, 0, 1, 1]).errors(0.5) == pytest.approx(0.5)  # ties: expectation


def test_answering(runs):
    table = con.answering(runs, 0.5, 100, 0)
    sure, found = table[table["model"] == "sure"].set_index("metric"), runs["sure"]
    expected = pytest.approx(areas(found.confidence, found.correct))
    assert sure.loc[["auroc", "aurc", "augrc"], "value"].tolist() == expected
    row = sure.loc["accuracy:coverage=0.5"]
    assert row["n"] == 750 and row["ci_low"] < row["value"] < row["ci_high"]
    perfect = SimpleNamespace(confidence=np.linspace(0.5, 1, 20), correct=np.ones(20, bool))
    assert "auroc" not in set(con.answering({"perfect": perfect}, 0.8, 20, 0)["metric"])
    for coverage in (0, 1.1):
        with pytest.raises(ValueError):
            con.answering(runs, coverage, 10, 0)
    with pytest.raises(ValueError):
        con.Ranked([], [])


@pytest.mark.parametrize("decimals", [None, 1])
def test_influence_has_the_spread_of_a_bootstrap(decimals):
    """The standard error of both numbers, and of their paired differences, against 1,000 resamples."""
    one, other = ((p, right) for p, right in (sample(600, decimals=decimals), sample(600, seed=1, decimals=decimals)))
    mixed = np.where(np.arange(600) % 3 == 0, other, one)  # two models that agree on two images in three
    found = [con.Ranked(*each) for each in (one, mixed)]
    moved = np.array([each.influence(0.8) for each in found])
    assert np.abs(moved.sum(axis=2)).max() < 1e-12
    draws = []
    for row in rng().multinomial(600, np.full(600, 1 / 600), 1000):
        drawn = [con.Ranked(np.repeat(p, row), np.repeat(right, row)) for p, right in (one, mixed)]
        draws.append([(each.areas()[0, 0], 1 - float(each.errors(0.8)) / 480) for each in drawn])
    draws = np.array(draws)
    assert np.sqrt((moved**2).sum(axis=2)) == pytest.approx(draws.std(axis=0), rel=0.1)
    between = np.sqrt(((moved[0] - moved[1]) ** 2).sum(axis=1))
    assert between == pytest.approx((draws[:, 0] - draws[:, 1]).std(axis=0), rel=0.1)


def test_rankings_are_compared_in_pairs():
    p, right = sample(600)
    by_luck = rng(5).permutation(p)
    models = {name: SimpleNamespace(confidence=c, correct=right) for name, c in (("a", p), ("b", p), ("luck", by_luck))}
    rows = con.differences(models, 0.8).set_index(["metric", "model_a", "model_b"])
    table = con.answering(models, 0.8, 20, 0).set_index(["metric", "model"])["value"]
    for metric in ("auroc", "accuracy:coverage=0.8"):
        same = rows.loc[(metric, "a", "b")]
        assert same[["difference", "p"]].tolist() == [0, 1] and same["ci_low"] < 0 < same["ci_high"]
        row = rows.loc[(metric, "a", "luck")]
        assert row["difference"] == pytest.approx(table[metric, "a"] - table[metric, "luck"])
        assert 0 < row["ci_low"] < row["ci_high"] and row["p"] < 1e-4
    assert set(rows["family"]) == {"choice"} and set(rows["n"]) == {600, 480}
    sure = {"a": models["a"], "right": SimpleNamespace(confidence=p, correct=np.ones(600, bool))}
    assert con.differences(sure, 0.8)["metric"].tolist() == ["accuracy:coverage=0.8"]  # nothing wrong to rank
    none = {name: SimpleNamespace(confidence=p, correct=np.zeros(600, bool)) for name in "ab"}
    assert con.differences(none, 0.8)["difference"].dtype == float, "a column of objects would stop the page"
