"""What runs of other cells and optimisers leave: weights that load again, and measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from other_cell_runs import KINDS, SMALL, runs_of, train

import hpr
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.tasks import make_task
from hpr.training.autograd_step import AutogradStep, by_autograd
from hpr.training.initial import initial_pack
from hpr.training.loop import train_pack
from hpr.training.pack import Pack, rates
from hpr.training.weights import decoded
from hpr_kernels import layout

CPU = torch.device("cpu")


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
