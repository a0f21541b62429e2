"""Products of tensor cores: `mma` of a warp, and `wgmma` of four warps, which reads shared memory asynchronously."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.memory import POISON, WARP, Array, Fault
from ptx_emulator.program import Step, UnknownOpcodeError, full, opcode, source, target, vector

GROUP = 4  # warps that make a wgmma
# Tensor cores read the 19 highest bits of a TF32 number.
TF32 = np.uint32(0xFFFFE000)
_ROW, _COLUMN = np.arange(WARP) >> 2, np.arange(WARP) & 3
# Row and column of the entry of A [16, 8], B [8, 8] and D [16, n] that each thread of a warp has in register j.
A_PLACES = [(_ROW + 8 * (j % 2), _COLUMN + 4 * (j // 2)) for j in range(4)]
B_PLACES = [(_COLUMN + 4 * j, _ROW) for j in range(2)]


def _d_place(j: int) -> tuple[Array, Array]:
    return _ROW + 8 * (j % 4 // 2), 8 * (j // 4) + 2 * _COLUMN + j % 2


def rounded(exact: Array, truncate: bool) -> Array:
    """fp64 sums as fp32, rounded to nearest or, with `truncate`, towards zero."""
    single = exact.astype(np.float32)
    if not truncate:
        return single
    over = np.isfinite(exact) & (np.abs(single.astype(np.float64)) > np.abs(exact))
    return np.where(over, np.nextafter(single, np.float32(0)), single)


def tf32(words: Array) -> Array:
    """The numbers that tensor cores make of words."""
    return (words & TF32).view(np.float32).astype(np.float64)


def _matrix(
    values: Sequence[Array], places: Sequence[tuple[Array, Array]], shape: tuple[int, int]
) -> Array:
    """A matrix per warp, [warps, *shape], of the registers `values` of all threads."""
    matrix = np.zeros((len(values[0]) // WARP, *shape))
    for value, (row, column) in zip(values, places, strict=True):
        matrix[:, row, column] = value.reshape(-1, WARP)
    return matrix


@opcode(r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32\.tf32\.f32")
def _mma(name: re.Match[str], operands: list[str]) -> Step:
    d, a, b, c = (vector(text) for text in operands)
    writes = [target(text) for text in d]
    reads = [[source(text, "b32") for text in texts] for texts in (a, b)]
    adds = [source(text, "f32") for text in c]
    places = [_d_place(j) for j in range(4)]

    def step(block: Block, mask: Array | None) -> None:
        if mask is not None:
            raise Fault("expected all threads, got some")
        A, B = (
            _matrix([tf32(read(block)) for read in own], where, shape)
            for own, where, shape in zip(
                reads, (A_PLACES, B_PLACES), ((16, 8), (8, 8)), strict=True
            )
        )
        C = _matrix([full(block, add(block)) for add in adds], places, (16, 8))
        D = rounded(A @ B + C, block.truncate)
        for write, (row, column) in zip(writes, places, strict=True):
            write(block, np.ascontiguousarray(D[:, row, column]).ravel(), None)

    return step


class Product(NamedTuple):
    """A wgmma in flight: when it was issued, the words and registers that it reads, and those that it will write."""

    time: int
    words: Array
    fragments: frozenset[str]
    results: dict[str, Array]


def rows_of_k(start: int, stride: int, width: int, rows: int) -> Array:
    """Addresses [rows, 8] of tf32 numbers, rows of K side by side in lines of `width` bytes, which are swizzled.

    `stride` bytes lie between 8 rows and the next 8.
    """
    row, k = np.arange(rows)[:, None], np.arange(8)[None]
    plain = start + row // 8 * stride + row % 8 * width + 4 * k
    return np.asarray(plain ^ ((plain >> 7 & width // 16 - 1) << 4))


def operand(block: Block, addresses: Array, reader: str) -> tuple[Array, Array]:
    """The words of shared memory at `addresses` that a tensor core reads asynchronously, and their numbers."""
    shared = block.shared
    place = shared.locate(addresses.ravel(), 4)[:, 0]
    if (shared.written.epoch[place] == block.clock.epoch).any():
        raise Fault(f"shared: {reader} reads what was written since the last barrier")
    if (shared.written.time[place] > block.fenced).any():
        raise Fault(f"shared: {reader} reads what was written since the last fence.proxy.async")
    return place, tf32(shared.words[place]).reshape(addresses.shape)


def _fetch(block: Block, descriptors: Array, rows: int, words: list[Array]) -> Array:
    """The matrices [groups, rows, 8] that each group's descriptor names; `words` gains what was read."""
    found = []
    for descriptor in map(int, descriptors[:: GROUP * WARP]):
        width = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62 & 3, 0)
        if not width or descriptor >> 49 & 7:
            raise UnknownOpcodeError(f"wgmma with descriptor {descriptor:#x}")
        start, stride = (descriptor & 0x3FFF) << 4, ((descriptor >> 32) & 0x3FFF) << 4
        place, matrix = operand(block, rows_of_k(start, stride, width, rows), "wgmma")
        words.append(place)
        found.append(matrix)
    return np.stack(found)


