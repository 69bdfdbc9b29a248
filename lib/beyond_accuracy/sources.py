"""Where datasets come from (`assets/sources.yaml`), and which need a step that no program may take for a user."""

from dataclasses import dataclass
from functools import lru_cache

import yaml

from beyond_accuracy.paths import ASSETS
from beyond_accuracy.profiles import Profile, available_profiles


@dataclass(frozen=True)
class Download:
    """One plain file: where it is, what it is called here, and how to tell that it arrived whole."""

    url: str
    md5: str = ""
    sha256: str = ""
    bytes: int = 0

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Hub:
    """Files of one dataset repository on the Hugging Face hub."""

    repo: str
    revision: str = ""
    files: tuple[str, ...] = ("*.txt", "train/*", "test/*")
    sha256: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Source:
    """How one dataset is got."""

    name: str  # the dataset
    gigabytes: float  # on disk when done
    transient: float = 0.0  # further gigabytes while unpacking
    about: bool = False  # whether the size is an estimate
    hub: Hub | None = None  # hub repository, or None
    files: tuple[Download, ...] = ()  # plain downloads
    unpack: bool = False  # whether compressed archives are unpacked
    gated: str = ""  # page on which terms must be accepted first; empty = none
    by_hand: str = ""  # how a copy got in another way is used

    @property
    def origin(self) -> str:
        """Where it is downloaded from, for messages."""
        return f"hub dataset {self.hub.repo}" if self.hub else ", ".join(f.url for f in self.files)


@lru_cache
def sources() -> dict[str, Source]:
    """All known sources by dataset name."""
    content = yaml.safe_load((ASSETS / "sources.yaml").read_text(encoding="utf-8"))
    return {name: parse_source(name, entry) for name, entry in content.items()}


def parse_source(name: str, entry: dict) -> Source:
    """One entry of the table."""
    entry = dict(entry)
    if hub := entry.pop("hub", None):
        lists = {"files": tuple(hub["files"])} if "files" in hub else {}
        entry["hub"] = Hub(hub["repo"], hub.get("revision", ""), sha256=tuple(hub.get("sha256", {}).items()), **lists)
    entry["files"] = tuple(Download(**file) for file in entry.pop("files", ()))
    return Source(name, **entry)


def profile_argument(profile: Profile) -> str:
    """What `--profile` takes to mean this profile."""
    shipped = available_profiles().get(profile.name) == profile.source
    return profile.name if shipped else str(profile.source)


def how_to_get(name: str, profile: Profile) -> str:
    """The command, and the page to visit first, that get a dataset."""
    command = f"beyond-accuracy fetch --profile {profile_argument(profile)} --only {name}"
    source = sources().get(name)
    if source is None:
        return f"no download is known for {name}; see docs/datasets.md and its path in the profile"
    if source.gated:
        return f"accept the terms at {source.gated}, run `hf auth login`, then `{command}`"
    return f"`{command}`"
