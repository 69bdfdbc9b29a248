"""Does accuracy survive a change of the images? Natural shifts, corruptions, effective robustness (figure 6).

Accuracies are percent, their differences points, an mCE of 100 is AlexNet's. What a set loses is measured on what it
holds, which may be easier or harder than all: the same classes where it has 200 of 1000 (ImageNet-A, -R), the same
images where it was made from some of them (ImageNet-C, ReaL).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import corruptions, published
from beyond_accuracy.inference.predictions import Predictions, restrict
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.stats import P_VALUE_RESAMPLES, bootstrap_means, coded, odds, percentile_interval

# Model -> (n,) outcomes on the same images in the same order: right or not, or the share of versions that is right.
Correct = Mapping[str, ArrayLike]
Cells = Mapping[tuple[str, int], Correct]  # (corruption, severity) -> outcomes of the same source images in every cell

SHIFTS = ("v2", "a", "r", "c", "sketch", "real", "hard")  # the roles whose accuracies the paper averages
SAME_IMAGES = ("real", "c")  # those of them that show images of the clean set, relabelled or corrupted
PUBLISHED = ("v2", "a", "r", "sketch")  # those that the leaderboard of published models has
SUMMARY = {"accuracy": "mean accuracy (%)", "mce": "mCE"}
SUMMARY |= {f"accuracy:severity={k}": f"severity {k}" for k in corruptions.SEVERITIES}
SAME = "accuracy:clean_same_"


class Sets(NamedTuple):
    """What a page's models say about the clean set and every shifted one that is here; keys are roles, in order."""

    models: list[str]
    dataset: dict[str, str]  # its name
    runs: dict[str, dict[str, Predictions]]  # by model; none of regenerated corruptions
    correct: dict[str, Correct]
    images: dict[str, ArrayLike]  # the clean images that its images show, where they are known
    cells: Cells
    imagenet: bool  # whether the classes are those of the paper
    units: dict[str, ArrayLike | None]  # what its images are of, where these are independent
    chance: dict[str, float]  # percent that a guess gets right, by title

    @property
    def shifts(self) -> list[str]:
        """Shifted sets that are here."""
        return [role for role in SHIFTS if role in self.correct]

    @property
    def absent(self) -> list[str]:
        """Those that are not."""
        return [role for role in SHIFTS if role not in self.correct]

    @property
    def origins(self) -> dict[str, ArrayLike]:
        """What is resampled of a set: its units, else the clean images that it shows, where they are known."""
        return self.images | {role: units for role, units in self.units.items() if units is not None}


def gather(page) -> Sets:
    """Everything the page judges, of the models that answered on every set; InputError if there is none."""
    named = {role: page.role(role) for role in ("clean", *SHIFTS) if page.has_role(role)}
    here = page.available(named.values()) or [page.role("clean")]  # of which nothing can be said: that says why
    dataset = {role: name for role, name in named.items() if name in here}
    if "c" in dataset:
        try:
            page.metadata(dataset["c"], "corruption", "severity", "cluster")
        except InputError as wrong:  # a set of another kind costs its own part of the page
            page.skipped.append(str(wrong))
            del dataset["c"]
    runs = {role: page.predictions(name) for role, name in dataset.items()}
    grid = {(name, k): f"corrupt:{name}={k}" for name in corruptions.NAMES for k in corruptions.SEVERITIES}
    regenerated, asked = {}, {role: next(iter(found.values())) for role, found in runs.items() if found}
    if "c" not in runs and page.has_role("corrupt") and page.available([page.role("corrupt")]):
        dataset["c"] = page.role("corrupt")
        regenerated = page.predictions_many(dataset["c"], list(grid.values()))
    models = [m for m in page.models if all(m in found for found in [*runs.values(), *regenerated.values()])]
    if not models:
        raise InputError(f"no model has predictions on all of {', '.join(dataset.values())}")
    correct = {role: {m: found[m].correct for m in models} for role, found in runs.items()}
    images = {role: runs[role][models[0]].ids for role in ("clean", "real") if role in runs}
    units = {role: tidy.units_of(found) for role, found in runs.items()}
    cells: Cells = {}
    if "c" in runs:
        about = page.metadata(dataset["c"]).loc[runs["c"][models[0]].ids]
        cells, images["c"] = cells_by_metadata(correct["c"], about), sorted(about["cluster"].astype(str).unique())
    elif regenerated:
        cells = {cell: {m: regenerated[text][m].correct for m in models} for cell, text in grid.items()}
        first = next(iter(regenerated.values()))
        images["c"], units["c"], asked["c"] = first[models[0]].ids, tidy.units_of(first), first[models[0]]
    if cells:
        correct["c"] = {m: np.mean([cell[m] for cell in cells.values()], axis=0, dtype=float) for m in models}
    correct = {role: correct[role] for role in ("clean", *SHIFTS) if role in correct}
    imagenet = len(page.class_names(next(iter(dataset.values())))) == 1000
    chance = {page.title(dataset[role]): guessed(run, page.class_names(dataset[role])) for role, run in asked.items()}
    return Sets(models, dataset, runs, correct, images, cells, imagenet, units, chance)


