"""Reads and validates a profile: which models, datasets, dimensions and settings a run uses."""

import difflib
import hashlib
import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from beyond_accuracy.errors import InputError
from beyond_accuracy.paths import PROFILES, check_name
from beyond_accuracy.yaml_files import is_file, plain, read_yaml

DIMENSIONS = (
    "models",
    "world",
    "mistakes",
    "shape_bias",
    "calibration",
    "robustness",
    "transfer",
    "synthetic",
    "invariance",
    "ablation",
    "landscape",
    "conventions",
    "summary",
)
TOP_ONLY = "top20"
KEEP = ("all", "logits", TOP_ONLY, "none")
SOURCES = ("timm", "open_clip", "predictions")
KEYS = {"name", "title", "synthetic", "description", "settings", "models", "datasets", "dimensions", "imports"}
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class ModelSpec:
    """One model of a profile: which checkpoint stands behind a name, and how the report draws it.

    Attributes:
        name: Name used everywhere (`vit_sup`).
        source: `timm`, `open_clip` or `predictions` (imported per-image predictions, no network).
        id: Name in the library (`deit3_base_patch16_224.fb_in22k_ft_in1k`, `ViT-B-16`, `hf-hub:…`, `local-dir:…`).
        pretrained: open_clip tag or file; empty with `local-dir:` and `hf-hub:` ids.
        checkpoint: Optional local weights file in the library's own key names.
        label: Text in figures.
        family: `transformer`, `convnet` or another word.
        paradigm: `supervised`, `clip` or another word.
    """

    name: str
    source: str
    id: str = ""
    pretrained: str = ""
    checkpoint: str = ""
    label: str = ""
    family: str = "other"
    paradigm: str = "supervised"


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a profile: how it is read.

    Attributes:
        name: Name used everywhere (`imagenet_1k`).
        reader: Reader function in `datasets.READERS`.
        path: File or folder; `assets:…` ships with the package, relative paths lie under the data folder.
        classes: Class space of the labels; empty where a set has labels of its own (probe tasks).
        options: Further keywords of the reader.
        limit: Use this many images, evenly spaced over the set; 0 = all.
        keep: What is stored beside the rows: `all` (logits, and features of the untransformed run), `logits`, `top20`
            (the 20 largest logits of each image with their classes) or `none`.
        title: Text in figures.
        licence: Terms of the data, shown where it is used.
        expected: Number of images the full set has; 0 = not checked.
    """

    name: str
    reader: str
    path: str = ""
    classes: str = "imagenet_1k"
    options: dict = field(default_factory=dict)
    limit: int = 0
    keep: str = "all"
    title: str = ""
    licence: str = ""
    expected: int = 0


@dataclass(frozen=True)
class Settings:
    """Conventions that change numbers, and resources.

    Attributes:
        preset: Preprocessing, `library` (the checkpoint's own) or `paper` (Resize 256 bilinear + crop for supervised).
        interpolation: Of the resize: `own` is what the preset says, else `bicubic` or `bilinear` for every model.
        antialias: Whether the resize filters before it samples, as PIL does.
        logit_scale: CLIP logit scale, `learned` or a number such as 100.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        prompts: Zero-shot prompts: `default` takes the class space's templates; else templates of your own with `{c}`
            for the class name, one a line.
        seed: Seed of every bootstrap and split.
        resamples: Bootstrap resamples behind an interval.
        notebook_timeout: Seconds a notebook may run.
        workers: Decoding processes; -1 = chosen from the machine.
        chunk: Images per store part: what an interrupted run loses at most.
        engine: `local`, or `ray` for a cluster (docs/scaling.md).
        exchange: URL where machines of the cluster hand over their parts if they do not share the store's path.
    """

    preset: str = "library"
    interpolation: str = "own"
    antialias: bool = True
    logit_scale: str = "learned"
    precision: str = "auto"
    prompts: str = "default"
    seed: int = 0
    resamples: int = 2000
    notebook_timeout: int = 3600
    workers: int = -1
    chunk: int = 512
    engine: str = "local"
    exchange: str = ""


@dataclass(frozen=True)
class Profile:
    """A validated profile. `dimensions[d]` maps the roles of page `d` to dataset names and options."""

    name: str
    title: str
    synthetic: bool
    models: dict[str, ModelSpec]
    datasets: dict[str, DatasetSpec]
    dimensions: dict[str, dict]
    settings: Settings
    imports: tuple[str, ...]
    description: str
    source: Path

    @property
    def digest(self) -> str:
        """Fingerprint of the whole profile: a page is rebuilt when it changes."""
        content = {
            "models": {name: vars(spec) for name, spec in self.models.items()},
            "datasets": {name: vars(spec) for name, spec in self.datasets.items()},
            "dimensions": self.dimensions,
            "settings": vars(self.settings),
            "text": [self.name, self.title, self.description, self.synthetic],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def under(self, settings: dict, limit: int = 0) -> "Profile":
        """The profile under other conventions, for asking what they change.

        Args:
            settings: Values of `Settings` by name.
            limit: Use at most this many images of every dataset, evenly spaced; 0 = as the profile says.

        Raises:
            InputError: An unknown setting or value.
        """
        changed = replace(self, settings=_record(Settings, {**vars(self.settings), **settings}, self.source))
        _check_settings(changed.settings, self.source)
        if not limit:
            return changed
        cut = {n: replace(spec, limit=min(limit, spec.limit or limit)) for n, spec in self.datasets.items()}
        return replace(changed, datasets=cut)

    def select(self, models: str | list[str]) -> "Profile":
        """The profile with a subset of its models; names not in it are taken as imported predictions.

        Args:
            models: Comma-separated names or a list; empty keeps all.
        """
        names = [m.strip() for m in models.split(",")] if isinstance(models, str) else list(models)
        names = [name for name in names if name]
        if not names:
            return self
        chosen = {
            name: self.models.get(name) or ModelSpec(check_name("model", name), "predictions", label=name)
            for name in dict.fromkeys(names)
        }
        return replace(self, models=chosen)


def available_profiles() -> dict[str, Path]:
    """Profiles that ship with the package, by name."""
    return {path.stem: path for path in sorted(PROFILES.glob("*.yaml"))}


def load_profile(name: str | Path) -> Profile:
    """Read a profile that ships with the package, or any YAML file.

    Args:
        name: `mini`, `paper`, …, or the path of a YAML file.

    Raises:
        InputError: Unknown profile, invalid YAML, unknown key or missing value, each with where and what to do.
    """
    shipped = available_profiles()
    path = shipped.get(str(name), Path(name))
    if not is_file(path):
        raise InputError(unknown("profile", str(name), shipped) + "; or give the path of a YAML file")
    return parse_profile(read_yaml(path), path)


def parse_profile(content: object, source: Path) -> Profile:
    """Validate the content of a profile file (see `load_profile`)."""
    top = _extended(_mapping(plain(content, str(source)), f"{source}"), source, (source.resolve(),))
    _known_keys(top, KEYS, str(source))
    models = {
        name: _model(name, _mapping(spec, f"{source}: models.{name}"), source)
        for name, spec in _mapping(top.get("models") or {}, f"{source}: models").items()
    }
    datasets = {
        name: _dataset(name, _mapping(spec, f"{source}: datasets.{name}"), source)
        for name, spec in _mapping(top.get("datasets") or {}, f"{source}: datasets").items()
    }
    dimensions = {
        name: _mapping(roles or {}, f"{source}: dimensions.{name}")
        for name, roles in _mapping(top.get("dimensions") or {}, f"{source}: dimensions").items()
    }
    for name in dimensions:
        if name not in DIMENSIONS:
            raise InputError(f"{source}: {unknown('dimension', name, DIMENSIONS)}")
    settings = _record(Settings, _mapping(top.get("settings") or {}, f"{source}: settings"), source)
    _check_settings(settings, source)
    name = check_name("profile", _text(top, "name", source) or source.stem, f"{source}: ")
    imports = top.get("imports") or []
    if not isinstance(imports, list) or not all(isinstance(module, str) for module in imports):
        raise InputError(f"{source}: imports: expected a list of module names, got {imports!r}")
    if not isinstance(top.get("synthetic", False), bool):
        raise InputError(f"{source}: synthetic: expected true or false, got {top['synthetic']!r}")
    return Profile(
        name=name,
        title=_text(top, "title", source) or name,
        synthetic=top.get("synthetic", False),
        models=models,
        datasets=datasets,
        dimensions=dimensions,
        settings=settings,
        imports=tuple(imports),
        description=_text(top, "description", source).strip(),
        source=source,
    )


def unknown(kind: str, name: str, known) -> str:
    """Message for an unknown name, with near matches."""
    near = difflib.get_close_matches(name, list(map(str, known)), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(map(str, known)) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"


def _extended(top: dict, source: Path, seen: tuple[Path, ...]) -> dict:
    """The profile merged over the one it extends, which may extend another."""
    base = top.pop("extends", None)
    if base is None:
        return top
    path = available_profiles().get(str(base), source.parent / str(base))
    if not is_file(path):
        raise InputError(f"{source}: extends: {unknown('profile', str(base), available_profiles())}")
    if path.resolve() in seen:
        raise InputError(f"{source}: extends: {base} leads back to itself")
    parent = _mapping(plain(read_yaml(path), str(path)), str(path))
    return _merge(_extended(parent, path, (*seen, path.resolve())), top)


def _merge(parent: dict, child: dict) -> dict:
    merged = dict(parent)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return {key: value for key, value in merged.items() if value is not None}


def _text(top: dict, key: str, source: Path) -> str:
    value = top.get(key)
    if isinstance(value, (dict, list)):
        raise InputError(f"{source}: {key}: expected text, got {value!r}")
    return "" if value is None else str(value)


def _model(name: str, content: dict, source: Path) -> ModelSpec:
    check_name("model", name, f"{source}: ")
    content = dict(content)
    if "name" in content:  # in YAML the library's name is called `name`; ours is the key
        content["id"] = content.pop("name")
    spec = _record(ModelSpec, {"label": name, **content, "name": name}, source)
    if spec.source not in SOURCES:
        raise InputError(f"{source}: models.{name}: {unknown('source', spec.source, SOURCES)}")
    if spec.source != "predictions" and not spec.id:
        raise InputError(f"{source}: models.{name}: 'name' is missing: the model's name in {spec.source}")
    return spec


def _dataset(name: str, content: dict, source: Path) -> DatasetSpec:
    check_name("dataset", name, f"{source}: ")
    if "name" in content:
        raise InputError(f"{source}: datasets.{name}: a dataset's name is its key; remove 'name'")
    spec = _record(DatasetSpec, {**content, "name": name}, source)
    if spec.keep not in KEEP:
        raise InputError(f"{source}: datasets.{name}.keep: {unknown('value', spec.keep, KEEP)}")
    for key in ("limit", "expected"):
        if getattr(spec, key) < 0:
            raise InputError(f"{source}: datasets.{name}.{key}: expected 0 or more, got {getattr(spec, key)}")
    return spec


def _record(kind: type, content: dict, source: Path):
    where = f"{source}: {content.get('name', 'settings')}"
    known = {f.name: f for f in fields(kind)}
    _known_keys(content, set(known), where)
    values = {}
    for key, value in content.items():
        wanted = known[key].type
        if value is None:
            continue
        if wanted is dict and not isinstance(value, dict):
            raise InputError(f"{where}: {key}: expected a mapping, got {value!r}")
        if wanted is bool and not isinstance(value, bool):
            raise InputError(f"{where}: {key}: expected true or false, got {value!r}")
        if wanted is int and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError(f"{where}: {key}: expected a whole number, got {value!r}")
        if wanted is str and isinstance(value, (dict, list)):
            raise InputError(f"{where}: {key}: expected text, got {value!r}")
        values[key] = wanted(value)
    try:
        return kind(**values)
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise InputError(f"{where}: missing {missing}") from error


def _check_settings(settings: Settings, source: Path) -> None:
    choices = {
        "preset": ("library", "paper"),
        "interpolation": ("own", "bicubic", "bilinear"),
        "precision": ("auto", "fp32", "bf16", "fp16"),
        "engine": ENGINES,
    }
    for key, allowed in choices.items():
        if getattr(settings, key) not in allowed:
            raise InputError(f"{source}: settings.{key}: {unknown('value', getattr(settings, key), allowed)}")
    if settings.logit_scale != "learned" and not _positive(settings.logit_scale):
        raise InputError(
            f"{source}: settings.logit_scale: expected `learned` or a positive number, got {settings.logit_scale!r}"
        )
    if settings.prompts != "default" and not all("{c}" in line for line in settings.prompts.splitlines() or [""]):
        raise InputError(f"{source}: settings.prompts: expected `default` or templates with {{c}}, one a line")
    for key, least in (("resamples", 1), ("notebook_timeout", 1), ("chunk", 1), ("seed", 0), ("workers", -1)):
        if getattr(settings, key) < least:
            raise InputError(f"{source}: settings.{key}: expected at least {least}, got {getattr(settings, key)}")


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _mapping(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a mapping of names to values, got {type(value).__name__}")
    return value


def _known_keys(content: dict, known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, sorted(known))}")
