"""Measures of effective laziness: what changed between before and after training (Section 2.2, Appendix D).

Sums accumulate in fp64. A measure that is 0/0, as when all units are dead, is NaN, and the caller flags it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels.internal import kernel_sums


def weight_change_norm(before: Tensor, after: Tensor) -> float:
    """‖W^(f) - W^(0)‖_F (Eq. 4)."""
    return float((after.double() - before.double()).norm())


def alignment(A: Tensor, B: Tensor) -> float:
    """Tr(A B) / (‖A‖ ‖B‖) of two symmetric matrices [M, M] (Eq. 5, 6)."""
    product, norm_A, norm_B = kernel_sums(B[None], A[None])
    return float(product / (norm_A.sqrt() * norm_B.sqrt()))


def representation_alignment(before: Tensor, after: Tensor) -> float:
    """Alignment of the Gram matrices HᵀH of last-step rates [m, N] in m trials (Eq. 5)."""
    before, after = before.double(), after.double()
    return alignment(before @ before.mT, after @ after.mT)


def sign_similarity(before: Tensor, after: Tensor) -> float:
    """The share of last-step rates [m, N] whose sign did not change; for ReLU a rate is positive or zero."""
    return float((before.sign() == after.sign()).double().mean())


def leading_eigenvalue(K: Tensor) -> float:
    """λ_1 of a symmetric matrix [M, M], by Lanczos (SciPy's `eigsh`); NaN where K is zero or not finite."""
    from scipy.sparse.linalg import eigsh

    K = K.detach().double().cpu()
    if not K.any() or not K.isfinite().all():
        return float("nan")
    if len(K) < 3:
        return float(torch.linalg.eigvalsh(K)[-1])
    # With a fixed start the result is a function of K alone. The start has none of K's symmetries: Lanczos finds no
    # eigenvector that is orthogonal to it, as those of rows in pairs J, -J are to a vector of equal pairs.
    start = torch.arange(1, len(K) + 1, dtype=K.dtype, device="cpu").cos()
    found = eigsh(K.numpy(), k=1, which="LA", v0=start.numpy(), return_eigenvectors=False)
    return float(found[0])


def kernel_effective_rank(K: Tensor) -> float:
    """Σ λ_i / λ_1 = Tr K / λ_1 (Figure 15)."""
    return float(K.diagonal().double().sum()) / leading_eigenvalue(K)


def task_kernel_alignment(K: Tensor, y: Tensor) -> float:
    """yᵀ K y / (|y|² Tr K) with the targets y [M] of K's rows (Figure 14 B)."""
    K, y = K.double(), y.double()
    return float((y @ (K @ y)) / (y.square().sum() * K.diagonal().sum()))


def centred_kernel_alignment(K: Tensor, y: Tensor) -> float:
    """CKA of K [M, M] with the target kernel y yᵀ, both centred (Baratin et al. 2021, Eq. 7; Figure 14 D)."""
    K = K.double()
    centred = K - K.mean(0) - K.mean(1, keepdim=True) + K.mean()
    y = y.double() - y.double().mean()
    return float((y @ (centred @ y)) / (centred.norm() * y.square().sum()))
