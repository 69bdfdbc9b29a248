"""Tables as HTML."""

import csv
import io
from urllib.parse import unquote

import bs4
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.show import tables

ROW = {"model": "vit_sup", "value": 0.0196, "ci_low": 0.0178, "ci_high": 0.0216, "n": 50_000, "unit": "fraction"}
ROWS = pd.DataFrame([ROW])


def parse(frame, **options):
    page = tables.table_html(frame, options.pop("caption", "What it holds"), name="t", **options)
    return bs4.BeautifulSoup(page, "html.parser")


def test_rows_of_different_units_have_their_own_digits():
    frame = pd.DataFrame({"what": ["a", "b"], "x": [60.0, 0.5], "x_low": [59, 0.25], "x_high": [61, 1.0], "n": [1, 2]})
    frame = frame.assign(y=[1.0, 2.0], format=tables.digits(pd.Series(["percent", "fraction"])))
    table = parse(frame, formats={"y": ".2f"})
    cells = [[cell.get_text(" ", strip=True) for cell in row.select("td")] for row in table.select("tbody tr")]
    assert cells == [["60.0 [59.0, 61.0]", "1", "1.00"], ["0.500 [0.250, 1.000]", "2", "2.00"]]
    assert "format" not in table.select_one("a.ba-csv")["href"]


def test_table_merges_intervals_and_formats_n():
    table = parse(ROWS, formats={"value": ".3f"})
    assert [head.text for head in table.select("thead th")] == ["model", "value", "n", "unit"]
    cells = table.select("tbody tr > *")
    assert [cell.text for cell in cells] == ["vit_sup", "0.020 [0.018, 0.022]", "50,000", "fraction"]
    assert cells[1]["data-sort"] == "0.0196"
    assert table.select_one("tbody th")["scope"] == "row"


def test_named_intervals_missing_values_and_signs():
    frame = pd.DataFrame({"pair": [*"abc"], "gap": [-0.25, np.nan, -0.0001], "gap_low": [-0.5, np.nan, np.nan]})
    frame = frame.assign(gap_high=[0.0, np.nan, np.nan], n=pd.array([10, None, 1_200], dtype="Int64"))
    table = parse(frame, formats={"gap": "+.2f"})
    texts = [[cell.text for cell in row.select("th, td")] for row in table.select("tbody tr")]
    assert texts == [["a", "−0.25 [−0.50, +0.00]", "10"], ["b", "–", "–"], ["c", "+0.00", "1,200"]]


def test_table_text_is_escaped_and_download_is_the_full_numbers():
    frame = pd.DataFrame({"file <name>": ["<script>alert(1)</script>", "a,b"], "share": [1 / 3, 2 / 3]})
    page = tables.table_html(frame, 'of "all" <files>', name="t")
    assert "<script>" not in page and "<files>" not in page
    table = bs4.BeautifulSoup(page, "html.parser")
    content = unquote(table.select_one("a[download]")["href"].split(",", 1)[1])
    read = list(csv.reader(io.StringIO(content)))
    assert read[1] == ["<script>alert(1)</script>", "0.3333333333"]
    assert read[2][0] == "a,b"


def test_table_is_named_by_its_caption():
    table = parse(ROWS, caption="ECE by model")
    assert table.select_one("figcaption")["id"] == table.table["aria-labelledby"] == "cap-t"
    with pytest.raises(InputError, match="a caption is needed"):
        parse(ROWS, caption="")
    with pytest.raises(InputError, match="repeated"):
        parse(pd.concat([ROWS, ROWS], axis=1))


def test_big_tables_leave_the_download_to_the_saved_file():
    frame = pd.DataFrame({"x": ["a word of " * 20] * 200})
    assert parse(frame.head(10)).select_one("a[download]") is not None
    assert parse(frame).select_one("a[download]") is None


def test_p_values_at_their_floor_are_bounds():
    frame = pd.DataFrame({"pair": [*"abc"], "p_holm": [0.0042, 0.0042, 0.0001], "p_holm_floor": [0.0042, np.nan, 1]})
    table = parse(frame, formats={"p_holm": ".4f"})
    assert [head.text for head in table.select("thead th")] == ["pair", "p (Holm)"]
    assert [cell.text for cell in table.select("tbody td")] == ["< 0.0042", "0.0042", "< 0.001"]
    assert table.select("tbody td")[0]["data-sort"] == "0.0042"
    renamed = frame.rename(columns={"p_holm": "p (NLL)", "p_holm_floor": "p (NLL)_floor"})
    other = parse(renamed, formats={"p (NLL)": ".3f"})
    assert [cell.text for cell in other.select("tbody td")] == ["< 0.005", "0.004", "< 0.001"]


@pytest.mark.parametrize(
    "bound, spec, said",
    [(0.0012, ".3f", "0.002"), (0.00147, ".2g", "0.0015"), (0.00141, ".2g", "0.0015"), (0.002, ".3f", "0.002"),
     (0.0195, ".3f", "0.020"), (1.0, ".3f", "1.000")],
)  # fmt: skip
def test_bounds_are_rounded_up(bound, spec, said):
    assert tables.at_most(bound, spec) == said


def shape_of(columns):
    """Classes of a table of one model with some numbers in percent, each with its interval."""
    ends = {f"m{i}{end}": [52.3] for i in range(columns) for end in ("", "_low", "_high")}
    return set(parse(pd.DataFrame({"model": ["ConvNeXt"], **ends})).figure["class"]) - {"ba-table", "mathjax_ignore"}


def test_no_column_is_off_the_screen():
    """Intervals go below values, rows become cards on a phone, and cards everywhere, as columns get too many."""
    shapes = [shape_of(columns) for columns in (1, 3, 6, 8, 12)]
    dense = {"ba-dense", "ba-narrow"}
    assert shapes == [set(), {"ba-narrow"}, dense, dense | {"ba-small"}, dense | {"ba-stack"}]
    row = {"dataset": "World val", "metric": "accuracy: coverage=0.8", "model_a": "ConvNeXt, supervised"}
    row |= {"model_b": "ConvNeXt, supervised", "difference": 10.156, "difference_low": -8.801, "difference_high": 11.5}
    row |= {"n": 2560, "p_holm": 0.045, "verdict": "these checkpoints"}  # was cut off at its last letters
    assert "ba-dense" in parse(pd.DataFrame([row]), formats={"difference": "+.3f"}).figure["class"]
    wide = pd.DataFrame({"model": ["a"], "extraordinarily-long": ["b"], "extraordinarily-wide": ["c"]})
    assert [cell.get("data-label") for cell in parse(wide).select("td")] == list(wide)[1:]
