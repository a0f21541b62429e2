"""The kernel of a module in pieces that fit the memory budget: some examples, some outputs of each, some parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch, products
from hpr_kernels.gram.eager import mirror
from hpr_kernels.gram.factors import Factors
from hpr_kernels.memory import give_back
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent.block import add_products
from hpr_kernels.tangent.layers import Layer
from hpr_kernels.tangent.split import JacobianRows, Split


class Piece(NamedTuple):
    """Some examples, and some outputs of each."""

    examples: slice
    outputs: slice


class Side(NamedTuple):
    """The inputs x [B, …] on one side of a kernel, and the module at their shape."""

    split: Split
    x: Tensor

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device of the rows."""
        return torch.empty(0, dtype=self.split.dtype, device=self.x.device)

    def part(self, names: Sequence[str]) -> Side:
        """The same side, differentiated by these parameters alone."""
        return Side(self.split.part(names), self.x)

    def pieces(self, examples: int, outputs: int) -> list[Piece]:
        """Pieces of at most so many examples and outputs, examples before outputs."""
        B, O = len(self.x), self.split.outputs
        return [
            Piece(slice(b, min(b + examples, B)), slice(o, min(o + outputs, O)))
            for b in range(0, B, examples)
            for o in range(0, O, outputs)
        ]

    def rows(self, piece: Piece, few: int) -> JacobianRows:
        """The rows of the Jacobian in a piece, differentiated `few` examples at a time."""
        give_back(self.x.device)
        some = piece.outputs
        directions = torch.zeros(
            some.stop - some.start, self.split.outputs,
            dtype=self.split.found.dtype, device=self.x.device,
        )  # fmt: skip
        directions.diagonal(some.start).fill_(1)
        return self.split.rows(self.x[piece.examples], directions, few)


class Sizes(NamedTuple):
    """The sizes of the pieces of a kernel.

    Attributes:
        examples, outputs: the largest numbers of a piece.
        few: examples that are differentiated at once.
        groups: the parameters, in groups that are taken one after another.
        workspace: bytes that the contraction of two pieces may allocate.
    """

    examples: int
    outputs: int
    few: int
    groups: list[tuple[str, ...]]
    workspace: int

    def pairs(self, left: Side, right: Side | None, reduce: Reduction) -> list[tuple[Piece, Piece]]:
        """The pairs of pieces that make up the kernel; `right` None stands for `left`, whose K is symmetric."""
        firsts = left.pieces(self.examples, self.outputs)
        seconds = (right or left).pieces(self.examples, self.outputs)
        return [
            (first, second)
            for i, first in enumerate(firsts)
            for second in (seconds if right is not None else seconds[i:])
            if reduce == "full" or first.outputs == second.outputs
        ]


class Kernel:
    """The kernel between B and C examples; `entries` [P, B, O', C, O''] have the form of `gram.dispatch.add_gram`."""

    def __init__(self, B: int, C: int, O: int, O2: int, reduce: Reduction, like: Tensor) -> None:
        self.reduce: Reduction = reduce
        P, O, O2 = {"full": (1, O, O2), "diagonal": (O, 1, 1), "trace": (1, 1, 1)}[reduce]
        self.entries = like.new_zeros(P, B, O, C, O2)

    @classmethod
    def between(cls, first: Piece, second: Piece, reduce: Reduction, like: Tensor) -> Kernel:
        """The kernel between two pieces, of zeros."""
        b, o, c, p = (
            some.stop - some.start
            for piece in (first, second)
            for some in (piece.examples, piece.outputs)
        )
        return cls(b, c, o, p, reduce, like)

    @property
    def shown(self) -> Tensor:
        """The same memory as [B O, C O''], [B, C, O] or [B, C]."""
        if self.reduce == "full":
            return self.entries[0].flatten(2).flatten(0, 1)
        block = self.entries[:, :, 0, :, 0]
        return block.movedim(0, -1) if self.reduce == "diagonal" else block[0]

    def add(
        self,
        left: Split,
        rows: JacobianRows,
        right: Split,
        columns: JacobianRows | None,
        order: Order,
        workspace: int,
    ) -> None:
        """Add the products of two pieces. `columns` None stands for `rows`: then `mirror` completes K."""
        if left.width:
            first, second = (side.written[None] for side in (rows, columns or rows))
            add_products(self.shown[None], first, second, 1, self.reduce, columns is None)
        for layer, one, two in _alike(left, rows, right, columns):
            for factors, others in _factors(layer, one, two):
                dispatch.add_gram(
                    self.entries, factors, others,
                    reduce=self.reduce, order=order, memory_budget=workspace,
                )  # fmt: skip

    def mirror(self) -> None:
        """Complete a symmetric K from its pairs of examples b ≤ b'."""
        for entries in self.entries:
            mirror(entries)


