"""Words of the ablation page: what effects are called, alt texts and findings, every number computed."""

from collections.abc import Iterable, Mapping
from itertools import product

import pandas as pd

from beyond_accuracy.dimensions.ablation import LEVELS, corrected
from beyond_accuracy.show.tables import format_interval

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
GAPS = ("accuracy_gap", "log_odds_gap")
NOTES = dict.fromkeys(
    ("Gap to the clean set", "Gap in log-odds"),
    " Accuracy there: lowest to highest mean of a cell. At chance: some cell cannot be told from guessing, no verdict.",
)
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


def judged(
    fitted: pd.DataFrame, titles: Mapping[str, str], terms: Iterable[str], at_chance: Iterable[str] = ()
) -> pd.DataFrame:
    """Effects for readers with verdicts, corrected panel by panel.

    Args:
        fitted: Rows of `metrics.ablation.effects`.
        titles: Dataset -> title; others are left out.
        terms: The effects.
        at_chance: Datasets on which a cell guesses: there is no verdict on what it loses there.
    """
    table = labelled(fitted, titles)
    mute = ~table.index.isin(told(table, at_chance).index)
    table = table.assign(row=table["row"].mask(mute, table["row"] + " (at chance)"))
    return corrected(table, list(terms), by="panel", without=mute)


def with_means(datasets: Iterable[str], groups: Mapping[str, Iterable[str]]) -> set[str]:
    """Datasets and the means over sets that hold one of them."""
    named = set(datasets)
    return named | {name for name, sets in groups.items() if named & set(sets)}


def told(fitted: pd.DataFrame, at_chance: Iterable[str]) -> pd.DataFrame:
    """The effects on which there is a verdict: not those on gaps of datasets where a cell guesses."""
    return fitted[~(fitted["metric"].isin(GAPS) & fitted["dataset"].isin(list(at_chance)))]


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
    spreads = ["sd", "sd_low", "sd_high", "least_difference", "lowest", "highest"]
    scaled = {column: table[column] * scale for column in (*estimates, *spreads) if column in table}
    return table.assign(**scaled, unit=table["unit"].replace({"fraction": "points", "percent": "points"}))


def alt(table: pd.DataFrame, terms: Mapping[str, str]) -> str:
    """Alt text of a figure of effects: each effect on each row, in figures."""
    words = []
    for term, name in terms.items():
        rows = table[table["term"] == term]
        words.append(f"{name}: " + ", ".join(f"{r.row} {r.value:+.2g}" for r in rows.itertuples()))
    return "Effects with intervals. " + "; ".join(words) + "."


def shown(table: pd.DataFrame, terms: Mapping[str, str], cells: pd.DataFrame | None = None) -> pd.DataFrame:
    """The effects of one panel as a table for readers: a row per quantity, a column with its interval per effect.

    Args:
        table: Labelled rows.
        terms: Term -> its heading.
        cells: Rows of `metrics.ablation_quantities.cell_means`: a gap stands beside the accuracy that it is a gap of.

    Returns:
        `row`, for gaps `accuracy there (%)`, per effect `<name>`, `<name>_low`, `<name>_high`, and `p (Holm)`, one for
        each effect in order.
    """
    rows = list(dict.fromkeys(table["row"]))
    wide = pd.DataFrame({"row": rows})
    if cells is not None and table["metric"].isin(GAPS).all():
        ends = cells[cells["metric"] == "accuracy"].groupby("dataset")["value"].agg(["min", "max"])
        sets = ends.loc[table.drop_duplicates("row")["dataset"]]
        wide["accuracy there (%)"] = [f"{r.min:.1f} to {r.max:.1f}" for r in sets.itertuples(name="Ends")]
    for term, name in terms.items():
        mine = table[table["term"] == term].set_index("row").reindex(rows)
        for column, suffix in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            wide[name + suffix] = mine[column].to_numpy()
    corrected = table.pivot(index="row", columns="term", values="p_holm").loc[rows, list(terms)]
    return wide.assign(**{"p (Holm)": [" · ".join(map(_p_text, values)) for values in corrected.to_numpy()]})


def _p_text(p: float) -> str:
    return "–" if pd.isna(p) else "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.3f}".lstrip("0")


def beside_longer(table: pd.DataFrame, alone: pd.DataFrame, datasets: Iterable[str]) -> pd.DataFrame:
    """Effects beside those of single runs with a larger budget (`value_longer`), on accuracies and log-odds gaps.

    Args:
        table: Labelled effects.
        alone: Labelled rows of `metrics.ablation.single_values`.
        datasets: Which sets.
    """
    keys = ["dataset", "metric", "term"]
    chosen = table[table["metric"].isin(["accuracy", "log_odds_gap"]) & table["dataset"].isin(list(datasets))]
    both = chosen.merge(alone[[*keys, "value"]], on=keys, suffixes=("", "_longer"))
    shown = ["panel", "row", "term", "value", "ci_low", "ci_high", "value_longer"]
    return both.assign(term=both["term"].map(TERMS))[shown]


def cell_words(cells: pd.DataFrame) -> str:
    """Mean, lowest and highest run of every cell, for alt texts; rows of `ablation_quantities.cell_means`."""
    words = (
        f"{cell_name(r)} {r['value']:.1f} % ({r['lowest']:.1f} to {r['highest']:.1f})" for _, r in cells.iterrows()
    )
    return "; ".join(words) + "."


