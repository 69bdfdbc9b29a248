"""A network ready to run: normalisation, class scores, features, other input sides."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.transforms import Geometry
from beyond_accuracy.models.card import SIGLIP, Card, local_dir, local_folder


@dataclass(frozen=True)
class Model:
    """A network in eval mode with its card."""

    card: Card
    network: nn.Module  # timm model, or open_clip CLIP model
    own_card: Card  # under the library's own conventions

    @property
    def is_clip(self) -> bool:
        """Whether classes are scored through text prompts."""
        return self.card.is_clip

    @property
    def geometry(self) -> Geometry:
        """Resize and crop (workers, PIL)."""
        return self.card.geometry

    def to(self, device: torch.device) -> "Model":
        """Move to a device in channels-last layout."""
        return replace(self, network=self.network.to(device, memory_format=torch.channels_last))

    def at_size(self, size: int) -> "Model":
        """The same weights at another input side; a ViT's position embeddings are resampled."""
        if size == self.own_card.geometry.crop:
            return replace(self, card=replace(self.card, geometry=self.geometry.at(size)))
        if size % self.card.patch:
            raise InputError(f"{self.card.name}: input side {size} is no multiple of the patch size {self.card.patch}")
        network = self.network
        if self.card.patch > 1:
            device = next((p.device for p in network.parameters()), torch.device("cpu"))
            # All rungs of a ladder share the weights but for positions. These are resampled on the CPU: MPS
            # cannot interpolate so, and the embeddings are then the same wherever the network runs.
            shared = {id(p): p for name, p in network.named_parameters() if "pos" not in name.rpartition(".")[2]}
            network = copy.deepcopy(network, dict(shared))
            for parameter in (p for p in network.parameters() if id(p) not in shared):
                parameter.data = parameter.data.cpu()
            try:
                _resample_positions(network.visual if self.is_clip else network, size)
                network.to(device, memory_format=torch.channels_last)
            except Exception as error:
                text = " ".join(str(error).split())[:200] or type(error).__name__
                raise InputError(f"{self.card.name}: cannot take inputs of side {size} ({text})") from error
        return replace(self, network=network, card=replace(self.card, geometry=self.geometry.at(size)))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (b, 3, s, s) to normalised float32, in the order of operations of torchvision's transforms."""
        mean = torch.tensor(self.card.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.card.std, device=images.device).view(1, 3, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)

    def head(self, classes: ClassSpace, device: torch.device, progress: bool = False) -> torch.Tensor | None:
        """CLIP: text embedding per class, float32 (width, n_classes), by open_clip's zero-shot builder; else None."""
        self.card.check(classes)
        if not self.is_clip:
            return None
        from open_clip import build_zero_shot_classifier

        templates = [lambda c, t=t: t.replace("{c}", c) for t in classes.templates]
        with torch.inference_mode():
            return build_zero_shot_classifier(
                self.network, tokenizer(self.card.spec), classes.spoken, templates, device=device, use_tqdm=progress
            ).float()

    def outputs(
        self, images: torch.Tensor, head: torch.Tensor | None, *, logits: bool = True, features: bool = False
    ) -> dict[str, torch.Tensor]:
        """Forward pass of normalised images (b, 3, s, s): `logits` (b, n_classes), and (b, width) features by layer.

        `features-pre_logits` (timm), or `features-trunk` and `features-projected` (CLIP: before and after the
        projection, not normalised). The classifier runs in float32 under any autocast: bf16 has 8 bits, on logits
        around 16 steps of 1/8, coarse enough to tie classes and to move calibration.
        """
        if not self.is_clip:
            tokens = self.network.forward_features(images)
            with torch.autocast(images.device.type, enabled=False):
                tokens = _float(tokens)
                out = {"logits": self.network.forward_head(tokens)} if logits else {}
                if features:
                    out["features-pre_logits"] = self.network.forward_head(tokens, pre_logits=True)
            return out
        trunk, projected = _clip_features(self.network.visual, images)
        out = {"features-trunk": trunk, "features-projected": projected} if features else {}
        if logits:
            with torch.autocast(images.device.type, enabled=False):
                embedding = nn.functional.normalize(projected.float(), dim=-1)
                out["logits"] = self.card.logit_scale * embedding @ head
        return out


def _float(tokens):
    """Floating-point tensors as float32, through the containers that some timm models return."""
    if isinstance(tokens, torch.Tensor):
        return tokens.float() if tokens.is_floating_point() else tokens
    return type(tokens)(map(_float, tokens)) if isinstance(tokens, (list, tuple)) else tokens


def _clip_features(visual: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image features before and after the projection into the shared space."""
    if hasattr(visual, "trunk"):  # a timm tower
        trunk = visual.trunk(images)
        return trunk, visual.head(trunk)
    if getattr(visual, "proj", None) is None:
        features = visual(images)
        return features, features
    bare = copy.copy(visual)  # shares all weights; other threads go on using the tower itself
    bare._parameters = {**visual._parameters, "proj": None}
    trunk = bare(images)
    trunk = trunk[0] if isinstance(trunk, tuple) else trunk  # CoCa's tower returns its tokens as well
    return trunk, trunk @ visual.proj


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


def tokenizer(spec: ModelSpec) -> Callable:
    """What turns texts into tokens for a CLIP model; a text that its tower could not read whole is an error."""
    import open_clip

    try:
        plain = open_clip.get_tokenizer(local_dir(spec))
    except ImportError as error:
        raise DataMissing(f"{spec.name}: its tokenizer needs transformers: {SIGLIP}") from error
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise DataMissing(
            f"{spec.name}: its tokenizer is not on this machine ({text}); get it with `beyond-accuracy fetch --only "
            "models`"
        ) from error
    reads, kept, folder = plain.context_length, None, local_folder(spec)
    if folder and (table := folder / "token_table.json").is_file():
        # A small text tower keeps only the tokens that occur in its captions: ids are ranks in a sorted table.
        kept = torch.tensor(json.loads(table.read_text(encoding="utf-8")))

    def tokenize(texts):
        if long := [text for text in texts if len(text.encode()) + 2 > reads]:  # a token is a byte at least
            padding = plain([""], 4 * reads)[0, -1]
            cut = (plain(long, 4 * reads)[:, reads:] != padding).any(dim=1)
            if cut.any():
                raise InputError(
                    f"{spec.name}: its text tower reads {reads} tokens, and would not see the end of the prompt "
                    f"{long[int(cut.nonzero()[0])]!r}; shorten the template or the class name"
                )
        tokens = plain(texts)
        if kept is None:
            return tokens
        ranks = torch.searchsorted(kept, tokens)
        if not torch.equal(kept[ranks.clamp(max=len(kept) - 1)], tokens):
            raise InputError(f"{spec.name}: a prompt uses a word outside the model's vocabulary: {texts}")
        return ranks

    return tokenize
