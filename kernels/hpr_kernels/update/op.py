"""Public function of the fused update."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision
from hpr_kernels.update import dispatch


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
    precision: checks.Precision = DEFAULT_PRECISION,
) -> None:
    """SGD with momentum in place: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v.

    The weight gradient of a linear layer over K rows (steps and examples) is leftᵀ right. The product accumulates it
    into the velocity, so the gradient is never stored.

    Args:
        weights, velocity: [R, M, P], overwritten.
        left: gradients of the layer's results [R, K, M].
        right: the layer's inputs [R, K, P].
        scale: factor of the gradient.
        learning_rate, momentum: as in `torch.optim.SGD` without damping.
        constraint: int8 [R or 1, M, P] of `Constraint`, or None where all weights are free. A weight that keeps its
            sign is reflected at zero, together with its velocity; this equals SGD on raw weights U with W = |U| ∘ sign
            (see `reference.py`). A frozen weight has no velocity.
        precision: how products round in the Triton kernel: "ieee", "tf32x3" or "tf32". Torch follows its own settings.

    Raises:
        ValueError, TypeError: the message names the argument that does not fit.
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
    dispatch.momentum_step(
        weights,
        velocity,
        left,
        right,
        scale=checks.factor("scale", scale),
        learning_rate=checks.factor("learning_rate", learning_rate),
        momentum=checks.factor("momentum", momentum),
        constraint=constraint,
        precision=precision,
    )


def _check_constraint(constraint: Tensor, weights: Tensor) -> None:
    checks.integers("constraint", constraint, torch.int8, like=weights)
    _, M, P = weights.shape
    if tuple(constraint.shape) not in ((1, M, P), tuple(weights.shape)):
        raise ValueError(
            f"constraint: expected shape [R or 1, M, P] with M, P = {M}, {P}, got {list(constraint.shape)}"
        )
