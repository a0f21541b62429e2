"""SGD iterations equal those of torch.nn, autograd and torch.optim step by step, in fp64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.pack import Pack
from hpr.training.step import Step
from hpr_kernels.recurrence import reference
from hpr_kernels.testing import assert_close

CPU = torch.device("cpu")
STEPS = 6
NAMES = ("recurrent", "input", "readout")


def fp64_pack(specs: list[RunSpec], task: Task) -> Pack:
    pack = initial_pack(specs, task, CPU)
    return Pack(pack.weights.double(), pack.readout.double(), pack.N_in, pack.signs.double())


def batches(spec: RunSpec, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    drawn = task.draw(spec.seed, 0, STEPS, spec.batch)
    for x, targets in zip(drawn.inputs, drawn.targets, strict=True):
        y = torch.from_numpy(targets)
        yield torch.from_numpy(x).double(), y.double() if y.is_floating_point() else y


def two_layer(task: str, **change: Any) -> RunSpec:
    spec = RunSpec(
        task, Dense(), seed=3, task_version="1", model="two_layer", N=33, batch=17,
        learning_rate=0.05, trials=64, kernel_trials=8,
    )  # fmt: skip
    return replace(spec, **change)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("name", ["Digits", "student-teacher(d=5,kappa=3)"])
def test_two_layers_equal_torch_nn_sequential(name: str, activation: Any) -> None:
    task = make_task(name)
    specs = [
        two_layer(name, activation=activation, connectivity=c) for c in (Dense(), LowRank(rank=2))
    ]
    pack = fp64_pack(specs, task)
    step = Step(pack.select([0, 1]), specs[0], task)
    for r, spec in enumerate(specs):
        first, last = nn.Linear(task.N_in, 33, False), nn.Linear(33, task.N_out, False)
        between = nn.ReLU() if activation == "relu" else nn.Identity()
        network = nn.Sequential(first, between, last).double()
        with torch.no_grad():
            first.weight.copy_(pack.input[r])
            last.weight.copy_(pack.readout[r])
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        alone = Step(pack.select([r, r]), spec, task)
        for x, targets in batches(spec, task):
            y = network(x[0])
            loss = (mse_loss if task.loss == "mse" else cross_entropy)(y, targets[0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            got, accuracy = alone(x.expand(2, *x.shape), targets.expand(2, *targets.shape))
            assert_close(got[0], loss)
            assert_close(alone.pack.input[0], first.weight)
            assert_close(alone.pack.readout[0], last.weight)
            if task.loss == "mse":
                assert accuracy is None
            else:
                assert accuracy is not None
                right = (y.argmax(1) == targets[0]).double().mean()
                assert float(accuracy[0]) == pytest.approx(float(right))
    for x, targets in batches(specs[0], task):
        step(x.expand(2, *x.shape), targets.expand(2, *targets.shape))
    assert_close(step.pack.weights[1], alone.pack.weights[0])


def by_autograd(
    pack: Pack, r: int, spec: RunSpec, task: Task, signs: Tensor | None = None
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the loss and effective weights of each iteration; with signs, W is trained and W_eff = |W| ∘ sign."""
    raw = {name: getattr(pack, name)[r].clone().requires_grad_() for name in NAMES}
    optimiser = torch.optim.SGD(raw.values(), lr=spec.learning_rate, momentum=spec.momentum)

    def recurrent() -> Tensor:
        return raw["recurrent"] if signs is None else raw["recurrent"].abs() * signs

    for x, targets in batches(spec, task):
        rates = reference.leaky_rnn(
            x[None], recurrent()[None], raw["input"][None], spec.rho, spec.activation
        )
        y = (rates @ raw["readout"].mT)[0]
        flat = y.flatten(0, 1), targets.flatten(0, 1)
        loss = (mse_loss if task.loss == "mse" else cross_entropy)(*flat)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss, {**raw, "recurrent": recurrent()}


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("name", ["pattern generation", "2AF"])
def test_recurrent_networks_equal_autograd(name: str, activation: Any) -> None:
    """The cases are a regression of all steps and a classification, with both activations."""
    task = make_task(name, dt=100)
    spec = RunSpec(
        name, LowRank(rank=3, gain=0.5), seed=1, task_version=task.version, N=33, batch=2, activation=activation,
        learning_rate=0.02, trials=2, kernel_trials=2,
    )  # fmt: skip
    pack = fp64_pack([spec], task).select([0, 0])
    step = Step(pack.select([0, 1]), spec, task)
    expected = by_autograd(pack, 0, spec, task)
    for (x, targets), (loss, weights) in zip(batches(spec, task), expected, strict=True):
        got, _ = step(x.expand(2, *x.shape), targets.expand(2, *targets.shape))
        assert_close(got[0], loss)
        for part, value in weights.items():
            assert_close(getattr(step.pack, part)[1], value)


def test_dales_law_equals_autograd_of_raw_weights() -> None:
    """A pack holds a constrained and a free network; the steps are so large that weights bounce off zero."""
    task = make_task("2AF")
    base = RunSpec(
        "2AF", Dale(dale_throughout=True), seed=1, N=33, batch=5, learning_rate=0.5,
        trials=8, kernel_trials=2,
    )  # fmt: skip
    specs = [base, replace(base, connectivity=Dense())]
    pack = fp64_pack(specs, task)
    signs = torch.from_numpy(Dale().signs(33)) * (1 - torch.eye(33, dtype=torch.float64))
    step = Step(pack.select([0, 1]), base, task)
    constrained = by_autograd(pack, 0, base, task, signs)
    free = by_autograd(pack, 1, base, task)
    initial = pack.recurrent[0].clone()
    bounced = torch.zeros(33, 33, dtype=torch.bool)
    velocity = torch.zeros(33, 33, dtype=torch.float64)
    for (x, targets), dale, plain in zip(batches(base, task), constrained, free, strict=True):
        before = step.velocity[0, :, :33].clone()
        step(x.expand(2, *x.shape), targets.expand(2, *targets.shape))
        for r, (_, weights) in enumerate((dale, plain)):
            for part, value in weights.items():
                assert_close(getattr(step.pack, part)[r], value, tolerance=1e-11)
        velocity = step.velocity[0, :, :33]
        bounced |= (before * velocity < 0) & (signs != 0)
    got = step.pack.recurrent[0]
    assert bool((got * signs >= 0).all())
    assert not bool(got.diagonal().any())
    assert int(bounced.sum()) > 10
    assert float((got - initial).norm()) > 0.1
