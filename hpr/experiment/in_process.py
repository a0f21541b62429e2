"""Train packs in this process, one after the other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hpr.experiment.carrying import Keeper, accepted, checkpoints_in, train_and_keep
from hpr.experiment.jobs import Job, Reports
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure
from hpr.experiment.specification import RunSpec
from hpr.experiment.worker import Orders
from hpr.system.signals import Stopping

if TYPE_CHECKING:
    import torch


class InProcess:
    """An executor (`hpr.experiment.jobs`) whose `start` returns when the job is over."""

    def __init__(
        self,
        reports: Reports,
        keeper: Keeper,
        orders: Orders,
        device: torch.device,
        stopping: Stopping,
    ) -> None:
        self._reports, self._keeper = reports, keeper
        self._task_of, self._train, self._device = orders.task_of, orders.train, device
        self._checkpoints = checkpoints_in(orders.store.out, orders.train, orders.period)
        self._stopping = stopping
        # A function that doesn't ask whether to stop is interrupted.
        self._polite = "stop" in accepted(orders.train)

    def room(self) -> bool:
        """Always."""
        return True

    def pids(self) -> tuple[int, ...]:
        """None but this one."""
        return ()

    def start(self, job: Job, teachers: dict[str, Record]) -> None:
        """Train the job and report it."""

        def keep(spec: RunSpec, record: Record) -> None:
            with self._stopping.deferred():
                self._keeper.save(record)
                self._reports.kept(job, spec, record)

        def fail(spec: RunSpec, error: Exception) -> None:
            with self._stopping.deferred():
                self._reports.failed(job, spec, Failure.of(str(spec), error))

        with contextlib.nullcontext() if self._polite else self._stopping.raising():
            loss = train_and_keep(
                job.pack,
                self._task_of(job.pack[0]),
                self._train,
                self._device,
                teachers=teachers,
                checkpoints=self._checkpoints,
                keep=keep,
                fail=fail,
                progress=lambda count: self._reports.advanced(job, job.iterations(count)),
                state=lambda state: self._reports.told(job, state),
                stop=lambda: self._stopping.asked() or self._keeper.full(),
            )
        self._reports.ended(job, loss)

    def wait(self, seconds: float) -> None:
        """Nothing happens between jobs."""

    def close(self, *, stop: bool) -> None:
        """There is nothing to end."""
