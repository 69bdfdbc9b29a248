"""The library stays thin: layers, circles, sizes (`make shape`)."""

import shape


def test_imports_follow_the_layers():
    assert shape.against_layers() == []


def test_no_import_circle():
    assert shape.circles() == []


def test_no_two_modules_share_a_name_in_one_package():
    names = [path.stem for path in shape.sources() if path.stem != "__init__"]
    packages = {path.parent for path in shape.sources()}
    assert len({(path.parent, path.stem) for path in shape.sources()}) == len(shape.sources())
    assert len(names) > 30 and len(packages) > 5


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
