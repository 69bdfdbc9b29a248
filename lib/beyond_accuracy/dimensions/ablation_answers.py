"""What the ablation page says: effects with verdicts, tables for readers, the figure of its runs, sentences.

The words are those of `assets/ablation.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import yaml

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.data.published import checkpoint_specs
from beyond_accuracy.dimensions import ablation
from beyond_accuracy.dimensions.ablation import ARCHITECTURE, DIVERSITY, LEVELS, OBJECTIVE, THREE, TWO, Measured
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.verdicts import OPEN, joined
from beyond_accuracy.show import figures, results, theme
from beyond_accuracy.show.tables import format_interval

WORDS = yaml.safe_load((ASSETS / "ablation.yaml").read_text(encoding="utf-8"))
NOUNS, EFFECTS, PANELS = WORDS["levels"], WORDS["effects"], WORDS["panels"]
# Effects that are judged, by what varies, in the order of the tables' columns.
TERMS = {TWO: (*TWO, f"{ARCHITECTURE}:{OBJECTIVE}")}
TERMS[THREE] = (DIVERSITY, f"{OBJECTIVE}:{DIVERSITY}", f"{ARCHITECTURE}:{DIVERSITY}", OBJECTIVE, ARCHITECTURE)
GAPS = ("accuracy_gap", "log_odds_gap")
RECORDED = list(results.RESULT_COLUMNS[1:])
NOTE = (
    " Accuracy there: lowest to highest mean of a cell. At chance: some cell cannot be told from guessing, no verdict."
)

# Looks of effects (three to a figure), of cells (those of the report's models) and of architectures.
_MARKS = 3 * [(theme.INK, "o"), ("#2f7ec0", "s"), ("#b3261e", "D")]
_SHOWN = {term: words["shown"] for term, words in EFFECTS.items() if "shown" in words}
_SHOWN_ENDS = {term + end: name + end for term, name in _SHOWN.items() for end in ("", "_low", "_high")}
LOOKS = {t: theme.ModelStyle(*mark, "-", "", name) for (t, name), mark in zip(_SHOWN.items(), _MARKS, strict=False)}
LOOKS |= {f"{spec.family}_{spec.paradigm}": theme.style(spec) for spec in checkpoint_specs()}
LOOKS |= {a: replace(LOOKS[f"{a}_supervised"], label=NOUNS[a]) for a in LEVELS[ARCHITECTURE]}
MEANS = {"renditions": "renditions (mean)", "pose_and_light": "pose and light (mean)"}


def labelled(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Rows of the page's quantities with `panel` and `row` for readers, fractions as points; others are left out."""
    about: dict = {}
    for panel in PANELS.values():
        for metric, row in panel["rows"].items():
            for name, title in titles.items():
                about[metric, name] = (len(about), panel["title"], row.format(title))
    about.pop(("accuracy", "world_cue"), None)  # its two cues are told apart by shape bias
    keys = list(zip(table["metric"], table["dataset"], strict=True))
    kept = table[np.array([key in about for key in keys], bool)]
    words = pd.DataFrame([about[key] for key in keys if key in about], kept.index, ["rank", "panel", "row"])
    scale = np.where(kept["unit"] == "fraction", 100.0, 1.0)
    numbers = {c: kept[c] * scale for c in ("value", "ci_low", "ci_high") if c in kept}
    kept = kept.assign(**numbers, unit=kept["unit"].replace(["fraction", "percent"], "points")).join(words)
    return kept.sort_values("rank", kind="stable").drop(columns="rank").reset_index(drop=True)


