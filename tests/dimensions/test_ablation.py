"""Effects of the ablation: by hand, against independent computations, at the edges, their coverage; then the page."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from pytest import approx
from scipy import stats as scipy_stats

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.dimensions import ablation
from beyond_accuracy.dimensions.ablation import THREE, TWO, Measured

# Cell means; the three seeds lie at -1, 0, +1.
MEANS = {("transformer", "supervised"): 50, ("transformer", "clip"): 60, ("convnet", "supervised"): 58,
         ("convnet", "clip"): 80}  # fmt: skip
# ConvNets (58 + 80) / 2 - Transformers (50 + 60) / 2 = 14; CLIP (60 + 80) / 2 - (50 + 58) / 2 = 16;
# interaction (80 - 58) - (60 - 50) = 12.
EFFECTS = {"architecture": 14, "objective": 16, "architecture:objective": 12}
SPREADS = np.array([0.98, 3.41, 0.28, 1.46])  # of World val in the shipped runs: ViT, ViT CLIP, ConvNeXt, ConvNeXt CLIP


def runs_of(factors, seeds):
    cells = product(*(ablation.LEVELS[factor] for factor in factors), range(seeds))
    return pd.DataFrame(list(cells), columns=[*factors, "seed"])


RUNS = runs_of(TWO, 3)
CONVNET = np.where(RUNS.architecture == "convnet", 1.0, -1.0)
WORKED = [MEANS[a, o] + s - 1 for a, o, s in RUNS.itertuples(index=False)]


def measured(values, runs=RUNS, covariance=None, n=1000, metrics=("accuracy",), datasets=("world_val",)):
    values = np.atleast_2d(np.asarray(values, float))
    keys = list(product(datasets, metrics))
    quantities = pd.DataFrame(keys, columns=["dataset", "metric"]).assign(unit="percent", n=n, clusters=n)
    covariance = np.zeros((len(values), len(runs), len(runs))) if covariance is None else covariance
    return Measured(runs, quantities, values, np.asarray(covariance, float))


def by_term(case, factors=TWO):
    return ablation.effects(case, factors).set_index("term")


def test_two_by_two_by_three_by_hand():
    table = by_term(measured(WORKED))
    assert table.value.to_dict() == approx(EFFECTS)
    # Residuals -1, 0, 1 in four cells: s^2 = 8 / 8 = 1. A main effect is a difference of two means of 6 runs, with
    # variance 2 / 6; the interaction is a sum of four means of 3 with signs, with variance 4 / 3.
    assert table.se.tolist() == approx([3**-0.5, 3**-0.5, (4 / 3) ** 0.5]) and (table.se_images == 0).all()
    assert table.df.tolist() == approx([8] * 3)
    half = 2.306004135 * 3**-0.5  # t, 97.5 %, 8 degrees of freedom
    assert (table.ci_low["architecture"], table.ci_high["architecture"]) == approx((14 - half, 14 + half))


def test_image_noise_by_hand():
    # Each run has noise of its own of variance 0.06 (for example images on which seeds disagree), all share 5: the
    # shared part cancels, and the runs' own part, 2 / 6 * 0.06 = 0.02, is what s^2 already holds. Cells differ besides:
    # images that favour ConvNets or Transformers give their difference a variance of 4 * 0.09 = 0.36.
    table = by_term(measured(WORKED, covariance=[5 + 0.06 * np.eye(12) + 0.09 * np.outer(CONVNET, CONVNET)]))
    assert table.se_images.tolist() == approx([0.6, 0, 0], abs=1e-7)
    assert table.se["architecture"] == approx((1 / 3 + 0.36) ** 0.5)
    satterthwaite = (1 / 3 + 0.36) ** 2 / ((1 / 3) ** 2 / 8 + (0.38**2 + 0.02**2 / 8) / 999)  # four equal variances
    assert table.df["architecture"] == approx(satterthwaite) and table.df["objective"] == approx(8, rel=1e-3)


def test_image_covariance_is_that_of_means_and_of_cluster_sums():
    values = np.random.default_rng(0).normal(size=(3, 40))
    copies = np.repeat(values, 5, axis=1), np.repeat([f"c{k}" for k in range(40)], 5)  # of an image add nothing
    for arguments in ([values], copies):
        assert ablation.image_covariance(*arguments) == approx(np.cov(values) / 40)
    with pytest.raises(ValueError, match="two clusters"):
        ablation.image_covariance(values, np.zeros(40))
    with pytest.raises(ValueError, match="finite"):
        ablation.image_covariance([[0.0, np.nan]])


def test_two_cells_are_welchs_t_test():
    """One factor, unequal variances and numbers of seeds: the same as scipy's."""
    runs = runs_of(["architecture"], 6).drop(index=[1, 2]).reset_index(drop=True)
    values = np.random.default_rng(5).normal(size=10) * np.where(runs.architecture == "convnet", 5.0, 0.5)
    sides = [values[runs.architecture == level] for level in ("convnet", "transformer")]
    weights = ablation.effect_weights(runs, ["architecture"])
    row = ablation.contrasts(measured(values, runs), ["architecture"], weights).iloc[0]
    welch = scipy_stats.ttest_ind(*sides, equal_var=False)
    assert row.p == approx(welch.pvalue) and row.df == approx(welch.df)
    assert (row.ci_low, row.ci_high) == approx(tuple(welch.confidence_interval()))


