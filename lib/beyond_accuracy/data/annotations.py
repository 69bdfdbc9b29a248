"""Annotations of the ImageNet validation set that ship with packages: ImageNet-X factors and ReaL labels.

Both are keyed by the validation id `ILSVRC2012_val_XXXXXXXX`, never by position.
"""

import json
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from beyond_accuracy.base.errors import DataMissing, InputError

FACTORS = (
    "pose",
    "background",
    "pattern",
    "color",
    "smaller",
    "shape",
    "partial_view",
    "subcategory",
    "texture",
    "larger",
    "darker",
    "object_blocking",
    "person_blocking",
    "style",
    "brighter",
    "multiple_objects",
)
"""The 16 ImageNet-X factors in the order of the package (most frequent first)."""


@cache
def factors_imagenet_x(which: Literal["top", "multi"] = "top", filter_prototypes: bool = True) -> pd.DataFrame:
    """ImageNet-X annotations of the validation set (Idrissi et al. 2022, arXiv 2211.01866; CC BY-NC 4.0).

    Args:
        which: `"top"` marks the one factor that sets an image most apart, `"multi"` all that raters named.
        filter_prototypes: Leave out the prototypical images, as the package and the paper do.

    Returns:
        Index `id`; columns: the 16 factors (0/1 int8), `metaclass`, `target` (class 0..999). 46,110 rows with the
        filter, 48,868 without. Do not modify it: the frame is shared.

    Raises:
        DataMissing: If the optional package imagenet-x is not installed.
        ValueError: If `which` is neither top nor multi.
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
    frame = raw[list(FACTORS)].astype(np.int8)
    frame.index = pd.Index(raw["file_name"].str.removesuffix(".JPEG"), name="id")
    return frame.assign(metaclass=raw["metaclass"].to_numpy(), target=raw["class"].to_numpy())


def factor_frame(
    ids: NDArray, metadata: pd.DataFrame, source: str | None, which: Literal["top", "multi"] = "top"
) -> pd.DataFrame:
    """Factors of a dataset's images, wherever they come from.

    Args:
        ids: (n,) image ids.
        metadata: The dataset's metadata, index `id`. Without a source its columns are read: `x_<factor>` (0/1) for
            `"multi"`, `x_top` (a factor's name) for `"top"`.
        source: `"imagenet_x"` for the annotations of ImageNet val, or None.
        which: As in `factors_imagenet_x`.

    Returns:
        Index `id`, in the order of `ids`, one 0/1 column per factor; only images that are annotated. Of metadata these
        are the images with at least one factor: those without are typical of their class and left out as ImageNet-X
        leaves out its prototypes, and their `x_top`, the nearest to a factor that they come, is none.

    Raises:
        DataMissing: If the optional package imagenet-x is needed and not installed.
        InputError: If the metadata have no factors, or no image is annotated.
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
    """Groups of classes for a drill-down: the 17 metaclasses of ImageNet-X, else the classes themselves.

    Args:
        ids: (n,) annotated images.
        source: As in `factor_frame`.
        class_names: (n,) name of each image's class.

    Returns:
        What a group is called (`metaclass` or `class`), and the (n,) groups.
    """
    if source == "imagenet_x":
        return "metaclass", factors_imagenet_x("top").loc[ids, "metaclass"].to_numpy()
    return "class", np.asarray(class_names)


@cache
def real_labels() -> dict[str, NDArray[np.int64]]:
    """ReaL labels (Beyer et al. 2020, "Are we done with ImageNet?", arXiv 2006.07159), as shipped with timm.

    Returns:
        id -> sorted class indices, 50,000 entries; 3,163 are empty and are scored by no one.
    """
    text = resources.files("timm.data").joinpath("_info", "imagenet_real_labels.json").read_text()
    return {f"ILSVRC2012_val_{i:08d}": np.array(x, np.int64) for i, x in enumerate(json.loads(text), start=1)}
