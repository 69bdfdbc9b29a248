"""What the ablation page says of worked effects: verdicts, tables, the figure of the runs, sentences."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.dimensions import ablation
from beyond_accuracy.dimensions.ablation import THREE, TWO, Measured

TITLES = {"world_val": "World val", "world_r": "World R", "world_cue": "World cue", "renditions": "renditions (mean)"}
GROUPS = {"renditions": ["world_r", "world_sketch"]}


@pytest.fixture(scope="module")
def measured():
    """Architecture +8, objective -4, data +6 on World R alone, nothing else; a little noise of seeds."""
    a, o, d, s = np.array(list(product((0, 1), (0, 1), (0, 1), (0, 1, 2)))).T
    runs = pd.DataFrame(list(product(*ablation.LEVELS.values(), range(3))), columns=[*ablation.LEVELS, "seed"])
    clean = 70 + 8 * a - 4 * o + 0.1 * (s - 1)
    values = np.stack([clean, clean - 20 + 6 * d, 0.5 + 0.05 * a + 0.001 * s])
    about = {"dataset": ["world_val", "world_r", "world_cue"], "metric": ["accuracy", "accuracy", "shape_bias"]}
    quantities = pd.DataFrame(about | {"unit": ["percent", "percent", "fraction"], "n": 1000, "clusters": 1000})
    case = Measured(runs.assign(samples_seen=64_000), quantities, values, np.zeros((3, 24, 24)))
    return ablation.with_gaps(case, "world_val", {"r": ["world_r"]})


@pytest.fixture(scope="module")
def narrow(measured):
    return measured.where(measured.runs.diversity == "narrow")


@pytest.fixture(scope="module")
def both(measured):
    return ablation.answer(measured, THREE, TITLES, GROUPS, {"world_r": 6.25})


def tables(answered):
    """What `Answers.tables` shows: name -> frame and caption."""
    shown = {}
    page = SimpleNamespace(table=lambda frame, name, caption, **_: shown.update({name: (frame, caption)}))
    answered.tables(page, "diversity", ", both training sets")
    return shown


def test_effects_in_points_with_verdicts(both):
    assert list(dict.fromkeys(both.effects.panel)) == [panel["title"] for panel in ablation.PANELS.values()]
    bias = both.effects[both.effects.row == "shape bias"].set_index("term").value
    assert bias["architecture"] == pytest.approx(5.0)  # points, from a fraction
    gap = both.sets("gap").set_index("term")
    assert gap.value["diversity"] == pytest.approx(6) and not gap.hollow["diversity"]
    assert gap.value["architecture"] == pytest.approx(0, abs=1e-9) and gap.hollow["architecture"]
    assert set(both.sets("gap", about="diversity").term) == {name for name in gap.index if "diversity" in name}
    # Holm goes over one panel
    part = both.effects[both.effects.panel == "Accuracy (points)"]
    assert len(part) == 10 and part.p_holm.max() == 1
    assert part.p_holm.min() == pytest.approx(10 * part.p.min())


def test_results_name_the_effect_in_the_place_of_the_model(narrow, both):
    row = ablation.answer(narrow, TWO, TITLES, GROUPS, {}).recorded.set_index("model")
    row = row.query("dataset == 'world_val' and metric == 'effect:accuracy'")
    expected = {"convnet_minus_transformer": 8, "clip_minus_supervised": -4, "interaction:architecture_x_objective": 0}
    assert row.value.to_dict() == pytest.approx(expected, abs=1e-9) and set(row.unit) == {"points"}
    assert set(both.recorded.model) == {w["recorded"] for t, w in ablation.EFFECTS.items() if "diversity" in t}


def test_tables_for_readers(both):
    frame, caption = (shown := tables(both))["diversity-accuracy"]
    assert frame.on.tolist() == ["World val", "World R"] and caption.startswith("Accuracy, in points, both training")
    assert frame["ConvNeXt − ViT"].tolist() == pytest.approx([8, 8])
    assert frame["p (Holm)"][1].split(" · ")[0] == "<.001"
    frame, caption = shown["diversity-gap"]
    assert frame["accuracy there (%)"].tolist() == ["46.0 to 64.0"] and "at chance" in caption.lower()


def test_statements_say_what_is_decided(both):
    said = both.statement("architecture")
    assert said.startswith("ConvNeXt instead of ViT, all else equal (points): World val +8.0 [+7.9")
    assert "undecided" not in said
    assert both.statement("diversity").endswith("]; undecided on World val.")


def test_nothing_is_said_where_a_cell_guesses(measured):
    silent = ablation.answer(measured, THREE, TITLES, GROUPS, {"world_r": 47.0})  # ViT, CLIP, narrow: 46 %
    assert silent.silent == {"world_r", "renditions"}
    gaps = silent.sets("gap", "gap-log-odds")
    assert (gaps.row == "World R (at chance)").all() and gaps.p_holm.isna().all() and gaps.hollow.all()
    assert silent.sets("accuracy").p_holm.notna().all()
    assert set(silent.recorded[silent.recorded.dataset == "world_r"].metric) == {"effect:accuracy"}
    said = next(ablation.robustness_sentences({"both": silent}, "world_val"))
    assert said.startswith("Renditions (mean), both: no verdict on robustness, for some cells guess: World R (chance")
    assert "by ViT, CLIP on narrow data 46.0 [45.8, 46.2] %" in said


def test_robustness_needs_both_scales_and_no_loss_of_accuracy():
    def verdict(there, points, odds, open_=()):
        numbers = {"there": there, "points": points, "odds": odds}
        rows = {name: pd.Series({"value": value, "hollow": name in open_}) for name, value in numbers.items()}
        return ablation.robustness_verdict(*rows.values())

    assert verdict(6, 6, 0.5) == "brings robustness" == verdict(-6, 6, 0.5, ["there"])
    assert verdict(6, -6, 0.5) == "is undecided" == verdict(6, 6, 0.5, ["odds"])
    assert verdict(-6, 6, 0.5) == "is less accurate there, but loses less"
    assert verdict(6, -6, -0.5) == "is more accurate there, but loses more"
    assert verdict(-6, -6, -0.5) == "costs robustness"


def test_robustness_sentence_names_every_cause(both):
    as_mean = both.effects[both.effects.dataset == "world_r"].assign(dataset="renditions")
    said = replace(both, effects=as_mean, silent=set()).robustness("renditions", "renditions", "World val")
    assert "broad instead of narrow data brings robustness (accuracy there +6.0 [" in said
    assert "ConvNeXt instead of ViT is undecided (accuracy there +8.0" in said  # log-odds alone differ


def test_without_seeds_there_are_no_effects(narrow):
    few = ablation.answer(narrow, THREE, TITLES, GROUPS, {"world_r": 6.25})
    assert "broad: 0 training runs" in few.lacking
    assert few.effects.empty and few.recorded.empty and few.sets("accuracy").empty
    assert tables(few) == {} and list(ablation.robustness_sentences({"": few}, "world_val")) == []
    assert ablation.accuracies(narrow, [], TWO).empty


def test_every_run_and_the_own_models_are_drawn(measured):
    runs = ablation.accuracies(measured, ["world_r", "world_val"], ["architecture"])
    own = pd.DataFrame({"dataset": ["world_r"], "model": ["convnet"], "objective": ["clip"], "value": [51.0]})
    fig, words = ablation.slopes(runs, "objective", ablation.LOOKS, own)
    assert [ax.get_title("left") or ax.get_title() for ax in fig.axes] == ["world r", "world val"]
    lines = {line.get_label(): line for line in fig.axes[1].lines}
    assert lines["ViT"].get_ydata() == pytest.approx([70, 66])
    assert lines["ConvNeXt"].get_ydata() == pytest.approx([78, 74])
    assert sum(len(line.get_xdata()) == 12 for line in fig.axes[1].lines) == 2  # runs of each architecture
    stars = [line for line in fig.axes[0].lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in stars] == [[51.0]]
    assert "world val, ConvNeXt, CLIP 74.0" in words


def test_own_models_of_other_kinds_are_left_out():
    rows = [("world_r", "accuracy", m, 50.0) for m in "aba"] + [("world_r", "ece", "a", 0.1), ("x", "accuracy", "a", 1)]
    results = pd.DataFrame(rows, columns=["dataset", "metric", "model", "value"])
    specs = [ModelSpec("a", "timm", family="convnet", paradigm="clip"), ModelSpec("b", "timm", family="hybrid")]
    (row,) = ablation.own_models(results, specs, TITLES).to_dict("records")
    assert row == {"dataset": "World R", "metric": "accuracy", "model": "convnet", "value": 50.0, "objective": "clip"}
    assert ablation.own_models(results.iloc[:0], specs, TITLES).empty


def test_luck_of_the_seed(narrow):
    noise = ablation.seed_noise(narrow, TWO)
    rows, keys = ablation.seed_rows(noise), ["dataset", "metric", "model", "unit"]
    assert rows.iloc[0][keys].tolist() == ["world_val", "seed_sd:accuracy", "convnet_clip", "points"]
    assert rows.value.iloc[0] == pytest.approx(0.1) and not rows.duplicated(["dataset", "metric", "model"]).any()
    shown = ablation.seed_table(noise, TITLES)
    assert shown["ViT, supervised"][0] == pytest.approx(0.1) and "ViT, supervised_low" in shown
    least = ablation.least_table(noise, TITLES)
    assert len(least) == 10 and {"two of ViT, CLIP", "ConvNeXt, CLIP and ViT, CLIP"} <= set(least["two single runs"])
    said = ablation.seed_sentence(least, "World val")
    assert "nothing but the seed lie up to 0.6 (" in said and "points apart on World val" in said


def test_another_budget_stands_beside(measured, narrow, both):
    alone = narrow.where(narrow.runs.seed == 0)
    longer = replace(alone, runs=alone.runs.assign(samples_seen=160_000))
    budget = ablation.beside_longer(both, measured, longer)
    assert budget[budget.effect == "CLIP − supervised"]["160,000 samples"].tolist()[:2] == pytest.approx([-4, -4])
    assert ablation.beside_longer(both, measured, longer.where(longer.runs.objective == "clip")).empty
