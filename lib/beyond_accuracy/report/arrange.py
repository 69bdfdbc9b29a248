"""What a page shows first and what it folds: its figure on top, findings and figures open, the rest one click away.

Nothing is left out but sections that came to show something and had nothing to show in this run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import bs4
from nbformat import NotebookNode

SHORT = 5  # rows of a table that stays open where its section has no figure
FEW_WORDS = 160  # characters of text not worth a fold; formulas are always folded
_SHOWS = re.compile(r"\.(draw|table|values|differences|beside_paper|figure|gallery|finding|show|estimates)\(")
_HEADS, LIMITS = {"h1", "h2", "h3", "h4"}, "What this does not show"
_HEADING = re.compile(r"^(##+) ", re.MULTILINE)


def without_empty_sections(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Cells without the sections whose code was to show figures, tables or findings and showed none."""
    level = [len(m[1]) if c.cell_type == "markdown" and (m := _HEADING.match(c.source)) else 0 for c in cells]
    dropped: set[int] = set()
    for i, depth in enumerate(level):
        end = next((j for j in range(i + 1, len(cells)) if 0 < level[j] <= depth), len(cells))
        code = [cell for cell in cells[i:end] if cell.cell_type == "code"]
        if depth and any(_SHOWS.search(cell.source) for cell in code) and not any(map(_shown, code)):
            dropped |= set(range(i, end))
    return [cell for i, cell in enumerate(cells) if i not in dropped]


def _shown(cell: NotebookNode) -> bool:
    return any(output.output_type in {"display_data", "error"} for output in cell.outputs)


def arrange(soup: bs4.BeautifulSoup, first: str = "*") -> None:
    """Put the figure or table whose id fits `first` (the last, else the first figure) on top; fold what few ask for.

    After a space `first` may name further tables that stay open.
    """
    first, *also = first.split()
    figures, start = soup.select("figure.ba-figure[id]"), soup.find(True, recursive=False)
    fitting = [figure for figure in soup.select("figure[id]") if fnmatchcase(figure["id"], first)]
    chosen = fitting[-1] if fitting and first != "*" else next(iter(figures), None)
    for part in _sections(soup):
        _fold_section(soup, part, [chosen, *(table for name in also for table in soup.select(f"#{name}"))])
    short, code = soup.select_one(".ba-short"), soup.select("details.ba-code")
    if chosen:
        reading = chosen.find_next_sibling(True)
        top = [short, chosen, reading if reading and "ba-reading" in reading.get("class", []) else None]
        start.insert_before(*(node.extract() for node in top if node))
    if code:
        soup.append(fold(soup, "Parameters and code of this page", code))


def fold(soup: bs4.BeautifulSoup, summary: str, nodes: Sequence[bs4.Tag]) -> bs4.Tag:
    """Nodes, taken from where they are, behind a line that opens them."""
    box, line = soup.new_tag("details", attrs={"class": "ba-fold"}), soup.new_tag("summary")
    line.string = summary
    box.extend([line, *(node.extract() for node in nodes)])
    return box


def _sections(soup: bs4.BeautifulSoup) -> list[list[bs4.Tag]]:
    """Cells from one heading to the next; the introduction first."""
    parts: list[list[bs4.Tag]] = [[]]
    for node in soup.find_all(recursive=False):
        if node.find(["h2", "h3"]):
            parts.append([])
        parts[-1].append(node)
    return [part for part in parts if part]


def _fold_section(soup: bs4.BeautifulSoup, part: Sequence[bs4.Tag], kept: Sequence[bs4.Tag | None]) -> None:
    """Fold tables beside figures or findings; of text stay a section's first paragraph and what it does not show."""
    heading = part[0].find(["h2", "h3"])
    shown = [node for cell in part for node in cell.select("figure.ba-figure, p.ba-finding")]
    for i, table in enumerate(t for cell in part for t in cell.select("figure.ba-table, .ba-scroll:not(.ba-table *)")):
        caption = table.select_one("figcaption")
        if (
            not any(table is one for one in kept)
            and not table.find_parent("details")
            and (shown or i or len(table.select("tbody tr")) > SHORT)
        ):
            table.insert_before(mark := soup.new_tag("span"))
            mark.replace_with(fold(soup, f"Table: {caption.get_text()}" if caption else "Table", [table]))
    text = [child for cell in part for child in cell.find_all(recursive=False) if "cell-text" in cell.get("class", [])]
    text = [child for child in text if child.name not in _HEADS and "ba-short" not in child.get("class", [])]
    limits = heading is not None and heading.get_text().startswith(LIMITS)
    kept = 0 if heading is None else len(text) if limits else 1
    more = [*text[kept:], *(node for cell in part for node in cell.select(".output_stdout"))]
    words_only = not (shown or limits or any(cell.select("figure") for cell in part))
    if heading and (heading.name == "h3" or words_only):
        box = fold(soup, "", [])  # an aside, or nothing but how it was done
        part[0].insert_before(box)
        box.summary.append(heading.extract())
        box.extend([cell.extract() for cell in part])
        return
    words, formula = sum(len(node.get_text()) for node in more), any("ba-math" in n.get("class", []) for n in more)
    if words > (FEW_WORDS if heading else 0) or formula:
        part[0].append(fold(soup, "More on this" if heading else "What this page asks", more))
