"""Choosing a model: utilities, draws, ranking and flips by hand, and the page's script against the same numbers."""

import itertools
import json
import re
from pathlib import Path

import bs4
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.profile import parse_profile
from beyond_accuracy.dimensions import calibration
from beyond_accuracy.dimensions.confidence import Ranked
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import verdicts
from beyond_accuracy.report import choose
from beyond_accuracy.show import results
from beyond_accuracy.show.results import ECE
from builders import whole_page

MODELS = ["a", "b", "c"]
NUMBERS = {  # (dimension, dataset, metric, unit): values of a, b, c and the half width of their intervals
    ("models", "val", "accuracy", "percent"): ([80, 75, 70], 1.0),
    ("calibration", "val", ECE, "fraction"): ([0.08, 0.04, 0.02], 0.01),
    ("shape_bias", "cue", "shape_bias", "fraction"): ([0.5, 0.4, 0.3], 0.02),
    ("models", "none", "params", "millions"): ([40, 20, 10], None),
}


def table(numbers=NUMBERS):
    rows = []
    for (dimension, dataset, metric, unit), (values, half) in numbers.items():
        for model, value in zip(MODELS, values, strict=True):
            if value is not None:
                ends = (None, None) if half is None else (value - half, value + half)
                rows.append((dimension, dataset, metric, model, value, *ends, 400 if half else None, unit))
    return results.validate_results(pd.DataFrame(rows, columns=results.RESULT_COLUMNS))


def profile(label="{}", **more):
    models = {name: {"source": "predictions", "label": label.format(name)} for name in MODELS}
    dimensions = {"models": {"clean": "val"}, "calibration": {"clean": "val"}, "shape_bias": {"cue_conflict": "cue"}}
    datasets = {name: {"reader": "imagenet_folder", "path": name, **more} for name in ("val", "cue")}
    content = {"name": "t", "title": "T", "models": models, "datasets": datasets, "dimensions": dimensions}
    return parse_profile(content, Path("trial.yaml"))


NONE = pd.DataFrame(columns=list(results.COMPARISON_COLUMNS))


def paired(a, b, difference, half, verdict=verdicts.THESE, dimension="models", metric="accuracy"):
    row = (dimension, "val", metric, a, b, difference, difference - half, difference + half, 0.01, 400, "percent")
    return pd.DataFrame([(*row, "main", 0.01, verdict, 0.0)], columns=NONE.columns)


def gathered(numbers=NUMBERS, comparisons=NONE, draws=400):
    return choose.gather(table(numbers), comparisons, profile(), draws, 0)


def advised(rows, comparisons=NONE):
    choice = choose.gather(rows, comparisons, profile(), choose.DRAWS, 0)
    return {row["purpose"]: row for row in choose.advice(choice, profile())}


def body_of(rows, found):
    return choose.body(choose.gather(rows, NONE, found, choose.DRAWS, 0), found)


def test_utilities_are_steps_above_the_mean_in_thousandths():
    choice = gathered()
    assert [criterion.key for criterion in choice.criteria] == ["accuracy", "ece", "shape", "params"]
    # 5 points a step; 0.02 a step, lower is better (mean 0.14/3); 0.1 a step; factors of two.
    one = [1000, 0, -1000]
    assert [utilities.tolist() for utilities in choice.means] == [one, [-1667, 333, 1333], one, one[::-1]]
    assert choice.draws[3].tolist() == [[-1000], [0], [1000]]


@pytest.mark.parametrize("half", [None, 0.5])
def test_draws_have_the_intervals_spread_and_move_as_paired_differences_tell(half):
    """Of the difference of two models the standard error is sqrt(2) times theirs, unless it is known to be less."""
    told = NONE if half is None else paired("b", "a", -5, half)
    draws = gathered(comparisons=told, draws=20_000).draws[0]
    assert draws.std(axis=1) == pytest.approx(np.full(3, 1 / 1.96 / 5 * 1000), rel=0.03)
    assert (draws[0] - draws[1]).std() == pytest.approx((half or 2**0.5) / 1.96 / 5 * 1000, rel=0.03)


