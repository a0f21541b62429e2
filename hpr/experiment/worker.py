"""What a worker process does: train the packs that its parent sends, and save each record itself."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from hpr.experiment.carrying import Keeper, Loss, Train, accepted, checkpoints_in, train_and_keep
from hpr.experiment.plan import TaskOf
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure
from hpr.experiment.run_progress import PackState
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.system.child_process import leave_signals

# Seconds that a worker without a parent may take to write its checkpoints.
ORPHAN = 20.0
# Seconds between two reports of progress.
REPORT = 0.25


@dataclass(frozen=True)
class Orders:
    """What a worker is told at its start."""

    store: Store
    task_of: TaskOf
    train: Train
    device: str
    period: float | None


def serve(connection: Connection, orders: Orders) -> None:
    """Train one pack after another, until the parent sends "stop" or is gone.

    Every message to the parent is a tuple whose first word says what it is: ready, progress, state, kept, failed,
    ended.
    """
    leave_signals()
    logging.basicConfig(format="hpr: %(message)s")
    import torch

    torch.set_num_threads(1)
    packs: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()
    polite = "stop" in accepted(orders.train)
    threading.Thread(target=_listen, args=(connection, packs, stop, polite), daemon=True).start()
    work = _Work(connection, orders, stop)
    work.send("ready")
    while not stop.is_set() and (order := packs.get()) is not None:
        if isinstance(order, Exception):
            work.send("ended", Loss.of(order), None, [])
        else:
            work.send("ended", *work(*order))


class _Work:
    def __init__(self, connection: Connection, orders: Orders, stop: threading.Event) -> None:
        import torch

        self._connection, self._orders, self._stop = connection, orders, stop
        self._keeper = Keeper(orders.store)
        self._device = torch.device(orders.device)
        self._checkpoints = checkpoints_in(orders.store.out, orders.train, orders.period)
        self._count, self._reported, self._told = 0, 0.0, 0.0

    def __call__(
        self, pack: list[RunSpec], teachers: list[RunSpec]
    ) -> tuple[Loss | None, OSError | None, list[Record]]:
        """Train a pack; returns why it ended early, what a full disk said, and the records that it refused."""
        orders = self._orders

        def keep(spec: RunSpec, record: Record) -> None:
            self._keeper.save(record)
            self.send("kept", spec)

        try:
            loss = train_and_keep(
                pack,
                orders.task_of(pack[0]),
                orders.train,
                self._device,
                teachers=self._records(teachers),
                checkpoints=self._checkpoints,
                keep=keep,
                fail=lambda spec, error: self.send("failed", spec, Failure.of(str(spec), error)),
                progress=self._progress,
                state=self._state,
                stop=lambda: self._stop.is_set() or self._keeper.full(),
            )
        except Exception as error:
            loss = Loss.of(error)
        for record in self._keeper.save_held():
            self.send("kept", RunSpec.from_dict(record["spec"]))
        return loss, self._keeper.refused, self._keeper.held

    def send(self, *message: Any) -> None:
        """Tell the parent. If it is gone, the listener ends this process, after the checkpoints."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def _records(self, teachers: list[RunSpec]) -> dict[str, Record]:
        found = ((teacher.key, self._orders.store.load(teacher)) for teacher in teachers)
        return {key: record for key, record in found if record is not None}

    def _progress(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if now - self._reported >= REPORT:
            self.send("progress", self._count)
            self._count, self._reported = 0, now

    def _state(self, state: PackState) -> None:
        now = time.monotonic()
        if state.checkpoints or now - self._told >= REPORT:
            self.send("state", state)
            self._told = now


def _listen(
    connection: Connection, packs: queue.Queue[Any], stop: threading.Event, polite: bool
) -> None:
    """Pass packs on to the main thread. When the parent is gone, end this process, after the checkpoints if any."""
    gone = False
    try:
        while True:
            try:
                order = connection.recv()
            except (EOFError, OSError):
                raise
            except Exception as error:
                # A run's class can't be found here, say.
                packs.put(error)
                continue
            if isinstance(order, str):
                break
            packs.put(order)
    except (EOFError, OSError):
        gone = True
    stop.set()
    packs.put(None)
    if gone:
        time.sleep(ORPHAN if polite else 0)
        os._exit(1)
