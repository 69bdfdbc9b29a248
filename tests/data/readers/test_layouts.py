"""The layouts that people have, written here from the releases' own documentation and without any code of the readers.

Every picture holds its own class index in its pixels, so that an image and its label can be told to belong together.
"""

import io
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beyond_accuracy.base.errors import DataMissing
from beyond_accuracy.base.profile import DatasetSpec, load_profile
from beyond_accuracy.check import NOTE, WRONG, check_dataset
from beyond_accuracy.data.dataset import BadImage
from beyond_accuracy.data.readers import load_dataset

# The first validation images with their classes as ILSVRC's devkit and Caffe's val.txt tell them.
VAL = {1: (65, "n01751748"), 2: (970, "n09193705"), 3: (230, "n02105855"), 4: (809, "n04263257"), 5: (516, "n03125729")}
SKETCH = {"n01440764": 0, "n01751748": 65, "n02105855": 230}
DROPPINGS = ("README.txt", ".DS_Store", "._ILSVRC2012_val_00000001.JPEG", "__MACOSX/._a.JPEG", "Thumbs.db")


def picture(label):
    """A picture of one colour that says its label; PNG, whose pixels arrive as they are, under any name."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), (label // 256, label % 256, 77)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def packed(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path.parent


def parquet(path, rows):
    """As the hub keeps images: bytes and the original name in one column, the label in another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": name.rsplit("/", 1)[-1]} for name, content, _ in rows]
    pq.write_table(pa.table({"image": images, "label": [label for *_, label in rows]}), path)
    return path.parents[1]


def webdataset(path, rows):
    files = {}
    for name, content, label in rows:
        stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        files |= {f"{stem}.jpg": content, f"{stem}.cls": str(label).encode(), f"{stem}.json": b"{}"}
    return packed(path, files)


def said(data):
    """Id -> label, of which every image must be a picture."""
    for position, label in enumerate(data.targets):
        pixels = np.asarray(data.image(position))
        assert {tuple(row) for row in pixels.reshape(-1, 3)} == {(label // 256, label % 256, 77)}, data.ids[position]
    return dict(zip(data.ids, data.targets, strict=True))


def read(reader, path, **more):
    return load_dataset(DatasetSpec("layout", reader, str(path), classes="imagenet_1k", **more))


def validation(form, root):
    names = {f"ILSVRC2012_val_{k:08d}.JPEG": (picture(label), label, wnid) for k, (label, wnid) in VAL.items()}
    flat = {name: content for name, (content, *_) in names.items()}
    by_wnid = {f"{wnid}/{name}": content for name, (content, _, wnid) in names.items()}
    rows = [(name, content, label) for name, (content, label, _) in names.items()]
    if "flat" in form or "packed" in form:
        pytest.importorskip("imagenet_x", reason="labels of nameless folders are an optional extra")
    return {
        "flat folder": lambda: folder(root, flat | dict.fromkeys(DROPPINGS, b"no picture")),
        "packed": lambda: packed(root / "ILSVRC2012_img_val.tar", flat),
        "wnid folders": lambda: folder(root, by_wnid | dict.fromkeys(DROPPINGS, b"no picture")),
        "val below": lambda: folder(root, {f"val/{name}": content for name, content in by_wnid.items()}),
        "parquet": lambda: parquet(root / "data" / "validation-00000-of-00001.parquet", rows),
        "webdataset": lambda: webdataset(root / "imagenet1k-validation-00.tar", rows),
    }[form]()


@pytest.mark.parametrize("form", ["flat folder", "packed", "wnid folders", "val below", "parquet", "webdataset"])
def test_the_validation_set(tmp_path, form):
    data = read("imagenet", validation(form, tmp_path / "val_set"))
    assert said(data) == {f"ILSVRC2012_val_{k:08d}": label for k, (label, _) in VAL.items()}


@pytest.mark.parametrize("form", ["folder", "below a folder", "tar"])
def test_sets_of_class_folders_have_one_kind_of_id(tmp_path, form):
    files = {f"{wnid}/sketch_{k}.JPEG": picture(label) for wnid, label in SKETCH.items() for k in range(2)}
    root = tmp_path / "sketch_set"
    if form == "tar":
        packed(root / "imagenet-sketch.tar", {f"sketch/{name}": content for name, content in files.items()})
    else:
        folder(root / "sketch" if "below" in form else root, files | {"README.txt": b"", ".DS_Store": b""})
    expected = {f"{wnid}/sketch_{k}": label for wnid, label in SKETCH.items() for k in range(2)}
    assert said(read("class_folder", root)) == expected


@pytest.mark.parametrize("top", ["", "imagenetv2-matched-frequency-format-val", "ImageNetV2-matched-frequency"])
@pytest.mark.parametrize("width", [0, 4])
def test_v2_under_its_names(tmp_path, top, width):
    files = {f"{label:0{width}d}/{'ab' * 8}{k}.jpeg": picture(label) for label in (0, 9, 10, 970) for k in range(2)}
    root = tmp_path / "v2_set"
    folder(root / top if top else root, files)
    found = said(read("imagenet_v2", root))
    assert sorted(found.values()) == [0, 0, 9, 9, 10, 10, 970, 970]


@pytest.mark.parametrize("form", ["plain", "nested", "packed"])
def test_some_corruptions_of_c(tmp_path, form):
    files = {
        f"{name}/{level}/{wnid}/ILSVRC2012_val_{k:08d}.JPEG": picture(label)
        for name in ("fog", "snow")
        for level in range(1, 6)
        for k, (label, wnid) in VAL.items()
    }
    root = tmp_path / "c_set"
    if form == "packed":
        packed(root / "weather.tar", files)
    else:
        folder(root / "weather" if form == "nested" else root, files)
    with pytest.raises(DataMissing, match=r"gaussian_noise, .* or name those you have with `options: {corruptions"):
        read("imagenet_c", root)
    data = read("imagenet_c", root, options={"corruptions": ["fog", "snow"]})
    expected = {name.replace(f"/{wnid}/", "/").removesuffix(".JPEG") for name in files for wnid in [name.split("/")[2]]}
    assert set(said(data)) == expected
    about = data.metadata.groupby(["corruption", "severity"]).size()
    assert len(about) == 10 and (about == len(VAL)).all()


def test_a_folder_half_copied_is_called_so(tmp_path):
    root = validation("wnid folders", tmp_path / "half")
    cut = root / VAL[5][1] / "ILSVRC2012_val_00000005.JPEG"
    cut.write_bytes(cut.read_bytes()[:60])
    spec = DatasetSpec("layout", "imagenet", str(root), classes="imagenet_1k", expected=50_000)
    findings = {finding.text: finding.status for finding in check_dataset(spec, load_profile("paper"))}
    wrong = [text for text, status in findings.items() if status == WRONG]
    assert any("5 images, the full set has 50,000" in text for text in wrong), findings
    few = check_dataset(replace(spec, expected=0), load_profile("paper"))
    assert any(f.status == WRONG and "'ILSVRC2012_val_00000005'" in f.text and "decoded" in f.text for f in few)
    data = read("imagenet", root)
    with pytest.raises(BadImage, match="00000005"):
        data.image(data.position("ILSVRC2012_val_00000005"))
    assert any(f.status == NOTE and "passed over" in f.text and "Thumbs.db" in f.text for f in few)
