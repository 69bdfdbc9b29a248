"""What kind of image does a model get wrong? Error ratios by factor (figure 2 of the paper, and beyond).

The error ratio of a factor is the error rate on images with that factor over the error rate on all annotated images:
above 1 the factor makes images harder for this model (Idrissi et al. 2022, ImageNet-X, arXiv 2211.01866). It cannot
exceed 1 / error rate, so that of two models on which a factor has the same effect the weaker one has the lower ratio.
Models are therefore compared by the factor's effect on the log-odds of an error, measured from the mean log-odds:
adding a constant to the log-odds of every factor, which is what being a weaker model amounts to, leaves it as it is.
(Measured from the log-odds of the overall error rate it would not: that rises above the mean with the spread between
factors, and the more so the rarer errors are.)
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import test_proportions_2indep

from beyond_accuracy.data import annotations
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import P_VALUE_RESAMPLES, Interval, bootstrap_means, holm, wilson
from beyond_accuracy.show import figures
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import GREY, INK, ModelStyle

AVERAGE = "average"
"""Name of the plain mean over the factors, as in the paper's figure."""

KINDS = {"error_ratio": "ratio", "factor_effect": "log-odds"}
"""Numbers of a factor with bootstrap intervals, and their units."""

# What the raters say of an error, told apart by lightness and hatch, so not by colour alone.
REAL = {"true mistake": ("#8c1a12", ""), "label noise": ("#e3b7b1", "///"), "no ReaL label": ("#eceaea", "..")}

Labels = Mapping[str, str]


class Annotated(NamedTuple):
    """A dataset's annotated images, and who is right on them."""

    name: str  # the set that annotates them, as results name it
    title: str
    right: pd.DataFrame  # index id, a column of booleans per model: all images
    top: pd.DataFrame  # index id, 0/1 columns: the one factor that sets an image most apart
    multi: pd.DataFrame  # the same, all factors of an image
    kind: str  # what a group of `multi` is called: `metaclass` or `class`
    groups: NDArray

    def correct(self, factors: pd.DataFrame) -> dict[str, NDArray]:
        """Model -> outcomes on the images of a frame of factors."""
        return {model: column.to_numpy() for model, column in self.right.loc[factors.index].items()}


def annotated(page, runs: Mapping) -> Annotated:
    """The page's images with their factors: of ImageNet-X where the profile says so, else of the metadata."""
    clean, source = page.role("clean"), page.role("factors") if page.has_role("factors") else None
    first, names = next(iter(runs.values())), page.class_names(clean)
    top, multi = (annotations.factor_frame(first.ids, page.metadata(clean), source, kind) for kind in ("top", "multi"))
    targets = pd.Series(first.targets, index=first.ids)[multi.index]
    kind, groups = annotations.image_groups(multi.index, source, np.asarray(names)[targets])
    right = pd.DataFrame({model: run.correct for model, run in runs.items()}, index=first.ids)
    title = "ImageNet-X" if source == "imagenet_x" else page.title(clean)
    return Annotated(source or clean, title, right, top, multi, kind, groups)


def error_ratio(correct: ArrayLike, factors: ArrayLike) -> NDArray[np.float64]:
    """Error ratio of each factor: (1 - accuracy on the factor) / (1 - accuracy on all).

    Args:
        correct: (n,) or (n, models) booleans on the annotated images.
        factors: (n, factors) 0/1.

    Returns:
        (factors,) or (models, factors) ratios; NaN for a factor no image has, or a model without errors.
    """
    wrong, marks = _arrays(correct, factors)
    ratios = _ratios((_columns(wrong, marks).mean(axis=0))[None], wrong.shape[1], marks.shape[1])[0]
    return ratios[0] if np.ndim(correct) == 1 else ratios


