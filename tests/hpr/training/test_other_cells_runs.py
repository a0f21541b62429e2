"""Whole runs of other cells and optimisers: the same alone, in a pack and after a stop, with measures and weights."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import hpr
from hpr.connectivity import Dale, LowRank
from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.record import identity as record_identity
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.tasks import make_task
from hpr.training import watch
from hpr.training.autograd_step import AutogradStep, by_autograd
from hpr.training.initial import initial_pack
from hpr.training.loop import Stopped, train_pack
from hpr.training.pack import Pack, rates
from hpr.training.trials import WINDOW
from hpr.training.watch import Watch
from hpr.training.weights import decoded
from hpr_kernels import layout

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=17, batch=5, iterations=110, trials=8, kernel_trials=4,
    checkpoints=2, keep_weights=True, cell="gru",
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "GRU": {},
    "GRU, Adam": {"bias": True, "optimizer": "adam", "noise": 0.1},
    "tanh": {"cell": "leaky", "activation": "tanh", "bias": True, "noise": 0.3},
    "tanh alone": {"cell": "leaky", "activation": "tanh"},
    "linear": {"cell": "leaky", "activation": "linear", "weight_decay": 0.01},
    "reservoir": {"cell": "leaky", "trained": ("readout",), "optimizer": "adam"},
    "Dale": {
        "cell": "leaky", "connectivity": Dale(dale_throughout=True), "optimizer": "adam", "learning_rate": 0.02,
    },
}  # fmt: skip


def runs_of(kind: str, **change: Any) -> list[RunSpec]:
    spec = replace(SMALL, **{**KINDS[kind], **change})
    if isinstance(spec.connectivity, Dale):
        return [replace(spec, seed=seed) for seed in range(3)]
    return [replace(spec, connectivity=LowRank(rank=1 + i), seed=i // 2) for i in range(3)]


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


def train(runs: list[RunSpec], **options: Any) -> list[dict[str, Any]]:
    return train_pack(runs, make_task("2AF"), device=CPU, **options)


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_network_has_the_outputs_of_the_trained_one(kind: str, tmp_path: Path) -> None:
    spec = runs_of(kind, iterations=5)[1]
    task = make_task("2AF")
    (record,) = train([spec])
    weights = decoded(record["weights"])
    names = {"recurrent", "input", "readout", *(["bias"] if spec.bias else [])}
    assert set(weights) == names
    network = hpr.load(Store(tmp_path).save(record))
    assert {name for name, _ in network.named_parameters()} == names
    x = torch.from_numpy(task.draw(0, 0, 1, 6).inputs[0])
    W = layout.join(weights["recurrent"][None], weights["input"][None])
    bias = weights["bias"][None] if spec.bias else None
    pack = Pack(W, weights["readout"][None], task.N_in, torch.zeros(1, spec.N), bias)
    wanted = rates(pack, x[None], spec)[0] @ weights["readout"].mT
    with torch.no_grad():
        torch.testing.assert_close(network(x), wanted, rtol=1e-6, atol=1e-6)
    network(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    # The measures are those of the weights in the record.
    (start,) = (initial_pack([spec], task, CPU),)
    moved = (weights["recurrent"].double() - start.recurrent[0].double()).norm()
    assert record["measures"]["weight_change_norm"] == pytest.approx(float(moved), abs=1e-12)


@pytest.mark.parametrize(
    "trained",
    [("readout",), ("recurrent",), ("input", "readout"), ("recurrent", "readout")],
    ids=str,
)
@pytest.mark.parametrize("cell", ["leaky", "gru"])
def test_weights_that_are_not_trained_keep_every_bit(cell: str, trained: tuple[str, ...]) -> None:
    spec = replace(
        SMALL, cell=cell, trained=trained, bias=True, noise=0.1, weight_decay=0.1, iterations=8,
        learning_rate=0.1,
    )  # fmt: skip
    step = AutogradStep(initial_pack([spec, spec], make_task("2AF"), CPU), spec, make_task("2AF"))
    before = {name: value.clone() for name, value in step.pack.named.items()}
    with torch.no_grad():
        step.window([spec, replace(spec, seed=4)], 0, spec.iterations)
    for name, value in step.pack.named.items():
        moves = {"bias": "input"}.get(name, name) in trained
        assert torch.equal(value, before[name]) != moves, name


def test_two_layers_train_by_adam_with_one_layer_frozen() -> None:
    task = make_task("student-teacher(d=5,kappa=3)")
    spec = replace(
        SMALL, task=task.name, task_version=task.version, content=task.content, cell="leaky",
        model="two_layer", optimizer="adam", trained=("readout",), checkpoints=0,
    )  # fmt: skip
    (frozen,) = train_pack([spec], task, device=CPU)
    (whole,) = train_pack([replace(spec, trained=RunSpec.trained)], task, device=CPU)
    assert frozen["measures"]["weight_change_norm"] == 0
    assert whole["measures"]["weight_change_norm"] > 0
    assert whole["curves"]["loss"][-1] < frozen["curves"]["loss"][-1] < frozen["curves"]["loss"][0]


def test_a_run_stops_early_and_another_diverges() -> None:
    """The others of the pack go on as if they were alone."""
    spec = replace(
        SMALL, bias=True, optimizer="adam", learning_rate=0.01, stop_accuracy=0.8, iterations=600
    )
    first = train([spec])[0]
    assert first["status"] == "stopped"
    assert first["iterations"] % WINDOW == 0
    wild = replace(SMALL, cell="leaky", weight_decay=1.0, learning_rate=30.0, iterations=2 * WINDOW)
    calm = replace(wild, connectivity=LowRank(rank=2, gain=1e-3), seed=1)
    records = train([wild, calm])
    assert records[0]["status"] == "diverged"
    assert identity(records[1]) == identity(train([calm])[0])


def test_a_lazy_distance_of_what_is_not_linearised_is_refused() -> None:
    for kind, change in KINDS.items():
        spec = replace(SMALL, **{"checkpoints": 0, **change}, iterations=4)
        if not by_autograd(spec):
            (record,) = train([spec], lazy_distance=True)
            assert 0 < record["measures"]["lazy_distance"] < 10
            continue
        with pytest.raises(ValueError, match=r"^lazy_distance: expected leaky units .* got 2AF"):
            train([spec], lazy_distance=True)
        assert kind != "tanh alone"
