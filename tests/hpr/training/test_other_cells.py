"""A training step of each other cell and optimiser equals a plain PyTorch loop; kernels equal written-out Jacobians."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment.specification import VARIANTS, RunSpec
from hpr.tasks import Task, make_task
from hpr.training.autograd_step import AutogradStep
from hpr.training.cells import GRUNetwork, cell_rates, state_noise
from hpr.training.initial import initial_pack
from hpr.training.linearised_step import rate_changes
from hpr.training.pack import Pack, rates, tangent_kernel
from hpr.training.step import Step
from hpr.training.trainer import new_trainer
from hpr_kernels import layout
from hpr_kernels.testing import assert_close

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", LowRank(rank=3), seed=0, N=13, batch=3, iterations=6, trials=8, kernel_trials=4
)
GRU = replace(SMALL, cell="gru", bias=True)


def double(pack: Pack) -> Pack:
    found = pack.of({name: value.double() for name, value in pack.tensors.items()})
    return replace(found, signs=pack.signs.double())


def batch(spec: RunSpec, task: Task, step: int) -> tuple[Tensor, Tensor]:
    drawn = task.draw(spec.seed, step, 1, spec.batch)
    return torch.from_numpy(drawn.inputs).double(), torch.from_numpy(drawn.targets)


def biased(pack: Pack) -> Pack:
    """Biases that are not zero, so that each counts."""
    assert pack.bias is not None
    values = torch.linspace(-0.3, 0.2, pack.bias.numel()).view_as(pack.bias)
    return pack.of({**pack.tensors, "bias": values.to(pack.bias.dtype)})


def loss_of(y: Tensor, targets: Tensor, task: Task) -> Tensor:
    """The mean over the counted steps, of outputs [T, B, K]."""
    if task.loss_steps == "last":
        y, targets = y[-1:], targets[-1:]
    if task.loss == "mse":
        return (y - targets).square().mean()
    return cross_entropy(y.flatten(0, 1), targets.flatten())


def trained(spec: RunSpec, pack: Pack, task: Task) -> tuple[Pack, list[float]]:
    """What the project's trainer makes of a pack in fp64, without noise."""
    step = new_trainer(pack, spec, task)
    losses = [
        float(step(*(value for value in batch(spec, task, i)))[0]) for i in range(spec.iterations)
    ]
    return step.pack, losses


def optimiser(spec: RunSpec, leaves: list[Any]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    if spec.optimizer == "adam":
        return torch.optim.Adam(leaves, betas=(spec.momentum, 0.999), **options)
    return torch.optim.SGD(leaves, momentum=spec.momentum, **options)


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


def test_noise_has_the_mean_and_variance_that_are_asked_for() -> None:
    """Without weights the state is the noise, filtered by the leak."""
    spec = replace(
        SMALL, activation="linear", noise=0.5, dt=20.0, N=40, batch=50, connectivity=Dense()
    )
    T = 12
    runs = [spec, replace(spec, seed=1), replace(spec, connectivity=LowRank(rank=1))]
    noise = state_noise(runs, T, 3, CPU)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], state_noise(runs, T, 4, CPU)[0])
    scale = 0.5 * math.sqrt(2 * 20 / 100)
    n = noise[0].numel()
    assert abs(float(noise[0].mean())) < 4 * scale / math.sqrt(n)
    assert float(noise[0].std()) == pytest.approx(scale, rel=4 / math.sqrt(2 * n))
    # Neighbours in time, trials and units are independent.
    for axis in range(3):
        one, other = (
            noise[0].narrow(axis, 0, noise.shape[axis + 1] - 1),
            noise[0].narrow(axis, 1, noise.shape[axis + 1] - 1),
        )
        assert abs(float((one * other).mean())) < 4 * scale**2 / math.sqrt(n)
    nothing = torch.zeros(1, 40, 40)
    x = torch.zeros(1, T, 50, 3)
    h = cell_rates(
        x, recurrent=nothing, input=nothing[..., :3], bias=None, spec=spec, noise=noise[:1]
    )
    rho = math.exp(-0.2)
    torch.testing.assert_close(h[0, 0], noise[0, 0])
    torch.testing.assert_close(h[0, 2], noise[0, 2] + rho * noise[0, 1] + rho**2 * noise[0, 0])


def jacobian(pack: Pack, x: Tensor, spec: RunSpec, last: bool) -> Tensor:
    """The Jacobian [M, P] of the outputs by the weights that the kernel is of, rows (b, t, k)."""
    counted = [
        name for name in pack.named if {"bias": "input"}.get(name, name) in spec.ntk_parameters
    ]

    def outputs(weights: dict[str, Tensor]) -> Tensor:
        W = {**{name: value[0] for name, value in pack.named.items()}, **weights}
        packed = {name: value[None] for name, value in W.items()}
        a = cell_rates(
            x[None], recurrent=packed["recurrent"], input=packed["input"],
            bias=packed.get("bias"), spec=spec,
        )  # fmt: skip
        y = (a @ packed["readout"].mT[:, None])[0]
        return (y[-1:] if last else y).transpose(0, 1).flatten()

    J = torch.func.jacrev(outputs)({name: pack.named[name][0] for name in counted})
    return torch.cat([value.flatten(1) for value in J.values()], 1)


@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize(
    "change",
    [
        {"cell": "gru", "bias": True},
        {"cell": "gru"},
        {"cell": "gru", "bias": True, "variant": "released"},
        {"bias": True, "activation": "tanh"},
        {"bias": True, "variant": "released"},
    ],
    ids=str,
)
def test_the_kernel_is_that_of_the_written_out_jacobian(
    change: dict[str, Any], outputs: Literal["all", "last"]
) -> None:
    spec = replace(SMALL, **VARIANTS[change.get("variant", "paper")], **change)
    pack = double(initial_pack([spec], make_task("2AF"), CPU))
    pack = biased(pack) if spec.bias else pack
    x = batch(spec, make_task("2AF"), 0)[0][0][:6]
    J = jacobian(pack, x, spec, outputs == "last")
    state = torch.random.get_rng_state()
    K = tangent_kernel(pack, x, spec, outputs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_close(K, J @ J.mT)


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