def test_effects_and_errors_are_those_of_a_heteroscedastic_regression():
    """HC2 (MacKinnon and White 1985) is exact where every cell has a parameter of its own; cells of 2 to 4 seeds."""
    runs = runs_of(THREE, 4).drop(index=[0, 1, 9, 30]).reset_index(drop=True)
    values = np.random.default_rng(1).normal(size=len(runs))
    coded = runs.assign(y=values, **{f: np.where(runs[f] == ablation.LEVELS[f][1], 0.5, -0.5) for f in THREE})
    fit = smf.ols("y ~ architecture * objective * diversity", coded).fit(cov_type="HC2")
    mine = by_term(measured(values, runs), THREE)
    assert mine.value.to_dict() == approx(fit.params[1:].to_dict())
    assert mine.se.to_dict() == approx(fit.bse[1:].to_dict())


def test_image_part_is_that_of_per_image_contrasts():
    rng, runs = np.random.default_rng(2), runs_of(TWO, 2)
    images = rng.normal(size=(8, 500)) + 2 * (runs.architecture == "convnet").to_numpy()[:, None] * rng.normal(size=500)
    case = measured(images.mean(axis=1), runs, [ablation.image_covariance(images)], n=500)
    sign = np.where(runs.architecture == "convnet", 0.25, -0.25)
    within = images.reshape(4, 2, 500)
    within = (within - within.mean(axis=1, keepdims=True)).reshape(8, 500)
    interaction = np.var(within, axis=1, ddof=1).sum() / 4 / 500  # per run and image, as part of the mean's variance
    expected = np.var(sign @ images, ddof=1) / 500 - interaction * (sign**2).sum()
    assert by_term(case).se_images["architecture"] == approx(expected**0.5)


@pytest.mark.parametrize(
    ("runs", "chosen", "message"),
    [
        (RUNS, RUNS.seed == 0, "1 training run, intervals need at least 2 seeds.*mini_world.train"),
        (RUNS, RUNS.index < 9, "convnet, clip: 0 training runs"),
        (RUNS.assign(seed=0), RUNS.seed >= 0, "seed occurs twice"),
    ],
)
def test_cells_that_lack_seeds_are_named(runs, chosen, message):
    with pytest.raises(InputError, match=message):
        ablation.effects(measured(WORKED, runs).where(chosen), TWO)


def test_edges():
    with pytest.raises(InputError, match="transformer or convnet, got mlp"):
        ablation.effect_weights(RUNS.assign(architecture="mlp"), TWO)
    both = measured([WORKED, [np.nan, *WORKED[1:]]], metrics=("accuracy", "shape_bias"))
    assert set(ablation.effects(both, TWO).metric) == {"accuracy"}
    assert ablation.effects(both.only([False, True]), TWO).empty
    with pytest.raises(InputError, match="ece on world_val was not measured"):
        both.position("world_val", "ece")
    alike = ablation.effects(measured(np.full(12, 70.0)), TWO)  # runs that do not differ at all
    assert (alike.value.abs() < 1e-9).all() and (alike.se < 1e-9).all() and np.isfinite(alike.ci_low).all()


