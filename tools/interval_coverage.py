"""How well do the printed intervals and p-values hold? Samples of known truth, drawn again and again at the report's n.

    make coverage                      every simulation, and the tables of docs/metrics.md
    make coverage ARGS="--only ece"    one of them, and its table
    make coverage ARGS=--quick         a smoke run that writes nothing

A simulation draws one sample per call and yields what the library says about it. Its docstring is the text above its
table. Seeds depend on the simulation and the repetition alone: the same numbers for any number of processes.
"""

import argparse
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from beyond_accuracy.dimensions import ablation, calibration, mistakes, robustness, shape_bias, synthetic
from beyond_accuracy.dimensions.transfer import run
from beyond_accuracy.dimensions.transfer.tasks import Task
from beyond_accuracy.measure import stats

DOCS = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
LEAST = 0.92  # lines that cover less are set in bold
ALIKE = 0.6  # correlation of two models on an image: a phi of about 0.4 between their outcomes, as measured
SHIFTED = {"v2": (1600, 0.86), "a": (800, 0.31), "r": (1600, 0.74), "sketch": (1600, 0.5), "hard": (1000, 0.6)}
FACTOR_SHARES = np.array([371, 363, 353, 322, 307, 303, 297, 194, 175, 115, 114, 114, 99, 73, 0]) / 3200
FACTOR_SHARES[-1] = 1 - FACTOR_SHARES.sum()  # images without any
FACTOR_SHIFTS = np.append(np.linspace(-0.9, 1.3, 14)[[3, 0, 9, 5, 12, 7, 1, 10, 4, 13, 2, 8, 6, 11]], 0.0)  # log-odds
RANGES = {"still": 0, "steady": 4, "moving": 10, "breaking": 19}
COLUMNS = ["repetition", "quantity", "n", "case", "truth", "low", "high", "p"]  # p counts where the truth is 0
SEED_SDS = {"World Val": (3200, 0.57, (0.98, 3.41, 0.28, 1.46)), "World Sketch": (1600, 1.1, (2.2, 6.4, 1.4, 3.3))}


def latent(rng: Generator, n: int, *groups: tuple[float, NDArray]) -> NDArray:
    """(n,) standard normal numbers that images share in groups: of each the share of variance and the images' group."""
    total = math.sqrt(1 - sum(share for share, _ in groups)) * rng.normal(size=n)
    for share, group in groups:
        total += math.sqrt(share) * rng.normal(size=group.max() + 1)[group]
    return total


def observers(rng: Generator, count: int, n: int, *groups: tuple[float, NDArray], alike: float = ALIKE) -> NDArray:
    """(n, count) such numbers of several models, correlated by `alike`.

    An answer is right where its number is below norm.ppf(p): with probability p whatever is shared: the truth is known.
    """
    own = np.column_stack([latent(rng, n, *groups) for _ in range(count)])
    return math.sqrt(alike) * latent(rng, n, *groups)[:, None] + math.sqrt(1 - alike) * own


def accuracy(rng: Generator) -> Iterator[tuple]:
    """Difference of two models' accuracy on the same images, points (score interval, McNemar).

    Cases: the share of images on which one model alone is right, and the difference.
    """
    for n in (240, 480, 1600, 3200):
        for apart, gap in ((0.15, 0), (0.15, 0.03), (0.05, 0.02), *[(3 / 480, 0), (3 / 480, 1 / 480)] * (n == 480)):
            draw = rng.random(n)
            a, b = draw < (apart + gap) / 2, (draw >= (apart + gap) / 2) & (draw < apart)
            _, (low, high), p = stats.accuracy_difference(a, b)
            case = f"{100 * apart:.2g} % apart, {100 * gap:.2g}"
            yield "accuracy, difference", f"{n:,}", case, 100 * gap, 100 * low, 100 * high, p


