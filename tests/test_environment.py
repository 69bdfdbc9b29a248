"""environment.yml, pyproject.toml and the lock say the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:==([\w.]+))?")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(requirements: list[str]) -> dict[str, str | None]:
    found = (REQUIREMENT.match(r.strip()) for r in requirements)
    return {canonical(m.group(1)): m.group(2) for m in found if m}


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lock() -> dict[str, str | None]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return parse([line for line in lines if line and not line.startswith("#")])


def test_every_requirement_is_locked_at_the_same_version():
    project, pins = pyproject(), lock()
    requirements = parse([*project["dependencies"], *sum(project["optional-dependencies"].values(), [])])
    assert len(requirements) > 25
    for name, version in requirements.items():
        assert pins.get(name), f"{name} has no pin in constraints.txt"
        assert version in (None, pins[name]), f"{name}: pyproject {version}, lock {pins[name]}"


def test_what_is_locked_runs_on_the_first_and_last_python_promised():
    """A pin that was tested on one patch version of Python may need a later one than some systems have (3.11.2)."""
    pins, compared = lock(), 0
    for found in distributions():
        if found.version == pins.get(canonical(found.name)):
            needs, compared = SpecifierSet(found.metadata["Requires-Python"] or ""), compared + 1
            for python in ("3.11.0", "3.12.0"):
                assert python in SpecifierSet(pyproject()["requires-python"])
                assert python in needs, f"{found.name} {found.version} needs Python {needs}"
    assert compared > 25


def test_conda_environment_has_the_same_pins():
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip_part = next(d["pip"] for d in content["dependencies"] if isinstance(d, dict))
    listed, pins = parse([line for line in pip_part if not line.startswith("-")]), lock()
    project = parse(pyproject()["dependencies"])
    wanted = {"jupyterlab", "papermill", "torch", "timm", "open-clip-torch", "seaborn", "pandas", "nbconvert"}
    assert wanted <= listed.keys()
    for name, version in listed.items():
        assert name in project, f"{name} is in environment.yml but not in pyproject.toml"
        assert version == project[name], f"{name}: environment.yml {version}, pyproject {project[name]}"
        assert version in (None, pins[name])
    assert "--constraint constraints.txt" in pip_part
    assert any(line.startswith("-e .") for line in pip_part)
    assert any(str(d).startswith("python=3.11") for d in content["dependencies"])


def test_workflows_run_fixed_code_with_no_more_rights_than_they_need():
    """A tag can be moved to other code; a job that runs the whole project may write nothing."""
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert "permissions" not in job or not any("run" in step for step in job["steps"]), f"{path.name}: {name}"
            for step in (step for step in job["steps"] if "uses" in step):
                assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]), f"{path.name}: {step['uses']}"


def test_what_is_no_code_is_in_the_package_too():
    """What a wheel holds: assets, templates, profiles, and the notebooks without which there is no report."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert setuptools["data-files"] == {"share/beyond-accuracy/notebooks": ["notebooks/*.ipynb"]}
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT / "lib" / package
        shipped = {path for pattern in patterns for path in folder.glob(pattern)}
        files = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert not {str(path) for path in files - shipped}


def test_an_active_conda_environment_is_used_whatever_its_name(tmp_path):
    def commands() -> str:
        environment = {"PATH": os.environ["PATH"], "CONDA_PREFIX": str(tmp_path), "CONDA_DEFAULT_ENV": "another"}
        made = subprocess.run(["make", "-n", "report"], cwd=ROOT, env=environment, capture_output=True, text=True)
        return made.stdout

    assert ".venv/bin/beyond-accuracy report" in commands()  # it lacks this package: an environment of other work
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "beyond-accuracy").touch()
    assert commands().strip() == f"{tmp_path}/bin/beyond-accuracy report --profile mini"


@pytest.mark.slow
def test_an_installed_package_finds_its_notebooks(tmp_path):
    for name in ("lib", "notebooks", "pyproject.toml", "README.md", "LICENSE"):  # built beside a checkout, not in it
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / "source" / name)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--ignore-installed", "--prefix", tmp_path / "made", tmp_path / "source"], check=True)
    (library,) = (tmp_path / "made").glob("lib/*/site-packages")
    script = f"import sys; sys.prefix = r'{tmp_path}/made'; from beyond_accuracy.base.paths import notebooks_dir"
    show = f"{script}\nprint(*sorted(path.name for path in notebooks_dir().iterdir()))"
    environment = {**os.environ, "PYTHONPATH": str(library)}
    done = subprocess.run([sys.executable, "-c", show], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")), done.stderr


@pytest.mark.parametrize(("there", "given", "cpu"), [("", "", 1), ("nvidia-smi", "", 0), ("", "TORCH=cuda", 0)])
def test_make_takes_the_python_and_the_torch_that_fit_the_machine(tmp_path, there, given, cpu):
    """No Python 3.11, but 3.12; the CPU build where there is no driver of NVIDIA's, and nobody asks for another."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for name in filter(None, ("python3.12", there)):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    command, where = [shutil.which("make"), "-n", "report", *given.split()], {"PATH": str(tmp_path / "bin")}
    said = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True).stdout
    assert "python3.12 -m venv .venv" in said and ("download.pytorch.org/whl/cpu" in said) == cpu
