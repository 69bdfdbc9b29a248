"""The paper's claims: read from verdicts, sums bounded whatever their dependence, the paper's own numbers as oracle."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import published
from beyond_accuracy.dimensions import claims
from beyond_accuracy.dimensions.claims import CELLS, Claim, Question, Term, paper_claims
from beyond_accuracy.measure import verdicts
from beyond_accuracy.show import paper, theme
from beyond_accuracy.show import results as records
from beyond_accuracy.show.results import ECE, write_dimension

Z = norm.ppf(0.975)
NO_COMPARISONS = pd.DataFrame(columns=list(records.COMPARISON_COLUMNS))


def result(model, value, half, metric="m", dataset="d", dimension="x", n=100):
    return dict(dimension=dimension, dataset=dataset, metric=metric, model=model, value=value, ci_low=value - half,
                ci_high=value + half, n=n, unit="percent")  # fmt: skip


def compared(a, b, difference, half, p, metric="m", dataset="d", dimension="x", n=50, floor=0.0):
    return dict(dimension=dimension, dataset=dataset, metric=metric, model_a=a, model_b=b, difference=difference,
                ci_low=difference - half, ci_high=difference + half, p=p, n=n, unit="percent", family="main",
                p_holm=p, verdict=verdicts.THESE if p < 0.05 else verdicts.OPEN, p_floor=floor)  # fmt: skip


def above(a, b="", weight=1.0, offset=0.0):
    return Question(f"{a} above {b}", (Term(weight, "d", "m", a, b),), offset)


def frames(results=(), comparisons=()):
    rows = pd.DataFrame(list(results), columns=list(result("a", 0, 0)))
    return rows, pd.DataFrame(list(comparisons), columns=NO_COMPARISONS.columns)


def answer(question, results=(), comparisons=()):
    return claims.answer(question, *map(claims.by_metric, frames(results, comparisons)))


def test_a_recorded_pair_is_read_in_either_direction_with_its_verdict():
    pair = [compared("a", "b", 2.0, 1.0, 0.01)]
    forward = answer(above("a", "b"), comparisons=pair)
    assert [forward[k] for k in ("value", "low", "high", "n", "basis")] == [2, 1, 3, 50, "paired"]
    assert forward["p_holm"] == 0.01
    for question in (above("b", "a"), above("a", "b", weight=-1.0)):
        turned = answer(question, comparisons=pair)
        assert [turned[k] for k in ("value", "low", "high", "verdict")] == [-2, -3, -1, forward["verdict"]]
    # margins shift the interval
    found = answer(above("a", "b", offset=2.0), comparisons=[compared("a", "b", -1.0, Z * 0.25, 0.0001)])
    assert found["value"] == 1.0 and found["low"] == pytest.approx(1 - Z * 0.25) and "verdict" not in found
    assert found["p"] == pytest.approx(2 * norm.sf(4))


def test_sums_are_bounded_whatever_their_dependence():
    """The interval of a sum is at least as wide as the true one, for any correlation of its terms."""
    two = [result("a", 1, 1.96), result("b", 2, 2 * 1.96)]
    found = answer(Question("", (Term(0.5, "d", "m", "a"), Term(-1.5, "d", "m", "b"))), two)
    assert found["value"] == pytest.approx(0.5 - 3) and found["basis"] == "bound"
    for correlation in (-0.9, 0.0, 0.9):
        covariance, weights = np.array([[1, correlation], [correlation, 4]]), np.array([0.5, -1.5])
        assert (found["high"] - found["low"]) / (2 * 1.96) >= np.sqrt(weights @ covariance @ weights) - 1e-9
    three = [result("a", 10, Z), result("b", 5, Z * 2), result("c", 1, 0)]
    found = answer(Question("", (Term(1.0, "d", "m", "a", "b"), Term(1.0, "d", "m", "c"))), three)
    assert found["low"] == pytest.approx(6 - Z * np.sqrt(1 + 4))  # of two models: independent
    assert answer(Question("", (Term(1.0, "d", "m", "a"), Term(1.0, "d", "m", "z"))), three) is None


def judge(*questions, results=(), comparisons=()):
    return claims.judge([Claim("c", "a claim", "x", tuple(questions))], *frames(results, comparisons)).iloc[0]


SURE, UNSURE = compared("a", "b", 2, 0.5, 0.0001), compared("c", "d", 1, 2.0, 0.3)


def test_all_questions_must_be_told_from_zero_for_a_claim_to_be_the_same_and_one_reverses():
    row = judge(above("a", "b"), comparisons=[SURE])
    assert (row.verdict, row.certainty, row.unit) == ("same here", verdicts.THESE, "points")
    both = judge(above("a", "b"), above("c", "d"), comparisons=[SURE, UNSURE])
    assert both.verdict == "open here" and both.holding == "2 of 2" and both.decisive == "c above d"
    assert both.p == both.p_holm == 0.3
    against = compared("c", "d", -2, 0.5, 0.001)
    row = judge(above("a", "b"), above("c", "d"), above("d", "c"), comparisons=[SURE, against])
    assert row.verdict == "reversed here" and row.holding == "2 of 3"
    assert row.decisive == "c above d" and (row.effect, row.effect_low, row.effect_high) == (-2, -2.5, -1.5)
    assert judge(above("d", "c"), comparisons=[UNSURE]).verdict == "open here"
    # the page's verdict is read and not made again
    rows = [compared("a", "b", 2, 0.1, 0.04) | {"verdict": verdicts.OPEN, "p_holm": 0.4, "p_floor": 0.04}]
    row = judge(above("a", "b"), comparisons=rows)
    assert (row.verdict, row.p_holm, row.p_holm_floor) == ("open here", 0.4, 0.4)


def test_sums_are_decided_together():
    """Questions that no page asks form one family: twice 0.03 is not below 0.05."""
    half = Z / norm.isf(0.015)  # p = 0.03 at a difference of 1
    rows, comparisons = frames([result(a, 0.5, half / 2) for a in "ab"])
    many = [Claim(a, a, "x", (Question("", (Term(1.0, "d", "m", a), Term(1.0, "d", "m", a))),)) for a in "ab"]
    table = claims.judge(many, rows, comparisons)
    assert table.p.tolist() == pytest.approx([0.03] * 2) and table.p_holm.tolist() == pytest.approx([0.06] * 2)
    assert set(table.verdict) == {"open here"} and claims.judge(many[:1], rows, comparisons).verdict[0] == "same here"


def test_what_no_page_has_compared_is_not_asked():
    two = [result("a", 1, 1), result("b", 2, 1)]
    assert answer(above("a"), two) is None
    row = judge(above("a", "b"), results=two, comparisons=[SURE | {"dimension": "y"}])
    assert row.verdict == "not asked here" and row.why_not == "the page x has not compared: a above b"
    assert judge().why_not == "the page x has nothing that the claim is about"


def test_the_sentence_counts_and_names_what_is_reversed():
    judged = pd.DataFrame({"statement": list("pqr"), "verdict": ["same here", "reversed here", "reversed here"]})
    assert claims.sentence(judged, "in a world") == (
        "Of the paper's 3 findings in a world: 1 same, 2 reversed, 0 open and 0 not asked. Reversed: “q”, “r”."
    )


def asked_of(rows):
    """Comparisons that pages would record of some results: every pair, and gaps against zero."""
    found = []
    for (dimension, dataset, metric), part in rows.groupby(["dimension", "dataset", "metric"], sort=False):
        value, half = (dict(zip(part.model, of, strict=True)) for of in (part.value, part.ci_high - part.value))
        for a, b in combinations(value, 2):
            gap, reach = value[a] - value[b], np.hypot(half[a], half[b])
            p = 2 * norm.sf(abs(gap) / reach * Z) if reach > 0 else float(gap == 0)
            found.append(compared(a, b, gap, reach, p, metric, dataset, dimension))
    return pd.DataFrame(found)


@pytest.fixture(scope="module")
def paper_rows():
    rows = published.paper()
    return rows.assign(ci_low=rows.value - rows.tolerance, ci_high=rows.value + rows.tolerance, n=1000)


@pytest.fixture(scope="module")
def papers(paper_rows):
    """The paper's claims, asked of its own numbers."""
    return {claim.name: claim for claim in paper_claims(load_profile("paper").dimensions, paper_rows)}


