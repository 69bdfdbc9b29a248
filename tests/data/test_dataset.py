"""Datasets: what identifies one, how images are decoded, and what is refused."""

import io
import pickle
import re
import struct
import zlib
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data import readers
from beyond_accuracy.data.dataset import BadImage, build_dataset
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.data.readers.files import pack, read_file


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(value=90, size=(8, 6)):
    return Image.new("RGB", size, (value, 20, 30))


def build(ids=("a", "b", "c"), targets=(0, 1, 2), blobs=None, classes="", content="x", **more):
    spec = DatasetSpec("set", "parquet", classes=classes, **more.pop("spec", {}))
    blobs = [encoded(plain(k)) for k in range(len(ids))] if blobs is None else blobs
    return build_dataset(spec, list(ids), targets, blobs.__getitem__, content=content, source="here", **more)


def test_a_dataset():
    frame = pd.DataFrame({"yaw": [1.0, 2.0, 3.0]})
    data = build(targets=[0, 1, 0], metadata=frame, spec={"title": "Set", "options": {"preprocess": "native"}})
    assert len(data) == 3 and not data.multilabel and data.classes is None and data.title == "Set"
    assert data.metadata.loc["b", "yaw"] == 2.0 and data.position("c") == 2 and data.preprocess == "native"
    assert data.targets.dtype == np.int64 and data.image(1).getpixel((0, 0)) == (1, 20, 30)
    with pytest.raises(InputError, match="no image with id 'd'"):
        data.position("d")


def test_the_fingerprint_sees_content_ids_labels_order_and_columns():
    base = build()
    variants = [
        build(content="y"),
        build(ids=("a", "b", "d")),
        build(targets=(0, 1, 1)),
        build(ids=("b", "a", "c"), targets=(1, 0, 2)),
        build(targets=[[0], [1], [2]]),
        build(targets=[[0], [1, 2], []]),
        build(columns=np.array([0, 1, 2])),
        build(columns=np.array([0, 1, 2, 5])),
        base.take(np.array([0, 1])),
        base.take(np.array([2, 1, 0])),
    ]
    prints = [base.fingerprint, *(data.fingerprint for data in variants)]
    assert len(set(prints)) == len(prints)
    same = build(metadata=pd.DataFrame({"m": [1, 2, 3]}), spec={"title": "Other", "licence": "x", "limit": 9})
    assert same.fingerprint == base.fingerprint


def test_take_and_limit():
    data = build([f"i{k:02d}" for k in range(20)], list(range(20)))
    cut = data.limit(5)
    assert cut.ids.tolist() == ["i00", "i05", "i10", "i14", "i19"]  # round(linspace(0, 19, 5)): evenly spaced
    assert cut.targets.tolist() == [0, 5, 10, 14, 19] and cut.metadata.index.tolist() == cut.ids.tolist()
    assert cut.image(3).getpixel((0, 0))[0] == 14
    assert data.limit(0) is data and data.limit(20) is data and data.limit(99) is data
    assert data.limit(1).ids.tolist() == ["i00"] and data.limit(19).ids[-1] == "i19"
    again = cut.take(np.array([4, 0]))
    assert again.ids.tolist() == ["i19", "i00"] and again.image(0).getpixel((0, 0))[0] == 19
    copied = pickle.loads(pickle.dumps(cut))  # as a worker process gets it
    assert copied.image(2).getpixel((0, 0))[0] == 10
    multi = build(targets=[[0], [1, 2], []]).take(np.array([1, 2]))
    assert multi.multilabel and [t.tolist() for t in multi.targets] == [[1, 2], []]
    data = build([f"{k:03d}" for k in range(120)], np.repeat(np.arange(12), 10))
    assert np.bincount(data.limit(36).targets).tolist() == [3] * 12  # classes stay balanced


