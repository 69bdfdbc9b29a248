"""The image transformations of the invariance and robustness studies, each defined exactly.

A transform is written `name=strength`, optionally with `@paper`: `scale=1.5`, `shift=30@paper`,
`corrupt:gaussian_noise=3`. The text is part of cache keys and metric names, so it has one spelling
(`parse(text).text`). At a strength that leaves the picture alone (`scale=1`, `shift=0`, ...) it is `none`: such a run
*is* the untransformed run, bit for bit. `@library` may be written and is dropped.

It acts at one of three places: *source*, the decoded RGB image, before the model resizes and crops it; *input*, the
resized and cropped one, S x S pixels, before normalisation; *size*, the side S that the model is given.

- `scale=s` (source): zoom by s about the centre at constant crop, the central 1/s of width and height; s < 1 zooms out
  with mirrored borders. The paper enlarges the resize by s before a fixed crop, the same view to within a source pixel,
  so `scale=s@paper` is spelled `scale=s`.
- `shift=p` (input): the content moves right by round(p * S / 224) pixels, left if p < 0; the vacated strip takes the
  mean colour of the image, which invents no content (a mirrored strip would show half of the object a second time).
- `shift=p@paper` (source): as in the paper's code, the view moves by p *source* pixels along the longer side (right in
  a landscape image, else down), so the content moves the other way; zeros where the view leaves the image.
- `resolution=r` (size): S becomes S * r / 224, rounded to a multiple the model accepts; 224 is the identity for every
  model. The paper: resize to int(r * 256 / 224), crop r; the same under the preset `paper`, so `@paper` is dropped.
- `rotation=d` (source): d degrees counter-clockwise about the centre, bicubic, borders mirrored.
- `jitter=j` (input): brightness, contrast, saturation, in this order, each by a factor uniform in [1 - j, 1 + j].
- `noise=t` (input): Gaussian noise of standard deviation t on the 0..1 scale, per pixel and channel, clipped.
- `blur=p` (input): Gaussian blur with sigma = p * S / 224 pixels, borders mirrored.
- `jpeg=q` (input): JPEG at quality q (4:2:0 chroma) and back; no quality is the identity.
- `hflip=1` (input): mirror image, left to right.
- `corrupt:NAME=k` (input): ImageNet-C corruption NAME at severity k, regenerated (see `corruptions.py`).
- `corrupt:NAME=k@paper` (source): Resize(256), CenterCrop(224), the corruption, JPEG quality 85, as in the released
  files; the model's own preprocessing follows (for the paper's supervised models a second resize).

Randomness (jitter, noise, corruptions) comes from a generator seeded by the image id and the transform's text, so it
does not depend on order, batch size, workers or model.
"""

import hashlib
import math
from dataclasses import dataclass, field, replace

import numpy as np
import scipy
from PIL import Image, ImageEnhance

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import unknown
from beyond_accuracy.data import corruptions

REFERENCE = 224  # side of the model input that shifts, blurs and resolutions are stated in

# Strengths at which the report measures each (scale, shift and resolution: as the paper), least and most, and the one
# that leaves the image alone (JPEG has none).
_KINDS = {
    "scale": ((1, 1.25, 1.5, 2, 3), 0.1, 20.0, 1),
    "shift": ((0, 5, 30, 75, 100), -1000.0, 1000.0, 0),
    "resolution": ((112, 224, 336, 512, 640), 16.0, 4096.0, REFERENCE),
    "rotation": ((0, 5, 15, 30, 60, 90, 180), -360.0, 360.0, 0),
    "jitter": ((0, 0.2, 0.4, 0.6, 0.8), 0.0, 1.0, 0),
    "noise": ((0, 0.02, 0.05, 0.1, 0.2), 0.0, 1.0, 0),
    "blur": ((0, 1, 2, 4, 6), 0.0, 100.0, 0),
    "jpeg": ((90, 70, 50, 30, 10), 1.0, 100.0, None),
    "hflip": ((0, 1), 0.0, 1.0, 0),
}
LADDERS = {name: strengths for name, (strengths, *_) in _KINDS.items()}
IDENTITY_AT = {name: plain for name, (*_, plain) in _KINDS.items() if plain is not None} | {"corrupt": 0}

_INTEGERS = {"jpeg", "hflip", "resolution", "corrupt"}
# scale and resolution are the paper's operation already; see the table above
_SAME_AS_PAPER = {"scale", "resolution"}
_PLACE = {"scale": "source", "rotation": "source", "resolution": "size", "none": "none"}


