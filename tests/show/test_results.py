"""Results table, saved figures, tables as HTML."""

import io
import json
from urllib.parse import unquote

import bs4
import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.show import results, theme


def rows(**changes):
    row = {"dimension": "calibration", "dataset": "imagenet_1k", "metric": "ece", "model": "vit_sup"}
    row |= {"value": 0.0196, "ci_low": 0.0178, "ci_high": 0.0216, "n": 50_000, "unit": "fraction"}
    return pd.DataFrame([row | changes])


def test_valid_rows_come_back_in_column_order():
    shuffled = rows()[list(reversed(results.RESULT_COLUMNS))]
    checked = results.validate_results(shuffled)
    assert list(checked.columns) == list(results.RESULT_COLUMNS)
    assert checked.loc[0, "value"] == 0.0196
    assert checked["n"].dtype == "Int64"


@pytest.mark.parametrize(
    "changes",
    [
        {"ci_low": np.nan, "ci_high": np.nan},  # an interval may be absent
        {"n": None},
        {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0},
        {"value": 0.3, "ci_low": 0.1, "ci_high": 0.2},  # a percentile interval can miss its estimate
    ],
)
def test_edge_rows_are_valid(changes):
    assert len(results.validate_results(rows(**changes))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": np.nan}, "value is a finite number"),
        ({"value": np.inf}, "value is a finite number"),
        ({"value": "high"}, "value is not a number"),
        ({"ci_low": 0.03, "ci_high": 0.01}, "ci_low <= ci_high"),
        ({"ci_low": np.nan}, "both ends"),
        ({"n": 1.5}, "n counts images"),
        ({"n": -1}, "n counts images"),
        ({"model": ""}, "model is a name"),
        ({"metric": None}, "metric is a name"),
        ({"extra": 1}, "unknown: extra"),
    ],
)
def test_bad_rows_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        results.validate_results(rows(**changes))


def test_missing_column_and_repeated_row():
    with pytest.raises(InputError, match="missing: n"):
        results.validate_results(rows().drop(columns="n"))
    with pytest.raises(InputError, match=r"row 1 .*one row per metric and model"):
        results.validate_results(pd.concat([rows(), rows(value=0.5)]))


def test_collect_joins_pages_in_order_and_survives_a_round_trip(tmp_path):
    results.write_dimension(tmp_path, "mistakes", rows(dimension="mistakes", metric="error_ratio:pose", n=None))
    results.write_dimension(tmp_path, "calibration", rows())
    table = results.collect(tmp_path, ["mistakes", "calibration", "transfer"])
    assert list(table["dimension"]) == ["mistakes", "calibration"]
    pd.testing.assert_frame_equal(results.read_results(tmp_path / "results.csv"), table)
    stored = pd.read_parquet(tmp_path / "results.parquet")
    assert list(stored["value"]) == list(table["value"])
    assert list(results.collect(tmp_path)["dimension"]) == ["calibration", "mistakes"]  # by name when not asked


def test_rewriting_replaces_a_page_and_leaves_equal_files_alone(tmp_path):
    path = results.write_dimension(tmp_path, "calibration", rows())
    before = path.stat().st_mtime_ns
    results.write_dimension(tmp_path, "calibration", rows())
    assert path.stat().st_mtime_ns == before
    results.write_dimension(tmp_path, "calibration", rows(value=0.5, ci_high=0.6))
    assert list(results.collect(tmp_path)["value"]) == [0.5]


def test_rows_of_another_page_are_refused(tmp_path):
    with pytest.raises(InputError, match="calibration recorded rows of dimension mistakes"):
        results.write_dimension(tmp_path, "calibration", rows(dimension="mistakes"))


def test_collect_of_nothing_is_an_empty_table(tmp_path):
    assert results.collect(tmp_path).empty
    assert (tmp_path / "results.csv").read_text().startswith("dimension,dataset,metric")


# Figures


def save(folder, points=3, **words):
    theme.use_theme()
    fig, ax = plt.subplots()
    ax.scatter(range(points), range(points))
    texts = {"alt": "Three points on a rising line.", "caption": 'Up & to the "right".'} | words
    try:
        return results.save_figure(fig, folder, "rise", data=pd.DataFrame({"x": range(3)}), **texts)
    finally:
        plt.close(fig)


def test_figure_files_are_byte_stable_and_complete(tmp_path):
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    for kind in ("svg", "png", "csv"):
        assert getattr(first, kind).read_bytes() == getattr(second, kind).read_bytes()
    words = json.loads((tmp_path / "a" / "rise.json").read_text())
    assert words == {"name": "rise", "alt": "Three points on a rising line.", "caption": 'Up & to the "right".'}
    assert b"<dc:date>" not in first.svg.read_bytes()


def test_figure_html_carries_picture_words_and_data(tmp_path):
    figure = bs4.BeautifulSoup(results.figure_html(save(tmp_path, alt='He said "<up>"')), "html.parser").figure
    assert figure.img["alt"] == 'He said "<up>"'
    assert figure.img["src"].startswith("data:image/svg+xml;base64,")
    assert 'Up & to the "right".' in figure.figcaption.text
    assert unquote(figure.a["href"]).endswith("x\n0\n1\n2\n")
    assert figure.a["download"] == "rise.csv"


def test_big_point_clouds_become_pixels(tmp_path):
    record = save(tmp_path, points=20_000)
    assert record.svg.stat().st_size < 200_000
    assert b"<image" in record.svg.read_bytes()


@pytest.mark.parametrize("words", [{"alt": " "}, {"caption": ""}])
def test_figure_without_words_is_refused(tmp_path, words):
    with pytest.raises(InputError, match="both alt text and caption"):
        save(tmp_path, **words)


def test_bad_names_and_data_are_refused(tmp_path):
    fig = plt.figure()
    with pytest.raises(InputError, match=r"figure name '\.\./x'"):
        results.save_figure(fig, tmp_path, "../x", "a", "b", pd.DataFrame())
    with pytest.raises(InputError, match="must be a DataFrame"):
        results.save_figure(fig, tmp_path, "x", "a", "b", {"x": 1})
    plt.close(fig)


def test_small_png_keeps_the_colours_of_a_drawing():
    from PIL import Image

    picture = Image.new("RGB", (40, 40), "white")
    picture.paste((252, 142, 98), (0, 0, 20, 20))
    picture.paste((65, 47, 138), (20, 20, 40, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with Image.open(io.BytesIO(results.small_png(buffer.getvalue()))) as small:
        assert small.convert("RGB").tobytes() == picture.tobytes()
