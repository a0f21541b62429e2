"""How far a set of runs is: a bar on a terminal, a line per minute without one, and events of a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from hpr.command_line import counted, in_words
from hpr.experiment.run_log import RunLog

# Seconds between two lines, and between two events of the log.
MINUTE = 60.0
LOGGED = 10.0
# Packs in training that a line tells of at most.
TOLD = 3


@dataclass(frozen=True)
class PackState:
    """How far the training of a pack is: means over its runs of the last values that are known.

    `iteration` is that of the runs that are furthest behind. The kernel alignment is known of runs that are measured
    already, and of runs with a trajectory. `checkpoints` counts the runs whose checkpoints were written just now.
    """

    iteration: int
    loss: float | None = None
    accuracy: float | None = None
    kernel_alignment: float | None = None
    checkpoints: int = 0

    def __str__(self) -> str:
        named = {"loss": self.loss, "KA": self.kernel_alignment}
        known = [f", {name} {value:.3g}" for name, value in named.items() if value is not None]
        return f"iteration {self.iteration}{''.join(known)}"


def unheard(state: PackState) -> None:
    """Do nothing with a state."""


class Progress:
    """Counts FLOPs and not iterations, so that the time left holds across packs whose iterations cost differently.

    Args:
        total: FLOPs of training and measures of all runs that are left.
        runs: the number of these runs.
        say: prints a line.
        log: takes an event every `LOGGED` seconds.
    """

    def __init__(
        self, total: float, runs: int, say: Callable[[str], None], log: RunLog | None = None
    ) -> None:
        from tqdm import tqdm

        self._total, self._runs, self._say = total, runs, say
        self._log = log or RunLog()
        self._done, self._ended = 0.0, 0
        # By pack in training, its name and its last state.
        self._packs: dict[Hashable, tuple[str, PackState | None]] = {}
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._over = threading.Event()
        # tqdm decides by the stream whether there is a terminal. A bar would break the lines of a log on stderr.
        self._bar: Any = tqdm(
            total=total,
            disable=None if runs and not self._log.on_stderr else True,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
        )
        for wanted, pause, tell in (
            (self._bar.disable, MINUTE, lambda: self.line(self.state())),
            (self._log.on, LOGGED, self._logged),
        ):
            if runs and wanted:
                threading.Thread(target=self._repeat, args=(pause, tell), daemon=True).start()

    def __enter__(self) -> Progress:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar and the lines."""
        self._over.set()
        self._logged()
        self._bar.close()

    def advance(self, flops: float) -> None:
        """Count FLOPs that were done, or that need not be done."""
        self._done += flops
        self._bar.update(flops)

    def count(self, runs: int = 1) -> None:
        """Count runs that have a record or a failure."""
        self._ended += runs

    def begin(self, pack: Hashable, name: str) -> None:
        """A pack is in training from now on."""
        self._packs = {**self._packs, pack: (name, None)}
        self._show(refresh=True)

    def tell(self, pack: Hashable, state: PackState) -> None:
        """Take note of the state of a pack in training."""
        if pack in self._packs:
            self._packs = {**self._packs, pack: (self._packs[pack][0], state)}
            # The next `advance` shows it: a small pack has a new state every few milliseconds.
            self._show(refresh=False)

    def end(self, pack: Hashable) -> None:
        """A pack is no longer in training."""
        self._packs = {other: held for other, held in self._packs.items() if other != pack}

    def _show(self, *, refresh: bool) -> None:
        """Show beside the bar the pack that was begun last."""
        name, state = list(self._packs.values())[-1]
        others = len(self._packs) - 1
        more = f" and {others} more" if others else ""
        # A terminal of 80 columns has room for this.
        last = str(state).partition(", ")[2] if state else ""
        self._bar.set_postfix_str(f"{name}{more}{f', {last}' if last else ''}", refresh=refresh)

    def line(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        with self._lock, self._bar.external_write_mode(file=sys.stdout):
            self._say(text)

    def state(self) -> str:
        """The share that is done, the runs, the time left at the rate so far, and the packs in training."""
        elapsed, share, left = self._times()
        packs = [f"; {name}: {state}" for name, state in self._packs.values() if state]
        more = f"; and {len(packs) - TOLD} more" if len(packs) > TOLD else ""
        return (
            f"{100 * share:.0f} %, {self._ended} of {counted(self._runs, 'run')}, {in_words(elapsed)} so far, "
            f"about {'an unknown time' if left is None else in_words(left)} left"
            f"{''.join(packs[:TOLD])}{more}"
        )

    def _times(self) -> tuple[float, float, float | None]:
        """Seconds so far, the share that is done, and seconds left, None where unknown."""
        elapsed = time.monotonic() - self._started
        share = min(self._done / self._total, 1.0) if self._total else 0.0
        return elapsed, share, elapsed * (1 - share) / share if share else None

    def _logged(self) -> None:
        elapsed, share, left = self._times()
        self._log.event(
            "progress",
            runs=self._runs,
            done=self._ended,
            left=max(0, self._runs - self._ended),
            share=round(share, 4),
            elapsed_s=round(elapsed, 1),
            eta_s=None if left is None else round(left, 1),
            packs=[
                {"pack": name, **(vars(state) if state else {})}
                for name, state in self._packs.values()
            ],
        )

    def _repeat(self, pause: float, tell: Callable[[], None]) -> None:
        while not self._over.wait(pause):
            try:
                tell()
            except (OSError, ValueError):
                # The reader of the output has gone, or the output is closed; the main thread notices by itself.
                return
