"""How much of a tangent kernel is made at a time: networks of a pack, examples, and some outputs of too large a one.

A tile's adjoints take T N numbers an output of an example, so that the outputs of one example alone may be more than
the budget holds: at T = 200, N = 300 and 10 outputs a step they take 458 MiB. The adjoints of different outputs do not
depend on each other, so any of them can be made without the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import uses_triton
from hpr_kernels.gram.plan import Shape, least_workspace
from hpr_kernels.gram.workers import threads
from hpr_kernels.layout import padded
from hpr_kernels.tangent.network import ROWS, Network, Outputs


class Part(NamedTuple):
    """Which rows of a kernel a tile makes: some examples, some outputs of each."""

    examples: slice
    outputs: Outputs


class Tiling(NamedTuple):
    """What a tile is made of at most, and the bytes that the contraction of two tiles may allocate."""

    networks: int
    examples: int
    outputs: int
    workspace: int

    def tiles(self, network: Network, x: Tensor) -> list[Part]:
        """The tiles of x [R or 1, T, B, N_in], examples before outputs."""
        return [
            Part(slice(start, start + self.examples), outputs)
            for start in range(0, x.shape[2], self.examples)
            for outputs in network.split(x.shape[1], self.outputs)
        ]


@contextmanager
def budgeted(workspace: int, memory_budget: int) -> Iterator[None]:
    """Say in terms of the caller's budget what a contraction says of the workspace that it was given."""
    try:
        yield
    except checks.BudgetTooSmallError as error:
        least = error.least + memory_budget - workspace
        raise checks.BudgetTooSmallError(least, memory_budget) from None


def kernel_tiling(
    network: Network, x: Tensor, B: int, reduce: str, order: str, memory_budget: int
) -> Tiling:
    """Tiles of a kernel whose longer inputs are `x`, B examples on the larger side: one tile, if all of it fits."""
    R, O, element = len(network.recurrent), outputs_of(network, x), x.element_size()
    workspace = memory_budget // 2
    whole = network.examples(x, memory_budget) // B >= R
    if whole and least(network, x, B, O, reduce, order) <= workspace:
        return Tiling(R, B, O, workspace)
    # A block is copied into the result: of the budget a quarter is for it, and a quarter for the adjoints.
    size = network.examples(x, memory_budget // 2)
    together = max(1, min(R, size // B))
    size = min(size, int((memory_budget / 4 / element / together) ** 0.5) // O)
    while size and least(network, x, size, O, reduce, order) > workspace:
        size //= 2
    if size:
        return Tiling(together, size, O, workspace)
    # A block, and what is added to it at a time with its mean.
    return one_example(network, x, reduce, order, memory_budget, sides=2, entry=element)


def alignment_tiling(network: Network, x: Tensor, order: str, memory_budget: int) -> Tiling:
    """Tiles of the kernels of two networks side by side, which are both held in fp32 and in fp64."""
    R, B, O, element = (
        len(network.recurrent), x.shape[2], outputs_of(network, x), x.element_size(),
    )  # fmt: skip
    share = memory_budget // 4
    for networks in dict.fromkeys((R, 1)):
        # Three fp64-sized copies of a block of b² O² entries in half of a share.
        block = int((share / 2 / (6 * networks * element)) ** 0.5 / O)
        size = min(B, network.examples(x, share) // networks, block)
        while size and least(network, x, size, O, "full", order) > share // 2:
            size //= 2
        if size:
            return Tiling(networks, size, O, share // 2)
    return one_example(network, x, "full", order, memory_budget, sides=4, entry=2 * element + 5 * 8)


def one_example(
    network: Network,
    x: Tensor,
    reduce: str,
    order: str,
    memory_budget: int,
    *,
    sides: int,
    entry: int,
) -> Tiling:
    """As many outputs of one example as fit, with `sides` tiles held at once and `entry` bytes an entry of a block.

    Raises:
        BudgetTooSmallError: not even one output fits.
    """
    for outputs in fewer(outputs_of(network, x), network.N_out):
        held = sides * tile_bytes(network, x, outputs) + passing_bytes(network, x, outputs)
        held += block_entries(outputs, reduce) * entry
        held += 2 * min(ROWS, outputs) * outputs * x.element_size()
        needed = least(network, x, 1, outputs, reduce, order)
        # The contraction is at its best with half of the budget.
        if max(held, needed) <= memory_budget // 2:
            return Tiling(1, 1, outputs, memory_budget - held)
    if held + needed > memory_budget:
        raise checks.BudgetTooSmallError(held + needed, memory_budget)
    return Tiling(1, 1, 1, memory_budget - held)


def fewer(outputs: int, N_out: int) -> Iterator[int]:
    """All outputs of an example, then those of ever fewer whole steps, then ever fewer of one step, down to one."""
    steps = outputs // N_out
    while steps:
        yield steps * N_out
        steps = steps * 3 // 4
    while N_out > 1:
        N_out = N_out * 3 // 4
        yield N_out


def outputs_of(network: Network, x: Tensor) -> int:
    """Outputs of an example."""
    return len(checks.steps(network.outputs, x.shape[1])) * network.N_out


def tile_bytes(network: Network, x: Tensor, outputs: int) -> int:
    """What a tile of one example of one network keeps: adjoints, diagonal, trace and rates."""
    _, T, _, N_in = x.shape
    N = network.recurrent.shape[-1]
    adjoints = outputs * N * (T + 1) if factored(network) else 0
    return x.element_size() * (adjoints + (T + 1) * padded(N + N_in) + T * N)


def passing_bytes(network: Network, x: Tensor, outputs: int) -> int:
    """What the making of such a tile needs for a while: the joined weights, a copy of the adjoints for the diagonal."""
    N = network.recurrent.shape[-1]
    weights = 2 * N * padded(N + x.shape[-1])
    copied = factored(network) and not network.self_connections
    copy = outputs * N * x.shape[1] if copied else 0
    return x.element_size() * (weights + copy)


def block_entries(outputs: int, reduce: str) -> int:
    """Entries of K between two tiles of one example each."""
    return {"full": outputs * outputs, "diagonal": outputs, "trace": 1}[reduce]


def factored(network: Network) -> bool:
    """Whether the kernel has terms that adjoints make: all but the readout's."""
    return set(network.groups) != {"readout"}


def least(network: Network, x: Tensor, examples: int, outputs: int, reduce: str, order: str) -> int:
    """Bytes that the contraction of two tiles of one network needs at the least."""
    if not factored(network):
        return 0
    _, T, _, N_in = x.shape
    N = network.recurrent.shape[-1]
    F = N * ("recurrent" in network.groups) + N_in * ("input" in network.groups)
    element = x.element_size()
    if uses_triton(x) and order != "propagate":
        # Copies for the kernels, which pad examples to fours, and the buffers of one step.
        rows = 4 * (-(-examples // 4))
        return 2 * element * rows * T * (2 * outputs * (N + 4) + 4 * (F + 4)) + 4 * rows * rows * T
    reach = (T - 1,) * (outputs if reduce == "full" else 1)
    shape = Shape(
        examples, examples, reach, reach, T, T, N * outputs if reduce == "trace" else N, F, element,
        symmetric=False, threads=threads(x.device),
    )  # fmt: skip
    return least_workspace(shape, order)
