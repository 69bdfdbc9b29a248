"""The store: keys, parts, locks, damage; and how stored outputs are judged."""

import json
import resource
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import atomic_write
from beyond_accuracy.data.classes import imagenet_subset
from beyond_accuracy.inference.predictions import Predictions, restrict, score
from beyond_accuracy.inference.store import VERIFIED, Entry, Store, chain, make_key, rows_table
from disks import as_anybody

# Judging --------------------------------------------------------------------------------------------------------------


def test_score_by_hand():
    logits = np.array([[0.0, np.log(3), 0.0], [2.0, 2.0, 2.0]])
    out = score(logits, np.array([0, 2]), None)
    assert out["pred"].tolist() == [1, 0]  # a tie goes to the lowest index
    np.testing.assert_allclose(out["confidence"], [0.6, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(out["target_probability"], [0.2, 1 / 3], rtol=1e-6)
    assert out["pred"].dtype == np.int64 and out["confidence"].dtype == np.float32
    multi = score(logits, [np.array([0, 1]), np.array([], dtype=int)], None)
    np.testing.assert_allclose(multi["target_probability"], [0.8, 0.0], rtol=1e-6)


def test_score_on_columns():
    full = np.log(np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]]))
    columns = np.array([1, 3])
    out = score(full[:, columns], np.array([3, 1]), columns)
    assert out["pred"].tolist() == [1, 3]
    np.testing.assert_allclose(out["confidence"], [0.3 / 0.35, 0.4 / 0.6], rtol=1e-5)
    np.testing.assert_allclose(out["target_probability"], [0.05 / 0.35, 0.2 / 0.6], rtol=1e-5)
    # labels of a multi-label image that are not scored count for nothing
    multi = score(full[:, columns], [np.array([0, 3]), np.array([2])], columns)
    np.testing.assert_allclose(multi["target_probability"], [0.05 / 0.35, 0.0], rtol=1e-5)


def predictions(logits, targets, columns=None, ids=None):
    stored = (logits - logits.max(axis=1, keepdims=True)).astype(np.float16)
    multi = isinstance(targets, list)
    frame = pd.DataFrame({"id": ids or [f"i{k}" for k in range(len(logits))]})
    frame["target"] = pd.Series(targets, dtype=object) if multi else targets
    scored = stored if columns is None else stored[:, columns]
    return Predictions("m", "d", "none", frame.assign(**score(scored, targets, columns)), stored, columns, {})


def test_a_set_scored_on_200_of_1000_classes():
    """Constructed so that the full argmax is always outside the subset, and the subset's is always right."""
    rng = np.random.default_rng(0)
    columns = imagenet_subset("r")
    others = np.setdiff1d(np.arange(1000), columns)
    targets = rng.choice(columns, 300)
    logits = rng.normal(0, 1, (300, 1000))
    logits[np.arange(300), rng.choice(others, 300)] = 12
    logits[np.arange(300), targets] = 9
    whole, subset = predictions(logits, targets), predictions(logits, targets, columns)
    assert not whole.correct.any() and subset.correct.all()
    assert (columns[subset.target_positions] == targets).all()
    assert subset.probabilities.shape == (300, 200) and whole.probabilities.shape == (300, 1000)
    np.testing.assert_allclose(subset.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(subset.confidence, softmax(logits[:, columns], axis=1).max(1), atol=2e-3)
    # The same-classes baseline of a clean run: only its images of these classes, on these columns.
    clean_targets = np.concatenate([targets[:100], rng.choice(others, 200)])
    clean = restrict(predictions(logits, clean_targets), columns)
    assert len(clean) == 100 and clean.correct.all() and (clean.columns == columns).all()
    assert clean.ids.tolist() == [f"i{k}" for k in range(100)]
    pd.testing.assert_frame_equal(clean.frame, subset.take(np.arange(100)).frame)


def test_restriction_needs_logits():
    bare = Predictions("m", "d", "none", pd.DataFrame({"id": ["a"], "target": [0], "pred": [0]}), None, None, {})
    with pytest.raises(InputError, match="logits of m were not kept, .* set `keep: logits` for datasets.d"):
        restrict(bare, np.array([0]))
    assert bare.probabilities is None and bare.scored_logits is None


def test_images_with_several_labels():
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]))
    found = predictions(logits, [np.array([0, 1]), np.array([0]), np.array([1, 2])])
    assert found.multilabel and found.correct.tolist() == [True, False, True]
    np.testing.assert_allclose(found.target_probability, [0.9, 0.2, 0.9], atol=1e-3)
    assert [t.tolist() for t in found.targets] == [[0, 1], [0], [1, 2]]
    with pytest.raises(ValueError, match="several labels"):
        _ = found.target_positions
    assert found.take(np.array([False, True, True])).ids.tolist() == ["i1", "i2"]
    assert found.take(np.array([2, 0])).pred.tolist() == [1, 0]


