"""Mistakes: worked cases, the imagenet-x package as oracle, ReaL, edges."""

from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from beyond_accuracy.dimensions import mistakes as mis
from beyond_accuracy.measure import stats, verdicts
from beyond_accuracy.show import theme

MODELS = ("ResNet50", "ViT")


def rng(seed=0):
    return np.random.default_rng(seed)


def ratio_rows(*arguments, **options):
    table = mis.factor_table(*arguments, **options)
    return table[table["kind"] == "error_ratio"].drop(columns="kind")


@pytest.fixture(scope="module")
def world():
    """Two models on 3,000 images: `texture` triples the errors of b and leaves a alone, `rare` has 3 images."""
    n = 3000
    factors = pd.DataFrame({"texture": rng(1).random(n) < 0.2, "pose": rng(2).random(n) < 0.4}).astype(int)
    factors["rare"], factors["never"] = (np.arange(n) < 3).astype(int), 0
    a = rng(3).random(n) >= 0.2
    b = rng(4).random(n) >= np.where(factors["texture"] == 1, 0.45, 0.15)
    return {"a": a, "b": b}, factors


def test_error_ratio_by_hand():
    # Overall error 2/6. Factor one: 2 of 3 wrong -> 2; factor two: 0 of 2 wrong -> 0; factor three: no image.
    # The second model is never right, the third never wrong.
    correct = np.column_stack([[True, False, False, True, True, True], np.zeros(6), np.ones(6)])
    factors = [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]]
    expected = np.array([[2, 0, np.nan], [1, 1, np.nan], [np.nan] * 3])
    assert mis.error_ratio(correct, factors) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    "correct,factors",
    [
        ([[1], [0]], [[1]]),
        ([[1.0], [np.nan]], [[1], [0]]),
        ([[1], [0]], [[2], [0]]),
        (np.zeros((0, 1)), np.zeros((0, 2))),
    ],
    ids=["lengths", "nan", "not a mark", "empty"],
)
def test_bad_input(correct, factors):
    with pytest.raises(ValueError):
        mis.error_ratio(correct, factors)


def test_bootstrap_recomputes_the_whole_ratio(world):
    correct, factors = world
    table, marks = np.column_stack(list(correct.values())), factors[["texture", "pose"]].to_numpy()
    draws = mis.error_ratio(table, marks, 2000, rng())
    drawn = rng(7).integers(0, len(table), (400, len(table)))
    loop = [mis.error_ratio(table[rows], marks[rows]) for rows in drawn]
    assert draws.shape == (2000, 2, 2)
    assert draws.mean(axis=0) == pytest.approx(np.mean(loop, axis=0), abs=0.02)
    assert draws.std(axis=0) == pytest.approx(np.std(loop, axis=0), rel=0.15)


def test_error_ratios_table(world):
    correct, factors = world
    models = correct | {"perfect": np.ones(3000, bool)}  # without errors: no ratios, so no rows
    table = ratio_rows(models, factors, 500, rng()).set_index(["model", "factor"])
    assert table["metric"].tolist() == [f"error_ratio:{factor}" for _, factor in table.index]
    assert list(table.index.levels[0]) == ["a", "b"]
    assert list(dict.fromkeys(table.index.get_level_values("factor"))) == ["texture", "pose", "rare", "average"]
    row, marked = table.loc[("b", "texture")], factors["texture"] == 1
    assert row["n"] == marked.sum() and row["errors"] == (~correct["b"][marked]).sum()
    assert row["ci_low"] < row["value"] < row["ci_high"] and table.loc[("b", "rare"), "n"] == 3
    assert table.loc[("b", "average"), "value"] == pytest.approx(table.loc["b"]["value"][:3].mean())
    assert len(mis.factor_differences(models, factors[["pose"]], rng(), 50)) == 3


