"""How long packs take and how much memory they need, from timings of a few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from hpr.experiment.cost import Cost
from hpr.experiment.jobs import Job
from hpr.experiment.plan import Plan, TaskOf
from hpr.experiment.schedule import makespan
from hpr.experiment.specification import RunSpec


@dataclass(frozen=True)
class Request:
    """What a process is to time.

    Attributes:
        packs: a pack per kind, the most important first.
        task_of: from a run to its task.
        device: where to train.
        threads: of torch.
        seconds: after this time no other kind is begun.
    """

    packs: Sequence[Sequence[RunSpec]]
    task_of: TaskOf
    device: str
    threads: int
    seconds: float


@dataclass(frozen=True)
class Base:
    """The bytes that a process holds before it trains."""

    memory: float


@dataclass(frozen=True)
class Timing:
    """What one process measured of one kind of pack, in seconds, with the other processes at work.

    Attributes:
        task: making the task.
        draw: drawing the initial weights of a run.
        iteration: an iteration of one network, in a pack of the planned size.
        measures: the measures of a run.
        point: a point of a run's trajectory; 0 where it has none.
        memory: the most bytes that the process has held since its start.
    """

    task: float
    draw: float
    iteration: float
    measures: float
    point: float
    memory: float

    @classmethod
    def mean(cls, timings: Sequence[Timing]) -> Timing:
        """The mean over processes; the most memory of all."""
        names = ("task", "draw", "iteration", "measures", "point")
        means = {name: fmean(getattr(timing, name) for timing in timings) for name in names}
        return cls(**means, memory=max(timing.memory for timing in timings))


@dataclass(frozen=True)
class Speed:
    """How fast a worker is: timings by shape of run, and what holds for every worker.

    Attributes:
        timings: by `RunSpec.shape`; shapes that are not in it are scaled from these by their FLOPs.
        costs: of one run of each of these shapes.
        start: seconds until a new process can train.
        base: bytes that a process holds before it trains.
        processes: how many processes were timed at once.
        took: seconds that the timing took.
        rate: FLOP/s that are assumed where there are no timings.
    """

    timings: Mapping[RunSpec, Timing] = field(default_factory=dict)
    costs: Mapping[RunSpec, Cost] = field(default_factory=dict)
    start: float = 0.0
    base: float = 0.0
    processes: int = 0
    took: float = 0.0
    rate: float = math.inf

    def of(self, shape: RunSpec, cost: Cost) -> Timing:
        """The timing of a shape; `cost` is of one of its runs."""
        if shape in self.timings:
            return self.timings[shape]
        iteration = cost.training_flops / shape.iterations
        if not self.timings:
            kernels = cost.kernel_flops / self.rate
            return Timing(0.0, 0.0, iteration / self.rate, kernels, 0.0, 0.0)

        def distance(other: RunSpec) -> tuple[bool, float]:
            flops = self.costs[other].training_flops / other.iterations
            return other.model != shape.model, abs(math.log(flops / iteration))

        nearest = min(self.timings, key=distance)
        timing, known = self.timings[nearest], self.costs[nearest]
        measured = cost.kernel_flops / (2 + shape.checkpoints)
        measures = measured / (known.kernel_flops / (2 + nearest.checkpoints)) * timing.measures
        return Timing(
            task=timing.task,
            draw=timing.draw * (shape.N / nearest.N) ** 2,
            iteration=timing.iteration * iteration * nearest.iterations / known.training_flops,
            measures=measures,
            point=measures / 2,
            memory=0.0,
        )


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


def forecast(
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
    starts = 1 if workers == 1 else 2
    most = max((work.memory(job) for job in jobs), default=0.0)
    processes = min(workers, len(jobs))
    return Forecast(
        seconds=starts * speed.start + busy if jobs else 0.0,
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
    _known: dict[RunSpec, Timing] = field(default_factory=dict)

    def timing(self, job: Job) -> Timing:
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
