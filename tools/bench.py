"""`make bench`: the engine against the network alone, timm's validation loop and a loop per experiment.

Everything runs in one process on one device, on synthetic JPEG images, with random weights (real architectures) or the
mini world's own. The loops take turns, several times over, so that a machine that slows down slows all of them down.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import bench_loops as loops
from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import write_atomically
from beyond_accuracy.base.paths import cache_dir, project_root
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, Profile, load_profile, unknown
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.inference.jobs import choose_precision, processor
from beyond_accuracy.inference.plan import RATES
from beyond_accuracy.inference.run import device_name, pick_device
from beyond_accuracy.models.card import Card
from beyond_accuracy.models.load import model_for, read_card

# name -> (title, architecture of timm or folder, class space, its first class id)
MODELS = {
    "vit_base": ("ViT-B/16 (DeiT3)", "deit3_base_patch16_224", "imagenet_1k"),
    "convnext_base": ("ConvNeXt-B", "convnext_base", "imagenet_1k"),
    "mini_vit": ("mini ViT", "local-dir:assets:mini_world/models/vit_sup", "mini_world"),
    "mini_convnext": ("mini ConvNeXt", "local-dir:assets:mini_world/models/convnext_sup", "mini_world"),
}
CLEAN, SUM = "clean", "experiments"
LOOPS = {
    "ceiling": "network alone",
    "ours": "this engine",
    "timm": "timm's validate loop",
    "plain": "loop per experiment",
}
COLUMNS = ["model", "what", "loop", "precision", "images", "median", "low", "high", "memory", "detail"]


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    device: torch.device
    models: tuple[str, ...]  # keys of `MODELS`
    images: int  # of the clean pass; 0 = as many as the network takes `seconds` for
    sweep_images: int  # of the sum of the paper's experiments
    seconds: float  # for each measurement of the clean pass, roughly
    repeats: int  # how often every loop has its turn


def measure(
    plan: Plan, echo: Callable[[str], None] = print, keep: Callable[[pd.DataFrame], None] = lambda table: None
) -> pd.DataFrame:
    """Run every loop of every model.

    Args:
        plan: What to measure.
        echo: Told one line per measurement.
        keep: Given the table so far after every model, so that a run cut short has not been for nothing.

    Returns:
        One row per model, kind of run (`clean`: images/s of one pass; `experiments`: seconds per image of all of the
        paper's experiments) and loop, with the median and the extremes over the repeats; peak memory in MB.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    rows: list[tuple] = []
    try:
        for name in plan.models:
            rows += _measure_model(plan, name, folder, echo)
            keep(pd.DataFrame(rows, columns=COLUMNS))
            shutil.rmtree(folder / name, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def _measure_model(plan: Plan, name: str, folder: Path, echo: Callable[[str], None]) -> list[tuple]:
    title, source, classes = MODELS[name]
    profile, card = _setup(name, source, classes, folder / name)
    precision = choose_precision("auto", plan.device.type)
    model = model_for(card, profile.settings, profile.imports).to(plan.device)
    side = card.geometry.crop
    batch = 256 if plan.device.type == "cuda" else 16
    best, how = loops.ceiling(model, side, precision, plan.device, plan.seconds, batch)
    count = plan.images or int(np.clip(best * plan.seconds, 2 * batch, 20_000))
    spec = _dataset(folder / name / "clean", classes, count)
    few = _dataset(folder / name / "few", classes, plan.sweep_images)
    clean, sweep, texts = load_dataset(spec), load_dataset(few), loops.experiments()
    device = str(plan.device)
    runs: dict[tuple[str, str], Callable[[], float]] = {
        (CLEAN, "ceiling"): lambda: loops.ceiling(model, side, precision, plan.device, plan.seconds, batch)[0],
        (CLEAN, "ours"): lambda: count / loops.ours([card], profile, clean, ["none"], precision, device),
        (CLEAN, "timm"): lambda: count / loops.timm_validate(model, Path(spec.path), precision, plan.device, batch),
        (CLEAN, "plain"): lambda: count / loops.plain(model, clean, ["none"], plan.device, batch),
        (SUM, "ours"): lambda: loops.ours([card], profile, sweep, texts, precision, device) / plan.sweep_images,
        (SUM, "plain"): lambda: loops.plain(model, sweep, texts, plan.device, batch) / plan.sweep_images,
    }
    values: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    memory = dict.fromkeys(runs, 0.0)
    for turn in range(plan.repeats):
        for key, run in runs.items():
            _reset_peak(plan.device)
            values[key].append(run())
            memory[key] = max(memory[key], _peak(plan.device))
            echo(f"{title}, {key[0]}, {LOOPS[key[1]]}: {values[key][-1]:.2f} (turn {turn + 1})")
    decodes = loops.decodes_per_image([card], profile, sweep.limit(2), texts) if name.startswith("mini") else np.nan
    detail = {(CLEAN, "ceiling"): how, (SUM, "ours"): decodes, (SUM, "plain"): len(texts)}
    return [
        (
            name,
            *key,
            "fp32" if key[1] == "plain" else precision,
            count if key[0] == CLEAN else plan.sweep_images,
            *(float(f(values[key])) for f in (np.median, min, max)),
            memory[key],
            detail.get(key, ""),
        )
        for key in runs
    ]


def _setup(name: str, source: str, classes: str, folder: Path) -> tuple[Profile, Card]:
    """A profile with the model, whose weights are random unless it is one of the mini world's."""
    mini = load_profile("mini")
    if not source.startswith("local-dir:"):
        import timm
        from timm.models import save_for_hf

        torch.manual_seed(loops.SEED)
        save_for_hf(timm.create_model(source, pretrained=False), str(folder / "model"), safe_serialization=True)
        source = f"local-dir:{folder / 'model'}"
    spec = ModelSpec(name, "timm", source, label=name)
    settings = replace(mini.settings, precision="auto")
    profile = replace(mini, models={name: spec}, settings=settings)
    return profile, read_card(spec, settings, profile.imports, folder / "cards")


def _dataset(folder: Path, classes: str, count: int) -> DatasetSpec:
    from beyond_accuracy.data.classes import class_space

    loops.write_images(folder / class_space(classes).ids[0], count)
    return DatasetSpec(folder.name, "class_folder", str(folder), classes, keep="logits")


# Memory --------------------------------------------------------------------------------------------------------------


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> float:
    """Peak memory in MB since the last reset: of the GPU, else of this process without its decoding processes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found.group(1)) / 1024 if found else float("nan")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# The page ------------------------------------------------------------------------------------------------------------


def full_name(device: torch.device) -> str:
    """The card, or the processor with the number of its cores."""
    if device.type != "cpu":
        return device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"


def section(table: pd.DataFrame, device: str, note: str = "", today: str = "") -> str:
    """The Markdown section of one device.

    Args:
        table: Of `measure`.
        device: Its name, the section's heading.
        note: Under which load it was measured.
        today: Date; empty = today's.
    """
    lines = [f"## {device}", "", f"{today or date.today().isoformat()}, torch {torch.__version__}. {note}".rstrip(), ""]
    lines += [
        "| model | loop | precision | images/s, median (lowest to highest) | of the ceiling | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    clean = table[table["what"] == CLEAN]
    for row in clean.itertuples():
        top = clean[(clean["model"] == row.model) & (clean["loop"] == "ceiling")]["median"].item()
        lines.append(
            f"| {MODELS[row.model][0]} | {LOOPS[row.loop]} | {row.precision} | {_number(row.median)} "
            f"({_number(row.low)} to {_number(row.high)}) | {row.median / top:.2f} | {row.memory:.0f} |"
        )
    total = table[table["what"] == SUM]
    plain = total[total["loop"] == "plain"].set_index("model")
    read = total[total["loop"] == "ours"]["detail"].astype(float).max()
    lines += [
        "",
        f"The sum of the paper's clean and invariance experiments ({int(plain['detail'].iloc[0])} passes as the paper "
        "counts them):",
        "",
        "| model | loop | precision | seconds per image, median (lowest to highest) | times as fast | images decoded |",
        "|---|---|---|---|---|---|",
    ]
    for row in total.itertuples():
        gain = plain["median"][row.model] / row.median
        passes = row.detail if row.loop == "plain" else read
        often = f"{float(passes):.0f} x" if np.isfinite(float(passes)) else "not counted"
        lines.append(
            f"| {MODELS[row.model][0]} | {LOOPS[row.loop]} | {row.precision} | {row.median:.3g} "
            f"({row.low:.3g} to {row.high:.3g}) | {gain:.2f} | {often} |"
        )
    return "\n".join(lines)


def update_page(page: Path, device: str, text: str) -> None:
    """Put a device's section into the page; sections of other devices and all other text stay as they are."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    begin, end = f"<!-- bench {slug} -->", f"<!-- end of bench {slug} -->"
    block = f"{begin}\n{text}\n{end}"
    before = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    if begin in before and end in before:
        head, _, rest = before.partition(begin)
        content = head + block + rest.partition(end)[2]
    else:
        content = f"{before.rstrip()}\n\n{block}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, content.encode())


def save_rates(table: pd.DataFrame, device: str, file: Path | None = None) -> None:
    """Keep the engine's rates where `check` finds them; those of other devices and models stay."""
    file = file or cache_dir() / "rates.csv"
    ours = table[(table["what"] == CLEAN) & (table["loop"] == "ours") & ~table["model"].str.startswith("mini")]
    fresh = pd.DataFrame(
        [
            (device, MODELS[row.model][1], 224, row.precision, round(row.median, 2), "make bench")
            for row in ours.itertuples()
        ],
        columns=RATES,
    )
    if file.is_file():
        fresh = pd.concat([pd.read_csv(file), fresh]).drop_duplicates(["device", "model", "side"], keep="last")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, fresh.to_csv(index=False).encode())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--models", default=",".join(MODELS), help=f"comma-separated, of {', '.join(MODELS)}")
    parser.add_argument("--images", type=int, default=0, help="images of the clean pass (default: by --seconds)")
    parser.add_argument("--sweep-images", type=int, default=0, help="images of the sum of experiments")
    parser.add_argument("--seconds", type=float, default=5, help="time of one measurement, roughly (default 5)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every loop (default 3)")
    parser.add_argument("--note", default="", help="under which load it was measured, for the page")
    parser.add_argument("--out", default="", help="page to write (default docs/benchmarks.md)")
    given = parser.parse_args(arguments)
    try:
        names = tuple(name.strip() for name in given.models.split(",") if name.strip())
        if wrong := [name for name in names if name not in MODELS]:
            raise InputError(f"--models: {unknown('model', wrong[0], MODELS)}")
        device = pick_device(given.device)
        few = given.sweep_images or (256 if device.type == "cuda" else 2)
        name = full_name(device)
        page = Path(given.out) if given.out else project_root() / "docs" / "benchmarks.md"

        def keep(table: pd.DataFrame) -> None:
            update_page(page, name, section(table, name, given.note))
            save_rates(table, name)

        table = measure(Plan(device, names, given.images, few, given.seconds, given.repeats), _say, keep)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{section(table, name, given.note)}\n\nwritten to {page}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
