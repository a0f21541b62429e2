"""Public function of the fused update."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision, uses_triton
from hpr_kernels.update import eager


@outside_autocast
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
    """SGD with momentum in place: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v.

    The weight gradient of a linear layer over K rows (steps and examples) is leftᵀ right; it is accumulated into the
    velocity by the product itself and never stored.

    Args:
        weights, velocity: [R, M, P], overwritten.
        left: gradients of the layer's results [R, K, M].
        right: what the layer was given [R, K, P].
        scale: factor of the gradient.
        learning_rate, momentum: as in `torch.optim.SGD` without damping.
        constraint: int8 [R or 1, M, P] of `Constraint`, or None where all are free. A weight that keeps its sign is
            reflected at zero, together with its velocity; that is SGD on raw weights U with W = |U| ∘ sign (see
            `reference.py`). A frozen weight has no velocity.
        precision: how Triton's products round, "ieee", "tf32x3" or "tf32"; torch's round as torch is set.

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
    check_precision(precision)
    if constraint is not None:
        _check_constraint(constraint, weights)
    sgd = {
        "scale": checks.factor("scale", scale),
        "learning_rate": checks.factor("learning_rate", learning_rate),
        "momentum": checks.factor("momentum", momentum),
    }
    if uses_triton(weights):
        from hpr_kernels.update import triton

        with torch.cuda.device_of(weights):
            triton.momentum_step(
                weights, velocity, left, right, constraint=constraint, precision=precision, **sgd
            )
    else:
        eager.momentum_step(weights, velocity, left, right, constraint=constraint, **sgd)


def _check_constraint(constraint: Tensor, weights: Tensor) -> None:
    checks.integers("constraint", constraint, torch.int8, like=weights)
    _, M, P = weights.shape
    if tuple(constraint.shape) not in ((1, M, P), tuple(weights.shape)):
        raise ValueError(
            f"constraint: expected shape [R or 1, M, P] with M, P = {M}, {P}, got {list(constraint.shape)}"
        )
