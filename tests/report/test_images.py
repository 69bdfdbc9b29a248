"""The error browser: what is picked, from the store only, with pictures where they may be shown, everything escaped."""

import base64
import io
import re
from urllib.parse import parse_qsl

import bs4
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report import images
from builders import whole_page


def run(pred, confidence, target=(0, 0, 0, 0, 1, 1)):
    frame = pd.DataFrame({"id": [f"i{k}" for k in range(len(pred))], "target": list(target)[: len(pred)]})
    frame = frame.assign(pred=pred, confidence=confidence, target_probability=0.0)
    return Predictions("m", "d", "none", frame, None, None, {})


A = run([1, 0, 1, 0, 1, 0], [0.6, 0.9, 0.8, 0.5, 0.9, 0.7])  # wrong at 0, 2, 5
B = run([1, 0, 0, 1, 1, 1], [0.7, 0.9, 0.6, 0.4, 0.9, 0.8])  # wrong at 0, 3
C = run([0, 0, 0, 0, 0, 1], [0.5] * 6)  # wrong at 4


def spots(found):
    return [(pick.position, pick.models) for pick in found]


def test_confident_mistakes_by_hand():
    assert spots(images.confident_mistakes({"a": A, "b": B}, 2)) == [(2, ("a",)), (5, ("a",)), (0, ("b",)), (3, ("b",))]
    assert spots(images.confident_mistakes({"a": A, "b": B}, 9))[2] == (0, ("a", "b"))
    perfect = run([0, 0, 0, 0, 1, 1], [0.9] * 6)
    assert images.confident_mistakes({"a": perfect}, 3) == []


def test_disagreements_by_hand():
    found = images.disagreements({"a": A, "b": B, "c": C}, 9)
    wrong = {(position, (model,), "only one wrong") for position, model in ((2, "a"), (5, "a"), (3, "b"), (4, "c"))}
    assert {(p.position, p.models, p.factor) for p in found} == {(0, ("c",), "only one right")} | wrong
    two = images.disagreements({"a": A, "b": B}, 9)
    assert spots(two) == [(3, ("a",)), (5, ("b",)), (2, ("b",))] and {p.factor for p in two} == {"only one right"}
    assert images.disagreements({"a": A}, 9) == []


def test_cue_decisions_by_hand():
    cues = {"shape": ["cat", "cat", "dog", "cat"], "texture": ["dog", "dog", "cat", "cat"]}
    decisions = {"a": np.array(["cat", "dog", "car", "cat"])}
    found = images.cue_decisions(decisions, {"a": [0.5, 0.6, 0.7, 0.8]}, cues, 3)
    assert [(p.position, p.factor) for p in found] == [(0, "by shape"), (1, "by texture"), (2, "by neither")]


def test_hard_levels_by_hand():
    factor = ["yaw", "yaw", "yaw", "yaw", "light_x", "light_x"]
    level = ["0", "0", "90", "90", "dim", "dim"]
    found = images.hard_levels({"a": A, "b": B}, factor, level, 1)
    # yaw: half of the answers are right at both levels, the first counts; both miss image 0. light: only a misses 5.
    hardest = [(0, ("a", "b"), "yaw = 0"), (5, ("a",), "light x = dim")]
    assert [(p.position, p.models, p.factor) for p in found] == hardest


def test_images_of_a_factor_are_those_that_most_miss():
    mask = np.array([1, 0, 1, 1, 0, 0], bool)
    found = images.missed({"a": A, "b": B, "c": C}, mask, 2, "pose")  # both miss 0; 2 (a, at 0.8) before 3 (b, at 0.4)
    assert [(p.position, p.models, p.factor) for p in found] == [(0, ("a", "b"), "pose"), (2, ("a",), "pose")]


def test_flips_by_hand():
    changed = run([1, 1, 0, 1, 1, 0], [0.5, 0.6, 0.7, 0.9, 0.5, 0.5])
    assert spots(images.flips({"a": A}, {"a": changed}, 5, "scale 2")) == [(3, ("a",)), (1, ("a",))]
    assert images.flips({"a": A}, {}, 5, "scale 2") == []


# The page over a store -----------------------------------------------------------------------------------------------


def toy_content(toy, **more):
    toy.images(4)
    toy.checkpoint("colour")
    toy.checkpoint("blind", scale=0.0)  # always answers red
    models = {name: {"source": "timm", "name": f"local-dir:{toy.root / name}"} for name in ("colour", "blind")}
    content = toy.content({name: model | {"label": f"<b>{name}</b>"} for name, model in models.items()}) | more
    content["datasets"]["images"]["title"] = "Colours <i>"
    content["dimensions"] = {"models": {"clean": "images"}, "invariance": {"clean": "images", "transforms": ["hflip"]}}
    return content


def page_of(toy, content):
    toy.outputs(content).predictions("images", ["none", "hflip=1"])
    return images.body(toy.profile(content), {"device": "cpu"})


def test_the_page_shows_pictures_of_a_synthetic_world(toy):
    body = page_of(toy, toy_content(toy, synthetic=True))
    soup = bs4.BeautifulSoup(body.html, "html.parser")
    cards = soup.select("section:has(#mistakes) .ba-shot")
    assert len(cards) == 4 and {card["data-models"] for card in cards} == {"blind"}
    assert {card["data-classes"] for card in cards} <= {"green", "blue"}
    assert "✗ <b>blind</b>: red 33%" in cards[0].text and "✓ <b>colour</b>" in cards[0].text
    assert soup.select_one("option[value=blind]").text == "<b>blind</b>" and not soup.select("i")
    for image in soup.select("img"):
        assert image["alt"].endswith("from Colours <i>") and image["loading"] == "lazy"
    picture = Image.open(io.BytesIO(base64.b64decode(soup.img["src"].split(",")[1])))
    assert picture.format == "WEBP" and max(picture.size) <= images.SIDE
    assert not re.search(r"https?://", body.html)
    assert "There are none in this report." in soup.select_one("section:has(#cues)").text