def cells_by_metadata(correct: Correct, metadata: pd.DataFrame) -> Cells:
    """Outcomes on the released ImageNet-C, split into cells with the source images (`cluster`) in one order."""
    table = pd.DataFrame(correct).assign(source=metadata["cluster"].astype(str).to_numpy())
    keys = [metadata["corruption"].astype(str).to_numpy(), metadata["severity"].to_numpy()]
    parts = {cell: part.sort_values("source", kind="stable") for cell, part in table.groupby(keys, sort=False)}
    first = next(iter(parts.values()))["source"]
    for (name, level), part in parts.items():
        if not np.array_equal(part["source"], first):
            raise ValueError(f"{name} at severity {level} holds other source images than the first cell")
    return {(str(name), int(level)): {m: part[m].to_numpy() for m in correct} for (name, level), part in parts.items()}


def examples(page, sets: Sets, label: int) -> pd.DataFrame:
    """The first image of a class in every set, rows `role, dataset, id`; none where no model looks at images itself."""
    found = []
    for role in [role for role in sets.runs if role != "c" and page.has_networks]:
        run = sets.runs[role][sets.models[0]]
        of_class = (i for i, labels in zip(run.ids, run.targets, strict=True) if label in np.atleast_1d(labels))
        found += [(role, sets.dataset[role], image_id) for image_id in list(of_class)[:1]]
    return pd.DataFrame(found, columns=["role", "dataset", "id"])


def views(sets: Sets, shown: pd.DataFrame) -> pd.DataFrame:
    """Rows `corruption, transform` for pictures of a clean example; none where corruptions are not regenerated."""
    drawn = sets.cells and "c" not in sets.runs and (shown["role"] == "clean").any()
    names = pd.Series(corruptions.NAMES if drawn else (), dtype=object)
    return pd.DataFrame({"corruption": names, "transform": "corrupt:" + names + "=3"})


def guessed(run: Predictions, classes: Sequence[str]) -> float:
    """Percent that a guess among the classes scored gets right; of an image with several labels each is right."""
    labels = np.mean([np.size(labels) for labels in run.targets]) if run.multilabel else 1
    return 100 * labels / len(classes if run.columns is None else run.columns)


class Baseline(NamedTuple):
    """Clean outcomes that a shifted set is compared with."""

    what: str  # `classes` or `images` it shares with the set; empty for the whole clean set
    correct: Correct
    images: ArrayLike


def baselines(sets: Sets) -> dict[str, Baseline]:
    """Clean outcomes on each shifted set's own classes or images, on all where these are not told; {} without."""
    if "clean" not in sets.runs:
        return {}
    runs, whole, found = sets.runs["clean"], Baseline("", sets.correct["clean"], sets.origins["clean"]), {}
    for role in sets.shifts:
        found[role], columns = whole, sets.runs[role][sets.models[0]].columns if role in sets.runs else None
        if columns is not None and all(runs[m].logits is not None for m in sets.models):
            rescored = {m: restrict(runs[m], columns) for m in sets.models}
            right = {m: run.correct for m, run in rescored.items()}
            found[role] = Baseline("classes", right, rescored[sets.models[0]].ids)
        elif role in SAME_IMAGES and (own := own_images(whole.correct, sets.images["clean"], sets.images[role])):
            found[role] = Baseline("images", own, sets.origins[role])
    return found


def own_images(clean: Correct, ids: ArrayLike, sources: ArrayLike) -> Correct | None:
    """Clean outcomes, on images `ids`, of those a shifted set was made from; None where one is no clean image."""
    place = pd.Index(ids).get_indexer(np.asarray(sources))
    return None if (place < 0).any() else {model: np.asarray(right)[place] for model, right in clean.items()}


