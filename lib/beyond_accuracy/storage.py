"""What a report will put on disk and send through the networks, from the profile alone: before anything runs."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from beyond_accuracy import plan
from beyond_accuracy.labels import class_space
from beyond_accuracy.paths import cache_dir
from beyond_accuracy.predictions import TOP
from beyond_accuracy.profiles import TOP_ONLY, DatasetSpec, Profile
from beyond_accuracy.transforms import parse

GIGABYTE = 1e9
ROW_BYTES = 40  # id, label, answer and two probabilities as compressed Parquet: 20 to 40 in practice
FEATURE_BYTES = 2 * 1300  # float16; a base-size network has 768 to 1,664 features over its layers
WORTH_SAYING = 1.0  # gigabytes from which a report says beforehand what it will need


@dataclass(frozen=True)
class Run:
    """One pass over one dataset, which every network of the profile makes.

    Attributes:
        dataset: The dataset as the profile has it.
        transform: Text of the transform.
        images: Number of images; 0 = unknown (the profile states no size).
        settings: Conventions other than the profile's, by name.
    """

    dataset: DatasetSpec
    transform: str
    images: int
    settings: tuple[tuple[str, object], ...] = ()


def runs(profile: Profile, dimensions: Iterable[str] = ()) -> list[Run]:
    """Every pass of a report once, whichever pages ask for it.

    Args:
        profile: The profile.
        dimensions: Its pages; empty = all.
    """
    found: dict[tuple, Run] = {}
    for dimension in list(dimensions) or profile.dimensions:
        for request in plan.requests(profile, dimension):
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
    >>> bytes_per_image(DatasetSpec("a", "imagenet", keep="top20"))
    120
    """
    size = ROW_BYTES
    if spec.classes and spec.keep in ("all", "logits"):
        size += 2 * len(class_space(spec.classes))
    if spec.classes and spec.keep == TOP_ONLY:
        size += 4 * min(TOP, len(class_space(spec.classes)))
    if spec.keep == "all" and parse(transform).is_identity:
        size += FEATURE_BYTES
    return size


def store_gigabytes(profile: Profile, dimensions: Iterable[str] = ()) -> float:
    """Room that the outputs of all networks of a profile need in the store, about."""
    networks = sum(spec.source != "predictions" for spec in profile.models.values())
    passes = (run.images * bytes_per_image(run.dataset, run.transform) for run in runs(profile, dimensions))
    return networks * sum(passes) / GIGABYTE


def free_gigabytes() -> float:
    """Free room where the store is, or will be."""
    folder = cache_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free / GIGABYTE


def disk_lines(profile: Profile, dimensions: Iterable[str] = (), least: float = 0.0) -> Iterator[str]:
    """What to say of the room that the store needs; nothing below `least` gigabytes.

    Args:
        profile: The profile.
        dimensions: Its pages; empty = all.
        least: Gigabytes from which it is worth a line.
    """
    need, free = store_gigabytes(profile, dimensions), free_gigabytes()
    if need <= least:
        return
    yield f"The store ({cache_dir()}) needs about {max(need, 0.1):.1f} GB for the whole report; {free:.1f} GB are free"
    if need > free:
        yield "  that is not enough: choose another disk with --cache-dir (what is stored already counts as needed)"
