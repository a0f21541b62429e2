"""Runs of one pack from their initial weights to their records, with checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from hpr.experiment.kept_weights import SCHEMA
from hpr.experiment.provenance import Meter, as_timings, whereabouts
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import no_memory
from hpr.experiment.run_progress import PackState
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.alone import Alone
from hpr.training.autograd_step import by_autograd
from hpr.training.cohort import Cohort
from hpr.training.course import Course, checkpoints, finite_or_none
from hpr.training.lazy_distance import lazy_distance, linearised_cohort, linearised_learner
from hpr.training.pack import Pack, lanes
from hpr.training.recovery import Recovery
from hpr.training.trainer import Trainer
from hpr.training.trials import WINDOW
from hpr.training.watch import ASKED, Stopped, Watch
from hpr.training.weights import encoded

Keep = Callable[[RunSpec, Record], None]


@dataclass
class Session:
    """The training of one pack; `hpr.training.loop.train_pack` says more about its arguments.

    `courses` are the runs that have neither a record nor failed; `records` holds the others' records. `size` is the
    number of runs in the pack, those that failed before training included. With `lasting`, the checkpoint of a run
    stays when its record is made.
    """

    courses: list[Course]
    task: Task
    size: int
    provenance: dict[str, Any]
    watch: Watch
    alone: Alone
    progress: Callable[[int], None]
    state: Callable[[PackState], None]
    recovery: Recovery
    keep: Keep | None
    with_lazy_distance: bool
    lasting: bool
    records: dict[int, Record] = field(default_factory=dict)
    # The first error of a record that could not be kept, where nobody else takes it.
    unkept: Exception | None = None
    _cohort: Cohort | None = None
    _passed: int = 0

    def __post_init__(self) -> None:
        self.iterations = self.courses[0].spec.iterations
        self._places = {id(course): place for place, course in enumerate(self.courses)}

    def run(self, new: Callable[[Pack], Trainer]) -> list[Record]:
        """Train, measure and keep every run; `new` makes the trainer of a pack. Returns the records in order."""
        try:
            self.recovery.resume(self.courses, self.task)
            self._start()
            self._report()
            self._end([course for course in self.courses if course.ended])
            self._train(new)
            if self.with_lazy_distance:
                self._linearise()
        except Exception:
            # As after `Stopped`, a later start loses nothing, unless the error came from within an iteration.
            if self._cohort is None or not self._cohort.advancing:
                self.recovery.save(self.courses, self._cohort)
            raise
        if self.unkept is not None:
            raise self.unkept
        return [self.records[place] for place in sorted(self.records)]

    def _start(self) -> None:
        """Evaluate the untrained networks."""
        for course in list(self.courses):
            self._tick()
            meter = Meter()
            with self.alone(course.spec):
                course.start(self.task)
                course.spend(meter)
                continue
            self.courses.remove(course)

    def _train(self, new: Callable[[Pack], Trainer]) -> None:
        """Train the runs that have not ended, window by window."""
        travelling = {course.learner: course for course in self.courses if not course.ended}
        if not travelling:
            return
        spec = next(iter(travelling)).spec
        # The C kernels and `AutogradStep` train a lone network as they train it in a pack.
        alike = self.provenance["engine"] == "native" or by_autograd(spec)
        together = list if alike else lanes
        cohort = self._cohort = Cohort(list(travelling), new, together, self.watch)
        # The first and the last point of a trajectory are taken before and after training.
        points = set(checkpoints(spec)) - {0, spec.iterations} if spec.checkpoints else set()
        while cohort.join():
            step = cohort.active[0].step
            active = [travelling[learner] for learner in cohort.active]
            if step in points:
                self._observe(cohort, active)
                active = [course for course in active if course in self.courses]
            if step % WINDOW == 0 or step == spec.iterations:
                for course in active:
                    if course.losses:
                        course.close_window()
                self._tell()
            ended = [course for course in active if course.ended]
            cohort.leave([course.learner for course in ended])
            self._report()
            self._end(ended)
            if not cohort.active:
                continue
            self._tick()
            ends = [end for end in (*points, step + WINDOW - step % WINDOW) if end > step]
            meter = Meter()
            losses, accuracies = cohort.advance(ends)
            for place, learner in enumerate(cohort.active):
                course = travelling[learner]
                course.losses.append(losses[place])
                if accuracies is not None:
                    course.accuracies.append(accuracies[place])
                course.spend(meter, len(cohort.active))
            self._report()

    def _observe(self, cohort: Cohort, courses: Sequence[Course]) -> None:
        """Take a point of the trajectory of each run; one that fails leaves."""
        for course in courses:
            self._tick()
            meter = Meter()
            with self.alone(course.spec):
                course.observe(cohort.pack(course.learner))
                course.spend(meter)
                continue
            cohort.leave([course.learner])
            self.courses.remove(course)

    def _linearise(self) -> None:
        """Train the linearised networks of the runs that have ended and not diverged, then measure these runs."""
        owners = {}
        for course in self.courses:
            if course.linearised is None:
                course.linearised = linearised_learner(
                    course.spec, course.initial, course.learner.step
                )
            owners[course.linearised] = course
        if not owners:
            return
        cohort = self._cohort = linearised_cohort(list(owners), self.task, self.watch)
        while cohort.join():
            arrived = [one for one in cohort.active if one.step == one.goal]
            cohort.leave(arrived)
            for learner in arrived:
                self._measure(owners[learner])
            if cohort.active:
                self._tick()
                step = cohort.active[0].step
                cohort.advance([step + WINDOW - step % WINDOW])

    def _end(self, ended: Sequence[Course]) -> None:
        """Measure and keep runs whose training has ended; those that need a linearised network wait for it."""
        for course in ended:
            if not self.with_lazy_distance or course.status == "diverged":
                self._measure(course)

    def _measure(self, course: Course) -> None:
        self._tick()
        with self.alone(course.spec):
            if course.linearised is not None and self.with_lazy_distance:
                course.lazy_distance = lazy_distance(
                    course.spec,
                    self.task,
                    course.initial,
                    course.learner.pack,
                    course.linearised.pack,
                )
            record = self._record(course)
            self.records[self._places[id(course)]] = record
            self._hand_over(course, record)
            self.courses.remove(course)
            self._tell()
            return
        # A later call has only to measure this run again.
        self.recovery.save([course], self._cohort)
        self.courses.remove(course)

    def _record(self, course: Course) -> Record:
        meter = Meter()
        spec = course.spec
        status, measures, flags = course.measure(self.task)
        record: Record = {
            "schema": SCHEMA,
            "key": spec.key,
            "spec": spec.to_dict(),
            "status": status,
            "iterations": course.iterations,
            "curves": course.curves,
            "measures": finite_or_none(measures),
            "flags": flags,
            "provenance": self.provenance,
            "timings": {
                "started": course.started,
                "pack": self.size,
                **as_timings("training", course.seconds, course.cpu_seconds),
                **as_timings("measures", *meter.spent()),
                **whereabouts(course.initial.weights.device),
            },
        }
        if spec.checkpoints:
            record["trajectory"] = course.trajectory
        if spec.keep_weights and course.status != "diverged":
            record["weights"] = encoded(course.learner.pack)
        return record

    def _hand_over(self, course: Course, record: Record) -> None:
        """Let a record be kept and remove the run's checkpoint, which stays where that fails."""
        if self.lasting:
            self.recovery.save([course], self._cohort)
            return
        try:
            if self.keep is not None:
                self.keep(course.spec, record)
        except Exception as error:
            if not self.alone.raises or isinstance(error, Stopped) or no_memory(error):
                raise
            # Where the disk takes no record, its error is enough.
            self.recovery.save([course], self._cohort, warn=False)
            self.unkept = self.unkept or error
            return
        self.recovery.drop(course)

    def _report(self) -> None:
        """Tell the progress in iterations of the pack, which a run that has ended or failed has all passed."""
        left = [
            course.spec.iterations - course.learner.step
            for course in self.courses
            if not course.ended
        ]
        passed = self.iterations - -(-sum(left) // self.size)
        if passed > self._passed:
            self.progress(passed - self._passed)
            self._passed = passed

    def _tell(self, checkpoints: int = 0) -> None:
        """Tell what the pack has come to."""
        values: dict[str, list[float]] = {"loss": [], "accuracy": [], "kernel_alignment": []}
        measured = {"loss": "final_loss", "accuracy": "final_accuracy"}
        for name, known in values.items():
            last = [
                series[name][-1]
                for course in self.courses
                for series in (course.curves, course.trajectory)
                if name in series
            ]
            last += [
                record["measures"].get(measured.get(name, name)) for record in self.records.values()
            ]
            known += [value for value in last if value is not None]
        steps = [course.learner.step for course in self.courses if not course.ended]
        self.state(
            PackState(
                min(steps, default=self.iterations),
                **{name: fmean(known) if known else None for name, known in values.items()},
                checkpoints=checkpoints,
            )
        )

    def _tick(self) -> None:
        """Write checkpoints where they are due, and end training where that is asked for."""
        stopping = self.watch.stopping()
        if stopping or self.watch.checkpoint_due():
            clock = time.perf_counter()
            written = self.recovery.save(self.courses, self._cohort)
            if written is not None:
                self.watch.checkpointed(time.perf_counter() - clock)
            if written:
                self._tell(checkpoints=written)
        if stopping:
            raise Stopped(ASKED)
