"""What planning must know of a model, without its network."""

from dataclasses import dataclass, replace

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import ModelSpec, Settings
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.transforms import Geometry

PAPER_CROP = 224 / 256


@dataclass(frozen=True)
class Card:
    """A model without its network."""

    spec: ModelSpec
    weights: str  # hash of all parameters and buffers, whatever file they came from
    architecture: str  # hash of layers and configuration: the same weights under another activation differ
    geometry: Geometry  # resize and crop
    mean: tuple[float, ...]  # of the normalisation, on the 0..1 scale
    std: tuple[float, ...]
    patch: int  # the input side must be a multiple of this (1 for convnets)
    n_classes: int  # output columns of a supervised model; 0 for CLIP
    logit_scale: float | None  # CLIP only: what cosine similarities are multiplied by
    parameters: int  # of the image backbone (CLIP: image tower only), as the paper counts

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
        """Refuse a supervised checkpoint whose columns cannot be these classes."""
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


def local_dir(spec: ModelSpec) -> str:
    """The name that timm and open_clip take; for `local-dir:` with the folder where it is on this machine."""
    if not spec.id.startswith("local-dir:"):
        return spec.id
    folder = resolve(spec.id.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise DataMissing(f"{spec.name}: folder {folder} not found")
    return f"local-dir:{folder}"
