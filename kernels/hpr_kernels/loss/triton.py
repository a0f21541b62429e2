"""The readout, its loss and both gradients in one launch: a program owns a tile of one network's rows.

The few outputs of a row stay in registers. The launch needs no atomics, because other launches sum over rows in a fixed
order: each program leaves one partial sum of loss, and for classes one of hits, for `mean`, and the launch of the
update accumulates the readout's gradient dyᵀ a.
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

TILE_ROWS, TILE_N = 32, 64
NUM_WARPS, NUM_STAGES = 4, 1
# Pattern generation (Figure 18), and the two-layer linear networks of Figure 4.
REGRESSIONS = (
    PaperSize(T=50, B=1, N=300, N_in=20, N_out=1, outputs="all"),
    PaperSize(T=1, B=256, N=1000, N_in=20, N_out=1, outputs="all"),
)


@triton.jit
def cross_entropy(y, target, N_out):
    """Loss and hit of each row, and ∂loss/∂y, of outputs y [rows, outputs] and classes `target` [rows]."""
    o = tl.arange(0, y.shape[1])[None, :]
    y = tl.where(o < N_out, y, float("-inf"))
    y -= tl.max(y, 1)[:, None]
    log_p = y - tl.log(tl.sum(tl.exp(y), 1))[:, None]
    is_target = o == target[:, None]
    picked = tl.sum(tl.where(is_target, log_p, 0.0), 1)
    # A class that does not exist makes the loss NaN.
    picked = tl.where((target >= 0) & (target < N_out), picked, float("nan"))
    right = tl.sum((log_p >= picked[:, None]).to(tl.int32), 1) == 1
    return -picked, right, tl.exp(log_p) - is_target.to(tl.float32)


# Longer than 60 lines: one launch does all four steps, and a kernel's 33 arguments take one line each.
@triton.jit
def readout_loss_kernel(
    rates,
    readout,
    targets,
    gradient,
    sums,
    dy,
    first,
    T,
    B,
    N,
    N_out,
    rates_width,
    readout_width,
    rates_run,
    rates_step,
    rates_example,
    readout_run,
    readout_output,
    targets_run,
    targets_step,
    targets_example,
    gradient_run,
    gradient_step,
    gradient_example,
    sums_run,
    dy_run,
    dy_row,
    slope,
    CLASSES: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_O: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """y = w a, and from it the tile's sums, K ∂L/∂y, and K ∂L/∂a = wᵀ K ∂L/∂y.

    Of CLASSES, L is the cross-entropy, and the sums are of loss and hits. Otherwise targets are outputs, L is the mean
    squared error, the sum is of (y - target)², and `slope` is 2 / N_out.
    """
    tiles = tl.cdiv(T * B, TILE_ROWS)
    run = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    row = tile * TILE_ROWS + tl.arange(0, TILE_ROWS)
    step, example = (row // B).to(tl.int64), (row % B).to(tl.int64)
    inside = row < T * B
    counted = inside & (step >= first)
    o = tl.arange(0, TILE_O)
    n = tl.arange(0, TILE_N)
    p_rates = rates + run * rates_run + (step * rates_step + example * rates_example)[:, None]
    p_readout = readout + run * readout_run + o.to(tl.int64)[:, None] * readout_output
    is_output = o < N_out

    # Of three products, Triton divides the longer side of a tile among the warps, at least 16 rows or 8 columns each:
    # four warps make a tile of 32 x 16 twice, and one of 16 x 32 once.
    FLAT: tl.constexpr = PRECISION == "tf32x3" and TILE_O < TILE_ROWS
    y = tl.zeros((TILE_O, TILE_ROWS) if FLAT else (TILE_ROWS, TILE_O), tl.float32)
    for start in range(0, N, TILE_N):
        unit = start + n[None, :]
        a = tl.load(p_rates + unit, counted[:, None] & (unit < rates_width), other=0.0)
        w = tl.load(p_readout + unit, is_output[:, None] & (unit < readout_width), other=0.0)
        # The storage behind the units may hold any number, NaN included.
        a = tl.where(unit < N, a, 0.0)
        w = tl.where(unit < N, w, 0.0)
        if FLAT:
            a, w = w, a
        y = plus_product(y, a, tl.trans(w), PRECISION)
    if FLAT:
        y = tl.trans(y)

    in_dy = counted[:, None] & is_output[None, :]
    p_targets = targets + run * targets_run + step * targets_step + example * targets_example
    p_sums = sums + run * sums_run + tile
    if CLASSES:
        loss, right, b_dy = cross_entropy(y, tl.load(p_targets, counted, other=0), N_out)
        tl.store(p_sums + tiles, tl.sum((counted & right).to(tl.float32), 0))
    else:
        difference = y - tl.load(p_targets[:, None] + o[None, :], in_dy, other=0.0)
        # These columns are zero already. That the compiler knows it saves 40 registers at tf32x3 where N_out is 1.
        difference = tl.where(is_output[None, :], difference, 0.0)
        loss = tl.sum(difference * difference, 1)
        b_dy = slope * difference
    tl.store(p_sums, tl.sum(tl.where(counted, loss, 0.0), 0))

    b_dy = tl.where(counted[:, None], b_dy, 0.0)
    p_dy = dy + run * dy_run + (row - first * B).to(tl.int64)[:, None] * dy_row + o[None, :]
    tl.store(p_dy, b_dy, in_dy)

    p_gradient = gradient + run * gradient_run
    p_gradient += (step * gradient_step + example * gradient_example)[:, None]
    for start in range(0, N, TILE_N):
        unit = start + n[None, :]
        w = tl.load(p_readout + unit, is_output[:, None] & (unit < readout_width), other=0.0)
        pulled = plus_product(tl.zeros((TILE_ROWS, TILE_N), tl.float32), b_dy, w, PRECISION)
        tl.store(p_gradient + unit, pulled, inside[:, None] & (unit < N))


def buffers(
    R: int, T: int, B: int, N_out: int, first: int, like: Tensor, classes: bool = True
) -> tuple[Tensor, Tensor]:
    """Partial sums [R, 2, tiles] of loss and hits, or [R, 1, tiles] of loss, and K ∂L/∂y [R, K, N_out], as memory."""
    return (
        like.new_empty(R, 2 if classes else 1, triton.cdiv(T * B, TILE_ROWS)),
        # The launch of the update loads padded rows, 16 bytes at a time, and multiplies the padding: so it is zero.
        like.new_zeros(R, (T - first) * B, padded(N_out))[..., :N_out],
    )


def tile_O(N_out: int) -> int:
    """Outputs per tile: N_out rounded up to a power of two, and at least 16, the smallest size of a product."""
    return max(16, triton.next_power_of_2(N_out))


def mean(sums: Tensor, count: int) -> Tensor:
    """Means [...] of `count` terms from partial sums [..., tiles].

    The sum is taken in fp64. It adds numbers of fp32 without rounding unless the largest is 2²⁰ times the least, so the
    order of the sum does not show in the result.
    """
    return (sums.double().sum(-1) / count).to(sums.dtype)


def readout_cross_entropy(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    sums: Tensor,
    dy: Tensor,
    first: int,
    precision: str = DEFAULT_PRECISION,
) -> None:
    """One launch; `mean` turns `sums` into loss and accuracy."""
    _launch(rates, readout, targets[..., None], gradient, sums, dy, first, precision, True)


def readout_squared_error(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    sums: Tensor,
    dy: Tensor,
    first: int,
    precision: str = DEFAULT_PRECISION,
) -> None:
    """One launch; `mean` turns `sums` into the loss."""
    _launch(rates, readout, targets, gradient, sums, dy, first, precision, False)


def _launch(
    rates: Tensor,
    readout: Tensor,
    targets: Tensor,
    gradient: Tensor,
    sums: Tensor,
    dy: Tensor,
    first: int,
    precision: str,
    classes: bool,
) -> None:
    R, T, B, N = rates.shape
    N_out = readout.shape[1]
    for name, value in (("rates", rates), ("readout", readout), ("gradient", gradient)):
        if N > 1 and value.stride(-1) != 1:
            raise ValueError(f"{name}: expected units side by side in memory, got {value.stride()}")
    targets = targets.contiguous()
    readout_loss_kernel[(R * triton.cdiv(T * B, TILE_ROWS),)](
        rates,
        readout,
        targets,
        gradient,
        sums,
        dy,
        first,
        T,
        B,
        N,
        N_out,
        readable(rates),
        readable(readout),
        *rates.stride()[:3],
        *readout.stride()[:2],
        *targets.stride()[:3],
        *gradient.stride()[:3],
        sums.stride(0),
        *dy.stride()[:2],
        2 / N_out,
        CLASSES=classes,
        PRECISION=precision,
        TILE_ROWS=TILE_ROWS,
        TILE_O=tile_O(N_out),
        TILE_N=TILE_N,
        **launch_options(NUM_WARPS, NUM_STAGES),
    )


def specimens(precision: str = DEFAULT_PRECISION) -> list[Specimen]:
    """The cross-entropy's launch for one network at each of the paper's sizes, the squared error's at `REGRESSIONS`."""
    classes = [_specimen(size, precision, True) for size in PAPER_SIZES]
    return classes + [_specimen(size, precision, False) for size in REGRESSIONS]


