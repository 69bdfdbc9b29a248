import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from beyond_accuracy.base import paths
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import published
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.dimensions import claims
from beyond_accuracy.inference.predictions import Predictions

ROBUSTNESS = [f"imagenet_{name}" for name in ("v2", "a", "r", "c", "hard", "sketch", "real")]
ORDER = ["vit_sup", "convnext_sup", "vit_clip", "convnext_clip"]


def values(dimension, dataset, metric):
    return published.paper_values(dimension, dataset, metric).set_index("model").value[ORDER].to_numpy()


def test_row_counts_and_sources():
    table = published.paper()
    assert len(table) == 384
    assert table.source.value_counts().to_dict() == {"digitised": 240, "printed": 87, "derived": 57}
    assert not table.duplicated(published.KEY).any()
    assert (table.groupby(["dimension", "dataset", "metric"]).model.nunique() == 4).all()
    assert table.value.notna().all() and (table.tolerance > 0).all()
    board = published.leaderboard()
    assert len(board) == 300 and board.source.value_counts().to_dict() == {"timm": 189, "open_clip": 111}
    assert not board.model.duplicated().any()


@pytest.mark.parametrize("name", ["paper.csv", "leaderboard.csv"])
def test_carried_tables_equal_their_source(name, shared_dir):
    source = pd.read_csv(shared_dir / "reference" / name)
    ours = published.paper() if name == "paper.csv" else published.leaderboard()
    pd.testing.assert_frame_equal(ours, source)


def test_known_values():
    assert values("calibration", "imagenet_1k", "accuracy") == pytest.approx([85.5, 85.5, 67.0, 66.3])
    assert values("robustness", "imagenet_a", "accuracy") == pytest.approx([60.0, 52.9, 33.2, 30.9])
    assert values("shape_bias", "cue_conflict", "shape_bias") == pytest.approx([0.3986, 0.3331, 0.4647, 0.4468])
    assert published.paper_values("calibration", "imagenet_1k", "brier").empty


def test_averages_are_the_means_the_notes_state():
    """The definitions of every average in the paper, recomputed from its own rows."""
    robustness = np.mean([values("robustness", d, "accuracy") for d in ROBUSTNESS], axis=0)
    assert robustness == pytest.approx([60.20, 60.73, 49.06, 47.99], abs=0.006)
    assert robustness == pytest.approx(values("robustness", "average", "accuracy"), abs=0.11)
    table = published.paper()
    vtab = table[(table.dimension == "transfer") & (table.dataset != "average")]
    assert vtab.dataset.nunique() == 19
    mean19 = vtab.groupby("model").value.mean()[ORDER].to_numpy()
    mean18 = vtab[vtab.dataset != "sun397"].groupby("model").value.mean()[ORDER].to_numpy()
    assert mean19 == pytest.approx([67.85, 71.02, 72.16, 72.18], abs=0.006)
    assert mean18 == pytest.approx([66.29, 69.49, 70.76, 70.77], abs=0.006)
    for dimension, dataset, metric, expected, printed_tolerance in (
        ("mistakes", "imagenet_x", "error_ratio", [1.455, 1.432, 1.197, 1.238], 0.004),
        ("synthetic", "pug_imagenet", "accuracy", [29.5, 32.2, 25.3, 27.1], 0.2),
    ):
        rows = table[(table.dimension == dimension) & (table.metric != f"{metric}:average")]
        mean = rows.groupby("model").value.mean()[ORDER].to_numpy()
        assert mean == pytest.approx(expected, abs=0.06 if dimension == "synthetic" else 0.0006)
        assert mean == pytest.approx(values(dimension, dataset, f"{metric}:average"), abs=printed_tolerance)


def test_published_values_of_the_checkpoints():
    table = published.published().set_index(["dataset", "metric", "model"]).value
    assert table["imagenet_1k", "accuracy", "convnext_sup"] == 85.814
    assert table["imagenet_a", "accuracy", "vit_sup"] == 57.147
    assert table["imagenet_1k", "accuracy", "vit_clip"] == 66.98
    assert table["cue_conflict", "shape_bias", "convnext_clip"] == pytest.approx(313 / 738, abs=5e-5)
    # the same rows of the carried leaderboard say the same
    board = published.leaderboard().set_index("model")
    for (dataset, metric, model), value in table.items():
        if metric == "accuracy" and dataset != "cue_conflict":
            assert board.loc[published.CHECKPOINTS[model], dataset] == pytest.approx(value, abs=0.0005)


