"""The modules and arguments that `ntk` refuses, each with its own message, and that it changes no module."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as spectral_parametrization
from torch.nn.utils.parametrizations import weight_norm as weight_parametrization

from hpr_kernels import ntk
from hpr_kernels.testing import assert_close

F64 = torch.float64


class Writing(nn.Module):
    """Counts its calls, and keeps the last state and a list of all states."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.calls, self.seen = 0, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.linear(x)
        self.seen.append(self.last)
        return self.last.tanh()


class Function(nn.Module):
    """A linear layer followed by a function of its result."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.linear(x))


class Counting(nn.Module):
    """Counts its calls in a buffer, or if `hidden` in the output, which no buffer shows."""

    def __init__(self, *, hidden: bool) -> None:
        super().__init__()
        self.linear, self.hidden, self.calls = nn.Linear(4, 3), hidden, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden:
            self.calls += 1
            return self.linear(x) * self.calls
        self.count += 1
        return self.linear(x)


class ByAnotherWay(nn.Module):
    """Reads its weight from a list, where torch.func substitutes no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.held = [self.linear.weight]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.held[0].mT + self.linear.bias


class Last(nn.GRU):
    """The last state alone."""

    def __init__(self) -> None:
        super().__init__(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[1][0]


def pruned() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    prune.random_unstructured(module[0], "weight", amount=0.5)
    return module


def after_a_call(module: nn.Module) -> nn.Module:
    """The module after a forward and a backward pass, with what they left in it."""
    module(torch.ones(2, 4)).sum().backward()
    return module


with pytest.warns(FutureWarning):
    OLD_WEIGHT_NORM = weight_norm(nn.Linear(4, 3))

KEPT: dict[str, nn.Module] = {
    "attributes": Writing(),
    "attributes of a graph": after_a_call(Writing()),
    "pruning": pruned(),
    "pruning after a call": after_a_call(pruned()),
    "old weight norm": OLD_WEIGHT_NORM,
    "weight norm": weight_parametrization(nn.Linear(4, 3)),
    "old spectral norm": spectral_norm(nn.Linear(4, 3)).eval(),
    "spectral norm": spectral_parametrization(nn.Linear(4, 3)).eval(),
    "batch norm": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(),
    "scalar outputs": Function(lambda y: y.square().sum(-1)),
    "gradients": after_a_call(nn.Linear(4, 3)),
    "recurrent layer": nn.Sequential(nn.Unflatten(1, (2, 2)), Last(), nn.Linear(3, 2)),
}
REFUSED: dict[str, tuple[nn.Module, str]] = {
    "no outputs": (nn.Sequential(nn.Linear(4, 3), nn.AdaptiveAvgPool1d(0)), "module: expected an output per ex"),
    "batch norm": (
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        "module: expected each example on its own, got BatchNorm1d '1' in training mode",
    ),
    "a norm that keeps score": (
        nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True)),
        "module: expected one that keeps its state, got another buffer '2.running_mean'",
    ),
    "old spectral norm": (
        spectral_norm(nn.Linear(4, 3)),
        "module: expected one that keeps its state, got another buffer 'weight_u'",
    ),
    "a counter": (Counting(hidden=False), "module: expected one that keeps its state, got another buffer 'count'"),
    "a hidden counter": (
        Counting(hidden=True),
        "module: expected a function of its input, got other outputs when it was called again",
    ),
    "dropout": (
        nn.Sequential(nn.Linear(4, 3), nn.Dropout()),
        "module: expected each example on its own, got Dropout '1' in training mode",
    ),
    "a draw": (
        nn.Sequential(nn.Linear(4, 4), Function(lambda y: y + torch.randn(3))),
        "module: expected no random numbers, got some drawn by Function '1'; call module.eval",
    ),
    "a draw of Python's": (
        Function(lambda y: y * random.random()),
        "module: expected no random numbers, got some drawn by Function",
    ),
    "a draw of NumPy's": (
        Function(lambda y: y * float(np.random.rand())),  # noqa: NPY002
        "module: expected no random numbers, got some drawn by Function",
    ),
    "a tuple": (Function(lambda y: (y, y)), "module: expected a tensor as its result, got tuple"),
    "a dict": (Function(lambda y: {"y": y}), "module: expected a tensor as its result, got dict"),
    "half": (
        Function(lambda y: y.half()),
        "module: expected outputs of float32 or float64, got torch.float16",
    ),
    "complex": (
        Function(lambda y: torch.complex(y, y)),
        "module: expected outputs of float32 or float64, got torch.complex64",
    ),
    "a sum over examples": (
        Function(lambda y: y.sum()),
        r"module: expected outputs \[2, …\], a row an example of x1 of shape \[2, 4\] and torch.float32, got \[\]",
    ),
    "no examples first": (
        Function(lambda y: y.mT),
        r"module: expected outputs \[2, …\], .*, got \[3, 2\]; examples come first",
    ),
    "NaN": (
        Function(lambda y: y.abs().neg().sqrt()),
        "outputs of the module: expected finite numbers, got 6 NaN or infinite",
    ),
    "a slope that is none": (
        Function(lambda y: (y - y.detach()).abs().sqrt()),
        "kernel: expected finite numbers",
    ),
    "a parameter by another way": (
        ByAnotherWay(),
        "module: expected 'linear.weight' to be read where it is registered, got another gradient",
    ),
    "other inputs": (
        nn.Linear(5, 3),
        r"module: expected one that takes x1 of shape \[2, 4\] and torch.float32, got RuntimeError: ",
    ),
    "other dtype": (
        nn.Linear(4, 3, dtype=F64),
        r"module: expected one that takes x1 of shape \[2, 4\] and torch.float32, got RuntimeError: ",
    ),
    "no parameters": (nn.Tanh(), "module: expected one with parameters, got Tanh"),
    "nothing to differentiate by": (
        nn.Linear(4, 3).requires_grad_(False),
        "parameters: expected names, since no parameter requires a gradient",
    ),
}  # fmt: skip


