"""The paper's findings asked of a run: the same here, reversed here, or open here.

A claim (`assets/claims.yaml`) is a set of questions that must all hold. Most are comparisons that a page has decided,
whose verdicts are read. Questions about several numbers (a mean over models, a loss over a ladder of strengths, a
margin) are answered from the numbers recorded, and decided together (`verdicts.judge`). A claim is the same here if
every question is told from zero in its direction, reversed if one is told from zero against it, open otherwise.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import norm

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.data.transforms import at_rest
from beyond_accuracy.measure import verdicts
from beyond_accuracy.measure.stats import Z95, half_width_sd
from beyond_accuracy.show import tables
from beyond_accuracy.show.figures import used
from beyond_accuracy.show.results import read_comparisons, read_results
from beyond_accuracy.show.theme import GREY, INK, WIDTH, ModelStyle, legend

SAME, REVERSED, OPEN, NOT_ASKED = VERDICTS = ("same here", "reversed here", "open here", "not asked here")
CELLS = ("vit_sup", "convnext_sup", "vit_clip", "convnext_clip")
WORDS = dict(zip(CELLS, ("ViT, supervised", "ConvNeXt, supervised", "ViT, CLIP", "ConvNeXt, CLIP"), strict=True))
BASIS = {
    "paired": "the page's paired comparison",
    "bound": "sum of several numbers, errors added up (never too narrow)",
}
EFFECT = ["effect", "effect_low", "effect_high"]
DECIDED = ["statement", "decisive", "holding", "certainty", "p_holm", "p_holm_floor", "basis", "n"]
SUPPORT = {SAME: "supported", REVERSED: "reversed", OPEN: "open", NOT_ASKED: "no interval"}  # the paper's own n
_REACH = 5.0
_LOOKS = {SAME: ("o", INK, INK), REVERSED: ("X", "#b3261e", "#b3261e"), OPEN: ("o", "white", INK)}


class Term(NamedTuple):
    """A recorded number of one model, or the difference of two models' numbers, with a weight."""

    weight: float
    dataset: str
    metric: str
    a: str
    b: str = ""


class Question(NamedTuple):
    """Is ``offset + sum of weight * term > 0``? In words, too."""

    words: str
    terms: tuple[Term, ...]
    offset: float = 0.0


class Claim(NamedTuple):
    """A finding of the paper: all its questions must hold; there are none where the run lacks what it is about."""

    name: str
    statement: str
    page: str
    questions: tuple[Question, ...]


def read_records(report_folder: Path, models: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and comparisons that the pages of a report left behind, of the given models; DataMissing without any."""
    results, comparisons = read_results(report_folder), read_comparisons(report_folder)
    if not len(results):
        raise DataMissing(
            f"no results in {report_folder}: the summary reads what the other pages record; "
            "run them first with `beyond-accuracy report`"
        )
    both = comparisons["model_a"].isin(models) & comparisons["model_b"].isin([*models, ""])
    return results[results["model"].isin(models)].reset_index(drop=True), comparisons[both].reset_index(drop=True)


def paper_claims(
    dimensions: Mapping[str, Mapping], results: pd.DataFrame, title: Callable[[str], str] = str
) -> list[Claim]:
    """The paper's findings as questions between numbers this run can have.

    The profile's dimensions tell which dataset plays which part on which page, the results what was recorded (factors,
    strengths); `title` names datasets for readers.
    """
    claims = []
    for entry in yaml.safe_load((ASSETS / "claims.yaml").read_text(encoding="utf-8"))["claims"]:
        page = entry["page"]
        asked = _questions(entry, dimensions.get(page, {}), of_page(results, page), title)
        claims.append(Claim(entry["name"], entry["statement"], page, tuple(asked)))
    return claims


def of_page(rows: pd.DataFrame, page: str) -> pd.DataFrame:
    """Rows of one page; a transform at the strength that changes nothing is the plain accuracy."""
    rows = rows[rows["dimension"] == page]
    rows = rows.assign(metric=[at_rest(name) if name.startswith("accuracy:") else name for name in rows["metric"]])
    return rows.drop_duplicates([name for name in ("dataset", "metric", "model", "model_a", "model_b") if name in rows])


def by_metric(rows: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Rows of every (dataset, metric)."""
    return dict(iter(rows.groupby(["dataset", "metric"])))


