"""Temperature scaling: known temperatures, an independent optimiser, no leak between folds, edges."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from beyond_accuracy.dimensions import calibration as cal
from beyond_accuracy.dimensions import temperature as temp


def rng(seed=0):
    return np.random.default_rng(seed)


def sample(n=4000, classes=10, true_temperature=2.0, seed=0):
    """Logits whose calibrated temperature is known: targets are drawn from softmax(logits / T)."""
    logits = rng(seed).normal(0, 3, (n, classes))
    noisy = logits / true_temperature + rng(seed + 1).gumbel(size=logits.shape)
    return logits, noisy.argmax(axis=1)


def test_recovers_a_known_temperature():
    assert temp.fit_temperature(*sample(20_000)) == pytest.approx(2.0, rel=0.03)
    assert temp.fit_temperature(*sample(20_000, true_temperature=0.7)) == pytest.approx(0.7, rel=0.03)


def test_matches_a_bounded_scalar_search():
    logits, targets = sample(500)

    def loss(log_t):
        return -log_softmax(logits / np.exp(log_t), axis=1)[np.arange(500), targets].mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    assert temp.fit_temperature(logits, targets) == pytest.approx(expected, rel=1e-4)
    assert temp.fit_temperature(logits, targets, start=0.2) == pytest.approx(expected, rel=1e-3)


def test_chunks_change_nothing():
    logits, targets = sample(2500, classes=1000)  # two chunks
    p = softmax(logits.astype(np.float32) / np.float32(2), axis=1)
    found = temp.score(logits, targets, 2.0)
    assert found.confidence == pytest.approx(p.max(axis=1), rel=1e-4)
    assert found.target_probability == pytest.approx(p[np.arange(2500), targets], rel=1e-4)


def test_interval_matches_refitting_resamples_and_covers():
    logits, targets = sample(400, classes=5)
    fitted = temp.fit_temperature(logits, targets)
    low, high = temp.temperature_interval(logits, targets, fitted)
    assert low < fitted < high and fitted**2 == pytest.approx(low * high)
    drawn = [rng(seed).integers(0, 400, 400) for seed in range(100)]
    spread = np.std([np.log(temp.fit_temperature(logits[rows], targets[rows], fitted)) for rows in drawn])
    assert np.log(high / low) == pytest.approx(2 * 1.96 * spread, rel=0.2)
    found = []
    for seed in range(100):
        again = sample(400, classes=5, seed=10 + 2 * seed)
        low, high = temp.temperature_interval(*again, temp.fit_temperature(*again, 2.0))
        found.append(low <= 2 <= high)
    assert np.mean(found) >= 0.9


def test_float16_logits():
    logits, targets = sample(3000)
    expected = temp.fit_temperature(logits, targets)
    assert temp.fit_temperature(logits.astype(np.float16), targets) == pytest.approx(expected, rel=1e-3)


def test_cross_fit_never_sees_its_own_fold():
    logits, targets = sample(1000)
    fit = temp.cross_fit(logits, targets, rng(), folds=4)
    assert np.bincount(fit.fold).tolist() == [250] * 4
    for k in range(4):
        others = fit.fold != k
        assert np.all(fit.temperature[~others] == fit.per_fold[k])
        assert fit.per_fold[k] == pytest.approx(temp.fit_temperature(logits[others], targets[others]), rel=1e-3)


def test_cross_fit_keeps_clusters_together():
    logits, targets = sample(200)
    clusters = np.arange(200) // 8
    fit = temp.cross_fit(logits, targets, rng(), clusters=clusters)
    assert all(len(set(fit.fold[clusters == c])) == 1 for c in range(25))


def test_cross_fit_depends_only_on_the_generator():
    logits, targets = sample(300)
    one, two = (temp.cross_fit(logits, targets, rng(5)).fold for _ in range(2))
    assert np.array_equal(one, two)


def test_scaling_repairs_calibration_and_keeps_predictions():
    logits, targets = sample(6000)
    before = temp.score(logits, targets)
    after = temp.score(logits, targets, temp.cross_fit(logits, targets, rng()).temperature)
    correct = logits.argmax(axis=1) == targets
    assert cal.ece(before.confidence, correct) > 0.1
    assert cal.ece(after.confidence, correct) < 0.03
    assert cal.nll(after.target_probability).mean() < cal.nll(before.target_probability).mean()


def test_score_matches_scipy():
    logits, targets = sample(100)
    p = softmax(logits / 1.7, axis=1)
    scores = temp.score(logits, targets, 1.7)
    assert scores.confidence == pytest.approx(p.max(axis=1), abs=1e-6)
    assert scores.target_probability == pytest.approx(p[np.arange(100), targets], abs=1e-6)
    assert scores.brier == pytest.approx(cal.brier(p, targets), abs=1e-5)


def test_a_perfect_model_wants_the_sharpest_temperature():
    logits = np.eye(5) * 3
    assert temp.fit_temperature(logits, np.arange(5)) < 0.2


def test_large_logits_do_not_overflow():
    assert temp.score([[1000.0, 0.0]], [1]).target_probability.tolist() == [0]


@pytest.mark.parametrize(
    "logits,targets",
    [(np.zeros((0, 3)), []), ([[0.0, 1.0]], [2]), ([[0.0, np.nan]], [0]), ([[0.0, 1.0]], [0.5]), ([0.0, 1.0], [0])],
    ids=["empty", "out of range", "nan", "not integer", "one axis"],
)
def test_bad_input(logits, targets):
    with pytest.raises(ValueError):
        temp.fit_temperature(logits, targets)


def test_temperature_must_be_positive():
    with pytest.raises(ValueError):
        temp.score([[0.0, 1.0]], [0], 0.0)
