"""The recurrence on a GPU: one launch goes through all steps, on the joined buffers of `hpr_kernels.layout`.

A program owns a tile of examples of one network for all steps, so that steps need no barrier wider than a block. W_h of
300 units (360 kB) fits into no multiprocessor's shared memory; a program reads it from L2 at each step, tile by tile.
Rates, potentials and adjoints pass from one step to the next through L2 as well, behind a barrier of the block: in
registers they would be an unrolled tuple of tiles, which spills. Loops over tiles are rolled, each sum has one order,
and offsets that can exceed 2³¹ are 64-bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.layout import padded
from hpr_kernels.recurrence.activations import rate_of, times_slope
from hpr_kernels.recurrence.split_products import add_split_product, sum_of


@dataclass(frozen=True)
class StepTile:
    """How many examples, units and terms of the inner product a program holds at a time."""

    B: int
    N: int
    K: int
    num_warps: int
    num_stages: int
    maxnreg: int | None = None

    @property
    def blocks(self) -> dict[str, int]:
        """The sizes under the kernels' names."""
        return {"BLOCK_B": self.B, "BLOCK_N": self.N, "BLOCK_K": self.K}

    @property
    def options(self) -> dict[str, int | bool]:
        """The sizes and the compiler's options, which a launch passes besides its arguments."""
        return self.blocks | launch_options(self.num_warps, self.num_stages, self.maxnreg)


FORWARD = StepTile(B=16, N=64, K=32, num_warps=4, num_stages=2)
SWEEP = StepTile(B=16, N=64, K=64, num_warps=4, num_stages=2, maxnreg=224)
ADJOINTS = StepTile(B=32, N=64, K=32, num_warps=4, num_stages=5)


