"""Reads and validates what a run is given: profiles (models, datasets, dimensions, settings), parameters of notebooks.

A profile is YAML that somebody else wrote: plain values only, no endless trees, one message for whatever is wrong.
"""

import ast
import difflib
import glob
import hashlib
import itertools
import json
import math
import os.path
import re
import sys
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import yaml

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import file_stamp
from beyond_accuracy.base.paths import PROFILES, check_name, expanded, resolve

SHIFTS = ("v2", "a", "r", "sketch", "hard")
ROLES = {  # page -> parts that datasets play on it, and its options; None: any
    "models": ("clean",),
    "world": ("clean", *SHIFTS, "cue_conflict", "pug"),
    "mistakes": ("clean", "factors", "real"),
    "shape_bias": ("cue_conflict",),
    "calibration": ("clean", "shifted"),
    "robustness": ("clean", *SHIFTS, "c", "real", "corrupt", "models"),
    "transfer": ("tasks", "features", "protocols"),
    "synthetic": ("pug", "reference"),
    "invariance": ("clean", "transforms", "models"),
    "ablation": ("table",),
    "landscape": None,
    "conventions": ("clean", "factors", "limit", "subsets"),
    "own_images": ("clean", "training", "dropped", "models"),
    "summary": None,
}
OPTIONS = {"factors", "tasks", "protocols", "transforms", "table", "limit", "dropped"}  # roles that name no dataset
LISTS = {"shifted", "transforms", "subsets", "models", "protocols"}  # roles that are lists: one word is a list of one
SOURCES = ("timm", "open_clip", "predictions")
HEADS = ("", "probe", "knn", "zero_shot", "own")
PLAIN = {"name": str, "title": str, "description": str, "replicates": str, "synthetic": bool}
SECTIONS = {"settings", "models", "datasets", "dimensions", "imports"}
ENGINES = ("local", "ray")
CHOICES = {
    "source": SOURCES,
    "preset": ("library", "paper"),
    "side": ("trained", "published"),
    "interpolation": ("own", "bicubic", "bilinear"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "engine": ENGINES,
    "keep": ("all", "logits", "none"),
}
LEAST = {"resamples": 1, "notebook_timeout": 1, "chunk": 1, "seed": 0, "workers": -1, "limit": 0, "expected": 0}
LEAST |= {"RESAMPLES": 1, "BINS": 1, "FOLDS": 2, "PROBE_SEEDS": 1, "LEAST": 1, "TOP": 1}  # other parameters: 0
INJECTED = "# Parameters\n"  # how the cell begins that papermill puts behind the tagged one
EXPECTED = {bool: "true or false", int: "a whole number", dict: "a mapping", str: "text"}
MAX_NODES = 20_000  # far above any real profile; YAML aliases can otherwise unfold without end


@dataclass(frozen=True)
class ModelSpec:
    """One model of a profile: which checkpoint stands behind a name, and how the report draws it."""

    name: str  # name used everywhere (`vit_sup`)
    source: str  # `timm`, `open_clip` or `predictions` (imported per-image predictions, no network)
    id: str = ""  # name in the library (`deit3_base_patch16_224.fb_in22k_ft_in1k`, `hf-hub:…`, `local-dir:…`)
    pretrained: str = ""  # open_clip tag or file; empty with `local-dir:` and `hf-hub:` ids
    # optional local weights file in the library's own key names; `predictions`: a CSV of them, `{dataset}` in its name
    checkpoint: str = ""
    label: str = ""  # text in figures
    family: str = "other"  # `transformer`, `convnet` or another word
    paradigm: str = "supervised"  # `supervised`, `clip` or another word
    # What answers: `own` classifier or `zero_shot` prompts (either is the default of its kind of model), else a `probe`
    # (logistic regression) or `knn` fitted to the dataset's labels, each image answered by one that never saw it
    head: str = ""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a profile: how it is read."""

    name: str  # name used everywhere (`imagenet_1k`)
    reader: str  # a reader of `readers.READERS`
    path: str = ""  # file or folder; `assets:…` ships with the package, relative paths lie under the data folder
    classes: str = "imagenet_1k"  # class space of the labels; empty where a set has labels of its own (probe tasks)
    options: dict = field(default_factory=dict)  # further keywords of the reader
    limit: int = 0  # use this many images, evenly spaced over the set; 0 = all
    keep: str = "all"  # beside the rows: `all` (logits, and features of the untransformed run), `logits` or `none`
    title: str = ""  # text in figures
    licence: str = ""  # terms of the data, shown where it is used
    expected: int = 0  # number of images the full set has; 0 = not checked


@dataclass(frozen=True)
class Settings:
    """Conventions that change numbers, and resources."""

    preset: str = "library"  # preprocessing: the checkpoint's own, or `paper` (Resize 256 bilinear + crop)
    side: str = "trained"  # input side and crop: as the checkpoint was trained, or as its accuracies were `published`
    interpolation: str = "own"  # of the resize: what the preset says, else `bicubic` or `bilinear` for every model
    antialias: bool = True  # whether the resize filters before it samples, as PIL does
    logit_scale: str = "learned"  # CLIP logit scale, `learned` or a number such as 100
    precision: str = "auto"  # `auto`, `fp32`, `bf16` or `fp16`
    prompts: str = "default"  # zero-shot: the class space's templates, else your own with `{c}`, one a line
    seed: int = 0  # seed of every bootstrap and split
    resamples: int = 2000  # bootstrap resamples behind an interval
    notebook_timeout: int = 3600  # seconds a notebook may run
    workers: int = -1  # decoding processes; -1 = chosen from the machine
    chunk: int = 512  # images per store part at most; work decides, too (`run.PART_SECONDS`)
    engine: str = "local"  # `local`, or `ray` for a cluster (docs/scaling.md)
    exchange: str = ""  # URL where machines of the cluster hand over their parts if they do not share the store's path


@dataclass(frozen=True)
class Profile:
    """A validated profile. `dimensions[d]` maps the roles of page `d` to dataset names and options."""

    name: str
    title: str
    models: dict[str, ModelSpec]
    datasets: dict[str, DatasetSpec]
    dimensions: dict[str, dict]
    settings: Settings
    imports: tuple[str, ...]
    source: Path
    synthetic: bool = False
    description: str = ""
    replicates: str = ""  # table of further training runs of its models (`verdicts.RUNS`), if known

    def __post_init__(self):
        taken: dict[str, str] = {}
        for name, spec in self.models.items():
            if (first := taken.setdefault(spec.label, name)) != name:  # tables and figures would merge the two
                raise InputError(f"{self.source}: models {first} and {name} have one label {spec.label!r}; change one")

    @cached_property
    def digest(self) -> str:
        """Fingerprint of the whole profile: a page is rebuilt when it changes."""
        content = {
            "models": {name: vars(spec) for name, spec in self.models.items()},
            "datasets": {name: vars(spec) for name, spec in self.datasets.items()},
            "dimensions": self.dimensions,
            "settings": vars(self.settings),
            "text": [self.name, self.title, self.description, self.synthetic],
            "files": [file_stamp(path) for path in self._files()],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _files(self) -> list[Path]:
        """Small files that pages read as they are: those the profile names, and lists beside the data."""
        values = [self.replicates, *(spec.classes for spec in self.datasets.values())]
        for entry in (*self.dimensions.values(), *(spec.options for spec in self.datasets.values())):
            values += [value for value in entry.values() if isinstance(value, str)]
        found = [resolve(value) for value in dict.fromkeys(values) if value]
        found += [beside for path in found for beside in path.parent.glob(f"{glob.escape(path.stem)}_*{path.suffix}")]
        folders = [resolve(spec.path) for spec in self.datasets.values() if spec.path]
        found += [path for folder in folders for path in folder.glob("*.*") if path.suffix in (".txt", ".json", ".csv")]
        return sorted({path for path in found if os.path.isfile(path)})

    def under(self, settings: dict, limit: int = 0) -> "Profile":
        """The profile under other `Settings`, and with at most `limit` images of every dataset (0 = as it says)."""
        changed = _settings({**vars(self.settings), **settings}, self.source)
        cut = {n: replace(spec, limit=min(limit, spec.limit or limit)) for n, spec in self.datasets.items()}
        return replace(self, settings=changed, datasets=cut if limit else self.datasets)

    def on(self, dimension: str) -> "Profile":
        """The profile of one page: with the models that its role `models` names, where it does."""
        named = self.dimensions.get(dimension, {}).get("models") or list(self.models)
        return replace(self, models={name: spec for name, spec in self.models.items() if name in named})

    def select(self, models: str | list[str]) -> "Profile":
        """The profile with some of its models (empty keeps all); names that are not in it are imported predictions."""
        names = models.split(",") if isinstance(models, str) else models
        chosen = {
            name: self.models.get(name) or ModelSpec(check_name("model", name), "predictions", label=name)
            for name in map(str.strip, names)
            if name
        }
        return replace(self, models=chosen) if chosen else self


def available_profiles() -> dict[str, Path]:
    """Profiles that ship with the package, by name."""
    return {path.stem: path for path in sorted(PROFILES.glob("*.yaml"))}


def load_profile(name: str | Path) -> Profile:
    """Read a profile that ships with the package (`mini`, `paper`, …), or any YAML file."""
    shipped = available_profiles()
    path = shipped.get(str(name)) or Path(os.path.abspath(name))
    if not os.path.isfile(path):  # never an error, not even for a name too long for a file
        raise InputError(unknown("profile", str(name), shipped) + "; or give the path of a YAML file")
    return parse_profile(_read_yaml(path), path)


def parse_profile(content: object, source: Path) -> Profile:
    """Validate the content of a profile file (see `load_profile`)."""
    top = _extended(_mapping(_plain(content, str(source)), f"{source}"), source, (source.resolve(),))
    _known_keys(top, PLAIN.keys() | SECTIONS, str(source))
    plain = _typed({key: value for key, value in top.items() if key in PLAIN}, PLAIN, str(source))
    plain["name"] = check_name("profile", plain.get("name") or source.stem, f"{source}: ")
    plain["title"], plain["description"] = plain.get("title") or plain["name"], plain.get("description", "").strip()
    imports = top.get("imports") or []
    if not isinstance(imports, list) or not all(isinstance(module, str) for module in imports):
        raise InputError(f"{source}: imports: expected a list of module names, got {imports!r}")
    if imports and (folder := str(source.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # modules lie beside the profile, or are installed

    def section(key: str) -> dict:
        return _mapping(top.get(key) or {}, f"{source}: {key}")

    def entries(key: str) -> dict[str, dict]:
        return {name: _mapping(entry or {}, f"{source}: {key}.{name}") for name, entry in section(key).items()}

    dimensions = entries("dimensions")
    for name, roles in dimensions.items():
        if name not in ROLES:
            raise InputError(f"{source}: {unknown('dimension', name, ROLES)}")
        for role in [role for role in roles if role not in (ROLES[name] or roles)]:
            raise InputError(f"{source}: dimensions.{name}: {unknown('role', role, ROLES[name])}")
        roles |= {r: [str(roles[r])] for r in LISTS & roles.keys() if not isinstance(roles[r], (list, type(None)))}
        for role in [role for role in ROLES[name] or () if roles.get(role) is not None and role not in OPTIONS]:
            kind = "model" if role == "models" else "dataset"
            named, known = roles[role] if isinstance(roles[role], list) else [roles[role]], section(f"{kind}s")
            if strange := [str(text) for text in named if str(text) not in known]:
                raise InputError(f"{source}: dimensions.{name}.{role}: {unknown(kind, strange[0], known)}")
        if isinstance(tasks := roles.get("tasks"), str) and tasks.endswith(".yaml"):  # a file beside the profile
            if not (file := source.parent / tasks).is_file():
                raise InputError(f"{source}: dimensions.{name}.tasks: {file} not found; it lies beside the profile")
            roles["tasks"] = _plain(_read_yaml(file), str(file))
    return Profile(
        **plain,
        settings=_settings(section("settings"), source),
        models={name: _model(name, entry, source) for name, entry in entries("models").items()},
        datasets={name: _dataset(name, entry, source) for name, entry in entries("datasets").items()},
        dimensions=dimensions,
        imports=tuple(imports),
        source=source,
    )


def unknown(kind: str, name: str, known) -> str:
    """Message for an unknown name, with near matches."""
    near = difflib.get_close_matches(name, list(map(str, known)), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(map(str, known)) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; a key that stands twice is an error, where PyYAML takes the last in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"line {node.start_mark.line + 1}: the key {twice[0]!r} stands twice in one mapping")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a safe loader)
    except Exception as error:  # PyYAML lets KeyError, IndexError, AttributeError and others out on odd scalars
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from error


def _plain(content: object, where: str) -> object:
    """The tree with text keys and plain values; one that aliases make endless is an error."""
    count = itertools.count(1)

    def walk(node: object, depth: int) -> object:
        if depth > 20 or next(count) > MAX_NODES:
            raise InputError(f"{where}: nested too deeply or too large for a profile")
        if isinstance(node, dict):
            return {str(key): walk(value, depth + 1) for key, value in node.items()}
        if isinstance(node, (list, tuple, set)):
            return [walk(value, depth + 1) for value in node]
        return node if node is None or isinstance(node, (str, bool, int, float)) else str(node)

    return walk(content, 0)


def _extended(top: dict, source: Path, seen: tuple[Path, ...]) -> dict:
    """The profile merged over the one it extends, which may extend another."""
    base, top = top.pop("extends", None), _placed(top, source.resolve().parent)
    if base is None:
        return top
    path = available_profiles().get(str(base), source.parent / str(base))
    if not os.path.isfile(path):
        raise InputError(f"{source}: extends: {unknown('profile', str(base), available_profiles())}")
    if path.resolve() in seen:
        raise InputError(f"{source}: extends: {base} leads back to itself")
    parent = _mapping(_plain(_read_yaml(path), str(path)), str(path))
    parent = _extended(parent, path, (*seen, path.resolve()))
    merged, own = _merge(parent, top), {"name", "title"}
    if parent.get("models") and not parent["models"].keys() & merged.get("models", {}).keys():
        own |= {"synthetic", "description"}  # what they say is said of its models
    return {key: value for key, value in merged.items() if key not in own or key in top}


def _placed(top: dict, folder: Path) -> dict:
    """The profile with its relative paths made absolute where they lie beside it; others lie under the data folder."""

    def place(key: str, value: object) -> object:
        if isinstance(value, dict):
            return {name: place(name, inner) for name, inner in value.items()}
        local = "local-dir:" if isinstance(value, str) and value.startswith("local-dir:") else ""
        text = value.removeprefix(local) if isinstance(value, str) else ""
        named = key == "path" or local or os.path.splitext(text)[1] or "/" in text
        found = named and text and not os.path.isabs(text) and os.path.exists(folder / text)
        return f"{local}{folder / text}" if found else value

    placed = {key: place(key, value) for key, value in top.items() if key in ("models", "datasets", "dimensions")}
    return top | placed | {key: place("path", top[key]) for key in ("replicates",) if key in top}


def _merge(parent: dict, child: dict) -> dict:
    merged = dict(parent)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return {key: value for key, value in merged.items() if value is not None}


def _model(name: str, content: dict, source: Path) -> ModelSpec:
    check_name("model", name, f"{source}: ")
    if "name" in content:  # in YAML the library's name is called `name`; ours is the key
        content = {**content, "id": content["name"]}
    spec = _record(ModelSpec, {"label": name, **content, "name": name}, f"{source}: models.{name}")
    unfit = {"timm": ["zero_shot"], "open_clip": ["own"], "predictions": HEADS[1:]}[spec.source]
    if spec.head not in HEADS or spec.head in unfit:
        fit = [head for head in HEADS[1:] if head not in unfit]
        raise InputError(f"{source}: models.{name}.head: {unknown(f'head of a {spec.source} model', spec.head, fit)}")
    if spec.source != "predictions" and not spec.id:
        raise InputError(f"{source}: models.{name}: 'name' is missing: the model's name in {spec.source}")
    return spec


def typed_model(text: str, known: Iterable[str], checkpoint: str = "") -> ModelSpec:
    """A model as one types it: `timm:NAME`, `open_clip:NAME/TAG`, either with `=FILE` for local weights.

    A file lies where the command runs, else where a profile's `checkpoint` would. InputError names what is `known`.
    """
    (source, _, rest), given = text.partition(":"), checkpoint
    if not given:
        rest, _, given = rest.partition("=")
    if source not in ("timm", "open_clip") or not rest:
        raise InputError(f"{unknown('model', text, known)}; or give timm:NAME or open_clip:NAME/TAG")
    name, _, tag = rest.partition("/") if source == "open_clip" and ":" not in rest else (rest, "", "")
    file = expanded(given)
    safe = re.sub(r"[^\w.-]+", "_", rest.rpartition("/")[2] if ":" in rest else rest).lstrip("._~")[-60:]
    about = {"label": safe if ":" in rest else rest.partition(".")[0], "pretrained": tag}
    about["paradigm"] = "clip" if source == "open_clip" else "supervised"
    return ModelSpec(safe, source, name, checkpoint=str(file.resolve()) if file.is_file() else given, **about)


def _dataset(name: str, content: dict, source: Path) -> DatasetSpec:
    check_name("dataset", name, f"{source}: ")
    if "name" in content:
        raise InputError(f"{source}: datasets.{name}: a dataset's name is its key; remove 'name'")
    return _record(DatasetSpec, {**content, "name": name}, f"{source}: datasets.{name}")


def _settings(content: dict, source: Path) -> Settings:
    where = f"{source}: settings"
    settings = _record(Settings, content, where)
    scale = settings.logit_scale
    if scale != "learned" and not _positive(scale):
        raise InputError(f"{where}.logit_scale: expected `learned` or a positive number, got {scale!r}")
    if settings.prompts != "default" and not all("{c}" in line for line in settings.prompts.splitlines() or [""]):
        raise InputError(f"{where}.prompts: expected `default` or templates with {{c}}, one a line")
    return settings


def _record(kind: type, content: dict, where: str):
    """A `ModelSpec`, `DatasetSpec` or `Settings` of values of the right type and in range."""
    types = {field.name: field.type for field in fields(kind)}
    _known_keys(content, types.keys(), where)
    try:
        record = kind(**_typed(content, types, where))
    except TypeError as error:
        raise InputError(f"{where}: missing {str(error).rpartition(': ')[2]}") from error
    for key, value in vars(record).items():
        if key in CHOICES and value not in CHOICES[key]:
            raise InputError(f"{where}.{key}: {unknown('value', value, CHOICES[key])}")
        if key in LEAST and value < LEAST[key]:
            raise InputError(f"{where}.{key}: expected at least {LEAST[key]}, got {value}")
    return record


def _typed(content: dict, types: dict[str, type], where: str) -> dict:
    """The values as their types; nulls are left at their default."""
    values = {key: value for key, value in content.items() if value is not None}
    for key, value in values.items():
        wanted = types[key]  # a bool is an int to Python; a number may stand for text
        fits = not isinstance(value, (dict, list)) if wanted is str else type(value) is wanted
        if not fits:
            raise InputError(f"{where}: {key}: expected {EXPECTED[wanted]}, got {value!r}")
        values[key] = wanted(value)
    return values


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _mapping(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a mapping of names to values, got {type(value).__name__}")
    return value


def _known_keys(content: dict, known: Set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, sorted(known))}")


# Parameters of a notebook ---------------------------------------------------------------------------------------------


def assigned(source: str) -> dict[str, object]:
    """Names that a cell assigns, with their values; None for a value that is no plain literal."""
    found: dict[str, object] = {}
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = None
        with suppress(ValueError):
            value = ast.literal_eval(getattr(statement, "value", None) or ast.Constant(None))
        found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return found


def check_parameters(usual: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Raise `InputError` for a name that is not declared, or a value of another kind than the declared one.

    papermill only warns of a parameter that a notebook does not have, and the run then quietly uses the default.
    """
    for name, value in given.items():
        if name not in usual:
            raise InputError(f"no notebook of this run has it: {unknown('parameter', name, sorted(usual))}")
        kind = type(usual[name])
        fits = usual[name] is None or type(value) is kind or (kind is float and type(value) is int)
        least = LEAST.get(name, 0)
        if not fits or (type(value) in (int, float) and not value >= least):
            text = "a number" if kind is float else EXPECTED.get(kind, f"a {kind.__name__}")
            bound = f" from {least}" if kind in (int, float) else ""
            raise InputError(f"parameter {name}: expected {text}{bound}, such as {usual[name]!r}, got {value!r}")


def check_injected() -> None:
    """Check what papermill put into the running notebook (nothing elsewhere) against the cells that ran before it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    cells: Iterable[str] = shell.user_ns.get("In", ()) if shell else ()
    before: dict[str, object] = {}
    for source in cells:
        with suppress(SyntaxError):
            if source.startswith(INJECTED):
                check_parameters(before, assigned(source))
            else:
                before |= assigned(source)
