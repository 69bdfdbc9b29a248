"""Copies keep their stamp, changes do not, and large files are not read whole.

Digests of code: what moves a number counts, also in what is used, and nothing else.
"""

import errno
import importlib
import os
import shutil
import sys
import textwrap

import numpy as np
import pytest

from beyond_accuracy.base import files
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data.readers.files import scan, stamp
from beyond_accuracy.dimensions.transfer import run
from beyond_accuracy.inference import jobs


@pytest.fixture
def images(tmp_path):
    for k in range(10):
        path = tmp_path / "set" / f"class{k % 2}" / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([k]) * (100 + k))
    return tmp_path / "set"


def test_a_copy_with_other_times_is_the_same_data(images, tmp_path):
    first = scan(images).stamp
    shutil.copytree(images, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.jpg"):
        os.utime(path, (1, 1))
    assert scan(tmp_path / "copy").stamp == first
    os.utime(images / "class0" / "0.jpg", (2, 2))
    assert scan(images).stamp == first


@pytest.mark.parametrize("change", ["content", "size", "name", "removed"])
def test_every_change_of_a_small_set_shows(images, change):
    first, path = scan(images).stamp, images / "class1" / "5.jpg"
    {
        "content": lambda: path.write_bytes(b"x" * path.stat().st_size),
        "size": lambda: path.write_bytes(b"x"),
        "name": lambda: path.rename(path.with_name("6.jpg")),
        "removed": path.unlink,
    }[change]()
    assert scan(images).stamp != first


def test_of_a_large_set_a_sample_is_read(images, monkeypatch):
    read = []
    monkeypatch.setattr(files, "MOST", 100)
    monkeypatch.setattr(files, "SAMPLED_FILES", 3)
    monkeypatch.setattr(files, "sampled_stamp", lambda path: read.append(path.name) or "")
    scan(images)
    assert sorted(read) == ["0.jpg", "8.jpg", "9.jpg"]  # first, middle and last in the order of the folders
    first = scan(images).stamp
    (images / "class0" / "2.jpg").write_bytes(b"longer" * 100)  # a size shows whether the file is read or not
    assert scan(images).stamp != first


def test_large_files_by_size_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 8)
    monkeypatch.setattr(files, "BLOCKS", 3)
    monkeypatch.setattr(files, "MOST", 50)
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    first = files.file_stamp(path)
    assert first == files.sampled_stamp(path)
    for position, seen in ((0, True), (7, True), (20, False), (46, True), (99, True)):
        content = bytearray(100)
        content[position] = 1
        path.write_bytes(content)
        assert (files.file_stamp(path) != first) == seen, position
    path.write_bytes(bytes(101))
    assert files.file_stamp(path) != first
    path.write_bytes(bytes(20))
    assert files.sampled_stamp(path) != files.file_stamp(path)  # read whole: the hash of the content alone


def test_a_file_that_cannot_be_read_is_no_error_here(tmp_path):
    gone, again = (files.folder_stamp(tmp_path, ["gone.jpg"], [3], "state") for _ in range(2))
    assert gone == again != files.folder_stamp(tmp_path, [], [], "state")


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_one_image_of_many_replaced_by_one_of_the_same_size_and_time(images, tmp_path, monkeypatch, form):
    """Also where the stamp was kept, which it is until a file changes: then nothing is read."""
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "KEPT", 0)
    (tmp_path / "a.tar").write_bytes(np.random.default_rng(0).bytes(3 * 2**20))
    path = images / "class1" / "5.jpg" if form == "folder" else tmp_path / "a.tar"
    look = (lambda: scan(images).stamp) if form == "folder" else (lambda: stamp([path]))
    first = look()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "stamps").iterdir()}
    assert look() == first and {file: file.stat().st_mtime_ns for file in kept} == kept
    content, before = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = look()
    assert changed != first and path.stat().st_size == before.st_size
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert look() == first  # times are not in the stamp itself


def test_kept_arrays_know_their_name_and_content(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "größe"])}
    files.save_arrays(tmp_path / "one.npz", arrays)
    found = files.load_arrays(tmp_path / "one.npz")
    assert found.keys() == arrays.keys() and all((found[name] == arrays[name]).all() for name in arrays)
    content = (tmp_path / "one.npz").read_bytes()
    (tmp_path / "two.npz").write_bytes(content)
    assert files.load_arrays(tmp_path / "two.npz") is None  # of another name
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 16
        (tmp_path / "one.npz").write_bytes(damaged)
        got = files.load_arrays(tmp_path / "one.npz")
        assert got is None or all((got[name] == arrays[name]).all() for name in arrays)
    for broken in (b"", content[:100], b"PK"):
        (tmp_path / "one.npz").write_bytes(broken)
        assert files.load_arrays(tmp_path / "one.npz") is None


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "ask its owner"), (errno.EMFILE, "raise the limit"), (errno.EIO, "look after"), (errno.ENOENT, "")],
)
def test_what_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, number, words):
    """Rights and limits of the machine: advice to delete would lose work."""
    files.save_arrays(tmp_path / "a.npz", {"a": np.arange(3)})
    monkeypatch.setattr(np, "load", lambda *_, **__: (_ for _ in ()).throw(OSError(number, "x")))
    if not words:
        assert files.load_arrays(tmp_path / "a.npz") is None
        return
    with pytest.raises(InputError, match=f"cannot read .*a.npz.*{words}.*the file is not at fault"):
        files.load_arrays(tmp_path / "a.npz")