def test_an_impossible_covariance_keeps_the_variances():
    matrix = choose.covariance(np.ones(3), {(0, 1): 0.0, (1, 2): 0.0})  # a = b = c, yet a and c uncorrelated
    root = choose._root(matrix)
    assert np.diag(root @ root.T) == pytest.approx(np.ones(3))


def test_ranking_by_hand():
    choice = gathered()
    found = choose.rank(choice, {"accuracy": 50, "ece": 20})
    # a: 50*1000 - 20*1667, b: 20*333, c: -50*1000 + 20*1333
    assert (found.order, found.scores) == (["a", "b", "c"], [16660, 6660, -23340])
    assert sum(found.best) == pytest.approx(1) and found.best[0] > found.best[1] > found.best[2]
    # b overtakes a when 50000 - w*1667 < w*333, first at w = 26; accuracy when w*1000 - 33340 < 6660, below 40: at 39;
    # size when 16660 - w*1000 < 6660, at 11; shape the same at -11.
    flips = [(flip.criterion, flip.weight, flip.change, flip.winner) for flip in found.flips]
    assert flips == [("ece", 26, 6, "b"), ("accuracy", 39, -11, "b"), ("shape", -11, -11, "b"), ("params", 11, 11, "b")]


def test_flips_agree_with_ranking_again_at_every_weight():
    choice = gathered()
    means = np.array(choice.means)
    for accuracy, ece in itertools.product((10, 40, 90), (0, 30, 70)):
        weights = {"accuracy": accuracy, "ece": ece, "params": 5}
        ranking = choose.rank(choice, weights)
        found, winner = {flip.criterion: abs(flip.change) for flip in ranking.flips}, MODELS.index(ranking.order[0])
        for criterion in choice.criteria:
            changes = []
            for weight in range(choose.lowest(criterion), 101):
                changed = weights | {criterion.key: weight}
                totals = np.array([changed.get(c.key, 0) for c in choice.criteria]) @ means
                if totals.max() > totals[winner]:
                    changes.append(abs(weight - weights.get(criterion.key, 0)))
            assert min(changes, default=None) == found.get(criterion.key)


def test_edges():
    choice = gathered()
    equal = choose.rank(choice, {})
    assert equal.order == MODELS and equal.best == pytest.approx([1 / 3] * 3) and equal.flips == []
    assert choose.rank(choice, {"shape": -100}).order == ["c", "b", "a"]
    gap = gathered(NUMBERS | {("models", "none", "params", "millions"): ([40, None, 10], None)})
    found = choose.rank(gap, {"params": 10, "accuracy": 1})
    assert found.order == ["c", "a"]  # b has no number
    assert choose.rank(gap, {"accuracy": 1}).order == MODELS
    assert not gathered({("models", "val", "accuracy", "percent"): ([80, None, None], 1.0)}).criteria
    assert "nothing to choose by" in body_of(table().iloc[:0], profile()).html


def page(folder, **options):
    return whole_page(folder / "choose.html", body_of(table(), profile(**options)))


def test_the_page_is_complete_without_a_script_and_escaped(tmp_path):
    soup = bs4.BeautifulSoup(page(tmp_path, label="</script><b>{}").read_text("utf-8"), "html.parser")
    assert not soup.select("main b")
    data = json.loads(soup.select_one("#choose-data").string)
    assert data["models"][0]["label"] == "</script><b>a"
    purposes = [row.th.text for row in soup.select("table[data-name=purposes] tbody tr")]
    assert purposes == ["A bit of everything"]
    assert "“Shifted data”" in soup.text and "“Cheap”" in soup.text
    for control in soup.select("input[type=range]"):
        assert soup.select_one(f"label[for={control['id']}]") and soup.select_one(f"#{control['aria-describedby']}")
    assert soup.select_one("input[name=shape]")["min"] == "-100" and soup.select_one("input[name=ece]")["min"] == "0"


