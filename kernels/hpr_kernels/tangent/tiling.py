"""The sizes of a tangent kernel's tiles: networks of a pack, examples, and outputs of an example.

The adjoints of one output of one example are T N numbers. Those of all its outputs may exceed the budget: at T = 200,
N = 300 and 10 outputs per step they take 458 MiB. The adjoints of different outputs do not depend on each other, so a
tile may have any outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.layout import padded
from hpr_kernels.tangent.block import ROWS
from hpr_kernels.tangent.network import NetworkPack, OutputRange


class TileRows(NamedTuple):
    """Rows of a kernel: some examples, and some outputs of each."""

    examples: slice
    outputs: OutputRange


class Tiling(NamedTuple):
    """The largest size of a tile, and the bytes that the contraction of two tiles may allocate."""

    networks: int
    examples: int
    outputs: int
    workspace: int

    def tiles(self, pack: NetworkPack, x: Tensor) -> list[TileRows]:
        """The tiles of x [R or 1, T, B, N_in], examples before outputs."""
        return [
            TileRows(slice(start, start + self.examples), outputs)
            for start in range(0, x.shape[2], self.examples)
            for outputs in pack.split(x.shape[1], self.outputs)
        ]


@contextmanager
def budgeted(workspace: int, memory_budget: int) -> Iterator[None]:
    """Turn a contraction's error about its workspace into one about the caller's budget."""
    try:
        yield
    except checks.BudgetTooSmallError as error:
        least = error.least + memory_budget - workspace
        raise checks.BudgetTooSmallError(least, memory_budget) from None


def kernel_tiling(
    pack: NetworkPack, x: Tensor, B: int, reduce: Reduction, order: Order, memory_budget: int
) -> Tiling:
    """Tiles of a kernel whose longer inputs are `x`, with B examples on the larger side; one tile if all of it fits."""
    R, O, element = len(pack.recurrent), pack.count(x.shape[1]), x.element_size()
    workspace = memory_budget // 2
    whole = pack.examples(x, memory_budget) // B >= R
    if whole and least(pack, x, B, O, reduce, order) <= workspace:
        return Tiling(R, B, O, workspace)
    # A block is copied into the result. It may take a quarter of the budget, and so may the adjoints.
    size = pack.examples(x, memory_budget // 2)
    together = max(1, min(R, size // B))
    size = min(size, int((memory_budget / 4 / element / together) ** 0.5) // O)
    while size and least(pack, x, size, O, reduce, order) > workspace:
        size //= 2
    if size:
        return Tiling(together, size, O, workspace)
    # One copy of a block of K is held.
    return one_example(pack, x, reduce, order, memory_budget, sides=2, entry=element)


def alignment_tiling(pack: NetworkPack, x: Tensor, order: Order, memory_budget: int) -> Tiling:
    """Tiles of the kernels of two packs side by side; a tile of each is held in its own dtype and in fp64."""
    R, B, O, element = len(pack.recurrent), x.shape[2], pack.count(x.shape[1]), x.element_size()
    share = memory_budget // 4
    for networks in dict.fromkeys((R, 1)):
        # Three fp64 copies of a block of b² O² entries may take half of a share.
        block = int((share / 2 / (6 * networks * element)) ** 0.5 / O)
        size = min(B, pack.examples(x, share) // networks, block)
        while size and least(pack, x, size, O, "full", order) > share // 2:
            size //= 2
        if size:
            return Tiling(networks, size, O, share // 2)
    return one_example(pack, x, "full", order, memory_budget, sides=4, entry=2 * element + 5 * 8)


def one_example(
    pack: NetworkPack,
    x: Tensor,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    *,
    sides: int,
    entry: int,
) -> Tiling:
    """As many outputs of one example as fit, if `sides` tiles are held at once with `entry` bytes per entry of K.

    Raises:
        BudgetTooSmallError: one output does not fit.
    """
    for outputs in fewer(pack.count(x.shape[1]), pack.N_out):
        held = sides * tile_bytes(pack, x, outputs) + passing_bytes(pack, x, outputs)
        held += block_entries(outputs, reduce) * entry
        held += 2 * min(ROWS, outputs) * outputs * x.element_size()
        needed = least(pack, x, 1, outputs, reduce, order)
        # With half of the budget a contraction has its full speed.
        if max(held, needed) <= memory_budget // 2:
            return Tiling(1, 1, outputs, memory_budget - held)
    if held + needed > memory_budget:
        raise checks.BudgetTooSmallError(held + needed, memory_budget)
    return Tiling(1, 1, 1, memory_budget - held)


def fewer(outputs: int, N_out: int) -> Iterator[int]:
    """Numbers of outputs to try, descending: all, those of fewer whole steps, then fewer of one step, down to one."""
    steps = outputs // N_out
    while steps:
        yield steps * N_out
        steps = steps * 3 // 4
    while N_out > 1:
        N_out = N_out * 3 // 4
        yield N_out


def tile_bytes(pack: NetworkPack, x: Tensor, outputs: int) -> int:
    """Bytes that a tile of one example of one network keeps: adjoints, diagonal, trace and rates."""
    T, N = x.shape[1], pack.recurrent.shape[-1]
    adjoints = outputs * N * (T + 1) if pack.factored else 0
    copied = T * (N + 1) if pack.scattered else 0
    return x.element_size() * (
        adjoints + (T + 1) * padded(N + pack.inputs_per_step(x)) + T * N + copied
    )


def passing_bytes(pack: NetworkPack, x: Tensor, outputs: int) -> int:
    """Bytes that making such a tile frees again: joined weights and inputs, a copy of the adjoints for the diagonal."""
    T, N = x.shape[1], pack.recurrent.shape[-1]
    weights = 2 * N * padded(N + pack.inputs_per_step(x))
    joined = 0 if pack.bias is None else (T + N) * pack.inputs_per_step(x)
    copied = pack.factored and not pack.self_connections
    copy = outputs * N * T if copied else 0
    return x.element_size() * (weights + joined + copy)


def block_entries(outputs: int, reduce: Reduction) -> int:
    """Entries of K between two tiles of one example each."""
    return {"full": outputs * outputs, "diagonal": outputs, "trace": 1}[reduce]


def least(
    pack: NetworkPack, x: Tensor, examples: int, outputs: int, reduce: Reduction, order: Order
) -> int:
    """Bytes that the contraction of two tiles of one network needs at the least."""
    if not pack.factored:
        return 0
    T, N, F = x.shape[1], pack.recurrent.shape[-1], pack.columns(x)
    return dispatch.least_bytes(examples, outputs, T, N, F, x, reduce, order)