@triton.jit
def forward_kernel(
    trace,
    weights,
    potentials,
    rho,
    gain,
    T,
    B,
    N,
    P,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """h_{t+1} = rho h_t + gain [W_h W_x] z_t; stores the rates f(h_{t+1}) into z_{t+1}.

    `gain` is 1 - rho, subtracted on the host in fp64: in fp32 the difference is off by 2.4e-7 at rho = 0.9.
    """
    tiles = tl.cdiv(B, BLOCK_B)
    r = tl.cast(tl.program_id(0) // tiles, tl.int64)
    first = tl.program_id(0) % tiles * BLOCK_B
    b = tl.arange(0, BLOCK_B)[:, None]
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    here = b < B - first
    Q = tl.cdiv(N, 16) * 16
    z_step = tl.cast(B, tl.int64) * P
    p_z = trace + (r * (T + 1) * B + first) * P + b * P
    p_h = potentials + (r * B + first) * Q + b * Q
    for t in range(T):
        p_w = weights + r * N * P + n[:, None] * P
        # Since a_0 = 0, the first step starts at the tile that holds the first input.
        start = N // BLOCK_K * BLOCK_K if t == 0 else 0
        for n_0 in range(0, N, BLOCK_N):
            drive = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
            z_rest = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
            w_rest = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
            for k_0 in range(start, P, BLOCK_K):
                source = k_0 + k
                z = tl.load(p_z + source[None], mask=here & (source < P)[None], other=0.0)
                inside = (n < N - n_0)[:, None] & (source < P)[None]
                w = tl.load(p_w + source[None], mask=inside, other=0.0)
                drive, z_rest, w_rest = add_split_product(drive, z_rest, w_rest, z, w.T, PRECISION)
            unit = n_0 + n[None]
            h = gain * sum_of(drive, z_rest, w_rest, PRECISION)
            if t > 0:
                h += rho * tl.load(p_h + unit, mask=here & (unit < Q), other=0.0)
            tl.store(p_h + unit, h, mask=here & (unit < Q))
            # The mask ends at N, because the inputs follow the rates in a row.
            tl.store(p_z + z_step + unit, rate_of(h, ACTIVATION), mask=here & (unit < N))
            p_w += BLOCK_N * P
        tl.debug_barrier()
        p_z += z_step


# Longer than 60 lines: one launch does the whole sweep, and a kernel's 18 arguments take one line each.
@triton.jit
def sweep_kernel(
    g,
    trace,
    weights,
    readout,
    steps,
    rho,
    gain,
    T,
    O,
    N_out,
    B,
    N,
    P,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """g_s = f'(h_{s+1}) ∘ (seed_s + gain W_hᵀ g_{s+1}) + rho g_{s+1}, s = T-1 … 0, in `g` [R, T, O, B, Q].

    Without a readout, `g` holds the seeds. With a readout, output o = (t, k) has the seed w_k at its own step
    t = steps[o // N_out], where its sweep starts; the adjoints of later steps become zero. So does the padding of `g`.
    `gain` is 1 - rho.
    """
    tiles = tl.cdiv(B, BLOCK_B)
    o = tl.program_id(0) // tiles % O
    r = tl.cast(tl.program_id(0) // tiles // O, tl.int64)
    first = tl.program_id(0) % tiles * BLOCK_B
    b = tl.arange(0, BLOCK_B)[:, None]
    n = tl.arange(0, BLOCK_N)[None]
    k = tl.arange(0, BLOCK_K)
    here = b < B - first
    Q = tl.cdiv(N, 16) * 16
    z_step = tl.cast(B, tl.int64) * P
    g_step = tl.cast(B, tl.int64) * Q * O
    p_g = g + r * T * g_step + (tl.cast(o, tl.int64) * B + first) * Q + b * Q
    p_a = trace + (r * (T + 1) * B + first) * P + b * P

    last = T - 1
    if readout is not None:
        last = tl.load(steps + o // N_out)
        for s in range(last + 1, T):
            for n_0 in range(0, N, BLOCK_N):
                zero = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
                tl.store(p_g + s * g_step + n_0 + n, zero, mask=here & (n_0 + n < Q))

    p_g += last * g_step
    p_a += (last + 1) * z_step
    for back in range(last + 1):
        stop = 0 if back == 0 else N
        for n_0 in range(0, N, BLOCK_N):
            unit = n_0 + n
            inside = here & (unit < Q)
            pulled = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
            g_rest = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
            w_rest = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
            p_w = weights + r * N * P + k[:, None] * P + unit
            for k_0 in range(0, stop, BLOCK_K):
                target = k_0 + k
                later = tl.load(
                    p_g + g_step + target[None], mask=here & (target < Q)[None], other=0.0
                )
                mask = (target < N)[:, None] & (unit < Q)
                w = tl.load(p_w, mask=mask, other=0.0)
                pulled, g_rest, w_rest = add_split_product(
                    pulled, g_rest, w_rest, later, w, PRECISION
                )
                p_w += BLOCK_K * P
            value = gain * sum_of(pulled, g_rest, w_rest, PRECISION)
            if readout is None:
                value += tl.load(p_g + unit, mask=inside, other=0.0)
            elif back == 0:
                w_k = tl.load(
                    readout + (r * N_out + o % N_out) * Q + unit, mask=unit < Q, other=0.0
                )
                value += w_k
            if ACTIVATION != "linear":
                rate = tl.load(p_a + unit, mask=inside, other=0.0)
                value = times_slope(value, rate, ACTIVATION)
            leaked = tl.load(p_g + g_step + unit, mask=inside & (back > 0), other=0.0)
            value = tl.where(unit < N, value + rho * leaked, 0.0)
            tl.store(p_g + unit, value, mask=inside)
        tl.debug_barrier()
        p_g -= g_step
        p_a -= z_step


def forward(
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
    potentials: Tensor | None = None,
) -> None:
    """Fill the rates of `trace` from its inputs, as `eager.forward`; `potentials` [R, B, Q] holds h between steps."""
    R, steps, B, P = trace.shape
    N = weights.shape[1]
    if potentials is None:
        potentials = trace.new_empty(R, B, padded(N))
    forward_kernel[(R * triton.cdiv(B, FORWARD.B),)](
        trace,
        weights,
        potentials,
        rho,
        1 - rho,
        steps - 1,
        B,
        N,
        P,
        ACTIVATION=activation,
        PRECISION=precision,
        **FORWARD.options,
    )


def sweep(
    g: Tensor,
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Turn ∂L/∂a_{s+1} in `g` [R, T, B, Q] into ∂L/∂h_{s+1} in place, as `eager.sweep`; columns N … Q become zero."""
    # The kernel computes its own strides, so that other rows would be written past their end.
    Q = padded(weights.shape[1])
    if g.shape[-1] != Q or not g.is_contiguous():
        raise ValueError(
            f"g: expected contiguous rows of {Q} numbers, got shape {list(g.shape)}, strides {g.stride()}"
        )
    _sweep(SWEEP, g[:, :, None], trace, weights, None, None, rho, activation, precision)


def adjoints(
    trace: Tensor,
    weights: Tensor,
    readout: Tensor,
    rho: float,
    steps: tuple[int, ...],
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
    scale: float = 1.0,
) -> Tensor:
    """`scale` times the adjoints [R, T, O, B, N], output-major, as by `eager.adjoints`."""
    R, T, B = trace.shape[0], trace.shape[1] - 1, trace.shape[2]
    N_out, N = readout.shape[1:]
    g = trace.new_empty(R, T, len(steps) * N_out, B, padded(N))
    rows = torch.nn.functional.pad(readout, (0, padded(N) - N)).contiguous()
    at = torch.tensor(steps, dtype=torch.int32, device=trace.device)
    _sweep(ADJOINTS, g, trace, weights, rows, at, rho, activation, precision)
    return (g if scale == 1 else g.mul_(scale))[..., :N]


def _sweep(
    tile: StepTile,
    g: Tensor,
    trace: Tensor,
    weights: Tensor,
    readout: Tensor | None,
    steps: Tensor | None,
    rho: float,
    activation: str,
    precision: str,
) -> None:
    R, T, O, B, _ = g.shape
    N, P = weights.shape[1:]
    sweep_kernel[(R * O * triton.cdiv(B, tile.B),)](
        g,
        trace,
        weights,
        readout,
        steps,
        rho,
        1 - rho,
        T,
        O,
        1 if readout is None else readout.shape[1],
        B,
        N,
        P,
        ACTIVATION=activation,
        PRECISION=precision,
        **tile.options,
    )


def specimens(precision: str = DEFAULT_PRECISION) -> list[Specimen]:
    """The three launches for one network at each of the paper's sizes."""
    makers = (_forward_specimen, _sweep_specimen, _adjoints_specimen)
    return [make(size, precision) for size in PAPER_SIZES for make in makers]


def _forward_specimen(size: PaperSize, precision: str) -> Specimen:
    T, B, N, N_in = size.T, size.B, size.N, size.N_in
    return _recurrence_specimen(
        "forward",
        forward_kernel,
        FORWARD,
        size,
        # The first step has no recurrent product.
        multiply_adds=B * ((T - 1) * N * N + T * N * N_in),
        numbers=N * N + N * N_in + T * B * N_in + T * B * N,
        precision=precision,
        potentials="*fp32",
    )


def _sweep_specimen(size: PaperSize, precision: str) -> Specimen:
    T, B, N = size.T, size.B, size.N
    return _recurrence_specimen(
        "backward",
        sweep_kernel,
        SWEEP,
        size,
        multiply_adds=(T - 1) * B * N * N,
        numbers=N * N + 3 * T * B * N,
        precision=precision,
        g="*fp32",
        readout=None,
        steps=None,
        O=1,
        N_out=1,
    )


def _adjoints_specimen(size: PaperSize, precision: str) -> Specimen:
    T, B, N, N_out = size.T, size.B, size.N, size.N_out
    steps = checks.steps(size.outputs, T)
    O = len(steps) * N_out
    return _recurrence_specimen(
        "adjoints",
        sweep_kernel,
        ADJOINTS,
        size,
        multiply_adds=sum(steps) * N_out * B * N * N,
        numbers=N * N + N_out * N + (1 + O) * T * B * N,
        precision=precision,
        g="*fp32",
        readout="*fp32",
        steps="*i32",
        O=O,
        N_out=N_out,
    )


def _recurrence_specimen(
    name: str,
    kernel: Any,
    tile: StepTile,
    size: PaperSize,
    *,
    multiply_adds: int,
    numbers: int,
    precision: str,
    **own: Any,
) -> Specimen:
    """A launch for one network; `numbers` are those read and written, `own` the arguments of this kernel alone."""
    return Specimen(
        name=f"recurrence {name}, N = {size.N}, T = {size.T}, B = {size.B}",
        kernel=kernel,
        arguments={
            "trace": "*fp32",
            "weights": "*fp32",
            "rho": 0.367,
            "gain": 1 - 0.367,
            "T": size.T,
            "B": size.B,
            "N": size.N,
            "P": padded(size.N + size.N_in),
            "ACTIVATION": "relu",
            "PRECISION": precision,
            **tile.blocks,
            **own,
        },
        grid=(own.get("O", 1) * triton.cdiv(size.B, tile.B),),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        flops=2 * multiply_adds,
        bytes=4 * numbers,
        maxnreg=tile.maxnreg,
    )
