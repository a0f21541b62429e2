"""The placing of trials in one launch, where torch needs four: a gather and a copy, of inputs and of classes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.layout import padded

TILE_ROWS = 32
NUM_WARPS, NUM_STAGES = 4, 1


@triton.jit
def place_trials_kernel(
    x,
    targets,
    seed,
    trace,
    placed,
    T,
    B,
    N,
    N_in,
    P,
    x_seed,
    targets_seed,
    TILE_ROWS: tl.constexpr,
    TILE_IN: tl.constexpr,
):
    """Copy x_t[c] of network r's seed into z_t[N + c], and the class into `placed`."""
    tiles = tl.cdiv(T * B, TILE_ROWS)
    run = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * TILE_ROWS + tl.arange(0, TILE_ROWS).to(tl.int64)
    channel = tl.arange(0, TILE_IN)[None, :]
    inside = row < T * B
    mine = tl.load(seed + run)
    classes = tl.load(targets + mine * targets_seed + row, inside)
    tl.store(placed + run * T * B + row, classes, inside)
    given = inside[:, None] & (channel < N_in)
    inputs = tl.load(x + mine * x_seed + row[:, None] * N_in + channel, given)
    tl.store(trace + (run * (T + 1) * B + row[:, None]) * P + N + channel, inputs, given)


def place_trials(
    x: Tensor, targets: Tensor, seed: Tensor, trace: Tensor, placed: Tensor, N: int
) -> None:
    """One launch; `x` and `targets` may be one iteration's slice of a longer draw [S, …, T, B, N_in]."""
    _, T, B, N_in = x.shape
    for name, value in (
        ("x", x[0]),
        ("targets", targets[0]),
        ("trace", trace),
        ("placed", placed),
        ("seed", seed),
    ):
        if not value.is_contiguous():
            raise ValueError(f"{name}: expected contiguous memory, got strides {value.stride()}")
    place_trials_kernel[(len(trace) * triton.cdiv(T * B, TILE_ROWS),)](
        x,
        targets,
        seed,
        trace,
        placed,
        T,
        B,
        N,
        N_in,
        trace.shape[-1],
        x.stride(0),
        targets.stride(0),
        TILE_ROWS=TILE_ROWS,
        TILE_IN=triton.next_power_of_2(N_in),
        **launch_options(NUM_WARPS, NUM_STAGES),
    )


def specimens(precision: str = DEFAULT_PRECISION) -> list[Specimen]:
    """The launch for one network at each of the paper's sizes; it has no product, so `precision` changes nothing."""
    return [_trials_specimen(size) for size in PAPER_SIZES]


def _trials_specimen(size: PaperSize) -> Specimen:
    T, B, N, N_in = size.T, size.B, size.N, size.N_in
    chunk = 100
    return Specimen(
        name=f"trials, N = {N}, T = {T}, B = {B}",
        kernel=place_trials_kernel,
        arguments={
            "x": "*fp32",
            "targets": "*i64",
            "seed": "*i64",
            "trace": "*fp32",
            "placed": "*i64",
            "T": T,
            "B": B,
            "N": N,
            "N_in": N_in,
            "P": padded(N + N_in),
            "x_seed": chunk * T * B * N_in,
            "targets_seed": chunk * T * B,
            "TILE_ROWS": TILE_ROWS,
            "TILE_IN": triton.next_power_of_2(N_in),
        },
        grid=(triton.cdiv(T * B, TILE_ROWS),),
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        flops=0,
        bytes=2 * T * B * (4 * N_in + 8),
    )
