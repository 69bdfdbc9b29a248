"""The page "Which differences are real": every pair of models on every compared number, with a corrected verdict."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.stats import norm
from statsmodels.stats.power import normal_sample_size_one_tail

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import Profile
from beyond_accuracy.data.transforms import IDENTITY_AT
from beyond_accuracy.measure import stats
from beyond_accuracy.report.html import TEMPLATE, Body
from beyond_accuracy.show import results, tables

ALPHA = 0.05
POWER = 0.8
PAIRED, INDEPENDENT = "paired", "independent"
_KEYS = ["dimension", "dataset", "metric"]
_MOST_NEEDED = 10**9  # beyond this no benchmark helps, and the normal approximation has no meaning
_DIFFERENCE_COLUMNS = [*_KEYS, "model_a", "model_b", "difference", "ci_low", "ci_high", "p", "n", "unit"]
_UNITS = {"synthetic": "scenes", "shape_bias": "shape images", "transfer": "images or scenes"}
"""What n counts, by page, where it is not images: the units that inform, not how often each was photographed."""


def read_comparisons(folder: Path, dimensions: Sequence[str]) -> pd.DataFrame:
    """The recorded differences of some dimensions, in their order; an empty `model_b` stands for zero.

    `p_floor` is the smallest p-value that a row's test can give, 0 where it gives any.

    Raises:
        InputError: A file without the columns of the schema (docs/architecture.md, Comparisons).
    """
    frames = []
    for dimension in dimensions:
        path = Path(folder) / "comparisons" / f"{dimension}.csv"
        if not path.is_file():
            continue
        frame = pd.read_csv(path, dtype={"model_a": str, "model_b": str})
        if missing := set(_DIFFERENCE_COLUMNS) - set(frame.columns):
            raise InputError(f"{path}: missing columns {', '.join(sorted(missing))}")
        frame = frame.reindex(columns=[*_DIFFERENCE_COLUMNS, "p_floor"])
        frames.append(frame.assign(model_b=frame["model_b"].fillna("")).fillna({"p_floor": 0.0}))
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*_DIFFERENCE_COLUMNS, "p_floor"])


def difference_table(comparisons: pd.DataFrame, table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Every pair of models on every compared number.

    Pairs that a page did not compare image by image are filled in from the two models' own intervals, taken as
    independent: usually wider than the truth, since the models saw the same images. All rows of one dimension are
    one family for Holm's correction; a transform at the strength that changes nothing is the plain accuracy, which has
    its own page, and is left out. `needed` is the number of units (of what n counts) at which a difference of this size
    would be found with probability 0.8, if the width of its interval shrinks with the square root of their number.

    Args:
        comparisons: As of `read_comparisons`.
        table: Rows of the results schema.
        models: Models in order; rows of others are left out.

    Returns:
        Columns of the comparisons and `basis` (paired or independent), `p_holm`, `family` (size), `real` (bool),
        `needed` (Int64, missing where it cannot be known). Where p lies at its `p_floor`, p_holm is an upper bound.
    """
    comparisons = comparisons[~comparisons["metric"].map(_changes_nothing).astype(bool)]
    known = comparisons[comparisons["model_a"].isin(models) & comparisons["model_b"].isin([*models, ""])]
    rows = pd.concat([known.assign(basis=PAIRED), _unrecorded(known, table, models)], ignore_index=True)
    if not len(rows):
        return rows.assign(p_holm=[], family=[], real=[], needed=pd.array([], dtype="Int64"))
    rows["p"] = rows["p"].astype(float)
    rows["p_holm"] = rows.groupby("dimension", sort=False)["p"].transform(lambda p: stats.holm(p.to_numpy()))
    rows["family"] = rows.groupby("dimension", sort=False)["p"].transform("count")
    rows["real"] = (rows["p_holm"] < ALPHA).to_numpy(bool)
    rows["needed"] = pd.array([needed_units(*row) for row in _precision(rows)], dtype="Int64")
    rows["n"] = rows["n"].astype("Int64")
    places = {key: i for i, key in enumerate(rows[_KEYS].drop_duplicates().itertuples(index=False, name=None))}
    order = [places[key] for key in rows[_KEYS].itertuples(index=False, name=None)]
    return rows.assign(_order=order).sort_values("_order", kind="stable").drop(columns="_order").reset_index(drop=True)


