"""Tiny data in the official layouts of the benchmarks, byte for byte as their releases arrange it.

Each builder fills one folder and returns what a reader must find there. Images are noise: only names, labels, formats
and containers matter.
"""

import copy
import io
import json
import tarfile
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beyond_accuracy.data.classes import imagenet_subset, imagenet_wnids
from beyond_accuracy.data.corruptions import GROUPS

WNIDS = imagenet_wnids()
CLASSES = (0, 1, 6, 207, 999)  # labels of the tiny ImageNet sets
PUG_MAPPING = {"Airplane": [404], "Bear": [294, 295], "Shirt": [841, 610], "Sweatshirt": [841]}
# fmt: off
# per factor: levels, column of the release's table, default of that column
PUG = {
    "worlds": (["City", "Desert"], "world_name", "City"),
    "object_yaw": ([-30, 30], "character_rotation_yaw", 0),
    "object_roll": ([-30, 30], "character_rotation_roll", 0),
    "object_pitch": ([-30, 30], "character_rotation_pitch", 0),
    "object_scale": ([0.5, 1.0], "character_scale", 1.0),
    "camera_roll": ([-30, 30], "camera_roll", 0),
    "camera_pitch": ([-30, 30], "camera_pitch", 0),
    "camera_yaw": ([0, 45], "camera_yaw", 0),
    "object_texture": (["Default", "Gold"], "character_texture", "Default"),
    "scene_light": (["Dark", "Bright"], "scene_light", "Default"),
}
# fmt: on
PUG_LEVELS = {factor: levels for factor, (levels, _, _) in PUG.items()}


def image_bytes(seed: int, size: tuple[int, int] = (48, 40), kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    """An encoded image of smooth noise, different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """An archive of the given members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    """A zip archive of the given members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_hub_parquet(path: Path, images: list[bytes], paths: list[str | None], row_group=3, names=None, **columns):
    """A shard as the hub's library writes it: struct image{bytes,path}, class names in the schema's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": content, "path": name} for content, name in zip(images, paths, strict=True)]
    table = pa.table({"image": pa.array(cells, kind), **columns})
    features = {"image": {"_type": "Image"}}
    if names is not None:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group)


def val_images(classes=CLASSES, per_class: int = 2, size=(48, 40)) -> list[tuple[str, int, bytes]]:
    """(validation name, label, bytes): numbers are arbitrary, as for an archive whose labels come with it."""
    rows = [(label, k) for label in classes for k in range(per_class)]
    return [(f"ILSVRC2012_val_{100 + i:08d}", label, image_bytes(i, size)) for i, (label, _) in enumerate(rows)]


# ----------------------------------------------------------------------------------------------- ImageNet validation


def imagenet_folder(root: Path, images=None) -> dict[str, int]:
    """`<wnid>/ILSVRC2012_val_XXXXXXXX.JPEG`, with files beside the images that must be passed over."""
    images = images or val_images()
    for name, label, content in images:
        write(root / WNIDS[label] / f"{name}.JPEG", content)
    write(root / "README.txt", "not an image")
    write(root / WNIDS[images[0][1]] / "._hidden.JPEG", b"resource fork")
    return {name: label for name, label, _ in images}


def imagenet_flat(root: Path) -> dict[str, int]:
    """The official archive unpacked: all files in one folder; labels from imagenet-x's table."""
    import imagenet_x

    path = Path(imagenet_x.__file__).parent / "annotations" / "filename_label.csv"
    table = pd.read_csv(path).groupby("label").head(1).head(6)
    for i, name in enumerate(table["file_name"]):
        write(root / name, image_bytes(i))
    return {name.removesuffix(".JPEG"): label for name, label in zip(table["file_name"], table["label"], strict=True)}


