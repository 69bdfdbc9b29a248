from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy import transfer
from beyond_accuracy.errors import InputError
from beyond_accuracy.metrics import probe
from beyond_accuracy.results import validate_results
from beyond_accuracy.stats import wilson
from beyond_accuracy.tasks import Task, task_data

N = 1800
FAST = probe.Settings(tolerance=1e-3, refinements=1)


@pytest.fixture(scope="module")
def world():
    """Two factors; the good model shows both, the poor one hides them in noise. CLIP has two layers."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N, 6))
    ids = np.array([f"w{i}" for i in range(N)])
    metadata = pd.DataFrame({"yaw": latent[:, 0], "light": latent[:, 1]}, index=pd.Index(ids, name="id"))
    targets = (latent[:, 2] > 0).astype(int)

    def features(model, **layers):
        drawn = {
            name: (latent @ rng.normal(size=(6, 24)) + noise * rng.normal(size=(N, 24))).astype(np.float16)
            for name, noise in layers.items()
        }
        return SimpleNamespace(model=model, ids=ids, targets=targets, layers=drawn, meta={"key": model})

    found = {
        "good": features("good", pre_logits=0.5),
        "poor": features("poor", pre_logits=8.0),
        "clip": features("clip", projected=4.0, trunk=0.5),
    }
    tasks = [
        Task("object", "natural", "w", zero_shot=True),
        Task("azimuth", "structured", "w", column=("yaw",), bins=4),
        Task("sun397x", "natural", "w", column=("light",), bins=2),
    ]
    return {t.name: task_data(t, ids, targets, metadata) for t in tasks}, found


@pytest.fixture(scope="module")
def runs(world):
    data, found = world
    return [transfer.probe_task(d, found, "vtab_1k", [0, 1, 2], FAST) for d in data.values()]


def test_better_features_probe_better(runs):
    for run in runs:
        mean = {model: c.mean() for model, c in run.correct.items()}
        assert mean["good"] > mean["clip"] > mean["poor"] > 1 / 4
        assert run.correct["good"].shape == (3, len(run.groups)) and run.train_images == 1000
        assert run.layers == {"good": "pre_logits", "poor": "pre_logits", "clip": "projected"}
        assert len(run.notes) == 9 and run.notes.converged.all()


def test_views_choose_layers(world):
    data, found = world
    run = transfer.probe_task(data["azimuth"], found, "vtab_1k", [0], FAST, view="before_projection")
    assert run.layers["clip"] == "trunk" and run.layers["good"] == "pre_logits"
    main = transfer.probe_task(data["azimuth"], found, "vtab_1k", [0], FAST)
    assert run.correct["clip"].mean() > main.correct["clip"].mean() + 0.1


def test_outcomes_are_kept_and_keyed_by_what_matters(world, tmp_path, monkeypatch):
    data, found = world
    only = {"good": found["good"]}
    first = transfer.probe_task(data["azimuth"], only, "shots=5", [0, 1], FAST, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    monkeypatch.setattr(transfer, "run_probe", lambda *a: pytest.fail("fitted again"))
    again = transfer.probe_task(data["azimuth"], only, "shots=5", [0, 1], FAST, folder=tmp_path)
    assert np.array_equal(first.correct["good"], again.correct["good"])
    pd.testing.assert_frame_equal(first.notes, again.notes)
    other_device = probe.Settings(**{**vars(FAST), "device": "cuda"})
    transfer.probe_task(data["azimuth"], only, "shots=5", [0], other_device, folder=tmp_path)
    changed = SimpleNamespace(**{**vars(found["good"]), "meta": {"key": "other weights"}})
    for features, setting, settings in (
        ({"good": changed}, "shots=5", FAST),
        (only, "shots=1", FAST),
        (only, "shots=5", probe.Settings()),
    ):
        with pytest.raises(pytest.fail.Exception, match="fitted again"):
            transfer.probe_task(data["azimuth"], features, setting, [0], settings, folder=tmp_path)


def test_scores_by_hand():
    """Two seeds, four images: the mean over seeds, Wilson with one seed, no certainty from a perfect score."""
    correct = {"a": np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), "b": np.ones((2, 4), bool)}
    run = transfer.Runs(Task("t", "natural"), "vtab_1k", "main", correct, {"a": "x", "b": "x"}, None, np.arange(4), 9)
    table = transfer.score([run], 500, np.random.default_rng(0)).table.set_index("model")
    assert table.value.to_dict() == {"a": 62.5, "b": 100.0}
    assert table.seed_sd["a"] == pytest.approx(100 * np.std([0.75, 0.5], ddof=1))
    assert table.ci_low["b"] == pytest.approx(100 * wilson(4, 4).low) and table.ci_high["b"] == pytest.approx(100)
    single = {"a": correct["a"][:1]}
    run = transfer.Runs(Task("t", "natural"), "vtab_1k", "main", single, {"a": "x"}, None, np.arange(4), 9)
    row = transfer.score([run], 500, np.random.default_rng(0)).table.iloc[0]
    assert (row.ci_low, row.ci_high) == pytest.approx([100 * end for end in wilson(3, 4)])


def test_images_of_one_group_are_drawn_together():
    rng = np.random.default_rng(0)
    correct = np.repeat(rng.random((3, 20)) < 0.6, 10, axis=1)
    groups = np.repeat(np.arange(20), 10)
    make = lambda g: transfer.Runs(Task("t", "natural"), "s", "main", {"a": correct}, {"a": "x"}, None, g, 1)  # noqa: E731
    wide, narrow = (transfer.score([make(g)], 800, rng).table.iloc[0] for g in (groups, np.arange(200)))
    assert wide.ci_high - wide.ci_low > 2 * (narrow.ci_high - narrow.ci_low)


def test_averages_and_differences(runs):
    scores = transfer.score(runs, 2000, np.random.default_rng(0))
    table = transfer.averages(scores)
    means = scores.table.groupby("model").value.mean()
    overall = table[table.task == "average"].set_index("model")
    assert overall.value.to_dict() == pytest.approx(means.to_dict())
    assert (overall.n == 3).all() and set(table.task) == {"average", "average_natural", "average_structured"}
    assert (overall.ci_high - overall.ci_low < 6).all()
    gaps = transfer.differences(scores).set_index(["dataset", "model_a", "model_b"])
    row = gaps.loc[("average", "good", "poor")]
    assert row.difference == pytest.approx(means["good"] - means["poor"])
    assert 0 < row.ci_low < row.difference < row.ci_high and row.p <= 2 / 2001
    assert len(gaps) == (3 + 3) * 3


def test_sun397_is_averaged_with_and_without():
    rng = np.random.default_rng(0)
    make = lambda name, share: transfer.Runs(  # noqa: E731
        Task(name, "natural"), "s", "main", {"a": rng.random((1, 400)) < share}, {"a": "x"}, None, np.arange(400), 1
    )
    scores = transfer.score([make("dtd", 0.5), make("pets", 0.5), make("sun397", 1.0)], 200, rng)
    table = transfer.averages(scores).set_index("task")
    values = scores.table.set_index("task").value
    assert table.value["average"] == pytest.approx(values.mean())
    assert table.value["average_without_sun397"] == pytest.approx(values[["dtd", "pets"]].mean())


def test_rows_fit_the_results_schema(runs):
    scores = transfer.score(runs, 200, np.random.default_rng(0))
    frames = [transfer.results_rows(t, "accuracy") for t in (scores.table, transfer.averages(scores))]
    rows = pd.concat(frames).assign(dimension="transfer")
    assert len(validate_results(rows)) == 9 + 9


def test_a_leak_is_refused(world):
    data, found = world
    part = data["object"]
    copies = SimpleNamespace(**vars(found["good"]))
    copies.layers = {"pre_logits": np.repeat(found["good"].layers["pre_logits"][:1], N, axis=0)}
    with pytest.raises(InputError, match="object: 100 % of the test images"):
        transfer.probe_task(part, {"good": copies}, "vtab_1k", [0], FAST)


def test_load_task_checks_that_models_saw_the_same_images(world):
    _, found = world
    metadata = pd.DataFrame(index=pd.Index(found["good"].ids, name="id"))
    dataset = SimpleNamespace(classes=SimpleNamespace(names=("no", "yes")), metadata=metadata)
    study = SimpleNamespace(features=lambda name: found, dataset=lambda name: dataset)
    data, features = transfer.load_task(study, Task("object", "natural", "w"))
    assert data.names == ("no", "yes") and features is found
    fewer = SimpleNamespace(**{**vars(found["poor"]), "ids": found["poor"].ids[1:]})
    study = SimpleNamespace(features=lambda name: {**found, "poor": fewer}, dataset=lambda name: dataset)
    with pytest.raises(InputError, match="different images"):
        transfer.load_task(study, Task("object", "natural", "w"))
    study = SimpleNamespace(features=lambda name: {}, dataset=lambda name: dataset)
    with pytest.raises(InputError, match="no model of this run has features"):
        transfer.load_task(study, Task("object", "natural", "w"))


def test_small_tasks_fall_back_on_the_full_protocol(world):
    data, _ = world
    assert transfer.possible_setting(data["object"], "vtab_1k") == "vtab_1k"
    small = SimpleNamespace(fold=np.repeat(["train", "test"], [900, 100]))
    assert transfer.possible_setting(small, "vtab_1k") == "vtab_full"
