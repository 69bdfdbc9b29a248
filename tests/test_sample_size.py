"""Images that a difference takes to be seen."""

import math

import numpy as np
import pytest

from beyond_accuracy.sample_size import images_to_decide


def test_images_to_decide_by_hand():
    # (1.959964 + 0.841621)^2 * (0.31 / 0.02)^2 = 7.848880 * 240.25 = 1885.7
    assert images_to_decide(0.02, sd=0.31) == 1886
    assert images_to_decide(0.02, sd=0.0) == 1
    assert images_to_decide(0.0, sd=1) == math.inf
    assert images_to_decide(-0.02, sd=0.31) == images_to_decide(0.02, sd=0.31)


def test_images_to_decide_reaches_its_power():
    n = images_to_decide(0.03, discordance=0.1)
    only_a, only_b, _ = np.random.default_rng(0).multinomial(n, [0.065, 0.035, 0.9], size=4000).T
    z = (only_a - only_b) / np.sqrt(only_a + only_b)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("kwargs", [{}, {"sd": 1, "discordance": 0.5}, {"discordance": 0.01}, {"sd": -1}])
def test_images_to_decide_rejects_the_impossible(kwargs):
    with pytest.raises(ValueError):
        images_to_decide(0.02, **kwargs)
