"""The kernel of a module in pieces that fit the memory budget: some examples, and some outputs of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.gram.factors import Factors
from hpr_kernels.memory import give_back
from hpr_kernels.tangent.block import ROWS, add_products
from hpr_kernels.tangent.layers import Layer, ModuleRows, Split
from hpr_kernels.tangent.recorded_calls import Scale


class Piece(NamedTuple):
    """Some examples, and some outputs of each."""

    examples: slice
    outputs: slice


class Side(NamedTuple):
    """The inputs x [B, …] on one side of a kernel, and the module at their shape."""

    split: Split
    x: Tensor

    def pieces(self, examples: int, outputs: int) -> Iterator[Piece]:
        """Pieces of at most so many examples and outputs, examples before outputs."""
        for start in range(0, len(self.x), examples):
            stop = min(start + examples, len(self.x))
            for first in range(0, self.split.outputs, outputs):
                last = min(first + outputs, self.split.outputs)
                yield Piece(slice(start, stop), slice(first, last))

    def rows(self, piece: Piece) -> ModuleRows:
        """The rows of the Jacobian in a piece."""
        give_back(self.x.device)
        some = piece.outputs
        directions = torch.zeros(
            some.stop - some.start, self.split.outputs, dtype=self.split.dtype, device=self.x.device
        )
        directions.diagonal(some.start).fill_(1)
        return self.split.rows(self.x[piece.examples], directions)


def module_kernel(
    left: Side,
    right: Side | None,
    *,
    dtype: torch.dtype,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
) -> Tensor:
    """The kernel of two sides, None for the left side again, in the forms of `gram.dispatch.gram` without its R."""
    other = right or left
    size = _sizes(left, right, reduce, order, memory_budget)
    B1, B2, O1, O2 = len(left.x), len(other.x), left.split.outputs, other.split.outputs
    shapes = {"full": (B1 * O1, B2 * O2), "diagonal": (B1, B2, O1), "trace": (B1, B2)}
    K = torch.zeros(shapes[reduce], dtype=dtype, device=left.x.device)
    firsts = list(left.pieces(size.examples, size.outputs))
    seconds = list(other.pieces(size.examples, size.outputs))
    for i, first in enumerate(firsts):
        rows = left.rows(first)
        for j, second in enumerate(seconds):
            same = right is None and i == j
            if (right is None and j < i) or (reduce != "full" and first.outputs != second.outputs):
                continue
            columns = None if same else other.rows(second)
            target = _block(K, first, second, O1, O2, reduce)
            _add(target, left.split, rows, other.split, columns, reduce, order, size.workspace)
            del columns
            if right is None and not same:
                _block(K, second, first, O1, O2, reduce).copy_(target.transpose(0, 1))
    return K


def _block(K: Tensor, first: Piece, second: Piece, O1: int, O2: int, reduce: Reduction) -> Tensor:
    """The part of K between two pieces, a view. A piece with some of the outputs has one example."""
    if reduce == "trace":
        return K[first.examples, second.examples]
    if reduce == "diagonal":
        return K[first.examples, second.examples, first.outputs]
    rows, columns = (
        slice(
            piece.examples.start * O + piece.outputs.start,
            (piece.examples.stop - 1) * O + piece.outputs.stop,
        )
        for piece, O in ((first, O1), (second, O2))
    )
    return K[rows, columns]


def _add(
    K: Tensor,
    split: Split,
    rows: ModuleRows,
    other: Split,
    columns: ModuleRows | None,
    reduce: Reduction,
    order: Order,
    workspace: int,
) -> None:
    """Add to K the products of the gradients by every parameter; `columns` None stands for `rows`."""
    seconds, symmetric = rows if columns is None else columns, columns is None
    for name in rows.direct:
        one, two = (side.direct[name].flatten(2)[None] for side in (rows, seconds))
        add_products(K[None], one, two, 1, reduce, symmetric)
    for name in split.biases:
        if name not in other.biases:
            continue
        one = split.bias(name, rows)[None]
        two = one if columns is None else other.bias(name, columns)[None]
        add_products(K[None], one, two, 1, reduce, symmetric)
    for name, layer in split.layers.items():
        if name not in other.layers:
            continue
        g, z = split.adjoints(layer, rows), split.inputs(layer, rows)
        h = y = None
        if columns is not None:
            h = other.adjoints(other.layers[name], columns)
            y = other.inputs(other.layers[name], columns)
        if layer.tokens:
            z, y = _one_hot(z, y, g.dtype)
        for group in range(layer.groups):
            first = _group(g, z, layer, group)
            second = None if h is None or y is None else _group(h, y, layer, group)
            K += dispatch.gram(
                first, second, reduce=reduce, order=order, memory_budget=workspace, precision="ieee"
            )[0]


def _group(g: Tensor, z: Tensor, layer: Layer, group: int) -> Factors:
    """The factors of one group of a convolution, of g [b, o, S, units] and z [b, S, groups, F]."""
    units = slice(group * layer.N, (group + 1) * layer.N)
    reach = ((g.shape[2] - 1,) * g.shape[1],)
    return Factors(g[None, ..., units], z[None, :, :, group], reach)


def _one_hot(
    tokens: Tensor, others: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Inputs [b, S, 1, F] of an embedding, one-hot over the F tokens that occur on either side; token -1 is zero."""
    seen = tokens if others is None else torch.cat([tokens.flatten(), others.flatten()])
    vocabulary = seen.clamp(min=0).unique()
    found = [
        None if side is None else (side[..., None, None] == vocabulary).to(dtype)
        for side in (tokens, others)
    ]
    assert found[0] is not None
    return found[0], found[1]