def _questions(entry: Mapping, roles: Mapping, own: pd.DataFrame, title: Callable[[str], str]) -> Iterator[Question]:
    known, sets = list(dict.fromkeys(own["metric"])), _sets(entry["sets"], roles)
    metric = next((m for m in entry["metric"].split("|") if m in known), entry["metric"].split("|")[0])
    pairs = [tuple(pair.split(" > ")) for pair in entry.get("above", ())]
    ladders = {kind: [m for m in known if m.startswith(f"{metric}:{kind}=")] for kind in entry.get("losses", ())}
    for dataset in sets:
        on = f" on {title(dataset)}" if len(sets) > 1 else ""
        if "hardest" in entry:
            factors = [m for m in known if m.startswith(f"{metric}:") and not m.endswith(":average")]
            hardest = f"{metric}:{entry['hardest']}"
            for other in [m for m in factors if m != hardest] if hardest in factors else ():
                both = ((hardest, 0.25), (other, -0.25))
                terms = tuple(Term(weight, dataset, m, model) for model in CELLS for m, weight in both)
                name = other.partition(":")[2].replace("_", " ")
                yield Question(f"{entry['hardest']} above {name}, mean of the models", terms)
        elif not all(ladders.values()):
            continue
        elif len(ladders) == 2:
            (more, strong), (less, weak) = ladders.items()
            for model in CELLS:
                terms = (*_loss(1.0, dataset, metric, strong, model), *_loss(-1.0, dataset, metric, weak, model))
                yield Question(f"{WORDS[model]} loses less under {less} than under {more}", terms)
        elif ladders:
            ((kind, strengths),) = ladders.items()
            for a, b in pairs:
                terms = tuple(_loss(1.0, dataset, metric, strengths, a, b))
                yield Question(f"{WORDS[b]} loses less than {WORDS[a]} under {kind}", terms)
        else:
            yield from (_pair(dataset, metric, a, b, entry.get("within", 0), on) for a, b in pairs)


def _pair(dataset: str, metric: str, a: str, b: str, within: float, on: str) -> Question:
    if "0" in (a, b):
        model, weight, word = (b, -1.0, "below") if a == "0" else (a, 1.0, "above")
        heading = tables.about(metric)["heading"]
        return Question(f"{WORDS[model]}: {heading} {word} zero{on}", (Term(weight, dataset, metric, model),))
    words = f"at most {within:g} points below" if within else "above"
    return Question(f"{WORDS[a]} {words} {WORDS[b]}{on}", (Term(1.0, dataset, metric, a, b),), within)


def _sets(wanted: Sequence[str], roles: Mapping) -> list[str]:
    found = []
    for choice in wanted:
        role = next((name for name in choice.split("|") if name in roles), choice)
        value = roles.get(role, "average" if role == "average" else [])
        found += value if isinstance(value, list) else [value]
    return list(map(str, found))


def _loss(weight: float, dataset: str, metric: str, strengths: Sequence[str], a: str, b: str = "") -> Iterator[Term]:
    """Terms of ``weight * (accuracy at the start - mean accuracy over the strengths)``, of a or of a minus b."""
    yield Term(weight, dataset, metric, a, b)
    yield from (Term(-weight / len(strengths), dataset, name, a, b) for name in strengths)


def answer(question: Question, results: Mapping, comparisons: Mapping) -> dict | None:
    """The left side of a question with its uncertainty; None if its page has not asked it or not recorded its numbers.

    Of rows `by_metric`: `value, low, high, p, n, unit, basis`, where the page has decided it `p_floor, p_holm,
    verdict`, too. Standard errors of several terms are added up: no dependence can make the sum vary more.
    """
    parts, weights = [_part(term, results, comparisons) for term in question.terms], [t.weight for t in question.terms]
    single = len(parts) == 1 and abs(weights[0]) == 1
    if any(part is None for part in parts) or (single and "verdict" not in parts[0]):
        return None
    value = question.offset + sum(w * part["value"] for w, part in zip(weights, parts, strict=True))
    error = sum(abs(w) * part["error"] for w, part in zip(weights, parts, strict=True))
    ends = value - Z95 * error, value + Z95 * error
    if single:
        ends = sorted(question.offset + weights[0] * parts[0][end] for end in ("low", "high"))
    found = parts[0] | {"value": value, "low": ends[0], "high": ends[1], "n": min(part["n"] for part in parts)}
    if single and not question.offset:
        return found
    undecided = {name: found[name] for name in ("value", "low", "high", "n", "unit")}
    p = 2 * norm.sf(abs(value) / error) if error > 0 else float(value == 0)
    return undecided | {"p": float(p), "basis": "bound" if len(parts) > 1 else "paired"}


