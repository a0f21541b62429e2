"""`ntk_plan` says what `ntk` does: the kind and order of each parameter, and how often it differentiates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ntk_zoo import F64, Own, weight
from torch import Tensor, nn

from hpr_kernels import ntk, ntk_plan
from hpr_kernels.checks import ORDERS, REDUCTIONS, Order, Reduction
from hpr_kernels.gram import eager
from hpr_kernels.tangent import sizes
from hpr_kernels.tangent.module_plan import NTKPlan
from hpr_kernels.tangent.pieces import Side
from hpr_kernels.tangent.split import Derivatives, Split
from hpr_kernels.testing import assert_close


def mixed() -> nn.Module:
    """A network of every kind of parameter."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.norm(self.table(x) + self.places).mT
        return self.readout(self.convolution(y).tanh().flatten(1))

    return Own(
        forward, table=nn.Embedding(9, 4), norm=nn.LayerNorm(4), places=weight(6, 4),
        convolution=nn.Conv1d(4, 5, 3), readout=nn.Linear(20, 3),
    ).to(F64)  # fmt: skip


X = torch.arange(30).view(5, 6) % 9


def test_each_parameter_has_its_kind() -> None:
    plan = ntk_plan(mixed(), X)
    assert {name: (one.kind, one.positions) for name, one in plan.parameters.items()} == {
        "table.weight": ("embedding", 6),
        "norm.weight": ("scale", 0),
        "norm.bias": ("bias", 0),
        "places": ("direct", 0),
        "convolution.weight": ("convolution", 4),
        "convolution.bias": ("bias", 4),
        "readout.weight": ("linear", 1),
        "readout.bias": ("bias", 1),
    }
    assert (plan.examples, plan.outputs, plan.at_once, plan.by) == (5, 3, 5, "vmap")
    assert len(plan.groups) == plan.differentiations == 1
    lines = [line.split() for line in str(plan).splitlines()]
    assert ["norm.weight", "scale", "written", "out"] in lines
    assert [
        "table.weight",
        "embedding",
        "6",
        "positions,",
        plan.parameters["table.weight"].order,
    ] in lines


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("budget", [1 << 28, 60_000, 20_000, 8_000])
@pytest.mark.parametrize("second", [False, True])
def test_as_many_differentiations_as_planned(
    reduce: Reduction, budget: int, second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x2 = mixed(), X[:3] if second else None
    plan = ntk_plan(module, X, x2, reduce=reduce, memory_budget=budget)
    calls = []
    rows = Side.rows
    monkeypatch.setattr(Side, "rows", lambda *args: calls.append(args) or rows(*args))
    ntk(module, X, x2, reduce=reduce, memory_budget=budget)
    assert len(calls) == plan.differentiations
    if budget == 8_000:
        assert plan.differentiations > 1


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_is_that_of_the_contraction(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    module = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2)).to(F64)
    x = torch.ones(5, 6, 4, dtype=F64)
    plan = ntk_plan(module, x, order=order)
    made = []
    contract = eager.contract

    def seen(*args: Any, **options: Any) -> None:
        made.append(args[3].order)
        contract(*args, **options)

    monkeypatch.setattr(eager, "contract", seen)
    ntk(module, x, order=order)
    assert [plan.parameters[name].order for name in ("0.weight", "2.weight")] == made
    assert order == "auto" or set(made) == {order}


def test_a_loop_is_named() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.linear(x) * torch.tensor([1 + float(row[0].item() > 0) for row in x])[:, None]

    plan = ntk_plan(Own(forward, linear=nn.Linear(4, 3)), torch.ones(3, 4))
    assert isinstance(plan, NTKPlan)
    assert plan.by == "loop"
    assert "3 examples at once by loop" in str(plan)


def test_it_refuses_what_the_kernel_refuses() -> None:
    with pytest.raises(ValueError, match=r"^memory_budget: expected at least \d+ bytes, got 10"):
        ntk_plan(mixed(), X, memory_budget=10)
    with pytest.raises(ValueError, match=r"^module: expected each example on its own, got Dropout"):
        ntk_plan(nn.Sequential(nn.Linear(4, 3), nn.Dropout()), torch.ones(3, 4))


def test_large_adjoints_are_differentiated_for_a_few_examples_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).to(F64)
    x = torch.randn(7, 2, 6, 6, dtype=F64)
    whole = ntk(module, x)
    seen: list[int] = []
    differentiated = Split._differentiated

    def spy(self: Split, x: Tensor, directions: Tensor) -> Derivatives:
        seen.append(len(x))
        return differentiated(self, x, directions)

    monkeypatch.setattr(Split, "_differentiated", spy)
    # Both uses have 4 x 16 and 3 numbers for each of 3 outputs, 33.5 on average.
    monkeypatch.setattr(sizes, "ADJOINTS", 3 * 8 * 3 * 34)
    assert_close(ntk(module, x), whole)
    assert seen == [3, 3, 1]
