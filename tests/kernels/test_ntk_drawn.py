"""`ntk` of modules drawn at random against their Jacobians, written out by a loop of autograd."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from ntk_drawn import STARTS, Drawn, drawn
from ntk_reference import jacobians, reduced
from torch import Tensor

from hpr_kernels import ntk
from hpr_kernels.checks import BudgetTooSmallError
from hpr_kernels.testing import assert_close

pytestmark = pytest.mark.filterwarnings(
    # Torch says that its other implementation serves such a layer.
    "ignore:LSTM with projections is not supported with oneDNN",
)
LARGE = 1 << 28
# Of a gradient that is zero, relative to the gradients by all parameters.
ROUNDING = 1e-13


def budget(one: Drawn, arguments: dict[str, Any]) -> int:
    """A multiple of the least budget, which the error tells; parameters that are differentiated directly need none."""
    try:
        ntk(one.module, one.x1, one.x2, **arguments, memory_budget=1)
    except BudgetTooSmallError as error:
        return min(error.least * one.plenty, LARGE)
    return one.plenty


def expected(one: Drawn, names: list[str]) -> Tensor:
    module = copy.deepcopy(one.module).requires_grad_()
    sides = []
    for x in (one.x1, one.x1 if one.x2 is None else one.x2):
        by_name = jacobians(module, x)
        sides.append(torch.cat([by_name[name] for name in names], -1))
    return reduced(sides[0], sides[1], one.reduce)


def check(one: Drawn) -> None:
    arguments = {"parameters": one.parameters, "reduce": one.reduce, "order": one.order}
    before = copy.deepcopy(one.module)
    K = ntk(one.module, one.x1, one.x2, **arguments, memory_budget=budget(one, arguments))
    known = expected(one, one.names)
    # The gradients by a bias before a norm are rounding errors, whose products are not known.
    everything = expected(one, [name for name, _ in one.module.named_parameters()])
    if float((K - known).norm()) > ROUNDING**2 * float(everything.norm()):
        assert_close(K, known)
    if one.x2 is None:
        assert torch.equal(K, K.transpose(0, 1))
    for (name, value), (other, old) in zip(
        one.module.named_parameters(), before.named_parameters(), strict=True
    ):
        assert (name, value.requires_grad, value.grad) == (other, old.requires_grad, None)
        assert torch.equal(value, old)
    for value, old in zip(one.module.buffers(), before.buffers(), strict=True):
        assert torch.equal(value, old)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("examples", [25, pytest.param(400, marks=pytest.mark.nightly)])
def test_modules_drawn_at_random(start: str, examples: int) -> None:
    run = settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    run(given(drawn(start))(check))()
