"""One verdict per question: which differences between models are real, decided once and read everywhere.

A question is one row of comparisons: a difference between two models (or of one model from zero) on one set in one
metric. The p-values of a family (`clean`: accuracy on the clean set, which is the same family on every page; `main`:
other headline numbers of a page; `choice`: what the chooser weighs beside them; `detail`: all else) are corrected
together by Holm's method. Three levels of a difference:

- ``beyond training noise``: also larger than two training runs differ by the luck of their seeds, images included
  (each difference judged by itself at 5 %: with three runs a model, a correction would leave nothing to be seen).
- ``these checkpoints``: real for these two checkpoints on new images; another training run may turn it.
- ``open``: not told from zero.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from beyond_accuracy.measure.stats import half_width_sd, holm

BEYOND_NOISE, THESE, OPEN = "beyond training noise", "these checkpoints", "open"
LEVEL = 0.05
POWER = norm.isf(LEVEL / 2) + norm.isf(0.2)  # a difference of so many standard errors is told from zero in 4 of 5 cases
NOISE = ["dataset", "metric", "model", "sd", "df"]
RUNS = ["dimension", "dataset", "metric", "model", "seed", "value"]  # a table of training runs, whatever they measured


def training_noise(path: Path, dimension: str, models: Collection[str]) -> pd.DataFrame:
    """Standard deviation of each metric of a page between training runs that differ in nothing but the seed: `NOISE`.

    The table (columns `RUNS`) is made by `python -m mini_world.replicates`. Models with at least two runs, each with a
    variance of its own: pooled or shrunken ones gave intervals that cover 86 to 90 % (docs/metrics.md).
    """
    table = pd.read_csv(path)
    table = table[(table["dimension"] == dimension) & table["model"].isin(models)]
    runs = table.groupby(NOISE[:3], sort=False)["value"].agg(sd="std", df="size").reset_index()
    return runs.assign(df=runs["df"] - 1)[runs["df"] > 1]


def judge(rows: pd.DataFrame, noise: pd.DataFrame | None = None) -> pd.DataFrame:
    """Adds `p_holm`, `verdict`, and `replicated`: whether the noise of training of both models is known.

    `rows` are comparisons with `dataset, metric, model_a, model_b, difference, ci_low, ci_high, p, family`; `noise` is
    that of `training_noise`, None where no replicate runs are known.
    """
    judged = rows.assign(p_holm=np.nan, verdict=OPEN, replicated=False)
    for _, part in judged.groupby("family", sort=False):
        judged.loc[part.index, "p_holm"] = holm(part["p"].to_numpy(float))
    sure = judged["p_holm"] < LEVEL
    judged.loc[sure, "verdict"] = THESE
    if noise is not None and len(noise):
        judged["replicated"] = np.isfinite(_deviations(judged, noise)[0]).all(axis=1)
        judged.loc[sure & exceeds_noise(judged, noise), "verdict"] = BEYOND_NOISE
    return judged


def _deviations(rows: pd.DataFrame, noise: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviations between training runs of both models and their degrees of freedom, each (rows, 2)."""
    known, parts = noise.set_index(NOISE[:3]), []
    for side in ("model_a", "model_b"):
        part = known.reindex(pd.MultiIndex.from_frame(rows[["dataset", "metric", side]])).to_numpy(float)
        parts.append(np.where((rows[side] == "").to_numpy()[:, None], (0.0, 1.0), part))  # compared with zero
    return tuple(np.stack(parts, axis=-1).swapaxes(0, 1))


