"""Tidy rows: an estimate of every model with its interval, and the paired differences between models.

Every dimension hands its estimates here: values (models,), paired draws (resamples, models) and a number of units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.measure.stats import Interval, bootstrap_p_value, holm, p_value_floor, percentile_interval, wilson

COLUMNS = ["metric", "model", "value", "ci_low", "ci_high", "n", "unit"]
PAIR = ["metric", "model_a", "model_b", "difference", "ci_low", "ci_high", "p", "p_floor", "n", "unit"]
MOST_UNDEFINED = 0.05  # share of resamples in which a ratio may be 0/0; above it there is no interval
NONE = Interval(np.nan, np.nan)


def interval(draws: NDArray, units: int | None = None) -> Interval:
    """Percentile interval of draws that may be 0/0 (NaN); none when more than 5 % of them are."""
    known = draws[~np.isnan(draws)]
    return percentile_interval(known, units=units) if len(known) >= (1 - MOST_UNDEFINED) * len(draws) else NONE


def rows(
    metric: str,
    unit: str,
    models: Sequence[str],
    values: ArrayLike,
    n: ArrayLike,
    draws: NDArray | None = None,
    ends: Sequence[Interval] | None = None,
    units: int | None = None,
) -> pd.DataFrame:
    """One row per model with a finite value.

    Args:
        metric: Its name.
        unit: Its unit.
        models: (models,) names.
        values: (models,) estimates.
        n: Independent units (images, scenes, …) behind it, one number or one per model.
        draws: (resamples, models) for percentile intervals; None gives no interval, unless `ends` are given.
        ends: (models,) intervals made otherwise.
        units: As in `stats.percentile_interval`.
    """
    values, n = np.asarray(values, float), np.broadcast_to(n, len(models))
    if ends is None:
        ends = [NONE if draws is None else interval(draws[:, k], units) for k in range(len(models))]
    frame = pd.DataFrame({"metric": metric, "model": list(models), "value": values})
    frame[["ci_low", "ci_high"]] = np.asarray(ends, float).reshape(-1, 2)
    return frame.assign(n=n, unit=unit)[COLUMNS][np.isfinite(values)]


def accuracy(correct: Mapping[str, ArrayLike], metric: str = "accuracy") -> pd.DataFrame:
    """Percent right of every model with Wilson's interval."""
    shares = {model: (int(np.sum(c)), len(c)) for model, c in correct.items()}
    values, sizes = [100 * k / n for k, n in shares.values()], [n for _, n in shares.values()]
    ends = [Interval(*(100 * end for end in wilson(*share))) for share in shares.values()]
    return rows(metric, "percent", list(shares), values, sizes, ends=ends)


def pairs(
    metric: str,
    unit: str,
    models: Sequence[str],
    values: ArrayLike,
    n: int,
    draws: NDArray | Callable[[int, int], NDArray] | None = None,
    test: Callable[[int, int], float] | None = None,
    ends: Callable[[int, int], Interval] | None = None,
    units: int | None = None,
) -> pd.DataFrame:
    """Paired differences of every two models, p-values uncorrected.

    Args:
        metric: Its name.
        unit: Its unit.
        models: (models,) names.
        values: (models,) estimates.
        n: Independent units.
        draws: (resamples, models) of the estimates, drawn together, or a function of two positions to draws of their
            difference; not needed where `test` and `ends` are given.
        test: Positions -> p-value of a test that does not resample; None: the bootstrap's.
        ends: Positions -> interval; None: the percentile interval of the draws.
        units: As in `stats.percentile_interval`.
    """
    found = []
    for a, b in combinations(range(len(models)), 2):
        gap = draws(a, b) if callable(draws) else None if draws is None else draws[:, a] - draws[:, b]
        low, high = ends(a, b) if ends else interval(gap, units)
        if test:
            p, floor = test(a, b), 0.0
        else:
            finite = np.isfinite(gap).all()
            p = bootstrap_p_value(gap, units) if finite else np.nan
            floor = p_value_floor(len(gap), units) if finite else 0.0
        found.append((metric, models[a], models[b], values[a] - values[b], low, high, p, floor, n, unit))
    return pd.DataFrame(found, columns=PAIR)


