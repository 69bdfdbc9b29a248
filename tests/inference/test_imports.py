"""Imported predictions: the layout, the checks, and that nothing but a message comes out of anything else."""

import csv
import gzip
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from beyond_accuracy import cli
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import DatasetSpec, load_profile
from beyond_accuracy.data import readers
from beyond_accuracy.data.dataset import build_dataset
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.inference.imports import COLUMNS, import_predictions, joined
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure.tidy import accuracy_pairs

N = 6
VAL = [f"ILSVRC2012_val_{k:08d}" for k in range(1, N + 1)]


def dataset(ids=VAL, targets=tuple(range(N)), columns=None, classes="imagenet_1k", name="imagenet_1k"):
    spec = DatasetSpec(name, "imagenet_labels", classes=classes)
    return build_dataset(spec, ids, targets, [].__getitem__, content="x", source="here", columns=columns)


def table(**columns):
    """Right for images 0 to 3, wrong for the last two; rows not in the dataset's order."""
    frame = pd.DataFrame(
        {
            "file_name": [f"{image_id}.JPEG" for image_id in VAL],
            "predicted_class": [0, 1, 2, 3, 0, 0],
            "predicted_probability": [0.9, 0.8, 0.7, 0.6, 0.5, 1.0],
        }
    )
    return frame.assign(**columns).iloc[::-1]


@pytest.fixture
def load(tmp_path):
    def run(content, data=None, name="mine.csv", model="mine"):
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content = content.to_csv(index=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return import_predictions(path, model, data or dataset(), Store(tmp_path / "store"))

    return run


@pytest.mark.filterwarnings("error")
def test_an_import_where_there_are_no_locks(load, no_locks, capfd):
    assert load(table()).complete and capfd.readouterr().err == ""


def test_the_imagenet_x_layout(load):
    entry = load(table())
    frame = entry.frame()
    assert entry.complete and frame["id"].tolist() == VAL and frame["target"].tolist() == list(range(N))
    assert frame["pred"].tolist() == [0, 1, 2, 3, 0, 0] and entry.array("logits") is None
    np.testing.assert_allclose(frame["confidence"], [0.9, 0.8, 0.7, 0.6, 0.5, 1.0], rtol=1e-6)
    # the label's probability is known where it was predicted
    np.testing.assert_allclose(frame["target_probability"], [0.9, 0.8, 0.7, 0.6, np.nan, np.nan], rtol=1e-6)
    assert (entry.meta["file"], entry.meta["n"], entry.meta["model"]) == ("mine.csv", N, "mine")


def test_file_names_in_their_several_forms(load):
    names = [VAL[0], f"val/n01440764/{VAL[1]}.JPEG", f"{VAL[2]}_n01440764.JPEG", f"{VAL[3]}.png", VAL[4], VAL[5]]
    assert load(table(file_name=names)).frame()["pred"].tolist() == [0, 1, 2, 3, 0, 0]


def test_names_of_classes_and_whole_paths(load, tmp_path):
    """One's own set: answers by id or by name, images by the path they had where they were run."""
    (tmp_path / "pets.json").write_text(
        '{"ids": ["c", "d", "e"], "names": ["cat", "dog", "dog"], "templates": ["{c}"]}'
    )
    data = dataset(["c/1", "d/1", "d/2"], [0, 1, 1], classes=str(tmp_path / "pets.json"), name="pets")
    frame = table().sort_index()[:3].assign(file_name=["/home/me/pets/c/1.jpg", "d\\1.png", "d/2.jpg"])
    for said in (["c", "d", "c"], ["cat", "d", "cat"], [0, "d", "0"]):
        assert load(frame.assign(predicted_class=said), data).frame()["pred"].tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="predicted_class is 'dog', expected a whole number .*, or the id or name of"):
        load(frame.assign(predicted_class=["cat", "dog", "cat"]), data)  # two classes are called that


