"""What a change of convention does to a model's numbers, over the same images.

Published numbers of one checkpoint differ by them (huggingface/pytorch-image-models #2456,
hendrycks/natural-adv-examples #15, google-research/robustness_metrics #32).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.published import factor_frame
from beyond_accuracy.dimensions import calibration, mistakes
from beyond_accuracy.inference import plan
from beyond_accuracy.inference.predictions import Predictions, all_columns, folder_positions, rescale
from beyond_accuracy.measure import stats, tidy, verdicts
from beyond_accuracy.show import figures, tables, theme

GROUPS = {
    "preset": "resize and crop", "interpolation": "interpolation", "antialias": "antialiasing",
    "precision": "precision", "logit_scale": "CLIP logit scale", "prompts": "CLIP prompts", "classes": "classes scored",
}  # fmt: skip
CLASSES = "classes=all"
METRICS = {"accuracy": "percent", "ece_debiased": "fraction", "nll": "nats", "error_ratio:average": "ratio"}
FLIPS = "flip_rate"
PANELS = {
    FLIPS: "answers changed (%)",
    "accuracy": "change of accuracy (points)",
    "ece_debiased": "change of the calibration error (ECE)",
}
COLUMNS = [
    *("dataset", "convention", "label", "model", "kind", "metric", "before", "after"),
    *("value", "ci_low", "ci_high", "p", "p_floor", "n", "unit"),
]


class Pair(NamedTuple):
    """One model on the same images of a dataset under two conventions."""

    dataset: str
    convention: str  # `<setting>=<value>`
    label: str  # the choice and its change, for readers
    model: str
    plain: Predictions  # under the conventions that all are compared with
    changed: Predictions


def compared(page, dataset: str) -> list[Pair]:
    """Every model under every convention that touches it, beside the same images under the page's own conventions."""
    plain, pairs = page.predictions(dataset), []
    for convention in plan.conventions(page.profile, dataset, page.outputs.device):
        view = page.under(**dict(convention.settings))
        if convention.rescored:
            known = [m for m, run in plain.items() if run.logits is not None and page.card(m)]
            scales = {m: [at.card(m).logit_scale for at in (page, view)] for m in known}
            changed = {m: rescale(plain[m], new / old) for m, (old, new) in scales.items() if old not in (None, new)}
        else:
            seen = {m: p for m, p in view.predictions(dataset).items() if m in plain}  # one may lack the plain run
            changed = {m: p for m, p in seen.items() if p.meta.get("key") != plain[m].meta["key"]}
        pairs += [_pair(convention, model, plain[model], run) for model, run in changed.items()]
    return pairs


def compared_classes(page, dataset: str) -> list[Pair]:
    """Every model scored on all its classes, beside the classes that a set with some of them is scored on.

    Empty where the set has all classes, and for models whose logits are not known.
    """
    pairs = []
    for model, run in page.predictions(dataset).items():
        if run.columns is not None and run.logits is not None and not run.multilabel:
            label = f"all {run.logits.shape[1]:,} instead of {len(run.columns)}"
            pairs.append(_pair(plan.Convention(CLASSES, "classes", label, ()), model, run, all_columns(run)))
    return pairs


def factors(page, pairs: Sequence[Pair]) -> pd.DataFrame | None:
    """Factors of the images of `compared` for the average error ratio; None where they or their package are absent."""
    if not pairs:
        return None
    try:
        return factor_frame(pairs[0].plain.ids, page.metadata(pairs[0].dataset), page.roles.get("factors"))
    except (DataMissing, InputError):
        return None


def _pair(convention: plan.Convention, model: str, plain: Predictions, changed: Predictions) -> Pair:
    label = f"{GROUPS[convention.group]}: {convention.label}"
    return Pair(plain.dataset, convention.name, label, model, plain, changed)