@dataclass(frozen=True)
class Transform:
    """One transformation at one strength."""

    # `none`, `scale`, `shift`, `resolution`, `rotation`, `jitter`, `noise`, `blur`, `jpeg`, `hflip`, `corrupt`
    name: str = "none"
    strength: float = 0.0  # the number after `=`, in the unit the module's table states
    variant: str = "library"  # `library` or `paper`
    corruption: str = ""  # name of the ImageNet-C corruption when `name` is `corrupt`

    @property
    def text(self) -> str:
        """The one spelling of this transform, as used in cache keys and metric names."""
        if self.is_identity:
            return "none"
        name = f"corrupt:{self.corruption}" if self.name == "corrupt" else self.name
        suffix = "" if self.variant == "library" else f"@{self.variant}"
        return f"{name}={self.strength:.12g}{suffix}"

    @property
    def is_identity(self) -> bool:
        """True when the transformed run is the untransformed run."""
        return self.name == "none"

    @property
    def place(self) -> str:
        """Where in the pipeline it acts: `source`, `input`, `size`, or `none`."""
        return "source" if self.variant == "paper" else _PLACE.get(self.name, "input")

    def generator(self, image_id: str, seed: int = 0) -> np.random.Generator:
        """A generator that depends only on `seed`, this transform's text and the image id."""
        digest = hashlib.blake2b(f"{seed}|{self.text}|{image_id}".encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))

    def apply_source(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply to the decoded RGB source image; returns `image` itself when this transform does not act there."""
        if self.place != "source":
            return image
        if self.name == "scale":
            return _zoom(image, self.strength)
        if self.name == "rotation":
            return _rotate(image, self.strength)
        if self.name == "shift":
            width, height = image.size
            left, top = (round(self.strength), 0) if width > height else (0, round(self.strength))
            return image.crop((left, top, left + width, top + height))  # what lies outside the image is zero
        # the pipeline that made the released ImageNet-C files, up to and including their JPEG compression
        image = Geometry(256, 224, "bilinear").apply(image)
        return corruptions.jpeg(corruptions.corrupt_image(image, self.corruption, int(self.strength), rng), 85)

    def apply_input(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply to the RGB image at model input size; returns `image` itself when this transform does not act there."""
        if self.place != "input":
            return image
        side = min(image.size)
        if self.name == "shift":
            return _shift_content(image, round(self.strength * side / REFERENCE))
        if self.name == "hflip":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.name == "jitter":
            for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhancer(image).enhance(rng.uniform(1 - self.strength, 1 + self.strength))
            return image
        pixels = np.asarray(image, dtype=np.float32)
        if self.name == "noise":
            return _to_image(pixels + rng.normal(0.0, 255.0 * self.strength, pixels.shape))
        if self.name == "blur":
            sigma = self.strength * side / REFERENCE
            return _to_image(scipy.ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="reflect"))
        if self.name == "jpeg":
            return corruptions.jpeg(image, int(self.strength))
        return corruptions.corrupt_image(image, self.corruption, int(self.strength), rng)

    def input_size(self, base_size: int, multiple: int = 1) -> int:
        """The side to give the model instead of `base_size`: the nearest `multiple` (patch size), at least one."""
        if self.name != "resolution":
            return base_size
        return max(multiple, multiple * round(base_size * self.strength / REFERENCE / multiple))


IDENTITY = Transform()  # its text is `none`


def parse(text: str) -> Transform:
    """Read a transform: `none`, or `name=strength` with `@paper` or `@library`; `IDENTITY` where nothing changes."""
    body, _, variant = text.strip().partition("@")
    name, separator, value = body.partition("=")
    variant = variant or "library"
    if name == "none" and not separator:
        return IDENTITY
    name, _, corruption = name.partition(":")
    if name not in LADDERS and name != "corrupt":
        raise InputError(f"transform '{text}': {unknown('name', name, [*LADDERS, 'corrupt', 'none'])}")
    if variant not in ("library", "paper"):
        raise InputError(f"transform '{text}': unknown variant '@{variant}'; expected @library or @paper.")
    if variant == "paper" and name not in ("shift", "corrupt", *_SAME_AS_PAPER):
        raise InputError(f"transform '{text}': the paper has no '{name}'; write it without @paper.")
    strength = _strength(text, name, value)
    if name == "corrupt" and corruption not in corruptions.NAMES:
        raise InputError(f"transform '{text}': {unknown('corruption', corruption, corruptions.NAMES)}")
    if name != "corrupt" and corruption:
        raise InputError(f"transform '{text}': only 'corrupt' takes a name after ':', as in corrupt:fog=3.")
    if strength == IDENTITY_AT.get(name) or (name == "rotation" and strength % 360 == 0):
        return IDENTITY
    return Transform(name, strength, "library" if name in _SAME_AS_PAPER else variant, corruption)


