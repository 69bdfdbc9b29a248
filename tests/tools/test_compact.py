"""The light copy of a report: pictures shrink, drawings and words stay, nothing points at what is left out."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

import compact
from beyond_accuracy.base.errors import InputError


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photograph(seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8))
    coarse = coarse.resize((96, 96), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, float) + rng.normal(0, 4, (96, 96, 3)), 0, 255)


@pytest.fixture
def report(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    tiny, photo = png(np.zeros((4, 4, 3))), png(photograph())
    (folder / "index.html").write_text(
        '<details class="ba-fold"><summary>All code</summary>\n'
        '<details class="ba-code"><summary>Code</summary>x</details></details>'
        f'<img src="{photo}"><img src="{tiny}"><img src="data:image/svg+xml;base64,PHN2Zy8+">'
        '<a href="results.csv">results.csv</a>, <a href="results.parquet">results.parquet</a>.'
    )
    (folder / "results.csv").write_text("a,b\n")
    (folder / "results.parquet").write_bytes(b"x" * 100)
    return folder


def test_pictures_become_light_and_stay_the_same_picture(report, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "gone.html").write_text("old")
    size = compact.write_compact(report, out)
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "results.csv"]
    assert size == sum(path.stat().st_size for path in out.iterdir())
    text = (out / "index.html").read_text()
    assert "parquet" not in text and "Code" not in text and "All code" not in text
    assert "data:image/svg+xml;base64,PHN2Zy8+" in text and text.count("data:image/png") == 1
    (webp,) = re.findall(r"data:image/webp;base64,([^\"]+)", text)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(webp))), float)
    assert np.abs(seen - photograph()).mean() < 14
    assert len(text) < 0.7 * (report / "index.html").stat().st_size


def test_paths_of_drawings_keep_two_decimals():
    svg = '<svg viewBox="0 0 1.2345 2"><path d="M 1.23456 7L-0.5678 3" transform="scale(0.015625)"/></svg>'
    page = f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
    (found,) = re.findall(r"base64,([^\"]+)", compact.compact_page(page))
    assert base64.b64decode(found).decode() == svg.replace("1.23456", "1.23").replace("0.5678", "0.56")


def test_no_report_and_too_large_a_copy_are_refused(report, tmp_path, capsys, monkeypatch):
    with pytest.raises(InputError, match="at most 1,000; the largest is index.html"):
        compact.write_compact(report, tmp_path / "out", limit=1000)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path))
    assert compact.main(["--out", str(tmp_path / "out")]) == 2
    assert "builds one" in capsys.readouterr().err
