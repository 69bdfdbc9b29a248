"""One's own images as people have them: class folders, splits above them, Hugging Face metadata, a table of paths.

Every image is looked at once: what cannot be decoded is left out and named, what cameras and editors do differently
(a rotation in EXIF, CMYK, 16 bits, palettes, transparency) becomes plain upright RGB, brightness and the like are
measured, and near-duplicates are found. What was found is kept in the cache folder.
"""

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import atomic_write, folder_stamp, stat_of
from beyond_accuracy.base.paths import cache_dir, resolve
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.dataset import ImageDataset, build_dataset, opened, reader, require, to_rgb
from beyond_accuracy.data.readers.files import IMAGE_SUFFIXES, pack, read_file

SUFFIXES = IMAGE_SUFFIXES | {".jpe"}
TABLES = frozenset({".csv", ".tsv", ".parquet", ".jsonl"})
DROPPINGS = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})  # and all that starts with a dot
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLITS |= {"test": "test", "testing": "test", "eval": "test"}
PATH, LABEL = ("path", "file_name", "filename", "file", "image"), ("label", "class", "category", "target")
TEMPLATES = ("a photo of a {c}.", "a photo of the {c}.", "an image of a {c}.", "a close-up photo of a {c}.")
MEASURED = ("brightness", "contrast", "sharpness", "colourfulness", "size", "aspect_ratio")
FORMAT = "1"  # of the survey: another one is made anew
SIDE = 16  # of the reduced picture by which near-duplicates are found
NO_LINKS = np.zeros((0, 2), np.int64)
ALIKE, CLOSE = 0.985, 10.0  # from this correlation, and up to this root mean square of grey levels, two images are one


@dataclass(frozen=True)
class Listing:
    """The images of a folder or table before they are looked at; one entry per image."""

    root: Path
    frame: pd.DataFrame  # `name` (path below root), `label`, `split` (may be empty), further columns of one's own
    passed: Counter  # what was passed over -> how often


@reader
def own(spec: DatasetSpec) -> ImageDataset:
    """Images of one's own with the class space of their labels.

    Options: `split`: `train`, `val`, `test` or `fit` (train and val); `label`, `group`: names of the table's columns;
    `alike`: a CSV file of pairs `image,repeats` that are near-duplicates whatever their pixels.
    Metadata: every other column of the table, `split`, `MEASURED`, `unit` (what never straddles folds: a group with all
    near-duplicates), and `near`, an image that this one nearly repeats, with `near_label`, `near_split` and `near_by`
    (pixels or features). `attrs` count what was `passed` over and what is `odd`.
    """
    path = require(resolve(spec.path), spec, "file")
    listing = read_table(path, spec) if path.is_file() else read_folder(path, spec)
    if not len(listing.frame):
        raise InputError(f"{spec.name}: no images found in {path}; expected class/image.jpg, or a table path,label")
    frame, names = listing.frame, list(listing.frame["name"])
    try:
        states = [stat_of(listing.root / name) for name in names]
    except OSError as error:
        raise InputError(f"{spec.name}: {error.filename} is listed but cannot be read ({error.strerror})") from error
    state = hashlib.sha256(repr((str(listing.root), names, states)).encode(errors="surrogateescape")).hexdigest()
    stamp = folder_stamp(listing.root, names, [size for _, size, *_ in states], state)
    load = partial(read_upright, str(listing.root), pack(names))
    seen = survey(names, load, stamp)
    good = (seen["error"] == "").to_numpy()
    bad = zip(frame["name"][~good], seen["error"][~good], strict=True)
    passed = listing.passed + Counter(f"cannot be decoded: {name} ({error})" for name, error in bad)
    labels, classes = _classes(spec, frame["label"])
    metadata = _described(frame[good], seen[good], spec).reindex(frame.index)
    about = {"content": stamp, "source": str(path), "metadata": metadata}
    data = replace(build_dataset(replace(spec, classes=""), names, labels, load, **about), classes=classes)
    data.metadata.attrs |= {"passed": dict(passed), "odd": dict(Counter(seen["odd"][seen["odd"] != ""]))}
    wanted = str(spec.options.get("split") or "")
    if wanted not in ("", "fit", "train", "val", "test"):
        raise InputError(f"{spec.name}: options.split: expected train, val, test or fit, got {wanted!r}")
    inside = frame["split"].isin(["train", "val"] if wanted == "fit" else [wanted]).to_numpy() | (not wanted)
    kept = data.take(np.flatnonzero(good & inside))
    if not len(kept):
        raise InputError(f"{spec.name}: none of the {len(data)} images in {path} can be used: {next(iter(passed), '')}")
    return kept


