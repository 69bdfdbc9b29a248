"""Words of the ablation page: what effects are called, alt texts and findings, every number computed."""

from collections.abc import Iterable, Mapping
from itertools import product

import pandas as pd

from .metrics.ablation import LEVELS
from .tables import format_interval

ARCHITECTURE, OBJECTIVE, DIVERSITY = "architecture", "objective", "diversity"
NOUNS = {"transformer": "ViT", "convnet": "ConvNeXt", "supervised": "supervised", "clip": "CLIP"}
TERMS = {
    ARCHITECTURE: "ConvNeXt − ViT",
    OBJECTIVE: "CLIP − supervised",
    "architecture:objective": "interaction",
}
MAIN_TERMS = {term: TERMS[term] for term in (OBJECTIVE, ARCHITECTURE)}
DIVERSITY_TERMS = {
    DIVERSITY: "broad − narrow data",
    "objective:diversity": "… more under CLIP",
    "architecture:diversity": "… more for ConvNeXt",
}
NAMES = {
    ARCHITECTURE: "convnet_minus_transformer",
    OBJECTIVE: "clip_minus_supervised",
    DIVERSITY: "broad_minus_narrow",
    "architecture:objective": "interaction:architecture_x_objective",
    "objective:diversity": "interaction:objective_x_diversity",
    "architecture:diversity": "interaction:architecture_x_diversity",
    "architecture:objective:diversity": "interaction:all_three",
}
"""How effects are called in the results table, where others have a model."""


DIVERSITY_NAMES = {term: name for term, name in NAMES.items() if DIVERSITY in term}
SUBJECTS = {ARCHITECTURE: "ConvNeXt instead of ViT", OBJECTIVE: "CLIP instead of labels"}
SUBJECTS_WITH_DATA = {OBJECTIVE: SUBJECTS[OBJECTIVE], DIVERSITY: "broad instead of narrow data",
                      ARCHITECTURE: SUBJECTS[ARCHITECTURE]}  # fmt: skip
HEADINGS = {"panel": "measure", "row": "on", "term": "effect"}
PANELS = {
    "accuracy": "Accuracy",
    "accuracy_gap": "Gap to the clean set",
    "log_odds_gap": "Gap in log-odds",
    "shape_bias": "Cues and confidence",
    "ece": "Cues and confidence",
    "signed_gap": "Cues and confidence",
}
XLABELS = {
    "Accuracy": "points",
    "Gap to the clean set": "points",
    "Gap in log-odds": "log-odds",
    "Cues and confidence": "points",
}
CAPTIONS = {
    "Accuracy": "Accuracy, in points",
    "Gap to the clean set": "Accuracy minus that on the clean set, in points",
    "Gap in log-odds": "Log-odds of accuracy minus those on the clean set",
    "Cues and confidence": "Shape bias, calibration error and overconfidence, in points",
}
SLUGS = {"Accuracy": "accuracy", "Gap to the clean set": "gap", "Gap in log-odds": "gap-log-odds",
         "Cues and confidence": "confidence"}  # fmt: skip
_ROWS = {"shape_bias": "shape bias", "ece": "ECE, {}", "signed_gap": "overconfidence, {}"}


