"""Robustness: hand-worked corruption errors and losses, independent implementations, what is missing, figures."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.special import expit, logit

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import corruptions
from beyond_accuracy.data.published import alexnet_errors, paper_values
from beyond_accuracy.dimensions import robustness as rb
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import stats
from beyond_accuracy.show import figures, theme

GRID = np.linspace(-7, 9, 4001)
LOSS = np.average(expit(GRID) - expit(GRID - 1), weights=np.exp(-((GRID - 1.2) ** 2) / 2))
"""What images of normal ease around 1.2 log-odds lose when each becomes harder by one."""


def test_sets_that_alone_decide_the_mean_are_named():
    page = SimpleNamespace(labels={"a": "A", "b": "B"}, title=str.upper)
    sets = SimpleNamespace(shifts=["x", "y", "z"], dataset={name: name for name in "xyz"})
    rows = [(name, model, value) for name, pair in {"x": (90, 40), "y": (50, 60), "z": (50, 60)}.items()
            for model, value in zip("ab", pair, strict=True)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["dataset", "model", "value"]).assign(metric="accuracy")
    assert rb.decided_by(page, sets, frame) == "; without X, B has the highest mean"
    assert rb.decided_by(page, sets, frame[frame["dataset"] != "x"]) == ""


# Corruptions -------------------------------------------------------------------------------------------------------


def alexnet_cells(share=1.0, n=1000):
    """Outcomes with AlexNet's errors, or a share of them, spread unevenly over severities around the published mean."""
    order = np.random.default_rng(0).permutation(n)
    return {
        (name, k): {"alexnet": order >= round(n * share * error * (0.96 + 0.02 * (k - 1)))}
        for name, error in alexnet_errors().items()
        for k in range(1, 6)
    }


def test_mce_of_alexnet_is_100_over_its_fifteen_corruptions():
    def mce(cells):
        table = rb.corruption_table(cells, alexnet_errors(), 10, 0)
        return table[table.metric == "mce"].set_index("model")["value"].to_dict()

    assert tuple(alexnet_errors()) == corruptions.NAMES
    assert mce(alexnet_cells()) == pytest.approx({"alexnet": 100}, abs=0.02)
    assert mce(alexnet_cells(0.5)) == pytest.approx({"alexnet": 50}, abs=0.02)
    extra = {("saturate", k): {"alexnet": np.zeros(1000, bool)} for k in range(1, 6)}
    assert mce(alexnet_cells() | extra) == pytest.approx({"alexnet": 100}, abs=0.02)
    assert mce({cell: right for cell, right in alexnet_cells().items() if cell[0] != "fog"}) == {}


def test_corruption_table_agrees_with_the_cells():
    rng, ease = np.random.default_rng(0), {"good": 0.9, "bad": 0.7}
    keys = [(name, k) for name in corruptions.NAMES for k in range(1, 6)]
    cells = {(name, k): {m: rng.random(200) < level - 0.1 * k for m, level in ease.items()} for name, k in keys}
    table, each = rb.corruption_table(cells, alexnet_errors(), 500, 0), rb.by_cell(cells)
    value = table.set_index(["metric", "model"])["value"]
    for model in ease:
        mine = each[each.model == model].set_index(["corruption", "severity"]).value
        errors = (100 - mine.groupby("corruption").mean()) / pd.Series(alexnet_errors())
        expected = {"accuracy": mine.mean(), "mce": errors.mean(), "accuracy:corruption=snow": mine["snow"].mean()}
        expected["accuracy:severity=5"] = mine.xs(5, level="severity").mean()
        assert {name: value[name, model] for name in expected} == pytest.approx(expected)
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
    with pytest.raises(ValueError, match="other source images"):
        rb.cells_by_metadata({"m": np.ones(11, bool)}, metadata.iloc[1:])


# Means over sets ---------------------------------------------------------------------------------------------------


