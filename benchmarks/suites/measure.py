"""How the suites measure: in turns within one process, by medians of ratios, and by exact counts of work.

The speed of a shared machine changes from second to second, but it changes alike for calls that run in turns, so their
ratio is steadier than their times. The work of a call (multiply-adds, bytes allocated, elements copied) never varies.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from hpr.system.devices import cores, one_thread

Call = Callable[[], object]
CPU = torch.device("cpu")

# Otherwise the profiler writes its log to standard error.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def device(name: str) -> torch.device:
    """The device of a suite's parameter.

    Raises:
        NotImplementedError: this machine has no such device; asv then skips the case.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    return torch.device(name)


def seconds(call: Call, device: torch.device = CPU) -> float:
    """Seconds of one call; on CUDA those between two events on the current stream."""
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Clock:
    """The clock that asv reads: `time.perf_counter`, or events on the current stream once CUDA is in use."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.last: torch.cuda.Event | None = None

    def __call__(self) -> float:
        """Seconds since an arbitrary moment."""
        if not torch.cuda.is_initialized():
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self.last is not None:
            self.elapsed += self.last.elapsed_time(event) / 1e3
        self.last = event
        return self.elapsed


class Timed:
    """Options that the `time_` suites share: a few short samples in one process."""

    timer = Clock()
    rounds = 1
    repeat = (3, 7, 1.0)
    sample_time = 0.02
    warmup_time = 0.05
    timeout = 120.0


def in_turns(
    calls: Sequence[Call], rounds: int = 9, device: torch.device = CPU
) -> list[list[float]]:
    """Seconds of each call in each round, [calls][rounds]; a round has all calls, and a round before warms up."""
    for call in calls:
        call()
    gc.collect()
    turns = [[seconds(call, device) for call in calls] for _ in range(rounds)]
    return [list(times) for times in zip(*turns, strict=True)]


def slowdown(ours: Call, theirs: Call, rounds: int = 9) -> float:
    """The time of `ours` divided by that of `theirs`, on one thread: the median of the ratios of all rounds."""
    with one_thread():
        fast, slow = in_turns([ours, theirs], rounds)
    return statistics.median(a / b for a, b in zip(fast, slow, strict=True))


def slowdown_beside_others(call: Call, rounds: int = 5) -> float:
    """The time of `call` on all cores while another process keeps each core busy, divided by that on quiet cores.

    A scheduler that is fair makes 2 of this. Of several rounds the median is returned.
    """

    def mean() -> float:
        """Seconds per call, over half a second."""
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.5:
            call()
            count += 1
        return (time.perf_counter() - started) / count

    def ratio() -> float:
        quiet = mean()
        with busy_cores():
            return mean() / quiet

    mean()
    return statistics.median(ratio() for _ in range(rounds))


@contextmanager
def busy_cores() -> Iterator[None]:
    """Inside, as many other processes compute as there are cores for this one."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        time.sleep(0.3)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def exponent(call_at: Callable[[int], Call], sizes: Sequence[int], rounds: int = 15) -> float:
    """The exponent p of a time that grows as size^p, on one thread.

    In each round it is the least squares slope of log seconds on log size; the median over rounds is returned.
    """
    with one_thread():
        times = in_turns([call_at(size) for size in sizes], rounds)
    x = [math.log(size) for size in sizes]
    return statistics.median(
        statistics.linear_regression(x, [math.log(one) for one in turn]).slope
        for turn in zip(*times, strict=True)
    )


class Work(NamedTuple):
    """What a call asks of torch: multiply-adds of matrix products, bytes allocated, elements copied."""

    multiply_adds: int
    allocated: int
    copied: int


def work(call: Call) -> Work:
    """Count the work of one call on the CPU, after one that warms up.

    Products are counted by their shapes, a copy by the elements it writes, an allocation by its bytes. The call runs on
    one thread, because torch's profiler sees the operations of that thread alone.
    """
    with one_thread():
        call()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU],
            record_shapes=True,
            profile_memory=True,
            acc_events=True,
        ) as profile:
            call()
    multiply_adds = allocated = copied = 0
    for event in profile.events() or ():
        if event.name in _LEFT:
            left, right = event.input_shapes[_LEFT[event.name] :][:2]
            multiply_adds += math.prod(left) * right[-1]
        elif event.name == "aten::copy_":
            copied += math.prod(event.input_shapes[0])
        allocated += max(0, event.self_cpu_memory_usage)
    return Work(multiply_adds, allocated, copied)


# Matrix products, and the position of the left factor among their arguments.
_LEFT = {
    "aten::mm": 0,
    "aten::bmm": 0,
    "aten::addmm": 1,
    "aten::addmm_": 1,
    "aten::baddbmm": 1,
    "aten::baddbmm_": 1,
}


def peak_memory(call: Call, device: torch.device = CPU) -> int:
    """Bytes by which a call raises the peak of memory: of the card, or of this process, which should be fresh."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    # Linux counts in KiB.
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
