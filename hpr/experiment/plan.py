"""Plan what is left to do: which runs are stored, which packs the others form, and what the packs cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpr.experiment.cost import Cost, cost
from hpr.experiment.specification import RunSpec, distinct
from hpr.system.devices import Device, training_rate
from hpr.tasks.shapes import shape_of

if TYPE_CHECKING:
    import torch

    from hpr.tasks import Task

TaskOf = Callable[[RunSpec], "Task"]

# Networks that are trained together on the CPU. A run's result does not depend on this number. A small
# pack keeps a processor busy and loses less to an interruption; a GPU needs more (`pack_size`).
PACK = 20
# A program of the recurrence's kernels takes this many trials. Every multiprocessor gets this many
# programs, so that few multiprocessors are idle in the last round.
PROGRAM_TRIALS = 16
PROGRAMS = 4
# Processes that share a card: while one draws weights or measures on the host, the others train.
CARD_WORKERS = 4
# The share of the card's memory that a pack may take.
MEMORY = 0.8 / CARD_WORKERS


@dataclass(frozen=True)
class Plan:
    """How many runs are in the store, and the packs that the other runs form, with their costs."""

    stored: int
    packs: list[list[RunSpec]]
    costs: list[Cost]
    # Runs whose file in the store can't be read or was written by another version, and why.
    unreadable: dict[RunSpec, OSError] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """The number of runs that are left to train."""
        return sum(map(len, self.packs))

    @property
    def flops(self) -> float:
        """An upper bound of the FLOPs of all packs."""
        return sum(pack_cost.flops for pack_cost in self.costs)

    @property
    def memory(self) -> float:
        """The bytes that the largest pack needs."""
        return max((pack_cost.memory for pack_cost in self.costs), default=0.0)

    def seconds(self, device: Device) -> float:
        """The estimated duration on a device: the FLOPs over the rate that training reaches there."""
        return self.flops / training_rate(device)


def packs(specs: Iterable[RunSpec], size_of: Callable[[RunSpec], int]) -> list[list[RunSpec]]:
    """Group runs of equal shape into packs of at most `size_of(shape)` networks, which are trained together.

    No pack has both a run and its teacher, which must be trained before it.
    """
    groups: dict[tuple[RunSpec, int], list[RunSpec]] = {}
    for spec in distinct(specs):
        groups.setdefault((spec.shape, _generation(spec)), []).append(spec)
    formed = []
    for (shape, _), group in groups.items():
        size = size_of(shape)
        if size < 1:
            raise ValueError(f"size: expected a pack of at least 1 network, got {size}")
        formed += [group[i : i + size] for i in range(0, len(group), size)]
    return formed


def _generation(spec: RunSpec) -> int:
    """0 for a run without a teacher, and one more than its teacher's for any other."""
    return 0 if spec.teacher is None else 1 + _generation(spec.teacher)


def tasks(mnist_dir: Any = None) -> TaskOf:
    """A function that gives a run's task. It makes each task once, and can be sent to another process."""
    return _Tasks(mnist_dir)


class _Tasks:
    def __init__(self, mnist_dir: Any) -> None:
        self._mnist_dir = mnist_dir
        self._made: dict[tuple[str, str, float], Task] = {}

    def __call__(self, spec: RunSpec) -> Task:
        from hpr.tasks import make_task

        name, version, dt = wanted = spec.task, spec.task_version, spec.dt
        if wanted not in self._made:
            self._made[wanted] = make_task(name, version=version, dt=dt, mnist_dir=self._mnist_dir)
        return self._made[wanted]

    def __getstate__(self) -> dict[str, Any]:
        # The tasks are made anew in the other process.
        return {"_mnist_dir": self._mnist_dir, "_made": {}}


def pack_cost(pack: Sequence[RunSpec], task_of: TaskOf) -> Cost:
    """The cost of a pack. Its task is made only where the task's shape is not known without making it."""
    spec = pack[0]
    return cost(pack, shape_of(spec.task, spec.task_version, spec.dt) or task_of(spec))


def pack_size(spec: RunSpec, task_of: TaskOf, device: torch.device | Device) -> int:
    """How many networks like `spec` are trained together: `PACK` on a CPU, and as many as fill a GPU and fit in it."""
    if device.type != "cuda":
        return PACK
    import torch

    card = torch.cuda.get_device_properties(str(device))
    fill = filling_networks(spec, card.multi_processor_count)
    fit = int(MEMORY * card.total_memory / pack_cost([spec], task_of).memory)
    return max(1, min(fill, fit))


def filling_networks(spec: RunSpec, multiprocessors: int) -> int:
    """The most networks like `spec` that a card trains in one round of programs, but at least one.

    One network more would need another round, in which most multiprocessors are idle.
    """
    return max(1, PROGRAMS * multiprocessors // math.ceil(spec.batch / PROGRAM_TRIALS))


def plan(
    specs: Iterable[RunSpec],
    done: Callable[[RunSpec], bool],
    task_of: TaskOf,
    device: torch.device | Device,
    workers: int = 1,
) -> Plan:
    """Count the runs that are done, and form packs of the others in a size that suits `device`.

    The packs that cost most are halved until there is one for each of `workers`, if there are enough runs. Where `done`
    raises OSError the run counts as unreadable: it is neither done nor in a pack.
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
    formed = packs(todo, lambda shape: pack_size(shape, task_of, device))
    formed = _enough(formed, workers, lambda pack: pack_cost(pack, task_of).flops)
    return Plan(stored, formed, [pack_cost(pack, task_of) for pack in formed], unreadable)


def _enough(
    formed: list[list[RunSpec]], count: int, price: Callable[[list[RunSpec]], float]
) -> list[list[RunSpec]]:
    """At least `count` packs if there are as many runs: the dearest are halved. Others keep their order."""
    missing = min(count, sum(map(len, formed))) - len(formed)
    if missing <= 0:
        return formed
    # Each pack with the fractions of its place in the order, which its halves share.
    heap: list[tuple[float, tuple[int, ...], list[RunSpec]]] = [
        (-price(pack) if len(pack) > 1 else 0.0, (place,), pack)
        for place, pack in enumerate(formed)
    ]
    heapq.heapify(heap)
    for _ in range(missing):
        _, place, pack = heapq.heappop(heap)
        half = math.ceil(len(pack) / 2)
        for index, part in enumerate((pack[:half], pack[half:])):
            cost_of = -price(part) if len(part) > 1 else 0.0
            heapq.heappush(heap, (cost_of, (*place, index), part))
    return [pack for _, _, pack in sorted(heap, key=lambda entry: entry[1])]