def accuracies(sets: Sets, beside: Mapping[str, Baseline], resamples: int, seed: int) -> pd.DataFrame:
    """Accuracy on every set, what `corruption_table` tells of the corruptions, and clean accuracy on a set's own."""
    alexnet, tables = published.alexnet_errors() if sets.imagenet else {}, []
    for role, by_model in sets.correct.items():
        units = sets.units.get(role)
        if role == "c":
            found = [corruption_table(sets.cells, alexnet, resamples, seed, units)]
        else:
            found = [tidy.accuracy(by_model, units=units)]
        if role in beside and beside[role].what:
            found.append(tidy.accuracy(beside[role].correct, SAME + beside[role].what, units))
        tables += [table.assign(dataset=sets.dataset[role]) for table in found]
    return pd.concat(tables, ignore_index=True)


def corruption_table(
    cells: Cells, baseline: Mapping[str, float], resamples: int, seed: int, units: ArrayLike | None = None
) -> pd.DataFrame:
    """Mean accuracy over all cells, mCE, and accuracy per corruption and per severity, with intervals.

    The same images occur in every cell: they, not their corrupted versions, are what is independent. Accuracies have
    Wilson intervals for so many images as that makes; for the mCE images are resampled. mCE = 100 * mean over
    corruptions of (mean error over severities / AlexNet's) (Hendrycks & Dietterich 2019), given where all corruptions
    of the baseline, AlexNet's errors (fractions), are there.
    """
    names, levels = list(dict.fromkeys(name for name, _ in cells)), sorted({severity for _, severity in cells})
    models = next(iter(cells.values()))  # a grid is (corruption, severity, image)
    grids = {m: np.stack([[cells[name, k][m] for k in levels] for name in names]).astype(bool) for m in models}
    n = len(next(iter(models.values())))
    origin, counted = (np.arange(n), n) if units is None else coded(units)
    parts = {"accuracy": np.s_[:]}
    parts |= {f"accuracy:corruption={name}": np.s_[i] for i, name in enumerate(names)}
    parts |= {f"accuracy:severity={k}": np.s_[:, i] for i, k in enumerate(levels)}
    tables = []
    for metric, part in parts.items():
        hits = {m: grid[part].ravel() for m, grid in grids.items()}
        tables.append(tidy.accuracy(hits, metric, np.resize(origin, len(next(iter(hits.values()))))))
    if baseline and set(baseline) <= set(names):
        weights = np.array([1 / baseline[name] if name in baseline else 0.0 for name in names])
        relative = [100 * weights @ (1 - grid.mean(axis=1)) / len(baseline) for grid in grids.values()]
        draws = [bootstrap_means(errors, resamples, np.random.default_rng(seed), units) for errors in relative]
        about = "mce", "percent of AlexNet", list(models), [errors.mean() for errors in relative], counted
        tables.append(tidy.rows(*about, np.stack(draws, axis=1), units=counted))
    return pd.concat(tables, ignore_index=True)


def by_cell(cells: Cells) -> pd.DataFrame:
    """Accuracy in percent of every model in every cell: rows `model, corruption, severity, value, n`."""
    found = [(m, *cell, 100 * np.mean(right), len(right)) for cell, said in cells.items() for m, right in said.items()]
    return pd.DataFrame(found, columns=["model", "corruption", "severity", "value", "n"])


def set_names(page, rows: pd.DataFrame) -> pd.Series:
    """What a row of accuracies is about, for readers: a set, or `clean, classes of …`."""
    titles, what = rows["dataset"].map(page.title), rows["metric"].where(rows["metric"].str.startswith(SAME), "")
    return titles.where(what == "", "clean, " + what.str.removeprefix(SAME) + " of " + titles)


