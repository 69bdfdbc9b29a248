"""Tables of the report as HTML, and what the metrics in them are called, how they are written and what they mean.

Tables are escaped and sortable, with intervals beside their values and their numbers to download. All that is said of
metrics is in `metrics.yaml`, read once.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.show.results import csv_data_link, csv_text, display_html, fragment

ARROWS = {"up": "↑", "down": "↓"}
# How numbers of one unit are written where rows of several stand in one column
UNITS = {"percent": ".1f", "points": ".1f", "ratio": ".2f", "log-odds": ".2f", "millions": ".0f", "gflops": ".1f"}

# Tables --------------------------------------------------------------------------------------------------------------


def table_html(
    frame: pd.DataFrame, caption: str, *, name: str, labels: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None, decimals: int | None = None, index: bool = False,
) -> str:  # fmt: skip
    """A table as HTML: escaped, captioned, sortable, with its full-precision numbers to download.

    Columns `value`, `ci_low`, `ci_high` become one cell "12.3 [11.9, 12.8]"; so do `X`, `X_low`, `X_high`. A p-value at
    its `X_floor` is shown as a bound. `labels`, `formats`: per column; `decimals`: of float columns without a format. A
    column `format` holds that of its row's other numbers, where rows have different units. Ids depend on `name` only.
    """
    if not caption.strip():
        raise InputError(f"table {name}: a caption is needed")
    frame = frame.reset_index() if index else frame
    if not frame.columns.is_unique:
        raise InputError(f"table {name}: column names are repeated")
    labels, formats = labels or {}, formats or {}
    ends = {c: ["ci_low", "ci_high"] if c == "value" else [f"{c}_low", f"{c}_high"] for c in frame}
    ends = {c: pair for c, pair in ends.items() if set(pair) <= set(frame)}
    hidden = {"format", *(f"{c}_floor" for c in frame)}.union(*ends.values())
    shown = [c for c in frame if c not in hidden]
    numeric = {c: pd.api.types.is_numeric_dtype(frame[c]) and frame[c].dtype != bool for c in shown}
    specs = {c: formats.get(c) or _format(frame[c], decimals) for c in shown}
    own = {c for c in shown if "format" in frame and c not in formats and pd.api.types.is_float_dtype(frame[c])}
    rows = [
        [_cell(row, c, ends.get(c, []), row["format"] if c in own else specs[c], numeric[c]) for c in shown]
        for row in frame.to_dict("records")
    ]
    heads = [(labels.get(c) or _HEADINGS.get(c, str(c).replace("_", " ")), numeric[c]) for c in shown]
    given = {"fit": _fit(heads, rows), "link": csv_data_link(csv_text(frame.drop(columns="format", errors="ignore")))}
    return fragment("table.html.j2", name=name, caption=caption, heads=heads, rows=rows, **given)


def display_table(frame: pd.DataFrame, caption: str, *, name: str, **options: object) -> None:
    """Show a table in the running notebook; arguments as for `table_html`."""
    display_html(table_html(frame, caption, name=name, **options), f"{caption}\n{frame.to_string(index=False)}")


def format_interval(value: float, low: float, high: float, spec: str = ".3g") -> str:
    """The report's way of writing an estimate: "12.3 [11.9, 12.8]", a minus sign for negative numbers."""
    estimate = _number(value, spec)
    return estimate if _absent(low) or _absent(high) else f"{estimate} [{_number(low, spec)}, {_number(high, spec)}]"


def at_most(bound: float, spec: str) -> str:
    """A bound in so many digits, rounded up: what is said to be below it is."""
    text = format(bound, spec)
    step = 0.0 if float(text) >= bound * (1 - 1e-9) else 10.0 ** Decimal(text).as_tuple().exponent
    return format(float(text) + step, spec)


