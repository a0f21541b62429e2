"""Opcodes of tensor memory: its allocation, and the loads and stores of warps, which are asynchronous.

An address is lane << 16 | column. Warp w reaches the lanes 32 (w % 4) … 32 (w % 4) + 31.
"""

from __future__ import annotations

import re

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.memory import WARP, Array, Fault
from ptx_emulator.program import Step, UnknownOpcodeError, address, full, opcode, source, vector
from ptx_emulator.tensor_memory import Transfer, mask_of

QUARTERS, HALF = 4, 16


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
