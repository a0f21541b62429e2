"""A run of another cell or optimiser is the same alone, in a pack and after stops, bit for bit."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from other_cell_runs import KINDS, SMALL, identity, runs_of, train
from other_cells import double

from hpr.connectivity import LowRank
from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training import autograd_step, watch
from hpr.training.autograd_step import AutogradStep
from hpr.training.initial import initial_pack
from hpr.training.loop import Stopped
from hpr.training.trials import WINDOW
from hpr.training.watch import Watch

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_the_same_alone_in_a_pack_and_after_stops(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: in windows of other sizes, and when each process stops after a few of them."""
    runs = runs_of(kind)
    whole = [identity(record) for record in train(runs)]
    assert len(set(whole)) == 3
    assert [identity(train([spec])[0]) for spec in runs] == whole
    pieces = random.Random(1)
    monkeypatch.setattr(watch, "SECONDS", 0)
    monkeypatch.setattr(
        Watch, "count", lambda self, most, unit: min(most, pieces.choice([1, 3, 29, 64]))
    )
    folder, kept, starts = Checkpoints(tmp_path, period=math.inf), {}, 0

    def keep(spec: RunSpec, record: dict[str, Any]) -> None:
        kept[spec.key] = record

    def stopping() -> Iterator[bool]:
        # The first come before training, and three at each point of the trajectory.
        yield from [False] * 14
        while True:
            yield True

    while len(kept) < len(runs):
        asked, starts = stopping(), starts + 1
        left = [spec for spec in runs if spec.key not in kept]
        try:
            train(left, checkpoints=folder, keep=keep, stop=partial(next, asked))
        except Stopped:
            assert starts < 60
    assert starts > 1
    assert [identity(kept[spec.key]) for spec in runs] == whole


def test_a_run_stops_early_and_another_diverges() -> None:
    """The others of the pack go on as if they were alone."""
    spec = replace(
        SMALL, bias=True, optimizer="adam", learning_rate=0.01, stop_accuracy=0.8, iterations=600
    )
    first = train([spec])[0]
    assert first["status"] == "stopped"
    assert first["iterations"] % WINDOW == 0
    calm = replace(
        SMALL,
        cell="leaky",
        weight_decay=1e-6,
        seed=1,
        iterations=2 * WINDOW,
        connectivity=LowRank(rank=2, gain=0.1),
    )
    wild = replace(calm, connectivity=LowRank(rank=2, gain=30))
    records = train([wild, calm])
    assert [record["status"] for record in records] == ["diverged", "finished"]
    assert records[0]["iterations"] < WINDOW
    assert identity(records[1]) == identity(train([calm])[0])


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "tanh alone"])
def test_a_pack_in_one_graph_trains_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, here in fp64."""
    runs, task = runs_of(kind), make_task("2AF")
    drawn = task.draw(0, 0, 3, runs[0].batch)
    batches = [
        (torch.from_numpy(x).double().expand(3, -1, -1, -1), torch.from_numpy(y).expand(3, -1, -1))
        for x, y in zip(drawn.inputs, drawn.targets, strict=True)
    ]
    found = []
    for graphs in (3, 1):
        if graphs == 1:
            monkeypatch.setattr(autograd_step, "_graphs", lambda weights: [slice(0, len(weights))])
        step = AutogradStep(double(initial_pack(runs, task, CPU)), runs[0], task)
        assert len(step.parts) == graphs
        losses = [step(*each)[0] for each in batches]
        found.append([*step.pack.tensors.values(), *step.moments.values(), *losses])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
