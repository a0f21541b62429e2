"""The sums of a tangent kernel alignment, by the method that serves the networks: `triton`, or `tiled`."""

from __future__ import annotations

from torch import Tensor

from hpr_kernels.backend import uses_triton
from hpr_kernels.checks import Order
from hpr_kernels.tangent import tiled
from hpr_kernels.tangent.network import NetworkPack


def alignment_sums(
    before: NetworkPack, after: NetworkPack, x: Tensor, order: Order, memory_budget: int
) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64; `before` makes K_0, `after` K_f; x [R or 1, T, B, N_in]."""
    if before.factored and order in ("auto", "hadamard") and uses_triton(x):
        from hpr_kernels.tangent import triton

        sums = triton.alignment_sums(before, after, x, memory_budget)
        if sums is not None:
            return sums
    return tiled.alignment_sums(before, after, x, order, memory_budget)
