"""Calibration: worked cases, independent implementations (torchmetrics, netcal, sklearn, plain quadrature), edges.

Then the page's rows from planted runs, its sentences and its own figure.
"""

import doctest
import re
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.special import softmax
from scipy.stats import foldnorm, norm
from sklearn.metrics import brier_score_loss, log_loss

from beyond_accuracy.dimensions import calibration as cal
from beyond_accuracy.measure import stats, verdicts
from beyond_accuracy.show import theme

PAPER = cal.Bins(15, "width")
BY_HAND = [0.0, 0.2, 0.6, 0.8, 1.0], [False, True, True, False, True]


def rng(seed=0):
    return np.random.default_rng(seed)


def sample(n=4000, seed=0, power=1.3):
    """Confidences and outcomes of an overconfident model: true accuracy is confidence ** power."""
    confidence = rng(seed).beta(3, 1, n)
    return confidence, rng(seed + 1).random(n) < confidence**power


def test_docstring_examples():
    assert doctest.testmod(cal).failed == 0


class TestBins:
    def test_right_closed_and_zero_in_the_first(self):
        edges = cal.bin_edges([0.1], 4)
        assert cal.bin_index([0.0, 0.1, 0.25, 0.2500001, 0.5, 0.75, 1.0], edges).tolist() == [0, 0, 0, 1, 1, 2, 3]

    def test_equal_mass_counts_and_keeps_ties_together(self):
        confidence = rng().random(1000)
        assert cal.reliability(confidence, confidence < 0.5, 10, "mass")["n"].tolist() == [100] * 10
        table = cal.reliability([0.3] * 5 + [1.0] * 15, np.ones(20), 10, "mass")
        assert table[["n", "high"]].to_numpy().tolist() == [[5, 0.3], [15, 1.0]]

    def test_reliability_by_hand(self):
        table = cal.reliability(*BY_HAND, 2)
        shown = table[["n", "confidence", "accuracy"]].to_numpy()
        assert shown == pytest.approx(np.array([[2, 0.1, 0.5], [3, 0.8, 2 / 3]]))
        assert table[["ci_low", "ci_high"]].iloc[1].tolist() == pytest.approx(stats.wilson(2, 3))


class TestECE:
    def test_by_hand(self):
        # Bins ]0, .5] and ]0.5, 1]: gaps |0.5 - 0.1| with share 2/5 and |2/3 - 0.8| with share 3/5.
        assert cal.ece(*BY_HAND, 2) == pytest.approx(0.4 * 0.4 + 0.6 * (0.8 - 2 / 3))
        assert cal.signed_residuals(*BY_HAND, 2) == pytest.approx([0, 0.8, -0.4, 0.8, 0])

    def test_matches_torchmetrics_and_netcal(self):
        from netcal.metrics import ECE  # slow imports
        from torchmetrics.functional.classification import binary_calibration_error

        confidence, correct = sample()
        for n_bins in (1, 15, 37):
            answers = torch.tensor(confidence), torch.tensor(correct.astype(int))
            expected = float(binary_calibration_error(*answers, n_bins=n_bins))
            assert cal.ece(confidence, correct, n_bins) == pytest.approx(expected, abs=1e-6)
        assert cal.ece(confidence, correct) == pytest.approx(ECE(15).measure(confidence, correct), abs=1e-9)
        # netcal's equal mass splits the sorted array; without ties that is the same partition.
        expected = ECE(10, equal_intervals=False).measure(confidence, correct)
        assert cal.ece(confidence, correct, 10, binning="mass") == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize(
        ("confidence", "correct", "error"),
        [
            # A hidden extra bin for exactly 1.0 would separate these images and give 0.52 (torchmetrics issue 3510).
            ([1.0, 0.96], [False, True], 0.48),
            ([0.7] * 10, [True] * 7 + [False] * 3, 0),
            (np.ones(5), np.zeros(5), 1),
            (np.ones(5), np.ones(5), 0),
        ],
        ids=["saturated", "calibrated", "always wrong", "always right"],
    )
    def test_extremes(self, confidence, correct, error):
        assert cal.ece(confidence, correct) == pytest.approx(error)

    @pytest.mark.parametrize(
        ("confidence", "correct", "options"),
        [
            *(([], [], {}), ([0.5, np.nan], [1, 0], {}), ([1.2], [1], {}), ([0.5], [1, 0], {})),
            *(([0.5], [1], {"n_bins": 0}), ([0.5], [1], {"binning": "depth"})),
        ],
    )
    def test_bad_input_raises(self, confidence, correct, options):
        with pytest.raises(ValueError):
            cal.ece(confidence, correct, **options)


