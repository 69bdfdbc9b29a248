"""Statistics: hand-worked cases, independent implementations (scipy, statsmodels, plain loops), edges."""

import doctest

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.optimize import brentq, minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar

from beyond_accuracy.measure import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def compared(gaps, resamples, generator, clusters=None):
    """Bootstrap interval and p-value of the mean of paired gaps."""
    draws = stats.bootstrap_means(gaps, resamples, generator, clusters)
    units = None if clusters is None else len(np.unique(clusters))
    return stats.percentile_interval(draws, units), stats.bootstrap_p_value(draws, units)


def test_docstring_examples():
    assert doctest.testmod(stats).failed == 0


@pytest.mark.parametrize("correct,n", [(8, 10), (0, 20), (20, 20), (761, 1000)])
def test_wilson_matches_scipy(correct, n):
    expected = scipy_stats.binomtest(correct, n).proportion_ci(method="wilson")
    assert stats.wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        *[(stats.wilson, pair, "no images|must lie in 0..n") for pair in ((0, 0), (5, 4), (-1, 4))],
        *[(stats.bootstrap_means, (v, 10, rng()), "no data|NaN") for v in ([], [1, np.nan], [[1, 2], [np.inf, 1]])],
        (lambda *given: next(stats.resample_weights(*given)), (0, 5, rng()), "no images"),
        (stats.bootstrap_means, ([0] * 5, 0, rng(), [1, 2, 3, 4, 5]), "at least one resample"),
        (stats.bootstrap_means, ([0] * 5, 5, rng(), [1, 2, 3]), "one cluster label per image"),
        (stats.share_interval, ([],), "no data"),
        (stats.share_interval, ([True, False], ["a", "a"]), "two clusters"),
        (stats.percentile_interval, (np.ones(9), 1), "two units"),
        (stats.bootstrap_p_value, (np.ones(9), 1), "two units"),
        (stats.accuracy_difference, ([], []), "equal length"),
        (stats.accuracy_difference, ([True, False], [True]), "equal length"),
        (stats.holm, ([1.2],), "0..1"),
    ],
)
def test_the_impossible_is_refused(call, arguments, message):
    with pytest.raises(ValueError, match=message):
        call(*arguments)


def test_percentile_interval_by_hand():
    assert stats.percentile_interval(np.arange(1001)) == pytest.approx((25, 975))


class TestResampleWeights:
    def test_counts_are_a_bootstrap(self):
        weights = np.concatenate(list(stats.resample_weights(40, 4000, rng())))
        assert weights.shape == (4000, 40)
        assert np.all(weights.sum(axis=1) == 40) and np.all(weights == np.round(weights))
        assert weights.mean() == 1
        # Multinomial counts: variance 1 - 1/n, covariance -1/n.
        assert weights.var(axis=0).mean() == pytest.approx(1 - 1 / 40, abs=0.02)
        assert np.cov(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 40, abs=0.06)

    def test_blocks_do_not_change_the_draws(self):
        n = 2**21
        blocks, generator = list(stats.resample_weights(n, 3, rng())), rng()
        assert [len(block) for block in blocks] == [2, 1]
        for row in np.concatenate(blocks):
            assert np.array_equal(row, np.bincount(generator.integers(0, n, n), minlength=n))

    def test_clusters_are_drawn_whole(self):
        clusters = np.array(["b", "a", "b", "c", "a", "b"])
        for weights in stats.resample_weights(6, 200, rng(), clusters):
            for name, size in (("a", 2), ("b", 3), ("c", 1)):
                block = weights[:, clusters == name]
                assert block.shape[1] == size and np.all(block == block[:, :1])
            drawn = weights[:, [1, 0, 3]].sum(axis=1)
            assert np.all(drawn == 3)


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
        shortcut = stats.bootstrap_means(values, 4000, rng(4))
        plain = stats.bootstrap(lambda w: w @ values / 4000, 4000, 4000, rng(5))
        assert shortcut.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=6e-4)
        assert np.cov(shortcut.T) == pytest.approx(np.cov(plain.T), abs=6e-6)

    def test_clusters_give_ratio_of_sums(self):
        values, clusters = rng(5).random(60), rng(6).integers(0, 12, 60)
        draws = stats.bootstrap_means(values, 5000, rng(), clusters)
        plain = stats.bootstrap(lambda w: w @ values / w.sum(axis=1), 60, 5000, rng(1), clusters)
        assert draws.mean() == pytest.approx(plain.mean(), abs=0.003)
        assert draws.std() == pytest.approx(plain.std(), rel=0.05)