def test_names_of_files_where_ids_keep_the_suffix_and_lie_deeper(load, tmp_path):
    """As of `reader: own`: by any part of the path that says which image is meant, and by no other."""
    (tmp_path / "pets.json").write_text('{"ids": ["c", "d"], "names": ["cat", "dog"], "templates": ["{c}"]}')
    ids = ["train/c/1.jpg", "train/d/1.png", "train/d/2.jpg"]
    data, rows = dataset(ids, [0, 1, 1], classes=str(tmp_path / "pets.json")), table(predicted_class=0).sort_index()[:3]
    for names in (ids, [f"/home/me/{name}" for name in ids], ["1.jpg", "C:\\pets\\train\\d\\1.png", "2.jpg"]):
        assert load(rows.assign(file_name=names), data).frame()["id"].tolist() == ids
    for wrong in ("2.png", "/home/me/c/2.jpg", "2"):  # another file, another folder
        with pytest.raises(InputError, match=f"row 4: {wrong!r} is not an image of .*like train/c/1.jpg"):
            load(rows.assign(file_name=[*ids[:2], wrong]), data)
    with pytest.raises(InputError, match="'1.jpg' is not an image of"):  # of two folders
        load(rows[:2].assign(file_name=["1.jpg", "d/1.jpg"]), dataset(["c/1.jpg", "d/1.jpg"], [0, 1]))


def test_ids_that_look_like_numbers_missing_values_or_extensions(load):
    ids = ["001", "NA", "a.b", "null", "größe <b>'\"", "n/a.c"]
    data = dataset(ids=ids)
    assert load(table(file_name=ids), data).frame()["pred"].tolist() == [0, 1, 2, 3, 0, 0]
    assert load(table(file_name=[f"{i}.png" for i in ids]), data).frame()["id"].tolist() == ids


def test_rows_that_predict_wrote_are_taken_back(load, tmp_path):
    """Ids that a spreadsheet would compute have an apostrophe in front in the file alone."""
    ids = ["=1+1/a", "@b", "-c", "+d.e", "'=f", "g"]
    rows = pd.DataFrame({"id": ids, "target": range(N), "pred": range(N), "confidence": 0.5})
    cli.write_rows(Predictions("m", "d", "none", rows, None, None, {}), tmp_path / "rows.csv")
    named = pd.read_csv(tmp_path / "rows.csv").set_axis([*COLUMNS[:1], "target", *COLUMNS[1:]], axis=1)
    assert named["file_name"].str[:1].tolist() == ["'"] * 5 + ["g"]
    assert load(named, dataset(ids=ids)).frame()["id"].tolist() == ids


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_tables_as_spreadsheets_write_them(load, separator, encoding):
    """With a column of one's own, byte order marks, line ends of Windows; compressed; 1 and a rounding error."""
    rows = table(note='x,"y"')
    expected = load(rows).frame()
    rows["predicted_probability"] = rows["predicted_probability"].where(rows.index != 5, 1.0000001)  # a sum in float32
    text = rows.to_csv(index=False, sep=separator, lineterminator="\r\n")
    zipped = encoding == "gzip"
    content = gzip.compress(text.encode()) if zipped else text.encode(encoding)
    pd.testing.assert_frame_equal(load(content, name=f"mine.csv{'.gz' * zipped}").frame(), expected)


def test_a_table_with_its_index_and_float_classes(load):
    frame = table()
    content = frame.assign(predicted_class=frame["predicted_class"] + 0.0).to_csv(quoting=1).encode()
    pd.testing.assert_frame_equal(load(content, name="indexed.csv").frame(), load(frame).frame())


def logits_table(scale=3.0, n_classes=1000, **changes):
    logits = np.random.default_rng(0).normal(0, scale, (N, n_classes)).round(4)
    probabilities = softmax(logits, axis=1)
    frame = table(predicted_class=logits.argmax(1), predicted_probability=probabilities.max(1)).sort_index()
    wide = pd.DataFrame(logits, columns=[f"logit_{k}" for k in range(n_classes)])
    return pd.concat([frame, wide], axis=1).assign(**changes).iloc[::-1], logits


