"""From a profile's tasks to probes, kept outcomes and zero-shot answers; means, intervals and differences of these."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.dimensions.transfer import probe, run
from beyond_accuracy.dimensions.transfer.tasks import Task, parse_tasks, task_data
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure.stats import wilson
from beyond_accuracy.page import Page
from beyond_accuracy.show.results import RESULT_COLUMNS, validate_results

N = 1800
LAYERS = {"good": "pre_logits", "poor": "pre_logits", "clip": "projected"}
FAST = probe.Settings(tolerance=5e-3)
COUNT, WIDTH = 300, 8
IDS = np.array([f"i{k}" for k in range(COUNT)])
CLASSES = ClassSpace("c", ("0", "1", "2"), ("cat", "dog", "owl"), ("a {c}",))


def frame(ids, **columns):
    return pd.DataFrame(columns, index=pd.Index(ids, name="id"))


def but(found, **changes):
    """Features of a model with something else instead."""
    return SimpleNamespace(**vars(found) | changes)


@pytest.fixture(scope="module")
def world():
    """Two factors; the good model shows both, the poor one hides them in noise. CLIP has two layers."""
    rng = np.random.default_rng(0)
    latent, ids = rng.normal(size=(N, 6)), np.array([f"w{i}" for i in range(N)])
    metadata, targets = frame(ids, yaw=latent[:, 0], light=latent[:, 1]), (latent[:, 2] > 0).astype(int)

    def features(model, **layers):
        drawn = {
            name: (latent @ rng.normal(size=(6, 24)) + noise * rng.normal(size=(N, 24))).astype(np.float16)
            for name, noise in layers.items()
        }
        return SimpleNamespace(model=model, ids=ids, targets=targets, layers=drawn, meta={"key": model})

    noise = {"good": {"pre_logits": 0.5}, "poor": {"pre_logits": 8.0}, "clip": {"projected": 4.0, "trunk": 0.5}}
    tasks = [
        Task("object", "natural", "w", zero_shot=True),
        Task("azimuth", "structured", "w", column="yaw", bins=4),
    ]
    found = {model: features(model, **layers) for model, layers in noise.items()}
    return {task.name: task_data(task, ids, targets, metadata) for task in tasks}, found


def probed(folder, data, models, setting="vtab_1k", seeds=(0,), settings=FAST, layer=run.PROJECTED):
    return run.probe_task(data, models, setting, seeds, settings, layer, folder)


def test_better_features_probe_better(world, tmp_path):
    data, models = world
    runs = [probed(tmp_path, d, models, seeds=[0, 1]) for d in data.values()]
    for found in runs:
        mean = {model: c.mean() for model, c in found.correct.items()}
        assert mean["good"] > mean["clip"] > mean["poor"] > 1 / 4
        assert found.correct["good"].shape == (2, len(found.groups))
        assert found.train_images == 1000 and found.pool_images + len(found.groups) == N
        assert dict(zip(found.notes.model, found.notes.layer, strict=True)) == LAYERS
        assert len(found.notes) == 6 and found.notes.converged.all()
    rows = pd.concat([run.score(runs), run.averages(runs)]).assign(dimension="transfer")
    assert len(validate_results(rows[list(RESULT_COLUMNS)])) == 6 + 3
    fits = run.fits(runs)
    assert fits.fits.tolist() == [6] * 2 and fits.not_converged.sum() == 0 and (fits.seed_sd > 0).all()
    before = probed(tmp_path, data["azimuth"], models, layer=run.TRUNK)  # of CLIP alone, and all others as they were
    assert before.notes.layer.tolist() == ["pre_logits", "pre_logits", "trunk"]
    assert before.correct["clip"].mean() > runs[1].correct["clip"][0].mean() + 0.1
    assert np.array_equal(before.correct["good"][0], runs[1].correct["good"][0])


def test_outcomes_are_kept_and_keyed_by_what_matters(world, tmp_path):
    data, good = world[0]["azimuth"], world[1]["good"]

    def kept(features, setting="shots=5", seeds=(0,), settings=FAST):
        """The runs, and how many outcomes are kept then."""
        found = probed(tmp_path, data, {"good": features}, setting, seeds, settings)
        return found, len(list(tmp_path.glob("*.npz")))

    first, count = kept(good, seeds=(0, 1))
    blank = but(good, layers={"pre_logits": np.zeros((N, 24))})  # of the same key: never read
    again, known = kept(blank, seeds=(0, 1))
    assert np.array_equal(first.correct["good"], again.correct["good"])
    pd.testing.assert_frame_equal(first.notes, again.notes)
    assert count == known == kept(blank, settings=replace(FAST, device="cuda"))[1] == 2
    assert kept(but(good, meta={"key": "other weights"}))[1] == 3
    assert kept(good, "shots=1")[1] == 4 and kept(good, settings=probe.Settings())[1] == 5


def test_a_leak_is_refused(world, tmp_path):
    data, good = world[0]["object"], world[1]["good"]
    copies = but(good, layers={"pre_logits": np.repeat(good.layers["pre_logits"][:1], N, axis=0)})
    with pytest.raises(InputError, match="object: 100 % of the test images"):
        probed(tmp_path, data, {"good": copies})


def test_load_task_checks_that_models_saw_the_same_images(world):
    found, task = world[1], Task("object", "natural", "w")
    dataset = SimpleNamespace(classes=SimpleNamespace(names=("no", "yes")), metadata=frame(found["good"].ids))

    def page(features):
        return SimpleNamespace(features=lambda name: features, dataset=lambda name: dataset)

    data, features = run.load_task(page(found), task)
    assert data.names == ("no", "yes") and features is found
    with pytest.raises(InputError, match="different images"):
        run.load_task(page({**found, "poor": but(found["poor"], ids=found["poor"].ids[1:])}), task)
    with pytest.raises(InputError, match="no model of this run has features"):
        run.load_task(page({}), task)


def test_settings_that_a_task_allows(world):
    data = world[0]["object"]
    assert run.possible_setting(data, "vtab_1k") == "vtab_1k"
    small = data._replace(fold=np.where(np.arange(N) < 900, "train", "test"))
    assert run.possible_setting(small, "vtab_1k") == "vtab_full"
    assert run.possible_setting(small, "shots=50", range(3)) == "shots=50"
    assert run.possible_setting(small, "shots=500") == ""


# zero-shot ---------------------------------------------------------------------------------------------------------


def asking(classes):
    """A page on which every dataset has these classes."""
    return SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=classes, source="nowhere", name="w"))


@pytest.fixture
def words():
    rng = np.random.default_rng(0)
    head = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].astype(np.float32)
    targets = rng.integers(0, 3, COUNT)
    images = (5 * head.T[targets] + rng.normal(size=(COUNT, WIDTH))).astype(np.float16)
    layers = {"clip": {"projected": images, "trunk": images}, "sup": {"pre_logits": images}}
    features = {m: SimpleNamespace(layers=found, targets=targets, meta={"key": m}) for m, found in layers.items()}
    return task_data(Task("t", "natural", "w", zero_shot=True), IDS, targets, frame(IDS)), features, head


def test_answers_are_the_most_similar_texts(words, monkeypatch):
    _, features, head = words
    images = features["clip"].layers["projected"]
    monkeypatch.setattr(probe, "CHUNK_BYTES", 4 * WIDTH * 7)
    rows = np.arange(0, COUNT, 2)
    unit = images.astype(float) / np.linalg.norm(images.astype(float), axis=1, keepdims=True)
    assert np.array_equal(run.answers(images, head, rows), (unit @ head).argmax(axis=1)[rows])


def test_zero_shot_on_the_test_images_of_the_task(words, monkeypatch, tmp_path):
    data, features, head = words
    calls = []
    monkeypatch.setattr(run, "text_head", lambda *args: calls.append(args[1]) or head)
    found, again = (run.zero_shot(asking(CLASSES), data, features, tmp_path) for _ in range(2))
    assert calls == ["clip"]  # encoded once, and only for CLIP
    expected = run.answers(features["clip"].layers["projected"], head, np.arange(COUNT)) == features["clip"].targets
    assert list(found.correct) == ["clip"] and np.array_equal(found.correct["clip"][0], expected[data.fold == "test"])
    assert np.array_equal(again.correct["clip"], found.correct["clip"]) and found.correct["clip"].mean() > 0.95


def test_merged_classes_are_merged_on_both_sides(monkeypatch, tmp_path):
    targets = np.random.default_rng(0).integers(0, 32, COUNT)
    images = np.eye(32, dtype=np.float16)[targets ^ 1]  # always the other one of two merged classes
    data = task_data(parse_tasks(["dsprites_location"])[0], IDS, targets, frame(IDS))
    names = tuple(f"position {k}" for k in range(32))
    monkeypatch.setattr(run, "text_head", lambda *args: np.eye(32, dtype=np.float32))
    found = {"clip": SimpleNamespace(layers={"projected": images}, targets=targets, meta={"key": "k"})}
    page = asking(ClassSpace("d", names, names, ("{c}",)))
    assert run.zero_shot(page, data, found, tmp_path).correct["clip"].all()


def test_no_answer_without_clip_or_names(words, tmp_path):
    data, features, _ = words
    assert run.zero_shot(asking(CLASSES), data, {"sup": features["sup"]}, tmp_path) is None
    assert run.zero_shot(asking(None), data, features, tmp_path) is None
    with pytest.raises(InputError, match="label 2, but only 2 class names"):
        run.zero_shot(asking(ClassSpace("c", ("0", "1"), ("cat", "dog"), ("a {c}",))), data, features, tmp_path)


def test_prompts_beside_the_shards(tmp_path):
    dataset = SimpleNamespace(name="clevr", classes=None, source=str(tmp_path))
    assert run.prompts_of(dataset) is None
    (tmp_path / "classnames.txt").write_text("near\n\nfar\n")
    templates = tmp_path / "zeroshot_classification_templates.txt"
    templates.write_text("a photo, {c}.\n{c}\n")
    found = run.prompts_of(dataset)
    assert found.names == ("near", "", "far") and found.templates == ("a photo, {c}.", "{c}")
    templates.write_text("a photo\n")
    with pytest.raises(InputError, match="placeholder"):
        run.prompts_of(dataset)


# the page's code path ------------------------------------------------------------------------------------------------


def shards(root: Path) -> None:
    """Noisy red and blue images as a two-class VTAB task in the hub's webdataset form."""
    fixtures.write(root / "classnames.txt", "normal\ntumour\n")
    fixtures.write(root / "zeroshot_classification_templates.txt", "a photo of {c}.\n")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 24)):
        members = {}
        for i in range(count):
            pixels, buffer = rng.integers(0, 120, (24, 22, 3)), io.BytesIO()
            pixels[..., 2 * (i % 2)] += 70
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "WEBP", lossless=True)
            members |= {f"s{i:07d}.cls": f"{i % 2}\n".encode(), f"s{i:07d}.webp": buffer.getvalue()}
        fixtures.write_tar(root / split / "0.tar", members)
        fixtures.write(root / split / "nshards.txt", "1\n")