def test_gaps_and_averages():
    shifted, spread = [v / 2 + 5 for v in WORKED], [np.eye(12) * 0.5, np.eye(12) * 0.25]
    case = measured([WORKED, shifted], covariance=spread, datasets=("world_val", "world_r"))
    gap = ablation.gaps(case, "world_val", ["world_r"])
    assert gap.values[0] == approx([5 - v / 2 for v in WORKED]) and gap.covariance[0] == approx(np.eye(12) * 0.75)
    assert gap.quantities[["metric", "unit"]].values.tolist() == [["accuracy_gap", "points"]]
    odds = ablation.gaps(case, "world_val", ["world_r"], "logit")
    p, q = shifted[0] / 100, WORKED[0] / 100
    assert odds.values[0, 0] == approx(np.log(p / (1 - p)) - np.log(q / (1 - q)))
    assert odds.covariance[0, 0, 0] == approx((0.25 / (p * (1 - p)) ** 2 + 0.5 / (q * (1 - q)) ** 2) / 100**2)  # delta
    mean = ablation.average(case, ["world_val", "world_r"], "both")
    assert mean.values[0] == approx(np.mean([WORKED, shifted], axis=0))
    assert mean.covariance[0] == approx(np.eye(12) * 0.75 / 4) and (case + mean).position("both") == 2
    # a run that is always right has none
    case = measured([[100.0, *WORKED[1:]], WORKED], datasets=("world_val", "world_r"))
    odds = ablation.gaps(case, "world_val", ["world_r"], "logit")
    assert np.isnan(odds.values[0, 0]) and np.isfinite(odds.values[0, 1:]).all()
    assert ablation.effects(odds, TWO).empty
    # means and gaps of groups
    case = measured([WORKED, np.subtract(WORKED, 10), np.subtract(WORKED, 20)], datasets=("val", "r", "sketch"))
    total = ablation.with_gaps(case, "val", {"renditions": ["r", "sketch"], "alone": ["r"]})
    assert total.values[total.position("renditions", "accuracy_gap")] == approx(np.full(12, -15.0))
    assert total.quantities.query("metric == 'accuracy'").dataset.tolist() == ["val", "r", "sketch", "renditions"]
    assert total.quantities.n[total.position("renditions")] == 2000


def test_seed_noise_is_told_for_each_cell_by_hand():
    values = np.where((RUNS.architecture == "convnet") & (RUNS.objective == "clip"), 80 + 3 * (RUNS.seed - 1), WORKED)
    table = ablation.seed_noise(measured(values), TWO)
    assert table.value.tolist() == approx([3, 1, 1, 1]) and (table.df == 2).all()
    first = table.iloc[0]
    assert (first.architecture, first.objective) == ("convnet", "clip")
    assert (first.ci_low, first.ci_high) == approx((3 * (2 / 7.377759) ** 0.5, 3 * (2 / 0.0506356) ** 0.5))
    least = ablation.least_differences(table, TWO).set_index(["first", "second"]).value
    assert len(least) == 10  # four cells, alone and in pairs
    assert least["transformer clip", "transformer clip"] == approx(4.302653 * 2**0.5)
    assert least["convnet clip", "convnet clip"] == approx(3 * 4.302653 * 2**0.5)
    # Welch: 10^2 / (9^2 / 2 + 1 / 2) degrees of freedom
    assert least["convnet clip", "transformer clip"] == approx(scipy_stats.t.ppf(0.975, 100 / 41) * 10**0.5)


def test_seeds_that_lie_closer_than_images_allow_count_as_the_images():
    case = measured(np.full(12, 70.0), covariance=[5 + 0.04 * np.eye(12)])  # each run 0.04 of its own
    assert ablation.seed_noise(case, TWO).value.tolist() == approx([0.2] * 4)
    assert ablation.effects(case, TWO).se.tolist() == approx([0.2 * 3**-0.5] * 2 + [0.2 * (4 / 3) ** 0.5])


