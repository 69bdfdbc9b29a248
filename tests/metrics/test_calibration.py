"""Calibration: worked cases, independent implementations (torchmetrics, netcal, sklearn, plain quadrature), edges."""

import doctest
import time

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error

from beyond_accuracy import stats
from beyond_accuracy.metrics import calibration as cal
from beyond_accuracy.metrics import calibration_resampling as res


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
        assert cal.ece(*data, 2, "l2") == pytest.approx(np.sqrt(0.4 * 0.16 + 0.6 * (0.8 - 2 / 3) ** 2))
        assert cal.ece(*data, 2, "max") == pytest.approx(0.4)

    @pytest.mark.parametrize("norm", ["l1", "l2", "max"])
    @pytest.mark.parametrize("n_bins", [1, 10, 15, 37])
    def test_matches_torchmetrics(self, n_bins, norm):
        confidence, correct = sample()
        expected = binary_calibration_error(
            torch.tensor(confidence), torch.tensor(correct.astype(int)), n_bins=n_bins, norm=norm
        )
        assert cal.ece(confidence, correct, n_bins, norm) == pytest.approx(float(expected), abs=1e-6)

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
        for kwargs in ({"n_bins": 0}, {"norm": "l3"}, {"binning": "depth"}):
            with pytest.raises(ValueError):
                cal.ece([0.5], [1], **kwargs)


class TestDebiased:
    def test_l2_by_hand(self):
        # One bin, 4 images, accuracy 3/4, confidence 0.6: 0.15^2 - (3/4)(1/4)/3 < 0, cut at 0; at confidence 0.2
        # 0.55^2 - 0.0625 = 0.24.
        assert cal.ece_debiased(np.full(4, 0.6), [1, 1, 1, 0], 1, "l2") == 0
        assert cal.ece_debiased(np.full(4, 0.2), [1, 1, 1, 0], 1, "l2") == pytest.approx(np.sqrt(0.24))

    def test_l1_matches_simulation_as_in_the_reference_library(self):
        confidence, correct = sample(600, power=1.05)
        bins = cal.reliability(confidence, correct)
        n, accuracy, mean = (bins[c].to_numpy() for c in ("n", "accuracy", "confidence"))
        noisy = rng().normal(accuracy, np.sqrt(accuracy * (1 - accuracy) / n), (200_000, len(n)))
        resampled = (np.abs(noisy - mean) @ n).mean() / n.sum()
        expected = 2 * cal.ece(confidence, correct) - resampled
        assert cal.ece_debiased(confidence, correct) == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("norm", ["l1", "l2"])
    def test_removes_most_of_the_bias(self, norm):
        # Mean over samples from a model whose population error is known.
        big, big_correct = sample(1_000_000, power=1.1)
        truth = cal.ece(big, big_correct, norm=norm)
        plain, debiased = [], []
        for seed in range(100):
            data = sample(800, seed=100 + 2 * seed, power=1.1)
            plain.append(cal.ece(*data, norm=norm))
            debiased.append(cal.ece_debiased(*data, norm=norm))
        assert abs(np.mean(debiased) - truth) < 0.6 * abs(np.mean(plain) - truth)

    def test_single_images_and_pure_bins_stay_as_they_are(self):
        assert cal.ece_debiased([0.9, 0.1], [1, 0]) == pytest.approx(0.1)
        assert cal.ece_debiased([0.9, 0.1], [1, 0], norm="l2") == pytest.approx(0.1)

    def test_sweep_stops_where_accuracy_falls(self):
        # Halves: 1/3 then 1. Thirds of two: 0, 1, 1. Quarters: ]..], accuracies no longer rise at five bins.
        confidence = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        value, bins = cal.ece_sweep(confidence, [0, 0, 1, 1, 1, 1])
        assert bins == 6 and value == pytest.approx((0.1 + 0.2 + 0.7 + 0.6 + 0.5 + 0.4) / 6)
        value, bins = cal.ece_sweep(confidence, [1, 1, 1, 0, 0, 0])
        assert bins == 1 and value == pytest.approx(0.15)
        assert cal.ece_sweep([0.8] * 5, [1, 1, 1, 1, 0]) == (pytest.approx(0), 1)


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
        value, used = cal.smooth_ece(confidence, correct, s)
        assert used == s and value == pytest.approx(self.quadrature(confidence, correct, s), abs=2e-5)

    def test_bandwidth_is_the_fixed_point(self):
        confidence, correct = sample(1000)
        value, s = cal.smooth_ece(confidence, correct)
        assert value == pytest.approx(s, abs=1e-5)
        assert value == pytest.approx(self.quadrature(confidence, correct, s), abs=1e-4)

    def test_extremes(self):
        # Always sure and always wrong: the residual is a point mass of -1, which the kernel only spreads.
        assert cal.smooth_ece(np.ones(10), np.zeros(10))[0] == pytest.approx(1, abs=1e-3)
        assert cal.smooth_ece(np.ones(10), np.ones(10))[0] < 1e-3
        assert cal.smooth_ece(np.full(4, 0.5), [1, 1, 0, 0])[0] == pytest.approx(0, abs=1e-9)


class TestScores:
    def test_classwise_matches_binary_ece_of_each_class(self):
        p, y = probabilities()
        expected = [cal.ece(p[:, k], y == k) for k in range(p.shape[1])]
        assert cal.classwise_ece(p, y) == pytest.approx(np.array(expected))

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


