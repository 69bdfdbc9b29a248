"""Notebooks made of cells, for several tests."""

from pathlib import Path

import nbformat
from nbformat import v4
from nbformat.v4 import new_markdown_cell as markdown

__all__ = ["code", "markdown", "write_notebook"]


def code(source: str, *tags: str):
    """A code cell."""
    return v4.new_code_cell(source.strip(), metadata={"tags": list(tags)})


def write_notebook(path: Path, *cells) -> Path:
    """Write cells as a notebook that a kernel of this Python runs."""
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=list(cells), metadata=spec), path)
    return path
