"""Renders the sets: ``python -m mini_world.build [--only SET ...] [--workers 2] [--out DIR] [--cache DIR]``.

Each set is rendered in shards under the cache, every shard written atomically, so that an interrupted run continues.
Shipped sets are then merged into one Parquet file each.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from .scene import Scene
from .sets import GENERATOR_VERSION, SETS, Item, SetSpec

SHIPPED_QUALITY = 85  # WebP; shards of shipped sets are kept lossless, so that this can change without rendering
TRAIN_QUALITY = 90
REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CACHE = REPOSITORY / ".cache" / "mini_world"
DEFAULT_OUT = REPOSITORY / "lib" / "beyond_accuracy" / "assets" / "mini_world"


def encode_webp(image: NDArray[np.uint8], quality: int | None) -> bytes:
    """WebP bytes of an (H, W, 3) uint8 image; lossless when `quality` is None."""
    buffer = io.BytesIO()
    options = {"lossless": True, "quality": 20, "method": 1} if quality is None else {"quality": quality, "method": 6}
    Image.fromarray(image).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def scene_columns(scene: Scene) -> dict:
    """Flat metadata of a scene; props become JSON text."""
    columns = {f.name: getattr(scene, f.name) for f in dataclasses.fields(scene) if f.name != "props"}
    columns["count"] = scene.count
    columns["props"] = json.dumps([dataclasses.asdict(prop) for prop in scene.props])
    return columns


def item_row(item: Item, image: bytes) -> dict:
    """One Parquet row."""
    label = list(item.label) if isinstance(item.label, tuple) else item.label
    return {
        "id": item.id,
        "image": image,
        "label": label,
        **scene_columns(item.scene),
        "cluster": item.cluster,
        **item.extra,
    }


def fingerprint(spec: SetSpec) -> dict[str, str]:
    """What the images of a set depend on, as Parquet schema metadata."""
    return {
        "generator_version": GENERATOR_VERSION,
        "set": spec.name,
        "seed": str(spec.seed),
        "resolution": str(spec.resolution),
        "samples_per_pixel": str(spec.samples),
        "denoiser": spec.denoiser,
    }


def write_table(table: pa.Table, path: Path, metadata: dict[str, str]) -> None:
    """Writes a Parquet file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    # a large dictionary page stores an image that several rows share only once
    pq.write_table(
        table.replace_schema_metadata(metadata),
        partial,
        compression="zstd",
        row_group_size=len(table),
        dictionary_pagesize_limit=1 << 28,
    )
    os.replace(partial, path)


def shard_path(spec: SetSpec, cache: Path, index: int) -> Path:
    """File of one shard; the training set's folder is called `train`."""
    folder = {"world_train": "train", "world_train_broad": "train_broad"}.get(spec.name, f"shards/{spec.name}")
    return cache / folder / f"part-{index:04d}.parquet"


def is_current(path: Path, spec: SetSpec) -> bool:
    """Whether a shard exists and was made by this specification."""
    if not path.exists():
        return False
    stored = pq.read_schema(path).metadata or {}
    return all(stored.get(key.encode()) == value.encode() for key, value in fingerprint(spec).items())


@functools.cache
def set_items(name: str) -> list[Item]:
    """Items of a set, sampled once per process."""
    return SETS[name].make(SETS[name].seed)


def render_shard(name: str, index: int, cache: Path) -> tuple[int, float]:
    """Renders one shard unless it is there; returns (images rendered, seconds)."""
    from .render import render  # the renderer is loaded by the workers only

    spec = SETS[name]
    path = shard_path(spec, cache, index)
    if is_current(path, spec):
        return 0, 0.0
    start = time.perf_counter()
    items = set_items(name)[index * spec.shard_size : (index + 1) * spec.shard_size]
    rendered: dict[Scene, bytes] = {}
    for item in items:
        if item.scene not in rendered:  # sweeps share their default level
            image = render(item.scene, spec.resolution, spec.samples, spec.denoiser)
            rendered[item.scene] = encode_webp(image, None if spec.kind != "train" else TRAIN_QUALITY)
    rows = [item_row(item, rendered[item.scene]) for item in items]
    write_table(pa.Table.from_pylist(rows), path, fingerprint(spec))
    return len(rendered), time.perf_counter() - start


def _render_task(task: tuple[str, int, Path]) -> tuple[str, int, int, float]:
    count, seconds = render_shard(*task)
    return task[0], task[1], count, seconds


def read_shards(spec: SetSpec, cache: Path) -> pa.Table:
    """All shards of a set as one table, in the set's order."""
    shards = -(-len(set_items(spec.name)) // spec.shard_size)
    return pa.concat_tables([pq.read_table(shard_path(spec, cache, i)) for i in range(shards)])


def write_set(table: pa.Table, spec: SetSpec, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Writes a shipped set: images at the shipped quality, each distinct one encoded once."""
    encoded: dict[bytes, bytes] = {}
    images = []
    for lossless in table["image"].to_pylist():
        if lossless not in encoded:
            encoded[lossless] = encode_webp(decode(lossless), SHIPPED_QUALITY)
        images.append(encoded[lossless])
    position = table.schema.get_field_index("image")
    table = table.set_column(position, "image", pa.array(images, pa.binary()))
    write_table(table, path, {**fingerprint(spec), "webp_quality": str(SHIPPED_QUALITY), **(metadata or {})})
    return path


def merge(spec: SetSpec, cache: Path, out: Path) -> Path:
    """Joins the shards of a shipped set into its Parquet file."""
    table = read_shards(spec, cache)
    if spec.name == "world_val":
        from .factors import factor_labels  # needs the meshes, so the renderer's packages

        labels = factor_labels(table.drop_columns(["image"]).to_pandas())
        for name in labels:
            table = table.append_column(name, pa.array(labels[name]))
    return write_set(table, spec, out / f"{spec.name}.parquet")


def decode(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) image of encoded bytes."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def build(names: list[str], cache: Path, out: Path, workers: int) -> None:
    """Renders the missing shards of the named sets and merges the shipped ones."""
    tasks = []
    for name in names:
        spec = SETS[name]
        shards = -(-len(set_items(name)) // spec.shard_size)
        missing = [i for i in range(shards) if not is_current(shard_path(spec, cache, i), spec)]
        print(f"{name}: {len(missing)} of {shards} shards to render", flush=True)
        tasks += [(name, i, cache) for i in missing]
    if tasks:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            start, done = time.time(), 0
            for name, index, count, seconds in pool.imap_unordered(_render_task, tasks):
                done += 1
                left = (time.time() - start) / done * (len(tasks) - done) / 60
                rate = 1e3 * seconds / max(count, 1)
                clock = time.strftime("%H:%M:%S")
                print(
                    f"{clock} {name} shard {index}: {count} images, {rate:.0f} ms each, {left:.0f} min left", flush=True
                )
    for name in names:
        if SETS[name].kind == "shipped":
            path = merge(SETS[name], cache, out)
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = [name for name, spec in SETS.items() if spec.kind != "train"]
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=shipped, help="sets to render")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the shipped sets")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of shards and unshipped sets")
    arguments = parser.parse_args()
    build(arguments.only, arguments.cache, arguments.out, arguments.workers)


if __name__ == "__main__":
    main()