def effects(
    pairs: Sequence[Pair], seed: int, factors: pd.DataFrame | None = None, resamples: int = stats.P_VALUE_RESAMPLES
) -> pd.DataFrame:
    """What each convention moves: paired differences, changed minus plain, one row (`COLUMNS`) per pair and kind.

    `flip_rate` is the percent of predictions that change; `error_ratio:average` is of those images that have `factors`
    (images, 0/1) by their id. p-values are uncorrected, NaN where a convention leaves every image as it was.
    """
    found = []
    for dataset in dict.fromkeys(pair.dataset for pair in pairs):
        mine = [pair for pair in pairs if pair.dataset == dataset]
        for pair in mine:
            if any(not np.array_equal(run.ids, mine[0].plain.ids) for run in (pair.plain, pair.changed)):
                raise InputError(f"{dataset}: {pair.model} saw other images under {pair.convention}")
        resampled = _resampled(mine, np.random.default_rng(seed), factors, resamples)
        for k, pair in enumerate(mine):
            n, changed = len(pair.plain.pred), int((pair.plain.pred != pair.changed.pred).sum())
            ends = (100 * end for end in stats.wilson(changed, n))
            kinds = {FLIPS: (np.nan, np.nan, 100 * changed / n, *ends, np.nan, np.nan), "accuracy": _accuracy(pair)}
            kinds |= {kind: column[k] for kind, column in resampled.items()}
            kinds["ece_debiased"] = _ece(pair, seed, resamples)
            for kind, numbers in kinds.items():
                metric = f"{kind if kind == FLIPS else kind.replace(':', '_') + '_change'}:{pair.convention}"
                unit = METRICS.get(kind, "percent")
                found.append((*pair[:4], kind, metric, *numbers, n, unit))
    return pd.DataFrame(found, columns=COLUMNS).dropna(subset="value", ignore_index=True)


def _accuracy(pair: Pair) -> tuple:
    """Before, after, change, interval, p-value and the smallest one that its test can give."""
    before, after = (run.correct for run in (pair.plain, pair.changed))
    change, ends, p = stats.accuracy_difference(after, before)
    p = np.nan if np.array_equal(before, after) else p
    return 100 * before.mean(), 100 * after.mean(), 100 * change, *(100 * end for end in ends), p, 0.0


def _ece(pair: Pair, seed: int, swaps: int) -> tuple:
    runs = [(run.confidence, run.correct) for run in (pair.plain, pair.changed)]
    before, after = (calibration.ece_debiased(*run).value for run in runs)
    change, ends, p = calibration.ece_difference(*runs[::-1], swaps, np.random.default_rng(seed))
    return before, after, change, *ends, np.nan if all(map(np.array_equal, *runs)) else p, 1 / (swaps + 1)


def _resampled(pairs: Sequence[Pair], rng: np.random.Generator, factors: pd.DataFrame | None, resamples: int) -> dict:
    """Kind -> of every pair the same numbers, from resamples that all pairs share."""
    runs = [run for pair in pairs for run in pair[4:]]  # plain, changed, plain, changed, ...
    correct = np.column_stack([run.correct for run in runs])
    label = np.column_stack([run.target_probability for run in runs])
    loss = calibration.nll(label.ravel()).reshape(label.shape)
    change, draws = loss[:, 1::2] - loss[:, ::2], np.full((resamples, len(pairs)), np.nan)
    if (known := np.isfinite(change).all(axis=0)).any():  # imported predictions know the answer's probability only
        draws[:, known] = stats.bootstrap_means(change[:, known], resamples, rng)
    found, ids = {"nll": (loss.mean(axis=0), draws)}, runs[0].ids
    if (inside := np.isin(ids, [] if factors is None else factors.index)).any():
        marks, outcomes = factors.loc[ids[inside]], correct[inside]
        marks = marks.loc[:, marks.any().to_numpy()].to_numpy()
        draws = mistakes.error_ratio(outcomes, marks, resamples, rng).mean(axis=2)
        ratios = mistakes.error_ratio(outcomes, marks).mean(axis=1)
        found["error_ratio:average"] = ratios, draws[:, 1::2] - draws[:, ::2]
    return {kind: list(map(_tested, v[::2], v[1::2], draws.T)) for kind, (v, draws) in found.items()}


