"""Public function of the readout's cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision
from hpr_kernels.loss import dispatch


@outside_autocast
def readout_cross_entropy(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    *,
    first: int = 0,
    precision: checks.Precision = DEFAULT_PRECISION,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy L of y_t = w a_{t+1} (Eq. 2) over the K = (T - first) B rows from step `first` on.

    Training needs nothing else: K ∂L/∂y is the left factor of the readout's update and the rates are the right one
    (`momentum_step` sums their product), and the recurrence's reverse sweep starts from K ∂L/∂a.

    Args:
        rates: a_1 … a_T [R, T, B, N], with units side by side in memory.
        readout: w [R, N_out, N].
        targets: the class of every row, int64 [R, T, B]. A class outside 0 … N_out - 1 raises on the CPU. Under Triton
            a check would wait for the device, so the loss of its network becomes NaN instead.
        gradient: [R, T, B, N], contiguous except for padding behind its rows; overwritten with K ∂L/∂a, which is zero
            before step `first`.
        first: the first step that the loss counts, 0 … T-1.
        precision: how products round in the Triton kernel: "ieee", "tf32x3" or "tf32". Torch follows its own settings.

    Returns:
        loss L [R], accuracy [R] and K ∂L/∂y [R, K, N_out]. A row is right where its target's output exceeds all others.
        A tie is a miss, so that a network whose units are all dead scores 0.

    Raises:
        ValueError, TypeError: the message names the argument that does not fit.
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
    sums, dy = dispatch.buffers(R, T, B, readout.shape[1], first, like=rates)
    dispatch.readout_cross_entropy(rates, readout, targets, gradient, sums, dy, first, precision)
    loss, accuracy = dispatch.mean(sums, dy.shape[1]).unbind(1)
    return loss, accuracy, dy
