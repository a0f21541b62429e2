"""Writes the checkpoints of a pack's runs, and lets runs go on from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hpr.experiment.checkpoints import Checkpoints, maker
from hpr.tasks import Task
from hpr.training.cohort import Cohort
from hpr.training.course import Course
from hpr.training.snapshot import restore, shapes, snapshot

logger = logging.getLogger(__name__)


class Recovery:
    """The checkpoints of a pack's runs.

    Args:
        checkpoints: where they are kept; None: nowhere.
        provenance: that of the records that are made here.
    """

    def __init__(self, checkpoints: Checkpoints | None, provenance: Mapping[str, Any]) -> None:
        self._checkpoints, self._made_by = checkpoints, maker(provenance)
        # By run, what its last checkpoint holds.
        self._saved: dict[Course, tuple[int | str, ...]] = {}
        self._failing = False

    def resume(self, courses: Sequence[Course], task: Task) -> None:
        """Let fresh runs go on from their checkpoints; a bad checkpoint is one warning, and its run starts anew."""
        if self._checkpoints is None:
            return
        for course in courses:
            try:
                found = self._checkpoints.load(course.spec, shapes(course, task), self._made_by)
                if found is not None:
                    restore(course, task, *found)
                    self._saved[course] = _contents(course)
            except ValueError as error:
                reason = " ".join(str(error).split())
                path = self._checkpoints.path(course.spec)
                logger.warning("%s: %s; the run starts anew", path, reason)

    def save(
        self, courses: Sequence[Course], cohort: Cohort | None, *, warn: bool = True
    ) -> int | None:
        """Write the checkpoints of the runs that have advanced since their last ones.

        Where they can't be written, one warning says so unless `warn` is false, and the runs go on.

        Returns:
            how many were written; None if no run has advanced.
        """
        ahead = [
            course
            for course in courses
            if course.learner.step and self._saved.get(course) != _contents(course)
        ]
        if self._checkpoints is None or not ahead:
            return None
        for written, course in enumerate(ahead):
            learners = (course.learner, course.linearised)
            held = [
                {} if one is None else cohort.tensors(one) if cohort else one.tensors
                for one in learners
            ]
            try:
                self._checkpoints.save(course.spec, *snapshot(course, *held), self._made_by)
            except OSError as error:
                if warn and not self._failing:
                    reason = error.strerror or type(error).__name__
                    path = self._checkpoints.path(course.spec)
                    logger.warning(
                        "%s can't be written: %s; training goes on without", path, reason
                    )
                self._failing = True
                return written
            self._failing = False
            self._saved[course] = _contents(course)
        return len(ahead)

    def drop(self, course: Course) -> None:
        """Remove the checkpoint of a run whose record is kept."""
        if self._checkpoints is not None:
            self._checkpoints.drop(course.spec)


def _contents(course: Course) -> tuple[int | str, ...]:
    """What changes from one checkpoint of a run to the next."""
    return (
        course.learner.step,
        course.status,
        sum(map(len, course.losses)),
        len(course.trajectory.get("iteration", [])),
        course.linearised.step if course.linearised else 0,
    )
