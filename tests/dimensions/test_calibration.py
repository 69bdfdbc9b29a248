"""Calibration: worked cases, independent implementations (torchmetrics, netcal, sklearn, plain quadrature), edges."""

import doctest
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import foldnorm, norm
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error

from beyond_accuracy.dimensions import calibration as cal
from beyond_accuracy.dimensions import calibration_resampling as res
from beyond_accuracy.measure import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def sample(n=4000, seed=0, power=1.3):
    """Confidences and outcomes of an overconfident model: true accuracy is confidence ** power."""
    confidence = rng(seed).beta(3, 1, n)
    return confidence, rng(seed + 1).random(n) < confidence**power


def probabilities(n=500, classes=7, seed=0):
    p = rng(seed).dirichlet(np.full(classes, 0.4), n)
    return p, np.array([rng(seed + i).choice(classes, p=row) for i, row in enumerate(p)])


def test_docstring_examples():
    assert doctest.testmod(cal).failed == 0


class TestBins:
    def test_right_closed_and_zero_in_the_first(self):
        edges = cal.bin_edges([0.1], 4)
        assert cal.bin_index([0.0, 0.1, 0.25, 0.2500001, 0.5, 0.75, 1.0], edges).tolist() == [0, 0, 0, 1, 1, 2, 3]

    def test_equal_mass_counts(self):
        confidence = rng().random(1000)
        table = cal.reliability(confidence, confidence < 0.5, 10, "mass")
        assert table["n"].tolist() == [100] * 10

    def test_equal_mass_keeps_ties_together(self):
        confidence = np.array([0.3] * 5 + [1.0] * 15)
        table = cal.reliability(confidence, np.ones(20), 10, "mass")
        assert table["n"].tolist() == [5, 15]
        assert table["high"].tolist() == [0.3, 1.0]

    def test_reliability_by_hand(self):
        table = cal.reliability([0.0, 0.2, 0.6, 0.8, 1.0], [False, True, True, False, True], 2)
        assert table["n"].tolist() == [2, 3]
        assert table["confidence"].tolist() == pytest.approx([0.1, 0.8])
        assert table["accuracy"].tolist() == pytest.approx([0.5, 2 / 3])
        assert table[["ci_low", "ci_high"]].iloc[1].tolist() == pytest.approx(stats.wilson(2, 3))


class TestECE:
    def test_by_hand(self):
        # Bins ]0, .5] and ]0.5, 1]: gaps |0.5 - 0.1| with share 2/5 and |2/3 - 0.8| with share 3/5.
        data = [0.0, 0.2, 0.6, 0.8, 1.0], [False, True, True, False, True]
        assert cal.ece(*data, 2) == pytest.approx(0.4 * 0.4 + 0.6 * (0.8 - 2 / 3))
        assert cal.signed_residuals(*data, 2) == pytest.approx([0, 0.8, -0.4 * -1, 0.8, 0] * np.array([1, 1, -1, 1, 1]))

    @pytest.mark.parametrize("n_bins", [1, 10, 15, 37])
    def test_matches_torchmetrics(self, n_bins):
        confidence, correct = sample()
        expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct.astype(int)), n_bins=n_bins)
        assert cal.ece(confidence, correct, n_bins) == pytest.approx(float(expected), abs=1e-6)

    def test_matches_netcal(self):
        from netcal.metrics import ECE  # slow import

        confidence, correct = sample()
        assert cal.ece(confidence, correct) == pytest.approx(ECE(15).measure(confidence, correct), abs=1e-9)
        # netcal's equal mass splits the sorted array; without ties that is the same partition.
        expected = ECE(10, equal_intervals=False).measure(confidence, correct)
        assert cal.ece(confidence, correct, 10, binning="mass") == pytest.approx(expected, abs=1e-3)

    def test_saturated_confidence_counts_in_the_last_bin(self):
        # A hidden extra bin for exactly 1.0 would separate these two images and give 0.52 (torchmetrics issue 3510).
        assert cal.ece([1.0, 0.96], [False, True]) == pytest.approx(0.48)

    def test_calibrated_and_constant_models(self):
        assert cal.ece(np.full(10, 0.7), [True] * 7 + [False] * 3) == pytest.approx(0)
        assert cal.ece(np.ones(5), np.zeros(5)) == 1
        assert cal.ece(np.ones(5), np.ones(5)) == 0

    @pytest.mark.parametrize(
        "confidence,correct",
        [([], []), ([0.5, np.nan], [1, 0]), ([1.2], [1]), ([0.5], [1, 0]), ([-0.1], [0]), ([0.5], [np.nan])],
    )
    def test_bad_input_raises(self, confidence, correct):
        with pytest.raises(ValueError):
            cal.ece(confidence, correct)

    def test_unknown_options_raise(self):
        for kwargs in ({"n_bins": 0}, {"binning": "depth"}):
            with pytest.raises(ValueError):
                cal.ece([0.5], [1], **kwargs)