def page_of(toy, *tasks) -> Page:
    content = toy.content()
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}", "paradigm": "clip"}
    camelyon_spec = {"reader": "splits", "path": "camelyon", "options": {"n_classes": 2}, "classes": ""}
    colour = {"name": "colour", "group": "natural", "dataset": "images", "zero_shot": True}
    pose = {"name": "pose", "group": "natural", "dataset": "images", "column": "pose"}
    content["datasets"]["camelyon"] = camelyon_spec
    content["dimensions"]["transfer"] = {"tasks": tasks or ["camelyon", colour, pose]}
    content["datasets"]["own"] = {"reader": "own", "path": "images", "classes": ""}
    return Page(toy.profile(content), "transfer", Store(toy.store), {"device": "cpu"})


def test_from_profile_to_results(toy):
    toy.images(12)
    toy.checkpoint()
    toy.clip()
    shards(toy.data / "camelyon")
    page = page_of(toy)
    bench = run.Bench(page, seeds=3)
    data, features = bench.tasks[0]
    assert set(data.fold) == {"train", "test"} and all(g.split("/")[0] in ("train", "test") for g in data.groups)
    assert bench.layers == {"colour": "pre_logits", "clip": "projected"} and set(features["clip"].layers) > {"trunk"}
    assert bench.overview()[["task", "test"]].to_numpy()[0].tolist() == ["Camelyon", 24]
    (said,) = page.skipped  # a set without its column costs that task only
    assert said.startswith("task pose: unknown metadata column 'pose'")
    runs = bench.probe()
    assert [found.setting for found in runs] == ["vtab_full"] * 2  # too few images for VTAB-1k
    assert all(found.correct["colour"].mean() > 0.95 for found in runs)  # its features are the mean of each channel
    assert [list(found.correct) for found in bench.probe(layer=run.TRUNK)] == [["clip"]] * 2
    assert [found.task.name for found in bench.probe("shots=5")] == ["camelyon"]
    page.record(run.score(runs), run.averages(runs))
    judged = page.compare(run.differences(runs))
    assert judged.family.tolist() == ["detail", "detail", "main"]
    assert len((page.records / "results" / "transfer.csv").read_text().splitlines()) == 1 + 6
    # zero-shot from features is the zero-shot of the predictions
    beside, found = bench.zero_shot()  # names beside the shards, names of the class space
    assert beside.correct["clip"].shape == (1, 24)
    data, predicted = bench.tasks[1][0], page.predictions("images")["clip"]
    assert np.array_equal(found.correct["clip"][0], predicted.correct[data.rows[data.fold == "test"]])


