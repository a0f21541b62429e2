"""What a contraction asks of the operating system: huge pages for large tensors, and to take back what is freed."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Tensors of fewer bytes are left as they are.
LARGE = 4 << 20


def give_back(device: torch.device) -> None:
    """Return freed pages to the system between the tiles of a contraction, if the allocator is glibc's.

    glibc keeps freed blocks of up to 32 MiB, and can seldom reuse one for an aligned block of the same size. Without
    this call the process would grow with every tile, to several times the memory that it uses.
    """
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
