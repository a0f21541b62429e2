"""The update in one launch: a program owns a tile of one network's weights and sums its gradient over all K rows.

The sum has one order, whatever the pack, and needs no atomics. The program reads and writes its tiles of velocity and
weights once, after the sum. At the paper's sizes this traffic bounds the launch, not the product.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.layout import padded, readable
from hpr_kernels.recurrence.split_products import plus_product

TILE_P, TILE_K = 64, 32
# One stage, because an asynchronous copy would have to transpose `left` in shared memory, four bytes at a time.
NUM_WARPS, NUM_STAGES = 4, 1


# Longer than 60 lines: a kernel's 27 arguments take one line each.
@triton.jit
def momentum_step_kernel(
    weights,
    velocity,
    left,
    right,
    constraint,
    M,
    P,
    K,
    left_width,
    right_width,
    weights_run,
    weights_row,
    velocity_run,
    velocity_row,
    left_run,
    left_row,
    right_run,
    right_row,
    constraint_run,
    constraint_row,
    scale,
    learning_rate,
    momentum,
    PRECISION: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_K: tl.constexpr,
):
    """v ← momentum v + scale leftᵀ right, W ← W - learning_rate v, on one tile of W."""
    across = tl.cdiv(P, TILE_P)
    tiles = tl.cdiv(M, TILE_M) * across
    run = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    m = (tile // across) * TILE_M + tl.arange(0, TILE_M)
    p = (tile % across) * TILE_P + tl.arange(0, TILE_P)
    k = tl.arange(0, TILE_K).to(tl.int64)
    p_left = left + run * left_run + k[:, None] * left_row + m[None, :]
    p_right = right + run * right_run + k[:, None] * right_row + p[None, :]
    # Columns of the storage beyond M or P may hold any number; they enter only results that are not stored.
    in_left = m[None, :] < left_width
    in_right = p[None, :] < right_width
    gradient = tl.zeros((TILE_M, TILE_P), tl.float32)
    for first in range(0, K, TILE_K):
        in_rows = (k < K - first)[:, None]
        b_left = tl.load(p_left, in_rows & in_left, other=0.0)
        b_right = tl.load(p_right, in_rows & in_right, other=0.0)
        gradient = plus_product(gradient, tl.trans(b_left), b_right, PRECISION)
        p_left += TILE_K * left_row
        p_right += TILE_K * right_row
    rows = m.to(tl.int64)[:, None]
    inside = (rows < M) & (p[None, :] < P)
    p_velocity = velocity + run * velocity_run + rows * velocity_row + p[None, :]
    p_weights = weights + run * weights_run + rows * weights_row + p[None, :]
    b_velocity = momentum * tl.load(p_velocity, inside, other=0.0) + scale * gradient
    b_weights = tl.load(p_weights, inside, other=0.0)
    if constraint is None:
        b_weights -= learning_rate * b_velocity
    else:
        # `reference.Constraint`: -1 and 1 keep their sign, 2 is frozen.
        p_constraint = constraint + run * constraint_run + rows * constraint_row + p[None, :]
        kind = tl.load(p_constraint, inside, other=0)
        b_velocity = tl.where(kind == 2, 0.0, b_velocity)
        b_weights -= learning_rate * b_velocity
        crossed = ((kind == 1) & (b_weights < 0)) | ((kind == -1) & (b_weights > 0))
        b_weights = tl.where(crossed, -b_weights, b_weights)
        b_velocity = tl.where(crossed, -b_velocity, b_velocity)
    tl.store(p_velocity, b_velocity, inside)
    tl.store(p_weights, b_weights, inside)


def momentum_step(
    weights: Tensor,
    velocity: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    scale: float,
    learning_rate: float,
    momentum: float,
    constraint: Tensor | None = None,
    precision: str = DEFAULT_PRECISION,
) -> None:
    """In place: v ← momentum v + scale leftᵀ right, W ← W - learning_rate v, within `constraint`; one launch."""
    R, M, P = weights.shape
    grid = (R * triton.cdiv(M, tile_M(M)) * triton.cdiv(P, TILE_P),)
    for name, value in (("weights", weights), ("velocity", velocity)):
        if P > 1 and value.stride(2) != 1:
            raise ValueError(f"{name}: expected rows without gaps, got strides {value.stride()}")
    left, right = (value if value.stride(2) == 1 else value.contiguous() for value in (left, right))
    rules = None if constraint is None else constraint.contiguous().expand(R, M, P)
    momentum_step_kernel[grid](
        weights,
        velocity,
        left,
        right,
        rules,
        M,
        P,
        left.shape[1],
        readable(left),
        readable(right),
        *weights.stride()[:2],
        *velocity.stride()[:2],
        *left.stride()[:2],
        *right.stride()[:2],
        *((0, 0) if rules is None else rules.stride()[:2]),
        scale,
        learning_rate,
        momentum,
        PRECISION=precision,
        TILE_M=tile_M(M),
        TILE_P=TILE_P,
        TILE_K=TILE_K,
        **launch_options(NUM_WARPS, NUM_STAGES),
    )


def tile_M(M: int) -> int:
    """Rows of a program's tile, fewer for a readout of at most 16 outputs."""
    return 16 if M <= 16 else 64


def specimens(precision: str = DEFAULT_PRECISION) -> list[Specimen]:
    """The launches for one network at each of the paper's sizes: weights, weights under Dale's law, and readout."""
    return [specimen for size in PAPER_SIZES for specimen in _update_specimens(size, precision)]


def _update_specimens(size: PaperSize, precision: str) -> list[Specimen]:
    T, B, N, N_in, N_out = size.T, size.B, size.N, size.N_in, size.N_out
    P, counted = padded(N + N_in), B * len(checks.steps(size.outputs, T))
    # Since a_0 = 0, the first step has no gradient for the recurrent weights.
    products = B * N * ((T - 1) * N + T * N_in)
    # Name, constraint, M, P, rows, the row lengths of weights and left, multiply-adds.
    launches = (
        ("update", None, N, P, T * B, P, padded(N), products),
        ("update, constrained", "*i8", N, P, T * B, P, padded(N), products),
        ("update of the readout", None, N_out, N, counted, padded(N), padded(N_out), counted * N * N_out),
    )  # fmt: skip
    return [
        Specimen(
            name=f"{name}, N = {N}, T = {T}, B = {B}",
            kernel=momentum_step_kernel,
            arguments={
                "weights": "*fp32",
                "velocity": "*fp32",
                "left": "*fp32",
                "right": "*fp32",
                "constraint": constraint,
                "M": M,
                "P": columns,
                "K": K,
                "left_width": padded(M),
                "right_width": padded(columns),
                "weights_run": M * row,
                "weights_row": row,
                "velocity_run": M * row,
                "velocity_row": row,
                "left_run": K * left_row,
                "left_row": left_row,
                "right_run": (T + 1) * B * P,
                "right_row": P,
                "constraint_run": 0,
                "constraint_row": columns if constraint else 0,
                "scale": 1.0,
                "learning_rate": 3e-3,
                "momentum": 0.9,
                "PRECISION": precision,
                "TILE_M": tile_M(M),
                "TILE_P": TILE_P,
                "TILE_K": TILE_K,
            },
            grid=(triton.cdiv(M, tile_M(M)) * triton.cdiv(columns, TILE_P),),
            num_warps=NUM_WARPS,
            num_stages=NUM_STAGES,
            flops=2 * multiply_adds,
            bytes=4 * (K * (M + columns) + 4 * M * columns) + (M * columns if constraint else 0),
        )
        for name, constraint, M, columns, K, row, left_row, multiply_adds in launches
    ]
