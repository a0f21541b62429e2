"""The kernel of a module whose layers the Triton kernels contract."""

from __future__ import annotations

import pytest
import torch
from ntk_reference import jacobians, reduced
from ntk_zoo import F64
from torch import nn
from triton_support import on_each_device

from hpr_kernels import ntk
from hpr_kernels.backend import uses_triton
from hpr_kernels.checks import REDUCTIONS, Reduction
from hpr_kernels.testing import assert_close


@on_each_device
@pytest.mark.parametrize("budget", [1 << 28, 40_000])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_a_perceptron_over_tokens(
    rng: torch.Generator, reduce: Reduction, budget: int, device: str
) -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(device)
    x = torch.randn(3, 4, 3, generator=rng).to(device)
    assert uses_triton(x)
    J = torch.cat(list(jacobians(module, x).values()), -1).to(F64)
    K = ntk(module, x, reduce=reduce, memory_budget=budget)
    assert_close(K, reduced(J, J, reduce), 1e-6)
    assert torch.equal(K, K.transpose(0, 1))
    assert_close(
        ntk(module, x, x[:2], reduce=reduce, memory_budget=budget), reduced(J, J[:2], reduce), 1e-6
    )