def test_average_is_the_plain_mean_of_sets():
    rng = np.random.default_rng(0)
    sets = {name: {m: rng.random(n) < p for m, p in (("a", 0.8), ("b", 0.6))} for name, n in (("v2", 400), ("r", 50))}
    table, gaps = rb.average_table(sets, 500, 0)
    expected = {m: 100 * np.mean([sets[s][m].mean() for s in sets]) for m in "ab"}
    assert table.set_index("model").value.to_dict() == pytest.approx(expected)
    gap = gaps.iloc[0]
    assert gap.difference == pytest.approx(expected["a"] - expected["b"]) and gap.ci_low < gap.difference < gap.ci_high
    assert gap.p_floor == stats.p_value_floor(20_000) and gap.n == 450
    same, gap = rb.average_table({name: {"a": by["a"] / 3, "b": by["a"] / 3} for name, by in sets.items()}, 10, 0)
    assert gap.iloc[0][["difference", "ci_low", "ci_high", "p"]].tolist() == [0, 0, 0, 1]


def test_sets_that_show_the_same_images_are_resampled_together():
    right, names = np.random.default_rng(0).random(400) < 0.7, np.arange(400).astype(str)
    sets = {"real": {"m": right}, "c": {"m": right[::-1]}}  # the second is the first once more: it tells nothing new
    images = {"real": names, "c": names[::-1]}, None
    known, unknown = (rb.average_table(sets, 4000, 0, ids)[0].eval("ci_high - ci_low")[0] for ids in images)
    assert known == pytest.approx(2 * 196 * np.sqrt(0.21 / 400), rel=0.1)
    assert known / unknown == pytest.approx(np.sqrt(2), rel=0.1)


def test_resamples_without_an_image_of_a_small_set_are_left_out():
    names = {"real": np.arange(6), "c": np.arange(2)}
    sets = {"real": {"m": np.arange(6) < 4}, "c": {"m": np.array([True, False])}}
    row = rb.average_table(sets, 300, 0, names)[0].iloc[0]
    assert row.value == pytest.approx(100 * (4 / 6 + 1 / 2) / 2) and row.ci_low < row.value < row.ci_high


def test_loss_is_measured_against_a_sets_own_images():
    """A set made from the easier half of the clean images: of their 100 % it loses 20 points, of all 75 % none."""
    ids, clean = np.arange(400).astype(str), {"m": np.arange(400) < 300}
    corrupted, sketch = {"m": np.arange(200) % 5 > 0}, {"m": np.arange(100) < 55}
    own = rb.Baseline("images", rb.own_images(clean, ids, ids[:200]), ids[:200])
    beside = {"c": own, "s": rb.Baseline("", clean, ids)}
    row = rb.average_table({"c": corrupted, "s": sketch}, 2000, 0, {"c": ids[:200]}, beside)[0].iloc[0]
    assert (row.metric, row.value, row.n) == ("accuracy_loss", pytest.approx((20 + 20) / 2), 300)
    # by hand: an image of the easier half counts in both parts, the sketches are others
    influence = np.r_[(1 - corrupted["m"] - 0.2) / 200, np.zeros(200)] + (clean["m"] - 0.75) / 400
    spread = 50 * np.sqrt((influence**2).sum() + 0.55 * 0.45 / 100)
    assert row.ci_high - row.ci_low == pytest.approx(2 * 1.96 * spread, rel=0.06)
    own = rb.own_images({"m": np.array([True, False, True])}, ["a", "b", "c"], np.array(["c", "b", "c"], object))
    assert own["m"].tolist() == [True, False, True] and rb.own_images(clean, ids, ["0", "other"]) is None


def test_intervals_of_a_loss_cover_it():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ease, ids = rng.normal(1.2, 1, 300), np.arange(300).astype(str)
        clean, shifted = {"m": rng.random(300) < expit(ease)}, {"m": rng.random(150) < expit(ease[:150] - 1)}
        own = {"c": rb.Baseline("images", rb.own_images(clean, ids, ids[:150]), ids[:150])}
        row = rb.average_table({"c": shifted}, 250, seed, {"c": ids[:150]}, own)[0].iloc[0]
        hits += row.ci_low <= 100 * LOSS <= row.ci_high
    assert 0.9 < hits / 100


def test_the_papers_average_is_reproduced_from_its_own_numbers():
    names = [f"imagenet_{name}" for name in rb.SHIFTS]
    table = pd.concat([paper_values("robustness", name, "accuracy") for name in names])
    average = paper_values("robustness", "average", "accuracy").set_index("model").value
    assert len(names) == 7 and table.groupby("model").value.mean().to_dict() == pytest.approx(dict(average), abs=0.1)


