"""Words of the mistakes page: alt texts of its figures and its findings, every number computed."""

from collections.abc import Iterable, Mapping

import pandas as pd

from .metrics.contrasts import Contrast
from .metrics.mistakes import AVERAGE
from .tables import format_interval

Labels = Mapping[str, str]


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def ratio_alt(table: pd.DataFrame, labels: Labels, kind: str) -> str:
    """Alt text of an error ratio figure: each model's hardest and easiest factor and its average."""
    words = []
    for model, label in labels.items():
        rows = table[table["model"] == model].set_index("factor")["value"]
        if rows.empty:
            continue
        factors = rows.drop(AVERAGE)
        hard, easy = factors.idxmax(), factors.idxmin()
        words.append(
            f"{label} from {_plain(easy)} {factors[easy]:.2f} to {_plain(hard)} {factors[hard]:.2f}, "
            f"average {rows[AVERAGE]:.2f}"
        )
    return f"Error ratio by {kind} of {len(words)} models with intervals: {'; '.join(words)}."


def difference_alt(differences: pd.DataFrame, labels: Labels) -> str:
    """Alt text of the figure of paired differences: for how many factors each pair surely differs."""
    words = []
    for (a, b), rows in differences.groupby(["model_a", "model_b"], sort=False):
        sure = rows[rows["p_holm"] < 0.05]
        names = ", ".join(f"{_plain(r.factor)} {r.difference:+.2f}" for r in sure.itertuples()) or "none"
        words.append(f"{labels[a]} minus {labels[b]}: {names}")
    return f"Differences of error ratios that survive Holm's correction. {'; '.join(words)}."


def groups_alt(table: pd.DataFrame, labels: Labels, kind: str) -> str:
    """Alt text of the error rates by group: the hardest and easiest group of each model."""
    words = []
    for model, label in labels.items():
        rows = table[table["model"] == model].set_index("group")["error_rate"]
        hard, easy = rows.idxmax(), rows.idxmin()
        words.append(f"{label} from {_plain(easy)} {rows[easy]:.1%} to {_plain(hard)} {rows[hard]:.1%}")
    return f"Error rate by {kind}: {'; '.join(words)}."


def split_alt(split: pd.DataFrame, labels: Labels) -> str:
    """Alt text of the split of errors by ReaL labels."""
    words = []
    for model, rows in split.groupby("model", sort=False):
        words.append(f"{labels[model]} " + ", ".join(f"{r.kind} {r.share:.0%}" for r in rows.itertuples()))
    return f"What ReaL raters say of each model's errors: {'; '.join(words)}."


def hardest_sentence(table: pd.DataFrame, title: str, labels: Labels) -> str:
    """Each model's hardest factor."""
    words = []
    for model, label in labels.items():
        rows = table[(table["model"] == model) & (table["factor"] != AVERAGE)]
        if len(rows):
            top = rows.loc[rows["value"].idxmax()]
            words.append(
                f"{_plain(top['factor'])} for {label} "
                f"({format_interval(top['value'], top['ci_low'], top['ci_high'], '.2f')}, n = {top['n']:,})"
            )
    return f"The factor with the highest error ratio on {title} is {'; '.join(words)}."


def average_sentences(differences: pd.DataFrame, labels: Labels, pairs: Iterable[Contrast]) -> list[str]:
    """Whether the average error ratio differs between two models, one sentence per pair.

    Args:
        differences: Rows of `metrics.mistakes.ratio_differences` with `p_holm`.
        labels: Model -> label.
        pairs: The pairs to speak of.
    """
    rows = differences[differences["factor"] == AVERAGE].set_index(["model_a", "model_b"])
    found = []
    for a, b, what in pairs:
        if (a, b) not in rows.index:
            continue
        row = rows.loc[(a, b)]
        sure = "differs" if row["p_holm"] < 0.05 else "does not surely differ"
        held = {"objective": " (same architecture)", "architecture": " (same objective)"}.get(what, "")
        found.append(
            f"The average error ratio of {labels[a]} {sure} from that of {labels[b]}{held}: "
            f"{format_interval(row['difference'], row['ci_low'], row['ci_high'], '+.2f')}, p = {row['p_holm']:.2g}."
        )
    return found


def real_sentence(split: pd.DataFrame, labels: Labels) -> str:
    """How many of the errors are errors of the label."""
    rows = split[split["kind"] == "label noise"]
    words = (
        f"{format_interval(100 * r.share, 100 * r.ci_low, 100 * r.ci_high, '.1f')} % for {labels[r.model]}"
        for r in rows.itertuples()
    )
    return f"Errors whose prediction ReaL raters call right, so that the label is at fault: {', '.join(words)}."
