"""How forward passes are spread over a device.

On a CPU several passes run at once, each on threads of its own (a lane, usually of one thread). Splitting one pass over
all cores makes every layer wait for its slowest thread: where decoding or other programs use a core too, that is ten
times slower, and on an idle machine it gains nothing (docs/benchmarks.md has the measurements). A GPU has one lane, the
caller's own thread: kernels are only queued, and how far ahead is bounded.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore

import torch

MAX_LANES = 16  # more lanes of fewer threads would hold more activations in memory at once
QUEUED = 2  # forward passes per lane, or loader batches on a GPU, that wait or run


class Lanes:
    """Runs functions on the device's lanes; use as a context manager, from one thread.

    Attributes:
        count: Number of lanes.
        threads: CPU threads of each.
    """

    def __init__(self, device: torch.device):
        self._device, self._events = device, deque()
        cores = torch.get_num_threads()
        self.count = min(cores, MAX_LANES) if device.type == "cpu" else 1
        self.threads = cores // self.count
        self._pool: ThreadPoolExecutor | None = None
        self._slots = BoundedSemaphore(QUEUED * self.count)

    def __enter__(self) -> "Lanes":
        if self.count > 1:
            # torch keeps this number per thread, so the caller's own stays as it is.
            self._pool = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (self.threads,))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(torch.get_num_threads())  # what threads started later begin with

    def submit(self, function: Callable, *arguments: object) -> Future:
        """Run a function on a lane, at once or when one is free; waits while too much is queued."""
        if self._pool is not None:
            self._slots.acquire()
            future = self._pool.submit(function, *arguments)
            future.add_done_callback(lambda _: self._slots.release())
            return future
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def batch_done(self) -> None:
        """After each loader batch: wait until a GPU has at most `QUEUED` of them still to do."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) > QUEUED:
            self._events.popleft().synchronize()
