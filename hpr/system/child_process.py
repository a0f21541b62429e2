"""A process that this one starts to do a part of its work, and the pipe to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from hpr.system.signals import SIGNALS, held_back

# Variables by which libraries choose their number of threads when they are loaded.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ChildProcess:
    """A fresh interpreter that calls `target(connection, *arguments)`; it should call `leave_signals` first.

    Args:
        target: a function of a module, given its end of the pipe.
        arguments: what can be pickled.
        one_thread: whether libraries use one thread there, whatever they use here.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any, one_thread: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=target, args=(theirs, *arguments), daemon=True
        )
        try:
            with _threads_set() if one_thread else contextlib.nullcontext(), _signals_blocked():
                self.process.start()
        except BaseException:
            # A signal came meanwhile.
            if self.pid:
                self.end()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid or 0

    def end(self, patience: float = 0.0) -> str:
        """Kill the process if it lives after `patience` seconds, free what it took here, and say how it ended."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.connection.close()
        self.process.close()
        return f"the worker died ({f'signal {-code}' if code < 0 else f'exit status {code}'})"


def leave_signals() -> None:
    """In a child, leave signals to the parent: a terminal and Slurm send them to every process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        # The parent blocked them until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def _threads_set() -> Iterator[None]:
    """Inside, a process starts with one thread per library."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Inside, a process starts with blocked signals, until it ignores them, and no handler runs here.

    Blocking is not enough for that: another thread takes the signal, and Python calls the handler in this one.
    """
    with held_back():
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            # Its start unblocks signals here, so it precedes that of the worker.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
