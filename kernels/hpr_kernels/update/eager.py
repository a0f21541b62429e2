"""The update by torch, whose product accumulates straight into the velocity."""

from __future__ import annotations

from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.update.reference import Constraint


def momentum_step(
    weights: Tensor,
    velocity: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    scale: float,
    learning_rate: float,
    momentum: float,
    constraint: Tensor | None = None,
    precision: str = DEFAULT_PRECISION,
) -> None:
    """In place: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v, within `constraint`.

    Torch has its own setting for how products round, so `precision` stays unused.
    """
    velocity.baddbmm_(left.mT, right, beta=momentum, alpha=scale)
    if constraint is not None:
        velocity.masked_fill_(constraint == Constraint.FROZEN, 0)
    weights.add_(velocity, alpha=-learning_rate)
    if constraint is not None:
        crossed = (constraint.abs() == 1) & (weights * constraint < 0)
        turn = 1 - 2 * crossed.to(weights.dtype)
        weights.mul_(turn)
        velocity.mul_(turn)