def test_a_folder_of_ones_own_is_a_task(toy):
    """Without a list of its classes."""
    toy.images(12)
    toy.checkpoint()
    toy.clip()
    (found,) = run.Bench(page_of(toy, {"name": "mine", "group": "natural", "dataset": "own"})).probe()
    assert found.correct["colour"].mean() > 0.9 and found.chance == pytest.approx(100 / 3)


def test_a_part_of_the_tasks_and_what_is_not_there(toy):
    toy.images(12)
    toy.checkpoint()
    toy.clip()
    page = page_of(toy)
    assert [data.task.name for data, _ in run.Bench(page, only="colour").tasks] == ["colour"]
    with pytest.raises(InputError, match="unknown task 'color'; did you mean colour"):
        run.Bench(page, only="color")
    assert len(run.Bench(page).tasks) == 1 and page.skipped[0].startswith("camelyon: ")
    with pytest.raises(DataMissing, match="camelyon"):
        run.Bench(page, only="camelyon")
    with pytest.raises(InputError, match="task pose: unknown metadata"):
        run.Bench(page, only="pose")
    shards(toy.data / "camelyon")
    shutil.rmtree(toy.data / "camelyon" / "train")
    page = page_of(toy)
    assert [data.task.name for data, _ in run.Bench(page).tasks] == ["colour"]
    assert any("has no train shards" in said for said in page.skipped)


