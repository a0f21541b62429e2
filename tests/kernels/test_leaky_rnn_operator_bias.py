"""`leaky_rnn_ntk_operator` of networks with a bias, and of tanh units, against the dense kernel."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from triton_support import on_each_device

from hpr_kernels import NTKOperator, from_rnn, leaky_rnn_ntk, leaky_rnn_ntk_operator
from hpr_kernels.backend import uses_triton
from hpr_kernels.checks import ACTIVATIONS, GROUPS
from hpr_kernels.testing import assert_close, random_network

RHO = 0.3
SUBSETS = [c for size in (1, 2, 3, 4) for c in itertools.combinations(GROUPS, size)]


def drawn(
    rng: torch.Generator, R: int | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor]]:
    """Inputs and weights."""
    net = random_network(rng, N=9, T=5, B=3, N_out=2, R=R, dtype=dtype)
    bias = torch.randn(net.recurrent.shape[:-1], generator=rng, dtype=dtype)
    weights = {**net._asdict(), "bias": bias}
    return weights.pop("x"), weights


def assert_products(operator: NTKOperator, K: Tensor, rng: torch.Generator) -> None:
    """Check one product, and those of two vectors with the transpose."""
    assert operator.shape == K.shape
    u = torch.randn(*K.shape[:-2], K.shape[-1], generator=rng, dtype=K.dtype)
    w = torch.randn(*K.shape[:-1], 2, generator=rng, dtype=K.dtype)
    assert_close(operator.matvec(u), (K @ u[..., None])[..., 0])
    assert_close(operator.rmatvec(w), K.mT @ w)


def assert_trace(operator: NTKOperator, K: Tensor) -> None:
    assert_close(operator.trace(), K.diagonal(dim1=-2, dim2=-1).sum(-1))


OUTPUTS: dict[str, Any] = {"all": "all", "last": "last", "steps": [1, 3]}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("parameters", SUBSETS, ids=" ".join)
def test_each_set_of_groups(
    rng: torch.Generator, parameters: Any, outputs: str, activation: Any
) -> None:
    x, weights = drawn(rng)
    x2 = drawn(rng)[0][:4, :2]
    given = {
        **weights, "rho": RHO, "outputs": OUTPUTS[outputs], "parameters": parameters,
        "activation": activation,
    }  # fmt: skip
    for second in (None, x2):
        K = leaky_rnn_ntk(x, second, **given)
        # A product takes one example at a time, then all.
        for budget in (1, 10**8):
            operator = leaky_rnn_ntk_operator(x, second, **given, memory_budget=budget)
            assert_products(operator, K, rng)
        if second is None:
            assert_trace(operator, K)


CASES: dict[str, dict[str, Any]] = {
    "no self-connections": {"self_connections": False},
    "recurrent and bias": {"parameters": ("recurrent", "bias"), "self_connections": False},
    "rates": {"readout": None, "outputs": [0, 2]},
    "batch first": {"batch_first": True, "outputs": [1]},
    "no bias": {"bias": None},
}


@pytest.mark.parametrize("R", [None, 3], ids=["plain", "pack"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", CASES)
def test_packs(rng: torch.Generator, name: str, activation: Any, R: int | None) -> None:
    x, weights = drawn(rng, R)
    given = {**weights, "rho": RHO, "activation": activation, **CASES[name]}
    # All networks of a pack share the second inputs.
    x2 = torch.randn(x[:1].shape if R else x.shape, generator=rng, dtype=x.dtype)
    for second in (None, x2):
        K = leaky_rnn_ntk(x, second, **given)
        for budget in (1, 10**8):
            operator = leaky_rnn_ntk_operator(x, second, **given, memory_budget=budget)
            assert_products(operator, K, rng)
        if second is None:
            assert_trace(operator, K)


def test_eigenvectors_of_a_pack(rng: torch.Generator) -> None:
    """Each network is taken out of the pack with its bias."""
    x, weights = drawn(rng, 3)
    given: dict[str, Any] = {**weights, "rho": RHO, "activation": "tanh"}
    K = leaky_rnn_ntk(x[:1], **given)
    values, vectors = leaky_rnn_ntk_operator(x[:1], **given).leading_eigenvectors(2)
    assert_close(values, torch.linalg.eigvalsh(K).flip(-1)[:, :2])
    assert_close(K @ vectors, vectors * values[:, None])


def test_a_module_of_torch(rng: torch.Generator) -> None:
    rnn = nn.RNN(3, 9, batch_first=True, dtype=torch.float64)
    given: dict[str, Any] = {**from_rnn(rnn), "readout": None, "outputs": "last"}
    x = torch.randn(4, 5, 3, generator=rng, dtype=torch.float64)
    operator, K = leaky_rnn_ntk_operator(x, **given), leaky_rnn_ntk(x, **given)
    assert_products(operator, K, rng)
    assert_trace(operator, K)


def test_bad_biases_are_named(rng: torch.Generator) -> None:
    x, weights = drawn(rng)
    bias = weights["bias"]
    for change, message in (
        ({"bias": bias[:3]}, r"bias: expected shape \[N\] = \[9\], got \[3\]"),
        ({"bias": bias * torch.nan}, "bias: expected finite numbers, got 9 NaN or infinite"),
        (
            {"bias": None, "parameters": ("bias",)},
            r"parameters: expected some of \('recurrent', 'input', 'readout'\), got",
        ),
    ):
        given: dict[str, Any] = {**weights, **change}
        with pytest.raises(ValueError, match=f"^{message}"):
            leaky_rnn_ntk_operator(x, **given, rho=RHO)


@on_each_device
@pytest.mark.parametrize(
    "options",
    [{}, {"parameters": ("recurrent", "bias"), "outputs": [1, 3], "self_connections": False}],
    ids=["all groups", "recurrent and bias"],
)
def test_by_triton(rng: torch.Generator, options: Any, device: str) -> None:
    """The Triton kernels sweep; the products with the exact kernel hold within fp32."""
    pytest.importorskip("triton")
    x, weights = drawn(rng, 2, torch.float32)
    given = {"rho": RHO, "activation": "tanh", **options}
    exact = {name: value.double() for name, value in weights.items()}
    K = leaky_rnn_ntk(x.double(), **exact, **given)
    here = {name: value.to(device) for name, value in weights.items()}
    x = x.to(device)
    assert uses_triton(x)
    operator = leaky_rnn_ntk_operator(x, **here, **given)
    u = torch.randn(2, K.shape[-1], 3, generator=rng, dtype=torch.float64)
    assert_close((operator @ u.to(device, torch.float32)).cpu(), K @ u, 1e-5)
    assert_close(operator.trace().cpu(), K.diagonal(dim1=-2, dim2=-1).sum(-1), 1e-5)
