"""Published tables that a benchmark's score is defined by: category mappings, baseline errors, human answers."""

import json
from functools import lru_cache
from pathlib import Path

import pandas as pd

from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.paths import ASSETS

HUMAN_CITATION = (
    "ten observers on the 1,280 cue-conflict images; Geirhos et al., ICLR 2019 (arXiv 1811.12231), raw data of "
    "github.com/bethgelab/model-vs-human, CC BY 4.0"
)
ALEXNET_CITATION = "AlexNet's errors: Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261)"


@lru_cache
def _asset(name: str) -> dict:
    return json.loads((ASSETS / name).read_text(encoding="utf-8"))


def cue_categories(class_names: tuple[str, ...] | None = None) -> dict[str, list[int]]:
    """Categories of a cue-conflict decision: name -> indices of the member classes.

    Args:
        class_names: Names of the class space. For the 1000 ImageNet classes (or None) these are the 16 categories of
            the cue-conflict set over 207 of them; in any other space each class is a category of its own.
    """
    if class_names is not None and len(class_names) != 1000:
        return {name: [index] for index, name in enumerate(class_names)}
    return {name: list(indices) for name, indices in _asset("cue_conflict_categories.json")["categories"].items()}


def human_cue_counts() -> pd.DataFrame:
    """Human answers to the cue-conflict images, counted: one row per observer and shape category.

    Columns `observer, shape, shape_hits, texture_hits` (decisions for either cue among the conflicting images),
    `conflicts` (their number), `correct`, `n` (answers equal to the shape, over all images). Source: `HUMAN_CITATION`.
    """
    return pd.read_csv(ASSETS / "human_cue_conflict.csv")


def human_shape_bias() -> pd.Series:
    """Human shape bias by category, observers pooled, and overall under the name `all`."""
    counts = human_cue_counts().groupby("shape")[["shape_hits", "texture_hits"]].sum()
    counts.loc["all"] = counts.sum()
    return counts["shape_hits"] / counts.sum(axis=1)


def alexnet_errors() -> dict[str, float]:
    """Top-1 error (fraction) of AlexNet per ImageNet-C corruption, mean over severities: the unit of mCE."""
    return dict(_asset("alexnet_imagenet_c.json")["error"])


def pug_classes(path: Path) -> dict[str, list[int]]:
    """PUG-ImageNet's `class_to_imagenet_idx.json`: class name -> ImageNet indices, sorted by name.

    The file is in the repository facebookresearch/PUG (CC BY-NC 4.0), not in the image archive.

    Raises:
        DataMissing: No such file.
        InputError: Not a mapping of names to lists of indices in 0..999.
    """
    if not path.is_file():
        raise DataMissing(
            f"PUG-ImageNet: {path} not found; it is PUG_ImageNet/class_to_imagenet_idx.json of "
            "github.com/facebookresearch/PUG and not part of the image archive"
        )
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        classes = {str(name): [int(index) for index in table[name]] for name in sorted(table)}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: expected a JSON object of class name -> list of ImageNet indices ({error})"
        ) from None
    bad = [name for name, indices in classes.items() if not indices or min(indices) < 0 or max(indices) > 999]
    if bad or not classes:
        raise InputError(f"{path}: {'class ' + bad[0] if bad else 'the file'} has no indices in 0..999")
    return classes
