"""The page "What the numbers mean", from `show/metrics.yaml`: a heading per metric name."""

import re

import bs4

from beyond_accuracy.report.html import Body, markdown_html
from beyond_accuracy.show.metrics import document


def body() -> Body:
    """The inside of `metrics.html`; each metric's heading has the id `metric-<name>`."""
    parts, sections = [f"<div>{markdown_html(document()['intro'])}</div>"], []
    for section in document()["sections"]:
        anchor = re.sub(r"[^a-z]+", "-", section["title"].lower()).strip("-")
        sections.append((anchor, section["title"]))
        parts.append(f'<h2 id="{anchor}">{section["title"]}</h2>{markdown_html(section.get("lead", ""))}')
        for name, entry in (section["metrics"] or {}).items():
            words = markdown_html(entry["text"])
            parts.append(f'<h3 id="metric-{name}"><code>{name}</code></h3>{words}')
    lead = "Each metric of this report: formula, unit, better direction, interval, source."
    return Body("What the numbers mean", lead, sections, str(bs4.BeautifulSoup("".join(parts), "html.parser")))
