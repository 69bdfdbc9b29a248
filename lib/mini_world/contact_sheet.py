"""Contact sheets, to look at: ``python -m mini_world.contact_sheet [--set world_pug ...] [--out DIR]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from .build import DEFAULT_CACHE, DEFAULT_OUT, decode


def tile_images(images: list[NDArray[np.uint8]], columns: int, gap: int = 2) -> NDArray[np.uint8]:
    """Lays (S, S, 3) images out in rows of `columns` with white gaps; short rows are padded with white."""
    side = images[0].shape[0]
    rows = -(-len(images) // columns)
    step = side + gap
    sheet = np.full((rows * step - gap, columns * step - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = divmod(index, columns)
        sheet[y * step : y * step + side, x * step : x * step + side] = image
    return sheet


def sample_rows(frame: pd.DataFrame, per_class: int, seed: int = 0) -> pd.DataFrame:
    """`per_class` random rows of each class, so that each column of a sheet holds one class."""
    mixed = frame.sample(frac=1, random_state=seed)
    mixed = mixed.assign(rank=mixed.groupby("class_name").cumcount())
    return mixed[mixed["rank"] < per_class].sort_values(["rank", "class_name"], kind="stable")


def write_sheets(path: Path, out: Path, per_class: int = 6) -> list[Path]:
    """Writes the sheets of one set; of each sweep, rows are four scenes and columns its levels."""
    frame = pd.read_parquet(path)
    sheets: dict[str, tuple[pd.DataFrame, int]] = {}
    if "factor" in frame:
        clusters = frame["cluster"].unique()[::25]
        for factor, rows in frame.groupby("factor", sort=False):
            picked = rows[rows["cluster"].isin(clusters)]
            sheets[f"{path.stem}_{factor}"] = (picked, rows["level"].nunique())
    elif "texture" in frame:
        sheets[path.stem] = (frame.groupby(["shape", "texture"], sort=False).head(1), frame["texture"].nunique() - 1)
    elif frame["rendition"].nunique() > 1 and path.stem == "world_r":
        picked = [sample_rows(rows, 2) for _, rows in frame.groupby("rendition")]
        sheets[path.stem] = (pd.concat(picked), frame["class_name"].nunique())
    else:
        sheets[path.stem] = (sample_rows(frame, per_class), frame["class_name"].nunique())
    written = []
    out.mkdir(parents=True, exist_ok=True)
    for name, (rows, columns) in sheets.items():
        target = out / f"{name}.png"
        Image.fromarray(tile_images([decode(data) for data in rows["image"]], columns)).save(target)
        written.append(target)
    return written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", nargs="+", help="names of shipped sets; all by default")
    parser.add_argument("--data", type=Path, default=DEFAULT_OUT, help="folder of the Parquet files")
    parser.add_argument("--out", type=Path, default=DEFAULT_CACHE / "contact_sheets")
    arguments = parser.parse_args()
    for path in sorted(arguments.data.glob("world_*.parquet")):
        if arguments.set is None or path.stem in arguments.set:
            for target in write_sheets(path, arguments.out):
                print(target)


if __name__ == "__main__":
    main()
