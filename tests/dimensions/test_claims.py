import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import published
from beyond_accuracy.dimensions import claims
from beyond_accuracy.dimensions.claims import Claim, Inequality, Term
from beyond_accuracy.dimensions.paper_claims import CELLS, paper_claims
from beyond_accuracy.show.results import ECE, write_dimension

Z = norm.ppf(0.975)
NO_COMPARISONS = pd.DataFrame(
    columns=[
        "dimension",
        "dataset",
        "metric",
        "model_a",
        "model_b",
        "difference",
        "ci_low",
        "ci_high",
        "p",
        "n",
        "unit",
    ]
)


def result(model, value, half, metric="m", dataset="d", dimension="x", n=100):
    return dict(dimension=dimension, dataset=dataset, metric=metric, model=model, value=value, ci_low=value - half,
                ci_high=value + half, n=n, unit="percent")  # fmt: skip


def compared(a, b, difference, half, p, metric="m", dataset="d", dimension="x", n=50):
    return dict(dimension=dimension, dataset=dataset, metric=metric, model_a=a, model_b=b, difference=difference,
                ci_low=difference - half, ci_high=difference + half, p=p, n=n, unit="percent")  # fmt: skip


def above(a, b="", weight=1.0, offset=0.0):
    return Inequality(f"{a} above {b}", (Term(weight, "d", "m", a, b),), offset)


def frames(results=(), comparisons=()):
    rows = pd.DataFrame(list(results), columns=list(result("a", 0, 0)))
    return rows, pd.DataFrame(list(comparisons), columns=NO_COMPARISONS.columns)


# ------------------------------------------------------------------------------------------------------- estimates


def test_a_recorded_pair_is_used_in_either_direction():
    tables = frames(comparisons=[compared("a", "b", 2.0, 1.0, 0.01)])
    forward = claims.estimate(above("a", "b"), *tables)
    assert (forward.value, forward.low, forward.high, forward.n, forward.basis) == (2, 1, 3, 50, "paired")
    assert forward.p_not_above == 0.005
    backward = claims.estimate(above("b", "a"), *tables)
    assert (backward.value, backward.low, backward.high) == (-2, -3, -1) and backward.p_not_above == 0.995


def test_a_negative_weight_turns_the_interval():
    tables = frames(comparisons=[compared("a", "", -0.02, 0.01, 0.0004)])
    found = claims.estimate(above("a", weight=-1.0), *tables)
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.01, 0.03))
    assert found.p_not_above == 0.0002


def test_a_p_value_at_the_floor_is_a_bound():
    rows = [compared("a", "z", 1, 0.9, 0.0002), compared("b", "z", 1, 0.9, 0.0002)]
    floors = pd.DataFrame(rows).assign(p_floor=[0.0002, 0.0])
    many = [Claim(a, a, "x", (above(a, "z"),)) for a in "ab"]
    table = claims.judge(many, frames()[0], floors).set_index("name")
    assert table.p_holm.tolist() == pytest.approx([0.0004] * 2)
    assert table.p_holm_floor["a"] == pytest.approx(0.0004) and np.isnan(table.p_holm_floor["b"])
    assert claims.judge(many, *frames(comparisons=rows)).p_holm_floor.isna().all()  # recorded without floors


def test_own_intervals_are_taken_as_independent():
    tables = frames([result("a", 10, Z), result("b", 5, Z * 2)])
    found = claims.estimate(above("a", "b"), *tables)
    error = np.sqrt(1 + 4)
    assert found.value == 5 and found.basis == "independent"
    assert found.low == pytest.approx(5 - Z * error)
    assert found.p_not_above == pytest.approx(norm.sf(5 / error))


def test_offsets_shift_the_test():
    tables = frames(comparisons=[compared("a", "b", -1.0, Z * 0.25, 0.0001)])
    found = claims.estimate(above("a", "b", offset=2.0), *tables)
    assert found.value == 1.0 and found.low == pytest.approx(1 - Z * 0.25)
    assert found.p_not_above == pytest.approx(norm.sf(4))


def test_sums_are_bounded_whatever_their_dependence():
    """The interval of a sum is at least as wide as the true one, for any correlation of its terms."""
    rng = np.random.default_rng(0)
    for correlation in (-0.9, 0.0, 0.9):
        draws = rng.multivariate_normal([1, 2], [[1, correlation], [correlation, 4]], 20_000)
        tables = frames([result("a", 1, 1.96), result("b", 2, 2 * 1.96)])
        terms = (Term(0.5, "d", "m", "a"), Term(-1.5, "d", "m", "b"))
        found = claims.estimate(Inequality("", terms), *tables)
        assert found.value == pytest.approx(0.5 - 3) and found.basis == "bound"
        assert (found.high - found.low) / (2 * 1.96) >= (draws @ [0.5, -1.5]).std() - 0.05


