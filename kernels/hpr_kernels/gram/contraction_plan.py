"""The cost of each order of contraction by torch, in closed form, and the choice between the orders.

`docs/derivations.md` derives the terms, and `FactoredJacobian.gram(order="auto")` uses them. A cost is a number of
multiply-adds of a large matrix product. Slower work (narrow products, passes over memory) counts as the multiply-adds
that take the same time, with the weights below. `benchmarks/planner.py` compares the choice with measured times.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

from hpr_kernels.checks import BudgetTooSmallError, Order
from hpr_kernels.native.library import isa

# Bytes that a contraction may allocate beside its result.
MEMORY_BUDGET = 256 << 20

# The fixed cost of one call, in multiply-adds.
CALL = 8e5
# A product over N costs as much as one over N + NARROW at full speed.
NARROW = 16.0
# `propagate` writes and reads an element of Σ_s' ⟨z_s, z_s'⟩ g_s' at this cost.
PROPAGATED = 24.0
# `dense` writes and reads an element of J at this cost.
JACOBIAN = 90.0

# The C kernel's costs beside one multiply-add of a large product by torch: by instruction set a multiply-add of the
# products that make Σ_s' ⟨z_s, z_s'⟩ g_s' and one of those with g_s, where torch's products gain less from AVX-512; an
# entry of K, and a pair of examples.
NATIVE_PRODUCTS = {"avx512": (0.4, 0.55)}
NATIVE_PRODUCTS_ELSEWHERE = (1.2, 1.6)
NATIVE_ENTRY = 60.0
NATIVE_PAIR = 6e3

# These sizes fit a core's cache: rows of a block of `hadamard`; bytes that `propagate` writes before it reads them;
# bytes of adjoints that `propagate` reads for one left example; entries of a row of J that `dense` writes.
HADAMARD_ROWS = 192
PROPAGATE_BLOCK = 2 << 20
PROPAGATE_TILE = 10 << 20
# The C kernel: rows (example, step) of the right examples of a task, and lines of products between its two stages.
TASK_ROWS = 128
NATIVE_LINES = 240
DENSE_ENTRIES = 4096


@dataclass(frozen=True)
class ContractionShape:
    """What the cost of K [B1 O1, B2 O2] depends on; `reach` as in `FactoredJacobian`, `element` in bytes.

    `threads` blocks are computed at a time. With `native` the C kernel serves "propagate".
    """

    B1: int
    B2: int
    reach1: tuple[int, ...]
    reach2: tuple[int, ...]
    S1: int
    S2: int
    N: int
    F: int
    element: int
    symmetric: bool
    threads: int
    native: bool = False

    @property
    def pairs(self) -> float:
        """Pairs of examples that are computed: about half of them where K is symmetric."""
        return self.B1 * (self.B1 + 1) / 2 if self.symmetric else float(self.B1 * self.B2)

    @property
    def O1(self) -> int:
        """Outputs of an example on the left."""
        return len(self.reach1)

    @property
    def O2(self) -> int:
        """Outputs of an example on the right."""
        return len(self.reach2)


@dataclass(frozen=True)
class OrderCost:
    """Multiply-adds, the same weighted by time, and the bytes that the smallest block needs."""

    multiply_adds: float
    weighted: float
    least_bytes: int


@dataclass(frozen=True)
class ContractionPlan:
    """The chosen order, the size of its blocks, the bytes that they need, the cost of each order, and the reason.

    `block` counts examples for "hadamard", rows on the right for "propagate" and units for "dense". If `native`, the C
    kernel serves "propagate", which has no blocks of another size.
    """

    order: Order
    block: int
    workspace: int
    costs: dict[Order, OrderCost]
    reason: str
    native: bool = False


def make_plan(shape: ContractionShape, order: Order, memory_budget: int) -> ContractionPlan:
    """Plan by `order`, or with "auto" by the cheapest order that fits; blocks have their fastest size, or less to fit.

    Torch serves "propagate" where the budget is too small for the C kernel.

    Raises:
        BudgetTooSmallError: the smallest block does not fit.
    """
    if shape.native and workspace(shape, "propagate", 1) > memory_budget:
        shape = replace(shape, native=False)
    table = {name: OrderCost(*_WORK[name](shape), least_workspace(shape, name)) for name in _WORK}
    asked: list[Order] = list(table) if order == "auto" else [order]
    fitting = [name for name in asked if table[name].least_bytes <= memory_budget]
    if not fitting:
        raise BudgetTooSmallError(least_workspace(shape, order), memory_budget)
    chosen = min(fitting, key=lambda name: table[name].weighted)
    block = _FULL_BLOCK[chosen](shape)
    while workspace(shape, chosen, block) > memory_budget:
        block = block // 2 if block > 16 else block - 1
    listed = ", ".join(f"{name} {cost.weighted:.2g}" for name, cost in table.items())
    reason = f"weighted multiply-adds: {listed}"
    if order != "auto":
        reason = f"asked for; {reason}"
    elif len(fitting) < len(table):
        reason += f"; beyond the memory budget: {', '.join(sorted(set(table) - set(fitting)))}"
    return ContractionPlan(
        chosen, block, workspace(shape, chosen, block), table, reason, shape.native
    )


def least_workspace(shape: ContractionShape, order: Order) -> int:
    """Bytes that the smallest block of `order` needs by torch, or with "auto" the least over all orders."""
    shape = replace(shape, native=False)
    return min(workspace(shape, name, 1) for name in (_WORK if order == "auto" else [order]))


def workspace(shape: ContractionShape, order: Order, block: int) -> int:
    """Bytes that `order` allocates beside its result with blocks of this size."""
    s = shape
    M1, M2 = s.B1 * s.O1, 0 if s.symmetric else s.B2 * s.O2
    if order == "hadamard":
        rows1, rows2 = block * s.O1, block * s.O2
        # Per thread: copies of the adjoints of both sides; a block of K and two products of its size; ⟨z, z'⟩.
        each = s.N * (rows1 * s.S1 + rows2 * s.S2) + 3 * rows1 * rows2 + block * block
        return s.threads * each * s.element
    if order == "propagate" and s.native:
        # Both sides' adjoints and the right side's inputs with padded rows; per thread ⟨z, z'⟩ and sums of W numbers.
        W = 64 // s.element
        adjoints = (s.N + W) * (M1 * s.S1 + M2 * s.S2)
        inputs = (s.B2 * s.S2 + W * s.B2) * s.F
        each = s.S1 * max(s.S2, TASK_ROWS + W) + W * (NATIVE_LINES + s.S1 * 12 + s.O1 * 12)
        return (adjoints + inputs + s.threads * each) * s.element
    if order == "propagate":
        tile = tile_examples(s.B2, s.O2, s.S2, s.N, s.element, s.B1)
        # Copies of the adjoints of both sides; per thread a block, its factors, and ⟨z, z'⟩ of a tile.
        adjoints = s.N * (M1 * s.S1 + M2 * s.S2)
        each = block * s.S1 * (s.N + s.S2) + tile * (s.S1 * s.S2 + s.O2 * 2)
        return (adjoints + s.threads * each) * s.element
    # Columns of J of both sides, and copies of the adjoints that they are made from.
    steps = max(s.S1, s.S2)
    return (M1 + M2) * block * (s.F + steps) * s.element


def tile_examples(B2: int, O2: int, S2: int, N: int, element: int, B1: int) -> int:
    """Examples on the right that `propagate` contracts with one left example before it takes the next left example."""
    cached = PROPAGATE_TILE // (O2 * S2 * N * element)
    # With few examples on the left, tiles must be small enough to give every core some.
    return max(1, min(B2, cached, -(-B2 * B1 // 64)))


def first_output(reach: tuple[int, ...], s: int) -> int:
    """The first output that reaches step s; all later outputs reach it too."""
    return bisect_left(reach, s)


def halves(reach: tuple[int, ...], S: int) -> list[tuple[int, int, int]]:
    """Up to two runs of steps, each (start, stop, first output that reaches start): later steps have fewer outputs."""
    middle = S // 2
    later = first_output(reach, middle)
    if not later:
        return [(0, S, 0)]
    return [(0, middle, 0), (middle, S, later)] if later < len(reach) else [(0, middle, 0)]


def reached(reach: tuple[int, ...]) -> int:
    """Pairs (output, step) with a non-zero adjoint."""
    return sum(last + 1 for last in reach)


def _hadamard(s: ContractionShape) -> tuple[float, float]:
    entries = s.pairs * reached(s.reach1) * reached(s.reach2)
    inputs = s.pairs * s.S1 * s.S2
    block = _FULL_BLOCK["hadamard"](s)
    calls = 3 * math.ceil(s.pairs / block**2) * s.S1 * s.S2
    return (
        entries * s.N + inputs * s.F,
        entries * (s.N + NARROW) + inputs * (s.F + NARROW) + CALL * calls,
    )


def _propagate(s: ContractionShape) -> tuple[float, float]:
    if s.native:
        return _propagate_native(s)
    elements = s.pairs * s.O2 * s.S1 * s.N
    outputs = sum((stop - start) * (s.O1 - o) for start, stop, o in halves(s.reach1, s.S1)) / s.S1
    inputs = s.pairs * s.S1 * s.S2
    padded = elements * (s.N + NARROW) / s.N
    block = _FULL_BLOCK["propagate"](s)
    calls = 4 * s.B1 + 4 * s.pairs * s.O2 / block
    return (
        elements * (s.S2 + outputs) + inputs * s.F,
        padded * (s.S2 + outputs + PROPAGATED) + inputs * (s.F + NARROW) + CALL * calls,
    )


def _propagate_native(s: ContractionShape) -> tuple[float, float]:
    W = 64 // s.element
    padded = s.pairs * math.ceil(s.N / W) * W
    propagated = padded * reached(s.reach2) * (s.reach1[-1] + 1)
    contracted = padded * reached(s.reach1) * s.O2
    inputs = s.pairs * s.S1 * s.S2 * s.F
    first, second = NATIVE_PRODUCTS.get(isa(), NATIVE_PRODUCTS_ELSEWHERE)
    return (
        propagated + contracted + inputs,
        first * (propagated + inputs)
        + second * contracted
        + s.pairs * (NATIVE_ENTRY * s.O1 * s.O2 + NATIVE_PAIR),
    )


def _dense(s: ContractionShape) -> tuple[float, float]:
    entries = s.pairs * s.O1 * s.O2
    written = float(s.N * s.F) * (s.B1 * s.O1 + (0 if s.symmetric else s.B2 * s.O2))
    steps = max(s.S1, s.S2)
    calls = math.ceil(s.N / _FULL_BLOCK["dense"](s)) * (3 + s.B1 * s.O1 / 256)
    return (
        entries * s.N * s.F + written * steps,
        entries * s.N * s.F + written * (steps + JACOBIAN) + CALL * calls,
    )


_WORK: dict[Order, Callable[[ContractionShape], tuple[float, float]]] = {
    "hadamard": _hadamard,
    "propagate": _propagate,
    "dense": _dense,
}
_FULL_BLOCK: dict[Order, Callable[[ContractionShape], int]] = {
    "hadamard": lambda s: max(1, min(max(s.B1, s.B2), HADAMARD_ROWS // max(s.O1, s.O2))),
    "propagate": lambda s: max(
        1, min(s.B2 * s.O2, PROPAGATE_BLOCK // (s.S1 * s.N * s.element) // 8 * 8)
    ),
    "dense": lambda s: min(s.N, math.ceil(DENSE_ENTRIES / s.F)),
}
