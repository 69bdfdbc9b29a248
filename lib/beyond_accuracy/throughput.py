"""How fast models run on which card: published figures, carried over with their source, and this machine's own.

Rates are of the forward pass alone. Tables: `assets/rates.csv` (published by timm for its architectures; what is in it:
`assets/rates.md`) and `rates.csv` of the cache folder, which `make bench` writes. Needs neither torch nor a network.
"""

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from beyond_accuracy.errors import InputError
from beyond_accuracy.paths import ASSETS, cache_dir
from beyond_accuracy.profiles import ModelSpec

COLUMNS = ["device", "model", "side", "precision", "images_per_second", "source"]
USUAL_SIDE = 224
# (width, layers) of a CLIP ViT -> its size in timm's names, the order of open_clip's model_configs.
VIT_SIZES = {(384, 12): "small", (512, 12): "medium", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
VIT_SIZES |= {(1408, 40): "giant", (1664, 48): "gigantic"}


def published_throughput(spec: ModelSpec, side: int = 0) -> pd.DataFrame:
    """Published rates of a model's architecture; weights do not matter for speed.

    Args:
        spec: A timm or open_clip model of a profile; the image tower stands for a CLIP model.
        side: Input side in pixels; 0 = of the sides that were published, the one nearest to 224.

    Returns:
        `card, images_per_second, source, precision, side`, one row per card, the fastest first; empty where nothing is
        published for this architecture at this side (and for imported predictions and `local-dir:` models).
    """
    return _at_side(_published(), architecture(spec), side)


def measured_throughput(spec: ModelSpec, side: int = 0, file: Path | None = None) -> pd.DataFrame:
    """As `published_throughput`, from what `make bench` measured with this cache folder.

    Args:
        spec: A timm or open_clip model of a profile.
        side: Input side in pixels; 0 = the one nearest to 224.
        file: The table; by default `rates.csv` of the cache folder.

    Raises:
        InputError: The table lacks a column.
    """
    file = file or cache_dir() / "rates.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=COLUMNS)
    if lacking := set(COLUMNS) - set(table.columns):
        raise InputError(f"{file}: column {min(lacking)} is missing; delete the file, `make bench` writes it anew")
    return _at_side(table, architecture(spec), side)


def architecture(spec: ModelSpec) -> str:
    """The architecture behind a model by its name in timm; empty where there is none.

    >>> architecture(ModelSpec("a", "timm", "hf-hub:timm/convnext_base.fb_in22k_ft_in1k"))
    'convnext_base'
    >>> architecture(ModelSpec("b", "open_clip", "ViT-B-16", "laion400m_e31"))
    'vit_base_patch16_clip_224'
    """
    if spec.id.startswith("local-dir:"):
        return ""
    name = spec.id.removeprefix("hf-hub:").rpartition("/")[2]
    if spec.source == "timm":
        return name.partition(".")[0]
    return tower(name) if spec.source == "open_clip" else ""


@lru_cache
def tower(name: str) -> str:
    """The image tower of an open_clip architecture by its name in timm; empty where timm has none like it.

    >>> tower("convnext_base"), tower("ViT-B-32-quickgelu"), tower("RN50")
    ('convnext_base', 'vit_base_patch32_clip_quickgelu_224', '')
    """
    # The package is located, not imported: importing open_clip imports torch.
    package = Path(find_spec("open_clip").submodule_search_locations[0])
    file = package / "model_configs" / f"{name}.json"
    if not file.is_file():
        return ""
    config = json.loads(file.read_text(encoding="utf-8"))
    vision = config["vision_cfg"]
    if known := vision.get("timm_model_name"):
        return known
    size = VIT_SIZES.get((vision.get("width"), vision["layers"])) if isinstance(vision.get("layers"), int) else None
    if size is None:
        return ""
    gelu = "quickgelu_" if config.get("quick_gelu") else ""
    return f"vit_{size}_patch{vision['patch_size']}_clip_{gelu}{vision['image_size']}"


def _at_side(table: pd.DataFrame, model: str, side: int) -> pd.DataFrame:
    rows = table[table["model"] == model]
    if side:
        rows = rows[rows["side"] == side]
    elif len(rows):
        rows = rows[rows["side"] == min(rows["side"], key=lambda given: (abs(given - USUAL_SIDE), given))]
    rows = rows.sort_values("images_per_second", ascending=False, kind="stable").rename(columns={"device": "card"})
    return rows[["card", "images_per_second", "source", "precision", "side"]].reset_index(drop=True)


@lru_cache
def _published() -> pd.DataFrame:
    return pd.read_csv(ASSETS / "rates.csv")
