"""Models: a timm or open_clip name becomes a card, and where it is needed a network with its preprocessing.

Loading and hashing a network takes seconds, and importing torch takes more, so a page whose predictions are stored
does neither: a card is kept in the store with `files.stat_of` every file behind the model (a hub model: its files in
the hub's cache), and read anew when one of them, the library or this code changes.

Both libraries return models in train mode (open_clip's convnext_base has active stochastic depth there): `eval()` is
called here, always. Weights are loaded through safetensors or `weights_only=True`, never unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from beyond_accuracy.base import paths
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import modules_digest, read_json, stat_of, write_atomically
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import ModelSpec, Settings, unknown
from beyond_accuracy.data import transforms
from beyond_accuracy.data.download import hub_refusal
from beyond_accuracy.data.transforms import Geometry
from beyond_accuracy.models import card as cards
from beyond_accuracy.models.card import Card, local_dir, local_folder, locate, timm_config

if TYPE_CHECKING:
    from torch import nn

    from beyond_accuracy.models.network import Model

# What libraries raise on files that are not there, do not fit or are damaged.
LOAD_ERRORS = (
    *(RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, StopIteration),
    *(SafetensorError, pickle.UnpicklingError),
)
# Words of what they raise where the hub cannot be reached.
OFFLINE = ("localentrynotfound", "offline", "connection", "couldn't connect", "max retries", "resolve host", "download")
CONFIGURATION = (".json", ".txt", ".model")  # of a network's own folder: layers, tokenizer, vocabulary
# What the libraries only warn about, and would make other numbers: refused. Anything else they say is passed on.
REFUSED = ("mismatch", "ignoring `pretrained", "no pretrained weights", "initialized partially", "multiple checkpoints")
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "quick_gelu", "input_size", "crop_pct", "crop_mode")
MAX_LOADED = 8
LOADED: dict[tuple, Model] = {}


# Cards ----------------------------------------------------------------------------------------------------------------


def read_card(spec: ModelSpec, settings: Settings, imports: tuple[str, ...], root: Path) -> Card:
    """The card of a model: remembered in `root/models/`, else from the network itself."""
    origin = json.dumps(_origin(spec, imports), sort_keys=True)
    file = root / "models" / f"{hashlib.sha256(origin.encode()).hexdigest()[:24]}.json"
    if (card := _remembered(file, spec)) is None:
        card = load_model(spec, settings, imports).own_card
        if files := source_files(spec):
            content = {"files": [_stamp(path) for path in files], "card": {**asdict(card), "spec": None}}
            content["seal"] = _seal(file, content)
            with suppress(InputError):  # a store that cannot be written still serves what it has
                write_atomically(file, json.dumps(content, indent=1).encode())
    return card.under(settings)


def _remembered(file: Path, spec: ModelSpec) -> Card | None:
    try:
        content = read_json(file)
        sealed = content.pop("seal") == _seal(file, content)
        if not sealed or [_stamp(Path(path)) for path, *_ in content["files"]] != content["files"]:
            return None
        card = {name: tuple(v) if isinstance(v, list) else v for name, v in content["card"].items()}
        for name in ("geometry", "published"):
            card[name] = card[name] and Geometry(**{**card[name], "fill": tuple(card[name]["fill"])})
        return Card(**{**card, "spec": spec})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(path: Path) -> list:
    return [str(path), *stat_of(path)]


def _seal(file: Path, content: dict) -> str:
    """Of a card's content under its name: a damaged card, or another model's, is not trusted."""
    text = json.dumps([file.name, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _origin(spec: ModelSpec, imports: tuple[str, ...]) -> dict:
    """Everything that decides which network a spec means, besides the content of files."""
    named = [spec.source, spec.id, spec.pretrained, spec.checkpoint]
    return {
        "named": named,
        "where": [str(resolve(name.removeprefix("local-dir:"))) for name in named[1:]],
        "imports": [imports, modules_digest(imports)],
        **_makers(importlib.metadata.version),
    }


@lru_cache  # it reads files of metadata, for every model of every set
def _makers(version: Callable[[str], str]) -> dict:
    """Versions of the libraries, and a hash of the code that fills a card in: a card of older code is not trusted."""
    files = [__file__, cards.__file__, transforms.__file__, paths.__file__]
    own = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()
    return {"libraries": {name: version(name) for name in ("timm", "open_clip_torch")}, "code": own}


def source_files(spec: ModelSpec) -> list[Path]:
    """Files behind a model; empty where they cannot be told, then nothing is remembered."""
    if folder := local_folder(spec):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return [*files, resolve(spec.checkpoint)] if spec.checkpoint else files
    try:
        weights = locate(spec)
    except InputError:
        return []
    if weights.repo:
        return [] if weights.revision else hub_files(weights.repo)
    return [] if spec.id.startswith("hf-hub:") else [weights.path]  # a file, but the hub's configuration


def hub_files(repository: str) -> list[Path]:
    """The current snapshot of `owner/name` in the hub's cache, and the file that says which one is current."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    current = folder / "refs" / "main"
    if not current.is_file():
        return []
    files = [path for path in (folder / "snapshots" / current.read_text().strip()).rglob("*") if path.is_file()]
    return [current, *sorted(files)] if files else []


