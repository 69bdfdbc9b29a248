"""Published by others: the paper, its checkpoints, a leaderboard, tables that define a score, annotations of images.

Tables lie in ``assets/`` with their sources and caveats (``paper.md``, ``leaderboard.md``). Annotations of ImageNet's
validation set come with packages, keyed by the validation id `ILSVRC2012_val_XXXXXXXX`, never by position.
"""

import json
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.data.classes import timm_list
from beyond_accuracy.data.transforms import at_rest

KEY = ["dimension", "dataset", "metric", "model"]
HUMAN_CITATION = (
    "ten observers on the 1,280 cue-conflict images; Geirhos et al., ICLR 2019 (arXiv 1811.12231), raw data of "
    "github.com/bethgelab/model-vs-human, CC BY 4.0"
)
# The paper's four checkpoints as rows of the leaderboard.
CHECKPOINTS = {
    "vit_sup": "deit3_base_patch16_224.fb_in22k_ft_in1k",
    "convnext_sup": "convnext_base.fb_in22k_ft_in1k",
    "vit_clip": "ViT-B-16/laion400m_e31",
    "convnext_clip": "convnext_base/laion400m_s13b_b51k",
}
_NAMES = ("DeiT3-B/16", "ConvNeXt-B", "CLIP ViT-B/16", "CLIP ConvNeXt-B")
REAL_NAMES = dict(zip(CHECKPOINTS.values(), _NAMES, strict=True))


@lru_cache
def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(ASSETS / name)


def paper() -> pd.DataFrame:
    """The paper's 384 numbers (arXiv 2311.09215); accuracies in percent, ECE and shape bias as fractions.

    ``source``: printed, derived (printed winner minus printed lead) or digitised; ``tolerance``: the reading error.
    """
    return _table("paper.csv").copy()


def paper_values(dimension: str, dataset: str, metric: str) -> pd.DataFrame:
    """The paper's values of one metric: ``model, value, unit, source, tolerance``; empty where the paper has none."""
    rows = paper().query("dimension == @dimension and dataset == @dataset and metric == @metric")
    return rows[["model", "value", "unit", "source", "tolerance"]].reset_index(drop=True)


def published() -> pd.DataFrame:
    """The same columns for the paper's checkpoints by timm, open_clip and the paper's stored predictions."""
    return _table("published.csv").copy()


def leaderboard() -> pd.DataFrame:
    """Published results of 300 models, one row per checkpoint; columns and sources in ``assets/leaderboard.md``."""
    return _table("leaderboard.csv").copy()


def weight_gigabytes(spec: ModelSpec) -> float:
    """About the size of a checkpoint's file, four bytes a parameter (both towers of CLIP); 0 where nobody published it.

    >>> round(weight_gigabytes(ModelSpec("m", "open_clip", "ViT-B-16", pretrained="laion400m_e31")), 2)
    0.6
    """
    board = leaderboard()
    rows = board[board["model"] == (f"{spec.id}/{spec.pretrained}" if spec.source == "open_clip" else spec.id)]
    counts = rows["total_params_m"].fillna(rows["params_m"] if spec.source == "timm" else np.nan).dropna()
    return float(counts.iloc[0]) * 4e6 / 1e9 if len(counts) else 0.0


def caveat(dimension: str, dataset: str, metric: str, model: str) -> tuple[bool, str]:
    """Whether one of the paper's numbers is a target to match (SUN397 is not), and what is odd about it, or ""."""
    table = _table("caveats.csv")
    rows = table[(table[KEY].eq([dimension, dataset, metric, model]) | table[KEY].eq("*")).all(axis=1)]
    return bool(rows.target.all()), "; ".join(rows.caveat)


def cue_categories(class_names: tuple[str, ...] | None = None) -> dict[str, list[int]]:
    """Categories of a cue-conflict decision -> indices of the member classes.

    For the 1000 ImageNet classes 16 categories over 207 of them; in any other space each class is its own.
    """
    if class_names is not None and len(class_names) != 1000:
        return {name: [index] for index, name in enumerate(class_names)}
    return json.loads((ASSETS / "cue_conflict_categories.json").read_text(encoding="utf-8"))["categories"]


