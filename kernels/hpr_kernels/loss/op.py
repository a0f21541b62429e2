"""Public functions of the losses of a linear readout."""

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
    R, T, B, N_out = _sizes(rates, readout, gradient)
    checks.integers("targets", targets, torch.int64, like=rates)
    checks.shape("targets", targets, (R, T, B), "[R, T, B]")
    first = _first_step(first, T, precision)
    sums, dy = dispatch.buffers(R, T, B, N_out, first, like=rates)
    dispatch.readout_cross_entropy(rates, readout, targets, gradient, sums, dy, first, precision)
    loss, accuracy = dispatch.mean(sums, dy.shape[1]).unbind(1)
    return loss, accuracy, dy


@outside_autocast
def readout_squared_error(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    *,
    first: int = 0,
    precision: checks.Precision = DEFAULT_PRECISION,
) -> tuple[Tensor, Tensor]:
    """Mean squared error L of y_t = w a_{t+1} (Eq. 2) over the K = (T - first) B rows from step `first` on.

    L is the mean of (y - target)² over rows and outputs. The two gradients serve as those of `readout_cross_entropy`.

    Args:
        rates: a_1 … a_T [R, T, B, N], with units side by side in memory.
        readout: w [R, N_out, N].
        targets: the desired outputs [R, T, B, N_out].
        gradient: [R, T, B, N], contiguous except for padding behind its rows; overwritten with K ∂L/∂a, which is zero
            before step `first`.
        first: the first step that the loss counts, 0 … T-1.
        precision: how products round in the Triton kernel: "ieee", "tf32x3" or "tf32". Torch follows its own settings.

    Returns:
        loss L [R] and K ∂L/∂y [R, K, N_out].

    Raises:
        ValueError, TypeError: the message names the argument that does not fit.
    """
    R, T, B, N_out = _sizes(rates, readout, gradient)
    checks.tensor("targets", targets, (4,), like=rates)
    checks.shape("targets", targets, (R, T, B, N_out), "[R, T, B, N_out]")
    first = _first_step(first, T, precision)
    sums, dy = dispatch.buffers(R, T, B, N_out, first, like=rates, classes=False)
    dispatch.readout_squared_error(rates, readout, targets, gradient, sums, dy, first, precision)
    return dispatch.mean(sums, dy[0].numel())[:, 0], dy


def _sizes(rates: Tensor, readout: Tensor, gradient: Tensor) -> tuple[int, int, int, int]:
    """Check what both losses take, and return R, T, B and N_out."""
    checks.tensor("rates", rates, (4,))
    checks.tensor("readout", readout, (3,), like=rates)
    checks.tensor("gradient", gradient, (4,), like=rates)
    R, T, B, N = rates.shape
    checks.shape("readout", readout, (R, None, N), "[R, N_out, N]")
    checks.shape("gradient", gradient, (R, T, B, N), "[R, T, B, N]")
    if min(*rates.shape, readout.shape[1]) < 1:
        raise ValueError(
            f"rates: expected no empty axis, got {[*rates.shape]} and {[*readout.shape]}"
        )
    try:
        gradient.view(R, T * B, N)
    except RuntimeError:
        # It would be written to a copy.
        raise ValueError(
            f"gradient: expected rows (t, b) one after another, got strides {gradient.stride()}"
        ) from None
    return R, T, B, readout.shape[1]


def _first_step(first: int, T: int, precision: str) -> int:
    """Check the options of both losses, and return `first`."""
    check_precision(precision)
    return checks.count("first", first, 0, T - 1, f"a step in 0 … {T - 1}")
