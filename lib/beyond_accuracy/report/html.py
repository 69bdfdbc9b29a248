"""From an executed notebook to the inside of a page, and from insides to the pages of a report.

nbconvert renders the cells through our own template (`template/notebook`); the shell around them is a Jinja template
shared with the front page. Nothing is loaded: styles and script are in the page, formulas MathML, pictures data.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import bs4
import jinja2
import latex2mathml.converter
import nbformat
import yaml
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.exporters.html import MarkdownWithMath
from nbconvert.filters.markdown_mistune import IPythonRenderer
from nbformat import NotebookNode
from traitlets.config import Config

from beyond_accuracy import __version__
from beyond_accuracy.report import PageView
from beyond_accuracy.show import results, tables

TEMPLATE = Path(__file__).parent / "template"
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
FEW = 60  # characters that say too little to stand alone as the answer of a page
SHORT = 5  # rows of a table that stays open where its section has no figure
FEW_WORDS = 160  # characters of text not worth a fold; formulas are always folded
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SHOWS = re.compile(r"\.(draw|table|values|differences|beside_paper|figure|gallery|finding|show|estimates)\(")
_HEADS, LIMITS = {"h1", "h2", "h3", "h4"}, "What this does not show"
_HEADING = re.compile(r"^(##+) ", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """Why a notebook did not run to its end."""

    name: str  # of the exception (`DataMissing`, `InputError`, `ZeroDivisionError`, …)
    message: str
    traceback: str = ""  # plain text
    cells_left: int = 0  # code cells after the failing one

    @property
    def status(self) -> str:
        """`missing` (data or weights), `input` (bad input) or `failed`."""
        return {"DataMissing": "missing", "InputError": "input"}.get(self.name, "failed")

    @property
    def summary(self) -> str:
        """One line for the list of pages; our own errors speak for themselves."""
        return self.message if self.status != "failed" else f"{self.name}: {self.message}".rstrip(": ")


@dataclass(frozen=True)
class Body:
    """The inside of a page."""

    title: str
    lead: str  # first sentence or two, for the list of pages
    sections: list[tuple[str, str]]  # (id, text) of the second-level headings
    html: str
    claim: str = ""  # what the page says, as its title; its question is the title otherwise
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # dimension -> row of its tables -> address


# The inside --------------------------------------------------------------------------------------------------------


def math_html(tex: str, display: str = "inline") -> str:
    """A formula as MathML, which every current browser shows without help; the TeX source if it cannot be read."""
    try:
        mathml = latex2mathml.converter.convert(tex.strip(), display=display)
    except Exception:  # latex2mathml raises many kinds; an unreadable formula must not cost the page
        return f'<code class="ba-tex">{html.escape(tex)}</code>'
    return mathml.replace("<math ", f'<math alttext="{html.escape(tex.strip())}" ', 1)


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML and links to the top of nothing left out."""

    def inline_math(self, body: str) -> str:
        return math_html(body)

    def block_math(self, body: str) -> str:
        return f'<div class="ba-math" tabindex="0">{math_html(body, "block")}</div>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


@cache
def _citation() -> re.Pattern[str]:
    """`Guo et al. 2017`, `Kumar, Liang and Ma 2019`, `Wilson (1927)` of a known work: first author, year."""
    works = [work.rsplit(" ", 1) for work in tables.glossary()["works"]]
    others = r"(?:\s+et\s+al\.|'s|(?:(?:,|\s+and)\s+[A-Z][\w-]+)+)?"
    return re.compile("|".join(rf"\b{author}{others}\s+(?:\({year}\)|{year})" for author, year in works))


def work_id(cited: str) -> str:
    """Id of a work on the page of metrics, from how it is cited: `work-guo-2017`."""
    author, *_, year = re.findall(r"[^\W_]+", cited)
    return f"work-{author.lower()}-{year}".encode("ascii", "ignore").decode()


