"""Parts handed over through object storage, where the machines that compute share no file system (fsspec).

The store itself needs a file system: it renames, locks and memory-maps. Its parts do not. A machine elsewhere writes
each part under `URL/<key>/`, the one that holds the store fetches it from there, merges, and clears up. What a killed
run left there is fetched by the next.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import atomic_write
from beyond_accuracy.inference.jobs import Job, Todo, jobs_of
from beyond_accuracy.inference.store import Entry, Range, part_ranges


@dataclass(frozen=True)
class ExchangedEntry(Entry):
    """An entry whose parts lie under a URL; `folder` is scratch space of this machine."""

    url: str

    @property
    def complete(self) -> bool:
        """Never: it is merged where the store is."""
        return False

    def parts(self) -> list[Range]:
        """The parts under the URL."""
        with _reached(self.url) as (files, root):
            folder = f"{root}/{self.key}"
            files.invalidate_cache()
            if not files.exists(folder):
                return []
            found = {path.rsplit("/", 1)[-1] for path in files.ls(folder, detail=False)}
        return part_ranges(found)

    def write_part(self, rows: Range, frame: pd.DataFrame, arrays: dict[str, np.ndarray]) -> None:
        """Write one part and hand it over whole: under another name first, since not every storage is atomic."""
        super().write_part(rows, frame, arrays)
        part = self.part(rows)
        with _reached(self.url) as (files, root):
            target = f"{root}/{self.key}/{part.name}"
            temporary = f"{root}/{self.key}/.tmp-{os.urandom(4).hex()}"
            files.makedirs(f"{root}/{self.key}", exist_ok=True)
            files.put_file(str(part), temporary)
            files.mv(temporary, target)
        part.unlink()


def elsewhere(todo: Todo, url: str, scratch: Path) -> Todo:
    """The same jobs, with entries that hand their parts over."""
    moved = {job.entry.key: _moved(job, url, scratch) for job in jobs_of(todo)}
    return {rows: [moved[job.entry.key] for job in wanted] for rows, wanted in todo.items()}


def collect(todo: Todo, url: str) -> None:
    """Fetch what has been handed over of these parts and is not in the store."""
    for job in jobs_of(todo):
        gaps = job.entry.missing([rows for rows, wanted in todo.items() if job in wanted])
        for start, stop in _moved(job, url, job.entry.folder).entry.parts() if gaps else ():
            if any(start < b and a < stop for a, b in gaps):
                part = job.entry.part((start, stop))
                with _reached(url) as (files, root):
                    source = f"{root}/{job.entry.key}/{part.name}"
                    atomic_write(part, lambda path, f=files, s=source: f.get_file(s, str(path)))


def clear(todo: Todo, url: str) -> None:
    """Remove the jobs' parts from the storage; the store has them."""
    for job in jobs_of(todo):
        with _reached(url) as (files, root):
            if files.exists(folder := f"{root}/{job.entry.key}"):
                files.rm(folder, recursive=True)


def _moved(job: Job, url: str, scratch: Path) -> Job:
    return replace(job, entry=ExchangedEntry(scratch / job.entry.key, job.entry.meta, url))


@contextmanager
def _reached(url: str) -> Iterator[tuple]:
    """File system and folder behind a URL; every backend has errors of its own, told as one."""
    import fsspec

    try:
        files, root = fsspec.url_to_fs(url)
        yield files, root.rstrip("/")
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"settings.exchange: {url} cannot be used ({text})") from error
