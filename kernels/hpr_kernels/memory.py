"""Returning memory that the process has freed to the operating system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch


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
