"""Statistics: hand-worked cases, independent implementations (scipy, statsmodels, plain loops), edges."""

import doctest
import time

import numpy as np
import pytest
from scipy import stats as scipy_stats

from beyond_accuracy import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def test_docstring_examples():
    assert doctest.testmod(stats).failed == 0


@pytest.mark.parametrize("correct,n", [(8, 10), (0, 20), (20, 20), (761, 1000)])
def test_wilson_matches_scipy(correct, n):
    expected = scipy_stats.binomtest(correct, n).proportion_ci(method="wilson")
    assert stats.wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("correct,n", [(0, 0), (5, 4), (-1, 4)])
def test_wilson_rejects_the_impossible(correct, n):
    with pytest.raises(ValueError):
        stats.wilson(correct, n)


def test_percentile_interval_by_hand():
    assert stats.percentile_interval(np.arange(1001)) == pytest.approx((25, 975))
    assert stats.percentile_interval(np.arange(1001), level=0.5) == pytest.approx((250, 750))


def test_basic_interval_by_hand():
    draws = np.arange(1001)  # percentile interval (25, 975)
    assert stats.basic_interval(400, draws) == pytest.approx((-175, 775))
    assert stats.basic_interval(400, draws, bounds=(0, 500)) == (0, 500)
    assert stats.basic_interval(500, draws) == pytest.approx(stats.percentile_interval(draws))  # symmetric: no bias


class TestResampleWeights:
    def test_counts_are_a_bootstrap(self):
        weights = np.concatenate(list(stats.resample_weights(40, 4000, rng())))
        assert weights.shape == (4000, 40)
        assert np.all(weights.sum(axis=1) == 40) and np.all(weights == np.round(weights))
        assert weights.mean() == 1
        # Multinomial counts: variance 1 - 1/n, covariance -1/n.
        assert weights.var(axis=0).mean() == pytest.approx(1 - 1 / 40, abs=0.02)
        assert np.cov(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 40, abs=0.06)

    def test_batch_does_not_change_the_draws(self):
        one = np.concatenate(list(stats.resample_weights(30, 17, rng(), batch=5)))
        two = np.concatenate(list(stats.resample_weights(30, 17, rng(), batch=17)))
        assert np.array_equal(one, two)
        assert [len(b) for b in stats.resample_weights(30, 17, rng(), batch=5)] == [5, 5, 5, 2]

    def test_clusters_are_drawn_whole(self):
        clusters = np.array(["b", "a", "b", "c", "a", "b"])
        for weights in stats.resample_weights(6, 200, rng(), clusters):
            for name, size in (("a", 2), ("b", 3), ("c", 1)):
                block = weights[:, clusters == name]
                assert block.shape[1] == size and np.all(block == block[:, :1])
            drawn = weights[:, [1, 0, 3]].sum(axis=1)
            assert np.all(drawn == 3)

    @pytest.mark.parametrize(
        "n,resamples,clusters",
        [(0, 5, None), (5, 0, None), (5, 5, [1, 2, 3]), (3, 5, [1, 1, 1])],
        ids=["no images", "no resamples", "labels too short", "one cluster"],
    )
    def test_edges(self, n, resamples, clusters):
        with pytest.raises(ValueError):
            next(stats.resample_weights(n, resamples, rng(), clusters))