def means(sets: Sets, beside: Mapping[str, Baseline], resamples: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean accuracy (of several sets) and mean loss (beside clean outcomes) over the shifted sets, and differences."""
    shifted = {role: sets.correct[role] for role in sets.shifts}
    asked = [None] * (len(shifted) > 1) + [beside] * bool(beside)
    if not asked:
        return pd.DataFrame(columns=[*tidy.COLUMNS, "dataset"]), pd.DataFrame(columns=[*tidy.PAIR, "dataset"])
    tables = [average_table(shifted, resamples, seed, sets.origins, against) for against in asked]
    rows, gaps = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return rows.assign(dataset="average"), gaps.assign(dataset="average", family="main")


def average_table(
    sets: Mapping[str, Correct], resamples: int, seed: int, images: Mapping[str, ArrayLike] | None = None,
    clean: Mapping[str, Baseline] | None = None, units: ArrayLike | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """The average over sets, as the paper forms it (each set counts once), or what is lost, and paired differences.

    Sets that show the same `images` are resampled together, others independently; models share the resamples, at least
    20,000 where there are models to compare. `units` are what the images of a single set are of. With `clean` outcomes
    for every set the rows are clean minus shifted, `accuracy_loss`.
    """
    models, bases = list(next(iter(sets.values()))), list((clean or {}).values())
    parts = [(-1 if clean else 1, by_model, (images or {}).get(name, units)) for name, by_model in sets.items()]
    n = sum(tidy.count(len(by_model[models[0]]), units) for by_model in sets.values())
    for base in {id(base.correct): base for base in bases}.values():  # the whole clean set, of which several lose
        parts.append((sum(other.correct is base.correct for other in bases), base.correct, base.images))
    tables = [
        (weight, tidy.with_gaps(np.stack([np.asarray(by_model[m], float) for m in models], axis=1)), names)
        for weight, by_model, names in parts
    ]
    value, draws = _weighted_sum(tables, max(resamples, P_VALUE_RESAMPLES if len(models) > 1 else 1), seed)
    metric, units = ("accuracy_loss" if clean else "accuracy"), (n if len(parts) == 1 else None)
    value, draws = 100 * value[: len(models)] / len(sets), 100 * draws / len(sets)
    return tidy.estimates(metric, "percent", models, value, n, draws, units)


def _weighted_sum(
    parts: Sequence[tuple[float, NDArray, ArrayLike | None]], resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of weighted column means of (weight, table, names of the images), and its draws (<= resamples, columns)."""
    rng, value = np.random.default_rng(seed), sum(weight * table.mean(axis=0) for weight, table, _ in parts)
    draws = np.zeros((resamples, len(value)))
    for weight, table, _ in (part for part in parts if part[2] is None):
        draws += weight * bootstrap_means(table, resamples, rng)
    shared = [(weight, table, np.asarray(names, str)) for weight, table, names in parts if names is not None]
    if shared:  # one row per image that any of them shows: the mean of a part is a ratio of two means over all rows
        images = pd.Index(np.unique(np.concatenate([names for *_, names in shared])))
        sums = np.zeros((len(images), len(shared), len(value) + 1))
        for k, (_, table, names) in enumerate(shared):
            np.add.at(sums[:, k], images.get_indexer(names), np.insert(table, 0, 1, axis=1))
        means = bootstrap_means(sums.reshape(len(images), -1), resamples, rng).reshape(resamples, len(shared), -1)
        held = (means[..., 0] > 0).all(axis=1)  # a resample may miss all images of a small part: it has no mean
        means, draws = means[held], draws[held]
        draws += np.einsum("rkc,k->rc", means[..., 1:] / means[..., :1], [weight for weight, *_ in shared])
    return value, draws


def differences(sets: Sets, resamples: int, seed: int) -> pd.DataFrame:
    """Paired differences of accuracy on every set: McNemar's test, of the corruptions bootstrap over source images."""
    parts = []
    for role, by_model in sets.correct.items():
        if role == "c":  # an outcome is a share of right versions, which McNemar's test does not know
            gaps = average_table({role: by_model}, resamples, seed, units=sets.units.get(role))[1]
        else:
            gaps = tidy.accuracy_pairs(by_model, units=sets.units.get(role), seed=seed)
        parts.append(gaps.assign(dataset=sets.dataset[role], family="detail"))
    return pd.concat(parts, ignore_index=True)


def leaderboard(page, sets: Sets) -> pd.DataFrame:
    """Published models with accuracies under the titles of this page's sets; empty beside another clean set."""
    board = published.leaderboard() if sets.dataset.get("clean") == "imagenet_1k" else pd.DataFrame()
    known = [sets.dataset[role] for role in sets.shifts if role in PUBLISHED and sets.dataset[role] in board]
    return board.rename(columns={name: page.title(name) for name in known}) if known else pd.DataFrame()


def against_clean(page, sets: Sets, rows: pd.DataFrame, board: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on the sets with other images (`shifted`) beside clean accuracy (`clean`), with the ends of both.

    With published models: on the sets that they have, and on all clean images; else on each set's own of these.
    """
    accuracy = rows[rows["metric"] == "accuracy"]
    others = [sets.dataset[role] for role in sets.shifts if role != "real"]
    shown = [name for name in others if board.empty or page.title(name) in board]
    own = rows[rows["metric"].str.startswith(SAME) & (not sets.imagenet)]
    whole = accuracy[accuracy["dataset"] == sets.dataset.get("clean")]
    beside = pd.concat([own, *(whole.assign(dataset=name) for name in shown if name not in set(own["dataset"]))])
    ends = {name: {"value": name, "ci_low": f"{name}_low", "ci_high": f"{name}_high"} for name in ("clean", "shifted")}
    clean = beside.rename(columns=ends["clean"])[["dataset", "model", *ends["clean"].values()]]
    shifted = accuracy[accuracy["dataset"].isin(shown)].rename(columns=ends["shifted"])
    return shifted.merge(clean, on=["dataset", "model"])


def effective(page, sets: Sets, board: pd.DataFrame, line: pd.Series, resamples: int, seed: int) -> dict:
    """Role -> `effective_table` of the sets that the board has; `line` says which published models are on the line."""
    titles, clean = {role: page.title(sets.dataset[role]) for role in sets.shifts}, sets.correct.get("clean")
    return {
        role: effective_table(clean, sets.correct[role], board.loc[line, ["imagenet_1k", title]], resamples, seed)
        for role, title in titles.items()
        if title in board
    }


def effective_table(clean: Correct, shifted: Correct, board: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Effective robustness: points of accuracy under the shift beyond what clean accuracy predicts (Taori et al. 2020).

    A line logit(shifted) = a + b logit(clean) through published models, whose accuracies in percent are the two columns
    of the board, gives the prediction; outside their clean accuracies it extrapolates. Both accuracies of a model are
    resampled over their images; the line itself is taken as known.
    """
    x, y = board.dropna().to_numpy(float).T
    slope, start = np.polyfit(odds(x), odds(y), 1)
    rng, rows = np.random.default_rng(seed), []
    for model in clean:
        both = (np.asarray(outcomes[model], float) for outcomes in (clean, shifted))
        a, b = (100 * np.append(c.mean(), bootstrap_means(c, resamples, rng)) for c in both)  # itself, and resamples
        predicted = 100 * expit(start + slope * odds(a))
        above, outside = b - predicted, not x.min() <= a[0] <= x.max()
        rows.append((model, a[0], b[0], predicted[0], above[0], *percentile_interval(above[1:]), outside))
    names = ["model", "clean", "shifted", "predicted", "effective", "effective_low", "effective_high", "extrapolated"]
    return pd.DataFrame(rows, columns=names)


def finding(page, sets: Sets, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
    """Who leads in the mean over sets, in what is lost, and on each set."""

    def leader(dataset: str, metric: str = "accuracy") -> str:
        return page.leader(rows[(rows["dataset"] == dataset) & (rows["metric"] == metric)], judged)

    each = "; ".join(f"{page.title(sets.dataset[role])} {leader(sets.dataset[role])}" for role in sets.correct)
    said = f"Accuracy in percent: {each}."
    if len(sets.shifts) > 1:
        loss = f"; mean loss in points: {leader('average', 'accuracy_loss')}" if "clean" in sets.runs else ""
        mean = f"Mean accuracy over {len(sets.shifts)} shifted sets: {leader('average')}{decided_by(page, sets, rows)}"
        said = f"{mean}{loss}. {said}"
    return said


def decided_by(page, sets: Sets, rows: pd.DataFrame) -> str:
    """Which sets alone decide who has the highest mean accuracy: without one of them another model has it."""
    shown = rows[(rows["metric"] == "accuracy") & rows["dataset"].isin([sets.dataset[role] for role in sets.shifts])]
    each = shown.pivot(index="dataset", columns="model", values="value")
    first = {name: page.labels[each.drop(name).mean().idxmax()] for name in each.index}
    best = page.labels[each.mean().idxmax()]
    return "".join(f"; without {page.title(n)}, {m} has the highest mean" for n, m in first.items() if m != best)
