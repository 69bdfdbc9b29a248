"""Readers on tiny data in the official layouts, one malformed variant each."""

import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.classes import imagenet_subset, imagenet_wnids
from beyond_accuracy.data.corruptions import NAMES
from beyond_accuracy.data.published import cue_categories
from beyond_accuracy.data.readers import READERS, files, tables
from beyond_accuracy.data.readers.stimuli import UNTOLD
from beyond_accuracy.data.readers.tables import digits

WNIDS = imagenet_wnids()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "cache"))


def read(reader, path, **values):
    return READERS[reader](DatasetSpec("a_set", reader, path=str(path), **values))


def labels(dataset):
    return dict(zip(dataset.ids, dataset.targets, strict=True))


# ----------------------------------------------------------------------------------------------- ImageNet validation


@pytest.mark.parametrize("form", ["imagenet_folder", "imagenet_parquet", "imagenet_webdataset"])
def test_validation_set_is_the_same_in_every_form(tmp_path, form):
    expected = getattr(fixtures, form)(tmp_path / "val_set")
    dataset = read("imagenet", tmp_path / "val_set")
    assert labels(dataset) == expected and len(dataset) == 10
    originals = {name: content for name, _, content in fixtures.val_images()}
    for position in (0, 9, 4, 5, 1):  # out of order too
        assert dataset.load(position) == originals[dataset.ids[position]]
        assert dataset.image(position).size == (48, 40)


def test_a_val_folder_beside_train_is_taken(tmp_path):
    expected = fixtures.imagenet_folder(tmp_path / "val")
    fixtures.imagenet_folder(tmp_path / "train", fixtures.val_images((3,), 5))
    assert labels(read("imagenet", tmp_path)) == expected
    assert labels(read("class_folder", tmp_path)) == expected


