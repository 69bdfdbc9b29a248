"""What a change of convention does to a model's numbers, over the same images.

Not one of the choices is part of the model: resize and crop, interpolation, precision, the scale of CLIP's logits, the
classes that compete. Published numbers of one checkpoint differ by them (huggingface/pytorch-image-models #2456,
hendrycks/natural-adv-examples #15, google-research/robustness_metrics #32).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.annotations import factor_frame
from beyond_accuracy.dimensions import calibration, mistakes
from beyond_accuracy.dimensions.calibration import PAPER, ece_difference
from beyond_accuracy.inference import plan
from beyond_accuracy.inference.predictions import Predictions, all_columns, folder_positions, rescale
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import (
    P_VALUE_RESAMPLES,
    Interval,
    accuracy_difference,
    bootstrap_means,
    bootstrap_p_value,
    p_value_floor,
    percentile_interval,
    wilson,
)
from beyond_accuracy.show import figures, metrics, theme

if TYPE_CHECKING:
    from beyond_accuracy.page import Page

GROUPS = {
    "preset": "resize and crop",
    "interpolation": "interpolation",
    "antialias": "antialiasing",
    "precision": "precision",
    "logit_scale": "CLIP logit scale",
    "prompts": "CLIP prompts",
    "classes": "classes scored",
}
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


def compared(page: "Page", dataset: str) -> list[Pair]:
    """Every model under every convention that touches it, beside the same images under the page's own conventions.

    The page may be a view of some of the images (`Page.under`).
    """
    plain, pairs = page.predictions(dataset), []
    for convention in plan.conventions(page.profile, dataset, page.outputs.device):
        view = page.under(**dict(convention.settings))
        if convention.rescored:
            changed = dict(_rescaled(page, view, plain))
        else:
            changed = {m: p for m, p in view.predictions(dataset).items() if p.meta.get("key") != plain[m].meta["key"]}
        pairs += [_pair(convention, model, plain[model], p) for model, p in changed.items()]
    return pairs


def compared_classes(page: "Page", dataset: str) -> list[Pair]:
    """Every model scored on all its classes, beside the classes that a set with some of them is scored on.

    Empty where the set has all classes, and for models whose logits are not known.
    """
    pairs = []
    for model, run in page.predictions(dataset).items():
        if run.columns is not None and run.logits is not None and not run.multilabel:
            label = f"all {run.logits.shape[1]:,} instead of {len(run.columns)}"
            pairs.append(_pair(plan.Convention(CLASSES, "classes", label, ()), model, run, all_columns(run)))
    return pairs


def factors(page: "Page", pairs: Sequence[Pair]) -> pd.DataFrame | None:
    """Factors of the images for the average error ratio; None where the set has none, or their package is absent.

    The page is that of `compared`.
    """
    if not pairs:
        return None
    source = page.role("factors") if page.has_role("factors") else None
    try:
        return factor_frame(pairs[0].plain.ids, page.metadata(pairs[0].dataset), source)
    except (DataMissing, InputError):
        return None


def _rescaled(page: "Page", view: "Page", plain: Mapping[str, Predictions]) -> Iterator[tuple[str, Predictions]]:
    for model, run in plain.items():
        before, after = page.card(model), view.card(model)
        if before is not None and run.logits is not None and before.logit_scale not in (None, after.logit_scale):
            yield model, rescale(run, after.logit_scale / before.logit_scale)


def _pair(convention: plan.Convention, model: str, plain: Predictions, changed: Predictions) -> Pair:
    if not (plain.ids == changed.ids).all():
        raise InputError(f"{plain.dataset}: {model} saw other images under {convention.name}")
    label = f"{GROUPS[convention.group]}: {convention.label}"
    return Pair(plain.dataset, convention.name, label, model, plain, changed)


def flip_rate(before: ArrayLike, after: ArrayLike) -> tuple[float, Interval]:
    """Share of predictions that change on the same images, and its Wilson interval.

    >>> flip_rate([1, 2, 3, 4], [1, 2, 3, 5])[0]
    0.25
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape:
        raise ValueError(f"predictions of the same images are expected, got shapes {before.shape} and {after.shape}")
    changed = int((before != after).sum())
    return changed / before.size if before.size else float("nan"), wilson(changed, before.size)


