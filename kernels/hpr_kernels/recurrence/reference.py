"""The leaky recurrence and its per-output adjoints as their equations read: the authority for every faster path.

Plain differentiable torch, no in-place writes, any floating dtype; tests run it in fp64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def leaky_rnn(
    x: Tensor,
    recurrent: Tensor,
    input: Tensor,
    rho: float,
    activation: str = "relu",
    bias: Tensor | None = None,
) -> Tensor:
    """Rates a_1 … a_T of h_{t+1} = rho h_t + (1 - rho) (W_h a_t + W_x x_t + b), a = f(h), h_0 = 0 (Eq. 1).

    `x` [R, T, B, N_in], `recurrent` [R, N, N], `input` [R, N, N_in], `bias` [R, N] or None for b = 0 give rates
    [R, T, B, N].
    """
    R, T, B, _ = x.shape
    h = x.new_zeros(R, B, recurrent.shape[-1])
    a = h
    rates = []
    for t in range(T):
        drive = a @ recurrent.mT + x[:, t] @ input.mT
        if bias is not None:
            drive = drive + bias[:, None]
        h = rho * h + (1 - rho) * drive
        a = h.relu() if activation == "relu" else h.tanh() if activation == "tanh" else h
        rates.append(a)
    return torch.stack(rates, dim=1)


def adjoints(
    rates: Tensor,
    recurrent: Tensor,
    readout: Tensor,
    rho: float,
    steps: Sequence[int],
    activation: str = "relu",
) -> Tensor:
    """Adjoints g_s^{b,(t,k)} = ∂y_{t,k}^b / ∂h_{s+1} of the outputs y_t = w a_{t+1}, for t in `steps`, s = 0 … T-1.

    g_t = f'(h_{t+1}) ∘ w_k, g_s = rho g_{s+1} + (1 - rho) f'(h_{s+1}) ∘ (W_hᵀ g_{s+1}), zero for s > t.
    f' follows from the rates a = f(h): [a > 0] for ReLU, 1 - a² for tanh, 1 for a linear f.

    `rates` [R, T, B, N], `recurrent` [R, N, N], `readout` [R, N_out, N] give [R, B, O, T, N] with
    O = len(steps) N_out outputs an example, ordered (t, k).
    """
    R, T, B, N = rates.shape
    slope = {
        "relu": (rates > 0).to(rates.dtype),
        "tanh": 1 - rates.square(),
        "linear": torch.ones_like(rates),
    }[activation]
    columns = []
    for t in steps:
        for w in readout.unbind(dim=1):  # [R, N]
            zero = rates.new_zeros(R, B, N)
            g = slope[:, t] * w[:, None]
            column = [zero] * (T - t - 1) + [g]
            for s in range(t - 1, -1, -1):
                g = rho * g + (1 - rho) * slope[:, s] * (g @ recurrent)
                column.append(g)
            columns.append(torch.stack(column[::-1], dim=2))  # [R, B, T, N]
    return torch.stack(columns, dim=2)
