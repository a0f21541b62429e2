"""Barriers in shared memory at which `tcgen05.commit` arrives, and the election of a thread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.memory import POISON, WARP, Array, Fault
from ptx_emulator.program import Step, UnknownOpcodeError, address, full, opcode, source, target
from ptx_emulator.tensor_transfers import whole_warps

CONTENT = 0xB0B0B0B0  # of a barrier's words; nobody may read them


class Commit(NamedTuple):
    """An arrival once the products that a `thread` issued before `time` are done."""

    time: int
    thread: int


@dataclass
class MBarrier:
    """A barrier of one arrival per phase, at `words` of shared memory since the time `made`.

    `coming` is the arrival that nobody has waited for, and `last` the one that ended the phase before.
    """

    words: Array
    made: int
    phase: int = 0
    coming: Commit | None = None
    last: Commit | None = None


def one_thread(block: Block, mask: Array | None) -> int:
    """The only thread that takes part."""
    threads = block.thread if mask is None else block.thread[mask]
    if len(threads) != 1:
        raise Fault(f"expected one thread, got {len(threads)}")
    return int(threads[0])


def _same(values: Array) -> int:
    if (values != values[0]).any():
        raise Fault("expected one mbarrier and one phase of all threads")
    return int(values[0])


def _barrier(block: Block, at: int, threads: Array) -> MBarrier:
    """The barrier at an address, which nobody has overwritten and which `threads` may know of."""
    found = block.mbarriers.get(at)
    if found is None or (block.shared.written.time[found.words] != found.made).any():
        raise Fault(f"shared address {at:#x}: expected an mbarrier")
    words = np.broadcast_to(found.words, (len(threads), 2))
    if of := block.shared.written.unordered(words, threads):
        raise Fault(f"shared: a {of} uses an mbarrier that another made since the last barrier")
    return found


@opcode(r"mbarrier\.init\.shared::cta\.b64")
def _make(name: re.Match[str], operands: list[str]) -> Step:
    at = address(operands[0])
    if operands[1:] != ["1"]:
        raise UnknownOpcodeError(f"{name[0]} {operands}")

    def step(block: Block, mask: Array | None) -> None:
        threads = np.array([one_thread(block, mask)])
        where = at(block)[threads]
        words = block.shared.locate(where, 8)
        if int(where[0]) in block.mbarriers:
            raise Fault("expected mbarrier.inval before another mbarrier.init")
        block.shared.write(words, np.full((1, 2), CONTENT, np.uint32), threads)
        block.mbarriers[int(where[0])] = MBarrier(words[0], block.clock.time)

    return step


@opcode(r"mbarrier\.inval\.shared::cta\.b64")
def _unmake(name: re.Match[str], operands: list[str]) -> Step:
    at = address(operands[0])

    def step(block: Block, mask: Array | None) -> None:
        threads = np.array([one_thread(block, mask)])
        where = int(at(block)[threads[0]])
        barrier = _barrier(block, where, threads)
        if barrier.coming:
            raise Fault("expected a wait for the arrival before mbarrier.inval")
        block.shared.write(barrier.words[None], np.full((1, 2), POISON, np.uint32), threads)
        del block.mbarriers[where]

    return step


@opcode(r"tcgen05\.commit\.cta_group::1\.mbarrier::arrive::one\.shared::cluster\.b64")
def _commit(name: re.Match[str], operands: list[str]) -> Step:
    at = address(operands[0])

    def step(block: Block, mask: Array | None) -> None:
        thread = one_thread(block, mask)
        barrier = _barrier(block, int(at(block)[thread]), np.array([thread]))
        if barrier.coming:
            raise Fault("expected a wait for a phase before the arrival of the next")
        barrier.coming = Commit(block.clock.time, thread)

    return step


@opcode(r"mbarrier\.try_wait\.parity\.shared::cta\.b64")
def _wait(name: re.Match[str], operands: list[str]) -> Step:
    """True once the phase of a parity is over. It is the current one, or the one before it."""
    done, at, parity = target(operands[0]), address(operands[1]), source(operands[2], "u32")

    def step(block: Block, mask: Array | None) -> None:
        threads = block.thread if mask is None else block.thread[mask]
        barrier = _barrier(block, _same(at(block)[threads]), threads)
        block.shared.read(np.broadcast_to(barrier.words, (len(threads), 2)), threads)
        awaited = _same(full(block, parity(block))[threads])
        if awaited not in (0, 1):
            raise Fault(f"expected a parity of 0 or 1, got {awaited}")
        if barrier.phase % 2 == awaited and barrier.coming:
            # The arrival comes at the latest possible moment.
            barrier.phase, barrier.last, barrier.coming = barrier.phase + 1, barrier.coming, None
        over = barrier.phase % 2 != awaited
        if over and barrier.last:
            _see(block, barrier.last, whole_warps(block, mask))
        done(block, np.full(block.thread.shape, over), mask)

    return step


def _see(block: Block, commit: Commit, warps: Array) -> None:
    """The products before a commit are done for `warps`. Until the first wait nobody may write what they read."""
    for product in block.tensor.products:
        if product.thread != commit.thread or product.time > commit.time:
            continue
        if not product.seen.any():
            if (block.shared.written.time[product.words] > product.time).any():
                raise Fault("shared: a warp writes what tcgen05.mma reads")
            block.shared.read_by_all(product.words)
            block.landed.append((product.time, block.clock.time))
        block.tensor.see(product, warps)


@opcode(r"elect\.sync")
def _elect(name: re.Match[str], operands: list[str]) -> Step:
    """The last thread of each warp, since nobody may rely on which it is."""
    lane, chosen = (target(text) for text in operands[0].split("|"))
    if operands[1:] != ["-1"]:
        raise UnknownOpcodeError(f"{name[0]} {operands}")

    def step(block: Block, mask: Array | None) -> None:
        whole_warps(block, mask)
        lane(block, np.full(block.thread.shape, WARP - 1, np.uint32), mask)
        chosen(block, block.thread % WARP == WARP - 1, mask)

    return step
