"""The page of differences: what pages compared, with the verdicts they gave it, escaped."""

import math
from pathlib import Path

import bs4
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import parse_profile
from beyond_accuracy.measure.verdicts import BEYOND_NOISE, OPEN, THESE
from beyond_accuracy.report import differences as pages
from beyond_accuracy.show import results

MODELS = ["a", "b", "c"]


def compared(a, b, gap, half, p_holm, verdict=THESE, metric="accuracy", dimension="calibration", floor=0.0):
    ends = (gap - half, gap + half)
    row = (dimension, "val", metric, a, b, gap, *ends, p_holm / 2, 400, "percent", "main", p_holm, verdict)
    return dict(zip(results.COMPARISON_COLUMNS, (*row, floor), strict=True))


COMPARED = pd.DataFrame(
    [
        compared("a", "b", 3.0, 1.0, 0.030, BEYOND_NOISE),
        compared("b", "c", 7.0, 1.2, 0.040),
        compared("a", "", 80.0, 2.0, 0.6, OPEN),
    ]
)


def page(folder, rows, **titles):
    models = {name: {"source": "predictions", "label": f"<i>{name}</i>"} for name in MODELS}
    content = {"name": "trial", "title": "Trial", "models": models, "dimensions": {"calibration": {}}}
    return pages.body(folder, parse_profile(content, Path("trial.yaml")), rows, titles)


def test_verdicts_are_those_of_the_pages():
    rows = pages.difference_table(COMPARED, MODELS)
    assert rows["verdict"].tolist() == [BEYOND_NOISE, THESE, OPEN] and rows["real"].tolist() == [True, True, False]
    assert rows["p_holm"].tolist() == [0.03, 0.04, 0.6]  # nothing is corrected again
    again = pages.difference_table(COMPARED.assign(p=1e-9, p_holm=1e-9), MODELS)
    assert again["verdict"].tolist() == rows["verdict"].tolist()
    assert len(pages.difference_table(COMPARED, ["a", "b"])) == 2  # of those two alone


def test_a_question_that_two_pages_asked_is_the_first_page_s():
    other = pd.DataFrame([compared("a", "b", 3.0, 1.0, 0.2, OPEN, dimension="robustness")])
    mean = pd.DataFrame([compared("a", "b", 2.0, 1.0, 0.2, OPEN, dimension="transfer")])  # of other images
    rows = pages.difference_table(pd.concat([COMPARED, other, mean]), MODELS)
    assert rows["dimension"].tolist() == ["calibration"] * 3 + ["transfer"]


def test_units_needed_by_hand():
    # half width 1.959964 at 400 units: sd 20 per unit; ((1.959964 + 0.841621) * 20 / 3)^2 = 348.8
    half = norm.ppf(0.975)
    assert pages.needed_units(3.0, 3 - half, 3 + half, 400) == 349 == pages.needed_units(-3.0, -3 - half, half - 3, 400)
    for nothing in [(0.0, -1, 1, 400), (1.0, 1, 1, 400), (1.0, math.nan, math.nan, 400), (1.0, 0, 2, math.nan)]:
        assert pages.needed_units(*nothing) is None


def test_units_needed_reach_their_power_where_scenes_inform():
    """A difference that varies between scenes: as many scenes as said find it in 80 % of the cases."""
    rng = np.random.default_rng(0)
    sd, images = 0.4, 90  # of the scenes' differences; images of a scene repeat it
    half = norm.ppf(0.975) * sd / 96**0.5
    n = pages.needed_units(0.1, 0.1 - half, 0.1 + half, 96)
    assert 100 < n < 150 < 96 * images
    means = rng.normal(0.1, sd, (4000, n)).mean(axis=1)
    assert np.mean(means > norm.ppf(0.975) * sd / n**0.5) == pytest.approx(0.8, abs=0.03)


def test_the_page_says_what_n_counts_and_which_p_values_are_bounds(tmp_path):
    rows = [compared("a", "b", 3, 1, 0.0042, floor=0.0021), compared("b", "c", 7, 1.2, 0.004)]
    text = page(tmp_path, pd.DataFrame(rows).assign(metric="accuracy:x", dimension="synthetic")).html
    soup = bs4.BeautifulSoup(text, "html.parser")
    assert "n = 400 scenes" in soup.select_one("section tbody th").text and "91 scenes" in text
    assert "then the scenes needed" in soup.select_one("figcaption[id=cap-diff-synthetic]").text
    assert "<small>p &lt; 0.005</small>" in text and "<small>p = 0.004</small>" in text


def test_ranges_are_compared_with_chance_and_what_is_told_needs_no_more(tmp_path):
    row = compared("a", "", 5.0, 16.0, 0.02, metric="accuracy_range:roll", dimension="synthetic")
    (cell,) = bs4.BeautifulSoup(page(tmp_path, pd.DataFrame([row])).html, "html.parser").select("section tbody tr")
    assert cell.th.text.startswith("accuracy range: roll beyond the range by chance")
    assert [small.text for small in cell.td.select("small")] == [THESE, "p = 0.020"]


def test_the_page(tmp_path):
    body = page(tmp_path, COMPARED, calibration="Cal & more")
    soup = bs4.BeautifulSoup(body.html, "html.parser")
    assert body.lead.startswith("2 of 3 compared differences are larger than chance would make them, 1 of them larger")
    (row,) = soup.select("section.ba-diff tbody tr")
    cells = row.select("td")
    assert len(cells) == 3 and not soup.select("tbody i")
    heads = [head.text for head in soup.select("section.ba-diff thead th")]
    assert heads[1] == "<i>a</i> − <i>b</i>" == cells[0]["data-pair"] and heads[3] == "<i>a</i> − zero"
    assert row.th.text == "accuracyval · points · n = 400 images"
    assert cells[0].contents[0].strip() == "+3.0" and cells[0].span.text == "[+2.0, +4.0]"
    assert [small.text for small in cells[0].select("small")] == [BEYOND_NOISE, "p = 0.030", "91 images"]
    assert [cell["data-verdict"] for cell in cells] == [BEYOND_NOISE, THESE, OPEN]
    assert "real" in cells[0]["class"] and "real" not in cells[2]["class"]
    assert soup.select_one("h2#dim-calibration").text == "Cal & more"
    assert [o["value"] for o in soup.select("select[name=pair] option")][:2] == ["", cells[0]["data-pair"]]
    assert [o["value"] for o in soup.select("select[name=verdict] option")] == ["", BEYOND_NOISE, THESE, OPEN]
    overview = [cell.text for cell in soup.select("table[data-name=real-differences] tbody th, tbody td")][:4]
    assert overview == ["Cal & more", "3", "2", "1"]
    saved = pd.read_csv(tmp_path / "differences.csv")
    assert [*results.COMPARISON_COLUMNS, "basis", "real", "needed"] == list(saved)


def test_without_comparisons_the_page_says_so(tmp_path):
    assert "No page of this report has compared models yet" in page(tmp_path, COMPARED.iloc[:0]).html


def test_a_damaged_file_is_named(tmp_path):
    results.write_atomically(tmp_path / "comparisons/calibration.csv", b"dimension,p\ncalibration,0.1\n")
    with pytest.raises(InputError, match="calibration.csv: missing columns"):
        results.read_comparisons(tmp_path, ["calibration"])
