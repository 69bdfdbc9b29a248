"""Every page of a built report in Chromium without a network, at phone width, and the chooser from the keyboard."""

import json

import pytest
from test_choose import page as chooser  # noqa: E402

from beyond_accuracy.base.paths import project_root
from cdp import axe_source, complaints  # noqa: E402 - the folder of tests is on no import path

ROOT = project_root()
# Contrast is checked where every kind of element occurs; on the longest pages it would take most of a minute.
CONTRAST = {"index", "choose", "03_calibration"}

pytestmark = pytest.mark.browser


def built(report):
    folder = ROOT / report
    if not (folder / "index.html").is_file():
        pytest.skip(f"{report} is not built")
    return sorted(folder.glob("*.html"))


@pytest.mark.parametrize("report", ["docs/report", "report/mini"])
def test_every_page_is_whole_accessible_and_fits_a_phone(report, chromium):
    pages = built(report)
    axe = axe_source()
    wrong = {page.name: complaints(chromium, page, axe, contrast=page.stem in CONTRAST) for page in pages}
    wrong["dark"] = complaints(chromium, pages[0].with_name("index.html"), axe, dark=True)
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_check_finds_what_is_wrong(tmp_path, chromium):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><html lang=en><title>t</title><body><main><h1>h</h1><img src='missing.png'>"
        "<p style='color:#ccc;background:#ddd'>pale</p><div style='width:900px'>wide</div></main>"
        "<script>console.error('loud'); fetch('http://example.org/x').catch(() => 0); nothing();</script>"
    )
    found = "\n".join(complaints(chromium, page, axe_source()))
    for words in ("loud", "example.org", "nothing is not defined", "no alt", "scrolls sideways", "color-contrast"):
        assert words in found, words
    assert "image-alt" in found and "missing.png" in found


def test_a_printed_table_can_repeat_its_head(chromium, tmp_path):
    """Chromium repeats no head with a button's box in it."""
    chromium.open(chooser(tmp_path))
    shown = "return getComputedStyle(document.querySelector('th button')).display"
    assert chromium.run(shown) != "contents"
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.run(shown) == "contents"


def test_the_chooser_from_the_keyboard(chromium, tmp_path):
    """Tab reaches the weights, arrows move them, address and spoken answer follow; an address brings its weights."""
    chromium.open(chooser(tmp_path))
    assert chromium.run("return document.querySelector('#choice').getAttribute('aria-live')") == "polite"
    chromium.run("document.querySelector('[data-preset]').focus()")
    seen = []
    for _ in range(8):
        chromium.press("Tab", 9)
        seen.append(chromium.run("return document.activeElement.id"))
        if seen[-1] == "w-accuracy":
            break
    assert seen[-1] == "w-accuracy", seen
    before = chromium.run("return Number(document.activeElement.value)")
    chromium.press("ArrowRight", 39)
    found = chromium.run(
        "await new Promise((done) => setTimeout(done, 400));"
        "return {value: Number(document.activeElement.value), hash: location.hash,"
        " said: document.querySelector('#choice').textContent, flip: document.querySelector('#flip').textContent}"
    )
    assert found["value"] == before + 1 and f"accuracy={before + 1}" in found["hash"], json.dumps(found)
    assert "comes first" in found["said"] and found["flip"].startswith("What would flip it")
    chromium.open(tmp_path / "choose.html", fragment="#ece=90")
    weights = chromium.run("return [...document.querySelectorAll('input[type=range]')].map((i) => [i.name, +i.value])")
    assert {name: value for name, value in weights if value} == {"ece": 90}
    assert chromium.trouble == []
