"""What a model costs: parameters, multiply-accumulates of a forward pass, and images per second on this machine."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beyond_accuracy.inference.plan import published_throughput
from beyond_accuracy.inference.run import device_name, pick_device
from beyond_accuracy.measure import verdicts
from beyond_accuracy.models.load import model_for

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
    towers: Sequence[tuple[nn.Module, int]], seconds: float, batch: int = BATCH,
    timed: Callable[..., float] = timed_pass,
) -> list[float]:  # fmt: skip
    """Images per second of each network's forward pass, at its input side, in float32, without decoding.

    A round is one batch of each network. After one for warming up come at least three, and as many as take some seconds
    a network. The fastest tenth of a network's batches counts, for whatever runs beside slows them down; not the one
    fastest, which set equal towers 20 % apart.
    """
    images, rounds, spent = [], [], 0.0
    for network, side in towers:
        pixels = torch.zeros(batch, 3, side, side, device=next(network.parameters()).device)
        images.append(pixels.contiguous(memory_format=torch.channels_last))
    with torch.inference_mode():
        while len(rounds) < 4 or spent < seconds * len(towers):
            rounds.append([timed(network, pixels) for (network, _), pixels in zip(towers, images, strict=True)])
            spent += sum(rounds[-1]) * (len(rounds) > 1)
    return list(batch / np.quantile(rounds[1:], 0.1, axis=0, method="lower"))


def cost_table(page: "Page", seconds: float = 0.0) -> pd.DataFrame:
    """Millions of `params`, `gflops` (billions of multiply-accumulates), input and, with `seconds` for each, the rate.

    As in the paper, a CLIP model counts its image tower only; imported models have no row. DataMissing where weights
    are not on this machine.
    """
    rows, towers = [], []
    for name, card in [(name, card) for name in page.models if (card := page.card(name)) is not None]:
        model = model_for(card, page.settings, page.profile.imports)
        tower, shape = model.network.visual if model.is_clip else model.network, model.geometry
        cost = {"model": name, "params": card.parameters / 1e6, "gflops": forward_macs(tower, shape.crop) / 1e9}
        resize = f"{shape.resize} {shape.interpolation}" if shape.resize else "none"
        rows.append(cost | {"input side": shape.crop, "resize": resize})
        if seconds > 0:
            tower = tower.to(pick_device(page.outputs.device), memory_format=torch.channels_last)
            towers.append((tower, shape.crop))
    rates = {"images_per_second": images_per_second(towers, seconds)} if towers else {}
    return pd.DataFrame(rows).assign(**rates)


def cost_rows(costs: pd.DataFrame) -> pd.DataFrame:
    """Rows of `cost_table` as tidy rows of no dataset: counted or timed, without n and interval."""
    if costs.empty:
        return costs
    rows = costs.melt("model", [metric for metric in UNITS if metric in costs], "metric", "value")
    rows = rows.assign(ci_low=np.nan, ci_high=np.nan, n=np.nan, unit=rows["metric"].map(UNITS), dataset="none")
    return rows[rows["value"].notna()]


def published_rates(page: "Page") -> tuple[pd.DataFrame, str]:
    """Published rates by card, at the model's own input side, a column per model, and the caption with their source.

    No rows for networks whose architecture nobody has published a rate for, such as the mini world's.
    """
    cards = {name: card for name in page.models if (card := page.card(name)) is not None}
    tables = [pd.DataFrame(columns=["card", "model", "images_per_second", "source"])]
    for name, card in cards.items():
        tables.append(published_throughput(page.spec(name), card.geometry.crop).assign(model=page.labels[name]))
    rates = pd.concat(tables)
    sources = ", ".join(rates["source"].str.removeprefix("timm ").unique())
    wide = rates.pivot(index="card", columns="model", values="images_per_second").reset_index()
    return wide, f"Images per second published by timm (results folder: {sources})."


def timing_conditions(page: "Page") -> str:
    """Where and how `images_per_second` was measured, for the table's caption."""
    device = pick_device(page.outputs.device)
    threads = f", {verdicts.counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    how = f"float32, batches of {BATCH}, the models in turns and each one's fastest tenth, image decoding not included"
    return f"{device_name(device)}{threads}, {how}"


def sentence(page: "Page", rows: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The finding: who is most accurate, over which range, and how many pairs of models accuracy tells apart."""
    title, ordered = page.title(rows["dataset"].iloc[0]), rows.sort_values("value")
    said = [f"{row.value:.1f} % ({page.labels[row.model]})" for row in ordered.itertuples()]
    if not (apart := verdicts.told_apart(judged)):
        return f"Accuracy on {title} is {said[0]}."
    return f"Accuracy on {title} runs from {said[0]} to {said[-1]}: {page.leader(rows, judged)}; {apart}."


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
