"""Files: written whole or not at all, and stamped by names, sizes and content, never times.

Predictions of a copy of the data are found again. Sets up to 16 GB are read whole, once: the stamp is kept for as long
as no file's `stat_of` changes. Of larger ones a fixed sample is read; what that cannot notice: docs/store.md.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import cache_dir

MOST = 16 * 10**9  # files, or sets of files, up to this size are read whole
KEPT = 64 * 2**20  # stamps of less are not kept: reading it again is as fast
READERS = 8
SAMPLED_FILES = 64
BLOCKS = 16
BLOCK = 64 * 2**10
SAMPLED: set[Path] = set()  # folders and files of this process of which only a sample was read


def file_stamp(path: Path) -> str:
    """Name-independent stamp of one file: a hash of the content, above 16 GB of its size and of blocks of it."""
    size = path.stat().st_size
    if size > MOST:
        return sampled_stamp(path)
    state = hashlib.sha256(f"{path.absolute()}\n{stat_of(path)}".encode(errors="surrogateescape")).hexdigest()
    return _kept(state, size, lambda: content_hash(path))


def content_hash(path: Path, kind: str = "sha256") -> str:
    """Hash of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _kept(state: str, size: int, make: Callable[[], str]) -> str:
    """A stamp of files in a state, from the cache folder or made (and kept there)."""
    kept = cache_dir() / "stamps" / state
    if size <= KEPT:
        return make()
    with suppress(OSError, ValueError):
        if len(stamp := kept.read_text(encoding="ascii")) == 64:
            return stamp
    stamp = make()
    with suppress(InputError):  # a read-only or full cache folder only costs the time of reading again
        write_atomically(kept, stamp.encode())
    return stamp


def sampled_stamp(path: Path) -> str:
    """Name-independent stamp of one file: its size and 16 blocks of 64 KB, the first and the last among them."""
    import numpy as np  # here: `beyond-accuracy list` reads a profile, and should not wait for it

    SAMPLED.add(path)
    size = path.stat().st_size
    stamp = hashlib.sha256(f"{size}\n".encode())
    starts = np.linspace(0, size - BLOCK, BLOCKS).astype(int).tolist() if size > BLOCKS * BLOCK else [0]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            stamp.update(file.read(BLOCK if len(starts) > 1 else -1))
    return stamp.hexdigest()


def folder_stamp(root: Path, names: Sequence[str], sizes: Sequence[int], state: str) -> str:
    """Stamp of files below `root`: names, sizes, and the content of all, in sets above 16 GB of 64.

    `state`: a hash of every file's `stat_of`. A file that cannot be read counts as such here; whoever needs it says so.
    """
    import numpy as np

    total, chosen = sum(sizes), names
    if total > MOST:
        SAMPLED.add(root)
        at = np.linspace(0, len(names) - 1, min(SAMPLED_FILES, len(names))).round().astype(int)
        chosen = [names[position] for position in np.unique(at)]

    def content(name: str) -> str:
        try:
            return (sampled_stamp if total > MOST else content_hash)(root / name)
        except OSError:
            return "unreadable"

    def make() -> str:
        stamp = hashlib.sha256()
        for name, size in zip(names, sizes, strict=True):
            stamp.update(f"{name}\t{size}\n".encode(errors="surrogateescape"))
        with ThreadPoolExecutor(READERS) as readers:  # hashing and waiting for a disk leave the interpreter free
            for each in readers.map(content, chosen):
                stamp.update(each.encode())
        return stamp.hexdigest()

    return _kept(state, total, make)


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


def stat_of(path: Path | os.DirEntry) -> list[int]:
    """What changes whenever a file is written or replaced, also by one of the same size and time (ctime tells)."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def checksum(path: Path) -> str:
    """CRC-32 of a file: tells damage, at a gigabyte a second."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def save_arrays(path: Path, arrays: Mapping) -> None:
    """Keep named arrays as .npz with a seal over the file's name and their content; read with `load_arrays`."""
    import numpy as np

    found = {name: np.asarray(values) for name, values in arrays.items()}
    atomic_write(path, lambda temporary: np.savez_compressed(temporary, **found, seal=_seal(path, found)))


def load_arrays(path: Path) -> dict | None:
    """Arrays kept under this name; None where they are absent, damaged, or were kept under another."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
        return found if int(found.pop("seal")) == _seal(path, found) else None
    except OSError as error:
        if unreadable := cannot_read(path, error):
            raise unreadable from error
    except Exception:  # numpy and zipfile raise a dozen kinds on damaged bytes
        pass
    return None


def _seal(path: Path, arrays: Mapping) -> int:
    crc = zlib.crc32(path.stem.encode())
    for name, values in sorted(arrays.items()):
        crc = zlib.crc32(values.tobytes(), zlib.crc32(f"{name} {values.dtype.str} {values.shape}".encode(), crc))
    return crc


def free_bytes(folder: Path) -> int:
    """Free room on the disk of a folder that need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cannot_read(path: Path, error: OSError) -> InputError | None:
    """What to say where the machine and not the file is at fault (limits, rights); None where the file may be."""
    cures = dict.fromkeys((errno.ENOMEM, errno.EIO, errno.ESTALE), "look after memory, disk or network, and run again")
    cures |= dict.fromkeys((errno.EACCES, errno.EPERM), "ask its owner for the right to read it")
    few = "raise the limit (`ulimit -n 4096`), or take fewer models at once"
    if (cure := (cures | dict.fromkeys((errno.EMFILE, errno.ENFILE), few)).get(error.errno)) is None:
        return None
    return InputError(f"cannot read {path} ({os.strerror(error.errno)}); {cure}; the file is not at fault")


def cannot_write(path: Path, error: OSError) -> InputError:
    """What to say of a disk that is full or read-only."""
    return InputError(
        f"cannot write {path} ({error.strerror or error}); free some space, or choose another folder (of the store: "
        "--cache-dir; of reports: BEYOND_ACCURACY_ROOT). What was written before is kept, and a rerun continues from it"
    )