@dataclass(frozen=True)
class Answers:
    """Effects of some factors, judged panel by panel."""

    effects: pd.DataFrame  # labelled, with `p_holm, verdict`; `hollow` where open
    recorded: pd.DataFrame  # rows of the results schema
    cells: pd.DataFrame  # `ablation.cell_means`
    guessing: pd.DataFrame  # `ablation.at_chance`
    silent: set[str]  # sets, and means over sets, on whose gaps there is no verdict: a cell guesses
    titles: Mapping[str, str]
    groups: Mapping[str, Sequence[str]]
    lacking: str  # what keeps the effects from being computed

    def sets(self, *panels: str, about: str = "") -> pd.DataFrame:
        """Effects on single sets in some panels, for figures; `about` is part of the effects' names."""
        titles = [PANELS[name]["title"] for name in panels]
        rows = self.effects[self.effects["panel"].isin(titles) & ~self.effects["dataset"].isin(list(self.groups))]
        return rows[rows["term"].str.contains(about)]

    def figure(self, page, name: str, caption: str, *panels: str, about: str = "") -> None:
        """Draw the effects on single sets."""
        look = {"y": "row", "xlabel": "difference", "panel": "panel", "free": True, "line": 0, "stripes": True}
        page.draw(figures.dots, self.sets(*panels, about=about), name, caption, **look, styles=LOOKS)

    def tables(self, page, name: str, of: str = "") -> None:
        """A table per panel: a row per quantity, a column with its interval per effect.

        A gap stands beside the accuracy that it is a gap of; the last column holds p of each effect in order.
        """
        for slug, panel in PANELS.items():
            mine = self.effects[self.effects["panel"] == panel["title"]]
            if mine.empty:
                continue
            terms = TERMS[THREE if (mine["term"] == DIVERSITY).any() else TWO]
            shown = tidy.pivot(mine, "row", "term", terms).rename(columns=_SHOWN_ENDS | {"row": "on"})
            if note := NOTE * bool(mine["metric"].isin(GAPS).all()):
                means = self.cells[self.cells["metric"] == "accuracy"].groupby("dataset")["value"]
                ends = means.agg(["min", "max"]).loc[mine.drop_duplicates("row")["dataset"]].to_numpy()
                shown.insert(1, "accuracy there (%)", [f"{low:.1f} to {high:.1f}" for low, high in ends])
            p_values = mine.pivot(index="row", columns="term", values="p_holm").loc[shown["on"], list(terms)]
            shown["p (Holm)"] = [" · ".join(map(_p_text, values)) for values in p_values.to_numpy()]
            what = "effects, averaged over the other factors, with 95 % intervals; p of each by Holm over this table."
            formats = dict.fromkeys(_SHOWN.values(), "+.2f" if slug == "gap-log-odds" else "+.1f")
            caption = f"{panel['caption']}{of}: {what}{note}"
            page.table(shown, f"{name}-{slug}", caption, formats=formats)

    def statement(self, term: str) -> str:
        """What one factor does to accuracy: on which sets it is decided, with numbers, and on which not."""
        rows = self.sets("accuracy")
        rows = rows[rows["term"] == term]
        parts = [f"{row['row']} {_number(row)}" for row in rows[~rows["hollow"]].to_dict("records")]
        words = [", ".join(parts)] * bool(parts)
        words += [f"undecided on {joined(rows.loc[rows['hollow'], 'row'].tolist())}"] * int(rows["hollow"].any())
        return f"{EFFECTS[term]['said']}, all else equal (points): {'; '.join(words)}."

    def claim(self, term: str) -> str:
        """What one factor does to accuracy where it does most, of the sets on which it is decided."""
        rows = self.sets("accuracy").query("term == @term and not hollow").sort_values("value", key=abs)
        return "".join(
            f"{EFFECTS[term]['said']}: {_number(r)} points on {r['row']}" for r in rows.tail(1).to_dict("records")
        )

    def robustness(self, name: str, shift: str, clean: str) -> str:
        """What brings accuracy under a shift closer to clean accuracy, beside what it does to that accuracy itself.

        What makes a model less accurate under the shift is not called robustness for making it yet less accurate
        elsewhere. Where a cell guesses there is no verdict. `name` is the mean over the shifted sets, `shift` and
        `clean` are names for readers.
        """
        start = f"{shift[0].upper()}{shift[1:]}"
        if name in self.silent:
            parts = []
            weak = self.guessing[self.guessing["dataset"].isin(self.groups[name])]
            for dataset, rows in weak.groupby("dataset", sort=False):
                found = [f"{cell_name(row)} {_number(row, '.1f')} %" for row in rows.to_dict("records")]
                chance = rows["chance"].iloc[0]
                parts.append(f"{self.titles[dataset]} (chance {chance:.1f} %) by {joined(found)}")
            return f"{start}: no verdict on robustness, for some cells guess: {'; '.join(parts)}."
        rows, words = self.effects[self.effects["dataset"] == name], []
        for term in [term for term in TWO + THREE[2:] if (rows["term"] == term).any()]:
            mine = rows[rows["term"] == term].set_index("metric")
            there, points, odds = (mine.loc[metric] for metric in ("accuracy", *GAPS))
            said = f"{EFFECTS[term]['said']} {robustness_verdict(there, points, odds)}"
            gaps = f"relative to {clean} {_number(points)} points, {_number(odds)} in log-odds"
            words.append(f"{said} (accuracy there {_number(there)} points; {gaps})")
        return f"{start}: {'; '.join(words)}."


