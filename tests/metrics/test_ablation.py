"""Effects of the ablation: by hand, against independent computations, at the edges, and their coverage."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats as scipy_stats
from statsmodels.stats.anova import anova_lm

from beyond_accuracy.errors import InputError
from beyond_accuracy.metrics import ablation, ablation_quantities
from beyond_accuracy.metrics.ablation import Measured

TWO = ("architecture", "objective")
THREE = (*TWO, "diversity")


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
    assert table.se.to_dict() == pytest.approx(se) and (table.se_images == 0).all() and (table.df == 8).all()
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
    satterthwaite = (1 / 3 + 0.36) ** 2 / ((1 / 3) ** 2 / 8 + (0.38**2 + 0.02**2 / 8) / 999)
    assert table.df["architecture"] == pytest.approx(satterthwaite)
    assert table.df["objective"] == pytest.approx(8)


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


def test_agrees_with_sum_coded_anova():
    case = random_case(THREE)
    case = Measured(case.runs, case.quantities, case.values, 0 * case.covariance)
    table = ablation.effects(case, THREE)
    for k, metric in enumerate(case.quantities.metric):
        data = case.runs.assign(y=case.values[k])
        fit = smf.ols("y ~ C(architecture, Sum) * C(objective, Sum) * C(diversity, Sum)", data).fit()
        anova = anova_lm(fit, typ=3).iloc[1:-1]
        mine = table[table.metric == metric]
        squares = np.square(mine.value / mine.se).to_numpy()
        assert np.sort(squares) == pytest.approx(np.sort(anova["F"].to_numpy()))
        assert np.sort(mine.p) == pytest.approx(np.sort(anova["PR(>F)"].to_numpy()))


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
    residual = (
        case.values[0] - means.loc[list(zip(case.runs.architecture, case.runs.objective, strict=True))].to_numpy()
    )
    variance = (residual**2).sum() / (13 - 4) * (1 / 2 + 1 / 4 + 1 / 3 + 1 / 4) / 4
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
    gap = ablation_quantities.gaps(case, "world_val", ["world_r"])
    assert gap.values[0] == pytest.approx([5 - v / 2 for v in values])
    assert gap.covariance[0] == pytest.approx(np.eye(12) * 0.75)
    assert gap.quantities.metric.tolist() == ["accuracy_gap"] and gap.quantities.unit.tolist() == ["points"]
    odds = ablation_quantities.gaps(case, "world_val", ["world_r"], "logit")
    p, q = shifted[0] / 100, values[0] / 100
    assert odds.values[0, 0] == pytest.approx(np.log(p / (1 - p)) - np.log(q / (1 - q)))
    delta = (0.25 / (p * (1 - p)) ** 2 + 0.5 / (q * (1 - q)) ** 2) / 100**2
    assert odds.covariance[0, 0, 0] == pytest.approx(delta)
    mean = ablation_quantities.average(case, ["world_val", "world_r"], "both")
    assert mean.values[0] == pytest.approx(np.mean([values, shifted], axis=0))
    assert mean.covariance[0] == pytest.approx(np.eye(12) * 0.75 / 4)
    together = case + mean
    assert together.position("both", "accuracy") == 2


def test_a_run_that_is_always_right_has_no_log_odds():
    values, runs = worked_case()
    case = measured([[100.0, *values[1:]], values], runs, datasets=("world_val", "world_r"))
    odds = ablation_quantities.gaps(case, "world_val", ["world_r"], "logit")
    assert np.isnan(odds.values[0, 0]) and np.isfinite(odds.values[0, 1:]).all()
    assert ablation.effects(odds, TWO).empty


def test_seed_noise_by_hand_and_against_its_definition():
    table = ablation_quantities.seed_noise(measured(*worked_case()), TWO)
    assert table.sd.tolist() == [1.0] and table.df.tolist() == [8]
    assert table.least_difference[0] == pytest.approx(2.306004135 * 2**0.5)
    assert table.sd_low[0] == pytest.approx((8 / 17.534546) ** 0.5) and table.sd_high[0] == pytest.approx(
        (8 / 2.179731) ** 0.5
    )
    rng = np.random.default_rng(3)
    runs = runs_of(TWO, 3)
    exceeded = []
    for _ in range(600):  # a fourth and fifth run of a cell differ by more in one case of twenty
        noise = ablation_quantities.seed_noise(measured(rng.normal(size=12), runs), TWO).least_difference[0]
        exceeded.append(abs(np.diff(rng.normal(size=2))[0]) > noise)
    assert np.mean(exceeded) == pytest.approx(0.05, abs=0.027)


def test_holm_over_the_rows_shown():
    table = pd.DataFrame({"term": ["objective", "objective", "architecture"], "p": [0.01, 0.04, 0.001]})
    shown = ablation.corrected(table, ["objective"])
    assert shown.p_holm.tolist() == [0.02, 0.04] and shown.decided.tolist() == [True, True]
    assert ablation.corrected(table).p_holm.tolist() == [0.02, 0.04, 0.003]


def test_tables_for_figures_and_results():
    case = measured(*worked_case())
    cells = ablation_quantities.cell_means(case, TWO).set_index(list(TWO))
    assert cells.loc[("convnet", "clip"), ["value", "lowest", "highest", "seeds"]].tolist() == [80, 79, 81, 3]
    frame = ablation_quantities.long(case)
    assert len(frame) == 12 and frame.value.tolist() == case.values[0].tolist() and frame.seed.tolist()[:3] == [0, 1, 2]
    rows = ablation.as_results(ablation.effects(case, TWO), {"architecture": "convnet_minus_transformer"})
    assert rows.to_dict("records")[0] | {"ci_low": 0, "ci_high": 0} == {
        "dataset": "world_val", "metric": "effect:accuracy", "model": "convnet_minus_transformer",
        "value": pytest.approx(14), "ci_low": 0, "ci_high": 0, "n": 1000, "unit": "points",
    }  # fmt: skip


def simulate(rng, seeds=3, n=150):
    """Runs x images: effects of images on cells, of runs, and of runs on single images; truth 0, 2, 0."""
    runs = runs_of(TWO, seeds)
    sign = np.where(runs.architecture == "convnet", 0.5, -0.5)
    images = 2.0 * np.where(runs.objective == "clip", 0.5, -0.5)[:, None] + np.zeros((len(runs), n))
    images += 3 * rng.normal(size=n) + np.outer(sign, 8 * rng.normal(size=n))  # architecture matters by image
    images += 0.4 * rng.normal(size=(len(runs), 1)) + 4 * rng.normal(size=(len(runs), n))
    return measured(images.mean(axis=1), runs, ablation.image_covariance(images)[None], n=n)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(4)
    truth = {"architecture": 0.0, "objective": 2.0, "architecture:objective": 0.0}
    tables = pd.concat([ablation.effects(simulate(rng), TWO) for _ in range(400)])
    expected = tables.term.map(truth)
    tables["covered"] = (tables.ci_low <= expected) & (expected <= tables.ci_high)
    reach = scipy_stats.t.ppf(0.975, 8) * tables.se_seeds
    tables["seeds_alone"] = (tables.value - expected).abs() <= reach
    covered = tables.groupby("term").covered.mean()
    # Taking the larger of an image component and 0 errs on the safe side; never below the nominal level.
    assert (covered > 0.925).all() and (covered < 0.99).all()
    assert tables[tables.term == "architecture"].seeds_alone.mean() < 0.85  # what ignoring the images would cost


def test_holm_by_table():
    table = pd.DataFrame({"term": "objective", "panel": ["a", "a", "b"], "p": [0.01, 0.04, 0.04]})
    assert ablation.corrected(table, by="panel").p_holm.tolist() == [0.02, 0.04, 0.04]
    assert ablation.corrected(table.iloc[:0], by="panel").empty


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
    total = ablation_quantities.with_gaps(case, "val", {"renditions": ["r", "sketch"], "alone": ["r"]})
    assert total.values[total.position("renditions", "accuracy_gap")] == pytest.approx(np.full(12, -15.0))
    assert total.quantities.query("metric == 'accuracy'").dataset.tolist() == ["val", "r", "sketch", "renditions"]
    assert total.quantities.n[total.position("renditions", "accuracy")] == 2000
