"""What kind of image does a model get wrong? Error ratios by factor (figure 2 of the paper, and beyond).

The error ratio of a factor is the error rate on images with that factor over the error rate on all annotated images:
above 1 the factor makes images harder for this model (Idrissi et al. 2022, ImageNet-X, arXiv 2211.01866). It cannot
exceed 1 / error rate, so that of two models on which a factor has the same effect the weaker one has the lower ratio.
Models are therefore compared by the factor's effect on the log-odds of an error, measured from the mean log-odds (not
from those of the overall error rate): being weaker, which adds a constant to all, leaves it as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import test_proportions_2indep

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import published
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import P_VALUE_RESAMPLES, bootstrap_means, holm, wilson
from beyond_accuracy.show import figures
from beyond_accuracy.show.tables import format_interval
from beyond_accuracy.show.theme import GREY, INK, ModelStyle

AVERAGE = "average"  # the plain mean over the factors, as in the paper's figure
KINDS = {"error_ratio": "ratio", "factor_effect": "log-odds"}  # numbers of a factor, and their units
# What the raters say of an error, told apart by lightness and hatch, so not by colour alone.
REAL = {"true mistake": ("#8c1a12", ""), "label noise": ("#e3b7b1", "///"), "no ReaL label": ("#eceaea", "..")}

Correct = Mapping[str, ArrayLike]  # model -> (n,) booleans, right or not


class Annotated(NamedTuple):
    """A dataset's annotated images, and who is right on them."""

    name: str  # the set that annotates them, as results name it
    title: str
    right: pd.DataFrame  # index id, a column of booleans per model: all images
    top: pd.DataFrame  # index id, 0/1 columns: the one factor that sets an image most apart
    multi: pd.DataFrame  # the same, all factors of an image
    kind: str  # what a group of `multi` is called: `metaclass` or `class`
    groups: NDArray

    def correct(self, factors: pd.DataFrame) -> Correct:
        """Outcomes on the images of a frame of factors."""
        return {model: column.to_numpy() for model, column in self.right.loc[factors.index].items()}


def annotated(page, runs: Mapping) -> Annotated:
    """The page's images with their factors: of ImageNet-X where the profile says so, else of the metadata.

    Where these have none, the page says so and is about all images and no factor.
    """
    clean, source = page.role("clean"), page.role("factors") if page.has_role("factors") else None
    first, names = next(iter(runs.values())), page.class_names(clean)
    try:
        about = first.ids, page.metadata(clean), source
        top, multi = (published.factor_frame(*about, kind) for kind in ("top", "multi"))
    except InputError as error:
        page.skipped.append(f"no part about factors: {error}")
        top = multi = pd.DataFrame(index=pd.Index(first.ids, name="id"))
        source = None
    targets = pd.Series(first.targets, index=first.ids)[multi.index]
    kind, groups = published.image_groups(multi.index, source, np.asarray(names)[targets])
    right = pd.DataFrame({model: run.correct for model, run in runs.items()}, index=first.ids)
    title = "ImageNet-X" if source == "imagenet_x" else page.title(clean)
    return Annotated(source or clean, title, right, top, multi, kind, groups)