def _described(frame: pd.DataFrame, seen: pd.DataFrame, spec: DatasetSpec) -> pd.DataFrame:
    """Metadata of the images that can be decoded."""
    group = str(spec.options.get("group") or "group")
    prints = np.frombuffer(b"".join(seen["print"]), np.uint8).reshape(-1, SIDE * SIDE * 3)
    here = frame[["name", "label", "split"]].to_numpy(object)
    links = _links(spec, here[:, 0])
    near, unit = units(prints, here[:, 1], here[:, 2], frame[group] if group in frame else None, links)
    names, known = ["near", "near_label", "near_split", "near_by"], near >= 0
    by = np.where(known, "pixels", "").astype(object)
    for first, second in (*links, *links[:, ::-1]):  # one across given splits is what matters most
        if near[first] < 0 or here[first, 2] != here[second, 2] and here[first, 2] == here[near[first], 2]:
            near[first], by[first] = second, "features"
    shown = np.column_stack([np.where((near >= 0)[:, None], here[near], ""), by])
    measured = {name: seen[name] for name in MEASURED if name not in frame}
    return frame.drop(columns=["name", "label"]).assign(**dict(zip(names, shown.T, strict=True)), unit=unit, **measured)


def _links(spec: DatasetSpec, names: NDArray) -> NDArray[np.int64]:
    """Positions of the pairs of `options.alike`, (k, 2); images that are no longer there are passed over."""
    if not (file := spec.options.get("alike")):
        return NO_LINKS
    path = require(resolve(str(file)), spec, "file")
    try:
        pairs = pd.read_csv(path, dtype=str, keep_default_na=False)[["image", "repeats"]]
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{spec.name}: {path}: expected a CSV file with the columns image and repeats") from error
    found = pd.Index(names).get_indexer(pairs.to_numpy().ravel()).reshape(-1, 2)
    return found[(found >= 0).all(axis=1)]


def _classes(spec: DatasetSpec, names: pd.Series) -> tuple[NDArray, ClassSpace]:
    known = sorted(set(names))
    if len(known) < 2:
        where = f"{spec.name}: all {len(names)} images in {spec.path} are of one class, {known[0]!r}"
        raise InputError(f"{where}: there is nothing to tell apart; expected one folder per class (or two labels)")
    spoken = tuple(" ".join(name.replace("_", " ").replace("-", " ").split()) or name for name in known)
    return np.searchsorted(known, names), ClassSpace(spec.name, tuple(known), tuple(known), TEMPLATES, spoken)


# Listing --------------------------------------------------------------------------------------------------------------


def read_folder(root: Path, spec: DatasetSpec) -> Listing:
    """Class folders, with or without splits above them, or files that a `metadata.csv` (`.jsonl`, `.parquet`) names."""
    files, passed = [], Counter()
    for name in walk(root, passed):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES or (suffix in TABLES and Path(name).stem == "metadata"):
            files.append(name)
        else:
            passed[f"no image by its name: *{suffix or ' without suffix'}"] += 1
    tables = [name for name in files if os.path.splitext(name)[1].lower() in TABLES]
    if tables:
        parts = [read_table(root / name, spec) for name in tables]
        for name, part in zip(tables, parts, strict=True):
            below, split = os.path.dirname(name), part.frame["split"]
            part.frame["name"] = [os.path.normpath(os.path.join(below, n)) for n in part.frame["name"]]
            part.frame["split"] = split.where(split != "", SPLITS.get(name.split("/")[0].lower(), ""))
            passed += part.passed
        return Listing(root, _sorted(pd.concat([part.frame for part in parts])), passed)
    above = {name.split("/")[0].lower() for name in files}
    split = bool(files) and above <= set(SPLITS) and all(name.count("/") >= 2 for name in files)
    if loose := [name for name in files if name.count("/") < 1 + split]:
        raise InputError(
            f"{spec.name}: {root / loose[0]} lies in no class folder ({len(loose)} such images); put every image into "
            "a folder named as its class, or name them in a table path,label"
        )
    rows = [(name, name.split("/")[split], SPLITS[name.split("/")[0].lower()] if split else "") for name in files]
    return Listing(root, _sorted(pd.DataFrame(rows, columns=["name", "label", "split"])), passed)


