"""Selective prediction: worked cases, sklearn, the identity of AUGRC, brute force over tie orders."""

import doctest
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from beyond_accuracy.dimensions import selective as sel
from beyond_accuracy.measure.stats import wilson


def rng(seed=0):
    return np.random.default_rng(seed)


def sample(n=2000, seed=0, decimals=None):
    confidence = rng(seed).beta(3, 1, n)
    correct = rng(seed + 1).random(n) < confidence
    return (confidence if decimals is None else confidence.round(decimals)), correct


def by_definition(correct):
    """AURC and AUGRC of images already ranked by falling confidence, from their definitions."""
    errors = np.cumsum(1 - np.asarray(correct, float))
    n = len(errors)
    accepted = np.arange(1, n + 1)
    curve = np.concatenate([[0], errors]) / n
    return (errors / accepted).mean(), np.trapezoid(curve, dx=1 / n)


def test_band_is_wilson_among_the_accepted():
    curve = sel.risk_coverage(*sample(200), points=4)
    for row in curve.itertuples():
        accepted = round(200 * row.coverage)
        assert (row.risk_low, row.risk_high) == pytest.approx(wilson(round(row.risk * accepted), accepted))


def test_docstring_examples():
    assert doctest.testmod(sel).failed == 0


def test_by_hand():
    # Risks 0, 0, 1/3, 1/4; generalized risk 0, 0, 0, 1/4, 1/4 at coverages 0, 1/4 .. 1.
    result = sel.selective([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])
    assert result.auroc == pytest.approx(2 / 3)
    assert result.aurc == pytest.approx((1 / 3 + 1 / 4) / 4)
    assert result.augrc == pytest.approx((0.125 + 0.25) / 4)


@pytest.mark.parametrize("decimals", [None, 2, 1])
def test_auroc_matches_sklearn(decimals):
    confidence, correct = sample(decimals=decimals)
    assert sel.selective(confidence, correct).auroc == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)


def test_areas_match_their_definitions():
    confidence, correct = sample()
    aurc, augrc = by_definition(correct[np.argsort(-confidence)])
    result = sel.selective(confidence, correct)
    assert (result.aurc, result.augrc) == (pytest.approx(aurc), pytest.approx(augrc))
    accuracy = correct.mean()
    identity = (1 - result.auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert result.augrc == pytest.approx(identity)


def test_ties_are_the_mean_over_all_orders():
    confidence, correct = np.array([0.9, 0.6, 0.6, 0.6, 0.6, 0.2]), np.array([1, 0, 1, 1, 0, 1])
    orders = [by_definition(np.r_[correct[0], correct[list(p)], correct[5]]) for p in permutations([1, 2, 3, 4])]
    result = sel.selective(confidence, correct)
    assert (result.aurc, result.augrc) == pytest.approx(tuple(np.mean(orders, axis=0)))
    shuffled = rng().permutation(6)
    assert sel.selective(confidence[shuffled], correct[shuffled]) == pytest.approx(tuple(result))


def test_constant_confidence_is_chance():
    result = sel.selective(np.ones(8), [1, 1, 1, 1, 1, 1, 0, 0])
    assert result.auroc == pytest.approx(0.5)
    assert result.aurc == pytest.approx(0.25)
    assert result.augrc == pytest.approx(0.125)


def test_perfect_and_worst_ranking():
    assert sel.selective([0.9, 0.8, 0.1], [1, 1, 0]).auroc == 1
    assert sel.selective([0.1, 0.2, 0.9], [1, 1, 0]).auroc == 0


@pytest.mark.parametrize("outcome,area", [(1, 0.0), (0, 1.0)])
def test_one_class_has_no_auroc(outcome, area):
    result = sel.selective([0.9, 0.5], [outcome, outcome])
    assert np.isnan(result.auroc) and result.aurc == area


@pytest.mark.parametrize("decimals", [None, 1])
def test_bootstrap_matches_an_explicit_loop(decimals):
    confidence, correct = sample(200, decimals=decimals)
    draws = sel.selective_bootstrap(confidence, correct, 15, rng(4))
    generator = rng(4)
    for i in range(15):
        rows = generator.integers(0, 200, 200)
        expected = sel.selective(confidence[rows], correct[rows])
        assert (draws.auroc[i], draws.aurc[i], draws.augrc[i]) == pytest.approx(tuple(expected), abs=1e-6)


def test_bootstrap_over_clusters():
    confidence, correct = sample(120)
    clusters = rng().integers(0, 15, 120)
    draws = sel.selective_bootstrap(confidence, correct, 40, rng(), clusters)
    assert draws.auroc.shape == (40,) and np.isfinite(draws.auroc).all()


def test_risk_coverage_curve():
    confidence, correct = sample(1000)
    curve = sel.risk_coverage(confidence, correct, points=50)
    ranked = correct[np.argsort(-confidence)]
    for row in curve.itertuples():
        k = round(row.coverage * 1000)
        assert row.risk == pytest.approx(1 - ranked[:k].mean())
        assert row.generalized_risk == pytest.approx((~ranked[:k]).sum() / 1000)
        assert row.threshold == np.sort(confidence)[::-1][k - 1]
    assert curve["risk"].iloc[-1] == pytest.approx(1 - correct.mean())
    assert len(sel.risk_coverage([0.5, 0.4], [1, 0])) == 2


def test_accuracy_at_coverage():
    confidence, correct = [0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1]
    assert sel.accuracy_at_coverage(confidence, correct, 0.5) == 0.5
    assert sel.accuracy_at_coverage(confidence, correct, 0.375) == pytest.approx(1 - 0.5 / 1.5)
    assert sel.accuracy_at_coverage([0.5] * 4, correct, 0.5) == pytest.approx(0.75)  # ties: expectation
    for coverage in (0, 1.1):
        with pytest.raises(ValueError):
            sel.accuracy_at_coverage(confidence, correct, coverage)


def test_no_images():
    with pytest.raises(ValueError):
        sel.selective([], [])