def test_a_factor_too_rare_to_resample_has_no_interval():
    factors = pd.DataFrame({"two": np.arange(50) < 2, "half": np.arange(50) < 25}).astype(int)
    table = ratio_rows({"m": np.arange(50) % 2 == 0}, factors, 300, rng()).set_index("factor")
    assert table["ci_low"].isna().to_dict() == {"two": True, "half": False, "average": True}


def outcomes(images, errors):
    """One model's answers on images of factors that exclude each other: `errors` of `images` are wrong in each."""
    right = np.concatenate([np.arange(n) >= k for n, k in zip(images, errors, strict=True)])
    names = np.repeat(range(len(images)), images)
    return right, pd.DataFrame({f"f{i}": (names == i).astype(int) for i in range(len(images))})


def test_effects_and_rates_by_hand():
    right, factors = outcomes([4, 8], [3, 2])
    table = mis.factor_table({"m": right}, factors, 50, rng()).set_index("metric")
    odds = np.log([3.5 / 1.5, 2.5 / 6.5])
    usual = (4 * odds[0] + 8 * odds[1]) / 12
    effects = table.loc[["factor_effect:f0", "factor_effect:f1", "factor_effect:average"], "value"]
    assert effects.tolist() == pytest.approx([*(odds - usual), odds.mean() - usual])
    assert (table.loc["factor_effect:f0", "unit"], table.loc["error_rate:f1", "unit"]) == ("log-odds", "percent")
    rate = table.loc["error_rate:f1", ["value", "ci_low", "ci_high", "n", "errors"]].tolist()
    assert rate == pytest.approx([25, *(100 * x for x in stats.wilson(2, 8)), 8, 2])
    assert "error_rate:average" not in table.index


def test_a_weaker_model_with_the_same_effects_has_a_lower_ratio_but_no_other_effect():
    images, odds = np.array([30_000, 20_000, 10_000]), np.array([0.02, 0.1, 1.0])
    strong, factors = outcomes(images, np.round(images * odds / (1 + odds)).astype(int))
    weak, _ = outcomes(images, np.round(images * 8 * odds / (1 + 8 * odds)).astype(int))
    table = mis.factor_table({"strong": strong, "weak": weak}, factors, 20, rng())
    table = table.set_index(["metric", "model"]).sort_index()["value"]
    assert table["error_ratio:average", "weak"] < 0.85 * table["error_ratio:average", "strong"]
    for name in ("f0", "f1", "f2", "average"):
        weaker, stronger = (table[f"factor_effect:{name}", model] for model in ("weak", "strong"))
        assert weaker == pytest.approx(stronger, abs=0.01)


def test_equal_outcomes_have_no_spread_to_resample():
    right, factors = outcomes([30, 40], [0, 10])
    other, _ = outcomes([30, 40], [5, 10])
    table = mis.factor_table({"m": right}, factors, 50, rng()).set_index("metric")
    bounds = table.loc["error_ratio:f0", ["value", "ci_low", "ci_high"]].tolist()
    assert bounds == pytest.approx([0, 0, stats.wilson(0, 30).high / (10 / 70)])
    assert table.loc["factor_effect:f0", ["ci_low", "ci_high"]].isna().all()
    gaps = mis.factor_differences({"m": right, "o": other}, factors, rng(), 200).set_index("metric")
    assert np.isnan(gaps.loc["factor_effect:f0", "p"]) and np.isfinite(gaps.loc["factor_effect:f1", "p"])


def test_differences_find_the_planted_one():
    a, factors = outcomes([600, 900, 1200, 300], [90, 130, 185, 45])
    b, _ = outcomes([600, 900, 1200, 300], [95, 130, 175, 130])
    table = mis.factor_differences({"a": a, "b": b}, factors, rng()).set_index("metric")
    assert (table["model_a"] == "a").all() and (table["model_b"] == "b").all()
    # a question is asked once: factors on the scale without a bound, the ratio for its average only
    effects = [f"factor_effect:{name}" for name in ("f0", "f1", "f2", "f3", "average")]
    assert table.index.tolist() == ["error_ratio:average", *effects]
    assert table["n"].tolist() == [3000, 600, 900, 1200, 300, 3000]
    assert table.loc["factor_effect:f3", "ci_high"] < -0.5
    corrected = stats.holm(table.loc[effects[:4], "p"])
    assert corrected[3] < 0.001 and table.loc[effects[:3], "difference"].abs().max() < 0.25
    assert (table["p_floor"] == stats.p_value_floor(20_000)).all() and table["p"].min() == table["p_floor"].iloc[0]
    same = mis.factor_differences({"x": a, "y": a}, factors, rng(), 200)
    assert (same["difference"] == 0).all() and (same["p"] == 1).all()


