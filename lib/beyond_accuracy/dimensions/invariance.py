"""Does a model keep its answer when the image moves? Outputs on transformed images against the plain ones (figure 8).

A model can keep its accuracy while changing its answers: each image is compared with itself. Everything is a mean of
per-image values, so that intervals are paired. Shares of images have Wilson intervals, changes of accuracy score
intervals; other means are resampled, an image with all its versions.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.special import softmax

from beyond_accuracy.data import transforms
from beyond_accuracy.dimensions.calibration import Values, chunks, logits_of
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import stats, tidy, verdicts
from beyond_accuracy.measure.stats import bootstrap_means, share_interval
from beyond_accuracy.show.figures import Drawn, transformed
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import WIDTH

# What is measured at each strength, and its unit; see `per_image`.
KINDS = {"accuracy": "percent", "accuracy_change": "percent", "agreement": "fraction",
         "agreement_given_correct": "fraction", "flip_rate": "fraction", "js_divergence": "bits",
         "target_probability": "fraction", "target_probability_change": "fraction"}  # fmt: skip
MEANS = ("js_divergence", "target_probability", "target_probability_change")  # no shares of images: bootstrapped
ABSOLUTE = ("accuracy", "target_probability")  # the others compare the plain run with itself: nothing to estimate
STRONGEST = ("accuracy_change", "agreement_given_correct", "flip_rate", "js_divergence", "target_probability_change")
PAPER = ("scale", "shift", "resolution")
AXES = {"scale": "zoom factor", "shift": "shift (pixels)", "resolution": "resolution (224: as trained)",
        "rotation": "rotation (degrees)", "jitter": "colour jitter", "noise": "noise (std. dev.)",
        "blur": "blur (sigma, pixels)", "jpeg": "JPEG quality", "hflip": "mirrored"}  # fmt: skip
SPOKEN = {"jitter": "colour jitter", "jpeg": "JPEG", "hflip": "mirrored"}  # where a row of a table is named by its kind

Runs = Mapping[str, Predictions]  # model -> what it said about the images


class Step(NamedTuple):
    """One strength of a transform: the number and every model's outputs."""

    strength: float
    outputs: Runs


def kinds_of(page) -> dict[str, str]:
    """Kind of transform (`shift@paper`) -> its name on the page; the variant is named where both are asked for."""
    kinds = page.role("transforms") if page.has_role("transforms") else list(transforms.LADDERS)
    return {kind: kind if kind.partition("@")[0] in kinds else kind.partition("@")[0] for kind in kinds}


