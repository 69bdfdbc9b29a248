"""Your own images: from a folder and some candidate backbones to a profile and its report.

First every candidate gets a probe on all images; those that are clearly behind by then are not taken to the corruptions
and transforms, which cost far more. The profile is written beside the report: edit it, and `report --profile` it.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import write_atomically
from beyond_accuracy.base.paths import ASSETS, expanded, report_dir
from beyond_accuracy.base.profile import (
    ModelSpec,
    available_profiles,
    load_profile,
    parse_profile,
    typed_model,
    unknown,
)
from beyond_accuracy.data import corruptions, transforms
from beyond_accuracy.data.dataset import ImageDataset, evenly
from beyond_accuracy.data.download import hub_reachable
from beyond_accuracy.data.readers import LOADED, load_dataset
from beyond_accuracy.dimensions import own
from beyond_accuracy.inference import heads
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.models.card import locate, may_need_hub, stay_offline_without_network
from beyond_accuracy.models.load import model_for
from beyond_accuracy.report.build import build

DEPTHS = {"quick": (24, 60), "standard": (100, 200), "full": (500, 1000)}  # images corrupted, and transformed
BEHIND = 5.0  # points that a candidate must lie behind the first, told apart, to be left out of later stages
EDITS, EDITED = ["hflip=1", "scale=1.25", "shift=16"], 100  # of so many images, to tell how alike an edited copy is
SECONDS = 25  # of a page: kernel, intervals, figures
HEADER = """# Written by `beyond-accuracy compare`. Edit it, then run
#   beyond-accuracy report --profile {path}
# Heads: probe (logistic regression on frozen features), knn, zero_shot (CLIP-like), own (the checkpoint's classes).
# As written: {digest}
"""
DIGEST = "# As written: "  # after it a digest of the rest: `compare` does not write over what somebody has edited


@dataclass(frozen=True)
class Candidate:
    """A backbone to try."""

    spec: ModelSpec
    size: float = 0.0  # millions of parameters, where known beforehand
    side: int = 0
    licence: str = ""


def compare(folder: str | Path, models: Sequence[str] = (), *, options=None, echo=print, **choice) -> int:
    """Compare backbones on the images of a folder or table in `report/<name>/`; arguments of `prepare`; exit code."""
    return build(prepare(folder, models, options=options, echo=echo, **choice), options=options, echo=echo)


def prepare(
    folder: str | Path, models: Sequence[str] = (), *, depth: str = "standard", everything: bool = False,
    name: str = "", options: dict | None = None, echo: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Say what there is and how long it takes, probe every candidate on all images, and write the profile of the rest.

    Args:
        folder: As the reader `own` takes it: class folders, splits above them, a CSV or Parquet table.
        models: `timm:NAME`, `open_clip:NAME/TAG`, `PROFILE:MODEL`, or candidates of `assets/candidates.yaml` (default:
            all of those whose weights can be had).
        depth: How many images are corrupted and transformed: `quick`, `standard` or `full`.
        everything: Take candidates that are clearly behind to all stages, too.
        name: Of the report; the folder's by default.
        options: Of the inference: `device`, `batch_size`, `engine`.
        echo: Told what happens, line by line.

    Raises:
        InputError: Among others where the profile of that name was edited since it was written.
    """
    if depth not in DEPTHS:
        raise InputError(unknown("depth", depth, DEPTHS))
    path = expanded(folder).resolve()
    if not path.exists():
        raise InputError(f"{folder}: there is no such folder or table")
    target = report_dir(report_name(path, name)) / "profile.yaml"
    if edited(target):
        run = f"run `beyond-accuracy report --profile {target}`, or give --name for another report"
        raise InputError(f"{target} was edited since it was written: {run}")
    candidates, imports = chosen(models, echo)
    stay_offline_without_network([candidate.spec for candidate in candidates])
    content = draft(path, [c.spec for c in candidates], imports, depth, name)
    profile = parse_profile(content, path)
    data = load_dataset(profile.datasets["images"])
    for line in described(data, candidates):
        echo(line)
    outputs = Outputs(profile, Store(), options or {})
    echo(estimate(outputs, len(data), depth))
    file = target.with_name("alike.csv")
    if len(pairs := alike(outputs)):
        write_atomically(file, pairs.to_csv(index=False).encode())
        LOADED.clear()  # sets are read once per process, and this file may have been another
        for dataset in content["datasets"].values():
            dataset["options"] = {**dataset.get("options", {}), "alike": str(file)}
        outputs = Outputs(parse_profile(content, path), Store(), options or {})
        found = verdicts.counted(len(pairs), "pair")
        echo(f"  {found} that every candidate finds as alike as an image and its own edit: {file}")
    runs = outputs.predictions("images", ["none"])["none"]
    for model, run in runs.items():
        echo(f"  {profile.models[model].label}: {100 * run.correct.mean():.1f} % right")
    if not everything and (dropped := behind(runs, tidy.units_of(runs))):
        kept = [model for model in runs if model not in dropped]
        for page in ("robustness", "invariance"):
            content["dimensions"][page]["models"] = kept
        content["dimensions"]["own_images"]["dropped"] = dropped
        for model, why in dropped.items():
            echo(f"  {profile.models[model].label}: not taken to corruptions and transforms ({why}); --all keeps it")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(target, (HEADER.format(path=target, digest=_digest(text)) + text).encode())
    if not len(pairs):
        file.unlink(missing_ok=True)  # of an earlier run
    return target


