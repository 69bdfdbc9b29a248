"""Sets that are probed: train, validation and test splits of one task, in webdataset or Parquet shards."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from beyond_accuracy.datasets import ImageDataset
from beyond_accuracy.errors import InputError
from beyond_accuracy.paths import resolve
from beyond_accuracy.profiles import DatasetSpec
from beyond_accuracy.readers.files import Files
from beyond_accuracy.readers.samples import Samples, assemble, available_splits, find


@dataclass(frozen=True)
class _Splits:
    """The loaders of several splits, one after the other."""

    loads: tuple
    first: np.ndarray

    def __call__(self, position: int) -> bytes:
        """Encoded bytes of image `position`."""
        split = int(np.searchsorted(self.first, position, side="right")) - 1
        return self.loads[split](position - int(self.first[split]))


def splits(spec: DatasetSpec) -> ImageDataset:
    """All splits of a task as one dataset, with the metadata column `split` (`train`, `validation`, `test`).

    Layouts: `<root>/<train|test>/<n>.tar` with `classnames.txt` (the hub repositories `clip-benchmark/wds_*`), or
    Parquet shards `data/<split>-*.parquet`. Ids are `<split>/<key>`, so no image is in two splits under one id.

    Options: `splits`: those to read (default: all that are there; at least train and test). `n_classes`: what labels
    must stay below, checked against the shards' own list too.

    Raises:
        DataMissing: No such folder.
        InputError: A split that is not there, or labels beyond the class names.
    """
    spec = replace(spec, classes="")
    root = resolve(spec.path)
    there = available_splits(spec)
    wanted = list(spec.options.get("splits") or there)
    absent = [split for split in dict.fromkeys([*wanted, "train", "test"]) if split not in there]
    if absent:
        raise InputError(
            f"{spec.name}: {root} has no {absent[0]} shards (found: {', '.join(there) or 'none'}). Training and test "
            "images must come from different splits; fetch the missing one, or another mirror that has it"
        )
    parts = [find(spec, (split,)) for split in wanted]
    for split, part in zip(wanted, parts, strict=True):
        _check_labels(spec, split, part)
    keys = [key or f"{row:07d}" for part in parts for row, key in enumerate(_unique(part))]
    column = np.repeat(wanted, [len(part) for part in parts])
    load = _Splits(tuple(part.load for part in parts), np.cumsum([0, *map(len, parts)]))
    samples = Samples(parts[0].form, keys, load, " ".join(part.stamp for part in parts), root)
    return assemble(
        spec,
        samples,
        [f"{split}/{key}" for split, key in zip(column, keys, strict=True)],
        np.concatenate([part.labels for part in parts]),
        metadata=pd.DataFrame({"split": column}),
    )


def _unique(part: Samples) -> list[str]:
    """Names that tell the images of a split apart: row numbers where the shards' own do not."""
    return part.names if len(set(part.names)) == len(part) else [""] * len(part)


def _check_labels(spec: DatasetSpec, split: str, part: Samples | Files) -> None:
    if part.labels is None:
        raise InputError(f"{spec.name}: the {split} shards in {part.root} have no whole-number label")
    limit = int(spec.options.get("n_classes") or part.n_classes)
    if limit and part.n_classes and part.n_classes != limit:
        raise InputError(f"{spec.name}: {part.root} names {part.n_classes} classes, the task has {limit}")
    if part.labels.min() < 0 or (limit and part.labels.max() >= limit):
        bad = part.labels.min() if part.labels.min() < 0 else part.labels.max()
        raise InputError(f"{spec.name}: label {bad} among the {split} images in {part.root}, expected 0..{limit - 1}")
