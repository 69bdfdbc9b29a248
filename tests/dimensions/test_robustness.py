"""Robustness metrics: constructed logits, hand-worked corruption errors, independent implementations, edges."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from beyond_accuracy.data import corruptions
from beyond_accuracy.data.classes import imagenet_subset
from beyond_accuracy.data.published import alexnet_errors
from beyond_accuracy.dimensions import robustness as rb
from beyond_accuracy.measure import stats, tidy

GRID = np.linspace(-7, 9, 4001)
LOSS = np.average(expit(GRID) - expit(GRID - 1), weights=np.exp(-((GRID - 1.2) ** 2) / 2))
"""What images of normal ease around 1.2 log-odds lose when each becomes harder by one."""


@pytest.mark.parametrize("name", ["a", "r"])
def test_subset_scoring_on_constructed_logits(name):
    """The best of all 1000 classes is outside the subset in every row; inside it, row i is right when i is even."""
    columns = imagenet_subset(name)
    others = np.setdiff1d(np.arange(1000), columns)
    rng = np.random.default_rng(0)
    target = rng.choice(columns, 60)
    logits = rng.normal(size=(60, 1000))
    for i, label in enumerate(target):
        wrong = columns[(np.searchsorted(columns, label) + 1) % 200]
        logits[i, label if i % 2 == 0 else wrong] = 10
        logits[i, rng.choice(others)] = 20
    right = rb.subset_correct(logits, target, columns[::-1])
    assert right.tolist() == [i % 2 == 0 for i in range(60)]
    assert not (logits.argmax(axis=1) == target).any()
    # the other common way: mask the other columns
    masked = np.full_like(logits, -np.inf)
    masked[:, columns] = logits[:, columns]
    assert np.array_equal(masked.argmax(axis=1) == target, right)


def test_subset_scoring_refuses_other_labels_and_breaks_ties_low():
    with pytest.raises(ValueError, match="label 3"):
        rb.subset_correct(np.zeros((1, 5)), [3], [0, 1])
    assert rb.subset_correct(np.zeros((2, 5)), [1, 4], [4, 1]).tolist() == [True, False]


def test_multilabel():
    right = rb.multilabel_correct([1, 5, 2], [np.array([1, 2]), np.array([4]), [2]])
    assert right.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="image 1 has no label"):
        rb.multilabel_correct([1, 2], [[1], []])
    with pytest.raises(ValueError, match="2 predictions for 1"):
        rb.multilabel_correct([1, 2], [[1]])


def test_accuracy_table_at_the_ends():
    table = rb.accuracy_table({"all": np.ones(20, bool), "none": np.zeros(20, bool)}).set_index("model")
    assert table.loc["all", "value"] == 100 and table.loc["all", "ci_high"] == 100
    assert table.loc["none", "ci_low"] == 0 and table.loc["none", "ci_high"] == pytest.approx(16.11, abs=0.01)
    with pytest.raises(ValueError, match="n is 0"):
        rb.accuracy_table({"m": []})


def test_differences_are_paired():
    base = np.arange(1000) % 2 == 0
    better = base.copy()
    better[1:40:2] = True  # 20 images more, none less
    row = rb.accuracy_differences({"a": better, "b": base}).iloc[0]
    assert row.difference == pytest.approx(2.0) and row.ci_low > 1 and row.p < 1e-4
    same = rb.accuracy_differences({"a": base, "b": base}).iloc[0]
    assert same.difference == 0 and same.p == 1 and same.ci_low < 0 < same.ci_high


def test_interval_and_test_of_a_pair_agree():
    """One image more is no difference, although no resample has one image less."""
    base = np.arange(480) % 4 > 0
    for more in range(9):
        better = base.copy()
        better[np.flatnonzero(~base)[:more]] = True
        row = rb.accuracy_differences({"a": better, "b": base}).iloc[0]
        assert (row.ci_low > 0) == (row.p < 0.05) == (more > 3)


def alexnet_cells():
    """Errors of AlexNet itself, spread unevenly over severities around the published mean."""
    rows = [
        ("alexnet", name, severity, 100 * error * (0.8 + 0.2 * (severity - 1) / 2), 50_000)
        for name, error in alexnet_errors().items()
        for severity in range(1, 6)
    ]
    return pd.DataFrame(rows, columns=["model", "corruption", "severity", "error", "n"])


def test_mce_of_alexnet_is_100():
    assert rb.mean_corruption_error(alexnet_cells(), alexnet_errors())["alexnet"] == pytest.approx(100)
    half = alexnet_cells().assign(error=lambda frame: frame.error / 2)
    assert rb.mean_corruption_error(half, alexnet_errors())["alexnet"] == pytest.approx(50)


def test_mce_leaves_the_extra_corruptions_out_and_needs_all_others():
    extra = pd.DataFrame([("alexnet", "saturate", k, 99.0, 1) for k in range(1, 6)], columns=alexnet_cells().columns)
    with_extra = pd.concat([alexnet_cells(), extra])
    assert rb.mean_corruption_error(with_extra, alexnet_errors())["alexnet"] == pytest.approx(100)
    with pytest.raises(ValueError, match="75 cells"):
        rb.mean_corruption_error(alexnet_cells().iloc[1:], alexnet_errors())


def test_alexnet_names_are_the_fifteen_corruptions():
    assert tuple(alexnet_errors()) == corruptions.NAMES


def random_cells(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return {
        (name, k): {model: rng.random(n) < level - 0.1 * k for model, level in (("good", 0.9), ("bad", 0.7))}
        for name in corruptions.NAMES
        for k in range(1, 6)
    }


def test_corruption_table_agrees_with_the_cells():
    cells, table = random_cells(), rb.corruption_table(random_cells(), alexnet_errors(), 500, 0)
    value = table.set_index(["metric", "model"])
    errors = rb.corruption_errors(cells)
    for model in ("good", "bad"):
        mine = errors[errors.model == model]
        assert value.loc[("accuracy", model), "value"] == pytest.approx(100 - mine.error.mean())
        assert value.loc[("mce", model), "value"] == pytest.approx(
            rb.mean_corruption_error(errors, alexnet_errors())[model]
        )
        snow = 100 - mine[mine.corruption == "snow"].error.mean()
        assert value.loc[("accuracy:corruption=snow", model), "value"] == pytest.approx(snow)
        worst = 100 - mine[mine.severity == 5].error.mean()
        assert value.loc[("accuracy:severity=5", model), "value"] == pytest.approx(worst)
    assert (table.ci_low <= table.value).all() and (table.value <= table.ci_high).all() and (table.n == 200).all()


def test_corruption_intervals_resample_source_images():
    """An image that is right in all cells or in none: 75 cells tell no more than one."""
    right = np.arange(100) % 2 == 0
    cells = {(name, k): {"m": right} for name in corruptions.NAMES for k in range(1, 6)}
    row = rb.corruption_table(cells, {}, 2000, 0).set_index("metric").loc["accuracy"]
    assert row.ci_high - row.ci_low == pytest.approx(2 * 1.96 * 5, rel=0.1)
    perfect = rb.corruption_table({("fog", 1): {"m": np.ones(100, bool)}}, {}, 10, 0)
    assert (perfect.ci_low == 100 * stats.wilson(100, 100).low).all()  # and not 100: no resample of it has an error
    assert "mce" not in set(rb.corruption_table(cells, {"other": 0.5}, 10, 0).metric)


def test_cells_of_the_released_set_line_up():
    rows = [(name, k, f"img{i}") for name in ("fog", "snow") for k in (1, 2) for i in (2, 0, 1)]
    metadata = pd.DataFrame(rows, columns=["corruption", "severity", "cluster"]).sample(frac=1, random_state=0)
    truth = {"img0": True, "img1": False, "img2": True}
    cells = rb.cells_by_metadata({"m": metadata.cluster.map(truth).to_numpy()}, metadata)
    assert set(cells) == {("fog", 1), ("fog", 2), ("snow", 1), ("snow", 2)}
    assert all(cell["m"].tolist() == [True, False, True] for cell in cells.values())
    broken = metadata.iloc[1:]
    with pytest.raises(ValueError, match="other source images"):
        rb.cells_by_metadata({"m": np.ones(len(broken), bool)}, broken)


def test_example_of_a_class():
    assert rb.pick_example(np.array([3, 1, 1]), 1) == 1
    assert rb.pick_example([np.array([3, 4]), np.array([1])], 4) == 0
    assert rb.pick_example([3], 7) is None


def test_average_is_the_plain_mean_of_sets():
    rng = np.random.default_rng(0)
    sets = {name: {m: rng.random(n) < p for m, p in (("a", 0.8), ("b", 0.6))} for name, n in (("v2", 400), ("r", 50))}
    table, gaps = rb.average_table(sets, 500, 0)
    expected = {m: 100 * np.mean([sets[s][m].mean() for s in sets]) for m in "ab"}
    assert table.set_index("model").value.to_dict() == pytest.approx(expected)
    assert gaps.iloc[0].difference == pytest.approx(expected["a"] - expected["b"])
    assert gaps.iloc[0].ci_low < gaps.iloc[0].difference < gaps.iloc[0].ci_high
    assert gaps.iloc[0].p_floor == stats.p_value_floor(20_000) and gaps.iloc[0].n == 450
    same, gap = rb.average_table({name: {"a": by["a"] / 3, "b": by["a"] / 3} for name, by in sets.items()}, 10, 0)
    assert gap.iloc[0][["difference", "ci_low", "ci_high", "p"]].tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="same models"):
        rb.average_table({"x": {"a": [True]}, "y": {"b": [True]}}, 10, 0)
    with pytest.raises(ValueError, match="at least one set"):
        rb.average_table({}, 10, 0)


def test_sets_that_show_the_same_images_are_resampled_together():
    right = {"m": np.random.default_rng(0).random(400) < 0.7}
    names = {"real": np.arange(400).astype(str), "c": np.arange(400)[::-1].astype(str)}
    turned = {"m": right["m"][::-1]}
    width = {}
    for known in (None, names):
        row = rb.average_table({"real": right, "c": turned}, 4000, 0, known)[0].iloc[0]
        width[known is None] = row.ci_high - row.ci_low
    # the second set is the first once more: it tells nothing new
    assert width[False] == pytest.approx(2 * 196 * np.sqrt(0.21 / 400), rel=0.1)
    assert width[False] / width[True] == pytest.approx(np.sqrt(2), rel=0.1)


def test_resamples_without_an_image_of_a_small_set_are_left_out():
    names = {"real": np.arange(6), "c": np.arange(2)}
    sets = {"real": {"m": np.arange(6) < 4}, "c": {"m": np.array([True, False])}}
    row = rb.average_table(sets, 300, 0, names)[0].iloc[0]
    assert row.value == pytest.approx(100 * (4 / 6 + 1 / 2) / 2) and row.ci_low < row.value < row.ci_high


def test_own_images():
    clean = {"m": np.array([True, False, True])}
    own = rb.own_images(clean, ["a", "b", "c"], np.array(["c", "b", "c"], object))
    assert own["m"].tolist() == [True, False, True]
    assert rb.own_images(clean, ["a", "b", "c"], ["a", "other"]) is None


def test_loss_is_measured_against_a_sets_own_images():
    """A set made from the easier half of the clean images: of their 100 % it loses 20 points, of all 75 % none."""
    ids = np.arange(400).astype(str)
    clean = {"m": np.arange(400) < 300}
    corrupted, sketch = {"m": np.arange(200) % 5 > 0}, {"m": np.arange(100) < 55}
    own = rb.own_images(clean, ids, ids[:200])
    arguments = {"sources": {"c": ids[:200]}, "clean_sources": {"c": ids[:200], "s": ids}}
    sets = {"c": corrupted, "s": sketch}
    row = rb.average_table(sets, 2000, 0, clean={"c": own, "s": clean}, **arguments)[0].iloc[0]
    assert (row.metric, row.value, row.n) == ("accuracy_loss", pytest.approx((20 + 20) / 2), 300)
    # by hand: an image of the easier half counts in both parts, the sketches are others
    influence = np.r_[(1 - corrupted["m"] - 0.2) / 200, np.zeros(200)] + (clean["m"] - 0.75) / 400
    spread = 50 * np.sqrt((influence**2).sum() + 0.55 * 0.45 / 100)
    assert row.ci_high - row.ci_low == pytest.approx(2 * 1.96 * spread, rel=0.06)


def test_intervals_of_a_loss_cover_it():
    hits = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        ease, ids = rng.normal(1.2, 1, 300), np.arange(300).astype(str)
        clean, shifted = {"m": rng.random(300) < expit(ease)}, {"m": rng.random(150) < expit(ease[:150] - 1)}
        own = rb.own_images(clean, ids, ids[:150])
        known = {"sources": {"c": ids[:150]}, "clean_sources": {"c": ids[:150]}}
        row = rb.average_table({"c": shifted}, 250, seed, clean={"c": own}, **known)[0].iloc[0]
        hits += row.ci_low <= 100 * LOSS <= row.ci_high
    assert 0.9 < hits / 150


def test_the_papers_average_is_reproduced_from_its_own_numbers():
    from beyond_accuracy.data.published import paper_values

    names = [
        "imagenet_v2",
        "imagenet_a",
        "imagenet_r",
        "imagenet_c",
        "imagenet_sketch",
        "imagenet_real",
        "imagenet_hard",
    ]
    table = pd.concat([paper_values("robustness", name, "accuracy") for name in names])
    average = paper_values("robustness", "average", "accuracy").set_index("model").value
    assert len(names) == len(rb.SHIFTS)
    assert table.groupby("model").value.mean().to_dict() == pytest.approx(average.to_dict(), abs=0.1)


def test_effective_robustness_is_zero_on_the_line():
    clean = np.linspace(0.5, 0.9, 30)
    board = pd.DataFrame({"clean": 100 * clean, "shift": 100 * expit(-0.7 + 0.9 * logit(clean))})
    n = 100_000
    on = 0.8
    line = expit(-0.7 + 0.9 * logit(on))
    outcomes = {"on": np.arange(n) < on * n, "above": np.arange(n) < on * n, "far": np.arange(n) < 0.3 * n}
    shifted = {"on": np.arange(n) < line * n, "above": np.arange(n) < (line + 0.05) * n, "far": np.arange(n) < 0.2 * n}
    everyone = pd.Series(True, index=board.index)
    table = rb.effective_table(outcomes, shifted, board, "clean", "shift", everyone, 200, 0).set_index("model")
    assert table.loc["on", "effective"] == pytest.approx(0, abs=0.01)
    assert table.loc["above", "effective"] == pytest.approx(5, abs=0.01)
    assert table.loc["on", "effective_low"] < 0 < table.loc["on", "effective_high"]
    assert table.extrapolated.to_dict() == {"on": False, "above": False, "far": True}


def test_differences_are_shown_with_holm_over_the_table():
    frame = pd.DataFrame([("a", "b", 1.0, 0.5, 1.5, p, 9, "percent") for p in (0.01, 0.04)], columns=tidy.DIFFERENCE)
    shown = tidy.shown_differences(frame)
    assert shown.p_holm.tolist() == [0.02, 0.04]
    assert list(shown) == ["model_a", "model_b", "difference", "difference_low", "difference_high", "n", "p_holm"]
    assert tidy.shown_differences(frame.iloc[:0]).empty
