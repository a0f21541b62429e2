"""Train packs on a Dask cluster: its scheduler shares them out, and this process alone writes the store."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from hpr.experiment.carrying import Keeper, Loss
from hpr.experiment.cluster_worker import Answer, code_here, train_there
from hpr.experiment.jobs import Job, Reports
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure, disk_full
from hpr.experiment.worker import Orders
from hpr.system.extras import install

# Packs per thread of the cluster that are handed to the scheduler, so that no thread waits for this process.
AHEAD = 2
# Seconds to wait for the scheduler's answer, and between two looks at the list of workers.
ANSWER = 10.0
LOOK = 2.0


class Cluster:
    """An executor (`hpr.experiment.jobs`) that hands jobs to a Dask scheduler.

    Workers that run other code are refused by name. A pack whose workers died is tried by others, as often as the
    scheduler's setting `distributed.scheduler.allowed-failures` says, and then in halves.

    Args:
        reports: told what happens.
        keeper: saves the records.
        orders: what the workers are told.
        address: the scheduler's.
        say: prints a line.

    Raises:
        ImportError: Dask distributed is not installed.
        OSError: one line; no scheduler answers.
    """

    def __init__(
        self,
        reports: Reports,
        keeper: Keeper,
        orders: Orders,
        address: str,
        say: Callable[[str], None],
    ) -> None:
        from distributed import as_completed

        self._reports, self._keeper, self._orders = reports, keeper, orders
        self._address, self._say = address, say
        self._jobs: dict[Any, tuple[Job, dict[str, Record]]] = {}
        self._workers: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._looked, self._alone = 0.0, False
        self._client = _client(address)
        self._done = as_completed(loop=self._client.loop)

    def room(self) -> bool:
        """Whether the scheduler has less than `AHEAD` packs per thread of its good workers."""
        self._look()
        threads = sum(n for name, n in self._workers.items() if name not in self._refused)
        return len(self._jobs) < AHEAD * threads

    def pids(self) -> tuple[int, ...]:
        """None of this machine that work without this process."""
        return ()

    def start(self, job: Job, teachers: dict[str, Record]) -> None:
        """Hand a job to the scheduler."""
        # No other client of the scheduler has this key.
        orders, key = self._orders, f"hpr-{uuid.uuid4().hex}"
        good = [name for name in self._workers if name not in self._refused]
        future = self._client.submit(
            train_there,
            job.pack,
            teachers,
            orders.task_of,
            orders.train,
            orders.device,
            code_here(),
            key,
            key=key,
            pure=False,
            # A restriction outlives its workers, so there is none without need.
            workers=good if self._refused else None,
        )
        self._jobs[future] = job, teachers
        self._done.add(future)

    def wait(self, seconds: float) -> None:
        """Pass on what the cluster has done."""
        until = time.monotonic() + seconds
        while True:
            self._check()
            batch = self._done.next_batch(block=False)
            for future in batch:
                self._receive(future)
            if batch or time.monotonic() >= until:
                break
            time.sleep(0.02)
        self._look()

    def close(self, *, stop: bool) -> None:
        """Cancel what is not done; the workers notice within a second."""
        if self._client.status == "running":
            self._client.cancel(list(self._jobs), force=True)
        self._client.close(timeout=2)

    def _check(self) -> None:
        if self._client.status != "running":
            raise OSError(
                f"--cluster {self._address}: the scheduler has gone: finished runs are kept in "
                f"{self._keeper.store.runs}; the same command goes on from there"
            )

    def _receive(self, future: Any) -> None:
        from distributed import KilledWorker

        if future not in self._jobs:
            return
        job, teachers = self._jobs.pop(future)
        if future.status in ("cancelled", "lost"):
            # The list of futures is lost together with the connection.
            self._jobs[future] = job, teachers
            until = time.monotonic() + LOOK
            while time.monotonic() < until:
                self._check()
                time.sleep(0.05)
            del self._jobs[future]
            self._reports.ended(job, Loss("the cluster cancelled the pack", "", True, True))
            return
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            reason = f"the worker died ({error.last_worker.address}, as others before)"
            self._reports.ended(job, Loss(reason, "", smaller=True, passing=True, died=True))
        elif error is not None:
            self._reports.ended(job, Loss.of(error))
        else:
            answer = future.result()
            if answer.other is not None:
                self._refuse(answer.worker, f"it runs {answer.other}")
                self.start(job, teachers)
                return
            self._keep(job, answer)
        future.release()

    def _keep(self, job: Job, answer: Answer) -> None:
        named = {spec.key: spec for spec in job.pack}
        for record in answer.records:
            spec = named[record["key"]]
            try:
                self._keeper.save(record)
            except Exception as error:
                if not disk_full(error):
                    self._reports.failed(job, spec, Failure.of(str(spec), error))
            else:
                self._reports.kept(job, spec, record)
        for spec, failure in answer.failures:
            self._reports.failed(job, spec, failure)
        self._reports.ended(job, answer.loss)

    def _look(self) -> None:
        """Take note of workers that have come or gone, and ask the new ones for their code."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._check()
        info = self._client.scheduler_info(n_workers=-1)["workers"]
        found = {name: worker["nthreads"] for name, worker in info.items()}
        fresh = [name for name in found if name not in self._workers]
        gone = self._workers.keys() - found.keys()
        self._workers = found
        codes = (
            self._client.run(code_here, workers=fresh, nanny=False, on_error="return")
            if fresh
            else {}
        )
        for name, code in codes.items():
            if isinstance(code, BaseException):
                self._refuse(name, f"its code can't be told ({_line(code)})")
            elif code != code_here():
                self._refuse(name, f"it runs {code}")
        if found and found.keys() <= self._refused.keys():
            raise OSError(
                f"--cluster {self._address}: every worker is refused: this process runs {code_here()}"
            )
        if gone and self._refused:
            self._start_again()
        if not found and not self._alone:
            self._say(f"the cluster {self._address} has no workers yet: waiting for some")
        self._alone = not found
        self._looked = time.monotonic()

    def _start_again(self) -> None:
        """Hand jobs over again that are restricted to workers of which some have gone."""
        waiting = [future for future in self._jobs if future.status == "pending"]
        processing = {key for keys in self._client.processing().values() for key in keys}
        for future in waiting:
            if future.key not in processing:
                job, teachers = self._jobs.pop(future)
                future.cancel(force=True)
                self.start(job, teachers)

    def _refuse(self, worker: str, reason: str) -> None:
        if worker not in self._refused:
            self._refused[worker] = reason
            self._say(f"worker {worker} is refused: {reason}, and this process runs {code_here()}")