# Networks -------------------------------------------------------------------------------------------------------------


def load_model(spec: ModelSpec, settings: Settings, imports: tuple[str, ...] = ()) -> Model:
    """Build a model with its weights; arguments as of `read_card`."""
    from beyond_accuracy.models.network import Model

    for module in imports:
        try:
            importlib.import_module(module)
        except Exception as error:  # not there, no name of a module, or broken in its own way
            raise InputError(
                f"{spec.name}: module {module!r} of the profile's `imports` cannot be imported "
                f"({type(error).__name__}: {error})"
            ) from error
    if spec.source == "predictions":
        raise InputError(f"{spec.name}: a model with source {spec.source!r} has no network to run")
    with _listening(spec) as notes:
        network, facts = (_load_timm if spec.source == "timm" else _load_open_clip)(spec, notes)
    for note in notes:
        print(f"{spec.name}: {note}", file=sys.stderr)
    network.eval().requires_grad_(False)
    backbone = network.visual if spec.source == "open_clip" else network
    card = Card(
        spec=spec,
        weights=_weights_hash(network),
        architecture=_architecture_hash(spec, network, imports),
        patch=_patch(backbone),
        parameters=sum(p.numel() for p in backbone.parameters()),
        activation=_activation(network),
        context=int(getattr(network, "context_length", 0) or 0),
        notes=tuple(notes),
        **facts,
    )
    model = Model(card.under(settings), network, card)
    LOADED[_identity(card)] = model
    while len(LOADED) > MAX_LOADED:
        del LOADED[next(iter(LOADED))]
    return model


def model_for(card: Card, settings: Settings, imports: tuple[str, ...] = ()) -> Model:
    """The network a card describes, from memory if this process has loaded it before."""
    model = LOADED.get(_identity(card)) or load_model(card.spec, settings, imports)
    if _identity(model.own_card) != _identity(card):
        raise InputError(f"{card.name}: the weights changed while they were in use; run the command again")
    return replace(model, card=card)


def _identity(card: Card) -> tuple:
    return card.spec, card.weights, card.architecture


@contextmanager
def _listening(spec: ModelSpec) -> Iterator[list[str]]:
    """What the libraries log and warn about meanwhile; where it decides a number it is an error."""
    notes: list[str] = []
    handler, root = logging.Handler(logging.WARNING), logging.getLogger()
    handler.emit = lambda record: notes.append(record.getMessage())
    before, root.handlers = root.handlers, [handler]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield notes
    finally:
        root.handlers = before
    about_code = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
    notes += [str(warning.message) for warning in caught if not issubclass(warning.category, about_code)]
    notes[:] = dict.fromkeys(" ".join(note.split())[:300] for note in notes)
    if wrong := [note for note in notes if any(word in note.lower() for word in REFUSED)]:
        name = f"{spec.id} {spec.pretrained}".strip()
        raise InputError(f"{spec.name}: {name} would not be the model that was trained: {wrong[0]}")


def _one_preprocessing(spec: ModelSpec, configs: dict[str, dict], how: str) -> dict:
    """The configuration that weights from a file share with all published ones of the architecture, by tag."""
    kinds = {json.dumps([config.get(key) or None for key in PREPROCESSING]): tag for tag, config in configs.items()}
    if len(kinds) > 1:
        raise InputError(
            f"{spec.name}: published weights of {spec.id} differ in preprocessing or activation, so a file alone does "
            f"not say how to prepare its images; {how} one trained alike, such as {' or '.join(kinds.values())}"[:600]
        )
    return next(iter(configs.values()), {})