NOISY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
JPEG, PNG, WEBP = (encoded(NOISY, kind) for kind in ("JPEG", "PNG", "WEBP"))
BAD = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "truncated jpeg": JPEG[: len(JPEG) // 2],
    "truncated png": PNG[: len(PNG) // 2],
    "truncated webp": WEBP[: len(WEBP) // 2],
    "header only": JPEG[:40],
    "flipped": PNG[:60] + bytes(b ^ 0xFF for b in PNG[60:90]) + PNG[90:],
    "bomb": PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:],  # the header of a decompression bomb
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_images_are_named(kind):
    data = build(blobs=[encoded(plain()), BAD[kind], encoded(plain())])
    with pytest.raises(BadImage, match=r"set: image 'b' in here cannot be decoded \(.*--skip-bad"):
        data.image(1)
    assert data.image(2).size == (8, 6)


def test_where_nothing_is_wrong_with_the_image_it_is_no_bad_one(tmp_path, monkeypatch):
    """`--skip-bad` would leave out good images for good."""
    files = partial(read_file, str(tmp_path), pack(["gone.png", "."]))
    data = build_dataset(DatasetSpec("set", "x", classes=""), ["g", "f"], [0, 0], files, content="", source="here")
    reasons = ["cannot be read (No such file", "cannot be read (Is a directory"]
    reasons += ["cannot be decoded: memory ran out; set `settings: {workers: 1}`"]

    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", none_left)
    images = [partial(data.image, 0), partial(data.image, 1), partial(build().image, 0)]
    for image, reason in zip(images, reasons, strict=True):
        with pytest.raises(InputError, match=re.escape(reason)) as raised:
            image()
        assert not isinstance(raised.value, BadImage)


def test_labels_without_images():
    data = build_dataset(DatasetSpec("set", "x", classes=""), ["a"], [0], None, content="", source="here")
    with pytest.raises(DataMissing, match="only labels"):
        data.image(0)
    assert data.limit(1).load is None and data.take(np.array([0])).load is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": (), "targets": ()}, "no images found in here"),
        ({"ids": ("a", "b", "a")}, "id 'a' occurs more than once"),
        ({"targets": (0, 1)}, "3 images but 2 labels"),
        ({"ids": ("a", 7, "c")}, "7 in here: an id must be text"),
        ({"ids": ("a", "b\udcff", "c")}, "an id must be text in valid UTF-8"),
        ({"targets": (0, 1.5, 2)}, "a label in here is not a whole number"),
        ({"targets": (0, None, 2)}, "a label in here is not a whole number"),
        ({"targets": (0.0, float("nan"), 2.0)}, "a label in here is not a whole number"),
        ({"targets": ("0", "1", "2")}, "a label in here is not a whole number"),
        ({"targets": [[0], ["x"], [2]]}, "a label in here is not a whole number"),
        ({"targets": (0, 1, 1000), "classes": "imagenet_1k"}, "label 1000 of 'c' in here is outside 0..999"),
        ({"targets": (0, -1, 5), "classes": "imagenet_1k"}, "label -1 of 'b' in here is outside 0..999"),
        ({"targets": [[0], [3, 1000], [2]], "classes": "imagenet_1k"}, "label 1000 of 'b' in here is outside"),
        (
            {"targets": (0, 1, 2), "classes": "imagenet_1k", "columns": np.array([0, 2, 7])},
            "label 1 of 'b' in here is not one of the 3 classes",
        ),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(InputError) as raised:
        build(**change)
    assert message in str(raised.value) and str(raised.value).startswith("set: ")


def test_labels_outside_the_scored_columns_are_fine_where_images_have_several():
    data = build(targets=[[0, 1], [1], []], classes="imagenet_1k", columns=np.array([0, 2]))
    assert data.multilabel and data.columns.tolist() == [0, 2]
    assert build(targets=np.array([0.0, 1.0, 2.0])).targets.tolist() == [0, 1, 2]  # whole numbers as floats


# Readers through the front door ---------------------------------------------------------------------------------------


def spec_for(toy, path=None, **more):
    return DatasetSpec("images", "class_folder", str(path or toy.data / "images"), str(toy.classes), **more)


def test_a_dataset_is_read_once_and_limited(toy):
    with pytest.raises(InputError, match="images: unknown reader 'class_foldr'; did you mean class_folder"):
        load_dataset(DatasetSpec("images", "class_foldr", "x"))
    toy.images(4)
    first = load_dataset(spec_for(toy))
    assert load_dataset(spec_for(toy)) is first
    cut = load_dataset(spec_for(toy, limit=3))
    assert len(cut) == 3 and np.bincount(cut.targets).tolist() == [1, 1, 1]
    for k in range(readers.MAX_LOADED + 2):
        load_dataset(spec_for(toy, title=str(k)))
    assert len(readers.LOADED) == readers.MAX_LOADED


def test_odd_file_names(toy):
    folder = toy.images(1)
    names = ["quote'\"s", "<b>&amp;", "größe 日本 😀", "a.b.c", "-n", "%20 #;", "new\nline"]
    for name in names:
        (folder / "red" / f"{name}.PNG").write_bytes(encoded(plain(200)))
    data = load_dataset(spec_for(toy))
    for name in names:
        assert data.image(data.position(f"red/{name}")).getpixel((0, 0))[0] == 200
    with open(bytes(folder / "red") + b"/bad\xff.png", "wb") as handle:
        handle.write(encoded(plain()))
    with pytest.raises(InputError, match="must be text in valid UTF-8"):
        load_dataset(spec_for(toy, title="read again"))


def test_symbolic_links_are_followed_wherever_they_lead(toy):
    """Data folders are often made of links, the hub's cache always is: see `load_dataset`."""
    link, outside = toy.images(1) / "red" / "link.png", toy.root / "outside.png"
    link.symlink_to(outside)
    with pytest.raises(InputError, match="link.png"):
        load_dataset(spec_for(toy))
    outside.write_bytes(encoded(plain(77)))
    data = load_dataset(spec_for(toy))
    assert data.image(data.position("red/link")).getpixel((0, 0))[0] == 77
    outside.write_bytes(encoded(plain(78, (9, 9))))
    assert load_dataset(spec_for(toy, title="again")).fingerprint != data.fingerprint  # what the link shows is part


# Every picture means the same whatever its file -----------------------------------------------------------------------

RAMP = np.stack(np.broadcast_arrays(np.arange(0, 256, 8), np.full((8, 1), 100), 30), -1).astype(np.uint8)
GREY = np.repeat(RAMP[..., :1], 3, -1)
COLOUR, BLACK_OR_WHITE = Image.fromarray(RAMP), Image.fromarray(RAMP[..., 0] > 120)


def alpha(mode):
    image = Image.fromarray(RAMP if mode == "RGBA" else RAMP[..., 0]).convert(mode)
    image.putalpha(Image.fromarray(np.full((8, 32), 77, np.uint8)))
    return image


def sixteen(kind):
    return Image.fromarray((RAMP[..., 0].astype(np.uint16) << 8 | 200).astype(kind))  # only the upper 8 bits are seen


PICTURES = {  # mode: the picture, its right pixels, formats that keep it (lossy ones to within 12)
    "1": (BLACK_OR_WHITE, np.where(GREY > 120, 255, 0), "PNG TIFF BMP GIF"),
    "L": (Image.fromarray(RAMP[..., 0]), GREY, "PNG TIFF BMP GIF JPEG"),
    "P": (COLOUR.quantize(64), RAMP, "PNG TIFF BMP GIF"),
    "RGB": (COLOUR, RAMP, "PNG TIFF BMP JPEG WEBP"),
    "RGBA": (alpha("RGBA"), RAMP, "PNG TIFF"),  # transparency is dropped, as the libraries do
    "LA": (alpha("L"), GREY, "PNG TIFF"),
    "PA": (COLOUR.quantize(64).convert("PA"), RAMP, "TIFF"),
    "CMYK": (COLOUR.convert("CMYK"), RAMP, "TIFF JPEG"),
    "YCbCr": (COLOUR.convert("YCbCr"), RAMP, "TIFF JPEG"),
    "LAB": (COLOUR.convert("LAB"), RAMP, "TIFF"),
    "I;16": (sixteen("<u2"), GREY, "PNG TIFF"),
    "I;16B": (sixteen(">u2"), GREY, "TIFF"),
    "F": (Image.fromarray(RAMP[..., 0].astype(np.float32) / 255), GREY, "TIFF"),
}  # fmt: skip


def shown(content):
    return np.asarray(build(ids=("a",), targets=(0,), blobs=[content]).image(0)).astype(int)


@pytest.mark.parametrize("mode", PICTURES)
def test_every_mode_gives_the_same_picture(mode):
    image, right, kinds = PICTURES[mode]
    for kind in kinds.split():
        how = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
        found = shown(encoded(image, kind, **how))
        near = 12 if kind == "JPEG" or mode in ("LAB", "YCbCr") else 0
        assert found.shape == (8, 32, 3) and np.abs(found - right).max() <= near, (mode, kind)


def test_a_16_bit_colour_picture_counts_as_its_grey_one():
    assert shown(colour16()).tolist() == [[[200, 100, 50]] * 2] * 2


def colour16():
    """A PNG of 2 x 2 pixels with 16 bits a channel, which Pillow cannot write: 200, 100 and 50 in the upper 8 bits."""
    row = b"\0" + struct.pack(">6H", *[200 << 8 | 9, 100 << 8 | 9, 50 << 8 | 9] * 2)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image", [np.array([[0, 70000]], np.int32), np.array([[0.0, 255.0]], np.float32)])
def test_values_of_which_nobody_knows_what_is_white(image):
    with pytest.raises(BadImage, match="nothing says which is white: save it with 8 or 16 bits"):
        shown(encoded(Image.fromarray(image), "TIFF"))


def test_a_flag_that_turns_a_picture_in_viewers_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(shown(encoded(COLOUR, "PNG", exif=exif)), RAMP)


CARDS = b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 2", b"NAXIS2  = 2", b"END"
FITS = b"".join(card.ljust(80) for card in CARDS).ljust(2880) + bytes(2880)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "PCX", "ICO", "PDF", "SGI", "DDS", "FITS"])
def test_only_wanted_formats_are_opened_whatever_they_are_called(kind):
    content = FITS if kind == "FITS" else encoded(COLOUR, kind)
    assert kind == "PDF" or Image.open(io.BytesIO(content)).format == kind  # Pillow would
    with pytest.raises(BadImage, match="cannot identify image file"):
        shown(content)