def _fit(heads: list[tuple[str, bool]], rows: list[list[tuple]]) -> str:
    """Classes that keep every column on the screen: intervals below values, small type, rows as cards (on a phone)."""
    beside, below = 0, 0  # characters across, with intervals beside and below their values; padding counts as three
    for i, (head, numeric) in enumerate(heads):
        words = [len(word) for text in [head, *(row[i][0] for row in rows if not numeric)] for word in text.split()]
        values = [(len(row[i][0]), len(row[i][1])) for row in rows] if numeric else []
        beside += 3 + max([*words, *(value + end + bool(end) for value, end in values)], default=1)
        below += 3 + max([*words, *(max(pair) for pair in values)], default=1)
    small = 0.84 * (below - 1.5 * len(heads))  # in a smaller type with less room between
    classes = {"ba-dense": beside > _DESKTOP, "ba-narrow": below > _PHONE}
    classes |= {"ba-small": small <= _DESKTOP < below, "ba-stack": small > _DESKTOP}
    return " ".join(name for name, wanted in classes.items() if wanted)


_DESKTOP, _PHONE = 104, 44  # characters across a page
_HEADINGS = {"p_holm": "p (Holm)", "model_a": "model", "model_b": "minus"}


def _format(column: pd.Series, decimals: int | None) -> str:
    if not pd.api.types.is_float_dtype(column):
        return ",d" if pd.api.types.is_integer_dtype(column) else ""
    if decimals is not None:
        return f".{decimals}f"
    largest = column.abs().max()
    return ".1f" if largest >= 20 else ".2f" if largest >= 2 else ".3f"


def _cell(row: Mapping, column: str, ends: list[str], spec: str, numeric: bool) -> tuple[str, str, str, bool]:
    """What a cell says, its interval, the key it is sorted by, and whether it is a number."""
    value = row[column]
    if _absent(value):
        return "–", "", "", numeric
    if not numeric:
        return str(value), "", "", False
    low, high = [row[end] for end in ends] or (None, None)
    text, _, interval = format_interval(value, low, high, spec.replace("d", ".0f")).partition(" ")
    if value < 0.001 and (column == "p" or str(column).startswith(("p_", "p ("))):
        text = "< 0.001"  # smaller ones differ in no way that matters to a reader
    elif value <= row.get(f"{column}_floor", math.nan):  # as small as the resamples can tell
        text = f"< {at_most(value, spec)}"
    return text, interval, f"{float(value):.10g}", True


def _absent(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _number(value: float, spec: str) -> str:
    if _absent(value):
        return "–"
    sign, rest = (spec[0], spec[1:]) if spec[:1] in {"+", "-", " "} else ("", spec)
    return format(float(value), f"{sign}z{rest}").replace("-", "−")  # z: a value that rounds to zero has no sign


# Metrics -------------------------------------------------------------------------------------------------------------


@cache
def glossary() -> dict:
    """All of `metrics.yaml`: `intro`, `sections` (title, lead, metrics), `headlines`, `counted`, `presets`, `works`."""
    return yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text(encoding="utf-8"))


@cache
def described() -> dict[str, dict]:
    """Metric -> its entry: `heading`, `format`, `better` (`up`, `down` or absent), `text`."""
    return {name: entry for section in glossary()["sections"] for name, entry in (section["metrics"] or {}).items()}


def about(metric: str) -> dict:
    """The entry of a metric; `accuracy:coverage=0.8` is found under `accuracy:coverage`, then under `accuracy`.

    A metric that is not described is shown by its own name.
    """
    for name in (metric, metric.partition("=")[0], metric.partition(":")[0]):
        if name in described():
            return described()[name]
    return {"heading": metric.replace("_", " "), "format": ".3g"}


def plain(metric: str) -> str:
    """A metric's own name as words, where a heading would hide what tells rows apart.

    >>> plain("accuracy_change:brightness")
    'accuracy change: brightness'
    """
    return metric.replace("_", " ").replace(":", ": ")


def digits(units: pd.Series) -> pd.Series:
    """The column `format` of a table whose rows have these units; three decimals where nothing else is known."""
    return units.map(UNITS).fillna(".3f")


def headed(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Options `labels` and `formats` of a table whose columns are named by metrics."""
    known = {name: about(name) for name in names}
    options = {"labels": "heading", "formats": "format"}
    return {option: {name: entry[key] for name, entry in known.items()} for option, key in options.items()}
