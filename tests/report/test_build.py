"""The built report: offline, complete, honest about what failed, and built again only where something changed."""

import json
import os
import re
import shutil
from pathlib import Path

import bs4
import nbformat
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import parse_profile
from beyond_accuracy.inference.plan import Filled
from beyond_accuracy.measure import verdicts
from beyond_accuracy.report import build as report
from beyond_accuracy.report import choose, html
from beyond_accuracy.report import front as report_front
from beyond_accuracy.show import results
from builders import code, markdown, write_notebook

LIBRARY_DIGEST = report._library_digest
PARAMETERS = 'PROFILE = "mini"  # profile\nMODELS = ""  # subset\nSEED = 7  # of the bootstrap\nBINS = 15  # of it'
FIGURE = """
import pandas as pd
from beyond_accuracy.show import results
svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"></svg>'
results.display_html(results.figure_html("rise", 'A "line" <rising>', "It rises & rises.", svg, b"png", "x\\n1\\n"), "")
"""
RESULTS = """
from beyond_accuracy.base.paths import report_dir
from beyond_accuracy.show import results, tables
import json
rows = pd.DataFrame({"dimension": "calibration", "dataset": "imagenet_1k", "metric": "ece",
                     "model": ["vit_sup", "vit_clip", "resnet"], "value": [0.02, 0.05, 0.015],
                     "ci_low": 0.01, "ci_high": 0.06, "n": 200, "unit": "fraction"})
results.write_dimension(report_dir("trial"), "calibration", rows)
path = report_dir("trial") / "findings" / "calibration.json"
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps(["Confidence of `vit_sup` <is> off by 2 points.", "A second finding."]))
tables.display_table(rows, "Calibration error", name="ece")
"""


def write_notebooks(folder):
    write_notebook(
        folder / "03_calibration.ipynb",
        markdown("# Calibration\n\nCan confidence be trusted?"),
        code(PARAMETERS, "parameters"),
        code("import sys\nhidden_setup = 1", "hide"),
        markdown("## Method\n\nThe error $x^2 < y$ is\n\n$$\\sum_{m} \\frac{|B_m|}{N}$$\n\n## Method"),
        code(FIGURE),
        code('print("noise", file=sys.stderr)\nprint("said <aloud>")\nimport warnings; warnings.warn("careful")'),
        code("secret_code = 2\nprint('shown')", "hide-input"),
        code(RESULTS),
        code("results.display_html('<p class=\"ba-claim\">It rises a little</p>', '')"),
        code("results.display_html(f'<p class=\"ba-finding\">It rises by {SEED} of {BINS}.</p>', '')"),
        code("2 * 171717171"),
    )
    given, fails = code(PARAMETERS, "parameters"), 'print("before the failure")\nraise ValueError("no <such> factor")'
    parts = [markdown("## Before"), code(fails), markdown("## After"), code("print('never')")]
    write_notebook(folder / "01_mistakes.ipynb", markdown("# Mistakes\n\nWhat goes wrong?"), given, *parts)
    missing = "raise DataMissing('imagenet_r: no images; get them with `beyond-accuracy fetch --profile paper`')"
    part = code(f"from beyond_accuracy.base.errors import DataMissing\n{missing}")
    write_notebook(folder / "04_robustness.ipynb", markdown("# Robustness\n\nWhat does a shift do?"), given, part)
    write_notebook(folder / "explore.ipynb", code("raise RuntimeError('not a page')"))


def trial_profile(**changes):
    dimensions = {"calibration": {"clean": "imagenet_1k"}, "mistakes": {}, "robustness": {}}
    content = {"name": "trial", "title": "Trial <world>", "synthetic": True, "dimensions": dimensions}
    content["datasets"] = {name: {"reader": "own", "classes": ""} for name in ("imagenet_1k", "val", "sketch", "r")}
    return parse_profile(content | changes, Path("trial.yaml"))


def build(notebooks, **options):
    """Exit code and lines of a build of the trial's pages."""
    said = []
    return report.build(trial_profile(), notebooks=notebooks, echo=said.append, **options), said


