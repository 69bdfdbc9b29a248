"""Three images must come out as stored; needs the renderer's packages."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mitsuba", reason="the renderer (extra `world`) is not installed")
pytest.importorskip("pyoidn", reason="the denoiser (extra `world`) is not installed")
pytest.importorskip("trimesh", reason="the mesh library (extra `world`) is not installed")

from mini_world.classes import CLASSES
from mini_world.objects import build_object
from mini_world.render import _line_buffers, render, tone_map
from mini_world.scene import NARROW, sample_scene

REFERENCE = Path(__file__).parent / "reference"
SCENES = {
    "photo": sample_scene(np.random.default_rng([9001, 0]), NARROW, "teapot"),
    "toon": dataclasses.replace(sample_scene(np.random.default_rng([9001, 1]), NARROW, "car"), rendition="toon"),
    "sketch": dataclasses.replace(sample_scene(np.random.default_rng([9001, 2]), NARROW, "chair"), rendition="sketch"),
}


@pytest.mark.parametrize("name", sorted(SCENES))
def test_renders_as_stored(name):
    image = render(SCENES[name], resolution=64, samples=4)
    stored = np.asarray(Image.open(REFERENCE / f"{name}.png"))
    assert image.shape == stored.shape and image.dtype == np.uint8
    assert np.abs(image.astype(float) - stored).mean() < 2.0


def test_rendering_twice_gives_the_same_bytes():
    first, again = (render(SCENES["photo"], resolution=32, samples=4) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("name", CLASSES)
def test_objects_fill_the_unit_ball(name):
    parts = build_object(name, np.random.default_rng(0))
    points = np.vstack([part.vertices for part in parts.values()])
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
    for part in parts.values():
        assert part.vertices.shape == part.normals.shape and len(part.uvs) == len(part.vertices)
        assert np.isfinite(part.normals).all()


def test_a_mirrored_scene_is_the_mirror_image():
    straight = dataclasses.replace(SCENES["sketch"], camera_yaw=0.0, camera_roll=0.0, dx=0.0, mirrored=False)
    mirrored = dataclasses.replace(straight, mirrored=True)
    hit = [_line_buffers(scene, 64)[..., 0] > 0 for scene in (straight, mirrored)]
    assert (hit[0] == hit[1][:, ::-1]).mean() > 0.94
    assert (hit[0] == hit[1]).mean() < 0.9


def test_tone_map_is_monotone_and_bounded():
    ramp = np.linspace(0, 40, 200)[:, None, None] * np.ones((1, 1, 3))
    mapped = tone_map(ramp)[:, 0, 0].astype(int)
    assert (np.diff(mapped) >= 0).all() and mapped[0] == 0 and mapped[-1] == 255