class TestDebiased:
    def test_by_hand(self):
        # One bin, 4 images, 3 right at confidence 0.6: gap 0.15, squared residuals 3 * 0.16 + 0.36: sd^2 = 0.84 / 16.
        gap, sd = 0.15, np.sqrt(0.84 / 16)
        bias = foldnorm.mean(gap / sd, scale=sd) - gap
        found = cal.ece_debiased(np.full(4, 0.6), [1, 1, 1, 0], 1)
        assert (found.plain, found.bias) == pytest.approx((gap, bias))
        assert found.value == pytest.approx(gap - (1 + np.sqrt(0.5)) * bias)
        assert found._replace(bias=0.1).value == 0
        # At confidence 0.2 the gap 0.55 exceeds its noise and almost all of it stays.
        gap, sd = 0.55, np.sqrt((3 * 0.64 + 0.04) / 16)
        bias = foldnorm.mean(gap / sd, scale=sd) - gap
        assert cal.ece_debiased(np.full(4, 0.2), [1, 1, 1, 0], 1).value == pytest.approx(gap - (1 + 0.5**0.5) * bias)

    def test_bias_matches_simulation_as_in_the_reference_library(self):
        # Kumar et al. draw each bin's accuracy around the observed one; theirs is the ECE minus what that adds to it.
        confidence, correct = sample(600, power=1.05)
        bins = cal.reliability(confidence, correct)
        share, gap = bins["n"] / bins["n"].sum(), bins["accuracy"] - bins["confidence"]
        sd = np.sqrt(bins["accuracy"] * (1 - bins["accuracy"]) / bins["n"])
        noisy = np.abs(rng().normal(gap, sd, (200_000, len(gap)))) @ share
        assert cal.ece_debiased(confidence, correct).bias == pytest.approx(noisy.mean() - np.abs(gap) @ share, rel=0.06)

    def test_observed_gaps_show_part_of_the_bias_of_a_calibrated_model(self):
        found = [cal.ece_debiased(*sample(3000, 2 * seed, power=1)) for seed in range(200)]
        plain, bias = (np.mean([getattr(one, name) for one in found]) for name in ("plain", "bias"))
        assert bias / plain == pytest.approx(np.sqrt(2) - 1, rel=0.04)

    @pytest.mark.parametrize("power", [1.0, 1.03, 1.1])
    def test_nearer_to_the_truth_than_the_plain_one(self, power):
        truth = cal.ece(*sample(1_000_000, power=power)) if power > 1 else 0
        found = [cal.ece_debiased(*sample(800, seed=100 + 2 * seed, power=power)) for seed in range(100)]
        plain, debiased = (np.array([getattr(one, name) for one in found]) - truth for name in ("plain", "value"))
        assert abs(debiased.mean()) < 0.6 * abs(plain.mean()) and (debiased**2).mean() < (plain**2).mean()

    @pytest.mark.parametrize(("n", "shape"), [(480, (2, 1)), (1600, (3, 1)), (3200, (8, 1))])
    def test_interval_covers_and_holds_the_estimate(self, n, shape):
        # Accuracy off by a fixed amount everywhere, or in a few bins only.
        generator, covered = rng(n), []
        for off, width in product((0, 0.01, 0.05), (1.0, 0.1)):
            many = generator.beta(*shape, 200_000) * 0.9
            wrong = off * ((many > 0.6) & (many < 0.6 + width))
            truth = cal.ece(many, np.clip(many - wrong, 0, 1))
            for _ in range(40):
                at = generator.integers(0, len(many), n)
                p, right = many[at], generator.random(n) < (many - wrong)[at]
                found = cal.ece_debiased(p, right)
                low, high = found.interval(res.null_ece(p, 100, generator))
                assert low <= found.value <= high and low < high
                covered.append(low <= truth <= high)
        assert np.mean(covered) >= 0.92

    def test_plain_interval_is_of_what_other_images_would_show(self):
        found = [cal.signed_residuals(*sample(1000, 2 * seed, power=1.1)) for seed in range(200)]
        expected = np.mean([one.mean() for one in found])
        intervals = [cal.plain_interval(one) for one in found]
        assert np.mean([low <= expected <= high for low, high in intervals]) >= 0.92
        assert all(low <= one.mean() <= high for one, (low, high) in zip(found, intervals, strict=True))

    def test_sweep_stops_where_accuracy_falls(self):
        # Halves: 1/3 then 1. Thirds of two: 0, 1, 1. Quarters: ]..], accuracies no longer rise at five bins.
        confidence = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        signed, bins = cal.ece_sweep(confidence, [0, 0, 1, 1, 1, 1])
        assert bins == 6 and signed.mean() == pytest.approx((0.1 + 0.2 + 0.7 + 0.6 + 0.5 + 0.4) / 6)
        signed, bins = cal.ece_sweep(confidence, [1, 1, 1, 0, 0, 0])
        assert bins == 1 and signed.mean() == pytest.approx(0.15)
        signed, bins = cal.ece_sweep([0.8] * 5, [1, 1, 1, 1, 0])
        assert bins == 1 and signed.mean() == pytest.approx(0)


