"""What each page needs from the networks, so that all inference runs before the first notebook starts."""

from dataclasses import dataclass, field

from beyond_accuracy import corruptions, transforms
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.outputs import Outputs
from beyond_accuracy.profiles import Profile, unknown
from beyond_accuracy.store import Store

# The dataset of this role is run under every corruption besides.
CORRUPT_ROLE = "corrupt"


@dataclass(frozen=True)
class Request:
    """Outputs of every model on one dataset: predictions under some transforms, or features."""

    dataset: str
    transforms: tuple[str, ...] = ("none",)
    features: bool = False


@dataclass
class Filled:
    """What filling the store found for one page.

    Attributes:
        keys: Store keys the page reads.
        missing: One message per dataset or model that is not on this machine.
    """

    keys: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def requests(profile: Profile, dimension: str) -> list[Request]:
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
    found = [Request(name) for name in known if name != roles.get(CORRUPT_ROLE)]
    if dimension == "robustness" and CORRUPT_ROLE in roles:
        texts = [f"corrupt:{name}={k}" for name in corruptions.NAMES for k in range(1, 6)]
        found.append(Request(str(roles[CORRUPT_ROLE]), ("none", *texts)))
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
    for request in requests(profile, dimension):
        try:
            outputs.fill(request.dataset, list(request.transforms), networks_only=request.features)
        except DataMissing as missing:
            filled.missing.append(str(missing))
    filled.keys = sorted(outputs.used)
    return filled
