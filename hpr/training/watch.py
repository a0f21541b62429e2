"""When training is interrupted: how many iterations are trained at once, and when `stop` and checkpoints are due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Iterations are trained at once for about this many seconds, and `stop` is asked no more often.
SECONDS = 0.5
# Checkpoints take at most this share of the time.
SHARE = 0.01
# The message of `Stopped`.
ASKED = "training was asked to stop"


class Stopped(Exception):
    """Training ended before its end because it was asked to."""


class Watch:
    """Measures how long training and checkpoints take.

    Args:
        stop: whether training is to end.
        period: seconds between two checkpoints.
    """

    def __init__(self, stop: Callable[[], bool] = lambda: False, period: float = math.inf) -> None:
        self._stop, self._period = stop, period
        self._asked, self._saved = -math.inf, time.perf_counter()
        # The duration of the last checkpoints, and of the last iterations, each.
        self._saving, self._iteration = 0.0, math.inf

    def stopping(self) -> bool:
        """Whether training is to end now; `stop` is asked only if it was not asked lately."""
        now = time.perf_counter()
        if now - self._asked < SECONDS:
            return False
        self._asked = now
        return self._stop()

    def checkpoint_due(self) -> bool:
        """Whether the last checkpoints are older than the period, and older than what limits their cost to `SHARE`."""
        age = time.perf_counter() - self._saved
        return age >= max(self._period, self._saving / SHARE)

    def checkpointed(self, seconds: float) -> None:
        """Checkpoints were written just now, in so many seconds."""
        self._saved, self._saving = time.perf_counter(), seconds

    def count(self, most: int, unit: int) -> int:
        """How many iterations to train at once: a multiple of `unit` if that is below `most`."""
        fitting = SECONDS / self._iteration if self._iteration > 0 else most
        return min(most, max(1, int(min(fitting, most) / unit)) * unit)

    def trained(self, count: int, seconds: float) -> None:
        """The last `count` iterations took so many seconds."""
        self._iteration = seconds / count
