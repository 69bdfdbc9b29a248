"""Words of the conventions page: its alt text and its findings, every number computed."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from beyond_accuracy.measure.stats import holm

Labels = Mapping[str, str]


def forest_alt(table: pd.DataFrame, labels: Labels) -> str:
    """Alt text of the forest: the largest change of each panel.

    Args:
        table: Rows of `plots_conventions.forest_figure`.
        labels: Model -> label.
    """
    words = []
    for panel, rows in table.groupby("panel", sort=False):
        top = rows.loc[rows["value"].abs().idxmax()]
        words.append(f"{panel}: largest {top['value']:+.3g} ({top['label']}, {labels[top['model']]})")
    n = table["label"].nunique()
    return f"What {n} changes of convention move, with intervals, one marker per model. {'; '.join(words)}."


def largest(effects: pd.DataFrame, metric: str) -> pd.Series:
    """The row of the largest change of one metric, its p-value corrected by Holm over all changes of that metric.

    Its own interval does not know that it was chosen as the largest, so the sentences give none.
    """
    rows = effects[effects["metric"] == metric]
    rows = rows.assign(p=holm(rows["p"].to_numpy(float)))
    return rows.loc[rows["change"].abs().idxmax()]


def _p(row: pd.Series) -> str:
    return "" if np.isnan(row["p"]) else f"; corrected p = {row['p']:.2g}"


def gaps(accuracy: Mapping[str, float]) -> pd.DataFrame:
    """Differences of accuracy between every two models: `better`, `worse`, `gap` (points), smallest first."""
    rows = []
    for a, b in combinations(accuracy, 2):
        better, worse = (a, b) if accuracy[a] >= accuracy[b] else (b, a)
        rows.append((better, worse, accuracy[better] - accuracy[worse]))
    return pd.DataFrame(rows, columns=["better", "worse", "gap"]).sort_values("gap", ignore_index=True)


def accuracy_sentence(effects: pd.DataFrame, between: pd.DataFrame, labels: Labels) -> str:
    """The largest change of accuracy, beside the differences between models on the same images.

    Args:
        effects: Rows of `metrics.conventions.effects` of one dataset.
        between: Of `gaps`.
        labels: Model -> label.
    """
    top = largest(effects, "accuracy")
    text = (
        f"The largest effect of a convention on accuracy is {top['change']:+.1f} points ({top['label']}; "
        f"{labels[top['model']]}; {int(top['n']):,} images of {top['title']}{_p(top)})"
    )
    if between.empty:
        return f"{text}."
    if top["p"] >= 0.05:
        text += ", which is not told from chance"
    near, effect = between.iloc[0], abs(top["change"])
    smaller = int((between["gap"] < effect).sum())
    pair = f"{labels[near['better']]} and {labels[near['worse']]} ({near['gap']:.1f} points)"
    if not smaller:
        return f"{text}; it is not larger than the smallest difference between models, {pair}."
    many = f"{smaller} of the {len(between)} differences between models" if len(between) > 1 else "the difference"
    return f"{text}; it is larger than {many}; the smallest is between {pair}."


def order_sentence(turned: Sequence[tuple[str, str, str]], labels: Labels) -> str:
    """Which choices turn the order of two models round, in the point estimates."""
    if not turned:
        return "No single change of convention turns the order of two models' accuracies round."
    parts = [f"{label} puts {labels[after]} ahead of {labels[before]}" for label, before, after in turned]
    return f"The choice decides an order of accuracies: {'; '.join(parts)}. Each is one point estimate, not a test."


def ece_sentence(effects: pd.DataFrame, labels: Labels) -> str:
    """The largest change of the calibration error, with the accuracy that goes with it."""
    top = largest(effects, "ece_debiased")
    same = effects[(effects["convention"] == top["convention"]) & (effects["model"] == top["model"])]
    moved = float(same[same["metric"] == "accuracy"]["change"].iloc[0])
    return (
        f"The largest effect on the calibration error is {top['change']:+.3f}, from {top['before']:.3f} to "
        f"{top['after']:.3f} ({top['label']}; {labels[top['model']]}{_p(top)}); accuracy moves by {moved:+.1f} points "
        "with it."
    )


def flips_sentence(flips: pd.DataFrame, effects: pd.DataFrame, labels: Labels) -> str:
    """How many answers the choices change, beside what accuracy shows of it."""
    top = flips.loc[flips["value"].idxmax()]
    same = effects[(effects["convention"] == top["convention"]) & (effects["model"] == top["model"])]
    moved = float(same[same["metric"] == "accuracy"]["change"].iloc[0])
    return (
        f"Answers change more than accuracy shows: {top['label']} changes {top['value']:.1f} % of the answers of "
        f"{labels[top['model']]} while its accuracy moves by {moved:+.1f} points; the median over all changes and "
        f"models is {np.median(flips['value']):.1f} %."
    )


def classes_sentences(effects: pd.DataFrame, labels: Labels) -> list[str]:
    """One sentence per set that is scored on some of the classes: what scoring on all of them costs."""
    found = []
    for title, rows in effects[effects["metric"] == "accuracy"].groupby("title", sort=False):
        parts = ", ".join(f"{labels[r.model]} {r.before:.1f} to {r.after:.1f} %" for r in rows.itertuples())
        found.append(f"{title}, {rows['label'].iloc[0]}: accuracy changes from {parts}.")
    return found


def without_subset(titles: Sequence[str]) -> str:
    """What to say of sets that have all classes: there is nothing to choose."""
    return f"{' and '.join(titles)}: all classes of the models occur, so there is no subset to choose between."


def folder_sentence(title: str, accuracy: Mapping[str, float], labels: Labels) -> str:
    """What is scored when positions of folders are taken for class indices."""
    parts = ", ".join(f"{labels[m]} {value:.2f} %" for m, value in accuracy.items())
    return f"{title} with the positions of its folders taken for class indices: {parts}. That is a mistake, no choice."
