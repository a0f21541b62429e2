"""Signals that ask a program to stop: one line, a clean end within seconds, and a status of 128 plus the number."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Ctrl-C, `kill` and Slurm at the time limit, a closed terminal, and the warning that Slurm sends before the limit
# (`sbatch --signal`). Windows lacks the last two.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
# Seconds from a signal to the end of the process, whatever it does.
GRACE = 8.0


class Signalled(KeyboardInterrupt):
    """A signal asked the program to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_status(error: KeyboardInterrupt) -> int:
    """The exit status of a program that an interrupt or a `Signalled` has ended."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


def in_words_of(number: int) -> str:
    """What happened, for the line that the program leaves with."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


class Stopping:
    """Within `with`, the signals of `SIGNALS` raise `Signalled`, or inside `deferred` are only noted.

    A signal that is ignored at the start stays ignored.

    The process ends `GRACE` seconds after the first signal in any case, and at once at a further SIGINT. It then writes
    the line of `line(number)` to stderr; where `Signalled` is raised, the line is the caller's to write.

    Handlers can be set in the main thread only. In another thread nothing is set, and nothing is ever asked.
    """

    def __init__(self, line: Callable[[int], str]) -> None:
        self.number: int | None = None
        # Called before the process is ended without unwinding.
        self.at_once: Callable[[], Any] = lambda: None
        self._line = line
        self._depth = 0
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Stopping:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _heard():
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers that were there."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only noted, so that nothing is interrupted half-way; see `check`."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a signal raises `Signalled` again, though `deferred` is around it."""
        self.check()
        depth, self._depth = self._depth, 0
        try:
            yield
        finally:
            self._depth = depth

    def check(self) -> None:
        """Raise `Signalled` if a signal has come."""
        if self.number is not None:
            raise Signalled(self.number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGINT:
                self._leave(number)
            return
        self.number = number
        self._timer = threading.Timer(GRACE, self._leave, [number])
        self._timer.daemon = True
        self._timer.start()
        if not self._depth:
            raise Signalled(number)

    def _leave(self, number: int) -> None:
        with contextlib.suppress(Exception):
            self.at_once()
        _leave_with(self._line(number), number)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, no handler of `SIGNALS` runs in this thread; what has come is handled at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # Each step at the end is taken, whatever the handler of one raises.
    with contextlib.ExitStack() as end:
        end.callback(_raise_all, came)
        for number in _heard():
            end.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda number, frame: came.append(number))
        yield


def _raise_all(numbers: list[int]) -> None:
    with contextlib.ExitStack() as end:
        for number in reversed(numbers):
            end.callback(signal.raise_signal, number)


def leave_quietly(line: str) -> None:
    """Until other handlers are set, let the signals end the process with one line: while a program is imported."""

    def handle(number: int, frame: FrameType | None) -> None:
        _leave_with(f"{line}: {in_words_of(number)} before anything was begun", number)

    for number in _heard():
        signal.signal(number, handle)


def _heard() -> list[signal.Signals]:
    """Those of `SIGNALS` that a handler may be set for."""
    # A program that was started with a signal ignored, as by nohup, goes on ignoring it. A handler that no Python code
    # has set could not be set again.
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _leave_with(line: str, number: int) -> None:
    # Not print: the signal may have come in the middle of one.
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))
    os._exit(128 + number)