class TestDebiased:
    @pytest.mark.parametrize("p", [0.6, 0.2], ids=["gap as large as its noise", "almost all of the gap stays"])
    def test_by_hand(self, p):
        # One bin, 4 images, 3 right
        gap, sd = 0.75 - p, np.sqrt(3 * (1 - p) ** 2 + p**2) / 4
        bias = foldnorm.mean(gap / sd, scale=sd) - gap
        found = cal.ece_debiased(np.full(4, p), [1, 1, 1, 0], 1)
        assert (found.plain, found.bias) == pytest.approx((gap, bias))
        assert found.value == pytest.approx(gap - (1 + np.sqrt(0.5)) * bias)
        assert found._replace(bias=1.0).value == 0

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

    @pytest.mark.parametrize("power", [1.0, 1.1])
    def test_nearer_to_the_truth_than_the_plain_one(self, power):
        truth = cal.ece(*sample(1_000_000, power=power)) if power > 1 else 0
        found = [cal.ece_debiased(*sample(800, seed=100 + 2 * seed, power=power)) for seed in range(100)]
        plain, debiased = (np.array([getattr(one, name) for one in found]) - truth for name in ("plain", "value"))
        assert abs(debiased.mean()) < 0.6 * abs(plain.mean()) and (debiased**2).mean() < (plain**2).mean()

    @pytest.mark.parametrize(("n", "shape"), [(480, (2, 1)), (1600, (8, 1))])
    def test_interval_covers_and_holds_the_estimate(self, n, shape):
        # Accuracy off by a fixed amount everywhere, or in a few bins only.
        generator, covered = rng(n), []
        for off, width in product((0, 0.01, 0.05), (1.0, 0.1)):
            many = generator.beta(*shape, 200_000) * 0.9
            wrong = off * ((many > 0.6) & (many < 0.6 + width))
            truth = cal.ece(many, np.clip(many - wrong, 0, 1))
            for _ in range(25):
                at = generator.integers(0, len(many), n)
                p, right = many[at], generator.random(n) < (many - wrong)[at]
                found = cal.ece_debiased(p, right)
                low, high = found.interval(cal.null_ece(p, 100, generator))
                assert low <= found.value <= high and low < high
                covered.append(low <= truth <= high)
        assert np.mean(covered) >= 0.92

    def test_plain_interval_is_of_what_other_images_would_show(self):
        found = [cal.signed_residuals(*sample(1000, 2 * seed, power=1.1)) for seed in range(200)]
        expected = np.mean([one.mean() for one in found])
        intervals = [cal.plain_interval(one) for one in found]
        assert np.mean([low <= expected <= high for low, high in intervals]) >= 0.92
        assert all(low <= one.mean() <= high for one, (low, high) in zip(found, intervals, strict=True))

    @pytest.mark.parametrize(
        ("confidence", "correct", "error"),
        [
            ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 1, 1, 1, 1], (0.1 + 0.2 + 0.7 + 0.6 + 0.5 + 0.4) / 6),
            ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 1, 1, 0, 0, 0], 0.15),
            ([0.8] * 5, [1, 1, 1, 1, 0], 0),
        ],
        ids=["six bins", "one bin", "one confidence"],
    )
    def test_sweep_stops_where_accuracy_falls(self, confidence, correct, error):
        assert cal.ece_sweep(confidence, correct).mean() == pytest.approx(error)


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

    @pytest.mark.parametrize("power", [1.1, 2, 8])
    def test_solves_the_definition_by_quadrature(self, power):
        confidence, correct = sample(1000, power=power)
        weighted, s = cal.ece_smooth(confidence, correct)
        assert weighted.mean() == pytest.approx(s, abs=1e-5)
        assert weighted.mean() == pytest.approx(self.quadrature(confidence, correct, s), abs=1e-4)

    def test_extremes(self):
        # Always sure and always wrong: the residual is a point mass of -1, which the kernel only spreads.
        assert cal.ece_smooth(np.ones(10), np.zeros(10))[0].mean() == pytest.approx(1, abs=1e-3)
        assert cal.ece_smooth(np.ones(10), np.ones(10))[0].mean() < 1e-3
        assert cal.ece_smooth(np.full(4, 0.5), [1, 1, 0, 0])[0].mean() == pytest.approx(0, abs=1e-9)


