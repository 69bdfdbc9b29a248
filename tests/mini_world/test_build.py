"""Shards resume, shipped files keep metadata and store a shared image once, and the adversarial filter is balanced."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mini_world.build import decode, encode_webp, fingerprint, is_current, item_row, shard_path, write_set, write_table
from mini_world.classes import CLASSES
from mini_world.contact_sheet import tile_images
from mini_world.filter_a import select_failures
from mini_world.sets import SETS


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


def test_a_shard_of_other_settings_is_not_current(tmp_path):
    spec = SETS["world_val"]
    path = shard_path(spec, tmp_path, 0)
    assert not is_current(path, spec)
    table = pa.table({"id": ["a"]})
    write_table(table, path, fingerprint(spec))
    assert is_current(path, spec)
    write_table(table, path, {**fingerprint(spec), "seed": "0"})
    assert not is_current(path, spec)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing partial is left


def test_a_shared_image_is_stored_once(tmp_path, image):
    spec = SETS["world_pug"]
    items, lossless = spec.make(spec.seed)[:90], encode_webp(image, None)
    assert np.array_equal(decode(lossless), image)
    table = pa.Table.from_pylist([item_row(item, lossless) for item in items])
    path = write_set(table, spec, tmp_path / "world_pug.parquet")
    stored = pq.read_table(path)
    assert len(stored) == 90 and len(set(stored["image"].to_pylist())) == 1
    assert path.stat().st_size < 90 * len(stored["image"][0].as_py())
    assert stored.schema.metadata[b"seed"] == str(spec.seed).encode()


def test_multi_label_rows_hold_lists(image):
    spec = SETS["world_hard"]
    table = pa.Table.from_pylist([item_row(item, b"") for item in spec.make(spec.seed)[:5]])
    assert table.schema.field("label").type == pa.list_(pa.int64())


def test_the_filter_keeps_balanced_failures():
    pool = pd.DataFrame({"id": [f"i{k:04d}" for k in range(3200)], "label": np.arange(3200) % len(CLASSES)})
    wrong = np.random.default_rng(0).random(3200) < 0.5
    predictions = pd.DataFrame({"id": pool["id"], "pred": (pool["label"] + wrong) % 16})
    chosen = select_failures(pool, predictions, count=160)
    assert chosen == select_failures(pool, predictions, count=160)
    kept = pool[pool["id"].isin(chosen)]
    assert wrong[kept.index].all() and len(kept) == 160 and (kept["label"].value_counts() == 10).all()


def test_the_filter_refuses_incomplete_predictions():
    pool = pd.DataFrame({"id": ["a", "b"], "label": [0, 1]})
    for ids, message in ((["a"], "1 candidates have none, the first is b"), (["a", "a"], "more than once")):
        with pytest.raises(ValueError, match=message):
            select_failures(pool, pd.DataFrame({"id": ids, "pred": 1}))


def test_contact_sheet_layout(image):
    sheet = tile_images([image] * 5, columns=3, gap=2)
    assert sheet.shape == (50, 76, 3)
    assert np.array_equal(sheet[26:, 26:50], image) and (sheet[26:, 52:] == 255).all()