def edited(profile: Path) -> bool:
    """Whether somebody has changed a profile since `prepare` wrote it."""
    if not profile.is_file():
        return False
    digest, _, text = profile.read_text(encoding="utf-8").partition(DIGEST)[2].partition("\n")
    return _digest(text) != digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chosen(models: Sequence[str], echo: Callable[[str], None] = print) -> tuple[list[Candidate], list[str]]:
    """Candidates by name, and the modules that their architectures need; without names all that can be had here."""
    shipped = yaml.safe_load((ASSETS / "candidates.yaml").read_text(encoding="utf-8"))
    found, imports = [], []
    for text in models or shipped:
        known, source, rest = shipped.get(text), *text.partition(":")[::2]
        if known:
            about = {key: known[key] for key in ("size", "side", "licence")}
            rest = {("id" if key == "name" else key): value for key, value in known.items() if key not in about}
            found.append(Candidate(ModelSpec(text, head="probe", **rest), **about))
        elif source in available_profiles():
            profile = load_profile(source)
            if rest not in profile.models:
                raise InputError(f"profile {source}: {unknown('model', rest, profile.models)}")
            found.append(Candidate(replace(profile.models[rest], head="probe")))
            imports += [module for module in profile.imports if module not in imports]
        else:
            found.append(Candidate(replace(typed_model(text, shipped), head="probe")))
    names = [candidate.spec.name for candidate in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"--models: {min(twice)} is named twice")
    if models:
        return found, imports
    offline = any(may_need_hub(c.spec) for c in found) and not hub_reachable()
    here = [c for c in found if not offline or locate(c.spec).path is not None]
    for candidate in [c for c in found if c not in here]:
        echo(f"left out, its weights are not here and the hub cannot be reached: {candidate.spec.label}")
    if not here:
        shipped = "what is shipped (mini:vit_sup mini:convnext_sup)"
        raise DataMissing(f"no candidate's weights can be had here; give --models files (timm:NAME=FILE) or {shipped}")
    return here, imports


def draft(path: Path, specs: Sequence[ModelSpec], imports: Sequence[str], depth: str, name: str = "") -> dict:
    """The profile of a comparison, as its YAML holds it."""
    name = report_name(path, name)
    base = {"reader": "own", "path": str(path), "classes": "", "title": path.stem}
    splits = set(load_dataset(parse_profile({"datasets": {name: base}}, path).datasets[name]).metadata["split"]) - {""}
    asked = next((split for split in ("test", "val") if split in splits and "train" in splits), "")
    fit = {"split": "train" if asked == "val" else "fit"}
    corrupted, transformed = DEPTHS[depth]
    options = {"fit": "training", "split": asked} if asked else {}
    datasets = {"images": base | {"options": {**options, "thumbnails": True}}}
    if asked:
        datasets["training"] = base | {"title": f"{path.stem}, training images", "options": fit}
    for key, limit in (("corrupted", corrupted), ("transformed", transformed)):
        home = options or {"fit": "images"}
        datasets[key] = base | {"title": f"{path.stem}, some {key}", "limit": limit, "options": home}
    models = {}
    for spec in specs:
        more = {key: value for key, value in asdict(spec).items() if value and key not in ("name", "source", "id")}
        models[spec.name] = {"source": spec.source, "name": spec.id, **more}
    about = f"Backbones compared on {path.stem}: each with a head fitted to its frozen features."
    head = {"name": name, "title": path.stem, "description": about, "imports": list(imports)}
    dimensions = {
        "own_images": {"clean": "images"} | ({"training": "training"} if asked else {}),
        "models": {"clean": "images"},
        "calibration": {"clean": "images", "shifted": []},
        "robustness": {"clean": "images", "corrupt": "corrupted"},
        "invariance": {"clean": "transformed"},
    }
    return head | {"settings": {"resamples": 1000}, "models": models, "datasets": datasets, "dimensions": dimensions}


def report_name(path: str | Path, name: str = "") -> str:
    """Name of the report on a folder: its own, in words that serve as a folder, and never that of a shipped profile."""
    name = re.sub(r"[^\w-]+", "-", name or Path(path).resolve().stem).strip("-_")[:60].lower() or "images"
    return f"{name}-images" if name in available_profiles() else name


