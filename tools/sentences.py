"""Reads every finding of a built report against the report's own tables: ``python tools/sentences.py mini``.

What is checked, each with the digits that are printed:

- ``value [low, high]`` stands as one row in a table of the page;
- ``A (x) leads`` and ``A (x) and B (y) tie`` agree with the verdicts of one metric on one set, and name all that tie;
- ``k of n pairs (j of them beyond training noise)`` are what the comparisons of one metric on one set, or of a family,
  tell apart, and none lies beyond training noise where none is said to;
- a superlative stands before a number that is an extreme of a column, or in a sentence that says what is open;
- every other number stands in a table of the page, in a row of the model that is named before it, if one is.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.paths import figures_dir, report_dir
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.measure import verdicts
from beyond_accuracy.show.tables import about

NUMBER = r"[+−]?\d[\d,]*(?:\.\d+)?"
TRIPLE = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
NOISE = r"(?: of models are told apart(?: \((\d+|none) of them beyond training noise\))?)?"
PAIRS = re.compile(rf"(\d+) of (\d+) pairs{NOISE}")
TWO = re.compile(r"the two are (not )?told apart(?: \((not )?(beyond training noise)\))?")  # of one pair
SUPERLATIVE = re.compile(r"\b(best|worst|highest|lowest|largest|smallest|hardest|widest|most|least|strongest)\b")
HEDGED = re.compile(r"\b(open|not told apart|not told from chance|tie|leads|undecided)\b")
WORDS = re.compile(
    r"Holm, 5 %|\(95 %\)|Holm over the averages, 5 %|corrected p|ImageNet-\w+|vtab_1k|\d+ bins|preset \w+|severity \d"
    r"|from \d+ million pairs on|all [\d,]+ instead of \d+"
)
FREE = 20  # whole numbers up to here count things (tasks, sets, factors) that no table holds


def number(text: str) -> float:
    """The value of a printed number."""
    return float(text.replace("−", "-").replace(",", "").lstrip("+"))


def fits(values: Iterable[float], text: str) -> np.ndarray:
    """Which values are printed as this, as they are or in percent; a number without a sign may be a size."""
    values, digits = np.asarray(values, float), len(text.partition(".")[2])
    wanted, near = number(text), 0.5 * 10.0**-digits * 1.001 + 1e-12
    forms = [values, 100 * values] + ([] if text[0] in "+−" else [abs(values), 100 * abs(values)])
    return np.any([np.abs(form - wanted) <= near for form in forms], axis=0)


class Tables:
    """What a page wrote: results, comparisons and the data of its figures and tables."""

    def __init__(self, report: Path, figures: Path, dimension: str, labels: dict[str, str]):
        self.labels = labels
        self.results, self.comparisons = (
            pd.read_csv(path) if (path := report / folder / f"{dimension}.csv").is_file() else pd.DataFrame()
            for folder in ("results", "comparisons")
        )
        paths = sorted((figures / dimension).glob("*.csv"))
        if dimension == "summary":
            paths = [*paths, report / "claims.csv"]
        self.all = [self.results, self.comparisons, *map(pd.read_csv, paths)]

    def groups(self) -> Iterator[tuple[pd.Series, pd.DataFrame, dict]]:
        """Values by model, comparisons and description of every metric on every set."""
        if not len(self.results):
            return
        for (dataset, metric), rows in self.results.groupby(["dataset", "metric"]):
            judged = self.comparisons
            if len(judged):
                judged = judged[(judged["dataset"] == dataset) & (judged["metric"] == metric)]
            yield rows.set_index("model")["value"], judged, about(metric)

    def values(self, model: str = "") -> np.ndarray:
        """Every number of the page, or those that a model's rows and columns hold."""
        label, parts = self.labels.get(model, ""), [np.zeros(0)]
        for table in self.all:
            names = [c for c in table if str(c).startswith(label)] if model else []
            own = table.isin([model, label]).any(axis=1) if model else np.ones(len(table), bool)
            numeric = [table[own].select_dtypes("number"), table[names].select_dtypes("number")]
            parts += [part.to_numpy(float).ravel() for part in numeric]
        return np.concatenate(parts)


def _counted(two: re.Match[str]) -> str:
    """What is said of one pair, in the words for several."""
    beyond = f" ({'none' if two[2] else 1} of them {two[3]})" if two[3] else ""
    return f"{0 if two[1] else 1} of 1 pairs of models are told apart{beyond}"


