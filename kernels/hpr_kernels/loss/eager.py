"""The cross-entropy by torch, in few passes."""

from __future__ import annotations

import torch
from torch import Tensor


def readout_cross_entropy(
    rates: Tensor, readout: Tensor, targets: Tensor, gradient: Tensor, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [R], accuracy [R] and K ∂L/∂y [R, K, N_out]; K ∂L/∂a is written into `gradient`."""
    rows = rates[:, first:].flatten(1, 2)  # [R, K, N]
    labels = targets[:, None, first:].flatten(2)  # [R, 1, K]
    # Classes before trials: what is summed or compared over the few classes then runs along the many trials.
    log_p = torch.bmm(readout, rows.mT).log_softmax(1)  # [R, N_out, K]
    picked = log_p.gather(1, labels)
    K = labels.shape[2]
    loss = -picked.sum((1, 2)) / K
    accuracy = ((log_p >= picked).sum(1) == 1).sum(1).to(loss.dtype) / K
    dy = log_p.exp_()
    dy.scatter_add_(1, labels, dy.new_full((), -1.0).expand(labels.shape))
    dy = dy.mT  # [R, K, N_out]
    if first:
        gradient[:, :first] = 0
    torch.bmm(dy, readout, out=gradient[:, first:].flatten(1, 2))
    return loss, accuracy, dy