def _load_timm(spec: ModelSpec, notes: list[str]) -> tuple[nn.Module, dict]:
    import timm
    from timm.data import resolve_model_data_config

    options: dict = {"pretrained": True}
    name = local_dir(spec)
    if ":" not in name and timm_config(name) is None:
        known = timm.list_models(pretrained=True) if "." in name else timm.list_models()
        raise InputError(f"{spec.name}: {unknown('timm model', name, known)}"[:600])
    try:
        if spec.checkpoint:
            options = {"pretrained": False, "checkpoint_path": str(_file(spec, spec.checkpoint))}
            if ":" not in name:
                options |= _as_in_checkpoint(spec, options["checkpoint_path"], notes)
        network = timm.create_model(name, **options)
    except LOAD_ERRORS as error:
        raise _load_error(spec, error) from error

    def geometry(config: dict) -> Geometry:
        channels, *sides = config["input_size"]
        mode = {"center": "shortest", "squash": "squash", "border": "longest"}[config["crop_mode"]]
        fill = [round(255 * value) for value in config["mean"]]
        return Geometry.of(_square(spec, sides, channels), config["crop_pct"], config["interpolation"], mode, fill)

    config = resolve_model_data_config(network)
    tested = geometry(resolve_model_data_config(network, use_test_size=True))
    facts = {"geometry": geometry(config), "mean": tuple(config["mean"]), "std": tuple(config["std"])}
    facts["published"] = None if tested == facts["geometry"] else tested
    return network, {**facts, "n_classes": int(getattr(network, "num_classes", 0)), "logit_scale": None}


def _as_in_checkpoint(spec: ModelSpec, file: str, notes: list[str]) -> dict:
    """How to build a network that a file of weights fits: its number of classes, where it is not the usual one."""
    import timm
    from timm.models import load_state_dict

    tags = [spec.id] if "." in spec.id else timm.list_models(f"{spec.id}.*", pretrained=True)
    configs = {name: timm.get_pretrained_cfg(name).to_dict() for name in tags}
    config = _one_preprocessing(spec, configs, "give as `name:` (with its tag)")
    head = config.get("classifier") or ""
    weight = load_state_dict(file, weights_only=True).get(f"{head if isinstance(head, str) else head[0]}.weight")
    classes = len(weight) if weight is not None else config.get("num_classes", 1000)
    if weight is not None and classes != 1000:
        notes.append(f"{classes} classes, as in {Path(file).name}")
    return {} if classes == 1000 or (weight is None and classes) else {"num_classes": classes}


def _load_open_clip(spec: ModelSpec, notes: list[str]) -> tuple[nn.Module, dict]:
    import open_clip

    name = local_dir(spec)
    pretrained, how = spec.checkpoint or spec.pretrained, {"require_pretrained": True, "weights_only": True}
    if ":" in name and pretrained:
        raise InputError(f"{spec.name}: {spec.id} brings its weights; drop {pretrained!r}, which would not be loaded")
    if ":" not in name:
        if name not in open_clip.list_models():
            raise InputError(f"{spec.name}: {unknown('open_clip model', name, open_clip.list_models())}"[:600])
        tags = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
        if pretrained not in tags:
            if not resolve(pretrained).is_file() and "/" not in pretrained and "." not in pretrained:
                raise InputError(f"{spec.name}: {unknown(f'pretrained tag of {name}', pretrained, tags)}")
            pretrained = str(_file(spec, pretrained))
        config = tags.get(spec.pretrained)
        if config is None:
            config = _one_preprocessing(spec, tags, "give the file as `checkpoint:` and as `pretrained:`")
        how["force_preprocess_cfg"] = {key: config[key] for key in PREPROCESSING[:4] if config.get(key)}
        if config.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
            how["force_quick_gelu"] = True
            notes.append("activation QuickGELU, with which these weights were trained, in place of GELU")
    try:
        if ":" in name:
            _refuse_code(spec, open_clip.get_model_config(name))
        network = open_clip.create_model(name, pretrained=pretrained or None, **how)
    except LOAD_ERRORS as error:
        raise _load_error(spec, error) from error
    config = network.visual.preprocess_cfg
    size = config["size"]
    size = _square(spec, [size] if isinstance(size, int) else size, 3)
    # As open_clip reads them: everything but bilinear is bicubic
    interpolation = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    fill = config.get("fill_color") or 0
    fill = [fill] * 3 if isinstance(fill, int) else fill
    shape = Geometry.of(size, 1.0, interpolation, config.get("resize_mode") or "shortest", fill)
    facts = {"geometry": shape, "mean": tuple(config["mean"]), "std": tuple(config["std"]), "published": None}
    return network, {**facts, "n_classes": 0, "logit_scale": network.logit_scale.exp().item()}


