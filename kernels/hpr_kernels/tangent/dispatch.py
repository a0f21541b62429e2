"""The sums of a tangent kernel alignment, by the backend that serves them: `triton`, or `eager`."""

from __future__ import annotations

from torch import Tensor

from hpr_kernels.backend import uses_triton
from hpr_kernels.checks import Order
from hpr_kernels.progress import Progress
from hpr_kernels.tangent import eager
from hpr_kernels.tangent.network import NetworkPack


def alignment_sums(
    before: NetworkPack,
    after: NetworkPack,
    x: Tensor,
    order: Order,
    memory_budget: int,
    progress: Progress | None = None,
) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64; `before` makes K_0, `after` K_f; x [R or 1, T, B, N_in]."""
    if before.factored and order in ("auto", "hadamard") and uses_triton(x):
        from hpr_kernels.tangent import triton

        sums = triton.alignment_sums(before, after, x, memory_budget, progress)
        if sums is not None:
            return sums
    return eager.alignment_sums(before, after, x, order, memory_budget, progress)