def _tested(before: float, after: float, moved: np.ndarray) -> tuple:
    known, ends = moved[np.isfinite(moved)], tidy.interval(moved)
    p = stats.bootstrap_p_value(known) if known.any() and np.isfinite(ends.low) else np.nan
    return before, after, after - before, *ends, p, stats.p_value_floor(len(known))


def asked(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `effects` as questions of `Page.compare`: a model's own change against zero.

    Accuracy and calibration on the clean set are the headline numbers.
    """
    rows = rows[rows["kind"] != FLIPS]
    main = rows["kind"].isin(PANELS) & (rows["convention"] != CLASSES)
    family = np.where(main, "main", "detail")
    return rows.assign(model_a=rows["model"], model_b="", difference=rows["value"], family=family)


def forest(rows: pd.DataFrame, styles: Mapping[str, theme.ModelStyle]) -> figures.Drawn:
    """What each choice moves: a panel per measure, a row per convention, a mark per model that it touches."""
    shown = rows.assign(panel=rows["kind"].map(PANELS), label=rows["label"].str.replace(": ", ":\n", n=1))
    shown = pd.concat([shown[shown["kind"] == kind] for kind in PANELS])
    fig, _ = figures.dots(shown, "label", styles, "", panel="panel", line=0.0)
    tops = {panel: mine.loc[mine["value"].abs().idxmax()] for panel, mine in shown.groupby("panel", sort=False)}
    words = (f"{k}: largest {t['value']:+.3g} ({t['label']}, {styles[t['model']].label})" for k, t in tops.items())
    count = rows["label"].nunique()
    return fig, f"What {count} changes of convention move, with intervals, one mark per model. {'; '.join(words)}."


def effects_table(page, rows: pd.DataFrame, judged: pd.DataFrame, name: str, caption: str) -> None:
    """Show a row per convention and model: answers changed, then every measure's change with its corrected p-value."""
    index = [*(["dataset"] if rows["dataset"].nunique() > 1 else []), "label", "model"]
    wide, labels, formats = rows[[*index, "n"]].drop_duplicates(), {"label": "change"}, {}
    for kind in dict.fromkeys(rows["kind"]):
        about = {"heading": PANELS[FLIPS], "format": ".2f"} if kind == FLIPS else tables.about(f"{kind}_change")
        labels[kind], formats[kind] = about["heading"], about["format"]
        wide = wide.merge(tidy.pivot(rows[rows["kind"] == kind], index, "kind"), how="left")
        if len(mine := judged[judged["kind"] == kind]):
            mine = mine.assign(floor=mine["p_holm"].where(verdicts.is_bound(mine)))
            p = mine[[*index, "p_holm", "floor"]].set_axis([*index, f"p_{kind}", f"p_{kind}_floor"], axis=1)
            labels[f"p_{kind}"], formats[f"p_{kind}"] = "p (Holm)", ".3f"
            wide = wide.merge(p, how="left")
    page.table(wide.dropna(axis=1, how="all"), name, caption, labels=labels, formats=formats)


def findings(page, rows: pd.DataFrame, judged: pd.DataFrame, accuracy: Mapping[str, float]) -> Iterator[str]:
    """What the choices move most, beside the differences between models; what scoring on all classes costs.

    No intervals: that of the largest change does not know that it was chosen as the largest. `rows` are of `effects`,
    `judged` what `Page.compare` made of `asked`, `accuracy` the models' own on the same images, percent.
    """
    rows, ours = (frame[frame["convention"] != CLASSES] for frame in (rows, judged))
    if len(ours):
        points = ours[ours["kind"] == "accuracy"].set_index(["convention", "model"])["value"]
        yield _on_accuracy(page, _largest(ours, "accuracy"), accuracy)
        top = _largest(ours, "ece_debiased")
        yield (
            f"The largest effect on the calibration error is {top['value']:+.3f}, from {top['before']:.3f} to "
            f"{top['after']:.3f} ({top['label']}; {page.labels[top['model']]}{_p(top)}); accuracy moves by "
            f"{points[top['convention'], top['model']]:+.1f} points with it."
        )
        top = _largest(rows, FLIPS)
        yield (
            f"Answers change more than accuracy shows: {top['label']} changes {top['value']:.1f} % of the answers of "
            f"{page.labels[top['model']]} while its accuracy moves by {points[top['convention'], top['model']]:+.1f} "
            f"points; the median over all changes and models is {rows[rows['kind'] == FLIPS]['value'].median():.1f} %."
        )
    scored = judged[(judged["convention"] == CLASSES) & (judged["kind"] == "accuracy")]
    for dataset, mine in scored.groupby("dataset", sort=False):
        parts = ", ".join(f"{page.labels[r.model]} {r.before:.1f} to {r.after:.1f} %" for r in mine.itertuples())
        yield f"{page.title(dataset)}, {mine['label'].iloc[0]}: accuracy changes from {parts}."


def _on_accuracy(page, top: pd.Series, accuracy: Mapping[str, float]) -> str:
    doubt = ", not told from chance," if top["verdict"] == verdicts.OPEN else ""
    text = (
        f"The largest effect of a convention on accuracy{doubt} is {top['value']:+.1f} points ({top['label']}; "
        f"{page.labels[top['model']]}; {int(top['n']):,} images of {page.title(top['dataset'])}{_p(top)})"
    )
    pairs = combinations(sorted(accuracy, key=accuracy.get, reverse=True), 2)
    gaps = sorted((accuracy[better] - accuracy[worse], better, worse) for better, worse in pairs)
    if not gaps:
        return f"{text}."
    pair = f"{page.labels[gaps[0][1]]} and {page.labels[gaps[0][2]]} ({gaps[0][0]:.1f} points)"
    smaller = sum(gap < abs(top["value"]) for gap, *_ in gaps)
    if not smaller:
        return f"{text}; it is not larger than the smallest difference between models, {pair}."
    many = f"{smaller} of the {len(gaps)} differences between models" if len(gaps) > 1 else "the difference"
    return f"{text}; it is larger than {many}; the smallest is between {pair}."


def _largest(rows: pd.DataFrame, kind: str) -> pd.Series:
    mine = rows[rows["kind"] == kind]
    return mine.loc[mine["value"].abs().idxmax()]


def _p(row: pd.Series) -> str:
    if np.isnan(row["p_holm"]):
        return ""
    p = row["p_holm"]
    return f"; corrected p {'< ' + tables.at_most(p, '.2g') if verdicts.is_bound(row) else '= ' + format(p, '.2g')}"


def orders(page, pairs: Sequence[Pair], names: Sequence[str]) -> str:
    """Which choices turn the order of two models' accuracies round (`pairs` of one dataset), in the point estimates."""
    found = []
    for label in dict.fromkeys(pair.label for pair in pairs):
        right = {p.model: [run.correct.mean() for run in p[4:]] for p in pairs if p.label == label}
        for a, b in combinations([name for name in names if name in right], 2):
            before, after = np.subtract(right[a], right[b])
            if before * after < 0:
                worse, better = (a, b) if before > 0 else (b, a)
                found.append(f"{label} puts {page.labels[better]} ahead of {page.labels[worse]}")
    if not found:
        return "No single change of convention turns the order of two models' accuracies round."
    return f"The choice decides an order of accuracies: {'; '.join(found)}. Each is one point estimate, not a test."


def on_subsets(page, scored: Mapping[str, Sequence[Pair]]) -> Iterator[str]:
    """Sets (with pairs of `compared_classes`) without a choice of classes, left out, and under misread folders."""
    whole = [page.title(dataset) for dataset, found in scored.items() if not found]
    if whole:
        yield f"{' and '.join(whole)}: all classes of the models occur, so there is no subset to choose between."
    yield from (f"left out: {reason}" for reason in page.skipped)
    for dataset, found in scored.items():
        shares = [(page.labels[p.model], 100 * folder_positions(p.changed).correct.mean()) for p in found]
        if shares:
            misread = f"{page.title(dataset)} with the positions of its folders taken for class indices"
            said = ", ".join(f"{label} {share:.2f} %" for label, share in shares)
            yield f"{misread}: {said}. That is a mistake, no choice."
