"""The front page: what is compared, what was found, the headline numbers side by side, the pages, how to rerun."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import ModelSpec, Profile, available_profiles
from beyond_accuracy.report import html as report_pages
from beyond_accuracy.show import results, tables, theme


@dataclass(frozen=True)
class Headline:
    """One headline number: where its rows are found and how they are read.

    Attributes:
        dimension: Page that records it.
        metric: Metric name in the results.
        label: Heading.
        better: `higher`, `lower`, or empty where neither end is good.
        role: The profile's role whose dataset counts (`clean`, `shifted`, …), or a literal dataset such as `average`.
        words: What the number says, in a few words.
        counted: What its n counts.
    """

    dimension: str
    metric: str
    label: str
    better: str
    role: str = "clean"
    words: str = ""
    counted: str = "images"


HEADLINES = (
    Headline("models", "accuracy", "Accuracy", "higher", words="right first answers on plain images"),
    Headline(
        "calibration", results.ECE, "Calibration error (ECE)", "lower", words="0.02: confidence is off by 2 points"
    ),
    Headline(
        *("calibration", results.ECE, "Calibration error under shift (ECE)", "lower", "shifted"),
        words="the same on images of another kind",
    ),
    Headline("robustness", "accuracy", "Accuracy under shift, mean", "higher", "average", "over all shifted sets"),
    Headline(
        *("transfer", "accuracy", "Transfer accuracy, mean", "higher", "average"),
        words="a linear classifier on frozen features",
        counted="tasks",
    ),
    Headline(
        *("synthetic", "accuracy:average", "Synthetic viewpoints, mean accuracy", "higher", "pug"),
        words="rendered scenes, one factor varied at a time",
        counted="scenes",
    ),
    Headline(
        *("mistakes", "error_ratio:average", "Error ratio, mean over factors", "", "factors"),
        words="1: odd poses, textures, … cost nothing extra; 2: twice the errors. More errors overall make it smaller",
    ),
    Headline(
        *("shape_bias", "shape_bias", "Shape bias", "", "cue_conflict"),
        words="1: decides by shape, 0: by texture",
        counted="shape images",
    ),
)
LEADING = ("calibration", "robustness", "transfer", "invariance", "shape_bias", "mistakes", "synthetic", "models")
SENTENCES = 5  # findings shown unfolded
_DIRECTION = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better"), "": ("", "")}
# Marker outlines within a circle of radius 5, for the SVG strips; other markers are drawn as squares.
_OUTLINES = {
    "^": "M0-5L4.8 3.8H-4.8Z",
    "v": "M0 5L4.8-3.8H-4.8Z",
    "D": "M0-5L5 0L0 5L-5 0Z",
    "<": "M-5 0L3.8-4.8V4.8Z",
    ">": "M5 0L-3.8-4.8V4.8Z",
    "P": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "X": "M0-2L3-5L5-3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0L-5-3L-3-5Z",
}


def front_page(
    folder: Path,
    profile: Profile,
    models: str,
    pages: Sequence[object],
    views: Sequence[report_pages.PageView],
    site: Mapping[str, object],
) -> str:
    """The front page as HTML; writes `results.csv` and `results.parquet` on the way.

    Args:
        folder: `report/<profile>`.
        profile: The profile.
        models: The subset of models asked for, for the command shown.
        pages: The report's pages (`.name`, `.dimension`), in order.
        views: What is shown of them, in the same order.
        site: As for `report_pages.page_html`.
    """
    table = results.collect(folder, [page.dimension for page in pages])
    hrefs = {page.dimension: view.href for page, view in zip(pages, views, strict=True) if view.status != "absent"}
    looks = theme.styles(profile.models.values())
    chosen = headline_rows(table, profile)
    findings = _findings(folder, pages, views)
    return report_pages.front_html(
        views,
        site,
        lede=_lede(profile),
        models=[
            {"label": spec.label, "id": _origin(spec), "mark": mark(looks[spec.name])}
            for spec in profile.models.values()
        ],
        **_arranged(findings),
        panels=[_panel(headline, rows, profile, looks, hrefs) for headline, rows in chosen],
        table=Markup(_summary_table(chosen, profile)) if chosen else "",  # noqa: S704 (escaped by table_html)
        command=_command(profile, models),
        facts=_facts(profile, views),
    )


def headline_rows(
    table: pd.DataFrame, profile: Profile, headlines: Sequence[Headline] = HEADLINES
) -> list[tuple[Headline, pd.DataFrame]]:
    """Rows of the results behind each headline number, models in profile order; headlines without rows are left out."""
    chosen = []
    for headline in headlines:
        rows = table[(table["dimension"] == headline.dimension) & (table["metric"] == headline.metric)]
        rows = rows[rows["model"].isin(profile.models)]
        dataset = _dataset(headline, rows, profile)
        if dataset is None:
            continue
        rows = rows[rows["dataset"] == dataset].set_index("model")
        order = [name for name in profile.models if name in rows.index]
        chosen.append((headline, rows.loc[order].reset_index()))
    return chosen


def _dataset(headline: Headline, rows: pd.DataFrame, profile: Profile) -> str | None:
    role = profile.dimensions.get(headline.dimension, {}).get(headline.role, headline.role)
    wanted = [role] if isinstance(role, str) else list(role) if isinstance(role, list) else []
    have = list(dict.fromkeys(rows["dataset"]))
    named = [name for name in wanted if name in have]
    if named:
        return named[0]
    # A role that names no dataset of the results leaves no doubt only where there is a single candidate.
    return have[0] if len(have) == 1 and headline.role not in {"shifted", "average"} else None


def _panel(
    headline: Headline, rows: pd.DataFrame, profile: Profile, looks: Mapping[str, theme.ModelStyle], hrefs: Mapping
) -> dict[str, object]:
    arrow, direction = _DIRECTION[headline.better]
    low, high = _range(rows)
    spec = _spec(rows)
    lines = []
    for row in rows.to_dict("records"):
        text = tables.format_interval(row["value"], row["ci_low"], row["ci_high"], spec)
        value, _, interval = text.partition(" ")
        strip = _strip(looks[row["model"]], row, low, high)
        lines.append({"label": looks[row["model"]].label, "strip": strip, "value": value, "interval": interval})
    return {
        "label": headline.label,
        "arrow": arrow,
        "direction": direction,
        "href": hrefs.get(headline.dimension, ""),
        "dataset": _dataset_title(rows["dataset"].iloc[0], profile, headline.counted) + _unit(rows["unit"].iloc[0]),
        "words": headline.words,
        "n": _count(rows["n"], headline.counted),
        "rows": lines,
    }


def _summary_table(chosen: Sequence[tuple[Headline, pd.DataFrame]], profile: Profile) -> str:
    """Models down, headline numbers across."""
    present = [name for name in profile.models if any((rows["model"] == name).any() for _, rows in chosen)]
    frame = pd.DataFrame({"model": [profile.models[name].label for name in present]}, index=present)
    labels, formats = {"model": "Model"}, {}
    for headline, rows in chosen:
        dataset = rows["dataset"].iloc[0]
        column = f"{headline.metric}, {dataset}" + (
            "" if headline.dimension == "models" else f" ({headline.dimension})"
        )
        by_model = rows.set_index("model")
        frame[column], frame[f"{column}_low"], frame[f"{column}_high"] = (
            by_model[name].reindex(present) for name in ("value", "ci_low", "ci_high")
        )
        count = _count(rows["n"], headline.counted)
        arrow = _DIRECTION[headline.better][0]
        labels[column] = f"{headline.label} {arrow}".strip() + (f", n = {count}" if count else "")
        formats[column] = _spec(rows)
    caption = "Headline numbers with 95 % intervals. ↑ higher is better, ↓ lower is better."
    return tables.table_html(frame, caption, name="headline", labels=labels, formats=formats)


def _range(rows: pd.DataFrame) -> tuple[float, float]:
    ends = pd.concat([rows["value"], rows["ci_low"], rows["ci_high"]]).astype(float)
    low, high = ends.min(), ends.max()
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _strip(look: theme.ModelStyle, row: Mapping[str, float], low: float, high: float) -> Markup:
    """A mark with its interval on the panel's common scale."""

    def place(value: float) -> str:
        return f"{6 + 88 * (value - low) / (high - low):.2f}%"

    line = ""
    if pd.notna(row["ci_low"]):
        dashes = "" if look.linestyle == "-" else ' stroke-dasharray="3 2"'
        ends = f'x1="{place(row["ci_low"])}" x2="{place(row["ci_high"])}" y1="8" y2="8"'
        line = f'<line {ends} stroke="{_visible(look.color)}" stroke-width="2"{dashes}/>'
    spot = f'<svg x="{place(row["value"])}" y="8" style="overflow:visible">{_shape(look)}</svg>'
    rule = '<line x1="0" x2="100%" y1="8" y2="8" stroke="var(--rule)"/>'
    return Markup(f'<svg width="100%" height="16" focusable="false">{rule}{line}{spot}</svg>')  # noqa: S704 (numbers)


