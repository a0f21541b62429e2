"""Time the costliest packs of a plan for a few seconds, in as many processes at once as will train.

Nothing here imports torch, which the timing processes do (`hpr.training.timing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpr.experiment.cluster import ask_workers
from hpr.experiment.cost import Cost
from hpr.experiment.kinds import costliest
from hpr.experiment.plan import Plan, TaskOf, pack_cost
from hpr.experiment.specification import RunSpec
from hpr.experiment.speed import PackTiming, Request, Speed
from hpr.system.devices import Device, cores
from hpr.training.timing_processes import LONGEST, timed_here

if TYPE_CHECKING:
    from hpr.tasks import Task

# Seconds from the end of the first kind after which a process begins no other.
TIMING = 1.5
# At most so many processes are timed at once.
PROCESSES = 8


@dataclass(frozen=True)
class SentTasks:
    """A function that gives a run's task, and tasks that only the planning process can make."""

    task_of: TaskOf
    made: dict[str, Task]

    def __call__(self, spec: RunSpec) -> Task:
        """The task of a run."""
        return self.made[spec.task] if spec.task in self.made else self.task_of(spec)


def calibrated(
    left: Plan,
    task_of: TaskOf,
    device: Device,
    workers: int,
    *,
    mnist_there: bool,
    time_there: Callable[[Request], list[list[Any]]] | None = None,
) -> Speed | None:
    """Time packs of a plan; None where none could be timed.

    Args:
        left: the plan.
        task_of: from a run to its task.
        device: where training will be.
        workers: how many processes will train; 1: one with all threads.
        mnist_there: whether MNIST's files are on this machine. Tasks that need a download are not timed.
        time_there: carries a request out on a cluster, and gives the answers of its workers; None: this machine does.
    """
    kinds = costliest(left, mnist_there=mnist_there)
    if not kinds:
        return None
    clock = time.perf_counter()
    given = {pack[0].task for pack in kinds if pack[0].task.startswith("trials:")}
    made = {pack[0].task: task_of(pack[0]) for pack in kinds if pack[0].task in given}
    threads = 1 if workers > 1 or time_there else cores()
    request = Request(kinds, SentTasks(task_of, made), str(device), threads, TIMING)
    if time_there is not None:
        start, answers = 0.0, time_there(request)
    else:
        count = 1 if device.type == "cuda" else min(workers, PROCESSES, max(1, left.runs))
        start, answers = timed_here(request, count)
    return _speed(kinds, task_of, start, answers, time.perf_counter() - clock)


def timed_there(address: str) -> Callable[[Request], list[list[Any]]]:
    """A function that gives what workers of a cluster answer to a request."""
    return lambda request: ask_workers(address, _all_timings, request, PROCESSES, LONGEST)


def _all_timings(request: Request) -> list[Any]:
    from hpr.training.timing import timings

    return list(timings(request))


def _speed(
    kinds: Sequence[Sequence[RunSpec]],
    task_of: TaskOf,
    start: float,
    answers: list[list[Any]],
    took: float,
) -> Speed | None:
    """The mean of what several processes have answered to one request."""
    timings: dict[RunSpec, PackTiming] = {}
    costs: dict[RunSpec, Cost] = {}
    found = [timed for _, *several in answers for timed in several]
    for place, pack in enumerate(kinds):
        of_kind = [of for at, of in found if at == place and isinstance(of, PackTiming)]
        if of_kind:
            shape = pack[0].shape
            timings[shape] = PackTiming.mean(of_kind)
            costs[shape] = pack_cost(pack[:1], task_of)
    if not timings:
        return None
    base = max(first.memory for first, *_ in answers)
    return Speed(timings, costs, start, base, len(answers), took)
