"""Class orders that occur by mistake are told where predictions enter, with the cause; weak models are not accused."""

import re

import numpy as np
import pytest

from beyond_accuracy.data.classes import class_space, imagenet_subset
from beyond_accuracy.inference.predictions import diagnose, judge

NAMES = class_space("imagenet_1k").names


def answers(truth, accuracy=0.8, seed=0, n_classes=1000):
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(truth)) > accuracy
    return np.where(wrong, rng.integers(0, n_classes, len(truth)), truth)


TRUTH = np.repeat(np.arange(0, 1000, 4), 2)
TEXT_ORDER = np.array(sorted(range(1000), key=str))


@pytest.mark.parametrize("expected", [0.8, np.nan])
def test_mapping_mistakes_are_named(expected):
    ranks = np.searchsorted(np.unique(TRUTH), TRUTH)
    for target, text in ((ranks, "ranks in a sorted list of folders"), (TRUTH + 1, "one too high")):
        wrong, said = diagnose(answers(TRUTH), target, NAMES, expected=expected)
        assert wrong and text in said
    columns = imagenet_subset("a")
    truth = np.repeat(columns, 2)
    target = np.searchsorted(columns, truth)
    assert "ranks in the list of scored classes" in diagnose(answers(truth), target, NAMES, columns, expected)[1]


@pytest.mark.parametrize(
    ("pred", "expected", "wrong", "text"),
    [
        (answers(TRUTH), 0.8, False, "as published"),
        (answers(TRUTH), np.nan, False, "no published value"),
        (answers(TRUTH, 0.3), np.nan, False, "no published value, and no sign of wrong labels"),
        (answers(TRUTH, 0.0), np.nan, False, "no published value, and no better than guessing"),
        (answers(TRUTH, 0.5), 0.8, True, "no mapping of the labels explains it"),
        (answers(TRUTH, 0.99), 0.7, False, "higher than published: are these training images?"),
        (np.full(len(TRUTH), 7), 0.8, True, "nearly every answer is class 7: the weights were not loaded"),
        (np.random.default_rng(0).integers(0, 1000, len(TRUTH)), 0.8, True, "no mapping"),
    ],
)
def test_right_labels_and_weak_models(pred, expected, wrong, text):
    found, said = diagnose(pred, TRUTH, NAMES, expected=expected)
    assert found == wrong and said.startswith(text)


# Where predictions enter ----------------------------------------------------------------------------------------------

ALPHABET = np.array(sorted(range(1000), key=lambda k: NAMES[k].lower()))


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        (np.argsort(ALPHABET), "numbered by an alphabetical list of their names|places in an alphabetical list"),
        (ALPHABET, "places in an alphabetical list|numbered by an alphabetical list"),
        (TEXT_ORDER, "text-sorted listing of numbered folders"),
        (np.argsort(TEXT_ORDER), "text-sorted listing of numbered folders"),
        (np.arange(1000) + 1, "one too low"),
        (np.random.default_rng(5).permutation(1000), "another class order .the devkit's ILSVRC2012_ID"),
    ],
)
def test_a_file_in_another_class_order_stops_with_the_cause(order, cause):
    truth = np.repeat(np.arange(1000), 5)
    right = answers(truth)
    assert judge("m", "d", right, truth, NAMES, None) == ("", "")
    wrong, odd = judge("m", "d", order[right], truth, NAMES, None)
    assert re.fullmatch(rf"m on d: top-1 0\..*({cause}).*give answers and labels one class order", wrong) and not odd


def test_chance_is_remarked_on_but_hard_sets_and_weak_models_are_not():
    truth = np.repeat(np.arange(1000), 5)
    wrong, odd = judge("m", "d", answers(truth, 0.0), truth, NAMES, None)
    assert not wrong and odd.endswith("no better than guessing: check weights, labels, class order and preprocessing")
    columns = imagenet_subset("a")
    hard = np.repeat(columns, 5)
    assert judge("m", "d", answers(hard, 0.0), hard, NAMES, columns) == ("", "")
    assert judge("m", "d", answers(truth, 0.03), truth, NAMES, None) == ("", "")
    near = np.clip(truth + np.random.default_rng(0).integers(-40, 40, len(truth)), 0, 999)  # wrong, but of a kind
    weak = np.where(np.random.default_rng(1).random(len(truth)) < 0.2, truth, near)
    assert judge("m", "d", weak, truth, NAMES, None) == ("", "")
    assert judge("m", "d", answers(truth[:10], 0.0), truth[:10], NAMES, None) == ("", "")