def test_other_data_stay_out_unless_asked_for(toy):
    content = toy_content(toy)
    soup = bs4.BeautifulSoup(page_of(toy, content).html, "html.parser")
    assert not soup.select("img") and soup.select(".ba-shot") and "thumbnails: true" in soup.select_one(".ba-note").text
    content["datasets"]["images"]["options"] = {"thumbnails": True}
    body = page_of(toy, content)
    assert "<img" in body.html and "ba-note" not in body.html


def test_nothing_is_run_for_the_page(toy, toy_networks):
    content = toy_content(toy, synthetic=True)
    body = images.body(toy.profile(content), {"device": "cpu"})
    assert toy_networks.CALLS == []
    assert "There are no images to look at yet" in body.html and "images: no stored predictions of colour" in body.html
    outputs = Outputs(toy.profile(content), Store(toy.store), {"device": "cpu"}, run=False)
    with pytest.raises(DataMissing, match="build its page first"):
        outputs.predictions("images", ["none"])


def test_the_page_stays_light(toy, monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 600)
    body = page_of(toy, toy_content(toy, synthetic=True))
    assert 1 <= body.html.count('class="ba-shot"') < 5
    assert re.search(r"\d+ more (was|were) left out to keep this page light", body.html)


def test_links_and_choices_lead_to_images_however_few_are_shown(toy, monkeypatch):
    content = toy_content(toy, synthetic=True)
    content["dimensions"]["invariance"]["transforms"] = ["noise", "jpeg"]
    for path in (toy.data / "images").rglob("*.png"):  # so near to grey that both change answers
        pixels = np.full((20, 20, 3), 120, np.uint8)
        pixels[..., ["red", "green", "blue"].index(path.parent.name)] += 1
        Image.fromarray(pixels).save(path)
    toy.outputs(content).predictions("images", ["none", "noise=0.02", "noise=0.2", "jpeg=90", "jpeg=10"])
    whole = images.body(toy.profile(content), {"device": "cpu"})
    assert set(whole.links["invariance"]) == {"noise", "JPEG"} and not re.search("left out", whole.html)
    weight, kept = sum(map(len, re.findall(r'src="([^"]+)', whole.html))), []
    for share in (1, 0.6, 0.3, 0.1):
        monkeypatch.setattr(images, "MOST_BYTES", share * weight)
        body = images.body(toy.profile(content), {"device": "cpu"})
        soup = bs4.BeautifulSoup(body.html, "html.parser")
        wanted = [dict(parse_qsl(href.partition("#")[2])) for page in body.links.values() for href in page.values()]
        wanted += [{menu["name"]: o["value"]} for menu in soup.select("select") for o in menu.select("option")[1:]]
        for one in wanted:
            assert any(fits(card, one) for card in soup.select(".ba-shot")), one
        kept.append((len(soup.select(".ba-shot")), body.links == whole.links))
    assert kept[0][0] > kept[1][0] and [whole for _, whole in kept] == [True, True, False, False]


def fits(card, wanted):
    """Whether `images.js` would show a picture."""
    section = card.find_parent("section").h2["id"]
    shown = {"section": [section], "model": card["data-models"].split(), "truth": card["data-classes"].split("|")}
    return all(value in (shown | {"factor": [card["data-factor"]]})[name] for name, value in wanted.items())


SCRIPT = """
  const seen = () => [...document.querySelectorAll(".ba-shot")].filter((s) => s.offsetParent !== null).length;
  const set = (name, value) => {
    const select = document.querySelector(`#filters [name=${name}]`);
    select.value = value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
    return [seen(), document.getElementById("shown").textContent];
  };
  return { all: seen(), none: set("model", "colour"), blind: set("model", "blind"), green: set("truth", "green"),
           address: window.location.hash, wide: document.documentElement.scrollWidth };
"""


@pytest.mark.browser
def test_filters(toy, chromium):
    body = page_of(toy, toy_content(toy, synthetic=True))
    path = whole_page(toy.root / "images.html", body, synthetic=True)
    chromium.open(path, width=390)
    found = chromium.run(SCRIPT)
    soup = bs4.BeautifulSoup(body.html, "html.parser")
    cards = [(card["data-models"].split(), card["data-classes"]) for card in soup.select(".ba-shot")]

    def count(model, truth=None):
        number = sum(model in models and truth in (None, shown) for models, shown in cards)
        rest = "." if number else ": nothing was picked for all of this; reset one choice."
        return [number, f"{number} of {len(cards)} images shown{rest}"]

    assert found.pop("address") == "#model=blind&truth=green"
    assert found.pop("wide") <= 390  # less where the page is long enough for a scroll bar
    expected = {"none": count("colour"), "blind": count("blind"), "green": count("blind", "green")}
    assert found == {"all": len(cards)} | expected and chromium.trouble == []
    ways = """const large = document.querySelector("dialog"), shot = document.querySelector(".ba-shot:not([hidden])");
      shot.querySelector(".ba-enlarge").click();
      return [[...document.querySelectorAll(".ba-shot:not([hidden])")].map((s) => s.dataset.models), large.open,
              large.textContent.includes(shot.querySelector("code").textContent)];"""
    chromium.open(path, width=390, fragment="#model=blind&section=mistakes")
    shown, large, named = chromium.run(ways)
    assert len(shown) == 4 and set(shown) == {"blind"} and large and named