def test_scores_and_classwise_error_match_sklearn_and_binary_ones():
    p = rng().dirichlet(np.full(7, 0.4), 500)
    y = np.array([rng(i).choice(7, p=row) for i, row in enumerate(p)])
    scores = cal.score(p, y)
    assert scores["brier"].mean() == pytest.approx(brier_score_loss(y, p, labels=range(7), scale_by_half=False))
    assert scores["nll"].mean() == pytest.approx(log_loss(y, p, labels=range(7)))
    assert cal.ece_classwise(p, y).mean() == pytest.approx(np.mean([cal.ece(p[:, k], y == k) for k in range(7)]))
    assert cal.score(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))["brier"].tolist() == [0, 2]
    assert cal.nll([1.0, 0.0]).tolist() == [0, pytest.approx(103.28, abs=0.01)]


def test_temperature_divides_the_logits_of_the_scored_classes():
    logits, columns = rng().normal(0, 3, (50, 6)).astype(np.float16), np.array([1, 3, 4])
    for temperature in (1.7, np.linspace(0.5, 3, 50)):  # one, or one per image
        expected = softmax(logits[:, columns] / np.broadcast_to(temperature, 50)[:, None].astype(float), axis=1)
        found = cal.distribution(SimpleNamespace(logits=logits, columns=columns), temperature)
        assert found == pytest.approx(expected, rel=1e-5)


