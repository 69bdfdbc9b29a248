"""The front page: what is compared, what was found, the headline numbers side by side, the pages, how to rerun.

And the glossary of the metrics, whose headlines it shows.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bs4
import pandas as pd
from markupsafe import Markup

from beyond_accuracy.base.files import read_json
from beyond_accuracy.base.paths import figures_dir, project_root
from beyond_accuracy.base.profile import ModelSpec, Profile, available_profiles
from beyond_accuracy.measure.verdicts import counted
from beyond_accuracy.report import PageView
from beyond_accuracy.report.html import Body, first_words, fragment
from beyond_accuracy.show import results, tables, theme


@dataclass(frozen=True)
class Headline:
    """One headline number: an entry of `headlines` in `metrics.yaml`, completed by what is said of its metric."""

    key: str
    page: str
    metric: str
    heading: str  # with its unit: `Accuracy (%)`
    format: str
    better: str  # up, down, or empty
    counted: str  # what its n counts
    role: str = "clean"  # the profile's, whose dataset counts, or a literal dataset such as `average`
    words: str = ""  # on the front page
    step: float = 0  # in the chooser
    log: bool = False
    known: float = 1.0

    @property
    def name(self) -> str:
        """Heading without its unit."""
        return re.sub(r" \([^()]*\)$", "", self.heading)

    @property
    def arrowed(self) -> str:
        """Heading with the better direction as an arrow."""
        return f"{self.heading} {tables.ARROWS.get(self.better, '')}".strip()


def _headline(entry: Mapping[str, object]) -> Headline:
    about = {"better": ""} | tables.about(entry["metric"])
    counted = tables.glossary()["counted"].get(entry["page"], "images")
    full = {name: about[name] for name in ("heading", "format", "better")} | {"counted": counted} | entry
    return Headline(**full | {"heading": full["heading"][0].upper() + full["heading"][1:]})


HEADLINES = tuple(map(_headline, tables.glossary()["headlines"]))
PICTURES = ("world/classes", "robustness/lead", "models/accuracy")  # the first that there is opens the front page


def front_page(
    folder: Path,  # `report/<profile>`
    profile: Profile,
    models: str,  # the subset asked for, for the command shown
    dimensions: Sequence[str],  # of the pages, in order
    views: Sequence[PageView],  # what is shown of them, in the same order
    site: Mapping[str, object],  # as for `html.page_html`
    table: pd.DataFrame,  # results
) -> str:
    """The front page as HTML."""
    built = {name: view for name, view in zip(dimensions, views, strict=True) if view.status != "absent"}
    looks = {name: _look(style) for name, style in theme.styles(profile.models.values()).items()}
    chosen = headline_rows(table, profile, [headline for headline in HEADLINES if headline.words])
    found = _findings(folder, built)
    shown = {
        "lede": profile.description or f"How {counted(len(profile.models), 'model')} behave beyond accuracy.",
        "picture": _picture(profile),
        "said": {view.name: view.claim or first_words(found.get(name, [view.lead])[0]) for name, view in built.items()},
        "findings": [(built[name], sentence) for name, sentences in found.items() for sentence in sentences],
        "models": [{"label": s.label, "id": _origin(s), "look": looks[s.name]} for s in profile.models.values()],
        "panels": [_panel(headline, rows, profile, looks, built) for headline, rows in chosen],
        "table": Markup(_summary_table(chosen, profile)) if chosen else "",  # noqa: S704 (escaped by table_html)
        "command": _command(profile, models),
        "facts": _facts(profile, views),
    }
    return fragment("front.html.j2", pages=views, page=None, site=site, **shown)


def headline_rows(
    table: pd.DataFrame, profile: Profile, headlines: Sequence[Headline]
) -> list[tuple[Headline, pd.DataFrame]]:
    """Rows of the results behind each headline number, models in profile order; headlines without rows are left out."""
    chosen = []
    for headline in headlines:
        rows = table[(table["dimension"] == headline.page) & (table["metric"] == headline.metric)]
        rows = rows[rows["model"].isin(profile.models)]
        dataset = _dataset(headline, list(dict.fromkeys(rows["dataset"])), profile)
        if dataset is not None:
            rows = rows[rows["dataset"] == dataset].set_index("model")
            chosen.append((headline, rows.loc[[n for n in profile.models if n in rows.index]].reset_index()))
    return chosen


def _dataset(headline: Headline, have: Sequence[str], profile: Profile) -> str | None:
    role = profile.dimensions.get(headline.page, {}).get(headline.role, headline.role)
    for name in [role] if isinstance(role, str) else role if isinstance(role, list) else []:
        if name in have:
            return name
    # A role that names no dataset of the results leaves no doubt only where there is a single candidate.
    return have[0] if len(have) == 1 and headline.role not in {"shifted", "average"} else None


def _panel(headline: Headline, rows: pd.DataFrame, profile: Profile, looks: Mapping, built: Mapping) -> dict:
    ends = rows[["value", "ci_low", "ci_high"]].astype(float)
    low, high = ends.min().min(), ends.max().max()
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    marks = []
    for row in rows.to_dict("records"):
        text = tables.format_interval(row["value"], row["ci_low"], row["ci_high"], headline.format)
        value, _, interval = text.partition(" ")
        places = [  # of the mark and the ends of its interval, on the panel's common scale
            "" if pd.isna(row[name]) else f"{6 + 88 * (row[name] - low) / (high - low):.2f}%" for name in ends
        ]
        label = profile.models[row["model"]].label
        marks.append({"label": label, "look": looks[row["model"]], "places": places, "value": value, "ci": interval})
    return {
        "headline": headline,
        "arrow": tables.ARROWS.get(headline.better, ""),
        "href": built[headline.page].href if headline.page in built else "",
        "dataset": _dataset_title(rows["dataset"].iloc[0], profile, headline.page),
        "n": _count(rows["n"], headline.counted),
        "rows": marks,
    }


def _summary_table(chosen: Sequence[tuple[Headline, pd.DataFrame]], profile: Profile) -> str:
    """Models down, headline numbers across."""
    present = [name for name in profile.models if any((rows["model"] == name).any() for _, rows in chosen)]
    frame = pd.DataFrame({"model": [profile.models[name].label for name in present]}, index=present)
    labels, formats = {"model": "Model"}, {}
    for headline, rows in chosen:
        page = "" if headline.page == "models" else f" ({headline.page})"
        column = f"{headline.metric}, {rows['dataset'].iloc[0]}{page}"
        for name, end in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            frame[f"{column}{end}"] = rows.set_index("model")[name].reindex(present)
        count = _count(rows["n"], headline.counted)
        labels[column] = headline.arrowed + (f", n = {count}" if count else "")
        formats[column] = headline.format
    caption = "Headline numbers with 95 % intervals. ↑ higher is better, ↓ lower is better."
    return tables.table_html(frame, caption, name="headline", labels=labels, formats=formats)


def _look(style: theme.ModelStyle) -> dict[str, object]:
    # the purple is too dark on a dark page, where the style sheet has another
    color = "var(--purple)" if style.color == theme.PURPLE else style.color
    fill = color if style.markerfacecolor != "white" else "var(--ground)"
    return {"color": color, "fill": fill, "marker": style.marker, "dashed": style.linestyle != "-"}


def _count(n: pd.Series, counted: str) -> str:
    counts = n.dropna().astype(int)
    ends = dict.fromkeys((counts.min(), counts.max())) if len(counts) else ()
    return f"{' to '.join(f'{count:,}' for count in ends)} {counted}" if ends else ""


def _dataset_title(name: str, profile: Profile, page: str) -> str:
    if name == "average":
        return "mean of all tasks" if page == "transfer" else "mean of all sets"
    spec = profile.datasets.get(name)
    return spec.title if spec and spec.title else name.replace("_", " ")


def _picture(profile: Profile) -> Markup | str:
    """A figure of this run that says at a glance what the report is about, as its page shows it."""
    for stem in (figures_dir(profile.name) / name for name in PICTURES):
        files = {kind: stem.with_suffix(f".{kind}") for kind in ("json", "svg", "png", "csv")}
        if all(path.is_file() for path in files.values()):
            words = read_json(files["json"])
            drawn = {kind: files[kind].read_bytes() for kind in ("svg", "png")}
            csv = files["csv"].read_text(encoding="utf-8")
            return Markup(results.figure_html(**words, **drawn, csv=csv))  # noqa: S704 (its template escapes)
    return ""


def _findings(folder: Path, built: Mapping[str, PageView]) -> dict[str, list[str]]:
    """Findings of each page that has some; the first is its main one."""
    found = {}
    for dimension in built:
        path = folder / "findings" / f"{dimension}.json"
        if path.is_file():
            found[dimension] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _command(profile: Profile, models: str) -> str:
    shipped = available_profiles().get(profile.name) == profile.source
    source, root = profile.source.resolve(), project_root().resolve()
    # no folder of this machine in a page that is passed on
    named = str(source.relative_to(root)) if source.is_relative_to(root) else source.name
    words = ["beyond-accuracy", "report", "--profile", profile.name if shipped else named]
    return shlex.join(words + (["--models", models] if models else []))


def _origin(spec: ModelSpec) -> str:
    """Where a model comes from, as far as it says something to a reader: the library's name, not a folder."""
    if spec.source == "predictions":
        return "imported predictions"
    if spec.id.startswith("local-dir:"):
        return ""
    return f"{spec.id} / {spec.pretrained}" if spec.pretrained and not Path(spec.pretrained).suffix else spec.id


