"""Where a model's weights are, found without asking the network, and whether the network is there at all.

The hub's client retries for tens of seconds per file on a machine without network. So what is in its cache is looked up
directly, and when the hub does not answer at once the client is told to stay offline before it is imported.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from beyond_accuracy.errors import InputError
from beyond_accuracy.paths import resolve
from beyond_accuracy.profiles import ModelSpec

PROBE_SECONDS = 3.0
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
    """Look for a model's weights on this machine; None for imported predictions.

    Raises:
        InputError: A timm or open_clip name without pretrained weights.
    """
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


@lru_cache
def hub_reachable() -> bool:
    """Whether the hub can be connected to within `PROBE_SECONDS`; asked once per process.

    Where a proxy is configured the answer is yes: only the client knows how to use it.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in ("https_proxy", "http_proxy", "all_proxy")):
        return True
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    answer: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((endpoint.hostname or "", port), timeout=PROBE_SECONDS).close()
            answer.append(True)
        except OSError:
            answer.append(False)

    # In a thread: looking up the host's name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answer and answer[0])


def may_need_hub(spec: ModelSpec) -> bool:
    """Whether loading a model may ask the hub: its weights are neither a local file nor a local folder."""
    if spec.source == "predictions" or spec.checkpoint or spec.id.startswith("local-dir:"):
        return False
    return not (spec.pretrained and resolve(spec.pretrained).is_file())


def stay_offline_without_network(specs: Iterable[ModelSpec]) -> None:
    """Tell the hub's client not to try where the hub cannot be reached; must run before it is first imported.

    Child processes (notebooks, workers) inherit it.

    Args:
        specs: The models about to be used; where none may need the hub, it is not asked.
    """
    if "huggingface_hub" not in sys.modules and any(map(may_need_hub, specs)) and not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"
