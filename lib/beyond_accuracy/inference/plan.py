"""What each page needs from the networks, so that all of it runs before the first notebook, and what that will take.

Rates are of the forward pass alone: published by timm for its architectures (`assets/rates.csv`; what is in it:
`assets/rates.md`), and this machine's own, which `make bench` writes to the cache folder.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import free_bytes
from beyond_accuracy.base.paths import ASSETS, cache_dir
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, Profile, unknown
from beyond_accuracy.data import corruptions, transforms
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference.jobs import Options, usable_precisions
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure.verdicts import counted

GIGABYTE = 1e9
ROW_BYTES = 40  # id, label, answer and two probabilities as compressed Parquet: 20 to 40 in practice
FEATURE_BYTES = 4 * 1300  # float32; a base-size network has 768 to 1,664 features over its layers
WORTH_SAYING = 1.0  # gigabytes from which a report says beforehand what it will need
CORRUPT_ROLE = "corrupt"  # its dataset is run under every corruption besides
RATES = ["device", "model", "side", "precision", "images_per_second", "source"]
USUAL_SIDE = 224
# (width, layers) of a CLIP ViT -> its size in timm's names, the order of open_clip's model_configs.
VIT_SIZES = {(384, 12): "small", (512, 12): "medium", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
VIT_SIZES |= {(1408, 40): "giant", (1664, 48): "gigantic"}


@dataclass(frozen=True)
class Request:
    """Outputs of every model on one dataset: predictions under some transforms, or features."""

    dataset: str
    transforms: tuple[str, ...] = ("none",)
    features: bool = False  # features are what is wanted
    settings: tuple[tuple[str, object], ...] = ()  # conventions other than the profile's, by name
    limit: int = 0  # only this many of the images, evenly spaced; 0 = as the profile says


@dataclass
class Filled:
    """What filling the store found for one page."""

    keys: list[str] = field(default_factory=list)  # store keys the page reads
    missing: list[str] = field(default_factory=list)  # one message per dataset or model that is not on this machine
    wrong: list[str] = field(default_factory=list)  # the same for bad input
    left_out: list[str] = field(default_factory=list)  # what models have no outputs for, or odd ones, one message each
    metadata: dict[str, str] = field(default_factory=dict)  # stamps of what is said of the images, by dataset
    devices: list[str] = field(default_factory=list)  # that computed it: last digits may differ under the same key


def requests(profile: Profile, dimension: str, options: dict | None = None) -> list[Request]:
    """The page's requests, most basic first; empty for pages that only read published or recorded results."""
    roles = profile.dimensions.get(dimension, {})
    known = [name for name in dict.fromkeys(_texts(roles)) if name in profile.datasets]
    if dimension == "transfer":
        return [Request(name, features=True) for name in known]
    if dimension == "invariance":
        kinds = roles.get("transforms") or list(transforms.LADDERS)
        for kind in kinds:
            if str(kind).partition("@")[0] not in transforms.LADDERS:
                raise InputError(
                    f"profile {profile.name}: dimensions.invariance.transforms: "
                    f"{unknown('transform', str(kind), transforms.LADDERS)}"
                )
        texts = [text for kind in kinds for text in transforms.ladder(str(kind))]
        return [Request(name, tuple(dict.fromkeys(["none", *texts]))) for name in known]
    if dimension == "conventions":
        return _convention_requests(profile, roles, known, Options.given(**(options or {})).device)
    found = [Request(name) for name in known if name != roles.get(CORRUPT_ROLE)]
    if dimension == "robustness" and CORRUPT_ROLE in roles:
        texts = [f"corrupt:{name}={k}" for name in corruptions.NAMES for k in range(1, 6)]
        found.append(Request(str(roles[CORRUPT_ROLE]), ("none", *texts)))
    return found


def _convention_requests(profile: Profile, roles: dict, known: list[str], device: str) -> list[Request]:
    """The clean set under every convention that needs a forward pass; the other sets as they are."""
    clean, limit = str(roles.get("clean")), roles.get("limit") or 0
    if not isinstance(limit, int) or limit < 0:
        where = f"profile {profile.name}: dimensions.conventions.limit"
        raise InputError(f"{where}: expected a number of images, got {limit!r}")
    found = [Request(name) for name in known if name != clean]
    if clean in known:
        settings = [(), *(c.settings for c in conventions(profile, clean, device) if not c.rescored)]
        found += [Request(clean, settings=changed, limit=limit) for changed in settings]
    return found


