"""The pages of a report that are no notebooks: made from what the notebooks recorded, whenever that changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from beyond_accuracy import (
    pages_choose,
    pages_differences,
    pages_images,
    pages_metrics,
    report_pages,
    results,
)
from beyond_accuracy.profiles import Profile
from beyond_accuracy.stamps import write_atomically


def write_tools(
    folder: Path,
    profile: Profile,
    pages: Sequence[object],
    views: Sequence[report_pages.PageView],
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
        site: As for `report_pages.page_html`.
        inputs: Names of everything the pictures depend on; they are picked again where one changed.
        options: Of the inference, which decide where its results are stored.

    Returns:
        `site` with the written pages as `tools`, for the navigation of every page, and `advice` for the front page.
    """
    dimensions = [page.dimension for page in pages]
    titles = {page.dimension: view.title for page, view in zip(pages, views, strict=True)}
    table = results.collect(folder, dimensions)
    comparisons = pages_differences.read_comparisons(folder, dimensions)
    bodies = {
        "choose": pages_choose.body(table, comparisons, profile),
        "differences": pages_differences.body(folder, profile, dimensions, titles, table),
        "images": _images(folder, profile, inputs, options or {}),
        "metrics": pages_metrics.body(),
    }
    tools = [
        report_pages.PageView(name, body.title, "ok", "", body.lead, body.sections) for name, body in bodies.items()
    ]
    complete = {**site, "tools": tools, "advice": pages_choose.advice(table, comparisons, profile)}
    for view in tools:
        text = report_pages.page_html(bodies[view.name], view, views, complete)
        write_atomically(folder / view.href, text.encode())
    return complete


def _images(folder: Path, profile: Profile, inputs: Sequence[str], options: Mapping[str, object]) -> report_pages.Body:
    """The error browser, from the last time if nothing changed: decoding hundreds of images takes seconds."""
    kept = folder / ".state" / "images.json"
    sources = [Path(pages_images.__file__), *sorted(report_pages.TEMPLATE.glob("images.*"))]
    total = hashlib.sha256(json.dumps(list(inputs)).encode())
    for path in sources:
        total.update(path.read_bytes())
    key = total.hexdigest()
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content.pop("key") == key:
            return report_pages.Body(**content | {"sections": [tuple(pair) for pair in content["sections"]]})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never built, or by another version
    body = pages_images.body(profile, options)
    write_atomically(kept, json.dumps({"key": key, **asdict(body)}).encode())
    return body