def _changes_nothing(metric: str) -> bool:
    kind, _, strength = metric.partition(":")[2].partition("=")
    return bool(strength) and kind in IDENTITY_AT and float(strength) == IDENTITY_AT[kind]


def needed_units(difference: float, low: float, high: float, n: float) -> int | None:
    """Units (of what n counts) that would decide a difference of this size; None where nothing can be said.

    n = ((z_{1 - alpha/2} + z_power) * sd / difference)^2, the normal approximation of the paired test, with the sd of a
    unit that the interval implies.

    >>> needed_units(0.01, 0.01 - 1.96 * 0.005, 0.01 + 1.96 * 0.005, 1000)
    1963
    """
    if not all(np.isfinite([difference, low, high, n])) or difference == 0 or high <= low or n <= 0:
        return None
    sd = stats.half_width_sd(low, high) * float(np.sqrt(n))
    needed = max(1.0, normal_sample_size_one_tail(difference, POWER, ALPHA / 2, std_null=sd))
    return int(np.ceil(needed)) if needed <= _MOST_NEEDED else None


def _precision(rows: pd.DataFrame) -> list[tuple[float, ...]]:
    numbers = rows[["difference", "ci_low", "ci_high", "n"]].astype("Float64")
    return [tuple(float("nan") if pd.isna(x) else float(x) for x in row) for row in numbers.itertuples(index=False)]


def _unrecorded(known: pd.DataFrame, table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    compared = known[known["model_b"] != ""]
    rows = []
    for key, recorded in compared.groupby(_KEYS, sort=False):
        there = {frozenset(pair) for pair in recorded[["model_a", "model_b"]].itertuples(index=False, name=None)}
        mask = (table[_KEYS] == list(key)).all(axis=1) & table["ci_low"].notna()
        own = table[mask].set_index("model")
        sd = stats.half_width_sd(own["ci_low"].astype(float), own["ci_high"].astype(float))
        for a, b in combinations([name for name in models if name in own.index], 2):
            spread = float(np.hypot(sd[a], sd[b]))
            if frozenset((a, b)) in there or spread == 0:
                continue
            gap = float(own.at[a, "value"] - own.at[b, "value"])
            ends = gap - stats.Z95 * spread, gap + stats.Z95 * spread
            count = own.loc[[a, b], "n"].min()
            p = float(2 * norm.sf(abs(gap) / spread))
            rows.append((*key, a, b, gap, *ends, p, count, recorded["unit"].iloc[0], 0.0, INDEPENDENT))
    return pd.DataFrame(rows, columns=[*_DIFFERENCE_COLUMNS, "p_floor", "basis"])


# The page ------------------------------------------------------------------------------------------------------------


def body(
    folder: Path, profile: Profile, dimensions: Sequence[str], titles: dict[str, str], table: pd.DataFrame
) -> Body:
    """The inside of `differences.html`; writes `differences.csv` beside it.

    Args:
        folder: `report/<profile>`.
        profile: Models and their labels.
        dimensions: Pages in reading order.
        titles: Dimension -> title of its page.
        table: Rows of the results schema.
    """
    title = "Which differences are real"
    rows = difference_table(read_comparisons(folder, dimensions), table, list(profile.models))
    results.write_atomically(Path(folder) / "differences.csv", results.csv_text(rows).encode())
    if not len(rows):
        lead = "No page of this report has compared models yet; build the pages of the dimensions first."
        return Body(title, lead, [], f"<p>{lead}</p>")
    labels = {name: spec.label for name, spec in profile.models.items()}
    real, inferred = int(rows["real"].sum()), int((rows["basis"] == INDEPENDENT).sum())
    lead = (
        f"{real} of {len(rows)} compared differences are larger than chance would make them, at a level of "
        f"{ALPHA:.0%} kept over each dimension as a whole."
    )
    sections = [("overview", "Overview"), *((f"dim-{name}", titles.get(name, name)) for name in _present(rows))]
    parts = [
        f'<p class="ba-lede">{html.escape(lead)}</p>',
        _reading(rows, inferred),
        '<h2 id="overview">Overview</h2>',
        tables.table_html(
            _overview(rows, labels, titles),
            "Differences found to be real, of all that were compared, by dimension and pair.",
            name="real-differences",
            labels={"dimension": "Dimension", "all": "all pairs"},
        ),
        '<p class="ba-hint">All rows: <a href="differences.csv" download>differences.csv</a>.</p>',
        _filters(rows, labels, titles),
    ]
    for dimension in _present(rows):
        chosen = rows[rows["dimension"] == dimension]
        parts.append(_section(dimension, titles.get(dimension, dimension), chosen, labels, profile))
    script = (TEMPLATE / "differences.js").read_text(encoding="utf-8")
    return Body(title, lead, sections, "\n".join([*parts, f"<script>{script}</script>"]))


def _present(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["dimension"]))


