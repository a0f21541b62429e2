"""Training equals torch.optim and is bit for bit the same in any pack; failures and early stops are kept apart."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from hpr.connectivity import Dense, LowRank
from hpr.experiment.record import identity as record_identity
from hpr.experiment.specification import VARIANTS, RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.loop import train_pack
from hpr.training.step import Step
from hpr.training.trials import WINDOW
from hpr_kernels.cores import available_cores
from hpr_kernels.recurrence import reference
from hpr_kernels.testing import assert_close
from hpr_kernels.update import momentum_step
from hpr_kernels.update import reference as update_reference

CPU = torch.device("cpu")
HERE = Path(__file__).parent
SMALL = RunSpec("2AF", LowRank(rank=2), seed=0, N=33, iterations=30, trials=64, kernel_trials=8)


def specs(count: int, **change: Any) -> list[RunSpec]:
    ranks = (1, 2, 33)
    return [
        replace(SMALL, connectivity=LowRank(rank=ranks[i % 3]), seed=i // 3, **change)
        for i in range(count)
    ]


def of_variant(variant: str) -> dict[str, Any]:
    return {"variant": variant, **VARIANTS[variant]}


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


def by_torch(spec: RunSpec, task: Task) -> tuple[list[torch.Tensor], list[float]]:
    """Train through autograd, the reference recurrence and torch.optim.SGD in fp64; return weights and losses."""
    pack = initial_pack([spec], task, CPU)
    leaves = [
        value.double().clone().requires_grad_()
        for value in (pack.recurrent, pack.input, pack.readout)
    ]
    optimiser = torch.optim.SGD(leaves, lr=spec.learning_rate, momentum=spec.momentum)
    losses = []
    for step in range(spec.iterations):
        trials = task.draw(spec.seed, step, 1, spec.batch)
        x, targets = torch.from_numpy(trials.inputs[0]), torch.from_numpy(trials.targets[0])
        rates = reference.leaky_rnn(x[None].double(), leaves[0], leaves[1], spec.rho)
        y = (rates @ leaves[2].mT[:, None])[0]
        if task.loss_steps == "last":
            y, targets = y[-1:], targets[-1:]
        loss = cross_entropy(y.flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return leaves, losses


@pytest.mark.parametrize(
    ("task_name", "variant"), [("2AF", "paper"), ("CXT", "released"), ("sDigits", "paper")]
)
def test_equals_autograd_and_torch_optim(task_name: str, variant: str) -> None:
    task = make_task(task_name)
    spec = replace(SMALL, task=task_name, task_version=task.version, **of_variant(variant))
    leaves, losses = by_torch(spec, task)
    (record,) = train_pack([spec], task, device=CPU)
    assert record["curves"]["loss"] == [pytest.approx(np.mean(losses), rel=1e-5)]
    start = initial_pack([spec], task, CPU)
    change = float((leaves[0].detach() - start.recurrent.double()).norm())
    assert record["measures"]["weight_change_norm"] == pytest.approx(change, rel=1e-4)


def kernel_by_torch(
    weights: list[torch.Tensor], x: torch.Tensor, spec: RunSpec, last: bool
) -> torch.Tensor:
    """Return K of the run's `ntk_parameters` by jacrev through the reference, with rows (b, t, k)."""

    def outputs(recurrent: torch.Tensor, input: torch.Tensor, readout: torch.Tensor, x: Any) -> Any:
        rates = reference.leaky_rnn(x[None, :, None], recurrent[None], input[None], spec.rho)
        return (rates[0, -1:, 0] if last else rates[0, :, 0]) @ readout.mT

    by = tuple(("recurrent", "input", "readout").index(name) for name in spec.ntk_parameters)
    jacobian = torch.func.jacrev(outputs, argnums=by)
    rows = torch.func.vmap(jacobian, in_dims=(None, None, None, 1))(*weights, x)
    flat = torch.cat([J.flatten(3).flatten(0, 2) for J in rows], dim=1)
    return flat @ flat.mT


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("task_name", ["2AF", "sDigits"])
def test_measures_are_those_of_the_evaluation_trials(task_name: str, variant: str) -> None:
    """Every measure of a record is computed again from its definition, on weights trained by torch."""
    task = make_task(task_name)
    spec = replace(
        SMALL,
        task=task_name,
        task_version=task.version,
        iterations=120,
        **of_variant(variant),
    )
    trained, losses = by_torch(spec, task)
    (record,) = train_pack([spec], task, device=CPU)
    got = record["measures"]
    pack = initial_pack([spec], task, CPU)
    before = [value[0].double() for value in (pack.recurrent, pack.input, pack.readout)]
    after = [value.detach()[0] for value in trained]
    drawn = task.draw(spec.seed, 0, 1, spec.trials, split="evaluation")
    x, targets = torch.from_numpy(drawn.inputs[0]).double(), torch.from_numpy(drawn.targets[0])
    last = task.loss_steps == "last"
    K_0, K_f = (
        kernel_by_torch(weights, x[:, : spec.kernel_trials], spec, last)
        for weights in (before, after)
    )
    H_0, H_f = (
        reference.leaky_rnn(x[None], weights[0][None], weights[1][None], spec.rho)[0, -1]
        for weights in (before, after)
    )

    def cosine(A: torch.Tensor, B: torch.Tensor) -> float:
        return float((A * B).sum() / (A.norm() * B.norm()))

    y = torch.stack(
        [
            (targets[t, b] == k).double()
            for b in range(spec.kernel_trials)
            for t in ([task.T - 1] if last else range(task.T))
            for k in range(task.N_out)
        ]
    )
    change = [(b - a).norm().square() for a, b in zip(before, after, strict=True)]
    expected = {
        "weight_change_norm": float(change[0].sqrt()),
        "weight_change_norm_all": float(sum(change) ** 0.5),
        "representation_alignment": cosine(H_0 @ H_0.mT, H_f @ H_f.mT),
        "kernel_alignment": cosine(K_0, K_f),
        "sign_similarity": float(((H_0 > 0) == (H_f > 0)).double().mean()),
        "kernel_effective_rank_initial": float(K_0.trace() / torch.linalg.eigvalsh(K_0)[-1]),
        "kernel_effective_rank_final": float(K_f.trace() / torch.linalg.eigvalsh(K_f)[-1]),
        "task_kernel_alignment_initial": float(y @ K_0 @ y / (y.sum() * K_0.trace())),
        "task_kernel_alignment_final": float(y @ K_f @ y / (y.sum() * K_f.trace())),
        "final_loss": float(np.mean(losses[WINDOW:])),
    }
    assert {name: got[name] for name in expected} == {
        name: pytest.approx(value, rel=2e-3) for name, value in expected.items()
    }
    assert record["curves"]["iteration"] == [WINDOW, 120]
    assert got["final_accuracy"] == record["curves"]["accuracy"][-1]