class TestTests:
    def test_p_value_by_hand(self):
        draws = np.full(999, 1.5)
        assert stats.bootstrap_p_value(draws) == pytest.approx(2 / 1000)
        assert stats.bootstrap_p_value(-draws) == pytest.approx(2 / 1000)
        assert stats.bootstrap_p_value(np.zeros(99)) == 1

    def test_p_value_agrees_with_the_t_test(self):
        a = rng(9).normal(0.15, 1, 400)
        assert compared(a, 20_000, rng())[1] == pytest.approx(scipy_stats.ttest_1samp(a, 0).pvalue, abs=0.005)

    def test_p_values_are_uniform_without_a_difference_and_intervals_hold_it(self):
        found = [compared(rng(s).normal(size=200) - rng(s + 999).normal(size=200), 400, rng(s)) for s in range(150)]
        assert np.mean([p < 0.05 for _, p in found]) == pytest.approx(0.05, abs=0.03)
        assert 0.91 <= np.mean([low <= 0 <= high for (low, high), _ in found]) <= 0.985

    def test_holm_by_hand_with_missing_comparisons(self):
        corrected = stats.holm([[0.01, np.nan], [0.04, 0.03]])
        assert corrected == pytest.approx(np.array([[0.03, np.nan], [0.06, 0.06]]), nan_ok=True)
        assert np.isnan(stats.holm([np.nan])).all()


def outcomes(n, only_a, only_b):
    """Right and wrong answers of two models on n images, of which only a gets `only_a` and only b `only_b` right."""
    place = np.arange(n)
    return place < only_a, (place >= only_a) & (place < only_a + only_b)


def profiled_score(difference, n, only_a, only_b):
    """Tango's statistic with the nuisance share found by maximising the likelihood numerically."""

    def loss(share):
        shares = (share + difference, share, 1 - 2 * share - difference)
        return -sum(k * np.log(p) for k, p in zip((only_a, only_b, n - only_a - only_b), shares, strict=True) if k)

    bounds = (max(0, -difference), (1 - difference) / 2)
    share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (only_a - only_b - n * difference) / np.sqrt(n * (2 * share + difference * (1 - difference)))


class TestAccuracyDifference:
    @pytest.mark.parametrize("counts", [(50, 12, 2), (44, 1, 0), (44, 0, 0), (20, 19, 0), (10, 1, 9), (3200, 200, 150)])
    def test_interval_inverts_the_score_test(self, counts):
        estimate, interval, p = stats.accuracy_difference(*outcomes(*counts))
        z = scipy_stats.norm.isf(0.025)
        low = brentq(lambda d: profiled_score(d, *counts) - z, -1 + 1e-9, estimate - 1e-9)
        high = brentq(lambda d: profiled_score(d, *counts) + z, estimate + 1e-9, 1 - 1e-9)
        assert interval == pytest.approx((low, high), abs=1e-6)
        table = np.reshape([counts[0] - counts[1] - counts[2], *counts[1:], 0], (2, 2))
        assert p == pytest.approx(mcnemar(table, exact=False, correction=False).pvalue if sum(counts[1:]) else 1)

    def test_mcnemar_by_hand(self):
        # 2 against 8 discordant images: (2 - 8)^2 / 10 = 3.6, chi-square with one degree of freedom.
        a, b = outcomes(40, 2, 8)
        assert stats.accuracy_difference(a, b).p_value == pytest.approx(scipy_stats.chi2.sf(3.6, 1))
        assert stats.accuracy_difference(a, b).p_value == stats.accuracy_difference(b, a).p_value

    def test_at_the_ends(self):
        estimate, interval, _ = stats.accuracy_difference([True] * 20, [False] * 20)
        assert estimate == interval.high == 1 and 0.6 < interval.low < 0.7
        same = np.arange(480) < 300
        estimate, interval, p = stats.accuracy_difference(same, same)  # no bootstrap of zeros has a width
        assert (estimate, p) == (0, 1)
        assert interval == pytest.approx((-3.84 / 483.84, 3.84 / 483.84), abs=1e-4)

    def test_interval_and_test_never_disagree(self):
        for only_a in range(13):
            for only_b in range(13):
                _, (low, high), p = stats.accuracy_difference(*outcomes(60, only_a, only_b))
                assert (low > 0 or high < 0) == (p < 0.05), (only_a, only_b)

    @pytest.mark.parametrize("shares", [(3 / 480, 0.0), (0.01, 0.002), (0.05, 0.05)])
    def test_covers_the_truth(self, shares):
        """With three discordant images of 480 a paired bootstrap covers 80 %."""
        counts = rng().multinomial(480, [*shares, 1 - sum(shares)], 400)[:, :2]
        kinds, times = np.unique(counts, axis=0, return_counts=True)
        found = [stats.accuracy_difference(*outcomes(480, *pair)).interval for pair in kinds]
        inside = [low <= shares[0] - shares[1] <= high for low, high in found]
        assert np.average(inside, weights=times) > 0.92


