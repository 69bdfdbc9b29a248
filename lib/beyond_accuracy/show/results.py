"""One tidy table of results, and the saving and showing of figures and tables.

Everything written here is a function of its input alone (fixed order, fixed number format, no dates), so that a rerun
that changes nothing leaves every file as it was.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import write_atomically

if TYPE_CHECKING:  # matplotlib takes a second to import, and a run that draws nothing needs none
    from matplotlib.figure import Figure

RESULT_COLUMNS = ("dimension", "dataset", "metric", "model", "value", "ci_low", "ci_high", "n", "unit")
COMPARISON_COLUMNS = (
    *("dimension", "dataset", "metric", "model_a", "model_b", "difference", "ci_low", "ci_high", "p", "n", "unit"),
    *("family", "p_holm", "verdict", "p_floor"),
)
ECE = "ece_debiased"  # the calibration error that pages are compared by; `ece` is the paper's plug-in
HASH_SALT = "beyond-accuracy"  # fixed ids in SVG files, so that an unchanged figure is an unchanged file
_MANY_POINTS = 2_000  # more points than this are drawn as pixels inside an SVG: 50,000 points would weigh 5 MB
_INLINE_SVG = 40_000  # bytes; heavier drawings go into the page as pixels
_INLINE_CSV = 20_000  # bytes; heavier data stay beside the figure only
_PHOTO_WIDTH, _PHOTO_QUALITY = 640, 55  # of photographs in a page: the width of its text; drawings stay exact


# Results ---------------------------------------------------------------------------------------------------------


def validate_results(frame: pd.DataFrame) -> pd.DataFrame:
    """Check rows of the results schema and return them with the columns in order; `ci_*` and `n` may be missing."""
    missing = [name for name in RESULT_COLUMNS if name not in frame.columns]
    strange = [str(name) for name in frame.columns if name not in RESULT_COLUMNS]
    if missing or strange:
        found = [f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unknown", strange)) if names]
        raise InputError(f"results: columns must be {', '.join(RESULT_COLUMNS)}; {'; '.join(found)}")
    frame = frame.loc[:, list(RESULT_COLUMNS)].reset_index(drop=True)
    rules = {}
    for name in ("dimension", "dataset", "metric", "model", "unit"):
        frame[name] = frame[name].astype("object")
        rules[f"{name} is a name"] = frame[name].map(lambda text: isinstance(text, str) and bool(text))
    for name in ("value", "ci_low", "ci_high", "n"):
        try:
            frame[name] = pd.to_numeric(frame[name]).astype("float64")
        except (TypeError, ValueError) as error:
            raise InputError(f"results: {name} is not a number: {error}") from None
    low, high, n = frame["ci_low"], frame["ci_high"], frame["n"]
    rules |= {
        "value is a finite number": np.isfinite(frame["value"]),
        "an interval has both ends": low.isna() == high.isna(),
        "ci_low <= ci_high": low.isna() | (low <= high),
        "n counts images": n.isna() | ((n >= 0) & (n % 1 == 0)),
        "one row per metric and model": ~frame.duplicated(["dimension", "dataset", "metric", "model"]),
    }
    for rule, holds in rules.items():
        if not holds.all():
            row = int(np.argmin(holds))
            shown = ", ".join(f"{name}={frame.at[row, name]!r}" for name in RESULT_COLUMNS)
            raise InputError(f"results: row {row} breaks the rule '{rule}': {shown}")
    return frame.astype({"n": "Int64"})


def write_dimension(report_folder: Path, dimension: str, frame: pd.DataFrame) -> Path:
    """Replace the results of one dimension: `<report_folder>/results/<dimension>.csv`."""
    path = Path(report_folder) / "results" / f"{dimension}.csv"
    write_atomically(path, csv_text(validate_results(frame)).encode())
    return path


def read_results(report_folder: Path, dimensions: Iterable[str] | None = None) -> pd.DataFrame:
    """The results that pages recorded (`Page.record`); those of some dimensions in this order, or all by name."""
    paths = _recorded(report_folder, "results", dimensions)
    frames = [validate_results(pd.read_csv(path, dtype={"n": "Int64"})) for path in paths]
    frames = [frame for frame in frames if len(frame)] or [validate_results(pd.DataFrame(columns=[*RESULT_COLUMNS]))]
    return pd.concat(frames, ignore_index=True)


def _recorded(report_folder: Path, kind: str, dimensions: Iterable[str] | None) -> list[Path]:
    folder = Path(report_folder) / kind
    paths = sorted(folder.glob("*.csv")) if dimensions is None else [folder / f"{name}.csv" for name in dimensions]
    return [path for path in paths if path.is_file()]


def collect(report_folder: Path, dimensions: Iterable[str] | None = None) -> pd.DataFrame:
    """Join the results of some pages (default: all) into `results.csv` and `.parquet`, and return the table."""
    table = read_results(report_folder, dimensions)
    write_atomically(Path(report_folder) / "results.csv", csv_text(table).encode())
    write_atomically(Path(report_folder) / "results.parquet", table.to_parquet(index=False))
    return table


def read_comparisons(report_folder: Path, dimensions: Iterable[str] | None = None) -> pd.DataFrame:
    """The differences that pages recorded (`Page.compare`), verdicts included; an empty `model_b` stands for zero."""
    columns, frames = list(COMPARISON_COLUMNS), []
    for path in _recorded(report_folder, "comparisons", dimensions):
        texts = dict.fromkeys(("dataset", "metric", "model_a", "model_b"), str)
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=texts)
        if missing := [name for name in columns if name not in frame]:
            raise InputError(f"{path}: missing columns {', '.join(missing)}; build the page {path.stem} again")
        frames += [frame[columns].fillna({"model_b": ""})] if len(frame) else []
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def csv_text(frame: pd.DataFrame, index: bool = False) -> str:
    """CSV with at most 10 significant digits: exact enough to recompute from, the same on every machine.

    Text that a spreadsheet would compute (`=1+1` as a label) has an apostrophe in front, which tells it not to.
    """
    texts = frame.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]]
    frame = frame.assign(**{name: frame[name].map(_inert) for name in texts if isinstance(name, str)})
    frame = frame.rename(columns=_inert, index=_inert if index else None)
    return frame.to_csv(index=index, float_format="%.10g", lineterminator="\n")


def _inert(value: object) -> object:
    is_formula = isinstance(value, str) and value[1:] and value[0] in "=+-@" and not value[1].isdigit()
    return f"'{value}" if is_formula or (isinstance(value, str) and value[:1] == "=") else value


# Figures ---------------------------------------------------------------------------------------------------------


def save_figure(fig: Figure, folder: Path, name: str, alt: str, caption: str, data: pd.DataFrame) -> str:
    """Save a figure as SVG and PNG with its data (CSV) and its words (JSON) under `<folder>/<name>.*`; its HTML."""
    import matplotlib as mpl

    if not alt.strip() or not caption.strip():
        raise InputError(f"figure {name}: both alt text and caption are needed")
    _rasterise_clouds(fig)
    svg, png = BytesIO(), BytesIO()
    with mpl.rc_context({"svg.hashsalt": HASH_SALT, "svg.fonttype": "path"}):
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    fig.savefig(png, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 1})  # for the next line
    words = {"name": name, "alt": alt, "caption": caption}
    files = {
        "svg": svg.getvalue(),
        "png": small_png(png.getvalue()),
        "csv": csv_text(data, index=not isinstance(data.index, pd.RangeIndex)).encode(),
        "json": (json.dumps(words, indent=1, ensure_ascii=False) + "\n").encode(),
    }
    for kind, content in files.items():
        write_atomically(Path(folder) / f"{name}.{kind}", content)
    return figure_html(**words, svg=files["svg"], png=files["png"], csv=files["csv"].decode())


def small_png(content: bytes) -> bytes:
    """The same picture, well compressed, with a palette of 256 colours where no colour is visibly lost."""
    from PIL import Image

    with Image.open(BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    buffer, drawing = BytesIO(), picture.getcolors(maxcolors=4_096) is not None
    if drawing:  # in photographs a palette would show
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(buffer, "PNG", optimize=drawing)
    return buffer.getvalue()


def _rasterise_clouds(fig: Figure) -> None:
    from matplotlib.collections import PathCollection, QuadMesh

    for axes in fig.axes:
        for artist in axes.collections:
            points = len(artist.get_offsets()) if isinstance(artist, PathCollection) else 0
            cells = artist.get_array().size if isinstance(artist, QuadMesh) and artist.get_array() is not None else 0
            if max(points, cells) > _MANY_POINTS:
                artist.set_rasterized(True)
        for line in axes.lines:
            if len(line.get_xdata(orig=False)) > _MANY_POINTS:
                line.set_rasterized(True)


def figure_html(name: str, alt: str, caption: str, svg: bytes, png: bytes, csv: str) -> str:
    """A figure as one self-contained `<figure>`: picture with alt text, caption, data to download.

    A light drawing goes in as SVG (inside `<img>` its ids cannot clash), a heavy one as WebP, its SVG packed beside it.
    """
    head = svg[:2000].decode("utf-8", "replace")  # matplotlib writes points; a page has CSS pixels
    points = [re.search(rf'\b{side}="([\d.]+)pt"', head)[1] for side in ("width", "height")]
    size = [round(float(number) * 4 / 3) for number in points]
    drawing, packed, photo = _rounded(svg), "", False
    mime, picture = "image/svg+xml", drawing
    if len(drawing) > _INLINE_SVG and len((webp := _webp(png))[0]) < len(drawing):
        mime, (picture, photo) = "image/webp", webp
        packed = "" if photo else base64.b64encode(gzip.compress(drawing, mtime=0)).decode()
    source, link = f"data:{mime};base64,{base64.b64encode(picture).decode()}", csv_data_link(csv)
    shown = {"source": source, "size": size, "link": link, "packed": packed, "photo": photo}
    return fragment("figure.html.j2", name=name, alt=alt, caption=caption, **shown)


def _rounded(svg: bytes) -> bytes:
    """A drawing whose path coordinates, in points, keep two decimals: a fiftieth of a pixel is not seen."""
    return re.sub(rb'\bd="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), svg)


def _webp(png: bytes) -> tuple[bytes, bool]:
    """A picture for a page, and whether it is of photographs, which lose what is not seen at the width of the text."""
    from PIL import Image

    buffer = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        photo, shown = picture.mode != "P", picture.convert("RGB")
    if photo and shown.width > _PHOTO_WIDTH:
        size = (_PHOTO_WIDTH, round(shown.height * _PHOTO_WIDTH / shown.width))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    shown.save(buffer, "WEBP", lossless=not photo, quality=_PHOTO_QUALITY, method=4)
    return buffer.getvalue(), photo


# Markup ----------------------------------------------------------------------------------------------------------


def csv_data_link(text: str) -> str:
    """The address of a download that needs neither a server nor a script; none if it would weigh too much."""
    return f"data:text/csv;charset=utf-8,{quote(text, safe=',')}" if len(text) <= _INLINE_CSV else ""


@cache
def environment(folder: Path) -> jinja2.Environment:
    """Templates of a folder; what they are given is escaped."""
    loader, strict = jinja2.FileSystemLoader(folder), jinja2.StrictUndefined
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict)


def fragment(template: str, **variables: object) -> str:
    """Markup of a figure or table."""
    return environment(Path(__file__).parent / "template").get_template(template).render(**variables)


def code_spans(text: str) -> Markup:
    """Plain text with `code` between backticks, as our messages write commands; everything is escaped."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:  # an odd backtick: nothing is paired for certain
        return Markup("`".join(parts))  # noqa: S704 (escaped above)
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))  # noqa: S704


class _Shown(dict):
    """Content by its type; a script, to which IPython prints the whole, sees the plain text."""

    def __str__(self) -> str:
        return self["text/plain"]


def display_html(page: str, plain: str) -> None:
    """Show markup in the running notebook, with plain text for viewers that cannot, and for scripts."""
    from IPython.display import display  # only a running notebook needs it

    display(_Shown({"text/html": page, "text/plain": plain}), raw=True)