def test_intervals_and_least_differences_hold_where_cells_are_unequally_fickle():
    """Runs without any effect: with one pooled variance intervals cover 91 %, and the most fickle cell exceeds 27 %."""
    rng, spread = np.random.default_rng(7), dict(zip(map(" ".join, MEANS), SPREADS, strict=True))
    case = measured(np.repeat(SPREADS, 3) * rng.normal(size=(3000, 12)), metrics=[f"m{k}" for k in range(3000)])
    table = ablation.effects(case, TWO)
    covered = ((table.ci_low <= 0) & (0 <= table.ci_high)).groupby(table.term).mean()
    assert (covered > 0.93).all() and (covered < 0.98).all()
    least = ablation.least_differences(ablation.seed_noise(case, TWO), TWO)
    gap = np.hypot(least["first"].map(spread), least["second"].map(spread)) * rng.normal(size=len(least))
    exceeded = (gap.abs() > least.value).groupby([least["first"], least["second"]]).mean()
    assert len(exceeded) == 10 and (exceeded < 0.065).all() and (exceeded > 0.02).all()


def test_cells_that_cannot_be_told_from_guessing():
    means = np.repeat([7.0, 30.0, 6.0, 9.0], 3) + np.tile([-0.5, 0.0, 0.5], 4)
    # three seeds 0.5 apart: 7.0 +- 4.30 * 0.5 / sqrt(3) = 7.0 +- 1.24 reaches down to 6.25, 9.0 +- 1.24 does not
    cells, half = ablation.cell_means(measured(means, datasets=("sketch",)), TWO), 4.302653 * 0.5 / 3**0.5
    row = cells.set_index(list(TWO)).loc[("transformer", "supervised")]
    assert (row.value, row.ci_low, row.ci_high) == approx((7, 7 - half, 7 + half))
    weak = ablation.at_chance(cells, {"sketch": 6.25})
    assert sorted(weak.value) == approx([6, 7]) and set(weak.chance) == {6.25}
    assert ablation.at_chance(cells, {"another": 50}).empty
    # images that are hard for all runs are noise of the mean, too: 9.0 +- 1.96 * 2 or more
    shared = measured(means, covariance=np.full((1, 12, 12), 4.0), datasets=("sketch",))
    assert len(ablation.at_chance(ablation.cell_means(shared, TWO), {"sketch": 6.25})) == 3
    assert ablation.guessing(np.array([3, 1, 2]), 16) == 6.25
    assert ablation.guessing([np.array([3, 1]), np.array([2]), np.array([0, 1, 2])], 16) == 12.5


def simulate(rng, cases, n=150):
    """Runs x images: effects of images on cells, of runs, and of runs on single images; truth 0, 2, 0."""
    images = 2.0 * np.where(RUNS.objective == "clip", 0.5, -0.5)[:, None] + 3 * rng.normal(size=(cases, 1, n))
    images = images + CONVNET[:, None] / 2 * 8 * rng.normal(size=(cases, 1, n))  # ConvNets differ by image
    images += 0.4 * rng.normal(size=(cases, 12, 1)) + 4 * rng.normal(size=(cases, 12, n))
    covariance = list(map(ablation.image_covariance, images))
    return measured(images.mean(axis=2), covariance=covariance, n=n, metrics=[f"m{k}" for k in range(cases)])


def test_intervals_cover_the_truth():
    table = ablation.effects(simulate(np.random.default_rng(4), 400), TWO)
    expected = table.term.map({"architecture": 0.0, "objective": 2.0, "architecture:objective": 0.0})
    covered = ((table.ci_low <= expected) & (expected <= table.ci_high)).groupby(table.term).mean()
    # Taking the larger of an image component and 0 errs on the safe side; never below the nominal level.
    assert (covered > 0.925).all() and (covered < 0.995).all()
    seeds_alone = (table.value - expected).abs() <= scipy_stats.t.ppf(0.975, 8) * table.se_seeds
    assert seeds_alone[table.term == "architecture"].mean() < 0.88  # what ignoring the images would cost


