"""Public function of the readout's cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision, uses_triton
from hpr_kernels.loss import eager


@outside_autocast
def readout_cross_entropy(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    *,
    first: int = 0,
    precision: str = DEFAULT_PRECISION,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy L of y_t = w a_{t+1} (Eq. 2) over the K = (T - first) B rows from step `first` on.

    What it returns is all that training needs: K ∂L/∂y is the left factor of the readout's update, whose right factor
    are the rates (`momentum_step` sums their product), and K ∂L/∂a is what the recurrence's reverse sweep starts from.

    Args:
        rates: a_1 … a_T [R, T, B, N], the units side by side in memory.
        readout: w [R, N_out, N].
        targets: the class of every row, int64 [R, T, B]. One outside 0 … N_out - 1 raises on the CPU; where that cannot
            be seen without waiting, under Triton, its network's loss is NaN.
        gradient: [R, T, B, N], contiguous but for padding behind its rows; overwritten with K ∂L/∂a, zero before step
            `first`.
        first: the first step that the loss counts, 0 … T-1.
        precision: how Triton's products round, "ieee", "tf32x3" or "tf32"; torch's round as torch is set.

    Returns:
        loss L [R], accuracy [R] and K ∂L/∂y [R, K, N_out]. A row is right where its target's output exceeds all others:
        a tie is a miss, for a network whose units are all dead has learned nothing.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """
    checks.tensor("rates", rates, (4,))
    checks.tensor("readout", readout, (3,), like=rates)
    checks.tensor("gradient", gradient, (4,), like=rates)
    R, T, B, N = rates.shape
    checks.shape("readout", readout, (R, None, N), "[R, N_out, N]")
    checks.shape("gradient", gradient, (R, T, B, N), "[R, T, B, N]")
    checks.integers("targets", targets, torch.int64, like=rates)
    checks.shape("targets", targets, (R, T, B), "[R, T, B]")
    if min(*rates.shape, readout.shape[1]) < 1:
        raise ValueError(
            f"rates: expected no empty axis, got {[*rates.shape]} and {[*readout.shape]}"
        )
    first = checks.count("first", first, 0, T - 1, f"a step in 0 … {T - 1}")
    check_precision(precision)
    if not uses_triton(rates):
        return eager.readout_cross_entropy(rates, readout, targets, gradient, first)
    from hpr_kernels.loss import triton

    sums, dy = triton.buffers(R, T, B, readout.shape[1], first, like=rates)
    with torch.cuda.device_of(rates):
        triton.readout_cross_entropy(rates, readout, targets, gradient, sums, dy, first, precision)
    loss, accuracy = triton.mean(sums, dy.shape[1]).unbind(1)
    return loss, accuracy, dy