def test_logits(load):
    frame, logits = logits_table()
    entry = load(frame)
    rows, probabilities = entry.frame(), softmax(logits, axis=1)
    np.testing.assert_allclose(entry.array("logits"), logits - logits.max(1, keepdims=True), atol=0.02)
    np.testing.assert_allclose(rows["confidence"], probabilities.max(1), rtol=1e-4)
    np.testing.assert_allclose(rows["target_probability"], probabilities[np.arange(N), np.arange(N)], rtol=1e-3)
    shuffled = frame[[*sorted(frame.columns)]]  # logit_0, logit_1, logit_10, …
    np.testing.assert_array_equal(load(shuffled).array("logits"), entry.array("logits"))
    # an import without logits replaces one with them
    assert load(table()).array("logits") is None


def test_logits_on_a_subset_of_classes(load):
    frame, logits = logits_table()
    columns = np.arange(0, 1000, 5)
    data = dataset(targets=columns[:N], columns=columns, name="imagenet_a")
    rows = load(frame, data).frame()
    assert rows["pred"].tolist() == columns[logits[:, columns].argmax(1)].tolist()
    np.testing.assert_allclose(rows["confidence"], softmax(logits[:, columns], axis=1).max(1), rtol=1e-4)
    with pytest.raises(InputError, match="is not one of the 200 classes imagenet_a is scored on"):
        load(table(predicted_class=[0, 5, 10, 15, 20, 21]), data)
    assert load(table(predicted_class=[0, 5, 10, 15, 20, 25]), data).complete


def test_images_with_several_labels(load):
    data = dataset(targets=[[0, 7], [2], [2], [], [0], [1]])
    rows = load(table(), data).frame()
    assert [t.tolist() for t in rows["target"]] == [[0, 7], [2], [2], [], [0], [1]]
    np.testing.assert_allclose(rows["target_probability"], [0.9, np.nan, 0.7, np.nan, 0.5, np.nan], rtol=1e-6)


