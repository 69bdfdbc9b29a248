"""Readers on tiny data in the official layouts, one malformed variant each."""

import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import DatasetSpec, load_profile
from beyond_accuracy.check import NOTE, check_dataset
from beyond_accuracy.data.classes import imagenet_subset, imagenet_wnids
from beyond_accuracy.data.corruptions import NAMES
from beyond_accuracy.data.published import cue_categories
from beyond_accuracy.data.readers import READERS, files
from beyond_accuracy.data.readers.family import digits
from beyond_accuracy.data.readers.stimuli import UNTOLD

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
def test_validation_set_is_the_same_in_every_form_and_process(tmp_path, form):
    expected = getattr(fixtures, form)(tmp_path / "val_set")
    dataset = read("imagenet", tmp_path / "val_set")
    assert labels(dataset) == expected and len(dataset) == 10
    originals = {name: content for name, _, content in fixtures.val_images()}
    for position in (0, 9, 4, 5, 1):  # out of order too
        assert dataset.load(position) == originals[dataset.ids[position]]
        assert dataset.image(position).size == (48, 40)
    # the parent has read already: workers must not share its open files
    assert pickle.loads(pickle.dumps(dataset.load))(3) == dataset.load(3)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(dataset.load, range(10)) == [originals[name] for name in dataset.ids]