def scenes(rng: Generator) -> Iterator[tuple]:
    """Few scenes of eight images each, a third of the variance between scenes, percent.

    A share (Wilson at a design effect), and the difference of two equal models (cluster bootstrap with Student's t).
    """
    for units in (31, 80, 96):
        scene = np.repeat(np.arange(units), 8)
        for p in (0.5, 0.95):
            right, n, case = observers(rng, 2, len(scene), (0.33, scene)) < norm.ppf(p), str(units), f"{100 * p:g} %"
            ends = 100 * np.array(stats.share_interval(right[:, 0], scene))
            yield "share of images", n, case, 100 * p, *ends
            draws = 100 * stats.bootstrap_means(right[:, 0] * 1.0 - right[:, 1], 5000, rng, scene)
            ends, p_value = stats.percentile_interval(draws, units), stats.bootstrap_p_value(draws, units)
            yield "difference", n, f"both {case}", 0, *ends, p_value


def sets(rng: Generator) -> Iterator[tuple]:
    """Mean over six shifted sets, and its difference between two models (bootstrap within each set), percent.

    Sets of 800 to 1,600 images, and 208 images corrupted in 75 ways (their own accuracy: Wilson at a design effect).
    Cases: accuracy, or the first model's advantage on every set.
    """
    for gap in (0.0, 0.02):
        image = np.repeat(np.arange(208), 75)
        right = observers(rng, 2, len(image), (0.7, image)) < norm.ppf([0.8 + gap, 0.8])
        outcomes = {"c": right.reshape(208, 75, 2).mean(axis=1)}
        outcomes |= {k: observers(rng, 2, n) < norm.ppf([p + gap, p]) for k, (n, p) in SHIFTED.items()}
        by_model = {name: dict(zip("ab", table.T, strict=True)) for name, table in outcomes.items()}
        rows, gaps = robustness.average_table(by_model, 1000, int(rng.integers(2**31)))
        n, mean = f"{sum(map(len, outcomes.values())):,}", 100 * np.mean([0.8, *(p for _, p in SHIFTED.values())])
        if gap:
            ends = 100 * np.array(stats.share_interval(right[:, 1], image))
            yield "accuracy, corrupted", "208", "80 %", 80, *ends
            yield "mean over sets", n, f"{mean:.1f} %", mean, *rows.loc[1, ["ci_low", "ci_high"]]
        line = "mean over sets, difference", n, f"{100 * gap:g} points", 100 * gap
        yield *line, *gaps.loc[0, ["ci_low", "ci_high", "p"]]


def factors(rng: Generator) -> Iterator[tuple]:
    """Fourteen factors that exclude each other, on 73 to 371 of 3,200 images (bootstrap; error rates Wilson, percent).

    A model that errs on 9 %, and two that err on 23 %; a factor does the same to the log-odds of each one's errors.
    Lines of a factor pool all fourteen.
    """
    names = [f"factor {k}" for k in range(14)]
    factor = rng.choice(15, 3200, p=FACTOR_SHARES)
    marks = pd.DataFrame(factor[:, None] == np.arange(14), columns=names)
    errors = expit(np.array([[-2.6], [-1.4], [-1.4]]) + FACTOR_SHIFTS)
    right = dict(zip("abc", (observers(rng, 3, 3200) >= norm.ppf(errors[:, factor].T)).T, strict=True))
    ratio = errors / (errors * FACTOR_SHARES).sum(axis=1, keepdims=True)
    effect = FACTOR_SHIFTS - np.average(FACTOR_SHIFTS[:-1], weights=FACTOR_SHARES[:-1])
    truth = {"error_rate": 100 * errors, "error_ratio": ratio, "factor_effect": np.array([effect] * 3)}
    cases = {"a": "9 % errors", "b": "23 % errors", "ab": "9 and 23 % errors", "bc": "23 and 23 % errors"}
    single = mistakes.factor_table(right, marks, 1000, rng).rename(columns={"model": "model_a"}).assign(model_b="")
    for row in pd.concat([single, mistakes.factor_differences(right, marks, rng, 10_000)]).itertuples():
        if models := cases.get(row.model_a + row.model_b):
            values, average = truth[row.kind], row.factor == mistakes.AVERAGE
            value = values["abc".index(row.model_a)] - (values["abc".index(row.model_b)] if row.model_b else 0)
            value = value[:-1].mean() if average else value[names.index(row.factor)]
            what, n = ("average", "3,200") if average else ("a factor", "73 to 371")
            quantity = f"{row.kind}, {what}{', difference' if row.model_b else ''}"
            yield quantity, n, models, value, row.ci_low, row.ci_high, row.p