def exceeds_noise(rows: pd.DataFrame, noise: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether differences are larger than two training runs differ by the luck of their seeds and of the images.

    |d| > t(df) sqrt(sd_a^2 + sd_b^2 + se^2), se from the interval of the difference; df by Welch and Satterthwaite over
    the two training variances. Not where the noise of either model is unknown.
    """
    deviation, freedom = _deviations(rows, noise)
    variance = deviation**2
    total = variance.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(total > 0, total**2 / (variance**2 / freedom).sum(axis=1), np.inf)
    images = half_width_sd(rows["ci_low"], rows["ci_high"]) ** 2
    return (rows["difference"].abs() > t.isf(LEVEL / 2, df) * np.sqrt(total + images)).to_numpy()


def between(judged: pd.DataFrame, a: str, b: str) -> dict | None:
    """The comparison of two models, turned so that it is a minus b; None if it was not made."""
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        found = judged[(judged["model_a"] == first) & (judged["model_b"] == second)]
        if len(found):
            row = found.iloc[0].to_dict()
            low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
            turned = {"model_a": a, "model_b": b, "difference": sign * row["difference"]}
            return row | turned | {"ci_low": low, "ci_high": high}
    return None


def more_images(row: Mapping) -> float:
    """How many times as many images would tell two models apart in 4 of 5 cases, if they differ by what is seen."""
    se = half_width_sd(row["ci_low"], row["ci_high"])
    return (POWER * se / row["difference"]) ** 2 if row["difference"] else np.inf


def leaders(values: pd.Series, judged: pd.DataFrame, better: str = "up") -> list[str]:
    """The best model, with all that its comparisons do not tell from it; a single name leads.

    `values` (by model) and the judged comparisons are of one metric on one set; `better` is `up` or `down`.
    """
    best, *others = values.sort_values(ascending=better == "down", kind="stable").index
    rows = {name: between(judged, best, name) for name in others}
    return [best, *(name for name, row in rows.items() if row is None or row["verdict"] == OPEN)]


def span(values: pd.Series, judged: pd.DataFrame, labels: Mapping[str, str], write: Callable[[float], str]) -> str:
    """The lowest and the highest of values by model, each with all models not told from it; no name where all tie.

    Such as `0.92 (A) to 0.99 (B or C)`, of judged comparisons of one metric on one set.
    """
    ends = [leaders(values, judged, better) for better in ("down", "up")]
    low, high = (write(values[end[0]]) for end in ends)
    if all(len(end) == len(values) for end in ends):
        return f"{low} to {high}, not told apart"
    first, last = (" or ".join(labels[model] for model in end) for end in ends)
    return f"{low} ({first}) to {high} ({last})"


def is_bound(found: pd.DataFrame | Mapping) -> pd.Series | bool:
    """Whether p is as small as its resamples can tell, so that it is an upper bound: of one comparison or of many."""
    return found["p"] <= found["p_floor"] * (1 + 1e-9)


TWO = {True: "the two are told apart", False: "the two are not told apart"}  # where there is only one pair


def tells_apart(judged: pd.DataFrame) -> tuple[int, int]:
    """How many pairs of models a set of comparisons tells apart, and how many there are."""
    pairs = judged[judged["model_b"] != ""]
    return int((pairs["verdict"] != OPEN).sum()), len(pairs)


def told_apart(judged: pd.DataFrame, labels: Mapping[str, str] | None = None) -> str:
    """`tells_apart` in words, with what is beyond a known noise of training and, given `labels`, the open pairs."""
    apart, count = tells_apart(judged)
    if not count:
        return ""
    pairs = judged[judged["model_b"] != ""]
    said = f"{apart} of {count} pairs of models are told apart" if count > 1 else TWO[bool(apart)]
    if apart and pairs["replicated"].any():
        beyond = (pairs["verdict"] == BEYOND_NOISE).sum()
        who = f"{beyond or 'none'} of them " if count > 1 else "" if beyond else "not "
        said += f" ({who}beyond training noise)"
    if labels is not None and 0 < apart < count:
        still = pairs[pairs["verdict"] == OPEN]
        names = [f"{labels[a]} and {labels[b]}" for a, b in zip(still["model_a"], still["model_b"], strict=True)]
        said += f"; open: {'; '.join(names)}"
    return said


def joined(names: Sequence[str]) -> str:
    """Names as a phrase: `A`, `A and B`, `A, B and C`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def counted(n: int, what: str) -> str:
    """A number of things whose plural ends in s: `1 image`, `2,000 images`."""
    return f"{n:,} {what}" + "s" * (n != 1)


class Contrast(NamedTuple):
    """Two models and what tells them apart: `architecture`, `objective`, or `` for neither alone."""

    model_a: str
    model_b: str
    what: str


def contrasts(specs: Iterable) -> list[Contrast]:
    """Pairs of models that differ in one thing: `family` (architecture) or `paradigm` (objective) of their specs.

    Where no pair is like that (imported models of unknown kind), all pairs.
    """

    def what(a, b) -> str:
        if (a.family == b.family) == (a.paradigm == b.paradigm):
            return ""
        return "objective" if a.family == b.family else "architecture"

    pairs = [Contrast(a.name, b.name, what(a, b)) for a, b in combinations(specs, 2)]
    return [pair for pair in pairs if pair.what] or pairs


def lead_pairs(specs: Iterable) -> list[tuple[str, str]]:
    """Pairs to put against each other: transformer left, convnet right of one paradigm; else in profile order."""
    pairs, specs = [], list(specs)
    for paradigm in dict.fromkeys(spec.paradigm for spec in specs):
        group = [spec for spec in specs if spec.paradigm == paradigm]
        families = {spec.family: spec.name for spec in group}
        if len(group) == 2 and set(families) == {"transformer", "convnet"}:
            pairs.append((families["transformer"], families["convnet"]))
        else:
            pairs += [(a.name, b.name) for a, b in pairwise(group)][::2]
    return pairs
