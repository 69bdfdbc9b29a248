"""Vision backbones beyond ImageNet accuracy: one command from models and images to a report."""

import os
from importlib.metadata import version

__version__ = version("beyond-accuracy")

# Read by OpenMP when torch is first imported. Threads that spin while they wait make a shared or busy machine ten times
# slower; sleeping costs next to nothing on an idle one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
