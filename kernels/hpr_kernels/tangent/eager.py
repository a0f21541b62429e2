"""A tangent kernel, and the sums of an alignment of two, tile by tile."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hpr_kernels.backend import uses_native
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.memory import give_back, on_huge_pages
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent import native
from hpr_kernels.tangent.block import ROWS
from hpr_kernels.tangent.network import NetworkPack
from hpr_kernels.tangent.tiling import TileRows, alignment_tiling, budgeted, kernel_tiling
from hpr_kernels.workers import each


def kernel(
    pack: NetworkPack,
    x1: Tensor,
    x2: Tensor | None,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    progress: Progress | None = None,
) -> Tensor:
    """K of x1 and x2 [R or 1, T, B, N_in]: at once if all adjoints fit, else in tiles (see `tiling`)."""
    right = x1 if x2 is None else x2
    longer = x1 if x1.shape[1] > right.shape[1] else right
    R, B1, B2 = len(pack.recurrent), x1.shape[2], right.shape[2]
    tiling = kernel_tiling(
        pack, longer, B1, None if x2 is None else B2, reduce, order, memory_budget
    )
    rows, columns = (tiling.tiles(pack, x) for x in (x1, right))
    if tiling.networks == R and len(rows) == len(columns) == 1:
        left = pack.block(x1)
        other = None if x2 is None else pack.block(x2)
        with budgeted(tiling.workspace, memory_budget):
            K = left.kernel(other, reduce, order, tiling.workspace)
        Steps(progress, 1).step()
        return K
    O, P = pack.count(x1.shape[1]), pack.count(right.shape[1])
    shapes = {"full": (B1, O, B2, P), "diagonal": (B1, B2, O), "trace": (B1, B2)}
    K = on_huge_pages(x1.new_empty(R, *shapes[reduce]))
    facing = partial(_facing, rows, columns, x2 is None, reduce)
    blocks = sum(len(facing(number)) for number in range(len(rows)))
    steps = Steps(progress, -(-R // tiling.networks) * blocks)
    for some, part in pack.networks(tiling.networks):
        y1, y2 = (x if len(x) == 1 else x[some] for x in (x1, right))
        for number, row in enumerate(rows):
            left = part.block(y1[:, :, row.examples], row.outputs)
            for column in facing(number):
                same = x2 is None and column == row
                other = None if same else part.block(y2[:, :, column.examples], column.outputs)
                with budgeted(tiling.workspace, memory_budget):
                    block = left.kernel(other, reduce, order, tiling.workspace)
                _place(K[some], block, row, column, reduce)
                if x2 is None and not same:
                    # K(x', x) is the transpose, of the outputs as well.
                    _place(K[some], block.transpose(1, 2), column, row, reduce)
                # Free the memory before the next block is made.
                del other, block
                give_back(x1.device)
                steps.step()
            del left
            give_back(x1.device)
    return K.flatten(3).flatten(1, 2) if reduce == "full" else K


def _facing(
    rows: list[TileRows], columns: list[TileRows], symmetric: bool, reduce: Reduction, number: int
) -> list[TileRows]:
    """The tiles of columns with which the tile `number` of rows makes a block, one for each pair if `symmetric`."""
    return [
        column
        for column in (columns[number:] if symmetric else columns)
        if reduce == "full" or rows[number].outputs.rows == column.outputs.rows
    ]


def _place(K: Tensor, block: Tensor, row: TileRows, column: TileRows, reduce: Reduction) -> None:
    """Write the block between two tiles into K; a trace is the sum over the tiles of outputs."""
    if reduce == "full":
        target = K[:, row.examples, row.outputs.rows, column.examples, column.outputs.rows]
        target.copy_(block.unflatten(2, target.shape[3:]).unflatten(1, target.shape[1:3]))
    elif reduce == "diagonal":
        K[:, row.examples, column.examples, row.outputs.rows] = block
    elif row.outputs.rows.start == 0:
        K[:, row.examples, column.examples] = block
    else:
        K[:, row.examples, column.examples] += block


def alignment_sums(
    before: NetworkPack,
    after: NetworkPack,
    x: Tensor,
    order: Order,
    memory_budget: int,
    progress: Progress | None = None,
) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64; `before` makes K_0, `after` K_f; x [R or 1, T, B, N_in]."""
    sums = torch.zeros(3, len(before.recurrent), dtype=torch.float64, device=x.device)
    tiling = alignment_tiling(before, x, order, memory_budget)
    tiles = tiling.tiles(before, x)
    packs = -(-len(before.recurrent) // tiling.networks)
    steps = Steps(progress, packs * len(tiles) * (len(tiles) + 1) // 2)
    pairs = zip(*(pack.networks(tiling.networks) for pack in (before, after)), strict=True)
    for (some, old), (_, new) in pairs:
        y = x if len(x) == 1 else x[some]
        for number, row in enumerate(tiles):
            lefts = [part.block(y[:, :, row.examples], row.outputs) for part in (old, new)]
            for column in tiles[number:]:
                blocks = []
                for part, left in zip((old, new), lefts, strict=True):
                    other = None
                    if column != row:
                        other = part.block(y[:, :, column.examples], column.outputs)
                    with budgeted(tiling.workspace, memory_budget):
                        blocks.append(left.kernel(other, "full", order, tiling.workspace))
                    # Free the memory before the next block is made.
                    del other
                # A block off the diagonal counts for its transpose, too.
                sums[:, some] += (1.0 if column == row else 2.0) * kernel_sums(*blocks)
                del blocks
                give_back(x.device)
                steps.step()
            del lefts
            give_back(x.device)
    return sums


def kernel_sums(K_0: Tensor, K_f: Tensor) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0² of kernels [R, M1, M2], [3, R] in fp64, some rows at a time."""
    alike = K_0.dtype == K_f.dtype and K_0.shape == K_f.shape
    if uses_native(K_0) and alike and K_0.numel() and K_0.is_contiguous() and K_f.is_contiguous():
        return native.block_sums(K_0, K_f)
    starts = range(0, K_0.shape[1], ROWS)
    sums = torch.empty(len(starts), 3, len(K_0), dtype=torch.float64, device=K_0.device)

    def add(number: int) -> None:
        a, b = (K[:, starts[number] :][:, :ROWS].double() for K in (K_0, K_f))
        for q, (one, other) in enumerate(((a, b), (b, b), (a, a))):
            sums[number, q] = (one * other).sum((1, 2))

    each(add, range(len(starts)), K_0.device)
    return sums.sum(0)