def _pair(a: str, b: str, labels: dict[str, str]) -> str:
    return f"{labels.get(a, a)} − {labels.get(b, b) if b else 'zero'}"


def _overview(rows: pd.DataFrame, labels: dict[str, str], titles: dict[str, str]) -> pd.DataFrame:
    pairs = [_pair(*pair, labels) for pair in rows[["model_a", "model_b"]].itertuples(index=False, name=None)]
    counted = rows.assign(pair=pairs).groupby(["dimension", "pair"], sort=False)["real"].agg(["sum", "count"])
    frame = pd.DataFrame({"dimension": [titles.get(name, name) for name in _present(rows)]}, index=_present(rows))
    two_models = [pair for pair in dict.fromkeys(pairs) if not pair.endswith("− zero")]
    for pair in two_models:
        frame[pair] = [
            "{} of {}".format(*counted.loc[(name, pair)]) if (name, pair) in counted.index else "–"
            for name in frame.index
        ]
    total = rows.groupby("dimension", sort=False)["real"].agg(["sum", "count"])
    frame["all"] = [f"{total.at[name, 'sum']} of {total.at[name, 'count']}" for name in frame.index]
    return frame.reset_index(drop=True)


def _reading(rows: pd.DataFrame, inferred: int) -> str:
    text = (
        "<p>A difference is first minus second model, over the same images, with its 95&nbsp;% interval; percentages "
        "differ by points. <strong>Real</strong> means that p, corrected by Holm’s method over all comparisons of the "
        f"dimension, is below {ALPHA}; <strong>not decided</strong> does not mean equal. A p after “&lt;” is as small "
        "as the resamples behind it can tell. n counts what informs: images, or where many show one scene or shape, "
        "these. The <em>number needed</em> says how many of them would find a difference of the measured size "
        f"with a probability of {POWER:.0%} before any correction, if the interval’s width shrinks with the square "
        "root of their number; more images of the same scenes would not help.</p>"
    )
    coarse = int(rows["family"].max())
    extra = []
    if inferred:
        extra.append(
            f"{inferred} differences are marked †: their pair was not compared image by image, so the two models’ "
            "own intervals were taken as independent, which is usually too cautious."
        )
    if coarse > 500:
        extra.append(
            f"The largest family has {coarse} comparisons: the smallest p of a bootstrap (0.0001) cannot pass its "
            "first step alone, so there “not decided” can also mean too few resamples."
        )
    fold = "".join(f"<p>{sentence}</p>" for sentence in extra)
    example = (
        "<p>Example: “+1.5 [+0.4, +2.6], ✓ p = 0.012, 2,100 images” says that the first model leads by one and a half "
        "points, that anything from 0.4 to 2.6 would fit the data, and that 2,100 images would usually suffice to see "
        "it. A cell with an interval that excludes zero can still be not decided: of twenty comparisons of equal "
        "models one is expected to do so by chance.</p>"
    )
    return f"{text}<details><summary>How to read this</summary>{example}{fold}</details>"


def _filters(rows: pd.DataFrame, labels: dict[str, str], titles: dict[str, str]) -> str:
    def options(pairs: list[tuple[str, str]]) -> str:
        return "".join(f'<option value="{html.escape(v)}">{html.escape(t)}</option>' for v, t in pairs)

    pairs = dict.fromkeys(_pair(*p, labels) for p in rows[["model_a", "model_b"]].itertuples(index=False, name=None))
    dimensions = [(f"dim-{name}", titles.get(name, name)) for name in _present(rows)]
    return (
        '<form id="filters" class="ba-filters" hidden aria-label="Choose rows">'
        f'<label>Dimension <select name="dimension"><option value="">all</option>{options(dimensions)}</select></label>'
        f'<label>Pair <select name="pair"><option value="">all</option>{options([(p, p) for p in pairs])}</select>'
        '</label><label>Verdict <select name="verdict"><option value="">all</option><option value="real">real</option>'
        '<option value="not decided">not decided</option></select></label>'
        '<p id="shown" role="status" aria-live="polite"></p></form>'
    )


