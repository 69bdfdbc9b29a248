"""Parameters of a notebook: what its tagged cell declares, and whether given values fit.

papermill only warns of a parameter that a notebook does not have, and the run then quietly uses the default.
"""

import ast
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import EXPECTED, unknown

LEAST = {"RESAMPLES": 1, "BINS": 1, "FOLDS": 2, "PROBE_SEEDS": 1, "LEAST": 1, "TOP": 1}  # others: 0
INJECTED = "# Parameters\n"  # how the cell begins that papermill puts behind the tagged one


def declared(source: str) -> dict[str, object]:
    """Names that a cell assigns, with their values; None for a value that is no plain literal."""
    found: dict[str, object] = {}
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = None
        with suppress(ValueError):
            value = ast.literal_eval(getattr(statement, "value", None) or ast.Constant(None))
        found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return found


def check(usual: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Raise `InputError` for a name that is not declared, or a value of another kind than the declared one."""
    for name, value in given.items():
        if name not in usual:
            raise InputError(f"no notebook of this run has it: {unknown('parameter', name, sorted(usual))}")
        kind = type(usual[name])
        fits = usual[name] is None or type(value) is kind or (kind is float and type(value) is int)
        least = LEAST.get(name, 0)
        if not fits or (type(value) in (int, float) and not value >= least):
            text = "a number" if kind is float else EXPECTED.get(kind, f"a {kind.__name__}")
            bound = f" from {least}" if kind in (int, float) else ""
            raise InputError(f"parameter {name}: expected {text}{bound}, such as {usual[name]!r}, got {value!r}")


def check_injected() -> None:
    """Check what papermill put into the running notebook (nothing elsewhere) against the cells that ran before it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    cells: Iterable[str] = shell.user_ns.get("In", ()) if shell else ()
    before: dict[str, object] = {}
    for source in cells:
        with suppress(SyntaxError):
            if source.startswith(INJECTED):
                check(before, declared(source))
            else:
                before |= declared(source)