def ladder(kind: str) -> list[str]:
    """The texts of a transform's strengths in the report; `kind` may name a variant (`shift@paper`).

    >>> ladder("scale")
    ['none', 'scale=1.25', 'scale=1.5', 'scale=2', 'scale=3']
    """
    return [text for _, text in steps(kind)]


def steps(kind: str) -> list[tuple[float, str]]:
    """Strengths of a transform in the report, each with its text; `kind` as for `ladder`."""
    name, at, variant = kind.partition("@")
    if name not in LADDERS:
        raise InputError(unknown("ladder of transforms", kind, LADDERS))
    return [(float(strength), parse(f"{name}={strength:g}{at}{variant}").text) for strength in LADDERS[name]]


def at_rest(metric: str) -> str:
    """A metric's name without a strength that changes nothing, since that is the plain run.

    >>> at_rest("accuracy:scale=1"), at_rest("accuracy:scale=2")
    ('accuracy', 'accuracy:scale=2')
    """
    name, _, step = metric.partition(":")
    kind, _, strength = step.partition("=")
    kind = kind.partition("@")[0]
    return name if kind in IDENTITY_AT and strength == f"{IDENTITY_AT[kind]:g}" else metric


def _strength(text: str, name: str, value: str) -> float:
    low, high = (0.0, 5.0) if name == "corrupt" else _KINDS[name][1:3]
    kind = "a whole number" if name in _INTEGERS else "a number"
    expected = f"expected {name}=VALUE with {kind} from {low:g} to {high:g}."
    try:
        strength = float(value)
    except ValueError:
        raise InputError(f"transform '{text}': '{value}' is not a number; {expected}") from None
    # the comparison is false for NaN too
    if not low <= strength <= high or (name in _INTEGERS and strength != int(strength)):
        raise InputError(f"transform '{text}': strength {value} is not possible; {expected}")
    return strength


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _reflected(image: Image.Image, margin_x: int, margin_y: int) -> Image.Image:
    margins = ((margin_y, margin_y), (margin_x, margin_x), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), margins, mode="symmetric"))


def _zoom(image: Image.Image, factor: float) -> Image.Image:
    width, height = image.size
    new_width, new_height = max(1, round(width / factor)), max(1, round(height / factor))
    if factor < 1:
        image = _reflected(image, (new_width - width + 1) // 2, (new_height - height + 1) // 2)
        width, height = image.size
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height))


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    width, height = image.size
    # after turning, a corner looks at most this far beyond the old border; 2 more for the bicubic support
    margin = int(np.ceil((np.hypot(width, height) - min(width, height)) / 2)) + 2
    turned = _reflected(image, margin, margin).rotate(degrees, resample=Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + width, margin + height))


def _shift_content(image: Image.Image, pixels: int) -> Image.Image:
    mean = np.asarray(image, dtype=np.float64).mean(axis=(0, 1))
    moved = Image.new("RGB", image.size, tuple(int(round(channel)) for channel in mean))
    moved.paste(image, (pixels, 0))
    return moved


# Resize and crop ------------------------------------------------------------------------------------------------------


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
        how = {"shortest": "", "longest": f", longest on {self.fill}"}.get(self.mode, f", {self.mode}")
        how += "" if self.antialias else ", no antialias"
        resize = f"Resize({self.resize}, {self.interpolation}{how}) " if self.resize else ""
        return f"{first}{resize}CenterCrop({self.crop})"

    def apply(self, image: Image.Image) -> Image.Image:
        """Apply to an RGB image of any size; returns a `crop` x `crop` image."""
        from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize, ToPILImage
        from torchvision.transforms.functional import InterpolationMode

        stages = [CenterCrop(self.crop_first)] if self.crop_first else []
        if self.mode == "longest":
            from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

            stages += [
                ResizeKeepRatio((self.resize, self.resize), longest=1.0, interpolation=self.interpolation),
                CenterCropOrPad(self.crop, fill=list(self.fill)),
            ]
            return Compose(stages)(image)
        if self.resize:
            size = self.resize if self.mode == "shortest" else (self.resize, self.resize)
            resize = Resize(size, InterpolationMode(self.interpolation), antialias=self.antialias)
            # PIL always filters, whatever torchvision is told
            stages += [resize] if self.antialias else [PILToTensor(), resize, ToPILImage()]
        return Compose([*stages, CenterCrop(self.crop)])(image)

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
