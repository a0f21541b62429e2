"""How things are measured here: in turns within one process, by medians of ratios, and by exact counts of work.

A shared machine is fast now and slow in a second, but what runs in turns is slowed alike: a ratio of neighbours holds
where a time does not. What a call asks of torch (multiply-adds, bytes allocated, elements copied) does not vary at all.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

Call = Callable[[], object]
CPU = torch.device("cpu")

# The profiler's own log goes to standard error otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def device(name: str) -> torch.device:
    """The device of a suite's parameter.

    Raises:
        NotImplementedError: it is not here; asv then skips the case.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    return torch.device(name)


def seconds(call: Call, device: torch.device = CPU) -> float:
    """Duration of one call; on CUDA between two events on the current stream."""
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
    """Seconds as asv asks for them: the processor's, or where CUDA is at work by events on its stream."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.last: torch.cuda.Event | None = None

    def __call__(self) -> float:
        """The time now; only differences mean something."""
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
    """What the `time_` suites have in common: a few short samples in a process of their own."""

    timer = Clock()
    rounds = 1
    repeat = (3, 7, 1.0)
    sample_time = 0.02
    warmup_time = 0.05
    timeout = 120.0


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, which a busy machine slows by its share; threads that wait for each other by far more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_turns(
    calls: Sequence[Call], rounds: int = 9, device: torch.device = CPU
) -> list[list[float]]:
    """Seconds of each call in each round, [calls][rounds]; every round has all calls, and one before warms up."""
    for call in calls:
        call()
    gc.collect()
    turns = [[seconds(call, device) for call in calls] for _ in range(rounds)]
    return [list(times) for times in zip(*turns, strict=True)]


def slowdown(ours: Call, theirs: Call, rounds: int = 9) -> float:
    """How many times as long as `theirs` a call of `ours` takes, on one thread: below 1 where it is faster.

    The median over rounds.
    """
    with one_thread():
        fast, slow = in_turns([ours, theirs], rounds)
    return statistics.median(a / b for a, b in zip(fast, slow, strict=True))


def exponent(call_at: Callable[[int], Call], sizes: Sequence[int], rounds: int = 15) -> float:
    """The power of the size that the time grows with, on one thread.

    The least squares slope of log seconds on log size within a round, and the median over rounds.
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
    """Count the work of one call on the CPU, after one that warms up; on one thread, whose calls torch's profiler sees.

    Products are counted by their shapes, a copy by the elements it writes, an allocation by its bytes. The same call
    gives the same counts every time.
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


# Matrix products, and which of their arguments is the left one.
_LEFT = {
    "aten::mm": 0,
    "aten::bmm": 0,
    "aten::addmm": 1,
    "aten::addmm_": 1,
    "aten::baddbmm": 1,
    "aten::baddbmm_": 1,
}


def peak_memory(call: Call, device: torch.device = CPU) -> int:
    """Bytes by which a call raises the highest memory so far: of this process, fresh and small, or of the card."""
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
