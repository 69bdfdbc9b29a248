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
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import test_proportions_2indep

from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import (
    P_VALUE_RESAMPLES,
    bootstrap_means,
    bootstrap_p_value,
    holm,
    p_value_floor,
    wilson,
)

AVERAGE = "average"
"""Name of the plain mean over the factors, as in the paper's figure."""

KINDS = {"error_ratio": "ratio", "factor_effect": "log-odds"}
"""Numbers of a factor with bootstrap intervals, and their units."""


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
    level: float = 0.95,
) -> pd.DataFrame:
    """What every factor does to every model's errors, with intervals.

    Args:
        correct: model -> (n,) booleans, rows as in `factors`.
        factors: (n, factors) 0/1 columns.
        resamples: Number of resamples.
        rng: Source of randomness.
        clusters: As in `stats.resample_weights`.
        level: Confidence level.

    Returns:
        Tidy rows with columns `kind`, `factor` and `errors` (wrong ones among the n images with the factor). `metric`
        is `<kind>:<factor>`: `error_rate` in percent (Wilson), `error_ratio`, and `factor_effect`, the log-odds of an
        error with the factor minus its mean over factors, weighted by their images; half an error and half a right
        answer are added to each factor (Haldane 1956). The last factor of the latter two is `average`, the plain mean
        over the factors that occur. A factor without images has no rows; a model without errors has no ratios, so none
        either.
    """
    table, names, drawn = _draw(correct, factors, resamples, rng, clusters)
    marks = factors[names].to_numpy(bool)
    rows = []
    for m, model in enumerate(correct):
        wrong = ~table[:, m]
        if not wrong.any():
            continue
        for f, name in enumerate([*names, AVERAGE]):
            inside = marks[:, f] if name != AVERAGE else np.ones(len(wrong), bool)
            n, errors = int(inside.sum()), int((wrong & inside).sum())
            rate, found = np.array(wilson(errors, n, level)), {}
            if name != AVERAGE:
                found["error_rate"] = (100 * errors / n, 100 * rate, "percent")
            for kind, unit in KINDS.items():
                value, draws = (_of(part[..., m, :], f) for part in drawn[kind])
                interval = tidy.interval_of_ratio(draws, level)
                if not 0 < errors < n:  # resamples of equal outcomes have no spread, and a log-odds no end
                    interval = rate / wrong.mean() if kind == "error_ratio" else (np.nan, np.nan)
                found[kind] = (value, interval, unit)
            for kind, (value, interval, unit) in found.items():
                row = tidy.row(f"{kind}:{name}", model, value, interval, n, unit)
                rows.append(row | {"kind": kind, "factor": name, "errors": errors})
    return pd.DataFrame(rows, columns=[*tidy.COLUMNS, "kind", "factor", "errors"])


