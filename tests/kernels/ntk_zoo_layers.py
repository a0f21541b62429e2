"""Recurrent layers, norms and attention, for the zoo of modules in `ntk_zoo`."""

from __future__ import annotations

from typing import Any

import torch
from ntk_zoo_parts import Case, Own, sequence, weight
from torch import Tensor, nn
from torch.nn import functional as F


def outputs(layer: nn.Module, **parts: nn.Module) -> nn.Module:
    """A recurrent layer's outputs at all steps; with a readout, of the last step alone."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.layer(x)[0]
        return self.readout(y[:, -1]) if parts else y

    return Own(forward, layer=layer, **parts)


def last_state(self: Any, x: Tensor) -> Tensor:
    return self.layer(x)[1].transpose(0, 1)


def both_states(self: Any, x: Tensor) -> Tensor:
    """The last h and c of an LSTM, examples second in all of its tensors."""
    _, (h, c) = self.layer(x.transpose(0, 1))
    return torch.cat([h, c], -1).transpose(0, 1)


def given_states(self: Any, x: Tensor) -> Tensor:
    h = self.start(x[:, 0])[None]
    return self.layer(x, (h[..., :2], h.tanh()))[0]


def twice(self: Any, x: Tensor) -> Tensor:
    return self.layer(self.layer(x)[0].flip(1), x[:, :1].transpose(0, 1).contiguous())[0][:, -1]


def one_at_a_time(self: Any, x: Tensor) -> Tensor:
    """Each example without an axis of examples."""
    return torch.stack([self.layer(one)[0] for one in x])


def tied_layers() -> nn.Module:
    layer = nn.GRU(3, 3, 2, batch_first=True)
    layer.weight_hh_l1 = layer.weight_hh_l0
    return layer


def by_function(self: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(1, len(x), 2)
    params = [self.w, self.u, self.a, self.b]
    y, h = torch.gru(x, h, params, True, 1, 0.0, False, False, True)
    return torch.cat([y, torch.gru_cell(x[:, 0], h[0], self.w, self.u)[:, None]], 1)


def by_names(self: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(1, len(x), 3)
    return torch.rnn_relu(
        input=x, hx=h, params=(self.w, self.u), has_biases=False, num_layers=1, dropout=0.0,
        train=True, bidirectional=False, batch_first=True,
    )[0]  # fmt: skip


def cells(self: Any, x: Tensor) -> Tensor:
    h = c = x.new_zeros(len(x), 2)
    for step in x.unbind(1):
        h, c = self.lstm(step, (h, c))
        h = self.relu(step, self.tanh(step, h))
    return h


def padded(self: Any, x: Tensor) -> Tensor:
    """Padded where the first feature is negative, but for the first step."""
    padding = (x[..., 0] < 0) & (torch.arange(x.shape[1]) > 0)
    return self.a(x, x, x, key_padding_mask=padding, need_weights=False)[0][:, -1]


def padded_and_causal(self: Any, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    padding = (x[..., 0] < 0) & (torch.arange(x.shape[1]) > 0)
    return self.a(x, src_mask=mask, src_key_padding_mask=padding)[:, -1, :2]


def weights_too(self: Any, x: Tensor) -> Tensor:
    y, weights = self.a(x, x, x, average_attn_weights=False)
    return torch.cat([y[:, 0, :2], weights[:, 1, 0]], 1)


def crossed(self: Any, x: Tensor) -> Tensor:
    memory = self.memory(x[:, :2]).tanh()
    return self.a(x, memory, memory, need_weights=False)[0][:, -1]


def three_inputs(self: Any, x: Tensor) -> Tensor:
    return self.a(x, x.tanh(), x.sin())[0][:, -1]


def to_itself_and_another(self: Any, x: Tensor) -> Tensor:
    return self.a(self.a(x, x, x)[0], x.sin(), x.sin())[0][:, -1]


def other_sizes(self: Any, x: Tensor) -> Tensor:
    return self.a(x, x[..., :3], x[..., :2])[0][:, -1]


def decoder(self: Any, x: Tensor) -> Tensor:
    return self.decoder(x, self.memory(x.flip(1)))[:, -1, :2]


def transformer(self: Any, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1] - 1, dtype=x.dtype)
    return self.a(x, x[:, 1:].tanh(), tgt_mask=mask)[:, -1, :2]


def both_ways_and_norm(self: Any, x: Tensor) -> Tensor:
    y = F.conv1d(F.conv_transpose1d(x.mT, self.w).mT.contiguous(), self.w)
    return F.rms_norm(y, (1,), eps=0.5).flatten(1)[:, :1]


def parts_of_a_weight(self: Any, x: Tensor) -> Tensor:
    """Rows of one weight: three of them, two that overlap with those, all, and rows by another way."""
    first = F.linear(x, self.w[:3], self.b[:3])
    second = F.linear(x.sin(), self.w.narrow(0, 2, 2), self.b[1:][1:3])
    third = F.linear(x.tanh(), self.w.unflatten(0, (3, 2))[1])
    y = torch.cat([first, second, third, F.linear(x.cos(), self.w, self.b)], -1)
    return (y.tanh() * torch.arange(1, y.shape[-1] + 1)).sum(-1)


def every_second_row(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.w[::2])


def columns(self: Any, x: Tensor) -> Tensor:
    return F.linear(x[:, :2], self.w[:, 1:3])


def channels_in_groups(self: Any, x: Tensor) -> Tensor:
    return F.conv1d(x, self.w[1:], groups=2).sum(-1)


def part_without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        fixed = self.w[:2]
    return F.linear(x, fixed) * F.linear(x, self.w[2:])


def channels_of_a_kernel(self: Any, x: Tensor) -> Tensor:
    first, second = self.w.split([1, 2])
    return torch.cat([F.conv1d(x, first).sum(-1), F.conv1d(x, second, self.b[1:3]).sum(-1)], 1)


def normed(norm: nn.Module, **options: bool) -> nn.Module:
    return sequence(nn.Conv1d(2, 4, 2, **options), norm, nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))


def norm_by_function(self: Any, x: Tensor) -> Tensor:
    y = F.group_norm(self.a(x), 2, self.g, self.b) + F.layer_norm(x, (2, 4), self.w)
    return F.instance_norm(y.sin(), weight=self.g, bias=self.b).flatten(1)


def gain_and_norm(self: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, (4,), self.w, self.b) + self.w * x + F.linear(x, self.v, self.b)


def statistics(norm: nn.Module) -> nn.Module:
    """The norm in evaluation mode with running statistics of its own."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm.eval()