def test_other_labels():
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]))
    found = predictions(logits, np.array([0, 0, 1, 2]))
    labels = {"i0": np.array([0]), "i1": [2, 1], "i2": np.array([], int)}  # i3 has no entry
    other = found.relabel("real", labels)
    assert other.dataset == "real" and other.ids.tolist() == ["i0", "i1"] and other.correct.all()
    np.testing.assert_allclose(other.target_probability, [0.6, 0.8], atol=1e-3)
    bare = Predictions("m", "d", "none", found.frame, None, None, {}).relabel("real", labels)
    assert bare.correct.tolist() == [True, True]
    assert bare.target_probability[0] == found.confidence[0] and np.isnan(bare.target_probability[1])
    assert len(found.relabel("real", {})) == 0

    # among the scored columns
    found = predictions(np.log(np.array([[0.5, 0.3, 0.15, 0.05]])), np.array([1]), np.array([1, 2]))
    np.testing.assert_allclose(found.relabel("real", {"i0": [0, 2]}).target_probability, [0.15 / 0.45], atol=1e-3)


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_depends_on_values_not_on_their_order():
    assert make_key({"a": 1, "b": [1, 2]}) == make_key({"b": [1, 2], "a": 1})
    assert make_key({"a": 1}) != make_key({"a": 2}) != make_key({"b": 2})


# Entries --------------------------------------------------------------------------------------------------------------

RANGES = [(0, 2), (2, 4), (4, 5)]


def entry_in(folder, weights="w", **meta):
    return Store(folder).entry({"weights": weights}, {"model": "m", "dataset": "d", **meta})


def write_parts(entry, ranges=RANGES, add=0):
    for start, stop in ranges:
        ids = [f"i{k}" for k in range(start, stop)]
        values = np.arange(3 * start, 3 * stop, dtype=np.float16).reshape(-1, 3) + np.float16(add)
        frame = pd.DataFrame({"id": ids, "target": np.arange(start, stop) + add})
        entry.write_part((start, stop), frame, {"logits": values, "features-x": values[:, :2]})


def complete_entry(folder, weights="w", add=0, **meta):
    entry = entry_in(folder, weights, **meta)
    write_parts(entry, add=add)
    entry.finish(RANGES)
    return entry


def read(entry):
    return entry.frame(), entry.array("logits"), entry.array("features-x")


def test_parts_become_one_table(tmp_path):
    entry = entry_in(tmp_path)
    assert entry.missing(RANGES) == RANGES and not entry.complete
    entry.folder.mkdir(parents=True)
    (entry.folder / ".tmp-123-abc.parquet").write_bytes(b"half")  # of a killed run
    with entry.lock():
        entry.start({"device": "cpu"})
        assert not list(entry.folder.glob(".tmp-*"))
        write_parts(entry, [RANGES[2], RANGES[0]])  # in any order
        assert entry.missing(RANGES) == [RANGES[1]]
        write_parts(entry, [RANGES[1]])
        entry.finish(RANGES)
    assert entry.complete and entry.missing(RANGES) == [] and not list(entry.folder.glob("part-*"))
    assert entry.frame()["id"].tolist() == [f"i{k}" for k in range(5)]
    logits = entry.array("logits")
    assert isinstance(logits, np.memmap) and logits.dtype == np.float16
    np.testing.assert_array_equal(logits, np.arange(15).reshape(5, 3))
    assert entry.layers() == ["x"] and entry.array("features-x").shape == (5, 2) and entry.array("other") is None
    with entry.lock():
        entry.finish(RANGES)  # a second run that had waited
    table = pq.read_table(entry.folder / "predictions.parquet")
    assert table.column_names == ["id", "target"]


def test_lists_of_labels_keep_their_type(tmp_path):
    entry = entry_in(tmp_path)
    for start, labels in ((0, [[], []]), (2, [[1, 2], [3]])):
        frame = pd.DataFrame({"id": [f"i{start}", f"i{start + 1}"], "target": pd.Series(labels, dtype=object)})
        entry.write_part((start, start + 2), frame, {})
    entry.finish([(0, 2), (2, 4)])
    assert [np.asarray(t).tolist() for t in entry.frame()["target"]] == [[], [], [1, 2], [3]]
    assert rows_table(pd.DataFrame({"target": pd.Series([[]], dtype=object)})).schema.field("target").type.value_type