def described(data: ImageDataset, candidates: Sequence[Candidate]) -> list[str]:
    """What there is: images, classes, what was passed over and handled, and the candidates."""
    about, sizes = data.metadata, pd.Series(data.targets).value_counts()
    said = f"{data.title}: {len(data):,} images, {len(sizes)} classes ({sizes.min():,} to {sizes.max():,} images each)"
    lines = [said + (f", {about['group'].nunique():,} groups" if "group" in about else "")]
    if repeats := int((about["near"] != "").sum()):
        lines.append(f"  near-duplicates of another image: {repeats:,}; they are kept on one side of every split")
    for what, verb in (("passed", "left out"), ("odd", "handled")):
        kinds = about.attrs.get(what, {})
        lines += [f"  {verb}: {count:,} x {kind}" for kind, count in list(kinds.items())[:8]]
        lines += [f"  {verb}: {len(kinds) - 8} more kinds or files"] * (len(kinds) > 8)
    known = [(c, f" ({c.size:g} M parameters, {c.side} px, weights {c.licence})" if c.size else "") for c in candidates]
    return [*lines, "candidates:", *(f"  {c.spec.label}: {c.spec.source} {c.spec.id}{more}" for c, more in known)]


def estimate(outputs: Outputs, images: int, depth: str) -> str:
    """How long it will take here, from one timed batch of every network."""
    from beyond_accuracy.dimensions.overview import images_per_second
    from beyond_accuracy.inference.run import pick_device

    profile, device = outputs.profile, pick_device(outputs.device)
    pace = 0.0  # seconds that one image costs, all models together
    for spec in profile.models.values():
        model = model_for(outputs.card(spec), profile.settings, profile.imports).to(device)
        tower = model.network.visual if model.is_clip else model.network
        pace += 1 / images_per_second([(tower, model.geometry.crop)], 0.0, batch=4)[0]
    corrupted, transformed = (min(images, n) for n in DEPTHS[depth])
    kinds = sum(len(transforms.ladder(kind)) for kind in transforms.LADDERS)
    later = corrupted * 5 * len(corruptions.NAMES) + transformed * kinds
    pages = SECONDS * len(profile.dimensions) / 60
    plain = images + min(images, EDITED) * len(EDITS)
    first, second = plain * pace / 60, later * (pace + 0.01) / 60  # a corruption costs about 10 ms of its own
    parts = f"features {_minutes(first)}, corruptions and transforms {_minutes(second)}, pages {_minutes(pages)}"
    return f"about {_minutes(first + second + pages)} on this machine ({parts}); what is stored is not run again"


def _minutes(value: float) -> str:
    return f"{value:.0f} min" if value >= 1.5 else f"{60 * value:.0f} s"


def alike(outputs: Outputs) -> pd.DataFrame:
    """Pairs of images, `image` and `repeats`, by `own.alike` of all candidates' features.

    None where they would join so much that some class has too few images apart to fit heads to.
    """
    sets = [outputs.data(name) for name in ("training", "images") if name in outputs.profile.datasets]
    specs, names = list(outputs.profile.models.values()), np.concatenate([data.ids for data in sets])
    targets, places = np.concatenate([data.targets for data in sets]), [evenly(len(data), EDITED) for data in sets]
    found = [
        outputs.extracted(specs, data, ["none"]) | outputs.extracted(specs, data.take(rows), EDITS)
        for data, rows in zip(sets, places, strict=True)
    ]
    known = [s for s in specs if all((text, s.name) in part for part in found for text in ("none", *EDITS))]
    if not known:
        return pd.DataFrame(columns=["image", "repeats"])

    def features(text: str, spec: ModelSpec) -> NDArray:
        runs = [part[text, spec.name] for part in found]
        return np.concatenate([np.asarray(run.array(f"features-{run.layers()[0]}"), np.float32) for run in runs])

    whole = [features("none", spec) for spec in known]
    edited = [[features(text, spec) for text in EDITS] for spec in known]
    starts = np.cumsum([0, *map(len, sets[:-1])])
    rows = np.concatenate([rows + start for rows, start in zip(places, starts, strict=True)])
    first, second = own.alike(whole, edited, rows, targets).T
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(names),) * 2)
    unit = connected_components(links, directed=False)[1]
    apart = pd.DataFrame({"class": targets, "unit": unit}).groupby("class")["unit"].agg(["nunique", "size"])
    if (apart["nunique"] < (apart["size"] / 2).clip(upper=heads.FOLDS)).any():
        first = second = first[:0]
    return pd.DataFrame({"image": names[first], "repeats": names[second]})


def behind(runs: own.Runs, units: NDArray | None, points: float = BEHIND) -> dict[str, str]:
    """Models told from the best by at least some points on the same images, and why; two always stay."""
    right = {model: run.correct for model, run in runs.items()}
    judged = verdicts.judge(tidy.accuracy_pairs(right, units=units).assign(family="main"))
    ordered, found = sorted(right, key=lambda model: -right[model].mean()), {}
    for model in ordered[2:]:
        row = verdicts.between(judged, ordered[0], model)
        if row["verdict"] != verdicts.OPEN and row["difference"] >= points:
            found[model] = f"{row['difference']:.1f} points behind [{row['ci_low']:.1f}, {row['ci_high']:.1f}]"
    return found