@lru_cache
def sure(kind: bool) -> tuple[NDArray, NDArray]:
    """Confidences of a supervised (True) or a CLIP model on World Val, and how they gain or lose accuracy by it."""
    rng, (a, b), (c, d) = np.random.default_rng(0), *(((167, 0.98), (3.2, 0.62)) if kind else ((22.5, 1.5), (4.7, 2.9)))
    p = np.clip(np.sort(np.concatenate([rng.beta(a, b, 100_000), rng.beta(c, d, 100_000)])), 1 / 16, 1 - 1e-6)
    gap = (expit(logit(p) / 2.5) if kind else expit(logit(p) + 1.2)) - p
    return p, gap / calibration.ece(p, p + gap)


def answers(rng: Generator, n: int, kinds: Sequence[bool], eces: Sequence[float], alike: float = 0.45) -> list[tuple]:
    """(n,) confidences and outcomes of models of these kinds and true ECEs, on the same images."""
    place = norm.cdf(observers(rng, len(kinds), n, alike=alike)).T
    right, grid = norm.cdf(observers(rng, len(kinds), n)).T, np.linspace(0, 1, 200_000)
    parts = [[np.interp(at, grid, column) for column in sure(kind)] for at, kind in zip(place, kinds, strict=True)]
    return [(p, u < p + e * gap) for (p, gap), u, e in zip(parts, right, eces, strict=True)]


def ece(rng: Generator) -> Iterator[tuple]:
    """The debiased ECE of 15 bins, and its difference between two models.

    Confidences like those of a supervised model (the less calibrated, the more too sure) and a CLIP model (too unsure).
    Differences (2,000 swaps within images): two exchangeable models, two calibrated ones that differ in confidence, two
    with equal errors of opposite sign, two with different errors.
    """
    for n in (480, 1600, 3200):
        for kind, name in ((True, "supervised"), (False, "CLIP")):
            eces = (0.0, 0.005, 0.01, 0.02, 0.05)
            drawn = answers(rng, n, [kind] * 5, eces, alike=1)
            seed = int(rng.integers(2**31))
            for true, answer in zip(eces, drawn, strict=True):
                row = calibration.debiased_rows("", *answer, 400, seed).iloc[0]
                yield "ece_debiased", f"{n:,}", f"{name}, {true:g}", true, row.ci_low, row.ci_high
        for kinds, eces, case in (
            ((True, True), (0.02, 0.02), "exchangeable, 0.02"),
            ((True, False), (0, 0), "supervised and CLIP, 0"),
            ((True, False), (0.02, 0.02), "too sure and too unsure, 0.02"),
            ((True, False), (0.02, 0.05), "0.02 and 0.05"),
        ):
            gap = calibration.ece_difference(*answers(rng, n, kinds, eces), 2000, rng)
            yield "ece_debiased, difference", f"{n:,}", case, eces[0] - eces[1], *gap.interval, gap.p_value