def _part(term: Term, results: Mapping, comparisons: Mapping) -> dict | None:
    """One term: as the page compared it, or from the models' own intervals, taken as independent."""
    key = term.dataset, term.metric
    row = verdicts.between(comparisons[key], term.a, term.b) if key in comparisons else None
    if row and np.isfinite([row["difference"], row["ci_low"], row["ci_high"]]).all():
        kept = {name: row[name] for name in ("n", "unit", "p", "p_floor", "p_holm", "verdict")}
        error = half_width_sd(row["ci_low"], row["ci_high"])
        return kept | dict(value=row["difference"], error=error, low=row["ci_low"], high=row["ci_high"], basis="paired")
    rows = results[key].set_index("model") if key in results else pd.DataFrame()
    names = [model for model in (term.a, term.b) if model]
    if not set(names) <= set(rows.index) or rows.loc[names, ["ci_low", "ci_high"]].isna().any(axis=None):
        return None
    own = rows.loc[names]
    value = float(own["value"].iloc[0] - own["value"].iloc[1:].sum())
    error = float(np.hypot.reduce(half_width_sd(own["ci_low"], own["ci_high"]).to_numpy(float)))
    return {"value": value, "error": error, "n": own["n"].astype(float).min(), "unit": own["unit"].iloc[0]}