@pytest.mark.parametrize("top", ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"])
def test_kaggles_folders(tmp_path, top):
    for place in ("train/n01440764/n01440764_1.JPEG", "test/ILSVRC2012_test_00000001.JPEG"):
        (tmp_path / top / place).parent.mkdir(parents=True)
        (tmp_path / top / place).write_bytes(fixtures.image_bytes(0))
    expected = fixtures.imagenet_folder(tmp_path / top / "val")
    dataset = read("imagenet", tmp_path)
    assert dict(zip(dataset.ids, dataset.targets, strict=True)) == expected


def test_the_flat_archive_takes_labels_from_imagenet_x(tmp_path):
    pytest.importorskip("imagenet_x")
    expected = fixtures.imagenet_flat(tmp_path / "flat")
    assert labels(read("imagenet", tmp_path / "flat")) == expected
    members = {path.name: path.read_bytes() for path in (tmp_path / "flat").iterdir()}
    fixtures.write_tar(tmp_path / "packed" / "ILSVRC2012_img_val.tar", members)
    assert labels(read("imagenet", tmp_path / "packed")) == expected
    fixtures.write(tmp_path / "flat" / "ILSVRC2012_val_00050001.JPEG", b"x")
    with pytest.raises(InputError, match="ILSVRC2012_val_00050001.* not one of the 50,000"):
        read("imagenet", tmp_path / "flat")


def test_folders_named_by_rank_are_refused(tmp_path):
    for rank in range(3):
        fixtures.write(tmp_path / str(rank) / f"ILSVRC2012_val_{rank:08d}.JPEG", fixtures.image_bytes(rank))
    with pytest.raises(InputError, match="folder '0' .* not a class id .*rank in some sorted list"):
        read("imagenet", tmp_path)


def test_unknown_folder_and_missing_folder_are_named(tmp_path):
    fixtures.imagenet_folder(tmp_path / "here")
    fixtures.write(tmp_path / "here" / "n99999999" / "ILSVRC2012_val_00000001.JPEG", fixtures.image_bytes(1))
    with pytest.raises(InputError, match="n99999999"):
        read("imagenet", tmp_path / "here")
    with pytest.raises(DataMissing, match="fetch --only a_set"):
        read("imagenet", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images, .tar or .parquet files"):
        read("imagenet", tmp_path / "empty")
    fixtures.write(tmp_path / "packed" / "val.tar.gz", b"x")
    with pytest.raises(InputError, match=r"val\.tar\.gz but no images; unpack"):
        read("imagenet", tmp_path / "packed")


def test_labels_that_contradict_the_file_names_are_refused(tmp_path):
    images = fixtures.val_images()
    fixtures.imagenet_parquet(tmp_path / "good", images)
    wrong = [(name, (label + 1) % 1000, content) for name, label, content in images]
    fixtures.imagenet_parquet(tmp_path / "bad", wrong)
    shard = sorted((tmp_path / "bad" / "data").glob("validation-*"))[0]
    table = pq.read_table(shard)
    pq.write_table(table.set_column(1, "label", pa.array([0] * table.num_rows)), shard)
    with pytest.raises(InputError, match="its name says n01443537"):
        read("imagenet", tmp_path / "bad")


def test_class_names_in_another_order_are_refused(tmp_path):
    fixtures.imagenet_parquet(tmp_path, first_name="kit fox, Vulpes macrotis")
    with pytest.raises(InputError, match="class 0 .* 'kit fox, Vulpes macrotis', expected 'tench'"):
        read("imagenet", tmp_path)


def test_missing_shards_and_damaged_shards_are_named(tmp_path):
    fixtures.imagenet_parquet(tmp_path / "parquet")
    last = sorted((tmp_path / "parquet" / "data").glob("validation-*"))[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-200])
    with pytest.raises(InputError, match="validation-00001-of-00002.parquet is damaged"):
        read("imagenet", tmp_path / "parquet")
    last.unlink()
    with pytest.raises(InputError, match="lacks 1 of 2 shards .first missing: 00001"):
        read("imagenet", tmp_path / "parquet")
    fixtures.imagenet_webdataset(tmp_path / "tars")
    (tmp_path / "tars" / "imagenet1k-validation-01.tar").unlink()
    with pytest.raises(InputError, match="1 of 2 shards"):
        read("imagenet", tmp_path / "tars")


def test_test_split_labels_are_refused(tmp_path):
    path, name = tmp_path / "test-00000-of-00001.parquet", "ILSVRC2012_val_00000001.JPEG"
    fixtures.write_hub_parquet(path, [fixtures.image_bytes(0)], [name], label=[-1])
    with pytest.raises(InputError, match="label -1 .* not published"):
        read("imagenet", tmp_path)


def test_images_without_validation_name(tmp_path):
    images = [("picture", 0, fixtures.image_bytes(0)), ("drawing", 5, fixtures.image_bytes(1))]
    fixtures.imagenet_folder(tmp_path, images)
    with pytest.raises(InputError, match="2 of 2 images .* ReaL and ImageNet-X"):
        read("imagenet", tmp_path)
    dataset = read("imagenet", tmp_path, options={"val_ids": "optional"})
    assert dataset.targets.tolist() == [0, 5]


def test_number_of_images_is_compared(tmp_path, capsys):
    fixtures.imagenet_folder(tmp_path)
    assert len(read("imagenet", tmp_path, expected=50_000)) == 10
    assert "10 images, the full set has 50,000" in capsys.readouterr().err
    with pytest.raises(InputError, match="10 images, the full set has 50,000"):
        read("imagenet", tmp_path, expected=50_000, options={"strict": True})


def test_fingerprint_follows_the_content(tmp_path):
    fixtures.imagenet_folder(tmp_path)
    before = read("imagenet", tmp_path).fingerprint
    assert read("imagenet", tmp_path).fingerprint == before
    fixtures.write(tmp_path / WNIDS[0] / "ILSVRC2012_val_00000100.JPEG", fixtures.image_bytes(77, (50, 50)))
    assert read("imagenet", tmp_path).fingerprint != before


@pytest.mark.parametrize("form", ["imagenet_folder", "imagenet_parquet", "imagenet_webdataset"])
def test_loaders_work_in_worker_processes(tmp_path, form):
    expected = getattr(fixtures, form)(tmp_path / "val_set")
    dataset = read("imagenet", tmp_path / "val_set")
    dataset.load(0)  # the parent has read already: workers must not share its open files
    assert pickle.loads(pickle.dumps(dataset.load))(3) == dataset.load(3)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(dataset.load, range(len(expected))) == [dataset.load(i) for i in range(len(expected))]


# --------------------------------------------------------------------------------------- V2, A, R, Sketch, C and Hard


@pytest.mark.parametrize("padding", [0, 4])
def test_v2_labels_are_the_folders_numbers(tmp_path, padding):
    expected = fixtures.imagenet_v2(tmp_path, padding)
    dataset = read("imagenet_v2", tmp_path)
    assert labels(dataset) == expected
    # sorted as text the folders are 0, 1, 10, 100, 2, 207: torchvision's ImageFolder would label "2" as 4
    assert labels(dataset)["2/00002abcdef"] == 2
    renamed = tmp_path / "ImageNetV2-matched-frequency"
    shutil.move(tmp_path / "imagenetv2-matched-frequency-format-val", renamed)
    assert labels(read("imagenet_v2", renamed)) == expected


def test_v2_beside_its_other_variants(tmp_path):
    names = ("matched-frequency", "threshold0.7", "top-images")
    for at, name in enumerate(names):
        folder = tmp_path / f"imagenetv2-{name}-format-val" / "7"
        folder.mkdir(parents=True)
        (folder / f"{name}.jpeg").write_bytes(fixtures.image_bytes(at))
    assert read("imagenet_v2", tmp_path).ids.tolist() == ["7/matched-frequency"]
    (tmp_path / "imagenetv2-matched-frequency-format-val").rename(tmp_path / "away")
    with pytest.raises(InputError, match="imagenetv2-threshold0.7-format-val, .*: give the folder of one"):
        read("imagenet_v2", tmp_path)


def test_v2_folder_that_is_no_number(tmp_path):
    fixtures.imagenet_v2(tmp_path, classes=(3, 1000))
    with pytest.raises(InputError, match="'1000' .* not a class number"):
        read("imagenet_v2", tmp_path)


@pytest.mark.parametrize("which", ["a", "r"])
@pytest.mark.parametrize("form", ["imagenet_subset_folder", "imagenet_subset_tar"])
def test_a_and_r_are_scored_on_their_classes(tmp_path, which, form):
    expected = getattr(fixtures, form)(tmp_path, which)
    dataset = read("class_folder", tmp_path, options={"columns": which})
    assert labels(dataset) == expected
    assert np.array_equal(dataset.columns, imagenet_subset(which))
    assert dataset.image(0).size == (48, 40)


@pytest.mark.parametrize("variant", [{}, {"names": False}, {"names": False, "whole": True}])
def test_a_mirrors_labels_as_ids_ranks_or_indices(tmp_path, variant):
    expected = fixtures.imagenet_a_parquet(tmp_path, **variant)
    assert labels(read("class_folder", tmp_path, options={"columns": "a"})) == expected
    folder = fixtures.imagenet_subset_folder(tmp_path / "folder", "a")
    assert folder == expected  # the same ids as in the official form


def test_r_mirror_has_a_wnid_column(tmp_path):
    expected = fixtures.imagenet_r_parquet(tmp_path)
    assert labels(read("class_folder", tmp_path, options={"columns": "r"})) == expected
    assert fixtures.imagenet_subset_folder(tmp_path / "folder", "r") == expected  # the same ids as in the official form


def test_a_class_outside_the_scored_ones(tmp_path):
    fixtures.imagenet_subset_folder(tmp_path, "a")
    fixtures.write(tmp_path / "imagenet-a" / WNIDS[0] / "1.jpg", fixtures.image_bytes(1))
    with pytest.raises(InputError, match="n01440764 .* not one of the 200"):
        read("class_folder", tmp_path, options={"columns": "a"})


def test_webdataset_mirror_counts_ranks(tmp_path):
    fixtures.clip_benchmark(tmp_path, {"test": [0, 199, 5]}, [f"name {i}" for i in range(200)])
    dataset = read("class_folder", tmp_path, options={"columns": "a"})
    assert dataset.targets.tolist() == imagenet_subset("a")[[0, 199, 5]].tolist()
    fixtures.write_tar(tmp_path / "test" / "1.tar", {"s0000002.cls": b"200", "s0000002.webp": fixtures.image_bytes(1)})
    with pytest.raises(InputError, match="not one of the 200"):  # 200 cannot be a rank: read as one of the 1000
        read("class_folder", tmp_path, options={"columns": "a"})


@pytest.mark.parametrize("grouped", [False, True])
def test_imagenet_c_knows_corruption_severity_and_source(tmp_path, grouped):
    sources = fixtures.imagenet_c(tmp_path, grouped, size=(32, 32))
    dataset = read("imagenet_c", tmp_path, options={"preprocess": "native"})
    assert len(dataset) == 15 * 5 * 4 and dataset.preprocess == "native"
    assert set(dataset.metadata["corruption"]) == set(NAMES)
    first = dataset.metadata.iloc[0]
    assert (first["corruption"], first["severity"], first["cluster"]) == ("gaussian_noise", 1, sources[0])
    assert dataset.ids[0] == f"gaussian_noise/1/{sources[0]}"
    cells = dataset.metadata.groupby(["corruption", "severity"], observed=True)["cluster"].apply(list)
    assert all(cell == sources for cell in cells)
    position = dataset.position(f"fog/3/{sources[2]}")
    group = tmp_path / "weather" if grouped else tmp_path
    assert dataset.load(position) == (group / "fog" / "3" / WNIDS[207] / f"{sources[2]}.JPEG").read_bytes()


def test_imagenet_c_reads_the_archives_in_place(tmp_path):
    sources = fixtures.imagenet_c_tars(tmp_path)
    dataset = read("imagenet_c", tmp_path)
    assert len(dataset) == 15 * 5 * 2
    assert dataset.load(1) == fixtures.val_images((0, 207), 1, (32, 32))[1][2]
    # a group that is unpacked too is read from its folders
    fixtures.write(tmp_path / "fog" / "1" / WNIDS[0] / f"{sources[0]}.JPEG", fixtures.image_bytes(0))
    with pytest.raises(InputError, match="fog/1 .* has 1 images, not the same"):
        read("imagenet_c", tmp_path)


def test_imagenet_c_incomplete_or_renamed(tmp_path):
    fixtures.imagenet_c(tmp_path, size=(16, 16))
    victim = next((tmp_path / "snow" / "4").rglob("*.JPEG"))
    content = victim.read_bytes()
    victim.unlink()
    with pytest.raises(InputError, match="snow/4 .* 3 images"):
        read("imagenet_c", tmp_path)
    victim.with_name("ILSVRC2012_val_00049999.JPEG").write_bytes(content)
    with pytest.raises(InputError, match="snow/4 .* not the same ones"):
        read("imagenet_c", tmp_path)
    shutil.rmtree(tmp_path / "snow")
    with pytest.raises(DataMissing, match="snow not found"):
        read("imagenet_c", tmp_path)
    dataset = read("imagenet_c", tmp_path, options={"corruptions": ["fog", "contrast"], "images": 2})
    assert len(dataset) == 2 * 5 * 2
    cells = dataset.metadata.groupby(["corruption", "severity"], observed=True)["cluster"].apply(tuple)
    assert cells.nunique() == 1
    (tmp_path / "fog" / "1").rename(tmp_path / "fog" / "6")
    with pytest.raises(InputError, match="fog/6/.*severity 1 to 5"):
        read("imagenet_c", tmp_path, options={"corruptions": ["fog"]})


def test_hard_has_several_labels(tmp_path):
    fixtures.imagenet_hard(tmp_path)
    dataset = read("imagenet_hard", tmp_path)
    assert dataset.multilabel and [t.tolist() for t in dataset.targets] == [[1, 5], [7], [0, 999]]
    assert [dataset.image(i).mode for i in range(3)] == ["RGB"] * 3
    assert dataset.metadata["origin"].tolist() == ["imagenet_a"] * 3
    fixtures.imagenet_hard(tmp_path / "empty", ((1,), ()))
    with pytest.raises(InputError, match="row 1 .* has no label"):
        read("imagenet_hard", tmp_path / "empty")
    fixtures.imagenet_hard(tmp_path / "range", ((1,), (1000,)))
    with pytest.raises(InputError, match="label 1000 .*outside 0..999"):
        read("imagenet_hard", tmp_path / "range")


# --------------------------------------------------------------------------------------------------- shape and factors


def test_cue_conflict(tmp_path):
    fixtures.cue_conflict(tmp_path)
    dataset = read("cue_conflict", tmp_path)
    row = dataset.metadata.loc["cat/cat1-dog2"]
    assert tuple(row[["shape", "texture", "cluster", "texture_image"]]) == ("cat", "dog", "cat1", "dog2")
    assert dataset.targets[dataset.position("cat/cat1-dog2")].tolist() == cue_categories()["cat"]
    fixtures.write(tmp_path / "cue-conflict" / "dog" / "cat9-dog1.png", fixtures.image_bytes(0, kind="PNG"))
    with pytest.raises(InputError, match="cat9-dog1.png .* lies in folder 'dog' but shows 'cat'"):
        read("cue_conflict", tmp_path)


def test_cue_conflict_real_images(shared_dir):
    dataset = read("cue_conflict", shared_dir / "data" / "cue_conflict")
    assert len(dataset) == 320 and dataset.metadata["shape"].nunique() == 16
    assert dataset.image(0).size == (224, 224)


@pytest.mark.parametrize("form", ["pug_folder", "pug_parquet"])
def test_pug_factors_and_levels(tmp_path, form):
    expected = getattr(fixtures, form)(tmp_path)
    dataset = read("pug_imagenet", tmp_path)
    frame = dataset.metadata
    sizes = dict.fromkeys(fixtures.PUG_LEVELS, 8)
    if form == "pug_parquet":  # whose is a second image with all defaults?
        sizes |= {"object_scale": 4, "object_texture": 4, "camera_yaw": 4, UNTOLD: 12}
    assert len(dataset) == len(expected) == 80 and frame.groupby("factor").size().to_dict() == sizes
    assert set(dataset.ids[frame["factor"] != UNTOLD]) <= expected
    row = frame.loc["object_scale/Shirt/Shirt_A/0.5"]
    assert (row["level_value"], row["cluster"], row["class_name"]) == (0.5, "Shirt_A", "Shirt")
    assert np.isnan(frame.loc["scene_light/Shirt/Shirt_B/Dark", "level_value"])
    position = dataset.position("worlds/Shirt/Shirt_A/Desert")
    assert dataset.targets[position].tolist() == [841, 610]


def test_pug_malformed(tmp_path):
    fixtures.pug_folder(tmp_path / "class")
    (tmp_path / "class" / "class_to_imagenet_idx.json").write_text('{"Airplane": [404]}')
    with pytest.raises(InputError, match="class 'Shirt' .* spellings"):
        read("pug_imagenet", tmp_path / "class")
    (tmp_path / "class" / "class_to_imagenet_idx.json").unlink()
    with pytest.raises(DataMissing, match="class_to_imagenet_idx.json"):
        read("pug_imagenet", tmp_path / "class")
    fixtures.pug_folder(tmp_path / "table")
    table = tmp_path / "table" / "PUG_ImageNet" / "labels_pug_imagenet.csv"
    table.write_text(table.read_text().replace("Worlds/Airplane/000000.png", "Worlds/Airplane/zzz.png"))
    with pytest.raises(InputError, match="Worlds/Airplane/000000.png is not listed"):
        read("pug_imagenet", tmp_path / "table")
    table.unlink()
    with pytest.raises(InputError, match="labels_pug_imagenet.csv not found"):
        read("pug_imagenet", tmp_path / "table")
    fixtures.pug_parquet(tmp_path / "two")
    shard = next((tmp_path / "two" / "data").glob("*.parquet"))
    frame = pq.read_table(shard)
    yaw = frame["camera_yaw"].to_pylist()
    pitch = [30 if value == 45 else other for value, other in zip(yaw, frame["camera_pitch"].to_pylist(), strict=True)]
    column = frame.column_names.index("camera_pitch")
    pq.write_table(frame.set_column(column, "camera_pitch", pa.array(pitch)), shard)
    with pytest.raises(InputError, match="varies camera_pitch and camera_yaw at once"):
        read("pug_imagenet", tmp_path / "two")


# ---------------------------------------------------------------------------------------------------------- probe sets


def test_probe_splits_in_webdataset_form(tmp_path):
    fixtures.clip_benchmark(tmp_path, {"train": [0, 1, 2, 1, 0], "test": [2, 0, 1]}, ["a cat", "", "a dog"])
    dataset = read("splits", tmp_path, options={"n_classes": 3})
    assert dataset.classes is None and len(dataset) == 8
    assert dataset.metadata["split"].tolist() == ["train"] * 5 + ["test"] * 3
    assert dataset.targets.tolist() == [0, 1, 2, 1, 0, 2, 0, 1]
    assert dataset.ids[5] == "test/s0000000" and dataset.image(5).size == (36, 36)
    assert dataset.load(5) != dataset.load(0)


def test_probe_splits_in_parquet_form(tmp_path):
    for order, (split, count) in enumerate({"train": 4, "validation": 2, "test": 3}.items()):
        images = [fixtures.image_bytes(100 * order + i) for i in range(count)]
        path, labels = tmp_path / "data" / f"{split}-00000-of-00001.parquet", [i % 2 for i in range(count)]
        fixtures.write_hub_parquet(path, images, [None] * count, names=["a", "b"], label=labels)
    dataset = read("splits", tmp_path)
    assert dataset.metadata["split"].value_counts().to_dict() == {"train": 4, "test": 3, "validation": 2}
    assert dataset.load(len(dataset) - 1) == fixtures.image_bytes(202)


def test_probe_set_with_one_split_is_refused(tmp_path):
    fixtures.clip_benchmark(tmp_path, {"test": [0, 1, 2]}, ["a", "b", "c"])
    with pytest.raises(InputError, match="no train shards"):
        read("splits", tmp_path)


def test_probe_labels_beyond_the_names(tmp_path):
    fixtures.clip_benchmark(tmp_path, {"train": [0, 3], "test": [0, 1]}, ["a", "b", "c"])
    with pytest.raises(InputError, match="label 3 among the train images .* expected 0..2"):
        read("splits", tmp_path)
    with pytest.raises(InputError, match="names 3 classes, the task has 4"):
        read("splits", tmp_path, options={"n_classes": 4})
    (tmp_path / "train" / "nshards.txt").write_text("3")
    with pytest.raises(InputError, match="2 of 3 shards"):
        read("splits", tmp_path)


# ------------------------------------------------------------------------------------------------------------ archives


def test_damaged_archives_are_named(tmp_path):
    fixtures.clip_benchmark(tmp_path, {"train": [0, 1], "test": [0, 1]}, ["a", "b"], shards=1)
    whole = (tmp_path / "test" / "0.tar").read_bytes()
    (tmp_path / "test" / "0.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="test/0.tar: not a whole"):
        read("splits", tmp_path)
    for members, mode, message in (
        ({"s0.cls": b"one", "s0.webp": b"x"}, "w", "s0.cls holds b'one'"),
        ({"s0.cls": b"1", "s1.cls": b"1", "s1.webp": b"x"}, "w", "sample 's0' has no image"),
        ({"s0.npy": b"1", "s0.webp": b"x"}, "w", "several labels"),
        ({"s0.cls": b"1", "s0.webp": b"x"}, "w:gz", "unpack it if it is compressed"),
    ):
        fixtures.write_tar(tmp_path / "test" / "0.tar", members, mode)
        with pytest.raises(InputError, match=message):
            read("splits", tmp_path)


def test_the_listing_of_an_archive_is_kept_and_follows_it(tmp_path, monkeypatch):
    path = fixtures.write_tar(tmp_path / "a.tar", {"x/1.jpg": b"one", "x/2.cls": b"7"})
    first = files.index_tar(path)
    monkeypatch.setattr(files.tarfile, "open", lambda *_: pytest.fail("listed again"))
    again = files.index_tar(path)
    assert again.names == first.names == ["x/1.jpg", "x/2.cls"]
    assert again.label.tolist() == [files.NO_LABEL, 7] and again.size.tolist() == [3, 1]
    monkeypatch.undo()
    fixtures.write_tar(path, {"y.jpg": b"other"})
    assert files.index_tar(path).names == ["y.jpg"]


def test_parquet_rows_are_streamed(tmp_path):
    images = [fixtures.image_bytes(i, (20, 20)) for i in range(50)]
    path = tmp_path / "train-00000-of-00001.parquet"
    fixtures.write_hub_parquet(path, images, [None] * 50, row_group=40, label=list(range(50)))
    load = tables.read_shards([path], "a_set")[2]
    for position in [0, 1, 17, 39, 40, 49, 3, 3, 48]:
        assert load(position) == images[position]
    with pytest.raises(InputError, match="no column 'image'"):
        pd.DataFrame({"label": [1]}).to_parquet(tmp_path / "x.parquet")
        tables.read_shards([tmp_path / "x.parquet"], "a_set")


# -------------------------------------------------------------------------------------------------- Files as they come


def test_every_suffix_is_read_and_what_is_not_is_counted_and_named(tmp_path, capsys):
    folder, suffixes = tmp_path / WNIDS[0], ["jpg", "JPEG", "JPG", "jfif", "png", "webp", "bmp", "gif", "tif", "TIFF"]
    for k, suffix in enumerate(suffixes):
        kind = {"jfif": "JPEG", "jpg": "JPEG", "tif": "TIFF"}.get(suffix.lower(), suffix.upper())
        fixtures.write(folder / f"{k}.{suffix}", fixtures.image_bytes(k, kind=kind))
    for name in ("a.heic", "b.heic", "c.svg", "README", "list.txt", "._1.jpg"):
        fixtures.write(folder / name, b"x")
    dataset = read("class_folder", tmp_path)
    assert labels(dataset) == {f"{WNIDS[0]}/{k}": 0 for k in range(len(suffixes))}
    assert len({dataset.image(k).size for k in range(len(dataset))}) == 1
    words = f"3 files that are no images by their names (.heic 2, .svg 1; first: {WNIDS[0]}/a.heic)"
    assert dataset.passed == words and f"a_set: passed over {words}" in capsys.readouterr().err
    tar = tmp_path / "packed"
    members = {str(path.relative_to(tmp_path)): path.read_bytes() for path in folder.iterdir()}
    fixtures.write_tar(tar / "set.tar", members)
    packed = read("class_folder", tar)
    assert labels(packed) == labels(dataset) and packed.passed == words
    shutil.rmtree(tar)
    for path in [path for path in folder.iterdir() if path.suffix != ".heic"]:
        path.unlink()
    with pytest.raises(InputError, match="no images in .*, but 2 files that are no images by their names .*; what is"):
        read("class_folder", tmp_path)


def test_two_files_with_one_stem_are_two_images(tmp_path):
    for name in ("image1.jpg", "image1.png", "image2.jpg"):
        fixtures.write(tmp_path / WNIDS[0] / name, fixtures.image_bytes(len(name), kind="PNG"))
    dataset = read("class_folder", tmp_path)
    assert list(dataset.ids) == [f"{WNIDS[0]}/{name}" for name in ("image1.jpg", "image1.png", "image2")]
    image = fixtures.image_bytes(1)
    fixtures.write_tar(tmp_path / "shards" / "0.tar", {"s1.jpg": image, "s1.png": image, "s1.cls": b"0"})
    with pytest.raises(InputError, match="sample 's1' has 2 images"):
        read("class_folder", tmp_path / "shards")


def test_a_table_of_results_beside_the_images_is_no_dataset(tmp_path):
    fixtures.write(tmp_path / WNIDS[3] / "a.jpg", fixtures.image_bytes(1))
    pq.write_table(pa.table({"id": ["a"], "pred": [3]}), tmp_path / "rows.parquet")
    assert labels(read("class_folder", tmp_path)) == {f"{WNIDS[3]}/a": 3}


def test_a_pipe_with_the_name_of_an_archive_does_not_hang(tmp_path):
    fixtures.write(tmp_path / WNIDS[3] / "a.jpg", fixtures.image_bytes(1))
    os.mkfifo(tmp_path / "set.tar")
    with pytest.raises(InputError, match="set.tar: has the name of an archive but is no file; remove it"):
        read("class_folder", tmp_path)
    (tmp_path / "set.tar").unlink()
    (tmp_path / "set.tar").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="set.tar: has the name of an archive but is no file; remove it"):
        read("class_folder", tmp_path)


def test_digits_are_scans_with_their_labels():
    dataset = digits(DatasetSpec("digits", "digits"))
    source = load_digits()
    assert len(dataset) == 1797 and np.array_equal(dataset.targets, source.target)
    assert dataset.classes is None and len(set(dataset.ids)) == 1797
    image = dataset.image(5)
    assert image.size == (64, 64) and image.mode == "RGB"
    shrunk = np.asarray(image.convert("L").resize((8, 8), 4), float)  # box filter
    assert np.corrcoef(shrunk.ravel(), -source.images[5].ravel())[0, 1] > 0.97  # dark ink
    assert digits(DatasetSpec("digits", "digits")).fingerprint == dataset.fingerprint
