"""What stands in a report is what its pages made: other runs, edits, kills and full disks are noticed or kept away."""

import json
import multiprocessing
import os
import re
import resource
import shutil
import tempfile
import time
from pathlib import Path

import bs4
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from jupyter_client.provisioning import KernelProvisionerFactory

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.report import build as report
from beyond_accuracy.report import choose, front, run
from builders import code, markdown, write_notebook
from disks import as_anybody, may_mount, mount

PARAMETERS = 'PROFILE = "mini"  # profile\nMODELS = ""  # subset\nVALUE = 0.25  # recorded\nPAUSE = 0.0  # seconds'
PAGE = """
import time
import pandas as pd
from beyond_accuracy.page import open_page
page = open_page(PROFILE, "{dimension}", MODELS)
rows = pd.DataFrame({{"dataset": "d", "metric": "{metric}", "model": page.models, "value": VALUE, "ci_low": 0.1,
                     "ci_high": 0.9, "n": 9, "unit": "fraction"}})
page.record(rows)
time.sleep(PAUSE)
words = {{"dataset": "d", "metric": "{metric}", "unit": "fraction", "model_a": page.models[0], "model_b": ""}}
judged = page.compare(pd.DataFrame({{**words, "difference": [VALUE], "ci_low": 0.1, "ci_high": 0.4, "p": 0.1, "n": 9}}))
page.table(rows, "all", "What was recorded.")
page.finding(f"{{page.labels[page.models[0]]}} has {{VALUE}}.")
"""
PAGES = {"00_overview": ("models", "accuracy"), "03_calibration": ("calibration", "ece_debiased")}


def write_page(path, source):
    write_notebook(path, markdown(f"# {path.stem}\n\nWhy?"), code(PARAMETERS, "parameters"), code(source))


class Place:
    """A root with a profile of two imported models and two pages."""

    def __init__(self, root, inputs):
        self.root, self.inputs, self.folder = root, inputs, root / "report" / "trial"

    def profile(self, **changes):
        models = {name: {"source": "predictions", "label": f"Model {name}"} for name in "ab"}
        content = {"name": "trial", "models": models, "dimensions": {"models": {}, "calibration": {}}}
        (self.inputs / "trial.yaml").write_text(yaml.safe_dump(content | changes))
        return self.inputs / "trial.yaml"

    def build(self, **options):
        """Exit code and lines of a build."""
        said = []
        where = {"notebooks": self.inputs / "notebooks", "echo": said.append}
        return report.build(self.profile(**options.pop("changes", {})), **where | options), said

    def files(self):
        """Content of every file of the report that does not tell its date."""
        kept = ("results*", "comparisons*", "findings*", "figures*")
        found = [path for kind in kept for path in [*self.folder.glob(kind), *self.root.glob(kind)]]
        every = [path for top in found for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in every}

    def page(self, name):
        return bs4.BeautifulSoup((self.folder / f"{name}.html").read_text("utf-8"), "html.parser")


@pytest.fixture(scope="module")
def first(kernels, tmp_path_factory):
    """A complete report, made once."""
    inputs = tmp_path_factory.mktemp("inputs")
    for name, (dimension, metric) in PAGES.items():
        write_page(inputs / "notebooks" / f"{name}.ipynb", PAGE.format(dimension=dimension, metric=metric))
    place = Place(tmp_path_factory.mktemp("first"), inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEYOND_ACCURACY_ROOT", str(place.root))
        assert place.build()[0] == 0
    return place


@pytest.fixture
def place(first, tmp_path, monkeypatch):
    """A copy of the report to do things to."""
    shutil.copytree(first.root, tmp_path / "root")
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path / "root"))
    found = Place(tmp_path / "root", first.inputs)
    found.profile()
    return found


@pytest.fixture
def started_kernels(kernels, monkeypatch):
    """Kernels of a report of its own, which inherit limits and disks of whoever starts it."""
    monkeypatch.setattr(KernelProvisionerFactory.instance(), "default_provisioner_name", "local-provisioner")


def ran(said):
    return sorted(line.split(":")[0] for line in said if line.endswith(": running"))


