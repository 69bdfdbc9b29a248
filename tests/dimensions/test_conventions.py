"""Conventions: which runs are asked for, what stored logits can tell, what a change moves, by hand and another way."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from scipy.stats import chi2

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.dimensions import calibration, conventions, mistakes
from beyond_accuracy.dimensions.conventions import Pair, effects
from beyond_accuracy.inference import plan
from beyond_accuracy.inference.predictions import Predictions, all_columns, folder_positions, rescale, restrict, score
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure import stats, verdicts
from beyond_accuracy.page import Page


def run(pred, target, confidence, label=None):
    pred, target = np.asarray(pred), np.asarray(target)
    confidence = np.asarray(confidence, float)
    label = np.where(pred == target, confidence, (1 - confidence) / 2) if label is None else label
    ids = np.array([f"i{k}" for k in range(len(pred))])
    return SimpleNamespace(ids=ids, pred=pred, correct=pred == target, confidence=confidence, target_probability=label)


def altered(run, **values):
    return SimpleNamespace(**(vars(run) | values))


def pair(plain, changed, convention="precision=bf16", model="a", dataset="d"):
    return Pair(dataset, convention, f"{convention.partition('=')[0]}: changed", model, plain, changed)


def random_pair(n=300, seed=0, **names):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, n)
    first = np.where(rng.random(n) < 0.8, target, (target + 1) % 3)
    second = np.where(rng.random(n) < 0.1, (first + 1) % 3, first)
    return pair(run(first, target, rng.uniform(0.4, 1, n)), run(second, target, rng.uniform(0.4, 1, n)), **names)


def test_by_hand():
    # right, right, wrong, wrong -> right, right, right, wrong; confidences of 0.9 become 0.6
    before = run([0, 1, 1, 1], [0, 1, 2, 2], [0.9] * 4)
    after = run([0, 1, 2, 1], [0, 1, 2, 2], [0.6] * 4)
    table = effects([pair(before, after)], 0, resamples=500).set_index("kind")
    accuracy, ece, nll = table.loc["accuracy"], table.loc["ece_debiased"], table.loc["nll"]
    assert (accuracy.before, accuracy.after, accuracy.value, accuracy.unit) == (50, 75, 25, "percent")
    assert accuracy.p == pytest.approx(chi2.sf(1, 1)) and accuracy.n == 4  # one discordant image
    assert accuracy.ci_low < 0 < accuracy.ci_high and accuracy.p_floor == 0 < nll.p_floor
    flips, wilson = table.loc["flip_rate"], [100 * end for end in stats.wilson(1, 4)]
    assert flips.value == 25 and [flips.ci_low, flips.ci_high] == wilson
    assert 0 < ece.before < 0.4 and 0 <= ece.after < 0.15  # the plain ones
    assert nll.before == pytest.approx(-(np.log(0.9) * 2 + np.log(0.05) * 2) / 4)
    assert nll.after == pytest.approx(-(np.log(0.6) * 3 + np.log(0.2)) / 4)


def test_agrees_with_each_metric_computed_alone():
    one = random_pair()
    table = effects([one], 3, resamples=4000).set_index("kind")
    both = one.changed, one.plain
    gaps, row = np.subtract(*[calibration.nll(run.target_probability) for run in both]), table.loc["nll"]
    alone = stats.percentile_interval(stats.bootstrap_means(gaps, 4000, np.random.default_rng(9)))
    assert row.value == pytest.approx(gaps.mean())
    assert (row.ci_low, row.ci_high) == pytest.approx(alone, abs=0.02)
    row, errors = table.loc["ece_debiased"], [calibration.ece_debiased(r.confidence, r.correct).value for r in both]
    assert (row.after, row.before, row.value) == pytest.approx((*errors, errors[0] - errors[1]))
    assert row.ci_low < row.ci_high


@pytest.mark.parametrize("seed", range(3))
def test_one_changed_image_is_no_difference(seed):
    """Resamples without that image are ties, whatever their sums were rounded to."""
    plain = random_pair(480, seed).plain
    right = np.where(np.arange(480) == seed, ~plain.correct, plain.correct)
    one = pair(plain, altered(plain, correct=right))
    factors = pd.DataFrame(np.random.default_rng(seed).random((480, 4)) < 0.3, index=plain.ids).astype(int)
    table = effects([one], seed, factors, 2000).set_index("kind")
    accuracy, ratio = table.loc["accuracy"], table.loc["error_ratio:average"]
    assert accuracy.ci_low < 0 < accuracy.ci_high and accuracy.p > 0.3
    assert ratio.p > 0.6 and ratio.ci_low <= 0 <= ratio.ci_high
    assert table.loc["nll"].value == 0 and np.isnan(table.loc["nll"].p)  # the same probabilities


def test_error_ratios_only_of_annotated_images():
    one, rng = random_pair(), np.random.default_rng(1)
    factors = pd.DataFrame(rng.random((200, 2)) < 0.4, columns=["x", "y"], index=one.plain.ids[50:250])
    factors = factors.assign(never=False).astype(int).sample(frac=1, random_state=0)
    row = effects([one], 0, factors, 2000).set_index("kind").loc["error_ratio:average"]
    ordered = factors.loc[one.plain.ids[50:250]]
    outcomes = {"changed": one.changed.correct[50:250], "plain": one.plain.correct[50:250]}
    other = mistakes.factor_differences(outcomes, ordered, np.random.default_rng(5), 2000)
    other = other[other["metric"] == "error_ratio:average"].iloc[0]
    assert row.value == pytest.approx(other.difference)
    assert (row.ci_low, row.ci_high) == pytest.approx((other.ci_low, other.ci_high), abs=0.04)
    strange = factors.set_axis([f"other{k}" for k in range(len(factors))])
    assert "error_ratio:average" not in set(effects([one], 0, strange, 50)["kind"])


def test_what_is_not_known_has_no_row():
    perfect = run([0] * 40, [0] * 40, [0.9] * 40)
    factors = pd.DataFrame({"x": np.arange(40) % 2}, index=perfect.ids)
    table = effects([pair(perfect, perfect)], 0, factors, 100)  # no errors, no ratio
    assert set(table["kind"]) == {"flip_rate", "accuracy", "ece_debiased", "nll"} and table["p"].isna().all()
    one = random_pair(60)
    bare = altered(one.plain, target_probability=np.full(60, np.nan))
    for pairs, count in (([pair(bare, bare), one], 1), ([pair(bare, bare)], 0)):
        assert (effects(pairs, 0, resamples=50)["kind"] == "nll").sum() == count
    empty = effects([], 0)
    assert empty.empty and list(empty.columns) == conventions.COLUMNS
    assert verdicts.judge(conventions.asked(empty)).empty


def test_questions_are_a_models_own_changes_over_the_same_images_and_few_are_headlines():
    one = random_pair(30).plain
    with pytest.raises(InputError, match="d: a saw other images under precision=bf16"):
        effects([pair(one, altered(one, ids=one.ids[::-1]))], 0, resamples=10)
    pairs = [random_pair(60, 0), random_pair(60, 1, convention=conventions.CLASSES)]
    rows = effects(pairs, 0, resamples=50)
    assert set(rows["metric"]) >= {"flip_rate:precision=bf16", "nll_change:classes=all", "accuracy_change:classes=all"}
    asked = conventions.asked(rows)
    assert (asked["model_b"] == "").all() and "flip_rate" not in set(asked["kind"])
    headlines = asked[asked["family"] == "main"]
    assert list(headlines["metric"]) == ["accuracy_change:precision=bf16", "ece_debiased_change:precision=bf16"]


def test_orders_that_a_convention_turns_round():
    target = np.zeros(10, int)
    good, better, worse = (run(np.arange(10) >= k, target, np.full(10, 0.5)) for k in (6, 8, 4))
    pairs = [pair(good, good, "x=1", "a"), pair(worse, better, "x=1", "b"), pair(good, good, "y=1", "a")]
    page = SimpleNamespace(labels={"a": "A", "b": "B"})
    assert "order of accuracies: x: changed puts B ahead of A. Each" in conventions.orders(page, pairs, ["a", "b"])
    assert conventions.orders(page, pairs[:1], ["a", "b"]).startswith("No single change")


def page_of(toy, models, **dataset):
    content = toy.content(models) | {"dimensions": {"conventions": {"clean": "images", "limit": 9}}}
    content["datasets"]["images"] |= dataset
    return Page(toy.profile(content), "conventions", Store(toy.store), {"device": "cpu"})


@pytest.fixture
def study(toy):
    """A page of a supervised and a CLIP model, both in the toy's folder."""
    toy.images()
    sources = {"colour": ("timm", toy.checkpoint()), "clip": ("open_clip", toy.clip())}
    return page_of(toy, {name: {"source": kind, "name": f"local-dir:{at}"} for name, (kind, at) in sources.items()})


