from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.dimensions.transfer import probe, tables
from beyond_accuracy.dimensions.transfer import run as transfer
from beyond_accuracy.dimensions.transfer.tasks import Task, task_data
from beyond_accuracy.measure.stats import wilson
from beyond_accuracy.show.results import validate_results

N = 1800
FAST = probe.Settings(tolerance=5e-3)


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
    return {task.name: task_data(task, ids, targets, metadata) for task in tasks}, found


@pytest.fixture(scope="module")
def runs(world):
    data, found = world
    return [transfer.probe_task(d, found, "vtab_1k", [0, 1, 2], FAST) for d in data.values()]


def test_better_features_probe_better(runs):
    for run in runs:
        mean = {model: c.mean() for model, c in run.correct.items()}
        assert mean["good"] > mean["clip"] > mean["poor"] > 1 / 4
        assert run.correct["good"].shape == (3, len(run.groups))
        assert run.train_images == 1000 and run.pool_images + len(run.groups) == N
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


def made(correct, groups=None, name="t", group="natural", train=100, pool=10_000, setting="vtab_1k"):
    """Runs of tasks that ask the same dataset: (seeds, n) correctness by model."""
    groups = np.arange(next(iter(correct.values())).shape[1]) if groups is None else groups
    layers = dict.fromkeys(correct, "x")
    return transfer.Runs(Task(name, group, "set"), setting, "main", correct, layers, None, groups, train, pool)


def test_scores_by_hand():
    """Two seeds, four images: the mean over seeds, variance of images and splits, no certainty from a perfect score."""
    correct = {"a": np.array([[1, 1, 1, 0], [0, 1, 0, 0]], bool), "b": np.ones((2, 4), bool)}
    table = transfer.score([made({m: c}, train=9, pool=30) for m, c in correct.items()]).set_index("model")
    assert table.value.to_dict() == pytest.approx({"a": 50.0, "b": 100.0}) and (table.n == 4).all()
    assert table.seed_sd["a"] == pytest.approx(100 * np.std([0.75, 0.25], ddof=1))
    assert (table.ci_low["b"], table.ci_high["b"]) == pytest.approx([100 * end for end in wilson(4, 4)])
    images = 4 / 3 * (0.5**2 + 0.5**2) / 4**2  # means over seeds .5, 1, .5, 0
    splits = 0.125 * (1 / 2 + 9 / 21)
    found = transfer.spread([made({"a": correct["a"]}, train=9, pool=30)], {"a": 1})
    assert found.variance == pytest.approx(images + splits)
    assert found.freedom == pytest.approx(found.variance**2 / (images**2 / 3 + splits**2))
    worth = 0.25 / found.variance * (norm.isf(0.025) / t.isf(0.025, found.freedom)) ** 2
    expected = proportion_confint(0.5 * worth, worth, method="wilson")
    assert (table.ci_low["a"], table.ci_high["a"]) == pytest.approx([100 * end for end in expected])


def test_split_noise_is_pooled_over_models_and_free_of_single_images():
    rng = np.random.default_rng(0)
    correct = {m: rng.random((3, 60)) < 0.6 for m in "abcd"}
    between = np.mean([c.mean(axis=1).var(ddof=1) for c in correct.values()])
    left = [c - c.mean(axis=1, keepdims=True) - c.mean(axis=0) + c.mean() for c in correct.values()]
    single = np.mean([np.sum(r**2) / (2 * 59) / 60 for r in left])  # what neither image nor seed explains
    means = correct["a"].mean(axis=0)
    splits = max(0, between - (1 - np.sqrt(2 / 8)) * single) * (1 / 3 + 1 / 9)
    found = transfer.spread([made(correct, train=20, pool=200)], {"a": 1})
    assert found.variance == pytest.approx(means.var(ddof=1) / 60 + splits) and splits > 0


