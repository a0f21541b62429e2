"""The Gram matrix of Jacobians by its definition: the Jacobian is written out and multiplied by its transpose."""

from __future__ import annotations

import torch
from torch import Tensor


def jacobian(adjoints: Tensor, inputs: Tensor) -> Tensor:
    """J = Σ_s g_s ⊗ z_s: [R, B, O, S, N] and [R, B, S, F] give [R, B O, N F], rows example-major."""
    J = torch.einsum("rbosn,rbsf->rbonf", adjoints, inputs)
    return J.flatten(3).flatten(1, 2)


def gram(adjoints1: Tensor, inputs1: Tensor, adjoints2: Tensor, inputs2: Tensor) -> Tensor:
    """J_1 J_2ᵀ, [R, B_1 O_1, B_2 O_2]."""
    return jacobian(adjoints1, inputs1) @ jacobian(adjoints2, inputs2).mT
