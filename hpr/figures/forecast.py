"""What a reproduction would run and what it would cost: `--dry-run` and `--list`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from hpr.command_line import in_words
from hpr.experiment.plan import plan, tasks
from hpr.experiment.specification import RunSpec, distinct
from hpr.experiment.store import Store
from hpr.figures.figure import Figure
from hpr.figures.settings import Settings
from hpr.system.devices import Device, training_rate


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
) -> int:
    """Print what would be trained and what it costs; nothing is written. Returns 0."""
    runs = runs_of(figures, settings)
    runs = keeping_weights(runs) if keep_weights else runs
    left = plan(runs, store.__contains__, tasks(), device)
    shapes: dict[RunSpec, list[tuple[int, float]]] = {}
    for pack, price in zip(left.packs, left.costs, strict=True):
        shapes.setdefault(pack[0].shape, []).append((len(pack), price.flops))
    for shape, packs in shapes.items():
        count, flops = (sum(column) for column in zip(*packs, strict=True))
        print(
            f"{count} x {shape.task}, N = {shape.N}, {shape.iterations} iterations: "
            f"{flops:.2g} FLOP, {len(packs)} pack{'s' * (len(packs) > 1)}"
        )
    for figure in figures:
        if not figure.runs(settings):
            print(f"{figure.name}: not counted")
    asked = sum(len(figure.runs(settings)) for figure in figures)
    print(
        f"{asked} runs in the figures, {left.stored + left.runs + len(left.unreadable)} of them distinct"
    )
    rate = training_rate(device)
    for spec, error in left.unreadable.items():
        print(f"{spec}: {error}")
    unreadable = f", {len(left.unreadable)} unreadable there" if left.unreadable else ""
    print(
        f"{left.stored} runs already in {store.runs}{unreadable}, {left.runs} to train in {len(left.packs)} "
        f"packs: at most {left.flops:.2g} FLOP, about {in_words(left.seconds(device))} at "
        f"{rate:.2g} FLOP/s on {device}, {left.memory / 1e6:.0f} MB"
    )
    return 0


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
        runs = f"{entry['runs']} runs, about {in_words(entry['seconds'])}"
        print(
            f"{entry['name']:>6}  {entry['title']}: {runs if entry['runs'] else 'no runs'}, "
            f"{len(entry['claims'])} claims"
        )
    print(f"profile {settings.profile}; times are for {device} at {rate:.2g} FLOP/s")
    return 0
