"""Findings as statements that a run's results support, contradict or leave undecided.

A claim is a set of inequalities between recorded numbers, all of which must hold ("CLIP models are more shape-biased"
is one inequality per architecture). It is supported when every inequality holds beyond chance (intersection-union
test: the largest p), contradicted when one is reversed beyond chance (the smallest p, Bonferroni within the claim), and
undecided otherwise; the claims' p-values are corrected by Holm over all claims judged.

Everything is computed from the tables that pages leave behind (docs/architecture.md, Results and Comparisons), so the
page needs neither images nor predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.measure.stats import Z95, half_width_sd, holm
from beyond_accuracy.page import COMPARISON_COLUMNS
from beyond_accuracy.show.results import read_results

SUPPORTED, CONTRADICTED, UNDECIDED, UNTESTABLE = VERDICTS = ("supported", "contradicted", "undecided", "not testable")


@dataclass(frozen=True)
class Term:
    """A recorded number of one model, or the difference of two models' numbers, with a weight."""

    weight: float
    dataset: str
    metric: str
    a: str
    b: str = ""


@dataclass(frozen=True)
class Inequality:
    """``offset + sum of weight * term > 0``, in words."""

    words: str
    terms: tuple[Term, ...]
    offset: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A finding of the paper.

    Attributes:
        name: Short name.
        statement: What the paper says.
        dimension: The page whose numbers decide it.
        inequalities: All of them must hold; empty when the run lacks what the claim is about.
        why_not: Why there is none.
    """

    name: str
    statement: str
    dimension: str
    inequalities: tuple[Inequality, ...]
    why_not: str = ""


@dataclass(frozen=True)
class Estimate:
    """Value of an inequality's left side: estimate, standard error, one-sided p of "not above zero"."""

    value: float
    low: float
    high: float
    p_not_above: float
    n: float
    basis: str
    bound: bool = False  # the p-value is as small as its test can give

    @property
    def p_not_below(self) -> float:
        """One-sided p of "not below zero"."""
        return 1 - self.p_not_above