def _texts(value: object) -> list[str]:
    """Every text in the roles of a page, however deep: datasets are named in lists and in tasks too."""
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else [str(value)]


def fill(profile: Profile, dimension: str, store: Store, options: dict) -> Filled:
    """Run whatever the page needs and the store lacks; what is absent or malformed stops itself only, and is told."""
    outputs, filled = Outputs(profile.on(dimension), store, options), Filled()
    for request in requests(profile, dimension, options):
        try:
            asked = outputs.under(dict(request.settings), request.limit)
            asked.fill(request.dataset, list(request.transforms), networks_only=request.features)
            filled.metadata[request.dataset] = asked.data(asked.base(request.dataset)).described
        except (DataMissing, InputError) as error:
            told = filled.missing if isinstance(error, DataMissing) else filled.wrong
            if str(error) not in told:  # several requests may lack the same
                told.append(str(error))
    filled.keys, filled.left_out = sorted(outputs.used), list(outputs.left_out)
    filled.devices = sorted({f"{made.get('device')}, torch {made.get('torch')}" for made in outputs.used.values()})
    return filled


# Conventions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convention:
    """One changed choice of what a run could have used: it changes numbers without changing the model."""

    name: str  # `<setting>=<value>`, part of the metrics' names
    group: str  # the choice: the name of the setting
    label: str  # what it is changed to, for readers
    settings: tuple[tuple[str, object], ...]  # the changed values of `Settings`, by name
    rescored: bool = False  # the stored logits tell what it does; no image has to go through the network


def conventions(profile: Profile, dataset: str, device: str = "auto") -> list[Convention]:
    """Every other choice that a run of this profile could have made on one dataset; precisions that the device has.

    Which of them touch which model shows in the store's keys.
    """
    now = profile.settings
    preset = "paper" if now.preset == "library" else "library"
    found = [_one("preset", preset, f"preset {preset}")]
    found += [_one("interpolation", kind, kind) for kind in ("bicubic", "bilinear") if kind != now.interpolation]
    found.append(_one("antialias", not now.antialias, "off" if now.antialias else "on"))
    # `auto` is one of them, too; which one need not be known here: it leaves every key as it is
    found += [_one("precision", kind, kind) for kind in usable_precisions(device) if kind != now.precision]
    scale = "100" if now.logit_scale == "learned" else "learned"
    found.append(Convention(f"logit_scale={scale}", "logit_scale", scale, (("logit_scale", scale),), rescored=True))
    classes = profile.datasets[dataset].classes
    templates = class_space(classes).templates if classes and now.prompts == "default" else ()
    photos = [template for template in templates if "photo" in template]
    if photos and len(templates) > 1:  # the shortest that speaks of a photo (`a photo of a {c}.`)
        shortest = (("prompts", min(photos, key=len)),)
        found.append(Convention("prompts=one", "prompts", "one template", shortest))
    return found


def left_out(device: str) -> str:
    """What is not compared on a device, for readers; empty where nothing is left out."""
    absent = [kind for kind in ("fp32", "bf16", "fp16") if kind not in usable_precisions(device)]
    return f"{' and '.join(absent)} left out: this device has no such arithmetic, or emulates it" if absent else ""


def _one(setting: str, value: object, label: str) -> Convention:
    return Convention(f"{setting}={str(value).lower()}", setting, label, ((setting, value),))


def cuts(profile: Profile, dimension: str) -> list[str]:
    """What a page uses of sets that have more, for readers: `ImageNet-V2: 1,000 of 10,000 images`."""
    found = []
    for request in requests(profile, dimension):
        spec = profile.datasets[request.dataset]
        n = min([limit for limit in (spec.limit, request.limit) if limit], default=0)
        whole = f" of {spec.expected:,}" if spec.expected else ""
        said = [f"{n:,}{whole} images"] if n and not 0 < spec.expected <= n else []
        said += [
            f"{count:,} of the release's {kind}" for kind in ("shards", "images") if (count := spec.options.get(kind))
        ]
        found += [f"{spec.title or spec.name}: {', from '.join(said)}"] if said else []
    return list(dict.fromkeys(found))


# Room and passes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One pass over one dataset, which every network of the profile makes."""

    dataset: DatasetSpec  # as the profile has it
    transform: str
    images: int  # 0 = unknown: the profile states no size
    settings: tuple[tuple[str, object], ...] = ()  # conventions other than the profile's, by name


