"""`beyond-accuracy check`: what is missing or malformed, before any GPU hour is spent.

Needs neither network nor GPU. Exit code 2: something is here that would make numbers wrong; 3: something is missing;
0: everything is here and looks right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from beyond_accuracy import reference
from beyond_accuracy.check_data import MISSING, NOTE, OK, WRONG, Finding, check_dataset
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.fetch import make_plan
from beyond_accuracy.labels import IMAGENET_ORDER, class_space, imagenet_wnids
from beyond_accuracy.paths import data_dir
from beyond_accuracy.plan import disk_lines, forward_passes
from beyond_accuracy.profiles import ModelSpec, Profile, unknown
from beyond_accuracy.readers import load_dataset
from beyond_accuracy.sources import profile_argument, sources
from beyond_accuracy.throughput import projection

SAMPLE = 500
MARKS = {OK: "ok", NOTE: "note", MISSING: "MISSING", WRONG: "WRONG"}


def check(
    profile: Profile,
    only: Sequence[str] = (),
    forward: bool = False,
    options: dict | None = None,
    echo: Callable[[str], None] = print,
) -> int:
    """Check every dataset and model of a profile and print what was found.

    Args:
        profile: The profile.
        only: Names of datasets or models; empty = all.
        forward: Run each model on up to 500 images and compare with published accuracies.
        options: Of the inference: `device`, `batch_size`, `skip_bad`.
        echo: Told one line per finding.

    Returns:
        The exit code.

    Raises:
        InputError: An unknown name in `only`.
    """
    for name in only:
        if name not in profile.datasets and name not in profile.models:
            raise InputError(f"--only: {unknown('dataset or model', name, [*profile.datasets, *profile.models])}")
    echo(f"Profile {profile.name}: {profile.title}")
    echo(f"Data folder: {data_dir()} (--data-dir or BEYOND_ACCURACY_DATA)")
    found = []
    for finding in _findings(profile, set(only), forward, options or {}):
        found.append(finding)
        echo(f"  {MARKS[finding.status]:8} {finding.subject:22} {finding.text}")
    for line in _estimates(profile, found):
        echo(line)
    statuses = {finding.status for finding in found}
    wrong, missing = (sum(f.status == status for f in found) for status in (WRONG, MISSING))
    echo(f"{wrong} wrong, {missing} missing, {sum(f.status == OK for f in found)} in order")
    return 2 if WRONG in statuses else 3 if MISSING in statuses else 0


def _findings(profile: Profile, only: set[str], forward: bool, options: dict) -> Iterator[Finding]:
    if any(spec.classes == "imagenet_1k" for spec in profile.datasets.values()):
        imagenet_wnids()  # raises where the installed list has another order
        yield Finding("class order", OK, f"1000 wnids, hash {IMAGENET_ORDER}")
    ready = []
    for name, spec in profile.datasets.items():
        if only and name not in only:
            continue
        findings = check_dataset(spec, profile)
        yield from findings
        if all(finding.status in (OK, NOTE) for finding in findings):
            ready.append(name)
    models = []
    for name, spec in profile.models.items():
        if only and name not in only:
            continue
        finding = check_model(profile, spec)
        yield finding
        if finding.status == OK:
            models.append(name)
    if "imagenet_x" in str(profile.dimensions.get("mistakes", {}).get("factors", "")) and not only:
        yield _imagenet_x()
    if forward:
        yield from check_accuracy(profile, models, ready, options)


def check_model(profile: Profile, spec: ModelSpec) -> Finding:
    """Whether a model's weights are here and load, and how its images are prepared. Never asks the network."""
    from beyond_accuracy.weights import locate

    try:
        weights = locate(spec)
        if weights is None:
            return _imported(spec)
        if weights.path is None:
            how = (
                f"`beyond-accuracy fetch --profile {profile_argument(profile)} --only models`"
                if weights.repo
                else "put them there"
            )
            return Finding(spec.name, MISSING, f"weights of {spec.id} not in {weights.place}; get them: {how}")
        from beyond_accuracy.models import read_card
        from beyond_accuracy.paths import cache_dir

        card = read_card(spec, profile.settings, profile.imports, cache_dir())
    except DataMissing as missing:
        return Finding(spec.name, MISSING, str(missing).removeprefix(f"{spec.name}: "))
    except InputError as error:
        return Finding(spec.name, WRONG, str(error).removeprefix(f"{spec.name}: "))
    scale = f", logit scale {card.logit_scale:.4g}" if card.logit_scale else ""
    text = f"{spec.id} {spec.pretrained}".strip()
    return Finding(
        spec.name,
        OK,
        f"{text}: {card.parameters / 1e6:.1f} M parameters, weights {card.weights[:12]}, {card.geometry.text}{scale}",
    )