def read_records(report_folder: Path, models: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and comparisons that the pages of a report left behind, of the given models.

    Args:
        report_folder: ``report/<profile>``.
        models: Models of the run; rows of others (of an earlier run) are left out.

    Raises:
        DataMissing: If no page has recorded anything yet.
    """
    paths = [sorted((Path(report_folder) / name).glob("*.csv")) for name in ("results", "comparisons")]
    frames = [
        [read_results(path) for path in paths[0]],
        [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in paths[1]],
    ]
    if not any(len(frame) for frame in frames[0]):
        raise DataMissing(
            f"no results in {report_folder}: the summary reads what the other pages record; "
            "run them first with `beyond-accuracy report`"
        )
    results = pd.concat([frame for frame in frames[0] if len(frame)], ignore_index=True)
    filled = [frame for frame in frames[1] if len(frame)]
    comparisons = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COMPARISON_COLUMNS)
    comparisons["model_b"] = comparisons.model_b.fillna("")
    both = comparisons.model_a.isin(models) & comparisons.model_b.isin([*models, ""])
    return results[results.model.isin(models)].reset_index(drop=True), comparisons[both].reset_index(drop=True)


# ---------------------------------------------------------------------------------------------------- evaluating one


def estimate(inequality: Inequality, results: pd.DataFrame, comparisons: pd.DataFrame) -> Estimate | None:
    """The left side of an inequality with its uncertainty; None if a number it needs was not recorded.

    A single difference takes its paired interval and p-value from the comparisons. Where only the two models' own
    intervals are recorded they are taken as independent. Of several terms the standard errors are added up: no
    dependence between the terms can make the sum vary more, so that interval is never too narrow.

    Args:
        inequality: What to evaluate.
        results: Results rows of the claim's dimension.
        comparisons: Comparisons rows of the claim's dimension.
    """
    parts = [_term(term, results, comparisons) for term in inequality.terms]
    if any(part is None for part in parts):
        return None
    value = inequality.offset + sum(t.weight * value for t, (value, *_) in zip(inequality.terms, parts, strict=True))
    error = sum(abs(t.weight) * part[1] for t, part in zip(inequality.terms, parts, strict=True))
    n = float(np.nanmin([part[3] for part in parts])) if any(np.isfinite(part[3]) for part in parts) else np.nan
    single = len(parts) == 1 and abs(inequality.terms[0].weight) == 1
    if single:
        (low, high), p, basis = parts[0][4], parts[0][2], parts[0][5]
        if inequality.terms[0].weight < 0:
            low, high = -high, -low
        low, high = low + inequality.offset, high + inequality.offset
        if inequality.offset == 0 and np.isfinite(p):
            return Estimate(value, low, high, p / 2 if value > 0 else 1 - p / 2, n, basis, parts[0][6])
    else:
        low, high = value - Z95 * error, value + Z95 * error
        basis = "bound"
    p_not_above = float(norm.sf(value / error)) if error > 0 else float(value <= 0)
    return Estimate(value, low, high, p_not_above, n, basis)


def _term(term: Term, results: pd.DataFrame, comparisons: pd.DataFrame):
    """(value, standard error, two-sided p, n, interval, basis, whether p is a bound) of one term, or None."""
    found = comparisons[(comparisons.dataset == term.dataset) & (comparisons.metric == term.metric)]
    for a, b, sign in ((term.a, term.b, 1), (term.b, term.a, -1)):
        row = found[(found.model_a == a) & (found.model_b == b)]
        if len(row) and a:
            row = row.iloc[0]
            ends = sorted((sign * row.ci_low, sign * row.ci_high))
            error = half_width_sd(*ends)
            if np.isfinite([row.difference, error]).all():
                bound = row.p <= row.get("p_floor", 0) * (1 + 1e-9)
                return sign * row.difference, error, row.p, row.n, tuple(ends), "paired", bool(bound)
    rows = [_result(results, term, model) for model in (term.a, term.b) if model]
    if any(row is None for row in rows):
        return None
    value, errors = rows[0][0], [row[1] for row in rows]
    if len(rows) == 2:
        value -= rows[1][0]
    error = float(np.hypot(*errors)) if len(rows) == 2 else errors[0]
    ends = (value - Z95 * error, value + Z95 * error) if len(rows) == 2 else rows[0][3]
    basis = "independent" if len(rows) == 2 else "one model"
    return value, error, np.nan, min(row[2] for row in rows), ends, basis, False


def _result(results: pd.DataFrame, term: Term, model: str):
    row = results[(results.dataset == term.dataset) & (results.metric == term.metric) & (results.model == model)]
    if row.empty or not np.isfinite(row[["value", "ci_low", "ci_high"]].iloc[0].astype(float)).all():
        return None
    row = row.iloc[0]
    return float(row.value), half_width_sd(row.ci_low, row.ci_high), row.n, (row.ci_low, row.ci_high)


# --------------------------------------------------------------------------------------------------------- judging all


def judge(
    claims: Sequence[Claim], results: pd.DataFrame, comparisons: pd.DataFrame, level: float = 0.05
) -> pd.DataFrame:
    """Judge claims on a run's results.

    Args:
        claims: As from `paper_claims.paper_claims`.
        results: Rows of the results schema, all dimensions.
        comparisons: Rows of the comparisons schema, all dimensions; ``model_b`` empty or NaN for one-model rows.
        level: Significance level after Holm's correction.

    Returns:
        One row per claim: ``name, statement, dimension, verdict, holding`` (inequalities that hold, "3 of 4"),
        ``decisive`` (words of the inequality that decides: the least certain one of a supported claim, the most
        certainly reversed one of a contradicted claim), ``effect, effect_low, effect_high`` (of that one, positive in
        the claim's direction), ``p, p_holm, p_holm_floor`` (p_holm where it is an upper bound), ``n, basis, why_not``.
    """
    comparisons = comparisons.assign(model_b=comparisons.model_b.fillna(""))
    rows = [_judge_one(claim, results, comparisons) for claim in claims]
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table.p)
    table["p_holm_floor"] = table.p_holm.where(table.pop("bound"))
    sides = table.pop("side")
    certain = table.p_holm < level
    table["verdict"] = np.where(table.p.isna(), UNTESTABLE, np.where(certain, sides, UNDECIDED))
    order = ["name", "statement", "dimension", "verdict", "holding", "decisive", "effect", "effect_low", "effect_high"]
    return table[[*order, "p", "p_holm", "p_holm_floor", "n", "basis", "why_not"]]


def _judge_one(claim: Claim, results: pd.DataFrame, comparisons: pd.DataFrame) -> dict:
    row = {"name": claim.name, "statement": claim.statement, "dimension": claim.dimension}
    empty = dict.fromkeys(("effect", "effect_low", "effect_high", "p", "n"), np.nan)
    empty |= {"holding": "", "decisive": "", "bound": False}
    own = [frame[frame.dimension == claim.dimension] for frame in (results, comparisons)]
    found = [(inequality, estimate(inequality, *own)) for inequality in claim.inequalities]
    absent = [inequality.words for inequality, value in found if value is None]
    if not found or absent:
        rest = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        why = claim.why_not or f"the page {claim.dimension} has not recorded: {absent[0]}{rest}"
        return row | empty | {"side": UNTESTABLE, "basis": "", "why_not": why}
    support = max(found, key=lambda item: item[1].p_not_above)
    reversed_ = min(found, key=lambda item: item[1].p_not_below)
    p_support, p_reversed = support[1].p_not_above, min(1.0, len(found) * reversed_[1].p_not_below)
    side, (inequality, value), p = (
        (SUPPORTED, support, p_support) if p_support <= p_reversed else (CONTRADICTED, reversed_, p_reversed)
    )
    holding = sum(item[1].value > 0 for item in found)
    return row | {
        "holding": f"{holding} of {len(found)}",
        "decisive": inequality.words,
        "effect": value.value,
        "effect_low": value.low,
        "effect_high": value.high,
        "p": min(1.0, 2 * p),
        "bound": value.bound,
        "n": value.n,
        "basis": value.basis,
        "side": side,
        "why_not": "",
    }