# Runs outside `report` ------------------------------------------------------------------------------------------------


def alone(place, tmp_path, **parameters):
    """A notebook run by itself, as by papermill or in JupyterLab; its outputs as one text, and its error."""
    given = {"PROFILE": str(place.profile()), **parameters}
    run.execute(place.inputs / "notebooks" / "03_calibration.ipynb", tmp_path / "out.ipynb", given, 60, tmp_path)
    outputs = [out for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for out in cell.get("outputs", ())]
    errors = [out for out in outputs if out.output_type == "error"]
    return "".join(out.get("text", "") for out in outputs), errors


def test_a_notebook_run_by_itself_leaves_the_report_alone(place, tmp_path):
    before = place.files()
    said, errors = alone(place, tmp_path, VALUE=0.5, MODELS="a")
    assert not errors and said.count("Run by itself") == 1 and str(place.root / "runs" / "trial") in said
    assert place.files() == before
    own = pd.read_csv(place.root / "runs" / "trial" / "results" / "calibration.csv")
    assert own[["model", "value"]].to_numpy().tolist() == [["a", 0.5]]
    status, said = place.build()
    assert (status, ran(said)) == (0, []) and place.files() == before


def test_a_page_that_fails_after_it_recorded_is_no_part_of_the_report(place, tmp_path):
    broken, before = Place(place.root, tmp_path), place.files()
    source = PAGE.format(dimension="calibration", metric="ece_debiased") + "\nraise ValueError(1)"
    write_page(tmp_path / "notebooks" / "03_calibration.ipynb", source)
    assert len(alone(broken, tmp_path)[1]) == 1 and place.files() == before
    status, said = broken.build()
    assert status == 1 and len(pd.read_csv(place.folder / "results.csv")) == 0
    assert "What was recorded." in place.page("03_calibration").text and "Model a has" not in place.page("index").text


@pytest.mark.parametrize(
    ("given", "message"),
    [({"VALU": 0.5}, "unknown parameter 'VALU'; did you mean VALUE"), ({"VALUE": "many"}, "VALUE: expected a number")],
)
def test_parameters_of_a_notebook_run_by_itself_are_checked(place, tmp_path, given, message):
    _, (error,) = alone(place, tmp_path, **given)
    assert error.ename == "InputError" and message in error.evalue
    assert error.traceback == [f"InputError: {error.evalue}"]  # one line, no traceback
    assert not (place.root / "runs").exists()


def test_a_notebook_run_by_itself_that_cannot_write_names_the_way_out(place, tmp_path):
    (place.root / "runs").write_text("no folder")
    _, (error,) = alone(place, tmp_path)
    assert error.ename == "InputError" and "of reports: BEYOND_ACCURACY_ROOT" in error.evalue
    assert error.traceback == [f"InputError: {error.evalue}"]


# Files ----------------------------------------------------------------------------------------------------------------

DAMAGES = ("edited", "cut", "emptied", "removed")


def test_whatever_is_damaged_is_made_again(place):
    before, shown = place.files(), place.page("index").select_one(".ba-front").text
    names = ["results/calibration.csv", "comparisons/calibration.csv", "findings/calibration.json"]
    names += ["executed/03_calibration.ipynb", ".state/pages/03_calibration.html", ".state/pages/03_calibration.json"]
    paths = [place.folder / name for name in names]
    paths.append(place.root / "figures" / "trial" / "calibration" / "table-all.csv")
    outer = [place.folder / name for name in ("index.html", "03_calibration.html", "results.csv", ".state/site")]
    more = [(paths[0], "emptied"), (paths[0], "undone"), (outer[0], "cut"), (outer[2], "cut")]
    for path, damage in [*zip(paths[::2], DAMAGES, strict=True), *zip(outer, DAMAGES, strict=True), *more]:
        hurt(path, damage)
        status, said = place.build()
        assert (status, ran(said)) == (0, ["03_calibration"] if path in paths else []), path
    for path, damage in zip(paths, DAMAGES[::-1] * 2, strict=False):
        hurt(path, damage)
    assert place.build()[0] == 0
    assert place.files() == before and place.page("index").select_one(".ba-front").text == shown


