"""The recurrence by torch operations on any device, on the joined buffers of `hpr_kernels.layout`.

Each step is one large matrix product, and all other operations work in place. Since h_0 = 0, the first step has no
recurrent product. Torch has its own setting for how products round, so no function here uses its `precision`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION


def forward(
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
    potentials: Tensor | None = None,
) -> None:
    """Fill the rates of `trace` from its inputs: h_{t+1} = rho h_t + (1 - rho) [W_h W_x] z_t (Eq. 1).

    `potentials` stays unused: torch keeps h as [R, N, B], another layout than that of the Triton kernel.
    """
    R, steps, B, _ = trace.shape
    N = weights.shape[1]
    # With units before examples the product is a quarter faster, which outweighs the transposed store.
    h = trace.new_zeros(R, N, B)
    for t in range(steps - 1):
        columns = slice(N, None) if t == 0 else slice(None)
        h.baddbmm_(weights[..., columns], trace[:, t, :, columns].mT, beta=rho, alpha=1 - rho)
        rates = trace[:, t + 1, :, :N]
        if activation == "relu":
            torch.clamp(h.mT, min=0, out=rates)
        elif activation == "tanh":
            torch.tanh(h.mT, out=rates)
        else:
            rates.copy_(h.mT)


def sweep(
    g: Tensor,
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Turn ∂L/∂a_{s+1} in `g` [R, T, B, Q] into ∂L/∂h_{s+1} in place, s = T-1 … 0, in columns 0 … N - 1.

    g_s = f'(h_{s+1}) ∘ (∂L/∂a_{s+1} + (1 - rho) W_hᵀ g_{s+1}) + rho g_{s+1}
    """
    T, N = g.shape[1], weights.shape[1]
    recurrent, g = weights[..., :N], g[..., :N]
    # torch batches a product only into contiguous memory, which one step of `g` is not.
    pulled = torch.empty_like(g[:, 0], memory_format=torch.contiguous_format)
    for s in range(T - 1, -1, -1):
        here = g[:, s]
        if s < T - 1:
            torch.bmm(g[:, s + 1], recurrent, out=pulled)
            here.add_(pulled, alpha=1 - rho)
        mask(here, trace[:, s + 1, :, :N], activation)
        if s < T - 1:
            here.add_(g[:, s + 1], alpha=rho)


def mask(g: Tensor, rates: Tensor, activation: str = "relu") -> None:
    """Multiply `g` by f'(h) in place, in one pass: zero where the rate is zero for ReLU, 1 - a² for tanh."""
    if activation == "relu":
        torch.ops.aten.threshold_backward.grad_input(g, rates, 0, grad_input=g)
    elif activation == "tanh":
        torch.ops.aten.tanh_backward.grad_input(g, rates, grad_input=g)


def adjoints(
    trace: Tensor,
    weights: Tensor,
    readout: Tensor,
    rho: float,
    steps: tuple[int, ...],
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
    scale: float = 1.0,
) -> Tensor:
    """`scale` times the adjoints [R, T, O, B, N] of all outputs (t, k), t in ascending `steps`, output-major.

    The outputs that reach back to step s are a suffix of the O axis, so each step is one product over that suffix.
    """
    R, T, B = trace.shape[0], trace.shape[1] - 1, trace.shape[2]
    N_out, N = readout.shape[1:]
    recurrent = weights[..., :N]
    g = trace.new_zeros(R, T, len(steps) * N_out, B, N)
    later = len(steps) * N_out
    for s in range(steps[-1], -1, -1):
        here = g[:, s, later:]
        if here.numel():
            pulled = g[:, s + 1, later:].flatten(1, 2)
            here.flatten(1, 2).baddbmm_(pulled, recurrent, beta=0, alpha=1 - rho)
        first = later
        if s in steps:
            first = later - N_out
            g[:, s, first:later] = readout[:, :, None]
        active = g[:, s, first:]
        mask(active, trace[:, s + 1, None, :, :N].expand_as(active), activation)
        if here.numel():
            here.add_(g[:, s + 1, later:], alpha=rho)
        later = first
    return g if scale == 1 else g.mul_(scale)