def error_ratio(
    correct: ArrayLike, factors: ArrayLike, resamples: int = 0, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """(models, factors) error ratios from (n, models) outcomes and (n, factors) 0/1 marks of the annotated images.

    With `resamples` their (resamples, models, factors) draws, recomputed as a whole, all models on the same images. NaN
    for a factor that no image has, or a model without errors; ValueError where these are no zeros and ones.
    """
    ratios = _ratios(*_shares(correct, factors, resamples, rng))
    return ratios if resamples else ratios[0]


def _shares(
    correct: ArrayLike, factors: ArrayLike, resamples: int = 0, rng: np.random.Generator | None = None
) -> tuple[NDArray, NDArray, NDArray]:
    """Shares of the images, or in each resample of them, that are wrong, marked, both: (draws, models, factors)."""
    correct, factors = np.asarray(correct), np.asarray(factors)
    if factors.ndim != 2 or correct.shape[:1] != factors.shape[:1] or factors.size == 0:
        raise ValueError(f"(n, models) outcomes and (n, factors) marks expected, got {correct.shape}, {factors.shape}")
    if not np.isin(factors, (0, 1)).all() or not np.isin(correct, (0, 1)).all():
        raise ValueError("factors and outcomes must be 0 or 1, without missing values")
    wrong, marks = ~correct.astype(bool), factors.astype(bool)
    both = wrong[:, :, None] & marks[:, None, :]
    columns = np.concatenate([wrong, marks, both.reshape(len(wrong), -1)], axis=1)
    means = columns.mean(axis=0)[None] if rng is None else bootstrap_means(columns, resamples, rng)
    of_wrong, of_marks, of_both = np.split(means, np.cumsum([wrong.shape[1], marks.shape[1]]), axis=1)
    return of_wrong[:, :, None], of_marks[:, None, :], of_both.reshape(-1, *both.shape[1:])


def _ratios(wrong: NDArray, marks: NDArray, both: NDArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / marks / wrong


def _effects(n: int, marks: NDArray, both: NDArray) -> NDArray[np.float64]:
    log_odds = np.log((n * both + 0.5) / (n * (marks - both) + 0.5))
    usual = (marks * log_odds).sum(axis=-1, keepdims=True) / marks.sum(axis=-1, keepdims=True)
    return np.where(marks > 0, log_odds - usual, np.nan)


def _measure(correct: Correct, factors: pd.DataFrame, resamples: int, rng: np.random.Generator) -> tuple:
    """Names of the factors that occur and, last, their average; their images; errors (models, names); kind -> numbers.

    Of each kind these are the values (models, names) and the draws (resamples, models, names).
    """
    factors = factors.loc[:, factors.any()]
    right, n = np.column_stack(list(correct.values())), len(factors)
    parts = _shares(right, factors), _shares(right, factors, resamples, rng)
    kinds = [_ratios(*part) for part in parts], [_effects(n, *part[1:]) for part in parts]
    found = {}
    for kind, values in zip(KINDS, kinds, strict=True):
        point, draws = (np.concatenate([v, v.mean(axis=-1, keepdims=True)], axis=-1) for v in values)
        found[kind] = point[0], draws
    marks = np.column_stack([factors.to_numpy(int), np.ones(n, int)])
    return [*factors, AVERAGE], marks.sum(axis=0), (1 - right.T.astype(int)) @ marks, found


def _erring(correct: Correct) -> Correct:
    return {model: right for model, right in correct.items() if not np.all(right)}


def factor_table(correct: Correct, factors: pd.DataFrame, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """What every factor, a 0/1 column of `factors`, does to every model's errors, with intervals.

    Tidy rows with `kind`, `factor` and `errors` (wrong ones among the n images with the factor). `metric` is
    `<kind>:<factor>`: `error_rate` in percent (Wilson), `error_ratio`, and `factor_effect`, the log-odds of an error
    with the factor minus its mean over factors, weighted by their images; half an error and half a right answer are
    added to each factor (Haldane 1956). The last factor of these two is `average`, the plain mean over those that
    occur. Factors without images have no rows, nor have models without errors.
    """
    if not len(factors.columns) or not (correct := _erring(correct)):
        return tidy.rows("", "", [], [], 0).assign(kind="", factor="", errors=0)
    names, sizes, errors, found = _measure(correct, factors, resamples, rng)
    models, overall, parts = list(correct), errors[:, -1] / sizes[-1], []
    for f, (name, n) in enumerate(zip(names, sizes.tolist(), strict=True)):
        about, rates = {"factor": name, "errors": errors[:, f]}, np.array([wilson(k, n) for k in errors[:, f]])
        if name != AVERAGE:
            part = tidy.rows(f"error_rate:{name}", "percent", models, 100 * errors[:, f] / n, n, ends=100 * rates)
            parts.append(part.assign(kind="error_rate", **about))
        for kind, unit in KINDS.items():
            (values, draws), ends = found[kind], []
            for m, wrong in enumerate(errors[:, f]):
                # resamples of equal outcomes have no spread, and a log-odds no end
                bound = rates[m] / overall[m] if kind == "error_ratio" else tidy.NONE
                ends.append(tidy.interval(draws[:, m, f]) if 0 < wrong < n else bound)
            part = tidy.rows(f"{kind}:{name}", unit, models, np.nan_to_num(values[:, f]), n, ends=ends)
            parts.append(part.assign(kind=kind, **about))
    return pd.concat(parts, ignore_index=True)


def factor_differences(
    correct: Correct, factors: pd.DataFrame, rng: np.random.Generator, resamples: int = P_VALUE_RESAMPLES
) -> pd.DataFrame:
    """Paired differences between every two models with errors: the average error ratio, and the effect of every factor.

    Rows of `tidy.pairs` with `kind`, `factor`, `family` (the averages are the main one). No p-value where a model is
    right, or wrong, on every image of a factor, or a factor is too rare to resample.
    """
    if not len(factors.columns) or not (correct := _erring(correct)):
        return tidy.pairs("", "", [], [], 0, None).assign(kind="", factor="", family="main")
    names, sizes, errors, found = _measure(correct, factors, resamples, rng)
    models, parts = list(correct), []
    for kind, name in [("error_ratio", AVERAGE), *(("factor_effect", name) for name in names)]:
        f = names.index(name)
        values, draws = (part[..., f] for part in found[kind])
        known = (name == AVERAGE) | (0 < errors[:, f]) & (errors[:, f] < sizes[f])  # equal outcomes show no spread

        def gap(a: int, b: int, draws: NDArray = draws, known: NDArray = known) -> NDArray:
            drawn = draws[:, a] - draws[:, b]
            enough = known[a] and known[b] and np.isfinite(tidy.interval(drawn)).all()
            return drawn[np.isfinite(drawn)] if enough else np.full(1, np.nan)

        part = tidy.pairs(f"{kind}:{name}", KINDS[kind], models, values, sizes[f], gap)
        parts.append(part.assign(kind=kind, factor=name, family="main" if name == AVERAGE else "detail"))
    return pd.concat(parts, ignore_index=True)


def in_one_thing(judged: pd.DataFrame, specs: Sequence) -> pd.DataFrame:
    """Effects among judged differences of the pairs that differ in `what` alone (`verdicts.contrasts`)."""
    pairs = pd.DataFrame(verdicts.contrasts(specs), columns=verdicts.Contrast._fields)
    return judged[judged["kind"] == "factor_effect"].merge(pairs, on=["model_a", "model_b"])


def hardest_first(table: pd.DataFrame, kind: str = "error_ratio") -> pd.DataFrame:
    """Rows of one kind of `factor_table`, factors by falling mean error ratio, the average last."""
    means = table[table["kind"] == "error_ratio"].groupby("factor")["value"].mean().drop(AVERAGE, errors="ignore")
    order = [*means.sort_values(ascending=False, kind="stable").index, AVERAGE]
    return table[table["kind"] == kind].sort_values("factor", key=lambda f: f.map(order.index), kind="stable")


def hardest(table: pd.DataFrame) -> dict[str, list[str]]:
    """Factors that may be a model's hardest: the one of the highest error rate, and those it is not told apart from.

    Score test of two independent shares (an image has one top factor), corrected by Holm over a model's factors.
    """
    found = {}
    for model, rows in table[table["kind"] == "error_rate"].groupby("model", sort=False):
        rows = rows.sort_values("value", ascending=False, kind="stable")
        top, others, p = rows.iloc[0], rows.iloc[1:], []
        for row in others.itertuples():
            less = row.errors / row.n < top["errors"] / top["n"]
            counts = top["errors"], top["n"], row.errors, row.n
            p.append(test_proportions_2indep(*counts, method="score").pvalue if less else 1.0)
        found[model] = [top["factor"], *others["factor"][holm(p) >= 0.05]]
    return found


def errors_by_group(correct: Correct, groups: NDArray) -> pd.DataFrame:
    """Error rate in percent within each group of images (metaclass, class), Wilson intervals; hardest group first."""
    parts = []
    for group in np.unique(groups):
        wrong = {model: ~np.asarray(right)[groups == group] for model, right in correct.items()}
        parts.append(tidy.accuracy(wrong, f"error_rate:{group}").assign(group=group))
    table = pd.concat(parts, ignore_index=True)
    means = table.groupby("group")["value"].transform("mean")
    return table.loc[means.sort_values(ascending=False, kind="stable").index]


def ratio_by_group(
    correct: Correct, factors: pd.DataFrame, groups: NDArray, least: int, top: int | None = None
) -> pd.DataFrame:
    """Error ratio of each factor inside each group: error rate on factor and group over error rate on the group.

    Tidy rows without intervals, `group`, `factor`, the `top` cells of the largest mean ratio first. Cells of fewer than
    `least` images are left out: their ratios are noise.
    """
    outcomes, parts = np.column_stack(list(correct.values())), []
    for group in np.unique(groups):
        marks, right = factors.loc[groups == group], outcomes[groups == group]
        for name, n in marks.sum()[lambda sizes: sizes >= least].items():
            ratios = error_ratio(right, marks[[name]])[:, 0]
            rows = tidy.rows(f"error_ratio:{name}", "ratio", list(correct), ratios, int(n))
            parts.append(rows.assign(group=group, factor=name))
    if not parts:
        return pd.DataFrame(columns=[*tidy.COLUMNS, "group", "factor"])
    table = pd.concat(parts, ignore_index=True)
    means = table.groupby(["group", "factor"])["value"].mean().sort_values(ascending=False, kind="stable")
    return table.set_index(["group", "factor"]).loc[means.index[:top]].reset_index()


def real_correct(pred: ArrayLike, real: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """(n,) correctness under n lists of ReaL labels: 1 if the prediction is in the image's list, NaN if it is empty."""
    return np.array([float(p in r) if len(r) else np.nan for p, r in zip(pred, real, strict=True)])


def real_split(pred: ArrayLike, targets: ArrayLike, real: Sequence[ArrayLike]) -> dict[str, int]:
    """Number of top-1 errors against the original label: `true mistake`, or `label noise` where it is a ReaL label."""
    outcome, wrong = real_correct(pred, real), np.asarray(pred) != np.asarray(targets)
    masks = {"true mistake": outcome == 0, "label noise": outcome == 1, "no ReaL label": np.isnan(outcome)}
    return {kind: int((wrong & mask).sum()) for kind, mask in masks.items()}


def relabelled(page, runs: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy under the original labels (`accuracy`) and ReaL's (`real`); shares of errors by `kind` of `real_split`.

    A profile without the role `real` has no rows.
    """
    none = pd.DataFrame(columns=[*tidy.COLUMNS, "kind"])
    if not page.has_role("real"):
        return none, none
    lists = published.real_labels()
    scores, shares = [tidy.accuracy({model: run.correct for model, run in runs.items()})], [none]
    for model, run in runs.items():
        real = [lists[i] for i in run.ids]
        outcome, split = real_correct(run.pred, real), real_split(run.pred, run.targets, real)
        scores.append(tidy.accuracy({model: outcome[outcome >= 0]}, "real"))
        total = sum(split.values())
        for kind, k in split.items() if total else ():
            metric = f"error_share:{kind.replace(' ', '_')}"
            row = tidy.rows(metric, "fraction", [model], [k / total], total, ends=[wilson(k, total)])
            shares.append(row.assign(kind=kind))
    return pd.concat(scores), pd.concat(shares[1:] or shares)


def confused_pairs(runs: Mapping, names: Sequence[str], top: int = 20) -> pd.DataFrame:
    """The `top` most frequent confusions over all models, ties in class order.

    Columns `label`, `taken for` (names; where several classes share one, the index is added), `images` (of that label),
    one per model (how many it took), `other way` (the reverse confusion, mean over models).
    """
    said = {model: pd.DataFrame({"target": run.targets, "pred": run.pred}) for model, run in runs.items()}
    answers = pd.concat(said, names=["model"])
    table = answers.groupby(["target", "pred", "model"]).size().unstack(fill_value=0)[list(runs)]
    wrong = table[table.index.get_level_values("target") != table.index.get_level_values("pred")]
    wrong = wrong.loc[wrong.sum(axis=1).sort_values(ascending=False, kind="stable").index[:top]]
    names = pd.Series(names)  # ImageNet has two cranes and two missiles
    names = names.where(~names.duplicated(keep=False), names + " (" + names.index.astype(str) + ")")
    target, pred = (wrong.index.get_level_values(level) for level in ("target", "pred"))
    images = next(iter(said.values()))["target"].value_counts()
    columns = {"label": names[target], "taken for": names[pred], "images": images[target]}
    columns |= {m: wrong[m] for m in runs}
    columns["other way"] = table.mean(axis=1).reindex(pd.MultiIndex.from_arrays([pred, target]), fill_value=0.0)
    return pd.DataFrame({name: column.to_numpy() for name, column in columns.items()})


# ------------------------------------------------------------------------------------------------- figure and sentences


def forest(frame: pd.DataFrame, styles: Mapping[str, ModelStyle], order: Sequence[str]) -> figures.Drawn:
    """Paired differences of factor effects, a panel per pair; filled where the difference is told from zero.

    `frame`: judged comparisons with `factor`; `order`: factors from top to bottom.
    """
    labels, words = figures.labels_of(styles), []
    parts = frame.groupby(["model_a", "model_b"], sort=False)
    pairs = {f"{labels[a]}\nminus {labels[b]}": rows for (a, b), rows in parts}
    fig, axes = figures.panels(list(pairs), 0.45 + 0.24 * len(order), min(2, len(pairs)), sharex=True, sharey=True)
    for (name, rows), ax in zip(pairs.items(), axes.values(), strict=True):
        sure = []
        for row in rows.itertuples():
            told = row.verdict != verdicts.OPEN
            sure += [f"{_plain(row.factor)} {row.difference:+.2f}"] * told
            reach = np.clip([[row.difference - row.ci_low], [row.ci_high - row.difference]], 0, None)
            look = {"color": INK if told else GREY, "markerfacecolor": INK if told else "white"}
            at = order.index(row.factor)
            ax.errorbar([row.difference], [at], xerr=reach, fmt="o", markersize=5.5, capsize=0, **look)
        ax.axvline(0, color=INK, linewidth=1)
        ax.set_title(name, fontsize=10.5)
        ax.grid(axis="y", visible=False)
        words.append(f"{name.replace(chr(10), ' ')}: {', '.join(sure) or 'none'}")
    first = next(iter(axes.values()))
    first.set_yticks(range(len(order)), [_plain(name) for name in order])
    ends = frame[["ci_low", "ci_high", "difference"]]
    low, high = min(0.0, ends.min(axis=None)), max(0.0, ends.max(axis=None))
    first.set(ylim=(len(order) - 0.4, -0.6), xlim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
    first.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    fig.supxlabel("difference of the factor's effect, log-odds (filled: told from zero)", fontsize=11.5)
    return fig, f"Differences of factor effects (log-odds) that are told from zero. {'; '.join(words)}."


def pictures(page, images: Annotated) -> tuple[list, list[str], pd.DataFrame]:
    """For each top factor the image that most models miss (if there are any), its words, rows `id, factor, wrong`."""
    clean, wrong = page.role("clean"), (~images.right.loc[images.top.index]).sum(axis=1)
    each = [(factor, wrong[images.top[factor] == 1]) for factor in images.top]
    rows = [(missed.idxmax(), _plain(factor), missed.max()) for factor, missed in each if len(missed)]
    shown = pd.DataFrame(rows, columns=["id", "factor", "wrong"])
    here = page.dataset(page.outputs.base(clean)).load is not None
    found = [page.image(clean, name) for name in shown["id"] if here]
    return found, [f"{row.factor}\n{row.wrong} of {images.right.shape[1]} wrong" for row in shown.itertuples()], shown


def claim(table: pd.DataFrame) -> str:
    """The factors among which the hardest of every model is, by how many models they may be it for."""
    names = pd.Series([name for names in hardest(table).values() for name in names])
    most = [_plain(name) for name in names.value_counts(sort=True).index]
    return f"Hardest: {', '.join(most[:3])}{' or others' * (len(most) > 3)}" if most else ""


def sentences(
    judged: pd.DataFrame, table: pd.DataFrame, shares: pd.DataFrame, title: str, labels: Mapping[str, str]
) -> Iterator[str]:
    """The page's findings on a set (its `title`), from rows of `in_one_thing`, `factor_table` and `relabelled`.

    Each model's hardest factor; where a pair differs beyond its overall error rates; errors that are the label's.
    """
    rates, words = table[table["kind"] == "error_rate"].set_index(["model", "factor"]), []
    for model, names in hardest(table).items():
        rows = rates.loc[[(model, name) for name in names]].itertuples()
        shown = [f"{_plain(row.Index[1])} ({row.value:.0f} % of {row.n:,} wrong)" for row in rows]
        if len(names) > 4:
            shown[3:] = [f"one of {len(names) - 3} others"]
        words.append(f"{labels[model]}: {' or '.join(shown)}{', not told apart' * (len(names) > 1)}")
    if words:
        yield f"Hardest factor on {title}, by error rate. {'; '.join(words)}."
    for (a, b, what), rows in judged.groupby(["model_a", "model_b", "what"], sort=False):
        rows = rows.set_index("factor")
        single, mean = rows.drop(AVERAGE), rows.loc[AVERAGE]
        sure = single["difference"][single["verdict"] != verdicts.OPEN].abs()
        sure = sure.sort_values(ascending=False, kind="stable").index
        errors = [[rates.loc[(model, name), "value"] for model in (a, b)] for name in sure]
        named = [
            f"{_plain(name)} ({x:.0f} against {y:.0f} % errors)" for name, (x, y) in zip(sure, errors, strict=True)
        ]
        held = {"objective": " (same architecture)", "architecture": " (same objective)"}.get(what, "")
        yield (
            f"{labels[a]} and {labels[b]}{held}, beyond their overall error rates: {len(sure)} of {len(single)} "
            f"factors cost one more than the other{': ' * bool(named)}{', '.join(named)}. Mean difference "
            f"{format_interval(mean['difference'], mean['ci_low'], mean['ci_high'], '+.2f')} in log-odds"
            f"{', not decided' if mean['verdict'] == verdicts.OPEN else ''}."
        )
    noise = shares[shares["kind"] == "label noise"].set_index("model")[["value", "ci_low", "ci_high"]]
    words = [f"{format_interval(*row, '.1f')} % for {labels[model]}" for model, *row in (100 * noise).itertuples()]
    if words:
        yield f"Errors whose prediction ReaL raters call right, so that the label is at fault: {', '.join(words)}."


def _plain(name: object) -> str:
    return str(name).replace("_", " ")