def imagenet_parquet(root: Path, images=None, first_name="tench, Tinca tinca", shards=2) -> dict[str, int]:
    """`data/validation-000NN-of-000MM.parquet`; the hub's files keep names that end in the wnid."""
    images = images or val_images()
    names = [first_name, *(f"class {i}" for i in range(1, 1000))]
    for shard, rows in enumerate(np.array_split(np.arange(len(images)), shards)):
        write_hub_parquet(
            root / "data" / f"validation-{shard:05d}-of-{shards:05d}.parquet",
            [images[i][2] for i in rows],
            [f"{images[i][0]}_{WNIDS[images[i][1]]}.JPEG" for i in rows],
            names=names,
            label=pa.array([images[i][1] for i in rows], pa.int64()),
        )
    # other splits of the repository must not be read: test labels are -1
    write_hub_parquet(root / "data" / "test-00000-of-00001.parquet", [image_bytes(0)], ["a.JPEG"], label=pa.array([-1]))
    return {name: label for name, label, _ in images}


def imagenet_webdataset(root: Path, images=None, shards: int = 2) -> dict[str, int]:
    """timm's `imagenet1k-validation-NN.tar` with `_info.json`."""
    images = images or val_images()
    parts = np.array_split(np.arange(len(images)), shards)
    for shard, rows in enumerate(parts):
        members = {}
        for i in rows:
            name, label, content = images[i]
            members[f"{name}.cls"] = str(label).encode()
            members[f"{name}.jpg"] = content
            members[f"{name}.json"] = json.dumps({"filename": f"{name}.JPEG"}).encode()
        write_tar(root / f"imagenet1k-validation-{shard:02d}.tar", members)
    split = {"name": "validation", "num_samples": len(images), "shard_lengths": list(map(len, parts))}
    split["filenames"] = [f"imagenet1k-validation-{shard:02d}.tar" for shard in range(shards)]
    write(root / "_info.json", json.dumps({"splits": {"validation": split}}))
    return {name: label for name, label, _ in images}


# --------------------------------------------------------------------------------------- V2, A, R, Sketch, C and Hard


def imagenet_v2(root: Path, padding: int = 0, classes=(0, 1, 2, 10, 100, 207)) -> dict[str, int]:
    """`imagenetv2-matched-frequency-format-val/<k>/<hash>.jpeg`; ER pads the folder names."""
    folder = root / "imagenetv2-matched-frequency-format-val"
    labels = {}
    for label in classes:
        name = f"{label:05d}abcdef"
        write(folder / f"{label:0{padding}d}" / f"{name}.jpeg", image_bytes(label))
        labels[f"{label}/{name}"] = label
    return labels


def wnid_members(folder: str, classes, per_class: int = 2) -> tuple[dict[str, bytes], dict[str, int]]:
    """`<folder>/<wnid>/<name>.jpg` with ids and labels."""
    members, labels = {}, {}
    for label in classes:
        for k in range(per_class):
            name = f"0.{label:06d}{k}"
            members[f"{folder}/{WNIDS[label]}/{name}.jpg"] = image_bytes(1000 * k + label)
            labels[f"{WNIDS[label]}/{name}"] = label
    return members, labels


def subset_classes(which: str, n: int = 4) -> list[int]:
    """First classes of the A or R list, and the last one."""
    return [*map(int, imagenet_subset(which)[: n - 1]), int(imagenet_subset(which)[-1])]


def imagenet_subset_folder(root: Path, which: str) -> dict[str, int]:
    """`imagenet-a/<wnid>/*`."""
    members, labels = wnid_members(f"imagenet-{which}", subset_classes(which))
    for name, content in members.items():
        write(root / name, content)
    write(root / f"imagenet-{which}" / "README.txt", "wnid names")
    return labels


def imagenet_subset_tar(root: Path, which: str) -> dict[str, int]:
    """The released archive, not unpacked."""
    members, labels = wnid_members(f"imagenet-{which}", subset_classes(which))
    write_tar(root / f"imagenet-{which}.tar", {f"imagenet-{which}/README.txt": b"wnid names", **members})
    return labels


