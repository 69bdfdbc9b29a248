"""Files, written whole or not at all; stamps of them by names, sizes and content, never times; digests of code.

Predictions of a copy of the data are found again. Sets up to 16 GB are read whole, once: the stamp is kept for as long
as no file's `stat_of` changes. Of larger ones a fixed sample is read; what that cannot notice: docs/store.md.
Digests are of what code says: numbers of older code are computed anew, and no others. Comments, docstrings,
annotations, messages of errors and layout move no number and do not count.
"""

import ast
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import cache_dir

MOST = 16 * 10**9  # files, or sets of files, up to this size are read whole
KEPT = 64 * 2**20  # stamps of less are not kept: reading it again is as fast
OPENING = 64 * 2**10  # bytes that are read in the time that opening a file takes
READERS = 8
SAMPLED_FILES = 64
BLOCKS = 16
BLOCK = 64 * 2**10
SAMPLED: set[Path] = set()  # folders and files of this process of which only a sample was read
PACKAGE = Path(__file__).parents[1]
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def file_stamp(path: Path) -> str:
    """Name-independent stamp of one file: a hash of the content, above 16 GB of its size and of blocks of it."""
    size = path.stat().st_size
    if size > MOST:
        return sampled_stamp(path)
    state = hashlib.sha256(f"{path.absolute()}\n{stat_of(path)}".encode(errors="surrogateescape")).hexdigest()
    return _kept(state, size, lambda: content_hash(path))


def content_hash(path: Path, kind: str = "sha256") -> str:
    """Hash of a whole file."""
    found = hashlib.new(kind)
    with open(path, "rb", buffering=0) as file:  # `hashlib.file_digest` takes three times as long on small files
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


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

    def contents(names: Sequence[str]) -> list[str]:
        return [content(root / name) for name in names]

    def content(path: Path) -> str:
        try:
            return (sampled_stamp if total > MOST else content_hash)(path)
        except OSError:
            return "unreadable"

    def make() -> str:
        stamp = hashlib.sha256()
        for name, size in zip(names, sizes, strict=True):
            stamp.update(f"{name}\t{size}\n".encode(errors="surrogateescape"))
        with ThreadPoolExecutor(READERS) as readers:  # hashing and waiting for a disk leave the interpreter free
            # by the hundred: handing over one small file takes longer than reading it
            for found in readers.map(contents, (chosen[at : at + 100] for at in range(0, len(chosen), 100))):
                stamp.update("".join(found).encode())
        return stamp.hexdigest()

    return _kept(state, total + OPENING * len(chosen), make)


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
def locked(path: Path, doing: str, wait: bool = True) -> Iterator[bool]:
    """Held while what the lock file stands for is written; another run waits and says so: "another run is {doing}".

    False where the file system has no locks: what two runs do at once there is up to the caller. Without `wait` the
    other run raises DataMissing.
    """
    from filelock import FileLock, Timeout  # here: reading a profile takes less time than this import

    lock, held = FileLock(path, fallback_to_soft=False), True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            if not wait:
                raise DataMissing(f"another run is {doing}; wait for it") from None
            print(f"another run is {doing}; waiting for it", file=sys.stderr)
            lock.acquire()
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
        f"cannot write {path} ({error.strerror or error}); free some space, or choose another folder (of data: "
        "--data-dir; of the store: --cache-dir; of reports: BEYOND_ACCURACY_ROOT). What is there is kept, and a rerun "
        "continues from it"
    )


# Digests of code -----------------------------------------------------------------------------------------------------


@lru_cache
def code_digest(*places: str) -> str:
    """Of functions and classes of this package, and whatever of their own files they use.

    Places: `data/geometry.py:Geometry`, `inference/run.py:_Pass._try`.
    """
    texts = []
    for place in places:
        file, _, name = place.partition(":")
        texts.append(code_closure((PACKAGE / file).read_text(encoding="utf-8"), name))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]


@lru_cache
def code_closure(source: str, name: str) -> str:
    """The text of one definition of a module and of all that it uses there; KeyError where there is none."""
    known = _defined(source)
    outer, _, inner = name.partition(".")
    first = known[outer]
    if inner:
        first = next((node for node in first.body if getattr(node, "name", "") == inner), None) or known[name]
    found, todo = {name: ast.unparse(first)}, _names_in(first)
    while todo:
        used = todo.pop()
        if used in known and used not in found:
            found[used] = ast.unparse(known[used])
            todo |= _names_in(known[used])
    return "\n".join(found[used] for used in sorted(found))


@lru_cache  # one file answers for many definitions
def _defined(source: str) -> dict[str, ast.AST]:
    return dict(_definitions(_Bare().visit(ast.parse(source))))


@lru_cache
def modules_digest(names: tuple[str, ...]) -> str:
    """Of modules and of those they import, without installed libraries; once per process, as Python imports them."""
    texts, todo, own = {}, list(names), {name.partition(".")[0] for name in names}
    while todo:
        name = todo.pop()
        if name in texts or (file := _module_file(name, name.partition(".")[0] in own)) is None:
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError):
            continue  # importing it will say what is wrong
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo += [other for node in ast.walk(tree) for other in _imported(node, package)]
        texts[name] = ast.unparse(_Bare().visit(tree))
    return hashlib.sha256("\n".join(f"{name}\n{texts[name]}" for name in sorted(texts)).encode()).hexdigest()[:24]


class _Bare(ast.NodeTransformer):
    """Drops what moves no number."""

    def _body(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if hasattr(node, "returns"):
            node.returns = None
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _body

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_Raise(self, node):
        return ast.Raise()


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            yield from ((part.id, node) for part in parts)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                one = ast.Import([ast.alias(f"{getattr(node, 'module', '')}.{alias.name}", alias.asname)])
                yield (alias.asname or alias.name).partition(".")[0], one


def _names_in(node: ast.AST) -> set[str]:
    """Names used in a node; texts count as well, as a table of functions may be looked up by them."""
    texts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return texts | {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*parents, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _module_file(name: str, own: bool) -> Path | None:
    """Source file of a module; None for libraries, this package, and what is no module. Imports parents of `own`."""
    top = name.partition(".")[0]
    try:
        found = importlib.util.find_spec(top)
        places = [found.origin or "", *(found.submodule_search_locations or ())]
        if not own and (top == PACKAGE.name or not any(map(Path.exists, map(Path, filter(None, places))))):
            return None
        if not own and any(place.startswith(LIBRARIES) for place in places):
            return None
        origin = importlib.util.find_spec(name).origin
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(origin) if origin and origin.endswith(".py") else None