def module_kernel(
    left: Side,
    right: Side | None,
    sizes: Sizes,
    *,
    reduce: Reduction,
    order: Order,
    progress: Progress | None = None,
) -> Tensor:
    """The kernel of two sides, None for the left side again, in the forms of `gram.dispatch.gram` without its R."""
    other = right or left
    B, C, O, O2 = len(left.x), len(other.x), left.split.outputs, other.split.outputs
    K = Kernel(B, C, O, O2, reduce, left.like)
    pairs = sizes.pairs(left, right, reduce)
    steps = Steps(progress, len(pairs) * len(sizes.groups))
    for names in sizes.groups:
        one, two = left.part(names), other.part(names)
        held, rows = None, None
        for first, second in pairs:
            if first != held:
                # Free the memory before the next rows are made.
                rows = None
                rows, held = one.rows(first, sizes.few), first
            assert rows is not None
            same = right is None and first == second
            columns = None if same else two.rows(second, sizes.few)
            block = K if len(pairs) == 1 else Kernel.between(first, second, reduce, left.like)
            block.add(one.split, rows, two.split, columns, order, sizes.workspace)
            del columns
            if same:
                block.mirror()
            if block is not K:
                _place(K, block, first, second, mirrored=right is None and not same)
            steps.step()
    return K.shown


def _place(K: Kernel, block: Kernel, first: Piece, second: Piece, *, mirrored: bool) -> None:
    """Add the block between two pieces to K, and its transpose between the pieces in reverse if it is `mirrored`."""
    outputs = first.outputs, second.outputs
    if K.reduce == "full":
        K.entries[:, first.examples, outputs[0], second.examples, outputs[1]] += block.entries
        if mirrored:
            entries = block.entries.permute(0, 3, 4, 1, 2)
            K.entries[:, second.examples, outputs[1], first.examples, outputs[0]] += entries
        return
    place = outputs[0] if K.reduce == "diagonal" else slice(None)
    K.entries[place, first.examples, :, second.examples] += block.entries
    if mirrored:
        K.entries[place, second.examples, :, first.examples] += block.entries.transpose(1, 3)


def sum_of_squares(split: Split, rows: JacobianRows) -> Tensor:
    """The sum of the squares of all entries of rows, []."""
    total = rows.written.square().sum()
    for name, layer in split.layers.items():
        for factors, _ in _factors(layer, rows.factors[name], None):
            total += products.trace(factors.g[0], factors.z[0])
    return total


Pair = tuple[Tensor, Tensor]


def _alike(
    left: Split, rows: JacobianRows, right: Split, columns: JacobianRows | None
) -> list[tuple[Layer, Pair, Pair | None]]:
    """The layers with their factors on both sides; those of equal adjoints as one layer, which has the inputs of all.

    The results of layers that are added have equal adjoints, as those of the input and of the state in a recurrent
    network.
    """
    found: list[tuple[Layer, Pair, Pair | None]] = []
    for name, layer in left.layers.items():
        if name not in right.layers:
            continue
        one, two = rows.factors[name], None if columns is None else columns.factors[name]
        place = next((i for i, other in enumerate(found) if _equal((layer, one, two), other)), None)
        if place is None:
            found.append((layer, one, two))
            continue
        first, g, h = found[place]
        joined = first._replace(F=first.F + layer.F)
        z = torch.cat([g[1], one[1]], -1)
        y = None if h is None or two is None else (h[0], torch.cat([h[1], two[1]], -1))
        found[place] = joined, (g[0], z), y
    return found


def _equal(one: tuple[Layer, Pair, Pair | None], other: tuple[Layer, Pair, Pair | None]) -> bool:
    """Whether the adjoints of two layers are equal on both sides."""
    if one[0].tokens or other[0].tokens or one[0].groups > 1 or other[0].groups > 1:
        return False
    sides = [
        (a, b) for a, b in zip(one[1:], other[1:], strict=True) if a is not None and b is not None
    ]
    # The first numbers of most layers differ, so that few are compared as a whole.
    return all(
        a[0].shape == b[0].shape
        and torch.equal(a[0][0, 0, 0], b[0][0, 0, 0])
        and torch.equal(a[0], b[0])
        for a, b in sides
    )


def _factors(
    layer: Layer, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor] | None
) -> Iterator[tuple[Factors, Factors | None]]:
    """The factors of each group of a weight on both sides."""
    z, y = rows[1], None if columns is None else columns[1]
    if layer.tokens:
        z, y = _one_hot(z, y, rows[0].dtype)
    sides = [(rows[0], z)] if columns is None or y is None else [(rows[0], z), (columns[0], y)]
    reaches = [_reach(g) for g, _ in sides]
    for group in range(layer.groups):
        units = slice(group * layer.N, (group + 1) * layer.N)
        found = [
            Factors(g[None, ..., units], x[None, :, :, group], (reach,))
            for (g, x), reach in zip(sides, reaches, strict=True)
        ]
        yield found[0], found[1] if len(found) > 1 else None


def _reach(g: Tensor) -> tuple[int, ...]:
    """The last position with an adjoint of each output or an earlier one, of g [b, o, S, units]: causality, if any."""
    o, S = g.shape[1:3]
    # As a rule there is none, which the first output shows.
    if S == 1 or bool(g[:, 0, -1].any()):
        return (S - 1,) * o
    active = torch.linalg.vector_norm(g, ord=torch.inf, dim=(0, 3)) != 0  # [o, S]
    last = (active * torch.arange(S, device=g.device)).amax(1).cummax(0).values
    return tuple(last.tolist())


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
