"""What a module shares: a parameter with a function that a copy does not copy, adjoints among layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ntk_reference import jacobians, reduced
from ntk_zoo import F64
from torch import Tensor, nn

from hpr_kernels import linearize, ntk, ntk_operator, ntk_plan
from hpr_kernels.testing import assert_close

X = torch.ones(3, 4)


class Captured(nn.Module):
    """A function holds the weight, which a copy of the module shares with the original."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4), requires_grad=not frozen)
        self.linear = nn.Linear(4, 3)
        held = self.w
        self.scaled = lambda x: x * held

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.scaled(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_parameter_held_by_a_function_is_named(frozen: bool) -> None:
    module = Captured(frozen=frozen)
    calls: list[Callable[[], Any]] = [
        lambda: ntk(module, X), lambda: ntk_operator(module, X), lambda: linearize(module)(X),
        lambda: ntk_plan(module, X),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"expected 'w' to be read where it is registered"):
            call()


def test_dropout_that_drops_nothing_is_no_fault() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0))
    assert torch.equal(ntk(module, X), ntk(module[0], X))


def test_layers_of_equal_adjoints_are_one_layer(rng: torch.Generator) -> None:
    """Both layers of a sum, and not those of a difference; on one side only the first example has equal adjoints."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            sign = torch.where(x[:, :1] > 0, 1.0, -1.0)
            return (self.a(x) + sign * self.b(x[:, 1:])).tanh()

    module = Two().double()
    x1, x2 = (torch.randn(n, 4, generator=rng, dtype=F64) for n in (5, 3))
    x1[0, 0], x2[0, 0] = 1.0, 1.0
    x1[1, 0] = -1.0
    for first, second in ((x1, x2), (x1.abs(), x2), (x1.abs(), x2.abs()), (x1.abs(), x1.abs())):
        J, H = (torch.cat(list(jacobians(module, x).values()), -1) for x in (first, second))
        assert_close(ntk(module, first, second), reduced(J, H, "full"))
        assert_close(ntk(module, first), reduced(J, J, "full"))


class Mixed(nn.Module):
    """A layer and a weight of another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear, self.w = nn.Linear(4, 3), nn.Parameter(torch.ones(4, 3, dtype=dtype) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (x.to(self.w.dtype) @ self.w).abs().to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float16])
def test_a_parameter_of_another_dtype_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"^parameter w: expected float32 or float64, got torch\."):
        ntk(Mixed(dtype), X)
    assert torch.equal(ntk(Mixed(dtype), X, parameters="linear.*"), ntk(nn.Linear(4, 3), X))


def test_parameters_of_two_dtypes(rng: torch.Generator) -> None:
    module, x = Mixed(F64), torch.randn(3, 4, generator=rng)
    J = jacobians(module, x)
    rows = torch.cat([value.double() for value in J.values()], -1)
    assert_close(ntk(module, x), reduced(rows, rows, "full"), 1e-5)
