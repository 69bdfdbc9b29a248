"""The page "Choose a model": weights on what matters, the ranking they give, how sure it is, what would flip it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from beyond_accuracy.base.profile import Profile
from beyond_accuracy.inference.throughput import measured_throughput, published_throughput
from beyond_accuracy.report.choosing import HIGHEST, TIMING, Choice, Criterion, Ranking, decisive, gather, rank
from beyond_accuracy.report.html import TEMPLATE, Body
from beyond_accuracy.show import tables

DRAWS = 1000


@dataclass(frozen=True)
class Preset:
    """A purpose and the weights that stand for it; without its `need` it is not offered."""

    key: str
    label: str
    weights: dict[str, int]
    need: str


PRESETS = (
    Preset("balanced", "A bit of everything", {"accuracy": 50, "shifted": 50, "ece": 50, "transfer": 50}, "accuracy"),
    Preset(
        "confidence", "Needs trustworthy confidence", {"ece": 80, "ece_shift": 80, "accuracy": 30, "shifted": 20}, "ece"
    ),
    Preset("shift", "Shifted data", {"shifted": 100, "synthetic": 40, "invariance": 40, "ece_shift": 20}, "shifted"),
    Preset("transfer", "Transfer to small data", {"transfer": 100, "accuracy": 20}, "transfer"),
    Preset("cheap", "Cheap", {"macs": 60, "params": 30, "rate": 60, "accuracy": 40}, "macs"),
)


def body(table: pd.DataFrame, comparisons: pd.DataFrame, profile: Profile) -> Body:
    """The inside of `choose.html`.

    Args:
        table: Rows of the results schema.
        comparisons: Recorded differences.
        profile: Models, roles and seed.
    """
    title = "Choose a model"
    choice = gather(table, comparisons, profile, DRAWS, profile.settings.seed)
    if not choice.criteria:
        lead = "There is nothing to choose by yet: no criterion has results for two models of this report."
        return Body(title, lead, [], f"<p>{lead}</p>")
    labels = {name: spec.label for name, spec in profile.models.items()}
    presets = offered(choice)
    lead = (
        f"Say what matters and get the {len(choice.models)} models in order, with the chance that each is really the "
        "best and what would change the answer."
    )
    sections = [
        ("weights", "Weights"),
        ("ranking-heading", "Ranking"),
        ("purposes", "By purpose"),
        ("numbers", "Numbers"),
        ("speed", "Speed"),
    ]
    parts = [
        f'<p class="ba-lede">{html.escape(lead)}</p>',
        _form(choice, presets),
        _ranking_table(choice, rank(choice, presets[0].weights) if presets else rank(choice, {}), labels),
        _purposes(choice, presets, labels),
        _numbers(choice, labels),
        _speed(profile, labels),
        _method(choice),
        f'<script type="application/json" id="choose-data">{page_data(choice, presets, labels)}</script>',
        f"<script>{(TEMPLATE / 'choose.js').read_text(encoding='utf-8')}</script>",
    ]
    return Body(title, lead, sections, "\n".join(parts))


def advice(table: pd.DataFrame, comparisons: pd.DataFrame, profile: Profile) -> list[dict[str, str]]:
    """Which model comes first for each purpose and how sure that is, for the front page.

    Returns:
        Per purpose `purpose`, `href` (the chooser with these weights), `model` (all that tie), `sure` (words) and
        `numbers` (what the purpose is about and, if it is another, what decides: first model against the runner-up);
        empty where there is nothing to choose by.
    """
    choice = gather(table, comparisons, profile, DRAWS, profile.settings.seed)
    labels = {name: spec.label for name, spec in profile.models.items()}
    rows = []
    for preset in offered(choice):
        ranking = rank(choice, preset.weights)
        if len(ranking.order) < 2:
            continue
        weights = "&".join(f"{key}={weight}" for key, weight in preset.weights.items())
        rows.append(
            {
                "purpose": preset.label,
                "href": f"choose.html#{weights}",
                "model": " or ".join(labels[name] for name in ranking.order[: ranking.tied]),
                "sure": _sureness(ranking, labels),
                "numbers": _main_numbers(choice, preset, ranking, labels),
            }
        )
    return rows


def _sureness(ranking: Ranking, labels: Mapping[str, str]) -> str:
    if ranking.tied > 1:
        return "a tie: equal in all that is weighed"
    chance, rival = ranking.best[0], labels[ranking.order[1]]
    share = _chance(chance, html_safe=False)
    if chance >= 0.95:
        return f"clear: first in {share} of draws"
    second = _chance(ranking.best[1], html_safe=False)
    return f"{'likely' if chance >= 0.8 else 'open'}: first in {share} of draws, {rival} in {second}"


def _main_numbers(choice: Choice, preset: Preset, ranking: Ranking, labels: Mapping[str, str]) -> str:
    need = next(i for i, criterion in enumerate(choice.criteria) if criterion.key == preset.need)
    deciding = decisive(choice, preset.weights, ranking)
    texts = [_against(choice, need, ranking, labels)]
    if deciding not in (None, need):
        texts.append(f"decided by {_against(choice, deciding, ranking, labels)}")
    return "; ".join(texts)


def _against(choice: Choice, i: int, ranking: Ranking, labels: Mapping[str, str]) -> str:
    rows, names = choice.rows[i].set_index("model"), (ranking.order[0], ranking.runner_up)
    texts = [
        tables.format_interval(*rows.loc[name, ["value", "ci_low", "ci_high"]], _spec(choice.rows[i])) for name in names
    ]
    return f"{_heading(choice.criteria[i], choice.rows[i])}: {texts[0]} against {texts[1]} ({labels[names[1]]})"


def offered(choice: Choice) -> list[Preset]:
    """The presets whose main criterion has results, cut to the criteria that have."""
    keys = {criterion.key for criterion in choice.criteria}
    return [
        Preset(preset.key, preset.label, {k: w for k, w in preset.weights.items() if k in keys}, preset.need)
        for preset in PRESETS
        if preset.need in keys
    ]


def page_data(choice: Choice, presets: list[Preset], labels: Mapping[str, str]) -> str:
    """What the script computes with, as JSON that is safe inside a `<script>` element."""
    content = {
        "models": [{"name": name, "label": labels.get(name, name)} for name in choice.models],
        "criteria": [
            {
                "key": criterion.key,
                "label": criterion.headline.label,
                "low": _lowest(criterion),
                "means": [int(v) if here else None for v, here in zip(choice.means[i], choice.known[i], strict=True)],
                "draws": choice.draws[i].tolist(),
            }
            for i, criterion in enumerate(choice.criteria)
        ],
        "presets": {preset.key: preset.weights for preset in presets},
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _lowest(criterion: Criterion) -> int:
    return -HIGHEST if criterion.neutral else 0


# The parts of the page -----------------------------------------------------------------------------------------------


def _form(choice: Choice, presets: list[Preset]) -> str:
    start = presets[0].weights if presets else {}
    buttons = "".join(
        f'<button type="button" data-preset="{preset.key}" aria-pressed="false">{html.escape(preset.label)}</button>'
        for preset in presets
    )
    sliders = []
    for criterion in choice.criteria:
        key, weight = criterion.key, start.get(criterion.key, 0)
        hint = f"one step: {criterion.words}"
        if criterion.neutral:
            hint += "; left: wants the opposite"
        sliders.append(
            f'<div class="ba-slider"><label for="w-{key}">{html.escape(criterion.headline.label)}</label>'
            f'<output for="w-{key}" id="o-{key}">{weight}</output>'
            f'<input type="range" id="w-{key}" name="{key}" min="{_lowest(criterion)}" max="{HIGHEST}" step="1" '
            f'value="{weight}" aria-describedby="h-{key}"><small id="h-{key}">{html.escape(hint)}</small></div>'
        )
    return (
        '<form id="choose" class="ba-choose" hidden aria-label="What matters">'
        f'<fieldset><legend>Purpose</legend><div class="ba-presets">{buttons}'
        '<button type="button" data-preset="">All weights to zero</button></div></fieldset>'
        f'<fieldset><legend id="weights">Weight of one step</legend><div class="ba-sliders">{"".join(sliders)}</div>'
        "</fieldset></form>"
        '<p id="choice" class="ba-finding" role="status" aria-live="polite" hidden></p>'
        '<p id="flip" hidden></p>'
        "<noscript><p class='ba-note'>Moving the weights needs a script. The rankings by purpose below are complete "
        "without one.</p></noscript>"
    )


def _ranking_table(choice: Choice, ranking: Ranking, labels: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(labels.get(name, name))}</th><td class="num">{_points(score)}</td>'
        f'<td class="num">{_chance(share)}</td></tr>'
        for name, score, share in zip(ranking.order, ranking.scores, ranking.best, strict=True)
    )
    return (
        '<h2 id="ranking-heading">Ranking</h2><div class="ba-scroll" tabindex="0" role="region" '
        'aria-labelledby="ranking-heading"><table id="ranking" aria-labelledby="ranking-heading"><thead><tr>'
        '<th scope="col">Model</th><th scope="col" class="num">Score</th>'
        f'<th scope="col" class="num">Chance of being best</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="ba-hint">Score: weighted steps above the models’ mean, for a weight of 100. The chance is the share '
        f"of {DRAWS:,} draws within the intervals in which the model comes first; it knows of the noise of finite test "
        "sets, not of other training runs or data.</p>"
        '<p id="unranked" class="ba-hint" hidden></p>'
    )


def _points(score: int) -> str:
    return f"{score / 100_000:+.2f}".replace("-", "−")


def _chance(share: float, html_safe: bool = True) -> str:
    """A share of finitely many draws is never certainty."""
    text = ">99%" if share >= 0.995 else "<1%" if share < 0.005 else f"{share:.0%}"
    return html.escape(text) if html_safe else text


def _purposes(choice: Choice, presets: list[Preset], labels: Mapping[str, str]) -> str:
    words = {criterion.key: criterion.headline.label for criterion in choice.criteria}
    rows = []
    for preset in presets:
        ranking = rank(choice, preset.weights)
        if not ranking.order:
            continue
        order = "".join(
            f"{' = ' if score == before else ' › '}{labels.get(n, n)} ({_chance(b, html_safe=False)})"
            for n, b, score, before in zip(
                ranking.order, ranking.best, ranking.scores, [None, *ranking.scores[:-1]], strict=True
            )
        ).removeprefix(" › ")
        weights = ", ".join(f"{words[key].lower()} {weight}" for key, weight in preset.weights.items())
        rows.append((preset.label, order, flip_sentence(ranking, preset.weights, words, labels), weights))
    missing = [preset.label for preset in PRESETS if preset.key not in {p.key for p in presets}]
    note = ""
    if missing:
        names = ", ".join(f"“{name}”" for name in missing)
        note = f'<p class="ba-hint">Not offered, for want of results of their main criterion: {html.escape(names)}.</p>'
    table = tables.table_html(
        pd.DataFrame(rows, columns=["purpose", "order", "flip", "weights"]),
        "Models in order for some purposes, each with its chance of being the best.",
        name="purposes",
        labels={"purpose": "Purpose", "order": "Order", "flip": "What would flip it", "weights": "Weights"},
    )
    return f'<h2 id="purposes">By purpose</h2>{table}{note}'


def flip_sentence(
    ranking: Ranking, weights: Mapping[str, int], words: Mapping[str, str], labels: Mapping[str, str]
) -> str:
    """The smallest change of one weight that makes another model win, in words."""
    if not any(weights.values()):
        return "No weight is set."
    if not ranking.flips:
        return "No change of a single weight."
    flip = ranking.flips[0]
    now = flip.weight - flip.change
    return f"{words[flip.criterion]} at {flip.weight} instead of {now}: {labels.get(flip.winner, flip.winner)}."


def _numbers(choice: Choice, labels: Mapping[str, str]) -> str:
    frame = pd.DataFrame(
        {"criterion": [_heading(criterion, choice.rows[i]) for i, criterion in enumerate(choice.criteria)]}
    )
    heads = {"criterion": "Criterion"}
    for m, name in enumerate(choice.models):
        column = f"m{m}"
        own = [rows.set_index("model").reindex([name]).iloc[0] for rows in choice.rows]
        frame[column] = [
            "–" if pd.isna(row["value"]) else tables.format_interval(row["value"], row["ci_low"], row["ci_high"], spec)
            for row, spec in zip(own, map(_spec, choice.rows), strict=True)
        ]
        heads[column] = labels.get(name, name)
    frame["n"] = pd.array([rows["n"].max() for rows in choice.rows], dtype="Int64")
    caption = (
        "The numbers that are weighed, with 95 % intervals. ↑ higher is better, ↓ lower is better. n: what informs "
        "(images, scenes, shape images), of the model with the most; none for what is counted or timed."
    )
    return f'<h2 id="numbers">Numbers</h2>{tables.table_html(frame, caption, name="criteria", labels=heads)}'


def _speed(profile: Profile, labels: Mapping[str, str]) -> str:
    """Images per second of every model: on this machine if it was measured, and as published for its architecture."""
    frames = []
    for name, spec in profile.models.items():
        for basis, found in (("measured here", measured_throughput(spec)), ("published", published_throughput(spec))):
            frames.append(found.assign(model=name, basis=basis))
    rates = pd.concat(frames, ignore_index=True)
    lacking = [labels[name] for name in profile.models if name not in set(rates["model"])]
    note = ""
    if lacking:
        note = (
            '<p class="ba-hint">No rate is published for, and <code>make bench</code> has not measured here: '
            f"{html.escape('; '.join(lacking))}.</p>"
        )
    head = '<h2 id="speed">Speed</h2>'
    if rates.empty:
        return head + note
    shown = rates.assign(model=rates["model"].map(labels)).sort_values(["basis", "card"], kind="stable")
    table = tables.table_html(
        shown[["model", "card", "images_per_second", "precision", "side", "basis", "source"]],
        "Images per second of the forward pass, without decoding. Rates of different cards, precisions or input sides "
        "do not compare models.",
        name="speed",
        labels={"images_per_second": "images/s", "side": "input side"},
        formats={"images_per_second": ",.0f"},
    )
    return f"{head}{table}{note}"


def _heading(criterion: Criterion, rows: pd.DataFrame) -> str:
    arrow = {"higher": "↑", "lower": "↓", "": ""}[criterion.headline.better]
    unit = {"percent": "%", "fraction": "", "ratio": "", "gflops": "GMACs", "millions": "million parameters"}
    words = unit.get(rows["unit"].iloc[0], rows["unit"].iloc[0])
    return f"{criterion.headline.label} {arrow}".strip() + (f", {words}" if words else "")


def _spec(rows: pd.DataFrame) -> str:
    if rows["unit"].iloc[0] == "percent":
        return ".1f"
    if rows["ci_low"].notna().any():
        return ".3f"
    return ",.0f" if rows["value"].min() >= 100 else ".3g"


def _method(choice: Choice) -> str:
    sure = [criterion.headline.label for i, criterion in enumerate(choice.criteria) if choice.draws[i].shape[1] == 1]
    exact = f" Taken as exact, to the digits printed: {', '.join(sure).lower()}; equal cost is a tie." if sure else ""
    rate = (
        f" A rate that was timed once is taken as known within a factor of {TIMING:g}."
        if any(criterion.key == "rate" for criterion in choice.criteria)
        else " Images per second are measured on the page of the models; they differ from run to run, are not "
        "recorded with the results and hence not weighed here."
    )
    text = (
        "A model’s score is the sum of weight × steps over the criteria; a step is a fixed amount of each metric "
        "(given below its slider) and, for cost, a factor of two. What a step is worth to you is your judgement: "
        f"that is what the weights are for. Every number is drawn {DRAWS:,} times from a normal distribution around "
        "its estimate, with the standard error that its 95 % interval implies. Criteria are drawn independently; "
        "models too, except where their difference was measured on the same images, whose interval then tells how far "
        f"they move together.{exact}{rate} What flips the answer is the smallest change of one weight, the others "
        "staying, that puts another model first by the estimates. The weights are part of the page’s address: a "
        "bookmark keeps them."
    )
    return f"<details><summary>How this is computed</summary><p>{html.escape(text)}</p></details>"
