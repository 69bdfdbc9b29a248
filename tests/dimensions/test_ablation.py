"""Effects of the ablation: by hand, against independent computations, at the edges, and their coverage."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats as scipy_stats

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.dimensions import ablation
from beyond_accuracy.dimensions.ablation import THREE, TWO, Measured


def runs_of(factors, seeds):
    cells = product(*(ablation.LEVELS[factor] for factor in factors))
    rows = [dict(zip((*factors, "seed"), (*cell, seed), strict=True)) for cell in cells for seed in range(seeds)]
    return pd.DataFrame(rows)


def measured(values, runs, covariance=None, n=1000, metrics=("accuracy",), datasets=("world_val",)):
    values = np.atleast_2d(np.asarray(values, float))
    keys = list(product(datasets, metrics))
    quantities = pd.DataFrame(keys, columns=["dataset", "metric"]).assign(unit="percent", n=n, clusters=n)
    covariance = np.zeros((len(values), len(runs), len(runs))) if covariance is None else covariance
    return Measured(runs, quantities, values, np.asarray(covariance, float))


def by_term(table):
    return table.set_index("term")


# Cell means; the three seeds lie at -1, 0, +1.
MEANS = {("transformer", "supervised"): 50, ("transformer", "clip"): 60, ("convnet", "supervised"): 58,
         ("convnet", "clip"): 80}  # fmt: skip


def worked_case():
    runs = runs_of(TWO, 3)
    return [MEANS[a, o] + s - 1 for a, o, s in zip(runs.architecture, runs.objective, runs.seed, strict=True)], runs


def test_two_by_two_by_three_by_hand():
    table = by_term(ablation.effects(measured(*worked_case()), TWO))
    # ConvNets (58 + 80) / 2 - Transformers (50 + 60) / 2 = 14; CLIP (60 + 80) / 2 - (50 + 58) / 2 = 16;
    # interaction (80 - 58) - (60 - 50) = 12.
    assert table.value.to_dict() == pytest.approx({"architecture": 14, "objective": 16, "architecture:objective": 12})
    # Residuals -1, 0, 1 in four cells: s^2 = 8 / 8 = 1. A main effect is a difference of two means of 6 runs, with
    # variance 2 / 6; the interaction is a sum of four means of 3 with signs, with variance 4 / 3.
    se = {"architecture": 3**-0.5, "objective": 3**-0.5, "architecture:objective": (4 / 3) ** 0.5}
    assert table.se.to_dict() == pytest.approx(se) and (table.se_images == 0).all()
    assert table.df.tolist() == pytest.approx([8] * 3)
    half = 2.306004135 * 3**-0.5  # t, 97.5 %, 8 degrees of freedom
    assert (table.ci_low["architecture"], table.ci_high["architecture"]) == pytest.approx((14 - half, 14 + half))


def test_image_noise_by_hand():
    values, runs = worked_case()
    # Each run has noise of its own of variance 0.06 (for example images on which seeds disagree), all share 5: the
    # shared part cancels, and the runs' own part, 2 / 6 * 0.06 = 0.02, is what s^2 already holds. Cells differ besides:
    # images that favour ConvNets or Transformers give their difference a variance of 4 * 0.09 = 0.36.
    side = np.where(runs.architecture == "convnet", 1.0, -1.0)
    covariance = 5 + 0.06 * np.eye(12) + 0.09 * np.outer(side, side)
    table = by_term(ablation.effects(measured(values, runs, covariance[None]), TWO))
    assert table.se_images.to_dict() == pytest.approx(
        {"architecture": 0.6, "objective": 0.0, "architecture:objective": 0.0}, abs=1e-7
    )
    assert table.se["architecture"] == pytest.approx((1 / 3 + 0.36) ** 0.5)
    satterthwaite = (1 / 3 + 0.36) ** 2 / ((1 / 3) ** 2 / 8 + (0.38**2 + 0.02**2 / 8) / 999)  # four equal variances
    assert table.df["architecture"] == pytest.approx(satterthwaite)
    assert table.df["objective"] == pytest.approx(8, rel=1e-3)


def test_image_covariance_is_that_of_means_and_of_cluster_sums():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 40))
    assert ablation.image_covariance(values) == pytest.approx(np.cov(values) / 40)
    repeated = np.repeat(values, 5, axis=1)  # copies of an image add nothing
    clusters = np.repeat([f"c{k}" for k in range(40)], 5)
    assert ablation.image_covariance(repeated, clusters) == pytest.approx(np.cov(values) / 40)
    with pytest.raises(ValueError, match="two clusters"):
        ablation.image_covariance(values, np.zeros(40))
    with pytest.raises(ValueError, match="finite"):
        ablation.image_covariance([[0.0, np.nan]])


def random_case(factors, seeds=3, quantities=2, rng=None):
    rng = rng or np.random.default_rng(1)
    runs = runs_of(factors, seeds)
    images = rng.normal(size=(quantities, len(runs), 30))
    covariance = np.stack([ablation.image_covariance(one) for one in images])
    metrics = [f"m{k}" for k in range(quantities)]
    return measured(images.mean(axis=2), runs, covariance, n=30, metrics=metrics)


def test_two_cells_are_welchs_t_test():
    """One factor, unequal variances and numbers of seeds: the same as scipy's."""
    rng = np.random.default_rng(5)
    runs = runs_of(["architecture"], 6).drop(index=[1, 2]).reset_index(drop=True)
    values = rng.normal(size=10) * np.where(runs.architecture == "convnet", 5.0, 0.5)
    sides = [values[runs.architecture == level] for level in ("convnet", "transformer")]
    weights = np.where(runs.architecture == "convnet", 1 / len(sides[0]), -1 / len(sides[1]))
    row = ablation.contrasts(measured(values, runs), ["architecture"], pd.DataFrame(weights[None])).iloc[0]
    welch = scipy_stats.ttest_ind(*sides, equal_var=False)
    assert row.p == pytest.approx(welch.pvalue) and row.df == pytest.approx(welch.df)
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(welch.confidence_interval()))