def hurt(path, damage):
    content = path.read_bytes()
    changed = {"undone": content.replace(b"0.25", b"nan", 1), "cut": content[: len(content) // 2]}
    changed["edited"] = content.replace(b"0.25", b"0.85").replace(b"a", b"b", 1)
    path.unlink() if damage == "removed" else path.write_bytes(changed.get(damage, b""))


def test_records_that_no_page_vouches_for_are_no_part_of_the_report(place):
    """Left by an older version, another profile of the name, or a page that is no longer asked for."""
    stray = place.folder / "results" / "robustness.csv"
    shutil.copy(place.folder / "results" / "calibration.csv", stray)
    assert place.build()[0] == 0 and not stray.exists()
    status, _ = place.build(changes={"dimensions": {"models": {}}})
    assert status == 0 and set(pd.read_csv(place.folder / "results.csv")["dimension"]) == {"models"}
    assert not (place.folder / "03_calibration.html").exists()


def test_another_profile_never_shows_the_numbers_of_before(place):
    """`--only` after a change: the other pages are of the old profile, and say so instead of their numbers."""
    models = {"a": {"source": "predictions", "label": "Another"}, "b": {"source": "predictions", "label": "Model b"}}
    status, said = place.build(changes={"models": models}, only=["calibration"])
    assert (status, ran(said)) == (0, ["03_calibration"])
    assert any(line.startswith("00_overview: left out until it is built again: it is of another") for line in said)
    assert set(pd.read_csv(place.folder / "results.csv")["dimension"]) == {"calibration"}
    page = place.page("index")
    assert "Another" in page.text and "Model a" not in page.text
    assert "left out until it is built again" in page.select_one("[aria-labelledby=all-pages]").text
    assert ran(place.build(changes={"models": models})[1]) == ["00_overview"]


def test_a_report_in_a_folder_without_notebooks_is_refused(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to build.*has no notebook of calibration, models; run in a checkout"):
        place.build(notebooks=tmp_path / "empty")
    with pytest.raises(InputError, match="has no notebook of any dimension"):
        place.build(changes={"dimensions": {}})


# Two at once, and killed ----------------------------------------------------------------------------------------------


def child(run):
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def started(place, **options):
    return child(lambda: os._exit(place.build(**options)[0]))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_two_reports_in_one_root_wait_for_each_other(place, seed):
    """The second starts at any moment of the first."""
    place.build()
    pause = {"parameters": {"PAUSE": 0.5}}
    pair = [started(place, models="a", **pause)]
    time.sleep(np.random.default_rng(seed).uniform(0, 4) if seed else 0)
    pair.append(started(place, models="b", **pause))
    for process in pair:
        process.join(600)
    assert [process.exitcode for process in pair] == [0, 0]
    table = pd.read_csv(place.folder / "results.csv")
    (last,) = set(table["model"])  # one set of models has all pages
    assert len(table) == 2
    status, said = place.build(models=last, **pause)
    assert (status, ran(said)) == (0, [])
    if not seed:
        (other,) = {"a", "b"} - {last}
        assert ran(place.build(models=other, **pause)[1]) == [*PAGES]


WHEN = re.compile(r"( to )?\d{4}-\d\d-\d\d \d\d:\d\d [+-]\d{4}|\d+ s\b")  # dates and durations of runs


def shown(place):
    """What every page says and what every record holds, but for when it was made."""
    pages = {path.name: WHEN.sub("", place.page(path.stem).text) for path in place.folder.glob("*.html")}
    return pages | {name: content for name, content in place.files().items() if "/figures/" not in name}


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """What an undisturbed report of other models and values shows."""
    place = Place(tmp_path_factory.mktemp("second"), first.inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEYOND_ACCURACY_ROOT", str(place.root))
        assert place.build(**OTHER)[0] == 0
    return shown(place), place.files()


OTHER = {"models": "b", "parameters": {"VALUE": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_reports_killed_at_any_moment(first, second, place, seed):
    """Ten kills of two reports in one root: no page is ever a mixture, and an undisturbed run is right."""
    rng, hows = np.random.default_rng(seed), ({}, OTHER)
    right, whole = (shown(first), second[0]), (first.files(), second[1])
    duration, kills = 10.0, 0
    while kills < 10:
        began, process = time.monotonic(), started(place, **hows[rng.integers(2)])
        process.join(rng.uniform(0.02, 1.0) * duration)
        process.kill()
        process.join(600)
        kills += process.exitcode == -9
        if process.exitcode == 0:
            duration = min(duration, time.monotonic() - began)
        for name, content in shown(place).items():
            assert content in (right[0].get(name), right[1].get(name)), name
        if kills % 5 == 0:
            last = int(rng.integers(2))
            began = time.monotonic()
            assert place.build(**hows[last])[0] == 0
            duration = max(2.0, time.monotonic() - began)
            assert shown(place) == right[last] and place.files() == whole[last]
            assert not [path for path in place.root.rglob("*") if path.name.startswith((".tmp", ".0"))]


def test_a_killed_second_report_leaves_nothing_that_looks_finished(place):
    before = place.files()
    record = place.folder / "results" / "calibration.csv"
    second = started(place, models="b", parameters={"PAUSE": 60.0})
    for _ in range(6000):
        time.sleep(0.05)
        if record.is_file() and len(pd.read_csv(record)) == 1:
            break
    second.kill()
    second.join(600)
    for left in (place.folder / "results" / ".tmp-9-ab", place.root / "figures" / "trial" / "calibration" / ".tmp-8-a"):
        left.write_text("cut")
    status, said = place.build()
    assert status == 0 and "03_calibration" in ran(said)
    assert place.files() == before


# Disks ----------------------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_is_one_message_and_a_rerun_goes_on(started_kernels, place, tmp_path):
    before = place.files()
    shutil.rmtree(place.root / "report")
    said = tmp_path / "said"

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        try:
            place.build()
        except InputError as error:
            said.write_text(str(error))
            os._exit(2)

    process = child(limited)
    process.join(600)
    assert process.exitcode == 2 and "cannot write" in said.read_text() and "\n" not in said.read_text()
    left = [path for path in place.root.rglob("*") if path.name.startswith((".tmp", ".03", ".00"))]
    assert not left
    assert place.build()[0] == 0 and place.files() == before


@pytest.mark.parametrize("why", ["Not a directory", "Permission denied", "Read-only file system"])
def test_a_report_that_cannot_be_written_names_the_way_out(place, tmp_path, why):
    folder, said = place.root / "report", tmp_path / "said"
    shutil.rmtree(folder)
    folder.write_text("") if why.startswith("Not") else folder.mkdir(0o555)
    if why.startswith("Read"):
        may_mount(tmp_path / "try")

    def attempt():
        if why.startswith("Read"):
            mount(folder, "ro")
        with as_anybody():
            try:
                place.build()
            except InputError as error:
                said.write_text(str(error))

    child(attempt).join(60)
    assert re.match(rf"cannot write {folder}/.* \({why}\); .*of reports: BEYOND_ACCURACY_ROOT", said.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_report_on_a_disk_that_fills_up_anywhere(started_kernels, first, place, tmp_path, seed):
    """A real one: the report stops or says what failed, and a rerun with room shows what an undisturbed one does."""
    may_mount(tmp_path / "try")
    shutil.rmtree(place.root)
    place.root.mkdir()
    said = tmp_path / "said"

    def small():
        size = 4096 * int(np.random.default_rng(seed).integers(2, 120))
        mount(place.root, f"size={size},mode=755")
        try:
            status, lines = place.build()
        except InputError as error:
            status, lines = 2, [str(error)]
        said.write_text("\n".join(lines))
        mount(place.root, "remount,size=64m")
        again = place.build()[0]
        shutil.copytree(place.root, tmp_path / "copy")
        os._exit(10 * status + again)

    process = child(small)
    process.join(600)
    text = said.read_text()
    assert process.exitcode in (0, 10, 20), text
    assert not process.exitcode or "No space left on device" in text or "cannot write" in text, text
    copy = Place(tmp_path / "copy", first.inputs)
    assert shown(copy) == shown(first) and copy.files() == first.files()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "message"), [("HOME", "nr_inodes=1", ""), ("TMPDIR", "size=8k", "is full")]
)
def test_a_home_or_a_temporary_folder_without_room(
    started_kernels, place, tmp_path, monkeypatch, name, options, message
):
    may_mount(tmp_path / "try")
    before, disk, said = place.files(), tmp_path / "disk", tmp_path / "said"
    shutil.rmtree(place.root)
    disk.mkdir()
    for variable in [variable for variable in os.environ if variable.startswith(("XDG", "JUPYTER", "IPYTHON", "MPL"))]:
        monkeypatch.delenv(variable)

    def full():
        mount(disk, options)
        os.environ[name], tempfile.tempdir = str(disk), None
        status, lines = place.build()
        said.write_text("\n".join(lines))
        os._exit(status)

    process = multiprocessing.get_context("fork").Process(target=full)
    process.start()
    process.join(600)
    assert process.exitcode == (2 if message else 0) and message in said.read_text(), said.read_text()
    assert (place.build()[0], place.files()) == (0, before)


# One piece ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [choose, front])
def test_a_page_of_ours_that_fails_costs_itself_only(place, monkeypatch, module):
    whole = {choose: "gather", front: "headline_rows"}[module]
    with monkeypatch.context() as patch:
        works = getattr(module, whole)

        def broken(table, *others):
            if len(table):  # as odd rows would
                raise ZeroDivisionError("of <something>")
            return works(table, *others)

        patch.setattr(module, whole, broken)
        (place.folder / ".state" / "site").unlink()
        status, said = place.build()
    assert status == 1 and any("failed" in line and "ZeroDivisionError: of <something>" in line for line in said)
    index = place.page("index")
    linked = [a["href"] for a in index.select("[aria-labelledby=all-pages] a")]
    assert list(dict.fromkeys(href for href in linked if href[0].isdigit())) == [f"{name}.html" for name in PAGES]
    if module is choose:
        assert "of <something>" in place.page("choose").select_one("main").text
    status, said = place.build()
    assert (status, ran(said)) == (0, []) and "ZeroDivisionError" not in place.page("choose").text


# Kernels --------------------------------------------------------------------------------------------------------------

WHERE = """
import json, os, sys
from beyond_accuracy.base import paths
folders = [paths.project_root(), paths.data_dir(), paths.cache_dir()]
found = {"folders": [*map(str, folders)], "path": sys.path, "python": sys.executable, "hub": os.environ["HF_HOME"]}
print(json.dumps(found))
"""


def test_kernels_are_of_this_python_and_places_stay_where_the_command_had_them(started_kernels, tmp_path, monkeypatch):
    """A kernel `python3` of another Python on JUPYTER_PATH; folders that the environment names relatively."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    other = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    names = {"BEYOND_ACCURACY_ROOT": "root", "BEYOND_ACCURACY_DATA": "data", "BEYOND_ACCURACY_CACHE": "store"}
    for name, value in {**names, "PYTHONPATH": f"mine{os.pathsep}{report.LIBRARY.parent}", "HF_HOME": "hub"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mine").mkdir()
    write_page(tmp_path / "notebooks" / "03_calibration.ipynb", WHERE)
    (tmp_path / "x.yaml").write_text("dimensions: {calibration: {}}")
    assert report.build("x.yaml", notebooks=Path("notebooks"), echo=lambda _: None) == 0
    copy = nbformat.read(tmp_path / "root" / "report" / "x" / "executed" / "03_calibration.ipynb", 4)
    found = json.loads(copy.cells[-1].outputs[0].text)
    assert found["folders"] == [str(tmp_path / name) for name in ("root", "data", "store")]
    assert os.path.samefile(found["python"], os.sys.executable)
    assert str(tmp_path / "mine") in found["path"] and found["hub"] == str(tmp_path / "hub")
