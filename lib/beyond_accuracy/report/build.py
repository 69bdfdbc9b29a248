"""Builds the report: runs the notebooks that changed, renders their pages, writes the front page.

A page is rebuilt when what it is made of changed: its notebook, its parameters, the library, the profile, the stored
predictions it reads. Nothing else starts a kernel, and papermill and nbconvert are not even imported.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import locked, read_json, write_atomically
from beyond_accuracy.base.paths import ASSETS, figures_dir, notebooks_dir, project_root, report_dir, resolve
from beyond_accuracy.base.profile import Profile, assigned, available_profiles, check_parameters, load_profile, unknown
from beyond_accuracy.report import PageView
from beyond_accuracy.report.run import FIRST, LATE, READS, build_pages
from beyond_accuracy.show import results

if TYPE_CHECKING:
    from beyond_accuracy.inference.plan import Filled

LIBRARY = Path(__file__).parents[1]
RENDERING = ("report", "cli.py")  # what changes how a page looks but not what a notebook computes
TOOL_PAGES = ("models", "choose", "differences", "images", "metrics")  # made from what the notebooks recorded
PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "matplotlib", "pillow")
PACKAGES += ("torch", "timm", "open_clip_torch")
RECORDED = {"results": ".csv", "comparisons": ".csv", "findings": ".json"}  # folder -> what a page leaves there
DIMENSION_OF = {"overview": "models"}  # notebook stem -> dimension, where they differ


@dataclass(frozen=True)
class Notebook:
    """One notebook of the report: `<number>_<dimension>.ipynb`."""

    name: str
    dimension: str
    notebook: Path

    @property
    def title(self) -> str:
        """What it is called until it has said so itself."""
        return self.dimension.replace("_", " ").capitalize()

    def executed(self, folder: Path) -> Path:
        """Its executed copy in `report/<profile>`."""
        return folder / "executed" / f"{self.name}.ipynb"

    def kept(self, folder: Path, kind: str) -> Path:
        """What is kept of its page between runs: `html`, the inside, and `json`, a `PageState`."""
        return folder / ".state" / "pages" / f"{self.name}.{kind}"


@dataclass(frozen=True)
class PageState(PageView):
    """What is known of a page between runs, and the files that it vouches for."""

    run_key: str = ""
    render_key: str = ""
    made_for: str = ""  # profile and models
    files: dict[str, str] = field(default_factory=dict)  # digest of everything it left, by path below the root


def build(
    profile: str | Path | Profile,  # a shipped profile's name, a YAML file, or a loaded profile
    *,
    models: str = "",  # comma-separated subset of its models; names outside the profile are imported predictions
    only: Sequence[str] = (),  # dimensions to build (default: all); the other pages stay as they are
    allow_missing: bool = False,  # pages whose data are missing do not count against the exit code
    force: bool = False,  # run the notebooks of unchanged pages too
    options: Mapping[str, object] | None = None,  # of the inference: `device`, `batch_size`, `skip_bad`
    parameters: Mapping[str, object] | None = None,  # overrides, passed to every notebook that has them
    notebooks: Path | None = None,  # their folder (default: the checkout's)
    at_once: int = 0,  # notebooks that run at the same time; 0 = two, or one on a single core
    echo: Callable[[str], None] = print,  # told one line per page
) -> int:
    """Build the report of a profile in `report/<profile>/`: all inference (`plan.fill`), then the notebooks (`run`).

    An unknown profile, dimension or parameter raises InputError before anything is built. The exit code is 0 complete,
    1 a notebook failed, 2 a notebook met bad input, 3 data or weights missing.
    """
    loaded = profile if isinstance(profile, Profile) else load_profile(profile)
    loaded = loaded.select(models)
    folder = report_dir(loaded.name)
    if not (pages := find_pages(loaded, notebooks or notebooks_dir())):
        where = f"{notebooks or notebooks_dir()} has no notebook of {', '.join(loaded.dimensions) or 'any dimension'}"
        raise InputError(f"profile {loaded.name}: nothing to build: {where}; run in a checkout, or name `dimensions`")
    chosen = _choose(loaded, pages, [name for name in only if name])
    given = _parameters(loaded, models, parameters or {}, chosen)
    from beyond_accuracy.inference.plan import WORTH_SAYING, disk_lines

    with suppress(InputError):  # bad input is for the page that meets it
        for line in disk_lines(loaded, [page.dimension for page in chosen], WORTH_SAYING):
            echo(line)
    filled = fill_store(loaded, chosen, dict(options or {}), echo)

    def build_one(page: Notebook) -> PageState:
        found = filled[page.name]
        inputs = [*found.keys, *found.missing, *found.wrong, *found.left_out, *found.metadata.values(), *found.devices]
        run_key = _run_key(page, given[page.name], loaded, inputs, folder)
        state = states[page.name]
        kept = state.status == "ok" and state.run_key == run_key and not force
        if kept and state.render_key == _render_key(run_key):
            echo(f"{page.name}: unchanged")
        elif kept:
            state = _render(folder, page, run_key, state.facts, loaded)
            echo(f"{page.name}: rendered again")
        else:
            echo(f"{page.name}: running")
            facts = _run(folder, page, given[page.name], loaded)
            state = _render(folder, page, run_key, facts, loaded)
            echo(f"{page.name}: {state.status} ({facts['Duration']})" + (f": {state.message}" if state.message else ""))
        return state

    with locked(folder / ".state" / "lock", f"building {folder}") as alone:
        states = _vouched(folder, loaded, pages, alone)
        for name in states.keys() - {page.name for page in chosen}:
            if states[name].status == "absent" and states[name].message:
                echo(f"{name}: {states[name].message}")
        states |= build_pages(chosen, build_one, at_once, folder)
        failed = _assemble(folder, loaded, models, pages, states, dict(options or {}), echo)
    echo(f"report: {folder / 'index.html'}")
    statuses = [*(states[page.name].status for page in chosen), *failed]
    for status, told in (("missing", "missing"), ("input", "wrong")):  # a page may be there without some of its sets
        if count := len({message for found in filled.values() for message in getattr(found, told)}):
            statuses.append(status)
            echo(f"incomplete: {count} {told} (named above, and on the pages that go without)")
    return _exit_code(statuses, allow_missing)


def find_pages(profile: Profile, notebooks: Path) -> list[Notebook]:
    """The numbered notebooks whose dimension the profile enables, in reading order."""
    stems = {path: path.stem.partition("_")[2] for path in sorted(Path(notebooks).glob("[0-9]*_*.ipynb"))}
    pages = [Notebook(path.stem, DIMENSION_OF.get(stem, stem), path) for path, stem in stems.items()]
    pages = [page for page in pages if page.dimension in profile.dimensions]
    # what answers one's own question comes first, what sums up last
    return sorted(pages, key=lambda page: (page.dimension in LATE) - (page.dimension in FIRST))


def fill_store(
    profile: Profile, pages: Sequence[Notebook], options: dict, echo: Callable[[str], None]
) -> dict[str, Filled]:
    """Run what the store lacks; what was found, by page name. What goes wrong is for its own page to meet and say."""
    from beyond_accuracy.inference import plan
    from beyond_accuracy.inference.store import Store

    found, store = {}, Store()
    for page in pages:
        try:
            filled = plan.fill(profile, page.dimension, store, options) if profile.models else plan.Filled()
        except Exception as error:  # one model, one damaged file or the page's roles must not cost the other pages
            unknown_key = os.urandom(8).hex()  # what is behind the page is not known: it runs
            filled = plan.Filled([unknown_key], wrong=[str(error)])
        for message in (*filled.missing, *filled.wrong, *filled.left_out):
            echo(f"{page.name}: {message}")
        found[page.name] = filled
    return found


def _choose(profile: Profile, pages: list[Notebook], only: Sequence[str]) -> list[Notebook]:
    known = [page.dimension for page in pages]
    if strange := [name for name in only if name not in known]:
        raise InputError(f"profile {profile.name} has no such page: {unknown('dimension', strange[0], known)}")
    return [page for page in pages if not only or page.dimension in only]


def _exit_code(statuses: Sequence[str], allow_missing: bool) -> int:
    codes = {"failed": 1, "input": 2, "missing": 0 if allow_missing else 3}
    return next((code for status, code in codes.items() if status in statuses), 0)


# Parameters ----------------------------------------------------------------------------------------------------------


def _parameters(
    profile: Profile, models: str, overrides: Mapping[str, object], pages: Sequence[Notebook]
) -> dict[str, dict[str, object]]:
    """Parameters of each page by name, checked against what its notebook declares."""
    shipped = available_profiles().get(profile.name)
    source = profile.name if shipped == profile.source else str(profile.source.resolve())
    base = {"PROFILE": source, "MODELS": models, "SEED": profile.settings.seed, "RESAMPLES": profile.settings.resamples}
    declared = {page.name: declared_parameters(page.notebook) for page in pages}
    check_parameters({name: value for found in declared.values() for name, value in found.items()}, overrides)
    for page in pages:
        if lacking := [name for name in ("PROFILE", "MODELS") if name not in declared[page.name]]:
            raise InputError(f"{page.notebook.name}: its parameters cell must set {lacking[0]}")
    return {name: {k: v for k, v in {**base, **overrides}.items() if k in own} for name, own in declared.items()}


def declared_parameters(notebook: Path) -> dict[str, object]:
    """What a notebook's cell tagged `parameters` assigns; InputError for no notebook, or a cell that is not Python."""
    tagged = [text for kind, text, tags in _notebook_source(notebook) if kind == "code" and "parameters" in tags]
    try:
        return assigned("\n".join(tagged))
    except SyntaxError as error:
        raise InputError(f"{notebook.name}: parameters cell: {error}") from error


