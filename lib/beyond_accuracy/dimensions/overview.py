"""What a model costs: parameters, multiply-accumulates of a forward pass, and images per second on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beyond_accuracy.inference.throughput import published_throughput
from beyond_accuracy.measure import verdicts

if TYPE_CHECKING:
    from beyond_accuracy.page import Page

BATCH = 32  # images per timed forward pass; a model that fits any batch is near its best rate here on a CPU
UNITS = {"params": "millions", "gflops": "gflops", "images_per_second": "images/s"}


def forward_macs(network: nn.Module, side: int) -> int:
    """Multiply-accumulates of one (3, side, side) image through a network, attention included.

    What papers call FLOPs (DeiT3-B/16: 17.5 G, ConvNeXt-B: 15.4 G) counts a multiplication and its addition as one.
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


def cost_table(page: "Page", seconds: float = 0.0) -> pd.DataFrame:
    """Cost and input of every network; imported models have none and are left out.

    As in the paper, a CLIP model counts its image tower only.

    Args:
        page: The open page.
        seconds: Time to spend on each model's rate; 0 leaves the column `images_per_second` out.

    Returns:
        Columns `model, params` (millions), `gflops` (billions of multiply-accumulates), `input side, resize` and
        `images_per_second`.

    Raises:
        DataMissing: Weights are not on this machine.
    """
    from beyond_accuracy.inference.run import pick_device
    from beyond_accuracy.models.load import model_for

    rows = []
    for name in page.models:
        if (card := page.card(name)) is None:
            continue
        model = model_for(card, page.settings, page.profile.imports)
        tower = model.network.visual if model.is_clip else model.network
        shape = model.geometry
        cost = {"model": name, "params": card.parameters / 1e6, "gflops": forward_macs(tower, shape.crop) / 1e9}
        cost |= {
            "input side": shape.crop,
            "resize": f"{shape.resize} {shape.interpolation}" if shape.resize else "none",
        }
        if seconds > 0:
            tower = tower.to(pick_device(page.outputs.device), memory_format=torch.channels_last)
            cost["images_per_second"] = images_per_second(tower, shape.crop, seconds)
        rows.append(cost)
    return pd.DataFrame(rows)


def cost_rows(costs: pd.DataFrame) -> pd.DataFrame:
    """Rows of `cost_table` as tidy rows of no dataset: counted or timed, without n and interval."""
    if costs.empty:
        return costs
    rows = costs.melt("model", [metric for metric in UNITS if metric in costs], "metric", "value")
    rows = rows.assign(ci_low=np.nan, ci_high=np.nan, n=np.nan, unit=rows["metric"].map(UNITS), dataset="none")
    return rows[rows["value"].notna()]


def published_table(page: "Page") -> pd.DataFrame:
    """Published rates of every network of a page on the cards that have been measured, with their source.

    Returns:
        Columns `model, card, images_per_second, source, precision, side`, at the model's own input side; no rows for
        networks whose architecture nobody has published a rate for, such as the mini world's.
    """
    tables = []
    for name in page.models:
        if (card := page.card(name)) is not None:
            rates = published_throughput(page.spec(name), card.geometry.crop)
            tables.append(rates.assign(model=name))
    columns = ["model", "card", "images_per_second", "source", "precision", "side"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def published_wide(page: "Page") -> tuple[pd.DataFrame, str]:
    """Published rates for readers, a column per model, and the caption; no rows where nobody has published any."""
    rates = published_table(page)
    sources = ", ".join(rates["source"].str.removeprefix("timm ").unique())
    wide = rates.assign(model=rates["model"].map(page.labels))
    wide = wide.pivot(index="card", columns="model", values="images_per_second").reset_index()
    return wide, f"Images per second published by timm (results folder: {sources})."


def timing_conditions(page: "Page") -> str:
    """Where and how `images_per_second` was measured, for the table's caption."""
    from beyond_accuracy.inference.run import device_name, pick_device

    device = pick_device(page.outputs.device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, float32, batches of {BATCH}, image decoding not included"


def sentence(page: "Page", rows: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The finding: who is most accurate, over which range, and how many pairs of models accuracy tells apart."""
    title, ordered = page.title(rows["dataset"].iloc[0]), rows.sort_values("value")
    said = [f"{row.value:.1f} % ({page.labels[row.model]})" for row in ordered.itertuples()]
    apart, pairs = verdicts.tells_apart(judged)
    if not pairs:
        return f"Accuracy on {title} is {said[0]}."
    return (
        f"Accuracy on {title} runs from {said[0]} to {said[-1]} and tells {apart} of {pairs} pairs of models apart: "
        f"{page.leader(rows, judged)}."
    )


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
