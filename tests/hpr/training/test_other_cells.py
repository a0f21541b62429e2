"""A training step of other cells, activation functions and optimisers is that of the equations, written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from other_cells import CPU, SMALL, batch, biased, double, loss_of, optimiser
from torch import Tensor

from hpr.connectivity import Dale
from hpr.experiment.specification import VARIANTS
from hpr.tasks import make_task
from hpr.training.autograd_step import AutogradStep
from hpr.training.cells import cell_rates, state_noise
from hpr.training.initial import initial_pack
from hpr.training.linearised_step import rate_changes
from hpr.training.step import Step
from hpr.training.trainer import new_trainer
from hpr_kernels import layout
from hpr_kernels.testing import assert_close


@pytest.mark.parametrize(
    ("change", "task_name"),
    [
        ({"activation": "tanh", "bias": True, "noise": 0.4}, "2AF"),
        ({"activation": "tanh", "bias": True, "weight_decay": 0.2, "dt": 50.0}, "sDigits"),
        ({"activation": "linear", "optimizer": "adam", "noise": 0.1, "dt": 20.0}, "2AF"),
        ({"activation": "relu", "bias": True, "noise": 0.2, "variant": "released"}, "2AF"),
        ({"bias": True, "activation": "tanh"}, "cycling"),
        ({"cell": "gru", "bias": True, "noise": 0.3}, "2AF"),
    ],
    ids=str,
)
def test_a_step_is_that_of_the_equations(change: dict[str, Any], task_name: str) -> None:
    """Written out with the noise that each step adds; a GRU by `nn.GRUCell`."""
    if task_name == "cycling":
        task_name = "student-teacher(d=5,kappa=3)"
    task = make_task(task_name, dt=change.get("dt", 100.0))
    variant = VARIANTS[change.get("variant", "paper")]
    spec = replace(SMALL, task=task_name, task_version=task.version, **variant, **change)
    pack = double(initial_pack([spec], task, CPU))
    pack = biased(pack) if spec.bias else pack
    leaves = {name: value[0].clone().requires_grad_() for name, value in pack.named.items()}
    steps = optimiser(spec, list(leaves.values()))
    step = AutogradStep(pack, spec, task)
    f = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda h: h}[spec.activation]
    for i in range(spec.iterations):
        x, targets = batch(spec, task, i)
        noise = state_noise([spec], task.T, i, CPU).double()
        states, h = [], torch.zeros(spec.batch, spec.N, dtype=torch.float64)
        for x_t, added in zip(x[0], noise[0], strict=True):
            W, U = leaves["recurrent"], leaves["input"]
            b = leaves.get("bias")
            if spec.cell == "gru":
                assert b is not None
                h = torch.gru_cell(x_t, h, U, W, b[0], b[1]) + added
                states.append(h)
                continue
            drive = f(h) @ W.mT + x_t @ U.mT + (0 if b is None else b)
            h = spec.rho * h + (1 - spec.rho) * drive + added
            states.append(f(h))
        loss = loss_of(torch.stack(states) @ leaves["readout"].mT, targets[0], task)
        steps.zero_grad()
        loss.backward()
        steps.step()
        got, _ = step(x, targets, noise if spec.noise else None)
        assert float(got) == pytest.approx(loss.item(), rel=1e-11)
    for name, leaf in leaves.items():
        torch.testing.assert_close(step.pack.named[name][0], leaf.detach(), rtol=1e-10, atol=1e-12)


def test_tanh_alone_trains_by_the_usual_step() -> None:
    spec, task = replace(SMALL, activation="tanh"), make_task("2AF")
    packs = [double(initial_pack([spec], task, CPU)) for _ in range(2)]
    assert isinstance(new_trainer(packs[0], spec, task), Step)
    steps = [Step(packs[0], spec, task), AutogradStep(packs[1], spec, task)]
    for i in range(spec.iterations):
        losses = [step(*batch(spec, task, i))[0] for step in steps]
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-12)
    for one, other in zip(*(step.pack.tensors.values() for step in steps), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_the_linearised_rates_of_tanh() -> None:
    spec, task = replace(SMALL, activation="tanh"), make_task("2AF")
    pack = double(initial_pack([spec], task, CPU))
    change = pack.of({name: torch.sin(7 * value) for name, value in pack.tensors.items()})
    change.weights[..., spec.N + task.N_in :] = 0
    x, _ = batch(spec, task, 0)

    def of(W: Tensor, U: Tensor) -> Tensor:
        return cell_rates(x, recurrent=W, input=U, bias=None, spec=spec)

    a = of(pack.recurrent, pack.input)
    J = torch.func.jacrev(of, argnums=(0, 1))(pack.recurrent, pack.input)
    wanted = sum(
        torch.tensordot(by, moved, 3)
        for by, moved in zip(J, (change.recurrent, change.input), strict=True)
    )
    trace = layout.empty_trace(1, task.T, spec.batch, spec.N, task.N_in, like=x)
    trace[:, 1:, :, : spec.N] = a
    trace[:, :-1, :, spec.N : spec.N + task.N_in] = x
    assert_close(rate_changes(pack, change, x, a, trace, spec), wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_dales_law_trains_the_raw_weights(optimizer: Literal["sgd", "adam"]) -> None:
    """|U| ∘ sign without self-connections, where many weights cross zero."""
    spec = replace(
        SMALL, connectivity=Dale(dale_throughout=True), optimizer=optimizer, bias=True,
        learning_rate=0.02 if optimizer == "adam" else 0.3, weight_decay=0.01, iterations=25,
        activation="tanh",
    )  # fmt: skip
    task = make_task("2AF")
    pack = double(initial_pack([spec], task, CPU))
    signs = pack.signs[0] * (1 - torch.eye(spec.N, dtype=torch.float64))
    raw = pack.recurrent[0].clone().requires_grad_()
    leaves = [value[0].clone().requires_grad_() for value in (pack.input, pack.readout, pack.bias)]
    steps = optimiser(spec, [raw, *leaves])
    step = AutogradStep(pack, spec, task)
    started = raw.detach().sign()
    for i in range(spec.iterations):
        x, targets = batch(spec, task, i)
        U, w, b = (leaf[None] for leaf in leaves)
        a = cell_rates(x, recurrent=(raw.abs() * signs)[None], input=U, bias=b, spec=spec)
        loss = loss_of((a @ w.mT[:, None])[0], targets[0], task)
        steps.zero_grad()
        loss.backward()
        steps.step()
        step(x, targets)
    assert int((raw.detach().sign() != started).sum()) > 5
    wanted = (raw.abs() * signs).detach()
    torch.testing.assert_close(step.pack.recurrent[0], wanted, rtol=1e-9, atol=1e-11)
    assert bool((step.pack.recurrent[0] * pack.signs[0] >= 0).all())
