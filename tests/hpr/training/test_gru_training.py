"""A GRU of the project trains as a plain loop over `torch.nn.GRU` and `torch.optim` trains it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from other_cells import CPU, GRU, SMALL, batch, biased, double, loss_of, optimiser
from torch import nn

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training.gru import GRUNetwork
from hpr.training.initial import initial_pack
from hpr.training.pack import Pack, rates
from hpr.training.trainer import new_trainer


def trained(spec: RunSpec, pack: Pack, task: Task) -> tuple[Pack, list[float]]:
    """What the project's trainer makes of a pack in fp64, without noise."""
    step = new_trainer(pack, spec, task)
    losses = [
        float(step(*(value for value in batch(spec, task, i)))[0]) for i in range(spec.iterations)
    ]
    return step.pack, losses


@pytest.mark.parametrize("task_name", ["2AF", "sDigits"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bias": False},
        {"optimizer": "adam", "learning_rate": 0.01},
        {"optimizer": "adam", "momentum": 0.5, "weight_decay": 0.1},
        {"weight_decay": 0.3, "learning_rate": 0.1},
    ],
    ids=str,
)
def test_a_gru_trains_as_a_plain_loop_trains_it(change: dict[str, Any], task_name: str) -> None:
    task = make_task(task_name)
    spec = replace(GRU, task=task_name, task_version=task.version, **change)
    pack = double(initial_pack([spec], task, CPU))
    pack = biased(pack) if spec.bias else pack
    gru = nn.GRU(task.N_in, spec.N, bias=spec.bias, dtype=torch.float64)
    readout = nn.Linear(spec.N, task.N_out, bias=False, dtype=torch.float64)
    with torch.no_grad():
        gru.weight_hh_l0.copy_(pack.recurrent[0])
        gru.weight_ih_l0.copy_(pack.input[0])
        readout.weight.copy_(pack.readout[0])
        if pack.bias is not None:
            gru.bias_ih_l0.copy_(pack.bias[0, 0])
            gru.bias_hh_l0.copy_(pack.bias[0, 1])
    steps = optimiser(spec, [*gru.parameters(), *readout.parameters()])
    wanted = []
    for i in range(spec.iterations):
        x, targets = batch(spec, task, i)
        loss = loss_of(readout(gru(x[0])[0]), targets[0], task)
        steps.zero_grad()
        loss.backward()
        steps.step()
        wanted.append(loss.item())
    after, losses = trained(spec, pack, task)
    assert losses == pytest.approx(wanted, rel=1e-12)
    pairs = {"recurrent": gru.weight_hh_l0, "input": gru.weight_ih_l0, "readout": readout.weight}
    for name, parameter in pairs.items():
        torch.testing.assert_close(after.named[name][0], parameter.detach(), rtol=1e-11, atol=1e-12)
    if after.bias is not None:
        both = torch.stack([gru.bias_ih_l0, gru.bias_hh_l0]).detach()
        torch.testing.assert_close(after.bias[0], both, rtol=1e-11, atol=1e-12)


def test_the_module_of_a_gru_has_its_outputs() -> None:
    task = make_task("2AF")
    pack = biased(initial_pack([GRU], task, CPU))
    x = torch.from_numpy(task.draw(0, 0, 1, 5).inputs[0])
    y = rates(pack, x[None], GRU)[0] @ pack.readout[0].mT
    network = GRUNetwork({name: value[0] for name, value in pack.named.items()}, "all")
    torch.testing.assert_close(network(x.transpose(0, 1)).transpose(0, 1), y, rtol=1e-5, atol=1e-6)


def test_a_gru_begins_with_the_connectivity_in_its_candidate_state() -> None:
    task = make_task("2AF")
    leaky, gru = (initial_pack([replace(SMALL, cell=cell)], task, CPU) for cell in ("leaky", "gru"))
    assert torch.equal(gru.drawn, leaky.recurrent)
    assert torch.equal(gru.input[:, -13:], leaky.input)
    assert torch.equal(gru.readout, leaky.readout)
    for matrix, fan_in in ((gru.recurrent, 13), (gru.input, task.N_in)):
        gates = matrix[:, :26]
        assert float(gates.abs().max()) <= fan_in**-0.5
        assert float(gates.std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.2)