def test_standard_errors_are_those_of_a_heteroscedastic_regression():
    """HC2 (MacKinnon and White 1985) is exact where every cell has a parameter of its own."""
    case = random_case(THREE)
    case = Measured(case.runs, case.quantities, case.values, 0 * case.covariance)
    table = ablation.effects(case, THREE)
    for k, metric in enumerate(case.quantities.metric):
        data = case.runs.assign(y=case.values[k])
        fit = smf.ols("y ~ C(architecture, Sum) * C(objective, Sum) * C(diversity, Sum)", data).fit(cov_type="HC2")
        mine = table[table.metric == metric]
        assert np.sort(np.abs(mine.value / mine.se)) == pytest.approx(np.sort(np.abs(fit.tvalues[1:])))


def test_agrees_with_differences_of_cell_means_when_seeds_are_missing():
    case = random_case(TWO, seeds=4)
    kept = np.ones(len(case.runs), bool)
    kept[[0, 1, 9]] = False  # 2, 4, 3 and 4 seeds
    case = case.where(kept)
    table = ablation.effects(case, TWO)
    means = case.runs.assign(y=case.values[0]).groupby(list(TWO)).y.mean()
    convnet, transformer = means["convnet"], means["transformer"]
    mine = by_term(table[table.metric == "m0"])
    assert mine.value["architecture"] == pytest.approx(convnet.mean() - transformer.mean())
    assert mine.value["architecture:objective"] == pytest.approx(
        (convnet["clip"] - convnet["supervised"]) - (transformer["clip"] - transformer["supervised"])
    )
    variance = 0
    for at in case.runs.groupby(list(TWO)).indices.values():
        block, size = case.covariance[0][np.ix_(at, at)], len(at)
        own = np.trace(block) / size - (block.sum() - np.trace(block)) / size / (size - 1)
        variance += max(case.values[0][at].var(ddof=1), own) / size / 4
    assert mine.se_seeds["architecture"] == pytest.approx(variance**0.5)