class _Sizes(NamedTuple):
    """The largest size of a piece, and the bytes that the contraction of two pieces may allocate."""

    examples: int
    outputs: int
    workspace: int


def _sizes(
    left: Side, right: Side | None, reduce: Reduction, order: Order, memory_budget: int
) -> _Sizes:
    """The largest pieces that fit: all examples, half of them, …, one, then fewer outputs of one example.

    Raises:
        BudgetTooSmallError: one output of one example does not fit.
    """
    sides = [left] if right is None else [left, right]
    B = max(len(side.x) for side in sides)
    O = max(side.split.outputs for side in sides)
    tried = [(B, O)]
    while tried[-1] != (1, 1):
        b, o = tried[-1]
        tried.append((-(-b // 2), O) if b > 1 else (1, o // 2))
    for b, o in tried:
        alone = right is None and (b, o) == (B, O)
        held = sum(_bytes(side.split, b, o) for side in sides)
        held *= 2 if right is None and not alone else 1
        element = torch.empty(0, dtype=left.split.dtype).element_size()
        held += {"full": (b * o) ** 2, "diagonal": b * b * o, "trace": b * b}[reduce] * element
        held += 2 * min(ROWS, b * o) * b * o * element
        least = max(
            (
                dispatch.least_bytes(
                    b, o, layer.S, layer.N, _features(layer, b),
                    torch.empty(0, dtype=side.split.dtype, device=side.x.device), reduce, order,
                )
                for side in sides for layer in side.split.layers.values()
            ),
            default=0,
        )  # fmt: skip
        # With half of the budget a contraction has its full speed.
        if max(held, 2 * least) <= memory_budget // 2:
            break
    if held + least > memory_budget:
        raise checks.BudgetTooSmallError(held + least, memory_budget)
    return _Sizes(b, o, memory_budget - held)


def _features(layer: Layer, examples: int) -> int:
    """Inputs of a unit; of an embedding at most as many as both sides of a kernel have tokens."""
    return min(layer.F, 2 * examples * layer.S) if layer.tokens else layer.F


def _bytes(split: Split, examples: int, outputs: int) -> int:
    """Bytes of the rows of a piece and of the factors of the largest layer, which are made from them."""
    element = torch.empty(0, dtype=split.dtype).element_size()
    gradients = sum(use.shape.numel() for use in split.uses)
    gradients += sum(value.numel() for value in split.direct.values())
    inputs = sum(use.input_shape.numel() for use in split.uses)
    layer = max(
        (
            layer.S * layer.groups * (outputs * layer.N + _features(layer, examples))
            for layer in split.layers.values()
        ),
        default=0,
    )
    # The gradient by the scale of a norm is a sum of products of this size.
    scales = (use.shape.numel() for use in split.uses if isinstance(use.settings, Scale))
    layer = max(layer, 2 * outputs * max(scales, default=0))
    # `vjp` makes a copy of the rows. It takes a matrix of the directions.
    rows = 2 * (outputs * gradients + inputs)
    return element * (examples * (rows + layer) + outputs * split.outputs)
