"""What a model costs: multiply-accumulates of a forward pass, and images per second on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beyond_accuracy.inference.throughput import published_throughput
from beyond_accuracy.page import Page

BATCH = 32  # images per timed forward pass; a model that fits any batch is near its best rate here on a CPU


def forward_macs(network: nn.Module, side: int) -> int:
    """Multiply-accumulates of one image through a network, attention included.

    What papers call FLOPs (DeiT3-B/16: 17.5 G, ConvNeXt-B: 15.4 G) counts a multiplication and its addition as one.

    Args:
        network: Takes (1, 3, side, side).
        side: Input side in pixels.
    """
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    with _countable_attention(), torch.no_grad(), counter:
        network(torch.zeros(1, 3, side, side, device=device))
    return counter.get_total_flops() // 2


def timed_pass(network: nn.Module, images: torch.Tensor) -> float:
    """Seconds of one forward pass."""
    start = time.perf_counter()
    network(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    elif images.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start


def images_per_second(
    network: nn.Module,
    side: int,
    seconds: float,
    batch: int = BATCH,
    timed: Callable[[nn.Module, torch.Tensor], float] = timed_pass,
) -> float:
    """Rate of a network's forward pass, in float32, without decoding: the median over repeated batches.

    Args:
        network: Takes (batch, 3, side, side), on the device to be timed.
        side: Input side in pixels.
        seconds: Time to spend after one pass for warming up; at least three batches are timed.
        batch: Images per pass.
        timed: Runs one pass and tells its seconds.
    """
    device = next(network.parameters()).device
    images = torch.zeros(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    with torch.inference_mode():
        timed(network, images)
        while len(times) < 3 or sum(times) < seconds:
            times.append(timed(network, images))
    return batch / sorted(times)[len(times) // 2]


def cost_table(study: Page, seconds: float = 0.0) -> pd.DataFrame:
    """Cost and input side of every model of a study; imported models, which have no network here, are left out.

    Args:
        study: The open study.
        seconds: Time to spend on each model's rate; 0 leaves the column `images_per_second` empty.

    Returns:
        Columns `model, parameters, macs, side, resize, interpolation, images_per_second`; one row per network. As in
        the paper, a CLIP model counts its image tower only.

    Raises:
        DataMissing: Weights are not on this machine.
    """
    from beyond_accuracy.inference.run import pick_device
    from beyond_accuracy.models.load import model_for

    rows = []
    for name in study.models:
        card = study.card(name)
        if card is None:
            continue
        model = model_for(card, study.settings, study.profile.imports)
        tower = model.network.visual if model.is_clip else model.network
        shape = model.geometry
        macs = forward_macs(tower, shape.crop)
        rate = float("nan")
        if seconds > 0:
            device = pick_device(study.outputs.device)
            rate = images_per_second(tower.to(device, memory_format=torch.channels_last), shape.crop, seconds)
        rows.append((name, card.parameters, macs, shape.crop, shape.resize, shape.interpolation, rate))
    columns = ["model", "parameters", "macs", "side", "resize", "interpolation", "images_per_second"]
    return pd.DataFrame(rows, columns=columns)


def published_table(study: Page) -> pd.DataFrame:
    """Published rates of every model of a study on the cards that have been measured, with their source.

    Returns:
        Columns `model, card, images_per_second, source, precision, side`, at the model's own input side; no rows for
        networks whose architecture nobody has published a rate for, such as the mini world's.
    """
    tables = []
    for name in study.models:
        if (card := study.card(name)) is not None:
            rates = published_throughput(study.spec(name), card.geometry.crop)
            tables.append(rates.assign(model=name))
    columns = ["model", "card", "images_per_second", "source", "precision", "side"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def timing_conditions(study: Page) -> str:
    """Where and how `images_per_second` was measured, for the table's caption."""
    from beyond_accuracy.inference.run import device_name, pick_device

    device = pick_device(study.outputs.device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, float32, batches of {BATCH}, image decoding not included"


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Attention as plain matrix products: the counter does not know every fused kernel."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