def human_shape_bias() -> pd.Series:
    """Human shape bias by category, observers pooled, and overall under the name `all`; source: `HUMAN_CITATION`."""
    counts = _table("human_cue_conflict.csv").groupby("shape")[["shape_hits", "texture_hits"]].sum()
    counts.loc["all"] = counts.sum()
    return counts["shape_hits"] / counts.sum(axis=1)


def alexnet_errors() -> dict[str, float]:
    """Top-1 error (fraction) of AlexNet per ImageNet-C corruption, mean over severities: the unit of mCE.

    Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261).
    """
    return json.loads((ASSETS / "alexnet_imagenet_c.json").read_text(encoding="utf-8"))["error"]


def checkpoint_specs() -> list[ModelSpec]:
    """The paper's checkpoints as models of a figure: family, paradigm and label."""
    kinds = leaderboard().set_index("model").loc[list(CHECKPOINTS.values()), ["family", "paradigm"]]
    short = {"transformer": "ViT", "convnet": "ConvNeXt", "supervised": "supervised", "clip": "CLIP"}
    return [
        ModelSpec(name, "predictions", label=f"{short[family]}, {short[paradigm]}", family=family, paradigm=paradigm)
        for name, (family, paradigm) in zip(CHECKPOINTS, kinds.itertuples(index=False), strict=True)
    ]


def is_checkpoint(spec: ModelSpec) -> bool:
    """Whether a model of a profile is the paper's checkpoint of the same name."""
    own = {"open_clip": f"{spec.id}/{spec.pretrained}", "timm": spec.id.removeprefix("hf-hub:timm/")}.get(spec.source)
    return own is not None and own == CHECKPOINTS.get(spec.name) and not spec.checkpoint


COMPARED = ["dataset", "metric", "model", "value", "ci_low", "ci_high", "reference", "difference"]
FORMATS = {"value": ".4g", "reference": ".4g", "difference": "+.3g"}