def test_advice_names_the_first_model_and_how_sure_that_is():
    auroc = {("calibration", "val", "auroc", "fraction"): ([0.90, 0.85, 0.80], 0.01)}
    ece = paired("b", "a", -0.04, 0.01, dimension="calibration", metric="ece_debiased")
    rows = advised(table(NUMBERS | auroc), ece)
    assert list(rows) == ["A bit of everything", "Trustworthy confidence"]
    trust = rows["Trustworthy confidence"]
    # 50 x AUROC (a step is 0.05) + 30 x ECE (0.02): a 50*1000 - 30*1667, b 30*333, c 30*1333 - 50*1000
    assert trust["model"] == "b" and trust["href"].startswith("choose.html#auroc=50&")
    assert trust["numbers"].startswith("Decides: Calibration error (ECE) ↓: 0.040 [0.030, 0.050] against 0.080 [")
    assert trust["sure"].startswith("these checkpoints: b is first in ")
    assert "of all weightings of these numbers" in trust["sure"]
    assert advised(table(NUMBERS | auroc))["Trustworthy confidence"]["sure"].startswith("open: ")  # nothing was tested
    equal = table({("models", "val", "accuracy", "percent"): ([80, 79.9, 70], 2.0)})
    told = pd.concat([paired("b", "a", -0.1, 1.0, verdicts.OPEN), paired("a", "c", 10, 3)])
    (row,) = advised(equal, told).values()
    assert row["model"] == "a or b" and row["sure"].startswith("open: a is first in 5")
    assert row["numbers"].endswith("against 79.9 [77.9, 81.9] (b), open")
    far = table({("models", "val", "accuracy", "percent"): ([80, 60, 70], 1.0)})
    (row,) = advised(far, paired("a", "c", 10, 1, verdicts.BEYOND_NOISE)).values()
    assert (row["model"], row["sure"]) == ("a", "beyond training noise: a is first in >99% of draws")
    assert advised(table().iloc[:0]) == {}


COSTS = {
    ("models", "val", "accuracy", "percent"): ([80, 80, 70], 1.0),
    ("models", "none", "gflops", "gflops"): ([0.023414, 0.023439, 0.0468], None),
    ("models", "none", "images_per_second", "images/s"): ([1707, 1377, 700], None),
}


def test_equal_cost_is_a_tie():
    """What prints alike (0.0234) decides nothing, and nothing that rests on it is clear."""
    choice = gathered(COSTS)
    found = choose.rank(choice, {"macs": 60})
    assert found.scores[0] == found.scores[1] > 0 and found.tied == 2 and found.runner_up == "c"
    assert sorted(found.best) == pytest.approx([0, 0.5, 0.5])
    only = {key: value for key, value in COSTS.items() if key[2] != "images_per_second"}
    rows = advised(table(only), pd.concat([paired("a", "c", 10, 1), paired("b", "c", 10, 1)]))
    assert (rows["Cheap"]["model"], rows["Cheap"]["sure"]) == ("a or b", "a tie: equal in all that is weighed")
    assert rows["Cheap"]["numbers"].endswith("; GMACs ↓: 0.023 against 0.047 (c)")
    body = body_of(table(only), profile())
    assert re.search(r"a \(\d\d%\) = b \(\d\d%\) › c \(&lt;1%\)", body.html) and "equal cost is a tie" in body.html


def test_a_rate_that_was_timed_once_is_never_clear_by_a_quarter():
    choice = gathered(COSTS, draws=20_000)
    rate = [criterion.key for criterion in choice.criteria].index("rate")
    assert choice.draws[rate].std(axis=1) == pytest.approx(np.full(3, np.log2(1.25) / 1.96 * 1000), rel=0.03)
    found = choose.rank(choice, {"rate": 60})
    assert found.order == ["a", "b", "c"] and 0.8 < found.best[0] < 0.95  # 1,707 against 1,377; by 700 it is clear
    assert choose.rank(choice, {"rate": 60, "accuracy": 1}).best[2] == 0


