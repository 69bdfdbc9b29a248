"""Files: written whole or not at all, and stamped by names, sizes and a sample of the content, never times.

A copy of the data on another disk or machine has other times and the same content; its predictions are found again.
Reading hundreds of gigabytes to be sure of every byte would take longer than many a run, so of large sets a fixed
sample is read. What that cannot notice (docs/store.md): a file replaced by one of the same name and size that is not
in the sample.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from beyond_accuracy.base.errors import InputError

WHOLE = 64 * 2**20  # files, or sets of files, up to this size are read whole
SAMPLED_FILES = 64
BLOCKS = 16
BLOCK = 64 * 2**10


def file_stamp(path: Path) -> str:
    """Name-independent stamp of one file: a hash of the content, above 64 MB of its size and of blocks of it."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size <= WHOLE else sampled_stamp(path)


def sampled_stamp(path: Path) -> str:
    """Name-independent stamp of one file: its size and 16 blocks of 64 KB, the first and the last among them."""
    import numpy as np  # here: `beyond-accuracy list` reads a profile, and should not wait for it

    size = path.stat().st_size
    stamp = hashlib.sha256(f"{size}\n".encode())
    starts = np.linspace(0, size - BLOCK, BLOCKS).astype(int).tolist() if size > BLOCKS * BLOCK else [0]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            stamp.update(file.read(BLOCK if len(starts) > 1 else -1))
    return stamp.hexdigest()


def folder_stamp(root: Path, names: Sequence[str], sizes: Sequence[int]) -> str:
    """Stamp of files below `root`: names, sizes, and the content of up to 64 (of all, in sets up to 64 MB).

    A file that cannot be read counts as such here; whoever needs it says so.
    """
    import numpy as np

    stamp = hashlib.sha256()
    for name, size in zip(names, sizes, strict=True):
        stamp.update(f"{name}\t{size}\n".encode(errors="surrogateescape"))
    if sum(sizes) > WHOLE:
        chosen = np.linspace(0, len(names) - 1, min(SAMPLED_FILES, len(names))).round().astype(int)
        names = [names[position] for position in np.unique(chosen)]
    for name in names:
        try:
            stamp.update(sampled_stamp(root / name).encode())
        except OSError:
            stamp.update(b"unreadable\n")
    return stamp.hexdigest()


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write through a temporary file in the same folder, then rename: never a half-written file under `path`."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{os.urandom(4).hex()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """`atomic_write` of known content; a file that holds it already is left alone."""
    path = Path(path)
    if not path.is_file() or path.read_bytes() != content:
        atomic_write(path, lambda temporary: temporary.write_bytes(content))


@contextmanager
def locked(path: Path, doing: str) -> Iterator[bool]:
    """Held while what the lock file stands for is written; another run waits and says so: "another run is {doing}".

    False where the file system has no locks: what two runs do at once there is up to the caller.
    """
    from filelock import FileLock, Timeout  # here: reading a profile takes less time than this import

    lock, held = FileLock(path), True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(f"another run is {doing}; waiting for it", file=sys.stderr)
            lock.acquire()
    except NotImplementedError:
        held = False
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise cannot_write(path, error) from error
        held = False
    try:
        yield held
    finally:
        lock.release()


def read_json(path: Path) -> dict:
    """A mapping from a JSON file; empty where the file is absent, damaged or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def free_bytes(folder: Path) -> int:
    """Free room on the disk of a folder that need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cannot_write(path: Path, error: OSError) -> InputError:
    """What to say of a disk that is full or read-only."""
    return InputError(
        f"cannot write {path} ({error.strerror or error}); free some space, or choose another folder (of the store: "
        "--cache-dir). What was written before is kept, and a rerun continues from it"
    )
