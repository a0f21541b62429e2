"""`ntk_alignment` against the two dense kernels, whole and in blocks; what it refuses, by the name of the module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ntk_reference import jacobians
from ntk_zoo import F64, ZOO, made
from torch import Tensor, nn

from hpr_kernels import ntk_alignment
from hpr_kernels.checks import ORDERS, BudgetTooSmallError
from hpr_kernels.tangent.probe import twin
from hpr_kernels.testing import assert_close

# Torch says that it copies the inputs of such a convolution.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")


def moved(module: nn.Module) -> nn.Module:
    """A copy with other weights."""
    after = twin(module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=F64).to(
                parameter.dtype
            )
    return after


def expected(before: nn.Module, after: nn.Module, x: Tensor, names: Any = None) -> Tensor:
    kernels = []
    for module in (before, after):
        by_name = jacobians(module, x)
        J = torch.cat([by_name[name] for name in names or by_name], -1).flatten(0, 1)
        kernels.append(J @ J.mT)
    K_0, K_f = kernels
    return (K_0 * K_f).sum() / (K_0.norm() * K_f.norm())


def least_budget(before: nn.Module, after: nn.Module, x: Tensor) -> int:
    """The smallest budget that suffices; parameters that are differentiated directly need none."""
    try:
        ntk_alignment(before, after, x, memory_budget=1)
    except BudgetTooSmallError as error:
        return error.least
    return 1


@pytest.mark.parametrize("name", ZOO)
def test_every_module_whole(name: str) -> None:
    before, x, _ = made(name)
    check(before, x, 1 << 28, whole=True)


# Every kind of parameter, as of `ntk_plan`, and every kind of module, in small modules.
IN_BLOCKS = [
    "perceptron", "tied", "scalar outputs", "tied decoder", "unused", "in place", "own vmap", "two axes",
    "no batch axis", "transposed, stride and groups", "embedding", "one embedding, tied", "layer norm", "GRU cell",
    "nn.GRU", "nn.LSTM, last states", "attention, its weights", "encoder, padding", "parts of a weight",
]  # fmt: skip


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a_module_in_blocks(name: str) -> None:
    check_in_blocks(name)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted({*ZOO} - {*IN_BLOCKS}))
def test_every_module_in_blocks(name: str) -> None:
    check_in_blocks(name)


def check_in_blocks(name: str) -> None:
    before, _, x = made(name)
    check(before, x[:2], least_budget(before, moved(before), x[:2]), whole=False)


def check(before: nn.Module, x: Tensor, budget: int, *, whole: bool) -> None:
    """Compare with the dense kernels, and the calls of `progress` with a count to a total, which is 1 of the whole."""
    after = moved(before)
    calls: list[tuple[int, int | None]] = []
    got = ntk_alignment(
        before, after, x, memory_budget=budget, progress=lambda *done: calls.append(done)
    )
    assert got.dtype == F64
    assert_close(got, expected(before, after, x))
    total = calls[-1][0]
    assert calls == [(done, total) for done in range(1, total + 1)]
    assert (total == 1) == whole


@pytest.mark.parametrize("order", ORDERS)
def test_every_order(order: Any) -> None:
    before, x, _ = made("perceptron")
    after = moved(before)
    assert_close(ntk_alignment(before, after, x, order=order), expected(before, after, x))


def test_parameters() -> None:
    before, x, _ = made("perceptron")
    after = moved(before)
    for name in dict(before.named_parameters()):
        got = ntk_alignment(before, after, x, parameters=[name])
        assert_close(got, expected(before, after, x, [name]))
    # The parameters of the first module that require a gradient are those of both.
    before[0].requires_grad_(False)
    names = ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert_close(ntk_alignment(before, after, x), ntk_alignment(before, after, x, parameters=names))


def test_a_module_is_aligned_with_itself() -> None:
    module, x, _ = made("encoder")
    assert_close(ntk_alignment(module, module, x), torch.ones((), dtype=F64))


def test_fp32() -> None:
    before, x, _ = made("perceptron", torch.float32)
    after = moved(before)
    got = ntk_alignment(before, after, x)
    assert got.dtype == F64
    wanted = expected(copy.deepcopy(before).double(), copy.deepcopy(after).double(), x.double())
    assert_close(got, wanted, 1e-5)


def test_a_kernel_of_zero_has_no_alignment() -> None:
    module = nn.Linear(4, 3, bias=False)
    assert ntk_alignment(module, module, torch.zeros(2, 4)).isnan()


X = torch.ones(3, 4)
NAN = nn.Linear(4, 3)
with torch.no_grad():
    NAN.bias[1] = torch.nan
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a function": ({"before": len}, "before: expected a torch.nn.Module, got builtin_function_or_method"),
    "another function": ({"after": len}, "after: expected a torch.nn.Module, got builtin_function_or_method"),
    "another shape": (
        {"after": nn.Linear(4, 2)},
        r"after: expected the parameters of before, whose weight is \[3, 4\] of .*, got \[2, 4\] of torch.float32"),
    "another dtype": (
        {"after": nn.Linear(4, 3).double()}, "after: expected the .* of before, whose weight is .* of torch.float64"),
    "a parameter less": (
        {"after": nn.Linear(4, 3, bias=False)},
        r"after: expected the parameters of before, whose bias is \[3\] of torch.float32, got none"),
    "a parameter more": (
        {"before": nn.Linear(4, 3, bias=False)},
        r"after: expected the parameters of before, whose bias is none, got \[3\] of torch.float32"),
    "training": (
        {"after": nn.Sequential(nn.Linear(4, 3), nn.Dropout()),
         "before": nn.Sequential(nn.Linear(4, 3), nn.Dropout()).eval()},
        "after: expected each example on its own, got Dropout '1' in training mode"),
    "other outputs": (
        {"before": nn.Sequential(nn.Linear(4, 3)), "after": nn.Sequential(nn.Linear(4, 3), nn.AvgPool1d(3))},
        "after: expected 3 outputs per example as before, got 1"),
    "NaN": ({"after": NAN}, "after, parameter bias: expected finite numbers, got 1 NaN"),
    "a list": ({"x": [1]}, "x: expected a torch.Tensor, got list"),
    "other inputs": ({"x": X[:, :2]}, r"before: expected one that takes x of shape \[2, 2\] and torch.float32"),
    "an order": ({"order": "best"}, "order: expected one of"),
    "a name": ({"parameters": ["gain"]}, "parameters: expected some of"),
    "a budget": ({"memory_budget": 7}, r"memory_budget: expected at least \d+ bytes, got 7$"),
    "progress": ({"progress": 3}, "progress: expected a function of two numbers, got int"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"before": nn.Linear(4, 3), "after": nn.Linear(4, 3), "x": X, **change}
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as caught:
        ntk_alignment(**given)
    assert "\n" not in str(caught.value)