def answer(
    measured: Measured, factors: Sequence[str], titles: Mapping[str, str], groups: Mapping[str, Sequence[str]],
    chance: Mapping[str, float],
) -> Answers:  # fmt: skip
    """Effects of the factors (`TWO` or `THREE`), judged over each panel; none where cells lack seeds.

    Args:
        measured: The runs, with gaps.
        factors: What varies.
        titles: Dataset -> title; others are left out.
        groups: Name of a mean -> its shifted sets.
        chance: Dataset -> accuracy of guessing, percent.
    """
    keys = ["dataset", "metric", "unit", "n"]
    fitted, cells = pd.DataFrame(columns=[*keys, *ablation.COLUMNS]), pd.DataFrame(columns=[*keys, "value", "ci_low"])
    if not (lacking := ablation.seeds_lacking(measured.runs, factors)):
        fitted, cells = ablation.effects(measured, factors), ablation.cell_means(measured, factors)
    weak = ablation.at_chance(cells, chance)
    silent = set(weak["dataset"])
    silent |= {name for name, sets in groups.items() if silent & set(sets)}
    table = labelled(fitted[fitted["term"].isin(TERMS[tuple(factors)])], titles)
    mute = table["metric"].isin(GAPS) & table["dataset"].isin(silent)
    table["row"] = table["row"].mask(mute, table["row"] + " (at chance)")
    table = verdicts.judge(table.assign(p=table["p"].astype(float).mask(mute), family=table["panel"]))
    table = table.assign(model=table["term"], hollow=table["verdict"] == OPEN)
    told = fitted[~(fitted["metric"].isin(GAPS) & fitted["dataset"].isin(silent))]
    told = told[told["term"].str.contains(DIVERSITY if DIVERSITY in factors else "")]
    names = told["term"].map(lambda term: EFFECTS[term]["recorded"])
    told = told.assign(metric="effect:" + told["metric"], model=names, unit=told["unit"].replace("percent", "points"))
    return Answers(table, told[RECORDED], cells, weak, silent, titles, groups, lacking)


def robustness_verdict(there: pd.Series, points: pd.Series, odds: pd.Series) -> str:
    """What effects on the accuracy under a shift and on both gaps say; each with `value` and `hollow`.

    A gap in points shrinks for less accurate models by arithmetic alone, one in log-odds less so: what holds on one
    scale only is undecided.
    """
    signs = {np.sign(gap["value"]) for gap in (points, odds)}
    if points["hollow"] or odds["hollow"] or len(signs) > 1:
        return "is undecided"
    sign = signs.pop()
    if not there["hollow"] and sign * there["value"] < 0:
        return "is less accurate there, but loses less" if sign > 0 else "is more accurate there, but loses more"
    return "brings robustness" if sign > 0 else "costs robustness"


