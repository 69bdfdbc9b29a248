"""The tables of runs: metrics by hand, which runs are read, and that they come back as they were written."""

import json

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.dimensions import ablation as page
from beyond_accuracy.dimensions import calibration
from beyond_accuracy.dimensions.ablation import covariance_path, read_runs, recipe_runs
from mini_world import ablation
from mini_world.ablation import covariance_rows, quantities, run_folders
from mini_world.classes import CLASSES


def predictions(pred, target):
    return pd.DataFrame({"pred": pred, "target": target, "confidence": 0.9, "target_probability": 0.5})


def values(found):
    return {q.metric: (pytest.approx(q.value), q.n) for q in found}


def test_clean_set_by_hand():
    rows = values(quantities("world_val", predictions([0, 1, 2, 3], [0, 1, 2, 0]), pd.DataFrame()))
    assert rows == {"accuracy": (75.0, 4), "ece": (0.15, 4), "signed_gap": (0.15, 4), "nll": (np.log(2), 4)}


def test_shape_bias_counts_only_the_two_cues():
    columns = pd.DataFrame({"texture": [CLASSES[5]] * 4})
    rows = values(quantities("world_cue", predictions([0, 0, 5, 9], [0, 0, 0, 0]), columns))
    assert rows["shape_bias"] == (2 / 3, 3)
    undecided = values(quantities("world_cue", predictions([9, 9, 9, 9], [0, 0, 0, 0]), columns))
    assert np.isnan(undecided["shape_bias"][0].expected)


def test_several_labels_and_factors():
    frame = predictions([1, 4], [np.array([1, 2]), np.array([1, 2])])
    assert values(quantities("world_hard", frame, pd.DataFrame()))["accuracy"] == (50.0, 2)
    columns = pd.DataFrame({"factor": ["scene_light", "object_yaw", "object_yaw"], "cluster": ["a", "a", "b"]})
    found = {q.metric: q for q in quantities("world_pug", predictions([0, 0, 1], [0, 0, 0]), columns)}
    assert found["accuracy:object_yaw"].value == 50.0 and found["accuracy:scene_light"].value == 100.0
    assert found["accuracy:object_yaw"].row()["clusters"] == 2 and found["accuracy:object_yaw"].row()["n"] == 2
    assert found["accuracy"].row()["clusters"] == 2 and found["accuracy"].row()["n"] == 3


def test_per_image_values_have_the_metric_as_mean_and_its_bootstrap_variance():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 3000)
    correct = rng.random(3000) < 0.8 * confidence
    shape = rng.random(3000) < 0.3
    texture = ~shape & (rng.random(3000) < 0.4)
    draws = rng.integers(0, 3000, (1000, 3000))
    for images, metric in (
        (ablation.ece_images(confidence, correct), lambda i: calibration.ece(confidence[i], correct[i])),
        (ablation.shape_bias_images(shape, texture), lambda i: shape[i].sum() / (shape | texture)[i].sum()),
    ):
        assert images.mean() == pytest.approx(metric(np.arange(3000)), abs=1e-12)
        assert images.std() / 3000**0.5 == pytest.approx(np.std([metric(i) for i in draws]), rel=0.12)


def finished(folder, cell="vit_sup", seed=1, recipe="short", training_set="train"):
    folder.mkdir(parents=True)
    about = {"cell": cell, "seed": seed, "samples_seen": 64000, "minutes": 4.5, "device": "CPU, 1 thread"}
    about["recipe"] = {"name": recipe, "data": {"subset": "all", "set": training_set}}
    (folder / "training.json").write_text(json.dumps(about))


def test_only_finished_runs_of_the_four_cells_and_the_shipped_models(tmp_path):
    shipped = tmp_path / "shipped"
    with pytest.raises(DataMissing, match="no finished run"):
        run_folders(tmp_path, shipped)
    finished(tmp_path / "runs" / "short" / "vit_sup-1" / "model")
    finished(tmp_path / "runs" / "short" / "reference-0" / "model", cell="reference")
    (tmp_path / "runs" / "short" / "vit_clip-1" / "model").mkdir(parents=True)
    finished(shipped / "vit_clip", "vit_clip", 0, "default")
    assert list(run_folders(tmp_path, shipped)) == ["short/vit_sup-1", "default/vit_clip-0"]
    about = ablation.describe("default/vit_clip-0", shipped / "vit_clip")
    assert (about["architecture"], about["objective"], about["seed"]) == ("transformer", "clip", 0)