def measure(page, dataset: str, kinds: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Runs every transform of `kinds_of`: rows of `curve`, of `accuracy_gaps`, and `answers_kept` by transform.

    A model has no value where it has no outputs: an imported one under any transform, another at a side it cannot take.
    """
    plain, curves, gaps, kept = page.predictions(dataset), [], [], {}
    for kind, name in kinds.items():
        strengths, identity = transforms.steps(kind), transforms.IDENTITY_AT.get(kind.partition("@")[0])
        runs = page.predictions_many(dataset, list(dict.fromkeys(text for _, text in strengths))) | {"none": plain}
        here = [m for m in plain if any(m in found for text, found in runs.items() if text != "none")]
        if not here:
            continue
        steps = [Step(s, {m: runs[text][m] for m in here if m in runs[text]}) for s, text in strengths]
        before = {m: plain[m] for m in here}
        curves.append(curve(name, before, steps, identity, page.resamples, page.seed))
        gaps.append(accuracy_gaps(name, steps, identity))
        if answers := answers_kept(before, steps, identity):
            kept[name] = answers
    return pd.concat(curves, ignore_index=True), pd.concat(gaps, ignore_index=True), kept


def js_divergence(p: ArrayLike, q: ArrayLike, log_p: NDArray | None = None) -> Values:
    """Jensen-Shannon divergence in bits of (n, classes) distributions: 0 for equal rows, 1 for disjoint ones.

    JSD = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 and logarithms to base 2 (Lin 1991). `log_p` is given where
    the same p is compared again and again.

    >>> js_divergence([[1.0, 0.0]], [[0.0, 1.0]]).tolist()
    [1.0]
    """
    p, q = (np.asarray(x) / 1 for x in (p, q))  # of counts too; float32 stays what it is
    middle, log_p = _log((p + q) / 2), _log(p) if log_p is None else log_p
    total = np.einsum("ij,ij->i", p, log_p - middle) + np.einsum("ij,ij->i", q, _log(q) - middle)
    return np.clip(total.astype(float) / (2 * np.log(2)), 0.0, 1.0)  # rounding can leave -1e-17


def _log(p: NDArray) -> NDArray:
    found = np.maximum(p, np.finfo(p.dtype).tiny)  # 0 log 0 is 0
    return np.log(found, out=found)


def moved(plain: Predictions, changed: Sequence[Predictions]) -> Values:
    """(runs, n) `js_divergence` of every changed run from the plain one.

    Part by part: whole distributions of all strengths would take gigabytes, and the plain one is made once for all.
    """
    first, others = logits_of(plain), [None if run is plain else logits_of(run) for run in changed]
    parts = []
    for rows in chunks(first):
        p = softmax(first[rows].astype(np.float32), axis=1)
        log_p = _log(p)
        there = (p if z is None else softmax(z[rows].astype(np.float32), axis=1) for z in others)
        parts.append([np.zeros(len(p)) if q is p else js_divergence(p, q, log_p) for q in there])
    return np.concatenate(parts, axis=1)


def per_image(
    plain: Predictions, changed: Predictions, previous: Predictions | None, divergence: Values | None = None
) -> dict[str, Values]:
    """Kind -> (n,) values whose means are reported, of outputs on plain and changed images and one strength earlier.

    - `accuracy`: 100 where right; `accuracy_change`: minus the same on the plain image;
    - `agreement`: 1 where the prediction is that of the plain image; `agreement_given_correct`: NaN where that errs;
    - `flip_rate`: 1 where the prediction differs from that one strength earlier (ImageNet-P's flip probability);
    - `js_divergence` to the plain distribution, bits: the `divergence` given (`moved`);
    - `target_probability`, and `target_probability_change` from the plain image.

    The latter three kinds are left out where what they need is not known.
    """
    right, right_before = changed.correct.astype(float), plain.correct.astype(float)
    same = (changed.pred == plain.pred).astype(float)
    values = {"accuracy": 100 * right, "accuracy_change": 100 * (right - right_before), "agreement": same}
    values["agreement_given_correct"] = np.where(right_before > 0, same, np.nan)
    if previous is not None:
        values["flip_rate"] = (changed.pred != previous.pred).astype(float)
    if divergence is not None:
        values["js_divergence"] = divergence
    before, after = plain.target_probability, changed.target_probability
    if not np.isnan(before).any() and not np.isnan(after).any():
        values |= {"target_probability": after, "target_probability_change": after - before}
    return values


def curve(
    transform: str, plain: Runs, steps: Sequence[Step], identity: float | None, resamples: int, seed: int
) -> pd.DataFrame:
    """Every measure at every strength of one transform, of those models that have outputs there.

    Tidy rows with metric `<kind>:<transform>=<strength>`, and `kind`, `transform`, `strength`; n counts the images that
    were right before, where only they count. At `identity`, which changes nothing, comparisons have no interval.
    """
    parts, units = [], tidy.units_of(plain)
    few = None if units is None else tidy.count(0, units)
    before = [plain, *(step.outputs for step in steps)]

    def of(m: str) -> dict[int, dict[str, Values]]:
        there = [i for i, step in enumerate(steps) if m in step.outputs]
        held = [i for i in there if plain[m].logits is not None and steps[i].outputs[m].logits is not None]
        apart = dict(zip(held, moved(plain[m], [steps[i].outputs[m] for i in held]) if held else (), strict=True))
        return {i: per_image(plain[m], steps[i].outputs[m], before[i].get(m), apart.get(i)) for i in there}

    with ThreadPoolExecutor(2) as pool:  # two at a time, which bounds memory
        found = dict(zip(plain, pool.map(of, plain), strict=True))
    all_seen = {(i, m): found[m][i] for i, step in enumerate(steps) for m in step.outputs}
    draws = {(*one, kind): values[kind] for one, values in all_seen.items() for kind in MEANS if kind in values}
    if draws:
        drawn = bootstrap_means(np.column_stack([*draws.values()]), resamples, np.random.default_rng(seed), units)
        draws = dict(zip(draws, drawn.T, strict=True))
    for i, step in enumerate(steps):
        seen = {m: all_seen[i, m] for m in step.outputs}
        for kind, unit in KINDS.items():
            known = {m: ~np.isnan(values[kind]) for m, values in seen.items() if kind in values}
            columns = {m: seen[m][kind][held] for m, held in known.items()}
            found, ends = [column.mean() if len(column) else np.nan for column in columns.values()], []
            for m, column in columns.items():
                if not len(column) or (step.strength == identity and kind not in ABSOLUTE):
                    ends.append(tidy.NONE)
                elif kind in MEANS:
                    ends.append(stats.percentile_interval(draws[i, m, kind], few))
                elif kind == "accuracy_change":
                    ends.append(_change(step.outputs[m].correct, plain[m].correct, units))
                else:
                    own = None if units is None else units[known[m]]
                    ends.append((100 if unit == "percent" else 1) * np.array(share_interval(column > 0, own)))
            sizes = [tidy.count(len(c), None if units is None else units[known[m]]) for m, c in columns.items()]
            metric = f"{kind}:{transform}={step.strength:g}"
            rows = tidy.rows(metric, unit, list(columns), found, sizes, ends=ends)
            parts.append(rows.assign(kind=kind, transform=transform, strength=float(step.strength)))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _change(after: NDArray, before: NDArray, units: NDArray | None) -> Values:
    found = stats.accuracy_difference(after, before)
    if units is not None:
        change = after.astype(float) - before
        found = stats.linear_difference(change.mean(), (change - change.mean()) / len(change), units)
    return 100 * np.array(found.interval)


def recorded(curves: pd.DataFrame) -> pd.DataFrame:
    """What of `curve` goes to the results: the plain run, at rest in every ladder, once and under its plain name."""
    known = curves.dropna(subset=["ci_low"])
    return known.assign(metric=known["metric"].map(transforms.at_rest)).drop_duplicates(["metric", "model"])


def accuracy_gaps(transform: str, steps: Sequence[Step], identity: float | None) -> pd.DataFrame:
    """Paired differences of accuracy between every two models at every strength but the identity, the clean run."""
    right = {s: {m: out.correct for m, out in outputs.items()} for s, outputs in steps if s != identity and outputs}
    units = tidy.units_of(steps[0].outputs)
    parts = [tidy.accuracy_pairs(by_model, f"accuracy:{transform}={s:g}", units) for s, by_model in right.items()]
    return pd.concat(parts, ignore_index=True)


def answers_kept(plain: Runs, steps: Sequence[Step], identity: float | None) -> dict[str, NDArray[np.bool_]]:
    """Model -> (n, strengths): whether images keep their answer, where they are changed and all models have outputs."""
    changed = [step.outputs for step in steps if step.strength != identity and step.outputs.keys() == plain.keys()]
    if not changed:
        return {}
    return {m: np.stack([out[m].pred == before.pred for out in changed], axis=1) for m, before in plain.items()}


def agreement(
    kept: Mapping[str, Mapping[str, NDArray]], seed: int, resamples: int = stats.P_VALUE_RESAMPLES,
    units: NDArray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Agreement of each transform over the strengths that change the image, its mean over transforms, and differences.

    An image counts with all its versions, every transform once; models that miss a transform are left out of the mean.
    """
    parts, tables = list(kept.values()), []
    whole = len(next(iter(parts[0].values())))
    origin, n = np.arange(whole) if units is None else units, tidy.count(whole, units)
    for name, part in kept.items():
        ends = [share_interval(k.ravel(), np.repeat(origin, k.shape[1])) for k in part.values()]
        values = [same.mean() for same in part.values()]
        rows = tidy.rows(f"agreement:{name}", "fraction", list(part), values, n, ends=ends)
        tables.append(rows.assign(transform=name))
    models = [model for model in parts[0] if all(model in part for part in parts)]
    shares = np.stack([np.mean([part[m].mean(axis=1) for part in parts], axis=0) for m in models], axis=1)
    draws = bootstrap_means(tidy.with_gaps(shares), resamples, np.random.default_rng(seed), units)
    mean = tidy.estimates("agreement", "fraction", models, shares.mean(axis=0), n, draws, units=n)
    return pd.concat(tables, ignore_index=True), *mean


def ladder(curves: pd.DataFrame, kind: str, papers: bool) -> pd.DataFrame:
    """Rows of one measure under the paper's transforms, or under the others, with a panel's name for each transform."""
    base = curves["transform"].str.partition("@")[0]
    shown = curves[(curves["kind"] == kind) & (base.isin(PAPER) == papers)]
    return shown.assign(panel=shown["transform"].map(lambda name: AXES.get(name, name)))


def strongest(curves: pd.DataFrame) -> pd.DataFrame:
    """The changes at the last step of every transform, as rows `transform` (with its strength), `metric` (the kind)."""
    last = curves[curves["kind"].isin(STRONGEST)].groupby(["transform", "model", "kind"], sort=False).tail(1)
    steps = last["transform"].replace(SPOKEN) + " " + last["strength"].map("{:g}".format)
    return last.assign(transform=steps, metric=last["kind"])


def finding(page, overall: pd.DataFrame, judged: pd.DataFrame, kinds: int) -> str:
    """How often models keep their answers, who does most, and how many pairs that tells apart."""
    ranked = overall.sort_values("value", ascending=False).itertuples()
    shares = (f"{page.labels[r.model]} {format_interval(r.value, r.ci_low, r.ci_high, '.3f')}" for r in ranked)
    apart = verdicts.told_apart(judged[judged["metric"] == "agreement"])
    of = f"Averaged over {kinds} kinds of transform, this" if kinds > 1 else "This"
    said = f"{of} share of images keeps its answer: {'; '.join(shares)}."
    return f"{said} {page.leader(overall, judged)}; {apart}." if apart else said


def strengths(kinds: Mapping[str, str]) -> pd.DataFrame:
    """Rows `transform, strength` of the kinds of `kinds_of`, for `pictured`."""
    steps = [(name, s) for kind, name in kinds.items() if "@" not in kind for s, _ in transforms.steps(kind)]
    return pd.DataFrame(steps, columns=["transform", "strength"])


def pictured(image: Image.Image, ladders: pd.DataFrame, size: int, image_id: str) -> Drawn:
    """One image under every transform at every strength, at a model's input side of `size` pixels."""
    rows = [(name, list(part["strength"])) for name, part in ladders.groupby("transform", sort=False)]
    columns, titles = max((len(strengths) for _, strengths in rows), default=1), []
    height = len(rows) * (WIDTH / (columns + 1.1) + 0.22)
    fig, axes = plt.subplots(len(rows), columns, figsize=(WIDTH, height), squeeze=False, layout="constrained")
    for row, (name, strengths) in zip(axes, rows, strict=True):
        for ax in row:
            ax.axis("off")
        for ax, strength in zip(row, strengths, strict=False):
            ax.imshow(np.asarray(transformed(image, f"{name}={strength:g}", size, image_id)), interpolation="nearest")
            ax.set_title(f"{strength:g}", fontsize=9, fontweight="normal", loc="center", pad=2)
        titles.append(SPOKEN.get(name, name))
        look = {"ha": "right", "va": "center", "fontsize": 10}
        row[0].text(-0.12, 0.5, titles[-1], transform=row[0].transAxes, **look)
    return fig, f"One image under every transform at every strength: {', '.join(titles)}."