def walk(root: Path, passed: Counter) -> Iterator[str]:
    """Paths of all files below a folder, links followed; what systems drop there is passed over."""
    seen = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        inside[:] = sorted(n for n in inside if not _dropping(n, passed))
        if (real := os.path.realpath(folder)) in seen:  # a link that leads back
            inside[:] = []
            continue
        seen.add(real)
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        yield from (n if below == "." else f"{below}/{n}" for n in sorted(files) if not _dropping(n, passed))


def _dropping(name: str, passed: Counter) -> bool:
    if found := name.startswith(".") or name.lower() in DROPPINGS:
        passed["left by the system: " + ("._*" if name.startswith("._") else name)] += 1
    return found


def read_table(path: Path, spec: DatasetSpec) -> Listing:
    """A CSV, TSV, JSON-lines or Parquet file with a path and a label per image, optionally `split` and `group`."""
    try:
        kinds = {".csv": pd.read_csv, ".tsv": partial(pd.read_csv, sep="\t"), ".parquet": pd.read_parquet}
        kinds[".jsonl"] = partial(pd.read_json, lines=True)
        options = {} if path.suffix.lower() in (".parquet", ".jsonl") else {"dtype": str, "keep_default_na": False}
        table = kinds[path.suffix.lower()](path, **options)
    except KeyError:
        raise InputError(f"{spec.name}: {path}: expected a table that ends in {', '.join(sorted(TABLES))}") from None
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{spec.name}: {path} is no table: {' '.join(str(error).split())[:200]}") from error
    column = next((name for name in PATH if name in table), None)
    label = str(spec.options.get("label") or next((name for name in LABEL if name in table), ""))
    if column is None or (label and label not in table):
        wanted = "path (or file_name)" if column is None else label
        raise InputError(f"{spec.name}: {path} has no column {wanted} (it has {', '.join(map(str, table.columns))})")
    names = table[column].astype(str).str.replace("\\", "/")
    labels = table[label] if label else names.map(lambda name: os.path.basename(os.path.dirname(name)))
    known = labels.notna() & (labels.astype(str).str.strip() != "")
    splits = table["split"] if "split" in table else pd.Series("", index=table.index)
    splits = splits.astype(str).str.strip().str.lower()
    if len(strange := sorted(set(splits) - set(SPLITS) - {"", "nan", "none"})):
        raise InputError(f"{spec.name}: {path}: split {strange[0]!r}: expected train, val or test")
    frame = table.drop(columns=[column, *({label} & set(table)), *({"split"} & set(table))])
    frame = frame.assign(name=names, label=labels.astype(str).str.strip(), split=splits.map(SPLITS).fillna(""))
    for name in frame.columns.difference(["name", "label", "split"]):  # numbers that came as text
        with suppress(ValueError, TypeError):
            frame[name] = pd.to_numeric(frame[name])
    passed = Counter({f"no label in {path.name}": int((~known).sum())})
    return Listing(path.parent, _sorted(frame[known]), +passed)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["label", "name"], kind="stable", ignore_index=True)


# Reading --------------------------------------------------------------------------------------------------------------


def read_upright(root: str, names: NDArray, position: int) -> bytes:
    """Content of a file; where decoding it as it is would show another picture than a viewer does, as upright PNG."""
    content = read_file(root, names, position)
    try:
        with opened(content) as image:
            if not oddity(image):
                return content
            buffer = io.BytesIO()
            upright(image).save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()
    except Exception:  # noqa: BLE001  # damaged: whoever decodes it says so, with its name
        return content


def oddity(image: Image.Image) -> str:
    """What is unusual about an opened image and handled here; empty for plain colour and grey."""
    if getattr(image, "n_frames", 1) > 1:
        return "several frames, the first is used"
    if image.getexif().get(0x0112, 1) != 1:
        return "rotated by EXIF"
    if image.mode[0] in "IF":
        return "16 bits or more"
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return "transparent, on white"
    return {"CMYK": "CMYK", "P": "palette", "1": "black and white"}.get(image.mode, "")


