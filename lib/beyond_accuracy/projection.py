"""How long a profile will take on which card: its forward passes over measured and published rates."""

import pandas as pd

from beyond_accuracy.profiles import Profile
from beyond_accuracy.storage import runs
from beyond_accuracy.throughput import USUAL_SIDE, measured_throughput, published_throughput
from beyond_accuracy.transforms import parse


def usual_passes(profile: Profile) -> float:
    """Forward passes per model, in passes at 224 pixels: larger inputs count by their area."""
    total = 0.0
    for run in runs(profile):
        side = parse(run.transform).input_size(USUAL_SIDE)
        total += run.images * (side / USUAL_SIDE) ** 2
    return total


def hours(profile: Profile) -> pd.DataFrame:
    """Projected hours of all models of a profile, one after the other, by card.

    The network alone at its published or measured rate: a lower bound, close where decoding keeps up.

    Returns:
        `card, hours, precision, source`, measured cards first, then by hours; only cards with a rate for every model
        that has any rate. `attrs["without"]` names the models that have none.
    """
    passes = usual_passes(profile)
    tables, without = [], []
    for name, spec in profile.models.items():
        rates = pd.concat(
            [measured_throughput(spec).assign(measured=True), published_throughput(spec).assign(measured=False)]
        )
        if rates.empty:
            without.append(name)
        tables.append(rates)
    known = [table for table in tables if len(table)]
    columns = ["card", "hours", "precision", "source"]
    if not known:
        return _with_missing(pd.DataFrame(columns=columns), without)
    rates = pd.concat(known)
    rates["hours"] = passes / rates["images_per_second"] / 3600
    grouped = rates.groupby(["card", "measured"], as_index=False).agg(
        hours=("hours", "sum"), models=("hours", "size"), precision=("precision", "first"), source=("source", "first")
    )
    whole = grouped[grouped["models"] == len(known)].sort_values(["measured", "hours"], ascending=[False, True])
    return _with_missing(whole[columns].reset_index(drop=True), without)


def report(profile: Profile) -> list[str]:
    """The projection as lines of text; empty where nothing is known."""
    table = hours(profile)
    if table.empty:
        return []
    models = len(profile.models) - len(table.attrs["without"])
    said = [
        f"Projected time of the networks alone, {models} model{'s' * (models > 1)} one after the other "
        f"({usual_passes(profile) / 1e6:.2f} million passes each, at 224 pixels):"
    ]
    said += [f"  {row.card:26} {_span(row.hours):>9}   {row.precision}, {row.source}" for row in table.itertuples()]
    if table.attrs["without"]:
        said.append(f"  without {', '.join(table.attrs['without'])}: no rate is known; `make bench` measures yours")
    return said


def _with_missing(table: pd.DataFrame, without: list[str]) -> pd.DataFrame:
    table.attrs["without"] = without
    return table


def _span(time: float) -> str:
    return f"{time:.1f} h" if time < 72 else f"{time / 24:.0f} days"
