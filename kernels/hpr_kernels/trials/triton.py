"""The placing of trials in one launch, where torch needs four: a gather and a copy, of inputs and of targets."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.layout import padded

TILE_ROWS, MOST_COLUMNS = 32, 64
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
    N_target,
    P,
    x_seed,
    targets_seed,
    TILE_ROWS: tl.constexpr,
    TILE_IN: tl.constexpr,
    TILE_TARGET: tl.constexpr,
):
    """Copy x_t[c] of network r's seed into z_t[N + c], and its targets, N_target numbers per row, into `placed`."""
    tiles = tl.cdiv(T * B, TILE_ROWS)
    run = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * TILE_ROWS + tl.arange(0, TILE_ROWS).to(tl.int64)
    inside = (row < T * B)[:, None]
    row = row[:, None]
    mine = tl.load(seed + run)
    column = tl.arange(0, TILE_TARGET)[None, :]
    p_targets = targets + mine * targets_seed + row * N_target + column
    p_placed = placed + (run * T * B + row) * N_target + column
    for start in range(0, N_target, TILE_TARGET):
        given = inside & (column < N_target - start)
        tl.store(p_placed + start, tl.load(p_targets + start, given), given)
    column = tl.arange(0, TILE_IN)[None, :]
    p_x = x + mine * x_seed + row * N_in + column
    p_trace = trace + (run * (T + 1) * B + row) * P + N + column
    for start in range(0, N_in, TILE_IN):
        given = inside & (column < N_in - start)
        tl.store(p_trace + start, tl.load(p_x + start, given), given)


def place_trials(
    x: Tensor, targets: Tensor, seed: Tensor, trace: Tensor, placed: Tensor, N: int
) -> None:
    """One launch; `x` and `targets` may be one iteration's slice of a longer draw [S, …, T, B, N_in]."""
    _, T, B, N_in = x.shape
    N_target = placed[0].numel() // (T * B)
    given = {"x": x[0], "targets": targets[0], "trace": trace, "placed": placed, "seed": seed}
    for name, value in given.items():
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
        N_target,
        trace.shape[-1],
        x.stride(0),
        targets.stride(0),
        TILE_ROWS=TILE_ROWS,
        TILE_IN=columns(N_in),
        TILE_TARGET=columns(N_target),
        **launch_options(NUM_WARPS, NUM_STAGES),
    )


def columns(width: int) -> int:
    """Columns of a row that a program copies at a time: `width` rounded up to a power of two, and at most 64."""
    return min(MOST_COLUMNS, triton.next_power_of_2(width))


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
            "N_target": 1,
            "P": padded(N + N_in),
            "x_seed": chunk * T * B * N_in,
            "targets_seed": chunk * T * B,
            "TILE_ROWS": TILE_ROWS,
            "TILE_IN": columns(N_in),
            "TILE_TARGET": 1,
        },
        grid=(triton.cdiv(T * B, TILE_ROWS),),
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        flops=0,
        bytes=2 * T * B * (4 * N_in + 8),
    )
