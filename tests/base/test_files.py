"""Copies keep their stamp, changes do not, and large files are not read whole."""

import errno
import os
import shutil

import numpy as np
import pytest

from beyond_accuracy.base import files
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data.readers.files import scan, stamp


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


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOTTY, "x"), OSError(errno.ENOLCK, "x")])
def test_a_file_system_without_locks_is_said_to_have_none(tmp_path, monkeypatch, error):
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: (_ for _ in ()).throw(error))
    with files.locked(tmp_path / "lock", "building") as alone:
        assert alone is False


def test_a_folder_that_cannot_be_written_names_the_ways_out(tmp_path):
    """A read-only checkout, another user's report, a folder that is a file: the lock of a report meets it first."""
    (tmp_path / "report").write_text("a file")
    ways = r"cannot write .*choose another folder \(of the store: --cache-dir; of reports: BEYOND_ACCURACY_ROOT\)"
    with pytest.raises(InputError, match=ways), files.locked(tmp_path / "report" / "mini" / "lock", "building"):
        raise AssertionError("nothing is built there")
    with pytest.raises(InputError, match=ways):
        files.write_atomically(tmp_path / "report" / "x", b"")
