"""Train one pack and keep each record as soon as it is there, in whatever process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure, disk_full, no_memory
from hpr.experiment.run_progress import PackState
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store

if TYPE_CHECKING:
    import torch

    from hpr.tasks import Task

Train = Callable[..., list[Record]]


@dataclass(frozen=True)
class Loss:
    """Why a pack ended before all of its runs had a record or a failure.

    `smaller`: with fewer networks at once it may go well. `passing`: as in `Failure`. `died`: its process has gone.
    """

    reason: str
    traceback: str
    smaller: bool
    passing: bool
    died: bool = False

    @classmethod
    def of(cls, error: Exception) -> Loss:
        """The loss by an exception."""
        failure = Failure.of("", error)
        return cls(failure.reason, failure.traceback, no_memory(error), failure.passing)

    def failure(self, spec: RunSpec) -> Failure:
        """The failure of a run that was lost."""
        return Failure(str(spec), self.reason, self.traceback, self.passing)


class Keeper:
    """Saves records, and holds those that a full disk refuses, so that they can be saved again before the end."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refused: OSError | None = None
        self.held: list[Record] = []

    def save(self, record: Record) -> None:
        """Save a record.

        Raises:
            OSError, ValueError: it can't be saved. If the disk is full, the record is held.
        """
        try:
            self.store.save(record)
        except OSError as error:
            if disk_full(error):
                self.refused = error
                self.held.append(record)
            raise

    def full(self) -> bool:
        """Whether the disk has refused a record."""
        return self.refused is not None

    def save_held(self) -> list[Record]:
        """Save the held records again, and return those that are saved now."""
        saved, held = [], []
        for record in self.held:
            try:
                self.store.save(record)
                saved.append(record)
            except OSError:
                held.append(record)
        self.held = held
        return saved


def accepted(train: Train) -> set[str]:
    """The options that a train function names, so that a simple one needs none but `device` and `progress`."""
    try:
        return set(inspect.signature(train).parameters)
    except (TypeError, ValueError):
        return set()


def checkpoints_in(out: Path, train: Train, period: float | None) -> Checkpoints | None:
    """Where `train` writes its checkpoints, `<out>/checkpoints`; None if it takes none.

    Args:
        out: the folder of results.
        train: a train function.
        period: seconds between checkpoints; None: the default.

    Raises:
        ModuleNotFoundError: the library of the files is not installed.
    """
    if "checkpoints" not in accepted(train):
        return None
    folder = out / "checkpoints"
    return Checkpoints(folder) if period is None else Checkpoints(folder, period=period)


# Longer than 60 lines: half of it says what the arguments do.
def train_and_keep(
    pack: Sequence[RunSpec],
    task: Task,
    train: Train,
    device: torch.device,
    *,
    teachers: Mapping[str, Record],
    checkpoints: Checkpoints | None,
    keep: Callable[[RunSpec, Record], None],
    fail: Callable[[RunSpec, Exception], None],
    progress: Callable[[int], None],
    state: Callable[[PackState], None],
    stop: Callable[[], bool],
) -> Loss | None:
    """Train a pack with those of the options that `train` takes; every record goes to `keep`.

    Args:
        pack: runs of one shape.
        task: their task.
        train: as `hpr.training.loop.train_pack`.
        device: where to train.
        teachers: records by key, for runs with a teacher.
        checkpoints: as `checkpoints_in` gives them.
        keep: called with a run and its record as soon as `train` has it.
        fail: called with a run that fails alone.
        progress: called with numbers of iterations.
        state: called with what the pack has come to.
        stop: whether to end now.

    Returns:
        Why the pack ended early; None if it did not, or because `stop` said so.
    """
    seen: set[str] = set()

    def kept(spec: RunSpec, record: Record) -> None:
        seen.add(spec.key)
        keep(spec, record)

    def failed(spec: RunSpec, error: Exception) -> None:
        # A record that a full disk refuses is held, and its run has not failed.
        if not disk_full(error):
            fail(spec, error)

    options = {
        "checkpoints": checkpoints, "keep": kept, "fail": failed, "state": state, "stop": stop,
    }  # fmt: skip
    known = accepted(train)
    given: dict[str, Any] = {k: v for k, v in options.items() if k in known}
    if any(spec.teacher for spec in pack):
        given["teachers"] = teachers
    try:
        records = train(pack, task, device=device, progress=progress, **given)
    except Exception as error:
        return None if stop() else Loss.of(error)
    named = {spec.key: spec for spec in pack}
    for spec, record in zip(pack, records, strict=True) if "keep" not in known else ():
        # A record that can't be kept loses its own run alone.
        try:
            kept(named[spec.key], record)
        except Exception as error:
            failed(spec, error)
    return None