def compare(results: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Put this run's numbers (results schema) beside a reference's (columns of `paper`, the default).

    A number agrees when its 95 % interval, widened by the reading tolerance, covers the reference; without an interval,
    when the two differ by no more than the tolerance. That tests the run's own sampling error only: that conventions
    match is the caller's part.
    """
    reference = paper() if reference is None else reference
    for first in results.loc[results.duplicated(KEY), KEY].itertuples(index=False):
        raise InputError(f"results hold {', '.join(first)} more than once; expected one row per {', '.join(KEY)}")
    theirs = reference.rename(columns={"value": "reference", "unit": "reference_unit"})
    columns = [*KEY, "value", "ci_low", "ci_high", "n", "unit"]
    # the reference's strength that changes nothing is the plain run, which stands once in ours
    plain = theirs[KEY].assign(metric=theirs["metric"].map(at_rest), named=theirs["metric"])
    plain = results[columns].merge(plain[plain["metric"] != plain["named"]], on=KEY)
    ours = pd.concat([results[columns], plain.assign(metric=plain["named"])[columns]]).drop_duplicates(KEY)
    merged = theirs.merge(ours, on=KEY, how="inner")
    for _, row in merged[merged.unit != merged.reference_unit].iterrows():
        raise InputError(
            f"{', '.join(row[KEY])} is in {row.unit} here and in {row.reference_unit} in the reference; use the latter"
        )
    merged["difference"] = merged.value - merged.reference
    low = merged.ci_low.fillna(merged.value) - merged.tolerance
    high = merged.ci_high.fillna(merged.value) + merged.tolerance
    slack = 1e-9  # two numbers that differ by exactly the tolerance agree, whatever the binary rounding
    merged["agrees"] = (low - slack <= merged.reference) & (merged.reference <= high + slack)
    notes = [caveat(*key) for key in merged[KEY].itertuples(index=False)]
    merged["target"], merged["caveat"] = np.array([is_one for is_one, _ in notes], bool), [text for _, text in notes]
    return merged[[*columns, "reference", "tolerance", "source", "difference", "agrees", "target", "caveat"]]


def summarise_agreement(compared: pd.DataFrame) -> pd.DataFrame:
    """Agreements per dimension: ``dimension, numbers, measured, agree, differ, not_a_target``; none of no numbers."""
    ours = compared.assign(agree=compared.target & compared.agrees, differ=compared.target & ~compared.agrees)
    ours = ours.assign(measured=True, not_a_target=~compared.target).groupby("dimension")
    counts = ours[["measured", "agree", "differ", "not_a_target"]].sum()
    table = paper().groupby("dimension", sort=False).size().rename("numbers").to_frame().join(counts)
    return table.fillna(0).astype(int).reset_index().iloc[: len(table) if len(compared) else 0]


def disagreeing(compared: pd.DataFrame) -> pd.DataFrame:
    """Rows of `compare` that should agree and do not, the largest differences first."""
    off = compared[~compared["agrees"] & compared["target"]].sort_values("difference", key=abs, ascending=False)
    return off[["dimension", *COMPARED, "caveat"]]


# Annotations of the validation set ------------------------------------------------------------------------------------

FACTORS = (
    *("pose", "background", "pattern", "color", "smaller", "shape", "partial_view", "subcategory", "texture"),
    *("larger", "darker", "object_blocking", "person_blocking", "style", "brighter", "multiple_objects"),
)
"""The 16 ImageNet-X factors in the order of the package (most frequent first)."""
Which = Literal["top", "multi"]


@lru_cache
def factors_imagenet_x(which: Which = "top", filter_prototypes: bool = True) -> pd.DataFrame:
    """ImageNet-X annotations of the validation set (Idrissi et al. 2022, arXiv 2211.01866; CC BY-NC 4.0).

    `top` marks the one factor that sets an image most apart, `multi` all that raters named; prototypical images are
    left out as in the paper. Index `id`; the 16 factors (0/1), `metaclass`, `target`. Shared: do not modify it.
    """
    try:
        from imagenet_x import load_annotations
    except ImportError as error:
        raise DataMissing(
            "The ImageNet-X annotations are not installed (they are CC BY-NC 4.0, so not a fixed dependency). "
            "Get them with: pip install 'beyond-accuracy[imagenet-x]'"
        ) from error
    raw = load_annotations(which_factor=which, partition="val", filter_prototypes=filter_prototypes)
    raw.index = pd.Index(raw["file_name"].str.removesuffix(".JPEG"), name="id")
    return raw[list(FACTORS)].astype(np.int8).assign(metaclass=raw["metaclass"], target=raw["class"])


def factor_frame(ids: np.ndarray, metadata: pd.DataFrame, source: str | None, which: Which = "top") -> pd.DataFrame:
    """Factors of a dataset's annotated images: index `id` in the order of `ids`, a 0/1 column per factor.

    `source` is `imagenet_x`, or None for the metadata: columns `x_<factor>` (`multi`) and `x_top` (`top`). Images of
    metadata without a factor are typical of their class and left out, as ImageNet-X leaves out its prototypes.
    """
    if source == "imagenet_x":
        table = factors_imagenet_x(which)[list(FACTORS)]
        frame = table.reindex([i for i in ids if i in table.index])
    else:
        marks = metadata.filter(regex="^x_(?!top$)").loc[ids].rename(columns=lambda name: name.removeprefix("x_"))
        if marks.empty or "x_top" not in metadata:
            raise InputError("mistakes: the dataset's metadata have no factor columns x_<factor> and x_top")
        frame = marks[(marks == 1).any(axis=1)]
        if which == "top":
            top = metadata.loc[frame.index, "x_top"]
            frame = frame.apply(lambda has: ((top == has.name) & (has == 1)).astype(np.int8))
    if frame.empty:
        raise InputError("mistakes: none of the images has a factor; ImageNet-X needs ids ILSVRC2012_val_XXXXXXXX")
    return frame.rename_axis("id")


def image_groups(ids: np.ndarray, source: str | None, class_names: np.ndarray) -> tuple[str, np.ndarray]:
    """What a group of a drill-down is called, and the (n,) groups: ImageNet-X's 17 metaclasses, else the classes."""
    if source == "imagenet_x":
        return "metaclass", factors_imagenet_x("top").loc[ids, "metaclass"].to_numpy()
    return "class", np.asarray(class_names)


@lru_cache
def real_labels() -> dict[str, np.ndarray]:
    """ReaL labels (Beyer et al. 2020, arXiv 2006.07159), from timm: id -> sorted class indices.

    50,000 entries; 3,163 are empty and scored by no one.
    """
    labels = json.loads(timm_list("imagenet_real_labels.json"))
    return {f"ILSVRC2012_val_{i:08d}": np.array(x, np.int64) for i, x in enumerate(labels, start=1)}
