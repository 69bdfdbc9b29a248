"""Where the code runs."""

import sys


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; that ipykernel was imported by something does not make it one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")