@pytest.fixture(scope="module")
def judged_paper(papers, paper_rows):
    return claims.judge(list(papers.values()), paper_rows, asked_of(paper_rows)).set_index("name")


def test_the_papers_numbers_give_the_papers_claims(judged_paper):
    table = judged_paper
    unasked = table[table.verdict == "not asked here"].index
    # The paper prints no signed gap, and ratios of errors, which accuracy alone moves, but no odds.
    assert set(unasked) == {"clip_overconfident", "supervised_underconfident", "clip_lower_error_ratio"}
    assert set(table.drop(unasked).verdict) == {"same here"}, table[["verdict", "decisive", "effect"]]
    assert table.holding["supervised_robust"] == "10 of 10" and table.holding["texture_hardest"] == "15 of 15"


def test_what_the_papers_own_test_sets_support_beside_a_run(judged_paper):
    """CLIP leads on Sketch by 52.0 - 48.6 = 3.4 points, read to 0.1 and 0.05, of 50,889 images: 3.4 +- 0.77."""
    numbers = paper.numbers()
    asked = paper_claims(load_profile("paper").dimensions, numbers)
    assert [claim.name for claim in asked] == judged_paper.index.tolist()
    beside = claims.beside_paper(judged_paper.reset_index(), asked, numbers, paper.differences(numbers))
    beside = beside.set_index(judged_paper.index)
    sketch = beside.loc["clip_r_sketch"]
    half = Z * 100 * np.sqrt((0.52 * 0.48 + 0.486 * 0.514) / 50889) + 0.15
    assert [sketch[k] for k in ("paper", "paper_low", "paper_high")] == pytest.approx(
        [3.4, 3.4 - half, 3.4 + half], abs=0.01
    )
    assert sketch["its n"] == "supported" and sketch["verdict"] == "same" and sketch["here"] == pytest.approx(3.4)
    assert beside.loc["clip_shape", "its n"] == "open"  # 0.4468 - 0.3331 of some hundred decisions each
    assert beside.loc["clip_overconfident", "its n"] == "not printed"  # no signed gap
    assert beside.loc["texture_hardest", "its n"] == "no interval" and beside.loc["texture_hardest", "paper"] > 0
    counts = beside["its n"].value_counts()
    words = claims.supported(beside)
    assert f"supports {counts['supported']} of its {len(beside)} findings, leaves {counts['open']} open" in words
    assert f"says nothing of {counts['no interval'] + counts['not printed']}," in words


