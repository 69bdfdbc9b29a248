"""Models: a timm or open_clip name becomes preprocessing, logits and features.

Both libraries return models in train mode (open_clip's convnext_base has active stochastic depth there): `eval()` is
called here, always. Weights are loaded through safetensors or `weights_only=True`, never unpickled.
"""

import copy
import hashlib
import importlib
import json
import logging
import pickle
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.geometry import Geometry
from beyond_accuracy.labels import ClassSpace
from beyond_accuracy.paths import resolve
from beyond_accuracy.profiles import ModelSpec, Settings, unknown

PAPER_RATIO = 256 / 224


@dataclass(frozen=True)
class Model:
    """A network in eval mode with its preprocessing.

    Attributes:
        spec: The profile's entry.
        network: timm model, or open_clip CLIP model.
        geometry: Resize and crop (workers, PIL).
        mean: Normalisation mean, three values on the 0..1 scale.
        std: Normalisation standard deviation.
        patch: Input side must be a multiple of this (1 for convnets).
        logit_scale: CLIP only: what cosine similarities are multiplied by.
        weights: Fingerprint of all parameters and buffers.
    """

    spec: ModelSpec
    network: nn.Module
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch: int
    logit_scale: float | None
    weights: str

    @property
    def name(self) -> str:
        """Name in the profile."""
        return self.spec.name

    @property
    def is_clip(self) -> bool:
        """Whether classes are scored through text prompts."""
        return self.spec.source == "open_clip"

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of the image backbone (CLIP: image tower only), as the paper counts."""
        backbone = self.network.visual if self.is_clip else self.network
        return sum(p.numel() for p in backbone.parameters())

    def to(self, device: torch.device) -> "Model":
        """Move to a device in channels-last layout."""
        return replace(self, network=self.network.to(device, memory_format=torch.channels_last))

    def at_size(self, size: int) -> "Model":
        """The same weights at another input side; a ViT's position embeddings are resampled.

        Raises:
            InputError: The side is no multiple of the patch size.
        """
        if size == self.geometry.crop:
            return self
        if size % self.patch:
            raise InputError(f"{self.name}: input side {size} is no multiple of the patch size {self.patch}")
        network = self.network
        if self.patch > 1:
            network = copy.deepcopy(network)
            _resample_positions(network.visual if self.is_clip else network, size)
        return replace(self, network=network, geometry=self.geometry.at(size))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (b, 3, s, s) to normalised float32, in the order of operations of torchvision's transforms."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)

    def head(self, classes: ClassSpace, device: torch.device) -> torch.Tensor | None:
        """CLIP: text embedding per class, float32 (width, n_classes), by open_clip's zero-shot builder; else None.

        Raises:
            InputError: A supervised checkpoint with another number of classes than the class space.
        """
        if not self.is_clip:
            n = getattr(self.network, "num_classes", None)
            if n != len(classes):
                raise InputError(
                    f"{self.name}: the checkpoint has {n} classes, the dataset's class space {classes.name} has "
                    f"{len(classes)}; choose a checkpoint trained on {classes.name}"
                )
            return None
        from open_clip import build_zero_shot_classifier

        templates = [lambda c, t=t: t.replace("{c}", c) for t in classes.templates]
        with torch.inference_mode():
            return build_zero_shot_classifier(
                self.network, _tokenizer(self.spec), classes.prompt_names or classes.names, templates, device=device
            ).float()

    def outputs(
        self, images: torch.Tensor, head: torch.Tensor | None, *, logits: bool = True, features: bool = False
    ) -> dict[str, torch.Tensor]:
        """Forward pass.

        Args:
            images: Normalised images (b, 3, s, s).
            head: What `head()` returned.
            logits: Compute class scores (b, n_classes): `logits`.
            features: Return `features-pre_logits` (timm) or `features-trunk` and `features-projected` (CLIP: before
                and after the projection into the shared space, not normalised), each (b, width).
        """
        if not self.is_clip:
            tokens = self.network.forward_features(images)
            out = {"logits": self.network.forward_head(tokens)} if logits else {}
            if features:
                out["features-pre_logits"] = self.network.forward_head(tokens, pre_logits=True)
            return out
        trunk, projected = _clip_features(self.network.visual, images)
        out = {"features-trunk": trunk, "features-projected": projected} if features else {}
        if logits:
            embedding = nn.functional.normalize(projected.float(), dim=-1)
            out["logits"] = self.logit_scale * embedding @ head
        return out

    def key_parts(self, classes: ClassSpace | None) -> dict:
        """What the cache key needs to know of the model."""
        prompts = classes.prompt_hash if self.is_clip and classes is not None else None
        return {
            "weights": self.weights,
            "source": self.spec.source,
            "mean": self.mean,
            "std": self.std,
            "logit_scale": self.logit_scale if classes is not None else None,
            "prompts": prompts,
        }


def load_model(spec: ModelSpec, settings: Settings, imports: tuple[str, ...] = ()) -> Model:
    """Build a model with its weights.

    Args:
        spec: The profile's entry.
        settings: Preprocessing preset and CLIP logit scale.
        imports: Modules to import first; they register architectures of their own with timm.

    Raises:
        InputError: Unknown model name (with near matches), a checkpoint that does not fit, a pickle.
        DataMissing: Weights are neither on this machine nor downloadable.
    """
    for module in imports:
        importlib.import_module(module)
    builders = {"timm": _load_timm, "open_clip": _load_open_clip}
    if spec.source not in builders:
        raise InputError(f"{spec.name}: a model with source {spec.source!r} has no network to run")
    logging.getLogger("timm").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            model = builders[spec.source](spec, settings)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{spec.name}: the checkpoint is a pickle with more than tensors in it and was not loaded "
                f"({str(error).splitlines()[0]}); convert it to safetensors with the tool it came from"
            ) from error
    model.network.eval().requires_grad_(False)
    return replace(model, weights=_weights_hash(model.network))


def _load_timm(spec: ModelSpec, settings: Settings) -> Model:
    import timm
    from timm.data import resolve_model_data_config

    options: dict = {"pretrained": True}
    if spec.checkpoint:
        options = {"pretrained": False, "checkpoint_path": str(_file(spec, spec.checkpoint))}
    name = _local_dir(spec)
    if ":" not in name and not timm.is_model(name):
        raise InputError(f"{spec.name}: {unknown('timm model', name, timm.list_models(pretrained=True))}")
    try:
        network = timm.create_model(name, **options)
    except (RuntimeError, ValueError, KeyError, FileNotFoundError, OSError) as error:
        raise _load_error(spec, error) from error
    config = resolve_model_data_config(network)
    size = config["input_size"][-1]
    geometry = Geometry(int(size / config["crop_pct"]), size, config["interpolation"])
    if settings.preset == "paper":
        geometry = Geometry(int(size * PAPER_RATIO), size, "bilinear")
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))[0]
    return Model(spec, network, geometry, tuple(config["mean"]), tuple(config["std"]), patch, None, "")


def _load_open_clip(spec: ModelSpec, settings: Settings) -> Model:
    import open_clip

    name = _local_dir(spec)
    pretrained = spec.checkpoint or spec.pretrained
    if ":" not in name:
        if name not in open_clip.list_models():
            raise InputError(f"{spec.name}: {unknown('open_clip model', name, open_clip.list_models())}")
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained not in tags:
            if not resolve(pretrained).is_file() and "/" not in pretrained and "." not in pretrained:
                raise InputError(f"{spec.name}: {unknown(f'pretrained tag of {name}', pretrained, tags)}")
            pretrained = str(_file(spec, pretrained))
    logging.disable(logging.ERROR)  # open_clip logs on the root logger what the exception says again
    try:
        network, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=pretrained or None, require_pretrained=True, weights_only=True
        )
    except (RuntimeError, ValueError, KeyError, FileNotFoundError, OSError) as error:
        raise _load_error(spec, error) from error
    finally:
        logging.disable(logging.NOTSET)
    config = network.visual.preprocess_cfg
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    scale = network.logit_scale.exp().item() if settings.logit_scale == "learned" else float(settings.logit_scale)
    del preprocess  # the same resize and crop as below; normalisation runs on the device
    geometry = Geometry(size, size, config.get("interpolation", "bicubic"))
    return Model(spec, network, geometry, tuple(config["mean"]), tuple(config["std"]), _patch(network), scale, "")


def _patch(network: nn.Module) -> int:
    visual = network.visual
    if hasattr(visual, "patch_size"):
        return visual.patch_size[0] if isinstance(visual.patch_size, (tuple, list)) else int(visual.patch_size)
    embed = getattr(getattr(visual, "trunk", None), "patch_embed", None)
    return getattr(embed, "patch_size", (1, 1))[0]


def _clip_features(visual: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image features before and after the projection into the shared space."""
    if hasattr(visual, "trunk"):  # a timm tower
        trunk = visual.trunk(images)
        return trunk, visual.head(trunk)
    if getattr(visual, "proj", None) is None:
        features = visual(images)
        return features, features
    projection, visual.proj = visual.proj, None
    try:
        trunk = visual(images)
    finally:
        visual.proj = projection
    return trunk, trunk @ projection


