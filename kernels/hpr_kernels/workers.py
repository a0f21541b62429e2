"""Independent tasks on the processor's cores, with one thread per task.

Torch spreads one product over all cores. The products of a contraction are small, and each reads the result of the one
before, so every spread product would wait for the slowest core and read from the caches of others. A task on a core of
its own is 1.5 times as fast, keeps its speed on a busy machine, and rounds the same on any number of cores.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import Barrier, local
from typing import Any, TypeVar

import torch

from hpr_kernels.backend import uses_native
from hpr_kernels.cores import available_cores

Item = TypeVar("Item")
CPU = torch.device("cpu")
# `tasks`: in a thread that is inside `torch_on_one_thread`, the number of threads that torch had before.
_outside = local()


def each(task: Callable[[Item], None], items: Iterable[Item], device: torch.device = CPU) -> None:
    """Call `task` on every item, `threads(device)` at a time; an exception of a task is raised here.

    On any device but the CPU the items follow one another, because such a device runs work in parallel by itself.
    """
    count = threads(device)
    if count == 1:
        for item in items:
            task(item)
        return
    # Torch's modes belong to a thread.
    run = torch.inference_mode()(task) if torch.is_inference_mode_enabled() else task
    # A forked process inherits the pool object without its threads, so the process is part of the key.
    pool = _pool(count, os.getpid())
    futures: list[Future[None]] = []
    try:
        for item in items:
            futures.append(pool.submit(run, item))
        for future in futures:
            future.result()
    finally:
        # No task works on memory that its caller, who was interrupted, has freed.
        for future in futures:
            future.cancel()
        wait(futures)


def threads(device: torch.device) -> int:
    """How many tasks run at a time: the number of torch's threads, at most the number of cores for this process.

    In a container with a quota of two cores torch has as many threads as the whole machine has cores.
    """
    if device.type != "cpu":
        return 1
    return min(getattr(_outside, "tasks", None) or torch.get_num_threads(), _cores())


@contextmanager
def torch_on_one_thread(x: Any) -> Iterator[None]:
    """If C kernels serve `x`: inside, an operation of torch has one thread, and `each` as many as before.

    Torch's threads wait for each other and for the next operation by running in circles. On two cores of which another
    process kept one busy, a kernel of 15 ms took 120 ms, because of the few short operations between the tasks.
    """
    if not isinstance(x, torch.Tensor) or not uses_native(x):
        yield
        return
    before, outer = torch.get_num_threads(), getattr(_outside, "tasks", None)
    _outside.tasks = outer or before
    set_openmp, set_mkl = _thread_setters()
    set_openmp(1)
    # 0 where MKL has no number of its own for this thread.
    before_in_mkl = set_mkl(1)
    try:
        yield
    finally:
        set_openmp(before)
        set_mkl(before_in_mkl)
        _outside.tasks = outer


@cache
def _thread_setters() -> list[Callable[[int], Any]]:
    """OpenMP's and MKL's functions that set the calling thread's number of threads; where torch has none, no-ops.

    `torch.set_num_threads` would set the number of all threads of Python that use torch for the first time, as well.
    """
    library = ctypes.CDLL(torch._C.__file__)
    names = ("omp_set_num_threads", "MKL_Set_Num_Threads_Local")
    return [getattr(library, name, lambda number: 0) for name in names]


@cache
def _cores() -> int:
    return available_cores()


@cache
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    started = Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        # A thread takes over torch's default number at its first query or operation. This query comes before any task.
        torch.get_num_threads()
        torch.set_grad_enabled(False)
        started.wait()

    pool = ThreadPoolExecutor(count, "hpr_kernels", start)
    for _ in range(count):
        pool.submit(lambda: None)
    # `set_num_threads` sets the number of the calling thread and the default of new threads; this restores both.
    started.wait()
    torch.set_num_threads(before)
    return pool
