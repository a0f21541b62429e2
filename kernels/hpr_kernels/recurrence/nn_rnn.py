"""The weights of `torch.nn.RNN` and `torch.nn.RNNCell` as arguments of `leaky_rnn` and `leaky_rnn_ntk`."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast


class RecurrentArguments(TypedDict):
    """The arguments of `leaky_rnn` and `leaky_rnn_ntk` that a module of torch determines."""

    recurrent: Tensor
    input: Tensor
    bias: Tensor | None
    rho: float
    activation: checks.Activation
    batch_first: bool


@outside_autocast
def from_rnn(module: nn.RNN | nn.RNNCell) -> RecurrentArguments:
    """The arguments that make `leaky_rnn(x, **from_rnn(module))` the hidden states `module(x)[0]` of an `nn.RNN`.

    An `nn.RNN` is the leaky network at rho = 0, since h_{t+1} = W_h f(h_t) + W_x x_t + b, where f(h) is what torch
    calls the hidden state. The initial state is zero. `leaky_rnn_ntk(x, **from_rnn(module), readout=w)` is its tangent
    kernel, or with `readout=None` that of the hidden states.

    The module has two biases, b_ih and b_hh, of which b is the sum. Their gradients are equal, so the kernel by all
    four parameters of the module counts the group "bias" twice: with `given = from_rnn(module)` it is
    `leaky_rnn_ntk(x, **given, readout=w) + leaky_rnn_ntk(x, **given, readout=w, parameters=("bias",))`.
    An alignment does not split into such a sum. For it, give b_hh as the weights of one more input that is 1 at every
    step: append a column of ones to x and the column b_hh to W_x, and give b_ih alone as the bias.

    Args:
        module: an `nn.RNN` of one layer and one direction, or an `nn.RNNCell`; nonlinearity "relu" or "tanh", with
            biases or without. Neither has a linear f; for a linear network give `activation="linear"` to `leaky_rnn`.

    Returns:
        recurrent [N, N] and input [N, N_in], the module's parameters themselves, so that gradients reach them; bias
        [N], b_ih + b_hh, or None; rho = 0.0; activation; batch_first, as the module has it, False for a cell.

    Raises:
        TypeError: `module` is neither an `nn.RNN` nor an `nn.RNNCell`.
        ValueError: the module has several layers, two directions or dropout, which torch ignores in one layer.
    """
    if not isinstance(module, nn.RNN | nn.RNNCell):
        raise TypeError(f"module: expected an nn.RNN or nn.RNNCell, got {type(module).__name__}")
    suffix = ""
    if isinstance(module, nn.RNN):
        suffix = "_l0"
        if module.num_layers != 1:
            raise ValueError(f"module: expected one layer, got {module.num_layers}")
        if module.bidirectional:
            raise ValueError("module: expected one direction, got bidirectional=True")
        if module.dropout:
            raise ValueError(f"module: expected no dropout, got dropout={module.dropout}")
    checks.choice("module.nonlinearity", module.nonlinearity, ("relu", "tanh"))
    bias = None
    if module.bias:
        bias = getattr(module, f"bias_ih{suffix}") + getattr(module, f"bias_hh{suffix}")
    return RecurrentArguments(
        recurrent=getattr(module, f"weight_hh{suffix}"),
        input=getattr(module, f"weight_ih{suffix}"),
        bias=bias,
        rho=0.0,
        activation="relu" if module.nonlinearity == "relu" else "tanh",
        batch_first=isinstance(module, nn.RNN) and module.batch_first,
    )