def test_null_band():
    confidence, _ = sample(1500)
    null, generator = cal.null_ece(confidence, 300, rng()), rng(9)
    loop = [cal.ece(confidence, generator.random(1500) < confidence) for _ in range(300)]
    assert null.mean() == pytest.approx(np.mean(loop), rel=0.05)
    assert null.std() == pytest.approx(np.std(loop), rel=0.25)
    assert cal.null_ece(np.ones(50), 10, rng()).tolist() == [0] * 10


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
        found = cal.ece_difference(*models, 20_000, rng(), bins)
        assert found.estimate == pytest.approx(gap) and found.p_value == pytest.approx(expected, abs=0.02)
        ends = sorted(found.interval, key=abs)
        near = abs(gap) - np.quantile(everything, 0.95) * error
        assert np.sign(gap) * ends[0] == pytest.approx(near, abs=0.02)

    def test_exchangeable_models(self):
        runs = [paired(700, rng(seed), off=(0.03, 0.03), swapped=True) for seed in range(150)]
        p = np.array([cal.ece_difference(*models, 99, rng(1)).p_value for models in runs])
        assert 0.005 <= np.mean(p <= 0.05) <= 0.10  # 0.05, two standard errors of 150 repetitions either way

    @pytest.mark.parametrize(
        ("off", "least", "most"),
        [((0, 0), 0, 0.1), ((0.03, 0.03), 0, 0.1), ((0.04, -0.04), 0, 0.1), ((0.06, 0), 0.8, 1)],
        ids=["calibrated", "alike", "opposite", "unequal"],
    )
    def test_unlike_models(self, off, least, most):
        """Equal errors are rarely told apart, unequal ones often, and both are covered."""
        found = [cal.ece_difference(*paired(1600, rng(seed), off=off), 99, rng(1)) for seed in range(80)]
        gap = abs(off[0]) - abs(off[1])
        assert least <= np.mean([one.p_value <= 0.05 for one in found]) <= most
        assert np.mean([one.interval.low <= gap <= one.interval.high for one in found]) >= 0.9
        assert all(one.interval.low <= one.estimate <= one.interval.high for one in found)

    def test_interval_agrees_with_the_test(self):
        for seed in range(20):
            found = cal.ece_difference(*paired(500, rng(seed), off=(0.05, 0.0)), 399, rng(seed))
            low, high = found.interval
            assert (low > 0 or high < 0) == (found.p_value < 0.05) or found.p_value == pytest.approx(0.05, abs=0.003)

    def test_identical_models_and_one_changed_answer(self):
        confidence, correct = sample(400)
        assert cal.ece_difference((confidence, correct), (confidence, correct), 50, rng()) == (0, (0, 0), 1)
        # Every swap leaves the same difference up to its sign: no evidence, however many swaps are rounded which way.
        changed = correct ^ (np.arange(400) == 7)
        low, high = (found := cal.ece_difference((confidence, correct), (confidence, changed), 999, rng())).interval
        assert found.p_value == 1 and low <= 0 <= high

    def test_rounding_of_another_machine_changes_no_p_value(self):
        models = paired(900, rng(3), off=(0.04, 0.0))
        noise = rng(5)
        moved = [(p * (1 + 1e-7 * noise.standard_normal(900)), y) for p, y in models]
        one, two = (cal.ece_difference(*run, 999, rng()) for run in (models, moved))
        assert one.p_value == pytest.approx(two.p_value, abs=0.003)
        assert one.interval == pytest.approx(two.interval, abs=1e-5)


class TestOrdering:
    def test_by_hand(self):
        configs = [cal.Bins(5, "width"), cal.Bins(10, "width")]
        # Differences of -1 and 0 with standard error 1/2; the third model is worse by far more than noise.
        a = [cal.Debiased(10 + np.array([1.0, -1.0, 1.0, -1.0]), 0.0)] * 2
        b = [cal.Debiased(np.full(4, 11.0), 0.0), cal.Debiased(np.full(4, 10 + cal.CORRECTION), 1.0)]
        c = [cal.Debiased(np.full(4, 90.0), 0.0)] * 2
        found = {name: dict(zip(configs, errors, strict=True)) for name, errors in (("b", b), ("a", a), ("c", c))}
        table = cal.ordering(found)
        share = (norm.cdf(2) + norm.cdf(0)) / 2
        assert table.iloc[0].tolist() == ["a", "b", round(100 * share, 1), 50.0, "10 bins of equal width", "1 of 2"]
        assert table.iloc[1][["model_a", "model_b", cal.SHARE, "clear"]].tolist() == ["b", "c", 99.9, "2 of 2"]
        tie = cal.ordering({"x": found["b"], "y": found["b"]}).iloc[0]
        assert tie[cal.SHARE] == 50 and tie["clear"] == "0 of 2"

    def test_noise_is_no_order(self):
        # Both calibrated; the less confident one has the larger plain ECE in nearly every resample.
        shares, plain = [], []
        for seed in range(20):
            errors = [cal.ece_debiased(*run) for run in paired(3200, rng(seed), (12, 1), (2, 1))]
            row = cal.ordering({k: {PAPER: one} for k, one in enumerate(errors)}).iloc[0]
            shares.append(row[cal.SHARE] if row["model_a"] == 0 else 100 - row[cal.SHARE])
            plain.append(errors[0].plain < errors[1].plain)
        assert np.mean(plain) >= 0.9 and np.mean(shares) < 75

    def test_says_what_the_paired_test_says(self):
        for seed in range(8):
            runs = paired(1600, rng(seed), off=(0.06, 0.02))
            row = cal.ordering({k: {PAPER: cal.ece_debiased(*run)} for k, run in enumerate(runs)}).iloc[0]
            p = cal.ece_difference(*runs, 999, rng()).p_value
            assert 2 * (1 - row[cal.SHARE] / 100) == pytest.approx(p, abs=0.1)