def upright(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it: first frame, turned as EXIF says, 8 bits, transparency on white, RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return to_rgb(image)


# Looking at every image -----------------------------------------------------------------------------------------------


def survey(names: list[str], load, stamp: str) -> pd.DataFrame:
    """One row per image: `error` (empty where it decodes), what is `odd`, `MEASURED`, and its reduced `print`."""
    key = hashlib.sha256("\n".join([FORMAT, stamp, *names]).encode(errors="surrogateescape")).hexdigest()[:24]
    kept = cache_dir() / "survey" / f"{key}.parquet"
    with suppress(OSError, ValueError):
        return pd.read_parquet(kept)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without holding the interpreter
        rows = list(pool.map(partial(_look, load), range(len(names))))
    frame = pd.DataFrame(rows, columns=["error", "odd", *MEASURED, "print"])
    with suppress(InputError):
        atomic_write(kept, frame.to_parquet)
    return frame


def _look(load, position: int) -> tuple:
    root, names = load.args
    try:
        with warnings.catch_warnings(), opened(read_file(root, names, position)) as image:
            warnings.simplefilter("ignore")
            odd = oddity(image)
            if not odd and image.format == "JPEG":
                full = image.size
                image.draft("RGB", (256, 256))  # decodes a reduced picture of a large photograph, several times faster
                return "", odd, *_measure(image.convert("RGB"), full)
            picture = upright(image)
            return "", odd, *_measure(picture, picture.size)
    except Exception as error:  # noqa: BLE001  # damaged files make Pillow raise nearly anything
        return (" ".join(str(error).split())[:80] or type(error).__name__, "", *[np.nan] * len(MEASURED), b"")


def _measure(image: Image.Image, full: tuple[int, int]) -> tuple:
    small = image.copy()
    small.thumbnail((128, 128))
    pixels, grey = np.asarray(small, np.float64), small.convert("L")
    r, g, b = np.moveaxis(pixels, -1, 0)
    opposed = (r - g), ((r + g) / 2 - b)  # Hasler and Suesstrunk 2003
    colour = np.hypot(*(x.std() for x in opposed)) + 0.3 * np.hypot(*(x.mean() for x in opposed))
    edges = np.asarray(grey.filter(ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), 1, 128)), np.float64)
    light = np.asarray(grey, np.float64) / 255
    print_ = small.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
    sides = float(np.sqrt(full[0] * full[1])), full[0] / full[1]
    return float(light.mean()), float(light.std()), float(edges.std()), float(colour), *sides, print_


def units(
    prints: NDArray, labels: NDArray, splits: NDArray, groups: pd.Series | None = None, links: NDArray = NO_LINKS
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each image one that nearly repeats it (-1: none), and its unit.

    Two images are near-duplicates where their reduced pictures correlate above `ALIKE` and differ by less than `CLOSE`;
    of several the one in another split is named, else the one of another label. A unit joins them with all images of
    their groups: nothing of it may stand on both sides of a split. Memory grows with n, however many repeat each other.

    Args:
        prints: (n, `SIDE` * `SIDE` * 3) grey levels.
        labels: (n,) anything that can be compared.
        splits: (n,) likewise.
        groups: (n,) names; an image without one stands for itself.
        links: (k, 2) positions of pairs that belong together besides.
    """
    n, values = len(prints), prints.astype(np.float32)
    middle = values - values.mean(axis=1, keepdims=True)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True) + 1e-6
    squares = (values**2).sum(axis=1)
    codes = np.full(n, -1) if groups is None else pd.factorize(groups)[0]
    unit = np.where(codes < 0, np.arange(n), pd.Series(np.arange(n)).groupby(codes).transform("first"))
    unit = _linked(unit, *np.asarray(links).T)
    near, worth = np.full(n, -1), np.zeros(n, np.int8)
    for start in range(0, n, 512):
        rows, stop = slice(start, start + 512), min(start + 512, n)
        apart = squares[rows, None] + squares[:stop] - 2 * values[rows] @ values[:stop].T
        found = (middle[rows] @ middle[:stop].T > ALIKE) & (apart < values.shape[1] * CLOSE**2)
        first, second = np.nonzero(np.tril(found, start - 1))
        if not len(first):
            continue
        said = 1 + (labels[first + start] != labels[second]) + 2 * (splits[first + start] != splits[second])
        order = np.argsort(said, kind="stable")  # of several the last one stays
        for mine, other in ((first + start, second), (second, first + start)):
            better = order[said[order] > worth[mine[order]]]
            near[mine[better]], worth[mine[better]] = other[better], said[better]
        unit = _linked(unit, first + start, second)
    return near, unit


def _linked(unit: NDArray, first: NDArray, second: NDArray) -> NDArray[np.int64]:
    """Units after some pairs of images have been joined."""
    from scipy.sparse import coo_array  # here: most commands need it not
    from scipy.sparse.csgraph import connected_components

    n = len(unit)
    links = np.unique(unit[first] * n + unit[second])
    graph = coo_array((np.ones(len(links), np.int8), np.divmod(links, n)), shape=(n, n))
    return connected_components(graph, directed=False)[1][unit]