@pytest.fixture(scope="module")
def built(kernels, tmp_path_factory):
    """A report of three pages: one complete, one whose notebook fails, one whose data are missing."""
    root = tmp_path_factory.mktemp("root")
    patch = pytest.MonkeyPatch()
    patch.setenv("BEYOND_ACCURACY_ROOT", str(root))
    patch.setattr(report, "_library_digest", lambda: "fixed")  # else saving a module while tests run reruns pages
    write_notebooks(root / "notebooks")
    yield root, *build(root / "notebooks")
    patch.undo()


def soup(root, page):
    return bs4.BeautifulSoup((root / "report" / "trial" / f"{page}.html").read_text("utf-8"), "html.parser")


def all_pages(root):
    names = ("01_mistakes", "03_calibration", "04_robustness", "index")
    return [(name, soup(root, name)) for name in names]


def test_a_failing_notebook_costs_the_exit_code_and_nothing_else(built):
    root, status, said = built
    assert status == 1
    written = {path.stem for path in (root / "report" / "trial").glob("*.html")}
    assert written == {"01_mistakes", "03_calibration", "04_robustness", "index", *report.TOOL_PAGES}
    front = soup(root, "index").select_one(".ba-front")  # of images of one's own, whatever the pages
    assert front.h1.text.startswith("Your images") and not front.select(".ba-source")
    page = soup(root, "01_mistakes")
    assert "before the failure" in page.text and "never" not in page.select_one("main").text
    assert "ValueError" in page.select_one("#why").text and "no <such> factor" in page.select_one("#why").text
    assert "1 later cell did not run" in page.select_one("#why").text
    assert not page.find("h2", string="After")
    assert any("01_mistakes: failed" in line for line in said)
    for path in (root / "report" / "trial" / "executed").iterdir():  # no paths and times of this machine
        assert "papermill" not in json.loads(path.read_text())["metadata"] and not path.name.startswith(".")
    missing = soup(root, "04_robustness")
    assert missing.select_one("#why code").text == "beyond-accuracy fetch --profile paper"
    assert "Traceback" not in missing.text and "DataMissing" not in missing.select_one("#why").text


def test_pages_may_load_nothing_and_links_lead_somewhere(built):
    """Requests and console of whole pages are watched in a browser (`test_browser.py`)."""
    for name, page in [*all_pages(built[0]), *((name, soup(built[0], name)) for name in report.TOOL_PAGES)]:
        assert "default-src 'none'" in page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        ids = {tag["id"] for tag in page.find_all(id=True)}
        assert len(ids) == len(page.find_all(id=True)), f"{name}: an id is repeated"
        for target in (link["href"] for link in page.select("a[href]")):
            if target.startswith("#"):
                assert target[1:] in ids, f"{name}: {target}"
            elif re.match(r"[a-z]+:", target):
                assert target.startswith(("data:text/csv", "https://")), f"{name}: {target}"
            else:
                assert (built[0] / "report" / "trial" / target.split("#")[0]).is_file(), f"{name}: {target}"


def test_cells_show_what_a_reader_wants(built):
    page = soup(built[0], "03_calibration")
    text = page.select_one("main").text
    assert "noise" not in text.replace('print("noise"', "") and "careful" not in text.replace('warn("careful")', "")
    assert "said <aloud>" in text
    assert "hidden_setup" not in text and "secret_code" not in text and "shown" in text
    assert "343434342" not in text  # the bare value of a last expression
    for fold in page.select("main details"):
        assert not fold.has_attr("open")
    assert page.select("details.ba-fold > summary")[-1].text == "Parameters and code of this page"
    assert [child.name for child in page.select("article > *")][:4] == ["p", "h1", "p", "figure"]  # answer, picture
    assert [picture["alt"] for picture in page.select("main img")] == ['A "line" <rising>']
    assert "It rises & rises." in page.select_one(".ba-figure figcaption").text
    inline, block = page.find_all("math")
    assert inline["display"] == "inline" and inline["alttext"] == "x^2 < y"
    assert block["display"] == "block" and block.find("mfrac") and "$" not in text
    assert page.select_one("p.ba-finding").text == "It rises by 0 of 15."  # the profile's seed came in
    headings = [heading["id"] for heading in page.select("article h2")]
    assert headings == ["method", "method-2"]
    assert page.select_one(".ba-kicker").text == "Calibration" and page.h1.text == "It rises a little"
    assert len(page.find_all("h1")) == 1


