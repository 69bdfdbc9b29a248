"""Sets with a design: cue-conflict (shape or texture?), PUG-ImageNet (one factor at a time), ImageNet-C (by cells)."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec, unknown
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.data.corruptions import GROUPS, NAMES, SEVERITIES
from beyond_accuracy.data.dataset import ImageDataset, build_dataset, evenly, join, reader, remapped, require
from beyond_accuracy.data.published import cue_categories
from beyond_accuracy.data.readers.files import Samples, assemble, find, image_id, scan, scan_tars

# Factor (as in the paper's table) -> column of the release's table; its folder is the factor in title case.
PUG_FACTORS = {
    **{"worlds": "world_name", "camera_pitch": "camera_pitch", "camera_yaw": "camera_yaw"},
    **{"camera_roll": "camera_roll", "object_pitch": "character_rotation_pitch"},
    **{"object_yaw": "character_rotation_yaw", "object_roll": "character_rotation_roll"},
    **{"object_scale": "character_scale", "object_texture": "character_texture", "scene_light": "scene_light"},
}
CUES = ["shape", "texture", "cluster", "texture_image"]  # columns of metadata, in the order of `Cues`
UNTOLD = "default"
PUG_TABLE = "labels_pug_imagenet.csv"
PUG_MAPPING = "class_to_imagenet_idx.json"
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # corruptions beyond the 15, in a group of their own


class Cues(NamedTuple):
    """What a cue-conflict image shows."""

    shape: str
    texture: str
    shape_image: str
    texture_image: str


def parse_name(name: str) -> Cues:
    """Shape, texture and the images they were taken from, off a file name, an id or a trial name.

    >>> parse_name("airplane/airplane10-bicycle2.png")
    Cues(shape='airplane', texture='bicycle', shape_image='airplane10', texture_image='bicycle2')
    """
    stem = name.split("/")[-1].split("_")[-1].split(".")[0]
    found = re.fullmatch(r"(([a-z]+)\d+)-(([a-z]+)\d+)", stem)
    if not found:
        raise ValueError(f"cue-conflict image {name!r}: expected a name like airplane1-bicycle2.png")
    shape_image, shape, texture_image, texture = found.groups()
    return Cues(shape, texture, shape_image, texture_image)


@reader
def cue_conflict(spec: DatasetSpec) -> ImageDataset:
    """`<shape>/<shape><n>-<texture><m>.png`: images with the shape of one category and the texture of another.

    Targets are the classes of the shape's category; metadata: `shape`, `texture`, `cluster` (the shape image),
    `texture_image`.
    """
    samples, categories = find(spec), cue_categories()
    try:
        cues = [parse_name(name) for name in samples.names]
    except ValueError as error:
        raise InputError(f"{spec.name}: {samples.root}: {error}") from error
    for name, cue in zip(samples.names, cues, strict=True):
        folder = name.split("/")[-2] if "/" in name else cue.shape
        if folder != cue.shape:
            raise InputError(f"{spec.name}: {name} in {samples.root} lies in folder {folder!r} but shows {cue.shape!r}")
        if strange := sorted({cue.shape, cue.texture} - categories.keys()):
            raise InputError(f"{spec.name}: {name} in {samples.root}: {strange[0]!r} is not one of the 16 categories")
    ids, targets = [cue_id(cue) for cue in cues], [categories[cue.shape] for cue in cues]
    return assemble(spec, samples, ids, targets, metadata=pd.DataFrame(cues, columns=CUES))


@reader
def cue_decisions(spec: DatasetSpec) -> ImageDataset:
    """The images that published cue-conflict decisions (`*.csv` with `imagename`) speak of; no images, 16 classes."""
    root = require(resolve(spec.path), spec)
    tables = [table for path in sorted(root.glob("*.csv")) if "imagename" in (table := pd.read_csv(path))]
    if not tables:
        raise DataMissing(f"{spec.name}: no table of decisions in {root}; `beyond-accuracy fetch --only {spec.name}`")
    cues = sorted({parse_name(name) for name in pd.concat(tables)["imagename"]})
    ids, index = [cue_id(cue) for cue in cues], class_space(spec.classes).index
    about = {"content": "cue decisions", "source": str(root), "metadata": pd.DataFrame(cues, columns=CUES)}
    return build_dataset(spec, ids, [[index[cue.shape]] for cue in cues], None, **about)


def cue_id(cue: Cues) -> str:
    """Id of a cue-conflict image."""
    return f"{cue.shape}/{cue.shape_image}-{cue.texture_image}"


# PUG-ImageNet ---------------------------------------------------------------------------------------------------------


@reader
def pug_imagenet(spec: DatasetSpec) -> ImageDataset:
    """PUG-ImageNet: folders `<factor>/<class>/*` with `labels_pug_imagenet.csv`, or the hub's Parquet shards.

    Targets are the ImageNet indices of the class (several). Metadata: `factor`, `level` (as text), `level_value` (as a
    number), `class_name`, `character` (the asset), `world`, `cluster`. Ids `<factor>/<class>/<character>/<level>` in
    both forms. Shards do not say the factor, so it is the one column that departs from its default, the most frequent
    value; images with all defaults are the worlds. Further images of one asset in one world with all defaults are some
    sweeps' default levels, of which ones nothing says: their factor is `UNTOLD`, which no page counts as a sweep.
    Options: `mapping`: path of `class_to_imagenet_idx.json`, which is not in the archive.
    """
    samples = find(spec)
    mapping = spec.options.get("mapping")
    classes = pug_classes(resolve(mapping) if mapping else resolve(spec.path) / PUG_MAPPING)
    table, factor, class_name = (_pug_table if samples.in_folders else _pug_shards)(spec, samples)
    if absent := sorted(set(class_name) - set(classes)):
        raise InputError(
            f"{spec.name}: class {absent[0]!r} in {samples.root} is not in {PUG_MAPPING}, whose spellings are matched "
            "exactly"
        )
    text = {name: _text(table[column]).tolist() for name, column in PUG_FACTORS.items()}
    level = [text[name][row] if name != UNTOLD else str(row) for row, name in enumerate(factor)]
    frame = pd.DataFrame({"factor": factor, "level": level, "class_name": class_name})
    frame["character"] = table["character_name"].astype(str).to_numpy()
    frame["world"] = text["worlds"]
    ids = frame["factor"].str.cat([frame["class_name"], frame["character"], frame["level"]], sep="/")
    metadata = frame.assign(level_value=pd.to_numeric(frame["level"], errors="coerce"), cluster=frame["character"])
    return assemble(spec, samples, ids.to_numpy(), [classes[name] for name in class_name], metadata=metadata)


def pug_classes(path: Path) -> dict[str, list[int]]:
    """Class name -> ImageNet indices, from the repository facebookresearch/PUG (CC BY-NC 4.0)."""
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


def _pug_table(spec: DatasetSpec, samples: Samples) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Table of the release, a row per image (joined on the file name); factors and classes, which the folders say."""
    path = next(iter(sorted([*samples.root.glob(PUG_TABLE), *samples.root.glob(f"*/{PUG_TABLE}")])), None)
    if path is None:
        raise InputError(
            f"{spec.name}: {PUG_TABLE} not found in {samples.root}; it is in the archive of the release and says which "
            "asset and value each image shows"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{spec.name}: {path} is not a CSV table ({error})") from error
    if absent := [c for c in ("filename", "character_name", *PUG_FACTORS.values()) if c not in table.columns]:
        raise InputError(f"{spec.name}: {path} has no column {absent[0]!r} (it has {', '.join(table.columns)})")
    pieces = [name.split("/")[-3:] for name in samples.names]
    if strange := ["/".join(parts) for parts in pieces if len(parts) < 3 or parts[0].lower() not in PUG_FACTORS]:
        raise InputError(
            f"{spec.name}: {strange[0]} in {samples.root}: expected <factor>/<class>/<image> with a factor of "
            f"{', '.join(factor.title() for factor in PUG_FACTORS)}"
        )
    rows = _match(spec, path, table["filename"], pieces)
    return table.iloc[rows], [parts[0].lower() for parts in pieces], [parts[1] for parts in pieces]


def _match(spec: DatasetSpec, path: Path, listed: pd.Series, names: list[list[str]]) -> np.ndarray:
    """Row of the table for every image: by factor, class and file name, else by as much of it as the table gives."""
    for depth in (3, 2, 1):
        key = listed.str.replace("\\", "/", regex=False).str.split("/").str[-depth:].str.join("/")
        if key.duplicated().any() or (key.str.count("/") < depth - 1).any():
            continue
        rows = pd.Index(key).get_indexer(["/".join(parts[-depth:]) for parts in names])
        for absent in np.flatnonzero(rows < 0)[:1]:
            name = "/".join(names[absent])
            raise InputError(f"{spec.name}: {name} is not listed in {path} (which lists names like {listed[0]})")
        return rows
    raise InputError(f"{spec.name}: file names in {path} are not unique (such as {listed[0]})")


def _pug_shards(spec: DatasetSpec, samples: Samples) -> tuple[pd.DataFrame, list[str], list[str]]:
    needed = ["character_name", "character_label", *PUG_FACTORS.values()]
    present = [] if samples.table is None else samples.table.column_names
    if absent := [column for column in needed if column not in present]:
        raise InputError(f"{spec.name}: the shards in {samples.root} have no column {absent[0]!r}")
    text = samples.table.select(needed).to_pandas().apply(_text)
    varied = {factor: text[column] for factor, column in PUG_FACTORS.items() if factor != "worlds"}
    departs = pd.DataFrame({factor: values != values.mode()[0] for factor, values in varied.items()})
    if (both := departs.sum(axis=1) > 1).any():
        row = int(np.flatnonzero(both)[0])
        factors = " and ".join(departs.columns[departs.iloc[row]])
        raise InputError(f"{spec.name}: row {row} in {samples.root} varies {factors} at once, expected one at a time")
    factor = departs.idxmax(axis=1).where(departs.any(axis=1), "worlds").to_numpy(object)
    again = text[factor == "worlds"].groupby(["character_name", "world_name"]).cumcount()
    factor[again.index[again > 0]] = UNTOLD
    return text, list(factor), text["character_label"].tolist()


def _text(values: pd.Series) -> pd.Series:
    """One spelling per value in both forms: 30, 30.0 and "30" are all `30`."""
    number = pd.to_numeric(values, errors="coerce")
    return values.astype(str).where(number.isna(), number.map("{:g}".format))


# ImageNet-C: one dataset of all corruptions x severities, 3.75 million images when complete ---------------------------


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
    names, load, stamp = _collect(spec, root, wanted)
    frame, targets = _parse(spec, root, names, wanted)
    source = frame["cluster"].cat.codes
    order = np.lexsort((source, targets, frame["severity"], frame["corruption"].cat.codes))
    _check_cells(spec, root, frame.assign(source=source).iloc[order])
    if images := int(spec.options.get("images", 0)):
        cells = order.reshape(len(wanted) * len(SEVERITIES), -1)
        order = cells[:, evenly(cells.shape[1], images)].ravel()
    metadata = frame.iloc[order].assign(cluster=lambda table: table["cluster"].cat.remove_unused_categories())
    ids = [f"{name}/{level}/{image}" for name, level, image in metadata.itertuples(index=False)]
    samples = Samples("folder", [], partial(remapped, load, order), stamp, root)
    return assemble(spec, samples, ids, targets[order], metadata=metadata)


def _collect(spec: DatasetSpec, root: Path, wanted: Sequence[str]):
    """Names of all images, what reads them, their stamp: each corruption from its folder, else from an archive."""
    names, parts, stamps, absent = [], [], [], []
    for corruption in wanted:
        places = [root / corruption, *(root / group / corruption for group in (*GROUPS, "extra"))]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            absent.append(corruption)
            continue
        found = scan(folder)
        names += [f"{corruption}/{name}" for name in found.names]
        parts.append((found.load, len(found)))
        stamps.append(found.stamp)
    if absent and (archives := sorted(root.glob("*.tar"))):
        found = scan_tars(archives)
        inside = [name.split("/")[-4:] for name in found.names]
        kept = np.array([i for i, p in enumerate(inside) if len(p) == 4 and p[0] in absent], dtype=np.int64)
        names += ["/".join(inside[i]) for i in kept]
        parts.append((partial(remapped, found.load, kept), len(kept)))
        stamps.append(found.stamp)
        there = {inside[i][0] for i in kept}
        absent = [name for name in absent if name not in there]
    if absent:
        raise DataMissing(
            f"{spec.name}: {', '.join(absent)} not found in {root} (neither as folders nor in the archives of the "
            "release, such as noise.tar); "
            f"get them with `beyond-accuracy fetch --only {spec.name}`, or name those you have with "
            "`options: {corruptions: [...]}` in the profile"
        )
    return names, join(parts), hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def _parse(spec: DatasetSpec, root: Path, names: list[str], wanted: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Corruption, severity and source image (`cluster`) of every file, and its target."""
    code = {name: position for position, name in enumerate(wanted)}
    level, index = {str(severity): severity for severity in SEVERITIES}, class_space(spec.classes).index
    corruption, severity = np.empty((2, len(names)), np.int8)
    targets, sources = np.empty(len(names), np.int64), np.empty(len(names), object)
    for i, name in enumerate(names):
        pieces = name.split("/")
        if len(pieces) != 4 or pieces[1] not in level or pieces[2] not in index:
            raise InputError(
                f"{spec.name}: {name} in {root}: expected <corruption>/<severity 1 to 5>/<wnid>/<image>; "
                "unpack the archives of the release without renaming folders"
            )
        corruption[i], severity[i], targets[i] = code[pieces[0]], level[pieces[1]], index[pieces[2]]
        sources[i] = image_id(pieces[3])
    kinds = pd.Categorical.from_codes(corruption, list(wanted))
    return pd.DataFrame({"corruption": kinds, "severity": severity, "cluster": pd.Categorical(sources)}), targets


def _check_cells(spec: DatasetSpec, root: Path, rows: pd.DataFrame) -> None:
    """Rows, in the order of cells, are of the same source images in each, or the download is not complete."""
    counts = rows.groupby(["corruption", "severity"], observed=False).size()
    counts = counts.reindex(pd.MultiIndex.from_product([rows["corruption"].cat.categories, SEVERITIES]), fill_value=0)
    different = (counts != counts.max()).to_numpy()
    if not different.any():
        cells = np.sort(rows["source"].to_numpy().reshape(len(counts), -1), axis=1)
        different = (cells != cells[0]).any(axis=1)
    for (name, level), count in counts[different][:1].items():
        raise InputError(
            f"{spec.name}: {name}/{level} in {root} has {count:,} images, not the same ones as other cells (up to "
            f"{counts.max():,}): an interrupted download or unpacking; `beyond-accuracy fetch --only {spec.name}`"
        )
