"""Seconds and memory of the pages at the size of the paper's benchmarks: `python tools/scale.py --images 50000`.

Four small networks with 1,000 classes stand for the models, and their outputs are drawn at random and put into a store
(some 17 GB at full size) where a run would have put them, so that no image is looked at. Then every page is built once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from beyond_accuracy.base.profile import Profile, parse_profile
from beyond_accuracy.data.classes import class_space
from beyond_accuracy.inference import jobs, plan
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.predictions import score
from beyond_accuracy.inference.store import Store

NETWORKS = {"test_vit": ("transformer", "supervised"), "test_convnext": ("convnet", "supervised"),
            "test_vit2": ("transformer", "clip"), "test_resnet": ("convnet", "clip")}  # fmt: skip
PAGES = ("models", "calibration", "robustness", "invariance")
RIGHT = (0.85, 0.83, 0.7, 0.68)  # accuracy of each on plain images


def profile_of(folder: Path, images: int) -> Profile:
    """Profile of four networks on `images` pictures of ImageNet's classes, and the files that it names."""
    ids, picture = class_space("imagenet_1k").ids, folder / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    for k in range(images):
        path = folder / "val" / ids[k % 1000] / f"{k:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.link(picture, path)
    models = {}
    for name, (family, paradigm) in NETWORKS.items():
        torch.manual_seed(0)
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
        models[name] = {"source": "timm", "name": name, "checkpoint": str(folder / f"{name}.safetensors")}
        models[name] |= {"family": family, "paradigm": paradigm}
    one = {"reader": "class_folder", "path": str(folder / "val")}
    sets = {name: one | {"keep": "logits"} for name in ("clean", "v2", "a", "r", "hard")}
    sets |= {name: one | {"keep": "none"} for name in ("sketch", "c")}
    shifted = {name: name for name in ("v2", "a", "r", "sketch", "hard")}
    content = {
        "name": "scale",
        "models": models,
        "datasets": sets,
        "dimensions": {
            "models": {"clean": "clean"},
            "calibration": {"clean": "clean", "shifted": ["r"]},
            "robustness": {"clean": "clean", **shifted, "corrupt": "c"},
            "invariance": {"clean": "clean"},
        },
    }
    path = folder / "scale.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return parse_profile(content, path)


def drawn(targets: np.ndarray, right: float, rng: np.random.Generator) -> np.ndarray:
    """Logits (n, 1000) of a model that is right on a share of the images."""
    logits = rng.standard_normal((len(targets), 1000), np.float32)
    label = np.where(rng.random(len(targets)) < right, targets, rng.integers(0, 1000, len(targets)))
    logits[np.arange(len(targets)), label] += rng.uniform(4, 14, len(targets)).astype(np.float32)
    return logits - logits.max(axis=1, keepdims=True)


def fill(profile: Profile, pages: Sequence[str] = PAGES, device: str = "cpu") -> None:
    """Random outputs for everything that some pages ask for."""
    outputs, rng = Outputs(profile, Store(), {"device": device}), np.random.default_rng(0)
    wanted = {(request.dataset, text): None for page in pages for request in plan.requests(profile, page)
              for text in request.transforms}  # fmt: skip
    cards = [outputs.card(spec) for spec in profile.models.values()]
    precision = jobs.choose_precision(profile.settings.precision, device)
    pool: dict[tuple[str, int], tuple] = {}
    for number, (name, text) in enumerate(wanted):
        data = outputs.data(name)
        for job, right in zip(
            jobs.plan(cards, data, [text], outputs.store, profile.settings, precision), RIGHT, strict=True
        ):
            key = (job.card.name, number % 3)  # a few draws stand for all: drawing takes longer than writing
            if key not in pool:
                logits = drawn(data.targets, right - 0.1 * (number % 3), rng)
                frame = pd.DataFrame({"id": data.ids.astype(str), "target": data.targets})
                pool[key] = frame.assign(**score(logits, data.targets, None)), logits.astype(np.float16)
            frame, logits = pool[key]
            whole = (0, len(data))
            with job.entry.lock() as locked:
                if not job.entry.complete:
                    job.entry.start({"device": device, "torch": torch.__version__, "computed_by": "drawn"}, locked)
                    job.entry.write_part(whole, frame, {"logits": logits} if job.logits else {})
                    job.entry.finish([whole])


def built(folder: Path, page: str) -> tuple[float, float]:
    """Seconds and gigabytes (of the largest process) of one page."""
    code = "import sys; from beyond_accuracy.cli import main; code = main(sys.argv[1:]); " + (
        # its own peak since it began: ru_maxrss counts what this process held when it started it
        "import re, resource; own = int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]); "
        "print('PEAK', max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(code)"
    )
    command = ["report", "--profile", str(folder / "scale.yaml"), "--only", page, "--device", "cpu", "--force"]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{page}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began, int(re.search(r"PEAK (\d+)", done.stdout)[1]) / 1e6


def main() -> None:
    """Print a line for every page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--pages", nargs="*", default=PAGES, choices=PAGES)
    parser.add_argument("--folder", type=Path, help="kept, and used again, where given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {"BEYOND_ACCURACY_ROOT": str(folder), "BEYOND_ACCURACY_CACHE": str(folder / "store")}
        fill(profile_of(folder, given.images), given.pages)
        for page in given.pages:
            seconds, peak = built(folder, page)
            print(f"{page}: {seconds:.0f} s, {peak:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
