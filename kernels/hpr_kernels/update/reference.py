"""SGD with momentum as PyTorch defines it, from the two factors of a weight gradient."""

from __future__ import annotations

from torch import Tensor


def momentum_step(
    weights: Tensor,
    velocity: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    scale: float,
    learning_rate: float,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """New weights and velocity: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v."""
    velocity = momentum * velocity + scale * left.mT @ right
    return weights - learning_rate * velocity, velocity
