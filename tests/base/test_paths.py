"""Where the code runs."""

import sys
from types import SimpleNamespace

from beyond_accuracy.base import paths
from beyond_accuracy.base.paths import in_notebook


def test_a_kernel_is_told_from_an_imported_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    for shell, expected in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_notebook() is expected


def test_the_notebooks_of_an_installed_package(monkeypatch, tmp_path):
    """Where `pip install` puts what pyproject.toml calls data files (tests/test_environment.py)."""
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "lib/python3/site-packages/beyond_accuracy/base/paths.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert paths.notebooks_dir() == tmp_path / "share" / "beyond-accuracy" / "notebooks"
