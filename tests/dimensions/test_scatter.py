import re

import bs4
import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import plots_landscape, scatter

XS = [scatter.percent_axis("imagenet_1k", "ImageNet (%)"), scatter.size_axis("params_m", "parameters")]
YS = [scatter.percent_axis("imagenet_r", "R (%)"), scatter.percent_axis("imagenet_a", "A (%)")]


@pytest.fixture(scope="module")
def board():
    frame = published.leaderboard()
    frame["marked"] = frame.model.map({row: name for name, row in published.CHECKPOINTS.items()}).fillna("")
    return frame.assign(detail=plots_landscape.point_details(frame))


def page(frame, **options):
    text = scatter.scatter_html(frame, XS, YS, name="demo", alt="models", caption="A caption.", **options)
    return text, bs4.BeautifulSoup(text, "html.parser")


def test_every_model_is_a_named_point(board):
    _, soup = page(board)
    titles = [point.title.text for point in soup.select(".p")]
    assert len(titles) == 300
    named = [t for t in titles if t.startswith("ViT-B-16/laion400m_e31 (vit_clip)")]
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


def test_scaled_outlines():
    assert scatter._scaled("M0,-6L6,0z", 2) == "M0,-12L12,0z"
    assert scatter._scaled(scatter._SHAPES["o"], 2) == "M-10,0a10,10 0 1,0 20,0a10,10 0 1,0 -20,0z"
