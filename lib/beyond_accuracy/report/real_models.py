"""The page "Choose among real models": published results as a table, which a script filters, ranks and draws.

Nothing here was measured by this run, so that the page is the same in every profile. Two models tie where a test of two
independent proportions does not tell them apart: their images are the same, but no paired outcomes are published.
"""

from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.data import published
from beyond_accuracy.dimensions.landscape import IMAGES
from beyond_accuracy.inference import plan
from beyond_accuracy.measure.verdicts import LEVEL, joined
from beyond_accuracy.report.html import Body, fragment
from beyond_accuracy.show import results

TITLE = "Choose among real models"
SETS = {  # benchmark -> name, what it is, arXiv
    "imagenet_1k": ("ImageNet", "validation set (Russakovsky et al. 2015)", "1409.0575"),
    "imagenet_v2": ("ImageNet-V2", "matched frequency (Recht et al. 2019)", "1902.10811"),
    "imagenet_a": ("ImageNet-A", "what a ResNet-50 got wrong, 200 classes (Hendrycks et al. 2021)", "1907.07174"),
    "imagenet_r": ("ImageNet-R", "renditions, 200 classes (Hendrycks et al. 2021)", "2006.16241"),
    "imagenet_sketch": ("ImageNet-Sketch", "sketches (Wang et al. 2019)", "1905.13549"),
}  # fmt: skip
SOURCES = {  # where a row's accuracies are from -> file, date of its last change (`assets/leaderboard.md`)
    "timm": ("huggingface/pytorch-image-models, results/", "2025-10-30"),
    "open_clip": ("mlfoundations/open_clip, docs/openclip_results.csv", "2023-11-22"),
}
CARDS = {"gpu": ("NVIDIA RTX 4090", "RTX 4090"), "cpu": ("Intel i9-10940X, 14 cores", "CPU, one at a time")}
COSTS = {"params_m": "M parameters", "gmacs": "GMACs"} | {key: f"images/s, {card[1]}" for key, card in CARDS.items()}
KINDS = {
    "supervised": "labels", "clip": "CLIP, zero-shot", "clip_ft": "CLIP, fine-tuned", "distilled": "distilled",
    "ssl_ft": "self-supervised, fine-tuned", "semi": "pseudo-labels", "weak": "hashtags",
}  # fmt: skip
MEASURE, BUDGET = "imagenet_a", 50  # what the page shows first: accuracy on A within 50 million parameters
UNKNOWN = "not stated here"


def models() -> pd.DataFrame:
    """The leaderboard, highest on A first, with intervals, speeds, `licence`, `paper` (its name there) and `kind`."""
    board = published.leaderboard().sort_values(MEASURE, ascending=False, kind="stable", ignore_index=True)
    licences = pd.read_csv(ASSETS / "licences.csv").set_index("model").licence
    board = board.assign(
        licence=board.model.map(licences).fillna(UNKNOWN),
        paper=board.model.map(published.REAL_NAMES).fillna(""),
        kind=board.paradigm.map(KINDS),
        **{key: published_speed(board, card) for key, (card, _) in CARDS.items()},
    )
    for key in SETS:
        board[f"{key}_low"], board[f"{key}_high"] = interval(board[key], IMAGES[key])
    return board


def interval(percent: ArrayLike, n: int) -> tuple[NDArray, NDArray]:
    """Wilson's 95 % intervals of published accuracies in percent; none where none is published."""
    hits = np.round(np.asarray(percent, float) / 100 * n)
    low, high = proportion_confint(hits, n, alpha=0.05, method="wilson")
    return 100 * low, 100 * high


def published_speed(board: pd.DataFrame, card: str) -> pd.Series:
    """Images per second on a card of each model's architecture at its input side, missing where none is published."""
    rates = plan.published_rates().query("device == @card").set_index(["model", "side"]).images_per_second
    pairs = zip(board.model, board.source, strict=True)
    known = [plan.architecture(ModelSpec(name, source, *name.split("/"))) for name, source in pairs]
    return pd.Series([rates.get(key, np.nan) for key in zip(known, board.img_size, strict=True)], board.index)


def leaders(board: pd.DataFrame, measure: str, budget: float) -> pd.DataFrame:
    """Within a budget of millions of parameters, the model with the highest accuracy and all that tie with it."""
    rows = board[board.params_m <= budget].dropna(subset=[measure]).sort_values(measure, ascending=False, kind="stable")
    n = IMAGES[measure]
    hits = (rows[measure] / 100 * n).round()
    p = [proportions_ztest([hits.iloc[0], hit], [n, n])[1] for hit in hits]
    return rows[np.array(p) >= LEVEL]


def answer(board: pd.DataFrame) -> str:
    """The page's first answer in words."""
    first = leaders(board, MEASURE, BUDGET)
    said = joined([f"{name} ({value:.1f} %)" for name, value in zip(first.model, first[MEASURE], strict=True)])
    return f"With up to {BUDGET} M parameters, {said} {'tie' if len(first) > 1 else 'leads'} on {SETS[MEASURE][0]}."


@cache
def body(landscape: str = "") -> Body:
    """The inside of `models.html`, with a link to the page of the landscape where that was built."""
    board = models()
    columns = ["model", "paper", "source", "family", "kind", "pretrain_data", "licence", "img_size", *COSTS]
    columns += [f"{key}{end}" for key in SETS for end in ("", "_low", "_high")]
    dates = {name: date for name, (_, date) in SOURCES.items()}
    table = results.csv_text(board[columns].assign(published=board.source.map(dates)))
    choices = {"family": "Family", "kind": "Trained with", "pretrain_data": "Pretraining data", "licence": "Licence"}
    choices = {key: (label, board[key].value_counts().to_dict()) for key, label in choices.items()}
    sources = {name: (*about, int((board.source == name).sum())) for name, about in SOURCES.items()}
    ranked = [(key, about[0]) for key, about in SETS.items()]
    rows = board.astype(object).where(board.notna(), None).to_dict("records")
    shown = {"models": rows, "sets": {key: (*about, IMAGES[key]) for key, about in SETS.items()}, "sources": sources}
    shown |= {"costs": COSTS, "cards": CARDS, "choices": choices, "ranked": ranked, "axes": [*COSTS.items(), *ranked]}
    said = {"answer": answer(board), "start": (MEASURE, BUDGET), "level": LEVEL, "csv": table, "landscape": landscape}
    inside = fragment("models.html.j2", **shown, **said)
    anchors = [("answer", "Best of what fits"), ("plot-heading", "Plot"), ("all", "Table"), ("sources", "Sources")]
    lead = f"{len(board)} published models by size, compute, speed, data, licence and robustness. {answer(board)}"
    return Body(TITLE, lead, anchors, inside)
