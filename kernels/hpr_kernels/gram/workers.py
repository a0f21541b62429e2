"""Independent tasks on the processor's cores: one thread a task, so that a task's products never wait for each other.

Torch spreads one product over all cores. The products of a contraction are small, and what one writes the next reads:
spread, they would wait for the slowest core each time and fetch each other's caches. A task that has a core to
itself is 1.5 times as fast, keeps its speed on a busy machine, and rounds the same on any number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

from hpr_kernels.cores import available_cores

Item = TypeVar("Item")
CPU = torch.device("cpu")


def each(task: Callable[[Item], None], items: Iterable[Item], device: torch.device = CPU) -> None:
    """Call `task` on every item, as many at a time as torch has threads; an exception of a task is raised here.

    On another device than the CPU, which has its own ways to do several things at once, one after another.
    """
    count = threads(device)
    if count == 1:
        for item in items:
            task(item)
        return
    # A forked process inherits the pool's record, but none of its threads.
    for _ in _pool(count, os.getpid()).map(task, items):
        pass


def threads(device: torch.device) -> int:
    """How many tasks run at a time: as many as torch has threads, but no more than there are cores for this process.

    In a container with a quota of two cores torch has a thread for each core of the machine.
    """
    return min(torch.get_num_threads(), _cores()) if device.type == "cpu" else 1


@cache
def _cores() -> int:
    return available_cores()


@cache
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    started = Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        # A new thread takes torch's default at its first question or operation, which must not be a later one.
        torch.get_num_threads()
        torch.set_grad_enabled(False)
        started.wait()

    pool = ThreadPoolExecutor(count, "hpr_kernels", start)
    for _ in range(count):
        pool.submit(lambda: None)
    # Torch keeps the number of threads a thread, and the last one set as the default of new threads: set it back.
    started.wait()
    torch.set_num_threads(before)
    return pool
