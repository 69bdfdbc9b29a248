"""Resize and crop: the part of a model's preprocessing that runs on PIL images in the decoding workers.

Normalisation runs later, on the device. Two models that resize and crop alike share one decoded image. torchvision and
timm are imported where an image is touched, not above: a page that finds its predictions in the store needs neither.
"""

import math
from dataclasses import dataclass, field, replace

from PIL import Image

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import unknown


@dataclass(frozen=True)
class Geometry:
    """Resize, then crop the centre."""

    resize: int  # length of the resized side in pixels; 0 = no resize
    crop: int  # side of the square crop in pixels
    interpolation: str = "bicubic"  # `bicubic`, `bilinear` or another name of torchvision's `InterpolationMode`
    crop_first: int = 0  # crop this many pixels before the resize (PUG-ImageNet's official transform); 0 = no
    # what is resized: the `shortest` side, both sides (`squash`: the aspect ratio is lost), or the `longest` side with
    # a border around the rest
    mode: str = "shortest"
    fill: tuple[int, int, int] = (0, 0, 0)  # colour of that border, 0..255 per channel
    # crop divided by resize before rounding, for other input sides; 0 = take `crop / resize`
    crop_pct: float = field(default=0.0, compare=False)
    # filter before sampling, as PIL does. Without, the resize is that of torchvision on tensors before its version
    # 0.17, and of many deployments: pixels between the samples are skipped
    antialias: bool = True

    @classmethod
    def of(cls, size: int, crop_pct: float, interpolation: str, mode: str = "shortest", fill=(0, 0, 0)) -> "Geometry":
        """The geometry of an evaluation transform, with timm's rounding: resize to floor(size / crop_pct)."""
        return cls(math.floor(size / crop_pct), size, interpolation, 0, mode, tuple(fill), crop_pct)

    @property
    def text(self) -> str:
        """The one spelling, part of the cache key and printed as provenance."""
        first = f"CenterCrop({self.crop_first}) " if self.crop_first else ""
        how = "" if self.mode == "shortest" else f", {self.mode}"
        how += f" on {self.fill}" if self.mode == "longest" else ""
        how += "" if self.antialias else ", no antialias"
        resize = f"Resize({self.resize}, {self.interpolation}{how}) " if self.resize else ""
        return f"{first}{resize}CenterCrop({self.crop})"

    def apply(self, image: Image.Image) -> Image.Image:
        """Apply to an RGB image of any size; returns a `crop` x `crop` image."""
        from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize, ToPILImage
        from torchvision.transforms.functional import InterpolationMode

        steps = [CenterCrop(self.crop_first)] if self.crop_first else []
        if self.mode == "longest":
            from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

            steps += [
                ResizeKeepRatio((self.resize, self.resize), longest=1.0, interpolation=self.interpolation),
                CenterCropOrPad(self.crop, fill=list(self.fill)),
            ]
            return Compose(steps)(image)
        if self.resize:
            size = self.resize if self.mode == "shortest" else (self.resize, self.resize)
            resize = Resize(size, InterpolationMode(self.interpolation), antialias=self.antialias)
            # PIL always filters, whatever torchvision is told
            steps += [resize] if self.antialias else [PILToTensor(), resize, ToPILImage()]
        return Compose([*steps, CenterCrop(self.crop)])(image)

    def at(self, size: int) -> "Geometry":
        """The same preprocessing for another input side, with the libraries' own rounding: floor(size / crop_pct)."""
        if size == self.crop:
            return self
        if not self.resize:
            return replace(self, crop=size)
        return replace(self, resize=math.floor(size / (self.crop_pct or self.crop / self.resize)), crop=size)


def override(name: str, base: Geometry) -> Geometry:
    """The resize and crop a dataset prescribes in place of the model's own (empty name).

    `native`: no resize, centre crop (ImageNet-C's protocol; cue-conflict's files are at input size). `pug_official`:
    CenterCrop(256), then resize to the input side (PUG-ImageNet's author code).
    """
    if not name:
        return base
    if name == "native":
        return Geometry(0, base.crop, base.interpolation)
    if name == "pug_official":
        return Geometry(base.crop, base.crop, "bilinear", crop_first=256)
    raise InputError(unknown("preprocess", name, ("native", "pug_official")))