def test_effective_robustness_is_zero_on_the_line():
    clean, n, on = np.linspace(0.5, 0.9, 30), 100_000, 0.8
    line = expit(-0.7 + 0.9 * logit([*clean, on]))
    board = pd.DataFrame({"clean": [*100 * clean, np.nan, 1], "shift": [*100 * line[:-1], 1, np.nan]})
    outcomes = {"on": np.arange(n) < on * n, "above": np.arange(n) < on * n, "far": np.arange(n) < 0.3 * n}
    shares = {"on": line[-1], "above": line[-1] + 0.05, "far": 0.2}
    shifted = {model: np.arange(n) < share * n for model, share in shares.items()}
    table = rb.effective_table(outcomes, shifted, board, 200, 0).set_index("model")
    assert table.effective[["on", "above"]].tolist() == pytest.approx([0, 5], abs=0.01)
    assert table.loc["on", "effective_low"] < 0 < table.loc["on", "effective_high"]
    assert table.extrapolated.to_dict() == {"on": False, "above": False, "far": True}


# A page of its own, without models or files ------------------------------------------------------------------------


class Page:
    """What the module asks of a page: roles, predictions, names."""

    has_networks, models = True, ["a", "b"]

    def __init__(self, runs, classes=3, names="set_{}"):
        self.skipped, self.runs, self.classes = [], runs, [f"class {k}" for k in range(classes)]
        self.names = {role: names.format(role).replace("imagenet_clean", "imagenet_1k") for role in runs}
        self.has_role, self.role = runs.__contains__, self.names.__getitem__
        self.by_name = {name: runs[role] for role, name in self.names.items()}
        self.predictions = self.by_name.__getitem__

    def available(self, names):
        return [name for name in names if self.by_name[name] is not None]

    def predictions_many(self, name, texts):
        return dict.fromkeys(texts, self.by_name[name])

    def class_names(self, name):
        return self.classes

    def metadata(self, name, *needed):
        raise InputError(f"{name} has no {needed[0]}")

    def title(self, name):
        return name.replace("_", " ")


def said(ids, pred, target=0, columns=None, logits=True):
    """Predictions of both models, `b` always class 0."""
    frame = pd.DataFrame({"id": list(ids), "target": target, "confidence": 0.9, "target_probability": 0.5})
    answers = {"a": pred, "b": [0] * len(frame)}
    kept = {m: np.eye(3, dtype=np.float16)[answer] if logits else None for m, answer in answers.items()}
    return {m: Predictions(m, "d", "none", frame.assign(pred=answers[m]), kept[m], columns, {}) for m in "ab"}


def test_sets_that_are_not_here_are_named_and_left_out():
    clean = said("xyz", [0, 1, 0])
    page = Page({"clean": clean, "r": None, "hard": said("h", [0])})
    sets = rb.gather(page)
    assert list(sets.correct) == ["clean", "hard"] and sets.shifts == ["hard"]
    assert sets.absent == ["v2", "a", "r", "c", "sketch", "real"] and not sets.cells
    rows, gaps = rb.means(sets, rb.baselines(sets), 10, 0)
    assert set(rows.metric) == {"accuracy_loss"} and set(gaps.family) == {"main"}  # one set is no average
    alone = rb.gather(Page({"clean": clean}))
    assert [len(frame) for frame in rb.means(alone, rb.baselines(alone), 10, 0)] == [0, 0]
    shown = rb.examples(page, sets, 0)
    assert rb.examples(page, sets, 1).empty and shown["id"].tolist() == ["x", "h"] and rb.views(sets, shown).empty
    assert rb.by_cell(sets.cells).empty and rb.leaderboard(page, sets).empty
    assert rb.effective(page, sets, pd.DataFrame(), None, 10, 0) == {}
    del clean["a"], page.runs["hard"]["b"]
    with pytest.raises(rb.InputError, match="no model has predictions on all of set_clean, set_hard"):
        rb.gather(page)


