"""`leaky_rnn_ntk_operator` against the dense kernel: each choice of outputs and parameters, plain and in packs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpr_kernels import leaky_rnn_ntk, leaky_rnn_ntk_operator
from hpr_kernels.testing import Network, assert_close, random_network

RHO = 0.3


def drawn(rng: torch.Generator, R: int | None = None, T: int = 5, B: int = 3) -> Network:
    return random_network(rng, N=9, T=T, B=B, N_out=2, R=R)


def weights(net: Network, readout: bool = True) -> dict[str, Any]:
    return {
        "recurrent": net.recurrent, "input": net.input, "readout": net.readout if readout else None,
    }  # fmt: skip


def times(K: Tensor, u: Tensor) -> Tensor:
    """K u of a vector or of several, for each network."""
    return K @ u if u.dim() == K.dim() else (K @ u[..., None])[..., 0]


CASES: dict[str, dict[str, Any]] = {
    "all outputs": {},
    "last": {"outputs": "last"},
    "some steps": {"outputs": [1, 3]},
    "no self-connections": {"self_connections": False},
    "linear": {"activation": "linear"},
    "rates": {"readout": False},
    "rates at some steps": {"readout": False, "outputs": [0, 2], "self_connections": False},
    "recurrent": {"parameters": ["recurrent"], "self_connections": False},
    "input": {"parameters": ["input"]},
    "readout": {"parameters": ["readout"]},
    "two groups": {"parameters": ["input", "readout"], "outputs": [2]},
}


@pytest.mark.parametrize("R", [None, 3], ids=["plain", "pack"])
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_kernel(rng: torch.Generator, name: str, R: int | None) -> None:
    case = {"readout": True, **CASES[name]}
    net = drawn(rng, R)
    given = {**weights(net, case.pop("readout")), "rho": RHO, **case}
    longer = "outputs" in case and case["outputs"] != "last"
    x2 = drawn(rng, R, T=5 if longer else 4, B=2).x
    for second in (None, x2):
        K = leaky_rnn_ntk(net.x, second, **given)
        for budget in (1, 20_000, 10**8):
            operator = leaky_rnn_ntk_operator(net.x, second, **given, memory_budget=budget)
            assert operator.shape == K.shape
            assert (operator.dtype, operator.device) == (K.dtype, K.device)
            u = torch.randn(*K.shape[:-2], K.shape[-1], generator=rng, dtype=K.dtype)
            w = torch.randn(*K.shape[:-1], 2, generator=rng, dtype=K.dtype)
            assert_close(operator.matvec(u), times(K, u))
            assert_close(operator.rmatvec(w), times(K.mT, w))
            assert_close(operator.T @ w, times(K.mT, w))
        if second is None:
            assert_close(operator.trace(), K.diagonal(dim1=-2, dim2=-1).sum(-1))


@pytest.mark.parametrize("shared", [False, True], ids=["own inputs", "shared inputs"])
def test_eigenvectors_of_a_pack(rng: torch.Generator, shared: bool) -> None:
    net = drawn(rng, 3)
    x = net.x[:1] if shared else net.x
    K = leaky_rnn_ntk(x, **weights(net), rho=RHO)
    operator = leaky_rnn_ntk_operator(x, **weights(net), rho=RHO)
    values, vectors = operator.leading_eigenvectors(2)
    assert list(values.shape) == [3, 2]
    assert list(vectors.shape) == [3, 30, 2]
    expected = np.linalg.eigvalsh(K.numpy())[:, ::-1][:, :2].copy()
    assert_close(values, torch.as_tensor(expected))
    assert_close(K @ vectors, vectors * values[:, None])
    assert torch.equal(operator.leading_eigenvalues(2), values)
    with pytest.raises(
        ValueError, match=r"^to_scipy: expected a kernel of one network, got a pack of 3$"
    ):
        operator.to_scipy()


def test_a_plain_network_for_scipy(rng: torch.Generator) -> None:
    from scipy.sparse.linalg import eigsh, svds

    net = drawn(rng)
    x2 = drawn(rng, B=2).x
    K = leaky_rnn_ntk(net.x, **weights(net), rho=RHO)
    operator = leaky_rnn_ntk_operator(net.x, **weights(net), rho=RHO)
    values, vectors = operator.leading_eigenvectors(3)
    assert_close(K @ vectors, vectors * values)
    found = eigsh(operator.to_scipy(), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found)[::-1], values.numpy(), rtol=1e-10)
    between = leaky_rnn_ntk(net.x, x2, **weights(net), rho=RHO).numpy()
    other = leaky_rnn_ntk_operator(net.x, x2, **weights(net), rho=RHO).to_scipy()
    singular = svds(other, k=2, return_singular_vectors=False)
    expected = np.linalg.svd(between)[1][:2]
    np.testing.assert_allclose(np.sort(singular)[::-1], expected, rtol=1e-10)


@pytest.mark.parametrize("R", [None, 2], ids=["plain", "pack"])
def test_batch_first(rng: torch.Generator, R: int | None) -> None:
    net = drawn(rng, R, T=3, B=3)
    operator = leaky_rnn_ntk_operator(net.x, **weights(net), rho=RHO)
    turned = leaky_rnn_ntk_operator(
        net.x.transpose(-3, -2), **weights(net), rho=RHO, batch_first=True
    )
    u = torch.randn(*operator.shape[:-1], generator=rng, dtype=torch.float64)
    assert_close(turned @ u, operator @ u)


def test_fp32(rng: torch.Generator) -> None:
    net = drawn(rng)
    K = leaky_rnn_ntk(net.x, **weights(net), rho=RHO)
    small = Network(*(value.float() for value in net))
    operator = leaky_rnn_ntk_operator(small.x, **weights(small), rho=RHO)
    u = torch.randn(30, 2, generator=rng, dtype=torch.float64)
    assert_close(operator @ u.float(), K @ u, 1e-5)
    assert_close(operator.leading_eigenvalues(2), torch.linalg.eigvalsh(K).flip(0)[:2], 1e-5)


def test_progress(rng: torch.Generator) -> None:
    net = drawn(rng)
    calls: list[tuple[int, int | None]] = []
    operator = leaky_rnn_ntk_operator(net.x, **weights(net), rho=RHO, memory_budget=1)
    u = torch.ones(30, 2, dtype=torch.float64)
    operator.matvec(u, progress=lambda *done: calls.append(done))
    assert calls == [(done, 12) for done in range(1, 13)]
    calls.clear()
    leaky_rnn_ntk_operator(net.x, **weights(net), rho=RHO).trace(
        progress=lambda *done: calls.append(done)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 1.0}, "rho: expected a leak factor"),
        ({"readout": torch.ones(2, 8, dtype=torch.float64)}, r"readout: expected shape \[N_out, N\]"),
        ({"parameters": ["bias"]}, "parameters: expected some of"),
        ({"memory_budget": 0}, "memory_budget: expected a whole number of bytes"),
        ({"outputs": [7]}, "outputs: expected 'all', 'last' or ascending steps in 0 … 4"),
        ({"x2": torch.ones(5, 3, 4, dtype=torch.float64)}, r"x2: expected shape \[…, T2, B2, N_in\]"),
        ({"x2": torch.full((5, 2, 3), torch.inf, dtype=torch.float64)}, "x2: expected finite numbers, got 30"),
        ({"x1": torch.full((5, 2, 3), torch.nan, dtype=torch.float64)}, "x1: expected finite numbers, got 30"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(
    rng: torch.Generator, change: dict[str, Any], message: str
) -> None:
    net = drawn(rng)
    given = {"x1": net.x, **weights(net), "rho": RHO, **change}
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        leaky_rnn_ntk_operator(**given)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.ones(2, 29), r"vector: expected shape \[R, M2\] = \[2, 30\], got \[2, 29\]"),
        (torch.ones(1, 30, 2), r"vector: expected shape \[R, M2, k\] = \[2, 30, any\], got \[1, 30, 2\]"),
        (torch.ones(30), r"vector: expected 2 or 3 axes, got shape \(30,\)"),
        (torch.full((2, 30), torch.nan), "vector: expected finite numbers, got 60"),
    ],
)  # fmt: skip
def test_bad_vectors_of_a_pack_are_named(
    rng: torch.Generator, vector: Tensor, message: str
) -> None:
    net = drawn(rng, 2)
    operator = leaky_rnn_ntk_operator(net.x, **weights(net), rho=RHO)
    with pytest.raises(ValueError, match=f"^{message}"):
        operator.matvec(vector.double())
