"""`beyond-accuracy check`: what is missing or malformed, before any GPU hour is spent.

Needs neither network nor GPU. Exit code 2: something is here that would make numbers wrong; 3: something is missing;
0: everything is here and looks right.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import SAMPLED
from beyond_accuracy.base.paths import cache_dir, data_dir, resolve
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, Profile, unknown
from beyond_accuracy.data import published
from beyond_accuracy.data.classes import IMAGENET_ORDER, class_space, imagenet_wnids
from beyond_accuracy.data.dataset import ImageDataset, evenly, opened
from beyond_accuracy.data.download import how_to_get, profile_argument, source_of
from beyond_accuracy.data.fetch import make_plan, needs_data
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.data.readers.files import count_note
from beyond_accuracy.inference.heads import KINDS
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.plan import disk_lines, forward_passes, projection, requests
from beyond_accuracy.inference.predictions import GUESSING, diagnose
from beyond_accuracy.inference.store import Store
from beyond_accuracy.models.card import SIGLIP, Card, locate, missing_tokenizer, tokenizer_source
from beyond_accuracy.models.load import read_card

OK, NOTE, MISSING, WRONG = "ok", "note", "MISSING", "WRONG"
DECODED = 24  # images per set that are decoded
# SHA-256 of the wnids of a complete set, joined by newlines in class order.
ORDER_OF = {"a": "f6aa4b23244554d9", "r": "e19a59d84e3746fa", "": IMAGENET_ORDER}
PER_CLASS = {"imagenet": 50, "imagenet_v2": 10}
SIDE = {"imagenet_c": 224, "cue_conflict": 224}
SAMPLE = 500  # images that each model is run on
FITTABLE = 4  # of these a class, at least: a head is fitted to some and asked about the others


@dataclass(frozen=True)
class Finding:
    """One line of the check."""

    subject: str  # dataset or model
    status: str  # `ok`, `note` (worth knowing), `MISSING`, or `WRONG` (numbers would be wrong)
    text: str  # what was found, where, and what to do


def check(
    profile: Profile,
    only: Sequence[str] = (),
    forward: bool = False,
    options: dict | None = None,
    echo: Callable[[str], None] = print,
) -> int:
    """Check every dataset and model of a profile (or `only` some), print a line per finding, return the exit code.

    `forward`: run each model on up to 500 images and compare with published accuracies.
    """
    for name in only:
        if name not in profile.datasets and name not in profile.models:
            raise InputError(f"--only: {unknown('dataset or model', name, [*profile.datasets, *profile.models])}")
    echo(f"Profile {profile.name}: {profile.title}")
    echo(f"Data folder: {data_dir()} (--data-dir or BEYOND_ACCURACY_DATA)")
    found = []
    for finding in _findings(profile, set(only), forward, options or {}):
        found.append(finding)
        echo(f"  {finding.status:8} {finding.subject:22} {finding.text}")
    for line in _estimates(profile, [finding.subject for finding in found if finding.status == MISSING]):
        echo(line)
    wrong, missing, right = (sum(f.status == status for f in found) for status in (WRONG, MISSING, OK))
    echo(f"{wrong} wrong, {missing} missing, {right} in order")
    return 2 if wrong else 3 if missing else 0


def _findings(profile: Profile, only: set[str], forward: bool, options: dict) -> Iterator[Finding]:
    if any(spec.classes == "imagenet_1k" for spec in profile.datasets.values()):
        imagenet_wnids()  # raises where the installed list has another order
        yield Finding("class order", OK, f"1000 wnids, hash {IMAGENET_ORDER}")
    ready, models = [], []
    for spec in [spec for name, spec in profile.datasets.items() if not only or name in only]:
        yield from (findings := check_dataset(spec, profile))
        if all(finding.status in (OK, NOTE) for finding in findings):
            ready.append(spec.name)
    for spec in [spec for name, spec in profile.models.items() if not only or name in only]:
        yield (finding := check_model(profile, spec))
        if finding.status == OK:
            models.append(spec.name)
    if not only and "imagenet_x" in str(profile.dimensions.get("mistakes", {}).get("factors", "")):
        try:
            images = len(published.factors_imagenet_x())
            yield Finding("imagenet_x", OK, f"{images:,} annotated images (package imagenet-x)")
        except DataMissing as missing:
            yield Finding("imagenet_x", MISSING, str(missing))
    if forward:
        yield from check_accuracy(profile, models, ready, options)


# Datasets -------------------------------------------------------------------------------------------------------------


def check_dataset(spec: DatasetSpec, profile: Profile) -> list[Finding]:
    """Everything that can be said of a dataset without a model."""
    if spec.reader == "imagenet_real":
        return [_real()]
    try:
        dataset = load_dataset(replace(spec, limit=0))
    except DataMissing as missing:
        path = resolve(spec.path)
        text = _plain(missing, spec) if path.exists() else f"not found at {path}"
        how = f"; get it: {how_to_get(spec.name, profile)}" if needs_data(spec) else ""
        return [Finding(spec.name, MISSING, text + how)]
    except InputError as error:
        return [Finding(spec.name, WRONG, _plain(error, spec))]
    problems = [Finding(spec.name, status, text) for status, text in _problems(spec, dataset)]
    if any(problem.status == WRONG for problem in problems):
        return problems
    classes = len(np.unique(np.concatenate(dataset.targets) if dataset.multilabel else dataset.targets))
    return [Finding(spec.name, OK, f"{len(dataset):,} images, {classes:,} classes, {dataset.source}"), *problems]


def _plain(error: Exception, spec: DatasetSpec | ModelSpec) -> str:
    """The message without the name, which the table shows already."""
    return str(error).removeprefix(f"{spec.name}: ")


def _real() -> Finding:
    labels = published.real_labels()
    labelled = sum(len(classes) > 0 for classes in labels.values())
    text = f"{labelled:,} of {len(labels):,} images have labels (package timm)"
    if (labelled, len(labels)) == (46_837, 50_000):
        return Finding("imagenet_real", OK, text)
    return Finding("imagenet_real", WRONG, f"{text}, expected 46,837 of 50,000")


def _problems(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    if note := count_note(spec, len(dataset)):
        yield WRONG, f"{dataset.source}: {note}: incomplete, or another version; fetch it again"
    yield from _split_sizes(spec, dataset)
    yield from _classes(spec, dataset)
    if dataset.passed:
        yield NOTE, f"passed over {dataset.passed}"
    if any(found.is_relative_to(resolve(spec.path)) for found in SAMPLED):
        text = "more than 16 GB: names, sizes and a sample of the content tell whether it changed, a file replaced by "
        yield NOTE, f"{text}one of the same name and size may not be noticed (docs/store.md)"
    if dataset.load is not None:
        yield from _images(spec, dataset)


def _classes(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    """Which classes are there, in which order, and how many images each has."""
    if dataset.multilabel or dataset.classes is None or dataset.classes.name != "imagenet_1k":
        return
    labels, counts = np.unique(dataset.targets, return_counts=True)
    subset = str(spec.options.get("columns", ""))
    wanted = len(dataset.classes) if dataset.columns is None else len(dataset.columns)
    digest = hashlib.sha256("\n".join(dataset.classes.ids[label] for label in labels).encode()).hexdigest()
    full = bool(spec.expected) and len(dataset) == spec.expected and spec.expected >= wanted
    if full and len(labels) != wanted:
        yield WRONG, f"{len(labels)} classes have images, expected {wanted}"
    elif full and subset in ORDER_OF and not digest.startswith(ORDER_OF[subset]):
        yield WRONG, f"the classes are not those of this set (hash {digest[:16]}, expected {ORDER_OF[subset]})"
    expected = PER_CLASS.get(spec.reader)
    if full and expected and (counts != expected).any():
        label = int(labels[counts != expected][0])
        yield WRONG, f"class {dataset.classes.ids[label]} has {counts[labels == label][0]} images, expected {expected}"


def _split_sizes(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    if spec.reader != "splits":
        return
    from beyond_accuracy.dimensions.transfer.tasks import vtab  # here: it imports torch, and this should be quick

    if (task := vtab().get(spec.name)) is None:
        return
    found = tuple((dataset.metadata["split"] == name).sum() for name in ("train", "validation", "test"))
    sizes = "{:,} training, {:,} validation and {:,} test images".format(*found)
    expected = f"{task.train:,}, {task.validation:,} and {task.test:,}"
    if found in ((task.train, 0, task.test), (task.train, task.validation, task.test)):
        return
    if found == (task.train + task.validation, 0, task.test):
        yield NOTE, f"{sizes}: training and validation images of VTAB ({expected}) in one split"
    else:
        yield WRONG, f"{sizes}; VTAB has {expected}"


def _images(spec: DatasetSpec, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    """Decode a sample and look for images that were resized or encoded again."""
    formats, sizes, tables, turned = set(), [], [], 0
    for position in evenly(len(dataset), DECODED).tolist():
        try:
            dataset.image(position)
            with opened(dataset.load(position)) as image:
                turned += image.getexif().get(0x0112, 1) != 1
                formats.add(image.format)
                sizes.append(image.size)
                tables.append(str(getattr(image, "quantization", "")))
        except InputError as error:
            yield WRONG, _plain(error, spec)
            return
    if turned:
        text = f"{turned} of {len(sizes)} images looked at carry a flag that turns them in viewers; it is ignored, as "
        yield NOTE, f"{text}benchmarks are read. For photographs of your own turn the pixels first"
    side = SIDE.get(spec.reader)
    if side and (odd := [size for size in sizes if size != (side, side)]):
        yield WRONG, f"images are {odd[0][0]} x {odd[0][1]}, the release has {side} x {side}: they were resized"
    if spec.reader == "pug_imagenet" and min(map(min, sizes)) < 256:
        yield WRONG, f"images are {sizes[0][0]} x {sizes[0][1]}, smaller than the 256 of the official crop"
    if spec.reader == "imagenet" and len(sizes) >= 10:
        shorter = set(map(min, sizes))
        if len(shorter) == 1:
            yield WRONG, f"every image looked at has a shorter side of {shorter.pop()}: they were resized"
        elif formats - {"JPEG", "PNG"}:
            yield NOTE, f"images are {', '.join(sorted(formats))}, not the original JPEG: encoded again"
        elif "" not in tables and len(set(tables)) == 1:
            yield NOTE, "every image looked at has the same JPEG tables: encoded again, accuracies may differ by tenths"


# Models ---------------------------------------------------------------------------------------------------------------


def check_model(profile: Profile, spec: ModelSpec) -> Finding:
    """Whether a model's weights are here and load, and how its images are prepared. Never asks the network."""
    fetch = f"`beyond-accuracy fetch --profile {profile_argument(profile)} --only models`"
    try:
        weights = locate(spec)
        if weights is None:
            return _imported(spec)
        if weights.path is None:
            how = fetch if weights.repo else "put them there"
            return Finding(spec.name, MISSING, f"weights of {spec.id} not in {weights.place}; get them: {how}")
        card = read_card(spec, profile.settings, profile.imports, cache_dir())
        _answers_somewhere(profile, card)
    except (DataMissing, InputError) as error:
        return Finding(spec.name, MISSING if isinstance(error, DataMissing) else WRONG, _plain(error, spec))
    if lacks := missing_tokenizer(spec):
        how = SIGLIP if lacks == "package" else fetch
        return Finding(spec.name, MISSING, f"its tokenizer ({tokenizer_source(spec)}, read by transformers): {how}")
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (card.mean, card.std))
    text, size = f"{spec.id} {spec.pretrained}".strip(), f"{card.parameters / 1e6:.1f} M parameters"
    facts = [f"{text}: {size}", f"weights {card.weights[:12]}", f"side {card.geometry.crop}", card.geometry.text]
    facts += [f"mean {mean}", f"std {std}", f"activation {card.activation or 'not a layer'}"]
    if card.is_clip:
        facts += [f"context {card.context}", f"logit scale {card.logit_scale:.4g}"]
    if card.published and profile.settings.side == "trained":
        facts.append(f"published at {card.published.text}: `settings: {{side: published}}`")
    return Finding(spec.name, OK, ", ".join([*facts, *card.notes]))


