"""The paper's numbers with the intervals that its test sets allow: worked by hand, drawn, found by their words."""

import bs4
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from beyond_accuracy.data import published
from beyond_accuracy.report import html
from beyond_accuracy.show import paper, tables
from builders import whole_page
from cdp import axe_source, complaints  # noqa: E402 - the folder of tests is on no import path

NOTHING = paper.numbers().iloc[:0][[*published.KEY, "value", "ci_low", "ci_high", "n", "unit"]]


@pytest.fixture(scope="module")
def numbers():
    return paper.numbers()


@pytest.fixture(scope="module")
def differences(numbers):
    return paper.differences(numbers)


def one(rows, *key):
    (row,) = rows.set_index(published.KEY).loc[[key]].to_dict("records")
    return row


def test_the_question_of_the_page_by_hand(numbers):
    """ConvNeXt-CLIP on ImageNet-R: 75.8 % of 30,000, whose Wilson interval is 75.8 -+ 0.48, its centre 0.003 lower."""
    row = one(numbers, "robustness", "imagenet_r", "accuracy", "convnext_clip")
    assert (row["value"], row["n"], row["figure"]) == (75.8, 30000, "figure 6")
    z, n, share = norm.ppf(0.975), 30000, 0.758
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((100 * (centre - half), 100 * (centre + half)))
    assert row["ci_high"] - row["ci_low"] == pytest.approx(0.97, abs=0.005)


def test_what_has_no_known_n_has_no_interval(numbers):
    assert len(numbers) == 384 and not numbers.duplicated(published.KEY).any()
    bare = numbers[numbers["ci_low"].isna()]
    assert set(bare["metric"].str.partition(":")[0]) == {"error_ratio", "ece", "gflops", "params"}
    rest = numbers.dropna(subset=["ci_low"])
    assert ((rest["ci_low"] <= rest["value"]) & (rest["value"] <= rest["ci_high"])).all()


def test_a_mean_has_the_mean_of_its_half_widths(numbers):
    mine = numbers[(numbers["dimension"] == "robustness") & (numbers["model"] == "vit_sup")].set_index("dataset")
    sets = mine.drop(index=["average", "imagenet_1k"])
    half = ((sets["ci_high"] - sets["ci_low"]) / 2).mean()
    assert len(sets) == 7 and mine.ci_high["average"] - mine.value["average"] == pytest.approx(half)


def test_differences_by_hand(differences):
    """On R 77.8 - 75.8 of 30,000 each, read to 0.1 and 0.05: z = 1.85 / 0.344; on 1K 85.5 - 85.5 is open."""
    at = differences[(differences["dimension"] == "robustness") & (differences["metric"] == "accuracy")]
    row = at.query("dataset == 'imagenet_r' and model_a == 'vit_clip' and model_b == 'convnext_clip'").iloc[0]
    error = 100 * np.sqrt((0.778 * 0.222 + 0.758 * 0.242) / 30000)
    assert row["difference"] == pytest.approx(2.0) and row["verdict"] == "these checkpoints"
    assert row["p"] == pytest.approx(2 * norm.sf(1.85 / error), rel=0.02)
    assert row["ci_high"] - 2.0 == pytest.approx(norm.ppf(0.975) * error + 0.15, rel=1e-3)
    assert at.query("dataset == 'imagenet_1k' and model_b == 'convnext_sup'")["verdict"].tolist() == ["open"]
    assert "of 54 differences" in paper.told(at) and paper.told(at[:0]).startswith("No intervals")


def parsed(frame):
    return bs4.BeautifulSoup(tables.table_html(frame, "The numbers", name="reported"), "html.parser")