def threads_of(address: str) -> int:
    """The number of threads that a cluster has now, at least 1.

    Raises:
        ImportError: Dask distributed is not installed.
        OSError: one line; no scheduler answers.
    """
    client = _client(address)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    client.close(timeout=2)
    return max(1, sum(worker["nthreads"] for worker in workers.values()))


def ask_workers(
    address: str, function: Callable[[Any], Any], argument: Any, most: int, seconds: float
) -> list[Any]:
    """What `function` of `argument` gives on up to `most` workers of a cluster at once; those that fail are left out.

    Raises:
        ImportError: Dask distributed is not installed.
        OSError: one line; no scheduler answers.
    """
    client = _client(address)
    found = []
    try:
        names = list(client.scheduler_info(n_workers=-1)["workers"])[:most]
        futures = [client.submit(function, argument, workers=[name], pure=False) for name in names]
        end = time.monotonic() + seconds
        for future in futures:
            # It may run other code, or none of this project.
            with contextlib.suppress(Exception):
                found.append(future.result(timeout=max(0.0, end - time.monotonic())))
    finally:
        client.close(timeout=2)
    return found


def _client(address: str) -> Any:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ImportError(
            f"--cluster: expected the package distributed, got none; {install('cluster')}"
        ) from error
    # The end of a connection is this module's to report, in one line.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return distributed.Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(f"--cluster {address}: no scheduler answers ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