class TestBootstrapMeans:
    def test_matches_an_explicit_loop_on_the_same_draws(self):
        values = rng(1).normal(5, 1, (50, 3))
        draws = stats.bootstrap_means(values, 20, rng(7))
        generator = rng(7)
        expected = [values[generator.integers(0, 50, 50)].mean(axis=0) for _ in range(20)]
        assert draws == pytest.approx(np.array(expected), abs=1e-6)

    def test_matches_scipy_standard_error_and_interval(self):
        values = rng(2).exponential(1, 300)
        draws = stats.bootstrap_means(values, 20_000, rng())
        reference = scipy_stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(3))
        assert draws.shape == (20_000,)
        assert draws.std() == pytest.approx(reference.standard_error, rel=0.03)
        assert stats.percentile_interval(draws) == pytest.approx(tuple(reference.confidence_interval), abs=0.01)

    def test_distinct_rows_have_the_same_distribution_as_images(self):
        values = rng(3).random((4000, 3)) < [0.1, 0.5, 0.9]
        assert stats._distinct_rows(values.astype(float)) is not None
        shortcut = stats.bootstrap_means(values, 4000, rng(4))
        plain = stats.bootstrap(lambda w: w @ values / 4000, 4000, 4000, rng(5))
        assert shortcut.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=6e-4)
        assert np.cov(shortcut.T) == pytest.approx(np.cov(plain.T), abs=6e-6)

    def test_columns_are_paired(self):
        values = rng(4).random(500)
        draws = stats.bootstrap_means(np.column_stack([values, values]), 100, rng())
        assert np.array_equal(draws[:, 0], draws[:, 1])

    def test_clusters_give_ratio_of_sums(self):
        values, clusters = rng(5).random(60), rng(6).integers(0, 12, 60)
        draws = stats.bootstrap_means(values, 5000, rng(), clusters)
        plain = stats.bootstrap(lambda w: w @ values / w.sum(axis=1), 60, 5000, rng(1), clusters)
        assert draws.mean() == pytest.approx(plain.mean(), abs=0.003)
        assert draws.std() == pytest.approx(plain.std(), rel=0.05)

    def test_clusters_of_equal_images_widen_the_interval(self):
        cluster_value = rng(7).random(50)
        values = np.repeat(cluster_value, 16)
        images = stats.bootstrap_means(values, 3000, rng()).std()
        clustered = stats.bootstrap_means(values, 3000, rng(), np.repeat(np.arange(50), 16)).std()
        assert clustered / images == pytest.approx(4, rel=0.1)  # sqrt(16) copies carry no information

    @pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0], [np.inf, 1.0]]])
    def test_no_data_or_nan_raises(self, values):
        with pytest.raises(ValueError, match=r"no data|NaN"):
            stats.bootstrap_means(values, 10, rng())

    def test_fifty_thousand_images_take_seconds(self):
        values = rng(8).random((50_000, 20))
        start = time.process_time()
        stats.bootstrap_means(values, 2000, rng())
        assert time.process_time() - start < 10  # about 1 s on an idle core

    def test_interval_covers_the_truth(self):
        hits = 0
        for seed in range(300):
            draws = stats.bootstrap_means(rng(seed).normal(3, 2, 150), 400, rng(seed + 1000))
            low, high = stats.percentile_interval(draws)
            hits += low <= 3 <= high
        assert 0.91 <= hits / 300 <= 0.98


class TestTests:
    def test_p_value_by_hand(self):
        draws = np.full(999, 1.5)
        assert stats.bootstrap_p_value(draws) == pytest.approx(2 / 1000)
        assert stats.bootstrap_p_value(-draws) == pytest.approx(2 / 1000)
        assert stats.bootstrap_p_value(np.zeros(99)) == 1

    def test_p_value_agrees_with_the_t_test(self):
        a = rng(9).normal(0.15, 1, 400)
        p = stats.paired_difference(a, np.zeros(400), 20_000, rng()).p_value
        assert p == pytest.approx(scipy_stats.ttest_1samp(a, 0).pvalue, abs=0.005)

    def test_p_values_are_uniform_without_a_difference(self):
        p = [
            stats.paired_difference(rng(s).normal(size=200), rng(s + 999).normal(size=200), 500, rng(s)).p_value
            for s in range(400)
        ]
        assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)

    def test_paired_difference_of_correctness(self):
        a = np.r_[np.ones(60), np.zeros(40)].astype(bool)
        b = np.r_[np.ones(50), np.zeros(50)].astype(bool)
        result = stats.paired_difference(a, b, 5000, rng())
        assert result.estimate == pytest.approx(0.10)
        assert result.interval == pytest.approx((0.05, 0.16), abs=0.011)
        assert result.p_value < 0.01

    def test_identical_models_do_not_differ(self):
        result = stats.paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], 50, rng())
        assert result == (0.0, (0.0, 0.0), 1.0)

    def test_paired_lengths_must_agree(self):
        with pytest.raises(ValueError, match="equal length"):
            stats.paired_difference([1.0, 2.0], [1.0], 10, rng())

    def test_mcnemar(self):
        # 2 against 8 discordant images: exact two-sided binomial, 2 * P(X <= 2 | 10, 1/2) = 112 / 1024.
        a = np.r_[np.ones(2), np.zeros(8), np.ones(30)]
        b = np.r_[np.zeros(2), np.ones(8), np.ones(30)]
        assert stats.mcnemar(a, b) == pytest.approx(112 / 1024)
        assert stats.mcnemar(a, b) == stats.mcnemar(b, a)
        assert stats.mcnemar(a, a) == 1
        # 40 against 60: (|40 - 60| - 1)^2 / 100 = 3.61, chi-square with one degree of freedom.
        a, b = np.r_[np.ones(40), np.zeros(60)], np.r_[np.zeros(40), np.ones(60)]
        assert stats.mcnemar(a, b) == pytest.approx(scipy_stats.chi2.sf(3.61, 1))

    def test_mcnemar_needs_images(self):
        with pytest.raises(ValueError):
            stats.mcnemar([], [])

    def test_holm_by_hand_with_missing_comparisons(self):
        corrected = stats.holm([[0.01, np.nan], [0.04, 0.03]])
        assert corrected == pytest.approx(np.array([[0.03, np.nan], [0.06, 0.06]]), nan_ok=True)
        assert np.isnan(stats.holm([np.nan])).all()
        with pytest.raises(ValueError):
            stats.holm([1.2])