def markdown_html(text: str, **options: object) -> str:
    """Our own Markdown (never a reader's) as HTML, formulas as MathML, `arXiv 1706.04599` and works cited as links."""
    text = _citation().sub(lambda found: f"[{found[0]}](metrics.html#{work_id(found[0])})", text)
    text = re.sub(r"(?<!\[)\barXiv\s+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    usual = {"attachments": {}, "embed_images": False, "path": ""}
    return MarkdownWithMath(_Renderer(escape=False, exclude_anchor_links=True, **usual | options)).render(text)


class _Exporter(HTMLExporter):
    """HTMLExporter with our Markdown renderer."""

    def markdown2html(self, context: jinja2.runtime.Context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        return markdown_html(source, attachments=attachments, embed_images=True, path=path)

    markdown2html.jinja_pass_arg = HTMLExporter.markdown2html.jinja_pass_arg


def render_body(
    notebook: NotebookNode, failure: Failure | None = None, folder: Path | None = None, dimension: str = ""
) -> Body:
    """Render the cells of an executed notebook, as far as its `failure`; pictures of its Markdown lie in `folder`."""
    config = Config(NbConvertBase={"display_data_priority": SHOWN_TYPES})
    ours = {"template_name": "notebook", "extra_template_basedirs": [str(TEMPLATE)]}
    exporter = _Exporter(config=config, embed_images=True, **ours)
    exporter.register_filter("latex2mathml", lambda tex: math_html(tex.strip("$ \n"), "block"))
    resources = {"metadata": {"path": str(folder or ".")}}
    text, _ = exporter.from_notebook_node(for_reading(notebook, failure), resources)
    soup = bs4.BeautifulSoup(text, "html.parser")
    heading = soup.find("h1")
    title = heading.extract().get_text().strip() if heading else ""
    lead = next((" ".join(p.get_text().split()) for p in soup.select(".text_cell p, .cell-text p")), "")
    sections = _name_headings(soup)
    claim = said.extract().get_text() if (said := soup.select_one("p.ba-claim")) else ""
    _say_it_first(soup, claim)
    _fold_provenance(soup)
    add_readings(soup, dimension)
    for table in soup.select("table"):
        if not table.find_parent(class_="ba-scroll"):
            table.wrap(soup.new_tag("div", attrs={"class": "ba-scroll", "tabindex": "0"}))
    arrange(soup, readings()["first"].get(dimension, "*"))
    inside = str(soup)
    if failure:
        inside += fragment("failure.html.j2", failure=failure)
    return Body(title, lead, sections, inside, claim)


def for_reading(notebook: NotebookNode, failure: Failure | None = None) -> NotebookNode:
    """A copy of a notebook without hidden cells, papermill's markers, bare reprs and cells after a failure.

    Code cells without output are joined to the next one; ids are numbers, so that a rerun gives the same page.
    """
    cells: list[NotebookNode] = []
    stop = next((i for i, cell in enumerate(notebook.cells) if _error_of(cell)), len(notebook.cells))
    for cell in without_empty_sections(notebook.cells[: stop + 1] if failure else notebook.cells):
        tags = cell.metadata.get("tags", [])
        if "hide" in tags or any(tag.startswith("papermill-error-cell") for tag in tags):
            continue
        cell = nbformat.from_dict(cell)
        if cell.cell_type != "code":
            cells += [cell] if cell.source.strip() else []
            continue
        cell.outputs = [output for output in cell.outputs if _worth_showing(output)]
        cell.metadata["fold"] = "Parameters" if {"parameters", "injected-parameters"} & set(tags) else "Code"
        before = cells[-1] if cells and cells[-1].cell_type == "code" else None
        if before is not None and not before.outputs and "hide-input" not in tags:
            cells.pop()
            cell.source = f"{before.source}\n\n{cell.source}"
            if before.metadata["fold"] != cell.metadata["fold"]:
                cell.metadata["fold"] = "Parameters and code"
        cells.append(cell)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    return nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


def _worth_showing(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout" and bool(output.text.strip())
    if output.output_type == "execute_result":
        return set(output.data) != {"text/plain"}
    return output.output_type == "display_data"


def failure_of(notebook: NotebookNode) -> Failure | None:
    """The error a notebook stopped at, None if it ran to its end."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for i, cell in enumerate(code):
        if error := _error_of(cell):
            trace = _ANSI.sub("", "\n".join(error.traceback))
            return Failure(error.ename, error.evalue, trace, len(code) - i - 1)
    return None


def _error_of(cell: NotebookNode) -> NotebookNode | None:
    outputs = cell.outputs if cell.cell_type == "code" else []
    return next((output for output in outputs if output.output_type == "error"), None)


def _say_it_first(soup: bs4.BeautifulSoup, claim: str) -> None:
    """The page's main finding also on top: its first sentences, without what the title claims already."""
    finding, start = soup.select_one("p.ba-finding"), soup.select_one(".cell-text")
    if finding is None or start is None or soup.h2 is None:
        return
    heading = finding.find_previous(["h2", "h3"])
    box = soup.new_tag("p", attrs={"class": "ba-short"})
    link = soup.new_tag("a", href=f"#{heading['id']}") if heading is not None else soup.new_tag("b")
    link.string = "In short:"
    said = "".join(f"`{child.get_text()}`" if child.name == "code" else child.get_text() for child in finding.children)
    said = said.removeprefix(f"{claim}.").strip() or said
    box.extend([link, " ", *bs4.BeautifulSoup(results.code_spans(first_words(said)), "html.parser").contents])
    start.append(box)


def first_words(said: str) -> str:
    """The first sentence, with those after it as long as that says too little."""
    end = next((m.start() + 1 for m in re.finditer(r"\. (?=[A-Z])", said) if m.start() > FEW), len(said))
    return said[:end]


def _fold_provenance(soup: bs4.BeautifulSoup) -> None:
    """Hashes and precisions are for whoever asks: folded, at the end of the page as before."""
    for table in soup.select("figure.ba-table[id^=tab-provenance]"):
        fold_in_place(soup, "What made these numbers: weights, data, precision, device", table)


def _name_headings(soup: bs4.BeautifulSoup) -> list[tuple[str, str]]:
    taken: dict[str, int] = {}
    sections = []
    for heading in soup.find_all(["h2", "h3", "h4"]):
        text = " ".join(heading.get_text().split())
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
        taken[slug] = taken.get(slug, 0) + 1
        heading["id"] = slug if taken[slug] == 1 else f"{slug}-{taken[slug]}"
        if heading.name == "h2":
            sections.append((heading["id"], text))
    return sections


@cache
def readings() -> Mapping[str, Mapping]:
    """`reading.yaml`: `kinds`, `figures` (pattern of `dimension/figure` -> kind), `metrics` (kind -> names)."""
    return yaml.safe_load((TEMPLATE / "reading.yaml").read_text(encoding="utf-8"))


def kind(dimension: str, figure: str) -> str | None:
    """The kind of a figure; empty for pictures that need no words, None where nothing is known."""
    name = f"{dimension}/{figure}"
    return next((found for pattern, found in readings()["figures"].items() if fnmatchcase(name, pattern)), None)


def add_readings(soup: bs4.BeautifulSoup, dimension: str) -> None:
    """Put the words for its kind, folded, under every figure of a page (`id="fig-<name>"`)."""
    for figure in soup.select("figure.ba-figure[id^=fig-]"):
        if found := kind(dimension, figure["id"].removeprefix("fig-")):
            texts, names = readings()["kinds"][found], readings()["metrics"].get(found)
            fold = fragment("reading.html.j2", texts=texts, names=names)
            figure.insert_after(bs4.BeautifulSoup(fold.strip(), "html.parser"))


def linked(inside: str, links: Mapping[str, str]) -> str:
    """The inside of a page whose rows lead to `links` by their headings; all of them stand below its first figure."""

    def link(found: re.Match[str]) -> str:
        href = links.get(html.unescape(found[2]))
        return f'{found[1]}<a href="{html.escape(href)}">{found[2]}</a>' if href else found[0]

    inside = re.sub(r'(<th scope="row"[^>]*>)([^<]+)(?=</th>)', link, inside)
    return inside.replace("</figure>", f"</figure>{fragment('links.html.j2', links=links)}", 1) if links else inside


# What is seen first and what is folded -------------------------------------------------------------------------------

# Nothing is left out but sections that came to show something and had nothing to show in this run.


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


def fold_in_place(soup: bs4.BeautifulSoup, summary: str, node: bs4.Tag) -> None:
    """A node behind a line that opens it, where it stands."""
    node.insert_before(mark := soup.new_tag("span"))
    mark.replace_with(fold(soup, summary, [node]))


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
        caption, stays = table.select_one("figcaption"), any(table is one for one in kept)
        many = shown or i or len(table.select("tbody tr")) > SHORT
        if many and not stays and not table.find_parent("details"):
            fold_in_place(soup, f"Table: {caption.get_text()}" if caption else "Table", table)
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


# The shell -----------------------------------------------------------------------------------------------------------


def page_html(body: Body, page: PageView, pages: Sequence[PageView], site: Mapping[str, object]) -> str:
    """A whole page: the shell around a body, with all pages for its navigation.

    `site`: facts about the run: `profile`, `title`, `synthetic`, `cuts` (by page), `tools`, `advice`.
    """
    inside, heading = Markup(body.html), body.title or page.title  # noqa: S704 (made by our templates and nbconvert)
    return fragment("page.html.j2", body=inside, page=page, pages=pages, site=site, heading=heading)


def fragment(template: str, **variables: object) -> str:
    """Markup of one of our templates; all is escaped but `source` (a file of ours), `table` and `markdown`."""
    return _environment().get_template(template).render(**variables)


def _source(name: str) -> Markup:
    return Markup((TEMPLATE / name).read_text(encoding="utf-8"))  # noqa: S704 (a trusted file of this package)


@cache
def _environment() -> jinja2.Environment:
    environment = results.environment(TEMPLATE)
    environment.filters |= {"codes": results.code_spans, "work_id": work_id}
    environment.globals |= {
        "version": __version__,
        "style": _source("style.css"),
        "script": _source("report.js"),
        "source": _source,
    }
    environment.globals |= {"table": _safe(tables.table_html), "markdown": _safe(markdown_html)}
    return environment


def _safe(markup: Callable[..., str]) -> Callable[..., Markup]:
    return lambda *args, **options: Markup(markup(*args, **options))  # noqa: S704 (they escape)
