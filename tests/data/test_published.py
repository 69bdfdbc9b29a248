from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data import published

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


def result(
    dataset="imagenet_1k", model="vit_sup", value=85.6, low=85.3, high=85.9, unit="percent", dimension="robustness"
):
    return dict(
        dimension=dimension, dataset=dataset, metric="accuracy", model=model, value=value, ci_low=low, ci_high=high,
        n=50000, unit=unit,
    )  # fmt: skip


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


def test_the_plain_run_is_compared_with_each_ladders_start():
    compared = published.compare(pd.DataFrame([result(dimension="invariance")]))
    assert set(compared.metric) == {"accuracy:scale=1", "accuracy:shift=0", "accuracy:resolution=224"}
    paper = published.paper().query("dimension == 'invariance'")
    same = published.compare(paper.assign(ci_low=np.nan, ci_high=np.nan, n=1))
    assert len(same) == len(paper) and same.agrees.all()


def test_compare_with_nothing_measured_is_empty_with_columns():
    compared = published.compare(pd.DataFrame([result(dataset="my_own_set")]))
    assert compared.empty and "agrees" in compared


def test_compare_refuses_wrong_units_and_repeated_rows():
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