def test_a_corrupted_set_of_another_kind_costs_its_own_part_only():
    page = Page({"clean": said("xyz", [0, 1, 0]), "c": said("x", [0])})
    sets = rb.gather(page)
    assert list(sets.correct) == ["clean"] and "c" in sets.absent and not sets.cells
    assert page.skipped == ["set_c has no corruption"]


def test_regenerated_corruptions_are_shares_of_their_versions():
    page = Page({"clean": said("xyz", [0, 1, 0]), "corrupt": said("zy", [0, 1])})
    sets = rb.gather(page)
    assert len(sets.cells) == 75 and sets.correct["c"]["a"].tolist() == [1, 0] and sets.absent[-1] == "hard"
    assert rb.baselines(sets)["c"].what == "images" and len(rb.views(sets, rb.examples(page, sets, 0))) == 15
    rows = rb.accuracies(sets, rb.baselines(sets), 10, 0)
    own = rows[rows.metric == "accuracy:clean_same_images"]
    assert own[["dataset", "model", "value"]].values.tolist() == [["set_corrupt", "a", 50], ["set_corrupt", "b", 100]]
    assert rb.set_names(page, own).tolist() == ["clean, images of set corrupt"] * 2
    points = rb.against_clean(page, sets, rows, pd.DataFrame())
    assert points[points.model == "a"][["shifted", "clean"]].values.tolist() == [[50.0, 50.0]]
    gaps = rb.differences(sets, 10, 0)
    assert gaps[["dataset", "difference"]].values.tolist()[1] == ["set_corrupt", -50.0] and not gaps.duplicated().any()


@pytest.mark.parametrize(("logits", "what", "images"), [(True, "classes", 2), (False, "", 3)])
def test_a_set_of_some_classes_is_compared_with_those_where_logits_are_kept(logits, what, images):
    clean, some = said("xyz", [0, 1, 2], [0, 1, 2], logits=logits), np.array([0, 1])
    sets = rb.gather(Page({"clean": clean, "r": said("k", [0], columns=some, logits=logits)}))
    (base,) = rb.baselines(sets).values()
    assert (base.what, len(base.images)) == (what, images)
    assert sets.chance == pytest.approx({"set clean": 100 / 3, "set r": 50})


def test_every_set_has_its_chance_also_with_several_labels_an_image_or_regenerated():
    several = said("hk", [0, 1], target=[[0, 1], [2]])  # one and a half of three classes are right
    sets = rb.gather(Page({"clean": said("xyz", [0, 1, 0]), "corrupt": said("zy", [0, 1]), "hard": several}))
    assert sets.chance == pytest.approx({"set clean": 100 / 3, "set corrupt": 100 / 3, "set hard": 50})
    assert len(sets.chance) == len(sets.correct)


def test_published_models_stand_beside_sets_of_imagenet():
    page = Page({role: said("xyzw", [0, 0, 0, 1]) for role in ("clean", "v2", "hard")}, 1000, "imagenet_{}")
    sets = rb.gather(page)
    board = rb.leaderboard(page, sets)
    assert sets.imagenet and "imagenet v2" in board and "imagenet_r" in board
    rows = rb.accuracies(sets, rb.baselines(sets), 10, 0)
    points, line = rb.against_clean(page, sets, rows, board), board["paradigm"] == "supervised"
    assert (points["dataset"] == "imagenet_v2").all() and dict(points[["model", "clean"]].values) == {"a": 75, "b": 100}
    ((role, found),) = rb.effective(page, sets, board, line, 50, 0).items()
    assert role == "v2" and (found["effective_low"] <= found["effective"]).all()
    looks = theme.styles(SimpleNamespace(name=m, label=m, family="transformer", paradigm="clip") for m in "ab")
    points = points.assign(dataset="imagenet v2", shifted_low=40.0, shifted_high=100.0)
    fig, _ = figures.scatter(points, "clean", "shifted", looks, ("x", "y"), "dataset", board, line, to=rb.odds)
    low, high = fig.axes[0].get_ylim()
    assert low < rb.odds(40.0) and rb.odds(100.0) < high  # all points are in view
    assert len(fig.axes[0].lines) >= 5  # two kinds of published models, two lines, no loss
    plt.close(fig)
