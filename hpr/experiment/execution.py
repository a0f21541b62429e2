"""Carry runs out in this process: train what the store lacks, pack by pack, and keep each record."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpr.experiment.binding import bind
from hpr.experiment.plan import TaskOf, plan
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec, distinct
from hpr.experiment.store import Store

if TYPE_CHECKING:
    import torch


Train = Callable[..., list[Record]]


@dataclass(frozen=True)
class Failure:
    """A run, figure or file for which an exception was raised: its name, the error in one line, the traceback."""

    what: str
    reason: str
    traceback: str

    @classmethod
    def of(cls, what: str, error: Exception) -> Failure:
        """Describe a caught exception; `what` names what it was raised for."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(what, line, "".join(traceback.format_exception(error)))


@dataclass
class Outcome:
    """Records by key and failures by key. Each run asked for has either a record or a failure.

    `runs` are the runs asked for, in order, as they were trained and kept: bound to their tasks
    (`hpr.experiment.bind`). Binding changes a run only if its task has a `content` or its structure is your own.
    """

    runs: list[RunSpec] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def of(self, asked: Sequence[RunSpec]) -> tuple[dict[str, Record], dict[str, str]]:
        """Records and reasons of failures by the keys of the runs that `run_local` was asked for, in the same order."""
        pairs = [(spec.key, run.key) for spec, run in zip(asked, self.runs, strict=True)]
        return (
            {key: self.records[bound] for key, bound in pairs if bound in self.records},
            {key: self.failures[bound].reason for key, bound in pairs if bound in self.failures},
        )


def run_local(
    specs: Iterable[RunSpec],
    store: Store,
    task_of: TaskOf,
    train: Train,
    device: torch.device,
    say: Callable[[str], None],
) -> Outcome:
    """Train what the store lacks, pack by pack, and save each run as soon as its pack is done.

    Each run is bound to its task first, so that a record of another task of the same name is not taken for its own.

    A pack that raises is recorded as a failure of each of its runs, and the other packs go on. A run whose record can't
    be read or kept fails alone. The progress bar counts FLOPs and not iterations, so that its ETA holds across packs
    whose iterations cost differently. It shows on a terminal only.

    Args:
        specs: the runs asked for.
        store: where finished runs are found and kept.
        task_of: from a run to its task.
        train: `hpr.training.loop.train_pack`, or a function like it.
        device: where to train.
        say: prints a line; called once per pack.
    """
    from tqdm import tqdm

    outcome = Outcome()
    left = plan(_bound(specs, task_of, outcome), _loader(store, outcome), task_of, device)
    for spec, reason in left.unreadable.items():
        outcome.failures[spec.key] = Failure.of(str(spec), reason)
    unreadable = f", {len(left.unreadable)} unreadable there" if left.unreadable else ""
    say(
        f"{len(distinct(outcome.runs))} runs: {left.stored} already in {store.runs}{unreadable}, "
        f"{left.runs} to train in {len(left.packs)} packs, at most {left.flops:.2g} FLOP"
    )
    # tqdm decides by the stream whether there is a terminal.
    with tqdm(
        total=left.flops,
        disable=None if left.packs else True,
        file=sys.stderr,
        bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
    ) as bar:
        for number, (pack, price) in enumerate(zip(left.packs, left.costs, strict=True), start=1):
            name = f"pack {number}/{len(left.packs)}: {len(pack)} x {pack[0].task}, N = {pack[0].N}"
            bar.set_postfix_str(name)
            before, started = bar.n, time.perf_counter()

            def progress(k: int, step: float = price.training_flops / pack[0].iterations) -> None:
                bar.update(k * step)

            _train_and_keep(pack, store, task_of, train, device, progress, outcome)
            # Advance the bar by the FLOPs of the measures, and by those that early stops saved.
            bar.update(before + price.flops - bar.n)
            with bar.external_write_mode(file=sys.stdout):
                seconds = time.perf_counter() - started
                say(f"{name}, {_ending(pack, outcome)} in {seconds:.1f} s")
    return outcome


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


def _loader(store: Store, outcome: Outcome) -> Callable[[RunSpec], bool]:
    """A function that says whether a run is in the store, and takes its record into `outcome`."""

    def done(spec: RunSpec) -> bool:
        record = store.load(spec)
        if record is not None:
            outcome.records[spec.key] = record
        return record is not None

    return done


def _train_and_keep(
    pack: Sequence[RunSpec],
    store: Store,
    task_of: TaskOf,
    train: Train,
    device: torch.device,
    progress: Callable[[int], None],
    outcome: Outcome,
) -> None:
    """Train a pack and save its records; whatever raises becomes a failure in `outcome`."""
    # Teachers were trained in an earlier pack, and their students find them by key.
    known = {"teachers": outcome.records} if any(spec.teacher for spec in pack) else {}
    try:
        records = train(pack, task_of(pack[0]), device=device, progress=progress, **known)
    except Exception as error:
        for spec in pack:
            outcome.failures[spec.key] = Failure.of(str(spec), error)
        return
    for spec, record in zip(pack, records, strict=True):
        # A record that can't be kept loses its own run alone.
        try:
            store.save(record)
            outcome.records[spec.key] = record
        except Exception as error:
            outcome.failures[spec.key] = Failure.of(str(spec), error)


def _ending(pack: Sequence[RunSpec], outcome: Outcome) -> str:
    statuses = [
        outcome.records[spec.key]["status"] if spec.key in outcome.records else "failed"
        for spec in pack
    ]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
