"""What a plan will take: its packs timed, the schedule of its workers simulated. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpr.command_line import counted, in_words
from hpr.experiment.cluster import AHEAD, threads_of
from hpr.experiment.early_stops import known_iterations
from hpr.experiment.forecasting import Forecast, foresee
from hpr.experiment.plan import Plan, TaskOf, plan
from hpr.experiment.specification import RunSpec, distinct
from hpr.experiment.speed import Speed
from hpr.experiment.store import Store
from hpr.system.devices import Device, cores, training_rate
from hpr.training.calibration import calibrated, timed_there

# Bytes of a process that has loaded torch, SciPy and a task, where none was measured: 530 MB on Linux, rounded.
PROCESS_MEMORY = 5e8


@dataclass(frozen=True)
class Ahead:
    """A plan and its forecast.

    Attributes:
        left: the plan.
        forecast: its time and memory.
        speed: what was timed; `timings` is empty where nothing was.
        asked: whether packs were to be timed.
        workers: the processes or threads of a cluster that train.
        cluster: address of the scheduler whose workers they are.
        where: the folder's records, for a line.
        device: where training will be.
    """

    left: Plan
    forecast: Forecast
    speed: Speed
    asked: bool
    workers: int
    cluster: str | None
    where: str
    device: Device

    @property
    def rate(self) -> float:
        """FLOP/s of all workers together."""
        return self.left.flops / self.forecast.seconds if self.left.packs else 0.0

    def plain(self) -> dict[str, Any]:
        """The forecast as plain values."""
        return {
            "seconds": self.forecast.seconds,
            "at_most": self.forecast.at_most,
            "flops_per_s": self.rate,
            "memory_bytes": self.forecast.memory,
            "worker_memory_bytes": self.forecast.worker_memory,
            "workers": self.workers,
            "timed_kinds": len(self.speed.timings),
            "timing_s": self.speed.took,
        }

    def lines(self) -> list[str]:
        """The forecast in words."""
        left, of = self.left, self.forecast
        unreadable = f", {len(left.unreadable)} unreadable there" if left.unreadable else ""
        about = "at most" if of.at_most else "about"
        lines = [
            f"{counted(left.stored, 'run')} already in {self.where}{unreadable}, {left.runs} to train in "
            f"{counted(len(left.packs), 'pack')}: at most {left.flops:.2g} FLOP, {about} {in_words(of.seconds)} at "
            f"{self.rate:.2g} FLOP/s on {self.device}, {of.memory / 1e6:.0f} MB"
        ]
        if not left.packs:
            return lines
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + of.seconds))
        workers = counted(self.workers, "worker")
        if self.cluster:
            workers = f"{counted(self.workers, 'thread')} of the cluster {self.cluster}"
        return [
            *lines,
            f"{workers}, {of.worker_memory / 1e6:.0f} MB each; a start now ends {about} {end}; {self._basis()}",
        ]

    def _basis(self) -> str:
        timed = len(self.speed.timings)
        if not timed:
            why = ", since no pack could be timed" if self.asked else ""
            return f"speed and memory of a process are assumed{why}"
        kinds = len({pack[0].shape for pack in self.left.packs})
        others = ", the others by their FLOPs" if kinds > timed else ""
        at_once = (
            f" by {self.speed.processes} processes at once" if self.speed.processes > 1 else ""
        )
        return f"{timed} of {counted(kinds, 'kind')} of packs timed{at_once} in {self.speed.took:.0f} s{others}"


def ahead(
    specs: Sequence[RunSpec],
    store: Store,
    task_of: TaskOf,
    device: Device,
    *,
    workers: int = 1,
    cluster: str | None = None,
    mnist_there: bool = True,
    timed: bool = True,
) -> Ahead:
    """Plan what the store lacks of some runs, and forecast its time and memory.

    Args:
        specs: the runs asked for.
        store: where finished runs are.
        task_of: from a run to its task.
        device: where to train.
        workers: how many processes will train.
        cluster: address of the Dask scheduler whose workers will train instead.
        mnist_there: whether MNIST's files are on this machine.
        timed: whether to time packs; otherwise the speed of matrix products stands for that of training, and no
            cluster is asked.

    Raises:
        ImportError: Dask distributed is not installed.
        OSError: one line; no scheduler answers.
    """
    cluster = cluster if timed else None
    threads = threads_of(cluster) if cluster is not None else workers
    asked = distinct(specs)
    packs = AHEAD * threads if cluster is not None else workers
    left = plan(asked, store.holding(asked), task_of, device, packs)
    speed = None
    if timed and left.packs:
        there = None if cluster is None else timed_there(cluster)
        speed = calibrated(
            left, task_of, device, threads, mnist_there=mnist_there, time_there=there
        )
    if speed is None:
        # Workers on the processor have one thread each.
        alone = device.type == "cuda" or (cluster is None and workers == 1)
        rate = training_rate(device) / (1 if alone else cores())
        speed = Speed(rate=rate, base=PROCESS_MEMORY)
    found = foresee(left, speed, threads, known_iterations(asked, left, store))
    return Ahead(left, found, speed, timed, threads, cluster, str(store.runs), device)