def test_image_part_is_that_of_per_image_contrasts():
    rng = np.random.default_rng(2)
    runs = runs_of(TWO, 2)
    images = rng.normal(size=(8, 500)) + 2 * (runs.architecture == "convnet").to_numpy()[:, None] * rng.normal(size=500)
    case = measured(images.mean(axis=1), runs, ablation.image_covariance(images)[None], n=500)
    sign = np.where(runs.architecture == "convnet", 0.25, -0.25)
    per_image = sign @ images
    within = images.reshape(4, 2, 500)
    within = (within - within.mean(axis=1, keepdims=True)).reshape(8, 500)
    interaction = np.var(within, axis=1, ddof=1).sum() / 4 / 500  # per run and image, as part of the mean's variance
    expected = np.var(per_image, ddof=1) / 500 - interaction * (sign**2).sum()
    assert by_term(ablation.effects(case, TWO)).se_images["architecture"] == pytest.approx(expected**0.5)


def test_edges():
    values, runs = worked_case()
    one_seed = measured(values, runs).where(runs.seed == 0)
    with pytest.raises(InputError, match="1 training run, intervals need at least 2 seeds.*mini_world.train"):
        ablation.effects(one_seed, TWO)
    with pytest.raises(InputError, match="convnet, clip: 0 training runs"):
        ablation.effects(
            measured(values, runs).where((runs.architecture != "convnet") | (runs.objective != "clip")), TWO
        )
    with pytest.raises(InputError, match="seed occurs twice"):
        ablation.effects(measured(values, runs.assign(seed=0)), TWO)
    with pytest.raises(InputError, match="transformer or convnet, got mlp"):
        ablation.design(runs.assign(architecture="mlp"), TWO)
    both = measured([values, [np.nan, *values[1:]]], runs, metrics=("accuracy", "shape_bias"))
    assert set(ablation.effects(both, TWO).metric) == {"accuracy"}
    assert ablation.effects(both.only([False, True]), TWO).empty
    with pytest.raises(InputError, match="ece on world_val was not measured"):
        both.position("world_val", "ece")


def test_runs_that_do_not_differ_at_all():
    table = ablation.effects(measured(np.full(12, 70.0), runs_of(TWO, 3)), TWO)
    assert (table.value.abs() < 1e-9).all() and (table.se < 1e-9).all() and np.isfinite(table.ci_low).all()


def test_gaps_and_averages():
    values, runs = worked_case()
    shifted = [v / 2 + 5 for v in values]
    covariance = np.stack([np.eye(12) * 0.5, np.eye(12) * 0.25])
    case = measured([values, shifted], runs, covariance, datasets=("world_val", "world_r"))
    gap = ablation.gaps(case, "world_val", ["world_r"])
    assert gap.values[0] == pytest.approx([5 - v / 2 for v in values])
    assert gap.covariance[0] == pytest.approx(np.eye(12) * 0.75)
    assert gap.quantities.metric.tolist() == ["accuracy_gap"] and gap.quantities.unit.tolist() == ["points"]
    odds = ablation.gaps(case, "world_val", ["world_r"], "logit")
    p, q = shifted[0] / 100, values[0] / 100
    assert odds.values[0, 0] == pytest.approx(np.log(p / (1 - p)) - np.log(q / (1 - q)))
    delta = (0.25 / (p * (1 - p)) ** 2 + 0.5 / (q * (1 - q)) ** 2) / 100**2
    assert odds.covariance[0, 0, 0] == pytest.approx(delta)
    mean = ablation.average(case, ["world_val", "world_r"], "both")
    assert mean.values[0] == pytest.approx(np.mean([values, shifted], axis=0))
    assert mean.covariance[0] == pytest.approx(np.eye(12) * 0.75 / 4)
    together = case + mean
    assert together.position("both", "accuracy") == 2


def test_a_run_that_is_always_right_has_no_log_odds():
    values, runs = worked_case()
    case = measured([[100.0, *values[1:]], values], runs, datasets=("world_val", "world_r"))
    odds = ablation.gaps(case, "world_val", ["world_r"], "logit")
    assert np.isnan(odds.values[0, 0]) and np.isfinite(odds.values[0, 1:]).all()
    assert ablation.effects(odds, TWO).empty


SPREADS = np.array([0.98, 3.41, 0.28, 1.46])  # of World val in the shipped runs: ViT, ViT CLIP, ConvNeXt, ConvNeXt CLIP