def test_ties_do_not_hang_on_the_order_of_the_images():
    """Sums in another order are rounded otherwise; draws that are zero in exact arithmetic stay ties."""
    right, factors = outcomes([7, 9, 11], [2, 4, 5])
    other, _ = outcomes([7, 9, 11], [3, 4, 5])
    one = mis.factor_differences({"a": right, "b": other}, factors, rng(), 500)
    turned = mis.factor_differences({"b": other, "a": right}, factors[["f2", "f0", "f1"]], rng(), 500)
    together = one.merge(turned, on="metric")
    assert together["p_x"].tolist() == together["p_y"].tolist()
    assert together["difference_x"].to_numpy() == pytest.approx(-together["difference_y"].to_numpy())


def test_hardest_factor_is_named_only_if_it_is_told_from_the_next():
    images = [100, 90, 80, 200]
    errors = {"clear": [70, 30, 20, 20], "open": [40, 38, 10, 20], "none": [10, 9, 8, 20]}
    factors = outcomes(images, images)[1]
    table = mis.factor_table({m: outcomes(images, wrong)[0] for m, wrong in errors.items()}, factors, 20, rng())
    assert mis.hardest(table) == {"clear": ["f0"], "open": ["f1", "f0"], "none": ["f0", "f1", "f2", "f3"]}


def test_groups_by_hand():
    table = mis.errors_by_group({"m": np.arange(4) == 0}, np.array(list("xxyy"))).set_index("group")
    assert table.index.tolist() == ["y", "x"] and table["n"].tolist() == [2, 2]  # hardest first
    assert table["value"].tolist() == [100, 50]
    assert table.loc["y", ["ci_low", "ci_high"]].tolist() == pytest.approx([100 * x for x in stats.wilson(2, 2)])


def test_ratio_by_group(world):
    correct, factors = world
    groups = np.where(np.arange(3000) % 3 == 0, "x", "y")
    table = mis.ratio_by_group(correct, factors, groups, 30).set_index(["group", "factor", "model"])["value"]
    inside = groups == "x"
    expected = mis.error_ratio(correct["b"][inside, None], factors[["texture"]].to_numpy()[inside])[0, 0]
    assert table["x", "texture", "b"] == pytest.approx(expected) and "rare" not in table.index.levels[1]
    assert mis.ratio_by_group(correct, factors[["rare"]], groups, 30).empty
    top = mis.ratio_by_group(correct, factors, groups, 30, 1)
    assert len(top) == 2 and (top["factor"] == "texture").all()


def test_real_by_hand():
    real = [[1, 2], [], [3], [5], [7]]
    assert mis.real_correct([2, 4, 4, 5, 7], real) == pytest.approx(np.array([1, np.nan, 0, 1, 1]), nan_ok=True)
    # Labels 1, 1, 3, 5, 8: errors are images 0 (noise), 1 (no list), 2 (mistake), 4 (noise); image 3 is right.
    split = mis.real_split([2, 4, 4, 5, 7], [1, 1, 3, 5, 8], real)
    assert split == {"label noise": 2, "true mistake": 1, "no ReaL label": 1}
    with pytest.raises(ValueError):
        mis.real_correct([1], [])
    page = SimpleNamespace(has_role=lambda role: False)
    assert all(frame.empty for frame in mis.relabelled(page, {}))  # without second labels there is nothing to say


