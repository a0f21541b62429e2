"""Gated recurrent units (GRUs) with the equations of `torch.nn.GRU`: their states and their tangent kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hpr_kernels import ntk


def gru_states(
    x: Tensor,
    *,
    recurrent: Tensor,
    input: Tensor,
    bias: Tensor | None,
    noise: Tensor | None = None,
) -> Tensor:
    """States h_1 … h_T of a pack of GRUs, [R, T, B, N], with the equations of `torch.nn.GRU` and h_0 = 0.

    r, z = σ(W_i x + b_i + W_h h + b_h), n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)),
    h' = (1 - z) ∘ n + z ∘ h, plus the noise of the step.

    Args:
        x: inputs [R or 1, T, B, N_in].
        recurrent: the rows of r, z and n, [R, 3N, N].
        input: likewise, [R, 3N, N_in].
        bias: those of input and state, [R, 2, 3N]; None for none.
        noise: added to the state at each step, [R, T, B, N]; None for nothing.
    """
    R, N = len(recurrent), recurrent.shape[2]
    _, T, B, N_in = x.shape
    by_input = torch.bmm(x.expand(R, -1, -1, -1).reshape(R, T * B, N_in), input.mT)
    if bias is not None:
        by_input = by_input + bias[:, :1]
    h = x.new_zeros(R, B, N)
    states = []
    for t, of_step in enumerate(by_input.unflatten(1, (T, B)).unbind(1)):
        by_state = torch.bmm(h, recurrent.mT)
        if bias is not None:
            by_state = by_state + bias[:, 1:]
        (i_r, i_z, i_n), (h_r, h_z, h_n) = of_step.chunk(3, -1), by_state.chunk(3, -1)
        new = (i_n + (i_r + h_r).sigmoid() * h_n).tanh()
        h = new + (i_z + h_z).sigmoid() * (h - new)
        if noise is not None:
            h = h + noise[:, t]
        states.append(h)
    return torch.stack(states, 1)


class GRUNetwork(nn.Module):
    """One GRU with a linear readout of its states, from inputs [B, T, N_in] to outputs [B, T or 1, N_out].

    Args:
        weights: "recurrent", "input", "readout" and perhaps "bias", as in `Pack.named`, of this one network.
        outputs: of all steps or the last.
    """

    def __init__(self, weights: Mapping[str, Tensor], outputs: Literal["all", "last"]) -> None:
        super().__init__()
        recurrent, input, readout = (weights[name] for name in ("recurrent", "input", "readout"))
        bias = weights.get("bias")
        self.outputs = outputs
        # Drawing initial weights on this device, which has no memory, leaves torch's generators as they are.
        gru = nn.GRU(
            input.shape[1], recurrent.shape[1], bias=bias is not None, batch_first=True,
            device="meta", dtype=input.dtype,
        )  # fmt: skip
        linear = nn.Linear(
            readout.shape[1], len(readout), bias=False, device="meta", dtype=input.dtype
        )
        self.gru, self.readout = (part.to_empty(device=input.device) for part in (gru, linear))
        given = {
            "gru.weight_hh_l0": recurrent,
            "gru.weight_ih_l0": input,
            "readout.weight": readout,
        }
        if bias is not None:
            given |= {"gru.bias_ih_l0": bias[0], "gru.bias_hh_l0": bias[1]}
        self.load_state_dict(given)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps or the last."""
        states, _ = self.gru(x)
        outputs: Tensor = self.readout(states if self.outputs == "all" else states[:, -1:])
        return outputs


def gru_kernel(
    weights: Mapping[str, Tensor],
    x: Tensor,
    groups: Sequence[str],
    outputs: Literal["all", "last"],
) -> Tensor:
    """The NTK of one GRU, [M, M], on inputs x [T, B, N_in]; rows (b, t, k).

    `weights` are as in `GRUNetwork`. `groups` are those to differentiate by; "input" includes the biases.
    """
    names = {
        "recurrent": ["gru.weight_hh_l0"],
        "input": ["gru.weight_ih_l0", *(["gru.bias_*"] if "bias" in weights else [])],
        "readout": ["readout.weight"],
    }
    parameters = [name for group in groups for name in names[group]]
    return ntk(GRUNetwork(weights, outputs), x.transpose(0, 1), parameters=parameters)
