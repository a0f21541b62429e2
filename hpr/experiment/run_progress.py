"""How far a set of runs is: a bar on a terminal, and a line per minute without one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from hpr.command_line import in_words

# Seconds between two lines.
MINUTE = 60.0


class Progress:
    """Counts FLOPs and not iterations, so that the time left holds across packs whose iterations cost differently.

    Args:
        total: FLOPs of training and measures of all runs that are left.
        runs: the number of these runs.
        say: prints a line.
    """

    def __init__(self, total: float, runs: int, say: Callable[[str], None]) -> None:
        from tqdm import tqdm

        self._total, self._runs, self._say = total, runs, say
        self._done, self._ended = 0.0, 0
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._over = threading.Event()
        # tqdm decides by the stream whether there is a terminal.
        self._bar: Any = tqdm(
            total=total,
            disable=None if runs else True,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
        )
        if runs and self._bar.disable:
            threading.Thread(target=self._lines, daemon=True).start()

    def __enter__(self) -> Progress:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar and the lines."""
        self._over.set()
        self._bar.close()

    def advance(self, flops: float) -> None:
        """Count FLOPs that were done, or that need not be done."""
        self._done += flops
        self._bar.update(flops)

    def count(self, runs: int = 1) -> None:
        """Count runs that have a record or a failure."""
        self._ended += runs

    def show(self, text: str) -> None:
        """Show what is being trained beside the bar."""
        self._bar.set_postfix_str(text)

    def line(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        with self._lock, self._bar.external_write_mode(file=sys.stdout):
            self._say(text)

    def state(self) -> str:
        """The share that is done, the runs, and the time left at the rate so far."""
        elapsed = time.monotonic() - self._started
        share = min(self._done / self._total, 1.0) if self._total else 0.0
        left = in_words(elapsed * (1 - share) / share) if share else "an unknown time"
        return (
            f"{100 * share:.0f} %, {self._ended} of {self._runs} runs, {in_words(elapsed)} so far, "
            f"about {left} left"
        )

    def _lines(self) -> None:
        while not self._over.wait(MINUTE):
            try:
                self.line(self.state())
            except (OSError, ValueError):
                # The reader of the output has gone, or the output is closed; the main thread notices by itself.
                return