def mark(look: theme.ModelStyle) -> Markup:
    """A model's marker, for lists."""
    shape = f'<svg x="8" y="8" style="overflow:visible">{_shape(look)}</svg>'
    return Markup(f'<svg width="16" height="16" aria-hidden="true" focusable="false">{shape}</svg>')  # noqa: S704


def _shape(look: theme.ModelStyle) -> str:
    color = _visible(look.color)
    fill = color if look.markerfacecolor != "white" else "var(--ground)"
    paint = f'fill="{fill}" stroke="{color}" stroke-width="1.6"'
    if look.marker == "o":
        return f'<circle r="4.2" {paint}/>'
    return f'<path d="{_OUTLINES.get(look.marker, "M-4-4H4V4H-4Z")}" {paint}/>'


def _visible(color: str) -> str:
    """The style sheet's variant of a colour: the purple is too dark on a dark page."""
    return "var(--purple)" if color == theme.PURPLE else html.escape(color)


def _spec(rows: pd.DataFrame) -> str:
    return ".1f" if rows["unit"].iloc[0] == "percent" else ".3f"


def _unit(unit: str) -> str:
    return {"percent": " · in %", "fraction": "", "ratio": ""}.get(unit, f" · {unit}")


def _count(n: pd.Series, counted: str) -> str:
    counts = sorted(set(n.dropna().astype(int)))
    if not counts:
        return ""
    return (f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}") + f" {counted}"