@pytest.mark.parametrize(
    ("model", "top1", "expected", "smooth"), [("ResNet50", 76.130, 0.03731, 0.0384), ("ViT", 78.006, 0.01413, 0.0142)]
)
def test_published_predictions(shared_dir, model, top1, expected, smooth):
    """Stored predictions of public models on all of ImageNet val; `smooth`: by Apple's package (coarser quadrature)."""
    pytest.importorskip("imagenet_x", reason="labels of the validation ids come with imagenet-x")
    from importlib.resources import files

    labels = pd.read_csv(files("imagenet_x") / "annotations" / "filename_label.csv").set_index("file_name")["label"]
    path = shared_dir / "data" / "predictions" / f"{model}.csv"
    frame = pd.read_csv(path).set_index("file_name").loc[labels.index]
    confidence, correct = frame["predicted_probability"].to_numpy(), (frame["predicted_class"] == labels).to_numpy()
    assert len(frame) == 50_000 and 100 * correct.mean() == pytest.approx(top1, abs=5e-4)
    assert cal.ece(confidence, correct) == pytest.approx(expected, abs=5e-6)
    found = cal.ece_debiased(confidence, correct)
    interval = found.interval(cal.null_ece(confidence, 200, rng()))
    assert 0 < interval.low < found.value < expected < interval.high
    assert cal.ece_smooth(confidence, correct)[0].mean() == pytest.approx(smooth, rel=0.06)


# The page ------------------------------------------------------------------------------------------------------------

LABELS = {"sure": "Sure", "fair": "Fair", "csv": "CSV", "near": "Near"}


def run(logits, targets, keep=True, multilabel=False):
    p = softmax(logits.astype(np.float32), axis=1)
    return SimpleNamespace(
        confidence=p.max(axis=1).astype(float), correct=p.argmax(axis=1) == targets, multilabel=multilabel,
        logits=logits if keep else None, columns=None, target_positions=targets,
    )  # fmt: skip


def outputs(n, sharpness, seed):
    """Logits of a model whose calibrated temperature is `sharpness`."""
    logits = rng(seed).normal(0, 1.5, (n, 6))
    targets = (logits + rng(seed + 100).gumbel(size=logits.shape)).argmax(axis=1)
    return (logits * sharpness).astype(np.float16), targets


@pytest.fixture(scope="module")
def runs():
    """`sure` is overconfident, `fair` calibrated, `csv` is `fair` known by its confidence only."""
    sure, fair = outputs(1500, 2.5, 0), outputs(1500, 1.0, 1)
    return {"sure": run(*sure), "fair": run(*fair), "csv": run(*fair, keep=False)}


def page(**kinds):
    """What the sentences ask of a page; model -> family and paradigm."""
    specs = [SimpleNamespace(name=name, family=f, paradigm=p) for name, (f, p) in kinds.items()]
    return SimpleNamespace(labels=LABELS, specs=specs, title=str.title, leader=lambda rows, judged: "A leads")