def test_one_run_per_cell_gives_values_without_intervals():
    alone = measured(WORKED).where(RUNS.seed == 1)
    assert ablation.single_values(alone, TWO).set_index("term").value.to_dict() == approx(EFFECTS)
    assert "2 seeds" in ablation.seeds_lacking(alone.runs, TWO) and not ablation.seeds_lacking(alone.runs, TWO, 1)


# The page ------------------------------------------------------------------------------------------------------------

TITLES = {"world_val": "World val", "world_r": "World R", "world_cue": "World cue", "renditions": "renditions (mean)"}
GROUPS = {"renditions": ["world_r", "world_sketch"]}


@pytest.fixture(scope="module")
def planted():
    """Architecture +8, objective -4, data +6 on World R alone, nothing else; a little noise of seeds."""
    runs = runs_of(ablation.LEVELS, 3).assign(samples_seen=64_000)
    a, o, d = (runs[factor] == high for factor, (_, high) in ablation.LEVELS.items())
    clean = 70 + 8 * a - 4 * o + 0.1 * (runs.seed - 1)
    case = measured([clean, clean - 20 + 6 * d], runs, datasets=("world_val", "world_r"))
    bias = measured(0.5 + 0.05 * a + 0.001 * runs.seed, runs, metrics=("shape_bias",), datasets=("world_cue",))
    bias = replace(bias, quantities=bias.quantities.assign(unit="fraction"))
    return ablation.with_gaps(case + bias, "world_val", {"r": ["world_r"]})


@pytest.fixture(scope="module")
def narrow(planted):
    return planted.where(planted.runs.diversity == "narrow")


@pytest.fixture(scope="module")
def both(planted):
    return ablation.answer(planted, THREE, TITLES, GROUPS, {"world_r": 6.25})


def tables(answered):
    """What `Answers.tables` shows: name -> frame and caption."""
    shown = {}
    page = SimpleNamespace(table=lambda frame, name, caption, **_: shown.update({name: (frame, caption)}))
    answered.tables(page, "diversity", ", both training sets")
    return shown


def test_effects_in_points_with_verdicts(both):
    assert list(dict.fromkeys(both.effects.panel)) == [panel["title"] for panel in ablation.PANELS.values()]
    bias = both.effects[both.effects.row == "shape bias"].set_index("term").value
    assert bias["architecture"] == approx(5.0)  # points, from a fraction
    gap = both.sets("gap").set_index("term")
    assert gap.value["diversity"] == approx(6) and not gap.hollow["diversity"]
    assert gap.value["architecture"] == approx(0, abs=1e-9) and gap.hollow["architecture"]
    assert set(both.sets("gap", about="diversity").term) == {name for name in gap.index if "diversity" in name}
    # Holm goes over one panel
    part = both.effects[both.effects.panel == "Accuracy (points)"]
    assert len(part) == 10 and part.p_holm.max() == 1
    assert part.p_holm.min() == approx(10 * part.p.min())


def test_results_name_the_effect_in_the_place_of_the_model(narrow, both):
    row = ablation.answer(narrow, TWO, TITLES, GROUPS, {}).recorded.set_index("model")
    row = row.query("dataset == 'world_val' and metric == 'effect:accuracy'")
    expected = {"convnet_minus_transformer": 8, "clip_minus_supervised": -4, "interaction:architecture_x_objective": 0}
    assert row.value.to_dict() == approx(expected, abs=1e-9) and set(row.unit) == {"points"}
    assert set(both.recorded.model) == {w["recorded"] for t, w in ablation.EFFECTS.items() if "diversity" in t}


