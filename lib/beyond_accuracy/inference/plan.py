"""What each page needs from the networks, so that all of it runs before the first notebook, and what that will take."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import free_bytes
from beyond_accuracy.base.paths import cache_dir
from beyond_accuracy.base.profile import DatasetSpec, Profile, unknown
from beyond_accuracy.data import corruptions, transforms
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference.jobs import Options, usable_precisions
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store

GIGABYTE = 1e9
ROW_BYTES = 40  # id, label, answer and two probabilities as compressed Parquet: 20 to 40 in practice
FEATURE_BYTES = 4 * 1300  # float32; a base-size network has 768 to 1,664 features over its layers
WORTH_SAYING = 1.0  # gigabytes from which a report says beforehand what it will need
# The dataset of this role is run under every corruption besides.
CORRUPT_ROLE = "corrupt"


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


def requests(profile: Profile, dimension: str, options: dict | None = None) -> list[Request]:
    """The page's requests, most basic first; empty for pages that only read published or recorded results."""
    roles = profile.dimensions.get(dimension, {})
    known = [name for name in dict.fromkeys(_texts(roles)) if name in profile.datasets]
    if dimension == "transfer":
        return [Request(name, features=True) for name in known]
    if dimension == "invariance":
        kinds = roles.get("transforms") or list(transforms.LADDERS)
        kinds = kinds if isinstance(kinds, list) else [kinds]
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
        if str(roles[CORRUPT_ROLE]) not in profile.datasets:
            where = f"profile {profile.name}: dimensions.robustness.{CORRUPT_ROLE}"
            raise InputError(f"{where}: {unknown('dataset', str(roles[CORRUPT_ROLE]), profile.datasets)}")
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
    """Every other choice that a run of this profile could have made on one dataset.

    Which of them touch which model shows in the store's keys. A precision that the device lacks or emulates is left
    out.
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
    """What the store keeps of one image for one network.

    >>> bytes_per_image(DatasetSpec("a", "imagenet", keep="logits"))
    2040
    """
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