def test_turned_round_they_are_reversed(papers, paper_rows):
    rows = paper_rows.assign(model=paper_rows.model.map(dict(zip(CELLS, reversed(CELLS), strict=True))))
    expected = dict.fromkeys(["clip_shape", "vit_shape", "clip_r_sketch"], "reversed here")
    expected["texture_hardest"] = "same here"  # a mean over models
    pairs = asked_of(rows[rows.dimension.isin(["shape_bias", "robustness"])])
    table = claims.judge([papers[name] for name in expected], rows, pairs)
    assert table.set_index("name").verdict.to_dict() == expected


@pytest.mark.parametrize(
    ("page", "claim", "recorded", "read"),
    [
        # Whoever errs more has the lower ratio, even where factors do the same to both models.
        ("mistakes", "clip_lower_error_ratio", ["error_ratio:average"], "factor_effect:average"),
        ("calibration", "convnext_calibrated", ["ece", ECE], ECE),
        ("calibration", "convnext_calibrated", ["ece"], "ece"),  # the paper's own numbers have the plain one only
    ],
)
def test_claims_read_the_estimate_that_accuracy_or_noise_do_not_move(page, claim, recorded, read):
    rows = pd.DataFrame([result("vit_sup", 0.02, 0.01, metric, "val", page) for metric in recorded])
    asked = {found.name: found for found in paper_claims({page: {"clean": "val"}}, rows)}
    assert {term.metric for question in asked[claim].questions for term in question.terms} == {read}


