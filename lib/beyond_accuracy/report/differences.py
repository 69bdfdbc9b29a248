"""The page "Which differences are real": every comparison that the pages recorded, with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.power import normal_sample_size_one_tail

from beyond_accuracy.base.files import write_atomically
from beyond_accuracy.base.profile import Profile
from beyond_accuracy.measure import stats
from beyond_accuracy.measure.verdicts import BEYOND_NOISE, LEVEL, OPEN, THESE, is_bound
from beyond_accuracy.report.html import Body, fragment
from beyond_accuracy.show import results, tables

POWER = 0.8
_MOST_NEEDED = 10**9  # beyond this no benchmark helps, and the normal approximation has no meaning


def difference_table(comparisons: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The comparisons of some models, each question once.

    A question that two pages asked of the same images is the first page's. New columns: `basis` (all are paired),
    `real` (the verdict is not `open`), `needed`: the number of units (of what n counts) at which a difference so large
    would be found with probability 0.8, if the width of its interval shrinks with the square root of their number.
    """
    rows = comparisons[comparisons["model_a"].isin(models) & comparisons["model_b"].isin([*models, ""])]
    rows = rows.drop_duplicates(["dataset", "metric", "model_a", "model_b", "difference", "n"]).reset_index(drop=True)
    numbers = rows[["difference", "ci_low", "ci_high", "n"]].astype(float)
    real = (rows["verdict"] != OPEN).astype(bool)
    needed = [needed_units(*row) for row in numbers.itertuples(index=False)]
    # a test may be sharper than the interval beside it: what is told already does not need more
    needed = [
        None if told and n is not None and n > has else n
        for n, told, has in zip(needed, real, numbers["n"], strict=True)
    ]
    return rows.assign(n=rows["n"].astype("Int64"), basis="paired", real=real, needed=pd.array(needed, dtype="Int64"))


def needed_units(difference: float, low: float, high: float, n: float) -> int | None:
    """Units (of what n counts) that would decide a difference of this size; None where nothing can be said.

    n = ((z_{1 - alpha/2} + z_power) * sd / difference)^2, the normal approximation of the paired test, with the sd of a
    unit that the interval implies.
    """
    if not all(np.isfinite([difference, low, high, n])) or difference == 0 or high <= low or n <= 0:
        return None
    sd = stats.half_width_sd(low, high) * float(np.sqrt(n))
    needed = max(1.0, normal_sample_size_one_tail(difference, POWER, LEVEL / 2, std_null=sd))
    return int(np.ceil(needed)) if needed <= _MOST_NEEDED else None


def body(folder: Path, profile: Profile, compared: pd.DataFrame, titles: Mapping[str, str]) -> Body:
    """The inside of `differences.html`; writes `differences.csv` beside it. `titles`: of the pages, by dimension."""
    title = "Which differences are real"
    sizes = compared.groupby(["dimension", "family"], sort=False)["p"].count()  # of what was corrected together
    rows = difference_table(compared, list(profile.models))
    write_atomically(Path(folder) / "differences.csv", results.csv_text(rows).encode())
    if not len(rows):
        lead = "No page of this report has compared models yet; build the pages of the dimensions first."
        return Body(title, lead, [], fragment("plain.html.j2", lead=lead))
    labels = {name: spec.label for name, spec in profile.models.items()} | {"": "zero"}
    rows = rows.assign(pair=rows["model_a"].map(labels) + " − " + rows["model_b"].map(labels))
    real, beyond = int(rows["real"].sum()), int((rows["verdict"] == BEYOND_NOISE).sum())
    lead = (
        f"{real} of {len(rows)} compared differences are larger than chance would make them"
        + (f", {beyond} of them larger than training runs differ by luck" if beyond else "")
        + f", at a level of {LEVEL:.0%} kept over those of clean accuracy, over the headline comparisons of each page, "
        "and over all its others."
    )
    parts = dict(iter(rows.groupby("dimension", sort=False)))
    pages = [_section(name, titles.get(name, name), part, sizes[name], profile) for name, part in parts.items()]
    said = {"power": f"{POWER:.0%}", "level": LEVEL, "largest": int(sizes.max())}
    said["verdicts"] = (BEYOND_NOISE, THESE, OPEN)
    shown = {"overview": _overview(parts, titles), "pairs": list(dict.fromkeys(rows["pair"])), "pages": pages}
    inside = fragment("differences.html.j2", lead=lead, **said, **shown)
    return Body(title, lead, [("overview", "Overview"), *((page["id"], page["title"]) for page in pages)], inside)


