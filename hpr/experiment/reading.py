"""Read many files of a results folder, with several processes where that is worth their start."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hpr.system.devices import cores

Found = TypeVar("Found")

# A process starts in half a second, in which it could read about this many records.
WORTH = 2_000
# Files that a process reads before it sends what it has found.
CHUNK = 250
# At most this many processes, since the one that collects what they find is then the slowest.
PROCESSES = 8
# What a process runs: it has the module path of this one, and neither its main module nor its folder.
PROGRAM = "import sys; sys.path[:] = {path!r}; from hpr.experiment.reading import serve_files; serve_files()"


def each_file(
    function: Callable[[Path], Found | None], paths: Sequence[Path], processes: int | None = None
) -> Iterator[Found | None]:
    """`function` of each path, in order.

    Where there are many paths, other processes call the function. Each of them gives None for a file that it can't
    read, and the caller looks at such files itself.

    Args:
        function: of a module. It must give the same in every process, or None.
        paths: the files.
        processes: how many processes read; None: one per core, if there are at least `WORTH` files for each.
    """
    if processes is None:
        processes = min(cores(), PROCESSES, len(paths) // WORTH)
    if processes < 2:
        yield from map(function, paths)
        return
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(_reader()) for _ in range(min(processes, len(chunks)))]
        for number, reader in enumerate(readers):
            _tell(reader, (function, chunks[number :: len(readers)]))
        for chunk, reader in zip(chunks, itertools.cycle(readers), strict=False):
            yield from _found(reader, function, chunk)


def serve_files() -> None:
    """Read what the process that started this one asks for."""
    function, chunks = pickle.load(sys.stdin.buffer)
    for chunk in chunks:
        pickle.dump([function(path) for path in chunk], sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _reader() -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        with contextlib.suppress(OSError):
            process.communicate()


def _tell(reader: subprocess.Popen[bytes], message: object) -> None:
    """Send what is to be read. A process that has died is noticed by `_found`."""
    assert reader.stdin is not None
    with contextlib.suppress(OSError):
        pickle.dump(message, reader.stdin, pickle.HIGHEST_PROTOCOL)
        reader.stdin.flush()


def _found(
    reader: subprocess.Popen[bytes], function: Callable[[Path], Found | None], chunk: Sequence[Path]
) -> list[Found | None]:
    """What a process has found in its next chunk. Where it has died, the chunk is read here."""
    assert reader.stdout is not None
    try:
        found: list[Found | None] = pickle.load(reader.stdout)
    except (EOFError, OSError, pickle.UnpicklingError):
        return [function(path) for path in chunk]
    return found
