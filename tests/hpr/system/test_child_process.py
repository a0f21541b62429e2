"""A signal that comes while a worker process is started leaves no process behind and no words of the worker."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from hpr.system.child_process import ChildProcess

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals"
)

# The signal comes when the worker runs and has not yet been told what to do. Another thread takes it, since it is
# blocked in the one that starts the worker.
PROGRAM = """
import multiprocessing.util, os, signal, sys, threading, time
from hpr.system.child_process import ChildProcess
from hpr.system.signals import SIGNALS, Stopping

def spawn(path, words, passed):
    pid = before(path, words, passed)
    if "spawn_main" in str(words):
        print(pid)
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
        time.sleep(0.1)
    return pid

before, multiprocessing.util.spawnv_passfds = multiprocessing.util.spawnv_passfds, spawn
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
handlers = [signal.getsignal(number) for number in SIGNALS]
try:
    ChildProcess(id, one_thread=True).end(10)
    print("ended")
except KeyboardInterrupt:
    print("interrupted")
assert handlers == [signal.getsignal(number) for number in SIGNALS]
"""


@pytest.mark.parametrize(
    ("name", "printed", "status"),
    [
        ("SIGINT", ["interrupted"], 0),
        ("SIGUSR1", ["handled", "ended"], 0),
        ("SIGHUP", ["ended"], 0),
        ("SIGTERM", [], -signal.SIGTERM),
    ],
)
def test_a_signal_during_the_start(name: str, printed: list[str], status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-c", PROGRAM, name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    pid, *lines = done.stdout.split()
    assert (lines, done.returncode, done.stderr) == (printed, status, "")
    # The parent of SIGTERM is gone; its worker ends when it finds that out.
    assert name == "SIGTERM" or not Path(f"/proc/{pid}").exists()


def test_each_signal_that_was_held_back_is_handled() -> None:
    program = """
import signal
from hpr.system.signals import held_back
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
try:
    with held_back():
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGINT):
            signal.raise_signal(number)
        print("first")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["first", "handled", "interrupted"]


@pytest.mark.parametrize("fails", [False, True], ids=["started", "no process can be started"])
def test_the_callers_signals_are_blocked_as_before(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise BlockingIOError

    if fails:
        monkeypatch.setattr(resource_tracker, "ensure_running", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with pytest.raises(BlockingIOError) if fails else contextlib.nullcontext():
            ChildProcess(id, one_thread=True).end(10)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | {signal.SIGTERM}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
