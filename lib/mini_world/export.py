"""Writes trained models in the folders that timm and open_clip load with their `local-dir:` names."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from . import architectures
from .train_data import TokenTable


def half_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state as contiguous float16 tensors on the CPU; integer buffers stay as they are."""
    return {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes float16 safetensors, readable by everyone (the library makes the file private)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(half_weights(model), path, metadata={"format": "pt"})
    path.chmod(0o644)


def save_supervised(model: nn.Module, class_names: tuple[str, ...], folder: Path) -> None:
    """Writes `config.json` and `model.safetensors`.

    ``timm.create_model("local-dir:<folder>", pretrained=True)`` loads them.
    """
    save_weights(model, folder / "model.safetensors")
    about = {"label_names": list(class_names), "pretrained_cfg": {"tag": "mini_world"}}
    save_config_for_hf(model, str(folder / "config.json"), model_config=about)


def save_clip(model: open_clip.CLIP, tower: str, table: TokenTable, folder: Path) -> None:
    """Writes `open_clip_config.json`, `open_clip_model.safetensors` and `token_table.json`.

    ``open_clip.create_model_and_transforms("local-dir:<folder>")`` loads the first two; the third remaps the tokens.
    """
    save_weights(model, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": architectures.clip_config(tower, len(table)),
        "preprocess_cfg": architectures.preprocess_config(),
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    table.save(folder / "token_table.json")
