"""What each order of contraction costs, in closed form, and which one a shape should take.

`kernels/README.md` explains the terms; `FactoredJacobian.gram(order="auto")` follows them. A cost is in multiply-adds
of a large matrix product: small products and passes over memory count as the multiply-adds that take as long, with the
weights below. They were read off a few products on one processor with AVX-512, matter only relative to each other, and
have not been checked over many shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bytes that a contraction may allocate beside its result.
MEMORY_BUDGET = 256 << 20

# A multiply-add and a load and store of each element of a block of K, for `hadamard`.
ACCUMULATE = 110.0
# Writing and reading an element of Σ_s' ⟨z_s, z_s'⟩ g_s', and the start of a narrow product with it, for `propagate`.
PROPAGATED = 36.0
# Writing and reading an element of J, for `dense`.
JACOBIAN = 60.0
# Bytes of Σ_s' ⟨z_s, z_s'⟩ g_s' that `propagate` holds at a time: enough rows for the products, few for the cache.
PROPAGATE_BLOCK = 5 << 20


@dataclass(frozen=True)
class Shape:
    """What the cost of K [B1 O1, B2 O2] depends on; `reach` as in `FactoredJacobian`, `element` in bytes."""

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

    @property
    def pairs(self) -> float:
        """Pairs of examples that are computed: about half of them where K is symmetric."""
        return self.B1 * (self.B1 + 1) / 2 if self.symmetric else float(self.B1 * self.B2)


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, those and the weighted passes over memory, and bytes needed: fixed, and for each left example."""

    multiply_adds: float
    weighted: float
    fixed_bytes: int
    example_bytes: int


@dataclass(frozen=True)
class Plan:
    """The chosen order, the left examples that it takes at a time, bytes at hand, each order's cost, and the reason."""

    order: str
    examples: int
    memory: int
    costs: dict[str, Cost]
    reason: str


def costs(shape: Shape) -> dict[str, Cost]:
    """The cost of each order."""
    return {"hadamard": _hadamard(shape), "propagate": _propagate(shape), "dense": _dense(shape)}


def make_plan(shape: Shape, order: str, memory_budget: int) -> Plan:
    """Take `order`, or with "auto" the cheapest that fits, and as many examples at a time as `memory_budget` allows.

    Raises:
        ValueError: not even one example fits, with the bytes that would.
    """
    table = costs(shape)
    fitting = {
        name: cost
        for name, cost in table.items()
        if cost.fixed_bytes + cost.example_bytes <= memory_budget and order in ("auto", name)
    }
    if not fitting:
        asked = table.values() if order == "auto" else [table[order]]
        least = min(cost.fixed_bytes + cost.example_bytes for cost in asked)
        raise ValueError(f"memory_budget: expected at least {least} bytes, got {memory_budget}")
    chosen = min(fitting, key=lambda name: fitting[name].weighted)
    cost = fitting[chosen]
    examples = (memory_budget - cost.fixed_bytes) // cost.example_bytes
    if chosen == "propagate":
        propagated = shape.S1 * shape.N * len(shape.reach2) * shape.element
        examples = min(examples, PROPAGATE_BLOCK // propagated)
    elif chosen == "dense":
        # Half for the left block, half for the right one; an example is as many rows as it has outputs.
        examples //= 2 * len(shape.reach1)
    listed = ", ".join(f"{name} {cost.weighted:.2g}" for name, cost in table.items())
    refused = sorted(set(table) - set(fitting)) if order == "auto" else []
    reason = f"weighted multiply-adds: {listed}"
    if order != "auto":
        reason = f"asked for; {reason}"
    if refused:
        reason += f"; beyond the memory budget: {', '.join(refused)}"
    return Plan(chosen, max(1, min(shape.B1, examples)), memory_budget, table, reason)


def reached(reach: tuple[int, ...]) -> int:
    """Pairs (output, step) with a non-zero adjoint."""
    return sum(last + 1 for last in reach)


def _hadamard(shape: Shape) -> Cost:
    entries = shape.pairs * reached(shape.reach1) * reached(shape.reach2)
    products = entries * shape.N + _inputs(shape)
    columns = shape.B2 * len(shape.reach2)
    return Cost(
        products,
        products + ACCUMULATE * entries,
        # The right side's adjoints in their order; the block of K, twice, and of ⟨z, z'⟩.
        shape.B2 * len(shape.reach2) * shape.S2 * shape.N * shape.element,
        (2 * len(shape.reach1) * columns + shape.S1 * shape.B2 * shape.S2) * shape.element,
    )


def _propagate(shape: Shape) -> Cost:
    O2 = len(shape.reach2)
    elements = shape.pairs * shape.S1 * shape.N * O2
    second = shape.pairs * reached(shape.reach1) * shape.N * O2
    products = elements * shape.S2 + second + _inputs(shape)
    return Cost(
        products,
        products + PROPAGATED * elements,
        shape.B2 * O2 * shape.S2 * shape.N * shape.element,
        (shape.S1 * shape.N * (O2 + len(shape.reach1)) + shape.B2 * shape.S2 * shape.S1)
        * shape.element,
    )


def _dense(shape: Shape) -> Cost:
    O1, O2 = len(shape.reach1), len(shape.reach2)
    entries = shape.pairs * O1 * O2
    # Every block of the left meets the right side's Jacobian anew; two blocks are the rule.
    written = (shape.B1 * O1 + shape.B2 * O2) * float(shape.N * shape.F)
    products = entries * shape.N * shape.F + written * max(shape.S1, shape.S2)
    # One row on either side is the least; more examples than fit at once are taken a few at a time.
    row = shape.N * (shape.F + max(shape.S1, shape.S2)) * shape.element
    return Cost(products, products + JACOBIAN * written, row, row)


def _inputs(shape: Shape) -> float:
    """Multiply-adds of ⟨z_s, z_s'⟩, which two of the orders start with."""
    return shape.pairs * shape.S1 * shape.S2 * shape.F
