"""Trains one cell of the 2 x 2 of tower and objective: ``python -m mini_world.train --cell vit_clip [--seed 1]``.

The recipe is a file, the same for all cells. A run lives in ``.cache/mini_world/runs/<recipe>/<cell>-<seed>``: a
resumable checkpoint every few minutes and, but for the models that ship, the exported model with its loss curve.
Everything random is a function of the seed and the step, so that an interrupted run continues to the weights it would
have had.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from timm.layers import set_fused_attn
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from beyond_accuracy.base.errors import InputError

from . import architectures, captions
from .export import save_clip, save_supervised
from .recipe import Recipe, read_recipe
from .train_data import (
    SampleOrder,
    TokenTable,
    TrainingSet,
    augment,
    caption_tokens,
    center_view,
    load_training_set,
    select_subset,
    to_float,
)

CELLS = {  # name -> objective, tower
    "vit_sup": ("supervised", architectures.VIT),
    "convnext_sup": ("supervised", architectures.CONVNEXT),
    "vit_clip": ("clip", architectures.VIT),
    "convnext_clip": ("clip", architectures.CONVNEXT),
    "reference": ("supervised", architectures.REFERENCE),
}
REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "mini_world"
MODELS = REPOSITORY / "lib" / "beyond_accuracy" / "assets" / "mini_world" / "models"
CHECKPOINT_SECONDS = 180.0
LOG_POINTS = 100  # rows of the loss curve
HOLDOUT_POINTS = 10  # of which with the held-out accuracy
SUBSET_SEED = 7  # the diverse subset is part of the data, the same for every training seed


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)


class Trainer:
    """One run: model, optimiser, step counter and log.

    Args:
        cell: a key of `CELLS`.
        recipe: how to train.
        data: decoded training images.
        seed: of initialisation, order, augmentation and captions.
        device: where to train.
    """

    def __init__(self, cell: str, recipe: Recipe, data: TrainingSet, seed: int, device: torch.device):
        self.cell, self.recipe, self.data, self.seed, self.device = cell, recipe, data, seed, device
        self.objective, self.tower = CELLS[cell]
        # explicit attention: on CPUs its backward pass is nearly twice as fast as the fused one
        set_fused_attn(device.type == "cuda")
        torch.manual_seed(seed)
        if self.objective == "clip":
            self.table = TokenTable.of_texts([*captions.vocabulary(), *captions.FRAMES])
            self.prompts = [captions.zero_shot_prompts(name) for name in data.class_names]
            self.model: nn.Module = architectures.build_clip(self.tower, len(self.table))
            self.clip_loss = open_clip.ClipLoss()
        else:
            self.table = None
            self.model = architectures.build_supervised(self.tower, len(data.class_names))
        self.model.to(device)
        self.train_index = np.arange(len(data) - recipe.data.holdout)
        self.train_index = self.train_index[
            select_subset(
                data.metadata.iloc[self.train_index],
                data.labels[self.train_index],
                recipe.data.subset,
                recipe.data.size,
                SUBSET_SEED,
            )
        ]
        self.holdout_index = np.arange(len(data) - recipe.data.holdout, len(data))
        if self.objective == "clip":
            chosen = data.metadata.iloc[self.train_index]
            self.captions = caption_tokens(chosen, self.table, recipe.caption_variants, seed)
        self.order = SampleOrder(len(self.train_index), seed)
        groups = param_groups_weight_decay(
            self.model, recipe.weight_decay, no_weight_decay_list=getattr(self.model, "no_weight_decay", set)()
        )
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
        self.step, self.seconds, self.log = 0, 0.0, []

    @property
    def identity(self) -> str:
        """Changes when the run would: recipe, cell, seed, data and code versions that decide the weights."""
        recipe = {k: v for k, v in dataclasses.asdict(self.recipe).items() if k != "name"}
        parts = [recipe, self.cell, self.seed, self.data.fingerprint]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _autocast(self):
        enabled = self.recipe.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if enabled else nullcontext()

    def _attention(self):
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def loss_of(self, views: Tensor, mirrored: Tensor, picked: np.ndarray, generator: torch.Generator) -> Tensor:
        """Cross-entropy on labels, or CLIP's symmetric loss on one drawn caption per image.

        Args:
            views: (B, 3, size, size) augmented images.
            mirrored: (B,) bool.
            picked: (B,) positions in the training subset.
            generator: draws the captions.
        """
        if self.objective == "supervised":
            labels = torch.as_tensor(self.data.labels[self.train_index[picked]], device=self.device)
            return F.cross_entropy(self.model(views).float(), labels)
        variant = torch.randint(self.recipe.caption_variants, (len(picked),), generator=generator)
        tokens = self.captions[torch.as_tensor(picked), variant].long()
        tokens = self.table.swap(tokens, mirrored, "left", "right")
        image = F.normalize(self.model.encode_image(views).float(), dim=-1)
        text = F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1)
        return self.clip_loss(image, text, self.model.logit_scale.exp())

    def train_step(self) -> float:
        """One optimiser step; returns the loss before it."""
        recipe, step = self.recipe, self.step
        torch.manual_seed(self.seed * 1_000_003 + step)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        picked = self.order(step * recipe.batch_size, recipe.batch_size)
        images = to_float(self.data.images[self.train_index[picked]], self.device)
        views, mirrored = augment(images, recipe.resolution_at(step), generator, recipe.augmentation)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        with self._autocast(), self._attention():
            loss = self.loss_of(views, mirrored, picked, generator)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        if self.objective == "clip":
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, math.log(recipe.max_logit_scale))
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def logits(self, views: Tensor) -> Tensor:
        """(B, classes) float32; for CLIP with the zero-shot classifier of the averaged prompts."""
        self.model.eval()
        if self.objective == "supervised":
            return self.model(views).float()
        image = F.normalize(self.model.encode_image(views).float(), dim=-1)
        return self.model.logit_scale.exp() * image @ self.class_embeddings().T

    @torch.no_grad()
    def class_embeddings(self) -> Tensor:
        """(classes, dim) zero-shot weights: normalised mean of the normalised prompt embeddings."""
        rows = []
        for prompts in self.prompts:
            text = F.normalize(self.model.encode_text(self.table(prompts).to(self.device)).float(), dim=-1)
            rows.append(F.normalize(text.mean(0), dim=0))
        return torch.stack(rows)

    def holdout_accuracy(self) -> float:
        """Accuracy on the held-out images, at the final resolution."""
        hits = []
        for part in np.array_split(self.holdout_index, max(1, len(self.holdout_index) // 240)):
            views = center_view(to_float(self.data.images[part], self.device), architectures.IMAGE_SIZE)
            hits.append(self.logits(views).argmax(1).cpu().numpy() == self.data.labels[part])
        return float(np.concatenate(hits).mean())

    def save_checkpoint(self, path: Path) -> None:
        """Writes everything a continuation needs, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load_checkpoint(self, path: Path) -> None:
        """Continues from a checkpoint.

        Raises:
            InputError: it belongs to another recipe, seed or training set.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            raise InputError(
                f"{path}: checkpoint of another recipe, seed or training set; remove it or use another --cache"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]

    def run(self, folder: Path, progress=print) -> None:
        """Trains to the end of the recipe, continuing from the folder's checkpoint when there is one."""
        checkpoint = folder / "checkpoint.pt"
        if checkpoint.exists():
            self.load_checkpoint(checkpoint)
        steps, losses = self.recipe.steps, []
        every = max(1, steps // LOG_POINTS)
        start, saved = time.monotonic() - self.seconds, time.monotonic()
        while self.step < steps:
            losses.append(self.train_step())
            self.seconds = time.monotonic() - start
            if self.step % every == 0 or self.step == steps:
                wanted = self.step % max(1, steps // HOLDOUT_POINTS) < every or self.step == steps
                row = {
                    "step": self.step,
                    "samples": self.step * self.recipe.batch_size,
                    "resolution": self.recipe.resolution_at(self.step - 1),
                    "learning_rate": self.recipe.learning_rate_at(self.step - 1),
                    "loss": float(np.mean(losses)),
                    "holdout_accuracy": self.holdout_accuracy() if wanted else None,
                    "minutes": self.seconds / 60,
                }
                losses = []
                self.log.append(row)
                held = "" if row["holdout_accuracy"] is None else f"  held-out {row['holdout_accuracy']:.3f}"
                rate = row["samples"] / max(self.seconds, 1e-9)
                progress(f"{self.cell} step {self.step}/{steps}  loss {row['loss']:.3f}{held}  {rate:.0f} images/s")
                if not math.isfinite(row["loss"]):
                    raise InputError(f"{self.cell}: the loss is {row['loss']} at step {self.step}; lower learning_rate")
            if time.monotonic() - saved > CHECKPOINT_SECONDS or self.step == steps:
                self.save_checkpoint(checkpoint)
                saved = time.monotonic()

    def export(self, folder: Path) -> None:
        """Writes the model as timm or open_clip load it, the loss curve and the provenance."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.objective == "clip":
            save_clip(self.model, self.tower, self.table, folder)
        else:
            save_supervised(self.model, self.data.class_names, folder)
        pd.DataFrame(self.log).round(6).to_csv(folder / "training.csv", index=False, float_format="%.6g")
        provenance = {
            "cell": self.cell,
            "objective": self.objective,
            "tower": self.tower,
            "tower_parameters": architectures.parameter_count(
                self.model.visual.trunk if self.objective == "clip" else self.model
            ),
            "parameters": architectures.parameter_count(self.model),
            "seed": self.seed,
            "recipe": dataclasses.asdict(self.recipe),
            "training_images": len(self.train_index),
            "training_set_fingerprint": self.data.fingerprint,
            "samples_seen": self.step * self.recipe.batch_size,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 2),
            "device": _device_words(self.device),
            "holdout_accuracy": self.holdout_accuracy(),
            "holdout_images": len(self.holdout_index),
            "versions": {"torch": torch.__version__, "timm": timm.__version__, "open_clip": open_clip.__version__},
        }
        (folder / "training.json").write_text(json.dumps(provenance, indent=1) + "\n")


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", nargs="+", choices=list(CELLS), default=[c for c in CELLS if c != "reference"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="default", help="a name under recipes/ or a YAML file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="on a CPU")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the rendered sets and the runs")
    where = "folder of the models; by default the package's assets for seed 0 of the default recipe, else the run's"
    parser.add_argument("--out", type=Path, help=where)
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    torch.set_num_threads(arguments.threads)
    data = load_training_set(arguments.cache / recipe.data.set, recipe.data.shards, arguments.cache / "decoded")
    for cell in arguments.cell:
        trainer = Trainer(cell, recipe, data, arguments.seed, pick_device(arguments.device))
        run = arguments.cache / "runs" / recipe.name / f"{cell}-{arguments.seed}"
        trainer.run(run, progress=lambda line: print(line, flush=True))
        shipped = recipe.name == "default" and arguments.seed == 0 and arguments.out is None and cell != "reference"
        target = MODELS / cell if shipped else (arguments.out / cell if arguments.out else run / "model")
        trainer.export(target)
        print(f"{cell}: {target}", flush=True)


if __name__ == "__main__":
    main()
