"""The pages of a report that are no notebooks: made from what the notebooks recorded, whenever that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from beyond_accuracy import pages_choose, pages_differences, report_pages, results
from beyond_accuracy.profiles import Profile
from beyond_accuracy.results import write_atomically


def write_tools(
    folder: Path,
    profile: Profile,
    pages: Sequence[object],
    views: Sequence[report_pages.PageView],
    site: Mapping[str, object],
) -> dict[str, object]:
    """Write the tool pages.

    Args:
        folder: `report/<profile>`.
        profile: The profile.
        pages: The notebook pages (`.name`, `.dimension`), in order.
        views: What is shown of them, in the same order.
        site: As for `report_pages.page_html`.

    Returns:
        `site` with the written pages as `tools`, for the navigation of every page.
    """
    dimensions = [page.dimension for page in pages]
    titles = {page.dimension: view.title for page, view in zip(pages, views, strict=True)}
    table = results.collect(folder, dimensions)
    comparisons = pages_differences.read_comparisons(folder, dimensions)
    bodies = {
        "choose": pages_choose.body(table, comparisons, profile),
        "differences": pages_differences.body(folder, profile, dimensions, titles, table),
    }
    tools = [
        report_pages.PageView(name, body.title, "ok", "", body.lead, body.sections) for name, body in bodies.items()
    ]
    complete = {**site, "tools": tools}
    for view in tools:
        text = report_pages.page_html(bodies[view.name], view, views, complete)
        write_atomically(folder / view.href, text.encode())
    return complete