def test_what_computed_an_entry_is_remembered(tmp_path):
    entry = entry_in(tmp_path, model_id="id", preset="library")
    entry.lock().__enter__()
    entry.start({"device": "cpu", "torch": "1"})
    entry.start({"device": "cuda", "torch": "1"})  # continued elsewhere
    entry.start({"device": "cpu", "torch": "1"})
    later = entry_in(tmp_path, model_id="id", preset="library", model="renamed").described().meta
    assert later["device"] == "cpu; cuda" and later["torch"] == "1" and later["model"] == "renamed"
    (entry.folder / "meta.json").write_text("{damaged")
    assert entry.described().meta["model"] == "m"
    entry.start({"device": "cpu"})
    assert json.loads((entry.folder / "meta.json").read_text())["device"] == "cpu"


def damage(path, how):
    content = path.read_bytes()
    if how == "gone":
        return path.unlink()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": b"\x93NUMPY" + b"\x07" * 50}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_a_damaged_part_is_named_and_only_it_is_missing_once_removed(tmp_path, how):
    entry = entry_in(tmp_path)
    write_parts(entry)
    damage(entry.part(RANGES[1]), how)
    with pytest.raises(InputError, match=r"m on d are damaged: .*part-00000002-00000004.parquet .*only its images"):
        entry.finish(RANGES)
    entry.part(RANGES[1]).unlink()
    assert not entry.complete and entry.missing(RANGES) == [RANGES[1]]


@pytest.mark.parametrize("how", ["empty", "cut", "noise", "gone"])
@pytest.mark.parametrize("name", ["logits.npy", "predictions.parquet"])
def test_damaged_results_are_named(tmp_path, name, how):
    entry = complete_entry(tmp_path)
    damage(entry.folder / name, how)
    if (name, how) == ("predictions.parquet", "gone"):
        assert not entry.complete
        return
    with pytest.raises(InputError, match=rf"m on d are damaged: .*{name} .*delete the folder .*run again"):
        read(entry)


@pytest.mark.parametrize("changed", [lambda logits: logits[:, :2], lambda logits: logits * np.nan])
def test_other_columns_and_no_numbers_are_not_taken_for_logits(tmp_path, changed):
    entry = complete_entry(tmp_path)
    np.save(entry.folder / "logits.npy", changed(np.array(entry.array("logits"))))
    with pytest.raises(InputError, match="are damaged: .*logits.npy .*delete the folder"):
        entry.array("logits")


@pytest.mark.parametrize("what", ["", "predictions.parquet", "logits.npy", "meta.json"])
def test_entries_that_changed_places_are_refused(tmp_path, what):
    """Two models' whole entries, or one file of each."""
    first, second = complete_entry(tmp_path), complete_entry(tmp_path, "v", 50, model="other")
    assert (second.frame()["target"].tolist(), second.array("logits")[0, 0]) == ([50, 51, 52, 53, 54], 50)
    a, b, aside = first.folder / what, second.folder / what, tmp_path / "aside"
    a.rename(aside), b.rename(a), aside.rename(b)
    VERIFIED.clear()  # as a new process begins
    for entry in (first, second):
        message = rf"results of {entry.meta['model']} on d are damaged: .*delete the folder"
        with pytest.raises(InputError, match=message):
            read(entry)


def test_parts_that_changed_places_are_refused(tmp_path):
    first, second = entry_in(tmp_path), entry_in(tmp_path, "v")
    write_parts(first), write_parts(second)
    second.part(RANGES[0]).replace(first.part(RANGES[0]))
    with pytest.raises(InputError, match="belongs to another entry.*only its images"):
        first.finish(RANGES)


def test_every_bit_counts(tmp_path):
    """Any bit of any file of an entry that flips is noticed, or changes nothing that is read."""
    entry = complete_entry(tmp_path)
    right = [np.array(values) for values in read(entry)]
    rng, noticed = np.random.default_rng(0), 0
    for name in ("predictions.parquet", "logits.npy", "features-x.npy", "meta.json"):
        path = entry.folder / name
        content = path.read_bytes()
        for bit in rng.choice(8 * len(content), 30, replace=False):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                found = read(entry)
            except InputError:
                noticed += 1
            else:
                assert name == "meta.json" and all(map(np.array_equal, found, right))
        path.write_bytes(content)
    assert noticed >= 90


