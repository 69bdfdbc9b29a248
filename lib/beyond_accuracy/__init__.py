"""Vision backbones beyond ImageNet accuracy: one command from models and images to a report."""

from importlib.metadata import version

__version__ = version("beyond-accuracy")