def runs(targets, **pred):
    return {model: SimpleNamespace(targets=targets, pred=chosen) for model, chosen in pred.items()}


def test_confused_pairs_by_hand():
    names = ["cat", "dog", "car"]
    given = runs([0, 0, 0, 1, 1, 2], a=[1, 1, 0, 0, 1, 2], b=[1, 0, 0, 1, 1, 0])
    table = mis.confused_pairs(given, names)
    assert list(table.columns) == ["label", "taken for", "images", "a", "b", "other way"]
    assert table.values.tolist() == [
        ["cat", "dog", 3, 2, 1, 0.5],
        ["dog", "cat", 2, 1, 0, 1.5],
        ["car", "cat", 1, 0, 1, 0],
    ]
    assert len(mis.confused_pairs(given, names, top=1)) == 1
    assert mis.confused_pairs(runs([1, 2], a=[1, 2]), names).empty
    cranes = mis.confused_pairs(runs([0], a=[1]), ["crane", "crane", "car"])
    assert cranes[["label", "taken for"]].values.tolist() == [["crane (0)", "crane (1)"]]


def test_pictures_are_shown_where_there_are_any():
    right = pd.DataFrame({"a": [True, False, False], "b": [True, True, False]}, index=list("xyz"))
    top = pd.DataFrame({"pose": [1, 1, 0], "partial_view": [0, 0, 1], "style": 0}, index=list("xyz"))
    images = mis.Annotated("val", "Val", right, top, top, "class", np.array(["c"] * 3))
    page = SimpleNamespace(role=lambda role: "val", image="{} {}".format, outputs=SimpleNamespace(base=str))
    for load, shown in ((len, ["val y", "val z"]), (None, [])):  # None: only labels are known
        page.dataset = lambda name, load=load: SimpleNamespace(load=load)
        found, texts, rows = mis.pictures(page, images)
        assert found == shown and texts == ["pose\n1 of 2 wrong", "partial view\n2 of 2 wrong"]
        assert rows["id"].tolist() == ["y", "z"]


OWN = [("a", "transformer", "supervised"), ("b", "transformer", "clip")]
SPECS = [SimpleNamespace(name=name, label=name.upper(), family=f, paradigm=p) for name, f, p in OWN]