def test_errors_and_their_sentence(runs):
    table, sure = cal.errors(runs, 300, 0), runs["sure"]
    own = table.set_index(["model", "metric"])
    gap = sure.confidence.mean() - sure.correct.mean()
    answers = sure.confidence, sure.correct
    expected = [cal.ece(*answers), 100 * sure.correct.mean(), gap, cal.ece_debiased(*answers).value]
    found = own.loc["sure", "value"][["ece", "accuracy", "confidence_gap", "ece_debiased"]]
    assert found.tolist() == pytest.approx(expected)
    assert own.loc[("sure", "ece_debiased"), "ci_low"] > 0.05 and own.loc[("fair", "ece_debiased"), "ci_low"] == 0
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])).all()
    ends = own[["ci_low", "ci_high"]]
    assert ends.loc[("fair", "confidence_gap")].prod() < 0 < ends.loc[("sure", "confidence_gap"), "ci_low"]
    shared, few = own.loc["fair"].loc[own.loc["csv"].index], own.loc["csv"]
    pd.testing.assert_frame_equal(shared, few)  # the same outputs, the same rows: resamples are shared
    # scores of the whole distribution need it
    whole = {"ece_classwise", "brier", "nll"}
    assert set(own.loc["fair"].index) - set(few.index) == whole
    p, y = softmax(runs["fair"].logits.astype(np.float32), axis=1), runs["fair"].target_positions
    scores = [cal.ece_classwise(p, y).mean(), ((p - np.eye(6)[y]) ** 2).sum(axis=1).mean()]
    assert own.loc["fair", "value"][["ece_classwise", "brier"]].tolist() == pytest.approx(scores, abs=1e-6)
    many = run(*outputs(600, 1.0, 3), multilabel=True)
    assert not whole & set(cal.errors({"many": many}, 50, 0)["metric"])
    assert cal.described(runs, LABELS) == "1,500 images, 3 models; only the confidence is known of CSV"
    judged = pd.DataFrame({"dataset": "val", "metric": "confidence_gap", "model_a": list(runs), "model_b": ""})
    judged["verdict"], judged["p_holm"] = [verdicts.THESE, verdicts.OPEN, verdicts.OPEN], [0.01, 0.27, 1]
    none = pd.DataFrame(columns=["model_a", "model_b"])
    (said,) = cal.findings(page(), table.assign(dataset="val"), judged, none)
    assert f"On Val, Sure is overconfident by {100 * gap:.1f} [" in said and "; corrected p = 0.27)" in said
    turned = table.assign(dataset="val", value=-table["value"], ci_low=-table["ci_high"], ci_high=-table["ci_low"])
    assert f"Sure is underconfident by {100 * gap:.1f} [" in next(cal.findings(page(), turned, judged, none))


def test_bins_and_ordering(runs):
    configs = [cal.Bins(n, binning) for binning in ("width", "mass") for n in (5, 15)]
    near, sure = run(*outputs(1500, 1.05, 1)), runs["sure"]
    found = cal.in_all_bins({"near": near} | {m: runs[m] for m in ("sure", "fair")}, configs)
    lines = cal.over_bins(found)
    row = lines.query("model == 'sure' and binning == 'equal number of images' and n_bins == 5").iloc[0]
    assert row["plain"] == pytest.approx(cal.ece(sure.confidence, sure.correct, 5, binning="mass"))
    assert ((lines["ci_low"] <= lines["value"]) & (lines["value"] <= lines["ci_high"])).all()
    order, none = cal.ordering(found).assign(dataset="val"), pd.DataFrame(columns=["metric", "dataset"])
    judged = pd.DataFrame(columns=["model_a", "model_b", "dataset", "metric", "verdict"])
    of_one_family = page(near=("t", "clip"), sure=("t", "supervised"), fair=("t", "weak"))
    said = list(cal.findings(of_one_family, none, judged, order))
    always = "On Val, Fair has a lower debiased ECE than Sure beyond noise under each of 4 bin configurations."
    assert len(said) == 3 and always in said
    row = order.set_index(["model_a", "model_b"]).loc[("fair", "near")]
    (open_one,) = [text for text in said if "Fair has" in text and "than Near" in text]
    assert 50 < row[cal.SHARE] < 97.5 and f"in {row[cal.SHARE]:.1f} % of draws over 4" in open_one
    assert f"in {row[cal.LEAST]:.1f} % at" in open_one and " of them, one by one." in open_one
    mixed = page(near=("t", "clip"), sure=("t", "supervised"), fair=("c", "clip"))
    (said,) = cal.findings(mixed, none, judged, order)
    assert said.startswith("On Val, Near has a lower debiased ECE than Sure"), "they differ in their objective alone"


