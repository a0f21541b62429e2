"""Products of 10.0, `tcgen05.mma` of one thread: D in tensor memory, A there or in shared memory, B in the latter."""

from __future__ import annotations

import re

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.mbarriers import one_thread
from ptx_emulator.memory import WARP, Array, Fault
from ptx_emulator.program import Step, UnknownOpcodeError, address, full, opcode, source
from ptx_emulator.tensor_cores import operand, rounded, rows_of_k, tf32
from ptx_emulator.tensor_memory import Product, TensorMemory, mask_of
from ptx_emulator.tensor_transfers import HALF

M, K = 64, 8
NAME = "tcgen05.mma"


def columns_of_product(descriptor: int) -> int:
    """N of an instruction descriptor: a dense product of 64 rows of tf32, with sums of fp32 and nothing else.

    Bits 4, 5 are the type of D, 7 … 9 and 10 … 12 those of A and B, 17 … 22 are N / 8 and 24 … 28 M / 16. The others
    choose what no kernel uses: sparsity, saturation, negative or transposed matrices, and the reuse of B.
    """
    n = (descriptor >> 17 & 0x3F) * 8
    fp32, of_tf32 = 1 << 4, 2 << 7 | 2 << 10
    if descriptor != fp32 | of_tf32 | n // 8 << 17 | M // 16 << 24 or not 8 <= n <= 256:
        raise UnknownOpcodeError(f"{NAME} with instruction descriptor {descriptor:#x}")
    return n


def shared_matrix(descriptor: int, rows: int) -> Array:
    """Addresses [rows, 8] that a descriptor names: rows of K side by side in swizzled lines of 32, 64 or 128 bytes.

    Bits 0 … 13 are the start and 32 … 45 the distance of 8 rows, in 16 bytes. Bits 16 … 29, the distance along K, do
    not matter where lines are swizzled. Bits 46 … 48 are 1, and 61 … 63 the swizzle.
    """
    width = {2: 128, 4: 64, 6: 32}.get(descriptor >> 61, 0)
    meant = 0x3FFF | 0x3FFF << 32 | 1 << 16
    if not width or (descriptor & ~meant) != 1 << 46 | descriptor >> 61 << 61:
        raise UnknownOpcodeError(f"{NAME} with matrix descriptor {descriptor:#x}")
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    if start % (8 * width) + 4 * K > width or stride % (8 * width):
        raise Fault(f"shared address {start:#x}: expected {4 * K} bytes of the first of 8 rows")
    return rows_of_k(start, stride, width, rows)


def cells_of(tensor: TensorMemory, base: int, count: int) -> Array:
    """The cells [64, count] of a matrix of 64 rows: of each quarter's lanes it has 16, from lane 0 or 16 on."""
    if base >> 16 not in (0, HALF):
        raise Fault(f"tensor memory: expected a matrix from lane 0 or 16 on, got {base >> 16}")
    row = np.arange(M)
    lane = (base >> 16) + row // HALF * WARP + row % HALF
    return tensor.locate(lane, np.full(M, base & 0xFFFF), count)


def _free_of_races(tensor: TensorMemory, cells: Array, threads: Array, *, write: bool) -> None:
    """Raise a Fault if another warp stored or loaded since the last barrier, and note the access."""
    for marks in (tensor.cells.written, tensor.cells.reads) if write else (tensor.cells.written,):
        if of := marks.unordered(cells, threads[np.zeros(len(cells), int)]):
            raise Fault(f"tensor memory: expected a barrier after an access of another {of}")
    tensor.cells.note(write, cells, threads[np.zeros(len(cells), int)])


def _issue(
    block: Block, thread: int, into: int, left: tuple[bool, int], right: int, n: int, keep: bool
) -> None:
    """D = A B, added to D with `keep`. What is in flight may be an earlier sum in the same cells alone."""
    tensor, threads = block.tensor, np.array([thread])
    D = cells_of(tensor, into, n)
    result, reads = mask_of(D), np.zeros(tensor.filled.shape, bool)
    others = [
        one
        for one in tensor.products
        if one.thread != thread or not np.array_equal(one.result, result)
    ]
    words, B = operand(block, shared_matrix(right, n), NAME)
    in_tensor, place = left
    if in_tensor:
        if place >> 16 != into >> 16:
            raise Fault("tensor memory: expected A and D from the same lane on")
        cells = cells_of(tensor, place, K)
        if result[cells].any():
            raise Fault("tensor memory: expected A and D in different cells")
        tensor.check(cells, threads, write=False, among=others)
        _free_of_races(tensor, cells, threads, write=False)
        A, reads = tf32(tensor.cells.words[cells]), mask_of(cells)
    else:
        more, A = operand(block, shared_matrix(place, M), NAME)
        words = np.concatenate([words, more])
    exact = A @ B.T
    if keep:
        tensor.check(D, threads, write=False, among=others)
        exact = exact + tensor.cells.words[D].view(np.float32)
    tensor.check(D, threads, write=True, among=others)
    _free_of_races(tensor, D, threads, write=True)
    tensor.cells.words[D] = rounded(exact, block.truncate).view(np.uint32)
    tensor.filled[D] = True
    block.shared.read_by_all(words)
    seen = np.zeros(len(block.thread) // WARP, bool)
    tensor.products.append(Product(block.clock.time, thread, words, reads, result, seen))


@opcode(r"tcgen05\.mma\.cta_group::1\.kind::tf32")
def _mma(name: re.Match[str], operands: list[str]) -> Step:
    if len(operands) != 5:
        raise UnknownOpcodeError(f"{name[0]} {operands}")
    in_tensor = operands[1].startswith("[")
    into, right = address(operands[0]), source(operands[2], "u64")
    left = address(operands[1]) if in_tensor else source(operands[1], "u64")
    shape, keep = source(operands[3], "u32"), source(operands[4], "pred")

    def step(block: Block, mask: Array | None) -> None:
        thread = one_thread(block, mask)
        D, A, B, which, adds = (
            full(block, read(block))[thread] for read in (into, left, right, shape, keep)
        )
        n = columns_of_product(int(which))
        _issue(block, thread, int(D), (in_tensor, int(A)), int(B), n, bool(adds))

    return step
