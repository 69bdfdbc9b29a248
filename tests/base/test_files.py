"""Copies keep their stamp, changes do not, and large files are not read whole."""

import os
import shutil

import pytest

from beyond_accuracy.base import files
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
    if change == "content":
        path.write_bytes(b"x" * path.stat().st_size)
    elif change == "size":
        path.write_bytes(b"x")
    elif change == "name":
        path.rename(path.with_name("6.jpg"))
    else:
        path.unlink()
    assert scan(images).stamp != first


def test_of_a_large_set_a_sample_is_read(images, monkeypatch):
    read = []
    monkeypatch.setattr(files, "WHOLE", 100)
    monkeypatch.setattr(files, "SAMPLED_FILES", 3)
    monkeypatch.setattr(files, "sampled_stamp", lambda path: read.append(path.name) or "")
    scan(images)
    assert read == ["0.jpg", "8.jpg", "9.jpg"]  # first, middle and last in the order of the folders
    first = scan(images).stamp
    (images / "class0" / "2.jpg").write_bytes(b"longer" * 100)  # a size shows whether the file is read or not
    assert scan(images).stamp != first


def test_large_files_by_size_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 8)
    monkeypatch.setattr(files, "BLOCKS", 3)
    monkeypatch.setattr(files, "WHOLE", 50)
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


def test_archives(tmp_path):
    one, two = tmp_path / "a.tar", tmp_path / "b.tar"
    one.write_bytes(b"1" * 1000)
    two.write_bytes(b"2" * 1000)
    first = stamp([one, two])
    os.utime(one, (1, 1))
    assert stamp([one, two]) == first
    one.write_bytes(b"3" * 1000)
    assert stamp([one, two]) != first


def test_a_file_that_cannot_be_read_is_no_error_here(tmp_path):
    assert files.folder_stamp(tmp_path, ["gone.jpg"], [3]) == files.folder_stamp(tmp_path, ["gone.jpg"], [3])
    assert files.folder_stamp(tmp_path, [], []) != files.folder_stamp(tmp_path, ["gone.jpg"], [3])