def imagenet_a_parquet(root: Path, names: bool = True, whole: bool = False) -> dict[str, int]:
    """`data/train-*` with labels 0..199 and class names that are wnids; or labels of the 1000 (`whole`)."""
    columns = imagenet_subset("a")
    members, labels = wnid_members("imagenet-a", subset_classes("a"))
    values = [label if whole else int(np.searchsorted(columns, label)) for label in labels.values()]
    path = root / "data" / "train-00000-of-00001-0123456789abcdef.parquet"
    more = {"names": [WNIDS[c] for c in columns] if names else None, "label": pa.array(values, pa.int64())}
    write_hub_parquet(path, list(members.values()), [Path(name).name for name in members], **more)
    return labels


def imagenet_r_parquet(root: Path) -> dict[str, int]:
    """`test/test-*` with the columns `wnid` and `class_name` and no label."""
    members, labels = wnid_members("imagenet-r", subset_classes("r"))
    path = root / "test" / "test-00000-of-00001.parquet"
    more = {"wnid": [WNIDS[label] for label in labels.values()], "class_name": ["name"] * len(labels)}
    write_hub_parquet(path, list(members.values()), [Path(name).name for name in members], **more)
    return labels


def clip_benchmark(root: Path, splits: dict[str, list[int]], names: list[str], shards: int = 2) -> None:
    """`<split>/<n>.tar` with `nshards.txt`, `classnames.txt` and templates; members in lossless webp."""
    write(root / "classnames.txt", "".join(f"{name}\n" for name in names))
    write(root / "zeroshot_classification_templates.txt", "a photo of {c}.\n")
    for order, (split, labels) in enumerate(splits.items()):
        for shard, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
            members = {}
            for i in rows:
                members[f"s{i:07d}.cls"] = f"{labels[i]}\n".encode()
                content = image_bytes(10_000 * order + int(i), (36, 36), "WEBP", lossless=True)
                members[f"s{i:07d}.webp"] = content
            write_tar(root / split / f"{shard}.tar", members)
        write(root / split / "nshards.txt", f"{shards}\n")


def imagenet_c(root: Path, grouped: bool = False, classes=(0, 207), per_class: int = 2, size=(224, 224)) -> list[str]:
    """`[<group>/]<corruption>/<severity>/<wnid>/<validation name>`; returns the source images."""
    images = val_images(classes, per_class, size)
    for group, members in _corrupted(images).items():
        for name, content in members.items():
            write(root / group / name if grouped else root / name, content)
    return [name for name, _, _ in images]


def imagenet_c_tars(root: Path, classes=(0, 207)) -> list[str]:
    """The released archives, not unpacked."""
    images = val_images(classes, 1, (32, 32))
    for group, members in _corrupted(images).items():
        write_tar(root / f"{group}.tar", members)
    return [name for name, _, _ in images]


def _corrupted(images) -> dict[str, dict[str, bytes]]:
    return {
        group: {
            f"{corruption}/{severity}/{WNIDS[label]}/{name}.JPEG": content
            for corruption, severity, (name, label, content) in product(corruptions, range(1, 6), images)
        }
        for group, corruptions in GROUPS.items()
    }


def imagenet_hard(root: Path, labels=((1, 5), (7,), (999, 0, 0)), row_group: int = 2) -> None:
    """`data/validation-*` with lists of labels; images of several modes."""
    modes = ["RGB", "L", "CMYK"]
    images = [image_bytes(i, mode=modes[i % 3]) for i in range(len(labels))]
    columns = {"label": pa.array([list(values) for values in labels], pa.list_(pa.int64()))}
    columns |= {"origin": ["imagenet_a"] * len(labels), "english_label": [list(map(str, v)) for v in labels]}
    path = root / "data" / "validation-00000-of-00001-fedcba9876543210.parquet"
    write_hub_parquet(path, images, [None] * len(labels), row_group, **columns)


