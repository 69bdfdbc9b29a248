"""What probes say: means, intervals, differences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.dimensions.transfer import scores
from beyond_accuracy.dimensions.transfer.tasks import Task
from beyond_accuracy.measure.stats import wilson


def made(correct, groups=None, name="t", group="natural", train=100, pool=10_000, setting="vtab_1k"):
    """Runs of tasks that ask the same dataset: (seeds, n) correctness by model."""
    groups = np.arange(next(iter(correct.values())).shape[1]) if groups is None else groups
    return scores.Runs(Task(name, group, "set"), setting, correct, groups, train, pool, chance=50)


def test_scores_by_hand():
    """Two seeds, four images: the mean over seeds, variance of images and splits, no certainty from a perfect score."""
    correct = {"a": np.array([[1, 1, 1, 0], [0, 1, 0, 0]], bool), "b": np.ones((2, 4), bool)}
    table = scores.score([made({m: c}, train=9, pool=30) for m, c in correct.items()]).set_index("model")
    assert table.value.to_dict() == pytest.approx({"a": 50.0, "b": 100.0}) and (table.n == 4).all()
    assert (table.ci_low["b"], table.ci_high["b"]) == pytest.approx([100 * end for end in wilson(4, 4)])
    images = 4 / 3 * (0.5**2 + 0.5**2) / 4**2  # means over seeds .5, 1, .5, 0
    splits = 0.125 * (1 / 2 + 9 / 21)
    found = scores.spread([made({"a": correct["a"]}, train=9, pool=30)], {"a": 1})
    assert found.variance == pytest.approx(images + splits)
    assert found.freedom == pytest.approx(found.variance**2 / (images**2 / 3 + splits**2))
    worth = 0.25 / found.variance * (norm.isf(0.025) / t.isf(0.025, found.freedom)) ** 2
    expected = proportion_confint(0.5 * worth, worth, method="wilson")
    assert (table.ci_low["a"], table.ci_high["a"]) == pytest.approx([100 * end for end in expected])


def test_split_noise_is_pooled_over_models_and_free_of_single_images():
    rng = np.random.default_rng(0)
    correct = {m: rng.random((3, 60)) < 0.6 for m in "abcd"}
    between = np.mean([c.mean(axis=1).var(ddof=1) for c in correct.values()])
    left = [c - c.mean(axis=1, keepdims=True) - c.mean(axis=0) + c.mean() for c in correct.values()]
    single = np.mean([np.sum(r**2) / (2 * 59) / 60 for r in left])  # what neither image nor seed explains
    means = correct["a"].mean(axis=0)
    splits = max(0, between - (1 - np.sqrt(2 / 8)) * single) * (1 / 3 + 1 / 9)
    found = scores.spread([made(correct, train=20, pool=200)], {"a": 1})
    assert found.variance == pytest.approx(means.var(ddof=1) / 60 + splits) and splits > 0


def test_a_single_seed_has_the_interval_of_its_images():
    correct = {"a": np.arange(400)[None, :] < 300}
    row = scores.score([made(correct)]).iloc[0]
    assert (row.ci_low, row.ci_high) == pytest.approx([100 * end for end in wilson(300, 400)], abs=0.05)


def test_images_of_one_group_are_drawn_together_and_count_once():
    rng = np.random.default_rng(0)
    correct = {"a": np.repeat(rng.random((1, 20)) < 0.6, 10, axis=1)}
    groups = np.repeat(np.arange(20), 10)
    wide, narrow = (scores.score([made(correct, g)]).iloc[0] for g in (groups, np.arange(200)))
    assert wide.ci_high - wide.ci_low > 2 * (narrow.ci_high - narrow.ci_low)
    assert (wide.n, narrow.n) == (20, 200)
    with pytest.raises(ValueError, match="a single unit"):
        scores.score([made(correct, np.zeros(200))])


def test_variance_is_that_of_a_bootstrap_that_draws_shared_images_once():
    """Two tasks over the same scenes, of unequal sizes, one over other images; one model and a paired difference."""
    rng = np.random.default_rng(1)
    hard = rng.normal(size=30)
    sizes = rng.integers(3, 9, 30)
    groups = np.repeat(np.arange(30), sizes)

    def answers(ease):
        return {m: rng.normal(size=(1, len(ease))) < ease + shift for m, shift in (("a", 0.3), ("b", 0.0))}

    runs = [
        made(answers(hard[groups]), groups),
        made(answers(hard[groups[::2]]), groups[::2], "u"),
        replace(made(answers(rng.normal(size=50))), task=Task("v", "natural", "other")),
    ]
    for signs in ({"a": 1}, {"a": 1, "b": -1}):
        values = [sum(sign * run.correct[m][0] for m, sign in signs.items()) for run in runs]
        draws = []
        for _ in range(4_000):
            scenes, images = (np.bincount(rng.integers(0, n, n), minlength=n) for n in (30, 50))
            weights = [scenes[groups], scenes[groups[::2]], images]
            draws.append(np.mean([np.average(v, weights=w) for v, w in zip(values, weights, strict=True)]))
        found = scores.spread(runs, signs)
        assert found.value == pytest.approx(np.mean([v.mean() for v in values]))
        assert np.sqrt(found.variance) == pytest.approx(np.std(draws), rel=0.05)
        assert found.units == 80


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_other_images_splits_and_pools(seeds):
    """Two tasks over the same 250 images; a split draws 90 of a pool of 200, whose quality moves all answers."""
    rng = np.random.default_rng(seeds)
    covered, alone, rejected = [], [], []
    for _ in range(300):
        drawn = [rng.permutation(200)[:90] for _ in range(seeds)]
        runs = []
        for name in "tu":
            ease, correct = 0.8 * rng.normal(size=250), {}
            for model in "abc":
                quality = 0.8 * rng.normal(size=200)
                split = np.array([quality[rows].mean() for rows in drawn])
                correct[model] = split[:, None] + ease + 0.6 * rng.normal(size=(seeds, 250)) > 0
            runs.append(made(correct, name=name, train=90, pool=200))
        low, high = scores.share_of(scores.spread(runs, {"a": 1}))
        covered.append(low <= 0.5 <= high)
        one = [replace(run, correct={m: c.mean(axis=0, keepdims=True) for m, c in run.correct.items()}) for run in runs]
        low, high = scores.share_of(scores.spread(one, {"a": 1}))
        alone.append(low <= 0.5 <= high)
        rejected.append(scores.difference_of(scores.spread(runs, {"a": 1, "b": -1}))[2] < 0.05)
    assert np.mean(covered) >= 0.93 and np.mean(rejected) <= 0.08
    assert np.mean(alone) < 0.88  # test images alone are not enough


def test_probes_that_guess_have_intervals_of_sensible_width():
    """All that differs between seeds is which images are guessed: no spread is left for the splits."""
    rng = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(200):
        run = made({m: rng.random((3, 250)) < 0.25 for m in "abcd"}, train=90, pool=200)
        low, high = scores.share_of(scores.spread([run], {"a": 1}))
        gap = scores.difference_of(scores.spread([run], {"a": 1, "b": -1}))
        covered += [low <= 0.25 <= high, gap[0] <= 0 <= gap[1]]
        widths += [high - low, gap[1] - gap[0]]
    assert np.mean(covered) >= 0.92 and max(widths) < 0.4


def test_equal_answers_are_no_difference_and_no_certainty():
    correct = np.random.default_rng(0).random((3, 50)) < 0.7
    row = scores.differences([made({"a": correct, "b": correct.copy()})]).iloc[0]
    assert row.difference == 0 and row.p == 1 and row.ci_low < -1 and row.ci_high > 1


def test_averages_are_plain_means_and_differences_are_theirs():
    rng = np.random.default_rng(0)
    ease = {"good": 0.8, "poor": 0.4, "fair": 0.6}
    names = {"t": "natural", "u": "natural", "v": "structured"}
    runs = [made({m: rng.random((2, 300)) < p for m, p in ease.items()}, name=n, group=g) for n, g in names.items()]
    table, means = scores.score(runs), scores.averages(runs)
    overall = means[means.dataset == "average"].set_index("model")
    assert overall.value.to_dict() == pytest.approx(table.groupby("model").value.mean().to_dict())
    assert (overall.n == 300).all()  # all three ask the same images
    assert set(means.dataset) == {"average", "average_natural"}  # a group of one task is that task
    assert table.protocol.eq("vtab_1k").all() and means.protocol.eq("").all() and table.chance.eq(50).all()
    sun = made({m: np.ones((2, 300), bool) for m in ease}, name="sun397", group="structured")
    both = scores.averages([*runs, sun]).groupby("dataset").value.mean()
    assert both["average_without_sun397"] == pytest.approx(overall.value.mean())
    assert both["average"] == pytest.approx((3 * overall.value.mean() + 100) / 4)
    gaps = scores.differences(runs)
    assert gaps.family.value_counts().to_dict() == {"detail": 9, "main": 6}
    row = gaps.set_index(["dataset", "model_a", "model_b"]).loc[("average", "good", "poor")]
    assert row.difference == pytest.approx(overall.value["good"] - overall.value["poor"])
    assert 0 < row.ci_low < row.difference < row.ci_high and row.p < 0.001


def test_few_shot_probes_are_compared_in_a_family_of_their_own():
    rng, ease = np.random.default_rng(0), {"good": 0.8, "poor": 0.4}
    few = [made({m: rng.random((2, 300)) < p for m, p in ease.items()}, name=n, setting="shots=10") for n in "tu"]
    means, gaps = scores.few_average(few).set_index("model"), scores.differences(few[:1], few)
    assert (set(means.metric), set(means.dataset)) == ({"accuracy:shots=10"}, {"average"})
    (row,) = gaps[gaps.family == "choice"].itertuples()
    assert (row.dataset, row.metric) == ("average", "accuracy:shots=10") and row.ci_low > 0
    assert row.difference == pytest.approx(means.value["good"] - means.value["poor"])
    assert gaps[gaps.family != "choice"].metric.eq("accuracy").all() and len(scores.few_average([])) == 0


def test_few_shot_curves_average_tasks_that_have_every_point():
    rng, kinds = np.random.default_rng(0), {"t": "natural", "u": "natural", "v": "structured"}
    tasks = {1: "tuv", 5: "tu", 50: ""}
    few = {k: [made({"a": rng.random((2, 60)) < 0.5}, name=n, group=kinds[n]) for n in t] for k, t in tasks.items()}
    table = scores.few_shot(few)
    assert table.panel.tolist() == ["all (2 tasks)", "natural (2 tasks)"] * 2 and table.shots.tolist() == [1, 1, 5, 5]
    assert table.value.iloc[2] == pytest.approx(50 * sum(run.correct["a"].mean() for run in few[5]))
    assert len(scores.few_shot({1: [], 5: []})) == len(scores.score([])) == 0
    assert scores.few_shot({1: few[1][:1]}).panel.tolist() == ["all (1 task)"]


def test_two_accuracies_side_by_side():
    probed = scores.score([made({"clip": np.array([[1, 1, 1, 0]], bool), "sup": np.ones((1, 4), bool)})])
    asked = scores.score([made({"clip": np.array([[1, 0, 0, 0]], bool)})], "accuracy:zero_shot")
    both = scores.beside(probed, asked, "asked")
    assert both[["model", "value", "asked"]].to_numpy().tolist() == [["clip", 75.0, 25.0]]


def test_protocols_name_the_tasks():
    correct = {"a": np.ones((1, 2), bool)}
    runs = [made(correct, name=n, setting=s) for n, s in (("t", "vtab_1k"), ("u", "vtab_full"), ("v", "vtab_1k"))]
    said = scores.protocols(runs)
    assert said.startswith("vtab_1k (t, v): 1,000 images") and "\nvtab_full (u): all" in said
    assert scores.counts(runs) == "2 under vtab_1k, 1 under vtab_full"