def test_missing_numbers_give_no_estimate():
    tables = frames([result("a", 1, 1), result("b", np.nan, 1)])
    assert claims.estimate(above("a", "c"), *tables) is None
    assert claims.estimate(above("a", "b"), *tables) is None
    assert claims.estimate(above("a"), *tables).basis == "one model"


def test_no_spread_is_certain_and_a_tie_is_not_above():
    assert claims.estimate(above("a"), *frames([result("a", 1, 0)])).p_not_above == 0
    assert claims.estimate(above("a"), *frames([result("a", 0, 0)])).p_not_above == 1


# -------------------------------------------------------------------------------------------------------- judging


def judge(*inequalities, results=(), comparisons=()):
    claim = Claim("c", "a claim", "x", tuple(inequalities))
    return claims.judge([claim], *frames(results, comparisons)).iloc[0]


def test_all_inequalities_must_hold():
    sure, unsure = compared("a", "b", 2, 0.5, 0.0001), compared("c", "d", 1, 2.0, 0.3)
    assert judge(above("a", "b"), comparisons=[sure]).verdict == "supported"
    both = judge(above("a", "b"), above("c", "d"), comparisons=[sure, unsure])
    assert both.verdict == "undecided" and both.holding == "2 of 2" and both.decisive == "c above d"
    assert both.p == pytest.approx(0.3)


def test_one_certain_reversal_contradicts():
    sure, reversed_ = compared("a", "b", 2, 0.5, 0.0001), compared("c", "d", -2, 0.5, 0.001)
    row = judge(above("a", "b"), above("c", "d"), comparisons=[sure, reversed_])
    assert row.verdict == "contradicted" and row.holding == "1 of 2"
    assert row.decisive == "c above d" and (row.effect, row.effect_low, row.effect_high) == (-2, -2.5, -1.5)
    assert row.p == pytest.approx(2 * 0.001)  # two inequalities, two-sided


def test_holm_runs_over_the_claims():
    rows = [compared(a, "z", 1, 0.9, 0.03) for a in "ab"]
    many = [Claim(a, a, "x", (above(a, "z"),)) for a in "ab"]
    table = claims.judge(many, *frames(comparisons=rows))
    assert table.p.tolist() == pytest.approx([0.03, 0.03]) and table.p_holm.tolist() == pytest.approx([0.06, 0.06])
    assert set(table.verdict) == {"undecided"}
    assert claims.judge(many[:1], *frames(comparisons=rows)).verdict[0] == "supported"


def test_untestable_claims_say_why_and_cost_nothing():
    rows = [compared("a", "z", 1, 0.9, 0.03)]
    table = claims.judge(
        [
            Claim("a", "a", "x", (above("a", "z"),)),
            Claim("b", "b", "x", (above("b", "z"),)),
            Claim("c", "c", "x", (), "the page has none"),
        ],
        *frames(comparisons=rows),
    ).set_index("name")
    assert table.verdict.tolist() == ["supported", "not testable", "not testable"]
    assert table.why_not["b"] == "the page x has not recorded: b above z" and table.why_not["c"] == "the page has none"


def test_rows_of_other_pages_do_not_count():
    row = compared("a", "b", 2, 0.5, 0.0001, dimension="y")
    assert judge(above("a", "b"), comparisons=[row]).verdict == "not testable"


def test_null_hypotheses_are_rarely_rejected():
    """Under equality of everything, claims of two inequalities have p below 5 % in at most about 5 % of the cases."""
    rng = np.random.default_rng(1)
    names = [f"{a}{k}" for k in range(300) for a in "ab"]
    z = dict(zip(names, rng.normal(size=len(names)), strict=True))
    rows = [compared(name, "z", v, 1.96, 2 * norm.sf(abs(v))) for name, v in z.items()]
    many = [Claim(str(k), "", "x", (above(f"a{k}", "z"), above(f"b{k}", "z"))) for k in range(300)]
    table = claims.judge(many, *frames(comparisons=rows))
    assert 0 < (table.p < 0.05).mean() < 0.075


# ------------------------------------------------------------------------------------------------ the paper's claims


@pytest.fixture(scope="module")
def paper_rows():
    rows = published.paper()
    return rows.assign(ci_low=rows.value - rows.tolerance, ci_high=rows.value + rows.tolerance, n=1000)


def test_the_papers_numbers_support_the_papers_claims(paper_rows):
    dimensions = load_profile("paper").dimensions
    table = claims.judge(paper_claims(dimensions, paper_rows), paper_rows, NO_COMPARISONS).set_index("name")
    untestable = table[table.verdict == "not testable"].index
    # The paper prints no signed gap, and ratios of errors, which accuracy alone moves, but no odds.
    assert set(untestable) == {"clip_overconfident", "supervised_underconfident", "clip_lower_error_ratio"}
    assert set(table.drop(untestable).verdict) == {"supported"}, table[["verdict", "decisive", "effect"]]
    assert table.holding["supervised_robust"] == "10 of 10" and table.holding["texture_hardest"] == "15 of 15"


