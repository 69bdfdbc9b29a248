"""A study under other conventions: which runs are asked for, which models they touch, what stored logits can tell."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.dimensions import conventions_run, words_conventions
from beyond_accuracy.dimensions.conventions import effects, flips
from beyond_accuracy.dimensions.plots_conventions import forest_figure
from beyond_accuracy.inference import plan
from beyond_accuracy.inference.predictions import Predictions, all_columns, folder_positions, rescale, restrict, score
from beyond_accuracy.inference.store import Store
from beyond_accuracy.page import Page

PAGE = {"conventions": {"clean": "images", "limit": 9}}


def both(toy):
    """A profile with a supervised and a CLIP model, both in the toy's folder."""
    toy.images()
    toy.checkpoint()
    toy.clip()
    content = toy.content()
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}", "paradigm": "clip"}
    content["dimensions"] = PAGE
    return content


def study_of(toy, content):
    return Page(toy.profile(content), "conventions", Store(toy.store), {"device": "cpu"})


def made(logits, targets, columns=None):
    logits = np.asarray(logits, np.float16)
    logits = logits - logits.max(axis=1, keepdims=True)
    chosen = logits if columns is None else logits[:, columns]
    frame = pd.DataFrame({"id": [f"i{k}" for k in range(len(logits))], "target": targets})
    frame = frame.assign(**score(chosen, np.asarray(targets), columns))
    return Predictions("m", "d", "none", frame, logits, columns, {})


def test_the_other_choices_of_a_profile():
    paper = load_profile("paper")
    found = {c.name: c for c in plan.conventions(paper, "imagenet_1k", "cpu")}
    assert list(found) == [
        *("preset=paper", "interpolation=bicubic", "interpolation=bilinear", "antialias=false"),
        *("precision=fp32", "precision=bf16", "logit_scale=100", "prompts=one"),
    ]
    assert dict(found["prompts=one"].settings) == {"prompts": "a photo of a {c}."}
    assert [c.name for c in found.values() if c.rescored] == ["logit_scale=100"]
    preset = load_profile("paper-preset")
    names = [c.name for c in plan.conventions(preset, "imagenet_1k", "cpu")]
    assert "preset=library" in names and "logit_scale=learned" in names
    probed = [c.name for c in plan.conventions(paper, "dtd", "cpu")]
    assert "prompts=one" not in probed  # no class space, nothing to name