@pytest.fixture
def table(tmp_path):
    """Two runs on two sets, written as the command writes them."""
    rng, measured, rows = np.random.default_rng(1), {}, []
    columns = pd.DataFrame({"texture": rng.choice(CLASSES, 40), "cluster": np.repeat(range(10), 4)})
    for run, training_set in (("short/vit_sup-1", "train"), ("short_broad/convnext_clip-2", "train_broad")):
        judged = [predictions(*rng.integers(0, 4, (2, 40))) for _ in range(2)]
        measured[run] = quantities("world_val", judged[0], columns) + quantities("world_cue", judged[1], columns)
        recipe, _, rest = run.partition("/")
        finished(tmp_path / run, rest[:-2], int(rest[-1]), recipe, training_set)
        rows += [{**ablation.describe(run, tmp_path / run), **q.row()} for q in measured[run]]
    path = tmp_path / "ablation.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    pd.DataFrame(covariance_rows(measured)).to_csv(covariance_path(path), index=False)
    return path, measured


def test_what_is_written_is_read(table):
    path, found = table
    read = read_runs(path)
    assert read.runs.run.tolist() == list(found) and read.runs.diversity.tolist() == ["narrow", "broad"]
    for k, same in enumerate(zip(*found.values(), strict=True)):
        assert read.values[k] == pytest.approx([q.value for q in same], nan_ok=True)
        if np.isfinite(read.values[k]).all():
            expected = page.image_covariance([q.images for q in same], same[0].clusters)
            assert read.covariance[k] == pytest.approx(expected)
    assert recipe_runs(read, "short").runs.run.tolist() == ["short/vit_sup-1"]
    with pytest.raises(DataMissing, match="no runs of recipe long.*--recipe long"):
        recipe_runs(read, "long")
    cost = page.describe(read)[["recipe", "seeds", "samples", "minutes"]]
    assert cost.values.tolist() == [["short", 1, 64000, 4.5], ["short_broad", 1, 64000, 4.5]]


def test_tables_that_cannot_be_used(table):
    path, found = table
    with pytest.raises(DataMissing, match="no table of training runs; make it with: python -m mini_world.train"):
        read_runs(path.with_name("other.csv"))
    covariance = pd.read_csv(covariance_path(path))
    covariance.iloc[1:].to_csv(covariance_path(path), index=False)
    with pytest.raises(InputError, match="other runs or metrics"):
        read_runs(path)
    covariance_path(path).unlink()
    with pytest.raises(DataMissing, match="ablation_covariance.csv"):
        read_runs(path)
    covariance.to_csv(covariance_path(path), index=False)
    frame = pd.read_csv(path)
    pd.concat([frame, frame.iloc[:1]]).to_csv(path, index=False)
    with pytest.raises(InputError, match="two rows for the same"):
        read_runs(path)
    frame.drop(columns="minutes").to_csv(path, index=False)
    with pytest.raises(InputError, match="missing columns minutes"):
        read_runs(path)
    with pytest.raises(InputError, match="different sets"):
        covariance_rows({run: q[: 1 + k] for k, (run, q) in enumerate(found.items())})


def test_the_shipped_table_and_the_page_come_together():
    table = resolve(load_profile("mini").dimensions.get("ablation", {}).get("table", "assets:mini_world/ablation.csv"))
    assert table.is_file() == ("ablation" in load_profile("mini").dimensions)
    if not table.is_file():
        pytest.skip("no table of training runs ships yet")
    narrow = recipe_runs(read_runs(table), "short")
    found = page.effects(narrow, page.TWO)
    assert narrow.runs.groupby(list(page.TWO)).seed.nunique().min() >= 3
    accuracies = found[found.metric == "accuracy"]
    assert set(accuracies.dataset) == set(ablation.SETS) and (accuracies.ci_low < accuracies.ci_high).all()