def test_a_damaged_outcome_is_fitted_again(tmp_path):
    path, made = tmp_path / "a.npz", []
    for content in (None, b"", b"PK\x03\x04 cut", "half"):
        if content is not None:
            path.write_bytes(path.read_bytes()[:-40] if content == "half" else content)
        found = run.kept(path, lambda: made.append(1) or {"correct": np.arange(3)})
        assert found["correct"].tolist() == [0, 1, 2]
    assert len(made) == 4 and run.kept(path, dict)["correct"].tolist() == [0, 1, 2]


# What probes say -----------------------------------------------------------------------------------------------------


def made(correct, groups=None, name="t", group="natural", train=100, pool=10_000, setting="vtab_1k"):
    """Runs of tasks that ask the same dataset: (seeds, n) correctness by model."""
    groups = np.arange(next(iter(correct.values())).shape[1]) if groups is None else groups
    return run.Runs(Task(name, group, "set"), setting, correct, groups, train, pool, chance=50)


def test_scores_by_hand():
    """Two seeds, four images: the mean over seeds, variance of images and splits, no certainty from a perfect score."""
    correct = {"a": np.array([[1, 1, 1, 0], [0, 1, 0, 0]], bool), "b": np.ones((2, 4), bool)}
    table = run.score([made({m: c}, train=9, pool=30) for m, c in correct.items()]).set_index("model")
    assert table.value.to_dict() == pytest.approx({"a": 50.0, "b": 100.0}) and (table.n == 4).all()
    assert (table.ci_low["b"], table.ci_high["b"]) == pytest.approx([100 * end for end in wilson(4, 4)])
    images = 4 / 3 * (0.5**2 + 0.5**2) / 4**2  # means over seeds .5, 1, .5, 0
    splits = 0.125 * (1 / 2 + 9 / 21)
    found = run.spread([made({"a": correct["a"]}, train=9, pool=30)], {"a": 1})
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
    found = run.spread([made(correct, train=20, pool=200)], {"a": 1})
    assert found.variance == pytest.approx(means.var(ddof=1) / 60 + splits) and splits > 0