def _dataset_title(name: str, profile: Profile, counted: str = "images") -> str:
    spec = profile.datasets.get(name)
    mean = "mean of all tasks" if counted == "tasks" else "mean of all sets"
    return (spec.title if spec and spec.title else name.replace("_", " ")) if name != "average" else mean


def _lede(profile: Profile) -> str:
    count, names = len(profile.models), {"1": "one model", "2": "two models", "3": "three models", "4": "four models"}
    size = names.get(str(count), f"{count} models")
    return profile.description or (
        f"How {size} behave beyond accuracy: what they get wrong, how far their confidence can be trusted, what they "
        "look at, and what a shift of the data does to them."
    )


def _findings(
    folder: Path, pages: Sequence[object], views: Sequence[report_pages.PageView]
) -> list[list[dict[str, str]]]:
    """Findings page by page; the first of a page is its main one (pages put it first)."""
    found = []
    for page, view in zip(pages, views, strict=True):
        path = folder / "findings" / f"{page.dimension}.json"
        if not path.is_file() or view.status == "absent":
            continue
        sentences = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(sentences, list) or not all(isinstance(text, str) for text in sentences):
            raise InputError(f"{path}: expected a list of sentences")
        if sentences:
            common = {"href": view.href, "page": view.title, "dimension": page.dimension}
            found.append([{"text": text, **common} for text in sentences])
    return found


def _arranged(found: Sequence[list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    """Findings for the template: what became of the claims, the main sentences of five pages, everything else."""
    claims = [sentence for page in found if page[0]["dimension"] == "summary" for sentence in page]
    others = [page for page in found if page[0]["dimension"] != "summary"]
    rank = {name: i for i, name in enumerate(LEADING)}
    by_rank = sorted(others, key=lambda page: rank.get(page[0]["dimension"], len(rank)))
    chosen = [page[0] for page in by_rank[:SENTENCES]]
    leading = [page[0] for page in others if page[0] in chosen]
    rest = [sentence for page in others for sentence in page if sentence not in leading]
    return {"findings": leading, "more_findings": rest, "claims": claims}


def _command(profile: Profile, models: str) -> str:
    shipped = available_profiles().get(profile.name) == profile.source
    words = ["beyond-accuracy", "report", "--profile", profile.name if shipped else profile.source.name]
    return shlex.join(words + (["--models", models] if models else []))


def _origin(spec: ModelSpec) -> str:
    """Where a model comes from, as far as it says something to a reader: the library's name, not a folder."""
    if spec.source == "predictions":
        return "imported predictions"
    if spec.id.startswith("local-dir:"):
        return ""
    return f"{spec.id} / {spec.pretrained}" if spec.pretrained and not Path(spec.pretrained).suffix else spec.id


def _facts(profile: Profile, views: Sequence[report_pages.PageView]) -> dict[str, str]:
    """What the pages say about how they were made, together; the dates as a range."""
    facts = {"Profile": f"{profile.name} ({profile.title})"}
    for name in ("Code", "Environment", "Date"):
        values = sorted({view.facts[name] for view in views if name in view.facts})
        if values:
            facts[name] = values[0] if len(values) == 1 else " to ".join((values[0], values[-1]))
    facts["Code"] = "; ".join(sorted({view.facts["Code"] for view in views if "Code" in view.facts})) or "none run yet"
    settings = profile.settings
    facts["Conventions"] = (
        f"preprocessing {settings.preset}, logit scale {settings.logit_scale}, precision {settings.precision}, "
        f"seed {settings.seed}, {settings.resamples:,} resamples"
    )
    return facts
