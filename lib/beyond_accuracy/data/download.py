"""Where datasets come from (`assets/sources.yaml`), and downloads that resume, verify and unpack with distrust."""

import bz2
import errno
import gzip
import json
import lzma
import math
import os
import shutil
import socket
import stat
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
import urllib3
import yaml
from tqdm import tqdm

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import content_hash, read_json
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import DatasetSpec, Profile, available_profiles

PROBE_SECONDS = 3.0  # for the hub to answer
ATTEMPTS = 6
PATIENCE = 300.0  # seconds that a busy server may ask to wait before the user is asked to come back
SHARD_GIGABYTES = 0.5  # what the hub's writer puts into one Parquet file
CHUNK_BYTES = 2**16  # also what a broken transfer loses at most
TIMEOUT_S = (20, 60)  # to connect, between two packets
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Download:
    """One plain file: where it is, and how to tell that it arrived whole."""

    url: str
    md5: str = ""
    sha256: str = ""
    bytes: int = 0
    name: str = ""  # what it is called here; empty = as in the address

    def at(self, folder: Path) -> Path:
        """Where it lies in a folder."""
        return folder / (self.name or self.url.rsplit("/", 1)[-1])


@dataclass(frozen=True)
class Hub:
    """Files of one dataset repository on the Hugging Face hub."""

    repo: str
    revision: str = ""
    files: Sequence[str] = ("*.txt", "train/*", "test/*")  # patterns
    shards: int = 0  # only so many of the files of each pattern, evenly spaced; 0 = all
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """How one dataset is got."""

    name: str  # the dataset
    gigabytes: float  # on disk when done
    transient: float = 0.0  # further gigabytes while unpacking
    about: bool = False  # whether the size is an estimate
    hub: Hub | None = None
    files: tuple[Download, ...] = ()  # plain downloads
    unpack: bool = False  # whether compressed archives are unpacked
    gated: str = ""  # page on which terms must be accepted first; empty = none
    by_hand: str = ""  # how a copy got in another way is used

    @property
    def origins(self) -> set[str]:
        """Repository and addresses of all that belongs to it."""
        return {*([self.hub.repo] if self.hub else ()), *(file.url for file in self.files)}

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
    hub = Hub(**entry["hub"]) if "hub" in entry else None
    return Source(name, **{**entry, "hub": hub, "files": tuple(Download(**file) for file in entry.get("files", ()))})


def profile_argument(profile: Profile) -> str:
    """What `--profile` takes to mean this profile."""
    return profile.name if available_profiles().get(profile.name) == profile.source else str(profile.source)


def source_of(spec: DatasetSpec) -> Source | None:
    """Where a dataset comes from: its folder's name tells, as several sets may be cuts of one, else its own name.

    With the dataset's option `shards` so many of a hub repository's shards only.
    """
    found, shards = sources().get(PurePosixPath(spec.path).name) or sources().get(spec.name), spec.options.get("shards")
    if not (found and found.hub and shards):
        return found
    size = min(found.gigabytes, shards * SHARD_GIGABYTES)
    return replace(found, hub=replace(found.hub, shards=int(shards)), gigabytes=size, about=True)


def how_to_get(name: str, profile: Profile) -> str:
    """The command, and the page to visit first, that get a dataset."""
    source = source_of(profile.datasets[name]) if name in profile.datasets else sources().get(name)
    if source is None:
        return f"no download is known for {name}; see docs/datasets.md and its path in the profile"
    first = f"accept the terms at {page}, run `hf auth login`, then " if (page := source.gated) else ""
    return f"{first}`beyond-accuracy fetch --profile {profile_argument(profile)} --only {name}`"