def test_a_single_seed_has_the_interval_of_its_images():
    correct = {"a": np.arange(400)[None, :] < 300}
    row = run.score([made(correct)]).iloc[0]
    assert (row.ci_low, row.ci_high) == pytest.approx([100 * end for end in wilson(300, 400)], abs=0.05)


def test_images_of_one_group_are_drawn_together_and_count_once():
    rng = np.random.default_rng(0)
    correct = {"a": np.repeat(rng.random((1, 20)) < 0.6, 10, axis=1)}
    groups = np.repeat(np.arange(20), 10)
    wide, narrow = (run.score([made(correct, g)]).iloc[0] for g in (groups, np.arange(200)))
    assert wide.ci_high - wide.ci_low > 2 * (narrow.ci_high - narrow.ci_low)
    assert (wide.n, narrow.n) == (20, 200)
    with pytest.raises(ValueError, match="a single unit"):
        run.score([made(correct, np.zeros(200))])


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
        found = run.spread(runs, signs)
        assert found.value == pytest.approx(np.mean([v.mean() for v in values]))
        assert np.sqrt(found.variance) == pytest.approx(np.std(draws), rel=0.05)
        assert found.units == 80


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_other_images_splits_and_pools(seeds):
    """Two tasks over the same 250 images; a split draws 90 of a pool of 200, whose quality moves all answers."""
    rng = np.random.default_rng(seeds)
    covered, alone, rejected = [], [], []
    for _ in range(300):
        drawn = [rng.permutation(200)[:90] for _ in range(seeds)]
        runs = []
        for name in "tu":
            ease, correct = 0.8 * rng.normal(size=250), {}
            for model in "abc":
                quality = 0.8 * rng.normal(size=200)
                split = np.array([quality[rows].mean() for rows in drawn])
                correct[model] = split[:, None] + ease + 0.6 * rng.normal(size=(seeds, 250)) > 0
            runs.append(made(correct, name=name, train=90, pool=200))
        low, high = run.share_of(run.spread(runs, {"a": 1}))
        covered.append(low <= 0.5 <= high)
        one = [replace(run, correct={m: c.mean(axis=0, keepdims=True) for m, c in run.correct.items()}) for run in runs]
        low, high = run.share_of(run.spread(one, {"a": 1}))
        alone.append(low <= 0.5 <= high)
        rejected.append(run.difference_of(run.spread(runs, {"a": 1, "b": -1}))[2] < 0.05)
    assert np.mean(covered) >= 0.93 and np.mean(rejected) <= 0.08
    assert np.mean(alone) < 0.88  # test images alone are not enough


def test_probes_that_guess_have_intervals_of_sensible_width():
    """All that differs between seeds is which images are guessed: no spread is left for the splits."""
    rng = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(200):
        guessed = made({m: rng.random((3, 250)) < 0.25 for m in "abcd"}, train=90, pool=200)
        low, high = run.share_of(run.spread([guessed], {"a": 1}))
        gap = run.difference_of(run.spread([guessed], {"a": 1, "b": -1}))
        covered += [low <= 0.25 <= high, gap[0] <= 0 <= gap[1]]
        widths += [high - low, gap[1] - gap[0]]
    assert np.mean(covered) >= 0.92 and max(widths) < 0.4


def test_equal_answers_are_no_difference_and_no_certainty():
    correct = np.random.default_rng(0).random((3, 50)) < 0.7
    (row,) = run.differences([made({"a": correct, "b": correct.copy()})]).itertuples()  # a single task is its average
    assert row.difference == 0 and row.p == 1 and row.ci_low < -1 and row.ci_high > 1


