"""SGD iterations of a pack of networks by the C kernels on the CPU; see `native/train.h`.

Each thread trains a whole network, so a network's numbers are the same alone, in any pack, on any number of threads and
on any CPU.
"""

from __future__ import annotations

from ctypes import Structure, addressof, byref, c_double, c_int64, c_void_p

import torch
from torch import Tensor

from hpr_kernels.gram.workers import each, threads
from hpr_kernels.native.library import function

__all__ = ["ACTIVATIONS", "train_networks"]

ACTIVATIONS = ("linear", "relu")  # by their numbers in native/recurrence.h


class TrainingArguments(Structure):
    """`Training` of native/train.h."""

    _fields_ = (
        [(name, c_int64) for name in ("R", "T", "B", "N", "N_in", "N_out", "count")]
        + [(name, c_int64) for name in ("recurrent", "first", "squared", "activation")]
        + [(name, c_double) for name in ("rho", "rest", "scale", "readout_scale")]
        + [(name, c_double) for name in ("learning_rate", "momentum")]
        + [(name, c_void_p) for name in ("weights", "velocity")]
        + [(name, c_int64) for name in ("run", "row")]
        + [(name, c_void_p) for name in ("readout", "readout_velocity")]
        + [(name, c_int64) for name in ("readout_run", "readout_row")]
        + [("constraint", c_void_p)]
        + [(name, c_int64) for name in ("constraint_run", "constraint_row")]
        + [(name, c_void_p) for name in ("trials", "x", "targets", "losses", "accuracies")]
        + [("losses_run", c_int64), ("counter", c_void_p)]
    )


# Longer than 60 lines: the docstring names the shapes of all arguments.
def train_networks(
    x: Tensor,
    targets: Tensor,
    *,
    weights: Tensor,
    velocity: Tensor,
    readout: Tensor,
    readout_velocity: Tensor,
    trials: Tensor,
    constraint: Tensor | None,
    rho: float | None,
    activation: str,
    first: int,
    learning_rate: float,
    momentum: float,
) -> tuple[Tensor, Tensor | None]:
    """Take one SGD iteration with momentum per batch of `x`, in place; the equations are those of `hpr.training.step`.

    Args:
        x: inputs [S, count, T, B, N_in] of S streams of trials.
        targets: classes [S, count, T, B], int64; or outputs [S, count, T, B, N_out], for the mean squared error.
        weights: [W_h W_x 0], [R, N, P]; without `rho`, W_1 of two layers, [R, N, N_in].
        velocity: [R, N, P].
        readout: [R, N_out, N].
        readout_velocity: [R, N_out, N].
        trials: the stream that each network takes, [R], int64.
        constraint: of each of `weights` (`hpr_kernels.update.Constraint`), [R, N, P], int8; None for free weights.
        rho: the leak factor; None for two layers.
        activation: "relu" or "linear".
        first: the loss counts the steps from this one on.
        learning_rate: as in `momentum_step`.
        momentum: as in `momentum_step`.

    Returns:
        the loss and, for classes, the accuracy of each iteration before its step, [R, count].

    Raises:
        ValueError: a target is no class.
        MemoryError: a thread found no memory.
    """
    (_, count, T, B, N_in), (R, N_out, N) = x.shape, readout.shape
    squared = targets.is_floating_point()
    if not squared and not 0 <= int(targets.min()) <= int(targets.max()) < N_out:
        raise ValueError(f"targets: expected classes below {N_out}, got others")
    dtype, K = weights.dtype, (T - first) * B
    x, targets = (
        x.to(dtype).contiguous(),
        targets.to(dtype if squared else torch.int64).contiguous(),
    )
    losses = weights.new_empty(R, count)
    accuracies = None if squared else torch.empty_like(losses)
    trials = trials.contiguous()
    counter = c_int64(0)
    rest = 1.0 if rho is None else 1 - rho
    arguments = TrainingArguments(
        R, T, B, N, N_in, N_out, count,
        0 if rho is None else N, first, squared, ACTIVATIONS.index(activation),
        rho or 0.0, rest, rest / K, 1 / K, learning_rate, momentum,
        weights.data_ptr(), velocity.data_ptr(), *_strides(weights, velocity),
        readout.data_ptr(), readout_velocity.data_ptr(), *_strides(readout, readout_velocity),
        *((None, 0, 0) if constraint is None else (constraint.data_ptr(), *_strides(constraint))),
        trials.data_ptr(), x.data_ptr(), targets.data_ptr(), losses.data_ptr(),
        None if accuracies is None else accuracies.data_ptr(), count, addressof(counter),
    )  # fmt: skip
    call = function("train", dtype)
    done: list[int] = []
    workers = min(R, threads(x.device))
    each(lambda _: done.append(call(byref(arguments))), range(workers))
    if not all(done):
        raise MemoryError(
            "train_networks: expected memory for the training of one network, got none"
        )
    return losses, accuracies


def _strides(*matrices: Tensor) -> tuple[int, int]:
    """The strides between networks and rows that all the matrices share."""
    run, row, column = matrices[0].stride()
    if column != 1 or any(other.stride() != matrices[0].stride() for other in matrices):
        raise ValueError(
            f"weights: expected rows without gaps and one layout, got {[m.stride() for m in matrices]}"
        )
    return run, row