def unequal(rng, spreads, cases):
    """Runs without any effect, as many quantities as cases."""
    values = np.repeat(spreads, 3) * rng.normal(size=(cases, 12))
    return measured(values, runs_of(TWO, 3), metrics=[f"m{k}" for k in range(cases)])


def test_seed_noise_is_told_for_each_cell_by_hand():
    values, runs = worked_case()
    values = np.where((runs.architecture == "convnet") & (runs.objective == "clip"), 80 + 3 * (runs.seed - 1), values)
    table = ablation.seed_noise(measured(values, runs), TWO)
    assert table.sd.tolist() == pytest.approx([3, 1, 1, 1])
    assert (table.architecture + " " + table.objective)[0] == "convnet clip"
    assert (table.df == 2).all()
    assert (table.sd_low[0], table.sd_high[0]) == pytest.approx((3 * (2 / 7.377759) ** 0.5, 3 * (2 / 0.0506356) ** 0.5))
    least = ablation.least_differences(table, TWO).set_index(["first", "second"]).least_difference
    assert len(least) == 10  # four cells, alone and in pairs
    assert least["transformer clip", "transformer clip"] == pytest.approx(4.302653 * 2**0.5)
    assert least["convnet clip", "convnet clip"] == pytest.approx(3 * 4.302653 * 2**0.5)
    # Welch: 10^2 / (9^2 / 2 + 1 / 2) degrees of freedom
    assert least["convnet clip", "transformer clip"] == pytest.approx(scipy_stats.t.ppf(0.975, 100 / 41) * 10**0.5)


def test_seeds_that_lie_closer_than_images_allow_count_as_the_images():
    runs = runs_of(TWO, 3)
    covariance = (5 + 0.04 * np.eye(12))[None]  # each run 0.04 of its own
    case = measured(np.full(12, 70.0), runs, covariance)
    assert ablation.seed_noise(case, TWO).sd.tolist() == pytest.approx([0.2] * 4)
    assert ablation.effects(case, TWO).se.tolist() == pytest.approx([0.2 * 3**-0.5] * 2 + [0.2 * (4 / 3) ** 0.5])


@pytest.mark.parametrize("spreads", [SPREADS, np.array([1.4, 1.4, 2.3, 6.4])])
def test_intervals_cover_where_cells_are_unequally_fickle(spreads):
    """One pooled variance with its 8 degrees of freedom covers 91 % here."""
    table = ablation.effects(unequal(np.random.default_rng(6), spreads, 3000), TWO)
    covered = ((table.ci_low <= 0) & (0 <= table.ci_high)).groupby(table.term).mean()
    assert (covered > 0.93).all() and (covered < 0.98).all()


def test_least_differences_hold_for_two_further_runs_of_any_cells():
    """A pooled one is exceeded in 27 % of the cases by the most fickle cell, never by the calmest."""
    rng = np.random.default_rng(7)
    cells = ("transformer supervised", "transformer clip", "convnet supervised", "convnet clip")
    spread = dict(zip(cells, SPREADS, strict=True))
    least = ablation.least_differences(ablation.seed_noise(unequal(rng, SPREADS, 3000), TWO), TWO)
    gap = np.hypot(least["first"].map(spread), least["second"].map(spread)) * rng.normal(size=len(least))
    exceeded = (gap.abs() > least.least_difference).groupby([least["first"], least["second"]]).mean()
    assert len(exceeded) == 10 and (exceeded < 0.065).all() and (exceeded > 0.02).all()


def test_cells_that_cannot_be_told_from_guessing():
    runs = runs_of(TWO, 3)
    means = np.repeat([7.0, 30.0, 6.0, 9.0], 3) + np.tile([-0.5, 0.0, 0.5], 4)
    # three seeds 0.5 apart: 7.0 +- 4.30 * 0.5 / sqrt(3) = 7.0 +- 1.24 reaches down to 6.25, 9.0 +- 1.24 does not
    cells = ablation.cell_means(measured(means, runs, datasets=("sketch",)), TWO)
    half = 4.302653 * 0.5 / 3**0.5
    row = cells[(cells.architecture == "transformer") & (cells.objective == "supervised")].iloc[0]
    assert (row.value, row.ci_low, row.ci_high) == pytest.approx((7, 7 - half, 7 + half))
    weak = ablation.at_chance(cells, {"sketch": 6.25})
    assert sorted(weak.value) == pytest.approx([6, 7]) and set(weak.chance) == {6.25}
    assert ablation.at_chance(cells, {"another": 50}).empty
    # images that are hard for all runs are noise of the mean, too: 9.0 +- 1.96 * 2 or more
    shared = measured(means, runs, np.full((1, 12, 12), 4.0), datasets=("sketch",))
    assert len(ablation.at_chance(ablation.cell_means(shared, TWO), {"sketch": 6.25})) == 3


