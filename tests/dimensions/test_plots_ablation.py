"""Figures and words of the ablation page."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.dimensions import ablation, ablation_quantities, plots_ablation, words_ablation
from beyond_accuracy.dimensions.ablation import Measured
from beyond_accuracy.show import theme as plots

FACTORS = ("architecture", "objective")
TITLES = {"world_val": "World val", "world_r": "World R", "world_cue": "World cue"}


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        plots.use_theme()
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def measured():
    """Architecture +8, objective -4, data +6 on World R alone, nothing else; a little noise of seeds."""
    cells = [(a, o, d, s) for a in (0, 1) for o in (0, 1) for d in (0, 1) for s in (0, 1, 2)]
    levels = list(ablation.LEVELS.values())
    runs = pd.DataFrame(
        [(levels[0][a], levels[1][o], levels[2][d], s) for a, o, d, s in cells], columns=[*ablation.LEVELS, "seed"]
    )
    a, o, d, s = np.array(cells).T
    clean = 70 + 8 * a - 4 * o + 0.1 * (s - 1)
    values = np.stack([clean, clean - 20 + 6 * d, 0.5 + 0.05 * a + 0.001 * s])
    quantities = pd.DataFrame(
        {
            "dataset": ["world_val", "world_r", "world_cue"], "metric": ["accuracy", "accuracy", "shape_bias"],
            "unit": ["percent", "percent", "fraction"], "n": 1000, "clusters": 1000,
        }
    )  # fmt: skip
    case = Measured(runs, quantities, values, np.zeros((3, 24, 24)))
    return ablation_quantities.with_gaps(case, "world_val", {"renditions": ["world_r"]})


@pytest.fixture(scope="module")
def table(measured):
    fitted = ablation.effects(measured, tuple(ablation.LEVELS))
    return words_ablation.judged(fitted, TITLES, [*words_ablation.TERMS, *words_ablation.DIVERSITY_TERMS])


def test_rows_for_readers(table):
    assert list(dict.fromkeys(table.panel)) == [
        "Accuracy", "Gap to the clean set", "Gap in log-odds", "Cues and confidence"
    ]  # fmt: skip
    bias = table[table.row == "shape bias"].set_index("term").value
    assert bias["architecture"] == pytest.approx(5.0)  # points, from a fraction
    one = table[(table.row == "World R") & (table.panel == "Gap to the clean set")].set_index("term")
    assert one.value["diversity"] == pytest.approx(6) and one.decided["diversity"]
    assert one.value["architecture"] == pytest.approx(0, abs=1e-9) and not one.decided["architecture"]


def test_effects_are_drawn_at_their_values_hollow_where_undecided(table):
    part = table[table.metric.isin(["accuracy", "accuracy_gap"])]
    fig = plots_ablation.effects_figure(part, words_ablation.TERMS, words_ablation.XLABELS)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["Accuracy", "Gap to the clean set"]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["World val", "World R"]
    drawn = [c.lines[0] for c in fig.axes[0].containers]
    assert [round(float(line.get_xdata()[0]), 3) for line in drawn] == [8.0, 8.0, -4.0, -4.0, 0.0, 0.0]
    assert {line.get_marker() for line in drawn} == {"o", "s", "D"}
    assert [line.get_markerfacecolor() == "white" for line in drawn] == [False] * 4 + [True] * 2
    assert fig.axes[0].get_ylim()[0] > fig.axes[0].get_ylim()[1]


def test_a_quantity_that_one_effect_lacks_leaves_a_hole(table):
    part = table[(table.panel == "Accuracy") & ~((table.row == "World R") & (table.term == "objective"))]
    fig = plots_ablation.effects_figure(part, words_ablation.TERMS, words_ablation.XLABELS)
    assert len(fig.axes[0].containers) == 5


def test_cells_show_every_run_and_the_own_models(measured):
    runs = (
        ablation_quantities.long(measured).query("metric == 'accuracy'").assign(title=lambda f: f.dataset.map(TITLES))
    )
    own = pd.DataFrame({"title": ["World R"], "architecture": ["convnet"], "objective": ["clip"], "value": [51.0]})
    fig = plots_ablation.cells_figure(runs, ["World val", "World R", "World cue"], own)
    visible = [ax for ax in fig.axes if ax.get_visible()]
    assert len(visible) == 3 and len(fig.axes) == 4
    lines = {line.get_label(): line for line in visible[0].lines}
    assert lines["ViT"].get_ydata() == pytest.approx([70, 66])
    assert lines["ConvNeXt"].get_ydata() == pytest.approx([78, 74])
    assert sum(len(line.get_xdata()) == 12 for line in visible[0].lines) == 2  # runs of each architecture
    stars = [line for line in visible[1].lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in stars] == [[51.0]]


def test_narrow_beside_broad(measured):
    runs = (
        ablation_quantities.long(measured).query("metric == 'accuracy'").assign(title=lambda f: f.dataset.map(TITLES))
    )
    fig = plots_ablation.diversity_figure(runs, ["World val", "World R"])
    lines = {line.get_label(): line for line in fig.axes[1].lines}
    assert lines["ConvNeXt, CLIP"].get_ydata() == pytest.approx([54, 60])
    assert lines["ConvNeXt, CLIP"].get_linestyle() == "--" and lines["ViT, supervised"].get_linestyle() == "-"
    assert "World R narrow 52.0, broad 58.0 %" in words_ablation.diversity_words(runs)


def test_statements_say_what_is_decided(table):
    rows = table[table.panel == "Accuracy"]
    said = words_ablation.statement(rows, "architecture", "ConvNeXt instead of ViT")
    assert said.startswith("ConvNeXt instead of ViT: World val +8.0 [+7.9") and "undecided" not in said
    said = words_ablation.statement(rows, "architecture:objective", "Together")
    assert said == "Together: undecided on World val and World R."


def test_robustness_needs_both_scales_and_no_loss_of_accuracy(table):
    rows = table[table.dataset == "world_r"]
    terms = {"diversity": "broad data", "architecture": "ConvNeXt"}
    said = words_ablation.robustness(rows, "renditions", "World val", terms)
    assert said.startswith("Renditions: broad data brings robustness (accuracy there +6.0 [")
    assert "; relative to World val +6.0 [" in said
    assert "ConvNeXt is undecided (accuracy there +8.0" in said  # log-odds alone differ: nothing in points

    def turned(**signs):
        sign = rows.metric.map(signs).fillna(1)
        return words_ablation.robustness(rows.assign(value=sign * rows.value), "r", "c", terms)

    assert "broad data is undecided" in turned(accuracy_gap=-1)
    assert "broad data is less accurate there, but loses less (" in turned(accuracy=-1)
    assert "broad data is more accurate there, but loses more (" in turned(accuracy_gap=-1, log_odds_gap=-1)
    assert "broad data costs robustness (" in turned(accuracy=-1, accuracy_gap=-1, log_odds_gap=-1)


def test_no_verdict_where_a_cell_guesses(measured, table):
    fitted = ablation.effects(measured, tuple(ablation.LEVELS))
    mute = words_ablation.with_means(["world_r"], {"renditions": ["world_r", "world_sketch"], "others": ["world_v2"]})
    assert mute == {"world_r", "renditions"}
    silent = words_ablation.judged(fitted, TITLES, words_ablation.TERMS, mute)
    gaps = silent[silent.metric.isin(words_ablation.GAPS)]
    assert (gaps.row == "World R (at chance)").all() and gaps.p_holm.isna().all() and not gaps.decided.any()
    assert silent[silent.metric == "accuracy"].p_holm.notna().all()
    kept = words_ablation.told(fitted, mute)
    assert set(kept[kept.dataset == "world_r"].metric) == {"accuracy"}
    cells = pd.DataFrame(
        {
            "dataset": "world_r", "architecture": "convnet", "objective": "clip", "diversity": ["broad", "narrow"],
            "value": [7.0, 6.0], "ci_low": [5.0, 4.0], "ci_high": [9.0, 8.0], "chance": 6.25,
        }
    )  # fmt: skip
    assert words_ablation.no_verdict("renditions", cells, TITLES) == (
        "Renditions: no verdict on robustness, for some cells guess: World R (chance 6.2 %) by ConvNeXt, CLIP on broad "
        "data 7.0 [5.0, 9.0] % and ConvNeXt, CLIP on narrow data 6.0 [4.0, 8.0] %."
    )


def test_gaps_stand_beside_the_accuracy_they_are_gaps_of(measured, table):
    cells = ablation_quantities.cell_means(measured, tuple(ablation.LEVELS))
    gaps = words_ablation.shown(table[table.panel == "Gap to the clean set"], words_ablation.TERMS, cells)
    assert gaps["accuracy there (%)"].tolist() == ["46.0 to 64.0"]
    accuracy = words_ablation.shown(table[table.panel == "Accuracy"], words_ablation.TERMS, cells)
    assert "accuracy there (%)" not in accuracy


def test_seed_words_and_rows(measured):
    narrow = measured.where(measured.runs.diversity == "narrow")
    noise = ablation_quantities.seed_noise(narrow, FACTORS)
    rows = words_ablation.seed_rows(noise)
    assert rows.iloc[0].to_dict() | {"ci_low": 0, "ci_high": 0} == {
        "dataset": "world_val", "metric": "seed_sd:accuracy", "model": "convnet_clip", "value": pytest.approx(0.1),
        "ci_low": 0, "ci_high": 0, "n": 1000, "unit": "points",
    }  # fmt: skip
    assert not rows.duplicated(["dataset", "metric", "model"]).any()
    shown = words_ablation.seed_table(words_ablation.labelled(noise, TITLES))
    assert shown["ViT, supervised"][0] == pytest.approx(0.1) and "ViT, supervised_low" in shown
    least = ablation_quantities.least_differences(noise[noise.metric == "accuracy"], FACTORS)
    least = words_ablation.labelled(least, TITLES)
    wide = words_ablation.least_table(least)
    assert len(wide) == 10 and {"two of ViT, CLIP", "ConvNeXt, CLIP and ViT, CLIP"} <= set(wide.runs)
    assert wide["World R"].gt(0).all()
    said = words_ablation.seed_sentence(least, "World val")
    assert (
        "nothing but the seed lie up to 0.6 (" in said and "ViT, CLIP)" in said and "points apart on World val" in said
    )


def test_tables_for_readers(measured, table):
    shown = words_ablation.shown(table[table.panel == "Accuracy"], words_ablation.TERMS)
    assert shown.row.tolist() == ["World val", "World R"]
    assert shown["ConvNeXt − ViT"].tolist() == pytest.approx([8, 8])
    assert shown["p (Holm)"][0].split(" · ")[:2] == ["<.001", "<.001"]
    cells = ablation_quantities.cell_means(measured, FACTORS).query("dataset == 'world_val' and metric == 'accuracy'")
    assert words_ablation.cell_words(cells.iloc[:1]) == "ConvNeXt, CLIP 74.0 % (73.9 to 74.1)."
    alone = measured.where((measured.runs.diversity == "narrow") & (measured.runs.seed == 0))
    longer = words_ablation.labelled(ablation.single_values(alone, FACTORS), TITLES)
    budget = words_ablation.beside_longer(table, longer, ["world_val"])
    assert budget[budget.term == "CLIP − supervised"].value_longer.tolist() == pytest.approx([-4])


def test_own_models_of_other_kinds_are_left_out():
    results = pd.DataFrame(
        [("world_r", "accuracy", m, 50.0) for m in ("a", "b")]
        + [("world_r", "ece", "a", 0.1), ("x", "accuracy", "a", 1)],
        columns=["dataset", "metric", "model", "value"],
    )
    specs = [ModelSpec("a", "timm", family="convnet", paradigm="clip"), ModelSpec("b", "timm", family="hybrid")]
    own = words_ablation.own_runs([results, results], specs, TITLES)
    assert own.to_dict("records") == [
        {"model": "a", "title": "World R", "architecture": "convnet", "objective": "clip", "value": 50.0}
    ]
    assert words_ablation.own_runs([], specs, TITLES).empty


def test_alt_text_has_the_numbers(table):
    said = words_ablation.alt(table[table.panel == "Accuracy"], words_ablation.TERMS)
    assert "ConvNeXt − ViT: World val +8, World R +8; CLIP − supervised: World val -4" in said
