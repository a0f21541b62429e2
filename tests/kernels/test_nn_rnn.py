"""`from_rnn`: rates, gradients and tangent kernels of `nn.RNN` and `nn.RNNCell` by the functions for leaky networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpr_kernels import from_rnn, leaky_rnn, leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.testing import assert_close

every_kind = pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
with_and_without = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def module(rng: torch.Generator, kind: Any = nn.RNN, **options: Any) -> Any:
    """A module of 3 inputs and 7 units with weights from `rng`, which torch's own initial ones are not."""
    made = kind(3, 7, dtype=torch.float64, **options)
    for parameter in made.parameters():
        parameter.data = normal(rng, *parameter.shape) / 2
    return made


@every_kind
@with_and_without
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "steps first"])
def test_rates_and_gradients(
    rng: torch.Generator, nonlinearity: str, bias: bool, batch_first: bool
) -> None:
    rnn = module(rng, nonlinearity=nonlinearity, bias=bias, batch_first=batch_first)
    x = normal(rng, 5, 4, 3).requires_grad_()
    given = from_rnn(rnn)
    assert (given["rho"], given["activation"], given["batch_first"]) == (
        0.0, nonlinearity, batch_first,
    )  # fmt: skip
    assert (given["bias"] is not None) == bias
    rates, expected = leaky_rnn(x, **given), rnn(x)[0]
    assert_close(rates, expected)
    weight = normal(rng, *expected.shape)
    leaves = [x, *rnn.parameters()]
    got = torch.autograd.grad((rates * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other)


@every_kind
@with_and_without
def test_a_cell(rng: torch.Generator, nonlinearity: str, bias: bool) -> None:
    cell = module(rng, nn.RNNCell, nonlinearity=nonlinearity, bias=bias)
    x = normal(rng, 5, 4, 3)
    h, expected = x.new_zeros(4, 7), []
    for step in x:
        h = cell(step, h)
        expected.append(h)
    assert from_rnn(cell)["batch_first"] is False
    assert_close(leaky_rnn(x, **from_rnn(cell)), torch.stack(expected))


def kernel_by_loop(rnn: nn.RNN, x: Tensor, readout: Tensor, names: tuple[str, ...]) -> Tensor:
    """K of readout(rnn(x)) with rows (b, t, k): one `autograd.grad` per output."""
    leaves = [getattr(rnn, f"{name}_l0") for name in names]
    outputs = rnn(x)[0] @ readout.mT
    outputs = outputs if rnn.batch_first else outputs.transpose(0, 1)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(y, leaves, retain_graph=True)])
        for y in outputs.flatten()
    ]
    return torch.stack(rows) @ torch.stack(rows).mT


@every_kind
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "steps first"])
def test_kernels(rng: torch.Generator, nonlinearity: str, batch_first: bool) -> None:
    rnn = module(rng, nonlinearity=nonlinearity, batch_first=batch_first)
    x, w = normal(rng, 4, 3, 3), normal(rng, 2, 7)
    given = from_rnn(rnn)
    by_group: dict[tuple[Any, ...], tuple[str, ...]] = {
        ("recurrent",): ("weight_hh",),
        ("input",): ("weight_ih",),
        ("bias",): ("bias_ih",),
        ("recurrent", "input", "bias"): ("weight_hh", "weight_ih", "bias_hh"),
    }
    for parameters, names in by_group.items():
        K = leaky_rnn_ntk(x, **given, readout=w, parameters=parameters)
        assert_close(K, kernel_by_loop(rnn, x, w, names))
    hidden = ("recurrent", "input", "bias")
    both = sum(
        leaky_rnn_ntk(x, **given, readout=w, parameters=parameters)
        for parameters in (hidden, ("bias",))
    )
    every = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
    assert_close(both, kernel_by_loop(rnn, x, w, every))
    rates = leaky_rnn_ntk(x, **given, readout=None)
    rates = rates + leaky_rnn_ntk(x, **given, readout=None, parameters=("bias",))
    assert_close(rates, kernel_by_loop(rnn, x, torch.eye(7).double(), every))


def test_the_second_bias_as_an_input(rng: torch.Generator) -> None:
    """One call, and an alignment, with both biases."""
    x, w = normal(rng, 4, 3, 3), normal(rng, 2, 7)
    with_ones = torch.cat([x, x.new_ones(4, 3, 1)], dim=-1)
    kernels, weights = [], []
    for rnn in (module(rng), module(rng)):
        given = from_rnn(rnn)
        columns = torch.cat([given["input"], rnn.bias_hh_l0[:, None]], dim=-1)
        weights.append(
            {
                "recurrent": given["recurrent"],
                "input": columns,
                "bias": rnn.bias_ih_l0,
                "readout": w,
            }
        )
        every = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
        kernels.append(kernel_by_loop(rnn, x, w, every))
        K = leaky_rnn_ntk(
            with_ones, **weights[-1], rho=0.0, activation="tanh",
            parameters=("recurrent", "input", "bias"),
        )  # fmt: skip
        assert_close(K, kernels[-1])
    got = leaky_rnn_kernel_alignment(
        with_ones, before=weights[0], after=weights[1], rho=0.0, activation="tanh",
        parameters=("recurrent", "input", "bias"),
    )  # fmt: skip
    K_0, K_f = kernels
    assert_close(got, (K_0 * K_f).sum() / (K_0.norm() * K_f.norm()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (nn.RNN(3, 7, 2), "module: expected one layer, got 2"),
        (
            nn.RNN(3, 7, bidirectional=True),
            "module: expected one direction, got bidirectional=True",
        ),
        (nn.LSTM(3, 7), "module: expected an nn.RNN or nn.RNNCell, got LSTM"),
        (nn.GRUCell(3, 7), "module: expected an nn.RNN or nn.RNNCell, got GRUCell"),
        (nn.Linear(3, 7), "module: expected an nn.RNN or nn.RNNCell, got Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_modules_are_named(given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as told:
        from_rnn(given)
    assert str(told.value) == message


# Torch warns of a dropout that does nothing.
@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
def test_dropout_and_an_unknown_nonlinearity_are_named() -> None:
    rnn = nn.RNN(3, 7, dropout=0.5)
    with pytest.raises(ValueError, match=r"^module: expected no dropout, got dropout=0\.5$"):
        from_rnn(rnn)
    cell = nn.RNNCell(3, 7, nonlinearity="gelu")
    expected = r"^module.nonlinearity: expected one of \('relu', 'tanh'\), got 'gelu'$"
    with pytest.raises(ValueError, match=expected):
        from_rnn(cell)
