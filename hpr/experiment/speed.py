"""How long packs take and how much memory they need, from timings of a few of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from hpr.experiment.cost import Cost
from hpr.experiment.plan import TaskOf
from hpr.experiment.specification import RunSpec


@dataclass(frozen=True)
class Request:
    """What a process is to time.

    Attributes:
        packs: a pack per kind, the most important first.
        task_of: from a run to its task.
        device: where to train.
        threads: of torch.
        seconds: after this time from the end of the first kind no other kind is begun.
        first: the place of the kind to begin with; the others follow, and then those before it.
    """

    packs: Sequence[Sequence[RunSpec]]
    task_of: TaskOf
    device: str
    threads: int
    seconds: float
    first: int = 0


@dataclass(frozen=True)
class Base:
    """The bytes that a process holds before it trains."""

    memory: float


@dataclass(frozen=True)
class PackTiming:
    """What one process measured of one kind of pack, in seconds, with the other processes at work.

    Attributes:
        task: making the task.
        loading: what a process does once, when it measures its first network; 0 for its other packs.
        draw: drawing the initial weights of a run.
        iteration: an iteration of one network, in a pack of the planned size.
        measures: the measures of a run.
        point: a point of a run's trajectory; 0 where it has none.
        memory: the most bytes that the process has held since its start.
    """

    task: float
    loading: float
    draw: float
    iteration: float
    measures: float
    point: float
    memory: float

    @classmethod
    def mean(cls, timings: Sequence[PackTiming]) -> PackTiming:
        """The mean over processes; the most memory and loading of all."""
        of = {name: [getattr(timing, name) for timing in timings] for name in vars(timings[0])}
        most = {name: max(of.pop(name)) for name in ("loading", "memory")}
        return cls(**{name: fmean(values) for name, values in of.items()}, **most)


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

    timings: Mapping[RunSpec, PackTiming] = field(default_factory=dict)
    costs: Mapping[RunSpec, Cost] = field(default_factory=dict)
    start: float = 0.0
    base: float = 0.0
    processes: int = 0
    took: float = 0.0
    rate: float = math.inf

    @property
    def loading(self) -> float:
        """Seconds that a process takes once, when it measures its first network."""
        return max((timing.loading for timing in self.timings.values()), default=0.0)

    def of(self, shape: RunSpec, cost: Cost) -> PackTiming:
        """The timing of a shape; `cost` is of one of its runs."""
        if shape in self.timings:
            return self.timings[shape]
        iteration = cost.training_flops / shape.iterations
        if not self.timings:
            kernels = cost.kernel_flops / self.rate
            return PackTiming(0.0, 0.0, 0.0, iteration / self.rate, kernels, 0.0, 0.0)

        def distance(other: RunSpec) -> tuple[bool, float]:
            flops = self.costs[other].training_flops / other.iterations
            return other.model != shape.model, abs(math.log(flops / iteration))

        nearest = min(self.timings, key=distance)
        timing, known = self.timings[nearest], self.costs[nearest]
        measured = cost.kernel_flops / (2 + shape.checkpoints)
        measures = measured / (known.kernel_flops / (2 + nearest.checkpoints)) * timing.measures
        return PackTiming(
            task=timing.task,
            loading=0.0,
            draw=timing.draw * (shape.N / nearest.N) ** 2,
            iteration=timing.iteration * iteration * nearest.iterations / known.training_flops,
            measures=measures,
            point=measures / 2,
            memory=0.0,
        )
