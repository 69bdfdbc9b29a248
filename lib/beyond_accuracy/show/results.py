"""One tidy table of results, and the saving and showing of figures and tables.

Everything written here is a function of its input alone (fixed order, fixed number format, no dates), so that a rerun
that changes nothing leaves every file as it was.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pandas as pd

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
_NUMBERS = ("value", "ci_low", "ci_high", "n")
_MANY_POINTS = 2_000  # more points than this are drawn as pixels inside an SVG: 50,000 points would weigh 5 MB
_INLINE_SVG = 64_000  # bytes; heavier drawings go into the page as PNG
_INLINE_CSV = 48_000  # bytes; heavier data stay beside the figure only


# Results ---------------------------------------------------------------------------------------------------------


def validate_results(frame: pd.DataFrame) -> pd.DataFrame:
    """Check rows of the results schema and return them with the columns in order; `ci_*` and `n` may be missing."""
    missing = [name for name in RESULT_COLUMNS if name not in frame.columns]
    strange = [str(name) for name in frame.columns if name not in RESULT_COLUMNS]
    if missing or strange:
        found = [f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unknown", strange)) if names]
        raise InputError(f"results: columns must be {', '.join(RESULT_COLUMNS)}; {'; '.join(found)}")
    frame = frame.loc[:, list(RESULT_COLUMNS)].reset_index(drop=True)
    for name in ("dimension", "dataset", "metric", "model", "unit"):
        frame[name] = frame[name].astype("object")
        _demand(frame, frame[name].map(lambda text: isinstance(text, str) and bool(text)), f"{name} is a name")
    for name in _NUMBERS:
        try:
            frame[name] = pd.to_numeric(frame[name]).astype("float64")
        except (TypeError, ValueError) as error:
            raise InputError(f"results: {name} is not a number: {error}") from None
    low, high = frame["ci_low"], frame["ci_high"]
    _demand(frame, np.isfinite(frame["value"]), "value is a finite number")
    _demand(frame, low.isna() == high.isna(), "an interval has both ends")
    _demand(frame, low.isna() | (low <= high), "ci_low <= ci_high")
    _demand(frame, frame["n"].isna() | ((frame["n"] >= 0) & (frame["n"] % 1 == 0)), "n counts images")
    _demand(frame, ~frame.duplicated(["dimension", "dataset", "metric", "model"]), "one row per metric and model")
    frame["n"] = frame["n"].astype("Int64")
    return frame


def _demand(frame: pd.DataFrame, good: pd.Series, expectation: str) -> None:
    if not good.all():
        row = int(np.flatnonzero(~good.to_numpy())[0])
        shown = ", ".join(f"{name}={frame.at[row, name]!r}" for name in RESULT_COLUMNS)
        raise InputError(f"results: row {row} breaks the rule '{expectation}': {shown}")


def write_dimension(report_folder: Path, dimension: str, frame: pd.DataFrame) -> Path:
    """Replace the results of one dimension: `<report_folder>/results/<dimension>.csv`."""
    frame = validate_results(frame)
    strangers = sorted(set(frame["dimension"]) - {dimension})
    if strangers:
        raise InputError(f"results: page {dimension} recorded rows of dimension {', '.join(strangers)}")
    path = Path(report_folder) / "results" / f"{dimension}.csv"
    write_atomically(path, csv_text(frame).encode())
    return path


def read_results(path: Path) -> pd.DataFrame:
    """Read and check a results CSV."""
    return validate_results(pd.read_csv(path, dtype={"n": "Int64"}, keep_default_na=True))


def collect(report_folder: Path, dimensions: Iterable[str] | None = None) -> pd.DataFrame:
    """Join the files of some pages (default: all) into `results.csv` and `.parquet`, and return the table."""
    folder = Path(report_folder) / "results"
    names = sorted(path.stem for path in folder.glob("*.csv")) if dimensions is None else list(dimensions)
    frames = [read_results(folder / f"{name}.csv") for name in names if (folder / f"{name}.csv").is_file()]
    frames = [frame for frame in frames if len(frame)] or [pd.DataFrame(columns=list(RESULT_COLUMNS), dtype="object")]
    table = validate_results(pd.concat(frames, ignore_index=True))
    write_atomically(Path(report_folder) / "results.csv", csv_text(table).encode())
    buffer = BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(Path(report_folder) / "results.parquet", buffer.getvalue())
    return table


def read_comparisons(report_folder: Path, dimensions: Iterable[str] | None = None) -> pd.DataFrame:
    """The differences that pages recorded (`Page.compare`), verdicts included; an empty `model_b` stands for zero.

    Args:
        report_folder: `report/<profile>`.
        dimensions: Of these, in this order (default: all there are, by name).

    Raises:
        InputError: A file without the columns of the schema.
    """
    folder = Path(report_folder) / "comparisons"
    names = sorted(path.stem for path in folder.glob("*.csv")) if dimensions is None else list(dimensions)
    frames = []
    for path in [folder / f"{name}.csv" for name in names if (folder / f"{name}.csv").is_file()]:
        texts = dict.fromkeys(("dataset", "metric", "model_a", "model_b"), str)
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=texts)
        if missing := [name for name in COMPARISON_COLUMNS if name not in frame]:
            raise InputError(f"{path}: missing columns {', '.join(missing)}; build the page {path.stem} again")
        frames.append(frame[list(COMPARISON_COLUMNS)].fillna({"model_b": ""}))
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COMPARISON_COLUMNS))


# Files -----------------------------------------------------------------------------------------------------------


def csv_text(frame: pd.DataFrame, index: bool = False) -> str:
    """CSV with at most 10 significant digits: exact enough to recompute from, the same on every machine."""
    return frame.to_csv(index=index, float_format="%.10g", lineterminator="\n")


# Figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FigureRecord:
    """A saved figure: its name, words and files."""

    name: str
    alt: str
    caption: str
    svg: Path
    png: Path
    csv: Path
    size: tuple[int, int]  # of the drawing, in CSS pixels


def save_figure(fig: Figure, folder: Path, name: str, alt: str, caption: str, data: pd.DataFrame) -> FigureRecord:
    """Save a figure as SVG and PNG with its data (CSV) and its words (JSON) side by side, under `<folder>/<name>.*`."""
    import matplotlib as mpl

    from beyond_accuracy.show.theme import HASH_SALT

    check_name(name, "figure")
    if not alt.strip() or not caption.strip():
        raise InputError(f"figure {name}: both alt text and caption are needed")
    if not isinstance(data, pd.DataFrame):
        raise InputError(f"figure {name}: data must be a DataFrame, not {type(data).__name__}")
    _rasterise_clouds(fig)
    files = {kind: Path(folder) / f"{name}.{kind}" for kind in ("svg", "png", "csv", "json")}
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": HASH_SALT, "svg.fonttype": "path"}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    write_atomically(files["svg"], svg)
    buffer = BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(files["png"], small_png(buffer.getvalue()))
    write_atomically(files["csv"], csv_text(data, index=not isinstance(data.index, pd.RangeIndex)).encode())
    words = {"name": name, "alt": alt, "caption": caption}
    write_atomically(files["json"], (json.dumps(words, indent=1, ensure_ascii=False) + "\n").encode())
    return FigureRecord(name, alt, caption, files["svg"], files["png"], files["csv"], _svg_size(svg))


def small_png(content: bytes) -> bytes:
    """The same picture with a palette of 256 colours where that is lighter and no colour is visibly lost."""
    from PIL import Image

    with Image.open(BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    colors = picture.getcolors(maxcolors=1 << 20)
    if colors is None or len(colors) > 4_096:  # photographs: a palette would show
        return content
    buffer = BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


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


def _svg_size(svg: bytes) -> tuple[int, int]:
    """Width and height in CSS pixels; matplotlib writes them in points."""
    head = svg[:2000].decode("utf-8", "replace")
    width, height = (float(re.search(rf'\b{side}="([\d.]+)pt"', head).group(1)) for side in ("width", "height"))
    return round(width * 4 / 3), round(height * 4 / 3)


def figure_html(record: FigureRecord) -> str:
    """The figure as one self-contained `<figure>`: picture with alt text, caption, data to download.

    A light drawing goes in as SVG (inside `<img>` its ids cannot clash), a heavy one as PNG.
    """
    svg, png = record.svg.read_bytes(), record.png.read_bytes()
    mime, picture = ("image/svg+xml", svg) if len(svg) <= max(_INLINE_SVG, len(png)) else ("image/png", png)
    source = f"data:{mime};base64,{base64.b64encode(picture).decode()}"
    link = csv_link(record.csv.read_text(encoding="utf-8"), f"{record.name}.csv", f"data of figure {record.name}")
    return (
        f'<figure id="fig-{record.name}" class="ba-figure">'
        f'<img src="{source}" alt="{html.escape(record.alt)}" width="{record.size[0]}" height="{record.size[1]}" '
        'style="background:#fff;max-width:100%;height:auto">'
        f"<figcaption>{html.escape(record.caption)}{' ' + link if link else ''}</figcaption></figure>"
    )


def display_figure(record: FigureRecord) -> None:
    """Show a saved figure in the running notebook (JupyterLab or papermill), with alt text and caption."""
    display_html(figure_html(record), record.alt)


def csv_link(text: str, file_name: str, what: str) -> str:
    """A download that needs neither a server nor a script, as a data link; nothing if that would weigh too much."""
    if len(text) > _INLINE_CSV:
        return ""
    href = f"data:text/csv;charset=utf-8,{quote(text, safe=',')}"
    label = f"Download {what} as CSV"
    return (
        f'<a class="ba-csv" download="{html.escape(file_name)}" href="{href}" aria-label="{html.escape(label)}">CSV</a>'
    )


def check_name(name: str, what: str) -> None:
    """Raise `InputError` for a name that cannot be a file name and an id."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise InputError(f"{what} name {name!r}: use lower-case letters, digits, '_' and '-'")


def display_html(page: str, plain: str) -> None:
    """Show markup in the running notebook, with plain text for viewers that cannot."""
    from IPython.display import display  # only a running notebook needs it

    display({"text/html": page, "text/plain": plain}, raw=True)
