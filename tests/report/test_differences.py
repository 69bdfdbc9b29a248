"""The page of differences: every pair, paired where recorded, corrected within its dimension, escaped."""

import math
from pathlib import Path

import bs4
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from beyond_accuracy import page
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import parse_profile
from beyond_accuracy.report import differences as pages
from beyond_accuracy.show import results

MODELS = ["a", "b", "c"]


def own(model, value, half, n=400, metric="accuracy"):
    row = ("calibration", "val", metric, model, value, value - half, value + half, n, "percent")
    return dict(zip(results.RESULT_COLUMNS, row, strict=True))


def compared(a, b, gap, half, p, metric="accuracy", dimension="calibration", floor=0.0):
    row = (dimension, "val", metric, a, b, gap, gap - half, gap + half, p, 400, "percent")
    return dict(zip(page.COMPARISON_COLUMNS[:11], row, strict=True)) | {"p_floor": floor}


TABLE = pd.DataFrame([own("a", 80.0, 2.0), own("b", 77.0, 1.5), own("c", 70.0, 2.0)])
COMPARED = pd.DataFrame(
    [compared("a", "b", 3.0, 1.0, 0.010), compared("b", "c", 7.0, 1.2, 0.020), compared("a", "", 80.0, 2.0, 0.030)]
)


def test_every_pair_is_there_and_unrecorded_ones_are_independent():
    rows = pages.difference_table(COMPARED, TABLE, MODELS)
    assert list(zip(rows["model_a"], rows["model_b"], strict=True)) == [("a", "b"), ("b", "c"), ("a", ""), ("a", "c")]
    filled = rows.iloc[3]
    spread = math.hypot(2.0, 2.0)
    assert filled["basis"] == "independent" and filled["difference"] == 10.0
    assert (filled["ci_low"], filled["ci_high"]) == pytest.approx((10 - spread, 10 + spread))
    assert filled["p"] == pytest.approx(2 * norm.sf(10 / (spread / norm.ppf(0.975))))
    assert (rows["basis"].iloc[:3] == "paired").all()


def test_holm_within_a_dimension_only():
    other = pd.DataFrame([compared("a", "b", 1.0, 0.5, 0.04, dimension="robustness")])
    rows = pages.difference_table(pd.concat([COMPARED, other]), TABLE.iloc[:0], MODELS)
    # 0.01 * 3, max(0.02 * 2, 0.03), max(0.03, 0.04); alone in its family, 0.04 stays.
    assert rows["p_holm"].tolist() == pytest.approx([0.03, 0.04, 0.04, 0.04])
    assert rows["real"].all() and rows["family"].tolist() == [3, 3, 3, 1]
    rows = pages.difference_table(COMPARED.assign(p=[0.02, 0.02, 0.02]), TABLE.iloc[:0], MODELS)
    assert rows["p_holm"].tolist() == pytest.approx([0.06] * 3) and not rows["real"].any()


def test_a_missing_p_is_no_verdict_and_not_counted():
    rows = pages.difference_table(COMPARED.assign(p=[0.02, 0.02, float("nan")]), TABLE.iloc[:0], MODELS)
    assert rows["p_holm"].tolist()[:2] == pytest.approx([0.04, 0.04])
    assert rows["real"].tolist() == [True, True, False] and rows["family"].iloc[0] == 2


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


def test_the_page_says_what_n_counts(tmp_path):
    rows = pd.DataFrame([compared("a", "b", 3.0, 1.0, 0.01, dimension="synthetic", metric="accuracy:average")])
    results.write_atomically(tmp_path / "comparisons/synthetic.csv", results.csv_text(rows).encode())
    text = pages.body(tmp_path, small_profile(), ["synthetic"], {"synthetic": "Sweeps"}, TABLE).html
    soup = bs4.BeautifulSoup(text, "html.parser")
    assert "n = 400 scenes" in soup.select_one("section tbody th").text and "91 scenes" in text
    assert "then the scenes needed" in soup.select_one("figcaption[id=cap-diff-synthetic]").text


