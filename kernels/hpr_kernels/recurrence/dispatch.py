"""The recurrence on joined buffers, by the backend that serves them: `triton`, or `eager` (torch on any device)."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.recurrence import eager
from hpr_kernels.recurrence.eager import mask

__all__ = ["adjoints", "forward", "mask", "sweep"]


def forward(
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Fill the rates of `trace` from its inputs; see `eager.forward`."""
    if uses_triton(trace):
        from hpr_kernels.recurrence import triton

        with torch.cuda.device_of(trace):
            triton.forward(trace, weights, rho, activation, precision)
    else:
        eager.forward(trace, weights, rho, activation)


def sweep(
    g: Tensor,
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Turn ∂L/∂a_{s+1} in `g` [R, T, B, Q] into ∂L/∂h_{s+1}; Q is N padded, columns N … Q are not yours to use."""
    if uses_triton(trace):
        from hpr_kernels.recurrence import triton

        with torch.cuda.device_of(trace):
            triton.sweep(g, trace, weights, rho, activation, precision)
    else:
        eager.sweep(g[..., : weights.shape[1]], trace, weights, rho, activation)


def adjoints(
    trace: Tensor,
    weights: Tensor,
    readout: Tensor,
    rho: float,
    steps: tuple[int, ...],
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> Tensor:
    """Adjoints of all outputs, [R, T, O, B, N]; see `eager.adjoints`."""
    if uses_triton(trace):
        from hpr_kernels.recurrence import triton

        with torch.cuda.device_of(trace):
            return triton.adjoints(trace, weights, readout, rho, steps, activation, precision)
    return eager.adjoints(trace, weights, readout, rho, steps, activation)
