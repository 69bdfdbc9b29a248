"""Does a model see shape or texture? Images whose shape is of one class and texture of another (figure 3 of the paper).

Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, arXiv 1811.12231; error consistency from
Geirhos, Meding & Wichmann, "Beyond accuracy: quantifying trial-by-trial behaviour", NeurIPS 2020, arXiv 2006.16736.
Definitions as in the authors' analysis code (bethgelab/model-vs-human).

A *decision* is one of the categories' names. Images whose shape and texture are of the same category carry no conflict:
they count for accuracy, never for the bias. Bias and kappa are fractions, accuracies percent.

Shape images and texture images are crossed: each of either is in many stimuli. Both are samples, so intervals and tests
take the variance of both (`stats.clustered_variance`); n counts shape images.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data import published
from beyond_accuracy.data.readers.stimuli import Cues, parse_name
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.measure.stats import Difference, clustered_variance, linear_difference, share_interval
from beyond_accuracy.show import figures, theme
from beyond_accuracy.show.tables import format_interval

Decisions = Mapping[str, ArrayLike]  # model -> (n,) chosen categories
# Told apart by lightness and hatch, so not by colour alone.
CUES = {"shape": ("#2b6f77", ""), "texture": ("#d9b44a", "///"), "neither": ("#e9eaee", "")}


def decisions_of(page, dataset: str) -> tuple[pd.DataFrame, dict[str, NDArray]]:
    """Cues of a set's images (`cue_table`) and the decisions of all models with logits; DataMissing if none has any.

    Where each class is a category of its own, an imported answer is a decision.
    """
    runs, categories = page.predictions(dataset), published.cue_categories(page.class_names(dataset))
    if any(len(members) > 1 for members in categories.values()):
        runs = {m: p for m, p in runs.items() if p.probabilities is not None}
    if not runs:
        raise DataMissing(f"{dataset}: decisions need all probabilities, and no model of this report has logits")
    cues, names = cue_table(next(iter(runs.values())).ids, page.metadata(dataset)), np.array([*categories, "none"])
    whole = {m: p.probabilities for m, p in runs.items()}
    said = {m: names[p.pred] if whole[m] is None else decide(whole[m], categories) for m, p in runs.items()}
    return cues, said


def describe(page, cues: pd.DataFrame, decisions: Decisions) -> str:
    """What the page is made from, and which models are left out."""
    conflicts = (cues["shape"] != cues["texture"]).sum()
    made = (
        f"{len(cues):,} images, {conflicts:,} with conflicting cues, from {cues['shape_image'].nunique()} shape images "
    )
    made += f"and {cues['texture_image'].nunique()} textures"
    without = ", ".join(page.labels[m] for m in page.models if m not in decisions)
    return f"{made}; left out for want of logits or decisions: {without}" if without else made


def cue_table(ids: Sequence[str], metadata: pd.DataFrame) -> pd.DataFrame:
    """Shape, texture and the images they were taken from (columns of `Cues`), of every id.

    From the metadata's `shape`, `texture`, `cluster` (the shape image) and `texture_image` (without it each texture is
    one origin), else from the ids, read as names of the released files (InputError).
    """
    if {"shape", "texture", "cluster"} <= set(metadata.columns):
        cues = metadata.loc[list(ids)].rename(columns={"cluster": "shape_image"})
        return (cues if "texture_image" in cues else cues.assign(texture_image=cues["texture"]))[list(Cues._fields)]
    try:
        return pd.DataFrame([parse_name(i) for i in ids], columns=Cues._fields, index=pd.Index(ids, name="id"))
    except ValueError as error:
        raise InputError(f"role cue_conflict: the dataset is no set of conflicting cues: {error}") from error


def decide(probabilities: ArrayLike, categories: Mapping[str, Sequence[int]]) -> NDArray[np.str_]:
    """Category a model chooses for each image: the one whose member classes have the highest *mean* probability.

    The mean, not the sum: with sums the 109 dog breeds would win over the one oven. Ties go to the first name. Of
    (n, classes) probabilities over all classes; categories (name -> class indices) share none.

    >>> decide([[0.5, 0.3, 0.2]], {"cat": [0, 1], "dog": [2]}).tolist()
    ['cat']
    """
    probabilities, names = np.asarray(probabilities, dtype=np.float64), sorted(categories)
    means = np.stack([probabilities[:, list(categories[name])].mean(axis=1) for name in names], axis=1)
    return np.array(names)[means.argmax(axis=1)]


def hits(decision: ArrayLike, shape: ArrayLike, texture: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where (n,) decisions follow the shape, and where the texture; never where the two agree."""
    decision, shape, texture = (np.asarray(array) for array in (decision, shape, texture))
    return (decision == shape) & (shape != texture), (decision == texture) & (shape != texture)


