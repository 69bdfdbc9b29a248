"""Probes: scikit-learn's optimum on every path, memory, and a choice of C that rounding does not move."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beyond_accuracy.dimensions.transfer import probe
from beyond_accuracy.dimensions.transfer.probe import Settings, fit_probe


def blobs(n, d, k, rng, signal):
    labels = rng.integers(0, k, n)
    return (signal * rng.normal(size=(k, d))[labels] + rng.normal(size=(n, d))).astype(np.float32), labels


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float16), data.target.astype(np.int64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_rows_are_standardised_in_chunks(monkeypatch, rng):
    features = (rng.normal(size=(1000, 7)) * [1, 2, 3, 4, 5, 6, 0] + 50).astype(np.float16)
    rows = rng.permutation(1000)[:600]
    monkeypatch.setattr(probe, "CHUNK_BYTES", 4 * 7 * 64)
    chosen, ours = features[rows].astype(np.float64), probe.fit_scaler(features, rows)
    np.testing.assert_allclose(ours.mean_, chosen.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(ours.scale_, [*chosen.std(axis=0)[:6], 1], rtol=1e-10)  # the last one is constant
    features[np.setdiff1d(np.arange(1000), rows)] = 1000  # rows outside the training rows change nothing
    assert np.array_equal(probe.fit_scaler(features, rows).mean_, ours.mean_)
    features[rows[4], 1] = np.inf
    with pytest.raises(ValueError, match=f"row {rows[4]}"):
        probe.fit_scaler(features, rows)


# Fitting -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kept", "streamed", "torch"])
@pytest.mark.parametrize("classes", [2, 10])
def test_optimum_equals_sklearns_on_digits(monkeypatch, digits, classes, way):
    features, labels = digits
    keep = np.flatnonzero(labels < classes)
    train, test = keep[::2], keep[1::2]
    if way == "streamed":
        monkeypatch.setattr(probe, "SMALL", 0)
        monkeypatch.setattr(probe, "CHUNK_BYTES", 4 * 64 * 40)  # several chunks
    settings, close = Settings(tolerance=1e-6), 1e-5
    if way == "torch":
        settings, close = Settings(tolerance=1e-4, device="cpu:0"), 1e-3  # float32, as on an accelerator
    ours = fit_probe(features, labels, train, 0.01, settings)
    plain = features.astype(np.float64)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-8, max_iter=5000))
    right = theirs.fit(plain[train], labels[train]).predict(plain[test]) == labels[test]
    assert ours.converged and np.array_equal(ours.evaluate(features, labels, test)[0], right)
    np.testing.assert_allclose(ours.weight, theirs[1].coef_, atol=close)
    shares = np.exp(ours.log_probabilities(features[test]))
    np.testing.assert_allclose(shares, theirs.predict_proba(plain[test]), atol=close)


@pytest.mark.parametrize("c", [100.0, 10_000.0])
def test_separable_rows_are_fitted_to_the_optimum_too(digits, c):
    """Weak regularisation, all rows told apart: the loss is nearly zero long before the order of the scores settles."""
    features, labels = digits
    rows, rest = np.arange(300), np.arange(300, 1700)
    ours = fit_probe(features, labels, rows, c)
    plain = ours.scaler.transform(features.astype(np.float64))
    theirs = LogisticRegression(C=c, tol=1e-9, max_iter=50_000).fit(plain[rows], labels[rows])
    expected = theirs.predict(plain[rest]) == labels[rest]
    assert ours.converged and ours.loss < 0.01
    assert np.mean(ours.evaluate(features, labels, rest)[0] == expected) > 0.995


def test_axes_of_a_part_of_the_rows_reach_the_optimum_of_all(monkeypatch, rng):
    features, labels = blobs(12_000, 64, 5, rng, signal=0.2)
    rows, rest = np.arange(10_000), np.arange(10_000, 12_000)
    monkeypatch.setattr(probe, "CHUNK_BYTES", 2**19)  # several chunks
    monkeypatch.setattr(probe, "SMALL", 0)  # streamed
    assert len(rows) > probe.AXES_ROWS
    ours = fit_probe(features, labels, rows, 1e-3)
    plain = ours.scaler.transform(features.astype(np.float64))
    theirs = LogisticRegression(C=1e-3, max_iter=1000).fit(plain[rows], labels[rows])
    accuracy = ours.evaluate(features, labels, rest)[0].mean()
    assert ours.converged and 0.5 < accuracy < 1 and abs(accuracy - theirs.score(plain[rest], labels[rest])) <= 0.001
    assert np.abs(ours.weight - theirs.coef_).max() < 0.02 * np.abs(theirs.coef_).max()


def test_a_path_reaches_the_optimum_of_each_c(digits):
    settings = Settings(tolerance=1e-6)
    fitting = probe.Fitting(*digits, np.arange(600))
    for warm in (fitting.at(c, settings) for c in (0.001, 0.1)):
        cold = fit_probe(*digits, np.arange(600), warm.c, settings)
        np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-4)


def test_loss_is_taken_at_the_temperature_that_suits_the_rows(digits):
    """So it is the same for scores of any size, and for constant scores that of guessing."""
    (features, labels), rows = digits, np.arange(300, 900)
    fitted = fit_probe(features, labels, np.arange(300), 0.1)
    loss, larger, blind = (
        replace(fitted, weight=k * fitted.weight, bias=k * fitted.bias).evaluate(features, labels, rows)[1]
        for k in (1, 5, 0)
    )
    scores = fitted.log_probabilities(features[rows]) / np.geomspace(0.1, 10, 2001)[:, None, None]
    losses = -log_softmax(scores, axis=2)[:, np.arange(600), labels[rows]].mean(axis=1)
    assert loss == pytest.approx(losses.min(), abs=1e-5) and larger == pytest.approx(loss, rel=1e-4)
    assert blind == pytest.approx(np.log(10))


def test_labels_need_not_be_consecutive_and_unknown_ones_are_wrong(digits):
    features, labels = digits[0], digits[1] * 3 + 7
    fitted = fit_probe(features, labels, np.flatnonzero(labels < 34)[:500], 0.01)
    assert fitted.classes.tolist() == [3 * k + 7 for k in range(9)]
    correct, loss = fitted.evaluate(features, labels, np.flatnonzero(labels == 34))
    assert not correct.any() and loss == pytest.approx(-np.log(1e-12))
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(features, labels, np.flatnonzero(labels == 34), 1.0)


def test_unfinished_fit_says_so(digits):
    assert not fit_probe(*digits, np.arange(500), 1.0, Settings(max_iterations=2)).converged


def test_memory_does_not_grow_with_the_set(monkeypatch, rng):
    """Six times the rows: 5 MB more of float16 features (20 MB as float64), but hardly more memory."""
    features, labels = blobs(12_000, 256, 2, rng, signal=0.1)
    features = features.astype(np.float16)
    monkeypatch.setattr(probe, "CHUNK_BYTES", 2**19)
    monkeypatch.setattr(probe, "SMALL", 0)

    def peak(rows):
        tracemalloc.start()
        fit_probe(features, labels, np.arange(rows), 1e-6, Settings(max_iterations=1))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12_000) - peak(2_000) < 2e6


# Tuning --------------------------------------------------------------------------------------------------------------


def parts(*ends, total):
    """Training, validation and test rows that end there."""
    return probe.Split(*(np.arange(a, b) for a, b in zip((0, *ends), ends, strict=False)), np.arange(total))


def test_sweep_beats_a_fixed_c(rng):
    """Few rows, many of them mislabelled: the default C = 1 overfits, strong regularisation does not."""
    features, labels = blobs(2_300, 150, 4, rng, signal=0.25)
    noisy = rng.random(300) < 0.4
    labels[:300][noisy] = rng.integers(0, 4, noisy.sum())  # wrong labels, which a free probe learns by heart
    train, test = np.arange(200), np.arange(300, 2_300)
    best = probe.sweep(features, labels, train, np.arange(200, 300)).best_c
    tuned, fixed = (
        fit_probe(features, labels, train, c).evaluate(features, labels, test)[0].mean() for c in (best, 1.0)
    )
    assert tuned > fixed + 0.02


def test_sweep_sees_both_peaks_of_a_bimodal_curve(rng):
    """Many features tell a little, which strong regularisation keeps; two tell all, but only to large weights."""
    labels = rng.integers(0, 2, 2_500)
    sign, shared = 2.0 * labels[:, None] - 1, rng.normal(size=(2_500, 1))
    other = 0.01 * sign - shared + 0.003 * rng.normal(size=(2_500, 1))  # the sum of both is the answer
    features = np.hstack([shared, other, 0.08 * sign + rng.normal(size=(2_500, 60))])
    split = parts(300, 500, 2_500, total=2_500)
    outcome = probe.run_probe(features, labels, split)
    assert outcome.c > 100 and outcome.correct.mean() > 0.9 and outcome.converged
    curve = probe.sweep(features, labels, split.train, split.validation).table.accuracy.to_numpy()
    assert curve[4] > curve[5] > curve[6] < curve[8] < curve[9]  # peaks at 10^-2 and 10^4


@pytest.mark.parametrize("seed", [8, 11, 20])
def test_rounding_of_the_features_does_not_move_the_choice(seed):
    """Questions that the features hardly answer: many values of C are as good, but for the image that changes sides."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 700)
    features = 0.02 * rng.normal(size=(4, 80))[labels] + 0.3 * rng.normal(size=(700, 20)) @ rng.normal(size=(20, 80))
    features += 0.3 * rng.normal(size=features.shape)
    split = parts(200, 260, 700, total=700)
    first = probe.run_probe(features, labels, split)
    second = probe.run_probe(features * (1 + 1e-6 * rng.normal(size=features.shape)), labels, split)
    assert np.log10(second.c) == pytest.approx(np.log10(first.c), abs=1e-3)
    assert np.array_equal(first.correct, second.correct)


