"""Measures one method on a few examples first, and on all where those few say that it takes neither long nor much.

It needs the standard library alone, because it also runs where torch is not installed.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Call = Callable[[], Any]
# Numbers of examples before all of them.
FEW = (2, 4)
# Timed calls stop after this many seconds.
LONGEST = 30.0
# A call that needs more bytes is not made.
MOST_BYTES = 12e9


class Stage(NamedTuple):
    """What was found: the kernel of the first `examples`, and the forecast or measured cost of all of them."""

    kernel: Any
    examples: int
    # Seconds of a call, and bytes of its peak less the kernel's.
    seconds: float
    peak: float


def staged(call_of: Callable[[int], Call], B: int, limit: float) -> Stage:
    """Call with one example, with FEW, and with all B unless these need more than `limit` seconds or MOST_BYTES.

    The peak is that of resident memory over what one example left, less the kernel. The call with one example loads
    what a library loads when it is first used. An infinite limit leaves out the calls with FEW.
    """
    call_of(1)()
    base = memory("VmRSS")
    seconds, peaks, K = {}, {}, None
    for b in (b for b in FEW if b < B and limit < math.inf):
        call = call_of(b)
        # Jax compiles for each number of examples.
        K = call()
        peaks[b] = rise(base, K)
        seconds[b] = timed(call)
    if len(seconds) == len(FEW):
        forecast = extrapolated(seconds, B), extrapolated(peaks, B)
        if forecast[0] > limit or forecast[1] > MOST_BYTES:
            return Stage(K, max(seconds), *forecast)
    call = call_of(B)
    started = time.perf_counter()
    K = call()
    return Stage(K, B, time.perf_counter() - started, rise(base, K))


def extrapolated(found: dict[int, float], B: int) -> float:
    """a B + b B² through the last two points, where a and b are not negative.

    Reverse sweeps cost a B, the product of Jacobians costs b B².
    """
    (b1, v1), (b2, v2) = sorted(found.items())[-2:]
    square = (v2 / b2 - v1 / b1) / (b2 - b1)
    if square <= 0:
        return v2 * B / b2
    linear = v1 / b1 - square * b1
    return linear * B + square * B**2 if linear > 0 else v2 * (B / b2) ** 2


def repeats_within(repeats: int, seconds: float) -> int:
    """How many of the asked repeats are made of a call of so many seconds; at least one."""
    return max(1, min(repeats, int(LONGEST / seconds)))


def timed(call: Call) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def rise(base: float, K: Any) -> float:
    """Bytes of the peak of memory over `base`, less the kernel's."""
    return max(0, memory("VmHWM") - base - K.nbytes)


def memory(of: str) -> int:
    """Bytes of this process's resident memory: now for "VmRSS", its peak for "VmHWM".

    `ru_maxrss`, which other systems have alone, is a peak. On Linux it starts at that of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(f"{of}:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