def against_zero(
    metric: str, unit: str, models: Sequence[str], values: ArrayLike, n: int, draws: NDArray, units: int | None = None
) -> pd.DataFrame:
    """Every model's own number against zero, as rows of `pairs` with an empty `model_b`."""
    found = [
        (
            metric,
            m,
            "",
            values[k],
            *interval(d, units),
            bootstrap_p_value(d, units),
            p_value_floor(len(d), units),
            n,
            unit,
        )
        for k, (m, d) in enumerate(zip(models, draws.T, strict=True))
    ]
    return pd.DataFrame(found, columns=PAIR)


def pivot(frame: pd.DataFrame, index: Sequence[str] | str, columns: str, order: Sequence[str] = ()) -> pd.DataFrame:
    """Rows for readers: one row per `index`, and per value of `columns` a column with its interval beside it.

    Args:
        frame: Tidy rows.
        index: Column or columns that become the rows.
        columns: Column that becomes the columns.
        order: Values of `columns` in order (default: first appearance); those without a value are left out.

    Returns:
        Columns `index`, then `<value>`, `<value>_low`, `<value>_high` per column.
    """
    index = [index] if isinstance(index, str) else list(index)
    shown = frame[index].drop_duplicates().reset_index(drop=True)
    for key in order or dict.fromkeys(frame[columns]):
        mine = frame[frame[columns] == key].set_index(index)[["value", "ci_low", "ci_high"]]
        if mine["value"].notna().any():
            shown = shown.join(mine.set_axis([key, f"{key}_low", f"{key}_high"], axis=1), on=index)
    return shown


# Old forms, until the last page is converted ------------------------------------------------------------------------

DIFFERENCE = ["model_a", "model_b", "difference", "ci_low", "ci_high", "p", "n", "unit"]


def row(metric: str, model: str, value: float, interval: Iterable[float], n: int, unit: str) -> dict:
    """One row; `interval` is (low, high), NaN where there is none."""
    low, high = interval
    return dict(zip(COLUMNS, (metric, model, float(value), float(low), float(high), int(n), unit), strict=True))


def accuracy_row(metric: str, model: str, correct: ArrayLike) -> dict:
    """Top-1 accuracy in percent with its Wilson interval.

    Raises:
        ValueError: There are no images.
    """
    correct = np.asarray(correct, dtype=bool)
    low, high = wilson(int(correct.sum()), correct.size)
    return row(metric, model, 100 * correct.mean(), (100 * low, 100 * high), correct.size, "percent")


