"""Words of the mistakes page: alt texts of its figures and its findings, every number computed."""

from collections.abc import Iterable, Mapping

import pandas as pd

from beyond_accuracy.dimensions.contrasts import Contrast
from beyond_accuracy.dimensions.mistakes import AVERAGE, hardest
from beyond_accuracy.show.tables import format_interval

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
    return f"Differences of factor effects (log-odds) that survive Holm's correction. {'; '.join(words)}."


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
    """Each model's hardest factor, or those among which it is not decided.

    Args:
        table: Rows of `metrics.mistakes.factor_table` for top factors.
        title: Dataset, for readers.
        labels: Model -> label.
    """
    words = []
    for model, names in hardest(table).items():
        rows = table[(table["model"] == model) & (table["kind"] == "error_rate")].set_index("factor")
        rates = [f"{_plain(name)} ({rows['value'][name]:.0f} % of {rows['n'][name]:,} wrong)" for name in names]
        words.append(f"{labels[model]}: {' or '.join(rates)}{', not told apart' * (len(rates) > 1)}")
    return f"Hardest factor on {title}, by error rate. {'; '.join(words)}."


def effect_sentences(differences: pd.DataFrame, table: pd.DataFrame, labels: Labels, pairs: Iterable[Contrast]) -> list:
    """On which factors two models differ beyond their overall error rates, one sentence per pair.

    Args:
        differences: Rows of `metrics.mistakes.factor_differences` with `p_holm`.
        table: Rows of `metrics.mistakes.factor_table`.
        labels: Model -> label.
        pairs: The pairs to speak of.
    """
    rates = table[table["kind"] == "error_rate"].set_index(["model", "factor"])["value"]
    effects = differences[differences["kind"] == "factor_effect"]
    found = []
    for a, b, what in pairs:
        rows = effects[(effects["model_a"] == a) & (effects["model_b"] == b)].set_index("factor")
        if rows.empty:
            continue
        single, mean = rows.drop(AVERAGE), rows.loc[AVERAGE]
        sure = single[single["p_holm"] < 0.05]
        sure = sure.loc[sure["difference"].abs().sort_values(ascending=False, kind="stable").index]
        named = [f"{_plain(name)} ({rates[a, name]:.0f} against {rates[b, name]:.0f} % errors)" for name in sure.index]
        held = {"objective": " (same architecture)", "architecture": " (same objective)"}.get(what, "")
        sign = "<" if mean["p"] <= mean["p_floor"] else "="
        found.append(
            f"{labels[a]} and {labels[b]}{held}, beyond their overall error rates: {len(sure)} of {len(single)} "
            f"factors cost one more than the other{': ' * bool(named)}{', '.join(named)}. Mean difference "
            f"{format_interval(mean['difference'], mean['ci_low'], mean['ci_high'], '+.2f')} in log-odds, "
            f"p {sign} {mean['p_holm']:.2g}{'' if mean['p_holm'] < 0.05 else ', not decided'}."
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