LAYERS: dict[str, Case] = {
    "nn.RNN": Case(lambda: outputs(nn.RNN(3, 2, batch_first=True)), (3, 3), fused=True),
    "nn.RNN, relu": Case(
        lambda: outputs(nn.RNN(3, 4, 2, "relu", batch_first=True, bias=False), readout=nn.Linear(4, 2)), (3, 3),
        fused=True),
    "nn.GRU": Case(
        lambda: outputs(nn.GRU(3, 3, batch_first=True), readout=nn.Linear(3, 2)), (4, 3), fused=True),
    "nn.GRU, two layers": Case(
        lambda: outputs(nn.GRU(2, 2, 2, batch_first=True, bias=False, dropout=0.5)).eval(), (2, 2), fused=True),
    "nn.GRU, last state": Case(
        lambda: Own(last_state, layer=nn.GRU(2, 2, batch_first=True, bidirectional=True)), (2, 2), fused=True),
    "nn.GRU, called again": Case(
        lambda: Own(twice, layer=nn.GRU(3, 3, batch_first=True)), (2, 3), fused=True),
    "nn.GRU, no axis of examples": Case(lambda: Own(one_at_a_time, layer=nn.GRU(2, 2)), (3, 2), fused=True),
    "nn.GRU, one weight twice": Case(lambda: outputs(tied_layers()), (2, 3), fused=True),
    "nn.LSTM": Case(lambda: outputs(nn.LSTM(3, 2, batch_first=True)), (3, 3), fused=True),
    "nn.LSTM, both directions, two layers": Case(
        lambda: outputs(nn.LSTM(2, 3, 2, batch_first=True, bidirectional=True), readout=nn.Linear(6, 3)), (3, 2),
        fused=True),
    "nn.LSTM, projection": Case(
        lambda: outputs(nn.LSTM(2, 3, 2, batch_first=True, bidirectional=True, proj_size=2), readout=nn.Linear(4, 1)),
        (3, 2), fused=True),
    "nn.LSTM, last states": Case(lambda: Own(both_states, layer=nn.LSTM(2, 2)), (2, 2), fused=True),
    "nn.LSTM, given states": Case(
        lambda: Own(given_states, start=nn.Linear(2, 3), layer=nn.LSTM(2, 3, batch_first=True, proj_size=2)), (2, 2),
        fused=True),
    "torch.gru": Case(
        lambda: Own(by_function, w=weight(6, 3), u=weight(6, 2), a=weight(6), b=weight(6)), (2, 3), fused=True),
    "torch.rnn_relu": Case(lambda: Own(by_names, w=weight(3, 2), u=weight(3, 3)), (3, 2), fused=True),
    "other cells": Case(
        lambda: Own(cells, lstm=nn.LSTMCell(3, 2), tanh=nn.RNNCell(3, 2), relu=nn.RNNCell(3, 2, False, "relu")),
        (2, 3)),
    "layer norm, two axes": Case(lambda: sequence(nn.Linear(4, 3), nn.LayerNorm((2, 3)), nn.Tanh()), (2, 4)),
    "layer norm, no bias": Case(
        lambda: sequence(nn.LayerNorm(4, bias=False), nn.Linear(4, 2), nn.LayerNorm(2, elementwise_affine=False)),
        (2, 4)),
    "RMS norm": Case(lambda: sequence(nn.Linear(4, 3), nn.RMSNorm(3), nn.Tanh(), nn.Linear(3, 2)), (2, 4)),
    "group norm": Case(lambda: normed(nn.GroupNorm(2, 4)), (2, 4)),
    "instance norm": Case(lambda: normed(nn.InstanceNorm1d(4, affine=True), bias=False), (2, 4)),
    "instance norm, statistics": Case(
        lambda: normed(statistics(nn.InstanceNorm1d(4, affine=True, track_running_stats=True))), (2, 4)),
    "batch norm, one axis": Case(lambda: normed(statistics(nn.BatchNorm1d(4))), (2, 4)),
    "norm called again": Case(
        lambda: Own(lambda self, x: self.n(self.n(x).tanh() * x), n=nn.LayerNorm(4)), (2, 4)),
    "norms by functions": Case(
        lambda: Own(norm_by_function, a=nn.Conv1d(2, 2, 1, bias=False), b=weight(2), w=weight(2, 4), g=weight(2)),
        (2, 4)),
    "a gain of a norm and of its own": Case(
        lambda: Own(gain_and_norm, w=weight(4), b=weight(4), v=weight(4, 4)), (2, 4), ("w",)),
    "attention, padding": Case(
        lambda: Own(padded, a=nn.MultiheadAttention(4, 2, batch_first=True)), (3, 4)),
    "attention, its weights": Case(
        lambda: Own(weights_too, a=nn.MultiheadAttention(4, 2, batch_first=True, bias=False)), (2, 4)),
    "attention, more keys": Case(
        lambda: Own(three_inputs, a=nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)), (2, 4),
        ("a.bias_k", "a.bias_v")),
    "cross-attention": Case(
        lambda: Own(crossed, a=nn.MultiheadAttention(4, 2, batch_first=True), memory=nn.Linear(4, 4)), (3, 4)),
    "attention to itself and another": Case(
        lambda: Own(to_itself_and_another, a=nn.MultiheadAttention(4, 1, batch_first=True)), (2, 4)),
    "attention, other sizes": Case(
        lambda: Own(other_sizes, a=nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True)), (2, 4)),
    "encoder, padding": Case(
        lambda: Own(padded_and_causal, a=nn.TransformerEncoderLayer(4, 2, 3, 0.0, batch_first=True)).eval(), (3, 4)),
    "encoder of two layers": Case(
        lambda: Own(
            lambda self, x: self.a(x)[:, -1, :2],
            a=nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), 2)).eval(), (2, 4)),
    "decoder": Case(
        lambda: Own(decoder, decoder=nn.TransformerDecoderLayer(4, 2, 3, batch_first=True), memory=nn.Linear(4, 4))
        .eval(), (2, 4)),
    "transformer": Case(
        lambda: Own(transformer, a=nn.Transformer(4, 2, 1, 1, 3, batch_first=True)).eval(), (3, 4)),
    # The gradient by the kernel fails under vmap at several examples, and not at one.
    "one kernel both ways, then a norm": Case(
        lambda: Own(both_ways_and_norm, w=weight(2, 2, 2)), (1, 2), ("w",)),
    "parts of a weight": Case(lambda: Own(parts_of_a_weight, w=weight(6, 4), b=weight(6)), (2, 4)),
    "every second row": Case(lambda: Own(every_second_row, w=weight(4, 4)), (4,), ("w",)),
    "columns of a weight": Case(lambda: Own(columns, w=weight(2, 4)), (4,), ("w",)),
    "parts of a kernel in groups": Case(lambda: Own(channels_in_groups, w=weight(3, 1, 2)), (2, 4), ("w",)),
    "a part without gradient": Case(lambda: Own(part_without_gradient, w=weight(4, 4)), (4,)),
    "parts of a kernel": Case(lambda: Own(channels_of_a_kernel, w=weight(3, 2, 2), b=weight(3)), (2, 4)),
}  # fmt: skip
