"""Modules of every kind for the tests of `ntk`."""

from __future__ import annotations

from typing import Any

import torch
from ntk_zoo_layers import LAYERS
from ntk_zoo_parts import Case, Own, sequence, weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

F64 = torch.float64


def rnn(self: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(len(x), 5)
    for step in x.unbind(1):
        h = F.linear(h, self.w).relu() + self.input(step)
    return self.readout(h)


def gru_cell(self: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(len(x), 4)
    for step in x.unbind(1):
        h = self.cell(step, h)
    return self.readout(h)


def gated(self: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(len(x), 3)
    for step in x.unbind(1):
        a, b = self.x(step).chunk(3, -1), self.h(h).chunk(3, -1)
        z = (a[1] + b[1]).sigmoid()
        h = (1 - z) * (a[2] + (a[0] + b[0]).sigmoid() * b[2]).tanh() + z * h
    return h


def in_place(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    y.relu_()
    return self.second(y).mul_(2)


def positional(self: Any, x: Tensor) -> Tensor:
    return self.head((self.inner(x) + self.table).tanh().flatten(1))


def no_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = self.gate(x).sigmoid()
    return self.linear(x) * gate


def tied_decoder(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.linear(x, self.w).tanh(), self.w.mT, self.bias)


def slope(self: Any, x: Tensor) -> Tensor:
    return torch.func.grad(lambda y: self.second(self.first(y).tanh()).sum())(x)


def by_its_own_vmap(self: Any, x: Tensor) -> Tensor:
    return self.second(torch.func.vmap(self.first)(x).tanh())


def two_kernels(self: Any, x: Tensor) -> Tensor:
    return F.conv1d(x, self.w).sum(-1) + F.conv1d(x[:, :1], self.w[:, :1]).sum(-1)


def two_groupings(self: Any, x: Tensor) -> Tensor:
    return F.conv1d(x, self.w, groups=2).sum(-1) + F.conv1d(x[:, :1], self.w).sum(-1)


def pairs(self: Any, x: Tensor) -> Tensor:
    return self.a(self.e(x) * self.e(x.flip(1))).sum(1)


def attention(self: Any, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return self.attention(x, x, x, attn_mask=mask)[0]


def linear_head(convolution: nn.Module, inputs: int) -> nn.Module:
    return sequence(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(inputs, 2))


def pruned() -> nn.Module:
    module = sequence(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    prune.l1_unstructured(module[0], "weight", amount=0.5)
    return module


def tied() -> nn.Module:
    module = sequence(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    module[2].weight = module[0].weight
    return module


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True, **options)


ZOO: dict[str, Case] = {
    "one layer": Case(lambda: nn.Linear(4, 3), (4,)),
    "perceptron": Case(lambda: sequence(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "no bias": Case(lambda: sequence(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2, bias=False)), (4,)),
    "over tokens": Case(lambda: sequence(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (2, 3, 4)),
    "scalar outputs": Case(lambda: Own(lambda self, x: self.linear(x).square().sum(-1), linear=nn.Linear(4, 3)), (4,)),
    "tied": Case(tied, (4,)),
    "called again": Case(lambda: Own(lambda self, x: self.a(self.a(x).tanh()), a=nn.Linear(4, 4)), (4,)),
    "functional": Case(lambda: Own(lambda self, x: F.linear(input=x, weight=self.w), w=weight(3, 4)), (4,)),
    "scaled": Case(
        lambda: Own(lambda self, x: F.linear(x, 3 * self.w, self.b), w=weight(3, 4), b=weight(3)),
        (4,), ("w",)),
    "one other use": Case(
        lambda: Own(lambda self, x: F.linear(x, self.w) + (x @ self.w.mT).tanh(), w=weight(3, 4)), (4,), ("w",)),
    "a gain": Case(
        lambda: Own(lambda self, x: self.a(x) * self.gain, a=nn.Linear(4, 3), gain=weight(3)),
        (4,), ("gain",)),
    "a vector": Case(lambda: Own(lambda self, x: F.linear(x, self.w), w=weight(4)), (4,), ("w",)),
    "a bias for all units": Case(
        lambda: Own(lambda self, x: F.linear(x, self.w, self.b), w=weight(3, 4), b=weight(1)),
        (4,), ("b",)),
    "tied decoder": Case(lambda: Own(tied_decoder, w=weight(3, 4), bias=weight(4)), (4,), ("w",)),
    "matrix product": Case(lambda: Own(lambda self, x: x @ self.w, w=weight(4, 3)), (4,), ("w",)),
    "a weight as its own input": Case(
        lambda: Own(lambda self, x: x @ F.linear(self.w, self.w), w=weight(4, 4)), (4,), ("w",)),
    "a parameter as input": Case(
        lambda: Own(lambda self, x: self.a(x * self.a(self.p).tanh()), a=nn.Linear(4, 4), p=weight(4)), (4,), ("p",)),
    "unused": Case(
        lambda: Own(lambda self, x: self.a(x), a=nn.Linear(4, 3), b=nn.Linear(2, 2)),
        (4,), ("b.weight", "b.bias")),
    "no gradient": Case(lambda: Own(no_gradient, gate=nn.Linear(4, 3), linear=nn.Linear(4, 3)), (4,)),
    "in place": Case(lambda: Own(in_place, first=nn.Linear(4, 5), second=nn.Linear(5, 3)), (4,)),
    "weight norm": Case(
        lambda: sequence(weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)), (4,),
        ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")),
    "pruned": Case(pruned, (4,), ("0.weight_orig",)),
    "bilinear": Case(
        lambda: Own(lambda self, x: self.a(x, x.tanh()), a=nn.Bilinear(4, 4, 3)),
        (4,), ("a.weight", "a.bias")),
    # The outputs do not depend on the second bias.
    "own slope": Case(
        lambda: Own(slope, first=nn.Linear(4, 5), second=nn.Linear(5, 3)), (4,),
        ("first.weight", "first.bias", "second.weight", "second.bias")),
    "own vmap": Case(
        lambda: Own(by_its_own_vmap, first=nn.Linear(4, 5), second=nn.Linear(5, 3)), (4,),
        ("first.weight", "first.bias")),
    "convolution": Case(lambda: linear_head(nn.Conv1d(2, 3, 3), 12), (2, 6)),
    "stride": Case(lambda: linear_head(nn.Conv1d(2, 3, 3, stride=2, padding=2, bias=False), 12), (2, 6)),
    "dilation": Case(lambda: linear_head(nn.Conv1d(2, 4, 3, dilation=2, padding=1, groups=2), 16), (2, 6)),
    "depthwise": Case(lambda: linear_head(nn.Conv1d(2, 4, 2, padding="same", groups=2), 24), (2, 6)),
    "one position": Case(lambda: linear_head(nn.Conv1d(2, 3, 6), 3), (2, 6)),
    "same": Case(lambda: linear_head(nn.Conv1d(2, 3, 4, padding="same", dilation=2), 18), (2, 6)),
    "valid": Case(lambda: linear_head(nn.Conv1d(2, 3, 4, padding="valid"), 9), (2, 6)),
    "circular": Case(lambda: linear_head(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), 18), (2, 6)),
    "two axes": Case(
        lambda: linear_head(nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2), 48),
        (2, 4, 5)),
    "convolutions": Case(
        lambda: sequence(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), linear_head(nn.Conv2d(3, 3, 1), 3)),
        (2, 4, 5)),
    "three axes": Case(lambda: linear_head(nn.Conv3d(2, 2, (1, 2, 2), padding=(0, 1, 0)), 18), (2, 1, 2, 4)),
    "convolution of steps": Case(
        lambda: Own(lambda self, x: self.a(x.flatten(0, 1)).unflatten(0, (len(x), -1)).sum(-1), a=nn.Conv1d(2, 3, 2)),
        (3, 2, 4)),
    "no batch axis": Case(
        lambda: Own(lambda self, x: torch.stack([self.a(one) for one in x]).sum(-1), a=nn.Conv1d(2, 3, 2)), (2, 4)),
    "one weight as two kernels": Case(
        lambda: Own(two_kernels, w=weight(3, 2, 2)), (2, 4), ("w",)),
    "one weight in two groupings": Case(
        lambda: Own(two_groupings, w=weight(4, 1, 2)), (2, 4), ("w",)),
    "transposed convolution": Case(lambda: linear_head(nn.ConvTranspose1d(2, 3, 3), 24), (2, 6)),
    "transposed, stride and groups": Case(
        lambda: linear_head(nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2), 72), (4, 5)),
    "transposed, two axes": Case(
        lambda: linear_head(nn.ConvTranspose2d(2, 3, (2, 3), (2, 1), (2, 1), bias=False), 24), (2, 3, 4)),
    "one kernel both ways": Case(
        lambda: Own(lambda self, x: F.conv_transpose1d(F.conv1d(x, self.w), self.w).sum(-1), w=weight(3, 2, 2)),
        (2, 4), ("w",)),
    "own recurrence": Case(lambda: Own(rnn, w=weight(5, 5), input=nn.Linear(3, 5), readout=nn.Linear(5, 2)), (4, 3)),
    "own gates": Case(lambda: Own(gated, x=nn.Linear(2, 9), h=nn.Linear(3, 9)), (3, 2)),
    "GRU cell": Case(
        lambda: Own(gru_cell, cell=nn.GRUCell(3, 4), readout=nn.Linear(4, 2)), (3, 3)),
    "layer norm": Case(
        lambda: sequence(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)), (4,)),
    "batch norm": Case(
        lambda: sequence(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).eval(), (4,)),
    "positional table": Case(
        lambda: Own(positional, inner=nn.Linear(3, 4), table=weight(2, 4), head=nn.Linear(8, 2)), (2, 3), ("table",)),
    "attention": Case(lambda: Own(attention, attention=nn.MultiheadAttention(4, 2, batch_first=True)), (3, 4)),
    "encoder": Case(lambda: encoder().eval(), (2, 4)),
    "encoder, norm first": Case(lambda: encoder(norm_first=True, activation="gelu").eval(), (2, 4)),
    "embedding": Case(
        lambda: sequence(nn.Embedding(7, 3, padding_idx=-2), nn.Linear(3, 2), nn.Tanh(), nn.Flatten()), (3,), tokens=7),
    "one embedding, tied": Case(
        lambda: Own(pairs, e=nn.Embedding(7, 3), a=nn.Linear(3, 2)),
        (3,), tokens=7),
    "embedding and decoder": Case(
        lambda: Own(lambda self, x: F.linear(self.e(x).tanh(), self.e.weight)[:, 0], e=nn.Embedding(7, 3)), (3,),
        ("e.weight",), tokens=7),
    "embedding bag": Case(lambda: nn.EmbeddingBag(7, 3, mode="sum"), (3,), ("weight",), tokens=7),
    **LAYERS,
}  # fmt: skip


def made(name: str, dtype: torch.dtype = F64) -> tuple[nn.Module, Tensor, Tensor]:
    """The module, and inputs of 4 and of 3 examples."""
    case = ZOO[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = case.make().to(F64)
        for parameter in module.parameters():
            # Those that torch starts at zero or one would hide errors.
            nn.init.normal_(parameter, 0.2, 0.6)
        if case.tokens:
            x = torch.randint(case.tokens, (7, *case.shape))
        else:
            x = torch.randn(7, *case.shape, dtype=F64).to(dtype)
    return module.to(dtype), x[:4], x[4:]