def _overview(parts: dict[str, pd.DataFrame], titles: dict[str, str]) -> pd.DataFrame:
    """How many differences are real, of all that were compared, by page: all, beyond training noise, by pair."""
    counted = []
    for name, part in parts.items():
        row = {"Page": titles.get(name, name), "compared": len(part), "real": int(part["real"].sum())}
        row[BEYOND_NOISE] = int((part["verdict"] == BEYOND_NOISE).sum())
        for pair, mine in part[part["model_b"] != ""].groupby("pair", sort=False):
            row[pair] = f"{mine['real'].sum()} of {len(mine)}"
        counted.append(row)
    return pd.DataFrame(counted).fillna("–")


def _section(dimension: str, title: str, rows: pd.DataFrame, sizes: pd.Series, profile: Profile) -> dict[str, object]:
    """One table: a row per number, a cell per pair of models, everything about their difference in the cell."""
    datasets = {name: spec.title or name for name, spec in profile.datasets.items()} | {
        "average": f"mean of all {'tasks' if dimension == 'transfer' else 'sets'}"
    }
    units = tables.glossary()["counted"].get(dimension, "images")
    pairs = sorted(dict.fromkeys(rows["pair"]), key=lambda pair: pair.endswith("− zero"))
    lines = []
    for (dataset, metric), part in rows.groupby(["dataset", "metric"], sort=False):
        about = tables.about(metric)
        spec = f"+{about['format'].lstrip('+')}"
        counts = sorted(set(part["n"].dropna().astype(int)))
        under = [datasets.get(dataset, dataset.replace("_", " ")), part["unit"].iloc[0].replace("percent", "points")]
        under += [f"n = {counts[0]:,} {units}"] if len(counts) == 1 else []
        cells = {row["pair"]: _cell(row, spec, units) for row in part.to_dict("records")}
        beyond = "" if part["model_b"].any() else about.get("beyond", "")
        name = f"{tables.plain(metric)} {beyond}".strip()
        lines.append({"name": name, "under": " · ".join(under), "cells": [(p, cells.get(p)) for p in pairs]})
    summary = f"{rows['real'].sum()} of {len(rows)} differences are real"
    together = ", ".join(f"{size} ({family})" for family, size in sizes.items())
    caption = f"{summary}. Corrected together: {together}. Verdict and corrected p; then the {units} needed to see a "
    caption += "difference of this size."
    names = {"id": f"dim-{dimension}", "name": f"diff-{dimension.replace('_', '-')}", "title": title}
    return names | {"summary": summary, "caption": caption, "pairs": pairs, "lines": lines}


def _cell(row: dict, spec: str, units: str) -> dict[str, object]:
    text = tables.format_interval(row["difference"], row["ci_low"], row["ci_high"], spec)
    estimate, _, interval = text.partition(" ")
    p, bound = row["p_holm"], is_bound(row)
    told = "< 0.001" if p < 0.001 else f"< {tables.at_most(p, '.3f')}" if bound else f"= {p:.3f}"
    shown = "" if pd.isna(p) else f"p {told}"
    needed = "" if pd.isna(row["needed"]) else f"{int(row['needed']):,} {units}"
    return row | {"estimate": estimate, "interval": interval, "said": [row["verdict"], shown, needed]}