def test_the_number_shown_is_the_one_that_decides():
    numbers = {
        ("models", "val", "accuracy", "percent"): ([92, 86, 70], 0.5),
        ("transfer", "average", "accuracy", "percent"): ([57.7, 57.6, 50], 1.3),
    }
    told = pd.concat([paired("a", "b", 6, 0.7), paired("a", "c", 22, 0.7)])
    row = advised(table(numbers), told)["A bit of everything"]
    assert row["model"] == "a" and row["numbers"] == (
        "Decides: Accuracy, clean (%) ↑: 92.0 [91.5, 92.5] against 86.0 [85.5, 86.5] (b), these checkpoints"
    )
    told = pd.concat([paired("a", "b", 0.1, 1.3, verdicts.OPEN), paired("a", "c", 7.7, 1.3)])
    told = told.assign(dimension="transfer", dataset="average")
    row = advised(table(numbers), told)["Features for other tasks"]
    assert row["model"] == "a or b" and row["sure"].startswith("open: a is first in 5")
    choice = gathered(numbers)
    ranking = choose.rank(choice, {})
    assert ranking.tied == 3 and choose.decisive(choice, {}, ranking) is None


def test_small_data_are_judged_by_the_mean_over_tasks_at_ten_images_a_class():
    few = {("transfer", dataset, "accuracy:shots=10", "percent"): (values, 3.0) for dataset, values in
           {"x": [60, 50, 40], "y": [40, 40, 30], "average": [50, 45, 35]}.items()}  # fmt: skip
    choice = gathered(few)
    (rows,) = choice.rows
    assert [criterion.key for criterion in choice.criteria] == ["few"]
    assert rows["value"].tolist() == [50, 45, 35] and rows["dataset"].tolist() == ["average"] * 3


def test_how_often_a_model_leads_at_random_weights():
    """Two criteria that contradict each other: a leads where w * 2 > 1 - w, in two thirds of all weightings."""
    numbers = {
        ("models", "val", "accuracy", "percent"): ([80, 70, None], 1.0),
        ("calibration", "val", ECE, "fraction"): ([0.04, 0.02, 0.02], 0.01),
    }
    found = choose.led(gathered(numbers), ["accuracy", "ece"], 0)
    assert found["a"] == pytest.approx(2 / 3, abs=0.03) and found["c"] == 0 and sum(found.values()) == pytest.approx(1)
    same = {("models", "val", "accuracy", "percent"): ([80, 80, 70], 1.0)}
    assert choose.led(gathered(same), ["accuracy"], 0) == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_numbers_of_the_same_images_are_drawn_together():
    """Draws of both criteria come from one resampling: what is up in one is up in the other, with the sd of each."""
    luck = np.random.default_rng(0).standard_normal((3, 5000))
    luck = (luck - luck.mean(axis=1, keepdims=True)) / luck.std(axis=1, keepdims=True)
    shared = {("models", "val", "accuracy"): luck, ("calibration", "val", ECE): -luck}
    choice = choose.gather(table(), NONE, profile(), 5000, 0, shared)
    accuracy, ece, shape, _ = choice.draws
    assert np.corrcoef(accuracy[0], ece[0])[0, 1] > 0.999 > 0.1 > abs(np.corrcoef(accuracy[0], shape[0])[0, 1])
    assert accuracy.std(axis=1) == pytest.approx(np.full(3, 1 / 1.96 / 5 * 1000), rel=0.01)
    assert choice.shared == [True, True, False, False]


def test_an_estimate_without_an_interval_is_not_weighed_as_certain():
    bare = NUMBERS | {("calibration", "val", ECE, "fraction"): ([0.08, 0.04, 0.02], None)}
    assert [criterion.key for criterion in gathered(bare).criteria] == ["accuracy", "shape", "params"]


