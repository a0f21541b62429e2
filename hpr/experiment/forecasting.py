"""How long a plan takes and how much memory it needs, by how fast its packs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hpr.experiment.jobs import Job
from hpr.experiment.plan import Plan
from hpr.experiment.schedule import makespan
from hpr.experiment.specification import RunSpec
from hpr.experiment.speed import PackTiming, Speed


@dataclass(frozen=True)
class Forecast:
    """How long a plan takes from the call to the last record, and the memory that it needs.

    Attributes:
        seconds: from the call to the last record.
        at_most: whether runs may stop early whose number of iterations no finished run tells.
        worker_memory: the most bytes that one worker holds.
        memory: bytes of all processes together.
    """

    seconds: float
    at_most: bool
    worker_memory: float
    memory: float


def foresee(
    left: Plan, speed: Speed, workers: int, iterations: Callable[[RunSpec], float | None]
) -> Forecast:
    """Simulate the schedule of a plan.

    Args:
        left: the plan.
        speed: how fast its packs are.
        workers: how many processes train; 1: the calling process.
        iterations: how many iterations a run will take; None: unknown, at most those of its specification.
    """
    work = _Work(speed, iterations)
    jobs = [Job("", pack, price) for pack, price in zip(left.packs, left.costs, strict=True)]
    # The program starts and makes every task, and then each worker starts and makes those that it meets.
    tasks = {job.pack[0].task: work.timing(job).task for job in jobs}
    busy = sum(tasks.values()) + makespan(
        jobs, work.seconds, workers, lambda job: work.timing(job).task if workers > 1 else 0.0
    )
    starts = (1 if workers == 1 else 2) * speed.start + speed.loading
    most = max((work.memory(job) for job in jobs), default=0.0)
    processes = min(workers, len(jobs))
    return Forecast(
        seconds=starts + busy if jobs else 0.0,
        at_most=work.at_most,
        worker_memory=most,
        memory=processes * most + (speed.base if workers > 1 else 0.0),
    )


@dataclass
class _Work:
    """What jobs take; `at_most` becomes true with the first run that may stop at an unknown iteration."""

    speed: Speed
    iterations: Callable[[RunSpec], float | None]
    at_most: bool = False
    _known: dict[RunSpec, PackTiming] = field(default_factory=dict)

    def timing(self, job: Job) -> PackTiming:
        """The timing of a job's kind."""
        shape = job.pack[0].shape
        if shape not in self._known:
            self._known[shape] = self.speed.of(shape, job.of(job.pack[:1]).price)
        return self._known[shape]

    def seconds(self, job: Job) -> float:
        """The seconds of a job."""
        timing = self.timing(job)
        total = 0.0
        for spec in job.pack:
            iterations = self.iterations(spec)
            if iterations is None:
                self.at_most = True
                iterations = spec.iterations
            points = spec.checkpoints * timing.point
            total += timing.draw + iterations * timing.iteration + timing.measures + points
        return total

    def memory(self, job: Job) -> float:
        """The most bytes that the process of a job holds."""
        return max(self.timing(job).memory, self.speed.base + job.price.memory)