class TestSmooth:
    @staticmethod
    def quadrature(confidence, correct, s, cells=3000):
        t = (np.arange(cells) + 0.5) / cells
        kernel = sum(
            np.exp(-((t[:, None] - x) ** 2) / (2 * s * s))
            for k in (-2, 0, 2)
            for x in (k + confidence[None], k - confidence[None])
        ) / (np.sqrt(2 * np.pi) * s)
        return np.abs(kernel @ (correct - confidence)).mean() / len(confidence)

    @pytest.mark.parametrize("s", [0.02, 0.1, 0.6])
    def test_matches_quadrature_of_the_definition(self, s):
        confidence, correct = sample(300)
        weighted, used = cal.smooth_ece(confidence, correct, s)
        assert used == s and weighted.mean() == pytest.approx(self.quadrature(confidence, correct, s), abs=2e-5)

    def test_bandwidth_is_the_fixed_point(self):
        confidence, correct = sample(1000)
        weighted, s = cal.smooth_ece(confidence, correct)
        value = weighted.mean()
        assert value == pytest.approx(s, abs=1e-5)
        assert value == pytest.approx(self.quadrature(confidence, correct, s), abs=1e-4)

    def test_extremes(self):
        # Always sure and always wrong: the residual is a point mass of -1, which the kernel only spreads.
        assert cal.smooth_ece(np.ones(10), np.zeros(10))[0].mean() == pytest.approx(1, abs=1e-3)
        assert cal.smooth_ece(np.ones(10), np.ones(10))[0].mean() < 1e-3
        assert cal.smooth_ece(np.full(4, 0.5), [1, 1, 0, 0])[0].mean() == pytest.approx(0, abs=1e-9)


class TestScores:
    def test_classwise_matches_binary_ece_of_each_class(self):
        p, y = probabilities()
        expected = [cal.ece(p[:, k], y == k) for k in range(p.shape[1])]
        assert cal.classwise_ece(p, y).mean() == pytest.approx(np.mean(expected))

    def test_brier_and_nll_match_sklearn(self):
        p, y = probabilities()
        expected = brier_score_loss(y, p, labels=range(7), scale_by_half=False)
        assert cal.brier(p, y).mean() == pytest.approx(expected)
        assert cal.nll(p[np.arange(len(y)), y]).mean() == pytest.approx(log_loss(y, p, labels=range(7)))

    def test_brier_extremes(self):
        assert cal.brier([[1.0, 0.0], [0.0, 1.0]], [0, 0]).tolist() == [0, 2]

    def test_nll_of_an_impossible_class_is_finite(self):
        assert cal.nll([1.0, 0.0]).tolist() == [0, pytest.approx(103.28, abs=0.01)]

    def test_signed_gap(self):
        assert cal.signed_gap([0.9, 0.8, 0.7], [1, 0, 1]) == pytest.approx(0.8 - 2 / 3)
        assert cal.signed_gap([0.5], [1]) == -0.5

    @pytest.mark.parametrize("p,y", [([[0.5, 0.5]], [2]), ([[0.9, 0.9]], [0]), ([[0.5, 0.5]], [0, 1])])
    def test_bad_distributions_raise(self, p, y):
        with pytest.raises(ValueError):
            cal.brier(p, y)


class TestNull:
    def test_null_band(self):
        confidence, _ = sample(1500)
        null = res.null_ece(confidence, 300, rng())
        generator = rng(9)
        loop = [cal.ece(confidence, generator.random(1500) < confidence) for _ in range(300)]
        assert null.mean() == pytest.approx(np.mean(loop), rel=0.05)
        assert null.std() == pytest.approx(np.std(loop), rel=0.25)

    def test_null_of_saturated_confidence_is_zero(self):
        assert res.null_ece(np.ones(50), 10, rng()).tolist() == [0] * 10