def test_every_page_has_landmarks_navigation_and_banner(built):
    for name, page in all_pages(built[0]):
        assert page.html["lang"] == "en" and page.find("main") and page.find("header")
        assert page.select_one("a.ba-skip")["href"] == "#" + page.find("main")["id"]
        listed = ["index", "01_mistakes", "03_calibration", "04_robustness", *report.TOOL_PAGES]
        assert [link["href"] for link in page.select(".ba-nav > ol > li > a")] == [f"{name}.html" for name in listed]
        current = page.select(".ba-nav [aria-current=page]")
        assert [link["href"] for link in current] == [f"{name}.html"]
        warning = page.select_one("main .ba-note[role=note]" if name == "index" else ".ba-banner").text
        assert "not the paper’s" in warning
        assert "Trial <world>" in page.title.text


def test_front_page_lists_findings_pages_and_the_command(built):
    page = soup(built[0], "index")
    found = [item.text.split(" Calibration")[0].strip() for item in page.select("details .ba-findings li")]
    assert found == ["Confidence of vit_sup <is> off by 2 points.", "A second finding."]
    listed = page.select("[aria-labelledby=all-pages] .ba-pages li")
    states = {item.a.text: item["class"] for item in listed[:3]}
    assert states == {"Mistakes": ["failed"], "Calibration": ["ok"], "Robustness": ["missing"]}
    assert listed[1].p.text == "It rises a little"  # what the page claims
    assert [item.a["href"] for item in listed[3:]] == [f"{name}.html" for name in report.TOOL_PAGES]
    assert "beyond-accuracy report --profile trial.yaml" in page.select_one(".ba-command").text
    assert (built[0] / "report" / "trial" / "results.parquet").is_file()


def test_unchanged_pages_are_not_rebuilt(built):
    root, *_ = built
    folder = root / "report" / "trial"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    status, said = build(root / "notebooks", only=["calibration"])
    assert status == 0 and said[0] == "03_calibration: unchanged"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("kind", "codes"), [("missing", (3, 0)), ("wrong", (2, 2))])
def test_a_page_without_some_of_its_sets_is_built_and_not_called_complete(built, monkeypatch, kind, codes):
    lacking = {kind: ["imagenet_c: folder not found", "imagenet_a: folder not found"]}
    monkeypatch.setattr(report, "fill_store", lambda _, pages, *__: {page.name: Filled(**lacking) for page in pages})
    for allowed, expected in zip((False, True), codes, strict=True):
        status, said = build(built[0] / "notebooks", only=["calibration"], allow_missing=allowed)
        assert status == expected and said[-1].startswith(f"incomplete: 2 {kind} (named above")
        assert any(line.startswith("03_calibration: ok") or line == "03_calibration: unchanged" for line in said)


def test_an_incomplete_page_is_tried_again(built):
    status, said = build(built[0] / "notebooks", only=["robustness"])
    assert status == 3 and said[0] == "04_robustness: running"


def test_a_changed_parameter_or_notebook_rebuilds_its_page_only(built, tmp_path):
    root, *_ = built
    notebooks = tmp_path / "notebooks"
    shutil.copytree(root / "notebooks", notebooks)
    others = root / "report" / "trial" / "01_mistakes.html"
    before, where = others.stat().st_mtime_ns, os.getcwd()
    changed = {"only": ["calibration"], "parameters": {"BINS": 20}}
    status, said = build(notebooks, **changed)
    assert status == 0 and said[0] == "03_calibration: running"
    assert soup(root, "03_calibration").select_one("p.ba-finding").text == "It rises by 0 of 20."
    assert others.stat().st_mtime_ns == before and os.getcwd() == where
    # Outputs and counts left by a run in JupyterLab are no change.
    path = notebooks / "03_calibration.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].execution_count = 5
    nbformat.write(notebook, path)
    assert build(notebooks, **changed)[1][0] == "03_calibration: unchanged"


