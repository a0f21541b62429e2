"""Start processes that time packs, all at once, and collect what they answer."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpr.experiment.speed import Request
from hpr.system.child_process import THREADS
from hpr.system.paths import cache_folder

# Seconds after which a process that has not answered is ended.
LONGEST = 60.0
PROGRAM = "import sys; sys.path[:] = {path!r}; from hpr.training.timing import serve_timings; serve_timings()"


def timed_here(request: Request, count: int) -> tuple[float, list[list[Any]]]:
    """The seconds until the last of `count` processes has started, and what each has answered."""
    with contextlib.ExitStack() as stack:
        # Torch makes folders in the temporary one.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hpr-"))
        try:
            # Each begins with another kind, so that more kinds are timed.
            messages = [pickle.dumps(replace(request, first=number)) for number in range(count)]
        except (pickle.PicklingError, AttributeError, TypeError):
            # Something of the user's own is known in this process alone.
            return 0.0, []
        clock = time.perf_counter()
        processes = [stack.enter_context(_process(folder, request.threads)) for _ in range(count)]
        for process, message in zip(processes, messages, strict=True):
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.write(message)
                process.stdin.close()
        answers, start = _answers(processes, clock)
    return start, [answer for answer in answers if answer]


def _answers(
    processes: Sequence[subprocess.Popen[bytes]], clock: float
) -> tuple[list[list[Any]], float]:
    """What processes send until they end or are too late, and when the last has sent its first answer."""
    answers: list[list[Any]] = [[] for _ in processes]
    buffers = [b"" for _ in processes]
    start = 0.0
    with selectors.DefaultSelector() as selector:
        for place, process in enumerate(processes):
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, place)
        while selector.get_map() and (left := clock + LONGEST - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                place = key.data
                piece = os.read(key.fd, 2**16)
                if not piece:
                    selector.unregister(key.fileobj)
                if piece and not buffers[place]:
                    start = max(start, time.perf_counter() - clock)
                buffers[place] += piece
    for place, buffer in enumerate(buffers):
        answers[place] = list(_unpickled(buffer))
    return answers, start


def _unpickled(buffer: bytes) -> Iterator[Any]:
    stream = io.BytesIO(buffer)
    while True:
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            return


@contextlib.contextmanager
def _process(folder: str, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that times; it writes into `folder` alone, and is killed at the end."""
    environment = {
        **os.environ,
        **dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), folder),
        "HPR_CACHE": str(cache_folder()),
        "MPLCONFIGDIR": _matplotlib_folder() or folder,
    }
    if threads == 1:
        environment |= dict.fromkeys(THREADS, "1")
    process = subprocess.Popen(
        # -I: neither the folder nor variables of this process choose the modules; -B: none is compiled into a file.
        [
            sys.executable,
            "-I",
            "-B",
            "-c",
            PROGRAM.format(path=[os.path.abspath(part) for part in sys.path]),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=folder,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def _matplotlib_folder() -> str | None:
    """Where Matplotlib, which NeuroGym imports, has its list of fonts; None where it would write one for seconds."""
    named = os.environ.get("MPLCONFIGDIR")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "matplotlib"
    folder = Path(named) if named else usual
    return str(folder.absolute()) if any(folder.glob("fontlist-*.json")) else None