@lru_cache
def hub_reachable() -> bool:
    """Whether the hub answers within `PROBE_SECONDS`, asked once; behind a proxy, yes."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in ("https_proxy", "http_proxy", "all_proxy")):
        return True
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        with suppress(OSError), socket.create_connection((endpoint.hostname or "", port), timeout=PROBE_SECONDS):
            answered.set()

    # In a thread: looking up the host's name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


@contextmanager
def from_hub(repo: str, terms: str = "") -> Iterator[None]:
    """Around calls of the hub's client: what breaks there is data that is missing, told in one message.

    `terms`: the page of the repository on which its terms are accepted.
    """
    from huggingface_hub.errors import HTTPError

    if not hub_reachable():
        raise DataMissing(f"the hub cannot be reached to get {repo}; run the command again with a network")
    try:
        yield
    except (HTTPError, OSError) as error:
        raise DataMissing(
            hub_refusal(error, repo, terms)
            or f"{repo} could not be downloaded ({' '.join(str(error).split())[:200]}); what arrived is kept, run the "
            "command again to continue"
        ) from error


def hub_refusal(error: BaseException, repo: str, terms: str = "") -> str:
    """What to do about an answer of the hub that another try will not mend; empty for other errors.

    The libraries wrap the answer several times over.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(getattr(getattr(found, "response", None), "status_code", None), int):
        found = found.__cause__ or found.__context__
    response = getattr(found, "response", None)
    status, code = getattr(response, "status_code", 0), getattr(response, "headers", {}).get("X-Error-Code", "")
    if status == 429:
        return (
            f"the hub asks to wait ({status}, too many requests from here) before it gives out {repo}; run the command "
            "again in some minutes, or log in with `hf auth login`, which allows more"
        )
    if status == 404 and code in ("EntryNotFound", "RevisionNotFound"):
        path = str(response.url).partition("/resolve/")[2].partition("/")[2]
        what = path or "such revision"
        return f"{repo} has no {what} any more (404): it was renamed or removed; see docs/datasets.md for other ways"
    if status in (401, 403, 404):  # a private repository, and one that does not exist, look the same from outside
        return (
            f"the hub refuses {repo} ({status}): accept the terms at {terms or f'https://huggingface.co/{repo}'} with "
            "your account if it asks for that, run `hf auth login` (or set HF_TOKEN), then run this command again; "
            "else check the name"
        )
    return ""


class _Again(Exception):
    """The transfer broke in a way that trying again may mend: why, and the seconds that the server asks to wait."""


def download(file: Download, folder: Path, wait: Callable[[float], None] = time.sleep, most: float = math.inf) -> Path:
    """Get one file into a folder, continuing where an earlier transfer stopped (`<name>.part`), and verify it.

    More than `most` bytes are not taken, whatever the server sends.
    """
    target = file.at(folder)
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(ATTEMPTS):
        before = _size(part)
        try:
            _transfer(file, part, file.bytes or most)
            break
        except (_Again, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            why, asked = error.args if isinstance(error, _Again) else (error, 0.0)
            if attempt == ATTEMPTS - 1 or asked > PATIENCE:
                raise DataMissing(
                    f"{file.url} could not be downloaded ({' '.join(str(why).split())[:200]}); {_size(part):,} bytes "
                    "are kept, run the command again to continue"
                ) from error
            wait(max(asked, 1.0 if _size(part) > before else 2.0**attempt))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError(f"{part}: the disk is full; make room and run the command again to continue") from None
            raise
    verify(file, part)
    os.replace(part, target)
    _stamp_of(part).unlink(missing_ok=True)
    return target


def _transfer(file: Download, part: Path, most: float) -> None:
    """One request: from the start, or from where the part ends if the file on the server is still the same one."""
    known = read_json(_stamp_of(part))
    start = _size(part) if known.get("url") == file.url and known.get("stamp") else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(known["stamp"])}
    with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        status = response.status_code
        if status in RETRY_STATUS:
            raise _Again(f"the server answers {status} {response.reason}", _retry_after(response))
        if status == 416 and start == _total(response):
            return
        if status in (401, 403):
            raise DataMissing(
                f"{file.url}: the server refuses ({status} {response.reason}); it may need a login or accepted terms, "
                "or block automatic downloads: get the file with a browser and put it into the folder"
            )
        if status not in (200, 206):
            raise DataMissing(f"{file.url}: the server answers {status} {response.reason}; the file may have moved")
        if status == 200:
            start = 0  # no resuming here, or another file than last time
        elif int(response.headers.get("Content-Range", "bytes 0-").split()[1].split("-")[0]) != start:
            raise _Again("the server sent another range than asked for", 0.0)
        # Some servers compress whatever is asked for: their length is that of what travels. Others say so of any .gz.
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        decode = encoded and not file.url.endswith((".gz", ".tgz"))
        total = 0 if decode else _total(response)
        if file.bytes and total and total != file.bytes:
            raise InputError(f"{file.url}: the server offers {total:,} bytes, expected {file.bytes:,}; it was replaced")
        if total > most:
            raise InputError(f"{file.url}: the server offers {total:,} bytes, expected at most {most:,.0f}; not taken")
        etag = response.headers.get("ETag", "")
        stamp = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        stamp = "" if decode else stamp
        _stamp_of(part).write_text(json.dumps({"url": file.url, "stamp": stamp}), encoding="utf-8")
        with (
            open(part, "ab" if start else "wb") as out,
            tqdm(total=total or None, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            for block in response.raw.stream(CHUNK_BYTES, decode_content=decode):
                if out.tell() + len(block) > most:
                    out.truncate(0)
                    raise InputError(f"{file.url}: the server sends more than {most:,.0f} bytes; nothing was kept")
                out.write(block)
                bar.update(len(block))
        if total and _size(part) != total:
            raise _Again(f"the transfer ended after {_size(part):,} of {total:,} bytes", 0.0)


def _retry_after(response: requests.Response) -> float:
    """Seconds that a busy server asks to wait, given as a number or a date; 0 = it does not say."""
    with suppress(urllib3.exceptions.InvalidHeader):
        return float(urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "")))
    return 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _stamp_of(part: Path) -> Path:
    """Of which file on the server a part is: its address and what the server names this version."""
    return part.with_name(f"{part.name}.json")