def test_turned_round_they_contradict_them(paper_rows):
    swap = dict(zip(CELLS, reversed(CELLS), strict=True))
    turned = paper_rows.assign(model=paper_rows.model.map(swap))
    dimensions = load_profile("paper").dimensions
    table = claims.judge(paper_claims(dimensions, turned), turned, NO_COMPARISONS).set_index("name")
    for name in ("clip_shape", "vit_shape", "supervised_robust", "clip_r_sketch"):
        assert table.verdict[name] == "contradicted", name
    assert table.verdict["texture_hardest"] == "supported"  # a mean over models


def test_error_claims_do_not_take_a_low_ratio_for_an_even_model():
    """Two models to which factors do the same: whoever errs more has the lower ratio, and the claim stays open."""
    rows = []
    for model, ratio in zip(CELLS, (1.6, 1.9, 1.3, 1.4), strict=True):
        rows.append(result(model, ratio, 0.05, "error_ratio:average", "factors", "mistakes"))
        rows.append(result(model, 0.8, 0.2, "factor_effect:average", "factors", "mistakes"))
    rows = pd.DataFrame(rows)
    (claim,) = [c for c in paper_claims({}, rows) if c.name == "clip_lower_error_ratio"]
    assert claims.judge([claim], rows, NO_COMPARISONS).verdict[0] == "undecided"
    lower = rows.assign(value=rows.value.where(~rows.model.str.contains("clip") | (rows.value > 1), 0.2))
    lower = lower.assign(ci_low=lower.value - 0.1, ci_high=lower.value + 0.1)
    assert claims.judge([claim], lower, NO_COMPARISONS).verdict[0] == "supported"


def test_calibration_is_judged_by_the_estimate_without_bias_where_there_is_one():
    def judged_by(metric):
        rows = pd.DataFrame([result("vit_sup", 0.02, 0.01, metric, "val", "calibration")])
        claim = next(
            c for c in paper_claims({"calibration": {"clean": "val"}}, rows) if c.name == "convnext_calibrated"
        )
        return claim.inequalities[0].terms[0].metric

    assert (judged_by(ECE), judged_by("ece")) == (ECE, "ece")  # the paper's own numbers have the plain one only


def test_losses_under_transforms_are_those_of_the_figures(paper_rows):
    found = {c.name: c for c in paper_claims(load_profile("paper").dimensions, paper_rows)}
    (first, *_) = found["convnext_scale"].inequalities
    rows = paper_rows[paper_rows.dimension == "invariance"]
    vit = 85.50 - np.mean([83.36, 79.86, 71.35, 54.52])
    convnext = 85.52 - np.mean([84.40, 82.60, 78.05, 67.58])
    value = claims.estimate(first, rows, NO_COMPARISONS).value
    assert first.words == "ConvNeXt, supervised loses less than ViT, supervised under scale"
    assert value == pytest.approx(vit - convnext)
    shift = claims.estimate(found["shift_over_scale"].inequalities[0], rows, NO_COMPARISONS).value
    assert shift == pytest.approx(vit - (85.42 - np.mean([85.49, 85.25, 84.06, 82.56])))


@pytest.mark.parametrize("profile", ["mini", "paper", "predictions", "smoke"])
def test_claims_can_be_asked_of_every_profile(profile):
    empty = pd.DataFrame(columns=["dimension", "dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"])
    asked = paper_claims(load_profile(profile).dimensions, empty)
    assert len(asked) == 15 and len({claim.name for claim in asked}) == 15
    table = claims.judge(asked, empty, NO_COMPARISONS)
    assert set(table.verdict) == {"not testable"} and table.why_not.str.len().min() > 0


def test_records_are_read_for_the_models_of_the_run(tmp_path):
    with pytest.raises(DataMissing, match="run them first"):
        claims.read_records(tmp_path, ["a"])
    rows = pd.DataFrame([result("a", 1, 1), result("old", 2, 1)]).assign(dimension="robustness")
    write_dimension(tmp_path, "robustness", rows)
    (tmp_path / "comparisons").mkdir()
    pairs = [compared("a", "", 1, 1, 0.5), compared("a", "old", 1, 1, 0.5), compared("a", "b", 1, 1, np.nan)]
    pd.DataFrame(pairs).to_csv(tmp_path / "comparisons" / "x.csv", index=False)
    results, comparisons = claims.read_records(tmp_path, ["a", "b"])
    assert results.model.tolist() == ["a"]
    assert comparisons[["model_a", "model_b"]].to_numpy().tolist() == [["a", ""], ["a", "b"]]
    assert np.isnan(comparisons.p[1])
