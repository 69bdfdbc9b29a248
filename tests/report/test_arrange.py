"""What of a page is seen first, what is folded, and what is left out."""

import bs4
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from beyond_accuracy.report import html

FIGURE = '<figure class="ba-figure" id="fig-{}"><img alt="a"></figure>'
TABLE = '<figure class="ba-table" id="tab-{}"><figcaption>Rates</figcaption><table><tr><td>1</td></tr></table></figure>'
LONG = "It is said at length, and then again, how this was done. " * 4


def shows(markup, source="page.draw(x)"):
    return new_code_cell(source, outputs=[new_output("display_data", data={"text/html": markup})])


def page(*cells, dimension="mine"):
    body = html.render_body(nbformat.v4.new_notebook(cells=list(cells)), dimension=dimension)
    return bs4.BeautifulSoup(body.html, "html.parser")


def closed(soup):
    return {fold.summary.get_text(): fold for fold in soup.select("details.ba-fold")}


def test_the_answer_and_one_figure_come_first_and_the_rest_is_a_click_away():
    said = '<p class="ba-claim">It rises</p><p class="ba-finding">It rises by one. And so on.</p>'
    soup = page(
        new_markdown_cell("# Title\n\nWhy?"),
        new_code_cell("SEED = 0", metadata={"tags": ["parameters"]}),
        new_markdown_cell(f"## How\n\nOne line.\n\n{LONG}"),
        shows(FIGURE.format("first") + TABLE.format("rates")),
        new_markdown_cell("## Finding"),
        shows(said, "page.finding(x)"),
        new_markdown_cell("## What this does not show\n\nA.\n\nB."),
    )
    top = [node for node in soup.find_all(recursive=False)][:2]
    assert [node.name for node in top] == ["p", "figure"] and top[0]["class"] == ["ba-short"]
    folds = closed(soup)
    assert list(folds) == ["What this page asks", "More on this", "Table: Rates", "Parameters and code of this page"]
    assert "Why?" in folds["What this page asks"].text and "SEED" in folds["Parameters and code of this page"].text
    assert folds["Table: Rates"].select_one("#tab-rates") and "at length" in folds["More on this"].text
    outside = [node.text for node in soup.select(".cell-text > p")]
    assert outside == ["One line.", "A.", "B."]  # the first lines of a section, and all of what is not shown
    assert not soup.select("details[open]") and not soup.select(".ba-claim")


def test_the_figure_that_a_page_opens_with_is_chosen_by_name():
    parts = [new_markdown_cell("# T\n\nW?"), shows(FIGURE.format("bins-a")), shows(FIGURE.format("reliability-a"))]
    soup = page(*parts, shows(FIGURE.format("reliability-b")), dimension="calibration")
    assert soup.select("figure")[0]["id"] == "fig-reliability-b"  # the last that fits: the shifted set
    assert page(*parts[:2], dimension="calibration").select("figure")[0]["id"] == "fig-bins-a"


def test_a_table_may_open_a_page_and_others_stay_open():
    tables = TABLE.format("more") + TABLE.format("reported")
    said = "Of the paper's findings that could be asked here two hold and one is reversed, in this run at least"
    claim = f'<p class="ba-claim">{said}</p><p class="ba-finding">{said}. Another is open.</p>'
    shown = shows(FIGURE.format("claims") + tables + TABLE.format("claims") + claim)
    soup = page(new_markdown_cell("# T\n\nW?\n\n## One"), shown, dimension="summary")
    assert [node.name for node in soup.find_all(True, recursive=False)[:2]] == ["p", "figure"]
    assert soup.figure["id"] == "tab-reported" and "two hold" not in soup.p.text  # the claim is said once
    folded = [figure["id"] for figure in soup.select("details figure")]
    assert folded == ["tab-more"] and soup.select("figure")[1]["id"] == "fig-claims"


def test_a_section_that_had_nothing_to_show_vanishes_and_one_of_words_is_folded():
    soup = page(
        new_markdown_cell("# T\n\nW?"),
        new_markdown_cell("## Label noise\n\nNothing follows here."),
        new_code_cell('page.draw(x)\nprint("not in this run")'),
        new_markdown_cell("## Predictions\n\nHow answers are read."),
        new_code_cell("print(1)", outputs=[new_output("stream", name="stdout", text="3 images")]),
    )
    assert "Label noise" not in soup.text and "Nothing follows" not in soup.text
    fold = closed(soup)["Predictions"]
    assert fold.summary.h2["id"] == "predictions" and "3 images" in fold.text and "How answers" in fold.text


def test_rows_lead_to_the_images_behind_them():
    table = '<table><tr><th scope="row">odd &amp; pose</th></tr><tr><th scope="row">all</th></tr></table>'
    inside = FIGURE.format("x") + table
    soup = bs4.BeautifulSoup(html.linked(inside, {"odd & pose": "images.html#factor=odd"}), "html.parser")
    assert [(link.text, link["href"]) for link in soup.select("th a")] == [("odd & pose", "images.html#factor=odd")]
    assert soup.figure.find_next_sibling("p").a["href"] == "images.html#factor=odd"
    assert html.linked(inside, {}) == inside


def test_first_words_are_whole_sentences_that_say_something():
    whole = "A is 3.5 and leads by far, which was not expected of it at all."
    assert html.first_words(f"{whole} More.") == whole
    assert html.first_words("By rate. A: 1.") == "By rate. A: 1."
