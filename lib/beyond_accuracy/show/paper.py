"""The paper's numbers with the interval that its test sets allow, and which of its differences those support.

An interval is Wilson's at the size of the test set (`assets/paper_n.csv`, explained in `assets/paper.md`). Ratios of
errors and ECE have none: images per factor and per bin are not printed. The reading error of a value widens
differences, not its own interval.

A difference is tested as if the two models had seen different images, since the paper prints no paired answers: with
the same images it varies less where models tend to err together. Holm over all pairs of a figure.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import published
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import Z95, half_width_sd
from beyond_accuracy.show import figures, tables, theme

FIGURE = {"mistakes": 2, "shape_bias": 3, "calibration": 4, "robustness": 6, "transfer": 6, "synthetic": 7,
          "invariance": 8}  # fmt: skip
MEANS = {"robustness": ("mean of 7 sets", ("imagenet_1k",)), "transfer": ("mean of 19 tasks", ())}  # name, left out
TITLES = {"none": "", "imagenet_x": "ImageNet-X"}
READ = ["value", "ci_low", "ci_high"]


def numbers() -> pd.DataFrame:
    """The 384 values with `figure`, `n`, `counted`, `ci_low`, `ci_high`, and names: `set`, `variant`, `number`.

    A mean over sets has the mean of their half widths, which no dependence between them makes too narrow.
    """
    rows, sizes = published.paper(), pd.read_csv(ASSETS / "paper_n.csv")
    keys = [rows[published.KEY].assign(**dict.fromkeys(stars, "*")) for stars in ([], ["model"], ["metric", "model"])]
    found = [key.merge(sizes, how="left", on=published.KEY)[["n", "counted"]] for key in keys]
    rows[["n", "counted"]] = found[0].combine_first(found[1]).combine_first(found[2])
    scale = np.where(rows["unit"] == "percent", 100.0, 1.0)
    ends = proportion_confint(rows["value"] / scale * rows["n"], rows["n"], method="wilson")
    rows["ci_low"], rows["ci_high"] = (scale * end for end in ends)
    for page, (_, left_out) in MEANS.items():
        mine, mean = rows["dimension"] == page, rows["dataset"] == "average"
        parts = rows[mine & ~mean & ~rows["dataset"].isin(left_out)]
        half = ((parts["ci_high"] - parts["ci_low"]) / 2).groupby(parts["model"]).mean()
        value, half = rows.loc[mine & mean, "value"], rows.loc[mine & mean, "model"].map(half)
        rows.loc[mine & mean, "ci_low"], rows.loc[mine & mean, "ci_high"] = value - half, value + half
    return _named(rows)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    known = {name: spec.title for name, spec in load_profile("paper").datasets.items()} | TITLES
    means = rows["dimension"].map({page: name for page, (name, _) in MEANS.items()})
    rows["figure"] = rows["dimension"].map({page: f"figure {n}" for page, n in FIGURE.items()}).fillna("table 1")
    rows["set"] = rows["dataset"].map(known).fillna(means)
    rows["variant"] = rows["metric"].str.partition(":")[2].str.replace("_", " ")
    heading = rows["metric"].map(lambda name: tables.about(name)["heading"])
    parts = zip(rows["set"], heading, rows["variant"].str.replace("=", " "), strict=True)
    rows["number"] = [", ".join(filter(None, words)) for words in parts]
    return rows


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """All pairs of models wherever both have an interval, as `verdicts.judge` decides them; a figure is a family."""
    found = []
    for key, part in rows.dropna(subset=["ci_low"]).groupby(published.KEY[:3], sort=False):
        for a, b in combinations(part.to_dict("records"), 2):
            gap, read = a["value"] - b["value"], a["tolerance"] + b["tolerance"]
            error = np.hypot(*(half_width_sd(one["ci_low"], one["ci_high"]) for one in (a, b)))
            reach, p = Z95 * error + read, 2 * norm.sf(max(abs(gap) - read, 0.0) / error)
            row = dict(model_a=a["model"], model_b=b["model"], difference=gap, ci_low=gap - reach, ci_high=gap + reach)
            about = dict(zip(published.KEY, key, strict=False)) | {"family": key[0], "p_floor": 0.0}
            found.append(about | row | {"p": p, "n": a["n"], "unit": a["unit"], "set": a["set"]})
    return verdicts.judge(pd.DataFrame(found))


def lookup(rows: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    """One row per number (of `numbers`), models across with intervals, n, where it was read; below it this run's.

    `here`, of `published.compare`, may be empty.
    """
    key, index = published.KEY, ["number", "figure"]
    later = (rows["dimension"] != "robustness") | (rows["dataset"] == "imagenet_1k")  # shifts are looked up most
    first = pd.concat([rows[~later], rows[later]])
    first["place"] = first.groupby(key[:3], sort=False).ngroup()
    own = first.drop(columns=[*READ, "n", "tolerance"]).merge(here[[*key, *READ, "n"]], on=key)
    both = pd.concat([first, own.assign(number=own["number"] + ", this run")]).sort_values("place", kind="stable")
    both[READ[1:]] = both[READ[1:]].round(3)  # no n here tells more
    about = both.groupby(index, sort=False)
    few, many = about["n"].min().map("{:,.0f}".format), about["n"].max().map("{:,.0f}".format)
    n = few.where(few == many, few + " to " + many).where(about["n"].count() > 0, "–")
    shown = pd.DataFrame({"n": n, "read": about["tolerance"].max(), "format": tables.digits(about["unit"].first())})
    shown = shown.reset_index()
    shown["read"] = (shown["figure"] + shown["read"].map(", ±{:g}".format, na_action="ignore")).fillna("measured")
    names = {spec.name: spec.label for spec in published.checkpoint_specs()}
    return tidy.pivot(both.replace({"model": names}), index, "model").merge(shown).drop(columns="figure")


def told(judged: pd.DataFrame) -> str:
    """How many differences of a figure its test sets tell from chance, in words."""
    if not len(judged):
        return "No intervals: they would need counts per factor or bin, which the paper does not print."
    sure, pairs = verdicts.tells_apart(judged)
    return f"The size of the test sets tells {sure} of {pairs} differences between two models from chance."


# page, metric, what its figure shows, how it is drawn
_DRAWN = (
    ("mistakes", "error_ratio", "Error ratio by factor; 1: no harder than other images.",
     {"kind": figures.dots, "y": "variant", "xlabel": "error ratio", "line": 1.0}),
    ("shape_bias", "shape_bias", "Shape bias by category, the first row over all images.",
     {"kind": figures.dots, "y": "variant", "xlabel": "shape bias"}),
    ("calibration", "ece", "Calibration error.", {"kind": figures.dots, "y": "dataset", "xlabel": "ECE"}),
    ("robustness", "accuracy", "Who leads under shift; the winner's accuracy at the right.", {"kind": figures.lead}),
    ("transfer", "accuracy", "Who leads in transfer; the winner's accuracy at the right.", {"kind": figures.lead}),
    ("synthetic", "accuracy", "Accuracy by factor on PUG: ImageNet.",
     {"kind": figures.dots, "y": "variant", "xlabel": "accuracy (%)"}),
    ("invariance", "accuracy", "Accuracy on transformed images.",
     {"kind": figures.lines, "x": "strength", "panel": "transform", "columns": 1, "equal": True, "sharey": False,
      "xlabel": "strength", "ylabel": "accuracy (%)"}),
)  # fmt: skip


def redrawn(rows: pd.DataFrame, judged: pd.DataFrame, here: pd.DataFrame) -> Iterator[tuple[str, dict]]:
    """The paper's figures with intervals: page and arguments of `Page.draw`; black ticks are this run."""
    specs = published.checkpoint_specs()
    named = rows.assign(dataset=rows["set"], variant=rows["variant"].replace("", "all images"))
    named[["transform", "strength"]] = named["variant"].str.extract(r"^(scale|shift|resolution)=(.+)$")
    named["strength"] = named["strength"].astype(float)
    own = rows[published.KEY].merge(here[[*published.KEY, "value"]], how="left", on=published.KEY)["value"]
    for page, metric, words, options in _DRAWN:
        mine = [(t["dimension"] == page) & (t["metric"].str.partition(":")[0] == metric) for t in (rows, judged)]
        chosen, decided = mine[0], judged[mine[1]]
        caption = f"{words} The paper's values (its figure {FIGURE[page]}). {told(decided)}"
        if options["kind"] is figures.lead:
            gaps = decided.assign(dataset=decided["set"])
            options = options | {"y": "dataset", "pairs": verdicts.lead_pairs(specs), "gaps": gaps}
        else:
            ticks = named.assign(value=own.to_numpy())[chosen].dropna(subset=["value"])
            options = options | {"paper": ticks}
            caption += " Black ticks: this run." if len(ticks) else ""
        yield page, {"rows": named[chosen], "caption": caption, "styles": theme.styles(specs)} | options