def shape_bias(shape_hits: ArrayLike, texture_hits: ArrayLike) -> float:
    """Share of shape decisions among the decisions for either cue; NaN when there is none.

    >>> shape_bias([True, True, False], [False, False, True])
    0.6666666666666666
    """
    shape, texture = int(np.sum(shape_hits)), int(np.sum(texture_hits))
    return shape / (shape + texture) if shape + texture else float("nan")


def table(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Shape bias overall and per category, and accuracies, of every model; n = shape images that inform.

    Metrics: `shape_bias`, `shape_bias:<category>` (images of that shape), `accuracy` (decision = shape, over all
    images, as in the paper's code), `accuracy:either_cue` and `accuracy:texture` (over conflicting images). A bias of
    0/0 has no row, one shape image no interval. Categories have too few shape images to tell how alike their stimuli
    are: the design effect is that of all together.
    """
    shape, conflict, found = cues["shape"].to_numpy(), (cues["shape"] != cues["texture"]).to_numpy(), []
    for model, decision in decisions.items():
        by_shape, by_texture = hits(decision, shape, cues["texture"])
        decided = by_shape | by_texture
        effect = _pooled_effect(by_shape[decided], cues[decided])
        asked = {"shape_bias": (by_shape, decided)}
        asked |= {f"shape_bias:{name}": (by_shape, decided & (shape == name), effect) for name in sorted(set(shape))}
        asked["accuracy"] = (np.asarray(decision) == shape, np.full(len(cues), True))
        asked |= {"accuracy:either_cue": (decided, conflict), "accuracy:texture": (by_texture, conflict)}
        for metric, question in asked.items():
            scale, unit = (100, "percent") if metric.startswith("accuracy") else (1, "fraction")
            if question[1].any():
                share, ends, n = _share(cues, *question)
                found.append((metric, model, scale * share, *(scale * end for end in ends), n, unit))
    return pd.DataFrame(found, columns=tidy.COLUMNS)


def differences(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of shape bias: Student's t over shape and texture images, n = shape images in conflict.

    NaN where a model decides for neither cue.
    """
    point, influence = [], []
    for decision in decisions.values():
        by_shape, by_texture = hits(decision, cues["shape"], cues["texture"])
        decided = by_shape | by_texture
        point.append(shape_bias(by_shape, by_texture))
        influence.append((by_shape - point[-1] * decided) / max(decided.sum(), 1))
    n = cues.loc[cues["shape"] != cues["texture"], "shape_image"].nunique()

    def tested(a: int, b: int) -> Difference:
        return _tested(point[a] - point[b], influence[a] - influence[b], cues)

    return tidy.pairs("shape_bias", "fraction", list(decisions), point, n, tested=tested)


def consistency_table(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Error consistency of every two models, the shape being right: Cohen's kappa of right and wrong; n = shape images.

    kappa = (observed - expected) / (1 - expected): the share of images on which both are right or both wrong, seen and
    for independent observers of the same accuracies. 1 has no interval; NaN when both are always right, or wrong.
    """
    rows, n = [], cues["shape_image"].nunique()
    for a, b in combinations(decisions, 2):
        right_a, right_b = (np.asarray(decisions[model]) == cues["shape"].to_numpy() for model in (a, b))
        same = right_a == right_b
        p_a, p_b, observed = right_a.mean(), right_b.mean(), same.mean()
        expected = p_a * p_b + (1 - p_a) * (1 - p_b)
        kappa = 1 - (1 - observed) / (1 - expected) if expected < 1 else np.nan
        moved = np.full(len(cues), np.nan)
        if observed < 1:  # kappa, differentiated
            slope = (2 * p_b - 1) * (right_a - p_a) + (2 * p_a - 1) * (right_b - p_b)
            moved = ((same - observed) - (1 - kappa) * slope) / (1 - expected) / len(cues)
        low, high = _tested(kappa, moved, cues).interval
        rows.append((a, b, kappa, low, min(high, 1.0), observed, expected, n))
    return pd.DataFrame(rows, columns=["model_a", "model_b", "value", "ci_low", "ci_high", "observed", "expected", "n"])


def _share(cues: pd.DataFrame, hit: NDArray, chosen: NDArray, effect: float | None = None) -> tuple:
    """Share of hits among the chosen images, its interval, and how many shape images they are of."""
    cues, hit, ends = cues[chosen], hit[chosen], tidy.NONE
    if effect is not None or _crossed(cues):
        ends = share_interval(hit, cues["shape_image"], crossed=cues["texture_image"], effect=effect)
    return hit.mean(), ends, cues["shape_image"].nunique()


def _pooled_effect(hit: NDArray, cues: pd.DataFrame) -> float:
    """Design effect of a category's share of hits: variances over all categories, by those of independent images."""
    clustered = independent = 0.0
    for _, mine in cues.assign(hit=hit).groupby("shape"):
        if _crossed(mine):
            influence = (mine["hit"] - mine["hit"].mean()) / len(mine)
            clustered += len(mine) * clustered_variance(influence, mine["shape_image"], mine["texture_image"])
            independent += mine["hit"].mean() * (1 - mine["hit"].mean())
    return clustered / independent if independent > 0 else np.nan


def _crossed(cues: pd.DataFrame) -> bool:
    """Whether there are two origins of either kind, the least that has a variance."""
    return min(cues["shape_image"].nunique(), cues["texture_image"].nunique()) > 1


def _tested(estimate: float, influence: NDArray, cues: pd.DataFrame) -> Difference:
    if not np.isfinite(estimate) or not np.isfinite(influence).all() or not _crossed(cues):
        return Difference(estimate, tidy.NONE, np.nan)
    return linear_difference(estimate, influence, cues["shape_image"], cues["texture_image"])


def decision_rates(decisions: Decisions, cues: pd.DataFrame) -> pd.DataFrame:
    """Percent of conflicting images decided by shape, texture, neither: rows `model, kind, value`."""
    conflicts, rows = (cues["shape"] != cues["texture"]).sum(), []
    for model, decision in decisions.items():
        by_shape, by_texture = (100 * mask.sum() / conflicts for mask in hits(decision, cues["shape"], cues["texture"]))
        rows += zip([model] * 3, CUES, (by_shape, by_texture, 100 - by_shape - by_texture), strict=True)
    return pd.DataFrame(rows, columns=["model", "kind", "value"])


def pick_disagreements(decisions: Decisions, cues: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most `count` images that some models decide by shape and others by texture, of other shapes where possible.

    Rows of `cues` with every model's decision in a column.
    """
    pairs = [hits(decision, cues["shape"], cues["texture"]) for decision in decisions.values()]
    by_shape, by_texture = (np.any(masks, axis=0) for masks in zip(*pairs, strict=True))
    found = cues.assign(**{m: np.asarray(decision) for m, decision in decisions.items()})[by_shape & by_texture]
    mixed = found.iloc[np.random.default_rng(seed).permutation(len(found))]
    turn = mixed.groupby("shape").cumcount().to_numpy()  # first image of each shape, then second, ...
    return mixed.iloc[np.argsort(turn, kind="stable")].head(count)


def examples(page, dataset: str, decisions: Decisions, cues: pd.DataFrame, count: int, seed: int) -> None:
    """Show images of `pick_disagreements` with every model's decision below, where a model looks at images itself."""
    shown, texts = pick_disagreements(decisions, cues, count * page.has_networks, seed), []
    for row in shown.to_dict("records"):
        said = [f"{page.labels[m]}: {row[m]}" for m in page.models if m in row]
        texts.append("\n".join([f"shape {row['shape']}, texture {row['texture']}", *said]))
    caption = "Images that some models name by their shape and others by their texture."
    page.gallery(
        [page.image(dataset, i) for i in shown.index], texts, "examples", caption, shown.reset_index(), columns=2
    )


def human_bias(page, dataset: str, cues: pd.DataFrame) -> pd.Series:
    """People's shape bias by category and overall (`all`), where the set holds the images that they saw; else empty."""
    people, names = published.human_shape_bias(), page.class_names(dataset)
    known = len(names) == 1000 or [*names] == sorted(published.cue_categories())
    shown = people[people.index.isin([*cues["shape"], "all"])]
    return shown if known and len(shown) > 1 else people.iloc[:0]


def bias_dots(
    rows: pd.DataFrame, styles: Mapping[str, theme.ModelStyle], paper: pd.DataFrame, people: pd.Series
) -> figures.Drawn:
    """The paper's figure 3: shape bias per category, vertical lines at the overall ones; people's dotted, diamonds."""
    rows, paper = (f.assign(category=f["metric"].str.replace("shape_bias:?", "", regex=True)) for f in (rows, paper))
    overall, each = rows[rows["category"] == ""], rows[rows["category"] != ""]
    label = "shape bias   ← decides by texture    decides by shape →"
    fig, _ = figures.dots(each, "category", styles, label, paper=paper[paper["category"] != ""], xlim=(-0.02, 1.02))
    ax, names = fig.axes[0], list(dict.fromkeys(each["category"]))
    for row in overall.itertuples():
        look = styles[row.model]
        ax.axvline(row.value, color=look.color, linestyle=look.linestyle, linewidth=1.8, zorder=0.9)
    if len(people):
        ax.axvline(people["all"], color=theme.GREY, linestyle=":", linewidth=1.6, zorder=0.8)
        ax.text(people["all"] - 0.01, -0.65, "humans", ha="right", va="center", fontsize=10, color="#5b6068")
        ax.plot(people.reindex(names), range(len(names)), "d", color=theme.GREY, markersize=5, zorder=0.9)
        ax.set_ylim(top=-0.95)
    words = figures.spell(overall, ["model"], figures.labels_of(styles), ".2f")
    about = (
        f"Shape bias per category of {verdicts.counted(len(overall), 'model')}, each with a vertical line at its bias"
    )
    return fig, f"{about}: {words}."


def sentence(page, dataset: str, rows: pd.DataFrame, judged: pd.DataFrame, people: pd.Series) -> str:
    """The finding: every model's bias, which pairs are told apart, whether the set can order them at all."""
    overall, labels = rows[rows["metric"] == "shape_bias"], page.labels
    spoken = (f"{labels[r.model]} {format_interval(r.value, r.ci_low, r.ci_high, '.3f')}" for r in overall.itertuples())
    said = [f"Shape bias on {page.title(dataset)}: {', '.join(spoken)}."]
    if overall["value"].min() > 0.9:
        of = "Of the decisions for either cue nine in ten or more are for the shape, in all models"
        said.insert(0, f"{of}: near this ceiling differences are small.")
    said += [f"{apart}."] if (apart := verdicts.told_apart(judged, labels)) else []
    said += [f"People, on the same images, reach {people['all']:.2f}."] if len(people) else []
    return " ".join(said)


def claim(page, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The range of the models' shape bias, in a few words (`verdicts.span`)."""
    values = rows[rows["metric"] == "shape_bias"].set_index("model")["value"]
    if len(values) == 1:
        return f"Shape bias is {values.iloc[0]:.2f} ({page.labels[values.index[0]]})"
    return f"Shape bias runs from {verdicts.span(values, judged, page.labels, '{:.2f}'.format)}"
