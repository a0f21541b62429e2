"""Tensor memory of 10.0: `tcgen05.alloc`, and the loads and stores of warps, which are asynchronous.

An address is lane << 16 | column. Warp w reaches the lanes 32 (w % 4) … 32 (w % 4) + 31.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.memory import WARP, Array, Clock, Fault, Memory
from ptx_emulator.program import Step, UnknownOpcodeError, address, full, opcode, source, vector

LANES, COLUMNS = 128, 512
QUARTERS, HALF = 4, 16


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


def whole_warps(block: Block, mask: Array | None) -> Array:
    """A mask of the warps that take part. Raise a Fault if a part of a warp does."""
    chosen = np.ones(block.thread.shape, bool) if mask is None else mask
    warps = chosen.reshape(-1, WARP)
    if (warps.any(1) != warps.all(1)).any():
        raise Fault("expected all threads of a warp, got some")
    return np.asarray(warps.all(1))


def _one_warp(block: Block, mask: Array | None) -> Array:
    """The threads of the only warp that takes part."""
    warps = whole_warps(block, mask)
    if warps.sum() != 1:
        raise Fault(f"expected one warp, got {warps.sum()}")
    return block.thread[np.repeat(warps, WARP)]


def _count(text: str) -> int:
    """Columns of an allocation: a power of two from 32 to 512."""
    if text not in ("32", "64", "128", "256", "512"):
        raise UnknownOpcodeError(f"tcgen05.alloc or dealloc of {text} columns")
    return int(text)


@opcode(r"tcgen05\.alloc\.cta_group::1\.sync\.aligned\.shared::cta\.b32")
def _allocate(name: re.Match[str], operands: list[str]) -> Step:
    at, count = address(operands[0]), _count(operands[1])

    def step(block: Block, mask: Array | None) -> None:
        threads = _one_warp(block, mask)[:1]
        first = np.full((1, 1), block.tensor.allocate(count), np.uint32)
        block.shared.write(block.shared.locate(at(block)[threads], 4), first, threads)

    return step


@opcode(r"tcgen05\.relinquish_alloc_permit\.cta_group::1\.sync\.aligned")
def _relinquish(name: re.Match[str], operands: list[str]) -> Step:
    def step(block: Block, mask: Array | None) -> None:
        _one_warp(block, mask)
        block.tensor.may_allocate = False

    return step


@opcode(r"tcgen05\.dealloc\.cta_group::1\.sync\.aligned\.b32")
def _free(name: re.Match[str], operands: list[str]) -> Step:
    at, count = source(operands[0], "u32"), _count(operands[1])

    def step(block: Block, mask: Array | None) -> None:
        threads = _one_warp(block, mask)
        block.tensor.free(int(full(block, at(block))[threads[0]]), count, threads)

    return step


@opcode(r"tcgen05\.(ld|st)\.sync\.aligned\.16x32bx2\.x(1|2|4|8|16|32|64|128)\.b32")
def _move(name: re.Match[str], operands: list[str]) -> Step:
    """16 lanes: the first half of a warp has `count` columns from the address on, the other half from the offset."""
    if name[1] == "ld":
        registers, place, offset = operands
    else:
        place, offset, registers = operands
    at, names, count = address(place), vector(registers), int(name[2])
    reads = [source(text, "b32") for text in names]
    if len(names) != count or not offset.isdecimal():
        raise UnknownOpcodeError(f"{name[0]} {operands}")

    def step(block: Block, mask: Array | None) -> None:
        tensor, warps = block.tensor, whole_warps(block, mask)
        threads = block.thread[np.repeat(warps, WARP)]
        base, thread = at(block)[threads], threads % WARP
        if (base != np.repeat(base[::WARP], WARP)).any():
            raise Fault("tensor memory: expected one address of all threads of a warp")
        lane = base >> 16
        if (lane % HALF).any() or (lane // WARP != threads // WARP % QUARTERS).any():
            raise Fault("tensor memory: expected lanes of the warp's own quarter, from 0 or 16 on")
        column = (base & 0xFFFF) + (thread // HALF) * int(offset)
        cells = tensor.locate(lane + thread % HALF, column, count)
        tensor.check(cells, threads, write=name[1] == "st")
        if name[1] == "st":
            values = np.stack([full(block, read(block))[threads] for read in reads], 1)
            tensor.cells.write(cells, values, threads)
            tensor.filled[cells] = True
            tensor.transfers.append(Transfer(block.clock.time, False, warps, mask_of(cells)))
            return
        values = tensor.cells.read(cells, threads)
        for text, value in zip(names, values.T, strict=True):
            block.registers[text[1:]][threads] = value
        written = frozenset(text[1:] for text in names)
        tensor.transfers.append(Transfer(block.clock.time, True, warps, mask_of(cells), written))

    return step


@opcode(r"tcgen05\.wait::(ld|st)\.sync\.aligned")
def _wait(name: re.Match[str], operands: list[str]) -> Step:
    def step(block: Block, mask: Array | None) -> None:
        warps, left = whole_warps(block, mask), []
        for one in block.tensor.transfers:
            if one.load == (name[1] == "ld"):
                one = one._replace(warps=one.warps & ~warps)
            if one.warps.any():
                left.append(one)
            else:
                block.landed.append((one.time, block.clock.time))
        block.tensor.transfers = left

    return step
