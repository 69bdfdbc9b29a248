"""How to read a figure: a few words per kind of plot, folded under it, from `template/reading.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import bs4
import yaml

FILE = Path(__file__).parent / "template" / "reading.yaml"


@cache
def texts() -> Mapping[str, Mapping]:
    """The file: `kinds`, `figures` (pattern of `dimension/figure` -> kind), `metrics` (kind -> names to look up)."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def kind(dimension: str, figure: str) -> str | None:
    """The kind of a figure; empty for pictures that need no words, None where nothing is known.

    >>> kind("calibration", "reliability-imagenet-1k"), kind("world", "sketch"), kind("mine", "new")
    ('reliability', '', None)
    """
    name = f"{dimension}/{figure}"
    return next((found for pattern, found in texts()["figures"].items() if fnmatchcase(name, pattern)), None)


def add_folds(soup: bs4.BeautifulSoup, dimension: str) -> None:
    """Put the words for its kind under every figure of a page; further figures of one kind get them again.

    Args:
        soup: The page, changed in place; figures as `results.figure_html` writes them (`id="fig-<name>"`).
        dimension: Of the page.
    """
    for figure in soup.select("figure.ba-figure[id^=fig-]"):
        found = kind(dimension, figure["id"].removeprefix("fig-"))
        if not found:
            continue
        fold = soup.new_tag("details", attrs={"class": "ba-reading"})
        summary = soup.new_tag("summary")
        summary.string = "How to read this"
        fold.append(summary)
        for text in texts()["kinds"][found]:
            paragraph = soup.new_tag("p")
            paragraph.string = text
            fold.append(paragraph)
        if names := texts()["metrics"].get(found):
            paragraph = soup.new_tag("p")
            paragraph.append("Exactly: ")
            for i, name in enumerate(names):
                link = soup.new_tag("a", href=f"metrics.html#metric-{name}")
                link.string = name
                paragraph.extend([", " if i else "", link])
            fold.append(paragraph)
        figure.insert_after(fold)