def _section(dimension: str, title: str, rows: pd.DataFrame, labels: dict[str, str], profile: Profile) -> str:
    """One table: a row per number, a column per pair of models, everything about their difference in the cell."""
    datasets = {name: spec.title or name for name, spec in profile.datasets.items()} | {"average": "mean of all sets"}
    name = f"diff-{dimension.replace('_', '-')}"
    family, units = int(rows["family"].iloc[0]), _UNITS.get(dimension, "images")
    caption = (
        f"{title}: {int(rows['real'].sum())} of {len(rows)} differences are real. Holm’s family: {family}. "
        f"✓ real; p after correction; then the {units} needed to see a difference of this size."
    )
    texts = [_pair(*pair, labels) for pair in rows[["model_a", "model_b"]].itertuples(index=False, name=None)]
    rows = rows.assign(pair=texts)
    pairs = sorted(dict.fromkeys(texts), key=lambda pair: pair.endswith("− zero"))
    head = "".join(f'<th scope="col" class="num" data-pair="{_esc(pair)}">{_esc(pair)}</th>' for pair in pairs)
    body = []
    for (dataset, metric), part in rows.groupby(["dataset", "metric"], sort=False):
        spec = "+.2f" if part["difference"].abs().max() >= 2 or part["unit"].iloc[0] == "percent" else "+.3f"
        cells = {row["pair"]: _difference_cell(row, spec, units) for row in part.to_dict("records")}
        unit = {"percent": "points"}.get(part["unit"].iloc[0], part["unit"].iloc[0])
        counts = sorted(set(part["n"].dropna().astype(int)))
        under = [
            datasets.get(dataset, dataset.replace("_", " ")),
            unit,
            *([f"n = {counts[0]:,} {units}"] if len(counts) == 1 else []),
        ]
        what = f"{_esc(metric.replace('_', ' ').replace(':', ': '))}<small>{_esc(' · '.join(under))}</small>"
        rest = "".join(cells.get(pair, f'<td class="num" data-pair="{_esc(pair)}">–</td>') for pair in pairs)
        body.append(f'<tr><th scope="row">{what}</th>{rest}</tr>')
    link = '<a class="ba-csv" href="differences.csv" download aria-label="Download all differences as CSV">CSV</a>'
    table = (
        f'<figure class="ba-table ba-matrix" id="tab-{name}"><figcaption id="cap-{name}">{_esc(caption)}</figcaption>'
        f'<div class="ba-scroll" tabindex="0" role="region" aria-labelledby="cap-{name}">'
        f'<table data-sortable aria-labelledby="cap-{name}"><thead><tr><th scope="col">difference of</th>{head}</tr>'
        f'</thead><tbody>{"".join(body)}</tbody></table></div><p class="ba-download">{link}</p></figure>'
    )
    heading = f'<h2 id="dim-{_esc(dimension)}">{_esc(title)}</h2>'
    return str(Markup(f'<section class="ba-diff">{heading}{table}</section>'))  # noqa: S704 (escaped)


def _esc(text: str) -> str:
    return html.escape(str(text))


def _difference_cell(row: dict, spec: str, units: str) -> str:
    estimate, _, interval = tables.format_interval(row["difference"], row["ci_low"], row["ci_high"], spec).partition(
        " "
    )
    verdict = "real" if row["real"] else "not decided"
    p = _p_text(row["p_holm"], bound=row["p"] <= row["p_floor"] * (1 + 1e-9))
    mark = ("✓ " if row["real"] else "") + (f"p {p}" if p.startswith("<") else f"p = {p}")
    needed = "" if pd.isna(row["needed"]) else f"<small>{int(row['needed']):,} {units}</small>"
    dagger = "†" if row["basis"] == INDEPENDENT else ""
    return (
        f'<td class="num{" real" if row["real"] else ""}" data-pair="{_esc(row["pair"])}" data-verdict="{verdict}" '
        f'data-sort="{float(row["difference"]):.10g}">{estimate}{dagger} <span class="ba-ci">{interval}</span>'
        f"<small>{_esc(mark)}</small>{needed}</td>"
    )


def _p_text(p: float, bound: bool) -> str:
    if pd.isna(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"< {p:.3f}" if bound else f"{p:.3f}"
