"""Robustness: hand-worked corruption errors and losses, independent implementations, what is missing, figures."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.special import expit, logit

from beyond_accuracy.data import corruptions
from beyond_accuracy.data.published import alexnet_errors
from beyond_accuracy.dimensions import robustness as rb
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import stats, tidy, verdicts
from beyond_accuracy.show import figures, theme

GRID = np.linspace(-7, 9, 4001)
LOSS = np.average(expit(GRID) - expit(GRID - 1), weights=np.exp(-((GRID - 1.2) ** 2) / 2))
"""What images of normal ease around 1.2 log-odds lose when each becomes harder by one."""


def test_accuracy_at_the_ends():
    table = tidy.accuracy({"all": np.ones(20, bool), "none": np.zeros(20, bool)}).set_index("model")
    assert table.loc["all", "value"] == 100 and table.loc["all", "ci_high"] == 100
    assert table.loc["none", "ci_low"] == 0 and table.loc["none", "ci_high"] == pytest.approx(16.11, abs=0.01)
    with pytest.raises(ValueError, match="n is 0"):
        tidy.accuracy({"m": []})


def test_differences_are_paired():
    base = np.arange(1000) % 2 == 0
    better = base.copy()
    better[1:40:2] = True  # 20 images more, none less
    row = tidy.accuracy_pairs({"a": better, "b": base}).iloc[0]
    assert row.difference == pytest.approx(2.0) and row.ci_low > 1 and row.p < 1e-4
    same = tidy.accuracy_pairs({"a": base, "b": base}).iloc[0]
    assert same.difference == 0 and same.p == 1 and same.ci_low < 0 < same.ci_high


def test_interval_and_test_of_a_pair_agree():
    """One image more is no difference, although no resample has one image less."""
    base = np.arange(480) % 4 > 0
    for more in range(9):
        better = base.copy()
        better[np.flatnonzero(~base)[:more]] = True
        row = tidy.accuracy_pairs({"a": better, "b": base}).iloc[0]
        assert (row.ci_low > 0) == (row.p < 0.05) == (more > 3)


def alexnet_cells(share=1.0, n=10_000):
    """Outcomes with AlexNet's errors, or a share of them, spread unevenly over severities around the published mean."""
    order = np.random.default_rng(0).permutation(n)
    return {
        (name, k): {"alexnet": order >= round(n * share * error * (0.96 + 0.02 * (k - 1)))}
        for name, error in alexnet_errors().items()
        for k in range(1, 6)
    }


def mce(cells):
    table = rb.corruption_table(cells, alexnet_errors(), 10, 0)
    return table[table.metric == "mce"].set_index("model")["value"].to_dict()


def test_mce_of_alexnet_is_100():
    assert mce(alexnet_cells()) == pytest.approx({"alexnet": 100}, abs=0.01)
    assert mce(alexnet_cells(0.5)) == pytest.approx({"alexnet": 50}, abs=0.01)


def test_mce_leaves_the_extra_corruptions_out_and_needs_all_others():
    extra = {("saturate", k): {"alexnet": np.zeros(10_000, bool)} for k in range(1, 6)}
    assert mce(alexnet_cells() | extra) == pytest.approx({"alexnet": 100}, abs=0.01)
    assert mce({cell: right for cell, right in alexnet_cells().items() if cell[0] != "fog"}) == {}


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
    value, each = table.set_index(["metric", "model"])["value"], rb.by_cell(cells)
    for model in ("good", "bad"):
        mine = each[each.model == model]
        assert value["accuracy", model] == pytest.approx(mine.value.mean())
        errors = (100 - mine.groupby("corruption").value.mean()) / pd.Series(alexnet_errors())
        assert value["mce", model] == pytest.approx(errors.mean())
        assert value["accuracy:corruption=snow", model] == pytest.approx(mine[mine.corruption == "snow"].value.mean())
        assert value["accuracy:severity=5", model] == pytest.approx(mine[mine.severity == 5].value.mean())
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


# A page of its own, without models or files ------------------------------------------------------------------------


class Page:
    """What the module asks of a page: roles, predictions, names."""

    has_networks, skipped = True, []

    def __init__(self, runs, models=("a", "b"), classes=3):
        self.runs, self.models, self.classes = runs, list(models), [f"class {k}" for k in range(classes)]

    def has_role(self, role):
        return role in self.runs

    def role(self, role):
        return f"set_{role}"

    def available(self, names):
        return [name for name in names if self.runs[name[4:]] is not None]

    def predictions(self, name):
        return self.runs[name[4:]]

    def predictions_many(self, name, texts):
        return dict.fromkeys(texts, self.runs[name[4:]])

    def class_names(self, name):
        return self.classes

    def title(self, name):
        return name.replace("_", " ")


