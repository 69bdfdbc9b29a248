"""How many images a difference between two models takes to be seen."""

import math

from statsmodels.stats.power import normal_sample_size_one_tail


def images_to_decide(
    difference: float,
    *,
    discordance: float | None = None,
    sd: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """Number of images at which a paired difference of this size would be detected.

    n = ((z_{1 - alpha/2} + z_power) * sd / difference)^2, the normal approximation of the paired test. For two
    correctness columns sd^2 = discordance - difference^2, the variance of a variable that is +1, 0 or -1.

    Args:
        difference: Mean paired difference per image.
        discordance: Share of images on which exactly one of the two models is right. Give this or `sd`.
        sd: Standard deviation of the per-image difference.
        power: Wanted probability of detection.
        alpha: Two-sided level of the test.

    Returns:
        Number of images, rounded up; infinite when the difference is exactly zero.

    Raises:
        ValueError: If both or none of discordance and sd are given, or they are impossible.

    >>> images_to_decide(0.01, discordance=0.10)
    7842
    """
    if (discordance is None) == (sd is None):
        raise ValueError("give exactly one of discordance and sd")
    if discordance is not None:
        if not abs(difference) <= discordance <= 1:
            raise ValueError(f"discordance must lie between |difference| and 1, got {discordance} for {difference}")
        sd = math.sqrt(max(discordance - difference**2, 0.0))
    if not (math.isfinite(difference) and math.isfinite(sd) and sd >= 0):
        raise ValueError(f"difference and sd must be finite, sd not negative; got {difference} and {sd}")
    if difference == 0:
        return math.inf
    return max(1, math.ceil(normal_sample_size_one_tail(difference, power, alpha / 2, std_null=sd)))
