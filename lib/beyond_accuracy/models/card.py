"""A model without its network: its card, where its weights are, and whether the network is there to get them.

The hub's client retries for tens of seconds per file on a machine without network. So what is in its cache is looked up
directly, and when the hub does not answer at once the client is told to stay offline before it is imported.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import ModelSpec, Profile, Settings, unknown
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.download import from_hub, hub_reachable
from beyond_accuracy.data.transforms import Geometry

PAPER_CROP = 224 / 256
SIGLIP = "pip install 'beyond-accuracy[siglip]'"
TOKENIZER_FILES = (
    *("tokenizer_config.json", "tokenizer.json", "config.json", "special_tokens_map.json", "spiece.model"),
    *("tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt"),
)
WEIGHT_FILES = {
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": (
        *("open_clip_model.safetensors", "model.safetensors"),
        *("open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    ),
}


@dataclass(frozen=True)
class Card:
    """What planning must know of a model."""

    spec: ModelSpec
    weights: str  # hash of all parameters and buffers, whatever file they came from
    architecture: str  # hash of layers and configuration: the same weights under another activation differ
    geometry: Geometry  # resize and crop
    mean: tuple[float, ...]  # of the normalisation, on the 0..1 scale
    std: tuple[float, ...]
    patch: int  # the input side must be a multiple of this (1 for convnets)
    n_classes: int  # output columns of a supervised model; 0 for CLIP
    logit_scale: float | None  # CLIP only: what cosine similarities are multiplied by
    parameters: int  # of the image backbone (CLIP: image tower only), as the paper counts
    published: Geometry | None = None  # resize and crop that published accuracies were measured at, where it is another
    activation: str = ""  # of the layers, for readers
    context: int = 0  # tokens that a CLIP model's text tower reads
    notes: tuple[str, ...] = ()  # what was repaired or warned about when the network was built

    @property
    def name(self) -> str:
        """Name in the profile."""
        return self.spec.name

    @property
    def is_clip(self) -> bool:
        """Whether classes are scored through text prompts."""
        return self.spec.source == "open_clip"

    def under(self, settings: Settings) -> "Card":
        """The card under a profile's conventions: preprocessing preset, interpolation, CLIP logit scale."""
        geometry, scale = self.geometry, self.logit_scale
        if settings.side == "published":
            geometry = self.published or geometry
        if settings.preset == "paper" and not self.is_clip:
            geometry = Geometry.of(geometry.crop, PAPER_CROP, "bilinear")
        if settings.interpolation != "own":
            geometry = replace(geometry, interpolation=settings.interpolation)
        if not settings.antialias and geometry.mode != "longest":  # that mode resizes with timm's code, in PIL
            geometry = replace(geometry, antialias=False)
        if self.is_clip and settings.logit_scale != "learned":
            scale = float(settings.logit_scale)
        return replace(self, geometry=geometry, logit_scale=scale)

    def scores(self, classes: ClassSpace | None) -> bool:
        """Whether the model can answer on these classes: CLIP on any, others on as many as they have."""
        return classes is not None and (self.is_clip or self.n_classes == len(classes))

    def check(self, classes: ClassSpace) -> None:
        """Refuse a supervised checkpoint whose columns cannot be these classes."""
        if not self.scores(classes):
            raise InputError(
                f"{self.name}: the checkpoint has {self.n_classes} classes, the dataset's class space {classes.name} "
                f"has {len(classes)}; choose a checkpoint trained on {classes.name}, or fit a classifier to its "
                "features (`head: probe`)"
            )

    def key_parts(self, classes: ClassSpace | None) -> dict:
        """What the cache key needs to know of the model; names, labels and file paths are not in it."""
        parts = {name: getattr(self, name) for name in ("weights", "architecture", "mean", "std")}
        scored = self.is_clip and classes is not None
        scale, prompts = (self.logit_scale, classes.prompt_hash) if scored else (None, None)
        return {**parts, "logit_scale": scale, "prompts": prompts}


# Weights --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model are or would be."""

    path: Path | None  # the file on this machine; None where there is none
    place: str  # where it was looked for, for messages
    repo: str = ""  # hub repository they can be downloaded from; empty = a local file or folder that must be put there
    files: tuple[str, ...] = ()  # names of which the first that exists in the repository is taken
    revision: str = ""  # commit or branch of the repository


def local_dir(spec: ModelSpec) -> str:
    """The name that timm and open_clip take; for `local-dir:` with the folder where it is on this machine."""
    if not (folder := local_folder(spec)):
        return spec.id
    if not folder.is_dir():
        raise DataMissing(f"{spec.name}: folder {folder} not found")
    return f"local-dir:{folder}"


def local_folder(spec: ModelSpec) -> Path | None:
    """The folder of a model named `local-dir:…`, whether it is there or not."""
    return resolve(spec.id.removeprefix("local-dir:")) if spec.id.startswith("local-dir:") else None


def _local_file(spec: ModelSpec) -> Path | None:
    """The file that a spec names for its weights: an open_clip tag is none, unless there is such a file."""
    if spec.checkpoint:
        return resolve(spec.checkpoint)
    if spec.source == "open_clip" and spec.pretrained and not local_folder(spec):
        return file if (file := resolve(spec.pretrained)).is_file() else None
    return None