# --------------------------------------------------------------------------------------------------- shape and factors


def cue_conflict(root: Path, names=("cat1-dog2", "cat1-elephant1", "cat2-cat3", "dog10-bird1", "bear3-clock2")) -> None:
    """`cue-conflict/<shape>/<shape><n>-<texture><m>.png`, 224 px."""
    for i, name in enumerate(names):
        shape = "".join(c for c in name.split("-")[0] if c.isalpha())
        write(root / "cue-conflict" / shape / f"{name}.png", image_bytes(i, (224, 224), "PNG"))


def pug_rows() -> pd.DataFrame:
    """One row per image, with its id: two assets of each class, each factor at each of its levels."""
    rows = []
    for class_name, asset in product(("Airplane", "Shirt"), "AB"):
        asset = {"character_name": f"{class_name}_{asset}", "character_label": class_name}
        for factor, (levels, varied, _) in PUG.items():
            for level in levels:
                values = {column: default for _, column, default in PUG.values()} | {varied: level}
                text = level if isinstance(level, str) else f"{level:g}"
                rows.append({"id": f"{factor}/{class_name}/{asset['character_name']}/{text}", **asset, **values})
    return pd.DataFrame(rows)


def pug_folder(root: Path, size=(64, 64)) -> set[str]:
    """`PUG_ImageNet/<factor>/<class>/<n>.png` with the table of labels; the mapping lies beside it."""
    rows, folder = pug_rows(), root / "PUG_ImageNet"
    pieces = rows["id"].str.split("/")
    names = [f"{piece[0].title()}/{piece[1]}/{i:06d}.png" for i, piece in enumerate(pieces)]
    for i, name in enumerate(names):
        write(folder / name, image_bytes(i, size, "PNG"))
    rows.drop(columns="id").assign(filename=names).to_csv(folder / "labels_pug_imagenet.csv", index=False)
    write(root / "class_to_imagenet_idx.json", json.dumps(PUG_MAPPING))
    return set(rows["id"])


def pug_parquet(root: Path, shards: int = 1) -> set[str]:
    """`data/train-*` with the columns of the hub's card: nothing says which factor an image belongs to."""
    rows = pug_rows()
    images = [image_bytes(i, (32, 32), "PNG") for i in range(len(rows))]
    for shard, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        columns = rows.drop(columns="id").iloc[part].to_dict("list")
        path = root / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        write_hub_parquet(path, [images[i] for i in part], [None] * len(part), 20, **columns)
    write(root / "class_to_imagenet_idx.json", json.dumps(PUG_MAPPING))
    return set(rows["id"])


# ---------------------------------------------------------------------------------------- the whole paper, very small


def annotated_images(n: int = 96) -> list[tuple[str, int, bytes]]:
    """Images under the names of real, ImageNet-X-annotated validation images, with their real labels."""
    from beyond_accuracy.data.published import factors_imagenet_x

    frame = factors_imagenet_x().sort_index().iloc[:n]
    rows = enumerate(zip(frame.index, frame["target"], strict=True))
    return [
        (name, int(label), image_bytes(i, (60 + i % 9, 50 + i % 7), quality=60 + i % 30)) for i, (name, label) in rows
    ]


def paper_data(root: Path) -> None:
    """Every dataset of the profile `paper` at the path it is looked for, in its official form."""
    from beyond_accuracy.dimensions.transfer.tasks import vtab

    imagenet_parquet(root / "imagenet_1k", annotated_images())
    imagenet_v2(root / "imagenet_v2")
    imagenet_subset_tar(root / "imagenet_a", "a")
    imagenet_subset_tar(root / "imagenet_r", "r")
    members, _ = wnid_members("sketch", range(0, 1000, 50), 1)
    for name, content in members.items():
        write(root / "imagenet_sketch" / name, content)
    imagenet_c(root / "imagenet_c", grouped=True)
    imagenet_hard(root / "imagenet_hard")
    cue_conflict(root / "cue_conflict", cue_names())
    pug_folder(root / "pug_imagenet", (320, 320))
    probe_sets(root / "vtab", vtab())


