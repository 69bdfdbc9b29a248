import re

import bs4
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import landscape, scatter

XS = [scatter.Axis("imagenet_1k", "ImageNet (%)"), scatter.Axis("params_m", "parameters", percent=False)]
YS = [scatter.Axis("imagenet_r", "R (%)"), scatter.Axis("imagenet_a", "A (%)")]
LEADERBOARD = published.leaderboard()
BOARD = scatter.points(LEADERBOARD, pd.DataFrame(columns=["model", "family", "paradigm"]))


def page(frame=BOARD):
    text = scatter.explorer(frame, XS, YS, "demo", "A caption.")
    return text, bs4.BeautifulSoup(text, "html.parser")


def test_every_model_is_a_named_point():
    titles = [point.title.text for point in page()[1].select(".p")]
    assert len(titles) == 300
    (named,) = [t for t in titles if t.startswith("ViT-B-16/laion400m_e31 (the paper's ViT, CLIP)")]
    assert "R 77.8 %" in named and "clip on laion400m" in named


def test_points_lie_where_their_numbers_say():
    """Read positions back from the picture: they must be affine in the log-odds of the accuracies."""
    by_name = {point.title.text.split(":")[0].split(" (")[0]: point["style"] for point in page()[1].select(".p")}
    rows = BOARD[BOARD.imagenet_a.notna()]
    for variable, column in (("x0", "imagenet_1k"), ("y0", "imagenet_r"), ("y1", "imagenet_a")):
        at = [float(re.search(rf"--{variable}:(-?[\d.]+)px", by_name[m]).group(1)) for m in rows.model]
        sign = 1 if variable == "x0" else -1  # higher accuracy is higher up
        assert sign * np.corrcoef(at, np.log(rows[column] / (100 - rows[column])))[0, 1] > 0.9999
    assert "--y0:" in by_name["resnet50.tv_in1k"] and "--y1:" not in by_name["resnet50.tv_in1k"]  # no value, no place


def test_axes_switch_without_a_script():
    text, soup = page()
    radios = soup.select("input[type=radio]")
    assert [r["id"] for r in radios if r.has_attr("checked")] == ["demo-y0", "demo-x0"] and len(radios) == 4
    for x, y in np.ndindex(2, 2):
        assert f"#demo:has(#demo-x{x}:checked):has(#demo-y{y}:checked) .p{{transform:" in text
    assert len(soup.select("g.axis")) == 4 and all(fieldset.legend.text for fieldset in soup.select("fieldset"))


def test_nothing_is_loaded_and_nothing_is_injected():
    text, soup = page(BOARD.head(3).assign(model=['<script>alert("x")</script>', "a' onload='x", "b&c"]))
    assert "http" not in text.replace("http://www.w3.org", "") and len(soup.select("script")) == 1
    assert soup.select(".p")[0].title.text.startswith(('<script>alert("x")', "a' on", "b&c"))


def test_own_runs_are_stars():
    own = BOARD.head(1).assign(model="mine", marked="this run", params_m=np.nan)
    _, soup = page(pd.concat([BOARD, own], ignore_index=True))
    last = soup.select(".p")[-1]
    assert last.title.text.startswith("mine (this run)") and "--x1" not in last["style"]
    assert "this run" in soup.select_one(".ba-key").text


def test_an_axis_without_numbers_is_refused():
    with pytest.raises(ValueError, match="no model has imagenet_a"):
        page(BOARD[BOARD.model == "resnet50.tv_in1k"])


def test_details_name_what_is_known():
    text = BOARD.detail.iloc[-1]
    assert "ImageNet" in text and "87.8" in text and "clip on commonpool_s" in text
    own = pd.DataFrame({"model": ["m"], "paradigm": ["clip"], "imagenet_1k": [66.0], "params_m": [np.nan]})
    assert scatter.points(LEADERBOARD.head(1), own).detail.iloc[1] == "ImageNet 66.0 %, clip"


def test_published_figure_has_marks_and_own_runs():
    own = pd.DataFrame({"model": ["mine"], "imagenet_1k": [80.0], "imagenet_r": [50.0]})
    baseline = (LEADERBOARD.paradigm == "supervised") & (LEADERBOARD.pretrain_data == "in1k")
    fig, words = scatter.published(LEADERBOARD[scatter.DRAWN], None, baseline, own)
    names = [landscape.NAMES[y] for y in landscape.ROBUSTNESS]
    stars = {n: [li for li in ax.lines if li.get_marker() == "*"] for n, ax in zip(names, fig.axes, strict=True)}
    assert len(stars["R"]) == 1 and not stars["A"] and stars["R"][0].get_ydata()[0] == pytest.approx(0)  # 50 %
    labels = {text.get_text() for text in fig.legends[0].get_texts()}
    assert {"ViT, supervised", "ConvNeXt, CLIP", "this run", "CLIP, zero-shot"} <= labels and "ViT, CLIP" in words