@pytest.mark.filterwarnings("error")
def test_a_file_system_without_locks_is_said_to_have_none(tmp_path, no_locks):
    with files.locked(tmp_path / "lock", "building") as alone:
        assert alone is False


def test_a_folder_that_cannot_be_written_names_the_ways_out(tmp_path):
    """A read-only checkout, another user's report, a folder that is a file: the lock of a report meets it first."""
    (tmp_path / "report").write_text("a file")
    ways = r"cannot write .*choose another folder \(of data: --data-dir; .*; of reports: BEYOND_ACCURACY_ROOT\)"
    with pytest.raises(InputError, match=ways), files.locked(tmp_path / "report" / "mini" / "lock", "building"):
        raise AssertionError("nothing is built there")
    with pytest.raises(InputError, match=ways):
        files.write_atomically(tmp_path / "report" / "x", b"")


# Digests of code -----------------------------------------------------------------------------------------------------

SOURCE = '''
from numpy import mean, sum as total

SCALE = 3

class Thing:
    """Doc."""

    def value(self, x):
        """Doc."""
        if x < 0:
            raise ValueError("negative")
        return helper(x)  # a comment

    def other(self):
        return other()

def helper(x: int) -> int:
    return SCALE * mean(x)

def other():
    return total([1])
'''

MOVING = [
    ("SCALE = 3", "SCALE = 4"),
    ("* mean", "+ mean"),
    ("x < 0", "x < 1"),
    ("import mean", "import median as mean"),
]
SAME = [
    ("# a comment", "# another"),
    ('"""Doc."""', '"""What it is."""'),
    ('"negative"', 'f"{x} is negative"'),
    ("(x: int) -> int", "(x)"),
    ("total([1])", "total([2])"),
    ("sum as total", "prod as total"),
    ("return helper(x)", "return   (helper(x))"),
]


@pytest.mark.parametrize(("old", "new"), [*MOVING, *SAME])
def test_what_moves_a_number_counts_and_nothing_else(old, new):
    assert old in SOURCE
    same = files.code_closure(SOURCE.replace(old, new), "Thing.value") == files.code_closure(SOURCE, "Thing.value")
    assert same == ((old, new) in SAME)


def test_every_place_is_there():
    for place in (*jobs.ALWAYS, *jobs.TRANSFORMED, *jobs.CORRUPTED, *jobs.ZERO_SHOT, *run.CODE):
        assert len(files.code_digest(place)) == 24


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("data/transforms.py:Transform", "moved.paste(image, (pixels, 0))", "moved.paste(image, (0, pixels))"),
        ("data/transforms.py:Transform", "rotate(degrees", "rotate(-degrees"),
        ("data/corruptions.py:corrupt_image", "rng.poisson(pixels", "rng.poisson(1 + pixels"),
        ("models/network.py:Model", ".sub_(mean)", ".add_(mean)"),
        ("models/network.py:Model", "resize_pos_embed(state, holder)", "None"),
        ("models/network.py:Model.head", 't.replace("{c}", c)', 't.replace("{c}", c.lower())'),
        ("models/network.py:tokenizer", "searchsorted(kept, tokens)", "searchsorted(kept, tokens) + 1"),
        ("data/transforms.py:Geometry", "CenterCrop(self.crop)]", "CenterCrop(self.crop - 1)]"),
        ("data/dataset.py:ImageDataset.image", 'convert("RGB")', 'convert("L").convert("RGB")'),
        ("inference/run.py:Views", "geometry.apply(image)", "geometry.apply(image.rotate(90))"),
        ("inference/run.py:_Pass._try", "value.float()", "value.half().float()"),
        ("inference/run.py:_Pass._outputs", "amax(dim=1", "amin(dim=1"),
        ("inference/predictions.py:score", "probabilities.argmax", "probabilities.argmin"),
        ("dimensions/transfer/tasks.py:draw_split", "default_rng(", "default_rng(1 + "),
    ],
)
def test_a_change_of_this_code_shows(place, old, new):
    file, _, name = place.partition(":")
    source = (files.PACKAGE / file).read_text()
    assert old in source
    assert files.code_closure(source.replace(old, new), name) != files.code_closure(source, name)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**texts):
        for name, text in texts.items():
            file = tmp_path / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        files.modules_digest.cache_clear()
        for name in [name for name in sys.modules if name.startswith(("mine", "helper"))]:
            del sys.modules[name]
        return files.modules_digest(("mine.net",))

    return write


def test_imported_modules_and_their_helpers(modules):
    start = {"mine__init": "", "mine__net": "import os, helper\nfrom . import part\nimport torch\nX = 1\n"}
    first = modules(**start, mine__part="Y = 1\n", helper="from mine.deep import Z\n", mine__deep="Z = 1\n")
    assert modules(helper="from mine.deep import Z  # as before\n") == first
    seen = {first}
    for name, text in (
        ("mine__part", "Y = 2\n"),
        ("mine__deep", "Z = 2\n"),
        ("helper", "from mine.deep import Z\nQ = 1\n"),
    ):
        seen.add(modules(**{name: text}))
    assert len(seen) == 4
    assert modules(mine__net="X = (\n") not in seen  # loading says what is wrong


def test_modules_that_are_not_there():
    assert files.modules_digest(("no_such_module_anywhere",)) == files.modules_digest(())