def flips(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Percent of predictions that each convention changes: rows as of `effects`."""
    rows = []
    for pair in pairs:
        share, ends = flip_rate(pair.plain.pred, pair.changed.pred)
        nothing, n = (np.nan, np.nan), len(pair.plain.pred)
        name = f"{FLIPS}:{pair.convention}"
        rows.append((*pair[:4], FLIPS, name, *nothing, 100 * share, *(100 * e for e in ends), *nothing, n, "percent"))
    return pd.DataFrame(rows, columns=COLUMNS)


def effects(
    pairs: Sequence[Pair],
    seed: int,
    factors: pd.DataFrame | None = None,
    resamples: int = P_VALUE_RESAMPLES,
    n_bins: int = PAPER.n_bins,
) -> pd.DataFrame:
    """What each convention moves: paired differences, changed minus plain.

    Args:
        pairs: Of one or several datasets; those of one dataset over the same images.
        seed: Seed of the resampling; all pairs of a dataset see the same resamples.
        factors: (n, factors) 0/1 by image id, for the average error ratio of those pairs whose images have them.
        resamples: Behind intervals and p-values.
        n_bins: Equal-width bins of the ECE.

    Returns:
        `COLUMNS`, tidy rows of `accuracy_change:<convention>` and so on, one per pair and kind: `accuracy` in percent
        (score interval, McNemar), `ece_debiased` (swaps within images), `nll`, `error_ratio:average` (bootstrap).
        p-values are uncorrected; NaN where a convention leaves every image as it was.
    """
    found = []
    for dataset in dict.fromkeys(pair.dataset for pair in pairs):
        found += _effects([p for p in pairs if p.dataset == dataset], seed, factors, resamples, n_bins)
    return pd.DataFrame(found, columns=COLUMNS)


def _effects(
    pairs: Sequence[Pair], seed: int, factors: pd.DataFrame | None, resamples: int, n_bins: int
) -> Iterator[tuple]:
    runs = list({id(run): run for pair in pairs for run in (pair.plain, pair.changed)}.values())
    if any(not np.array_equal(run.ids, runs[0].ids) for run in runs):
        raise ValueError(f"{pairs[0].dataset}: conventions are compared on the same images")
    place = {id(run): i for i, run in enumerate(runs)}
    columns = _estimates(runs, np.random.default_rng(seed), factors, resamples)
    for pair in pairs:
        before, after = place[id(pair.plain)], place[id(pair.changed)]
        for kind, (values, draws) in columns.items():
            if not np.isfinite(change := values[after] - values[before]):
                continue
            moved = draws[:, after] - draws[:, before]
            # images that a convention leaves alone: equal sums may differ by how they were rounded
            moved[np.isclose(draws[:, after], draws[:, before], rtol=1e-12, atol=0)] = 0
            same, moved = not moved.any(), moved[np.isfinite(moved)]
            ends, p, floor = tidy.NONE, np.nan, p_value_floor(len(moved))
            if kind == "accuracy":
                _, ends, p = accuracy_difference(pair.changed.correct, pair.plain.correct)
                ends, floor = [100 * end for end in ends], 0.0
            elif len(moved) >= (1 - tidy.MOST_UNDEFINED) * resamples:
                ends, p = percentile_interval(moved), bootstrap_p_value(moved)
            yield _row(pair, kind, (values[before], values[after], change), ends, np.nan if same else p, floor)
        runs_of = [(run.confidence, run.correct) for run in (pair.plain, pair.changed)]
        errors = [calibration.ece_debiased(*run, n_bins).value for run in runs_of]
        change, ends, p = ece_difference(*runs_of[::-1], resamples, np.random.default_rng(seed), n_bins)
        p = np.nan if all(map(np.array_equal, *runs_of)) else p
        yield _row(pair, "ece_debiased", (*errors, change), ends, p, 1 / (resamples + 1))


def _row(pair: Pair, kind: str, numbers: tuple, ends: Sequence[float], p: float, floor: float) -> tuple:
    name, n = f"{kind.replace(':', '_')}_change:{pair.convention}", len(pair.plain.pred)
    return (*pair[:4], kind, name, *numbers, *ends, p, floor, n, METRICS[kind])


def _estimates(
    runs: Sequence[Predictions], rng: np.random.Generator, factors: pd.DataFrame | None, resamples: int
) -> dict[str, tuple[NDArray, NDArray]]:
    """Kind -> estimates (runs,) and their draws (resamples, runs)."""
    correct = np.column_stack([run.correct for run in runs])
    label = np.column_stack([run.target_probability for run in runs])
    known = np.isfinite(label).all(axis=0)  # imported predictions know the answer's probability only
    loss, losses = np.full(label.shape, np.nan), np.full((resamples, len(runs)), np.nan)
    loss[:, known] = calibration.nll(label[:, known].ravel()).reshape(len(label), -1)
    means = bootstrap_means(np.column_stack([correct, loss[:, known]]), resamples, rng)
    losses[:, known] = means[:, len(runs) :]
    found = {
        "accuracy": (100 * correct.mean(axis=0), 100 * means[:, : len(runs)]),
        "nll": (loss.mean(axis=0), losses),
    }
    inside = np.isin(runs[0].ids, [] if factors is None else factors.index)
    if inside.any():
        marks = factors.loc[runs[0].ids[inside]]
        marks, outcomes = marks.loc[:, marks.any().to_numpy()].to_numpy(), correct[inside]
        ratios = mistakes.error_ratio(outcomes, marks).mean(axis=1)
        draws = mistakes.error_ratio_bootstrap(outcomes, marks, resamples, rng).mean(axis=2)
        found["error_ratio:average"] = (ratios, draws)
    return found


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
    words = []
    for panel, mine in shown.groupby("panel", sort=False):
        top = mine.loc[mine["value"].abs().idxmax()]
        words.append(f"{panel}: largest {top['value']:+.3g} ({top['label']}, {styles[top['model']].label})")
    changes = rows["label"].nunique()
    return fig, f"What {changes} changes of convention move, with intervals, one mark per model. {'; '.join(words)}."


def effects_table(page: "Page", rows: pd.DataFrame, judged: pd.DataFrame, name: str, caption: str) -> None:
    """Show a row per convention and model: answers changed, then every measure's change with its corrected p-value."""
    index = [*(["dataset"] if rows["dataset"].nunique() > 1 else []), "label", "model"]
    wide, labels, formats = rows[[*index, "n"]].drop_duplicates(), {"label": "change"}, {}
    for kind in dict.fromkeys(rows["kind"]):
        about = {"heading": PANELS[FLIPS], "format": ".2f"} if kind == FLIPS else metrics.about(f"{kind}_change")
        labels[kind], formats[kind] = about["heading"], about["format"]
        wide = wide.merge(tidy.pivot(rows[rows["kind"] == kind], index, "kind"), how="left")
        if len(mine := judged[judged["kind"] == kind]):
            mine = mine.assign(floor=mine["p_holm"].where(mine["p"] <= mine["p_floor"] * (1 + 1e-9)))
            p = mine[[*index, "p_holm", "floor"]].set_axis([*index, f"p_{kind}", f"p_{kind}_floor"], axis=1)
            labels[f"p_{kind}"], formats[f"p_{kind}"] = "p (Holm)", ".3f"
            wide = wide.merge(p, how="left")
    page.table(wide.dropna(axis=1, how="all"), name, caption, labels=labels, formats=formats)


def findings(page: "Page", rows: pd.DataFrame, judged: pd.DataFrame, accuracy: Mapping[str, float]) -> Iterator[str]:
    """What the choices move most, beside the differences between models; what scoring on all classes costs.

    The largest change's own interval does not know that it was chosen as the largest, so the sentences give none.

    Args:
        page: The page.
        rows: Of `effects` and `flips`.
        judged: What `Page.compare` made of `asked`.
        accuracy: Model -> percent, on the same images under the page's conventions.
    """
    ours = judged[judged["convention"] != CLASSES]
    if len(ours):
        yield _on_accuracy(page, _largest(ours[ours["kind"] == "accuracy"]), accuracy)
        top = _largest(ours[ours["kind"] == "ece_debiased"])
        yield (
            f"The largest effect on the calibration error is {top['value']:+.3f}, from {top['before']:.3f} to "
            f"{top['after']:.3f} ({top['label']}; {page.labels[top['model']]}{_p(top)}); accuracy moves by "
            f"{_accuracy_with(top, ours):+.1f} points with it."
        )
        flipped = rows[(rows["kind"] == FLIPS) & (rows["convention"] != CLASSES)]
        top = _largest(flipped)
        yield (
            f"Answers change more than accuracy shows: {top['label']} changes {top['value']:.1f} % of the answers of "
            f"{page.labels[top['model']]} while its accuracy moves by {_accuracy_with(top, ours):+.1f} points; the "
            f"median over all changes and models is {flipped['value'].median():.1f} %."
        )
    scored = judged[(judged["convention"] == CLASSES) & (judged["kind"] == "accuracy")]
    for dataset, mine in scored.groupby("dataset", sort=False):
        parts = ", ".join(f"{page.labels[r.model]} {r.before:.1f} to {r.after:.1f} %" for r in mine.itertuples())
        yield f"{page.title(dataset)}, {mine['label'].iloc[0]}: accuracy changes from {parts}."


def _on_accuracy(page: "Page", top: pd.Series, accuracy: Mapping[str, float]) -> str:
    text = (
        f"The largest effect of a convention on accuracy is {top['value']:+.1f} points ({top['label']}; "
        f"{page.labels[top['model']]}; {int(top['n']):,} images of {page.title(top['dataset'])}{_p(top)})"
    )
    if top["verdict"] == verdicts.OPEN:
        text += ", which is not told from chance"
    ordered = [sorted(pair, key=accuracy.get, reverse=True) for pair in combinations(accuracy, 2)]
    gaps = sorted((accuracy[better] - accuracy[worse], better, worse) for better, worse in ordered)
    if not gaps:
        return f"{text}."
    pair = f"{page.labels[gaps[0][1]]} and {page.labels[gaps[0][2]]} ({gaps[0][0]:.1f} points)"
    smaller = sum(gap < abs(top["value"]) for gap, *_ in gaps)
    if not smaller:
        return f"{text}; it is not larger than the smallest difference between models, {pair}."
    many = f"{smaller} of the {len(gaps)} differences between models" if len(gaps) > 1 else "the difference"
    return f"{text}; it is larger than {many}; the smallest is between {pair}."


def _largest(rows: pd.DataFrame) -> pd.Series:
    return rows.loc[rows["value"].abs().idxmax()]


def _p(row: pd.Series) -> str:
    return "" if np.isnan(row["p_holm"]) else f"; corrected p = {row['p_holm']:.2g}"


def _accuracy_with(top: pd.Series, rows: pd.DataFrame) -> float:
    """Change of accuracy that goes with a row."""
    same = (rows["convention"] == top["convention"]) & (rows["model"] == top["model"]) & (rows["kind"] == "accuracy")
    return float(rows.loc[same, "value"].iloc[0])


def orders(page: "Page", pairs: Sequence[Pair], names: Sequence[str]) -> str:
    """Which choices turn the order of two models' accuracies round (`pairs` of one dataset), in the point estimates."""
    found = []
    for label in dict.fromkeys(pair.label for pair in pairs):
        mine = {pair.model: pair for pair in pairs if pair.label == label}
        for a, b in combinations([name for name in names if name in mine], 2):
            before = mine[a].plain.correct.mean() - mine[b].plain.correct.mean()
            after = mine[a].changed.correct.mean() - mine[b].changed.correct.mean()
            if before * after < 0:
                worse, better = (a, b) if before > 0 else (b, a)
                found.append(f"{label} puts {page.labels[better]} ahead of {page.labels[worse]}")
    if not found:
        return "No single change of convention turns the order of two models' accuracies round."
    return f"The choice decides an order of accuracies: {'; '.join(found)}. Each is one point estimate, not a test."


def on_subsets(page: "Page", scored: Mapping[str, Sequence[Pair]]) -> Iterator[str]:
    """Sets (with pairs of `compared_classes`) without a choice of classes, left out, and under misread folders."""
    whole = [page.title(dataset) for dataset, found in scored.items() if not found]
    if whole:
        yield f"{' and '.join(whole)}: all classes of the models occur, so there is no subset to choose between."
    yield from (f"left out: {reason}" for reason in page.skipped)
    for dataset, found in scored.items():
        shares = {pair.model: 100 * folder_positions(pair.changed).correct.mean() for pair in found}
        if shares:
            parts = ", ".join(f"{page.labels[model]} {share:.2f} %" for model, share in shares.items())
            misread = f"{page.title(dataset)} with the positions of its folders taken for class indices"
            yield f"{misread}: {parts}. That is a mistake, no choice."