def test_precisions_follow_the_device(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: True)
    profile = load_profile("paper")
    names = [c.name for c in plan.conventions(profile, "imagenet_1k", "cuda") if c.group == "precision"]
    assert names == ["precision=fp32", "precision=bf16", "precision=fp16"] and plan.left_out("cuda") == ""
    fixed = replace(profile, settings=replace(profile.settings, precision="bf16"))
    names = [c.name for c in plan.conventions(fixed, "imagenet_1k", "cuda") if c.group == "precision"]
    assert names == ["precision=fp32", "precision=fp16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: False)
    names = [c.name for c in plan.conventions(profile, "imagenet_1k", "cuda") if c.group == "precision"]
    assert names == ["precision=fp32", "precision=fp16"] and plan.left_out("cuda").startswith("bf16 left out")
    assert plan.left_out("cpu").startswith("fp16 left out")


def test_unknown_settings_are_refused(toy):
    toy.images(1)
    study = study_of(toy, {**toy.content(), "dimensions": PAGE})
    for bad in ({"precison": "bf16"}, {"precision": "int8"}, {"antialias": "no"}, {"interpolation": "nearest"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            study.under(**bad)


def test_a_view_is_this_page_under_other_settings(toy):
    study = study_of(toy, both(toy))
    plain, view = study.predictions("images"), study.under(antialias=False, limit=9)
    assert view.settings.antialias is False and study.settings.antialias is True
    assert [len(p) for p in view.predictions("images").values()] == [9, 9]
    assert [len(p) for p in plain.values()] == [12, 12]
    assert view.card("colour").geometry.text == "Resize(20, bilinear, no antialias) CenterCrop(16)"
    assert set(view.used) == set(study.used) and len(study.used) == 4
    view.finding("found under another convention")  # a view's findings, results and figures are the page's
    assert study._findings == ["found under another convention"]
    again = study.under(limit=9).under(antialias=False)
    assert len(again.dataset("images")) == 9 and not again.settings.antialias
    assert len(study.under(limit=100).dataset("images")) == 12


def test_a_limit_keeps_the_smaller_one(toy):
    profile = toy.profile({**toy.content(), "dimensions": PAGE})
    cut = replace(profile, datasets={"images": replace(profile.datasets["images"], limit=5)})
    assert cut.under({}, 9).datasets["images"].limit == 5 and cut.under({}, 3).datasets["images"].limit == 3
    assert cut.under({}).datasets["images"].limit == 5


def test_everything_runs_before_the_page_and_once(toy, toy_networks):
    profile = toy.profile(both(toy))
    filled = plan.fill(profile, "conventions", Store(toy.store), {"device": "cpu"})
    assert filled.missing == []
    ran = sum(toy_networks.CALLS)
    study = study_of(toy, both_again(toy))
    pairs = conventions_run.compared(study, "images", 9)
    assert set(study.used) == set(filled.keys) and sum(toy_networks.CALLS) == ran
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


def both_again(toy):
    content = toy.content()
    content["models"]["clip"] = {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}", "paradigm": "clip"}
    content["dimensions"] = PAGE
    return content


def test_the_page_names_the_choice_in_its_provenance(toy, capsys):
    study = study_of(toy, both(toy))
    conventions_run.compared(study, "images", 9)
    study.provenance()
    shown = capsys.readouterr().out
    assert "precision=bf16" in shown and "antialias=False" in shown and "no antialias" in shown


def test_a_rescaled_run_is_the_run_under_that_scale(toy):
    study = study_of(toy, both(toy))
    scaled = {p.convention: p for p in conventions_run.compared(study, "images", 9)}["logit_scale=100"].changed
    real = study.under(limit=9, logit_scale="100").predictions("images")["clip"]
    assert (scaled.pred == real.pred).all()
    np.testing.assert_allclose(scaled.confidence, real.confidence, atol=0.01)
    np.testing.assert_allclose(scaled.target_probability, real.target_probability, atol=0.01)


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


def test_sets_with_some_of_the_classes(toy):
    content = both(toy)
    content["datasets"]["some"] = {**content["datasets"]["images"], "path": "some"}
    content["dimensions"] = {"conventions": {"clean": "images", "subsets": ["some"]}}
    toy.images(name="some")
    study = study_of(toy, content)
    assert conventions_run.compared_classes(study, "some") == []  # all classes are scored
    assert conventions_run.accuracy_by_folder(study, "some") == {}
    assert words_conventions.without_subset(["Some"]) == (
        "Some: all classes of the models occur, so there is no subset to choose between."
    )


def test_factors_of_a_sample_of_a_cut_set(toy):
    content = both(toy)
    content["datasets"]["images"]["limit"] = 5  # evenly spaced: other images than the 4 of the page
    study = study_of(toy, content)
    sample = study.under(limit=4)
    pairs = conventions_run.compared(study, "images", 4)
    assert not set(pairs[0].plain.ids) <= set(study.metadata("images").index)
    assert conventions_run.factors(sample, pairs) is None and conventions_run.factors(sample, []) is None
    marks = pd.DataFrame({"x_pose": 1, "x_top": "pose"}, index=sample.metadata("images").index)
    sample.metadata = lambda dataset: marks
    assert list(conventions_run.factors(sample, pairs).columns) == ["pose"]


def test_sentences_and_figure(toy):
    study = study_of(toy, both(toy))
    pairs = conventions_run.compared(study, "images", 9)
    table, turned = effects(pairs, 0, conventions_run.factors(study, pairs), 200), flips(pairs)
    labels = {"colour": "Colour", "clip": "CLIP"}
    between = words_conventions.gaps({"colour": 90.0, "clip": 40.0, "other": 89.5})
    assert list(between["gap"]) == [0.5, 49.5, 50.0] and between.iloc[0]["better"] == "colour"
    text = words_conventions.accuracy_sentence(table, between, {**labels, "other": "Other"})
    assert text.startswith("The largest effect of a convention on accuracy is ") and "9 images of images" in text
    none = table.assign(change=0.0)
    small = words_conventions.accuracy_sentence(none, between, {**labels, "other": "Other"})
    assert "not larger than the smallest difference between models, Colour and Other (0.5 points)" in small
    assert "accuracy moves by" in words_conventions.ece_sentence(table, labels)
    assert "% of the answers of" in words_conventions.flips_sentence(turned, table, labels)
    assert "turns the order" in words_conventions.order_sentence([], labels)
    assert "x puts CLIP ahead of Colour" in words_conventions.order_sentence([("x", "colour", "clip")], labels)
    forest = pd.concat([turned.assign(panel="answers changed (%)"), turned.assign(panel="again")])
    from beyond_accuracy.show import theme

    fig = forest_figure(forest, theme.styles(study.specs))
    assert len(fig.axes) == 2 and "preset" in fig.axes[0].get_yticklabels()[0].get_text()
    assert words_conventions.forest_alt(forest, labels).startswith(f"What {turned['label'].nunique()} changes")
