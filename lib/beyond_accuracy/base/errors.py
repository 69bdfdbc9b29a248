"""The two things that can go wrong without being a bug: bad input, and data that is not there."""


class InputError(Exception):
    """Bad input. The message says what, where, what was expected and what to do. Exit code 2."""

    exit_code = 2


class DataMissing(Exception):
    """Data or weights are not on this machine. The message names the command that gets them. Exit code 3."""

    exit_code = 3
