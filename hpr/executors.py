"""Carrying runs out: what is left to do, what it costs, and the loop that does it here."""

from __future__ import annotations

import functools
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpr.devices import Device
from hpr.runs import Cost, RunSpec, cost, distinct, packs
from hpr.store import Record, Store
from hpr.tasks.shapes import shape_of

if TYPE_CHECKING:
    import torch

    from hpr.tasks import Task

Train = Callable[..., list[Record]]
TaskOf = Callable[[RunSpec], "Task"]

# Networks trained together on the CPU. A run's result doesn't depend on it. A processor has its fill
# with few, and what is finished is kept pack by pack; a GPU wants many (`pack_size`).
PACK = 20
# Trials of one program of the recurrence's kernels, and programs that every multiprocessor gets, so
# many that those which the last round leaves idle count little.
PROGRAM_TRIALS = 16
PROGRAMS = 4
# Share of the card's memory that a pack may take.
MEMORY = 0.8


@dataclass(frozen=True)
class Plan:
    """The runs asked for: those in the store, and the packs that are left with their costs."""

    stored: int
    packs: list[list[RunSpec]]
    costs: list[Cost]
    # Those in whose place is something that can't be read or isn't this version's, and why.
    unreadable: dict[RunSpec, OSError] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """How many runs are left to train."""
        return sum(map(len, self.packs))

    @property
    def flops(self) -> float:
        """Upper bound of what they cost."""
        return sum(pack_cost.flops for pack_cost in self.costs)

    @property
    def memory(self) -> float:
        """Bytes of the largest pack."""
        return max((pack_cost.memory for pack_cost in self.costs), default=0.0)


@dataclass(frozen=True)
class Failure:
    """Something that raised: its name, the error in one line, and the traceback."""

    what: str
    reason: str
    traceback: str

    @classmethod
    def of(cls, what: str, error: Exception) -> Failure:
        """Describe the exception that is being handled."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(what, line, "".join(traceback.format_exception(error)))


@dataclass
class Outcome:
    """Records by key, and failures by key; each run asked for has one or the other.

    `runs` are the runs asked for, one by one, as they were trained and kept: bound to their tasks (`hpr.tasks.bind`).
    Where a task's name, version and dt say all of it, they are the very runs.
    """

    runs: list[RunSpec] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


def tasks(mnist_dir: Any = None) -> TaskOf:
    """A function from a run to its task; each task is made once."""
    from hpr.tasks import make_task

    @functools.cache
    def made(name: str, version: str, dt: float) -> Task:
        return make_task(name, version=version, dt=dt, mnist_dir=mnist_dir)

    return lambda spec: made(spec.task, spec.task_version, spec.dt)


def pack_cost(pack: Sequence[RunSpec], task_of: TaskOf) -> Cost:
    """The cost of a pack, by its task's dimensions; only a task whose shape is not known beforehand is made."""
    spec = pack[0]
    return cost(pack, shape_of(spec.task, spec.task_version, spec.dt) or task_of(spec))


def pack_size(spec: RunSpec, task_of: TaskOf, device: torch.device | Device) -> int:
    """Networks like `spec` that are trained together: on a card as many as give every multiprocessor its programs."""
    if device.type != "cuda":
        return PACK
    import torch

    card = torch.cuda.get_device_properties(str(device))
    programs = math.ceil(spec.batch / PROGRAM_TRIALS)
    fill = math.ceil(PROGRAMS * card.multi_processor_count / programs)
    fit = int(MEMORY * card.total_memory / pack_cost([spec], task_of).memory)
    return max(1, min(fill, fit))


def plan(
    specs: Iterable[RunSpec],
    done: Callable[[RunSpec], bool],
    task_of: TaskOf,
    device: torch.device | Device,
) -> Plan:
    """Sort runs into those that are done and packs of those that are not, sized for `device`.

    A run of which `done` raises OSError is neither.
    """
    todo, stored, unreadable = [], 0, {}
    for spec in distinct(specs):
        try:
            if done(spec):
                stored += 1
            else:
                todo.append(spec)
        except OSError as error:
            unreadable[spec] = error
    shapes: dict[RunSpec, list[RunSpec]] = {}
    for spec in todo:
        shapes.setdefault(spec.shape, []).append(spec)
    formed = [
        pack
        for shape, runs in shapes.items()
        for pack in packs(runs, pack_size(shape, task_of, device))
    ]
    return Plan(stored, formed, [pack_cost(pack, task_of) for pack in formed], unreadable)


def run_local(
    specs: Iterable[RunSpec],
    store: Store,
    task_of: TaskOf,
    train: Train,
    device: torch.device,
    say: Callable[[str], None],
) -> Outcome:
    """Train what the store lacks, pack by pack, and save each run as soon as its pack is done.

    Each run is bound to its task first, so that a record of a task of the same name and other trials isn't its own.

    A pack that raises fails by name and the others go on, and so does a run whose record can't be
    read or kept. The bar counts FLOPs, not iterations, so
    that its ETA holds across packs whose iterations cost differently; it shows on a terminal only.

    Args:
        specs: the runs asked for.
        store: where finished runs are found and kept.
        task_of: from a run to its task.
        train: `hpr.training.train_pack`, or a function like it.
        device: where to train.
        say: prints a line; called once a pack.
    """
    from tqdm import tqdm

    from hpr.tasks import bind

    outcome = Outcome()
    for spec in specs:
        try:
            bound = bind(spec, task_of(spec))
        except Exception as error:
            bound = spec
            outcome.failures[spec.key] = Failure.of(str(spec), error)
        outcome.runs.append(bound)
    specs = distinct(outcome.runs)

    def done(spec: RunSpec) -> bool:
        record = store.load(spec)
        if record is not None:
            outcome.records[spec.key] = record
        return record is not None

    left = plan([spec for spec in specs if spec.key not in outcome.failures], done, task_of, device)
    for spec, reason in left.unreadable.items():
        outcome.failures[spec.key] = Failure.of(str(spec), reason)
    unreadable = f", {len(left.unreadable)} unreadable there" if left.unreadable else ""
    say(
        f"{len(specs)} runs: {left.stored} already in {store.runs}{unreadable}, {left.runs} to train "
        f"in {len(left.packs)} packs, at most {left.flops:.2g} FLOP"
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

            # What was trained before is there for the students of this pack.
            known = {"teachers": outcome.records} if any(spec.teacher for spec in pack) else {}
            try:
                records = train(pack, task_of(pack[0]), device=device, progress=progress, **known)
            except Exception as error:
                for spec in pack:
                    outcome.failures[spec.key] = Failure.of(str(spec), error)
            else:
                for spec, record in zip(pack, records, strict=True):
                    # A record that can't be kept loses its own run alone.
                    try:
                        store.save(record)
                        outcome.records[spec.key] = record
                    except Exception as error:
                        outcome.failures[spec.key] = Failure.of(str(spec), error)
            # Early stops and the measures bring a pack to its end in one jump.
            bar.update(before + price.flops - bar.n)
            with bar.external_write_mode(file=sys.stdout):
                seconds = time.perf_counter() - started
                say(f"{name}, {_ending(pack, outcome)} in {seconds:.1f} s")
    return outcome


def _ending(pack: Sequence[RunSpec], outcome: Outcome) -> str:
    statuses = [
        outcome.records[spec.key]["status"] if spec.key in outcome.records else "failed"
        for spec in pack
    ]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