def error_ratio_bootstrap(
    correct: ArrayLike,
    factors: ArrayLike,
    resamples: int,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Bootstrap draws of `error_ratio`: the whole ratio is recomputed in each resample, all models on the same images.

    Args:
        correct: (n, models) booleans.
        factors: (n, factors) 0/1.
        resamples: Number of resamples.
        rng: Source of randomness.
        clusters: As in `stats.resample_weights`.

    Returns:
        (resamples, models, factors) ratios, NaN where a resample holds no image of a rare factor.
    """
    wrong, marks = _arrays(correct, factors)
    means = bootstrap_means(_columns(wrong, marks), resamples, rng, clusters)
    return _ratios(means, wrong.shape[1], marks.shape[1])


def factor_table(
    correct: Mapping[str, ArrayLike],
    factors: pd.DataFrame,
    resamples: int,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
) -> pd.DataFrame:
    """What every factor does to every model's errors, with intervals.

    Args:
        correct: model -> (n,) booleans, rows as in `factors`.
        factors: (n, factors) 0/1 columns.
        resamples: Number of resamples.
        rng: Source of randomness.
        clusters: As in `stats.resample_weights`.

    Returns:
        Tidy rows with columns `kind`, `factor` and `errors` (wrong ones among the n images with the factor). `metric`
        is `<kind>:<factor>`: `error_rate` in percent (Wilson), `error_ratio`, and `factor_effect`, the log-odds of an
        error with the factor minus its mean over factors, weighted by their images; half an error and half a right
        answer are added to each factor (Haldane 1956). The last factor of the latter two is `average`, the plain mean
        over the factors that occur. A factor without images has no rows; a model without errors has no ratios, so none
        either.
    """
    right, names, drawn = _draw(correct, factors, resamples, rng, clusters)
    models, marks = list(correct), np.column_stack([factors[names], np.ones(len(factors))])
    counts, overall = (~right).T.astype(float) @ marks, 1 - right.mean(axis=0)
    parts = []
    for f, name in enumerate([*names, AVERAGE]):
        errors, n = counts[:, f].astype(int), int(marks[:, f].sum())
        rates = [wilson(wrong, n) for wrong in errors]
        about = {"factor": name, "errors": errors}
        if name != AVERAGE:
            ends = [Interval(100 * low, 100 * high) for low, high in rates]
            part = tidy.rows(f"error_rate:{name}", "percent", models, 100 * errors / n, n, ends=ends)
            parts.append(part.assign(kind="error_rate", **about))
        for kind, unit in KINDS.items():
            values, draws = (_of(part, f) for part in drawn[kind])
            ends = []
            for m, wrong in enumerate(errors):
                # resamples of equal outcomes have no spread, and a log-odds no end
                bound = np.divide(rates[m], overall[m]) if kind == "error_ratio" and overall[m] else tidy.NONE
                ends.append(tidy.interval(draws[:, m]) if 0 < wrong < n else bound)
            part = tidy.rows(f"{kind}:{name}", unit, models, np.nan_to_num(values), n, ends=ends)
            parts.append(part.assign(kind=kind, **about))
    table = pd.concat(parts, ignore_index=True)
    return table[table["model"].map(dict(zip(models, overall > 0, strict=True)))].reset_index(drop=True)


def factor_differences(
    correct: Mapping[str, ArrayLike],
    factors: pd.DataFrame,
    rng: np.random.Generator,
    resamples: int = P_VALUE_RESAMPLES,
    clusters: ArrayLike | None = None,
) -> pd.DataFrame:
    """Paired differences between every two models: the effect of every factor, and the average error ratio.

    Arguments as for `factor_table`.

    Returns:
        Rows of `tidy.pairs` with `kind`, `factor`, `family` (the averages are the main one): `factor_effect` for each
        factor and the average, `error_ratio` for the average alone (a question is asked once). No rows for models
        without errors; no p-value where a model is right, or wrong, on every image of a factor, or a factor is too
        rare to resample.
    """
    right, names, drawn = _draw(correct, factors, resamples, rng, clusters)
    marks, models = factors[names].to_numpy(int), list(correct)
    hits, sizes = right.T.astype(int) @ marks, [*marks.sum(axis=0), len(right)]
    mixed = (hits > 0) & (hits < sizes[:-1])  # of equal outcomes resamples show no spread
    parts = []
    for kind, unit in KINDS.items():
        for f, name in enumerate([*names, AVERAGE]):
            if kind == "error_ratio" and name != AVERAGE:
                continue
            values, draws = (_of(part, f) for part in drawn[kind])
            known = np.ones(len(models), bool) if name == AVERAGE else mixed[:, f]

            def gap(a: int, b: int, draws: NDArray = draws, known: NDArray = known) -> NDArray:
                drawn = draws[:, a] - draws[:, b]
                enough = known[a] and known[b] and np.isfinite(tidy.interval(drawn)).all()
                return drawn[np.isfinite(drawn)] if enough else np.full(1, np.nan)

            part = tidy.pairs(f"{kind}:{name}", unit, models, values, sizes[f], gap)
            parts.append(part.assign(kind=kind, factor=name, family="main" if name == AVERAGE else "detail"))
    table = pd.concat(parts, ignore_index=True)
    flawless = [model for model, c in zip(models, right.T, strict=True) if c.all()]
    return table[~table[["model_a", "model_b"]].isin(flawless).any(axis=1)].reset_index(drop=True)


def in_one_thing(judged: pd.DataFrame, specs: Sequence) -> pd.DataFrame:
    """Effects among judged differences of the pairs that differ in `what` alone (`verdicts.contrasts`)."""
    pairs = pd.DataFrame(verdicts.contrasts(specs), columns=verdicts.Contrast._fields)
    return judged[judged["kind"] == "factor_effect"].merge(pairs, on=["model_a", "model_b"])


def hardest_first(table: pd.DataFrame, kind: str = "error_ratio") -> pd.DataFrame:
    """Rows of one kind of `factor_table`, factors by falling mean error ratio, the average last."""
    means = table[table["kind"] == "error_ratio"].groupby("factor")["value"].mean().drop(AVERAGE, errors="ignore")
    order = [*means.sort_values(ascending=False, kind="stable").index, AVERAGE]
    return table[table["kind"] == kind].sort_values("factor", key=lambda f: f.map(order.index), kind="stable")


def hardest(table: pd.DataFrame) -> dict[str, list[str]]:
    """Factors that may be a model's hardest: the one of the highest error rate, and those it is not told apart from.

    Score test of two independent shares (an image has one top factor), corrected by Holm over a model's factors.

    Args:
        table: Rows of `factor_table` for factors that exclude each other.
    """
    found = {}
    for model, rows in table[table["kind"] == "error_rate"].groupby("model", sort=False):
        rows = rows.sort_values("value", ascending=False, kind="stable")
        top, others = rows.iloc[0], rows.iloc[1:]
        p = [
            test_proportions_2indep(top["errors"], top["n"], row.errors, row.n, method="score").pvalue
            if row.errors / row.n < top["errors"] / top["n"]
            else 1.0
            for row in others.itertuples()
        ]
        found[model] = [top["factor"], *others["factor"][holm(p) >= 0.05]]
    return found


def errors_by_group(correct: Mapping[str, ArrayLike], groups: ArrayLike) -> pd.DataFrame:
    """Error rate in percent within each group of images (metaclass, class), Wilson intervals; hardest group first."""
    groups, parts = np.asarray(groups), []
    for group in pd.unique(groups):
        wrong = [int((~np.asarray(outcome, bool))[groups == group].sum()) for outcome in correct.values()]
        n = int((groups == group).sum())
        ends = [Interval(*(100 * end for end in wilson(k, n))) for k in wrong]
        rows = tidy.rows(f"error_rate:{group}", "percent", list(correct), 100 * np.array(wrong) / n, n, ends=ends)
        parts.append(rows.assign(group=group))
    table = pd.concat(parts, ignore_index=True)
    means = table.groupby("group")["value"].transform("mean")
    ordered = table.assign(mean=means).sort_values(["mean", "group"], ascending=[False, True], kind="stable")
    return ordered.drop(columns="mean")


def ratio_by_group(
    correct: Mapping[str, ArrayLike], factors: pd.DataFrame, groups: ArrayLike, least: int = 30, top: int | None = None
) -> pd.DataFrame:
    """Error ratio of each factor inside each group: error rate on factor and group over error rate on the group.

    Args:
        correct: model -> (n,) booleans.
        factors: (n, factors) 0/1 columns.
        groups: (n,) group of each image.
        least: Cells with fewer images are left out: their ratios are noise.
        top: Cells kept, those of the largest mean ratio; None: all.

    Returns:
        Tidy rows without intervals, `group`, `factor`; hardest cell first.
    """
    groups, models = np.asarray(groups), list(correct)
    outcomes, parts = np.column_stack([np.asarray(c, bool) for c in correct.values()]), []
    for group in np.unique(groups):
        inside = groups == group
        marks = factors.loc[inside]
        for name in [name for name in marks if marks[name].sum() >= least]:
            ratios, n = error_ratio(outcomes[inside], marks[[name]].to_numpy())[:, 0], int(marks[name].sum())
            parts.append(tidy.rows(f"error_ratio:{name}", "ratio", models, ratios, n).assign(group=group, factor=name))
    if not parts:
        return pd.DataFrame(columns=[*tidy.COLUMNS, "group", "factor"])
    table = pd.concat(parts, ignore_index=True)
    means = table.groupby(["group", "factor"])["value"].mean().sort_values(ascending=False, kind="stable")
    return table.set_index(["group", "factor"]).loc[means.index[:top]].reset_index()


def real_correct(pred: ArrayLike, real: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Correctness under ReaL labels: 1 if the prediction is in the image's list, NaN if the list is empty.

    ReaL accuracy is the mean over images that are not NaN (`numpy.nanmean`).

    Args:
        pred: (n,) predicted classes.
        real: n lists of class indices.
    """
    pred = np.asarray(pred)
    if len(pred) != len(real):
        raise ValueError(f"one list of labels per prediction is expected, got {len(real)} for {len(pred)}")
    sizes = np.array([len(labels) for labels in real])
    if not sizes.any():
        return np.full(len(pred), np.nan)
    owner = np.repeat(np.arange(len(pred)), sizes)
    hits = np.bincount(owner, np.concatenate(list(real)) == pred[owner], len(pred))
    return np.where(sizes > 0, np.minimum(hits, 1.0), np.nan)


def real_split(pred: ArrayLike, targets: ArrayLike, real: Sequence[ArrayLike]) -> dict[str, int]:
    """Number of top-1 errors against the original label, by what the ReaL raters say of the prediction.

    `label noise`: it is a ReaL label; `true mistake`: it is not; `no ReaL label`: raters found no valid label, the
    image is scored by no one.
    """
    outcome, wrong = real_correct(pred, real), np.asarray(pred) != np.asarray(targets)
    masks = {"true mistake": outcome == 0, "label noise": outcome == 1, "no ReaL label": np.isnan(outcome)}
    return {kind: int((wrong & mask).sum()) for kind, mask in masks.items()}


def relabelled(page, runs: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy under the original labels (`accuracy`) and ReaL's (`real`), and shares of errors by `kind`; else empty.

    `kind`s are those of `real_split`; a profile without the role `real` has no rows.
    """
    none = pd.DataFrame(columns=[*tidy.COLUMNS, "kind"])
    if not page.has_role("real"):
        return none, none
    lists = annotations.real_labels()
    scores, shares = [tidy.accuracy({model: run.correct for model, run in runs.items()})], [none]
    for model, run in runs.items():
        real = [lists[i] for i in run.ids]
        outcome, split = real_correct(run.pred, real), real_split(run.pred, run.targets, real)
        scores.append(tidy.accuracy({model: outcome[outcome >= 0]}, "real"))
        total = sum(split.values())
        for kind, k in split.items() if total else ():
            metric = f"error_share:{kind.replace(' ', '_')}"
            row = tidy.rows(metric, "fraction", [model], [k / total], total, ends=[wilson(k, total)])
            shares.append(row.assign(kind=kind))
    return pd.concat(scores), pd.concat(shares[1:] or shares)


def confused_pairs(runs: Mapping, names: Sequence[str], top: int = 20) -> pd.DataFrame:
    """The most frequent confusions over all models.

    Args:
        runs: model -> run with (n,) `pred` and `targets`.
        names: Readable name of each class; where several share one, the index is added.
        top: Number of rows.

    Returns:
        Columns `label`, `taken for` (names), `images` (of that label), one per model (how many it took), `other way`
        (the reverse confusion, mean over models); most frequent first, ties in class order.
    """
    counts = {}
    for model, run in runs.items():
        both = pd.MultiIndex.from_arrays([np.asarray(run.targets), np.asarray(run.pred)])
        counts[model] = pd.Series(1, index=both).groupby(level=[0, 1]).sum()
    table = pd.DataFrame(counts).fillna(0).sort_index()
    wrong = table[table.index.get_level_values(0) != table.index.get_level_values(1)]
    wrong = wrong.loc[wrong.sum(axis=1).sort_values(ascending=False, kind="stable").index].head(top)
    size, names = pd.Series(np.asarray(next(iter(runs.values())).targets)).value_counts(), _distinct(names)
    rows = []
    for (target, chosen), row in wrong.iterrows():
        back = table.loc[(chosen, target)].mean() if (chosen, target) in table.index else 0.0
        rows.append([names[target], names[chosen], int(size[target]), *row.astype(int), back])
    return pd.DataFrame(rows, columns=["label", "taken for", "images", *runs, "other way"])


# ------------------------------------------------------------------------------------------------- figure and sentences


def forest(frame: pd.DataFrame, styles: Mapping[str, ModelStyle], order: Sequence[str]) -> figures.Drawn:
    """Paired differences of factor effects, a panel per pair; filled where the difference is told from zero.

    Args:
        frame: Comparisons with `factor`, judged.
        styles: Looks of the models, for their labels.
        order: Factors from top to bottom.
    """
    place, labels, words = {name: i for i, name in enumerate(order)}, figures.labels_of(styles), []
    pairs = {
        f"{labels[a]}\nminus {labels[b]}": rows for (a, b), rows in frame.groupby(["model_a", "model_b"], sort=False)
    }
    fig, axes = figures.panels(list(pairs), 0.45 + 0.24 * len(order), min(2, len(pairs)), sharex=True, sharey=True)
    for (name, rows), ax in zip(pairs.items(), axes.values(), strict=True):
        for row in rows.itertuples():
            told = row.verdict != verdicts.OPEN
            reach = np.clip([[row.difference - row.ci_low], [row.ci_high - row.difference]], 0, None)
            look = {"color": INK if told else GREY, "markerfacecolor": INK if told else "white"}
            ax.errorbar([row.difference], [place[row.factor]], xerr=reach, fmt="o", markersize=5.5, capsize=0, **look)
        ax.axvline(0, color=INK, linewidth=1)
        ax.set_title(name, fontsize=10.5)
        ax.grid(axis="y", visible=False)
        sure = rows[rows["verdict"] != verdicts.OPEN]
        found = ", ".join(f"{_plain(row.factor)} {row.difference:+.2f}" for row in sure.itertuples())
        words.append(f"{name.replace(chr(10), ' ')}: {found or 'none'}")
    first = next(iter(axes.values()))
    first.set_yticks(range(len(order)), [_plain(name) for name in order])
    # All but the very widest intervals of the rarest factors; zero is always in sight.
    low, high = frame["ci_low"].quantile(0.03), frame["ci_high"].quantile(0.97)
    low, high = min(0.0, low, frame["difference"].min()), max(0.0, high, frame["difference"].max())
    first.set(ylim=(len(order) - 0.4, -0.6), xlim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
    first.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    fig.supxlabel("difference of the factor's effect, log-odds (filled: told from zero)", fontsize=11.5)
    return fig, f"Differences of factor effects (log-odds) that are told from zero. {'; '.join(words)}."


def reach(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis of ratios: the largest value, and all but the very widest intervals."""
    return 0.0, 1.06 * np.nanmax([rows["value"].max(), rows["ci_high"].quantile(0.97), 1.0])


def hardest_sentence(table: pd.DataFrame, title: str, labels: Labels) -> str:
    """Each model's hardest factor on a set, or those among which it is not decided; rows of `factor_table`."""
    rates = table[table["kind"] == "error_rate"].set_index(["model", "factor"])
    words = []
    for model, names in hardest(table).items():
        rows = [(name, rates.loc[(model, name)]) for name in names]
        shown = " or ".join(f"{_plain(name)} ({row['value']:.0f} % of {row['n']:,} wrong)" for name, row in rows)
        words.append(f"{labels[model]}: {shown}{', not told apart' * (len(rows) > 1)}")
    return f"Hardest factor on {title}, by error rate. {'; '.join(words)}."


def effect_sentences(judged: pd.DataFrame, table: pd.DataFrame, labels: Labels) -> list[str]:
    """On which factors two models differ beyond their overall error rates, one sentence per pair.

    Args:
        judged: Judged rows of `factor_differences` with `what` (`verdicts.contrasts`).
        table: Rows of `factor_table`.
        labels: Model -> label.
    """
    rates = table[table["kind"] == "error_rate"].set_index(["model", "factor"])["value"]
    effects, found = judged[judged["kind"] == "factor_effect"], []
    for (a, b, what), rows in effects.groupby(["model_a", "model_b", "what"], sort=False):
        rows = rows.set_index("factor")
        single, mean = rows.drop(AVERAGE), rows.loc[AVERAGE]
        sure = single[single["verdict"] != verdicts.OPEN]
        sure = sure.loc[sure["difference"].abs().sort_values(ascending=False, kind="stable").index]
        named = [f"{_plain(name)} ({rates[a, name]:.0f} against {rates[b, name]:.0f} % errors)" for name in sure.index]
        held = {"objective": " (same architecture)", "architecture": " (same objective)"}.get(what, "")
        found.append(
            f"{labels[a]} and {labels[b]}{held}, beyond their overall error rates: {len(sure)} of {len(single)} "
            f"factors cost one more than the other{': ' * bool(named)}{', '.join(named)}. Mean difference "
            f"{format_interval(mean['difference'], mean['ci_low'], mean['ci_high'], '+.2f')} in log-odds"
            f"{', not decided' if mean['verdict'] == verdicts.OPEN else ''}."
        )
    return found


def sentences(judged: pd.DataFrame, table: pd.DataFrame, shares: pd.DataFrame, title: str, labels: Labels) -> list[str]:
    """The page's findings: hardest factors, where two models differ, and how many errors are errors of the label.

    Args:
        judged: As for `effect_sentences`.
        table: Rows of `factor_table`.
        shares: Of `relabelled`.
        title: The set, for readers.
        labels: Model -> label.
    """
    found = [hardest_sentence(table, title, labels), *effect_sentences(judged, table, labels)]
    words = [
        f"{format_interval(100 * r.value, 100 * r.ci_low, 100 * r.ci_high, '.1f')} % for {labels[r.model]}"
        for r in shares[shares["kind"] == "label noise"].itertuples()
    ]
    fault = "Errors whose prediction ReaL raters call right, so that the label is at fault"
    return [*found, *([f"{fault}: {', '.join(words)}."] if words else [])]


# ------------------------------------------------------------------------------------------------------------ internals


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names by index, the index added where a name is not unique (ImageNet has two cranes and two missiles)."""
    repeated = pd.Series(names).duplicated(keep=False)
    return [f"{name} ({i})" if twice else name for i, (name, twice) in enumerate(zip(names, repeated, strict=True))]


def _arrays(correct: ArrayLike, factors: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    correct, factors = np.asarray(correct), np.asarray(factors)
    if factors.ndim != 2 or correct.shape[:1] != factors.shape[:1] or factors.size == 0:
        raise ValueError(f"(n,) outcomes and (n, factors) marks are expected, got {correct.shape}, {factors.shape}")
    if not np.isin(factors, (0, 1)).all():
        raise ValueError("factors must be 0 or 1")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must be booleans without missing values")
    return ~correct.astype(bool).reshape(len(correct), -1), factors.astype(bool)


def _columns(wrong: NDArray[np.bool_], marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    both = wrong[:, :, None] & marks[:, None, :]
    return np.concatenate([wrong, marks, both.reshape(len(wrong), -1)], axis=1)


def _ratios(means: NDArray[np.float64], models: int, factors: int) -> NDArray[np.float64]:
    """(draws, columns of `_columns`) means -> (draws, models, factors) ratios."""
    wrong, marks, both = _parts(means, models, factors)
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / marks / wrong


def _effects(means: NDArray[np.float64], models: int, factors: int, n: int) -> NDArray[np.float64]:
    """(draws, columns of `_columns`) means over n images -> (draws, models, factors) effects on the log-odds."""
    _, marks, both = _parts(means, models, factors)
    log_odds = np.log((n * both + 0.5) / (n * (marks - both) + 0.5))
    usual = (marks * log_odds).sum(axis=-1, keepdims=True) / marks.sum(axis=-1, keepdims=True)
    return np.where(marks > 0, log_odds - usual, np.nan)


def _parts(means: NDArray[np.float64], models: int, factors: int) -> tuple[NDArray, NDArray, NDArray]:
    wrong, marks = means[:, :models, None], means[:, None, models : models + factors]
    return wrong, marks, means[:, models + factors :].reshape(-1, models, factors)


def _draw(
    correct: Mapping[str, ArrayLike],
    factors: pd.DataFrame,
    resamples: int,
    rng: np.random.Generator,
    clusters: ArrayLike | None,
) -> tuple[NDArray[np.bool_], list[str], dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Outcomes (n, models), factors that occur, and by kind the (models, factors) values and their draws."""
    names = [name for name in factors if factors[name].any()]
    if not correct or not names:
        raise ValueError("at least one model and one factor that occurs are needed")
    wrong, marks = _arrays(np.column_stack([np.asarray(c) for c in correct.values()]), factors[names].to_numpy())
    columns, shape = _columns(wrong, marks), (wrong.shape[1], marks.shape[1])
    means = [columns.mean(axis=0)[None], bootstrap_means(columns, resamples, rng, clusters)]
    drawn = {
        "error_ratio": tuple(_ratios(part, *shape) for part in means),
        "factor_effect": tuple(_effects(part, *shape, len(wrong)) for part in means),
    }
    return ~wrong, names, {kind: (point[0], draws) for kind, (point, draws) in drawn.items()}


def _of(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """One factor's number, or where there are no more factors the mean over all; (..., factors) -> (...)."""
    return values[..., factor] if factor < values.shape[-1] else values.mean(axis=-1)