def test_a_single_seed_has_the_interval_of_its_images():
    correct = {"a": np.arange(400)[None, :] < 300}
    row = transfer.score([made(correct)]).iloc[0]
    assert np.isnan(row.seed_sd)
    assert (row.ci_low, row.ci_high) == pytest.approx([100 * end for end in wilson(300, 400)], abs=0.05)


def test_images_of_one_group_are_drawn_together_and_count_once():
    rng = np.random.default_rng(0)
    correct = {"a": np.repeat(rng.random((1, 20)) < 0.6, 10, axis=1)}
    groups = np.repeat(np.arange(20), 10)
    wide, narrow = (transfer.score([made(correct, g)]).iloc[0] for g in (groups, np.arange(200)))
    assert wide.ci_high - wide.ci_low > 2 * (narrow.ci_high - narrow.ci_low)
    assert (wide.n, narrow.n) == (20, 200)
    with pytest.raises(ValueError, match="a single unit"):
        transfer.score([made(correct, np.zeros(200))])


def test_variance_is_that_of_a_bootstrap_that_draws_shared_images_once():
    """Two tasks over the same scenes, of unequal sizes, one over other images; one model and a paired difference."""
    rng = np.random.default_rng(1)
    hard = rng.normal(size=30)
    sizes = rng.integers(3, 9, 30)
    groups = np.repeat(np.arange(30), sizes)

    def answers(ease):
        return {m: rng.normal(size=(1, len(ease))) < ease + shift for m, shift in (("a", 0.3), ("b", 0.0))}

    runs = [
        made(answers(hard[groups]), groups),
        made(answers(hard[groups[::2]]), groups[::2], "u"),
        replace(made(answers(rng.normal(size=50))), task=Task("v", "natural", "other")),
    ]
    for signs in ({"a": 1}, {"a": 1, "b": -1}):
        values = [sum(sign * run.correct[m][0] for m, sign in signs.items()) for run in runs]
        draws = []
        for _ in range(4_000):
            scenes, images = (np.bincount(rng.integers(0, n, n), minlength=n) for n in (30, 50))
            weights = [scenes[groups], scenes[groups[::2]], images]
            draws.append(np.mean([np.average(v, weights=w) for v, w in zip(values, weights, strict=True)]))
        found = transfer.spread(runs, signs)
        assert found.value == pytest.approx(np.mean([v.mean() for v in values]))
        assert np.sqrt(found.variance) == pytest.approx(np.std(draws), rel=0.05)
        assert found.units == 80


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_other_images_splits_and_pools(seeds):
    """Two tasks over the same 250 images; a split draws 90 of a pool of 200, whose quality moves all answers."""
    rng = np.random.default_rng(seeds)
    covered, alone, rejected = [], [], []
    for _ in range(600):
        drawn = [rng.permutation(200)[:90] for _ in range(seeds)]
        runs = []
        for name in "tu":
            ease, correct = 0.8 * rng.normal(size=250), {}
            for model in "abc":
                quality = 0.8 * rng.normal(size=200)
                split = np.array([quality[rows].mean() for rows in drawn])
                correct[model] = split[:, None] + ease + 0.6 * rng.normal(size=(seeds, 250)) > 0
            runs.append(made(correct, name=name, train=90, pool=200))
        low, high = transfer.share_of(transfer.spread(runs, {"a": 1}))
        covered.append(low <= 0.5 <= high)
        one = [replace(run, correct={m: c.mean(axis=0, keepdims=True) for m, c in run.correct.items()}) for run in runs]
        low, high = transfer.share_of(transfer.spread(one, {"a": 1}))
        alone.append(low <= 0.5 <= high)
        rejected.append(transfer.difference_of(transfer.spread(runs, {"a": 1, "b": -1}))[2] < 0.05)
    assert np.mean(covered) >= 0.93 and np.mean(rejected) <= 0.08
    assert np.mean(alone) < 0.88  # test images alone are not enough


