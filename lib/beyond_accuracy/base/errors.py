"""The two things that can go wrong without being a bug: bad input, and data that is not there."""


class _Told(Exception):
    """An error whose message says it all: notebooks show that line, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [f"{type(self).__name__}: {self}"]


class InputError(_Told):
    """Bad input. The message says what, where, what was expected and what to do. Exit code 2."""

    exit_code = 2


class DataMissing(_Told):
    """Data or weights are not on this machine. The message names the command that gets them. Exit code 3."""

    exit_code = 3