# Numbers of the same images


def outcomes(seed, n=60):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": [f"i{k}" for k in range(n)], "target": 0, "pred": rng.integers(0, 2, n)})
    frame = frame.assign(confidence=rng.random(n).round(4), target_probability=0.0)
    return Predictions("m", "d", "none", frame, None, None, {})


@pytest.mark.parametrize("metric", ["accuracy", ECE, "auroc", "accuracy:coverage=0.5"])
def test_a_statistic_of_counts_is_that_of_the_repeated_images(metric):
    found, counts = outcomes(1), np.random.default_rng(2).multinomial(60, np.full(60, 1 / 60), 3).astype(np.float32)
    values = choose.statistic_of(metric)(found)(counts)
    for value, row in zip(values, counts, strict=True):
        sure, right = (np.repeat(v, row.astype(int)) for v in (found.confidence, found.correct))
        expected = {
            "accuracy": right.mean(),
            ECE: calibration.ece(sure, right),
            "auroc": Ranked(sure, right).areas()[0, 0],
            "accuracy:coverage=0.5": right[np.argsort(-sure, kind="stable")[:30]].mean(),
        }[metric]
        # a tie at the cut of the coverage goes with the images before it
        assert value == pytest.approx(expected, abs=0.03 if "coverage" in metric else 1e-5)


def test_metrics_and_models_share_their_images():
    runs = {"a": outcomes(1), "twin": outcomes(1), "b": outcomes(3)}
    drawn = {m: choose.draw(runs, m, 400, np.random.default_rng(5)) for m in ("accuracy", "accuracy:coverage=0.5")}
    assert all((part[0] == part[1]).all() for part in drawn.values()) and drawn["accuracy"].shape == (3, 400)
    assert np.corrcoef(drawn["accuracy"][0], drawn["accuracy:coverage=0.5"][0])[0, 1] > 0.4
    assert choose.statistic_of("shape_bias") is None and choose.statistic_of("accuracy:shots=10") is None


# The page in a browser, and its tables

SCRIPT = """
  const read = () => ({
    order: [...document.querySelectorAll("#ranking tbody tr")].map(({ dataset: d }) => [d.model, +d.score, +d.best]),
    flip: [document.getElementById("flip").dataset.criterion, Number(document.getElementById("flip").dataset.weight)],
    hash: window.location.hash,
  });
  const out = { first: read() };
  const slider = document.getElementById("w-ece");
  for (const value of [10, 20, 30, 40, 90]) {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }
  out.moved = read();
  document.querySelector("[data-preset=balanced]").click();
  out.preset = read();
  out.pressed = [...document.querySelectorAll("[aria-pressed=true]")].map((b) => b.dataset.preset);
  await new Promise((done) => setTimeout(done, 400));
  out.said = document.getElementById("choice").textContent;
  out.wide = document.documentElement.scrollWidth;
  return out;
"""


@pytest.mark.browser
def test_the_script_ranks_as_python_does(tmp_path, chromium):
    choice = gathered(draws=choose.DRAWS)
    chromium.open(page(tmp_path), width=390, fragment="#accuracy=50&ece=20&shape=-3")
    found = chromium.run(SCRIPT)
    balanced = next(p.weights for p in choose.offered(choice) if p.key == "balanced")
    for got, given in (
        (found["first"], {"accuracy": 50, "ece": 20, "shape": -3}),
        (found["moved"], {"accuracy": 50, "ece": 90, "shape": -3}),
        (found["preset"], balanced),
    ):
        expected = choose.rank(choice, given)
        assert [row[0] for row in got["order"]] == expected.order
        assert [row[1] for row in got["order"]] == expected.scores
        assert [row[2] for row in got["order"]] == pytest.approx(expected.best, abs=1e-9)
        assert got["flip"] == [expected.flips[0].criterion, expected.flips[0].weight]
    assert found["moved"]["hash"] == "#accuracy=50&ece=90&shape=-3"
    assert found["pressed"] == ["balanced"] and found["said"].startswith("A tie of b, c")
    assert found["wide"] <= 390 and chromium.trouble == []