def test_tables_and_sentences_for_readers(both):
    frame, caption = (shown := tables(both))["diversity-accuracy"]
    assert frame.on.tolist() == ["World val", "World R"] and caption.startswith("Accuracy, in points, both training")
    assert frame["ConvNeXt − ViT"].tolist() == approx([8, 8])
    assert frame["p (Holm)"][1].split(" · ")[0] == "<.001"
    frame, caption = shown["diversity-gap"]
    assert frame["accuracy there (%)"].tolist() == ["46.0 to 64.0"] and "at chance" in caption.lower()
    said = both.statement("architecture")
    assert said.startswith("ConvNeXt instead of ViT, all else equal (points): World val +8.0 [+7.9")
    assert "undecided" not in said
    assert both.statement("diversity").endswith("]; undecided on World val.")
    as_mean = both.effects[both.effects.dataset == "world_r"].assign(dataset="renditions")
    said = replace(both, effects=as_mean, silent=set()).robustness("renditions", "renditions", "World val")
    assert "broad instead of narrow data brings robustness (accuracy there +6.0 [" in said
    assert "ConvNeXt instead of ViT is undecided (accuracy there +8.0" in said  # log-odds alone differ


def test_nothing_is_said_where_a_cell_guesses(planted):
    silent = ablation.answer(planted, THREE, TITLES, GROUPS, {"world_r": 47.0})  # ViT, CLIP, narrow: 46 %
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
        return ablation.robustness_verdict(*({"value": v, "hollow": name in open_} for name, v in numbers.items()))

    assert verdict(6, 6, 0.5) == "brings robustness"
    for there in (6, -6):
        assert verdict(there, 6, 0.5, ["there"]) == "loses less, while accuracy there is undecided"
        assert verdict(there, -6, -0.5, ["there"]) == "loses more, while accuracy there is undecided"
    assert verdict(6, -6, 0.5) == "is undecided" == verdict(6, 6, 0.5, ["odds"])
    assert verdict(-6, 6, 0.5) == "is less accurate there, but loses less"
    assert verdict(6, -6, -0.5) == "is more accurate there, but loses more"
    assert verdict(-6, -6, -0.5) == "costs robustness"


def test_without_seeds_there_are_no_effects(narrow):
    few = ablation.answer(narrow, THREE, TITLES, GROUPS, {"world_r": 6.25})
    assert "broad: 0 training runs" in few.lacking
    assert few.effects.empty and few.recorded.empty and few.sets("accuracy").empty
    assert tables(few) == {} and list(ablation.robustness_sentences({"": few}, "world_val")) == []
    assert ablation.accuracies(narrow, [], TWO).empty


def test_every_run_and_the_own_models_are_drawn(planted):
    runs = ablation.accuracies(planted, ["world_r", "world_val"], ["architecture"])
    own = pd.DataFrame({"dataset": ["world_r"], "model": ["convnet"], "objective": ["clip"], "value": [51.0]})
    fig, words = ablation.slopes(runs, "objective", ablation.LOOKS, own)
    assert [ax.get_title("left") or ax.get_title() for ax in fig.axes] == ["world r", "world val"]
    lines = {line.get_label(): line for line in fig.axes[1].lines}
    assert lines["ViT"].get_ydata() == approx([70, 66])
    assert lines["ConvNeXt"].get_ydata() == approx([78, 74])
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
    assert rows.value.iloc[0] == approx(0.1) and not rows.duplicated(["dataset", "metric", "model"]).any()
    shown = ablation.seed_table(noise, TITLES)
    assert shown["ViT, supervised"][0] == approx(0.1) and "ViT, supervised_low" in shown
    least = ablation.least_table(noise, TITLES)
    assert len(least) == 10 and {"two of ViT, CLIP", "ConvNeXt, CLIP and ViT, CLIP"} <= set(least["two single runs"])
    said = ablation.seed_sentence(least, noise.df + 1, "World val")
    assert "two single runs of a cell of the ablation have to differ by 0.6 (" in said
    assert "points on World val, bounds that allow for being estimated from 3 seeds per cell" in said
    assert "from 2 to 3 seeds" in ablation.seed_sentence(least, pd.Series([3, 2, 3]), "World val")


def test_another_budget_stands_beside(planted, narrow, both):
    alone = narrow.where(narrow.runs.seed == 0)
    longer = replace(alone, runs=alone.runs.assign(samples_seen=160_000))
    budget = ablation.beside_longer(both, planted, longer)
    assert budget[budget.effect == "CLIP − supervised"]["160,000 samples"].tolist()[:2] == approx([-4, -4])
    assert ablation.beside_longer(both, planted, longer.where(longer.runs.objective == "clip")).empty
