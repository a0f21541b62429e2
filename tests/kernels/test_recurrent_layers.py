"""Torch's recurrent layers composed of linear layers, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ntk_zoo_parts import Own, kinds
from torch import Tensor, nn

from hpr_kernels import ntk
from hpr_kernels.tangent.uses import Recorder, substituted
from hpr_kernels.testing import assert_close

F64 = torch.float64
LAYERS: dict[str, Any] = {
    "tanh": nn.RNN, "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRU, "lstm": nn.LSTM,
    "lstm, projection": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
}  # fmt: skip
CELLS: dict[str, Any] = {
    "tanh": nn.RNNCell, "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRUCell, "lstm": nn.LSTMCell,
}  # fmt: skip


def parts(result: Any) -> list[Tensor]:
    """All tensors of a layer's result."""
    if isinstance(result, Tensor):
        return [result]
    return [value for item in result for value in parts(item)]


def assert_same(layer: nn.Module, *inputs: Any) -> None:
    """The layer's results and gradients, by torch and while its calls are recorded."""
    own = list(layer.parameters())
    expected = parts(layer(*inputs))
    with Recorder({}):
        found = parts(layer(*inputs))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert_close(one, other)
        gradients = [
            torch.autograd.grad(y.sin().sum(), own, retain_graph=True, materialize_grads=True)
            for y in (one, other)
        ]
        for a, b in zip(*gradients, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(
    name: str, depth: int, bidirectional: bool, bias: bool, rng: torch.Generator
) -> None:
    """With examples first, second, and without their axis; with and without given states."""
    for first in (True, False):
        options = {"num_layers": depth, "bidirectional": bidirectional, "bias": bias}
        layer = LAYERS[name](3, 4, batch_first=first, **options).to(F64)
        x = torch.randn(5, 2, 3, generator=rng, dtype=F64)
        x = x.transpose(0, 1) if first else x
        assert_same(layer, x)
        assert_same(layer, x[0])
        sizes = [2 if "projection" in name else 4, 4][: 2 if "lstm" in name else 1]
        h = [torch.randn(depth * (1 + bidirectional), 2, N, generator=rng, dtype=F64) for N in sizes]  # fmt: skip
        assert_same(layer, x, tuple(h) if "lstm" in name else h[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell(name: str, bias: bool, rng: torch.Generator) -> None:
    cell = CELLS[name](3, 4, bias=bias).to(F64)
    x, h, c = (torch.randn(2, N, generator=rng, dtype=F64) for N in (3, 4, 4))
    state = (h, c) if name == "lstm" else h
    assert_same(cell, x)
    assert_same(cell, x, state)
    assert_same(cell, x[0])


def test_a_packed_sequence_and_dropout_are_torchs_own(rng: torch.Generator) -> None:
    x = torch.randn(2, 4, 3, generator=rng, dtype=F64)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
    for layer in (nn.GRU(3, 4).to(F64), nn.LSTM(3, 4).to(F64)):
        expected = layer(packed)
        with Recorder({}):
            found = layer(packed)
        assert torch.equal(found[0].data, expected[0].data)
    layer = nn.GRU(3, 4, 2, dropout=0.5).to(F64)
    torch.manual_seed(1)
    expected = layer(x)[0]
    torch.manual_seed(1)
    with Recorder({}):
        assert torch.equal(layer(x)[0], expected)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_all_weights_are_linear_uses() -> None:
    layer = nn.LSTM(2, 3, 2, bidirectional=True, batch_first=True, proj_size=2)
    module = Own(lambda self, x: self.layer(x)[0], layer=layer)
    found = kinds(module, torch.ones(1, 2, 2))
    assert len(found) == 20
    for name, way in found.items():
        assert way == ("bias" if "bias" in name else "linear")


def test_a_layer_reads_substituted_weights_and_keeps_its_own(rng: torch.Generator) -> None:
    layer = nn.GRU(2, 3, batch_first=True).to(F64)
    module = Own(lambda self, x: self.layer(x)[0], layer=layer)
    x = torch.randn(2, 4, 2, generator=rng, dtype=F64)
    before, expected = dict(vars(layer)), module(x)
    halves = {name: value.detach() / 2 for name, value in module.named_parameters()}
    other = substituted(module)(halves, x)
    assert vars(layer) == before
    assert all(vars(layer)[name] is value for name, value in before.items())
    assert torch.equal(module(x), expected)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter /= 2
    assert torch.equal(module(x), other)


def test_one_weight_of_two_layers() -> None:
    """Both places of a weight that one part holds twice are substituted."""
    layer = nn.GRU(3, 3, 2, batch_first=True).to(F64)
    layer.weight_hh_l1 = layer.weight_hh_l0
    module = Own(lambda self, x: self.layer(x)[0], layer=layer)
    halves = {name: value.detach() / 2 for name, value in module.named_parameters()}
    assert len(halves) == 7
    x = torch.ones(1, 2, 3, dtype=F64)
    found = substituted(module)(halves, x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter /= 2
    assert torch.equal(module(x), found)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_many_steps(name: str, rng: torch.Generator) -> None:
    """One weight alone, over 40 steps, against a difference quotient."""
    layer = LAYERS[name](2, 3, batch_first=True).to(F64)
    module = Own(lambda self, x: self.layer(x)[0][:, -1, :1], layer=layer)
    x = torch.randn(2, 40, 2, generator=rng, dtype=F64)
    K = ntk(module, x, parameters="*.bias_hh_l0", reduce="trace")
    bias, step = layer.bias_hh_l0, 1e-5
    J = []
    with torch.no_grad():
        for i in range(len(bias)):
            bias[i] += step
            above = module(x)
            bias[i] -= 2 * step
            J.append((above - module(x)) / (2 * step))
            bias[i] += step
    J = torch.cat(J, 1)
    assert_close(K, J @ J.mT, 1e-7)
