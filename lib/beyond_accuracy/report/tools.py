"""The pages of a report that are no notebooks: made from what the notebooks recorded, whenever that changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import bs4

from beyond_accuracy.base.files import write_atomically
from beyond_accuracy.base.profile import Profile
from beyond_accuracy.report import PageView, choose, differences, html, images, real_models
from beyond_accuracy.show import metrics, results


def write_tools(
    folder: Path,
    profile: Profile,
    pages: Sequence[object],
    views: Sequence[PageView],
    site: Mapping[str, object],
    inputs: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Write the tool pages.

    Args:
        folder: `report/<profile>`.
        profile: The profile.
        pages: The notebook pages (`.name`, `.dimension`), in order.
        views: What is shown of them, in the same order.
        site: As for `html.page_html`.
        inputs: Names of everything the pictures depend on; they are picked again where one changed.
        options: Of the inference, which decide where its results are stored.

    Returns:
        `site` with the written pages as `tools`, for the navigation of every page, and `advice` for the front page.
    """
    dimensions = [page.dimension for page in pages]
    titles = {page.dimension: view.title for page, view in zip(pages, views, strict=True)}
    table, comparisons = results.collect(folder, dimensions), results.read_comparisons(folder, dimensions)
    bodies = {
        "models": real_models.body(),
        "choose": choose.body(table, comparisons, profile),
        "differences": differences.body(folder, profile, dimensions, titles),
        "images": _images(folder, profile, inputs, options or {}),
        "metrics": metrics_body(),
    }
    tools = [PageView(name, body.title, "ok", "", body.lead, body.sections) for name, body in bodies.items()]
    complete = {**site, "tools": tools, "advice": choose.advice(table, comparisons, profile)}
    for view in tools:  # the published models are no toys: no banner says so of them
        shown = complete | {"synthetic": complete["synthetic"] and view.name != "models"}
        write_atomically(folder / view.href, html.page_html(bodies[view.name], view, views, shown).encode())
    return complete


def metrics_body() -> html.Body:
    """The inside of `metrics.html`, from `show/metrics.yaml`; each metric's heading has the id `metric-<name>`."""
    document = metrics.document()
    sections = [(re.sub(r"[^a-z]+", "-", s["title"].lower()).strip("-"), s) for s in document["sections"]]
    inside = html.fragment("metrics.html.j2", document=document, sections=sections)
    lead = "Each metric of this report: formula, unit, better direction, interval, source."
    anchors = [(anchor, section["title"]) for anchor, section in sections]
    return html.Body("What the numbers mean", lead, anchors, str(bs4.BeautifulSoup(inside, "html.parser")))


def _images(folder: Path, profile: Profile, inputs: Sequence[str], options: Mapping[str, object]) -> html.Body:
    """The error browser, from the last time if nothing changed: decoding hundreds of images takes seconds."""
    kept = folder / ".state" / "images.json"
    sources = [Path(images.__file__), *sorted(html.TEMPLATE.glob("images.*"))]
    total = hashlib.sha256(json.dumps(list(inputs)).encode())
    for path in sources:
        total.update(path.read_bytes())
    key = total.hexdigest()
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content.pop("key") == key:
            return html.Body(**content | {"sections": [tuple(pair) for pair in content["sections"]]})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never built, or by another version
    body = images.body(profile, options)
    write_atomically(kept, json.dumps({"key": key, **asdict(body)}).encode())
    return body