def _specimen(size: PaperSize, precision: str, classes: bool) -> Specimen:
    T, B, N, N_in, N_out = size.T, size.B, size.N, size.N_in, size.N_out
    steps = checks.steps(size.outputs, T)
    P, width, counted = padded(N + N_in), padded(N), B * len(steps)
    tiles = triton.cdiv(T * B, TILE_ROWS)
    # Numbers per target.
    each = 1 if classes else N_out
    return Specimen(
        name=f"{'cross-entropy' if classes else 'squared error'}, N = {N}, T = {T}, B = {B}",
        kernel=readout_loss_kernel,
        arguments={
            "rates": "*fp32",
            "readout": "*fp32",
            "targets": "*i64" if classes else "*fp32",
            "gradient": "*fp32",
            "sums": "*fp32",
            "dy": "*fp32",
            "first": steps[0],
            "T": T,
            "B": B,
            "N": N,
            "N_out": N_out,
            "rates_width": width,
            "readout_width": width,
            "rates_run": (T + 1) * B * P,
            "rates_step": B * P,
            "rates_example": P,
            "readout_run": N_out * width,
            "readout_output": width,
            "targets_run": T * B * each,
            "targets_step": B * each,
            "targets_example": each,
            "gradient_run": T * B * width,
            "gradient_step": B * width,
            "gradient_example": width,
            "sums_run": (2 if classes else 1) * tiles,
            "dy_run": counted * padded(N_out),
            "dy_row": padded(N_out),
            "slope": 2 / N_out,
            "CLASSES": classes,
            "PRECISION": precision,
            "TILE_ROWS": TILE_ROWS,
            "TILE_O": tile_O(N_out),
            "TILE_N": TILE_N,
        },
        grid=(tiles,),
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        flops=4 * counted * N * N_out,
        bytes=4 * (counted * (N + N_out) + T * B * N + N_out * N)
        + (8 if classes else 4 * N_out) * counted,
    )
