"""Every setting there is: either the store's key changes with it, or the numbers do not."""

import importlib
import json
import os
import shutil
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from beyond_accuracy.base import files
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, Settings
from beyond_accuracy.data import readers
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.data.transforms import Transform
from beyond_accuracy.inference.jobs import Options
from beyond_accuracy.models import load

BOTH, COLOUR, CLIP, NEITHER = {"colour", "clip"}, {"colour"}, {"clip"}, set()


class World:
    """Two networks and nine images, and the profile as it is changed."""

    def __init__(self, toy):
        self.toy, self.transform, self.options = toy, "none", {}
        toy.images(3), toy.checkpoint(), toy.clip()
        self.restore()

    def restore(self):
        names = {"colour": "timm", "clip": "open_clip"}
        self.models = {name: {"source": s, "name": f"local-dir:{self.toy.root / name}"} for name, s in names.items()}
        self.content, self.transform, self.options = self.toy.content(self.models), "none", {}
        self.images, self.settings = self.content["datasets"]["images"], self.content["settings"]

    def said(self, store="store"):
        """Keys and predictions by model, as a new process would see them."""
        for remembered in (load.LOADED, readers.LOADED):
            remembered.clear()
        class_space.cache_clear(), files.modules_digest.cache_clear()
        self.toy.store = self.toy.root / store
        outputs = self.toy.outputs(self.content, self.options)
        found = outputs.predictions("images", [self.transform])[self.transform]
        return {name: found[name].meta["key"] for name in found}, found


def setting(name, value):
    return lambda world: world.settings.update({name: value})


def data(**changes):
    return lambda world: world.images.update(changes)


def every_model(**changes):
    return lambda world: [model.update(changes) for model in world.models.values()]


def transform(text):
    return lambda world: setattr(world, "transform", text)


def option(**changes):
    return lambda world: world.options.update(changes)


def classes(**changes):
    def change(world):
        content = json.loads(world.toy.classes.read_text()) | changes
        (world.toy.root / "other.json").write_text(json.dumps(content))
        world.images["classes"] = str(world.toy.root / "other.json")

    return change


def copied(world):
    shutil.copytree(world.toy.data / "images", world.toy.data / "copy", dirs_exist_ok=True)
    world.images["path"] = str(world.toy.data / "copy")


def one_pixel(world):
    """One image replaced in place by one of the same size and time."""
    copied(world)
    path = world.toy.data / "copy" / "red" / "red001.png"
    pixels, before, content = np.array(Image.open(path)), path.stat(), path.read_bytes()
    for value in range(256):
        pixels[3, 3, 0] = value
        Image.fromarray(pixels).save(path)
        if path.stat().st_size == before.st_size and path.read_bytes() != content:
            break
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_weights(world):
    folder = shutil.copytree(world.toy.root / "colour", world.toy.root / "colour2", dirs_exist_ok=True)
    save_file({"head.weight": torch.tensor([[8.0, 0, 0], [0, 8, 0], [0, 0, 8.000001]])}, folder / "model.safetensors")
    world.models["colour"]["name"] = f"local-dir:{folder}"


def checkpoint(world):
    file = world.toy.root / "w.safetensors"
    save_file({"head.weight": 7 * torch.eye(3)}, file)
    world.models["colour"]["checkpoint"] = str(file)


def configuration(name, **changes):
    def change(world):
        folder = shutil.copytree(world.toy.root / name, world.toy.root / f"{name}3", dirs_exist_ok=True)
        for file in folder.glob("*config.json"):
            content = json.loads(file.read_text())
            for path, value in changes.items():
                node = content
                *parents, last = path.split("__")
                for key in parents:
                    node = node[key]
                node[last] = value
            file.write_text(json.dumps(content))
        world.models[name]["name"] = f"local-dir:{folder}"

    return change


def renamed(world):
    world.content["models"] = {f"{name}_2": model for name, model in world.models.items()}


