"""The measures agree with their definitions, on cases whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hpr import laziness
from hpr.connectivity import Dense, LowRank
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training.evaluation import Evaluation, evaluation
from hpr.training.initial import initial_pack


def symmetric(rng: torch.Generator, M: int) -> torch.Tensor:
    A = torch.randn(M, M, generator=rng, dtype=torch.float64)
    return A @ A.mT


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_alignment(rng: torch.Generator, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    A, B = symmetric(rng, 300), symmetric(rng, 300)
    expected = float((A @ B).trace() / (A.norm() * B.norm()))
    before = A.clone(), B.clone()
    assert laziness.alignment(A, B) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(A, before[0])
    assert torch.equal(B, before[1])
    assert laziness.alignment(A, 3 * A) == pytest.approx(1, rel=1e-12)
    assert laziness.alignment(A.float(), A) == pytest.approx(1, rel=1e-6)
    assert laziness.alignment(A[::2, ::2], A[::2, ::2].float()) == pytest.approx(1, rel=1e-6)
    assert math.isnan(laziness.alignment(A[:0, :0], A[:0, :0]))
    with pytest.raises(RuntimeError):
        laziness.alignment(A, A[:50, :50])
    assert (
        laziness.alignment(torch.diag(torch.tensor([1.0, 0])), torch.diag(torch.tensor([0, 1.0])))
        == 0
    )


def test_representation_alignment_is_blind_to_rotation(rng: torch.Generator) -> None:
    H = torch.randn(20, 7, generator=rng, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=rng, dtype=torch.float64))[0]
    assert laziness.representation_alignment(H, H @ rotation) == pytest.approx(1, rel=1e-12)


def test_sign_similarity() -> None:
    before = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    after = torch.tensor([[0.0, 3.0], [0.0, 0.0]])
    assert laziness.sign_similarity(before, after) == 0.75


@pytest.mark.parametrize("M", [1, 2, 3, 40])
def test_kernel_effective_rank(rng: torch.Generator, M: int) -> None:
    K = symmetric(rng, M)
    values = np.linalg.eigvalsh(K.numpy())
    assert laziness.leading_eigenvalue(K) == pytest.approx(values[-1], rel=1e-9)
    assert laziness.kernel_effective_rank(K) == pytest.approx(values.sum() / values[-1], rel=1e-9)


@pytest.mark.parametrize("others", [0, 60])
def test_rows_in_opposite_pairs(rng: torch.Generator, others: int) -> None:
    """The outputs of an odd network on x and -x have opposite gradients."""
    J = torch.randn(1, 100, generator=rng, dtype=torch.float64) * 10
    more = torch.randn(others, 100, generator=rng, dtype=torch.float64) / 10
    pairs = torch.cat([J, -J, J / 2, -J / 2])
    K = torch.block_diag(pairs @ pairs.mT, more @ more.mT).requires_grad_()
    expected = float(torch.linalg.eigvalsh(K.detach())[-1])
    assert laziness.leading_eigenvalue(K) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_kernel_that_is_not_finite_has_no_rank(value: float) -> None:
    assert math.isnan(laziness.kernel_effective_rank(torch.full((5, 5), value)))


def test_task_alignments(rng: torch.Generator) -> None:
    y = torch.tensor([1.0, -1.0, 1.0, 0.0], dtype=torch.float64)
    K = torch.outer(y, y)
    assert laziness.task_kernel_alignment(K, y) == pytest.approx(1)
    assert laziness.task_kernel_alignment(torch.eye(4).double(), y) == pytest.approx(1 / 4)
    # Centring removes a constant that is added to the kernel.
    assert laziness.centred_kernel_alignment(K + 5, y) == pytest.approx(1)
    C = torch.eye(4, dtype=torch.float64) - 1 / 4
    K = symmetric(rng, 4)
    target = C @ torch.outer(y, y) @ C
    expected = float((C @ K @ C * target).sum() / ((C @ K @ C).norm() * target.norm()))
    assert laziness.centred_kernel_alignment(K, y) == pytest.approx(expected, rel=1e-12)


def test_nothing_over_nothing_is_nan_and_flagged(rng: torch.Generator) -> None:
    """All units are dead, since the input weights are negative and the inputs positive."""
    spec = RunSpec("2AF", Dense(), seed=0, N=5, trials=4, kernel_trials=2)
    task = make_task("2AF")
    pack = initial_pack([spec], task, torch.device("cpu"))
    pack.input.fill_(-1)
    x, targets = torch.ones(task.T, 4, task.N_in), torch.zeros(task.T, 4, dtype=torch.int64)
    measures, flags = Evaluation(spec, task, pack, x, targets).measures(pack)
    assert math.isnan(measures["representation_alignment"])
    assert math.isnan(measures["kernel_alignment"])
    assert measures["weight_change_norm"] == 0
    assert measures["sign_similarity"] == 1
    assert "representation_alignment is not a number" in flags
    assert "kernel_alignment is not a number" in flags


def test_measures_are_the_same_on_any_number_of_threads() -> None:
    """A run that is trained in a process of several threads has the record of a worker, which has one."""
    spec = RunSpec("DMS", LowRank(rank=30), seed=1, N=300)
    task = make_task("DMS")
    before, after = (
        initial_pack([replace(spec, seed=seed)], task, torch.device("cpu")) for seed in (1, 8)
    )
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            measures, _ = evaluation(spec, task, before).measures(after)
        finally:
            torch.set_num_threads(1)
        # LAPACK's eigenvalues are not promised.
        found.append({name: value for name, value in measures.items() if "rank" not in name})
    assert found[0] == found[1]