def test_a_transform_that_changes_nothing_is_no_question_of_its_own():
    """Eight ladders start at the plain images: their difference would be counted, and corrected for, eight times."""
    kinds = ("scale=1", "shift=0", "resolution=224", "hflip=0", "scale=3", "jpeg=10")
    rows = pd.DataFrame([compared("a", "b", 1, 0.5, 0.012, metric=f"accuracy:{kind}") for kind in kinds])
    found = pages.difference_table(rows, TABLE.iloc[:0], MODELS)
    assert found["metric"].tolist() == ["accuracy:scale=3", "accuracy:jpeg=10"]
    assert found["family"].tolist() == [2, 2] and found["p_holm"].tolist() == pytest.approx([0.024] * 2)


def test_p_values_at_the_floor_are_bounds(tmp_path):
    rows = pd.DataFrame([compared("a", "b", 3.0, 1.0, 0.002, floor=0.002), compared("b", "c", 7.0, 1.2, 0.002)])
    results.write_atomically(tmp_path / "comparisons/calibration.csv", results.csv_text(rows).encode())
    text = pages.body(tmp_path, small_profile(), ["calibration"], {}, TABLE.iloc[:0]).html
    assert "✓ p &lt; 0.004" in text and "✓ p = 0.004" in text
    old = rows.drop(columns="p_floor")  # written before floors were recorded
    results.write_atomically(tmp_path / "comparisons/calibration.csv", results.csv_text(old).encode())
    assert pages.read_comparisons(tmp_path, ["calibration"])["p_floor"].tolist() == [0, 0]


def test_models_outside_the_profile_are_left_out():
    assert len(pages.difference_table(COMPARED, TABLE, ["a", "b"])) == 2
    assert not len(pages.difference_table(COMPARED.iloc[:0], TABLE, MODELS))


def small_profile():
    models = {
        name: {"source": "predictions", "label": f"<i>{name}</i>", "family": "convnet", "paradigm": "clip"}
        for name in MODELS
    }
    content = {"name": "trial", "title": "Trial", "models": models, "dimensions": {"calibration": {}}}
    return parse_profile(content, Path("trial.yaml"))


def test_the_page(tmp_path):
    results.write_atomically(tmp_path / "comparisons/calibration.csv", results.csv_text(COMPARED).encode())
    body = pages.body(tmp_path, small_profile(), ["calibration"], {"calibration": "Cal & more"}, TABLE)
    soup = bs4.BeautifulSoup(body.html, "html.parser")
    (row,) = soup.select("section.ba-diff tbody tr")
    cells = row.select("td")
    assert len(cells) == 4 and not soup.select("tbody i")
    heads = [head.text for head in soup.select("section.ba-diff thead th")]
    assert heads[1] == "<i>a</i> − <i>b</i>" == cells[0]["data-pair"] and heads[4] == "<i>a</i> − zero"
    assert row.th.text == "accuracyval · points · n = 400 images"
    assert cells[0].contents[0].strip() == "+3.00" and cells[0].span.text == "[+2.00, +4.00]"
    assert [small.text for small in cells[0].select("small")] == ["✓ p = 0.030", "91 images"]
    assert cells[0]["data-verdict"] == "real" and "real" in cells[0]["class"]
    assert "†" in cells[2].text and heads[3] == "<i>a</i> − <i>c</i>"  # filled in from the models' own intervals
    rows = cells
    assert soup.select_one("h2#dim-calibration").text == "Cal & more"
    assert [option["value"] for option in soup.select("select[name=pair] option")][:2] == [
        "",
        rows[0]["data-pair"],
    ]
    saved = pd.read_csv(tmp_path / "differences.csv")
    assert len(saved) == 4 and saved["p_holm"].max() <= 1


def test_without_comparisons_the_page_says_so(tmp_path):
    body = pages.body(tmp_path, small_profile(), ["calibration"], {}, TABLE)
    assert "No page of this report has compared models yet" in body.html


def test_a_damaged_file_is_named(tmp_path):
    results.write_atomically(tmp_path / "comparisons/calibration.csv", b"dimension,p\ncalibration,0.1\n")
    with pytest.raises(InputError, match="calibration.csv: missing columns"):
        pages.read_comparisons(tmp_path, ["calibration"])
