"""What `import beyond_accuracy as ba` offers."""

import pytest

from own_images import toys  # noqa: E402 - the folder of tests is on no import path

pytestmark = pytest.mark.usefixtures("apart")


def test_in_a_notebook(tmp_path):
    import beyond_accuracy as ba

    toys(tmp_path / "toys", 10, 3)
    answers = ba.predictions("mini:convnext_sup", tmp_path / "toys", device="cpu", progress=False)
    assert len(answers) == 30 and answers["right"].mean() > 0.5
    assert {"id", "label", "answer", "confidence", "label_probability", "brightness"} <= set(answers)
    error = ba.ece(answers)
    assert 0 <= error.low <= error.value <= error.high <= 1 and "n = 30" in repr(error)
    answers["right"] = False
    assert len(ba.errors(answers, 4).axes) == 4
    with pytest.raises(AttributeError):
        ba.nothing  # noqa: B018
