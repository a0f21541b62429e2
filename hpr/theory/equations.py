"""The closed forms of Section 2.3 and Appendix B, for two-layer linear networks y = W_2 W_1 x on whitened inputs.

Tensors are fp64; leading dimensions are batches of networks or tasks. The weights are W_1 [..., N, d] and
W_2 [..., N], the inputs X [d, m] with X Xᵀ = I. A task is β [..., d] with β_i ~ N(0, 1/d) and targets Y = βᵀ X; its
direction is β̂ = β / ‖β‖. M_0 = W_1ᵀ W_1 + ‖W_2‖² I before training, so that Eq. 7 is K^(0) = Xᵀ M_0 X.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def batched_alignment(A: Tensor, B: Tensor) -> Tensor:
    """Tr(A B) / (‖A‖ ‖B‖) of symmetric matrices [..., m, m] (Eq. 5, 6, 9); `hpr.laziness.alignment` of many pairs."""
    return torch.nn.functional.cosine_similarity(A.flatten(-2), B.flatten(-2), dim=-1)


def second_moment(W_1: Tensor, W_2: Tensor) -> Tensor:
    """M = W_1ᵀ W_1 + ‖W_2‖² I, [..., d, d]."""
    eye = torch.eye(W_1.shape[-1], dtype=W_1.dtype)
    return W_1.mT @ W_1 + W_2.square().sum(-1)[..., None, None] * eye


def linear_network_kernel(X: Tensor, W_1: Tensor, W_2: Tensor) -> Tensor:
    """K = Xᵀ (W_1ᵀ W_1 + ‖W_2‖² I) X, [..., m, m] (Eq. 7)."""
    return X.mT @ second_moment(W_1, W_2) @ X


def final_kernel(X: Tensor, beta: Tensor) -> Tensor:
    """K^(f) = ‖β‖ Xᵀ (β̂ β̂ᵀ + I) X, [..., m, m], up to O(σ²) (Eq. 8)."""
    norm = beta.norm(dim=-1)[..., None, None]
    y = beta @ X
    return y[..., :, None] * y[..., None, :] / norm + norm * (X.mT @ X)


def final_moment_distance(norm: Tensor, d: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Upper bounds of the O(σ²) of Eq. 8: how far trained weights can be from the limit σ → 0.

    The first is the largest Frobenius norm of W_1ᵀ W_1 + ‖W_2‖² I - ‖β‖ (β̂ β̂ᵀ + I), the second that of
    W_1ᵀ W_1 - ‖β‖ β̂ β̂ᵀ, both after training by gradient flow. docs/theory.md derives them.

    Args:
        norm: ‖β‖ of R tasks, [R].
        d: input dimension.
        sigma: ‖W_1‖ = ‖W_2‖ before training.

    Returns:
        Both bounds, [R].
    """
    readout = sigma**2 / 2 + (norm.square() + sigma**4 / 4).sqrt()
    eta = sigma**4 * (1 / 4 + (readout / norm).square()) / (2 * norm)
    cross = math.sqrt(2) * sigma**3 * readout.sqrt() / norm
    moment = (1 + math.sqrt(d - 1) / 2) * sigma**2 + cross + math.sqrt(d + 3) * eta
    return moment, math.sqrt(5) / 2 * sigma**2 + cross + eta


def mean_square_direction(d: int) -> float:
    """c = 1/d, the constant of Lemma 2, E[β̂ᵀ M β̂] = c Tr M. The paper leaves c open; docs/theory.md derives it."""
    return 1 / d


def task_alignment(M_0: Tensor, beta: Tensor) -> Tensor:
    """KA of one task, (β̂ᵀ M_0 β̂ + Tr M_0) / √((d+3) Tr M_0²), up to O(σ²) (Eq. 14).

    M_0 [..., d, d] and β [..., d] broadcast.
    """
    d = beta.shape[-1]
    quadratic = torch.einsum("...i,...ij,...j->...", beta, M_0, beta) / beta.square().sum(-1)
    return (quadratic + _matrix_trace(M_0)) / math.sqrt(d + 3) / M_0.norm(dim=(-2, -1))


def expected_alignment(M_0: Tensor, c: float) -> Tensor:
    """E_β[KA] = (1 + c) Tr M_0 / √((d+3) Tr M_0²), up to O(σ²) (Eq. 18)."""
    d = M_0.shape[-1]
    return (1 + c) * _matrix_trace(M_0) / math.sqrt(d + 3) / M_0.norm(dim=(-2, -1))


def expected_alignment_of_spectrum(s: Tensor, c: float) -> Tensor:
    """E_β[KA] = (1 + c)(d + 1) / √((d+3)(d+2 + Σ (s_j/σ)⁴)), with σ² = Σ s_j² = ‖W_2‖² (Eq. 21).

    `s` [..., d]: the singular values of W_1, zeros included.
    """
    d = s.shape[-1]
    fourth = s.pow(4).sum(-1) / s.square().sum(-1).square()
    return (1 + c) * (d + 1) / ((d + 3) * (d + 2 + fourth)).sqrt()


def largest_expected_alignment(d: int) -> float:
    """Eq. 21 at Theorem 1's maximiser, s_j² = σ²/d: with c = 1/d it is (d + 1) / √(d (d+3))."""
    return (d + 1) / math.sqrt(d * (d + 3))


def expected_representation_alignment(s: Tensor, c: float) -> Tensor:
    """E_β[RA] = c σ² / √(Σ s_j⁴), up to O(σ²): the analogue of Eq. 21 for R = Hᵀ H, which Section 2.3 mentions.

    RA = β̂ᵀ W_1ᵀ W_1 β̂ / ‖W_1ᵀ W_1‖ up to O(σ²), to which Lemma 2 applies. The maximum is at the same s as that of
    Eq. 21; for r equal singular values the result is c √r.
    """
    return c * s.square().sum(-1) / s.pow(4).sum(-1).sqrt()


def _matrix_trace(M: Tensor) -> Tensor:
    return M.diagonal(dim1=-2, dim2=-1).sum(-1)