def test_averages_are_plain_means_and_differences_are_theirs():
    rng = np.random.default_rng(0)
    ease = {"good": 0.8, "poor": 0.4, "fair": 0.6}
    names = {"t": "natural", "u": "natural", "v": "structured"}
    runs = [made({m: rng.random((2, 300)) < p for m, p in ease.items()}, name=n, group=g) for n, g in names.items()]
    table, means = run.score(runs), run.averages(runs)
    overall = means[means.dataset == "average"].set_index("model")
    assert overall.value.to_dict() == pytest.approx(table.groupby("model").value.mean().to_dict())
    assert (overall.n == 300).all()  # all three ask the same images
    assert set(means.dataset) == {"average", "average_natural"}  # a group of one task is that task
    assert table.protocol.eq("vtab_1k").all() and means.protocol.eq("").all() and table.chance.eq(50).all()
    sun = made({m: np.ones((2, 300), bool) for m in ease}, name="sun397", group="structured")
    both = run.averages([*runs, sun]).groupby("dataset").value.mean()
    assert both["average_without_sun397"] == pytest.approx(overall.value.mean())
    assert both["average"] == pytest.approx((3 * overall.value.mean() + 100) / 4)
    assert set(run.averages([runs[0], sun]).dataset) == {"average"}  # without sun397 it is that task
    told = [replace(r, task=replace(r.task, trained=how)) for r, how in zip(runs, ["CLIP", "", "CLIP"], strict=True)]
    assert run.trained(told) == " Partly trained for, which a lead may come from: t and v (CLIP)."
    assert run.trained(runs) == ""
    gaps = run.differences(runs)
    assert gaps.family.value_counts().to_dict() == {"detail": 9, "main": 6}
    row = gaps.set_index(["dataset", "model_a", "model_b"]).loc[("average", "good", "poor")]
    assert row.difference == pytest.approx(overall.value["good"] - overall.value["poor"])
    assert 0 < row.ci_low < row.difference < row.ci_high and row.p < 0.001


def test_few_shot_probes_are_compared_in_a_family_of_their_own():
    rng, ease = np.random.default_rng(0), {"good": 0.8, "poor": 0.4}
    few = [made({m: rng.random((2, 300)) < p for m, p in ease.items()}, name=n, setting="shots=10") for n in "tu"]
    means, gaps = run.few_average(few).set_index("model"), run.differences(few[:1], few)
    assert (set(means.metric), set(means.dataset)) == ({"accuracy:shots=10"}, {"average"})
    (row,) = gaps[gaps.family == "choice"].itertuples()
    assert (row.dataset, row.metric) == ("average", "accuracy:shots=10") and row.ci_low > 0
    assert row.difference == pytest.approx(means.value["good"] - means.value["poor"])
    assert gaps[gaps.family != "choice"].metric.eq("accuracy").all() and len(run.few_average([])) == 0


def test_few_shot_curves_average_tasks_that_have_every_point():
    rng, kinds = np.random.default_rng(0), {"t": "natural", "u": "natural", "v": "structured"}
    tasks = {1: "tuv", 5: "tu", 50: ""}
    few = {k: [made({"a": rng.random((2, 60)) < 0.5}, name=n, group=kinds[n]) for n in t] for k, t in tasks.items()}
    table = run.few_shot(few)
    assert table.panel.tolist() == ["all (2 tasks)", "natural (2 tasks)"] * 2 and table.shots.tolist() == [1, 1, 5, 5]
    assert table.value.iloc[2] == pytest.approx(50 * sum(run.correct["a"].mean() for run in few[5]))
    assert len(run.few_shot({1: [], 5: []})) == len(run.score([])) == 0
    assert run.few_shot({1: few[1][:1]}).panel.tolist() == ["all (1 task)"]


def test_two_accuracies_side_by_side():
    probed = run.score([made({"clip": np.array([[1, 1, 1, 0]], bool), "sup": np.ones((1, 4), bool)})])
    asked = run.score([made({"clip": np.array([[1, 0, 0, 0]], bool)})], "accuracy:zero_shot")
    both = run.beside(probed, asked, "asked")
    assert both[["model", "value", "asked"]].to_numpy().tolist() == [["clip", 75.0, 25.0]]


def test_protocols_name_the_tasks():
    correct = {"a": np.ones((1, 2), bool)}
    runs = [made(correct, name=n, setting=s) for n, s in (("t", "vtab_1k"), ("u", "vtab_full"), ("v", "vtab_1k"))]
    said = run.protocols(runs)
    assert said.startswith("vtab_1k (t, v): 1,000 images") and "\nvtab_full (u): all" in said
    assert run.counts(runs) == "2 under vtab_1k, 1 under vtab_full"
