"""Notebooks made of cells and pages made of their inside, for several tests."""

from pathlib import Path

import nbformat
from nbformat import v4
from nbformat.v4 import new_markdown_cell as markdown

__all__ = ["code", "markdown", "whole_page", "write_notebook"]


def code(source: str, *tags: str):
    """A code cell."""
    return v4.new_code_cell(source.strip(), metadata={"tags": list(tags)})


def write_notebook(path: Path, *cells) -> Path:
    """Write cells as a notebook that a kernel of this Python runs."""
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=list(cells), metadata=spec), path)
    return path


def whole_page(path: Path, body, pages: bool = False, **site: object) -> Path:
    """Write a page of a report around its inside; with `pages` it is one of the report's own."""
    from beyond_accuracy.report import PageView, html  # here: nbconvert takes a second to import

    view = PageView(path.stem, body.title, "ok", "", body.lead, body.sections)
    facts = {"profile": "<t>", "title": "T", "synthetic": False, "tools": [], "cuts": {}} | site
    path.write_text(html.page_html(body, view, [view] if pages else [], facts), encoding="utf-8")
    return path
