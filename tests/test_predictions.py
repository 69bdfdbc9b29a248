"""The largest logits of an image: which they are, how they are kept, and that nothing takes them for all."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from beyond_accuracy.errors import InputError
from beyond_accuracy.predictions import TOP, Predictions, all_columns, largest_logits, rescale, restrict, score


def logits_of(n=40, classes=60, seed=0):
    values = np.random.default_rng(seed).normal(0, 3, (n, classes)).astype(np.float16)
    return values - values.max(axis=1, keepdims=True)


def predictions(logits, columns=None, largest=None, keep=True):
    chosen = logits if columns is None else logits[:, columns]
    frame = pd.DataFrame({"id": [f"i{k}" for k in range(len(logits))], "target": 0})
    frame = frame.assign(**score(chosen, np.zeros(len(logits), int), columns))
    return Predictions("m", "d", "none", frame, logits if keep else None, columns, {}, largest)


def test_by_hand():
    found = largest_logits(np.array([[-1, 0, -3, -2]], np.float16), None, 3)
    assert found["top-classes"].tolist() == [[1, 0, 3]] and found["top-logits"].tolist() == [[0, -1, -2]]
    assert found["top-classes"].dtype == np.int16 and found["top-logits"].dtype == np.float16


def test_agrees_with_sorting():
    logits = logits_of()
    found = largest_logits(logits, None, TOP)
    for row, classes, values in zip(logits, found["top-classes"], found["top-logits"], strict=True):
        order = sorted(range(len(row)), key=lambda c: (-float(row[c]), c))[:TOP]
        assert classes.tolist() == order and values.tolist() == [float(row[c]) for c in order]


@pytest.mark.parametrize("value", [0.0, -1.0, float(np.finfo(np.float16).min)])
def test_ties_go_to_the_lowest_class(value):
    logits = np.full((2, 50), value, np.float16)
    assert largest_logits(logits, None, 4)["top-classes"].tolist() == [[0, 1, 2, 3]] * 2
    logits[:, 7] = 0.5
    assert largest_logits(logits, None, 3)["top-classes"].tolist() == [[7, 0, 1]] * 2


def test_among_the_scored_columns_and_relative_to_them():
    columns = np.array([1, 3])
    found = largest_logits(np.array([[0, -5, -1, -4]], np.float16), columns, TOP)
    assert found["top-classes"].tolist() == [[3, 1]] and found["top-logits"].tolist() == [[0, -1]]


def test_probabilities_are_those_of_the_whole_distribution():
    logits = logits_of()
    kept = largest_logits(logits, None, TOP)
    stored = predictions(logits, largest=(kept["top-classes"], kept["top-logits"]), keep=False)
    top, whole = stored.top, softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(top.probabilities, np.take_along_axis(whole, top.classes, axis=1), rtol=1e-4)
    assert (top.classes[:, 0] == stored.pred).all() and (top.values[:, 0] == 0).all()
    again = predictions(logits).top  # from all logits: the same
    assert (again.classes == top.classes).all()
    np.testing.assert_allclose(again.probabilities, top.probabilities)
    part = stored.take(np.array([3, 1])).top
    assert (part.classes == top.classes[[3, 1]]).all()


def test_nothing_takes_the_largest_for_all():
    logits = logits_of()
    kept = largest_logits(logits, None, TOP)
    stored = predictions(logits, largest=(kept["top-classes"], kept["top-logits"]), keep=False)
    assert stored.logits is None and stored.scored_logits is None and stored.probabilities is None
    for use in (lambda p: restrict(p, np.arange(5)), lambda p: rescale(p, 2.0), all_columns):
        with pytest.raises(InputError, match="d: only the 20 largest logits .* set `keep: logits` for datasets.d"):
            use(stored)
    with pytest.raises(InputError, match="d: no logits of m are kept; set `keep: logits`"):
        _ = predictions(logits, keep=False).top


def test_from_the_network_to_the_reader(toy):
    toy.images()
    toy.checkpoint()
    content = toy.content()
    content["datasets"]["few"] = {**content["datasets"]["images"], "keep": "top20"}
    outputs = toy.outputs(content)
    whole = outputs.predictions("images", ["none"])["none"]["colour"]
    few = outputs.predictions("few", ["none"])["none"]["colour"]
    pd.testing.assert_frame_equal(whole.frame, few.frame)  # labels, answers and confidences are exact
    assert few.logits is None and few.top.classes.shape == (12, 3)
    assert (few.top.classes == whole.top.classes).all() and (few.top.values == whole.top.values).all()
    folder = toy.store / "predictions" / few.meta["key"]
    names = sorted(path.name for path in folder.glob("*.npy"))
    assert names == ["top-classes.npy", "top-logits.npy"] and few.meta["key"] != whole.meta["key"]
    assert np.load(folder / "top-classes.npy").dtype == np.int16
    with pytest.raises(InputError, match="keep is top20, not all"):
        outputs.features("few")


def test_the_profile_knows_the_word(toy):
    content = toy.content()
    content["datasets"]["images"]["keep"] = "top10"
    with pytest.raises(InputError, match="images.keep: unknown value 'top10'; did you mean top20"):
        toy.profile(content)
