"""The update on checked tensors, by the backend that serves them: Triton, or torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.update import eager

__all__ = ["momentum_step"]


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

    `weights` and `velocity` are [R, M, P], `left` [R, K, M], `right` [R, K, P], `constraint` [R or 1, M, P].
    """
    if uses_triton(weights):
        from hpr_kernels.update import triton

        with torch.cuda.device_of(weights):
            triton.momentum_step(
                weights,
                velocity,
                left,
                right,
                scale=scale,
                learning_rate=learning_rate,
                momentum=momentum,
                constraint=constraint,
                precision=precision,
            )
    else:
        eager.momentum_step(
            weights,
            velocity,
            left,
            right,
            scale=scale,
            learning_rate=learning_rate,
            momentum=momentum,
            constraint=constraint,
            precision=precision,
        )
