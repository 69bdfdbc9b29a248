"""Draws of several metrics over the same images, against what they are on the resampled images themselves."""

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.dimensions import calibration
from beyond_accuracy.dimensions.confidence import Ranked
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.report import joint
from beyond_accuracy.show.results import ECE


def run(seed, n=60):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": [f"i{k}" for k in range(n)], "target": 0, "pred": rng.integers(0, 2, n)})
    frame = frame.assign(confidence=rng.random(n).round(4), target_probability=0.0)
    return Predictions("m", "d", "none", frame, None, None, {})


@pytest.mark.parametrize("metric", ["accuracy", ECE, "auroc", "accuracy:coverage=0.5"])
def test_a_statistic_of_counts_is_that_of_the_repeated_images(metric):
    found, counts = run(1), np.random.default_rng(2).multinomial(60, np.full(60, 1 / 60), 3).astype(np.float32)
    values = joint.statistic_of(metric)(found)(counts)
    for value, row in zip(values, counts, strict=True):
        sure, right = (np.repeat(v, row.astype(int)) for v in (found.confidence, found.correct))
        expected = {
            "accuracy": right.mean(),
            ECE: calibration.ece(sure, right),
            "auroc": Ranked(sure, right).areas()[0, 0],
            "accuracy:coverage=0.5": right[np.argsort(-sure, kind="stable")[:30]].mean(),
        }[metric]
        # a tie at the cut of the coverage goes with the images before it
        assert value == pytest.approx(expected, abs=0.03 if "coverage" in metric else 1e-5)


def test_metrics_and_models_share_their_images():
    runs = {"a": run(1), "twin": run(1), "b": run(3)}
    drawn = {m: joint.draw(runs, m, 400, np.random.default_rng(5)) for m in ("accuracy", "accuracy:coverage=0.5")}
    assert all((part[0] == part[1]).all() for part in drawn.values()) and drawn["accuracy"].shape == (3, 400)
    assert np.corrcoef(drawn["accuracy"][0], drawn["accuracy:coverage=0.5"][0])[0, 1] > 0.4
    assert joint.statistic_of("shape_bias") is None and joint.statistic_of("accuracy:shots=10") is None
