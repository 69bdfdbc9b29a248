"""A light copy of a rendered report, to be committed or sent: `python tools/compact.py --out docs/report`.

Pages and CSV tables only, without the folded code (it is in the notebooks) and the larger data links. Pictures that are
embedded as PNG become WebP where that is lighter, photographs at the width they are shown at, drawings without loss.
SVG keeps two decimals.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import write_atomically
from beyond_accuracy.base.paths import report_dir

LIMIT = 8_500_000  # bytes of the whole copy
QUALITY = 45  # of photographs; drawings (pictures with a palette) stay exact
WIDTH = 560  # pixels of photographs: most of the width of the text
SMALL = 4_096  # bytes of a picture below which nothing is gained
TABLES = ("results.csv", "differences.csv", "claims.csv")
_PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
_DRAWING = re.compile(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)")
_PATH = re.compile(r'\bd="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_CODE = re.compile(r'<details class="ba-code">.*?</details>', re.DOTALL)
_EMPTY = re.compile(r'<details class="ba-fold"><summary>[^<]*</summary>\s*</details>\s*')  # where only code was
_DATA = re.compile(r'<a\b(?![^>]*\bid="csv")[^>]*href="data:text/csv[^"]{2048,}"[^>]*>CSV</a>')
_PARQUET = re.compile(r',\s*<a href="results\.parquet">results\.parquet</a>')


def lighter(match: re.Match[str]) -> str:
    """An embedded PNG as WebP, or as it was where WebP weighs more."""
    from PIL import Image

    content = base64.b64decode(match[1])
    if len(content) < SMALL:
        return match[0]
    buffer = BytesIO()
    with Image.open(BytesIO(content)) as picture:
        exact = picture.mode == "P"
        shown = picture.convert("RGB")
        if not exact and shown.width > WIDTH:
            shown = shown.resize((WIDTH, round(shown.height * WIDTH / shown.width)), Image.Resampling.LANCZOS)
        shown.save(buffer, "WEBP", lossless=exact, quality=QUALITY, method=4)
    if buffer.tell() >= len(content):
        return match[0]
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def rounder(match: re.Match[str]) -> str:
    """An embedded SVG whose path coordinates, in points, keep two decimals."""
    text = base64.b64decode(match[1]).decode()
    text = _PATH.sub(lambda path: _DECIMALS.sub(r"\1", path[0]), text)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def compact_page(text: str) -> str:
    """One page with light pictures, without code and without links to what the copy leaves out."""
    for pattern in (_CODE, _EMPTY, _DATA, _PARQUET):
        text = pattern.sub("", text)
    for pattern, change in ((_PICTURE, lighter), (_DRAWING, rounder)):
        text = pattern.sub(change, text)
    return text


def write_compact(source: Path, out: Path, limit: int = LIMIT) -> int:
    """Write the copy; pages that the report no longer has are removed from it.

    Args:
        source: `report/<profile>`.
        out: Folder of the copy.
        limit: Most bytes it may have.

    Returns:
        Its size in bytes.

    Raises:
        InputError: The report is not built, or its copy would be larger than the limit; nothing is written then.
    """
    pages = sorted(source.glob("*.html"))
    if source / "index.html" not in pages:
        raise InputError(f"{source}: no report there; `beyond-accuracy report` builds one")
    files = {page.name: compact_page(page.read_text(encoding="utf-8")).encode() for page in pages}
    files |= {name: (source / name).read_bytes() for name in TABLES if (source / name).is_file()}
    size = sum(map(len, files.values()))
    if size > limit:
        largest = max(files, key=lambda name: len(files[name]))
        raise InputError(f"{source}: the copy would have {size:,} bytes, at most {limit:,}; the largest is {largest}")
    for name, content in files.items():
        write_atomically(out / name, content)
    for stale in out.glob("*.html"):
        if stale.name not in files:
            stale.unlink()
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compact.py", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="mini", help="whose report (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy")
    args = parser.parse_args(argv)
    try:
        size = write_compact(report_dir(args.profile), args.out)
    except InputError as error:
        print(f"compact.py: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
