"""Choosing among published models: sources, intervals and ties by hand; the script's filters, address, keys, zoom."""

from urllib.parse import unquote

import bs4
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.data.published import REAL_NAMES
from beyond_accuracy.report import real_models
from builders import whole_page
from cdp import axe_source, complaints  # noqa: E402 - the folder of tests is on no import path


@pytest.fixture(scope="module")
def board():
    return real_models.models()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return whole_page(tmp_path_factory.mktemp("models") / "models.html", real_models.body())


def test_intervals_by_hand():
    """Half of 7,500: 50 +- 100 * 1.96 * sqrt(1/4/7500 + 1.96^2/(4 * 7500^2)) / (1 + 1.96^2/7500)."""
    assert real_models.interval(50.0, 7500) == pytest.approx((48.869, 51.131), abs=1e-3)
    assert np.isnan(real_models.interval(np.nan, 7500)).all()


def test_ties_by_hand():
    """At 50 % of 7,500 images the test tells 1.6003 points apart: 100 * 1.959964 * sqrt(2/4/7500)."""
    frame = pd.DataFrame(
        {"model": ["a", "b", "c", "d"], "params_m": [10, 20, 50, 60], "imagenet_a": [50.8, 49.3, 49.1, 70]}
    )
    assert real_models.leaders(frame, "imagenet_a", 50).model.tolist() == ["a", "b"]  # 1.5 points tie, 1.7 do not
    assert real_models.leaders(frame, "imagenet_a", 100).model.tolist() == ["d"]
    frame.loc[0, "imagenet_a"] = np.nan
    assert real_models.leaders(frame, "imagenet_a", 50).model.tolist() == ["b", "c"]


def test_speeds_and_licences_are_those_of_the_tables(board):
    rows = board.set_index("model")
    convnext = rows.loc["convnext_base.fb_in22k_ft_in1k"]
    rates = pd.read_csv(ASSETS / "rates.csv").query("model == 'convnext_base' and side == 224")
    assert convnext.gpu == rates[rates.device == "NVIDIA RTX 4090"].images_per_second.item()
    assert rows.loc["convnext_base/laion400m_s13b_b51k"].gpu == convnext.gpu  # the same tower at the same side
    assert np.isnan(rows.loc["RN50/openai"].gpu)  # timm has no such tower
    licences = pd.read_csv(ASSETS / "licences.csv")
    assert set(licences.model) <= set(board.model) and licences.model.is_unique and licences.notna().all(axis=None)
    assert rows.loc["convnextv2_base.fcmae_ft_in22k_in1k"].licence == "cc-by-nc-4.0"
    assert rows.loc["ViT-B-32/openai"].licence == "not stated here"


def test_dates_are_those_of_the_notes():
    notes = (ASSETS / "leaderboard.md").read_text(encoding="utf-8")
    assert all(date in notes for _, date in real_models.SOURCES.values())


def test_the_table_is_complete_without_a_script(page, board):
    soup = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    rows = soup.select("#published tbody tr")
    assert [row["data-model"] for row in rows] == board.model.tolist() and page.stat().st_size < 1_000_000
    assert {row["data-model"]: row["data-paper"] for row in rows if row["data-paper"]} == REAL_NAMES
    (row,) = [row for row in rows if row["data-model"] == "resnet50.tv_in1k"]
    assert [cell.text for cell in row.select("td")].count("–") == 1  # no value on A
    assert "timm 2025-10-30" in row.th.text and "n = 7,500" in soup.select_one("[data-key=imagenet_a]").text
    lines = unquote(soup.select_one("#csv")["href"].partition(",")[2]).splitlines()
    assert len(lines) == 301 and lines[0].endswith("imagenet_sketch_high,published")


HITS = "[...document.querySelectorAll('#best button')].map((b) => b.textContent)"
SHOWN = "[...document.querySelectorAll('#published tbody tr')].filter((r) => !r.hidden).map((r) => r.dataset.model)"
SAID = "document.getElementById('answer').textContent"