def test_a_run_stands_below_the_paper(numbers):
    shown = paper.lookup(numbers, published.compare(NOTHING))
    labels = [spec.label for spec in published.checkpoint_specs()]
    assert len(shown) == 96 and shown[labels].notna().sum().sum() == 384
    assert shown["number"][0].startswith("ImageNet-V2") and set(shown["read"]).isdisjoint({"measured"})
    run = one(numbers, "robustness", "imagenet_a", "accuracy", "vit_sup")
    run |= dict(zip(published.KEY, ("robustness", "imagenet_a", "accuracy", "vit_sup"), strict=True))
    run |= {"value": 59.0, "ci_low": 50.0, "ci_high": 68.0, "n": 120}
    both = paper.lookup(numbers, published.compare(pd.DataFrame([run])[NOTHING.columns])).set_index("number")
    at = both.index.get_loc("ImageNet-A, accuracy (%)")
    assert both.index[at + 1] == "ImageNet-A, accuracy (%), this run" and len(both) == 97
    own = both.iloc[at + 1]
    assert own["n"] == "120" and own["read"] == "measured" and own[labels[0]] == 59.0 and pd.isna(own[labels[1]])
    cells = {row.th.text: row.select("td.num") for row in parsed(both.reset_index()).select("tbody tr")}
    assert cells["ImageNet-A, accuracy (%), this run"][0].text.startswith("59.0")
    assert cells["ImageNet-1K, plain ECE"][0].text.startswith("0.0") and cells["parameters (M)"][0].text == "87"
    assert both.iloc[at]["n"] == "7,500" and both.loc["Cue conflict, shape bias"]["n"] == "86 to 126"


def test_figures_2_to_8_draw_with_this_run_as_ticks(numbers, differences):
    run = numbers[numbers["dimension"].eq("synthetic")].assign(value=lambda rows: rows["value"] + 5)
    drawn = list(paper.redrawn(numbers, differences, published.compare(run)))
    for (name, arguments), number in zip(drawn, (2, 3, 4, 6, 6, 7, 8), strict=True):
        kind, styles = arguments.pop("kind"), arguments.pop("styles")
        caption, rows = arguments.pop("caption"), arguments.pop("rows")
        assert f"(its figure {number})" in caption
        assert ("Black ticks" in caption) == (name == "synthetic")
        assert ("No intervals" in caption) == (name in {"mistakes", "calibration"})
        figure, words = kind(rows, styles=styles, **arguments)
        assert "ConvNeXt, CLIP" in words
        plt.close(figure)


@pytest.fixture(scope="module")
def page(tmp_path_factory, numbers):
    table = tables.table_html(paper.lookup(numbers, published.compare(NOTHING)), "The numbers", name="reported")
    body = html.Body("The paper", "lead", [], f"<h1>The paper</h1>{table}")
    return whole_page(tmp_path_factory.mktemp("paper") / "10_summary.html", body, pages=True)


ROWS = "[...document.querySelectorAll('#tab-reported tbody tr')].filter((row) => row.offsetParent)"
SHOWN = f"{ROWS}.map((row) => row.cells[0].textContent)"


@pytest.mark.browser
def test_words_find_rows_and_stay_in_the_address(page, chromium):
    for width in (1280, 390):
        chromium.open(page, width=width, height=900, fragment="#reported=convnext+clip+imagenet-r+acc")
        found = chromium.run(f"return {SHOWN}")
        assert found == ["ImageNet-R, accuracy (%)", "ImageNet-ReaL, accuracy (%)", "ImageNet-R, accuracy (%)"]
        row = "document.querySelector('#tab-reported tbody tr:not([hidden])')"
        assert "75.8 [75.3, 76.3]" in chromium.run(f"return {row}.textContent")
        ends = chromium.run(f"return [...{row}.cells].map((c) => c.getBoundingClientRect().right)")
        assert max(ends) <= width and chromium.run(f"return {row}.getBoundingClientRect().bottom") < 900
    typed = "const f = document.getElementById('find-reported'); f.value = '';"
    chromium.run(f"{typed} f.dispatchEvent(new Event('input', {{bubbles: true}}))")
    assert len(chromium.run(f"return {SHOWN}")) == 96 and chromium.run("return location.hash") == ""
    assert chromium.trouble == [] == complaints(chromium, page, axe_source())


def test_every_page_names_its_source_and_how_to_cite(page):
    text = page.read_text(encoding="utf-8")
    assert (
        "https://arxiv.org/abs/2311.09215" in text and "Vishniakov, Kirill and Shen, Zhiqiang and Liu, Zhuang" in text
    )
    assert "report of profile &lt;t&gt;" in text
