"""Vision backbones beyond ImageNet accuracy: one command from models and images to a report."""

import os
from importlib import import_module
from importlib.metadata import version

__version__ = version("beyond-accuracy")

# Read by OpenMP when torch is first imported. Threads that spin while they wait make a shared or busy machine ten times
# slower; sleeping costs next to nothing on an idle one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["compare", "ece", "errors", "predictions"]


def __getattr__(name: str):
    """`compare`, `predictions`, `ece` and `errors` of `api`, imported when first asked for."""
    if name in __all__:
        return getattr(import_module("beyond_accuracy.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
