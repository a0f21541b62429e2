"""Judge, draw and write several figures at once, in worker processes."""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from hpr.experiment.run_outcome import Failure
from hpr.figures.drawing import Drawing, Drawn
from hpr.figures.figure import Figure
from hpr.system.child_process import ChildProcess, leave_signals
from hpr.system.devices import cores, use_own_cores

# Seconds that workers may take to remove a half-written file when they are stopped.
STOP = 1.0


def write_figures(figures: Sequence[Figure], drawing: Drawing, workers: int) -> Iterator[Drawn]:
    """Write figures and yield what becomes of each, in order.

    Up to `workers` processes draw, no more than there are cores. The files do not depend on their number. This process
    draws if the number is 1, and what can't be pickled.
    """
    workers = min(workers, cores(), len(figures))
    if workers <= 1:
        for figure in figures:
            yield drawing.of(figure).write(figure)
        return
    # Figures without runs compute what they show, which takes longest.
    left = sorted(figures, key=lambda figure: bool(figure.runs(drawing.settings)))
    drawn: dict[str, Drawn] = {}
    pool = _Pool(workers)
    try:
        for figure in figures:
            while figure.name not in drawn:
                while left and pool.room():
                    first = left.pop(0)
                    if not pool.begin(first, drawing.of(first)):
                        drawn[first.name] = drawing.of(first).write(first)
                drawn |= pool.results()
            yield drawn[figure.name]
    finally:
        pool.close()


class _Pool:
    """At most `most` processes that draw; `_busy` are those at work, by the name of the figure."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._workers: list[ChildProcess] = []
        self._busy: dict[str, ChildProcess] = {}

    def room(self) -> bool:
        """Whether a worker has nothing to do, or one more may be started."""
        return len(self._busy) < self._most

    def begin(self, figure: Figure, drawing: Drawing) -> bool:
        """Give a figure to a worker; False where it can't be sent."""
        try:
            sent = pickle.dumps((figure, drawing))
        except (pickle.PicklingError, AttributeError, TypeError):
            return False
        if len(self._busy) == len(self._workers):
            # Libraries have the threads that they have in this process, on which last digits depend.
            self._workers.append(ChildProcess(serve_drawing, one_thread=False))
        worker = next(each for each in self._workers if each not in self._busy.values())
        self._busy[figure.name] = worker
        # A worker that died is noticed by `results`.
        with contextlib.suppress(OSError):
            worker.connection.send((figure.name, sent))
        return True

    def results(self) -> dict[str, Drawn]:
        """Wait until a worker has ended its figure, and return what became of it by its name."""
        ready = wait([worker.connection for worker in self._busy.values()])
        names = [name for name, worker in self._busy.items() if worker.connection in ready]
        return {name: self._result(name, self._busy.pop(name)) for name in names}

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + STOP
        for worker in self._workers:
            worker.end(max(0.0, until - time.monotonic()))

    def _result(self, name: str, worker: ChildProcess) -> Drawn:
        try:
            result: Drawn = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            reason = f"{worker.end(STOP)}; --workers 1 draws without one"
            return Failure(f"figure {name}", reason, "", passing=True)
        return result


def serve_drawing(connection: Connection) -> None:
    """Draw one figure after another, until the parent ends this process or is gone."""
    leave_signals()
    # It comes from `_Pool.close`, and lets a file that is being written be removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    logging.basicConfig(format="hpr: %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    use_own_cores()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_drawn(*connection.recv()))


def _drawn(name: str, sent: bytes) -> Drawn:
    figure: Figure
    drawing: Drawing
    try:
        figure, drawing = pickle.loads(sent)
    except Exception as error:
        # The figure's class can't be found here, say.
        return Failure.of(f"figure {name}", error)
    return drawing.write(figure)
