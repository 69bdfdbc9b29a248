"""Parameters of notebooks: what is misspelt or of another kind is one message, wherever it comes from."""

import pytest

from beyond_accuracy.base import parameters
from beyond_accuracy.base.errors import InputError

USUAL = {"RESAMPLES": 2000, "FOLDS": 5, "SEED": 0, "COVERAGE": 0.8, "SHOTS": "1,2", "KEEP": True, "WHEN": None}


def test_what_a_cell_declares():
    source = 'SEED = 0  # seed\nNAME: str = "a"\nBOTH = WHEN = [1]\nlen("x")\nWHERE = SEED + 1'
    assert parameters.declared(source) == {"SEED": 0, "NAME": "a", "BOTH": [1], "WHEN": [1], "WHERE": None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RESAMPLE": 20}, "unknown parameter 'RESAMPLE'; did you mean RESAMPLES"),
        ({"RESAMPLES": "many"}, "RESAMPLES: expected a whole number from 1, such as 2000, got 'many'"),
        ({"RESAMPLES": 15.5}, "RESAMPLES: expected a whole number from 1, such as 2000, got 15.5"),
        ({"RESAMPLES": 0}, "RESAMPLES: expected a whole number from 1"),
        ({"RESAMPLES": True}, "RESAMPLES: expected a whole number"),
        ({"FOLDS": 1}, "FOLDS: expected a whole number from 2"),
        ({"SEED": -1}, "SEED: expected a whole number from 0"),
        ({"COVERAGE": "x"}, "COVERAGE: expected a number from 0, such as 0.8, got 'x'"),
        ({"COVERAGE": float("nan")}, "COVERAGE: expected a number"),
        ({"SHOTS": 5}, "SHOTS: expected text, such as '1,2', got 5"),
        ({"KEEP": 1}, "KEEP: expected true or false"),
    ],
)
def test_what_does_not_fit_is_one_message(given, message):
    with pytest.raises(InputError) as refused:
        parameters.check(USUAL, given)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_what_fits():
    parameters.check(USUAL, {"RESAMPLES": 1, "SEED": 3, "COVERAGE": 1, "SHOTS": "", "KEEP": False, "WHEN": [1]})
    parameters.check(USUAL, {})
