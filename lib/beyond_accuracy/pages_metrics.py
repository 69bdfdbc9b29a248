"""The page "What the numbers mean": `template/metrics.md`, a heading per metric name."""

from __future__ import annotations

import re

import bs4

from beyond_accuracy.report_pages import TEMPLATE, Body, markdown_html

FILE = TEMPLATE / "metrics.md"


def described() -> set[str]:
    """Names that have a heading of their own."""
    return set(re.findall(r"^### `([a-z_]+)`$", FILE.read_text(encoding="utf-8"), re.MULTILINE))


def body() -> Body:
    """The inside of `metrics.html`; each metric's heading has the id `metric-<name>`."""
    soup = bs4.BeautifulSoup(markdown_html(FILE.read_text(encoding="utf-8")), "html.parser")
    sections = []
    for heading in soup.find_all(["h2", "h3"]):
        text = heading.get_text()
        heading["id"] = f"metric-{text}" if heading.name == "h3" else re.sub(r"[^a-z]+", "-", text.lower()).strip("-")
        if heading.name == "h2":
            sections.append((heading["id"], text))
    lead = "Each metric of this report: formula, unit, better direction, interval, source."
    return Body("What the numbers mean", lead, sections, str(soup))
