"""`beyond-accuracy fetch`: downloads what may be downloaded and says how to get the rest."""

import fnmatch
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import cannot_write, content_hash, free_bytes, locked, read_json
from beyond_accuracy.base.paths import data_dir, resolve
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, Profile, unknown
from beyond_accuracy.data import download, published
from beyond_accuracy.data.dataset import evenly
from beyond_accuracy.data.download import Download, Hub, Source, how_to_get, source_of
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.data.readers.files import count_note
from beyond_accuracy.measure.verdicts import counted

GIGABYTE = 1e9
MARGIN = 2.0  # times the size that a set is known to have is the most that is downloaded for it
RECORD = ".fetched.json"
MODELS = "models"


@dataclass(frozen=True)
class Plan:
    """What a run of `fetch` would do."""

    ready: list[DatasetSpec]  # datasets that are here and readable
    wanted: list[DatasetSpec]  # datasets to download
    by_hand: list[DatasetSpec]  # datasets that no download is known for
    models: list[ModelSpec]  # models whose weights are to be downloaded

    @property
    def transient(self) -> float:
        """The most gigabytes that unpacking one of the downloads needs on top."""
        return max((source_of(spec).transient for spec in self.wanted), default=0.0)

    @property
    def gigabytes(self) -> float:
        """Room the downloads take, unpacking included."""
        return sum(source_of(spec).gigabytes for spec in self.wanted) + self.transient


def fetch(profile: Profile, only: Sequence[str] = (), *, models=(), get_model=None, yes=False, echo=print, ask=None):
    """Download the datasets and weights of a profile; `only` names datasets, pages, or `models`.

    `get_model(spec)` gets the weights of one of `models`; `ask(question)` is asked before it starts, unless `yes`.
    Returns the exit code: 0 everything is here; 2 something arrived damaged; 3 something is still missing.
    """
    plan = make_plan(profile, only, models)
    _describe(plan, profile, echo)
    if not plan.wanted and not plan.models:
        return 3 if plan.by_hand else 0
    needed = sum(map(_remaining, plan.wanted)) + plan.transient * GIGABYTE
    if needed > (free := free_bytes(data_dir())):
        raise InputError(
            f"{data_dir()}: the downloads need about {needed / GIGABYTE:.1f} GB, {free / GIGABYTE:.1f} GB are free; "
            "choose another --data-dir, or fetch a part with --only"
        )
    if not yes and not (ask and ask("Download now? [y/N] ").strip().lower() in ("y", "yes")):
        echo("Nothing was downloaded; add --yes to start.")
        return 3
    code = 3 if plan.by_hand else 0
    for spec in (*plan.wanted, *plan.models):
        try:
            get_model(spec) if isinstance(spec, ModelSpec) else fetch_dataset(spec, source_of(spec), echo)
        except (DataMissing, InputError) as error:
            echo(f"{spec.name}: {error}")
            code = 2 if isinstance(error, InputError) else code or 3
    return code


def make_plan(profile: Profile, only: Sequence[str] = (), models: Sequence[ModelSpec] = ()) -> Plan:
    """Sort what was asked for into here, to be downloaded, and to be got by hand."""
    plan = Plan([], [], [], list(models))
    for spec in [profile.datasets[name] for name in _chosen(profile, only)]:
        if needs_data(spec) and resolve(spec.path) not in [resolve(other.path) for other in plan.wanted]:
            (plan.ready if _is_ready(spec) else plan.wanted if source_of(spec) else plan.by_hand).append(spec)
    return plan


def needs_data(spec: DatasetSpec) -> bool:
    """Whether a dataset has files of its own that a user must get (not part of a package, not a view of another)."""
    return spec.reader not in ("imagenet_real", "imagenet_labels") and not spec.path.startswith("assets:")


def _is_ready(spec: DatasetSpec) -> bool:
    """Whether it can be read, whole, and no download of it was left unfinished."""
    done = read_json(resolve(spec.path) / RECORD)
    if done and (source := source_of(spec)) and not source.origins <= done.keys():
        return False
    try:
        return not count_note(spec, len(load_dataset(replace(spec, limit=0))))
    except (DataMissing, InputError):
        return False


def _chosen(profile: Profile, only: Sequence[str]) -> list[str]:
    names = [] if only else list(profile.datasets)
    for name in only:
        if name in profile.datasets:
            names.append(name)
        elif name in profile.dimensions and name != MODELS:
            text = json.dumps(profile.dimensions[name])
            names += [dataset for dataset in profile.datasets if f'"{dataset}"' in text]
        elif name != MODELS:
            raise InputError(f"--only: {unknown('dataset or page', name, [*profile.datasets, MODELS])}")
    return list(dict.fromkeys(names))