def judge(claims: Sequence[Claim], results: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """What becomes of claims in a run, from the results and comparisons of all its pages: one row per claim.

    `name, statement, dimension, verdict, holding` (questions that hold, "3 of 4"), `decisive` (of those told from zero
    against the claim, else of all, the one with the smallest effect in units of its interval), and of that one `effect,
    effect_low, effect_high, unit` (positive in the claim's direction), `certainty` (its verdict), `p, p_holm,
    p_holm_floor` (p_holm where it is an upper bound), `n, basis`; `why_not` it was asked.
    """
    pages = {claim.page for claim in claims}
    own = {page: [by_metric(of_page(rows, page)) for rows in (results, comparisons)] for page in pages}
    answers = [[(question.words, answer(question, *own[c.page])) for question in c.questions] for c in claims]
    sums = [found for rows in answers for _, found in rows if found and "verdict" not in found]
    decided = verdicts.judge(pd.DataFrame(sums, columns=["p"], dtype=float).assign(family="sums"))
    for found, row in zip(sums, decided.to_dict("records"), strict=True):
        found |= {"p_holm": row["p_holm"], "verdict": row["verdict"], "p_floor": 0.0}
    return pd.DataFrame([_judged(claim, rows) for claim, rows in zip(claims, answers, strict=True)])


def _judged(claim: Claim, answers: Sequence[tuple[str, dict | None]]) -> dict:
    row = {"name": claim.name, "statement": claim.statement, "dimension": claim.page}
    absent = [words for words, found in answers if found is None]
    if absent or not answers:
        rest = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        what = f"has not compared: {absent[0]}{rest}" if absent else "has nothing that the claim is about"
        empty = dict.fromkeys([*EFFECT, "p", "p_holm", "p_holm_floor", "n"], np.nan)
        words = dict.fromkeys(["holding", "decisive", "unit", "certainty", "basis"], "")
        return row | {"verdict": NOT_ASKED} | words | empty | {"why_not": f"the page {claim.page} {what}"}
    sure = [found["verdict"] != verdicts.OPEN for _, found in answers]
    against = [pair for pair, told in zip(answers, sure, strict=True) if told and pair[1]["value"] < 0]
    verdict = REVERSED if against else SAME if all(sure) else OPEN
    decisive, found = min(against or answers, key=lambda pair: _scaled(*(pair[1][k] for k in ("value", "low", "high"))))
    floor = found["p_holm"] if verdicts.is_bound(found) else np.nan
    return row | {
        "verdict": verdict, "holding": f"{sum(each['value'] > 0 for _, each in answers)} of {len(answers)}",
        "decisive": decisive, "effect": found["value"], "effect_low": found["low"], "effect_high": found["high"],
        "unit": "points" if found["unit"] == "percent" else found["unit"], "certainty": found["verdict"],
        "p": found["p"], "p_holm": found["p_holm"], "p_holm_floor": floor, "n": found["n"], "basis": found["basis"],
        "why_not": "",
    }  # fmt: skip


def beside_paper(
    judged: pd.DataFrame, asked: Sequence[Claim], numbers: pd.DataFrame, differences: pd.DataFrame
) -> pd.DataFrame:
    """One row per claim: its deciding effect in the paper, what the paper's n tells of it, this run's, its verdict.

    `judged` are this run's claims (rows of `judge`), `asked` the same claims asked of the paper's own `numbers`, which
    have intervals where they can have one; `differences` between these are decided.
    """
    theirs = judge(asked, numbers, differences)
    theirs["effect"] = theirs["effect"].fillna(pd.Series([_smallest(claim, numbers) for claim in asked]))
    told = theirs["verdict"].map(SUPPORT).where(theirs["effect"].notna(), "not printed")
    shown = pd.DataFrame({"finding": theirs["statement"]})
    shown[["paper", "paper_low", "paper_high"]] = theirs[EFFECT]
    shown["its n"] = told
    shown[["here", "here_low", "here_high"]] = judged[EFFECT]
    shown["unit"] = judged["unit"].where(judged["unit"] != "", theirs["unit"])
    return shown.assign(verdict=judged["verdict"].str.removesuffix(" here"), format=tables.digits(shown["unit"]))


def supported(beside: pd.DataFrame) -> str:
    """How many findings the paper's own test sets support, in words, from the table of `beside_paper`."""
    yes, undecided, no = ((beside["its n"] == SUPPORT[verdict]).sum() for verdict in (SAME, OPEN, REVERSED))
    rest = f"{len(beside) - yes - undecided - no}, whose numbers have no interval or are not printed"
    said = f"supports {yes} of its {len(beside)} findings, leaves {undecided} open, speaks against {no}"
    return f"The size of the paper's test sets alone {said} and says nothing of {rest}."


def _smallest(claim: Claim, numbers: pd.DataFrame) -> float:
    """The smallest left side of a claim's questions from the numbers alone; NaN where one is lacking."""
    values = of_page(numbers, claim.page).set_index(["dataset", "metric", "model"])["value"].to_dict()

    def of(term: Term, model: str) -> float:
        return values.get((term.dataset, term.metric, model), np.nan) if model else 0.0

    sides = [q.offset + sum(t.weight * (of(t, t.a) - of(t, t.b)) for t in q.terms) for q in claim.questions]
    return float(np.min(sides)) if sides else np.nan


def _scaled(value: float, low: float, high: float) -> float:
    """An effect in units of half its interval."""
    return 2 * value / (high - low) if high > low else np.sign(value) * np.inf


def sentence(judged: pd.DataFrame, where: str) -> str:
    """How many claims are the same, reversed, open and not asked, and which are reversed."""
    counts = [f"{(judged['verdict'] == verdict).sum()} {verdict.removesuffix(' here')}" for verdict in VERDICTS]
    reversed_ = [f"“{text}”" for text in judged.loc[judged["verdict"] == REVERSED, "statement"]]
    told = f" Reversed: {', '.join(reversed_)}." if reversed_ else ""
    return f"Of the paper's {len(judged)} findings {where}: {verdicts.joined(counts)}.{told}"


def _ruler(names: Sequence[str], height: float, xlabel: str) -> tuple[Figure, Axes]:
    """Named rows on a scale in units of an interval, whose band of no evidence is shaded."""
    fig, ax = plt.subplots(figsize=(WIDTH, 1.0 + height * max(len(names), 1)))
    ax.axvspan(-1, 1, color="#eceef1", zorder=0)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_yticks(range(len(names)), names, fontsize=9.5)
    ax.set(ylim=(len(names) - 0.4, -0.6), xlim=(-_REACH - 0.3, _REACH + 0.3), xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    return fig, ax


def reproduced(compared: pd.DataFrame, preset: str) -> list[str]:
    """The finding, if there is one: how many of the numbers that should agree with the paper's do."""
    targets = compared[compared["target"].astype(bool)]
    agree = f"{targets['agrees'].sum()} of {len(targets)} numbers measured agree with the paper's"
    return [f"{agree} within interval and reading tolerance (preset {preset})."] if len(targets) else []


def claims_figure(tested: pd.DataFrame, styles: Mapping[str, ModelStyle] | None = None) -> tuple[Figure, str]:
    """Each claim's deciding effect, of those that have one, in units of its own uncertainty: its direction is right."""
    statements = [textwrap.fill(text, 36) for text in tested["statement"]]
    fig, ax = _ruler(statements, 0.6, "deciding effect ÷ half its 95 % interval")
    for i, row in enumerate(tested.to_dict("records")):
        value, (marker, face, edge) = _scaled(*(row[name] for name in EFFECT)), _LOOKS[row["verdict"]]
        at = float(np.clip(value, -_REACH, _REACH))
        ax.plot([0, at], [i, i], color=edge, linewidth=1.6)
        ax.plot(at, i, marker, color=edge, markerfacecolor=face, markersize=9, markeredgewidth=1.6, clip_on=False)
        if abs(value) > _REACH:
            sign, shift = ("›", 8) if value > 0 else ("‹", -8)
            ax.annotate(sign, (at, i), (shift, 0), textcoords="offset points", ha="center", va="center", fontsize=13)
    handles = [
        Line2D([], [], marker=m, color=edge, markerfacecolor=face, linestyle="none", markersize=9, label=verdict)
        for verdict, (m, face, edge) in _LOOKS.items()
    ]
    fig.legend(handles=handles, loc="outside upper left", ncols=3)
    said = "; ".join(f"{row.statement}: {row.verdict}" for row in tested.itertuples())
    return fig, f"Verdicts: {said}."


def beyond_edge(tested: pd.DataFrame) -> str:
    """What the caption of `claims_figure` says where effects lie beyond its edge; nothing where none does."""
    outside = any(abs(_scaled(*row)) > _REACH for row in tested[EFFECT].to_numpy(float))
    return f" Marks at the edge with ‹ or › lie beyond it (more than {_REACH:g} units from zero)." if outside else ""


def agreement_figure(compared: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> tuple[Figure, str]:
    """Ours minus the paper's (`published.compare`), in units of interval plus tolerance: in the band the two agree."""
    pages = list(dict.fromkeys(compared["dimension"]))
    fig, ax = _ruler([p.replace("_", " ") for p in pages], 0.62, "(this run − paper) ÷ (interval + reading tolerance)")
    low = np.maximum(compared["value"] - compared["ci_low"].fillna(compared["value"]), 0)
    high = np.maximum(compared["ci_high"].fillna(compared["value"]) - compared["value"], 0)
    # the reference lies above ours where the difference is negative: then the upper arm of the interval counts
    arm = np.where(compared["difference"] < 0, high, low) + compared["tolerance"]
    places = compared.assign(at=np.clip(compared["difference"] / arm, -_REACH, _REACH))
    looks = used(styles, compared)
    for k, (name, look) in enumerate(looks.items()):
        for target, size, color in ((True, 6, look.color), (False, 4, GREY)):
            mine = places[(places["model"] == name) & (places["target"] == target)]
            rows = mine["dimension"].map(pages.index).to_numpy(float) + (k - (len(looks) - 1) / 2) * 0.19
            face = look.markerfacecolor if target else color
            options = {"markersize": size, "linestyle": "none", "markeredgewidth": 1.2, "alpha": 0.85}
            ax.plot(mine["at"], rows, look.marker, color=color, markerfacecolor=face, **options)
    legend(fig, looks)
    return fig, f"{compared['agrees'].sum()} of {len(compared)} numbers agree with the paper's."