def test_speed_is_published_and_measured_or_said_to_be_lacking(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    models = {
        "swin": {"source": "timm", "name": "swin_base_patch4_window7_224.ms_in22k_ft_in1k", "label": "Swin"},
        "mine": {"source": "timm", "name": "local-dir:x", "label": "Mine <b>"},
    }
    content = {"name": "t", "title": "T", "models": models, "dimensions": {"models": {"clean": "val"}}}
    content["datasets"] = {"val": {"reader": "imagenet_folder", "path": "val"}}
    found = parse_profile(content, Path("trial.yaml"))
    both = [("models", "val", "accuracy", name, 80, 79, 81, 400, "percent") for name in models]
    rows = results.validate_results(pd.DataFrame(both, columns=results.RESULT_COLUMNS))
    soup = bs4.BeautifulSoup(body_of(rows, found).html, "html.parser")
    shown = [[cell.text for cell in row.select("th, td")] for row in soup.select("table[data-name=speed] tbody tr")]
    assert shown and {row[0] for row in shown} == {"Swin"} and {row[5] for row in shown} == {"published"}
    lacking = [hint.text for hint in soup.select("p.ba-hint") if "No rate" in hint.text]
    assert len(lacking) == 1 and lacking[0].endswith("Mine <b>.")


def test_how_much_more_data_would_settle_an_open_choice():
    rows = table({key: numbers for key, numbers in NUMBERS.items() if key[2] == "accuracy"})
    for verdict, said in ((verdicts.OPEN, True), (verdicts.THESE, False)):
        compared = paired("a", "b", 5, 10, verdict)  # 0.98 standard errors of the 2.80 that it takes
        choice = choose.gather(rows, compared, profile(), choose.DRAWS, 0)
        shown = choose.body(choice, profile()).html
        assert ("About 8.2 times as much data would settle Accuracy, clean." in shown) is said


def test_models_that_only_guess_are_not_ranked(tmp_path):
    rows = table({key: numbers for key, numbers in NUMBERS.items() if key[2] == "accuracy"})
    guess = paired("a", "", 1, 3, verdicts.OPEN, metric="above_majority")
    shared = {("models", "val", "accuracy"): np.repeat([[7], [0], [0]], choose.DRAWS, axis=1)}
    choice = choose.gather(rows, guess, profile(), choose.DRAWS, 0, shared)
    assert choice.models == ["b", "c"] and (choice.draws[0] == [[500], [-500]]).all()  # whose draws are their own
    assert [row["model"] for row in choose.advice(choice, profile())] == ["b or c"]
    assert choose.body(choice, profile(label="<{}>")).lead.endswith(" Not ranked, as no better than guessing: <a>.")
    assert choose.guessing(guess, rows, profile()) == {"a"}
    assert choose.guessing(paired("a", "", 1, 3, metric="above_majority"), rows, profile()) == set()
    chance = table({("models", "val", "accuracy", "percent"): ([0.2, 1.2, 80], 0.11)})  # of 1,000 classes
    assert choose.guessing(NONE, chance, profile()) == {"a"}
    ids = list("uvwxyz")
    (tmp_path / "six.json").write_text(json.dumps({"ids": ids, "names": ids, "templates": ["{c}"]}))
    weak, six = table({("models", "val", "accuracy", "percent"): ([19, 16, 80], 4)}), str(tmp_path / "six.json")
    choice = choose.gather(weak, NONE, profile(classes=six), choose.DRAWS, 0)
    assert (choice.guessing, choice.criteria, choose.advice(choice, profile())) == (["a", "b"], [], [])