def result(dataset="imagenet_1k", model="vit_sup", value=85.6, low=85.3, high=85.9, dimension="robustness", **more):
    row = {"dimension": dimension, "dataset": dataset, "metric": "accuracy", "model": model, "value": value}
    return row | {"ci_low": low, "ci_high": high, "n": 50000, "unit": "percent"} | more


def test_compare_verdicts():
    ours = pd.DataFrame(
        [
            result(),  # paper 85.5: inside the interval
            result(model="convnext_sup", value=85.0, low=84.8, high=85.46),  # 85.5 - 0.05 lies inside
            result(model="vit_clip", value=66.0, low=65.6, high=66.4),  # paper 67.0: outside
            result(model="convnext_clip", value=66.25, low=np.nan, high=np.nan),  # no interval: exactly the tolerance
            result(dataset="sun397", dimension="transfer", value=75.0, low=74.5, high=75.5),  # not a target
            result(dataset="my_own_set"),  # not in the paper
        ]
    )
    compared = published.compare(ours).set_index(["dataset", "model"])
    assert len(compared) == 5
    clean = compared.loc["imagenet_1k"]
    assert clean.agrees.to_dict() == {"vit_sup": True, "convnext_sup": True, "vit_clip": False, "convnext_clip": True}
    assert clean.difference["vit_sup"] == pytest.approx(0.1)
    sun = compared.loc[("sun397", "vit_sup")]
    assert not sun.target and "training images" in sun.caveat
    counts = published.summarise_agreement(compared.reset_index()).set_index("dimension")
    assert counts.loc["robustness", ["measured", "agree", "differ"]].tolist() == [4, 3, 1]
    assert counts.loc["transfer", ["measured", "agree", "differ", "not_a_target"]].tolist() == [1, 0, 0, 1]
    assert counts.numbers.sum() == 384
    off = published.disagreeing(compared.reset_index())
    assert off[["model", "reference"]].values.tolist() == [["vit_clip", 67.0]]
    assert claims.reproduced(compared, "paper")[0].startswith("3 of 4 numbers measured agree with the paper's")
    nothing = published.compare(ours.iloc[:0])
    assert not len(published.summarise_agreement(nothing)) and claims.reproduced(nothing, "paper") == []


def test_the_plain_run_is_compared_with_each_ladders_start():
    compared = published.compare(pd.DataFrame([result(dimension="invariance")]))
    assert set(compared.metric) == {"accuracy:scale=1", "accuracy:shift=0", "accuracy:resolution=224"}
    paper = published.paper().query("dimension == 'invariance'")
    same = published.compare(paper.assign(ci_low=np.nan, ci_high=np.nan, n=1))
    assert len(same) == len(paper) and same.agrees.all()


def test_compare_of_nothing_is_empty_and_wrong_units_and_repeated_rows_are_refused():
    compared = published.compare(pd.DataFrame([result(dataset="my_own_set")]))
    assert compared.empty and "agrees" in compared
    with pytest.raises(InputError, match="fraction"):
        published.compare(pd.DataFrame([result(value=0.856, low=0.853, high=0.859, unit="fraction")]))
    with pytest.raises(InputError, match="more than once"):
        published.compare(pd.DataFrame([result(), result()]))


def test_tables_are_copies():
    table = published.paper()
    table.loc[0, "value"] = -1
    assert published.paper().value[0] != -1


def test_the_papers_checkpoints_are_recognised():
    specs = load_profile("paper").models
    assert all(published.is_checkpoint(spec) for spec in specs.values())
    assert not any(published.is_checkpoint(spec) for spec in load_profile("mini").models.values())
    assert not published.is_checkpoint(replace(specs["vit_clip"], pretrained="laion400m_e32"))
    assert not published.is_checkpoint(replace(specs["vit_sup"], checkpoint="other.safetensors"))


# Annotations of the validation set ------------------------------------------------------------------------------------


def test_real_labels():
    real = published.real_labels()
    counts = np.bincount([len(labels) for labels in real.values()])
    assert counts.tolist() == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert next(iter(real)) == "ILSVRC2012_val_00000001" and "ILSVRC2012_val_00050000" in real


