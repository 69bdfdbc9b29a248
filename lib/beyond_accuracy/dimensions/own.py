"""Your own images: who is right, on which classes and kinds of image, with how many images, and what to check by hand.

Images of one unit (a group, near-duplicates) are not independent: intervals and tests count units.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import norm
from sklearn.preprocessing import normalize

from beyond_accuracy.data.readers.own import MEASURED
from beyond_accuracy.inference import heads
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import stats, tidy, verdicts
from beyond_accuracy.measure.stats import linear_difference, share_interval

SHOTS, TEN = (1, 2, 5, 10, 20, 50, 100, 200), 10
LEVELS, LEAST = 12, 10  # a column of words is a factor with up to so many levels of at least so many images
BOOKKEEPING = ("split", "near", "near_label", "near_split", "near_by", "unit", "group")
LARGEST_MATRIX = 12

Runs = Mapping[str, Predictions]


def class_weights(targets: NDArray) -> NDArray[np.float64]:
    """Weights that give every class the same say."""
    classes, place, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    return 1 / (len(classes) * sizes[place])


def accuracies(runs: Runs, units: NDArray | None) -> pd.DataFrame:
    """Rows of `accuracy` and `balanced_accuracy`, the mean over classes."""
    targets = next(iter(runs.values())).targets
    weights, n = class_weights(targets), tidy.count(len(targets), units)
    each = np.arange(len(targets)) if units is None else units
    balanced = [100 * weights @ run.correct for run in runs.values()]
    ends = [100 * np.array(share_interval(run.correct, each, weights=weights)) for run in runs.values()]
    rows = tidy.rows("balanced_accuracy", "percent", list(runs), balanced, n, ends=ends)
    return pd.concat([tidy.accuracy({m: run.correct for m, run in runs.items()}, units=units), rows])


def differences(runs: Runs, units: NDArray | None, seed: int) -> pd.DataFrame:
    """Paired differences of accuracy and balanced accuracy between every two models, units resampled for the latter."""
    right, targets = {m: run.correct for m, run in runs.items()}, next(iter(runs.values())).targets
    weights = class_weights(targets) * len(targets)
    table = 100 * np.stack(list(right.values()), axis=1) * weights[:, None]
    draws = stats.bootstrap_means(tidy.with_gaps(table), stats.P_VALUE_RESAMPLES, np.random.default_rng(seed), units)
    n = tidy.count(len(table), units)
    balanced = tidy.estimates("balanced_accuracy", "percent", list(right), table.mean(axis=0), n, draws, n)[1]
    return pd.concat([tidy.accuracy_pairs(right, units=units, seed=seed), balanced]).assign(family="main")


def guessing(runs: Runs) -> dict[str, float]:
    """Accuracy in percent of guessing at random, and of always naming the most frequent class."""
    sizes = np.unique(next(iter(runs.values())).targets, return_counts=True)[1]
    return {"chance": 100 / len(sizes), "most frequent class": 100 * sizes.max() / sizes.sum()}


def above_guessing(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    """Every model's accuracy against the most frequent class, as rows of `tidy.pairs` with an empty `model_b`."""
    found = rows[rows["metric"] == "accuracy"].assign(metric="above_majority", model_b="", family="main")
    found = found.rename(columns={"model": "model_a", "value": "difference"})
    sd = stats.half_width_sd(found["ci_low"], found["ci_high"]).clip(lower=1e-9)
    found[["difference", "ci_low", "ci_high"]] -= level
    return found.assign(p=2 * norm.sf(np.abs(found["difference"] / sd)), p_floor=0.0)


def by_class(runs: Runs, names: Sequence[str]) -> pd.DataFrame:
    """Accuracy on the images of each class, the hardest class first."""
    targets, tables = next(iter(runs.values())).targets, []
    for k in np.unique(targets):
        found = tidy.accuracy({m: run.correct[targets == k] for m, run in runs.items()}, f"accuracy:class={names[k]}")
        tables.append(found.assign(**{"class": names[k]}))
    return pd.concat(sorted(tables, key=lambda found: found["value"].mean()), ignore_index=True)


