"""When packs end that several workers share: the order of the real schedule, with estimated times."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

from hpr.experiment.jobs import Job, longest_first


def makespan(
    jobs: Sequence[Job],
    seconds: Callable[[Job], float],
    workers: int,
    first: Callable[[Job], float] = lambda job: 0.0,
) -> float:
    """Seconds from the start of the first job to the end of the last.

    Each worker that is free takes the first job of `longest_first` whose teachers are trained, as
    `hpr.experiment.dispatch` gives them out. One worker takes them in the given order.

    Args:
        jobs: the packs.
        seconds: how long a job takes.
        workers: how many jobs run at once.
        first: what a job takes in addition where it is the first of its task on its worker.
    """
    pending = longest_first(jobs) if workers > 1 else list(jobs)
    # By a run that has students: when its job ends; infinite before the job has begun.
    teachers = {spec.teacher.key for job in jobs for spec in job.pack if spec.teacher}
    trained = {
        spec.key: math.inf for job in jobs for spec in job.pack if teachers and spec.key in teachers
    }
    free = [(0.0, worker) for worker in range(min(workers, len(jobs)))]
    known: set[tuple[int, str]] = set()
    end = 0.0
    while pending:
        now, worker = heapq.heappop(free)
        ready = (
            [(_ready(job, trained), place) for place, job in enumerate(pending)]
            if trained
            else [(0.0, 0)]
        )
        place = next((place for when, place in ready if when <= now), None)
        if place is None:
            later = [when for when, _ in ready if when < math.inf]
            heapq.heappush(free, (min(later, default=end), worker))
            continue
        job = pending.pop(place)
        ends = now + seconds(job)
        if (worker, job.pack[0].task) not in known:
            known.add((worker, job.pack[0].task))
            ends += first(job)
        for spec in job.pack if trained else ():
            if spec.key in trained:
                trained[spec.key] = ends
        heapq.heappush(free, (ends, worker))
        end = max(end, ends)
    return end


def _ready(job: Job, trained: dict[str, float]) -> float:
    """When the teachers of a job's runs are trained; one that is not in the schedule is trained already."""
    return max(
        (trained.get(spec.teacher.key, 0.0) for spec in job.pack if spec.teacher), default=0.0
    )