@pytest.mark.parametrize("iterations", [WINDOW + 7])
def test_a_record_is_the_same_alone_in_a_pack_and_in_another_order(iterations: int) -> None:
    task = make_task("2AF")
    runs = specs(6, iterations=iterations)
    together = [identity(r) for r in train_pack(runs, task, device=CPU)]
    backwards = [identity(r) for r in train_pack(runs[::-1], task, device=CPU)]
    five = [identity(r) for r in train_pack(runs[1:], task, device=CPU)]
    alone = [identity(train_pack([run], task, device=CPU)[0]) for run in runs]
    assert together == backwards[::-1]
    assert together[1:] == five
    assert together == alone


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_at_full_width(threads: int) -> None:
    """At N = 300 the matrix library chooses among more code paths."""
    task = make_task("2AF")
    runs = specs(3, iterations=3, N=300)
    torch.set_num_threads(threads)
    try:
        together = [identity(r) for r in train_pack(runs, task, device=CPU)]
        alone = [identity(train_pack([run], task, device=CPU)[0]) for run in runs]
    finally:
        torch.set_num_threads(1)
    assert together == alone


def test_early_stop_is_each_networks_own() -> None:
    """In a pack of a slow and a fast learner, the fast one stops and the slow one trains on as if alone."""
    task = make_task("sDigits")
    base = replace(
        SMALL, task="sDigits", task_version="1", batch=100, iterations=600, stop_accuracy=0.5
    )
    runs = [replace(base, connectivity=LowRank(rank=33, gain=g)) for g in (0.01, 1.5)]
    records = train_pack(runs, task, device=CPU)
    steps = [r["iterations"] for r in records]
    assert records[1]["status"] == "stopped"
    assert steps[1] < steps[0]
    assert records[1]["measures"]["final_accuracy"] >= 0.5
    assert records[1]["curves"]["iteration"][-1] == steps[1]
    for run, record in zip(runs, records, strict=True):
        assert identity(record) == identity(train_pack([run], task, device=CPU)[0])


