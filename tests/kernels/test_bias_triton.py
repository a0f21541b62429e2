"""Networks with a bias and tanh units by the Triton kernels, against fp64. See triton_support.py for the processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from triton_support import on_each_device

from hpr_kernels import leaky_rnn, leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.backend import uses_triton
from hpr_kernels.recurrence import reference
from hpr_kernels.testing import assert_close, random_network, relative_error

pytest.importorskip("triton")

RHO = 0.367
EPS = torch.finfo(torch.float32).eps


def drawn(rng: torch.Generator) -> dict[str, Tensor]:
    """A pack in fp32, with its inputs."""
    net = random_network(rng, R=2, N=33, T=3, B=9, dtype=torch.float32)
    bias = torch.randn(net.recurrent.shape[:-1], generator=rng)
    return {**net._asdict(), "bias": bias}


def moved(net: dict[str, Tensor], where: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(where, dtype) for name, value in net.items()}


def assert_as_good_as_torch(got: Tensor, exact: Tensor, torch_fp32: Tensor) -> None:
    """Check that the error is at most twice that of torch's own fp32, or of one rounding."""
    assert_close(got.cpu(), exact, 2 * max(relative_error(torch_fp32, exact), EPS))


@on_each_device
def test_tanh_of_every_size(device: str) -> None:
    """Numbers near 0, where 1 - 2 / (exp(2h) + 1) would cancel, to those whose exponential overflows."""
    sizes = torch.cat([torch.logspace(-30, 0, 500), torch.linspace(0, 100, 1500)])
    h = torch.cat([sizes, -sizes])
    one = torch.ones(1, 1, device=device)
    rates = leaky_rnn(
        h[None, :, None].to(device), recurrent=one, input=one, rho=0.0, activation="tanh",
        precision="ieee",
    ).flatten().cpu()  # fmt: skip
    exact = h.double().tanh()
    assert ((rates - exact).abs() <= 3 * EPS * exact.abs()).all()
    assert torch.equal(rates, torch.cat([rates[: len(sizes)], -rates[: len(sizes)]]))


@on_each_device
def test_tanh_of_a_nan_and_of_huge_numbers(device: str) -> None:
    one = torch.ones(1, 1, device=device)
    x = torch.tensor([1.0, torch.nan, -1e30, 1e30], device=device)[None, :, None]
    options: Any = {"rho": 0.0, "activation": "tanh", "precision": "ieee"}
    rates = leaky_rnn(x, recurrent=one, input=one, **options)
    assert rates.isnan().flatten().tolist() == [False, True, False, False]
    assert rates.flatten()[2:].tolist() == [-1, 1]


@on_each_device
@pytest.mark.parametrize("activation", ["relu", "tanh", "linear"])
def test_rates_and_gradients(rng: torch.Generator, activation: Any, device: str) -> None:
    net = drawn(rng)
    weight = torch.randn(2, 3, 9, 33, generator=rng)
    names = ("x", "recurrent", "input", "bias")

    def results(here: dict[str, Tensor], rates: Tensor) -> list[Tensor]:
        total = (rates * weight.to(rates.device, rates.dtype)).sum()
        leaves = [here[name] for name in names]
        return [rates.detach(), *torch.autograd.grad(total, leaves)]

    def by_reference(dtype: torch.dtype) -> list[Tensor]:
        here = {name: W.requires_grad_() for name, W in moved(net, "cpu", dtype).items()}
        x, recurrent, input, bias = (here[name] for name in names)
        rates = reference.leaky_rnn(x, recurrent, input, RHO, activation, bias)
        return results(here, rates)

    here = {
        name: W.detach().requires_grad_() for name, W in moved(net, device, torch.float32).items()
    }
    assert uses_triton(here["x"])
    given = {name: here[name] for name in names[1:]}
    got = results(here, leaky_rnn(here["x"], **given, rho=RHO, activation=activation))
    expected = (by_reference(dtype) for dtype in (torch.float64, torch.float32))
    for one, exact, theirs in zip(got, *expected, strict=True):
        assert_as_good_as_torch(one, exact, theirs)


OPTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "recurrent and bias": {"parameters": ("recurrent", "bias"), "outputs": "last"},
    "bias": {"parameters": ("bias",), "outputs": [0, 2]},
    "no self-connections": {"self_connections": False, "outputs": [1, 2]},
}


@on_each_device
@pytest.mark.parametrize("name", OPTIONS)
def test_tangent_kernel(rng: torch.Generator, name: str, device: str) -> None:
    net = drawn(rng)
    options = {"rho": RHO, "activation": "tanh", **OPTIONS[name]}

    def kernel(here: dict[str, Tensor], order: Any) -> Tensor:
        given = {group: W for group, W in here.items() if group != "x"}
        return leaky_rnn_ntk(here["x"], **given, **options, order=order)

    exact = kernel(moved(net, "cpu", torch.float64), "auto")
    here = moved(net, device, torch.float32)
    # Torch serves "propagate" in every backend.
    theirs = kernel(moved(net, "cpu", torch.float32), "propagate")
    for order in ("auto", "hadamard", "dense"):
        assert_as_good_as_torch(kernel(here, order), exact, theirs)


@on_each_device
@pytest.mark.parametrize("budget", [700_000, 1 << 28])
@pytest.mark.parametrize("name", OPTIONS)
def test_alignment(rng: torch.Generator, name: str, budget: int, device: str) -> None:
    pair = (drawn(rng), drawn(rng))
    x = pair[0].pop("x")
    pair[1].pop("x")

    def alignment(where: str, dtype: torch.dtype) -> Tensor:
        before, after = (moved(net, where, dtype) for net in pair)
        options = {"rho": RHO, "activation": "tanh", "memory_budget": budget, **OPTIONS[name]}
        return leaky_rnn_kernel_alignment(x.to(where, dtype), before=before, after=after, **options)

    got = alignment(device, torch.float32).cpu()
    assert_close(got, alignment("cpu", torch.float64), 4 * EPS)