class TestTies:
    def test_a_draw_that_is_zero_but_for_rounding_is_a_tie(self):
        draws = rng().integers(-2, 6, 2000) / 7.0
        shaken = draws * (1 + 1e-7 * rng(1).normal(size=2000)) + 1e-14 * rng(2).normal(size=2000)
        assert (draws == 0).any() and not (shaken == 0).any()
        assert stats.bootstrap_p_value(shaken) == stats.bootstrap_p_value(draws)
        assert np.array_equal(stats.settle(shaken) == 0, draws == 0)
        one = np.where(rng(3).random(2000) < 0.37, 0.0, 1.0)  # one changed image: absent from 37 % of the resamples
        low, _ = stats.percentile_interval(one - 1e-15)
        assert low == 0 and stats.bootstrap_p_value(one - 1e-15) > 0.7

    def test_sums_that_round_do_not_decide(self):
        """Thirds and sevenths are no binary fractions: sums that cancel in exact arithmetic leave 1e-17."""
        a, b = rng(4).random(60) < 0.6, rng(5).random(60) < 0.55
        exact, p = compared(a * 1.0 - b, 3000, rng())
        rounded, same_p = compared(a / 3 + 1 / 7 - (b / 3 + 1 / 7), 3000, rng())
        assert same_p == p and np.array(rounded) * 3 == pytest.approx(np.array(exact))

    def test_nothing_at_all(self):
        assert stats.settle(np.zeros(3)).tolist() == [0, 0, 0] and stats.settle([]).size == 0
        assert compared(np.zeros(3), 50, rng()) == ((0.0, 0.0), 1.0)


class TestFewUnits:
    quantiles = scipy_stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)

    @pytest.mark.parametrize("units", [5, 31, 96])
    def test_interval_and_p_value_are_students(self, units):
        """Means of few units as a bootstrap draws them: normal, with the spread that divides by n, not n - 1."""
        draws = 2.5 + np.sqrt((units - 1) / units) * self.quantiles
        t = scipy_stats.t(units - 1)
        expected = (2.5 - t.isf(0.025), 2.5 + t.isf(0.025))
        assert stats.percentile_interval(draws, units=units) == pytest.approx(expected, abs=0.01)
        assert stats.bootstrap_p_value(draws, units) == pytest.approx(2 * t.sf(2.5), rel=0.06)

    def test_many_units_need_no_correction(self):
        draws = 1.5 + self.quantiles
        assert stats.percentile_interval(draws, units=10**6) == pytest.approx(
            stats.percentile_interval(draws), abs=1e-3
        )
        assert stats.bootstrap_p_value(draws, 10**6) == pytest.approx(stats.bootstrap_p_value(draws), rel=1e-3)
        assert stats.bootstrap_p_value(np.zeros(50), 5) == 1

    @pytest.mark.parametrize("units", [None, 7, 80])
    def test_the_floor_is_what_one_sided_draws_give(self, units):
        assert stats.bootstrap_p_value(np.ones(999), units) == stats.p_value_floor(999, units)
        assert stats.p_value_floor(999, units) >= 2 / 1000

    def test_few_clusters_reject_as_often_as_stated(self):
        """31 scenes of 8 images: without units, 6.8 % of the tests of no difference are below .05."""
        clusters, p = np.repeat(np.arange(31), 8), []
        for seed in range(200):
            r = rng(seed)
            values = r.normal(size=31)[clusters] + r.normal(size=248)
            p.append(compared(values, 400, r, clusters)[1])
        assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.025)
        assert np.mean(np.array(p) < 0.01) < 0.025


class TestShareInterval:
    def test_independent_images_are_wilsons(self):
        hits = np.arange(50) < 47
        assert stats.share_interval(hits) == stats.wilson(47, 50)

    def test_a_full_share_counts_clusters(self):
        clusters = np.repeat(np.arange(12), 5)
        assert stats.share_interval(np.ones(60), clusters) == pytest.approx(stats.wilson(12, 12))
        assert stats.share_interval(np.zeros(60), clusters) == pytest.approx(stats.wilson(0, 12))

    def test_copies_of_an_image_carry_no_information(self):
        hits = np.arange(40) % 4 > 0
        low, high = stats.share_interval(np.repeat(hits, 9), np.repeat(np.arange(40), 9))
        once_low, once_high = stats.wilson(30, 40)
        assert low < once_low < once_high < high  # a little wider: the spread of 40 clusters is itself estimated
        assert high - low == pytest.approx(once_high - once_low, rel=0.05)

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
    def test_covers_the_truth(self, share):
        """80 shapes of 15 images that are right together; a bootstrap of shares near 1 has no width and covers 58 %."""
        clusters, inside, spread = np.repeat(np.arange(80), 15), 0, 3.0
        for seed in range(250):
            r = rng(seed)
            chance = r.beta(share * spread, (1 - share) * spread, 80)
            low, high = stats.share_interval(r.random(1200) < chance[clusters], clusters)
            inside += low <= share <= high
        assert inside / 250 > 0.91