def test_the_grid_ends_where_the_training_rows_are_told_apart(digits):
    features, labels = digits
    table = probe.sweep(features, labels, np.arange(100), np.arange(100, 300)).table
    assert table.log10_c.tolist() == list(range(-6, int(table.log10_c.iloc[-1]) + 1)) and table.log10_c.iloc[-1] < 4
    before, last = (fit_probe(features, labels, np.arange(100), 10.0**e).loss for e in table.log10_c[-2:])
    assert last < probe.SEPARATED * np.log(10) < before


def test_behind_the_dip_the_grid_is_only_scouted(digits, rng):
    """The choice is that of the whole grid, at whose far end wrong labels are learned by heart."""
    features, labels = digits[0], np.where(rng.random(1_797) < 0.6, rng.integers(0, 10, 1_797), digits[1])
    fitting, validation = probe.Fitting(features, labels, np.arange(600)), np.arange(600, 900)
    whole = [fitting.at(10.0**e).evaluate(features, labels, validation)[1] for e in range(-6, 5)]
    found = probe.sweep(features, labels, np.arange(600), validation)
    assert len(found.table) < 9 and found.table.log_loss.argmin() == np.argmin(whole)
    assert found.table.log_loss.to_numpy() == pytest.approx(whole[: len(found.table)], abs=1e-3)


def test_a_probe_is_refitted_on_all_but_the_test_rows(digits):
    features, labels = digits
    split = parts(400, 500, 1000, total=len(labels))
    outcome = probe.run_probe(features, labels, split)
    expected = fit_probe(features, labels, np.arange(500), outcome.c).evaluate(features, labels, split.test)[0]
    assert np.array_equal(outcome.correct, expected) and outcome.correct.shape == (500,)
    assert 0.85 < outcome.correct.mean() < 1 and outcome.converged
    scrambled = np.where(np.arange(len(labels)) < 500, labels, 0)
    after = probe.run_probe(features, scrambled, split)
    assert outcome.c == after.c


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[0, 1], [2], [3, 4]], "train and test share 1 images, e.g. a"), ([[0], [], [3]], "validation part .* is empty")],
)
def test_split_refuses_shared_images(rows, message):
    with pytest.raises(ValueError, match=message):
        probe.Split(*(np.array(part, int) for part in rows), np.array(["a", "b", "c", "d", "a"]))
