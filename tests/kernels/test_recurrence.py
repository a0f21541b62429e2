"""Tests of the recurrence, its gradients and its adjoints against the fp64 reference, and under torch.func."""

from __future__ import annotations

import re
from collections.abc import Callable
from pydoc import locate
from typing import Any

import pytest
import torch
from torch import Tensor

from hpr_kernels import leaky_rnn, leaky_rnn_adjoints
from hpr_kernels.recurrence import op, reference
from hpr_kernels.testing import EXAMPLES, HIDDEN, STEPS, assert_close, random_network

RHO = 0.367
ACTIVATIONS = ("relu", "tanh", "linear")


def rates_of(
    x: Tensor, recurrent: Tensor, input: Tensor, rho: float = RHO, activation: Any = "relu"
) -> Tensor:
    """`leaky_rnn` with positional weights like the reference, because `torch.func` differentiates by position."""
    return leaky_rnn(x, recurrent=recurrent, input=input, rho=rho, activation=activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("B", EXAMPLES)
@pytest.mark.parametrize("N", HIDDEN)
@pytest.mark.parametrize("R", [1, 3])
def test_rates_and_gradients(
    rng: torch.Generator, R: int, N: int, B: int, T: int, activation: str
) -> None:
    net = random_network(rng, N=N, T=T, B=B, R=R)
    leaves = [value.requires_grad_() for value in (net.x, net.recurrent, net.input)]
    rates = rates_of(*leaves, RHO, activation)
    expected = reference.leaky_rnn(*leaves, RHO, activation)
    assert_close(rates, expected)
    weight = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    got = torch.autograd.grad((rates * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for value, reference_value in zip(got, wanted, strict=True):
        assert_close(value, reference_value)


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_gradcheck(rng: torch.Generator, rho: float) -> None:
    net = random_network(rng, N=5, T=4, B=2, R=2)
    leaves = [value.requires_grad_() for value in net[:3]]
    assert torch.autograd.gradcheck(lambda *args: rates_of(*args, rho), leaves)


def test_one_input_for_a_pack_and_plain_network(rng: torch.Generator) -> None:
    net = random_network(rng, N=33, T=8, B=5, R=3)
    shared = rates_of(net.x[:1], net.recurrent, net.input)
    for r in range(3):
        plain = rates_of(net.x[0], net.recurrent[r], net.input[r])
        assert torch.equal(shared[r], plain)


def reference_plain(x: Tensor, recurrent: Tensor, input: Tensor, rho: float) -> Tensor:
    return reference.leaky_rnn(x[None], recurrent[None], input[None], rho)[0]


def per_example_gradient(rnn: Callable[..., Tensor], *net: Tensor) -> Tensor:
    x, recurrent, input = net

    def loss(recurrent: Tensor, x: Tensor) -> Tensor:
        return (rnn(x[:, None], recurrent, input, RHO) ** 2).sum()

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(recurrent, x)


def jacobian_of_weights(rnn: Callable[..., Tensor], *net: Tensor) -> Tensor:
    x, recurrent, input = net
    by_recurrent, by_input = torch.func.jacrev(
        lambda recurrent, input: rnn(x, recurrent, input, RHO).sum(-1), argnums=(0, 1)
    )(recurrent, input)
    return torch.cat([by_recurrent, by_input], dim=-1)


def gradients_of_stacked_networks(rnn: Callable[..., Tensor], *net: Tensor) -> Tensor:
    x, recurrent, input = net
    stack = torch.stack([recurrent, recurrent.mT, 2 * recurrent], dim=1)

    def loss(recurrent: Tensor, x: Tensor) -> Tensor:
        return rnn(x, recurrent, input, RHO).square().sum()

    return torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(1, None))(stack, x)


def per_example_jacobian(rnn: Callable[..., Tensor], *net: Tensor) -> Tensor:
    x, recurrent, input = net

    def outputs(recurrent: Tensor, x: Tensor) -> Tensor:
        return rnn(x[:, None], recurrent, input, RHO)[:, 0, :2]

    return torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 1))(recurrent, x)


@pytest.mark.parametrize(
    "transform",
    [
        per_example_gradient,
        jacobian_of_weights,
        gradients_of_stacked_networks,
        per_example_jacobian,
    ],
)
@pytest.mark.parametrize("N", [1, 33])
def test_torch_func(rng: torch.Generator, N: int, transform: Callable[..., Tensor]) -> None:
    net = random_network(rng, N=N, T=5, B=4)[:3]
    assert_close(transform(rates_of, *net), transform(reference_plain, *net))


def test_operators_keep_their_contract(rng: torch.Generator) -> None:
    """Shapes, strides and aliasing agree with the shape rules, on which `torch.compile` relies."""
    net = random_network(rng, N=33, T=4, B=5, R=2)
    trace = op._trace(*net[:3], RHO, "relu", "ieee")
    for operator, arguments in ((op._trace, net[:3]), (op._backward, (trace, trace, *net[1:3]))):
        torch.library.opcheck(
            operator,
            (*arguments, RHO, "relu", "ieee"),
            test_utils=("test_schema", "test_faketensor"),
        )


