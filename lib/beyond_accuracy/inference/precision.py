"""Devices, and the precision that pays on each; on a processor that is measured once and kept in the cache folder.

Whether bf16 pays on a processor cannot be told by its name: some have the instructions, some emulate them ten times
slower, and a virtual machine may hide them. So a matrix product is timed in both. The answer decides under which
precision `auto` results are stored, so it is kept: it must not change from run to run with the load of the machine.
"""

import json
import platform
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import read_json, write_atomically
from beyond_accuracy.base.paths import cache_dir

PAYS = 1.3  # times as fast as fp32; native bf16 is about twice as fast, emulated far slower
SHAPE = (512, 768, 3072)  # rows, width and hidden width: a layer of a base-size network
REPEATS = 7
# Device files of CUDA, of WSL's and of Jetson's drivers, and of ROCm.
ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvmap", "/dev/kfd")


def check_device(name: str) -> str:
    """The device option as given."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"unknown device {name!r}; expected auto, cuda, cuda:0, mps or cpu")
    return name


def usable_precisions(device: str) -> tuple[str, ...]:
    """Precisions a device computes in at a useful speed; fp16 on a CPU is emulated, more than ten times slower."""
    kinds = {"mps": ("fp32", "fp16"), "cuda": ("fp32", "bf16", "fp16"), "old cuda": ("fp32", "fp16")}
    return kinds.get(_kind(device), ("fp32", "bf16"))


def choose_precision(wanted: str, device: str, cpu: Callable[[], str] | None = None) -> str:
    """`auto` is bf16 where the device is fast in it (a CPU: `cpu_precision`), and fp32 elsewhere.

    Part of every cache key, so asked even when nothing runs; torch is imported only where there could be a CUDA device.
    """
    if wanted != "auto":
        return wanted
    kind = _kind(device)
    return (cpu or cpu_precision)() if kind == "cpu" else "bf16" if kind == "cuda" else "fp32"


def _kind(device: str) -> str:
    """`mps`, `cpu`, `cuda`, `old cuda` (without bf16), or `absent`: a CUDA device that was asked for is not here."""
    if device == "mps" or (device == "auto" and sys.platform == "darwin"):
        return "mps"
    if device == "cpu" or ("torch" not in sys.modules and _surely_no_cuda()):
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu" if device == "auto" else "absent"
    return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else "old cuda"


def _surely_no_cuda() -> bool:
    return sys.platform == "darwin" or (sys.platform == "linux" and not accelerators())


def accelerators() -> list[str]:
    """Device files of accelerators on this machine, whether torch can use them or not."""
    return [path for path in ACCELERATORS if Path(path).exists()]


def processor() -> str:
    """The processor's name as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def cpu_precision(file: Path | None = None, measure: Callable[[], float] | None = None, name: str = "") -> str:
    """`bf16` where the processor is at least 1.3 times as fast in it as in fp32, else `fp32`; kept in `file`."""
    from importlib.metadata import version

    file = file or cache_dir() / "calibration.json"
    key = f"{name or processor()}; torch {version('torch')}"
    known = read_json(file)
    if not isinstance(known.get(key), dict) or "bf16_gain" not in known[key]:
        known[key] = {"bf16_gain": round((measure or bf16_gain)(), 2)}
        with suppress(InputError):  # a cache that cannot be written still serves what it has
            write_atomically(file, json.dumps(known, indent=1).encode())
    return "bf16" if known[key]["bf16_gain"] >= PAYS else "fp32"


def bf16_gain() -> float:
    """How many times as fast one thread multiplies matrices in bf16 as in fp32: least processor time of a few turns."""
    import torch

    rows, width, hidden = SHAPE
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the thread's own processor time is all of it, whatever else is running
    try:
        kinds = (torch.float32, torch.bfloat16)
        operands = {
            kind: (torch.ones(rows, width, dtype=kind), torch.ones(hidden, width, dtype=kind)) for kind in kinds
        }
        times: dict = {kind: [] for kind in kinds}
        with torch.inference_mode():
            for _ in range(REPEATS):
                for kind, (x, weight) in operands.items():
                    start = time.thread_time()
                    torch.nn.functional.linear(x, weight)
                    times[kind].append(time.thread_time() - start)
        return min(times[torch.float32]) / min(times[torch.bfloat16])
    finally:
        torch.set_num_threads(threads)