def _total(response: requests.Response) -> int:
    """Length of the whole file as the server states it; 0 = unknown."""
    text = response.headers.get("Content-Range", response.headers.get("Content-Length", "")).rsplit("/", 1)[-1]
    return int(text) if text.isdigit() else 0


def verify(file: Download, path: Path) -> None:
    """Compare a downloaded file with its size and checksums; a wrong one is removed."""
    size = path.stat().st_size
    wrong = f"{size:,} bytes, expected {file.bytes:,}" if file.bytes and size != file.bytes else ""
    for kind in ("md5", "sha256"):
        expected = getattr(file, kind)
        if expected and not wrong and (found := content_hash(path, kind)) != expected:
            wrong = f"{kind} {found}, expected {expected}"
    if wrong:
        path.unlink()
        _stamp_of(path).unlink(missing_ok=True)
        raise InputError(f"{file.url}: the downloaded file has {wrong}; it was removed, run the command again")


# Archives ------------------------------------------------------------------------------------------------------------

ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")  # unpacked; plain .tar archives are read in place
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_DAMAGED += (EOFError, ValueError, RuntimeError, OSError)
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive, whole or not at all and only below `folder`.

    Paths and links that lead out, and device files are refused. A .tar.gz that is not compressed is unpacked too.
    """
    staging = folder / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        (_unzip if archive.name.endswith(".zip") else _untar)(archive, staging)
        for path in list(staging.iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    except _DAMAGED as error:
        full = getattr(error, "errno", None) == errno.ENOSPC
        why = "the disk is full; make room and run again" if full else f"{error}; nothing of it was kept"
        raise InputError(f"{archive} was not unpacked: {why}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _untar(archive: Path, folder: Path) -> None:
    with open(archive, "rb") as head:
        magic = head.read(6)
    opener = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), open)
    with opener(archive, "rb") as content:
        with tarfile.open(fileobj=content, mode="r|") as members:
            members.extractall(folder, filter="data")
        while content.read(CHUNK_BYTES):
            pass  # to the very end, where gzip keeps the checksum of it all, which tarfile never reads


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as members:
        for info in members.infolist():
            path = PurePosixPath(info.filename.replace("\\", "/"))
            kind = stat.S_IFMT(info.external_attr >> 16)
            if path.is_absolute() or ".." in path.parts or ":" in info.filename:
                raise ValueError(f"member {info.filename!r} leads out of the folder")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"member {info.filename!r} is a link or device")
        members.extractall(folder)
