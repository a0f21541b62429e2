"""A pack as a job, what trains jobs, and what it tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from hpr.experiment.carrying import Loss
from hpr.experiment.cost import Cost
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure
from hpr.experiment.run_progress import PackState
from hpr.experiment.specification import RunSpec


@dataclass(eq=False)
class Job:
    """A pack that is to be trained, and what it costs."""

    name: str
    pack: list[RunSpec]
    price: Cost
    started: float = 0.0
    # FLOPs that the progress has counted.
    counted: float = 0.0
    ended: set[str] = field(default_factory=set)
    # How often its process has died.
    deaths: int = 0

    def iterations(self, count: int) -> float:
        """The FLOPs of some iterations of the whole pack."""
        return count * self.price.training_flops / self.pack[0].iterations

    def of(self, pack: list[RunSpec]) -> Job:
        """The job of some of the runs."""
        share = len(pack) / len(self.pack)
        price = replace(
            self.price,
            training_flops=share * self.price.training_flops,
            kernel_flops=share * self.price.kernel_flops,
        )
        return Job(self.name, pack, price)


class Reports(Protocol):
    """What an executor tells about its jobs, in the main thread."""

    def advanced(self, job: Job, flops: float) -> None:
        """Some of a job's FLOPs are done."""

    def told(self, job: Job, state: PackState) -> None:
        """How far a job is."""

    def kept(self, job: Job, spec: RunSpec, record: Record | None) -> None:
        """A run's record is in the store; None: it is to be read from there."""

    def failed(self, job: Job, spec: RunSpec, failure: Failure) -> None:
        """A run failed alone."""

    def ended(self, job: Job, loss: Loss | None) -> None:
        """A job is over; `loss`: why runs of it have neither record nor failure."""


class Executor(Protocol):
    """What trains jobs: this process, worker processes, or a cluster."""

    def room(self) -> bool:
        """Whether another job can be started now."""

    def pids(self) -> tuple[int, ...]:
        """The processes of this machine that would train the next job, besides this one."""

    def start(self, job: Job, teachers: dict[str, Record]) -> None:
        """Start a job."""

    def wait(self, seconds: float) -> None:
        """Pass on what happened; wait up to so many seconds for something to happen."""

    def close(self, *, stop: bool) -> None:
        """End. With `stop` jobs are in training: they write their checkpoints and end within seconds."""


def pack_name(pack: Sequence[RunSpec]) -> str:
    """What a line says of a pack."""
    return f"{len(pack)} x {pack[0].task}, N = {pack[0].N}"


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Teachers first, since their students wait for them, and then the longest, so that none is alone at the end."""
    teachers = {spec.teacher.key for job in jobs for spec in job.pack if spec.teacher}
    return sorted(
        jobs,
        key=lambda job: (all(spec.key not in teachers for spec in job.pack), -job.price.flops),
    )
