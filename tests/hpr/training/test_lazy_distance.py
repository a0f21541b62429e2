"""The lazy distance: linearised networks train as `linearize` of a torch module does, and the measure is theirs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment.record import identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.lazy_distance import linearised_cohort, linearised_learner
from hpr.training.linearised_step import LinearisedStep
from hpr.training.loop import train_pack
from hpr.training.pack import Pack
from hpr.training.watch import Watch
from hpr.training.weights import decoded
from hpr_kernels import linearize
from hpr_kernels.recurrence import reference
from hpr_kernels.testing import assert_close

CPU = torch.device("cpu")
TWO_AFC = RunSpec(
    "2AF", Dense(gain=0.9), seed=0, N=32, batch=16, iterations=40, trials=24, kernel_trials=4
)
LAST = replace(
    TWO_AFC, task="sDigits", task_version="1", connectivity=LowRank(rank=3), learning_rate=0.05
)
PATTERN = replace(
    TWO_AFC, task="pattern generation", task_version="1", dt=50, batch=1, trials=1, kernel_trials=1
)
LINEAR = replace(PATTERN, activation="linear", momentum=0.0)
DALE = replace(TWO_AFC, connectivity=Dale(dale_throughout=True), learning_rate=0.2)
DIGITS = replace(LAST, task="Digits", connectivity=Dense(), model="two_layer")
STUDENT = replace(
    DIGITS,
    task="student-teacher(d=5,kappa=3)",
    activation="linear",
    readout_deviation=0.1,
    learning_rate=0.003,
)
KINDS = {
    "classes": TWO_AFC, "last step": LAST, "regression": PATTERN, "linear": LINEAR, "Dale": DALE,
    "two layers": DIGITS, "two linear layers": STUDENT,
}  # fmt: skip


def task_of(spec: RunSpec) -> Task:
    return make_task(spec.task, dt=spec.dt)


class Network(nn.Module):
    """The network of a run as a torch module of its raw weights, from inputs [T, B, N_in] to the outputs that count."""

    def __init__(self, spec: RunSpec, pack: Pack, r: int) -> None:
        super().__init__()
        self.spec, self.task = spec, task_of(spec)
        self.input = nn.Parameter(pack.input[r].clone())
        self.readout = nn.Parameter(pack.readout[r].clone())
        if spec.model == "leaky_rnn":
            self.recurrent = nn.Parameter(pack.recurrent[r].clone())
        N = pack.weights.shape[1]
        signs = pack.signs[r] * (1 - torch.eye(N, dtype=pack.signs.dtype))
        self.register_buffer("signs", signs if bool(signs.any()) else None)

    def hidden(self) -> Tensor:
        """W_h as the recurrence takes it."""
        return self.recurrent if self.signs is None else self.recurrent.abs() * self.signs

    def forward(self, x: Tensor) -> Tensor:
        if self.spec.model == "two_layer":
            h = x @ self.input.mT
            rates = h.relu() if self.spec.activation == "relu" else h
        else:
            rates = reference.leaky_rnn(
                x[None], self.hidden()[None], self.input[None], self.spec.rho, self.spec.activation
            )[0]
        return self.counted(rates @ self.readout.mT)

    def counted(self, y: Tensor) -> Tensor:
        """The steps that the loss counts."""
        return y[-1:] if self.task.loss_steps == "last" else y


def fp64_pack(specs: list[RunSpec]) -> Pack:
    pack = initial_pack(specs, task_of(specs[0]), CPU)
    return Pack(pack.weights.double(), pack.readout.double(), pack.N_in, pack.signs.double())


def batches(spec: RunSpec, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    drawn = task_of(spec).draw(spec.seed, 0, count, spec.batch)
    for x, targets in zip(drawn.inputs, drawn.targets, strict=True):
        y = torch.from_numpy(targets)
        yield torch.from_numpy(x).double(), y.double() if y.is_floating_point() else y


def trained(network: Network, linear: nn.Module, count: int) -> Iterator[Tensor]:
    """Train the linearised network by autograd and torch's SGD on the run's trials; yield each loss."""
    spec = network.spec
    optimiser = torch.optim.SGD(linear.parameters(), lr=spec.learning_rate, momentum=spec.momentum)
    for x, targets in batches(spec, count):
        y, goal = linear(x), network.counted(targets)
        loss = (mse_loss if network.task.loss == "mse" else cross_entropy)(
            y.flatten(0, 1), goal.flatten(0, 1)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss


@pytest.mark.parametrize("kind", KINDS)
def test_iterations_equal_linearize_trained_by_torch(kind: str) -> None:
    spec = KINDS[kind]
    other = replace(spec, connectivity=Dense(gain=0.5))
    specs = [spec, other]
    pack = fp64_pack(specs)
    before = copy.deepcopy(pack)
    step = LinearisedStep(pack, spec, task_of(spec))
    networks = [Network(each, pack, r) for r, each in enumerate(specs)]
    linear = [linearize(network) for network in networks]
    courses = [trained(*pair, 8) for pair in zip(networks, linear, strict=True)]
    for (x, targets), *losses in zip(batches(spec, 8), *courses, strict=True):
        got, _ = step(x.expand(2, *x.shape), targets.expand(2, *targets.shape))
        assert_close(got, torch.stack(losses), 1e-10)
    for r, (network, one) in enumerate(zip(networks, linear, strict=True)):
        change = {
            name: (value - getattr(network, name)).detach()
            for name, value in one.named_parameters()
        }
        if network.signs is not None:
            change["recurrent"] *= network.recurrent.detach().sign() * network.signs
        for name, value in change.items():
            assert float(value.norm()) > 0
            assert_close(getattr(step.pack, name)[r], value, 1e-10)
    assert torch.equal(pack.weights, before.weights)
    assert torch.equal(pack.readout, before.readout)


def record_of(spec: RunSpec, **options: Any) -> dict[str, Any]:
    (record,) = train_pack([spec], task_of(spec), device=CPU, **options)
    return record


def distance(spec: RunSpec) -> float:
    return float(record_of(spec, lazy_distance=True)["measures"]["lazy_distance"])


@pytest.mark.parametrize("kind", ["classes", "last step", "linear", "Dale", "two layers"])
def test_the_measure_is_the_definition(kind: str) -> None:
    """The linearised network is trained here in fp64 by torch; the trained weights are the record's."""
    spec = replace(KINDS[kind], keep_weights=True, learning_rate=0.02)
    record = record_of(spec, lazy_distance=True)
    network = Network(spec, fp64_pack([spec]), 0)
    linear = linearize(network)
    for _ in trained(network, linear, spec.iterations):
        pass
    drawn = network.task.draw(spec.seed, 0, 1, spec.trials, split="evaluation")
    x = torch.from_numpy(drawn.inputs[0]).double()
    after = copy.deepcopy(network)
    for name, value in decoded(record["weights"]).items():
        if value.numel():
            getattr(after, name).data = value.double()
    y_0, y, y_linear = network(x), after(x), linear(x)
    expected = float(((y - y_linear).norm() / (y - y_0).norm()).detach())
    assert record["measures"]["lazy_distance"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("spec", [TWO_AFC, replace(DALE, iterations=20)], ids=["plain", "Dale"])
def test_half_the_learning_rate_halves_the_distance(spec: RunSpec) -> None:
    """What the first order leaves out of the outputs is of second order."""
    rates = (4e-3, 2e-3, 1e-3)
    found = [distance(replace(spec, learning_rate=rate, momentum=0.0)) for rate in rates]
    for coarse, fine in pairwise(found):
        assert coarse / fine == pytest.approx(2, rel=0.1)
    assert found[-1] < 0.1


def test_large_initial_weights_are_nearer_to_the_linearisation() -> None:
    """The scale of the initial weights makes training lazy (Chizat et al. 2019, Section 1)."""
    base = replace(DIGITS, N=64, iterations=100, momentum=0.0)
    rich, between, lazy = (
        distance(replace(base, connectivity=Dense(gain=gain), readout_deviation=gain / 10))
        for gain in (0.1, 1.0, 3.0)
    )
    assert rich > 1.3 * between
    assert between > 1.3 * lazy > 0


def test_nothing_else_of_a_record_changes() -> None:
    for spec in (replace(TWO_AFC, checkpoints=3, keep_weights=True), STUDENT):
        plain, asked = (
            identity(record_of(spec, **options)) for options in ({}, {"lazy_distance": True})
        )
        assert "lazy_distance" not in plain["measures"]
        asked["measures"].pop("lazy_distance")
        assert asked == plain


def linearised_changes(
    specs: list[RunSpec], task: Task, initial: Pack, iterations: list[int]
) -> list[Pack]:
    learners = [
        linearised_learner(spec, initial.select([r]), iterations[r]) for r, spec in enumerate(specs)
    ]
    cohort = linearised_cohort(learners, task, Watch())
    while cohort.join():
        cohort.advance([])
        cohort.leave([learner for learner in cohort.active if learner.step == learner.goal])
    return [learner.pack for learner in learners]


def test_it_is_the_same_alone_and_in_a_pack_with_early_stops() -> None:
    base = replace(LAST, connectivity=Dense(), iterations=300, stop_accuracy=0.82, batch=32)
    # At this rate the accuracies after 200 iterations, 0.85 and 0.80, are those of any rounding.
    specs = [replace(base, seed=seed, learning_rate=0.03) for seed in (4, 2)]
    records = train_pack(specs, task_of(base), device=CPU, lazy_distance=True)
    assert [record["iterations"] for record in records] == [200, 300]
    for spec, record in zip(specs, records, strict=True):
        alone = record_of(spec, lazy_distance=True)
        assert identity(alone)["measures"] == identity(record)["measures"]
    # The changes are those after each run's own number of iterations.
    numbers = [record["iterations"] for record in records]
    initial = initial_pack(specs, task_of(base), CPU)
    for r, change in enumerate(linearised_changes(specs, task_of(base), initial, numbers)):
        (alone,) = linearised_changes([specs[r]], task_of(base), initial.select([r]), [numbers[r]])
        assert torch.equal(change.weights, alone.weights)
        assert torch.equal(change.readout, alone.readout)


def test_a_diverged_run_has_none_and_leaves_the_others_theirs() -> None:
    specs = [
        replace(PATTERN, connectivity=Dense(gain=gain), learning_rate=0.05) for gain in (1, 400)
    ]
    fine, diverged = train_pack(specs, task_of(PATTERN), device=CPU, lazy_distance=True)
    assert diverged["status"] == "diverged"
    assert diverged["measures"] == {}
    assert math.isfinite(fine["measures"]["lazy_distance"])


def test_a_network_that_does_not_move_is_flagged() -> None:
    record = record_of(replace(TWO_AFC, learning_rate=1e-30), lazy_distance=True)
    assert record["measures"]["lazy_distance"] is None
    assert "lazy_distance is infinite" in record["flags"]
