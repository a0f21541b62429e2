"""Memory of a contraction: huge pages for large tensors, working memory that is used again, and giving it back."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import Any

import torch
from torch import Tensor

# Tensors of fewer bytes are left as they are.
LARGE = 4 << 20
# Working memory of at most so many bytes is kept for the next contraction of the same thread.
KEPT = 32 << 20
_kept = local()


def give_back(device: torch.device) -> None:
    """Return freed pages to the system between the tiles of a contraction, if the allocator is glibc's.

    glibc keeps freed blocks of up to 32 MiB, and can seldom reuse one for an aligned block of the same size. Without
    this call the process would grow with every tile, to several times the memory that it uses.
    """
    _kept.memory = None
    trim = _trim()
    if trim is not None and device.type == "cpu":
        trim(0)


@cache
def _trim() -> Any:
    """glibc's `malloc_trim`, or None if the process has no such function."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def scratch(count: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Within `with`, `count` numbers on the CPU of any values, aligned to 64 bytes.

    The system clears pages of new memory, which in a kernel of 8 ms took 2 ms, and 7 with two threads.
    """
    size = count * dtype.itemsize
    memory, _kept.memory = getattr(_kept, "memory", None), None
    if memory is None or len(memory) < size:
        memory = None  # freed before a larger one is made
        memory = on_huge_pages(torch.empty(size, dtype=torch.uint8, device="cpu"))
    yield memory[:size].view(dtype)
    if len(memory) <= KEPT:
        _kept.memory = memory


def on_huge_pages(tensor: Tensor) -> Tensor:
    """The tensor, which is new; if it is large and on the CPU, Linux is asked to back it by huge pages.

    Linux clears a page when it is first written. One of 2 MiB takes much less time than 512 small ones, which took
    nearly a third of the time of a kernel of 40 steps.
    """
    advise = _madvise()
    if advise is not None and tensor.device.type == "cpu" and tensor.nbytes >= LARGE:
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.nbytes) // page * page
        # A system without huge pages answers with an error, which changes nothing.
        advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_HUGEPAGE)
    return tensor


@cache
def _madvise() -> Any:
    """The C library's `madvise`, or None where there are no huge pages to ask for."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    return ctypes.CDLL(None).madvise
