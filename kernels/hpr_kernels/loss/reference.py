"""The two losses and their gradients by autograd: the authority for every faster path."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def readout_cross_entropy(
    rates: Tensor, readout: Tensor, targets: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss [R], accuracy [R], K ∂L/∂y [R, K, N_out] and K ∂L/∂a [R, T, B, N], L the mean over K = (T - first) B rows.

    y_t = w a_{t+1} (Eq. 2); `rates` [R, T, B, N], `readout` [R, N_out, N], `targets` [R, T, B]. A row is right where
    its target's output exceeds all others.
    """
    _, T, B, _ = rates.shape
    K = (T - first) * B
    with torch.enable_grad():
        a = rates.detach().requires_grad_()
        y = a[:, first:].flatten(1, 2) @ readout.detach().mT  # [R, K, N_out]
        labels = targets[:, first:].flatten(1)
        rows = cross_entropy(y.mT, labels, reduction="none")  # [R, K]
        dy, gradient = torch.autograd.grad(rows.sum(), (y, a))
    picked = y.detach().gather(2, labels[..., None])
    right = (y.detach() >= picked).sum(2) == 1
    return rows.detach().sum(1) / K, right.sum(1).to(rows.dtype) / K, dy, gradient


def readout_squared_error(
    rates: Tensor, readout: Tensor, targets: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [R], K ∂L/∂y [R, K, N_out] and K ∂L/∂a [R, T, B, N]; L is the mean of (y - target)² over rows and outputs.

    y_t = w a_{t+1} (Eq. 2) over the K = (T - first) B rows; `rates` [R, T, B, N], `readout` [R, N_out, N], `targets`
    [R, T, B, N_out].
    """
    _, T, B, _ = rates.shape
    K = (T - first) * B
    with torch.enable_grad():
        a = rates.detach().requires_grad_()
        y = a[:, first:].flatten(1, 2) @ readout.detach().mT  # [R, K, N_out]
        loss = (y - targets[:, first:].flatten(1, 2)).square().mean((1, 2))
        dy, gradient = torch.autograd.grad(K * loss.sum(), (y, a))
    return loss.detach(), dy, gradient
