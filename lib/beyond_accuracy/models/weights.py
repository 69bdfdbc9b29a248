"""Where a model's weights are, found without asking the network, and whether the network is there at all.

The hub's client retries for tens of seconds per file on a machine without network. So what is in its cache is looked up
directly, and when the hub does not answer at once the client is told to stay offline before it is imported.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import ModelSpec, Profile
from beyond_accuracy.data.download import from_hub, hub_reachable

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
CONFIG_FILES = ("config.json", "open_clip_config.json")


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model are or would be."""

    path: Path | None  # the file on this machine; None where there is none
    place: str  # where it was looked for, for messages
    repo: str = ""  # hub repository they can be downloaded from; empty = a local file or folder that must be put there
    files: tuple[str, ...] = ()  # names of which the first that exists in the repository is taken
    revision: str = ""  # commit or branch of the repository


def locate(spec: ModelSpec) -> Weights | None:
    """Look for a model's weights on this machine; None for imported predictions."""
    if spec.source == "predictions":
        return None
    if spec.checkpoint:
        return _local(resolve(spec.checkpoint))
    if spec.id.startswith("local-dir:"):
        folder = resolve(spec.id.removeprefix("local-dir:"))
        names = OPEN_CLIP_FILES if spec.source == "open_clip" else TIMM_FILES
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        return Weights(found, str(folder))
    if spec.source == "open_clip" and spec.pretrained and (local := resolve(spec.pretrained)).is_file():
        return _local(local)
    repo, revision, files = _repository(spec)
    return Weights(_cached(repo, revision, files), f"the hub's cache ({repo})", repo, files, revision)


def _local(path: Path) -> Weights:
    return Weights(path if path.is_file() else None, str(path))


def _repository(spec: ModelSpec) -> tuple[str, str, tuple[str, ...]]:
    """Repository, revision and candidate files of a hub model."""
    standard = OPEN_CLIP_FILES if spec.source == "open_clip" else TIMM_FILES
    if spec.id.startswith("hf-hub:"):
        repo, _, revision = spec.id.removeprefix("hf-hub:").partition("@")
        return repo, revision, standard
    if spec.source == "timm":
        import timm

        config = timm.get_pretrained_cfg(spec.id) if timm.is_model(spec.id) else None
        if config is None or not config.hf_hub_id:
            raise InputError(
                f"{spec.name}: timm knows no downloadable weights for {spec.id!r}; give `checkpoint:` a file"
            )
        repo, _, revision = config.hf_hub_id.partition("@")
        return repo, revision, (config.hf_hub_filename,) if config.hf_hub_filename else standard
    from open_clip import get_pretrained_cfg

    target = get_pretrained_cfg(spec.id, spec.pretrained).get("hf_hub")
    if not target:
        raise InputError(f"{spec.name}: open_clip knows no downloadable weights {spec.pretrained!r} of {spec.id}")
    repo, _, file = target.rpartition("/")
    return repo, "", (file,) if file else standard


def _cached(repo: str, revision: str, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in files:
        found = try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    return None


def may_need_hub(spec: ModelSpec) -> bool:
    """Whether loading a model may ask the hub: its weights are neither a local file nor a local folder."""
    if spec.source == "predictions" or spec.checkpoint or spec.id.startswith("local-dir:"):
        return False
    return not (spec.pretrained and resolve(spec.pretrained).is_file())


def stay_offline_without_network(specs: Iterable[ModelSpec]) -> None:
    """Tell the hub's client not to try where the hub cannot be reached; before it is first imported.

    Child processes (notebooks, workers) inherit it.
    """
    if "huggingface_hub" not in sys.modules and any(map(may_need_hub, specs)) and not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"


def missing_weights(profile: Profile) -> list[ModelSpec]:
    """Models whose weights come from the hub and are not here."""
    found = [(spec, locate(spec)) for spec in profile.models.values()]
    return [spec for spec, weights in found if weights is not None and weights.path is None and weights.repo]


def fetch_weights(spec: ModelSpec, echo: Callable[[str], None] = print) -> None:
    """Get a model's weights into the hub's cache, where timm and open_clip look for them."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    weights = locate(spec)

    def got(name: str) -> bool:
        try:
            return bool(hf_hub_download(weights.repo, name, revision=weights.revision or None))
        except EntryNotFoundError:
            return False

    with from_hub(weights.repo):
        echo(f"{spec.name}: downloading {weights.repo}")
        for name in CONFIG_FILES:
            got(name)  # one library writes the one, the other the other
        if any(got(name) for name in weights.files):
            return
    raise DataMissing(f"{weights.repo} holds none of {', '.join(weights.files)}")
