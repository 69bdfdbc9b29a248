"""Digests of code: what moves a number counts, also in what is used, and nothing else."""

import importlib
import sys
import textwrap

import pytest

from beyond_accuracy.base import code
from beyond_accuracy.dimensions.transfer import run
from beyond_accuracy.inference import jobs

SOURCE = '''
from numpy import mean, sum as total

SCALE = 3

class Thing:
    """Doc."""

    def value(self, x):
        """Doc."""
        if x < 0:
            raise ValueError("negative")
        return helper(x)  # a comment

    def other(self):
        return other()

def helper(x: int) -> int:
    return SCALE * mean(x)

def other():
    return total([1])
'''

MOVING = [
    ("SCALE = 3", "SCALE = 4"),
    ("* mean", "+ mean"),
    ("x < 0", "x < 1"),
    ("import mean", "import median as mean"),
]
SAME = [
    ("# a comment", "# another"),
    ('"""Doc."""', '"""What it is."""'),
    ('"negative"', 'f"{x} is negative"'),
    ("(x: int) -> int", "(x)"),
    ("total([1])", "total([2])"),
    ("sum as total", "prod as total"),
    ("return helper(x)", "return   (helper(x))"),
]


@pytest.mark.parametrize(("old", "new"), [*MOVING, *SAME])
def test_what_moves_a_number_counts_and_nothing_else(old, new):
    assert old in SOURCE
    same = code.closure(SOURCE.replace(old, new), "Thing.value") == code.closure(SOURCE, "Thing.value")
    assert same == ((old, new) in SAME)


def test_every_place_is_there():
    for place in (*jobs.ALWAYS, *jobs.TRANSFORMED, *jobs.CORRUPTED, *jobs.ZERO_SHOT, *run.CODE):
        assert len(code.digest(place)) == 24


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("data/transforms.py:Transform", "moved.paste(image, (pixels, 0))", "moved.paste(image, (0, pixels))"),
        ("data/transforms.py:Transform", "rotate(degrees", "rotate(-degrees"),
        ("data/corruptions.py:corrupt_image", "rng.poisson(pixels", "rng.poisson(1 + pixels"),
        ("models/network.py:Model", ".sub_(mean)", ".add_(mean)"),
        ("models/network.py:Model", "resize_pos_embed(state, holder)", "None"),
        ("models/network.py:Model.head", 't.replace("{c}", c)', 't.replace("{c}", c.lower())'),
        ("models/network.py:tokenizer", "searchsorted(kept, tokens)", "searchsorted(kept, tokens) + 1"),
        ("data/transforms.py:Geometry", "CenterCrop(self.crop)]", "CenterCrop(self.crop - 1)]"),
        ("data/dataset.py:ImageDataset.image", 'convert("RGB")', 'convert("L").convert("RGB")'),
        ("inference/run.py:Views", "geometry.apply(image)", "geometry.apply(image.rotate(90))"),
        ("inference/run.py:_Pass._try", "value.float()", "value.half().float()"),
        ("inference/run.py:_Pass._outputs", "amax(dim=1", "amin(dim=1"),
        ("inference/predictions.py:score", "probabilities.argmax", "probabilities.argmin"),
        ("dimensions/transfer/tasks.py:draw_split", "default_rng(", "default_rng(1 + "),
    ],
)
def test_a_change_of_this_code_shows(place, old, new):
    file, _, name = place.partition(":")
    source = (code.PACKAGE / file).read_text()
    assert old in source
    assert code.closure(source.replace(old, new), name) != code.closure(source, name)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**texts):
        for name, text in texts.items():
            file = tmp_path / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        code.modules.cache_clear()
        for name in [name for name in sys.modules if name.startswith(("mine", "helper"))]:
            del sys.modules[name]
        return code.modules(("mine.net",))

    return write


def test_imported_modules_and_their_helpers(modules):
    start = {"mine__init": "", "mine__net": "import os, helper\nfrom . import part\nimport torch\nX = 1\n"}
    first = modules(**start, mine__part="Y = 1\n", helper="from mine.deep import Z\n", mine__deep="Z = 1\n")
    assert modules(helper="from mine.deep import Z  # as before\n") == first
    seen = {first}
    for name, text in (
        ("mine__part", "Y = 2\n"),
        ("mine__deep", "Z = 2\n"),
        ("helper", "from mine.deep import Z\nQ = 1\n"),
    ):
        seen.add(modules(**{name: text}))
    assert len(seen) == 4
    assert modules(mine__net="X = (\n") not in seen  # loading says what is wrong


def test_modules_that_are_not_there():
    assert code.modules(("no_such_module_anywhere",)) == code.modules(())