def test_what_is_misspelt_or_no_notebook_is_refused_before_anything_runs(built, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="parameter 'BINZ'; did you mean BINS"):
        build(built[0] / "notebooks", parameters={"BINZ": 20})
    with pytest.raises(InputError, match="dimension 'calibraton'; did you mean calibration"):
        build(built[0] / "notebooks", only=["calibraton"])
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path))
    write_notebook(tmp_path / "03_calibration.ipynb", markdown("# A"), code('PROFIL = "mini"', "parameters"))
    with pytest.raises(InputError, match=r"03_calibration\.ipynb: its parameters cell must set PROFILE"):
        build(tmp_path)
    (tmp_path / "03_calibration.ipynb").write_text("{}")
    with pytest.raises(InputError, match="not a notebook"):
        build(tmp_path)


def test_a_kernel_that_dies_marks_the_page(kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path))
    cells = [code("print('alive')"), code("import os\nos._exit(1)"), code("print('never')")]
    given = [markdown("# Calibration\n\nWhy?"), code(PARAMETERS, "parameters")]
    write_notebook(tmp_path / "notebooks" / "03_calibration.ipynb", *given, *cells)
    assert build(tmp_path / "notebooks")[0] == 1
    page = soup(tmp_path, "03_calibration")
    assert "alive" in page.text and "never" not in page.select_one("article").text
    assert "DeadKernelError" in page.select_one("#why").text


# In a browser

SCRIPT = """
  const column = () => [...document.querySelectorAll("#tab-ece tbody td[data-sort]")].filter((_, i) => i % 2 == 0);
  const found = { width: document.documentElement.scrollWidth, sorted: [] };
  const button = document.querySelector("#tab-ece thead th:nth-child(5) button");
  for (let i = 0; button && i < 2; i++) { button.click(); found.sorted.push(column().map((c) => c.dataset.sort)); }
  window.dispatchEvent(new Event("beforeprint"));
  const made = [], create = URL.createObjectURL;
  URL.createObjectURL = (file) => { made.push(file.type); return create.call(URL, file); };
  for (const button of document.querySelectorAll("figure.ba-figure button.ba-csv")) button.click();
  await new Promise((done) => setTimeout(done, 300));
  found.made = made.sort();
  const folds = [...document.querySelectorAll("main details:not(.ba-code)")];
  found.open = folds.map((fold) => fold.open || Boolean(fold.querySelector(".ba-code")));
  return found;
"""


@pytest.mark.browser
def test_pages_fit_a_phone_and_the_script_works(built, chromium):
    root, *_ = built
    for name in ("03_calibration", "index"):
        chromium.open(root / "report" / "trial" / f"{name}.html", width=390)
        found = chromium.run(SCRIPT)
        assert found["width"] <= 390, name
        assert chromium.trouble == [], name
        assert all(found["open"])
        clamps = "return [...document.querySelectorAll('.ba-pages p')].map((p) => getComputedStyle(p).webkitLineClamp)"
        assert set(chromium.run(clamps)) == ({"none"} if name == "index" else set())  # what a page says is read whole
        if name == "03_calibration":
            assert len(found["open"]) > 1
            assert found["made"] == ["image/png", "image/svg+xml"]  # the figure, to keep
            assert found["sorted"] == [["0.015", "0.02", "0.05"], ["0.05", "0.02", "0.015"]]


# Parts that need no kernel


