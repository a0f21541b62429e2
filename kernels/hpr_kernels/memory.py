"""Memory that is free in the process but not for the machine."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch


def give_back(device: torch.device) -> None:
    """Return freed pages to the system between the tiles of a contraction, where the allocator is glibc's.

    It keeps freed blocks of up to 32 MiB, and a freed block seldom serves an aligned one of its own size again: tile by
    tile the process would grow, to several times the memory that it uses.
    """
    trim = _trim()
    if trim is not None and device.type == "cpu":
        trim(0)


@cache
def _trim() -> Any:
    """glibc's `malloc_trim`, None where the process has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