def paired(n, generator, first=(8, 1), second=(2, 1), off=(0.0, 0.0), swapped=False):
    """Confidences and outcomes of two models, alike in what is easy; `off` is confidence minus accuracy."""
    easy = generator.standard_normal((3, n))
    at = norm.cdf((easy[0] + easy[1:]) / np.sqrt(2))
    confidence = [0.05 + 0.9 * x ** (b / a) for x, (a, b) in zip(at, (first, second), strict=True)]
    models = [(p, generator.random(n) < p - o) for p, o in zip(confidence, off, strict=True)]
    if not swapped:
        return models
    swap = generator.random(n) < 0.5
    return [tuple(np.where(swap, x, y) for x, y in zip(*pair, strict=True)) for pair in (models, models[::-1])]


class TestDifference:
    def test_matches_an_explicit_loop_over_all_swaps(self):
        models = paired(9, rng(4))
        n, bins = 9, 3

        def apart(models):
            index = [cal.bin_index(p, np.linspace(0, 1, bins + 1)) for p, _ in models]
            sums = [np.bincount(i, y - p, bins) for i, (p, y) in zip(index, models, strict=True)]
            found = [cal.ece_debiased(*model, bins) for model in models]
            common = 0.0
            for i, j, a, b in zip(*index, *(y - p for p, y in models), strict=True):
                signs = [np.sign(sums[0][k] * sums[1][m]) for k, m in ((i, j), (j, i))]
                common += a * b * sum(signs) / 2
            squares = sum(((y - p) ** 2).sum() for p, y in models)
            gap = found[0].plain - found[1].plain
            error = np.sqrt((squares - 2 * common) / n**2 - gap**2 / n)
            return gap - cal.CORRECTION * (found[0].bias - found[1].bias), error

        everything = []
        for swaps in product((False, True), repeat=n):
            both = zip(*models, strict=True)
            turned = [[np.where(swaps, y, x), np.where(swaps, x, y)] for x, y in both]
            gap, error = apart(list(zip(*turned, strict=True)))
            everything.append(abs(gap) / error)
        gap, error = apart(models)
        expected = np.mean(np.array(everything) >= abs(gap) / error - 1e-9)
        found = res.ece_difference(*models, 20_000, rng(), bins)
        assert found.estimate == pytest.approx(gap) and found.p_value == pytest.approx(expected, abs=0.02)
        ends = sorted(found.interval, key=abs)
        near = abs(gap) - np.quantile(everything, 0.95) * error
        assert np.sign(gap) * ends[0] == pytest.approx(near, abs=0.02)

    def test_exchangeable_models(self):
        for off in (0.0, 0.03):
            runs = [paired(700, rng(seed), off=(off, off), swapped=True) for seed in range(150)]
            p = np.array([res.ece_difference(*models, 99, rng(1)).p_value for models in runs])
            assert 0.005 <= np.mean(p <= 0.05) <= 0.10  # 0.05, two standard errors of 150 repetitions either way

    @pytest.mark.parametrize("off", [(0, 0), (0.03, 0.03), (0.04, -0.04)], ids=["calibrated", "alike", "opposite"])
    def test_equal_errors_of_unlike_models(self, off):
        found = [res.ece_difference(*paired(1600, rng(seed), off=off), 99, rng(1)) for seed in range(120)]
        assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.10
        assert np.mean([one.interval.low <= 0 <= one.interval.high for one in found]) >= 0.90

    def test_unequal_errors_are_found_and_covered(self):
        found = [res.ece_difference(*paired(1600, rng(seed), off=(0.06, 0.0)), 99, rng(1)) for seed in range(60)]
        assert np.mean([one.p_value <= 0.05 for one in found]) >= 0.8
        assert np.mean([one.interval.low <= 0.06 <= one.interval.high for one in found]) >= 0.9

    def test_interval_agrees_with_the_test_and_holds_the_estimate(self):
        for seed in range(40):
            found = res.ece_difference(*paired(500, rng(seed), off=(0.05, 0.0)), 399, rng(seed))
            low, high = found.interval
            assert low <= found.estimate <= high
            assert (low > 0 or high < 0) == (found.p_value < 0.05) or found.p_value == pytest.approx(0.05, abs=0.003)

    def test_identical_models_and_one_changed_answer(self):
        confidence, correct = sample(400)
        assert res.ece_difference((confidence, correct), (confidence, correct), 50, rng()) == (0, (0, 0), 1)
        # Every swap leaves the same difference up to its sign: no evidence, however many swaps are rounded which way.
        changed = correct ^ (np.arange(400) == 7)
        low, high = (found := res.ece_difference((confidence, correct), (confidence, changed), 999, rng())).interval
        assert found.p_value == 1 and low <= 0 <= high

    def test_rounding_of_another_machine_changes_no_p_value(self):
        models = paired(900, rng(3), off=(0.04, 0.0))
        noise = rng(5)
        moved = [(p * (1 + 1e-7 * noise.standard_normal(900)), y) for p, y in models]
        one, two = (res.ece_difference(*run, 999, rng()) for run in (models, moved))
        assert one.p_value == pytest.approx(two.p_value, abs=0.003)
        assert one.interval == pytest.approx(two.interval, abs=1e-5)