def said(ids, pred, target=None, columns=None, logits=True):
    """Predictions of both models, `b` always class 0."""
    frame = pd.DataFrame({"id": ids, "target": 0 if target is None else target, "confidence": 0.9})
    frame["target_probability"] = 0.5
    found = {}
    for model, answer in (("a", pred), ("b", [0] * len(frame))):
        table = np.eye(3, dtype=np.float16)[answer] if logits else None
        found[model] = Predictions(model, "d", "none", frame.assign(pred=answer), table, columns, {})
    return found


def test_sets_that_are_not_here_are_named_and_left_out():
    clean = said(["x", "y", "z"], [0, 1, 0])
    page = Page({"clean": clean, "r": None, "hard": said(["h"], [0])})
    sets = rb.gather(page)
    assert list(sets.correct) == ["clean", "hard"] and sets.shifts == ["hard"]
    assert sets.absent == ["v2", "a", "r", "c", "sketch", "real"] and not sets.cells
    rows, gaps = rb.means(sets, rb.baselines(sets), 10, 0)
    assert set(rows.metric) == {"accuracy_loss"} and set(gaps.family) == {"main"}  # one set is no average
    alone = rb.gather(Page({"clean": clean}))
    assert [len(frame) for frame in rb.means(alone, rb.baselines(alone), 10, 0)] == [0, 0]
    assert rb.examples(page, sets, 1).empty and rb.examples(page, sets, 0)["id"].tolist() == ["x", "h"]
    assert rb.views(sets, rb.examples(page, sets, 0)).empty
    assert rb.by_cell(sets.cells).empty and rb.leaderboard(page, sets).empty
    del clean["a"], page.runs["hard"]["b"]
    with pytest.raises(rb.InputError, match="no model has predictions on all of set_clean, set_hard"):
        rb.gather(page)


def test_regenerated_corruptions_are_shares_of_their_versions():
    page = Page({"clean": said(["x", "y", "z"], [0, 1, 0]), "corrupt": said(["z", "y"], [0, 1])})
    sets = rb.gather(page)
    assert len(sets.cells) == 75 and sets.correct["c"]["a"].tolist() == [1, 0] and sets.absent[-1] == "hard"
    assert rb.baselines(sets)["c"].what == "images" and len(rb.views(sets, rb.examples(page, sets, 0))) == 15
    rows = rb.accuracies(sets, rb.baselines(sets), 10, 0)
    own = rows[rows.metric == "accuracy:clean_same_images"]
    assert own[["dataset", "model", "value"]].values.tolist() == [
        ["set_corrupt", "a", 50.0],
        ["set_corrupt", "b", 100.0],
    ]
    assert rb.set_names(page, own).tolist() == ["clean, images of set corrupt"] * 2
    points = rb.against_clean(page, sets, rows, pd.DataFrame())
    assert points[points.model == "a"][["shifted", "clean"]].values.tolist() == [[50.0, 50.0]]
    gaps = rb.differences(sets, 10, 0)
    assert gaps[["dataset", "difference"]].values.tolist()[1] == ["set_corrupt", -50.0] and not gaps.duplicated().any()


def test_a_set_of_some_classes_is_compared_with_those_where_logits_are_kept():
    columns = np.array([0, 1])
    for logits in (True, False):
        clean = said(["x", "y", "z"], [0, 1, 2], target=[0, 1, 2], logits=logits)
        sets = rb.gather(Page({"clean": clean, "r": said(["k"], [0], columns=columns, logits=logits)}))
        (base,) = rb.baselines(sets).values()
        assert base.what == ("classes" if logits else "") and len(base.images) == (2 if logits else 3)
    assert rb.chance(Page({}), sets) == pytest.approx({"set clean": 100 / 3, "set r": 50})


