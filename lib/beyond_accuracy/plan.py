"""What each page needs from the networks, so that all inference runs before the first notebook starts."""

from dataclasses import dataclass, field

from beyond_accuracy import conventions, corruptions, transforms
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.jobs import device_option
from beyond_accuracy.outputs import Outputs
from beyond_accuracy.profiles import Profile, unknown
from beyond_accuracy.store import Store

# The dataset of this role is run under every corruption besides.
CORRUPT_ROLE = "corrupt"


@dataclass(frozen=True)
class Request:
    """Outputs of every model on one dataset: predictions under some transforms, or features.

    Attributes:
        dataset: Its name.
        transforms: Texts of the transforms.
        features: Features are what is wanted.
        settings: Conventions other than the profile's, by name.
        limit: Only this many of the images, evenly spaced; 0 = as the profile says.
    """

    dataset: str
    transforms: tuple[str, ...] = ("none",)
    features: bool = False
    settings: tuple[tuple[str, object], ...] = ()
    limit: int = 0


@dataclass
class Filled:
    """What filling the store found for one page.

    Attributes:
        keys: Store keys the page reads.
        missing: One message per dataset or model that is not on this machine.
    """

    keys: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def requests(profile: Profile, dimension: str, options: dict | None = None) -> list[Request]:
    """The page's requests, most basic first; empty for pages that only read published or recorded results.

    Args:
        profile: The profile.
        dimension: The page.
        options: As of `open_study`; the device decides which precisions are compared.
    """
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
        return _convention_requests(profile, roles, known, device_option(options or {}))
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
        settings = [(), *(c.settings for c in conventions.of(profile, clean, device) if not c.rescored)]
        found += [Request(clean, settings=changed, limit=limit) for changed in settings]
    return found


def _texts(value: object) -> list[str]:
    """Every text in the roles of a page, however deep: datasets are named in lists and in tasks too."""
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else [str(value)]


def fill(profile: Profile, dimension: str, store: Store, options: dict) -> Filled:
    """Run whatever the page needs and the store lacks.

    Args:
        profile: The run's profile, already cut to the requested models.
        dimension: The page.
        store: The cache.
        options: As of `open_study`.

    Raises:
        InputError: Bad input; data or weights that are merely absent are reported in the result instead.
    """
    outputs, filled = Outputs(profile, store, options), Filled()
    for request in requests(profile, dimension, options):
        try:
            asked = outputs.under(dict(request.settings), request.limit)
            asked.fill(request.dataset, list(request.transforms), networks_only=request.features)
        except DataMissing as missing:
            if str(missing) not in filled.missing:  # several requests may lack the same
                filled.missing.append(str(missing))
    filled.keys = sorted(outputs.used)
    return filled