@lru_cache
def cue_design(real: bool) -> pd.DataFrame:
    """Cue-conflict images: 160 shape images x 8 of 48 texture images, or 80 x 15 textures."""
    if real:
        rng = np.random.default_rng(0)
        texture = np.concatenate([rng.permutation(48) for _ in range(27)])[:1280]
        shape, per_shape, per_texture = np.repeat(np.arange(160), 8), 10, 3
    else:
        (shape, texture), per_shape, per_texture = np.divmod(np.arange(80 * 16), 16), 5, 1
    name = np.array([f"class{k:02d}" for k in range(16)])
    columns = name[shape // per_shape], name[texture // per_texture], shape, texture
    cues = pd.DataFrame(dict(zip(shape_bias.Cues._fields, columns, strict=True)))
    return cues[cues["shape"] != cues["texture"]].reset_index(drop=True)


def shape(rng: Generator) -> Iterator[tuple]:
    """Shape bias on crossed shape and texture images, 80 % of the answers for either cue (variance of both).

    The released set's design (160 shape images with 45 % of the variance, 48 texture images with 40 %: about the errors
    of published decisions) and the mini world's (80, 35 %; 16, 10 %). Lines of a category pool all sixteen.
    """
    for real, shares, count in ((True, (0.45, 0.40), 160), (False, (0.35, 0.10), 80)):
        cues, design, n = cue_design(real), "160 x 48" if real else "80 x 16", str(count)
        groups = [(s, cues[k].to_numpy()) for s, k in zip(shares, ("shape_image", "texture_image"), strict=True)]
        for bias, other in ((0.24, 0.24), (0.5, 0.65), (0.9, 0.9), (0.98, 0.95)):
            follows = observers(rng, 2, len(cues), *groups) < norm.ppf([bias, other])
            said = np.where(follows, cues[["shape"]], cues[["texture"]])
            said = dict(zip("ab", np.where(rng.random(said.shape) < 0.8, said, "neither").T, strict=True))
            rows = shape_bias.table({"a": said["a"]}, cues)
            for row in rows[rows["metric"].str.startswith("shape_bias")].itertuples():
                what, units = (", a category", str(count // 16)) if ":" in row.metric else ("", n)
                yield f"shape_bias{what} ({design})", units, f"{bias:g}", bias, row.ci_low, row.ci_high
            line = f"shape_bias, difference ({design})", n, f"{bias:g} and {other:g}", bias - other
            yield *line, *shape_bias.differences(said, cues).loc[0, ["ci_low", "ci_high", "p"]]


def sweeps(rng: Generator) -> Iterator[tuple]:
    """Sweeps of four factors in eight levels over the same 96 scenes, 40 % of the variance between scenes, percent.

    A level (Wilson), a factor's mean and the mean over factors, the difference of two equal models in them (Student's t
    over scenes), range and worst level of factors whose true ranges are 0, 4, 10 and 19 points (simultaneous).
    """
    level = np.tile(np.arange(8), 96 * len(RANGES))
    scene = np.tile(np.repeat(np.arange(96), 8), len(RANGES))
    factor, wide = (np.repeat(list(part), 96 * 8) for part in (RANGES, RANGES.values()))
    p = 0.85 + wide / 100 * (level / 7 - 0.5)
    right = dict(zip("ab", (observers(rng, 2, len(p), (0.4, scene)) < norm.ppf(p)[:, None]).T, strict=True))
    images = pd.DataFrame({"factor": factor, "level": level, "cluster": scene})
    rows, gaps = synthetic.by_factor(synthetic.Sweeps(right, images))
    for row in pd.concat([rows[rows["model"] == "a"], gaps]).itertuples():
        what = "mean over factors" if row.metric == "accuracy:average" else "mean of a factor"
        line = (what, "96", "85 %", 85) if row.model == "a" else (f"{what}, difference", "96", "equal models", 0)
        yield *line, row.ci_low, row.ci_high, row.p
    found = synthetic.sensitivity(synthetic.Sweeps({"a": right["a"]}, images), int(rng.integers(2**31)), 400)
    for row in found.itertuples():
        truth = RANGES[row.factor]
        yield "accuracy_range", "96", f"{truth} points", truth, row.range_low, row.range_high, row.p
        yield "accuracy_worst", "96", f"{truth} points", 85 - truth / 2, row.worst_low, row.worst_high
    near, scene = np.tile([0.5, 0.9, 0.97, 0.98, 0.99], 96), np.repeat(np.arange(96), 5)
    right = {"a": latent(rng, len(near), (0.4, scene)) < norm.ppf(near)}
    images = pd.DataFrame({"factor": "f", "level": near, "cluster": scene})
    for row in synthetic.by_level(synthetic.Sweeps(right, images)).itertuples():
        yield "a level", "96", f"{100 * row.level:g} %", 100 * row.level, row.ci_low, row.ci_high


def probes(rng: Generator) -> Iterator[tuple]:
    """Accuracy of probes over three random splits, percent (variance of images, splits and their pool; Wilson, t).

    Two tasks on the same 951 images, one on 31 scenes; 1,000 training images of 2,500. Cases: standard deviation
    between splits of one probe's true accuracy, points.
    """
    image, scene = np.tile(np.arange(951), 3), np.tile(np.repeat(np.arange(31), 8), 3)
    tasks = {"light": (image, 0.6, "951"), "object": (image, 0.6, "951"), "roll": (scene, 0.3, "31")}
    for share in (0.0, 0.003, 0.01):
        runs, case = [], f"{100 * math.sqrt(share) * norm.pdf(norm.ppf(0.4)):.1f}"
        for name, (unit, common, dataset) in tasks.items():
            split, pool = np.repeat(np.arange(3), len(unit) // 3), np.zeros(len(unit), int)
            groups = (common, unit), (share, split), (share * 0.4 / 0.6, pool)
            right = (observers(rng, 2, len(unit), *groups) < norm.ppf(0.4)).T.reshape(2, 3, -1)
            task, correct, units = Task(name, "", dataset), dict(zip("ab", right, strict=True)), unit[split == 0]
            runs.append(run.Runs(task, "", correct, units, 1000, 2500))
        rows = pd.concat([run.score(runs), run.averages(runs)]).query("model == 'a'")
        for row in pd.concat([rows, run.differences(runs)]).itertuples():
            n, what = (tasks[row.dataset][2], "a task") if row.dataset in tasks else ("951 and 31", "mean over tasks")
            line = (what, n, case, 40) if row.model == "a" else (f"{what}, difference", n, case, 0)
            yield *line, row.ci_low, row.ci_high, row.p


def effects(rng: Generator) -> Iterator[tuple]:
    """Effects of the ablation, points: three seeds in each of four cells, and images that runs share.

    Cells differ in their standard deviation between seeds as measured: .28 to 3.41 on World Val, 1.4 to 6.4 on World
    Sketch. Cases: the set and the true effect.
    """
    names, sign = ["architecture", "objective", "seed"], np.repeat([-1, 1], 6)
    cells = product(*(ablation.LEVELS[factor] for factor in names[:2]), range(3))
    runs = pd.DataFrame(cells, columns=names)
    for name, (n, error, spreads) in SEED_SDS.items():
        covariance = error**2 * (0.3 + 0.2 * np.outer(sign, sign) + 0.5 * np.eye(12))
        values = rng.multivariate_normal(sign, covariance + np.diag(np.repeat(spreads, 3) ** 2))
        about = pd.DataFrame([{"dataset": name, "metric": "accuracy", "unit": "percent", "n": n, "clusters": n}])
        measured = ablation.Measured(runs, about, values[None], covariance[None])
        for row in ablation.effects(measured, ("architecture", "objective")).itertuples():
            truth = 2 * (row.term == "architecture")
            yield f"effect, {row.term}", "12 runs", f"{name}, {truth}", truth, row.ci_low, row.ci_high, row.p


SIMULATIONS = {one.__name__: one for one in (accuracy, scenes, sets, factors, ece, shape, sweeps, probes, effects)}
TIMES = {"accuracy": 10, "scenes": 2, "factors": 3, "ece": 2, "shape": 2, "probes": 3, "effects": 5}


def repeat(name: str, repetition: int) -> list[tuple]:
    """What one sample of a simulation gives: the repetition and what it yields."""
    rng = np.random.default_rng([12, zlib.crc32(name.encode()), repetition])
    return [(repetition, *row, math.nan)[: len(COLUMNS)] for row in SIMULATIONS[name](rng)]  # a p-value may lack


def summary(samples: Sequence[Sequence[tuple]]) -> pd.DataFrame:
    """Per line how many of its intervals hold the truth, and how often the p-value of a true null is small.

    `none`: share without an interval. The interval of the share covered is Wilson's, repetitions being clusters.
    """
    found = pd.DataFrame([row for sample in samples for row in sample], columns=COLUMNS)
    rows = []
    for key, line in found.groupby(["quantity", "n", "case"], sort=False):
        there = line[line["low"].notna()]
        hit = (there["low"] <= there["truth"]) & (there["truth"] <= there["high"])
        ends = stats.share_interval(hit, there["repetition"]) if there["repetition"].nunique() > 1 else (0.0, 1.0)
        null = line["p"][(line["truth"].abs() < 1e-12) & line["p"].notna()]
        small = [(null < level).mean() if len(null) else math.nan for level in (0.05, 0.01)]
        width, none = (there["high"] - there["low"]).mean(), 1 - len(there) / len(line)
        rows.append((*key, line["repetition"].nunique(), hit.mean(), *ends, none, width, *small))
    names = "quantity n case repetitions covered covered_low covered_high none width below_5 below_1"
    return pd.DataFrame(rows, columns=names.split())


def markdown(lines: pd.DataFrame) -> str:
    """The rows of `summary` as a table; those that cover less than `LEAST` in bold."""
    heads = "quantity | n | case | repetitions | covered, % | mean width | p < .05, % | p < .01, %".split(" | ")
    shown = [heads, ["---", "--:", "---", *["--:"] * 5]]
    for row in lines.itertuples():
        cover = f"{100 * row.covered:.1f} [{100 * row.covered_low:.0f}, {100 * row.covered_high:.0f}]"
        cover = f"**{cover}**" if row.covered < LEAST else cover
        cover += f" (none printed in {100 * row.none:.0f} %)" if row.none > 0.005 else ""
        small = ["" if math.isnan(share) else f"{100 * share:.1f}" for share in (row.below_5, row.below_1)]
        shown.append([row.quantity, row.n, row.case, f"{row.repetitions:,}", cover, f"{row.width:.3g}", *small])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in shown)


def write(path: Path, name: str, text: str) -> None:
    """Put a simulation's text between its markers in a file, `<!-- coverage: NAME -->` and `<!-- end -->`."""
    start, end = f"<!-- coverage: {name} -->\n", "<!-- end -->"
    before, found, after = path.read_text(encoding="utf-8").partition(start)
    if not (found and end in after):
        raise ValueError(f"{path.name} needs the line {start.strip()}, and {end} below it")
    path.write_text(f"{before}{start}{text}\n{after[after.index(end) :]}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SIMULATIONS), default=list(SIMULATIONS), metavar="NAME")
    parser.add_argument("--repetitions", type=int, default=200, help="least number, see TIMES")
    parser.add_argument("--quick", action="store_true", help="two repetitions, printed and not written")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, default=DOCS)
    chosen = parser.parse_args(arguments)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for name in chosen.only:
            numbers = range(2 if chosen.quick else TIMES.get(name, 1) * chosen.repetitions)
            table = markdown(summary([*pool.map(repeat, [name] * len(numbers), numbers, chunksize=5)]))
            text = f"{' '.join(SIMULATIONS[name].__doc__.split())}\n\n{table}"
            print(f"\n## {name}\n\n{text}", flush=True)
            if not chosen.quick:
                write(chosen.docs, name, text)


if __name__ == "__main__":
    main()