def _resample_positions(backbone: nn.Module, size: int) -> None:
    target = getattr(backbone, "trunk", backbone)
    if hasattr(target, "set_input_size"):  # timm
        target.set_input_size(img_size=size)
        return
    from open_clip.model import resize_pos_embed

    # open_clip's own ViT: its helper resamples the embeddings of a state dict to the model's grid
    patch = backbone.patch_size[0]
    backbone.image_size, backbone.grid_size = (size, size), (size // patch, size // patch)
    state = {"visual.positional_embedding": backbone.positional_embedding.detach()}
    holder = nn.Module()
    holder.visual = backbone
    resize_pos_embed(state, holder)
    backbone.positional_embedding = nn.Parameter(state["visual.positional_embedding"], requires_grad=False)


def _tokenizer(spec: ModelSpec):
    import open_clip

    tokenizer = open_clip.get_tokenizer(_local_dir(spec))
    table = Path(_local_dir(spec).removeprefix("local-dir:")) / "token_table.json"
    if not spec.id.startswith("local-dir:") or not table.is_file():
        return tokenizer
    # A small text tower keeps only the tokens that occur in its captions: ids are ranks in a sorted table.
    kept = torch.tensor(json.loads(table.read_text(encoding="utf-8")))

    def compact(texts):
        tokens = tokenizer(texts)
        ranks = torch.searchsorted(kept, tokens)
        if not torch.equal(kept[ranks.clamp(max=len(kept) - 1)], tokens):
            raise InputError(f"{spec.name}: a prompt uses a word outside the model's vocabulary: {texts}")
        return ranks

    return compact


def _local_dir(spec: ModelSpec) -> str:
    if not spec.id.startswith("local-dir:"):
        return spec.id
    folder = resolve(spec.id.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise DataMissing(f"{spec.name}: folder {folder} not found")
    return f"local-dir:{folder}"


def _file(spec: ModelSpec, name: str) -> Path:
    path = resolve(name)
    if not path.is_file():
        raise DataMissing(f"{spec.name}: checkpoint {path} not found; give a file, or drop it to use the hub's weights")
    return path


def _load_error(spec: ModelSpec, error: Exception) -> Exception:
    text = " ".join(str(error).split())[:300]
    offline = (
        "LocalEntryNotFound",
        "offline",
        "Connection",
        "couldn't connect",
        "Max retries",
        "resolve host",
        "download",
    )
    chain = f"{type(error).__name__} {type(error.__cause__).__name__} {text}"
    if any(word.lower() in chain.lower() for word in offline):
        return DataMissing(
            f"{spec.name}: weights of {spec.id} {spec.pretrained} are not on this machine and the hub cannot be "
            "reached; run `beyond-accuracy fetch --only models` where it can, or give `checkpoint:` a local file"
        )
    if isinstance(error, FileNotFoundError):
        return DataMissing(f"{spec.name}: {text}")
    return InputError(f"{spec.name}: weights of {spec.id} do not load: {text}")


def _weights_hash(network: nn.Module) -> str:
    """Hash of all parameters and buffers: independent of file format and of where they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
