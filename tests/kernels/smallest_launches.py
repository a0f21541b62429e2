"""Launches of one block for each kernel and variant, that are small and yet run every instruction.

Two sizes of each have the same program. The larger size goes around each loop often enough to use its first buffer
again. The smaller size goes around once: what a barrier orders lies close together there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from ptx_emulator.launch import Prepared, launch, prepare
from torch import Tensor

from hpr_kernels import layout
from hpr_kernels.checks import PRECISIONS, Precision
from hpr_kernels.testing import random_network

# A maker launches a kernel at a precision, in its larger size or not.
Maker = Callable[[Precision, bool, torch.Generator], None]


def _network(rng: torch.Generator, N: int, B: int, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """Trace with inputs and rates, weights and readout of a network with 3 inputs and 1 output."""
    net = random_network(rng, R=1, N=N, B=B, T=T, N_in=3, N_out=1, dtype=torch.float32)
    trace = torch.zeros(1, T + 1, B, layout.padded(N + 3))
    trace[:, :T, :, N : N + 3] = net.x
    trace[:, 1:, :, :N] = torch.rand(1, T, B, N, generator=rng)
    return trace, layout.join(net.recurrent, net.input), net.readout


def _forward(activation: str) -> Maker:
    def make(precision: Precision, large: bool, rng: torch.Generator) -> None:
        from hpr_kernels.recurrence import triton

        trace, weights, _ = _network(rng, *((80, 5, 2) if large else (48, 5, 3)))
        triton.forward(trace, weights, 0.367, activation, precision)

    return make


def _backward(activation: str) -> Maker:
    def make(precision: Precision, large: bool, rng: torch.Generator) -> None:
        from hpr_kernels.recurrence import triton

        # Without a later step a step has no product, so two steps have one and three have two.
        N, T = (144, 2) if large else (48, 3)
        trace, weights, _ = _network(rng, N, 5, T)
        g = torch.randn(1, T, 5, N, generator=rng)
        triton.sweep(g, trace, weights, 0.367, activation, precision)

    return make


def _adjoints(precision: Precision, large: bool, rng: torch.Generator) -> None:
    from hpr_kernels.recurrence import triton

    # Five stages, so six tiles of the sum use a buffer again.
    trace, weights, readout = _network(rng, *((192, 5, 3) if large else (48, 5, 4)))
    triton.adjoints(trace, weights, readout, 0.367, (1 if large else 2,), "relu", precision)


def _terms(config: Any, large: bool) -> int:
    """The N at which a loop over terms uses the first of its buffers again, or goes around once."""
    sizes = [int(config.N * times) for times in range(config.num_stages + 1, 9)]
    # The compiler distinguishes an N that 64 divides.
    alike = [N for N in sizes if (N % 64 == 0) == (config.N % 64 == 0)]
    return alike[0] if large else int(config.N)


def _rows(rng: torch.Generator, steps: int, N: int) -> Any:
    from hpr_kernels.gram.rows import Rows

    return Rows(torch.randn(1, steps, 2, 8, N, generator=rng), 8, ((steps - 1,) * 2,))


def _gram(steps: int, symmetric: bool, add: bool) -> Maker:
    def make(precision: Precision, large: bool, rng: torch.Generator) -> None:
        from hpr_kernels.gram import triton
        from hpr_kernels.gram.rows import CONFIGS

        left, right = (_rows(rng, steps, _terms(CONFIGS[precision], large)) for _ in range(2))
        Ft = torch.randn(1, steps * 8, steps * 8, generator=rng) if steps > 1 else None
        other = left if symmetric else right
        K = torch.randn(1, 16, 16, generator=rng)
        triton.contract(K, left, other, Ft, 0, steps, precision, symmetric, add)

    return make


def _alignment(symmetric: bool, diagonal: bool) -> Maker:
    def make(precision: Precision, large: bool, rng: torch.Generator) -> None:
        from hpr_kernels.gram.factors import Factors
        from hpr_kernels.gram.rows import ALIGNMENT_CONFIGS
        from hpr_kernels.tangent import triton
        from hpr_kernels.tangent.block import JacobianBlock

        N = _terms(ALIGNMENT_CONFIGS[precision], large)

        def block() -> JacobianBlock:
            g, z = torch.randn(2, 8, 2, 2, N, generator=rng), torch.randn(2, 8, 2, 4, generator=rng)
            extra = torch.randn(2, 8, 2, N, generator=rng) if diagonal else None
            rates = torch.rand(2, 8, 1, N, generator=rng)
            return JacobianBlock(Factors(g, z, ((1, 1),)), extra, rates, True, 0, 2, precision)

        triton.block_sums(block(), None if symmetric else block(), 2)

    return make


def _update(M: int, P: int, constrained: bool, tight: bool) -> Maker:
    def make(precision: Precision, large: bool, rng: torch.Generator) -> None:
        from hpr_kernels.update import triton

        K, row = 96 if large else 32, P if tight else layout.padded(P)
        weights, velocity, right = (
            torch.randn(1, n, row, generator=rng)[..., :P] for n in (M, M, K)
        )
        left = torch.randn(1, K, M if tight else layout.padded(M), generator=rng)[..., :M]
        rule = torch.randint(-1, 3, (1, M, P), generator=rng).to(torch.int8)
        triton.momentum_step(
            weights, velocity, left, right, scale=0.3, learning_rate=0.1, momentum=0.9,
            constraint=rule if constrained else None, precision=precision,
        )  # fmt: skip

    return make


def _loss(N_out: int, classes: bool) -> Maker:
    def make(precision: Precision, large: bool, rng: torch.Generator) -> None:
        from hpr_kernels.loss import triton

        N = 192 if large else 64
        rates, gradient = (torch.rand(1, 3, 8, N, generator=rng) for _ in range(2))
        readout = torch.randn(1, N_out, N, generator=rng) / 14
        if classes:
            take, targets = (
                triton.readout_cross_entropy,
                torch.randint(0, N_out, (1, 3, 8), generator=rng),
            )
        else:
            take, targets = (
                triton.readout_squared_error,
                torch.randn(1, 3, 8, N_out, generator=rng),
            )
        sums, dy = triton.buffers(1, 3, 8, N_out, 1, rates, classes)
        take(rates, readout, targets, gradient, sums, dy, 1, precision)

    return make


def _trials(precision: Precision, large: bool, rng: torch.Generator) -> None:
    from hpr_kernels.trials import triton

    x, classes = torch.randn(1, 2, 5, 3, generator=rng), torch.ones(1, 2, 5, dtype=torch.int64)
    trace, placed = torch.zeros(1, 3, 5, 16), torch.zeros(1, 2, 5, dtype=torch.int64)
    triton.place_trials(x, classes, torch.zeros(1, dtype=torch.int64), trace, placed, 9)


MAKERS: dict[str, Maker] = {
    "forward": _forward("relu"),
    "forward, tanh": _forward("tanh"),
    "backward": _backward("relu"),
    "backward, tanh": _backward("tanh"),
    "adjoints": _adjoints,
    "gram, one step": _gram(1, True, False),
    "gram, one step, added": _gram(1, True, True),
    "gram": _gram(2, True, False),
    "gram, two sets, added": _gram(2, False, True),
    "alignment": _alignment(True, False),
    "alignment, two sets, no diagonal": _alignment(False, True),
    "update": _update(33, 48, False, False),
    "update, constrained": _update(33, 48, True, False),
    "update, constrained, tight rows": _update(33, 47, True, True),
    "update of a readout": _update(3, 48, False, False),
    "cross-entropy": _loss(3, True),
    "cross-entropy, 40 outputs": _loss(40, True),
    "squared error": _loss(3, False),
    "squared error, one output": _loss(1, False),
    "trials": _trials,
}
NAMES = [f"{name}, {precision}" for name in MAKERS for precision in PRECISIONS if name != "trials"]
NAMES.append("trials, tf32x3")


def launches(
    name: str, capability: int, patch: pytest.MonkeyPatch, *, inputs: bool = True
) -> list[Prepared]:
    """The smaller and the larger launch of a name of `NAMES`.

    With `inputs`, the launches that come before them are emulated, since these read what those write.
    """
    from triton.runtime.jit import JITFunction

    kind, _, precision = name.rpartition(", ")
    found: list[Prepared] = []

    def run(kernel: Any, *given: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        for one in last if inputs else []:
            launch(one.kernel.program, one.arguments, one.blocks, shared=one.kernel.shared)
        last[:] = [prepare(capability, kernel, *given, grid=grid, **named)]

    for large in (False, True):
        last: list[Prepared] = []
        with patch.context() as here:
            here.setattr(JITFunction, "run", run)
            MAKERS[kind](cast(Precision, precision), large, torch.Generator().manual_seed(1))
        found += last
    assert found[0].kernel.program is found[1].kernel.program
    return found
