"""Training recipes: everything about a training except its cell and seed, read from `recipes/*.yaml`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from beyond_accuracy.base.errors import InputError

from .train_data import Augmentation

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DataRecipe:
    """Which rendered images are trained on; see `train_data.select_subset` for the subsets."""

    set: str = "train"
    shards: int = 48
    holdout: int = 480
    subset: str = "all"
    size: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything about a training except its cell and seed; see `recipes/default.yaml` for the meaning of each."""

    name: str
    data: DataRecipe = field(default_factory=DataRecipe)
    samples: int = 160_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    resolutions: tuple[tuple[int, float], ...] = ((48, 1.0),)
    augmentation: Augmentation = field(default_factory=Augmentation)
    caption_variants: int = 8
    max_logit_scale: float = 100.0
    precision: str = "bf16"

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return math.ceil(self.samples / self.batch_size)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up to the peak, then a cosine to zero."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def resolution_at(self, step: int) -> int:
        """Side of the training views in pixels."""
        return next(size for size, end in self.resolutions if step < end * self.steps)


def read_recipe(name: str | Path) -> Recipe:
    """Reads a recipe file, or one of the package's by name.

    Raises:
        InputError: no such file, an unknown key or an impossible value.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(f"{path}: no such recipe; the package has {known}")
    content = yaml.safe_load(path.read_text()) or {}
    kinds = {"data": DataRecipe, "augmentation": Augmentation}
    try:
        for key, kind in kinds.items():
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in content.get(key, {}).items()}
            content[key] = kind(**given)
        content["resolutions"] = tuple((int(size), float(end)) for size, end in content["resolutions"])
        content["betas"] = tuple(content["betas"])
        recipe = Recipe(name=path.stem, **content)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a recipe ({error}); compare with recipes/default.yaml") from error
    ends = [end for _, end in recipe.resolutions]
    if ends != sorted(ends) or ends[-1] != 1.0 or any(size % 8 for size, _ in recipe.resolutions):
        raise InputError(f"{path}: resolutions must be multiples of 8 with ascending ends, the last one 1.0")
    return recipe