def locate(spec: ModelSpec) -> Weights | None:
    """Look for a model's weights on this machine; None for imported predictions."""
    if spec.source == "predictions":
        return None
    if file := _local_file(spec):
        return Weights(file if file.is_file() else None, str(file))
    if folder := local_folder(spec):
        files = (folder / name for name in WEIGHT_FILES[spec.source])
        return Weights(next(filter(Path.is_file, files), None), str(folder))
    repo, revision, files = _repository(spec)
    return Weights(_cached(repo, revision, files), f"the hub's cache ({repo})", repo, files, revision)


def _repository(spec: ModelSpec) -> tuple[str, str, tuple[str, ...]]:
    """Repository, revision and candidate files of a hub model."""
    file = ""
    if spec.id.startswith("hf-hub:"):
        repo = spec.id.removeprefix("hf-hub:")
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?", repo):
            raise InputError(f"{spec.name}: {spec.id!r} is no repository of the hub; expected hf-hub:OWNER/NAME")
    elif spec.source == "timm":
        import timm

        config = timm_config(spec.id)
        if config is None or not config.hf_hub_id:
            raise InputError(
                f"{spec.name}: timm knows no downloadable weights for {spec.id!r}; give `checkpoint:` a file, or: "
                f"{unknown('timm model', spec.id, timm.list_models(pretrained=True))}"[:600]
            )
        repo, file = config.hf_hub_id, config.hf_hub_filename
    else:
        from open_clip import get_pretrained_cfg

        repo, _, file = (get_pretrained_cfg(spec.id, spec.pretrained).get("hf_hub") or "").rpartition("/")
        if not repo:
            raise InputError(f"{spec.name}: open_clip knows no downloadable weights {spec.pretrained!r} of {spec.id}")
    repo, _, revision = repo.partition("@")
    return repo, revision, (file,) if file else WEIGHT_FILES[spec.source]


def timm_config(name: str):
    """The configuration in timm of an architecture with a tag, or its usual one; None where it knows no such model."""
    import timm

    with suppress(RuntimeError):  # the architecture is known, the tag is not
        return timm.get_pretrained_cfg(name) if timm.is_model(name) else None


def tokenizer_source(spec: ModelSpec) -> str:
    """Hub repository (or folder) of a CLIP model's tokenizer, read by transformers; empty for open_clip's own."""
    if spec.source != "open_clip" or spec.id.startswith("hf-hub:"):
        return ""
    import open_clip

    name = (open_clip.get_model_config(local_dir(spec)) or {}).get("text_cfg", {}).get("hf_tokenizer_name") or ""
    return name and str(local_folder(spec) or name)


def missing_tokenizer(spec: ModelSpec) -> str:
    """What a model's tokenizer lacks on this machine: `package`, `files`, or nothing."""
    source = tokenizer_source(spec)
    if source and not importlib.util.find_spec("transformers"):
        return "package"
    return "files" if source and not local_folder(spec) and not _cached(source, "", TOKENIZER_FILES[:1]) else ""


def _cached(repo: str, revision: str, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in files:
        found = try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    return None


def may_need_hub(spec: ModelSpec) -> bool:
    """Whether loading a model may ask the hub: its weights are neither a local file nor a local folder."""
    return spec.source != "predictions" and not local_folder(spec) and not _local_file(spec)


def stay_offline_without_network(specs: Iterable[ModelSpec]) -> None:
    """Tell the hub's client not to try where the hub cannot be reached; before it is first imported.

    Child processes (notebooks, workers) inherit it.
    """
    if "huggingface_hub" not in sys.modules and any(map(may_need_hub, specs)) and not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"


def missing_weights(profile: Profile) -> list[ModelSpec]:
    """Models whose weights come from the hub and are not here."""
    found = [(spec, locate(spec)) for spec in profile.models.values()]
    lacking = {spec.name for spec, weights in found if weights and weights.path is None and weights.repo}
    return [spec for spec, _ in found if spec.name in lacking or missing_tokenizer(spec) == "files"]


def fetch_weights(spec: ModelSpec, echo: Callable[[str], None] = print) -> None:
    """Get a model's weights into the hub's cache, where timm and open_clip look for them."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    weights = locate(spec)

    def got(name: str, repo: str = weights.repo, revision: str = weights.revision) -> bool:
        try:
            return bool(hf_hub_download(repo, name, revision=revision or None))
        except RemoteEntryNotFoundError:  # the file; its parent class also stands for a hub that does not answer
            return False

    tokens = "" if local_folder(spec) else tokenizer_source(spec)
    with from_hub(weights.repo or tokens):
        echo(f"{spec.name}: downloading {weights.repo if weights.path is None else tokens}")
        if tokens:
            for name in TOKENIZER_FILES:
                got(name, tokens, "")
        if weights.path:
            return
        for name in ("config.json", "open_clip_config.json"):
            got(name)  # one library writes the one, the other the other
        if any(got(name) for name in weights.files):
            return
    raise DataMissing(
        f"{weights.repo} holds none of {', '.join(weights.files)}: they were renamed; give `checkpoint:` a local file"
    )
