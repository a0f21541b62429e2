"""The machine's peak of fused multiply-adds, the yardstick of the C kernels, and the FLOPs of an exact NTK."""

from __future__ import annotations

from ctypes import c_int64

import torch

from .cases import NetworkShape
from .measure import Call

# Rounds of independent multiply-adds in registers: some 30 ms, so that the threads come to run on cores of their own.
ROUNDS = 20_000_000


def peak_call() -> tuple[Call, float]:
    """A call that does nothing but fused multiply-adds of fp32 on every thread of torch, and its FLOPs.

    Raises:
        NotImplementedError: the installation has no C kernels for this CPU; asv then skips the case.
    """
    from hpr_kernels.native import library
    from hpr_kernels.workers import each, threads

    if library.obstacle():
        raise NotImplementedError(library.obstacle())
    run = library.function("peak", torch.float32)
    workers = threads(torch.device("cpu"))
    per_round = 2.0 * run(c_int64(1))
    return lambda: each(
        lambda _: run(c_int64(ROUNDS)), range(workers)
    ), per_round * ROUNDS * workers


def ntk_flops(shape: NetworkShape) -> float:
    """FLOPs of the kernel by the order "propagate": rates, adjoints, and the contraction, all with causality.

    Of the pairs of examples only b ≤ b' count.
    """
    T, B, N, N_in = shape.T, shape.B, shape.N, shape.N_in
    outputs = shape.N_out if shape.readout else N
    reached = range(1, T + 1) if shape.outputs == "all" else (T,)
    pairs = B * (B + 1) / 2
    # Σ over outputs of the steps that each reaches.
    steps = outputs * sum(reached)
    O = outputs * len(reached)
    rates = B * N * (N * (T - 1) + N_in * T)
    adjoints = B * N * N * (steps - O)
    inner = pairs * T * T * (N + N_in)
    contraction = pairs * N * (steps * T + steps * O)
    readout = pairs * len(reached) ** 2 * N if shape.readout else 0
    return 2.0 * (rates + adjoints + inner + contraction + readout)