def robustness_sentences(asked: Mapping[str, Answers], clean: str) -> Iterator[str]:
    """What brings robustness to renditions, and to pose and light; of the first answers in `asked` that may tell."""
    for name in MEANS:
        for data, answers in asked.items():
            if not answers.lacking:
                yield answers.robustness(name, ", ".join(filter(None, (MEANS[name], data))), answers.titles[clean])
                if name not in answers.silent:
                    break


def cell_name(row: Mapping[str, str]) -> str:
    """A cell's name: "ViT, CLIP", with its data where the row has them."""
    data = f" on {row[DIVERSITY]} data" if DIVERSITY in row else ""
    return f"{NOUNS[row[ARCHITECTURE]]}, {NOUNS[row[OBJECTIVE]]}{data}"


def _number(row: Mapping, spec: str = "") -> str:
    spec = spec or ("+.2f" if row["unit"] == "log-odds" else "+.1f")
    return format_interval(row["value"], row["ci_low"], row["ci_high"], spec)


def _p_text(p: float) -> str:
    return "–" if pd.isna(p) else "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.3f}".lstrip("0")


def accuracies(measured: Measured, sets: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Accuracy of every run on these sets, percent; `model` is its levels of the factors `by`."""
    runs, model = measured.runs, measured.runs[list(by)].agg("_".join, axis=1)
    parts = [runs.assign(dataset=name, value=measured.values[measured.position(name)], model=model) for name in sets]
    return pd.concat(parts or [runs.iloc[:0]], ignore_index=True)


def own_models(recorded: pd.DataFrame, specs: Iterable, titles: Mapping[str, str]) -> pd.DataFrame:
    """Accuracies of a profile's own models that are cells, of what other pages recorded: rows for `slopes`."""
    kinds = {spec.name: (spec.family, spec.paradigm) for spec in specs}
    cells = {name: kind for name, kind in kinds.items() if "_".join(kind) in LOOKS}
    rows = recorded[(recorded["metric"] == "accuracy") & recorded["model"].isin(list(cells))]
    rows = rows[rows["dataset"].isin(list(titles))].drop_duplicates(["dataset", "model"])
    kind = rows["model"].map(cells)
    return rows.assign(dataset=rows["dataset"].map(titles), model=kind.str[0], objective=kind.str[1])


def slopes(
    frame: pd.DataFrame, factor: str, styles: Mapping[str, theme.ModelStyle], own: pd.DataFrame | None = None
) -> figures.Drawn:
    """The two levels of a factor side by side, a line per model, every training run a small point.

    Lines that are not parallel are an interaction. Rows `dataset, model, value` and the factor, one per run; rows of
    the report's `own` models are stars.
    """
    looks, places = figures.used(styles, frame), {level: k for k, level in enumerate(LEVELS[factor])}
    fig, axes = figures.panels(list(dict.fromkeys(frame["dataset"])), 2.4, 2)
    for title, ax in axes.items():
        for k, (name, look) in enumerate(looks.items()):
            aside = 0.14 * (k - (len(looks) - 1) / 2)
            mine = frame[(frame["dataset"] == title) & (frame["model"] == name)]
            color = {"color": look.color, "markerfacecolor": look.markerfacecolor}
            at, beside = mine[factor].map(places).astype(float) + aside, 0.07 * np.sign(aside)
            ax.plot(at + beside, mine["value"], look.marker, **color, markersize=4.2, markeredgewidth=0.9, alpha=0.75)
            means = mine.groupby(factor)["value"].mean().reindex(list(places))
            line = {"linestyle": look.linestyle, "marker": look.marker, "markersize": 8, "markeredgewidth": 1.6}
            ax.plot(np.arange(2) + aside, means, **color, **line, label=look.label)
            if own is not None:
                stars = own[(own["dataset"] == title) & (own["model"] == name)]
                star = {"color": look.color, "markersize": 11, "markeredgecolor": theme.INK, "markeredgewidth": 0.8}
                ax.plot(stars[factor].map(places).astype(float) + 4 * aside, stars["value"], "*", **star)
        theme.category_axis(ax, [NOUNS.get(level, level) for level in places], "v")
        ax.margins(y=0.12)
    first = next(iter(axes.values()))
    first.plot([], [], "o", color=theme.GREY, markersize=4.5, label="one training run")
    if own is not None and len(own):
        first.plot([], [], "*", color="white", markeredgecolor=theme.INK, markersize=11, label="this report's models")
    fig.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    means = frame.groupby(["dataset", "model", factor], sort=False)["value"].mean().reset_index()
    words = figures.spell(means, ["dataset", "model", factor], figures.labels_of(looks) | NOUNS, ".1f")
    return fig, f"Accuracy of every run in percent; means over seeds: {words}."


def seed_rows(noise: pd.DataFrame) -> pd.DataFrame:
    """The spread over seeds as rows of the results schema, a row per cell."""
    rows = noise[noise["value"].notna()]
    cell, unit = rows[ARCHITECTURE] + "_" + rows[OBJECTIVE], rows["unit"].replace("percent", "points")
    return rows.assign(metric="seed_sd:" + rows["metric"], model=cell, unit=unit)[RECORDED]


def seed_table(noise: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """The spread over seeds for readers: a row per quantity, a column with its interval per cell."""
    rows = labelled(noise[(noise["metric"] != "log_odds_gap") & ~noise["dataset"].isin(list(MEANS))], titles)
    rows = rows.assign(cell=list(map(cell_name, rows.to_dict("records"))))
    return tidy.pivot(rows.rename(columns={"panel": "measure", "row": "quantity"}), ["measure", "quantity"], "cell")


def least_table(noise: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """What the accuracies of two single runs have to differ by, points: a row per pair of cells, a column per set."""
    noise = noise[(noise["metric"] == "accuracy") & ~noise["dataset"].isin(list(MEANS))]
    least = labelled(ablation.least_differences(noise, TWO), titles)
    least["two single runs"] = [_pair_name(r.first, r.second) for r in least.itertuples()]
    wide = least.pivot(index="two single runs", columns="row", values="value")
    return wide.loc[least["two single runs"].unique(), least["row"].unique()].rename_axis(columns=None).reset_index()


def _pair_name(first: str, second: str) -> str:
    names = [", ".join(NOUNS[level] for level in cell.split()) for cell in (first, second)]
    return f"two of {names[0]}" if first == second else " and ".join(names)


def seed_sentence(least: pd.DataFrame, clean: str) -> str:
    """How large a difference between two single models has to be, by rows of `least_table`."""
    same = least[least["two single runs"].str.startswith("two of ")].sort_values(clean)
    names = [f"{value:.1f} ({name[7:]})" for name, value in zip(same["two single runs"], same[clean], strict=True)]
    return (
        f"Two models that differ in nothing but the seed lie up to {joined(names)} points apart on {clean} (95 %): "
        "a smaller difference between two single models may be luck of the seed, whatever its interval over images."
    )


def beside_longer(answers: Answers, runs: Measured, longer: Measured) -> pd.DataFrame:
    """Effects on accuracies and log-odds gaps beside those of single runs with another budget, where these exist."""
    if ablation.seeds_lacking(longer.runs, TWO, least=1):
        return pd.DataFrame()
    names = [f"{part.runs['samples_seen'].iloc[0]:,} samples" for part in (runs, longer)]
    keys, alone = ["dataset", "metric", "term"], labelled(ablation.single_values(longer, TWO), answers.titles)
    both = answers.sets("accuracy", "gap-log-odds").merge(alone[[*keys, "value"]], on=keys, suffixes=("", "_longer"))
    columns = dict(zip(("value", "ci_low", "ci_high"), (names[0] + end for end in ("", "_low", "_high")), strict=True))
    both = both.assign(effect=both["term"].map(_SHOWN)).rename(columns=columns | {"value_longer": names[1]})
    both = both.rename(columns={"panel": "measure", "row": "on"})
    return both[["measure", "on", "effect", *columns.values(), names[1]]]
