"""What planning must know of a model, kept on disk: a page whose predictions are stored loads no network.

Loading and hashing a network takes seconds, and importing torch takes more. A card is remembered under
`models/<hash>.json` of the store together with size and modification time of every file behind the model (a hub model:
its files in the hub's cache), and is read anew when one of them, the library or this code changes.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from beyond_accuracy import geometry, paths
from beyond_accuracy.errors import InputError
from beyond_accuracy.geometry import Geometry
from beyond_accuracy.labels import ClassSpace
from beyond_accuracy.paths import resolve
from beyond_accuracy.profiles import ModelSpec, Settings
from beyond_accuracy.stamps import atomic_write
from beyond_accuracy.store import Store

PAPER_CROP = 224 / 256


@dataclass(frozen=True)
class Card:
    """A model without its network.

    Attributes:
        spec: The profile's entry.
        weights: Hash of all parameters and buffers, whatever file they came from.
        architecture: Hash of the layers and of the configuration: the same weights under another activation differ.
        geometry: Resize and crop.
        mean: Normalisation mean, three values on the 0..1 scale.
        std: Normalisation standard deviation.
        patch: The input side must be a multiple of this (1 for convnets).
        n_classes: Output columns of a supervised model; 0 for CLIP.
        logit_scale: CLIP only: what cosine similarities are multiplied by.
        parameters: Number of parameters of the image backbone (CLIP: image tower only), as the paper counts.
    """

    spec: ModelSpec
    weights: str
    architecture: str
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch: int
    n_classes: int
    logit_scale: float | None
    parameters: int

    @property
    def name(self) -> str:
        """Name in the profile."""
        return self.spec.name

    @property
    def is_clip(self) -> bool:
        """Whether classes are scored through text prompts."""
        return self.spec.source == "open_clip"

    def under(self, settings: Settings) -> "Card":
        """The card under a profile's conventions: preprocessing preset, interpolation, CLIP logit scale."""
        card = self
        if settings.preset == "paper" and not self.is_clip:
            card = replace(card, geometry=Geometry.of(self.geometry.crop, PAPER_CROP, "bilinear"))
        if settings.interpolation != "own":
            card = replace(card, geometry=replace(card.geometry, interpolation=settings.interpolation))
        if not settings.antialias and card.geometry.mode != "longest":  # that mode resizes with timm's code, in PIL
            card = replace(card, geometry=replace(card.geometry, antialias=False))
        if self.is_clip and settings.logit_scale != "learned":
            card = replace(card, logit_scale=float(settings.logit_scale))
        return card

    def check(self, classes: ClassSpace) -> None:
        """Refuse a supervised checkpoint whose columns cannot be these classes.

        Raises:
            InputError: Another number of classes than the class space.
        """
        if not self.is_clip and self.n_classes != len(classes):
            raise InputError(
                f"{self.name}: the checkpoint has {self.n_classes} classes, the dataset's class space {classes.name} "
                f"has {len(classes)}; choose a checkpoint trained on {classes.name}"
            )

    def key_parts(self, classes: ClassSpace | None) -> dict:
        """What the cache key needs to know of the model; names, labels and file paths are not in it."""
        scored = self.is_clip and classes is not None
        return {
            "weights": self.weights,
            "architecture": self.architecture,
            "mean": self.mean,
            "std": self.std,
            "logit_scale": self.logit_scale if scored else None,
            "prompts": classes.prompt_hash if scored else None,
        }


def read_card(spec: ModelSpec, settings: Settings, imports: tuple[str, ...], root: Path) -> Card:
    """The card of a model: remembered, else from the network itself.

    Args:
        spec: The profile's entry.
        settings: Conventions applied to it.
        imports: Modules that register architectures, imported before a network is loaded.
        root: The store's folder.

    Raises:
        InputError: The model is unknown or its weights do not load.
        DataMissing: The weights are not on this machine.
    """
    file = Store(root).card_file(_identity(spec, imports))
    if (card := _remembered(file, spec)) is None:
        from beyond_accuracy.models import load_model, source_files

        model = load_model(spec, settings, imports)
        card = model.own_card
        if files := source_files(model):
            content = {"files": [_stamp(path) for path in files], "card": {**asdict(card), "spec": None}}
            text = json.dumps(content, indent=1)
            with suppress(InputError):  # a store that cannot be written still serves what it has
                atomic_write(file, lambda path: path.write_text(text, encoding="utf-8"))
    return card.under(settings)


def _remembered(file: Path, spec: ModelSpec) -> Card | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if [_stamp(Path(path)) for path, *_ in content["files"]] != content["files"]:
            return None
        card = content["card"]
        shape = Geometry(**{**card["geometry"], "fill": tuple(card["geometry"]["fill"])})
        fields = {**card, "geometry": shape, "mean": tuple(card["mean"]), "std": tuple(card["std"]), "spec": spec}
        return Card(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(path: Path) -> list:
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _identity(spec: ModelSpec, imports: tuple[str, ...]) -> dict:
    """Everything that decides which network a spec means, besides the content of files."""
    where = {key: str(resolve(value.removeprefix("local-dir:"))) for key, value in vars(spec).items() if key in _PLACES}
    origin = {name: _module_hash(name) for name in imports}
    libraries = {name: version(name) for name in ("timm", "open_clip_torch")}
    named = [spec.source, spec.id, spec.pretrained, spec.checkpoint]
    return {"named": named, "where": where, "imports": origin, "libraries": libraries, "code": _own_code()}


_PLACES = ("id", "pretrained", "checkpoint")


def _module_hash(name: str) -> str:
    try:
        found = find_spec(name)
        return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
    except (ImportError, AttributeError, ValueError, OSError, TypeError):
        return ""  # loading the network will say what is wrong


@lru_cache
def _own_code() -> str:
    """Hash of the code that fills a card in: a card of older code is not trusted."""
    files = [Path(__file__), Path(__file__).with_name("models.py"), Path(geometry.__file__), Path(paths.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
