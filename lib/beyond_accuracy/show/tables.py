"""Tables of the report as HTML: escaped, sortable, intervals beside their values, their numbers to download."""

import html
import math
from collections.abc import Mapping, Sequence

import pandas as pd

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.show.results import check_name, csv_link, csv_text, display_html


def table_html(
    frame: pd.DataFrame,
    caption: str,
    *,
    name: str,
    labels: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    decimals: int | None = None,
    index: bool = False,
) -> str:
    """A table as HTML: escaped, captioned, sortable, with its full-precision numbers to download.

    Columns `value`, `ci_low`, `ci_high` become one cell "12.3 [11.9, 12.8]"; so do `X`, `X_low`, `X_high`. A p-value at
    its `X_floor` is shown as a bound. `labels`, `formats`: per column; `decimals`: of float columns without a format.
    Ids depend on `name` only.
    """
    check_name(name, "table")
    if not caption.strip():
        raise InputError(f"table {name}: a caption is needed")
    if index:
        frame = frame.reset_index()
    if not frame.columns.is_unique:
        raise InputError(f"table {name}: column names are repeated")
    labels, formats = dict(labels or {}), dict(formats or {})
    shown = _merge_intervals(list(frame.columns))
    specs = {column: formats.get(column) or _format(frame[column], decimals) for column in shown}
    numeric = {column: pd.api.types.is_numeric_dtype(frame[column]) and frame[column].dtype != bool for column in shown}
    head = "".join(
        f'<th scope="col"{_class(numeric[column])}>{_text(labels.get(column) or _heading(column))}</th>'
        for column in shown
    )
    rows = []
    for _, row in frame.iterrows():
        cells = [
            _cell(row, column, shown[column], specs[column], numeric[column], first=i == 0)
            for i, column in enumerate(shown)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    link = csv_link(csv_text(frame), f"{name}.csv", f"table {name}")
    download = f'<p class="ba-download">{link}</p>' if link else ""
    dense = " ba-dense" if sum(pair is not None for pair in shown.values()) > 2 else ""  # intervals go below values
    return (
        f'<figure class="ba-table{dense}" id="tab-{name}"><figcaption id="cap-{name}">{_text(caption)}</figcaption>'
        f'<div class="ba-scroll" tabindex="0" role="region" aria-labelledby="cap-{name}">'
        f'<table data-sortable data-name="{name}" aria-labelledby="cap-{name}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{download}</figure>"
    )


def display_table(frame: pd.DataFrame, caption: str, *, name: str, **options: object) -> None:
    """Show a table in the running notebook; arguments as for `table_html`."""
    display_html(table_html(frame, caption, name=name, **options), f"{caption}\n{frame.to_string(index=False)}")


def format_interval(value: float, low: float, high: float, spec: str = ".3g") -> str:
    """The report's way of writing an estimate: "12.3 [11.9, 12.8]", a minus sign for negative numbers.

    >>> format_interval(-0.5, -0.75, -0.25, ".2f")
    '−0.50 [−0.75, −0.25]'
    """
    estimate = _number(value, spec)
    if _absent(low) or _absent(high):
        return estimate
    return f"{estimate} [{_number(low, spec)}, {_number(high, spec)}]"


def _merge_intervals(columns: Sequence[str]) -> dict[str, tuple[str, str] | None]:
    """Columns to show -> the pair of columns that holds their interval."""
    have, shown = set(columns), {}
    bounds: set[str] = {f"{column}_floor" for column in columns}
    for column in columns:
        pair = ("ci_low", "ci_high") if column == "value" else (f"{column}_low", f"{column}_high")
        if have.issuperset(pair):
            shown[column] = pair
            bounds.update(pair)
        else:
            shown[column] = None
    return {column: pair for column, pair in shown.items() if column not in bounds}


def _heading(column: str) -> str:
    usual = {"p_holm": "p (Holm)", "model_a": "model", "model_b": "minus"}
    return usual.get(column, str(column).replace("_", " "))


def _format(column: pd.Series, decimals: int | None) -> str:
    if not pd.api.types.is_float_dtype(column):
        return ",d" if pd.api.types.is_integer_dtype(column) else ""
    if decimals is not None:
        return f".{decimals}f"
    largest = column.abs().max()
    return ".1f" if largest >= 20 else ".2f" if largest >= 2 else ".3f"


def _cell(row: pd.Series, column: str, bounds: tuple[str, str] | None, spec: str, numeric: bool, *, first: bool) -> str:
    value = row[column]
    if _absent(value):
        text, key = "–", ""
    elif numeric:
        spec = spec.replace("d", ".0f")  # iterrows may have turned integers into floats
        estimate, _, interval = format_interval(
            value, *(row[list(bounds)] if bounds else (None, None)), spec
        ).partition(" ")
        if value < 0.001 and (column == "p" or str(column).startswith(("p_", "p ("))):
            estimate = "< 0.001"  # smaller ones differ in no way that matters to a reader
        elif value <= row.get(f"{column}_floor", math.nan):  # as small as the resamples can tell
            estimate = f"< {estimate}"
        text = _text(estimate) + (f' <span class="ba-ci">{_text(interval)}</span>' if interval else "")
        key = f' data-sort="{float(value):.10g}"'
    else:
        text, key = _text(value), ""
    tag = "th" if first else "td"
    scope = ' scope="row"' if first else ""
    return f"<{tag}{scope}{_class(numeric)}{key}>{text}</{tag}>"


def _absent(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _number(value: float, spec: str) -> str:
    if _absent(value):
        return "–"
    sign, rest = (spec[0], spec[1:]) if spec[:1] in {"+", "-", " "} else ("", spec)
    return format(float(value), f"{sign}z{rest}").replace("-", "−")  # z: a value that rounds to zero has no sign


def _text(value: object) -> str:
    return html.escape(str(value))


def _class(numeric: bool) -> str:
    return ' class="num"' if numeric else ""