def test_findings_and_figure_follow_the_verdicts(world):
    """Texture triples the errors of b alone: both are said to differ in it, and only b has a hardest factor."""
    correct, factors = world
    factors = factors[["texture"]].assign(other=1 - factors["texture"])
    table = mis.factor_table(correct, factors, 200, rng())
    gaps = mis.factor_differences(correct, factors, rng(1), 2000).assign(dataset="d")
    shown = mis.in_one_thing(verdicts.judge(gaps), SPECS)
    assert (shown["what"] == "objective").all() and shown["factor"].tolist() == ["texture", "other", "average"]
    shares = pd.DataFrame({"model": "a", "kind": "label noise", "value": [0.25], "ci_low": 0.046, "ci_high": 0.699})
    labels = {"a": "A", "b": "B"}
    hardest, effects, noise = mis.sentences(shown, table, shares, "Val", labels)
    rate = table.set_index(["metric", "model"])["value"]["error_rate:texture", "b"]
    assert f"B: texture ({rate:.0f} % of {factors['texture'].sum()} wrong)" in hardest and "A: " in hardest
    assert "not told apart" in hardest
    assert "(same architecture)" in effects and f"against {rate:.0f} % errors" in effects
    assert noise.endswith("25.0 [4.6, 69.9] % for A.")
    equal = shown.assign(verdict=verdicts.OPEN)
    _, effects = mis.sentences(equal, table, shares[:0], "Val", labels)
    assert "0 of 2 factors cost one more than the other. Mean" in effects and effects.endswith("not decided.")
    looks = theme.styles(SPECS)
    fig, words = mis.forest(shown, looks, ["texture", "other", "average"])
    faces = [line.get_markerfacecolor() for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert [face != "white" for face in faces] == (shown["verdict"] != verdicts.OPEN).tolist()
    assert "A minus B: texture −" in words.replace("-", "−")
    plt.close(fig)


def test_of_many_factors_that_may_be_the_hardest_three_are_named():
    names = [f"f{k}" for k in range(6)]
    factors = pd.DataFrame(np.eye(6, dtype=int).repeat(4, axis=0), columns=names)
    ends = {6: "f2 (50 % of 4 wrong) or one of 3 others, not told apart.", 4: "or f3 (50 % of 4 wrong), not"}
    for count, said in ends.items():
        some = factors[factors.index < 4 * count][names[:count]]
        table = mis.factor_table({"a": np.arange(len(some)) % 2 == 0}, some, 50, rng())
        nothing = pd.DataFrame(columns=["model_a", "model_b", "what", "kind", "model", "value", "ci_low", "ci_high"])
        (hardest,) = mis.sentences(nothing, table, nothing, "Val", {"a": "A"})
        assert said in hardest and "A: f0 (50 % of 4 wrong) or f1" in hardest


def test_factors_are_shown_hardest_first_and_the_average_last(world):
    table = mis.factor_table(world[0], world[1][["pose", "texture"]], 50, rng())
    ratios, rates = (list(dict.fromkeys(mis.hardest_first(table, k)["factor"])) for k in ("error_ratio", "error_rate"))
    assert (ratios, rates) == (["texture", "pose", "average"], ["texture", "pose"])


@pytest.fixture(scope="module")
def published(shared_dir):
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    labels = pd.read_csv(files("imagenet_x") / "annotations" / "filename_label.csv").set_index("file_name")["label"]
    labels.index = labels.index.str.removesuffix(".JPEG")
    folder = shared_dir / "data" / "predictions"
    pred = {}
    for name in MODELS:
        frame = pd.read_csv(folder / f"{name}.csv")
        frame.index = frame["file_name"].str.removesuffix(".JPEG")
        pred[name] = frame["predicted_class"].loc[labels.index]
    return folder, labels, pred


@pytest.mark.filterwarnings("ignore:Constructing a DataFrame")  # inside imagenet-x
@pytest.mark.parametrize("which", ["top", "multi"])
def test_equals_imagenet_x(published, which):
    from imagenet_x import error_ratio, get_factor_accuracies

    from beyond_accuracy.data.published import FACTORS, factors_imagenet_x

    folder, labels, pred = published
    expected = error_ratio(get_factor_accuracies(str(folder), which_factor=which))
    annotated = factors_imagenet_x(which)
    correct = {m: (p == labels).loc[annotated.index].to_numpy() for m, p in pred.items()}
    table = ratio_rows(correct, annotated[list(FACTORS)], 100, rng())
    wide = table.pivot(index="model", columns="factor", values="value")
    assert wide[list(FACTORS)].to_numpy() == pytest.approx(expected.loc[wide.index, list(FACTORS)].to_numpy(), abs=1e-9)
    if which == "top":
        # The table of the imagenet-x README, printed with six significant digits.
        assert wide["texture"].tolist() == pytest.approx([2.39386, 2.04465], abs=6e-6)
        assert wide["pose"].tolist() == pytest.approx([0.694739, 0.74067], abs=6e-6)
        assert table[["ci_low", "ci_high"]].notna().all(axis=None)


@pytest.mark.parametrize("model,real,top1", [("ResNet50", 82.958, 76.130), ("ViT", 83.987, 78.006)])
def test_real_accuracy_of_published_predictions(published, model, real, top1):
    from beyond_accuracy.data.published import real_labels

    _, labels, pred = published
    lists = [real_labels()[i] for i in labels.index]
    outcome = mis.real_correct(pred[model], lists)
    assert np.isfinite(outcome).sum() == 46_837
    assert 100 * np.nanmean(outcome) == pytest.approx(real, abs=5e-4)
    split = mis.real_split(pred[model], labels, lists)
    assert sum(split.values()) == round(50_000 * (1 - top1 / 100))