def test_the_library_fingerprint_follows_code_but_not_looks(tmp_path, monkeypatch):
    for name in ("stats.py", "report/html.py", "assets/paper.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(report, "LIBRARY", tmp_path)
    monkeypatch.setattr(report, "ASSETS", tmp_path / "assets")
    first = LIBRARY_DIGEST()
    (tmp_path / "report/html.py").write_text("two")
    assert LIBRARY_DIGEST() == first
    for name in ("stats.py", "assets/paper.csv"):
        before = LIBRARY_DIGEST()
        (tmp_path / name).write_text("two")
        assert LIBRARY_DIGEST() != before
    before, installed = LIBRARY_DIGEST(), report.version
    monkeypatch.setattr(report, "version", lambda name: "other" if name == "pillow" else installed(name))
    assert LIBRARY_DIGEST() != before  # what decodes and resizes decides numbers


def test_pages_that_read_the_others_depend_on_their_results(tmp_path):
    results.write_dimension(tmp_path, "calibration", result_rows().iloc[2:3])
    before = report._results_digest(tmp_path, "summary")
    results.write_dimension(tmp_path, "models", result_rows().iloc[:1])
    assert report._results_digest(tmp_path, "models") == before  # a page's own results do not count
    assert report._results_digest(tmp_path, "summary") != before


def test_markup_of_commands_and_formulas():
    assert results.code_spans("run `a < b` & go") == "run <code>a &lt; b</code> &amp; go"
    assert results.code_spans("one ` only") == "one ` only"
    assert html.math_html(r"\frac{1}{2}").startswith('<math alttext="\\frac{1}{2}"')
    assert html.math_html(r"\left( x") == '<code class="ba-tex">\\left( x</code>'  # unreadable: its source


def front(tmp_path, rows, **changes):
    models = {
        "vit_sup": {"source": "predictions", "label": "ViT <s>", "family": "transformer"},
        "vit_clip": {"source": "predictions", "label": "ViT, CLIP", "family": "transformer", "paradigm": "clip"},
        "resnet": {"source": "predictions", "label": "ResNet", "family": "convnet"},
    }
    dimensions = {"models": {"clean": "val"}, "calibration": {"clean": "val", "shifted": ["sketch", "r"]}}
    profile = trial_profile(models=models, dimensions=dimensions, **changes)
    views = [html.PageView("00_overview", "models", "ok"), html.PageView("03_calibration", "calibration", "ok")]
    listed = ["models", "calibration"]
    site = {"profile": "trial", "title": "Trial", "synthetic": False}
    page = report_front.front_page(tmp_path, profile, "vit_sup,vit_clip", listed, views, site, rows)
    return profile, bs4.BeautifulSoup(page, "html.parser")


def result_rows():
    rows = [
        ("models", "val", "accuracy", "vit_sup", 81.25, 80.0, 82.0, "percent"),
        ("models", "val", "accuracy", "resnet", 76.0, 75.0, 77.0, "percent"),
        ("calibration", "val", results.ECE, "vit_clip", 0.05, None, None, "fraction"),
        ("calibration", "r", results.ECE, "vit_clip", 0.1, 0.08, 0.12, "fraction"),
        ("calibration", "r", results.ECE, "vit_sup", 0.2, 0.18, 0.22, "fraction"),
    ]
    columns = [name for name in results.RESULT_COLUMNS if name != "n"]
    return pd.DataFrame(rows, columns=columns).assign(n=1_000)


def test_front_page_numbers_come_from_the_results(tmp_path):
    profile, page = front(tmp_path, result_rows())
    panels = {panel.h3.text.split(" ↑")[0].split(" ↓")[0]: panel for panel in page.select(".ba-panel")}
    clean = "Accuracy, clean (%)"
    assert list(panels) == [clean, "Calibration error (ECE)", "Calibration error under shift (ECE)"]
    cells = [[cell.text for cell in row.select("th, td.num")] for row in panels[clean].select("tbody tr")]
    assert cells == [["ViT <s>", "81.2 [80.0, 82.0]"], ["ResNet", "76.0 [75.0, 77.0]"]]
    assert "n = 1,000" in panels["Accuracy, clean (%)"].p.text
    shifted = panels["Calibration error under shift (ECE)"]
    assert [row.th.text for row in shifted.select("tbody tr")] == ["ViT <s>", "ViT, CLIP"]  # profile order
    assert "kindr · n = 1,000 images" in shifted.p.text  # the first shifted set that has rows
    table = page.select_one("#tab-headline table")
    assert [row.th.text for row in table.select("tbody tr")] == ["ViT <s>", "ViT, CLIP", "ResNet"]
    assert [cell.text for cell in table.select("tbody tr")[1].select("td")] == ["–", "0.050", "0.100 [0.080, 0.120]"]
    assert page.select_one(".ba-models code").text == "imported predictions"
    assert "--models vit_sup,vit_clip" in page.select_one(".ba-command").text
    assert not page.select(".ba-banner")
    lines = panels[clean].select("line[stroke-width]")  # marks lie on a common scale
    ends = [(float(line["x1"].rstrip("%")), float(line["x2"].rstrip("%"))) for line in lines]
    assert ends[1][0] == 6 and ends[0][1] == 94  # lowest and highest end of all intervals
    assert ends[1][1] == pytest.approx(6 + 88 * 2 / 7, abs=0.01)


def test_front_page_opens_with_a_picture_of_this_run_and_a_link_to_real_models(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path))
    assert not front(tmp_path, result_rows())[1].select("figure.ba-figure")
    bare = front(tmp_path, result_rows().iloc[:0])[1]  # without results it is still a page
    assert bare.h1 and not bare.select(".ba-panel") and not bare.select("#tab-headline")
    fig, _ = plt.subplots(figsize=(2, 1))
    results.save_figure(fig, tmp_path / "figures" / "trial" / "models", "accuracy", "Marks <b>.", "C.", pd.DataFrame())
    plt.close(fig)
    assert front(tmp_path, result_rows())[1].select_one("#fig-accuracy img")["alt"] == "Marks <b>."
    toys = {"profile": "trial", "title": "Trial", "synthetic": True}
    for tools, links in (([], []), ([html.PageView("models", "Real models", "ok")], ["models.html"])):
        advice = [{"href": "choose.html", "purpose": "Cheap", "model": "a or b or c", "sure": "open: a", "numbers": ""}]
        site = toys | {"tools": tools, "advice": advice}
        text = report_front.front_page(tmp_path, trial_profile(), "", [], [], site, result_rows()[:0])
        page = bs4.BeautifulSoup(text, "html.parser")
        words = [word.text for word in page.select("#advice ~ details strong")]
        assert words == [verdicts.BEYOND_NOISE, verdicts.THESE, verdicts.OPEN, choose.COST]
        assert "Several models are named" in text
        note = page.select_one("main article > *")
        assert note.text.startswith("Toy models of a controlled experiment")
        assert [link["href"] for link in note.select("a")] == links


def test_the_finding_also_stands_first_and_provenance_is_folded():
    said = '<p class="ba-finding">A <code>b</code> &lt; c.</p>'
    made = '<figure class="ba-table" id="tab-provenance-x"><figcaption>f</figcaption><table></table></figure>'
    output = nbformat.v4.new_output("display_data", data={"text/html": said + made})
    cells = [markdown("# Title\n\nWhy?"), markdown("## Finding"), nbformat.v4.new_code_cell("x", outputs=[output])]
    soup = bs4.BeautifulSoup(html.render_body(nbformat.v4.new_notebook(cells=cells)).html, "html.parser")
    short = soup.select_one("p.ba-short")
    assert short.text == "In short: A b < c." and short.a["href"] == "#finding" and short.code.text == "b"
    assert short.find_next("h2")["id"] == "finding" and soup.select_one("p.ba-finding").text == "A b < c."
    fold = soup.select_one("details.ba-fold:has(#tab-provenance-x)")
    assert fold.summary.text.startswith("What made these numbers") and fold.select_one("#tab-provenance-x")
    assert "ba-short" not in html.render_body(nbformat.v4.new_notebook(cells=cells[:2])).html
