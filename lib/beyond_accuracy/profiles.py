"""Reads and validates a profile: which models, datasets, dimensions and settings a run uses."""

import difflib
import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import yaml

from beyond_accuracy.errors import InputError
from beyond_accuracy.paths import PROFILES

DIMENSIONS = (
    "models",
    "mistakes",
    "shape_bias",
    "calibration",
    "robustness",
    "transfer",
    "synthetic",
    "invariance",
    "ablation",
    "landscape",
    "summary",
)
SOURCES = ("timm", "open_clip", "predictions")


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
    title: str = ""
    licence: str = ""
    expected: int = 0


@dataclass(frozen=True)
class Settings:
    """Conventions that change numbers, and resources.

    Attributes:
        preset: Preprocessing, `library` (the checkpoint's own) or `paper` (Resize 256 bilinear + crop for supervised).
        logit_scale: CLIP logit scale, `learned` or a number such as 100.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        prompts: Zero-shot prompt set; `default` takes the class space's templates.
        seed: Seed of every bootstrap and split.
        resamples: Bootstrap resamples behind an interval.
        notebook_timeout: Seconds a notebook may run.
        workers: Decoding processes; -1 = chosen from the machine.
        chunk: Images per store part: what an interrupted run loses at most.
    """

    preset: str = "library"
    logit_scale: str = "learned"
    precision: str = "auto"
    prompts: str = "default"
    seed: int = 0
    resamples: int = 2000
    notebook_timeout: int = 3600
    workers: int = -1
    chunk: int = 512


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

    def select(self, models: str | list[str]) -> "Profile":
        """The profile with a subset of its models; names not in it are taken as imported predictions.

        Args:
            models: Comma-separated names or a list; empty keeps all.
        """
        names = [m.strip() for m in models.split(",")] if isinstance(models, str) else list(models)
        names = [name for name in names if name]
        if not names:
            return self
        chosen = {n: self.models.get(n) or ModelSpec(n, "predictions", label=n) for n in dict.fromkeys(names)}
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
    if not path.is_file():
        raise InputError(unknown("profile", str(name), shipped) + "; or give the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse_profile(content, path)


def parse_profile(content: object, source: Path) -> Profile:
    """Validate the content of a profile file (see `load_profile`)."""
    top = _mapping(content, f"{source}")
    if base := top.get("extends"):
        parent = yaml.safe_load(_parent(str(base), source).read_text(encoding="utf-8"))
        top = _merge(_mapping(parent, str(base)), {k: v for k, v in top.items() if k != "extends"})
    _known_keys(
        top,
        {"name", "title", "synthetic", "description", "settings", "models", "datasets", "dimensions", "imports"},
        str(source),
    )
    models = {
        str(name): _model(str(name), _mapping(spec, f"{source}: models.{name}"), source)
        for name, spec in _mapping(top.get("models") or {}, f"{source}: models").items()
    }
    datasets = {
        str(name): _record(DatasetSpec, {"name": str(name), **_mapping(spec, f"{source}: datasets.{name}")}, source)
        for name, spec in _mapping(top.get("datasets") or {}, f"{source}: datasets").items()
    }
    dimensions = {
        str(name): _mapping(roles or {}, f"{source}: dimensions.{name}")
        for name, roles in _mapping(top.get("dimensions") or {}, f"{source}: dimensions").items()
    }
    for name in dimensions:
        if name not in DIMENSIONS:
            raise InputError(f"{source}: {unknown('dimension', name, DIMENSIONS)}")
    settings = _record(Settings, _mapping(top.get("settings") or {}, f"{source}: settings"), source)
    _check_settings(settings, source)
    return Profile(
        name=str(top.get("name") or source.stem),
        title=str(top.get("title") or top.get("name") or source.stem),
        synthetic=bool(top.get("synthetic", False)),
        models=models,
        datasets=datasets,
        dimensions=dimensions,
        settings=settings,
        imports=tuple(map(str, top.get("imports") or ())),
        description=str(top.get("description") or "").strip(),
        source=source,
    )


def unknown(kind: str, name: str, known) -> str:
    """Message for an unknown name, with near matches."""
    near = difflib.get_close_matches(name, list(map(str, known)), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(map(str, known)) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"


def _parent(base: str, source: Path) -> Path:
    path = available_profiles().get(base, source.parent / base)
    if not path.is_file():
        raise InputError(f"{source}: extends: {unknown('profile', base, available_profiles())}")
    return path


def _merge(parent: dict, child: dict) -> dict:
    merged = dict(parent)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return {key: value for key, value in merged.items() if value is not None}


def _model(name: str, content: dict, source: Path) -> ModelSpec:
    content = dict(content)
    if "name" in content:  # in YAML the library's name is called `name`; ours is the key
        content["id"] = content.pop("name")
    spec = _record(ModelSpec, {"label": name, **content, "name": name}, source)
    if spec.source not in SOURCES:
        raise InputError(f"{source}: models.{name}: {unknown('source', spec.source, SOURCES)}")
    if spec.source != "predictions" and not spec.id:
        raise InputError(f"{source}: models.{name}: 'name' is missing: the model's name in {spec.source}")
    return spec


def _record(kind: type, content: dict, source: Path):
    where = f"{source}: {content.get('name', 'settings')}"
    known = {f.name: f for f in fields(kind)}
    _known_keys(content, set(known), where)
    values = {}
    for key, value in content.items():
        wanted = known[key].type if isinstance(known[key].type, type) else str
        if value is None:
            continue
        if wanted is dict and not isinstance(value, dict):
            raise InputError(f"{where}: {key}: expected a mapping, got {value!r}")
        if wanted is int and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError(f"{where}: {key}: expected a whole number, got {value!r}")
        if wanted is str and isinstance(value, (dict, list)):
            raise InputError(f"{where}: {key}: expected text, got {value!r}")
        values[key] = wanted(value)
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _check_settings(settings: Settings, source: Path) -> None:
    for key, allowed in (("preset", ("library", "paper")), ("precision", ("auto", "fp32", "bf16", "fp16"))):
        if getattr(settings, key) not in allowed:
            raise InputError(f"{source}: settings.{key}: {unknown('value', getattr(settings, key), allowed)}")
    if settings.logit_scale != "learned":
        try:
            positive = float(settings.logit_scale) > 0
        except ValueError:
            positive = False
        if not positive:
            raise InputError(f"{source}: settings.logit_scale: expected `learned` or a positive number")
    for key in ("resamples", "notebook_timeout", "chunk"):
        if getattr(settings, key) < 1:
            raise InputError(f"{source}: settings.{key}: expected at least 1, got {getattr(settings, key)}")


def _mapping(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a mapping of names to values, got {type(value).__name__}")
    return {str(key): item for key, item in value.items()}


def _known_keys(content: dict, known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, sorted(known))}")
