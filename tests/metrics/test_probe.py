import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beyond_accuracy.metrics import probe


def blobs(n, d, k, rng, spread=1.0, signal=0.3):
    labels = rng.integers(0, k, n)
    centres = signal * rng.normal(size=(k, d))
    return (centres[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float16), data.target.astype(np.int64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -------------------------------------------------------------------------------------------------- standardisation


def test_standardiser_equals_sklearn_over_many_chunks(monkeypatch, rng):
    features = (rng.normal(size=(1000, 7)) * [1, 2, 3, 4, 5, 6, 0] + 50).astype(np.float16)
    rows = rng.permutation(1000)[:600]
    monkeypatch.setattr(probe, "CHUNK_BYTES", 4 * 7 * 64)
    ours = probe.fit_standardiser(features, rows)
    theirs = StandardScaler().fit(features[rows].astype(np.float64))
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-10)
    np.testing.assert_allclose(ours.scale, theirs.scale_, rtol=1e-10)
    assert ours.scale[6] == 1  # constant feature
    features[5] = 1000  # a row outside the training rows changes nothing
    assert 5 in rows or np.array_equal(probe.fit_standardiser(features, rows).mean, ours.mean)


def test_standardiser_refuses_bad_features(rng):
    features = rng.normal(size=(10, 3)).astype(np.float16)
    features[4, 1] = np.inf
    with pytest.raises(ValueError, match="row 4"):
        probe.fit_standardiser(features, np.arange(10))
    with pytest.raises(ValueError, match="no training rows"):
        probe.fit_standardiser(features, np.array([], int))


# ---------------------------------------------------------------------------------------------------------- solvers


@pytest.mark.parametrize("solver", ["sklearn", "torch"])
@pytest.mark.parametrize("classes", [2, 10])
def test_solvers_equal_sklearn_on_digits(digits, classes, solver):
    features, labels = digits
    keep = np.flatnonzero(labels < classes)
    train, test = keep[::2], keep[1::2]
    settings = probe.Settings(solver=solver, tolerance=1e-6)
    ours = probe.fit_probe(features, labels, train, 0.01, settings)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-6, max_iter=2000))
    pipeline.fit(features[train].astype(np.float64), labels[train])
    correct, loss = ours.evaluate(features, labels, test)
    expected = pipeline.predict(features[test].astype(np.float64)) == labels[test]
    assert ours.converged and abs(correct.mean() - expected.mean()) < 0.001
    np.testing.assert_allclose(ours.weight, pipeline[-1].coef_, atol=2e-4)
    probabilities = pipeline.predict_proba(features[test].astype(np.float64))
    assert loss == pytest.approx(-np.log(probabilities[np.arange(len(test)), labels[test]]).mean(), abs=1e-5)


def test_torch_streams_to_the_same_optimum_on_a_large_set(monkeypatch, rng):
    """20,000 x 768: the size at which torch takes over; same accuracy to 0.1 point, coefficients close."""
    features, labels = blobs(20_000 + 2_000, 768, 5, rng, signal=0.1)
    features = features.astype(np.float16)
    train, test = np.arange(20_000), np.arange(20_000, 22_000)
    monkeypatch.setattr(probe, "CHUNK_BYTES", 2**23)  # several chunks
    assert len(train) * 768 > probe.SKLEARN_LIMIT
    ours = probe.fit_probe(features, labels, train, 1e-3)
    theirs = probe.fit_probe(features, labels, train, 1e-3, probe.Settings(solver="sklearn"))
    assert ours.converged and theirs.converged
    a, b = (p.evaluate(features, labels, test)[0].mean() for p in (ours, theirs))
    assert 0.5 < a < 1 and abs(a - b) <= 0.001
    assert np.abs(ours.weight - theirs.weight).max() < 0.02 * np.abs(theirs.weight).max()


def test_warm_start_reaches_the_same_optimum(digits):
    features, labels = digits
    rows = np.arange(600)
    for solver in ("sklearn", "torch"):
        settings = probe.Settings(solver=solver, tolerance=1e-7, max_iterations=3000)
        cold = probe.fit_probe(features, labels, rows, 0.1, settings)
        start = probe.fit_probe(features, labels, rows, 0.001, settings)
        warm = probe.fit_probe(features, labels, rows, 0.1, settings, start)
        np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-4)


def test_labels_need_not_be_consecutive_and_unknown_ones_are_wrong(digits):
    features, labels = digits
    shifted = labels * 3 + 7
    known = np.flatnonzero(labels < 9)
    fitted = probe.fit_probe(features, shifted, known[:500], 0.01)
    assert fitted.classes.tolist() == [3 * k + 7 for k in range(9)]
    nines = np.flatnonzero(labels == 9)
    correct, loss = fitted.evaluate(features, shifted, nines)
    assert not correct.any() and loss == pytest.approx(-np.log(1e-12))


def test_one_class_cannot_be_probed(digits):
    features, labels = digits
    with pytest.raises(ValueError, match="two classes"):
        probe.fit_probe(features, labels, np.flatnonzero(labels == 3), 1.0)