def _imported(spec: ModelSpec) -> Finding:
    from beyond_accuracy.store import Store

    if spec.name in Store().imported_models():
        return Finding(spec.name, OK, "imported predictions")
    command = f"`beyond-accuracy import-predictions FILE.csv --model {spec.name} --dataset imagenet_1k`"
    return Finding(spec.name, MISSING, f"no imported predictions; {command}")


def _imagenet_x() -> Finding:
    from beyond_accuracy.annotations import factors_imagenet_x

    try:
        return Finding("imagenet_x", OK, f"{len(factors_imagenet_x()):,} annotated images (package imagenet-x)")
    except DataMissing as missing:
        return Finding("imagenet_x", MISSING, str(missing))


def check_accuracy(profile: Profile, models: list[str], ready: list[str], options: dict) -> Iterator[Finding]:
    """Run every model on a sample of the clean set, and the first one on samples of the others.

    A sample's accuracy far from the published one means wrong labels, weights or preprocessing; which, the pattern of
    the answers often tells (`check_labels`).
    """
    from beyond_accuracy.check_labels import diagnose
    from beyond_accuracy.outputs import Outputs
    from beyond_accuracy.store import Store

    clean = profile.dimensions.get("models", {}).get("clean")
    store = Store()
    for dataset in ready:
        spec = replace(profile.datasets[dataset], limit=SAMPLE, keep="none")
        if not spec.classes or spec.reader == "imagenet_real" or load_dataset(spec).multilabel:
            continue
        for name in models if dataset == clean else models[:1]:
            model = profile.models[name]
            one = replace(profile, models={name: model}, datasets={dataset: spec})
            try:
                found = Outputs(one, store, options).predictions(dataset, ["none"])["none"].get(name)
            except (InputError, DataMissing) as error:
                yield Finding(dataset, WRONG, f"{name} does not run on it: {error}")
                continue
            if found is None:
                continue
            expected = published_accuracy(model, dataset) / 100
            n_classes = len(class_space(spec.classes))
            result = diagnose(found.pred, found.targets, n_classes, found.columns, expected)
            against = "" if np.isnan(expected) else f", published {expected:.1%}"
            text = f"{name}: top-1 {result.accuracy:.1%} of {result.n}{against}: {result.text}"
            yield Finding(dataset, WRONG if result.wrong else OK, text)


def published_accuracy(spec: ModelSpec, dataset: str) -> float:
    """Published top-1 accuracy of a checkpoint in percent, NaN where none is known.

    From the libraries' result tables for the paper's checkpoints, else from the leaderboard of 300 models.
    """
    board = reference.leaderboard()
    if dataset not in board.columns or spec.checkpoint and "." in spec.id:
        return float("nan")
    name = spec.id if spec.source == "timm" else f"{spec.id}/{spec.pretrained}"
    rows = board[board["model"].isin([name, name.replace("/", "."), f"{spec.id} {spec.pretrained}".strip()])]
    if rows.empty and spec.source == "timm":
        rows = board[board["model"].str.partition(".")[0] == spec.id]
    values = rows[dataset].dropna()
    return float(values.iloc[0]) if len(values) == 1 else float("nan")


def _estimates(profile: Profile, found: list[Finding]) -> Iterator[str]:
    """Room on disk for missing data and for the outputs, and how many images every model will see."""
    missing = {finding.subject for finding in found if finding.status == MISSING}
    if wanted := [name for name in profile.datasets if name in missing and name in sources()]:
        room = make_plan(profile, wanted).gigabytes
        command = f"beyond-accuracy fetch --profile {profile_argument(profile)}"
        yield f"Missing data needs about {room:.0f} GB on disk: `{command}`"
    yield from disk_lines(profile)
    images = forward_passes(profile)
    if images:
        yield f"A full report runs each model on about {images / 1e6:.2f} million images."
        yield from projection(profile)
