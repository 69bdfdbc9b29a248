"""The pages that are no notebooks. The glossary: every metric is described, and every link to it arrives."""

import re

import bs4
import pandas as pd
import pytest

from beyond_accuracy.base.paths import project_root
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.dimensions import conventions, invariance
from beyond_accuracy.report import front, html, images
from beyond_accuracy.report.build import LIBRARY
from beyond_accuracy.show import tables


def test_every_metric_the_code_records_is_described():
    named = {headline.metric.partition(":")[0] for headline in front.HEADLINES}
    named |= set(invariance.KINDS)
    named |= {f"{name.replace(':', '_')}_change" for name in conventions.METRICS}
    rows = re.compile(r'tidy\.(?:rows?|pairs|against_zero|accuracy)\(\s*f?"([a-z_]+)')
    for path in sorted((LIBRARY / "dimensions").rglob("*.py")):
        named |= set(rows.findall(path.read_text(encoding="utf-8")))
    assert len(named) > 15
    assert {name.partition(":")[0] for name in named} - set(tables.described()) == set()


@pytest.mark.parametrize("report", ["docs/report", "report/mini"])
def test_every_metric_of_a_built_report_is_described(report):
    path = project_root() / report / "results.csv"
    if not path.is_file():
        pytest.skip(f"{report} is not built")
    names = set(pd.read_csv(path)["metric"].str.partition(":")[0])
    assert names - set(tables.described()) == set()


def test_the_page_has_an_anchor_per_metric_and_readable_formulas():
    body = front.metrics_body()
    soup = bs4.BeautifulSoup(body.html, "html.parser")
    assert {h["id"].removeprefix("metric-") for h in soup.select("h3")} == set(tables.described())
    assert [text for _, text in body.sections][:3] == ["Cost", "Right and wrong", "Confidence"]
    assert len(soup.select("math")) > 10 and not soup.select(".ba-tex")
    for h3 in soup.select("h3"):
        words = ""
        for sibling in h3.find_next_siblings():
            if sibling.name in {"h2", "h3"}:
                break
            words += sibling.get_text()
        assert len(words) > 40, h3["id"]


def test_links_from_the_folds_arrive():
    texts = html.readings()
    assert set(texts["metrics"]) <= set(texts["kinds"])
    assert {name for names in texts["metrics"].values() for name in names} <= set(tables.described())


def test_the_error_browser_is_picked_again_only_where_something_changed(tmp_path, monkeypatch):
    calls, profile = [], load_profile("mini")
    body = html.Body("Look", "lead", [("a", "A")], "<p>inside</p>")
    monkeypatch.setattr(images, "body", lambda *_: calls.append(1) or body)
    for inputs, count in ((["one"], 1), (["one"], 1), (["two"], 2)):
        assert images.kept_body(tmp_path, inputs, profile, {}) == body
        assert len(calls) == count
    kept = tmp_path / ".state" / "images.json"
    for count, damaged in enumerate(("{", kept.read_text().replace("inside", "edited")), 3):
        kept.write_text(damaged)
        assert images.kept_body(tmp_path, ["two"], profile, {}) == body and len(calls) == count