def confusion(runs: Runs, names: Sequence[str]) -> pd.DataFrame:
    """Percent of the images of a class (`label`) that got an `answer`, of every model; none of many classes."""
    if len(names) > LARGEST_MATRIX:
        return pd.DataFrame(columns=["model", "label", "answer", "value"])
    found, both = [], range(len(names))
    for m, run in runs.items():
        grid = pd.crosstab(run.targets, run.pred, normalize="index").reindex(index=both, columns=both, fill_value=0)
        found += [(m, names[i], names[j], 100 * grid.iat[i, j]) for i in both for j in both]
    return pd.DataFrame(found, columns=["model", "label", "answer", "value"])


def learning_curve(page, home: str, dataset: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy of a probe fitted to some images per class of `home`, and to all: rows with `shots`; differences at ten.

    Asked are the images of another fold, or those of `dataset` where that is another one (given splits).
    """
    found, ten, asked, about = [], {}, page.features(dataset), page.metadata(home)
    for model, seen in page.features(home).items():
        x, x_asked = (np.asarray(next(iter(of.layers.values()))) for of in (seen, asked[model]))
        y, y_asked = np.asarray(seen.targets), np.asarray(asked[model].targets)
        fold = heads.folds_of(y, about.loc[seen.ids, "unit"].to_numpy(), page.seed)
        splits = [(fold != k, fold == k) for k in range(fold.max() + 1)]
        splits = splits if home == dataset else [(fold >= 0, np.ones(len(y_asked), bool))]
        sizes = np.unique(y[splits[0][0]], return_counts=True)[1]
        units = page.metadata(dataset).loc[asked[model].ids, "unit"].to_numpy()
        for shots in [k for k in SHOTS if k < np.median(sizes)]:
            hits, c, rng = np.zeros(len(y_asked), bool), 0.0, np.random.default_rng([page.seed, shots])
            for known, held in splits:
                order = rng.permutation(np.flatnonzero(known))
                few = order[pd.Series(y[order]).groupby(y[order]).cumcount().to_numpy() < shots]
                c = c or heads.choose_c(x[few], y[few], np.arange(len(few)), page.seed)
                hits[held] = heads.probe(x[few], y[few], c).predict(x_asked[held]) == y_asked[held]
            ends = 100 * np.array(share_interval(hits, units))
            found.append((f"accuracy:shots={shots}", model, 100 * hits.mean(), *ends, len(hits), "percent", shots))
            ten |= {model: hits} if shots == TEN else {}
        whole = rows[(rows["metric"] == "accuracy") & (rows["model"] == model)].assign(metric="accuracy:shots=all")
        found += whole.assign(shots=int(np.median(sizes)))[[*tidy.COLUMNS, "shots"]].to_numpy().tolist()
    asked_ten = ten, f"accuracy:shots={TEN}", units, page.seed
    told = tidy.accuracy_pairs(*asked_ten) if ten else pd.DataFrame(columns=tidy.PAIR)
    return pd.DataFrame(found, columns=[*tidy.COLUMNS, "shots"]), told.assign(family="detail")


def factors(about: pd.DataFrame) -> dict[str, NDArray]:
    """Factor -> -1, 0 or 1 per image: the lower, middle and upper third of numbers that vary."""
    found = {}
    for name in [c for c in about.columns if c not in BOOKKEEPING and pd.api.types.is_numeric_dtype(about[c])]:
        values = about[name].to_numpy(float)
        low, high = np.nanquantile(values, [1 / 3, 2 / 3]) if np.isfinite(values).any() else (0, 0)
        side = np.where(values >= high, 1, 0) - np.where(values <= low, 1, 0)
        if low < high and min((side == 1).sum(), (side == -1).sum()) >= LEAST:
            found[name] = side
    return found


def factor_effects(runs: Runs, about: pd.DataFrame, units: NDArray | None) -> pd.DataFrame:
    """Accuracy on the upper third of a factor minus that on the lower third, in points: rows for `Page.compare`."""
    each, found = np.arange(len(about)) if units is None else units, []
    for name, side in factors(about).items():
        for model, run in runs.items():
            share = {s: run.correct[side == s].mean() for s in (-1, 1)}
            influence = sum(s * (side == s) / (side == s).sum() * (run.correct - share[s]) for s in (-1, 1))
            gap = linear_difference(share[1] - share[-1], influence, each)
            ends = (100 * gap.estimate, 100 * gap.interval.low, 100 * gap.interval.high)
            n = len(np.unique(each[side != 0]))
            found.append((f"accuracy_change:{name}", model, "", *ends, gap.p_value, 0.0, n, "percent", name))
    return pd.DataFrame(found, columns=[*tidy.PAIR, "factor"]).assign(family="detail")


def as_rows(judged: pd.DataFrame) -> pd.DataFrame:
    """Judged effects as rows to draw."""
    rows = judged[judged["metric"].str.startswith("accuracy_change:")]
    rows = rows.rename(columns={"model_a": "model", "difference": "value"})
    return rows.assign(factor=rows["factor"].str.replace("_", " "))


def by_level(runs: Runs, about: pd.DataFrame) -> pd.DataFrame:
    """Accuracy at every level of one's own columns of words: rows with `level`, such as `site: north`."""
    names, tables = [c for c in about.columns if c not in (*BOOKKEEPING, *MEASURED)], []
    for name in [c for c in names if not pd.api.types.is_numeric_dtype(about[c])]:
        values = about[name].astype(str)
        sizes = values.value_counts()
        for level in sizes.index[sizes >= LEAST] if 1 < len(sizes) <= LEVELS else ():
            part = {m: run.correct[(values == level).to_numpy()] for m, run in runs.items()}
            tables.append(tidy.accuracy(part, f"accuracy:{name}={level}").assign(level=f"{name}: {level}"))
    return pd.concat(tables or [pd.DataFrame(columns=[*tidy.COLUMNS, "level"])], ignore_index=True)


def alike(
    features: Sequence[NDArray], edited: Sequence[Sequence[NDArray]], rows: NDArray, targets: NDArray
) -> NDArray[np.int64]:
    """Pairs of images that every network finds as alike as an image and its own edit; (k, 2) positions.

    Likeness is the cosine of features less their mean. A network's threshold is the median over `rows` of the edit that
    moves its features furthest, and no less than what 19 of 20 images have to the nearest image of another class.
    More pairs than ten per image: these features do not tell copies from others, and none is returned.

    Of each network `features` (n, width), and per edit `edited` (len(rows), width), those of the edited images at
    `rows`; `targets` (n,) are classes.
    """
    pairs, sample = None, np.linspace(0, len(targets) - 1, min(len(targets), 1000)).astype(int)
    for values, changed in zip(features, edited, strict=True):
        middle = np.mean(values, axis=0, dtype=np.float64).astype(np.float32)
        own = normalize(values - middle)
        level = min(np.median((own[rows] * normalize(x - middle)).sum(axis=1)) for x in changed)
        other = np.where(targets[sample][:, None] == targets, -1, own[sample] @ own.T).max(axis=1)
        level = max(level, np.quantile(other, 0.95))
        if pairs is None:
            parts = []
            for start in range(0, len(own), 512):
                first, second = np.nonzero(np.tril(own[start : start + 512] @ own.T > level, start - 1))
                parts.append(np.stack([first + start, second], axis=1))
                if sum(map(len, parts)) > 10 * len(own):
                    return np.zeros((0, 2), np.int64)
            pairs = np.concatenate(parts)
        else:
            pairs = pairs[(own[pairs[:, 0]] * own[pairs[:, 1]]).sum(axis=1) > level]
    return pairs


def suspects(runs: Runs, names: Sequence[str]) -> pd.DataFrame:
    """Images whose label the models doubt together, most doubtful first.

    Probabilities are geometric means over the models: one that is sure of the label outweighs several that are not.
    """
    first = next(iter(runs.values()))
    each = np.arange(len(first))
    mean = softmax(np.mean([np.log(run.probabilities + 1e-6) for run in runs.values()], axis=0), axis=1)
    said, targets = mean.argmax(axis=1), first.targets
    against = np.sum([~run.correct for run in runs.values()], axis=0)
    doubt = np.log(mean[each, said]) - np.log(mean[each, targets])
    order = np.argsort(-doubt, kind="stable")[: int((said != targets).sum())]
    shown = {"id": first.ids[order], "label": np.take(names, targets[order]), "models say": np.take(names, said[order])}
    shown |= {"models against the label": [f"{k} of {len(runs)}" for k in against[order]]}
    return pd.DataFrame(shown | {"confidence": mean[order, said[order]], "of the label": mean[order, targets[order]]})


def repeats(about: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Pairs of near-duplicates: those across given splits first, then those whose labels differ."""
    found = about.assign(id=about.index, label=labels)[about["near"] != ""]
    found = found.assign(pair=[min(a, b) + max(a, b) for a, b in zip(found["id"], found["near"], strict=True)])
    found = found.drop_duplicates("pair")
    kinds = [(found["split"] != found["near_split"]), found["label"] != found["near_label"]]
    found = found.assign(what=np.select(kinds, ["across splits", "labels differ"], "same label"))
    found = found.rename(columns={"near": "repeats", "near_label": "its label", "near_by": "found by"})
    worst = found.sort_values("what", key=lambda what: what.map({"across splits": 0, "labels differ": 1}).fillna(2))
    return worst[["id", "label", "repeats", "its label", "what", "found by"]].reset_index(drop=True)


def sentences(page, dataset: str, rows: pd.DataFrame, judged: pd.DataFrame, curve: pd.DataFrame) -> list[str]:
    """The findings: who leads and whether that beats guessing, what would decide it, and who leads with few images."""
    accuracy = rows[rows["metric"] == "accuracy"].assign(dataset=dataset)
    best = accuracy.loc[accuracy["value"].idxmax()]
    guess = judged[(judged["metric"] == "above_majority") & (judged["model_a"] == best["model"])].iloc[0]
    level, title = best["value"] - guess["difference"], page.title(dataset)
    if guess["verdict"] == verdicts.OPEN or guess["difference"] <= 0:
        return [
            f"On {title} no model is told from always naming the most frequent class ({level:.1f} % right): "
            f"the best here is right on {best['value']:.1f} % [{best['ci_low']:.1f}, {best['ci_high']:.1f}]. "
            "Nothing on the other pages can be a reason to choose one of them."
        ]
    said = [f"Accuracy on {title} in percent: {page.leader(accuracy, judged)}. Always naming one class: {level:.1f}."]
    mine = judged[(judged["metric"] == "accuracy") & (judged["model_b"] != "")]
    leaders = verdicts.leaders(accuracy.set_index("model")["value"], mine)
    row = verdicts.between(mine, *leaders[:2]) if len(leaders) > 1 else None
    if row and np.isfinite(needed := row["n"] * verdicts.more_images(row)):
        what = "groups" if "group" in page.metadata(dataset) else "images"
        unit = 10 ** max(0, len(str(int(needed))) - 2)
        enough = int(-(-needed // unit) * unit)  # upwards to two digits
        said.append(
            f"{verdicts.joined([page.labels[m] for m in leaders[:2]])} differ by {abs(row['difference']):.1f} points on"
            f" {row['n']:,} {what}. If that is the true difference, about {enough:,} such {what} would show it "
            "in four of five cases."
        )
    if len(few := curve[curve["metric"] == f"accuracy:shots={TEN}"].assign(dataset=dataset)):
        said.append(f"With {TEN} images per class: {page.leader(few, judged)}.")
    return said


def checks(page, doubted: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """What to look at by hand, in words; and which candidates were not taken to all pages."""
    across, said = int((pairs["what"] == "across splits").sum()), []
    for count, what, text in (
        (len(doubted), "label", "{} the models, taken together, doubt: check the first by hand."),
        (across, "near-duplicate", "{} across the given splits: accuracy looks better than it is."),
        (len(pairs) - across, "pair", "{} of near-duplicates, never split over folds."),
    ):
        said += [text.format(verdicts.counted(count, what))] * (count > 0)
    for model, why in (page.role("dropped") if page.has_role("dropped") else {}).items():
        said.append(f"{page.labels.get(model, model)} was not taken to corruptions and transforms: {why}.")
    return said
