"""Class spaces: the names, ids and zero-shot prompts behind a column of logits."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import numpy as np

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import ASSETS, resolve
from beyond_accuracy.base.profile import unknown

# SHA-256 of the 1000 wnids in order, joined by newlines: the order torchvision, timm and the A/R/ReaL releases share.
IMAGENET_ORDER = "385e0240499426c0"
MAX_BYTES = 64 * 2**20  # of a file of classes


@dataclass(frozen=True)
class ClassSpace:
    """What a classifier's output columns mean."""

    name: str  # name used in profiles
    ids: tuple[str, ...]  # stable id per class (wnid for ImageNet)
    names: tuple[str, ...]  # human-readable name per class
    templates: tuple[str, ...]  # zero-shot prompt templates with the placeholder `{c}`
    prompt_names: tuple[str, ...] = ()  # what takes its place, where it is not the name ("an airplane"); else empty

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def index(self) -> dict[str, int]:
        """Map from class id to output column."""
        return {class_id: position for position, class_id in enumerate(self.ids)}

    @property
    def spoken(self) -> tuple[str, ...]:
        """What takes the placeholder's place in a prompt, per class."""
        return self.prompt_names or self.names

    @property
    def prompt_hash(self) -> str:
        """Fingerprint of names and templates: a CLIP head changes when either does."""
        return _digest(*self.spoken, "--", *self.templates)

    def prompted(self, prompts: str) -> "ClassSpace":
        """The same classes asked for by other prompts: `default`, or templates with `{c}`, one a line."""
        return self if prompts == "default" else replace(self, templates=tuple(prompts.splitlines()))


def _digest(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@lru_cache
def class_space(name: str) -> ClassSpace:
    """A class space: `imagenet_1k`, `mini_world`, or the path of a JSON file with `ids`, `names` and `templates`."""
    if name == "imagenet_1k":
        return _imagenet()
    candidates = (ASSETS / name / "classes.json", Path(name), resolve(name))
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        known = "expected imagenet_1k, mini_world or a JSON file"
        raise InputError(
            f"unknown class space {name!r}: {known}; for folders named by classes of their own: `reader: own`"
        )
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(
            f"{path}: {size / 2**20:,.0f} MB are no list of classes; expected JSON with ids, names, templates"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids, names, templates = (tuple(map(str, content[key])) for key in ("ids", "names", "templates"))
        prompt_names = tuple(map(str, content.get("prompt_names") or ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON with the lists ids, names and templates ({error})") from error
    if len({len(ids), len(names), len(prompt_names or ids), len(set(ids))}) != 1 or not ids:
        raise InputError(f"{path}: ids must be unique and as many as names")
    if not templates or not all("{c}" in template for template in templates):
        raise InputError(f"{path}: there must be a template, and each must contain {{c}} for the class name")
    return ClassSpace(path.stem if path.parent == Path(".") else name, ids, names, templates, prompt_names)


def _imagenet() -> ClassSpace:
    # The module is a plain table. It is run by its path, because importing open_clip imports torch, and a page that
    # only reads predictions should not wait for that.
    table = run_path(Path(find_spec("open_clip").submodule_search_locations[0], "zero_shot_metadata.py"))
    templates = tuple(template("{c}") for template in table["OPENAI_IMAGENET_TEMPLATES"])
    return ClassSpace("imagenet_1k", imagenet_wnids(), tuple(table["IMAGENET_CLASSNAMES"]), templates)


@lru_cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 ILSVRC wnids in class order, from timm's packaged list; its order is verified by hash."""
    wnids = tuple(timm_list("imagenet_synsets.txt").split())
    if (digest := _digest(*wnids)) != IMAGENET_ORDER:
        raise InputError(f"timm's imagenet_synsets.txt has another class order than expected (hash {digest})")
    return wnids


@lru_cache
def imagenet_subset(name: str) -> np.ndarray:
    """Ascending class indices, int64 (200,), scored on ImageNet-A (`a`) or ImageNet-R (`r`); timm's packaged lists."""
    if name not in ("a", "r"):
        raise InputError(unknown("subset of ImageNet classes", name, ("a", "r")))
    return np.array(sorted(map(int, timm_list(f"imagenet_{name}_indices.txt").split())), dtype=np.int64)


def timm_list(file: str) -> str:
    """One of timm's packaged lists; importing timm would cost seconds that reading one should not."""
    return Path(find_spec("timm").submodule_search_locations[0], "data", "_info", file).read_text(encoding="utf-8")