def cue_names() -> tuple[str, ...]:
    """Each of the 16 shapes twice, in three textures."""
    from beyond_accuracy.data.published import cue_categories

    shapes = sorted(cue_categories())
    names = [
        f"{shape}{k}-{texture}1" for k in (1, 2) for shape in shapes for texture in (shapes[3], shapes[k + 5], shape)
    ]
    return tuple(dict.fromkeys(names))


def probe_sets(root: Path, names) -> None:
    """Tasks of VTAB by name, three classes of each, in the form of their mirrors."""
    from beyond_accuracy.dimensions.transfer.tasks import vtab

    for name, task in ((name, vtab()[name]) for name in names):
        labels = sorted({0, task.classes // 2, task.classes - 1})  # far apart: dSprites merges neighbours
        splits = {"train": labels * 10, "test": labels * 5}
        folder = root / name
        if name == "sun397":
            vtab_parquet(folder, splits, task.classes)
        else:
            clip_benchmark(folder, splits, [f"thing {i}" for i in range(task.classes)])


def vtab_parquet(root: Path, splits: dict[str, list[int]], n_classes: int) -> None:
    """`data/<split>-*.parquet` with class names in the schema."""
    names = [f"place {i}" for i in range(n_classes)]
    for order, (split, labels) in enumerate(splits.items()):
        path = root / "data" / f"{split}-00000-of-00001.parquet"
        images = [image_bytes(1000 * order + i, (50, 40)) for i in range(len(labels))]
        write_hub_parquet(path, images, [None] * len(labels), 7, names, label=pa.array(labels, pa.int64()))


def paper_models(root: Path) -> dict[str, dict]:
    """The four model families with random weights and little width, as local folders; entries of a profile."""
    import torch

    torch.manual_seed(0)
    vit = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    convnext = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
    clip_vit = {"image_size": 224, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    clip_convnext = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": ""}
    clip_convnext |= {"timm_proj": "linear", "image_size": 224}
    return {
        "vit_sup": _timm_folder(root / "vit_sup", "deit3_base_patch16_224", vit, 1.0),
        "convnext_sup": _timm_folder(root / "convnext_sup", "convnext_base", convnext, 0.875),
        "vit_clip": clip_folder(root / "vit_clip", clip_vit),
        "convnext_clip": clip_folder(root / "convnext_clip", clip_convnext),
    }


def _timm_folder(folder: Path, architecture: str, arguments: dict, crop: float) -> dict:
    import timm
    from safetensors.torch import save_file

    network = timm.create_model(architecture, pretrained=False, num_classes=1000, **arguments)
    first_conv, classifier = ("patch_embed.proj", "head") if "deit" in architecture else ("stem.0", "head.fc")
    cfg = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": crop, "num_classes": 1000}
    cfg |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    cfg |= {"first_conv": first_conv, "classifier": classifier}
    config = {"architecture": architecture, "num_classes": 1000, "model_args": arguments, "pretrained_cfg": cfg}
    write(folder / "config.json", json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return {"source": "timm", "name": f"local-dir:{folder}"}


def clip_folder(folder: Path, vision: dict, preprocess: dict | None = None) -> dict:
    """A CLIP model with random weights and a small text tower, which open_clip loads with `local-dir:`."""
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    usual = {"mean": [0.481, 0.458, 0.408], "std": [0.269, 0.261, 0.276], "interpolation": "bicubic"}
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    config = {"model_cfg": model, "preprocess_cfg": preprocess or usual}
    write(folder / "open_clip_config.json", json.dumps(config))
    state = open_clip.CLIP(**copy.deepcopy(model)).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    return {"source": "open_clip", "name": f"local-dir:{folder}"}
