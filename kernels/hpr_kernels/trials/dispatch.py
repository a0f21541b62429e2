"""The placing of trials on checked buffers, by the backend that serves them: Triton, or torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import uses_triton
from hpr_kernels.trials import reference

__all__ = ["place_trials"]


def place_trials(
    x: Tensor, targets: Tensor, seed: Tensor, trace: Tensor, placed: Tensor, N: int
) -> None:
    """Write x[seed] into columns N … N + N_in of z_0 … z_{T-1} in `trace`, and targets[seed] into `placed`.

    `x` [S, T, B, N_in] and `targets`, [S, T, B] or [S, T, B, N_out], belong to S seeds; `seed` [R] says which of them
    each network takes.
    """
    if uses_triton(x):
        from hpr_kernels.trials import triton

        with torch.cuda.device_of(x):
            triton.place_trials(x, targets, seed, trace, placed, N)
    else:
        # By torch the placing is two indexed copies, which are those of the reference.
        reference.place_trials(x, targets, seed, trace, placed, N)