def _refuse_code(spec: ModelSpec, config: object) -> None:
    """Nothing runs from data: a configuration that asks for the code beside it is refused before anybody follows it."""
    text = json.dumps(config)
    if folder := local_folder(spec):
        files = (folder / name for name in ("tokenizer_config.json", "config.json"))
        text += "".join(file.read_text("utf-8") for file in files if file.is_file())
    if asked := re.search(r'"trust_remote_code": *(?!false|null|0)|"auto_map"', text):
        raise InputError(
            f"{spec.name}: the configuration of {spec.id} asks to run code that comes with it "
            f"({asked[0].split(':')[0]}); it was not loaded. Take out that key where the library has a class for it"
        )


def _activation(network: nn.Module) -> str:
    """Names of the activations among the layers, for readers."""
    kinds = {type(layer) for layer in network.modules()}
    names = {kind.__name__ for kind in kinds if "activation" in kind.__module__ or kind.__name__.endswith("GELU")}
    return ", ".join(sorted(names - {"MultiheadAttention", "Softmax"}))


def _square(spec: ModelSpec, sides, channels: int) -> int:
    if channels != 3 or len(set(sides)) != 1:
        raise InputError(f"{spec.name}: takes {channels} channels of {'x'.join(map(str, sides))}, expected square RGB")
    return int(sides[0])


def _patch(tower: nn.Module) -> int:
    """Side of a ViT's patches, from timm's or open_clip's own tower; 1 for convnets."""
    tower = getattr(tower, "trunk", tower)
    patch = getattr(getattr(tower, "patch_embed", tower), "patch_size", 1)
    return int(patch[0]) if isinstance(patch, (tuple, list)) else int(patch or 1)


def _file(spec: ModelSpec, name: str) -> Path:
    path = resolve(name)
    if not path.is_file():
        raise DataMissing(f"{spec.name}: checkpoint {path} not found; give a file, or drop it to use the hub's weights")
    return path


def _load_error(spec: ModelSpec, error: Exception) -> Exception:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError):
        return InputError(
            f"{spec.name}: the checkpoint is damaged, or a pickle with more than tensors in it; it was not loaded and "
            f"nothing in it was run ({text[:160]}); convert it to safetensors with the tool it came from"
        )
    what = f"{spec.id} {spec.pretrained}".strip()
    if refusal := hub_refusal(error, f"the weights of {what}", "their page on the hub"):
        return DataMissing(f"{spec.name}: {refusal}")
    chain = f"{type(error).__name__} {type(error.__cause__).__name__} {text}".lower()
    if any(word in chain for word in OFFLINE):
        return DataMissing(
            f"{spec.name}: weights of {what} are not on this machine and the hub cannot be "
            "reached; run `beyond-accuracy fetch --only models` where it can, or give `checkpoint:` a local file"
        )
    if isinstance(error, FileNotFoundError):
        return DataMissing(f"{spec.name}: {text}")
    return InputError(f"{spec.name}: weights of {spec.id} do not load: {text}")


def _architecture_hash(spec: ModelSpec, network: nn.Module, imports: tuple[str, ...]) -> str:
    """Hash of layers, configuration (of tokenizers, too) and imported modules; no addresses, folders or weights."""
    config = spec.id
    if local_folder(spec) or spec.id.startswith("hf-hub:"):
        files = (path for path in source_files(replace(spec, checkpoint="")) if path.suffix in CONFIGURATION)
        config = "".join(f"{path.name}\n{path.read_text('utf-8', 'replace')}\n" for path in files)
    elif spec.source == "timm" and ":" not in spec.id:
        config = spec.id.partition(".")[0]  # the tag says where weights came from; they have a hash of their own
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(network))
    return hashlib.sha256(f"{spec.source}\n{config}\n{layers}\n{modules_digest(imports)}".encode()).hexdigest()[:24]


def _weights_hash(network: nn.Module) -> str:
    """Hash of all parameters and buffers: independent of file format and of where they came from."""
    from torch import uint8

    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