def _left(text: str) -> Callable[[Block, list[Array]], Array]:
    """A reader of A, [warps, 16, 8], from registers or from shared memory."""
    if text.startswith("{"):
        reads = [source(one, "b32") for one in vector(text)]
        return lambda block, words: _matrix([tf32(r(block)) for r in reads], A_PLACES, (16, 8))
    descriptor = source(text, "b64")
    return lambda block, words: _fetch(block, descriptor(block), 64, words).reshape(-1, 16, 8)


@opcode(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k8\.f32\.tf32\.tf32")
def _wgmma(name: re.Match[str], operands: list[str]) -> Step:
    d, a, b, keep, *signs = operands
    if signs != ["1", "1"]:
        raise UnknownOpcodeError(f"wgmma with signs {signs}")
    n, names = int(name[1]), [text[1:] for text in vector(d)]
    places = [_d_place(j) for j in range(len(names))]
    left, right, added = _left(a), source(b, "b64"), source(keep, "pred")
    fragments = frozenset(text[1:] for text in vector(a) if a.startswith("{"))

    def step(block: Block, mask: Array | None) -> None:
        touched = max(block.touched.get(name, 0) for name in (*names, *fragments))
        if mask is not None or block.registers_fenced < touched:
            raise Fault("expected all threads, after wgmma.fence")
        block.check_registers(fragments, frozenset())
        words: list[Array] = []
        A = left(block, words)
        B = np.repeat(_fetch(block, right(block), n, words), GROUP, axis=0)
        pending = {k: v for one in block.products() for k, v in one.results.items()}
        exact = A @ B.swapaxes(1, 2)
        keeps = full(block, added(block))
        if keeps.any():
            sums = [pending.get(k, block.registers[k]).view(np.float32) for k in names]
            earlier = _matrix(sums, places, (16, n))
            exact = exact + np.where(keeps[::WARP, None, None], earlier, 0.0)
        D = rounded(exact, block.truncate)
        results = {
            k: np.ascontiguousarray(D[:, row, column]).ravel().view(np.uint32)
            for k, (row, column) in zip(names, places, strict=True)
        }
        for k in names:
            # A program that reads a sum before it waits gets this NaN.
            block.registers[k][...] = POISON
        read = np.concatenate(words)
        block.shared.read_by_all(read)
        block.reads.append(Product(block.clock.time, read, fragments, results))

    return step


@opcode(r"wgmma\.(fence|commit_group|wait_group)\.sync\.aligned")
def _order(name: re.Match[str], operands: list[str]) -> Step:
    keep = int(operands[0]) if operands else 0

    def step(block: Block, mask: Array | None) -> None:
        if name[1] == "fence":
            block.registers_fenced = block.clock.time
        elif name[1] == "commit_group":
            block.read_groups.append(block.reads)
            block.reads = []
        else:
            while len(block.read_groups) > keep:
                for product in block.read_groups.pop(0):
                    _finish(block, product)

    return step


def _finish(block: Block, product: Product) -> None:
    if (block.shared.written.time[product.words] > product.time).any():
        raise Fault("shared: a warp writes what wgmma reads")
    block.shared.read_by_all(product.words)
    block.landed.append((product.time, block.clock.time))
    for name, value in product.results.items():
        block.registers[name][...] = value
