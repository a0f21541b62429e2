"""Modules that torch.func's vmap does not go through: `ntk` differentiates one output of one example after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ntk_reference import check_calls
from ntk_zoo import F64, Own, weight
from torch import Tensor, nn
from torch.nn import functional as F

from hpr_kernels import ntk
from hpr_kernels.tangent.split import splits


class Square(torch.autograd.Function):
    """x², without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def signs(self: Any, x: Tensor) -> Tensor:
    """The slope depends on a number of each example."""
    y = self.linear(x)
    slopes = [2.0 if row.sum().item() > 0 else 0.5 for row in x]
    return torch.stack([slope * row for slope, row in zip(slopes, y, strict=True)]) @ self.w


def square(self: Any, x: Tensor) -> Tensor:
    return Square.apply(self.linear(x)) @ self.w


def packed(self: Any, x: Tensor) -> Tensor:
    """The length of each sequence depends on its content."""
    lengths = 1 + (x[:, 1:, 0] > 0).sum(1)
    sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return self.gru(sequence)[1][0] @ self.w


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "numbers": (lambda: Own(signs, linear=nn.Linear(4, 3), w=weight(3, 2)), (4,), {"w"}),
    "own function": (lambda: Own(square, linear=nn.Linear(4, 3), w=weight(3, 2)), (4,), {"w"}),
    "packed sequences": (
        lambda: Own(packed, gru=nn.GRU(4, 3, batch_first=True), w=weight(3, 2)),
        (5, 4),
        {"w", *(f"gru.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))},
    ),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    make, shape, _ = MODULES[name]
    return make().to(F64), torch.randn(5, *shape, dtype=F64), torch.randn(3, *shape, dtype=F64)


@pytest.mark.parametrize("budget", [1 << 28, 3000])
@pytest.mark.parametrize("name", MODULES)
def test_each_reduction_against_the_jacobian(name: str, budget: int) -> None:
    check_calls(*made(name), budget)


@pytest.mark.parametrize("name", MODULES)
def test_only_other_uses_are_written_out(name: str) -> None:
    module, x, _ = made(name)
    weights = {key: value.detach() for key, value in module.named_parameters()}
    (split,) = splits(module, weights, [x[:1]])
    assert set(split.direct) == MODULES[name][2]


def test_calls_that_depend_on_the_example_are_refused() -> None:
    """The uses of the weight by one example would not be those of the next."""

    def forward(self: Any, x: Tensor) -> Tensor:
        rows = []
        for row in x:
            y = row
            for _ in range(int(row[0].item())):
                y = F.linear(y, self.w).tanh()
            rows.append(y)
        return torch.stack(rows)

    module, x = Own(forward, w=weight(4, 4)).to(F64), torch.ones(3, 4, dtype=F64)
    x[2, 0] = 2
    with pytest.raises(ValueError, match=r"^module: expected .* other calls of linear layers"):
        ntk(module, x)