def _answers_somewhere(profile: Profile, card: Card) -> None:
    """InputError where a network knows the classes of none of the sets that pages ask it about."""
    asked = [request for page in profile.dimensions for request in requests(profile, page) if not request.features]
    spaces = {profile.datasets[request.dataset].classes for request in asked} - {""}
    if spaces and card.spec.head not in KINDS and not any(card.scores(class_space(space)) for space in spaces):
        card.check(class_space(min(spaces)))


def _imported(spec: ModelSpec) -> Finding:
    if spec.name in Store().imported_models():
        return Finding(spec.name, OK, "imported predictions")
    if spec.checkpoint:
        pattern = resolve(spec.checkpoint.replace("{dataset}", "*"))
        there = sorted(path.name for path in pattern.parent.glob(pattern.name))
        text = f"predictions in {', '.join(there)}" if there else f"no file {pattern}"
        return Finding(spec.name, OK if there else MISSING, text)
    command = f"`beyond-accuracy import-predictions FILE.csv --model {spec.name} --dataset imagenet_1k`"
    return Finding(spec.name, MISSING, f"no imported predictions; {command}")


def check_accuracy(profile: Profile, models: list[str], ready: list[str], options: dict) -> Iterator[Finding]:
    """Run every model on a sample of the clean set, the first one on samples of the others, and `diagnose`."""
    clean, store = profile.dimensions.get("models", {}).get("clean"), Store()
    samples = {name: replace(spec, limit=SAMPLE, keep="none") for name, spec in profile.datasets.items()}
    for dataset in ready:
        spec = samples[dataset]
        if spec.reader == "imagenet_real" or (data := load_dataset(spec)).multilabel or data.classes is None:
            continue
        for name in models if dataset == clean else models[:1]:
            model = profile.models[name]
            if not spec.classes and (model.head not in KINDS or len(data) < FITTABLE * len(data.classes)):
                continue
            one = replace(profile, models={name: model}, datasets=samples)
            try:
                found = Outputs(one, store, options).predictions(dataset, ["none"])["none"].get(name)
            except (InputError, DataMissing) as error:
                yield Finding(dataset, WRONG, f"{name} does not run on it: {error}")
                continue
            if found is None:
                continue
            expected = published_accuracy(model, dataset) / 100
            wrong, likely = diagnose(found.pred, found.targets, data.classes.names, found.columns, expected)
            against = "" if np.isnan(expected) else f", published {expected:.1%}"
            text = f"{name}: top-1 {found.correct.mean():.1%} of {len(found)}{against}: {likely}"
            yield Finding(dataset, WRONG if wrong else NOTE if GUESSING in likely else OK, text)


