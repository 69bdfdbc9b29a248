"""Resize and crop: the part of a model's preprocessing that runs on PIL images in the decoding workers.

Normalisation runs later, on the device. Two models that resize and crop alike share one decoded image.
"""

from dataclasses import dataclass

from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import InterpolationMode

from beyond_accuracy.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """Resize the shorter side, then crop the centre.

    Attributes:
        resize: Length of the shorter side in pixels; 0 = no resize.
        crop: Side of the square crop in pixels.
        interpolation: `bicubic`, `bilinear` or another name of torchvision's `InterpolationMode`; antialiased (PIL).
        crop_first: Crop this many pixels before the resize (PUG-ImageNet's official transform); 0 = no.
    """

    resize: int
    crop: int
    interpolation: str = "bicubic"
    crop_first: int = 0

    @property
    def text(self) -> str:
        """The one spelling, part of the cache key and printed as provenance."""
        first = f"CenterCrop({self.crop_first}) " if self.crop_first else ""
        resize = f"Resize({self.resize}, {self.interpolation}) " if self.resize else ""
        return f"{first}{resize}CenterCrop({self.crop})"

    def apply(self, image: Image.Image) -> Image.Image:
        """Apply to an RGB image of any size; returns a `crop` x `crop` image."""
        steps = [CenterCrop(self.crop_first)] if self.crop_first else []
        if self.resize:
            steps.append(Resize(self.resize, InterpolationMode(self.interpolation)))
        return Compose([*steps, CenterCrop(self.crop)])(image)

    def at(self, size: int) -> "Geometry":
        """The same preprocessing for another input side: resize and crop keep their ratio."""
        if size == self.crop:
            return self
        # int() and not round(): the paper's int(size x 256 / 224), and timm's floor(size / crop_pct)
        return Geometry(int(size * self.resize / self.crop), size, self.interpolation, self.crop_first)


def override(name: str, base: Geometry) -> Geometry:
    """The resize and crop a dataset prescribes in place of the model's own.

    Args:
        name: Empty for the model's own; `native`: no resize, centre crop (ImageNet-C's official protocol, and
            cue-conflict, whose files are at input size already); `pug_official`: CenterCrop(256), then resize to the
            input side (PUG-ImageNet's author code).
        base: The model's own geometry.

    Raises:
        InputError: Unknown name.
    """
    if not name:
        return base
    if name == "native":
        return Geometry(0, base.crop, base.interpolation)
    if name == "pug_official":
        return Geometry(base.crop, base.crop, "bilinear", crop_first=256)
    raise InputError(f"unknown preprocess {name!r}; known: native, pug_official")
