"""Sets made for one question: cue-conflict (shape or texture?) and PUG-ImageNet (one factor at a time)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.dataset import ImageDataset, reader
from beyond_accuracy.data.published import cue_categories
from beyond_accuracy.data.readers.files import Samples
from beyond_accuracy.data.readers.samples import assemble, find

# Factor (as in the paper's table) -> folder in the release, column of its table, value meaning "not varied".
PUG_FACTORS = {
    "worlds": ("Worlds", "world_name"),
    "camera_pitch": ("Camera_Pitch", "camera_pitch"),
    "camera_yaw": ("Camera_Yaw", "camera_yaw"),
    "camera_roll": ("Camera_Roll", "camera_roll"),
    "object_pitch": ("Object_Pitch", "character_rotation_pitch"),
    "object_yaw": ("Object_Yaw", "character_rotation_yaw"),
    "object_roll": ("Object_Roll", "character_rotation_roll"),
    "object_scale": ("Object_Scale", "character_scale"),
    "object_texture": ("Object_Texture", "character_texture"),
    "scene_light": ("Scene_Light", "scene_light"),
}
PUG_TABLE = "labels_pug_imagenet.csv"
PUG_MAPPING = "class_to_imagenet_idx.json"


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
    samples = find(spec)
    categories = cue_categories()
    cues = []
    for name in samples.names:
        try:
            cue = parse_name(name)
        except ValueError as error:
            raise InputError(f"{spec.name}: {samples.root}: {error}") from error
        folder = name.split("/")[-2] if "/" in name else cue.shape
        if folder != cue.shape:
            raise InputError(f"{spec.name}: {name} in {samples.root} lies in folder {folder!r} but shows {cue.shape!r}")
        for category in (cue.shape, cue.texture):
            if category not in categories:
                raise InputError(f"{spec.name}: {name} in {samples.root}: {category!r} is not one of the 16 categories")
        cues.append(cue)
    metadata = pd.DataFrame(cues, columns=["shape", "texture", "cluster", "texture_image"])
    ids = [f"{cue.shape}/{Path(name).stem}" for cue, name in zip(cues, samples.names, strict=True)]
    return assemble(spec, samples, ids, [categories[cue.shape] for cue in cues], metadata=metadata)


@reader
def pug_imagenet(spec: DatasetSpec) -> ImageDataset:
    """PUG-ImageNet: folders `<factor>/<class>/*` with `labels_pug_imagenet.csv`, or the hub's Parquet shards.

    Targets are the ImageNet indices of the class (several). Metadata: `factor`, `level` (as text), `level_value` (as a
    number), `class_name`, `character` (the asset), `world`, `cluster`. Ids `<factor>/<class>/<character>/<level>` in
    both forms. Shards do not say the factor, so it is the one column that departs from its default, the most frequent
    value; images with all defaults are the worlds, and repeated ones the default levels of scale, texture and yaw.
    Options: `mapping`: path of `class_to_imagenet_idx.json`, which is not in the archive.
    """
    samples = find(spec)
    mapping = spec.options.get("mapping")
    classes = pug_classes(resolve(mapping) if mapping else resolve(spec.path) / PUG_MAPPING)
    table = _pug_table(spec, samples) if samples.in_folders else _pug_shards(spec, samples)
    if unknown := sorted(set(table["class_name"]) - set(classes)):
        raise InputError(
            f"{spec.name}: class {unknown[0]!r} in {samples.root} is not in {PUG_MAPPING}, whose spellings are matched "
            "exactly"
        )
    ids = table["factor"].str.cat([table["class_name"], table["character"], table["level"]], sep="/")
    metadata = table.assign(level_value=pd.to_numeric(table["level"], errors="coerce"), cluster=table["character"])
    targets = [classes[name] for name in table["class_name"]]
    return assemble(spec, samples, ids.to_numpy(), targets, metadata=metadata)


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


def _pug_table(spec: DatasetSpec, samples: Samples) -> pd.DataFrame:
    """Factor and class from the folders, the rest from the table of the release, joined on the file name."""
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
    needed = ["filename", "character_name", *(column for _, column in PUG_FACTORS.values())]
    if absent := [column for column in needed if column not in table.columns]:
        raise InputError(f"{spec.name}: {path} has no column {absent[0]!r} (it has {', '.join(table.columns)})")
    folder_factor = {folder.lower(): factor for factor, (folder, _) in PUG_FACTORS.items()}
    pieces = [name.split("/") for name in samples.names]
    for name, parts in zip(samples.names, pieces, strict=True):
        if len(parts) < 3 or parts[-3].lower() not in folder_factor:
            raise InputError(
                f"{spec.name}: {name} in {samples.root}: expected <factor>/<class>/<image> with a factor of "
                f"{', '.join(folder for folder, _ in PUG_FACTORS.values())}"
            )
    rows = _match(spec, path, table["filename"], ["/".join(parts[-3:]) for parts in pieces])
    table = table.iloc[rows].reset_index(drop=True)
    factor = [folder_factor[parts[-3].lower()] for parts in pieces]
    return _pug_frame(table, factor, [parts[-2] for parts in pieces])


def _match(spec: DatasetSpec, path: Path, listed: pd.Series, names: list[str]) -> list[int]:
    """Row of the table for every image: by factor, class and file name, else by as much of it as the table gives."""
    for depth in (3, 2, 1):
        key = listed.str.replace("\\", "/", regex=False).str.split("/").str[-depth:].str.join("/")
        if key.duplicated().any() or (key.str.count("/") < depth - 1).any():
            continue
        row_of = {value: row for row, value in enumerate(key)}
        short = ["/".join(name.split("/")[-depth:]) for name in names]
        if absent := [name for name, part in zip(names, short, strict=True) if part not in row_of]:
            raise InputError(f"{spec.name}: {absent[0]} is not listed in {path} (which lists names like {listed[0]})")
        return [row_of[part] for part in short]
    raise InputError(f"{spec.name}: file names in {path} are not unique (such as {listed[0]})")


def _pug_shards(spec: DatasetSpec, samples: Samples) -> pd.DataFrame:
    needed = ["character_name", "character_label", *(column for _, column in PUG_FACTORS.values())]
    present = [] if samples.table is None else samples.table.column_names
    if absent := [column for column in needed if column not in present]:
        raise InputError(f"{spec.name}: the shards in {samples.root} have no column {absent[0]!r}")
    table = samples.table.select(needed).to_pandas()
    text = pd.DataFrame({column: _text(table[column]) for column in needed})
    varied = {f: column for f, (_, column) in PUG_FACTORS.items() if f != "worlds"}
    departs = pd.DataFrame({factor: text[column] != text[column].mode()[0] for factor, column in varied.items()})
    if (both := departs.sum(axis=1) > 1).any():
        row = int(np.flatnonzero(both)[0])
        factors = " and ".join(departs.columns[departs.iloc[row]])
        raise InputError(f"{spec.name}: row {row} in {samples.root} varies {factors} at once, expected one at a time")
    factor = departs.idxmax(axis=1).where(departs.any(axis=1), "worlds").to_numpy(object)
    # All defaults: first occurrence per asset and world is the world sweep, further ones the other sweeps' default.
    again = text.assign(factor=factor)[factor == "worlds"].groupby(["character_name", "world_name"]).cumcount()
    for repeat, name in enumerate(("object_scale", "object_texture", "camera_yaw"), start=1):
        factor[again.index[again == repeat]] = name
    return _pug_frame(text, list(factor), text["character_label"].tolist())


def _pug_frame(table: pd.DataFrame, factor: Sequence[str], class_name: Sequence[str]) -> pd.DataFrame:
    columns = {name: _text(table[column]).to_numpy() for name, (_, column) in PUG_FACTORS.items()}
    level = [columns[name][row] for row, name in enumerate(factor)]
    return pd.DataFrame(
        {
            "factor": factor,
            "level": level,
            "class_name": class_name,
            "character": table["character_name"].astype(str).to_numpy(),
            "world": columns["worlds"],
        }
    )


def _text(values: pd.Series) -> pd.Series:
    """One spelling per value in both forms: 30, 30.0 and "30" are all `30`."""
    number = pd.to_numeric(values, errors="coerce")
    return values.astype(str).where(number.isna(), number.map("{:g}".format))
