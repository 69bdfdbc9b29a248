"""One's own images, read as people have them."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.readers import own
from beyond_accuracy.dimensions import own as page_own
from own_images import UGLY, noise, read, toys  # noqa: E402 - the folder of tests is on no import path

pytestmark = pytest.mark.usefixtures("apart")


def test_class_folders_and_what_systems_drop_there(tmp_path):
    for i, name in enumerate(["cat/a.jpg", "cat/deep/b.JPEG", "dög/ü c.png"]):
        noise(tmp_path / "pets" / name, i)
    for name in (".DS_Store", "cat/._a.jpg", "cat/Thumbs.db", "__MACOSX/cat/a.jpg", "cat/notes.txt"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(b"x")
    data = read(tmp_path / "pets")
    assert data.ids.tolist() == ["cat/a.jpg", "cat/deep/b.JPEG", "dög/ü c.png"]
    assert data.classes.ids == ("cat", "dög") and data.targets.tolist() == [0, 0, 1]
    passed = data.metadata.attrs["passed"]
    assert passed["no image by its name: *.txt"] == 1 and passed["left by the system: ._*"] == 1
    assert sum(passed.values()) == 5


def test_splits_above_the_classes(tmp_path):
    for i, name in enumerate(["train/a/1.png", "train/b/1.png", "valid/a/2.png", "test/a/3.png", "test/b/3.png"]):
        noise(tmp_path / name, i)
    assert read(tmp_path, split="test").ids.tolist() == ["test/a/3.png", "test/b/3.png"]
    assert read(tmp_path, split="fit").metadata["split"].tolist() == ["train", "val", "train"]
    assert read(tmp_path).classes.ids == ("a", "b")
    with pytest.raises(InputError, match="options.split"):
        read(tmp_path, split="all")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_hub_s_image_folder(tmp_path, suffix):
    frame = pd.DataFrame({"file_name": ["x/1.png", "2.png", "3.png"], "label": ["b", "a", "b"], "site": [1, 2, 2]})
    for i, name in enumerate(frame["file_name"]):
        noise(tmp_path / "train" / name, i)
    table = tmp_path / "train" / f"metadata.{suffix}"
    frame.to_csv(table, index=False) if suffix == "csv" else frame.to_json(table, orient="records", lines=True)
    data = read(tmp_path)
    assert data.ids.tolist() == ["train/2.png", "train/3.png", "train/x/1.png"] and data.targets.tolist() == [0, 1, 1]
    assert data.metadata["split"].tolist() == ["train"] * 3 and data.metadata["site"].tolist() == [2, 2, 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_paths(tmp_path, suffix):
    frame = pd.DataFrame({"path": ["1.png", "2.png", "3.png", "4.png"], "label": ["b", "a", "", "a"]})
    frame = frame.assign(split=["train", "test", "test", "Test"], group=["p", "p", "q", "r"], dose=[1.5, 2, 3, 4])
    for i, name in enumerate(frame["path"]):
        noise(tmp_path / name, i)
    path = tmp_path / f"table.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    data = read(path)
    assert data.ids.tolist() == ["2.png", "4.png", "1.png"] and data.metadata["dose"].tolist() == [2, 4, 1.5]
    assert data.metadata["unit"].iloc[0] == data.metadata["unit"].iloc[2] != data.metadata["unit"].iloc[1]
    assert data.metadata.attrs["passed"] == {f"no label in table.{suffix}": 1}


def test_bad_data_gets_one_message(tmp_path):
    noise(tmp_path / "one" / "a" / "1.png")
    with pytest.raises(InputError, match="of one class, 'a'"):
        read(tmp_path / "one")
    noise(tmp_path / "loose" / "1.png")
    with pytest.raises(InputError, match="lies in no class folder"):
        read(tmp_path / "loose")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no images found"):
        read(tmp_path / "none")
    (tmp_path / "t.csv").write_text("path,label\nnowhere.png,a\n")
    with pytest.raises(InputError, match="nowhere.png is listed but cannot be read"):
        read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("picture,kind\nnowhere.png,a\n")
    with pytest.raises(InputError, match="has no column path"):
        read(tmp_path / "t.csv")
    with pytest.raises(DataMissing):
        read(tmp_path / "absent")


def test_odd_files_are_read_as_a_viewer_shows_them(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    half = Image.new("RGB", (40, 20), "red")
    half.paste("blue", (20, 0, 40, 20))
    for folder in (a, b):
        folder.mkdir()
    half.convert("CMYK").save(a / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown upright it is higher than wide, red above blue
    half.save(a / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((20, 40), 40_000, np.uint16)).save(a / "deep.png")
    half.convert("P").save(b / "palette.png")
    half.save(b / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 20), "lime")])
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(b / "clear.png")
    (b / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    data = read(tmp_path)
    pictures = {name: data.image(i) for i, name in enumerate(data.ids)}
    assert all(image.mode == "RGB" for image in pictures.values()) and len(data) == 6
    assert pictures["a/turned.jpg"].size == (20, 40)
    top, low = (pictures["a/turned.jpg"].getpixel((10, y)) for y in (5, 35))
    assert top[0] > 200 > low[0] and low[2] > 200 > top[2]
    assert abs(pictures["a/deep.png"].getpixel((5, 5))[0] - 156) <= 1
    assert pictures["b/clear.png"].getpixel((5, 5)) == (255, 255, 255)
    for name in ("a/cmyk.jpg", "b/palette.png", "b/moving.gif"):
        left, right = pictures[name].getpixel((5, 10)), pictures[name].getpixel((35, 10))
        assert left[0] > 180 > right[0] and right[2] > 120 > left[2], name
    odd = data.metadata.attrs["odd"]
    assert set(odd) >= {"CMYK", "rotated by EXIF", "16 bits or more", "palette", "transparent, on white"}
    assert [n for n in data.metadata.attrs["passed"] if "broken.jpg" in n]
    assert data.metadata.loc["a/turned.jpg", "aspect_ratio"] == 0.5


def test_copies_are_found_across_splits_and_stay_together(tmp_path):
    table = toys(tmp_path / "toys", 20, 3)
    for split, rows in table.groupby(np.where(np.arange(len(table)) % 4, "train", "test")):
        for name in rows["path"]:
            target = tmp_path / "given" / split / name.removeprefix("toys/")
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).rename(target)
    planted = sorted((tmp_path / "given" / "train" / UGLY[0]).iterdir())[:4]
    for i, path in enumerate(planted):
        image = Image.open(path)
        side = image.size[0] * (2 if i % 2 else 1)
        image.resize((side, side)).save(tmp_path / "given" / "test" / UGLY[0] / f"copy {i}.jpg", quality=60)
    test = read(tmp_path / "given", split="test").metadata
    found = test[test["near"] != ""]
    assert set(found.index) == {f"test/{UGLY[0]}/copy {i}.jpg" for i in range(4)}
    assert set(found["near_split"]) == {"train"}
    everything = read(tmp_path / "given").metadata
    for name, row in found.iterrows():
        assert everything.loc[name, "unit"] == everything.loc[row["near"], "unit"]
    shown = page_own.repeats(test, ["x"] * len(test))
    assert len(shown) == 4 and set(shown["what"]) == {"across splits"}


def test_what_repeats_is_found_in_little_memory_however_much_repeats():
    prints = np.random.default_rng(0).integers(0, 255, (3000, own.SIDE**2 * 3), np.uint8)
    prints[2999], prints[10:1500] = prints[5], prints[7]
    labels, splits = np.zeros(3000, int), np.zeros(3000, int)
    labels[1400], splits[20] = 1, 1
    tracemalloc.start()
    near, unit = own.units(prints, labels, splits)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    assert near[2999] == 5 and near[5] == 2999 and unit[5] == unit[2999] != unit[7]
    alike = np.r_[7, 10:1500]
    assert len(set(unit[alike])) == 1 and len(set(unit)) == 3000 - 1 - 1490
    # the one in another split is named, else the one of another label
    assert (near[np.setdiff1d(alike, 20)] == 20).all() and splits[near[20]] == 0
    near, _ = own.units(prints, labels, 0 * splits)
    assert (near[np.setdiff1d(alike, 1400)] == 1400).all() and near[4] == -1


def test_pairs_that_are_named_belong_together(tmp_path):
    toys(tmp_path / "toys", 5, 3)
    ids = read(tmp_path / "toys").ids
    pairs = pd.DataFrame({"image": [ids[3], ids[7], "gone.jpg"], "repeats": [ids[0], ids[3], ids[1]]})
    pairs.to_csv(tmp_path / "alike.csv", index=False)
    about = read(tmp_path / "toys", alike=str(tmp_path / "alike.csv")).metadata
    assert about["unit"].nunique() == 13 and about.loc[[ids[0], ids[3], ids[7]], "unit"].nunique() == 1
    assert about["near"][about["near"] != ""].to_dict() == {ids[0]: ids[3], ids[3]: ids[0], ids[7]: ids[3]}
    assert set(page_own.repeats(about, list(about.index))["found by"]) == {"features"}
    pairs.rename(columns={"repeats": "copy"}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match="columns image and repeats"):
        read(tmp_path / "toys", alike=str(tmp_path / "other.csv"))


def test_groups_and_repeats_together_make_units():
    prints = np.random.default_rng(0).integers(0, 255, (6, own.SIDE**2 * 3), np.uint8)
    prints[4] = prints[1]  # of another group: the groups a and b become one unit
    groups = pd.Series(["a", "a", "b", None, "b", None])
    unit = own.units(prints, np.zeros(6), np.zeros(6), groups)[1]
    assert unit[0] == unit[1] == unit[2] == unit[4] and len({unit[0], unit[3], unit[5]}) == 3
