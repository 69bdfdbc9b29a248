"""Numbers published by others: the paper, its checkpoints, a leaderboard, and tables that define a score.

They lie in ``assets/`` with their sources and caveats (``paper.md``, ``leaderboard.md``). A benchmark's score is
defined by category mappings, baseline errors and human answers.
"""

import json
from functools import lru_cache

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import ModelSpec
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
REAL_NAMES = dict(
    zip(CHECKPOINTS.values(), ("DeiT3-B/16", "ConvNeXt-B", "CLIP ViT-B/16", "CLIP ConvNeXt-B"), strict=True)
)


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


def human_cue_counts() -> pd.DataFrame:
    """Human answers to the cue-conflict images, a row per observer and shape; source: `HUMAN_CITATION`.

    `shape_hits`, `texture_hits`: decisions for a cue among the `conflicts` images; `correct` of `n`: over all images.
    """
    return _table("human_cue_conflict.csv").copy()


def human_shape_bias() -> pd.Series:
    """Human shape bias by category, observers pooled, and overall under the name `all`."""
    counts = human_cue_counts().groupby("shape")[["shape_hits", "texture_hits"]].sum()
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


def compare(results: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Put this run's numbers (results schema) beside a reference's (columns of `paper`, the default).

    A number agrees when its 95 % interval, widened by the reading tolerance, covers the reference; without an interval,
    when the two differ by no more than the tolerance. That tests the run's own sampling error only: that conventions
    match is the caller's part.
    """
    reference = paper() if reference is None else reference
    repeated = results.duplicated(KEY)
    if repeated.any():
        first = ", ".join(results.loc[repeated, KEY].iloc[0])
        raise InputError(f"results hold {first} more than once; expected one row per {', '.join(KEY)}")
    theirs = reference.rename(columns={"value": "reference", "unit": "reference_unit"})
    columns = [*KEY, "value", "ci_low", "ci_high", "n", "unit"]
    # the reference's strength that changes nothing is the plain run, which stands once in ours
    plain = theirs[KEY].assign(metric=theirs["metric"].map(at_rest), named=theirs["metric"])
    plain = results[columns].merge(plain[plain["metric"] != plain["named"]], on=KEY)
    ours = pd.concat([results[columns], plain.assign(metric=plain["named"])[columns]]).drop_duplicates(KEY)
    merged = theirs.merge(ours, on=KEY, how="inner")
    wrong = merged[merged.unit != merged.reference_unit]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"{', '.join(row[KEY])} is in {row.unit} here and in {row.reference_unit} in the reference; use the latter"
        )
    merged["difference"] = merged.value - merged.reference
    low = merged.ci_low.fillna(merged.value) - merged.tolerance
    high = merged.ci_high.fillna(merged.value) + merged.tolerance
    slack = 1e-9  # two numbers that differ by exactly the tolerance agree, whatever the binary rounding
    merged["agrees"] = (low - slack <= merged.reference) & (merged.reference <= high + slack)
    notes = np.array([caveat(*key) for key in merged[KEY].itertuples(index=False)], dtype=object).reshape(-1, 2)
    merged["target"], merged["caveat"] = notes[:, 0].astype(bool), notes[:, 1]
    order = [*columns, "reference", "tolerance", "source", "difference", "agrees", "target", "caveat"]
    return merged[order]


def summarise_agreement(compared: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Agreements per dimension: ``dimension, numbers, measured, agree, differ, not_a_target``."""
    reference = paper() if reference is None else reference
    rows = []
    for dimension, group in reference.groupby("dimension", sort=False):
        ours = compared[compared.dimension == dimension]
        targets = ours[ours.target]
        agree = int(targets.agrees.sum())
        rows.append((dimension, len(group), len(ours), agree, len(targets) - agree, len(ours) - len(targets)))
    return pd.DataFrame(rows, columns=["dimension", "numbers", "measured", "agree", "differ", "not_a_target"])
