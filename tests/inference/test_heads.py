"""Heads on frozen features: they say what scikit-learn says, of images that they never saw."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import load_arrays
from beyond_accuracy.inference import heads
from own_images import MINI, UGLY, noise, outputs_of, toys  # noqa: E402 - the folder of tests is on no import path

pytestmark = pytest.mark.usefixtures("apart")


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 240)
    features = rng.normal(size=(240, 32)).astype(np.float32) + np.eye(4, 32)[targets].astype(np.float32) * 2.5
    return features, targets, np.arange(240) // 2


def cross_validated(features, targets, fold, chosen):
    """Probabilities of scikit-learn's own cross-validation, each fold with the C chosen for it."""
    said = np.empty((len(targets), targets.max() + 1))
    for k, c in enumerate(chosen[:-1]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        said[fold == k] = model.fit(features[fold != k], targets[fold != k]).predict_proba(features[fold == k])
    return said


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_says_what_scikit_learn_says(labelled, classes, monkeypatch):
    monkeypatch.setattr(heads, "GRID", (1e-2, 1.0))
    features, targets, units = (values[labelled[1] < classes] for values in labelled)
    ids, fold = np.arange(len(targets)).astype(str), heads.folds_of(targets, units, 0)
    none = np.zeros(len(targets), bool)
    weights, seen, chosen = heads.fit_probes(features, targets, units, fold, classes, 0, none)
    answers = [heads.answer_linear(w, n) for w, n in zip(weights, seen, strict=True)]
    logits = heads.Fitted(pd.Series(fold, ids), answers).logits(ids, features)
    said = cross_validated(features, targets, fold, chosen)
    np.testing.assert_allclose(softmax(logits, axis=1), said, atol=1e-5)
    few = heads.Fitted(pd.Series(fold, ids), answers).logits(ids[::-7], features[::-7])
    np.testing.assert_array_equal(few, logits[::-7])  # whichever are asked, in any order


def test_units_never_straddle_folds_and_classes_are_balanced(labelled):
    _, targets, units = labelled
    fold = heads.folds_of(targets, units, 0)
    assert fold.max() == heads.FOLDS - 1
    assert (pd.Series(fold).groupby(units).nunique() == 1).all()
    assert pd.crosstab(fold, targets).to_numpy().min() >= 6
    assert np.array_equal(fold, heads.folds_of(targets, units, 0))


def test_too_few_images_get_one_message():
    with pytest.raises(InputError, match="at least two classes need two images"):
        heads.folds_of(np.arange(40), np.arange(40), 0)
    with pytest.raises(InputError, match="at least two classes"):
        heads.folds_of(np.repeat([0, 1], 10), np.repeat([0, 1], 10), 0)  # each class is one group
    assert set(heads.folds_of(np.repeat([0, 1], 15), np.arange(30), 0)) == set(range(5))


def test_a_class_that_a_fold_never_saw_is_possible_but_unlikely(labelled, monkeypatch):
    monkeypatch.setattr(heads, "GRID", (1e-2, 1.0))
    features, targets, units = labelled
    targets = np.where(np.arange(len(targets)) == 7, 4, targets)  # one image of a fifth class
    fold = heads.folds_of(targets, units, 0)
    weights, seen, _ = heads.fit_probes(features, targets, units, fold, 5, 0, np.zeros(len(fold), bool))
    held = fold[7]
    said = softmax(heads.answer_linear(weights[held], seen[held])(features[fold == held]), axis=1)
    assert np.isfinite(said).all() and 0 < said[:, 4].max() < 0.02


def test_chosen_on_a_validation_set_and_on_large_sets(labelled, monkeypatch):
    features, targets, units = labelled
    held = np.arange(len(targets)) % 3 == 0
    assert heads.choose_c(features, targets, units, 0, held) in heads.GRID
    monkeypatch.setattr(heads, "CHOOSING", 120)
    assert heads.choose_c(features, targets, units, 0) * 2 in heads.GRID


def test_nearest_neighbours_agree_with_scikit_learn(labelled):
    from sklearn.neighbors import KNeighborsClassifier

    features, targets, _ = labelled
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp(-d / heads.TEMPERATURE))
    said = model.fit(features[40:], targets[40:]).predict(features[:40])
    answer = heads.answer_knn(features[40:], targets[40:], 4)
    assert np.array_equal(answer(features[:40]).argmax(axis=1), said)