def runs(profile: Profile, dimensions: Iterable[str] = ()) -> list[Run]:
    """Every pass of a report (or of some pages) once, whichever pages ask for it."""
    found: dict[tuple, Run] = {}
    for dimension in list(dimensions) or profile.dimensions:
        for request in requests(profile, dimension):
            spec = profile.datasets[request.dataset]
            if spec.reader == "imagenet_real":  # other labels of the same images
                continue
            size = spec.limit or spec.expected
            images = min(size, request.limit) if request.limit and size else size
            for transform in request.transforms:
                text = parse(transform).text
                found.setdefault((spec.name, text, images, request.settings), Run(spec, text, images, request.settings))
    return list(found.values())


def forward_passes(profile: Profile) -> int:
    """Images that each network sees in a full report, as far as sizes are known."""
    return sum(run.images for run in runs(profile))


def bytes_per_image(spec: DatasetSpec, transform: str = "none") -> int:
    """What the store keeps of one image for one network."""
    size = ROW_BYTES
    if spec.classes and spec.keep in ("all", "logits"):
        size += 2 * len(class_space(spec.classes))
    if spec.keep == "all" and parse(transform).is_identity:
        size += FEATURE_BYTES
    return size


def store_gigabytes(profile: Profile, dimensions: Iterable[str] = ()) -> float:
    """Room that the outputs of all networks of a profile need in the store, about."""
    networks = sum(spec.source != "predictions" for spec in profile.models.values())
    passes = (run.images * bytes_per_image(run.dataset, run.transform) for run in runs(profile, dimensions))
    return networks * sum(passes) / GIGABYTE


def disk_lines(
    profile: Profile, dimensions: Iterable[str] = (), least: float = 0.0, free: float | None = None
) -> Iterator[str]:
    """What to say of the room that the store needs; nothing up to `least` gigabytes."""
    need = store_gigabytes(profile, dimensions)
    if need <= least:
        return
    free = free_bytes(cache_dir()) / GIGABYTE if free is None else free
    yield f"The store ({cache_dir()}) needs about {max(need, 0.1):.1f} GB for the whole report; {free:.1f} GB are free"
    if need > free:
        yield "  that is not enough: choose another disk with --cache-dir (what is stored already counts as needed)"


# Rates and time -------------------------------------------------------------------------------------------------------


def published_throughput(spec: ModelSpec, side: int = 0) -> pd.DataFrame:
    """Published rates of a model's architecture, one row per card, fastest first; empty where none is known.

    `card, images_per_second, source, precision, side`; `side` 0 = the published one nearest to 224.
    """
    return _at_side(published_rates(), architecture(spec), side)


def measured_throughput(spec: ModelSpec, side: int = 0) -> pd.DataFrame:
    """As `published_throughput`, from `rates.csv` of the cache folder, which `make bench` writes."""
    file = cache_dir() / "rates.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=RATES)
    if lacking := set(RATES) - set(table.columns):
        raise InputError(f"{file}: column {min(lacking)} is missing; delete the file, `make bench` writes it anew")
    return _at_side(table, architecture(spec), side)


def architecture(spec: ModelSpec) -> str:
    """The architecture behind a model by its name in timm (`vit_base_patch16_clip_224`); empty where there is none."""
    if spec.id.startswith("local-dir:"):
        return ""
    name = spec.id.removeprefix("hf-hub:").rpartition("/")[2]
    if spec.source == "timm":
        return name.partition(".")[0]
    return tower(name) if spec.source == "open_clip" else ""


@lru_cache
def tower(name: str) -> str:
    """The image tower of an open_clip architecture by its name in timm; empty where timm has none like it."""
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
    if not profile.models or (table := projected_hours(profile)).empty:
        return []
    models = len(profile.models) - len(table.attrs["without"])
    said = [
        f"Projected time of the networks alone, {counted(models, 'model')} one after the other "
        f"({usual_passes(profile) / 1e6:.2f} million passes each, at 224 pixels):"
    ]
    for row in table.itertuples():
        span = f"{row.hours:.1f} h" if row.hours < 72 else f"{row.hours / 24:.0f} days"
        span = f"{max(1, 60 * row.hours):.0f} min" if row.hours < 2 else span
        said.append(f"  {row.card:26} {span:>9}   {row.precision}, {row.source}")
    if table.attrs["without"]:
        said.append(f"  without {', '.join(table.attrs['without'])}: no rate is known; `make bench` measures yours")
    return said