def test_original_labels_score_as_published():
    """Predicting the original label scores 42,164 of the 46,837 images with a ReaL label: 90.0228 %."""
    pytest.importorskip("imagenet_x", reason="labels of the validation ids come with imagenet-x")
    data = load_dataset(load_profile("predictions").datasets["imagenet_1k"])
    frame = pd.DataFrame({"id": data.ids.astype(str), "target": data.targets, "pred": data.targets, "confidence": 1.0})
    found = Predictions("labels", "imagenet_1k", "none", frame, None, None, {}).relabel("real", published.real_labels())
    assert (int(found.correct.sum()), len(found)) == (42_164, 46_837)


def test_imagenet_x_counts():
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    top, multi = published.factors_imagenet_x("top"), published.factors_imagenet_x("multi")
    counts = top[list(published.FACTORS)].sum()
    assert len(top) == 46_110 and len(published.factors_imagenet_x("top", filter_prototypes=False)) == 48_868
    assert counts.to_dict() | {"pose": 15064, "texture": 282, "multiple_objects": 40} == counts.to_dict()
    assert top.index.is_unique and top.index[0].startswith("ILSVRC2012_val_")
    marks = multi[list(published.FACTORS)].sum(axis=1)
    assert marks.mean() > 1.5 and top[list(published.FACTORS)].sum(axis=1).max() == 1
    assert top["metaclass"].nunique() == 17


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_x", None)
    published.factors_imagenet_x.cache_clear()
    with pytest.raises(DataMissing, match=r"pip install 'beyond-accuracy\[imagenet-x\]'"):
        published.factors_imagenet_x("top")


def test_factors_from_metadata():
    metadata = pd.DataFrame(
        {"x_pose": [1, 0, 1], "x_darker": [1, 0, 0], "x_top": ["darker", "pose", "pose"], "scale": 1.0},
        index=pd.Index(["a", "typical", "c"], name="id"),
    )
    multi = published.factor_frame(np.array(["c", "a"]), metadata, None, "multi")
    assert multi.index.tolist() == ["c", "a"] and multi.to_dict("list") == {"pose": [1, 1], "darker": [0, 1]}
    # an image without factors is typical: the factor that it comes nearest to is none, and it is left out
    for kind, expected in (("top", {"pose": [1, 0], "darker": [0, 1]}), ("multi", {"pose": [1, 1], "darker": [0, 1]})):
        frame = published.factor_frame(np.array(["c", "typical", "a"]), metadata, None, kind)
        assert frame.index.tolist() == ["c", "a"] and frame.to_dict("list") == expected
    other = metadata.assign(x_top="darker")
    assert published.factor_frame(np.array(["c"]), other, None, "top").to_numpy().tolist() == [[0, 0]]
    with pytest.raises(InputError, match="no factor columns"):
        published.factor_frame(np.array(["a"]), metadata[["scale"]], None)


def test_every_top_factor_of_the_mini_world_is_one_that_the_image_has():
    path = paths.ASSETS / "mini_world" / "world_val.parquet"
    columns = [name for name in pq.read_schema(path).names if name.startswith("x_")]
    metadata = pd.read_parquet(path, columns=["id", *columns]).set_index("id")
    top, multi = (published.factor_frame(metadata.index, metadata, None, kind) for kind in ("top", "multi"))
    assert len(metadata) == 3200 and len(top) == len(multi) == 2487
    assert (top.sum(axis=1) == 1).all() and (top.to_numpy() <= multi.to_numpy()).all()
    assert (top.sum() <= multi.sum()).all()


def test_factors_of_imagenet_ids():
    pytest.importorskip("imagenet_x", reason="the optional extra imagenet-x is not installed")
    known = published.factors_imagenet_x("top").index[[5, 2]].to_numpy()
    frame = published.factor_frame(np.array([known[0], "ILSVRC2012_val_99999999", known[1]]), None, "imagenet_x")
    assert frame.index.tolist() == known.tolist() and list(frame.columns) == list(published.FACTORS)
    what, groups = published.image_groups(known, "imagenet_x", np.array(["a", "b"]))
    expected = published.factors_imagenet_x("top").loc[known, "metaclass"].tolist()
    assert what == "metaclass" and groups.tolist() == expected
    assert published.image_groups(known, None, np.array(["a", "b"]))[1].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="none of the images"):
        published.factor_frame(np.array(["x"]), None, "imagenet_x")
