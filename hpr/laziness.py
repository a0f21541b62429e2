"""Measures of effective laziness: what changed between before and after training (Section 2.2, Appendix D).

Sums accumulate in fp64. A 0/0, as where all units are dead, is NaN: callers flag it, it is never a silent number.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hpr.connectivity import effective_rank
from hpr.model import Pack
from hpr.runs import RunSpec
from hpr_kernels import leaky_rnn, leaky_rnn_ntk


def weight_change_norm(before: Tensor, after: Tensor) -> float:
    """‖W^(f) - W^(0)‖_F (Eq. 4)."""
    return float((after.double() - before.double()).norm())


def alignment(A: Tensor, B: Tensor) -> float:
    """Tr(A B) / (‖A‖ ‖B‖) of two symmetric matrices [M, M] (Eq. 5, 6)."""
    product = norm_A = norm_B = torch.zeros((), dtype=torch.float64, device=A.device)
    # A block of rows at a time: the fp64 copies stay small beside the kernels.
    for a, b in zip(A.split(256), B.split(256), strict=True):
        a, b = a.double(), b.double()
        product = product + (a * b).sum()
        norm_A = norm_A + a.square().sum()
        norm_B = norm_B + b.square().sum()
    return float(product / (norm_A.sqrt() * norm_B.sqrt()))


def representation_alignment(before: Tensor, after: Tensor) -> float:
    """Alignment of R = HᵀH, the Gram matrices of last-step rates [m, N] of m trials (Eq. 5)."""
    before, after = before.double(), after.double()
    return alignment(before @ before.mT, after @ after.mT)


def sign_similarity(before: Tensor, after: Tensor) -> float:
    """Share of last-step rates [m, N] whose sign did not change; for ReLU, active or silent."""
    return float((before.sign() == after.sign()).double().mean())


def leading_eigenvalue(K: Tensor) -> float:
    """λ_1 of a symmetric matrix [M, M], by Lanczos (SciPy's `eigsh`); NaN where K is zero."""
    from scipy.sparse.linalg import eigsh

    matrix = K.double().cpu().numpy()
    if not matrix.any():
        return float("nan")
    if len(matrix) < 3:
        return float(torch.linalg.eigvalsh(K.double())[-1])
    # A fixed start makes the result a function of K alone.
    start = matrix.diagonal() + matrix.diagonal().mean()
    return float(eigsh(matrix, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


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


def measure(
    spec: RunSpec, before: Pack, after: Pack, x: Tensor, targets: Tensor, last_step_only: bool
) -> tuple[dict[str, float], list[str]]:
    """All measures of one network, and a flag for each that is not a number.

    `before`, `after`: packs of one network; `x` [T, m, N_in] and `targets` [T, m]: the evaluation trials, of which the
    kernel takes the first `spec.kernel_trials`; with `last_step_only` its rows are the last step's outputs, else all.
    """
    few = x[None, :, : spec.kernel_trials]
    outputs: Literal["all", "last"] = "last" if last_step_only else "all"

    def kernel(pack: Pack) -> Tensor:
        return leaky_rnn_ntk(
            few,
            recurrent=pack.recurrent,
            input=pack.input,
            readout=pack.readout,
            rho=spec.rho,
            outputs=outputs,
            parameters=spec.ntk_parameters,
        )[0]

    K_0, K_f = kernel(before), kernel(after)
    H_0, H_f = (
        leaky_rnn(x[None], pack.recurrent, pack.input, spec.rho)[0, -1] for pack in (before, after)
    )
    labels = targets[-1:] if last_step_only else targets
    N_out = before.readout.shape[1]
    one_hot = torch.nn.functional.one_hot(labels[:, : spec.kernel_trials], N_out)
    y = one_hot.transpose(0, 1).flatten()  # rows (b, t, k)
    start = before.recurrent[0].double().cpu().numpy()
    change = [
        weight_change_norm(a, b)
        for a, b in ((before.weights, after.weights), (before.readout, after.readout))
    ]
    measures = {
        "weight_change_norm": weight_change_norm(before.recurrent, after.recurrent),
        "weight_change_norm_all": (change[0] ** 2 + change[1] ** 2) ** 0.5,
        "representation_alignment": representation_alignment(H_0, H_f),
        "kernel_alignment": alignment(K_0, K_f),
        "sign_similarity": sign_similarity(H_0, H_f),
        "connectivity_effective_rank": effective_rank(start),
        "connectivity_effective_rank_singular": effective_rank(start, singular=True),
        "kernel_effective_rank_initial": kernel_effective_rank(K_0),
        "kernel_effective_rank_final": kernel_effective_rank(K_f),
        "task_kernel_alignment_initial": task_kernel_alignment(K_0, y),
        "task_kernel_alignment_final": task_kernel_alignment(K_f, y),
        "centred_kernel_alignment_initial": centred_kernel_alignment(K_0, y),
        "centred_kernel_alignment_final": centred_kernel_alignment(K_f, y),
    }
    flags = [f"{name} is not a number" for name, value in measures.items() if value != value]
    return measures, flags