# Torch's own tracing of a Function causes this warning.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break(rng: torch.Generator) -> None:
    net = random_network(rng, N=33, T=4, B=5, R=2)

    def loss(*leaves: Tensor) -> Tensor:
        return rates_of(*leaves).square().sum()

    leaves = [value.requires_grad_() for value in net[:3]]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for value, expected in zip(got, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        assert torch.equal(value, expected)


def test_exports_as_one_node(rng: torch.Generator) -> None:
    net = random_network(rng, N=33, T=4, B=5)

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return rates_of(x, net.recurrent, net.input)

    exported = torch.export.export(Model(), (net.x,))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert targets.count("hpr_kernels.leaky_rnn_trace.default") == 1
    assert torch.equal(exported.module()(net.x), Model()(net.x))


def test_second_derivative_is_refused_and_the_named_path_gives_it(rng: torch.Generator) -> None:
    net = random_network(rng, N=3, T=2, B=1)
    leaves = [value.requires_grad_() for value in net[:3]]
    (first,) = torch.autograd.grad(rates_of(*leaves).square().sum(), leaves[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="expected at most one differentiation") as told:
        torch.autograd.grad(first.sum(), leaves[1])
    path = re.search(r"(hpr_kernels\.\S+) differentiates any number of times", str(told.value))
    assert path is not None
    twice = locate(path[1])
    assert callable(twice)
    assert twice is reference.leaky_rnn
    rates = twice(*(leaf[None] for leaf in leaves), RHO, "linear")
    (first,) = torch.autograd.grad(rates.square().sum(), leaves[2], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaves[2])
    assert bool(second.any())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", ["all", "last", [0], [1, -1]], ids=str)
@pytest.mark.parametrize(("N", "T"), [(1, 2), (33, 8), (198, 28), (300, 8)])
@pytest.mark.parametrize("B", EXAMPLES)
def test_adjoints(
    rng: torch.Generator, N: int, T: int, B: int, outputs: list[int] | str, activation: str
) -> None:
    net = random_network(rng, N=N, T=T, B=B, R=2)
    rates = rates_of(*net[:3], RHO, activation)
    if isinstance(outputs, str):
        steps = range(T) if outputs == "all" else [T - 1]
    else:
        steps = sorted({t % T for t in outputs})
        outputs = list(steps)
    got = leaky_rnn_adjoints(
        rates,
        recurrent=net.recurrent,
        readout=net.readout,
        rho=RHO,
        outputs=outputs,
        activation=activation,
    )
    expected = reference.adjoints(rates, net.recurrent, net.readout, RHO, steps, activation)
    assert_close(got, expected)


def test_fp32_error_is_that_of_torch(rng: torch.Generator) -> None:
    net = random_network(rng, N=300, T=28, B=33, R=1)
    single = [value.float() for value in net[:3]]
    exact = reference.leaky_rnn(*net[:3], RHO)
    theirs = (reference.leaky_rnn(*single, RHO).double() - exact).norm()
    ours = (rates_of(*single).double() - exact).norm()
    assert ours <= 2 * theirs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 1.0}, r"rho: expected .* \[0, 1\), got 1.0"),
        ({"rho": float("nan")}, "rho: expected"),
        ({"recurrent": torch.zeros(3, 4)}, r"recurrent: .* \[N, N\] = \[3, 3\], got \[3, 4\]"),
        (
            {"input": torch.zeros(3, 5)},
            r"input: expected shape \[N, N_in\] = \[3, 2\], got \[3, 5\]",
        ),
        ({"x": torch.zeros(2)}, "x: expected 3 or 4 axes"),
        (
            {"x": torch.zeros(4, 1, 2, dtype=torch.int64)},
            "x: expected a dtype of float32 or float64",
        ),
        ({"recurrent": torch.zeros(3, 3).double()}, "recurrent: expected torch.float32 on cpu"),
        ({"activation": "gelu"}, "activation: expected one of"),
        ({"bias": torch.zeros(2)}, r"bias: expected shape \[N\] = \[3\], got \[2\]"),
        ({"bias": torch.zeros(1, 3)}, r"bias: expected 1 axes, got shape \(1, 3\)"),
        ({"bias": torch.zeros(3).double()}, "bias: expected torch.float32 on cpu"),
        ({"bias": 0.5}, "bias: expected a torch.Tensor, got float"),
        ({"precision": "fp16"}, "precision: expected one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "x": torch.zeros(4, 1, 2),
        "recurrent": torch.zeros(3, 3),
        "input": torch.zeros(3, 2),
        "rho": 0.5,
    }
    with pytest.raises((ValueError, TypeError), match=message):
        leaky_rnn(**{**arguments, **change})  # type: ignore[arg-type]


def test_nan_weights_are_refused_by_adjoints(rng: torch.Generator) -> None:
    net = random_network(rng, N=3, T=2, B=1)
    rates = rates_of(*net[:3])
    dead = torch.full_like(rates, torch.nan)
    with pytest.raises(ValueError, match="rates: expected finite numbers, got 6 NaN"):
        leaky_rnn_adjoints(dead, recurrent=net.recurrent, readout=net.readout, rho=RHO)
    net.readout[0, 0] = float("nan")
    with pytest.raises(ValueError, match="readout: expected finite numbers, got 1 NaN"):
        leaky_rnn_adjoints(rates, recurrent=net.recurrent, readout=net.readout, rho=RHO)


@pytest.mark.parametrize("empty", ["T", "B", "N", "N_out"])
def test_adjoints_of_nothing_are_refused(empty: str) -> None:
    T, B, N, N_out = (0 if empty == name else 2 for name in ("T", "B", "N", "N_out"))
    with pytest.raises(ValueError, match=r"rates: expected no empty axis, got \["):
        leaky_rnn_adjoints(
            torch.zeros(T, B, N),
            recurrent=torch.zeros(N, N),
            readout=torch.zeros(N_out, N),
            rho=RHO,
            outputs="last",
        )