def _describe(plan: Plan, profile: Profile, echo: Callable[[str], None]) -> None:
    echo(f"Data folder: {data_dir()}")
    for spec in plan.ready:
        echo(f"  {spec.name:22} here")
    for spec in plan.wanted:
        source = source_of(spec)
        size = f"{'about ' if source.about else ''}{source.gigabytes:g} GB"
        echo(f"  {spec.name:22} {size:14} from {source.origin}; {spec.licence or 'licence not stated'}")
        if source.gated:
            echo(f"  {'':22} needs an agreement: {how_to_get(spec.name, profile)}")
        if source.by_hand:
            echo(f"  {'':22} or: {source.by_hand}")
    for spec in plan.by_hand:
        echo(f"  {spec.name:22} no download is known: put it at {resolve(spec.path)} (docs/datasets.md)")
    sizes = {spec.name: published.weight_gigabytes(spec) for spec in plan.models}
    for spec in plan.models:
        size = f"about {sizes[spec.name]:.2g} GB" if sizes[spec.name] else "size unknown"
        echo(f"  {spec.name:22} {size:14} weights of {spec.id} {spec.pretrained}".rstrip())
    if total := sum(sizes.values()):
        unknown_sizes = sum(not size for size in sizes.values())
        more = f", and those of {counted(unknown_sizes, 'more model')}" if unknown_sizes else ""
        echo(f"Weights need about {total:.1f} GB in the hub's cache (HF_HOME){more}.")
    if plan.wanted:
        echo(f"Needs about {plan.gigabytes:.1f} GB; {free_bytes(data_dir()) / GIGABYTE:.1f} GB are free.")


def _remaining(spec: DatasetSpec) -> float:
    """Bytes still to come, given what an interrupted run left."""
    folder = resolve(spec.path)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return max(0.0, source_of(spec).gigabytes * GIGABYTE - there)


def fetch_dataset(spec: DatasetSpec, source: Source, echo: Callable[[str], None] = print) -> None:
    """Get one dataset into its folder, verified and unpacked."""
    folder = resolve(spec.path)
    try:
        with locked(folder / ".fetch.lock", f"downloading to {folder}", wait=False):
            for origin, get in _steps(source, folder, echo).items():
                echo(f"{spec.name}: downloading {origin}")
                arrived, facts = get(folder)
                for archive in arrived if source.unpack else ():
                    if archive.name.endswith(download.ARCHIVES):
                        echo(f"{spec.name}: unpacking {archive.name}")
                        download.unpack(archive, folder)
                        archive.unlink()
                # what came from where: a finished download is not started again, and provenance is kept
                facts = {key: value for key, value in facts.items() if value}
                facts["time"] = datetime.now(UTC).isoformat(timespec="seconds")
                content = json.dumps(read_json(folder / RECORD) | {origin: facts}, indent=1)
                (folder / RECORD).write_text(content + "\n", encoding="utf-8")
            echo(f"{spec.name}: done, {folder}")
    except OSError as error:
        raise cannot_write(folder, error) from error


def _steps(source: Source, folder: Path, echo: Callable[[str], None]) -> dict[str, Callable]:
    """What is still to be got, by repository or address; all, where all was here once and is not whole any more."""
    done, most = read_json(folder / RECORD), MARGIN * (source.gigabytes + source.transient) * GIGABYTE
    steps = {source.hub.repo: partial(_get_hub, source, done.get(source.hub.repo, {}), echo)} if source.hub else {}
    steps |= {file.url: partial(_get_file, file, done.get(file.url, {}), most) for file in source.files}
    return {origin: get for origin, get in steps.items() if origin not in done} or steps


def _get_hub(source: Source, before: dict, echo: Callable[[str], None], folder: Path) -> tuple[list[Path], dict]:
    hub = replace(source.hub, revision=source.hub.revision or before.get("revision", ""))  # as the first time
    revision = download_hub(hub, folder, source.gated, echo)
    for name, sha256 in source.hub.sha256.items():
        download.verify(Download(f"{source.hub.repo}/{name}", sha256=sha256), folder / name)
    return list(folder.rglob("*")), {"revision": revision}


def _get_file(file: Download, before: dict, most: float, folder: Path) -> tuple[list[Path], dict]:
    if not (file.sha256 or file.md5):  # without a published checksum, that of the first time
        file = replace(file, sha256=before.get("sha256", ""))
    if file.at(folder).is_file():
        download.verify(file, file.at(folder))  # put there by hand, or left by an interrupted run
    path = download.download(file, folder, most=most)
    sha256 = file.sha256 or content_hash(path)
    return [path], {"bytes": path.stat().st_size, "md5": file.md5, "sha256": sha256}


def download_hub(hub: Hub, folder: Path, gated: str = "", echo: Callable[[str], None] = print) -> str:
    """Get files of a dataset repository (the hub's client resumes and verifies); returns the commit they are from.

    File by file: the client's way to get a whole repository takes a folder that is there for a finished download when
    the hub refuses to list the files.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with download.from_hub(hub.repo, gated or f"https://huggingface.co/datasets/{hub.repo}"):
        about = HfApi().dataset_info(hub.repo, revision=hub.revision or None, timeout=20)
        names = wanted_files(hub, [file.rfilename for file in about.siblings or ()])
        for number, name in enumerate(names, 1):
            echo(f"  {number} of {len(names)}: {name}")
            hf_hub_download(hub.repo, name, repo_type="dataset", revision=about.sha, local_dir=folder)
        return about.sha or ""


def wanted_files(hub: Hub, there: Sequence[str]) -> list[str]:
    """The files of a repository that a source names, in order; with `shards`, only so many of each pattern.

    >>> wanted_files(Hub("a/b", files=["data/*"], shards=2), ["data/0", "data/1", "data/2", "x"])
    ['data/0', 'data/2']
    """
    found: dict[str, None] = {}
    for pattern in hub.files:
        names = sorted(fnmatch.filter(there, pattern))
        part = bool(hub.shards) and len(names) > hub.shards
        found |= dict.fromkeys([names[i] for i in evenly(len(names), hub.shards)] if part else names)
    if not found:
        raise DataMissing(
            f"{hub.repo} holds no file like {', '.join(hub.files)} any more: it was reorganised; see docs/datasets.md"
        )
    return list(found)
