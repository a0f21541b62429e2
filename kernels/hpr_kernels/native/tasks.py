"""Calls of C functions that share tasks: one call per thread, and one counter from which all of them take tasks."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Array, Structure, addressof, byref, c_int64

import torch

from hpr_kernels.native.library import function
from hpr_kernels.workers import each


def take_tasks(name: str, arguments: Structure, dtype: torch.dtype, workers: int) -> None:
    """Call the C function `name` on each of `workers` threads; `arguments` has a field `counter`.

    Raises:
        MemoryError: a thread found no memory for its work.
    """
    counter = c_int64(0)
    arguments.counter = addressof(counter)
    call = function(name, dtype)
    done: list[int] = []
    each(lambda _: done.append(call(byref(arguments))), range(workers))
    if not all(done):
        raise MemoryError(f"{name}: expected memory for the work of one thread, got none")


def integer_array(values: Sequence[int]) -> Array[c_int64]:
    """An array of int64 for C. A tensor would be made on the default device, which need not be the CPU."""
    return (c_int64 * max(1, len(values)))(*values)
