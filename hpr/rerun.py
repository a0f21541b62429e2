"""`python -m hpr.rerun FILE`: run what a record describes once more, and compare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hpr.command_line import Parser, UsageError, counted, path
from hpr.experiment.binding import bind
from hpr.experiment.comparison import Difference, differences, essence
from hpr.experiment.execution import Train
from hpr.experiment.inventory import Bad, read_any, with_weights
from hpr.experiment.plan import TaskOf, tasks
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.system.devices import choose_device, use_own_cores

if TYPE_CHECKING:
    from hpr.tasks import Task


def main(argv: Sequence[str] | None = None, *, train: Train | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes the process's.
        train: stands in for `hpr.training.loop.train_pack`, for tests.

    Returns:
        0 when the run gave the record again, 1 when something differs, 130 when interrupted. Bad usage, a record that
        isn't valid or one that can't be rerun here exits with 2.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return parser.run(lambda: _rerun(arguments, train))


def build_parser() -> Parser:
    """Return the parser of the command line's arguments."""
    parser = Parser(
        prog="hpr.rerun",
        description="Train and measure one run again, as its record describes it, and compare bit for bit.",
        epilog="Exit status: 0 equal but for timings and provenance, 1 something differs or the new record can't be "
        "written, 2 bad usage or a run that isn't possible here, 130 interrupted.",
    )
    parser.add_argument(
        "record", type=path, metavar="FILE", help="runs/<key>.json of a results folder"
    )
    parser.add_argument(
        "--device", help="auto, cpu, cuda or cuda:N; default: the record's kind of device"
    )
    parser.add_argument("--out", type=path, metavar="DIR", help="keep the new record in DIR/runs")
    parser.add_argument(
        "--mnist-dir", type=path, metavar="DIR", help="folder of MNIST's four IDX files"
    )
    return parser


def _rerun(arguments: argparse.Namespace, train: Train | None) -> int:
    kept = with_weights(read_any(arguments.record))
    if isinstance(kept, Bad):
        raise UsageError(f"FILE: expected a valid record, got {kept.path}: {kept.reason}")
    spec, record = kept.spec, kept.record
    store = None if arguments.out is None else Store(arguments.out)
    try:
        if store is not None:
            store.prepare()
            if store.path(spec).exists():
                raise UsageError(
                    f"--out: expected a folder without this run, got one with {store.path(spec)}"
                )
        default = "cpu" if str(record["provenance"].get("device")).startswith("cpu") else "auto"
        device = choose_device(arguments.device or default)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from None
    task = _task(spec, tasks(arguments.mnist_dir))

    import torch

    use_own_cores()
    if train is None:
        from hpr.training.loop import train_pack

        train = train_pack
    print(f"{spec}: {counted(spec.iterations, 'iteration')} on {device}", flush=True)
    # Only some runs have this measure, which costs a second training.
    lazy = "lazy_distance" in record["measures"]
    try:
        (again,) = train([spec], task, device=torch.device(str(device)), lazy_distance=lazy)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if store is not None:
        print(f"the new record is {store.save(again)}")
    return _compared(record, again)


def _task(spec: RunSpec, task_of: TaskOf) -> Task:
    """The run's task as it is here, which must be the one of the record; so must the weights that are drawn."""
    try:
        task = task_of(spec)
        here = bind(_unbound(spec), task)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from None
    if here.content != spec.content:
        raise UsageError(
            f"content: expected {spec.content!r}, that of {spec.task} in the record, got {here.content!r} here"
        )
    if here != spec:
        raise UsageError(
            f"drawn: expected {spec.drawn!r}, what {spec.label} drew for the record, got {here.drawn!r} here"
        )
    return task


def _unbound(spec: RunSpec) -> RunSpec:
    """The run without the digests of its task's content and its weights."""
    teacher = None if spec.teacher is None else _unbound(spec.teacher)
    return replace(spec, content=None, drawn=None, teacher=teacher)


def _compared(record: Record, again: Record) -> int:
    """Print how the new record differs from the old one; 0 where it does not."""
    for line in _changes(record, again):
        print(f"made with another value of {line}")
    found = [*differences(_decoded(essence(record)), _decoded(essence(again)))]
    for difference in found:
        print(difference)
    print(
        f"{counted(len(found), 'field differs', 'fields differ')}" if found else "equal bit for bit"
    )
    return 1 if found else 0


def _changes(record: Record, again: Record) -> list[Difference]:
    """What is another here than where the record was made, of what may round differently or be another program."""
    names = ("engine", "device", "threads", "versions", "git", "machine")
    old, new = ({name: of["provenance"].get(name) for name in names} for of in (record, again))
    # An older record does not have every field.
    shared = [name for name in names if old[name] is not None]
    found = differences({n: old[n] for n in shared}, {n: new[n] for n in shared})
    return [*found]


def _decoded(record: Record) -> Record:
    """The record with its weights as numbers, so that a difference has a size."""
    if "weights" not in record:
        return record
    from hpr.training.weights import decoded

    try:
        weights = decoded(record["weights"])
    except ValueError:
        # These are no weights, and are compared as they stand.
        return record
    return {
        **record,
        "weights": {name: value.flatten().tolist() for name, value in weights.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
