"""Public function of the fused update."""

from __future__ import annotations

from torch import Tensor

from hpr_kernels import checks


def momentum_step(
    weights: Tensor,
    velocity: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    scale: float,
    learning_rate: float,
    momentum: float,
) -> None:
    """SGD with momentum in place: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v.

    The weight gradient of a linear layer over K rows (steps and examples) is leftᵀ right; it is accumulated into the
    velocity by the product itself and never stored.

    Args:
        weights, velocity: [R, M, P], overwritten.
        left: gradients of the layer's results [R, K, M].
        right: what the layer was given [R, K, P].
        scale: factor of the gradient.
        learning_rate, momentum: as in `torch.optim.SGD` without damping.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """
    checks.tensor("weights", weights, (3,))
    for name, value in (("velocity", velocity), ("left", left), ("right", right)):
        checks.tensor(name, value, (3,), like=weights)
    R, M, P = weights.shape
    checks.shape("velocity", velocity, (R, M, P), "[R, M, P]")
    checks.shape("left", left, (R, None, M), "[R, K, M]")
    checks.shape("right", right, (R, left.shape[1], P), "[R, K, P]")
    velocity.baddbmm_(left.mT, right, beta=momentum, alpha=scale)
    weights.add_(velocity, alpha=-learning_rate)