def test_record_is_strict_json_with_its_provenance() -> None:
    (record,) = train_pack([SMALL], make_task("2AF"), device=CPU)
    json.dumps(record, allow_nan=False)
    assert record["key"] == SMALL.key
    assert RunSpec.from_dict(record["spec"]) == SMALL
    # A build for CUDA names its CUDA version in only one of the two strings.
    assert torch.__version__.startswith(record["provenance"]["versions"]["torch"])
    assert record["provenance"]["cores"] == available_cores()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE)
    if head.returncode == 0:
        assert record["provenance"]["git"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert record["provenance"]["git"] is None
    assert record["status"] == "finished"
    assert record["flags"] == []


def test_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task: expected 2AF version 0.0.2, got 2AF version 2.3"):
        train_pack([SMALL], make_task("2AF", version="2.3"), device=CPU)


def test_a_tie_is_a_miss() -> None:
    """Dead units give equal outputs, so nothing has been learned, whatever the first class is."""
    task = make_task("2AF")
    dead = initial_pack([SMALL], task, CPU).select([0, 0])
    dead.input.fill_(-10)
    step = Step(dead, SMALL, task)
    x = torch.ones(2, task.T, SMALL.batch, task.N_in)
    _, accuracy = step(x, torch.zeros(2, task.T, SMALL.batch, dtype=torch.int64))
    assert accuracy.tolist() == [0, 0]


def test_runs_of_several_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="specs: expected runs of one shape"):
        train_pack([SMALL, replace(SMALL, N=34)], make_task("2AF"), device=CPU)


def test_initial_weights_are_shared_in_pairs() -> None:
    one, other = (replace(SMALL, connectivity=c) for c in (LowRank(rank=1), Dense()))
    first, second = (initial_pack([spec], make_task("2AF"), CPU) for spec in (one, other))
    assert torch.equal(first.input, second.input)
    assert torch.equal(first.readout, second.readout)
    u, _, _ = torch.linalg.svd(second.recurrent[0].double())
    cosine = u[:, 0] @ first.recurrent[0].double()
    assert float(cosine.norm()) == pytest.approx(float(first.recurrent.double().norm()), rel=1e-5)
    # Weights are uniform within ±1/√fan_in: the largest of 99 is below 0.9 of it once in 30,000 times.
    assert 0.9 * 3**-0.5 < float(first.input.abs().max()) <= 3**-0.5
    assert 0.9 * 33**-0.5 < float(first.readout.abs().max()) <= 33**-0.5


def test_momentum_step(rng: torch.Generator) -> None:
    R, M, P, K = 2, 5, 33, 7
    weights, velocity = (torch.randn(R, M, P, generator=rng).double() for _ in range(2))
    left = torch.randn(R, K, M, generator=rng).double()
    right = torch.randn(R, K, P, generator=rng).double()
    sgd = {"scale": 0.3, "learning_rate": 0.1, "momentum": 0.9}
    expected = update_reference.momentum_step(weights, velocity, left, right, **sgd)
    momentum_step(weights, velocity, left, right, **sgd)
    assert_close(weights, expected[0])
    assert_close(velocity, expected[1])
    with pytest.raises(ValueError, match=r"right: expected shape \[R, K, P\] = \[2, 7, 33\]"):
        momentum_step(weights, velocity, left, right[:, 1:], **sgd)
