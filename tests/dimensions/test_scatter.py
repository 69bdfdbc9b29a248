import re

import bs4
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import landscape, scatter

XS = [scatter.Axis("imagenet_1k", "ImageNet (%)"), scatter.Axis("params_m", "parameters", percent=False)]
YS = [scatter.Axis("imagenet_r", "R (%)"), scatter.Axis("imagenet_a", "A (%)")]
NONE = pd.DataFrame(columns=["model", "family", "paradigm"])


@pytest.fixture(scope="module")
def board():
    return scatter.points(published.leaderboard(), NONE)


def page(frame):
    text = scatter.explorer(frame, XS, YS, "demo", "A caption.")
    return text, bs4.BeautifulSoup(text, "html.parser")


def test_every_model_is_a_named_point(board):
    _, soup = page(board)
    titles = [point.title.text for point in soup.select(".p")]
    assert len(titles) == 300
    named = [t for t in titles if t.startswith("ViT-B-16/laion400m_e31 (the paper's ViT, CLIP)")]
    assert len(named) == 1 and "R 77.8 %" in named[0] and "clip on laion400m" in named[0]


def test_points_lie_where_their_numbers_say(board):
    """Read positions back from the picture: they must be affine in the log-odds of the accuracies."""
    _, soup = page(board)
    by_name = {point.title.text.split(":")[0].split(" (")[0]: point["style"] for point in soup.select(".p")}
    rows = board[board.imagenet_a.notna()]
    for variable, column in (("x0", "imagenet_1k"), ("y0", "imagenet_r"), ("y1", "imagenet_a")):
        at = [float(re.search(rf"--{variable}:(-?[\d.]+)px", by_name[m]).group(1)) for m in rows.model]
        share = rows[column] / 100
        assert abs(np.corrcoef(at, np.log(share / (1 - share)))[0, 1]) > 0.9999
    up = [float(re.search(r"--y0:(-?[\d.]+)px", by_name[m]).group(1)) for m in rows.model]
    assert np.corrcoef(up, rows.imagenet_r)[0, 1] < -0.9  # higher accuracy is higher up


def test_missing_values_have_no_place(board):
    _, soup = page(board)
    point = next(p for p in soup.select(".p") if p.title.text.startswith("resnet50.tv_in1k"))
    assert "--y0:" in point["style"] and "--y1:" not in point["style"]


def test_axes_switch_without_a_script(board):
    text, soup = page(board)
    radios = soup.select("input[type=radio]")
    assert [r["id"] for r in radios if r.has_attr("checked")] == ["demo-y0", "demo-x0"] and len(radios) == 4
    for x in range(2):
        for y in range(2):
            assert f"#demo:has(#demo-x{x}:checked):has(#demo-y{y}:checked) .p{{transform:" in text
    assert len(soup.select("g.axis")) == 4
    assert all(fieldset.legend.text for fieldset in soup.select("fieldset"))


def test_nothing_is_loaded_and_nothing_is_injected(board):
    evil = board.head(3).copy()
    evil["model"] = ['<script>alert("x")</script>', "a' onload='x", "b&c"]
    text, soup = page(evil)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert len(soup.select("script")) == 1
    assert soup.select(".p")[0].title.text.startswith(('<script>alert("x")', "a' on", "b&c"))


def test_own_runs_are_stars(board):
    own = board.head(1).assign(model="mine", marked="this run", params_m=np.nan)
    _, soup = page(pd.concat([board, own], ignore_index=True))
    last = soup.select(".p")[-1]
    assert last.title.text.startswith("mine (this run)") and "--x1" not in last["style"]
    assert "this run" in soup.select_one(".ba-key").text


def test_an_axis_without_numbers_is_refused(board):
    with pytest.raises(ValueError, match="no model has imagenet_a"):
        page(board[board.model == "resnet50.tv_in1k"])


def test_details_name_what_is_known():
    text = scatter.points(published.leaderboard().tail(1), NONE).detail.iloc[0]
    assert "ImageNet" in text and "87.8" in text and "clip on commonpool_s" in text
    own = pd.DataFrame({"model": ["m"], "paradigm": ["clip"], "imagenet_1k": [66.0], "params_m": [np.nan]})
    assert scatter.points(published.leaderboard().head(1), own).detail.iloc[1] == "ImageNet 66.0 %, clip"


def test_published_figure_has_marks_and_own_runs():
    frame = published.leaderboard()
    own = pd.DataFrame({"model": ["mine"], "imagenet_1k": [80.0], "imagenet_r": [50.0]})
    baseline = (frame.paradigm == "supervised") & (frame.pretrain_data == "in1k")
    fig, words = scatter.published(frame[scatter.DRAWN], None, baseline, own)
    names = [landscape.NAMES[y] for y in landscape.ROBUSTNESS]
    stars = {n: [li for li in ax.lines if li.get_marker() == "*"] for n, ax in zip(names, fig.axes, strict=True)}
    assert len(stars["R"]) == 1 and not stars["A"] and stars["R"][0].get_ydata()[0] == pytest.approx(0)  # 50 %
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert {"ViT, supervised", "ConvNeXt, CLIP", "this run", "CLIP, zero-shot"} <= set(labels)
    assert "ViT, CLIP" in words