class TestOrdering:
    def test_by_hand(self):
        configs = res.bin_configs([5, 10], ["width"])
        # Differences of -1 and 0 with standard error 1/2; the third model is worse by far more than noise.
        noise = np.array([1.0, -1.0, 1.0, -1.0])
        a = [cal.Debiased(10 + noise, 0.0)] * 2
        b = [cal.Debiased(np.full(4, 11.0), 0.0), cal.Debiased(np.full(4, 10 + cal.CORRECTION), 1.0)]
        c = [cal.Debiased(np.full(4, 90.0), 0.0)] * 2
        table = res.ordering({"b": b, "a": a, "c": c}, configs)
        first, share = table.iloc[0], (norm.cdf(2) + norm.cdf(0)) / 2
        assert (first["better"], first["worse"], first["share"]) == ("a", "b", round(share, 3))
        assert (first["lowest"], first["lowest_n_bins"], first["clear"], first["configs"]) == (0.5, 10, 1, 2)
        assert table.iloc[1][["better", "worse", "share", "clear"]].tolist() == ["b", "c", 0.999, 2]
        tie = res.ordering({"x": b, "y": b}, configs).iloc[0]
        assert tie["share"] == 0.5 and tie["clear"] == 0

    def test_noise_is_no_order(self):
        # Both calibrated; the less confident one has the larger plain ECE in nearly every resample.
        shares, plain = [], []
        for seed in range(20):
            errors = {k: [cal.ece_debiased(*run)] for k, run in enumerate(paired(3200, rng(seed), (12, 1), (2, 1)))}
            row = res.ordering(errors, [res.PAPER]).iloc[0]
            shares.append(row["share"] if row["better"] == 0 else 1 - row["share"])
            plain.append(errors[0][0].plain < errors[1][0].plain)
        assert np.mean(plain) >= 0.9 and np.mean(shares) < 0.75

    def test_says_what_the_paired_test_says(self):
        for seed in range(8):
            runs = paired(1600, rng(seed), off=(0.06, 0.02))
            share = res.ordering(dict(enumerate([cal.ece_debiased(*run)] for run in runs)), [res.PAPER])["share"][0]
            p = res.ece_difference(*runs, 999, rng()).p_value
            assert 2 * (1 - share) == pytest.approx(p, abs=0.1)


@pytest.fixture(scope="session")
def published(shared_dir):
    """Stored predictions of two public models on all of ImageNet val: model -> frame with target and correct."""
    pytest.importorskip("imagenet_x", reason="labels of the validation ids come with imagenet-x")
    from importlib.resources import files

    labels = pd.read_csv(files("imagenet_x") / "annotations" / "filename_label.csv").set_index("file_name")["label"]
    out = {}
    for name in ("ResNet50", "ViT"):
        frame = (
            pd.read_csv(shared_dir / "data" / "predictions" / f"{name}.csv").set_index("file_name").loc[labels.index]
        )
        out[name] = frame.assign(target=labels, correct=frame["predicted_class"] == labels)
    return out


@pytest.mark.parametrize("model,top1,expected", [("ResNet50", 76.130, 0.03731), ("ViT", 78.006, 0.01413)])
def test_published_predictions(published, model, top1, expected):
    frame = published[model]
    confidence, correct = frame["predicted_probability"].to_numpy(), frame["correct"].to_numpy()
    assert len(frame) == 50_000
    assert 100 * correct.mean() == pytest.approx(top1, abs=5e-4)
    assert cal.ece(confidence, correct) == pytest.approx(expected, abs=5e-6)
    found = cal.ece_debiased(confidence, correct)
    interval = found.interval(res.null_ece(confidence, 200, rng()))
    assert 0 < interval.low < found.value < expected < interval.high
    # Apple's reference package (with its coarser quadrature) gives 0.0384 and 0.0142 for these predictions.
    smooth = cal.smooth_ece(confidence, correct)[0].mean()
    assert smooth == pytest.approx({"ResNet50": 0.0384, "ViT": 0.0142}[model], rel=0.06)
