"""Give packs to whatever trains them, see to claims and retries, and collect what becomes of each run."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence

from hpr.command_line import counted
from hpr.experiment.carrying import Keeper, Loss
from hpr.experiment.failures import Failures
from hpr.experiment.jobs import Executor, Job, Reports, pack_name
from hpr.experiment.plan import TaskOf, pack_cost, packs
from hpr.experiment.record import Record
from hpr.experiment.run_claims import Claims
from hpr.experiment.run_log import RunLog
from hpr.experiment.run_outcome import Failure, Outcome, disk_full
from hpr.experiment.run_progress import PackState, Progress
from hpr.experiment.specification import RunSpec
from hpr.system.files import look_again
from hpr.system.signals import Stopping

# Seconds between two looks at what other processes do, at least, and the share of the time that looking may take.
PULSE = 0.5
LOOKING = 0.05
# Someone has removed it, or the train function returned none.
NO_RECORD = Loss("no record of this run was found", "", smaller=False, passing=True)


class Dispatcher:
    """Carries jobs out until every run has a record or a failure.

    Args:
        jobs: the packs, in the order in which they are started.
        store: through a keeper, where records are.
        task_of: from a run to its task.
        claims: which runs other processes train.
        failures: where failures are written down.
        outcome: what became of the runs.
        progress: what is shown.
        stopping: whether a signal has come.
        log: takes an event for each start of a pack, checkpoint, record and failure.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        keeper: Keeper,
        task_of: TaskOf,
        claims: Claims,
        failures: Failures,
        outcome: Outcome,
        progress: Progress,
        stopping: Stopping,
        log: RunLog,
    ) -> None:
        self._pending = list(jobs)
        self._running: set[Job] = set()
        # Runs that other processes train, by key.
        self._elsewhere: dict[str, RunSpec] = {}
        self._looked, self._told = -math.inf, False
        self._closing = False
        self._keeper, self._store, self._task_of = keeper, keeper.store, task_of
        self._claims, self._failures = claims, failures
        self._outcome, self._progress, self._stopping = outcome, progress, stopping
        self._log = log

    def run(self, start: Callable[[Reports], Executor]) -> None:
        """Start jobs as the executor of `start` has room, until none is left or something asks to stop.

        Raises:
            Signalled: a signal asked to stop.
            OSError: one line; the disk is full, or the executor has gone.
        """
        # Each step at the end is taken, whatever another raises.
        with self._stopping.deferred(), contextlib.ExitStack() as end:
            end.callback(self._claims.close)
            end.callback(self._save_held)
            executor = start(self)
            end.callback(self._close, executor)
            while (self._pending or self._running or self._elsewhere) and not self._halting():
                begun = self._begin(executor)
                if self._running:
                    executor.wait(PULSE)
                elif not begun:
                    self._look_elsewhere(wait=True)
        self._stopping.check()
        if self._keeper.refused is not None:
            raise self._full(self._keeper.refused)

    def _close(self, executor: Executor) -> None:
        # What is in training now is stopped, and has not failed.
        self._closing = True
        executor.close(stop=bool(self._running))

    def _save_held(self) -> None:
        for record in self._keeper.save_held():
            self._outcome.records[record["key"]] = record

    def _halting(self) -> bool:
        return self._closing or self._stopping.asked() or self._keeper.full()

    def _full(self, error: OSError) -> OSError:
        held = len(self._keeper.held)
        lost = (
            f"{held} finished runs could not be kept, " if held else "every finished run is kept, "
        )
        return OSError(
            f"{self._store.runs} can't be written: {error.strerror}: {lost}"
            f"{len(self._outcome.records)} are there; make room and the same command goes on"
        )

    def _begin(self, executor: Executor) -> bool:
        """Start what can be started, and return whether anything was."""
        begun = False
        while executor.room() and not self._halting():
            job = self._next(executor.pids())
            if job is None:
                if self._elsewhere and self._look_elsewhere(wait=False):
                    continue
                return begun
            begun = True
            self._running.add(job)
            job.started = time.perf_counter()
            self._progress.begin(job, job.name)
            self._log.event("pack", pack=job.name, runs=[spec.key for spec in job.pack])
            teachers = {
                spec.teacher.key: self._outcome.records[spec.teacher.key]
                for spec in job.pack
                if spec.teacher and spec.teacher.key in self._outcome.records
            }
            executor.start(job, teachers)
        return begun

    def _next(self, pids: tuple[int, ...]) -> Job | None:
        """The next job, claimed, without the runs that others train or have trained."""
        undecided = {spec.key for job in (*self._pending, *self._running) for spec in job.pack}
        undecided |= self._elsewhere.keys()
        for job in list(self._pending):
            # Students follow their teachers.
            if any(spec.teacher and spec.teacher.key in undecided for spec in job.pack):
                continue
            self._pending.remove(job)
            mine = [spec for spec in job.pack if self._claimed(spec, pids)]
            if mine:
                return job if len(mine) == len(job.pack) else self._reduced(job, mine)
            self._progress.advance(job.price.flops)
        return None

    def _reduced(self, job: Job, mine: list[RunSpec]) -> Job:
        smaller = job.of(mine)
        self._progress.advance(job.price.flops - smaller.price.flops)
        return smaller

    def _claimed(self, spec: RunSpec, pids: tuple[int, ...]) -> bool:
        """Claim a run, and look at the store again, where another process may have put it in the meantime."""
        if self._outcome.decided(spec) or self._keeper.full():
            return False
        try:
            if not self._claims.take(spec.key, pids):
                self._elsewhere[spec.key] = spec
                return False
            if not self._found(spec):
                return True
        except OSError as error:
            if disk_full(error):
                # It would refuse every other claim, and the records.
                self._keeper.refused = error
            else:
                self._fail(spec, Failure.of(str(spec), error))
        self._claims.give_back(spec.key)
        return False

    def _found(self, spec: RunSpec) -> bool:
        """Whether a run has a record or a failure of another process by now; it is taken into the outcome."""
        look_again(self._store.runs)
        look_again(self._failures.folder)
        record = self._store.load(spec)
        if record is not None:
            self._outcome.records[spec.key] = record
            self._progress.count()
            return True
        failure = self._failures.since(spec)
        if failure is not None:
            self._outcome.failures[spec.key] = failure
            self._progress.count()
        return failure is not None

    def _look_elsewhere(self, *, wait: bool) -> bool:
        """See what became of the runs that others train; return whether some are free to be trained here."""
        if wait:
            if not self._told:
                self._told = True
                holders = sorted({*map(self._claims.holder, self._elsewhere)} - {None}, key=str)
                self._progress.line(
                    f"{counted(len(self._elsewhere), 'run is', 'runs are')} being trained elsewhere"
                    f"{''.join(f', by {holder}' for holder in holders[:3])}: waiting for them"
                )
            time.sleep(PULSE)
        started = time.monotonic()
        if started < self._looked:
            return False
        held = self._claims.holders()
        free = []
        for spec in list(self._elsewhere.values()):
            if spec.key in held and self._claims.holder(spec.key) is not None:
                continue
            del self._elsewhere[spec.key]
            try:
                if not self._found(spec):
                    free.append(spec)
            except OSError as error:
                self._fail(spec, Failure.of(str(spec), error))
        now = time.monotonic()
        self._looked = now + max(PULSE, (now - started) / LOOKING)
        for pack in packs(free, lambda _: len(free)):
            price = pack_cost(pack, self._task_of)
            self._progress.advance(-price.flops)
            self._pending.append(Job(f"taken over: {pack_name(pack)}", pack, price))
        return bool(free)

    def advanced(self, job: Job, flops: float) -> None:
        """Count FLOPs of a job."""
        job.counted += flops
        self._progress.advance(flops)

    def told(self, job: Job, state: PackState) -> None:
        """Show the state of a job."""
        self._progress.tell(job, state)
        if state.checkpoints:
            self._log.event("checkpoint", pack=job.name, **vars(state))

    def kept(self, job: Job, spec: RunSpec, record: Record | None) -> None:
        """Take a run's record into the outcome, and give its claim back; a record that can't be read is a failure."""
        try:
            record = record or self._store.load(spec)
        except OSError as error:
            self._fail(spec, Failure.of(str(spec), error))
            self._over(job, spec, counted=True)
            return
        if record is None:
            # Someone has removed the file. The run is seen to when its job has ended.
            return
        if spec.key not in self._outcome.records:
            self._log_record(job, spec, record)
        self._outcome.records[spec.key] = record
        self._failures.drop(spec)
        self._over(job, spec)

    def failed(self, job: Job, spec: RunSpec, failure: Failure) -> None:
        """Write a failure down, and give the run's claim back."""
        self._fail(spec, failure)
        self._failures.keep(spec, failure)
        self._over(job, spec, counted=True)

    def ended(self, job: Job, loss: Loss | None) -> None:
        """See to the runs of a job that have neither record nor failure."""
        self._running.discard(job)
        self._progress.end(job)
        left = [
            spec
            for spec in job.pack
            # A process may have died between saving a record and telling of it.
            if not self._outcome.decided(spec) and not (loss and self._saved(job, spec))
        ]
        if self._halting():
            for spec in left:
                self._claims.give_back(spec.key)
            return
        parts = self._smaller(job, left, loss) if loss and left else []
        if parts and loss:
            self._progress.line(
                f"{job.name}: {loss.reason}: {len(left)} of its runs are tried again"
            )
            # What was counted of these runs is counted again.
            again = sum(part.price.flops for part in parts)
            self._progress.advance(job.price.flops - again - job.counted)
            self._pending[:0] = parts
            return
        for spec in left:
            self.failed(job, spec, (loss or NO_RECORD).failure(spec))
        # The FLOPs of the measures, and those that early stops saved.
        self._progress.advance(job.price.flops - job.counted)
        seconds = time.perf_counter() - job.started
        self._progress.line(f"{job.name}, {self._outcome.ending(job.pack)} in {seconds:.1f} s")

    def _smaller(self, job: Job, left: list[RunSpec], loss: Loss) -> list[Job]:
        """What is tried after a loss: halves of the pack, what is left of it, or a lone run a second time."""
        if not loss.smaller or (len(job.pack) == 1 and not (loss.died and job.deaths == 0)):
            return []
        half = math.ceil(len(left) / 2) if len(left) == len(job.pack) else len(left)
        parts = [job.of(part) for part in (left[:half], left[half:]) if part]
        for part in parts:
            part.deaths = job.deaths + 1 if len(job.pack) == 1 else 0
        return parts

    def _saved(self, job: Job, spec: RunSpec) -> bool:
        self.kept(job, spec, None)
        return self._outcome.decided(spec)

    def _over(self, job: Job, spec: RunSpec, *, counted: bool = False) -> None:
        self._claims.give_back(spec.key)
        if not counted:
            self._progress.count()
        if spec.key not in job.ended:
            job.ended.add(spec.key)
            self.advanced(job, job.price.kernel_flops / len(job.pack))

    def _fail(self, spec: RunSpec, failure: Failure) -> None:
        self._outcome.failures[spec.key] = failure
        self._progress.count()
        self._log.event("failed", key=spec.key, run=str(spec), reason=failure.reason)

    def _log_record(self, job: Job, spec: RunSpec, record: Record) -> None:
        measures = record["measures"]
        self._log.event(
            "finished",
            key=spec.key,
            run=str(spec),
            pack=job.name,
            status=record["status"],
            iterations=record["iterations"],
            training_s=record["timings"].get("training_s"),
            loss=measures.get("final_loss"),
            kernel_alignment=measures.get("kernel_alignment"),
        )
