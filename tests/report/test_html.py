"""Words under figures: every figure has a kind or is a picture, every kind is used, everything is text."""

import ast
import re
from pathlib import Path

import bs4
import nbformat

from beyond_accuracy.report import build, front, html
from beyond_accuracy.show import tables

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def all_figures():
    """Page and name of what calls of `figure` and `draw` name in notebooks; the varying part of a name becomes `x`."""
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        stem = path.stem.split("_", 1)[1]
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            place = {"page.figure": 1, "page.draw": 2}.get(ast.unparse(call.func))
            named = [k.value for k in call.keywords if k.arg == "name"]
            for given in [*call.args[place : place + 1], *named] if place else ():
                if isinstance(given, ast.JoinedStr | ast.Constant):  # else made by a function
                    parts = given.values if isinstance(given, ast.JoinedStr) else [given]
                    name = "".join(part.value if isinstance(part, ast.Constant) else "x" for part in parts)
                    yield build.DIMENSION_OF.get(stem, stem), name


def test_every_figure_of_every_notebook_is_known():
    found = list(all_figures())
    assert len(found) > 40
    assert [pair for pair in found if html.kind(*pair) is None] == []


def test_kinds_exist_and_are_used():
    content = html.readings()
    assert set(content["figures"].values()) - {""} == set(content["kinds"])
    for name, paragraphs in content["kinds"].items():
        assert all(isinstance(text, str) and 20 < len(text) < 600 for text in paragraphs), name


def test_folds_follow_their_figures_and_pictures_stay_alone():
    for dimension, figure, words in (
        *(("calibration", "reliability-val", "right about 65 %"), ("calibration", "risk-coverage", "surest")),
        *(("robustness", "sets", ""), ("mine", "new", "")),
    ):
        text = f'<figure class="ba-figure" id="fig-{figure}"><img></figure><p>next</p>'
        soup = bs4.BeautifulSoup(text, "html.parser")
        html.add_readings(soup, dimension)
        folds = soup.select("figure + details")
        assert [fold.summary.text for fold in folds] == ["How to read this"] * bool(words)
        assert all(words in fold.text and fold.find_next_sibling().text == "next" for fold in folds)


def test_papers_named_by_their_number_are_links_and_works_cited_lead_to_their_list():
    text = "Someone 2017 (arXiv\n1706.04599), and [arXiv 2311.09215](https://arxiv.org/abs/2311.09215); "
    text += "Kumar, Liang and\nMa 2019 and (ECE, Guo et al. 2017); Wilson (1927), Haldane's (1956), Guo 2018."
    links = bs4.BeautifulSoup(html.markdown_html(text), "html.parser").select("a")
    assert [(" ".join(link.text.split()), link["href"]) for link in links] == [
        ("arXiv 1706.04599", "https://arxiv.org/abs/1706.04599"),
        ("arXiv 2311.09215", "https://arxiv.org/abs/2311.09215"),
        ("Kumar, Liang and Ma 2019", "metrics.html#work-kumar-2019"),
        ("Guo et al. 2017", "metrics.html#work-guo-2017"),
        ("Wilson (1927)", "metrics.html#work-wilson-1927"),
        ("Haldane's (1956)", "metrics.html#work-haldane-1956"),
    ]


CITED = re.compile(r"\b[^\W\d_a-z][\w-]+(?: et al\.|'s|(?:(?:,| and) [A-Z][\w-]+)*),? \(?(?:19|20)\d\d\b")


def test_every_author_and_year_on_the_pages_is_a_known_work():
    document = tables.glossary()
    texts = [document["intro"], *(section.get("lead", "") for section in document["sections"])]
    texts += [entry["text"] for entry in tables.described().values()]
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    cited = {}
    for text in texts:
        plain = re.sub(r"\[.*?\]\(.*?\)|\barXiv \d{4}", "", " ".join(text.split()))
        for found in CITED.finditer(plain):
            cited[found[0]] = bs4.BeautifulSoup(html.markdown_html(found[0] + ")" * ("(" in found[0])), "html.parser").a
    assert len(cited) > 20 and [text for text, link in cited.items() if link is None] == []
    listed = set(map(html.work_id, document["works"]))
    assert len(listed) == len(document["works"])
    assert {link["href"].partition("#")[2] for link in cited.values()} == listed
    items = bs4.BeautifulSoup(front.metrics_body().html, "html.parser").select("#works ~ ul li")
    assert {item["id"] for item in items} == listed and all(item.a["href"].startswith("https://") for item in items)
