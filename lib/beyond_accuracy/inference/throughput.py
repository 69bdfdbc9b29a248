"""How fast models run on which card: published figures, carried over with their source, and this machine's own.

Rates are of the forward pass alone. Tables: `assets/rates.csv` (published by timm for its architectures; what is in it:
`assets/rates.md`) and `rates.csv` of the cache folder, which `make bench` writes. Needs neither torch nor a network.
"""

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import ASSETS, cache_dir
from beyond_accuracy.base.profile import ModelSpec, Profile
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference.plan import runs

COLUMNS = ["device", "model", "side", "precision", "images_per_second", "source"]
USUAL_SIDE = 224
# (width, layers) of a CLIP ViT -> its size in timm's names, the order of open_clip's model_configs.
VIT_SIZES = {(384, 12): "small", (512, 12): "medium", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
VIT_SIZES |= {(1408, 40): "giant", (1664, 48): "gigantic"}


def published_throughput(spec: ModelSpec, side: int = 0) -> pd.DataFrame:
    """Published rates of a model's architecture, one row per card, fastest first; empty where none is known.

    `card, images_per_second, source, precision, side`; `side` 0 = the published one nearest to 224.
    """
    return _at_side(published_rates(), architecture(spec), side)


def measured_throughput(spec: ModelSpec, side: int = 0) -> pd.DataFrame:
    """As `published_throughput`, from `rates.csv` of the cache folder, which `make bench` writes."""
    file = cache_dir() / "rates.csv"
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
    layers = vision.get("layers")  # a list for ResNets
    size = VIT_SIZES.get((vision.get("width"), layers if isinstance(layers, int) else 0))
    if size is None:
        return ""
    gelu = "quickgelu_" if config.get("quick_gelu") else ""
    return f"vit_{size}_patch{vision['patch_size']}_clip_{gelu}{vision['image_size']}"


def _at_side(table: pd.DataFrame, model: str, side: int) -> pd.DataFrame:
    rows = table[table["model"] == model]
    nearest = min(rows["side"], key=lambda given: (abs(given - USUAL_SIDE), given), default=0)
    rows = rows[rows["side"] == (side or nearest)].rename(columns={"device": "card"})
    rows = rows.sort_values("images_per_second", ascending=False, kind="stable", ignore_index=True)
    return rows[["card", "images_per_second", "source", "precision", "side"]]


@lru_cache
def published_rates() -> pd.DataFrame:
    """The table of published rates."""
    return pd.read_csv(ASSETS / "rates.csv")


# Projection of a whole report ----------------------------------------------------------------------------------------


def usual_passes(profile: Profile) -> float:
    """Forward passes per model, in passes at 224 pixels: larger inputs count by their area."""
    return sum(run.images * (parse(run.transform).input_size(USUAL_SIDE) / USUAL_SIDE) ** 2 for run in runs(profile))


def projected_hours(profile: Profile) -> pd.DataFrame:
    """Projected hours of all models of a profile, one after the other, by card: `card, hours, precision, source`.

    The network alone: a lower bound. Measured cards first; only cards with a rate for every model that has any;
    `attrs["without"]` names those that have none.
    """
    tables = [
        find(spec).assign(measured=find is measured_throughput, model=name)
        for name, spec in profile.models.items()
        for find in (measured_throughput, published_throughput)
    ]
    rates = pd.concat([table for table in tables if len(table)] or tables[:1])
    rates["hours"] = usual_passes(profile) / rates["images_per_second"].astype(float) / 3600
    cards = rates.groupby(["card", "measured"], as_index=False)
    table = cards.agg({"hours": "sum", "model": "nunique", "precision": "first", "source": "first"})
    table = table[table["model"] == rates["model"].nunique()]
    table = table.sort_values(["measured", "hours"], ascending=[False, True], ignore_index=True)
    table.attrs["without"] = [name for name in profile.models if name not in set(rates["model"])]
    return table[["card", "hours", "precision", "source"]]


def projection(profile: Profile) -> list[str]:
    """The projection as lines of text; empty where nothing is known."""
    table = projected_hours(profile)
    if table.empty:
        return []
    models = len(profile.models) - len(table.attrs["without"])
    said = [
        f"Projected time of the networks alone, {models} model{'s' * (models > 1)} one after the other "
        f"({usual_passes(profile) / 1e6:.2f} million passes each, at 224 pixels):"
    ]
    for row in table.itertuples():
        span = f"{row.hours:.1f} h" if row.hours < 72 else f"{row.hours / 24:.0f} days"
        span = f"{max(1, 60 * row.hours):.0f} min" if row.hours < 2 else span
        said.append(f"  {row.card:26} {span:>9}   {row.precision}, {row.source}")
    if table.attrs["without"]:
        said.append(f"  without {', '.join(table.attrs['without'])}: no rate is known; `make bench` measures yours")
    return said