def interval_of_ratio(draws: ArrayLike, level: float = 0.95) -> Interval:
    """Percentile interval of draws that may be 0/0 (NaN); NaN ends when more than 5 % of them are."""
    draws = np.asarray(draws, dtype=float)
    defined = draws[~np.isnan(draws)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(draws):
        return Interval(float("nan"), float("nan"))
    return percentile_interval(defined, level)


def frame(rows: Iterable[dict]) -> pd.DataFrame:
    """Rows as a frame with the schema's columns, also when there are none."""
    return pd.DataFrame(list(rows), columns=COLUMNS)


def shown_differences(differences: pd.DataFrame, labels: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Differences as a table for readers: p-values corrected by Holm over this table, models by their labels.

    Where the frame has a column `p_floor` (the smallest p-value the row's test can give, `stats.p_value_floor`), a
    p-value there is shown as a bound.
    """
    corrected = holm(differences["p"].to_numpy(float)) if len(differences) else []
    shown = differences.rename(columns={"ci_low": "difference_low", "ci_high": "difference_high"})
    shown = shown.drop(columns=["p", "unit"]).assign(p_holm=corrected)
    if "p_floor" in shown:
        at_floor = differences["p"] <= differences["p_floor"] * (1 + 1e-9)
        shown = shown.assign(p_holm_floor=np.where(at_floor, corrected, np.nan)).drop(columns="p_floor")
    names = labels or {}
    for column in ("model_a", "model_b"):
        shown[column] = [names.get(name, name) for name in shown[column]]
    return shown


def wide(table: pd.DataFrame, metrics: Mapping[str, str], labels: Mapping[str, str]) -> pd.DataFrame:
    """Tidy rows as a table for readers: a row per model, a column with its interval per metric.

    Args:
        table: Tidy rows.
        metrics: Metric -> heading; metrics without rows are left out.
        labels: Model -> label, in row order.

    Returns:
        Columns `model`, then `<heading>`, `<heading>_low`, `<heading>_high` per metric.
    """
    shown = pd.DataFrame({"model": list(labels.values())})
    for metric, heading in metrics.items():
        rows = table[table["metric"] == metric].set_index("model").reindex(list(labels))
        if rows["value"].notna().any():
            for column, suffix in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
                shown[heading + suffix] = rows[column].to_numpy()
    return shown


def by_model(table: pd.DataFrame, row: str, labels: Mapping[str, str]) -> pd.DataFrame:
    """Tidy rows as a table for readers: a row per value of one column, a column with its interval per model.

    Args:
        table: Tidy rows with a further column `row`, one row per model and value of it.
        row: Name of that column.
        labels: Model -> label, in column order.
    """
    keys = list(dict.fromkeys(table[row]))
    shown = pd.DataFrame({row: keys})
    for model, label in labels.items():
        mine = table[table["model"] == model].set_index(row).reindex(keys)
        for column, suffix in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            shown[label + suffix] = mine[column].to_numpy()
    return shown


def beside_paper(shown: pd.DataFrame, paper: pd.DataFrame, heading: str, labels: Mapping[str, str]) -> pd.DataFrame:
    """Adds the paper's value of one column and the difference to it; unchanged where the paper has none.

    Args:
        shown: Rows of `wide`.
        paper: Rows `model, value`.
        heading: The column they belong to.
        labels: As for `wide`.
    """
    if paper.empty:
        return shown
    theirs = paper.set_index("model")["value"].reindex(list(labels)).to_numpy()
    return shown.assign(**{"paper": theirs, "minus paper": shown[heading].to_numpy() - theirs})


def spell(rows: pd.DataFrame, pattern: str, labels: Mapping[str, str] | None = None) -> str:
    """Rows as words, for alt texts: one phrase per row, joined by semicolons; models by their labels.

    >>> spell(pd.DataFrame({"model": ["a"], "value": [81.25]}), "{model} {value:.1f} %", {"a": "Model A"})
    'Model A 81.2 %'
    """
    names = labels or {}
    phrases = []
    for values in rows.to_dict("records"):
        shown = {key: names.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
        phrases.append(pattern.format(**shown))
    return "; ".join(phrases)


def leaders(values: pd.Series, differences: pd.DataFrame, lower: bool = False) -> list[str]:
    """The best model and those that it is not told apart from, best first: a superlative needs a list of one.

    Args:
        values: Model -> value.
        differences: Rows `model_a, model_b, p_holm` of one number.
        lower: Whether the lowest is the best.
    """
    first, *others = values.sort_values(ascending=lower, kind="stable").index
    pairs = differences[differences["p_holm"] < 0.05]
    sure = {frozenset(pair) for pair in zip(pairs["model_a"], pairs["model_b"], strict=True)}
    return [first, *(model for model in others if frozenset((first, model)) not in sure)]


def best(
    rows: pd.DataFrame, differences: pd.DataFrame, labels: Mapping[str, str], pattern: str, lower: bool = False
) -> str:
    """`leaders` as words: one model with its number, or those that tie with theirs.

    Args:
        rows: Tidy rows of one number.
        differences: Its rows `model_a, model_b, p_holm`.
        labels: Model -> label.
        pattern: How a row is written, e.g. `{value:.1f} %`.
        lower: Whether the lowest is the best.
    """
    known = rows.set_index("model")
    names = leaders(known["value"], differences, lower)
    words = [f"{labels[name]} ({pattern.format(**known.loc[name])})" for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]} tie"