def test_the_heads_of_folds_answer_transformed_images_and_samples(tmp_path, monkeypatch):
    table = toys(tmp_path / "toys", 12)
    table.to_csv(tmp_path / "toys.csv", index=False)
    models = {"conv": MINI, "near": MINI | {"head": "knn"}}
    sample = {"reader": "own", "path": str(tmp_path / "toys.csv"), "classes": "", "limit": 24}
    monkeypatch.setattr(heads, "GRID", (1e-2, 1.0))
    outputs = outputs_of(tmp_path / "toys.csv", models, sample=sample | {"options": {"fit": "images"}})
    whole = outputs.predictions("images", ["none"])["none"]
    cut = outputs.predictions("sample", ["none", "rotation=20"])
    features = outputs.features("images")
    for name, run in whole.items():
        part = cut["none"][name]
        rows = pd.Index(run.ids).get_indexer(part.ids)
        assert np.array_equal(run.logits[rows], part.logits)  # the same head, not one fitted to the sample
        assert not np.array_equal(cut["rotation=20"][name].logits, part.logits)
        assert run.correct.mean() > 0.6
    # the stored answers are those of scikit-learn on the stored features, folds and C
    kept = load_arrays(next((tmp_path / "store" / "heads").glob("*.npz")))
    fold, x = kept["fold"], np.asarray(features["conv"].layers["pre_logits"])
    said = cross_validated(x, features["conv"].targets, fold, kept["c"])
    assert np.array_equal(said.argmax(axis=1), whole["conv"].pred)
    group = table.set_index("path")["group"].loc[features["conv"].ids]
    assert (pd.Series(fold).groupby(group.to_numpy()).nunique() == 1).all()


def test_given_splits_are_kept(tmp_path):
    for k in range(3):
        for i in range(6):
            split = ("train", "train", "train", "val", "test", "test")[i]
            noise(tmp_path / split / f"c{k}" / f"{i}.png", 10 * k + i)
    fit = {"reader": "own", "path": str(tmp_path), "classes": "", "options": {"split": "fit"}}
    images = fit | {"options": {"split": "test", "fit": "training"}}
    outputs = outputs_of(tmp_path, images=images, training=fit)
    run = outputs.predictions("images", ["none"])["none"]["conv"]
    assert len(run) == 6 and all(name.startswith("test/") for name in run.ids)


def test_zero_shot_and_own_classifier_are_heads_like_others(tmp_path):
    table = toys(tmp_path / "toys", 6, 2)
    table["label"] = table["label"].map({UGLY[0]: "airplane", UGLY[1]: "boat"})
    table.to_csv(tmp_path / "toys.csv", index=False)
    clip = {"source": "open_clip", "name": "local-dir:assets:mini_world/models/convnext_clip"}
    outputs = outputs_of(tmp_path / "toys.csv", {"asked": clip | {"head": "zero_shot"}, "usual": clip})
    outputs.profile = outputs.profile.under({"prompts": "a photo of a {c}"})
    runs = outputs.predictions("images", ["none"])["none"]
    assert runs["asked"].correct.mean() > 0.6
    np.testing.assert_allclose(runs["asked"].probabilities, runs["usual"].probabilities, atol=0.01)
    with pytest.raises(InputError, match="unknown head of a timm model 'zero_shot'"):
        outputs_of(tmp_path / "toys.csv", {"conv": MINI | {"head": "zero_shot"}})
    with pytest.raises(InputError, match="choose a checkpoint trained on"):
        outputs_of(tmp_path / "toys.csv", {"conv": MINI | {"head": "own"}}).predictions("images", ["none"])
