"""Take one synchronisation out of a compiled kernel, run what is left, and say who notices or why nobody does.

A removal is caught by a `Fault`, or by a result of other bits. The reasons for which a removal may stay unnoticed are
computed from the accesses of the launch, as `REASONS` defines them, so each is a proof for this launch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ptx_emulator.block import Block, Trace
from ptx_emulator.launch import Pointer, Prepared, launch
from ptx_emulator.memory import WARP, Access, Array, Fault
from ptx_emulator.program import Instruction, Program, target

SYNCHRONISATION = re.compile(
    r"bar(\.warp)?\.sync|barrier\..*|cp\.async\.(commit|wait)_group|mbarrier\.(?!init|inval).*|fence\..*|membar\..*"
    r"|wgmma\.(fence|commit_group|wait_group)\.sync\.aligned|tcgen05\.(wait|commit|fence).*"
)
REASONS = {
    "nothing before": "no access lies between the barrier before and this one",
    "nothing after": "no access lies between this barrier and the next",
    "only reads": "no access between the barriers before and after it is a write",
    "other words": "no word is touched on both sides of it and written on one",
    "own words": "each such word belongs to one thread, or to one warp with a barrier of its own",
    "same wait": "its copies or products end at the same waits without it",
    "nothing in flight": "all copies and products that it waits for have ended",
    "ends unused": "its copies or products end at a later wait, and nobody touches them until then",
    "earlier fence": "the products that follow read nothing that was touched since the fence before",
    "at the end": "caught, but only because the program ends with copies or products in flight",
    "not executed": "the launch does not reach it",
}
END = "end of the program"


class Removal(NamedTuple):
    """The `place` of an instruction among a program's synchronisations, and the fault or the reason that was found."""

    place: int
    opcode: str
    fault: str
    reason: str


def synchronisations(program: Program) -> list[int]:
    """The positions of the instructions that can be removed."""
    listed = enumerate(program.instructions)
    return [at for at, one in listed if SYNCHRONISATION.fullmatch(one.opcode)]


class Moment(NamedTuple):
    """A time, and the intervals between barriers and between barriers of warps that it lies in."""

    epoch: int
    warp_epoch: int
    time: int


def without(program: Program, at: int) -> tuple[Program, list[Moment]]:
    """The program without instruction `at`, and a list that gets the moments at which it would have executed."""
    passed: list[Moment] = []
    instructions = list(program.instructions)
    old = instructions[at]
    # Without a wait for an mbarrier, the loop around it ends at once.
    over = target(old.operands[0] if old.opcode.startswith("mbarrier.try_wait") else "_")

    def step(block: Block, mask: Array | None) -> None:
        clock = block.clock
        passed.append(Moment(clock.epoch, int(clock.warp_epochs[0]), clock.time))
        over(block, np.full(block.thread.shape, True), mask)

    instructions[at] = Instruction(f"(removed) {old.text}", "removed", [], old.guard, step)
    return replace(program, instructions=instructions), passed


class Bench:
    """A launch that runs again and again on the same numbers."""

    def __init__(self, one: Prepared) -> None:
        self.one, self.program = one, one.kernel.program
        self.allocations = {
            given.start: given.allocation for given in one.arguments if isinstance(given, Pointer)
        }
        self.given = [value.copy() for value in self.allocations.values()]
        # The whole program, with no instruction removed.
        self.whole = Trace()
        self.expected = self.run(self.program, self.whole)

    def run(self, program: Program, trace: Trace | None = None) -> list[bytes]:
        """The content of all allocations after a run."""
        for allocation, content in zip(self.allocations.values(), self.given, strict=True):
            allocation[...] = content
        launch(
            program, self.one.arguments, self.one.blocks, shared=self.one.kernel.shared, trace=trace
        )
        return [allocation.tobytes() for allocation in self.allocations.values()]

    def remove(self, at: int) -> tuple[str, set[str]]:
        """What a run without the instruction `at` shows: a fault and no reason, or no fault and the reasons."""
        opcode = self.program.instructions[at].opcode
        program, passed = without(self.program, at)
        trace = Trace()
        try:
            if self.run(program, trace) != self.expected:
                return "another result", set()
        except Fault as fault:
            return str(fault), set()
        if not passed:
            return "", set()
        if "fence" in opcode:
            return "", {"earlier fence"}
        if opcode.startswith("bar"):
            return "", {_around(trace.accesses, one, "warp" in opcode) for one in passed}
        if trace.landed != self.whole.landed:
            return "", {"ends unused"}
        return "", {"nothing in flight" if "wait" in opcode else "same wait"}


def remove(benches: Sequence[Bench], place: int) -> Removal:
    """Run launches of one program without its synchronisation number `place`, until one of them shows a fault."""
    program = benches[0].program
    at = synchronisations(program)[place]
    opcode = program.instructions[at].opcode
    at_end, found = "", set[str]()
    for bench in benches:
        fault, reasons = bench.remove(at)
        if fault and not fault.startswith(END):
            # The fault without the instruction that met it.
            return Removal(place, opcode, fault.partition(": ")[2] or fault, "")
        at_end = at_end or fault
        found |= reasons
    if at_end:
        return Removal(place, opcode, at_end, "at the end")
    return Removal(place, opcode, "", ", ".join(sorted(found)) or "not executed")


def _around(accesses: Iterable[Access], moment: Moment, of_warp: bool) -> str:
    """Why a barrier at a moment is not missed in the interval that its removal made of two."""
    here = [
        one
        for one in accesses
        if one.epoch == moment.epoch and (not of_warp or one.warp_epoch == moment.warp_epoch)
    ]
    before = [one for one in here if one.time < moment.time]
    after = [one for one in here if one.time > moment.time]
    if not before or not after:
        return "nothing after" if before else "nothing before"
    if not any(one.writes for one in here):
        return "only reads"
    written, touched = (
        [_words(side, only_writes, of_warp) for side in (before, after)]
        for only_writes in (True, False)
    )
    crossed = written[0] & touched[1] or touched[0] & written[1]
    return "own words" if crossed else "other words"


def _words(accesses: Iterable[Access], only_writes: bool, of_warp: bool) -> set[tuple[str, int]]:
    """The words of the accesses by memory; the same word of two warps counts as two if `of_warp`."""
    found: dict[str, set[int]] = {}
    for one in accesses:
        if one.writes or not only_writes:
            words = one.words + (one.threads[:, None] // WARP << 40 if of_warp else 0)
            found.setdefault(one.memory, set()).update(np.unique(words).tolist())
    return {(memory, word) for memory, words in found.items() for word in words}