# What is changed, how, and whose keys change. Names of fields stand before the first colon.
CASES = {
    "Settings.preset": (setting("preset", "paper"), COLOUR),
    "Settings.interpolation": (setting("interpolation", "bicubic"), COLOUR),  # the other's own is bicubic
    "Settings.side": (setting("side", "published"), NEITHER),  # these two were published at the side they run at
    "Settings.antialias": (setting("antialias", False), BOTH),
    "Settings.logit_scale": (setting("logit_scale", "100"), CLIP),
    "Settings.precision": (setting("precision", "bf16"), BOTH),
    "Settings.prompts": (setting("prompts", "a {c}"), CLIP),
    "ModelSpec.name": (renamed, NEITHER),
    "ModelSpec.id": (other_weights, COLOUR),
    "ModelSpec.id: preprocessing": (configuration("colour", pretrained_cfg__crop_pct=0.5), COLOUR),
    "ModelSpec.id: mean": (configuration("colour", pretrained_cfg__mean=[0.1, 0.1, 0.1]), COLOUR),
    "ModelSpec.id: CLIP std": (configuration("clip", preprocess_cfg__std=[0.3, 0.3, 0.3]), CLIP),
    "ModelSpec.id: activation": (configuration("clip", model_cfg__quick_gelu=True), CLIP),
    "ModelSpec.checkpoint": (checkpoint, COLOUR),
    "ModelSpec.label": (lambda world: world.models["clip"].update(label="L"), NEITHER),
    "ModelSpec.family": (every_model(family="F"), NEITHER),
    "ModelSpec.paradigm": (every_model(paradigm="P"), NEITHER),
    "DatasetSpec.path: the same images elsewhere": (copied, NEITHER),
    "DatasetSpec.path: another pixel": (one_pixel, BOTH),
    "DatasetSpec.classes: names": (classes(names=["crimson", "lime", "navy"]), CLIP),
    "DatasetSpec.classes: spoken": (classes(prompt_names=["a red", "a green", "a blue"]), CLIP),
    "DatasetSpec.classes: templates": (classes(templates=["{c}"]), CLIP),
    "DatasetSpec.classes: order": (classes(ids=["green", "red", "blue"], names=["green", "red", "blue"]), BOTH),
    "DatasetSpec.options: preprocess": (data(options={"preprocess": "native"}), BOTH),
    "DatasetSpec.limit": (data(limit=3), BOTH),
    "DatasetSpec.keep": (data(keep="none"), BOTH),
    "DatasetSpec.expected": (data(expected=9), NEITHER),
    "Options.batch_size": (option(batch_size=2), NEITHER),
    "Options.skip_bad": (option(skip_bad=True), NEITHER),
    "Options.progress": (option(progress=False), NEITHER),
    "Transform.name": (transform("hflip=1"), BOTH),
    "Transform.strength": (transform("shift=30"), BOTH),
    "Transform.strength: none": (transform("shift=0"), NEITHER),
    "Transform.variant": (transform("shift=30@paper"), BOTH),
    "Transform.corruption": (transform("corrupt:fog=1"), BOTH),
}
NOTHING = {"seed": 5, "resamples": 10, "notebook_timeout": 9, "workers": 1, "chunk": 3, "exchange": "memory://x"}
CASES |= {f"Settings.{name}": (setting(name, value), NEITHER) for name, value in NOTHING.items()}
CASES |= {f"DatasetSpec.{name}": (data(**{name: "X"}), NEITHER) for name in ("title", "licence")}
HARMLESS = [change for change, whose in CASES.values() if whose == NEITHER]
ELSEWHERE = {
    "Settings.engine": "tests/cluster/test_ray.py: the same bits",
    "ModelSpec.head": "part of a head's own key (tests/inference/test_heads.py); the network's answers stay",
    "ModelSpec.pretrained": "refused beside a local folder (tests/models/test_load.py); a tag means other weights",
    "ModelSpec.source": "the two networks of this test have one each",
    "DatasetSpec.name": "a profile's own word for a set; what a page reads goes by its key",
    "DatasetSpec.reader": "what it reads is what counts: ids, labels, files (tests/data)",
    "Options.device": "fp32 on another device differs by rounding (docs/store.md)",
    "Options.engine": "as Settings.engine",
    "Options.imports": "the next test",
}


