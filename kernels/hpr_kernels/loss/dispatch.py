"""The losses of a readout on checked buffers, by the backend that serves them: Triton, or torch on any device.

The caller allocates with `buffers`, runs a loss as often as it likes, and reads its means with `mean`. On a GPU none of
them waits for the device. A Triton program keeps all outputs of a row in registers, so torch serves wider readouts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.loss import eager

__all__ = ["buffers", "mean", "readout_cross_entropy", "readout_squared_error"]

MOST_OUTPUTS = 128


def buffers(
    R: int, T: int, B: int, N_out: int, first: int, like: Tensor, classes: bool = True
) -> tuple[Tensor, Tensor]:
    """Memory for `sums` and for `dy` [R, K, N_out], K = (T - first) B, in the layout of `like`'s backend.

    `sums` is [R, 2, tiles] for the cross-entropy of classes, and [R, 1, tiles] for the squared error.
    """
    if _triton_serves(like, N_out):
        from hpr_kernels.loss import triton

        return triton.buffers(R, T, B, N_out, first, like, classes)
    return eager.buffers(R, T, B, N_out, first, like, classes)


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
    if _triton_serves(rates, readout.shape[1]):
        from hpr_kernels.loss import triton

        with torch.cuda.device_of(rates):
            triton.readout_cross_entropy(
                rates, readout, targets, gradient, sums, dy, first, precision
            )
    else:
        eager.readout_cross_entropy(rates, readout, targets, gradient, sums, dy, first, precision)


def readout_squared_error(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    sums: Tensor,
    dy: Tensor,
    first: int,
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Overwrite `sums` with partial sums of (y - target)², `dy` with K ∂L/∂y and `gradient` with K ∂L/∂a.

    `targets` is [R, T, B, N_out]; the rest is as in `readout_cross_entropy`.
    """
    if _triton_serves(rates, readout.shape[1]):
        from hpr_kernels.loss import triton

        with torch.cuda.device_of(rates):
            triton.readout_squared_error(
                rates, readout, targets, gradient, sums, dy, first, precision
            )
    else:
        eager.readout_squared_error(rates, readout, targets, gradient, sums, dy, first, precision)


def mean(sums: Tensor, count: int) -> Tensor:
    """Means [...] of `count` terms from partial sums [..., tiles].

    Loss and accuracy of classes are means over K rows, the squared error is a mean over K N_out numbers.
    """
    if uses_triton(sums):
        from hpr_kernels.loss import triton

        return triton.mean(sums, count)
    return eager.mean(sums, count)


def _triton_serves(like: Tensor, N_out: int) -> bool:
    return uses_triton(like) and N_out <= MOST_OUTPUTS
