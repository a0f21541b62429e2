"""What the launch does, as indexing."""

from __future__ import annotations

from torch import Tensor


def place_trials(
    x: Tensor, targets: Tensor, seed: Tensor, trace: Tensor, placed: Tensor, N: int
) -> None:
    """Write x[seed] into columns N … N + N_in of z_0 … z_{T-1}, and targets[seed] into `placed`."""
    trace[:, :-1, :, N : N + x.shape[-1]] = x[seed]
    placed[:] = targets[seed]
