"""Products with a Jacobian in factors, g [..., B, O, S, N] and z [..., B, S, F], which form no Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def matvec(g: Tensor, z: Tensor, vector: Tensor) -> Tensor:
    """J v [..., B O] of a vector v [..., N F] of the parameters."""
    change = z @ vector.unflatten(-1, (g.shape[-1], -1)).mT[..., None, :, :]  # [..., B, S, N]
    return torch.einsum("...bosn,...bsn->...bo", g, change).flatten(-2)


def rmatvec(g: Tensor, z: Tensor, vector: Tensor) -> Tensor:
    """Jᵀ u [..., N F] of a vector u [..., B O] of the rows."""
    rows = vector.unflatten(-1, tuple(g.shape[-4:-2]))
    pulled = torch.einsum("...bosn,...bo->...bsn", g, rows)
    return (pulled.flatten(-3, -2).mT @ z.flatten(-3, -2)).flatten(-2)


def gram_matvec(g: Tensor, z: Tensor, vector: Tensor) -> Tensor:
    """J Jᵀ u [..., B O] of a vector u [..., B O] of the rows."""
    return matvec(g, z, rmatvec(g, z, vector))


def trace(g: Tensor, z: Tensor) -> Tensor:
    """Tr J Jᵀ [...], the sum over examples of Σ_{s,s'} ⟨z_s, z_s'⟩ Σ_o ⟨g_s, g_s'⟩."""
    Ft = z @ z.mT  # [..., B, S, S]
    joined = g.transpose(-3, -2).flatten(-2)  # [..., B, S, O N]
    return (Ft * (joined @ joined.mT)).sum((-3, -2, -1))
