"""The library stays thin: layers, circles, sizes (`make shape`)."""

import shape


def test_imports_follow_the_layers_without_a_circle():
    assert shape.against_layers() == shape.circles() == [] and len(shape.sources()) > 30


def test_a_late_import_against_the_layers_is_seen(tmp_path, monkeypatch):
    folder = tmp_path / "beyond_accuracy"
    for name, text in {
        "base/paths.py": "def f():\n    from beyond_accuracy.report import build\n",
        "report/build.py": "from beyond_accuracy.base import paths\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(shape, "LIBRARY", folder)
    assert shape.against_layers() == ["base.paths imports report.build"]
    assert shape.circles() == [["base.paths", "report.build"]]
