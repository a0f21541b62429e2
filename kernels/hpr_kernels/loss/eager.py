"""The two losses by torch, in few passes over memory, and the partial sums that the Triton launch leaves too."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION


def buffers(
    R: int, T: int, B: int, N_out: int, first: int, like: Tensor, classes: bool = True
) -> tuple[Tensor, Tensor]:
    """Sums [R, 2, 1] of loss and hits, or without `classes` [R, 1, 1] of the loss alone, and K ∂L/∂y [R, K, N_out].

    For classes, rows lie side by side in memory, and otherwise outputs do.
    """
    K = (T - first) * B
    if classes:
        return like.new_empty(R, 2, 1), like.new_empty(R, N_out, K).mT
    return like.new_empty(R, 1, 1), like.new_empty(R, K, N_out)


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
    """Write loss and hits into the first tile of `sums`, zero into the others, and fill `dy` and `gradient`.

    Torch has its own setting for how products round, so `precision` stays unused.
    """
    rows = rates[:, first:].flatten(1, 2)  # [R, K, N]
    labels = targets[:, None, first:].flatten(2)  # [R, 1, K]
    # Classes stand before trials, so that sums and comparisons over the few classes run along the many trials.
    log_p = torch.log_softmax(torch.bmm(readout, rows.mT), 1, out=dy.mT)  # [R, N_out, K]
    picked = log_p.gather(1, labels)
    sums[..., 1:] = 0
    sums[:, 0, 0] = -picked.sum((1, 2))
    sums[:, 1, 0] = ((log_p >= picked).sum(1) == 1).sum(1)
    log_p.exp_()
    log_p.scatter_add_(1, labels, log_p.new_full((), -1.0).expand(labels.shape))
    _pull_back(readout, gradient, dy, first)


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
    """Write the sum of squares into the first tile of `sums`, zero into the others, and fill `dy` and `gradient`.

    Torch has its own setting for how products round, so `precision` stays unused.
    """
    rows = rates[:, first:].flatten(1, 2)  # [R, K, N]
    torch.bmm(rows, readout.mT, out=dy).sub_(targets[:, first:].flatten(1, 2))
    sums[..., 1:] = 0
    sums[:, 0, 0] = dy.square().sum((1, 2))
    dy.mul_(2 / readout.shape[1])
    _pull_back(readout, gradient, dy, first)


def _pull_back(readout: Tensor, gradient: Tensor, dy: Tensor, first: int) -> None:
    """Fill `gradient` with K ∂L/∂a = wᵀ K ∂L/∂y, which is zero before step `first`."""
    if first:
        gradient[:, :first] = 0
    torch.bmm(dy, readout, out=gradient[:, first:].flatten(1, 2))


def mean(sums: Tensor, count: int) -> Tensor:
    """Means [...] of `count` terms from sums [..., tiles], all of which stand in the first tile."""
    return sums[..., 0] / count
