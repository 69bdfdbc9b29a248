"""The live panels: which sets and models they offer, pages of images, one's own pictures."""

import io
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy import explore
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import Page


def test_a_folder_of_ones_own_pictures(toy):
    toy.checkpoint()
    toy.images(2)
    page = Page(toy.profile(), "models", Store(toy.store), {"device": "cpu"})
    folder = toy.root / "mine"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: the red left half becomes the top
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :150, 0] = wide[:, 150:, 1] = 200
    Image.fromarray(wide).save(folder / "turned.png", exif=exif)
    Image.fromarray(wide).save(folder / "wide.png")
    (folder / "._turned.png").write_bytes(b"x")
    (folder / "empty.png").write_bytes(b"")
    for k in range(30):
        Image.new("RGB", (20, 20), (0, 0, 200)).save(folder / f"z{k:02d}.bmp")
    pictures, rest = explore.read_folder(folder)
    assert len(pictures) == 24 and rest == 9
    assert [name for name, _ in pictures[:4]] == ["empty.png", "turned.png", "wide.png", "z00.bmp"]
    inside, _ = explore.read_folder(toy.data / "images")  # class folders
    assert [name for name, _ in inside] == sorted(f"{c}/{c}00{k}.png" for c in ("red", "green", "blue") for k in (0, 1))
    panel = explore.own_images(page, "images")
    (upload, path), below = panel.children[0].children, panel.children[1]
    path.value = str(folder)
    bad, *shown, rest = below.children
    assert bad.value == "empty.png: cannot be decoded (UnidentifiedImageError), left out"
    assert rest.value == "not shown of the folder: 9 more images" and len(shown) == 23
    for box, size, corner in ((shown[0], (48, 144), (24, 143)), (shown[1], (144, 48), (143, 24))):
        thumbnail, picture = box.children[0], Image.open(io.BytesIO(box.children[0].value))
        assert (picture.size, thumbnail.width, thumbnail.height) == (size, str(size[0]), "")  # not stretched
        assert picture.getpixel((9, 9)) == (200, 0, 0) and picture.getpixel(corner) == (0, 200, 0)
    # a file of one's own that is called as one of the folder
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 0, 0)).save(buffer, "BMP")
    about = {"name": "z00.bmp", "type": "", "size": buffer.tell(), "last_modified": datetime.now(UTC)}
    upload.value = (about | {"content": memoryview(buffer.getvalue())},)
    found = [box.children[1].value for box in below.children[:-1] if isinstance(box, widgets.HBox)]
    found = [text for text in found if "z00.bmp" in text]
    assert ["red" in text.partition("%")[0] for text in found] == [True, False]


