"""Shared fixtures: the folder of real test material, where it is beside the checkout."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real images and per-image predictions that may not be committed; tests that need them skip without."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"test material not found at {path}")
    return path