def test_no_setting_is_forgotten():
    named = {case.partition(":")[0] for case in CASES} | ELSEWHERE.keys()
    kinds = (Settings, ModelSpec, DatasetSpec, Options, Transform)
    assert named == {f"{kind.__name__}.{field.name}" for kind in kinds for field in fields(kind)}


def test_the_key_changes_or_the_numbers_do_not(toy):
    world, wrong, seen = World(toy), [], {}
    base, plain = world.said()
    together = "all that change no key", (lambda world: [change(world) for change in HARMLESS], NEITHER)
    for case, (change, expected) in [*CASES.items(), together]:
        world.restore()
        change(world)
        keys, _ = world.said()
        keys = {name.removesuffix("_2"): key for name, key in keys.items()}
        if {name for name in base if keys[name] != base[name]} != expected:
            wrong.append(case)
        for name in expected:
            if other := seen.setdefault(keys[name], case) != case:
                wrong.append(f"{case} has the key of {other}")
        if expected in (COLOUR, CLIP) or case == together[0]:  # computed anew, the others' numbers are what they were
            _, again = world.said("again")
            for name in BOTH - expected:
                new = again.get(name) or again[f"{name}_2"]
                pd.testing.assert_frame_equal(new.frame, plain[name].frame, obj=case)
                np.testing.assert_array_equal(new.logits, plain[name].logits, err_msg=case)
            shutil.rmtree(toy.root / "again")
    assert wrong == []


OWN = """
import own_helper
import toy_networks
from timm.models import register_model

class OwnColour(toy_networks.ToyColour):
    def forward_head(self, x, pre_logits=False):
        return super().forward_head(own_helper.through(x), pre_logits)

@register_model
def own_colour(pretrained=False, **kwargs):
    return toy_networks.build_model_with_cfg(OwnColour, "toy_colour", pretrained, **kwargs)
"""


def test_a_module_of_the_profile_that_computes_otherwise(toy, monkeypatch):
    """The same layers and weights with another forward pass, here by a helper of the module, are another model."""
    world, folder = World(toy), toy.root / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    (folder / "own_colour_module.py").write_text(OWN)
    config = toy.root / "colour" / "config.json"
    config.write_text(config.read_text().replace("toy_colour", "own_colour"))

    def said(helper):
        (folder / "own_helper.py").write_text(f"def through(x):\n    return {helper}\n")
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        for name in ("own_colour_module", "own_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        world.restore()
        world.content["imports"] = ["own_colour_module"]
        keys, found = world.said()
        return keys["colour"], found["colour"].correct.mean()

    (first, right), again, (other, turned) = said("x"), said("x  # as before"), said("x.amax() - x")
    assert again == (first, right) and other != first and (right, turned) == (1, 0)


def test_other_code_is_another_key(toy, monkeypatch, request):
    """What `git pull` brings: outputs of the old code are not shown as those of the new one."""
    toy.images(1), toy.checkpoint()
    package = toy.root / "beyond_accuracy"
    shutil.copytree(files.PACKAGE, package, ignore=shutil.ignore_patterns("assets"))
    monkeypatch.setattr(files, "PACKAGE", package)
    request.addfinalizer(files.code_digest.cache_clear)
    texts = ["none", "shift=30", "rotation=90", "corrupt:fog=1"]

    def keys():
        files.code_digest.cache_clear()
        return {text: found["colour"].meta["key"] for text, found in toy.outputs().predictions("images", texts).items()}

    base = keys()
    for file, old, new, whose in (
        ("data/transforms.py", "moved.paste(image, (pixels, 0))", "moved.paste(image, (0, pixels))", texts[1:]),
        ("data/transforms.py", "rotate(degrees", "rotate(-degrees", texts[1:]),
        ("data/corruptions.py", "rng.poisson(pixels", "rng.poisson(1 + pixels", texts[3:]),
        ("models/network.py", ".sub_(mean)", ".add_(mean)", texts),
        ("models/network.py", "\n\n\n", "\n\n\n# as before\n", []),
    ):
        source = (package / file).read_text()
        (package / file).write_text(source.replace(old, new))
        other = [text for text, key in keys().items() if key != base[text]]
        (package / file).write_text(source)
        assert other == whose, new