HEADER = "file_name,predicted_class,predicted_probability"
WRONG = [
    (lambda: table().drop(columns="predicted_class"), "column 'predicted_class' is missing (it has file_name"),
    (lambda: table().rename(columns=str.upper), "column 'file_name' is missing"),
    (lambda: table(file_name=[*VAL[:5], f"x/{VAL[0]}.png"]), "occurs a second time"),
    (lambda: table().iloc[1:], "1 of the 6 images of imagenet_1k have no row, for example ILSVRC2012_val_00000006"),
    (lambda: table(file_name=[*VAL[:5], "cat.jpg"]), "row 2: 'cat.jpg' is not an image of imagenet_1k (expected names"),
    (lambda: table(predicted_class=[0, 1, 2, 3, 0, 1000]), "row 2: predicted_class is 1000, expected a whole number"),
    (lambda: table(predicted_class=[-1, 1, 2, 3, 0, 0]), "row 7: predicted_class is -1, expected a whole number"),
    (lambda: table(predicted_class=[0, 1, 2.5, 3, 0, 0]), "row 5: predicted_class is 2.5"),
    (lambda: table(predicted_class=[0, 1, "tensh", 3, 0, 0]), "row 5: predicted_class is 'tensh'"),
    (lambda: table(predicted_class=[0, 1, None, 3, 0, 0]), "row 5: predicted_class is ''"),
    (lambda: table(predicted_class=[True] * 6), "predicted_class is True"),
    (lambda: table(predicted_class=[10**30, 1, 2, 3, 0, 0]), "row 7: predicted_class is"),
    (lambda: table(predicted_probability=[0.9, 0.8, 0.7, 0.6, 0.5, 1.01]), "row 2: predicted_probability is 1.01, exp"),
    (lambda: table(predicted_probability=[0.9, 0.8, 0.7, 0.6, -0.5, 1]), "row 3: predicted_probability is -0.5"),
    (lambda: table(predicted_probability=[0.9, np.nan, 0.7, 0.6, 0.5, 1]), "row 6: predicted_probability is ''"),
    (lambda: table(predicted_probability=[0.9, "80%", 0.7, 0.6, 0.5, 1]), "row 6: predicted_probability is '80%'"),
    (lambda: logits_table()[0].drop(columns="logit_7"), "logit_7 is missing; expected logit_0 … logit_999"),
    (lambda: logits_table(n_classes=1001)[0], "logit_1000 is too many"),
    (lambda: logits_table(logit_3=np.inf)[0], "row 7: a logit is not a finite number"),
    (lambda: logits_table(predicted_class=3)[0], "predicted_class is not the largest logit"),
    (lambda: logits_table(predicted_probability=0.01)[0], "the softmax of the logits gives"),
    (lambda: "", "not a CSV table"),
    (lambda: f"{HEADER}\n", "6 of the 6 images of imagenet_1k have no row"),
    (lambda: bytes(range(256)) * 20, "not a CSV table"),
    (lambda: b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "mine.csv"),
    (lambda: "<!DOCTYPE html>\n<html>\n", "column 'file_name' is missing"),
    (lambda: "file_name;predicted_class;predicted_probability\na;1;0.5", "'a' is not an image of imagenet_1k"),
    (lambda: table().to_csv(index=False) + "a,b,c,d,e\n", "not a CSV"),
    (lambda: f"{HEADER}\na,1,0.5,7\nb,1,0.5,7\n", "not a CSV table"),
    (lambda: f"{HEADER},predicted_class\na,1,0.5,1\n", "'predicted_class' occurs twice"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_is_wrong_is_said_and_nothing_is_lost(load, tmp_path, make, message):
    before = load(table(predicted_probability=0.25)).frame()
    with pytest.raises(InputError) as raised:
        load(make())
    assert message in str(raised.value) and "mine.csv" in str(raised.value)
    after = Store(tmp_path / "store").imported("mine", "imagenet_1k")
    pd.testing.assert_frame_equal(after.frame(), before)


def test_what_is_no_file_no_archive_no_set_with_classes_and_no_name(load, tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="no such file; expected a CSV"):
            import_predictions(path, "m", dataset(), Store(tmp_path))
    for name in ("x.csv.gz", "x.zip", "x.csv.bz2", "x.tar"):
        with pytest.raises(InputError, match="not a CSV table|column 'file_name' is missing"):
            load(b"this is not compressed", name=name)
    with pytest.raises(InputError, match="has no class space"):
        load(table(), dataset(classes=""))
    with pytest.raises(InputError, match="cannot be used"):
        load(table(), model="../../evil")


def test_published_predictions(shared_dir, tmp_path):
    """The predictions that imagenet-x ships: top-1 and 15-bin ECE as computed from the file by hand."""
    pytest.importorskip("imagenet_x", reason="the validation labels come with the optional package imagenet-x")
    data = load_dataset(load_profile("predictions").datasets["imagenet_1k"])
    path = shared_dir / "data" / "predictions" / "ResNet50.csv"
    rows = import_predictions(path, "ResNet50", data, Store(tmp_path)).frame()
    correct = rows["pred"] == rows["target"]
    assert len(rows) == 50_000 and correct.mean() == pytest.approx(0.76130, abs=5e-6)
    bins = np.ceil(rows["confidence"] * 15).clip(1, 15)  # right-closed
    gaps = (correct - rows["confidence"]).groupby(bins).sum().abs() / len(rows)
    assert gaps.sum() == pytest.approx(0.03731, abs=5e-6)


# Fuzz -----------------------------------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from([f"{VAL[0]}.JPEG", VAL[1], *"01\"'", "", "0.5", "-1", "1e400", "nan", "inf", "True", "=1+1"]),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=6),
    st.integers().map(str),
    st.floats().map(str),
)
HEADERS = st.lists(st.sampled_from([*HEADER.split(","), "logit_0", "logit_1", "", "x"]), max_size=6)
QUICK = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FULL = st.just(HEADER.split(","))


@QUICK
@given(HEADERS | FULL, st.lists(st.lists(CELLS, max_size=5), max_size=5), st.sampled_from([",", ";", "\t"]))
def test_any_table(tmp_path_factory, header, rows, separator):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator)
    writer.writerows([header, *rows])
    _only_input_errors(tmp_path_factory, buffer.getvalue().encode("utf-8", "surrogatepass"))


