"""Loops that `make bench` compares: the network alone, this engine, timm's validation loop, and a loop per experiment.

All of them run the same network on the same encoded images. Each returns seconds; building models and datasets, and
starting the decoding processes of the loops that are not ours, is outside of the measured time.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from beyond_accuracy.base.profile import Profile
from beyond_accuracy.data import published
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference import jobs
from beyond_accuracy.inference import run as inference
from beyond_accuracy.inference.run import worker_count
from beyond_accuracy.inference.store import Store
from beyond_accuracy.models.card import Card
from beyond_accuracy.models.network import Model

SIZE = (500, 375)  # pixels of the usual ImageNet photo
SEED = 20231115


def experiments() -> list[str]:
    """Every run that the paper's clean and invariance results take, as it counts them: each strength is one pass."""
    table = published.paper()
    metrics = table[table["dimension"] == "invariance"]["metric"].drop_duplicates()
    return ["none", *(metric.removeprefix("accuracy:") for metric in metrics)]


def write_images(folder: Path, count: int, distinct: int = 64) -> None:
    """Photo-like JPEG files: soft shapes, edges and fine grain, 500 x 375, quality 90; the same bytes on every machine.

    Args:
        folder: Where to.
        count: Number of files.
        distinct: After this many the files repeat, under other names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:06d}.jpg"
        if i < distinct:
            photo_like(np.random.default_rng([SEED, i])).save(path, "JPEG", quality=90)
        else:
            shutil.copyfile(folder / f"{i % distinct:06d}.jpg", path)


def photo_like(rng: np.random.Generator) -> Image.Image:
    """One picture of random content whose spectrum falls with frequency, as a photo's does."""
    total = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for cells, strength in ((4, 60), (12, 40), (40, 25), (120, 12)):
        coarse = rng.normal(128, strength, (cells * 3 // 4, cells, 3)).clip(0, 255).astype(np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), np.float32) - 128
    total += rng.normal(0, 6, total.shape) + 128
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def ceiling(
    model: Model, side: int, precision: str, device: torch.device, seconds: float, batch: int
) -> tuple[float, str]:
    """Images per second of the network alone on resident random data; nothing that decodes or stores can be faster.

    On a CPU the faster of two ways to use the cores: one pass on all threads, or one pass per lane.

    Returns:
        The rate, and how the cores were used.
    """
    x = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    enabled = precision != "fp32"
    kind = torch.bfloat16 if precision == "bf16" else torch.float16

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device.type, kind, enabled=enabled):
            model.network(x)

    found = [(_rate(forward, batch, device, seconds), "one pass on all threads")]
    if inference.Lanes(device).count > 1:
        with inference.Lanes(device) as lanes:
            for future in [lanes.submit(forward) for _ in range(lanes.count)]:
                future.result()
            start, done = time.perf_counter(), []
            while time.perf_counter() - start < seconds:
                done.append(lanes.submit(forward))
            for future in done:
                future.result()
            found.append((batch * len(done) / (time.perf_counter() - start), f"{lanes.count} passes at once"))
    return max(found)


def ours(
    cards: Sequence[Card], profile: Profile, dataset: ImageDataset, texts: list[str], precision: str, device: str
) -> float:
    """Seconds of the engine from an empty store to complete entries, everything included."""
    folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
    try:
        store = Store(folder)
        start = time.perf_counter()
        unique = list(dict.fromkeys(parse(text).text for text in texts))
        todo = jobs.plan(list(cards), dataset, unique, store, profile.settings, precision)
        options = inference.Options(device=device, progress=False, imports=profile.imports)
        inference.run(todo, dataset, store, profile.settings, options)
        return time.perf_counter() - start
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Transformed(Dataset):
    """One experiment's images as float tensors, decoded anew."""

    def __init__(self, dataset: ImageDataset, model: Model, text: str):
        self.dataset, self.transform = dataset, parse(text)
        base = model.card.geometry
        self.geometry = base.at(self.transform.input_size(base.crop, model.card.patch))
        self.mean = torch.tensor(model.card.mean).view(3, 1, 1)
        self.std = torch.tensor(model.card.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        rng = self.transform.generator(str(self.dataset.ids[position]))
        image = self.transform.apply_source(self.dataset.image(position), rng)
        image = self.transform.apply_input(self.geometry.apply(image), rng)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
        return (pixels - self.mean) / self.std, int(self.dataset.targets[position])


def plain(model: Model, dataset: ImageDataset, texts: list[str], device: torch.device, batch: int) -> float:
    """Seconds of one loader pass per experiment in float32, as the paper's program makes them."""
    total = 0.0
    for text in texts:
        data = _Transformed(dataset, model, text)
        network = model.at_size(data.geometry.crop).network.to(device)
        workers = worker_count(-1, -(-len(dataset) // batch), device)
        loader = iter(DataLoader(data, batch_size=batch, num_workers=workers, pin_memory=device.type == "cuda"))
        start, right = time.perf_counter(), 0
        with torch.no_grad():
            for images, targets in loader:
                scores = network(images.to(device))
                right += (scores.argmax(dim=1).cpu() == targets).sum().item()
        _wait(device)
        total += time.perf_counter() - start
    return total


def timm_validate(model: Model, folder: Path, precision: str, device: torch.device, batch: int) -> float:
    """Seconds of timm's own loader and the loop of its validation script: loss, top-1 and top-5 after every batch."""
    from timm.data import create_dataset, create_loader
    from timm.utils import AverageMeter, accuracy

    card = model.card
    data = create_dataset("", root=str(folder))
    loader = create_loader(
        data,
        input_size=(3, card.geometry.crop, card.geometry.crop),
        batch_size=batch,
        use_prefetcher=device.type == "cuda",
        interpolation=card.geometry.interpolation,
        mean=card.mean,
        std=card.std,
        crop_pct=card.geometry.crop / card.geometry.resize,
        num_workers=worker_count(-1, -(-len(data) // batch), device),
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,
    )
    network, criterion = model.network.to(device), nn.CrossEntropyLoss().to(device)
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    enabled = precision != "fp32"
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    batches = iter(loader)
    start = time.perf_counter()
    with torch.inference_mode():
        for images, targets in batches:
            images, targets = images.to(device), targets.to(device)
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, kind, enabled=enabled):
                scores = network(images)
            scores = scores.float()
            losses.update(criterion(scores, targets).item(), len(images))
            one, five = accuracy(scores, targets, topk=(1, 5))
            top1.update(one.item(), len(images))
            top5.update(five.item(), len(images))
    _wait(device)
    return time.perf_counter() - start


def decodes_per_image(cards: Sequence[Card], profile: Profile, dataset: ImageDataset, texts: list[str]) -> float:
    """How often the engine reads each image for a list of experiments, counted in this process."""
    read: list[int] = []
    counted = replace(dataset, load=lambda position: read.append(position) or dataset.load(position))
    alone = replace(profile, settings=replace(profile.settings, workers=0))
    ours(cards, alone, counted, texts, "fp32", "cpu")
    return len(read) / len(dataset)


def _rate(forward: Callable[[], None], batch: int, device: torch.device, seconds: float) -> float:
    forward()
    _wait(device)
    start, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - start < seconds:
        forward()
        count += 1
        if device.type != "cpu" and count % 8 == 0:
            _wait(device)
    _wait(device)
    return batch * count / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
