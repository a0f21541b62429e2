"""The sizes of the pieces in which the kernel of a module fits the memory budget.

If the rows of the Jacobian by all examples do not fit, K can be made in pieces of some examples, and of some outputs of
one example. Then every pair of pieces makes rows anew. K can also be made for one group of parameters after another.
Each group takes a differentiation of its own, which is cheaper where it saves pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from hpr_kernels import checks
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.tangent.block import ROWS
from hpr_kernels.tangent.layers import Layer
from hpr_kernels.tangent.pieces import Side, Sizes
from hpr_kernels.tangent.recorded_calls import Scale
from hpr_kernels.tangent.split import Split

# A differentiation of no rows takes the time of so many rows.
CALL = 8


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
    """The sizes with which the fewest rows are made twice.

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
        cost = _pairs(problem, b, o) * len(sizes.groups) * (b * o + CALL)
        if best is None or cost < least:
            best, least = sizes, cost
    assert best is not None
    return best


def _pairs(problem: _Problem, b: int, o: int) -> int:
    """The pairs of pieces that make up the kernel, each of which makes rows."""
    parts = [math.ceil(side.split.outputs / o) for side in problem.sides]
    examples = [math.ceil(len(side.x) / b) for side in problem.sides]
    if problem.reduce == "full":
        pieces = [n * m for n, m in zip(examples, parts, strict=True)]
        return math.prod(pieces) if len(pieces) > 1 else pieces[0] * (pieces[0] + 1) // 2
    each = math.prod(examples) if len(examples) > 1 else examples[0] * (examples[0] + 1) // 2
    return parts[0] * each


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
    element = torch.empty(0, dtype=split.dtype).element_size()
    alone = all(len(side.x) <= b and side.split.outputs <= o for side in sides)
    copies = 2 if problem.right is None and not alone else 1
    block = (
        0
        if alone
        else {"full": (b * o) ** 2, "diagonal": b * b * o, "trace": b * b}[problem.reduce]
    )
    product = 2 * min(ROWS, b * o) * b * o if split.width else 0
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
            most, few = held + passed, max(1, min(b, (budget - fixed - held) // max(passed, 1)))
            workspace = max(least, budget - fixed - held)
    if needed > budget:
        raise checks.BudgetTooSmallError(needed, budget)
    return Sizes(b, o, few, groups, workspace)


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


def _least(split: Split, b: int, o: int, problem: _Problem) -> int:
    """Bytes that the contraction of two pieces needs at the least, for the layer that needs most."""
    like = torch.empty(0, dtype=split.dtype, device=problem.left.x.device)
    return max(
        (
            dispatch.least_bytes(
                b, o, layer.S, layer.N, _features(layer, b), like, problem.reduce, problem.order
            )
            for layer in split.layers.values()
        ),
        default=0,
    )
