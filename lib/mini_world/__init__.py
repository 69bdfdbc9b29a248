"""The mini world: a rendered dataset in which every factor is known, and the four small models trained on it."""