def test_probes_that_guess_have_intervals_of_sensible_width():
    """All that differs between seeds is which images are guessed: no spread is left for the splits."""
    rng = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(200):
        run = made({m: rng.random((3, 250)) < 0.25 for m in "abcd"}, train=90, pool=200)
        low, high = transfer.share_of(transfer.spread([run], {"a": 1}))
        gap = transfer.difference_of(transfer.spread([run], {"a": 1, "b": -1}))
        covered += [low <= 0.25 <= high, gap[0] <= 0 <= gap[1]]
        widths += [high - low, gap[1] - gap[0]]
    assert np.mean(covered) >= 0.92 and max(widths) < 0.4


def test_averages_and_differences(runs):
    table, means = transfer.averages(runs), transfer.score(runs).groupby("model").value.mean()
    overall = table[table.task == "average"].set_index("model")
    assert overall.value.to_dict() == pytest.approx(means.to_dict())
    assert (overall.n == len(runs[0].groups)).all()  # all three ask the same images
    assert set(table.task) == {"average", "average_natural"}  # a group of one task is that task
    assert (overall.ci_high - overall.ci_low < 8).all()
    gaps = transfer.differences(runs).set_index(["dataset", "model_a", "model_b"])
    row = gaps.loc[("average", "good", "poor")]
    assert row.difference == pytest.approx(means["good"] - means["poor"])
    assert 0 < row.ci_low < row.difference < row.ci_high and row.p < 0.001
    assert len(gaps) == (3 + 2) * 3


def test_equal_answers_are_no_difference_and_no_certainty():
    correct = np.random.default_rng(0).random((3, 50)) < 0.7
    row = transfer.differences([made({"a": correct, "b": correct.copy()})]).iloc[0]
    assert row.difference == 0 and row.p == 1 and row.ci_low < -1 and row.ci_high > 1


def test_sun397_is_averaged_with_and_without():
    rng = np.random.default_rng(0)
    shares = {"dtd": 0.5, "pets": 0.5, "sun397": 1.0}
    runs = [made({"a": rng.random((1, 400)) < share}, name=name) for name, share in shares.items()]
    table = transfer.averages(runs).set_index("task")
    values = transfer.score(runs).set_index("task").value
    assert table.value["average"] == pytest.approx(values.mean())
    assert table.value["average_without_sun397"] == pytest.approx(values[["dtd", "pets"]].mean())


def test_few_shot_table_averages_tasks_that_have_the_whole_curve():
    rng = np.random.default_rng(0)
    make = lambda name, group: made({"a": rng.random((2, 60)) < 0.5}, name=name, group=group)  # noqa: E731
    few = {1: [make("t", "natural"), make("u", "natural"), make("v", "structured")]}
    few |= {5: [make("t", "natural"), make("u", "natural")], 50: []}
    table = tables.few_shot_table(few)
    assert table.panel.tolist() == ["all (2 tasks)"] * 2 + ["natural (2 tasks)"] * 2
    assert table.shots.tolist() == [1, 5, 1, 5] and set(table.tasks) == {"t, u"}
    expected = 50 * sum(run.correct["a"].mean() for run in few[5])
    assert table.value.iloc[1] == pytest.approx(expected)
    rows = tables.few_shot_rows(few)
    assert rows.metric.value_counts().to_dict() == {"accuracy:shots=1": 3, "accuracy:shots=5": 2}


def test_protocols_name_the_tasks():
    correct = {"a": np.ones((1, 2), bool)}
    runs = [made(correct, name=n, setting=s) for n, s in (("t", "vtab_1k"), ("u", "vtab_full"), ("v", "vtab_1k"))]
    assert tables.protocols(runs) == "vtab_1k: t, v; vtab_full: u"


def test_rows_fit_the_results_schema(runs):
    frames = [transfer.results_rows(table, "accuracy") for table in (transfer.score(runs), transfer.averages(runs))]
    rows = pd.concat(frames).assign(dimension="transfer")
    assert len(validate_results(rows)) == 9 + 6


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