def cell_name(row: Mapping[str, str]) -> str:
    """A cell's name: "ViT, CLIP", with its data where the row has them."""
    data = f" on {row[DIVERSITY]} data" if DIVERSITY in row else ""
    return f"{NOUNS[row[ARCHITECTURE]]}, {NOUNS[row[OBJECTIVE]]}{data}"


def diversity_words(runs: pd.DataFrame) -> str:
    """Mean accuracy by training data on every set, for alt texts."""
    means = runs.groupby(["title", DIVERSITY], sort=False)["value"].mean().unstack()
    return "; ".join(f"{r.Index} narrow {r.narrow:.1f}, broad {r.broad:.1f} %" for r in means.itertuples()) + "."


def seed_rows(noise: pd.DataFrame) -> pd.DataFrame:
    """The spread over seeds as rows of the results schema (without `dimension`), a row per cell."""
    rows = noise[noise["sd"].notna()].rename(columns={"sd": "value", "sd_low": "ci_low", "sd_high": "ci_high"})
    cell = rows[ARCHITECTURE] + "_" + rows[OBJECTIVE]
    rows = rows.assign(metric="seed_sd:" + rows["metric"], model=cell, unit=rows["unit"].replace("percent", "points"))
    return rows[["dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit"]]


def seed_table(noise: pd.DataFrame) -> pd.DataFrame:
    """The spread over seeds for readers: a row per quantity, a column with its interval per cell; labelled rows."""
    rows = noise.assign(cell=list(map(cell_name, noise.to_dict("records"))))
    wide = rows[["panel", "row"]].drop_duplicates().set_index(["panel", "row"])
    for cell, part in rows.groupby("cell", sort=False):
        part = part.set_index(["panel", "row"])
        for column, suffix in (("sd", ""), ("sd_low", "_low"), ("sd_high", "_high")):
            wide[cell + suffix] = part[column]
    return wide.reset_index()


def least_table(least: pd.DataFrame) -> pd.DataFrame:
    """What two single runs have to differ by, for readers: a row per pair of cells, a column per set; labelled rows."""
    rows = least.assign(runs=[_pair_name(r.first, r.second) for r in least.itertuples()])
    wide = rows.pivot(index="runs", columns="row", values="least_difference")
    return wide.loc[rows["runs"].unique(), rows["row"].unique()].rename_axis(columns=None).reset_index()


def _pair_name(first: str, second: str) -> str:
    names = [", ".join(NOUNS[level] for level in cell.split()) for cell in (first, second)]
    return f"two of {names[0]}" if first == second else " and ".join(names)


def seed_sentence(least: pd.DataFrame, clean: str) -> str:
    """How large a difference between two single models has to be; labelled rows of accuracies, in points."""
    rows = least[(least["row"] == clean) & (least["first"] == least["second"])]
    ordered = rows.sort_values("least_difference")
    names = [f"{r.least_difference:.1f} ({_pair_name(r.first, r.second)[7:]})" for r in ordered.itertuples()]
    return (
        f"Two models that differ in nothing but the seed lie up to {joined(names)} points apart on {clean} (95 %): "
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


def no_verdict(name: str, guessing: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Why nothing is said about robustness.

    Args:
        name: Of the shift.
        guessing: Rows of `ablation_quantities.at_chance`.
        titles: Dataset -> title.
    """
    parts = []
    for dataset, rows in guessing.groupby("dataset", sort=False):
        found = (
            f"{cell_name(r)} {format_interval(r['value'], r['ci_low'], r['ci_high'], '.1f')} %"
            for r in rows.to_dict("records")
        )
        parts.append(f"{titles[dataset]} (chance {rows['chance'].iloc[0]:.1f} %) by {joined(found)}")
    return f"{name[0].upper()}{name[1:]}: no verdict on robustness, for some cells guess: {'; '.join(parts)}."


def robustness(rows: pd.DataFrame, name: str, clean: str, terms: Mapping[str, str]) -> str:
    """What brings accuracy under a shift closer to clean accuracy, beside what it does to that accuracy itself.

    What makes a model less accurate under the shift is not called robustness for making it yet less accurate elsewhere.

    Args:
        rows: Judged effects on accuracy and both gaps, of one quantity.
        name: Of the shift.
        clean: Of the clean set.
        terms: Factor -> how it is called.
    """
    words = []
    for term, label in terms.items():
        mine = rows[rows["term"] == term].set_index("metric")
        there, points, odds = (mine.loc[metric] for metric in ("accuracy", *GAPS))
        sign = direction(points, odds)
        verdict = {1: "brings robustness", -1: "costs robustness", 0: "is undecided"}[sign]
        if there["decided"] and sign * there["value"] < 0:
            verdict = "is less accurate there, but loses less" if sign > 0 else "is more accurate there, but loses more"
        words.append(
            f"{label} {verdict} (accuracy there {number(there)} points; relative to {clean} {number(points)} points, "
            f"{number(odds)} in log-odds)"
        )
    return f"{name[0].upper()}{name[1:]}: {'; '.join(words)}."
