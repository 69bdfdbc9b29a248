"""The live panels: which sets and models they offer, pages of images, one's own pictures."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy import explore
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import Page


def test_a_folder_of_ones_own_pictures(toy, capsys):
    toy.checkpoint()
    toy.images(2)
    page = Page(toy.profile(), "models", Store(toy.store), {"device": "cpu"})
    folder = toy.root / "mine"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: the red left half, cut off by the square crop, becomes the top
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, :32, 0] = wide[:, 32:, 1] = 200
    Image.fromarray(wide).save(folder / "turned.png", exif=exif)
    (folder / "._turned.png").write_bytes(b"x")
    (folder / "empty.png").write_bytes(b"")
    for k in range(30):
        Image.new("RGB", (20, 20), (0, 0, 200)).save(folder / f"z{k:02d}.bmp")
    pictures, rest = explore.read_folder(folder)
    assert len(pictures) == 24 and rest == 8
    assert [name for name, _ in pictures[:3]] == ["empty.png", "turned.png", "z00.bmp"]
    inside, _ = explore.read_folder(toy.data / "images")  # class folders
    assert [name for name, _ in inside] == sorted(f"{c}/{c}00{k}.png" for c in ("red", "green", "blue") for k in (0, 1))
    panel = explore.own_images(page, "images")
    panel.children[0].children[1].value = str(folder)
    said = capsys.readouterr().out
    assert "empty.png: cannot be decoded (UnidentifiedImageError), left out" in said
    assert "8 more images of the folder are not shown" in said and said.count("HBox") == 23


def test_panels_offer_titles_and_only_sets_that_models_answer(toy):
    toy.checkpoint()
    toy.images(5)
    content = toy.content()
    content["models"]["colour"]["label"] = "Colour net"
    content["datasets"]["images"]["title"] = "Three colours"
    content["datasets"]["digits"] = {"reader": "digits", "classes": ""}  # probed only: it has no class space
    page = Page(toy.profile(content), "models", Store(toy.store), {"device": "cpu"})
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "display", shown.append)
        panel = explore.image_browser(page)
        dataset, model, kind, _, number = panel.children[0].children
        assert dataset.options == (("Three colours", "images"),) and model.options == (("Colour net", "colour"),)
        kind.value = "random"
        number.value = 9  # beyond the last page: the last
    assert shown[-1].children[0].value == "15 images; 13 to 15; 2 pages"
    assert all("<small>" in card.children[1].value for card in shown[-1].children[1].children)
    assert {card.children[0].width for card in shown[-1].children[1].children} <= {"21", "22", "23", "24"}


def test_networks_run_before_there_is_a_widget(toy, monkeypatch):
    """Else JupyterLab shows nothing for minutes, and then that a model is not found."""
    toy.checkpoint()
    toy.images(2)
    page, order = Page(toy.profile(), "models", Store(toy.store), {"device": "cpu"}), []
    table = page.metadata("images").assign(factor="pose", level="low")
    monkeypatch.setattr(page, "metadata", lambda _: table)
    monkeypatch.setattr(explore, "display", lambda _: None)
    for owner, name in ((page, "predictions"), (explore.widgets, "Dropdown")):
        original = getattr(owner, name)
        told = lambda *a, name=name, original=original, **k: order.append(name) or original(*a, **k)  # noqa: E731
        monkeypatch.setattr(owner, name, told)
    for panel in (explore.reliability_panel, explore.image_browser, lambda page: explore.factor_panel(page, "images")):
        order.clear()
        panel(page)
        assert order[:2] == ["predictions", "Dropdown"]


def test_a_factor_s_levels_have_intervals_and_counts(monkeypatch):
    """Of a hundred images sixty right: 60 [50.2, 69.1] %, by Wilson."""
    ids = np.array([f"{k:03d}" for k in range(120)])
    table = pd.DataFrame({"factor": "pose", "level": ["low"] * 100 + ["high"] * 20}, index=pd.Index(ids, name="id"))
    right = np.r_[np.arange(100) < 60, np.ones(20, bool)]
    spec = ModelSpec("m", "timm", "x", label="M")
    study = SimpleNamespace(specs=[spec], spec=lambda _: spec, metadata=lambda _: table)
    study.predictions = lambda _: {"m": SimpleNamespace(ids=ids, correct=right)}
    monkeypatch.setattr(explore, "display", (shown := []).append)
    explore.factor_panel(study, "sweeps")
    (ax,) = shown[0].axes
    (low, _) = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([*ax.lines[0].get_ydata(), *low[:, 1]], [60, 100, 50.2, 69.06], atol=0.01)
    assert (ax.get_title() or ax.get_title("left")) == "n = 20 to 100 images a level"  # where the theme puts it
