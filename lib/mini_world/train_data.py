"""Training images, their augmentation, and captions as tokens.

Images are decoded once into a uint8 file that is mapped into memory. Everything random is a function of a seed and a
position (sample order) or of a generator (augmentation), so that an interrupted training continues exactly.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from beyond_accuracy.base.errors import DataMissing, InputError

from .architectures import CONTEXT_LENGTH, MEAN, STD
from .captions import caption

SUBSETS = ("all", "narrow", "diverse")
# How far a scene is from the centre of the training distribution: factor, centre, spread.
SPREAD_FACTORS = (
    ("object_yaw", 0.0, 14.0),
    ("camera_yaw", 0.0, 7.0),
    ("camera_pitch", 16.0, 5.0),
    ("camera_roll", 0.0, 4.0),
    ("log_scale", np.log(0.85), 0.11),
    ("log_light_intensity", 0.0, 0.18),
)


@dataclass(frozen=True)
class TrainingSet:
    """Decoded images with labels and metadata.

    Attributes:
        ids: (N,) image ids.
        images: (N, side, side, 3) uint8, possibly mapped from a file.
        labels: (N,) int64.
        class_names: name per label.
        metadata: frame of N rows, the scene's factors.
        fingerprint: changes when any image, label or the order does.
    """

    ids: NDArray
    images: NDArray
    labels: NDArray
    class_names: tuple[str, ...]
    metadata: pd.DataFrame
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)


def read_frame(folder: Path, shards: int) -> pd.DataFrame:
    """The first `shards` parts of a rendered training set, images still encoded.

    Raises:
        DataMissing: a part has not been rendered.
    """
    paths = [folder / f"part-{index:04d}.parquet" for index in range(shards)]
    if missing := [path.name for path in paths if not path.exists()]:
        raise DataMissing(
            f"{folder}: {len(missing)} of the {shards} parts of the training set are missing (first: {missing[0]}). "
            "Render them with: python -m mini_world.build --only world_train"
        )
    return pd.concat([pq.read_table(path).to_pandas() for path in paths], ignore_index=True)


def load_training_set(folder: Path, shards: int, decoded: Path) -> TrainingSet:
    """Reads the first `shards` parts and maps their decoded images, decoding them on first use.

    Args:
        folder: rendered parts.
        shards: how many of them make up the set.
        decoded: where decoded images are kept.
    """
    frame = read_frame(folder, shards)
    digest = hashlib.sha256()
    for identity, label, data in zip(frame["id"], frame["label"], frame["image"], strict=True):
        digest.update(f"{identity}:{label}:".encode())
        digest.update(data)
    fingerprint = digest.hexdigest()[:16]
    path = decoded / f"{folder.name}-{shards}-{fingerprint}.npy"
    if not path.exists():
        decoded.mkdir(parents=True, exist_ok=True)
        images = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in frame["image"]])
        partial = path.with_suffix(".partial.npy")
        np.save(partial, images)
        partial.replace(path)
    names = frame.groupby("label")["class_name"].first().sort_index()
    if list(names.index) != list(range(len(names))):
        raise InputError(f"{folder}: labels must run from 0 without gaps, found {list(names.index)}")
    return TrainingSet(
        ids=frame["id"].to_numpy(str),
        images=np.load(path, mmap_mode="r"),
        labels=frame["label"].to_numpy(np.int64),
        class_names=tuple(names),
        metadata=frame.drop(columns=["image", "label"]),
        fingerprint=fingerprint,
    )


def select_subset(metadata: pd.DataFrame, labels: NDArray, subset: str, size: int | None, seed: int) -> NDArray:
    """Positions of a training subset, for the ablation of training diversity.

    Args:
        metadata: the scenes' factors.
        labels: (N,) class per image.
        subset: `all`, `narrow` (per class the scenes nearest the centre of pose, scale and light) or `diverse` (a
            random draw). Both kinds have the same number of images per class.
        size: number of images; None takes all (only with `all`).
        seed: draws the random subset.

    Returns:
        Sorted positions.
    """
    if subset not in SUBSETS:
        raise InputError(f"subset {subset!r}: expected one of {', '.join(SUBSETS)}")
    if size is None:
        if subset != "all":
            raise InputError(f"subset {subset!r} needs a size")
        return np.arange(len(labels))
    if size > len(labels):
        raise InputError(f"subset of {size} images requested, the training set has {len(labels)}")
    rng = np.random.default_rng(seed)
    if subset == "narrow":
        logs = {f"log_{name}": np.log(metadata[name]) for name in ("scale", "light_intensity")}
        columns = metadata.assign(**logs)
        score = sum(((columns[name] - centre) / spread) ** 2 for name, centre, spread in SPREAD_FACTORS).to_numpy()
    else:
        score = rng.random(len(labels))
    classes = np.unique(labels)
    quota = np.full(len(classes), size // len(classes))
    quota[: size % len(classes)] += 1
    chosen = []
    for name, count in zip(classes, quota, strict=True):
        members = np.flatnonzero(labels == name)
        if len(members) < count:
            raise InputError(f"class {name} has {len(members)} training images, the subset needs {count}")
        chosen.append(members[np.argsort(score[members], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


class SampleOrder:
    """Endless shuffled passes over a set, addressed by position: the same position always gives the same image.

    Args:
        size: number of images.
        seed: root of the shuffles.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, start: int, count: int) -> NDArray:
        """(count,) indices of the samples at positions `start` to `start + count`."""
        positions = np.arange(start, start + count)
        parts = []
        for epoch in range(start // self.size, (start + count - 1) // self.size + 1):
            if epoch != self._epoch:
                self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
            inside = positions[positions // self.size == epoch]
            parts.append(self._order[inside % self.size])
        return np.concatenate(parts)


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop, reflection and mild colour changes.

    Attributes:
        area: smallest and largest share of the image that a crop keeps.
        aspect: largest ratio between the crop's sides.
        brightness: largest relative change of all channels.
        color: largest relative change of one channel.
    """

    area: tuple[float, float] = (0.6, 1.0)
    aspect: float = 1.1
    brightness: float = 0.2
    color: float = 0.05


def normalize(images: Tensor) -> Tensor:
    """Images in [0, 1] to the networks' scale."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def to_float(images: NDArray, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [0, 1]."""
    return torch.as_tensor(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255


def augment(images: Tensor, size: int, generator: torch.Generator, settings: Augmentation) -> tuple[Tensor, Tensor]:
    """Draws one augmented view per image.

    Args:
        images: (B, 3, H, W) in [0, 1].
        size: side of the views in pixels.
        generator: CPU generator; the draw depends on nothing else.
        settings: ranges.

    Returns:
        (B, 3, size, size) normalised views, and (B,) whether a view is mirrored (captions then swap left and right).
    """
    batch = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    area, log_aspect = uniform(*settings.area), uniform(-1, 1) * float(np.log(settings.aspect)) / 2
    width = (area.sqrt() * log_aspect.exp()).clamp(max=1)
    height = (area.sqrt() * (-log_aspect).exp()).clamp(max=1)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = width * torch.where(mirrored, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = uniform(-1, 1) * (1 - width)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - height)
    gain = uniform(1 - settings.brightness, 1 + settings.brightness, 1, 1, 1)
    gain = gain * uniform(1 - settings.color, 1 + settings.color, 3, 1, 1)
    theta, gain = theta.to(images.device), gain.to(images.device)
    if size < 0.8 * images.shape[-1]:  # bilinear sampling of much smaller views would alias
        side = round(size / float(np.mean(settings.area)) ** 0.5)
        images = F.interpolate(images, size=side, mode="bilinear", antialias=True, align_corners=False)
    grid = F.affine_grid(theta, (batch, 3, size, size), align_corners=False)
    views = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return normalize((views * gain).clamp(0, 1)), mirrored


def center_view(images: Tensor, size: int) -> Tensor:
    """The whole image at the networks' size, normalised: what evaluation does, on tensors."""
    resized = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
    return normalize(resized.clamp(0, 1))


@dataclass(frozen=True)
class TokenTable:
    """The tokens a CLIP model was trained with, out of open_clip's 49,408.

    A text tower for a hundred words does not need an embedding of 49,408. Remapping through a sorted table keeps
    open_clip's tokenizer and keeps its end-of-text token the largest id, which is where open_clip pools.

    Attributes:
        ids: ascending ids of open_clip's SimpleTokenizer; the position is the new id. Starts with 0 (padding).
        context_length: tokens per text.
    """

    ids: tuple[int, ...]
    context_length: int = CONTEXT_LENGTH

    @classmethod
    def of_texts(cls, texts: list[str], context_length: int = CONTEXT_LENGTH) -> TokenTable:
        """The table of all tokens in some texts."""
        tokens = open_clip.SimpleTokenizer(context_length=context_length)(texts)
        return cls(tuple(sorted({0, *tokens.unique().tolist()})), context_length)

    @classmethod
    def load(cls, folder: Path) -> TokenTable:
        """Reads `token_table.json` of an exported model, and the context length from its configuration."""
        config = json.loads((folder / "open_clip_config.json").read_text())
        ids = json.loads((folder / "token_table.json").read_text())
        return cls(tuple(ids), config["model_cfg"]["text_cfg"]["context_length"])

    def save(self, path: Path) -> None:
        """Writes `token_table.json`: the list of ids."""
        path.write_text(json.dumps(list(self.ids)) + "\n")

    @cached_property
    def _tokenizer(self) -> open_clip.SimpleTokenizer:
        return open_clip.SimpleTokenizer(context_length=self.context_length)

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, texts: list[str] | str) -> Tensor:
        """(n, context_length) remapped tokens.

        Raises:
            InputError: a text holds a token the model was not trained with.
        """
        tokens = self._tokenizer(texts)
        table = torch.tensor(self.ids)
        positions = torch.searchsorted(table, tokens).clamp(max=len(table) - 1)
        if (unknown := tokens[table[positions] != tokens]).numel():
            words = sorted({self._tokenizer.decode([i]).strip() for i in unknown.tolist()})
            raise InputError(f"words that this CLIP model has never seen: {', '.join(words)}")
        return positions

    def swap(self, tokens: Tensor, rows: Tensor, first: str, second: str) -> Tensor:
        """Exchanges two words in some rows.

        Args:
            tokens: (n, context_length) of this table.
            rows: (n,) bool, where to exchange.
            first: a word of one token.
            second: the other.
        """
        a, b = self([first, second])[:, 1]  # after the start-of-text token
        mapping = torch.arange(len(self.ids))
        mapping[a], mapping[b] = b, a
        return torch.where(rows[:, None], mapping[tokens], tokens)


def caption_tokens(metadata: pd.DataFrame, table: TokenTable, variants: int, seed: int) -> Tensor:
    """(N, variants, context_length) int16 tokens of the captions drawn for each image."""
    rng = np.random.default_rng(seed)
    texts = [caption(scene, rng) for scene in metadata.to_dict("records") for _ in range(variants)]
    return table(texts).to(torch.int16).view(len(metadata), variants, table.context_length)