def labelled(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Rows of quantities with `panel` and `row` for readers, in points; other metrics and sets are left out."""
    kept = table[table["metric"].isin(list(PANELS)) & table["dataset"].isin(list(titles))]
    kept = in_points(kept[(kept["metric"] != "accuracy") | (kept["dataset"] != "world_cue")])
    rows = [
        _ROWS.get(metric, "{}").format(titles[name]) for metric, name in zip(kept.metric, kept.dataset, strict=True)
    ]
    kept = kept.assign(panel=kept["metric"].map(PANELS), row=rows)
    order = {key: k for k, key in enumerate((metric, name) for metric in PANELS for name in titles)}
    ranks = [order[key] for key in zip(kept.metric, kept.dataset, strict=True)]
    return kept.assign(_rank=ranks).sort_values("_rank", kind="stable").drop(columns="_rank").reset_index(drop=True)


def own_runs(results: Iterable[pd.DataFrame], specs: Iterable, titles: Mapping[str, str]) -> pd.DataFrame:
    """The profile's own models among the cells, from what other pages recorded.

    Args:
        results: Results of those pages.
        specs: The models (`.name, .family, .paradigm`); kinds that are no cell are left out.
        titles: Dataset -> title; others are left out.

    Returns:
        Rows ``model, title, architecture, objective, value``.
    """
    columns = ["model", "title", "architecture", "objective", "value"]
    frames = [frame[frame["metric"] == "accuracy"] for frame in results]
    if not frames:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(frames).drop_duplicates(["dataset", "model"])
    kinds = {spec.name: (spec.family, spec.paradigm) for spec in specs}
    cells = set(product(LEVELS[ARCHITECTURE], LEVELS[OBJECTIVE]))
    rows = rows[rows["model"].map(kinds).isin(cells) & rows["dataset"].isin(list(titles))]
    kind = rows["model"].map(kinds)
    return rows.assign(title=rows["dataset"].map(titles), architecture=kind.str[0], objective=kind.str[1])[columns]


def number(row: pd.Series) -> str:
    """An effect with its interval."""
    return format_interval(row["value"], row["ci_low"], row["ci_high"], signed(row["panel"]))


def signed(panel: str) -> str:
    """Number format of a panel's effects."""
    return "+.2f" if XLABELS[panel] == "log-odds" else "+.1f"


def in_points(table: pd.DataFrame) -> pd.DataFrame:
    """Fractions (ECE, shape bias, gap) as points, so that they are read on the same scale as accuracies."""
    scale = table["unit"].map(lambda unit: 100.0 if unit == "fraction" else 1.0)
    estimates = ["value", "ci_low", "ci_high", "se", "se_seeds", "se_images"]
    spreads = ["sd", "sd_low", "sd_high", "least_difference"]
    scaled = {column: table[column] * scale for column in (*estimates, *spreads) if column in table}
    return table.assign(**scaled, unit=table["unit"].replace({"fraction": "points", "percent": "points"}))


def alt(table: pd.DataFrame, terms: Mapping[str, str]) -> str:
    """Alt text of a figure of effects: each effect on each row, in figures."""
    words = []
    for term, name in terms.items():
        rows = table[table["term"] == term]
        words.append(f"{name}: " + ", ".join(f"{r.row} {r.value:+.2g}" for r in rows.itertuples()))
    return "Effects with intervals. " + "; ".join(words) + "."


def shown(table: pd.DataFrame, terms: Mapping[str, str]) -> pd.DataFrame:
    """The effects of one panel as a table for readers: a row per quantity, a column with its interval per effect.

    Returns:
        `row`, per effect `<name>`, `<name>_low`, `<name>_high`, and `p (Holm)`, one for each effect in order.
    """
    rows = list(dict.fromkeys(table["row"]))
    wide = pd.DataFrame({"row": rows})
    for term, name in terms.items():
        mine = table[table["term"] == term].set_index("row").reindex(rows)
        for column, suffix in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            wide[name + suffix] = mine[column].to_numpy()
    corrected = table.pivot(index="row", columns="term", values="p_holm").loc[rows, list(terms)]
    return wide.assign(**{"p (Holm)": [" · ".join(map(_p_text, values)) for values in corrected.to_numpy()]})


def _p_text(p: float) -> str:
    return "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.3f}".lstrip("0")


def beside_longer(table: pd.DataFrame, alone: pd.DataFrame, datasets: Iterable[str]) -> pd.DataFrame:
    """Effects beside those of single runs with a larger budget (`value_longer`), on accuracies and log-odds gaps.

    Args:
        table: Labelled effects.
        alone: Labelled rows of `metrics.ablation.single_values`.
        datasets: Which sets.
    """
    keys = ["panel", "row", "term"]
    chosen = table[table["metric"].isin(["accuracy", "log_odds_gap"]) & table["dataset"].isin(list(datasets))]
    both = chosen.merge(alone[[*keys, "value"]], on=keys, suffixes=("", "_longer"))
    return both.assign(term=both["term"].map(TERMS))[[*keys, "value", "ci_low", "ci_high", "value_longer"]]


def cell_words(cells: pd.DataFrame) -> str:
    """Mean, lowest and highest run of every cell, for alt texts; rows of `ablation_quantities.cell_means`."""
    words = (
        f"{NOUNS[r.architecture]}, {NOUNS[r.objective]} {r.value:.1f} % ({r.lowest:.1f} to {r.highest:.1f})"
        for r in cells.itertuples()
    )
    return "; ".join(words) + "."


def diversity_words(runs: pd.DataFrame) -> str:
    """Mean accuracy by training data on every set, for alt texts."""
    means = runs.groupby(["title", DIVERSITY], sort=False)["value"].mean().unstack()
    return "; ".join(f"{r.Index} narrow {r.narrow:.1f}, broad {r.broad:.1f} %" for r in means.itertuples()) + "."


def seed_rows(noise: pd.DataFrame) -> pd.DataFrame:
    """The spread over seeds as rows of the results schema (without `dimension`), for all cells together."""
    rows = noise[noise["sd"].notna()].rename(columns={"sd": "value", "sd_low": "ci_low", "sd_high": "ci_high"})
    rows = rows.assign(
        metric="seed_sd:" + rows["metric"], model="all_cells", unit=rows["unit"].replace("percent", "points")
    )
    return rows[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]]


