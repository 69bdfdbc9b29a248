"""The towers of the mini world's models, registered with timm so that timm and open_clip build the same ones by name.

Importing this module is enough: ``timm.create_model("vit_mini_patch8_48")`` works afterwards, and so does open_clip's
``CLIP`` with ``timm_model_name`` set to it. Width and depth are chosen so that the two towers of the study have the
same number of parameters to within a few percent.
"""

from __future__ import annotations

import open_clip
import timm
import torch
from timm.models import generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt, _create_convnext
from timm.models.resnet import BasicBlock, ResNet, _create_resnet
from timm.models.vision_transformer import VisionTransformer, _create_vision_transformer

IMAGE_SIZE = 48
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
INTERPOLATION = "bicubic"
CROP_PCT = 1.0  # the whole image: the sweeps of scale and position must not be cropped away
CONTEXT_LENGTH = 24
EMBED_DIM = 128

VIT = "vit_mini_patch8_48"
CONVNEXT = "convnext_mini_48"
REFERENCE = "resnet_mini_48"


def _cfg(**kwargs) -> dict:
    """Preprocessing in timm's form, the same for every tower."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
        "pool_size": None,
        "crop_pct": CROP_PCT,
        "interpolation": INTERPOLATION,
        "mean": MEAN,
        "std": STD,
        "license": "mit",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        f"{VIT}.untrained": _cfg(first_conv="patch_embed.proj", classifier="head"),
        f"{CONVNEXT}.untrained": _cfg(first_conv="stem.0", classifier="head.fc", pool_size=(2, 2)),
        f"{REFERENCE}.untrained": _cfg(first_conv="conv1", classifier="fc", pool_size=(2, 2)),
    }
)


@register_model
def vit_mini_patch8_48(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """Plain ViT, 6 x 6 tokens of 8 pixels, averaged before the head (1.59 M parameters).

    Any image size that is a multiple of 8 is accepted (position embeddings are resampled).
    """
    arguments = dict(
        img_size=IMAGE_SIZE,
        patch_size=8,
        embed_dim=160,
        depth=5,
        num_heads=4,
        class_token=False,
        global_pool="avg",
        dynamic_img_size=True,
    )
    return _create_vision_transformer("vit_mini_patch8_48", pretrained=pretrained, **{**arguments, **kwargs})


@register_model
def convnext_mini_48(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """ConvNeXt in four stages, 16 x 16 positions after a stem of 3 pixels, 2 x 2 at the end (1.64 M parameters).

    Layer scale starts at 0.1 instead of 1e-6: the training is a few thousand steps long.
    """
    arguments = dict(patch_size=3, depths=(2, 2, 4, 2), dims=(32, 64, 128, 224), ls_init_value=0.1)
    return _create_convnext("convnext_mini_48", pretrained=pretrained, **{**arguments, **kwargs})


@register_model
def resnet_mini_48(pretrained: bool = False, **kwargs) -> ResNet:
    """Small ResNet, not part of the study: its failures choose the adversarially filtered set (1.2 M parameters)."""
    arguments = dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(32, 64, 128, 256))
    return _create_resnet("resnet_mini_48", pretrained=pretrained, **{**arguments, **kwargs})


def clip_config(tower: str, vocab_size: int) -> dict:
    """open_clip's model configuration of a CLIP model around one of the towers.

    Args:
        tower: registered timm name.
        vocab_size: number of tokens after remapping.
    """
    return {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {"timm_model_name": tower, "timm_pool": "avg", "timm_proj": "linear", "image_size": IMAGE_SIZE},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


def preprocess_config() -> dict:
    """open_clip's preprocessing of the models: the shorter side resized to the image size, then a centre crop."""
    return {
        "size": IMAGE_SIZE,
        "mode": "RGB",
        "mean": MEAN,
        "std": STD,
        "interpolation": INTERPOLATION,
        "resize_mode": "shortest",
    }


def build_supervised(tower: str, num_classes: int) -> torch.nn.Module:
    """Untrained classifier."""
    return timm.create_model(tower, num_classes=num_classes)


def build_clip(tower: str, vocab_size: int) -> open_clip.CLIP:
    """Untrained CLIP model."""
    return open_clip.CLIP(**clip_config(tower, vocab_size))


def parameter_count(module: torch.nn.Module) -> int:
    """Number of trainable and fixed parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
