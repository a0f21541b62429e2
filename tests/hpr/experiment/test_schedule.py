"""The simulated schedule gives packs out in the order of the real one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from hpr.connectivity import Dense
from hpr.experiment.cost import Cost
from hpr.experiment.jobs import Job
from hpr.experiment.schedule import makespan
from hpr.experiment.specification import RunSpec

TEACHER = RunSpec("2AF", Dense(), 0, N=4, iterations=10, keep_weights=True)
NUMBERS = itertools.count(1)


def job(length: float, *runs: RunSpec, task: str = "2AF") -> Job:
    """A pack whose FLOPs are its length."""
    pack = list(runs) or [replace(TEACHER, task=task, seed=next(NUMBERS), keep_weights=False)]
    return Job("", pack, Cost(length, 0.0, 0.0))


def student() -> RunSpec:
    return replace(
        TEACHER, seed=next(NUMBERS), teacher=TEACHER, aligned="features", keep_weights=False
    )


def length(of: Job) -> float:
    return of.price.flops


CASES: dict[str, tuple[Callable[[], list[Job]], int, float]] = {
    "nothing": (list, 2, 0.0),
    "one worker": (lambda: [job(3), job(1), job(2)], 1, 6.0),
    "more workers than packs": (lambda: [job(3), job(1)], 9, 3.0),
    # In the given order it would be 1 + 5.
    "the longest first": (lambda: [job(1), job(1), job(1), job(1), job(1), job(5)], 2, 5.0),
    "the shortest fill the gaps": (lambda: [job(4), job(3), job(3), job(2)], 2, 6.0),
    # The teacher takes 2, and its students wait for it while the other worker has 9.
    "a teacher comes first": (lambda: [job(9), job(3, student()), job(2, TEACHER)], 2, 9.0),
    "students wait": (lambda: [job(3, student()), job(2, TEACHER)], 2, 5.0),
    "others go before waiting students": (
        lambda: [job(5, student()), job(4, TEACHER), job(3), job(1)], 2, 9.0
    ),
    "a teacher that is trained already": (lambda: [job(3, student()), job(2)], 2, 3.0),
}  # fmt: skip


@pytest.mark.parametrize(("jobs", "workers", "expected"), CASES.values(), ids=CASES)
def test_the_end_of_the_last_pack(
    jobs: Callable[[], list[Job]], workers: int, expected: float
) -> None:
    assert makespan(jobs(), length, workers) == expected


def test_a_worker_makes_each_task_once() -> None:
    jobs = [job(1, task=task) for task in ("2AF", "DMS", "2AF", "DMS", "2AF", "DMS")]
    assert makespan(jobs, length, 1, lambda _: 10.0) == 26.0
    assert makespan(jobs, length, 2, lambda _: 10.0) == 13.0
    # Both workers meet both tasks.
    jobs = [job(1, task=task) for task in ("2AF", "2AF", "DMS", "DMS")]
    assert makespan(jobs, length, 2, lambda _: 10.0) == 22.0


def test_a_student_of_a_student_waits_for_both() -> None:
    middle = replace(student(), keep_weights=True)
    last = replace(TEACHER, seed=next(NUMBERS), teacher=middle, aligned="features")
    jobs = [job(7, last), job(2, middle), job(1, TEACHER)]
    assert makespan(jobs, length, 3) == 10.0
