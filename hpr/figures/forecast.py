"""What a reproduction would run and what it would cost: `--dry-run` and `--list`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpr.command_line import counted, in_words
from hpr.experiment.plan import Plan, plan, tasks
from hpr.experiment.specification import RunSpec, distinct
from hpr.experiment.store import Store
from hpr.figures.figure import Figure
from hpr.figures.settings import Settings
from hpr.figures.stand_ins import MNIST_TASKS
from hpr.system.devices import Device, training_rate
from hpr.tasks import find_mnist
from hpr.training.outlook import ahead


def runs_of(figures: Sequence[Figure], settings: Settings) -> list[RunSpec]:
    """The runs of several figures, each once."""
    return distinct(spec for figure in figures for spec in figure.runs(settings))


def keeping_weights(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The same runs, with their trained weights kept; their keys differ, since a record without weights is none."""
    return [replace(spec, keep_weights=True) for spec in specs]


def dry_run(
    figures: Sequence[Figure],
    settings: Settings,
    store: Store,
    device: Device,
    *,
    keep_weights: bool = False,
    mnist_dir: Path | None = None,
    workers: int = 1,
    cluster: str | None = None,
    timed: bool = True,
) -> int:
    """Print what would be trained, and the time and memory that it takes; nothing is written. Returns 0.

    Args:
        figures: the figures.
        settings: theirs.
        store: where finished runs are.
        device: where to train.
        keep_weights: whether the runs are those that keep their weights.
        mnist_dir: folder of MNIST's files; None: the cache.
        workers: how many processes will train.
        cluster: address of the Dask scheduler whose workers will train instead.
        timed: whether to time packs (`hpr.training.outlook.ahead`).
    """
    runs = {figure.name: figure.runs(settings) for figure in figures}
    if keep_weights:
        runs = {name: keeping_weights(of_figure) for name, of_figure in runs.items()}
    specs = [spec for of_figure in runs.values() for spec in of_figure]
    shows_mnist = settings.smnist == "sMNIST" and any(spec.task in MNIST_TASKS for spec in specs)
    told = ahead(
        specs,
        store,
        tasks(mnist_dir),
        device,
        workers=workers,
        cluster=cluster,
        mnist_there=not shows_mnist or find_mnist(mnist_dir) is not None,
        timed=timed,
    )
    left = told.left
    _print_packs(left)
    for name, of_figure in runs.items():
        if not of_figure:
            print(f"{name}: not counted")
    asked = sum(map(len, runs.values()))
    print(
        f"{counted(asked, 'run')} in the figures, {left.stored + left.runs + len(left.unreadable)} of them distinct"
    )
    for spec, error in left.unreadable.items():
        print(f"{spec}: {error}")
    print("\n".join(told.lines()))
    return 0


def _print_packs(left: Plan) -> None:
    """Print a line per shape of network."""
    shapes: dict[RunSpec, list[tuple[int, float]]] = {}
    for pack, price in zip(left.packs, left.costs, strict=True):
        shapes.setdefault(pack[0].shape, []).append((len(pack), price.flops))
    for shape, packs in shapes.items():
        count, flops = (sum(column) for column in zip(*packs, strict=True))
        print(
            f"{count} x {shape.task}, N = {shape.N}, {counted(shape.iterations, 'iteration')}: "
            f"{flops:.2g} FLOP, {counted(len(packs), 'pack')}"
        )


def listing(figures: Sequence[Figure], settings: Settings, device: Device, *, as_json: bool) -> int:
    """Print each figure's runs, time and claims, as text or JSON. Returns 0."""
    task_of, rate = tasks(), training_rate(device)
    entries: list[dict[str, Any]] = []
    for figure in figures:
        whole = plan(figure.runs(settings), lambda _: False, task_of, device)
        entries.append(
            {
                "name": figure.name,
                "title": figure.title,
                "runs": whole.runs,
                "flops": whole.flops,
                "seconds": whole.seconds(device),
                "claims": [claim.to_dict() for claim in figure.claims(settings)],
            }
        )
    if as_json:
        print(json.dumps({"settings": asdict(settings), "figures": entries}, indent=1))
        return 0
    for entry in entries:
        runs = f"{counted(entry['runs'], 'run')}, about {in_words(entry['seconds'])}"
        print(
            f"{entry['name']:>6}  {entry['title']}: {runs if entry['runs'] else 'no runs'}, "
            f"{counted(len(entry['claims']), 'claim')}"
        )
    print(f"profile {settings.profile}; times are for {device} at {rate:.2g} FLOP/s")
    return 0