@pytest.mark.parametrize("top", ["", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"])
def test_a_val_folder_beside_train_is_taken(tmp_path, top):
    fixtures.imagenet_folder(tmp_path / top / "train", fixtures.val_images((3,), 5))
    fixtures.write(tmp_path / top / "test" / "ILSVRC2012_test_00000001.JPEG", fixtures.image_bytes(0))
    expected = fixtures.imagenet_folder(tmp_path / top / "val")
    assert labels(read("imagenet", tmp_path)) == labels(read("class_folder", tmp_path)) == expected


# The first validation images with their classes as ILSVRC's devkit and Caffe's val.txt tell them.
VAL = {f"ILSVRC2012_val_0000000{k}": label for k, label in enumerate((65, 970, 230, 809, 516), 1)}
DROPPINGS = ("README.txt", ".DS_Store", "._ILSVRC2012_val_00000001.JPEG", "__MACOSX/._a.JPEG", "Thumbs.db")


def test_the_flat_archive_takes_labels_from_imagenet_x(tmp_path):
    pytest.importorskip("imagenet_x")
    members = {f"{name}.JPEG": fixtures.image_bytes(label) for name, label in VAL.items()}
    for name, content in (members | dict.fromkeys(DROPPINGS, b"no picture")).items():
        fixtures.write(tmp_path / "flat" / name, content)
    fixtures.write_tar(tmp_path / "packed" / "ILSVRC2012_img_val.tar", members)
    for form in ("flat", "packed"):
        dataset = read("imagenet", tmp_path / form)
        assert labels(dataset) == VAL
        assert [dataset.load(i) for i in range(5)] == [fixtures.image_bytes(label) for label in dataset.targets]
    spec = DatasetSpec("imagenet_1k", "imagenet", path=str(tmp_path / "flat"))
    notes = [found.text for found in check_dataset(spec, load_profile("paper")) if found.status == NOTE]
    assert any("passed over" in text and "Thumbs.db" in text for text in notes)
    fixtures.write(tmp_path / "flat" / "ILSVRC2012_val_00050001.JPEG", b"x")
    with pytest.raises(InputError, match="ILSVRC2012_val_00050001.* not one of the 50,000"):
        read("imagenet", tmp_path / "flat")


def write_image(root, name):
    return fixtures.write(root / name, fixtures.image_bytes(1))


def folders_by_rank(root):
    for rank in range(2):
        write_image(root, f"{rank}/ILSVRC2012_val_{rank:08d}.JPEG")


def one_wrong_label(root):
    fixtures.imagenet_parquet(root)
    shard = sorted((root / "data").glob("validation-*"))[0]
    table = pq.read_table(shard)
    pq.write_table(table.set_column(1, "label", pa.array([0] * table.num_rows)), shard)


def label_of_the_test_split(root):
    path, name = root / "test-00000-of-00001.parquet", "ILSVRC2012_val_00000001.JPEG"
    fixtures.write_hub_parquet(path, [fixtures.image_bytes(0)], [name], label=[-1])


def a_class_outside_the_scored_ones(root):
    fixtures.imagenet_subset_folder(root, "a")
    write_image(root, f"imagenet-a/{WNIDS[0]}/1.jpg")


def several_variants_of_v2(root):
    for name in ("threshold0.7", "top-images"):
        write_image(root, f"imagenetv2-{name}-format-val/7/a.jpeg")


MALFORMED = [
    ("imagenet", folders_by_rank, "'0' .* not a class id .*rank in some sorted list"),
    ("imagenet", lambda root: write_image(root, "n99999999/ILSVRC2012_val_00000001.JPEG"), "folder 'n99999999'"),
    ("imagenet", lambda root: root.mkdir(), "no images, .tar or .parquet files"),
    ("imagenet", lambda root: fixtures.write(root / "val.tar.gz", b"x"), r"val\.tar\.gz but no images; unpack"),
    ("imagenet", one_wrong_label, "its name says n01443537"),
    ("imagenet", lambda root: fixtures.imagenet_parquet(root, first_name="kit fox"), "'kit fox', expected 'tench'"),
    ("imagenet", label_of_the_test_split, "label -1 .* not published"),
    ("imagenet_v2", lambda root: fixtures.imagenet_v2(root, classes=(3, 1000)), "'1000' .* not a class number"),
    ("imagenet_v2", several_variants_of_v2, "imagenetv2-threshold0.7-format-val, .*: give the folder of one"),
    ("class_folder", a_class_outside_the_scored_ones, "n01440764.* not one of the 200"),
    ("imagenet_hard", lambda root: fixtures.imagenet_hard(root, ((1,), ())), "row 1 .* has no label"),
    ("imagenet_hard", lambda root: fixtures.imagenet_hard(root, ((1,), (1000,))), "label 1000 .*outside 0..999"),
    ("splits", lambda root: fixtures.clip_benchmark(root, {"test": [0, 1]}, ["a", "b"]), "no train shards"),
]


@pytest.mark.parametrize(("reader", "build", "message"), MALFORMED)
def test_what_is_refused(tmp_path, reader, build, message):
    build(tmp_path / "set")
    with pytest.raises(InputError, match=message):
        read(reader, tmp_path / "set", options={"columns": "a"} if reader == "class_folder" else {})
    with pytest.raises(DataMissing, match="fetch --only a_set"):
        read(reader, tmp_path / "nowhere")


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


# --------------------------------------------------------------------------------------- V2, A, R, Sketch, C and Hard


@pytest.mark.parametrize("padding", [0, 4])
def test_v2_labels_are_the_folders_numbers(tmp_path, padding):
    expected = fixtures.imagenet_v2(tmp_path, padding)
    dataset = read("imagenet_v2", tmp_path)
    assert labels(dataset) == expected
    # sorted as text the folders are 0, 1, 10, 100, 2, 207: torchvision's ImageFolder would label "2" as 4
    assert labels(dataset)["2/00002abcdef"] == 2
    for name in ("threshold0.7", "top-images"):  # its other variants beside it
        write_image(tmp_path, f"imagenetv2-{name}-format-val/7/{name}.jpeg")
    assert labels(read("imagenet_v2", tmp_path)) == expected
    folder = (tmp_path / "imagenetv2-matched-frequency-format-val").rename(tmp_path / "ImageNetV2-matched-frequency")
    assert labels(read("imagenet_v2", folder)) == labels(read("imagenet_v2", tmp_path)) == expected


@pytest.mark.parametrize("which", ["a", "r"])
@pytest.mark.parametrize("form", ["imagenet_subset_folder", "imagenet_subset_tar"])
def test_a_and_r_are_scored_on_their_classes(tmp_path, which, form):
    expected = getattr(fixtures, form)(tmp_path, which)
    dataset = read("class_folder", tmp_path, options={"columns": which})
    assert labels(dataset) == expected
    assert np.array_equal(dataset.columns, imagenet_subset(which))
    assert dataset.image(0).size == (48, 40)


@pytest.mark.parametrize("variant", [{}, {"names": False}, {"names": False, "whole": True}, "r"])
def test_mirrors_say_ids_ranks_indices_or_wnids(tmp_path, variant):
    which = "r" if variant == "r" else "a"
    mirrored = (
        fixtures.imagenet_r_parquet(tmp_path) if which == "r" else fixtures.imagenet_a_parquet(tmp_path, **variant)
    )
    expected = fixtures.imagenet_subset_folder(tmp_path / "folder", which)  # the same ids as in the official form
    assert labels(read("class_folder", tmp_path, options={"columns": which})) == mirrored == expected


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
    (tmp_path / "noise.tar").rename(tmp_path / "noise")
    with pytest.raises(DataMissing, match=r"gaussian_noise, .* or name those you have with `options: {corruptions"):
        read("imagenet_c", tmp_path)
    assert len(read("imagenet_c", tmp_path, options={"corruptions": ["fog", "snow"]})) == 2 * 5 * 2
    (tmp_path / "noise").rename(tmp_path / "noise.tar")
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
    table = pq.read_table(shard)
    pitch = pc.if_else(pc.equal(table["camera_yaw"], 45), 30, table["camera_pitch"])
    pq.write_table(table.set_column(table.column_names.index("camera_pitch"), "camera_pitch", pitch), shard)
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
    for kept in (tmp_path / "cache" / "tar-index").iterdir():
        kept.write_bytes(kept.read_bytes()[:90])
    assert files.index_tar(path).names == ["y.jpg"]


def test_parquet_rows_are_streamed(tmp_path):
    images = [fixtures.image_bytes(i, (20, 20)) for i in range(50)]
    path = tmp_path / "train-00000-of-00001.parquet"
    fixtures.write_hub_parquet(path, images, [None] * 50, row_group=40, label=list(range(50)))
    load = files.read_shards([path], "a_set")[2]
    for position in [0, 1, 17, 39, 40, 49, 3, 3, 48]:
        assert load(position) == images[position]
    with pytest.raises(InputError, match="no column 'image'"):
        pd.DataFrame({"label": [1]}).to_parquet(tmp_path / "x.parquet")
        files.read_shards([tmp_path / "x.parquet"], "a_set")


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


def test_what_systems_leave_is_no_class_and_a_class_may_be_a_link(tmp_path):
    image = fixtures.image_bytes(1)
    for name in (".ipynb_checkpoints/x.jpg", f"{WNIDS[0]}/.ipynb_checkpoints/a.jpg", f"__MACOSX/{WNIDS[0]}/._a.jpg"):
        fixtures.write(tmp_path / "set" / name, image)
    for name in (f"{WNIDS[0]}/a.jpg", f"{WNIDS[0]}/Thumbs.db", f"../{WNIDS[7]}/b.jpg"):
        fixtures.write(tmp_path / "set" / name, image)
    (tmp_path / "set" / WNIDS[7]).symlink_to(tmp_path / WNIDS[7])
    assert labels(read("class_folder", tmp_path / "set")) == {f"{WNIDS[0]}/a": 0, f"{WNIDS[7]}/b": 7}


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
