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
from hpr_kernels.backend import uses_native
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.layout import padded
from hpr_kernels.tangent.block import rows_at_once
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
    pack: NetworkPack,
    x: Tensor,
    B1: int,
    B2: int | None,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
) -> Tiling:
    """The largest tiles of a kernel [B1 O, B2 O], B2 None if it is symmetric, whose longer inputs are `x`.

    Tiles of b examples cost the adjoints of every example again for each other tile, so larger tiles are faster.
    """
    R, O, element = len(pack.recurrent), pack.count(x.shape[1]), x.element_size()
    B = max(B1, B2 or 0)
    for networks, size in _sizes(R, B):
        whole = size == B
        examples = B1 + (B2 or 0) if whole else 2 * size
        # A block is copied into the result, unless it is the result.
        copied = 0 if whole and networks == R else size**2 * block_entries(O, reduce) * element
        held = networks * (copied + _held(pack, x, examples, size))
        needed = full_speed(pack, x, size, reduce, order, memory_budget, whole and B2 is None)
        if held + needed <= memory_budget:
            return Tiling(networks, size, O, memory_budget - held)
    # One copy of a block of K is held.
    return one_example(pack, x, reduce, order, memory_budget, sides=2, entry=element)


def alignment_tiling(pack: NetworkPack, x: Tensor, order: Order, memory_budget: int) -> Tiling:
    """The largest tiles of the kernels of two packs side by side."""
    R, B, O, element = len(pack.recurrent), x.shape[2], pack.count(x.shape[1]), x.element_size()
    for networks, size in _sizes(R, B):
        whole = size == B
        # The left tiles of both packs, and one right tile at a time; a block of each kernel, and by torch rows in fp64.
        rows = size * O
        copies = 0 if uses_native(x) else 3 * 8 * rows_at_once(rows, x.device) * rows
        blocks = 2 * rows**2 * element + copies
        held = networks * (blocks + _held(pack, x, (2 if whole else 3) * size, size))
        needed = full_speed(pack, x, size, "full", order, memory_budget, whole)
        if held + needed <= memory_budget:
            return Tiling(networks, size, O, memory_budget - held)
    return one_example(pack, x, "full", order, memory_budget, sides=4, entry=2 * element + 5 * 8)


def _sizes(R: int, B: int) -> Iterator[tuple[int, int]]:
    """Numbers of networks and of examples to try, descending: all, all examples of fewer networks, fewer of one."""
    networks = R
    while networks > 1:
        yield networks, B
        networks = -(-networks // 2)
    tiles, size = 1, B
    while True:
        yield 1, size
        if size <= 1:
            return
        tiles = max(tiles + 1, tiles * 5 // 4)
        size = -(-B // tiles)


def _held(pack: NetworkPack, x: Tensor, examples: int, size: int) -> int:
    """Bytes of the tiles of some examples of one network, and those that making one of `size` examples frees again."""
    O = pack.count(x.shape[1])
    products = 2 * rows_at_once(size * O, x.device) * size * O * x.element_size()
    return examples * tile_bytes(pack, x, O) + passing_bytes(pack, x, O, size) + products


def full_speed(
    pack: NetworkPack,
    x: Tensor,
    examples: int,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    symmetric: bool,
) -> int:
    """Bytes with which the contraction of two tiles of one network has its full speed, or half of the budget."""
    if not pack.factored:
        return 0
    T, N, F = x.shape[1], pack.recurrent.shape[-1], pack.columns(x)
    O = pack.count(T)
    full = dispatch.full_speed_bytes(examples, O, T, N, F, x, reduce, order, symmetric=symmetric)
    return min(full, max(memory_budget // 2, least(pack, x, examples, O, reduce, order)))


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
        held += 2 * rows_at_once(outputs, x.device) * outputs * x.element_size()
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


def passing_bytes(pack: NetworkPack, x: Tensor, outputs: int, examples: int = 1) -> int:
    """Bytes that making such tiles frees again: joined weights and inputs, a copy of the adjoints for the diagonal."""
    T, N = x.shape[1], pack.recurrent.shape[-1]
    weights = 2 * N * padded(N + pack.inputs_per_step(x))
    joined = 0 if pack.bias is None else (examples * T + N) * pack.inputs_per_step(x)
    copied = pack.factored and not pack.self_connections
    copy = examples * outputs * N * T if copied else 0
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