def test_limits_and_rights_of_the_machine_are_not_told_as_damage(tmp_path):
    """The advice to delete would lose work: the files are as they were written."""
    entry = complete_entry(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        for get in (entry.frame, lambda: entry.array("logits")):
            with pytest.raises(InputError, match=r"cannot read .*\(Too many open files\); raise the limit") as found:
                get()
            assert "delete" not in str(found.value)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(entry.frame()) == 5
    [path.chmod(0) for path in entry.folder.iterdir()]
    VERIFIED.clear()
    with as_anybody(), pytest.raises(InputError, match=r"cannot read .*\(Permission denied\); ask its owner") as found:
        entry.frame()
    assert "delete" not in str(found.value)


def test_parts_cut_in_other_ways_are_used(tmp_path):
    assert chain([(4, 8), (0, 2), (0, 3), (9, 12)], 10) == ([(0, 3), (4, 8)], [(3, 4), (8, 10)])
    entry = entry_in(tmp_path)
    write_parts(entry, [(0, 3), (4, 5)])
    assert entry.missing(RANGES) == [(3, 4)]
    write_parts(entry, [(3, 4)])
    entry.finish(RANGES)
    assert entry.frame()["id"].tolist() == [f"i{k}" for k in range(5)]


def test_the_second_of_two_runs_waits(tmp_path, capsys):
    entered = threading.Event()

    def enter():
        with entry_in(tmp_path).lock():
            entered.set()

    thread = threading.Thread(target=enter)
    with entry_in(tmp_path).lock():
        thread.start()
        assert not entered.wait(1.5)
        assert "another run is computing m on d; waiting" in capsys.readouterr().err
    assert entered.wait(10)
    thread.join()


def test_a_file_system_without_locks(toy, monkeypatch, no_locks):
    """Two runs then do the same work; whoever is slower finds it done."""
    toy.images(2), toy.checkpoint()
    original = Entry.merge

    def overtaken(self, ranges):
        half_written = self.folder / ".tmp-of-the-other"
        half_written.write_bytes(b"")
        self.start({"device": "cpu"}, locked=False)
        assert half_written.exists()
        original(self, ranges)
        for part in self.folder.glob("part-*"):
            part.unlink()
        raise InputError("a part is gone")

    monkeypatch.setattr(Entry, "merge", overtaken)
    assert toy.outputs().predictions("images", ["none"])["none"]["colour"].correct.all()


FULL = r"cannot write .*a.txt \(No space left on device\); .*--cache-dir"


@pytest.mark.parametrize(
    ("error", "told", "text"),
    [(OSError(28, "No space left on device"), InputError, FULL), (KeyError("x"), KeyError, "x")],
)
def test_atomic_write_keeps_what_was_there(tmp_path, error, told, text):
    path = tmp_path / "a.txt"
    atomic_write(path, lambda p: p.write_text("first"))

    def fail(p):
        p.write_text("half")
        raise error

    with pytest.raises(told, match=text):
        atomic_write(path, fail)
    assert path.read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# Imported predictions -------------------------------------------------------------------------------------------------


def put(store, value, model="mine", dataset="d", fail=False):
    def write(entry: Entry):
        frame = pd.DataFrame({"id": ["a"], "target": [0], "pred": [value]})
        entry.write_rows(rows_table(frame), [])
        if fail:
            raise InputError("disk full")

    return store.replace_imported(model, dataset, write)


def test_imported_predictions_are_replaced_whole(tmp_path):
    store = Store(tmp_path)
    assert not store.imported("mine", "d").complete and store.imported_models() == []
    assert put(store, 1).frame()["pred"].tolist() == [1]
    put(store, 9, dataset="e")
    assert put(store, 2).frame()["pred"].tolist() == [2]
    with pytest.raises(InputError, match="disk full"):
        put(store, 3, fail=True)
    assert store.imported("mine", "d").frame()["pred"].tolist() == [2]
    assert store.imported("mine", "e").frame()["pred"].tolist() == [9]
    assert store.imported_models() == ["mine"]
    assert sorted(p.name for p in (tmp_path / "imported" / "mine").iterdir() if p.is_dir()) == ["d", "e"]
    damage(store.imported("mine", "d").folder / "predictions.parquet", "cut")
    with pytest.raises(InputError, match="import the predictions again"):
        store.imported("mine", "d").frame()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "~root", "x" * 101, "a\nb", "a\x00b"])
def test_names_that_would_leave_the_folder(tmp_path, name):
    for pair in ((name, "d"), ("m", name)):
        with pytest.raises(InputError, match="cannot be used"):
            Store(tmp_path).imported(*pair)


def test_names_that_are_fine(tmp_path):
    names = ["ResNet-50 (v1)", "größe", "日本", "<b>'\"&", "a.b", "a-x"]
    for name in names:
        put(Store(tmp_path), 4, model=name)
    assert Store(tmp_path).imported_models() == sorted(names)
