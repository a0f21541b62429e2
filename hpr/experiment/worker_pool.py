"""Train packs in worker processes of this machine, each with one thread; a worker that dies is replaced."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from hpr.experiment.carrying import Keeper, Loss
from hpr.experiment.jobs import Job, Reports
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.experiment.worker import Orders, serve
from hpr.system.child_process import ChildProcess

# Seconds that workers may take to write their checkpoints when they are asked to stop.
STOP = 6.0
# Seconds that they may take to exit when they have nothing more to do.
EXIT = 1.0
# So many workers in a row may die before they have begun to work.
STARTS = 3


class Workers:
    """An executor (`hpr.experiment.jobs`) of as many processes as there are devices.

    Args:
        reports: told what happens.
        keeper: takes the records that a full disk refused.
        orders: what the workers are told; its device is replaced by each of `devices`.
        devices: a device per worker.
    """

    def __init__(
        self, reports: Reports, keeper: Keeper, orders: Orders, devices: Sequence[str]
    ) -> None:
        self._reports, self._keeper, self._orders = reports, keeper, orders
        self._failed_starts = 0
        self._workers = [self._new(device) for device in devices]

    def room(self) -> bool:
        """Whether a worker has nothing to do."""
        return any(worker.job is None for worker in self._workers)

    def pids(self) -> tuple[int, ...]:
        """The process id of the worker that takes the next job."""
        return (self._idle().pid,)

    def start(self, job: Job, teachers: dict[str, Record]) -> None:
        """Send a job to a worker, which reads the records of teachers from the store."""
        worker = self._idle()
        worker.job = job
        needed = [
            *dict.fromkeys(s.teacher for s in job.pack if s.teacher and s.teacher.key in teachers)
        ]
        # A worker that died meanwhile is noticed by `wait`.
        with contextlib.suppress(OSError):
            worker.connection.send((job.pack, needed))

    def wait(self, seconds: float) -> None:
        """Pass on the workers' messages, and replace the dead."""
        workers = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(workers), seconds):
            worker = workers[connection]  # type: ignore[index]
            if not self._hear(worker):
                self._replace(worker)

    def close(self, *, stop: bool) -> None:
        """Ask the workers to end, give those in training a few seconds, and kill the rest."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send("stop")
        try:
            if stop:
                self._hear_out(time.monotonic() + STOP)
        finally:
            until = time.monotonic() + EXIT
            for worker in self._workers:
                worker.process.join(max(0.0, until - time.monotonic()))
            for worker in self._workers:
                worker.end(0.2 if worker.job else 0)

    def _hear_out(self, until: float) -> None:
        """Pass on what workers send until none is in training, or it is too late."""
        busy = [worker for worker in self._workers if worker.job is not None]
        while busy and time.monotonic() < until:
            for worker in busy:
                if not self._hear(worker):
                    worker.job = None
            busy = [worker for worker in busy if worker.job is not None]
            wait([worker.connection for worker in busy], 0.1)

    def _hear(self, worker: _Worker) -> bool:
        """Pass on what a worker has sent; returns whether it lives."""
        while True:
            try:
                message = worker.connection.recv() if worker.connection.poll() else None
            except (EOFError, OSError):
                return False
            if message is None:
                return True
            self._receive(worker, message)

    def _receive(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        job = worker.job
        if kind == "ready":
            self._failed_starts = 0
        assert job is not None or kind == "ready"
        if job is None:
            return
        if kind == "progress":
            self._reports.advanced(job, job.iterations(rest[0]))
        elif kind == "state":
            self._reports.told(job, rest[0])
        elif kind == "kept":
            self._reports.kept(job, rest[0], None)
        elif kind == "failed":
            self._reports.failed(job, *rest)
        elif kind == "ended":
            loss, refused, held = rest
            if refused is not None:
                self._keeper.refused = refused
                self._keeper.held += held
            worker.job = None
            self._reports.ended(job, loss)

    def _idle(self) -> _Worker:
        return next(worker for worker in self._workers if worker.job is None)

    def _new(self, device: str) -> _Worker:
        return _Worker(replace(self._orders, device=device))

    def _replace(self, dead: _Worker) -> None:
        # It may be about to end by itself.
        reason = dead.end(0.2 if dead.job else 0)
        self._failed_starts += 1
        most = STARTS * len(self._workers)
        # Where no other can be started, `close` ends the workers that are left.
        self._workers.remove(dead)
        if self._failed_starts > most:
            raise OSError(f"workers can't be started: {reason}; --workers 1 does without them")
        self._workers.append(self._new(dead.device))
        if dead.job is not None:
            loss = Loss(reason, "", smaller=True, passing=True, died=True)
            self._reports.ended(dead.job, loss)


class _Worker(ChildProcess):
    """A process, the pipe to it, and what it works on."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(serve, orders, one_thread=True)
        self.device = orders.device
        self.job: Job | None = None


def can_be_sent(orders: Orders, specs: Sequence[RunSpec]) -> bool:
    """Whether another process can be told what to do, which a function or class within a function does not allow."""
    kinds = {type(spec.connectivity): spec for spec in specs}
    try:
        pickle.dumps((orders, list(kinds.values())))
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
