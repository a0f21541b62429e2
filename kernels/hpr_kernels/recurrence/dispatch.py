"""The recurrence on checked buffers, by the backend that serves them: Triton, C, or torch on any device.

`op.py` checks arguments and calls these functions, and `hpr` calls them on buffers that it allocates once. Each has one
signature for every backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels import layout
from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.recurrence import eager, native
from hpr_kernels.recurrence.eager import mask

__all__ = ["adjoints", "forward", "mask", "sweep", "sweep_buffer"]


def forward(
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
    potentials: Tensor | None = None,
) -> None:
    """Fill the rates of `trace` [R, T + 1, B, P] from its inputs, with the joined `weights` [R, N, P].

    The Triton kernel keeps h in `potentials` [R, B, N padded], which it allocates where none is given. Torch uses
    neither `potentials` nor `precision`.
    """
    if uses_triton(trace):
        from hpr_kernels.recurrence import triton

        with torch.cuda.device_of(trace):
            triton.forward(trace, weights, rho, activation, precision, potentials)
    elif native.serves(trace, weights):
        native.forward(trace, weights, rho, activation)
    else:
        eager.forward(trace, weights, rho, activation, precision, potentials)


def sweep_buffer(R: int, T: int, B: int, N: int, like: Tensor) -> Tensor:
    """Zeros [R, T, B, Q] for the `g` of `sweep`: Q is N padded where Triton serves `like`, and N elsewhere."""
    return like.new_zeros(R, T, B, layout.padded(N) if uses_triton(like) else N)


def sweep(
    g: Tensor,
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Turn ∂L/∂a_{s+1} in `g` [R, T, B, Q] into ∂L/∂h_{s+1} in place; `sweep_buffer` allocates such a `g`.

    The numbers stand in columns 0 … N - 1. The Triton kernel sets the columns from N on to zero, the others leave them.
    """
    if uses_triton(trace):
        from hpr_kernels.recurrence import triton

        with torch.cuda.device_of(trace):
            triton.sweep(g, trace, weights, rho, activation, precision)
    elif native.serves(trace, weights, g):
        native.sweep(g, trace, weights, rho, activation)
    else:
        eager.sweep(g, trace, weights, rho, activation, precision)


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
    """`scale` times the adjoints [R, T, O, B, N] of the outputs (t, k) = w_k a_{t+1}.

    t is in ascending `steps`, and O = len(steps) N_out.
    """
    if uses_triton(trace):
        from hpr_kernels.recurrence import triton

        with torch.cuda.device_of(trace):
            return triton.adjoints(
                trace, weights, readout, rho, steps, activation, precision, scale
            )
    if native.serves(trace, weights):
        return native.adjoints(trace, weights, readout, rho, steps, activation, scale)
    return eager.adjoints(trace, weights, readout, rho, steps, activation, precision, scale)
