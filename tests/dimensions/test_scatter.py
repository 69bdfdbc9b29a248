import pandas as pd
import pytest

from beyond_accuracy.data import published
from beyond_accuracy.dimensions import landscape, scatter

LEADERBOARD = published.leaderboard()


def test_published_figure_has_marks_and_own_runs():
    own = pd.DataFrame({"model": ["mine"], "imagenet_1k": [80.0], "imagenet_r": [50.0]})
    baseline = (LEADERBOARD.paradigm == "supervised") & (LEADERBOARD.pretrain_data == "in1k")
    fig, words = scatter.published(LEADERBOARD[scatter.DRAWN], None, baseline, own)
    names = [landscape.NAMES[y] for y in landscape.ROBUSTNESS]
    stars = {n: [li for li in ax.lines if li.get_marker() == "*"] for n, ax in zip(names, fig.axes, strict=True)}
    assert len(stars["R"]) == 1 and not stars["A"] and stars["R"][0].get_ydata()[0] == pytest.approx(0)  # 50 %
    labels = {text.get_text() for text in fig.legends[0].get_texts()}
    assert {"DeiT3-B/16", "CLIP ConvNeXt-B", "this run", "CLIP, zero-shot"} <= labels and "CLIP ViT-B/16" in words