def told(value: Any) -> Any:
    """The content of a value in a form that can be compared; tensors with their place in memory."""
    if isinstance(value, Tensor):
        grad = told(value.grad) if value.is_leaf else None
        return id(value), value.data_ptr(), value.detach().clone(), grad
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, int | str | float | None) else id(value)


def state(module: nn.Module) -> dict[str, Any]:
    parts = {name: told(vars(part)) for name, part in module.named_modules()}
    return {"parts": parts, "torch": torch.get_rng_state(), "python": random.getstate(), "numpy": told(
        list(np.random.get_state()))}  # fmt: skip # noqa: NPY002


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", KEPT)
def test_a_module_is_left_as_it_was(name: str, rng: torch.Generator) -> None:
    module, x = KEPT[name], torch.randn(3, 4, generator=rng)
    before = state(module)
    K = ntk(module, x)
    assert_same(before, state(module))
    assert_close(K, by_autograd(copy.deepcopy(module) if name == "batch norm" else module, x), 1e-5)


def by_autograd(module: nn.Module, x: Tensor) -> Tensor:
    held = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(y, held, retain_graph=True)])
        for y in module(x).flatten()
    ]
    J = torch.stack(rows)
    return J @ J.mT


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_and_left_as_it_was(name: str, rng: torch.Generator) -> None:
    module, message = REFUSED[name]
    x = torch.randn(3, 4, generator=rng)
    before = state(module)
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as caught:
        ntk(module, x)
    assert "\n" not in str(caught.value)
    assert_same(before, state(module))