def test_losses_under_transforms_are_those_of_the_figures(papers, paper_rows, judged_paper):
    first = papers["convnext_scale"].questions[0]
    rows = claims.of_page(paper_rows, "invariance")
    vit = 85.50 - np.mean([83.36, 79.86, 71.35, 54.52])
    convnext = 85.52 - np.mean([84.40, 82.60, 78.05, 67.58])
    assert first.words == "ConvNeXt, supervised loses less than ViT, supervised under scale"
    assert answer(first, rows.to_dict("records"))["value"] == pytest.approx(vit - convnext)
    assert judged_paper.effect["convnext_scale"] <= vit - convnext + 1e-9
    # the untouched images are one number, whatever the page calls them
    rows = [result("vit_sup", 90, 1, f"accuracy:{k}", "val", "invariance") for k in ("shift=0", "scale=1", "scale=2")]
    pairs = [compared("vit_sup", "vit_clip", 5, 1, 0.1, "accuracy:shift=0", "val", "invariance")]
    asked = {c.name: c for c in paper_claims({"invariance": {"clean": "val"}}, pd.DataFrame(rows))}
    terms = asked["convnext_scale"].questions[0].terms
    assert [term.metric for term in terms] == ["accuracy", "accuracy:scale=2"]
    assert claims.of_page(pd.DataFrame(pairs), "invariance").metric.tolist() == ["accuracy"]


@pytest.mark.parametrize("profile", ["mini", "paper", "predictions"])
def test_claims_can_be_asked_of_every_profile(profile):
    empty = pd.DataFrame(columns=list(records.RESULT_COLUMNS))
    asked = paper_claims(load_profile(profile).dimensions, empty)
    assert len(asked) == 15 and len({claim.name for claim in asked}) == 15
    table = claims.judge(asked, empty, NO_COMPARISONS)
    assert set(table.verdict) == {"not asked here"} and table.why_not.str.len().min() > 0


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


def test_claims_lie_on_their_side_in_units_of_their_interval():
    verdict = ["same here", "reversed here", "open here"]
    effects = {"effect": [3.0, -1.0, 0.5], "effect_low": [2.0, -1.01, -0.5], "effect_high": [4.0, -0.99, 1.5]}
    table = pd.DataFrame({"statement": ["one", "two", "three"], "verdict": verdict} | effects)
    fig, alt = claims.claims_figure(table)
    ends = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
    assert [float(line.get_xdata()[0]) for line in ends] == [3.0, -5.0, 0.5]  # -100 is drawn at the edge
    assert [line.get_marker() for line in ends] == ["o", "X", "o"]
    assert alt == "Verdicts: one: same here; two: reversed here; three: open here."
    assert claims.beyond_edge(table).startswith(" Marks at the edge with ‹ or › lie beyond it")
    unasked = pd.DataFrame(np.nan, [0], claims.EFFECT)
    assert claims.beyond_edge(pd.concat([table.drop(1), unasked])) == claims.beyond_edge(table[:0]) == ""


def test_agreement_is_measured_on_the_side_of_the_paper():
    """The arm of the interval that points to the paper's value counts, with the reading tolerance."""
    common = {"dimension": "robustness", "model": "vit_sup", "value": 80.0, "ci_low": 79.0, "ci_high": 83.0}
    rows = pd.DataFrame([common | {"tolerance": 0.5}] * 2)
    rows = rows.assign(difference=[-3.5, 3.0], target=[True, False], agrees=[True, False])
    fig, alt = claims.agreement_figure(rows, {"vit_sup": theme.style(published.checkpoint_specs()[0])})
    drawn = [float(line.get_xdata()[0]) for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
    assert drawn == pytest.approx([-1.0, 2.0]) and alt.startswith("1 of 2")