def factor_differences(
    correct: Mapping[str, ArrayLike],
    factors: pd.DataFrame,
    rng: np.random.Generator,
    resamples: int = P_VALUE_RESAMPLES,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired differences between every two models: the effect of every factor, and the average error ratio.

    Args:
        correct: model -> (n,) booleans.
        factors: (n, factors) 0/1 columns.
        rng: Source of randomness.
        resamples: Number of resamples.
        clusters: As in `stats.resample_weights`.
        level: Confidence level.

    Returns:
        Columns `metric`, those of `tidy.DIFFERENCE`, `kind`, `factor`: `factor_effect` of `model_a` minus that of
        `model_b` for each factor and the average, `error_ratio` for the average alone (a question is asked once);
        p-values uncorrected. No rows for models without errors; no p-value where a model is right, or wrong, on every
        image of a factor, or a factor is too rare to resample.
    """
    table, names, drawn = _draw(correct, factors, resamples, rng, clusters)
    sizes = [*(int(factors[name].sum()) for name in names), len(table)]
    rows = []
    right = table.T.astype(int) @ factors[names].to_numpy(int)
    mixed = (right > 0) & (right < sizes[:-1])  # of equal outcomes resamples show no spread
    for a, b in combinations(range(len(correct)), 2):
        if table[:, a].all() or table[:, b].all():
            continue
        pair = list(correct)[a], list(correct)[b]
        for kind, unit in KINDS.items():
            for f, (name, n) in enumerate(zip([*names, AVERAGE], sizes, strict=True)):
                if kind == "error_ratio" and name != AVERAGE:
                    continue
                value, draws = (_of(part[..., a, :], f) - _of(part[..., b, :], f) for part in drawn[kind])
                interval, p, floor = (np.nan, np.nan), np.nan, np.nan
                if name == AVERAGE or mixed[:, f][[a, b]].all():
                    interval, kept = tidy.interval_of_ratio(draws, level), draws[np.isfinite(draws)]
                if np.isfinite(interval[0]):
                    p, floor = bootstrap_p_value(kept), p_value_floor(len(kept))
                rows.append((f"{kind}:{name}", *pair, value, *interval, p, n, unit, floor, kind, name))
    return pd.DataFrame(rows, columns=["metric", *tidy.DIFFERENCE, "p_floor", "kind", "factor"])


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


def errors_by_group(correct: Mapping[str, ArrayLike], groups: ArrayLike, level: float = 0.95) -> pd.DataFrame:
    """Error rate within each group of images (metaclass, class), with Wilson intervals.

    Returns:
        Columns `model`, `group`, `n`, `errors`, `error_rate`, `ci_low`, `ci_high`, `ratio` (to the model's error rate
        on all images; NaN for a model without errors).
    """
    groups = np.asarray(groups)
    rows = []
    for model, outcome in correct.items():
        wrong = pd.Series(~np.asarray(outcome, bool)).groupby(groups).agg(["size", "sum"])
        overall = wrong["sum"].sum() / wrong["size"].sum()
        for name, n, errors in wrong.itertuples():
            ratio = errors / n / overall if overall else np.nan
            rows.append((model, name, int(n), int(errors), errors / n, *wilson(int(errors), int(n), level), ratio))
    columns = ["model", "group", "n", "errors", "error_rate", "ci_low", "ci_high", "ratio"]
    return pd.DataFrame(rows, columns=columns)


def ratio_by_group(
    correct: Mapping[str, ArrayLike], factors: pd.DataFrame, groups: ArrayLike, least: int = 30
) -> pd.DataFrame:
    """Error ratio of each factor inside each group: error rate on factor and group over error rate on the group.

    Args:
        correct: model -> (n,) booleans.
        factors: (n, factors) 0/1 columns.
        groups: (n,) group of each image.
        least: Cells with fewer images are left out: their ratios are noise.

    Returns:
        Columns `model`, `group`, `factor`, `value`, `n`.
    """
    groups = np.asarray(groups)
    rows = []
    for group in pd.unique(groups):
        inside = groups == group
        marks = factors.loc[inside]
        enough = [name for name in marks if marks[name].sum() >= least]
        if not enough:
            continue
        for model, outcome in correct.items():
            ratios = error_ratio(np.asarray(outcome, bool)[inside], marks[enough].to_numpy())
            rows += [(model, group, name, r, int(marks[name].sum())) for name, r in zip(enough, ratios, strict=True)]
    return pd.DataFrame(rows, columns=["model", "group", "factor", "value", "n"])


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


def real_split(pred: ArrayLike, targets: ArrayLike, real: Sequence[ArrayLike], level: float = 0.95) -> pd.DataFrame:
    """Splits the top-1 errors against the original label by what the ReaL raters say.

    Returns:
        Rows `label noise` (the prediction is a ReaL label), `true mistake` (it is not), `no ReaL label` (raters found
        no valid label: the image is scored by no one) with columns `kind`, `n`, `share` of all errors and its Wilson
        interval `ci_low`, `ci_high`; NaN shares for a model without errors.
    """
    outcome = real_correct(pred, real)
    wrong = np.asarray(pred) != np.asarray(targets)
    total = int(wrong.sum())
    kinds = {
        "label noise": wrong & (outcome == 1),
        "true mistake": wrong & (outcome == 0),
        "no ReaL label": wrong & np.isnan(outcome),
    }
    rows = []
    for kind, mask in kinds.items():
        n = int(mask.sum())
        rows.append((kind, n, n / total, *wilson(n, total, level)) if total else (kind, n, *[np.nan] * 3))
    return pd.DataFrame(rows, columns=["kind", "n", "share", "ci_low", "ci_high"])


def confused_pairs(
    pred: Mapping[str, ArrayLike], targets: ArrayLike, names: Sequence[str], top: int = 20
) -> pd.DataFrame:
    """The most frequent confusions over all models.

    Args:
        pred: model -> (n,) predicted classes.
        targets: (n,) labels.
        names: Readable name of each class; where several share one, the index is added.
        top: Number of rows.

    Returns:
        Columns `target`, `pred` (names), `n` (images of target), one per model (how many it called pred), `back`
        (images of pred that were called target, mean over models); most frequent first, ties in class order.
    """
    targets = np.asarray(targets)
    counts = {}
    for model, chosen in pred.items():
        chosen = np.asarray(chosen)
        if chosen.shape != targets.shape or chosen.ndim != 1:
            raise ValueError(f"one label per prediction is expected, got shapes {chosen.shape} and {targets.shape}")
        counts[model] = pd.Series(1, index=pd.MultiIndex.from_arrays([targets, chosen])).groupby(level=[0, 1]).sum()
    table = pd.DataFrame(counts).fillna(0).sort_index()
    wrong = table[table.index.get_level_values(0) != table.index.get_level_values(1)]
    wrong = wrong.loc[wrong.sum(axis=1).sort_values(ascending=False, kind="stable").index].head(top)
    size, names = pd.Series(targets).value_counts(), _distinct(names)
    rows = []
    for (target, chosen), row in wrong.iterrows():
        back = table.loc[(chosen, target)].mean() if (chosen, target) in table.index else 0.0
        rows.append([names[target], names[chosen], int(size[target]), *row.astype(int), back])
    return pd.DataFrame(rows, columns=["target", "pred", "n", *pred, "back"])


def shown_factors(
    table: pd.DataFrame, labels: Mapping[str, str], paper: pd.DataFrame, order: Sequence[str]
) -> pd.DataFrame:
    """Numbers of one kind as a table for readers: a row per factor, a column with its interval per model.

    Args:
        table: Rows of `factor_table` of one kind.
        labels: Model -> label.
        paper: Rows `factor, model, value` of the paper; models without rows get no column.
        order: Factors from top to bottom.
    """
    counts = table.drop_duplicates("factor").set_index("factor")["n"]
    shown = pd.DataFrame({"factor": [name.replace("_", " ") for name in order], "n": counts[list(order)].to_numpy()})
    for model, label in labels.items():
        rows = table[table["model"] == model].set_index("factor").reindex(order)
        for column, suffix in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            shown[label + suffix] = rows[column].to_numpy()
        if len(paper) and (paper["model"] == model).any():
            theirs = paper[paper["model"] == model].set_index("factor")["value"]
            shown[f"{label}: paper"] = theirs.reindex(order).to_numpy()
    return shown


# ------------------------------------------------------------------------------------------------------------ internals


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