def seed_sentence(noise: pd.DataFrame, clean: str) -> str:
    """How large a difference between two single models has to be; rows of accuracies in points."""
    least = noise.set_index("row")["least_difference"]
    others = least.drop(clean)
    return (
        f"Two models that differ in nothing but the seed lie up to {least[clean]:.1f} points apart on {clean} (95 %), "
        f"and up to {others.min():.1f} ({others.idxmin()}) to {others.max():.1f} ({others.idxmax()}) elsewhere: "
        "a smaller difference between two single models may be luck of the seed, whatever its interval over images."
    )


def statement(table: pd.DataFrame, term: str, subject: str) -> str:
    """What one factor does: on which rows it is decided, with numbers, and on which not.

    Args:
        table: Rows ``row, term, value, ci_low, ci_high, unit, decided``.
        term: The effect.
        subject: Start of the sentence.
    """
    rows = table[table["term"] == term]
    decided = [f"{row['row']} {number(row)}" for _, row in rows[rows["decided"]].iterrows()]
    open_ = list(rows.loc[~rows["decided"], "row"])
    parts = [", ".join(decided)] if decided else []
    if open_:
        parts.append(f"undecided on {joined(open_)}")
    return f"{subject}: {'; '.join(parts)}."


def joined(names: Iterable[str]) -> str:
    """Names as a list in a sentence."""
    names = list(names)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def direction(points: pd.Series, odds: pd.Series) -> int:
    """+1 or -1 if an effect on a gap is decided with the same sign in points and in log-odds, else 0.

    A gap in points shrinks for less accurate models by arithmetic alone, one in log-odds less so; what holds on one
    scale only depends on the scale.
    """
    signs = {1 if row["value"] > 0 else -1 for row in (points, odds)}
    return signs.pop() if points["decided"] and odds["decided"] and len(signs) == 1 else 0


def robustness(points: pd.DataFrame, odds: pd.DataFrame, name: str, clean: str, terms: Mapping[str, str]) -> str:
    """Which factors bring accuracy under a shift closer to clean accuracy.

    Args:
        points: Rows of the corrected effects on the gap in points, of one quantity.
        odds: The same on the log-odds scale.
        name: Of the shift.
        clean: Of the clean set.
        terms: Factor -> how it is called.
    """
    points, odds = points.set_index("term"), odds.set_index("term")
    words = []
    for term, label in terms.items():
        verdict = {1: "brings robustness", -1: "costs robustness", 0: "is undecided"}[
            direction(points.loc[term], odds.loc[term])
        ]
        words.append(f"{label} {verdict} ({number(points.loc[term])} points, {number(odds.loc[term])} in log-odds)")
    return f"{name[0].upper()}{name[1:]}, relative to {clean}: {'; '.join(words)}."