X = torch.ones(3, 4)
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "a function": (
        {"module": lambda x: x},
        "module: expected a torch.nn.Module, got function",
    ),
    "NumPy": (
        {"x1": np.ones((3, 4), np.float32)},
        "x1: expected a torch.Tensor, got ndarray; torch.as_tensor makes one of it",
    ),
    "a list": ({"x1": [[1.0] * 4]}, "x1: expected a torch.Tensor, got list"),
    "no axis": ({"x1": torch.ones(())}, r"x1: expected a batch \[B, …\], none of it empty, got \[\]"),
    "no example": ({"x1": X[:0]}, r"x1: expected a batch \[B, …\], none of it empty, got \[0, 4\]"),
    "no second example": ({"x2": X[:0]}, r"x2: expected a batch .* got \[0, 4\]"),
    "NaN": ({"x1": X.index_fill(1, torch.tensor([2]), torch.nan)}, "x1: expected finite numbers, got 3 NaN"),
    "infinite x2": ({"x2": X / 0}, "x2: expected finite numbers, got 12 NaN or infinite"),
    "another dtype": ({"x2": X.double()}, "x2: expected torch.float32 on cpu with 2 axes, as x1, got torch.float64"),
    "another device": ({"x2": torch.ones(3, 4, device="meta")}, "x2: expected torch.float32 on cpu .*, got .* on meta"),
    "other axes": ({"x2": X[0]}, "x2: expected torch.float32 on cpu with 2 axes, as x1, got .* with 1"),
    "other sizes": ({"x2": X[:, :3]}, r"module: expected one that takes x2 of shape \[1, 3\] and torch.float32"),
    "whole numbers": ({"x1": X.long()}, r"module: expected one that takes x1 of shape \[2, 4\] and torch.int64"),
    "no name": ({"parameters": []}, r"parameters: expected some of \('weight', 'bias'\), got \[\]"),
    "an unknown name": ({"parameters": ["weight", "gain"]}, "parameters: expected some of .*, got .*gain"),
    "numbers as names": ({"parameters": 3}, "parameters: expected some of .*, got 3"),
    "no budget": ({"memory_budget": 0}, "memory_budget: expected a whole number of bytes, at least 1, got 0"),
    "a budget of NaN": ({"memory_budget": float("nan")}, "memory_budget: expected a whole number of bytes"),
    "a budget that is true": ({"memory_budget": True}, "memory_budget: expected a whole number of bytes"),
    "a small budget": ({"memory_budget": 100}, "memory_budget: expected at least 160 bytes, got 100"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CALLS.values(), ids=CALLS)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"module": nn.Linear(4, 3), "x1": X, **change}
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as caught:
        ntk(**given)
    assert "\n" not in str(caught.value)


def test_a_parameter_that_is_not_finite_is_named() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        module[1].bias[1] = torch.inf
    with pytest.raises(ValueError, match=r"^parameter 1\.bias: expected finite numbers, got 1"):
        ntk(module, X)


@pytest.mark.parametrize("budget", [1e9, np.int64(10**9), np.float64(1e9)])
def test_numbers_are_numbers(budget: Any) -> None:
    module = nn.Linear(4, 3)
    assert torch.equal(ntk(module, X, memory_budget=budget), ntk(module, X))
    assert torch.equal(ntk(module, X, parameters="bias"), ntk(module, X, parameters=["bias"]))


@pytest.mark.parametrize("mode", ["autocast", "inference", "no_grad", "default dtype"])
def test_the_callers_mode_does_not_reach_the_kernel(mode: str, rng: torch.Generator) -> None:
    module, x = (
        nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)),
        torch.randn(5, 4, generator=rng),
    )
    expected = ntk(module, x)
    modes: dict[str, Any] = {
        "autocast": torch.autocast("cpu"), "inference": torch.inference_mode(), "no_grad": torch.no_grad(),
        "default dtype": torch.device("cpu"),
    }  # fmt: skip
    if mode == "default dtype":
        torch.set_default_dtype(F64)
    try:
        with modes[mode]:
            K = ntk(module, x)
            # This input is made in the caller's mode.
            assert torch.equal(ntk(module, x.clone()), K)
    finally:
        torch.set_default_dtype(torch.float32)
    assert K.dtype == torch.float32
    assert torch.equal(K, expected)


def test_large_outputs_round_with_the_batch(rng: torch.Generator) -> None:
    """Among outputs of 1e5, those near zero differ between batches of one and two by more than their own size."""
    module = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 60))
    with torch.no_grad():
        module[2].weight.mul_(1e4)
    x = torch.randn(3, 64, generator=rng)
    assert ntk(module, x, parameters=["2.bias"]).shape == (180, 180)


def test_a_lack_of_memory_is_no_fault_of_the_module() -> None:
    def fail(y: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        ntk(Function(fail), X)


def test_embeddings_take_whole_numbers(rng: torch.Generator) -> None:
    module = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    x = torch.randint(5, (4, 2), generator=rng)
    assert_close(ntk(module, x), by_autograd(module, x), 1e-5)