# What a page depends on ----------------------------------------------------------------------------------------------


def _run_key(page: Notebook, parameters: Mapping[str, object], profile: Profile, inputs: object, folder: Path) -> str:
    content = {
        "notebook": _notebook_source(page.notebook),
        "parameters": parameters,
        "models": list(profile.models),
        "profile": profile.digest,
        "library": _library_digest(),
        "inputs": inputs,
        "results": _read_digest(folder, page.dimension),
    }
    return _digest(json.dumps(content, sort_keys=True, default=str).encode())


def _render_key(run_key: str) -> str:
    folder = LIBRARY / "report"
    files = [folder / "html.py", *sorted((folder / "template").glob("reading.*"))]
    files += sorted((folder / "template" / "notebook").iterdir())
    return _digest(run_key.encode(), *(path.read_bytes() for path in files))


def _notebook_source(path: Path) -> list[tuple[str, str, list[str]]]:
    """Everything of a notebook that decides its page; outputs and counts of a run in JupyterLab do not."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [(c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])) for c in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a notebook: {error}") from error


def _library_digest() -> str:
    """Fingerprint of the code a notebook can call, of the small files it reads and of the packages behind it."""
    sources = [path for path in sorted(LIBRARY.rglob("*.py")) if path.relative_to(LIBRARY).parts[0] not in RENDERING]
    beside = [path for folder in (ASSETS, LIBRARY / "show") for path in sorted(folder.rglob("*"))]
    sources += [path for path in beside if path.suffix in {".csv", ".json", ".txt", ".yaml", ".j2"}]
    parts = [f"{path.relative_to(LIBRARY)}".encode() + path.read_bytes() for path in sources]
    return _digest(*parts, *(f"{name}={version(name)}".encode() for name in PACKAGES))


def _read_digest(folder: Path, dimension: str) -> str:
    """Fingerprint of what other pages recorded and this one reads."""
    if dimension in LATE:
        return _results_digest(folder, dimension)
    files = [folder / "results" / f"{name}.csv" for name in READS.get(dimension, ())]
    return _digest(*(path.read_bytes() for path in files if path.is_file())) if files else ""


def _results_digest(folder: Path, dimension: str = "") -> str:
    """Fingerprint of what all pages but one recorded."""
    files = [path for kind in RECORDED for path in sorted((folder / kind).glob(f"*{RECORDED[kind]}"))]
    return _digest(*(path.name.encode() + path.read_bytes() for path in files if path.stem != dimension))


def _digest(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:24]


# What is there from before --------------------------------------------------------------------------------------------


def _vouched(folder: Path, profile: Profile, pages: Sequence[Notebook], alone: bool) -> dict[str, PageState]:
    """States by page name; records that none of them vouches for (edited, another profile's, a killed run's) go."""
    states = {page.name: _read_state(folder, page, _made_for(profile)) for page in pages}
    good = {page.dimension for page in pages if states[page.name].status != "absent"}
    for kind, ending in RECORDED.items():
        for path in (folder / kind).glob(f"*{ending}"):
            if path.stem not in good:
                path.unlink()
    if alone:  # nobody else is at work here: what is half-written is a killed run's
        for place in (folder, figures_dir(profile.name)):
            for left in [*place.rglob(".tmp-*"), *place.rglob(".*.part.ipynb")]:
                left.unlink(missing_ok=True)
    return states


def _read_state(folder: Path, page: Notebook, made_for: str) -> PageState:
    content = read_json(page.kept(folder, "json"))
    try:
        state = PageState(**content | {"sections": [tuple(pair) for pair in content["sections"]]})
        reason = "" if state.made_for == made_for else "it is of another profile or other models"
    except (KeyError, TypeError, AttributeError):
        return PageState(page.name, page.title)  # never built, or by another version: build it
    reason = reason or ("" if _same(state.files) else "its files are not as it left them")
    return PageState(page.name, state.title, message=f"left out until it is built again: {reason}") if reason else state


def _made_for(profile: Profile) -> str:
    return _digest(profile.digest.encode(), json.dumps(list(profile.models)).encode())


def _recorded(folder: Path, dimension: str) -> list[Path]:
    return [folder / kind / f"{dimension}{ending}" for kind, ending in RECORDED.items()]


def _stamps(files: Iterable[Path]) -> dict[str, str]:
    """Digests of those files that are there, by path below the root."""
    root = project_root()
    return {str(path.relative_to(root)): _digest(path.read_bytes()) for path in files if path.is_file()}


def _same(stamps: Mapping[str, str]) -> bool:
    return _stamps(project_root() / name for name in stamps) == dict(stamps)


# Running and rendering ---------------------------------------------------------------------------------------------


def _run(folder: Path, page: Notebook, parameters: Mapping[str, object], profile: Profile) -> dict[str, str]:
    """Execute a page's notebook; returns facts for the page's footer."""
    from beyond_accuracy.report import run as report_run

    # Numbers of an earlier run must not outlive a run that fails, and a run cut short must not look finished.
    page.kept(folder, "json").unlink(missing_ok=True)
    for path in _recorded(folder, page.dimension):
        path.unlink(missing_ok=True)
    timeout = profile.settings.notebook_timeout
    return report_run.execute(page.notebook, page.executed(folder), parameters, timeout, project_root())


def _render(folder: Path, page: Notebook, run_key: str, facts: Mapping[str, str], profile: Profile) -> PageState:
    """Render the executed notebook and remember the result."""
    import nbformat

    from beyond_accuracy.report import html

    notebook = nbformat.read(page.executed(folder), as_version=4)
    failure = html.failure_of(notebook)
    status, message = (failure.status, failure.summary) if failure else ("ok", "")
    for path in _recorded(folder, page.dimension) if failure else ():
        path.unlink(missing_ok=True)  # part of a page's numbers is no part of the report
    body = html.render_body(notebook, failure, page.notebook.parent, page.dimension)
    said = (body.title or page.title, status, message, body.lead, body.sections, dict(facts), body.claim)
    write_atomically(page.kept(folder, "html"), body.html.encode())
    files = [page.executed(folder), page.kept(folder, "html"), *_recorded(folder, page.dimension)]
    files += sorted((figures_dir(profile.name) / page.dimension).glob("[!.]*"))
    state = PageState(page.name, *said, run_key, _render_key(run_key), _made_for(profile), _stamps(files))
    write_atomically(page.kept(folder, "json"), (json.dumps(asdict(state), indent=1) + "\n").encode())
    return state


def _assemble(
    folder: Path, profile: Profile, models: str, pages: Sequence[Notebook], states: Mapping[str, PageState],
    options: dict, echo: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Write the tool pages, the front page and the shell around every body; equal files are not touched.

    What cannot be made says so in its place, and is `failed` in the answer: the other pages are there all the same.
    """
    own = LIBRARY / "report"
    places = (own, own / "template", folder / ".state" / "pages")
    shell = [path for place in places for path in sorted(place.glob("*.*"))]
    said = (_library_digest(), _results_digest(folder), _made_for(profile))
    key = _digest(*(path.read_bytes() for path in shell), *(part.encode() for part in said))
    site_file = folder / ".state" / "site"
    built, kept = [name for name, state in states.items() if state.status != "absent"], read_json(site_file)
    if kept.get("key") == f"{key} {models} {built}" and _same(kept.get("files") or {"": ""}):
        return []

    from beyond_accuracy.report import choose, differences, front, html, images, real_models

    pages = sorted(pages, key=lambda page: page.dimension not in LATE)  # built last, read first
    views, there = [states[page.name] for page in pages], [page for page in pages if page.name in built]
    dimensions = [page.dimension for page in there]
    table, comparisons = results.collect(folder, dimensions), results.read_comparisons(folder, dimensions)
    inputs = [profile.digest, models, *(state.run_key for state in states.values())]
    titles = {page.dimension: states[page.name].title for page in pages}

    @cache
    def choice() -> choose.Choice:
        shared = choose.shared_draws(profile, options, choose.DRAWS, profile.settings.seed)
        return choose.gather(table, comparisons, profile, choose.DRAWS, profile.settings.seed, shared)

    made = {
        "models": lambda: real_models.body(next((f"{name}.html" for name in built if "landscape" in name), "")),
        "choose": lambda: choose.body(choice(), profile),
        "differences": lambda: differences.body(folder, profile, comparisons, titles),
        "images": lambda: images.kept_body(folder, inputs, profile, options),
        "metrics": front.metrics_body,
    }
    bodies, tools = {}, []
    for name, make in made.items():
        try:
            bodies[name], status, message = make(), "ok", ""
        except Exception as error:  # whatever it is: it costs this page only
            status, message = "failed", f"{type(error).__name__}: {error}"
            echo(f"{name}: failed: {message}")
            bodies[name] = html.Body(name.capitalize(), message, [], html.fragment("plain.html.j2", lead=message))
        tools.append(PageView(name, bodies[name].title, status, message, bodies[name].lead, bodies[name].sections))
    failed = [tool.status for tool in tools if tool.status != "ok"]
    own_images = any(name in profile.dimensions for name in FIRST)
    whole = profile.synthetic or own_images  # nothing was published of a rendered world, or of one's own images
    broken = tools[list(made).index("choose")].message
    advice = [] if broken else choose.advice(choice(), profile)
    site = {"profile": profile.name, "title": profile.title, "synthetic": profile.synthetic, "tools": tools}
    clean = {str(roles.get("clean")) for roles in profile.dimensions.values()} & profile.datasets.keys()
    sets = [profile.datasets[name] for name in clean]
    own = own_images or (sets and all(spec.reader == "own" or resolve(spec.classes).is_file() for spec in sets))
    site |= {"own": own, "cuts": {} if whole else _cuts(profile, pages), "advice": advice}
    for page in there:
        view, inside = states[page.name], page.kept(folder, "html").read_text("utf-8")
        inside = html.linked(inside, bodies["images"].links.get(page.dimension, {}))
        bodies[page.name] = html.Body(view.title, view.lead, view.sections, inside)
    written = [folder / "results.csv", folder / "index.html"]
    for view in [*tools, *views]:
        if view.name in bodies:
            shown = site | {"synthetic": profile.synthetic and view.name != "models"}  # published models are no toys
            written.append(folder / view.href)
            write_atomically(written[-1], html.page_html(bodies[view.name], view, views, shown).encode())
    for orphan in folder.glob("[0-9]*_*.html"):
        if orphan.stem not in built:
            orphan.unlink()
    about = [folder, profile, models, [page.dimension for page in pages], views, site]
    try:
        text = front.front_page(*about, table)
    except Exception as error:
        echo(f"index: failed, without its numbers: {type(error).__name__}: {error}")
        text, failed = front.front_page(*about, table[:0]), [*failed, "failed"]
    write_atomically(folder / "index.html", text.encode())
    if not failed:
        content = {"key": f"{key} {models} {built}", "files": _stamps(written)}
        write_atomically(site_file, json.dumps(content, indent=1).encode())
    return failed


def _cuts(profile: Profile, pages: Sequence[Notebook]) -> dict[str, list[str]]:
    """What each page uses of larger sets, by its name; all of it under the empty name."""
    from beyond_accuracy.inference import plan

    found = {}
    for page in pages:
        with suppress(InputError):  # of bad roles: the page says so
            if plan.requests(profile, page.dimension):
                found[page.name] = plan.cuts(profile, page.dimension)
    return {**found, "": list(dict.fromkeys(text for texts in found.values() for text in texts))}
