"""Every scalar argument of every public function may be NumPy's; the result has the bits of Python's number."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hpr_kernels
from hpr_kernels import FactoredJacobian, NTKOperator
from hpr_kernels.loss import readout_cross_entropy, readout_squared_error
from hpr_kernels.testing import Network, random_network
from hpr_kernels.trials import place_trials
from hpr_kernels.update import momentum_step

Result = Tensor | tuple[Tensor, ...]


def net() -> Network:
    return random_network(torch.Generator().manual_seed(0), N=7, T=4, B=3)


def hidden(net: Network) -> dict[str, Tensor]:
    return {"recurrent": net.recurrent, "input": net.input}


def every(net: Network) -> dict[str, Tensor]:
    return {**hidden(net), "readout": net.readout}


def jacobian() -> FactoredJacobian:
    normal = torch.randn(5, 2, 4, 10, generator=torch.Generator().manual_seed(0))
    return FactoredJacobian(normal[..., :7].double(), normal[:, 0].double())


def adjoints(**options: Any) -> Tensor:
    given = net()
    rates = hpr_kernels.leaky_rnn(given.x, **hidden(given), rho=0.5)
    weights = {"recurrent": given.recurrent, "readout": given.readout}
    return hpr_kernels.leaky_rnn_adjoints(rates, **weights, **options)


def alignment(**options: Any) -> Tensor:
    before, after = every(net()), {name: 2 * w for name, w in every(net()).items()}
    return hpr_kernels.leaky_rnn_kernel_alignment(net().x, before=before, after=after, **options)


def module(**options: Any) -> Tensor:
    torch.manual_seed(0)
    return hpr_kernels.ntk(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), torch.ones(5, 3), **options)


def two_modules() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Linear(3, 4), nn.Linear(3, 4)


def module_alignment(**options: Any) -> Tensor:
    before, after = (nn.Sequential(one, nn.Tanh()) for one in two_modules())
    return hpr_kernels.ntk_alignment(before, after, torch.ones(5, 3), **options)


def module_plan(**options: Any) -> Tensor:
    plan = hpr_kernels.ntk_plan(two_modules()[0], torch.ones(5, 3), **options)
    return torch.tensor([plan.examples, plan.outputs, plan.differentiations])


def small_operator(**options: Any) -> NTKOperator:
    x = torch.arange(15.0).view(5, 3).sin()
    return hpr_kernels.ntk_operator(nn.Sequential(two_modules()[0], nn.Tanh()), x, **options)


def module_operator(**options: Any) -> Tensor:
    return small_operator(**options) @ torch.ones(20)


def operator(**options: Any) -> Tensor:
    given = hpr_kernels.leaky_rnn_ntk_operator(net().x, **every(net()), **options)
    return given @ torch.ones(given.shape[1], dtype=given.dtype)


def prediction(**options: Any) -> Result:
    J = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    given = hpr_kernels.predict_mse(J @ J.mT, J[:, 0], J @ J.mT, steps=2, **options)
    assert given.test is not None
    return given.train, given.test


def loss(**options: Any) -> Result:
    given = net()
    rates = hpr_kernels.leaky_rnn(given.x, **hidden(given), rho=0.5)[None]
    targets, gradient = torch.zeros(1, 4, 3, dtype=torch.int64), torch.empty_like(rates)
    return (
        *readout_cross_entropy(rates, given.readout[None], targets, gradient, **options),
        gradient,
    )


def regression_loss(**options: Any) -> Result:
    given = net()
    rates = hpr_kernels.leaky_rnn(given.x, **hidden(given), rho=0.5)[None]
    targets = rates[..., : len(given.readout)].sin()
    gradient = torch.empty_like(rates)
    return (
        *readout_squared_error(rates, given.readout[None], targets, gradient, **options),
        gradient,
    )


def update(**options: Any) -> Result:
    weights, velocity = torch.ones(1, 2, 3), torch.full((1, 2, 3), 0.1)
    momentum_step(weights, velocity, torch.ones(1, 5, 2), torch.ones(1, 5, 3), **options)
    return weights, velocity


def trials(**options: Any) -> Result:
    trace, placed = torch.zeros(2, 5, 3, 16), torch.zeros(2, 4, 3, dtype=torch.int64)
    classes, seed = torch.ones(1, 4, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    place_trials(torch.ones(1, 4, 3, 2), classes, seed, trace, placed, **options)
    return trace, placed


BUDGET = 10**8
# A call per function, and its scalar arguments. fp16, fp32 and int32 hold these numbers exactly.
CALLS: dict[str, tuple[Callable[..., Result], dict[str, Any]]] = {
    "from_rnn": (lambda: hpr_kernels.from_rnn(nn.RNNCell(3, 7))["recurrent"], {}),
    "leaky_rnn": (
        lambda **options: hpr_kernels.leaky_rnn(net().x, **hidden(net()), **options),
        {"rho": 0.25, "batch_first": True},
    ),
    "leaky_rnn_adjoints": (adjoints, {"rho": 0.25, "outputs": [1, 3], "batch_first": False}),
    "leaky_rnn_ntk": (
        lambda **options: hpr_kernels.leaky_rnn_ntk(net().x, **every(net()), **options),
        {
            "rho": 0.25,
            "outputs": [0, 2],
            "memory_budget": BUDGET,
            "self_connections": False,
            "batch_first": False,
        },
    ),
    "leaky_rnn_kernel_alignment": (
        alignment,
        {
            "rho": 0.25,
            "outputs": [3],
            "memory_budget": BUDGET,
            "self_connections": False,
            "batch_first": False,
        },
    ),
    "two_layer_ntk": (
        lambda **options: hpr_kernels.two_layer_ntk(
            net().x[0], hidden=net().input, readout=net().readout, **options
        ),
        {"memory_budget": BUDGET},
    ),
    "ntk": (module, {"memory_budget": BUDGET}),
    "ntk_plan": (module_plan, {"memory_budget": BUDGET}),
    "ntk_alignment": (module_alignment, {"memory_budget": BUDGET}),
    "ntk_operator": (module_operator, {"memory_budget": BUDGET}),
    "leaky_rnn_ntk_operator": (
        operator,
        {
            "rho": 0.25,
            "outputs": [0, 2],
            "memory_budget": BUDGET,
            "self_connections": False,
            "batch_first": False,
        },
    ),
    "NTKOperator.leading_eigenvectors": (
        lambda **options: small_operator().leading_eigenvectors(**options),
        {"count": 2},
    ),
    "FactoredJacobian.gram": (
        lambda **options: jacobian().gram(**options),
        {"memory_budget": BUDGET},
    ),
    "FactoredJacobian.leading_eigenvectors": (
        lambda **options: jacobian().leading_eigenvectors(**options),
        {"count": 2},
    ),
    "linearize": (lambda **options: torch.zeros(()), {}),
    "predict_mse": (prediction, {"learning_rate": 0.25}),
    "FactoredJacobian.leading_eigenvalues": (
        lambda **options: jacobian().leading_eigenvalues(**options),
        {"count": 2},
    ),
    "readout_cross_entropy": (loss, {"first": 2}),
    "readout_squared_error": (regression_loss, {"first": 2}),
    "momentum_step": (update, {"scale": 0.5, "learning_rate": 0.25, "momentum": 0.5}),
    "place_trials": (trials, {"N": 3}),
}
# NumPy's types of each kind of Python's scalar.
KINDS: dict[type, tuple[Callable[[Any], Any], ...]] = {
    float: (np.float32, np.float64, np.float16),
    int: (np.int64, np.int32, np.uint64),
    bool: (np.bool_,),
    list: (np.array, lambda steps: [np.int64(t) for t in steps], torch.tensor),
}


def tensors(result: Result) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


@pytest.mark.parametrize("name", CALLS)
def test_a_scalar_may_be_numpys(name: str) -> None:
    call, options = CALLS[name]
    wanted = tensors(call(**options))
    for argument, value in options.items():
        for kind in KINDS[type(value)]:
            got = tensors(call(**{**options, argument: kind(value)}))
            assert all(map(torch.equal, got, wanted)), (argument, kind)


def test_no_scalar_argument_is_left_out() -> None:
    """The annotations of the functions show which arguments are scalars."""
    own = {"readout_cross_entropy", "readout_squared_error", "momentum_step", "place_trials"}
    functions = {name: getattr(hpr_kernels, name) for name in hpr_kernels.__all__}
    functions |= {name: globals()[name] for name in own}
    del functions["FactoredJacobian"], functions["NTKOperator"]
    scalars = ("float", "int", "bool", "checks.Outputs", "Outputs")
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.items()
        assert {a for a, p in parameters if p.annotation in scalars} == set(CALLS[name][1])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("leaky_rnn", {"rho": np.float64("nan")}, "rho: expected a leak factor"),
        ("leaky_rnn", {"rho": np.bool_(False)}, "rho: expected a leak factor"),
        ("leaky_rnn", {"rho": np.array(0.25)}, "rho: expected a leak factor"),
        ("leaky_rnn", {"rho": torch.tensor(0.25)}, "rho: expected a leak factor"),
        ("leaky_rnn", {"batch_first": 1}, "batch_first: expected True or False, got 1"),
        ("leaky_rnn", {"batch_first": np.int64(1)}, "batch_first: expected True or False"),
        ("leaky_rnn_ntk", {"outputs": [np.bool_(True)]}, "outputs: expected 'all'"),
        ("predict_mse", {"learning_rate": np.float64("inf")}, "learning_rate: expected a finite"),
        ("ntk", {"memory_budget": np.float64(0.5)}, "memory_budget: expected a whole number"),
        ("readout_cross_entropy", {"first": np.float32(1.5)}, "first: expected a step"),
        ("momentum_step", {"scale": np.float32("inf")}, "scale: expected a finite number"),
    ],
)
def test_other_values_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    """An array or a tensor without axes is not accepted as a scalar: reading it may wait for a device."""
    call, options = CALLS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call(**{**options, **change})