@pytest.fixture
def page(toy):
    """A page of two models whose networks are never asked."""
    return page_of(toy, {name: {"source": "timm", "name": "toy_colour"} for name in ("colour", "clip")})


def made(logits, targets, columns=None):
    logits = np.asarray(logits, np.float16)
    logits = logits - logits.max(axis=1, keepdims=True)
    chosen = logits if columns is None else logits[:, columns]
    frame = pd.DataFrame({"id": [f"i{k}" for k in range(len(logits))], "target": targets})
    frame = frame.assign(**score(chosen, np.asarray(targets), columns))
    return Predictions("m", "d", "none", frame, logits, columns, {})


def test_the_other_choices_of_a_profile(monkeypatch):
    paper = load_profile("paper")
    found = {c.name: c for c in plan.conventions(paper, "imagenet_1k", "cpu")}
    assert list(found) == [
        *("preset=paper", "interpolation=bicubic", "interpolation=bilinear", "antialias=false"),
        *("precision=fp32", "precision=bf16", "logit_scale=100", "prompts=one"),
    ]
    assert dict(found["prompts=one"].settings) == {"prompts": "a photo of a {c}."}
    assert [c.name for c in found.values() if c.rescored] == ["logit_scale=100"]
    names = {c.name for c in plan.conventions(load_profile("paper-preset"), "imagenet_1k", "cpu")}
    assert {"preset=library", "logit_scale=learned"} <= names
    # no class space, nothing to name
    assert "prompts=one" not in {c.name for c in plan.conventions(paper, "dtd", "cpu")}
    # precisions follow the device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fixed = replace(paper, settings=replace(paper.settings, precision="bf16"))
    two = ["fp32", "fp16"]
    for chosen, bf16, kinds in ((paper, True, ["fp32", "bf16", "fp16"]), (fixed, True, two), (paper, False, two)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, known=bf16, **__: known)
        found = plan.conventions(chosen, "imagenet_1k", "cuda")
        assert [c.name for c in found if c.group == "precision"] == [f"precision={kind}" for kind in kinds]
        assert plan.left_out("cuda").startswith("" if bf16 else "bf16 left out") and bool(plan.left_out("cuda")) != bf16
    assert plan.left_out("cpu").startswith("fp16 left out")