class TestCrossedClusters:
    def test_variance_by_hand(self):
        rows, columns = [0, 0, 1, 1], ["x", "y", "x", "y"]
        influence = [3.0, 0.0, 0.0, -3.0]  # sums of rows and of columns 3 and -3, squares 18; two clusters: twice
        assert stats.clustered_variance(influence, rows) == 2 * 18
        assert stats.clustered_variance(influence, rows, columns) == 2 * 18 + 2 * 18 - 18
        influence = [3.0, 1.0, -1.0, -3.0]  # rows 4 and -4, columns 2 and -2: 64 + 16 - 20 is less than rows alone
        assert stats.clustered_variance(influence, rows, columns) == 64
        apart = [1.0, -1.0, -1.0, 1.0]  # cancel both ways: not below zero
        assert stats.clustered_variance(apart, rows, columns) == 0

    def test_unbiased_for_a_mean_of_crossed_effects(self):
        rows, columns = (way.ravel() for way in np.indices((40, 12)))
        found, means = [], []
        for seed in range(300):
            r = rng(seed)
            values = r.normal(size=40)[rows] + r.normal(size=12)[columns] + r.normal(size=480)
            found.append(stats.clustered_variance((values - values.mean()) / 480, rows, columns))
            means.append(values.mean())
        assert np.mean(found) == pytest.approx(1 / 40 + 1 / 12 + 1 / 480, rel=0.06)
        assert np.var(means) == pytest.approx(1 / 40 + 1 / 12 + 1 / 480, rel=0.2)
        assert np.mean(found) > 3 * np.mean([1 / 40, 1 / 40 + 1 / 480])  # what the rows alone would say

    def test_one_way_is_the_t_test_of_cluster_means(self):
        values, clusters = rng().normal(0.3, 1, 60), np.repeat(np.arange(12), 5)
        expected = scipy_stats.ttest_1samp(values.reshape(12, 5).mean(axis=1), 0)
        estimate, interval, p = stats.linear_difference(values.mean(), (values - values.mean()) / 60, clusters)
        assert estimate == values.mean() and p == pytest.approx(expected.pvalue)
        assert interval == pytest.approx(tuple(expected.confidence_interval()))

    def test_without_any_spread(self):
        nothing, clusters = np.zeros(6), [0, 0, 1, 1, 2, 2]
        assert stats.linear_difference(0.0, nothing, clusters).p_value == 1
        assert stats.linear_difference(1e-17, [0.1, -0.1 + 1e-17] * 3, clusters).p_value == 1
        assert stats.linear_difference(0.5, nothing, clusters).p_value == 0

    def test_share_with_a_known_design_effect_or_weights(self):
        hits, clusters = np.arange(40) < 36, np.repeat(np.arange(8), 5)
        assert stats.share_interval(hits, clusters, effect=2.0) == pytest.approx(stats.wilson(18, 20))
        assert stats.share_interval(hits, clusters, effect=np.nan) == pytest.approx(scipy_wilson(0.9, 8))
        plain = stats.share_interval(hits, clusters)
        assert stats.share_interval(hits, clusters, weights=np.full(40, 3.0)) == pytest.approx(plain)
        twice = np.repeat(hits, 2), np.repeat(clusters, 2)
        weighted = stats.share_interval(*twice, weights=np.tile([1.0, 0.0], 40))
        assert weighted == pytest.approx(plain)


def scipy_wilson(share, n):
    """Wilson's limits of a share of any n, in closed form."""
    z = scipy_stats.norm.isf(0.025)
    middle, reach = (share + z * z / 2 / n) / (1 + z * z / n), z * np.sqrt(share * (1 - share) / n + (z / 2 / n) ** 2)
    return middle - reach / (1 + z * z / n), middle + reach / (1 + z * z / n)


@pytest.mark.parametrize(
    "labels", [[3, 1, 3, 0], [-1, 5, 5], [10**9, 7, 7], ["b", "a", "b"], [True, False], [1.5, 0.5]]
)
def test_labels_are_coded_as_numpy_does_it(labels):
    names, expected = np.unique(labels, return_inverse=True)
    index, found = stats.coded(labels)
    assert index.tolist() == expected.tolist() and found == len(names)
