"""Form of the source notebooks: what keeps them readable in a diff, runnable by papermill and honest as a page."""

import ast
import shutil
import subprocess
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbconvert import ScriptExporter
from papermill import inspect_notebook

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import check_parameters
from beyond_accuracy.report.build import declared_parameters
from beyond_accuracy.report.run import execute

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PAGES = [path for path in NOTEBOOKS if path.name[0].isdigit()]
TAGS = {"parameters", "hide", "hide-input"}
LONGEST = 15


@cache  # read by several tests, changed by none
def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


@by_name(NOTEBOOKS)
def test_valid_and_without_results_of_a_run(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert ScriptExporter().from_notebook_node(notebook)[1]["output_extension"] == ".py"
    assert "papermill" not in notebook.metadata
    ids = [cell["id"] for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in code_cells(notebook):
        assert cell.outputs == [], f"cell {cell['id']} has stored outputs"
        assert cell.execution_count is None, f"cell {cell['id']} has an execution count"
        assert not {"papermill", "execution", "collapsed"} & set(cell.metadata), f"cell {cell['id']}"
    for cell in [cell for cell in notebook.cells if cell.cell_type == "markdown"]:
        # pictures in text have alt text, and nothing comes from outside
        assert not any(text in cell.source for text in ("![](", "<img", "<script"))


def test_saving_in_jupyterlab_leaves_tracked_notebooks_as_they_are(tmp_path):
    """JupyterLab's own file manager with the checkout's settings; what git does not track keeps its outputs."""
    from jupyter_server.services.contents.filemanager import FileContentsManager
    from traitlets.config import PyFileConfigLoader

    shutil.copytree(FOLDER, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    git = ["git", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "notebooks"]):
        subprocess.run([*git, *command], check=True)
    config = PyFileConfigLoader("jupyter_server_config.py", path=str(FOLDER.parent)).load_config()
    manager = FileContentsManager(root_dir=str(tmp_path), config=config)
    for path in NOTEBOOKS:
        model = manager.get(f"notebooks/{path.name}")
        for cell in code_cells(model["content"]):
            cell.execution_count, cell.metadata["execution"] = 7, {"iopub.status.idle": "now"}
            cell.outputs = [nbformat.v4.new_output("stream", text="hours of work")]
        model["content"].metadata["language_info"] = {"name": "python", "version": "3.11.99"}
        manager.save(model, f"notebooks/{path.name}")
        assert (tmp_path / "notebooks" / path.name).read_bytes() == path.read_bytes(), path.name
    manager.save(model, "notebooks/mine.ipynb")
    assert "hours of work" not in (tmp_path / "notebooks" / path.name).read_text()
    code_cells(model["content"])[0].outputs = [nbformat.v4.new_output("stream", text="hours of work")]
    manager.save(model, "notebooks/mine.ipynb")
    assert "hours of work" in (tmp_path / "notebooks" / "mine.ipynb").read_text()


@by_name(NOTEBOOKS)
def test_cells_are_one_thought_and_logic_is_in_the_library(path):
    for cell in code_cells(read(path)):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert 0 < len(lines) <= LONGEST, f"cell {cell['id']} has {len(lines)} lines"
        assert not cell.source.lstrip().startswith(("%", "!")), f"cell {cell['id']} is no plain Python"
        for node in ast.walk(ast.parse(cell.source)):
            named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            assert not named, f"cell {cell['id']} defines {getattr(node, 'name', '')}"
        assert set(tags(cell)) <= TAGS, f"cell {cell['id']} has tags {tags(cell)}"


@by_name(PAGES)
def test_parameters_are_commented_literals_in_the_first_code_cell(path):
    cells = code_cells(read(path))
    tagged = [cell for cell in cells if "parameters" in tags(cell)]
    assert tagged == cells[:1], "exactly the first code cell is tagged `parameters`"
    source = tagged[0].source
    names = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign) and len(node.targets) == 1, ast.unparse(node)
        name = node.targets[0].id
        names[name] = ast.literal_eval(node.value)  # raises for anything derived
        assert name.isupper(), name
        comment = source.splitlines()[node.end_lineno - 1][node.end_col_offset :]
        assert comment.strip().startswith("#"), f"{name} has no comment"
    assert names["PROFILE"] == "mini" and names["MODELS"] == ""
    assert set(inspect_notebook(str(path))) == set(declared_parameters(path)) == set(names)  # papermill sees the same


@pytest.mark.parametrize("given", [{"BINS": 15.5}, {"RESAMPLES": "many"}, {"FOLDS": 1}, {"SEED": -1}])
def test_values_of_another_kind_are_refused(given):
    (name,) = given
    with pytest.raises(InputError, match=f"parameter {name}: expected a whole number from"):
        check_parameters(declared_parameters(FOLDER / "03_calibration.ipynb"), given)


def test_explore_runs(in_kernels, toy):
    toy.images(2)
    toy.checkpoint()
    toy.profile()
    given = {"PROFILE": str(toy.root / "toy.yaml")}
    execute(FOLDER / "explore.ipynb", toy.root / "out.ipynb", given, 120, toy.root)
    notebook = read(toy.root / "out.ipynb")
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    (states,) = notebook.metadata.widgets.values()  # an Output's echo can cost the client the end of a cell
    kinds = {state.model_name for state in states.state.values()}
    assert "DropdownModel" in kinds and "OutputModel" not in kinds
    shown = [output.data for output in outputs if "data" in output]
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) == 3
    assert shown[2]["text/plain"] == "'this profile has no factor sweeps'"


@by_name(PAGES)
def test_a_page_asks_first_and_says_its_limits(path):
    notebook = read(path)
    opening = notebook.cells[0]
    assert opening.cell_type == "markdown" and opening.source.startswith("# "), "a page opens with its title"
    assert "\n" in opening.source.strip(), "the title is followed by the question"
    titles = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert sum(line.startswith("# ") for line in titles) == 1
    assert any(line.startswith("## What this does not show") for line in titles)
    assert ".provenance()" in code_cells(notebook)[-1].source
