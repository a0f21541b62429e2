"""The sizes of the pieces in which the kernel of a module fits the memory budget.

If the rows of the Jacobian by all examples do not fit, K can be made in pieces of some examples, and of some outputs of
one example. Then every pair of pieces makes rows anew. K can also be made for one group of parameters after another.
Each group takes a differentiation of its own, which is cheaper where it saves pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.gram.contraction_plan import CALL, ContractionPlan
from hpr_kernels.tangent.block import rows_at_once
from hpr_kernels.tangent.layers import Layer
from hpr_kernels.tangent.pieces import Side, Sizes
from hpr_kernels.tangent.recorded_calls import Scale
from hpr_kernels.tangent.split import Split

# The calls of torch that a use of a parameter stands for in a differentiation.
CALLS = 12
# Bytes of the adjoints of a use, on average over the uses, up to which more examples at once are differentiated faster.
# More make each operation write new memory instead of what the last one left in the cache.
ADJOINTS = 3 << 20


class _Numbers(NamedTuple):
    """The numbers that the rows by some parameters hold, and that pass while they are made, per row and example."""

    row: int
    example: int
    passing_row: int
    passing_example: int

    def held(self, examples: int, outputs: int) -> int:
        return examples * (outputs * self.row + self.example)

    def passing(self, outputs: int) -> int:
        """Those of one example."""
        return outputs * self.passing_row + self.passing_example


class _Problem(NamedTuple):
    """What the sizes depend on; `numbers` has those of each bundle of parameters on each side."""

    left: Side
    right: Side | None
    reduce: Reduction
    order: Order
    memory_budget: int
    numbers: dict[tuple[str, ...], list[_Numbers]]

    @property
    def sides(self) -> list[Side]:
        return [self.left] if self.right is None else [self.left, self.right]


def piece_sizes(
    left: Side, right: Side | None, reduce: Reduction, order: Order, memory_budget: int
) -> Sizes:
    """The sizes with which the estimated time of differentiation and contraction is shortest.

    Raises:
        BudgetTooSmallError: one output of one example does not fit.
    """
    sides = [left] if right is None else [left, right]
    numbers = {
        names: [_numbers(side.split.part(names)) for side in sides]
        for names in left.split.bundles()
    }
    problem = _Problem(left, right, reduce, order, memory_budget, numbers)
    best, least = None, 0.0
    for b, o in _tried(max(len(s.x) for s in sides), max(s.split.outputs for s in sides)):
        sizes = _fitting(problem, b, o, smallest=best is None and (b, o) == (1, 1))
        if sizes is None:
            continue
        cost, free = _cost(problem, sizes)
        if best is None or cost < least:
            best, least = sizes, cost
        if free and len(sizes.groups) == 1 and sum(_pairs(problem, b, o)) == 1:
            # Nothing is made twice, and every contraction is the fastest one.
            break
    assert best is not None
    return best


def _cost(problem: _Problem, sizes: Sizes) -> tuple[float, bool]:
    """The multiply-adds of differentiation and contraction, weighted as in a `ContractionPlan`.

    The second result is whether the memory budget lets every contraction have its fastest order.
    """
    pairs, squares = _pairs(problem, sizes.examples, sizes.outputs)
    split, like = problem.left.split, problem.left.like
    layers = split.layers.values()
    # A backward pass multiplies the adjoints of each layer with its weights, after a forward pass of one output.
    row = sum(layer.S * layer.groups * layer.N * _features(layer, 1) for layer in layers)
    differentiation = sizes.examples * (sizes.outputs + 1) * row + CALL * CALLS * len(split.uses)
    total, free = float(len(sizes.groups) * (pairs + squares) * differentiation), True
    for layer in layers:
        for times, symmetric in ((squares, True), (pairs, False)):
            plan = contraction(
                layer, like, sizes.examples, sizes.outputs, problem.reduce, problem.order,
                sizes.workspace, symmetric=symmetric,
            ) if times else None  # fmt: skip
            if plan is not None:
                weighted = plan.costs[plan.order].weighted
                total += times * layer.groups * weighted
                fastest = min(cost.weighted for cost in plan.costs.values())
                free = free and (problem.order != "auto" or weighted == fastest)
    return total, free


def _pairs(problem: _Problem, b: int, o: int) -> tuple[int, int]:
    """The pairs of different pieces that make up the kernel, and of pieces with themselves. Each makes rows."""
    parts = [math.ceil(side.split.outputs / o) for side in problem.sides]
    examples = [math.ceil(len(side.x) / b) for side in problem.sides]
    if problem.right is not None:
        by_outputs = math.prod(parts) if problem.reduce == "full" else parts[0]
        return math.prod(examples) * by_outputs, 0
    if problem.reduce == "full":
        pieces = examples[0] * parts[0]
        return pieces * (pieces - 1) // 2, pieces
    return parts[0] * examples[0] * (examples[0] - 1) // 2, parts[0] * examples[0]


def _tried(B: int, O: int) -> Iterator[tuple[int, int]]:
    """All examples, half of them, …, one, then fewer outputs of one example."""
    b, o = B, O
    yield b, o
    while (b, o) != (1, 1):
        b, o = (-(-b // 2), O) if b > 1 else (1, o // 2)
        yield b, o


def _fitting(problem: _Problem, b: int, o: int, *, smallest: bool) -> Sizes | None:
    """Pieces of b examples and o outputs, with the fewest groups of parameters that fit; None if one does not fit.

    Some of the budget is left to differentiation and contraction, so that they have their full speed. The smallest
    pieces may take all of it. One row of the gradients by a parameter that is differentiated directly may exceed it.

    Raises:
        BudgetTooSmallError: the smallest pieces do not fit.
    """
    sides, budget = problem.sides, problem.memory_budget
    split = sides[0].split
    element = problem.left.like.element_size()
    alone = all(len(side.x) <= b and side.split.outputs <= o for side in sides)
    copies = 2 if problem.right is None and not alone else 1
    entries = {"full": (b * o) ** 2, "diagonal": b * b * o, "trace": b * b}
    block = 0 if alone else entries[problem.reduce]
    rows = rows_at_once(b * o, problem.left.like.device)
    product = 2 * rows * b * o if split.width else 0
    fixed = element * (block + product + o * split.outputs + _one_hot(sides, b))
    least = max((_least(side.split, b, o, problem) for side in sides), default=0)
    groups: list[tuple[str, ...]] = []
    held = most = passed = needed = 0
    for names, numbers in problem.numbers.items():
        adds = copies * element * sum(one.held(b, o) for one in numbers)
        passes = element * max(one.passing(o) for one in numbers)
        if fixed + adds + max(passes, 2 * least, budget // 8) > budget and not smallest:
            return None
        if any(name in split.ways.kinds for name in names):
            needed = max(needed, fixed + adds + max(passes, least))
        if groups and fixed + held + adds + max(passed + passes, 2 * least, budget // 8) <= budget:
            groups[-1] += names
            held, passed = held + adds, passed + passes
        else:
            groups.append(names)
            held, passed = adds, passes
        if held + passed > most:
            most, workspace = held + passed, max(least, budget - fixed - held)
            # A part is left to the intermediate results of the module.
            few = _few(problem, b, o, workspace * 3 // 4 // max(passed, 1))
    if needed > budget:
        raise checks.BudgetTooSmallError(needed, budget)
    return Sizes(b, o, few, groups, workspace)


def _few(problem: _Problem, b: int, o: int, fitting: int) -> int:
    """How many of b examples are differentiated at once, at most `fitting` of them, in parts of almost equal size."""
    sizes = [use.shape.numel() for side in problem.sides for use in side.split.uses]
    mean = problem.left.like.element_size() * o * sum(sizes) // max(len(sizes), 1)
    # A card has other caches, and takes as long to start an operation on few examples.
    cached = ADJOINTS // max(mean, 1) if problem.left.x.device.type == "cpu" else b
    most = max(1, min(b, fitting, cached))
    return math.ceil(b / math.ceil(b / most))


def _numbers(part: Split) -> _Numbers:
    adjoints = sum(use.shape.numel() for use in part.uses)
    inputs = sum(use.input_shape.numel() for use in part.uses)
    direct = sum(value.numel() for value in part.direct.values())
    row, example = part.width, 0
    for layer in part.layers.values():
        row += layer.S * layer.groups * layer.N
        example += layer.S * (1 if layer.tokens else layer.groups * layer.F)
    # The gradient by the scale of a norm is a sum of products of this size.
    scales = (use.shape.numel() for use in part.uses if isinstance(use.settings, Scale))
    # `vjp` makes a copy of what it returns.
    passing = 2 * (adjoints + direct) + max(scales, default=0)
    return _Numbers(row, example, passing, inputs + 2 * example)


def _one_hot(sides: Sequence[Side], b: int) -> int:
    """The numbers of the one-hot inputs of the largest embedding."""
    found = [
        b * layer.S * _features(layer, b)
        for side in sides
        for layer in side.split.layers.values()
        if layer.tokens
    ]
    return len(sides) * max(found, default=0)


def _features(layer: Layer, examples: int) -> int:
    """Inputs of a unit; of an embedding at most as many as both sides of a kernel have tokens."""
    return min(layer.F, 2 * examples * layer.S) if layer.tokens else layer.F


def contraction(
    layer: Layer,
    like: Tensor,
    b: int,
    o: int,
    reduce: Reduction,
    order: Order,
    workspace: int,
    *,
    symmetric: bool,
) -> ContractionPlan | None:
    """The plan for one group of a layer between two pieces, without causality; None where Triton contracts."""
    return dispatch.plan_of(
        b, o, layer.S, layer.N, _features(layer, b), like, reduce, order, workspace,
        symmetric=symmetric,
    )  # fmt: skip


def _least(split: Split, b: int, o: int, problem: _Problem) -> int:
    """Bytes that the contraction of two pieces needs at the least, for the layer that needs most."""
    like = problem.left.like
    return max(
        (
            dispatch.least_bytes(
                b, o, layer.S, layer.N, _features(layer, b), like, problem.reduce, problem.order
            )
            for layer in split.layers.values()
        ),
        default=0,
    )