def told(sentence: str, tables: Tables) -> list[str]:
    """What a sentence says that its page's tables do not, one line each."""
    wrong, names, sentence = [], "|".join(map(re.escape, tables.labels.values())), TWO.sub(_counted, sentence)
    models = {label: name for name, label in tables.labels.items()}
    for match in TRIPLE.finditer(sentence):
        columns = [("value", "ci_low", "ci_high"), ("difference", "ci_low", "ci_high"), ("difference", "low", "high")]
        numeric = [t.select_dtypes("number") for t in tables.all]
        rows = [t[list(c)].to_numpy().T for t in numeric for c in columns if set(c) <= set(t)]
        rows += [t.iloc[:, i : i + 3].to_numpy().T for t in numeric for i in range(t.shape[1] - 2)]
        if not any(
            np.all([fits(v, text) for v, text in zip(r, match.groups(), strict=True)], axis=0).any() for r in rows
        ):
            wrong.append(f"no row holds {match[0]}")
    group = rf"(?:{names}) \({NUMBER}\)"
    for match in re.finditer(rf"((?:{group}(?:, | and )?)+) (leads|tie)\b", sentence):
        said = {models[label]: text for label, text in re.findall(rf"({names}) \(({NUMBER})\)", match[1])}
        if not any(_led(said, *found) for found in tables.groups()):
            wrong.append(f"verdicts do not say: {match[0]}")
    for match in PAIRS.finditer(sentence):
        apart, count, beyond = (int(part) if (part or "").isdigit() else 0 for part in match.groups())
        judged = [found[1] for found in tables.groups() if len(found[1])]
        judged += [rows for _, rows in tables.comparisons.groupby("family")] if len(tables.comparisons) else []
        if (apart, count, beyond) not in [(*verdicts.tells_apart(rows), _beyond(rows)) for rows in judged]:
            wrong.append(f"comparisons do not say: {match[0]}")
    rest = PAIRS.sub("", TRIPLE.sub("", WORDS.sub("", sentence)))
    for match in SUPERLATIVE.finditer(rest):
        after = re.search(NUMBER, rest[match.end() :])
        columns = [t[c] for t in tables.all for c in t.select_dtypes("number")]
        ends = np.array([f(c) for c in columns if len(c) for f in (np.nanmin, np.nanmax) if c.notna().any()])
        if not HEDGED.search(rest) and not (after and fits(ends, after[0]).any()):
            wrong.append(f"nothing supports {match[0]!r}")
    for match in re.finditer(rf"(?<![\w.-]){NUMBER}(?![\w-])", rest):
        if re.fullmatch(r"\d+", match[0]) and number(match[0]) <= FREE:
            continue
        before = re.findall(names, re.split(r"[;:]", rest[: match.start()])[-1])
        model = models[before[-1]] if before else ""
        if not (fits(tables.values(model), match[0]).any() or fits(tables.values(), match[0]).any()):
            wrong.append(f"no table holds {match[0]}")
    return wrong


def _beyond(rows: pd.DataFrame) -> int:
    return int((rows.loc[rows["model_b"] != "", "verdict"] == verdicts.BEYOND_NOISE).sum())


def _led(said: dict[str, str], values: pd.Series, judged: pd.DataFrame, about: dict) -> bool:
    if not set(said) <= set(values.index) or not all(fits([values[m]], text)[0] for m, text in said.items()):
        return False
    return set(verdicts.leaders(values, judged, about.get("better", "up"))) == set(said)


def check(report: Path, figures: Path, labels: dict[str, str]) -> list[str]:
    """Every finding of a report that its tables do not bear out, with its page and what is wrong."""
    found = []
    for path in sorted((report / "findings").glob("*.json")):
        tables = Tables(report, figures, path.stem, labels)
        for sentence in json.loads(path.read_text(encoding="utf-8")):
            found += [f"{path.stem}: {problem}\n    {sentence}" for problem in told(sentence, tables)]
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--models", default="", help="as the report was asked for them")
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile).select(arguments.models)
    labels = {name: spec.label for name, spec in profile.models.items()}
    problems = check(report_dir(profile.name), figures_dir(profile.name), labels)
    print(*problems or ["every sentence is borne out"], sep="\n")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