def test_unfinished_fit_says_so(digits):
    features, labels = digits
    for solver in ("sklearn", "torch"):
        settings = probe.Settings(solver=solver, max_iterations=2)
        assert not probe.fit_probe(features, labels, np.arange(500), 1.0, settings).converged


def test_memory_does_not_grow_with_the_set(tmp_path):
    """Six times the rows: 100 MB more of float16 features (400 MB as float64), but hardly more memory."""
    script = f"""
        import numpy as np, threading, time
        from beyond_accuracy.metrics import probe
        probe.CHUNK_BYTES = 2**22
        n, d = 120_000, 512
        features = np.lib.format.open_memmap({str(tmp_path / "f.npy")!r}, "w+", np.float16, (n, d))
        features[:] = np.tile(np.random.default_rng(0).normal(size=(1_000, d)).astype(np.float16), (n // 1_000, 1))
        features.flush()
        del features
        features = np.load({str(tmp_path / "f.npy")!r}, mmap_mode="r")
        labels = np.arange(n) % 2
        def anonymous():  # mapped file pages can be dropped at any time; memory of our own cannot
            return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])
        def peak(rows):
            highest, done = [0], threading.Event()
            def watch():
                while not done.wait(0.003):
                    highest[0] = max(highest[0], anonymous())
            watcher = threading.Thread(target=watch)
            watcher.start()
            probe.fit_probe(features, labels, np.arange(rows), 1e-6, probe.Settings(max_iterations=1, solver="torch"))
            done.set()
            watcher.join()
            return highest[0]
        small = peak(n // 6)
        print((peak(n) - small) // 1024)
    """
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 40


# ----------------------------------------------------------------------------------------------------------- tuning


def test_sweep_beats_a_fixed_c(rng):
    """Few rows, many of them mislabelled: the default C = 1 overfits, strong regularisation does not."""
    features, labels = blobs(2_300, 150, 4, rng, signal=0.25)
    noisy = rng.random(300) < 0.4
    labels[:300][noisy] = rng.integers(0, 4, noisy.sum())  # wrong labels, which a free probe learns by heart
    train, validation, test = np.arange(200), np.arange(200, 300), np.arange(300, 2_300)
    chosen = probe.sweep(features, labels, train, validation)
    tuned = probe.fit_probe(features, labels, train, chosen.best_c).evaluate(features, labels, test)[0].mean()
    fixed = probe.fit_probe(features, labels, train, 1.0).evaluate(features, labels, test)[0].mean()
    assert tuned > fixed + 0.02


def test_sweep_goes_from_coarse_to_fine(digits):
    features, labels = digits
    settings = probe.Settings(exponents=(-6, -4, -2, 0), refinements=2)
    result = probe.sweep(features, labels, np.arange(0, 300), np.arange(300, 600), settings)
    tried = result.table.log10_c.to_numpy()
    assert len(tried) == len(set(tried)) and {-6, -4, -2, 0} <= set(tried)
    best = np.log10(result.best_c)
    near = tried[np.abs(tried - best) <= 0.5 + 1e-9]
    assert len(near) >= 3  # the last refinement, half a decade, is there on both sides
    top = result.table.accuracy.max()
    ties = result.table[result.table.accuracy == top]
    assert ties.loc[ties.log_loss.idxmin(), "log10_c"] == pytest.approx(best)


def test_sweep_extends_a_grid_that_is_too_short(digits):
    features, labels = digits
    settings = probe.Settings(exponents=(-8, -7), refinements=0)
    result = probe.sweep(features, labels, np.arange(300), np.arange(300, 600), settings)
    assert result.table.log10_c.max() == pytest.approx(-5)
    assert result.at_edge  # and it says that even this was not enough


def test_run_probe_refits_on_train_and_validation(digits):
    features, labels = digits
    split = probe.Split(np.arange(400), np.arange(400, 500), np.arange(500, 1000), np.arange(len(labels)))
    outcome = probe.run_probe(features, labels, split)
    expected = probe.fit_probe(features, labels, np.arange(500), outcome.c).evaluate(features, labels, split.test)[0]
    assert np.array_equal(outcome.correct, expected) and outcome.correct.shape == (500,)
    assert 0.85 < outcome.correct.mean() < 1 and outcome.converged


def test_test_rows_never_influence_the_probe(digits):
    features, labels = digits
    split = probe.Split(np.arange(200), np.arange(200, 300), np.arange(300, 400), np.arange(len(labels)))
    before = probe.run_probe(features, labels, split)
    scrambled = labels.copy()
    scrambled[300:] = 0
    after = probe.run_probe(features, scrambled, split)
    assert (before.c, before.validation_accuracy) == (after.c, after.validation_accuracy)


def test_split_refuses_shared_images():
    ids = np.array(["a", "b", "c", "d", "a"])
    with pytest.raises(ValueError, match="train and test share 1 images, e.g. a"):
        probe.Split(np.array([0, 1]), np.array([2]), np.array([3, 4]), ids)
    with pytest.raises(ValueError, match="validation part of the split is empty"):
        probe.Split(np.array([0]), np.array([], int), np.array([3]), ids)
