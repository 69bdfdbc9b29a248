"""Stores of drawn outputs: what a page reads is there, and as right as it was asked to be."""

import pytest

import scale
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store


@pytest.mark.usefixtures("apart")
def test_drawn_outputs_are_what_a_page_reads(tmp_path):
    profile = scale.profile_of(tmp_path, 1000)
    scale.fill(profile, ["models"])
    runs = Outputs(profile, Store(), {"device": "cpu"}, run=False).predictions("clean", ["none"])["none"]
    assert list(runs) == list(scale.NETWORKS)
    for run, right in zip(runs.values(), scale.RIGHT, strict=True):
        assert len(run) == 1000 and run.probabilities.shape == (1000, 1000)
        assert run.correct.mean() == pytest.approx(right, abs=0.06)
