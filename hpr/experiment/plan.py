"""What is left to do: which runs are stored, the packs that the others form, and what these cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpr.experiment.cost import Cost, cost
from hpr.experiment.specification import RunSpec, distinct
from hpr.system.devices import Device
from hpr.tasks.shapes import shape_of

if TYPE_CHECKING:
    import torch

    from hpr.tasks import Task

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


def packs(specs: Iterable[RunSpec], size: int) -> list[list[RunSpec]]:
    """Group runs of equal shape into packs of at most `size` networks that are trained together."""
    if size < 1:
        raise ValueError(f"size: expected a pack of at least 1 network, got {size}")
    groups: dict[RunSpec, list[RunSpec]] = {}
    for spec in distinct(specs):
        groups.setdefault(spec.shape, []).append(spec)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


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
