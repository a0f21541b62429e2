"""SGD with momentum as PyTorch defines it, from the two factors of a weight gradient."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Constraint(IntEnum):
    """What training may do to one weight; a tensor of these is int8."""

    NEGATIVE = -1
    FREE = 0
    POSITIVE = 1
    FROZEN = 2


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
) -> tuple[Tensor, Tensor]:
    """New weights and velocity: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v, within `constraint`.

    Dale's law trains raw weights U with W = |U| ∘ sign. The gradient by U is that by W times sign ∘ sgn(U) = ±1, and so
    is the velocity of U that of W times the same ±1, until U crosses zero: then sgn(U), and with it the velocity of W,
    turns round, and W = |U| ∘ sign stays on its side. So U need not exist: a weight that a step carries across zero is
    reflected, W ← -W and v ← -v. A change of sign never rounds. (At U = 0 exactly, where |U| has no gradient, torch
    takes none; this takes W's.)
    """
    velocity = momentum * velocity + scale * left.mT @ right
    if constraint is not None:
        velocity = velocity.masked_fill(constraint == Constraint.FROZEN, 0)
    weights = weights - learning_rate * velocity
    if constraint is not None:
        signed = constraint.abs() == 1
        crossed = signed & (weights * constraint < 0)
        weights = torch.where(crossed, -weights, weights)
        velocity = torch.where(crossed, -velocity, velocity)
    return weights, velocity