def test_published_models_stand_beside_sets_of_imagenet():
    page = Page({role: said(["x", "y", "z", "w"], [0, 0, 0, 1]) for role in ("clean", "v2", "hard")}, classes=1000)
    page.role = {"clean": "imagenet_1k", "v2": "imagenet_v2", "hard": "imagenet_hard"}.get
    page.available, page.predictions = list, lambda name: page.runs["v2"]
    sets = rb.gather(page)
    board = rb.leaderboard(page, sets)
    assert sets.imagenet and "imagenet v2" in board and "imagenet_r" in board
    rows = rb.accuracies(sets, rb.baselines(sets), 10, 0)
    points = rb.against_clean(page, sets, rows, board)
    assert points[["dataset", "model", "clean"]].values.tolist() == [
        ["imagenet_v2", "a", 75],
        ["imagenet_v2", "b", 100],
    ]
    (found,) = rb.effective(page, sets, board, board["paradigm"] == "supervised", 50, 0).items()
    assert found[0] == "v2" and (found[1]["effective_low"] <= found[1]["effective"]).all()
    labels = ("clean", "shifted")
    looks = {name: look for name, look in zip("ab", STYLES.values(), strict=False)}
    shown, line = points.assign(dataset=points["dataset"].map(page.title)), board["paradigm"] == "supervised"
    fig, _ = figures.scatter(shown, "clean", "shifted", looks, labels, "dataset", board, line, to=rb.odds)
    assert len(fig.axes[0].lines) >= 5  # two kinds of published models, two lines, no loss


# Figures -----------------------------------------------------------------------------------------------------------


def spec(name, family, paradigm):
    return SimpleNamespace(name=name, label=f"Label of {name}", family=family, paradigm=paradigm)


OWN = [
    spec(f"{short}_{way[:4] if way == 'clip' else 'sup'}", family, way)
    for way in ("supervised", "clip")
    for short, family in (("vit", "transformer"), ("convnext", "convnet"))
]
STYLES = theme.styles(OWN)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_pairs_are_formed_within_a_paradigm():
    assert verdicts.lead_pairs(OWN) == [("vit_sup", "convnext_sup"), ("vit_clip", "convnext_clip")]
    more = [spec("a", "other", "supervised"), spec("b", "other", "supervised"), spec("c", "other", "clip")]
    assert verdicts.lead_pairs(more) == [("a", "b")]
    assert verdicts.lead_pairs(OWN[::-1])[1] == ("vit_sup", "convnext_sup")


def test_a_lead_of_nothing_and_one_asked_the_other_way_round():
    """Intervals fit in, and a difference b minus a is turned to the sides shown."""
    left, right = STYLES["vit_sup"].label, STYLES["convnext_sup"].label
    frame = pd.DataFrame({"dataset": list("abab"), "model": ["vit_sup"] * 2 + ["convnext_sup"] * 2})
    frame["value"] = [85.5, 50.0, 85.5, 48.8]
    gaps = pd.DataFrame({"dataset": ["a", "b"], "model_a": "vit_sup", "model_b": "convnext_sup"})
    gaps = gaps.assign(difference=[0, 1.2], ci_low=[-1, -0.4], ci_high=[1, 6.0])
    for shown, widths, reach in ((gaps, [0, -1.2], 9.0), (gaps[:1] * [1, 1, 1, 0, 0, 0], [0], 1.0)):
        part = frame[frame["dataset"].isin(shown["dataset"])]
        fig, _ = figures.lead(part, "dataset", [("vit_sup", "convnext_sup")], STYLES, shown)
        assert [bar.get_width() for bar in fig.axes[0].patches] == pytest.approx(widths)
        assert fig.axes[0].get_xlim() == pytest.approx((-reach, reach))
        assert {f"← {left}", f"{right} →", "winner"} <= {text.get_text() for text in fig.axes[0].texts}


def test_all_points_are_in_view_with_and_without_published_models():
    points = pd.DataFrame([(m, s, 45.0 + k) for k, m in enumerate(STYLES) for s in ("V2", "R")])
    points.columns = ["model", "dataset", "shifted"]
    points = points.assign(shifted_low=40.0, shifted_high=100.0, clean=80.0, clean_low=79.0, clean_high=100.0)
    steps = {"imagenet_1k": np.linspace(60, 85, 9), "V2": np.linspace(50, 78, 9), "R": np.linspace(20, 50, 9)}
    for board in (pd.DataFrame(steps), pd.DataFrame()):
        line = pd.Series(True, index=board.index)
        fig, _ = figures.scatter(
            points, "clean", "shifted", STYLES, ("clean", "shifted"), "dataset", board, line, to=rb.odds
        )
        for ax in fig.axes[:2]:
            low, high = ax.get_ylim()
            assert low < rb.odds(40.0) and rb.odds(100.0) < high
