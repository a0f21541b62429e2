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


def trace(g: Tensor, z: Tensor) -> Tensor:
    """Tr J Jᵀ [...], the sum over examples of Σ_{s,s'} ⟨z_s, z_s'⟩ Σ_o ⟨g_s, g_s'⟩."""
    Ft = z @ z.mT  # [..., B, S, S]
    joined = g.transpose(-3, -2).flatten(-2)  # [..., B, S, O N]
    return (Ft * (joined @ joined.mT)).sum((-3, -2, -1))


def leading_eigenvalues(g: Tensor, z: Tensor, count: int) -> Tensor:
    """The largest eigenvalues of J Jᵀ, descending, [count], by SciPy's Lanczos method; g [B, O, S, N], z [B, S, F]."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    M = g.shape[0] * g.shape[1]

    def product(u: object) -> object:
        vector = torch.as_tensor(u, dtype=g.dtype, device=g.device).flatten()
        return matvec(g, z, rmatvec(g, z, vector)).double().cpu().numpy()

    operator = LinearOperator((M, M), matvec=product, dtype="float64")
    # A fixed start makes the result a function of the Jacobian alone.
    start = torch.ones(M, dtype=torch.float64, device="cpu").numpy()
    values = eigsh(operator, k=count, which="LA", v0=start, return_eigenvectors=False)
    return torch.as_tensor(values[::-1].copy(), dtype=g.dtype, device=g.device)
