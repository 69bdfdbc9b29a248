"""From an executed notebook to the inside of a page, and from insides to the pages of a report.

nbconvert renders the cells through our own template (`template/notebook`, extending `basic`); the shell around them
(navigation, banner, footer) is a plain Jinja template shared with the front page. Nothing here loads anything from
anywhere: styles and script are written into the page, formulas become MathML, pictures are data.
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
from beyond_accuracy.report.arrange import arrange, fold, without_empty_sections
from beyond_accuracy.show import metrics, results, tables

TEMPLATE = Path(__file__).parent / "template"
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
FEW = 60  # characters that say too little to stand alone as the answer of a page
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


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
    works = [work.rsplit(" ", 1) for work in metrics.document()["works"]]
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
    """Render the cells of an executed notebook, as far as its `failure`.

    Pictures referred to in Markdown lie in `folder`; the `dimension` decides the words under its figures.
    """
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
    """A copy of a notebook cut down to what a reader wants to see.

    Hidden cells and papermill's markers go; bare reprs of a last expression go, as do cells after a failure; code
    cells without output are folded together with the next one; ids are numbers, so that a rerun gives the same page.
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
    """The page's main finding, which its notebook can only state at the end, also on top: its first sentences.

    What the title claims already is not said again.
    """
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
        table.insert_before(mark := soup.new_tag("span"))
        mark.replace_with(fold(soup, "What made these numbers: weights, data, precision, device", [table]))


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
    """The kind of a figure; empty for pictures that need no words, None where nothing is known.

    >>> kind("calibration", "reliability-imagenet-1k"), kind("world", "sketch"), kind("mine", "new")
    ('reliability', '', None)
    """
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


# The shell -----------------------------------------------------------------------------------------------------------


def page_html(body: Body, page: PageView, pages: Sequence[PageView], site: Mapping[str, object]) -> str:
    """A whole page: the shell around a body, with all pages for its navigation.

    `site`: facts about the run: `profile`, `title`, `synthetic`, `cuts` (by page), and what is there of `tools` and
    `advice`.
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
