"""The readout's cross-entropy on checked buffers, by the backend that serves them: Triton, or torch on any device.

The caller allocates with `buffers`, runs `readout_cross_entropy` as often as it likes, and reads loss and accuracy with
`mean`. On a GPU neither of the first two waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.loss import eager

__all__ = ["buffers", "mean", "readout_cross_entropy"]


def buffers(R: int, T: int, B: int, N_out: int, first: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for `sums` [R, 2, tiles] and `dy` [R, K, N_out], K = (T - first) B, in the layout of `like`'s backend."""
    if uses_triton(like):
        from hpr_kernels.loss import triton

        return triton.buffers(R, T, B, N_out, first, like)
    return eager.buffers(R, T, B, N_out, first, like)


def readout_cross_entropy(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    sums: Tensor,
    dy: Tensor,
    first: int,
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Overwrite `sums` with partial sums of loss and hits, `dy` with K ∂L/∂y and `gradient` with K ∂L/∂a.

    `rates` and `gradient` are [R, T, B, N], `readout` [R, N_out, N], `targets` [R, T, B]. The loss counts the steps
    from `first` on; `gradient` is zero before it.
    """
    if uses_triton(rates):
        from hpr_kernels.loss import triton

        with torch.cuda.device_of(rates):
            triton.readout_cross_entropy(
                rates, readout, targets, gradient, sums, dy, first, precision
            )
    else:
        eager.readout_cross_entropy(rates, readout, targets, gradient, sums, dy, first, precision)


def mean(sums: Tensor, K: int) -> Tensor:
    """Loss and accuracy [..., 2] of K rows from partial sums [..., 2, tiles]."""
    if uses_triton(sums):
        from hpr_kernels.loss import triton

        return triton.mean(sums, K)
    return eager.mean(sums, K)