class TestResampling:
    def test_point_estimate_of_all_configurations_through_the_shared_sums(self):
        confidence, correct = sample(500)
        confidence[:5], confidence[5:9] = 0.0, 1.0
        confidence[9:40] = np.round(confidence[9:40], 1)  # on the edges of ten bins
        configs = res.bin_configs(range(1, 51, 7))
        ones = np.ones((500, 1), np.float32)
        shared = res._BinSums(confidence, correct.astype(float), configs).ece_and_gap(ones, ones.sum(0))[0][0]
        table = res.ece_over_bins(confidence, correct, configs)
        assert shared == pytest.approx(table["value"].to_numpy(), abs=1e-7)
        assert list(table.columns) == ["n_bins", "binning", "value"]

    def test_draws_match_an_explicit_loop(self):
        a, b = sample(300), sample(300, seed=5)
        confidence, correct = np.column_stack([a[0], b[0]]), np.column_stack([a[1], b[1]])
        draws = res.ece_bootstrap(confidence, correct, 20, rng(3))
        generator = rng(3)
        for draw in draws:
            rows = generator.integers(0, 300, 300)
            expected = [cal.ece(confidence[rows, m], correct[rows, m]) for m in (0, 1)]
            assert draw[0] == pytest.approx(expected, abs=1e-6)

    def test_gaps_come_from_the_same_resamples(self):
        confidence, correct = sample(300)
        eces, gaps = res.ece_and_gap_bootstrap(confidence, correct, 30, rng(), [res.BinConfig(1, "width")])
        assert np.abs(gaps[:, 0]) == pytest.approx(eces[:, 0, 0])
        assert gaps.mean() == pytest.approx(cal.signed_gap(confidence, correct), abs=0.02)

    def test_clusters(self):
        confidence, correct = sample(200)
        draws = res.ece_bootstrap(confidence, correct, 50, rng(), clusters=np.arange(200) // 10)
        assert draws.shape == (50, 1, 1) and draws.std() > 0

    def test_fifty_thousand_images_take_about_a_second(self):
        confidence, correct = sample(50_000)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            res.ece_bootstrap(confidence, correct, 400, rng())
            seconds.append(time.process_time() - start)
        assert min(seconds) < 1.5  # 0.2 s on an idle core (2,000 resamples: 0.9 s); slack for a busy machine

    @pytest.mark.parametrize("power", [1.0, 1.02, 1.3])
    def test_interval_covers_the_truth_where_percentile_does_not(self, power):
        truth = cal.ece(*sample(500_000, power=power)) if power != 1 else 0.0
        covered = percentile = 0
        for seed in range(40):
            data = sample(2000, seed=1000 + 2 * seed, power=power)
            draws = res.ece_bootstrap(*data, 200, rng(seed)).ravel()
            null = res.null_ece(data[0], 200, rng(seed))
            low, high = res.ece_interval(cal.ece(*data), draws, null)
            covered += low <= truth <= high
            low, high = stats.percentile_interval(draws)
            percentile += low <= truth <= high
        assert covered >= 33
        assert percentile <= 4 or power == 1.3

    def test_null_band(self):
        confidence, _ = sample(1500)
        null = res.null_ece(confidence, 300, rng())
        generator = rng(9)
        loop = [cal.ece(confidence, generator.random(1500) < confidence) for _ in range(300)]
        assert null.mean() == pytest.approx(np.mean(loop), rel=0.05)
        assert null.std() == pytest.approx(np.std(loop), rel=0.25)
        assert res.null_p_value(1.0, null) == 1 / 301 and res.null_p_value(0.0, null) == 1

    def test_null_of_saturated_confidence_is_zero(self):
        assert res.null_ece(np.ones(50), 10, rng()).tolist() == [0] * 10

    def test_ordering_by_hand(self):
        configs = res.bin_configs([5, 10], ["width"])
        # 4 resamples x 2 configurations; a beats b in 3 of 4 and in 2 of 4; c is the worst in each.
        a = np.array([[1, 1], [1, 1], [1, 3], [3, 3]]) / 10
        b, c = np.full((4, 2), 0.2), np.full((4, 2), 0.9)
        table = res.ordering(np.stack([b, a, c], axis=2), ["b", "a", "c"], configs)
        first = table.iloc[0]
        assert (first["better"], first["worse"], first["share"]) == ("a", "b", 5 / 8)
        assert (first["lowest"], first["lowest_n_bins"], first["every"]) == (0.5, 10, False)
        assert table.iloc[1][["better", "worse", "share", "every"]].tolist() == ["b", "c", 1.0, True]
        tie = res.ordering(np.stack([b, b], axis=2), ["x", "y"], configs).iloc[0]
        assert tie["share"] == 0.5 and not tie["every"]

    def test_bad_input(self):
        with pytest.raises(ValueError):
            res.ece_bootstrap([0.5, 2.0], [1, 0], 5, rng())
        with pytest.raises(ValueError):
            res.ece_bootstrap([0.5, 0.6], [1], 5, rng())


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
    draws, null = res.ece_bootstrap(confidence, correct, 500, rng()).ravel(), res.null_ece(confidence, 200, rng())
    interval = res.ece_interval(expected, draws, null)
    assert 0 < interval.low < expected < interval.high
    assert res.null_p_value(expected, null) == 1 / 201
    # Apple's reference package (with its coarser quadrature) gives 0.0384 and 0.0142 for these predictions.
    assert cal.smooth_ece(confidence, correct)[0] == pytest.approx({"ResNet50": 0.0384, "ViT": 0.0142}[model], rel=0.06)