def _facts(profile: Profile, views: Sequence[PageView]) -> dict[str, str]:
    """What the pages say about how they were made, together; the dates as a range."""
    facts = {"Profile": f"{profile.name} ({profile.title})", "Code": "none run yet"}
    for name in ("Code", "Environment", "Date"):
        if values := sorted({view.facts[name] for view in views if name in view.facts}):
            facts[name] = "; ".join(values) if name == "Code" else " to ".join(dict.fromkeys((values[0], values[-1])))
    settings = profile.settings
    facts["Conventions"] = (
        f"preprocessing {settings.preset}, logit scale {settings.logit_scale}, precision {settings.precision}, "
        f"seed {settings.seed}, {settings.resamples:,} resamples"
    )
    return facts


def metrics_body() -> Body:
    """The inside of `metrics.html`, from `show/metrics.yaml`; each metric's heading has the id `metric-<name>`."""
    document = tables.glossary()
    sections = [(re.sub(r"[^a-z]+", "-", s["title"].lower()).strip("-"), s) for s in document["sections"]]
    inside = fragment("metrics.html.j2", document=document, sections=sections)
    lead = "Each metric of this report: formula, unit, better direction, interval, source."
    anchors = [*((anchor, section["title"]) for anchor, section in sections), ("works", "Works cited")]
    return Body("What the numbers mean", lead, anchors, str(bs4.BeautifulSoup(inside, "html.parser")))