@pytest.mark.browser
def test_first_screen_answers_as_python_does(page, board, chromium):
    for width, height in ((1280, 900), (390, 844)):
        chromium.open(page, width=width, height=height)
        assert chromium.run(f"return {SAID}").startswith("Of 90 models (Parameters in M, at most 50), caformer_s36")
        assert chromium.run("return document.getElementById('answer').getBoundingClientRect().bottom") < height
        assert chromium.run("return document.querySelector('.ba-scroll').scrollWidth <= document.body.clientWidth")
    for measure, budget in (("imagenet_a", 50), ("imagenet_1k", 100), ("imagenet_sketch", 30), ("imagenet_v2", 1000)):
        chromium.open(page, fragment=f"#y={measure}&params_m={budget}")
        first = real_models.leaders(board, measure, budget)
        notes = chromium.run("return [...document.querySelectorAll('#best small')].map((s) => s.textContent)")
        assert sum(", ties" in note or ", leads" in note for note in notes) == min(len(first), 10)
        assert ("tie on" in chromium.run(f"return {SAID}")) == (len(first) > 1)
    assert chromium.trouble == []


@pytest.mark.browser
def test_filters_search_csv_and_address(page, board, chromium):
    chromium.open(page, fragment="#params_m=&licence=mit&gpu=2000&sort=gmacs+ascending")
    fit = board[(board.licence == "mit") & (board.gpu >= 2000)]
    assert chromium.run(f"return {SHOWN}") == fit.sort_values("gmacs", kind="stable").model.tolist()[:25]
    chromium.run("const f = document.querySelector('[name=find]'); f.value = 'SWIN base';"
                 "f.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    hits = fit[fit.model.str.contains("swin") & fit.model.str.contains("base")].model.tolist()
    assert sorted(chromium.run(f"return {HITS}")) == sorted(hits) == sorted(chromium.run(f"return {SHOWN}"))
    assert chromium.run("return location.hash") == "#params_m=&find=SWIN+base&gpu=2000&licence=mit&sort=gmacs+ascending"
    script = "const a = document.getElementById('csv'); a.addEventListener('click', (e) => e.preventDefault());"
    lines = unquote(chromium.run(f"{script} a.click(); return a.href").partition(",")[2]).splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == chromium.run(f"return {SHOWN}")
    chromium.run("document.getElementById('all-models').click()")
    assert chromium.run("return document.getElementById('shown').textContent") == ": 25 shown of 300 that fit, of 300"
    chromium.open(page, fragment="#find=nothing-like-it")
    assert chromium.run(f"return {SAID}") == "No published model fits: widen a filter." and not chromium.trouble


@pytest.mark.browser
def test_keys_walk_over_the_points_and_zoom(page, chromium):
    chromium.open(page, fragment="#params_m=&x=imagenet_1k&family=hybrid")
    chromium.run("document.getElementById('plot').focus()")
    chromium.press("ArrowLeft", 37)
    first = chromium.run("return document.getElementById('near').textContent")
    chromium.press("ArrowLeft", 37)
    assert first != chromium.run("return document.getElementById('near').textContent") and "licence" in first
    count = "return document.querySelectorAll('#plot g:not(.out)').length"
    assert chromium.run("return document.querySelectorAll('#published .near, #plot .near').length") == 2
    before = chromium.run(count)
    chromium.press("+")
    chromium.press("+")
    zoomed, address = chromium.run(count), chromium.run("return location.hash")
    assert 0 < zoomed < before and "zoom=" in address
    chromium.open(page, fragment=address)
    assert chromium.run(count) == zoomed
    chromium.open(page, fragment="#params_m=&x=imagenet_1k")
    names = chromium.run("return [...document.querySelectorAll('#plot text')].map((t) => t.textContent)")
    assert set(REAL_NAMES.values()) <= set(names)
    assert complaints(chromium, page, axe_source()) == [] == complaints(chromium, page, axe_source(), dark=True)