def published_accuracy(spec: ModelSpec, dataset: str) -> float:
    """Published top-1 accuracy of a checkpoint in percent (the leaderboard), NaN where none is known."""
    board = published.leaderboard()
    if dataset not in board.columns or spec.checkpoint and "." in spec.id:
        return np.nan
    name = spec.id if spec.source == "timm" else f"{spec.id}/{spec.pretrained}"
    rows = board[board["model"].isin([name, name.replace("/", "."), f"{spec.id} {spec.pretrained}".strip()])]
    if rows.empty and spec.source == "timm":
        rows = board[board["model"].str.partition(".")[0] == spec.id]
    values = rows[dataset].dropna()
    return float(values.iloc[0]) if len(values) == 1 else np.nan


def _estimates(profile: Profile, missing: list[str]) -> Iterator[str]:
    """Room on disk for missing data and for the outputs, and how many images every model will see."""
    if wanted := [name for name, spec in profile.datasets.items() if name in missing and source_of(spec)]:
        room = make_plan(profile, wanted).gigabytes
        command = f"beyond-accuracy fetch --profile {profile_argument(profile)}"
        yield f"Missing data needs about {room:.0f} GB on disk: `{command}`"
    yield from disk_lines(profile)
    if images := forward_passes(profile):
        yield f"A full report runs each model on about {images / 1e6:.2f} million images."
        yield from projection(profile)
