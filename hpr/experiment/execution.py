"""Carry runs out: train what the store lacks, pack by pack, and keep each record as soon as it is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hpr.command_line import counted
from hpr.experiment.binding import bind
from hpr.experiment.carrying import Keeper, Train
from hpr.experiment.cluster import AHEAD, Cluster, threads_of
from hpr.experiment.dispatch import Dispatcher
from hpr.experiment.failures import Failures
from hpr.experiment.in_process import InProcess
from hpr.experiment.jobs import Executor, Job, Reports, longest_first, pack_name
from hpr.experiment.plan import CARD_WORKERS, Plan, TaskOf, plan
from hpr.experiment.record import Record
from hpr.experiment.run_claims import Claims
from hpr.experiment.run_log import RunLog
from hpr.experiment.run_outcome import Failure, Outcome
from hpr.experiment.run_progress import Progress
from hpr.experiment.specification import RunSpec, distinct
from hpr.experiment.store import Store
from hpr.experiment.worker import Orders
from hpr.experiment.worker_pool import Workers, can_be_sent
from hpr.system.devices import Device, cores
from hpr.system.signals import Stopping

if TYPE_CHECKING:
    import torch

__all__ = ["Failure", "Outcome", "Train", "default_workers", "run_local"]


# Longer than 60 lines: more than half of it says what the arguments do.
def run_local(
    specs: Iterable[RunSpec],
    store: Store,
    task_of: TaskOf,
    train: Train,
    device: torch.device,
    say: Callable[[str], None],
    *,
    workers: int = 1,
    cluster: str | None = None,
    retry_failed: bool = False,
    checkpoint_period: float | None = None,
    stopping: Stopping | None = None,
    log: RunLog | None = None,
) -> Outcome:
    """Train what the store lacks, and save each run as soon as it is measured.

    Each run is bound to its task first, so that a record of another task of the same name is not taken for its own.
    Other processes, on this machine or others, may do the same on the same folder at the same time: each run is trained
    by one of them, and each call returns when all its runs have a record or a failure.

    A run that fails is written down in `<out>/failures` and not tried again unless `retry_failed` is given, or the
    cause was a signal, the memory or the disk. Where there is no memory for a pack, or its process dies, halves of it
    are tried. A run whose record can't be read or kept fails alone.

    Args:
        specs: the runs asked for.
        store: where finished runs are found and kept.
        task_of: from a run to its task.
        train: `hpr.training.loop.train_pack`, or a function like it. It is given checkpoints, `keep`, `fail` and `stop`
            if it has such parameters.
        device: where to train.
        say: prints a line; called about once per pack.
        workers: the number of processes that train. They are of one thread each, on a card each if `device` is "cuda".
            With 1, or if `task_of` or `train` can't be pickled, this process trains.
        cluster: address of the scheduler of a Dask cluster, which trains instead.
        retry_failed: whether to try the runs again that failed in an earlier call.
        checkpoint_period: seconds between checkpoints; None: the default of `hpr.experiment.checkpoints`.
        stopping: tells whether a signal asked to stop; None: nothing does.
        log: takes an event for what happens; None: nothing is written.

    Raises:
        Signalled: a signal asked to stop. What is finished is kept.
        OSError: one line: the disk is full, the cluster has gone, or no worker can be started.
    """
    outcome = Outcome()
    failures = Failures(store.out / "failures", retry=retry_failed)
    stopping, log = stopping or Stopping(lambda number: ""), log or RunLog()
    bound = _bound(specs, task_of, outcome)
    orders = Orders(store, task_of, train, str(device), checkpoint_period)
    if cluster is not None:
        workers = AHEAD * threads_of(cluster)
    elif workers > 1 and not can_be_sent(orders, bound):
        workers = 1
    done = _loader(store.loading(bound), failures, outcome)
    left = plan(bound, done, task_of, device, workers)
    for spec, reason in left.unreadable.items():
        outcome.failures[spec.key] = Failure.of(str(spec), reason)
    say(_opening(left, store, len(distinct(outcome.runs)), failures.standing))
    log.event(
        "plan",
        runs=len(distinct(outcome.runs)),
        stored=left.stored - failures.standing,
        unreadable=len(left.unreadable),
        failed_before=failures.standing,
        left=left.runs,
        packs=len(left.packs),
        flops=left.flops,
        workers=workers,
        cluster=cluster,
    )
    for key, failure in outcome.failures.items():
        log.event("failed", key=key, run=failure.what, reason=failure.reason)
    if left.packs:
        # A folder that the caller has not prepared is made with the first record.
        if store.runs.is_dir():
            store.check_room()
        _train(left, orders, device, say, outcome, failures, stopping, log, cluster, workers)
    failures.close()
    return outcome


def _train(
    left: Plan,
    orders: Orders,
    device: torch.device,
    say: Callable[[str], None],
    outcome: Outcome,
    failures: Failures,
    stopping: Stopping,
    log: RunLog,
    cluster: str | None,
    workers: int,
) -> None:
    """Train the packs of a plan here, in worker processes, or on a cluster."""
    jobs = [
        Job(f"pack {number}/{len(left.packs)}: {pack_name(pack)}", pack, price)
        for number, (pack, price) in enumerate(zip(left.packs, left.costs, strict=True), start=1)
    ]
    if cluster is not None or workers > 1:
        jobs = longest_first(jobs)
    keeper = Keeper(orders.store)
    claims = Claims(orders.store.out / "claims")
    stopping.at_once = claims.close

    def start(reports: Reports) -> Executor:
        if cluster is not None:
            return Cluster(reports, keeper, orders, cluster, say)
        if workers > 1:
            return Workers(reports, keeper, orders, _devices(device, min(workers, len(jobs))))
        return InProcess(reports, keeper, orders, device, stopping)

    with Progress(left.flops, left.runs, say, log) as progress:
        dispatcher = Dispatcher(
            jobs, keeper, orders.task_of, claims, failures, outcome, progress, stopping, log
        )
        try:
            dispatcher.run(start)
        finally:
            _tidy(orders.store, outcome)


def _tidy(store: Store, outcome: Outcome) -> None:
    """Remove what is left of runs that are kept now.

    These are the temporary files of killed processes, and the checkpoints of records that a full disk refused at first.
    """
    with contextlib.suppress(OSError):
        left = [*store.runs.glob(".*.*.tmp"), *(store.out / "checkpoints").glob("*.safetensors")]
        for path in left:
            if path.name.lstrip(".").partition(".")[0] in outcome.records:
                path.unlink(missing_ok=True)


def default_workers(device: torch.device | Device) -> int:
    """One worker per core that this process may use; on CUDA, at most `CARD_WORKERS` per card."""
    if device.type != "cuda":
        return cores()
    import torch

    cards = torch.cuda.device_count() if device.index is None else 1
    return max(cards, min(CARD_WORKERS * cards, cores()))


def _devices(device: torch.device, workers: int) -> list[str]:
    """A device per worker; cards in turn, so that several workers share one."""
    if device.type != "cuda" or device.index is not None:
        return [str(device)] * workers
    import torch

    return [f"cuda:{number % torch.cuda.device_count()}" for number in range(workers)]


def _opening(left: Plan, store: Store, runs: int, failed: int) -> str:
    """The line that says what is there and what is left."""
    parts = [
        f"{counted(runs, 'run')}: {left.stored - failed} already in {store.runs}",
        *([f"{len(left.unreadable)} unreadable there"] if left.unreadable else []),
        *([f"{failed} failed before (see --retry-failed)"] if failed else []),
        f"{left.runs} to train in {counted(len(left.packs), 'pack')}",
        f"at most {left.flops:.2g} FLOP",
    ]
    return ", ".join(parts)


def _bound(specs: Iterable[RunSpec], task_of: TaskOf, outcome: Outcome) -> list[RunSpec]:
    """Bind each run to its task, write all of them into `outcome.runs`, and return those that could be bound."""
    for spec in specs:
        try:
            bound = bind(spec, task_of(spec))
        except Exception as error:
            bound = spec
            outcome.failures[spec.key] = Failure.of(str(spec), error)
        outcome.runs.append(bound)
    return [spec for spec in distinct(outcome.runs) if spec.key not in outcome.failures]


def _loader(
    load: Callable[[RunSpec], Record | None], failures: Failures, outcome: Outcome
) -> Callable[[RunSpec], bool]:
    """A function that says whether nothing is to be done for a run, and takes its record or failure into `outcome`."""
    failed = failures.names()

    def done(spec: RunSpec) -> bool:
        record = load(spec)
        if record is not None:
            outcome.records[spec.key] = record
            return True
        failure = failures.earlier(spec) if spec.key in failed else None
        if failure is not None:
            outcome.failures[spec.key] = failure
        return failure is not None

    return done
