"""Students and two-layer networks start from the right weights; kernels of every kind of pack equal torch.func's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment.specification import VARIANTS, RunSpec
from hpr.tasks import make_task
from hpr.tasks.student_teacher import StudentTeacher
from hpr.training.initial import initial_pack
from hpr.training.pack import tangent_kernel
from hpr_kernels import ntk
from hpr_kernels.recurrence import reference
from hpr_kernels.testing import assert_close

CPU = torch.device("cpu")
STUDENT = RunSpec(
    "student-teacher(d=6,kappa=4)", Dense(gain=0.1), seed=2, task_version="1", model="two_layer",
    activation="linear", N=33, batch=16, readout_deviation=0.1, trials=16, kernel_trials=16,
)  # fmt: skip


def weights(spec: RunSpec) -> np.ndarray:
    return initial_pack([spec], make_task(spec.task), CPU).hidden[0].double().numpy()


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_first_layer_has_its_rank_and_its_nulls_norm(distribution: Any) -> None:
    null = replace(STUDENT, connectivity=Dense(gain=0.1, distribution=distribution), N=300)
    low = replace(null, connectivity=LowRank(gain=0.1, distribution=distribution, rank=2))
    W, V = weights(null), weights(low)
    assert W.shape == (300, 6)
    spread = 0.1 / 6**0.5 / (3**0.5 if distribution == "uniform" else 1)
    assert W.std() == pytest.approx(spread, rel=0.05)
    assert np.linalg.matrix_rank(V, tol=1e-5) == 2
    assert np.linalg.norm(V) == pytest.approx(np.linalg.norm(W), rel=1e-5)
    # Both come from the same matrix: V keeps its part along the leading singular triplets.
    left, _, right = np.linalg.svd(W, full_matrices=False)
    assert abs(left[:, 0] @ V @ right[0]) == pytest.approx(np.linalg.norm(V, 2), rel=1e-4)


@pytest.mark.parametrize("aligned", ["directions", "dominant directions"])
def test_aligned_weights_are_those_of_proposition_1(aligned: Any) -> None:
    teacher = StudentTeacher(6, 4).teacher(2)
    beta = (teacher.dominant() if "dominant" in aligned else teacher).directions()[0]
    W = weights(replace(STUDENT, aligned=aligned))
    expected = np.zeros((33, 6))
    expected[0] = beta / np.linalg.norm(beta) * np.linalg.norm(weights(STUDENT))
    np.testing.assert_allclose(W, expected, rtol=1e-5, atol=1e-7)


def test_aligned_with_features_takes_them() -> None:
    F = StudentTeacher(6, 4).teacher(2).features
    W = weights(replace(STUDENT, aligned="features"))
    assert W[:6] / np.linalg.norm(W) == pytest.approx(F / np.linalg.norm(F), abs=1e-6)
    assert not W[6:].any()


def test_students_of_one_seed_share_their_readout() -> None:
    task = make_task(STUDENT.task)
    pack = initial_pack([STUDENT, replace(STUDENT, aligned="directions")], task, CPU)
    assert torch.equal(pack.readout[0], pack.readout[1])
    assert float(pack.readout.std()) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(STUDENT, connectivity=LowRank(rank=7)), "connectivity: expected a rank of at most 6"),
        (replace(STUDENT, task="2AF", task_version="0.0.2"), "model: expected a leaky RNN for the 8"),
        (
            replace(STUDENT, task="Digits", aligned="directions"),
            "aligned: expected a teacher, got Digits",
        ),
    ],
    ids=["rank", "steps", "teacher"],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(spec: RunSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights(spec)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_kernel_of_two_layers_is_torch_funcs(activation: Any, variant: str) -> None:
    """The released variant differentiates by the hidden weights alone."""
    spec = replace(STUDENT, activation=activation, variant=variant, **VARIANTS[variant])
    pack = initial_pack([spec], make_task(spec.task), CPU)
    pack.weights, pack.readout = pack.weights.double(), pack.readout.double()
    first, last = nn.Linear(6, 33, False), nn.Linear(33, 1, False)
    network = nn.Sequential(first, nn.ReLU() if activation == "relu" else nn.Identity(), last)
    with torch.no_grad():
        first.weight.copy_(pack.input[0])
        last.weight.copy_(pack.readout[0])
    x = torch.randn(9, 6, dtype=torch.float64)
    names = ["0.weight", "2.weight"] if variant == "paper" else ["0.weight"]
    expected = ntk(network.double(), x, parameters=names)
    assert_close(tangent_kernel(pack, x[None], spec, "all"), expected)


def test_kernel_under_dales_law_is_that_of_the_raw_weights() -> None:
    spec = RunSpec("2AF", Dale(dale_throughout=True), seed=0, N=11, trials=4, kernel_trials=2)
    task = make_task("2AF")
    pack = initial_pack([spec], task, CPU)
    pack.weights, pack.readout = pack.weights.double(), pack.readout.double()
    x = torch.randn(task.T, 2, task.N_in, dtype=torch.float64)
    signs = torch.from_numpy(Dale().signs(11)) * (1 - torch.eye(11, dtype=torch.float64))

    def outputs(recurrent: Any, input: Any, readout: Any, x: Any) -> Any:
        effective = recurrent.abs() * signs
        rates = reference.leaky_rnn(x[None, :, None], effective[None], input[None], spec.rho)
        return rates[0, :, 0] @ readout.mT

    jacobian = torch.func.jacrev(outputs, argnums=(0, 1, 2))
    # Raw weights have either sign, and their diagonal is no part of the network.
    raw = pack.recurrent[0] * torch.where(torch.rand(11, 11) < 0.5, -1.0, 1.0) + torch.eye(11)
    rows = torch.func.vmap(jacobian, in_dims=(None, None, None, 1))(
        raw, pack.input[0], pack.readout[0], x
    )
    J = torch.cat([part.flatten(3).flatten(0, 2) for part in rows], dim=1)
    assert_close(tangent_kernel(pack, x, spec, "all"), J @ J.mT)
