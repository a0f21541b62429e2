"""Opcodes that move between registers, shared memory and global memory."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.memory import WARP, Array, Fault
from ptx_emulator.program import (  # fmt: skip
    TYPES,
    Step,
    UnknownOpcodeError,
    address,
    full,
    opcode,
    source,
    target,
    vector,
)


@opcode(r"ld\.param\.([bus](?:32|64)|f32)")
def _parameter(name: re.Match[str], operands: list[str]) -> Step:
    write, parameter = target(operands[0]), operands[1].strip("[]")

    def step(block: Block, mask: Array | None) -> None:
        write(block, block.arguments[parameter], mask)

    return step


def _chosen(block: Block, where: Array, mask: Array | None) -> tuple[Array, Array]:
    """The threads that take part, and their addresses."""
    threads = block.thread if mask is None else block.thread[mask]
    return threads, where[threads]


def _measure(
    block: Block, opcode: str, space: str, where: Array, size: int, threads: Array
) -> None:
    if block.measure and space == "global":
        block.counts.global_access(opcode, where, size, block.warp[threads])
    elif block.measure:
        block.counts.shared_access(opcode, where, size, threads)


@opcode(r"ld\.(global|shared)(?:\.v([24]))?\.([bus](?:8|16|32|64)|f32|f64)")
def _load(name: re.Match[str], operands: list[str]) -> Step:
    writes, at = [target(text) for text in vector(operands[0])], address(operands[1])
    size, unsigned = TYPES[name[3]].itemsize, np.dtype(f"u{TYPES[name[3]].itemsize}")
    if len(writes) != int(name[2] or 1) or (size < 4 and (name[2] or name[3][0] == "s")):
        raise UnknownOpcodeError(name[0])

    def step(block: Block, mask: Array | None) -> None:
        memory = block.memory if name[1] == "global" else block.shared
        threads, where = _chosen(block, at(block), mask)
        _measure(block, name[0], name[1], where, size * len(writes), threads)
        if size < 4:
            data = memory.read_part(where, size, threads)[:, None]
        else:
            words = memory.read(memory.locate(where, size * len(writes)), threads)
            data = np.ascontiguousarray(words).view(unsigned)
        for i, write in enumerate(writes):
            value = np.zeros(block.thread.shape, unsigned)
            value[threads] = data[:, i]
            write(block, value, mask)

    return step


@opcode(r"st\.(global|shared)(?:\.v([24]))?\.([bus](?:8|16|32|64)|f32|f64)")
def _store(name: re.Match[str], operands: list[str]) -> Step:
    size = TYPES[name[3]].itemsize
    at, reads = address(operands[0]), [source(text, f"b{8 * size}") for text in vector(operands[1])]
    if len(reads) != int(name[2] or 1):
        raise UnknownOpcodeError(name[0])

    def step(block: Block, mask: Array | None) -> None:
        memory = block.memory if name[1] == "global" else block.shared
        threads, where = _chosen(block, at(block), mask)
        _measure(block, name[0], name[1], where, size * len(reads), threads)
        values = [full(block, read(block))[threads] for read in reads]
        if size < 4:
            if ((where - memory.base) % (size * len(values))).any():
                raise Fault(f"expected addresses that are multiples of {size * len(values)}")
            for i, value in enumerate(values):
                memory.write_part(where + i * size, size, value, threads)
        else:
            words = memory.locate(where, size * len(reads))
            memory.write(words, np.stack(values, 1).view(np.uint32), threads)

    return step


def _rows(block: Block, where: Array, matrix: int) -> Array:
    """Addresses of the words that the threads hold of an 8 x 8 matrix of halves, whose rows 8 threads name."""
    lane = np.arange(WARP)
    rows = where.reshape(-1, WARP)[:, 8 * matrix : 8 * matrix + 8]
    if (rows % 16).any():
        raise Fault("shared: expected rows at multiples of 16")
    if block.measure:
        threads = np.repeat(np.arange(len(rows)) * 8, 8) + np.tile(np.arange(8), len(rows))
        block.counts.shared_access("matrix", rows.ravel(), 16, threads)
    return np.asarray(rows[:, lane >> 2] + 4 * (lane & 3)).ravel()


@opcode(r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])\.shared\.b16")
def _matrix(name: re.Match[str], operands: list[str]) -> Step:
    into, out = operands if name[1] == "ld" else operands[::-1]
    at, registers = address(out), vector(into)
    if len(registers) != int(name[2]):
        raise UnknownOpcodeError(name[0])
    writes, reads = ([make(text) for text in registers] for make in (target, _word))

    def step(block: Block, mask: Array | None) -> None:
        if mask is not None:
            raise Fault("expected all threads, got some")
        where = at(block)
        for i in range(len(registers)):
            words = block.shared.locate(_rows(block, where, i), 4)
            if name[1] == "ld":
                writes[i](block, block.shared.read(words, block.thread)[:, 0], None)
            else:
                block.shared.write(words, reads[i](block)[:, None], block.thread)

    return step


def _word(text: str):  # type: ignore[no-untyped-def]
    return source(text, "b32")


class Copy(NamedTuple):
    """Copies of 16 bytes that one instruction issued at `time`; threads without `words` of the source write zeros."""

    time: int
    words: Array
    sources: Array
    whole: Array
    threads: Array


@opcode(r"cp\.async\.cg\.shared\.global")
def _copy(name: re.Match[str], operands: list[str]) -> Step:
    into, out = address(operands[0]), address(operands[1])
    size = source(operands[3] if len(operands) > 3 else "16", "u32")
    if operands[2] != "0x10":
        raise UnknownOpcodeError(f"{name[0]} {operands}")

    def step(block: Block, mask: Array | None) -> None:
        threads, to = _chosen(block, into(block), mask)
        taken = full(block, size(block))[threads]
        if not np.isin(taken, (0, 16)).all():
            raise Fault("expected a copy of 0 or 16 bytes")
        whole = taken > 0
        origin = out(block)[threads][whole]
        words, sources = block.shared.locate(to, 16), block.memory.locate(origin, 16)
        _measure(block, name[0], "global", origin, 16, threads[whole])
        block.memory.read(sources, threads[whole])
        block.shared.check_write(words, threads)
        block.shared.written.set(words, threads)
        block.copies.append(Copy(block.clock.time, words, sources, whole, threads))

    return step


@opcode(r"cp\.async\.commit_group")
def _commit(name: re.Match[str], operands: list[str]) -> Step:
    def step(block: Block, mask: Array | None) -> None:
        block.copy_groups.append(block.copies)
        block.copies = []

    return step


@opcode(r"cp\.async\.wait_group")
def _wait(name: re.Match[str], operands: list[str]) -> Step:
    keep = int(operands[0])

    def step(block: Block, mask: Array | None) -> None:
        while len(block.copy_groups) > keep:
            for copy in block.copy_groups.pop(0):
                _land(block, copy)

    return step


def _land(block: Block, copy: Copy) -> None:
    """Write a copy's data. Between issue and wait nobody may touch its target or write to its source."""
    shared = block.shared
    if (block.memory.written.time[copy.sources] > copy.time).any():
        raise Fault("global: a warp writes what cp.async reads")
    if (shared.reads.time[copy.words] > copy.time).any():
        raise Fault("shared: a warp reads what cp.async writes")
    if (shared.written.time[copy.words] > copy.time).any():
        raise Fault("shared: a warp writes what cp.async writes")
    data = np.zeros(copy.words.shape, np.uint32)
    data[copy.whole] = block.memory.words[copy.sources]
    shared.words[copy.words] = data
    shared.written.set(copy.words, copy.threads)
    shared.note(True, copy.words, copy.threads)
    block.landed.append((copy.time, block.clock.time))


@opcode(r"bar\.warp\.sync")
def _warp_barrier(name: re.Match[str], operands: list[str]) -> Step:
    if operands != ["-1"]:
        raise UnknownOpcodeError(f"{name[0]} {operands}")

    def step(block: Block, mask: Array | None) -> None:
        if mask is not None:
            raise Fault("expected all threads, got some")
        block.clock.warp_epochs += 1

    return step


@opcode(r"fence\.proxy\.async\.shared::cta")
def _fence(name: re.Match[str], operands: list[str]) -> Step:
    def step(block: Block, mask: Array | None) -> None:
        block.fenced = block.clock.time

    return step