def test_a_view_is_this_page_under_other_settings(study):
    for bad in ({"precison": "bf16"}, {"precision": "int8"}, {"antialias": "no"}, {"interpolation": "nearest"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            study.under(**bad)
    plain, view = study.predictions("images"), study.under(antialias=False, limit=9)
    assert view.settings.antialias is False and study.settings.antialias is True
    assert [len(p) for p in view.predictions("images").values()] == [9, 9]
    assert [len(p) for p in plain.values()] == [12, 12]
    assert view.card("colour").geometry.text == "Resize(20, bilinear, no antialias) CenterCrop(16)"
    assert set(view.outputs.used) == set(study.outputs.used) and len(study.outputs.used) == 4
    view.finding("found under another convention")  # a view's findings, results and figures are the page's
    assert study._findings == ["found under another convention"]
    again = study.under(limit=9).under(antialias=False)
    assert len(again.dataset("images")) == 9 and not again.settings.antialias
    assert len(study.under(limit=100).dataset("images")) == 12
    cut = replace(study.profile, datasets={"images": replace(study.profile.datasets["images"], limit=5)})
    assert [cut.under({}, limit).datasets["images"].limit for limit in (9, 3, 0)] == [5, 3, 5]


def test_everything_runs_before_the_page_and_once(toy, study, toy_networks, capsys):
    filled = plan.fill(study.profile, "conventions", Store(toy.store), {"device": "cpu"})
    assert filled.missing == []
    ran = sum(toy_networks.CALLS)
    pairs = conventions.compared(study.under(limit=9), "images")
    assert set(study.outputs.used) == set(filled.keys) and sum(toy_networks.CALLS) == ran
    touched = {(p.convention, p.model) for p in pairs}
    # the toy's own preprocessing is bilinear, the CLIP model's bicubic; prompts and logit scale are CLIP's
    assert touched == {
        *(("preset=paper", "colour"), ("interpolation=bicubic", "colour"), ("interpolation=bilinear", "clip")),
        *(("antialias=false", "colour"), ("antialias=false", "clip"), ("precision=bf16", "colour")),
        *(("precision=bf16", "clip"), ("logit_scale=100", "clip"), ("prompts=one", "clip")),
    }
    assert all(list(p.plain.ids) == list(p.changed.ids) and len(p.plain.ids) == 9 for p in pairs)
    # 9 images: plain, preset, bicubic, antialias, bf16
    assert ran == 5 * 9
    # a rescaled run is the run under that scale
    (scaled,) = (pair.changed for pair in pairs if pair.convention == "logit_scale=100")
    real = study.under(limit=9, logit_scale="100").predictions("images")["clip"]
    assert (scaled.pred == real.pred).all()
    np.testing.assert_allclose(scaled.confidence, real.confidence, atol=0.01)
    np.testing.assert_allclose(scaled.target_probability, real.target_probability, atol=0.01)
    capsys.readouterr()
    study.provenance()
    shown = capsys.readouterr().out
    assert "precision=bf16" in shown and "antialias=False" in shown and "no antialias" in shown


def test_rescaling_by_hand():
    run = made([[0, -1, -2], [-3, 0, -1]], [0, 2])
    twice = rescale(run, 2)
    np.testing.assert_allclose(twice.confidence, softmax([[0, -2, -4], [-6, 0, -2]], axis=1).max(axis=1), rtol=1e-3)
    assert (twice.pred == run.pred).all() and run.confidence[0] < twice.confidence[0]
    subset = made([[0, 9, -1], [5, 0, 4]], [0, 2], np.array([0, 2]))
    np.testing.assert_allclose(rescale(subset, 3).confidence, softmax([[0, -3], [3, 0]], axis=1).max(axis=1), rtol=1e-3)
    for change in (lambda p: rescale(p, 2), all_columns, lambda p: restrict(p, [0])):
        with pytest.raises(InputError, match="were not kept"):
            change(replace(run, logits=None))


def test_classes_that_compete():
    # class 1 is not in the set, and wins the first image when it may
    run = made([[2, 3, 0], [0, 1, 5]], [0, 2], np.array([0, 2]))
    whole = all_columns(run)
    assert list(run.correct) == [True, True] and list(whole.pred) == [1, 2] and list(whole.correct) == [False, True]
    np.testing.assert_allclose(whole.target_probability[0], softmax([2, 3, 0])[0], rtol=1e-3)
    # folders 0 and 2 numbered 0 and 1: the second image's right answer counts as wrong, answer 1 as right
    misread = folder_positions(all_columns(made([[0, 3, 0], [0, 1, 5], [0, 9, 0]], [0, 2, 2], np.array([0, 2]))))
    assert list(misread.targets) == [0, 1, 1] and list(misread.correct) == [False, False, True]


def test_factors_and_classes_of_a_sample_of_a_cut_set(toy):
    toy.images()
    toy.checkpoint()
    study = page_of(toy, None, limit=5)  # evenly spaced: other images than the 4 of the page
    sample = study.under(limit=4)
    assert conventions.compared_classes(sample, "images") == []  # all classes are scored
    said = ["images: all classes of the models occur, so there is no subset to choose between."]
    assert list(conventions.on_subsets(sample, {"images": []})) == said
    pairs = [Pair("images", "x=1", "x", "colour", run, run) for run in sample.predictions("images").values()]
    assert not set(pairs[0].plain.ids) <= set(study.metadata("images").index)
    assert conventions.factors(sample, pairs) is None and conventions.factors(sample, []) is None
    marks = pd.DataFrame({"x_pose": 1, "x_top": "pose"}, index=sample.metadata("images").index)
    sample.metadata = lambda dataset: marks
    assert list(conventions.factors(sample, pairs).columns) == ["pose"]


def test_the_page_says_what_moves_most(page, capsys):
    pairs = [
        random_pair(60, k, convention="antialias=false", model=m, dataset="images")
        for k, m in enumerate(["colour", "clip"])
    ]
    unsure = altered(pairs[0].plain, target_probability=pairs[0].plain.target_probability / 2)
    pairs.append(pair(pairs[0].plain, unsure, "prompts=one", "clip", "images"))
    rows = effects(pairs, 0, resamples=200)
    judged = page.compare(conventions.asked(rows))
    first, second, third = conventions.findings(page, rows, judged, {"colour": 90.0, "clip": 40.0})
    assert first.startswith("The largest effect of a convention on accuracy is ") and "60 images of images" in first
    assert "accuracy moves by" in second and "% of the answers of" in third
    for at, word in ((judged["p"], "<"), (0.0, "=")):
        told = list(conventions.findings(page, rows, judged.assign(p_holm=0.00141, p_floor=at), {"colour": 90.0}))
        assert f"; corrected p {word} {'0.0015' if word == '<' else '0.0014'})" in told[1]
    none = judged.assign(value=judged["value"].where(judged["kind"] != "accuracy", 0.0))
    first = next(conventions.findings(page, rows, none, {"colour": 90.0, "clip": 40.0}))
    assert first.endswith("not larger than the smallest difference between models, colour and clip (50.0 points).")
    shown = rows[rows["kind"].isin(conventions.PANELS)]
    fig, alt = conventions.forest(shown, page.styles)
    assert [ax.get_title("left") or ax.get_title() for ax in fig.axes] == list(conventions.PANELS.values())
    assert alt.startswith(f"What {shown['label'].nunique()} changes") and "largest" in alt
    conventions.effects_table(page, rows, judged, "effects", "Changes")
    text = capsys.readouterr().out
    assert "p_nll_floor" in text
    assert list(conventions.findings(page, rows.iloc[:0], judged.iloc[:0], {})) == []


def test_scoring_all_classes_and_reading_folders_as_classes(page):
    run = made([[2, 3, 0], [0, 1, 5]], [0, 2], np.array([0, 2]))
    pairs = [Pair("images", conventions.CLASSES, "classes scored: all 3 instead of 2", "clip", run, all_columns(run))]
    rows = effects(pairs, 0, resamples=20)
    judged = page.compare(conventions.asked(rows))
    said = list(conventions.findings(page, rows, judged, {}))
    assert said == ["images, classes scored: all 3 instead of 2: accuracy changes from clip 100.0 to 50.0 %."]
    (said,) = conventions.on_subsets(page, {"images": pairs})
    assert said.endswith("clip 0.00 %. That is a mistake, no choice.")  # answers 1 and 2, labels 0 and 1