def test_panels_offer_titles_and_only_sets_that_models_answer(toy):
    toy.checkpoint()
    toy.checkpoint("blind", scale=0.0)  # red, whatever it sees
    toy.images(5)
    content = toy.content({n: {"source": "timm", "name": f"local-dir:{toy.root / n}"} for n in ("colour", "blind")})
    content["models"]["colour"]["label"] = "Colour net"
    content["datasets"]["images"]["title"] = "Three colours"
    (toy.data / "bad" / "red").mkdir(parents=True)
    (toy.data / "bad" / "red" / "a.png").write_bytes(b"")
    content["datasets"]["bad"] = content["datasets"]["images"] | {"path": str(toy.data / "bad"), "title": "Bad"}
    content["datasets"]["digits"] = {"reader": "digits", "classes": ""}  # probed only: it has no class space
    page = Page(toy.profile(content), "models", Store(toy.store), {"device": "cpu"})
    panel = explore.image_browser(page)
    (dataset, model, kind, _, number), below = panel.children[0].children, panel.children[1]
    assert dataset.options == (("Three colours", "images"), ("Bad", "bad"))
    assert model.options == (("Colour net", "colour"), ("blind", "blind"))
    assert below.children[0].children[0].value == "no such images"  # confident mistakes
    kind.value = "models disagree"
    answers = {card.children[1].value.partition("<br><small>")[0] for card in below.children[0].children[1].children}
    right = ("green", "blue")
    said = r"{0} → <br>Colour net: <b>{0}</b> \d+%<br>blind: <b>red</b> 33%"
    assert all(any(re.fullmatch(said.format(name), text) for name in right) for text in answers), answers
    kind.value = "random"
    number.value = 9  # beyond the last page: the last
    caption, cards = below.children[0].children
    assert caption.value == "images 13 to 15 of 15; page 2 of 2"
    assert all("<small>" in card.children[1].value for card in cards.children)
    assert {card.children[0].width for card in cards.children} <= {"21", "22", "23", "24"}
    dataset.value = "bad"
    assert "&#x27;red/a&#x27;" in below.children[0].value and len(below.children) == 1  # a message in their place
    with pytest.raises(InputError, match="images has no 'factor' in its metadata"):
        explore.factor_panel(page, "images")
    drawn = []  # what is drawn, before it becomes a picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore.plt, "close", drawn.append)
        chart = explore.reliability_panel(page)
        chart.children[0].children[2].value = 2
    (picture,) = chart.children[1].children
    assert Image.open(io.BytesIO(picture.value)).width // 2 == int(picture.width) > 500
    axes = [figure.axes[0] for figure in reversed(drawn)]
    titles = [ax.get_title() or ax.get_title("left") for ax in axes]  # where the theme puts it
    assert all(re.fullmatch(r"Colour net: ECE 0\.\d{4}, accuracy 100.0%, n = 15", title) for title in titles), titles
    bars = [len(ax.containers[0].lines[2][0].get_segments()) for ax in axes]
    assert 1 == bars[0] < bars[1]  # bins that hold images, of 2 and of 15


def test_images_of_a_kind_by_hand():
    """Model a errs at 0, 2 and 3, b at 0 and 1."""
    runs = {}
    for name, pred, confidence in (("a", [1, 0, 1, 0], [0.6, 0.5, 0.7, 0.8]), ("b", [1, 1, 0, 1], [0.9] * 4)):
        frame = pd.DataFrame({"id": list("wxyz"), "target": [0, 0, 0, 1], "pred": pred, "confidence": confidence})
        runs[name] = Predictions(name, "d", "none", frame, None, None, {})
    found = {kind: "".join(explore.select(runs, "a", kind)["id"]) for kind in explore.KINDS[:-1]}
    assert list(found.values()) == ["zyw", "zyx", "w", "x"]
    assert explore.select(runs, "a", "confident mistakes", 1).index.tolist() == [3]


def test_networks_run_before_there_is_a_widget(toy, monkeypatch):
    """Else JupyterLab shows nothing for minutes, and then that a model is not found."""
    toy.checkpoint()
    toy.images(2)
    page, order = Page(toy.profile(), "models", Store(toy.store), {"device": "cpu"}), []
    table = page.metadata("images").assign(factor="pose", level="low")
    monkeypatch.setattr(page, "metadata", lambda *_: table)
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
    table = pd.DataFrame({"factor": "camera_yaw", "level": ["low"] * 100 + ["high"] * 20}, pd.Index(ids, name="id"))
    right = np.r_[np.arange(100) < 60, np.ones(20, bool)]
    spec = ModelSpec("m", "timm", "x", label="M")
    study = SimpleNamespace(specs=[spec], spec=lambda _: spec, metadata=lambda *_: table)
    study.predictions = lambda _: {"m": SimpleNamespace(ids=ids, correct=right)}
    monkeypatch.setattr(explore.plt, "close", (shown := []).append)
    panel = explore.factor_panel(study, "sweeps")
    (ax,) = shown[0].axes
    assert panel.children[0].children[0].options == (("camera yaw", "camera_yaw"),) and ax.get_xlabel() == "camera yaw"
    (low, _) = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([*ax.lines[0].get_ydata(), *low[:, 1]], [60, 100, 50.2, 69.06], atol=0.01)
    assert (ax.get_title() or ax.get_title("left")) == "n = 20 to 100 images a level"  # where the theme puts it
