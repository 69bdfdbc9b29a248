"""Annotations of the ImageNet validation set that ship with packages: ImageNet-X factors and ReaL labels.

Both are keyed by the validation id `ILSVRC2012_val_XXXXXXXX`, never by position.
"""

import json
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.classes import timm_list

FACTORS = (
    *("pose", "background", "pattern", "color", "smaller", "shape", "partial_view", "subcategory", "texture"),
    *("larger", "darker", "object_blocking", "person_blocking", "style", "brighter", "multiple_objects"),
)
"""The 16 ImageNet-X factors in the order of the package (most frequent first)."""
Which = Literal["top", "multi"]


@cache
def factors_imagenet_x(which: Which = "top", filter_prototypes: bool = True) -> pd.DataFrame:
    """ImageNet-X annotations of the validation set (Idrissi et al. 2022, arXiv 2211.01866; CC BY-NC 4.0).

    `top` marks the one factor that sets an image most apart, `multi` all that raters named; prototypical images are
    left out as in the paper (46,110 of 48,868 stay). Index `id`; the 16 factors (0/1), `metaclass`, `target`. Shared:
    do not modify it.
    """
    if which not in ("top", "multi"):
        raise ValueError(f"which is 'top' or 'multi', got {which!r}")
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


def factor_frame(ids: NDArray, metadata: pd.DataFrame, source: str | None, which: Which = "top") -> pd.DataFrame:
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


def image_groups(ids: NDArray, source: str | None, class_names: NDArray) -> tuple[str, NDArray]:
    """What a group of a drill-down is called, and the (n,) groups: ImageNet-X's 17 metaclasses, else the classes."""
    if source == "imagenet_x":
        return "metaclass", factors_imagenet_x("top").loc[ids, "metaclass"].to_numpy()
    return "class", np.asarray(class_names)


@cache
def real_labels() -> dict[str, NDArray[np.int64]]:
    """ReaL labels (Beyer et al. 2020, arXiv 2006.07159), from timm: id -> sorted class indices.

    50,000 entries; 3,163 are empty and scored by no one.
    """
    labels = json.loads(timm_list("imagenet_real_labels.json"))
    return {f"ILSVRC2012_val_{i:08d}": np.array(x, np.int64) for i, x in enumerate(labels, start=1)}
