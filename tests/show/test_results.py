"""Results table and saved figures."""

import io
import json
from urllib.parse import unquote

import bs4
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import check_name
from beyond_accuracy.show import results, theme


def rows(**changes):
    row = {"dimension": "calibration", "dataset": "imagenet_1k", "metric": "ece", "model": "vit_sup"}
    row |= {"value": 0.0196, "ci_low": 0.0178, "ci_high": 0.0216, "n": 50_000, "unit": "fraction"}
    return pd.DataFrame([row | changes])


def test_valid_rows_come_back_in_column_order():
    checked = results.validate_results(rows()[list(reversed(results.RESULT_COLUMNS))])
    assert list(checked.columns) == list(results.RESULT_COLUMNS)
    assert checked.loc[0, "value"] == 0.0196 and checked["n"].dtype == "Int64"
    none = {"ci_low": np.nan, "ci_high": np.nan}  # an interval may be absent, and one of percentiles miss its estimate
    for changes in (none, {"n": None}, dict.fromkeys((*none, "value"), 0.0), {"value": 0.3, "ci_high": 0.2}):
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
    (tmp_path / "again" / "results").mkdir(parents=True)
    (tmp_path / "results.csv").rename(tmp_path / "again" / "results" / "joined.csv")
    pd.testing.assert_frame_equal(results.read_results(tmp_path / "again"), table)
    stored = pd.read_parquet(tmp_path / "results.parquet")
    assert list(stored["value"]) == list(table["value"])
    assert list(results.collect(tmp_path)["dimension"]) == ["calibration", "mistakes"]  # by name when not asked


def test_rewriting_replaces_a_page_and_leaves_equal_files_alone(tmp_path):
    path = results.write_dimension(tmp_path, "calibration", rows())
    before = path.stat().st_mtime_ns
    assert results.write_dimension(tmp_path, "calibration", rows()).stat().st_mtime_ns == before
    results.write_dimension(tmp_path, "calibration", rows(value=0.5, ci_high=0.6))
    assert list(results.collect(tmp_path)["value"]) == [0.5]


def test_collect_of_nothing_is_an_empty_table(tmp_path):
    assert results.collect(tmp_path).empty
    assert (tmp_path / "results.csv").read_text().startswith("dimension,dataset,metric")


# Figures


@pytest.fixture
def save(tmp_path):
    """Saves a scatter of some points under a folder's name; returns its HTML."""
    theme.use_theme()

    def saved(folder="a", points=3, **words):
        fig, ax = plt.subplots()
        ax.scatter(range(points), range(points))
        texts = {"alt": "Three points on a rising line.", "caption": 'Up & to the "right".'} | words
        return results.save_figure(fig, tmp_path / folder, "rise", data=pd.DataFrame({"x": range(3)}), **texts)

    yield saved
    plt.close("all")


def test_figure_files_are_byte_stable_and_complete(save, tmp_path):
    assert save("a") == save("b")
    for kind in ("svg", "png", "csv", "json"):
        first, second = ((tmp_path / folder / f"rise.{kind}").read_bytes() for folder in "ab")
        assert first == second and b"<dc:date>" not in first
    words = json.loads((tmp_path / "a" / "rise.json").read_text())
    assert words == {"name": "rise", "alt": "Three points on a rising line.", "caption": 'Up & to the "right".'}


def test_figure_html_carries_picture_words_and_data(save):
    figure = bs4.BeautifulSoup(save(alt='He said "<up>"'), "html.parser").figure
    assert figure.img["alt"] == 'He said "<up>"' and figure["id"] == "fig-rise"
    assert figure.img["src"].startswith("data:image/svg+xml;base64,")
    assert 'Up & to the "right".' in figure.figcaption.text
    assert unquote(figure.a["href"]).endswith("x\n0\n1\n2\n")
    assert figure.a["download"] == "rise.csv"


def test_big_point_clouds_become_pixels(save, tmp_path):
    save(points=20_000)
    svg = (tmp_path / "a" / "rise.svg").read_bytes()
    assert len(svg) < 200_000 and b"<image" in svg


@pytest.mark.parametrize("wrong", [{"alt": " "}, {"caption": ""}])
def test_figures_without_words_are_refused(save, wrong):
    with pytest.raises(InputError, match="both alt text and caption"):
        save(**wrong)


def test_small_png_keeps_the_colours_of_a_drawing():
    picture = Image.new("RGB", (40, 40), "white")
    picture.paste((252, 142, 98), (0, 0, 20, 20))
    picture.paste((65, 47, 138), (20, 20, 40, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with Image.open(io.BytesIO(results.small_png(buffer.getvalue()))) as small:
        assert small.convert("RGB").tobytes() == picture.tobytes()


def test_outside_a_notebook_markup_is_its_plain_text(capsys):
    results.display_html("<p>x</p>", "x")
    assert capsys.readouterr().out == "x\n"


def test_text_that_a_spreadsheet_would_compute_stays_text():
    frame = pd.DataFrame({"label": ["=1+1", "@SUM(A1)", "-5.0", "+3.1", "A-B", "-"], "=2": [-1.5, 2, 3, 4, 5, 6]})
    lines = results.csv_text(frame).splitlines()
    assert lines == ["label,'=2", "'=1+1,-1.5", "'@SUM(A1),2", "-5.0,3", "+3.1,4", "A-B,5", "-,6"]
    with pytest.raises(InputError, match="not starting with a dot or a sign"):
        check_name("model", "=1+1")