@QUICK
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda t: b"file_name,predicted_class," + t.encode()))
def test_any_bytes(tmp_path_factory, content):
    _only_input_errors(tmp_path_factory, content)


def _only_input_errors(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "fuzz.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="fuzz.csv"):  # six particular images in six rows are not drawn by chance
        import_predictions(path, "m", dataset(), Store(folder / "fuzz-store"))


@QUICK
@given(
    st.lists(st.integers(-3, 1002) | st.floats(width=32), min_size=N, max_size=N),
    st.lists(st.floats(-0.1, 1.1) | st.sampled_from([0.0, 1.0]), min_size=N, max_size=N),
)
def test_any_numbers(tmp_path_factory, classes, probabilities):
    """A table is taken exactly when every number is what it has to be."""
    folder = tmp_path_factory.getbasetemp()
    path = folder / "numbers.csv"
    pd.DataFrame({"file_name": VAL, "predicted_class": classes, "predicted_probability": probabilities}).to_csv(path)
    good = all(0 <= c <= 999 and c == int(c) for c in map(float, classes)) and all(0 <= p <= 1 for p in probabilities)
    try:
        entry = import_predictions(path, "m", dataset(), Store(folder / "fuzz-store"))
    except InputError:
        assert not good
        return
    assert good and entry.frame()["pred"].tolist() == [int(c) for c in classes]
    np.testing.assert_allclose(entry.frame()["confidence"], probabilities, rtol=1e-6, atol=1e-7)


def test_classes_counted_from_one_are_not_imported(load):
    data = dataset(ids=[f"image{k}" for k in range(40)], targets=list(range(0, 1000, 25)))
    rows = pd.DataFrame({"file_name": data.ids, "predicted_class": data.targets + 1, "predicted_probability": 0.5})
    with pytest.raises(InputError, match="mine.csv: mine on .*: top-1 0.0% of 40: labels are one too low; give"):
        load(rows, data)
    entry = load(rows.assign(predicted_class=data.targets), data)
    assert entry.meta["accuracy"] == 1.0


# Read for another state of the dataset ------------------------------------------------------------------------------


@pytest.mark.parametrize("with_logits", [False, True])
def test_rows_are_joined_by_id(load, with_logits):
    """A profile that lists the same images in another order, or some of them, gets each image's own answer."""
    entry = load(logits_table()[0] if with_logits else table())
    plain, _ = joined(entry, dataset())
    order = np.array([4, 0, 5, 2])
    frame, logits = joined(entry, dataset(ids=[VAL[k] for k in order], targets=order))
    pd.testing.assert_frame_equal(frame, plain.iloc[order].reset_index(drop=True))
    if with_logits:
        np.testing.assert_array_equal(logits, entry.array("logits")[order])


def test_one_file_imported_for_two_orders_of_the_images_differs_on_none(load):
    """As two profiles read one set, by number and by class folder: pairs are of the same image."""
    order = np.array([4, 0, 5, 2, 1, 3])
    other = dataset(ids=[VAL[k] for k in order], targets=order)
    entries = load(table(), model="a"), load(table(), other, model="b")
    for data in (dataset(), other):
        correct = {e.meta["model"]: np.equal(*joined(e, data)[0][["pred", "target"]].to_numpy().T) for e in entries}
        (pair,) = accuracy_pairs(correct).itertuples()
        assert (correct["a"] == (data.targets < 4)).all() and (pair.difference, pair.p) == (0, 1)


def test_answers_are_judged_by_the_labels_of_today(load):
    """After image 4's label was corrected to what was predicted, it is right; logits know every label's probability."""
    frame, _ = joined(load(table()), dataset(targets=(0, 1, 2, 9, 0, 5)))
    assert frame["target"].tolist() == [0, 1, 2, 9, 0, 5]
    np.testing.assert_allclose(frame["target_probability"], [0.9, 0.8, 0.7, np.nan, 0.5, np.nan], rtol=1e-6)
    frame, logits = joined(load(logits_table()[0]), dataset(targets=(7, 1, 2, 3, 4, 5)))
    right = softmax(logits[0].astype(np.float32))[7]
    assert frame["target_probability"][0] == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: dataset(ids=[*VAL[:5], "ILSVRC2012_val_00000099"]), "1 of its 6 images, such as .*00000099.*again"),
        (lambda: dataset(columns=np.arange(10)), "its scored classes are not those"),
        (lambda: dataset(classes="mini_world", targets=[0] * N), "its classes are not those"),
    ],
)
def test_other_images_and_classes_are_refused(load, change, message):
    with pytest.raises(InputError, match=message):
        joined(load(table()), change())


