"""ImageNet-C: one dataset of all corruptions x severities, 3.75 million images when complete."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec, unknown
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.data.corruptions import GROUPS, NAMES, SEVERITIES
from beyond_accuracy.data.dataset import ImageDataset, evenly, joined, reader, remapped, require
from beyond_accuracy.data.readers.files import Samples, image_id, scan
from beyond_accuracy.data.readers.samples import assemble
from beyond_accuracy.data.readers.tars import scan_tars

GROUP_NAMES = (*GROUPS, "extra")
LEVELS = {str(level): level for level in SEVERITIES}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@reader
def imagenet_c(spec: DatasetSpec) -> ImageDataset:
    """`<root>/[<group>/]<corruption>/<severity>/<wnid>/*`, in folders or inside the released archives (`noise.tar`).

    Ids are `<corruption>/<severity>/<validation name>`; metadata: `corruption`, `severity`, and `cluster`, the source
    image that 75 versions share. Options: `corruptions`: names to read (default: the 15 standard ones). `images`: this
    many source images, the same in every cell, for a shorter run. `preprocess: native`: the benchmark's own protocol.
    """
    root = require(resolve(spec.path), spec)
    wanted = tuple(spec.options.get("corruptions") or NAMES)
    if strange := [name for name in wanted if name not in (*NAMES, *EXTRA)]:
        raise InputError(f"{spec.name}: {unknown('corruption', strange[0], (*NAMES, *EXTRA))}")
    names, parts, stamp = _collect(spec, root, wanted)
    index = class_space(spec.classes).index
    corruption, severity, targets, source = _parse(spec, root, names, index, wanted)
    order = np.lexsort((source.codes, targets, severity, corruption))
    cells = _cells(spec, root, corruption[order], severity[order], source.codes[order], wanted)
    if images := int(spec.options.get("images", 0)):
        order = order.reshape(cells.shape)[:, evenly(cells.shape[1], images)].ravel()
    corruption, severity, targets, source = corruption[order], severity[order], targets[order], source[order]
    ids = [f"{wanted[c]}/{s}/{name}" for c, s, name in zip(corruption, severity, source, strict=True)]
    metadata = pd.DataFrame(
        {
            "corruption": pd.Categorical.from_codes(corruption, list(wanted)),
            "severity": severity,
            "cluster": source.remove_unused_categories(),
        }
    )
    first = np.cumsum([0, *(count for _, count in parts)])
    load = partial(remapped, partial(joined, tuple(load for load, _ in parts), first), order)
    return assemble(spec, Samples("folder", [], load, stamp, root), ids, targets, metadata=metadata)


def _collect(spec: DatasetSpec, root: Path, wanted: tuple[str, ...]):
    """Names of all images with the loaders that read them: each corruption from its folder, else from an archive."""
    names, parts, stamps, absent = [], [], [], []
    for corruption in wanted:
        folder = next(
            (f for f in (root / corruption, *(root / g / corruption for g in GROUP_NAMES)) if f.is_dir()), None
        )
        if folder is None:
            absent.append(corruption)
            continue
        found = scan(folder)
        names += [f"{corruption}/{name}" for name in found.names]
        parts.append((found.load, len(found.names)))
        stamps.append(found.stamp)
    archives = sorted(root.glob("*.tar")) if absent else []
    if archives:
        found = scan_tars(archives)
        kept = np.array([i for i, name in enumerate(found.names) if _corruption(name) in absent], dtype=np.int64)
        names += ["/".join(found.names[i].split("/")[-4:]) for i in kept]
        parts.append((partial(remapped, found.load, kept), len(kept)))
        stamps.append(found.stamp)
        there = {_corruption(found.names[i]) for i in kept}
        absent = [name for name in absent if name not in there]
    if absent:
        raise DataMissing(
            f"{spec.name}: {', '.join(absent)} not found in {root} (neither as folders nor in the archives of the "
            "release, such as noise.tar); "
            f"get them with `beyond-accuracy fetch --only {spec.name}`, or name those you have with "
            "`options: {corruptions: [...]}` in the profile"
        )
    return names, parts, hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def _corruption(name: str) -> str:
    pieces = name.split("/")
    return pieces[-4] if len(pieces) >= 4 else ""


def _parse(spec: DatasetSpec, root: Path, names: list[str], index: dict[str, int], wanted: tuple[str, ...]):
    """Position of the corruption in `wanted`, severity, target and source image of every file."""
    code = {name: position for position, name in enumerate(wanted)}
    corruption = np.empty(len(names), np.int8)
    severity = np.empty(len(names), np.int8)
    targets = np.empty(len(names), np.int64)
    sources = np.empty(len(names), object)
    for i, name in enumerate(names):
        pieces = name.split("/")
        if len(pieces) != 4 or pieces[1] not in LEVELS or pieces[2] not in index:
            raise InputError(
                f"{spec.name}: {name} in {root}: expected <corruption>/<severity 1 to 5>/<wnid>/<image>; "
                "unpack the archives of the release without renaming folders"
            )
        corruption[i], severity[i], targets[i] = code[pieces[0]], LEVELS[pieces[1]], index[pieces[2]]
        sources[i] = image_id(pieces[3])
    return corruption, severity, targets, pd.Categorical(sources)


def _cells(spec: DatasetSpec, root: Path, corruption, severity, source, wanted: tuple[str, ...]) -> np.ndarray:
    """Source images by cell, (cells, images): the same ones in every cell, or the download is not complete."""
    n_cells = len(wanted) * len(LEVELS)
    counts = np.bincount(corruption.astype(np.int64) * len(LEVELS) + severity - 1, minlength=n_cells)
    different = counts != counts.max()
    if not different.any():
        cells = source.reshape(n_cells, -1)
        different = (np.sort(cells, axis=1) != np.sort(cells[0])).any(axis=1)
        if not different.any():
            return cells
    cell = int(np.flatnonzero(different)[0])
    name, level = wanted[cell // len(LEVELS)], cell % len(LEVELS) + 1
    raise InputError(
        f"{spec.name}: {name}/{level} in {root} has {counts[cell]:,} images, not the same ones as other cells (up to "
        f"{counts.max():,}): an interrupted download or unpacking; `beyond-accuracy fetch --only {spec.name}`"
    )