def test_differences(runs, monkeypatch):
    monkeypatch.setattr(cal, "P_VALUE_RESAMPLES", 2000)
    rows = cal.differences(runs, 0)
    table = rows.set_index(["metric", "model_a", "model_b"])
    assert len(table) == 3 + 2 * 3 and "accuracy" not in set(rows["metric"]), "whose pages are others"
    alone = {"sure": runs["sure"]}
    assert cal.ordering(cal.in_all_bins(alone, [PAPER])).empty
    assert cal.differences(alone, 0)["metric"].tolist() == ["confidence_gap"]
    main = rows[rows["family"] == "main"]
    asked = set(zip(main["metric"], main["model_b"] == "", strict=True))
    assert asked == {("ece_debiased", False), ("confidence_gap", True)}
    assert table.loc[("confidence_gap", "sure", ""), "p"] < 0.001
    apart = table.loc[("ece_debiased", "sure", "fair")]
    assert apart["ci_low"] > 0 and apart["p"] == apart["p_floor"] == 1 / 2001
    for metric in ("ece_debiased", "confidence_gap"):
        assert table.loc[(metric, "fair", "csv"), ["difference", "ci_low", "ci_high", "p"]].tolist() == [0, 0, 0, 1]
    assert table.loc[("confidence_gap", "sure", ""), "p_floor"] > 0
    judged = verdicts.judge(rows.assign(dataset="val"))
    errors = cal.errors(runs, 50, 0).assign(dataset="val")  # the same answers under two names: both are at that end
    said = cal.claim(page(), errors, judged)
    assert re.search(r"On Val, .* runs from .* points \(Fair or CSV\) to .* points \(Sure\)$", said)
    none = pd.DataFrame(columns=["dataset", "metric", "model_a", "model_b"])
    (said,) = cal.findings(page(), none, judged, none)
    assert said == "On Val, A leads in debiased ECE; 2 of 3 pairs of models are told apart."


@pytest.mark.parametrize("count", [1, 2])
def test_gaps_reach_from_accuracy_to_mean_confidence(count):
    kinds = [("vit_sup", "ViT", "transformer", "supervised"), ("convnext_clip", "ConvNeXt", "convnet", "clip")][:count]
    specs = [SimpleNamespace(name=n, label=label, family=f, paradigm=p) for n, label, f, p in kinds]
    # two bins: 10 images at 0.4 of which 2 are right, 30 at 0.7 of which 27 are
    p, right = np.repeat([0.4, 0.7], [10, 30]), np.r_[[1] * 2, [0] * 8, [1] * 27, [0] * 3]
    one = SimpleNamespace(confidence=p, correct=right)
    with plt.rc_context():
        theme.use_theme()
        fig, alt = cal.figure(cal.diagrams(dict.fromkeys([spec.name for spec in specs], one), 2), theme.styles(specs))
    assert len(fig.axes) == 2 * count
    histogram, diagram = fig.axes[:2]
    assert [bar.get_height() for bar in histogram.patches] == [25, 75]
    over, under = (bar for bar in diagram.patches if bar.get_hatch())
    assert (over.get_y(), over.get_height()) == pytest.approx((0.2, 0.2))
    assert (under.get_y(), under.get_height()) == pytest.approx((0.9, -0.2))
    assert over.get_hatch() != under.get_hatch()
    shown = cal.ece_debiased(p, right, 2)
    assert diagram.texts[0].get_text() == f"ECE {shown.value:.3f}\n(plain {shown.plain:.3f})"
    assert f"ViT debiased ECE {shown.value:.3f}" in alt
    assert float(re.search(r"accuracy (0\.\d+)", alt)[1]) == pytest.approx(0.725, abs=0.0051)  # a tie in rounding