def test_other_pictures_under_the_same_names_are_refused(load):
    """Not where the names are ILSVRC's, which mean one image each whatever file it lies in."""
    ids = [f"a{k}" for k in range(N)]
    own = dataset(ids=ids)
    entry = load(table(file_name=ids), own)
    with pytest.raises(InputError, match="its pictures are not those .* import the predictions of mine .* again"):
        joined(entry, replace(own, content="of other files"))
    assert len(joined(entry, replace(own, content="not here", load=None))[0]) == N
    assert len(joined(load(table()), replace(dataset(), content="as an archive"))[0]) == N


def test_an_import_named_like_a_network_is_not_passed_over_in_silence(toy, capsys):
    toy.images(1)
    toy.checkpoint()
    profile = toy.profile()
    data = load_dataset(profile.datasets["images"])
    said = pd.DataFrame({"file_name": data.ids, "predicted_class": 0, "predicted_probability": 0.9})
    said.to_csv(toy.root / "said.csv", index=False)
    command = ["import-predictions", str(toy.root / "said.csv"), "--model", "colour", "--dataset", "images"]
    assert cli.main([*command, "--profile", str(profile.source)]) == 2
    assert "colour is a network of profile toy" in capsys.readouterr().err
    import_predictions(toy.root / "said.csv", "colour", data, Store(toy.store))
    assert toy.outputs().predictions("images", ["none"])["none"]["colour"].correct.all()
    assert "predictions imported as colour are not used" in capsys.readouterr().err


def test_a_file_that_the_profile_names_is_imported_again_when_it_or_the_set_changes(toy):
    folder = toy.images(2)
    content = toy.content(
        {"a": {"source": "predictions", "name": "a", "checkpoint": str(toy.root / "said-{dataset}.csv")}}
    )

    def accuracy(classes=None):
        data = load_dataset(toy.profile(content).datasets["images"])
        if classes is not None:
            said = pd.DataFrame({"file_name": data.ids, "predicted_class": classes(data), "predicted_probability": 0.9})
            said.to_csv(toy.root / "said-images.csv", index=False)
        return toy.outputs(content).predictions("images", ["none"])["none"]["a"].correct.mean()

    assert accuracy(lambda data: data.targets) == 1
    assert accuracy(lambda data: np.where(np.arange(6) == 0, (data.targets + 1) % 3, data.targets)) == 5 / 6
    first, *_, last = sorted(folder.rglob("*.png"))
    assert first.read_bytes() != last.read_bytes()
    first.write_bytes(last.read_bytes())
    readers.LOADED.clear()  # as another process would find it
    assert accuracy() == 5 / 6  # other pictures: what was imported for the old ones is not refused for good
