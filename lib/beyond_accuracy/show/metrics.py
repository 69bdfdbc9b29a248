"""What every metric is called, how it is written, which end is better and what it means: `metrics.yaml`, read once."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

FILE = Path(__file__).with_name("metrics.yaml")
ARROWS = {"up": "↑", "down": "↓"}
# How numbers of one unit are written where rows of several stand in one column
UNITS = {"percent": ".1f", "points": ".1f", "ratio": ".2f", "log-odds": ".2f", "millions": ".0f", "gflops": ".1f"}


@cache
def document() -> dict:
    """The whole file: `intro`, `sections` (title, lead, metrics), `headlines`, `presets`, `works`."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


@cache
def described() -> dict[str, dict]:
    """Metric -> its entry: `heading`, `format`, `better` (`up`, `down` or absent), `text`."""
    return {name: entry for section in document()["sections"] for name, entry in (section["metrics"] or {}).items()}


def about(metric: str) -> dict:
    """The entry of a metric; `accuracy:coverage=0.8` is found under `accuracy:coverage`, then under `accuracy`.

    A metric that is not described is shown by its own name.
    """
    for name in (metric, metric.partition("=")[0], metric.partition(":")[0]):
        if name in described():
            return described()[name]
    return {"heading": metric.replace("_", " "), "format": ".3g"}


def plain(metric: str) -> str:
    """A metric's own name as words, where a heading would hide what tells rows apart.

    >>> plain("accuracy_change:brightness")
    'accuracy change: brightness'
    """
    return metric.replace("_", " ").replace(":", ": ")


def digits(units: pd.Series) -> pd.Series:
    """The column `format` of a table whose rows have these units; three decimals where nothing else is known."""
    return units.map(UNITS).fillna(".3f")


def headed(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Options `labels` and `formats` of a table whose columns are named by metrics."""
    known = {name: about(name) for name in names}
    options = {"labels": "heading", "formats": "format"}
    return {option: {name: entry[key] for name, entry in known.items()} for option, key in options.items()}
