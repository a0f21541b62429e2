"""The kernel of a module in pieces that fit the memory budget: some examples, some outputs of each, some parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.memory import give_back
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent.block import add_products
from hpr_kernels.tangent.layer_factors import factors_by_layer
from hpr_kernels.tangent.probe import Witness
from hpr_kernels.tangent.split import JacobianRows, Split


class Piece(NamedTuple):
    """Some examples, and some outputs of each."""

    examples: slice
    outputs: slice


class Side(NamedTuple):
    """The inputs x [B, …] on one side of a kernel, the module at their shape, its gradients at the first."""

    split: Split
    x: Tensor
    witness: Witness

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device of the rows."""
        return torch.empty(0, dtype=self.split.dtype, device=self.x.device)

    def part(self, names: Sequence[str]) -> Side:
        """The same side, differentiated by these parameters alone."""
        return Side(self.split.part(names), self.x, self.witness)

    def pieces(self, examples: int, outputs: int) -> list[Piece]:
        """Pieces of at most so many examples and outputs, examples before outputs."""
        B, O = len(self.x), self.split.outputs
        return [
            Piece(slice(b, min(b + examples, B)), slice(o, min(o + outputs, O)))
            for b in range(0, B, examples)
            for o in range(0, O, outputs)
        ]

    def rows(self, piece: Piece, few: int) -> JacobianRows:
        """The rows of the Jacobian in a piece, differentiated `few` examples at a time.

        Raises:
            ValueError: the gradient by a parameter at the first example is not that of the module.
        """
        some = piece.outputs
        directions = torch.zeros(
            some.stop - some.start, self.split.outputs,
            dtype=self.split.found.dtype, device=self.x.device,
        )  # fmt: skip
        directions.diagonal(some.start).fill_(1)
        rows = self.split.rows(self.x[piece.examples], directions, few)
        if piece.examples.start == 0:
            whole = len(directions) == self.split.outputs
            self.check(rows if whole else None)
        return rows

    def check(self, rows: JacobianRows | None = None) -> None:
        """Check the gradients that were not checked so far, by rows of all outputs of the first example, if given.

        Raises:
            ValueError: the gradient by a parameter at the first example is not that of the module.
        """
        if not self.split.weights.keys() & self.witness.known.keys():
            return
        along = self.witness.along
        if rows is None:
            rows, along = self.split.rows(self.x[:1], along[None], 1), along.new_ones(1)
        self.witness.check(self.split.gradient(rows, along))


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
        pairs = factors_by_layer(left, rows, right, columns, self.reduce, order, workspace)
        for factors, others, room in pairs:
            dispatch.add_gram(
                self.entries, factors, others, reduce=self.reduce, order=order, memory_budget=room
            )

    def mirror(self) -> None:
        """Complete a symmetric K from its pairs of examples b ≤ b'."""
        for entries in self.entries:
            dispatch.mirror(entries)


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
    total = len(pairs) * len(sizes.groups)
    steps = Steps(progress, total)
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
            # What the next rows do not need again the allocator would keep.
            if steps.done + 1 < total:
                give_back(left.x.device)
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
