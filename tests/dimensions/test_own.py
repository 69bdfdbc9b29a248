"""The page of one's own images: chance is told from skill, wrong labels come first."""

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.dimensions import own as page_own
from beyond_accuracy.inference.predictions import Predictions
from own_images import outputs_of, toys  # noqa: E402 - the folder of tests is on no import path

pytestmark = pytest.mark.usefixtures("apart")


def test_shuffled_labels_are_answered_at_chance(tmp_path):
    table = toys(tmp_path / "toys", 12)
    table["label"] = np.random.default_rng(1).permutation(table["label"])
    table.drop(columns="group").to_csv(tmp_path / "toys.csv", index=False)
    runs = outputs_of(tmp_path / "toys.csv").predictions("images", ["none"])["none"]
    rows = page_own.accuracies(runs, None).set_index("metric")
    assert rows.loc["accuracy", "ci_low"] < 100 / 6 < rows.loc["accuracy", "ci_high"]
    judged = page_own.above_guessing(rows.reset_index(), page_own.guessing(runs)["most frequent class"])
    assert judged["p"].iloc[0] > 0.05 or judged["difference"].iloc[0] < 0


def test_labels_that_the_models_doubt_together_come_first():
    targets, ids = np.array([0, 0, 1, 1]), np.array(["right", "sure", "open", "mild"])
    said = {
        "a": [[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.6, 0.4]],
        "b": [[0.2, 0.8], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3]],
    }
    runs = {}
    for model, rows in said.items():
        frame = pd.DataFrame({"id": ids, "target": targets, "pred": np.argmax(rows, axis=1)})
        runs[model] = Predictions(model, "d", "none", frame, np.log(rows), None, {})
    found = page_own.suspects(runs, ["cat", "dog"])
    assert found["id"].tolist() == ["sure", "mild"] and found["label"].tolist() == ["cat", "dog"]
    assert found["models against the label"].tolist() == ["2 of 2"] * 2
    geometric = np.sqrt([0.9 * 0.8, 0.1 * 0.2])  # of one model that is sure of it and one that is fairly sure
    assert found["confidence"][0] == pytest.approx(geometric[0] / geometric.sum(), abs=1e-4)


def test_what_every_network_finds_as_alike_as_an_edit_is_a_pair():
    rng = np.random.default_rng(0)
    targets, rows = np.repeat(np.arange(4), 50), np.arange(0, 200, 2)
    features, edited, planted = [], [], [(7, 3), (120, 60)]
    for width in (64, 200):
        x = 3 * np.eye(4, width)[targets] + rng.normal(size=(200, width)) + 5  # and a mean that all share
        for late, early in planted:
            x[late] = x[early] + 0.2 * rng.normal(size=width)
        if width == 64:
            x[150] = x[10] + 0.2 * rng.normal(size=width)  # alike to this network only
        features.append(x.astype(np.float32))
        edited.append([(x[rows] + noise * rng.normal(size=(100, width))).astype(np.float32) for noise in (0.2, 0.5)])
    assert page_own.alike(features, edited, rows, targets).tolist() == [[7, 3], [120, 60]]
    alone = page_own.alike(features[:1], edited[:1], rows, targets).tolist()
    assert sorted(alone) == [[7, 3], [120, 60], [150, 10]]
    # edits that move images further than to any other: nothing can be told by them
    far = [[np.roll(values[rows], 1, axis=0)] for values in features]
    assert len(page_own.alike(features, far, rows, np.zeros(200, int))) == 0
