"""Frozen tables of a built report: what it said, so that a change of the code that moves a number is seen.

``python tools/golden.py smoke`` writes `tests/golden/smoke` from `report/smoke` and `figures/smoke`. Do it when a
number is meant to move, and say in the commit which and why; the difference of the files shows it.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.paths import figures_dir, report_dir

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
KEYS = {
    "results": ["dimension", "dataset", "metric", "model"],
    "comparisons": ["dimension", "dataset", "metric", "model_a", "model_b"],
    "claims": ["name"],
}
WORDS = {"results": ["unit"], "comparisons": ["unit", "family", "verdict"], "claims": ["verdict"]}
NUMBERS = {
    "results": ["value", "ci_low", "ci_high", "n"],
    "comparisons": ["difference", "ci_low", "ci_high", "p", "n"],
    "claims": [],
}
# Measured anew on every machine, or in a precision that processors round in their own ways.
MACHINE = r"images_per_second|.*precision="
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # machines sum in different orders
DRAWN = {"p": 5e-3}  # a few of 20,000 permutations tie on one machine and not on another
# A probe's answers to images on its border turn with the last bit of a feature, in which processors differ: a share,
# and the points that two of the 744 images of the smallest task of `mini` make.
FITTED = {"transfer": (0.05, 0.3)}


def collect(report: Path, figures: Path) -> dict[str, pd.DataFrame]:
    """Frozen tables of a built report: results, comparisons, claims, findings, and the names of pages and figures."""
    found = {}
    comparisons = [pd.read_csv(path) for path in sorted((report / "comparisons").glob("*.csv"))]
    tables = {"results": pd.read_csv(report / "results.csv"), "comparisons": pd.concat(comparisons)}
    if (report / "claims.csv").is_file():
        tables["claims"] = pd.read_csv(report / "claims.csv")
    for name, table in tables.items():
        if name != "claims":
            table = table[~table["metric"].str.match(MACHINE)]
        table = table[[*KEYS[name], *NUMBERS[name], *WORDS[name]]]
        found[name] = table.fillna({key: "" for key in [*KEYS[name], *WORDS[name]]}).reset_index(drop=True)
    said = [
        (path.stem, sentence)
        for path in sorted((report / "findings").glob("*.json"))
        for sentence in json.loads(path.read_text(encoding="utf-8"))
    ]
    found["findings"] = pd.DataFrame(said, columns=["dimension", "sentence"])
    names = [f"report/{path.name}" for path in report.glob("*.html")]
    names += [f"figures/{path.relative_to(figures)}" for path in figures.glob("*/*.csv")]
    found["names"] = pd.DataFrame({"name": sorted(names)})
    return found


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that `write` wrote."""
    return {path.stem: pd.read_csv(path, keep_default_na=False, na_values=["NaN"]) for path in folder.glob("*.csv")}


def write(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """One CSV per table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.7g", na_rep="NaN")


def moved(frozen: dict[str, pd.DataFrame], built: dict[str, pd.DataFrame]) -> list[str]:
    """What is gone, new or different, one line each."""
    lines = []
    for name in ("findings", "names"):
        before, after = (
            {
                tuple(_worded(row.get("dimension"), value) for value in row.values())
                for row in tables[name].to_dict("records")
            }
            for tables in (frozen, built)
        )
        lines += [f"{name}: gone {row}" for row in sorted(before - after)]
        lines += [f"{name}: new {row}" for row in sorted(after - before)]
    for name in [name for name in KEYS if name in frozen or name in built]:
        before, after = frozen.get(name), built.get(name)
        if before is None or after is None:
            lines.append(f"{name}: {'new' if before is None else 'gone'}")
            continue
        both = before.merge(after, on=KEYS[name], how="outer", suffixes=("", "_now"), indicator=True)
        for row in both.to_dict("records"):
            key = "/".join(str(row[column]) for column in KEYS[name])
            if row["_merge"] != "both":
                lines.append(f"{name}: {'gone' if row['_merge'] == 'left_only' else 'new'} {key}")
                continue
            share, points = FITTED.get(row.get("dimension"), (0, 0))
            for column in NUMBERS[name]:
                near = ABSOLUTE + points + DRAWN.get(column, 0)
                if not np.isclose(row[column], row[column + "_now"], RELATIVE + share, near, equal_nan=True):
                    lines.append(f"{name}: {key} {column} {row[column]} -> {row[column + '_now']}")
            lines += [
                f"{name}: {key} {column} {row[column]!r} -> {row[column + '_now']!r}"
                for column in WORDS[name]
                if row[column] != row[column + "_now"] and not points
            ]
    return lines


def _worded(dimension: str | None, text: str) -> str:
    """What a page said, without its numbers where these are `FITTED`."""
    return re.sub(r"\d+\.\d+", "#", text) if dimension in FITTED else text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    profile = parser.parse_args().profile
    write(collect(report_dir(profile), figures_dir(profile)), GOLDEN / profile)
    print(f"{GOLDEN / profile}: written from {report_dir(profile)}")


if __name__ == "__main__":
    main()