def test_guessing():
    assert ablation.guessing(np.array([3, 1, 2]), 16) == 6.25
    assert ablation.guessing([np.array([3, 1]), np.array([2]), np.array([0, 1, 2])], 16) == 12.5


def test_cell_means_and_the_runs_themselves():
    case = measured(*worked_case())
    cells = ablation.cell_means(case, TWO).set_index(list(TWO))
    assert cells.value["convnet", "clip"] == pytest.approx(80)
    frame = case.accuracies()
    assert len(frame) == 12 and frame.value.tolist() == case.values[0].tolist() and frame.seed.tolist()[:3] == [0, 1, 2]


def simulate(rng, cases, seeds=3, n=150):
    """Runs x images: effects of images on cells, of runs, and of runs on single images; truth 0, 2, 0."""
    runs = runs_of(TWO, seeds)
    sign = np.where(runs.architecture == "convnet", 0.5, -0.5)
    values, covariances = [], []
    for _ in range(cases):
        images = 2.0 * np.where(runs.objective == "clip", 0.5, -0.5)[:, None] + np.zeros((len(runs), n))
        images += 3 * rng.normal(size=n) + np.outer(sign, 8 * rng.normal(size=n))  # architecture matters by image
        images += 0.4 * rng.normal(size=(len(runs), 1)) + 4 * rng.normal(size=(len(runs), n))
        values.append(images.mean(axis=1))
        covariances.append(ablation.image_covariance(images))
    return measured(values, runs, covariances, n=n, metrics=[f"m{k}" for k in range(cases)])


def test_intervals_cover_the_truth():
    truth = {"architecture": 0.0, "objective": 2.0, "architecture:objective": 0.0}
    table = ablation.effects(simulate(np.random.default_rng(4), 400), TWO)
    expected = table.term.map(truth)
    table["covered"] = (table.ci_low <= expected) & (expected <= table.ci_high)
    reach = scipy_stats.t.ppf(0.975, 8) * table.se_seeds
    table["seeds_alone"] = (table.value - expected).abs() <= reach
    covered = table.groupby("term").covered.mean()
    # Taking the larger of an image component and 0 errs on the safe side; never below the nominal level.
    assert (covered > 0.925).all() and (covered < 0.995).all()
    assert table[table.term == "architecture"].seeds_alone.mean() < 0.88  # what ignoring the images would cost


def test_one_run_per_cell_gives_values_without_intervals():
    values, runs = worked_case()
    alone = measured(values, runs).where(runs.seed == 1)
    table = by_term(ablation.single_values(alone, TWO))
    assert table.value.to_dict() == pytest.approx({"architecture": 14, "objective": 16, "architecture:objective": 12})
    assert "2 seeds" in ablation.seeds_lacking(alone.runs, TWO) and not ablation.seeds_lacking(alone.runs, TWO, 1)
    with pytest.raises(InputError, match="convnet, clip: 0 training runs"):
        ablation.single_values(alone.where([True, True, True, False]), TWO)


def test_means_and_gaps_of_groups():
    values, runs = worked_case()
    case = measured([values, np.subtract(values, 10), np.subtract(values, 20)], runs, datasets=("val", "r", "sketch"))
    total = ablation.with_gaps(case, "val", {"renditions": ["r", "sketch"], "alone": ["r"]})
    assert total.values[total.position("renditions", "accuracy_gap")] == pytest.approx(np.full(12, -15.0))
    assert total.quantities.query("metric == 'accuracy'").dataset.tolist() == ["val", "r", "sketch", "renditions"]
    assert total.quantities.n[total.position("renditions", "accuracy")] == 2000
