"""The tensor memory of a block on 10.0: 128 lanes of 512 columns, their allocations, and what is in flight there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ptx_emulator.memory import WARP, Array, Clock, Fault, Memory

LANES, COLUMNS = 128, 512


class Transfer(NamedTuple):
    """A load or a store in flight of `warps`, a mask; a store has no `registers` that wait for it."""

    time: int
    load: bool
    warps: Array
    cells: Array  # a mask of all cells
    registers: frozenset[str] = frozenset()


class Product(NamedTuple):
    """A tcgen05.mma that some warp has not waited for, with masks of cells and of the warps that have."""

    time: int
    thread: int
    words: Array  # of shared memory
    reads: Array
    result: Array
    seen: Array


@dataclass
class TensorMemory:
    """The cells of a block, word 512 lane + column of `cells`, and what is in flight there.

    `columns` has the first columns of allocations and their numbers. Cells are `filled` once they were written.
    """

    clock: Clock
    cells: Memory = field(init=False)
    filled: Array = field(init=False)
    columns: dict[int, int] = field(default_factory=dict)
    may_allocate: bool = True
    transfers: list[Transfer] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = Memory("tensor memory", 0, LANES * COLUMNS, self.clock)
        self.filled = np.zeros(LANES * COLUMNS, bool)

    def allocate(self, count: int) -> int:
        """The first of `count` columns. They are the last free ones, since nobody may rely on column 0."""
        if not self.may_allocate:
            raise Fault("expected no allocation after tcgen05.relinquish_alloc_permit")
        free = self.cells.readable.reshape(LANES, COLUMNS)[0]
        for first in range(COLUMNS - count, -1, -count):
            if not free[first : first + count].any():
                self.columns[first] = count
                self._open(first, count, True)
                return first
        raise Fault(f"expected {count} free columns")

    def free(self, first: int, count: int, threads: Array) -> None:
        """Give back `count` columns, which a warp's `threads` do."""
        if self.columns.get(first) != count:
            raise Fault(f"expected columns of one allocation, got {count} from {first}")
        cells = self.locate(np.arange(LANES), np.full(LANES, first), count)
        self.check(cells, threads, write=True)
        self.cells.check_write(cells, threads[np.zeros(LANES, int)])
        self._open(first, count, False)
        del self.columns[first]

    def _open(self, first: int, count: int, readable: bool) -> None:
        for cells, value in ((self.cells.readable, readable), (self.filled, False)):
            cells.reshape(LANES, COLUMNS)[:, first : first + count] = value

    def locate(self, lane: Array, column: Array, count: int) -> Array:
        """The cells [n, count] from `lane` [n] and `column` [n] on, all of an allocation."""
        at = column[:, None] + np.arange(count)
        cells = np.where(at < COLUMNS, lane[:, None] * COLUMNS + at, -1)
        if (lane >= LANES).any() or (cells < 0).any() or not self.cells.readable[cells].all():
            raise Fault(
                f"tensor memory: expected {count} columns of an allocation from {column[0]}"
            )
        return cells

    def check(
        self, cells: Array, threads: Array, *, write: bool, among: list[Product] | None = None
    ) -> None:
        """Raise a Fault if something in flight, of products those `among`, conflicts with an access of `cells`."""
        if not write and not self.filled[cells].all():
            raise Fault("tensor memory: expected cells that were written")
        for one in self.transfers:
            if (write or not one.load) and one.cells[cells].any():
                raise Fault(f"tensor memory: expected tcgen05.wait::{'ld' if one.load else 'st'}")
        for product in self.products if among is None else among:
            touched = (product.result | product.reads if write else product.result)[cells].any()
            if touched and not product.seen[threads // WARP].all():
                raise Fault("tensor memory: expected a tcgen05.mma that was waited for")

    def see(self, product: Product, warps: Array) -> None:
        """Note that `warps`, a mask, have waited for a product."""
        product.seen[warps] = True
        self.products = [one for one in self.products if not one.seen.all()]

    def meet(self) -> None:
        """All warps know, behind a barrier, what one of them has waited for."""
        self.products = [one for one in self.products if not one.seen.any()]


def mask_of(cells: Array) -> Array:
    """All cells, of which `cells` are marked."""
    found = np.zeros(LANES * COLUMNS, bool)
    found[cells] = True
    return found
